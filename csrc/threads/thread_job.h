// thread_job: a call that a thread of this process runs and that can be stopped; and the Call of any other.
//
// A task of a ThreadQueue has a thread_job if its options want more of it than its outcome.  Any other costs
// nothing for what is here, except that its worker looks at two pointers.
//
// To *interrupt* a call, another thread has the interpreter raise TaskCancelled in the call's thread
// (PyThreadState_SetAsyncExc) as soon as that runs Python code.  It does so only while the call runs, as the
// innermost one of its thread, and is not shielded; and the thread takes back what has not been raised when
// the call has returned, before any other code runs there.  Both have the GIL, so nothing is ever raised in
// another call, in a callback of a future, or in a worker's own code.  A call that waits for the one above it
// is interrupted when that is over, and a shielded one at the end of the shield, each by its own thread.
//
// A signal ends the system call in which the thread may wait, where the interpreter looks for such exceptions
// after that: from Python 3.15 on.  Its handler does nothing; a program that handles that signal itself gets
// none.
//
// A call has a *limit* that the limit_watch looks after: first its deadline and its timeout, then its
// grace.  A call that waits in the queue until its deadline is taken out and fails; one that runs is
// stopped; and one that has not ended within its grace is *abandoned*: its future is told, its thread goes
// on, and what it returns is dropped.
//
// The GIL guards all of it.
#ifndef PYCONC_THREAD_JOB_H
#define PYCONC_THREAD_JOB_H

#include "base/call.h"
#include "base/queue.h"

#include "core/thread_view.h"
#include "futures/helping.h"

#include "limit_watch.h"

struct ThreadQueueObject;

// What the jobs of one ThreadQueue share.  Guarded by the GIL, except for the queue.
typedef struct thread_jobs {
    module_state *module;  // borrowed
    workq *queue;          // the ThreadQueue's; has its own lock
    bool has_warned;       // that a thread was abandoned
    tally *counts;         // of the calls that no worker has ended, or that one has which is gone
} thread_jobs;

// What a thread runs one task at a time in, linked while it does.  Guarded by the GIL.
typedef struct runner {
    list_link link;       // first: a link is its runner
    list_link of_worker;  // among those of its worker, the innermost first
    task *current;        // the task that it owns; NULL from the moment when another party does
    bool inherited;       // this is the child of a fork, where its queue has forgotten it
    bool is_abandoned;    // the current call goes on after its future was told
    struct worker *worker;
    call_place place;  // of the current call
} runner;

// A worker thread, on its stack.  Guarded by the GIL, except for `parking`.
typedef struct worker {
    helper helper;                    // first: a helper is its worker
    runner runner;                    // of the tasks that it pops; each that runs above another has its own
    list_link *runners;               // the innermost first
    unsigned long thread_id;          // as PyThread_get_thread_ident() says it; constant
    PyThreadState *thread;            // borrowed; constant
    const PyObject *base_frame;       // that has made this thread a worker, borrowed; constant
    workq_worker parking;             // owner thread
    struct ThreadQueueObject *queue;  // borrowed
    PyObject *context;                // a copy of the one that the thread began with, for tasks above others
    unsigned depth;                   // how many tasks of this thread wait for the one above them
    unsigned long native_id;          // as the kernel numbers threads; constant
    PyObject *named;                  // the str that `view` has as the name of the call that runs, or NULL
    // What others see of it, its counts of calls too: a cell, or `hidden`.  This thread writes, with the GIL.
    thread_view_worker *view;
    thread_view_worker hidden;
    thread_view_progress *told;  // a cell, once a call has told how far it is; or NULL
} worker;

static inline runner *
worker_innermost(const worker *w)
{
    return THING_OF(w->runners, runner, of_worker);
}

// Begins and ends a runner of a worker's.
void runner_enter(runner *r, worker *w, module_state *module);
void runner_leave(runner *r);

// In the child of a fork, where no thread runs the runner's task as such.
void runner_forget(runner *r);

// A task with a thread_job, which borrows its options; otherwise as task_new().
task *thread_job_new_task(thread_jobs *jobs, const call_options *options, PyObject *const *args,
                          Py_ssize_t nargs, PyObject *kwnames, const destination *to);

// What a task is called by its options, borrowed; NULL: as its function.  And when its call began, which is
// known of those with options only, as to read the clock takes as long as a twentieth of a short call;
// otherwise CALL_NOT_BEGUN.
PyObject *thread_job_look(task *t, int64_t *began_ns);

// Whether a task's options allow it to be stopped.
bool thread_job_is_stoppable(task *t);

// Stops the call that a runner runs, for that reason, if its options allow it.  True: it does so, or has
// before.
bool thread_job_stop(runner *r, stop_reason reason);

#endif
