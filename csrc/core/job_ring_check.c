#include "job_ring_check.h"

#include "job_ring_parent.h"

// Whether a slot's claim word is the one that the parent gave it, or that of a worker that has taken it.
static bool
is_slot_intact(job_ring *ring, uint32_t number)
{
    const _Atomic uint32_t *word = &ring->slots[number].claim;
    uint32_t given = ring->given[number];
    uint32_t claim = job_ring_peek(word);
    if (!job_slot_is_sound(&ring->slots[number])) {
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
    return claim == given && (job_ring_is_ready(ring, &ring->slots[number]) || job_ring_peek(word) != given);
}

// Moves head back if it stands behind a slot that is ready: true if so.  No process moves it there by intent,
// so a stray write has; a head that is too far back costs a look at some positions, and nothing else.
static bool
reach_slot(job_ring *ring, uint32_t number)
{
    uint32_t given = ring->given[number];
    if (CLAIM_STATE(given) != CLAIM_READY || job_ring_peek(&ring->slots[number].claim) != given) {
        return false;
    }
    uint32_t head = job_ring_peek(&ring->shared->head);
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
    uint32_t need_wakeup = job_ring_peek(&shared->need_wakeup);
    return shared->size_bytes == job_ring_size(ring->slot_count, ring->worker_count)
           && shared->slot_count == ring->slot_count && shared->worker_count == ring->worker_count
           && job_ring_peek(&shared->tail) == ring->tail
           && (int32_t)(ring->tail - job_ring_peek(&shared->head)) >= 0
           && job_ring_peek(&shared->closed) == (ring->is_closed ? RING_CLOSED : RING_OPEN)
           && (need_wakeup == WAKEUP_ARMED || need_wakeup == WAKEUP_DISARMED);
}

static bool
is_worker_intact(job_ring *ring, uint32_t worker)
{
    uint32_t state = job_ring_peek(&ring->states[worker]), relief = job_ring_peek(&ring->reliefs[worker]);
    return job_ring_is_worker_state(state)
           && (relief == RELIEF_NONE || relief == RELIEF_WANTED || relief == RELIEF_GRANTED)
           && job_ring_peek(&job_ring_completions(ring, worker)->generation) == ring->generations[worker]
           && job_ring_peek(&job_ring_inbox(ring, worker)->tail) == ring->inbox_tails[worker];
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
        job_ring_ring(ring, i);
    }
    job_ring_call_worker(ring);
    for (uint32_t i = 0; i < ring->worker_count; i++) {
        // Relaxed: a worker that has come meanwhile counts as on its way, or looks for work itself before it
        // sleeps.
        if (atomic_load_explicit(&ring->states[i], memory_order_relaxed) == WORKER_CALLED) {
            return true;
        }
    }
    return false;
}
