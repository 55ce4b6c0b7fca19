// job_ring: one process pushes jobs, many workers take them, and exactly one worker takes each.
//
// The ring lies in memory that all of these processes have mapped:
//
//     submissions   positions 0, 1, 2, ...: which slot was pushed there      the parent writes
//     slots         each with a claim word and room for a message            the slot's present owner
//     states        per worker: whether it sleeps, on this very word         that worker, and the notifier
//     completions   per worker: the slots that it has completed, in order    that worker
//     inboxes       per worker: slots that it should cancel, or run          the parent
//
// A slot's life is that of its claim word:
//
//                 push                     claim                   complete, pop_completion
//     FREE -----------------> READY at p ---------> TAKEN by w ------------------------> FREE
//                                |                      |
//                                | withdraw             | the worker has died: reap
//                                '----> FREE            '----> FREE
//
// READY carries the slot's position among the submissions.  A worker goes along them from `head` and tries to
// change "ready at p" into "taken by me" with one compare-and-swap; the parent changes it back to free in the
// same way to withdraw the slot.  One of them wins, so the parent can withdraw a slot until the moment at
// which a worker takes it, and a free worker never waits for a busy one.  A worker that was stopped for long
// may look at a position whose slot the parent has pushed anew elsewhere; the position does not match, and
// the worker goes on.  `head` only says that no slot before it is ready; any process moves it forward.
// Workers take slots in the order of their positions; one may be overtaken while the parent makes room in a
// submission ring that is full of positions whose slots it has withdrawn.
//
// *Admission.*  A worker that has begun waits on its state word until the parent admits it.  The parent does
// so once it can see the worker's end, so a worker of which the parent knows nothing takes nothing.
//
// The processes share no lock, so no dead owner can keep one.  Where a worker may die:
//     before its claim              nothing has happened; if it was notified, the parent notifies another
//     while it notifies another     reap() wakes every notified worker again, as it may still sleep
//     after its claim               the slot says so: reap() returns it
//     while it writes the outcome   the same: it has announced nothing
//     after its announcement        the parent pops the completion before it reaps the worker
// If the parent dies, every worker dies, and the memory goes with them.
//
// *Notifying.*  A worker without work spins for a while and then sleeps on its state word.  A process that
// pushes a slot notifies one sleeper, unless one worker spins or is on its way already; a worker that takes a
// slot and leaves others behind does the same.  So no worker wakes without need, and no slot stays ready
// while every worker sleeps.  The parent looks at `finished`; before it sleeps it arms `need_wakeup`, and the
// first worker that completes a slot then disarms it and raises the eventfd, once.
//
// *Doorbells.*  A worker that runs an event loop cannot sleep on a word, and takes many slots at a time.  A
// ring for such workers has an eventfd per worker, which the loop watches.  A worker says by its state
// whether it is ASLEEP, with nothing to do, or OPEN: at work, with room for more.  A process that pushes a
// slot rings for one that sleeps; if none sleeps, for all that are open, because it cannot tell which of them
// has time.
//
// *Inboxes* have one reader each: the parent asks that worker to cancel a slot that it has taken, or gives it
// a slot that no other worker may take, which is TAKEN from the start.  A worker reads its inbox, in order,
// before it takes a slot, so an entry never means a later job in the same slot.
//
// *Relief.*  A worker may ask to be replaced, and goes on until its successor has begun.  They take turns: at
// most one of them takes slots, so there is never one worker less, nor one more.  Worker `n` is succeeded by
// n + half of the workers, and that one by `n`.  A word in `reliefs`, of the one that asks, says how far it
// is:
//
//     NONE --------> WANTED ---------> GRANTED --------> NONE
//          it asks      ^   its successor  |   it leaves; or it is dead, and the parent says so
//                       '------------------'
//                         the successor is dead: the parent
//
// The parent learns from an eventfd that one asks, which is not the ring's affair, and starts its successor.
//
// How calls are stopped says job_slot.h; what the parent does about workers that are stopped, or write where
// they should not, job_ring_check.h.
//
//     job_ring.c           the layout, and what both sides do
//     job_ring_parent.c    the parent: pushes, withdraws, collects, reaps
//     job_ring_worker.c    a worker: takes, waits, completes, is relieved
//     job_ring_check.c     the parent: looks after stopped workers and stray writes
//     job_ring_look.c      counts, for whoever asks
//
// The parent calls its functions with one lock held, except for job_ring_disarm_wakeup() and
// job_ring_arm_wakeup().  One thread calls each worker's functions.  Each side checks what the other wrote.
// No Python.
#ifndef PYCONC_JOB_RING_H
#define PYCONC_JOB_RING_H

#include "job_ring_shared.h"
#include "park.h"
#include "shm_region.h"

// A process's view of the ring.  The fields of the lower half are the parent's, under its lock.
typedef struct job_ring {
    job_ring_shared *shared;
    _Atomic uint32_t *submissions;
    _Atomic uint32_t *states;
    _Atomic uint32_t *reliefs;
    unsigned char *completions;  // see job_ring_completions()
    unsigned char *inboxes;      // see job_ring_inbox()
    job_slot *slots;
    uint32_t slot_count, worker_count;
    int wakeup_fd;         // eventfd; borrowed
    const int *doorbells;  // eventfds, one per worker; borrowed.  NULL: workers sleep on their state words
    uint32_t inbox_read;   // of a worker's view: how far it has read its inbox,
    uint32_t completed;    //   and how many slots it has completed,
    uint32_t taken;        //   and begun with

    uint32_t *free_slots;
    uint32_t free_count;
    bool *is_allocated;                   // per slot: not among the free ones
    uint32_t *given;                      // per slot: the claim word that the parent wrote last
    uint32_t tail;                        // what the parent wrote last to the shared words of these names:
    bool is_closed;                       //   a stray write of a worker may change those
    uint32_t *inbox_tails, *generations;  // per worker: the same
    uint32_t *collected;                  // per worker: how far its completions have been popped
} job_ring;

// Bytes for so many slots (a power of two) and workers.
uint64_t job_ring_size(uint32_t slots, uint32_t workers);

// The parent lays the ring out in zeroed memory, aligned to 64.  SHM_OK or SHM_NO_MEMORY.
int job_ring_init(job_ring *ring, void *memory, uint32_t slots, uint32_t workers, int wakeup_fd);

// Lays the ring out anew, empty.  No worker may be left; no slot is the caller's any longer.
void job_ring_reset(job_ring *ring);

// A worker looks at what its parent laid out in `bytes` of memory.  SHM_OK or SHM_NOT_OURS.
int job_ring_attach(job_ring *ring, void *memory, uint64_t bytes, int wakeup_fd);

// Workers have these doorbells, one each; borrowed.  Both sides call it before anything else.
void job_ring_use_doorbells(job_ring *ring, const int *doorbells);

// Frees what the parent's view needed; accepts NULL fields.
void job_ring_fini(job_ring *ring);

// Whether a slot is ready.
bool job_ring_has_ready(job_ring *ring);

// Notifies a worker if a slot is ready and no worker is on its way; for after a death.
void job_ring_notify(job_ring *ring);

// How many workers with this number the parent has reaped, as the present one knows it.
uint32_t job_ring_generation(job_ring *ring, uint32_t worker);

// ---- for the files of a ring ----

// A worker's inbox.
inbox *job_ring_inbox(job_ring *ring, uint32_t worker);

// Rings a worker's doorbell or wakes it, whatever its state; if its state is `from`, makes it `to` and rings;
// a slot is ready: makes sure that a worker comes for it.
void job_ring_ring(job_ring *ring, uint32_t worker);
bool job_ring_call_if(job_ring *ring, uint32_t worker, uint32_t from, uint32_t to);
void job_ring_call_worker(job_ring *ring);

// A worker takes nothing more: its successor may.
void job_ring_end_relief(job_ring *ring, uint32_t worker);

// What follows is inline because every job comes through it: as calls it took 30 instructions more for a job,
// of 430 in the ring, by cachegrind.

static inline _Atomic uint32_t *
job_ring_entry_at(job_ring *ring, uint32_t position)
{
    return &ring->submissions[position & (RING_SLACK * ring->slot_count - 1)];
}

// How many positions were written; the parent knows it without the shared word.  The caller says why its
// order is enough, with "relaxed" or "consistent".
static inline uint32_t
job_ring_tail_of(job_ring *ring, memory_order order)
{
    return ring->given != NULL ? ring->tail : atomic_load_explicit(&ring->shared->tail, order);
}

// The number of the worker that this one replaces, and that replaces it.
static inline uint32_t
job_ring_twin_of(job_ring *ring, uint32_t worker)
{
    uint32_t half = ring->worker_count / 2;
    return worker < half ? worker + half : worker - half;
}

static inline uint64_t
job_ring_align(uint64_t bytes)
{
    return (bytes + 63) & ~(uint64_t)63;
}

static inline uint64_t
job_ring_completion_bytes(uint32_t slots)
{
    return job_ring_align(sizeof(completion_ring) + (uint64_t)slots * sizeof(uint32_t));
}

// What a worker has completed.
static inline completion_ring *
job_ring_completions(job_ring *ring, uint32_t worker)
{
    return (completion_ring *)(ring->completions + worker * job_ring_completion_bytes(ring->slot_count));
}

// The slot that was pushed at a position, if it is still ready there.
static inline job_slot *
job_ring_ready_slot(job_ring *ring, uint32_t position)
{
    // Relaxed: the tail that this process has seen published the entry; if the parent is writing it anew, the
    // position does not match.
    uint32_t number = atomic_load_explicit(job_ring_entry_at(ring, position), memory_order_relaxed);
    if (number >= ring->slot_count) {
        return NULL;
    }
    job_slot *slot = &ring->slots[number];
    uint32_t claim = atomic_load_explicit(&slot->claim, memory_order_relaxed);
    return claim == job_ring_ready_at(position) ? slot : NULL;
}

// Moves head to `position`, before which nothing is ready.
static inline void
job_ring_settle(job_ring *ring, uint32_t position)
{
    _Atomic uint32_t *head = &ring->shared->head;
    // Relaxed: a hint where to begin.  Positions wrap around, hence the signed differences, and the position
    // of a worker that was stopped half a turn ago seems to lie ahead, even of the tail.
    uint32_t seen = atomic_load_explicit(head, memory_order_relaxed);
    while ((int32_t)(position - seen) > 0
           && (int32_t)(job_ring_tail_of(ring, memory_order_relaxed) - position) >= 0
           && !atomic_compare_exchange_weak_explicit(head, &seen, position, memory_order_relaxed,
                                                     memory_order_relaxed)) {
    }
}

// The first position that is ready, or the tail.
static inline uint32_t
job_ring_first_ready(job_ring *ring)
{
    // Relaxed: a hint where to begin; no slot is ready before it.
    uint32_t position = atomic_load_explicit(&ring->shared->head, memory_order_relaxed);
    // Sequentially consistent, as the store in advance() and the states are: the process that pushes sees
    // asleep every worker that has said that it sleeps and then sees the old tail.
    uint32_t tail = job_ring_tail_of(ring, memory_order_seq_cst);
    uint32_t length = RING_SLACK * ring->slot_count;
    if (tail - position > length) {
        // A head that no process writes on purpose, or a tail that is older than the head; the entries before
        // it have been written over.
        position = tail - length;
    }
    while (position != tail && job_ring_ready_slot(ring, position) == NULL) {
        position++;
    }
    job_ring_settle(ring, position);
    return position;
}

#endif
