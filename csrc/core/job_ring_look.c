#include "job_ring_look.h"

job_ring_load
job_ring_look(job_ring *ring)
{
    job_ring_load load = {0};
    for (uint32_t i = 0; i < ring->worker_count; i++) {
        // Relaxed, as above.
        uint32_t taken = atomic_load_explicit(&job_ring_completions(ring, i)->taken, memory_order_relaxed);
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
        const completion_ring *completions = job_ring_completions(copy, i);
        uint32_t state = job_ring_peek(&copy->states[i]), ended = job_ring_peek(&completions->tail);
        uint32_t running = job_ring_peek(&completions->taken) - ended;
        sights[i] = (job_ring_sight){
            .is_there = job_ring_is_worker_state(state) && state != WORKER_NONE,
            .running = running <= copy->slot_count ? running : 0,  // more: a stray write
            .ended = ended,
        };
    }
    for (uint32_t i = 0; i < copy->slot_count; i++) {
        const job_slot *slot = &copy->slots[i];
        uint32_t claim = job_ring_peek(&slot->claim), worker = claim >> CLAIM_BITS;
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
