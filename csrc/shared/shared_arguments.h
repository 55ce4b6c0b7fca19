// shared_arguments: the arguments of methods that programs call as often as they take a lock.
#ifndef PYCONC_SHARED_ARGUMENTS_H
#define PYCONC_SHARED_ARGUMENTS_H

#include "base/compat.h"

// Reads what a METH_FASTCALL | METH_KEYWORDS method was given, by position or by one of the names: values[i],
// borrowed, is that of names[i], NULL if it was left out.  0, or -1 with a TypeError in the interpreter's
// words.
int shared_read_arguments(const char *method, const char *const *names, Py_ssize_t count,
                          PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, PyObject **values);

#endif
