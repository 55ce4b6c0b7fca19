#include "delivery.h"

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
