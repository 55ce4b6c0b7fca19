// loop_bridge: outcomes to an asyncio event loop, one wakeup for a batch.
//
// A loop has one bridge, kept in the loop's attribute `_pyconc_bridge`: the carrier of all that goes to
// futures of that loop. A worker appends a delivery to the bridge's list and schedules a
// call_soon_threadsafe(bridge.drain).  Deliveries that are posted soon after *ride along* for free.  The
// drain completes the asyncio futures on the loop's own thread.  The bridge uses only the loop's public
// interface, so it works on every loop.
//
// *Order.*  What a thread has passed to the loop before it returned comes before its result.  A drain
// therefore completes only what was posted before the drain was scheduled, and schedules the next one for
// what rides along: that one stands in the loop's queue behind whatever the task's thread put there.
//
// *A drain may never run*: the program empties the loop's queue, or sets it aside for a nested turn of the
// loop.  The results that the drain would have completed are lost or late with it, as they would be with the
// standard library; later results are not.  Deliveries ride along for RIDE_NS only, and not if the loop's
// thread has submitted something since; later ones have a drain of their own.  The thread that posted
// deliveries that ride along looks again before it sleeps for longer: loop_bridge_next_look().
//
// *Turns.*  A flood must not keep the loop from its other work: all drains that may run in one turn of the
// loop share one span of time, DRAIN_MAX_NS.  These are the drains that have been scheduled when the first
// of them runs; the last one schedules the next, for the next turn, if something is left.
//
// How a call finds its loop, without a change to asyncio:
//  - submit() finds that BaseEventLoop.run_in_executor called it.  It then returns one of the loop's
//    own futures, which asyncio passes on as it is: loop_bridge_for_caller().
//  - On other loops (uvloop), asyncio's wrap_future() hangs its closure on the future that submit()
//    returned.  The future recognises that closure: loop_bridge_for_callback().  Such a loop is then
//    adopted: it gets a run_in_executor of its own that submit() recognises from the next call on.
// A call or a callback that is not recognised takes the standard library's way, which is correct and slower.
//
// *Busy waits.*  A program that awaits one short task after the other would pay for two sleeps and two
// wakeups each time: the loop's and the worker's.  When nothing else is on its way to a loop, its thread
// therefore releases the GIL for a few microseconds right after it has queued the task.  If the outcome
// arrives meanwhile, the worker need not wake the loop, whose own thread schedules the drain.  The park_spot
// `busy_wait_spot` turns this off while tasks are long.  For a task in another process the loop's thread
// collects the outcome itself, and spins where the executor's queue says.
//
// If the loop is closed, or closes before the drain runs, deliveries are dropped: no code can await them.
//
// The GIL guards all fields; the loop's thread also reads `posted` without it.  A bridge holds its loop
// weakly; the deliveries on its list hold futures that hold the loop, a cycle that the garbage collector
// sees.
#ifndef PYCONC_LOOP_BRIDGE_H
#define PYCONC_LOOP_BRIDGE_H

#include "base/delivery.h"
#include "base/state.h"

typedef struct LoopBridgeObject {
    carrier head;
    module_state *module;     // borrowed from the type
    PyObject *loop;           // weak reference
    node_list finished;       // deliveries, in order; owned
    uint32_t drained;         // counts the deliveries that have left `finished`
    uint32_t drains;          // the number of the drain that was scheduled last
    int64_t scheduled_ns;     // when that was; 0 once it has run
    uint32_t turn_drains;     // the drains up to this number share one span of time,
    int64_t turn_end_ns;      //   which ends then
    list_link riding;         // among the module's bridges with deliveries that ride along
    bool busy_waiting;        // the loop's thread waits in loop_bridge_busy_wait()
    int64_t handed_over_ns;   // when the only outstanding task was queued; 0 if a busy wait brings it
    _Atomic uint32_t posted;  // counts posts; the loop's thread spins on it without the GIL
} LoopBridgeObject;

extern PyType_Spec loop_bridge_spec;

// Recognises the callbacks that asyncio adds to futures.
extern const callback_hooks loop_bridge_callbacks;

// If the calling Python function is asyncio's run_in_executor: a new future of its loop and the loop's
// bridge, both new references; a loop_future if the task will have a route.  1 found, 0 not, or the program
// has replaced methods of the standard Future, which are called then, -1 exception.
int loop_bridge_for_caller(module_state *state, bool routed, destination *to);

// The same for a loop that is known.
int loop_bridge_for_loop(module_state *state, PyObject *loop, bool routed, destination *to);

// The same for the running loop; without one, -1 with RuntimeError.
int loop_bridge_for_running_loop(module_state *state, bool routed, destination *to);

// Called by the thread that has queued a task: gives a short task the time to end, if its destination is one
// of a loop, this is the loop's thread, and nothing else is on its way.  0, or -1 with an exception from the
// loop.
int loop_bridge_busy_wait(const destination *to);

// When a thread that has posted has to look at what rides along, if it has nothing else to do by then; or
// FUTEX_NO_DEADLINE. To look: schedules drains for what rides along since before.  0, or -1 with an exception
// that was raised in a loop's code, such as a KeyboardInterrupt.
int64_t loop_bridge_next_look(module_state *state);
int loop_bridge_look(module_state *state, int64_t now_ns);

#endif
