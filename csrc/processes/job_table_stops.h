// job_table_stops: tasks that workers have taken, and that are to end.
//
// A call that is cancelled is interrupted by the thread that cancels it: for the supervisor to do that would
// be one more thread to wait for on a busy machine.  One that has reached its timeout is interrupted when the
// timer has fired, before any Python runs, and its worker says where it was.  Most calls end at once, and the
// supervisor never hears of them.  It is told by the timer of those that have not ended soon, whose stack it
// asks for, and whose grace it watches over; and at once of those that nobody else can interrupt.
#ifndef PYCONC_JOB_TABLE_STOPS_H
#define PYCONC_JOB_TABLE_STOPS_H

#include "job_table.h"

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

// The next order, which is given once.  False: there is none, or none yet.
bool job_table_pop_stop(job_table *table, stop_order *order);

// The worker that runs a task which is to end.  False: it has ended.
bool job_table_find_stopping(job_table *table, uint64_t number, uint32_t *worker);

// Decides to kill the worker that runs a task which is to end; the caller does so at once.  False: it has
// ended, or the ring is damaged, which ends all workers.
bool job_table_condemn_worker(job_table *table, uint64_t number, uint32_t *worker);

// The worker of such a task was killed, and does not end, as the kernel does not let it: withdraws the task,
// unless it has ended.  The slot is the worker's until that is reaped.  True: the result handler is to be
// told.
bool job_table_give_up(job_table *table, uint64_t number);

// Notes where a task was that is to end, unless it has ended; borrows what says so.
void job_table_note_stack(job_table *table, uint64_t number, PyObject *stack);

// Has the worker end a task that it has taken, with the lock.  False: that is too late.
bool job_table_stop(job_table *table, process_job *job, stop_reason reason);

// Interrupts a task that was stopped so, with the lock.  False: the supervisor is to be told of it at once.
bool job_table_interrupt(job_table *table, process_job *job);

#endif
