#include "shared_value.h"

// ---- values to items ----

// The first byte of a pickle since protocol 2, and of nothing that scalars.h writes.
#define PICKLE_MARK 0x80

// The words for what is no number, with the lowest bits 01; numbers have 11.
enum {
    WORD_NONE = 1,
    WORD_FALSE = 5,
    WORD_TRUE = 9
};

#define WORD_INT_MAX ((INT64_C(1) << 61) - 1)

static _Thread_local shared_packing_kind packing;

shared_packing_kind
shared_packing(void)
{
    return packing;
}

void
shared_encoding_fini(shared_encoding *e)
{
    if (e->items != e->few_items) {
        PyMem_RawFree(e->items);
    }
    if (e->bytes != e->few_bytes) {
        PyMem_RawFree(e->bytes);
    }
}

int
shared_encoding_init(shared_encoding *e, Py_ssize_t count)
{
    e->count = 0;
    e->used = 0;
    e->packs = SHARED_PACKS_ITEM;
    e->room = sizeof(e->few_bytes);
    e->bytes = e->few_bytes;
    e->items = e->few_items;
    if (count > SHARED_VALUES_MAX) {
        e->items = NULL;
    }
    else if (count > SHARED_VALUES_FEW) {
        e->items = PyMem_RawMalloc((size_t)count * sizeof(shared_item));
    }
    if (e->items == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

static int
make_room(shared_encoding *e, size_t bytes)
{
    if (bytes <= e->room - e->used) {
        return 0;
    }
    size_t room = e->used + bytes + e->room;
    unsigned char *more = PyMem_RawMalloc(room);
    if (more == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    memcpy(more, e->bytes, e->used);
    if (e->bytes != e->few_bytes) {
        PyMem_RawFree(e->bytes);
    }
    e->bytes = more;
    e->room = room;
    return 0;
}

// 0: the value has no word.
static uint64_t
word_of(PyObject *value)
{
    if (PyLong_CheckExact(value)) {
        int overflow;
        int64_t number = PyLong_AsLongLongAndOverflow(value, &overflow);
        bool fits = overflow == 0 && number <= WORD_INT_MAX && number >= -WORD_INT_MAX;
        return fits ? (uint64_t)number << 2 | 3 : 0;
    }
    return value == Py_None ? WORD_NONE : value == Py_True ? WORD_TRUE
                                      : value == Py_False  ? WORD_FALSE
                                                           : 0;
}

uint64_t
shared_word_sum(const shared_item *first, const shared_item *second)
{
    if (first->bytes != NULL || second->bytes != NULL || (first->word & second->word & 3) != 3) {
        return 0;
    }
    int64_t sum = ((int64_t)first->word >> 2) + ((int64_t)second->word >> 2);
    return sum <= WORD_INT_MAX && sum >= -WORD_INT_MAX ? (uint64_t)sum << 2 | 3 : 0;
}

// The bytes of the next item have been written.
static void
add_written(shared_encoding *e, size_t size)
{
    e->items[e->count++] = (shared_item){.bytes = (const unsigned char *)(e->used + 1), .size = size};
    e->used += size;
}

void
shared_encoding_add_word(shared_encoding *e, uint64_t word)
{
    e->items[e->count++] = (shared_item){.word = word};
}

int
shared_encoding_add_bytes(shared_encoding *e, unsigned char tag, const char *bytes, Py_ssize_t size)
{
    if (make_room(e, (size_t)size + 1) < 0) {
        return -1;
    }
    e->bytes[e->used] = tag;
    memcpy(e->bytes + e->used + 1, bytes, (size_t)size);
    add_written(e, (size_t)size + 1);
    return 0;
}

int
shared_encoding_add_small(shared_encoding *e, PyObject *value)
{
    uint64_t word = word_of(value);
    if (word != 0) {
        shared_encoding_add_word(e, word);
        return 1;
    }
    if (make_room(e, SCALARS_BYTES_MAX) < 0) {
        return -1;
    }
    size_t size = scalars_write(value, e->bytes + e->used, SCALARS_BYTES_MAX);
    if (size == 0) {
        return 0;
    }
    add_written(e, size);
    return 1;
}

static int
add_pickle(module_state *state, shared_encoding *e, PyObject *value)
{
    int rc = -1;
    shared_packing_kind outer = packing;
    packing = e->packs;
    PyObject *pickle =
        PyObject_CallFunctionObjArgs(state->pickle_dumps, value, state->pickle_protocol, NULL);
    packing = outer;
    if (pickle != NULL && !PyBytes_Check(pickle)) {
        PyErr_SetString(PyExc_TypeError, "pickle.dumps() did not return bytes");
    }
    else if (pickle != NULL && make_room(e, (size_t)PyBytes_GET_SIZE(pickle)) == 0) {
        memcpy(e->bytes + e->used, PyBytes_AS_STRING(pickle), (size_t)PyBytes_GET_SIZE(pickle));
        add_written(e, (size_t)PyBytes_GET_SIZE(pickle));
        rc = 0;
    }
    Py_XDECREF(pickle);
    return rc;
}

int
shared_encoding_add(module_state *state, shared_encoding *e, PyObject *value)
{
    int rc = shared_encoding_add_small(e, value);
    return rc == 0 ? add_pickle(state, e, value) : rc < 0 ? -1
                                                          : 0;
}

void
shared_encoding_finish(shared_encoding *e)
{
    // The bytes do not move any more.
    for (uint32_t i = 0; i < e->count; i++) {
        if (e->items[i].bytes != NULL) {
            e->items[i].bytes = e->bytes + ((size_t)e->items[i].bytes - 1);
        }
    }
}

static int
encode(module_state *state, shared_encoding *e, PyObject *value, shared_packing_kind packs)
{
    if (shared_encoding_init(e, 1) < 0) {
        return -1;
    }
    e->packs = packs;
    if (shared_encoding_add(state, e, value) < 0) {
        shared_encoding_fini(e);
        return -1;
    }
    shared_encoding_finish(e);
    return 0;
}

int
shared_encode_one(module_state *state, shared_encoding *e, PyObject *value)
{
    return encode(state, e, value, SHARED_PACKS_ITEM);
}

int
shared_encode_message(module_state *state, shared_encoding *e, PyObject *value)
{
    return encode(state, e, value, SHARED_PACKS_MESSAGE);
}

int
shared_encode_all(module_state *state, shared_encoding *e, PyObject *iterable)
{
    PyObject *values = PySequence_List(iterable);  // our own: pickling may run anything
    if (values == NULL) {
        return -1;
    }
    int rc = shared_encoding_init(e, PyList_GET_SIZE(values));
    for (Py_ssize_t i = 0; rc == 0 && i < PyList_GET_SIZE(values); i++) {
        rc = shared_encoding_add(state, e, PyList_GET_ITEM(values, i));
        if (rc < 0) {
            shared_encoding_fini(e);
        }
    }
    if (rc == 0) {
        shared_encoding_finish(e);
    }
    Py_DECREF(values);
    return rc;
}

// ---- items to values ----

void
shared_copies_fini(shared_copies *c)
{
    if (c->items != c->few_items) {
        PyMem_RawFree(c->items);
    }
    if (c->bytes != c->few_bytes) {
        PyMem_RawFree(c->bytes);
    }
}

bool
shared_copies_init(shared_copies *c, Py_ssize_t count)
{
    c->count = count;
    c->bytes = c->few_bytes;
    c->items = count <= SHARED_VALUES_FEW ? c->few_items
                                          : PyMem_RawMalloc((size_t)count * sizeof(shared_item));
    return c->items != NULL;
}

bool
shared_copies_take(shared_copies *c)
{
    size_t bytes = 0;
    for (Py_ssize_t i = 0; i < c->count; i++) {
        bytes += c->items[i].bytes == NULL ? 0 : c->items[i].size;
    }
    if (bytes > sizeof(c->few_bytes)) {
        c->bytes = PyMem_RawMalloc(bytes);
        if (c->bytes == NULL) {
            c->bytes = c->few_bytes;
            shared_copies_fini(c);
            return false;
        }
    }
    unsigned char *at = c->bytes;
    for (Py_ssize_t i = 0; i < c->count; i++) {
        if (c->items[i].bytes != NULL) {
            memcpy(at, c->items[i].bytes, c->items[i].size);
            c->items[i].bytes = at;
            at += c->items[i].size;
        }
    }
    return true;
}

PyObject *
shared_decode(module_state *state, const shared_item *item)
{
    if (item->bytes == NULL) {
        switch (item->word) {
        case WORD_NONE:
            Py_RETURN_NONE;
        case WORD_FALSE:
            Py_RETURN_FALSE;
        case WORD_TRUE:
            Py_RETURN_TRUE;
        default:
            return PyLong_FromLongLong((int64_t)item->word >> 2);
        }
    }
    if (item->size == 0 || item->bytes[0] != PICKLE_MARK) {
        return scalars_read(item->bytes, item->size);
    }
    PyObject *pickle = PyBytes_FromStringAndSize((const char *)item->bytes, (Py_ssize_t)item->size);
    PyObject *value = pickle == NULL ? NULL : PyObject_CallOneArg(state->pickle_loads, pickle);
    Py_XDECREF(pickle);
    return value;
}

PyObject *
shared_decode_one(module_state *state, shared_copies *c)
{
    PyObject *value = shared_decode(state, &c->items[0]);
    shared_copies_fini(c);
    return value;
}

PyObject *
shared_decode_all(module_state *state, shared_copies *c)
{
    PyObject *list = PyList_New(c->count);
    for (Py_ssize_t i = 0; list != NULL && i < c->count; i++) {
        PyObject *value = shared_decode(state, &c->items[i]);
        if (value == NULL) {
            Py_CLEAR(list);
            break;
        }
        PyList_SET_ITEM(list, i, value);
    }
    shared_copies_fini(c);
    return list;
}
