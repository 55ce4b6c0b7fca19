#define _GNU_SOURCE
#include "shared_block.h"

#include <string.h>
#include <sys/mman.h>

#include "shared_heap_cells.h"
#include "shared_heap_map.h"
#include "shared_heap_memory.h"

// ---- the cell's words ----
//
// `value` is 0, or bit 63, the order of the run in 5 bits and its first unit in 20; `more` is the number of
// bytes, and words[0] says whether it is sealed.  The pickle that brings the cell to another process, or the
// fork, comes after them: relaxed, all of them.

#define HAS_RUN (UINT64_C(1) << 63)
#define IS_SEALED 1

_Static_assert(SHARED_UNITS == 1 << 20 && SHARED_ORDER_MAX < 32, "a run has 25 bits");

static void
write_words(shared_cell *cell, uint32_t unit, uint32_t order, uint64_t bytes)
{
    // Relaxed: see above.
    atomic_store_explicit(&cell->more, bytes, memory_order_relaxed);
    atomic_store_explicit(&cell->value, HAS_RUN | (uint64_t)order << 20 | unit, memory_order_relaxed);
}

// The smallest run that has so many bytes.
static uint32_t
order_of(uint64_t bytes)
{
    uint32_t order = 0;
    while (SHARED_UNIT_BYTES << order < bytes) {
        order++;
    }
    return order;
}

// ---- views ----

static int
make(shared_block *block, shared_heap *heap, uint32_t index, uint64_t bytes, bool has_memory)
{
    *block = (shared_block){.at = NULL};
    if (bytes == 0) {
        return 0;
    }
    if (bytes > SHARED_BLOCK_BYTES_MAX) {
        return SHARED_HEAP_FULL;
    }
    uint32_t unit, order = order_of(bytes);
    int rc = shared_heap_take(heap, index, order, &unit);
    if (rc < 0) {
        return rc;
    }
    uint64_t mapped = SHARED_UNIT_BYTES << order;
    unsigned char *at = shared_heap_map(heap, unit, order, false);
    // What had the run before has given its memory back, unless the system refused that.
    bool is_clear = at != NULL && madvise(at, mapped, MADV_REMOVE) == 0;
    if (at == NULL || (has_memory && !shared_heap_commit(heap, unit, 0, bytes))) {
        if (at != NULL) {
            munmap(at, mapped);
        }
        shared_heap_keep(heap, index, SHARED_NO_UNIT, 0);  // if it cannot now, the cell's end does it
        return SHARED_HEAP_FULL;
    }
    if (!is_clear && has_memory) {
        memset(at, 0, bytes);
    }
    *block = (shared_block){.heap = heap, .at = at, .bytes = bytes, .unit = unit, .order = order};
    write_words(shared_heap_cell(heap, index), unit, order, bytes);
    return 0;
}

int
shared_block_make(shared_block *block, shared_heap *heap, uint32_t index, uint64_t bytes)
{
    return make(block, heap, index, bytes, true);
}

int
shared_block_reserve(shared_block *block, shared_heap *heap, uint32_t index, uint64_t bytes)
{
    return make(block, heap, index, bytes, false);
}

int
shared_block_open(shared_block *block, shared_heap *heap, uint32_t index)
{
    const shared_cell *cell = shared_heap_cell(heap, index);
    // Relaxed: see above.
    uint64_t run = atomic_load_explicit(&cell->value, memory_order_relaxed);
    uint64_t bytes = atomic_load_explicit(&cell->more, memory_order_relaxed);
    bool is_sealed = atomic_load_explicit(&cell->words[0], memory_order_relaxed) == IS_SEALED;
    *block = (shared_block){.heap = heap, .is_sealed = is_sealed};
    if (run == 0) {
        return 0;
    }
    uint32_t unit = run & (SHARED_UNITS - 1);
    uint32_t order = run >> 20 & 31;
    // Another process may have written anywhere, and here would lead us to where there is no memory.
    if (order > SHARED_ORDER_MAX || bytes > SHARED_UNIT_BYTES << order
        || unit + (UINT64_C(1) << order) > SHARED_UNITS) {
        return SHARED_HEAP_GONE;
    }
    block->at = shared_heap_map(heap, unit, order, is_sealed);
    if (block->at == NULL) {
        return SHARED_HEAP_FULL;
    }
    block->bytes = bytes;
    block->unit = unit;
    block->order = order;
    return 0;
}

bool
shared_block_write(shared_block *block, uint64_t from, const void *data, uint64_t bytes)
{
    if (bytes == 0) {
        return true;
    }
    uint64_t done = shared_heap_write(block->heap, block->unit, from, data, bytes);
    if (done < bytes && !shared_heap_commit(block->heap, block->unit, from + done, from + bytes)) {
        return false;
    }
    memcpy(block->at + from + done, (const char *)data + done, bytes - done);
    return true;
}

bool
shared_block_seal(shared_block *block, shared_heap *heap, uint32_t index)
{
    if (block->at != NULL && mprotect(block->at, SHARED_UNIT_BYTES << block->order, PROT_READ) < 0) {
        return false;
    }
    block->is_sealed = true;
    // Relaxed: see above.
    atomic_store_explicit(&shared_heap_cell(heap, index)->words[0], IS_SEALED, memory_order_relaxed);
    return true;
}

void
shared_block_fini(shared_block *block)
{
    if (block->at != NULL && block->is_sealed) {
        shared_heap_unmap(block->heap, block->at, block->unit, block->order);
    }
    else if (block->at != NULL) {
        munmap(block->at, SHARED_UNIT_BYTES << block->order);
    }
    *block = (shared_block){.at = NULL};
}
