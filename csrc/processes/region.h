// region: the Python types Region and Block: shared memory, and views of it that give it back.
//
// A Region owns this process's part of the memory, and its arena.  A Block is a stretch of one block of the
// arena, for whoever asks for a buffer; when the last Block of a block dies, and with it the last array that
// looks at it, the block is released to its owner in whatever process.  Arrays may outlive the executor that
// brought them: what they look at is then this process's own memory, and nothing else of the Region is kept.
//
// In the child of a fork Blocks are the child's own, and there is nothing to give back.
//
// All fields are guarded by the GIL.
#ifndef PYCONC_REGION_H
#define PYCONC_REGION_H

// Python.h first: it decides what the system's headers declare.
#include "base/state.h"

#include "core/shm_arena.h"

typedef struct RegionObject {
    PyObject_HEAD
    module_state *module;  // borrowed from the type
    shm_region memory;
    shm_arena arena;
    unsigned char *head;  // what region_new() was asked for
    uint64_t head_bytes;
    struct BlockObject *partial;  // whole ones of which parts are gone, while others are kept
    bool rests;                   // the executor has nothing to do
    uint64_t loose_bytes;         // claimed or released here since memory was last given back
} RegionObject;

typedef struct BlockObject {
    PyObject_HEAD
    struct BlockObject *whole;  // the Block that this one is a part of, or NULL
    RegionObject *region;       // of a whole one: its module is alive as long; NULL if it may outlive it
    shm_block *block;           // of a whole one: held
    unsigned char *start;
    Py_ssize_t size_bytes;
    bool is_readonly;
    // Of a whole one:
    struct dead_part *dead;                            // parts that are gone; owned
    struct BlockObject *next_partial, **partial_link;  // in the Region's list; link: NULL if it is not
} BlockObject;

extern PyType_Spec region_spec;
extern PyType_Spec block_spec;

// The parent makes a region for so many workers with `head_bytes` of zeros that everybody finds at
// region->head.
RegionObject *region_new(module_state *state, uint64_t head_bytes, uint32_t max_workers);

// A worker maps its parent's; takes fd, also when it fails.
RegionObject *region_join(module_state *state, int fd, uint32_t me);

// Who this process is to the others; SHM_NOBODY in the child of a fork.
static inline uint32_t
region_me(const RegionObject *self)
{
    return shm_head_is_inherited(&self->memory.mapped_head) ? SHM_NOBODY : self->arena.me;
}

// Whether the executor has anything to do.  While it has not, all but a little memory goes back to the
// system: when it comes to rest, and when blocks are released later.
void region_set_rests(RegionObject *self, bool rests);

// A block with room for `bytes`.  As shm_arena_claim().
int region_claim(RegionObject *self, uint64_t bytes, shm_block **block);

// In the child of a fork.
void region_after_fork(RegionObject *self);

// The exception for a status of the shm units.
void region_raise(int status);

// Raises OSError for errno, and says what needs a call that the system lacks or forbids: "this is done by
// call()".
void region_raise_errno(const char *need);

// All of a block's first `size` bytes.  The Block owns the hold on it from here on, also when this fails.
BlockObject *block_new(RegionObject *region, shm_block *block, uint64_t size);

// A part of it, which may be declared read-only.
BlockObject *block_part(BlockObject *whole, uint64_t start, uint64_t size, bool is_readonly);

#endif
