// shared_item: an item of a container, and which cells of the heap it refers to.
//
// What an item means, its user knows; but one that refers to cells, of objects that are in it, says so:
//
//     bytes    SHARED_ITEM_REFERS | how many cells, 4 bytes | their places, 4 bytes each | the user's bytes
//
// A container holds those cells, see shared_heap_hold(), as long as it has the item.  No other item begins
// with that byte.  No Python.
#ifndef PYCONC_SHARED_ITEM_H
#define PYCONC_SHARED_ITEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#define SHARED_ITEM_REFERS 0x81
#define SHARED_ITEM_HEAD_BYTES 5  // and then the places

// An item on its way in, or where it is in memory, until the container's lock is released.
typedef struct shared_item {
    const unsigned char *bytes;  // NULL: the word is the item
    uint64_t size;
    uint64_t word;  // odd
} shared_item;

#define SHARED_REFS_FEW 4

// Cells by their places, each as often as something refers to it.  Of one thread.
typedef struct shared_refs {
    uint32_t *cells;
    uint32_t count, room;
    uint32_t few[SHARED_REFS_FEW];
} shared_refs;

static inline void
shared_refs_init(shared_refs *refs)
{
    refs->cells = refs->few;
    refs->count = 0;
    refs->room = SHARED_REFS_FEW;
}

static inline void
shared_refs_fini(shared_refs *refs)
{
    if (refs->cells != refs->few) {
        free(refs->cells);
        shared_refs_init(refs);
    }
    refs->count = 0;
}

// false: there is no memory, and nothing has changed.
bool shared_refs_add(shared_refs *refs, uint32_t cell);

// Adds those of an item that refers to any.
bool shared_refs_add_those_of(shared_refs *refs, const shared_item *item);

// Few items do.
static inline bool
shared_item_refers(const shared_item *item)
{
    return item->bytes != NULL && item->size >= SHARED_ITEM_HEAD_BYTES
           && item->bytes[0] == SHARED_ITEM_REFERS;
}

// Adds those of an item.
static inline bool
shared_refs_add_item(shared_refs *refs, const shared_item *item)
{
    return !shared_item_refers(item) || shared_refs_add_those_of(refs, item);
}

// How many cells an item refers to, and how many of its bytes say so; in most, 0.
uint32_t shared_item_refs(const shared_item *item);
size_t shared_item_head_bytes(const shared_item *item);

// Writes what says so, of SHARED_ITEM_HEAD_BYTES and 4 for each.
void shared_item_write_head(unsigned char *bytes, const uint32_t *cells, uint32_t count);

#endif
