// wire: what a message between the program and its workers looks like, and whether one can be true.
//
//     message     wire header | stream                         what fits into a slot
//     block       sizes of the buffers | stream | buffers...   everything else
//
// Nothing here calls Python.
#ifndef PYCONC_WIRE_H
#define PYCONC_WIRE_H

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

#define BUFFER_ALIGNMENT 64

// What is made of a buffer on the other side; in the highest bits of its size.
typedef enum buffer_form {
    FORM_BLOCK = 0,  // a Block, as of all that only pickle has to do with
    FORM_READONLY,   // a Block that is read-only
    FORM_BYTES,      // what the names say, and a str of so many bytes a character
    FORM_BYTEARRAY,
    FORM_STR_1,
    FORM_STR_2,
    FORM_STR_4,
} buffer_form;

#define FORM_SHIFT 61
#define SIZE_MASK ((UINT64_C(1) << FORM_SHIFT) - 1)

static inline uint64_t
wire_align(uint64_t bytes)
{
    return (bytes + BUFFER_ALIGNMENT - 1) & ~(uint64_t)(BUFFER_ALIGNMENT - 1);
}

// How many bytes of a message mean something; 0 if what it says cannot be.
size_t wire_length(const unsigned char *message);

// The block that a message names: NULL without an exception if it names none, or one that cannot be.
shm_block *wire_block(RegionObject *region, const wire *message);

#endif
