// shared_heap_parties: the processes that have mapped a heap: how they come, by fork() too, and are found
// dead.  See shared_heap.h for the rows that are reserved for children.  No Python.
#ifndef PYCONC_SHARED_HEAP_PARTIES_H
#define PYCONC_SHARED_HEAP_PARTIES_H

#include "shared_heap_layout.h"

// To be called before a fork, and in the child.
void shared_heap_before_fork(shared_heap *heap);
void shared_heap_after_fork(shared_heap *heap);

// ---- for the files of a heap: with its lock ----

// Makes an empty row, in a state that keeps others off.  NOBODY: there is no room.
uint32_t shared_heap_add_party(shared_heap *heap, uint32_t state);

// Frees the rows of processes that are gone.
void shared_heap_reap_parties(shared_heap *heap);

#endif
