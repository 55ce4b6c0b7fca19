#include "job_slot.h"

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

bool
job_slot_is_sound(const job_slot *slot)
{
    // Relaxed: the word is looked at by itself, and is sound before and after a change.
    uint64_t word = atomic_load_explicit(&slot->range, memory_order_relaxed);
    return word >> 63 == 0 || word == JOB_SLOT_STOPPABLE || asked_by(word) != STOP_NOT
           || word == JOB_SLOT_CONDEMNED || word == JOB_SLOT_FINISHED;
}
