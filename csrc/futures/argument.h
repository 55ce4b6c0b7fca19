// argument: the one argument that a method of a future takes.
#ifndef PYCONC_ARGUMENT_H
#define PYCONC_ARGUMENT_H

#include "base/compat.h"

// Raises a TypeError for what argument_parse() cannot take, in the interpreter's words for a Python method.
void argument_refuse(const char *method, const char *name, PyObject *fallback, Py_ssize_t nargs,
                     PyObject *kwnames);

// Parses the argument, given by position or by name; borrowed.  If it has no default, leaving it out is an
// error.
static inline PyObject *
argument_parse(const char *method, const char *name, PyObject *fallback, PyObject *const *args,
               Py_ssize_t nargs, PyObject *kwnames)
{
    Py_ssize_t keywords = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    if (nargs + keywords == 0 && fallback != NULL) {
        return fallback;
    }
    if (nargs + keywords == 1
        && (nargs == 1 || PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(kwnames, 0), name) == 0)) {
        return args[0];
    }
    argument_refuse(method, name, fallback, nargs, kwnames);
    return NULL;
}

#endif
