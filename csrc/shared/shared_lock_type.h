// shared_lock_type: pyconc.shared.Lock and RLock, as far as they are not written in Python.
#ifndef PYCONC_SHARED_LOCK_TYPE_H
#define PYCONC_SHARED_LOCK_TYPE_H

#include "base/compat.h"

// Derives from the type of shared_cell.h.
extern PyType_Spec shared_lock_spec;

#endif
