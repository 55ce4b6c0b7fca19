#include "worker.h"

#include <frameobject.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/footprint.h"
#include "core/futex.h"
#include "core/job_ring_worker.h"

// How long a worker makes calls of a chunk that a map took for short ones: then it returns those that are
// left.
#define CHUNK_MAX_NS 20000000

// How long a worker waits at most for its parent to kill it.
#define KILL_NS 1000000000

// How often to measure at most how large a worker is that has always something to do.
#define MEASURE_NS 1000000

// ---- one call ----

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

typedef struct slot_call {
    job_slot *slot;
    PyObject *callable;
    PyObject *args;    // tuple; of a chunk, list of items
    PyObject *kwargs;  // dict, or NULL
    PyObject *name;    // str, or NULL
    wire_kind kind;
    unsigned flags;
} slot_call;

static void
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

// Unpacks the call of a slot.  0, or -1 with what unpickling raised.
static int
read_call(WorkerObject *self, job_slot *slot, slot_call *c)
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

// What a call was given in place of the process's own limit of memory.
typedef struct memory_bound {
    rlim_t given, own;  // equal: nothing
} memory_bound;

// A call is about to begin: it may have so many bytes more than this process has now.
static memory_bound
bound_memory(const WorkerObject *self)
{
    memory_bound bound = {0};
    footprint now;
    struct rlimit limit;
    if (self->memory_limit == 0 || !footprint_read(&now) || getrlimit(RLIMIT_DATA, &limit) < 0) {
        return bound;
    }
    rlim_t most = now.data_bytes + self->memory_limit;
    if (most < limit.rlim_cur) {
        bound = (memory_bound){.given = most, .own = limit.rlim_cur};
        limit.rlim_cur = most;
        (void)setrlimit(RLIMIT_DATA, &limit);
    }
    return bound;
}

// The call has returned this, or NULL with an exception: the same, but a MemoryError says that there was a
// limit.
static PyObject *
unbound_memory(const WorkerObject *self, memory_bound bound, PyObject *result)
{
    struct rlimit limit;
    if (bound.given == bound.own) {
        return result;
    }
    // A limit that the call has set itself stays.
    if (getrlimit(RLIMIT_DATA, &limit) == 0 && limit.rlim_cur == bound.given) {
        limit.rlim_cur = bound.own;
        (void)setrlimit(RLIMIT_DATA, &limit);
    }
    if (result == NULL && PyErr_ExceptionMatches(PyExc_MemoryError)) {
        PyObject *error = PyErr_GetRaisedException();
        PyObject *bytes = PyLong_FromUnsignedLongLong(self->memory_limit);
        PyObject *named = bytes == NULL ? NULL : codec_call("name_memory_limit", error, bytes, NULL, NULL);
        Py_XDECREF(bytes);
        if (named != NULL) {
            Py_SETREF(error, named);
        }
        else {
            PyErr_Clear();
        }
        PyErr_SetRaisedException(error);
    }
    return result;
}

// Makes the calls of a chunk that nobody splits off: (results, what ended them early or None).
static PyObject *
call_chunk(WorkerObject *self, job_slot *slot, slot_call *c)
{
    int64_t end_ns = c->flags & WIRE_BOUNDED ? clock_coarse_ns() + CHUNK_MAX_NS : INT64_MAX;
    PyObject *error = NULL;
    PyObject *results = PyList_New(0);
    if (results == NULL || !PyList_CheckExact(c->args)) {
        return NULL;
    }
    uint32_t next;
    while ((next = job_slot_next(slot)) != UINT32_MAX && (Py_ssize_t)next < PyList_GET_SIZE(c->args)) {
        // The list lets go of each item when its turn comes, so that the call alone holds it.
        PyObject *item = Py_NewRef(PyList_GET_ITEM(c->args, next));
        PyList_SetItem(c->args, next, Py_NewRef(Py_None));
        memory_bound bound = bound_memory(self);
        PyObject *result = c->flags & WIRE_STAR ? PyObject_CallObject(c->callable, item)
                                                : PyObject_CallOneArg(c->callable, item);
        result = unbound_memory(self, bound, result);
        Py_DECREF(item);
        if (result == NULL) {
            error = PyErr_GetRaisedException();
            break;
        }
        int rc = PyList_Append(results, result);
        Py_DECREF(result);
        if (rc < 0) {
            Py_DECREF(results);
            return NULL;
        }
        if (end_ns != INT64_MAX && clock_coarse_ns() > end_ns) {
            break;
        }
    }
    if (error == NULL) {
        return Py_BuildValue("NO", results, Py_None);
    }
    PyObject *packed = codec_call("pack_exception", error, NULL, NULL, NULL);
    Py_DECREF(error);
    if (packed == NULL) {
        Py_DECREF(results);
        return NULL;
    }
    return Py_BuildValue("NN", results, packed);
}

// Packs the exception that is set as an outcome; result: what cannot be pickled, if the exception says so, or
// NULL.
static void
pack_failure(WorkerObject *self, const char *how, PyObject *result, packed_message *outcome)
{
    PyObject *error = PyErr_GetRaisedException();
    PyObject *packed = codec_call(how, error, result, NULL, NULL);
    if (packed == NULL || codec_pack_outcome(&self->packs, WIRE_EXCEPTION, packed, outcome) < 0) {
        PyErr_Clear();
        memset(outcome, 0, sizeof(*outcome));
        outcome->head.kind = WIRE_NO_MEMORY;
    }
    Py_XDECREF(packed);
    Py_XDECREF(error);
}

// A chunk's results cannot be packed together: packs those before the first that cannot, with the reason.
// 0, or -1 with the exception that was set.
static int
pack_prefix(WorkerObject *self, PyObject *result, packed_message *outcome)
{
    PyObject *error = PyErr_GetRaisedException();
    PyObject *prefix = codec_call("find_prefix", PyTuple_GET_ITEM(result, 0), NULL, NULL, NULL);
    int rc = prefix == NULL ? -1 : codec_pack_outcome(&self->packs, WIRE_RESULT, prefix, outcome);
    Py_XDECREF(prefix);
    if (rc < 0) {
        PyErr_Clear();
        PyErr_SetRaisedException(error);
        return -1;
    }
    Py_XDECREF(error);
    return 0;
}

// True in the child of a fork, which is no worker: the slots are its parent's.
static bool
is_inherited(WorkerObject *self)
{
    return region_me(self->region) == SHM_NOBODY;
}

// ---- the call that runs ----

static CallObject *
worker_get_call(call_place *place)
{
    WorkerObject *self = THING_OF(place, WorkerObject, place);
    const slot_call *c = self->running;
    if (c == NULL || is_inherited(self)) {
        return NULL;
    }
    bool is_stoppable = job_slot_is_stoppable(c->slot);
    call_options options = {.timeout_ns = is_stoppable ? c->slot->timeout_ns : CALL_NO_LIMIT,
                            .deadline_ns = is_stoppable ? c->slot->deadline_ns : CALL_NO_LIMIT,
                            .name = c->name};
    return call_place_get(place, c->callable, &options, job_slot_began(c->slot));
}

static stop_reason
worker_stop_reason(const call_place *place)
{
    WorkerObject *self = THING_OF(place, WorkerObject, place);
    return self->running == NULL || is_inherited(self) ? STOP_NOT : job_slot_asked(self->running->slot);
}

// Whether code that the call runs is importing something, by the interpreter's frames from `frame` on.
static bool
is_importing(WorkerObject *self, PyObject *frame)
{
    bool found = false;
    Py_INCREF(frame);
    while (frame != NULL && frame != self->base_frame && !found) {
        PyObject *code = (PyObject *)PyFrame_GetCode((PyFrameObject *)frame);
        PyObject *file = PyObject_GetAttrString(code, "co_filename");
        found = file != NULL && PyUnicode_Check(file)
                && PyUnicode_CompareWithASCIIString(file, "<frozen importlib._bootstrap>") == 0;
        Py_XDECREF(file);
        Py_DECREF(code);
        Py_SETREF(frame, (PyObject *)PyFrame_GetBack((PyFrameObject *)frame));
    }
    Py_XDECREF(frame);
    PyErr_Clear();
    return found;
}

PyDoc_STRVAR(on_stop_doc,
"on_stop($self, signal, frame, /)\n--\n\n"
"Interrupt the call that this worker runs if it is to end. A handler of signals.");

static PyObject *
worker_on_stop(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    WorkerObject *self = (WorkerObject *)op;
    bool imports = nargs == 2 && PyFrame_Check(args[1]) && is_importing(self, args[1]);
    if (call_interrupt(&self->place) < 0) {
        self->interrupted_import |= imports;
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(on_unraisable_doc,
"on_unraisable($self, former, signal, unraisable, /)\n--\n\n"
"Call the former sys.unraisablehook; then have a TaskCancelled that was lost raised again, by that signal.");

// The interpreter prints what is raised in a destructor or in a weak reference's callback, and goes on, as
// the call would.  It looks for pending signals where bytecode runs again, which is outside, as it is
// functools.partial that calls this.
static PyObject *
worker_on_unraisable(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    WorkerObject *self = (WorkerObject *)op;
    if (nargs != 3) {
        PyErr_SetString(PyExc_TypeError, "on_unraisable() takes 3 arguments");
        return NULL;
    }
    long number = PyLong_AsLong(args[1]);
    PyObject *type = PyErr_Occurred() ? NULL : PyObject_GetAttrString(args[2], "exc_type");
    PyObject *result = type == NULL ? NULL : PyObject_CallOneArg(args[0], args[2]);
    bool is_ours = result != NULL && type == self->place.module->task_cancelled && self->running != NULL
                   && call_here == &self->place && !is_inherited(self);
    if (is_ours) {
        self->place.is_interrupted = false;
        PyErr_SetInterruptEx((int)number);
    }
    Py_XDECREF(type);
    return result;
}

// Makes the calls of a slot.
static PyObject *
make_call(WorkerObject *self, slot_call *c)
{
    PyObject *result;
    self->place.is_interrupted = false;
    self->running = c;
    if (c->kind == WIRE_CHUNK) {
        result = call_chunk(self, c->slot, c);
    }
    else {
        // The parent may have asked for its end before, and the signal found no call.
        bool is_asked = job_slot_is_stoppable(c->slot) && call_interrupt(&self->place) < 0;
        memory_bound bound = bound_memory(self);
        result = is_asked ? NULL : PyObject_Call(c->callable, c->args, c->kwargs);
        result = unbound_memory(self, bound, result);
    }
    call_end(&self->place);
    self->running = NULL;
    return result;
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

static void
finish_slot(WorkerObject *self, job_slot *slot, packed_message *outcome)
{
    if (job_slot_is_stoppable(slot) && !job_slot_finish(slot)) {
        await_kill();
    }
    packed_message_write(outcome, slot->message);
    packed_message_drop(outcome, self->region, true);
    self->is_cut_off |= !job_ring_complete(&self->ring, self->number, slot);
}

// The outcome of a call whose deadline has passed before it began.
static const packed_message expired = {.head.kind = WIRE_EXPIRED};

// What a call leaves whose end was asked for: the parent wants to know only how it ended.
static const packed_message dropped_result = {.head.kind = WIRE_RESULT};
static const packed_message dropped_exception = {.head.kind = WIRE_EXCEPTION};

// The time of a call with a limit begins to count now, after it was unpacked, which may import modules.
// False: its deadline has passed.
static bool
begin_limited(job_slot *slot)
{
    int64_t now_ns = clock_now_ns();
    job_slot_begin(slot, now_ns);
    return now_ns < slot->deadline_ns;
}

// Unpacks and makes the call of a slot, and finishes the slot with the outcome.  Returns about what time it
// is then: to pack a short outcome takes no longer than to look.
static int64_t
run_slot(WorkerObject *self, job_slot *slot)
{
    packed_message outcome;
    slot_call c;
    int64_t start = 0, ended_ns = 0;
    if (read_call(self, slot, &c) < 0) {
        pack_failure(self, "pack_unpickling_error", NULL, &outcome);
    }
    else if (c.flags & WIRE_LIMITED && !begin_limited(slot)) {
        slot_call_clear(&c);
        outcome = expired;
    }
    else {
        bool is_chunk = c.kind == WIRE_CHUNK;
        start = is_chunk ? clock_now_ns() : 0;
        PyObject *result = make_call(self, &c);
        ended_ns = clock_now_ns();
        PyObject *error = result == NULL ? PyErr_GetRaisedException() : NULL;
        // Before the parent sees the outcome, so that a thread that waits for it finds the arguments gone.
        slot_call_clear(&c);
        if (is_inherited(self)) {
            Py_XDECREF(result);
            Py_XDECREF(error);
            return ended_ns;
        }
        if (error != NULL) {
            PyErr_SetRaisedException(error);
        }
        if (!is_chunk && job_slot_is_stoppable(slot) && job_slot_asked(slot) != STOP_NOT) {
            PyErr_Clear();
            outcome = result == NULL ? dropped_exception : dropped_result;
        }
        else if ((result == NULL || codec_pack_outcome(&self->packs, WIRE_RESULT, result, &outcome) < 0)
                 && (!is_chunk || result == NULL || pack_prefix(self, result, &outcome) < 0)) {
            bool is_refused = result != NULL && !is_chunk;
            pack_failure(self, is_refused ? "pack_refusal" : "pack_exception", is_refused ? result : NULL,
                         &outcome);
        }
        Py_XDECREF(result);
        // Of a chunk to pack the results counts, too: its size depends on it.
        outcome.head.elapsed_ns =
            (uint64_t)(is_chunk ? clock_now_ns() - start : ended_ns - job_slot_began(slot));
    }
    bool is_short = ended_ns != 0 && outcome.block == NULL;
    finish_slot(self, slot, &outcome);
    return is_short ? ended_ns : clock_now_ns();
}

// ---- a worker that runs an event loop ----

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
    if (read_call(self, slot, &c) == 0) {
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
        pack_failure(self, "pack_unpickling_error", NULL, &outcome);
        finish_slot(self, slot, &outcome);
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

PyDoc_STRVAR(take_doc,
"take($self, most, /)\n--\n\n"
"Take a fair share of the calls that are ready, and not more than a number of them.\n\n"
"Return (wanted, calls), lists of (handle, callable, args, kwargs or None), with (name, timeout, deadline)\n"
"at the end if one of these is not None. In wanted are first the calls that only this worker may run, and\n"
"just handles, of calls to be cancelled if they still run; to be looked at in order.");

static PyObject *
worker_take(PyObject *op, PyObject *arg)
{
    WorkerObject *self = (WorkerObject *)op;
    unsigned long most = PyLong_AsUnsignedLong(arg);
    if (most == (unsigned long)-1 && PyErr_Occurred()) {
        return NULL;
    }
    if (is_inherited(self)) {
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

PyDoc_STRVAR(identify_doc,
"identify($self, /)\n--\n\n"
"Return this worker's number and generation, for ProcessQueue.submit_to_worker().");

static PyObject *
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

PyDoc_STRVAR(begin_doc,
"begin($self, handle, /)\n--\n\n"
"Note that a call whose time is limited begins now, and return when that is, by time.monotonic(); or finish\n"
"it and return None: its deadline has passed.");

static PyObject *
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
    packed_message outcome = expired;
    finish_slot(self, slot, &outcome);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(asked_doc,
"asked($self, handle, /)\n--\n\n"
"Return why a call that this worker has taken is to end, as Call.reason() does; None: it is not.");

static PyObject *
worker_asked(PyObject *op, PyObject *handle)
{
    WorkerObject *self = (WorkerObject *)op;
    job_slot *slot = slot_of(self, handle);
    return slot == NULL ? NULL : call_build_reason(is_inherited(self) ? STOP_NOT : job_slot_asked(slot));
}

PyDoc_STRVAR(finish_doc,
"finish($self, handle, task, where=None, /)\n--\n\n"
"Send the outcome of a call: that of an asyncio.Task which is done, or an exception. where: of a call whose\n"
"time is over, a str: where it was then, to be sent instead.");

static PyObject *
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
    if (is_inherited(self)) {
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
            pack_failure(self, "pack_exception", NULL, &outcome);
        }
    }
    else if (result == NULL || codec_pack_outcome(&self->packs, WIRE_RESULT, result, &outcome) < 0) {
        pack_failure(self, "pack_exception", NULL, &outcome);
    }
    Py_XDECREF(result);
    outcome.head.elapsed_ns = (uint64_t)ran_ns;
    finish_slot(self, slot, &outcome);
    Py_RETURN_NONE;
}

// Ends the worker with an exit code that tells its parent to look.
static PyObject *
end_with(long how)
{
    PyObject *code = PyLong_FromLong(how);
    if (code != NULL) {
        PyErr_SetObject(PyExc_SystemExit, code);
        Py_DECREF(code);
    }
    return NULL;
}

PyDoc_STRVAR(listen_doc,
"listen($self, is_idle, /)\n--\n\n"
"Say that the doorbell is to be rung when there is work; is_idle: that there is nothing else to do.\n\n"
"Return True if it will be, False if there is work already, and None when there never will be more.");

static PyObject *
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
    if (is_inherited(self)) {
        Py_RETURN_NONE;
    }
    int rc = job_ring_listen(&self->ring, self->number, is_idle);
    if (rc == JOB_RING_DAMAGED) {
        return end_with(WORKER_MEMORY_DAMAGED);
    }
    // A loop does not hear a doorbell whose file was closed.
    if (self->is_cut_off || !shm_file_is_there(&self->doorbell)) {
        return end_with(WORKER_CUT_OFF);
    }
    if (rc == JOB_RING_CLOSED) {
        Py_RETURN_NONE;
    }
    return PyBool_FromLong(rc == JOB_RING_LISTENS);
}

PyDoc_STRVAR(is_closed_doc,
"is_closed($self, /)\n--\n\n"
"Return True when the parent has no more calls, nor consumers of streams.");

static PyObject *
worker_is_closed(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(job_ring_is_closed(&((WorkerObject *)op)->ring));
}

PyDoc_STRVAR(leave_doc,
"leave($self, /)\n--\n\n"
"Say that this worker takes nothing any more.");

static PyObject *
worker_leave(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    WorkerObject *self = (WorkerObject *)op;
    if (!is_inherited(self)) {
        job_ring_exit(&self->ring, self->number);
    }
    Py_RETURN_NONE;
}

// ---- the life of a worker ----

PyDoc_STRVAR(wait_admitted_doc,
"wait_admitted($self, /)\n--\n\n"
"Wait until the parent knows this worker; before, it must not take anything.");

static PyObject *
worker_wait_admitted(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    WorkerObject *self = (WorkerObject *)op;
    bool admitted = is_inherited(self);
    while (!admitted) {
        PyThreadState *thread = PyEval_SaveThread();
        admitted = job_ring_wait_admitted(&self->ring, self->number);
        PyEval_RestoreThread(thread);
        if (PyErr_CheckSignals() < 0) {
            return NULL;
        }
    }
    Py_RETURN_NONE;
}

// How large a worker may become that is to be replaced then.
typedef struct growth {
    uint64_t max_bytes;  // 0: as large as it likes
    uint64_t peak_at_start;
    int64_t measured_ns;
    bool is_due;  // something has run since it was measured
    bool has_asked;
} growth;

// Whether this process has more in memory than it may.  Without /proc what counts is the most that it has
// had, once that is more than it had as it began.
static bool
is_too_large(const growth *limit)
{
    footprint now;
    if (footprint_read(&now)) {
        return now.resident_bytes > limit->max_bytes;
    }
    uint64_t peak = footprint_peak();
    return peak > limit->max_bytes && peak > limit->peak_at_start;
}

// Measures, and if need be asks for a successor.  True: the parent cannot be told, so this worker is to leave
// without one.
static bool
outgrows(WorkerObject *self, growth *limit, int64_t now_ns)
{
    uint64_t one = 1;
    limit->measured_ns = now_ns;
    limit->is_due = false;
    if (!is_too_large(limit)) {
        return false;
    }
    limit->has_asked = true;
    job_ring_ask_relief(&self->ring, self->number);
    return !shm_file_is_there(&self->relief)
           || write(self->relief_fd, &one, sizeof(one)) != (ssize_t)sizeof(one);
}

// Waits until the worker that this one replaces has left.  0, or -1 with an exception.
static int
await_turn(WorkerObject *self)
{
    bool has_turn = self->relief_fd < 0;
    while (!has_turn) {
        PyThreadState *thread = PyEval_SaveThread();
        has_turn = job_ring_succeed(&self->ring, self->number);
        PyEval_RestoreThread(thread);
        if (PyErr_CheckSignals() < 0) {
            return -1;
        }
    }
    return 0;
}

static PyObject *
run_tasks(WorkerObject *self, unsigned long long max_tasks, unsigned long long max_rss, int64_t max_idle_ns)
{
    unsigned long long tasks = 0;
    growth limit = {.max_bytes = max_rss, .peak_at_start = max_rss > 0 ? footprint_peak() : 0};
    // now: when the worker last looked, which is when the next slot begins.
    int64_t now = clock_now_ns(), checked_ns = now, idle_since_ns = now;
    int rc = JOB_RING_WORK;
    job_ring_enter(&self->ring, self->number);
    while ((max_tasks == 0 || tasks < max_tasks)
           && !(limit.has_asked && job_ring_is_relieved(&self->ring, self->number))) {
        job_slot *slot = job_ring_claim(&self->ring, self->number);
        if (slot != NULL) {
            // A call with a limit begins when it is unpacked, see run_slot().
            if (!(((wire *)slot->message)->flags & WIRE_LIMITED)) {
                job_slot_begin(slot, now);
            }
            now = run_slot(self, slot);
            if (is_inherited(self)) {
                Py_RETURN_NONE;
            }
            if (self->interrupted_import) {
                job_ring_exit(&self->ring, self->number);
                return end_with(WORKER_INTERRUPTED_IMPORT);
            }
            tasks++;
            idle_since_ns = now;
            limit.is_due = max_rss > 0 && !limit.has_asked;
            if (limit.is_due && now - limit.measured_ns > MEASURE_NS && outgrows(self, &limit, now)) {
                break;
            }
            if (now - checked_ns > MODULE_CHECKPOINT_NS) {
                module_checkpoint(self->module);
                checked_ns = now = clock_now_ns();
            }
        }
        else {
            if (rc == JOB_RING_CLOSED || (limit.is_due && outgrows(self, &limit, now))) {
                break;
            }
            // Before it leaves it has looked for work, after it has stopped to count as one that sleeps.
            if (now - idle_since_ns >= max_idle_ns) {
                job_ring_exit(&self->ring, self->number);
                return end_with(WORKER_IDLED);
            }
            int64_t end_ns =
                max_idle_ns < INT64_MAX - idle_since_ns ? idle_since_ns + max_idle_ns : FUTEX_NO_DEADLINE;
            PyThreadState *thread = PyEval_SaveThread();
            rc = job_ring_wait(&self->ring, self->number, &self->spot, end_ns);
            PyEval_RestoreThread(thread);
            now = clock_now_ns();
        }
        if (rc == JOB_RING_DAMAGED || self->is_cut_off) {
            return end_with(self->is_cut_off ? WORKER_CUT_OFF : WORKER_MEMORY_DAMAGED);
        }
        if (PyErr_CheckSignals() < 0) {
            job_ring_exit(&self->ring, self->number);
            return NULL;
        }
    }
    job_ring_exit(&self->ring, self->number);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(run_doc,
"run($self, max_tasks, max_rss=0, memory_limit=0, max_idle=0, /)\n--\n\n"
"Run tasks until the parent closes the queue, or until max_tasks are done if that is not 0.\n\n"
"max_rss: how many bytes this process may have in memory between tasks, if that is not 0. With more it asks\n"
"the parent for another worker, and leaves when that one has begun. memory_limit: how many bytes more a\n"
"call may have than there are as it begins, if that is not 0. max_idle: for how many seconds it waits for a\n"
"task; then it leaves.");

static PyObject *
worker_run(PyObject *op, PyObject *args)
{
    WorkerObject *self = (WorkerObject *)op;
    unsigned long long max_tasks, max_rss = 0, memory_limit = 0;
    double max_idle = 0.0;
    if (!PyArg_ParseTuple(args, "K|KKd:run", &max_tasks, &max_rss, &memory_limit, &max_idle)) {
        return NULL;
    }
    // A century is for ever.
    int64_t max_idle_ns = max_idle > 0.0 && max_idle < 3e9 ? (int64_t)(max_idle * 1e9) : INT64_MAX;
    self->memory_limit = memory_limit;
    if (max_rss > 0 && self->relief_fd < 0) {
        PyErr_SetString(PyExc_ValueError, "this worker has no successor");
        return NULL;
    }
    if (await_turn(self) < 0) {
        return NULL;
    }
    call_here = &self->place;
    self->base_frame = (PyObject *)PyEval_GetFrame();
    PyObject *result = run_tasks(self, max_tasks, max_rss, max_idle_ns);
    self->base_frame = NULL;
    call_here = NULL;
    return result;
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
    self->packs.module = self->module;
    park_spot_init(&self->spot, 1);
    self->place = (call_place){.module = self->module,
                               .get = worker_get_call,
                               .reason = worker_stop_reason,
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
    if (rc != SHM_OK) {
        region_raise(rc);
        goto fail;
    }
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
    {"run", worker_run, METH_VARARGS, run_doc},
    {"identify", worker_identify, METH_NOARGS, identify_doc},
    {"take", worker_take, METH_O, take_doc},
    {"begin", worker_begin, METH_O, begin_doc},
    {"asked", worker_asked, METH_O, asked_doc},
    {"finish", FASTCALL(worker_finish), METH_FASTCALL, finish_doc},
    {"listen", worker_listen, METH_O, listen_doc},
    {"is_closed", worker_is_closed, METH_NOARGS, is_closed_doc},
    {"leave", worker_leave, METH_NOARGS, leave_doc},
    {"after_fork", worker_after_fork, METH_NOARGS, after_fork_doc},
    {"on_stop", (PyCFunction)(void (*)(void))worker_on_stop, METH_FASTCALL, on_stop_doc},
    {"on_unraisable", FASTCALL(worker_on_unraisable), METH_FASTCALL, on_unraisable_doc},
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
