#include "tally.h"

void
tally_add(tally *sum, const tally *part)
{
    sum->completed += part->completed;
    sum->failed += part->failed;
    sum->cancelled += part->cancelled;
    sum->timed_out += part->timed_out;
    sum->died += part->died;
    histogram_merge(&sum->runs, &part->runs);
}
