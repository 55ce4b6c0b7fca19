#include "future.h"

#include "base/task.h"
#include "core/clock.h"
#include "helping.h"
#include "waiter.h"

static FutureObject *
as_future(PyObject *op)
{
    return (FutureObject *)op;
}

static void
set_state(FutureObject *self, future_state state)
{
    self->state = state;
    // R2: pairs with A1 in look() and in park_sleep(): a thread that sees `done` sees the outcome, once it
    // has the GIL.
    atomic_store_explicit(&self->done, future_is_done(self), memory_order_release);
    if (future_is_done(self) && self->sleepers > 0) {
        futex_wake_all(&self->done);
    }
}

// ---- life ----

static PyObject *
future_alloc(PyTypeObject *type, module_state *state)
{
    FutureObject *self = as_future(type->tp_alloc(type, 0));
    if (self != NULL) {
        self->module = state;  // all else is zero: pending, without waiters
    }
    return (PyObject *)self;
}

PyObject *
future_new(module_state *state)
{
    // As tp_alloc() does it, without tracking it.
    FutureObject *self = PyObject_GC_New(FutureObject, state->future_type);
    if (self != NULL) {
        assert((size_t)Py_TYPE(self)->tp_basicsize == sizeof(FutureObject));
        memset((char *)self + sizeof(PyObject), 0, sizeof(FutureObject) - sizeof(PyObject));
        self->module = state;
        list_link_push(&state->untracked, &self->untracked);
    }
    return (PyObject *)self;
}

// Has the garbage collector track the future, before it refers to something that may refer back.  Futures
// that only ever hold numbers and strings do not concern the collector, and hundreds of thousands of them,
// pending, would keep it busy for tens of milliseconds at a time.
static void
track(FutureObject *self)
{
    if (self->untracked.place != NULL) {
        list_link_remove(&self->untracked);
        PyObject_GC_Track(self);
    }
}

static int
find_any(PyObject *Py_UNUSED(op), void *found)
{
    *(bool *)found = true;
    return 1;
}

void
future_track_attributes(module_state *state)
{
    for (list_link *link = state->untracked, *next; link != NULL; link = next) {
        FutureObject *self = THING_OF(link, FutureObject, untracked);
        bool found = false;
        next = link->next;
        (void)PyObject_VisitManagedDict((PyObject *)self, find_any, &found);
        if (found) {
            track(self);
        }
    }
}

static PyObject *
future_tp_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    if (type->tp_flags & Py_TPFLAGS_IS_ABSTRACT) {  // object refuses it, and names the methods
        PyObject *nothing = PyTuple_New(0);
        PyObject *made = nothing == NULL ? NULL : PyBaseObject_Type.tp_new(type, nothing, NULL);
        Py_XDECREF(nothing);
        assert(made == NULL);
        return made;
    }
    return future_alloc(type, module_state_of(type));
}

static int
future_traverse(PyObject *op, visitproc visit, void *arg)
{
    FutureObject *self = as_future(op);
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->result);
    Py_VISIT(self->exception);
    Py_VISIT(self->callbacks);
    Py_VISIT(self->waiters);
    Py_VISIT(self->condition);
    return PyObject_VisitManagedDict(op, visit, arg);
}

static void
clear_fields(FutureObject *self)
{
    Py_CLEAR(self->result);
    Py_CLEAR(self->exception);
    Py_CLEAR(self->callbacks);
    Py_CLEAR(self->waiters);
    Py_CLEAR(self->condition);
}

static int
future_clear(PyObject *op)
{
    clear_fields(as_future(op));
    PyObject_ClearManagedDict(op);
    return 0;
}

static int
future_init(PyObject *op, PyObject *args, PyObject *kwargs)
{
    // A subclass with another signature overrides this.
    if (PyTuple_GET_SIZE(args) != 0 || (kwargs != NULL && PyDict_GET_SIZE(kwargs) != 0)) {
        PyErr_SetString(PyExc_TypeError, "Future() takes no arguments");
        return -1;
    }
    // New from tp_new, or a second call, which makes the future as good as new.
    clear_fields(as_future(op));
    set_state(as_future(op), FUTURE_PENDING);
    return 0;
}

static void
future_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    list_link_remove(&as_future(op)->untracked);
    // A future may be the result of a future and so on: do not recurse without end.
    Py_TRASHCAN_BEGIN(op, future_dealloc)
    if (has_weakrefs(op)) {
        PyObject_ClearWeakRefs(op);
    }
    future_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
    Py_TRASHCAN_END
}

static int
prepare_list(FutureObject *self, PyObject **field)
{
    PyObject *list = *field == NULL ? PyList_New(0) : NULL;
    if (list != NULL && *field != NULL) {
        Py_CLEAR(list);  // made meanwhile by another thread
    }
    else if (list != NULL) {
        *field = list;
    }
    track(self);
    return *field == NULL ? -1 : 0;
}

// ---- the condition, where there is one ----

// Enters the future's condition if it has one, and gives the caller a reference to leave it with.  Other
// threads may run meanwhile, so the caller looks at the state afterwards.
static int
condition_enter(FutureObject *self, PyObject **entered)
{
    *entered = Py_XNewRef(self->condition);
    if (*entered == NULL) {
        return 0;
    }
    PyObject *result = PyObject_CallMethod(*entered, "acquire", NULL);
    if (result == NULL) {
        Py_CLEAR(*entered);
        return -1;
    }
    Py_DECREF(result);
    return 0;
}

static int
call_condition(PyObject *condition, const char *method)
{
    PyObject *result = PyObject_CallMethod(condition, method, NULL);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

// What condition_leave() does where there is a condition.
static int
leave_entered(PyObject *entered, bool notify, int rc)
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

// Leaves the condition, and first wakes the threads that wait on it.  Returns rc, or -1 with an exception
// that was raised meanwhile, such as Ctrl-C's.  Of several exceptions the first stays, and if rc is -1
// already that is the one which is set.
static inline int
condition_leave(PyObject *entered, bool notify, int rc)
{
    return entered == NULL ? rc : leave_entered(entered, notify, rc);
}

// ---- changes of state ----

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
    if (self->waiters == NULL) {
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

// Calls one callback.  An Exception is logged; anything else escapes.
static int
call_back(FutureObject *self, PyObject *callback, bool was_registered)
{
    bool finished = self->state == FUTURE_FINISHED;
    PyObject *exception = finished ? Py_XNewRef(self->exception) : NULL;
    PyObject *outcome = NULL;
    if (finished && exception == NULL) {
        outcome = Py_NewRef(self->result == NULL ? Py_None : self->result);
    }
    int forwarded =
        self->module->callbacks->forward(self->module, callback, was_registered, outcome, exception);
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
        rc = call_back(self, callback, true);
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

static int
call_callbacks(FutureObject *self)
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
    rc = call_callbacks(self);
    if (exception == NULL) {
        return rc;
    }
    if (rc < 0) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    PyErr_SetRaisedException(exception);
    return -1;
}

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
    int rc = condition_enter(self, &condition);
    if (rc == 0 && future_is_done(self)) {
        rc = condition_leave(condition, false, refuse_outcome(self));
    }
    if (rc < 0) {
        Py_XDECREF(result);
        Py_XDECREF(exception);
        return -1;
    }
    PyObject **field = result != NULL ? &self->result : &self->exception;
    PyObject *old = *field;
    if (PyObject_IS_GC(result != NULL ? result : exception)) {
        track(self);
    }
    *field = result != NULL ? result : exception;
    if (*field == Py_None) {
        Py_CLEAR(*field);
    }
    set_state(self, FUTURE_FINISHED);
    rc = tell_waiters(self, result != NULL ? "add_result" : "add_exception");
    rc = condition_leave(condition, true, rc);
    return call_callbacks_after(self, rc, old);
}

int
future_start(FutureObject *self)
{
    PyObject *condition;
    int rc = -1;
    if (condition_enter(self, &condition) < 0) {
        return -1;
    }
    if (self->state == FUTURE_PENDING) {
        set_state(self, FUTURE_RUNNING);
        rc = 1;
    }
    else if (self->state == FUTURE_CANCELLED) {
        set_state(self, FUTURE_CANCELLED_AND_NOTIFIED);
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
    return condition_leave(condition, false, rc);
}

// A worker in another process takes a task up without telling: a thread that asks whether it runs looks
// there.
static int
look_whether_taken(FutureObject *self)
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
    if (condition_enter(self, &condition) < 0) {
        return -1;
    }
    // Some calls can be cancelled while they run.
    if (self->task != NULL && (self->state == FUTURE_PENDING || self->state == FUTURE_RUNNING)) {
        bool withdrawn = self->task->route->withdraw(self->task, false) != WITHDRAW_TOO_LATE;
        if (!future_is_done(self)) {  // others may have run meanwhile
            set_state(self, withdrawn ? FUTURE_PENDING : FUTURE_RUNNING);
        }
    }
    if (self->state != FUTURE_PENDING) {
        bool cancelled = future_is_done(self) && self->state != FUTURE_FINISHED;
        return condition_leave(condition, false, cancelled);
    }
    set_state(self, FUTURE_CANCELLED);
    int rc = condition_leave(condition, true, 0);
    return call_callbacks_after(self, rc, NULL) < 0 ? -1 : 1;
}

void
future_abandon(FutureObject *self, PyObject *exception)
{
    if (future_is_done(self)) {
        return;
    }
    Py_CLEAR(self->condition);
    Py_CLEAR(self->waiters);
    Py_CLEAR(self->callbacks);
    track(self);
    Py_XSETREF(self->exception, Py_NewRef(exception));
    self->sleepers = 0;
    set_state(self, FUTURE_FINISHED);
}

// ---- as a destination ----

// True: the standard class's method of this name is not the original one, and was called.
static inline bool
call_standard(FutureObject *self, const char *name, PyObject *const *args, Py_ssize_t nargs,
              PyObject *kwnames, PyObject **result)
{
    standard_class *standard = &self->module->standard_future;
    return standard_is_replaced(standard)
           && standard_call(standard, false, name, (PyObject *)self, args, nargs, kwnames, result);
}

// The two below, where a method of the standard class is replaced; apart, so that what every call goes
// through stays short.
static __attribute__((noinline)) int
start_as_standard(FutureObject *self)
{
    PyObject *result;
    if (!call_standard(self, "set_running_or_notify_cancel", NULL, 0, NULL, &result)) {
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
    if (!call_standard(self, setter, &outcome, 1, NULL, &returned)) {
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
    if (condition_enter(self, &condition) < 0) {
        return -1;
    }
    if (self->state == FUTURE_RUNNING) {
        set_state(self, FUTURE_PENDING);
    }
    return condition_leave(condition, false, 0);
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
    return self->condition != NULL || (self->callbacks != NULL && PyList_GET_SIZE(self->callbacks) > 0)
           || (self->waiters != NULL && PyList_GET_SIZE(self->waiters) > 0);
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

// ---- waiters ----

int
future_add_waiter(FutureObject *self, PyObject *waiter)
{
    if (prepare_list(self, &self->waiters) < 0) {
        return -1;
    }
    if (future_is_reportable(self)) {
        return 0;
    }
    track(self);
    return PyList_Append(self->waiters, waiter) < 0 ? -1 : 1;
}

int
future_remove_waiter(FutureObject *self, PyObject *waiter)
{
    PyObject *waiters = Py_XNewRef(self->waiters);
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

// ---- waiting for one future ----

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
    if (condition_enter(self, &condition) < 0 || condition_leave(condition, false, 0) < 0) {
        return -1;
    }
    return future_is_done(self);
}

// Raises a TypeError for what parse_argument() cannot take, in the interpreter's words for a Python method.
static void
refuse_arguments(const char *method, const char *name, PyObject *fallback, Py_ssize_t nargs,
                 PyObject *kwnames)
{
    Py_ssize_t keywords = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    for (Py_ssize_t i = 0; i < keywords; i++) {
        PyObject *keyword = PyTuple_GET_ITEM(kwnames, i);
        if (PyUnicode_CompareWithASCIIString(keyword, name) != 0) {
            PyErr_Format(PyExc_TypeError, "Future.%s() got an unexpected keyword argument '%U'", method,
                         keyword);
            return;
        }
    }
    if (nargs > 0 && keywords > 0) {
        PyErr_Format(PyExc_TypeError, "Future.%s() got multiple values for argument '%s'", method, name);
    }
    else if (nargs == 0) {
        PyErr_Format(PyExc_TypeError, "Future.%s() missing 1 required positional argument: '%s'", method,
                     name);
    }
    else {  // The future itself counts.
        PyErr_Format(PyExc_TypeError, "Future.%s() takes %s positional arguments but %zd were given", method,
                     fallback == NULL ? "2" : "from 1 to 2", nargs + 1);
    }
}

// Parses the one argument of a method, given by position or by name; borrowed.  If it has no
// default, leaving it out is an error.
static inline PyObject *
parse_argument(const char *method, const char *name, PyObject *fallback, PyObject *const *args,
               Py_ssize_t nargs, PyObject *kwnames)
{
    Py_ssize_t keywords = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    if (nargs + keywords == 0 && fallback != NULL) {
        return fallback;
    }
    if (nargs + keywords == 1
        && (nargs == 1 || PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(kwnames, 0), name) == 0)) {
        return args[0];
    }
    refuse_arguments(method, name, fallback, nargs, kwnames);
    return NULL;
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

// What result() and exception() begin with, unless they have nothing to do.  True: the future is finished.
// False: the method returns *instead, NULL with an exception.
static __attribute__((noinline)) bool
wait_until_finished(FutureObject *self, const char *method, PyObject *const *args, Py_ssize_t nargs,
                    PyObject *kwnames, PyObject **instead)
{
    standard_class *standard = &self->module->standard_future;
    bool locks = !future_is_done(self) && waits_with_locks(self->module);
    if (locks ? standard_call(standard, true, method, (PyObject *)self, args, nargs, kwnames, instead)
              : call_standard(self, method, args, nargs, kwnames, instead)) {
        return false;
    }
    *instead = NULL;
    PyObject *timeout = parse_argument(method, "timeout", Py_None, args, nargs, kwnames);
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

// Whether result() and exception() have nothing to do but to say how the call ended.
static inline bool
is_at_hand(FutureObject *self, Py_ssize_t nargs, PyObject *kwnames)
{
    return self->state == FUTURE_FINISHED && nargs == 0 && kwnames == NULL
           && !standard_is_replaced(&self->module->standard_future);
}

int
future_wait_briefly(FutureObject *self, int64_t deadline_ns)
{
    return waits_with_locks(self->module) ? 1 : wait_until_done(self, deadline_ns);
}

PyDoc_STRVAR(result_doc,
"result($self, /, timeout=None)\n--\n\n"
"Return what the call returned, or raise what it raised.\n"
"\n"
"timeout: the most seconds to wait until the future is done; None: without limit. Raises CancelledError\n"
"if the future was cancelled, and TimeoutError if it was not done in time. A signal handler's exception,\n"
"such as KeyboardInterrupt, ends the wait. Any thread may call it. A task that waits for a queued call of\n"
"its own ThreadPoolExecutor runs it, if no thread is free; the time-out counts again when the call returns.\n"
"Without a timeout, a task that waits for itself gets RuntimeError.\n"
"\n"
"    >>> with pyconc.ThreadPoolExecutor() as pool:\n"
"    ...     pool.submit(pow, 2, 10).result(timeout=5)\n"
"    1024");

static PyObject *
future_result(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    FutureObject *self = as_future(op);
    PyObject *instead;
    if (!is_at_hand(self, nargs, kwnames)
        && !wait_until_finished(self, "result", args, nargs, kwnames, &instead)) {
        return instead;
    }
    PyObject *exception = self->exception;
    if (exception != NULL) {
        // As the statement `raise` does it.
        if (PyExceptionInstance_Check(exception)) {
            PyErr_SetObject((PyObject *)Py_TYPE(exception), exception);
        }
        else if (PyExceptionClass_Check(exception)) {
            PyErr_SetNone(exception);
        }
        else {
            PyErr_SetString(PyExc_TypeError, "exceptions must derive from BaseException");
        }
        return NULL;
    }
    return Py_NewRef(self->result == NULL ? Py_None : self->result);
}

PyDoc_STRVAR(exception_doc,
"exception($self, /, timeout=None)\n--\n\n"
"Return what the call raised, or None if it returned.\n"
"\n"
"timeout: the most seconds to wait until the future is done; None: without limit. Raises CancelledError\n"
"if the future was cancelled, and TimeoutError if it was not done in time.\n"
"\n"
"    >>> with pyconc.ThreadPoolExecutor() as pool:\n"
"    ...     pool.submit(int, \"x\").exception()\n"
"    ValueError(\"invalid literal for int() with base 10: 'x'\")");

static PyObject *
future_exception(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    FutureObject *self = as_future(op);
    PyObject *instead;
    if (!is_at_hand(self, nargs, kwnames)
        && !wait_until_finished(self, "exception", args, nargs, kwnames, &instead)) {
        return instead;
    }
    return Py_NewRef(self->exception == NULL ? Py_None : self->exception);
}

// ---- the other methods ----

// A thread of the program's own has called back, and may never look again: it leaves no delivery that rides
// along.
static int
look_now(FutureObject *self)
{
    return self->module->riding == NULL ? 0 : self->module->callbacks->look(self->module, INT64_MAX);
}

PyDoc_STRVAR(cancel_doc,
"cancel($self, /)\n--\n\n"
"Cancel the call if it has not started.\n"
"\n"
"Returns True if the future is cancelled now, False if the call runs or has ended. Callbacks are called\n"
"in this thread; if one raises something that is no Exception, such as SystemExit, it is raised here.\n"
"\n"
"    >>> future = pyconc.Future()\n"
"    >>> future.cancel(), future.cancelled()\n"
"    (True, True)");

static PyObject *
future_cancel_method(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    PyObject *standard_result;
    if (call_standard(as_future(op), "cancel", NULL, 0, NULL, &standard_result)) {
        return standard_result;
    }
    int cancelled = future_cancel(as_future(op));
    return cancelled < 0 || look_now(as_future(op)) < 0 ? NULL : PyBool_FromLong(cancelled);
}

PyDoc_STRVAR(cancelled_doc,
"cancelled($self, /)\n--\n\n"
"Return True if the future was cancelled.\n"
"\n"
"Never waits, and raises nothing.\n"
"\n"
"    >>> pyconc.Future().cancelled()\n"
"    False");

static PyObject *
future_cancelled(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    FutureObject *self = as_future(op);
    PyObject *standard_result;
    if (call_standard(self, "cancelled", NULL, 0, NULL, &standard_result)) {
        return standard_result;
    }
    return PyBool_FromLong(future_is_done(self) && self->state != FUTURE_FINISHED);
}

PyDoc_STRVAR(running_doc,
"running($self, /)\n--\n\n"
"Return True if the call runs now.\n"
"\n"
"Never waits, and raises nothing.\n"
"\n"
"    >>> pyconc.Future().running()\n"
"    False");

static PyObject *
future_running(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    PyObject *standard_result;
    if (call_standard(as_future(op), "running", NULL, 0, NULL, &standard_result)) {
        return standard_result;
    }
    if (look_whether_taken(as_future(op)) < 0) {
        return NULL;
    }
    return PyBool_FromLong(as_future(op)->state == FUTURE_RUNNING);
}

PyDoc_STRVAR(done_doc,
"done($self, /)\n--\n\n"
"Return True if the future was cancelled or the call has ended.\n"
"\n"
"Never waits, and raises nothing.\n"
"\n"
"    >>> future = pyconc.Future()\n"
"    >>> future.set_result(1)\n"
"    >>> future.done()\n"
"    True");

static PyObject *
future_done(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    PyObject *standard_result;
    if (call_standard(as_future(op), "done", NULL, 0, NULL, &standard_result)) {
        return standard_result;
    }
    return PyBool_FromLong(future_is_done(as_future(op)));
}

PyDoc_STRVAR(add_done_callback_doc,
"add_done_callback($self, /, fn)\n--\n\n"
"Call fn(future) when the future is done: at once if it is done already.\n"
"\n"
"fn: a callable of one argument, the future. Callbacks are called in the order in which they were added,\n"
"by the thread that completes or cancels the future. An Exception that one raises is logged and ignored.\n"
"\n"
"    >>> future = pyconc.Future()\n"
"    >>> future.add_done_callback(lambda future: print(\"got\", future.result()))\n"
"    >>> future.set_result(8)\n"
"    got 8");

static PyObject *
future_add_done_callback(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    FutureObject *self = as_future(op);
    PyObject *condition;
    PyObject *standard_result;
    if (call_standard(self, "add_done_callback", args, nargs, kwnames, &standard_result)) {
        return standard_result;
    }
    PyObject *callback = parse_argument("add_done_callback", "fn", NULL, args, nargs, kwnames);
    if (callback == NULL || condition_enter(self, &condition) < 0) {
        return NULL;
    }
    // To make the list may run the collector, and with it other threads, as may entering the condition.  So
    // this looks at the state when the list is there.
    int rc = future_is_done(self) ? 0 : prepare_list(self, &self->callbacks);
    bool is_done = future_is_done(self);
    if (rc == 0 && !is_done) {
        rc = PyList_Append(self->callbacks, callback);
    }
    rc = condition_leave(condition, false, rc);
    if (rc == 0 && is_done) {
        rc = call_back(self, callback, false);
    }
    else if (rc == 0) {
        rc = self->module->callbacks->added(self->module, callback);
    }
    if (rc < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(set_running_doc,
"set_running_or_notify_cancel($self, /)\n--\n\n"
"Mark the future as running, or tell the waiting threads that it was cancelled.\n"
"\n"
"For executors and tests. Returns False if the future was cancelled: the call must not run. Raises\n"
"RuntimeError if the future is neither pending nor just cancelled.\n"
"\n"
"    >>> future = pyconc.Future()\n"
"    >>> future.set_running_or_notify_cancel(), future.running()\n"
"    (True, True)");

static PyObject *
future_set_running(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    PyObject *standard_result;
    if (call_standard(as_future(op), "set_running_or_notify_cancel", NULL, 0, NULL, &standard_result)) {
        return standard_result;
    }
    int run = future_start(as_future(op));
    return run < 0 ? NULL : PyBool_FromLong(run);
}

// What set_result() and set_exception() do; `name` is their argument's.
static PyObject *
set_outcome_method(FutureObject *self, const char *method, const char *name, bool is_exception,
                   PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *standard_result;
    if (call_standard(self, method, args, nargs, kwnames, &standard_result)) {
        return standard_result;
    }
    PyObject *outcome = parse_argument(method, name, NULL, args, nargs, kwnames);
    if (outcome == NULL) {
        return NULL;
    }
    Py_INCREF(outcome);
    int rc = future_finish(self, is_exception ? NULL : outcome, is_exception ? outcome : NULL);
    if (rc < 0 || look_now(self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(set_result_doc,
"set_result($self, /, result)\n--\n\n"
"Complete the future with what its call returned.\n"
"\n"
"result: any object. For executors and tests. Raises InvalidStateError if the future is done.\n"
"\n"
"    >>> future = pyconc.Future()\n"
"    >>> future.set_result(42)\n"
"    >>> future.result()\n"
"    42");

static PyObject *
future_set_result(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return set_outcome_method(as_future(op), "set_result", "result", false, args, nargs, kwnames);
}

PyDoc_STRVAR(set_exception_doc,
"set_exception($self, /, exception)\n--\n\n"
"Complete the future with what its call raised.\n"
"\n"
"exception: an exception, which result() will raise. For executors and tests. Raises InvalidStateError if\n"
"the future is done.\n"
"\n"
"    >>> future = pyconc.Future()\n"
"    >>> future.set_exception(LookupError(\"nothing there\"))\n"
"    >>> future.exception()\n"
"    LookupError('nothing there')");

static PyObject *
future_set_exception(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return set_outcome_method(as_future(op), "set_exception", "exception", true, args, nargs, kwnames);
}

PyDoc_STRVAR(snapshot_doc,
"_get_snapshot($self, /)\n--\n\n"
"Return (done, cancelled, result, exception) as they are at one moment.\n\n"
"asyncio reads futures this way since CPython 3.14.");

static PyObject *
future_get_snapshot(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    FutureObject *self = as_future(op);
    bool done = future_is_done(self);
    bool finished = self->state == FUTURE_FINISHED;
    return Py_BuildValue("OOOO", done ? Py_True : Py_False, done && !finished ? Py_True : Py_False,
                         finished && self->result != NULL ? self->result : Py_None,
                         finished && self->exception != NULL ? self->exception : Py_None);
}

PyDoc_STRVAR(invoke_callbacks_doc,
"_invoke_callbacks($self, /)\n--\n\n"
"Call the callbacks. Executors outside the standard library do this after setting `_state`.");

static PyObject *
future_invoke_callbacks(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    if (call_callbacks(as_future(op)) < 0 || look_now(as_future(op)) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
future_reduce(PyObject *op, PyObject *Py_UNUSED(protocol))
{
    PyErr_Format(PyExc_TypeError, "cannot pickle '%s' object", Py_TYPE(op)->tp_name);
    return NULL;
}

#if PY_VERSION_HEX >= 0x030D0000
// For attributes that the program adds; the setters of the others track for themselves.  Before 3.13
// object.__setattr__() would refuse a type that has this, and such a future is tracked before the next full
// collection.
static int
future_setattro(PyObject *op, PyObject *name, PyObject *value)
{
    track(as_future(op));
    return PyObject_GenericSetAttr(op, name, value);
}
#endif

static PyObject *
future_repr(PyObject *op)
{
    static const char *const descriptions[] = {
        [FUTURE_PENDING] = "pending",
        [FUTURE_RUNNING] = "running",
        [FUTURE_CANCELLED] = "cancelled",
        [FUTURE_CANCELLED_AND_NOTIFIED] = "cancelled",
        [FUTURE_FINISHED] = "finished",
    };
    FutureObject *self = as_future(op);
    const char *outcome = "";
    PyObject *repr = NULL;
    PyObject *outcome_name = NULL;
    PyObject *name = PyObject_GetAttrString((PyObject *)Py_TYPE(op), "__name__");
    if (name == NULL) {
        return NULL;
    }
    if (look_whether_taken(self) < 0) {
        Py_DECREF(name);
        return NULL;
    }
    if (self->state == FUTURE_FINISHED) {
        PyObject *value = self->exception != NULL ? self->exception
                          : self->result != NULL  ? self->result
                                                  : Py_None;
        outcome = self->exception != NULL ? " raised " : " returned ";
        outcome_name = PyObject_GetAttrString((PyObject *)Py_TYPE(value), "__name__");
    }
    else {
        outcome_name = PyUnicode_FromString("");
    }
    if (outcome_name != NULL) {
        repr = PyUnicode_FromFormat("<%U at %p state=%s%s%U>", name, op, descriptions[self->state],
                                    outcome, outcome_name);
    }
    Py_DECREF(name);
    Py_XDECREF(outcome_name);
    return repr;
}

// ---- the private attributes ----

static PyObject *
get_state(PyObject *op, void *Py_UNUSED(closure))
{
    FutureObject *self = as_future(op);
    if (look_whether_taken(self) < 0) {
        return NULL;
    }
    return Py_NewRef(self->module->state_names[self->state]);
}

static int
refuse_delete(PyObject *value)
{
    if (value == NULL) {
        PyErr_SetString(PyExc_AttributeError, "cannot delete an attribute of a Future");
        return -1;
    }
    return 0;
}

static int
set_state_attribute(PyObject *op, PyObject *value, void *Py_UNUSED(closure))
{
    FutureObject *self = as_future(op);
    if (refuse_delete(value) < 0) {
        return -1;
    }
    for (future_state state = FUTURE_PENDING; state <= FUTURE_FINISHED; state++) {
        int equal = PyObject_RichCompareBool(value, self->module->state_names[state], Py_EQ);
        if (equal < 0) {
            return -1;
        }
        if (equal) {
            set_state(self, state);
            return 0;
        }
    }
    PyErr_Format(PyExc_ValueError, "not a state of a future: %R", value);
    return -1;
}

// For `_result` and `_exception`; the closure is the field's offset.  None is kept as NULL.
static PyObject *
get_outcome(PyObject *op, void *offset)
{
    PyObject *value = *(PyObject **)((char *)op + (Py_ssize_t)offset);
    return Py_NewRef(value == NULL ? Py_None : value);
}

static int
set_outcome(PyObject *op, PyObject *value, void *offset)
{
    PyObject **field = (PyObject **)((char *)op + (Py_ssize_t)offset);
    if (refuse_delete(value) < 0) {
        return -1;
    }
    track(as_future(op));
    Py_XSETREF(*field, value == Py_None ? NULL : Py_NewRef(value));
    return 0;
}

static PyObject *
get_condition(PyObject *op, void *Py_UNUSED(closure))
{
    FutureObject *self = as_future(op);
    if (self->condition == NULL) {
        PyObject *condition = PyObject_CallNoArgs(self->module->condition_type);
        if (condition == NULL) {
            return NULL;
        }
        track(self);
        if (self->condition == NULL) {
            self->condition = condition;
        }
        else {
            Py_DECREF(condition);  // another thread was quicker; there is only one
        }
    }
    return Py_NewRef(self->condition);
}

// For `_waiters` and `_done_callbacks`; the closure is the field's offset.
static PyObject *
get_list(PyObject *op, void *offset)
{
    PyObject **field = (PyObject **)((char *)op + (Py_ssize_t)offset);
    track(as_future(op));
    if (*field == NULL) {
        *field = PyList_New(0);
    }
    return Py_XNewRef(*field);
}

// Code that reads the waiters counts on the condition being held while they are told.
static PyObject *
get_waiters(PyObject *op, void *offset)
{
    PyObject *condition = get_condition(op, NULL);
    if (condition == NULL) {
        return NULL;
    }
    Py_DECREF(condition);
    return get_list(op, offset);
}

static int
set_list(PyObject *op, PyObject *value, void *offset)
{
    PyObject **field = (PyObject **)((char *)op + (Py_ssize_t)offset);
    if (refuse_delete(value) < 0) {
        return -1;
    }
    if (!PyList_CheckExact(value)) {
        PyErr_SetString(PyExc_TypeError, "must be a list");
        return -1;
    }
    track(as_future(op));
    Py_XSETREF(*field, Py_NewRef(value));
    return 0;
}

static int
set_condition(PyObject *op, PyObject *value, void *Py_UNUSED(closure))
{
    if (refuse_delete(value) < 0) {
        return -1;
    }
    track(as_future(op));
    Py_XSETREF(as_future(op)->condition, Py_NewRef(value));
    return 0;
}

// For vars(): the program may make the dict refer to anything.
static PyObject *
get_dict(PyObject *op, void *closure)
{
    track(as_future(op));
    return PyObject_GenericGetDict(op, closure);
}

PyDoc_STRVAR(copy_doc,
"__copy__($self, /)\n--\n\n"
"Return a future in the same state, with the same outcome, condition, waiters and callbacks.\n\n"
"Only the caller will complete the copy of a pending future, as with the standard library's.");

static PyObject *
future_copy(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    FutureObject *self = as_future(op);
    PyObject *condition = get_condition(op, NULL);
    PyObject *waiters = get_list(op, (void *)offsetof(FutureObject, waiters));
    PyObject *callbacks = get_list(op, (void *)offsetof(FutureObject, callbacks));
    PyObject *dict = get_dict(op, NULL);
    FutureObject *copy = as_future(future_alloc(Py_TYPE(op), self->module));
    PyObject *copied_dict = copy == NULL ? NULL : get_dict((PyObject *)copy, NULL);
    if (condition == NULL || waiters == NULL || callbacks == NULL || dict == NULL || copied_dict == NULL
        || PyDict_Update(copied_dict, dict) < 0) {
        Py_CLEAR(copy);
    }
    else {
        copy->condition = Py_NewRef(condition);
        copy->waiters = Py_NewRef(waiters);
        copy->callbacks = Py_NewRef(callbacks);
        copy->result = Py_XNewRef(self->result);
        copy->exception = Py_XNewRef(self->exception);
        set_state(copy, self->state);
    }
    Py_XDECREF(condition);
    Py_XDECREF(waiters);
    Py_XDECREF(callbacks);
    Py_XDECREF(dict);
    Py_XDECREF(copied_dict);
    return (PyObject *)copy;
}

static PyGetSetDef future_getset[] = {
    {"__dict__", get_dict, PyObject_GenericSetDict, NULL, NULL},
    {"_state", get_state, set_state_attribute, PyDoc_STR("The state's name."), NULL},
    {"_result", get_outcome, set_outcome, PyDoc_STR("What the call returned, or None."),
     (void *)offsetof(FutureObject, result)},
    {"_exception", get_outcome, set_outcome, PyDoc_STR("What the call raised, or None."),
     (void *)offsetof(FutureObject, exception)},
    {"_waiters", get_waiters, set_list, PyDoc_STR("The waiters of wait() and as_completed()."),
     (void *)offsetof(FutureObject, waiters)},
    {"_done_callbacks", get_list, set_list, PyDoc_STR("The callbacks, called or not."),
     (void *)offsetof(FutureObject, callbacks)},
    {"_condition", get_condition, set_condition,
     PyDoc_STR("The threading.Condition that guards the state, made at the first look."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef future_methods[] = {
    {"result", FASTCALL(future_result), METH_FASTCALL | METH_KEYWORDS, result_doc},
    {"exception", FASTCALL(future_exception), METH_FASTCALL | METH_KEYWORDS, exception_doc},
    {"cancel", future_cancel_method, METH_NOARGS, cancel_doc},
    {"cancelled", future_cancelled, METH_NOARGS, cancelled_doc},
    {"running", future_running, METH_NOARGS, running_doc},
    {"done", future_done, METH_NOARGS, done_doc},
    {"add_done_callback", FASTCALL(future_add_done_callback), METH_FASTCALL | METH_KEYWORDS,
     add_done_callback_doc},
    {"set_running_or_notify_cancel", future_set_running, METH_NOARGS, set_running_doc},
    {"set_result", FASTCALL(future_set_result), METH_FASTCALL | METH_KEYWORDS,
     set_result_doc},
    {"set_exception", FASTCALL(future_set_exception), METH_FASTCALL | METH_KEYWORDS,
     set_exception_doc},
    {"_get_snapshot", future_get_snapshot, METH_NOARGS, snapshot_doc},
    {"_invoke_callbacks", future_invoke_callbacks, METH_NOARGS, invoke_callbacks_doc},
    {"__copy__", future_copy, METH_NOARGS, copy_doc},
    {"__reduce_ex__", future_reduce, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(future_doc,
"Future()\n--\n\n"
"The outcome, some day, of a call that an executor runs.\n"
"\n"
"A concurrent.futures.Future in C; made by Executor.submit(), and by tests. Takes no arguments, and raises\n"
"TypeError if it is given any. All methods may be called from any thread. In the child of a fork, a future\n"
"that was pending in an executor is finished with BrokenThreadPool or BrokenProcessPool, and its callbacks\n"
"are not called. At interpreter exit, futures of tasks that are queued are completed first.\n"
"\n"
"    >>> with pyconc.ThreadPoolExecutor() as pool:\n"
"    ...     future = pool.submit(sum, [1, 2, 3])\n"
"    >>> future\n"
"    <Future at 0x... state=finished returned int>\n"
"    >>> future.result()\n"
"    6");

static PyType_Slot future_slots[] = {
    {Py_tp_doc, (void *)future_doc},
    {Py_tp_new, future_tp_new},
    {Py_tp_init, future_init},
    {Py_tp_dealloc, future_dealloc},
    {Py_tp_traverse, future_traverse},
    {Py_tp_clear, future_clear},
    {Py_tp_repr, future_repr},
#if PY_VERSION_HEX >= 0x030D0000
    {Py_tp_setattro, future_setattro},
#endif
    {Py_tp_methods, future_methods},
    {Py_tp_getset, future_getset},
    {0, NULL},
};

PyType_Spec future_spec = {
    .name = "pyconc.Future",
    .basicsize = sizeof(FutureObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = future_slots,
};
