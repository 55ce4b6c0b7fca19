#include "waiting.h"

#include "core/clock.h"
#include "future.h"
#include "helping.h"
#include "waiter.h"

static int
watch_one(WaiterObject *self, FutureObject *future)
{
    int rc = future_add_waiter(future, (PyObject *)self);
    self->pending++;
    if (helping_with(future->home) != NULL) {
        self->home = future->home;
    }
    if (rc == 0) {
        return waiter_add((PyObject *)self, (PyObject *)future, future->exception != NULL);
    }
    return rc < 0 ? -1 : 0;
}

static int
unwatch_one(WaiterObject *self, FutureObject *future)
{
    return future_remove_waiter(future, (PyObject *)self);
}

// Calls do_one() for each of pyconc's futures, and returns a list of the others.
static PyObject *
for_each_future(WaiterObject *self, PyObject *futures, int (*do_one)(WaiterObject *, FutureObject *))
{
    PyObject *future;
    PyObject *iterator = PyObject_GetIter(futures);
    PyObject *others = iterator == NULL ? NULL : PyList_New(0);
    int rc = others == NULL ? -1 : 0;
    while (rc == 0 && (future = PyIter_Next(iterator)) != NULL) {
        if (PyObject_TypeCheck(future, self->module->future_type)) {
            rc = do_one(self, (FutureObject *)future);
        }
        else {
            rc = PyList_Append(others, future);
        }
        Py_DECREF(future);
    }
    Py_XDECREF(iterator);
    if (rc < 0 || PyErr_Occurred()) {
        Py_CLEAR(others);
    }
    return others;
}

PyDoc_STRVAR(watch_doc,
"watch($self, futures, /)\n--\n\n"
"Start to collect futures; those that completed already are collected at once.\n\n"
"Returns a list of those that are not pyconc's: the caller puts the Waiter among their waiters.");

static PyObject *
waiter_watch(PyObject *op, PyObject *futures)
{
    WaiterObject *self = (WaiterObject *)op;
    PyObject *others = for_each_future(self, futures, watch_one);
    self->pending += others == NULL ? 0 : PyList_GET_SIZE(others);
    return others;
}

PyDoc_STRVAR(unwatch_doc,
"unwatch($self, futures, /)\n--\n\n"
"Stop collecting futures.\n\n"
"Returns a list of those that are not pyconc's, as watch() does.");

static PyObject *
waiter_unwatch(PyObject *op, PyObject *futures)
{
    return for_each_future((WaiterObject *)op, futures, unwatch_one);
}

static bool
is_watched(PyObject *future, const void *waiter)
{
    PyObject *waiters = future_waiters((FutureObject *)future);
    for (Py_ssize_t i = 0; waiters != NULL && i < PyList_GET_SIZE(waiters); i++) {
        if (PyList_GET_ITEM(waiters, i) == waiter) {
            return true;
        }
    }
    return false;
}

// Before a worker waits for tasks of its own queue.  0, or -1 with an exception.
static int
help(WaiterObject *self, helper *with, int64_t deadline_ns)
{
    awaited what = {is_watched, self, deadline_ns != FUTEX_NO_DEADLINE};
    while (!waiter_is_satisfied(self) && deadline_ns > clock_now_ns()) {
        int rc = with->run_awaited(with, &what);
        if (rc < 0) {
            return -1;
        }
        if (rc > 0) {
            module_checkpoint(self->module);  // other threads may run between calls of C functions
            continue;
        }
        Py_ssize_t needed = self->stop_on_exception ? 1 : self->wanted - PyList_GET_SIZE(self->finished);
        if (!what.has_deadline && self->pending - with->count_hopeless(with, &what) < needed) {
            helping_refuse();
            return -1;
        }
        return 0;
    }
    return 0;
}

PyDoc_STRVAR(wait_doc,
"wait($self, count, timeout=None, stop_on_exception=False, /)\n--\n\n"
"Wait until count futures are collected, at most timeout seconds.\n\n"
"With stop_on_exception a future that failed ends the wait as well. Returns False if the time ran\n"
"out. One thread may wait at a time.");

static PyObject *
waiter_wait(PyObject *op, PyObject *args)
{
    WaiterObject *self = (WaiterObject *)op;
    Py_ssize_t count;
    PyObject *timeout = Py_None;
    int stop_on_exception = 0;
    int64_t deadline_ns;
    int rc = FUTEX_OK;
    if (!PyArg_ParseTuple(args, "n|Op:wait", &count, &timeout, &stop_on_exception)) {
        return NULL;
    }
    self->wanted = count;
    self->stop_on_exception = stop_on_exception;
    atomic_store_explicit(&self->fired, 0, memory_order_relaxed);  // relaxed: no thread looks yet
    if (!waiter_is_satisfied(self)) {
        // A time-out counts, and has to be one, only if there is something to wait for.
        helper *with = helping_with(self->home);
        rc = module_deadline(timeout, &deadline_ns);
        if (rc == 0 && with != NULL) {
            rc = help(self, with, deadline_ns);
        }
        if (rc < 0) {
            rc = FUTEX_INTERRUPTED;
        }
        else if (!waiter_is_satisfied(self)) {
            rc = module_wait(self->module, &self->fired, deadline_ns);
        }
    }
    bool satisfied = waiter_is_satisfied(self);
    self->wanted = 0;
    return rc == FUTEX_INTERRUPTED ? NULL : PyBool_FromLong(satisfied);
}

PyDoc_STRVAR(take_doc,
"take($self, /)\n--\n\n"
"Return the list of what was collected since the last take(), in order of completion.");

static PyObject *
waiter_take(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    WaiterObject *self = (WaiterObject *)op;
    PyObject *empty = PyList_New(0);
    if (empty == NULL) {
        return NULL;
    }
    PyObject *finished = self->finished;
    self->finished = empty;
    self->failed = false;
    return finished;
}

// What the standard library's futures call.
#define ADD_DOC(method, what) \
    PyDoc_STR(method "($self, future, /)\n--\n\nCollect a watched future that " what ".")

static PyObject *
waiter_add_result(PyObject *op, PyObject *future)
{
    return waiter_add(op, future, false) < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *
waiter_add_exception(PyObject *op, PyObject *future)
{
    return waiter_add(op, future, true) < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *
waiter_tp_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, ":Waiter", keywords)) {
        return NULL;
    }
    WaiterObject *self = (WaiterObject *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->module = module_state_of(type);
    self->finished = PyList_New(0);
    if (self->finished == NULL) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static int
waiter_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((WaiterObject *)op)->finished);
    return 0;
}

// No tp_clear: `finished` is never NULL while the Waiter is alive, and a cycle through it goes through a list
// of futures, which the collector can empty.
static void
waiter_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    Py_XDECREF(((WaiterObject *)op)->finished);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef waiter_methods[] = {
    {"watch", waiter_watch, METH_O, watch_doc},
    {"unwatch", waiter_unwatch, METH_O, unwatch_doc},
    {"wait", waiter_wait, METH_VARARGS, wait_doc},
    {"take", waiter_take, METH_NOARGS, take_doc},
    {"add_result", waiter_add_result, METH_O, ADD_DOC("add_result", "returned")},
    {"add_exception", waiter_add_exception, METH_O, ADD_DOC("add_exception", "failed")},
    {"add_cancelled", waiter_add_result, METH_O, ADD_DOC("add_cancelled", "was cancelled")},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(waiter_doc,
"Waiter()\n--\n\n"
"Collect futures as they complete. wait() and as_completed() are made of it.");

static PyType_Slot waiter_slots[] = {
    {Py_tp_doc, (void *)waiter_doc},
    {Py_tp_new, waiter_tp_new},
    {Py_tp_dealloc, waiter_dealloc},
    {Py_tp_traverse, waiter_traverse},
    {Py_tp_methods, waiter_methods},
    {0, NULL},
};

PyType_Spec waiter_spec = {
    .name = "pyconc._core.Waiter",
    .basicsize = sizeof(WaiterObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = waiter_slots,
};
