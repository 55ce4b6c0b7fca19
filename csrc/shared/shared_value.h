// shared_value: Python values as items of a container, see core/shared_run.h, and back.
//
// An item is None, a bool or an int of 62 bits, and then a word; or what scalars.h says; or a pickle of its
// own.  Values are pickled before the container's lock is taken, and made of copied bytes after it is
// released: with the lock no Python is called.
#ifndef PYCONC_SHARED_VALUE_H
#define PYCONC_SHARED_VALUE_H

#include "base/scalars.h"
#include "base/state.h"
#include "core/shared_run.h"

#define SHARED_VALUES_MAX 0x7fffffff

// ---- values to items ----

// Items on their way in.  Of a single one there is mostly nothing to allocate.
typedef struct shared_encoding {
    shared_item *items;
    uint32_t count;
    unsigned char *bytes;  // of all items; until it is finished each has its offset there, + 1
    size_t used, room;
    shared_item one;
    unsigned char few[SCALARS_BYTES_MAX];
} shared_encoding;

// Makes an item of a value, or one of each that an iterable has.  0, or -1 with an exception, and then there
// is nothing to free.
int shared_encode_one(module_state *state, shared_encoding *e, PyObject *value);
int shared_encode_all(module_state *state, shared_encoding *e, PyObject *iterable);

void shared_encoding_fini(shared_encoding *e);

// ---- items to values ----

// Copies of items.  Of a single one there is mostly nothing to allocate.
typedef struct shared_copies {
    shared_item *items;
    Py_ssize_t count;
    unsigned char *bytes;
    shared_item one;
    unsigned char few[256];
} shared_copies;

// With the lock: room for so many items, which the caller sets to where they are in memory; then their bytes
// are copied.  false: there is no memory, and nothing to free.
bool shared_copies_init(shared_copies *c, Py_ssize_t count);
bool shared_copies_take(shared_copies *c);

void shared_copies_fini(shared_copies *c);

// Without the lock: makes the value of the first copy, or a list of all, and frees the copies.
PyObject *shared_decode_one(module_state *state, shared_copies *c);
PyObject *shared_decode_all(module_state *state, shared_copies *c);

#endif
