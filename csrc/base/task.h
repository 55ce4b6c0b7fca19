// task: a call, its arguments and its delivery.
//
//     submit --> task --> queue --> worker --> outcome --> destination
//
// A task is allocated once and embeds the node of the list it is on: first the executor's queue, then, once
// its call is gone and only the delivery is left, its carrier's.  Exactly one party owns it at any time
// (submit, the queue, a worker, the carrier); the party that delivers the outcome frees it.
//
// Every function here is called with the GIL, which guards all fields except the node; the owner of the list
// that the node is on says what guards the node.
#ifndef PYCONC_TASK_H
#define PYCONC_TASK_H

#include "callable_name.h"
#include "delivery.h"
#include "state.h"
#include "trace.h"

#include "core/call_times.h"
#include "core/clock.h"
#include "core/tally.h"

struct call_place;
struct task;

// What became of the wish to cancel a task.
typedef enum withdrawal {
    WITHDRAW_TOO_LATE,  // it runs, or has run, and its outcome counts
    WITHDRAW_DONE,      // no worker has taken it, and none will; or one ends it, and nobody waits for that
    WITHDRAW_STOPPING,  // it runs, and is being stopped: the cancellation is delivered when it has ended
} withdrawal;

// What can be done about a task that is on its way to another process, or that its queue can stop.
typedef struct task_route {
    // The call is in the task, and what the queue keeps takes the room of so many arguments before them, the
    // last of which is the callee's; 0: the call is elsewhere, and all of the task's args are whatever its
    // queue keeps there.
    size_t room;
    // Makes the call, if it is in the task, in the worker whose place that is.  What it returned; NULL with
    // an exception, or without one: it was cancelled, or task_detach() was called.
    PyObject *(*call)(struct task *t, struct call_place *place);
    // See there.  The task's queue delivers the cancellation in time.  `insists`: a task that was cancelled
    // before, and has not ended, gets no further time.
    withdrawal (*withdraw)(struct task *t, bool insists);
    // True once a worker has taken it that does not tell the destination.
    bool (*is_taken)(struct task *t);
    // For a thread that waits until *word is not `expected`: it brings in finished tasks for a moment, and
    // delivers those for which it waits: all that `waiter` carries, or if that is NULL the task in *slot,
    // where its destination keeps it until it is over.  When it returns 0, *word has changed or a longer wait
    // did not pay; -1: a signal handler raised.  NULL: there is nothing to bring in.
    int (*help)(struct task *const *slot, const _Atomic uint32_t *word, uint32_t expected, carrier *waiter,
                int64_t deadline_ns);
    // Drops what the queue keeps in the task's args; called once, when the task ends in whatever way.
    void (*drop)(struct task *t);
    // Visits what drop() drops.
    int (*traverse)(const struct task *t, visitproc visit, void *arg);
    // The destination has the outcome, or never will; called once, after drop().
    void (*forget)(struct task *t);
} task_route;

typedef struct task {
    delivery delivery;        // first: a node is its task
    const task_route *route;  // NULL: it stays in this process, and nobody stops it
    PyObject *callable;       // NULL once it has run
    PyObject *kwnames;        // NULL or a tuple: names of the last arguments
    Py_ssize_t nargs;         // positional ones; 0 if the call is elsewhere
    union {
        int64_t traced;     // 0; which call it is in a trace, see trace.h; or minus when it was submitted
        PyObject *scratch;  // while the call of a task without a route runs, for the callee
    };
    PyObject *args[];  // see task_args() and task_route
} task;

// The call's arguments, if it is in the task.  The word before them is the callee's while it runs, who leaves
// it as it was (PY_VECTORCALL_ARGUMENTS_OFFSET).
static inline PyObject **
task_args(task *t)
{
    return t->route == NULL ? t->args : t->args + t->route->room;
}

// What the call of a task that has one is a call of, for those who are shown it; borrowed.
static inline PyObject *
task_called(task *t)
{
    return callable_of_call(t->callable, task_args(t), t->nargs);
}

// Makes the call of a task that has it; NULL with what it raised.
static inline PyObject *
task_call(task *t)
{
    size_t nargs = (size_t)t->nargs | PY_VECTORCALL_ARGUMENTS_OFFSET;
    return PyObject_Vectorcall(t->callable, task_args(t), nargs, t->kwnames);
}

// The call args[0](args[1:], kwnames), and before its arguments, if it has a route, that much room, of zeros.
// Borrows all.  While the destination waits for a task that has a route, it knows the task, so that it can
// withdraw it.
task *task_new(const task_route *route, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
               const destination *to);

// A task whose call is elsewhere; borrows all.  `callable` only says which task it was.  Its args are `room`
// bytes of zeros.
task *task_new_routed(const task_route *route, size_t room, PyObject *callable, const destination *to);

// For the tp_traverse of the task's owner.
int task_traverse(task *t, visitproc visit, void *arg);

// Frees a task that will not be delivered.  Accepts NULL.
void task_free(task *t);

// Delivers an outcome that came from elsewhere; the task is gone afterwards.  Takes the outcome: a result, an
// exception, or neither for a cancellation.  Returns as task_run().
int task_deliver(task *t, PyObject *result, PyObject *exception);

// The time at which a call begins: to the nanosecond if a trace or its queue's times want to know it, else
// the kernel's last tick.
static inline int64_t
task_begins_ns(const task *t, call_times *times)
{
    return t->traced > 0 && trace_on != NULL ? trace_now_ns()
           : times != NULL                   ? call_times_now_ns(times)
                                             : clock_coarse_ns();
}

// Runs the call at a place, unless it was cancelled, counts it, and delivers.  The task is gone afterwards,
// and *owned is NULL from the moment when another party owns the task, or when it is about to be freed.
// times: of its queue, if the task knows when it was submitted; or NULL.  began_ns: task_begins_ns().  0, or
// -1 with an exception that a callback let escape.
int task_run(task **owned, struct call_place *place, tally *counts, call_times *times, int64_t began_ns);

// Delivers an exception (borrowed), or with NULL a cancellation, instead of running; as task_deliver().
int task_fail(task *t, PyObject *exception);

// The same for linked tasks: each gets make_error(message), or if message is NULL make_error(its callable);
// with make_error NULL they are cancelled.  -1 with the first exception that escaped; others are logged.
int task_fail_all(module_state *state, list_node *tasks, PyObject *make_error, PyObject *message);

// Takes its destination away from a task whose call goes on: the call's outcome is dropped.
// NULL with an exception.
delivery *task_detach(task *t);

// Delivers an exception (borrowed), or with NULL a cancellation, to that destination; as task_deliver().
int task_fail_detached(delivery *d, PyObject *exception);

// In the child of a fork: fails the destination where it stands, and leaves the task alone.
void task_abandon(const task *t, PyObject *exception);

#endif
