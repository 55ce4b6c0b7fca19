#include "process_queue.h"

#include <assert.h>
#include <unistd.h>

#include "job_table_look.h"

// ---- states ----

// The states that each state may follow.
#define AFTER(state) (1u << QUEUE_##state)
static const unsigned may_follow[] = {
    [QUEUE_OPEN] = 0,
    [QUEUE_CLOSED] = AFTER(OPEN),
    [QUEUE_CANCELLING] = AFTER(CLOSED),
    [QUEUE_DEAD] = AFTER(OPEN) | AFTER(CLOSED) | AFTER(CANCELLING),
};

void
process_queue_enter(ProcessQueueObject *self, process_queue_state state)
{
    assert(may_follow[state] & 1u << self->state);
    (void)may_follow;
    self->state = state;
}

void
process_queue_close(ProcessQueueObject *self, PyObject *error, PyObject *message)
{
    Py_XSETREF(self->close_error, Py_NewRef(error));
    Py_XSETREF(self->close_message, Py_NewRef(message));
    if (self->state == QUEUE_OPEN) {
        process_queue_enter(self, QUEUE_CLOSED);
    }
    process_queue_call_handler(self);
}

void
process_queue_refuse(ProcessQueueObject *self)
{
    PyErr_SetObject(self->close_error, self->close_message);
}

int
process_queue_check_open(ProcessQueueObject *self)
{
    if (self->state != QUEUE_OPEN) {
        process_queue_refuse(self);
        return -1;
    }
    return 0;
}

static bool
is_kept_open(const ProcessQueueObject *self)
{
    return self->state == QUEUE_OPEN || (self->state != QUEUE_DEAD && self->keepers > 0);
}

int
process_queue_check_kept_open(ProcessQueueObject *self)
{
    if (!is_kept_open(self)) {
        process_queue_refuse(self);
        return -1;
    }
    return 0;
}

int
process_queue_keep_open(ProcessQueueObject *self)
{
    if (process_queue_check_kept_open(self) < 0) {
        return -1;
    }
    self->keepers++;
    return 0;
}

void
process_queue_let_close(ProcessQueueObject *self)
{
    self->keepers--;
    if (self->keepers == 0 && self->state != QUEUE_OPEN) {
        process_queue_call_handler(self);
    }
}

bool
process_queue_is_done(const ProcessQueueObject *self)
{
    return !is_kept_open(self) && self->in_flight == NULL;
}

void
process_queue_rest_if_idle(ProcessQueueObject *self)
{
    if (!self->region->rests && job_table_outstanding(&self->table) == 0) {
        region_set_rests(self->region, true);
    }
}

// ---- wakeups ----

void
process_queue_raise_wakeup(ProcessQueueObject *self)
{
    uint64_t one = 1;
    if (!self->head.inherited) {
        (void)!write(self->wakeup_fd, &one, sizeof(one));
    }
}

void
process_queue_clear_wakeup(ProcessQueueObject *self)
{
    uint64_t count;
    (void)!read(self->wakeup_fd, &count, sizeof(count));
}

void
process_queue_call_handler(ProcessQueueObject *self)
{
    // R12: pairs with A12 in process_queue_take_call(): the handler sees what it was called for.
    atomic_store_explicit(&self->attention, 1, memory_order_release);
    process_queue_raise_wakeup(self);
}

bool
process_queue_take_call(ProcessQueueObject *self)
{
    // A12: pairs with R12 in process_queue_call_handler().
    return atomic_exchange_explicit(&self->attention, 0, memory_order_acquire);
}

void
process_queue_poke_supervisor(ProcessQueueObject *self)
{
    uint64_t one = 1;
    if (self->supervisor_fd >= 0 && !self->head.inherited) {
        (void)!write(self->supervisor_fd, &one, sizeof(one));
    }
}

// ---- counts ----

void
process_queue_count_submitted(ProcessQueueObject *self, int64_t calls)
{
    self->submitted += (uint64_t)calls;
    pool_view_show(&self->view->submitted, self->submitted);
}

void
process_queue_count_ended(ProcessQueueObject *self, uint64_t *how, uint64_t calls)
{
    *how += calls;
    pool_view_show_in(self->view->counts, &self->counts, how);
}

void
process_queue_count_runs(ProcessQueueObject *self, uint64_t calls, uint64_t average_ns)
{
    pool_view_add_times(self->view->counts, &self->counts, &self->counts.runs, calls, average_ns);
}

void
process_queue_count_waits(ProcessQueueObject *self, uint64_t calls, int64_t submitted_ns, int64_t began_ns)
{
    if (self->times != NULL) {
        histogram *waits = &self->times->waits;
        uint64_t waited_ns = call_times_waited_ns(self->times, submitted_ns, began_ns);
        pool_view_add_times(self->view->waits, waits, waits, calls, waited_ns);
    }
}

void
process_queue_count_stolen(ProcessQueueObject *self, uint64_t calls)
{
    self->stolen += calls;
    pool_view_show(&self->view->stolen, self->stolen);
}

// ---- followups ----

void
process_queue_add_followup(ProcessQueueObject *self, job_followup *followup)
{
    followup->next = NULL;
    followup->link = self->followups_end;
    *self->followups_end = followup;
    self->followups_end = &followup->next;
}

bool
process_queue_take_followup(ProcessQueueObject *self, job_followup *followup)
{
    if (followup->link == NULL) {
        return false;
    }
    *followup->link = followup->next;
    if (followup->next != NULL) {
        followup->next->link = followup->link;
    }
    else {
        self->followups_end = followup->link;
    }
    followup->link = NULL;
    return true;
}

void
process_queue_run_followups(ProcessQueueObject *self)
{
    job_followup *followup;
    while ((followup = self->followups) != NULL) {
        (void)process_queue_take_followup(self, followup);
        followup->run(followup);
    }
}

// ---- workers ----

int
process_queue_parse_worker(ProcessQueueObject *self, PyObject *arg, uint32_t *worker)
{
    unsigned long number = PyLong_AsUnsignedLong(arg);
    if (number == (unsigned long)-1 && PyErr_Occurred()) {
        return -1;
    }
    if (number >= self->table.ring.worker_count) {
        PyErr_SetString(PyExc_ValueError, "there is no such worker");
        return -1;
    }
    *worker = (uint32_t)number;
    return 0;
}
