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

typedef struct stop_rule {
    stop_how how;
    int64_t grace_ns;  // STOP_INTERRUPT: how long it may take
} stop_rule;

typedef struct queue_kind {
    // Whether its tasks have a route, see task.h.
    bool routed;
    // The call args[0](args[1:], kwnames) for a destination; NULL with an exception.  Borrows all.
    task *(*make_task)(struct queue_head *queue, PyObject *const *args, Py_ssize_t nargs,
                       PyObject *kwnames, const destination *to);
    // Before push(): what is to become of the task when it is cancelled while it runs.
    void (*set_stop)(struct queue_head *queue, task *t, const stop_rule *rule);
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
