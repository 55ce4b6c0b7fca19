// clock: monotonic time in nanoseconds, for deadlines and for how long a spin may last.  No Python.
#ifndef PYCONC_CLOCK_H
#define PYCONC_CLOCK_H

#include <stdint.h>

int64_t clock_now_ns(void);

// The same to the last tick of the kernel, a few milliseconds at most, for a quarter of the price.
int64_t clock_coarse_ns(void);

#endif
