#include "tally.h"

void
tally_add(tally *sum, const tally *part)
{
    sum->completed += part->completed;
    sum->failed += part->failed;
    sum->cancelled += part->cancelled;
    sum->timed_out += part->timed_out;
    sum->died += part->died;
    sum->total_ns += part->total_ns;
    sum->max_ns = part->max_ns > sum->max_ns ? part->max_ns : sum->max_ns;
    for (int i = 0; i < TALLY_BUCKETS; i++) {
        sum->buckets[i] += part->buckets[i];
    }
}

uint64_t
tally_runs(const tally *t)
{
    uint64_t runs = 0;
    for (int i = 0; i < TALLY_BUCKETS; i++) {
        runs += t->buckets[i];
    }
    return runs;
}

void
tally_quantiles(const tally *t, int count, const double *shares, double *found_ns)
{
    double runs = (double)tally_runs(t);
    uint64_t below = 0;
    int next = 0;
    for (int i = 0; i < TALLY_BUCKETS && next < count; i++) {
        uint64_t here = t->buckets[i];
        for (; here > 0 && next < count && (double)(below + here) >= shares[next] * runs; next++) {
            double least = i == 0 ? 0 : (double)(UINT64_C(1) << i);
            double most = (double)(UINT64_C(1) << i) * 2;
            // No call has run for longer than the longest.
            most = most > (double)t->max_ns ? (double)t->max_ns : most;
            found_ns[next] = least + (most - least) * (shares[next] * runs - (double)below) / (double)here;
        }
        below += here;
    }
    for (; next < count; next++) {
        found_ns[next] = 0;
    }
}
