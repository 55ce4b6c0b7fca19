// worker_view: what a worker process lets others see of itself, and of the call that it runs.
//
// The views of an executor's workers stand in its shared memory, in the order of their numbers, before the
// pool_view.  Each worker writes its own, with plain stores, and reads nothing back; its parent does before
// the worker may take a call.  The name means something while the job ring says that the worker runs
// something, in a worker that makes one call at a time.  No Python.
#ifndef PYCONC_WORKER_VIEW_H
#define PYCONC_WORKER_VIEW_H

#include "call_name.h"

typedef enum worker_phase {
    WORKER_STARTS,     // it has not been ready for calls yet
    WORKER_IDLES,      // it has no call
    WORKER_UNPICKLES,  // the call, for which it may import modules
    WORKER_RUNS,
    WORKER_PICKLES,  // the result
} worker_phase;

typedef struct worker_view {
    _Alignas(64) _Atomic uint32_t phase;
    call_name name;
} worker_view;

_Static_assert(sizeof(worker_view) == 192, "the layout is shared");

static inline void
worker_view_enter(worker_view *self, worker_phase phase)
{
    // Relaxed: whoever looks cannot tell what was written before.
    atomic_store_explicit(&self->phase, phase, memory_order_relaxed);
}

// What a worker does that has so many calls; anything may stand there.  Of coroutines some may be in each of
// the last three.
static inline worker_phase
worker_view_phase(const worker_view *self, uint32_t running, bool runs_coroutines)
{
    // Relaxed: the same.
    uint32_t phase = atomic_load_explicit(&self->phase, memory_order_relaxed);
    if (running == 0) {
        return phase == WORKER_STARTS ? WORKER_STARTS : WORKER_IDLES;
    }
    bool is_known = !runs_coroutines && phase >= WORKER_UNPICKLES && phase <= WORKER_PICKLES;
    return is_known ? (worker_phase)phase : WORKER_RUNS;
}

#endif
