#include "timer_heap.h"

// Makes a pointer point to a tree, or to nothing.
static void
put(timer_node **place, timer_node *node)
{
    *place = node;
    if (node != NULL) {
        node->place = place;
    }
}

// One tree of two that have no siblings; it has no place yet.
static timer_node *
merge(timer_node *a, timer_node *b)
{
    if (b->due_ns < a->due_ns) {
        timer_node *earlier = b;
        b = a;
        a = earlier;
    }
    put(&b->sibling, a->child);
    put(&a->child, b);
    return a;
}

// One tree, without a place or siblings, of a chain of siblings; NULL of none.
static timer_node *
merge_chain(timer_node *chain)
{
    timer_node *pairs = NULL;  // the last first; linked by `sibling`
    while (chain != NULL) {
        timer_node *one = chain, *other = chain->sibling;
        chain = other == NULL ? NULL : other->sibling;
        one->sibling = NULL;
        if (other != NULL) {
            other->sibling = NULL;
            one = merge(one, other);
        }
        one->sibling = pairs;
        pairs = one;
    }
    timer_node *tree = NULL;
    while (pairs != NULL) {
        timer_node *next = pairs->sibling;
        pairs->sibling = NULL;
        tree = tree == NULL ? pairs : merge(tree, pairs);
        pairs = next;
    }
    return tree;
}

void
timer_heap_insert(timer_heap *heap, timer_node *node, int64_t due_ns)
{
    *node = (timer_node){.due_ns = due_ns};
    put(&heap->first, heap->first == NULL ? node : merge(heap->first, node));
}

void
timer_heap_remove(timer_node *node)
{
    if (node->place == NULL) {
        return;
    }
    // What was below the node takes its place: it is not due before the node's parent either.
    timer_node *below = merge_chain(node->child);
    if (below == NULL) {
        put(node->place, node->sibling);
    }
    else {
        put(&below->sibling, node->sibling);
        put(node->place, below);
    }
    node->child = node->sibling = NULL;
    node->place = NULL;
}
