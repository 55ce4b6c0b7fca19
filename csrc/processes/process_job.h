// process_job: what a task of a process executor has in its args: its call, its outcome, and where it is.
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
// CANCELLING is WITHDRAWN then, too, as when it ends by itself.  When the time of a task is over it goes the
// way of one that is cancelled, and says so in `reason`.
//
// `lock` is that of the job_table, which owns a task from job_table_push() until the task is popped or
// evicted.
#ifndef PYCONC_PROCESS_JOB_H
#define PYCONC_PROCESS_JOB_H

#include "codec.h"
#include "base/queue.h"

#include "core/timer_heap.h"

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
    ENDED_UNSEEN,        // its worker was killed, and has not ended yet
} job_ending;

// The number of a worker that is any worker.
#define JOB_ANY_WORKER UINT32_MAX

// What is to be done when a job has ended in whatever way: not within its delivery, but after that, by the
// result handler, or by a thread that takes it before.  Embedded in what does it.  GIL.
typedef struct job_followup {
    struct job_followup *next, **link;       // among those that are due; link: NULL while it is not
    void (*run)(struct job_followup *self);  // once; must not leave an exception
} job_followup;

// What only a call with options has, behind its job: the others are by so much smaller.
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
    bool is_untold;           // the supervisor is to be told that it was, unless it ends before; lock
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

#endif
