// future_attributes: the private attributes, which the program may read and write.
#ifndef PYCONC_FUTURE_ATTRIBUTES_H
#define PYCONC_FUTURE_ATTRIBUTES_H

#include "future.h"

extern PyGetSetDef future_getset[];

// What `copy` gets: a new future of the same class, which has nothing yet.  The two share outcome, condition,
// waiters and callbacks.  0, or -1 with an exception.
int future_copy_attributes(FutureObject *self, FutureObject *copy);

#endif
