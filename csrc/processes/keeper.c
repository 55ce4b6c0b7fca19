#include "keeper.h"

int
keeper_keep(keeper *k, ProcessQueueObject *queue)
{
    if (k->queue != NULL) {
        return 0;
    }
    if (process_queue_keep_open(queue) < 0) {
        return -1;
    }
    k->queue = (ProcessQueueObject *)Py_NewRef((PyObject *)queue);
    return 0;
}

void
keeper_release(keeper *k)
{
    ProcessQueueObject *queue = k->queue;
    if (queue != NULL) {
        k->queue = NULL;
        process_queue_let_close(queue);
        Py_DECREF(queue);
    }
}

// ---- the type ----

static PyObject *
keeper_tp_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"", NULL};
    module_state *module = module_state_of(type);
    PyObject *queue;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!:Keeper", keywords, module->process_queue_type,
                                     &queue)) {
        return NULL;
    }
    KeeperObject *self = (KeeperObject *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    if (keeper_keep(&self->keeps, (ProcessQueueObject *)queue) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

PyDoc_STRVAR(release_doc,
"release($self, /)\n--\n\n"
"Let the queue end. Any thread may call it, a signal handler too, and more than once.");

static PyObject *
keeper_release_method(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    keeper_release(&((KeeperObject *)op)->keeps);
    Py_RETURN_NONE;
}

static int
keeper_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((KeeperObject *)op)->keeps.queue);
    return 0;
}

static int
keeper_clear(PyObject *op)
{
    keeper_release(&((KeeperObject *)op)->keeps);
    return 0;
}

static void
keeper_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    keeper_release(&((KeeperObject *)op)->keeps);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef keeper_methods[] = {
    {"release", keeper_release_method, METH_NOARGS, release_doc},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(keeper_doc,
"Keeper(queue, /)\n--\n\n"
"While it lives, and until release(), a closed ProcessQueue takes chunks and calls of its workers.\n\n"
"Nobody can begin to keep open a closed queue that is not kept: that raises what submit() would.");

static PyType_Slot keeper_slots[] = {
    {Py_tp_doc, (void *)keeper_doc},
    {Py_tp_new, keeper_tp_new},
    {Py_tp_dealloc, keeper_dealloc},
    {Py_tp_traverse, keeper_traverse},
    {Py_tp_clear, keeper_clear},
    {Py_tp_methods, keeper_methods},
    {0, NULL},
};

PyType_Spec keeper_spec = {
    .name = "pyconc._core.Keeper",
    .basicsize = sizeof(KeeperObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = keeper_slots,
};
