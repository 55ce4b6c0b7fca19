// shared_heap_collect: finds what nobody has any more, and gives its memory back.  For the files of a heap
// alone, which have its lock.  No Python.
#ifndef PYCONC_SHARED_HEAP_COLLECT_H
#define PYCONC_SHARED_HEAP_COLLECT_H

#include "shared_heap_layout.h"

// The owner of a cell's units and holds.
uint64_t shared_heap_owner_of(const shared_heap *heap, uint32_t index);

// Runs that stay; the first of them is the one that is used.
typedef struct kept_runs {
    struct kept_units {
        uint64_t first, end;
    } runs[1 + SHARED_HEAP_PARTIES];
    uint32_t count;
} kept_runs;

// Releases the owner's units, except those of runs that are kept.  Returns whether any of these is not used.
bool shared_heap_release_all_but(shared_heap *heap, uint64_t owner, const kept_runs *kept);

// The container that held this cell does not any more: notes it as found if nobody has it.  The second is the
// same, for whoever is given the heap as an argument.
void shared_heap_let_go_of(shared_heap *heap, uint32_t index);
void shared_heap_let_go_of_found(void *heap, uint32_t index);

// Gives back the memory of what was found to be used by nobody, and lets go of what that holds.
void shared_heap_forget_found(shared_heap *heap);

// Lets go of all that no party leads to, whose memory shared_heap_sweep() then finds: it releases what
// belongs to cells that nobody has, and returns how many units do not.
void shared_heap_collect(shared_heap *heap);
uint32_t shared_heap_sweep(shared_heap *heap);

// Both, if a party has died since: before a cell that it had is another's.
void shared_heap_let_go_of_the_dead_s(shared_heap *heap);

#endif
