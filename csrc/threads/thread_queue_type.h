// thread_queue_type: the Python type pyconc._core.ThreadQueue: what executors and their worker threads can
// ask of a queue, and how it is made and ends.
//
// An executor's threads submit and close, a worker's thread lives in work(); each method needs the GIL and
// nothing else, so any thread may call it.
//
// The queue is one object with the tasks in it: it visits them for the garbage collector.  Its finalizer,
// which no worker is left to see, cancels those that are queued, and runs their callbacks while the queue is
// whole.
#ifndef PYCONC_THREAD_QUEUE_TYPE_H
#define PYCONC_THREAD_QUEUE_TYPE_H

#include "base/compat.h"

extern PyType_Spec thread_queue_spec;

#endif
