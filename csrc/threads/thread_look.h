// thread_look: what pools of threads of another program do, as its table tells, for python -m pyconc dump.
#ifndef PYCONC_THREAD_LOOK_H
#define PYCONC_THREAD_LOOK_H

#include "base/compat.h"

extern PyMethodDef thread_look_methods[];

#endif
