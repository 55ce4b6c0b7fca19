// loop_bridge: outcomes to an asyncio event loop, one wakeup for a batch.
//
// A loop has one bridge, kept in the loop's attribute `_pyconc_bridge`: the carrier of all that goes to
// futures of that loop.  A worker appends a delivery to the bridge's list and schedules a
// call_soon_threadsafe(bridge.drain).  Deliveries that are posted soon after *ride along* for free.  The
// drain completes the asyncio futures on the loop's own thread.  Only the loop's public interface is used,
// so this works on every loop.
//
// *Order.*  What a thread has handed to the loop before it returned comes before its result.  A drain
// therefore completes only what was posted before the drain was scheduled, and schedules the next one for
// what rides along: that one stands in the loop's queue behind whatever the task's thread put there.
//
// *A drain may never run*: the program empties the loop's queue, or sets it aside for a nested turn of the
// loop.  What was to be completed by it is lost or late with it, as it would be with the standard library;
// later results are not.  Deliveries ride along for RIDE_NS only, and not if the loop's thread has submitted
// something since; later ones have a drain of their own.  For those that do ride along, the thread that
// posted them looks again before it sleeps for longer: loop_bridge_next_look().
//
// *Turns.*  A flood must not keep the loop from its other work: all drains that may run in one turn of the
// loop share one span of time, DRAIN_MAX_NS.  These are the drains that have been scheduled when the first
// of them runs; the last one schedules the next, for the next turn, if something is left.
//
// How deliveries come here, without asyncio being changed:
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
// If the loop is closed, or closes before drain runs, deliveries are dropped: nobody can await them.
//
// All fields are guarded by the GIL, but `posted`.  A bridge holds its loop weakly; the deliveries
// on its list hold futures that hold the loop, a cycle that the garbage collector sees.
#ifndef PYCONC_LOOP_BRIDGE_H
#define PYCONC_LOOP_BRIDGE_H

#include "base/delivery.h"
#include "base/state.h"

typedef struct LoopBridgeObject {
    carrier head;
    module_state *module;     // borrowed from the type
    PyObject *loop;           // weak reference
    node_list finished;       // deliveries, in order; owned
    uint32_t drained;         // counts what has left `finished`
    uint32_t drains;          // the number of the drain that was scheduled last
    int64_t scheduled_ns;     // when that was; 0 once it has run
    uint32_t turn_drains;     // the drains up to this number share one span of time
    int64_t turn_end_ns;      // the end of that
    list_link riding;         // among the module's bridges with deliveries that ride along
    bool busy_waiting;        // the loop's thread waits in loop_bridge_busy_wait()
    int64_t handed_over_ns;   // when the only outstanding task was handed over; 0 if attended
    _Atomic uint32_t posted;  // counts posts; the attending thread spins on it without the GIL
} LoopBridgeObject;

extern PyType_Spec loop_bridge_spec;

// What asyncio hangs on futures is recognised.
extern const callback_hooks loop_bridge_callbacks;

// If the Python function that called us is asyncio's run_in_executor: a new future of its loop and the
// loop's bridge, both new references; a loop_future if the task will have a route.  1 found, 0 not, -1
// exception.
int loop_bridge_for_caller(module_state *state, bool routed, destination *to);

// The same for a loop that is known.
int loop_bridge_for_loop(module_state *state, PyObject *loop, bool routed, destination *to);

// The same for the running loop; without one, -1 with RuntimeError.
int loop_bridge_for_running_loop(module_state *state, bool routed, destination *to);

// Called by the thread that handed a task over: gives a short task the time to end, if this is the
// thread of the destination's loop and nothing else is on its way.  0, or -1 with an exception from the loop.
int loop_bridge_busy_wait(const destination *to);

// When a thread that has posted is to look at what rides along, if it has nothing else to do by then; or
// FUTEX_NO_DEADLINE.  To look: schedules drains for what rides along since before.  0, or -1 with an
// exception that struck in a loop's code, such as a KeyboardInterrupt.
int64_t loop_bridge_next_look(module_state *state);
int loop_bridge_look(module_state *state, int64_t now_ns);

#endif
