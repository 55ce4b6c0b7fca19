// job_ring_look: what workers say that they do, for whoever asks.  A stray write makes only these numbers
// wrong.  No Python.
#ifndef PYCONC_JOB_RING_LOOK_H
#define PYCONC_JOB_RING_LOOK_H

#include "job_ring.h"

// How many slots workers say that they run, which are not popped yet, and how many workers that are.  A stray
// write makes only these numbers wrong.
typedef struct job_ring_load {
    uint32_t running, busy;
} job_ring_load;
job_ring_load job_ring_look(job_ring *ring);

// What a worker does, as a copy of the ring tells, to which job_ring_attach() has agreed.
typedef struct job_ring_sight {
    bool is_there;            // the parent has admitted a worker with this number
    uint32_t running, ended;  // slots
    const job_slot *slot;     // of those that it runs, the one with which it has begun first; NULL: none
} job_ring_sight;

// The same for every number of a worker; stray writes make only these wrong.
void job_ring_survey(job_ring *copy, job_ring_sight *sights);

// How many of a worker's completions have been popped.
uint32_t job_ring_collected(const job_ring *ring, uint32_t worker);

#endif
