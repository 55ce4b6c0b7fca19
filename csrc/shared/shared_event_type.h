// shared_event_type: pyconc.shared.Event, as far as it is not written in Python.
#ifndef PYCONC_SHARED_EVENT_TYPE_H
#define PYCONC_SHARED_EVENT_TYPE_H

#include "base/compat.h"

// Derives from the type of shared_cell.h.
extern PyType_Spec shared_event_spec;

#endif
