// pool_view: what an executor lets other programs see of it, without being asked.
//
// It stands at the end of the executor's shared memory, behind the job ring and the workers' views.  The
// parent writes each number here when it has changed its own, and reads nothing back, so a worker's stray
// write makes wrong what others see, and no more.  A viewer reads a copy of the file, and must expect
// anything in it.  No Python.
#ifndef PYCONC_POOL_VIEW_H
#define PYCONC_POOL_VIEW_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "tally.h"
#include "worker_view.h"

#define POOL_VIEW_NAME_BYTES 244
#define POOL_VIEW_COUNTS (sizeof(tally) / sizeof(uint64_t))
#define POOL_VIEW_WAITS (sizeof(histogram) / sizeof(uint64_t))

typedef struct pool_view {
    uint32_t max_workers;             // set once, before anybody looks; so are the next three
    uint32_t runs_coroutines;         // 1 or 0
    uint32_t has_waits;               // the same
    char name[POOL_VIEW_NAME_BYTES];  // UTF-8, as much of it as fits; behind it zeros
    // The parent writes these.
    _Alignas(64) _Atomic uint64_t submitted;    // calls that were accepted
    _Atomic uint64_t calls;                     // of these, what workers still have to do
    _Atomic uint64_t recycled, stolen;          // as in PoolStats
    _Atomic uint64_t counts[POOL_VIEW_COUNTS];  // what became of them: a tally
    _Atomic uint64_t waits[POOL_VIEW_WAITS];    // for how long they waited: a histogram
} pool_view;

_Static_assert(sizeof(pool_view) == 1408, "the layout is shared");
_Static_assert(sizeof(histogram) == (2 + HISTOGRAM_BUCKETS) * sizeof(uint64_t),
               "a histogram is made of such numbers");
_Static_assert(sizeof(tally) == (7 + HISTOGRAM_BUCKETS) * sizeof(uint64_t),
               "a tally is made of such numbers");

// How many bytes of shared memory an executor needs whose job ring takes so many.
static inline uint64_t
pool_view_head_bytes(uint64_t ring_bytes, uint32_t workers)
{
    return ((ring_bytes + 63) & ~UINT64_C(63)) + workers * sizeof(worker_view) + sizeof(pool_view);
}

// Where it stands in that memory.  NULL: that has no room for it.
static inline pool_view *
pool_view_in(void *head, uint64_t bytes)
{
    bool fits = bytes >= sizeof(pool_view) && bytes % _Alignof(pool_view) == 0;
    return fits ? (pool_view *)(void *)((unsigned char *)head + bytes - sizeof(pool_view)) : NULL;
}

// Where so many workers' views stand there.  The same.
static inline worker_view *
pool_view_workers(void *head, uint64_t bytes, uint32_t workers)
{
    uint64_t most = bytes < sizeof(pool_view) ? 0 : (bytes - sizeof(pool_view)) / sizeof(worker_view);
    pool_view *view = pool_view_in(head, bytes);
    return view == NULL || workers > most ? NULL : (worker_view *)(void *)view - workers;
}

static inline void
pool_view_show(_Atomic uint64_t *shown, uint64_t number)
{
    // Relaxed: whoever looks cannot tell which of several numbers came first anyway.
    atomic_store_explicit(shown, number, memory_order_relaxed);
}

// Shows one number of a tally, or of a histogram, which are rows of such numbers.
static inline void
pool_view_show_in(_Atomic uint64_t *shown, const void *row, const uint64_t *number)
{
    size_t place = (size_t)((const char *)number - (const char *)row) / sizeof(uint64_t);
    pool_view_show(&shown[place], *number);
}

// Adds to a histogram, and shows what has changed there.
static inline void
pool_view_add_times(_Atomic uint64_t *shown, const void *row, histogram *h, uint64_t times,
                    uint64_t average_ns)
{
    histogram_add(h, times, average_ns);
    pool_view_show_in(shown, row, histogram_bucket(h, average_ns));
    pool_view_show_in(shown, row, &h->total_ns);
    pool_view_show_in(shown, row, &h->max_ns);
}

#endif
