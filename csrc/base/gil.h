// gil: release the GIL around a wait, and take it back without a needless sleep.
//
// Two of pyconc's threads often hand work to each other within a microsecond: submit() makes a spinning
// worker see a task while the submitter still holds the GIL, for the few steps until it waits for the result;
// the worker makes the waiter see that result while it still holds the GIL, for the few steps until it is
// idle.  The thread that saw the change would sleep on the GIL's own lock, and wake 20 microseconds later.
// So each of pyconc's threads says in `held` that it has the GIL, and clears it when it releases the GIL in
// order to wait; a thread that wants the GIL first spins on that, for a short time.  It is a hint: nothing
// breaks when it is wrong.
#ifndef PYCONC_GIL_H
#define PYCONC_GIL_H

#include <Python.h>

#include "core/park.h"

// How long a thread spins for the GIL: longer than its holder takes from submit() to result(), for without it
// submit().result() takes 5 to 16 times as long; 2 or 30 microseconds make no difference (on 3.13),
#define GIL_PATIENCE_NS 8000
// or to free a thread's state.
#define GIL_PATIENCE_END_NS 25000

typedef struct gil_hint {
    _Atomic uint32_t held;  // a hint, which orders nothing that the GIL does not: relaxed everywhere
} gil_hint;

static inline PyThreadState *
gil_release(gil_hint *hint)
{
    PyThreadState *thread = PyEval_SaveThread();
    atomic_store_explicit(&hint->held, 0, memory_order_relaxed);
    return thread;
}

static inline void
gil_acquire(gil_hint *hint, PyThreadState *thread, int64_t patience_ns)
{
    if (patience_ns > 0 && atomic_load_explicit(&hint->held, memory_order_relaxed) != 0) {
        park_spin_for(&hint->held, 1, patience_ns);
    }
    PyEval_RestoreThread(thread);
    atomic_store_explicit(&hint->held, 1, memory_order_relaxed);
}

// Says that this thread has the GIL and means to release it soon.
static inline void
gil_hold(gil_hint *hint)
{
    atomic_store_explicit(&hint->held, 1, memory_order_relaxed);
}

#endif
