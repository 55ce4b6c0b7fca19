// shared_heap_memory: runs of units that a cell takes and gives back, and looks at a run, during which it
// stays.  No Python.
#ifndef PYCONC_SHARED_HEAP_MEMORY_H
#define PYCONC_SHARED_HEAP_MEMORY_H

#include "shared_heap.h"

// Makes a run of 1 << order units the cell's, which this process has.  0, or SHARED_HEAP_FULL, or a status of
// robust_lock.  No memory comes with it yet.
int shared_heap_take(shared_heap *heap, uint32_t index, uint32_t order, uint32_t *unit);

// Gives back all units of the cell but the run that begins at `kept`; SHARED_NO_UNIT: all.  A status of
// robust_lock means that they stay until the next call; SHARED_HEAP_LOOKED_AT, that runs do at which
// processes look.
int shared_heap_keep(shared_heap *heap, uint32_t index, uint32_t kept, uint32_t order);

// Allocates memory for bytes `from` to `to` of a run of the cell's.  False: there is none.
bool shared_heap_commit(const shared_heap *heap, uint32_t unit, uint64_t from, uint64_t to);

// Writes bytes into a run of the cell's from byte `from` on, through the file.  That takes memory where there
// is none, and half the time that shared_heap_commit() and the way through a mapping take together, with a
// fault for each page.  Returns how many bytes it has written: fewer if the system refuses more.
uint64_t shared_heap_write(const shared_heap *heap, uint32_t unit, uint64_t from, const void *data,
                           uint64_t bytes);

// ---- looks at a container that this process has, without its lock, see shared_look.h ----

// From here on this run, if it is the cell's, is not given back until this process announces none.  False: it
// has announced another.
bool shared_heap_announce(shared_heap *heap, uint32_t index, uint32_t unit, uint32_t order);
void shared_heap_announce_none(shared_heap *heap);

#endif
