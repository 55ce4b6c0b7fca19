#include "shared_watch_type.h"

#include "shared_cell.h"

#include "core/shared_watch.h"

// Guarded by the GIL.
typedef struct SharedWatchObject {
    PyObject_HEAD
    shared_watch *watch;  // NULL: closed
} SharedWatchObject;

static SharedWatchObject *
as_watch(PyObject *op)
{
    return (SharedWatchObject *)op;
}

static PyObject *
watch_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"", "", "", NULL};
    module_state *state = module_state_of(type);
    PyObject *cell;
    int what;
    unsigned int seen = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!i|I:SharedWatch", keywords, state->shared_cell_type,
                                     &cell, &what, &seen)) {
        return NULL;
    }
    SharedWatchObject *self = (SharedWatchObject *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    SharedCellObject *watched = shared_cell_of(cell);
    int error;
    Py_BEGIN_ALLOW_THREADS
    self->watch = shared_watch_open(watched->heap, watched->index, (shared_watched)what, seen);
    error = errno;
    Py_END_ALLOW_THREADS
    if (self->watch == NULL) {
        Py_DECREF(self);
        if (error == EAGAIN) {
            PyErr_SetString(PyExc_RuntimeError, "can't start new thread");
            return NULL;
        }
        errno = error;
        return error == ENOMEM ? PyErr_NoMemory() : PyErr_SetFromErrno(PyExc_OSError);
    }
    state->shared_watches++;
    return (PyObject *)self;
}

static void
close_watch(PyObject *op)
{
    shared_watch *watch = as_watch(op)->watch;
    if (watch != NULL) {
        as_watch(op)->watch = NULL;
        module_state_of(Py_TYPE(op))->shared_watches--;
        shared_watch_close(watch);
    }
}

static void
watch_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    close_watch(op);
    type->tp_free(op);
    Py_DECREF(type);
}

PyDoc_STRVAR(watch_fileno_doc,
"fileno($self, /)\n--\n\n"
"Return the file descriptor that becomes readable when it rings; -1 if it is closed.");

static PyObject *
watch_fileno(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromLong(as_watch(op)->watch == NULL ? -1 : shared_watch_fd(as_watch(op)->watch));
}

PyDoc_STRVAR(watch_clear_doc,
"clear($self, /)\n--\n\n"
"Hear it: it is not readable any more.");

static PyObject *
watch_clear(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    if (as_watch(op)->watch != NULL) {
        shared_watch_clear(as_watch(op)->watch);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(watch_look_doc,
"look($self, seen=0, /)\n--\n\n"
"Have it look again, if it rang.");

static PyObject *
watch_look(PyObject *op, PyObject *args)
{
    unsigned int seen = 0;
    if (!PyArg_ParseTuple(args, "|I:look", &seen)) {
        return NULL;
    }
    if (as_watch(op)->watch != NULL) {
        shared_watch_look(as_watch(op)->watch, seen);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(watch_close_doc,
"close($self, /)\n--\n\n"
"End its thread, without waiting for that.");

static PyObject *
watch_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    close_watch(op);
    Py_RETURN_NONE;
}

static PyMethodDef watch_methods[] = {
    {"fileno", watch_fileno, METH_NOARGS, watch_fileno_doc},
    {"clear", watch_clear, METH_NOARGS, watch_clear_doc},
    {"look", watch_look, METH_VARARGS, watch_look_doc},
    {"close", watch_close, METH_NOARGS, watch_close_doc},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(watch_doc,
"SharedWatch(cell, what, seen=0, /)\n--\n\n"
"A thread that sleeps for a loop until a cell's lock (what: 0) is free, there is a permit (1), an event was\n"
"set after `seen` times (2), or a condition has another turn than `seen` (3).");

static PyType_Slot watch_slots[] = {
    {Py_tp_new, watch_new},
    {Py_tp_dealloc, watch_dealloc},
    {Py_tp_methods, watch_methods},
    {Py_tp_doc, (void *)watch_doc},
    {0, NULL},
};

PyType_Spec shared_watch_spec = {
    .name = "pyconc._core.SharedWatch",
    .basicsize = sizeof(SharedWatchObject),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = watch_slots,
};
