// pickling: the pickle of an object, by the first way that can make one.
//
// The standard pickle comes first.  Where the program has registered types with multiprocessing's pickler, or
// the standard pickle refuses an object, or what it has made would not do on the other side (it names
// something of __main__ that is not there), pyconc._process.pickling tries other ways.  Called with the GIL.
#ifndef PYCONC_PICKLING_H
#define PYCONC_PICKLING_H

#include "base/state.h"

typedef struct pickler {
    module_state *module;  // borrowed
    PyObject *by_value;    // called with a callable or an object that mentions __main__, and its pickle:
                           // whether it must travel by value; NULL: never
} pickler;

typedef struct pickled {
    PyObject *stream;   // bytes
    PyObject *buffers;  // list of PickleBuffers, or NULL
} pickled;

void pickled_clear(pickled *p);

// Pickles an object.  beside: the large strings in it that the stream leaves out, as large_strings_find()
// tells them, or NULL.  0, or -1 with an exception.
int pickle_object(const pickler *p, PyObject *object, PyObject *beside, pickled *result);

// As pickle_object(), by the standard pickle or by multiprocessing's alone.
int pickle_plainly(module_state *state, PyObject *object, PyObject *beside, pickled *result);

// Whether an object with this pickle has to travel by value instead.  -1: an exception.
int pickle_must_go_by_value(const pickler *p, PyObject *object, const pickled *made);

// As pickle_object(), by a function of pyconc._process.pickling; if the plain one has failed, its exception
// is set.  by_value and beside may be NULL.
int pickle_otherwise(PyObject *by_value, PyObject *object, const char *how, PyObject *beside,
                     pickled *result);

// Calls a function of pyconc._process.pickling with up to four arguments; NULL ends them.
PyObject *pickling_call(const char *function, PyObject *argument, PyObject *second, PyObject *third,
                        PyObject *fourth);

// True if the exception that is set was not raised by the code that has run, but by a signal handler that has
// interrupted it; then another one may be set.
bool pickling_was_interrupted(void);

#endif
