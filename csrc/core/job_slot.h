// job_slot: a slot of a job ring: a message, and what the parent and the worker agree on about its calls.
//
// Which process has the slot says its claim word, see job_ring.h.  A slot stands for many calls, with a
// *range* of those that its worker has yet to make, or for one call, which the parent may stop while it
// runs.  Its word `range` then tells which process decides how that call ends:
//
//     (a range)            the slot stands for what may not be stopped, and nobody decides
//     STOPPABLE ----------------------------------> FINISHED     the worker, before it completes the slot
//         |  the parent, for one of three reasons     ^
//         +-----------> ASKED ------------------------'          the same: an end that was asked for
//         |               |  the parent's patience is over
//         '---------------+--> CONDEMNED                         the parent kills the worker
//
// Each step is one compare-and-swap.  A worker whose slot is CONDEMNED takes nothing more, and waits for its
// death; after a while it ends itself, as it may be a stray write that has condemned it.  One that has
// FINISHED is not killed for that slot.  So the parent never kills a worker for a call that is over, and
// never while the worker runs another.  No Python.
#ifndef PYCONC_JOB_SLOT_H
#define PYCONC_JOB_SLOT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "stop_reason.h"

#define JOB_SLOT_BYTES 512

// Values that no stray write makes, and that no range has: its upper half is the number of a call.
#define JOB_SLOT_STOPPABLE UINT64_C(0xf7a73bbb57a73bbb)
#define JOB_SLOT_ASKED(reason) (UINT64_C(0xf7a73ccc57a73ccc) + UINT64_C(0x100000001) * (unsigned)(reason))
#define JOB_SLOT_CONDEMNED UINT64_C(0xf7a73ddd57a73ddd)
#define JOB_SLOT_FINISHED UINT64_C(0xf7a73eee57a73eee)

// Another one; no time, as it is negative.
#define JOB_SLOT_NOT_BEGUN INT64_C(-0x0858c5556a58c556)

typedef struct job_slot {
    _Alignas(64) _Atomic uint32_t claim;
    // 1 once the worker has taken over the block that the message names; push() makes it 0.
    _Atomic uint32_t accepted;
    // Of a slot that stands for many calls: the number of the next call, and that of the first one that is
    // another slot's by now.  See job_slot_next().  Of a slot that stands for one call: which side decides
    // how it ends, one of the values above.  Here, so that a short message shares one cache line with it.
    _Atomic uint64_t range;
    // When the worker began with what it has taken, by either clock; push() makes it JOB_SLOT_NOT_BEGUN.
    _Atomic int64_t began_ns;
    unsigned char message[JOB_SLOT_BYTES - 40];
    // Of a call that may be stopped, for its worker to know: how long it may run, and when it must have
    // ended.
    int64_t timeout_ns, deadline_ns;
} job_slot;

_Static_assert(sizeof(job_slot) == JOB_SLOT_BYTES, "the layout is shared");

// Notes when the worker begins with a slot that it has taken, for the case that it dies meanwhile, or has a
// limited time.
void job_slot_begin(job_slot *slot, int64_t now_ns);

// The same time, for the parent; JOB_SLOT_NOT_BEGUN if it has not begun.
int64_t job_slot_began(const job_slot *slot);

// ---- ranges ----

// Sets the calls that an allocated slot stands for: 0 to count - 1.
void job_slot_set_range(job_slot *slot, uint32_t count);

// The number of the worker's next call, or UINT32_MAX when the rest is another slot's.
uint32_t job_slot_next(job_slot *slot);

// Takes the calls from the middle of what is left to the end away from the worker that runs the slot: returns
// how many it keeps in all, out of `count`; `count` if there was nothing to take.
uint32_t job_slot_split(job_slot *slot, uint32_t count);

// ---- stopping ----

// In place of job_slot_set_range(): the allocated slot's one call may be stopped once a worker has taken it.
void job_slot_set_stoppable(job_slot *slot, int64_t timeout_ns, int64_t deadline_ns);

// The parent: has the worker end the call.  False: the call has ended, or may not be stopped.
bool job_slot_ask(job_slot *slot, stop_reason reason);

// The parent: decides to kill the worker that has taken the slot.  False: as above; the worker must live.
bool job_slot_condemn(job_slot *slot);

// The parent, after it could not ask or condemn: whether that is so because the call has ended.  Else a stray
// write has hit the word that says how it ends.
bool job_slot_has_ended(const job_slot *slot);

// A worker: whether it may be stopped; whether it is to be, and why.
bool job_slot_is_stoppable(const job_slot *slot);
stop_reason job_slot_asked(const job_slot *slot);

// A worker, before job_ring_complete().  False: the slot is not its any more, and it is about to be killed.
bool job_slot_finish(job_slot *slot);

// Whether the word that says how the call ends has a value that one of the sides writes.
bool job_slot_is_sound(const job_slot *slot);

#endif
