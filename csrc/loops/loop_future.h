// loop_future: a loop's future that withdraws its task when it is cancelled.
//
// A thread that takes up a task asks the task's destination whether it was cancelled.  A process cannot; so
// what run_in_executor returns for a process is of a class derived from asyncio.Future, whose cancel() first
// withdraws the task, wherever it waits.  That class is made when asyncio is first seen.
//
// A task that is being stopped while it runs ends later.  cancel() then answers True and the future stays
// pending until the bridge delivers the cancellation, so whoever has cancelled it waits for the worker, in
// asyncio.timeout() and a TaskGroup as in `await`.
#ifndef PYCONC_LOOP_FUTURE_H
#define PYCONC_LOOP_FUTURE_H

#include "base/state.h"

struct task;

// Makes the class from asyncio.Future.  0, or -1 with an exception.
int loop_future_make_type(module_state *state);

// A pending future of the loop.
PyObject *loop_future_new(module_state *state, PyObject *loop);

// Where a future of that class keeps its task; NULL for futures of other classes.
struct task **loop_future_slot(module_state *state, PyObject *future);

#endif
