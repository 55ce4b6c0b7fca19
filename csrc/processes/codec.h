// codec: calls and outcomes to bytes and back.
//
// A *packed_message* is an object on its way: its bytes, or the block that they have been copied to.
// Mostly they are a pickle; small values have an encoding of their own, see scalars.h.  Pickle protocol
// 5 hands out large buffers instead of copying them into the stream; they go into a block, one memcpy each,
// and are looked at there by whatever is made of them on the other side.
//
//     message     wire header | stream                         what fits into a slot
//     block       sizes of the buffers | stream | buffers...   everything else
//
// Large bytes, bytearrays and strs, of exactly these types, would be copied into the stream.  They go beside
// it too, as buffers of which the receiver makes such objects before it unpickles anything.  The pickler
// begins with a memo that has them, so to it each is an object that it has written already; and in front of
// what it writes stand three opcodes for each, which put what was made into the unpickler's memo.  So one
// object that is in many places, however deep, is one object on the other side.  A string is looked for in
// the containers around it; one that is not found there travels in the stream.
//
// The callable of a call, if it is a function or a class, is pickled once.  Its pickle is kept with a
// number, and both go in front of the stream of the arguments; a worker that knows the number does not
// even look at the pickle.  Mostly that is a name.  A function that travels by value is kept, too, while
// what its closure refers to is the same and cannot change.  Anything else with a state of its own, such
// as a bound method, travels with the arguments and is pickled anew with each call.
//
// pyconc._process.pickling tries other ways for what the standard pickle refuses.  Called with the GIL,
// except packed_message_write().  Everything that the other side wrote is checked.
#ifndef PYCONC_CODEC_H
#define PYCONC_CODEC_H

#include "region.h"

#include "core/job_slot.h"

typedef enum wire_kind {
    WIRE_CALL = 1,    // stream: (args...), or (args, kwargs) if WIRE_KWARGS
    WIRE_WHOLE_CALL,  // stream: (callable, args, kwargs or None)
    WIRE_CHUNK,       // stream: a list of arguments; as many calls of the callable
    WIRE_NONE,        // an outcome: None
    WIRE_RESULT,      // stream: what the call returned
    WIRE_EXCEPTION,   // stream: what pyconc._process.pickling.pack_exception() made of what it raised
    WIRE_NO_MEMORY,   // the outcome did not fit anywhere
    WIRE_EXPIRED,     // an outcome: the call was not made, as its deadline had passed
} wire_kind;

enum {
    WIRE_KWARGS = 1,    // see WIRE_CALL
    WIRE_STAR = 2,      // of a chunk: each item is a tuple of arguments, not one argument
    WIRE_BOUNDED = 4,   // of a chunk: comes back unfinished rather than take long
    WIRE_SCALARS = 8,   // the stream behind the callable is what scalars.h says, and no pickle
    WIRE_NAMED = 16,    // of a call: the stream is the pair of its task's name and what it would be else
    WIRE_LIMITED = 32,  // of a call: its slot has a timeout or a deadline
    WIRE_WHERE = 64,    // of an outcome that does not count: the stream is where its call was, a str
};

typedef struct wire {
    uint16_t kind;
    uint16_t flags;
    uint32_t callable_bytes;  // of the stream's front
    uint32_t callable_id;     // 0: none
    uint32_t buffer_count;
    uint64_t stream_bytes;  // with the callable's
    uint64_t block;         // its offset; 0: the stream is here
    uint64_t elapsed_ns;    // of an outcome: how long the call took, or all those of a chunk
} wire;                     // and behind it the stream, unless that is in the block

_Static_assert(sizeof(wire) == 40, "the layout is shared");

#define WIRE_INLINE_BYTES (sizeof(((job_slot *)0)->message) - sizeof(wire))

typedef struct packed_message {
    wire head;           // all but the stream
    PyObject *callable;  // bytes, the front of the stream; or NULL
    PyObject *stream;    // bytes; NULL if it is in the block, or there is none
    shm_block *block;    // held by this process; or NULL
} packed_message;

// When an executor knows this many callables, it forgets them all; a worker forgets those of which it has
// seen as many later ones.
#define CALLABLES_MAX 4096

// The pickles of callables, and their numbers.  Owned by an executor's queue.
typedef struct callable_cache {
    // dict: weak reference of a callable to (number, pickle, what its closure refers to or None if it goes by
    // name); NULL: empty.  Weak, as functions lead to the program's globals, and these to the executor.
    PyObject *known;
    uint32_t next_id;
} callable_cache;

// How an executor's calls are packed.
typedef struct packer {
    module_state *module;  // borrowed
    RegionObject *region;  // borrowed
    callable_cache callables;
    PyObject *by_value;  // called with a callable or an object that mentions __main__, and its pickle:
                         // whether it must travel by value; NULL: never
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

// How many bytes of a message mean something; 0 if what it says cannot be.
size_t wire_length(const unsigned char *message);

// The block that a message names: NULL without an exception if it names none, or one that cannot be.
shm_block *wire_block(RegionObject *region, const wire *message);

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

// Calls a function of pyconc._process.pickling with up to four arguments; NULL ends them.
PyObject *codec_call(const char *function, PyObject *argument, PyObject *second, PyObject *third,
                     PyObject *fourth);

// True if the exception that is set was not raised by the code that has run, but by a signal handler that has
// interrupted it; then another one may be set.
bool codec_was_interrupted(void);

// Has `by_value` decide from now on, or nobody if it is NULL; earlier decisions are forgotten.
void packer_ask(packer *p, PyObject *by_value);

int packer_traverse(const packer *p, visitproc visit, void *arg);
void packer_clear(packer *p);

#endif
