// process_queue_type: the Python type pyconc._core.ProcessQueue: what executors, the supervisor and the
// result handler can ask of a queue, and how it is made and ends.
//
// An executor's threads submit and close, the result handler lives in collect(), and the supervisor's thread
// calls what process_supervision.h has.  process_show.h has what monitoring code asks.  Each method needs the
// GIL and nothing else, so any thread may call it.
//
// The queue is one object with the tasks in it: it visits their destinations for the garbage collector.  Its
// finalizer cancels the tasks that are left, and runs their callbacks while the queue is whole.
#ifndef PYCONC_PROCESS_QUEUE_TYPE_H
#define PYCONC_PROCESS_QUEUE_TYPE_H

#include "base/compat.h"

extern PyType_Spec process_queue_spec;

#endif
