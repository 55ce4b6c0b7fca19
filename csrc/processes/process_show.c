#include "process_show.h"

#include "base/call.h"
#include "base/stats.h"
#include "core/clock.h"
#include "job_table_look.h"

PyObject *
process_queue_qsize(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromUnsignedLong(job_table_queued(&((ProcessQueueObject *)op)->table));
}

PyObject *
process_queue_empty(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(job_table_queued(&((ProcessQueueObject *)op)->table) == 0);
}

PyObject *
process_queue_outstanding(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromUnsignedLong(job_table_outstanding(&((ProcessQueueObject *)op)->table));
}

PyObject *
process_queue_stats(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    ProcessQueueObject *self = (ProcessQueueObject *)op;
    // In the child of a fork what is shared is the parent's.
    table_load load = self->head.inherited ? (table_load){0} : job_table_look(&self->table);
    stats_now now = {.workers = load.workers,
                     .idle = load.idle,
                     .running = load.running,
                     .queued = load.queued,
                     .submitted = self->submitted,
                     .recycled = self->recycled,
                     .stolen = self->stolen};
    return stats_build(&now, &self->counts, &self->counts.runs,
                       self->times == NULL ? NULL : &self->times->waits);
}

// (worker, callable or None, name or None, began or None, seconds or None, tasks ended, tasks running, phase)
static PyObject *
describe_load(uint32_t worker, const worker_load *load, worker_phase phase, int64_t now_ns)
{
    // A worker may have written anything.
    bool is_known = load->running > 0 && load->began_ns > 0 && load->began_ns <= now_ns;
    int64_t ran_ns = is_known ? now_ns - load->began_ns : CALL_NOT_BEGUN;
    PyObject *seconds = call_build_seconds(ran_ns, CALL_NOT_BEGUN);
    PyObject *began = call_build_seconds(is_known ? load->began_ns : CALL_NOT_BEGUN, CALL_NOT_BEGUN);
    if (seconds == NULL || began == NULL) {
        Py_XDECREF(seconds);
        Py_XDECREF(began);
        return NULL;
    }
    return Py_BuildValue("IOONNIII", (unsigned)worker, load->callable == NULL ? Py_None : load->callable,
                         load->name == NULL ? Py_None : load->name, began, seconds, (unsigned)load->ended,
                         (unsigned)load->running, (unsigned)phase);
}

PyObject *
process_queue_workers(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    ProcessQueueObject *self = (ProcessQueueObject *)op;
    uint32_t count = self->head.inherited ? 0 : self->table.ring.worker_count;
    worker_load *loads = PyMem_Calloc(count + 1, sizeof(worker_load));
    if (loads == NULL) {
        return PyErr_NoMemory();
    }
    if (count > 0) {
        job_table_look_at_workers(&self->table, loads);
    }
    // Other threads may run from here on, and end tasks.
    for (uint32_t i = 0; i < count; i++) {
        Py_XINCREF(loads[i].callable);
        Py_XINCREF(loads[i].name);
    }
    int64_t now_ns = clock_now_ns();
    const worker_view *views =
        count == 0 ? NULL : pool_view_workers(self->region->head, self->region->head_bytes, count);
    PyObject *workers = PyList_New(0);
    for (uint32_t i = 0; i < count; i++) {
        worker_phase phase =
            worker_view_phase(&views[i], loads[i].running, self->view->runs_coroutines != 0);
        PyObject *described = workers == NULL ? NULL : describe_load(i, &loads[i], phase, now_ns);
        if (described == NULL || PyList_Append(workers, described) < 0) {
            Py_CLEAR(workers);
        }
        Py_XDECREF(described);
        Py_XDECREF(loads[i].callable);
        Py_XDECREF(loads[i].name);
    }
    PyMem_Free(loads);
    return workers;
}
