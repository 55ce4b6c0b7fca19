#include "shared_arguments.h"

int
shared_read_arguments(const char *method, const char *const *names, Py_ssize_t count, PyObject *const *args,
                      Py_ssize_t nargs, PyObject *kwnames, PyObject **values)
{
    if (nargs > count) {
        PyErr_Format(PyExc_TypeError, "%s() takes at most %zd argument%s (%zd given)", method, count,
                     count == 1 ? "" : "s", nargs);
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        values[i] = i < nargs ? args[i] : NULL;
    }
    for (Py_ssize_t i = 0; kwnames != NULL && i < PyTuple_GET_SIZE(kwnames); i++) {
        PyObject *keyword = PyTuple_GET_ITEM(kwnames, i);
        Py_ssize_t place = 0;
        while (place < count && PyUnicode_CompareWithASCIIString(keyword, names[place]) != 0) {
            place++;
        }
        if (place == count) {
            PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument '%U'", method, keyword);
            return -1;
        }
        if (values[place] != NULL) {
            PyErr_Format(PyExc_TypeError, "%s() got multiple values for argument '%U'", method, keyword);
            return -1;
        }
        values[place] = args[nargs + i];
    }
    return 0;
}
