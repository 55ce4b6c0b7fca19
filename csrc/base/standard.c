#include "standard.h"

void
standard_class_watch(standard_class *self, PyTypeObject *type, PyObject *originals)
{
    Py_XSETREF(self->type, (PyTypeObject *)Py_NewRef((PyObject *)type));
    Py_XSETREF(self->originals, Py_NewRef(originals));
    self->version = 0;
}

bool
standard_class_look(standard_class *self)
{
    PyObject *name, *original;
    Py_ssize_t position = 0;
    self->is_replaced = false;
    while (PyDict_Next(self->originals, &position, &name, &original)) {
        if (_PyType_Lookup(self->type, name) != original) {
            self->is_replaced = true;
        }
    }
    self->version = type_version(self->type);  // which looking a name up has renewed
    return self->is_replaced;
}

bool
standard_call(standard_class *self, bool original_too, const char *name, PyObject *op,
              PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, PyObject **result)
{
    PyObject *key = PyUnicode_InternFromString(name);
    *result = NULL;
    if (key == NULL) {
        return true;
    }
    PyObject *method = Py_XNewRef(_PyType_Lookup(self->type, key));
    bool is_original = method == NULL || method == PyDict_GetItemWithError(self->originals, key);
    Py_DECREF(key);
    if (method == NULL || (is_original && !original_too)) {
        Py_XDECREF(method);
        return PyErr_Occurred() != NULL;
    }
    descrgetfunc bind = Py_TYPE(method)->tp_descr_get;
    PyObject *bound = bind == NULL ? Py_NewRef(method) : bind(method, op, (PyObject *)Py_TYPE(op));
    Py_DECREF(method);
    if (bound != NULL) {
        *result = PyObject_Vectorcall(bound, args, (size_t)nargs, kwnames);
        Py_DECREF(bound);
    }
    return true;
}
