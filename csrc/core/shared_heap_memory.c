#include "shared_heap_memory.h"

#include "shared_heap_collect.h"
#include "shared_heap_parties.h"

// Many kernels give up, and take back what they have, when a signal comes: so no call takes long.
#define STEP_BYTES (UINT64_C(1) << 22)

static uint32_t
find_units(shared_heap *heap, uint32_t order)
{
    shared_extents *extents = &heap->at->extents;
    uint32_t limit = heap->at->units < SHARED_UNITS ? heap->at->units : SHARED_UNITS;
    uint32_t found = shared_extents_find(extents, order, limit);
    bool is_time = found != SHARED_NO_UNIT && found >= extents->end && found >= extents->sweep_at;
    if (found == SHARED_NO_UNIT || is_time) {
        shared_heap_reap_parties(heap);
        shared_heap_collect(heap);
        uint32_t used = shared_heap_sweep(heap);
        extents->sweep_at = used < SWEEP_LEAST ? 2 * SWEEP_LEAST : 2 * used;
        found = shared_extents_find(extents, order, limit);
    }
    return found;
}

int
shared_heap_take(shared_heap *heap, uint32_t index, uint32_t order, uint32_t *unit)
{
    if (order > SHARED_ORDER_MAX) {
        return SHARED_HEAP_FULL;
    }
    int rc = shared_heap_enter(heap);
    if (rc < 0) {
        return rc;
    }
    shared_extents *extents = &heap->at->extents;
    uint32_t found = find_units(heap, order);
    rc = SHARED_HEAP_FULL;
    if (found != SHARED_NO_UNIT) {
        uint32_t end = found + (UINT32_C(1) << order);
        uint32_t known = extents->end < end ? extents->end : end;
        size_t bytes = (end - known + 1) * sizeof(extents->owners[0]);
        if (shared_heap_allocate(heap, &extents->owners[known], bytes)) {
            heap->at->cells_at[index].has_memory = 1;
            shared_extents_take(extents, found, order, shared_heap_owner_of(heap, index));
            *unit = found;
            rc = 0;
        }
    }
    shared_heap_leave(heap);
    return rc;
}

// Whether some process has announced that it looks at the cell.
static bool
is_looked_at(const shared_heap *heap, uint32_t index)
{
    bool is = false;
    for (uint32_t i = FIRST_PROCESS; i < shared_heap_row_count(heap); i++) {
        if (shared_heap_state_of(heap, i) != PARTY_FREE) {
            // A51: pairs with R51 in shared_heap_announce_none(): who looked has seen what it saw.
            // seq_cst: see shared_heap_announce().
            is |= atomic_load_explicit(&heap->at->announcements[i].cell, memory_order_seq_cst) == index + 1;
        }
    }
    return is;
}

int
shared_heap_keep(shared_heap *heap, uint32_t index, uint32_t kept, uint32_t order)
{
    int rc = shared_heap_enter(heap);
    if (rc < 0) {
        return rc;
    }
    if (is_looked_at(heap, index)) {
        shared_heap_reap_parties(heap);  // one of them may have looked until its end
        rc = is_looked_at(heap, index) ? SHARED_HEAP_LOOKED_AT : 0;
    }
    if (rc == 0) {
        shared_heap_release_all_but(heap, shared_heap_owner_of(heap, index), kept, UINT32_C(1) << order);
    }
    shared_heap_leave(heap);
    return rc;
}

bool
shared_heap_commit(const shared_heap *heap, uint32_t unit, uint64_t from, uint64_t to)
{
    uint64_t start = UNITS_OFFSET + unit * SHARED_UNIT_BYTES;
    if (!shm_file_is_there(&heap->file)) {
        return false;
    }
    while (from < to) {
        uint64_t step = to - from < STEP_BYTES ? to - from : STEP_BYTES;
        if (!shared_heap_allocate_file(heap->file.fd, (off_t)(start + from), (off_t)step)) {
            return false;
        }
        from += step;
    }
    return true;
}

// ---- looks ----

static announcement *
own_announcement(const shared_heap *heap)
{
    return &heap->at->announcements[heap->party];
}

bool
shared_heap_announce(shared_heap *heap, uint32_t index)
{
    uint32_t none = 0;
    // seq_cst: what is read from now on is ordered after it, for who asks in is_looked_at() as well.
    return atomic_compare_exchange_strong_explicit(&own_announcement(heap)->cell, &none, index + 1,
                                                   memory_order_seq_cst, memory_order_relaxed);
}

void
shared_heap_announce_none(shared_heap *heap)
{
    // R51: pairs with A51 in is_looked_at(), and the next announcement: what was to be read has been.
    atomic_store_explicit(&own_announcement(heap)->cell, 0, memory_order_release);
}
