#include "thread_queue.h"

#include "base/callable_name.h"
#include "base/stats.h"
#include "core/clock.h"
#include "futures/future.h"
#include "loops/loop_bridge.h"

// The name of the capsules that reserve_worker() makes.
#define RESERVATION "pyconc._core.reservation"
// How many tasks of one thread may wait for the one above them: their C frames share its stack.
#define NESTED_MAX 64
// How long shutdown() spins for threads that end: longer than a few of them take, once their queue is closed.
// With a tenth of it, or none, a pool of four threads takes 1.5 times as long from its making to its end;
// with ten times as much, as long (on 3.13).
#define END_SPIN_NS 200000

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

static int
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

static void
thread_queue_close(queue_head *op, PyObject *error, PyObject *message)
{
    ThreadQueueObject *self = (ThreadQueueObject *)op;
    Py_XSETREF(self->close_error, Py_NewRef(error));
    Py_XSETREF(self->close_message, Py_NewRef(message));
    workq_close(&self->queue);
}

// ---- what other programs see ----

static void
use_view(ThreadQueueObject *self, thread_view_pool *view)
{
    view->submitted = self->view->submitted;
    view->counts = self->view->counts;
    self->view = view;
    self->jobs.counts = &view->counts;
}

// Counts in memory of its own from now on.
static void
hide_pool(ThreadQueueObject *self)
{
    thread_view_pool *view = self->view;
    if (view != &self->hidden) {
        use_view(self, &self->hidden);
        thread_view_give_back(view);
    }
    self->is_hidden = self->is_hidden || thread_view_hide();
}

static void
free_times(ThreadQueueObject *self)
{
    if (self->in_view != NULL) {
        thread_view_give_back(self->in_view);
    }
    else {
        PyMem_Free(self->times);
    }
}

static void
show_times(ThreadQueueObject *self)
{
    thread_view_times *view = self->times == NULL ? NULL : thread_view_take();
    if (view != NULL) {
        view->pool = self->number;
        view->times = *self->times;
        free_times(self);
        self->times = &view->times;
        self->in_view = view;
        thread_view_show(view, THREAD_VIEW_TIMES);
    }
}

// Has others see it, from its first worker on.
static void
show_pool(ThreadQueueObject *self)
{
    self->has_looked = true;
    thread_view_pool *view = thread_view_take();
    if (view == NULL) {
        hide_pool(self);
        return;
    }
    // As Python has named it.
    PyObject *name = PyObject_GetAttrString((PyObject *)self, "shown");
    size_t bytes = 0;
    const char *text = callable_name_of_str(name, &bytes);
    PyErr_Clear();
    memcpy(view->name, text == NULL ? "" : text, bytes < sizeof(view->name) ? bytes : sizeof(view->name));
    Py_XDECREF(name);
    view->pool = self->number;
    view->is_timed = self->times != NULL;
    atomic_init(&view->max_workers, self->queue.max_workers);
    use_view(self, view);
    show_times(self);
    thread_view_show(view, THREAD_VIEW_POOL);
}

static void
show_worker(worker *w)
{
    ThreadQueueObject *self = w->queue;
    thread_view_worker *view = self->view == &self->hidden ? NULL : thread_view_take();
    if (view == NULL) {
        // Without one of its workers its numbers would be wrong.
        hide_pool(self);
        return;
    }
    view->pool = self->number;
    view->thread = (uint32_t)w->native_id;
    w->view = view;
    thread_view_show(view, THREAD_VIEW_WORKER);
}

// `name`: of a call by its options, or of a function; NULL: as the callable.
static __attribute__((noinline)) void
name_call(worker *w, PyObject *callable, PyObject *name)
{
    size_t bytes = 0;
    const char *text = callable_name_of_str(name, &bytes);
    if (text == NULL) {
        text = callable_name(w->queue->head.module, callable, &bytes);
    }
    thread_view_name_call(w->view, text == NULL ? "" : text, text == NULL ? 0 : bytes);
    // To drop it later runs no code.
    Py_XSETREF(w->named, name != NULL && PyUnicode_CheckExact(name) ? Py_NewRef(name) : NULL);
}

// A call is about to begin, or goes on, that has begun then.
static inline void
show_call(worker *w, task *t, int64_t began_ns)
{
    int64_t ignored_ns;
    PyObject *callable = t->callable;
    PyObject *name = t->route == NULL ? NULL : thread_job_look(t, &ignored_ns);
    if (name == NULL) {
        PyObject *function = PyMethod_Check(callable) ? PyMethod_GET_FUNCTION(callable) : callable;
        name = PyFunction_Check(function) ? ((PyFunctionObject *)function)->func_qualname : NULL;
    }
    w->view->began_ns = began_ns;
    if (name == NULL || name != w->named) {
        name_call(w, callable, name);
    }
}

// ---- workers ----

// A thread counts from its reservation until its state is cleared, which is the last thing that it does with
// the GIL: a capsule in the state's dictionary then ends.
static void
add_threads(ThreadQueueObject *self, int change)
{
    // R5: pairs with A1 in look() and in thread_queue_await_threads(): the thread that waits for their end
    // sees what they did. The load is relaxed because writers have the GIL.
    uint32_t threads = atomic_load_explicit(&self->threads, memory_order_relaxed);
    atomic_store_explicit(&self->threads, threads + (uint32_t)change, memory_order_release);
}

static void
thread_ends(PyObject *capsule)
{
    ThreadQueueObject *self = PyCapsule_GetPointer(capsule, NULL);
    add_threads(self, -1);
    Py_DECREF(self);
}

static int
watch_thread(ThreadQueueObject *self)
{
    PyObject *thread_dict = PyThreadState_GetDict();  // borrowed
    PyObject *capsule = PyCapsule_New(self, NULL, thread_ends);
    if (capsule == NULL) {
        add_threads(self, -1);
        return -1;
    }
    Py_INCREF(self);  // the capsule's
    int rc = thread_dict == NULL ? -1 : PyDict_SetItem(thread_dict, (PyObject *)self, capsule);
    Py_DECREF(capsule);
    return rc;
}

// ---- tasks that workers run while they wait ----

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
    call_take_back(&below->place);
    list_link_push(&w->queue->runners, &above->link);
    w->depth++;
    int64_t below_ns = w->view->began_ns;
    w->view->running++;
    show_call(w, t, clock_coarse_ns());
    if (task_run(&above->current, &above->place, &w->view->counts, w->queue->times) < 0) {
        module_log_escaped(w->queue->head.module);
    }
    w->depth--;
    w->view->running--;
    if (below->current != NULL && below->current->callable != NULL) {  // else a callback of its future waits
        show_call(w, below->current, below_ns);
    }
    if (PyContext_Exit(context) < 0) {
        module_log_escaped(w->queue->head.module);
    }
    Py_DECREF(context);
    runner_leave(above);
    if (!above->inherited) {
        list_link_remove(&above->link);
    }
    PyMem_Free(above);
}

static int
worker_run_awaited(helper *op, const awaited *what)
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

static Py_ssize_t
worker_count_hopeless(helper *op, const awaited *what)
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

// ---- the life of a worker ----

// Stops what runs and may be stopped; returns how many that are.
static long
stop_running(ThreadQueueObject *self)
{
    long count = 0;
    self->stops_tasks = true;
    // No other thread runs meanwhile.
    for (list_link *link = self->runners; link != NULL; link = link->next) {
        count += thread_job_stop((runner *)link, STOP_BY_SHUTDOWN);
    }
    return count;
}

static void
reach_stop_limit(limit *self)
{
    stop_running(THING_OF(self, ThreadQueueObject, stop_limit));
}

// Has what runs stopped in time, as long as a thread is there that could run something.
static void
watch_stop_limit(ThreadQueueObject *self)
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

// Whether a task is to be cancelled that was about to begin.
static bool
is_unwanted(const ThreadQueueObject *self, task *t)
{
    return (self->cancel_at_ns != INT64_MAX && clock_now_ns() >= self->cancel_at_ns)
           || (self->stops_tasks && thread_job_is_stoppable(t));
}

// Runs tasks until the queue is closed and empty; or returns in the child of a fork, where this thread is no
// worker.
static void
run_tasks(ThreadQueueObject *self, worker *w)
{
    module_state *module = self->head.module;
    runner *r = &w->runner;
    int64_t checked_ns = clock_now_ns();
    bool check_due = false;

    gil_hold(&module->gil);
    for (;;) {
        list_node *node = workq_pop(&self->queue, &w->parking);
        if (node == NULL) {
            w->view->running = 0;
            int64_t look_ns = loop_bridge_next_look(module);
            PyThreadState *thread = gil_release(&module->gil);
            int rc = workq_wait(&self->queue, &w->parking, look_ns);
            // The thread that pushed the task for which a sleeper woke has had time to release the GIL.
            gil_acquire(&module->gil, thread, w->parking.slept ? 0 : GIL_PATIENCE_NS);
            if (rc != WORKQ_OK && loop_bridge_look(module, rc == WORKQ_CLOSED ? INT64_MAX : look_ns) < 0) {
                module_log_escaped(module);
            }
            if (rc == WORKQ_CLOSED) {
                return;
            }
            continue;
        }
        r->current = (task *)node;
        if (check_due) {
            // Here and not right after the last task: other threads may run now, and the one that has that
            // task's outcome must find this worker idle if nothing is queued, or it would start another.
            module_checkpoint(module);
            checked_ns = clock_now_ns();
            check_due = false;
            if (r->inherited) {
                task_free(r->current);
                return;
            }
        }
        if (is_unwanted(self, r->current)) {
            task *late = r->current;
            r->current = NULL;
            w->view->counts.cancelled++;
            if (task_fail(late, NULL) < 0) {
                module_log_escaped(module);
            }
            if (r->inherited) {
                return;
            }
            continue;
        }
        bool checks_itself = MODULE_CALLS_CHECK && PyFunction_Check(r->current->callable);
        w->view->running = 1;
        show_call(w, r->current, clock_coarse_ns());
        if (task_run(&r->current, &r->place, &w->view->counts, self->times) < 0) {
            module_log_escaped(module);
        }
        if (r->inherited) {
            return;
        }
        check_due = !checks_itself && clock_now_ns() - checked_ns > MODULE_CHECKPOINT_NS;
    }
}

PyDoc_STRVAR(work_doc,
"work($self, reservation, /)\n--\n\n"
"Run tasks until the queue is closed and empty. The life of a worker thread.\n\n"
"Uses up what reserve_worker() returned.");

static PyObject *
thread_queue_work(PyObject *op, PyObject *reservation)
{
    ThreadQueueObject *self = (ThreadQueueObject *)op;
    worker w = {
        .helper = {.home = self->number,
                   .run_awaited = worker_run_awaited,
                   .count_hopeless = worker_count_hopeless},
        .thread_id = PyThread_get_thread_ident(),
        .native_id = PyThread_get_thread_native_id(),
        .thread = PyThreadState_Get(),
        .parking = WORKQ_WORKER_INIT,
        .queue = self,
    };

    if (!PyCapsule_IsValid(reservation, RESERVATION)
        || PyCapsule_GetPointer(reservation, RESERVATION) != (void *)self) {
        PyErr_SetString(PyExc_TypeError, "work() takes what reserve_worker() returned");
        return NULL;
    }
    if (PyCapsule_GetContext(reservation) != (void *)self->fork_generation) {
        Py_RETURN_NONE;  // used already, or made before a fork
    }
    PyCapsule_SetContext(reservation, NULL);
    if (watch_thread(self) < 0 || (w.context = PyContext_CopyCurrent()) == NULL) {
        workq_leave(&self->queue, &w.parking);
        return NULL;
    }
    runner_enter(&w.runner, &w, self->head.module);
    list_link_push(&self->runners, &w.runner.link);
    w.view = &w.hidden;
    show_worker(&w);
    watch_stop_limit(self);
    helping_self = &w.helper;
    call_here = &w.runner.place;
    run_tasks(self, &w);
    call_here = NULL;
    helping_self = NULL;
    Py_DECREF(w.context);
    Py_XDECREF(w.named);
    if (!w.runner.inherited) {
        workq_leave(&self->queue, &w.parking);
        list_link_remove(&w.runner.link);
        watch_stop_limit(self);
        tally_add(self->jobs.counts, &w.view->counts);
        thread_view_give_back(w.view);
        limit_watch_rest(self->head.module);
    }
    Py_RETURN_NONE;
}

// A reservation is a capsule whose context is the queue's fork_generation until it is used.  Whatever becomes
// of the thread that it was made for, the reservation is given back with its last reference.
static void
give_back(ThreadQueueObject *self, PyObject *capsule)
{
    if (PyCapsule_GetContext(capsule) == (void *)self->fork_generation) {
        workq_worker never_started = WORKQ_WORKER_INIT;
        PyCapsule_SetContext(capsule, NULL);
        workq_leave(&self->queue, &never_started);
        add_threads(self, -1);
    }
}

static void
reservation_ends(PyObject *capsule)
{
    ThreadQueueObject *self = PyCapsule_GetPointer(capsule, RESERVATION);
    give_back(self, capsule);
    Py_DECREF(self);
}

PyDoc_STRVAR(release_worker_doc,
"release_worker($self, reservation, /)\n--\n\n"
"Give a reservation back, unless it was used: a thread that comes with it afterwards just ends.");

static PyObject *
thread_queue_release_worker(PyObject *op, PyObject *reservation)
{
    if (!PyCapsule_IsValid(reservation, RESERVATION)
        || PyCapsule_GetPointer(reservation, RESERVATION) != (void *)op) {
        PyErr_SetString(PyExc_TypeError, "release_worker() takes what reserve_worker() returned");
        return NULL;
    }
    give_back((ThreadQueueObject *)op, reservation);
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
    ThreadQueueObject *self = (ThreadQueueObject *)op;
    PyObject *reservation = PyCapsule_New(self, RESERVATION, reservation_ends);
    if (reservation == NULL) {
        return NULL;
    }
    Py_INCREF(self);  // the capsule's
    if (!workq_reserve_worker(&self->queue)) {
        Py_DECREF(reservation);
        Py_RETURN_NONE;
    }
    add_threads(self, 1);
    if (!self->has_looked) {
        show_pool(self);
    }
    PyCapsule_SetContext(reservation, (void *)self->fork_generation);
    return reservation;
}

// ---- the end ----

PyDoc_STRVAR(await_threads_doc,
"await_threads($self, /)\n--\n\n"
"Spin for a moment while the threads of a closed queue end: mostly that is sooner than a sleep in\n"
"join() would be over.");

static PyObject *
thread_queue_await_threads(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    ThreadQueueObject *self = (ThreadQueueObject *)op;
    int64_t end = clock_now_ns() + END_SPIN_NS;
    int64_t left_ns = END_SPIN_NS;
    uint32_t threads;
    PyThreadState *thread = gil_release(&self->head.module->gil);
    // A1: pairs with R5 in add_threads().
    while (left_ns > 0
           && (threads = atomic_load_explicit(&self->threads, memory_order_acquire)) > 0) {
        // A spin without success was the last: its time is over, or there is only one CPU.
        left_ns = park_spin_for(&self->threads, threads, left_ns) ? end - clock_now_ns() : 0;
    }
    gil_acquire(&self->head.module->gil, thread, left_ns > 0 ? GIL_PATIENCE_END_NS : 0);
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

static int
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
thread_queue_stop_running(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromLong(stop_running((ThreadQueueObject *)op));
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
    watch_stop_limit(self);
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
    if (self->times != NULL) {
        call_times_init(self->times);
    }
    use_view(self, &self->hidden);
    self->hidden = (thread_view_pool){0};
    self->has_looked = self->is_hidden = false;
    // If this thread was a worker, it no longer is; it lives on as the child's main thread.
    PyObject *thread_dict = PyThreadState_GetDict();
    if (thread_dict != NULL && PyDict_DelItem(thread_dict, op) < 0) {
        PyErr_Clear();
    }
    atomic_store_explicit(&self->threads, 0, memory_order_relaxed);  // relaxed: the child has one thread
    Py_RETURN_NONE;
}

// ---- statistics ----

static bool
is_first_of_worker(const runner *r)
{
    return r == &r->worker->runner;
}

PyDoc_STRVAR(stats_doc,
"stats($self, /)\n--\n\n"
"Return what PoolStats has after the name and the most workers. No lock of Python's is taken.");

static PyObject *
thread_queue_stats(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    ThreadQueueObject *self = (ThreadQueueObject *)op;
    tally sum = *self->jobs.counts;
    stats_now now = {.submitted = self->view->submitted,
                     .workers = workq_workers(&self->queue),
                     .idle = workq_idle(&self->queue),
                     .queued = workq_length(&self->queue)};
    for (list_link *link = self->runners; link != NULL; link = link->next) {
        const runner *r = (const runner *)link;
        now.abandoned += r->is_abandoned;
        if (is_first_of_worker(r)) {
            tally_add(&sum, &r->worker->view->counts);
        }
    }
    now.running = self->view->submitted - now.queued - tally_ended(&sum);
    bool has_times = self->times != NULL;
    return stats_build(&now, &sum, has_times ? &sum.runs : NULL, has_times ? &self->times->waits : NULL);
}

// What a worker runs, looked at while no other thread can run.
typedef struct glance {
    unsigned long thread;
    PyObject *callable, *name, *progress;  // or NULL; new references
    int64_t began_ns;                      // or CALL_NOT_BEGUN
    uint64_t calls;
    bool is_abandoned;
} glance;

static glance
glance_at(const worker *w)
{
    const runner *r = worker_innermost(w);
    task *t = r->current;
    glance seen = {.thread = w->native_id,
                   .began_ns = CALL_NOT_BEGUN,
                   .calls = tally_ended(&w->view->counts),
                   .is_abandoned = r->is_abandoned};
    if (t != NULL && t->callable != NULL) {
        seen.callable = Py_NewRef(t->callable);
        seen.name = Py_XNewRef(thread_job_look(t, &seen.began_ns));
        seen.progress = r->place.call == NULL ? NULL : Py_XNewRef(r->place.call->progress);
    }
    return seen;
}

// Appends what was seen of a worker to a list, unless that is NULL, and drops it.  0, or -1 with an
// exception.
static int
append_glance(PyObject *list, glance *seen)
{
    int rc = -1;
    if (list != NULL) {
        int64_t ran_ns =
            seen->began_ns == CALL_NOT_BEGUN ? CALL_NOT_BEGUN : clock_now_ns() - seen->began_ns;
        PyObject *seconds = call_build_seconds(ran_ns, CALL_NOT_BEGUN);
        PyObject *described =
            seconds == NULL
                ? NULL
                : Py_BuildValue("kOONKOO", seen->thread, seen->callable == NULL ? Py_None : seen->callable,
                                seen->name == NULL ? Py_None : seen->name, seconds,
                                (unsigned long long)seen->calls, seen->is_abandoned ? Py_True : Py_False,
                                seen->progress == NULL ? Py_None : seen->progress);
        rc = described == NULL ? -1 : PyList_Append(list, described);
        Py_XDECREF(described);
    }
    Py_XDECREF(seen->callable);
    Py_XDECREF(seen->name);
    Py_XDECREF(seen->progress);
    return rc;
}

PyDoc_STRVAR(workers_doc,
"workers($self, /)\n--\n\n"
"Return a list with (thread, callable or None, name or None, seconds or None, calls, is_abandoned,\n"
"progress) of each worker: its number in the kernel, the call that it runs, for how long, how many it has\n"
"ended, and what that call has told last, or None.");

static PyObject *
thread_queue_workers(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    ThreadQueueObject *self = (ThreadQueueObject *)op;
    size_t count = 0, found = 0;
    for (list_link *link = self->runners; link != NULL; link = link->next) {
        count += is_first_of_worker((const runner *)link);
    }
    glance *seen = PyMem_Malloc((count + 1) * sizeof(glance));
    if (seen == NULL) {
        return PyErr_NoMemory();
    }
    // Until here, and in this loop, no Python code runs, not even a collection's.
    for (list_link *link = self->runners; link != NULL; link = link->next) {
        if (is_first_of_worker((const runner *)link)) {
            seen[found++] = glance_at(((const runner *)link)->worker);
        }
    }
    PyObject *workers = PyList_New(0);
    for (size_t i = 0; i < found; i++) {
        if (append_glance(workers, &seen[i]) < 0) {
            Py_CLEAR(workers);
        }
    }
    PyMem_Free(seen);
    return workers;
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
        PyTuple_SET_ITEM(args, i, Py_NewRef(task_args(t)[1 + i]));
    }
    for (Py_ssize_t i = 0; i < names; i++) {
        if (PyDict_SetItem(kwargs, PyTuple_GET_ITEM(t->kwnames, i), task_args(t)[1 + t->nargs + i]) < 0) {
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
    // Relaxed: nobody orders what is seen.
    atomic_store_explicit(&self->view->max_workers, most, memory_order_relaxed);
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

static bool
thread_queue_has_workers(queue_head *op)
{
    return workq_workers(&((ThreadQueueObject *)op)->queue) > 0;
}

static const queue_kind thread_queue_kind = {
    .make_task = thread_queue_make_task,
    .push = thread_queue_push,
    .close = thread_queue_close,
    .fail_queued = thread_queue_fail_queued,
    .has_workers = thread_queue_has_workers,
    .name = thread_queue_name,
};

static PyObject *
thread_queue_tp_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    unsigned int max_workers;
    int timed = false;
    PyObject *others[2];
    if (!PyArg_ParseTuple(args, "I|pOO:ThreadQueue", &max_workers, &timed, &others[0], &others[1])) {
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
        self->times = times;
        self->head.module = module_state_of(type);
        self->head.kind = &thread_queue_kind;
        self->fork_generation = 1;
        self->cancel_at_ns = INT64_MAX;
        self->stop_limit.reach = reach_stop_limit;
        self->number = ++self->head.module->thread_queues;
        workq_init(&self->queue, max_workers);
        self->view = &self->hidden;
        self->jobs = (thread_jobs){
            .module = self->head.module,
            .queue = &self->queue,
            .counts = &self->hidden.counts,
        };
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
    thread_view_give_back(self->view);
    if (self->is_hidden) {
        thread_view_unhide();
    }
    free_times(self);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef thread_queue_methods[] = {
    {"work", thread_queue_work, METH_O, work_doc},
    {"reserve_worker", thread_queue_reserve_worker, METH_NOARGS, reserve_worker_doc},
    {"await_threads", thread_queue_await_threads, METH_NOARGS, await_threads_doc},
    {"release_worker", thread_queue_release_worker, METH_O, release_worker_doc},
    {"close", thread_queue_close_method, METH_VARARGS, close_doc},
    {"cancel_queued", thread_queue_cancel_queued, METH_NOARGS, cancel_queued_doc},
    {"stop_running", thread_queue_stop_running, METH_NOARGS, stop_running_doc},
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
