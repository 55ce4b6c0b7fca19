#include "waiter.h"

bool
waiter_is_satisfied(const WaiterObject *self)
{
    return PyList_GET_SIZE(self->finished) >= self->wanted || (self->stop_on_exception && self->failed);
}

int
waiter_add(PyObject *waiter, PyObject *future, bool failed)
{
    WaiterObject *self = (WaiterObject *)waiter;
    if (PyList_Append(self->finished, future) < 0) {
        return -1;
    }
    self->failed |= failed;
    self->pending--;
    if (self->wanted > 0 && waiter_is_satisfied(self)
        && atomic_load_explicit(&self->fired, memory_order_relaxed) == 0) {  // relaxed: writers have the GIL
        // R3: pairs with A1 in look() and in park_sleep(): the waiting thread sees `finished`, once it has
        // the GIL.
        atomic_store_explicit(&self->fired, 1, memory_order_release);
        futex_wake(&self->fired, 1);
    }
    return 0;
}
