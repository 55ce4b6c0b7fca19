// thread_show: what is seen of a pool of threads: its counts, and the calls that its workers run.
//
//     stats(), workers()                                    by this program, with the GIL
//     thread_view, the table in memory, and thread_look     by others, which ask nobody
//
// A pool counts in one place, its *view*, and each of its workers in one of its own.  They begin as memory of
// the queue and of the worker.  With its first worker a pool asks the table for a cell, and copies into it
// what it has counted; each worker asks for one as it begins.  If the table has none for a pool, or for one
// of its workers, without which the numbers of the pool would be wrong, the pool is *hidden*: it counts in
// memory of its own from then on, and others are told that there is one more such pool.  A worker adds what
// it has counted to its pool's counts when it ends.  The table is the parent's in the child of a fork, where
// the pool counts anew in memory of its own, and asks again with its next worker.
//
// Before each call, its worker writes down in its view since when it runs, and what it is named unless that
// stands there already.  What a call tells of how far it is has a cell of its own, which its worker asks for
// when one does so for the first time, and keeps.
//
// Every function here is called with the GIL, which guards all fields.
#ifndef PYCONC_THREAD_SHOW_H
#define PYCONC_THREAD_SHOW_H

#include "base/callable_name.h"
#include "thread_queue.h"

// The queue has been made, or another is about to be freed.  `times`: owned; NULL: nobody wants to know.
void thread_show_init(ThreadQueueObject *self, call_times *times);
void thread_show_fini(ThreadQueueObject *self);

// Has others see it, unless that was tried: it is about to have a worker.
void thread_show_pool(ThreadQueueObject *self);

// A worker begins, which others see if they see its pool; and ends, and its counts are its pool's from now
// on.
void thread_show_worker(worker *w);
void thread_show_worker_ends(worker *w);

// The calls of a runner are about to begin: others see what they tell.
void thread_show_runner(runner *r);

// What the innermost call of a worker has told, in the place of what another one has.
void thread_show_told_by(worker *w);

static inline void
thread_show_told(worker *w)
{
    if (w->told != NULL) {
        thread_show_told_by(w);
    }
}

// In the child of a fork.
void thread_show_after_fork(ThreadQueueObject *self);

// Has new workers start until there are so many.
void thread_show_max_workers(ThreadQueueObject *self, uint32_t max_workers);

// A call is about to begin, or goes on, that has begun then, as task_begins_ns().
static inline void
thread_show_call(worker *w, task *t, int64_t began_ns)
{
    int64_t ignored_ns;
    PyObject *callable = task_called(t);
    PyObject *name = t->route == NULL ? NULL : thread_job_look(t, &ignored_ns);
    w->view->began_ns = began_ns;
    callable_show(w->queue->head.module, &w->view->name, &w->named, callable, name);
}

// What stats() and workers() of the type return; NULL with an exception.
PyObject *thread_show_stats(ThreadQueueObject *self);
PyObject *thread_show_workers(ThreadQueueObject *self);

#endif
