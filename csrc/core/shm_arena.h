// shm_arena: blocks of a region, each with an owner that may die.
//
// A block is a header and room for a payload.  It lies in the share of its *owner*, the process that made it,
// and only the owner may use it again once no process holds it.  Its *holder* uses it now; that is a word of
// the header:
//
//                 claim (owner)              take over (receiver)             release (receiver)
//     holder: 0 --------------> the sender ----------------------> receiver ------------------> 0
//
// So a block goes to another process and comes back without a message: the receiver takes it over when it
// takes the slot that names it, and releases it when its last view dies; the owner finds it free when it next
// looks.  Only the owner fills a free block, and only the holder passes it on, so the processes need no lock.
//
// Each process knows by itself which blocks there are, where, and how large: its own because it made them,
// others' because a message named them, and it checks what a message says.  So whatever another process
// writes into shared memory, this one touches nothing that is not mapped, and nothing that is not a block.
//
//     share     | slab of small blocks | large block, mapped by itself | slab | large block | ...
//
// The receiver copies all out of a *small* block, which goes back at once.  A *large* one stays for as long
// as the receiver looks at it, and what the receiver sees is its own, also after a fork: see shm_fork.h.  A
// block that a child may still look at goes back when that is over.
//
// When a process has died, another frees what it held, and gives the memory of all that it owned back to the
// system.  Blocks that this process has received follow when they are released.
//
// Freed blocks keep their memory, because copying into pages that are mapped already is nine times as fast as
// into fresh ones; shm_arena_trim() gives back all but a few of each size and owner.  The process that trims
// holds a block for that long, hence the compare-and-swap in the owner's claim.  A process whose address
// space is limited maps only what it uses.
//
// A process has one arena.  Any thread may call everything except open and close; a mutex guards what is not
// shared.  No Python.
#ifndef PYCONC_SHM_ARENA_H
#define PYCONC_SHM_ARENA_H

#include <pthread.h>

#include "shm_region.h"

// Parties of a region, as owners and holders of its blocks.
#define SHM_NOBODY 0
#define SHM_PARENT 1
#define SHM_WORKER(number) ((uint32_t)(number) + 2)
#define SHM_PARTIES(workers) ((uint32_t)(workers) + 1)

// The most bytes of a small block's payload.  Measured by calls that send an array back to their caller: a
// copy of 60 kB costs as much as a view of 100 kB that goes back later, 19 to 20 microseconds in all.
#define SHM_SMALL_BYTES (SHM_SMALL_PAGES * SHM_PAGE - sizeof(shm_block_header))
#define SHM_SMALL_PAGES 16

// In shared memory.
typedef struct shm_block_header {
    _Atomic uint32_t holder;
    _Atomic uint32_t committed;  // 0: only the first page has memory; the holder writes it
    _Atomic uint32_t is_forked;  // the holder has children that may look at it, even when it is dead
    uint32_t unused[13];
    unsigned char payload[];  // aligned as the widest vectors want it
} shm_block_header;

_Static_assert(sizeof(shm_block_header) == 64, "the layout is shared");

typedef struct shm_arena shm_arena;

// What this process knows of a block.  The arena's mutex guards all fields except offset, capacity, payload
// and arena, which do not change while this process holds the block.
typedef struct shm_block {
    shm_arena *arena;          // NULL: the block has outlived it, see shm_arena_close()
    uint64_t offset;           // of the header in the file
    uint64_t capacity;         // bytes of payload that fit
    shm_block_header *header;  // where it is mapped here; NULL: nowhere, and there is no memory
    unsigned char *payload;
    uint64_t mapped_bytes;  // of a large one: all of it, or its front
    uint32_t owner;
    bool is_received;   // this process has it from its owner, and has not given it back
    bool is_inherited;  // its owner is dead
    bool is_open;       // the view is open, or waits to be closed
    bool is_partial;    // some of its memory was given back meanwhile
    shm_view view;
    struct shm_block *next;     // in the table of others' blocks
    struct shm_block *waiting;  // released, but children may look at it
} shm_block;

#define SHM_ARENA_CLASSES 128
#define SHM_ARENA_BUCKETS 256

// The free and the used blocks of one size that this process owns.
typedef struct shm_arena_class {
    shm_block **blocks;
    uint32_t count, room;
    uint32_t cursor;  // where the search for a free one goes on
} shm_arena_class;

typedef struct shm_slab {
    uint64_t offset;
    unsigned char *start;
    struct shm_slab *next;
} shm_slab;

struct shm_arena {
    shm_region *region;  // borrowed
    uint32_t me;         // SHM_PARENT or SHM_WORKER(n); SHM_NOBODY: closed
    pthread_mutex_t lock;
    shm_arena_class *classes;     // SHM_ARENA_CLASSES of them
    shm_block **others;           // SHM_ARENA_BUCKETS lists of others' blocks
    shm_slab **slabs;             // as many lists of mapped slabs, of all owners
    shm_block *waiting;           // released, but children may look at them
    uint64_t at, share_end;       // the rest of this process's share
    uint64_t small_at, slab_end;  // the rest of its slab
};

// SHM_OK or SHM_NO_MEMORY.
int shm_arena_open(shm_arena *arena, shm_region *region, uint32_t me);

// Forgets the blocks, and unmaps them.  Those at which this process still looks stay, as its own memory,
// until it releases them.  With `discard`, the memory of all free blocks goes back to the system.  Accepts a
// closed or zeroed arena.
void shm_arena_close(shm_arena *arena, bool discard);

// A block with room for `bytes`, held by this process.  SHM_OK or SHM_NO_MEMORY, or SHM_NOT_OURS if the
// file is gone.
int shm_arena_claim(shm_arena *arena, uint64_t bytes, shm_block **block);

// The block with a name that another process gave, if it has room for `bytes`.  SHM_OK; SHM_NO_MEMORY: it
// cannot be mapped, and goes back; SHM_NOT_OURS: there can be no such block, or this process uses it already.
int shm_arena_find(shm_arena *arena, uint64_t name, uint64_t bytes, shm_block **block);

// This process has found the block, and is its holder from here on.
void shm_block_take_over(shm_block *block, uint32_t me);

// For a block that was taken over, before this process looks at it for longer than a call: the view is the
// process's own, and may outlive the arena.  False: a small block has no view.
bool shm_block_open_view(shm_block *block);

// This process looks at the block no longer.  Does nothing if another process holds it, or in the child of a
// fork.  A block that has outlived its arena is freed.
void shm_block_release(shm_block *block, uint32_t me);

// The number by which other processes find it: where it is, and in the lowest bits how large.  Never 0.
uint64_t shm_block_name(const shm_block *block);

// This process looks at a part of the payload no longer: its memory goes back at once, unless children may
// look at it.
void shm_block_discard_part(shm_block *block, uint64_t start, uint64_t bytes);

// Another process has the block now, and will release it.
void shm_block_sent(shm_block *block);

// The holder.
uint32_t shm_block_holder(shm_block *block);

// Gives the memory of free blocks, of all owners, back to the system, except for a few of each size and
// owner.
void shm_arena_trim(shm_arena *arena);

// Frees the blocks that a dead process held, and gives back the memory of those that it owned.
void shm_arena_free_held(shm_arena *arena, uint32_t dead);

// Bytes of all blocks that this process owns and that have memory; and of those, bytes that any process
// holds.
void shm_arena_count(shm_arena *arena, uint64_t *committed_bytes, uint64_t *held_bytes);

static inline uint64_t
shm_block_bytes(const shm_block *block)
{
    return block->capacity + sizeof(shm_block_header);
}

#endif
