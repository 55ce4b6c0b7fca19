#include "class_builder.h"

// Calls the original with other bases.
static PyObject *
build_with_bases(PyObject *original, PyObject *bases, PyObject *const *args, Py_ssize_t nargs,
                 PyObject *kwnames)
{
    PyObject *result = NULL;
    PyObject *all = PyTuple_New(2 + PyTuple_GET_SIZE(bases));
    PyObject *kwargs = PyDict_New();
    Py_ssize_t names = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    if (all == NULL || kwargs == NULL) {
        goto done;
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(all); i++) {
        PyTuple_SET_ITEM(all, i, Py_NewRef(i < 2 ? args[i] : PyTuple_GET_ITEM(bases, i - 2)));
    }
    for (Py_ssize_t i = 0; i < names; i++) {
        if (PyDict_SetItem(kwargs, PyTuple_GET_ITEM(kwnames, i), args[nargs + i]) < 0) {
            goto done;
        }
    }
    result = PyObject_Call(original, all, kwargs);
done:
    Py_XDECREF(all);
    Py_XDECREF(kwargs);
    return result;
}

// `self` is the tuple of what class_builder_new() was given.
static PyObject *
build_class(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *original = PyTuple_GET_ITEM(self, 0);
    bool concerned = false;
    for (Py_ssize_t i = 2; i < nargs; i++) {  // after the body and the name
        concerned |= (PyObject *)Py_TYPE(args[i]) == PyTuple_GET_ITEM(self, 1);
    }
    if (!concerned) {
        return PyObject_Vectorcall(original, args, (size_t)nargs, kwnames);
    }
    PyObject *metaclass = Py_None;
    for (Py_ssize_t i = 0; kwnames != NULL && i < PyTuple_GET_SIZE(kwnames); i++) {
        if (PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(kwnames, i), "metaclass") == 0) {
            metaclass = args[nargs + i];
        }
    }
    PyObject *bases = PyTuple_New(nargs - 2);
    if (bases == NULL) {
        return NULL;
    }
    for (Py_ssize_t i = 2; i < nargs; i++) {
        PyTuple_SET_ITEM(bases, i - 2, Py_NewRef(args[i]));
    }
    PyObject *chosen = PyObject_CallFunctionObjArgs(PyTuple_GET_ITEM(self, 2), bases, metaclass, NULL);
    Py_DECREF(bases);
    PyObject *result = chosen == NULL ? NULL : build_with_bases(original, chosen, args, nargs, kwnames);
    Py_XDECREF(chosen);
    return result;
}

static PyMethodDef build_class_method = {
    "__build_class__",
    FASTCALL(build_class),
    METH_FASTCALL | METH_KEYWORDS,
    PyDoc_STR("__build_class__(func, name, /, *bases, [metaclass], **kwds) -> class\n\n"
              "Internal helper function used by the class statement."),
};

PyObject *
class_builder_new(PyObject *original, PyObject *metaclass, PyObject *choose_bases)
{
    PyObject *self = PyTuple_Pack(3, original, metaclass, choose_bases);
    PyObject *function = self == NULL ? NULL : PyCFunction_New(&build_class_method, self);
    Py_XDECREF(self);
    return function;
}
