// queue: the front of every executor's queue of tasks, and what can be done with it.
#ifndef PYCONC_QUEUE_H
#define PYCONC_QUEUE_H

#include "task.h"

#include "core/workq.h"

struct queue_head;

// What becomes of a task that is cancelled while it runs.
typedef enum stop_how {
    STOP_ABANDON,    // nothing: it goes on
    STOP_INTERRUPT,  // an exception is raised in it, and its worker is killed if it has not ended in time
    STOP_KILL,       // its worker is killed
} stop_how;

// What the program wants of a call besides its outcome.
typedef struct call_options {
    stop_how how;
    int64_t grace_ns;     // of STOP_INTERRUPT: how long it may take to end
    int64_t timeout_ns;   // how long it may run; CALL_NO_LIMIT: for ever
    int64_t deadline_ns;  // when it must have ended, by clock_now_ns(); CALL_NO_LIMIT: never
    PyObject *name;       // what its task is called, a str; NULL: as its function
} call_options;

#define CALL_NO_LIMIT INT64_MAX

// Whether a call has an end that somebody must watch over.
static inline bool
call_is_limited(const call_options *options)
{
    return options->timeout_ns != CALL_NO_LIMIT || options->deadline_ns != CALL_NO_LIMIT;
}

typedef struct queue_kind {
    // Whether its tasks have a route, see task.h.
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
} queue_kind;

// The front of ThreadQueueObject and ProcessQueueObject.
typedef struct queue_head {
    PyObject_HEAD
    module_state *module;  // borrowed from the type
    const queue_kind *kind;
    bool inherited;  // GIL; in the child of a fork: the executor needs a new one
} queue_head;

#endif
