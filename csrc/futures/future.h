// future: what a pyconc.Future is, and its changes of state.
//
//     future.c              the changes of state, and who is told of them
//     future_destination.c  a future as one of the two destinations of a task
//     future_wait.c         how a thread waits for one future
//     future_attributes.c   the private attributes
//     future_type.c         the class: life and methods
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
// collector must see; until then it is *untracked*, and its place on the list of those stands where a tracked
// one has its waiters and its condition, which it has not: it takes 16 bytes less.
//
// The GIL guards every field.  Where a condition exists, a thread holds it while it changes the state, so
// code that holds `_condition` sees a state that stands still; where none exists, a thread changes the state
// and announces the change without releasing the GIL in between.  Threads read one field without the GIL:
// `done`, a futex word, which goes from 0 to 1 when the future is cancelled or finished.
#ifndef PYCONC_FUTURE_H
#define PYCONC_FUTURE_H

#include "base/delivery.h"
#include "base/state.h"
#include "core/futex.h"

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
    future_state state : 8;
    bool is_untracked;
    uint32_t sleepers;  // threads that wait for `done`
    _Atomic uint32_t done;
    uint32_t home;        // the number of the thread queue whose task completes it, see helping.h; or 0
    struct task *task;    // the task, while it is on its way to another process; else NULL
    PyObject *result;     // NULL is None
    PyObject *exception;  // NULL is None
    PyObject *callbacks;  // list, or NULL while there is none
    union {
        list_link untracked;      // among those that the collector does not track
        struct {                  // of the others; future_waiters() and future_condition() look which it is
            PyObject *waiters;    // list, or NULL while there is none
            PyObject *condition;  // threading.Condition, or NULL until it is asked for
        };
    };
} FutureObject;

static inline FutureObject *
as_future(PyObject *op)
{
    return (FutureObject *)op;
}

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

// Takes an untracked future off the list.
static inline void
future_leave_untracked(FutureObject *self)
{
    list_link_remove(&self->untracked);
    self->is_untracked = false;
    self->waiters = self->condition = NULL;
}

// Has the garbage collector track the future, before it refers to something that may refer back.  Futures
// that only ever hold numbers and strings do not concern the collector, and hundreds of thousands of them,
// pending, would keep it busy for tens of milliseconds at a time.
static inline void
future_track(FutureObject *self)
{
    if (self->is_untracked) {
        future_leave_untracked(self);
        PyObject_GC_Track(self);
    }
}

// Borrowed; NULL: it has none, and only one that is tracked can get any.
static inline PyObject *
future_waiters(const FutureObject *self)
{
    return self->is_untracked ? NULL : self->waiters;
}

static inline PyObject *
future_condition(const FutureObject *self)
{
    return self->is_untracked ? NULL : self->condition;
}

// Changes the state, and wakes the threads that sleep until the future is done.
static inline void
future_set_state(FutureObject *self, future_state state)
{
    self->state = state;
    // R2: pairs with A1 in look() and in park_sleep(): a thread that sees `done` sees the outcome, once it
    // has the GIL.
    atomic_store_explicit(&self->done, future_is_done(self), memory_order_release);
    if (future_is_done(self) && self->sleepers > 0) {
        futex_wake_all(&self->done);
    }
}

// A worker takes the task up.  1: run it.  0: it was cancelled, and the waiting threads now know.  -1: an
// exception is set: the future is not pending, or a waiter failed.
int future_start(FutureObject *self);

// The task ended: one of result and exception is given, the other is NULL; takes it from the caller.  -1 with
// an exception if the future was done already, or if a waiter or a callback let one escape.
int future_finish(FutureObject *self, PyObject *result, PyObject *exception);

// Cancels.  1: it is cancelled.  0: too late.  -1: cancelled, but a callback let an exception escape.
int future_cancel(FutureObject *self);

// In the child of a fork: fails a future that no thread will complete, without a lock that a thread of the
// parent may have held, and without calling back.
void future_abandon(FutureObject *self, PyObject *exception);

// Adds an object with add_result(), add_exception() and add_cancelled().  1; 0 if the future completed
// before, so that the object will not be told; or -1.  Removing: 0 or -1.
int future_add_waiter(FutureObject *self, PyObject *waiter);
int future_remove_waiter(FutureObject *self, PyObject *waiter);

// A worker in another process takes a task up without telling: a thread that asks whether it runs looks
// there.  0, or -1 with an exception.
int future_look_whether_taken(FutureObject *self);

// ---- for the files of a future: who must be told of a change ----

int future_enter_condition(FutureObject *self, PyObject **entered);
int future_leave_condition(PyObject *entered, bool notify, int rc);

// Enters the future's condition if it has one, and gives the caller a reference to leave it with.  Other
// threads may run meanwhile, so the caller looks at the state afterwards.  0, or -1 with an exception.
static inline int
future_condition_enter(FutureObject *self, PyObject **entered)
{
    *entered = NULL;
    return future_condition(self) == NULL ? 0 : future_enter_condition(self, entered);
}

// Leaves the condition, and first wakes the threads that wait on it.  Returns rc, or -1 with an exception
// that was raised meanwhile, such as Ctrl-C's.  Of several exceptions the first stays, and if rc is -1
// already that is the one which is set.
static inline int
future_condition_leave(PyObject *entered, bool notify, int rc)
{
    return entered == NULL ? rc : future_leave_condition(entered, notify, rc);
}

// Tracks the future, and has `*field` refer to a list: an empty one, if there is none yet.  0, or -1 with an
// exception.
int future_prepare_list(FutureObject *self, PyObject **field);

// Calls one callback, or all of them.  An Exception is logged; with anything else they return -1.
int future_call_back(FutureObject *self, PyObject *callback, bool was_registered);
int future_call_callbacks(FutureObject *self);

// True: the standard class's method of this name is not the original one, and was called.
static inline bool
future_call_standard(FutureObject *self, const char *name, PyObject *const *args, Py_ssize_t nargs,
                     PyObject *kwnames, PyObject **result)
{
    standard_class *standard = &self->module->standard_future;
    return standard_is_replaced(standard)
           && standard_call(standard, false, name, (PyObject *)self, args, nargs, kwnames, result);
}

#endif
