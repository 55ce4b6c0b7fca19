// delivery: an outcome on its way to its destination; it does not know what a destination is.
//
// A destination is a pyconc.Future, an asyncio future to which a *carrier* (its loop's bridge) brings the
// outcome, or a place in an outbox, a carrier, too.  futures/future_destination.c, loops/loop_bridge.c and
// futures/outbox.c each say what theirs can do.  The thread that has an outcome hands the delivery over
// without knowing which it is.
//
// Exactly one party owns a delivery at any time.  A task begins with one; its call is gone when the delivery
// is handed over, so a carrier lists deliveries and never sees a task.
//
// Every function here is called with the GIL, which guards all fields except the node; the owner of the list
// that the node is on says what guards the node.
#ifndef PYCONC_DELIVERY_H
#define PYCONC_DELIVERY_H

#include "compat.h"

#include "core/node_list.h"

struct delivery;
struct task;

// The front of an object that carries deliveries.
typedef struct carrier {
    PyObject_HEAD
    uint32_t outstanding;  // deliveries that exist, and what else is on its way to the carrier; GIL
} carrier;

typedef struct destination {
    const struct destination_kind *kind;
    PyObject *future;
    carrier *carrier;  // NULL: the outcome goes straight into the future
} destination;

// What a destination can do.
typedef struct destination_kind {
    // A worker takes the call up.  1: run it; 0: it was cancelled; -1: exception.
    int (*start)(const destination *to);
    // The call ended: the outcome is in the delivery.  A carrier owns the delivery from here on; without one
    // the caller still owns it.  0, or -1 with an exception that a callback let escape.
    int (*finish)(struct delivery *d);
    // The same for a call that did not run here: an exception says why; without one, it was cancelled.
    // Changes nothing if the destination has an outcome already.
    int (*fail)(struct delivery *d);
    // In the child of a fork: fails the future where it stands.
    void (*abandon)(const destination *to, PyObject *exception);
    // Whether code of the program runs when the outcome comes, or more than one thread may wait for it.
    bool (*is_watched)(const destination *to);
    // Where the future keeps a task that has a route, so that it can withdraw it; NULL: nowhere.
    struct task **(*slot)(const destination *to);
} destination_kind;

typedef struct delivery {
    list_node node;  // first: a node is its delivery
    destination to;
    PyObject *result;     // set once the call has ended,
    PyObject *exception;  //   one or the other; neither means cancelled
} delivery;

// A delivery for a call that has ended already.  Borrows all.
delivery *delivery_new(const destination *to, PyObject *result, PyObject *exception);

// For the tp_traverse of the delivery's owner.
int delivery_traverse(const delivery *d, visitproc visit, void *arg);

// Something is on its way to the carrier, or is no longer.
static inline void
carrier_expect(carrier *self)
{
    self->outstanding++;
}

static inline void
carrier_forget(carrier *self)
{
    if (self->outstanding > 0) {  // callbacks may be invoked twice through a private method
        self->outstanding--;
    }
}

// Drops a future and its carrier.
static inline void
destination_clear(destination *to)
{
    Py_CLEAR(to->carrier);
    Py_CLEAR(to->future);
}

// Begins a zeroed delivery; borrows the destination.
static inline void
delivery_init(delivery *d, const destination *to)
{
    d->to = *to;
    Py_INCREF(to->future);
    if (to->carrier != NULL) {
        Py_INCREF(to->carrier);
        carrier_expect(to->carrier);
    }
}

// Frees a delivery, and the task that begins with it: its call is gone.
static inline void
delivery_free(delivery *d)
{
    if (d->to.carrier != NULL) {
        carrier_forget(d->to.carrier);
    }
    destination_clear(&d->to);
    Py_XDECREF(d->result);
    Py_XDECREF(d->exception);
    PyMem_Free(d);
}

#endif
