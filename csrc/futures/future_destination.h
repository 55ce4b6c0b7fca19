// future_destination: a future as the destination of a task.
#ifndef PYCONC_FUTURE_DESTINATION_H
#define PYCONC_FUTURE_DESTINATION_H

#include "base/delivery.h"
#include "base/state.h"

// A pending future, and how a task ends it.  0, or -1 with an exception.
int future_destination(module_state *state, destination *to);

#endif
