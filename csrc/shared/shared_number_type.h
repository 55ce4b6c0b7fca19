// shared_number_type: pyconc.shared.Value and Counter, as far as they are not written in Python.
//
//
// One 64-bit word, of which the typecode says how much counts and as what.  Each change is one atomic step,
// so there is nothing to repair.
#ifndef PYCONC_SHARED_NUMBER_TYPE_H
#define PYCONC_SHARED_NUMBER_TYPE_H

#include "base/compat.h"

// Derives from the type of shared_cell.h.
extern PyType_Spec shared_number_spec;

#endif
