#include "task.h"

#include "call.h"

static task *
task_alloc(size_t args, const destination *to)
{
    task *t = PyMem_Malloc(sizeof(task) + args * sizeof(PyObject *));
    if (t == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    memset(t, 0, sizeof(task));
    delivery_init(&t->delivery, to);
    return t;
}

// The destination of a task that has a route knows the task from here on, or with NULL no longer.
static void
attach(const task *t, task *known)
{
    if (t->route != NULL && t->delivery.to.future != NULL) {
        task **slot = t->delivery.to.kind->slot(&t->delivery.to);
        if (slot != NULL) {
            *slot = known;
        }
    }
}

task *
task_new(const task_route *route, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
         const destination *to)
{
    size_t total = (size_t)nargs - 1 + (kwnames == NULL ? 0 : (size_t)PyTuple_GET_SIZE(kwnames));
    size_t room = route == NULL ? 0 : route->room;
    task *t = task_alloc(room + total, to);
    if (t == NULL) {
        return NULL;
    }
    t->callable = Py_NewRef(args[0]);
    t->kwnames = Py_XNewRef(kwnames);
    t->nargs = nargs - 1;
    for (size_t i = 0; i < total; i++) {
        t->args[room + i] = Py_NewRef(args[1 + i]);
    }
    if (route != NULL) {
        memset(t->args, 0, room * sizeof(PyObject *));
        t->route = route;
        attach(t, t);
    }
    return t;
}

task *
task_new_routed(const task_route *route, size_t room, PyObject *callable, const destination *to)
{
    size_t args = (room + sizeof(PyObject *) - 1) / sizeof(PyObject *);
    task *t = task_alloc(args, to);
    if (t != NULL) {
        memset(t->args, 0, args * sizeof(PyObject *));
        t->route = route;
        t->callable = Py_NewRef(callable);
        attach(t, t);
    }
    return t;
}

static Py_ssize_t
count_args(const task *t)
{
    return t->nargs + (t->kwnames == NULL ? 0 : PyTuple_GET_SIZE(t->kwnames));
}

int
task_traverse(task *t, visitproc visit, void *arg)
{
    if (t->callable != NULL) {  // else it has dropped its arguments, too
        Py_VISIT(t->callable);
        Py_VISIT(t->kwnames);
        if (t->route != NULL) {
            int rc = t->route->traverse(t, visit, arg);
            if (rc != 0) {
                return rc;
            }
        }
        for (Py_ssize_t i = 0; i < count_args(t); i++) {
            Py_VISIT(task_args(t)[i]);
        }
    }
    return delivery_traverse(&t->delivery, visit, arg);
}

// Drops the callable and its arguments.
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
    }
    Py_ssize_t total = count_args(t);
    for (Py_ssize_t i = 0; i < total; i++) {
        Py_DECREF(task_args(t)[i]);
    }
    Py_CLEAR(t->kwnames);
}

// Frees a task whose call is gone, and which its destination does not know.
static void
free_rest(task *t)
{
    if (t->route != NULL) {
        t->route->forget(t);
    }
    delivery_free(&t->delivery);
}

void
task_free(task *t)
{
    if (t == NULL) {
        return;
    }
    trace_end(&t->traced, TRACE_CANCELLED);
    attach(t, NULL);
    drop_call(t);
    free_rest(t);
}

// As free_it(), if rc is -1 with an exception set, which stays; returns rc.
static inline int
free_after(void (*free_it)(task *), task *t, int rc)
{
    PyObject *error = rc < 0 ? PyErr_GetRaisedException() : NULL;
    free_it(t);
    if (error != NULL) {
        PyErr_SetRaisedException(error);
    }
    return rc;
}

// Hands the outcome over, as a destination's `finish` or `fail`; takes it.
static int
hand_over(task **owned, int (*how)(delivery *), PyObject *result, PyObject *exception)
{
    task *t = *owned;
    // Unless whoever has run it has said more.
    trace_end(&t->traced, result != NULL      ? TRACE_RETURNED
                          : exception != NULL ? TRACE_FAILED
                                              : TRACE_CANCELLED);
    // Before any thread sees the outcome, so that the one that waits for it finds the arguments gone.
    drop_call(t);
    attach(t, NULL);  // too late to withdraw it
    t->delivery.result = result;
    t->delivery.exception = exception;
    if (t->delivery.to.carrier != NULL) {
        if (t->route != NULL) {
            t->route->forget(t);
        }
        *owned = NULL;
        return how(&t->delivery);
    }
    int rc = how(&t->delivery);
    *owned = NULL;
    return free_after(free_rest, t, rc);
}

int
task_deliver(task *t, PyObject *result, PyObject *exception)
{
    const destination_kind *kind = t->delivery.to.kind;
    return hand_over(&t, result == NULL && exception == NULL ? kind->fail : kind->finish, result, exception);
}

// Counts a call that has ended, before anybody is told; `ran_ns`: for how long it ran, or below 0: nobody
// has looked.
static void
count(tally *counts, const task *t, call_place *place, int64_t ran_ns, const PyObject *result,
      const PyObject *exception)
{
    bool has_timed_out = place->has_timed_out;
    place->has_timed_out = false;
    if (t->delivery.to.future == NULL) {
        return;  // it was abandoned, and counted then
    }
    uint64_t *which = result != NULL      ? &counts->completed
                      : exception == NULL ? &counts->cancelled
                      : has_timed_out     ? &counts->timed_out
                                          : &counts->failed;
    ++*which;
    if (ran_ns >= 0 && (which == &counts->completed || which == &counts->failed)) {
        histogram_add(&counts->runs, 1, (uint64_t)ran_ns);
    }
}

// How a call has ended in this thread, for a trace.
static trace_ending
ending_of(const task *t, const call_place *place, const PyObject *result, const PyObject *exception)
{
    return t->delivery.to.future == NULL ? TRACE_ABANDONED
           : result != NULL              ? TRACE_RETURNED
           : exception == NULL           ? TRACE_CANCELLED
           : place->has_timed_out        ? TRACE_TIMED_OUT
                                         : TRACE_FAILED;
}

int
task_run(task **owned, call_place *place, tally *counts, call_times *times, int64_t began_ns)
{
    task *t = *owned;
    const destination_kind *kind = t->delivery.to.kind;
    int rc = kind->start(&t->delivery.to);
    if (rc <= 0) {
        *owned = NULL;
        ++*(rc == 0 ? &counts->cancelled : &counts->failed);
        call_end(place);
        return free_after(task_free, t, rc);
    }
    int (*how)(delivery *) = kind->finish;
    PyObject *exception = NULL;
    if (times != NULL) {
        call_times_began(times, t->traced < 0 ? -t->traced : t->traced, began_ns);
    }
    if (t->traced > 0) {
        trace_begin(t->traced, began_ns);
    }
    PyObject *result = t->route != NULL ? t->route->call(t, place) : task_call(t);
    if (result == NULL) {
        exception = PyErr_GetRaisedException();
        how = exception == NULL ? kind->fail : how;
    }
    int64_t ended_ns = 0, ran_ns = -1;
    if (t->traced > 0) {
        ended_ns = trace_end_traced(&t->traced, ending_of(t, place, result, exception));
    }
    if (times != NULL) {
        ended_ns = ended_ns == 0 ? call_times_now_ns(times) : ended_ns;
        ran_ns = ended_ns > began_ns ? ended_ns - began_ns : 0;
    }
    count(counts, t, place, ran_ns, result, exception);
    if (place->call != NULL) {
        call_end(place);
    }
    if (result == NULL && exception == NULL && t->delivery.to.future == NULL) {
        *owned = NULL;
        task_free(t);
        return 0;
    }
    return hand_over(owned, how, result, exception);
}

int
task_fail(task *t, PyObject *exception)
{
    return hand_over(&t, t->delivery.to.kind->fail, NULL, Py_XNewRef(exception));
}

int
task_fail_all(module_state *state, list_node *tasks, PyObject *make_error, PyObject *message)
{
    PyObject *escaped = NULL;
    while (tasks != NULL) {
        task *t = (task *)tasks;
        PyObject *exception = NULL;
        tasks = tasks->next;
        if (make_error != NULL) {
            exception = PyObject_CallOneArg(make_error, message != NULL ? message : t->callable);
        }
        if (make_error != NULL && exception == NULL) {
            exception = PyErr_GetRaisedException();  // out of memory, say: that is an answer, too
        }
        int rc = task_fail(t, exception);
        Py_XDECREF(exception);
        if (rc < 0 && escaped == NULL) {
            escaped = PyErr_GetRaisedException();
        }
        else if (rc < 0) {
            module_log_escaped(state);
        }
    }
    // The thread that ends tasks from outside may never look again.
    if (state->callbacks->look(state, INT64_MAX) < 0) {
        module_log_escaped(state);
    }
    if (escaped != NULL) {
        PyErr_SetRaisedException(escaped);
        return -1;
    }
    return 0;
}

delivery *
task_detach(task *t)
{
    delivery *d = delivery_new(&t->delivery.to, NULL, NULL);
    if (d != NULL) {
        attach(t, NULL);
        if (t->delivery.to.carrier != NULL) {
            carrier_forget(t->delivery.to.carrier);
        }
        destination_clear(&t->delivery.to);
    }
    return d;
}

int
task_fail_detached(delivery *d, PyObject *exception)
{
    bool is_carried = d->to.carrier != NULL;
    d->exception = Py_XNewRef(exception);
    int rc = d->to.kind->fail(d);
    if (!is_carried) {
        PyObject *error = rc < 0 ? PyErr_GetRaisedException() : NULL;
        delivery_free(d);
        if (error != NULL) {
            PyErr_SetRaisedException(error);
        }
    }
    return rc;
}

void
task_abandon(const task *t, PyObject *exception)
{
    if (t->delivery.to.future == NULL) {
        return;
    }
    t->delivery.to.kind->abandon(&t->delivery.to, exception);
}
