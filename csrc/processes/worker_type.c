#include "worker_type.h"

#include <unistd.h>

#include "core/job_ring_worker.h"
#include "core/pool_view.h"
#include "worker_interrupt.h"
#include "worker_loop.h"
#include "worker_run.h"

PyDoc_STRVAR(wait_admitted_doc,
"wait_admitted($self, /)\n--\n\n"
"Wait until the parent knows this worker; before, it must not take anything.");

static PyObject *
worker_wait_admitted(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    WorkerObject *self = (WorkerObject *)op;
    bool admitted = worker_is_inherited(self);
    while (!admitted) {
        PyThreadState *thread = PyEval_SaveThread();
        admitted = job_ring_wait_admitted(&self->ring, self->number);
        PyEval_RestoreThread(thread);
        if (PyErr_CheckSignals() < 0) {
            return NULL;
        }
    }
    worker_view_enter(self->view, WORKER_IDLES);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(after_fork_doc,
"after_fork($self, /)\n--\n\n"
"In the child of a fork that a task made: this process is no worker; run() returns.");

static PyObject *
worker_after_fork(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    region_after_fork(((WorkerObject *)op)->region);
    Py_RETURN_NONE;
}

// Takes over the file descriptors in a tuple.  0, or -1 with an exception.
static int
take_doorbells(WorkerObject *self, PyObject *fds)
{
    int *doorbells = PyMem_Calloc(self->ring.worker_count, sizeof(int));
    if (doorbells == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (uint32_t i = 0; i < self->ring.worker_count; i++) {
        doorbells[i] = (int)PyLong_AsLong(PyTuple_GET_ITEM(fds, i));
        if (doorbells[i] < 0) {
            if (!PyErr_Occurred()) {
                PyErr_SetString(PyExc_ValueError, "not a file descriptor");
            }
            PyMem_Free(doorbells);
            return -1;
        }
    }
    self->doorbells = doorbells;
    job_ring_use_doorbells(&self->ring, doorbells);
    return 0;
}

static PyObject *
worker_tp_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"region_fd", "wakeup_fd", "number", "doorbells", "relief_fd", NULL};
    int region_fd, wakeup_fd, relief_fd = -1;
    unsigned int number;
    PyObject *doorbells = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "iiI|O!i:Worker", keywords, &region_fd, &wakeup_fd,
                                     &number, &PyTuple_Type, &doorbells, &relief_fd)) {
        return NULL;
    }
    Py_ssize_t doorbell_count = doorbells == NULL ? 0 : PyTuple_GET_SIZE(doorbells);
    WorkerObject *self = (WorkerObject *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->module = module_state_of(type);
    self->number = number;
    self->wakeup_fd = wakeup_fd;
    self->relief_fd = relief_fd;
    self->packs.pickler.module = self->module;
    park_spot_init(&self->spot, 1);
    self->place = (call_place){.module = self->module,
                               .get = worker_interrupt_get_call,
                               .reason = worker_interrupt_reason,
                               .note = worker_interrupt_note,
                               .show = worker_run_show,
                               .is_remote = true};
    self->region = region_join(self->module, region_fd, SHM_WORKER(number));
    if (self->region == NULL) {
        goto fail;
    }
    self->callables = PyMem_Calloc(CALLABLES_MAX, sizeof(*self->callables));
    if (self->callables == NULL) {
        PyErr_NoMemory();
        goto fail;
    }
    self->packs.region = self->region;
    int rc = job_ring_attach(&self->ring, self->region->head, self->region->head_bytes, wakeup_fd);
    if (rc == SHM_OK
        && (number >= self->ring.worker_count
            || (doorbell_count > 0 && doorbell_count != (Py_ssize_t)self->ring.worker_count))) {
        rc = SHM_NOT_OURS;
    }
    worker_view *views = NULL;
    if (rc == SHM_OK) {
        views = pool_view_workers(self->region->head, self->region->head_bytes, self->ring.worker_count);
        rc = views == NULL ? SHM_NOT_OURS : SHM_OK;
    }
    if (rc != SHM_OK) {
        region_raise(rc);
        goto fail;
    }
    self->view = &views[number];
    if (doorbell_count > 0 && take_doorbells(self, doorbells) < 0) {
        goto fail;
    }
    if ((self->doorbells != NULL && !shm_file_identify(&self->doorbell, self->doorbells[number]))
        || (relief_fd >= 0 && !shm_file_identify(&self->relief, relief_fd))) {
        PyErr_SetFromErrno(PyExc_OSError);
        goto fail;
    }
    return (PyObject *)self;
fail:
    Py_DECREF(self);
    return NULL;
}

static int
worker_traverse(PyObject *op, visitproc visit, void *arg)
{
    WorkerObject *self = (WorkerObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->region);
    Py_VISIT(self->named);
    Py_VISIT(self->where);
    Py_VISIT(self->place.inner);
    for (uint32_t slot = 0; self->callables != NULL && slot < CALLABLES_MAX; slot++) {
        Py_VISIT(self->callables[slot].callable);
    }
    return packer_traverse(&self->packs, visit, arg);
}

static int
worker_clear(PyObject *op)
{
    WorkerObject *self = (WorkerObject *)op;
    packer_clear(&self->packs);
    Py_CLEAR(self->named);
    Py_CLEAR(self->where);
    Py_CLEAR(self->place.inner);
    for (uint32_t slot = 0; self->callables != NULL && slot < CALLABLES_MAX; slot++) {
        self->callables[slot].id = 0;
        Py_CLEAR(self->callables[slot].callable);
    }
    return 0;
}

static void
worker_dealloc(PyObject *op)
{
    WorkerObject *self = (WorkerObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    for (uint32_t i = 0; self->doorbells != NULL && i < self->ring.worker_count; i++) {
        close(self->doorbells[i]);
    }
    PyMem_Free(self->doorbells);
    job_ring_fini(&self->ring);
    worker_clear(op);
    Py_XDECREF((PyObject *)self->region);
    PyMem_Free(self->callables);
    close(self->wakeup_fd);
    if (self->relief_fd >= 0) {
        close(self->relief_fd);
    }
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef worker_methods[] = {
    {"wait_admitted", worker_wait_admitted, METH_NOARGS, wait_admitted_doc},
    {"run", worker_run, METH_VARARGS, worker_run_doc},
    {"identify", worker_identify, METH_NOARGS, worker_identify_doc},
    {"take", worker_take, METH_O, worker_take_doc},
    {"begin", worker_begin, METH_O, worker_begin_doc},
    {"asked", worker_asked, METH_O, worker_asked_doc},
    {"finish", FASTCALL(worker_finish), METH_FASTCALL, worker_finish_doc},
    {"listen", worker_listen, METH_O, worker_listen_doc},
    {"is_closed", worker_is_closed, METH_NOARGS, worker_is_closed_doc},
    {"leave", worker_leave, METH_NOARGS, worker_leave_doc},
    {"after_fork", worker_after_fork, METH_NOARGS, after_fork_doc},
    {"on_stop", (PyCFunction)(void (*)(void))worker_on_stop, METH_FASTCALL, worker_on_stop_doc},
    {"on_unraisable", FASTCALL(worker_on_unraisable), METH_FASTCALL, worker_on_unraisable_doc},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(worker_doc,
"Worker(region_fd, wakeup_fd, number, doorbells=(), relief_fd=-1)\n--\n\n"
"A worker process's end of a ProcessQueue. Owns all file descriptors.");

static PyType_Slot worker_slots[] = {
    {Py_tp_doc, (void *)worker_doc},
    {Py_tp_new, worker_tp_new},
    {Py_tp_dealloc, worker_dealloc},
    {Py_tp_traverse, worker_traverse},
    {Py_tp_clear, worker_clear},
    {Py_tp_methods, worker_methods},
    {0, NULL},
};

PyType_Spec worker_spec = {
    .name = "pyconc._core.Worker",
    .basicsize = sizeof(WorkerObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = worker_slots,
};
