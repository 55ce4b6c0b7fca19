// process_queue: what a ProcessQueue is: tasks on their way to workers and back.
//
//     submit --> packed --> the table ==> worker ==> the table --> unpacked --> delivered
//            (process_submit) '--------- no GIL ---------'      (process_delivery)
//
// A task's job is *in flight* from the moment when the queue accepts it until its destination has the
// outcome; where it is meanwhile, process_job.h tells.  Two threads serve the queue: the *result handler*
// collects what workers have finished and delivers it, and the supervisor starts, watches and reaps the
// workers.  Each is woken by an eventfd: the result handler by workers and by process_queue_raise_wakeup(),
// the supervisor by process_queue_poke_supervisor().
//
// This unit has the struct, its states, and what the units above it (process_delivery, process_submit,
// process_queue_type, keeper) do to it in common.  The GIL guards all fields; the table has a lock of its
// own.
#ifndef PYCONC_PROCESS_QUEUE_H
#define PYCONC_PROCESS_QUEUE_H

#include "base/queue.h"
#include "job_table.h"

#include "core/call_times.h"
#include "core/pool_view.h"

// Who may push, and what becomes of that.
//
//              close()              cancel_queued()
//     OPEN ----------------> CLOSED ---------------> CANCELLING
//       |                       |                        |  fail_all(),
//       | after_fork()          '----------> DEAD <------'  after_fork(), the finalizer
//       '-------------------------------------^
//
// Two things are independent of the state.  Whether somebody keeps a closed queue open, see keeper.h: keepers
// come and go in each state.  And `head.inherited`, which executors of all kinds know: a fork sets it in the
// child, at any point; the workers and the ring are the parent's.  The state is DEAD there.
typedef enum process_queue_state {
    QUEUE_OPEN,        // everybody may
    QUEUE_CLOSED,      // only its keepers may
    QUEUE_CANCELLING,  // the same, and a map cancels what it would push
    QUEUE_DEAD,        // nobody: the queue has no workers, and gets none
} process_queue_state;

typedef struct ProcessQueueObject {
    queue_head head;
    PyObject *weakrefs;
    RegionObject *region;  // set once
    pool_view *view;       // in the region, behind the ring; set once
    packer packs;
    PyObject *close_error;  // exception type and message for a refused push; set unless it is open
    PyObject *close_message;
    uint32_t max_workers;  // set once
    process_queue_state state;
    uint32_t keepers;            // how many keep it open
    int wakeup_fd;               // eventfd: wakes the result handler; set once
    int *doorbells;              // eventfds, one per worker, if workers run event loops; else NULL; set once
    int relief_fd;               // eventfd: a worker asks to be replaced; -1: none ever does; set once
    int supervisor_fd;           // eventfd: wakes the supervisor; -1 while there is none
    int timer_fd;                // timerfd: await_event() has something to do; -1 as above
    _Atomic uint32_t attention;  // the result handler is called
    park_spot spot;              // where threads spin for what they wait for
    list_link *in_flight;        // every job that was accepted and has not ended
    node_list ready;             // of these, what the result handler delivers next
    job_followup *followups;     // of jobs that have ended: what is to be done about that
    job_followup **followups_end;
    PyObject *before_delivery;  // is called when outcomes have come, before anybody is told; NULL: nothing is
    uint64_t submitted;         // calls that were accepted and have been, or will be, made
    uint64_t recycled, stolen;  // as in PoolStats
    tally counts;               // what became of them
    call_times *times;          // NULL: nobody wants to know for how long they wait; else owned; set once
    job_table table;
} ProcessQueueObject;

// ---- states ----

void process_queue_enter(ProcessQueueObject *self, process_queue_state state);

// Refuses pushes from now on with error(message), unless they come from the queue's keepers; if it
// is closed already, gives another reason.
void process_queue_close(ProcessQueueObject *self, PyObject *error, PyObject *message);

// Whether everybody may push; whether its keepers may.  0; or -1, with what the queue was
// closed with.
int process_queue_check_open(ProcessQueueObject *self);
int process_queue_check_kept_open(ProcessQueueObject *self);

// Raises what the queue was closed with.
void process_queue_refuse(ProcessQueueObject *self);

// For keeper.c: one more keeps the queue open, or one less.  0; or -1 as process_queue_check_kept_open().
int process_queue_keep_open(ProcessQueueObject *self);
void process_queue_let_close(ProcessQueueObject *self);

// True: nobody may push, and nothing is in flight; the result handler may go.
bool process_queue_is_done(const ProcessQueueObject *self);

// Lets memory go back to the system while workers have nothing to do.
void process_queue_rest_if_idle(ProcessQueueObject *self);

// ---- wakeups: any thread, also in a signal handler ----

// Wakes the result handler to collect, and lowers that.
void process_queue_raise_wakeup(ProcessQueueObject *self);
void process_queue_clear_wakeup(ProcessQueueObject *self);

// Calls the result handler back to Python; it asks whether somebody has since it last asked.
void process_queue_call_handler(ProcessQueueObject *self);
bool process_queue_take_call(ProcessQueueObject *self);

void process_queue_poke_supervisor(ProcessQueueObject *self);

// ---- counts; the caller has the GIL ----

// So many calls more, or less, were accepted.
void process_queue_count_submitted(ProcessQueueObject *self, int64_t calls);

// So many calls have ended in the way that `how`, one of `counts`, stands for.
void process_queue_count_ended(ProcessQueueObject *self, uint64_t *how, uint64_t calls);

// So many calls have run, for so long on average.
void process_queue_count_runs(ProcessQueueObject *self, uint64_t calls, uint64_t average_ns);

// They have waited until then, if somebody wants to know: since a time that is 0 otherwise.
void process_queue_count_waits(ProcessQueueObject *self, uint64_t calls, int64_t submitted_ns,
                               int64_t began_ns);

// So many calls were taken from a worker that had them, for another one.
void process_queue_count_stolen(ProcessQueueObject *self, uint64_t calls);

// ---- followups: see job_followup ----

void process_queue_add_followup(ProcessQueueObject *self, job_followup *followup);

// True: the followup was due, and is the caller's to be done.
bool process_queue_take_followup(ProcessQueueObject *self, job_followup *followup);

// Does those that are due.  They may end jobs, and so add to them.
void process_queue_run_followups(ProcessQueueObject *self);

// ---- workers ----

// The number of a worker.  0, or -1 with an exception.
int process_queue_parse_worker(ProcessQueueObject *self, PyObject *arg, uint32_t *worker);

#endif
