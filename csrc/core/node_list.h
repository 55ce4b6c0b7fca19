// node_list: lists of things that have their place in the list within themselves, so nothing is allocated.
//
// A node_list is first in, first out.  The node is the first field of the listed thing, so that a node is its
// thing.  A list of list_links has no order, but a thing can leave it at any time; the link may be any field.
//
// No lock: the owner of a list says what guards it; that guards the nodes and links on it, too.  No Python.
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

// Takes the first off the list; or returns NULL.
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

// Takes off the list the node to which *place points, the list's first or the next of another.
static inline void
node_list_remove(node_list *list, list_node **place)
{
    list_node *node = *place;
    *place = node->next;
    if (list->end == &node->next) {
        list->end = place;
    }
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

typedef struct list_link {
    struct list_link *next;
    struct list_link **place;  // the pointer that points here; NULL: on no list
} list_link;

// The thing of which a link is the named field.
#define THING_OF(link, type, field) ((type *)(void *)((char *)(link) - offsetof(type, field)))

static inline void
list_link_push(list_link **first, list_link *link)
{
    link->next = *first;
    link->place = first;
    if (link->next != NULL) {
        link->next->place = &link->next;
    }
    *first = link;
}

// Does nothing if the link is on no list.
static inline void
list_link_remove(list_link *link)
{
    if (link->place != NULL) {
        *link->place = link->next;
        if (link->next != NULL) {
            link->next->place = link->place;
        }
        link->place = NULL;
    }
}

#endif
