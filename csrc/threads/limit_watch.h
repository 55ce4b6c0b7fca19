// limit_watch: the thread that acts when the time of a call is over.
//
// One for the whole process.  It begins when the first limit is set, sleeps until the earliest one is
// reached, or for good while there is none, and ends when a worker ends, or a queue is closed, while there
// is none.  It has a thread state and no threading.Thread, as nobody is to wait for it; at the interpreter's
// exit it is asked to end.
//
// The GIL guards all of it: the thread that sets a limit has the GIL, and this thread sleeps without it on a
// word that changes when a limit comes that is earlier than the one for which it sleeps.
#ifndef PYCONC_LIMIT_WATCH_H
#define PYCONC_LIMIT_WATCH_H

#include "base/state.h"

typedef struct limit {
    timer_node timer;
    // It is reached, and set no longer; called in that thread.
    void (*reach)(struct limit *self);
} limit;

// Sets a limit, or another time for one that is set.  Runs no Python code, and keeps the GIL.  If the
// system has no thread for it, the next one that is set tries again.
void limit_watch_set(module_state *state, limit *l, int64_t due_ns);

// Does nothing if it is not set.
static inline void
limit_watch_unset(limit *l)
{
    timer_heap_remove(&l->timer);
}

// A worker ends, or a queue is closed: the thread may not be needed any more.
void limit_watch_rest(module_state *state);

// In the child of a fork, where the thread is not.
void limit_watch_after_fork(module_state *state);

extern PyMethodDef limit_watch_functions[];

#endif
