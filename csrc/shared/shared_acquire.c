#include "shared_acquire.h"

#include "shared_arguments.h"

#include "core/robust_lock.h"

// Nothing in it changes.
typedef struct SharedOutcomeObject {
    PyObject_HEAD
    bool is_true;  // or None
} SharedOutcomeObject;

int
shared_read_acquire(PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, bool is_lock,
                    int64_t *deadline_ns)
{
    static const char *const names[] = {"blocking", "timeout"};
    static const char *const other_names[] = {"block", "timeout"};
    *deadline_ns = FUTEX_NO_DEADLINE;
    if (nargs == 0 && kwnames == NULL) {
        return 0;
    }
    bool is_other = false;
    for (Py_ssize_t i = 0; kwnames != NULL && i < PyTuple_GET_SIZE(kwnames); i++) {
        is_other |= PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(kwnames, i), "block") == 0;
    }
    PyObject *values[2];
    const char *const *expected = is_other ? other_names : names;
    if (shared_read_arguments("acquire", expected, 2, args, nargs, kwnames, values) < 0) {
        return -1;
    }
    PyObject *timeout = values[1];
    int blocking = values[0] == NULL ? 1 : PyObject_IsTrue(values[0]);
    if (blocking < 0) {
        return -1;
    }
    bool has_timeout = false;
    if (timeout != NULL && timeout != Py_None) {
        double seconds = PyFloat_AsDouble(timeout);
        if (seconds == -1.0 && PyErr_Occurred()) {
            return -1;
        }
        has_timeout = !is_lock || seconds != -1.0;
        if (has_timeout && !blocking) {
            PyErr_SetString(PyExc_ValueError, "can't specify a timeout for a non-blocking call");
            return -1;
        }
        if (has_timeout && seconds < 0 && is_lock) {
            PyErr_SetString(PyExc_ValueError, "timeout value must be a non-negative number");
            return -1;
        }
        if (has_timeout && seconds < 0) {
            blocking = has_timeout = false;
        }
    }
    if (!blocking) {
        *deadline_ns = ROBUST_LOCK_NO_WAIT;
    }
    return has_timeout ? module_deadline(timeout, deadline_ns) : 0;
}

// ---- tasks ----

PyObject *
shared_at_once(PyObject *op, PyObject *(*function)(PyObject *op))
{
    PyTypeObject *type = shared_state_of(op)->shared_outcome_type;
    SharedOutcomeObject *self = (SharedOutcomeObject *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    PyObject *value = function(op);
    if (value == NULL) {
        Py_CLEAR(self);
    }
    else {
        self->is_true = value == Py_True;
        Py_DECREF(value);
    }
    return (PyObject *)self;
}

PyObject *
shared_enter_soon(PyObject *op, PyObject *(*try)(PyObject *op))
{
    if (shared_state_of(op)->shared_watches == 0) {
        PyObject *outcome = shared_at_once(op, try);
        if (outcome == NULL || ((SharedOutcomeObject *)outcome)->is_true) {
            return outcome;
        }
        Py_DECREF(outcome);
    }
    return PyObject_CallMethod(op, "async_acquire", NULL);
}

int
shared_call_tasks(PyObject *op)
{
    PyObject *told = PyObject_CallMethod(op, "_tell_tasks", NULL);
    Py_XDECREF(told);
    return told == NULL ? -1 : 0;
}

static void
outcome_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyObject *
outcome_value(PyObject *op)
{
    return ((SharedOutcomeObject *)op)->is_true ? Py_True : Py_None;
}

static PyObject *
outcome_next(PyObject *op)
{
    PyErr_SetObject(PyExc_StopIteration, outcome_value(op));
    return NULL;
}

static PySendResult
outcome_send(PyObject *op, PyObject *Py_UNUSED(sent), PyObject **result)
{
    *result = Py_NewRef(outcome_value(op));
    return PYGEN_RETURN;
}

PyDoc_STRVAR(outcome_doc,
"The awaitable that a call returns when it need not wait.");

static PyType_Slot outcome_slots[] = {
    {Py_tp_dealloc, outcome_dealloc},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, outcome_next},
    {Py_am_await, PyObject_SelfIter},
    {Py_am_send, outcome_send},
    {Py_tp_doc, (void *)outcome_doc},
    {0, NULL},
};

PyType_Spec shared_outcome_spec = {
    .name = "pyconc._core.SharedOutcome",
    .basicsize = sizeof(SharedOutcomeObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = outcome_slots,
};
