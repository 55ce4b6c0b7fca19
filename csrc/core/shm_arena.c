#define _GNU_SOURCE
#include "shm_arena.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

// How many blocks of a size the search looks at before it makes a new one: it must not grow with the number
// of blocks in use.
#define PROBES 8
// How many blocks of each size, or bytes if that is more, keep their memory when free memory is given back.
#define KEEP_BLOCKS 2
#define KEEP_BYTES (UINT64_C(1) << 20)
// Nothing larger stays warm: an idle executor would hold what one large call has needed.
#define KEEP_BLOCK_BYTES (UINT64_C(1) << 27)
// Small blocks share mappings of this size.
#define SLAB_BYTES (UINT64_C(1) << 18)
// Smaller blocks are not worth a look at the limits.
#define LIMITED_BYTES (UINT64_C(1) << 20)

_Static_assert(offsetof(shm_block_header, payload) == 64, "the layout is shared");
_Static_assert(ATOMIC_INT_LOCK_FREE == 2, "a lock in shared memory would die with its holder");

// The unit of sizes is a page: every size up to four, then four steps for each doubling, so that no block is
// more than a quarter larger than it has to be.
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

// The other way round.
static uint64_t
pages_of(unsigned class_number)
{
    if (class_number < 4) {
        return class_number + 1;
    }
    uint64_t base = UINT64_C(1) << (class_number / 4 + 1);
    return base + (class_number % 4 + 1) * (base / 4);
}

static shm_arena_class *
class_of_block(shm_arena *arena, const shm_block *block)
{
    uint64_t class_pages;
    return &arena->classes[class_of(shm_block_bytes(block) / SHM_PAGE, &class_pages)];
}

static bool
is_small(uint64_t total_bytes)
{
    return total_bytes <= SHM_SMALL_PAGES * SHM_PAGE;
}

// In the child of a fork everything is the parent's, and the fork may have caught the mutex locked.
static bool
is_inherited(const shm_arena *arena)
{
    return shm_head_is_inherited(&arena->region->mapped_head);
}

// Whether address space is limited, so that unused blocks are not to be kept mapped.
static bool
is_limited(uint64_t bytes)
{
    struct rlimit limit;
    return bytes >= LIMITED_BYTES && getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY;
}

// ---- opening ----

static void
free_tables(shm_arena *arena)
{
    free(arena->classes);
    free(arena->others);
    free(arena->slabs);
}

int
shm_arena_open(shm_arena *arena, shm_region *region, uint32_t me)
{
    *arena = (shm_arena){
        .region = region,
        .classes = calloc(SHM_ARENA_CLASSES, sizeof(shm_arena_class)),
        .others = calloc(SHM_ARENA_BUCKETS, sizeof(shm_block *)),
        .slabs = calloc(SHM_ARENA_BUCKETS, sizeof(shm_slab *)),
    };
    if (arena->classes == NULL || arena->others == NULL || arena->slabs == NULL
        || pthread_mutex_init(&arena->lock, NULL) != 0) {
        free_tables(arena);
        memset(arena, 0, sizeof(*arena));
        return SHM_NO_MEMORY;
    }
    uint64_t share = me * region->share_bytes;
    arena->me = me;
    arena->share_end = share + region->share_bytes;
    // What a dead predecessor left is the parent's to give back, and the parent may use some of it.  See
    // note_commit().
    arena->at = shm_region_end_of_data(region, share, arena->share_end);
    if (arena->at == UINT64_MAX) {
        // Anywhere in the lower half: a predecessor's blocks are hardly there.
        uint64_t number = (uint64_t)getpid() * UINT64_C(0x9e3779b97f4a7c15);
        arena->at = share + shm_round_up(number % (region->share_bytes / 2), SLAB_BYTES);
    }
    return SHM_OK;
}

// ---- mappings; with the mutex, as everything up to the claim ----

static unsigned
bucket_of(uint64_t offset)
{
    return (unsigned)((offset / SHM_PAGE * UINT64_C(0x9e3779b97f4a7c15)) >> 56) % SHM_ARENA_BUCKETS;
}

static void
unmap(shm_block *block)
{
    if (block->header != NULL && !is_small(shm_block_bytes(block))) {
        munmap(block->header, block->mapped_bytes);
    }
    block->header = NULL;
    block->payload = NULL;
    block->mapped_bytes = 0;
}

static int
map_slab(shm_arena *arena, uint64_t offset, unsigned char **start)
{
    shm_slab **bucket = &arena->slabs[bucket_of(offset)];
    for (shm_slab *slab = *bucket; slab != NULL; slab = slab->next) {
        if (slab->offset == offset) {
            *start = slab->start;
            return SHM_OK;
        }
    }
    shm_slab *slab = malloc(sizeof(shm_slab));
    int rc = slab == NULL ? SHM_NO_MEMORY : shm_region_map(arena->region, offset, SLAB_BYTES, start);
    if (rc != SHM_OK) {
        free(slab);
        return rc;
    }
    *slab = (shm_slab){.offset = offset, .start = *start, .next = *bucket};
    *bucket = slab;
    return SHM_OK;
}

static int
map_once(shm_arena *arena, shm_block *block)
{
    unsigned char *start;
    uint64_t bytes = shm_block_bytes(block);
    int rc;
    if (is_small(bytes)) {
        uint64_t slab = block->offset & ~(SLAB_BYTES - 1);
        rc = map_slab(arena, slab, &start);
        start = rc == SHM_OK ? start + (block->offset - slab) : NULL;
    }
    else {
        rc = shm_region_map(arena->region, block->offset, bytes, &start);
    }
    if (rc == SHM_OK) {
        unmap(block);
        block->header = (shm_block_header *)(void *)start;
        block->payload = block->header->payload;
        block->mapped_bytes = bytes;
    }
    return rc;
}

static uint32_t
holder_of(const shm_block *block)
{
    // A6: pairs with R6 in give_back(): the releasing process has done with the payload.
    return block->header == NULL ? SHM_NOBODY
                                 : atomic_load_explicit(&block->header->holder, memory_order_acquire);
}

static bool
is_free(const shm_block *block)
{
    return holder_of(block) == SHM_NOBODY;
}

// Takes a free block.  False if another process was quicker.
static bool
hold(shm_arena *arena, shm_block *block)
{
    uint32_t nobody = SHM_NOBODY;
    // A6, as above: pairs with R6 in give_back().  Relaxed if it fails: nothing is read then.
    return atomic_compare_exchange_strong_explicit(&block->header->holder, &nobody, arena->me,
                                                   memory_order_acquire, memory_order_relaxed);
}

static void
give_back(shm_block *block)
{
    // R6: pairs with A6 in holder_of() and hold(): this process's last look at the payload comes before the
    // owner's next use.
    atomic_store_explicit(&block->header->holder, SHM_NOBODY, memory_order_release);
}

static bool
is_committed(const shm_block *block)
{
    // A7: pairs with R7 in note_commit(): a process that finds a block committed finds its holder.
    return block->header != NULL
           && atomic_load_explicit(&block->header->committed, memory_order_acquire) != 0;
}

// Gives back the memory of a block that this process holds; the block is free afterwards.
static void
discard(shm_arena *arena, shm_block *block)
{
    uint64_t bytes = shm_block_bytes(block);
    if (block->owner == arena->me && !is_small(bytes)) {
        unmap(block);
        shm_region_discard(arena->region, block->offset, bytes);
        return;
    }
    if (bytes > SHM_PAGE) {
        // Before the discard, so that the owner never takes for memory what has none.  Relaxed: R6 in
        // give_back() publishes it, or the owner waits for this process's end.
        atomic_store_explicit(&block->header->committed, 0, memory_order_relaxed);
        shm_region_discard(arena->region, block->offset + SHM_PAGE, bytes - SHM_PAGE);
    }
    give_back(block);
}

// This process no longer knows a block of another's.
static void
forget(shm_arena *arena, shm_block *block)
{
    shm_block **link = &arena->others[bucket_of(block->offset)];
    while (*link != block) {
        link = &(*link)->next;
    }
    *link = block->next;
    unmap(block);
    free(block);
}

// Unmaps the blocks that are not in use.
static void
spare_address_space(shm_arena *arena)
{
    for (unsigned i = 0; i < SHM_ARENA_CLASSES; i++) {
        for (uint32_t j = 0; j < arena->classes[i].count; j++) {
            shm_block *block = arena->classes[i].blocks[j];
            if (!is_small(shm_block_bytes(block)) && block->header != NULL && is_free(block)
                && hold(arena, block)) {
                discard(arena, block);
            }
        }
    }
    for (unsigned i = 0; i < SHM_ARENA_BUCKETS; i++) {
        for (shm_block *block = arena->others[i], *next; block != NULL; block = next) {
            next = block->next;
            if (!block->is_received && !is_small(shm_block_bytes(block))) {
                forget(arena, block);
            }
        }
    }
}

// Maps a block, all of it.
static int
map(shm_arena *arena, shm_block *block)
{
    int rc = map_once(arena, block);
    if (rc == SHM_NO_MEMORY) {
        spare_address_space(arena);
        rc = map_once(arena, block);
    }
    return rc == SHM_OS_ERROR ? SHM_NO_MEMORY : rc;
}

// ---- blocks that were received ----

// The end of a block's stay here.
static void
end_stay(shm_arena *arena, shm_block *block)
{
    uint64_t offset = block->offset, bytes = shm_block_bytes(block);
    block->is_received = block->is_open = false;
    if (block->is_inherited) {
        forget(arena, block);
        shm_region_discard(arena->region, offset, bytes);
        return;
    }
    // If another process holds it by now, a stray write has hit the word.
    if (holder_of(block) == arena->me) {
        if (block->is_partial) {
            block->is_partial = false;
            discard(arena, block);
        }
        else {
            give_back(block);
        }
    }
    if (!is_small(bytes) && is_limited(bytes)) {
        forget(arena, block);
    }
}

// Gives back the blocks at which children could look, and cannot any longer.
static void
end_waits(shm_arena *arena)
{
    shm_block **link = &arena->waiting;
    while (*link != NULL) {
        shm_block *block = *link;
        if (shm_view_close(&block->view)) {
            *link = block->waiting;
            end_stay(arena, block);
        }
        else {
            link = &block->waiting;
        }
    }
}

// ---- claiming ----

// A free block of this class, preferably one that has its memory; or NULL.
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

// A block has all its memory.
static void
note_commit(shm_arena *arena, shm_block *block)
{
    // The system counts memory as data only once it was written to: so a successor finds the end of all
    // blocks.
    block->payload[block->capacity - 1] = 0;
    // Relaxed: R7 below and the slot that will name the block publish it.
    atomic_store_explicit(&block->header->holder, arena->me, memory_order_relaxed);
    // R7: pairs with A7 in is_committed(): a block that had no memory is held before it can be trimmed.
    atomic_store_explicit(&block->header->committed, 1, memory_order_release);
}

// Makes a free block ready to be filled.
static int
revive(shm_arena *arena, shm_block *block)
{
    uint64_t bytes = shm_block_bytes(block);
    bool commits = !is_committed(block);
    int rc = commits ? shm_region_commit(arena->region, block->offset, bytes) : SHM_OK;
    if (rc == SHM_OK && block->mapped_bytes < bytes) {
        rc = map(arena, block);
    }
    if (rc == SHM_OK && commits) {
        note_commit(arena, block);
    }
    return rc;
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

// A stretch of the share; 0: there is none.
static uint64_t
take_stretch(shm_arena *arena, uint64_t bytes, uint64_t alignment)
{
    uint64_t start = shm_round_up(arena->at, alignment);
    if (start > arena->share_end || bytes > arena->share_end - start) {
        return 0;
    }
    arena->at = start + bytes;
    return start;
}

// Where a new block is to be; 0: the share is full.
static uint64_t
place(shm_arena *arena, uint64_t bytes)
{
    if (!is_small(bytes)) {
        return take_stretch(arena, bytes, SHM_MAP_ALIGNMENT);
    }
    if (bytes > arena->slab_end - arena->small_at) {
        uint64_t slab = take_stretch(arena, SLAB_BYTES, SLAB_BYTES);
        if (slab == 0) {
            return 0;
        }
        arena->small_at = slab;
        arena->slab_end = slab + SLAB_BYTES;
    }
    arena->small_at += bytes;
    return arena->small_at - bytes;
}

// A block that could not be made leaves its place to the next one.
static void
leave_place(shm_arena *arena, uint64_t offset, uint64_t bytes)
{
    *(is_small(bytes) ? &arena->small_at : &arena->at) = offset;
}

static int
make(shm_arena *arena, shm_arena_class *class, uint64_t bytes, shm_block **made)
{
    shm_block *block = prepare(class) != SHM_OK ? NULL : calloc(1, sizeof(shm_block));
    uint64_t offset = block == NULL ? 0 : place(arena, bytes);
    if (offset == 0) {
        free(block);
        return SHM_NO_MEMORY;
    }
    block->arena = arena;
    block->offset = offset;
    block->capacity = bytes - sizeof(shm_block_header);
    block->owner = arena->me;
    int rc = shm_region_commit(arena->region, offset, bytes);
    if (rc == SHM_OK && (rc = map(arena, block)) != SHM_OK) {
        shm_region_discard(arena->region, offset, bytes);
    }
    if (rc != SHM_OK) {
        leave_place(arena, offset, bytes);
        free(block);
        return rc;
    }
    note_commit(arena, block);
    class->blocks[class->count++] = block;
    *made = block;
    return SHM_OK;
}

static int
claim(shm_arena *arena, uint64_t bytes, shm_block **block)
{
    uint64_t pages;
    unsigned number = class_of(shm_round_up(bytes + sizeof(shm_block_header), SHM_PAGE) / SHM_PAGE, &pages);
    shm_arena_class *class = &arena->classes[number];
    shm_block *found = find_free(class);
    bool is_held = found != NULL && found->header != NULL && hold(arena, found);
    int rc = SHM_OK;
    if (found == NULL || (found->header != NULL && !is_held)) {
        rc = make(arena, class, pages * SHM_PAGE, &found);
    }
    else if ((rc = revive(arena, found)) != SHM_OK && is_held) {
        give_back(found);
    }
    if (rc == SHM_OK) {
        *block = found;
    }
    return rc == SHM_OS_ERROR ? SHM_NO_MEMORY : rc;
}

int
shm_arena_claim(shm_arena *arena, uint64_t bytes, shm_block **block)
{
    if (is_inherited(arena) || bytes > arena->region->share_bytes - sizeof(shm_block_header)) {
        return SHM_NO_MEMORY;
    }
    pthread_mutex_lock(&arena->lock);
    int rc = claim(arena, bytes, block);
    pthread_mutex_unlock(&arena->lock);
    return rc;
}

// ---- receiving ----

uint64_t
shm_block_name(const shm_block *block)
{
    uint64_t class_pages;
    return block->offset | class_of(shm_block_bytes(block) / SHM_PAGE, &class_pages);
}

// Whether another process can have made such a block.
static bool
is_possible(const shm_arena *arena, uint64_t offset, uint64_t bytes)
{
    const shm_region *region = arena->region;
    uint64_t owner = offset / region->share_bytes;
    if (owner == SHM_NOBODY || owner == arena->me || owner >= region->share_count) {
        return false;
    }
    return bytes <= (owner + 1) * region->share_bytes - offset
           && (is_small(bytes) ? offset / SLAB_BYTES == (offset + bytes - 1) / SLAB_BYTES
                               : offset % SHM_MAP_ALIGNMENT == 0);
}

static int
find(shm_arena *arena, uint64_t offset, uint64_t bytes, shm_block **found)
{
    shm_block **bucket = &arena->others[bucket_of(offset)];
    for (shm_block *block = *bucket; block != NULL; block = block->next) {
        if (block->offset == offset) {
            *found = block;
            return !block->is_received && !block->is_inherited && shm_block_bytes(block) == bytes
                       ? SHM_OK
                       : SHM_NOT_OURS;
        }
    }
    shm_block *block = calloc(1, sizeof(shm_block));
    if (block == NULL) {
        return SHM_NO_MEMORY;
    }
    block->arena = arena;
    block->offset = offset;
    block->capacity = bytes - sizeof(shm_block_header);
    block->owner = (uint32_t)(offset / arena->region->share_bytes);
    int rc = map(arena, block);
    if (rc != SHM_OK) {
        free(block);
        return rc;
    }
    block->next = *bucket;
    *bucket = block;
    *found = block;
    return SHM_OK;
}

int
shm_arena_find(shm_arena *arena, uint64_t name, uint64_t bytes, shm_block **block)
{
    uint64_t offset = name & ~(uint64_t)(SHM_PAGE - 1), class_number = name % SHM_PAGE;
    if (is_inherited(arena) || class_number >= SHM_ARENA_CLASSES) {
        return SHM_NOT_OURS;
    }
    uint64_t total = pages_of((unsigned)class_number) * SHM_PAGE;
    if (!is_possible(arena, offset, total) || bytes > total - sizeof(shm_block_header)) {
        return SHM_NOT_OURS;
    }
    pthread_mutex_lock(&arena->lock);
    end_waits(arena);
    int rc = find(arena, offset, total, block);
    pthread_mutex_unlock(&arena->lock);
    if (rc == SHM_NO_MEMORY) {
        uint32_t nobody = SHM_NOBODY;
        shm_region_write(arena->region, offset + offsetof(shm_block_header, holder), &nobody, sizeof(nobody));
    }
    return rc;
}

void
shm_block_take_over(shm_block *block, uint32_t me)
{
    pthread_mutex_lock(&block->arena->lock);
    block->is_received = true;
    // Relaxed: the slot that named the block has published its contents.
    atomic_store_explicit(&block->header->holder, me, memory_order_relaxed);
    pthread_mutex_unlock(&block->arena->lock);
}

bool
shm_block_open_view(shm_block *block)
{
    shm_arena *arena = block->arena;
    uint64_t bytes = shm_block_bytes(block);
    if (is_small(bytes) || is_inherited(arena)) {
        return false;
    }
    pthread_mutex_lock(&arena->lock);
    block->is_open = true;
    shm_view_open(&block->view, &arena->region->file, (unsigned char *)block->header, bytes, block->offset,
                  &block->header->is_forked);
    pthread_mutex_unlock(&arena->lock);
    return true;
}

// In the child of a fork, or after the arena is closed, the mapping is the receiver's memory.
static void
unmap_view(shm_block *block)
{
    // If it could not be made private, something else may be mapped there.
    if (block->view.is_private) {
        munmap(block->header, block->mapped_bytes);
    }
}

void
shm_block_release(shm_block *block, uint32_t me)
{
    shm_arena *arena = block->arena;
    if (arena == NULL) {
        unmap_view(block);
        free(block);
        return;
    }
    if (is_inherited(arena)) {
        if (block->is_open) {
            unmap_view(block);
            block->is_open = false;
        }
        return;
    }
    pthread_mutex_lock(&arena->lock);
    if (block->owner == arena->me) {
        if (holder_of(block) == me) {
            give_back(block);
        }
    }
    else if (block->is_received) {
        if (block->is_open && !shm_view_close(&block->view)) {
            block->waiting = arena->waiting;
            arena->waiting = block;
        }
        else {
            end_stay(arena, block);
        }
    }
    end_waits(arena);
    pthread_mutex_unlock(&arena->lock);
}

void
shm_block_discard_part(shm_block *block, uint64_t start, uint64_t bytes)
{
    shm_arena *arena = block->arena;
    if (arena == NULL || is_inherited(arena)) {
        return;
    }
    uint64_t payload = block->offset + sizeof(shm_block_header);
    uint64_t first = shm_round_up(payload + start, SHM_PAGE);
    uint64_t end = (payload + start + bytes) & ~(uint64_t)(SHM_PAGE - 1);
    pthread_mutex_lock(&arena->lock);
    // A child that is forked from now on has nothing that looks there.
    if (block->is_open && end > first && shm_view_is_unseen(&block->view)) {
        block->is_partial = true;
        // Before the discard, so that the owner, also of a block whose holder died, never takes for memory
        // what has none.  R6 in give_back() publishes it to the owner, or the owner has waited for that
        // death.
        atomic_store_explicit(&block->header->committed, 0, memory_order_release);
        shm_region_discard(arena->region, first, end - first);
    }
    pthread_mutex_unlock(&arena->lock);
}

void
shm_block_sent(shm_block *block)
{
    shm_arena *arena = block->arena;
    uint64_t bytes = shm_block_bytes(block);
    if (is_small(bytes) || is_inherited(arena) || !is_limited(bytes)) {
        return;
    }
    pthread_mutex_lock(&arena->lock);
    // The header tells when it comes back.
    if (block->mapped_bytes == bytes && bytes > SHM_MAP_ALIGNMENT) {
        munmap((unsigned char *)block->header + SHM_MAP_ALIGNMENT, bytes - SHM_MAP_ALIGNMENT);
        block->mapped_bytes = SHM_MAP_ALIGNMENT;
    }
    pthread_mutex_unlock(&arena->lock);
}

uint32_t
shm_block_holder(shm_block *block)
{
    pthread_mutex_lock(&block->arena->lock);
    uint32_t holder = holder_of(block);
    pthread_mutex_unlock(&block->arena->lock);
    return holder;
}

// ---- giving back ----

typedef struct kept_blocks {
    uint8_t count[64][SHM_ARENA_CLASSES];  // by owner and class; owners that share a row share what is kept
} kept_blocks;

static void
trim_block(shm_arena *arena, shm_block *block, kept_blocks *kept)
{
    if (!is_free(block) || !is_committed(block)) {
        return;
    }
    uint8_t *count = &kept->count[block->owner % 64][class_of_block(arena, block) - arena->classes];
    if (*count < UINT8_MAX && shm_block_bytes(block) <= KEEP_BLOCK_BYTES
        && (*count < KEEP_BLOCKS || (*count + UINT64_C(1)) * shm_block_bytes(block) <= KEEP_BYTES)) {
        ++*count;
    }
    else if (hold(arena, block)) {
        discard(arena, block);
        if (block->owner != arena->me && !is_small(shm_block_bytes(block))) {
            forget(arena, block);
        }
    }
}

void
shm_arena_trim(shm_arena *arena)
{
    kept_blocks kept;
    memset(&kept, 0, sizeof(kept));
    if (is_inherited(arena)) {
        return;
    }
    pthread_mutex_lock(&arena->lock);
    end_waits(arena);
    for (unsigned i = 0; i < SHM_ARENA_CLASSES; i++) {
        for (uint32_t j = 0; j < arena->classes[i].count; j++) {
            trim_block(arena, arena->classes[i].blocks[j], &kept);
        }
    }
    for (unsigned i = 0; i < SHM_ARENA_BUCKETS; i++) {
        for (shm_block *block = arena->others[i], *next; block != NULL; block = next) {
            next = block->next;
            if (!block->is_received) {
                trim_block(arena, block, &kept);
            }
        }
    }
    pthread_mutex_unlock(&arena->lock);
}

static int
compare_offsets(const void *one, const void *other)
{
    uint64_t a = (*(shm_block *const *)one)->offset;
    uint64_t b = (*(shm_block *const *)other)->offset;
    return (a > b) - (a < b);
}

// Gives back the memory that a dead process owned, except for the blocks in use here.
static void
discard_share(shm_arena *arena, uint32_t dead)
{
    shm_block **used = NULL;
    uint32_t count = 0, room = 0;
    for (unsigned i = 0; i < SHM_ARENA_BUCKETS; i++) {
        for (shm_block *block = arena->others[i]; block != NULL; block = block->next) {
            if (block->owner != dead) {
                continue;
            }
            if (count == room) {
                room = room == 0 ? 64 : 2 * room;
                shm_block **more = realloc(used, room * sizeof(shm_block *));
                if (more == NULL) {
                    free(used);
                    return;  // it is kept until the region is closed
                }
                used = more;
            }
            used[count++] = block;
        }
    }
    if (count > 0) {
        qsort(used, count, sizeof(shm_block *), compare_offsets);
    }
    uint64_t at = dead * arena->region->share_bytes, end = at + arena->region->share_bytes;
    for (uint32_t i = 0; i < count; i++) {
        // Blocks that overlap, which cannot be, only keep memory longer.
        if (used[i]->offset > at) {
            shm_region_discard(arena->region, at, used[i]->offset - at);
        }
        uint64_t after = used[i]->offset + shm_block_bytes(used[i]);
        at = after > at ? after : at;
    }
    shm_region_discard(arena->region, at, end - at);
    free(used);
}

static void
free_held(shm_arena *arena, uint32_t dead)
{
    for (unsigned i = 0; i < SHM_ARENA_CLASSES; i++) {
        for (uint32_t j = 0; j < arena->classes[i].count; j++) {
            shm_block *block = arena->classes[i].blocks[j];
            // Relaxed: this process has waited for the end of the one that wrote it.  A block at which
            // children of the dead process may look is not used again.
            if (holder_of(block) == dead
                && atomic_load_explicit(&block->header->is_forked, memory_order_relaxed) == 0) {
                give_back(block);
            }
        }
    }
}

void
shm_arena_free_held(shm_arena *arena, uint32_t dead)
{
    if (is_inherited(arena)) {
        return;
    }
    pthread_mutex_lock(&arena->lock);
    free_held(arena, dead);
    for (unsigned i = 0; i < SHM_ARENA_BUCKETS; i++) {
        for (shm_block *block = arena->others[i], *next; block != NULL; block = next) {
            next = block->next;
            if (block->owner != dead) {
                continue;
            }
            if (block->is_received) {
                block->is_inherited = true;
            }
            else {
                forget(arena, block);
            }
        }
    }
    discard_share(arena, dead);
    pthread_mutex_unlock(&arena->lock);
}

void
shm_arena_count(shm_arena *arena, uint64_t *committed_bytes, uint64_t *held_bytes)
{
    *committed_bytes = *held_bytes = 0;
    if (is_inherited(arena)) {
        return;
    }
    pthread_mutex_lock(&arena->lock);
    end_waits(arena);
    for (unsigned i = 0; i < SHM_ARENA_CLASSES; i++) {
        for (uint32_t j = 0; j < arena->classes[i].count; j++) {
            shm_block *block = arena->classes[i].blocks[j];
            *committed_bytes += is_committed(block)     ? shm_block_bytes(block)
                                : block->header != NULL ? SHM_PAGE
                                                        : 0;
            *held_bytes += is_free(block) ? 0 : shm_block_bytes(block);
        }
    }
    pthread_mutex_unlock(&arena->lock);
}

// ---- closing ----

// Leaves the block to its receiver, or frees it.
static void
close_block(shm_arena *arena, shm_block *block, bool inherited, bool discards)
{
    if (block->is_open) {
        bool waits = false;
        for (shm_block *one = arena->waiting; one != NULL; one = one->waiting) {
            waits = waits || one == block;
        }
        if (!waits) {
            if (!inherited) {
                shm_view_detach(&block->view);
            }
            block->arena = NULL;
            return;
        }
        // Children may look at it, so its memory stays.
        if (!inherited) {
            shm_view_forget(&block->view);
        }
        discards = false;
    }
    if (!inherited) {
        if (discards && (is_free(block) || holder_of(block) == arena->me)) {
            shm_region_discard(arena->region, block->offset, shm_block_bytes(block));
        }
        unmap(block);
    }
    free(block);
}

void
shm_arena_close(shm_arena *arena, bool discards)
{
    if (arena->me == SHM_NOBODY) {
        return;
    }
    bool inherited = is_inherited(arena);
    for (unsigned i = 0; i < SHM_ARENA_CLASSES; i++) {
        for (uint32_t j = 0; j < arena->classes[i].count; j++) {
            close_block(arena, arena->classes[i].blocks[j], inherited, discards);
        }
        free(arena->classes[i].blocks);
    }
    for (unsigned i = 0; i < SHM_ARENA_BUCKETS; i++) {
        for (shm_block *block = arena->others[i], *next; block != NULL; block = next) {
            next = block->next;
            close_block(arena, block, inherited, discards);
        }
    }
    for (unsigned i = 0; i < SHM_ARENA_BUCKETS; i++) {
        for (shm_slab *slab = arena->slabs[i], *next; slab != NULL; slab = next) {
            next = slab->next;
            if (!inherited) {
                munmap(slab->start, SLAB_BYTES);
            }
            free(slab);
        }
    }
    free_tables(arena);
    if (!inherited) {
        pthread_mutex_destroy(&arena->lock);
    }
    memset(arena, 0, sizeof(*arena));
}
