// worker: what a pyconc._core.Worker is: the other end of a ProcessQueue, in a worker process.
//
//     worker.c             between a slot and Python: the call comes out, the outcome goes in
//     worker_run.c         a worker that makes one call after the other
//     worker_loop.c        a worker that runs an event loop, and many coroutines at once
//     worker_interrupt.c   how a call is interrupted that is to end
//     worker_type.c        the type: life and methods
//
// A worker takes a slot out of the ring, unpacks the call, makes it, packs the outcome into the same slot,
// and says that it has finished it.  An error on the way is that task's outcome.  Owner thread only, with the
// GIL.
#ifndef PYCONC_WORKER_H
#define PYCONC_WORKER_H

#include "codec.h"

#include "base/call.h"
#include "core/job_ring.h"
#include "core/worker_view.h"

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
    worker_view *view;      // in the region; what it shows of the call that runs
    PyObject *named;        // the str that stands there as the call's name, owned, or NULL
    bool is_cut_off;        // it could not wake its parent
    call_place place;
    PyObject *base_frame;             // that called run(), borrowed; NULL while run() does not run
    PyObject *where;                  // the call that runs was when its time was over, a str; or NULL
    bool interrupted_import;          // a call was interrupted while it imported something
    const struct slot_call *running;  // the call that runs, on the C stack; NULL: none does
} WorkerObject;

// A call that was unpacked out of a slot.
typedef struct slot_call {
    job_slot *slot;
    PyObject *callable;
    PyObject *args;    // tuple; of a chunk, list of items
    PyObject *kwargs;  // dict, or NULL
    PyObject *name;    // str, or NULL
    wire_kind kind;
    unsigned flags;
} slot_call;

void slot_call_clear(slot_call *c);

// The outcome of a call whose deadline has passed before it began.
static const packed_message worker_expired = {.head.kind = WIRE_EXPIRED};

// Unpacks the call of a slot.  0, or -1 with what unpickling raised.
int worker_read_call(WorkerObject *self, job_slot *slot, slot_call *c);

// Packs the exception that is set as an outcome; result: what cannot be pickled, if the exception says so, or
// NULL.
void worker_pack_failure(WorkerObject *self, const char *how, PyObject *result, packed_message *outcome);

// Puts the outcome into the slot, and tells the parent.
void worker_finish_slot(WorkerObject *self, job_slot *slot, packed_message *outcome);

// True in the child of a fork, which is no worker: the slots are its parent's.
bool worker_is_inherited(WorkerObject *self);

// Ends the worker with an exit code that tells its parent to look.
PyObject *worker_end_with(long how);

#endif
