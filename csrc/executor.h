// executor: the C part of every executor: submit(), by which a call becomes a task on a queue.
//
// It does not know whether the queue is one of threads or of processes: see base/queue.h.
#ifndef PYCONC_EXECUTOR_H
#define PYCONC_EXECUTOR_H

#include "base/compat.h"

extern PyType_Spec executor_spec;

#endif
