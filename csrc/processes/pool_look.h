// pool_look: what an executor of another program does, as its shared memory tells, for python -m pyconc dump.
#ifndef PYCONC_POOL_LOOK_H
#define PYCONC_POOL_LOOK_H

#include "base/compat.h"

extern PyMethodDef pool_look_methods[];

#endif
