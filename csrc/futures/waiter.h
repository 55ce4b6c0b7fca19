// waiter: a thread that waits for several futures at once, as those futures see it.
//
// A Waiter collects futures in the order in which they complete and wakes its owner when there are as many as
// the owner waits for.  It stands in the `_waiters` of futures, pyconc's or the standard library's, so sets
// of both work.  One thread waits on a Waiter, see waiting.h; any thread may add to it, with the GIL.
#ifndef PYCONC_WAITER_H
#define PYCONC_WAITER_H

#include "base/state.h"

typedef struct WaiterObject {
    PyObject_HEAD
    module_state *module;    // borrowed from the type
    PyObject *finished;      // list of futures in order of completion; GIL
    Py_ssize_t pending;      // watched futures that are not collected; GIL
    uint32_t home;           // of the futures whose queue its owner is a worker of, see helping.h; or 0; GIL
    Py_ssize_t wanted;       // finished futures that end the wait; 0 while no thread waits; GIL
    bool stop_on_exception;  // a failed future ends the wait as well; GIL
    bool failed;             // there is a failed one among the finished; GIL
    _Atomic uint32_t fired;  // futex word: the wait is over; written with the GIL
} WaiterObject;

// Whether it has as many as its owner waits for.
bool waiter_is_satisfied(const WaiterObject *self);

// A future that `waiter` watches completed.  0, or -1 with an exception.
int waiter_add(PyObject *waiter, PyObject *future, bool failed);

#endif
