#include "codec.h"

#include <string.h>

#include "base/scalars.h"

#include "large_strings.h"

// A large string in front of a pickle: NEXT_BUFFER, MEMOIZE, POP.
static const char string_opcodes[] = {'\x97', '\x94', '0'};

// ---- packing ----

static void
raise_claim(int status)
{
    if (status == SHM_NOT_OURS) {
        PyErr_SetString(PyExc_OSError, "the executor's shared memory cannot be used any more: something in "
                                       "this process has closed its file descriptor");
    }
    else {
        PyErr_NoMemory();
    }
}

// A buffer on its way.
typedef struct open_buffer {
    Py_buffer view;
    buffer_form form;
} open_buffer;

static int
open_string(open_buffer *buffer, PyObject *string)
{
    if (PyUnicode_CheckExact(string)) {
        int kind = (int)PyUnicode_KIND(string);
        buffer->form = kind == 1 ? FORM_STR_1 : kind == 2 ? FORM_STR_2
                                                          : FORM_STR_4;
        return PyBuffer_FillInfo(&buffer->view, string, PyUnicode_DATA(string),
                                 PyUnicode_GET_LENGTH(string) * kind, 1, PyBUF_SIMPLE);
    }
    buffer->form = PyBytes_CheckExact(string) ? FORM_BYTES : FORM_BYTEARRAY;
    return PyObject_GetBuffer(string, &buffer->view, PyBUF_SIMPLE);
}

static int
open_buffer_of(open_buffer *buffer, PyObject *exporter)
{
    int rc = PyObject_GetBuffer(exporter, &buffer->view, PyBUF_ANY_CONTIGUOUS);
    buffer->form = rc == 0 && buffer->view.readonly ? FORM_READONLY : FORM_BLOCK;
    return rc;
}

// Opens what goes beside a stream, in the order in which it is unpickled.  0, or -1 with an exception; in
// either case `count` of them are open.
static int
open_all(PyObject *strings, PyObject *buffers, open_buffer *opened, Py_ssize_t *count)
{
    PyObject *id, *entry;
    Py_ssize_t at = 0;
    *count = 0;
    while (strings != NULL && PyDict_Next(strings, &at, &id, &entry)) {
        if (open_string(&opened[*count], PyTuple_GET_ITEM(entry, 1)) < 0) {
            return -1;
        }
        ++*count;
    }
    for (Py_ssize_t i = 0; buffers != NULL && i < PyList_GET_SIZE(buffers); i++) {
        if (open_buffer_of(&opened[*count], PyList_GET_ITEM(buffers, i)) < 0) {
            return -1;
        }
        ++*count;
    }
    return 0;
}

// Copies strings, stream and buffers into a block.
static int
fill_block(packer *p, packed_message *packed, PyObject *strings, PyObject *stream, PyObject *buffers)
{
    Py_ssize_t string_count = strings == NULL ? 0 : PyDict_GET_SIZE(strings);
    Py_ssize_t count = string_count + (buffers == NULL ? 0 : PyList_GET_SIZE(buffers));
    uint64_t size = (uint64_t)count * sizeof(uint64_t) + packed->head.stream_bytes;
    open_buffer *opened = PyMem_Calloc((size_t)count + 1, sizeof(open_buffer));
    Py_ssize_t open = 0;
    int rc = -1;
    if (opened == NULL) {
        PyErr_NoMemory();
    }
    else {
        rc = open_all(strings, buffers, opened, &open);
    }
    for (Py_ssize_t i = 0; i < open; i++) {
        size = wire_align(size) + (uint64_t)opened[i].view.len;
    }
    int claimed = rc == 0 ? region_claim(p->region, size, &packed->block) : SHM_OK;
    if (claimed != SHM_OK) {
        packed->block = NULL;
        raise_claim(claimed);
        rc = -1;
    }
    if (rc == 0) {
        unsigned char *payload = packed->block->payload;
        uint64_t at = (uint64_t)count * sizeof(uint64_t);
        for (Py_ssize_t i = 0; i < count; i++) {
            uint64_t word = (uint64_t)opened[i].view.len | ((uint64_t)opened[i].form << FORM_SHIFT);
            memcpy(payload + (uint64_t)i * sizeof(word), &word, sizeof(word));
        }
        if (packed->callable != NULL) {
            memcpy(payload + at, PyBytes_AS_STRING(packed->callable), packed->head.callable_bytes);
        }
        at += packed->head.callable_bytes;
        for (Py_ssize_t i = 0; i < string_count; i++) {
            memcpy(payload + at, string_opcodes, sizeof(string_opcodes));
            at += sizeof(string_opcodes);
        }
        memcpy(payload + at, PyBytes_AS_STRING(stream), (size_t)PyBytes_GET_SIZE(stream));
        at += (uint64_t)PyBytes_GET_SIZE(stream);
        // The sender may change its arrays as soon as it has the GIL back, as with a pickle; so it is kept.
        for (Py_ssize_t i = 0; i < count; i++) {
            at = wire_align(at);
            memcpy(payload + at, opened[i].view.buf, (size_t)opened[i].view.len);
            at += (uint64_t)opened[i].view.len;
        }
        packed->head.block = shm_block_name(packed->block);
        packed->head.buffer_count = (uint32_t)count;
        Py_CLEAR(packed->callable);
    }
    for (Py_ssize_t i = 0; i < open; i++) {
        PyBuffer_Release(&opened[i].view);
    }
    PyMem_Free(opened);
    return rc;
}

// Takes the pickle.
static int
pack(packer *p, PyObject *strings, pickled *made, packed_message *packed)
{
    int rc = 0;
    uint64_t opcodes = strings == NULL ? 0 : (uint64_t)PyDict_GET_SIZE(strings) * sizeof(string_opcodes);
    packed->head.stream_bytes =
        packed->head.callable_bytes + opcodes + (uint64_t)PyBytes_GET_SIZE(made->stream);
    if (strings != NULL || made->buffers != NULL || packed->head.stream_bytes > WIRE_INLINE_BYTES) {
        rc = fill_block(p, packed, strings, made->stream, made->buffers);
    }
    else {
        packed->stream = Py_NewRef(made->stream);
    }
    pickled_clear(made);
    return rc;
}

static int
pack_object(packer *p, PyObject *object, packed_message *packed)
{
    unsigned char scalars[SCALARS_BYTES_MAX];
    size_t scalars_bytes = object == NULL ? 0 : scalars_write(object, scalars, sizeof(scalars));
    pickled made = {NULL, NULL};
    PyObject *strings = NULL;
    int rc = object == NULL ? -1 : 0;
    if (scalars_bytes > 0) {
        packed->head.flags |= WIRE_SCALARS;
        made.stream = PyBytes_FromStringAndSize((char *)scalars, (Py_ssize_t)scalars_bytes);
        rc = made.stream == NULL ? -1 : 0;
    }
    else if (rc == 0) {
        rc = large_strings_find(object, &strings);
        rc = rc < 0 ? -1 : pickle_object(&p->pickler, object, strings, &made);
    }
    if (rc < 0 || pack(p, strings, &made, packed) < 0) {
        packed_message_drop(packed, p->region, false);
        rc = -1;
    }
    Py_XDECREF(strings);
    return rc;
}

// 1: the callable has a number, and its pickle is in the packed_message.  0: it has to travel with its
// arguments.  -1: an exception.
static int
pack_callable(packer *p, PyObject *callable, packed_message *packed)
{
    int rc = callable_cache_find(&p->callables, &p->pickler, callable, &packed->head.callable_id,
                                 &packed->callable);
    if (rc == 1) {
        packed->head.callable_bytes = (uint32_t)PyBytes_GET_SIZE(packed->callable);
    }
    return rc;
}

int
codec_pack_call(packer *p, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, PyObject *name,
                packed_message *packed)
{
    Py_ssize_t named = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    memset(packed, 0, sizeof(*packed));
    int numbered = pack_callable(p, args[0], packed);
    if (numbered < 0) {
        return -1;
    }
    PyObject *positional = PyTuple_New(nargs - 1);
    PyObject *keywords = named > 0 ? PyDict_New() : NULL;
    PyObject *call = NULL;
    int rc = positional == NULL || (named > 0 && keywords == NULL) ? -1 : 0;
    for (Py_ssize_t i = 1; rc == 0 && i < nargs; i++) {
        PyTuple_SET_ITEM(positional, i - 1, Py_NewRef(args[i]));
    }
    for (Py_ssize_t i = 0; rc == 0 && i < named; i++) {
        rc = PyDict_SetItem(keywords, PyTuple_GET_ITEM(kwnames, i), args[nargs + i]);
    }
    if (rc == 0) {
        packed->head.kind = numbered ? WIRE_CALL : WIRE_WHOLE_CALL;
        packed->head.flags = numbered && named > 0 ? WIRE_KWARGS : 0;
        call = !numbered   ? PyTuple_Pack(3, args[0], positional, named > 0 ? keywords : Py_None)
               : named > 0 ? PyTuple_Pack(2, positional, keywords)
                           : Py_NewRef(positional);
    }
    if (call != NULL && name != NULL) {
        packed->head.flags |= WIRE_NAMED;
        Py_SETREF(call, PyTuple_Pack(2, name, call));
    }
    if (call == NULL) {
        packed_message_drop(packed, p->region, false);
        rc = -1;
    }
    else {
        rc = pack_object(p, call, packed);
    }
    Py_XDECREF(call);
    Py_XDECREF(keywords);
    Py_XDECREF(positional);
    return rc;
}

int
codec_pack_chunk(packer *p, PyObject *callable, PyObject *items, unsigned flags, packed_message *packed)
{
    memset(packed, 0, sizeof(*packed));
    int numbered = pack_callable(p, callable, packed);
    if (numbered < 0) {
        return -1;
    }
    packed->head.kind = WIRE_CHUNK;
    packed->head.flags = (uint16_t)flags;
    if (numbered) {
        return pack_object(p, items, packed);
    }
    PyObject *pair = PyTuple_Pack(2, callable, items);
    int rc = pack_object(p, pair, packed);
    Py_XDECREF(pair);
    return rc;
}

int
codec_pack_outcome(packer *p, wire_kind kind, PyObject *value, packed_message *packed)
{
    memset(packed, 0, sizeof(*packed));
    packed->head.kind = (uint16_t)kind;
    if (kind == WIRE_RESULT && value == Py_None) {
        packed->head.kind = WIRE_NONE;
        return 0;
    }
    return pack_object(p, value, packed);
}

void
packed_message_write(const packed_message *packed, unsigned char *message)
{
    unsigned char *stream = message + sizeof(wire);
    memcpy(message, &packed->head, sizeof(wire));
    if (packed->callable != NULL) {
        memcpy(stream, PyBytes_AS_STRING(packed->callable), packed->head.callable_bytes);
    }
    if (packed->stream != NULL) {
        memcpy(stream + packed->head.callable_bytes, PyBytes_AS_STRING(packed->stream),
               (size_t)PyBytes_GET_SIZE(packed->stream));
    }
}

void
packed_message_drop(packed_message *packed, RegionObject *region, bool sent)
{
    Py_CLEAR(packed->callable);
    Py_CLEAR(packed->stream);
    if (packed->block != NULL && sent) {
        shm_block_sent(packed->block);
    }
    else if (packed->block != NULL) {
        shm_block_release(packed->block, region_me(region));
    }
    packed->block = NULL;
}

// ---- unpacking ----

static PyObject *
complain(void)
{
    PyErr_SetString(PyExc_ValueError, "a message from another process is damaged");
    return NULL;
}

static PyObject *
make_str(int kind, const char *start, uint64_t size)
{
    if (size % (uint64_t)kind != 0) {
        return complain();
    }
    PyObject *made = PyUnicode_FromKindAndData(kind, start, (Py_ssize_t)size / kind);
    if (made != NULL && PyUnicode_KIND(made) == PyUnicode_4BYTE_KIND) {
        // Nobody else looks whether the numbers are those of characters.
        Py_UCS4 largest = 0;
        for (Py_ssize_t i = 0; i < PyUnicode_GET_LENGTH(made); i++) {
            Py_UCS4 character = PyUnicode_4BYTE_DATA(made)[i];
            largest = character > largest ? character : largest;
        }
        if (largest > 0x10FFFF) {
            Py_DECREF(made);
            return complain();
        }
    }
    return made;
}

// What is made of one buffer of a block; a Block only if it is not small, so that it keeps nothing else.
static PyObject *
make_buffer(BlockObject *whole, uint64_t at, uint64_t size, buffer_form form)
{
    const char *start = (const char *)whole->start + at;
    bool is_block = form <= FORM_READONLY && size > SHM_SMALL_BYTES;
    if (is_block) {
        return (PyObject *)block_part(whole, at, size, form == FORM_READONLY);
    }
    switch (form) {
    case FORM_BLOCK:
    case FORM_BYTEARRAY:
        return PyByteArray_FromStringAndSize(start, (Py_ssize_t)size);
    case FORM_READONLY:
    case FORM_BYTES:
        return PyBytes_FromStringAndSize(start, (Py_ssize_t)size);
    case FORM_STR_1:
        return make_str(1, start, size);
    case FORM_STR_2:
        return make_str(2, start, size);
    case FORM_STR_4:
        return make_str(4, start, size);
    default:
        return complain();
    }
}

// The buffers of a block, in a list.
static PyObject *
list_buffers(BlockObject *whole, const wire *message)
{
    uint64_t at = message->buffer_count * sizeof(uint64_t) + message->stream_bytes;
    PyObject *buffers = PyList_New(message->buffer_count);
    for (uint32_t i = 0; buffers != NULL && i < message->buffer_count; i++) {
        uint64_t word;
        memcpy(&word, whole->start + i * sizeof(word), sizeof(word));
        uint64_t size = word & SIZE_MASK;
        at = wire_align(at);
        bool fits = at <= (uint64_t)whole->size_bytes && size <= (uint64_t)whole->size_bytes - at;
        buffer_form form = (buffer_form)(word >> FORM_SHIFT);
        PyObject *buffer = fits ? make_buffer(whole, at, size, form) : complain();
        if (buffer == NULL) {
            Py_CLEAR(buffers);
            break;
        }
        PyList_SET_ITEM(buffers, i, buffer);
        at += size;
    }
    return buffers;
}

// A view of bytes that the owner, if it is not NULL, keeps alive.
static PyObject *
view_of(BlockObject *owner, const unsigned char *start, uint64_t size)
{
    if (owner == NULL) {
        return PyMemoryView_FromMemory((char *)start, (Py_ssize_t)size, PyBUF_READ);
    }
    BlockObject *part = block_part(owner, (uint64_t)(start - owner->start), size, true);
    PyObject *view = part == NULL ? NULL : PyMemoryView_FromObject((PyObject *)part);
    Py_XDECREF((PyObject *)part);
    return view;
}

int
codec_unpack(module_state *state, const wire *message, BlockObject *whole, unpacked_message *found)
{
    PyObject *buffers = NULL, *stream = NULL;
    const unsigned char *start = (const unsigned char *)(message + 1);
    *found = (unpacked_message){
        .kind = message->kind, .flags = message->flags, .callable_id = message->callable_id};
    if (message->block != 0) {
        if (whole == NULL) {
            PyErr_SetString(PyExc_MemoryError,
                            "what another process sent cannot be mapped, or its message is damaged");
            return -1;
        }
        buffers = list_buffers(whole, message);
        if (buffers == NULL) {
            goto done;
        }
        start = whole->start + message->buffer_count * sizeof(uint64_t);
    }
    if (message->callable_bytes > 0) {
        found->callable = view_of(whole, start, message->callable_bytes);
        if (found->callable == NULL) {
            goto done;
        }
    }
    if (message->kind == WIRE_NONE) {
        found->value = Py_NewRef(Py_None);
        goto done;
    }
    if (message->kind == WIRE_NO_MEMORY) {
        PyErr_NoMemory();
        goto done;
    }
    start += message->callable_bytes;
    uint64_t size = message->stream_bytes - message->callable_bytes;
    if (message->flags & WIRE_SCALARS) {
        found->value = scalars_read(start, size);
        goto done;
    }
    stream = view_of(whole, start, size);
    if (stream != NULL && (buffers == NULL || PyList_GET_SIZE(buffers) == 0)) {
        found->value = PyObject_CallOneArg(state->pickle_loads, stream);
    }
    else if (stream != NULL) {
        PyObject *args[] = {NULL, stream, buffers};
        found->value = PyObject_Vectorcall(state->pickle_loads, args + 1, 1 | PY_VECTORCALL_ARGUMENTS_OFFSET,
                                           state->buffers_names);
    }
done:
    Py_XDECREF(stream);
    Py_XDECREF(buffers);
    return found->value == NULL ? -1 : 0;
}

void
packer_ask(packer *p, PyObject *by_value)
{
    Py_XINCREF(by_value);
    Py_XSETREF(p->pickler.by_value, by_value);
    Py_CLEAR(p->callables.known);
}

int
packer_traverse(const packer *p, visitproc visit, void *arg)
{
    Py_VISIT(p->callables.known);
    Py_VISIT(p->pickler.by_value);
    return 0;
}

void
packer_clear(packer *p)
{
    packer_ask(p, NULL);
}
