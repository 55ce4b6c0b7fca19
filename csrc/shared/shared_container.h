// shared_container: what lists and dicts have in common: an object in a cell, and a run of memory beside it.
#ifndef PYCONC_SHARED_CONTAINER_H
#define PYCONC_SHARED_CONTAINER_H

#include "shared_cell.h"

typedef struct SharedContainerObject {
    SharedCellObject base;
    shared_run run;  // see there
} SharedContainerObject;

static inline shared_run *
shared_run_of(PyObject *op)
{
    return &((SharedContainerObject *)op)->run;
}

PyObject *shared_container_new(PyTypeObject *type, PyObject *args, PyObject *kwargs,
                               const shared_run_kind *kind);
void shared_container_dealloc(PyObject *op);

// Takes its lock, until shared_run_leave().  0, or -1 with an exception.
static inline int
shared_container_enter(PyObject *op)
{
    return shared_enter(op, shared_run_of(op));
}

// `nbytes` of its type.
PyObject *shared_container_nbytes(PyObject *op, void *closure);

#define SHARED_NBYTES_DOC "How many bytes of shared memory it has."

#endif
