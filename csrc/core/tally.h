// tally: how many calls ended in which way, and how long they ran.
//
// Each worker has a tally of its own, which it alone adds to, and its executor another for the calls that no
// worker has ended.  A reader adds them up.  The owner of a tally decides which lock guards it.  No Python.
#ifndef PYCONC_TALLY_H
#define PYCONC_TALLY_H

#include <stdint.h>

#include "histogram.h"

typedef struct tally {
    uint64_t completed;  // returned something
    uint64_t failed;     // raised something, or could not be sent or brought back
    uint64_t cancelled;  // before they began, or while they ran
    uint64_t timed_out;  // their time was over
    uint64_t died;       // lost, with their worker or with the executor
    histogram runs;      // for how long calls ran, if somebody looks
} tally;

// How many calls have ended, in whatever way.
static inline uint64_t
tally_ended(const tally *t)
{
    return t->completed + t->failed + t->cancelled + t->timed_out + t->died;
}

// Adds a part to a sum.
void tally_add(tally *sum, const tally *part);

#endif
