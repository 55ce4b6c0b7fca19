// keeper: who keeps a ProcessQueue open; and the Python type pyconc._core.Keeper, which is one.
//
// While somebody keeps it open, a closed queue takes chunks and calls of its workers: those that a map has
// yet to send, or what the consumer of a stream asks for.  So the workers of a pool that was shut down stay.
//
// A keeper is part of an object that releases it at the latest when it dies.  A number that Python code
// counts up and down would stay too high if a signal handler raised between the two.  Guarded by the GIL.
#ifndef PYCONC_KEEPER_H
#define PYCONC_KEEPER_H

#include "process_queue.h"

// Zeroed before.
typedef struct keeper {
    ProcessQueueObject *queue;  // that it keeps open; NULL: none
} keeper;

// Keeps a queue open, if it does not do so already.  0; or -1, with what submit() would raise, if the queue
// is closed and no other keeper keeps it open.
int keeper_keep(keeper *k, ProcessQueueObject *queue);

// Lets the queue end, if it kept it open.
void keeper_release(keeper *k);

typedef struct KeeperObject {
    PyObject_HEAD
    keeper keeps;
} KeeperObject;

extern PyType_Spec keeper_spec;

#endif
