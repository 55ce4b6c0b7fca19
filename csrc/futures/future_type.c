#include "future_type.h"

#include "argument.h"
#include "future.h"
#include "future_attributes.h"
#include "future_wait.h"

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
        self->is_untracked = true;
        list_link_push(&state->untracked, &self->untracked);
    }
    return (PyObject *)self;
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
            future_track(self);
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
    Py_VISIT(future_waiters(self));
    Py_VISIT(future_condition(self));
    return PyObject_VisitManagedDict(op, visit, arg);
}

static void
clear_fields(FutureObject *self)
{
    Py_CLEAR(self->result);
    Py_CLEAR(self->exception);
    Py_CLEAR(self->callbacks);
    if (!self->is_untracked) {
        Py_CLEAR(self->waiters);
        Py_CLEAR(self->condition);
    }
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
    future_set_state(as_future(op), FUTURE_PENDING);
    return 0;
}

static void
future_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    if (as_future(op)->is_untracked) {
        future_leave_untracked(as_future(op));
    }
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

#if PY_VERSION_HEX >= 0x030D0000
// For attributes that the program adds; the setters of the others track for themselves.  Before 3.13
// object.__setattr__() would refuse a type that has this, and such a future is tracked before the next full
// collection.
static int
future_setattro(PyObject *op, PyObject *name, PyObject *value)
{
    future_track(as_future(op));
    return PyObject_GenericSetAttr(op, name, value);
}
#endif


// ---- methods ----

// Whether result() and exception() have nothing to do but to say how the call ended.
static inline bool
is_at_hand(FutureObject *self, Py_ssize_t nargs, PyObject *kwnames)
{
    return self->state == FUTURE_FINISHED && nargs == 0 && kwnames == NULL
           && !standard_is_replaced(&self->module->standard_future);
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
        && !future_wait_until_finished(self, "result", args, nargs, kwnames, &instead)) {
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
        && !future_wait_until_finished(self, "exception", args, nargs, kwnames, &instead)) {
        return instead;
    }
    return Py_NewRef(self->exception == NULL ? Py_None : self->exception);
}
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
    if (future_call_standard(as_future(op), "cancel", NULL, 0, NULL, &standard_result)) {
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
    if (future_call_standard(self, "cancelled", NULL, 0, NULL, &standard_result)) {
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
    if (future_call_standard(as_future(op), "running", NULL, 0, NULL, &standard_result)) {
        return standard_result;
    }
    if (future_look_whether_taken(as_future(op)) < 0) {
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
    if (future_call_standard(as_future(op), "done", NULL, 0, NULL, &standard_result)) {
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
    if (future_call_standard(self, "add_done_callback", args, nargs, kwnames, &standard_result)) {
        return standard_result;
    }
    PyObject *callback = argument_parse("add_done_callback", "fn", NULL, args, nargs, kwnames);
    if (callback == NULL || future_condition_enter(self, &condition) < 0) {
        return NULL;
    }
    // To make the list may run the collector, and with it other threads, as may entering the condition.  So
    // this looks at the state when the list is there.
    int rc = future_is_done(self) ? 0 : future_prepare_list(self, &self->callbacks);
    bool is_done = future_is_done(self);
    if (rc == 0 && !is_done) {
        rc = PyList_Append(self->callbacks, callback);
    }
    rc = future_condition_leave(condition, false, rc);
    if (rc == 0 && is_done) {
        rc = future_call_back(self, callback, false);
    }
    else if (rc == 0) {
        rc = self->module->callbacks->added(self->module, op, callback);
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
    if (future_call_standard(as_future(op), "set_running_or_notify_cancel", NULL, 0, NULL,
                             &standard_result)) {
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
    if (future_call_standard(self, method, args, nargs, kwnames, &standard_result)) {
        return standard_result;
    }
    PyObject *outcome = argument_parse(method, name, NULL, args, nargs, kwnames);
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
    PyObject *standard_result;
    if (future_call_standard(as_future(op), "_get_snapshot", NULL, 0, NULL, &standard_result)) {
        return standard_result;
    }
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
    if (future_call_callbacks(as_future(op)) < 0 || look_now(as_future(op)) < 0) {
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
    if (future_look_whether_taken(self) < 0) {
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

PyDoc_STRVAR(copy_doc,
"__copy__($self, /)\n--\n\n"
"Return a future in the same state, with the same outcome, condition, waiters and callbacks.\n\n"
"Only the caller will complete the copy of a pending future, as with the standard library's.");


static PyObject *
future_copy(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    FutureObject *self = as_future(op);
    PyObject *copy = future_alloc(Py_TYPE(op), self->module);
    if (copy != NULL && future_copy_attributes(self, as_future(copy)) < 0) {
        Py_CLEAR(copy);
    }
    return copy;
}

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
