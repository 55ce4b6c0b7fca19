#include "chain.h"

// All fields: GIL.
typedef struct ChainObject {
    PyObject_HEAD
    PyObject *weakrefs;
    PyObject *lists;  // the generator
    PyObject *items;  // of the current list; or NULL
    Py_ssize_t next;  // which item is next
} ChainObject;

static PyObject *
chain_tp_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"", NULL};
    PyObject *lists;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!:Chain", keywords, &PyGen_Type, &lists)) {
        return NULL;
    }
    ChainObject *self = (ChainObject *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->lists = Py_NewRef(lists);
    }
    return (PyObject *)self;
}

static PyObject *
chain_iternext(PyObject *op)
{
    ChainObject *self = (ChainObject *)op;
    while (self->items == NULL || self->next >= PyList_GET_SIZE(self->items)) {
        Py_CLEAR(self->items);
        // The generator runs code that may call this again: the chain is in order while it does.
        PyObject *items = PyIter_Next(self->lists);
        if (items == NULL) {
            return NULL;
        }
        if (!PyList_CheckExact(items)) {
            PyErr_Format(PyExc_TypeError, "lists are chained, not %.200s", Py_TYPE(items)->tp_name);
            Py_DECREF(items);
            return NULL;
        }
        Py_XSETREF(self->items, items);
        self->next = 0;
    }
    PyObject *item = PyList_GET_ITEM(self->items, self->next);
    PyList_SET_ITEM(self->items, self->next, Py_NewRef(Py_None));
    self->next++;
    return item;
}

PyDoc_STRVAR(close_doc,
"close($self, /)\n--\n\n"
"Close the generator, and drop the items that were not taken. There are no further items.");

static PyObject *
chain_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    ChainObject *self = (ChainObject *)op;
    Py_CLEAR(self->items);
    return PyObject_CallMethod(self->lists, "close", NULL);
}

static int
chain_traverse(PyObject *op, visitproc visit, void *arg)
{
    ChainObject *self = (ChainObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->lists);
    Py_VISIT(self->items);
    return 0;
}

// No tp_clear: `lists` is never NULL while the chain is alive, and a cycle through it goes through the
// generator's frame, which the collector can clear.
static void
chain_dealloc(PyObject *op)
{
    ChainObject *self = (ChainObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    PyObject_ClearWeakRefs(op);
    Py_XDECREF(self->items);
    Py_XDECREF(self->lists);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef chain_methods[] = {
    {"close", chain_close, METH_NOARGS, close_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef chain_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(ChainObject, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(chain_doc,
"Chain(lists, /)\n--\n\n"
"An iterator over the items of the lists that a generator yields, which it empties.");

static PyType_Slot chain_slots[] = {
    {Py_tp_doc, (void *)chain_doc},
    {Py_tp_new, chain_tp_new},
    {Py_tp_dealloc, chain_dealloc},
    {Py_tp_traverse, chain_traverse},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, chain_iternext},
    {Py_tp_methods, chain_methods},
    {Py_tp_members, chain_members},
    {0, NULL},
};

PyType_Spec chain_spec = {
    .name = "pyconc._core.Chain",
    .basicsize = sizeof(ChainObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = chain_slots,
};
