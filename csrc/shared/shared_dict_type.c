#include "shared_dict_type.h"

#include <marshal.h>
#include <math.h>

#include "shared_container.h"
#include "shared_value.h"

#include "core/shared_dict.h"

// ---- keys ----

#define STR_TAG 'S'
#define BYTES_TAG 'B'
#define MARSHAL_TAG 'M'
#define MARSHAL_VERSION 2

// The plain form of a float, see plain_key() in pyconc/shared/_keys.py.
static PyObject *
plain_float(PyObject *key)
{
    double number = PyFloat_AS_DOUBLE(key);
    if (isnan(number)) {
        return PyFloat_FromDouble((double)NAN);  // one, of all that there are
    }
    // An int is the form of what equals one, as each does that has no bits left for a fraction.
    bool is_integer = fabs(number) < 0x1p63 ? (double)(int64_t)number == number : !isinf(number);
    return is_integer ? PyLong_FromDouble(number) : Py_NewRef(key);
}

static bool
is_own_form(PyObject *key)
{
    return PyUnicode_CheckExact(key) || PyLong_CheckExact(key) || PyBytes_CheckExact(key) || key == Py_None;
}

// The plain form of what is no tuple; NULL without an exception: the class is to say what it is.
static PyObject *
plain_scalar(PyObject *key)
{
    if (PyFloat_CheckExact(key)) {
        return plain_float(key);
    }
    if (PyBool_Check(key)) {
        return PyLong_FromLong(key == Py_True);
    }
    return is_own_form(key) ? Py_NewRef(key) : NULL;
}

// The same of a tuple of such.  One in it may be deep, and then recursion is Python's to judge.
static PyObject *
plain_tuple(PyObject *key)
{
    Py_ssize_t size = PyTuple_GET_SIZE(key);
    Py_ssize_t own = 0;
    while (own < size && is_own_form(PyTuple_GET_ITEM(key, own))) {
        own++;
    }
    if (own == size) {
        return Py_NewRef(key);
    }
    own = 0;
    PyObject *plain = PyTuple_New(size);
    for (Py_ssize_t i = 0; plain != NULL && i < size; i++) {
        PyObject *item = plain_scalar(PyTuple_GET_ITEM(key, i));
        if (item == NULL) {
            Py_CLEAR(plain);
            break;
        }
        own += item == PyTuple_GET_ITEM(key, i);
        PyTuple_SET_ITEM(plain, i, item);
    }
    if (own == size && plain != NULL) {
        Py_SETREF(plain, Py_NewRef(key));  // a float that is no integer is its own form, too
    }
    return plain;
}

// What is the same for all keys that equal this one.  NULL with an exception.
static PyObject *
plain_form(PyObject *op, PyObject *key)
{
    PyObject *plain = PyTuple_CheckExact(key) ? plain_tuple(key) : plain_scalar(key);
    return plain != NULL || PyErr_Occurred() ? plain : PyObject_CallMethod(op, "_plain_key", "(O)", key);
}

// Adds the bytes of a plain form; or its word, or those that are its value's as well, and then it shows
// itself.
static int
add_plain(shared_encoding *e, PyObject *plain, bool *is_value)
{
    int rc = shared_encoding_add_small(e, plain);
    *is_value = rc > 0;
    if (rc != 0) {
        return rc < 0 ? -1 : 0;
    }
    if (PyBytes_CheckExact(plain)) {
        *is_value = true;
        return shared_encoding_add_bytes(e, BYTES_TAG, PyBytes_AS_STRING(plain), PyBytes_GET_SIZE(plain));
    }
    bool is_str = PyUnicode_CheckExact(plain);
    PyObject *bytes = is_str ? PyUnicode_AsEncodedString(plain, "utf-8", "surrogatepass")
                             : PyMarshal_WriteObjectToString(plain, MARSHAL_VERSION);
    if (bytes == NULL) {
        return -1;
    }
    *is_value = is_str;
    rc = shared_encoding_add_bytes(e, is_str ? STR_TAG : MARSHAL_TAG, PyBytes_AS_STRING(bytes),
                                   PyBytes_GET_SIZE(bytes));
    Py_DECREF(bytes);
    return rc;
}

// Adds a key, and what it is shown as, if it is to go in.
static int
add_key(PyObject *op, shared_encoding *e, PyObject *key, bool is_shown)
{
    bool is_value;
    PyObject *plain = plain_form(op, key);
    if (plain == NULL) {
        return -1;
    }
    int rc = add_plain(e, plain, &is_value);
    bool is_own = plain == key;
    Py_DECREF(plain);
    if (rc < 0 || !is_shown) {
        return rc;
    }
    if (is_own && is_value) {
        shared_encoding_add_word(e, 0);
        return 0;
    }
    return shared_encoding_add_key(shared_state_of(op), e, key);
}

static int
encode_key(PyObject *op, shared_encoding *e, PyObject *key)
{
    if (shared_encoding_init(e, shared_cell_of(op)->heap, 1) < 0) {
        return -1;
    }
    if (add_key(op, e, key, false) < 0) {
        shared_encoding_fini(e);
        return -1;
    }
    shared_encoding_finish(e);
    return 0;
}

static int
add_pair(PyObject *op, shared_encoding *e, PyObject *key, PyObject *value)
{
    return add_key(op, e, key, true) < 0 ? -1 : shared_encoding_add(shared_state_of(op), e, value);
}

static int
encode_pair(PyObject *op, shared_encoding *e, PyObject *key, PyObject *value)
{
    if (shared_encoding_init(e, shared_cell_of(op)->heap, SHARED_DICT_PARTS) < 0) {
        return -1;
    }
    if (add_pair(op, e, key, value) < 0) {
        shared_encoding_fini(e);
        return -1;
    }
    shared_encoding_finish(e);
    return 0;
}

// Of the pair at a place, in the order of the keys.
static PyObject *
key_of(module_state *state, const shared_item *item, Py_ssize_t place)
{
    if (item->bytes != NULL && item->size > 0) {
        const char *bytes = (const char *)item->bytes + 1;
        Py_ssize_t size = (Py_ssize_t)item->size - 1;
        if (item->bytes[0] == STR_TAG) {
            return PyUnicode_DecodeUTF8(bytes, size, "surrogatepass");
        }
        if (item->bytes[0] == BYTES_TAG) {
            return PyBytes_FromStringAndSize(bytes, size);
        }
    }
    shared_origin origin = {.what = "key number {} of a shared Dict", .index = place};
    return shared_decode(state, item, origin);
}

// A value; without its key, of the pair at a place.
static shared_origin
from_key(PyObject *key, Py_ssize_t place)
{
    return (shared_origin){
        .what = key == NULL ? "value number {} of a shared Dict" : "the value of {} in a shared Dict",
        .key = key,
        .index = place,
    };
}

static void
raise_key_error(PyObject *key)
{
    // By hand: PyErr_SetObject() takes a tuple for several arguments.
    PyObject *error = PyObject_CallOneArg(PyExc_KeyError, key);
    if (error != NULL) {
        PyErr_SetObject(PyExc_KeyError, error);
        Py_DECREF(error);
    }
}

// ---- values ----

// With the lock: copies a value.  false: there is no memory, and nothing to free.
static bool
copy_value(shared_copies *c, const shared_run *dict, uint32_t place)
{
    if (!shared_copies_init(c, dict, 1)) {
        return false;
    }
    c->items[0] = shared_dict_get(dict, place, SHARED_DICT_VALUE);
    return shared_copies_take(c);
}

static bool
takes_one_or_two(const char *name, Py_ssize_t nargs)
{
    if (nargs != 1 && nargs != 2) {
        PyErr_Format(PyExc_TypeError, "%s() takes one or two arguments, not %zd", name, nargs);
        return false;
    }
    return true;
}

// ---- looking ----

// The value of a key.  0: there is none, and *value is NULL; -1: with an exception.
static int
look_up(PyObject *op, PyObject *key, PyObject **value)
{
    shared_run *dict = shared_run_of(op);
    shared_encoding e;
    shared_seen seen;
    shared_copies copied;
    bool is_copied = false;
    *value = NULL;
    if (encode_key(op, &e, key) < 0) {
        return -1;
    }
    int is_there = shared_dict_look(dict, e.items, &seen);
    if (is_there >= 0) {
        shared_encoding_fini(&e);
        *value = is_there ? shared_decode(shared_state_of(op), &seen.item, from_key(key, 0)) : NULL;
        return is_there && *value == NULL ? -1 : is_there;
    }
    if (shared_container_enter(op) < 0) {
        shared_encoding_fini(&e);
        return -1;
    }
    uint32_t place = shared_dict_find(dict, e.items);
    if (place != SHARED_DICT_NOWHERE) {
        is_copied = copy_value(&copied, dict, place);
    }
    shared_run_leave(dict);
    shared_encoding_fini(&e);
    if (place == SHARED_DICT_NOWHERE) {
        return 0;
    }
    *value = is_copied ? shared_decode_one(shared_state_of(op), &copied, from_key(key, 0)) : PyErr_NoMemory();
    return *value == NULL ? -1 : 1;
}

static PyObject *
dict_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    return shared_container_new(type, args, kwargs, &shared_dict_kind);
}

static Py_ssize_t
dict_length(PyObject *op)
{
    shared_run *dict = shared_run_of(op);
    Py_ssize_t count = (Py_ssize_t)shared_dict_look_count(dict);
    if (count < 0 && shared_container_enter(op) == 0) {
        count = shared_dict_count(dict);
        shared_run_leave(dict);
    }
    return count;
}

static PyObject *
dict_subscript(PyObject *op, PyObject *key)
{
    PyObject *value;
    if (look_up(op, key, &value) == 0) {
        // As a subclass of dict may have it.
        if (PyObject_HasAttrString((PyObject *)Py_TYPE(op), "__missing__")) {
            return PyObject_CallMethod(op, "__missing__", "(O)", key);
        }
        raise_key_error(key);
    }
    return value;
}

static int
dict_contains(PyObject *op, PyObject *key)
{
    shared_run *dict = shared_run_of(op);
    shared_encoding e;
    if (encode_key(op, &e, key) < 0) {
        return -1;
    }
    int is_there = shared_dict_look(dict, e.items, NULL);
    if (is_there < 0 && shared_container_enter(op) == 0) {
        is_there = shared_dict_find(dict, e.items) != SHARED_DICT_NOWHERE;
        shared_run_leave(dict);
    }
    shared_encoding_fini(&e);
    return is_there;
}

PyDoc_STRVAR(dict_get_doc,
"get($self, key, default=None, /)\n--\n\n"
"Return the value of a key; `default` if there is none. Raises TypeError for what can be no key.\n\n"
"    >>> ages = pyconc.shared.Dict(ann=30)\n"
"    >>> ages.get(\"ann\"), ages.get(\"bob\", 0)\n"
"    (30, 0)\n");

static PyObject *
dict_get(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    PyObject *value;
    if (!takes_one_or_two("get", nargs)) {
        return NULL;
    }
    if (look_up(op, args[0], &value) == 0) {
        return Py_NewRef(nargs == 2 ? args[1] : Py_None);
    }
    return value;
}

// ---- changing ----

static int
set_pair(PyObject *op, PyObject *key, PyObject *value)
{
    shared_run *dict = shared_run_of(op);
    shared_encoding e;
    if (encode_pair(op, &e, key, value) < 0) {
        return -1;
    }
    int rc = shared_container_enter(op);
    if (rc == 0) {
        rc = shared_dict_set(dict, e.items);
        shared_run_leave(dict);
        if (rc < 0) {
            shared_raise(rc);
        }
    }
    shared_encoding_fini(&e);
    return rc < 0 ? -1 : 0;
}

// Removes a key.  0: it is not there; 1: it is gone, with its value in `copied` if that is not NULL; -1: with
// an exception.
static int
take_out(PyObject *op, PyObject *key, shared_copies *copied)
{
    shared_run *dict = shared_run_of(op);
    shared_encoding e;
    int rc = 0;
    if (encode_key(op, &e, key) < 0) {
        return -1;
    }
    if (shared_container_enter(op) < 0) {
        shared_encoding_fini(&e);
        return -1;
    }
    uint32_t place = shared_dict_find(dict, e.items);
    if (place != SHARED_DICT_NOWHERE) {
        rc = copied == NULL || copy_value(copied, dict, place) ? shared_dict_remove(dict, place)
                                                               : SHARED_HEAP_FULL;
    }
    shared_run_leave(dict);
    shared_encoding_fini(&e);
    if (rc < 0) {
        shared_raise(rc);
        return -1;
    }
    return place != SHARED_DICT_NOWHERE;
}

static int
dict_ass_subscript(PyObject *op, PyObject *key, PyObject *value)
{
    if (value != NULL) {
        return set_pair(op, key, value);
    }
    int rc = take_out(op, key, NULL);
    if (rc == 0) {
        raise_key_error(key);
    }
    return rc > 0 ? 0 : -1;
}

PyDoc_STRVAR(dict_pop_doc,
"pop($self, key, default=..., /)\n--\n\n"
"Remove a key and return its value, as one step; `default` if it is not there. Raises KeyError, without.\n\n"
"A value that cannot be unpickled, an UnpicklingError, is removed all the same.\n\n"
"    >>> ages = pyconc.shared.Dict(ann=30)\n"
"    >>> ages.pop(\"ann\"), ages.pop(\"ann\", 0)\n"
"    (30, 0)\n");

static PyObject *
dict_pop(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    shared_copies copied;
    if (!takes_one_or_two("pop", nargs)) {
        return NULL;
    }
    int rc = take_out(op, args[0], &copied);
    if (rc > 0) {
        return shared_decode_one(shared_state_of(op), &copied, from_key(args[0], 0));
    }
    if (rc == 0 && nargs == 2) {
        return Py_NewRef(args[1]);
    }
    if (rc == 0) {
        raise_key_error(args[0]);
    }
    return NULL;
}

PyDoc_STRVAR(dict_popitem_doc,
"popitem($self, /)\n--\n\n"
"Remove the pair that came last and return it, as one step. Raises KeyError if there is none.\n\n"
"    >>> ages = pyconc.shared.Dict(ann=30, bob=40)\n"
"    >>> ages.popitem()\n"
"    ('bob', 40)\n");

static PyObject *
dict_popitem(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    shared_run *dict = shared_run_of(op);
    shared_copies copied;
    int rc = 0;
    if (shared_container_enter(op) < 0) {
        return NULL;
    }
    uint32_t place = shared_dict_last(dict);
    if (place != SHARED_DICT_NOWHERE) {
        bool is_copied = shared_copies_init(&copied, dict, 2);
        if (is_copied) {
            copied.items[0] = shared_dict_get(dict, place, SHARED_DICT_SHOWN);
            copied.items[1] = shared_dict_get(dict, place, SHARED_DICT_VALUE);
            is_copied = shared_copies_take(&copied);
        }
        rc = is_copied ? shared_dict_remove(dict, place) : SHARED_HEAP_FULL;
    }
    shared_run_leave(dict);
    if (rc < 0) {
        return shared_raise(rc);
    }
    if (place == SHARED_DICT_NOWHERE) {
        PyErr_SetString(PyExc_KeyError, "popitem(): dictionary is empty");
        return NULL;
    }
    PyObject *key = key_of(shared_state_of(op), &copied.items[0], -1);
    PyObject *value = NULL;
    if (key != NULL) {
        value = shared_decode(shared_state_of(op), &copied.items[1], from_key(key, 0));
    }
    shared_copies_fini(&copied);
    PyObject *pair = value == NULL ? NULL : PyTuple_Pack(2, key, value);
    Py_XDECREF(key);
    Py_XDECREF(value);
    return pair;
}

PyDoc_STRVAR(dict_setdefault_doc,
"setdefault($self, key, default=None, /)\n--\n\n"
"Return the value of a key, or else make `default` its value and return that, as one step.\n\n"
"Raises what setting it does; then nothing has changed.\n\n"
"    >>> ages = pyconc.shared.Dict(ann=30)\n"
"    >>> ages.setdefault(\"ann\", 1), ages.setdefault(\"bob\", 40)\n"
"    (30, 40)\n");

static PyObject *
dict_setdefault(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    shared_run *dict = shared_run_of(op);
    PyObject *value;
    shared_encoding e;
    shared_copies copied;
    if (!takes_one_or_two("setdefault", nargs)) {
        return NULL;
    }
    // So a key that is there costs no pickle of the default, which may have none.
    int rc = look_up(op, args[0], &value);
    if (rc != 0) {
        return value;
    }
    value = nargs == 2 ? args[1] : Py_None;
    if (encode_pair(op, &e, args[0], value) < 0) {
        return NULL;
    }
    if (shared_container_enter(op) < 0) {
        shared_encoding_fini(&e);
        return NULL;
    }
    uint32_t place = shared_dict_find(dict, e.items);
    if (place == SHARED_DICT_NOWHERE) {
        rc = shared_dict_set(dict, e.items);
    }
    else if (!copy_value(&copied, dict, place)) {
        rc = SHARED_HEAP_FULL;
    }
    shared_run_leave(dict);
    shared_encoding_fini(&e);
    if (rc < 0) {
        return shared_raise(rc);
    }
    if (place == SHARED_DICT_NOWHERE) {
        return Py_NewRef(value);
    }
    return shared_decode_one(shared_state_of(op), &copied, from_key(args[0], 0));
}

// Adds as one step if the key is missing, or both are small ints.  0: neither, and *old is the value,
// *version the dict's; 1: done; -1: with an exception.
static int
add_small(PyObject *op, PyObject *key, PyObject *n, PyObject **old, uint64_t *version)
{
    shared_run *dict = shared_run_of(op);
    shared_encoding e;
    shared_copies copied;
    int rc = 0;
    if (encode_pair(op, &e, key, n) < 0) {
        return -1;
    }
    if (shared_container_enter(op) < 0) {
        shared_encoding_fini(&e);
        return -1;
    }
    bool is_done = true;
    *version = shared_run_version(dict);
    uint32_t place = shared_dict_find(dict, e.items);
    if (place == SHARED_DICT_NOWHERE) {
        rc = shared_dict_set(dict, e.items);
    }
    else if (!copy_value(&copied, dict, place)) {
        rc = SHARED_HEAP_FULL;
    }
    else {
        shared_item *value = &e.items[SHARED_DICT_VALUE];
        uint64_t sum = shared_word_sum(&copied.items[0], value);
        is_done = sum != 0;
        if (is_done) {
            *value = (shared_item){.word = sum};
            rc = shared_dict_set(dict, e.items);
        }
    }
    shared_run_leave(dict);
    shared_encoding_fini(&e);
    if (rc < 0) {
        shared_raise(rc);
        return -1;
    }
    *old = place == SHARED_DICT_NOWHERE ? PyLong_FromLong(0)
                                        : shared_decode_one(shared_state_of(op), &copied, from_key(key, 0));
    return *old == NULL ? -1 : is_done;
}

// Sets a value if the dict is of this version.  0: it is not; -1: with an exception.
static int
set_if_same(PyObject *op, PyObject *key, PyObject *value, uint64_t version)
{
    shared_run *dict = shared_run_of(op);
    shared_encoding e;
    if (encode_pair(op, &e, key, value) < 0) {
        return -1;
    }
    int rc = shared_container_enter(op);
    bool is_same = false;
    if (rc == 0) {
        is_same = version == shared_run_version(dict);
        rc = is_same ? shared_dict_set(dict, e.items) : 0;
        shared_run_leave(dict);
        if (rc < 0) {
            shared_raise(rc);
        }
    }
    shared_encoding_fini(&e);
    return rc < 0 ? -1 : is_same;
}

PyDoc_STRVAR(dict_add_doc,
"add($self, key, n=1, /)\n--\n\n"
"Add n to the value of a key, which is 0 if it is missing, as one step; return the value before.\n\n"
"Raises what `+` and setting do; then nothing has changed. Values other than small ints are added anew if\n"
"others change the dict meanwhile, so that may not end as long as they do all the time.\n\n"
"    >>> hits = pyconc.shared.Dict()\n"
"    >>> hits.add(\"home\"), hits.add(\"home\", 2), hits[\"home\"]\n"
"    (0, 1, 3)\n");

static PyObject *
dict_add(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    PyObject *old = NULL;
    uint64_t version;
    if (!takes_one_or_two("add", nargs)) {
        return NULL;
    }
    PyObject *n = nargs == 2 ? Py_NewRef(args[1]) : PyLong_FromLong(1);
    int rc = n == NULL ? -1 : 0;
    while (rc == 0) {
        Py_CLEAR(old);
        rc = add_small(op, args[0], n, &old, &version);
        if (rc == 0) {
            PyObject *sum = PyNumber_Add(old, n);
            rc = sum == NULL ? -1 : set_if_same(op, args[0], sum, version);
            Py_XDECREF(sum);
        }
    }
    Py_XDECREF(n);
    if (rc < 0) {
        Py_CLEAR(old);
    }
    return old;
}

PyDoc_STRVAR(dict_clear_doc,
"clear($self, /)\n--\n\n"
"Remove all there is. Raises nothing.\n\n"
"    >>> ages = pyconc.shared.Dict(ann=30)\n"
"    >>> ages.clear()\n"
"    >>> len(ages)\n"
"    0\n");

static PyObject *
dict_clear(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    shared_run *dict = shared_run_of(op);
    if (shared_container_enter(op) < 0) {
        return NULL;
    }
    int rc = shared_dict_clear(dict);
    shared_run_leave(dict);
    return shared_none_or_raise(rc);
}

PyDoc_STRVAR(dict_set_many_doc,
"_set_many($self, pairs, /)\n--\n\n"
"Set the values of keys, from a list of tuples of both, as one step.");

static PyObject *
dict_set_many(PyObject *op, PyObject *pairs)
{
    shared_run *dict = shared_run_of(op);
    shared_encoding e;
    if (!PyList_CheckExact(pairs)) {
        PyErr_SetString(PyExc_TypeError, "pairs must be a list");
        return NULL;
    }
    Py_ssize_t count = PyList_GET_SIZE(pairs);
    if (count > SHARED_DICT_MAX) {
        return PyErr_NoMemory();
    }
    if (shared_encoding_init(&e, shared_cell_of(op)->heap, count * SHARED_DICT_PARTS) < 0) {
        return NULL;
    }
    int rc = 0;
    for (Py_ssize_t i = 0; rc == 0 && i < count; i++) {
        PyObject *key, *value;
        // Pickling may run anything, but nobody else has the list.
        PyObject *pair = PyList_GET_ITEM(pairs, i);
        rc = PyArg_ParseTuple(pair, "OO", &key, &value) ? add_pair(op, &e, key, value) : -1;
    }
    shared_encoding_finish(&e);
    if (rc == 0) {
        rc = shared_container_enter(op);
    }
    if (rc == 0) {
        rc = shared_dict_update(dict, e.items, (uint32_t)count);
        shared_run_leave(dict);
        if (rc < 0) {
            shared_raise(rc);
        }
    }
    shared_encoding_fini(&e);
    return rc < 0 ? NULL : Py_NewRef(Py_None);
}

// ---- all of it, as it is at one moment ----

// How keys, values, or pairs of both are taken.
typedef struct view {
    int parts[2];
    Py_ssize_t width;
} view;

static const view keys_view = {{SHARED_DICT_SHOWN, 0}, 1};
static const view values_view = {{SHARED_DICT_VALUE, 0}, 1};
static const view pairs_view = {{SHARED_DICT_SHOWN, SHARED_DICT_VALUE}, 2};

// With the lock.  false: there is no memory, and nothing to free.
static bool
copy_view(shared_copies *c, const shared_run *dict, const view *v)
{
    shared_item *item;
    if (!shared_copies_init(c, dict, shared_dict_count(dict) * v->width)) {
        return false;
    }
    item = c->items;
    for (uint32_t place = shared_dict_next(dict, 0); place != SHARED_DICT_NOWHERE;
         place = shared_dict_next(dict, place + 1)) {
        for (Py_ssize_t i = 0; i < v->width; i++) {
            *item++ = shared_dict_get(dict, place, v->parts[i]);
        }
    }
    return shared_copies_take(c);
}

static PyObject *
decode_row(module_state *state, const shared_item *items, const view *v, Py_ssize_t place)
{
    PyObject *first = v->parts[0] == SHARED_DICT_SHOWN ? key_of(state, items, place)
                                                       : shared_decode(state, items, from_key(NULL, place));
    if (first == NULL || v->width == 1) {
        return first;
    }
    PyObject *second = shared_decode(state, items + 1, from_key(first, place));
    PyObject *pair = second == NULL ? NULL : PyTuple_Pack(2, first, second);
    Py_DECREF(first);
    Py_XDECREF(second);
    return pair;
}

static PyObject *
list_of(PyObject *op, const view *v)
{
    shared_run *dict = shared_run_of(op);
    shared_copies copied;
    if (shared_container_enter(op) < 0) {
        return NULL;
    }
    bool is_copied = copy_view(&copied, dict, v);
    shared_run_leave(dict);
    if (!is_copied) {
        return PyErr_NoMemory();
    }
    Py_ssize_t count = copied.count / v->width;
    PyObject *list = PyList_New(count);
    for (Py_ssize_t i = 0; list != NULL && i < count; i++) {
        PyObject *row = decode_row(shared_state_of(op), copied.items + i * v->width, v, i);
        if (row == NULL) {
            Py_CLEAR(list);
            break;
        }
        PyList_SET_ITEM(list, i, row);
    }
    shared_copies_fini(&copied);
    return list;
}

PyDoc_STRVAR(dict_list_keys_doc,
"_list_keys($self, /)\n--\n\n"
"Return all keys of one moment, in their order.");

static PyObject *
dict_list_keys(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return list_of(op, &keys_view);
}

PyDoc_STRVAR(dict_list_values_doc,
"_list_values($self, /)\n--\n\n"
"Return all values of one moment, in the order of their keys.");

static PyObject *
dict_list_values(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return list_of(op, &values_view);
}

PyDoc_STRVAR(dict_list_pairs_doc,
"_list_pairs($self, /)\n--\n\n"
"Return all pairs of one moment, in the order of their keys.");

static PyObject *
dict_list_pairs(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return list_of(op, &pairs_view);
}

static PyObject *
dict_iter(PyObject *op)
{
    PyObject *keys = list_of(op, &keys_view);
    PyObject *iterator = keys == NULL ? NULL : PyObject_GetIter(keys);
    Py_XDECREF(keys);
    return iterator;
}

static PyMethodDef dict_methods[] = {
    {"get", FASTCALL(dict_get), METH_FASTCALL, dict_get_doc},
    {"pop", FASTCALL(dict_pop), METH_FASTCALL, dict_pop_doc},
    {"add", FASTCALL(dict_add), METH_FASTCALL, dict_add_doc},
    {"popitem", dict_popitem, METH_NOARGS, dict_popitem_doc},
    {"setdefault", FASTCALL(dict_setdefault), METH_FASTCALL, dict_setdefault_doc},
    {"clear", dict_clear, METH_NOARGS, dict_clear_doc},
    {"_set_many", dict_set_many, METH_O, dict_set_many_doc},
    {"_list_keys", dict_list_keys, METH_NOARGS, dict_list_keys_doc},
    {"_list_values", dict_list_values, METH_NOARGS, dict_list_values_doc},
    {"_list_pairs", dict_list_pairs, METH_NOARGS, dict_list_pairs_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef dict_getset[] = {
    {"nbytes", shared_container_nbytes, NULL, SHARED_NBYTES_DOC, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(dict_doc,
"SharedDict(heap, index=-1, serial=0, how='', /)\n--\n\n"
"A hash table in a cell, and in memory that the cell owns.");

static PyType_Slot dict_slots[] = {
    {Py_tp_new, dict_new},
    {Py_tp_dealloc, shared_container_dealloc},
    {Py_tp_methods, dict_methods},
    {Py_tp_getset, dict_getset},
    {Py_tp_iter, dict_iter},
    {Py_sq_contains, dict_contains},
    {Py_mp_length, dict_length},
    {Py_mp_subscript, dict_subscript},
    {Py_mp_ass_subscript, dict_ass_subscript},
    {Py_tp_doc, (void *)dict_doc},
    {0, NULL},
};

PyType_Spec shared_dict_spec = {
    .name = "pyconc._core.SharedDict",
    .basicsize = sizeof(SharedContainerObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = dict_slots,
};
