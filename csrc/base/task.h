// task: a call, its arguments and its destination; the one thing that travels the road.
//
//     submit --> task --> queue --> worker --> outcome --> destination
//
// A task is allocated once and embeds the node of the list it is on: first the executor's queue,
// then, if its destination is an asyncio future, the loop bridge's.  Exactly one party owns it at
// any time (submit, the queue, a worker, the bridge); whoever delivers the outcome frees it.  The
// destination is a pyconc.Future or an asyncio future; only this unit and the bridge know which.
//
// Everything here is called with the GIL, which guards all fields but the node; the node is
// guarded by whoever owns the list.
#ifndef PYCONC_TASK_H
#define PYCONC_TASK_H

#include "core/workq.h"
#include "loops/loop_bridge.h"
#include "state.h"

struct task;

// What can be done about a task that is on its way to another process.
typedef struct task_route {
    // True: no worker has taken it, and none will; or one has, and is asked to cancel it.  Its queue
    // delivers the cancellation in time.
    bool (*withdraw)(struct task *t);
    // True once a worker has taken it.
    bool (*is_taken)(struct task *t);
    // The queue that it is on; borrowed.
    PyObject *(*queue)(struct task *t);
    // Lets go of what the queue keeps in its args; called once, when it ends in whatever way.
    void (*drop)(struct task *t);
} task_route;

typedef struct task {
    list_node node;  // first: a node is its task
    module_state *module;
    const task_route *route;  // NULL: it stays in this process
    PyObject *destination;
    LoopBridgeObject *bridge;  // NULL: the destination is a pyconc.Future
    PyObject *callable;        // NULL once it has run
    PyObject *kwnames;         // NULL or a tuple: names of the last arguments
    Py_ssize_t nargs;          // positional ones
    PyObject *result;          // set once it has run and waits on a bridge,
    PyObject *exception;       //   one or the other; neither means cancelled
    PyObject *args[];          // args[0] is scratch room for the callee (vectorcall's offset); or, of
                               //   a task that has a route, whatever its queue keeps there
} task;

// The call args[0](args[1:], kwnames) for the destination; bridge as in the struct.  Borrows all.
task *task_new(module_state *state, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
               PyObject *destination, LoopBridgeObject *bridge);

// A task that has run already: only its outcome is on the way.  Borrows all.
task *task_new_outcome(module_state *state, PyObject *result, PyObject *exception,
                       PyObject *destination, LoopBridgeObject *bridge);

// A task whose call is elsewhere; borrows all.  `callable` only serves to say which task it was.  Its args
// are `room` bytes of zeros.  While the destination waits for it, it knows the task, to withdraw it.
task *task_new_routed(module_state *state, const task_route *route, size_t room, PyObject *callable,
                      PyObject *destination, LoopBridgeObject *bridge);

// Frees a task that nobody will deliver.  Accepts NULL.
void task_free(task *t);

// Delivers an outcome that came from elsewhere, and frees the task.  Takes the outcome: a result, an
// exception, or neither for a cancellation; as task_run().
int task_deliver(task *t, PyObject *result, PyObject *exception);

// Whether a thread that waits for `destination` (a Future or a LoopBridge) may deliver this task itself:
// it is for that one, and nothing runs on its delivery.
bool task_is_for(const task *t, PyObject *destination);

// Runs the call, unless it was cancelled, and delivers.  The task is gone afterwards.  0, or -1 with
// an exception that a callback let escape.
int task_run(task *t);

// Delivers an exception (borrowed), or with NULL a cancellation, instead of running; as task_run().
int task_fail(task *t, PyObject *exception);

// The same for linked tasks: each gets make_error(message), or if message is NULL make_error(its callable);
// with make_error NULL they are cancelled.  -1 with the first exception that escaped; others are logged.
int task_fail_all(list_node *tasks, PyObject *make_error, PyObject *message);

// In the child of a fork: fails the destination where it stands, and leaves the task alone.
void task_abandon(task *t, PyObject *exception);

#endif
