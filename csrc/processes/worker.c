#include "worker.h"

#include <signal.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/futex.h"
#include "core/job_ring_worker.h"

// How long a worker waits at most for its parent to kill it.
#define KILL_NS 1000000000

// Finds the callable of a message; a new reference.
static PyObject *
find_callable(WorkerObject *self, const unpacked_message *found)
{
    uint32_t id = found->callable_id, slot = id % CALLABLES_MAX;
    if (self->callables[slot].id == id) {
        return Py_NewRef(self->callables[slot].callable);
    }
    if (found->callable == NULL) {
        PyErr_SetString(PyExc_ValueError, "a message from another process is damaged");
        return NULL;
    }
    PyObject *callable = PyObject_CallOneArg(self->module->pickle_loads, found->callable);
    if (callable != NULL) {
        self->callables[slot].id = id;
        Py_XSETREF(self->callables[slot].callable, Py_NewRef(callable));
    }
    return callable;
}

void
slot_call_clear(slot_call *c)
{
    Py_CLEAR(c->callable);
    Py_CLEAR(c->args);
    Py_CLEAR(c->kwargs);
    Py_CLEAR(c->name);
}

// Takes the task's name off the front of a stream.  0, or -1 with an exception.
static int
read_name(unpacked_message *found, slot_call *c)
{
    PyObject *name, *rest;
    if (!PyArg_ParseTuple(found->value, "UO", &name, &rest)) {
        return -1;
    }
    c->name = Py_NewRef(name);
    Py_SETREF(found->value, Py_NewRef(rest));
    return 0;
}

int
worker_read_call(WorkerObject *self, job_slot *slot, slot_call *c)
{
    wire *message = (wire *)slot->message;
    unpacked_message found = {0};
    memset(c, 0, sizeof(*c));
    c->slot = slot;
    if (wire_length(slot->message) == 0) {
        PyErr_SetString(PyExc_ValueError, "a message from another process is damaged");
        return -1;
    }
    shm_block *block = wire_block(self->region, message);
    if (block != NULL) {
        shm_block_take_over(block, region_me(self->region));
        // Relaxed: the parent reads it after it has waited for this worker's death, and does not free the
        // block a second time.
        atomic_store_explicit(&slot->accepted, 1, memory_order_relaxed);
    }
    BlockObject *whole = block == NULL ? NULL : block_new(self->region, block, block->capacity);
    int rc = block != NULL && whole == NULL ? -1 : codec_unpack(self->module, message, whole, &found);
    Py_XDECREF((PyObject *)whole);
    c->kind = found.kind;
    c->flags = found.flags;
    if (rc == 0 && found.flags & WIRE_NAMED) {
        rc = read_name(&found, c);
    }
    if (rc == 0 && found.callable_id != 0) {
        c->callable = find_callable(self, &found);
        if (c->callable == NULL) {
            rc = -1;
        }
        else if (found.flags & WIRE_KWARGS) {
            rc = PyArg_ParseTuple(found.value, "OO", &c->args, &c->kwargs) ? 0 : -1;
            Py_XINCREF(c->args);
            Py_XINCREF(c->kwargs);
        }
        else {
            c->args = Py_NewRef(found.value);
        }
    }
    else if (rc == 0) {
        PyObject *kwargs = NULL;
        const char *format = found.kind == WIRE_CHUNK ? "OO" : "OOO";
        rc = PyArg_ParseTuple(found.value, format, &c->callable, &c->args, &kwargs) ? 0 : -1;
        c->kwargs = kwargs == Py_None ? NULL : kwargs;
        Py_XINCREF(c->callable);
        Py_XINCREF(c->args);
        Py_XINCREF(c->kwargs);
    }
    Py_XDECREF(found.value);
    Py_XDECREF(found.callable);
    if (rc < 0) {
        PyObject *error = PyErr_GetRaisedException();
        slot_call_clear(c);
        PyErr_SetRaisedException(error);
    }
    return rc;
}

void
worker_pack_failure(WorkerObject *self, const char *how, PyObject *result, packed_message *outcome)
{
    PyObject *error = PyErr_GetRaisedException();
    PyObject *packed = pickling_call(how, error, result, NULL, NULL);
    if (packed == NULL || codec_pack_outcome(&self->packs, WIRE_EXCEPTION, packed, outcome) < 0) {
        PyErr_Clear();
        memset(outcome, 0, sizeof(*outcome));
        outcome->head.kind = WIRE_NO_MEMORY;
    }
    Py_XDECREF(packed);
    Py_XDECREF(error);
}

// The parent kills this process because of a call; if it does not, a stray write has condemned that call.
static void
await_kill(void)
{
    _Atomic uint32_t word = 0;  // nobody changes it
    int64_t deadline_ns = clock_now_ns() + KILL_NS;
    Py_BEGIN_ALLOW_THREADS
    while (clock_now_ns() < deadline_ns) {
        futex_wait(&word, 0, deadline_ns);
    }
    kill(getpid(), SIGKILL);
    Py_END_ALLOW_THREADS
}

void
worker_finish_slot(WorkerObject *self, job_slot *slot, packed_message *outcome)
{
    if (job_slot_is_stoppable(slot) && !job_slot_finish(slot)) {
        await_kill();
    }
    packed_message_write(outcome, slot->message);
    packed_message_drop(outcome, self->region, true);
    self->is_cut_off |= !job_ring_complete(&self->ring, self->number, slot);
}

bool
worker_is_inherited(WorkerObject *self)
{
    return region_me(self->region) == SHM_NOBODY;
}

PyObject *
worker_end_with(long how)
{
    PyObject *code = PyLong_FromLong(how);
    if (code != NULL) {
        PyErr_SetObject(PyExc_SystemExit, code);
        Py_DECREF(code);
    }
    return NULL;
}
