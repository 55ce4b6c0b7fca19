#include "job_table_stops.h"

#include "core/clock.h"
#include "core/job_ring_check.h"
#include "core/job_ring_parent.h"
#include "core/pidfd.h"

// How long a call that was interrupted has to end before the supervisor is told of it.  Many times what most
// calls need, also beside busy programs.
// Measured with benchmarks/constants.py: with 1 ms a burst takes a fifth longer, with 200 time-outs are late
// by 0.64 ms and not by 0.53.
#define TELL_NS 20000000

// When the supervisor is to be told of a call that was interrupted.
static int64_t
tell_time(const special_job *special)
{
    return special->interrupted_ns + clock_earlier(special->options.grace_ns, TELL_NS);
}

// Has the timer fire then.  With the lock.
static void
tell_later(job_table *table, int64_t tell_ns)
{
    table->stop_ns = clock_earlier(table->stop_ns, tell_ns);
    job_table_set_timer(table, table->stop_ns);
}

bool
job_table_stop(job_table *table, process_job *job, stop_reason reason)
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
    if (job->state == JOB_CANCELLING || job_table_stop(table, job, reason)) {
        job->special->is_cancelled = true;
        return true;
    }
    return false;
}

// With the lock, so that the pidfd stays open.
bool
job_table_interrupt(job_table *table, process_job *job)
{
    special_job *special = job->special;
    if (special->interrupted_ns != 0) {
        return true;
    }
    uint32_t worker = job_ring_taker(&table->ring, job->slot);
    if (table->ring.doorbells != NULL || special->options.how == STOP_KILL || worker == UINT32_MAX
        || table->pidfds[worker] < 0) {
        return false;
    }
    special->interrupted_ns = clock_now_ns();
    int64_t tell_ns = tell_time(special);
    tell_later(table, tell_ns);
    if (table->timer_ns > tell_ns || pidfd_signal(table->pidfds[worker], table->stop_signal) < 0) {
        special->interrupted_ns = 0;
        return false;
    }
    special->is_untold = true;
    table->untold++;
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
    if (outcome == CANCEL_ASKED && special->is_stop_due && (is_again || !job_table_interrupt(table, job))) {
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
        if (t != NULL && (is_stoppable(t) || !only_stoppable) && !job_table_withdraw_locked(table, t)) {
            request_cancel(table, t, STOP_BY_SHUTDOWN);
        }
    }
    for (list_node *node = table->waiting.first; node != NULL; node = node->next) {
        if (is_stoppable((task *)node) || !only_stoppable) {
            job_table_withdraw_locked(table, (task *)node);
        }
    }
    job_table_feed(table);
    pthread_mutex_unlock(&table->lock);
}

int64_t
job_table_longest_grace(job_table *table)
{
    int64_t longest = 0;
    pthread_mutex_lock(&table->lock);
    for (uint32_t i = 0; i < table->ring.slot_count; i++) {
        process_job *job = job_table_job_in(table, i);
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
    bool found = false, are_others = false;
    for (uint32_t i = 0; table->has_stops && !found && i < table->ring.slot_count; i++) {
        process_job *job = job_table_job_in(table, i);
        special_job *special = job == NULL ? NULL : job->special;
        if (special == NULL || !special->is_stop_due) {
            continue;
        }
        if (special->interrupted_ns != 0 && !special->has_no_grace && tell_time(special) > clock_now_ns()) {
            are_others = true;
            tell_later(table, tell_time(special));  // the timer may have fired for another call
        }
        else {
            special->is_stop_due = false;
            job_table_note_told(table, special);
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
    table->has_stops = found || are_others;
    pthread_mutex_unlock(&table->lock);
    return found;
}

// The task with this number; NULL: it has ended.  With the lock.
static process_job *
find(job_table *table, uint64_t number)
{
    for (uint32_t i = 0; i < table->ring.slot_count; i++) {
        process_job *job = job_table_job_in(table, i);
        if (job != NULL && job->number == number) {
            return job;
        }
    }
    return NULL;
}

// The same, but NULL if it is not to end.
static process_job *
find_cancelling(job_table *table, uint64_t number)
{
    process_job *job = find(table, number);
    return job != NULL && job->state == JOB_CANCELLING ? job : NULL;
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
            job_table_note_damage(table);
        }
    }
    pthread_mutex_unlock(&table->lock);
    return condemned;
}

bool
job_table_give_up(job_table *table, uint64_t number)
{
    pthread_mutex_lock(&table->lock);
    process_job *job = find_cancelling(table, number);
    uint32_t worker = job == NULL ? UINT32_MAX : job_ring_taker(&table->ring, job->slot);
    if (worker != UINT32_MAX) {
        task *t = THING_OF(job, task, args);
        job_table_read_taken(table, worker, job);
        table->by_slot[job->slot - table->ring.slots] = NULL;
        job->slot = NULL;
        job->special->ending = ENDED_UNSEEN;
        job_table_count_out(table, job);
        table->given_up++;
        process_job_enter(job, JOB_WITHDRAWN);
        node_list_append(&table->withdrawn, &t->delivery.node);
    }
    bool new = job_table_must_announce(table);
    pthread_mutex_unlock(&table->lock);
    return new;
}

void
job_table_note_stack(job_table *table, uint64_t number, PyObject *stack)
{
    PyObject *former = NULL;
    pthread_mutex_lock(&table->lock);
    process_job *job = find(table, number);
    if (job != NULL && job->special != NULL) {
        former = job->special->stack;
        job->special->stack = Py_NewRef(stack);
    }
    pthread_mutex_unlock(&table->lock);
    Py_XDECREF(former);
}
