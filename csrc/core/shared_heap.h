// shared_heap: cells in anonymous memory that the processes of a program share.
//
//     header | parties | a row of bits for each: which cells it has | cells | who has which unit | holds
//     | units
//
// A party is a process that has mapped the heap.  A cell is in use as long as a bit of some party says so:
// there is no list of free cells, and nothing to repair after a death.  Party 0 is nobody: its bits are
// those of cells that are on their way, in a pickle that has not been unpickled.  Party 1 is the items of
// containers, see below.  A party whose process is gone loses its bits when somebody needs room.  (A number
// that is in use again delays that.)
//
// The heap's lock guards the parties and the bits; it is robust, and every step under it leaves the bits
// sound, so whoever gets it from the dead has nothing to do.
//
// fork(): the child must have its bits before the parent can drop a cell.  So the parent makes the child's
// row before it forks, and the child puts its name to that, or makes a row of its own if it is gone.  A row
// whose child died before it did, or was never there, is free after as many more forks of the parent as there
// are reservations: a child may be late by that many.
//
// A cell that needs more memory than it is takes runs of units, see shared_extents.h; their owner is the
// cell, by its place and serial.  They are free when nobody has the cell any more: the last to drop it gives
// their memory back, and what was the dead's is found when memory would grow by as much again.  The file is
// as large as it can ever be, and has no memory where nobody asked for it; a process maps a run when it
// needs it.
//
// A container, which is a cell, holds the cells that its items refer to, see shared_holds.h.  When nobody has
// it any more it lets go of them, and so on.  A process that reads an item becomes a user of those cells with
// the container's lock, before another can take the item away; by its bits, like any user, so that its death
// ends that.  When there is no room, a process looks for cells that only the dead had, and for containers
// that nobody has but that hold each other: it lets go of everything that no party leads to.
//
//     shared_heap_layout.c     what lies in the file; the lock, and the bits
//     shared_heap_parties.c    processes that come and go, by fork() too
//     shared_heap_collect.c    what nobody has any more
//     shared_heap_cells.c      cells, their users, and the cells that containers hold
//     shared_heap_memory.c     units of cells, and looks, which keep them
//     shared_heap_map.c        how a process maps them
//     shared_heap_open.c       the file
//
// A death between two steps costs at most a cell until the program ends.  Memory that is short is an error
// here and never a SIGBUS later: what is used is allocated first.
//
// No function needs the GIL; all but shared_heap_drop() may sleep, for as long as others take to do as
// little.  No Python.
#ifndef PYCONC_SHARED_HEAP_H
#define PYCONC_SHARED_HEAP_H

#include "robust_lock.h"
#include "shared_extents.h"

#define SHARED_HEAP_CELLS 65536
#define SHARED_HEAP_PARTIES 1024
#define SHARED_HEAP_RESERVATIONS 16
#define SHARED_HEAP_PINNED UINT32_MAX  // in place of the number of pickles under way

enum {
    SHARED_HEAP_FULL = -20,  // no cell, no party, or no memory
    SHARED_HEAP_GONE = -21,  // there is no such cell any more
    SHARED_HEAP_LOOKED_AT = 1,
};

// What a cell is, its users know.  128 bytes, in two lines.
typedef struct shared_cell {
    robust_lock lock;                        // the lock that it is, or the one that guards the rest
    uint64_t serial;                         // no other cell of the heap has had it; constant while in use
    _Atomic uint32_t sent;                   // pickles under way; by the heap's lock, so relaxed everywhere
    uint32_t has_memory;                     // it may own units; guarded by the heap's lock
    _Alignas(64) _Atomic uint32_t words[8];  // see shared_sync.h
    _Atomic uint64_t value;
    _Atomic uint64_t more;    // of a container
    _Atomic uint32_t refers;  // of a container, see shared_run.h; by the lock, so relaxed everywhere
    uint32_t has_spare;       // runs at which others look: they are asked again when its lock, which
                              // guards this, was taken so often
    uint32_t unused[2];
} shared_cell;

_Static_assert(sizeof(shared_cell) == 128, "shared between processes");

// This process's view of a heap.
typedef struct shared_heap shared_heap;

#endif
