#include "shared_list_type.h"

#include "shared_container.h"
#include "shared_value.h"

#include "core/futex.h"
#include "core/shared_list.h"

// With the lock.  false: there is no memory, and nothing to free.
static bool
copy_items(shared_copies *c, const shared_run *list, Py_ssize_t start, Py_ssize_t step, Py_ssize_t count)
{
    if (!shared_copies_init(c, list, count)) {
        return false;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        c->items[i] = shared_list_get(list, (uint32_t)(start + i * step));
    }
    return shared_copies_take(c);
}

static int
encode_one(PyObject *op, shared_encoding *e, PyObject *value)
{
    return shared_encode_one(shared_state_of(op), e, shared_cell_of(op)->heap, value);
}

static int
encode_all(PyObject *op, shared_encoding *e, PyObject *iterable)
{
    return shared_encode_all(shared_state_of(op), e, shared_cell_of(op)->heap, iterable);
}

static shared_origin
from_index(Py_ssize_t index)
{
    return (shared_origin){.what = "item {} of a shared List", .index = index};
}

// ---- as a sequence ----

static PyObject *
list_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    return shared_container_new(type, args, kwargs, &shared_list_kind);
}

static Py_ssize_t
list_length(PyObject *op)
{
    shared_run *list = shared_run_of(op);
    Py_ssize_t count = (Py_ssize_t)shared_list_look_count(list);
    if (count < 0 && shared_container_enter(op) == 0) {
        count = shared_list_count(list);
        shared_run_leave(list);
    }
    return count;
}

// An index counts from the end if it is negative.  -1: there is no such item.
static Py_ssize_t
place_of(const shared_run *list, Py_ssize_t index)
{
    Py_ssize_t count = shared_list_count(list);
    index += index < 0 ? count : 0;
    return index < count ? index : -1;
}

static PyObject *
no_such_item(void)
{
    PyErr_SetString(PyExc_IndexError, "list index out of range");
    return NULL;
}

static PyObject *
item_at(PyObject *op, Py_ssize_t index)
{
    shared_run *list = shared_run_of(op);
    module_state *state = shared_state_of(op);
    shared_seen seen;
    shared_copies copied;
    bool is_copied = false;
    int is_there = shared_list_look(list, index, &seen);
    if (is_there >= 0) {
        return is_there ? shared_decode(state, &seen.item, from_index(index)) : no_such_item();
    }
    if (shared_container_enter(op) < 0) {
        return NULL;
    }
    Py_ssize_t place = place_of(list, index);
    if (place >= 0) {
        is_copied = copy_items(&copied, list, place, 1, 1);
    }
    shared_run_leave(list);
    if (place < 0) {
        return no_such_item();
    }
    return is_copied ? shared_decode_one(state, &copied, from_index(place)) : PyErr_NoMemory();
}

// For iterators.  The interpreter has added the length to a negative index, which it may not be any more.
static PyObject *
list_item(PyObject *op, Py_ssize_t index)
{
    return item_at(op, index < 0 ? PY_SSIZE_T_MAX : index);
}

static PyObject *
slice_of(PyObject *op, Py_ssize_t start, Py_ssize_t stop, Py_ssize_t step)
{
    shared_run *list = shared_run_of(op);
    shared_copies copied;
    if (shared_container_enter(op) < 0) {
        return NULL;
    }
    Py_ssize_t count = PySlice_AdjustIndices(shared_list_count(list), &start, &stop, step);
    bool is_copied = copy_items(&copied, list, start, step, count);
    shared_run_leave(list);
    return is_copied ? shared_decode_all(shared_state_of(op), &copied, from_index(start), step)
                     : PyErr_NoMemory();
}

static PyObject *
refuse_index(PyObject *key)
{
    PyErr_Format(PyExc_TypeError, "list indices must be integers or slices, not %.200s",
                 Py_TYPE(key)->tp_name);
    return NULL;
}

static PyObject *
list_subscript(PyObject *op, PyObject *key)
{
    if (PyIndex_Check(key)) {
        Py_ssize_t index = PyNumber_AsSsize_t(key, PyExc_IndexError);
        return index == -1 && PyErr_Occurred() ? NULL : item_at(op, index);
    }
    Py_ssize_t start, stop, step;
    if (!PySlice_Check(key)) {
        return refuse_index(key);
    }
    return PySlice_Unpack(key, &start, &stop, &step) < 0 ? NULL : slice_of(op, start, stop, step);
}

static int
set_item(PyObject *op, Py_ssize_t index, PyObject *value)
{
    shared_run *list = shared_run_of(op);
    shared_encoding e;
    int rc = 0;
    if (value != NULL && encode_one(op, &e, value) < 0) {
        return -1;
    }
    if (shared_container_enter(op) < 0) {
        rc = -1;
        goto done;
    }
    Py_ssize_t place = place_of(list, index);
    if (place >= 0) {
        rc = value == NULL ? shared_list_splice(list, (uint32_t)place, (uint32_t)place + 1, NULL, 0)
                           : shared_list_set(list, (uint32_t)place, e.items);
    }
    shared_run_leave(list);
    if (place < 0) {
        PyErr_SetString(PyExc_IndexError, "list assignment index out of range");
        rc = -1;
    }
    else if (rc < 0) {
        shared_raise(rc);
    }

done:
    if (value != NULL) {
        shared_encoding_fini(&e);
    }
    return rc < 0 ? -1 : 0;
}

// With the lock: items at every `step` are replaced, or go if there are no new ones.
static int
change_steps(shared_run *list, Py_ssize_t start, Py_ssize_t step, Py_ssize_t count, const shared_encoding *e)
{
    uint32_t there = shared_list_count(list);
    uint32_t kept = 0;
    uint32_t *order = PyMem_RawMalloc(((size_t)there + 1) * sizeof(*order));
    if (order == NULL) {
        return SHARED_HEAP_FULL;
    }
    for (uint32_t i = 0; i < there; i++) {
        order[i] = i;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        order[start + i * step] = SHARED_LIST_NEW + (uint32_t)i;
    }
    for (uint32_t i = 0; i < there; i++) {
        if (e != NULL || order[i] < SHARED_LIST_NEW) {
            order[kept++] = order[i];
        }
    }
    int rc = shared_list_rebuild(list, order, kept, e == NULL ? NULL : e->items, e == NULL ? 0 : e->count);
    PyMem_RawFree(order);
    return rc;
}

static int
set_slice(PyObject *op, Py_ssize_t start, Py_ssize_t stop, Py_ssize_t step, PyObject *values)
{
    shared_run *list = shared_run_of(op);
    shared_encoding e = {.count = 0};
    Py_ssize_t count = 0;
    int rc = 0;
    if (values != NULL && !PyList_Check(values) && !PyTuple_Check(values) && Py_TYPE(values)->tp_iter == NULL
        && !PySequence_Check(values)) {
        PyErr_SetString(PyExc_TypeError, step == 1 ? "can only assign an iterable"
                                                   : "must assign iterable to extended slice");
        return -1;
    }
    if (values != NULL && encode_all(op, &e, values) < 0) {
        return -1;
    }
    if (shared_container_enter(op) < 0) {
        rc = -1;
        goto done;
    }
    count = PySlice_AdjustIndices(shared_list_count(list), &start, &stop, step);
    bool fits = values == NULL || step == 1 || count == (Py_ssize_t)e.count;
    if (step == 1) {
        rc = shared_list_splice(list, (uint32_t)start, (uint32_t)(start + count), e.items, e.count);
    }
    else if (fits && count > 0) {
        rc = change_steps(list, start, step, count, values == NULL ? NULL : &e);
    }
    shared_run_leave(list);
    if (!fits) {
        PyErr_Format(PyExc_ValueError, "attempt to assign sequence of size %zd to extended slice of size %zd",
                     (Py_ssize_t)e.count, count);
        rc = -1;
    }
    else if (rc < 0) {
        shared_raise(rc);
    }

done:
    if (values != NULL) {
        shared_encoding_fini(&e);
    }
    return rc < 0 ? -1 : 0;
}

static int
list_ass_subscript(PyObject *op, PyObject *key, PyObject *value)
{
    if (PyIndex_Check(key)) {
        Py_ssize_t index = PyNumber_AsSsize_t(key, PyExc_IndexError);
        return index == -1 && PyErr_Occurred() ? -1 : set_item(op, index, value);
    }
    Py_ssize_t start, stop, step;
    if (!PySlice_Check(key)) {
        refuse_index(key);
        return -1;
    }
    return PySlice_Unpack(key, &start, &stop, &step) < 0 ? -1 : set_slice(op, start, stop, step, value);
}

// ---- methods ----

// Puts items at an index, from which a list takes what is out of range as an end.
static PyObject *
insert_encoded(PyObject *op, Py_ssize_t index, shared_encoding *e)
{
    shared_run *list = shared_run_of(op);
    int rc = shared_container_enter(op);
    if (rc == 0) {
        Py_ssize_t count = shared_list_count(list);
        index += index < 0 ? count : 0;
        index = index < 0 ? 0 : index > count ? count
                                              : index;
        rc = shared_list_splice(list, (uint32_t)index, (uint32_t)index, e->items, e->count);
        shared_run_leave(list);
        if (rc < 0) {
            shared_raise(rc);
        }
    }
    shared_encoding_fini(e);
    return rc < 0 ? NULL : Py_NewRef(Py_None);
}

PyDoc_STRVAR(list_append_doc,
"append($self, value, /)\n--\n\n"
"Add a value at the end, as one step that no other process comes between.\n\n"
"Raises what pickle does for a value that cannot be pickled, and MemoryError; then nothing has changed.\n\n"
"    >>> numbers = pyconc.shared.List()\n"
"    >>> numbers.append(1)\n"
"    >>> numbers[:]\n"
"    [1]\n");

static PyObject *
list_append(PyObject *op, PyObject *value)
{
    shared_encoding e;
    return encode_one(op, &e, value) < 0
               ? NULL
               : insert_encoded(op, PY_SSIZE_T_MAX, &e);
}

PyDoc_STRVAR(list_extend_doc,
"extend($self, iterable, /)\n--\n\n"
"Add what the iterable has at the end, all of it as one step, once the iterable has ended.\n\n"
"Raises what the iterable and append() do; then nothing has changed.\n\n"
"    >>> numbers = pyconc.shared.List([1])\n"
"    >>> numbers.extend(range(2, 4))\n"
"    >>> numbers[:]\n"
"    [1, 2, 3]\n");

static PyObject *
list_extend(PyObject *op, PyObject *iterable)
{
    shared_encoding e;
    return encode_all(op, &e, iterable) < 0
               ? NULL
               : insert_encoded(op, PY_SSIZE_T_MAX, &e);
}

PyDoc_STRVAR(list_insert_doc,
"insert($self, index, value, /)\n--\n\n"
"Put a value before an index. Raises what append() does.\n\n"
"    >>> numbers = pyconc.shared.List([1, 3])\n"
"    >>> numbers.insert(1, 2)\n"
"    >>> numbers[:]\n"
"    [1, 2, 3]\n");

static PyObject *
list_insert(PyObject *op, PyObject *args)
{
    Py_ssize_t index;
    PyObject *value;
    shared_encoding e;
    if (!PyArg_ParseTuple(args, "nO:insert", &index, &value)) {
        return NULL;
    }
    return encode_one(op, &e, value) < 0
               ? NULL
               : insert_encoded(op, index, &e);
}

PyDoc_STRVAR(list_pop_doc,
"pop($self, index=-1, /)\n--\n\n"
"Remove and return the item at `index`, as one step. Raises IndexError if there is none.\n\n"
"An item that cannot be unpickled, an UnpicklingError, is removed all the same. At both ends it takes as\n"
"long with many.\n\n"
"    >>> numbers = pyconc.shared.List([1, 2, 3])\n"
"    >>> numbers.pop(), numbers.pop(0)\n"
"    (3, 1)\n");

static PyObject *
list_pop(PyObject *op, PyObject *args)
{
    shared_run *list = shared_run_of(op);
    Py_ssize_t index = -1;
    shared_copies copied;
    int rc = 0;
    if (!PyArg_ParseTuple(args, "|n:pop", &index) || shared_container_enter(op) < 0) {
        return NULL;
    }
    bool is_empty = shared_list_count(list) == 0;
    Py_ssize_t place = place_of(list, index);
    if (place >= 0) {
        rc = copy_items(&copied, list, place, 1, 1) ? 0 : SHARED_HEAP_FULL;
        if (rc == 0) {
            rc = shared_list_splice(list, (uint32_t)place, (uint32_t)place + 1, NULL, 0);
            if (rc < 0) {
                shared_copies_fini(&copied);
            }
        }
    }
    shared_run_leave(list);
    if (place < 0) {
        PyErr_SetString(PyExc_IndexError, is_empty ? "pop from empty list" : "pop index out of range");
        return NULL;
    }
    return rc < 0 ? shared_raise(rc) : shared_decode_one(shared_state_of(op), &copied, from_index(place));
}

PyDoc_STRVAR(list_clear_doc,
"clear($self, /)\n--\n\n"
"Remove all items. Raises nothing.\n\n"
"    >>> numbers = pyconc.shared.List([1])\n"
"    >>> numbers.clear()\n"
"    >>> len(numbers)\n"
"    0\n");

static PyObject *
list_clear(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    shared_run *list = shared_run_of(op);
    if (shared_container_enter(op) < 0) {
        return NULL;
    }
    int rc = shared_list_splice(list, 0, shared_list_count(list), NULL, 0);
    shared_run_leave(list);
    return shared_none_or_raise(rc);
}

PyDoc_STRVAR(list_reverse_doc,
"reverse($self, /)\n--\n\n"
"Reverse the order of the items, as one step. Raises MemoryError; then nothing has changed.\n\n"
"    >>> numbers = pyconc.shared.List([1, 2])\n"
"    >>> numbers.reverse()\n"
"    >>> numbers[:]\n"
"    [2, 1]\n");

static PyObject *
list_reverse(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    shared_run *list = shared_run_of(op);
    if (shared_container_enter(op) < 0) {
        return NULL;
    }
    uint32_t count = shared_list_count(list);
    uint32_t *order = PyMem_RawMalloc(((size_t)count + 1) * sizeof(*order));
    int rc = order == NULL ? SHARED_HEAP_FULL : 0;
    if (rc == 0) {
        for (uint32_t i = 0; i < count; i++) {
            order[i] = count - 1 - i;
        }
        rc = shared_list_rebuild(list, order, count, NULL, 0);
    }
    shared_run_leave(list);
    PyMem_RawFree(order);
    return shared_none_or_raise(rc);
}

// ---- for changes that call Python in between ----

PyDoc_STRVAR(list_items_doc,
"_items($self, /)\n--\n\n"
"Return (version, items) of one moment.");

static PyObject *
list_items(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    shared_run *list = shared_run_of(op);
    shared_copies copied;
    if (shared_container_enter(op) < 0) {
        return NULL;
    }
    unsigned long long version = shared_run_version(list);
    bool is_copied = copy_items(&copied, list, 0, 1, shared_list_count(list));
    shared_run_leave(list);
    PyObject *items = is_copied ? shared_decode_all(shared_state_of(op), &copied, from_index(0), 1)
                                : PyErr_NoMemory();
    return items == NULL ? NULL : Py_BuildValue("KN", version, items);
}

PyDoc_STRVAR(list_reorder_doc,
"_reorder($self, version, places, /)\n--\n\n"
"Make it a list of the items at these places, and return True; False if it has changed since that version.");

static PyObject *
list_reorder(PyObject *op, PyObject *args)
{
    shared_run *list = shared_run_of(op);
    unsigned long long version;
    PyObject *places;
    if (!PyArg_ParseTuple(args, "KO!:_reorder", &version, &PyList_Type, &places)) {
        return NULL;
    }
    Py_ssize_t count = PyList_GET_SIZE(places);
    if (count > SHARED_LIST_MAX) {
        return PyErr_NoMemory();
    }
    uint32_t most = 0;
    uint32_t *order = PyMem_RawMalloc(((size_t)count + 1) * sizeof(*order));
    if (order == NULL) {
        return PyErr_NoMemory();
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        unsigned long place = PyLong_AsUnsignedLong(PyList_GET_ITEM(places, i));
        order[i] = (uint32_t)place;
        most = order[i] > most ? order[i] : most;
    }
    bool is_same = false;
    int rc = PyErr_Occurred() != NULL ? -1 : shared_container_enter(op);
    if (rc < 0) {
        PyMem_RawFree(order);
        return NULL;
    }
    if (version == shared_run_version(list) && (count == 0 || most < shared_list_count(list))) {
        is_same = true;
        rc = shared_list_rebuild(list, order, (uint32_t)count, NULL, 0);
    }
    shared_run_leave(list);
    PyMem_RawFree(order);
    return rc < 0 ? shared_raise(rc) : PyBool_FromLong(is_same);
}

PyDoc_STRVAR(list_delete_doc,
"_delete($self, version, place, /)\n--\n\n"
"Remove the item at a place, and return True; False if the list has changed since that version.");

static PyObject *
list_delete(PyObject *op, PyObject *args)
{
    shared_run *list = shared_run_of(op);
    unsigned long long version;
    unsigned int place;
    if (!PyArg_ParseTuple(args, "KI:_delete", &version, &place) || shared_container_enter(op) < 0) {
        return NULL;
    }
    bool is_same = version == shared_run_version(list) && place < shared_list_count(list);
    int rc = is_same ? shared_list_splice(list, place, place + 1, NULL, 0) : 0;
    shared_run_leave(list);
    return rc < 0 ? shared_raise(rc) : PyBool_FromLong(is_same);
}

static PyMethodDef list_methods[] = {
    {"append", list_append, METH_O, list_append_doc},
    {"extend", list_extend, METH_O, list_extend_doc},
    {"insert", list_insert, METH_VARARGS, list_insert_doc},
    {"pop", list_pop, METH_VARARGS, list_pop_doc},
    {"clear", list_clear, METH_NOARGS, list_clear_doc},
    {"reverse", list_reverse, METH_NOARGS, list_reverse_doc},
    {"_items", list_items, METH_NOARGS, list_items_doc},
    {"_reorder", list_reorder, METH_VARARGS, list_reorder_doc},
    {"_delete", list_delete, METH_VARARGS, list_delete_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef list_getset[] = {
    {"nbytes", shared_container_nbytes, NULL, SHARED_NBYTES_DOC, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(list_doc,
"SharedList(heap, index=-1, serial=0, how='', /)\n--\n\n"
"A list in a cell, and in memory that the cell owns.");

static PyType_Slot list_slots[] = {
    {Py_tp_new, list_new},
    {Py_tp_dealloc, shared_container_dealloc},
    {Py_tp_methods, list_methods},
    {Py_tp_getset, list_getset},
    {Py_tp_iter, PySeqIter_New},
    {Py_sq_length, list_length},
    {Py_sq_item, list_item},
    {Py_mp_length, list_length},
    {Py_mp_subscript, list_subscript},
    {Py_mp_ass_subscript, list_ass_subscript},
    {Py_tp_doc, (void *)list_doc},
    {0, NULL},
};

PyType_Spec shared_list_spec = {
    .name = "pyconc._core.SharedList",
    .basicsize = sizeof(SharedContainerObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = list_slots,
};
