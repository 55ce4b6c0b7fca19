// keeper: the Python type pyconc._core.Keeper: while one lives, a closed ProcessQueue takes chunks and calls.
//
// What a `map` has yet to send, or the open end of a stream, keeps the workers of a pool that is shut down.
// A number that is counted up and down would stay too high if a signal handler raised between the two; an
// object is let go by whatever happens.  Its fields are guarded by the GIL.
#ifndef PYCONC_KEEPER_H
#define PYCONC_KEEPER_H

#include "process_queue.h"

typedef struct KeeperObject {
    PyObject_HEAD
    ProcessQueueObject *queue;  // NULL once released
} KeeperObject;

extern PyType_Spec keeper_spec;

#endif
