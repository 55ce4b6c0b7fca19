// shared_queue: a queue in a cell of a shared heap.
//
// Its items are in a shared_run, see there, with this for a table, which takes all of the run:
//
//     table    head | tail | end | records, in a ring
//     record   an odd word: the item itself; an even one: twice the size of the bytes that follow
//
// Head and tail say how many items have been taken and put so far, and where the first is and the next goes.
// A put writes a record behind the last, where nobody looks, and publishes the tail; a get copies the first,
// and publishes the head.  Nothing moves, and memory is used again and again, unless items need more than the
// ring has: then it goes on where the run does, or moves to another.  An empty queue begins at the start.
//
// Whoever finds nothing to get waits at one door, see shared_sync.h, whoever finds no space to put at
// another, and whoever waits for all items to be done at a third.  Doors are cells of their own.  A queue
// that is closed has its doors open for good.
//
//     a process that dies in                   leaves
//     a put, before the tail                   the queue as it was
//     a get, before the head                   the queue as it was: the next gets the item
//     a get, after it                          a queue without the item, which nobody gets
//     between the tail or head and the bell    the kernel to ring
//     shutdown, before it has rung             whoever waits, until the next that finds it closed rings
//
// words of the cell: 0 the limit, 0: none   1 closed   2 how many items were done   3 how many had been put
// when the ring began.  The cell's lock guards all.  No Python.
#ifndef PYCONC_SHARED_QUEUE_H
#define PYCONC_SHARED_QUEUE_H

#include "park.h"
#include "shared_run.h"

#define SHARED_QUEUE_MAX UINT32_C(0x7fffffff)

enum {
    SHARED_QUEUE_NOT_NOW = -40,   // nothing to get, no space to put, items that are not done
    SHARED_QUEUE_CLOSED = -41,    // and it will not change
    SHARED_QUEUE_TOO_MANY = -42,  // done more often than put
};

typedef enum shared_queue_door {
    SHARED_QUEUE_ITEMS,
    SHARED_QUEUE_SPACE,
    SHARED_QUEUE_DONE,
    SHARED_QUEUE_DOORS
} shared_queue_door;

// This process's view of it.
typedef struct shared_queue {
    shared_run run;
    shared_cell *doors[SHARED_QUEUE_DOORS];  // constant
    park_spot spots[SHARED_QUEUE_DOORS];
} shared_queue;

// A view of a cell that this process has, as it has those of the doors.
void shared_queue_init(shared_queue *queue, shared_heap *heap, uint32_t index, shared_cell *const *doors);
void shared_queue_fini(shared_queue *queue);

// Before anybody else has it.  At most SHARED_QUEUE_MAX.
void shared_queue_limit(shared_queue *queue, uint32_t limit);
uint32_t shared_queue_get_limit(const shared_queue *queue);

// What can be tried.  Until the deadline it waits for the lock only.  0, SHARED_QUEUE_NOT_NOW, _CLOSED, what
// shared_run_enter() says, or SHARED_HEAP_FULL: with the queue as it was.
typedef int shared_queue_attempt(shared_queue *queue, void *arg, int64_t deadline_ns);

// arg: a shared_item.
shared_queue_attempt shared_queue_put;

// arg: a shared_take, whose function is given the first item, with the lock.  If it cannot keep it (false),
// the item stays: SHARED_HEAP_FULL.
typedef struct shared_take {
    bool (*keep)(void *arg, const shared_item *item);
    void *arg;
} shared_take;
shared_queue_attempt shared_queue_get;

// Whether all items that were put are done.  arg: NULL.
shared_queue_attempt shared_queue_all_done;

// One item is done.  Also SHARED_QUEUE_TOO_MANY.  arg: NULL.
shared_queue_attempt shared_queue_done;

// Closes it: nothing can be put any more.  arg: NULL; or anything: and what is in it is done, and goes.
shared_queue_attempt shared_queue_shutdown;

// Tries, and waits at a door, until that is not SHARED_QUEUE_NOT_NOW.  ROBUST_LOCK_NO_WAIT is no deadline.
// Also FUTEX_TIMED_OUT, FUTEX_INTERRUPTED.
int shared_queue_wait(shared_queue *queue, shared_queue_door door, shared_queue_attempt *attempt, void *arg,
                      int64_t deadline_ns);

// With the lock, see shared_run_enter().
uint32_t shared_queue_count(const shared_queue *queue);

#endif
