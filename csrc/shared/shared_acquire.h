// shared_acquire: what locks and semaphores have in common: the arguments of acquire(), and what a task
// awaits.
//
// A task takes what is free at once, without a coroutine.  As soon as any task of the interpreter waits for
// any object, pyconc/shared/_async.py sees to the order of those that wait.
#ifndef PYCONC_SHARED_ACQUIRE_H
#define PYCONC_SHARED_ACQUIRE_H

#include "shared_cell.h"

#define SHARED_ENTER_DOC "__enter__($self, /)\n--\n\nacquire()."
#define SHARED_EXIT_DOC "__exit__($self, /, *error)\n--\n\nrelease()."
#define SHARED_AENTER_DOC "__aenter__($self, /)\n--\n\nasync_acquire()."
#define SHARED_AEXIT_DOC "__aexit__($self, /, *error)\n--\n\nrelease()."

// Reads acquire(blocking, timeout), a METH_FASTCALL | METH_KEYWORDS method, with what threading says of their
// combinations.  None is for ever.  Of a lock -1 is, too, and what else is negative an error; of a semaphore
// what is negative is over.  multiprocessing's locks have `block` for `blocking`.  0, or -1 with an
// exception.
int shared_read_acquire(PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, bool is_lock,
                        int64_t *deadline_ns);

// Returns an awaitable that has its value already: True if the function returns that, else None.
PyObject *shared_at_once(PyObject *op, PyObject *(*function)(PyObject *op));

// Returns what __aenter__() does.  try: takes the object if it can be had, and says whether.
PyObject *shared_enter_soon(PyObject *op, PyObject *(*try)(PyObject *op));

// After a release: the first of this loop's tasks that wait for the object has its turn.  0, or -1 with an
// exception.
int shared_call_tasks(PyObject *op);

static inline int
shared_tell_tasks(PyObject *op)
{
    return shared_state_of(op)->shared_watches == 0 ? 0 : shared_call_tasks(op);
}

extern PyType_Spec shared_outcome_spec;

#endif
