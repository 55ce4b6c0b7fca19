// thread_queue: the Python type pyconc._core.ThreadQueue: tasks that wait, and the workers that run them.
//
// It is core/workq with Python's rules on top.  The list inside changes only in threads that hold the GIL as
// well as the queue's lock, so fork, which needs the GIL, never catches it half changed.  Workers own a
// reference to the queue and none to the executor: an executor that is dropped closes its queue, and the
// workers finish what is queued and end.
#ifndef PYCONC_THREAD_QUEUE_H
#define PYCONC_THREAD_QUEUE_H

#include "base/queue.h"

#include "futures/helping.h"

// What a thread runs one task at a time in, linked while it does.  Guarded by the GIL.
typedef struct runner {
    list_link link;  // first: a link is its runner
    task *current;   // the task that it owns; NULL from the moment when another party does
    bool inherited;  // this is the child of a fork, where its queue has forgotten it
    struct worker *worker;
} runner;

// A worker thread, on its stack.  Guarded by the GIL, except for `parking`.
typedef struct worker {
    helper helper;                    // first: a helper is its worker
    runner runner;                    // of the tasks that it pops; each that runs above another has its own
    workq_worker parking;             // owner thread
    struct ThreadQueueObject *queue;  // borrowed
    PyObject *context;                // a copy of the one that the thread began with, for tasks above others
    unsigned depth;                   // how many tasks of this thread wait for the one above them
} worker;

typedef struct ThreadQueueObject {
    queue_head head;
    PyObject *weakrefs;
    workq queue;                // has its own lock
    list_link *runners;         // GIL
    uint32_t number;            // of this queue, from 1, see helping.h; constant
    uintptr_t fork_generation;  // counts forks, from 1; reservations from before the last are void; GIL
    _Atomic uint32_t threads;   // reserved or not yet ended; written with the GIL
    PyObject *close_error;      // exception type and message for a refused push; GIL
    PyObject *close_message;
} ThreadQueueObject;

extern PyType_Spec thread_queue_spec;

#endif
