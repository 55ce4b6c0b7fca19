// clock: monotonic time in nanoseconds, for deadlines and for how long a spin may last.  No Python.
#ifndef PYCONC_CLOCK_H
#define PYCONC_CLOCK_H

#include <stdint.h>

int64_t clock_now_ns(void);

// The same as of the kernel's last tick, a few milliseconds ago at most, for a quarter of the time.
int64_t clock_coarse_ns(void);

// The earlier of two times, or the shorter of two spans.
static inline int64_t
clock_earlier(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

#endif
