// call_times: for how long calls wait in a queue and run, where somebody wants to know.
//
//     submit    call_times_now_ns(), which stays with the call
//     begin     call_times_now_ns(), and call_times_began() counts for how long it has waited
//     end       call_times_now_ns(): how long it ran, which its worker's tally counts
//
// Of a call that another process has run one hears at its end when it began: call_times_waited_ns().
//
// The caller guards it.  No Python.
#ifndef PYCONC_CALL_TIMES_H
#define PYCONC_CALL_TIMES_H

#include "histogram.h"
#include "quick_clock.h"

typedef struct call_times {
    quick_clock clock;
    histogram waits;  // of the calls that have begun
} call_times;

static inline void
call_times_init(call_times *self)
{
    *self = (call_times){0};
    quick_clock_init(&self->clock);
}

static inline int64_t
call_times_now_ns(call_times *self)
{
    return quick_clock_now_ns(&self->clock);
}

// It begins now, and was submitted then: maybe by another clock, which is a moment ahead.
static inline void
call_times_began(call_times *self, int64_t submitted_ns, int64_t now_ns)
{
    histogram_add(&self->waits, 1, now_ns > submitted_ns ? (uint64_t)(now_ns - submitted_ns) : 0);
}

// For how long a call has waited that was submitted then, and has begun since, as its worker says, which may
// say anything.  The caller counts it in `waits`.
static inline uint64_t
call_times_waited_ns(call_times *self, int64_t submitted_ns, int64_t began_ns)
{
    int64_t now_ns = call_times_now_ns(self);
    began_ns = began_ns < now_ns ? began_ns : now_ns;
    return began_ns > submitted_ns ? (uint64_t)began_ns - (uint64_t)submitted_ns : 0;
}

#endif
