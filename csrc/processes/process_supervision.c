#include "process_supervision.h"

#include <errno.h>
#include <limits.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/futex.h"
#include "job_table_limits.h"
#include "job_table_stops.h"
#include "job_table_workers.h"
#include "process_delivery.h"

PyObject *
process_queue_supervise(PyObject *op, PyObject *arg)
{
    ProcessQueueObject *self = (ProcessQueueObject *)op;
    long stop_signal = PyLong_AsLong(arg);
    if (stop_signal == -1 && PyErr_Occurred()) {
        return NULL;
    }
    self->table.stop_signal = (int)stop_signal;
    if (self->supervisor_fd < 0) {
        self->supervisor_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    }
    if (self->timer_fd < 0 && self->supervisor_fd >= 0) {
        self->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
        if (self->timer_fd >= 0) {
            job_table_use_timer(&self->table, self->timer_fd);
        }
    }
    if (self->timer_fd < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return Py_BuildValue("ii", self->supervisor_fd, self->timer_fd);
}

PyObject *
process_queue_end_supervision(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    ProcessQueueObject *self = (ProcessQueueObject *)op;
    if (self->timer_fd >= 0) {
        if (!self->head.inherited) {
            job_table_use_timer(&self->table, -1);
        }
        close(self->timer_fd);
        self->timer_fd = -1;
    }
    if (self->supervisor_fd >= 0) {
        close(self->supervisor_fd);
        self->supervisor_fd = -1;
    }
    Py_RETURN_NONE;
}

PyObject *
process_queue_poke(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    process_queue_poke_supervisor((ProcessQueueObject *)op);
    Py_RETURN_NONE;
}

// The timer has fired: does what can be done without the GIL.  True: the supervisor has to do the rest.
static bool
on_timer(ProcessQueueObject *self)
{
    bool announces, asks;
    job_table_on_timer(&self->table, &announces, &asks);
    if (announces) {
        process_queue_raise_wakeup(self);
    }
    return asks;
}

// How long epoll_wait() may wait, in milliseconds.
static int
wait_ms(int64_t end_ns)
{
    if (end_ns == FUTEX_NO_DEADLINE) {
        return -1;
    }
    int64_t left_ns = end_ns - clock_now_ns();
    return left_ns <= 0 ? 0 : left_ns / 1000000 >= INT_MAX ? INT_MAX
                                                           : (int)((left_ns + 999999) / 1000000);
}

PyObject *
process_queue_await_event(PyObject *op, PyObject *args)
{
    ProcessQueueObject *self = (ProcessQueueObject *)op;
    int events;
    PyObject *seconds;
    if (!PyArg_ParseTuple(args, "iO:await_event", &events, &seconds)) {
        return NULL;
    }
    double limit = seconds == Py_None ? -1.0 : PyFloat_AsDouble(seconds);
    if (limit == -1.0 && PyErr_Occurred()) {
        return NULL;
    }
    bool has_end = seconds != Py_None && limit <= 3e9;
    int64_t end_ns = has_end ? clock_now_ns() + (int64_t)(limit * 1e9) : FUTEX_NO_DEADLINE;
    struct epoll_event event = {.data.fd = -1};
    int timer_fd = self->timer_fd, ready, error;
    bool is_served;
    Py_BEGIN_ALLOW_THREADS
    do {
        ready = epoll_wait(events, &event, 1, wait_ms(end_ns));
        error = errno;
        is_served = ready > 0 && event.data.fd == timer_fd && !on_timer(self);
    } while (is_served || (ready < 0 && error == EINTR));
    Py_END_ALLOW_THREADS
    if (ready < 0) {
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    if (ready == 0) {
        Py_RETURN_NONE;
    }
    return PyLong_FromLong(event.data.fd);
}

PyObject *
process_queue_pop_stop(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    ProcessQueueObject *self = (ProcessQueueObject *)op;
    stop_order order;
    if (self->head.inherited || !job_table_pop_stop(&self->table, &order)) {
        Py_RETURN_NONE;
    }
    double grace = (double)order.grace_ns / 1e9;
    PyObject *seconds = order.is_kill ? Py_NewRef(Py_None) : PyFloat_FromDouble(grace);
    return seconds == NULL ? NULL
                           : Py_BuildValue("KINO", (unsigned long long)order.number, (unsigned)order.worker,
                                           seconds, order.reason == STOP_BY_TIMEOUT ? Py_True : Py_False);
}

PyObject *
process_queue_note_stack(PyObject *op, PyObject *args)
{
    ProcessQueueObject *self = (ProcessQueueObject *)op;
    unsigned long long number;
    PyObject *stack;
    if (!PyArg_ParseTuple(args, "KO:note_stack", &number, &stack)) {
        return NULL;
    }
    if (!self->head.inherited) {
        job_table_note_stack(&self->table, number, stack);
    }
    Py_RETURN_NONE;
}

// The number of a worker that `find` finds for a call, or None.
static PyObject *
find_worker(PyObject *op, PyObject *arg, bool (*find)(job_table *, uint64_t, uint32_t *))
{
    ProcessQueueObject *self = (ProcessQueueObject *)op;
    uint64_t number = PyLong_AsUnsignedLongLong(arg);
    uint32_t worker;
    if (number == (uint64_t)-1 && PyErr_Occurred()) {
        return NULL;
    }
    if (self->head.inherited || !find(&self->table, number, &worker)) {
        Py_RETURN_NONE;
    }
    return PyLong_FromUnsignedLong(worker);
}

PyObject *
process_queue_find_stopping(PyObject *op, PyObject *arg)
{
    return find_worker(op, arg, job_table_find_stopping);
}

PyObject *
process_queue_condemn_worker(PyObject *op, PyObject *arg)
{
    return find_worker(op, arg, job_table_condemn_worker);
}

PyObject *
process_queue_give_up(PyObject *op, PyObject *arg)
{
    ProcessQueueObject *self = (ProcessQueueObject *)op;
    uint64_t number = PyLong_AsUnsignedLongLong(arg);
    if (number == (uint64_t)-1 && PyErr_Occurred()) {
        return NULL;
    }
    if (!self->head.inherited && job_table_give_up(&self->table, number)) {
        process_queue_raise_wakeup(self);
    }
    Py_RETURN_NONE;
}

PyObject *
process_queue_reserve_worker(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(job_table_reserve_worker(&((ProcessQueueObject *)op)->table));
}

PyObject *
process_queue_add_worker(PyObject *op, PyObject *arg)
{
    long change = PyLong_AsLong(arg);
    if (change == -1 && PyErr_Occurred()) {
        return NULL;
    }
    job_table_add_workers(&((ProcessQueueObject *)op)->table, change);
    Py_RETURN_NONE;
}

PyObject *
process_queue_reap(PyObject *op, PyObject *args)
{
    ProcessQueueObject *self = (ProcessQueueObject *)op;
    PyObject *number, *make_error;
    uint32_t worker;
    if (!PyArg_ParseTuple(args, "OO:reap", &number, &make_error)
        || process_queue_parse_worker(self, number, &worker) < 0) {
        return NULL;
    }
    bool progress;
    uint32_t process = self->table.processes[worker];  // this thread alone writes them
    list_node *lost = job_table_reap(&self->table, worker, &progress);
    bool any = lost != NULL;
    if (trace_on != NULL && process != 0) {
        queue_trace_worker(&self->head, TRACE_WORKER_END, process, any);
    }
    process_delivery_fail_later(self, lost, make_error);
    return PyTuple_Pack(2, any ? Py_True : Py_False, progress ? Py_True : Py_False);
}

PyObject *
process_queue_count_recycled(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    ProcessQueueObject *self = (ProcessQueueObject *)op;
    self->recycled++;
    pool_view_show(&self->view->recycled, self->recycled);
    Py_RETURN_NONE;
}

PyObject *
process_queue_condemn(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    job_table_condemn(&((ProcessQueueObject *)op)->table);
    Py_RETURN_NONE;
}

PyObject *
process_queue_take_condemned(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(job_table_take_condemned(&((ProcessQueueObject *)op)->table));
}

PyObject *
process_queue_wants_relief(PyObject *op, PyObject *number)
{
    ProcessQueueObject *self = (ProcessQueueObject *)op;
    uint32_t worker;
    if (process_queue_parse_worker(self, number, &worker) < 0) {
        return NULL;
    }
    return PyBool_FromLong(!self->head.inherited && job_table_wants_relief(&self->table, worker));
}

PyObject *
process_queue_admit(PyObject *op, PyObject *args)
{
    ProcessQueueObject *self = (ProcessQueueObject *)op;
    PyObject *number;
    uint32_t worker;
    unsigned int process;
    int pidfd;
    if (!PyArg_ParseTuple(args, "OIi:admit", &number, &process, &pidfd)
        || process_queue_parse_worker(self, number, &worker) < 0) {
        return NULL;
    }
    if (trace_on != NULL) {
        queue_trace_worker(&self->head, TRACE_WORKER_BEGIN, process, false);
    }
    worker_view *views = pool_view_workers(self->region->head, self->region->head_bytes,
                                           self->table.ring.worker_count);
    worker_view_enter(&views[worker], WORKER_STARTS);  // it was another's that had this number
    job_table_admit(&self->table, worker, process, pidfd);
    Py_RETURN_NONE;
}

PyObject *
process_queue_forget_pidfd(PyObject *op, PyObject *number)
{
    ProcessQueueObject *self = (ProcessQueueObject *)op;
    uint32_t worker;
    if (process_queue_parse_worker(self, number, &worker) < 0) {
        return NULL;
    }
    job_table_forget_pidfd(&self->table, worker);
    Py_RETURN_NONE;
}

PyObject *
process_queue_close_workers(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    job_table_close(&((ProcessQueueObject *)op)->table);
    process_queue_run_followups((ProcessQueueObject *)op);
    Py_RETURN_NONE;
}
