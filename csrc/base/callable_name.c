#include "callable_name.h"

// How deep a function may be in others, such as functools.partial, that only make it a call.
#define WRAPPED_MAX 8

const char *
callable_name_of_str(PyObject *name, size_t *bytes)
{
    Py_ssize_t size;
    const char *text = name == NULL || !PyUnicode_Check(name) ? NULL : PyUnicode_AsUTF8AndSize(name, &size);
    if (text == NULL) {
        PyErr_Clear();  // a lone surrogate
        return NULL;
    }
    *bytes = (size_t)size;
    return text;
}

bool
callable_is_context_run(PyObject *callable)
{
    PyObject *context = PyCFunction_CheckExact(callable) ? PyCFunction_GET_SELF(callable) : NULL;
    return context != NULL && PyContext_CheckExact(context)
           && strcmp(((PyCFunctionObject *)callable)->m_ml->ml_name, "run") == 0;
}

// What a slot of an object refers to; NULL: it has none of that name.  Reads the slot, and so runs no code;
// nor does it raise anything to find out, which might have the garbage collector run.  Borrowed: the slot has
// it.
static PyObject *
read_slot(PyObject *object, PyObject *name)
{
    PyObject *slot = _PyType_Lookup(Py_TYPE(object), name);  // borrowed
    if (slot == NULL || !Py_IS_TYPE(slot, &PyMemberDescr_Type)) {
        return NULL;
    }
    PyObject *inner = PyObject_GetAttr(object, name);
    PyErr_Clear();  // it is not set
    // A slot that is no reference makes an object, which nobody else has.
    PyObject *kept = inner == NULL || Py_REFCNT(inner) == 1 ? NULL : inner;
    Py_XDECREF(inner);
    return kept;
}

// The function in an object that only makes it a call: a functools.partial, or a carrier of pyconc._context.
// NULL: there is none.  Borrowed, as read_slot().
static PyObject *
unwrap(const module_state *module, PyObject *callable)
{
    PyObject *inner = read_slot(callable, module->str_func);
    if (inner == NULL) {
        return read_slot(callable, module->str__function);
    }
    PyObject *args = callable_is_context_run(inner) ? read_slot(callable, module->str_args) : NULL;
    bool has_args = args != NULL && PyTuple_CheckExact(args);
    return has_args ? callable_of_call(inner, &PyTuple_GET_ITEM(args, 0), PyTuple_GET_SIZE(args)) : inner;
}

const char *
callable_name(const module_state *module, PyObject *callable, size_t *bytes)
{
    const char *text = NULL;
    for (int depth = 0; callable != NULL && text == NULL && depth < WRAPPED_MAX; depth++) {
        PyObject *inner = NULL;
        if (PyFunction_Check(callable)) {
            text = callable_name_of_str(((PyFunctionObject *)callable)->func_qualname, bytes);
        }
        else if (PyCFunction_Check(callable)) {
            text = ((PyCFunctionObject *)callable)->m_ml->ml_name;
            *bytes = strlen(text);
        }
        else if (PyMethod_Check(callable)) {
            inner = PyMethod_GET_FUNCTION(callable);
        }
        else {
            inner = unwrap(module, callable);
        }
        if (inner == NULL && text == NULL) {
            PyTypeObject *type = PyType_Check(callable) ? (PyTypeObject *)callable : Py_TYPE(callable);
            const char *dot = strrchr(type->tp_name, '.');
            text = dot == NULL ? type->tp_name : dot + 1;
            *bytes = strlen(text);
        }
        callable = inner;
    }
    return text;
}

void
callable_show_another(const module_state *module, call_name *shown, PyObject **named, PyObject *callable,
                      PyObject *name)
{
    size_t bytes = 0;
    const char *text = callable_name_of_str(name, &bytes);
    if (text == NULL) {
        text = callable_name(module, callable, &bytes);
    }
    call_name_write(shown, text == NULL ? "" : text, text == NULL ? 0 : bytes);
    // To drop it later runs no code.
    Py_XSETREF(*named, name != NULL && PyUnicode_CheckExact(name) ? Py_NewRef(name) : NULL);
}

PyDoc_STRVAR(name_of_doc,
"name_of($module, callable, /)\n--\n\n"
"Return what a callable is named where its own code may run: by its __qualname__, or else as the function\n"
"that it makes a call of, as a functools.partial does, or as its type. Never by its repr(), in which may be\n"
"arguments. An Exception of its own is ignored.");

static PyObject *
name_of(PyObject *module, PyObject *callable)
{
    PyObject *name = PyObject_GetAttrString(callable, "__qualname__");
    if (name != NULL && PyUnicode_Check(name) && PyUnicode_GetLength(name) > 0) {
        return name;
    }
    Py_XDECREF(name);
    if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_Exception)) {
        return NULL;
    }
    PyErr_Clear();
    size_t bytes;
    const char *text = callable_name(PyModule_GetState(module), callable, &bytes);
    return text == NULL ? PyUnicode_FromString(Py_TYPE(callable)->tp_name)
                        : PyUnicode_DecodeUTF8(text, (Py_ssize_t)bytes, "replace");
}

PyMethodDef callable_name_functions[] = {
    {"name_of", name_of, METH_O, name_of_doc},
    {NULL, NULL, 0, NULL},
};
