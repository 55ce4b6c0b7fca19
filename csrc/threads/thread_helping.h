// thread_helping: the calls that a worker thread runs while it waits, see helping.h for why and which.
//
//     | call 3, runner on the heap |   innermost: the one that may be stopped
//     | call 2, runner on the heap |   waits for 3
//     | call 1, the worker's own   |   waits for 2
//
// A worker that waits for a call of its queue takes it out and runs it in a *runner* of its own, on top of
// the one below.  What was to be raised in the call below is taken back until the one above is over.  Each
// call above another has a copy of the context that the thread began with, as the call below is in that one.
//
// Every function here is called with the GIL, in the worker's thread.
#ifndef PYCONC_THREAD_HELPING_H
#define PYCONC_THREAD_HELPING_H

#include "thread_queue.h"

// As a helper's run_awaited() and count_hopeless().
int thread_helping_run_awaited(helper *op, const awaited *what);
Py_ssize_t thread_helping_count_hopeless(helper *op, const awaited *what);

#endif
