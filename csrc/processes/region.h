// region: the Python types Region and Block: shared memory, and views of it that give it back.
//
// A Region owns this process's mapping and its arena.  A Block is a writable stretch of one block of
// the arena, for whoever asks for a buffer; when the last Block of a block dies, and with it the last
// array that looks at it, the block is released to its owner in whatever process.  Blocks keep the
// Region alive, so arrays may outlive the executor that brought them.
//
// In the child of a fork the blocks are the parent's: the child may look at them, and never releases.
//
// All fields are guarded by the GIL; so is the arena.
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
    uint64_t head_offset;  // of what region_new() or region_join() was asked for, behind the arena's root
    unsigned char *head;
    uint64_t head_bytes;
    bool rests;            // the executor has nothing to do
    uint64_t loose_bytes;  // claimed or released here since memory was last given back
} RegionObject;

typedef struct BlockObject {
    PyObject_HEAD
    struct BlockObject *whole;  // the Block that this one is a part of, or NULL
    RegionObject *region;
    shm_block *block;
    unsigned char *start;
    Py_ssize_t size_bytes;
} BlockObject;

extern PyType_Spec region_spec;
extern PyType_Spec block_spec;

// The parent makes a region with `head_bytes` of zeros that everybody finds at region->head.
RegionObject *region_new(module_state *state, uint64_t head_bytes);

// A worker maps its parent's; takes fd, also when it fails.
RegionObject *region_join(module_state *state, int fd, uint32_t me);

// Who this process is to the others; SHM_NOBODY in the child of a fork.
static inline uint32_t
region_me(const RegionObject *self)
{
    return self->arena.me;
}

// Whether the executor has anything to do.  While it has not, memory goes back to the system, but for a
// little: when it comes to rest, and when blocks are released later.
void region_set_rests(RegionObject *self, bool rests);

// A block with room for `bytes`.  SHM_OK or SHM_NO_MEMORY.
int region_claim(RegionObject *self, uint64_t bytes, shm_block **block);

// In the child of a fork.
void region_after_fork(RegionObject *self);

// The exception for a status of the shm units.
void region_raise(int status);

// All of a block's first `size` bytes.  The Block owns the hold on it from here on, also when this fails.
BlockObject *block_new(RegionObject *region, shm_block *block, uint64_t size);

// A part of it.
BlockObject *block_part(BlockObject *whole, uint64_t start, uint64_t size);

#endif
