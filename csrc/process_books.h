// process_books: which tasks of a ProcessQueue are where; kept under a lock of its own, without the GIL.
//
//                  .-----> waiting -----.
//     accepted ----+                    +--> posted ==> a worker ==> collected --> to be delivered
//                  '--------------------'      |
//                         (no room) |          | cancelled
//                                   '-----> withdrawn --> to be told
//
// A task is *posted* on the board, or waits in line until the board has room.  What workers have finished
// is *collected*: the outcome is copied out of its record, which is free again at once and is filled with
// what waits, so workers are fed while the interpreter is busy.  Cancelling a task takes its record off the
// board, unless a worker has it; the task is kept among the withdrawn ones for whoever delivers.
//
// `lock` guards all fields but those that are set once.  It is the inner one: nothing here calls Python or
// takes the GIL.  A task is the books' from accept() until it is handed out or taken.
#ifndef PYCONC_PROCESS_BOOKS_H
#define PYCONC_PROCESS_BOOKS_H

#include "codec.h"
#include "task.h"

#include <pthread.h>

struct ProcessQueueObject;

// What a task of a process executor has in its args: where its call and its outcome are.
typedef struct errand {
    struct ProcessQueueObject *queue;  // borrowed: it outlives the tasks that it has not delivered
    parcel call;                       // GIL, but for what parcel_write() reads
    bool is_sent;                      // the call's block is the worker's affair; lock
    shm_record *record;                // lock; while it is on the board
    wire *outcome;                     // lock; a copy, once it is collected
    shm_block *block;                  // of the outcome; held by this process
    BlockObject *whole;                // the same, once it has been looked at; GIL
    uint64_t number;                   // counts the queue's tasks; lock
    uint32_t calls;                    // of a chunk: how many the record still stands for; lock
    bool is_bound;                     // only `worker` may run it, and only that `generation`; set once
    uint32_t worker, generation;       // see shm_board_generation()
    bool is_waiting;                   // lock
    bool is_collected;                 // lock
    bool is_withdrawn;                 // lock
    bool is_cancelled;                 // its worker was asked to cancel it; lock, and GIL to change
    int64_t pushed_ns;                 // when, if nobody spins for it and it was the only one; else 0; GIL
    PyObject *error;                   // of a call that could not be packed: its outcome; GIL
    task *next, **link;                // among those that the queue has not delivered; GIL
    bool is_in_delivery;               // a thread has taken it, to end it; GIL
} errand;

static inline errand *
errand_of(const task *t)
{
    return (errand *)(void *)t->args;
}

typedef struct process_books {
    RegionObject *region;  // borrowed; set once
    uint32_t max_workers;  // set once
    pthread_mutex_t lock;
    shm_board board;      // what is shared of it has a protocol of its own
    task **posted;        // by record: who is on the board
    task **found;         // room for as many, for take()
    node_list waiting;    // packed, without a record
    node_list collected;  // finished, and nobody delivers it yet
    bool is_announced;    // the collecting thread has been told of these
    node_list withdrawn;  // cancelled; their destinations have yet to be told
    uint32_t waiting_count;
    uint64_t accepted;     // tasks, in all
    uint32_t outstanding;  // tasks that workers still have to do: on the board or waiting
    uint32_t workers;      // started, or about to be
    bool progress;         // something was collected since a worker was last buried
} process_books;

// Bytes of shared memory that the books of so many workers need.
uint64_t process_books_size(uint32_t max_workers, uint32_t records);

// Zeroed before.  `records`: so many fit on the board, a power of two; what does not waits in line.  SHM_OK
// or SHM_NO_MEMORY; either way to be closed.
int process_books_open(process_books *books, RegionObject *region, uint32_t max_workers, uint32_t records,
                       int wakeup_fd, const int *doorbells);
void process_books_close(process_books *books);

// ---- tasks ----

typedef struct acceptance {
    bool is_lost;   // its worker is no more; nothing else counts, and the task is not the books'
    bool is_short;  // there may be one more worker, and tasks outnumber those that there are
    bool is_alone;  // it is the only task
} acceptance;

// The task is the books' from here on.
acceptance process_books_accept(process_books *books, task *t);

// True: no worker has taken it, and none will; it is among the withdrawn.
bool process_books_withdraw(process_books *books, task *t);

// True: a worker has taken it, and is asked to cancel it; what comes back does not count any more.
bool process_books_ask_to_cancel(process_books *books, task *t);
void process_books_ask_to_cancel_all(process_books *books);

// True once a worker has taken it.
bool process_books_is_taken(process_books *books, task *t);

// Takes the second half of the calls that a chunk has left away from its worker: see shm_record_split().
uint32_t process_books_split(process_books *books, task *t);

// Collects what workers have finished, and fills the board with what waits.
void process_books_collect(process_books *books);

// The same, then moves what is to be delivered, and whom to tell of a cancellation, to the ends of lists.
void process_books_hand_out(process_books *books, node_list *collected, node_list *withdrawn);

// The same for what a thread waits for itself: one task or none, or all for a loop.  True if something is
// left of which the collecting thread has not been told; that is up to the caller.
bool process_books_hand_out_task(process_books *books, task *wanted, node_list *own);
bool process_books_hand_out_loops(process_books *books, PyObject *bridge, node_list *own);

// Takes a task back that was handed out and could not be delivered yet.
void process_books_put_back(process_books *books, task *t);

// Takes every task that no worker has taken, in order; with `taken`, also those, whose workers are of no
// use any more.
list_node *process_books_take(process_books *books, bool taken);

// ---- workers ----

// One more worker counts, and is to be started, if tasks outnumber workers and there may be one more.
bool process_books_reserve_worker(process_books *books);
void process_books_add_workers(process_books *books, long change);

// Settles the affairs of a dead worker, whose number is then free; returns the tasks that it had taken and
// not finished, or NULL.  *progress: some worker has finished a task since the last burial.
list_node *process_books_bury(process_books *books, uint32_t worker, bool *progress);

// Has the workers leave when nothing is left for them to take.
void process_books_dismiss(process_books *books);

// ---- counts ----

uint32_t process_books_workers(process_books *books);
uint32_t process_books_outstanding(process_books *books);

// Tasks that wait for a worker.
uint32_t process_books_queued(process_books *books);

// Workers that have nothing to do, or may be started, when each task has one.
uint32_t process_books_idle_workers(process_books *books);

// ---- fork ----

// In the child: the workers are the parent's, and so is the board.  The books may have been caught half
// changed: they forget all tasks, which the queue knows, too.
void process_books_after_fork(process_books *books);

#endif
