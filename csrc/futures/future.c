#include "future.h"

#include "base/task.h"
#include "waiter.h"

// ---- the condition ----

static int
call_condition(PyObject *condition, const char *method)
{
    PyObject *result = PyObject_CallMethod(condition, method, NULL);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

int
future_enter_condition(FutureObject *self, PyObject **entered)
{
    *entered = Py_NewRef(self->condition);
    if (call_condition(*entered, "acquire") < 0) {
        Py_CLEAR(*entered);
        return -1;
    }
    return 0;
}

int
future_leave_condition(PyObject *entered, bool notify, int rc)
{
    PyObject *exception = rc < 0 ? PyErr_GetRaisedException() : NULL;
    if (notify && call_condition(entered, "notify_all") < 0 && exception == NULL) {
        exception = PyErr_GetRaisedException();
    }
    if (call_condition(entered, "release") < 0 && exception == NULL) {
        exception = PyErr_GetRaisedException();
    }
    PyErr_Clear();
    Py_DECREF(entered);
    if (exception != NULL) {
        PyErr_SetRaisedException(exception);
        return -1;
    }
    return rc;
}


// ---- callbacks and waiters ----

int
future_prepare_list(FutureObject *self, PyObject **field)
{
    future_track(self);  // which makes the field one, if it is that of the waiters
    PyObject *list = *field == NULL ? PyList_New(0) : NULL;
    if (list != NULL && *field != NULL) {
        Py_CLEAR(list);  // made meanwhile by another thread
    }
    else if (list != NULL) {
        *field = list;
    }
    return *field == NULL ? -1 : 0;
}

int
future_add_waiter(FutureObject *self, PyObject *waiter)
{
    if (future_prepare_list(self, &self->waiters) < 0) {
        return -1;
    }
    if (future_is_reportable(self)) {
        return 0;
    }
    return PyList_Append(self->waiters, waiter) < 0 ? -1 : 1;
}

int
future_remove_waiter(FutureObject *self, PyObject *waiter)
{
    PyObject *waiters = Py_XNewRef(future_waiters(self));
    int rc = 0;
    for (Py_ssize_t i = 0; waiters != NULL && i < PyList_GET_SIZE(waiters); i++) {
        if (PyList_GET_ITEM(waiters, i) == waiter) {
            rc = PyList_SetSlice(waiters, i, i + 1, NULL);
            break;
        }
    }
    Py_XDECREF(waiters);
    return rc;
}

// A copy of the waiters, which may leave the list while one of them is told.  To make a tuple may run the
// garbage collector, and with it other threads, so the list is read when the tuple is there.
static PyObject *
copy_waiters(FutureObject *self)
{
    PyObject *list = Py_NewRef(self->waiters);
    PyObject *copy = NULL;
    Py_ssize_t size;
    do {
        Py_XDECREF(copy);
        size = PyList_GET_SIZE(list);
        copy = PyTuple_New(size);
    } while (copy != NULL && PyList_GET_SIZE(list) != size);
    for (Py_ssize_t i = 0; copy != NULL && i < size; i++) {
        PyTuple_SET_ITEM(copy, i, Py_NewRef(PyList_GET_ITEM(list, i)));
    }
    Py_DECREF(list);
    return copy;
}

// Tells wait() and as_completed().
static int
tell_waiters(FutureObject *self, const char *method)
{
    if (future_waiters(self) == NULL) {
        return 0;
    }
    PyObject *waiters = copy_waiters(self);
    int rc = waiters == NULL ? -1 : 0;
    for (Py_ssize_t i = 0; rc == 0 && i < PyTuple_GET_SIZE(waiters); i++) {
        PyObject *waiter = PyTuple_GET_ITEM(waiters, i);
        if (Py_IS_TYPE(waiter, self->module->waiter_type)) {
            rc = waiter_add(waiter, (PyObject *)self, self->exception != NULL);
        }
        else {
            PyObject *result = PyObject_CallMethod(waiter, method, "O", self);
            rc = result == NULL ? -1 : 0;
            Py_XDECREF(result);
        }
    }
    Py_XDECREF(waiters);
    return rc;
}

int
future_call_back(FutureObject *self, PyObject *callback, bool was_registered)
{
    bool finished = self->state == FUTURE_FINISHED;
    PyObject *exception = finished ? Py_XNewRef(self->exception) : NULL;
    PyObject *outcome = NULL;
    if (finished && exception == NULL) {
        outcome = Py_NewRef(self->result == NULL ? Py_None : self->result);
    }
    int forwarded = self->module->callbacks->forward(self->module, (PyObject *)self, callback, was_registered,
                                                     outcome, exception);
    Py_XDECREF(exception);
    Py_XDECREF(outcome);
    if (forwarded != 0) {
        return forwarded < 0 ? -1 : 0;
    }
    PyObject *result = PyObject_CallOneArg(callback, (PyObject *)self);
    if (result == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_Exception)) {
            return -1;
        }
        module_log(self->module, "error", "exception calling callback for %r", (PyObject *)self,
                   PyErr_GetRaisedException());
    }
    Py_XDECREF(result);
    return 0;
}

static int
call_each(FutureObject *self)
{
    // By index and with a reference: a callback may change the list.
    PyObject *callbacks = Py_XNewRef(self->callbacks);
    int rc = 0;
    for (Py_ssize_t i = 0; callbacks != NULL && i < PyList_GET_SIZE(callbacks) && rc == 0; i++) {
        PyObject *callback = Py_NewRef(PyList_GET_ITEM(callbacks, i));
        rc = future_call_back(self, callback, true);
        Py_DECREF(callback);
    }
    Py_XDECREF(callbacks);
    return rc;
}

// Callbacks that complete futures whose callbacks complete others nest, and some interpreters limit how
// deep C may nest.  The standard library gets 332 levels deep with the default recursion limit.  Further
// down a thread notes the future, and the callback at the last level calls for it when it has returned.
#define NESTED_MAX 400

static _Thread_local struct {
    int depth;
    PyObject *deferred;  // a list of futures, or NULL; the thread changes it with the GIL
} nesting;

// After the callbacks at the last level, as rc says: calls those that were deferred.
static int
call_deferred(int rc)
{
    PyObject *exception = rc < 0 ? PyErr_GetRaisedException() : NULL;
    while (nesting.deferred != NULL) {
        PyObject *futures = nesting.deferred;
        nesting.deferred = NULL;
        for (Py_ssize_t i = 0; i < PyList_GET_SIZE(futures); i++) {
            PyObject *future = PyList_GET_ITEM(futures, i);
            if (call_each(as_future(future)) == 0) {
                continue;
            }
            if (exception == NULL) {
                exception = PyErr_GetRaisedException();
            }
            else {
                PyErr_WriteUnraisable(future);
            }
        }
        Py_DECREF(futures);
    }
    if (exception == NULL) {
        return 0;
    }
    PyErr_SetRaisedException(exception);
    return -1;
}

int
future_call_callbacks(FutureObject *self)
{
    if (self->callbacks == NULL) {
        return 0;
    }
    if (nesting.depth == NESTED_MAX) {
        if (nesting.deferred == NULL) {
            nesting.deferred = PyList_New(0);
        }
        if (nesting.deferred != NULL && PyList_Append(nesting.deferred, (PyObject *)self) == 0) {
            return 0;
        }
        PyErr_Clear();  // no memory for the list: one level more, then
    }
    nesting.depth++;
    int rc = call_each(self);
    if (nesting.deferred != NULL && nesting.depth <= NESTED_MAX) {
        rc = call_deferred(rc);  // any greenlet does: the one at the last level may be paused
    }
    nesting.depth--;
    return rc;
}

// The same when something may have been raised before, as rc says: an exception that is set stays.  Drops
// `old`.
static int
call_callbacks_after(FutureObject *self, int rc, PyObject *old)
{
    PyObject *exception = rc < 0 ? PyErr_GetRaisedException() : NULL;
    Py_XDECREF(old);
    rc = future_call_callbacks(self);
    if (exception == NULL) {
        return rc;
    }
    if (rc < 0) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    PyErr_SetRaisedException(exception);
    return -1;
}

// ---- changes of state ----

static int
refuse_outcome(FutureObject *self)
{
    PyErr_Format(self->module->invalid_state_error, "%U: %R",
                 self->module->state_names[self->state], self);
    return -1;
}

int
future_finish(FutureObject *self, PyObject *result, PyObject *exception)
{
    PyObject *condition;
    int rc = future_condition_enter(self, &condition);
    if (rc == 0 && future_is_done(self)) {
        rc = future_condition_leave(condition, false, refuse_outcome(self));
    }
    if (rc < 0) {
        Py_XDECREF(result);
        Py_XDECREF(exception);
        return -1;
    }
    PyObject **field = result != NULL ? &self->result : &self->exception;
    PyObject *old = *field;
    if (PyObject_IS_GC(result != NULL ? result : exception)) {
        future_track(self);
    }
    *field = result != NULL ? result : exception;
    if (*field == Py_None) {
        Py_CLEAR(*field);
    }
    future_set_state(self, FUTURE_FINISHED);
    rc = tell_waiters(self, result != NULL ? "add_result" : "add_exception");
    rc = future_condition_leave(condition, true, rc);
    return call_callbacks_after(self, rc, old);
}

int
future_start(FutureObject *self)
{
    PyObject *condition;
    int rc = -1;
    if (future_condition_enter(self, &condition) < 0) {
        return -1;
    }
    if (self->state == FUTURE_PENDING) {
        future_set_state(self, FUTURE_RUNNING);
        rc = 1;
    }
    else if (self->state == FUTURE_CANCELLED) {
        future_set_state(self, FUTURE_CANCELLED_AND_NOTIFIED);
        rc = tell_waiters(self, "add_cancelled");
    }
    else {
        PyObject *name = self->module->state_names[self->state];
        PyObject *result = PyObject_CallMethod(self->module->logger, "critical", "sNO",
                                               "Future %s in unexpected state: %s",
                                               PyLong_FromVoidPtr(self), name);
        if (result != NULL) {
            Py_DECREF(result);
            PyErr_SetString(PyExc_RuntimeError, "Future in unexpected state");
        }
    }
    return future_condition_leave(condition, false, rc);
}

int
future_look_whether_taken(FutureObject *self)
{
    if (self->state == FUTURE_PENDING && self->task != NULL && self->task->route->is_taken(self->task)) {
        return future_start(self) < 0 ? -1 : 0;
    }
    return 0;
}

int
future_cancel(FutureObject *self)
{
    PyObject *condition;
    if (future_condition_enter(self, &condition) < 0) {
        return -1;
    }
    // Some calls can be cancelled while they run.
    if (self->task != NULL && (self->state == FUTURE_PENDING || self->state == FUTURE_RUNNING)) {
        bool withdrawn = self->task->route->withdraw(self->task, false) != WITHDRAW_TOO_LATE;
        if (!future_is_done(self)) {  // others may have run meanwhile
            future_set_state(self, withdrawn ? FUTURE_PENDING : FUTURE_RUNNING);
        }
    }
    if (self->state != FUTURE_PENDING) {
        bool cancelled = future_is_done(self) && self->state != FUTURE_FINISHED;
        return future_condition_leave(condition, false, cancelled);
    }
    future_set_state(self, FUTURE_CANCELLED);
    int rc = future_condition_leave(condition, true, 0);
    return call_callbacks_after(self, rc, NULL) < 0 ? -1 : 1;
}

void
future_abandon(FutureObject *self, PyObject *exception)
{
    if (future_is_done(self)) {
        return;
    }
    future_track(self);
    Py_CLEAR(self->condition);
    Py_CLEAR(self->waiters);
    Py_CLEAR(self->callbacks);
    Py_XSETREF(self->exception, Py_NewRef(exception));
    self->sleepers = 0;
    future_set_state(self, FUTURE_FINISHED);
}
