#include "shared_container.h"

PyObject *
shared_container_new(PyTypeObject *type, PyObject *args, PyObject *kwargs, const shared_run_kind *kind)
{
    PyObject *op = shared_cell_new(type, args, kwargs);
    if (op != NULL) {
        SharedCellObject *cell = shared_cell_of(op);
        shared_run_init(shared_run_of(op), kind, cell->heap, cell->index);
    }
    return op;
}

void
shared_container_dealloc(PyObject *op)
{
    shared_run_fini(shared_run_of(op));
    shared_cell_dealloc(op);
}

PyObject *
shared_container_nbytes(PyObject *op, void *Py_UNUSED(closure))
{
    if (shared_container_enter(op) < 0) {
        return NULL;
    }
    unsigned long long bytes = shared_run_bytes(shared_run_of(op));
    shared_run_leave(shared_run_of(op));
    return PyLong_FromUnsignedLongLong(bytes);
}
