// workq: a first-in-first-out queue of work and the workers that wait for it.
//
// Nodes are intrusive: they are fields of the queued things, so a push never allocates.  One mutex guards the
// queue and the counts of its workers; a thread holds it for a few instructions and never across a system
// call.
//
//            workq_reserve_worker            workq_pop: a node
//   (none) ------------------------> idle ----------------------> busy
//      ^                              |  ^                          |
//      '------------------------------'  '--------------------------'
//          workq_leave: closed, empty         workq_pop: nothing
//          workq_retire: empty
//
// An idle worker is starting, spinning, asleep, or *searching*: on its way to workq_pop() because it saw
// work.  A push wakes a sleeper only if no worker spins and none searches.  A worker that pops a node and
// leaves others behind applies the same rule, so workers wake one after the other for as long as there is
// work for them, and a burst that one worker can clear wakes no other.  No wakeup is lost, because work is
// never left in the queue without a searcher or a spinner, unless every worker is awake.
//
// A closed queue refuses pushes; workers still pop what was pushed before (the mutex orders the push and the
// close). No Python.
#ifndef PYCONC_WORKQ_H
#define PYCONC_WORKQ_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "node_list.h"
#include "park.h"

enum {
    WORKQ_OK = 0,
    WORKQ_SHORT = 1,    // Pushed; no idle worker is left for it, and one more may be started.
    WORKQ_CLOSED = -1,  // Refused: the queue is closed.
    WORKQ_TIMED_OUT = -2,
};

typedef struct workq {
    pthread_mutex_t lock;
    // All below: guarded by lock; the atomics are also read without it.
    node_list nodes;
    _Atomic uint32_t length;
    uint32_t max_workers;
    _Atomic uint32_t workers;  // reserved or running
    uint32_t idle;             // of these, not holding a node
    uint32_t spinning;         // of the idle: looking at signal
    uint32_t searching;        // of the idle: on their way to workq_pop()
    uint32_t sleeping;         // of the idle: asleep and not chosen to wake
    uint32_t chosen;           // taken from sleeping by a waker, not yet back from the futex
    bool closed;
    _Atomic uint32_t signal;  // changes whenever a spinner or a sleeper has to look again
    park_spot spot;           // where idle workers spin, one at most
} workq;

// One per worker thread, on its stack; only that thread uses it.  WORKQ_WORKER_INIT begins it.
typedef struct workq_worker {
    bool idle;
    bool searching;
    bool slept;  // in its last workq_wait()
} workq_worker;

#define WORKQ_WORKER_INIT {.idle = true, .searching = false, .slept = false}

void workq_init(workq *q, uint32_t max_workers);
void workq_fini(workq *q);

// WORKQ_OK or WORKQ_SHORT: the queue owns the node, which may be popped before this returns.
// WORKQ_CLOSED: it is still the caller's.
int workq_push(workq *q, list_node *node);

// True if a worker should be started: there is more work than idle workers, and max_workers allows one more.
// A closed queue wants one only if it has none.  The new worker counts as idle from here on; the caller that
// got true starts it or calls workq_leave().
bool workq_reserve_worker(workq *q);

// A thread that is no worker of the queue takes part as an idle one, until it calls workq_leave().
void workq_join(workq *q);

// Changes the limit for workers that are reserved from now on.
void workq_set_max_workers(workq *q, uint32_t max_workers);

// Pops a node for the worker.  NULL: there is none; the worker is idle and calls workq_wait().
list_node *workq_pop(workq *q, workq_worker *worker);

// Takes a node out of the queue for a busy worker, unless there are as many idle workers as nodes: one of
// those pops it.  *place points to it: first in q->nodes, or next in another node.  The caller keeps the list
// as it is from when it has found the place.
bool workq_take_out(workq *q, list_node **place);

// The same in any case, for a node that nobody is to pop: an idle worker may take long to come for it, as it
// starts.
void workq_withdraw(workq *q, list_node **place);

// Blocks an idle worker until there is work (WORKQ_OK) or never will be (WORKQ_CLOSED), or until the deadline
// (WORKQ_TIMED_OUT).  The worker then calls workq_pop() again.
int workq_wait(workq *q, workq_worker *worker, int64_t deadline_ns);

// The worker ends, or the reserved one never began.
void workq_leave(workq *q, workq_worker *worker);

// An idle worker leaves, unless there is work: false.  What is pushed afterwards does not count on it.
bool workq_retire(workq *q, workq_worker *worker);

// Refuses all pushes from now on, and wakes every worker.
void workq_close(workq *q);

// Takes everything that is queued, in order.
list_node *workq_take_all(workq *q);

static inline uint32_t
workq_length(workq *q)
{
    // Relaxed: a count that is out of date the moment it is read.
    return atomic_load_explicit(&q->length, memory_order_relaxed);
}

// Number of workers reserved or running.
static inline uint32_t
workq_workers(workq *q)
{
    return atomic_load_explicit(&q->workers, memory_order_relaxed);  // relaxed, as above
}

// Number of workers that hold no node.
uint32_t workq_idle(workq *q);

// In the child of a fork: the workers are gone, and one of them may have held the mutex.  The nodes stay as
// they are (their list changes only in threads that hold the interpreter's lock, which the forking thread
// held); the counts begin anew.
void workq_after_fork(workq *q);

#endif
