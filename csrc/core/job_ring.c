#define _GNU_SOURCE
#include "job_ring.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"

// ---- layout ----

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

struct job_ring_shared {
    uint64_t size_bytes;
    uint32_t slot_count, worker_count;
    _Alignas(64) _Atomic uint32_t tail;      // positions written; the parent
    _Atomic uint32_t closed;                 // RING_OPEN or RING_CLOSED; the parent
    _Alignas(64) _Atomic uint32_t head;      // no position before it is ready; every process, forward
    _Alignas(64) _Atomic uint32_t finished;  // workers count what they finish
    _Atomic uint32_t need_wakeup;            // set by both sides, see job_ring_arm_wakeup()
};

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

static uint64_t
align(uint64_t bytes)
{
    return (bytes + 63) & ~(uint64_t)63;
}

static uint64_t
completion_bytes(uint32_t slots)
{
    return align(sizeof(completion_ring) + (uint64_t)slots * sizeof(uint32_t));
}

static uint64_t
inbox_bytes(uint32_t slots)
{
    return align(sizeof(inbox) + (uint64_t)INBOX_SLACK * slots * sizeof(uint32_t));
}

static inbox *
inbox_of(job_ring *ring, uint32_t worker)
{
    return (inbox *)(ring->inboxes + worker * inbox_bytes(ring->slot_count));
}

static completion_ring *
completions_of(job_ring *ring, uint32_t worker)
{
    return (completion_ring *)(ring->completions + worker * completion_bytes(ring->slot_count));
}

// Where each part is, and how large it all is.
static uint64_t
lay_out(job_ring *ring, unsigned char *memory, uint32_t slots, uint32_t workers)
{
    uint64_t at = sizeof(job_ring_shared);
    ring->shared = (job_ring_shared *)memory;
    ring->slot_count = slots;
    ring->worker_count = workers;
    ring->states = (_Atomic uint32_t *)(memory + at);
    at += align((uint64_t)workers * sizeof(uint32_t));
    ring->reliefs = (_Atomic uint32_t *)(memory + at);
    at += align((uint64_t)workers * sizeof(uint32_t));
    ring->submissions = (_Atomic uint32_t *)(memory + at);
    at += align((uint64_t)RING_SLACK * slots * sizeof(uint32_t));
    ring->completions = memory + at;
    at += workers * completion_bytes(slots);
    ring->inboxes = memory + at;
    at += workers * inbox_bytes(slots);
    ring->slots = (job_slot *)(memory + at);
    return at + (uint64_t)slots * sizeof(job_slot);
}

uint64_t
job_ring_size(uint32_t slots, uint32_t workers)
{
    job_ring ring;
    return lay_out(&ring, NULL, slots, workers);
}

int
job_ring_init(job_ring *ring, void *memory, uint32_t slots, uint32_t workers, int wakeup_fd)
{
    memset(ring, 0, sizeof(*ring));
    lay_out(ring, memory, slots, workers);
    ring->wakeup_fd = wakeup_fd;
    // If it cannot be marked, workers do not know it.
    (void)fcntl(wakeup_fd, F_SETSIG, WAKEUP_MARK);
    ring->free_slots = malloc(slots * sizeof(uint32_t));
    ring->given = malloc(slots * sizeof(uint32_t));
    ring->is_allocated = malloc(slots * sizeof(bool));
    ring->collected = malloc(workers * sizeof(uint32_t));
    ring->inbox_tails = malloc(workers * sizeof(uint32_t));
    ring->generations = calloc(workers, sizeof(uint32_t));
    if (ring->free_slots == NULL || ring->given == NULL || ring->is_allocated == NULL
        || ring->collected == NULL || ring->inbox_tails == NULL || ring->generations == NULL) {
        job_ring_fini(ring);
        return SHM_NO_MEMORY;
    }
    job_ring_reset(ring);
    return SHM_OK;
}

// Relaxed: there is no worker, and each later one starts after this.
static void
lay(_Atomic uint32_t *word, uint32_t value)
{
    atomic_store_explicit(word, value, memory_order_relaxed);
}

void
job_ring_reset(job_ring *ring)
{
    uint32_t slots = ring->slot_count, workers = ring->worker_count;
    ring->shared->size_bytes = job_ring_size(slots, workers);
    ring->shared->slot_count = slots;
    ring->shared->worker_count = workers;
    ring->tail = 0;
    lay(&ring->shared->tail, 0);
    lay(&ring->shared->head, 0);
    lay(&ring->shared->closed, ring->is_closed ? RING_CLOSED : RING_OPEN);
    lay(&ring->shared->need_wakeup, WAKEUP_DISARMED);
    for (uint32_t i = 0; i < workers; i++) {
        ring->collected[i] = ring->inbox_tails[i] = 0;
        lay(&ring->states[i], WORKER_NONE);
        lay(&ring->reliefs[i], RELIEF_NONE);
        lay(&inbox_of(ring, i)->tail, 0);
        lay(&completions_of(ring, i)->tail, 0);
        lay(&completions_of(ring, i)->taken, 0);
        lay(&completions_of(ring, i)->generation, ring->generations[i]);
    }
    for (uint32_t i = 0; i < slots; i++) {
        ring->free_slots[i] = slots - 1 - i;  // the first first: memory is touched as it is needed
        ring->is_allocated[i] = false;
        ring->given[i] = CLAIM_FREE;
    }
    ring->free_count = slots;
}

int
job_ring_attach(job_ring *ring, void *memory, uint64_t bytes, int wakeup_fd)
{
    job_ring_shared *shared = memory;
    memset(ring, 0, sizeof(*ring));
    if (bytes < sizeof(*shared)) {
        return SHM_NOT_OURS;
    }
    uint64_t size = shared->size_bytes;
    uint32_t slots = shared->slot_count;
    uint32_t workers = shared->worker_count;
    // Each count by itself first: the sum of what they ask for might wrap around.
    if (size > bytes || slots == 0 || (slots & (slots - 1)) != 0 || slots > size / sizeof(job_slot)
        || workers > size / completion_bytes(slots) || lay_out(ring, memory, slots, workers) != size) {
        memset(ring, 0, sizeof(*ring));
        return SHM_NOT_OURS;
    }
    ring->wakeup_fd = wakeup_fd;
    return SHM_OK;
}

void
job_ring_use_doorbells(job_ring *ring, const int *doorbells)
{
    ring->doorbells = doorbells;
}

void
job_ring_fini(job_ring *ring)
{
    free(ring->free_slots);
    free(ring->given);
    free(ring->is_allocated);
    free(ring->collected);
    free(ring->inbox_tails);
    free(ring->generations);
    memset(ring, 0, sizeof(*ring));
}

// ---- what both sides do ----

static _Atomic uint32_t *
entry_at(job_ring *ring, uint32_t position)
{
    return &ring->submissions[position & (RING_SLACK * ring->slot_count - 1)];
}

// How many positions were written; the parent knows it without the shared word.  The caller says why its
// order is enough, with "relaxed" or "consistent".
static uint32_t
tail_of(job_ring *ring, memory_order order)
{
    return ring->given != NULL ? ring->tail : atomic_load_explicit(&ring->shared->tail, order);
}

static uint32_t
ready_at(uint32_t position)
{
    return position << CLAIM_BITS | CLAIM_READY;
}

// The slot that was pushed at a position, if it is still ready there.
static job_slot *
ready_slot(job_ring *ring, uint32_t position)
{
    // Relaxed: the tail that this process has seen published the entry; if the parent is writing it anew, the
    // position does not match.
    uint32_t number = atomic_load_explicit(entry_at(ring, position), memory_order_relaxed);
    if (number >= ring->slot_count) {
        return NULL;
    }
    job_slot *slot = &ring->slots[number];
    uint32_t claim = atomic_load_explicit(&slot->claim, memory_order_relaxed);
    return claim == ready_at(position) ? slot : NULL;
}

// Moves head to `position`, before which nothing is ready.
static void
settle(job_ring *ring, uint32_t position)
{
    _Atomic uint32_t *head = &ring->shared->head;
    // Relaxed: a hint where to begin.  Positions wrap around, hence the signed differences, and the position
    // of a worker that was stopped half a turn ago seems to lie ahead, even of the tail.
    uint32_t seen = atomic_load_explicit(head, memory_order_relaxed);
    while ((int32_t)(position - seen) > 0
           && (int32_t)(tail_of(ring, memory_order_relaxed) - position) >= 0
           && !atomic_compare_exchange_weak_explicit(head, &seen, position, memory_order_relaxed,
                                                     memory_order_relaxed)) {
    }
}

// The first position that is ready, or the tail.
static uint32_t
first_ready(job_ring *ring)
{
    // Relaxed: a hint where to begin; no slot is ready before it.
    uint32_t position = atomic_load_explicit(&ring->shared->head, memory_order_relaxed);
    // Sequentially consistent, as the store in advance() and the states are: the process that pushes sees
    // asleep every worker that has said that it sleeps and then sees the old tail.
    uint32_t tail = tail_of(ring, memory_order_seq_cst);
    uint32_t length = RING_SLACK * ring->slot_count;
    if (tail - position > length) {
        // A head that no process writes on purpose, or a tail that is older than the head; the entries before
        // it have been written over.
        position = tail - length;
    }
    while (position != tail && ready_slot(ring, position) == NULL) {
        position++;
    }
    settle(ring, position);
    return position;
}

bool
job_ring_has_ready(job_ring *ring)
{
    uint32_t position = first_ready(ring);
    // Relaxed: first_ready() has read the tail in order, and the tail only grows.
    return (int32_t)(tail_of(ring, memory_order_relaxed) - position) > 0;
}

static void
ring_doorbell(job_ring *ring, uint32_t worker)
{
    if (ring->doorbells != NULL) {
        uint64_t one = 1;
        (void)!write(ring->doorbells[worker], &one, sizeof(one));
    }
    else {
        futex_wake_shared(&ring->states[worker], 1);
    }
}

// If a worker's state is `from`, makes it `to` and rings.
static bool
call_if(job_ring *ring, uint32_t worker, uint32_t from, uint32_t to)
{
    // Relaxed to look, because a worker that was busy a moment ago looks for work itself before it sleeps.
    // Sequentially consistent to ring, as all that is done to a state word.
    if (atomic_load_explicit(&ring->states[worker], memory_order_relaxed) != from
        || !atomic_compare_exchange_strong_explicit(&ring->states[worker], &from, to, memory_order_seq_cst,
                                                    memory_order_relaxed)) {
        return false;
    }
    ring_doorbell(ring, worker);
    return true;
}

// A slot is ready: makes sure that a worker comes for it.
static void
call_worker(job_ring *ring)
{
    for (uint32_t i = 0; i < ring->worker_count; i++) {
        // Sequentially consistent: see first_ready().
        uint32_t state = atomic_load_explicit(&ring->states[i], memory_order_seq_cst);
        if (state == WORKER_SPINNING || state == WORKER_CALLED) {
            return;
        }
    }
    for (uint32_t i = 0; i < ring->worker_count; i++) {
        if (call_if(ring, i, WORKER_ASLEEP, WORKER_CALLED)) {
            return;
        }
    }
    for (uint32_t i = 0; ring->doorbells != NULL && i < ring->worker_count; i++) {
        // Not CALLED: no process counts on it, as it may be busy with something else for long.
        call_if(ring, i, WORKER_OPEN, WORKER_BUSY);
    }
}

// The number of the worker that this one replaces, and that replaces it.
static uint32_t
twin_of(job_ring *ring, uint32_t worker)
{
    uint32_t half = ring->worker_count / 2;
    return worker < half ? worker + half : worker - half;
}

// A worker takes nothing more: its successor may.
static void
end_relief(job_ring *ring, uint32_t worker)
{
    // Sequentially consistent, as all that is done to these words, which order nothing else.
    if (atomic_exchange_explicit(&ring->reliefs[worker], RELIEF_NONE, memory_order_seq_cst) != RELIEF_NONE) {
        futex_wake_shared(&ring->reliefs[worker], 1);
    }
}

// ---- the parent ----

static uint32_t
taken_by(uint32_t worker)
{
    return worker << CLAIM_BITS | CLAIM_TAKEN;
}

// Writes a slot's claim word.  Relaxed if there is nothing in the slot for a worker to read, or if R11 in
// write_to_inbox() publishes it.
static void
give(job_ring *ring, job_slot *slot, uint32_t claim, memory_order order)
{
    ring->given[slot - ring->slots] = claim;
    atomic_store_explicit(&slot->claim, claim, order);
}

job_slot *
job_ring_alloc(job_ring *ring)
{
    if (ring->free_count == 0) {
        return NULL;
    }
    uint32_t number = ring->free_slots[--ring->free_count];
    ring->is_allocated[number] = true;
    return &ring->slots[number];
}

void
job_ring_free(job_ring *ring, job_slot *slot)
{
    uint32_t number = (uint32_t)(slot - ring->slots);
    give(ring, slot, CLAIM_FREE, memory_order_relaxed);
    ring->is_allocated[number] = false;
    ring->free_slots[ring->free_count++] = number;
}

static void
advance(job_ring *ring)
{
    // Sequentially consistent: see first_ready().
    atomic_store_explicit(&ring->shared->tail, ++ring->tail, memory_order_seq_cst);
}

// A slot that stays ready at the front, while the parent withdraws those behind it and pushes others, would
// in the end have its position written over, and no worker would find it.  So when the ring is full, the
// parent moves all ready slots to its end, in order: there are fewer slots than positions, so afterwards at
// least half of the ring is free, and as many pushes pass until the next time.  A worker that comes along
// meanwhile finds each slot ready in its old place or in its new one; a worker that is past the old place and
// has not seen the new one notifies no other, but the push that made room does.
static void
make_room(job_ring *ring)
{
    uint32_t end = ring->tail;
    uint32_t length = RING_SLACK * ring->slot_count;
    // Relaxed: head is a hint.
    if (end - atomic_load_explicit(&ring->shared->head, memory_order_relaxed) < length) {
        return;
    }
    uint32_t position = first_ready(ring);
    if (end - position < length) {
        return;
    }
    for (; (int32_t)(end - position) > 0; position++) {
        job_slot *slot = ready_slot(ring, position);
        uint32_t claim = ready_at(position);
        if (slot == NULL) {
            continue;  // not ready, or a worker has just taken it
        }
        // The slot that had this place has been moved, or is this very slot.  Relaxed: advance() publishes
        // the entry.
        atomic_store_explicit(entry_at(ring, ring->tail), (uint32_t)(slot - ring->slots),
                              memory_order_relaxed);
        // Relaxed: what R8 in job_ring_push() has published stays published.
        if (atomic_compare_exchange_strong_explicit(&slot->claim, &claim, ready_at(ring->tail),
                                                    memory_order_relaxed, memory_order_relaxed)) {
            ring->given[slot - ring->slots] = ready_at(ring->tail);
            advance(ring);
        }
    }
    settle(ring, end);
}

void
job_ring_push(job_ring *ring, job_slot *slot)
{
    make_room(ring);
    // Relaxed: only the parent writes these, and the store to the tail in advance() publishes them.
    atomic_store_explicit(entry_at(ring, ring->tail), (uint32_t)(slot - ring->slots),
                          memory_order_relaxed);
    atomic_store_explicit(&slot->accepted, 0, memory_order_relaxed);
    atomic_store_explicit(&slot->began_ns, JOB_SLOT_NOT_BEGUN, memory_order_relaxed);
    // R8: pairs with A8 in job_ring_claim(): the worker that takes the slot sees its message.
    give(ring, slot, ready_at(ring->tail), memory_order_release);
    advance(ring);
    call_worker(ring);
}

bool
job_ring_withdraw(job_ring *ring, job_slot *slot)
{
    uint32_t *given = &ring->given[slot - ring->slots];
    uint32_t claim = *given;
    // Relaxed: no worker has written to the slot if the exchange succeeds, and nothing is read if not.
    if (CLAIM_STATE(claim) != CLAIM_READY
        || !atomic_compare_exchange_strong_explicit(&slot->claim, &claim, CLAIM_FREE,
                                                    memory_order_relaxed, memory_order_relaxed)) {
        return false;
    }
    *given = CLAIM_FREE;
    return true;
}

bool
job_ring_is_taken(const job_slot *slot)
{
    // Relaxed: the answer is about the claim alone, and the caller reads no message because of it.
    return CLAIM_STATE(atomic_load_explicit(&slot->claim, memory_order_relaxed)) == CLAIM_TAKEN;
}

uint32_t
job_ring_taker(job_ring *ring, const job_slot *slot)
{
    // Relaxed, as above.
    uint32_t claim = atomic_load_explicit(&slot->claim, memory_order_relaxed);
    bool is_taken = CLAIM_STATE(claim) == CLAIM_TAKEN && claim >> CLAIM_BITS < ring->worker_count;
    return is_taken ? claim >> CLAIM_BITS : UINT32_MAX;
}

// Whether the worker has the slot.  Claim words alone cannot be trusted: one that was written over would put
// a slot on the free list twice.  Relaxed: the caller has come past A9, or the worker is dead.
static bool
has_taken(job_ring *ring, uint32_t worker, uint32_t number)
{
    return ring->is_allocated[number]
           && atomic_load_explicit(&ring->slots[number].claim, memory_order_relaxed) == taken_by(worker);
}

job_slot *
job_ring_pop_completion(job_ring *ring, uint32_t worker, bool *corrupt)
{
    completion_ring *completions = completions_of(ring, worker);
    uint32_t position = ring->collected[worker];
    // A9: pairs with R9 in job_ring_complete(): the slot's message and its number are there.  The number's
    // load is relaxed.
    if (atomic_load_explicit(&completions->tail, memory_order_acquire) == position) {
        return NULL;
    }
    uint32_t number = atomic_load_explicit(&completions->numbers[position & (ring->slot_count - 1)],
                                           memory_order_relaxed);
    if (number >= ring->slot_count || !has_taken(ring, worker, number)) {
        *corrupt = true;
        return NULL;
    }
    ring->collected[worker] = position + 1;
    return &ring->slots[number];
}

job_slot *
job_ring_reap(job_ring *ring, uint32_t worker)
{
    job_slot *left = NULL;
    for (uint32_t i = 0; i < ring->slot_count && left == NULL; i++) {
        if (has_taken(ring, worker, i)) {
            left = &ring->slots[i];
        }
    }
    // All relaxed: the worker has ended, and its successor starts after this.
    atomic_store_explicit(&completions_of(ring, worker)->tail, 0, memory_order_relaxed);
    atomic_store_explicit(&inbox_of(ring, worker)->tail, 0, memory_order_relaxed);
    atomic_store_explicit(&completions_of(ring, worker)->taken, 0, memory_order_relaxed);
    ring->collected[worker] = ring->inbox_tails[worker] = 0;
    // Sequentially consistent, as all that is done to a state word: see first_ready().
    atomic_store_explicit(&ring->states[worker], WORKER_NONE, memory_order_seq_cst);
    // The worker may have died between ringing a state word and waking its sleeper, on which all processes
    // count now.
    for (uint32_t i = 0; i < ring->worker_count; i++) {
        // Relaxed: the parent has waited for the end of the worker that may have written it.
        if (atomic_load_explicit(&ring->states[i], memory_order_relaxed) == WORKER_CALLED) {
            ring_doorbell(ring, i);
        }
    }
    end_relief(ring, worker);
    _Atomic uint32_t *twin = &ring->reliefs[twin_of(ring, worker)];
    uint32_t relief = RELIEF_GRANTED;
    // Sequentially consistent: see end_relief().
    (void)atomic_compare_exchange_strong_explicit(twin, &relief, RELIEF_WANTED, memory_order_seq_cst,
                                                  memory_order_relaxed);
    if (left == NULL) {
        // Relaxed: only the parent writes it, and it starts the next worker after this.
        atomic_store_explicit(&completions_of(ring, worker)->generation, ++ring->generations[worker],
                              memory_order_relaxed);
    }
    return left;
}

bool
job_ring_is_ready(job_ring *ring, job_slot *slot)
{
    uint32_t claim = ring->given[slot - ring->slots];
    return CLAIM_STATE(claim) == CLAIM_READY && ready_slot(ring, claim >> CLAIM_BITS) == slot;
}

// Relaxed: each word is looked at by itself, and one that a worker is just changing is sound before and
// after.
static uint32_t
peek(const _Atomic uint32_t *word)
{
    return atomic_load_explicit(word, memory_order_relaxed);
}

// Why a worker is to end its call, by the word that says so.
static stop_reason
asked_by(uint64_t word)
{
    for (stop_reason reason = STOP_BY_CANCEL; reason <= STOP_BY_SHUTDOWN; reason++) {
        if (word == JOB_SLOT_ASKED(reason)) {
            return reason;
        }
    }
    return STOP_NOT;
}

// Whether a word that has the upper bit of an end's values is one of them.
static bool
is_end(uint64_t word)
{
    return word >> 63 == 0 || word == JOB_SLOT_STOPPABLE || asked_by(word) != STOP_NOT
           || word == JOB_SLOT_CONDEMNED || word == JOB_SLOT_FINISHED;
}

// Whether a slot's claim word is the one that the parent gave it, or that of a worker that has taken it.
static bool
is_slot_intact(job_ring *ring, uint32_t number)
{
    const _Atomic uint32_t *word = &ring->slots[number].claim;
    uint32_t given = ring->given[number];
    uint32_t claim = peek(word);
    // Relaxed, as in peek().
    if (!is_end(atomic_load_explicit(&ring->slots[number].range, memory_order_relaxed))) {
        return false;
    }
    if (CLAIM_STATE(given) != CLAIM_READY) {
        return claim == given;
    }
    if (CLAIM_STATE(claim) == CLAIM_TAKEN) {
        return claim >> CLAIM_BITS < ring->worker_count;
    }
    // A claim word has the low bits of a position; they are enough to find its place.  A worker may take the
    // slot meanwhile.
    return claim == given && (job_ring_is_ready(ring, &ring->slots[number]) || peek(word) != given);
}

// Moves head back if it stands behind a slot that is ready: true if so.  No process moves it there by intent,
// so a stray write has; a head that is too far back costs a look at some positions, and nothing else.
static bool
reach_slot(job_ring *ring, uint32_t number)
{
    uint32_t given = ring->given[number];
    if (CLAIM_STATE(given) != CLAIM_READY || peek(&ring->slots[number].claim) != given) {
        return false;
    }
    uint32_t head = peek(&ring->shared->head);
    // The low bits of the distance; it is no longer than the ring of submissions if the head makes sense.
    uint32_t behind = (head - (given >> CLAIM_BITS)) << CLAIM_BITS >> CLAIM_BITS;
    bool is_beyond = behind != 0 && behind <= RING_SLACK * ring->slot_count;
    if (is_beyond) {
        // Sequentially consistent: a worker that says after this that it sleeps sees it before it does.
        atomic_store_explicit(&ring->shared->head, head - behind, memory_order_seq_cst);
    }
    return is_beyond;
}

static bool
is_head_intact(const job_ring *ring)
{
    job_ring_shared *shared = ring->shared;
    uint32_t need_wakeup = peek(&shared->need_wakeup);
    return shared->size_bytes == job_ring_size(ring->slot_count, ring->worker_count)
           && shared->slot_count == ring->slot_count && shared->worker_count == ring->worker_count
           && peek(&shared->tail) == ring->tail && (int32_t)(ring->tail - peek(&shared->head)) >= 0
           && peek(&shared->closed) == (ring->is_closed ? RING_CLOSED : RING_OPEN)
           && (need_wakeup == WAKEUP_ARMED || need_wakeup == WAKEUP_DISARMED);
}

static bool
is_worker_state(uint32_t state)
{
    return state == WORKER_NONE || state == WORKER_BUSY || state == WORKER_SPINNING || state == WORKER_ASLEEP
           || state == WORKER_CALLED || state == WORKER_OPEN;
}

static bool
is_worker_intact(job_ring *ring, uint32_t worker)
{
    uint32_t state = peek(&ring->states[worker]), relief = peek(&ring->reliefs[worker]);
    return is_worker_state(state)
           && (relief == RELIEF_NONE || relief == RELIEF_WANTED || relief == RELIEF_GRANTED)
           && peek(&completions_of(ring, worker)->generation) == ring->generations[worker]
           && peek(&inbox_of(ring, worker)->tail) == ring->inbox_tails[worker];
}

bool
job_ring_is_intact(job_ring *ring)
{
    bool intact = is_head_intact(ring), is_moved = false;
    for (uint32_t i = 0; intact && i < ring->worker_count; i++) {
        intact = is_worker_intact(ring, i);
    }
    for (uint32_t i = 0; intact && ring->free_count < ring->slot_count && i < ring->slot_count; i++) {
        if (ring->is_allocated[i]) {
            intact = is_slot_intact(ring, i);
            is_moved |= reach_slot(ring, i);
        }
    }
    if (is_moved) {
        job_ring_notify(ring);
    }
    return intact;
}

void
job_ring_notify(job_ring *ring)
{
    if (job_ring_has_ready(ring)) {
        call_worker(ring);
    }
}

bool
job_ring_notify_others(job_ring *ring)
{
    for (uint32_t i = 0; ring->free_count < ring->slot_count && i < ring->slot_count; i++) {
        if (ring->is_allocated[i]) {
            (void)reach_slot(ring, i);
        }
    }
    if (!job_ring_has_ready(ring)) {
        return false;
    }
    for (uint32_t i = 0; i < ring->worker_count; i++) {
        // Relaxed to look: a worker that has changed it since is not late.
        uint32_t state = atomic_load_explicit(&ring->states[i], memory_order_relaxed);
        // The worker itself makes it BUSY when it comes, and looks for work before it sleeps.  Sequentially
        // consistent, as all that is done to a state word.
        if (state == WORKER_CALLED || state == WORKER_SPINNING) {
            (void)atomic_compare_exchange_strong_explicit(&ring->states[i], &state, WORKER_BUSY,
                                                          memory_order_seq_cst, memory_order_relaxed);
        }
        // Whatever its state: the process that called it may have died before it rang, and a stray write may
        // have made a sleeper's word another.
        ring_doorbell(ring, i);
    }
    call_worker(ring);
    for (uint32_t i = 0; i < ring->worker_count; i++) {
        // Relaxed: a worker that has come meanwhile counts as on its way, or looks for work itself before it
        // sleeps.
        if (atomic_load_explicit(&ring->states[i], memory_order_relaxed) == WORKER_CALLED) {
            return true;
        }
    }
    return false;
}

bool
job_ring_wants_relief(job_ring *ring, uint32_t worker)
{
    return peek(&ring->reliefs[worker]) == RELIEF_WANTED;
}

void
job_ring_admit(job_ring *ring, uint32_t worker)
{
    uint32_t state = WORKER_NONE;
    // Sequentially consistent, as all that is done to a state word.
    (void)atomic_compare_exchange_strong_explicit(&ring->states[worker], &state, WORKER_BUSY,
                                                  memory_order_seq_cst, memory_order_relaxed);
    futex_wake_shared(&ring->states[worker], 1);
}

void
job_ring_close(job_ring *ring)
{
    // Sequentially consistent, as is its partner in job_ring_is_closed(): the parent sees asleep here every
    // worker that has said that it sleeps and then sees an open ring.
    ring->is_closed = true;
    atomic_store_explicit(&ring->shared->closed, RING_CLOSED, memory_order_seq_cst);
    for (uint32_t i = 0; i < ring->worker_count; i++) {
        uint32_t state = WORKER_ASLEEP;
        // Sequentially consistent: see above.
        (void)atomic_compare_exchange_strong_explicit(&ring->states[i], &state, WORKER_CALLED,
                                                      memory_order_seq_cst, memory_order_relaxed);
        ring_doorbell(ring, i);  // whatever its state, which a stray write may have changed
    }
}

static void
write_to_inbox(job_ring *ring, uint32_t worker, job_slot *slot, bool is_handed)
{
    inbox *box = inbox_of(ring, worker);
    uint32_t length = INBOX_SLACK * ring->slot_count;
    uint32_t *tail = &ring->inbox_tails[worker];
    // Relaxed: R11 below publishes the entry.
    atomic_store_explicit(&box->entries[*tail & (length - 1)],
                          (uint32_t)(slot - ring->slots) << 1 | is_handed, memory_order_relaxed);
    // R11: pairs with A11 in job_ring_read_inbox(): the entry is there, and the slot that it names.
    atomic_store_explicit(&box->tail, ++*tail, memory_order_release);
    ring_doorbell(ring, worker);  // whatever its state, which is about ready slots
}

void
job_ring_push_to(job_ring *ring, job_slot *slot, uint32_t worker)
{
    // Relaxed: R11 in write_to_inbox() publishes both, and the message.
    atomic_store_explicit(&slot->accepted, 0, memory_order_relaxed);
    atomic_store_explicit(&slot->began_ns, JOB_SLOT_NOT_BEGUN, memory_order_relaxed);
    give(ring, slot, taken_by(worker), memory_order_relaxed);
    write_to_inbox(ring, worker, slot, true);
}

uint32_t
job_ring_generation(job_ring *ring, uint32_t worker)
{
    // Relaxed: only the parent writes it, before it starts the worker.
    return ring->generations != NULL
               ? ring->generations[worker]
               : atomic_load_explicit(&completions_of(ring, worker)->generation, memory_order_relaxed);
}

void
job_ring_request_cancel(job_ring *ring, job_slot *slot)
{
    // Relaxed: the parent asks the worker by its number, and the worker sees for itself whether it still has
    // the slot.
    uint32_t claim = atomic_load_explicit(&slot->claim, memory_order_relaxed);
    uint32_t worker = claim >> CLAIM_BITS;
    if (CLAIM_STATE(claim) != CLAIM_TAKEN || worker >= ring->worker_count) {
        return;
    }
    write_to_inbox(ring, worker, slot, false);
}

_Atomic uint32_t *
job_ring_finished(job_ring *ring)
{
    return &ring->shared->finished;
}

void
job_ring_disarm_wakeup(job_ring *ring)
{
    // Relaxed: a worker that does not see it yet raises the eventfd once more.
    atomic_store_explicit(&ring->shared->need_wakeup, WAKEUP_DISARMED, memory_order_relaxed);
}

bool
job_ring_arm_wakeup(job_ring *ring, uint32_t seen)
{
    // Both sequentially consistent, as are their partners in job_ring_complete(): a parent that misses a
    // count was seen asleep by the process that counted.
    atomic_store_explicit(&ring->shared->need_wakeup, WAKEUP_ARMED, memory_order_seq_cst);
    return atomic_load_explicit(&ring->shared->finished, memory_order_seq_cst) == seen;
}

// ---- a worker ----

static void
set_state(job_ring *ring, uint32_t worker, enum worker_state state)
{
    // Sequentially consistent: see first_ready().
    atomic_store_explicit(&ring->states[worker], state, memory_order_seq_cst);
}

bool
job_ring_wait_admitted(job_ring *ring, uint32_t worker)
{
    _Atomic uint32_t *word = &ring->states[worker];
    // Sequentially consistent, as all that is done to a state word.
    if (atomic_load_explicit(word, memory_order_seq_cst) == WORKER_NONE) {
        (void)futex_wait_shared(word, WORKER_NONE, FUTEX_NO_DEADLINE);
    }
    // Sequentially consistent: see above.
    return atomic_load_explicit(word, memory_order_seq_cst) != WORKER_NONE;
}

void
job_ring_enter(job_ring *ring, uint32_t worker)
{
    set_state(ring, worker, WORKER_BUSY);
}

void
job_ring_exit(job_ring *ring, uint32_t worker)
{
    set_state(ring, worker, WORKER_NONE);
    end_relief(ring, worker);
    // Processes that saw this worker spin, or called it, counted on it.
    job_ring_notify(ring);
}

// A worker begins with a slot.
static void
count_taken(job_ring *ring, uint32_t worker)
{
    // Relaxed: a number for statistics, which orders nothing.
    atomic_store_explicit(&completions_of(ring, worker)->taken, ++ring->taken, memory_order_relaxed);
}

job_ring_load
job_ring_look(job_ring *ring)
{
    job_ring_load load = {0};
    for (uint32_t i = 0; i < ring->worker_count; i++) {
        // Relaxed, as above.
        uint32_t taken = atomic_load_explicit(&completions_of(ring, i)->taken, memory_order_relaxed);
        uint32_t running = taken - ring->collected[i];
        // More than there are slots: a completion was popped before the count was seen, or a stray write.
        if (running > 0 && running <= ring->slot_count) {
            load.busy++;
            load.running += running;
        }
    }
    return load;
}

void
job_ring_survey(job_ring *copy, job_ring_sight *sights)
{
    for (uint32_t i = 0; i < copy->worker_count; i++) {
        const completion_ring *completions = completions_of(copy, i);
        uint32_t state = peek(&copy->states[i]), ended = peek(&completions->tail);
        uint32_t running = peek(&completions->taken) - ended;
        sights[i] = (job_ring_sight){
            .is_there = is_worker_state(state) && state != WORKER_NONE,
            .running = running <= copy->slot_count ? running : 0,  // more: a stray write
            .ended = ended,
        };
    }
    for (uint32_t i = 0; i < copy->slot_count; i++) {
        const job_slot *slot = &copy->slots[i];
        uint32_t claim = peek(&slot->claim), worker = claim >> CLAIM_BITS;
        if (CLAIM_STATE(claim) != CLAIM_TAKEN || worker >= copy->worker_count || job_slot_began(slot) <= 0
            || sights[worker].running == 0) {
            continue;
        }
        const job_slot **first = &sights[worker].slot;
        if (*first == NULL || job_slot_began(slot) < job_slot_began(*first)) {
            *first = slot;
        }
    }
}

uint32_t
job_ring_collected(const job_ring *ring, uint32_t worker)
{
    return ring->collected[worker];
}

job_slot *
job_ring_claim(job_ring *ring, uint32_t worker)
{
    for (;;) {
        uint32_t position = first_ready(ring);
        // Relaxed: first_ready() has read the tail in order, and the tail only grows.
        if ((int32_t)(tail_of(ring, memory_order_relaxed) - position) <= 0) {
            return NULL;
        }
        job_slot *slot = ready_slot(ring, position);
        uint32_t claim = ready_at(position);
        // A8: pairs with R8 in job_ring_push(): the message is there.  Relaxed if it fails: nothing is read
        // then.
        if (slot == NULL
            || !atomic_compare_exchange_strong_explicit(&slot->claim, &claim, taken_by(worker),
                                                        memory_order_acquire, memory_order_relaxed)) {
            continue;  // another process was quicker
        }
        count_taken(ring, worker);
        settle(ring, position + 1);
        if (ring->worker_count > 1 && job_ring_has_ready(ring)) {
            call_worker(ring);
        }
        return slot;
    }
}

void
job_slot_begin(job_slot *slot, int64_t now_ns)
{
    // Relaxed: the parent reads it after it has waited for this worker's death, or looks again later.
    atomic_store_explicit(&slot->began_ns, now_ns, memory_order_relaxed);
}

int64_t
job_slot_began(const job_slot *slot)
{
    // Relaxed: the worker is dead, or the caller looks again if it has read too early.
    return atomic_load_explicit(&slot->began_ns, memory_order_relaxed);
}

bool
job_ring_is_closed(job_ring *ring)
{
    // Sequentially consistent: see job_ring_close().
    return atomic_load_explicit(&ring->shared->closed, memory_order_seq_cst) == RING_CLOSED;
}

// Whether another worker spins: one is enough.
static bool
another_spins(job_ring *ring, uint32_t worker)
{
    for (uint32_t i = 0; i < ring->worker_count; i++) {
        // Relaxed: a hint.
        if (i != worker && atomic_load_explicit(&ring->states[i], memory_order_relaxed) == WORKER_SPINNING) {
            return true;
        }
    }
    return false;
}

// Whether the words on which a sleeping worker relies make sense.
static bool
may_sleep(job_ring *ring)
{
    uint32_t need_wakeup = peek(&ring->shared->need_wakeup);
    uint32_t closed = peek(&ring->shared->closed);
    // The tail that this worker sees may be older than the head, but not by more than the ring's length.
    uint32_t ahead = peek(&ring->shared->tail) - peek(&ring->shared->head) + RING_SLACK * ring->slot_count;
    return (need_wakeup == WAKEUP_ARMED || need_wakeup == WAKEUP_DISARMED)
           && (closed == RING_OPEN || closed == RING_CLOSED) && ahead <= 2 * RING_SLACK * ring->slot_count;
}

int
job_ring_wait(job_ring *ring, uint32_t worker, park_spot *spot, int64_t deadline_ns)
{
    int64_t start = clock_now_ns();
    bool spins = !another_spins(ring, worker);
    // From here on a process that pushes counts on this worker.
    set_state(ring, worker, WORKER_SPINNING);
    // Sequentially consistent: see first_ready().
    uint32_t tail = atomic_load_explicit(&ring->shared->tail, memory_order_seq_cst);
    if (!job_ring_has_ready(ring) && !job_ring_is_closed(ring)
        && !(spins && park_spin(spot, &ring->shared->tail, tail, FUTEX_NO_DEADLINE))) {
        if (!may_sleep(ring)) {
            return JOB_RING_DAMAGED;
        }
        set_state(ring, worker, WORKER_ASLEEP);
        if (!job_ring_has_ready(ring) && !job_ring_is_closed(ring) && !job_ring_is_relieved(ring, worker)) {
            // A state word that was rung since then is not ASLEEP any more.
            int rc = futex_wait_shared(&ring->states[worker], WORKER_ASLEEP, deadline_ns);
            if (rc == FUTEX_OK) {
                park_learn(spot, clock_now_ns() - start);
            }
        }
    }
    set_state(ring, worker, WORKER_BUSY);
    return job_ring_is_closed(ring) && !job_ring_has_ready(ring) ? JOB_RING_CLOSED : JOB_RING_WORK;
}

int
job_ring_listen(job_ring *ring, uint32_t worker, bool is_idle)
{
    if (!may_sleep(ring)) {
        return JOB_RING_DAMAGED;
    }
    set_state(ring, worker, is_idle ? WORKER_ASLEEP : WORKER_OPEN);
    bool ready = job_ring_has_ready(ring);
    // Relaxed: the parent rings after it has written there, whatever the state.
    uint32_t written = atomic_load_explicit(&inbox_of(ring, worker)->tail, memory_order_relaxed);
    bool asked = written != ring->inbox_read;
    bool closed = job_ring_is_closed(ring);
    if (!ready && !asked && !closed) {
        return JOB_RING_LISTENS;
    }
    set_state(ring, worker, WORKER_BUSY);
    return ready || asked ? JOB_RING_WORK : JOB_RING_CLOSED;
}

job_slot *
job_ring_read_inbox(job_ring *ring, uint32_t worker, bool *is_handed)
{
    inbox *box = inbox_of(ring, worker);
    uint32_t length = INBOX_SLACK * ring->slot_count;
    // A11: pairs with R11 in write_to_inbox(): the entry and the slot's message are there.
    if (atomic_load_explicit(&box->tail, memory_order_acquire) == ring->inbox_read) {
        return NULL;
    }
    uint32_t position = ring->inbox_read++;
    uint32_t entry = atomic_load_explicit(&box->entries[position & (length - 1)], memory_order_relaxed);
    *is_handed = entry & 1;
    if (*is_handed) {
        count_taken(ring, worker);
    }
    return entry >> 1 < ring->slot_count ? &ring->slots[entry >> 1] : NULL;
}

uint32_t
job_ring_ready_count(job_ring *ring)
{
    uint32_t position = first_ready(ring);
    // Relaxed: first_ready() has read the tail in order, and the tail only grows.
    int32_t count = (int32_t)(tail_of(ring, memory_order_relaxed) - position);
    return count < 0 ? 0 : (uint32_t)count;
}

bool
job_ring_complete(job_ring *ring, uint32_t worker, job_slot *slot)
{
    completion_ring *completions = completions_of(ring, worker);
    uint32_t position = ring->completed++;
    // Relaxed: only this worker writes its completions, and R9 below publishes them.
    atomic_store_explicit(&completions->numbers[position & (ring->slot_count - 1)],
                          (uint32_t)(slot - ring->slots), memory_order_relaxed);
    // R9: pairs with A9 in job_ring_pop_completion(): the parent finds the number, and the message in the
    // slot.
    atomic_store_explicit(&completions->tail, position + 1, memory_order_release);
    // All sequentially consistent: see job_ring_arm_wakeup().
    atomic_fetch_add_explicit(&ring->shared->finished, 1, memory_order_seq_cst);
    uint32_t armed = atomic_load_explicit(&ring->shared->need_wakeup, memory_order_seq_cst);
    // A word that a stray write has hit counts as armed: the parent has to look.
    if (armed != WAKEUP_DISARMED
        && (armed != WAKEUP_ARMED
            || atomic_compare_exchange_strong_explicit(&ring->shared->need_wakeup, &armed, WAKEUP_DISARMED,
                                                       memory_order_seq_cst, memory_order_relaxed))) {
        uint64_t one = 1;
        return fcntl(ring->wakeup_fd, F_GETSIG) == WAKEUP_MARK
               && write(ring->wakeup_fd, &one, sizeof(one)) == (ssize_t)sizeof(one);
    }
    return true;
}

// ---- relief ----

void
job_ring_ask_relief(job_ring *ring, uint32_t worker)
{
    // Sequentially consistent: see end_relief().
    atomic_store_explicit(&ring->reliefs[worker], RELIEF_WANTED, memory_order_seq_cst);
}

bool
job_ring_is_relieved(job_ring *ring, uint32_t worker)
{
    // Sequentially consistent, as in job_ring_succeed(): a worker that has said that it sleeps, and then
    // finds that it is not relieved, is rung.
    return atomic_load_explicit(&ring->reliefs[worker], memory_order_seq_cst) == RELIEF_GRANTED;
}

bool
job_ring_succeed(job_ring *ring, uint32_t worker)
{
    uint32_t former = twin_of(ring, worker), relief = RELIEF_WANTED;
    _Atomic uint32_t *word = &ring->reliefs[former];
    // Both sequentially consistent: see job_ring_is_relieved().
    if (atomic_compare_exchange_strong_explicit(word, &relief, RELIEF_GRANTED, memory_order_seq_cst,
                                                memory_order_seq_cst)) {
        relief = RELIEF_GRANTED;
        call_if(ring, former, WORKER_ASLEEP, WORKER_CALLED);
    }
    if (relief == RELIEF_GRANTED) {
        (void)futex_wait_shared(word, RELIEF_GRANTED, FUTEX_NO_DEADLINE);
    }
    // Sequentially consistent: see end_relief().
    return atomic_load_explicit(word, memory_order_seq_cst) != RELIEF_GRANTED;
}

// ---- ranges ----

void
job_slot_set_range(job_slot *slot, uint32_t count)
{
    // Relaxed: R8 in job_ring_push() or R11 in write_to_inbox() publishes it with the slot.
    atomic_store_explicit(&slot->range, count, memory_order_relaxed);
}

uint32_t
job_slot_next(job_slot *slot)
{
    // Relaxed: the sides agree on numbers only; each has its own copy of the calls.
    uint64_t range = atomic_load_explicit(&slot->range, memory_order_relaxed);
    do {
        if ((uint32_t)(range >> 32) >= (uint32_t)range) {
            return UINT32_MAX;
        }
    } while (!atomic_compare_exchange_weak_explicit(&slot->range, &range, range + (UINT64_C(1) << 32),
                                                    memory_order_relaxed, memory_order_relaxed));
    return (uint32_t)(range >> 32);
}

uint32_t
job_slot_split(job_slot *slot, uint32_t count)
{
    // Relaxed, as in job_slot_next(): the sides agree on numbers only.
    uint64_t range = atomic_load_explicit(&slot->range, memory_order_relaxed);
    uint64_t kept;
    do {
        uint64_t next = range >> 32;
        uint64_t limit = (uint32_t)range;
        if (limit != count || next >= limit) {
            return count;  // it has been split already, or no call is left
        }
        kept = next + (limit - next) / 2;
        // Relaxed, as above.
    } while (!atomic_compare_exchange_weak_explicit(&slot->range, &range,
                                                    (range & ~(uint64_t)UINT32_MAX) | kept,
                                                    memory_order_relaxed, memory_order_relaxed));
    return (uint32_t)kept;
}

// ---- stopping ----

void
job_slot_set_stoppable(job_slot *slot, int64_t timeout_ns, int64_t deadline_ns)
{
    slot->timeout_ns = timeout_ns;
    slot->deadline_ns = deadline_ns;
    // Relaxed: R8 in job_ring_push() or R11 in write_to_inbox() publishes it with the slot.
    atomic_store_explicit(&slot->range, JOB_SLOT_STOPPABLE, memory_order_relaxed);
}

static bool
change_end(job_slot *slot, uint64_t from, uint64_t to)
{
    // Relaxed: the sides agree on this word only, and read nothing because of it.
    return atomic_compare_exchange_strong_explicit(&slot->range, &from, to, memory_order_relaxed,
                                                   memory_order_relaxed);
}

bool
job_slot_ask(job_slot *slot, stop_reason reason)
{
    return change_end(slot, JOB_SLOT_STOPPABLE, JOB_SLOT_ASKED(reason));
}

// From whichever of the states it is in while the call may still run.
static bool
leave_call(job_slot *slot, uint64_t to)
{
    // The worker's step is the only other one that leads away from ASKED.
    return change_end(slot, JOB_SLOT_STOPPABLE, to) || change_end(slot, JOB_SLOT_ASKED(STOP_BY_CANCEL), to)
           || change_end(slot, JOB_SLOT_ASKED(STOP_BY_TIMEOUT), to)
           || change_end(slot, JOB_SLOT_ASKED(STOP_BY_SHUTDOWN), to);
}

bool
job_slot_condemn(job_slot *slot)
{
    return leave_call(slot, JOB_SLOT_CONDEMNED);
}

bool
job_slot_has_ended(const job_slot *slot)
{
    // Relaxed, as in change_end().
    return atomic_load_explicit(&slot->range, memory_order_relaxed) == JOB_SLOT_FINISHED;
}

bool
job_slot_is_stoppable(const job_slot *slot)
{
    // Relaxed: see R8 for what the parent wrote before the worker took the slot.
    return atomic_load_explicit(&slot->range, memory_order_relaxed) >> 63 != 0;
}

stop_reason
job_slot_asked(const job_slot *slot)
{
    // Relaxed: a worker that misses it here is interrupted by the signal that the parent sends afterwards, or
    // finds the slot in its inbox, where A11 has it see what was asked.
    return asked_by(atomic_load_explicit(&slot->range, memory_order_relaxed));
}

bool
job_slot_finish(job_slot *slot)
{
    // A word that a stray write has changed says nothing: the parent finds it.  Relaxed, as in change_end().
    return leave_call(slot, JOB_SLOT_FINISHED)
           || atomic_load_explicit(&slot->range, memory_order_relaxed) != JOB_SLOT_CONDEMNED;
}
