#include "worker_run.h"

#include <sys/resource.h>
#include <unistd.h>

#include "base/callable_name.h"
#include "core/clock.h"
#include "core/footprint.h"
#include "core/futex.h"
#include "core/job_ring_worker.h"

// How long a worker makes calls of a chunk that a map took for short ones: then it returns those that are
// left.
// Measured with benchmarks/constants.py: maps of uneven calls take 103 to 104 ms, with a tenth or ten times
// as much 102 to 106; short calls cost the same.
#define CHUNK_MAX_NS 20000000

// How often to measure at most how large a worker is that has always something to do.
#define MEASURE_NS 1000000

// ---- one call ----

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
        PyObject *named = bytes == NULL ? NULL : pickling_call("name_memory_limit", error, bytes, NULL, NULL);
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
    PyObject *packed = pickling_call("pack_exception", error, NULL, NULL, NULL);
    Py_DECREF(error);
    if (packed == NULL) {
        Py_DECREF(results);
        return NULL;
    }
    return Py_BuildValue("NN", results, packed);
}

// A chunk's results cannot be packed together: packs those before the first that cannot, with the reason.
// 0, or -1 with the exception that was set.
static int
pack_prefix(WorkerObject *self, PyObject *result, packed_message *outcome)
{
    PyObject *error = PyErr_GetRaisedException();
    PyObject *prefix = pickling_call("find_prefix", PyTuple_GET_ITEM(result, 0), NULL, NULL, NULL);
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

// Makes the calls of a slot.
static PyObject *
make_call(WorkerObject *self, slot_call *c)
{
    PyObject *result;
    self->place.is_interrupted = false;
    Py_CLEAR(self->where);
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
    Py_CLEAR(self->place.inner);
    return result;
}

bool
worker_run_show(call_place *place, PyObject *callable)
{
    WorkerObject *self = THING_OF(place, WorkerObject, place);
    if (self->running == NULL || worker_is_inherited(self)) {
        return false;
    }
    callable_show(self->module, &self->view->name, &self->named, callable, self->running->name);
    return true;
}

// What a call leaves whose end was asked for: the parent wants to know only how it ended.
static const packed_message dropped_result = {.head.kind = WIRE_RESULT};
static const packed_message dropped_exception = {.head.kind = WIRE_EXCEPTION};

// The same, and where the call was when its time was over, if that is known.
static packed_message
drop_outcome(WorkerObject *self, bool has_returned)
{
    packed_message outcome;
    if (self->where != NULL) {
        wire_kind kind = has_returned ? WIRE_RESULT : WIRE_EXCEPTION;
        if (codec_pack_outcome(&self->packs, kind, self->where, &outcome) == 0) {
            outcome.head.flags |= WIRE_WHERE;
            return outcome;
        }
        PyErr_Clear();
    }
    return has_returned ? dropped_result : dropped_exception;
}

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
    worker_view_enter(self->view, WORKER_UNPICKLES);
    if (worker_read_call(self, slot, &c) < 0) {
        worker_pack_failure(self, "pack_unpickling_error", NULL, &outcome);
    }
    else if (c.flags & WIRE_LIMITED && !begin_limited(slot)) {
        slot_call_clear(&c);
        outcome = worker_expired;
    }
    else {
        bool is_chunk = c.kind == WIRE_CHUNK;
        start = is_chunk ? clock_now_ns() : 0;
        callable_show(self->module, &self->view->name, &self->named, c.callable, c.name);
        worker_view_enter(self->view, WORKER_RUNS);
        PyObject *result = make_call(self, &c);
        ended_ns = clock_now_ns();
        PyObject *error = result == NULL ? PyErr_GetRaisedException() : NULL;
        // Before the parent sees the outcome, so that a thread that waits for it finds the arguments gone.
        slot_call_clear(&c);
        if (worker_is_inherited(self)) {
            Py_XDECREF(result);
            Py_XDECREF(error);
            return ended_ns;
        }
        worker_view_enter(self->view, WORKER_PICKLES);
        if (error != NULL) {
            PyErr_SetRaisedException(error);
        }
        if (!is_chunk && job_slot_is_stoppable(slot) && job_slot_asked(slot) != STOP_NOT) {
            PyErr_Clear();
            outcome = drop_outcome(self, result != NULL);
        }
        else if ((result == NULL || codec_pack_outcome(&self->packs, WIRE_RESULT, result, &outcome) < 0)
                 && (!is_chunk || result == NULL || pack_prefix(self, result, &outcome) < 0)) {
            bool is_refused = result != NULL && !is_chunk;
            worker_pack_failure(self, is_refused ? "pack_refusal" : "pack_exception",
                                is_refused ? result : NULL, &outcome);
        }
        Py_XDECREF(result);
        // Of a chunk to pack the results counts, too: its size depends on it.
        outcome.head.elapsed_ns =
            (uint64_t)(is_chunk ? clock_now_ns() - start : ended_ns - job_slot_began(slot));
    }
    bool is_short = ended_ns != 0 && outcome.block == NULL;
    worker_finish_slot(self, slot, &outcome);
    return is_short ? ended_ns : clock_now_ns();
}

// ---- one call after the other ----

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
            if (worker_is_inherited(self)) {
                Py_RETURN_NONE;
            }
            if (self->interrupted_import) {
                job_ring_exit(&self->ring, self->number);
                return worker_end_with(WORKER_INTERRUPTED_IMPORT);
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
                return worker_end_with(WORKER_IDLED);
            }
            int64_t end_ns =
                max_idle_ns < INT64_MAX - idle_since_ns ? idle_since_ns + max_idle_ns : FUTEX_NO_DEADLINE;
            PyThreadState *thread = PyEval_SaveThread();
            rc = job_ring_wait(&self->ring, self->number, &self->spot, end_ns);
            PyEval_RestoreThread(thread);
            now = clock_now_ns();
        }
        if (rc == JOB_RING_DAMAGED || self->is_cut_off) {
            return worker_end_with(self->is_cut_off ? WORKER_CUT_OFF : WORKER_MEMORY_DAMAGED);
        }
        if (PyErr_CheckSignals() < 0) {
            job_ring_exit(&self->ring, self->number);
            return NULL;
        }
    }
    job_ring_exit(&self->ring, self->number);
    Py_RETURN_NONE;
}

PyObject *
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
