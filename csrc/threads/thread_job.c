#include "thread_job.h"

#include <pthread.h>
#include <signal.h>

#include "base/lost_exception.h"
#include "base/thread_stack.h"
#include "core/clock.h"

typedef enum thread_job_state {
    JOB_QUEUED,  // or taken, and not begun
    JOB_RUNS,
    JOB_OVER,
} thread_job_state;

// At the front of the task's args.
typedef struct thread_job {
    thread_jobs *jobs;     // borrowed from the queue, which outlives what it holds and what runs
    call_options options;  // the name is owned
    limit limit;           // what comes first of its deadline and its timeout, or then the end of its grace
    limit signal;          // when its thread gets the next signal
    int64_t pause_ns;      // how long after that the next one comes
    thread_job_state state;
    stop_reason reason;  // why the call is to end
    bool is_stopped;     // that was asked for while it ran
    bool is_cancelled;   // whatever the reason, its future was cancelled while it ran
    runner *runner;      // that runs it, borrowed; NULL: none
    PyObject *stack;     // where it was when its time was over, a str, or NULL
    bool *is_over;       // while `stack` is taken: where it is noted that the call has ended; else NULL
    int64_t began_ns;    // by clock_now_ns(); or CALL_NOT_BEGUN
} thread_job;

// Of a task that has one.
static thread_job *
own_job(task *t)
{
    return (thread_job *)(void *)t->args;
}

// NULL: the task has none.
static thread_job *
job_of(task *t)
{
    return t == NULL || t->route == NULL ? NULL : own_job(t);
}

// ---- interrupting ----

#if PY_VERSION_HEX >= 0x030F0000
// Next to those that worker processes use.
#define STOP_SIGNAL (SIGRTMIN + 4)

// A signal ends a system call that has begun, and is lost on one that is about to: so it is repeated until
// the exception is raised, first after this time, and then after twice the time before, up to the other.
#define PAUSE_NS 1000000
#define PAUSE_MAX_NS 1000000000

static void
do_nothing(int Py_UNUSED(number))
{
}

// Ends the system call that a thread waits in.
static void
end_system_call(unsigned long thread_id)
{
    struct sigaction action;
    if (sigaction(STOP_SIGNAL, NULL, &action) < 0) {
        return;
    }
    if (!(action.sa_flags & SA_SIGINFO) && action.sa_handler == SIG_DFL) {
        memset(&action, 0, sizeof(action));
        action.sa_handler = do_nothing;  // without SA_RESTART
        if (sigaction(STOP_SIGNAL, &action, NULL) < 0) {
            return;
        }
    }
    if (!(action.sa_flags & SA_SIGINFO) && action.sa_handler == do_nothing) {
        pthread_kill((pthread_t)thread_id, STOP_SIGNAL);
    }
}

// Signals the thread of a call that was interrupted, unless the exception is raised by now.
static void
send_signal(limit *self)
{
    thread_job *job = THING_OF(self, thread_job, signal);
    worker *w = job->runner->worker;
    if (w->thread->async_exc == job->runner->place.module->task_cancelled) {
        end_system_call(w->thread_id);
        limit_watch_set(job->jobs->module, self, clock_now_ns() + job->pause_ns);
        job->pause_ns = job->pause_ns < PAUSE_MAX_NS / 2 ? 2 * job->pause_ns : PAUSE_MAX_NS;
    }
}

static void
end_system_calls(thread_job *job)
{
    job->pause_ns = PAUSE_NS;
    send_signal(&job->signal);
}
#else
static void
send_signal(limit *Py_UNUSED(self))
{
}

static void
end_system_calls(thread_job *Py_UNUSED(job))
{
}
#endif

// Has TaskCancelled raised in the call, unless it has to wait, or was raised before.
static void
interrupt(thread_job *job)
{
    runner *r = job->runner;
    worker *w = r->worker;
    call_place *place = &r->place;
    bool is_shielded = place->call != NULL && place->call->shields > 0;
    if (place->is_interrupted || worker_innermost(w) != r || is_shielded) {
        return;
    }
    place->is_interrupted = true;
    PyThreadState_SetAsyncExc(w->thread_id, place->module->task_cancelled);
    end_system_calls(job);
}

static bool
take_back(call_place *place)
{
    module_state *module = place->module;
    PyThreadState *thread = PyThreadState_Get();
    if (thread->async_exc == NULL || thread->async_exc != module->task_cancelled) {
        return false;
    }
#if PY_VERSION_HEX >= 0x030D0000
    PyThreadState_SetAsyncExc(THING_OF(place, runner, place)->worker->thread_id, NULL);
#else
    // Older interpreters would look for it at every step, in every thread, until one is raised.
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyObject *result = PyObject_CallNoArgs(module->checkpoint);
    if (result == NULL && PyErr_ExceptionMatches(module->task_cancelled)) {
        PyErr_Clear();
    }
    else if (result == NULL) {
        module_log_escaped(module);
    }
    Py_XDECREF(result);
    PyErr_Restore(type, value, traceback);
#endif
    return true;
}

// Stops a call that runs.
static void
stop(thread_job *job, stop_reason reason)
{
    if (job->reason == STOP_NOT) {
        job->reason = reason;
        job->is_stopped = true;
        lost_exception_watch(job->jobs->module);
        limit_watch_unset(&job->limit);
        if (job->options.grace_ns != CALL_NO_LIMIT) {
            limit_watch_set(job->jobs->module, &job->limit, clock_now_ns() + job->options.grace_ns);
        }
    }
    interrupt(job);
}

PyObject *
thread_job_look(task *t, int64_t *began_ns)
{
    thread_job *job = job_of(t);
    *began_ns = job == NULL ? CALL_NOT_BEGUN : job->began_ns;
    return job == NULL ? NULL : job->options.name;
}

bool
thread_job_is_stoppable(task *t)
{
    thread_job *job = job_of(t);
    return job != NULL && job->options.how != STOP_ABANDON;
}

bool
thread_job_stop(runner *r, stop_reason reason)
{
    thread_job *job = job_of(r->current);
    bool stops = thread_job_is_stoppable(r->current) && job->state == JOB_RUNS;
    if (stops) {
        stop(job, reason);
    }
    return stops;
}

// ---- limits ----

static task *
task_of(thread_job *job)
{
    return THING_OF(job, task, args);
}

// What the future of a call gets whose time is over; `stopped` as for call_timeout_error().
static PyObject *
make_timeout(task *t, const char *stopped)
{
    thread_job *job = own_job(t);
    int64_t ran_ns = job->began_ns == CALL_NOT_BEGUN ? CALL_NOT_BEGUN : clock_now_ns() - job->began_ns;
    return call_timeout_error(task_called(t), &job->options, ran_ns, job->stack, stopped);
}

static void
log_abandoned(module_state *module, PyObject *callable, unsigned long thread_id)
{
    const char *message = "%r was to end and goes on in thread %d; its result will be dropped";
    PyObject *result = PyObject_CallMethod(module->logger, "warning", "sOk", message, callable, thread_id);
    if (result == NULL) {
        PyErr_WriteUnraisable(callable);
    }
    Py_XDECREF(result);
}

// The call has not ended within its grace.
static void
abandon(thread_job *job)
{
    task *t = task_of(job);
    runner *r = job->runner;
    module_state *module = r->place.module;
    unsigned long thread_id = r->worker->thread_id;
    bool warns = !job->jobs->has_warned;
    delivery *d = task_detach(t);
    if (d == NULL) {
        module_log_escaped(module);
        return;
    }
    r->is_abandoned = true;
    r->worker->view->is_abandoned = 1;
    job->jobs->has_warned = true;
    PyObject *callable = Py_NewRef(task_called(t));
    call_options options = job->options;
    Py_XINCREF(options.name);
    PyObject *stack = Py_XNewRef(job->stack);
    bool timed_out = job->reason == STOP_BY_TIMEOUT && !job->is_cancelled;
    ++*(timed_out ? &job->jobs->counts->timed_out : &job->jobs->counts->cancelled);
    int64_t ran_ns = clock_now_ns() - job->began_ns;
    // From here on Python code runs, and the call may end.
    PyObject *error = timed_out ? call_timeout_error(callable, &options, ran_ns, stack, NULL) : NULL;
    if (warns) {
        log_abandoned(module, callable, thread_id);
    }
    if (task_fail_detached(d, error) < 0) {
        module_log_escaped(module);
    }
    Py_XDECREF(error);
    Py_XDECREF(stack);
    Py_XDECREF(options.name);
    Py_DECREF(callable);
}

// The call has waited in the queue until its deadline.
static void
expire(thread_job *job)
{
    task *t = task_of(job);
    workq *q = job->jobs->queue;
    module_state *module = job->jobs->module;
    list_node **place = &q->nodes.first;
    job->reason = STOP_BY_TIMEOUT;  // a worker that takes it does not call it
    while (*place != NULL && *place != &t->delivery.node) {
        place = &(*place)->next;
    }
    if (*place == NULL) {
        return;
    }
    workq_withdraw(q, place);
    PyObject *error = make_timeout(t, NULL);
    trace_end(&t->traced, job->is_cancelled ? TRACE_CANCELLED : TRACE_TIMED_OUT);
    ++*(job->is_cancelled ? &job->jobs->counts->cancelled : &job->jobs->counts->timed_out);
    if (task_fail(t, error) < 0) {
        module_log_escaped(module);
    }
    Py_DECREF(error);
}

// Notes where the call is.  False: it has ended meanwhile.
static bool
note_stack(thread_job *job)
{
    worker *w = job->runner->worker;
    bool is_over = false;
    job->is_over = &is_over;
    PyObject *stack = thread_stack(w->thread, w->thread_id, w->base_frame);
    if (is_over) {
        Py_XDECREF(stack);
        return false;
    }
    job->is_over = NULL;
    job->stack = stack;
    return true;
}

static void
reach(limit *self)
{
    thread_job *job = THING_OF(self, thread_job, limit);
    if (job->state == JOB_QUEUED) {
        expire(job);
    }
    else if (job->state == JOB_RUNS && job->reason == STOP_NOT) {
        if (note_stack(job)) {
            stop(job, STOP_BY_TIMEOUT);
        }
    }
    else if (job->state == JOB_RUNS) {
        abandon(job);
    }
}

// The call has ended, or nobody cares for it any more.
static void
leave(thread_job *job)
{
    limit_watch_unset(&job->limit);
    limit_watch_unset(&job->signal);
    if (job->is_over != NULL) {
        *job->is_over = true;
        job->is_over = NULL;
    }
}

// A call begins: sets its limit.
static void
begin(thread_job *job)
{
    const call_options *options = &job->options;
    int64_t now_ns = clock_now_ns();
    int64_t due_ns = options->timeout_ns == CALL_NO_LIMIT ? CALL_NO_LIMIT : now_ns + options->timeout_ns;
    due_ns = options->deadline_ns < due_ns ? options->deadline_ns : due_ns;
    if (options->deadline_ns <= now_ns && job->reason == STOP_NOT) {
        job->reason = STOP_BY_TIMEOUT;
    }
    if (job->reason != STOP_NOT) {
        return;
    }
    job->began_ns = now_ns;
    if (due_ns != CALL_NO_LIMIT) {
        limit_watch_set(job->jobs->module, &job->limit, due_ns);
    }
}

// ---- the place of a call ----

// `base` is that of the worker's first runner.
static CallObject *
get_call(call_place *base)
{
    static const call_options none = {.timeout_ns = CALL_NO_LIMIT, .deadline_ns = CALL_NO_LIMIT};
    runner *r = worker_innermost(THING_OF(base, runner, place)->worker);
    task *t = r->current;
    thread_job *job = job_of(t);
    if (r->inherited || t == NULL || t->callable == NULL || (job != NULL && job->state != JOB_RUNS)) {
        return NULL;
    }
    // Of a call without limits nobody asks when it began.
    return job == NULL ? call_place_get(&r->place, task_called(t), &none, clock_now_ns())
                       : call_place_get(&r->place, task_called(t), &job->options, job->began_ns);
}

static stop_reason
get_reason(const call_place *place)
{
    thread_job *job = job_of(THING_OF(place, runner, place)->current);
    return job == NULL ? STOP_NOT : job->reason;
}

// `base` is that of the worker's first runner.
static void
raise_again(call_place *base)
{
    runner *r = worker_innermost(THING_OF(base, runner, place)->worker);
    thread_job *job = job_of(r->current);
    if (!r->inherited && job != NULL && job->state == JOB_RUNS && job->reason != STOP_NOT) {
        r->place.is_interrupted = false;
        interrupt(job);
    }
}

void
runner_enter(runner *r, worker *w, module_state *module)
{
    r->worker = w;
    r->place = (call_place){.module = module,
                            .get = get_call,
                            .reason = get_reason,
                            .take_back = take_back,
                            .raise_again = raise_again};
    list_link_push(&w->runners, &r->of_worker);
}

void
runner_leave(runner *r)
{
    list_link_remove(&r->of_worker);
}

void
runner_forget(runner *r)
{
    thread_job *job = job_of(r->current);
    take_back(&r->place);
    r->inherited = true;
    call_end(&r->place);
    if (job != NULL) {
        job->state = JOB_OVER;
        leave(job);
    }
}

// ---- the route ----

static PyObject *
call(task *t, call_place *place)
{
    thread_job *job = own_job(t);
    runner *r = THING_OF(place, runner, place);
    PyObject *result = NULL;
    job->runner = r;
    job->state = JOB_RUNS;
    place->is_interrupted = false;
    begin(job);
    // It may have been cancelled since its future was told that it runs, or its deadline has passed.
    if (job->reason == STOP_NOT) {
        result = task_call(t);
    }
    if (r->inherited) {
        return result;
    }
    job->state = JOB_OVER;
    job->runner = NULL;
    r->is_abandoned = false;
    r->worker->view->is_abandoned = 0;
    leave(job);
    take_back(place);
    if (job->reason == STOP_NOT) {
        return result;
    }
    if (job->is_stopped) {
        lost_exception_unwatch(job->jobs->module);
    }
    // Whatever it has returned or raised.
    bool has_raised = result == NULL;
    PyObject *exception = has_raised ? PyErr_GetRaisedException() : NULL;
    Py_XDECREF(result);
    Py_XDECREF(exception);
    if (job->reason == STOP_BY_TIMEOUT && !job->is_cancelled && t->delivery.to.future != NULL) {
        place->has_timed_out = true;
        PyErr_SetRaisedException(make_timeout(t, has_raised ? "raised" : "returned"));
    }
    return NULL;
}

static withdrawal
withdraw(task *t, bool insists)
{
    thread_job *job = own_job(t);
    if (job->state == JOB_QUEUED) {
        job->reason = STOP_BY_CANCEL;  // the worker that takes it does not call it
        job->is_cancelled = true;
        return WITHDRAW_DONE;
    }
    if (job->state == JOB_OVER || job->options.how == STOP_ABANDON) {
        return WITHDRAW_TOO_LATE;
    }
    if (job->is_cancelled && insists) {
        limit_watch_set(job->jobs->module, &job->limit, clock_now_ns());
    }
    job->is_cancelled = true;
    stop(job, STOP_BY_CANCEL);
    return WITHDRAW_STOPPING;
}

static bool
is_taken(task *Py_UNUSED(t))
{
    return false;  // its worker tells the destination
}

static void
drop(task *t)
{
    Py_CLEAR(own_job(t)->options.name);
    Py_CLEAR(own_job(t)->stack);
}

static int
traverse(const task *t, visitproc visit, void *arg)
{
    const thread_job *job = (const thread_job *)(const void *)t->args;
    Py_VISIT(job->options.name);
    Py_VISIT(job->stack);
    return 0;
}

static void
forget(task *t)
{
    leave(own_job(t));
}

static const task_route thread_route = {
    .room = (sizeof(thread_job) + sizeof(PyObject *) - 1) / sizeof(PyObject *) + 1,
    .call = call,
    .withdraw = withdraw,
    .is_taken = is_taken,
    .drop = drop,
    .traverse = traverse,
    .forget = forget,
};

task *
thread_job_new_task(thread_jobs *jobs, const call_options *options, PyObject *const *args,
                    Py_ssize_t nargs, PyObject *kwnames, const destination *to)
{
    // Not when it is to be raised, as that must not run Python code.
    if (call_learn_cancelled(jobs->module) < 0) {
        return NULL;
    }
    task *t = task_new(&thread_route, args, nargs, kwnames, to);
    if (t != NULL) {
        thread_job *job = own_job(t);
        job->jobs = jobs;
        job->options = *options;
        Py_XINCREF(options->name);
        job->limit.reach = reach;
        job->signal.reach = send_signal;
        job->began_ns = CALL_NOT_BEGUN;
        if (options->deadline_ns != CALL_NO_LIMIT) {
            limit_watch_set(jobs->module, &job->limit, options->deadline_ns);
        }
    }
    return t;
}
