// worker: the Python type pyconc._core.Worker: the other end of a ProcessQueue, in a worker process.
//
// run() takes slots out of the ring, one after the other: unpacks the call, makes it, packs the outcome
// into the same slot, and says that it has finished it.  An error on the way is that task's outcome.  Owner
// thread only, with the GIL.
//
// A call that its parent may stop is interrupted by an exception that a signal's handler raises.  The handler
// finds in `running` which call runs, if one does, and in that call's slot whether it is to end: so a signal
// that comes late, twice or from elsewhere raises nothing, nor does any while something is unpacked or
// packed.
//
// A worker that has become too large asks its parent for a successor, and goes on until that one has begun;
// see job_ring.h.
//
// A worker with doorbells runs an event loop instead of run(), and many coroutines at once: its Python half
// (pyconc/_process/loop_worker.py) takes calls, several at a time, and finishes each when its coroutine ends.
#ifndef PYCONC_WORKER_H
#define PYCONC_WORKER_H

#include "codec.h"

#include "base/call.h"
#include "core/job_ring.h"

// The exit code of a worker that has no way to wake its parent any more,
#define WORKER_CUT_OFF 98
// and of one that has found what all processes share damaged.
#define WORKER_MEMORY_DAMAGED 99
// and of one that leaves because it may have half a module,
#define WORKER_INTERRUPTED_IMPORT 96
// or because it has had nothing to do for as long as it may.
#define WORKER_IDLED 95

typedef struct WorkerObject {
    PyObject_HEAD
    module_state *module;  // borrowed from the type
    RegionObject *region;
    job_ring ring;
    packer packs;
    park_spot spot;
    // What pickles of callables have been unpickled to: at its number modulo CALLABLES_MAX, the last one.
    struct {
        uint32_t id;
        PyObject *callable;
    } *callables;
    uint32_t number;
    int wakeup_fd;          // owned
    int *doorbells;         // of all workers, owned; or NULL
    shm_file doorbell;      // this worker's, as it was at the start
    int relief_fd;          // owned; or -1: no worker here has a successor
    shm_file relief;        // the same, as it was at the start
    uint64_t memory_limit;  // how many bytes more a call may have than there are as it begins; 0: any number
    bool is_cut_off;        // it could not wake its parent
    call_place place;
    PyObject *base_frame;             // that called run(), borrowed; NULL while run() does not run
    bool interrupted_import;          // a call was interrupted while it imported something
    const struct slot_call *running;  // the call that runs, on the C stack; NULL: none does
} WorkerObject;

extern PyType_Spec worker_spec;

#endif
