// shm_arena: blocks of a region, each with an owner that may die.
//
// A block is a header and room for a payload.  Two words say whose it is:
//
//     owner    who made it, and alone may use it again once nobody holds it
//     holder   who uses it now; 0 is nobody
//
//                 claim (owner)              take over (receiver)             release (receiver)
//     holder: 0 --------------> the sender ----------------------> receiver ------------------> 0
//
// So a block goes to another process and comes back without a message: the receiver takes it over
// when it takes the record that names it, and releases it when its last view dies; the owner finds
// it free when it next looks.  Only the owner fills a free block, and only the holder gives it on, so
// no lock is needed between processes.
//
// Every block is on one list, which only grows.  When a process has died, another *adopts* what it
// left: its own blocks change owner, and what it held is free.  Or the two come apart: what it held is
// freed at once, and what it owned waits for its successor, who has the same number and adopts it.  If it
// died while it made a block, the block's memory stays allocated until the region is gone; nothing else
// comes of that.
//
// Freed blocks are kept warm, because copying into pages that are mapped already is nine times as
// fast as into fresh ones; shm_arena_trim() gives back what is more than a few of each size and owner.
// Whoever trims holds a block for that long, hence the compare-and-swap in the owner's claim.
//
// A process has one arena; its functions are called with the caller's lock held, but for the static
// ones, which any thread may call.  What another process wrote is checked.  No Python.
#ifndef PYCONC_SHM_ARENA_H
#define PYCONC_SHM_ARENA_H

#include <stdbool.h>

#include "shm_region.h"

// Parties of a region, as owners and holders of its blocks.
#define SHM_NOBODY 0
#define SHM_PARENT 1
#define SHM_WORKER(number) ((uint32_t)(number) + 2)

typedef struct shm_block {
    uint64_t magic;
    uint64_t offset;    // of this header in the region
    uint64_t capacity;  // bytes of payload that fit
    uint64_t next;      // offset of the block made before this one, or 0
    _Atomic uint32_t owner;
    _Atomic uint32_t holder;
    _Atomic uint32_t committed;  // 0: all but the first page was given back; the holder writes it
    uint32_t unused[5];
    unsigned char payload[];  // aligned as the widest vectors want it
} shm_block;

_Static_assert(sizeof(shm_block) == 64, "the layout is shared");

#define SHM_ARENA_CLASSES 128

// The free and the used blocks of one size that this process owns.
typedef struct shm_arena_class {
    shm_block **blocks;
    uint32_t count, room;
    uint32_t cursor;  // where the search for a free one goes on
} shm_arena_class;

typedef struct shm_arena {
    shm_region *region;        // borrowed
    _Atomic uint64_t *first;   // in the region: the list of all blocks
    uint32_t me;               // SHM_PARENT or SHM_WORKER(n)
    shm_arena_class *classes;  // SHM_ARENA_CLASSES of them
} shm_arena;

// `first` is a word of the region that is zero when the first process opens its arena.
int shm_arena_open(shm_arena *arena, shm_region *region, _Atomic uint64_t *first, uint32_t me);

// Forgets the blocks, which stay what they are.  Accepts what is closed or zero.
void shm_arena_close(shm_arena *arena);

// A block with room for `bytes`, held by this process.  SHM_OK or SHM_NO_MEMORY.
int shm_arena_claim(shm_arena *arena, uint64_t bytes, shm_block **block);

// The block at an offset that another process named, if it has room for `bytes`; or NULL.
shm_block *shm_arena_at(shm_region *region, uint64_t offset, uint64_t bytes);

// Gives free memory back to the system, whoever owns it, all but a few blocks of each size and owner.
void shm_arena_trim(shm_arena *arena);

// Frees what a dead process held.
void shm_arena_free_held(shm_arena *arena, uint32_t dead);

// Takes what a dead process owned, and frees what it held.  SHM_NO_MEMORY leaves blocks for the next call.
int shm_arena_adopt(shm_arena *arena, uint32_t dead);

// Bytes of all blocks that this process owns and that have memory behind them; and of these, held by
// anybody.
void shm_arena_count(shm_arena *arena, uint64_t *committed_bytes, uint64_t *held_bytes);

static inline void
shm_block_take_over(shm_block *block, uint32_t receiver)
{
    // Relaxed: the record that named the block has published its contents.
    atomic_store_explicit(&block->holder, receiver, memory_order_relaxed);
}

// Does nothing if somebody else holds it, as the child of a fork finds.
static inline void
shm_block_release(shm_block *block, uint32_t me)
{
    // Relaxed: only a holder gives a block on, so if it is ours nobody else writes the word.
    if (atomic_load_explicit(&block->holder, memory_order_relaxed) == me) {
        // R6: pairs with A6 in is_free() and A6 in hold(): our last look at the payload comes before the
        // owner's next use.
        atomic_store_explicit(&block->holder, SHM_NOBODY, memory_order_release);
    }
}

#endif
