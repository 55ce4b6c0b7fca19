#include "job_table.h"

#include <stdlib.h>
#include <sys/timerfd.h>

#include "core/clock.h"
#include "core/job_ring_parent.h"

// How long a slot may be ready before the parent looks whether the workers that it has notified are stopped.
// Many times what a worker takes to wake up, also beside busy programs; and so long that a pool under load
// does not feel it.
// Measured with benchmarks/constants.py: the call that a stopped worker was called for
// ends after 8 ms, with a tenth of this after 2 and with ten times as much after 467; a burst costs the same.
#define STALL_NS 50000000

uint64_t
job_table_size(uint32_t numbers, uint32_t slots)
{
    return job_ring_size(slots, numbers);
}

int
job_table_init(job_table *table, RegionObject *region, pool_view *view, uint32_t max_workers,
               uint32_t numbers, uint32_t slots, int wakeup_fd, const int *doorbells)
{
    table->region = region;
    table->view = view;
    table->max_workers = max_workers;
    table->timer_fd = -1;
    table->timer_ns = table->stall_ns = table->look_ns = table->stop_ns = TIMER_OFF;
    pthread_mutex_init(&table->lock, NULL);
    node_list_init(&table->waiting);
    node_list_init(&table->collected);
    node_list_init(&table->withdrawn);
    table->by_slot = calloc(slots, sizeof(task *));
    table->found = calloc(slots, sizeof(task *));
    table->processes = calloc(numbers, sizeof(uint32_t));
    table->pidfds = malloc(numbers * sizeof(int));
    if (table->by_slot == NULL || table->found == NULL || table->processes == NULL || table->pidfds == NULL) {
        return SHM_NO_MEMORY;
    }
    for (uint32_t i = 0; i < numbers; i++) {
        table->pidfds[i] = -1;
    }
    int rc = job_ring_init(&table->ring, region->head, slots, numbers, wakeup_fd);
    job_ring_use_doorbells(&table->ring, doorbells);
    return rc;
}

void
job_table_fini(job_table *table)
{
    job_ring_fini(&table->ring);
    free(table->by_slot);
    free(table->found);
    free(table->processes);
    free(table->pidfds);
    pthread_mutex_destroy(&table->lock);
}

void
job_table_after_fork(job_table *table)
{
    pthread_mutex_init(&table->lock, NULL);
    memset(table->by_slot, 0, table->ring.slot_count * sizeof(task *));
    node_list_init(&table->waiting);
    node_list_init(&table->collected);
    node_list_init(&table->withdrawn);
    table->waiting_count = table->outstanding = table->workers = 0;
    table->calls = 0;
    table->untold = 0;
    table->limits.first = NULL;
}

// ---- the timer; with the lock ----

// TIMER_OFF: never.
static void
set_timer_to(job_table *table, int64_t when_ns)
{
    int64_t at_ns = when_ns == TIMER_OFF ? 0 : when_ns > 0 ? when_ns
                                                           : 1;  // 0 disarms it
    struct itimerspec when = {.it_value = {.tv_sec = at_ns / 1000000000, .tv_nsec = at_ns % 1000000000}};
    if (timerfd_settime(table->timer_fd, TFD_TIMER_ABSTIME, &when, NULL) == 0) {
        table->timer_ns = when_ns;
    }
}

void
job_table_set_timer(job_table *table, int64_t when_ns)
{
    if (table->timer_fd >= 0 && when_ns < table->timer_ns) {
        set_timer_to(table, when_ns);
    }
}

void
job_table_reset_timer(job_table *table)
{
    int64_t when_ns = clock_earlier(clock_earlier(table->stall_ns, table->look_ns),
                                    clock_earlier(table->stop_ns, timer_heap_due(&table->limits)));
    if (table->timer_fd >= 0 && when_ns != table->timer_ns) {
        set_timer_to(table, when_ns);
    }
}

void
job_table_note_told(job_table *table, special_job *special)
{
    if (!special->is_untold) {
        return;
    }
    special->is_untold = false;
    if (--table->untold == 0) {
        // Else the supervisor would wake for nothing, and take the GIL, for each task that was interrupted.
        bool is_set_for_it = table->timer_ns == table->stop_ns;
        table->stop_ns = TIMER_OFF;
        if (is_set_for_it) {
            job_table_reset_timer(table);
        }
    }
}

void
job_table_watch_over_ready(job_table *table)
{
    if (table->stall_ns == TIMER_OFF) {
        table->stall_ns = clock_now_ns() + STALL_NS;
        job_table_set_timer(table, table->stall_ns);
    }
}

void
job_table_watch_over(job_table *table, special_job *special, int64_t when_ns)
{
    timer_heap_remove(&special->limit);
    timer_heap_insert(&table->limits, &special->limit, when_ns);
    job_table_set_timer(table, when_ns);
}

void
job_table_watch_over_begin(job_table *table, const call_options *options, int64_t now_ns)
{
    int64_t timeout_ns = options->timeout_ns > JOB_TABLE_LOOK_NS ? options->timeout_ns : JOB_TABLE_LOOK_NS;
    if (timeout_ns < table->look_ns - now_ns) {
        table->look_ns = now_ns + timeout_ns;
        job_table_set_timer(table, table->look_ns);
    }
}

// ---- the ring; with the lock ----

static void
put_in_slot(job_table *table, task *t, job_slot *slot)
{
    process_job *job = process_job_of(t);
    packed_message_write(&job->call, slot->message);
    const call_options *options = job->special == NULL ? NULL : &job->special->options;
    if (options != NULL && (options->how != STOP_ABANDON || call_is_limited(options))) {
        job_slot_set_stoppable(slot, options->timeout_ns, options->deadline_ns);
    }
    else {
        job_slot_set_range(slot, job->calls);
    }
    job->slot = slot;
    process_job_enter(job, JOB_IN_SLOT);
    table->by_slot[slot - table->ring.slots] = t;
    if (options != NULL && options->timeout_ns != CALL_NO_LIMIT) {
        job_table_watch_over_begin(table, options, clock_now_ns());
    }
    if (job->worker != JOB_ANY_WORKER) {
        job_ring_push_to(&table->ring, slot, job->worker);
    }
    else {
        job_ring_push(&table->ring, slot);
        job_table_watch_over_ready(table);
    }
}

// Workers have so many calls more to do, or less.
static void
count_calls(job_table *table, int64_t change)
{
    table->calls += (uint64_t)change;
    pool_view_show(&table->view->calls, table->calls);
}

void
job_table_count_out(job_table *table, const process_job *job)
{
    if (job->special != NULL) {
        job_table_note_told(table, job->special);
    }
    table->outstanding--;
    count_calls(table, -(int64_t)process_job_weight(job));
}

void
job_table_leave_slot(job_table *table, task *t)
{
    process_job *job = process_job_of(t);
    table->by_slot[job->slot - table->ring.slots] = NULL;
    job_ring_free(&table->ring, job->slot);
    job->slot = NULL;
    job_table_count_out(table, job);
}

void
job_table_wait_for_slot(job_table *table, task *t)
{
    process_job_enter(process_job_of(t), JOB_WAITING);
    table->waiting_count++;
    node_list_append(&table->waiting, &t->delivery.node);
}

task *
job_table_stop_waiting(job_table *table)
{
    task *t = (task *)node_list_pop(&table->waiting);
    if (t != NULL) {
        table->waiting_count--;
    }
    return t;
}

// Allocates a slot; NULL if none is free, or the ring is damaged.
static job_slot *
find_slot(job_table *table)
{
    return table->condition == RING_SOUND ? job_ring_alloc(&table->ring) : NULL;
}

void
job_table_feed(job_table *table)
{
    task *t;
    while ((t = (task *)table->waiting.first) != NULL) {
        bool is_withdrawn = process_job_of(t)->state == JOB_WITHDRAWN;
        job_slot *slot = is_withdrawn ? NULL : find_slot(table);
        if (!is_withdrawn && slot == NULL) {
            break;
        }
        (void)job_table_stop_waiting(table);
        if (is_withdrawn) {
            node_list_append(&table->withdrawn, &t->delivery.node);
        }
        else {
            put_in_slot(table, t, slot);
        }
    }
}

// Copies an outcome out of its slot.  One that is not there afterwards is taken for WIRE_NO_MEMORY.
static void
copy_outcome(job_table *table, process_job *job)
{
    size_t length = wire_length(job->slot->message);
    job->outcome = length == 0 ? NULL : malloc(length);
    if (job->outcome == NULL) {
        return;
    }
    memcpy(job->outcome, job->slot->message, length);
    // Once more: a worker that writes anywhere may have changed the slot meanwhile.
    if (wire_length((unsigned char *)job->outcome) != length) {
        free(job->outcome);
        job->outcome = NULL;
        return;
    }
    job->block = wire_block(table->region, job->outcome);
    if (job->block != NULL) {
        shm_block_take_over(job->block, region_me(table->region));
    }
}

// A task ends that was to end.
static void
note_ending(process_job *job, job_ending how)
{
    job->special->ending = how;
}

void
job_table_note_damage(job_table *table)
{
    if (table->condition == RING_SOUND) {
        table->condition = RING_DAMAGED;
    }
}

void
job_table_collect_from(job_table *table, uint32_t worker)
{
    job_slot *slot;
    bool corrupt = false;
    while ((slot = job_ring_pop_completion(&table->ring, worker, &corrupt)) != NULL) {
        task *t = table->by_slot[slot - table->ring.slots];
        if (t == NULL) {
            job_ring_free(&table->ring, slot);  // its task was failed long ago
            continue;
        }
        process_job *job = process_job_of(t);
        copy_outcome(table, job);
        job->began_ns = job_slot_began(slot);
        job->process = table->processes[worker];
        bool is_expired = job->special != NULL && job->outcome != NULL && job->outcome->kind == WIRE_EXPIRED;
        bool counts = job->state == JOB_IN_SLOT && !is_expired;
        if (is_expired && job->state == JOB_IN_SLOT) {
            job->special->reason = STOP_BY_TIMEOUT;
        }
        else if (!counts && !is_expired) {
            note_ending(job, job->outcome != NULL && job->outcome->kind == WIRE_EXCEPTION
                                 ? ENDED_BY_EXCEPTION
                                 : ENDED_BY_RESULT);
        }
        job->is_sent = true;
        job_table_leave_slot(table, t);
        process_job_enter(job, counts ? JOB_COLLECTED : JOB_WITHDRAWN);
        node_list_append(counts ? &table->collected : &table->withdrawn, &t->delivery.node);
        table->progress = true;
    }
    if (corrupt) {
        job_table_note_damage(table);
    }
}

static void
collect_all(job_table *table)
{
    for (uint32_t i = 0; i < table->ring.worker_count; i++) {
        job_table_collect_from(table, i);
    }
    job_table_feed(table);
}

// ---- tasks ----

bool
job_table_is_short(const job_table *table)
{
    // The supervisor is ending the workers of a damaged ring; if none was left to be reaped, another begins
    // all the same.
    bool is_useful = table->condition == RING_SOUND || table->workers == 0;
    bool may_grow = table->workers < table->max_workers;
    return table->outstanding + table->given_up > table->workers && may_grow && is_useful;
}

push_result
job_table_push(job_table *table, task *t)
{
    pthread_mutex_lock(&table->lock);
    process_job *job = process_job_of(t);
    if (job->worker != JOB_ANY_WORKER && job_ring_generation(&table->ring, job->worker) != job->generation) {
        pthread_mutex_unlock(&table->lock);
        return (push_result){.is_lost = true};
    }
    table->outstanding++;
    count_calls(table, process_job_weight(job));
    job->number = table->accepted++;
    if (job->special != NULL && job->special->options.deadline_ns != CALL_NO_LIMIT) {
        job_table_watch_over(table, job->special, job->special->options.deadline_ns);
    }
    job_slot *slot = node_list_is_empty(&table->waiting) ? find_slot(table) : NULL;
    if (slot != NULL) {
        put_in_slot(table, t, slot);
    }
    else {
        job_table_wait_for_slot(table, t);
    }
    push_result how = {.is_short = job_table_is_short(table), .is_alone = table->outstanding == 1};
    pthread_mutex_unlock(&table->lock);
    return how;
}

bool
job_table_withdraw_locked(job_table *table, task *t)
{
    process_job *job = process_job_of(t);
    if (job->slot != NULL && job_ring_withdraw(&table->ring, job->slot)) {
        job_table_leave_slot(table, t);
        process_job_enter(job, JOB_WITHDRAWN);
        node_list_append(&table->withdrawn, &t->delivery.node);
        return true;
    }
    if (job->state == JOB_WAITING) {
        process_job_enter(job, JOB_WITHDRAWN);  // job_table_feed() will come upon it
        job_table_count_out(table, job);
        return true;
    }
    return false;
}

bool
job_table_withdraw(job_table *table, task *t)
{
    pthread_mutex_lock(&table->lock);
    bool withdrawn = job_table_withdraw_locked(table, t);
    if (withdrawn) {
        job_table_feed(table);
    }
    pthread_mutex_unlock(&table->lock);
    return withdrawn;
}

bool
job_table_is_taken(job_table *table, task *t)
{
    process_job *job = process_job_of(t);
    pthread_mutex_lock(&table->lock);
    bool taken = job->slot != NULL ? job_ring_is_taken(job->slot) : job->is_sent;
    pthread_mutex_unlock(&table->lock);
    return taken;
}

uint32_t
job_table_split(job_table *table, task *t)
{
    process_job *job = process_job_of(t);
    pthread_mutex_lock(&table->lock);
    // Also if no worker has taken the chunk yet: its first call may be a long one.
    if (job->slot != NULL) {
        uint32_t calls_before = job->calls;
        job->calls = job_slot_split(job->slot, job->calls);
        count_calls(table, (int64_t)job->calls - (int64_t)calls_before);
    }
    uint32_t calls = job->calls;
    pthread_mutex_unlock(&table->lock);
    return calls;
}

void
job_table_collect(job_table *table)
{
    pthread_mutex_lock(&table->lock);
    collect_all(table);
    pthread_mutex_unlock(&table->lock);
}

void
job_table_give_away(task *t, node_list *list)
{
    process_job_enter(process_job_of(t), JOB_DELIVERING);
    node_list_append(list, &t->delivery.node);
}

void
job_table_pop_all(job_table *table, node_list *collected, node_list *withdrawn)
{
    pthread_mutex_lock(&table->lock);
    task *t;
    collect_all(table);
    node_list_move(&table->collected, collected);
    while ((t = (task *)node_list_pop(&table->withdrawn)) != NULL) {
        job_table_give_away(t, withdrawn);
    }
    table->is_announced = false;
    pthread_mutex_unlock(&table->lock);
}

// Moves `wanted`, or if it is NULL all that the waiter carries, from the collected ones to a list.
static void
sort_out(job_table *table, const task *wanted, const carrier *waiter, node_list *own)
{
    node_list rest;
    list_node *node;
    node_list_init(&rest);
    while ((node = node_list_pop(&table->collected)) != NULL) {
        task *t = (task *)node;
        bool is_own = wanted != NULL ? t == wanted : t->delivery.to.carrier == waiter;
        if (!is_own) {
            node_list_append(&rest, node);
            continue;
        }
        job_table_give_away(t, own);
        if (wanted != NULL) {
            break;
        }
    }
    node_list_move(&table->collected, &rest);
    node_list_move(&rest, &table->collected);
}

bool
job_table_must_announce(job_table *table)
{
    bool new = !table->is_announced
               && !(node_list_is_empty(&table->collected) && node_list_is_empty(&table->withdrawn));
    table->is_announced = table->is_announced || new;
    return new;
}

bool
job_table_pop_task(job_table *table, task *wanted, node_list *own)
{
    pthread_mutex_lock(&table->lock);
    collect_all(table);
    if (wanted != NULL && process_job_of(wanted)->state == JOB_COLLECTED) {
        sort_out(table, wanted, NULL, own);
    }
    bool new = job_table_must_announce(table);
    pthread_mutex_unlock(&table->lock);
    return new;
}

bool
job_table_pop_carried(job_table *table, const carrier *waiter, node_list *own)
{
    pthread_mutex_lock(&table->lock);
    collect_all(table);
    sort_out(table, NULL, waiter, own);
    bool new = job_table_must_announce(table);
    pthread_mutex_unlock(&table->lock);
    return new;
}

void
job_table_return(job_table *table, task *t)
{
    pthread_mutex_lock(&table->lock);
    process_job_enter(process_job_of(t), JOB_COLLECTED);
    node_list_append(&table->collected, &t->delivery.node);
    table->is_announced = true;
    pthread_mutex_unlock(&table->lock);
}
