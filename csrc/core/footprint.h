// footprint: how much memory this process has.  No Python.
#ifndef PYCONC_FOOTPRINT_H
#define PYCONC_FOOTPRINT_H

#include <stdbool.h>
#include <stdint.h>

typedef struct footprint {
    uint64_t resident_bytes;  // in physical memory now, what it shares with others included
    uint64_t data_bytes;      // what it alone may write, stacks included, whether it was touched or not
} footprint;

// Takes some microseconds.  False where there is no /proc.
bool footprint_read(footprint *now);

// The most that it has had resident, in bytes.  This never falls, and a process may have it from the one that
// has started it.
uint64_t footprint_peak(void);

#endif
