#include "shared_item.h"

#include <stdlib.h>
#include <string.h>

static bool
make_room(shared_refs *refs, uint32_t more)
{
    if (more <= refs->room - refs->count) {
        return true;
    }
    uint64_t room = (uint64_t)refs->count + more + refs->room;
    if (room > UINT32_MAX) {
        return false;
    }
    uint32_t *cells = malloc((size_t)room * sizeof(*cells));
    if (cells == NULL) {
        return false;
    }
    memcpy(cells, refs->cells, refs->count * sizeof(*cells));
    if (refs->cells != refs->few) {
        free(refs->cells);
    }
    refs->cells = cells;
    refs->room = (uint32_t)room;
    return true;
}

bool
shared_refs_add(shared_refs *refs, uint32_t cell)
{
    if (!make_room(refs, 1)) {
        return false;
    }
    refs->cells[refs->count++] = cell;
    return true;
}

bool
shared_refs_add_those_of(shared_refs *refs, const shared_item *item)
{
    uint32_t count = shared_item_refs(item);
    if (count == 0) {
        return true;
    }
    if (!make_room(refs, count)) {
        return false;
    }
    memcpy(refs->cells + refs->count, item->bytes + SHARED_ITEM_HEAD_BYTES, count * sizeof(uint32_t));
    refs->count += count;
    return true;
}

uint32_t
shared_item_refs(const shared_item *item)
{
    uint32_t count;
    if (!shared_item_refers(item)) {
        return 0;
    }
    memcpy(&count, item->bytes + 1, sizeof(count));
    // A stray write must not lead beyond the item.
    return count <= (item->size - SHARED_ITEM_HEAD_BYTES) / sizeof(uint32_t) ? count : 0;
}

size_t
shared_item_head_bytes(const shared_item *item)
{
    uint32_t count = shared_item_refs(item);
    return count == 0 ? 0 : SHARED_ITEM_HEAD_BYTES + count * sizeof(uint32_t);
}

void
shared_item_write_head(unsigned char *bytes, const uint32_t *cells, uint32_t count)
{
    bytes[0] = SHARED_ITEM_REFERS;
    memcpy(bytes + 1, &count, sizeof(count));
    memcpy(bytes + SHARED_ITEM_HEAD_BYTES, cells, count * sizeof(*cells));
}
