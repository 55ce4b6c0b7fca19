// shared_dict_type: pyconc.shared.Dict, as far as it is not written in Python.  Its values are the items of
// shared_value.h, and so are its keys, as they come out again.
//
// A key is found by bytes that are the same for all keys that are equal, in all processes of a program.  They
// are those of its plain form: an int for True and 1.0, a tuple of plain forms for a tuple, and so on.  Plain
// scalars, and a tuple of them, get theirs here; for all else the class has _plain_key(key).  Small ones are
// written as items are.  A long str or bytes is a tag and its bytes; whatever is left, a tag and what marshal
// writes of it, in a version of its format that has no references.
#ifndef PYCONC_SHARED_DICT_TYPE_H
#define PYCONC_SHARED_DICT_TYPE_H

#include "base/compat.h"

// Derives from the type of shared_cell.h.
extern PyType_Spec shared_dict_spec;

#endif
