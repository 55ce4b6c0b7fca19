#include "job_table_workers.h"

#include <stdlib.h>

#include "core/job_ring_check.h"
#include "core/job_ring_parent.h"

bool
job_table_reserve_worker(job_table *table)
{
    pthread_mutex_lock(&table->lock);
    bool wanted = job_table_is_short(table);
    table->workers += wanted;
    pthread_mutex_unlock(&table->lock);
    return wanted;
}

void
job_table_add_workers(job_table *table, long change)
{
    pthread_mutex_lock(&table->lock);
    table->workers = (uint32_t)((long)table->workers + change);
    pthread_mutex_unlock(&table->lock);
}

void
job_table_admit(job_table *table, uint32_t worker, uint32_t process, int pidfd)
{
    pthread_mutex_lock(&table->lock);
    table->processes[worker] = process;
    table->pidfds[worker] = pidfd;
    job_ring_admit(&table->ring, worker);
    pthread_mutex_unlock(&table->lock);
}

bool
job_table_wants_relief(job_table *table, uint32_t worker)
{
    return job_ring_wants_relief(&table->ring, worker);
}

// The same for a task that no worker will end: it fails, unless it was to end without a result anyway.
static void
lose(job_table *table, task *t, node_list *lost)
{
    if (process_job_of(t)->state == JOB_CANCELLING) {
        process_job_of(t)->special->ending = ENDED_BY_DEATH;
        process_job_enter(process_job_of(t), JOB_WITHDRAWN);
        node_list_append(&table->withdrawn, &t->delivery.node);
    }
    else {
        job_table_give_away(t, lost);
    }
}

void
job_table_read_taken(const job_table *table, uint32_t worker, process_job *job)
{
    // The worker may have died between taking the block over and saying so.  Relaxed: the parent has waited
    // for its end, or that can be long in coming, after SIGKILL.
    shm_block *block = job->call.block;
    job->is_sent = atomic_load_explicit(&job->slot->accepted, memory_order_relaxed) != 0
                   || (block != NULL && shm_block_holder(block) == SHM_WORKER(worker));
    job->began_ns = job_slot_began(job->slot);
    job->process = table->processes[worker];
}

// Frees a slot that a dead worker had taken, and adds its task to the lost ones; with the lock.
static void
reap_slot(job_table *table, uint32_t worker, job_slot *slot, node_list *lost)
{
    task *lost_job = table->by_slot[slot - table->ring.slots];
    if (lost_job == NULL) {
        table->given_up -= table->given_up > 0;
        job_ring_free(&table->ring, slot);
        return;
    }
    job_table_read_taken(table, worker, process_job_of(lost_job));
    job_table_leave_slot(table, lost_job);
    lose(table, lost_job, lost);
}

// Adds the tasks that wait for a slot and were for that worker alone to the lost ones; with the lock.
static void
reap_waiting(job_table *table, uint32_t worker, node_list *lost)
{
    node_list rest;
    task *t;
    node_list_init(&rest);
    while ((t = (task *)node_list_pop(&table->waiting)) != NULL) {
        process_job *job = process_job_of(t);
        if (job->worker == worker && job->state == JOB_WAITING) {
            table->waiting_count--;
            job_table_count_out(table, job);
            job_table_give_away(t, lost);
        }
        else {
            node_list_append(&rest, &t->delivery.node);
        }
    }
    node_list_move(&rest, &table->waiting);
}

// With the lock.
static bool
is_damaged(job_table *table)
{
    if (!job_ring_is_intact(&table->ring)) {
        job_table_note_damage(table);
    }
    return table->condition == RING_DAMAGED;
}

bool
job_table_is_damaged(job_table *table)
{
    pthread_mutex_lock(&table->lock);
    bool is_news = is_damaged(table);
    pthread_mutex_unlock(&table->lock);
    return is_news;
}

bool
job_table_take_condemned(job_table *table)
{
    pthread_mutex_lock(&table->lock);
    bool is_news = is_damaged(table);
    if (is_news) {
        table->condition = RING_CONDEMNED;
    }
    pthread_mutex_unlock(&table->lock);
    return is_news;
}

void
job_table_condemn(job_table *table)
{
    pthread_mutex_lock(&table->lock);
    job_table_note_damage(table);
    pthread_mutex_unlock(&table->lock);
}

static int
compare_numbers(const void *one, const void *other)
{
    uint64_t a = process_job_of(*(task *const *)one)->number;
    uint64_t b = process_job_of(*(task *const *)other)->number;
    return (a > b) - (a < b);
}

// Lays a damaged ring out anew, whose last worker is reaped.  Jobs that a worker had taken, or may have, are
// lost; the others wait for a slot, before those that wait already.  With the lock.
static void
begin_anew(job_table *table, node_list *lost)
{
    task **found = table->found;
    uint32_t count = 0;
    node_list rest;
    for (uint32_t i = 0; i < table->ring.slot_count; i++) {
        task *t = table->by_slot[i];
        if (t == NULL) {
            continue;
        }
        process_job *job = process_job_of(t);
        bool is_ready = job_ring_is_ready(&table->ring, job->slot);
        table->by_slot[i] = NULL;
        job->slot = NULL;
        if (is_ready && job->state == JOB_IN_SLOT) {
            found[count++] = t;
        }
        else {
            job->is_sent = true;
            job_table_count_out(table, job);
            lose(table, t, lost);
        }
    }
    qsort(found, count, sizeof(task *), compare_numbers);
    node_list_init(&rest);
    node_list_move(&table->waiting, &rest);
    for (uint32_t i = 0; i < count; i++) {
        job_table_wait_for_slot(table, found[i]);
    }
    node_list_move(&rest, &table->waiting);
    shm_region_write_header(&table->region->memory);
    job_ring_reset(&table->ring);
    table->condition = RING_SOUND;
}

list_node *
job_table_reap(job_table *table, uint32_t worker, bool *progress)
{
    job_slot *slot;
    node_list lost;
    node_list_init(&lost);
    pthread_mutex_lock(&table->lock);
    job_table_collect_from(table, worker);
    *progress = table->progress;
    table->progress = false;
    while ((slot = job_ring_reap(&table->ring, worker)) != NULL) {
        reap_slot(table, worker, slot, &lost);
    }
    reap_waiting(table, worker, &lost);
    table->processes[worker] = 0;
    table->pidfds[worker] = -1;
    table->workers--;
    if (!job_ring_is_intact(&table->ring)) {
        job_table_note_damage(table);
    }
    if (table->condition != RING_SOUND && table->workers == 0) {
        begin_anew(table, &lost);
    }
    job_table_feed(table);
    // The dead worker may have been notified, or was on its way to what is ready.
    job_ring_notify(&table->ring);
    pthread_mutex_unlock(&table->lock);
    // The blocks that it owned go back to the system.
    shm_arena_free_held(&table->region->arena, SHM_WORKER(worker));
    return lost.first;
}

void
job_table_forget_pidfd(job_table *table, uint32_t worker)
{
    pthread_mutex_lock(&table->lock);
    table->pidfds[worker] = -1;
    pthread_mutex_unlock(&table->lock);
}

void
job_table_close(job_table *table)
{
    pthread_mutex_lock(&table->lock);
    job_ring_close(&table->ring);
    pthread_mutex_unlock(&table->lock);
}

list_node *
job_table_evict(job_table *table, bool taken)
{
    task *t, **found = table->found;
    uint32_t count = 0;
    node_list all;
    node_list_init(&all);
    pthread_mutex_lock(&table->lock);
    for (uint32_t i = 0; i < table->ring.slot_count; i++) {
        t = table->by_slot[i];
        if (t == NULL) {
            continue;
        }
        if (job_ring_withdraw(&table->ring, process_job_of(t)->slot)) {
            job_table_leave_slot(table, t);
            found[count++] = t;
        }
        else if (taken) {
            // Its slot stays out of use: the worker that has taken it may still write there.
            process_job_of(t)->slot = NULL;
            process_job_of(t)->is_sent = true;
            table->by_slot[i] = NULL;
            job_table_count_out(table, process_job_of(t));
            found[count++] = t;
        }
    }
    qsort(found, count, sizeof(task *), compare_numbers);
    for (uint32_t i = 0; i < count; i++) {
        lose(table, found[i], &all);
    }
    while ((t = job_table_stop_waiting(table)) != NULL) {
        if (process_job_of(t)->state == JOB_WITHDRAWN) {
            node_list_append(&table->withdrawn, &t->delivery.node);
        }
        else {
            job_table_count_out(table, process_job_of(t));
            job_table_give_away(t, &all);
        }
    }
    pthread_mutex_unlock(&table->lock);
    return all.first;
}
