// thread_worker: the life of a worker thread of a ThreadQueue.
//
//     reserve --> a reservation --> thread_worker_run(): registers, runs tasks until the queue is closed and
//        |              |           empty, leaves --> the thread's state is cleared: it counts no longer
//        |              |           (or until it has had nothing to do for too long)
//        |              '--> released, or dropped: nothing has begun
//        '--> None: no worker is wanted
//
// A *reservation* is a capsule that owns a reference to the queue; its context is the queue's
// fork_generation until it is used.  Whatever becomes of the thread that it was made for, the reservation is
// given back with its last reference, unless it was used.  After a fork the child's queue has another
// generation, and reservations from before are void there.
//
// `threads` of the queue counts a thread from its reservation until its state is cleared, which is the last
// thing that it does with the GIL: a capsule in the state's dictionary then ends.
//
// A worker has the GIL except while it waits for a task.  It takes part in the queue as workq.h draws it.  If
// a task has forked, the worker's thread is the main thread of the child, and no worker there: it finds that
// its runner is *inherited*, touches the queue no longer, and returns.
//
// Every function here is called with the GIL.
#ifndef PYCONC_THREAD_WORKER_H
#define PYCONC_THREAD_WORKER_H

#include "thread_queue.h"

// A new reference: a reservation; or None, if tasks do not outnumber idle workers; NULL with an exception.
PyObject *thread_worker_reserve(ThreadQueueObject *self);

// Gives a reservation back, unless it was used.  0; or -1 with an exception, if it is none of this queue's.
int thread_worker_release(ThreadQueueObject *self, PyObject *reservation);

// This thread is a worker until the queue is closed and empty: 0; or until it has waited for a task for so
// long: 1.  INT64_MAX: it waits for ever.  Uses the reservation up; does nothing if that was used.  -1 with
// an exception.
int thread_worker_run(ThreadQueueObject *self, PyObject *reservation, int64_t max_idle_ns);

// Spins for a moment, without the GIL, while the threads of a closed queue end, unless that was in vain for
// other queues before: where all CPUs are busy, a thread may end only once this one sleeps.
void thread_worker_await_ends(ThreadQueueObject *self);

#endif
