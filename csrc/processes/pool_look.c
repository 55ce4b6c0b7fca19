#include "pool_look.h"

#include <stdlib.h>
#include <string.h>

#include "base/call.h"
#include "base/stats.h"
#include "codec.h"

#include "core/clock.h"
#include "core/job_ring_look.h"
#include "core/pool_view.h"

// The shared memory of an executor, copied: nobody changes it, and anything may stand in it.
typedef struct pool_copy {
    void *head;
    pool_view *view;
    worker_view *views;  // of all workers
    void *later_head;    // copied after that one
    worker_view *later_views;
    job_ring ring;
    job_ring_sight *sights;  // of all workers
} pool_copy;

static void
pool_copy_free(pool_copy *copy)
{
    free(copy->head);
    free(copy->later_head);
    free(copy->sights);
}

// A status of shm_region.
static int
pool_copy_read(pool_copy *copy, int fd)
{
    uint64_t bytes;
    int rc = shm_region_copy_head(fd, &copy->head, &bytes);
    if (rc != SHM_OK) {
        return rc;
    }
    uint64_t later_bytes;
    rc = shm_region_copy_head(fd, &copy->later_head, &later_bytes);
    if (rc != SHM_OK) {
        return rc;
    }
    copy->view = pool_view_in(copy->head, bytes);
    if (copy->view == NULL) {
        return SHM_NOT_OURS;
    }
    rc = job_ring_attach(&copy->ring, copy->head, bytes, -1);
    if (rc != SHM_OK) {
        return rc;
    }
    copy->views = pool_view_workers(copy->head, bytes, copy->ring.worker_count);
    copy->later_views = pool_view_workers(copy->later_head, later_bytes, copy->ring.worker_count);
    if (copy->views == NULL || copy->later_views == NULL) {
        return SHM_NOT_OURS;
    }
    copy->sights = calloc((size_t)copy->ring.worker_count + 1, sizeof(job_ring_sight));
    if (copy->sights == NULL) {
        return SHM_NO_MEMORY;
    }
    job_ring_survey(&copy->ring, copy->sights);
    return SHM_OK;
}

// Relaxed: it is a copy.
static uint64_t
number_in(const _Atomic uint64_t *shown)
{
    return atomic_load_explicit(shown, memory_order_relaxed);
}

// A tally, or a histogram.
static void
read_row(const _Atomic uint64_t *shown, size_t count, void *row)
{
    for (size_t i = 0; i < count; i++) {
        uint64_t number = number_in(&shown[i]);
        memcpy((unsigned char *)row + i * sizeof(number), &number, sizeof(number));
    }
}

// As the executor's stats(), without the name and the most workers.
static PyObject *
build_stats(const pool_copy *copy)
{
    stats_now now = {.submitted = number_in(&copy->view->submitted),
                     .recycled = number_in(&copy->view->recycled),
                     .stolen = number_in(&copy->view->stolen)};
    for (uint32_t i = 0; i < copy->ring.worker_count; i++) {
        const job_ring_sight *sight = &copy->sights[i];
        now.workers += sight->is_there;
        now.idle += sight->is_there && sight->running == 0;
        now.running += sight->is_there ? sight->running : 0;
    }
    uint64_t calls = number_in(&copy->view->calls);
    now.running = now.running < calls ? now.running : calls;
    now.queued = calls - now.running;
    tally counts;
    histogram waits;
    read_row(copy->view->counts, POOL_VIEW_COUNTS, &counts);
    read_row(copy->view->waits, POOL_VIEW_WAITS, &waits);
    return stats_build(&now, &counts, &counts.runs, copy->view->has_waits ? &waits : NULL);
}

// The start of a call's stream, with what it is: (flags, bytes of the callable, the stream); None if that is
// elsewhere, or no call.
static PyObject *
build_call(const job_slot *slot)
{
    wire head;
    if (slot == NULL) {
        Py_RETURN_NONE;
    }
    memcpy(&head, slot->message, sizeof(head));
    bool is_call = head.kind == WIRE_CALL || head.kind == WIRE_WHOLE_CALL || head.kind == WIRE_CHUNK;
    if (!is_call || head.block != 0 || head.stream_bytes > WIRE_INLINE_BYTES
        || head.callable_bytes > head.stream_bytes) {
        Py_RETURN_NONE;
    }
    const char *stream = (const char *)slot->message + sizeof(head);
    return Py_BuildValue("IIN", (unsigned)head.flags, (unsigned)head.callable_bytes,
                         PyBytes_FromStringAndSize(stream, (Py_ssize_t)head.stream_bytes));
}

// What a worker that makes one call at a time has shown of its name, as bytes; None: it has not.
static PyObject *
build_name(const pool_copy *copy, uint32_t number, worker_phase phase)
{
    char name[CALL_NAME_BYTES + 1];
    if (copy->view->runs_coroutines != 0 || phase == WORKER_UNPICKLES
        || !call_name_read(&copy->views[number].name, &copy->later_views[number].name, name)) {
        Py_RETURN_NONE;
    }
    return PyBytes_FromString(name);
}

// (number, tasks ended, tasks running, began or None, seconds or None, phase, name or None, call or None)
static PyObject *
build_worker(const pool_copy *copy, uint32_t number, int64_t now_ns)
{
    const job_ring_sight *sight = &copy->sights[number];
    int64_t began_ns = sight->slot == NULL ? 0 : job_slot_began(sight->slot);
    bool has_begun = began_ns > 0 && began_ns <= now_ns;
    worker_phase phase =
        worker_view_phase(&copy->views[number], sight->running, copy->view->runs_coroutines != 0);
    PyObject *began = call_build_seconds(has_begun ? began_ns : CALL_NOT_BEGUN, CALL_NOT_BEGUN);
    PyObject *seconds = call_build_seconds(has_begun ? now_ns - began_ns : CALL_NOT_BEGUN, CALL_NOT_BEGUN);
    PyObject *name = build_name(copy, number, phase);
    PyObject *call = build_call(sight->slot);
    if (began == NULL || seconds == NULL || name == NULL || call == NULL) {
        Py_XDECREF(began);
        Py_XDECREF(seconds);
        Py_XDECREF(name);
        Py_XDECREF(call);
        return NULL;
    }
    return Py_BuildValue("IIINNINN", (unsigned)number, (unsigned)sight->ended, (unsigned)sight->running,
                         began, seconds, (unsigned)phase, name, call);
}

static PyObject *
build_workers(const pool_copy *copy)
{
    PyObject *workers = PyList_New(0);
    int64_t now_ns = clock_now_ns();
    for (uint32_t i = 0; workers != NULL && i < copy->ring.worker_count; i++) {
        if (!copy->sights[i].is_there) {
            continue;
        }
        PyObject *worker = build_worker(copy, i, now_ns);
        if (worker == NULL || PyList_Append(workers, worker) < 0) {
            Py_CLEAR(workers);
        }
        Py_XDECREF(worker);
    }
    return workers;
}

static PyObject *
build_pool(const pool_copy *copy)
{
    const pool_view *view = copy->view;
    PyObject *stats = build_stats(copy);
    PyObject *workers = stats == NULL ? NULL : build_workers(copy);
    if (workers == NULL) {
        Py_XDECREF(stats);
        return NULL;
    }
    Py_ssize_t name_bytes = (Py_ssize_t)strnlen(view->name, POOL_VIEW_NAME_BYTES);
    return Py_BuildValue("ONINN", view->runs_coroutines != 0 ? Py_True : Py_False,
                         PyBytes_FromStringAndSize(view->name, name_bytes), (unsigned)view->max_workers,
                         stats, workers);
}

PyDoc_STRVAR(look_at_pool_doc,
"look_at_pool(fd, /)\n--\n\n"
"Return what the shared memory of an executor, of whatever program, tells of it, from its file.\n\n"
"(runs coroutines, name, most workers, what stats() of a ProcessQueue returns, workers), of each worker\n"
"(number, tasks ended, tasks running, began or None, seconds or None, phase, name or None, call or None):\n"
"of the call that it has begun first when that was and for how long it runs, what the worker does with it,\n"
"as workers() of the queue tells, and what the worker says that it is named; and what its message says,\n"
"(flags, bytes of the callable, stream). Anything may stand there. Raises ValueError if the file is no such\n"
"memory of this version, or damaged.");

static PyObject *
look_at_pool(PyObject *Py_UNUSED(module), PyObject *arg)
{
    int fd = PyObject_AsFileDescriptor(arg);
    if (fd < 0) {
        return NULL;
    }
    pool_copy copy = {0};
    PyObject *built = NULL;
    int rc = pool_copy_read(&copy, fd);
    if (rc == SHM_OK) {
        built = build_pool(&copy);
    }
    else {
        region_raise(rc);
    }
    pool_copy_free(&copy);
    return built;
}

PyMethodDef pool_look_methods[] = {
    {"look_at_pool", look_at_pool, METH_O, look_at_pool_doc},
    {NULL, NULL, 0, NULL},
};
