#include "shared_event_type.h"

#include "shared_arguments.h"
#include "shared_cell.h"

#include "core/shared_sync.h"

static int
wait_for_event(shared_cell *cell, int64_t deadline_ns, void *Py_UNUSED(arg))
{
    return shared_event_wait(cell, shared_event_times(cell), deadline_ns);
}

PyDoc_STRVAR(event_is_set_doc,
"is_set($self, /)\n--\n\n"
"Return whether the event is set. Raises nothing.\n\n"
"    >>> pyconc.shared.Event().is_set()\n"
"    False\n");

static PyObject *
event_is_set(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(shared_event_is_set(shared_cell_of(op)->cell));
}

PyDoc_STRVAR(event_set_doc,
"set($self, /)\n--\n\n"
"Set the event: all waiters go on, in every process. Raises nothing.\n\n"
"    >>> event = pyconc.shared.Event()\n"
"    >>> event.set()\n"
"    >>> event.is_set()\n"
"    True\n");

static PyObject *
event_set(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    int rc = shared_event_set(shared_cell_of(op)->cell);
    return shared_none_or_raise(rc);
}

PyDoc_STRVAR(event_clear_doc,
"clear($self, /)\n--\n\n"
"Clear the event: whoever waits from now on waits until it is set again. Raises nothing.\n\n"
"    >>> event = pyconc.shared.Event()\n"
"    >>> event.set()\n"
"    >>> event.clear()\n"
"    >>> event.is_set()\n"
"    False\n");

static PyObject *
event_clear(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    shared_event_clear(shared_cell_of(op)->cell);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(event_wait_doc,
"wait($self, /, timeout=None)\n--\n\n"
"Wait until the event is set and return True, or return False after `timeout` seconds.\n\n"
"Raises what the handler of a signal raises meanwhile.\n\n"
"    >>> pyconc.shared.Event().wait(timeout=0.001)\n"
"    False\n");

static PyObject *
event_wait(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = {"timeout"};
    PyObject *timeout;
    int64_t deadline_ns;
    if (shared_read_arguments("wait", names, 1, args, nargs, kwnames, &timeout) < 0
        || module_deadline(timeout == NULL ? Py_None : timeout, &deadline_ns) < 0) {
        return NULL;
    }
    int rc = shared_wait(op, wait_for_event, NULL, deadline_ns, true);
    return rc == FUTEX_TIMED_OUT ? Py_NewRef(Py_False) : rc < 0 ? shared_raise(rc)
                                                                : Py_NewRef(Py_True);
}

PyDoc_STRVAR(event_times_doc,
"_times($self, /)\n--\n\n"
"For tasks: return how often it was set.");

static PyObject *
event_times(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromUnsignedLong(shared_event_times(shared_cell_of(op)->cell));
}

PyDoc_STRVAR(event_was_set_doc,
"_was_set($self, times, /)\n--\n\n"
"For tasks: return whether it is set, or was set since _times().");

static PyObject *
event_was_set(PyObject *op, PyObject *arg)
{
    unsigned long times = PyLong_AsUnsignedLong(arg);
    if (times == (unsigned long)-1 && PyErr_Occurred()) {
        return NULL;
    }
    int rc = shared_event_wait(shared_cell_of(op)->cell, (uint32_t)times, ROBUST_LOCK_NO_WAIT);
    return PyBool_FromLong(rc == FUTEX_OK);
}

static PyMethodDef event_methods[] = {
    {"is_set", event_is_set, METH_NOARGS, event_is_set_doc},
    {"set", event_set, METH_NOARGS, event_set_doc},
    {"clear", event_clear, METH_NOARGS, event_clear_doc},
    {"wait", FASTCALL(event_wait), METH_FASTCALL | METH_KEYWORDS, event_wait_doc},
    {"_times", event_times, METH_NOARGS, event_times_doc},
    {"_was_set", event_was_set, METH_O, event_was_set_doc},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(event_doc,
"SharedEvent(heap, index=-1, serial=0, how='', /)\n--\n\n"
"An event in a cell.");

static PyType_Slot event_slots[] = {
    {Py_tp_methods, event_methods},
    {Py_tp_doc, (void *)event_doc},
    {0, NULL},
};

PyType_Spec shared_event_spec = {
    .name = "pyconc._core.SharedEvent",
    .basicsize = sizeof(SharedCellObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = event_slots,
};
