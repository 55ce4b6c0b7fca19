#include "shared_condition_type.h"

#include "shared_cell.h"

#include "core/shared_sync.h"

static int
wait_for_grant(shared_cell *cell, int64_t deadline_ns, void *ticket)
{
    // The condition's lock has been released: there is nothing to try before the GIL is.
    if (deadline_ns == ROBUST_LOCK_NO_WAIT) {
        return FUTEX_TIMED_OUT;
    }
    return shared_condition_sleep(cell, (shared_ticket *)ticket, deadline_ns);
}

PyDoc_STRVAR(condition_enter_doc,
"_enter($self, /)\n--\n\n"
"With the lock: return (ticket, turn) for a caller that is going to wait.");

static PyObject *
condition_enter(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    shared_ticket ticket = shared_condition_enter(shared_cell_of(op)->cell);
    return Py_BuildValue("II", (unsigned int)ticket.number, (unsigned int)ticket.turn);
}

PyDoc_STRVAR(condition_sleep_doc,
"_sleep($self, ticket, turn, timeout, /)\n--\n\n"
"Without the lock: wait until there may be a grant, and return the turn then; None after so many seconds.");

static PyObject *
condition_sleep(PyObject *op, PyObject *args)
{
    unsigned int number, turn;
    PyObject *timeout;
    int64_t deadline_ns;
    if (!PyArg_ParseTuple(args, "IIO:_sleep", &number, &turn, &timeout)
        || module_deadline(timeout, &deadline_ns) < 0) {
        return NULL;
    }
    shared_ticket ticket = {.number = number, .turn = turn};
    int rc = shared_wait(op, wait_for_grant, &ticket, deadline_ns, true);
    return rc == FUTEX_TIMED_OUT ? Py_NewRef(Py_None) : rc < 0 ? shared_raise(rc)
                                                               : PyLong_FromUnsignedLong(ticket.turn);
}

PyDoc_STRVAR(condition_look_doc,
"_look($self, ticket, turn, /)\n--\n\n"
"For tasks, without the lock: return (the turn now, whether there may be a grant).");

static PyObject *
condition_look(PyObject *op, PyObject *args)
{
    unsigned int number, turn;
    if (!PyArg_ParseTuple(args, "II:_look", &number, &turn)) {
        return NULL;
    }
    shared_ticket ticket = {.number = number, .turn = turn};
    bool may_take = shared_condition_look(shared_cell_of(op)->cell, &ticket);
    return Py_BuildValue("IN", (unsigned int)ticket.turn, PyBool_FromLong(may_take));
}

PyDoc_STRVAR(condition_take_doc,
"_take($self, ticket, /)\n--\n\n"
"With the lock: whether there is a grant for the ticket, which is now taken.");

static PyObject *
condition_take(PyObject *op, PyObject *arg)
{
    unsigned long number = PyLong_AsUnsignedLong(arg);
    if (number == (unsigned long)-1 && PyErr_Occurred()) {
        return NULL;
    }
    shared_ticket ticket = {.number = (uint32_t)number};
    return PyBool_FromLong(shared_condition_take(shared_cell_of(op)->cell, ticket));
}

PyDoc_STRVAR(condition_leave_doc,
"_leave($self, /)\n--\n\n"
"With the lock: stop waiting.");

static PyObject *
condition_leave(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    shared_condition_leave(shared_cell_of(op)->cell);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(condition_notify_doc,
"_notify($self, count, /)\n--\n\n"
"With the lock: let so many go on.");

static PyObject *
condition_notify(PyObject *op, PyObject *arg)
{
    unsigned long count = PyLong_AsUnsignedLong(arg);
    if (count == (unsigned long)-1 && PyErr_Occurred()) {
        return NULL;
    }
    shared_condition_notify(shared_cell_of(op)->cell, count > UINT32_MAX ? UINT32_MAX : (uint32_t)count);
    Py_RETURN_NONE;
}

// Numbers for what is made of a condition: the closure is a word's place.
static PyObject *
condition_get_word(PyObject *op, void *place)
{
    _Atomic uint32_t *word = &shared_cell_of(op)->cell->words[(uintptr_t)place];
    // Relaxed: ordered by the condition's lock.
    return PyLong_FromLong((int32_t)atomic_load_explicit(word, memory_order_relaxed));
}

static int
condition_set_word(PyObject *op, PyObject *value, void *place)
{
    long number = value == NULL ? -1 : PyLong_AsLong(value);
    if (number == -1 && PyErr_Occurred()) {
        return -1;
    }
    _Atomic uint32_t *word = &shared_cell_of(op)->cell->words[(uintptr_t)place];
    // Relaxed: ordered by the condition's lock.
    atomic_store_explicit(word, (uint32_t)number, memory_order_relaxed);
    return 0;
}

static PyMethodDef condition_methods[] = {
    {"_enter", condition_enter, METH_NOARGS, condition_enter_doc},
    {"_sleep", condition_sleep, METH_VARARGS, condition_sleep_doc},
    {"_look", condition_look, METH_VARARGS, condition_look_doc},
    {"_take", condition_take, METH_O, condition_take_doc},
    {"_leave", condition_leave, METH_NOARGS, condition_leave_doc},
    {"_notify", condition_notify, METH_O, condition_notify_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef condition_getset[] = {
    {"_first", condition_get_word, condition_set_word, "A number, with the lock.", (void *)5},
    {"_second", condition_get_word, condition_set_word, "A number, with the lock.", (void *)6},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(condition_doc,
"SharedCondition(heap, index=-1, serial=0, how='', /)\n--\n\n"
"A condition in a cell, with that lock or another.");

static PyType_Slot condition_slots[] = {
    {Py_tp_methods, condition_methods},
    {Py_tp_getset, condition_getset},
    {Py_tp_doc, (void *)condition_doc},
    {0, NULL},
};

PyType_Spec shared_condition_spec = {
    .name = "pyconc._core.SharedCondition",
    .basicsize = sizeof(SharedCellObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = condition_slots,
};
