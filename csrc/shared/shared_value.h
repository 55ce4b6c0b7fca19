// shared_value: Python values as items of a container, see core/shared_run.h, and back.
//
// An item is None, a bool or an int of 62 bits, and then a word; or what scalars.h says; or a pickle of its
// own.  Values are pickled before the container's lock is taken, and made of copied bytes after it is
// released: with the lock no Python is called.  After a pickle comes the process that made it, in 4 bytes,
// for whoever cannot unpickle it.
//
// A shared object may be in a value.  While that is pickled, the object adds itself to what the item refers
// to, by shared_packing_refer(), and the encoding has it until the container does; while it is unpickled,
// the copies of items have it.
#ifndef PYCONC_SHARED_VALUE_H
#define PYCONC_SHARED_VALUE_H

#include "base/scalars.h"
#include "base/state.h"
#include "core/shared_run.h"

#define SHARED_VALUES_MAX 0x7fffffff

// Of so many there is mostly nothing to allocate.
#define SHARED_VALUES_FEW 3

// ---- values to items ----

// Items on their way in.
typedef struct shared_encoding {
    shared_heap *heap;  // the container's
    shared_item *items;
    uint32_t count;
    unsigned char *bytes;  // of all items; until it is finished each has its offset there, + 1
    size_t used, room;
    shared_refs refs;  // of all items; this process has each of these cells for them
    bool is_key;       // what is pickled now, and cannot refer to anything
    shared_item few_items[SHARED_VALUES_FEW];
    unsigned char few_bytes[2 * SCALARS_BYTES_MAX];
} shared_encoding;

// Makes an item of a value for a container in this heap, or one of each that an iterable has.  0, or -1 with
// an exception, and then there is nothing to free.
int shared_encode_one(module_state *state, shared_encoding *e, shared_heap *heap, PyObject *value);
int shared_encode_all(module_state *state, shared_encoding *e, shared_heap *heap, PyObject *iterable);

// By hand: room for so many items, which are added, and then it is finished.  These return 0, or -1 with an
// exception; only after the first is there nothing to free then.
int shared_encoding_init(shared_encoding *e, shared_heap *heap, Py_ssize_t count);
int shared_encoding_add(module_state *state, shared_encoding *e, PyObject *value);

// The same for what refers to nothing: a shared object in it stays until the program ends.
int shared_encoding_add_key(module_state *state, shared_encoding *e, PyObject *key);

// 1; 0: the value needs a pickle, and nothing is added; -1 with an exception.
int shared_encoding_add_small(shared_encoding *e, PyObject *value);

// What is no value: a tag that none begins with, and bytes; or a word, 0 or odd.
int shared_encoding_add_bytes(shared_encoding *e, unsigned char tag, const char *bytes, Py_ssize_t size);
void shared_encoding_add_word(shared_encoding *e, uint64_t word);

// The word of the sum of two ints; 0: one of them is none that is a word, or the sum is not.
uint64_t shared_word_sum(const shared_item *first, const shared_item *second);

void shared_encoding_finish(shared_encoding *e);

void shared_encoding_fini(shared_encoding *e);

// A cell that this process has is in what this thread pickles: 0, or a status of shared_heap;
// SHARED_PACKS_NOTHING: that is no item.
#define SHARED_PACKS_NOTHING 1
int shared_packing_refer(shared_heap *heap, uint32_t index);

// ---- items to values ----

// Copies of items, and what they refer to, which this process has until these are freed.
typedef struct shared_copies {
    shared_heap *heap;
    shared_refs refs;
    shared_item *items;
    Py_ssize_t count;
    unsigned char *bytes;
    shared_item few_items[SHARED_VALUES_FEW];
    unsigned char few_bytes[2 * SCALARS_BYTES_MAX];
} shared_copies;

// With the lock: room for so many items, which the caller sets to where they are in memory; then their bytes
// are copied.  false: there is no memory, and nothing to free.
bool shared_copies_init(shared_copies *c, const shared_run *run, Py_ssize_t count);
bool shared_copies_take(shared_copies *c);

void shared_copies_fini(shared_copies *c);

// Where an item was, for the exception if it cannot be unpickled.
typedef struct shared_origin {
    const char *what;  // with {} for the key, or the index if that is NULL
    PyObject *key;     // borrowed
    Py_ssize_t index;
} shared_origin;

// Without the lock: makes the value of an item.
PyObject *shared_decode(module_state *state, const shared_item *item, shared_origin origin);

// Without the lock: makes the value of the first copy, or a list of all, of which each is so many after the
// last, and frees the copies.
PyObject *shared_decode_one(module_state *state, shared_copies *c, shared_origin origin);
PyObject *shared_decode_all(module_state *state, shared_copies *c, shared_origin origin, Py_ssize_t step);

#endif
