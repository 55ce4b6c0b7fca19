#include "shared_value.h"

#include "core/shared_heap_cells.h"

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

static void
drop_refs(shared_heap *heap, shared_refs *refs)
{
    if (refs->count > 0) {
        shared_heap_drop_each(heap, refs->cells, refs->count);
    }
    shared_refs_fini(refs);
}

// ---- a pickle under way ----
//
// What reduces an object may call anything, also switch to another greenlet of this thread, which then finds
// this pickle in `packing`, and may end before it or after it.  So each is owned by whoever may look at it:
// the call that makes the pickle, and `packing` or the pickle that came after it.  Guarded by the GIL.
typedef struct packing_now {
    struct packing_now *outer;  // owned
    uint32_t owners;
    bool is_open;
    bool is_key;
    shared_heap *heap;
    shared_refs refs;  // this process has these cells
} packing_now;

static _Thread_local packing_now *packing;  // owned

static void
packing_drop(packing_now *p)
{
    while (p != NULL && --p->owners == 0) {
        packing_now *outer = p->outer;
        drop_refs(p->heap, &p->refs);
        PyMem_RawFree(p);
        p = outer;
    }
}

// NULL: there is no memory.
static packing_now *
packing_begin(const shared_encoding *e)
{
    packing_now *p = PyMem_RawMalloc(sizeof(*p));
    if (p != NULL) {
        p->outer = packing;
        p->owners = 2;
        p->is_open = true;
        p->is_key = e->is_key;
        p->heap = e->heap;
        shared_refs_init(&p->refs);
        packing = p;
    }
    return p;
}

static void
packing_end(packing_now *p)
{
    packing_now *now = packing;
    p->is_open = false;
    packing = p->outer;
    p->outer = NULL;
    packing_drop(now);
    packing_drop(p);
}

int
shared_packing_refer(shared_heap *heap, uint32_t index)
{
    packing_now *p = packing;
    if (p == NULL || !p->is_open) {
        return SHARED_PACKS_NOTHING;
    }
    if (heap != p->heap || p->is_key) {
        return shared_heap_pin(heap, index);  // containers hold only what is in their heap
    }
    int rc = shared_heap_share(heap, index);
    if (rc == 0 && !shared_refs_add(&p->refs, index)) {
        shared_heap_drop(heap, index);
        rc = SHARED_HEAP_FULL;
    }
    return rc;
}

// ---- encodings ----

void
shared_encoding_fini(shared_encoding *e)
{
    drop_refs(e->heap, &e->refs);
    if (e->items != e->few_items) {
        PyMem_RawFree(e->items);
    }
    if (e->bytes != e->few_bytes) {
        PyMem_RawFree(e->bytes);
    }
}

int
shared_encoding_init(shared_encoding *e, shared_heap *heap, Py_ssize_t count)
{
    e->heap = heap;
    e->is_key = false;
    shared_refs_init(&e->refs);
    e->count = 0;
    e->used = 0;
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
    packing_now *p = packing_begin(e);
    if (p == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    PyObject *pickle =
        PyObject_CallFunctionObjArgs(state->pickle_dumps, value, state->pickle_protocol, NULL);
    uint32_t writer = robust_lock_process();
    uint32_t refs = p->refs.count;
    size_t head = refs == 0 ? 0 : SHARED_ITEM_HEAD_BYTES + refs * sizeof(uint32_t);
    if (pickle != NULL && !PyBytes_Check(pickle)) {
        PyErr_SetString(PyExc_TypeError, "pickle.dumps() did not return bytes");
    }
    else if (pickle != NULL && make_room(e, head + (size_t)PyBytes_GET_SIZE(pickle) + sizeof(writer)) == 0) {
        size_t size = (size_t)PyBytes_GET_SIZE(pickle);
        unsigned char *at = e->bytes + e->used;
        if (refs != 0) {
            shared_item_write_head(at, p->refs.cells, refs);
        }
        memcpy(at + head, PyBytes_AS_STRING(pickle), size);
        memcpy(at + head + size, &writer, sizeof(writer));
        shared_item written = {.bytes = at, .size = head + size + sizeof(writer)};
        if (shared_refs_add_item(&e->refs, &written)) {
            p->refs.count = 0;  // they are the encoding's
            add_written(e, written.size);
            rc = 0;
        }
        else {
            PyErr_NoMemory();
        }
    }
    packing_end(p);
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

int
shared_encoding_add_key(module_state *state, shared_encoding *e, PyObject *key)
{
    e->is_key = true;
    int rc = shared_encoding_add(state, e, key);
    e->is_key = false;
    return rc;
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

int
shared_encode_one(module_state *state, shared_encoding *e, shared_heap *heap, PyObject *value)
{
    if (shared_encoding_init(e, heap, 1) < 0) {
        return -1;
    }
    if (shared_encoding_add(state, e, value) < 0) {
        shared_encoding_fini(e);
        return -1;
    }
    shared_encoding_finish(e);
    return 0;
}

int
shared_encode_all(module_state *state, shared_encoding *e, shared_heap *heap, PyObject *iterable)
{
    PyObject *values = PySequence_List(iterable);  // our own: pickling may run anything
    if (values == NULL) {
        return -1;
    }
    int rc = shared_encoding_init(e, heap, PyList_GET_SIZE(values));
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
    drop_refs(c->heap, &c->refs);
    if (c->items != c->few_items) {
        PyMem_RawFree(c->items);
    }
    if (c->bytes != c->few_bytes) {
        PyMem_RawFree(c->bytes);
    }
}

bool
shared_copies_init(shared_copies *c, const shared_run *run, Py_ssize_t count)
{
    c->heap = run->heap;
    shared_refs_init(&c->refs);
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
    bool is_known = true;
    for (Py_ssize_t i = 0; i < c->count; i++) {
        bytes += c->items[i].bytes == NULL ? 0 : c->items[i].size;
        is_known = is_known && shared_refs_add_item(&c->refs, &c->items[i]);
    }
    if (bytes > sizeof(c->few_bytes)) {
        c->bytes = PyMem_RawMalloc(bytes);
    }
    // As long as the lock is held, the container has what its items refer to.
    if (!is_known || c->bytes == NULL
        || (c->refs.count > 0 && shared_heap_share_each(c->heap, c->refs.cells, c->refs.count) < 0)) {
        shared_refs_fini(&c->refs);  // this process has none of them
        c->bytes = c->bytes == NULL ? c->few_bytes : c->bytes;
        shared_copies_fini(c);
        return false;
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

// Raises UnpicklingError for an exception, with which process wrote the pickle and where it was.
static PyObject *
raise_from(shared_origin origin, uint32_t writer)
{
    PyObject *error = PyErr_GetRaisedException();
    PyObject *module = PyImport_ImportModule("pyconc._unpicklable");
    PyObject *raised = NULL;
    if (module != NULL && origin.key != NULL) {
        raised = PyObject_CallMethod(module, "raise_from", "OsOI", error, origin.what, origin.key, writer);
    }
    else if (module != NULL) {
        raised = PyObject_CallMethod(module, "raise_from", "OsnI", error, origin.what, origin.index, writer);
    }
    Py_XDECREF(raised);
    Py_XDECREF(module);
    Py_DECREF(error);
    return NULL;
}

PyObject *
shared_decode(module_state *state, const shared_item *item, shared_origin origin)
{
    uint32_t writer;
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
    size_t head = shared_item_head_bytes(item);
    const char *bytes = (const char *)item->bytes + head;
    if (item->size < head + sizeof(writer) || (head == 0 && item->bytes[0] != PICKLE_MARK)) {
        return scalars_read(item->bytes, item->size);
    }
    size_t size = item->size - head - sizeof(writer);
    PyObject *pickle = PyBytes_FromStringAndSize(bytes, (Py_ssize_t)size);
    if (pickle == NULL) {
        return NULL;
    }
    PyObject *value = PyObject_CallOneArg(state->pickle_loads, pickle);
    Py_DECREF(pickle);
    if (value == NULL) {
        memcpy(&writer, bytes + size, sizeof(writer));
        return raise_from(origin, writer);
    }
    return value;
}

PyObject *
shared_decode_one(module_state *state, shared_copies *c, shared_origin origin)
{
    PyObject *value = shared_decode(state, &c->items[0], origin);
    shared_copies_fini(c);
    return value;
}

PyObject *
shared_decode_all(module_state *state, shared_copies *c, shared_origin origin, Py_ssize_t step)
{
    PyObject *list = PyList_New(c->count);
    for (Py_ssize_t i = 0; list != NULL && i < c->count; i++) {
        PyObject *value = shared_decode(state, &c->items[i], origin);
        if (value == NULL) {
            Py_CLEAR(list);
            break;
        }
        PyList_SET_ITEM(list, i, value);
        origin.index += step;
    }
    shared_copies_fini(c);
    return list;
}
