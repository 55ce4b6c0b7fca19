#include "pickling.h"

#include <string.h>

// A buffer of so few bytes stays in the pickle, which may then fit into a slot.
// Measured with benchmarks/constants.py: with 64, or with 16384, an argument of 800 bytes takes 20 to 24 us
// and not 18.
#define IN_BAND_BYTES 1024

void
pickled_clear(pickled *p)
{
    Py_CLEAR(p->stream);
    Py_CLEAR(p->buffers);
}

PyObject *
pickling_call(const char *function, PyObject *argument, PyObject *second, PyObject *third, PyObject *fourth)
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
pickling_was_interrupted(void)
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

int
pickle_otherwise(PyObject *by_value, PyObject *object, const char *how, PyObject *beside, pickled *result)
{
    PyObject *error = PyErr_GetRaisedException();
    by_value = Py_NewRef(by_value == NULL ? Py_None : by_value);  // another thread may replace it meanwhile
    PyObject *pair = pickling_call(how, object, error == NULL ? Py_None : error, by_value, beside);
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
            answer = pickling_call("are_own", state->registered_reducers, NULL, NULL, NULL);
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

// How deep in tuples, lists and dicts a shared object is looked for, and at how many items of each.  Measured
// with benchmarks/constants.py: with 1 item, an argument with a shared number in its second takes 44 to 55 us
// and not 33; other depths, and 64 items, make no difference.
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
int
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

int
pickle_must_go_by_value(const pickler *p, PyObject *object, const pickled *made)
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

int
pickle_object(const pickler *p, PyObject *object, PyObject *beside, pickled *result)
{
    if (pickle_plainly(p->module, object, beside, result) < 0) {
        if (!PyErr_ExceptionMatches(PyExc_Exception)) {
            return -1;
        }
        return pickle_otherwise(p->by_value, object, "dumps", beside, result);
    }
    int by_value = pickle_must_go_by_value(p, object, result);
    if (by_value == 0) {
        return 0;
    }
    pickled_clear(result);
    return by_value < 0 ? -1 : pickle_otherwise(p->by_value, object, "dumps_by_value", beside, result);
}
