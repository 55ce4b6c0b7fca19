#include "thread_queue_type.h"

#include "base/stats.h"
#include "futures/future_destination.h"
#include "thread_show.h"
#include "thread_worker.h"

// ---- workers ----

PyDoc_STRVAR(work_doc,
"work($self, reservation, max_idle=0, /)\n--\n\n"
"Run tasks until the queue is closed and empty, or for so many seconds, above 0, there was none: True.\n\n"
"The life of a worker thread. Uses up what reserve_worker() returned.");

static PyObject *
thread_queue_work(PyObject *op, PyObject *args)
{
    PyObject *reservation;
    double max_idle = 0.0;
    if (!PyArg_ParseTuple(args, "O|d:work", &reservation, &max_idle)) {
        return NULL;
    }
    int64_t max_idle_ns = max_idle > 0.0 && max_idle < 3e9 ? (int64_t)(max_idle * 1e9) : INT64_MAX;
    int rc = thread_worker_run((ThreadQueueObject *)op, reservation, max_idle_ns);
    return rc < 0 ? NULL : PyBool_FromLong(rc);
}

PyDoc_STRVAR(release_worker_doc,
"release_worker($self, reservation, /)\n--\n\n"
"Give a reservation back, unless it was used: a thread that comes with it afterwards just ends.");

static PyObject *
thread_queue_release_worker(PyObject *op, PyObject *reservation)
{
    if (thread_worker_release((ThreadQueueObject *)op, reservation) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(reserve_worker_doc,
"reserve_worker($self, /)\n--\n\n"
"Return a reservation if one more worker should be started, as tasks outnumber idle workers, or\n"
"None.\n\n"
"The caller starts a thread that passes it to work(). A reservation that is dropped is given back.");

static PyObject *
thread_queue_reserve_worker(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return thread_worker_reserve((ThreadQueueObject *)op);
}

// ---- the end ----

PyDoc_STRVAR(await_threads_doc,
"await_threads($self, /)\n--\n\n"
"Spin for a moment while the threads of a closed queue end: mostly that is sooner than a sleep in\n"
"join() would be over.");

static PyObject *
thread_queue_await_threads(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    thread_worker_await_ends((ThreadQueueObject *)op);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(close_doc,
"close($self, error, message, /)\n--\n\n"
"Refuse tasks from now on with error(message). Workers finish what is queued and end.\n\n"
"May be called again, to give another reason.");

static PyObject *
thread_queue_close_method(PyObject *op, PyObject *args)
{
    PyObject *error, *message;
    if (!PyArg_ParseTuple(args, "OU:close", &error, &message)) {
        return NULL;
    }
    thread_queue_close((queue_head *)op, error, message);
    // There may be no worker whose end does so: a call may reach its deadline before one is started for it.
    limit_watch_rest(((ThreadQueueObject *)op)->head.module);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(cancel_queued_doc,
"cancel_queued($self, /)\n--\n\n"
"Cancel every task that has not started.");

static PyObject *
thread_queue_cancel_queued(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    if (thread_queue_fail_queued((queue_head *)op, NULL, NULL) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(stop_running_doc,
"stop_running($self, /)\n--\n\n"
"Stop every task that runs and whose options say how; such ones do not begin any more. Return how many run.");

static PyObject *
thread_queue_stop_running_method(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromLong(thread_queue_stop_running((ThreadQueueObject *)op));
}

PyDoc_STRVAR(cancel_at_doc,
"cancel_at($self, instant, /)\n--\n\n"
"Have workers cancel what they find queued from an instant of time.monotonic() on, and stop what runs then\n"
"as stop_running() does.\n\n"
"The earliest of several instants counts.");

static PyObject *
thread_queue_cancel_at(PyObject *op, PyObject *arg)
{
    ThreadQueueObject *self = (ThreadQueueObject *)op;
    double instant = PyFloat_AsDouble(arg);
    if (instant == -1.0 && PyErr_Occurred()) {
        return NULL;
    }
    int64_t at_ns = instant < 9e9 ? (int64_t)(instant * 1e9) : INT64_MAX;
    self->cancel_at_ns = at_ns < self->cancel_at_ns ? at_ns : self->cancel_at_ns;
    thread_queue_watch_stop_limit(self);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(abandoned_doc,
"abandoned($self, /)\n--\n\n"
"Return how many tasks go on, in as many threads or fewer, after their futures were told that they end.");

static PyObject *
thread_queue_abandoned(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    unsigned long count = 0;
    for (list_link *link = ((ThreadQueueObject *)op)->runners; link != NULL; link = link->next) {
        count += ((runner *)link)->is_abandoned;
    }
    return PyLong_FromUnsignedLong(count);
}

PyDoc_STRVAR(fail_queued_doc,
"fail_queued($self, error, message, /)\n--\n\n"
"Fail every task that has not started with error(message).");

static PyObject *
thread_queue_fail_queued_method(PyObject *op, PyObject *args)
{
    PyObject *error, *message;
    if (!PyArg_ParseTuple(args, "OU:fail_queued", &error, &message)) {
        return NULL;
    }
    if (thread_queue_fail_queued((queue_head *)op, error, message) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(after_fork_doc,
"after_fork($self, exception, /)\n--\n\n"
"In the child of a fork: forget the workers, which are not here, and fail what was queued or ran.");

static PyObject *
thread_queue_after_fork(PyObject *op, PyObject *exception)
{
    ThreadQueueObject *self = (ThreadQueueObject *)op;
    workq_after_fork(&self->queue);
    list_node *node = workq_take_all(&self->queue);
    while (node != NULL) {
        task *t = (task *)node;
        node = node->next;
        task_abandon(t, exception);
        task_free(t);
    }
    for (list_link *link = self->runners; link != NULL; link = link->next) {
        runner *r = (runner *)link;
        runner_forget(r);
        if (r->current != NULL) {
            // Not freed: if this is the thread that forked, it still runs the task.
            task_abandon(r->current, exception);
        }
    }
    self->runners = NULL;
    helping_self = NULL;
    call_here = NULL;
    self->fork_generation++;
    self->cancel_at_ns = INT64_MAX;
    limit_watch_unset(&self->stop_limit);
    self->stops_tasks = false;
    thread_show_after_fork(self);
    // If this thread was a worker, it no longer is; it lives on as the child's main thread.
    PyObject *thread_dict = PyThreadState_GetDict();
    if (thread_dict != NULL && PyDict_DelItem(thread_dict, op) < 0) {
        PyErr_Clear();
    }
    atomic_store_explicit(&self->threads, 0, memory_order_relaxed);  // relaxed: the child has one thread
    Py_RETURN_NONE;
}

// ---- what is seen ----

PyDoc_STRVAR(stats_doc,
"stats($self, /)\n--\n\n"
"Return what PoolStats has after the name and the most workers. No lock of Python's is taken.");

static PyObject *
thread_queue_stats(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return thread_show_stats((ThreadQueueObject *)op);
}

PyDoc_STRVAR(workers_doc,
"workers($self, /)\n--\n\n"
"Return a list with (thread, callable or None, name or None, seconds or None, calls, is_abandoned,\n"
"progress) of each worker: its number in the kernel, the call that it runs, for how long, how many it has\n"
"ended, and what that call has told last, or None.");

static PyObject *
thread_queue_workers(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return thread_show_workers((ThreadQueueObject *)op);
}

// ---- the standard library's _work_queue, and other uses ----

PyDoc_STRVAR(push_doc,
"push($self, fn, /)\n--\n\n"
"Queue the call fn(); return its Future. Starts no worker.");

static PyObject *
thread_queue_push_method(PyObject *op, PyObject *fn)
{
    ThreadQueueObject *self = (ThreadQueueObject *)op;
    destination to;
    if (future_destination(self->head.module, &to) < 0) {
        return NULL;
    }
    task *t = task_new(NULL, &fn, 1, NULL, &to);
    if (t == NULL) {
        destination_clear(&to);
        return NULL;
    }
    if (thread_queue_push(&self->head, t) == WORKQ_CLOSED) {
        PyObject *exception = PyErr_GetRaisedException();
        task_free(t);
        destination_clear(&to);
        PyErr_SetRaisedException(exception);
        return NULL;
    }
    return to.future;
}

// (destination, callable, args, kwargs) of a task that will not run here.
static PyObject *
describe_task(task *t)
{
    Py_ssize_t names = t->kwnames == NULL ? 0 : PyTuple_GET_SIZE(t->kwnames);
    PyObject *args = PyTuple_New(t->nargs);
    PyObject *kwargs = PyDict_New();
    PyObject *described = NULL;
    if (args == NULL || kwargs == NULL) {
        goto done;
    }
    for (Py_ssize_t i = 0; i < t->nargs; i++) {
        PyTuple_SET_ITEM(args, i, Py_NewRef(task_args(t)[i]));
    }
    for (Py_ssize_t i = 0; i < names; i++) {
        if (PyDict_SetItem(kwargs, PyTuple_GET_ITEM(t->kwnames, i), task_args(t)[t->nargs + i]) < 0) {
            goto done;
        }
    }
    described = PyTuple_Pack(4, t->delivery.to.future, t->callable, args, kwargs);
done:
    Py_XDECREF(args);
    Py_XDECREF(kwargs);
    return described;
}

PyDoc_STRVAR(take_doc,
"take($self, block, timeout=None, /)\n--\n\n"
"Take the next task out of the queue: return (destination, fn, args, kwargs), or None if there is\n"
"none. With block, wait for one, for so many seconds; and return False if there never will be one,\n"
"because the queue is closed.\n\n"
"The destination is a Future or an asyncio future, and the caller completes it.");

static PyObject *
thread_queue_take(PyObject *op, PyObject *args)
{
    ThreadQueueObject *self = (ThreadQueueObject *)op;
    workq_worker visitor = WORKQ_WORKER_INIT;
    list_node *node;
    int rc = WORKQ_OK;
    int block;
    int64_t deadline_ns;
    PyObject *timeout = Py_None;
    if (!PyArg_ParseTuple(args, "p|O:take", &block, &timeout) || module_deadline(timeout, &deadline_ns) < 0) {
        return NULL;
    }
    workq_join(&self->queue);
    while ((node = workq_pop(&self->queue, &visitor)) == NULL && block && rc == WORKQ_OK) {
        PyThreadState *thread = gil_release(&self->head.module->gil);
        rc = workq_wait(&self->queue, &visitor, deadline_ns);
        gil_acquire(&self->head.module->gil, thread, 0);
    }
    workq_leave(&self->queue, &visitor);
    if (node == NULL) {
        return Py_NewRef(rc == WORKQ_CLOSED ? Py_False : Py_None);
    }
    self->view->submitted--;  // it counts no longer: the caller decides what becomes of it
    PyObject *described = describe_task((task *)node);
    PyObject *error = described == NULL ? PyErr_GetRaisedException() : NULL;
    if (error != NULL) {
        if (task_fail((task *)node, error) < 0) {
            module_log_escaped(self->head.module);
        }
        PyErr_SetRaisedException(error);
        return NULL;
    }
    task_free((task *)node);
    return described;
}

PyDoc_STRVAR(set_max_workers_doc,
"set_max_workers($self, number, /)\n--\n\n"
"Have so many workers at most, from the next task on. Those that run go on.");

static PyObject *
thread_queue_set_max_workers(PyObject *op, PyObject *number)
{
    unsigned long max_workers = PyLong_AsUnsignedLong(number);
    if (max_workers == (unsigned long)-1 && PyErr_Occurred()) {
        return NULL;
    }
    ThreadQueueObject *self = (ThreadQueueObject *)op;
    uint32_t most = max_workers > UINT32_MAX ? UINT32_MAX : (uint32_t)max_workers;
    workq_set_max_workers(&self->queue, most);
    thread_show_max_workers(self, most);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(idle_workers_doc,
"idle_workers($self, /)\n--\n\n"
"Return the number of workers that have no task, those on their way to one included.");

static PyObject *
thread_queue_idle_workers(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromUnsignedLong(workq_idle(&((ThreadQueueObject *)op)->queue));
}


PyDoc_STRVAR(qsize_doc,
"qsize($self, /)\n--\n\n"
"Return the number of tasks that wait for a worker.");

static PyObject *
thread_queue_qsize(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromUnsignedLong(workq_length(&((ThreadQueueObject *)op)->queue));
}

PyDoc_STRVAR(empty_doc,
"empty($self, /)\n--\n\n"
"Return True if no task waits for a worker.");

static PyObject *
thread_queue_empty(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(workq_length(&((ThreadQueueObject *)op)->queue) == 0);
}

// ---- life ----

static PyObject *
thread_queue_tp_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    unsigned int max_workers;
    int timed = false;
    PyObject *others[3];
    if (!PyArg_ParseTuple(args, "I|pOOO:ThreadQueue", &max_workers, &timed, &others[0], &others[1],
                          &others[2])) {
        return NULL;
    }
    call_times *times = timed ? PyMem_Malloc(sizeof(*times)) : NULL;
    if (timed && times == NULL) {
        return PyErr_NoMemory();
    }
    ThreadQueueObject *self = (ThreadQueueObject *)type->tp_alloc(type, 0);
    if (self == NULL) {
        PyMem_Free(times);
    }
    else {
        if (times != NULL) {
            call_times_init(times);
        }
        self->head.module = module_state_of(type);
        self->head.kind = &thread_queue_kind;
        self->fork_generation = 1;
        self->cancel_at_ns = INT64_MAX;
        self->stop_limit.reach = thread_queue_reach_stop_limit;
        self->number = ++self->head.module->thread_queues;
        workq_init(&self->queue, max_workers);
        self->jobs = (thread_jobs){
            .module = self->head.module,
            .queue = &self->queue,
        };
        thread_show_init(self, times);
    }
    return (PyObject *)self;
}

// No worker is left, as each holds a reference; nothing will run what is queued.
static void
thread_queue_finalize(PyObject *op)
{
    ThreadQueueObject *self = (ThreadQueueObject *)op;
    PyObject *exception = PyErr_GetRaisedException();
    if (self->close_error == NULL) {
        queue_close_collected(&self->head);
    }
    if (thread_queue_fail_queued(&self->head, NULL, NULL) < 0) {
        PyErr_WriteUnraisable(NULL);
    }
    PyErr_SetRaisedException(exception);
}

static int
thread_queue_traverse(PyObject *op, visitproc visit, void *arg)
{
    ThreadQueueObject *self = (ThreadQueueObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->close_error);
    Py_VISIT(self->close_message);
    for (list_node *node = self->queue.nodes.first; node != NULL; node = node->next) {
        int rc = task_traverse((task *)node, visit, arg);
        if (rc != 0) {
            return rc;
        }
    }
    return 0;
}

// The finalizer has ended the tasks, and the queue refuses others; the reason for that stays.
static int
thread_queue_clear(PyObject *op)
{
    ThreadQueueObject *self = (ThreadQueueObject *)op;
    list_node *node = workq_take_all(&self->queue);
    while (node != NULL) {
        task *t = (task *)node;
        node = node->next;
        task_free(t);
    }
    return 0;
}

static void
thread_queue_dealloc(PyObject *op)
{
    ThreadQueueObject *self = (ThreadQueueObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    if (type->tp_dealloc == thread_queue_dealloc && PyObject_CallFinalizerFromDealloc(op) < 0) {
        return;
    }
    PyObject_GC_UnTrack(op);
    PyObject_ClearWeakRefs(op);
    limit_watch_unset(&self->stop_limit);
    thread_queue_clear(op);
    Py_XDECREF(self->close_error);
    Py_XDECREF(self->close_message);
    workq_fini(&self->queue);
    thread_show_fini(self);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef thread_queue_methods[] = {
    {"work", thread_queue_work, METH_VARARGS, work_doc},
    {"reserve_worker", thread_queue_reserve_worker, METH_NOARGS, reserve_worker_doc},
    {"await_threads", thread_queue_await_threads, METH_NOARGS, await_threads_doc},
    {"release_worker", thread_queue_release_worker, METH_O, release_worker_doc},
    {"close", thread_queue_close_method, METH_VARARGS, close_doc},
    {"cancel_queued", thread_queue_cancel_queued, METH_NOARGS, cancel_queued_doc},
    {"stop_running", thread_queue_stop_running_method, METH_NOARGS, stop_running_doc},
    {"cancel_at", thread_queue_cancel_at, METH_O, cancel_at_doc},
    {"abandoned", thread_queue_abandoned, METH_NOARGS, abandoned_doc},
    {"fail_queued", thread_queue_fail_queued_method, METH_VARARGS, fail_queued_doc},
    {"after_fork", thread_queue_after_fork, METH_O, after_fork_doc},
    {"push", thread_queue_push_method, METH_O, push_doc},
    {"take", thread_queue_take, METH_VARARGS, take_doc},
    {"set_max_workers", thread_queue_set_max_workers, METH_O, set_max_workers_doc},
    {"stats", thread_queue_stats, METH_NOARGS, stats_doc},
    {"workers", thread_queue_workers, METH_NOARGS, workers_doc},
    {"idle_workers", thread_queue_idle_workers, METH_NOARGS, idle_workers_doc},
    {"qsize", thread_queue_qsize, METH_NOARGS, qsize_doc},
    {"empty", thread_queue_empty, METH_NOARGS, empty_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef thread_queue_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(ThreadQueueObject, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(thread_queue_doc,
"ThreadQueue(max_workers, timed=False, /, *others)\n--\n\n"
"Tasks in the order of their submission, and the counts of the workers that run them.\n\n"
"others: two at most, for the __init__() of a subclass.");

static PyType_Slot thread_queue_slots[] = {
    {Py_tp_doc, (void *)thread_queue_doc},
    {Py_tp_new, thread_queue_tp_new},
    {Py_tp_dealloc, thread_queue_dealloc},
    {Py_tp_finalize, thread_queue_finalize},
    {Py_tp_traverse, thread_queue_traverse},
    {Py_tp_clear, thread_queue_clear},
    {Py_tp_methods, thread_queue_methods},
    {Py_tp_members, thread_queue_members},
    {0, NULL},
};

PyType_Spec thread_queue_spec = {
    .name = "pyconc._core.ThreadQueue",
    .basicsize = sizeof(ThreadQueueObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = thread_queue_slots,
};
