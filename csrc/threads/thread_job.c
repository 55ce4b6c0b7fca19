#include "thread_job.h"

#include <pthread.h>
#include <signal.h>

#include "core/clock.h"

typedef enum thread_job_state {
    JOB_QUEUED,  // or taken, and not begun
    JOB_RUNS,
    JOB_OVER,
} thread_job_state;

// At the front of the task's args.
typedef struct thread_job {
    call_options options;  // the name is owned
    thread_job_state state;
    stop_reason reason;  // why the call is to end
    runner *runner;      // that runs it, borrowed; NULL: none
    int64_t began_ns;    // by clock_now_ns(), once it runs
} thread_job;

static const task_route thread_route;

// NULL: the task has none.
static thread_job *
job_of(task *t)
{
    return t == NULL || t->route == NULL ? NULL : (thread_job *)(void *)t->args;
}

// ---- interrupting ----

#if PY_VERSION_HEX >= 0x030F0000
// Next to those that worker processes use.
#define STOP_SIGNAL (SIGRTMIN + 4)

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
#else
static void
end_system_call(unsigned long Py_UNUSED(thread_id))
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
    end_system_call(w->thread_id);
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

static void
stop(thread_job *job, stop_reason reason)
{
    if (job->reason == STOP_NOT) {
        job->reason = reason;
    }
    if (job->state == JOB_RUNS) {
        interrupt(job);
    }
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
    return job == NULL ? call_place_get(&r->place, t->callable, &none, clock_now_ns())
                       : call_place_get(&r->place, t->callable, &job->options, job->began_ns);
}

static stop_reason
get_reason(const call_place *place)
{
    thread_job *job = job_of(THING_OF(place, runner, place)->current);
    return job == NULL ? STOP_NOT : job->reason;
}

void
runner_enter(runner *r, worker *w, module_state *module)
{
    r->worker = w;
    r->place = (call_place){.module = module, .get = get_call, .reason = get_reason, .take_back = take_back};
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
    }
}

// ---- the route ----

static PyObject *
call(task *t, call_place *place)
{
    thread_job *job = job_of(t);
    runner *r = THING_OF(place, runner, place);
    PyObject *result = NULL;
    job->began_ns = clock_now_ns();
    job->runner = r;
    job->state = JOB_RUNS;
    place->is_interrupted = false;
    // It may have been cancelled since its future was told that it runs.
    if (job->reason == STOP_NOT) {
        result = task_call(t);
    }
    if (r->inherited) {
        return result;
    }
    job->state = JOB_OVER;
    job->runner = NULL;
    take_back(place);
    if (job->reason != STOP_NOT) {
        // Whatever it has returned or raised.
        PyObject *exception = result == NULL ? PyErr_GetRaisedException() : NULL;
        Py_CLEAR(result);
        Py_XDECREF(exception);
    }
    return result;
}

static withdrawal
withdraw(task *t)
{
    thread_job *job = job_of(t);
    if (job->state == JOB_QUEUED) {
        job->reason = STOP_BY_CANCEL;  // the worker that takes it does not call it
        return WITHDRAW_DONE;
    }
    if (job->state == JOB_OVER || job->options.how == STOP_ABANDON) {
        return WITHDRAW_TOO_LATE;
    }
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
    Py_CLEAR(job_of(t)->options.name);
}

static int
traverse(const task *t, visitproc visit, void *arg)
{
    Py_VISIT(((const thread_job *)(const void *)t->args)->options.name);
    return 0;
}

static void
forget(task *Py_UNUSED(t))
{
}

static const task_route thread_route = {
    .room = (sizeof(thread_job) + sizeof(PyObject *) - 1) / sizeof(PyObject *),
    .call = call,
    .withdraw = withdraw,
    .is_taken = is_taken,
    .drop = drop,
    .traverse = traverse,
    .forget = forget,
};

task *
thread_job_new_task(module_state *module, const call_options *options, PyObject *const *args,
                    Py_ssize_t nargs, PyObject *kwnames, const destination *to)
{
    // Not when it is to be raised, as that must not run Python code.
    if (call_learn_cancelled(module) < 0) {
        return NULL;
    }
    task *t = task_new(&thread_route, args, nargs, kwnames, to);
    if (t != NULL) {
        job_of(t)->options = *options;
        Py_XINCREF(options->name);
    }
    return t;
}
