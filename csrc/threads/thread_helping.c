#include "thread_helping.h"

#include "thread_show.h"

// How many tasks of one thread may wait for the one above them: their C frames share its stack.
#define NESTED_MAX 64

// The future into which the outcome of a runner's task goes straight, or NULL.
static PyObject *
future_of(const task *t)
{
    return t == NULL || t->delivery.to.carrier != NULL ? NULL : t->delivery.to.future;
}

// Where the queue has the first task that is awaited.
static list_node **
find_awaited(ThreadQueueObject *self, const awaited *what)
{
    list_node **place = &self->queue.nodes.first;
    while (*place != NULL) {
        PyObject *future = future_of((task *)*place);
        if (future != NULL && what->includes(future, what->which)) {
            break;
        }
        place = &(*place)->next;
    }
    return place;
}

// Runs a task on top of the one that waits for it.
static void
run_above(worker *w, task *t)
{
    // Not on the stack: a greenlet's is moved elsewhere while another one runs.
    runner *above = PyMem_Calloc(1, sizeof(runner));
    PyObject *context = above == NULL ? PyErr_NoMemory() : PyContext_Copy(w->context);
    if (context == NULL || PyContext_Enter(context) < 0) {
        PyObject *error = PyErr_GetRaisedException();
        w->view->counts.failed++;
        if (task_fail(t, error) < 0) {
            module_log_escaped(w->queue->head.module);
        }
        Py_DECREF(error);
        Py_XDECREF(context);
        PyMem_Free(above);
        return;
    }
    above->current = t;
    runner *below = worker_innermost(w);
    runner_enter(above, w, w->queue->head.module);
    thread_show_runner(above);
    call_take_back(&below->place);
    list_link_push(&w->queue->runners, &above->link);
    w->depth++;
    int64_t below_ns = w->view->began_ns;
    w->view->running++;
    int64_t began_ns = task_begins_ns(t, w->queue->times);
    thread_show_call(w, t, began_ns);
    if (task_run(&above->current, &above->place, &w->view->counts, w->queue->times, began_ns) < 0) {
        module_log_escaped(w->queue->head.module);
    }
    w->depth--;
    w->view->running--;
    if (below->current != NULL && below->current->callable != NULL) {  // else a callback of its future waits
        thread_show_call(w, below->current, below_ns);
    }
    if (PyContext_Exit(context) < 0) {
        module_log_escaped(w->queue->head.module);
    }
    Py_DECREF(context);
    runner_leave(above);
    thread_show_told(w);
    if (!above->inherited) {
        list_link_remove(&above->link);
    }
    PyMem_Free(above);
}

int
thread_helping_run_awaited(helper *op, const awaited *what)
{
    worker *w = (worker *)op;
    workq *q = &w->queue->queue;
    // The list changes in threads that hold the GIL, so it stands still here.
    list_node **place = find_awaited(w->queue, what);
    task *t = (task *)*place;
    if (t == NULL) {
        return 0;
    }
    if (w->depth < NESTED_MAX) {
        if (!workq_take_out(q, place)) {
            return 0;
        }
        run_above(w, t);
        if (w->runner.inherited) {
            PyErr_SetString(PyExc_RuntimeError,
                            "the process was forked by a task that this one waits for");
            return -1;
        }
        // The task that waits here may have been stopped meanwhile.
        return call_interrupt(&worker_innermost(w)->place) < 0 ? -1 : 1;
    }
    if (what->has_deadline || workq_length(q) <= workq_idle(q)) {
        return 0;
    }
    PyErr_Format(PyExc_RuntimeError,
                 "deadlock: %d tasks wait for the next one in this thread, and no other thread is free",
                 NESTED_MAX);
    return -1;
}

// Whether a thread sleeps, or is about to, until a task of `w` ends.
static bool
waits_for(const worker *sleeper, const worker *w)
{
    while (sleeper != w) {
        PyObject *future = sleeper->helper.sleeps_for;
        list_link *link = future == NULL ? NULL : w->queue->runners;
        while (link != NULL && future_of(((runner *)link)->current) != future) {
            link = link->next;
        }
        if (link == NULL) {
            return false;
        }
        sleeper = ((runner *)link)->worker;
    }
    return true;
}

Py_ssize_t
thread_helping_count_hopeless(helper *op, const awaited *what)
{
    worker *w = (worker *)op;
    Py_ssize_t count = 0;
    for (list_link *link = w->queue->runners; link != NULL; link = link->next) {
        runner *r = (runner *)link;
        PyObject *future = future_of(r->current);
        if (future != NULL && what->includes(future, what->which) && waits_for(r->worker, w)) {
            count++;
        }
    }
    return count;
}
