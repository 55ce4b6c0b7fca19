#include "shared_heap_collect.h"

#include <string.h>

// ---- units ----

uint64_t
shared_heap_owner_of(const shared_heap *heap, uint32_t index)
{
    return shared_holds_owner(index, heap->at->cells_at[index].serial);
}

_Static_assert(SHARED_HEAP_CELLS == SHARED_HOLDS_CELLS, "a cell's place is the low half of an owner");

static bool
is_owner_there(const shared_heap *heap, uint64_t owner)
{
    uint32_t index = (uint32_t)(owner & 0xffff);
    return index < shared_heap_cell_count(heap) && shared_heap_owner_of(heap, index) == owner
           && shared_heap_is_used(heap, index);
}

static void
release_units(shared_heap *heap, uint32_t unit, uint32_t count)
{
    // The memory first: nobody else may have the units yet.
    shared_heap_release_bytes(heap, UNITS_OFFSET + unit * SHARED_UNIT_BYTES, count * SHARED_UNIT_BYTES);
    shared_extents_release(&heap->at->extents, unit, count);
}

// Up to where the units from this one on have one fate, at most `end`; and which run they are in, NULL: none.
static uint64_t
find_kept(const kept_runs *kept, uint64_t unit, uint64_t end, const struct kept_units **found)
{
    *found = NULL;
    for (uint32_t i = 0; i < kept->count; i++) {
        const struct kept_units *run = &kept->runs[i];
        if (run->first <= unit && unit < run->end) {
            *found = run;
            return run->end < end ? run->end : end;
        }
        if (run->first > unit && run->first < end) {
            end = run->first;
        }
    }
    return end;
}

bool
shared_heap_release_all_but(shared_heap *heap, uint64_t owner, const kept_runs *kept)
{
    bool has_spare = false;
    uint32_t count, unit;
    uint64_t whose, at, next;
    for (uint32_t from = 0; (count = shared_extents_next(&heap->at->extents, from, &unit, &whose)) > 0;
         from = unit + count) {
        for (at = unit; whose == owner && at < unit + count; at = next) {
            const struct kept_units *run;
            next = find_kept(kept, at, unit + count, &run);
            has_spare = has_spare || (run != NULL && run != &kept->runs[0]);
            if (run == NULL) {
                release_units(heap, (uint32_t)at, (uint32_t)(next - at));
            }
        }
    }
    return has_spare;
}

uint32_t
shared_heap_sweep(shared_heap *heap)
{
    uint32_t count, unit, used = 0;
    uint64_t owner;
    for (uint32_t from = 0; (count = shared_extents_next(&heap->at->extents, from, &unit, &owner)) > 0;
         from = unit + count) {
        if (is_owner_there(heap, owner)) {
            used += count;
        }
        else {
            release_units(heap, unit, count);
        }
    }
    return used;
}

// ---- what containers hold ----

void
shared_heap_let_go_of(shared_heap *heap, uint32_t index)
{
    if (index < shared_heap_cell_count(heap) && !shared_holds_any(&heap->at->holds, index)
        && shared_heap_has(heap, ITEMS, index)) {
        shared_heap_clear(heap, ITEMS, index);
        // Found once: nothing holds it any more.
        if (!shared_heap_is_used(heap, index)) {
            heap->found[heap->found_count++] = index;
        }
    }
}

void
shared_heap_forget_found(shared_heap *heap)
{
    while (heap->found_count > 0) {
        uint32_t held, index = heap->found[--heap->found_count];
        if (heap->at->cells_at[index].has_memory != 0) {
            heap->at->cells_at[index].has_memory = 0;
            static const kept_runs none;
            (void)shared_heap_release_all_but(heap, shared_heap_owner_of(heap, index), &none);
        }
        while ((held = shared_holds_take(&heap->at->holds, index)) != SHARED_NO_CELL) {
            shared_heap_let_go_of(heap, held);
        }
    }
}

void
shared_heap_let_go_of_found(void *arg, uint32_t index)
{
    shared_heap_let_go_of((shared_heap *)arg, index);
}

static void
reach(void *arg, uint32_t index)
{
    shared_heap *heap = arg;
    uint64_t bit = UINT64_C(1) << index % 64;
    if (index < shared_heap_cell_count(heap) && (heap->reached[index / 64] & bit) == 0) {
        heap->reached[index / 64] |= bit;
        heap->found[heap->found_count++] = index;
    }
}

void
shared_heap_collect(shared_heap *heap)
{
    shared_holds *holds = &heap->at->holds;
    memset(heap->reached, 0, sizeof(heap->reached));
    heap->found_count = 0;
    for (uint32_t word = 0; word * 64 < shared_heap_cell_count(heap); word++) {
        uint64_t had = shared_heap_had_but_by(heap, ITEMS, word);
        for (; had != 0; had &= had - 1) {
            reach(heap, word * 64 + (uint32_t)__builtin_ctzll(had));
        }
    }
    while (heap->found_count > 0) {
        shared_holds_each(holds, heap->found[--heap->found_count], reach, heap);
    }
    for (uint32_t i = 0; i < shared_heap_cell_count(heap); i++) {
        uint32_t held;
        while ((heap->reached[i / 64] >> i % 64 & 1) == 0
               && (held = shared_holds_take(holds, i)) != SHARED_NO_CELL) {
            if (!shared_holds_any(holds, held)) {
                shared_heap_clear(heap, ITEMS, held);
            }
        }
    }
    heap->at->is_untidy = 0;
}

void
shared_heap_let_go_of_the_dead_s(shared_heap *heap)
{
    if (heap->at->is_untidy != 0) {
        shared_heap_collect(heap);
        shared_heap_sweep(heap);
    }
}
