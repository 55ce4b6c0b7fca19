// job_ring_worker: a worker's side of a job ring: it takes slots, waits for them, completes them, and is
// replaced.  One thread calls these for each worker.  No Python.
#ifndef PYCONC_JOB_RING_WORKER_H
#define PYCONC_JOB_RING_WORKER_H

#include "job_ring.h"

enum {
    JOB_RING_WORK = 0,       // There may be work.
    JOB_RING_LISTENS = 1,    // The doorbell will ring.
    JOB_RING_CLOSED = -10,   // There never will be.
    JOB_RING_DAMAGED = -11,  // A stray write has hit the ring.
};

// Blocks until the parent has admitted the worker.  False if a signal handler has run before.
bool job_ring_wait_admitted(job_ring *ring, uint32_t worker);

// The worker is there, and counts as busy.
void job_ring_enter(job_ring *ring, uint32_t worker);

// The next slot that is ready, now taken by this worker; or NULL.
job_slot *job_ring_claim(job_ring *ring, uint32_t worker);

// Blocks until there may be work, or never will be, or the ring is damaged.  Returns early, with work or
// without, when a signal handler has run or the deadline is over, by clock_now_ns() or FUTEX_NO_DEADLINE.
int job_ring_wait(job_ring *ring, uint32_t worker, park_spot *spot, int64_t deadline_ns);

// Instead of waiting, for a worker with a doorbell: it is to be rung when there is work, or never will be.
// JOB_RING_WORK: there is some already, or something in the inbox; JOB_RING_LISTENS; JOB_RING_CLOSED;
// JOB_RING_DAMAGED.
int job_ring_listen(job_ring *ring, uint32_t worker, bool is_idle);

// Whether the parent has closed the ring.
bool job_ring_is_closed(job_ring *ring);

// The next slot in this worker's inbox; NULL if there is none.  *is_handed: it is to be run, else it is to
// be cancelled, if it still runs.
job_slot *job_ring_read_inbox(job_ring *ring, uint32_t worker, bool *is_handed);

// At most how many slots are ready.
uint32_t job_ring_ready_count(job_ring *ring);

// Tells the parent that the outcome is in the slot.  False: the parent must be woken, and the eventfd is
// gone, for instance because code in the worker has closed all files.  The worker must then end, so that its
// parent looks.
bool job_ring_complete(job_ring *ring, uint32_t worker, job_slot *slot);

// The worker takes nothing from here on.
void job_ring_exit(job_ring *ring, uint32_t worker);

// ---- relief, in a ring whose workers have successors ----

// Asks for this worker's replacement.
void job_ring_ask_relief(job_ring *ring, uint32_t worker);

// Whether the successor has begun, and waits for this worker to leave.
bool job_ring_is_relieved(job_ring *ring, uint32_t worker);

// A worker, once it is admitted and before it takes anything: blocks until the one that it is to replace has
// left.  False if a signal handler has run before.
bool job_ring_succeed(job_ring *ring, uint32_t worker);

#endif
