#include "future_attributes.h"

static PyObject *
get_state(PyObject *op, void *Py_UNUSED(closure))
{
    FutureObject *self = as_future(op);
    if (future_look_whether_taken(self) < 0) {
        return NULL;
    }
    return Py_NewRef(self->module->state_names[self->state]);
}

static int
refuse_delete(PyObject *value)
{
    if (value == NULL) {
        PyErr_SetString(PyExc_AttributeError, "cannot delete an attribute of a Future");
        return -1;
    }
    return 0;
}

static int
set_state_attribute(PyObject *op, PyObject *value, void *Py_UNUSED(closure))
{
    FutureObject *self = as_future(op);
    if (refuse_delete(value) < 0) {
        return -1;
    }
    for (future_state state = FUTURE_PENDING; state <= FUTURE_FINISHED; state++) {
        int equal = PyObject_RichCompareBool(value, self->module->state_names[state], Py_EQ);
        if (equal < 0) {
            return -1;
        }
        if (equal) {
            future_set_state(self, state);
            return 0;
        }
    }
    PyErr_Format(PyExc_ValueError, "not a state of a future: %R", value);
    return -1;
}

// For `_result` and `_exception`; the closure is the field's offset.  None is kept as NULL.
static PyObject *
get_outcome(PyObject *op, void *offset)
{
    PyObject *value = *(PyObject **)((char *)op + (Py_ssize_t)offset);
    return Py_NewRef(value == NULL ? Py_None : value);
}

static int
set_outcome(PyObject *op, PyObject *value, void *offset)
{
    PyObject **field = (PyObject **)((char *)op + (Py_ssize_t)offset);
    if (refuse_delete(value) < 0) {
        return -1;
    }
    future_track(as_future(op));
    Py_XSETREF(*field, value == Py_None ? NULL : Py_NewRef(value));
    return 0;
}

static PyObject *
get_condition(PyObject *op, void *Py_UNUSED(closure))
{
    FutureObject *self = as_future(op);
    future_track(self);
    if (self->condition == NULL) {
        PyObject *condition = PyObject_CallNoArgs(self->module->condition_type);
        if (condition == NULL) {
            return NULL;
        }
        if (self->condition == NULL) {
            self->condition = condition;
        }
        else {
            Py_DECREF(condition);  // another thread was quicker; there is only one
        }
    }
    return Py_NewRef(self->condition);
}

// For `_waiters` and `_done_callbacks`; the closure is the field's offset.
static PyObject *
get_list(PyObject *op, void *offset)
{
    PyObject **field = (PyObject **)((char *)op + (Py_ssize_t)offset);
    future_track(as_future(op));
    if (*field == NULL) {
        *field = PyList_New(0);
    }
    return Py_XNewRef(*field);
}

// Code that reads the waiters counts on the condition being held while they are told.
static PyObject *
get_waiters(PyObject *op, void *offset)
{
    PyObject *condition = get_condition(op, NULL);
    if (condition == NULL) {
        return NULL;
    }
    Py_DECREF(condition);
    return get_list(op, offset);
}

static int
set_list(PyObject *op, PyObject *value, void *offset)
{
    PyObject **field = (PyObject **)((char *)op + (Py_ssize_t)offset);
    if (refuse_delete(value) < 0) {
        return -1;
    }
    if (!PyList_CheckExact(value)) {
        PyErr_SetString(PyExc_TypeError, "must be a list");
        return -1;
    }
    future_track(as_future(op));
    Py_XSETREF(*field, Py_NewRef(value));
    return 0;
}

static int
set_condition(PyObject *op, PyObject *value, void *Py_UNUSED(closure))
{
    if (refuse_delete(value) < 0) {
        return -1;
    }
    future_track(as_future(op));
    Py_XSETREF(as_future(op)->condition, Py_NewRef(value));
    return 0;
}

// For vars(): the program may make the dict refer to anything.
static PyObject *
get_dict(PyObject *op, void *closure)
{
    future_track(as_future(op));
    return PyObject_GenericGetDict(op, closure);
}

int
future_copy_attributes(FutureObject *self, FutureObject *copy)
{
    PyObject *op = (PyObject *)self;
    PyObject *condition = get_condition(op, NULL);
    PyObject *waiters = get_list(op, (void *)offsetof(FutureObject, waiters));
    PyObject *callbacks = get_list(op, (void *)offsetof(FutureObject, callbacks));
    PyObject *dict = get_dict(op, NULL);
    PyObject *copied_dict = get_dict((PyObject *)copy, NULL);
    int rc = condition == NULL || waiters == NULL || callbacks == NULL || dict == NULL || copied_dict == NULL
                 ? -1
                 : PyDict_Update(copied_dict, dict);
    if (rc == 0) {
        copy->condition = Py_NewRef(condition);
        copy->waiters = Py_NewRef(waiters);
        copy->callbacks = Py_NewRef(callbacks);
        copy->result = Py_XNewRef(self->result);
        copy->exception = Py_XNewRef(self->exception);
        future_set_state(copy, self->state);
    }
    Py_XDECREF(condition);
    Py_XDECREF(waiters);
    Py_XDECREF(callbacks);
    Py_XDECREF(dict);
    Py_XDECREF(copied_dict);
    return rc;
}

PyGetSetDef future_getset[] = {
    {"__dict__", get_dict, PyObject_GenericSetDict, NULL, NULL},
    {"_state", get_state, set_state_attribute, PyDoc_STR("The state's name."), NULL},
    {"_result", get_outcome, set_outcome, PyDoc_STR("What the call returned, or None."),
     (void *)offsetof(FutureObject, result)},
    {"_exception", get_outcome, set_outcome, PyDoc_STR("What the call raised, or None."),
     (void *)offsetof(FutureObject, exception)},
    {"_waiters", get_waiters, set_list, PyDoc_STR("The waiters of wait() and as_completed()."),
     (void *)offsetof(FutureObject, waiters)},
    {"_done_callbacks", get_list, set_list, PyDoc_STR("The callbacks, called or not."),
     (void *)offsetof(FutureObject, callbacks)},
    {"_condition", get_condition, set_condition,
     PyDoc_STR("The threading.Condition that guards the state, made at the first look."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
