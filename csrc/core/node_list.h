// node_list: a first-in-first-out list of things that have their place in the list within themselves.
//
// The node is the first field of whatever is listed, so that a node is its thing, and nothing is allocated.
// No lock: whoever owns a list says what guards it; that guards the nodes on it as well.  No Python.
#ifndef PYCONC_NODE_LIST_H
#define PYCONC_NODE_LIST_H

#include <stdbool.h>
#include <stddef.h>

typedef struct list_node {
    struct list_node *next;
} list_node;

typedef struct node_list {
    list_node *first;
    list_node **end;  // where the next one goes
} node_list;

static inline void
node_list_init(node_list *list)
{
    list->first = NULL;
    list->end = &list->first;
}

static inline bool
node_list_is_empty(const node_list *list)
{
    return list->first == NULL;
}

static inline void
node_list_append(node_list *list, list_node *node)
{
    node->next = NULL;
    *list->end = node;
    list->end = &node->next;
}

// The first, which is listed no more; or NULL.
static inline list_node *
node_list_pop(node_list *list)
{
    list_node *node = list->first;
    if (node != NULL) {
        list->first = node->next;
        if (list->first == NULL) {
            list->end = &list->first;
        }
    }
    return node;
}

// All of them, linked; the list is empty afterwards.
static inline list_node *
node_list_take(node_list *list)
{
    list_node *all = list->first;
    node_list_init(list);
    return all;
}

// Moves all of one list to the end of another.
static inline void
node_list_move(node_list *from, node_list *to)
{
    if (from->first != NULL) {
        *to->end = from->first;
        to->end = from->end;
        node_list_init(from);
    }
}

#endif
