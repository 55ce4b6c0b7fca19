#define _GNU_SOURCE
#include "shared_heap_map.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "shared_heap_layout.h"

#define RUN_BITS 25

_Static_assert(SHARED_UNITS == 1 << 20 && SHARED_ORDER_MAX < 1 << (RUN_BITS - 20), "a run has 25 bits");

// Addresses are multiples of 4096; 0: it is one that has no place beside the run.
static uint64_t
kept_mapping(const void *at, uint32_t unit, uint32_t order)
{
    uint64_t address = (uintptr_t)at;
    return address >> (64 - (RUN_BITS - 12)) != 0 ? 0 : address << (RUN_BITS - 12) | order << 20 | unit;
}

static void
unmap_kept(uint64_t kept)
{
    if (kept != 0) {
        uint32_t order = kept >> 20 & ((1 << (RUN_BITS - 20)) - 1);
        munmap((void *)(uintptr_t)(kept >> RUN_BITS << 12), SHARED_UNIT_BYTES << order);
    }
}

static void *
take_kept(shared_heap *heap, uint32_t unit, uint32_t order)
{
    uint64_t run = kept_mapping(NULL, unit, order);
    for (uint32_t i = 0; i < KEPT_MAPPINGS; i++) {
        // Relaxed: the word is all there is to know, and what is mapped is ordered by who has the cell.
        uint64_t kept = atomic_load_explicit(&heap->kept[i], memory_order_relaxed);
        if (kept != 0 && (kept & ((UINT64_C(1) << RUN_BITS) - 1)) == run
            && atomic_compare_exchange_strong_explicit(&heap->kept[i], &kept, 0, memory_order_relaxed,
                                                       memory_order_relaxed)) {
            return (void *)(uintptr_t)(kept >> RUN_BITS << 12);
        }
    }
    return NULL;
}

void
shared_heap_unmap_all_kept(shared_heap *heap)
{
    for (uint32_t i = 0; i < KEPT_MAPPINGS; i++) {
        // Relaxed: as in take_kept().
        unmap_kept(atomic_exchange_explicit(&heap->kept[i], 0, memory_order_relaxed));
    }
}

uint32_t
shared_heap_units_of(int fd)
{
    struct stat info;
    if (fstat(fd, &info) < 0 || (uint64_t)info.st_size <= UNITS_OFFSET) {
        return 0;
    }
    uint64_t units = ((uint64_t)info.st_size - UNITS_OFFSET) / SHARED_UNIT_BYTES;
    return units < SHARED_UNITS ? (uint32_t)units : SHARED_UNITS;
}

void *
shared_heap_map(shared_heap *heap, uint32_t unit, uint32_t order, bool is_read_only)
{
    size_t bytes = SHARED_UNIT_BYTES << order;
    void *start = is_read_only ? take_kept(heap, unit, order) : NULL;
    if (start != NULL) {
        return start;
    }
    if (!shm_file_is_there(&heap->file)
        // A stray write may have led there.
        || unit + (UINT64_C(1) << order) > shared_heap_units_of(heap->file.fd)) {
        return NULL;
    }
    int allowed = is_read_only ? PROT_READ : PROT_READ | PROT_WRITE;
    off_t place = (off_t)(UNITS_OFFSET + unit * SHARED_UNIT_BYTES);
    start = mmap(NULL, bytes, allowed, MAP_SHARED | MAP_NORESERVE, heap->file.fd, place);
    if (start == MAP_FAILED) {
        shared_heap_unmap_all_kept(heap);  // there may be room then, or one mapping less than there may be
        start = mmap(NULL, bytes, allowed, MAP_SHARED | MAP_NORESERVE, heap->file.fd, place);
    }
    if (start == MAP_FAILED) {
        return NULL;
    }
    madvise(start, bytes, MADV_DONTDUMP);  // a core dump has no use for what other processes have, too
    return start;
}

// Where addresses are limited, the program has a use for them.
static bool
has_addresses(void)
{
    struct rlimit limit;
    return getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur == RLIM_INFINITY;
}

void *
shared_heap_map_again(shared_heap *heap, uint32_t unit, uint32_t order)
{
    return has_addresses() ? shared_heap_map(heap, unit, order, true) : NULL;
}

void
shared_heap_unmap(shared_heap *heap, void *at, uint32_t unit, uint32_t order)
{
    uint64_t kept = kept_mapping(at, unit, order);
    if (kept == 0 || !has_addresses()) {
        munmap(at, SHARED_UNIT_BYTES << order);
        return;
    }
    // Both relaxed: the first is a hint, the other as in take_kept().
    uint32_t i = atomic_fetch_add_explicit(&heap->next_kept, 1, memory_order_relaxed) % KEPT_MAPPINGS;
    unmap_kept(atomic_exchange_explicit(&heap->kept[i], kept, memory_order_relaxed));
}
