// thread_queue: what a ThreadQueue is: the tasks that wait for the worker threads of an executor.
//
//     submit --push--> queue --pop--> worker --outcome--> destination
//                        '--cancelled, failed, expired--------^
//
// It is core/workq with Python's rules on top.  The list inside changes only in threads that hold the GIL as
// well as the queue's lock, so fork, which needs the GIL, never catches it half changed.  Workers own a
// reference to the queue and none to the executor: an executor that is dropped closes its queue, and the
// workers finish what is queued and end.
//
// An executor that is to end in a hurry gives the queue an instant, `cancel_at_ns`: from then on workers
// cancel what they take, and calls that run are stopped if their options allow it.
//
// This unit has the struct, and what the units above it do to it in common: thread_show (what is seen of it),
// thread_helping and thread_worker (the threads that run its tasks), thread_queue_type (what Python can ask
// of it).
#ifndef PYCONC_THREAD_QUEUE_H
#define PYCONC_THREAD_QUEUE_H

#include "thread_job.h"

typedef struct ThreadQueueObject {
    queue_head head;
    PyObject *weakrefs;
    workq queue;         // has its own lock
    list_link *runners;  // GIL
    thread_jobs jobs;
    uint32_t number;            // of this queue, from 1, see helping.h; constant
    uintptr_t fork_generation;  // counts forks, from 1; reservations from before the last are void; GIL
    _Atomic uint32_t threads;   // reserved or not yet ended; written with the GIL
    int64_t cancel_at_ns;       // from when on what is queued is cancelled, not run; INT64_MAX: never; GIL
    limit stop_limit;           // the same time, for what runs then; GIL
    // What others see of it, its counts of tasks too: a cell, or `hidden`.  GIL
    thread_view_pool *view;
    thread_view_pool hidden;
    bool has_looked;             // for a cell; GIL
    bool is_hidden;              // the table counts it among those that cannot be seen; GIL
    call_times *times;           // NULL: nobody wants to know; else what it points to is the GIL's
    thread_view_times *in_view;  // the cell that `times` is in; NULL: it is memory of this queue
    bool stops_tasks;            // those that may be stopped do not begin any more; GIL
    PyObject *close_error;       // exception type and message for a refused push; GIL
    PyObject *close_message;
} ThreadQueueObject;

extern const queue_kind thread_queue_kind;

// As queue_kind's functions of these names.
int thread_queue_push(queue_head *op, task *t);
void thread_queue_close(queue_head *op, PyObject *error, PyObject *message);
int thread_queue_fail_queued(queue_head *op, PyObject *error, PyObject *message);

// Stops what runs and may be stopped; what may be stopped does not begin any more.  How many run.
long thread_queue_stop_running(ThreadQueueObject *self);

// As a limit's reach(): the instant has come.
void thread_queue_reach_stop_limit(limit *self);

// Has what runs stopped at the instant, as long as a thread is there that could run something: to be called
// when that has changed, or the instant.
void thread_queue_watch_stop_limit(ThreadQueueObject *self);

#endif
