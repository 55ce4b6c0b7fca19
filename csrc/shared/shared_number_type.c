#include "shared_number_type.h"

#include "shared_cell.h"
#include "typecodes.h"

static _Atomic uint64_t *
word_of(PyObject *op)
{
    return &shared_cell_of(op)->cell->value;
}

static PyObject *
number_get(PyObject *op, void *Py_UNUSED(closure))
{
    // A32: acquires: a thread that sees a value sees what was done before it was set: R32 in number_set(),
    // add(), exchange() and compare_exchange().
    return typecode_value(shared_cell_of(op)->kind, atomic_load_explicit(word_of(op), memory_order_acquire));
}

static int
number_set(PyObject *op, PyObject *value, void *Py_UNUSED(closure))
{
    uint64_t bits;
    if (value == NULL) {
        PyErr_SetString(PyExc_AttributeError, "value cannot be deleted");
        return -1;
    }
    if (!typecode_bits(shared_cell_of(op)->kind, value, &bits)) {
        return -1;
    }
    // R32: pairs with A32 in number_get().
    atomic_store_explicit(word_of(op), bits, memory_order_release);
    return 0;
}

// Adds, and returns what was there before.
static uint64_t
add_bits(PyObject *op, uint64_t bits)
{
    char kind = shared_cell_of(op)->kind;
    if (!typecode_is_float(kind)) {
        // It releases and acquires, as the others.
        return atomic_fetch_add_explicit(word_of(op), bits, memory_order_acq_rel);
    }
    double sum, more = typecode_double(kind, bits);
    uint64_t next;
    // Relaxed: the exchange compares.
    uint64_t now = atomic_load_explicit(word_of(op), memory_order_relaxed);
    do {
        sum = typecode_double(kind, now) + more;
        memcpy(&next, &sum, sizeof(next));
        // It releases and acquires, as the others.
    } while (!atomic_compare_exchange_weak_explicit(word_of(op), &now, next, memory_order_acq_rel,
                                                    memory_order_relaxed));
    return now;
}

static bool
has_count(const char *name, Py_ssize_t nargs, Py_ssize_t least, Py_ssize_t most)
{
    if (nargs < least || nargs > most) {
        PyErr_Format(PyExc_TypeError, "%s() takes %zd to %zd arguments (%zd given)", name, least, most,
                     nargs);
        return false;
    }
    return true;
}

static bool
can_add(PyObject *op)
{
    char kind = shared_cell_of(op)->kind;
    if (kind == 'c' || kind == '?') {
        PyErr_SetString(PyExc_TypeError, "there is no sum of such values");
        return false;
    }
    return true;
}

PyDoc_STRVAR(number_add_doc,
"add($self, n=1, /)\n--\n\n"
"Add n, as one step that no other process comes between, and return the value before.\n\n"
"Integers go round at their size. TypeError if the value is no number.\n\n"
"    >>> counter = pyconc.shared.Counter(5)\n"
"    >>> counter.add(2), counter.add(), counter.value\n"
"    (5, 7, 8)\n");

static PyObject *
number_add(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    uint64_t bits = 1;
    double one = 1;
    if (!has_count("add", nargs, 0, 1) || !can_add(op)) {
        return NULL;
    }
    if (typecode_is_float(shared_cell_of(op)->kind)) {
        memcpy(&bits, &one, sizeof(bits));
    }
    if (nargs == 1 && !typecode_bits(shared_cell_of(op)->kind, args[0], &bits)) {
        return NULL;
    }
    return typecode_value(shared_cell_of(op)->kind, add_bits(op, bits));
}

PyDoc_STRVAR(number_exchange_doc,
"exchange($self, value, /)\n--\n\n"
"Set the value and return the one before, as one step. TypeError if it is of another type.\n\n"
"    >>> value = pyconc.shared.Value(\"d\", 1.5)\n"
"    >>> value.exchange(2.5), value.value\n"
"    (1.5, 2.5)\n");

static PyObject *
number_exchange(PyObject *op, PyObject *value)
{
    uint64_t bits;
    if (!typecode_bits(shared_cell_of(op)->kind, value, &bits)) {
        return NULL;
    }
    // It releases and acquires, as the others.
    uint64_t before = atomic_exchange_explicit(word_of(op), bits, memory_order_acq_rel);
    return typecode_value(shared_cell_of(op)->kind, before);
}

PyDoc_STRVAR(number_compare_exchange_doc,
"compare_exchange($self, expected, value, /)\n--\n\n"
"Set the value if it is the one that is expected, as one step, and return whether it was.\n\n"
"TypeError if either is of another type.\n\n"
"    >>> value = pyconc.shared.Value(\"i\", 1)\n"
"    >>> value.compare_exchange(1, 2), value.compare_exchange(1, 3), value.value\n"
"    (True, False, 2)\n");

static PyObject *
number_compare_exchange(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    char kind = shared_cell_of(op)->kind;
    uint64_t bits, ignored;
    if (!has_count("compare_exchange", nargs, 2, 2) || !typecode_bits(kind, args[0], &ignored)
        || !typecode_bits(kind, args[1], &bits)) {
        return NULL;
    }
    for (;;) {
        // Relaxed: the exchange compares.
        uint64_t now = atomic_load_explicit(word_of(op), memory_order_relaxed);
        PyObject *there = typecode_value(kind, now);  // the word may have more bits than the value
        int is_equal = there == NULL ? -1 : PyObject_RichCompareBool(there, args[0], Py_EQ);
        Py_XDECREF(there);
        if (is_equal <= 0) {
            return is_equal < 0 ? NULL : Py_NewRef(Py_False);
        }
        // It releases and acquires, as the others.
        if (atomic_compare_exchange_strong_explicit(word_of(op), &now, bits, memory_order_acq_rel,
                                                    memory_order_relaxed)) {
            Py_RETURN_TRUE;
        }
    }
}

static PyMethodDef number_methods[] = {
    {"add", FASTCALL(number_add), METH_FASTCALL, number_add_doc},
    {"exchange", number_exchange, METH_O, number_exchange_doc},
    {"compare_exchange", FASTCALL(number_compare_exchange), METH_FASTCALL, number_compare_exchange_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef number_getset[] = {
    {"value", number_get, number_set, "The value: read or written as one step.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(number_doc,
"SharedNumber(heap, index=-1, serial=0, how='', /)\n--\n\n"
"A number in a cell. how: its typecode.");

static PyType_Slot number_slots[] = {
    {Py_tp_methods, number_methods},
    {Py_tp_getset, number_getset},
    {Py_tp_doc, (void *)number_doc},
    {0, NULL},
};

PyType_Spec shared_number_spec = {
    .name = "pyconc._core.SharedNumber",
    .basicsize = sizeof(SharedCellObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = number_slots,
};
