#define _GNU_SOURCE
#include "shm_arena.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define MAGIC UINT64_C(0x6b636f6c62636370)
// How many blocks of a size are looked at before a new one is made: the search must not grow with
// the number of blocks that are in use.
#define PROBES 8
// What stays warm of each size when memory is given back.
#define KEEP_BLOCKS 2
#define KEEP_BYTES (UINT64_C(1) << 20)

_Static_assert(offsetof(shm_block, payload) == 64, "the layout is shared");

// Sizes are counted in pages: every one up to four, then four steps for each doubling, so that no
// block is more than a quarter larger than it has to be.
static unsigned
class_of(uint64_t pages, uint64_t *class_pages)
{
    if (pages <= 4) {
        *class_pages = pages;
        return (unsigned)pages - 1;
    }
    unsigned log = 63 - (unsigned)__builtin_clzll(pages - 1);  // 2^log < pages <= 2^(log + 1)
    uint64_t base = UINT64_C(1) << log;
    uint64_t step = base / 4;
    uint64_t steps = (pages - base + step - 1) / step;  // 1 to 4
    *class_pages = base + steps * step;
    return 4 * (log - 1) + (unsigned)steps - 1;
}

static uint64_t
total_bytes(const shm_block *block)
{
    return block->capacity + sizeof(shm_block);
}

// NULL if no block is made so large: then its header was written over, and it would be handed out for
// more than it has.
static shm_arena_class *
class_of_block(shm_arena *arena, const shm_block *block)
{
    uint64_t pages = total_bytes(block) / SHM_PAGE;
    uint64_t class_pages = 0;
    unsigned number = pages == 0 ? 0 : class_of(pages, &class_pages);
    return pages > 0 && class_pages * SHM_PAGE == total_bytes(block) ? &arena->classes[number] : NULL;
}

int
shm_arena_open(shm_arena *arena, shm_region *region, _Atomic uint64_t *first, uint32_t me)
{
    arena->region = region;
    arena->first = first;
    arena->me = me;
    arena->classes = calloc(SHM_ARENA_CLASSES, sizeof(shm_arena_class));
    return arena->classes == NULL ? SHM_NO_MEMORY : SHM_OK;
}

void
shm_arena_close(shm_arena *arena)
{
    if (arena->classes != NULL) {
        for (unsigned i = 0; i < SHM_ARENA_CLASSES; i++) {
            free(arena->classes[i].blocks);
        }
        free(arena->classes);
    }
    memset(arena, 0, sizeof(*arena));
}

// Makes room for one more entry.
static int
prepare(shm_arena_class *class)
{
    if (class->count < class->room) {
        return SHM_OK;
    }
    uint32_t room = class->room == 0 ? 8 : 2 * class->room;
    shm_block **blocks = realloc(class->blocks, room * sizeof(shm_block *));
    if (blocks == NULL) {
        return SHM_NO_MEMORY;
    }
    class->blocks = blocks;
    class->room = room;
    return SHM_OK;
}

static bool
is_free(shm_block *block)
{
    // A6: pairs with R6 in shm_block_release(): the last view's reads come before our writes.
    return atomic_load_explicit(&block->holder, memory_order_acquire) == SHM_NOBODY;
}

// Takes a free block.  False if somebody else was quicker.
static bool
hold(shm_arena *arena, shm_block *block)
{
    uint32_t nobody = SHM_NOBODY;
    // A6, as above: pairs with R6 in shm_block_release().  Relaxed if it fails: nothing is read then.
    return atomic_compare_exchange_strong_explicit(&block->holder, &nobody, arena->me,
                                                   memory_order_acquire, memory_order_relaxed);
}

static bool
is_committed(shm_block *block)
{
    // Relaxed: the holder alone writes it.  We are that, or else this is only a hint.
    return atomic_load_explicit(&block->committed, memory_order_relaxed) != 0;
}

static int
commit(shm_arena *arena, shm_block *block)
{
    int rc = SHM_OK;
    if (!is_committed(block)) {
        rc = shm_region_commit(arena->region, block->offset + SHM_PAGE, total_bytes(block) - SHM_PAGE);
        if (rc == SHM_OK) {
            // Relaxed: we hold the block; its next holder sees the word by R6 and A6.
            atomic_store_explicit(&block->committed, 1, memory_order_relaxed);
        }
    }
    return rc;
}

static void
discard(shm_arena *arena, shm_block *block)
{
    if (total_bytes(block) > SHM_PAGE) {
        // First, so that whoever adopts the block from us never takes for memory what is none.  Relaxed:
        // the compiler cannot move it past a system call, and who adopts has waited for our death.
        atomic_store_explicit(&block->committed, 0, memory_order_relaxed);
        shm_region_discard(arena->region, block->offset + SHM_PAGE, total_bytes(block) - SHM_PAGE);
    }
}

// A free block of this class, preferably a warm one; or NULL.
static shm_block *
find_free(shm_arena_class *class)
{
    shm_block *cold = NULL;
    uint32_t probes = class->count < PROBES ? class->count : PROBES;
    for (uint32_t i = 0; i < probes; i++) {
        class->cursor = class->cursor + 1 < class->count ? class->cursor + 1 : 0;
        shm_block *block = class->blocks[class->cursor];
        if (is_free(block)) {
            if (is_committed(block)) {
                // Warm: the next search begins with it.
                class->cursor = class->cursor > 0 ? class->cursor - 1 : class->count - 1;
                return block;
            }
            cold = block;
        }
    }
    return cold;
}

static int
make(shm_arena *arena, shm_arena_class *class, uint64_t pages, shm_block **made)
{
    uint64_t offset;
    int rc = prepare(class);
    if (rc == SHM_OK) {
        rc = shm_region_extend(arena->region, pages * SHM_PAGE, &offset);
    }
    if (rc != SHM_OK) {
        return rc;
    }
    shm_block *block = (shm_block *)(arena->region->base + offset);
    block->magic = MAGIC;
    block->offset = offset;
    block->capacity = pages * SHM_PAGE - sizeof(shm_block);
    atomic_init(&block->owner, arena->me);
    atomic_init(&block->holder, arena->me);
    atomic_init(&block->committed, 1);
    // R7: pairs with A7 in next_block(): whoever finds the block finds its header filled in.  The load is
    // relaxed, since the exchange fails if the list has changed; and a failed one reads nothing but the
    // word.
    block->next = atomic_load_explicit(arena->first, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(arena->first, &block->next, offset,
                                                  memory_order_release, memory_order_relaxed)) {
    }
    class->blocks[class->count++] = block;
    *made = block;
    return SHM_OK;
}

int
shm_arena_claim(shm_arena *arena, uint64_t bytes, shm_block **block)
{
    uint64_t pages;
    if (bytes > arena->region->reserved_bytes) {
        return SHM_NO_MEMORY;
    }
    unsigned number = class_of(shm_round_up(bytes + sizeof(shm_block)) / SHM_PAGE, &pages);
    shm_arena_class *class = &arena->classes[number];
    shm_block *found = find_free(class);
    if (found == NULL || !hold(arena, found)) {
        int rc = make(arena, class, pages, block);
        return rc == SHM_OS_ERROR ? SHM_NO_MEMORY : rc;
    }
    if (commit(arena, found) != SHM_OK) {
        shm_block_release(found, arena->me);
        return SHM_NO_MEMORY;
    }
    *block = found;
    return SHM_OK;
}

shm_block *
shm_arena_at(shm_region *region, uint64_t offset, uint64_t bytes)
{
    if (offset % SHM_PAGE != 0 || !shm_region_contains(region, offset, SHM_PAGE)) {
        return NULL;
    }
    shm_block *block = (shm_block *)(region->base + offset);
    // The capacity by itself first: with the header added it might wrap around.
    if (block->magic != MAGIC || block->offset != offset || bytes > block->capacity
        || block->capacity > region->reserved_bytes
        || !shm_region_contains(region, offset, total_bytes(block))) {
        return NULL;
    }
    return block;
}

// The block made before this one; NULL at the end, or where somebody has written over the list: what comes
// after that stays lost.
static shm_block *
next_block(shm_arena *arena, const shm_block *block)
{
    // A7: pairs with R7 in make().
    uint64_t offset = block == NULL ? atomic_load_explicit(arena->first, memory_order_acquire) : block->next;
    return offset == 0 ? NULL : shm_arena_at(arena->region, offset, 0);
}

// No more blocks than pages: a list that was written over may bite its tail.
static uint64_t
most_blocks(const shm_arena *arena)
{
    return arena->region->reserved_bytes / SHM_PAGE;
}

void
shm_arena_trim(shm_arena *arena)
{
    // By owner and class; owners that share a row share what is kept.
    uint8_t kept[64][SHM_ARENA_CLASSES];
    memset(kept, 0, sizeof(kept));
    shm_block *block = NULL;
    for (uint64_t i = 0; i < most_blocks(arena) && (block = next_block(arena, block)) != NULL; i++) {
        shm_arena_class *class = class_of_block(arena, block);
        if (class == NULL || !is_free(block) || !is_committed(block)) {
            continue;
        }
        // Relaxed: a hint, by which the free blocks are counted.
        uint32_t owner = atomic_load_explicit(&block->owner, memory_order_relaxed);
        uint8_t *count = &kept[owner % 64][class - arena->classes];
        if (*count < UINT8_MAX
            && (*count < KEEP_BLOCKS || (*count + UINT64_C(1)) * total_bytes(block) <= KEEP_BYTES)) {
            ++*count;
        }
        else if (hold(arena, block)) {
            discard(arena, block);
            shm_block_release(block, arena->me);
        }
    }
}

static void
free_if_held(shm_block *block, uint32_t dead)
{
    // Relaxed: the dead write no more, and that they died has been waited for.
    if (atomic_load_explicit(&block->holder, memory_order_relaxed) == dead) {
        atomic_store_explicit(&block->holder, SHM_NOBODY, memory_order_relaxed);
    }
}

void
shm_arena_free_held(shm_arena *arena, uint32_t dead)
{
    shm_block *block = NULL;
    for (uint64_t i = 0; i < most_blocks(arena) && (block = next_block(arena, block)) != NULL; i++) {
        free_if_held(block, dead);
    }
}

int
shm_arena_adopt(shm_arena *arena, uint32_t dead)
{
    shm_block *block = NULL;
    for (uint64_t i = 0; i < most_blocks(arena) && (block = next_block(arena, block)) != NULL; i++) {
        shm_arena_class *class = class_of_block(arena, block);
        // Relaxed, as in free_if_held().
        if (class != NULL && atomic_load_explicit(&block->owner, memory_order_relaxed) == dead) {
            if (prepare(class) != SHM_OK) {
                return SHM_NO_MEMORY;
            }
            atomic_store_explicit(&block->owner, arena->me, memory_order_relaxed);
            class->blocks[class->count++] = block;
        }
        free_if_held(block, dead);
    }
    return SHM_OK;
}

void
shm_arena_count(shm_arena *arena, uint64_t *committed_bytes, uint64_t *held_bytes)
{
    *committed_bytes = *held_bytes = 0;
    for (unsigned i = 0; i < SHM_ARENA_CLASSES; i++) {
        for (uint32_t j = 0; j < arena->classes[i].count; j++) {
            shm_block *block = arena->classes[i].blocks[j];
            *committed_bytes += is_committed(block) ? total_bytes(block) : SHM_PAGE;
            *held_bytes += is_free(block) ? 0 : total_bytes(block);
        }
    }
}
