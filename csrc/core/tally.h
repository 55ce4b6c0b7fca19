// tally: how many calls ended in which way, and how long they ran.
//
// Each worker has a tally of its own, which it alone adds to, and its executor another for the calls that no
// worker has ended.  Who wants to know adds them up.  What guards a tally is its owner's affair.
//
// How long calls ran is a histogram of 64 buckets: bucket n is for 2^n nanoseconds and more, up to twice
// that.  So a quantile that is read from it is right to within a factor of two; the others are exact.
// No Python.
#ifndef PYCONC_TALLY_H
#define PYCONC_TALLY_H

#include <stdint.h>

enum {
    TALLY_BUCKETS = 64
};

typedef struct tally {
    uint64_t completed;               // returned something
    uint64_t failed;                  // raised something, or could not be sent or brought back
    uint64_t cancelled;               // before they began, or while they ran
    uint64_t timed_out;               // their time was over
    uint64_t died;                    // lost, with their worker or with the executor
    uint64_t total_ns, max_ns;        // of the calls that ran
    uint64_t buckets[TALLY_BUCKETS];  // the same: how many ran for how long
} tally;

// Where calls count that have run for so long.
static inline uint64_t *
tally_bucket(tally *t, uint64_t ran_ns)
{
    return &t->buckets[63 - __builtin_clzll(ran_ns | 1)];
}

// So many calls have run, for so long on average.
static inline void
tally_add_runs(tally *t, uint64_t calls, uint64_t average_ns)
{
    *tally_bucket(t, average_ns) += calls;
    t->total_ns += calls * average_ns;
    t->max_ns = average_ns > t->max_ns ? average_ns : t->max_ns;
}

// How many calls have ended, in whatever way.
static inline uint64_t
tally_ended(const tally *t)
{
    return t->completed + t->failed + t->cancelled + t->timed_out + t->died;
}

// Adds a part to a sum.
void tally_add(tally *sum, const tally *part);

// How many calls ran.
uint64_t tally_runs(const tally *t);

// How long those ran at most that make up a share of all, the shortest first: 0.5 is the median.  For shares
// in ascending order; in nanoseconds, estimated within a bucket, 0 if none ran.
void tally_quantiles(const tally *t, int count, const double *shares, double *found_ns);

#endif
