// queue: the front of every executor's queue of tasks, and what can be done with it.
#ifndef PYCONC_QUEUE_H
#define PYCONC_QUEUE_H

#include "call_options.h"
#include "task.h"
#include "trace.h"

#include "core/workq.h"

struct queue_head;

typedef struct queue_kind {
    // Whether all of its tasks have a route, see task.h; or those with special options.
    bool routed;
    // The call args[0](args[1:], kwnames) for a destination; NULL with an exception.  Borrows all.
    task *(*make_task)(struct queue_head *queue, const call_options *options, PyObject *const *args,
                       Py_ssize_t nargs, PyObject *kwnames, const destination *to);
    // As workq_push(); WORKQ_CLOSED comes with the exception that says why.
    int (*push)(struct queue_head *queue, task *t);
    // Refuses pushes from now on, with error(message).
    void (*close)(struct queue_head *queue, PyObject *error, PyObject *message);
    // Ends every queued task with error(message); NULL cancels them.  0, or -1 with an exception.
    int (*fail_queued)(struct queue_head *queue, PyObject *error, PyObject *message);
    // Whether a worker will run what is queued.
    bool (*has_workers)(struct queue_head *queue);
    // What its executor is called, a new reference; or NULL, with an exception or without.
    PyObject *(*name)(struct queue_head *queue);
} queue_kind;

// The front of ThreadQueueObject and ProcessQueueObject.
typedef struct queue_head {
    PyObject_HEAD
    module_state *module;  // borrowed from the type
    const queue_kind *kind;
    bool inherited;     // GIL; in the child of a fork: the executor needs a new one
    trace_label label;  // GIL; what a trace knows it by
} queue_head;

// Closes a queue that is being collected, or whose executor is: it refuses what a __del__ of the same cycle
// submits, in the standard library's words.
void queue_close_collected(queue_head *queue);

// The two below are for while a trace is on, see trace.h.  The task is about to be pushed; `name`: that of
// its options, or NULL.
void queue_trace_submit(queue_head *queue, task *t, PyObject *name);

// A worker process has begun, or ended.
void queue_trace_worker(queue_head *queue, trace_kind what, uint32_t process, bool lost_calls);

#endif
