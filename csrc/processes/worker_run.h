// worker_run: a worker that makes one call after the other.
//
// A worker that has become too large asks its parent for a successor, and goes on until that one has begun;
// see job_ring.h.
#ifndef PYCONC_WORKER_RUN_H
#define PYCONC_WORKER_RUN_H

#include "worker.h"

PyDoc_STRVAR(worker_run_doc,
"run($self, max_tasks, max_rss=0, memory_limit=0, max_idle=0, /)\n--\n\n"
"Run tasks until the parent closes the queue, or until max_tasks are done if that is not 0.\n\n"
"max_rss: how many bytes this process may have in memory between tasks, if that is not 0. With more it asks\n"
"the parent for another worker, and leaves when that one has begun. memory_limit: how many bytes more a\n"
"call may have than there are as it begins, if that is not 0. max_idle: for how many seconds it waits for a\n"
"task; then it leaves.");
PyObject *worker_run(PyObject *op, PyObject *args);

// As a call_place's show().
bool worker_run_show(call_place *place, PyObject *callable);

#endif
