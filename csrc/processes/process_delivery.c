#include "process_delivery.h"

#include <poll.h>

#include "base/call.h"
#include "core/clock.h"
#include "core/job_ring_parent.h"
#include "job_table_stops.h"
#include "job_table_workers.h"
#include "loops/loop_bridge.h"

// How long the result handler delivers outcomes that are cheap to deliver before it lets other threads in.
// Measured with benchmarks/constants.py: another thread is late by 5 ms, the interpreter's switch interval,
// by 6 with ten times as much, and by 13 with a tenth; a burst costs the same.
#define DELIVER_NS 2000000

// ---- unpacking ----

PyObject *
process_delivery_make_exception(const char *function, PyObject *about)
{
    PyObject *exception = pickling_call(function, about, NULL, NULL, NULL);
    return exception != NULL ? exception : PyErr_GetRaisedException();
}

// The message that the worker has sent, and as job->whole the part of it that is in shared memory.  NULL with
// an exception.
static const wire *
look_at_outcome(ProcessQueueObject *self, process_job *job)
{
    static const wire none = {.kind = WIRE_NO_MEMORY};
    if (job->block != NULL) {
        job->whole = block_new(self->region, job->block, job->block->capacity);
        job->block = NULL;  // the Block has the hold on it
        if (job->whole == NULL) {
            return NULL;
        }
    }
    return job->outcome == NULL ? &none : job->outcome;
}

// Unpacks the outcome of a collected task, and sets either *result or *exception.  If that is
// `interruptible`, -1 with what a signal handler raised while it ran; the outcome can be unpacked again.
static int
unpack_outcome(ProcessQueueObject *self, process_job *job, bool interruptible, PyObject **result,
               PyObject **exception)
{
    unpacked_message found = {0};
    const wire *outcome = look_at_outcome(self, job);
    const char *how = NULL;  // the function that makes the exception
    PyObject *about = NULL;
    if (outcome == NULL || codec_unpack(self->head.module, outcome, job->whole, &found) < 0) {
        if (interruptible && pickling_was_interrupted()) {
            Py_XDECREF(found.callable);
            return -1;
        }
        how = "outcome_error";
        about = PyErr_GetRaisedException();
    }
    else if (found.kind == WIRE_EXCEPTION) {
        how = "rebuild_exception";
        about = found.value;
    }
    else if (job->calls > 0) {
        // map() learns from how long its chunk took.
        *result = Py_BuildValue("NK", found.value, (unsigned long long)outcome->elapsed_ns);
        if (*result == NULL) {
            *exception = PyErr_GetRaisedException();
        }
    }
    else {
        *result = found.value;
    }
    Py_XDECREF(found.callable);
    if (how != NULL) {
        *exception = pickling_call(how, about, NULL, NULL, NULL);
        Py_DECREF(about);
        if (*exception == NULL && interruptible && pickling_was_interrupted()) {
            return -1;
        }
        if (*exception == NULL) {
            *exception = PyErr_GetRaisedException();
        }
    }
    return 0;
}

// ---- delivery ----

// Writes down when a task has run that a worker had taken, if a trace wants to know.
static void
trace_outcome(task *t, trace_ending how)
{
    const process_job *job = process_job_of(t);
    if (t->traced != 0 && job->process != 0 && job->began_ns > 0) {
        // Of a worker that died, or was killed, nobody knows when the call ended; it is over now.
        bool is_told = job->outcome != NULL && job->outcome->elapsed_ns < INT64_MAX / 2;
        int64_t ended_ns = is_told && job->began_ns < INT64_MAX / 2
                               ? job->began_ns + (int64_t)job->outcome->elapsed_ns
                               : TRACE_ENDS_NOW;
        trace_ran(&t->traced, job->process, job->began_ns, ended_ns, process_job_weight(job), how);
    }
    trace_end(&t->traced, how);
}

// Counts those calls of a chunk that were made: map() decides what becomes of the others.
static void
count_chunk(ProcessQueueObject *self, const process_job *job, PyObject *result, int64_t submitted_ns)
{
    // (([values], failure or None), elapsed), unless a worker has sent something else.
    PyObject *made = PyTuple_GET_ITEM(result, 0);
    bool is_pair = PyTuple_Check(made) && PyTuple_GET_SIZE(made) == 2;
    bool is_sound = is_pair && PyList_Check(PyTuple_GET_ITEM(made, 0));
    uint64_t values = is_sound ? (uint64_t)PyList_GET_SIZE(PyTuple_GET_ITEM(made, 0)) : 0;
    uint64_t calls = process_job_weight(job);
    values = values > calls ? calls : values;
    uint64_t failures = values < calls && is_sound && PyTuple_GET_ITEM(made, 1) != Py_None;
    process_queue_count_ended(self, &self->counts.completed, values);
    process_queue_count_ended(self, &self->counts.failed, failures);
    process_queue_count_submitted(self, (int64_t)(values + failures) - (int64_t)calls);
    if (values + failures > 0) {
        process_queue_count_runs(self, values + failures, job->outcome->elapsed_ns / (values + failures));
        process_queue_count_waits(self, values + failures, submitted_ns, job->began_ns);
    }
}

// Counts what became of a task that a worker has finished, before anybody is told.
static void
count_outcome(ProcessQueueObject *self, const task *t, PyObject *result)
{
    const process_job *job = process_job_of(t);
    int64_t submitted_ns = t->traced < 0 ? -t->traced : t->traced;
    if (result != NULL && job->calls > 0) {
        count_chunk(self, job, result, submitted_ns);
        return;
    }
    uint64_t calls = process_job_weight(job);
    process_queue_count_ended(self, result != NULL ? &self->counts.completed : &self->counts.failed, calls);
    process_queue_count_runs(self, calls, job->outcome == NULL ? 0 : job->outcome->elapsed_ns / calls);
    process_queue_count_waits(self, calls, submitted_ns, job->began_ns);
}

// Unpacks and delivers a task that this thread has taken from the table; the task is gone afterwards.  If
// that is `interruptible`, -1 with what a signal handler of the program raised, and the task is the table's
// again; else -1 with what a callback let escape.
static int
deliver_one(ProcessQueueObject *self, task *t, bool interruptible)
{
    process_job *job = process_job_of(t);
    PyObject *result = NULL, *exception = NULL;
    int rc = 0;
    if (job->pushed_ns != 0) {
        park_learn(&self->spot, clock_now_ns() - job->pushed_ns);
        job->pushed_ns = 0;
    }
    if (job->error != NULL && !self->head.inherited) {
        PyObject *error = Py_NewRef(job->error);
        process_queue_count_ended(self, &self->counts.died, process_job_weight(job));
        trace_outcome(t, TRACE_DIED);
        rc = task_fail(t, error);
        Py_DECREF(error);
        return rc;
    }
    if (!self->head.inherited) {
        rc = unpack_outcome(self, job, interruptible, &result, &exception);
    }
    if (self->head.inherited) {
        // The code that ran has forked, and this is the child, where after_fork() has failed the future.
        Py_XDECREF(result);
        Py_XDECREF(exception);
        task_free(t);
        return rc;
    }
    if (rc < 0) {
        job_table_return(&self->table, t);
        process_queue_raise_wakeup(self);
        return -1;
    }
    count_outcome(self, t, result);
    trace_outcome(t, result != NULL ? TRACE_RETURNED : TRACE_FAILED);
    return task_deliver(t, result, exception);
}

// Where a task was when its time was over, if its worker says so, a str; NULL, without an exception: it does
// not.
static PyObject *
read_where(ProcessQueueObject *self, process_job *job)
{
    const wire *outcome = job->outcome == NULL ? NULL : look_at_outcome(self, job);
    unpacked_message found = {0};
    if (outcome == NULL || !(outcome->flags & WIRE_WHERE)
        || codec_unpack(self->head.module, outcome, job->whole, &found) < 0) {
        PyErr_Clear();
    }
    Py_XDECREF(found.callable);
    if (found.value != NULL && !PyUnicode_Check(found.value)) {
        Py_CLEAR(found.value);  // a stray write
    }
    return found.value;
}

// The exception of a task that was to end, or NULL: it is cancelled.
static PyObject *
make_timeout(ProcessQueueObject *self, const task *t)
{
    static const char *const endings[] = {
        [ENDED_UNBEGUN] = NULL,
        [ENDED_BY_RESULT] = "returned",
        [ENDED_BY_EXCEPTION] = "raised",
        [ENDED_BY_DEATH] = "killed",
        [ENDED_UNSEEN] = NULL,
    };
    process_job *job = process_job_of(t);
    special_job *special = job->special;
    if (special == NULL || special->reason != STOP_BY_TIMEOUT || special->is_cancelled) {
        return NULL;
    }
    int64_t began_ns = job->began_ns, now_ns = clock_now_ns();
    // A dead worker may have written nonsense.
    int64_t ran_ns = special->ending == ENDED_UNBEGUN     ? CALL_NOT_BEGUN
                     : began_ns <= 0 || began_ns > now_ns ? 0
                                                          : now_ns - began_ns;
    PyObject *where = read_where(self, job);
    if (where != NULL) {
        Py_XSETREF(special->stack, where);  // the other is of later
    }
    const char *how = endings[special->ending];
    return call_timeout_error(t->callable, &special->options, ran_ns, special->stack, how);
}

// Tells the destination of a task that it was cancelled, or that its time is over.
static void
deliver_withdrawn(ProcessQueueObject *self, task *t)
{
    task **slot = t->delivery.to.kind->slot(&t->delivery.to);
    if (t->delivery.to.carrier != NULL && slot != NULL && *slot != t) {
        process_queue_count_ended(self, &self->counts.cancelled, process_job_weight(process_job_of(t)));
        trace_outcome(t, TRACE_CANCELLED);
        task_free(t);  // the loop itself has cancelled the future
        return;
    }
    PyObject *error = make_timeout(self, t);
    process_queue_count_ended(self, error == NULL ? &self->counts.cancelled : &self->counts.timed_out,
                              process_job_weight(process_job_of(t)));
    trace_outcome(t, error == NULL ? TRACE_CANCELLED : TRACE_TIMED_OUT);
    if (task_fail(t, error) < 0) {
        module_log_escaped(self->head.module);
    }
    Py_XDECREF(error);
}

// What is to come before the outcomes that were taken from the table has come.  0, or -1 with an exception.
static int
await_what_comes_before(ProcessQueueObject *self)
{
    if (self->before_delivery == NULL) {
        return 0;
    }
    PyObject *call = Py_NewRef(self->before_delivery);
    PyObject *result = PyObject_CallNoArgs(call);
    Py_DECREF(call);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

// In the result handler: delivers what the table has collected, for a while.  True: there is more.
static bool
deliver_all(ProcessQueueObject *self)
{
    int64_t end = clock_now_ns() + DELIVER_NS;
    node_list withdrawn;
    task *t;
    node_list_init(&withdrawn);
    job_table_pop_all(&self->table, &self->ready, &withdrawn);
    bool is_any = !node_list_is_empty(&self->ready) || !node_list_is_empty(&withdrawn);
    if (is_any && await_what_comes_before(self) < 0) {
        module_log_escaped(self->head.module);
    }
    while ((t = (task *)node_list_pop(&withdrawn)) != NULL) {
        deliver_withdrawn(self, t);
    }
    for (uint32_t n = 1; (t = (task *)node_list_pop(&self->ready)) != NULL; n++) {
        process_job_enter(process_job_of(t), JOB_DELIVERING);
        if (deliver_one(self, t, false) < 0) {
            module_log_escaped(self->head.module);
        }
        if (n % 64 == 0 && clock_now_ns() > end) {
            break;
        }
    }
    process_queue_run_followups(self);
    return !node_list_is_empty(&self->ready);
}

// ---- helping ----

// Leaves tasks that the helper has taken to the result handler.
static void
leave(ProcessQueueObject *self, node_list *tasks)
{
    task *t;
    while (!self->head.inherited && (t = (task *)node_list_pop(tasks)) != NULL) {
        job_table_return(&self->table, t);
    }
    process_queue_raise_wakeup(self);
}

// Delivers what the table has collected of what a helper waits for, see task_route, and leaves the rest to
// the result handler.
static int
deliver_own(ProcessQueueObject *self, task *const *slot, const carrier *waiter)
{
    node_list own;
    task *t = *slot;
    bool others;
    node_list_init(&own);
    if (waiter != NULL) {
        others = job_table_pop_carried(&self->table, waiter, &own);
    }
    else {
        // Only the consumer of a map, which waits here, knows the future of a chunk.
        const destination *to = t == NULL ? NULL : &t->delivery.to;
        bool is_wanted = to != NULL && (process_job_of(t)->calls > 0 || !to->kind->is_watched(to));
        others = job_table_pop_task(&self->table, is_wanted ? t : NULL, &own);
    }
    if (others) {
        process_queue_raise_wakeup(self);
    }
    if (!node_list_is_empty(&own) && await_what_comes_before(self) < 0) {
        leave(self, &own);
        return -1;
    }
    while ((t = (task *)node_list_pop(&own)) != NULL) {
        if (deliver_one(self, t, self->state != QUEUE_DEAD) < 0) {
            leave(self, &own);
            return -1;
        }
    }
    return 0;
}

static int
help_until(ProcessQueueObject *self, task *const *slot, const _Atomic uint32_t *word, uint32_t expected,
           carrier *waiter, int64_t deadline_ns)
{
    module_state *module = self->head.module;
    int64_t start = clock_now_ns();
    int rc = 0;
    if (!park_may_spin(&self->spot) || self->head.inherited) {
        return 0;
    }
    int64_t most_ns = start + PARK_SPIN_MAX_NS;
    deadline_ns = deadline_ns < most_ns ? deadline_ns : most_ns;
    _Atomic uint32_t *finished = job_ring_finished(&self->table.ring);
    bool changed, done;
    uint32_t seen;
    do {
        job_ring_disarm_wakeup(&self->table.ring);
        // Acquire: what the workers have counted is there to be collected.
        seen = atomic_load_explicit(finished, memory_order_acquire);
        rc = deliver_own(self, slot, waiter);
        // Acquire: the thread that changed the word had set the outcome before.
        done = rc < 0 || self->head.inherited || atomic_load_explicit(word, memory_order_acquire) != expected;
        changed = false;
        if (!done) {
            PyThreadState *thread = gil_release(&module->gil);
            changed = park_spin(&self->spot, finished, seen, deadline_ns);
            gil_acquire(&module->gil, thread, 0);
        }
    } while (changed);
    if (self->head.inherited) {
        return rc;
    }
    if (!job_ring_arm_wakeup(&self->table.ring, seen)) {
        process_queue_raise_wakeup(self);  // a worker has finished more just now: the result handler's
    }
    if (process_queue_is_done(self)) {
        process_queue_raise_wakeup(self);  // that was the last one: the result handler may go
    }
    process_queue_rest_if_idle(self);
    park_learn(&self->spot, done ? clock_now_ns() - start : INT64_MAX);
    return rc;
}

static int
process_job_help(task *const *slot, const _Atomic uint32_t *word, uint32_t expected, carrier *waiter,
                 int64_t deadline_ns)
{
    ProcessQueueObject *self = (ProcessQueueObject *)Py_NewRef(process_job_of(*slot)->queue);
    int rc = help_until(self, slot, word, expected, waiter, deadline_ns);
    Py_DECREF(self);
    return rc;
}

// ---- the route ----

static withdrawal
process_job_withdraw(task *t, bool insists)
{
    process_job *job = process_job_of(t);
    ProcessQueueObject *self = job->queue;
    if (!job_table_withdraw(&self->table, t)) {
        cancel_outcome outcome = job_table_request_cancel(&self->table, t, insists);
        if (outcome == CANCEL_TOO_LATE) {
            return WITHDRAW_TOO_LATE;
        }
        if (outcome == CANCEL_FOR_SUPERVISOR) {
            process_queue_poke_supervisor(self);
        }
        // A coroutine's caller goes on while it ends.
        return self->doorbells != NULL ? WITHDRAW_DONE : WITHDRAW_STOPPING;
    }
    // Whoever has the GIL next may end the task.
    packed_message call = job->call;
    job->call = (packed_message){.block = NULL};
    Py_INCREF(self);
    process_queue_raise_wakeup(self);
    packed_message_drop(&call, self->region, false);
    Py_DECREF(self);
    return WITHDRAW_DONE;
}

static bool
process_job_is_taken(task *t)
{
    return job_table_is_taken(&process_job_of(t)->queue->table, t);
}

static void
process_job_drop(task *t)
{
    process_job *job = process_job_of(t);
    packed_message_drop(&job->call, job->queue->region, job->is_sent);
    if (job->block != NULL) {
        shm_block_release(job->block, region_me(job->queue->region));
        job->block = NULL;
    }
    Py_CLEAR(job->whole);
    free(job->outcome);
    Py_CLEAR(job->error);
    if (job->special != NULL) {
        Py_CLEAR(job->special->options.name);
        Py_CLEAR(job->special->stack);
    }
}

static int
process_job_traverse(const task *t, visitproc visit, void *arg)
{
    process_job *job = process_job_of(t);
    Py_VISIT(job->whole);
    Py_VISIT(job->error);
    if (job->special != NULL) {
        Py_VISIT(job->special->options.name);
        Py_VISIT(job->special->stack);
    }
    return 0;
}

static void
process_job_forget(task *t)
{
    process_job *job = process_job_of(t);
    list_link_remove(&job->in_flight);
    if (job->followup != NULL) {
        process_queue_add_followup(job->queue, job->followup);
        job->followup = NULL;
    }
}

static const task_route process_route = {
    .withdraw = process_job_withdraw,
    .is_taken = process_job_is_taken,
    .help = process_job_help,
    .drop = process_job_drop,
    .traverse = process_job_traverse,
    .forget = process_job_forget,
};

task *
process_delivery_new_task(ProcessQueueObject *self, const call_options *options, PyObject *callable,
                          const destination *to)
{
    // In one piece: to allocate and free another would be most of what options cost.
    bool is_special = options != NULL && options->is_special;
    size_t size = sizeof(process_job) + (is_special ? sizeof(special_job) : 0);
    task *t = task_new_routed(&process_route, size, callable, to);
    if (t != NULL) {
        process_job *job = process_job_of(t);
        job->queue = self;
        job->worker = JOB_ANY_WORKER;
        if (is_special) {
            job->special = (special_job *)(job + 1);
            job->special->job = job;
            job->special->options = *options;
            Py_XINCREF(options->name);
        }
    }
    return t;
}

// ---- failures ----

int
process_delivery_fail(ProcessQueueObject *self, list_node *tasks, PyObject *make_error, PyObject *message)
{
    for (list_node *node = tasks; node != NULL; node = node->next) {
        process_queue_count_ended(self, make_error == NULL ? &self->counts.cancelled : &self->counts.died,
                                  process_job_weight(process_job_of((task *)node)));
        trace_outcome((task *)node, make_error == NULL ? TRACE_CANCELLED : TRACE_DIED);
    }
    int rc = task_fail_all(self->head.module, tasks, make_error, message);
    process_queue_raise_wakeup(self);
    return rc;
}

// For how many seconds a task had run whose worker has died; None if it had not begun, or the dead worker
// wrote nonsense.
static PyObject *
seconds_of(const process_job *job)
{
    int64_t now_ns = clock_now_ns();
    if (job->began_ns <= 0 || job->began_ns > now_ns) {
        return Py_NewRef(Py_None);
    }
    return PyFloat_FromDouble((double)(now_ns - job->began_ns) / 1e9);
}

void
process_delivery_fail_later(ProcessQueueObject *self, list_node *tasks, PyObject *make_error)
{
    while (tasks != NULL) {
        task *t = (task *)tasks;
        process_job *job = process_job_of(t);
        tasks = tasks->next;
        bool is_named = job->special != NULL && job->special->options.name != NULL;
        PyObject *name = is_named ? job->special->options.name : Py_None;
        PyObject *seconds = seconds_of(job);
        PyObject *error = NULL;
        if (seconds != NULL) {
            error = PyObject_CallFunctionObjArgs(make_error, t->callable, name, seconds, NULL);
        }
        Py_XDECREF(seconds);
        if (error == NULL) {
            error = PyErr_GetRaisedException();  // memory is short, and the task ends with that
        }
        Py_XSETREF(job->error, error);
        if (self->head.inherited) {
            task_free(t);
            continue;
        }
        job_table_return(&self->table, t);
    }
    process_queue_raise_wakeup(self);
}

// ---- the result handler ----

// What poll() takes for a deadline: -1 if there is none.
static int
milliseconds_until(int64_t deadline_ns)
{
    if (deadline_ns == FUTEX_NO_DEADLINE) {
        return -1;
    }
    int64_t left_ns = deadline_ns - clock_now_ns();
    return left_ns <= 0 ? 0 : (int)(left_ns / 1000000 + 1);
}

void
process_delivery_collect(ProcessQueueObject *self)
{
    module_state *module = self->head.module;
    while (!self->head.inherited) {
        job_ring_disarm_wakeup(&self->table.ring);
        // Acquire: what the workers have counted is there to be collected.
        uint32_t seen = atomic_load_explicit(job_ring_finished(&self->table.ring), memory_order_acquire);
        while (deliver_all(self)) {
            module_checkpoint(module);
        }
        if (self->head.inherited) {
            break;
        }
        bool is_called = process_queue_take_call(self);
        if (job_table_is_damaged(&self->table)) {
            process_queue_poke_supervisor(self);
        }
        if (is_called || process_queue_is_done(self)) {
            break;  // The wakeup stays disarmed: helpers count on this thread, which comes back.
        }
        process_queue_rest_if_idle(self);
        if (!job_ring_arm_wakeup(&self->table.ring, seen)) {
            continue;
        }
        struct pollfd wakeup = {.fd = self->wakeup_fd, .events = POLLIN};
        int64_t look_ns = loop_bridge_next_look(module);
        PyThreadState *thread = gil_release(&module->gil);
        int ready = poll(&wakeup, 1, milliseconds_until(look_ns));
        process_queue_clear_wakeup(self);
        // Before this thread waits for the GIL, so that the workers are fed while that is busy.
        job_table_collect(&self->table);
        gil_acquire(&module->gil, thread, 0);
        if (ready == 0 && loop_bridge_look(module, look_ns) < 0) {
            module_log_escaped(module);
        }
    }
    // This may be the thread's last look.
    if (!self->head.inherited && loop_bridge_look(module, INT64_MAX) < 0) {
        module_log_escaped(module);
    }
}
