// shared_types: pyconc.shared's locks, events and numbers, as far as they are not written in Python.
#ifndef PYCONC_SHARED_TYPES_H
#define PYCONC_SHARED_TYPES_H

#include "base/compat.h"

extern PyType_Spec shared_outcome_spec;
extern PyType_Spec shared_watch_spec;
// These derive from the type of shared_cell.h:
extern PyType_Spec shared_lock_spec;
extern PyType_Spec shared_semaphore_spec;
extern PyType_Spec shared_event_spec;
extern PyType_Spec shared_condition_spec;
extern PyType_Spec shared_number_spec;

#endif
