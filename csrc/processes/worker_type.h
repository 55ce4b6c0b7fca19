// worker_type: the Python type pyconc._core.Worker: how a worker's end is made and ends, and its methods.
#ifndef PYCONC_WORKER_TYPE_H
#define PYCONC_WORKER_TYPE_H

#include "base/compat.h"

extern PyType_Spec worker_spec;

#endif
