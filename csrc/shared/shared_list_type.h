// shared_list_type: pyconc.shared.List, as far as it is not written in Python.
#ifndef PYCONC_SHARED_LIST_TYPE_H
#define PYCONC_SHARED_LIST_TYPE_H

#include "base/compat.h"

// Derives from the type of shared_cell.h.
extern PyType_Spec shared_list_spec;

#endif
