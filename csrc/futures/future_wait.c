#include "future_wait.h"

#include "argument.h"
#include "base/task.h"
#include "core/clock.h"
#include "helping.h"

static bool
is_this_future(PyObject *future, const void *which)
{
    return future == which;
}

// Before a worker waits for a task of its own queue.  0, or -1 with an exception.
static int
help(FutureObject *self, helper *with, int64_t deadline_ns)
{
    awaited what = {is_this_future, self, deadline_ns != FUTEX_NO_DEADLINE};
    if (deadline_ns <= clock_now_ns()) {
        return 0;
    }
    if (with->run_awaited(with, &what) < 0) {
        return -1;
    }
    if (!what.has_deadline && !future_is_done(self) && with->count_hopeless(with, &what) > 0) {
        helping_refuse();
        return -1;
    }
    return 0;
}

// 1 done, 0 timed out, -1 with an exception, such as a signal handler's.
static int
wait_until_done(FutureObject *self, int64_t deadline_ns)
{
    if (future_is_done(self)) {
        return 1;
    }
    if (self->task != NULL && self->task->route->help != NULL) {
        int rc = self->task->route->help(&self->task, &self->done, 0, NULL, deadline_ns);
        if (rc < 0 || future_is_done(self)) {
            return rc < 0 ? -1 : 1;
        }
    }
    helper *with = helping_with(self->home);
    if (with != NULL) {
        if (help(self, with, deadline_ns) < 0) {
            return -1;
        }
        if (future_is_done(self)) {
            return 1;
        }
        with->sleeps_for = deadline_ns == FUTEX_NO_DEADLINE ? (PyObject *)self : NULL;
    }
    self->sleepers++;
    int rc = module_wait(self->module, &self->done, deadline_ns);
    self->sleepers--;
    if (with != NULL) {
        with->sleeps_for = NULL;
    }
    if (rc == FUTEX_INTERRUPTED) {
        return -1;
    }
    // Code that sets the private attributes one by one holds the condition meanwhile.
    PyObject *condition;
    if (future_condition_enter(self, &condition) < 0 || future_condition_leave(condition, false, 0) < 0) {
        return -1;
    }
    return future_is_done(self);
}

// Whether the program has made threads greenlets, perhaps since it imported pyconc; as
// threads_are_greenlets() says it.
static bool
waits_cooperatively(const module_state *state)
{
    PyObject *function = PyDict_GetItemWithError(state->threading_names, state->get_ident_name);
    return function != NULL && !PyCFunction_CheckExact(function);
}

// Whether the program watches locks, or has replaced them: then the standard class's method waits, with a
// lock.
static bool
waits_with_locks(module_state *state)
{
    return state->standard_future.type != NULL
           && (standard_is_replaced(&state->standard_lock) || waits_cooperatively(state));
}

bool
future_wait_until_finished(FutureObject *self, const char *method, PyObject *const *args, Py_ssize_t nargs,
                           PyObject *kwnames, PyObject **instead)
{
    standard_class *standard = &self->module->standard_future;
    bool locks = !future_is_done(self) && waits_with_locks(self->module);
    if (locks ? standard_call(standard, true, method, (PyObject *)self, args, nargs, kwnames, instead)
              : future_call_standard(self, method, args, nargs, kwnames, instead)) {
        return false;
    }
    *instead = NULL;
    PyObject *timeout = argument_parse(method, "timeout", Py_None, args, nargs, kwnames);
    int64_t deadline_ns = 0;
    int rc = timeout == NULL ? -1 : 0;
    if (rc == 0 && !future_is_done(self)) {
        rc = module_deadline(timeout, &deadline_ns);
    }
    rc = rc < 0 ? -1 : wait_until_done(self, deadline_ns);
    if (rc == 0) {
        PyErr_SetNone(self->module->timeout_error);
    }
    else if (rc > 0 && self->state != FUTURE_FINISHED) {
        PyErr_SetNone(self->module->cancelled_error);
    }
    return rc > 0 && self->state == FUTURE_FINISHED;
}

int
future_wait_briefly(FutureObject *self, int64_t deadline_ns)
{
    return waits_with_locks(self->module) ? 1 : wait_until_done(self, deadline_ns);
}
