// future: the C type pyconc.Future, one of the two destinations of a task.
//
// It is a concurrent.futures.Future, and keeps that class's promises to code that reaches inside: the program
// may read and write `_state`, `_result`, `_exception`, `_waiters` and `_done_callbacks`, and `_condition` is
// a real threading.Condition, made when it is first asked for.
//
//     PENDING ---- future_start ----> RUNNING ---- future_finish ----> FINISHED
//        |                                                                ^
//        |  cancel()                        future_finish (set_result)    |
//        +-------------------------------------------------------------- -+
//        v
//     CANCELLED ---- future_start ----> CANCELLED_AND_NOTIFIED
//
// The garbage collector does not track what future_new() makes until the future refers to something that the
// collector must see.
//
// The GIL guards every field.  Where a condition exists, a thread holds it while it changes the state, so
// code that holds `_condition` sees a state that stands still; where none exists, a thread changes the state
// and announces the change without releasing the GIL in between.  Threads read one field without the GIL:
// `done`, a futex word, which goes from 0 to 1 when the future is cancelled or finished.
#ifndef PYCONC_FUTURE_H
#define PYCONC_FUTURE_H

#include "base/delivery.h"
#include "base/state.h"

typedef enum future_state {
    FUTURE_PENDING,
    FUTURE_RUNNING,
    FUTURE_CANCELLED,
    FUTURE_CANCELLED_AND_NOTIFIED,
    FUTURE_FINISHED,
} future_state;

typedef struct FutureObject {
    PYTHON_CLASS_HEAD
    module_state *module;  // borrowed from the type
    future_state state;
    uint32_t sleepers;  // threads that wait for `done`
    _Atomic uint32_t done;
    uint32_t home;        // the number of the thread queue whose task completes it, see helping.h; or 0
    struct task *task;    // the task, while it is on its way to another process; else NULL
    PyObject *result;     // NULL is None
    PyObject *exception;  // NULL is None
    PyObject *callbacks;  // list, or NULL while there is none
    PyObject *waiters;    // list, or NULL while there is none
    PyObject *condition;  // threading.Condition, or NULL until it is asked for
    list_link untracked;  // among those that the collector does not track; off that list if it does
} FutureObject;

extern PyType_Spec future_spec;

// A pending future.
PyObject *future_new(module_state *state);

// Called before a full collection: tracks the futures to which object.__setattr__() has given attributes.
void future_track_attributes(module_state *state);

// The same, as the destination of a task.  0, or -1 with an exception.
int future_destination(module_state *state, destination *to);

// True for cancelled and finished futures.
static inline bool
future_is_done(const FutureObject *self)
{
    return self->state >= FUTURE_CANCELLED;
}

// True once wait() and as_completed() may report it.
static inline bool
future_is_reportable(const FutureObject *self)
{
    return self->state >= FUTURE_CANCELLED_AND_NOTIFIED;
}

// A worker takes the task up.  1: run it.  0: it was cancelled, and the waiting threads now know.  -1: an
// exception is set: the future is not pending, or a waiter failed.
int future_start(FutureObject *self);

// The task ended: one of result and exception is given, the other is NULL; takes it from the caller.  -1 with
// an exception if the future was done already, or if a waiter or a callback let one escape.
int future_finish(FutureObject *self, PyObject *result, PyObject *exception);

// Cancels.  1: it is cancelled.  0: too late.  -1: cancelled, but a callback let an exception escape.
int future_cancel(FutureObject *self);

// Waits as result() does.  1: it is done, or only result() itself may wait, as the program watches or has
// replaced locks.  0: the time is over.  -1: an exception is set, such as a signal handler's.
int future_wait_briefly(FutureObject *self, int64_t deadline_ns);

// In the child of a fork: fails a future that no thread will complete, without a lock that a thread of the
// parent may have held, and without calling back.
void future_abandon(FutureObject *self, PyObject *exception);

// Adds an object with add_result(), add_exception() and add_cancelled().  1; 0 if the future completed
// before, so that the object will not be told; or -1.  Removing: 0 or -1.
int future_add_waiter(FutureObject *self, PyObject *waiter);
int future_remove_waiter(FutureObject *self, PyObject *waiter);

#endif
