#include "histogram.h"

void
histogram_merge(histogram *sum, const histogram *part)
{
    sum->total_ns += part->total_ns;
    sum->max_ns = part->max_ns > sum->max_ns ? part->max_ns : sum->max_ns;
    for (int i = 0; i < HISTOGRAM_BUCKETS; i++) {
        sum->buckets[i] += part->buckets[i];
    }
}

uint64_t
histogram_count(const histogram *h)
{
    uint64_t count = 0;
    for (int i = 0; i < HISTOGRAM_BUCKETS; i++) {
        count += h->buckets[i];
    }
    return count;
}

uint64_t
histogram_quantiles(const histogram *h, int count, const double *shares, double *found_ns)
{
    uint64_t calls = histogram_count(h);
    double all = (double)calls;
    uint64_t below = 0;
    int next = 0;
    for (int i = 0; i < HISTOGRAM_BUCKETS && next < count; i++) {
        uint64_t here = h->buckets[i];
        for (; here > 0 && next < count && (double)(below + here) >= shares[next] * all; next++) {
            double least = i == 0 ? 0 : (double)(UINT64_C(1) << i);
            double most = (double)(UINT64_C(1) << i) * 2;
            // None is longer than the longest.
            most = most > (double)h->max_ns ? (double)h->max_ns : most;
            found_ns[next] = least + (most - least) * (shares[next] * all - (double)below) / (double)here;
        }
        below += here;
    }
    for (; next < count; next++) {
        found_ns[next] = 0;
    }
    return calls;
}
