// job_table: where each task of a ProcessQueue is; kept under a lock of its own, without the GIL.
//
//     job_table.c          the table: how tasks get into the ring and out of it
//     job_table_stops.c    tasks that workers have taken and that are to end
//     job_table_limits.c   the timer: tasks whose time is over
//     job_table_workers.c  workers that come and go, and what becomes of the tasks of those that died
//     job_table_look.c     counts, for whoever asks
//
// The states of a task are drawn in process_job.h.  It is in a slot of the job ring, or waits until a slot is
// free.  When a worker has completed a slot, the table *collects* it: it copies the outcome out of the slot,
// frees the slot, and fills it with a task that waits, so the workers are fed while the interpreter is busy.
// To cancel a task the table takes its slot out of the ring, unless a worker has taken the slot; the
// withdrawn task then waits for whoever delivers.
//
// `lock` guards all fields except those that are set once.  It is the inner lock: nothing here calls Python
// or takes the GIL.
#ifndef PYCONC_JOB_TABLE_H
#define PYCONC_JOB_TABLE_H

#include "process_job.h"

#include "core/job_ring.h"
#include "core/pool_view.h"

#include <pthread.h>

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
    uint32_t given_up;     // tasks that are nobody's any more, and keep a worker: see job_table_give_up()
    uint64_t calls;        // for which the outstanding ones stand
    uint32_t workers;      // started, or about to be
    bool progress;         // something was collected since a worker was last reaped
    timer_heap limits;     // of tasks, by when their time is over
    int timer_fd;          // timerfd: fires when the table is to be looked at; -1: none
    int64_t timer_ns;      // when that is; TIMER_OFF: it is not set
    int64_t stall_ns;      // when something may have been ready for long; TIMER_OFF: nothing is
    int64_t look_ns;       // when to look which calls with a timeout have begun; TIMER_OFF: there are none
    int64_t stop_ns;       // when to tell the supervisor of interrupted calls; TIMER_OFF: there are none
    bool has_stops;        // some job's is_stop_due
    uint32_t untold;       // jobs that are is_untold
    bool asks_supervisor;  // since the timer fired: there are stops that it has to see to
} job_table;

// Bytes of shared memory that the table of so many workers need.
uint64_t job_table_size(uint32_t numbers, uint32_t slots);

// Zeroed before.  `numbers`: of workers, max_workers or twice as many.  `slots`: so many fit in the ring, a
// power of two; further jobs wait for a slot.  SHM_OK or SHM_NO_MEMORY; either way to be closed.
int job_table_init(job_table *table, RegionObject *region, pool_view *view, uint32_t max_workers,
                   uint32_t numbers, uint32_t slots, int wakeup_fd, const int *doorbells);
void job_table_fini(job_table *table);

// ---- fork ----

// In the child: the workers are the parent's, and so is the ring.  The table may have been caught half
// changed: they forget all tasks, which the queue knows, too.
void job_table_after_fork(job_table *table);

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

// ---- for the files of a table: all with the lock ----

// How often, at most, the parent looks whether calls with a timeout have begun: a shorter timeout may end
// later by as much.
// Measured with benchmarks/constants.py: time-outs are late by 0.49 ms, by 0.45 with a tenth of this and by
// 0.59 with ten times as much; a burst costs the same.
#define JOB_TABLE_LOOK_NS 1000000

// Has the timer fire at that time, or earlier.
void job_table_set_timer(job_table *table, int64_t when_ns);

// Has it fire when something is to be looked at next, and no earlier.
void job_table_reset_timer(job_table *table);

// The supervisor has been told of an interrupted task, or need not be: it has ended.
void job_table_note_told(job_table *table, special_job *special);

// Has it fire when something ready was not taken for long; when that task is to be looked at; and when a task
// with these options, which had not begun at a time, may have begun, before its time can be over.
void job_table_watch_over_ready(job_table *table);
void job_table_watch_over(job_table *table, special_job *special, int64_t when_ns);
void job_table_watch_over_begin(job_table *table, const call_options *options, int64_t now_ns);

// The job in a slot, or NULL.
static inline process_job *
job_table_job_in(const job_table *table, uint32_t slot)
{
    return table->by_slot[slot] == NULL ? NULL : process_job_of(table->by_slot[slot]);
}

// Moves tasks that wait to free slots.
void job_table_feed(job_table *table);

// A task joins those that wait for a slot, as the last; the first leaves them, or NULL.
void job_table_wait_for_slot(job_table *table, task *t);
task *job_table_stop_waiting(job_table *table);

// Reads what a worker that runs no code of its own any more has left in the slot of a job that it had taken.
void job_table_read_taken(const job_table *table, uint32_t worker, process_job *job);

// A task leaves its slot, which is free then, and counts no longer among those that workers have to do; it
// only counts no longer.
void job_table_leave_slot(job_table *table, task *t);
void job_table_count_out(job_table *table, const process_job *job);

// Withdraws a task that no worker has taken; the caller then calls job_table_feed().
bool job_table_withdraw_locked(job_table *table, task *t);

// Collects what one worker has finished.
void job_table_collect_from(job_table *table, uint32_t worker);

// Gives a task to the caller, as the last of a list.
void job_table_give_away(task *t, node_list *list);

// True, once: the result handler is to be told that something is here.
bool job_table_must_announce(job_table *table);

// Whether there may be one more worker, and tasks outnumber those that there are.
bool job_table_is_short(const job_table *table);

// The ring does not make sense.
void job_table_note_damage(job_table *table);

#endif
