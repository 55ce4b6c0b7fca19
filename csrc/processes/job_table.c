#include "job_table.h"

#include <assert.h>
#include <stdlib.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/pidfd.h"

// How long a slot may be ready before the parent looks whether the workers that it has notified are stopped.
// Many times what a worker takes to wake up, also beside busy programs; and so long that a pool under load
// does not feel it.
#define STALL_NS 50000000
// How often, at most, the parent looks whether calls with a timeout have begun: a shorter timeout may end
// later by as much.
#define LOOK_NS 1000000
// How long a call that was interrupted has to end before the supervisor is told of it.  Many times what most
// calls need, also beside busy programs.
#define TELL_NS 20000000

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

// ---- the timer; with the lock ----

// Has the timer fire at that time, or earlier.
static void
set_timer(job_table *table, int64_t when_ns)
{
    if (table->timer_fd >= 0 && when_ns < table->timer_ns) {
        int64_t at_ns = when_ns > 0 ? when_ns : 1;  // 0 would disarm it
        struct itimerspec when = {
            .it_value = {.tv_sec = at_ns / 1000000000, .tv_nsec = at_ns % 1000000000}};
        if (timerfd_settime(table->timer_fd, TFD_TIMER_ABSTIME, &when, NULL) == 0) {
            table->timer_ns = when_ns;
        }
    }
}

// A slot has become ready, and a worker is on its way.
static void
watch_over_ready(job_table *table)
{
    if (table->stall_ns == TIMER_OFF) {
        table->stall_ns = clock_now_ns() + STALL_NS;
        set_timer(table, table->stall_ns);
    }
}

static int64_t
earlier(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

// The end of a call that has begun at a time.
static int64_t
end_of(const call_options *options, int64_t began_ns)
{
    int64_t end_ns = options->timeout_ns > CALL_NO_LIMIT - began_ns ? CALL_NO_LIMIT
                                                                    : began_ns + options->timeout_ns;
    return earlier(end_ns, options->deadline_ns);
}

// Looks at a task at that time.
static void
watch_over(job_table *table, special_job *special, int64_t when_ns)
{
    timer_heap_remove(&special->limit);
    timer_heap_insert(&table->limits, &special->limit, when_ns);
    set_timer(table, when_ns);
}

// Looks whether a task has begun that had not at a time, before its time can be over.
static void
watch_over_begin(job_table *table, const call_options *options, int64_t now_ns)
{
    int64_t timeout_ns = options->timeout_ns > LOOK_NS ? options->timeout_ns : LOOK_NS;
    if (timeout_ns < table->look_ns - now_ns) {
        table->look_ns = now_ns + timeout_ns;
        set_timer(table, table->look_ns);
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
        watch_over_begin(table, options, clock_now_ns());
    }
    if (job->worker != JOB_ANY_WORKER) {
        job_ring_push_to(&table->ring, slot, job->worker);
    }
    else {
        job_ring_push(&table->ring, slot);
        watch_over_ready(table);
    }
}

// Workers have so many calls more to do, or less.
static void
count_calls(job_table *table, int64_t change)
{
    table->calls += (uint64_t)change;
    pool_view_show(&table->view->calls, table->calls);
}

// A task that workers no longer have to do.
static void
count_out(job_table *table, const process_job *job)
{
    table->outstanding--;
    count_calls(table, -(int64_t)process_job_weight(job));
}

static void
leave_slot(job_table *table, task *t)
{
    process_job *job = process_job_of(t);
    table->by_slot[job->slot - table->ring.slots] = NULL;
    job_ring_free(&table->ring, job->slot);
    job->slot = NULL;
    count_out(table, job);
}

static void
wait_for_slot(job_table *table, task *t)
{
    process_job_enter(process_job_of(t), JOB_WAITING);
    table->waiting_count++;
    node_list_append(&table->waiting, &t->delivery.node);
}

static task *
stop_waiting(job_table *table)
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

// Moves tasks that wait to free slots.
static void
feed(job_table *table)
{
    task *t;
    while ((t = (task *)table->waiting.first) != NULL) {
        bool is_withdrawn = process_job_of(t)->state == JOB_WITHDRAWN;
        job_slot *slot = is_withdrawn ? NULL : find_slot(table);
        if (!is_withdrawn && slot == NULL) {
            break;
        }
        (void)stop_waiting(table);
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

static void
note_damage(job_table *table)
{
    if (table->condition == RING_SOUND) {
        table->condition = RING_DAMAGED;
    }
}

static void
collect_from(job_table *table, uint32_t worker)
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
        leave_slot(table, t);
        process_job_enter(job, counts ? JOB_COLLECTED : JOB_WITHDRAWN);
        node_list_append(counts ? &table->collected : &table->withdrawn, &t->delivery.node);
        table->progress = true;
    }
    if (corrupt) {
        note_damage(table);
    }
}

static void
collect_all(job_table *table)
{
    for (uint32_t i = 0; i < table->ring.worker_count; i++) {
        collect_from(table, i);
    }
    feed(table);
}

// ---- tasks ----

static bool
is_short(const job_table *table)
{
    // The supervisor is ending the workers of a damaged ring; if none was left to be reaped, another begins
    // all the same.
    bool is_useful = table->condition == RING_SOUND || table->workers == 0;
    return table->outstanding > table->workers && table->workers < table->max_workers && is_useful;
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
        watch_over(table, job->special, job->special->options.deadline_ns);
    }
    job_slot *slot = node_list_is_empty(&table->waiting) ? find_slot(table) : NULL;
    if (slot != NULL) {
        put_in_slot(table, t, slot);
    }
    else {
        wait_for_slot(table, t);
    }
    push_result how = {.is_short = is_short(table), .is_alone = table->outstanding == 1};
    pthread_mutex_unlock(&table->lock);
    return how;
}

// With the lock; the caller then calls feed().
static bool
withdraw(job_table *table, task *t)
{
    process_job *job = process_job_of(t);
    if (job->slot != NULL && job_ring_withdraw(&table->ring, job->slot)) {
        leave_slot(table, t);
        process_job_enter(job, JOB_WITHDRAWN);
        node_list_append(&table->withdrawn, &t->delivery.node);
        return true;
    }
    if (job->state == JOB_WAITING) {
        process_job_enter(job, JOB_WITHDRAWN);  // feed() will come upon it
        count_out(table, job);
        return true;
    }
    return false;
}

bool
job_table_withdraw(job_table *table, task *t)
{
    pthread_mutex_lock(&table->lock);
    bool withdrawn = withdraw(table, t);
    if (withdrawn) {
        feed(table);
    }
    pthread_mutex_unlock(&table->lock);
    return withdrawn;
}

// Has the worker end a task that it has taken.  False: that is too late.  With the lock.
static bool
stop(job_table *table, process_job *job, stop_reason reason)
{
    bool is_coroutine = table->ring.doorbells != NULL;
    bool is_asked = job_slot_ask(job->slot, reason);
    // A coroutine's canceller does not wait for its end; so it may have ended just now.
    if (!is_asked && (!is_coroutine || reason == STOP_BY_TIMEOUT)) {
        return false;
    }
    job->special->reason = reason;
    process_job_enter(job, JOB_CANCELLING);
    if (is_asked && is_coroutine) {
        job_ring_request_cancel(&table->ring, job->slot);
    }
    if (is_asked && (!is_coroutine || process_job_how(job) == STOP_KILL)) {
        job->special->is_stop_due = table->has_stops = true;
    }
    return true;
}

// With the lock.
static bool
request_cancel(job_table *table, task *t, stop_reason reason)
{
    process_job *job = process_job_of(t);
    if (job->slot == NULL || !job_ring_is_taken(job->slot) || process_job_how(job) == STOP_ABANDON) {
        return false;
    }
    if (job->state == JOB_CANCELLING || stop(table, job, reason)) {
        job->special->is_cancelled = true;
        return true;
    }
    return false;
}

// Interrupts a call that is to end, and has the timer tell the supervisor of it, in case it does not end
// soon.  False: the supervisor is to be told at once.  With the lock, so that the pidfd stays open.
static bool
interrupt(job_table *table, process_job *job)
{
    special_job *special = job->special;
    uint32_t worker = job_ring_taker(&table->ring, job->slot);
    if (table->ring.doorbells != NULL || special->options.how != STOP_INTERRUPT || worker == UINT32_MAX
        || table->pidfds[worker] < 0) {
        return false;
    }
    int64_t now_ns = clock_now_ns();
    int64_t tell_ns = now_ns + earlier(special->options.grace_ns, TELL_NS);
    table->stop_ns = earlier(table->stop_ns, tell_ns);
    set_timer(table, table->stop_ns);
    if (table->timer_ns > tell_ns || pidfd_signal(table->pidfds[worker], table->stop_signal) < 0) {
        return false;
    }
    special->interrupted_ns = now_ns;
    return true;
}

cancel_outcome
job_table_request_cancel(job_table *table, task *t, bool insists)
{
    pthread_mutex_lock(&table->lock);
    process_job *job = process_job_of(t);
    special_job *special = job->special;
    bool is_again = special != NULL && special->is_cancelled;
    cancel_outcome outcome = request_cancel(table, t, STOP_BY_CANCEL) ? CANCEL_ASKED : CANCEL_TOO_LATE;
    if (outcome == CANCEL_ASKED && is_again && insists && table->ring.doorbells == NULL) {
        special->has_no_grace = special->is_stop_due = table->has_stops = true;
    }
    if (outcome == CANCEL_ASKED && special->is_stop_due && (is_again || !interrupt(table, job))) {
        outcome = CANCEL_FOR_SUPERVISOR;
    }
    pthread_mutex_unlock(&table->lock);
    return outcome;
}

void
job_table_request_cancel_all(job_table *table)
{
    pthread_mutex_lock(&table->lock);
    for (uint32_t i = 0; i < table->ring.slot_count; i++) {
        if (table->by_slot[i] != NULL) {
            request_cancel(table, table->by_slot[i], STOP_BY_SHUTDOWN);
        }
    }
    pthread_mutex_unlock(&table->lock);
}

static bool
is_stoppable(const task *t)
{
    return process_job_how(process_job_of(t)) != STOP_ABANDON;
}

void
job_table_cancel(job_table *table, bool only_stoppable)
{
    pthread_mutex_lock(&table->lock);
    for (uint32_t i = 0; i < table->ring.slot_count; i++) {
        task *t = table->by_slot[i];
        if (t != NULL && (is_stoppable(t) || !only_stoppable) && !withdraw(table, t)) {
            request_cancel(table, t, STOP_BY_SHUTDOWN);
        }
    }
    for (list_node *node = table->waiting.first; node != NULL; node = node->next) {
        if (is_stoppable((task *)node) || !only_stoppable) {
            withdraw(table, (task *)node);
        }
    }
    feed(table);
    pthread_mutex_unlock(&table->lock);
}

int64_t
job_table_longest_grace(job_table *table)
{
    int64_t longest = 0;
    pthread_mutex_lock(&table->lock);
    for (uint32_t i = 0; i < table->ring.slot_count; i++) {
        process_job *job = table->by_slot[i] == NULL ? NULL : process_job_of(table->by_slot[i]);
        if (job != NULL && job->state == JOB_CANCELLING && process_job_how(job) == STOP_INTERRUPT
            && job->special->options.grace_ns > longest) {
            longest = job->special->options.grace_ns;
        }
    }
    pthread_mutex_unlock(&table->lock);
    return longest;
}

// In nanoseconds.  With the lock.
static int64_t
grace_left(const special_job *special)
{
    int64_t grace_ns = special->options.grace_ns;
    int64_t used_ns = special->interrupted_ns == 0 ? 0 : clock_now_ns() - special->interrupted_ns;
    return used_ns < grace_ns ? grace_ns - used_ns : 0;
}

bool
job_table_pop_stop(job_table *table, stop_order *order)
{
    pthread_mutex_lock(&table->lock);
    bool found = false;
    for (uint32_t i = 0; table->has_stops && !found && i < table->ring.slot_count; i++) {
        process_job *job = table->by_slot[i] == NULL ? NULL : process_job_of(table->by_slot[i]);
        special_job *special = job == NULL ? NULL : job->special;
        if (special != NULL && special->is_stop_due) {
            special->is_stop_due = false;
            order->number = job->number;
            order->worker = job_ring_taker(&table->ring, job->slot);
            order->reason = special->reason;
            // A coroutine has its grace in any case.
            order->is_kill = (special->options.how == STOP_KILL || special->has_no_grace)
                             && table->ring.doorbells == NULL;
            order->grace_ns = grace_left(special);
            found = order->worker != UINT32_MAX;
        }
    }
    table->has_stops = found;
    pthread_mutex_unlock(&table->lock);
    return found;
}

// The task with this number, if it is to end; NULL: it has ended.  With the lock.
static process_job *
find_cancelling(job_table *table, uint64_t number)
{
    for (uint32_t i = 0; i < table->ring.slot_count; i++) {
        process_job *job = table->by_slot[i] == NULL ? NULL : process_job_of(table->by_slot[i]);
        if (job != NULL && job->number == number) {
            return job->state == JOB_CANCELLING ? job : NULL;
        }
    }
    return NULL;
}

bool
job_table_find_stopping(job_table *table, uint64_t number, uint32_t *worker)
{
    pthread_mutex_lock(&table->lock);
    process_job *job = find_cancelling(table, number);
    bool goes_on = job != NULL && !job_slot_has_ended(job->slot);
    *worker = goes_on ? job_ring_taker(&table->ring, job->slot) : UINT32_MAX;
    pthread_mutex_unlock(&table->lock);
    return *worker != UINT32_MAX;
}

bool
job_table_condemn_worker(job_table *table, uint64_t number, uint32_t *worker)
{
    pthread_mutex_lock(&table->lock);
    bool condemned = false;
    process_job *job = find_cancelling(table, number);
    if (job != NULL) {
        // The claim word names whom to kill, and a stray write must not choose.
        *worker = job_ring_is_intact(&table->ring) ? job_ring_taker(&table->ring, job->slot) : UINT32_MAX;
        condemned = *worker != UINT32_MAX && job_slot_condemn(job->slot);
        if (!condemned && !job_slot_has_ended(job->slot)) {
            note_damage(table);
        }
    }
    pthread_mutex_unlock(&table->lock);
    return condemned;
}

void
job_table_note_stack(job_table *table, uint64_t number, PyObject *stack)
{
    PyObject *former = NULL;
    pthread_mutex_lock(&table->lock);
    for (uint32_t i = 0; i < table->ring.slot_count; i++) {
        process_job *job = table->by_slot[i] == NULL ? NULL : process_job_of(table->by_slot[i]);
        if (job != NULL && job->number == number && job->special != NULL) {
            former = job->special->stack;
            job->special->stack = Py_NewRef(stack);
            break;
        }
    }
    pthread_mutex_unlock(&table->lock);
    Py_XDECREF(former);
}

// ---- limits; with the lock ----

// The deadline of a task in the ring has passed, and no worker has taken it.
static void
expire_ready(job_table *table, task *t, int64_t now_ns)
{
    process_job *job = process_job_of(t);
    if (!job_ring_withdraw(&table->ring, job->slot)) {
        watch_over(table, job->special, now_ns + LOOK_NS);  // a worker was quicker
        return;
    }
    leave_slot(table, t);
    job->special->reason = STOP_BY_TIMEOUT;
    process_job_enter(job, JOB_WITHDRAWN);
    node_list_append(&table->withdrawn, &t->delivery.node);
}

// Has the worker end a task whose time is over, unless its outcome is there.
static void
end_late(job_table *table, process_job *job)
{
    if (!stop(table, job, STOP_BY_TIMEOUT) && !job_slot_has_ended(job->slot)) {
        note_damage(table);
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
        note_damage(table);  // a stray write: nobody knows when its time is over
        return;
    }
    const call_options *options = &job->special->options;
    int64_t end_ns = has_begun ? end_of(options, began_ns) : options->deadline_ns;
    if (end_ns <= now_ns) {
        end_late(table, job);
    }
    else if (has_begun) {
        watch_over(table, job->special, end_ns);
    }
    else {
        watch_over_begin(table, options, now_ns);
    }
}

// Looks which calls with a timeout have begun since it last looked.
static void
look_for_begun(job_table *table, int64_t now_ns)
{
    for (uint32_t i = 0; i < table->ring.slot_count; i++) {
        process_job *job = table->by_slot[i] == NULL ? NULL : process_job_of(table->by_slot[i]);
        const call_options *options = job == NULL || job->special == NULL ? NULL : &job->special->options;
        if (options == NULL || options->timeout_ns == CALL_NO_LIMIT || job->state != JOB_IN_SLOT) {
            continue;
        }
        if (job_ring_is_taken(job->slot)) {
            look_at_taken(table, job, now_ns);
        }
        else {
            watch_over_begin(table, options, now_ns);
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
        timer_heap_remove(&job->special->limit);
        if (job->state == JOB_WAITING) {
            job->special->reason = STOP_BY_TIMEOUT;
            process_job_enter(job, JOB_WITHDRAWN);
            count_out(table, job);
            has_waited = true;
        }
        else if (job_ring_is_taken(job->slot)) {
            look_at_taken(table, job, now_ns);
        }
        else {
            expire_ready(table, THING_OF(job, task, args), now_ns);
        }
    }
    if (has_waited) {
        sweep_waiting(table);
    }
    feed(table);
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

// Gives a task to the caller; with the lock.
static void
give_away(task *t, node_list *list)
{
    process_job_enter(process_job_of(t), JOB_DELIVERING);
    node_list_append(list, &t->delivery.node);
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
        give_away(t, lost);
    }
}

void
job_table_pop_all(job_table *table, node_list *collected, node_list *withdrawn)
{
    pthread_mutex_lock(&table->lock);
    task *t;
    collect_all(table);
    node_list_move(&table->collected, collected);
    while ((t = (task *)node_list_pop(&table->withdrawn)) != NULL) {
        give_away(t, withdrawn);
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
        give_away(t, own);
        if (wanted != NULL) {
            break;
        }
    }
    node_list_move(&table->collected, &rest);
    node_list_move(&rest, &table->collected);
}

static bool
must_announce(job_table *table)
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
    bool new = must_announce(table);
    pthread_mutex_unlock(&table->lock);
    return new;
}

bool
job_table_pop_carried(job_table *table, const carrier *waiter, node_list *own)
{
    pthread_mutex_lock(&table->lock);
    collect_all(table);
    sort_out(table, NULL, waiter, own);
    bool new = must_announce(table);
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

static int
compare_numbers(const void *one, const void *other)
{
    uint64_t a = process_job_of(*(task *const *)one)->number;
    uint64_t b = process_job_of(*(task *const *)other)->number;
    return (a > b) - (a < b);
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
            leave_slot(table, t);
            found[count++] = t;
        }
        else if (taken) {
            // Its slot stays out of use: the worker that has taken it may still write there.
            process_job_of(t)->slot = NULL;
            process_job_of(t)->is_sent = true;
            table->by_slot[i] = NULL;
            count_out(table, process_job_of(t));
            found[count++] = t;
        }
    }
    qsort(found, count, sizeof(task *), compare_numbers);
    for (uint32_t i = 0; i < count; i++) {
        lose(table, found[i], &all);
    }
    while ((t = stop_waiting(table)) != NULL) {
        if (process_job_of(t)->state == JOB_WITHDRAWN) {
            node_list_append(&table->withdrawn, &t->delivery.node);
        }
        else {
            count_out(table, process_job_of(t));
            give_away(t, &all);
        }
    }
    pthread_mutex_unlock(&table->lock);
    return all.first;
}

// ---- workers ----

bool
job_table_reserve_worker(job_table *table)
{
    pthread_mutex_lock(&table->lock);
    bool wanted = is_short(table);
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

// Frees a slot that a dead worker had taken, and adds its task to the lost ones; with the lock.
static void
reap_slot(job_table *table, uint32_t worker, job_slot *slot, node_list *lost)
{
    task *lost_job = table->by_slot[slot - table->ring.slots];
    if (lost_job == NULL) {
        job_ring_free(&table->ring, slot);
        return;
    }
    // The worker may have died between taking the block over and saying so.  Relaxed: the parent has waited
    // for its end.
    shm_block *block = process_job_of(lost_job)->call.block;
    process_job_of(lost_job)->is_sent =
        atomic_load_explicit(&slot->accepted, memory_order_relaxed) != 0
        || (block != NULL
            && shm_block_holder(block) == SHM_WORKER(worker));
    process_job_of(lost_job)->began_ns = job_slot_began(slot);
    process_job_of(lost_job)->process = table->processes[worker];
    leave_slot(table, lost_job);
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
            count_out(table, job);
            give_away(t, lost);
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
        note_damage(table);
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
    note_damage(table);
    pthread_mutex_unlock(&table->lock);
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
            count_out(table, job);
            lose(table, t, lost);
        }
    }
    qsort(found, count, sizeof(task *), compare_numbers);
    node_list_init(&rest);
    node_list_move(&table->waiting, &rest);
    for (uint32_t i = 0; i < count; i++) {
        wait_for_slot(table, found[i]);
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
    collect_from(table, worker);
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
        note_damage(table);
    }
    if (table->condition != RING_SOUND && table->workers == 0) {
        begin_anew(table, &lost);
    }
    feed(table);
    // The dead worker may have been notified, or was on its way to what is ready.
    job_ring_notify(&table->ring);
    pthread_mutex_unlock(&table->lock);
    // The blocks that it owned go back to the system.
    shm_arena_free_held(&table->region->arena, SHM_WORKER(worker));
    return lost.first;
}

bool
job_table_wants_relief(job_table *table, uint32_t worker)
{
    return job_ring_wants_relief(&table->ring, worker);
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

void
job_table_forget_pidfd(job_table *table, uint32_t worker)
{
    pthread_mutex_lock(&table->lock);
    table->pidfds[worker] = -1;
    pthread_mutex_unlock(&table->lock);
}

// When the timer is to fire.  With the lock.
static int64_t
earliest(const job_table *table)
{
    return earlier(earlier(table->stall_ns, table->look_ns),
                   earlier(table->stop_ns, timer_heap_due(&table->limits)));
}

void
job_table_use_timer(job_table *table, int timer_fd)
{
    pthread_mutex_lock(&table->lock);
    table->timer_fd = timer_fd;
    table->timer_ns = table->stall_ns = TIMER_OFF;
    watch_over_ready(table);  // whatever was pushed before
    set_timer(table, earliest(table));
    pthread_mutex_unlock(&table->lock);
}

bool
job_table_on_timer(job_table *table)
{
    uint64_t times;
    bool new = false;
    pthread_mutex_lock(&table->lock);
    if (read(table->timer_fd, &times, sizeof(times)) == (ssize_t)sizeof(times)) {
        int64_t now_ns = clock_now_ns();
        table->timer_ns = TIMER_OFF;
        if (table->stall_ns <= now_ns) {
            table->stall_ns = TIMER_OFF;
            if (job_ring_notify_others(&table->ring)) {
                watch_over_ready(table);
            }
        }
        if (table->stop_ns <= now_ns) {
            table->stop_ns = TIMER_OFF;  // The supervisor, whose thread this is, asks for them.
        }
        look_at_limits(table, now_ns);
        set_timer(table, earliest(table));
        new = must_announce(table);
    }
    pthread_mutex_unlock(&table->lock);
    return new;
}

void
job_table_close(job_table *table)
{
    pthread_mutex_lock(&table->lock);
    job_ring_close(&table->ring);
    pthread_mutex_unlock(&table->lock);
}

// ---- counts ----

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
        process_job *job = t == NULL ? NULL : process_job_of(t);
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

// ---- fork ----

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
    table->limits.first = NULL;
}
