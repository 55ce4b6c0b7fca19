#include "process_queue.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "core/clock.h"
#include "futures/future.h"
#include "loops/loop_bridge.h"

// How many outcomes are delivered before other threads are let in, when they are cheap to deliver.
#define DELIVER_NS 2000000

// The states that each state may follow.
#define AFTER(state) (1u << QUEUE_##state)
static const unsigned may_follow[] = {
    [QUEUE_OPEN] = 0,
    [QUEUE_CLOSED] = AFTER(OPEN),
    [QUEUE_CANCELLING] = AFTER(CLOSED),
    [QUEUE_DEAD] = AFTER(OPEN) | AFTER(CLOSED) | AFTER(CANCELLING),
};

static void
enter(ProcessQueueObject *self, process_queue_state state)
{
    assert(may_follow[state] & 1u << self->state);
    (void)may_follow;
    self->state = state;
}

static void
raise_wakeup(ProcessQueueObject *self)
{
    uint64_t one = 1;
    if (!self->head.inherited) {
        (void)!write(self->wakeup_fd, &one, sizeof(one));
    }
}

// The result handler is wanted in Python.
static void
call_handler(ProcessQueueObject *self)
{
    // Release: pairs with the exchange in collect(), after which the handler sees what it was called for.
    atomic_store_explicit(&self->attention, 1, memory_order_release);
    raise_wakeup(self);
}

// Whether those who keep it open may push.
static bool
takes_calls_of_keepers(const ProcessQueueObject *self)
{
    return self->state == QUEUE_OPEN || (self->state != QUEUE_DEAD && self->keepers > 0);
}

static bool
is_done(const ProcessQueueObject *self)
{
    return !takes_calls_of_keepers(self) && self->in_flight == NULL;
}

// ---- tasks of this queue ----

static bool
process_job_withdraw(task *t)
{
    process_job *job = process_job_of(t);
    ProcessQueueObject *self = job->queue;
    if (!job_table_withdraw(&self->table, t)) {
        return job_table_request_cancel(&self->table, t);
    }
    // Whoever has the GIL next may end the task.
    packed_message call = job->call;
    job->call = (packed_message){.block = NULL};
    Py_INCREF(self);
    raise_wakeup(self);
    packed_message_drop(&call, self->region, false);
    Py_DECREF(self);
    return true;
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
}

static int
process_job_traverse(const task *t, visitproc visit, void *arg)
{
    process_job *job = process_job_of(t);
    Py_VISIT(job->whole);
    Py_VISIT(job->error);
    return 0;
}

// The child of a fork need not fail it any more.
static void
process_job_forget(task *t)
{
    process_job *job = process_job_of(t);
    if (job->link != NULL) {
        *job->link = job->next;
        if (job->next != NULL) {
            process_job_of(job->next)->link = job->link;
        }
    }
    if (job->followup != NULL) {
        job->followup->next = NULL;
        job->followup->link = job->queue->followups_end;
        *job->queue->followups_end = job->followup;
        job->queue->followups_end = &job->followup->next;
        job->followup = NULL;
    }
}

static int process_job_help(task *const *slot, const _Atomic uint32_t *word, uint32_t expected,
                            carrier *waiter, int64_t deadline_ns);

static const task_route process_route = {
    .withdraw = process_job_withdraw,
    .is_taken = process_job_is_taken,
    .help = process_job_help,
    .drop = process_job_drop,
    .traverse = process_job_traverse,
    .forget = process_job_forget,
};

static task *
process_job_new(ProcessQueueObject *self, PyObject *callable, const destination *to)
{
    task *t = task_new_routed(&process_route, sizeof(process_job), callable, to);
    if (t != NULL) {
        process_job_of(t)->queue = self;
        process_job_of(t)->worker = JOB_ANY_WORKER;
    }
    return t;
}

// ---- followups ----

bool
process_queue_take_followup(ProcessQueueObject *self, job_followup *followup)
{
    if (followup->link == NULL) {
        return false;
    }
    *followup->link = followup->next;
    if (followup->next != NULL) {
        followup->next->link = followup->link;
    }
    else {
        self->followups_end = followup->link;
    }
    followup->link = NULL;
    return true;
}

// What they do may end jobs, and so add to them.
static void
run_followups(ProcessQueueObject *self)
{
    job_followup *followup;
    while ((followup = self->followups) != NULL) {
        (void)process_queue_take_followup(self, followup);
        followup->run(followup);
    }
}

// ---- delivery ----

// What becomes of a call that raised, or of an outcome that could not be unpacked; never NULL.
static PyObject *
make_exception(const char *how, PyObject *about)
{
    PyObject *exception = codec_call(how, about, NULL);
    return exception != NULL ? exception : PyErr_GetRaisedException();
}

// The message of an outcome, and as job->whole what is in shared memory of it.  NULL with an exception.
static const wire *
look_at_outcome(ProcessQueueObject *self, process_job *job)
{
    static const wire none = {.kind = WIRE_NO_MEMORY};
    if (job->block != NULL) {
        job->whole = block_new(self->region, job->block, job->block->capacity);
        job->block = NULL;  // passed on
        if (job->whole == NULL) {
            return NULL;
        }
    }
    return job->outcome == NULL ? &none : job->outcome;
}

// What became of a task that is collected: one of result and exception is set.  -1 with what a signal handler
// raised, if that counts, and nothing is lost.
static int
unpack_outcome(ProcessQueueObject *self, process_job *job, bool interruptible, PyObject **result,
               PyObject **exception)
{
    unpacked_message found = {0};
    const wire *outcome = look_at_outcome(self, job);
    const char *how = NULL;  // the exception is made
    PyObject *about = NULL;
    if (outcome == NULL || codec_unpack(self->head.module, outcome, job->whole, &found) < 0) {
        if (interruptible && codec_was_interrupted()) {
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
        // Of a chunk, also how long it took: map() learns from it.
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
        *exception = codec_call(how, about, NULL);
        Py_DECREF(about);
        if (*exception == NULL && interruptible && codec_was_interrupted()) {
            return -1;
        }
        if (*exception == NULL) {
            *exception = PyErr_GetRaisedException();
        }
    }
    return 0;
}

// Unpacks and delivers a collected task; it is gone afterwards.  If that is `interruptible`, the program's
// signal handlers run here: -1 with what they raised, and the task may be left to the result handler.
// Else -1 with what a callback let escape.
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
        rc = task_fail(t, error);
        Py_DECREF(error);
        return rc;
    }
    if (!self->head.inherited) {
        rc = unpack_outcome(self, job, interruptible, &result, &exception);
    }
    if (self->head.inherited) {
        // Somebody's code has forked, and here is the child, in which the task counts as lost.
        Py_XDECREF(result);
        Py_XDECREF(exception);
        task_free(t);
        return rc;
    }
    if (rc < 0) {
        job_table_return(&self->table, t);
        raise_wakeup(self);
        return -1;
    }
    return task_deliver(t, result, exception);
}

// Tells the destination of a task that was cancelled.
static void
deliver_withdrawn(ProcessQueueObject *self, task *t)
{
    task **slot = t->delivery.to.kind->slot(&t->delivery.to);
    if (t->delivery.to.carrier != NULL && slot != NULL && *slot != t) {
        task_free(t);  // its loop knows, it has cancelled the future
    }
    else if (task_fail(t, NULL) < 0) {
        module_log_escaped(self->head.module);
    }
}

// Delivers what has been collected, for a while; true if there is more.
static bool
deliver_all(ProcessQueueObject *self)
{
    int64_t end = clock_now_ns() + DELIVER_NS;
    node_list withdrawn;
    task *t;
    node_list_init(&withdrawn);
    job_table_pop_all(&self->table, &self->ready, &withdrawn);
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
    run_followups(self);
    return !node_list_is_empty(&self->ready);
}

static void
rest_if_idle(ProcessQueueObject *self)
{
    if (!self->region->rests && job_table_outstanding(&self->table) == 0) {
        region_set_rests(self->region, true);
    }
}

// ---- bringing in ----

// Leaves tasks that were to be delivered here to the result handler.
static void
leave(ProcessQueueObject *self, node_list *tasks)
{
    task *t;
    while (!self->head.inherited && (t = (task *)node_list_pop(tasks)) != NULL) {
        job_table_return(&self->table, t);
    }
    raise_wakeup(self);
}

// Delivers what is collected of what a thread waits for, see task_route, and leaves the rest to the result
// handler.
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
        // On the future of a chunk hangs nothing but what map() does, which waits here.
        const destination *to = t == NULL ? NULL : &t->delivery.to;
        bool is_wanted = to != NULL && (process_job_of(t)->calls > 0 || !to->kind->is_watched(to));
        others = job_table_pop_task(&self->table, is_wanted ? t : NULL, &own);
    }
    if (others) {
        raise_wakeup(self);
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
        // Acquire: what it counts is there to be collected.
        seen = atomic_load_explicit(finished, memory_order_acquire);
        rc = deliver_own(self, slot, waiter);
        // Acquire: whoever changed the word did so after the outcome was there.
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
        raise_wakeup(self);  // something was finished as we turned away: the other thread's now
    }
    if (is_done(self)) {
        raise_wakeup(self);  // that was the last one, and the result handler may go
    }
    rest_if_idle(self);
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

// ---- accepting ----

static int
refuse(ProcessQueueObject *self)
{
    PyErr_SetObject(self->close_error, self->close_message);
    return WORKQ_CLOSED;
}

// The call could not be packed: that is its outcome, unless the caller himself was interrupted.
static task *
fail_packing(task *t)
{
    process_job *job = process_job_of(t);
    bool interrupted = !PyErr_ExceptionMatches(PyExc_Exception) || codec_was_interrupted();
    PyObject *error = PyErr_GetRaisedException();
    if (interrupted) {
        task_free(t);
        PyErr_SetRaisedException(error);
        return NULL;
    }
    job->error = make_exception("call_error", error);
    Py_DECREF(error);
    return t;
}

static task *
process_queue_make_task(queue_head *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
                        const destination *to)
{
    ProcessQueueObject *self = (ProcessQueueObject *)op;
    if (self->state != QUEUE_OPEN) {
        refuse(self);
        return NULL;
    }
    task *t = process_job_new(self, args[0], to);
    if (t != NULL && codec_pack_call(&self->packs, args, nargs, kwnames, &process_job_of(t)->call) < 0) {
        t = fail_packing(t);
    }
    return t;
}

// A task that is for one worker only finds it dead.
static int
fail_lost(ProcessQueueObject *self, task *t)
{
    process_job_enter(process_job_of(t), JOB_DELIVERING);
    PyObject *error = make_exception("lost_worker_error", t->callable);
    int rc = task_fail(t, error);
    Py_DECREF(error);
    if (rc < 0) {
        module_log_escaped(self->head.module);
    }
    return WORKQ_OK;
}

static void
list_in_flight(ProcessQueueObject *self, task *t)
{
    process_job *job = process_job_of(t);
    job->link = &self->in_flight;
    job->next = self->in_flight;
    if (job->next != NULL) {
        process_job_of(job->next)->link = &job->next;
    }
    self->in_flight = t;
}

// The queue owns the task from here on.
static int
accept(ProcessQueueObject *self, task *t)
{
    process_job *job = process_job_of(t);
    if (job->error != NULL) {
        if (task_fail(t, job->error) < 0) {
            module_log_escaped(self->head.module);
        }
        return WORKQ_OK;
    }
    self->region->rests = false;
    list_in_flight(self, t);
    push_result how = job_table_push(&self->table, t);
    if (how.is_lost) {
        return fail_lost(self, t);
    }
    if (how.is_alone && !park_may_spin(&self->spot)) {
        job->pushed_ns = clock_now_ns();  // When it comes back tells whether to spin again.
    }
    return how.is_short ? WORKQ_SHORT : WORKQ_OK;
}

static int
process_queue_push(queue_head *op, task *t)
{
    ProcessQueueObject *self = (ProcessQueueObject *)op;
    gil_hold(&self->head.module->gil);
    if (self->state != QUEUE_OPEN) {
        return refuse(self);
    }
    return accept(self, t);
}

static void
process_queue_close(queue_head *op, PyObject *error, PyObject *message)
{
    ProcessQueueObject *self = (ProcessQueueObject *)op;
    Py_XSETREF(self->close_error, Py_NewRef(error));
    Py_XSETREF(self->close_message, Py_NewRef(message));
    if (self->state == QUEUE_OPEN) {
        enter(self, QUEUE_CLOSED);
    }
    call_handler(self);
}

static bool
process_queue_has_workers(queue_head *op)
{
    return job_table_workers(&((ProcessQueueObject *)op)->table) > 0;
}

// Ends tasks that were taken from the table; as task_fail_all().
static int
end_tasks(ProcessQueueObject *self, list_node *tasks, PyObject *make_error, PyObject *message)
{
    int rc = task_fail_all(self->head.module, tasks, make_error, message);
    raise_wakeup(self);
    return rc;
}

// Has the result handler fail tasks that were taken from the table, so that their callbacks do not hold up
// the supervisor.
static void
fail_later(ProcessQueueObject *self, list_node *tasks, PyObject *make_error)
{
    while (tasks != NULL) {
        task *t = (task *)tasks;
        process_job *job = process_job_of(t);
        tasks = tasks->next;
        PyObject *error = PyObject_CallOneArg(make_error, t->callable);
        if (error == NULL) {
            error = PyErr_GetRaisedException();  // short of memory: that is an answer, too
        }
        Py_XSETREF(job->error, error);
        if (self->head.inherited) {
            task_free(t);
            continue;
        }
        job_table_return(&self->table, t);
    }
    raise_wakeup(self);
}

static int
process_queue_fail_queued(queue_head *op, PyObject *error, PyObject *message)
{
    ProcessQueueObject *self = (ProcessQueueObject *)op;
    return end_tasks(self, job_table_evict(&self->table, false), error, message);
}

static const queue_kind process_queue_kind = {
    .routed = true,
    .make_task = process_queue_make_task,
    .push = process_queue_push,
    .close = process_queue_close,
    .fail_queued = process_queue_fail_queued,
    .has_workers = process_queue_has_workers,
};

// ---- the result handler ----

static void
clear_wakeup(ProcessQueueObject *self)
{
    uint64_t count;
    (void)!read(self->wakeup_fd, &count, sizeof(count));
}

static void
poke_supervisor(ProcessQueueObject *self)
{
    uint64_t one = 1;
    if (self->supervisor_fd >= 0 && !self->head.inherited) {
        (void)!write(self->supervisor_fd, &one, sizeof(one));
    }
}

// What poll() takes for a deadline.
static int
milliseconds_until(int64_t deadline_ns)
{
    if (deadline_ns == FUTEX_NO_DEADLINE) {
        return -1;
    }
    int64_t left_ns = deadline_ns - clock_now_ns();
    return left_ns <= 0 ? 0 : (int)(left_ns / 1000000 + 1);
}

PyDoc_STRVAR(collect_doc,
"collect($self, /)\n--\n\n"
"Deliver outcomes until wake() is called, or the closed queue has nothing left to do. The life of the\n"
"result handler.");

static PyObject *
process_queue_collect(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    ProcessQueueObject *self = (ProcessQueueObject *)op;
    module_state *module = self->head.module;
    while (!self->head.inherited) {
        job_ring_disarm_wakeup(&self->table.ring);
        // Acquire: what it counts is there to be collected.
        uint32_t seen = atomic_load_explicit(job_ring_finished(&self->table.ring), memory_order_acquire);
        while (deliver_all(self)) {
            module_checkpoint(module);
        }
        if (self->head.inherited) {
            break;
        }
        // Acquire: pairs with the release in call_handler().
        uint32_t attention = atomic_exchange_explicit(&self->attention, 0, memory_order_acquire);
        if (job_table_is_damaged(&self->table)) {
            poke_supervisor(self);
        }
        if (attention || is_done(self)) {
            // Not dozing: whoever finishes something leaves it to us, and we come back.
            break;
        }
        rest_if_idle(self);
        if (!job_ring_arm_wakeup(&self->table.ring, seen)) {
            continue;
        }
        struct pollfd wakeup = {.fd = self->wakeup_fd, .events = POLLIN};
        int64_t look_ns = loop_bridge_next_look(module);
        PyThreadState *thread = gil_release(&module->gil);
        int ready = poll(&wakeup, 1, milliseconds_until(look_ns));
        clear_wakeup(self);
        // Before anything that takes the GIL, so that workers are fed while it is busy.
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
    Py_RETURN_NONE;
}

PyDoc_STRVAR(wake_doc,
"wake($self, /)\n--\n\n"
"Make collect() return. Any thread, also a signal handler, may call it.");

static PyObject *
process_queue_wake(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    ProcessQueueObject *self = (ProcessQueueObject *)op;
    call_handler(self);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(is_done_doc,
"is_done($self, /)\n--\n\n"
"Return True if the queue is closed and has nothing left to do.");

static PyObject *
process_queue_is_done(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(is_done((ProcessQueueObject *)op));
}

PyDoc_STRVAR(close_doc,
"close($self, error, message, /)\n--\n\n"
"Refuse tasks from now on with error(message). Workers finish what is queued.\n\n"
"May be called again, to give another reason.");

static PyObject *
process_queue_close_method(PyObject *op, PyObject *args)
{
    PyObject *error, *message;
    if (!PyArg_ParseTuple(args, "OO:close", &error, &message)) {
        return NULL;
    }
    process_queue_close((queue_head *)op, error, message);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(cancel_queued_doc,
"cancel_queued($self, /)\n--\n\n"
"Cancel every task that no worker has taken; if the queue is closed, also what is pushed later.");

static PyObject *
process_queue_cancel_queued(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    ProcessQueueObject *self = (ProcessQueueObject *)op;
    if (self->state == QUEUE_CLOSED) {
        enter(self, QUEUE_CANCELLING);
    }
    if (process_queue_fail_queued((queue_head *)op, NULL, NULL) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(fail_queued_doc,
"fail_queued($self, make_error, /)\n--\n\n"
"Have the result handler fail every task that no worker has taken, with what make_error(callable) returns.");

static PyObject *
process_queue_fail_queued_method(PyObject *op, PyObject *make_error)
{
    ProcessQueueObject *self = (ProcessQueueObject *)op;
    if (!self->head.inherited) {
        fail_later(self, job_table_evict(&self->table, false), make_error);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(cancel_taken_doc,
"cancel_taken($self, /)\n--\n\n"
"Ask the workers to cancel every coroutine that they run.");

static PyObject *
process_queue_cancel_taken(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    job_table_request_cancel_all(&((ProcessQueueObject *)op)->table);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(fail_all_doc,
"fail_all($self, make_error, /)\n--\n\n"
"Have the result handler fail every task, those that workers have taken too, with what\n"
"make_error(callable) returns.\n\n"
"What is finished is delivered first. The workers are of no use any more; a queue that is closed takes\n"
"nothing from then on, whoever keeps it open.");

static PyObject *
process_queue_fail_all(PyObject *op, PyObject *make_error)
{
    ProcessQueueObject *self = (ProcessQueueObject *)op;
    if (self->state == QUEUE_CLOSED || self->state == QUEUE_CANCELLING) {
        enter(self, QUEUE_DEAD);
    }
    if (!self->head.inherited) {
        job_table_collect(&self->table);
        fail_later(self, job_table_evict(&self->table, true), make_error);
        call_handler(self);
    }
    Py_RETURN_NONE;
}

// ---- the supervisor ----

PyDoc_STRVAR(supervise_doc,
"supervise($self, /)\n--\n\n"
"Return two file descriptors for the supervisor to watch, which the queue owns: one is readable after\n"
"poke(), the other when look_after_stalled() is to be called.");

static PyObject *
process_queue_supervise(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    ProcessQueueObject *self = (ProcessQueueObject *)op;
    if (self->supervisor_fd < 0) {
        self->supervisor_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    }
    if (self->stall_fd < 0 && self->supervisor_fd >= 0) {
        self->stall_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
        if (self->stall_fd >= 0) {
            job_table_use_timer(&self->table, self->stall_fd);
        }
    }
    if (self->stall_fd < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return Py_BuildValue("ii", self->supervisor_fd, self->stall_fd);
}

PyDoc_STRVAR(end_supervision_doc,
"end_supervision($self, /)\n--\n\n"
"There is no supervisor any more: close what supervise() returned.");

static PyObject *
process_queue_end_supervision(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    ProcessQueueObject *self = (ProcessQueueObject *)op;
    if (self->stall_fd >= 0) {
        if (!self->head.inherited) {
            job_table_use_timer(&self->table, -1);
        }
        close(self->stall_fd);
        self->stall_fd = -1;
    }
    if (self->supervisor_fd >= 0) {
        close(self->supervisor_fd);
        self->supervisor_fd = -1;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(poke_doc,
"poke($self, /)\n--\n\n"
"Wake the supervisor. Any thread, also a signal handler, may call it.");

static PyObject *
process_queue_poke(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    poke_supervisor((ProcessQueueObject *)op);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(look_after_stalled_doc,
"look_after_stalled($self, /)\n--\n\n"
"If a task has been ready for a while, notify another worker: the one that was notified may be stopped.");

static PyObject *
process_queue_look_after_stalled(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    ProcessQueueObject *self = (ProcessQueueObject *)op;
    if (!self->head.inherited) {
        job_table_look_after_stalled(&self->table);
    }
    run_followups(self);
    Py_RETURN_NONE;
}

// ---- workers ----

PyDoc_STRVAR(reserve_worker_doc,
"reserve_worker($self, /)\n--\n\n"
"Count one more worker and return True if tasks outnumber workers and there may be one more.");

static PyObject *
process_queue_reserve_worker(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(job_table_reserve_worker(&((ProcessQueueObject *)op)->table));
}

PyDoc_STRVAR(add_worker_doc,
"add_worker($self, change, /)\n--\n\n"
"Count workers that were started without being asked for (1), or are no more (-1).");

static PyObject *
process_queue_add_worker(PyObject *op, PyObject *arg)
{
    long change = PyLong_AsLong(arg);
    if (change == -1 && PyErr_Occurred()) {
        return NULL;
    }
    job_table_add_workers(&((ProcessQueueObject *)op)->table, change);
    Py_RETURN_NONE;
}

static int
parse_worker(ProcessQueueObject *self, PyObject *arg, uint32_t *worker)
{
    unsigned long number = PyLong_AsUnsignedLong(arg);
    if (number == (unsigned long)-1 && PyErr_Occurred()) {
        return -1;
    }
    if (number >= self->max_workers) {
        PyErr_SetString(PyExc_ValueError, "there is no such worker");
        return -1;
    }
    *worker = (uint32_t)number;
    return 0;
}

PyDoc_STRVAR(reap_doc,
"reap($self, worker, make_error, /)\n--\n\n"
"Settle the affairs of a worker that is dead; return two flags: it leaves a task behind, and some\n"
"worker has finished one since the last burial.\n\n"
"The result handler delivers what it had finished, and fails each task that it had taken with\n"
"make_error(callable); its memory is taken back, and its number is free.");

static PyObject *
process_queue_reap(PyObject *op, PyObject *args)
{
    ProcessQueueObject *self = (ProcessQueueObject *)op;
    PyObject *number, *make_error;
    uint32_t worker;
    if (!PyArg_ParseTuple(args, "OO:reap", &number, &make_error) || parse_worker(self, number, &worker) < 0) {
        return NULL;
    }
    bool progress;
    list_node *lost = job_table_reap(&self->table, worker, &progress);
    bool any = lost != NULL;
    fail_later(self, lost, make_error);
    return PyTuple_Pack(2, any ? Py_True : Py_False, progress ? Py_True : Py_False);
}

PyDoc_STRVAR(condemn_doc,
"condemn($self, /)\n--\n\n"
"A worker that has ended has found the shared memory damaged. Call it before reap().");

static PyObject *
process_queue_condemn(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    job_table_condemn(&((ProcessQueueObject *)op)->table);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(is_condemned_doc,
"is_condemned($self, /)\n--\n\n"
"Return True, once, when a worker has written over what the processes share: kill every worker.\n\n"
"When the last one is reaped, the queue goes on with what no worker had taken.");

static PyObject *
process_queue_is_condemned(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(job_table_is_to_be_condemned(&((ProcessQueueObject *)op)->table));
}

PyDoc_STRVAR(admit_doc,
"admit($self, worker, /)\n--\n\n"
"Let a worker that was started take tasks: its end can be seen.");

static PyObject *
process_queue_admit(PyObject *op, PyObject *number)
{
    ProcessQueueObject *self = (ProcessQueueObject *)op;
    uint32_t worker;
    if (parse_worker(self, number, &worker) < 0) {
        return NULL;
    }
    job_table_admit(&self->table, worker);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(close_workers_doc,
"close_workers($self, /)\n--\n\n"
"Have the workers leave when nothing is left for them to take.");

static PyObject *
process_queue_close_workers(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    job_table_close(&((ProcessQueueObject *)op)->table);
    run_followups((ProcessQueueObject *)op);
    Py_RETURN_NONE;
}

// ---- map ----

int
process_queue_keep_open(ProcessQueueObject *self)
{
    if (!takes_calls_of_keepers(self)) {
        refuse(self);
        return -1;
    }
    self->keepers++;
    return 0;
}

void
process_queue_let_close(ProcessQueueObject *self)
{
    self->keepers--;
    if (self->keepers == 0 && self->state != QUEUE_OPEN) {
        call_handler(self);
    }
}

int
process_queue_pack_chunk(ProcessQueueObject *self, const destination *to, PyObject *callable,
                         PyObject *items, unsigned flags, task **packed)
{
    *packed = NULL;
    if (!takes_calls_of_keepers(self)) {
        refuse(self);
        return -1;
    }
    task *t = process_job_new(self, callable, to);
    if (t == NULL) {
        return -1;
    }
    process_job *job = process_job_of(t);
    job->calls = (uint32_t)PyList_GET_SIZE(items);
    if (codec_pack_chunk(&self->packs, callable, items, flags, &job->call) < 0 && fail_packing(t) == NULL) {
        return PACKING_INTERRUPTED;
    }
    if (job->error != NULL && job->calls > 1) {
        task_free(t);
        return 0;
    }
    *packed = t;
    return 0;
}

bool
process_queue_push_chunk(ProcessQueueObject *self, task *job, job_followup *followup)
{
    process_job_of(job)->followup = followup;
    return accept(self, job) == WORKQ_SHORT;
}

PyDoc_STRVAR(submit_to_worker_doc,
"submit_to_worker($self, worker, generation, loop, fn, /, *args)\n--\n\n"
"Have one worker call fn(*args): the one that said that these are its number and generation.\n\n"
"Return a future of an asyncio loop, or if loop is None a Future. Works on a closed queue that is held.\n"
"If the worker is dead the future gets WorkerDied.");

static PyObject *
process_queue_submit_to_worker(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    ProcessQueueObject *self = (ProcessQueueObject *)op;
    destination to;
    uint32_t worker;
    if (nargs < 4) {
        PyErr_SetString(PyExc_TypeError, "submit_to_worker() takes a worker, a loop and a function");
        return NULL;
    }
    unsigned long generation = PyLong_AsUnsignedLong(args[1]);
    if ((generation == (unsigned long)-1 && PyErr_Occurred()) || parse_worker(self, args[0], &worker) < 0) {
        return NULL;
    }
    if (self->doorbells == NULL) {
        PyErr_SetString(PyExc_ValueError, "these workers take any task");
        return NULL;
    }
    if (self->head.inherited) {
        PyErr_SetString(PyExc_RuntimeError, "in the child of a fork, the worker is the parent's");
        return NULL;
    }
    if (!takes_calls_of_keepers(self)) {
        refuse(self);
        return NULL;
    }
    int rc = args[2] == Py_None ? 0 : loop_bridge_for_loop(self->head.module, args[2], true, &to);
    if (rc == 0) {
        rc = future_destination(self->head.module, &to);
    }
    if (rc < 0) {
        return NULL;
    }
    task *t = process_job_new(self, args[3], &to);
    if (t != NULL) {
        process_job *job = process_job_of(t);
        job->worker = worker;
        job->generation = (uint32_t)generation;
        if (codec_pack_call(&self->packs, args + 3, nargs - 3, NULL, &job->call) < 0) {
            t = fail_packing(t);
        }
    }
    if (t == NULL) {
        destination_clear(&to);
        return NULL;
    }
    (void)accept(self, t);
    Py_XDECREF(to.carrier);
    return to.future;
}

int
process_queue_check_open(ProcessQueueObject *self)
{
    return self->state == QUEUE_OPEN ? 0 : refuse(self);
}

void
process_queue_raise_inherited(ProcessQueueObject *self)
{
    refuse(self);
}

PyDoc_STRVAR(is_inherited_doc,
"is_inherited($self, /)\n--\n\n"
"Return True in the child of a fork, where the queue is the parent's.");

static PyObject *
process_queue_is_inherited(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(((ProcessQueueObject *)op)->head.inherited);
}

// ---- what monitoring code looks at ----

PyDoc_STRVAR(qsize_doc,
"qsize($self, /)\n--\n\n"
"Return the number of tasks that wait for a worker.");

static PyObject *
process_queue_qsize(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromUnsignedLong(job_table_queued(&((ProcessQueueObject *)op)->table));
}

PyDoc_STRVAR(empty_doc,
"empty($self, /)\n--\n\n"
"Return True if no task waits for a worker.");

static PyObject *
process_queue_empty(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(job_table_queued(&((ProcessQueueObject *)op)->table) == 0);
}

static PyObject *
process_queue_outstanding(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromUnsignedLong(job_table_outstanding(&((ProcessQueueObject *)op)->table));
}

PyDoc_STRVAR(outstanding_doc,
"outstanding($self, /)\n--\n\n"
"Return the number of tasks that wait for a worker or are run by one.");

// ---- life ----

PyDoc_STRVAR(after_fork_doc,
"after_fork($self, exception, /)\n--\n\n"
"In the child of a fork: the workers are the parent's; fail every task, and let go of what is shared.");

static PyObject *
process_queue_after_fork(PyObject *op, PyObject *exception)
{
    ProcessQueueObject *self = (ProcessQueueObject *)op;
    region_after_fork(self->region);
    job_table_after_fork(&self->table);
    node_list_init(&self->ready);
    self->head.inherited = true;
    if (self->state == QUEUE_OPEN) {
        self->close_error = Py_NewRef((PyObject *)Py_TYPE(exception));
        self->close_message = Py_NewRef(exception);
    }
    if (self->state != QUEUE_DEAD) {
        enter(self, QUEUE_DEAD);
    }
    task *t, *next;
    for (t = self->in_flight; t != NULL; t = next) {
        process_job *job = process_job_of(t);
        next = job->next;
        task_abandon(t, exception);
        job->is_sent = true;  // the parent's blocks
        job->block = NULL;
        if (job->state != JOB_DELIVERING) {  // if it is, who delivers it frees it, or is not here
            task_free(t);
        }
    }
    run_followups(self);
    Py_RETURN_NONE;
}

// The most slots of a ring; it has half a kilobyte for each.
#define SLOTS_MAX (1u << 20)

// An eventfd, or -1 with an exception.
static int
open_eventfd(void)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0 && (errno == ENOSYS || errno == EPERM)) {
        PyObject *args =
            Py_BuildValue("(is)", errno, "worker processes are woken by eventfd(), which the system does not "
                                         "have or this sandbox does not allow");
        if (args != NULL) {
            PyErr_SetObject(PyExc_OSError, args);
            Py_DECREF(args);
        }
    }
    else if (fd < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
    }
    return fd;
}

// 0, or -1 with an exception.
static int
open_doorbells(ProcessQueueObject *self)
{
    self->doorbells = PyMem_Calloc(self->max_workers, sizeof(int));
    if (self->doorbells == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (uint32_t i = 0; i < self->max_workers; i++) {
        self->doorbells[i] = -1;
    }
    for (uint32_t i = 0; i < self->max_workers; i++) {
        self->doorbells[i] = open_eventfd();
        if (self->doorbells[i] < 0) {
            return -1;
        }
    }
    return 0;
}

static void
close_doorbells(ProcessQueueObject *self)
{
    for (uint32_t i = 0; self->doorbells != NULL && i < self->max_workers; i++) {
        if (self->doorbells[i] >= 0) {
            close(self->doorbells[i]);
        }
    }
    PyMem_Free(self->doorbells);
}

static PyObject *
process_queue_get_doorbells(PyObject *op, void *Py_UNUSED(closure))
{
    ProcessQueueObject *self = (ProcessQueueObject *)op;
    Py_ssize_t count = self->doorbells == NULL ? 0 : (Py_ssize_t)self->max_workers;
    PyObject *fds = PyTuple_New(count);
    for (Py_ssize_t i = 0; fds != NULL && i < count; i++) {
        PyObject *fd = PyLong_FromLong(self->doorbells[i]);
        if (fd == NULL) {
            Py_CLEAR(fds);
            break;
        }
        PyTuple_SET_ITEM(fds, i, fd);
    }
    return fds;
}

static PyObject *
process_queue_tp_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"max_workers", "slots", "doorbells", NULL};
    unsigned int max_workers, slots = 1024;
    int doorbells = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "I|Ip:ProcessQueue", keywords, &max_workers, &slots,
                                     &doorbells)) {
        return NULL;
    }
    if (slots == 0 || (slots & (slots - 1)) != 0 || slots > SLOTS_MAX) {
        PyErr_SetString(PyExc_ValueError, "slots must be a power of two, and not more than a million");
        return NULL;
    }
    ProcessQueueObject *self = (ProcessQueueObject *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    module_state *module = module_state_of(type);
    self->head.module = module;
    self->head.kind = &process_queue_kind;
    self->max_workers = max_workers;
    self->wakeup_fd = self->supervisor_fd = self->stall_fd = -1;
    self->packs.module = module;
    park_spot_init(&self->spot, 1);
    node_list_init(&self->ready);
    self->followups_end = &self->followups;
    self->wakeup_fd = open_eventfd();
    if (self->wakeup_fd < 0) {
        goto fail;
    }
    if (doorbells && open_doorbells(self) < 0) {
        goto fail;
    }
    self->region = region_new(module, job_table_size(max_workers, slots), max_workers);
    if (self->region == NULL) {
        goto fail;
    }
    self->packs.region = self->region;
    int rc = job_table_init(&self->table, self->region, max_workers, slots, self->wakeup_fd,
                            self->doorbells);
    if (rc != SHM_OK) {
        region_raise(rc);
        goto fail;
    }
    return (PyObject *)self;
fail:
    Py_DECREF(self);
    return NULL;
}

// Nobody will collect what is on its way.
static void
process_queue_finalize(PyObject *op)
{
    ProcessQueueObject *self = (ProcessQueueObject *)op;
    if (self->table.region == NULL || self->head.inherited) {
        return;  // half made, or the parent's
    }
    PyObject *exception = PyErr_GetRaisedException();
    task *t;
    process_queue_close(&self->head, PyExc_RuntimeError, Py_None);
    if (self->state != QUEUE_DEAD) {
        enter(self, QUEUE_DEAD);
    }
    if (task_fail_all(self->head.module, job_table_evict(&self->table, true), NULL, NULL) < 0) {
        PyErr_WriteUnraisable(NULL);
    }
    while (!self->head.inherited && (t = self->in_flight) != NULL) {
        if (task_fail(t, NULL) < 0) {
            PyErr_WriteUnraisable(NULL);
        }
    }
    PyErr_SetRaisedException(exception);
}

static int
process_queue_traverse(PyObject *op, visitproc visit, void *arg)
{
    ProcessQueueObject *self = (ProcessQueueObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->region);
    Py_VISIT(self->close_error);
    Py_VISIT(self->close_message);
    for (task *t = self->in_flight; t != NULL; t = process_job_of(t)->next) {
        // What a thread is ending is the thread's.
        int rc = process_job_of(t)->state == JOB_DELIVERING ? 0 : task_traverse(t, visit, arg);
        if (rc != 0) {
            return rc;
        }
    }
    return packer_traverse(&self->packs, visit, arg);
}

// The finalizer has ended the tasks, and more are refused; the reason for that stays.  The region is in no
// cycle.
static int
process_queue_clear(PyObject *op)
{
    ProcessQueueObject *self = (ProcessQueueObject *)op;
    packer_clear(&self->packs);
    return 0;
}

static void
process_queue_dealloc(PyObject *op)
{
    ProcessQueueObject *self = (ProcessQueueObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    if (type->tp_dealloc == process_queue_dealloc && PyObject_CallFinalizerFromDealloc(op) < 0) {
        return;
    }
    PyObject_GC_UnTrack(op);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs(op);
    }
    if (self->table.region != NULL) {
        job_table_fini(&self->table);
    }
    process_queue_clear(op);
    Py_XDECREF(self->close_error);
    Py_XDECREF(self->close_message);
    Py_XDECREF((PyObject *)self->region);
    int fds[] = {self->wakeup_fd, self->supervisor_fd, self->stall_fd};
    for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++) {
        if (fds[i] >= 0) {
            close(fds[i]);
        }
    }
    close_doorbells(self);
    type->tp_free(op);
    Py_DECREF(type);
}

PyDoc_STRVAR(decide_by_value_doc,
"decide_by_value($self, function, /)\n--\n\n"
"Have function(object, pickle) say whether what mentions __main__ goes by value. None: nothing does.");

static PyObject *
process_queue_decide_by_value(PyObject *op, PyObject *function)
{
    packer_ask(&((ProcessQueueObject *)op)->packs, function == Py_None ? NULL : function);
    Py_RETURN_NONE;
}

static PyMethodDef process_queue_methods[] = {
    {"collect", process_queue_collect, METH_NOARGS, collect_doc},
    {"wake", process_queue_wake, METH_NOARGS, wake_doc},
    {"is_done", process_queue_is_done, METH_NOARGS, is_done_doc},
    {"close", process_queue_close_method, METH_VARARGS, close_doc},
    {"cancel_queued", process_queue_cancel_queued, METH_NOARGS, cancel_queued_doc},
    {"cancel_taken", process_queue_cancel_taken, METH_NOARGS, cancel_taken_doc},
    {"fail_all", process_queue_fail_all, METH_O, fail_all_doc},
    {"reserve_worker", process_queue_reserve_worker, METH_NOARGS, reserve_worker_doc},
    {"add_worker", process_queue_add_worker, METH_O, add_worker_doc},
    {"reap", process_queue_reap, METH_VARARGS, reap_doc},
    {"fail_queued", process_queue_fail_queued_method, METH_O, fail_queued_doc},
    {"supervise", process_queue_supervise, METH_NOARGS, supervise_doc},
    {"end_supervision", process_queue_end_supervision, METH_NOARGS, end_supervision_doc},
    {"poke", process_queue_poke, METH_NOARGS, poke_doc},
    {"look_after_stalled", process_queue_look_after_stalled, METH_NOARGS, look_after_stalled_doc},
    {"admit", process_queue_admit, METH_O, admit_doc},
    {"condemn", process_queue_condemn, METH_NOARGS, condemn_doc},
    {"is_condemned", process_queue_is_condemned, METH_NOARGS, is_condemned_doc},
    {"close_workers", process_queue_close_workers, METH_NOARGS, close_workers_doc},
    {"submit_to_worker", (PyCFunction)(void (*)(void))process_queue_submit_to_worker, METH_FASTCALL,
     submit_to_worker_doc},
    {"decide_by_value", process_queue_decide_by_value, METH_O, decide_by_value_doc},
    {"is_inherited", process_queue_is_inherited, METH_NOARGS, is_inherited_doc},
    {"qsize", process_queue_qsize, METH_NOARGS, qsize_doc},
    {"empty", process_queue_empty, METH_NOARGS, empty_doc},
    {"outstanding", process_queue_outstanding, METH_NOARGS, outstanding_doc},
    {"after_fork", process_queue_after_fork, METH_O, after_fork_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef process_queue_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(ProcessQueueObject, weakrefs), READONLY, NULL},
    {"region", T_OBJECT, offsetof(ProcessQueueObject, region), READONLY, PyDoc_STR("The shared memory.")},
    {"wakeup_fd", T_INT, offsetof(ProcessQueueObject, wakeup_fd), READONLY,
     PyDoc_STR("The eventfd by which workers say that they have finished something.")},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(process_queue_doc,
"ProcessQueue(max_workers, slots=1024, doorbells=False)\n--\n\n"
"Tasks on their way to worker processes, and their outcomes on the way back.\n\n"
"slots: how many tasks workers can take or find at a time, a power of two; more wait for a slot. doorbells:\n"
"the workers run event loops.");

static PyGetSetDef process_queue_getset[] = {
    {"doorbells", process_queue_get_doorbells, NULL,
     PyDoc_STR("The eventfds by which workers that run event loops are woken, one each."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot process_queue_slots[] = {
    {Py_tp_doc, (void *)process_queue_doc},
    {Py_tp_new, process_queue_tp_new},
    {Py_tp_dealloc, process_queue_dealloc},
    {Py_tp_finalize, process_queue_finalize},
    {Py_tp_traverse, process_queue_traverse},
    {Py_tp_clear, process_queue_clear},
    {Py_tp_methods, process_queue_methods},
    {Py_tp_members, process_queue_members},
    {Py_tp_getset, process_queue_getset},
    {0, NULL},
};

PyType_Spec process_queue_spec = {
    .name = "pyconc._core.ProcessQueue",
    .basicsize = sizeof(ProcessQueueObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = process_queue_slots,
};
