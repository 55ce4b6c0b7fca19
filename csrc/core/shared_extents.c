#include "shared_extents.h"

static uint32_t
round_up(uint32_t unit, uint32_t count)
{
    return (unit + count - 1) & ~(count - 1);
}

// `end` is read from memory that others write: a stray write must not lead beyond the table.
static uint32_t
end_of(const shared_extents *extents)
{
    return extents->end < SHARED_UNITS ? extents->end : SHARED_UNITS;
}

static bool
is_free(const shared_extents *extents, uint32_t unit, uint32_t count)
{
    uint32_t stop = unit + count < end_of(extents) ? unit + count : end_of(extents);
    for (uint32_t i = unit; i < stop; i++) {
        if (extents->owners[i] != 0) {
            return false;
        }
    }
    return true;
}

static uint32_t
find_between(const shared_extents *extents, uint32_t from, uint32_t to, uint32_t count, uint32_t limit)
{
    for (uint32_t i = round_up(from, count); i < to && i + count <= limit; i += count) {
        if (is_free(extents, i, count)) {
            return i;
        }
    }
    return SHARED_NO_UNIT;
}

uint32_t
shared_extents_find(const shared_extents *extents, uint32_t order, uint32_t limit)
{
    uint32_t count = UINT32_C(1) << order;
    uint32_t end = end_of(extents);
    uint32_t search = extents->search < end ? extents->search : end;
    uint32_t found = find_between(extents, search, end, count, limit);
    if (found == SHARED_NO_UNIT) {
        found = find_between(extents, 0, search, count, limit);
    }
    if (found == SHARED_NO_UNIT && round_up(end, count) + count <= limit) {
        found = round_up(end, count);
    }
    return found;
}

void
shared_extents_take(shared_extents *extents, uint32_t unit, uint32_t order, uint64_t owner)
{
    uint32_t count = UINT32_C(1) << order;
    uint32_t end = end_of(extents);
    // What lies between was never used, or was given back: it reads as nobody's only once it is written.
    for (uint32_t i = end; i < unit; i++) {
        extents->owners[i] = 0;
    }
    for (uint32_t i = unit; i < unit + count; i++) {
        extents->owners[i] = owner;
    }
    extents->end = unit + count > end ? unit + count : end;
    extents->search = unit + count;
}

uint32_t
shared_extents_next(const shared_extents *extents, uint32_t from, uint32_t *unit, uint64_t *owner)
{
    uint32_t end = end_of(extents);
    while (from < end && extents->owners[from] == 0) {
        from++;
    }
    uint32_t count = 0;
    while (from + count < end && extents->owners[from + count] == extents->owners[from]) {
        count++;
    }
    *unit = from;
    *owner = count == 0 ? 0 : extents->owners[from];
    return count;
}

void
shared_extents_release(shared_extents *extents, uint32_t unit, uint32_t count)
{
    uint32_t end = end_of(extents);
    for (uint32_t i = unit; i < unit + count && i < end; i++) {
        extents->owners[i] = 0;
    }
    while (end > 0 && extents->owners[end - 1] == 0) {
        end--;
    }
    extents->end = end;
    extents->search = unit < extents->search ? unit : extents->search;
}
