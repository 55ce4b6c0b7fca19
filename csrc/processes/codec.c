#include "codec.h"

#include <string.h>

#include "base/scalars.h"

#define PROTOCOL 5
// A larger pickle of a callable is not worth a place in every message.
#define CALLABLE_BYTES_MAX 16384
// How many functions deep a closure is looked into.
#define CLOSURE_DEPTH_MAX 4
// A string of so many bytes travels beside the pickle, see codec.h.  Measured by calls on Python 3.11: bytes
// of this size take 4.6 microseconds as an argument and 4.7 as a result, where in the stream they take 7.5
// and 4.7; of half the size 3.9 and 4.0 beside 4.6 and 3.3; of 1 MB 35 beside 570 and 520.
#define LARGE_STRING_BYTES (64 << 10)
// How deep, among how many items of each container since the last one that was found, and among how many
// objects in all, such a string is looked for.
#define LARGE_STRING_DEPTH 5
#define LARGE_STRING_ITEMS 16
#define LARGE_STRING_LOOKS 64
// A buffer of so few bytes stays in the pickle, which may then fit into a slot.
// Measured with benchmarks/constants.py: with 64, or with 16384, an argument of 800 bytes takes 20 to 24 us
// and not 18.
#define IN_BAND_BYTES 1024
#define BUFFER_ALIGNMENT 64

// What is made of a buffer on the other side; in the highest bits of its size.
typedef enum buffer_form {
    FORM_BLOCK = 0,  // a Block, as of all that only pickle has to do with
    FORM_READONLY,   // a Block that is read-only
    FORM_BYTES,      // what the names say, and a str of so many bytes a character
    FORM_BYTEARRAY,
    FORM_STR_1,
    FORM_STR_2,
    FORM_STR_4,
} buffer_form;

#define FORM_SHIFT 61
#define SIZE_MASK ((UINT64_C(1) << FORM_SHIFT) - 1)

// A large string in front of a pickle: NEXT_BUFFER, MEMOIZE, POP.
static const char string_opcodes[] = {'\x97', '\x94', '0'};

static uint64_t
align(uint64_t bytes)
{
    return (bytes + BUFFER_ALIGNMENT - 1) & ~(uint64_t)(BUFFER_ALIGNMENT - 1);
}

// ---- pickling ----

typedef struct pickled {
    PyObject *stream;   // bytes
    PyObject *buffers;  // list of PickleBuffers, or NULL
} pickled;

static void
pickled_clear(pickled *p)
{
    Py_CLEAR(p->stream);
    Py_CLEAR(p->buffers);
}

PyObject *
codec_call(const char *function, PyObject *argument, PyObject *second, PyObject *third, PyObject *fourth)
{
    PyObject *module = PyImport_ImportModule("pyconc._process.pickling");
    PyObject *callable = module == NULL ? NULL : PyObject_GetAttrString(module, function);
    PyObject *result = NULL;
    if (callable != NULL) {
        result = PyObject_CallFunctionObjArgs(callable, argument, second, third, fourth, NULL);
    }
    Py_XDECREF(callable);
    Py_XDECREF(module);
    return result;
}

bool
codec_was_interrupted(void)
{
    if (PyErr_ExceptionMatches(PyExc_KeyboardInterrupt)) {
        return true;
    }
    PyObject *error = PyErr_GetRaisedException();
    PyObject *module = PyImport_ImportModule("pyconc._process.interruption");
    PyObject *answer = module == NULL ? NULL : PyObject_CallMethod(module, "is_from_handler", "O", error);
    Py_XDECREF(module);
    if (answer == NULL) {
        Py_DECREF(error);
        return true;  // by another one
    }
    PyErr_SetRaisedException(error);
    bool interrupted = answer == Py_True;
    Py_DECREF(answer);
    return interrupted;
}

// Tries other ways to pickle; if the plain one has failed, its exception is set.  by_value and beside may be
// NULL.
static int
pickle_otherwise(PyObject *by_value, PyObject *object, const char *how, PyObject *beside, pickled *result)
{
    PyObject *error = PyErr_GetRaisedException();
    by_value = Py_NewRef(by_value == NULL ? Py_None : by_value);  // another thread may replace it meanwhile
    PyObject *pair = codec_call(how, object, error == NULL ? Py_None : error, by_value, beside);
    Py_DECREF(by_value);
    Py_XDECREF(error);
    if (pair == NULL) {
        return -1;
    }
    PyObject *stream, *buffers;
    int ok = PyArg_ParseTuple(pair, "O!O!", &PyBytes_Type, &stream, &PyList_Type, &buffers);
    if (ok) {
        result->stream = Py_NewRef(stream);
        result->buffers = PyList_GET_SIZE(buffers) > 0 ? Py_NewRef(buffers) : NULL;
    }
    Py_DECREF(pair);
    return ok ? 0 : -1;
}

// The pickler's buffer_callback, a method of the list of buffers: true leaves a buffer in the pickle.
static PyObject *
take_buffer(PyObject *buffers, PyObject *buffer)
{
    const Py_buffer *view = PyPickleBuffer_GetBuffer(buffer);
    if (view == NULL || (view->len > IN_BAND_BYTES && PyList_Append(buffers, buffer) < 0)) {
        return NULL;
    }
    return PyBool_FromLong(view->len <= IN_BAND_BYTES);
}

static PyMethodDef take_buffer_method = {"take_buffer", take_buffer, METH_O, NULL};

static int
find_registered(module_state *state)
{
    PyObject *module = PyImport_ImportModule("pyconc._process.pickling");
    PyObject *reducers = module == NULL ? NULL : PyObject_GetAttrString(module, "registered_reducers");
    PyObject *types = reducers == NULL ? NULL : PyObject_GetAttrString(module, "shared_types");
    Py_XDECREF(module);
    if (types == NULL) {
        Py_XDECREF(reducers);
        return -1;
    }
    Py_XSETREF(state->registered_reducers, reducers);
    Py_XSETREF(state->shared_types, types);
    return 0;
}

// Whether the program has registered types with multiprocessing's pickler, as torch does with tensors.  0, 1,
// or -1 with an exception.
static int
honours_reducers(module_state *state)
{
    if (state->registered_reducers == NULL && find_registered(state) < 0) {
        return -1;
    }
    Py_ssize_t size = PyDict_Size(state->registered_reducers);
    if (size != state->reducers_seen) {
        PyObject *answer = NULL;
        if (size >= 0) {
            answer = codec_call("are_own", state->registered_reducers, NULL, NULL, NULL);
        }
        int own = answer == NULL ? -1 : PyObject_IsTrue(answer);
        Py_XDECREF(answer);
        if (own < 0) {
            return -1;
        }
        state->reducers_seen = size;
        state->uses_reducers = own;
    }
    return state->uses_reducers;
}

// How deep in tuples, lists and dicts a shared object is looked for, and at how many items of each.
#define SHARED_DEPTH 4
#define SHARED_ITEMS 8

static bool holds_shared(PyObject *types, PyObject *object, int depth);

static bool
items_hold_shared(PyObject *types, PyObject *object, int depth)
{
    bool found = false;
    if (PyDict_CheckExact(object)) {
        PyObject *key, *value;
        Py_ssize_t at = 0;
        for (int i = 0; !found && i < SHARED_ITEMS && PyDict_Next(object, &at, &key, &value); i++) {
            found = holds_shared(types, value, depth);
        }
    }
    else if (PyTuple_CheckExact(object) || PyList_CheckExact(object)) {
        for (Py_ssize_t i = 0; !found && i < SHARED_ITEMS && i < PySequence_Fast_GET_SIZE(object); i++) {
            found = holds_shared(types, PySequence_Fast_GET_ITEM(object, i), depth);
        }
    }
    return found;
}

// Whether an object is one of pyconc.shared, or a method of one, or has one in it.  It calls no Python.
static bool
holds_shared(PyObject *types, PyObject *object, int depth)
{
    PyTypeObject *type = Py_TYPE(object);
    if (type == &PyCFunction_Type || type == &PyMethod_Type) {
        PyObject *owner = type == &PyMethod_Type ? PyMethod_GET_SELF(object) : PyCFunction_GET_SELF(object);
        return owner != NULL && !PyModule_CheckExact(owner) && depth > 0 && holds_shared(types, owner, 0);
    }
    bool calls_none = Py_TYPE(type)->tp_hash == PyType_Type.tp_hash;
    return (calls_none && PySet_Contains(types, (PyObject *)type) == 1)
           || (depth > 0 && items_hold_shared(types, object, depth - 1));
}

// A search for large strings, of the types themselves.
typedef struct string_search {
    PyObject *found;  // dict: the id of each to (its number, the string), which is a pickler's memo; or NULL
    int looks;        // so many more
} string_search;

static bool
is_large_string(PyObject *object)
{
    Py_ssize_t size = PyBytes_CheckExact(object)       ? PyBytes_GET_SIZE(object)
                      : PyUnicode_CheckExact(object)   ? PyUnicode_GET_LENGTH(object) * PyUnicode_KIND(object)
                      : PyByteArray_CheckExact(object) ? PyByteArray_GET_SIZE(object)
                                                       : 0;
    return size >= LARGE_STRING_BYTES;
}

static int
add_string(PyObject *string, string_search *search)
{
    if (search->found == NULL && (search->found = PyDict_New()) == NULL) {
        return -1;
    }
    Py_ssize_t number = PyDict_GET_SIZE(search->found);
    PyObject *id = PyLong_FromVoidPtr(string);
    PyObject *entry = Py_BuildValue("(nO)", number, string);
    int rc = id == NULL || entry == NULL || PyDict_SetDefault(search->found, id, entry) == NULL ? -1 : 0;
    Py_XDECREF(entry);
    Py_XDECREF(id);
    if (PyDict_GET_SIZE(search->found) > number) {  // or a container that holds itself is looked at for ever
        search->looks = LARGE_STRING_LOOKS;
    }
    return rc;
}

static int find_strings(PyObject *object, int depth, string_search *search);

// Whether an object is a large string, or may have one in it: of most that is seen by their type.
static bool
may_hold_string(PyObject *object)
{
    const unsigned long containers =
        Py_TPFLAGS_TUPLE_SUBCLASS | Py_TPFLAGS_LIST_SUBCLASS | Py_TPFLAGS_DICT_SUBCLASS;
    return PyType_HasFeature(Py_TYPE(object), containers) || is_large_string(object);
}

// Looks at the item of a container, unless the `last` one that held a string is too far back.  1: go on; 0:
// that is so; -1: an exception.
static int
find_in_item(PyObject *item, Py_ssize_t number, Py_ssize_t *last, int depth, string_search *search)
{
    if (number - *last >= LARGE_STRING_ITEMS || --search->looks < 0) {
        return 0;
    }
    if (!may_hold_string(item)) {
        return 1;
    }
    Py_INCREF(item);  // memory is allocated, so any code may run and change the container
    int rc = find_strings(item, depth - 1, search);
    Py_DECREF(item);
    *last = rc == 1 ? number + 1 : *last;
    return rc < 0 ? -1 : 1;
}

// Finds the large strings that an object is, or has in it.  1: there are some; 0; -1: an exception.
//
// It looks only into lists, tuples and dicts, which pickle together with all that they refer to.
static int
find_strings(PyObject *object, int depth, string_search *search)
{
    if (is_large_string(object)) {
        return add_string(object, search) < 0 ? -1 : 1;
    }
    if (depth == 0) {
        return 0;
    }
    Py_ssize_t last = 0;
    int rc = 1;
    if (PyTuple_CheckExact(object) || PyList_CheckExact(object)) {
        for (Py_ssize_t i = 0; rc == 1 && i < PySequence_Fast_GET_SIZE(object); i++) {
            rc = find_in_item(PySequence_Fast_GET_ITEM(object, i), i, &last, depth, search);
        }
    }
    else if (PyDict_CheckExact(object)) {
        PyObject *key, *value;
        Py_ssize_t at = 0;
        for (Py_ssize_t i = 0; rc == 1 && PyDict_Next(object, &at, &key, &value); i++) {
            rc = find_in_item(value, i, &last, depth, search);
        }
    }
    return rc < 0 ? -1 : last > 0;
}

static bool
mentions(PyObject *stream, const char *name)
{
    return memmem(PyBytes_AS_STRING(stream), (size_t)PyBytes_GET_SIZE(stream), name, strlen(name)) != NULL;
}

static int
pickle_unregistered(module_state *state, PyObject *object, PyObject *beside, pickled *result)
{
    if (beside != NULL) {
        return pickle_otherwise(NULL, object, "dumps_plainly", beside, result);
    }
    PyObject *buffers = PyList_New(0);
    PyObject *callback = buffers == NULL ? NULL : PyCFunction_New(&take_buffer_method, buffers);
    if (callback == NULL) {
        Py_XDECREF(buffers);
        return -1;
    }
    PyObject *args[] = {NULL, object, state->pickle_protocol, callback};
    result->stream = PyObject_Vectorcall(state->pickle_dumps, args + 1,
                                         2 | PY_VECTORCALL_ARGUMENTS_OFFSET, state->buffer_callback_names);
    Py_DECREF(callback);
    if (result->stream == NULL || PyList_GET_SIZE(buffers) == 0) {
        Py_CLEAR(buffers);
    }
    result->buffers = buffers;
    if (result->stream != NULL && !PyBytes_CheckExact(result->stream)) {
        PyErr_SetString(PyExc_TypeError, "pickle.dumps() did not return bytes");
        pickled_clear(result);
    }
    return result->stream == NULL ? -1 : 0;
}

// Of multiprocessing's own types, plain pickle refuses those that it cannot hand over, with one exception: of
// a connection it writes the number of its descriptor, which is another file elsewhere.  It refuses those of
// pyconc.shared as well, which are arguments so often that it is not asked first.
static int
pickle_plainly(module_state *state, PyObject *object, PyObject *beside, pickled *result)
{
    int own = honours_reducers(state);
    bool is_refused = own == 0 && PySet_GET_SIZE(state->shared_types) > 0
                      && holds_shared(state->shared_types, object, SHARED_DEPTH);
    if (own == 0 && !is_refused) {
        if (pickle_unregistered(state, object, beside, result) < 0) {
            return -1;
        }
        if (!mentions(result->stream, "multiprocessing.connection")) {
            return 0;
        }
        pickled_clear(result);
    }
    return own < 0 ? -1 : pickle_otherwise(NULL, object, "dumps_registered", beside, result);
}

// Whether an object with this pickle has to travel by value instead.  -1: an exception.
static int
must_go_by_value(const packer *p, PyObject *object, const pickled *made)
{
    if (p->by_value == NULL || !mentions(made->stream, "__main__")) {
        return 0;
    }
    PyObject *decides = Py_NewRef(p->by_value);
    PyObject *answer = PyObject_CallFunctionObjArgs(decides, object, made->stream, NULL);
    Py_DECREF(decides);
    int by_value = answer == NULL ? -1 : PyObject_IsTrue(answer);
    Py_XDECREF(answer);
    return by_value;
}

static int
pickle_object(packer *p, PyObject *object, PyObject *beside, pickled *result)
{
    if (pickle_plainly(p->module, object, beside, result) < 0) {
        if (!PyErr_ExceptionMatches(PyExc_Exception)) {
            return -1;
        }
        return pickle_otherwise(p->by_value, object, "dumps", beside, result);
    }
    int by_value = must_go_by_value(p, object, result);
    if (by_value == 0) {
        return 0;
    }
    pickled_clear(result);
    return by_value < 0 ? -1 : pickle_otherwise(p->by_value, object, "dumps_by_value", beside, result);
}

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
        size = align(size) + (uint64_t)opened[i].view.len;
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
            at = align(at);
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
    string_search search = {NULL, LARGE_STRING_LOOKS};
    int rc = object == NULL ? -1 : 0;
    if (scalars_bytes > 0) {
        packed->head.flags |= WIRE_SCALARS;
        made.stream = PyBytes_FromStringAndSize((char *)scalars, (Py_ssize_t)scalars_bytes);
        rc = made.stream == NULL ? -1 : 0;
    }
    else if (rc == 0) {
        rc = find_strings(object, LARGE_STRING_DEPTH, &search);
        rc = rc < 0 ? -1 : pickle_object(p, object, search.found, &made);
    }
    if (rc < 0 || pack(p, search.found, &made, packed) < 0) {
        packed_message_drop(packed, p->region, false);
        rc = -1;
    }
    Py_XDECREF(search.found);
    return rc;
}

// Whether the pickle of such an object is but a name.
static bool
may_be_a_name(PyObject *callable)
{
    if (PyCFunction_CheckExact(callable)) {
        PyObject *self = PyCFunction_GET_SELF(callable);
        return self == NULL || PyModule_Check(self);
    }
    return PyFunction_Check(callable) || Py_IS_TYPE(callable, &PyType_Type);
}

// Adds what a function's closure refers to, directly or by other functions, to a list.  1: none of it can
// change; 0: some may; -1: an exception.
static int
list_closure(PyObject *function, PyObject *found, int depth)
{
    PyObject *cells = PyFunction_GET_CLOSURE(function);
    Py_ssize_t count = cells == NULL ? 0 : PyTuple_GET_SIZE(cells);
    int constant = depth <= CLOSURE_DEPTH_MAX;
    for (Py_ssize_t i = 0; constant == 1 && i < count; i++) {
        PyObject *value = PyCell_Get(PyTuple_GET_ITEM(cells, i));
        if (value == NULL) {
            return 0;
        }
        bool atomic = value == Py_None || PyBool_Check(value) || PyLong_CheckExact(value)
                      || PyFloat_CheckExact(value) || PyUnicode_CheckExact(value) || PyBytes_CheckExact(value)
                      || PyModule_CheckExact(value) || PyType_Check(value) || PyCFunction_CheckExact(value);
        // What may lead back to the executor is not kept alive by it; as long as it lives, its reference is
        // one.
        bool refers = PyFunction_Check(value) || PyModule_Check(value) || PyType_Check(value)
                      || PyCFunction_Check(value);
        PyObject *kept = refers ? PyWeakref_NewRef(value, NULL) : Py_NewRef(value);
        constant = kept == NULL || PyList_Append(found, kept) < 0 ? -1 : atomic;
        Py_XDECREF(kept);
        if (constant == 0 && PyFunction_Check(value)) {
            constant = list_closure(value, found, depth + 1);
        }
        Py_DECREF(value);
    }
    return constant;
}

// What the closure of a callable refers to, as a list, empty if there is none; NULL without an exception if
// that may change.
static PyObject *
constant_closure(PyObject *callable)
{
    PyObject *found = PyList_New(0);
    int constant = found == NULL ? -1 : !PyFunction_Check(callable) ? 1
                                                                    : list_closure(callable, found, 0);
    if (constant < 1) {
        Py_CLEAR(found);
    }
    return found;
}

static bool
have_same_items(PyObject *list, PyObject *other)
{
    Py_ssize_t size = PyList_GET_SIZE(list);
    bool same = size == PyList_GET_SIZE(other);
    for (Py_ssize_t i = 0; same && i < size; i++) {
        same = PyList_GET_ITEM(list, i) == PyList_GET_ITEM(other, i);
    }
    return same;
}

// Pickles a callable by itself.  1, with what its closure refers to, or with None if it goes by name, so that
// this does not matter; 0: it cannot be pickled, or that would not do; -1: an exception.
static int
pickle_callable(packer *p, PyObject *callable, pickled *made, PyObject **closure)
{
    const char *how = "dumps";
    *closure = NULL;
    if (pickle_plainly(p->module, callable, NULL, made) == 0) {
        int by_value = must_go_by_value(p, callable, made);
        if (by_value == 0) {
            *closure = Py_NewRef(Py_None);
            return 1;
        }
        pickled_clear(made);
        how = "dumps_by_value";
    }
    if (PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_Exception) || codec_was_interrupted()) {
            return -1;
        }
        PyErr_Clear();
    }
    *closure = constant_closure(callable);
    if (*closure != NULL && pickle_otherwise(p->by_value, callable, how, NULL, made) == 0) {
        return 1;
    }
    Py_CLEAR(*closure);
    if (PyErr_Occurred() && (!PyErr_ExceptionMatches(PyExc_Exception) || codec_was_interrupted())) {
        return -1;
    }
    PyErr_Clear();
    return 0;  // The whole call will be pickled, and raise what there is to be raised.
}

// Gives a callable, and its weak reference, a number.  Returns its entry in the cache; NULL without an
// exception: it has none.
static PyObject *
number_callable(packer *p, PyObject *callable, PyObject *reference)
{
    callable_cache *cache = &p->callables;
    pickled made = {NULL, NULL};
    PyObject *closure, *entry = NULL;
    if (cache->next_id == UINT32_MAX || pickle_callable(p, callable, &made, &closure) < 1) {
        return NULL;
    }
    bool keeps = made.buffers == NULL && PyBytes_GET_SIZE(made.stream) <= CALLABLE_BYTES_MAX;
    if (keeps && cache->known != NULL && PyDict_GET_SIZE(cache->known) >= CALLABLES_MAX) {
        PyDict_Clear(cache->known);
    }
    if (keeps && (cache->known != NULL || (cache->known = PyDict_New()) != NULL)) {
        entry = Py_BuildValue("(IOO)", (unsigned)++cache->next_id, made.stream, closure);
    }
    if (entry != NULL && PyDict_SetItem(cache->known, reference, entry) < 0) {
        Py_CLEAR(entry);
    }
    pickled_clear(&made);
    Py_DECREF(closure);
    return entry;
}

// Whether an entry of the cache is still right.  -1: an exception.
static int
is_current(PyObject *entry, PyObject *callable)
{
    PyObject *then = PyTuple_GET_ITEM(entry, 2);
    if (then == Py_None) {
        return 1;
    }
    PyObject *now = constant_closure(callable);
    int current = now == NULL ? (PyErr_Occurred() ? -1 : 0) : have_same_items(then, now);
    Py_XDECREF(now);
    return current;
}

// 1: the callable has a number, and its pickle is in the packed_message.  0: it has to travel with its
// arguments.  -1: an exception.
static int
pack_callable(packer *p, PyObject *callable, packed_message *packed)
{
    if (!may_be_a_name(callable)) {
        return 0;
    }
    // A callable has only one plain weak reference at a time, and the cache keeps that.
    PyObject *reference = PyWeakref_NewRef(callable, NULL);
    if (reference == NULL) {
        return -1;
    }
    PyObject *known = p->callables.known;
    PyObject *entry = known == NULL ? NULL : Py_XNewRef(PyDict_GetItemWithError(known, reference));
    int current = entry != NULL ? is_current(entry, callable) : PyErr_Occurred() ? -1
                                                                                 : 0;
    if (current != 1) {
        Py_XDECREF(entry);
        entry = current < 0 ? NULL : number_callable(p, callable, reference);
    }
    Py_DECREF(reference);
    if (entry == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    packed->head.callable_id = (uint32_t)PyLong_AsUnsignedLong(PyTuple_GET_ITEM(entry, 0));
    packed->callable = Py_NewRef(PyTuple_GET_ITEM(entry, 1));
    packed->head.callable_bytes = (uint32_t)PyBytes_GET_SIZE(packed->callable);
    Py_DECREF(entry);
    return 1;
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

size_t
wire_length(const unsigned char *message)
{
    const wire *head = (const wire *)message;
    if (head->kind < WIRE_CALL || head->kind > WIRE_EXPIRED || head->callable_bytes > head->stream_bytes
        || (head->block == 0 && (head->stream_bytes > WIRE_INLINE_BYTES || head->buffer_count != 0))) {
        return 0;
    }
    return sizeof(wire) + (head->block == 0 ? head->stream_bytes : 0);
}

shm_block *
wire_block(RegionObject *region, const wire *message)
{
    uint64_t sizes = (uint64_t)message->buffer_count * sizeof(uint64_t);
    if (message->block == 0 || message->stream_bytes > UINT64_MAX - sizes) {
        return NULL;
    }
    shm_block *block;
    int rc = shm_arena_find(&region->arena, message->block, sizes + message->stream_bytes, &block);
    return rc == SHM_OK ? block : NULL;
}

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
        at = align(at);
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
    Py_XSETREF(p->by_value, by_value);
    Py_CLEAR(p->callables.known);
}

int
packer_traverse(const packer *p, visitproc visit, void *arg)
{
    Py_VISIT(p->callables.known);
    Py_VISIT(p->by_value);
    return 0;
}

void
packer_clear(packer *p)
{
    packer_ask(p, NULL);
}
