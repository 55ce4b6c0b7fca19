#include "shared_cell.h"

#include <errno.h>

#include "core/shared_heap_cells.h"
#include "core/shared_heap_open.h"
#include "core/shared_heap_parties.h"
#include "core/shared_sync.h"
#include "shared_value.h"

// Nothing in it changes.
typedef struct SharedHeapObject {
    PyObject_HEAD
    shared_heap *heap;  // outlives this if there are cells
} SharedHeapObject;

PyObject *
shared_raise(int rc)
{
    switch (rc) {
    case FUTEX_INTERRUPTED:
        break;
    case SHARED_HEAP_FULL:
        PyErr_SetString(PyExc_MemoryError, "there is no more room for shared objects");
        break;
    case SHARED_HEAP_GONE:
        PyErr_SetString(PyExc_RuntimeError, "the shared object is gone: no process had it any more");
        break;
    case SHARED_SYNC_TOO_MANY:
        PyErr_SetString(PyExc_ValueError, "Semaphore released too many times");
        break;
    case ROBUST_LOCK_TOO_MANY:
        PyErr_Format(PyExc_RuntimeError, "a thread can hold %d shared locks at once", ROBUST_LOCKS_MAX);
        break;
    case ROBUST_LOCK_REFUSED:
        errno = ENOTSUP;
        PyErr_SetFromErrno(PyExc_OSError);
        break;
    default:
        PyErr_Format(PyExc_SystemError, "status %d", rc);
    }
    return NULL;
}

PyObject *
shared_none_or_raise(int rc)
{
    return rc < 0 ? shared_raise(rc) : Py_NewRef(Py_None);
}

// ---- heap ----

static PyObject *
heap_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"", NULL};
    int fd = -1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|i:SharedHeap", keywords, &fd)) {
        return NULL;
    }
    SharedHeapObject *self = (SharedHeapObject *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    int error;
    Py_BEGIN_ALLOW_THREADS
    self->heap = shared_heap_open(fd);
    error = errno;
    Py_END_ALLOW_THREADS
    if (self->heap == NULL) {
        Py_DECREF(self);
        errno = error;
        return error == ENOMEM ? PyErr_NoMemory() : PyErr_SetFromErrno(PyExc_OSError);
    }
    return (PyObject *)self;
}

static shared_heap *
as_heap(PyObject *op)
{
    return ((SharedHeapObject *)op)->heap;
}

PyDoc_STRVAR(heap_fileno_doc,
"fileno($self, /)\n--\n\n"
"Return the file descriptor of the memory.");

static PyObject *
heap_fileno(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromLong(shared_heap_fd(as_heap(op)));
}

PyDoc_STRVAR(heap_used_doc,
"used($self, /)\n--\n\n"
"Return how many objects there are in it, of all processes that live.");

static PyObject *
heap_used(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    uint32_t used;
    Py_BEGIN_ALLOW_THREADS
    used = shared_heap_used(as_heap(op));
    Py_END_ALLOW_THREADS
    return PyLong_FromUnsignedLong(used);
}

PyDoc_STRVAR(heap_before_fork_doc,
"before_fork($self, /)\n--\n\n"
"Have the objects of this process be the child's as well.");

static PyObject *
heap_before_fork(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    Py_BEGIN_ALLOW_THREADS
    shared_heap_before_fork(as_heap(op));
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

PyDoc_STRVAR(heap_after_fork_doc,
"after_fork($self, /)\n--\n\n"
"In the child of a fork: count as a process of its own.");

static PyObject *
heap_after_fork(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    Py_BEGIN_ALLOW_THREADS
    shared_heap_after_fork(as_heap(op));
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *
heap_identity(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(shared_heap_identity(as_heap(op)));
}

static void
heap_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    if (as_heap(op) != NULL) {
        shared_heap_close(as_heap(op));
    }
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef heap_methods[] = {
    {"fileno", heap_fileno, METH_NOARGS, heap_fileno_doc},
    {"used", heap_used, METH_NOARGS, heap_used_doc},
    {"before_fork", heap_before_fork, METH_NOARGS, heap_before_fork_doc},
    {"after_fork", heap_after_fork, METH_NOARGS, heap_after_fork_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef heap_getset[] = {
    {"identity", heap_identity, NULL, "What no other heap has.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(heap_doc,
"SharedHeap(fd=-1, /)\n--\n\n"
"Memory for pyconc.shared: new, or what another process has made.");

static PyType_Slot heap_slots[] = {
    {Py_tp_new, heap_new},
    {Py_tp_dealloc, heap_dealloc},
    {Py_tp_methods, heap_methods},
    {Py_tp_getset, heap_getset},
    {Py_tp_doc, (void *)heap_doc},
    {0, NULL},
};

PyType_Spec shared_heap_spec = {
    .name = "pyconc._core.SharedHeap",
    .basicsize = sizeof(SharedHeapObject),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = heap_slots,
};

// ---- cell ----

PyObject *
shared_cell_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"", "", "", "", NULL};
    module_state *state = module_state_of(type);
    PyObject *heap;
    long long index = -1;
    unsigned long long serial = 0;
    const char *how = "";
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!|LKs:SharedCell", keywords, state->shared_heap_type,
                                     &heap, &index, &serial, &how)) {
        return NULL;
    }
    if (index >= SHARED_HEAP_CELLS) {
        return shared_raise(SHARED_HEAP_GONE);
    }
    SharedCellObject *self = shared_cell_of(type->tp_alloc(type, 0));
    if (self == NULL) {
        return NULL;
    }
    int rc;
    self->state = state;
    self->heap = as_heap(heap);
    self->index = (uint32_t)index;
    self->kind = how[0];
    self->is_reentrant = strchr(how, 'r') != NULL;
    self->raises = strchr(how, '!') != NULL;
    Py_BEGIN_ALLOW_THREADS
    rc = index < 0     ? shared_heap_make(self->heap, &self->index)
         : serial == 0 ? shared_heap_share(self->heap, self->index)
                       : shared_heap_attach(self->heap, self->index, serial);
    Py_END_ALLOW_THREADS
    if (rc < 0) {
        Py_DECREF(self);
        return shared_raise(rc);
    }
    self->has_cell = true;
    self->cell = shared_heap_cell(self->heap, self->index);
    return (PyObject *)self;
}

void
shared_cell_dealloc(PyObject *op)
{
    SharedCellObject *self = shared_cell_of(op);
    PyTypeObject *type = Py_TYPE(op);
    if (self->has_cell) {
        shared_heap_drop(self->heap, self->index);
    }
    type->tp_free(op);
    Py_DECREF(type);
}

PyDoc_STRVAR(cell_send_doc,
"_send($self, /)\n--\n\n"
"Return (index, serial), for the pickle of it that is going to another process.");

static PyObject *
place_or_raise(const SharedCellObject *self, int rc)
{
    if (rc < 0) {
        return shared_raise(rc);
    }
    return Py_BuildValue("IK", (unsigned int)self->index, (unsigned long long)self->cell->serial);
}

static PyObject *
cell_send(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    SharedCellObject *self = shared_cell_of(op);
    int rc;
    Py_BEGIN_ALLOW_THREADS
    rc = shared_heap_send(self->heap, self->index);
    Py_END_ALLOW_THREADS
    return place_or_raise(self, rc);
}

PyDoc_STRVAR(cell_received_doc,
"_received($self, /)\n--\n\n"
"The pickle of it for which there was a _send() has arrived, and was this object.");

static PyObject *
cell_received(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    SharedCellObject *self = shared_cell_of(op);
    int rc;
    Py_BEGIN_ALLOW_THREADS
    rc = shared_heap_received(self->heap, self->index);
    Py_END_ALLOW_THREADS
    return shared_none_or_raise(rc);
}

PyDoc_STRVAR(cell_send_in_item_doc,
"_send_in_item($self, /)\n--\n\n"
"Return (index, serial), for the pickle of an item of a container; None if this thread pickles none.");

static PyObject *
cell_send_in_item(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    SharedCellObject *self = shared_cell_of(op);
    int rc = shared_packing_refer(self->heap, self->index);
    return rc == SHARED_PACKS_NOTHING ? Py_NewRef(Py_None) : place_or_raise(self, rc);
}

static PyObject *
cell_identity(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(shared_heap_identity(shared_cell_of(op)->heap));
}

static PyObject *
cell_index(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLong(shared_cell_of(op)->index);
}

static PyMethodDef cell_methods[] = {
    {"_send", cell_send, METH_NOARGS, cell_send_doc},
    {"_received", cell_received, METH_NOARGS, cell_received_doc},
    {"_send_in_item", cell_send_in_item, METH_NOARGS, cell_send_in_item_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef cell_getset[] = {
    {"_identity", cell_identity, NULL, "That of its heap.", NULL},
    {"_index", cell_index, NULL, "Its place there.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(cell_doc,
"SharedCell(heap, index=-1, serial=0, how='', /)\n--\n\n"
"An object in a heap: new, one that this process has (by index), or one that has come (by serial too).");

static PyType_Slot cell_slots[] = {
    {Py_tp_new, shared_cell_new},
    {Py_tp_dealloc, shared_cell_dealloc},
    {Py_tp_methods, cell_methods},
    {Py_tp_getset, cell_getset},
    {Py_tp_doc, (void *)cell_doc},
    {0, NULL},
};

PyType_Spec shared_cell_spec = {
    .name = "pyconc._core.SharedCell",
    .basicsize = sizeof(SharedCellObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = cell_slots,
};

// ---- waiting ----

int
shared_wait_longer(PyObject *op, shared_wait_function *wait, void *arg, int64_t deadline_ns,
                   bool is_interruptible)
{
    SharedCellObject *self = shared_cell_of(op);
    module_state *state = self->state;
    int rc;
    do {
        PyThreadState *thread = gil_release(&state->gil);
        rc = wait(self->cell, deadline_ns, arg);
        gil_acquire(&state->gil, thread, 0);
        if (rc == FUTEX_INTERRUPTED && is_interruptible && PyErr_CheckSignals() < 0) {
            return FUTEX_INTERRUPTED;
        }
    } while (rc == FUTEX_INTERRUPTED);
    return rc;
}

static int
enter_run(shared_cell *Py_UNUSED(cell), int64_t deadline_ns, void *run)
{
    return shared_run_enter((shared_run *)run, deadline_ns);
}

int
shared_enter(PyObject *op, shared_run *run)
{
    int rc = shared_wait(op, enter_run, run, FUTEX_NO_DEADLINE, true);
    if (rc < 0) {
        shared_raise(rc);
    }
    return rc < 0 ? -1 : 0;
}
