// shared_queue_type: pyconc.shared.Queue, as far as it is not written in Python.
#ifndef PYCONC_SHARED_QUEUE_TYPE_H
#define PYCONC_SHARED_QUEUE_TYPE_H

#include "base/compat.h"

// Derives from the type of shared_cell.h.
extern PyType_Spec shared_queue_spec;

#endif
