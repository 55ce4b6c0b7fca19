// stats: what a queue tells of itself and of its workers, as Python objects.
//
// pyconc/_stats.py says what each number means.  The GIL guards what it is made of, as far as a queue has no
// lock of its own for that.
#ifndef PYCONC_STATS_H
#define PYCONC_STATS_H

#include "compat.h"

#include "core/tally.h"

// What counts at this moment; the rest is in tallies.
typedef struct stats_now {
    uint64_t workers, idle, running, queued, submitted, abandoned, recycled, stolen;
} stats_now;

// The tuple of what PoolStats has after the name and the most workers; at its end tuples for the Histograms
// of runs and of waits, or None for what is NULL: nobody has looked.
PyObject *stats_build(const stats_now *now, const tally *counts, const histogram *runs,
                      const histogram *waits);

#endif
