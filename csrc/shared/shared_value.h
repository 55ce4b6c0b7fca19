// shared_value: Python values as items of a container, see core/shared_run.h, and back.
//
// An item is None, a bool or an int of 62 bits, and then a word; or what scalars.h says; or a pickle of its
// own.  Values are pickled before the container's lock is taken, and made of copied bytes after it is
// released: with the lock no Python is called.
//
// A shared object may be in a value: while that is pickled, the object asks shared_packing() how it travels.
#ifndef PYCONC_SHARED_VALUE_H
#define PYCONC_SHARED_VALUE_H

#include "base/scalars.h"
#include "base/state.h"
#include "core/shared_run.h"

#define SHARED_VALUES_MAX 0x7fffffff

// Of so many there is mostly nothing to allocate.
#define SHARED_VALUES_FEW 3

// ---- values to items ----

// Whether this thread pickles an item, and who will have it.
typedef enum shared_packing_kind {
    SHARED_PACKS_NOTHING,
    SHARED_PACKS_ITEM,     // whoever reads it, as often as they like
    SHARED_PACKS_MESSAGE,  // who takes it
} shared_packing_kind;

shared_packing_kind shared_packing(void);

// Items on their way in.
typedef struct shared_encoding {
    shared_item *items;
    uint32_t count;
    unsigned char *bytes;  // of all items; until it is finished each has its offset there, + 1
    size_t used, room;
    shared_packing_kind packs;
    shared_item few_items[SHARED_VALUES_FEW];
    unsigned char few_bytes[2 * SCALARS_BYTES_MAX];
} shared_encoding;

// Makes an item of a value, or one of each that an iterable has; or an item that only one process takes.
// 0, or -1 with an exception, and then there is nothing to free.
int shared_encode_one(module_state *state, shared_encoding *e, PyObject *value);
int shared_encode_message(module_state *state, shared_encoding *e, PyObject *value);
int shared_encode_all(module_state *state, shared_encoding *e, PyObject *iterable);

// By hand: room for so many items, which are added, and then it is finished.  These return 0, or -1 with an
// exception; only after the first is there nothing to free then.
int shared_encoding_init(shared_encoding *e, Py_ssize_t count);
int shared_encoding_add(module_state *state, shared_encoding *e, PyObject *value);

// 1; 0: the value needs a pickle, and nothing is added; -1 with an exception.
int shared_encoding_add_small(shared_encoding *e, PyObject *value);

// What is no value: a tag that none begins with, and bytes; or a word, 0 or odd.
int shared_encoding_add_bytes(shared_encoding *e, unsigned char tag, const char *bytes, Py_ssize_t size);
void shared_encoding_add_word(shared_encoding *e, uint64_t word);

// The word of the sum of two ints; 0: one of them is none that is a word, or the sum is not.
uint64_t shared_word_sum(const shared_item *first, const shared_item *second);

void shared_encoding_finish(shared_encoding *e);

void shared_encoding_fini(shared_encoding *e);

// ---- items to values ----

// Copies of items.
typedef struct shared_copies {
    shared_item *items;
    Py_ssize_t count;
    unsigned char *bytes;
    shared_item few_items[SHARED_VALUES_FEW];
    unsigned char few_bytes[2 * SCALARS_BYTES_MAX];
} shared_copies;

// With the lock: room for so many items, which the caller sets to where they are in memory; then their bytes
// are copied.  false: there is no memory, and nothing to free.
bool shared_copies_init(shared_copies *c, Py_ssize_t count);
bool shared_copies_take(shared_copies *c);

void shared_copies_fini(shared_copies *c);

// Without the lock: makes the value of an item.
PyObject *shared_decode(module_state *state, const shared_item *item);

// Without the lock: makes the value of the first copy, or a list of all, and frees the copies.
PyObject *shared_decode_one(module_state *state, shared_copies *c);
PyObject *shared_decode_all(module_state *state, shared_copies *c);

#endif
