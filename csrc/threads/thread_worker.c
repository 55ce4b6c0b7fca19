#include "thread_worker.h"

#include "core/clock.h"
#include "loops/loop_bridge.h"
#include "thread_helping.h"
#include "thread_show.h"

// The name of the capsules that are reservations.
#define RESERVATION "pyconc._core.reservation"
// How many full spins in a row shutdown() may do for the next thread to end: a thread may take as long as two
// of them to do so once its queue is closed, and four threads that end get in each other's way.  With a
// quarter of it a pool of four takes 1.4 times as long from its making to its end (on 3.15).
#define END_SPINS 4

// ---- the count of threads ----

static void
add_threads(ThreadQueueObject *self, int change)
{
    // R5: pairs with A1 in look() and in thread_worker_await_ends(): the thread that waits for their end
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

// ---- reservations ----

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

int
thread_worker_release(ThreadQueueObject *self, PyObject *reservation)
{
    if (!PyCapsule_IsValid(reservation, RESERVATION)
        || PyCapsule_GetPointer(reservation, RESERVATION) != (void *)self) {
        PyErr_SetString(PyExc_TypeError, "release_worker() takes what reserve_worker() returned");
        return -1;
    }
    give_back(self, reservation);
    return 0;
}

PyObject *
thread_worker_reserve(ThreadQueueObject *self)
{
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
    thread_show_pool(self);
    PyCapsule_SetContext(reservation, (void *)self->fork_generation);
    return reservation;
}

// ---- tasks ----

// Whether a task is to be cancelled that was about to begin.
static bool
is_unwanted(const ThreadQueueObject *self, task *t)
{
    return (self->cancel_at_ns != INT64_MAX && clock_now_ns() >= self->cancel_at_ns)
           || (self->stops_tasks && thread_job_is_stoppable(t));
}

// Runs tasks until the queue is closed and empty; or returns in the child of a fork, where this thread is no
// worker.  True: it has waited for a task for so long, and has left the queue.
static bool
run_tasks(ThreadQueueObject *self, worker *w, int64_t max_idle_ns)
{
    module_state *module = self->head.module;
    runner *r = &w->runner;
    int64_t checked_ns = clock_now_ns();
    bool check_due = false;
    int64_t patient_until_ns = 0;  // while it has nothing to do: when that has been so for too long; else 0

    gil_hold(&module->gil);
    for (;;) {
        list_node *node = workq_pop(&self->queue, &w->parking);
        if (node == NULL) {
            w->view->running = 0;
            int64_t look_ns = loop_bridge_next_look(module);
            if (patient_until_ns == 0) {
                bool is_patient = max_idle_ns == INT64_MAX;
                patient_until_ns = is_patient ? FUTEX_NO_DEADLINE : clock_now_ns() + max_idle_ns;
            }
            PyThreadState *thread = gil_release(&module->gil);
            int rc = workq_wait(&self->queue, &w->parking, clock_earlier(look_ns, patient_until_ns));
            // The thread that pushed the task for which a sleeper woke has had time to release the GIL.
            gil_acquire(&module->gil, thread, w->parking.slept ? 0 : GIL_PATIENCE_NS);
            bool retires = rc == WORKQ_TIMED_OUT && clock_now_ns() >= patient_until_ns
                           && workq_retire(&self->queue, &w->parking);
            bool ends = retires || rc == WORKQ_CLOSED;
            if (rc != WORKQ_OK && loop_bridge_look(module, ends ? INT64_MAX : look_ns) < 0) {
                module_log_escaped(module);
            }
            if (ends) {
                return retires;
            }
            continue;
        }
        patient_until_ns = 0;
        r->current = (task *)node;
        if (check_due) {
            // Here and not right after the last task: other threads may run now, and the one that has that
            // task's outcome must find this worker idle if nothing is queued, or it would start another.
            w->view->running = 0;
            module_checkpoint(module);
            checked_ns = clock_now_ns();
            check_due = false;
            if (r->inherited) {
                task_free(r->current);
                return false;
            }
        }
        if (is_unwanted(self, r->current)) {
            task *late = r->current;
            r->current = NULL;
            w->view->running = 0;
            w->view->counts.cancelled++;
            if (task_fail(late, NULL) < 0) {
                module_log_escaped(module);
            }
            if (r->inherited) {
                return false;
            }
            continue;
        }
        bool checks_itself = MODULE_CALLS_CHECK && PyFunction_Check(r->current->callable);
        w->view->running = 1;
        int64_t began_ns = task_begins_ns(r->current, self->times);
        thread_show_call(w, r->current, began_ns);
        if (task_run(&r->current, &r->place, &w->view->counts, self->times, began_ns) < 0) {
            module_log_escaped(module);
        }
        if (r->inherited) {
            return false;
        }
        check_due = !checks_itself && clock_now_ns() - checked_ns > MODULE_CHECKPOINT_NS;
    }
}

int
thread_worker_run(ThreadQueueObject *self, PyObject *reservation, int64_t max_idle_ns)
{
    worker w = {
        .helper = {.home = self->number,
                   .run_awaited = thread_helping_run_awaited,
                   .count_hopeless = thread_helping_count_hopeless},
        .thread_id = PyThread_get_thread_ident(),
        .native_id = PyThread_get_thread_native_id(),
        .thread = PyThreadState_Get(),
        .base_frame = (PyObject *)PyEval_GetFrame(),
        .parking = WORKQ_WORKER_INIT,
        .queue = self,
    };

    if (!PyCapsule_IsValid(reservation, RESERVATION)
        || PyCapsule_GetPointer(reservation, RESERVATION) != (void *)self) {
        PyErr_SetString(PyExc_TypeError, "work() takes what reserve_worker() returned");
        return -1;
    }
    if (PyCapsule_GetContext(reservation) != (void *)self->fork_generation) {
        return 0;  // used already, or made before a fork
    }
    PyCapsule_SetContext(reservation, NULL);
    if (watch_thread(self) < 0 || (w.context = PyContext_CopyCurrent()) == NULL) {
        workq_leave(&self->queue, &w.parking);
        return -1;
    }
    runner_enter(&w.runner, &w, self->head.module);
    list_link_push(&self->runners, &w.runner.link);
    thread_show_worker(&w);
    thread_show_runner(&w.runner);
    thread_queue_watch_stop_limit(self);
    helping_self = &w.helper;
    call_here = &w.runner.place;
    bool has_left = run_tasks(self, &w, max_idle_ns);
    call_here = NULL;
    helping_self = NULL;
    Py_DECREF(w.context);
    if (!w.runner.inherited) {
        if (!has_left) {
            workq_leave(&self->queue, &w.parking);
        }
        list_link_remove(&w.runner.link);
        thread_queue_watch_stop_limit(self);
    }
    thread_show_worker_ends(&w);
    if (!w.runner.inherited) {
        limit_watch_rest(self->head.module);
    }
    return has_left;
}

// ---- the end ----

void
thread_worker_await_ends(ThreadQueueObject *self)
{
    module_state *module = self->head.module;
    uint32_t threads;
    int vain = 0;
    PyThreadState *thread = gil_release(&module->gil);
    // A1: pairs with R5 in add_threads().
    while (vain < END_SPINS
           && (threads = atomic_load_explicit(&self->threads, memory_order_acquire)) > 0) {
        bool changed = park_spin(&module->end_spot, &self->threads, threads, FUTEX_NO_DEADLINE);
        vain = changed ? 0 : vain + 1;
    }
    // How long a thread has still to run says nothing of the next pool; whether the spins were in vain does.
    park_learn(&module->end_spot, 0);
    gil_acquire(&module->gil, thread, vain < END_SPINS ? GIL_PATIENCE_END_NS : 0);
}
