// process_state: what a process may do and use, as the kernel tells it, for pyconc/_process/process_state.py.
//
// To start a worker is to look at all this, on the way to a first result.  It is in C because a program that
// has just forked copies each page that Python writes to.
#ifndef PYCONC_PROCESS_STATE_H
#define PYCONC_PROCESS_STATE_H

#include "base/compat.h"

// Functions of the module pyconc._core.
extern PyMethodDef process_state_methods[];

#endif
