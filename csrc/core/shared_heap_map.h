// shared_heap_map: how a process maps the memory of cells.
//
// To map 100 MB, find the first page and unmap it again costs more than the task that is sent it.  So a
// process keeps the last read-only mappings that it had: each in one word, the address beside the run, which
// somebody takes whole or not at all, in a signal's handler or the child of a fork, too.  A run is a place in
// the file, so a mapping never shows anything but what is there now.
#ifndef PYCONC_SHARED_HEAP_MAP_H
#define PYCONC_SHARED_HEAP_MAP_H

#include "shared_heap.h"

// Maps a run, for as long as the caller likes, to read it only or to write, too; the child of a fork has it
// as well.  NULL: the system refuses.
void *shared_heap_map(shared_heap *heap, uint32_t unit, uint32_t order, bool is_read_only);

// Maps it once more, to read it only, where there are addresses enough.
void *shared_heap_map_again(shared_heap *heap, uint32_t unit, uint32_t order);

// The caller no longer needs what shared_heap_map() has returned, which is read-only.  The process keeps some
// of these mappings for whoever maps the same run next, which may be another cell's by then: a mapping has no
// memory of its own, and what the cell gives back is gone from it, too.
void shared_heap_unmap(shared_heap *heap, void *at, uint32_t unit, uint32_t order);

// ---- for the files of a heap ----

// As many units as the file can have.
uint32_t shared_heap_units_of(int fd);

// Unmaps what it keeps.
void shared_heap_unmap_all_kept(shared_heap *heap);

#endif
