// process_control: the system calls by which pyconc's processes begin, and end with their parent.
#ifndef PYCONC_PROCESS_CONTROL_H
#define PYCONC_PROCESS_CONTROL_H

#include "base/compat.h"

// Functions of the module pyconc._core.
extern PyMethodDef process_control_methods[];

#endif
