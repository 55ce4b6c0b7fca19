// process_queue: the Python type pyconc._core.ProcessQueue: tasks on their way to workers and back.
//
//     submit --> packed --> the table ==> worker ==> the table --> unpacked --> delivered
//               (caller)   '----------- no GIL -----------'     (whoever collects)
//
// A task is packed in submit(), by its caller, so what cannot be pickled fails there and hurts nobody
// else.  Where it is from then on, job_table.h tells.  When it is collected it is unpacked and
// delivered with the GIL.
//
// Who collects: a thread that lives in collect(), and sleeps until the eventfd or a worker's end wakes
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

typedef struct ProcessQueueObject {
    queue_head head;
    PyObject *weakrefs;
    RegionObject *region;  // set once
    packer packs;
    PyObject *close_error;  // exception type and message for a refused push
    PyObject *close_message;
    uint32_t max_workers;
    bool closed;
    bool is_dead;                // closed, and nobody will run what is pushed nevertheless
    uint32_t keepers;            // of those who will push later, also when it is closed
    int wakeup_fd;               // eventfd: wakes the thread in collect()
    int *doorbells;              // eventfds, one per worker, if workers run event loops; else NULL; set once
    _Atomic uint32_t attention;  // that thread is wanted in Python
    park_spot spot;              // where threads spin for what they wait for
    task *in_flight;             // every task that was accepted and has not ended
    node_list ready;             // of these, what the result handler delivers next
    job_table table;
} ProcessQueueObject;

extern PyType_Spec process_queue_spec;

// With the GIL: the queue takes chunks and calls also when it is closed, until as many calls of let_close().
// -1, with what submit() would raise, if it is closed and nobody keeps it open.  See keeper.h.
int process_queue_keep_open(ProcessQueueObject *self);
void process_queue_let_close(ProcessQueueObject *self);

#endif
