// shared_condition_type: pyconc.shared.Condition, as far as it is not written in Python.
#ifndef PYCONC_SHARED_CONDITION_TYPE_H
#define PYCONC_SHARED_CONDITION_TYPE_H

#include "base/compat.h"

// Derives from the type of shared_cell.h.
extern PyType_Spec shared_condition_spec;

#endif
