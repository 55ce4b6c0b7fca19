#include "process_queue_type.h"

#include <assert.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/call.h"
#include "futures/future_destination.h"
#include "loops/loop_bridge.h"
#include "job_table_look.h"
#include "job_table_stops.h"
#include "job_table_workers.h"
#include "process_delivery.h"
#include "process_show.h"
#include "process_submit.h"
#include "process_supervision.h"

// ---- what every executor's queue can do ----

static void
close_queue(queue_head *op, PyObject *error, PyObject *message)
{
    process_queue_close((ProcessQueueObject *)op, error, message);
}

static bool
has_workers(queue_head *op)
{
    return job_table_workers(&((ProcessQueueObject *)op)->table) > 0;
}

static int
fail_queued(queue_head *op, PyObject *error, PyObject *message)
{
    ProcessQueueObject *self = (ProcessQueueObject *)op;
    return process_delivery_fail(self, job_table_evict(&self->table, false), error, message);
}

static PyObject *
get_name(queue_head *op)
{
    const pool_view *view = ((ProcessQueueObject *)op)->view;
    return PyUnicode_DecodeUTF8(view->name, (Py_ssize_t)strnlen(view->name, POOL_VIEW_NAME_BYTES), "replace");
}

static const queue_kind process_queue_kind = {
    .routed = true,
    .make_task = process_submit_make_task,
    .push = process_submit_push,
    .close = close_queue,
    .fail_queued = fail_queued,
    .has_workers = has_workers,
    .name = get_name,
};

// ---- the result handler ----

PyDoc_STRVAR(collect_doc,
"collect($self, /)\n--\n\n"
"Deliver outcomes until wake() is called, or the closed queue has nothing left to do. The life of the\n"
"result handler.");

static PyObject *
process_queue_collect(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    process_delivery_collect((ProcessQueueObject *)op);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(wake_doc,
"wake($self, /)\n--\n\n"
"Make collect() return. Any thread, also a signal handler, may call it.");

static PyObject *
process_queue_wake(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    process_queue_call_handler((ProcessQueueObject *)op);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(is_done_doc,
"is_done($self, /)\n--\n\n"
"Return True if the queue is closed and has nothing left to do.");

static PyObject *
process_queue_is_done_method(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(process_queue_is_done((ProcessQueueObject *)op));
}

// ---- closing ----

PyDoc_STRVAR(close_doc,
"close($self, error, message, /)\n--\n\n"
"Refuse tasks from now on with error(message), but not those of a Keeper. Workers finish what is queued.\n\n"
"May be called again, to give another reason.");

static PyObject *
process_queue_close_method(PyObject *op, PyObject *args)
{
    PyObject *error, *message;
    if (!PyArg_ParseTuple(args, "OO:close", &error, &message)) {
        return NULL;
    }
    process_queue_close((ProcessQueueObject *)op, error, message);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(cancel_queued_doc,
"cancel_queued($self, /)\n--\n\n"
"Cancel every task that no worker has taken; if the queue is closed, maps cancel what they have yet to\n"
"send.");

static PyObject *
process_queue_cancel_queued(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    ProcessQueueObject *self = (ProcessQueueObject *)op;
    if (self->state == QUEUE_CLOSED) {
        process_queue_enter(self, QUEUE_CANCELLING);
    }
    if (fail_queued(&self->head, NULL, NULL) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(fail_queued_doc,
"fail_queued($self, make_error, /)\n--\n\n"
"Have the result handler fail every task that no worker has taken, with what make_error() returns, as for\n"
"reap().");

static PyObject *
process_queue_fail_queued(PyObject *op, PyObject *make_error)
{
    ProcessQueueObject *self = (ProcessQueueObject *)op;
    if (!self->head.inherited) {
        process_delivery_fail_later(self, job_table_evict(&self->table, false), make_error);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(cancel_taken_doc,
"cancel_taken($self, /)\n--\n\n"
"Ask the workers to end every coroutine that they run, and every call that may be stopped.");

static PyObject *
process_queue_cancel_taken(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    job_table_request_cancel_all(&((ProcessQueueObject *)op)->table);
    process_queue_poke_supervisor((ProcessQueueObject *)op);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(cancel_later_doc,
"cancel_later($self, only_stoppable, /)\n--\n\n"
"Do what cancel_queued() and cancel_taken() do, but have the result handler call the callbacks.\n\n"
"only_stoppable: let the calls alone that may not be stopped once they run.");

static PyObject *
process_queue_cancel_later(PyObject *op, PyObject *arg)
{
    ProcessQueueObject *self = (ProcessQueueObject *)op;
    int only_stoppable = PyObject_IsTrue(arg);
    if (only_stoppable < 0) {
        return NULL;
    }
    if (!only_stoppable && self->state == QUEUE_CLOSED) {
        process_queue_enter(self, QUEUE_CANCELLING);
    }
    if (!self->head.inherited) {
        job_table_cancel(&self->table, only_stoppable);
        process_queue_raise_wakeup(self);
        process_queue_poke_supervisor(self);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(longest_grace_doc,
"longest_grace($self, /)\n--\n\n"
"Return how many seconds the calls that are to end may take for that at most.");

static PyObject *
process_queue_longest_grace(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    ProcessQueueObject *self = (ProcessQueueObject *)op;
    int64_t grace_ns = self->head.inherited ? 0 : job_table_longest_grace(&self->table);
    return PyFloat_FromDouble((double)grace_ns * 1e-9);
}

PyDoc_STRVAR(fail_all_doc,
"fail_all($self, make_error, /)\n--\n\n"
"Have the result handler fail every task, those that workers have taken too, with what\n"
"make_error() returns, as for reap().\n\n"
"Finished tasks are delivered first. The workers are of no use any more; a queue that is closed takes\n"
"nothing from then on, whoever keeps it open.");

static PyObject *
process_queue_fail_all(PyObject *op, PyObject *make_error)
{
    ProcessQueueObject *self = (ProcessQueueObject *)op;
    if (self->state == QUEUE_CLOSED || self->state == QUEUE_CANCELLING) {
        process_queue_enter(self, QUEUE_DEAD);
    }
    if (!self->head.inherited) {
        job_table_collect(&self->table);
        process_delivery_fail_later(self, job_table_evict(&self->table, true), make_error);
        process_queue_call_handler(self);
    }
    Py_RETURN_NONE;
}

// ---- submitting ----

PyDoc_STRVAR(submit_to_worker_doc,
"submit_to_worker($self, worker, generation, loop, fn, /, *args)\n--\n\n"
"Have one worker call fn(*args): the one whose number and generation these are.\n\n"
"Return a future of an asyncio loop, or if loop is None a Future. Works on a closed queue that is kept\n"
"open. If the worker is dead the future gets WorkerDied.");

static PyObject *
process_queue_submit_to_worker(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    ProcessQueueObject *self = (ProcessQueueObject *)op;
    destination to;
    uint32_t worker;
    if (nargs < 4) {
        PyErr_SetString(PyExc_TypeError, "submit_to_worker() takes a worker, a loop and a function");
        return NULL;
    }
    unsigned long generation = PyLong_AsUnsignedLong(args[1]);
    if ((generation == (unsigned long)-1 && PyErr_Occurred())
        || process_queue_parse_worker(self, args[0], &worker) < 0) {
        return NULL;
    }
    if (self->doorbells == NULL) {
        PyErr_SetString(PyExc_ValueError, "these workers take any task");
        return NULL;
    }
    int rc = args[2] == Py_None ? 0 : loop_bridge_for_loop(self->head.module, args[2], true, &to);
    if (rc == 0) {
        rc = future_destination(self->head.module, &to);
    }
    if (rc < 0) {
        return NULL;
    }
    if (process_submit_to_worker(self, worker, (uint32_t)generation, args + 3, nargs - 3, &to) < 0) {
        destination_clear(&to);
        return NULL;
    }
    Py_XDECREF(to.carrier);
    return to.future;
}

PyDoc_STRVAR(call_before_delivery_doc,
"call_before_delivery($self, function, /)\n--\n\n"
"Have function() called after outcomes of tasks have come from workers, and before anybody learns of them.\n"
"It may wait. None: nothing is called.");

static PyObject *
process_queue_call_before_delivery(PyObject *op, PyObject *function)
{
    ProcessQueueObject *self = (ProcessQueueObject *)op;
    Py_XSETREF(self->before_delivery, function == Py_None ? NULL : Py_NewRef(function));
    Py_RETURN_NONE;
}

PyDoc_STRVAR(decide_by_value_doc,
"decide_by_value($self, function, /)\n--\n\n"
"Have function(object, pickle) say whether what mentions __main__ goes by value. None: nothing does.");

static PyObject *
process_queue_decide_by_value(PyObject *op, PyObject *function)
{
    packer_ask(&((ProcessQueueObject *)op)->packs, function == Py_None ? NULL : function);
    Py_RETURN_NONE;
}

// ---- fork ----

PyDoc_STRVAR(is_inherited_doc,
"is_inherited($self, /)\n--\n\n"
"Return True in the child of a fork, where the queue is the parent's.");

static PyObject *
process_queue_is_inherited(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(((ProcessQueueObject *)op)->head.inherited);
}

PyDoc_STRVAR(after_fork_doc,
"after_fork($self, exception, /)\n--\n\n"
"In the child of a fork: fail every task, and let go of what is shared; the workers are the parent's.");

static PyObject *
process_queue_after_fork(PyObject *op, PyObject *exception)
{
    ProcessQueueObject *self = (ProcessQueueObject *)op;
    region_after_fork(self->region);
    job_table_after_fork(&self->table);
    self->submitted = self->recycled = self->stolen = 0;
    self->counts = (tally){0};
    if (self->times != NULL) {
        call_times_init(self->times);
    }
    node_list_init(&self->ready);
    self->head.inherited = true;
    if (self->state == QUEUE_OPEN) {
        self->close_error = Py_NewRef((PyObject *)Py_TYPE(exception));
        self->close_message = Py_NewRef(exception);
    }
    if (self->state != QUEUE_DEAD) {
        process_queue_enter(self, QUEUE_DEAD);
    }
    for (list_link *link = self->in_flight, *next; link != NULL; link = next) {
        task *t = task_in_flight(link);
        process_job *job = process_job_of(t);
        next = link->next;
        task_abandon(t, exception);
        job->is_sent = true;  // the blocks are the parent's
        job->block = NULL;
        if (job->state != JOB_DELIVERING) {  // the thread that delivers frees it, or is not in this process
            task_free(t);
        }
    }
    process_queue_run_followups(self);
    Py_RETURN_NONE;
}

// ---- life ----

// The most slots of a ring; it has half a kilobyte for each.
#define SLOTS_MAX (1u << 20)

// An eventfd, or -1 with an exception.
static int
open_eventfd(void)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0) {
        region_raise_errno("worker processes are woken by eventfd()");
    }
    return fd;
}

// 0, or -1 with an exception.
static int
open_doorbells(ProcessQueueObject *self)
{
    self->doorbells = PyMem_Calloc(self->max_workers, sizeof(int));
    if (self->doorbells == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (uint32_t i = 0; i < self->max_workers; i++) {
        self->doorbells[i] = -1;
    }
    for (uint32_t i = 0; i < self->max_workers; i++) {
        self->doorbells[i] = open_eventfd();
        if (self->doorbells[i] < 0) {
            return -1;
        }
    }
    return 0;
}

static void
close_doorbells(ProcessQueueObject *self)
{
    for (uint32_t i = 0; self->doorbells != NULL && i < self->max_workers; i++) {
        if (self->doorbells[i] >= 0) {
            close(self->doorbells[i]);
        }
    }
    PyMem_Free(self->doorbells);
}

static PyObject *
process_queue_get_doorbells(PyObject *op, void *Py_UNUSED(closure))
{
    ProcessQueueObject *self = (ProcessQueueObject *)op;
    Py_ssize_t count = self->doorbells == NULL ? 0 : (Py_ssize_t)self->max_workers;
    PyObject *fds = PyTuple_New(count);
    for (Py_ssize_t i = 0; fds != NULL && i < count; i++) {
        PyObject *fd = PyLong_FromLong(self->doorbells[i]);
        if (fd == NULL) {
            Py_CLEAR(fds);
            break;
        }
        PyTuple_SET_ITEM(fds, i, fd);
    }
    return fds;
}

static PyObject *
process_queue_tp_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"max_workers", "slots", "doorbells", "successors", "name", "timed", NULL};
    unsigned int max_workers, slots = 1024;
    int doorbells = 0, successors = 0, timed = 0;
    PyObject *name = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "I|IppSp:ProcessQueue", keywords, &max_workers, &slots,
                                     &doorbells, &successors, &name, &timed)) {
        return NULL;
    }
    uint32_t numbers = successors ? 2 * max_workers : max_workers;
    if (slots == 0 || (slots & (slots - 1)) != 0 || slots > SLOTS_MAX) {
        PyErr_SetString(PyExc_ValueError, "slots must be a power of two, and not more than a million");
        return NULL;
    }
    ProcessQueueObject *self = (ProcessQueueObject *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    module_state *module = module_state_of(type);
    self->head.module = module;
    self->head.kind = &process_queue_kind;
    self->max_workers = max_workers;
    self->wakeup_fd = self->relief_fd = self->supervisor_fd = self->timer_fd = -1;
    self->packs.pickler.module = module;
    park_spot_init(&self->spot, 1);
    node_list_init(&self->ready);
    self->followups_end = &self->followups;
    self->times = timed ? PyMem_Malloc(sizeof(*self->times)) : NULL;
    if (self->times != NULL) {
        call_times_init(self->times);
    }
    else if (timed) {
        PyErr_NoMemory();
        goto fail;
    }
    if (max_workers == 0) {
        self->head.inherited = true;
        process_queue_close(self, PyExc_RuntimeError, Py_None);
        process_queue_enter(self, QUEUE_DEAD);
        return (PyObject *)self;
    }
    self->wakeup_fd = open_eventfd();
    if (self->wakeup_fd < 0) {
        goto fail;
    }
    if (doorbells && open_doorbells(self) < 0) {
        goto fail;
    }
    if (successors && (self->relief_fd = open_eventfd()) < 0) {
        goto fail;
    }
    self->region = region_new(module, pool_view_head_bytes(job_table_size(numbers, slots), numbers), numbers);
    if (self->region == NULL) {
        goto fail;
    }
    self->packs.region = self->region;
    self->view = pool_view_in(self->region->head, self->region->head_bytes);
    assert(self->view != NULL);  // it was counted in
    self->view->max_workers = max_workers;
    self->view->runs_coroutines = (uint32_t)doorbells;
    self->view->has_waits = (uint32_t)timed;
    if (name != NULL) {
        size_t bytes = (size_t)PyBytes_GET_SIZE(name);
        memcpy(self->view->name, PyBytes_AS_STRING(name),
               bytes < POOL_VIEW_NAME_BYTES ? bytes : POOL_VIEW_NAME_BYTES);
    }
    int rc = job_table_init(&self->table, self->region, self->view, max_workers, numbers, slots,
                            self->wakeup_fd, self->doorbells);
    if (rc != SHM_OK) {
        region_raise(rc);
        goto fail;
    }
    return (PyObject *)self;
fail:
    Py_DECREF(self);
    return NULL;
}

// Cancels the tasks that are left: nobody will collect them.
static void
process_queue_finalize(PyObject *op)
{
    ProcessQueueObject *self = (ProcessQueueObject *)op;
    if (self->table.region == NULL || self->head.inherited) {
        return;  // half made, or the parent's
    }
    PyObject *exception = PyErr_GetRaisedException();
    queue_close_collected(&self->head);
    if (self->state != QUEUE_DEAD) {
        process_queue_enter(self, QUEUE_DEAD);
    }
    if (task_fail_all(self->head.module, job_table_evict(&self->table, true), NULL, NULL) < 0) {
        PyErr_WriteUnraisable(NULL);
    }
    while (!self->head.inherited && self->in_flight != NULL) {
        if (task_fail(task_in_flight(self->in_flight), NULL) < 0) {
            PyErr_WriteUnraisable(NULL);
        }
    }
    PyErr_SetRaisedException(exception);
}

static int
process_queue_traverse(PyObject *op, visitproc visit, void *arg)
{
    ProcessQueueObject *self = (ProcessQueueObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->region);
    Py_VISIT(self->before_delivery);
    Py_VISIT(self->close_error);
    Py_VISIT(self->close_message);
    for (list_link *link = self->in_flight; link != NULL; link = link->next) {
        task *t = task_in_flight(link);
        // A task that a thread is ending is the thread's.
        int rc = process_job_of(t)->state == JOB_DELIVERING ? 0 : task_traverse(t, visit, arg);
        if (rc != 0) {
            return rc;
        }
    }
    return packer_traverse(&self->packs, visit, arg);
}

// The finalizer has ended the tasks, and the queue refuses more; the reason for that stays.  The region is in
// no cycle.
static int
process_queue_clear(PyObject *op)
{
    ProcessQueueObject *self = (ProcessQueueObject *)op;
    packer_clear(&self->packs);
    return 0;
}

static void
process_queue_dealloc(PyObject *op)
{
    ProcessQueueObject *self = (ProcessQueueObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    if (type->tp_dealloc == process_queue_dealloc && PyObject_CallFinalizerFromDealloc(op) < 0) {
        return;
    }
    PyObject_GC_UnTrack(op);
    PyObject_ClearWeakRefs(op);
    if (self->table.region != NULL) {
        job_table_fini(&self->table);
    }
    process_queue_clear(op);
    Py_XDECREF(self->before_delivery);
    Py_XDECREF(self->close_error);
    Py_XDECREF(self->close_message);
    Py_XDECREF((PyObject *)self->region);
    int fds[] = {self->wakeup_fd, self->relief_fd, self->supervisor_fd, self->timer_fd};
    for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++) {
        if (fds[i] >= 0) {
            close(fds[i]);
        }
    }
    close_doorbells(self);
    PyMem_Free(self->times);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef process_queue_methods[] = {
    {"collect", process_queue_collect, METH_NOARGS, collect_doc},
    {"wake", process_queue_wake, METH_NOARGS, wake_doc},
    {"is_done", process_queue_is_done_method, METH_NOARGS, is_done_doc},
    {"close", process_queue_close_method, METH_VARARGS, close_doc},
    {"cancel_queued", process_queue_cancel_queued, METH_NOARGS, cancel_queued_doc},
    {"cancel_taken", process_queue_cancel_taken, METH_NOARGS, cancel_taken_doc},
    {"cancel_later", process_queue_cancel_later, METH_O, cancel_later_doc},
    {"longest_grace", process_queue_longest_grace, METH_NOARGS, longest_grace_doc},
    {"fail_all", process_queue_fail_all, METH_O, fail_all_doc},
    {"pop_stop", process_queue_pop_stop, METH_NOARGS, process_queue_pop_stop_doc},
    {"note_stack", process_queue_note_stack, METH_VARARGS, process_queue_note_stack_doc},
    {"find_stopping", process_queue_find_stopping, METH_O, process_queue_find_stopping_doc},
    {"condemn_worker", process_queue_condemn_worker, METH_O, process_queue_condemn_worker_doc},
    {"give_up", process_queue_give_up, METH_O, process_queue_give_up_doc},
    {"reserve_worker", process_queue_reserve_worker, METH_NOARGS, process_queue_reserve_worker_doc},
    {"add_worker", process_queue_add_worker, METH_O, process_queue_add_worker_doc},
    {"reap", process_queue_reap, METH_VARARGS, process_queue_reap_doc},
    {"fail_queued", process_queue_fail_queued, METH_O, fail_queued_doc},
    {"supervise", process_queue_supervise, METH_O, process_queue_supervise_doc},
    {"end_supervision", process_queue_end_supervision, METH_NOARGS, process_queue_end_supervision_doc},
    {"poke", process_queue_poke, METH_NOARGS, process_queue_poke_doc},
    {"await_event", process_queue_await_event, METH_VARARGS, process_queue_await_event_doc},
    {"wants_relief", process_queue_wants_relief, METH_O, process_queue_wants_relief_doc},
    {"admit", process_queue_admit, METH_VARARGS, process_queue_admit_doc},
    {"forget_pidfd", process_queue_forget_pidfd, METH_O, process_queue_forget_pidfd_doc},
    {"count_recycled", process_queue_count_recycled, METH_NOARGS, process_queue_count_recycled_doc},
    {"condemn", process_queue_condemn, METH_NOARGS, process_queue_condemn_doc},
    {"take_condemned", process_queue_take_condemned, METH_NOARGS, process_queue_take_condemned_doc},
    {"call_before_delivery", process_queue_call_before_delivery, METH_O, call_before_delivery_doc},
    {"close_workers", process_queue_close_workers, METH_NOARGS, process_queue_close_workers_doc},
    {"submit_to_worker", FASTCALL(process_queue_submit_to_worker), METH_FASTCALL, submit_to_worker_doc},
    {"decide_by_value", process_queue_decide_by_value, METH_O, decide_by_value_doc},
    {"is_inherited", process_queue_is_inherited, METH_NOARGS, is_inherited_doc},
    {"qsize", process_queue_qsize, METH_NOARGS, process_queue_qsize_doc},
    {"empty", process_queue_empty, METH_NOARGS, process_queue_empty_doc},
    {"stats", process_queue_stats, METH_NOARGS, process_queue_stats_doc},
    {"workers", process_queue_workers, METH_NOARGS, process_queue_workers_doc},
    {"outstanding", process_queue_outstanding, METH_NOARGS, process_queue_outstanding_doc},
    {"after_fork", process_queue_after_fork, METH_O, after_fork_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef process_queue_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(ProcessQueueObject, weakrefs), READONLY, NULL},
    {"region", T_OBJECT, offsetof(ProcessQueueObject, region), READONLY, PyDoc_STR("The shared memory.")},
    {"wakeup_fd", T_INT, offsetof(ProcessQueueObject, wakeup_fd), READONLY,
     PyDoc_STR("The eventfd by which workers say that they have finished something.")},
    {"relief_fd", T_INT, offsetof(ProcessQueueObject, relief_fd), READONLY,
     PyDoc_STR("The eventfd by which workers say that they are to be replaced; -1: none does.")},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(process_queue_doc,
"ProcessQueue(max_workers, slots=1024, doorbells=False, successors=False, name=b\"\", timed=False)\n--\n\n"
"Tasks on their way to worker processes, and their outcomes on the way back.\n\n"
"slots: how many tasks workers can take or find at a time, a power of two; more wait for a slot. doorbells:\n"
"the workers run event loops. successors: they have numbers from 0 to 2 * max_workers - 1, and one may be\n"
"replaced by the one whose number is max_workers higher or lower, while both are there. With max_workers=0\n"
"it is as in the child of a fork: submit() has another made. name: what look_at_pool() shows. timed:\n"
"stats() tells for how long tasks wait.");

static PyGetSetDef process_queue_getset[] = {
    {"doorbells", process_queue_get_doorbells, NULL,
     PyDoc_STR("The eventfds by which workers that run event loops are woken, one each."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot process_queue_slots[] = {
    {Py_tp_doc, (void *)process_queue_doc},
    {Py_tp_new, process_queue_tp_new},
    {Py_tp_dealloc, process_queue_dealloc},
    {Py_tp_finalize, process_queue_finalize},
    {Py_tp_traverse, process_queue_traverse},
    {Py_tp_clear, process_queue_clear},
    {Py_tp_methods, process_queue_methods},
    {Py_tp_members, process_queue_members},
    {Py_tp_getset, process_queue_getset},
    {0, NULL},
};

PyType_Spec process_queue_spec = {
    .name = "pyconc._core.ProcessQueue",
    .basicsize = sizeof(ProcessQueueObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = process_queue_slots,
};
