// job_table: where each task of a ProcessQueue is; kept under a lock of its own, without the GIL.
//
//                 .---> WAITING ---.
//                 |        |       |                     outcome is here
//      PACKED ----+--------|-------+---> IN_SLOT ==> a worker ==> COLLECTED ---> DELIVERING
//                          |                |            |            ^               |
//                          | cancel()       | cancel()   | cancel()   '---------------'
//                          |                |            v             a signal handler raised
//                          |                |        CANCELLING
//                          '-----> WITHDRAWN <-----------'
//                                      '---------------------------------------> DELIVERING
//
// A task whose worker dies, and one that is evicted, is DELIVERING from wherever it was; but what is
// CANCELLING is WITHDRAWN then, too, as when it ends by itself.
//
// When the time of a task is over it goes the way of one that is cancelled, and says so in `reason`.  Tasks
// with a deadline are in the heap of limits while they are WAITING or IN_SLOT.  A timeout counts from when a
// worker has begun, of which the table does not hear: it looks, before a call that begins now could have had
// its time, and puts those that have begun into the heap.
//
// A task is in a slot of the job ring, or waits until a slot is free.  When a worker has completed a slot,
// the table *collects* it: it copies the outcome out of the slot, frees the slot, and fills it with a task
// that waits, so the workers are fed while the interpreter is busy.  To cancel a task the table takes its
// slot out of the ring, unless a worker has taken the slot; the withdrawn task then waits for whoever
// delivers.
//
// A call that is cancelled is interrupted by the thread that cancels it: for the supervisor to do that would
// be one more thread to wait for on a busy machine.  Most calls end at once, and the supervisor never hears
// of them.  It is told by the timer of those that have not ended soon, whose grace it watches over; and at
// once of those that nobody else can interrupt.
//
// `lock` guards all fields except those that are set once.  It is the inner lock: nothing here calls Python
// or takes the GIL.  The table owns a task from job_table_push() until the task is popped or evicted.
#ifndef PYCONC_JOB_TABLE_H
#define PYCONC_JOB_TABLE_H

#include "codec.h"
#include "base/queue.h"

#include "core/pool_view.h"
#include "core/timer_heap.h"

#include <pthread.h>

struct ProcessQueueObject;

typedef enum process_job_state {
    JOB_PACKED,      // not the table's yet
    JOB_WAITING,     // without a slot: in `waiting`
    JOB_IN_SLOT,     // in the ring, ready or taken by a worker
    JOB_CANCELLING,  // the same; its worker is asked to end it, and what comes back does not count
    JOB_WITHDRAWN,   // cancelled: in `withdrawn`, or in `waiting` until a slot would be its
    JOB_COLLECTED,   // its outcome is here: in `collected`, or its queue's `ready`
    JOB_DELIVERING,  // not the table's: a thread has it on a list of its own, to end it
} process_job_state;

// How a task ended that was to end.
typedef enum job_ending {
    ENDED_UNBEGUN,
    ENDED_BY_RESULT,     // it returned all the same
    ENDED_BY_EXCEPTION,  // TaskCancelled, or what came of that
    ENDED_BY_DEATH,      // its worker died
} job_ending;

// The number of a worker that is any worker.
#define JOB_ANY_WORKER UINT32_MAX

// What is to be done when a job has ended in whatever way: not within its delivery, but after that, by the
// result handler, or by a thread that takes it before.  Embedded in what does it.  GIL.
typedef struct job_followup {
    struct job_followup *next, **link;       // among those that are due; link: NULL while it is not
    void (*run)(struct job_followup *self);  // once; must not leave an exception
} job_followup;

// What only a call with options has: the others are by so much smaller.
typedef struct special_job {
    struct process_job *job;  // whose it is; set once
    call_options options;     // set once
    timer_node limit;         // in the table's limits; lock
    stop_reason reason;       // why it is to end, or was withdrawn; lock, then GIL
    job_ending ending;        // of one that was to end; lock, then GIL
    bool is_cancelled;        // its future waits for it to be cancelled; lock, then GIL
    bool has_no_grace;        // its worker is to be killed at once; lock
    bool is_stop_due;         // the supervisor has yet to be told that it is CANCELLING; lock
    int64_t interrupted_ns;   // when its worker was interrupted without the supervisor; 0: it was not; lock
    PyObject *stack;          // as note_stack() of the queue takes it, or NULL; lock, then GIL
} special_job;

// What a task of a process executor has in its args: where its call and its outcome are.
typedef struct process_job {
    struct ProcessQueueObject *queue;  // borrowed: it outlives the tasks that it has not delivered
    process_job_state state;           // lock while it is the table's, else GIL
    packed_message call;               // GIL; what packed_message_write() reads: lock
    bool is_sent;                      // the call's block is the worker's affair; lock
    job_slot *slot;                    // lock; while it is in the ring
    int64_t began_ns;                  // when a worker began, once it is out of the slot; lock, then GIL
    wire *outcome;                     // lock; a copy, once it is collected
    shm_block *block;                  // of the outcome; held by this process
    BlockObject *whole;                // the same, once it has been looked at; GIL
    uint32_t process;                  // of its worker, once it is out of the slot, or 0; lock, then GIL
    uint64_t number;                   // counts the queue's tasks; lock
    uint32_t calls;                    // of a chunk: how many the slot still stands for; lock
    uint32_t worker, generation;       // of the only one that may run it, see job_ring_generation(); set once
    int64_t pushed_ns;                 // when, if nobody spins for it and it was the only one; else 0; GIL
    special_job *special;              // NULL: a call without options; set once
    PyObject *error;                   // of a call that could not be packed: its outcome; GIL
    list_link in_flight;               // in its queue's list; GIL
    job_followup *followup;            // or NULL; GIL
} process_job;

// For how many calls of the program it stands.
static inline uint32_t
process_job_weight(const process_job *job)
{
    return job->calls > 0 ? job->calls : 1;
}

static inline process_job *
process_job_of(const task *t)
{
    return (process_job *)(void *)t->args;
}

// What becomes of a job that is cancelled while it runs.
static inline stop_how
process_job_how(const process_job *job)
{
    return job->special == NULL ? STOP_ABANDON : job->special->options.how;
}

// The task of a job that is in its queue's list.
static inline task *
task_in_flight(list_link *link)
{
    return THING_OF(THING_OF(link, process_job, in_flight), task, args);
}

// Notes where a job is from now on.
void process_job_enter(process_job *job, process_job_state state);

typedef enum ring_condition {
    RING_SOUND,
    RING_DAMAGED,    // a worker's stray write has hit it: nothing enters it
    RING_CONDEMNED,  // the same, and the queue's owner knows that it has to end the workers
} ring_condition;

#define TIMER_OFF INT64_MAX

typedef struct job_table {
    RegionObject *region;  // borrowed; set once
    pool_view *view;       // borrowed; set once; the table writes its `calls`
    uint32_t max_workers;  // at a time, without successors, for whom the ring has numbers, too; set once
    pthread_mutex_t lock;
    job_ring ring;  // what is shared of it has a protocol of its own
    ring_condition condition;
    uint32_t *processes;  // by number of a worker: its process, from its admission until it is reaped; else 0
    int *pidfds;          // the same: a pidfd, the supervisor's, until its end has been seen; else -1
    int stop_signal;      // interrupts a worker's call; set before one is admitted
    task **by_slot;       // by slot: those in the ring
    task **found;         // room for as many, for job_table_evict()
    node_list waiting;    // packed, without a slot
    node_list collected;  // finished, and nobody delivers it yet
    node_list withdrawn;  // cancelled; their destinations have yet to be told
    bool is_announced;    // the result handler has been told of all these
    uint32_t waiting_count;
    uint64_t accepted;     // tasks, in all
    uint32_t outstanding;  // tasks that workers still have to do: in the ring or waiting
    uint64_t calls;        // for which these stand
    uint32_t workers;      // started, or about to be
    bool progress;         // something was collected since a worker was last reaped
    timer_heap limits;     // of tasks, by when their time is over
    int timer_fd;          // timerfd: fires when the table is to be looked at; -1: none
    int64_t timer_ns;      // when that is; TIMER_OFF: it is not set
    int64_t stall_ns;      // when something may have been ready for long; TIMER_OFF: nothing is
    int64_t look_ns;       // when to look which calls with a timeout have begun; TIMER_OFF: there are none
    int64_t stop_ns;       // when to tell the supervisor of interrupted calls; TIMER_OFF: there are none
    bool has_stops;        // some job's is_stop_due
} job_table;

// Bytes of shared memory that the table of so many workers need.
uint64_t job_table_size(uint32_t numbers, uint32_t slots);

// Zeroed before.  `numbers`: of workers, max_workers or twice as many.  `slots`: so many fit in the ring, a
// power of two; further jobs wait for a slot.  SHM_OK or SHM_NO_MEMORY; either way to be closed.
int job_table_init(job_table *table, RegionObject *region, pool_view *view, uint32_t max_workers,
                   uint32_t numbers, uint32_t slots, int wakeup_fd, const int *doorbells);
void job_table_fini(job_table *table);

// ---- tasks ----

typedef struct push_result {
    bool is_lost;   // its worker is dead; nothing else counts, and the task is not the table's
    bool is_short;  // there may be one more worker, and tasks outnumber those that there are
    bool is_alone;  // it is the only task
} push_result;

// The task is the table's from here on.
push_result job_table_push(job_table *table, task *t);

// True: no worker has taken it, and none will; it is among the withdrawn.
bool job_table_withdraw(job_table *table, task *t);

typedef enum cancel_outcome {
    CANCEL_TOO_LATE,
    CANCEL_ASKED,           // a worker has taken it, and is asked to end it
    CANCEL_FOR_SUPERVISOR,  // the same, and the caller pokes the supervisor: see job_table_pop_stop()
} cancel_outcome;

// Asks for the end of a task that a worker has taken.  `insists`: if that was asked before, without any more
// grace.
cancel_outcome job_table_request_cancel(job_table *table, task *t, bool insists);

// The same for every task that a worker has taken, all of them for the supervisor: the executor is shut down.
void job_table_request_cancel_all(job_table *table);

// Withdraws every task that no worker has taken, or only those that may be stopped, and asks for the end of
// the others.
void job_table_cancel(job_table *table, bool only_stoppable);

// The longest that one of those whose end was asked for may take, in nanoseconds.
int64_t job_table_longest_grace(job_table *table);

// What the supervisor is to do about a task that is to end.
typedef struct stop_order {
    uint64_t number;  // of the task
    uint32_t worker;  // that runs it
    stop_reason reason;
    bool is_kill;      // at once; else only after the grace
    int64_t grace_ns;  // what is left of it
} stop_order;

// The next order, which is given once.  False: there is none.
bool job_table_pop_stop(job_table *table, stop_order *order);

// The worker that runs a task which is to end.  False: it has ended.
bool job_table_find_stopping(job_table *table, uint64_t number, uint32_t *worker);

// Decides to kill the worker that runs a task which is to end; the caller does so at once.  False: it has
// ended, or the ring is damaged, which ends all workers.
bool job_table_condemn_worker(job_table *table, uint64_t number, uint32_t *worker);

// Notes where a task was that is to end, unless it has ended; borrows what says so.
void job_table_note_stack(job_table *table, uint64_t number, PyObject *stack);

// True once a worker has taken it.
bool job_table_is_taken(job_table *table, task *t);

// Takes the second half of the calls that a chunk has left away from its worker: see job_slot_split().
uint32_t job_table_split(job_table *table, task *t);

// Collects what workers have finished, and fills the ring with what waits.
void job_table_collect(job_table *table);

// The same, then moves what is to be delivered to the end of a list, where it stays COLLECTED, and whom to
// tell of a cancellation to another.
void job_table_pop_all(job_table *table, node_list *collected, node_list *withdrawn);

// The same for what a thread waits for itself: one task or none, or all that one carrier carries.  True if
// something is left of which the result handler has not been told; that is up to the caller.
bool job_table_pop_task(job_table *table, task *wanted, node_list *own);
bool job_table_pop_carried(job_table *table, const carrier *waiter, node_list *own);

// Takes a task back that was handed out and could not be delivered yet.
void job_table_return(job_table *table, task *t);

// Takes every task that no worker has taken, in order; with `taken`, also those, whose workers are of no
// use any more.
list_node *job_table_evict(job_table *table, bool taken);

// ---- workers ----

// One more worker counts, and is to be started, if tasks outnumber workers and there may be one more.
bool job_table_reserve_worker(job_table *table);
void job_table_add_workers(job_table *table, long change);

// Looks whether a worker's stray write has hit the ring, and nobody ends the workers for that yet.
bool job_table_is_damaged(job_table *table);

// The same.  True, once: the caller has every worker ended.
// When the last one is reaped, the ring is laid out anew; jobs that no worker had taken go there, the others
// are lost.
bool job_table_take_condemned(job_table *table);

// A worker has found the shared memory damaged: as if the table had.
void job_table_condemn(job_table *table);

// Settles the affairs of a dead worker, whose number is then free; returns the tasks that it had taken and
// not finished, or NULL.  *progress: some worker has finished a task since the last burial.
list_node *job_table_reap(job_table *table, uint32_t worker, bool *progress);

// Whether this worker asks to be replaced, see job_ring.h.
bool job_table_wants_relief(job_table *table, uint32_t worker);

// The parent can see the end of this worker, which is that process: it may take tasks from here on.
// `pidfd`: borrowed until job_table_forget_pidfd(); where the system has none, whatever tells of its end.
void job_table_admit(job_table *table, uint32_t worker, uint32_t process, int pidfd);

// It is about to be closed, as the worker has ended.
void job_table_forget_pidfd(job_table *table, uint32_t worker);

// The table's timer, a timerfd, borrowed; -1: there is none any more.
void job_table_use_timer(job_table *table, int timer_fd);

// It has fired.  If something has been ready for long, and some worker sleeps, that one is notified.  The
// tasks whose time is over are to end, see job_table_pop_stop(), or are among the withdrawn.  True: the
// result handler has yet to be told of those, which is up to the caller.
bool job_table_on_timer(job_table *table);

// Has the workers leave when nothing is left for them to take.
void job_table_close(job_table *table);

// ---- counts ----

uint32_t job_table_workers(job_table *table);
uint32_t job_table_outstanding(job_table *table);

// Tasks that wait for a worker.
uint32_t job_table_queued(job_table *table);

// How many calls run and wait, and how many workers there are and have nothing to do; a stray write makes
// only these wrong.  Does not take long.
typedef struct table_load {
    uint64_t running, queued;
    uint32_t workers, idle;
} table_load;
table_load job_table_look(job_table *table);

// What a worker does; the callable and the name are borrowed from tasks, which the GIL keeps as they are.
typedef struct worker_load {
    PyObject *callable, *name;  // of the call that has begun first, or NULL
    int64_t began_ns;           // 0: not known
    uint32_t running, ended;    // tasks
} worker_load;

// The same for every number of a worker.
void job_table_look_at_workers(job_table *table, worker_load *loads);

// Workers that have nothing to do, or may be started, when each task has one.
uint32_t job_table_idle_workers(job_table *table);

// ---- fork ----

// In the child: the workers are the parent's, and so is the ring.  The table may have been caught half
// changed: they forget all tasks, which the queue knows, too.
void job_table_after_fork(job_table *table);

#endif
