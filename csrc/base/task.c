#include "task.h"

#include "futures/future.h"
#include "loops/loop_future.h"

static task *
task_alloc(module_state *state, size_t args, PyObject *destination, LoopBridgeObject *bridge)
{
    task *t = PyMem_Malloc(sizeof(task) + args * sizeof(PyObject *));
    if (t == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    memset(t, 0, sizeof(task));
    t->module = state;
    t->destination = Py_NewRef(destination);
    t->bridge = (LoopBridgeObject *)Py_XNewRef((PyObject *)bridge);
    if (bridge != NULL) {
        loop_bridge_expect(bridge);
    }
    return t;
}

task *
task_new(module_state *state, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
         PyObject *destination, LoopBridgeObject *bridge)
{
    Py_ssize_t total = nargs - 1 + (kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames));
    task *t = task_alloc(state, (size_t)total + 1, destination, bridge);
    if (t == NULL) {
        return NULL;
    }
    t->callable = Py_NewRef(args[0]);
    t->kwnames = Py_XNewRef(kwnames);
    t->nargs = nargs - 1;
    for (Py_ssize_t i = 1; i <= total; i++) {
        t->args[i] = Py_NewRef(args[i]);
    }
    return t;
}

task *
task_new_outcome(module_state *state, PyObject *result, PyObject *exception, PyObject *destination,
                 LoopBridgeObject *bridge)
{
    task *t = task_alloc(state, 0, destination, bridge);
    if (t != NULL) {
        t->result = Py_XNewRef(result);
        t->exception = Py_XNewRef(exception);
    }
    return t;
}

// The destination of a task that has a route knows the task, or does not any more.
static void
attach(task *t, task *known)
{
    if (t->bridge == NULL) {
        ((FutureObject *)t->destination)->task = known;
    }
    else {
        loop_future_set_task(t->module, t->destination, known);
    }
}

task *
task_new_routed(module_state *state, const task_route *route, size_t room, PyObject *callable,
                PyObject *destination, LoopBridgeObject *bridge)
{
    size_t args = (room + sizeof(PyObject *) - 1) / sizeof(PyObject *);
    task *t = task_alloc(state, args, destination, bridge);
    if (t != NULL) {
        memset(t->args, 0, args * sizeof(PyObject *));
        t->route = route;
        t->callable = Py_NewRef(callable);
        attach(t, t);
    }
    return t;
}

// Lets go of the callable and its arguments.
static void
drop_call(task *t)
{
    PyObject *callable = t->callable;
    if (callable == NULL) {
        return;
    }
    t->callable = NULL;
    Py_DECREF(callable);
    if (t->route != NULL) {
        t->route->drop(t);
        return;
    }
    Py_ssize_t total = t->nargs + (t->kwnames == NULL ? 0 : PyTuple_GET_SIZE(t->kwnames));
    for (Py_ssize_t i = 1; i <= total; i++) {
        Py_DECREF(t->args[i]);
    }
    Py_CLEAR(t->kwnames);
}

void
task_free(task *t)
{
    if (t == NULL) {
        return;
    }
    if (t->route != NULL) {
        attach(t, NULL);
    }
    drop_call(t);
    if (t->bridge != NULL) {
        loop_bridge_forget(t->bridge);
        Py_DECREF(t->bridge);
    }
    Py_DECREF(t->destination);
    Py_XDECREF(t->result);
    Py_XDECREF(t->exception);
    PyMem_Free(t);
}

// Delivers, and frees the task or gives it to its bridge.
int
task_deliver(task *t, PyObject *result, PyObject *exception)
{
    // Before the outcome is seen, so that who waits for it finds the arguments gone.
    drop_call(t);
    if (t->route != NULL) {
        attach(t, NULL);  // too late to withdraw it
    }
    if (t->bridge != NULL) {
        t->result = result;
        t->exception = exception;
        loop_bridge_post(t->bridge, t);
        return 0;
    }
    FutureObject *future = (FutureObject *)t->destination;
    int rc;
    if (result == NULL && exception == NULL) {
        rc = future_cancel(future);
        // No worker will ever see it: tell those who wait.
        if (rc >= 0 && future->state == FUTURE_CANCELLED) {
            rc = future_start(future);
        }
    }
    else {
        rc = future_finish(future, result, exception);
    }
    PyObject *error = rc < 0 ? PyErr_GetRaisedException() : NULL;
    task_free(t);
    if (error != NULL) {
        PyErr_SetRaisedException(error);
        return -1;
    }
    return 0;
}

// 1 run it, 0 it was cancelled, -1 exception.
static int
task_start(task *t)
{
    if (t->bridge == NULL) {
        return future_start((FutureObject *)t->destination);
    }
    PyObject *cancelled = PyObject_CallMethodNoArgs(t->destination, t->module->str_cancelled);
    int rc = cancelled == NULL ? -1 : PyObject_IsTrue(cancelled);
    Py_XDECREF(cancelled);
    return rc < 0 ? -1 : !rc;
}

int
task_run(task *t)
{
    int rc = task_start(t);
    if (rc <= 0) {
        PyObject *error = rc < 0 ? PyErr_GetRaisedException() : NULL;
        task_free(t);
        if (error != NULL) {
            PyErr_SetRaisedException(error);
        }
        return rc;
    }
    PyObject *exception = NULL;
    PyObject *result = PyObject_Vectorcall(t->callable, t->args + 1,
                                           (size_t)t->nargs | PY_VECTORCALL_ARGUMENTS_OFFSET,
                                           t->kwnames);
    if (result == NULL) {
        exception = PyErr_GetRaisedException();
    }
    return task_deliver(t, result, exception);
}

bool
task_is_for(const task *t, PyObject *destination)
{
    if (t->bridge != NULL) {
        return (PyObject *)t->bridge == destination;
    }
    FutureObject *future = (FutureObject *)t->destination;
    return t->destination == destination && future->condition == NULL
           && (future->callbacks == NULL || PyList_GET_SIZE(future->callbacks) == 0)
           && (future->waiters == NULL || PyList_GET_SIZE(future->waiters) == 0);
}

int
task_fail(task *t, PyObject *exception)
{
    if (t->bridge == NULL && future_is_done((FutureObject *)t->destination)) {
        exception = NULL;  // It was cancelled while it was queued, and stays so.
    }
    return task_deliver(t, NULL, Py_XNewRef(exception));
}

int
task_fail_all(list_node *tasks, PyObject *make_error, PyObject *message)
{
    PyObject *escaped = NULL;
    while (tasks != NULL) {
        task *t = (task *)tasks;
        module_state *module = t->module;
        PyObject *exception = NULL;
        tasks = tasks->next;
        if (make_error != NULL) {
            exception = PyObject_CallOneArg(make_error, message != NULL ? message : t->callable);
        }
        if (make_error != NULL && exception == NULL) {
            exception = PyErr_GetRaisedException();  // short of memory: that is an answer, too
        }
        int rc = task_fail(t, exception);
        Py_XDECREF(exception);
        if (rc < 0 && escaped == NULL) {
            escaped = PyErr_GetRaisedException();
        }
        else if (rc < 0) {
            module_log_escaped(module);
        }
    }
    if (escaped != NULL) {
        PyErr_SetRaisedException(escaped);
        return -1;
    }
    return 0;
}

void
task_abandon(task *t, PyObject *exception)
{
    if (t->bridge == NULL) {
        future_abandon((FutureObject *)t->destination, exception);
        return;
    }
    PyObject *result = PyObject_CallMethodOneArg(t->destination, t->module->str_set_exception, exception);
    // Nobody in this process asked for it: no complaint if nobody looks.
    if (result == NULL || PyObject_SetAttrString(t->destination, "_log_traceback", Py_False) < 0) {
        PyErr_Clear();
    }
    Py_XDECREF(result);
}
