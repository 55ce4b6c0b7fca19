#include "thread_queue.h"

#include "core/clock.h"
#include "futures/future.h"

static task *
thread_queue_make_task(queue_head *self, const call_options *options, PyObject *const *args, Py_ssize_t nargs,
                       PyObject *kwnames, const destination *to)
{
    if (to->carrier == NULL) {
        ((FutureObject *)to->future)->home = ((ThreadQueueObject *)self)->number;
    }
    return options->is_special
               ? thread_job_new_task(&((ThreadQueueObject *)self)->jobs, options, args, nargs, kwnames, to)
               : task_new(NULL, args, nargs, kwnames, to);
}

int
thread_queue_push(queue_head *op, task *t)
{
    ThreadQueueObject *self = (ThreadQueueObject *)op;
    gil_hold(&self->head.module->gil);
    if (trace_on != NULL) {
        int64_t began_ns;
        queue_trace_submit(op, t, thread_job_look(t, &began_ns));
    }
    if (self->times != NULL && t->traced == 0) {
        t->traced = -call_times_now_ns(self->times);
    }
    int rc = workq_push(&self->queue, &t->delivery.node);
    if (rc == WORKQ_CLOSED) {
        PyErr_SetObject(self->close_error, self->close_message);
    }
    else {
        self->view->submitted++;
    }
    return rc;
}

// As Python has named it.
static PyObject *
thread_queue_name(queue_head *op)
{
    return PyObject_GetAttrString((PyObject *)op, "shown");
}

void
thread_queue_close(queue_head *op, PyObject *error, PyObject *message)
{
    ThreadQueueObject *self = (ThreadQueueObject *)op;
    Py_XSETREF(self->close_error, Py_NewRef(error));
    Py_XSETREF(self->close_message, Py_NewRef(message));
    workq_close(&self->queue);
}

int
thread_queue_fail_queued(queue_head *op, PyObject *error, PyObject *message)
{
    ThreadQueueObject *self = (ThreadQueueObject *)op;
    list_node *tasks = workq_take_all(&self->queue);
    for (list_node *node = tasks; node != NULL; node = node->next) {
        ++*(error == NULL ? &self->jobs.counts->cancelled : &self->jobs.counts->died);
        trace_end(&((task *)node)->traced, error == NULL ? TRACE_CANCELLED : TRACE_DIED);
    }
    return task_fail_all(self->head.module, tasks, error, message);
}

static bool
thread_queue_has_workers(queue_head *op)
{
    return workq_workers(&((ThreadQueueObject *)op)->queue) > 0;
}

const queue_kind thread_queue_kind = {
    .make_task = thread_queue_make_task,
    .push = thread_queue_push,
    .close = thread_queue_close,
    .fail_queued = thread_queue_fail_queued,
    .has_workers = thread_queue_has_workers,
    .name = thread_queue_name,
};

// ---- stopping ----

long
thread_queue_stop_running(ThreadQueueObject *self)
{
    long count = 0;
    self->stops_tasks = true;
    // No other thread runs meanwhile.
    for (list_link *link = self->runners; link != NULL; link = link->next) {
        count += thread_job_stop((runner *)link, STOP_BY_SHUTDOWN);
    }
    return count;
}

void
thread_queue_reach_stop_limit(limit *self)
{
    thread_queue_stop_running(THING_OF(self, ThreadQueueObject, stop_limit));
}

void
thread_queue_watch_stop_limit(ThreadQueueObject *self)
{
    if (self->cancel_at_ns == INT64_MAX) {
        return;
    }
    if (self->runners == NULL || self->stops_tasks) {
        limit_watch_unset(&self->stop_limit);
    }
    else {
        limit_watch_set(self->head.module, &self->stop_limit, self->cancel_at_ns);
    }
}
