// waiter: somebody who waits for several futures at once; wait() and as_completed() are made of it.
//
// A Waiter collects futures in the order in which they complete and wakes its owner when there are
// as many as it waits for.  It stands in a future's `_waiters`, pyconc's or the standard library's,
// so sets of both work.  One thread waits on a Waiter; any thread may add to it, with the GIL.
#ifndef PYCONC_WAITER_H
#define PYCONC_WAITER_H

#include "base/state.h"

extern PyType_Spec waiter_spec;

// A future that `waiter` watches completed.  0, or -1 with an exception.
int waiter_add(PyObject *waiter, PyObject *future, bool failed);

#endif
