// codec: calls and outcomes to bytes and back.
//
// A *packed_message* is an object on its way: its bytes, or the block that they have been copied to.
// Mostly they are a pickle; small values have an encoding of their own, see scalars.h.  Pickle protocol
// 5 hands out large buffers instead of copying them into the stream; they go into a block, one memcpy each,
// and are looked at there by whatever is made of them on the other side.
//
// Large bytes, bytearrays and strs, of exactly these types, would be copied into the stream.  They go beside
// it too, as buffers of which the receiver makes such objects before it unpickles anything.  The pickler
// begins with a memo that has them, so to it each is an object that it has written already; and in front of
// what it writes stand three opcodes for each, which put what was made into the unpickler's memo.  So one
// object that is in many places, however deep, is one object on the other side.  A string is looked for in
// the containers around it; one that is not found there travels in the stream.
//
// callable_cache.h says how the callable of a call travels, pickling.h what becomes of that which the
// standard pickle refuses, wire.h what a message is.  Called with the GIL, except packed_message_write().
// Everything that the other side wrote is checked.
#ifndef PYCONC_CODEC_H
#define PYCONC_CODEC_H

#include "callable_cache.h"
#include "pickling.h"
#include "wire.h"

typedef struct packed_message {
    wire head;           // all but the stream
    PyObject *callable;  // bytes, the front of the stream; or NULL
    PyObject *stream;    // bytes; NULL if it is in the block, or there is none
    shm_block *block;    // held by this process; or NULL
} packed_message;

// How an executor's calls are packed.
typedef struct packer {
    pickler pickler;
    RegionObject *region;  // borrowed
    callable_cache callables;
} packer;

// Packs args[0](args[1:], kwnames), for a task with a name, or NULL.  0, or -1 with what pickling raised.
int codec_pack_call(packer *p, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, PyObject *name,
                    packed_message *packed);

// Packs calls of one callable with each of a list of items; flags: WIRE_STAR, WIRE_BOUNDED.
int codec_pack_chunk(packer *p, PyObject *callable, PyObject *items, unsigned flags, packed_message *packed);

// Packs an object as an outcome of the given kind.
int codec_pack_outcome(packer *p, wire_kind kind, PyObject *value, packed_message *packed);

// Copies what a slot carries to where a slot carries it.  Needs no GIL.
void packed_message_write(const packed_message *packed, unsigned char *message);

// Frees a packed_message.  If `sent`, its block is the receiver's affair.
void packed_message_drop(packed_message *packed, RegionObject *region, bool sent);

// What a message has in it.
typedef struct unpacked_message {
    wire_kind kind;
    unsigned flags;
    uint32_t callable_id;
    PyObject *callable;  // its pickle, as a memoryview; or NULL
    PyObject *value;     // unpickled stream
} unpacked_message;

// Reads the stream of a message; `whole` (borrowed) holds the block that wire_block() said, or is NULL.
// 0, or -1 with what unpickling raised; then unpacked_message has what could be read.
int codec_unpack(module_state *state, const wire *message, BlockObject *whole, unpacked_message *found);

// Has `by_value` decide from now on, or nobody if it is NULL; earlier decisions are forgotten.
void packer_ask(packer *p, PyObject *by_value);

int packer_traverse(const packer *p, visitproc visit, void *arg);
void packer_clear(packer *p);

#endif
