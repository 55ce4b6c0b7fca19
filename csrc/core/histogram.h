// histogram: how many of some times were how long.
//
// It has 64 buckets: bucket n is for 2^n nanoseconds and more, up to twice that.  So a quantile that is read
// from it is right to within a factor of two; the sum and the longest are exact.  The caller guards it.  No
// Python.
#ifndef PYCONC_HISTOGRAM_H
#define PYCONC_HISTOGRAM_H

#include <stdint.h>

enum {
    HISTOGRAM_BUCKETS = 64
};

// Zeros are an empty one.
typedef struct histogram {
    uint64_t total_ns, max_ns;
    uint64_t buckets[HISTOGRAM_BUCKETS];
} histogram;

// Where times of that length count.
static inline uint64_t *
histogram_bucket(histogram *h, uint64_t ns)
{
    return &h->buckets[63 - __builtin_clzll(ns | 1)];
}

// Adds so many times, which are that long on average.
static inline void
histogram_add(histogram *h, uint64_t times, uint64_t average_ns)
{
    *histogram_bucket(h, average_ns) += times;
    h->total_ns += times * average_ns;
    h->max_ns = average_ns > h->max_ns ? average_ns : h->max_ns;
}

// Adds a part to a sum.
void histogram_merge(histogram *sum, const histogram *part);

// How many times are in it.
uint64_t histogram_count(const histogram *h);

// How long those are at most that make up a share of all, the shortest first: 0.5 is the median.  For shares
// in ascending order; in nanoseconds, estimated within a bucket, 0 if there are none.  Returns
// histogram_count().
uint64_t histogram_quantiles(const histogram *h, int count, const double *shares, double *found_ns);

#endif
