// shared_watch_type: a thread that waits, for tasks, until what processes share has changed; see
// pyconc/shared/_async.py.
#ifndef PYCONC_SHARED_WATCH_TYPE_H
#define PYCONC_SHARED_WATCH_TYPE_H

#include "base/compat.h"

extern PyType_Spec shared_watch_spec;

#endif
