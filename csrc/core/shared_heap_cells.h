// shared_heap_cells: the cells of a heap: who uses them, and which of them containers hold.  No Python.
#ifndef PYCONC_SHARED_HEAP_CELLS_H
#define PYCONC_SHARED_HEAP_CELLS_H

#include "shared_heap.h"

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

// How many cells are in use, by whomever.  It gives back all others, and their memory.
uint32_t shared_heap_used(shared_heap *heap);

// ---- cells that a container holds, which this process has, with the container's lock ----

// Holds each of these once more; this process has them.  0, or SHARED_HEAP_FULL, or a status of robust_lock,
// and then it holds none of them.
int shared_heap_hold(shared_heap *heap, uint32_t container, const uint32_t *cells, uint32_t count);

// Holds each of these once less.  A status of robust_lock means that it still does.
int shared_heap_let_go(shared_heap *heap, uint32_t container, const uint32_t *cells, uint32_t count);

// Holds those that it does only as often as `counts` says, by cell: never more often than before.
int shared_heap_settle(shared_heap *heap, uint32_t container, const uint32_t *counts);

// ---- for shared_heap_open ----

// What could not be done as cells were dropped.  With the heap's lock.
void shared_heap_tidy(shared_heap *heap);

#endif
