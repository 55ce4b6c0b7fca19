// shared_semaphore_type: pyconc.shared.Semaphore and BoundedSemaphore, as far as they are not written in
// Python.
#ifndef PYCONC_SHARED_SEMAPHORE_TYPE_H
#define PYCONC_SHARED_SEMAPHORE_TYPE_H

#include "base/compat.h"

// Derives from the type of shared_cell.h.
extern PyType_Spec shared_semaphore_spec;

#endif
