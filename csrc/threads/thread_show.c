#include "thread_show.h"

#include "base/stats.h"
#include "core/clock.h"

// ---- the pool ----

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

void
thread_show_pool(ThreadQueueObject *self)
{
    if (self->has_looked) {
        return;
    }
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

void
thread_show_max_workers(ThreadQueueObject *self, uint32_t max_workers)
{
    // Relaxed: nobody orders what is seen.
    atomic_store_explicit(&self->view->max_workers, max_workers, memory_order_relaxed);
}

void
thread_show_init(ThreadQueueObject *self, call_times *times)
{
    self->times = times;
    self->view = &self->hidden;
    self->jobs.counts = &self->hidden.counts;
}

void
thread_show_fini(ThreadQueueObject *self)
{
    thread_view_give_back(self->view);
    if (self->is_hidden) {
        thread_view_unhide();
    }
    free_times(self);
}

void
thread_show_after_fork(ThreadQueueObject *self)
{
    if (self->times != NULL) {
        call_times_init(self->times);
    }
    use_view(self, &self->hidden);
    self->hidden = (thread_view_pool){0};
    self->has_looked = self->is_hidden = false;
}

// ---- its workers ----

void
thread_show_worker(worker *w)
{
    ThreadQueueObject *self = w->queue;
    w->view = &w->hidden;
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

static thread_view_number
number_of(PyObject *number)
{
    thread_view_number shown = {.kind = THREAD_VIEW_NO_NUMBER};
    if (PyFloat_Check(number)) {
        double value = PyFloat_AS_DOUBLE(number);
        memcpy(&shown.bits, &value, sizeof(value));
        shown.kind = THREAD_VIEW_FLOAT;
    }
    else if (PyLong_Check(number)) {
        int overflows;
        long long value = PyLong_AsLongLongAndOverflow(number, &overflows);
        shown = (thread_view_number){.kind = overflows ? THREAD_VIEW_NO_NUMBER : THREAD_VIEW_INTEGER,
                                     .bits = (uint64_t)value};
    }
    return shown;
}

// `progress`: a TaskProgress; or NULL.
static thread_view_told
build_told(const worker *w, PyObject *progress)
{
    thread_view_told told = {.note_bytes = THREAD_VIEW_NO_NOTE};
    if (progress != NULL && PyTuple_Check(progress) && PyTuple_GET_SIZE(progress) == 3) {
        told.running = w->view->running;
        told.done = number_of(PyTuple_GET_ITEM(progress, 0));
        told.total = number_of(PyTuple_GET_ITEM(progress, 1));
        PyObject *note = PyTuple_GET_ITEM(progress, 2);
        PyObject *text =
            PyUnicode_Check(note) ? PyUnicode_AsEncodedString(note, "utf-8", "replace") : NULL;
        PyErr_Clear();
        if (text != NULL) {
            size_t bytes = (size_t)PyBytes_GET_SIZE(text);
            told.note_bytes = bytes < sizeof(told.note) ? bytes : sizeof(told.note);
            memcpy(told.note, PyBytes_AS_STRING(text), told.note_bytes);
            Py_DECREF(text);
        }
    }
    return told;
}

void
thread_show_told_by(worker *w)
{
    const runner *r = worker_innermost(w);
    PyObject *progress = r->place.call == NULL ? NULL : r->place.call->progress;
    if (w->told == NULL) {
        bool is_seen = progress != NULL && w->view != &w->hidden && !r->inherited;
        w->told = is_seen ? thread_view_take() : NULL;
        if (w->told == NULL) {
            return;
        }
        w->view->progress = thread_view_place(w->told);
        thread_view_show(w->told, THREAD_VIEW_PROGRESS);
    }
    thread_view_told told = build_told(w, progress);
    thread_view_tell(w->told, &told);
}

static void
show_told(call_place *place)
{
    thread_show_told_by(THING_OF(place, runner, place)->worker);
}

void
thread_show_runner(runner *r)
{
    r->place.told = show_told;
}

void
thread_show_worker_ends(worker *w)
{
    Py_XDECREF(w->named);
    if (!w->runner.inherited) {
        thread_view_give_back(w->told);
        tally_add(w->queue->jobs.counts, &w->view->counts);
        thread_view_give_back(w->view);
    }
}

// ---- statistics ----

static bool
is_first_of_worker(const runner *r)
{
    return r == &r->worker->runner;
}

PyObject *
thread_show_stats(ThreadQueueObject *self)
{
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
        seen.callable = Py_NewRef(task_called(t));
        seen.name = Py_XNewRef(thread_job_look(t, &seen.began_ns));
        if (seen.began_ns == CALL_NOT_BEGUN && w->view->running > 0) {
            seen.began_ns = w->view->began_ns;
        }
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
        int64_t ran_ns = CALL_NOT_BEGUN;
        if (seen->began_ns != CALL_NOT_BEGUN) {
            int64_t now_ns = clock_now_ns();  // by another clock it may have begun a moment later
            ran_ns = now_ns > seen->began_ns ? now_ns - seen->began_ns : 0;
        }
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

PyObject *
thread_show_workers(ThreadQueueObject *self)
{
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
