// shared_sync: semaphores, events and conditions in cells that processes share.
//
// None of them hangs because a process died: not one that waited, nor one that was just woken, nor one that
// was about to wake others.
//
// Semaphore.  A thread that finds no permit takes the cell's lock, and then sleeps on the bell: so there is
// never more than one sleeper, and if that dies the kernel gives its place to the next.  A releaser adds
// permits, then rings; from before it adds until it has rung, the kernel rings in its place.  A process that
// dies with a permit takes it along.
//
//     words   0 permits   1 bell: WAITERS while somebody sleeps, or is about to   2 limit: permits stay below
//             it, 0: any number
//
// Event.  A waiter sleeps on the event itself, ready to ring in its turn; one that sees it set after it slept
// wakes all the others, as the thread that set it may have died before it did.
//
//     words   0 SET, or WAITERS if somebody sleeps   1 how often it was set
//
// Condition.  All is guarded by the lock that the program has put beside it, except the turn that sleepers
// compare.  Whoever waits draws a ticket.  A notification is a grant for any ticket that was drawn before it:
// one that was meant for a dead process is taken by the next, so that it is rather one too many than none.
//
//     words   0 turn   1 next ticket   2 tickets below this may take a grant   3 grants   4 waiters
//
// Door.  For threads that wait for something that a lock beside it guards.  They wait as for a permit:
// one of them is at the door, and the others behind it.  Whoever finds nothing, with that lock, shuts the
// door; whoever brings something opens it with that lock, before there is anything to be found, and rings.
// So an open door says only that it is worth looking, and there is nothing to repair after a death.
//
//     words   as of a semaphore: 0 one permit, OPEN, which nobody takes   1 bell
//
// All functions may sleep only where they have a deadline; they return FUTEX_OK, FUTEX_TIMED_OUT,
// FUTEX_INTERRUPTED, or a status of robust_lock.  No Python.
#ifndef PYCONC_SHARED_SYNC_H
#define PYCONC_SHARED_SYNC_H

#include "shared_heap.h"

#define SHARED_PERMITS_MAX 0x7fffffffu

enum {
    SHARED_SYNC_TOO_MANY = -30,  // The semaphore would have more permits than it may.
};

void shared_semaphore_init(shared_cell *cell, uint32_t permits, uint32_t limit);
uint32_t shared_semaphore_permits(const shared_cell *cell);
int shared_semaphore_acquire(shared_cell *cell, int64_t deadline_ns);
int shared_semaphore_release(shared_cell *cell, uint32_t permits);

// Sleeps until there is a permit, and does not take it.  After FUTEX_OK nobody else is woken for one until
// this thread calls shared_semaphore_pass(), or ends.
int shared_semaphore_await(shared_cell *cell, int64_t deadline_ns);
void shared_semaphore_pass(shared_cell *cell);

// Of a door, with the lock of what is behind it.  From ready to ring: if this thread ends, the kernel rings
// in its place.  No lock is taken or released in between.  False: the system has no such thing.
bool shared_door_ready(shared_cell *cell);
void shared_door_open(shared_cell *cell);
void shared_door_ring(shared_cell *cell);
void shared_door_shut(shared_cell *cell);

// The word that is 0 while it is shut, to look at without any lock.
const _Atomic uint32_t *shared_door_word(const shared_cell *cell);

// A waiter calls shared_semaphore_await(), looks, and then calls shared_semaphore_pass().

bool shared_event_is_set(const shared_cell *cell);
int shared_event_set(shared_cell *cell);
void shared_event_clear(shared_cell *cell);

// How often it was set so far; FUTEX_OK once it is set, or was set since.
uint32_t shared_event_times(const shared_cell *cell);
int shared_event_wait(shared_cell *cell, uint32_t times, int64_t deadline_ns);

// A place in a condition.
typedef struct shared_ticket {
    uint32_t number, turn;
} shared_ticket;

// With the lock.
shared_ticket shared_condition_enter(shared_cell *cell);
// Without it.  FUTEX_OK: there may be a grant for the ticket.
int shared_condition_sleep(shared_cell *cell, shared_ticket *ticket, int64_t deadline_ns);
// The same for whoever waits for several tickets: it sleeps until there is another turn, and then looks.
int shared_condition_await(shared_cell *cell, uint32_t turn);
bool shared_condition_look(const shared_cell *cell, shared_ticket *ticket);
// With the lock: whether there was a grant, which is now taken.
bool shared_condition_take(shared_cell *cell, shared_ticket ticket);
// With the lock: give up the place of one that has taken no grant.
void shared_condition_leave(shared_cell *cell);
// With the lock.
void shared_condition_notify(shared_cell *cell, uint32_t count);

#endif
