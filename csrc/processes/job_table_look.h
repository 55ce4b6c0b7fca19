// job_table_look: how many tasks and workers a table has, and what the workers do.
#ifndef PYCONC_JOB_TABLE_LOOK_H
#define PYCONC_JOB_TABLE_LOOK_H

#include "job_table.h"

uint32_t job_table_workers(job_table *table);
uint32_t job_table_outstanding(job_table *table);

// Tasks that wait for a worker.
uint32_t job_table_queued(job_table *table);

// How many calls run and wait, and how many workers there are and have nothing to do; a stray write makes
// only these wrong.  Does not take long.
typedef struct table_load {
    uint64_t running, queued;
    uint32_t workers, idle;
} table_load;
table_load job_table_look(job_table *table);

// What a worker does; the callable and the name are borrowed from tasks, which the GIL keeps as they are.
typedef struct worker_load {
    PyObject *callable, *name;  // of the call that has begun first, or NULL
    int64_t began_ns;           // 0: not known
    uint32_t running, ended;    // tasks
} worker_load;

// The same for every number of a worker.
void job_table_look_at_workers(job_table *table, worker_load *loads);

// Workers that have nothing to do, or may be started, when each task has one.
uint32_t job_table_idle_workers(job_table *table);

#endif
