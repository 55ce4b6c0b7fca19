#include "outbox.h"

#include "base/task.h"

typedef struct TicketObject {
    PyObject_HEAD
    int64_t number;
    struct task *task;  // while it may be withdrawn; borrowed
    delivery *ended;    // while it lies in the outbox; borrowed
    bool has_ended;     // since it came there
} TicketObject;

typedef struct OutboxObject {
    carrier head;
    module_state *module;  // borrowed from the type
    PyObject *wake;        // is called when so many outcomes lie here as `wake_at` says
    PyObject *pending;     // dict: tickets by number, of calls that have not ended
    node_list ended;       // deliveries, in order; owned
    Py_ssize_t count;      // of these
    Py_ssize_t wake_at;
} OutboxObject;

static TicketObject *
ticket_of(const destination *to)
{
    return (TicketObject *)to->future;
}

// ---- as a destination ----

static int
outbox_start(const destination *Py_UNUSED(to))
{
    return 1;
}

// One more outcome lies here.  0, or -1 with an exception of `wake`.
static int
outbox_post(delivery *d)
{
    OutboxObject *self = (OutboxObject *)d->to.carrier;
    TicketObject *ticket = ticket_of(&d->to);
    PyObject *number = PyLong_FromLongLong(ticket->number);
    if (number == NULL || PyDict_DelItem(self->pending, number) < 0) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    Py_XDECREF(number);
    ticket->ended = d;
    ticket->has_ended = true;
    node_list_append(&self->ended, &d->node);
    self->count++;
    if (self->count != self->wake_at) {
        return 0;
    }
    PyObject *result = PyObject_CallNoArgs(self->wake);
    if (result == NULL) {
        self->wake_at = self->count + 1;  // the reader is to hear of the next one
        return -1;
    }
    Py_DECREF(result);
    return 0;
}

// In the child of a fork nobody reads.
static void
outbox_abandon(const destination *Py_UNUSED(to), PyObject *Py_UNUSED(exception))
{
}

static bool
outbox_is_watched(const destination *Py_UNUSED(to))
{
    return true;
}

static struct task **
outbox_slot(const destination *to)
{
    return &ticket_of(to)->task;
}

static const destination_kind outbox_destination_kind = {
    .start = outbox_start,
    .finish = outbox_post,
    .fail = outbox_post,
    .abandon = outbox_abandon,
    .is_watched = outbox_is_watched,
    .slot = outbox_slot,
};

int
outbox_destination(PyObject *outbox, PyObject *number, destination *to)
{
    OutboxObject *self = (OutboxObject *)outbox;
    long long value = PyLong_AsLongLong(number);
    TicketObject *ticket =
        value == -1 && PyErr_Occurred() ? NULL : PyObject_New(TicketObject, self->module->ticket_type);
    if (ticket == NULL) {
        return -1;
    }
    ticket->number = value;
    ticket->task = NULL;
    ticket->ended = NULL;
    ticket->has_ended = false;
    PyObject *known = PyDict_SetDefault(self->pending, number, (PyObject *)ticket);
    if (known != (PyObject *)ticket) {
        Py_DECREF(ticket);
        if (known != NULL) {
            PyErr_Format(PyExc_ValueError, "call %R has not ended", number);
        }
        return -1;
    }
    to->kind = &outbox_destination_kind;
    to->future = (PyObject *)ticket;
    to->carrier = (carrier *)Py_NewRef(outbox);
    return 0;
}

int
outbox_fail(const destination *to)
{
    TicketObject *ticket = ticket_of(to);
    if (!PyErr_ExceptionMatches(PyExc_Exception)) {
        return -1;
    }
    PyObject *error = PyErr_GetRaisedException();
    if (ticket->ended != NULL && ticket->ended->result == NULL && ticket->ended->exception == NULL) {
        ticket->ended->exception = Py_NewRef(error);  // the queue has cancelled it for that reason
    }
    int rc = 0;
    if (ticket->task == NULL && !ticket->has_ended) {
        delivery *d = delivery_new(to, NULL, error);
        rc = d == NULL ? -1 : outbox_post(d);
    }
    Py_DECREF(error);
    return rc;
}

// ---- what its reader does ----

static PyObject *
outbox_tp_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"", NULL};
    PyObject *wake;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:Outbox", keywords, &wake)) {
        return NULL;
    }
    OutboxObject *self = (OutboxObject *)type->tp_alloc(type, 0);
    if (self != NULL) {
        node_list_init(&self->ended);
        self->module = module_state_of(type);
        self->wake = Py_NewRef(wake);
        self->wake_at = 1;
        self->pending = PyDict_New();
        if (self->pending == NULL) {
            Py_CLEAR(self);
        }
    }
    return (PyObject *)self;
}

static Py_ssize_t
outbox_length(PyObject *op)
{
    return ((OutboxObject *)op)->count;
}

PyDoc_STRVAR(end_doc,
"end($self, number, result, exception, /)\n--\n\n"
"Lay the outcome of a call of this number here that no executor has; both None: it was cancelled.");

static PyObject *
outbox_end(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    destination to;
    if (nargs != 3) {
        PyErr_SetString(PyExc_TypeError, "end() takes a number, a result and an exception");
        return NULL;
    }
    if (outbox_destination(op, args[0], &to) < 0) {
        return NULL;
    }
    delivery *d =
        delivery_new(&to, args[1] == Py_None ? NULL : args[1], args[2] == Py_None ? NULL : args[2]);
    int rc = d == NULL ? -1 : outbox_post(d);
    destination_clear(&to);
    if (rc < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(cancel_doc,
"cancel($self, number, /)\n--\n\n"
"Cancel the call with this number as a future's cancel() does; return whether that is so. It has ended when\n"
"its outcome says so.");

static PyObject *
outbox_cancel(PyObject *op, PyObject *number)
{
    OutboxObject *self = (OutboxObject *)op;
    TicketObject *ticket = (TicketObject *)PyDict_GetItemWithError(self->pending, number);
    if (ticket == NULL && PyErr_Occurred()) {
        return NULL;
    }
    struct task *t = ticket == NULL ? NULL : ticket->task;
    return PyBool_FromLong(t != NULL && t->route->withdraw(t, false) != WITHDRAW_TOO_LATE);
}

// How many bytes there are in an outcome: itself, or in tuples and lists.
static Py_ssize_t
weigh(PyObject *value)
{
    Py_ssize_t total = PyBytes_CheckExact(value)       ? PyBytes_GET_SIZE(value)
                       : PyByteArray_CheckExact(value) ? PyByteArray_GET_SIZE(value)
                                                       : 0;
    bool is_sequence = PyTuple_CheckExact(value) || PyList_CheckExact(value);
    for (Py_ssize_t i = 0; is_sequence && i < PySequence_Fast_GET_SIZE(value); i++) {
        total += weigh(PySequence_Fast_GET_ITEM(value, i));
    }
    return total;
}

// Appends an outcome to the lists that take() returns.  0, or -1 with an exception.
static int
list_outcome(delivery *d, PyObject *numbers, PyObject *results, PyObject *others)
{
    PyObject *number = PyLong_FromLongLong(ticket_of(&d->to)->number);
    if (number == NULL) {
        return -1;
    }
    int rc;
    if (d->result != NULL && PyBytes_CheckExact(d->result)) {
        rc = PyList_Append(numbers, number) < 0 ? -1 : PyList_Append(results, d->result);
    }
    else {
        PyObject *other = PyTuple_Pack(3, number, d->result == NULL ? Py_None : d->result,
                                       d->exception == NULL ? Py_None : d->exception);
        rc = other == NULL ? -1 : PyList_Append(others, other);
        Py_XDECREF(other);
    }
    Py_DECREF(number);
    return rc;
}

PyDoc_STRVAR(take_doc,
"take($self, most_bytes, /)\n--\n\n"
"Return (numbers, results, others) of calls that have ended, and have them here no longer: first come those\n"
"whose result is bytes; others is a list of (number, result, exception), and of what was cancelled both are\n"
"None. The results have so many bytes at most, or one more than that. After MemoryError all are here still.");

static PyObject *
outbox_take(PyObject *op, PyObject *most_bytes)
{
    OutboxObject *self = (OutboxObject *)op;
    Py_ssize_t left = PyLong_AsSsize_t(most_bytes);
    if (left == -1 && PyErr_Occurred()) {
        return NULL;
    }
    PyObject *lists[] = {PyList_New(0), PyList_New(0), PyList_New(0)};
    int rc = lists[0] == NULL || lists[1] == NULL || lists[2] == NULL ? -1 : 0;
    // They leave when all are listed: if memory is short, not one of them is lost.
    Py_ssize_t listed = 0;
    for (list_node *node = self->ended.first; rc == 0 && left > 0 && node != NULL; node = node->next) {
        delivery *d = (delivery *)node;
        left -= d->result == NULL ? 0 : weigh(d->result);
        rc = list_outcome(d, lists[0], lists[1], lists[2]);
        listed++;
    }
    PyObject *all = rc < 0 ? NULL : PyTuple_Pack(3, lists[0], lists[1], lists[2]);
    for (; all != NULL && listed > 0; listed--) {
        delivery *d = (delivery *)node_list_pop(&self->ended);
        self->count--;
        ticket_of(&d->to)->ended = NULL;
        delivery_free(d);
    }
    for (size_t i = 0; i < 3; i++) {
        Py_XDECREF(lists[i]);
    }
    return all;
}

static int
outbox_traverse(PyObject *op, visitproc visit, void *arg)
{
    OutboxObject *self = (OutboxObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->wake);
    Py_VISIT(self->pending);
    for (list_node *node = self->ended.first; node != NULL; node = node->next) {
        int rc = delivery_traverse((delivery *)node, visit, arg);
        if (rc != 0) {
            return rc;
        }
    }
    return 0;
}

static int
outbox_clear(PyObject *op)
{
    OutboxObject *self = (OutboxObject *)op;
    delivery *d;
    // `wake` and `pending` are never NULL while the outbox is alive: calls that are on their way use them.
    while ((d = (delivery *)node_list_pop(&self->ended)) != NULL) {
        self->count--;
        ticket_of(&d->to)->ended = NULL;
        delivery_free(d);
    }
    return 0;
}

static void
outbox_dealloc(PyObject *op)
{
    OutboxObject *self = (OutboxObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    (void)outbox_clear(op);
    Py_XDECREF(self->wake);
    Py_XDECREF(self->pending);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef outbox_methods[] = {
    {"end", FASTCALL(outbox_end), METH_FASTCALL, end_doc},
    {"cancel", outbox_cancel, METH_O, cancel_doc},
    {"take", outbox_take, METH_O, take_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef outbox_members[] = {
    {"wake_at", T_PYSSIZET, offsetof(OutboxObject, wake_at), 0,
     PyDoc_STR("When so many outcomes lie here, and that one has just come, `wake` is called, in the thread\n"
               "that has brought it.")},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(outbox_doc,
"Outbox(wake, /)\n--\n\n"
"Where an executor's _submit_each() lays the outcomes of calls, for somebody who takes many at a time.");

static PyType_Slot outbox_slots[] = {
    {Py_tp_doc, (void *)outbox_doc},
    {Py_tp_new, outbox_tp_new},
    {Py_tp_dealloc, outbox_dealloc},
    {Py_tp_traverse, outbox_traverse},
    {Py_tp_clear, outbox_clear},
    {Py_sq_length, outbox_length},
    {Py_tp_methods, outbox_methods},
    {Py_tp_members, outbox_members},
    {0, NULL},
};

PyType_Spec outbox_spec = {
    .name = "pyconc._core.Outbox",
    .basicsize = sizeof(OutboxObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = outbox_slots,
};

// ---- tickets: not for the program ----

static void
ticket_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyType_Slot ticket_slots[] = {
    {Py_tp_dealloc, ticket_dealloc},
    {0, NULL},
};

PyType_Spec ticket_spec = {
    .name = "pyconc._core.Ticket",
    .basicsize = sizeof(TicketObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = ticket_slots,
};
