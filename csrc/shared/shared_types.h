// shared_types: pyconc.shared's objects, as far as they are not written in Python.
//
// Each is a handle: a cell of a heap that processes share, see core/shared_heap.h.  A heap stays mapped as
// long as the process has cells of it, so handles refer to nothing else.  Whatever waits releases the GIL
// meanwhile and lets handlers of signals run; but for the heap's own lock, which is held for a microsecond.
#ifndef PYCONC_SHARED_TYPES_H
#define PYCONC_SHARED_TYPES_H

#include "base/state.h"

extern PyType_Spec shared_heap_spec;
extern PyType_Spec shared_cell_spec;
// These derive from the type of that:
extern PyType_Spec shared_lock_spec;
extern PyType_Spec shared_semaphore_spec;
extern PyType_Spec shared_event_spec;
extern PyType_Spec shared_condition_spec;
extern PyType_Spec shared_number_spec;

#endif
