// thread_stack: where the Python code of a thread is.
#ifndef PYCONC_THREAD_STACK_H
#define PYCONC_THREAD_STACK_H

#include "compat.h"

// As faulthandler would write it, a str, as far as the frame `base`, borrowed: what has called that, in a
// worker, is no task's.  NULL: all of it.  Returns NULL, without an exception, if there is no memory for it.
// The caller knows that the thread lives, and has the GIL.  Before Python 3.12 the garbage collector may run
// Python code meanwhile.
PyObject *thread_stack(PyThreadState *thread, unsigned long thread_id, const PyObject *base);

#endif
