// method: a method of a C type that says which module it is from, as one of a class written in Python does.
//
// A method_descriptor has no __module__, and takes none.
#ifndef PYCONC_METHOD_H
#define PYCONC_METHOD_H

#include "base/state.h"

extern PyType_Spec method_spec;

// Puts such a method in the place of a method_descriptor of the type, whose function takes its arguments by
// METH_FASTCALL and METH_KEYWORDS.  0, or -1 with an exception.
int method_replace(module_state *state, PyTypeObject *type, const char *name);

#endif
