// future_type: the class pyconc.Future, its life and its methods.
#ifndef PYCONC_FUTURE_TYPE_H
#define PYCONC_FUTURE_TYPE_H

#include "base/state.h"

extern PyType_Spec future_spec;

// A pending future.
PyObject *future_new(module_state *state);

// Called before a full collection: tracks the futures to which object.__setattr__() has given attributes.
void future_track_attributes(module_state *state);

#endif
