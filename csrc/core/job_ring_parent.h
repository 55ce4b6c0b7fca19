// job_ring_parent: the parent's side of a job ring: it pushes slots, withdraws them, collects them, and reaps
// workers that have died.  With the parent's lock, except where job_ring.h says otherwise.  No Python.
#ifndef PYCONC_JOB_RING_PARENT_H
#define PYCONC_JOB_RING_PARENT_H

#include "job_ring.h"

// A free slot, to be filled, and pushed or freed; NULL if there is none.
job_slot *job_ring_alloc(job_ring *ring);
void job_ring_free(job_ring *ring, job_slot *slot);

// From here on a worker may take it.
void job_ring_push(job_ring *ring, job_slot *slot);

// True: no worker had taken it, and none will; the slot stays allocated.
bool job_ring_withdraw(job_ring *ring, job_slot *slot);

// Asks the worker that has taken the slot to cancel it, once.  Only with doorbells.
void job_ring_request_cancel(job_ring *ring, job_slot *slot);

// Gives an allocated slot to a worker, as if the worker had taken it.  Only with doorbells, and if the worker
// has not been reaped.
void job_ring_push_to(job_ring *ring, job_slot *slot, uint32_t worker);

// True once a worker has taken it.
bool job_ring_is_taken(const job_slot *slot);

// The worker that has taken it; UINT32_MAX if none has.
uint32_t job_ring_taker(job_ring *ring, const job_slot *slot);

// Whether a pushed slot is ready still, at its place among the submissions: no worker has taken it.
bool job_ring_is_ready(job_ring *ring, job_slot *slot);

// The next slot that this worker has completed; the caller reads it and frees it.  NULL if there is none.
// *corrupt is set, and left alone otherwise, if what the worker announced cannot be.
job_slot *job_ring_pop_completion(job_ring *ring, uint32_t worker, bool *corrupt);

// The worker is dead, and the caller has popped and freed its completions.  Returns a slot that the worker
// had taken and not completed, to be freed before the next call; or NULL when there is none left, and the
// number may be given to another worker.
job_slot *job_ring_reap(job_ring *ring, uint32_t worker);

// Whether this worker asks to be replaced, and its successor has not begun.
bool job_ring_wants_relief(job_ring *ring, uint32_t worker);

// The parent can see this worker's end: it may take slots now.
void job_ring_admit(job_ring *ring, uint32_t worker);

// From here on workers finish what is ready, and leave.
void job_ring_close(job_ring *ring);

// Changes whenever a worker completes a slot.  A caller that reads it with acquire before it pops completions
// misses none that it counts.
_Atomic uint32_t *job_ring_finished(job_ring *ring);

// A thread of the parent looks at `finished` from now on: workers need not raise the eventfd.
void job_ring_disarm_wakeup(job_ring *ring);

// The thread stops looking.  False if `finished` is not `seen`: then it must pop completions, and arm again.
// The worker whose turn it is to raise the eventfd may die instead, so its death must wake the parent as
// well.
bool job_ring_arm_wakeup(job_ring *ring, uint32_t seen);

#endif
