// shared_list_type: pyconc.shared.List, as far as it is not written in Python.
//
// An item is None, a bool or an int of 62 bits, and then the list's word for it; or what scalars.h says; or a
// pickle of its own.  Values are pickled before the list's lock is taken, and made of copied bytes after it
// is released.
#ifndef PYCONC_SHARED_LIST_TYPE_H
#define PYCONC_SHARED_LIST_TYPE_H

#include "base/compat.h"

// Derives from the type of shared_cell.h.
extern PyType_Spec shared_list_spec;

#endif
