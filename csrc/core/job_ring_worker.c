#define _GNU_SOURCE
#include "job_ring_worker.h"

#include <fcntl.h>
#include <unistd.h>

#include "clock.h"

static void
set_state(job_ring *ring, uint32_t worker, enum worker_state state)
{
    // Sequentially consistent: see job_ring_first_ready().
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
    job_ring_end_relief(ring, worker);
    // Processes that saw this worker spin, or called it, counted on it.
    job_ring_notify(ring);
}

// A worker begins with a slot.
static void
count_taken(job_ring *ring, uint32_t worker)
{
    // Relaxed: a number for statistics, which orders nothing.
    atomic_store_explicit(&job_ring_completions(ring, worker)->taken, ++ring->taken, memory_order_relaxed);
}

job_slot *
job_ring_claim(job_ring *ring, uint32_t worker)
{
    for (;;) {
        uint32_t position = job_ring_first_ready(ring);
        // Relaxed: job_ring_first_ready() has read the tail in order, and the tail only grows.
        if ((int32_t)(job_ring_tail_of(ring, memory_order_relaxed) - position) <= 0) {
            return NULL;
        }
        job_slot *slot = job_ring_ready_slot(ring, position);
        uint32_t claim = job_ring_ready_at(position);
        // A8: pairs with R8 in job_ring_push(): the message is there.  Relaxed if it fails: nothing is read
        // then.
        if (slot == NULL
            || !atomic_compare_exchange_strong_explicit(&slot->claim, &claim, job_ring_taken_by(worker),
                                                        memory_order_acquire, memory_order_relaxed)) {
            continue;  // another process was quicker
        }
        count_taken(ring, worker);
        job_ring_settle(ring, position + 1);
        if (ring->worker_count > 1 && job_ring_has_ready(ring)) {
            job_ring_call_worker(ring);
        }
        return slot;
    }
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
    uint32_t need_wakeup = job_ring_peek(&ring->shared->need_wakeup);
    uint32_t closed = job_ring_peek(&ring->shared->closed);
    // The tail that this worker sees may be older than the head, but not by more than the ring's length.
    uint32_t ahead = job_ring_peek(&ring->shared->tail) - job_ring_peek(&ring->shared->head)
                     + RING_SLACK * ring->slot_count;
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
    // Sequentially consistent: see job_ring_first_ready().
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
    uint32_t written = atomic_load_explicit(&job_ring_inbox(ring, worker)->tail, memory_order_relaxed);
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
    inbox *box = job_ring_inbox(ring, worker);
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
    uint32_t position = job_ring_first_ready(ring);
    // Relaxed: job_ring_first_ready() has read the tail in order, and the tail only grows.
    int32_t count = (int32_t)(job_ring_tail_of(ring, memory_order_relaxed) - position);
    return count < 0 ? 0 : (uint32_t)count;
}

bool
job_ring_complete(job_ring *ring, uint32_t worker, job_slot *slot)
{
    completion_ring *completions = job_ring_completions(ring, worker);
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
    // Sequentially consistent: see job_ring_end_relief().
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
    uint32_t former = job_ring_twin_of(ring, worker), relief = RELIEF_WANTED;
    _Atomic uint32_t *word = &ring->reliefs[former];
    // Both sequentially consistent: see job_ring_is_relieved().
    if (atomic_compare_exchange_strong_explicit(word, &relief, RELIEF_GRANTED, memory_order_seq_cst,
                                                memory_order_seq_cst)) {
        relief = RELIEF_GRANTED;
        job_ring_call_if(ring, former, WORKER_ASLEEP, WORKER_CALLED);
    }
    if (relief == RELIEF_GRANTED) {
        (void)futex_wait_shared(word, RELIEF_GRANTED, FUTEX_NO_DEADLINE);
    }
    // Sequentially consistent: see job_ring_end_relief().
    return atomic_load_explicit(word, memory_order_seq_cst) != RELIEF_GRANTED;
}
