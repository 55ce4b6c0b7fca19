// process_queue: the Python type pyconc._core.ProcessQueue: tasks on their way to workers and back.
//
//     submit --> packed --> the table ==> worker ==> the table --> unpacked --> delivered
//               (caller)   '----------- no GIL -----------'     (whoever collects)
//
// A task is packed in submit(), by its caller, so what cannot be pickled fails there and hurts nobody
// else.  Where it is from then on, job_table.h tells.  When it is collected it is unpacked and
// delivered with the GIL.
//
// Who collects: a thread that lives in collect(), and sleeps until the eventfd wakes
// it; and, for a short while each, threads that wait for an outcome: *bringing in* what is finished saves
// the sleep and the wakeup of the other.  Such a thread delivers only what it waits for itself, and only
// if no callback or waiter hangs on that, so that nobody's code runs in a thread that may hold his locks.
// The rest it leaves to the result handler.
//
// The fields are guarded by the GIL, but for the table, which have a lock of their own.
#ifndef PYCONC_PROCESS_QUEUE_H
#define PYCONC_PROCESS_QUEUE_H

#include "base/queue.h"
#include "job_table.h"

// Who may push, and what becomes of that.
//
//              close()              cancel_queued()
//     OPEN ----------------> CLOSED ---------------> CANCELLING
//       |                       |   fail_all()           |
//       | after_fork(), or      '----------> DEAD <------'
//       | nobody has it                       ^
//       '-------------------------------------'
//
// Whether somebody keeps a closed queue open, see keeper.h, is independent of that: keepers come and go in
// each of these states.  So is `head.inherited`, which a fork sets in the child, where the state is DEAD as
// well: the workers and the ring are the parent's.
typedef enum process_queue_state {
    QUEUE_OPEN,        // everybody may
    QUEUE_CLOSED,      // nobody but those who keep it open
    QUEUE_CANCELLING,  // the same, and a map cancels what it would push
    QUEUE_DEAD,        // nobody: the queue has no workers, and gets none
} process_queue_state;

typedef struct ProcessQueueObject {
    queue_head head;
    PyObject *weakrefs;
    RegionObject *region;  // set once
    packer packs;
    PyObject *close_error;  // exception type and message for a refused push; set unless it is open
    PyObject *close_message;
    uint32_t max_workers;
    process_queue_state state;
    uint32_t keepers;            // how many keep it open
    int wakeup_fd;               // eventfd: wakes the thread in collect()
    int *doorbells;              // eventfds, one per worker, if workers run event loops; else NULL; set once
    int supervisor_fd;           // eventfd: wakes the supervisor; -1 until there is one
    int stall_fd;                // timerfd: the supervisor is to look after stalled tasks; -1 as above
    _Atomic uint32_t attention;  // that thread is wanted in Python
    park_spot spot;              // where threads spin for what they wait for
    task *in_flight;             // every task that was accepted and has not ended
    node_list ready;             // of these, what the result handler delivers next
    job_followup *followups;     // of jobs that have ended: what is to be done about that
    job_followup **followups_end;
    job_table table;
} ProcessQueueObject;

extern PyType_Spec process_queue_spec;

// For keeper.c: one more keeps the queue open, or one less.  -1, with what submit() would raise, if the queue
// is closed and nobody keeps it open.
int process_queue_keep_open(ProcessQueueObject *self);
void process_queue_let_close(ProcessQueueObject *self);

// ---- for chunk_map ----

enum {
    PACKING_INTERRUPTED = -2
};

// Packs calls of `callable` with each of a list of items, as a job whose destination is a Future, which is
// pending and has no job; flags: of a wire.  0; or -1 with an exception; or PACKING_INTERRUPTED with one
// of a signal handler.  *job is NULL if it is one of several items that cannot be packed; a single one is the
// exception that the job ends with.
int process_queue_pack_chunk(ProcessQueueObject *self, const destination *to, PyObject *callable,
                             PyObject *items, unsigned flags, task **job);

// Pushes such a job, at once, and has the followup, if it is not NULL, run when it has ended.  True: more
// workers are to be started.
bool process_queue_push_chunk(ProcessQueueObject *self, task *job, job_followup *followup);

// True: the followup was due, and is the caller's to be done.
bool process_queue_take_followup(ProcessQueueObject *self, job_followup *followup);

// Raises what submit() would raise if the queue is closed.  0 or -1.
int process_queue_check_open(ProcessQueueObject *self);

// Raises what tasks ended with that the parent of this forked process had.
void process_queue_raise_inherited(ProcessQueueObject *self);

#endif
