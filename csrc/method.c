#include "method.h"

// With METH_FASTCALL and METH_KEYWORDS.
typedef PyObject *(*method_function)(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                     PyObject *kwnames);

// Nothing in it changes.
typedef struct MethodObject {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    PyObject *descriptor;      // the method_descriptor in whose place this stands
    method_function function;  // what that calls
    PyObject *module;          // str
} MethodObject;

static PyObject *
descriptor_of(PyObject *op)
{
    return ((MethodObject *)op)->descriptor;
}

// Calls the function as the descriptor does, which would cost each call 25 instructions more; and leaves
// it to the descriptor to refuse another object.
static PyObject *
method_vectorcall(PyObject *op, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    PyMethodDescrObject *descriptor = (PyMethodDescrObject *)descriptor_of(op);
    Py_ssize_t nargs = PyVectorcall_NARGS(nargsf);
    if (nargs < 1 || !PyObject_TypeCheck(args[0], descriptor->d_common.d_type)) {
        return descriptor->vectorcall((PyObject *)descriptor, args, nargsf, kwnames);
    }
    return ((MethodObject *)op)->function(args[0], args + 1, nargs - 1, kwnames);
}

static PyObject *
method_get(PyObject *op, PyObject *instance, PyObject *type)
{
    if (instance == NULL) {
        return Py_NewRef(op);
    }
    PyObject *descriptor = descriptor_of(op);
    PyObject *bound = Py_TYPE(descriptor)->tp_descr_get(descriptor, instance, type);
    if (bound != NULL) {  // a builtin_function_or_method, whose module can be set
        Py_XSETREF(((PyCFunctionObject *)bound)->m_module, Py_NewRef(((MethodObject *)op)->module));
    }
    return bound;
}

// The closure is the attribute's name.
static PyObject *
method_get_attribute(PyObject *op, void *name)
{
    return PyObject_GetAttrString(descriptor_of(op), name);
}

static PyObject *
method_reduce(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyObject_CallMethod(descriptor_of(op), "__reduce__", NULL);
}

static PyObject *
method_repr(PyObject *op)
{
    return PyObject_Repr(descriptor_of(op));
}

static int
method_traverse(PyObject *op, visitproc visit, void *arg)
{
    MethodObject *self = (MethodObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->descriptor);
    Py_VISIT(self->module);
    return 0;
}

static void
method_dealloc(PyObject *op)
{
    MethodObject *self = (MethodObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    Py_XDECREF(self->descriptor);
    Py_XDECREF(self->module);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef method_methods[] = {
    {"__reduce__", method_reduce, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef method_getset[] = {
    {"__doc__", method_get_attribute, NULL, NULL, "__doc__"},
    {"__name__", method_get_attribute, NULL, NULL, "__name__"},
    {"__objclass__", method_get_attribute, NULL, NULL, "__objclass__"},
    {"__qualname__", method_get_attribute, NULL, NULL, "__qualname__"},
    {"__text_signature__", method_get_attribute, NULL, NULL, "__text_signature__"},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef method_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(MethodObject, vectorcall), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot method_slots[] = {
    {Py_tp_dealloc, method_dealloc},
    {Py_tp_traverse, method_traverse},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_descr_get, method_get},
    {Py_tp_repr, method_repr},
    {Py_tp_methods, method_methods},
    {Py_tp_getset, method_getset},
    {Py_tp_members, method_members},
    {0, NULL},
};

// The methods' __module__ is that of the type.  Only of immutable types does the interpreter believe that
// they are method descriptors, and calls them without a bound method.
PyType_Spec method_spec = {
    .name = "pyconc.method",
    .basicsize = sizeof(MethodObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_METHOD_DESCRIPTOR,
    .slots = method_slots,
};

int
method_replace(module_state *state, PyTypeObject *type, const char *name)
{
    PyObject *descriptor = PyObject_GetAttrString((PyObject *)type, name);
    MethodObject *self = NULL;
    int rc = -1;
    if (descriptor != NULL) {
        self = (MethodObject *)state->method_type->tp_alloc(state->method_type, 0);
    }
    if (self != NULL) {
        self->vectorcall = method_vectorcall;
        self->descriptor = Py_NewRef(descriptor);
        const PyMethodDef *definition = ((PyMethodDescrObject *)descriptor)->d_method;
        assert(definition->ml_flags == (METH_FASTCALL | METH_KEYWORDS));
        self->function = (method_function)(void (*)(void))definition->ml_meth;
        self->module = PyObject_GetAttrString((PyObject *)Py_TYPE(self), "__module__");
        rc = self->module == NULL ? -1 : PyObject_SetAttrString((PyObject *)type, name, (PyObject *)self);
    }
    Py_XDECREF((PyObject *)self);
    Py_XDECREF(descriptor);
    return rc;
}
