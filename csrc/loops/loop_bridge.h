// loop_bridge: finished tasks to an asyncio event loop, one wakeup for a batch.
//
// A loop has one bridge, kept in the loop's attribute `_pyconc_bridge`.  A worker appends a finished
// task to the bridge's list and, if nobody has told the loop yet, schedules one
// call_soon_threadsafe(bridge.drain).  Until drain runs, more tasks ride along for free.  drain
// completes the asyncio futures on the loop's own thread, in batches of bounded length so that a
// flood does not keep the loop from its other work.  Only the loop's public interface is used, so
// this works on every loop.
//
// How tasks come here, without asyncio being changed:
//  - submit() finds that BaseEventLoop.run_in_executor called it.  It then returns one of the loop's
//    own futures, which asyncio passes on as it is: loop_bridge_for_caller().
//  - On other loops (uvloop), asyncio's wrap_future() hangs its closure on the future that submit()
//    returned.  The future recognises that closure: loop_bridge_for_callback().  Such a loop is then
//    adopted: it gets a run_in_executor of its own that submit() recognises from the next call on.
// What is not recognised takes the standard library's way and is merely correct.
//
// *Attending.*  A program that awaits one short task after the other would pay for two sleeps and
// two wakeups each time: the loop's and the worker's.  When a loop has nothing else on its way, its
// thread therefore lets go of the GIL for a few microseconds right after handing the task over.  If
// the outcome arrives meanwhile, the loop need not be woken: its own thread schedules drain.  The
// park_spot `busy_wait_spot` turns this off while tasks are long.  A task that went to another process is
// brought in by the loop's thread itself, which spins where the executor's queue says.
//
// If the loop is closed, or closes before drain runs, tasks are dropped: nobody can await them.
//
// All fields are guarded by the GIL, but `posted`.  A bridge holds its loop weakly; the tasks on its
// list hold futures that hold the loop, a cycle that the garbage collector sees.
#ifndef PYCONC_LOOP_BRIDGE_H
#define PYCONC_LOOP_BRIDGE_H

#include "core/node_list.h"
#include "base/state.h"

struct task;

typedef struct LoopBridgeObject {
    PyObject_HEAD
    module_state *module;     // borrowed from the type
    PyObject *loop;           // weak reference
    node_list finished;       // tasks, in order; owned
    uint32_t outstanding;     // what is on its way here: expected and not forgotten
    bool armed;               // drain is scheduled
    bool busy_waiting;        // the loop's thread waits in loop_bridge_busy_wait()
    int64_t handed_over_ns;   // when the only outstanding task was handed over; 0 if attended
    _Atomic uint32_t posted;  // counts posts; the attending thread spins on it without the GIL
} LoopBridgeObject;

extern PyType_Spec loop_bridge_spec;

// If the Python function that called us is asyncio's run_in_executor: the bridge of its loop and a
// new future of that loop, both new references; a loop_future if the task will have a route.
// 1 found, 0 not, -1 exception.
int loop_bridge_for_caller(module_state *state, bool routed, LoopBridgeObject **bridge, PyObject **future);

// The same for a loop that is known.
int loop_bridge_for_loop(module_state *state, PyObject *loop, bool routed, LoopBridgeObject **bridge,
                         PyObject **future);

// The same for the running loop; without one, -1 with RuntimeError.
int loop_bridge_for_running_loop(module_state *state, bool routed, LoopBridgeObject **bridge,
                                 PyObject **future);

// If the callback is the closure of asyncio's wrap_future(): the bridge of its loop and the asyncio
// future it will complete, both new references.  1 found, 0 not, -1 exception.
int loop_bridge_for_callback(module_state *state, PyObject *callback, LoopBridgeObject **bridge,
                             PyObject **future);

// Something is on its way to the loop, or is not any more: a task that has this bridge, or a pending
// future with a recognised callback.
void loop_bridge_expect(LoopBridgeObject *self);
void loop_bridge_forget(LoopBridgeObject *self);

// Called by the thread that handed a task over: gives a short task the time to end, if this is the
// loop's thread and nothing else is on its way.  0, or -1 with an exception from the loop.
// The queue is what the task was pushed on.
int loop_bridge_busy_wait(LoopBridgeObject *self, PyObject *queue);

// The same for a callback that was just hung on a pending future; expects it if it is recognised.
int loop_bridge_busy_wait_for_callback(module_state *state, PyObject *callback);

// A finished task; the bridge owns it from here on.  Never fails.
void loop_bridge_post(LoopBridgeObject *self, struct task *t);

#endif
