#include "large_strings.h"

// A string of so many bytes travels beside the pickle, see codec.h.  Measured by calls on Python 3.11: bytes
// of this size take 4.6 microseconds as an argument and 4.7 as a result, where in the stream they take 7.5
// and 4.7; of half the size 3.9 and 4.0 beside 4.6 and 3.3; of 1 MB 35 beside 570 and 520.
#define LARGE_STRING_BYTES (64 << 10)
// How deep, among how many items of each container since the last one that was found, and among how many
// objects in all, such a string is looked for.
#define LARGE_STRING_DEPTH 5
#define LARGE_STRING_ITEMS 16
#define LARGE_STRING_LOOKS 64

// A search for large strings, of the types themselves.
typedef struct string_search {
    PyObject *found;  // see large_strings_find()
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

int
large_strings_find(PyObject *object, PyObject **found)
{
    string_search search = {NULL, LARGE_STRING_LOOKS};
    int rc = find_strings(object, LARGE_STRING_DEPTH, &search);
    if (rc < 0) {
        Py_CLEAR(search.found);
    }
    *found = search.found;
    return rc < 0 ? -1 : 0;
}
