#include "callable_cache.h"

// A larger pickle of a callable is not worth a place in every message: so many callables are kept, see
// CALLABLES_MAX, that their pickles might take much memory.
// Measured with benchmarks/constants.py: a call of a function that goes by value with a pickle of 2,000 or
// 10,000 bytes takes 1.8 us; where the pickle is not kept, as of 50,000 bytes, or with 1024 of all, 190 to
// 200.  With 262144, that of 50,000 bytes takes 2.8.
#define CALLABLE_BYTES_MAX 16384
// How many functions deep a closure is looked into.
#define CLOSURE_DEPTH_MAX 4

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
pickle_callable(const pickler *p, PyObject *callable, pickled *made, PyObject **closure)
{
    const char *how = "dumps";
    *closure = NULL;
    if (pickle_plainly(p->module, callable, NULL, made) == 0) {
        int by_value = pickle_must_go_by_value(p, callable, made);
        if (by_value == 0) {
            *closure = Py_NewRef(Py_None);
            return 1;
        }
        pickled_clear(made);
        how = "dumps_by_value";
    }
    if (PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_Exception) || pickling_was_interrupted()) {
            return -1;
        }
        PyErr_Clear();
    }
    *closure = constant_closure(callable);
    if (*closure != NULL && pickle_otherwise(p->by_value, callable, how, NULL, made) == 0) {
        return 1;
    }
    Py_CLEAR(*closure);
    if (PyErr_Occurred() && (!PyErr_ExceptionMatches(PyExc_Exception) || pickling_was_interrupted())) {
        return -1;
    }
    PyErr_Clear();
    return 0;  // The whole call will be pickled, and raise what there is to be raised.
}

// Gives a callable, and its weak reference, a number.  Returns its entry in the cache; NULL without an
// exception: it has none.
static PyObject *
number_callable(callable_cache *cache, const pickler *p, PyObject *callable, PyObject *reference)
{
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

int
callable_cache_find(callable_cache *cache, const pickler *p, PyObject *callable, uint32_t *number,
                    PyObject **pickle)
{
    if (!may_be_a_name(callable)) {
        return 0;
    }
    // A callable has only one plain weak reference at a time, and the cache keeps that.
    PyObject *reference = PyWeakref_NewRef(callable, NULL);
    if (reference == NULL) {
        return -1;
    }
    PyObject *entry =
        cache->known == NULL ? NULL : Py_XNewRef(PyDict_GetItemWithError(cache->known, reference));
    int current = entry != NULL ? is_current(entry, callable) : PyErr_Occurred() ? -1
                                                                                 : 0;
    if (current != 1) {
        Py_XDECREF(entry);
        entry = current < 0 ? NULL : number_callable(cache, p, callable, reference);
    }
    Py_DECREF(reference);
    if (entry == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    *number = (uint32_t)PyLong_AsUnsignedLong(PyTuple_GET_ITEM(entry, 0));
    *pickle = Py_NewRef(PyTuple_GET_ITEM(entry, 1));
    Py_DECREF(entry);
    return 1;
}
