#include "future_destination.h"

#include "future.h"
#include "future_type.h"

// The two below, where a method of the standard class is replaced; apart, so that what every call goes
// through stays short.
static __attribute__((noinline)) int
start_as_standard(FutureObject *self)
{
    PyObject *result;
    if (!future_call_standard(self, "set_running_or_notify_cancel", NULL, 0, NULL, &result)) {
        return future_start(self);
    }
    int run = result == NULL ? -1 : PyObject_IsTrue(result);
    Py_XDECREF(result);
    return run;
}

static __attribute__((noinline)) int
finish_as_standard(FutureObject *self, PyObject *result, PyObject *exception)
{
    PyObject *outcome = result != NULL ? result : exception;
    PyObject *returned;
    const char *setter = result != NULL ? "set_result" : "set_exception";
    if (!future_call_standard(self, setter, &outcome, 1, NULL, &returned)) {
        return future_finish(self, result, exception);
    }
    Py_DECREF(outcome);
    Py_XDECREF(returned);
    return returned == NULL ? -1 : 0;
}

static int
destination_start(const destination *to)
{
    FutureObject *self = as_future(to->future);
    return standard_is_replaced(&self->module->standard_future) ? start_as_standard(self)
                                                                : future_start(self);
}

static int
destination_finish(delivery *d)
{
    FutureObject *self = as_future(d->to.future);
    PyObject *result = d->result, *exception = d->exception;
    d->result = d->exception = NULL;
    return standard_is_replaced(&self->module->standard_future) ? finish_as_standard(self, result, exception)
                                                                : future_finish(self, result, exception);
}

// A call that ran has ended without an outcome, so its future can be cancelled.  0, or -1 with an exception.
static int
stop_running(FutureObject *self)
{
    PyObject *condition;
    if (future_condition_enter(self, &condition) < 0) {
        return -1;
    }
    if (self->state == FUTURE_RUNNING) {
        future_set_state(self, FUTURE_PENDING);
    }
    return future_condition_leave(condition, false, 0);
}

static int
destination_fail(delivery *d)
{
    FutureObject *self = as_future(d->to.future);
    if (d->exception != NULL && !future_is_done(self)) {
        return destination_finish(d);
    }
    if (self->state == FUTURE_RUNNING && stop_running(self) < 0) {
        return -1;
    }
    int rc = future_cancel(self);
    // No worker will ever see it, so the waiting threads are told here.
    return rc >= 0 && self->state == FUTURE_CANCELLED ? future_start(self) : rc;
}

static void
destination_abandon(const destination *to, PyObject *exception)
{
    future_abandon(as_future(to->future), exception);
}

static bool
destination_is_watched(const destination *to)
{
    FutureObject *self = as_future(to->future);
    PyObject *waiters = future_waiters(self);
    return future_condition(self) != NULL || (self->callbacks != NULL && PyList_GET_SIZE(self->callbacks) > 0)
           || (waiters != NULL && PyList_GET_SIZE(waiters) > 0);
}

static struct task **
destination_slot(const destination *to)
{
    return &as_future(to->future)->task;
}

static const destination_kind future_destination_kind = {
    .start = destination_start,
    .finish = destination_finish,
    .fail = destination_fail,
    .abandon = destination_abandon,
    .is_watched = destination_is_watched,
    .slot = destination_slot,
};

int
future_destination(module_state *state, destination *to)
{
    to->kind = &future_destination_kind;
    to->carrier = NULL;
    to->future = future_new(state);
    return to->future == NULL ? -1 : 0;
}
