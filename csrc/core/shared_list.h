// shared_list: a list in a cell of a shared heap.
//
// It is a shared_run, see there, with this for a table:
//
//     table    bounds: first, end | capacity | slots...           its items are slots first to end - 1
//
// A change publishes a slot, for another item; the bounds, for items that came or went at an end; else a new
// table.
//
// Of shared_run.h a user calls what is without the lock, bytes and version.  Everything here is with the
// lock, except for looks.  Places are checked by the caller: less than shared_list_count().  No Python.
#ifndef PYCONC_SHARED_LIST_H
#define PYCONC_SHARED_LIST_H

#include "shared_look.h"

#define SHARED_LIST_MAX UINT32_C(0x7fffffff)

extern const shared_run_kind shared_list_kind;

uint32_t shared_list_count(const shared_run *list);
shared_item shared_list_get(const shared_run *list, uint32_t place);

// Without the lock: 1, with a copy of the item at an index, which counts from the end if it is negative; 0:
// there is no such; and how many there are.  -1: whoever wants to know takes the lock.
int shared_list_look(shared_run *list, int64_t index, shared_seen *item);
int64_t shared_list_look_count(shared_run *list);

// All below: 0, or SHARED_HEAP_FULL, or a status of robust_lock, with the list as it was.

int shared_list_set(shared_run *list, uint32_t place, const shared_item *item);

// Puts items in place of those from `start` to `stop`.
int shared_list_splice(shared_run *list, uint32_t start, uint32_t stop, const shared_item *items,
                       uint32_t count);

// Makes it a list of `count` items: each is one that there is, by its place, or SHARED_LIST_NEW + i, the i-th
// of the new.
#define SHARED_LIST_NEW UINT32_C(0x80000000)
int shared_list_rebuild(shared_run *list, const uint32_t *order, uint32_t count, const shared_item *items,
                        uint32_t item_count);

#endif
