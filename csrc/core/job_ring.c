#define _GNU_SOURCE
#include "job_ring.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// ---- layout ----

static uint64_t
inbox_bytes(uint32_t slots)
{
    return job_ring_align(sizeof(inbox) + (uint64_t)INBOX_SLACK * slots * sizeof(uint32_t));
}

inbox *
job_ring_inbox(job_ring *ring, uint32_t worker)
{
    return (inbox *)(ring->inboxes + worker * inbox_bytes(ring->slot_count));
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
    at += job_ring_align((uint64_t)workers * sizeof(uint32_t));
    ring->reliefs = (_Atomic uint32_t *)(memory + at);
    at += job_ring_align((uint64_t)workers * sizeof(uint32_t));
    ring->submissions = (_Atomic uint32_t *)(memory + at);
    at += job_ring_align((uint64_t)RING_SLACK * slots * sizeof(uint32_t));
    ring->completions = memory + at;
    at += workers * job_ring_completion_bytes(slots);
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
        lay(&job_ring_inbox(ring, i)->tail, 0);
        lay(&job_ring_completions(ring, i)->tail, 0);
        lay(&job_ring_completions(ring, i)->taken, 0);
        lay(&job_ring_completions(ring, i)->generation, ring->generations[i]);
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
        || workers > size / job_ring_completion_bytes(slots)
        || lay_out(ring, memory, slots, workers) != size) {
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

bool
job_ring_has_ready(job_ring *ring)
{
    uint32_t position = job_ring_first_ready(ring);
    // Relaxed: job_ring_first_ready() has read the tail in order, and the tail only grows.
    return (int32_t)(job_ring_tail_of(ring, memory_order_relaxed) - position) > 0;
}

void
job_ring_ring(job_ring *ring, uint32_t worker)
{
    if (ring->doorbells != NULL) {
        uint64_t one = 1;
        (void)!write(ring->doorbells[worker], &one, sizeof(one));
    }
    else {
        futex_wake_shared(&ring->states[worker], 1);
    }
}

bool
job_ring_call_if(job_ring *ring, uint32_t worker, uint32_t from, uint32_t to)
{
    // Relaxed to look, because a worker that was busy a moment ago looks for work itself before it sleeps.
    // Sequentially consistent to ring, as all that is done to a state word.
    if (atomic_load_explicit(&ring->states[worker], memory_order_relaxed) != from
        || !atomic_compare_exchange_strong_explicit(&ring->states[worker], &from, to, memory_order_seq_cst,
                                                    memory_order_relaxed)) {
        return false;
    }
    job_ring_ring(ring, worker);
    return true;
}

void
job_ring_call_worker(job_ring *ring)
{
    for (uint32_t i = 0; i < ring->worker_count; i++) {
        // Sequentially consistent: see job_ring_first_ready().
        uint32_t state = atomic_load_explicit(&ring->states[i], memory_order_seq_cst);
        if (state == WORKER_SPINNING || state == WORKER_CALLED) {
            return;
        }
    }
    for (uint32_t i = 0; i < ring->worker_count; i++) {
        if (job_ring_call_if(ring, i, WORKER_ASLEEP, WORKER_CALLED)) {
            return;
        }
    }
    for (uint32_t i = 0; ring->doorbells != NULL && i < ring->worker_count; i++) {
        // Not CALLED: no process counts on it, as it may be busy with something else for long.
        job_ring_call_if(ring, i, WORKER_OPEN, WORKER_BUSY);
    }
}

void
job_ring_notify(job_ring *ring)
{
    if (job_ring_has_ready(ring)) {
        job_ring_call_worker(ring);
    }
}

uint32_t
job_ring_generation(job_ring *ring, uint32_t worker)
{
    // Relaxed: only the parent writes it, before it starts the worker.
    return ring->generations != NULL
               ? ring->generations[worker]
               : atomic_load_explicit(&job_ring_completions(ring, worker)->generation, memory_order_relaxed);
}

void
job_ring_end_relief(job_ring *ring, uint32_t worker)
{
    // Sequentially consistent, as all that is done to these words, which order nothing else.
    if (atomic_exchange_explicit(&ring->reliefs[worker], RELIEF_NONE, memory_order_seq_cst) != RELIEF_NONE) {
        futex_wake_shared(&ring->reliefs[worker], 1);
    }
}
