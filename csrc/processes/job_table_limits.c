#include "job_table_limits.h"

#include <unistd.h>

#include "core/clock.h"
#include "core/job_ring_check.h"
#include "core/job_ring_parent.h"
#include "job_table_stops.h"

// The end of a call that has begun at a time.
static int64_t
end_of(const call_options *options, int64_t began_ns)
{
    int64_t end_ns = options->timeout_ns > CALL_NO_LIMIT - began_ns ? CALL_NO_LIMIT
                                                                    : began_ns + options->timeout_ns;
    return clock_earlier(end_ns, options->deadline_ns);
}

// Has the worker end a task whose time is over, unless its outcome is there.
static void
end_late(job_table *table, process_job *job)
{
    if (job_table_stop(table, job, STOP_BY_TIMEOUT)) {
        table->asks_supervisor |= !job_table_interrupt(table, job);
    }
    else if (!job_slot_has_ended(job->slot)) {
        job_table_note_damage(table);
    }
}

// A worker has taken a task: ends it if its time is over.
static void
look_at_taken(job_table *table, process_job *job, int64_t now_ns)
{
    int64_t began_ns = job_slot_began(job->slot);
    // The worker may have begun after the caller looked at the clock.
    bool has_begun = began_ns > 0 && (began_ns <= now_ns || began_ns <= clock_now_ns());
    if (!has_begun && began_ns != JOB_SLOT_NOT_BEGUN) {
        job_table_note_damage(table);  // a stray write: nobody knows when its time is over
        return;
    }
    const call_options *options = &job->special->options;
    int64_t end_ns = has_begun ? end_of(options, began_ns) : options->deadline_ns;
    if (end_ns <= now_ns) {
        end_late(table, job);
    }
    else if (has_begun) {
        job_table_watch_over(table, job->special, end_ns);
    }
    else {
        job_table_watch_over_begin(table, options, now_ns);
    }
}

// Looks which calls with a timeout have begun since it last looked.
static void
look_for_begun(job_table *table, int64_t now_ns)
{
    for (uint32_t i = 0; i < table->ring.slot_count; i++) {
        process_job *job = job_table_job_in(table, i);
        const call_options *options = job == NULL || job->special == NULL ? NULL : &job->special->options;
        if (options == NULL || options->timeout_ns == CALL_NO_LIMIT || job->state != JOB_IN_SLOT) {
            continue;
        }
        if (job_ring_is_taken(job->slot)) {
            look_at_taken(table, job, now_ns);
        }
        else {
            job_table_watch_over_begin(table, options, now_ns);
        }
    }
}

// Moves those that wait for a slot and were withdrawn to the withdrawn ones.
static void
sweep_waiting(job_table *table)
{
    node_list rest;
    task *t;
    node_list_init(&rest);
    while ((t = (task *)node_list_pop(&table->waiting)) != NULL) {
        if (process_job_of(t)->state == JOB_WITHDRAWN) {
            table->waiting_count--;
            node_list_append(&table->withdrawn, &t->delivery.node);
        }
        else {
            node_list_append(&rest, &t->delivery.node);
        }
    }
    node_list_move(&rest, &table->waiting);
}

// Ends the tasks whose time is over, or has them ended.
static void
look_at_limits(job_table *table, int64_t now_ns)
{
    bool has_waited = false;
    if (table->look_ns <= now_ns) {
        table->look_ns = TIMER_OFF;
        look_for_begun(table, now_ns);
    }
    while (timer_heap_due(&table->limits) <= now_ns) {
        process_job *job = THING_OF(table->limits.first, special_job, limit)->job;
        bool waits = job->slot == NULL;
        timer_heap_remove(&job->special->limit);
        if (!waits && job_ring_is_taken(job->slot)) {
            look_at_taken(table, job, now_ns);
        }
        else if (job_table_withdraw_locked(table, THING_OF(job, task, args))) {
            job->special->reason = STOP_BY_TIMEOUT;
            has_waited |= waits;
        }
        else {
            job_table_watch_over(table, job->special, now_ns + JOB_TABLE_LOOK_NS);  // a worker was quicker
        }
    }
    if (has_waited) {
        sweep_waiting(table);
    }
    job_table_feed(table);
}

void
job_table_use_timer(job_table *table, int timer_fd)
{
    pthread_mutex_lock(&table->lock);
    table->timer_fd = timer_fd;
    table->timer_ns = table->stall_ns = TIMER_OFF;
    job_table_watch_over_ready(table);  // whatever was pushed before
    job_table_reset_timer(table);
    pthread_mutex_unlock(&table->lock);
}

void
job_table_on_timer(job_table *table, bool *announces, bool *asks)
{
    uint64_t times;
    pthread_mutex_lock(&table->lock);
    table->asks_supervisor = *announces = false;
    if (read(table->timer_fd, &times, sizeof(times)) == (ssize_t)sizeof(times)) {
        int64_t now_ns = clock_now_ns();
        table->timer_ns = TIMER_OFF;
        if (table->stall_ns <= now_ns) {
            table->stall_ns = TIMER_OFF;
            if (job_ring_notify_others(&table->ring)) {
                job_table_watch_over_ready(table);
            }
        }
        if (table->stop_ns <= now_ns) {
            table->stop_ns = TIMER_OFF;
            table->asks_supervisor = true;
        }
        look_at_limits(table, now_ns);
        job_table_reset_timer(table);
        *announces = job_table_must_announce(table);
    }
    *asks = table->asks_supervisor || table->condition == RING_DAMAGED;
    pthread_mutex_unlock(&table->lock);
}
