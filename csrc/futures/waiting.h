// waiting: the Python type pyconc._core.Waiter, of which wait() and as_completed() are made.
#ifndef PYCONC_WAITING_H
#define PYCONC_WAITING_H

#include "base/compat.h"

extern PyType_Spec waiter_spec;

#endif
