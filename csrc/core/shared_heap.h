// shared_heap: cells in anonymous memory that the processes of a program share.
//
//     header | parties | who has which cell: a row of bits for each party | cells
//
// A party is a process that has mapped the heap.  A cell is in use as long as a bit of some party says so:
// there is no list of free cells, and nothing to repair after a death.  Party 0 is nobody: its bits are
// those of cells that are on their way, in a pickle that has not been unpickled.  A party whose process is
// gone loses its bits when somebody needs room.  (A number that is in use again delays that.)
//
// The heap's lock guards the parties and the bits; it is robust, and every step under it leaves the bits
// sound, so whoever gets it from the dead has nothing to do.
//
// fork(): the child must have its bits before the parent can drop a cell.  So the parent makes the child's
// row before it forks, and the child puts its name to that, or makes a row of its own if it is gone.  A row
// whose child died before it did, or was never there, is free with the parent's next fork.
//
// A death between two steps costs at most a cell until the program ends.  Memory that is short is an error
// here and never a SIGBUS later: what is used is allocated first.
//
// No function needs the GIL; all but shared_heap_drop() may sleep, for as long as others take to do as
// little.  No Python.
#ifndef PYCONC_SHARED_HEAP_H
#define PYCONC_SHARED_HEAP_H

#include "robust_lock.h"

#define SHARED_HEAP_CELLS 65536
#define SHARED_HEAP_PARTIES 1024

enum {
    SHARED_HEAP_FULL = -20,  // no cell, no party, or no memory
    SHARED_HEAP_GONE = -21,  // there is no such cell any more
};

// What a cell is, its users know.  128 bytes, in two lines.
typedef struct shared_cell {
    robust_lock lock;       // the lock that it is, or the one that guards the rest
    uint64_t serial;        // no other cell of the heap has had it; constant while in use
    _Atomic uint32_t sent;  // pickles on their way; guarded by the heap's lock, relaxed everywhere
    uint32_t unused;
    _Alignas(64) _Atomic uint32_t words[8];  // see shared_sync.h
    _Atomic uint64_t value;
    uint64_t more[3];
} shared_cell;

_Static_assert(sizeof(shared_cell) == 128, "shared between processes");

// This process's view of a heap.
typedef struct shared_heap shared_heap;

// Makes a heap, or maps the one that the file is, of which it keeps a duplicate: with fd < 0, a new one.
// NULL, with errno: EINVAL if the file is no heap, ENOTSUP where locks cannot be robust.
shared_heap *shared_heap_open(int fd);

// Unmaps it; but not while this process has cells of it, or holds the lock of one: then it stays for good.
void shared_heap_close(shared_heap *heap);

// What no other heap has.
uint64_t shared_heap_identity(const shared_heap *heap);
int shared_heap_fd(const shared_heap *heap);

shared_cell *shared_heap_cell(const shared_heap *heap, uint32_t index);

// Makes a cell of zeros.  0, or SHARED_HEAP_FULL, or a status of robust_lock.
int shared_heap_make(shared_heap *heap, uint32_t *index);

// One more user of a cell in this process: a pickle of it has arrived.  Also SHARED_HEAP_GONE.
int shared_heap_attach(shared_heap *heap, uint32_t index, uint64_t serial);

// One more user, by one that has it already.
int shared_heap_share(shared_heap *heap, uint32_t index);

// One user less.  It never sleeps: what it cannot do now is done later.
void shared_heap_drop(shared_heap *heap, uint32_t index);

// A pickle of a cell that this process has is on its way.
int shared_heap_send(shared_heap *heap, uint32_t index);

// To be called before a fork, and in the child.
void shared_heap_before_fork(shared_heap *heap);
void shared_heap_after_fork(shared_heap *heap);

// How many cells are in use, by whomever.
uint32_t shared_heap_used(shared_heap *heap);

#endif
