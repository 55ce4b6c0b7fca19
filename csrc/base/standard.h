// standard: which methods of a standard class the program has replaced.
//
// Tracers and tests replace methods of concurrent.futures' classes, and expect that to change every executor
// and every future. pyconc's classes derive from those but override their methods, so each of its methods
// first looks whether the one that it overrides has been replaced, and if so calls the replacement instead.
//
// The look is one comparison: CPython gives a type a new version tag when it, or one of its bases, has
// changed.  Only then are the methods compared one by one.
//
// Every function here is called with the GIL, which guards all fields.
#ifndef PYCONC_STANDARD_H
#define PYCONC_STANDARD_H

#include "compat.h"

typedef struct standard_class {
    PyTypeObject *type;    // NULL until it is watched
    PyObject *originals;   // dict: name -> the class's original method; None: unknown
    unsigned int version;  // the type's version tag at the last look; 0: none
    bool is_replaced;      // whether, at the last look, any of them was another
} standard_class;

// Begins to watch a class, for the names in the dict `originals`.  Borrows both.
void standard_class_watch(standard_class *self, PyTypeObject *type, PyObject *originals);

// Compares the methods with the originals.
bool standard_class_look(standard_class *self);

// Whether any of the methods has been replaced.
static inline bool
standard_is_replaced(standard_class *self)
{
    if (self->type == NULL) {
        return false;
    }
    if (self->version != 0 && self->version == type_version(self->type)) {
        return self->is_replaced;
    }
    return standard_class_look(self);
}

// Calls what the class has for a method now, on `op`; the result, or NULL with an exception, in *result.
// False if the class has the original, which is called only with `original_too`: nothing was called.
bool standard_call(standard_class *self, bool original_too, const char *name, PyObject *op,
                   PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, PyObject **result);

#endif
