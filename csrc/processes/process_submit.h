// process_submit: how a task enters a ProcessQueue.
//
//     call or chunk --> packed --> accepted: listed in flight, and in the table --> a worker
//                          '--> failed: that is its outcome
//
// The thread that submits packs the call, so what cannot be packed hurts nobody else: that task alone ends
// with the exception.  If a signal handler has raised while the call was packed, the submit raises that, and
// there is no task.  Packing runs Python code: the queue may be closed meanwhile, and a call is refused then,
// packed or not.
//
// Accepting tells the caller whether one more worker may be started and tasks outnumber those there are; the
// caller has the supervisor do that.
#ifndef PYCONC_PROCESS_SUBMIT_H
#define PYCONC_PROCESS_SUBMIT_H

#include "process_delivery.h"

// As queue_kind's make_task() and push().
task *process_submit_make_task(queue_head *op, const call_options *options, PyObject *const *args,
                               Py_ssize_t nargs, PyObject *kwnames,
                               const destination *to);
int process_submit_push(queue_head *op, task *t);

// Has one worker make the call args[0](args[1:]) for a destination, whose references the task borrows.  The
// destination gets WorkerDied if this generation of the worker is dead.  0, or -1 with an exception.
int process_submit_to_worker(ProcessQueueObject *self, uint32_t worker, uint32_t generation,
                             PyObject *const *args, Py_ssize_t nargs, const destination *to);

// ---- for map_feed ----

enum {
    PACKING_INTERRUPTED = -2
};

// Packs calls of `callable` with each of a list of items, as a job whose destination is a Future, which is
// pending and has no job; flags: of a wire.  0; or -1 with an exception; or PACKING_INTERRUPTED with one of a
// signal handler.  *packed is NULL if one of several items cannot be packed; if a single one cannot, the job
// ends with that.
int process_submit_pack_chunk(ProcessQueueObject *self, const destination *to, PyObject *callable,
                              PyObject *items, unsigned flags, task **packed);

// Pushes such a job, at once, and has the followup run when it has ended.  True: more workers are to be
// started.
bool process_submit_push_chunk(ProcessQueueObject *self, task *t, job_followup *followup);

#endif
