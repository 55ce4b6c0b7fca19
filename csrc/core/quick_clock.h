// quick_clock: clock_now_ns() in a third of its time, for code that reads it some millions of times a second.
//
// It is the processor's counter of ticks, which is *compared* with the kernel's clock once a millisecond.
// Two comparisons tell how long a tick takes.  When the next one tells the same, the counter is trusted until
// one more is due.  If they disagree, as after the machine has slept, the kernel's clock is read until two
// agree again; and always where the kernel itself does not trust the counter, or none is known here.
//
//     compared ---- 1 ms ----> compared ---- 1 ms ----> compared --------> now
//            a tick takes so long       and so long, too: trusted    by ticks
//
// So a time is the kernel's to within some ten nanoseconds; to within a microsecond while the kernel slews
// its clock as fast as it can.  Times never go back, in whichever thread they are read.
//
// The caller guards a clock.  No Python.
#ifndef PYCONC_QUICK_CLOCK_H
#define PYCONC_QUICK_CLOCK_H

#include <stdbool.h>
#include <stdint.h>

typedef struct quick_clock {
    int64_t last_ns;      // that was read
    uint64_t compared;    // ticks when it was compared
    int64_t compared_ns;  // and the kernel's clock then
    uint64_t trusted;     // for so many ticks from then on
    uint64_t tick;        // takes so many nanoseconds, in units of 2^-32
    bool has_counter;
} quick_clock;

void quick_clock_init(quick_clock *self);

// What quick_clock_now_ns() does when the counter is not trusted.
int64_t quick_clock_compare(quick_clock *self);

#ifdef __x86_64__
static inline uint64_t
quick_clock_ticks(void)
{
    return __builtin_ia32_rdtsc();
}
#else
static inline uint64_t
quick_clock_ticks(void)
{
    return 0;  // no counter is known
}
#endif

// Never less than it has returned before.
static inline int64_t
quick_clock_now_ns(quick_clock *self)
{
    // Wraps where another processor's counter is behind, and so is not trusted.
    uint64_t since = quick_clock_ticks() - self->compared;
    int64_t now_ns = __builtin_expect(since < self->trusted, 1)
                         ? self->compared_ns + (int64_t)((since * self->tick) >> 32)
                         : quick_clock_compare(self);
    self->last_ns = now_ns > self->last_ns ? now_ns : self->last_ns;
    return self->last_ns;
}

// More than it has returned before.
static inline int64_t
quick_clock_later_ns(quick_clock *self)
{
    int64_t last_ns = self->last_ns;
    int64_t now_ns = quick_clock_now_ns(self);
    return now_ns > last_ns ? now_ns : ++self->last_ns;
}

#endif
