#include "delivery.h"

void
destination_clear(destination *to)
{
    Py_CLEAR(to->carrier);
    Py_CLEAR(to->future);
}

void
delivery_init(delivery *d, const destination *to)
{
    d->to = *to;
    Py_INCREF(to->future);
    if (to->carrier != NULL) {
        Py_INCREF(to->carrier);
        carrier_expect(to->carrier);
    }
}

delivery *
delivery_new(const destination *to, PyObject *result, PyObject *exception)
{
    delivery *d = PyMem_Calloc(1, sizeof(delivery));
    if (d == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    delivery_init(d, to);
    d->result = Py_XNewRef(result);
    d->exception = Py_XNewRef(exception);
    return d;
}

int
delivery_traverse(const delivery *d, visitproc visit, void *arg)
{
    Py_VISIT(d->to.future);
    Py_VISIT(d->to.carrier);
    Py_VISIT(d->result);
    Py_VISIT(d->exception);
    return 0;
}

void
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
