#include "worker_loop.h"

#include <unistd.h>

#include "core/clock.h"
#include "core/job_ring_worker.h"

// What the coroutine of a call can know of its options: (name or None, timeout or None, deadline or None).
static PyObject *
describe_options(const job_slot *slot, const slot_call *c)
{
    bool is_limited = c->flags & WIRE_LIMITED;
    PyObject *timeout = call_build_seconds(is_limited ? slot->timeout_ns : CALL_NO_LIMIT, CALL_NO_LIMIT);
    PyObject *deadline = call_build_seconds(is_limited ? slot->deadline_ns : CALL_NO_LIMIT, CALL_NO_LIMIT);
    PyObject *options = timeout == NULL || deadline == NULL
                            ? NULL
                            : PyTuple_Pack(3, c->name == NULL ? Py_None : c->name, timeout, deadline);
    Py_XDECREF(timeout);
    Py_XDECREF(deadline);
    return options;
}

// Unpacks the call of a slot that was taken; NULL without an exception if the slot is finished: the call
// failed.
static PyObject *
describe_call(WorkerObject *self, job_slot *slot)
{
    packed_message outcome;
    slot_call c;
    PyObject *described = NULL;
    if (worker_read_call(self, slot, &c) == 0) {
        bool has_options = c.name != NULL || c.flags & WIRE_LIMITED;
        PyObject *handle = PyLong_FromSsize_t(slot - self->ring.slots);
        PyObject *options = has_options ? describe_options(slot, &c) : NULL;
        if (handle != NULL && (options != NULL || !has_options)) {
            // Without options the fifth is NULL, and not there.
            described = PyTuple_Pack(has_options ? 5 : 4, handle, c.callable, c.args,
                                     c.kwargs == NULL ? Py_None : c.kwargs, options);
        }
        Py_XDECREF(options);
        Py_XDECREF(handle);
        slot_call_clear(&c);
    }
    if (described == NULL) {
        worker_pack_failure(self, "pack_unpickling_error", NULL, &outcome);
        worker_finish_slot(self, slot, &outcome);
    }
    return described;
}

// Appends the call of a slot to a list, unless the slot is finished.  0, or -1 with an exception.
static int
append_call(WorkerObject *self, job_slot *slot, PyObject *list, int64_t now_ns)
{
    // A call whose time is limited begins when it says so, see worker_begin().
    if (!(((wire *)slot->message)->flags & WIRE_LIMITED)) {
        job_slot_begin(slot, now_ns);
    }
    PyObject *described = describe_call(self, slot);
    int rc = described == NULL ? 0 : PyList_Append(list, described);
    Py_XDECREF(described);
    return rc;
}

// Reads what the parent wants of this worker alone: calls that are for it, and which to cancel.
static int
append_inbox(WorkerObject *self, PyObject *list, int64_t now_ns)
{
    job_slot *slot;
    bool is_handed;
    int rc = 0;
    while (rc == 0 && (slot = job_ring_read_inbox(&self->ring, self->number, &is_handed)) != NULL) {
        if (is_handed) {
            rc = append_call(self, slot, list, now_ns);
        }
        // Else it has ended, and the slot stands for another call by now, which nobody wants to end.
        else if (job_slot_asked(slot) != STOP_NOT) {
            PyObject *handle = PyLong_FromSsize_t(slot - self->ring.slots);
            rc = handle == NULL ? -1 : PyList_Append(list, handle);
            Py_XDECREF(handle);
        }
    }
    return rc;
}

static int
require_doorbell(WorkerObject *self)
{
    if (self->doorbells == NULL) {
        PyErr_SetString(PyExc_ValueError, "this worker has no doorbell");
        return -1;
    }
    return 0;
}

PyObject *
worker_take(PyObject *op, PyObject *arg)
{
    WorkerObject *self = (WorkerObject *)op;
    unsigned long most = PyLong_AsUnsignedLong(arg);
    if (most == (unsigned long)-1 && PyErr_Occurred()) {
        return NULL;
    }
    if (worker_is_inherited(self)) {
        return Py_BuildValue("[][]");
    }
    if (require_doorbell(self) < 0) {
        return NULL;
    }
    // Before the worker looks at anything: it hears afterwards whoever rings from now on.
    uint64_t count;
    (void)!read(self->doorbells[self->number], &count, sizeof(count));
    job_ring_enter(&self->ring, self->number);
    int64_t now_ns = clock_now_ns();
    PyObject *wanted = PyList_New(0);
    PyObject *calls = PyList_New(0);
    if (wanted == NULL || calls == NULL || append_inbox(self, wanted, now_ns) < 0) {
        goto fail;
    }
    uint32_t workers = self->ring.worker_count;
    unsigned long share = (job_ring_ready_count(&self->ring) + workers - 1) / workers;
    most = share < most ? share : most;
    job_slot *slot;
    for (; most > 0 && (slot = job_ring_claim(&self->ring, self->number)) != NULL; most--) {
        if (append_call(self, slot, calls, now_ns) < 0) {
            goto fail;  // The worker ends, and its parent knows which slots it had taken.
        }
    }
    return Py_BuildValue("NN", wanted, calls);
fail:
    Py_XDECREF(wanted);
    Py_XDECREF(calls);
    return NULL;
}

PyObject *
worker_identify(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    WorkerObject *self = (WorkerObject *)op;
    return Py_BuildValue("II", (unsigned)self->number,
                         (unsigned)job_ring_generation(&self->ring, self->number));
}

// The slot of a handle; NULL with an exception.
static job_slot *
slot_of(WorkerObject *self, PyObject *handle)
{
    unsigned long number = PyLong_AsUnsignedLong(handle);
    if (number == (unsigned long)-1 && PyErr_Occurred()) {
        return NULL;
    }
    if (number >= self->ring.slot_count) {
        PyErr_SetString(PyExc_ValueError, "there is no such call");
        return NULL;
    }
    return &self->ring.slots[number];
}

PyObject *
worker_begin(PyObject *op, PyObject *handle)
{
    WorkerObject *self = (WorkerObject *)op;
    job_slot *slot = slot_of(self, handle);
    if (slot == NULL) {
        return NULL;
    }
    int64_t now_ns = clock_now_ns();
    if (slot->deadline_ns > now_ns) {
        job_slot_begin(slot, now_ns);
        return call_build_seconds(now_ns, CALL_NO_LIMIT);
    }
    packed_message outcome = worker_expired;
    worker_finish_slot(self, slot, &outcome);
    Py_RETURN_NONE;
}

PyObject *
worker_asked(PyObject *op, PyObject *handle)
{
    WorkerObject *self = (WorkerObject *)op;
    job_slot *slot = slot_of(self, handle);
    bool is_own = slot != NULL && !worker_is_inherited(self);
    return slot == NULL ? NULL : call_build_reason(is_own ? job_slot_asked(slot) : STOP_NOT);
}

PyObject *
worker_finish(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    WorkerObject *self = (WorkerObject *)op;
    if (nargs < 2 || nargs > 3) {
        PyErr_SetString(PyExc_TypeError, "finish() takes 2 or 3 arguments");
        return NULL;
    }
    job_slot *slot = slot_of(self, args[0]);
    if (slot == NULL) {
        return NULL;
    }
    if (worker_is_inherited(self)) {
        Py_RETURN_NONE;
    }
    packed_message outcome;
    PyObject *result = NULL;
    int64_t ran_ns = clock_now_ns() - job_slot_began(slot);
    if (PyExceptionInstance_Check(args[1])) {
        PyErr_SetRaisedException(Py_NewRef(args[1]));
    }
    else {
        result = PyObject_CallMethodNoArgs(args[1], self->module->str_result);
    }
    if (nargs == 3) {
        wire_kind kind = result == NULL ? WIRE_EXCEPTION : WIRE_RESULT;
        PyErr_Clear();
        if (codec_pack_outcome(&self->packs, kind, args[2], &outcome) == 0) {
            outcome.head.flags |= WIRE_WHERE;
        }
        else {
            worker_pack_failure(self, "pack_exception", NULL, &outcome);
        }
    }
    else if (result == NULL || codec_pack_outcome(&self->packs, WIRE_RESULT, result, &outcome) < 0) {
        worker_pack_failure(self, "pack_exception", NULL, &outcome);
    }
    Py_XDECREF(result);
    outcome.head.elapsed_ns = (uint64_t)ran_ns;
    worker_finish_slot(self, slot, &outcome);
    Py_RETURN_NONE;
}

PyObject *
worker_listen(PyObject *op, PyObject *arg)
{
    WorkerObject *self = (WorkerObject *)op;
    int is_idle = PyObject_IsTrue(arg);
    if (is_idle < 0) {
        return NULL;
    }
    if (require_doorbell(self) < 0) {
        return NULL;
    }
    if (worker_is_inherited(self)) {
        Py_RETURN_NONE;
    }
    int rc = job_ring_listen(&self->ring, self->number, is_idle);
    if (rc == JOB_RING_DAMAGED) {
        return worker_end_with(WORKER_MEMORY_DAMAGED);
    }
    // A loop does not hear a doorbell whose file was closed.
    if (self->is_cut_off || !shm_file_is_there(&self->doorbell)) {
        return worker_end_with(WORKER_CUT_OFF);
    }
    if (rc == JOB_RING_CLOSED) {
        Py_RETURN_NONE;
    }
    return PyBool_FromLong(rc == JOB_RING_LISTENS);
}

PyObject *
worker_is_closed(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(job_ring_is_closed(&((WorkerObject *)op)->ring));
}

PyObject *
worker_leave(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    WorkerObject *self = (WorkerObject *)op;
    if (!worker_is_inherited(self)) {
        job_ring_exit(&self->ring, self->number);
    }
    Py_RETURN_NONE;
}
