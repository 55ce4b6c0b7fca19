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

double
tally_quantile(const tally *t, double share)
{
    double wanted = share * (double)tally_runs(t), below = 0;
    for (int i = 0; i < TALLY_BUCKETS; i++) {
        double here = (double)t->buckets[i];
        if (here > 0 && below + here >= wanted) {
            double least = i == 0 ? 0 : (double)(UINT64_C(1) << i);
            double most = (double)(UINT64_C(1) << i) * 2;
            // No call has run for longer than the longest.
            most = most > (double)t->max_ns ? (double)t->max_ns : most;
            return least + (most - least) * (wanted - below) / here;
        }
        below += here;
    }
    return 0;
}
