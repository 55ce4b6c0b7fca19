// timer_heap: things by when they are due, the earliest first.
//
// A pairing heap: a tree in which no node is due before its parent.  The nodes are in the things themselves,
// so nothing is allocated.  To insert takes constant time; to remove, on average a time in proportion to the
// logarithm of how many there are.
//
// No lock: the owner of a heap says what guards it; that guards its nodes, too.  No Python.
#ifndef PYCONC_TIMER_HEAP_H
#define PYCONC_TIMER_HEAP_H

#include <stddef.h>
#include <stdint.h>

typedef struct timer_node {
    struct timer_node *child;    // the first of those below it
    struct timer_node *sibling;  // the next of those beside it
    struct timer_node **place;   // the pointer that points here; NULL: in no heap
    int64_t due_ns;
} timer_node;

typedef struct timer_heap {
    timer_node *first;  // due before all others, or with them; NULL: there are none
} timer_heap;

// The node is in no heap.
void timer_heap_insert(timer_heap *heap, timer_node *node, int64_t due_ns);

// Does nothing if the node is in no heap.
void timer_heap_remove(timer_node *node);

// When the first is due; INT64_MAX if there is none.
static inline int64_t
timer_heap_due(const timer_heap *heap)
{
    return heap->first == NULL ? INT64_MAX : heap->first->due_ns;
}

#endif
