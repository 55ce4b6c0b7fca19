#define _GNU_SOURCE
#include "shared_sync.h"

#include <limits.h>
#include <linux/futex.h>

#include "futex.h"

// Bits that no thread's number has, as robust_bell_ready() wants it.
#define SLEEPING FUTEX_WAITERS
#define SET FUTEX_OWNER_DIED

// The words are few and rarely written: all in one order, which needs no thought.
static uint32_t
load(const _Atomic uint32_t *word)
{
    return atomic_load_explicit(word, memory_order_seq_cst);  // consistent: see above
}

static void
store(_Atomic uint32_t *word, uint32_t value)
{
    atomic_store_explicit(word, value, memory_order_seq_cst);  // consistent: see above
}

static uint32_t
exchange(_Atomic uint32_t *word, uint32_t value)
{
    return atomic_exchange_explicit(word, value, memory_order_seq_cst);  // consistent: see above
}

static bool
replace(_Atomic uint32_t *word, uint32_t *expected, uint32_t value)
{
    // Consistent: see above.
    return atomic_compare_exchange_strong_explicit(word, expected, value, memory_order_seq_cst,
                                                   memory_order_seq_cst);
}

// ---- semaphore ----

enum {
    PERMITS,
    BELL,
    LIMIT
};

void
shared_semaphore_init(shared_cell *cell, uint32_t permits, uint32_t limit)
{
    store(&cell->words[PERMITS], permits);
    store(&cell->words[LIMIT], limit);
}

uint32_t
shared_semaphore_permits(const shared_cell *cell)
{
    return load(&cell->words[PERMITS]);
}

static bool
take_permit(shared_cell *cell)
{
    uint32_t permits = load(&cell->words[PERMITS]);
    while (permits > 0) {
        if (replace(&cell->words[PERMITS], &permits, permits - 1)) {
            return true;
        }
    }
    return false;
}

// After what it announces, within robust_bell_ready() and robust_bell_done().
static void
ring(_Atomic uint32_t *bell)
{
    if (load(bell) != 0 && exchange(bell, 0) != 0) {
        futex_wake_shared(bell, 1);
    }
}

// Becomes the sleeper, until is_over() or an error.  It is still that on return if it is over and it does not
// leave.
static int
queue_for_permit(shared_cell *cell, int64_t deadline_ns, bool (*is_over)(shared_cell *cell), bool leaves)
{
    int rc = robust_lock_acquire(&cell->lock, deadline_ns);
    if (rc < 0) {
        return rc;
    }
    for (;;) {
        store(&cell->words[BELL], SLEEPING);
        if (is_over(cell)) {
            rc = FUTEX_OK;
            break;
        }
        rc = futex_wait_shared(&cell->words[BELL], SLEEPING, deadline_ns);
        if (rc != FUTEX_OK) {
            break;
        }
    }
    if (rc != FUTEX_OK || leaves) {
        shared_semaphore_pass(cell);
    }
    return rc;
}

int
shared_semaphore_acquire(shared_cell *cell, int64_t deadline_ns)
{
    if (take_permit(cell)) {
        return FUTEX_OK;
    }
    if (deadline_ns == ROBUST_LOCK_NO_WAIT) {
        return FUTEX_TIMED_OUT;
    }
    return queue_for_permit(cell, deadline_ns, take_permit, true);
}

static bool
has_permit(shared_cell *cell)
{
    return load(&cell->words[PERMITS]) > 0;
}

int
shared_semaphore_await(shared_cell *cell, int64_t deadline_ns)
{
    return queue_for_permit(cell, deadline_ns, has_permit, false);
}

void
shared_semaphore_pass(shared_cell *cell)
{
    store(&cell->words[BELL], 0);
    robust_lock_release(&cell->lock);
}

int
shared_semaphore_release(shared_cell *cell, uint32_t permits)
{
    uint32_t limit = load(&cell->words[LIMIT]);
    uint32_t most = limit == 0 || limit > SHARED_PERMITS_MAX ? SHARED_PERMITS_MAX : limit - 1;
    if (!robust_bell_ready(&cell->words[BELL])) {
        return ROBUST_LOCK_REFUSED;
    }
    int rc = FUTEX_OK;
    uint32_t now = load(&cell->words[PERMITS]);
    do {
        if (now > most || permits > most - now) {
            rc = SHARED_SYNC_TOO_MANY;
            break;
        }
    } while (!replace(&cell->words[PERMITS], &now, now + permits));
    if (rc == FUTEX_OK) {
        ring(&cell->words[BELL]);
    }
    robust_bell_done();
    return rc;
}

// ---- door ----

bool
shared_door_ready(shared_cell *cell)
{
    return robust_bell_ready(&cell->words[BELL]);
}

void
shared_door_open(shared_cell *cell)
{
    // Only the lock's holder writes it: mostly it is open already.
    if (load(&cell->words[PERMITS]) == 0) {
        store(&cell->words[PERMITS], 1);
    }
}

void
shared_door_ring(shared_cell *cell)
{
    ring(&cell->words[BELL]);
    robust_bell_done();
}

void
shared_door_shut(shared_cell *cell)
{
    store(&cell->words[PERMITS], 0);
}

const _Atomic uint32_t *
shared_door_word(const shared_cell *cell)
{
    return &cell->words[PERMITS];
}

// ---- event ----

enum {
    EVENT,
    TIMES
};

bool
shared_event_is_set(const shared_cell *cell)
{
    return (load(&cell->words[EVENT]) & SET) != 0;
}

int
shared_event_set(shared_cell *cell)
{
    if (!robust_bell_ready(&cell->words[EVENT])) {
        return ROBUST_LOCK_REFUSED;
    }
    // Consistent, as all here: whoever has slept through a set and a clear sees that it was set.
    atomic_fetch_add_explicit(&cell->words[TIMES], 1, memory_order_seq_cst);
    if ((exchange(&cell->words[EVENT], SET) & SLEEPING) != 0) {
        futex_wake_shared(&cell->words[EVENT], INT_MAX);
    }
    robust_bell_done();
    return FUTEX_OK;
}

void
shared_event_clear(shared_cell *cell)
{
    // Consistent, as all here.
    atomic_fetch_and_explicit(&cell->words[EVENT], ~SET, memory_order_seq_cst);
}

uint32_t
shared_event_times(const shared_cell *cell)
{
    return load(&cell->words[TIMES]);
}

int
shared_event_wait(shared_cell *cell, uint32_t times, int64_t deadline_ns)
{
    _Atomic uint32_t *event = &cell->words[EVENT];
    uint32_t now = load(event);
    if ((now & SET) != 0 || times != load(&cell->words[TIMES])) {
        return FUTEX_OK;
    }
    if (deadline_ns == ROBUST_LOCK_NO_WAIT) {
        return FUTEX_TIMED_OUT;
    }
    if (!robust_bell_ready(event)) {
        return ROBUST_LOCK_REFUSED;
    }
    int rc = FUTEX_OK;
    bool slept = false;
    while ((now & SET) == 0 && times == load(&cell->words[TIMES])) {
        if (now != SLEEPING && !replace(event, &now, SLEEPING)) {
            continue;
        }
        rc = futex_wait_shared(event, SLEEPING, deadline_ns);
        if (rc != FUTEX_OK) {
            break;
        }
        slept = true;
        now = load(event);
    }
    if (rc == FUTEX_OK && slept) {
        futex_wake_shared(event, INT_MAX);
    }
    robust_bell_done();
    return rc;
}

// ---- condition ----

enum {
    TURN,
    TICKETS,
    BELOW,
    GRANTS,
    WAITERS
};

// Numbers go round.
static bool
is_below(uint32_t ticket, uint32_t limit)
{
    return (int32_t)(ticket - limit) < 0;
}

static bool
may_take(const shared_cell *cell, shared_ticket ticket)
{
    return load(&cell->words[GRANTS]) > 0 && is_below(ticket.number, load(&cell->words[BELOW]));
}

shared_ticket
shared_condition_enter(shared_cell *cell)
{
    shared_ticket ticket = {.number = load(&cell->words[TICKETS]), .turn = load(&cell->words[TURN])};
    if (load(&cell->words[WAITERS]) == 0) {
        // Nobody is left from before the numbers went round.
        store(&cell->words[BELOW], ticket.number);
    }
    store(&cell->words[TICKETS], ticket.number + 1);
    store(&cell->words[WAITERS], load(&cell->words[WAITERS]) + 1);
    return ticket;
}

int
shared_condition_sleep(shared_cell *cell, shared_ticket *ticket, int64_t deadline_ns)
{
    while (!shared_condition_look(cell, ticket)) {
        int rc = futex_wait_shared(&cell->words[TURN], ticket->turn, deadline_ns);
        if (rc != FUTEX_OK) {
            return rc;
        }
    }
    return FUTEX_OK;
}

bool
shared_condition_look(const shared_cell *cell, shared_ticket *ticket)
{
    uint32_t turn = load(&cell->words[TURN]);
    if (turn == ticket->turn) {
        return false;
    }
    ticket->turn = turn;
    return may_take(cell, *ticket);
}

int
shared_condition_await(shared_cell *cell, uint32_t turn)
{
    while (load(&cell->words[TURN]) == turn) {
        int rc = futex_wait_shared(&cell->words[TURN], turn, FUTEX_NO_DEADLINE);
        if (rc != FUTEX_OK) {
            return rc;
        }
    }
    return FUTEX_OK;
}

bool
shared_condition_take(shared_cell *cell, shared_ticket ticket)
{
    if (!may_take(cell, ticket)) {
        return false;
    }
    store(&cell->words[GRANTS], load(&cell->words[GRANTS]) - 1);
    shared_condition_leave(cell);
    return true;
}

void
shared_condition_leave(shared_cell *cell)
{
    uint32_t waiters = load(&cell->words[WAITERS]);
    waiters -= waiters > 0 ? 1 : 0;
    store(&cell->words[WAITERS], waiters);
    if (load(&cell->words[GRANTS]) > waiters) {
        store(&cell->words[GRANTS], waiters);
    }
}

void
shared_condition_notify(shared_cell *cell, uint32_t count)
{
    uint32_t waiters = load(&cell->words[WAITERS]);
    uint32_t grants = load(&cell->words[GRANTS]);
    if (waiters == 0 || count == 0) {
        return;
    }
    uint32_t room = grants < waiters ? waiters - grants : 0;
    store(&cell->words[GRANTS], grants + (count < room ? count : room));
    store(&cell->words[BELOW], load(&cell->words[TICKETS]));
    store(&cell->words[TURN], load(&cell->words[TURN]) + 1);
    futex_wake_shared(&cell->words[TURN], INT_MAX);
}
