// future_wait: how a thread waits for one future.
#ifndef PYCONC_FUTURE_WAIT_H
#define PYCONC_FUTURE_WAIT_H

#include "future.h"

// What result() and exception() begin with, unless they have nothing to do.  True: the future is finished.
// False: the method returns *instead, NULL with an exception.
bool future_wait_until_finished(FutureObject *self, const char *method, PyObject *const *args,
                                Py_ssize_t nargs, PyObject *kwnames, PyObject **instead);

// Waits as result() does.  1: it is done, or only result() itself may wait, as the program watches or has
// replaced locks.  0: the time is over.  -1: an exception is set, such as a signal handler's.
int future_wait_briefly(FutureObject *self, int64_t deadline_ns);

#endif
