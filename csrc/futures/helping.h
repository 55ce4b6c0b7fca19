// helping: what a worker thread does when it waits for a call that its own queue has.
//
// It may be the only thread that could run that call: a task that submits to the pool of one thread which
// runs it, and waits, would wait for ever.  So a worker that is about to wait looks for the call in its
// queue, and if there are more calls than idle workers, it takes the call out and runs it, on top of the task
// that waits.
//
// It runs nothing else.  Whoever waits for a call that runs in another worker needs no help: that worker
// helps itself in the same way when it waits.  And what runs on top of a task holds that task up, so a call
// of which the task has no need could wait for what the task does next, which would be a deadlock where there
// was none. For the same reason each task on a thread's stack waits for the one above it, and whoever is
// found to wait for one below waits for itself: no number of threads would end that.
//
// Every function here is called with the GIL, which guards all fields.
#ifndef PYCONC_HELPING_H
#define PYCONC_HELPING_H

#include "base/compat.h"

// What a thread waits for.
typedef struct awaited {
    bool (*includes)(PyObject *future, const void *which);
    const void *which;
    bool has_deadline;
} awaited;

// What stands for a worker thread here.
typedef struct helper {
    uint32_t home;         // the number of its queue, as in the futures of that queue's tasks
    PyObject *sleeps_for;  // the one future for which the thread sleeps without a deadline, or NULL; borrowed
    // Runs one queued call that is awaited.  1: it did; 0: there is none, or idle workers will run it; -1
    // with an exception: too many tasks wait in this thread already, or the call has forked this process.
    int (*run_awaited)(struct helper *self, const awaited *what);
    // How many of the awaited futures belong to tasks that cannot end before this thread stops to wait.
    Py_ssize_t (*count_hopeless)(struct helper *self, const awaited *what);
} helper;

// The helper of a thread that is no worker, or that runs what is no task yet, is NULL.
extern _Thread_local helper *helping_self;

// This thread's, if it is a worker of the queue that a future has as its home; or NULL.
static inline helper *
helping_with(uint32_t home)
{
    helper *self = helping_self;
    return self != NULL && self->home == home ? self : NULL;
}

// Raises what a wait raises that would never end.
void helping_refuse(void);

#endif
