// shared_block: memory of one size, for good, in a cell of a shared heap.
//
// The cell owns one run of units (see shared_heap.h), and two words of it say which that is and how many
// bytes of it count.  They are set once, before any other process can have the cell.  So a process that has
// the cell has the block, without a lock, and one that dies while it makes it leaves what is given back with
// the cell.  All of its memory is there from the beginning, and zero; or none is, if all is to be written by
// shared_block_write(), before anybody looks at it: memory is taken once then, in half the time.
//
// Its users agree on what is in it, and on who writes when.  Nobody writes a sealed block any more: a process
// that opens it cannot.
//
// Each view maps the run for itself; a process keeps some mappings of sealed ones for views that it opens
// later.  A child of a fork has the parent's mappings, too.  No Python.
#ifndef PYCONC_SHARED_BLOCK_H
#define PYCONC_SHARED_BLOCK_H

#include "shared_heap.h"

// As much as a run can be.
#define SHARED_BLOCK_BYTES_MAX (SHARED_UNIT_BYTES << SHARED_ORDER_MAX)

// This process's view of it.  Nothing in it changes between shared_block_make() or shared_block_open() and
// shared_block_fini(), except `is_sealed`, which the user's lock guards.
typedef struct shared_block {
    shared_heap *heap;
    unsigned char *at;  // NULL: there are no bytes
    uint64_t bytes;
    uint32_t unit, order;  // the run, all of which is mapped
    bool is_sealed;
} shared_block;

// Makes it for a cell that has none, and that only this process has.  0, or SHARED_HEAP_FULL, or a status of
// robust_lock, with an empty view.  shared_block_reserve() makes it without memory.
int shared_block_make(shared_block *block, shared_heap *heap, uint32_t index, uint64_t bytes);
int shared_block_reserve(shared_block *block, shared_heap *heap, uint32_t index, uint64_t bytes);

// A view of the block of a cell that this process has: an empty one if none was made.  0, or SHARED_HEAP_FULL
// if the system refuses to map it, or SHARED_HEAP_GONE if the cell's words are garbage.
int shared_block_open(shared_block *block, shared_heap *heap, uint32_t index);

// Writes bytes from byte `from` of it on, and takes memory for them, see shared_heap_write().  False: there
// is none.
bool shared_block_write(shared_block *block, uint64_t from, const void *data, uint64_t bytes);

// From now on nobody can write through this view, or through one that is opened later.  False: the system
// refuses.
bool shared_block_seal(shared_block *block, shared_heap *heap, uint32_t index);

// Ends the view, before its heap is closed.  Nobody else uses it.
void shared_block_fini(shared_block *block);

#endif
