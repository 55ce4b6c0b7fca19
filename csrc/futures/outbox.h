// outbox: where the outcomes of calls lie, each with its call's number, until somebody takes many at a time.
//
// It is a destination for whoever passes outcomes on, as a node of a cluster does: one of hundreds of calls
// costs neither a future nor a callback, and its reader is woken once for as many as it wants to have.
//
// An outbox is the carrier; what stands in the place of a future is a *ticket*, which knows the call's number
// and, until the call has ended, its task.  The GIL guards all fields.
#ifndef PYCONC_OUTBOX_H
#define PYCONC_OUTBOX_H

#include "base/delivery.h"
#include "base/state.h"

extern PyType_Spec outbox_spec, ticket_spec;

// The outcome of the call with this number, an int of 64 bits, is to lie in the outbox.  0, or -1 with an
// exception: another call has the number.
int outbox_destination(PyObject *outbox, PyObject *number, destination *to);

// The call could not be submitted, or no worker will run it: it ends with the exception that is set, unless
// it runs all the same or has ended otherwise.  0, or -1 with the exception if that is not for the call.
int outbox_fail(const destination *to);

#endif
