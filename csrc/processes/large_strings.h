// large_strings: the large bytes, bytearrays and strs in what is to be pickled.
//
// They go beside the pickle, as buffers of which the receiver makes such objects before it unpickles
// anything; see codec.h.  They are looked for in the containers around them.  Called with the GIL.
#ifndef PYCONC_LARGE_STRINGS_H
#define PYCONC_LARGE_STRINGS_H

#include "base/state.h"

// Finds the large strings, of exactly these types, that an object is or has in it: a dict of the id of each
// to (its number, the string), which is a pickler's memo; or NULL if there are none.  0, or -1 with an
// exception.
int large_strings_find(PyObject *object, PyObject **found);

#endif
