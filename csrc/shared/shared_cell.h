// shared_cell: what pyconc.shared's objects have in common.
//
// Each is a handle: a cell of a heap that processes share, see core/shared_heap.h.  A heap stays mapped as
// long as the process has cells of it, so handles refer to nothing else.  Every wait releases the GIL
// and lets handlers of signals run, except that for the heap's own lock, which is held for a microsecond.
#ifndef PYCONC_SHARED_CELL_H
#define PYCONC_SHARED_CELL_H

#include "base/state.h"

#include "core/shared_run.h"

// Nothing in it changes.
typedef struct SharedCellObject {
    PyObject_HEAD
    module_state *state;  // of the module that its type belongs to
    shared_heap *heap;
    shared_cell *cell;
    uint32_t index;  // of the cell, which is this object's as long as it lives
    bool has_cell;
    bool is_reentrant, raises;  // of a lock
    char kind;                  // of a number or an array: its typecode
} SharedCellObject;

static inline SharedCellObject *
shared_cell_of(PyObject *op)
{
    return (SharedCellObject *)op;
}

static inline module_state *
shared_state_of(PyObject *op)
{
    return shared_cell_of(op)->state;
}

// For types that derive from it and add to it.
PyObject *shared_cell_new(PyTypeObject *type, PyObject *args, PyObject *kwargs);
void shared_cell_dealloc(PyObject *op);

// Sets the exception for a status of core, and returns NULL.  One that a signal handler raised is set
// already.
PyObject *shared_raise(int rc);

// The same, or None if it is no error.
PyObject *shared_none_or_raise(int rc);

typedef int shared_wait_function(shared_cell *cell, int64_t deadline_ns, void *arg);

int shared_wait_longer(PyObject *op, shared_wait_function *wait, void *arg, int64_t deadline_ns,
                       bool is_interruptible);

// Waits without the GIL, if it has to.  FUTEX_INTERRUPTED: with the exception that a signal handler raised.
// A wait that is not interruptible leaves the handlers for later.
static inline int
shared_wait(PyObject *op, shared_wait_function *wait, void *arg, int64_t deadline_ns, bool is_interruptible)
{
    int rc = wait(shared_cell_of(op)->cell, ROBUST_LOCK_NO_WAIT, arg);
    if (rc != FUTEX_TIMED_OUT || deadline_ns == ROBUST_LOCK_NO_WAIT) {
        return rc;
    }
    return shared_wait_longer(op, wait, arg, deadline_ns, is_interruptible);
}

// Takes the lock of a container, for as short as everybody has it.  0, or -1 with an exception.
int shared_enter(PyObject *op, shared_run *run);

extern PyType_Spec shared_heap_spec;
extern PyType_Spec shared_cell_spec;

#endif
