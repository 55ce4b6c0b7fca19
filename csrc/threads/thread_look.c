#include "thread_look.h"

#include "base/stats.h"

#include "core/clock.h"
#include "core/thread_view.h"

// Relaxed: it is a copy, in which anything may stand.
static uint32_t
number_in(const _Atomic uint32_t *shown)
{
    return atomic_load_explicit(shown, memory_order_relaxed);
}

static bool
is_of(const thread_view_worker *worker, const thread_view_pool *pool)
{
    return worker != NULL && worker->pool == pool->pool;
}

// As the queue's stats().
static PyObject *
build_stats(const thread_view_table *table, const thread_view_pool *pool)
{
    tally sum = pool->counts;
    const histogram *waits = NULL;
    stats_now now = {.submitted = pool->submitted};
    for (uint32_t place = 1; place < table->top; place++) {
        const thread_view_times *timed = thread_view_cell(table, place, THREAD_VIEW_TIMES);
        if (timed != NULL && timed->pool == pool->pool) {
            waits = &timed->times.waits;
        }
        const thread_view_worker *worker = thread_view_cell(table, place, THREAD_VIEW_WORKER);
        if (is_of(worker, pool)) {
            tally_add(&sum, &worker->counts);
            now.workers++;
            now.idle += worker->running == 0;
            now.running += worker->running;
            now.abandoned += worker->is_abandoned != 0;
        }
    }
    // Of those that count as running some have ended a moment ago.
    uint64_t ended = tally_ended(&sum);
    uint64_t left = now.submitted > ended ? now.submitted - ended : 0;
    now.running = now.running < left ? now.running : left;
    now.queued = left - now.running;
    return stats_build(&now, &sum, pool->is_timed ? &sum.runs : NULL, waits);
}

static PyObject *
build_number(const thread_view_number *number)
{
    if (number->kind == THREAD_VIEW_INTEGER) {
        return PyLong_FromLongLong((long long)number->bits);
    }
    double value;
    memcpy(&value, &number->bits, sizeof(value));
    return number->kind == THREAD_VIEW_FLOAT ? PyFloat_FromDouble(value) : Py_NewRef(Py_None);
}

// What a worker's call has told of how far it is, (done, total, note as bytes); or None.
static PyObject *
build_told(const thread_view_table *table, uint32_t place)
{
    thread_view_told told;
    if (!thread_view_read_told(table, place, &told) || told.done.kind == THREAD_VIEW_NO_NUMBER) {
        Py_RETURN_NONE;
    }
    PyObject *note = told.note_bytes == THREAD_VIEW_NO_NOTE
                         ? Py_NewRef(Py_None)
                         : PyBytes_FromStringAndSize(told.note, (Py_ssize_t)told.note_bytes);
    return Py_BuildValue("NNN", build_number(&told.done), build_number(&told.total), note);
}

// (thread, calls ended, calls running, seconds or None, name or None, told or None)
static PyObject *
build_worker(const thread_view_table *table, uint32_t place, int64_t now_ns)
{
    const thread_view_worker *worker = thread_view_cell(table, place, THREAD_VIEW_WORKER);
    char name[CALL_NAME_BYTES + 1];
    bool runs = worker->running > 0;
    bool has_name = runs && thread_view_read_call(table, place, name);
    bool has_time = runs && worker->began_ns > 0 && worker->began_ns <= now_ns;
    PyObject *seconds =
        has_time ? PyFloat_FromDouble((double)(now_ns - worker->began_ns) * 1e-9) : Py_NewRef(Py_None);
    PyObject *text = has_name ? PyBytes_FromString(name) : Py_NewRef(Py_None);
    // What is NULL raises.
    return Py_BuildValue("IKINNN", (unsigned)worker->thread,
                         (unsigned long long)tally_ended(&worker->counts), (unsigned)worker->running, seconds,
                         text, build_told(table, place));
}

static PyObject *
build_workers(const thread_view_table *table, const thread_view_pool *pool, int64_t now_ns)
{
    PyObject *workers = PyList_New(0);
    for (uint32_t place = 1; workers != NULL && place < table->top; place++) {
        if (is_of(thread_view_cell(table, place, THREAD_VIEW_WORKER), pool)) {
            PyObject *worker = build_worker(table, place, now_ns);
            if (worker == NULL || PyList_Append(workers, worker) < 0) {
                Py_CLEAR(workers);
            }
            Py_XDECREF(worker);
        }
    }
    return workers;
}

// (number, name, most workers, stats, workers)
static PyObject *
build_pool(const thread_view_table *table, const thread_view_pool *pool, int64_t now_ns)
{
    PyObject *stats = build_stats(table, pool);
    PyObject *workers = stats == NULL ? NULL : build_workers(table, pool, now_ns);
    if (workers == NULL) {
        Py_XDECREF(stats);
        return NULL;
    }
    Py_ssize_t name_bytes = (Py_ssize_t)strnlen(pool->name, sizeof(pool->name));
    return Py_BuildValue("ININN", (unsigned)pool->pool, PyBytes_FromStringAndSize(pool->name, name_bytes),
                         (unsigned)number_in(&pool->max_workers), stats, workers);
}

static PyObject *
build_pools(const thread_view_table *table)
{
    int64_t now_ns = clock_now_ns();
    PyObject *pools = PyList_New(0);
    for (uint32_t place = 1; pools != NULL && place < table->top; place++) {
        const thread_view_pool *pool = thread_view_cell(table, place, THREAD_VIEW_POOL);
        PyObject *built = pool == NULL ? NULL : build_pool(table, pool, now_ns);
        if (pool != NULL && (built == NULL || PyList_Append(pools, built) < 0)) {
            Py_CLEAR(pools);
        }
        Py_XDECREF(built);
    }
    return pools;
}

PyDoc_STRVAR(look_at_threads_doc,
"look_at_threads(fd, /)\n--\n\n"
"Return what the table of a program's pools of threads tells of them, from its file.\n\n"
"(process, pools that are hidden, pools), of each pool (number, name, most workers, what stats() of a\n"
"ThreadQueue returns, workers), of each worker (thread, tasks ended, tasks running, seconds or None, name\n"
"or None, (done, total or None, note or None) or None): of the call that it runs, and how far that says\n"
"that it is. Anything may stand there. Raises ValueError if the file is no such table of this version.");

static PyObject *
look_at_threads(PyObject *Py_UNUSED(module), PyObject *arg)
{
    int fd = PyObject_AsFileDescriptor(arg);
    if (fd < 0) {
        return NULL;
    }
    thread_view_table table;
    if (!thread_view_copy(fd, &table)) {
        PyErr_SetString(PyExc_ValueError, "the file is no table of threads of this version of pyconc");
        return NULL;
    }
    const thread_view_head *head = thread_view_head_of(&table);
    PyObject *pools = build_pools(&table);
    PyObject *built = NULL;
    if (pools != NULL) {
        built = Py_BuildValue("IIN", (unsigned)head->process, (unsigned)number_in(&head->hidden), pools);
    }
    thread_view_free(&table);
    return built;
}

PyMethodDef thread_look_methods[] = {
    {"look_at_threads", look_at_threads, METH_O, look_at_threads_doc},
    {NULL, NULL, 0, NULL},
};
