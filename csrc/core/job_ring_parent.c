#include "job_ring_parent.h"

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
    // Sequentially consistent: see job_ring_first_ready().
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
    uint32_t position = job_ring_first_ready(ring);
    if (end - position < length) {
        return;
    }
    for (; (int32_t)(end - position) > 0; position++) {
        job_slot *slot = job_ring_ready_slot(ring, position);
        uint32_t claim = job_ring_ready_at(position);
        if (slot == NULL) {
            continue;  // not ready, or a worker has just taken it
        }
        // The slot that had this place has been moved, or is this very slot.  Relaxed: advance() publishes
        // the entry.
        atomic_store_explicit(job_ring_entry_at(ring, ring->tail), (uint32_t)(slot - ring->slots),
                              memory_order_relaxed);
        // Relaxed: what R8 in job_ring_push() has published stays published.
        if (atomic_compare_exchange_strong_explicit(&slot->claim, &claim, job_ring_ready_at(ring->tail),
                                                    memory_order_relaxed, memory_order_relaxed)) {
            ring->given[slot - ring->slots] = job_ring_ready_at(ring->tail);
            advance(ring);
        }
    }
    job_ring_settle(ring, end);
}

void
job_ring_push(job_ring *ring, job_slot *slot)
{
    make_room(ring);
    // Relaxed: only the parent writes these, and the store to the tail in advance() publishes them.
    atomic_store_explicit(job_ring_entry_at(ring, ring->tail), (uint32_t)(slot - ring->slots),
                          memory_order_relaxed);
    atomic_store_explicit(&slot->accepted, 0, memory_order_relaxed);
    atomic_store_explicit(&slot->began_ns, JOB_SLOT_NOT_BEGUN, memory_order_relaxed);
    // R8: pairs with A8 in job_ring_claim(): the worker that takes the slot sees its message.
    give(ring, slot, job_ring_ready_at(ring->tail), memory_order_release);
    advance(ring);
    job_ring_call_worker(ring);
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

bool
job_ring_is_ready(job_ring *ring, job_slot *slot)
{
    uint32_t claim = ring->given[slot - ring->slots];
    return CLAIM_STATE(claim) == CLAIM_READY && job_ring_ready_slot(ring, claim >> CLAIM_BITS) == slot;
}

// Whether the worker has the slot.  Claim words alone cannot be trusted: one that was written over would put
// a slot on the free list twice.  Relaxed: the caller has come past A9, or the worker is dead.
static bool
has_taken(job_ring *ring, uint32_t worker, uint32_t number)
{
    return ring->is_allocated[number]
           && atomic_load_explicit(&ring->slots[number].claim, memory_order_relaxed)
                  == job_ring_taken_by(worker);
}

job_slot *
job_ring_pop_completion(job_ring *ring, uint32_t worker, bool *corrupt)
{
    completion_ring *completions = job_ring_completions(ring, worker);
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
    atomic_store_explicit(&job_ring_completions(ring, worker)->tail, 0, memory_order_relaxed);
    atomic_store_explicit(&job_ring_inbox(ring, worker)->tail, 0, memory_order_relaxed);
    atomic_store_explicit(&job_ring_completions(ring, worker)->taken, 0, memory_order_relaxed);
    ring->collected[worker] = ring->inbox_tails[worker] = 0;
    // Sequentially consistent, as all that is done to a state word: see job_ring_first_ready().
    atomic_store_explicit(&ring->states[worker], WORKER_NONE, memory_order_seq_cst);
    // The worker may have died between ringing a state word and waking its sleeper, on which all processes
    // count now.
    for (uint32_t i = 0; i < ring->worker_count; i++) {
        // Relaxed: the parent has waited for the end of the worker that may have written it.
        if (atomic_load_explicit(&ring->states[i], memory_order_relaxed) == WORKER_CALLED) {
            job_ring_ring(ring, i);
        }
    }
    job_ring_end_relief(ring, worker);
    _Atomic uint32_t *twin = &ring->reliefs[job_ring_twin_of(ring, worker)];
    uint32_t relief = RELIEF_GRANTED;
    // Sequentially consistent: see job_ring_end_relief().
    (void)atomic_compare_exchange_strong_explicit(twin, &relief, RELIEF_WANTED, memory_order_seq_cst,
                                                  memory_order_relaxed);
    if (left == NULL) {
        // Relaxed: only the parent writes it, and it starts the next worker after this.
        atomic_store_explicit(&job_ring_completions(ring, worker)->generation, ++ring->generations[worker],
                              memory_order_relaxed);
    }
    return left;
}

bool
job_ring_wants_relief(job_ring *ring, uint32_t worker)
{
    return job_ring_peek(&ring->reliefs[worker]) == RELIEF_WANTED;
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
        job_ring_ring(ring, i);  // whatever its state, which a stray write may have changed
    }
}

static void
write_to_inbox(job_ring *ring, uint32_t worker, job_slot *slot, bool is_handed)
{
    inbox *box = job_ring_inbox(ring, worker);
    uint32_t length = INBOX_SLACK * ring->slot_count;
    uint32_t *tail = &ring->inbox_tails[worker];
    // Relaxed: R11 below publishes the entry.
    atomic_store_explicit(&box->entries[*tail & (length - 1)],
                          (uint32_t)(slot - ring->slots) << 1 | is_handed, memory_order_relaxed);
    // R11: pairs with A11 in job_ring_read_inbox(): the entry is there, and the slot that it names.
    atomic_store_explicit(&box->tail, ++*tail, memory_order_release);
    job_ring_ring(ring, worker);  // whatever its state, which is about ready slots
}

void
job_ring_push_to(job_ring *ring, job_slot *slot, uint32_t worker)
{
    // Relaxed: R11 in write_to_inbox() publishes both, and the message.
    atomic_store_explicit(&slot->accepted, 0, memory_order_relaxed);
    atomic_store_explicit(&slot->began_ns, JOB_SLOT_NOT_BEGUN, memory_order_relaxed);
    give(ring, slot, job_ring_taken_by(worker), memory_order_relaxed);
    write_to_inbox(ring, worker, slot, true);
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
