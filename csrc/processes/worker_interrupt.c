#include "worker_interrupt.h"

#include <frameobject.h>
#include <signal.h>

#include "base/thread_stack.h"

CallObject *
worker_interrupt_get_call(call_place *place)
{
    WorkerObject *self = THING_OF(place, WorkerObject, place);
    const slot_call *c = self->running;
    if (c == NULL || worker_is_inherited(self)) {
        return NULL;
    }
    bool is_stoppable = job_slot_is_stoppable(c->slot);
    call_options options = {.timeout_ns = is_stoppable ? c->slot->timeout_ns : CALL_NO_LIMIT,
                            .deadline_ns = is_stoppable ? c->slot->deadline_ns : CALL_NO_LIMIT,
                            .name = c->name};
    return call_place_get(place, c->callable, &options, job_slot_began(c->slot));
}

stop_reason
worker_interrupt_reason(const call_place *place)
{
    WorkerObject *self = THING_OF(place, WorkerObject, place);
    return self->running == NULL || worker_is_inherited(self) ? STOP_NOT
                                                              : job_slot_asked(self->running->slot);
}

void
worker_interrupt_note(call_place *place)
{
    WorkerObject *self = THING_OF(place, WorkerObject, place);
    if (self->where == NULL && worker_interrupt_reason(place) == STOP_BY_TIMEOUT) {
        PyObject *where = thread_stack(PyThreadState_Get(), PyThread_get_thread_ident(), self->base_frame);
        Py_XSETREF(self->where, where);  // before Python 3.12 another signal may have come meanwhile
    }
}

// Whether code that the call runs is importing something, by the interpreter's frames from `frame` on.
static bool
is_importing(WorkerObject *self, PyObject *frame)
{
    bool found = false;
    Py_INCREF(frame);
    while (frame != NULL && frame != self->base_frame && !found) {
        PyObject *code = (PyObject *)PyFrame_GetCode((PyFrameObject *)frame);
        PyObject *file = PyObject_GetAttrString(code, "co_filename");
        found = file != NULL && PyUnicode_Check(file)
                && PyUnicode_CompareWithASCIIString(file, "<frozen importlib._bootstrap>") == 0;
        Py_XDECREF(file);
        Py_DECREF(code);
        Py_SETREF(frame, (PyObject *)PyFrame_GetBack((PyFrameObject *)frame));
    }
    Py_XDECREF(frame);
    PyErr_Clear();
    return found;
}

PyObject *
worker_on_stop(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    WorkerObject *self = (WorkerObject *)op;
    worker_interrupt_note(&self->place);  // also in a shield: this is where it was
    bool imports = nargs == 2 && PyFrame_Check(args[1]) && is_importing(self, args[1]);
    if (call_interrupt(&self->place) < 0) {
        self->interrupted_import |= imports;
        return NULL;
    }
    Py_RETURN_NONE;
}

// The interpreter prints what is raised in a destructor or in a weak reference's callback, and goes on, as
// the call would.  It looks for pending signals where bytecode runs again, which is outside, as it is
// functools.partial that calls this.
PyObject *
worker_on_unraisable(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    WorkerObject *self = (WorkerObject *)op;
    if (nargs != 3) {
        PyErr_SetString(PyExc_TypeError, "on_unraisable() takes 3 arguments");
        return NULL;
    }
    long number = PyLong_AsLong(args[1]);
    PyObject *type = PyErr_Occurred() ? NULL : PyObject_GetAttrString(args[2], "exc_type");
    PyObject *result = type == NULL ? NULL : PyObject_CallOneArg(args[0], args[2]);
    bool is_ours = result != NULL && type == self->place.module->task_cancelled && self->running != NULL
                   && call_here == &self->place && !worker_is_inherited(self);
    if (is_ours) {
        self->place.is_interrupted = false;
        PyErr_SetInterruptEx((int)number);
    }
    Py_XDECREF(type);
    return result;
}
