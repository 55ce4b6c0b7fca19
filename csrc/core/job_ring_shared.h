// job_ring_shared: what of a job ring lies in shared memory, and the values of its words.  Only the files of
// a job ring look there.  No Python.
#ifndef PYCONC_JOB_RING_SHARED_H
#define PYCONC_JOB_RING_SHARED_H

#include <signal.h>

#include "job_slot.h"

// Claim words: the state in the two lowest bits; above them a position for READY, a worker for TAKEN.
enum {
    CLAIM_FREE,
    CLAIM_READY,
    CLAIM_TAKEN
};
#define CLAIM_BITS 2
#define CLAIM_STATE(claim) ((claim) & 3u)

// What both sides write has values that a stray write does not make: neither zeros, nor ones, nor text, nor
// one of these with a bit or two flipped.  A copy of one may stand elsewhere all the same, so a worker that
// sleeps may look as if it did not: a process that must reach it rings whatever its state.
enum worker_state {
    WORKER_NONE = 0x57a70111,      // no worker has this number
    WORKER_BUSY = 0x57a70222,      // it runs something, or looks for it
    WORKER_SPINNING = 0x57a70333,  // it will see what is pushed
    WORKER_ASLEEP = 0x57a70444,    // on this word
    WORKER_CALLED = 0x57a70555,    // another process has notified it, and it will look for work
    WORKER_OPEN = 0x57a70666,      // it runs something, has room for more, and watches its doorbell
};

enum {
    WAKEUP_DISARMED = 0x57a71777,
    WAKEUP_ARMED = 0x57a71888
};

enum {
    RING_OPEN = 0x57a72999,
    RING_CLOSED = 0x57a72aaa
};

enum relief {
    RELIEF_NONE = 0x57a73111,
    RELIEF_WANTED = 0x57a73222,
    RELIEF_GRANTED = 0x57a73333
};

// The submission ring has room for as many positions that are dead as for live ones; see make_room().
#define RING_SLACK 2
// Code in a worker may close the parent's eventfd, and open another that then has its number, device and
// inode.  So the open file is marked, with a signal for which nobody has a use; without O_ASYNC the kernel
// sends none.
#define WAKEUP_MARK SIGSTKFLT

typedef struct job_ring_shared {
    uint64_t size_bytes;
    uint32_t slot_count, worker_count;
    _Alignas(64) _Atomic uint32_t tail;      // positions written; the parent
    _Atomic uint32_t closed;                 // RING_OPEN or RING_CLOSED; the parent
    _Alignas(64) _Atomic uint32_t head;      // no position before it is ready; every process, forward
    _Alignas(64) _Atomic uint32_t finished;  // workers count what they finish
    _Atomic uint32_t need_wakeup;            // set by both sides, see job_ring_arm_wakeup()
} job_ring_shared;

typedef struct completion_ring {
    _Alignas(64) _Atomic uint32_t tail;  // slots finished; the worker
    _Atomic uint32_t taken;              // slots begun with, for the parent's statistics only; the worker
    _Atomic uint32_t generation;         // workers reaped; the parent
    _Atomic uint32_t numbers[];          // of slots, slot_count of them: it can never be full
} completion_ring;

typedef struct inbox {
    _Alignas(64) _Atomic uint32_t tail;  // entries written; the parent
    _Atomic uint32_t entries[];          // a slot's number, and 1 bit: it is handed.  It can never be full
} inbox;

// A slot may be handed over and then cancelled before the worker has looked.
#define INBOX_SLACK 2

_Static_assert(sizeof(job_ring_shared) == 256, "the layout is shared");
_Static_assert(ATOMIC_INT_LOCK_FREE == 2 && ATOMIC_LLONG_LOCK_FREE == 2,
               "a lock in shared memory would die with its holder");

static inline uint32_t
job_ring_ready_at(uint32_t position)
{
    return position << CLAIM_BITS | CLAIM_READY;
}

static inline uint32_t
job_ring_taken_by(uint32_t worker)
{
    return worker << CLAIM_BITS | CLAIM_TAKEN;
}

// Relaxed: each word is looked at by itself, and one that a worker is just changing is sound before and
// after.
static inline uint32_t
job_ring_peek(const _Atomic uint32_t *word)
{
    return atomic_load_explicit(word, memory_order_relaxed);
}

static inline bool
job_ring_is_worker_state(uint32_t state)
{
    return state == WORKER_NONE || state == WORKER_BUSY || state == WORKER_SPINNING || state == WORKER_ASLEEP
           || state == WORKER_CALLED || state == WORKER_OPEN;
}

#endif
