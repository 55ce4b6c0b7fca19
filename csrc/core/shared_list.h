// shared_list: a list in a cell of a shared heap.
//
// All of a list is in one run of units (see shared_heap.h), that a process which uses the list has mapped:
//
//     run      header | tables and entries, in the order in which they were made | free, from `top` on
//     table    bounds: first, end | capacity | slots...           its items are slots first to end - 1
//     slot     an odd word: the item itself; an even one: where its entry is
//     entry    size | bytes
//
// One word of the cell, the root, says which run that is and where the table is in it.  A change writes what
// is new above `top`, where nobody looks, and publishes it with one store: of a slot, for another item; of
// the bounds, for items that came or went at an end; of the root, for a new table.  So a process that is
// killed leaves the old or the new list.  What it wrote and did not publish, and what no table has any more,
// is garbage, of which nobody keeps account.  When a run is full, what is in use is copied to another of the
// right size, and the root names that.  So there is no list of free memory, and nothing to repair after a
// death but this: whoever gets the lock from the dead gives back the runs that the root does not name.
//
// Memory comes a little ahead of `top`, when it is used.  The run of an empty list is used from its
// beginning, and given back if it is large.
//
//     who dies in                     leaves
//     writing beyond `top`            garbage
//     copying to another run          a run too much
//     between root and old run        a run too much
//
// The cell's lock guards everything, from shared_list_enter() to shared_list_leave(); in between no Python is
// called.  Places are checked by the caller: less than shared_list_count().  No Python.
#ifndef PYCONC_SHARED_LIST_H
#define PYCONC_SHARED_LIST_H

#include "shared_heap.h"

#define SHARED_LIST_MAX UINT32_C(0x7fffffff)

// This process's view of a list.
typedef struct shared_list {
    shared_heap *heap;
    shared_cell *cell;
    uint32_t index;  // these three are constant
    // Guarded by the cell's lock:
    uint32_t unit, order;         // of the run that is mapped
    _Atomic(unsigned char *) at;  // where; NULL: none is.  A child of another thread's fork reads it, too
} shared_list;

// An item on its way in, or where it is in memory, until the lock is released.
typedef struct shared_item {
    const unsigned char *bytes;  // NULL: the word is the item
    uint64_t size;
    uint64_t word;  // odd
} shared_item;

// Takes the lock: 0, or what robust_lock_acquire() says, or SHARED_HEAP_FULL if the list cannot be mapped.
int shared_list_enter(shared_list *list, int64_t deadline_ns);
void shared_list_leave(shared_list *list);

// A process that drops the list unmaps it.  Nobody else uses this view.
void shared_list_fini(shared_list *list);

// ---- with the lock ----

uint32_t shared_list_count(const shared_list *list);
shared_item shared_list_get(const shared_list *list, uint32_t place);

// How much memory the list has.
uint64_t shared_list_bytes(const shared_list *list);

// Another number after each change.
uint64_t shared_list_version(const shared_list *list);

// All below: 0, or SHARED_HEAP_FULL, or a status of robust_lock, with the list as it was.

int shared_list_set(shared_list *list, uint32_t place, const shared_item *item);

// Puts items in place of those from `start` to `stop`.
int shared_list_splice(shared_list *list, uint32_t start, uint32_t stop, const shared_item *items,
                       uint32_t count);

// Makes it a list of `count` items: each is one that there is, by its place, or SHARED_LIST_NEW + i, the i-th
// of the new.
#define SHARED_LIST_NEW UINT32_C(0x80000000)
int shared_list_rebuild(shared_list *list, const uint32_t *order, uint32_t count, const shared_item *items,
                        uint32_t item_count);

#endif
