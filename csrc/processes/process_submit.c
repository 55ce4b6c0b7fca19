#include "process_submit.h"

#include "base/call.h"
#include "core/clock.h"

// ---- packing ----

// The call could not be packed: the task ends with that, unless a signal handler has interrupted the caller;
// then NULL with what that raised.
static task *
fail_packing(task *t)
{
    process_job *job = process_job_of(t);
    bool interrupted = !PyErr_ExceptionMatches(PyExc_Exception) || pickling_was_interrupted();
    PyObject *error = PyErr_GetRaisedException();
    if (interrupted) {
        task_free(t);
        PyErr_SetRaisedException(error);
        return NULL;
    }
    job->error = process_delivery_make_exception("call_error", error);
    Py_DECREF(error);
    return t;
}

// A task with the call args[0](args[1:], kwnames), or with why that cannot be packed.  NULL with an
// exception.
static task *
pack_call(ProcessQueueObject *self, const call_options *options, PyObject *const *args, Py_ssize_t nargs,
          PyObject *kwnames, const destination *to)
{
    task *t = process_delivery_new_task(self, options, args[0], to);
    if (t == NULL) {
        return NULL;
    }
    process_job *job = process_job_of(t);
    if (options->deadline_ns != CALL_NO_LIMIT && options->deadline_ns <= clock_now_ns()) {
        job->special->reason = STOP_BY_TIMEOUT;
        job->error = call_timeout_error(args[0], options, CALL_NOT_BEGUN, NULL, NULL);
    }
    else if (codec_pack_call(&self->packs, args, nargs, kwnames, options->name, &job->call) < 0) {
        t = fail_packing(t);
    }
    else if (call_is_limited(options)) {
        job->call.head.flags |= WIRE_LIMITED;
    }
    return t;
}

// ---- accepting ----

// Ends a task that is for a worker which is dead.
static void
fail_lost(ProcessQueueObject *self, task *t)
{
    process_job_enter(process_job_of(t), JOB_DELIVERING);
    process_queue_count_ended(self, &self->counts.died, 1);
    trace_end(&t->traced, TRACE_DIED);
    PyObject *error = process_delivery_make_exception("lost_worker_error", t->callable);
    if (task_fail(t, error) < 0) {
        module_log_escaped(self->head.module);
    }
    Py_DECREF(error);
}

// The queue owns the task from here on.  WORKQ_OK or WORKQ_SHORT.
static int
accept(ProcessQueueObject *self, task *t)
{
    process_job *job = process_job_of(t);
    process_queue_count_submitted(self, process_job_weight(job));
    if (trace_on != NULL) {
        queue_trace_submit(&self->head, t, job->special == NULL ? NULL : job->special->options.name);
    }
    if (self->times != NULL && t->traced == 0) {
        t->traced = -call_times_now_ns(self->times);
    }
    if (job->error != NULL) {
        bool has_timed_out = job->special != NULL && job->special->reason == STOP_BY_TIMEOUT;
        process_queue_count_ended(self, has_timed_out ? &self->counts.timed_out : &self->counts.failed,
                                  process_job_weight(job));
        trace_end(&t->traced, has_timed_out ? TRACE_TIMED_OUT : TRACE_FAILED);
        if (task_fail(t, job->error) < 0) {
            module_log_escaped(self->head.module);
        }
        return WORKQ_OK;
    }
    self->region->rests = false;
    list_link_push(&self->in_flight, &job->in_flight);
    push_result how = job_table_push(&self->table, t);
    if (how.is_lost) {
        fail_lost(self, t);
        return WORKQ_OK;
    }
    if (how.is_alone && !park_may_spin(&self->spot)) {
        job->pushed_ns = clock_now_ns();  // how long it takes tells whether spinning would pay
    }
    return how.is_short ? WORKQ_SHORT : WORKQ_OK;
}

// ---- calls ----

task *
process_submit_make_task(queue_head *op, const call_options *options, PyObject *const *args,
                         Py_ssize_t nargs, PyObject *kwnames, const destination *to)
{
    ProcessQueueObject *self = (ProcessQueueObject *)op;
    return process_queue_check_open(self) < 0 ? NULL : pack_call(self, options, args, nargs, kwnames, to);
}

int
process_submit_push(queue_head *op, task *t)
{
    ProcessQueueObject *self = (ProcessQueueObject *)op;
    gil_hold(&self->head.module->gil);
    return process_queue_check_open(self) < 0 ? WORKQ_CLOSED : accept(self, t);
}

// A worker may be told something.  -1 with an exception: not by this process, or the queue is closed.
static int
check_kept_own(ProcessQueueObject *self)
{
    if (self->head.inherited) {
        PyErr_SetString(PyExc_RuntimeError, "in the child of a fork, the worker is the parent's");
        return -1;
    }
    return process_queue_check_kept_open(self);
}

int
process_submit_to_worker(ProcessQueueObject *self, uint32_t worker, uint32_t generation,
                         PyObject *const *args, Py_ssize_t nargs, const destination *to)
{
    static const call_options none = {
        .how = STOP_INTERRUPT, .timeout_ns = CALL_NO_LIMIT, .deadline_ns = CALL_NO_LIMIT};
    task *t = check_kept_own(self) < 0 ? NULL : pack_call(self, &none, args, nargs, NULL, to);
    if (t == NULL) {
        return -1;
    }
    // To pickle the call runs Python code, which may close the queue or, as the child, come back from a fork.
    if (check_kept_own(self) < 0) {
        PyObject *refusal = PyErr_GetRaisedException();
        task_free(t);
        PyErr_SetRaisedException(refusal);
        return -1;
    }
    process_job_of(t)->worker = worker;
    process_job_of(t)->generation = generation;
    (void)accept(self, t);
    return 0;
}

// ---- chunks ----

int
process_submit_pack_chunk(ProcessQueueObject *self, const destination *to, PyObject *callable,
                          PyObject *items, unsigned flags, task **packed)
{
    *packed = NULL;
    task *t = NULL;
    if (process_queue_check_kept_open(self) == 0) {
        t = process_delivery_new_task(self, NULL, callable, to);
    }
    if (t == NULL) {
        return -1;
    }
    process_job *job = process_job_of(t);
    job->calls = (uint32_t)PyList_GET_SIZE(items);
    if (codec_pack_chunk(&self->packs, callable, items, flags, &job->call) < 0 && fail_packing(t) == NULL) {
        return PACKING_INTERRUPTED;
    }
    if (job->error != NULL && job->calls > 1) {
        task_free(t);
        return 0;
    }
    *packed = t;
    return 0;
}

bool
process_submit_push_chunk(ProcessQueueObject *self, task *t, job_followup *followup)
{
    process_job_of(t)->followup = followup;
    return accept(self, t) == WORKQ_SHORT;
}
