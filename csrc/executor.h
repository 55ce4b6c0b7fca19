// executor: the C part of every executor: submit(), by which a call becomes a task on a queue.
//
// What kind of queue it is, threads' or processes', is the queue's affair: it begins with a
// queue_head, and its queue_kind makes tasks of calls and takes them.
#ifndef PYCONC_EXECUTOR_H
#define PYCONC_EXECUTOR_H

#include "base/task.h"

struct queue_head;

typedef struct queue_kind {
    // Whether its tasks have a route, see task.h.
    bool routed;
    // The call args[0](args[1:], kwnames) for a destination; NULL with an exception.  Borrows all.
    task *(*make_task)(struct queue_head *queue, PyObject *const *args, Py_ssize_t nargs,
                       PyObject *kwnames, PyObject *destination, LoopBridgeObject *bridge);
    // As workq_push(); WORKQ_CLOSED comes with the exception that says why.
    int (*push)(struct queue_head *queue, task *t);
    // Refuses pushes from now on, with error(message).
    void (*close)(struct queue_head *queue, PyObject *error, PyObject *message);
    // Ends every queued task with error(message); NULL cancels them.  0, or -1 with an exception.
    int (*fail_queued)(struct queue_head *queue, PyObject *error, PyObject *message);
    // Whether anybody will run what is queued.
    bool (*has_workers)(struct queue_head *queue);
} queue_kind;

// The front of ThreadQueueObject and ProcessQueueObject.
typedef struct queue_head {
    PyObject_HEAD
    module_state *module;  // borrowed from the type
    const queue_kind *kind;
    bool inherited;  // GIL; in the child of a fork: the executor needs a new one
} queue_head;

extern PyType_Spec executor_spec;

#endif
