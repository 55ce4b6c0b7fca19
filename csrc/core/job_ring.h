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
// *Stopped workers.*  A worker that was notified, or that spins, may be stopped, or get no CPU.  While a slot
// is ready the parent looks again after a while: it stops counting on such workers and notifies another.
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
// *Stopping.*  A slot may stand for a call that the parent may stop while it runs.  Its word `range` then
// tells which process decides how that call ends:
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
// never while the worker runs another.
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
// *Stray writes.*  Any worker may write anywhere in the ring by mistake.  The parent reads back nothing that
// it wrote: it keeps its own copy, and job_ring_is_intact() compares.  States have values that no stray write
// makes.  A worker that is about to sleep looks at the words that would wake it, and returns JOB_RING_DAMAGED
// instead.  The parent looks before it sleeps and after a worker's death.  A damaged ring is of no use: the
// parent ends every worker, and lays the ring out anew.
//
// The parent calls its functions with one lock held, except for job_ring_disarm_wakeup() and
// job_ring_arm_wakeup().  One thread calls each worker's functions.  Each side checks what the other wrote.
// No Python.
#ifndef PYCONC_JOB_RING_H
#define PYCONC_JOB_RING_H

#include <stdbool.h>
#include <stddef.h>

#include "park.h"
#include "shm_region.h"
#include "stop_reason.h"

enum {
    JOB_RING_WORK = 0,       // There may be work.
    JOB_RING_LISTENS = 1,    // The doorbell will ring.
    JOB_RING_CLOSED = -10,   // There never will be.
    JOB_RING_DAMAGED = -11,  // A stray write has hit the ring.
};

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

typedef struct job_ring_shared job_ring_shared;

// A process's view of the ring.  The fields of the lower half are the parent's, under its lock.
typedef struct job_ring {
    job_ring_shared *shared;
    _Atomic uint32_t *submissions;
    _Atomic uint32_t *states;
    _Atomic uint32_t *reliefs;
    unsigned char *completions;  // see completions_of()
    unsigned char *inboxes;      // see inbox_of()
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

// ---- the parent ----

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

// How many workers with this number the parent has reaped, as the present one knows it.
uint32_t job_ring_generation(job_ring *ring, uint32_t worker);

// True once a worker has taken it.
bool job_ring_is_taken(const job_slot *slot);

// The worker that has taken it; UINT32_MAX if none has.
uint32_t job_ring_taker(job_ring *ring, const job_slot *slot);

// The next slot that this worker has completed; the caller reads it and frees it.  NULL if there is none.
// *corrupt is set, and left alone otherwise, if what the worker announced cannot be.
job_slot *job_ring_pop_completion(job_ring *ring, uint32_t worker, bool *corrupt);

// The worker is dead, and the caller has popped and freed its completions.  Returns a slot that the worker
// had taken and not completed, to be freed before the next call; or NULL when there is none left, and the
// number may be given to another worker.
job_slot *job_ring_reap(job_ring *ring, uint32_t worker);

// Whether every shared word has a value that the parent or a worker writes on purpose.  A worker runs code
// that is not pyconc's, such as an extension with a wild pointer, and may write anywhere.  Takes time in
// proportion to the slots in use.  A head that a stray write has moved beyond a ready slot is moved back.
bool job_ring_is_intact(job_ring *ring);

// Whether a pushed slot is ready still, at its place among the submissions: no worker has taken it.
bool job_ring_is_ready(job_ring *ring, job_slot *slot);

// Notifies a worker if a slot is ready and no worker is on its way; for after a death.
void job_ring_notify(job_ring *ring);

// For when some slot has been ready for a while: workers that were notified, or spin, have not come.  The
// parent counts on them no longer, and notifies another.  True if that one is on its way; if false, no worker
// sleeps while a slot is ready.  A worker that is only slow loses nothing.
bool job_ring_notify_others(job_ring *ring);

// Whether this worker asks to be replaced, and its successor has not begun.
bool job_ring_wants_relief(job_ring *ring, uint32_t worker);

// The parent can see this worker's end: it may take slots now.
void job_ring_admit(job_ring *ring, uint32_t worker);

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

// Whether a slot is ready.
bool job_ring_has_ready(job_ring *ring);

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

// ---- a worker ----

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

// Notes when the worker begins with a slot that it has taken, for the case that it dies meanwhile, or has a
// limited time.
void job_slot_begin(job_slot *slot, int64_t now_ns);

// The same time, for the parent; JOB_SLOT_NOT_BEGUN if it has not begun.
int64_t job_slot_began(const job_slot *slot);

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

#endif
