#include "job_table_look.h"

#include "core/job_ring_look.h"
#include "core/job_ring_parent.h"

static uint32_t
read_count(job_table *table, const uint32_t *count)
{
    pthread_mutex_lock(&table->lock);
    uint32_t value = *count;
    pthread_mutex_unlock(&table->lock);
    return value;
}

uint32_t
job_table_workers(job_table *table)
{
    return read_count(table, &table->workers);
}

uint32_t
job_table_outstanding(job_table *table)
{
    return read_count(table, &table->outstanding);
}

uint32_t
job_table_queued(job_table *table)
{
    pthread_mutex_lock(&table->lock);
    uint32_t queued = table->waiting_count;
    for (uint32_t i = 0; i < table->ring.slot_count; i++) {
        queued += table->by_slot[i] != NULL && !job_ring_is_taken(process_job_of(table->by_slot[i])->slot);
    }
    pthread_mutex_unlock(&table->lock);
    return queued;
}

table_load
job_table_look(job_table *table)
{
    pthread_mutex_lock(&table->lock);
    job_ring_load ring = job_ring_look(&table->ring);
    table_load load = {.workers = table->workers, .running = ring.running};
    // What the ring says is what workers have written.
    if (load.running > table->outstanding) {
        load.running = table->outstanding;
    }
    load.queued = table->calls - load.running;
    load.idle = table->workers > ring.busy ? table->workers - ring.busy : 0;
    pthread_mutex_unlock(&table->lock);
    return load;
}

void
job_table_look_at_workers(job_table *table, worker_load *loads)
{
    pthread_mutex_lock(&table->lock);
    for (uint32_t i = 0; i < table->ring.worker_count; i++) {
        loads[i] = (worker_load){.ended = job_ring_collected(&table->ring, i)};
    }
    for (uint32_t i = 0; i < table->ring.slot_count; i++) {
        task *t = table->by_slot[i];
        process_job *job = job_table_job_in(table, i);
        uint32_t worker = job == NULL ? UINT32_MAX : job_ring_taker(&table->ring, job->slot);
        if (worker == UINT32_MAX) {
            continue;
        }
        worker_load *load = &loads[worker];
        int64_t began_ns = job_slot_began(job->slot);
        if (load->running++ == 0 || (began_ns > 0 && began_ns < load->began_ns)) {
            load->callable = t->callable;
            load->name = job->special == NULL ? NULL : job->special->options.name;
            load->began_ns = began_ns;
        }
    }
    pthread_mutex_unlock(&table->lock);
}

uint32_t
job_table_idle_workers(job_table *table)
{
    pthread_mutex_lock(&table->lock);
    // Each outstanding task has a worker of its own, or will have.  The workers' states would not do: one
    // that has just finished a task may not have come to look for more.
    uint32_t idle = table->max_workers > table->outstanding ? table->max_workers - table->outstanding : 0;
    pthread_mutex_unlock(&table->lock);
    return idle;
}
