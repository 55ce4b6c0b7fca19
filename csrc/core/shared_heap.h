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
    _Atomic uint64_t more;       // of a container
    _Atomic uint32_t refers;     // of a container, see shared_run.h; by the lock, so relaxed everywhere
    _Atomic uint32_t has_spare;  // units that it would give back, see shared_look.h; by the lock, and a hint
                                 // without it, so relaxed everywhere
    uint32_t unused[2];
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

// One more user of a cell in this process.  Also SHARED_HEAP_GONE.
int shared_heap_attach(shared_heap *heap, uint32_t index, uint64_t serial);

// One more user, by one that has it already.
int shared_heap_share(shared_heap *heap, uint32_t index);

// One more user of each of these cells, which somebody else has or holds until this has returned.
int shared_heap_share_each(shared_heap *heap, const uint32_t *cells, uint32_t count);

// One user less.  It never sleeps: work that it cannot do now is done later.
void shared_heap_drop(shared_heap *heap, uint32_t index);

// One user less of each; it may sleep.
void shared_heap_drop_each(shared_heap *heap, const uint32_t *cells, uint32_t count);

// A pickle of a cell that this process has is on its way; and one has arrived.
int shared_heap_send(shared_heap *heap, uint32_t index);
int shared_heap_received(shared_heap *heap, uint32_t index);

// A pickle of a cell that this process has stays where no heap's containers are: the cell is in use for as
// long as there is a heap.
int shared_heap_pin(shared_heap *heap, uint32_t index);

// ---- cells that a container holds, which this process has, with the container's lock ----

// Holds each of these once more; this process has them.  0, or SHARED_HEAP_FULL, or a status of robust_lock,
// and then it holds none of them.
int shared_heap_hold(shared_heap *heap, uint32_t container, const uint32_t *cells, uint32_t count);

// Holds each of these once less.  A status of robust_lock means that it still does.
int shared_heap_let_go(shared_heap *heap, uint32_t container, const uint32_t *cells, uint32_t count);

// Holds those that it does only as often as `counts` says, by cell: never more often than before.
int shared_heap_settle(shared_heap *heap, uint32_t container, const uint32_t *counts);

// ---- memory ----

// Makes a run of 1 << order units the cell's, which this process has.  0, or SHARED_HEAP_FULL, or a status of
// robust_lock.  No memory comes with it yet.
int shared_heap_take(shared_heap *heap, uint32_t index, uint32_t order, uint32_t *unit);

// Gives back all units of the cell but the run that begins at `kept`; SHARED_NO_UNIT: all.  A status of
// robust_lock, or SHARED_HEAP_LOOKED_AT, means that they stay until the next call.
int shared_heap_keep(shared_heap *heap, uint32_t index, uint32_t kept, uint32_t order);

// Allocates memory for bytes `from` to `to` of a run of the cell's.  False: there is none.
bool shared_heap_commit(const shared_heap *heap, uint32_t unit, uint64_t from, uint64_t to);

// Maps a run, for as long as the caller likes, to read it only or to write, too; the child of a fork has it
// as well.  NULL: the system refuses.
void *shared_heap_map(shared_heap *heap, uint32_t unit, uint32_t order, bool is_read_only);

// Maps it once more, to read it only, where there are addresses enough.
void *shared_heap_map_again(shared_heap *heap, uint32_t unit, uint32_t order);

// The caller no longer needs what shared_heap_map() has returned, which is read-only.  The process keeps some
// of these mappings for who maps the same run next, which may be another cell's by then: a mapping has no
// memory of its own, and what the cell gives back is gone from it, too.
void shared_heap_unmap(shared_heap *heap, void *at, uint32_t unit, uint32_t order);

// ---- looks at a container that this process has, without its lock, see shared_look.h ----

// From here on the cell gives no units back, until this process announces none.  False: it looks at another.
bool shared_heap_announce(shared_heap *heap, uint32_t index);
void shared_heap_announce_none(shared_heap *heap);

// To be called before a fork, and in the child.
void shared_heap_before_fork(shared_heap *heap);
void shared_heap_after_fork(shared_heap *heap);

// How many cells are in use, by whomever.  It gives back all others, and their memory.
uint32_t shared_heap_used(shared_heap *heap);

#endif
