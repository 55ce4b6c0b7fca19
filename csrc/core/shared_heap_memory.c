#define _GNU_SOURCE
#include "shared_heap_memory.h"

#include <errno.h>
#include <unistd.h>

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

// As an announcement: a run of 1 << order units, at which users of this cell look.
static uint64_t
word_of(uint32_t index, uint32_t unit, uint32_t order)
{
    return (uint64_t)unit << 32 | (uint64_t)(order & 31) << 24 | (index + 1);
}

_Static_assert(SHARED_HEAP_CELLS < 1 << 24, "a cell's place has 24 bits of an announcement");

static void
keep_run(kept_runs *kept, uint32_t unit, uint32_t order)
{
    kept->runs[kept->count++] = (struct kept_units){.first = unit, .end = unit + (UINT64_C(1) << order)};
}

// Releases the cell's units but those of a run, and of others at which processes look.  Returns whether there
// are such.
static bool
release_unused(shared_heap *heap, uint32_t index, uint32_t unit, uint32_t order)
{
    kept_runs kept;
    kept.count = 0;
    keep_run(&kept, unit, order);
    for (uint32_t i = FIRST_PROCESS; i < shared_heap_row_count(heap); i++) {
        if (shared_heap_state_of(heap, i) != PARTY_FREE) {
            // A51: pairs with R51 in shared_heap_announce_none(): who looked has seen what it saw.
            // seq_cst: see shared_heap_announce().
            uint64_t run = atomic_load_explicit(&heap->at->announcements[i].run, memory_order_seq_cst);
            if ((run & 0xffffff) == index + 1) {
                keep_run(&kept, (uint32_t)(run >> 32), run >> 24 & 31);
            }
        }
    }
    return shared_heap_release_all_but(heap, shared_heap_owner_of(heap, index), &kept);
}

int
shared_heap_keep(shared_heap *heap, uint32_t index, uint32_t kept, uint32_t order)
{
    int rc = shared_heap_enter(heap);
    if (rc < 0) {
        return rc;
    }
    if (release_unused(heap, index, kept, order)) {
        shared_heap_reap_parties(heap);  // one of them may have looked until its end
        rc = release_unused(heap, index, kept, order) ? SHARED_HEAP_LOOKED_AT : 0;
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

uint64_t
shared_heap_write(const shared_heap *heap, uint32_t unit, uint64_t from, const void *data, uint64_t bytes)
{
    uint64_t start = UNITS_OFFSET + unit * SHARED_UNIT_BYTES + from, done = 0;
    if (!shm_file_is_there(&heap->file)) {
        return 0;
    }
    while (done < bytes) {
        uint64_t step = bytes - done < STEP_BYTES ? bytes - done : STEP_BYTES;
        ssize_t written =
            pwrite(heap->file.fd, (const char *)data + done, (size_t)step, (off_t)(start + done));
        if (written <= 0 && !(written < 0 && errno == EINTR)) {
            break;
        }
        done += written < 0 ? 0 : (uint64_t)written;
    }
    return done;
}

// ---- looks ----

static announcement *
own_announcement(const shared_heap *heap)
{
    return &heap->at->announcements[heap->party];
}

bool
shared_heap_announce(shared_heap *heap, uint32_t index, uint32_t unit, uint32_t order)
{
    uint64_t none = 0;
    // seq_cst: what is read from now on is ordered after it, for whoever asks in release_unused() as well.
    return atomic_compare_exchange_strong_explicit(&own_announcement(heap)->run, &none,
                                                   word_of(index, unit, order), memory_order_seq_cst,
                                                   memory_order_relaxed);
}

void
shared_heap_announce_none(shared_heap *heap)
{
    // R51: pairs with A51 in release_unused(), and the next announcement: what was to be read has been.
    atomic_store_explicit(&own_announcement(heap)->run, 0, memory_order_release);
}
