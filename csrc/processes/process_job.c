#include "process_job.h"

#include <assert.h>

// The states that each state may follow.
#define AFTER(state) (1u << JOB_##state)
static const unsigned may_follow[] = {
    [JOB_PACKED] = 0,
    [JOB_WAITING] = AFTER(PACKED) | AFTER(IN_SLOT),
    [JOB_IN_SLOT] = AFTER(PACKED) | AFTER(WAITING),
    [JOB_CANCELLING] = AFTER(IN_SLOT),
    [JOB_WITHDRAWN] = AFTER(WAITING) | AFTER(IN_SLOT) | AFTER(CANCELLING),
    [JOB_COLLECTED] = AFTER(IN_SLOT) | AFTER(DELIVERING),
    [JOB_DELIVERING] = AFTER(PACKED) | AFTER(WAITING) | AFTER(IN_SLOT) | AFTER(CANCELLING) | AFTER(WITHDRAWN)
                       | AFTER(COLLECTED),
};

static void
remove_limit(process_job *job)
{
    if (job->special != NULL) {
        timer_heap_remove(&job->special->limit);
    }
}

void
process_job_enter(process_job *job, process_job_state state)
{
    assert(may_follow[state] & 1u << job->state);
    (void)may_follow;
    job->state = state;
    if (state != JOB_WAITING && state != JOB_IN_SLOT) {
        remove_limit(job);
    }
}
