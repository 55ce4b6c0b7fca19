#include "executor.h"

#include <math.h>

#include "base/call.h"
#include "futures/future_destination.h"
#include "futures/outbox.h"
#include "loops/loop_bridge.h"
#include "processes/process_queue.h"
#include "threads/thread_queue.h"

// How long a call that is interrupted may take to end, unless the program says otherwise.
#define GRACE_NS 1000000000

typedef struct ExecutorObject {
    PyObject_HEAD
    module_state *module;  // borrowed from the type
    queue_head *tasks;     // replaced by _renew() only; the GIL.  NULL in a view
    PyObject *carry;       // makes of a call's function what is called in its place; NULL: nothing.  The GIL
    PyObject *pool;        // of a view: the ExecutorObject whose workers it uses; else NULL.  Set once
    call_options options;  // of the calls that are submitted here; set once, before the first of them
    char is_made;          // whether __init__() has ended; the GIL.  0 while the standard one sets attributes
} ExecutorObject;

// The executor that has the queue.
static ExecutorObject *
pool_of(PyObject *op)
{
    ExecutorObject *self = (ExecutorObject *)op;
    return self->pool == NULL ? self : (ExecutorObject *)self->pool;
}

// Starts workers until there are enough, or as many as the system allows.  0, or -1 with an exception, which
// may also be a signal handler's; then the task stays queued if a worker can run it.
static int
start_workers(ExecutorObject *self)
{
    PyObject *result =
        PyObject_CallMethodNoArgs((PyObject *)self, self->module->str__start_workers);
    Py_XDECREF(result);
    if (result != NULL) {
        return 0;
    }
    if (!self->tasks->kind->has_workers(self->tasks)) {
        // No worker would ever run what is queued, here or by other threads whose start failed as well.
        PyObject *exception = PyErr_GetRaisedException();
        if (self->tasks->kind->fail_queued(self->tasks, NULL, NULL) < 0) {
            PyErr_WriteUnraisable((PyObject *)self);
        }
        PyErr_SetRaisedException(exception);
    }
    return -1;
}

// Makes sure that there is a function for a method to call, and a queue that takes tasks.  0, or -1 with an
// exception.
static int
prepare(ExecutorObject *self, const char *method, Py_ssize_t nargs)
{
    if (nargs < 1) {
        PyErr_Format(PyExc_TypeError, "%s.%s() missing 1 required positional argument: 'fn'",
                     Py_TYPE(self)->tp_name, method);
        return -1;
    }
    if (self->tasks == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the executor's __init__() was not called");
        return -1;
    }
    if (self->tasks->inherited) {
        PyObject *renewed = PyObject_CallMethodNoArgs((PyObject *)self, self->module->str__renew);
        if (renewed == NULL) {
            return -1;
        }
        Py_DECREF(renewed);
    }
    return 0;
}

// Whether a call with these options will have a route.
static bool
is_routed(ExecutorObject *self, const call_options *options)
{
    return self->tasks->kind->routed || options->is_special;
}

// Has args[0](args[1:], kwnames) called for a destination, which it takes; returns the future.
static PyObject *
submit_as_it_is(ExecutorObject *self, const call_options *options, PyObject *const *args, Py_ssize_t nargs,
                PyObject *kwnames, destination *to)
{
    int rc;
    // To pickle the call runs Python code, and another thread may call _renew() meanwhile.
    queue_head *tasks = (queue_head *)Py_NewRef((PyObject *)self->tasks);
    task *t = tasks->kind->make_task(tasks, options, args, nargs, kwnames, to);
    if (t == NULL) {
        goto fail;
    }
    rc = tasks->kind->push(tasks, t);  // unless closed, the queue owns t
    if (rc == WORKQ_CLOSED) {
        PyObject *exception = PyErr_GetRaisedException();
        task_free(t);
        PyErr_SetRaisedException(exception);
        goto fail;
    }
    if (rc == WORKQ_SHORT && start_workers(self) < 0) {
        goto fail;
    }
    if (to->carrier != NULL && loop_bridge_busy_wait(to) < 0) {
        goto fail;
    }
    Py_XDECREF(to->carrier);
    Py_DECREF(tasks);
    return to->future;

fail:
    destination_clear(to);
    Py_DECREF(tasks);
    return NULL;
}

// The same, with carry(args[0]) in the place of args[0].
static PyObject *
submit_carried(ExecutorObject *self, const call_options *options, PyObject *const *args, Py_ssize_t nargs,
               PyObject *kwnames, destination *to)
{
    size_t count = (size_t)nargs + (kwnames == NULL ? 0 : (size_t)PyTuple_GET_SIZE(kwnames));
    PyObject *future = NULL;
    PyObject *carry = Py_NewRef(self->carry);
    PyObject *carried = PyObject_CallOneArg(carry, args[0]);
    PyObject **others = carried == NULL ? NULL : PyMem_Malloc(count * sizeof(PyObject *));
    if (others != NULL) {
        memcpy(others, args, count * sizeof(PyObject *));
        others[0] = carried;
        future = submit_as_it_is(self, options, others, nargs, kwnames, to);
    }
    else {
        if (carried != NULL) {
            PyErr_NoMemory();
        }
        destination_clear(to);
    }
    PyMem_Free(others);
    Py_XDECREF(carried);
    Py_DECREF(carry);
    return future;
}

static PyObject *
submit_call(ExecutorObject *self, const call_options *options, PyObject *const *args, Py_ssize_t nargs,
            PyObject *kwnames, destination *to)
{
    return self->carry == NULL ? submit_as_it_is(self, options, args, nargs, kwnames, to)
                               : submit_carried(self, options, args, nargs, kwnames, to);
}

PyDoc_STRVAR(submit_here_doc,
"_submit($self, fn, /, *args, **kwargs)\n--\n\n"
"Do what submit() does, also where the program has replaced the standard class's submit().");

static inline PyObject *
executor_submit_here(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    ExecutorObject *self = pool_of(op);
    const call_options *options = &((ExecutorObject *)op)->options;
    destination to;

    if (prepare(self, "submit", nargs) < 0) {
        return NULL;
    }
    int rc = loop_bridge_for_caller(self->module, is_routed(self, options), &to);
    if (rc == 0) {
        rc = future_destination(self->module, &to);
    }
    return rc < 0 ? NULL : submit_call(self, options, args, nargs, kwnames, &to);
}

PyDoc_STRVAR(submit_doc,
"submit($self, fn, /, *args, **kwargs)\n--\n\n"
"Have a worker call fn(*args, **kwargs); return the Future of that call.\n"
"\n"
"Any thread may submit, a signal handler too. Raises RuntimeError after shutdown() and BrokenExecutor when\n"
"the executor is broken. Called by an asyncio loop's run_in_executor, it returns a future of that loop.\n"
"\n"
"    >>> with pyconc.ThreadPoolExecutor() as pool:\n"
"    ...     future = pool.submit(int, \"ff\", base=16)\n"
"    >>> future.result()\n"
"    255");

// Calls of more arguments than these are for submit().
#define EACH_MOST_ARGS 3

static bool
is_list(PyObject *value)
{
    return PyList_CheckExact(value) || PyTuple_CheckExact(value);
}

PyDoc_STRVAR(submit_each_doc,
"_submit_each($self, outbox, numbers, fn, /, *columns)\n--\n\n"
"Have workers call fn with the first items of these lists or tuples, with the second ones, and so on. The\n"
"outcomes lie in the outbox, each with its number: also what submit() would raise.");

static PyObject *
executor_submit_each(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    ExecutorObject *self = pool_of(op);
    const call_options *options = &((ExecutorObject *)op)->options;
    Py_ssize_t columns = nargs - 3;
    bool is_sound = columns >= 0 && columns <= EACH_MOST_ARGS
                    && Py_IS_TYPE(args[0], self->module->outbox_type) && is_list(args[1]);
    for (Py_ssize_t i = 3; is_sound && i < nargs; i++) {
        is_sound = is_list(args[i]) && PySequence_Fast_GET_SIZE(args[i]) == PySequence_Fast_GET_SIZE(args[1]);
    }
    if (!is_sound) {
        PyErr_SetString(PyExc_TypeError, "_submit_each() takes an outbox, numbers, a function, and columns");
        return NULL;
    }
    PyObject *outbox = args[0], *numbers = args[1], *call[1 + EACH_MOST_ARGS] = {args[2]};
    // What is pickled or started here may run code that changes the lists.
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(numbers); i++) {
        destination to, again;
        Py_ssize_t taken = 0;
        while (taken < columns && i < PySequence_Fast_GET_SIZE(args[3 + taken])) {
            call[1 + taken] = Py_NewRef(PySequence_Fast_GET_ITEM(args[3 + taken], i));
            taken++;
        }
        int rc = outbox_destination(outbox, PySequence_Fast_GET_ITEM(numbers, i), &to);
        if (rc == 0) {
            PyObject *future = NULL;
            again = to;
            Py_INCREF(again.future);
            if (prepare(self, "submit", 1) < 0) {
                destination_clear(&to);
            }
            else {
                future = submit_call(self, options, call, 1 + taken, NULL, &to);
            }
            Py_XDECREF(future);
            rc = future == NULL ? outbox_fail(&again) : 0;
            Py_DECREF(again.future);
        }
        while (taken > 0) {
            Py_DECREF(call[taken--]);
        }
        if (rc < 0) {
            return NULL;
        }
    }
    Py_RETURN_NONE;
}

// The standard class in whose place the executor stands.
static standard_class *
standard_of(ExecutorObject *self)
{
    return self->tasks->kind->routed ? &self->module->standard_processes : &self->module->standard_threads;
}

// submit() where a method of the standard class is replaced; apart, as every call goes through submit().
static __attribute__((noinline)) PyObject *
submit_as_standard(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    standard_class *standard = standard_of(pool_of(op));
    PyObject *result;
    if (PyObject_TypeCheck(op, standard->type)
        && standard_call(standard, false, "submit", op, args, nargs, kwnames, &result)) {
        return result;
    }
    return executor_submit_here(op, args, nargs, kwnames);
}

static PyObject *
executor_submit(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    ExecutorObject *self = pool_of(op);
    if (self->tasks != NULL && standard_is_replaced(standard_of(self))) {
        return submit_as_standard(op, args, nargs, kwnames);
    }
    return executor_submit_here(op, args, nargs, kwnames);
}

// Whether submit() of this executor is ours, and nobody has patched the standard library's.
static int
submits_here(ExecutorObject *self, PyObject *op)
{
    standard_class *standard = standard_of(self);
    if (standard->type == NULL || !PyObject_TypeCheck(op, standard->type)) {
        return 1;  // a CoroutinePool, whose submit() stands for no standard one
    }
    if (standard_is_replaced(standard)) {
        return 0;
    }
    PyObject *submit = PyObject_GetAttr(op, self->module->str_submit);
    if (submit == NULL) {
        return -1;
    }
    int rc = PyCFunction_Check(submit)
             && PyCFunction_GET_FUNCTION(submit) == (PyCFunction)(void (*)(void))executor_submit;
    Py_DECREF(submit);
    return rc;
}

// asyncio's own way: submit(), and an asyncio future that follows the concurrent one.
static PyObject *
submit_and_wrap(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *loop = NULL, *submit = NULL, *future = NULL, *wrapped = NULL;
    PyObject *asyncio = PyImport_ImportModule("asyncio");
    if (asyncio != NULL) {
        loop = PyObject_CallMethod(asyncio, "get_running_loop", NULL);
    }
    if (loop != NULL) {
        submit = PyObject_GetAttr(op, pool_of(op)->module->str_submit);
    }
    if (submit != NULL) {
        future = PyObject_Vectorcall(submit, args, (size_t)nargs, kwnames);
    }
    if (future != NULL) {
        wrapped = PyObject_CallMethod(asyncio, "wrap_future", "O", future);
    }
    Py_XDECREF(future);
    Py_XDECREF(submit);
    Py_XDECREF(loop);
    Py_XDECREF(asyncio);
    return wrapped;
}

PyDoc_STRVAR(run_doc,
"run($self, fn, /, *args, **kwargs)\n--\n\n"
"Have a worker call fn(*args, **kwargs); return a future of the running event loop, to be awaited.\n"
"\n"
"The same as loop.run_in_executor(), with keyword arguments. Of a CoroutinePool fn is a coroutine function,\n"
"and its coroutine runs in the worker. Cancelling the future cancels the call, and it raises what the call\n"
"raises. Raises RuntimeError without a running loop and after shutdown(), and BrokenExecutor when the\n"
"executor is broken. A submit() of threads or processes that was replaced is called. asyncio.create_task()\n"
"takes coroutines only, and no future: give it one that awaits this.\n"
"\n"
"    >>> import asyncio\n"
"    >>> async def main():\n"
"    ...     with pyconc.ThreadPoolExecutor() as pool:\n"
"    ...         return await pool.run(int, \"ff\", base=16)\n"
"    >>> asyncio.run(main())\n"
"    255");

static PyObject *
executor_run(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    ExecutorObject *self = pool_of(op);
    const call_options *options = &((ExecutorObject *)op)->options;
    destination to;

    if (prepare(self, "run", nargs) < 0) {
        return NULL;
    }
    int rc = submits_here(self, op);
    if (rc > 0) {
        rc = loop_bridge_for_running_loop(self->module, is_routed(self, options), &to);
    }
    if (rc <= 0) {  // replaced, or a loop that takes no attributes
        return rc < 0 ? NULL : submit_and_wrap(op, args, nargs, kwnames);
    }
    return submit_call(self, options, args, nargs, kwnames, &to);
}

static PyObject *
executor_tp_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    // By way of object, which refuses abstract classes; it takes no arguments.
    PyObject *nothing = PyTuple_New(0);
    if (nothing == NULL) {
        return NULL;
    }
    ExecutorObject *self = (ExecutorObject *)PyBaseObject_Type.tp_new(type, nothing, NULL);
    Py_DECREF(nothing);
    if (self != NULL) {
        self->module = module_state_of(type);
        self->options.grace_ns = GRACE_NS;
        self->options.timeout_ns = self->options.deadline_ns = CALL_NO_LIMIT;
    }
    return (PyObject *)self;
}

// ---- options ----

// The longest time that is told from none.
#define LONGEST_NS INT64_C(4000000000000000000)

// A number of seconds, or None.  0, or -1 with an exception.
static int
parse_seconds(PyObject *value, int64_t *ns)
{
    double seconds = value == Py_None ? 0 : PyFloat_AsDouble(value);
    if (seconds == -1.0 && PyErr_Occurred()) {
        return -1;
    }
    *ns = value == Py_None                     ? CALL_NO_LIMIT
          : seconds * 1e9 < (double)LONGEST_NS ? (int64_t)round(seconds * 1e9)
                                               : LONGEST_NS;
    return 0;
}

// Reads what executor_get_options() returns.  0, or -1 with an exception.
static int
parse_options(PyObject *args, call_options *options)
{
    int how;
    PyObject *grace, *timeout, *deadline, *name;
    if (!PyArg_ParseTuple(args, "iOOOO", &how, &grace, &timeout, &deadline, &name)
        || parse_seconds(grace, &options->grace_ns) < 0 || parse_seconds(timeout, &options->timeout_ns) < 0
        || parse_seconds(deadline, &options->deadline_ns) < 0) {
        return -1;
    }
    options->how = (stop_how)how;
    options->is_special = how != STOP_ABANDON || name != Py_None || call_is_limited(options);
    Py_XSETREF(options->name, name == Py_None ? NULL : Py_NewRef(name));
    return 0;
}

PyDoc_STRVAR(view_doc,
"_view($self, how, grace, timeout, deadline, name, /)\n--\n\n"
"Return an executor of the same class, with the same workers and the same attributes, and these _options.");

static PyObject *
executor_view(PyObject *op, PyObject *args)
{
    PyObject *attributes = PyObject_GetAttrString(op, "__dict__");
    PyObject *made = attributes == NULL ? NULL : executor_tp_new(Py_TYPE(op), NULL, NULL);
    ExecutorObject *view = (ExecutorObject *)made;
    if (view != NULL) {
        view->pool = Py_NewRef((PyObject *)pool_of(op));
        view->is_made = ((ExecutorObject *)op)->is_made;
        if (parse_options(args, &view->options) < 0
            || PyObject_SetAttrString((PyObject *)view, "__dict__", attributes) < 0) {
            Py_CLEAR(view);
        }
    }
    Py_XDECREF(attributes);
    return (PyObject *)view;
}

static PyObject *
executor_get_options(PyObject *op, void *Py_UNUSED(closure))
{
    const call_options *options = &((ExecutorObject *)op)->options;
    PyObject *grace = call_build_seconds(options->grace_ns, CALL_NO_LIMIT);
    PyObject *timeout = call_build_seconds(options->timeout_ns, CALL_NO_LIMIT);
    PyObject *deadline = call_build_seconds(options->deadline_ns, CALL_NO_LIMIT);
    PyObject *all = grace == NULL || timeout == NULL || deadline == NULL
                        ? NULL
                        : Py_BuildValue("iOOOO", (int)options->how, grace, timeout, deadline,
                                        options->name == NULL ? Py_None : options->name);
    Py_XDECREF(grace);
    Py_XDECREF(timeout);
    Py_XDECREF(deadline);
    return all;
}

static int
executor_set_options(PyObject *op, PyObject *value, void *Py_UNUSED(closure))
{
    if (value == NULL || !PyTuple_Check(value)) {
        PyErr_SetString(PyExc_TypeError, "must be a tuple");
        return -1;
    }
    return parse_options(value, &((ExecutorObject *)op)->options);
}

static int
executor_set_tasks(PyObject *op, PyObject *value, void *Py_UNUSED(closure))
{
    ExecutorObject *self = pool_of(op);
    if (value == NULL
        || !(PyObject_TypeCheck(value, self->module->thread_queue_type)
             || PyObject_TypeCheck(value, self->module->process_queue_type))) {
        PyErr_SetString(PyExc_TypeError, "must be a ThreadQueue or a ProcessQueue");
        return -1;
    }
    Py_XSETREF(self->tasks, (queue_head *)Py_NewRef(value));
    return 0;
}

static int
executor_set_carry(PyObject *op, PyObject *value, void *Py_UNUSED(closure))
{
    Py_XSETREF(pool_of(op)->carry, value == NULL || value == Py_None ? NULL : Py_NewRef(value));
    return 0;
}

static PyObject *
executor_get_carry(PyObject *op, void *Py_UNUSED(closure))
{
    PyObject *carry = pool_of(op)->carry;
    return Py_NewRef(carry == NULL ? Py_None : carry);
}

static PyObject *
executor_get_tasks(PyObject *op, void *Py_UNUSED(closure))
{
    ExecutorObject *self = pool_of(op);
    if (self->tasks == NULL) {
        PyErr_SetString(PyExc_AttributeError, "_tasks");
        return NULL;
    }
    return Py_NewRef((PyObject *)self->tasks);
}

static void
executor_finalize(PyObject *op)
{
    ExecutorObject *self = (ExecutorObject *)op;
    if (self->tasks != NULL) {
        PyObject *exception = PyErr_GetRaisedException();
        queue_close_collected(self->tasks);
        PyErr_SetRaisedException(exception);
    }
}

static int
executor_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((ExecutorObject *)op)->tasks);
    Py_VISIT(((ExecutorObject *)op)->carry);
    Py_VISIT(((ExecutorObject *)op)->pool);
    Py_VISIT(((ExecutorObject *)op)->options.name);
    return 0;
}

static int
executor_clear(PyObject *op)
{
    Py_CLEAR(((ExecutorObject *)op)->tasks);
    Py_CLEAR(((ExecutorObject *)op)->carry);
    Py_CLEAR(((ExecutorObject *)op)->pool);
    Py_CLEAR(((ExecutorObject *)op)->options.name);
    return 0;
}

static void
executor_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    if (type->tp_dealloc == executor_dealloc && PyObject_CallFinalizerFromDealloc(op) < 0) {
        return;
    }
    PyObject_GC_UnTrack(op);
    if (type->tp_finalize != executor_finalize) {
        executor_finalize(op);  // a subclass has a __del__ of its own, which may not call this one
    }
    executor_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef executor_methods[] = {
    {"submit", FASTCALL(executor_submit), METH_FASTCALL | METH_KEYWORDS, submit_doc},
    {"_submit", FASTCALL(executor_submit_here), METH_FASTCALL | METH_KEYWORDS, submit_here_doc},
    {"_submit_each", FASTCALL(executor_submit_each), METH_FASTCALL, submit_each_doc},
    {"run", FASTCALL(executor_run), METH_FASTCALL | METH_KEYWORDS, run_doc},
    {"_view", executor_view, METH_VARARGS, view_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef executor_getset[] = {
    {"_tasks", executor_get_tasks, executor_set_tasks,
     PyDoc_STR("The queue of this executor."), NULL},
    {"_carry", executor_get_carry, executor_set_carry,
     PyDoc_STR("A function that makes of a call's function what is called in its place, or None."), NULL},
    {"_options", executor_get_options, executor_set_options,
     PyDoc_STR("What _view() takes, for the calls that are submitted here. How one that is cancelled while\n"
               "it runs is stopped: not (0); by an exception, and after `grace` seconds by the end of its\n"
               "worker (1); by the end of its worker (2). For how many seconds it may run, and until when\n"
               "by time.monotonic(). Its task's name."),
     NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef executor_members[] = {
    {"_made", T_BOOL, offsetof(ExecutorObject, is_made), 0,
     PyDoc_STR("Whether __init__() has ended, so that what others set takes effect.")},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(executor_doc,
"Executor()\n--\n\n"
"The C part of pyconc's executors.");

static PyType_Slot executor_slots[] = {
    {Py_tp_doc, (void *)executor_doc},
    {Py_tp_new, executor_tp_new},
    {Py_tp_dealloc, executor_dealloc},
    {Py_tp_finalize, executor_finalize},
    {Py_tp_traverse, executor_traverse},
    {Py_tp_clear, executor_clear},
    {Py_tp_methods, executor_methods},
    {Py_tp_getset, executor_getset},
    {Py_tp_members, executor_members},
    {0, NULL},
};

PyType_Spec executor_spec = {
    .name = "pyconc._core.Executor",
    .basicsize = sizeof(ExecutorObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = executor_slots,
};
