// callable_cache: the pickles of the functions and classes that an executor has sent, and their numbers.
//
// The callable of a call, if it is a function or a class, is pickled once.  Its pickle is kept with a
// number, and both go in front of the stream of the arguments; a worker that knows the number does not
// even look at the pickle.  Mostly that is a name.  A function that travels by value is kept, too, while
// what its closure refers to is the same and cannot change.  Anything else with a state of its own, such
// as a bound method, travels with the arguments and is pickled anew with each call.  Called with the GIL.
#ifndef PYCONC_CALLABLE_CACHE_H
#define PYCONC_CALLABLE_CACHE_H

#include "pickling.h"

// When an executor knows this many callables, it forgets them all; a worker forgets those of which it has
// seen as many later ones.  Measured with benchmarks/constants.py: with 64, a call of one of 1,000 functions
// in turn takes 65 us and not 1.5; with 65536, one of 6,000 takes 13 and not 70.
#define CALLABLES_MAX 4096

// The pickles of callables, and their numbers.  Owned by an executor's queue.
typedef struct callable_cache {
    // dict: weak reference of a callable to (number, pickle, what its closure refers to or None if it goes by
    // name); NULL: empty.  Weak, as functions lead to the program's globals, and these to the executor.
    PyObject *known;
    uint32_t next_id;
} callable_cache;

// Finds the number and the pickle (a new reference) of a callable, or gives it a number.  1; 0: it has none,
// so it has to travel with its arguments; -1: an exception.
int callable_cache_find(callable_cache *cache, const pickler *p, PyObject *callable, uint32_t *number,
                        PyObject **pickle);

#endif
