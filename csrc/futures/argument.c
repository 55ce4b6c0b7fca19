#include "argument.h"

void
argument_refuse(const char *method, const char *name, PyObject *fallback, Py_ssize_t nargs,
                PyObject *kwnames)
{
    Py_ssize_t keywords = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    for (Py_ssize_t i = 0; i < keywords; i++) {
        PyObject *keyword = PyTuple_GET_ITEM(kwnames, i);
        if (PyUnicode_CompareWithASCIIString(keyword, name) != 0) {
            PyErr_Format(PyExc_TypeError, "Future.%s() got an unexpected keyword argument '%U'", method,
                         keyword);
            return;
        }
    }
    if (nargs > 0 && keywords > 0) {
        PyErr_Format(PyExc_TypeError, "Future.%s() got multiple values for argument '%s'", method, name);
    }
    else if (nargs == 0) {
        PyErr_Format(PyExc_TypeError, "Future.%s() missing 1 required positional argument: '%s'", method,
                     name);
    }
    else {  // The future itself counts.
        PyErr_Format(PyExc_TypeError, "Future.%s() takes %s positional arguments but %zd were given", method,
                     fallback == NULL ? "2" : "from 1 to 2", nargs + 1);
    }
}
