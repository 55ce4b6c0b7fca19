// shared_heap_layout: what lies in a heap's file, and this process's view of it, for the files of a heap
// alone.  All is guarded by the heap's lock unless its line says otherwise; functions are called with it.  No
// Python.
#ifndef PYCONC_SHARED_HEAP_LAYOUT_H
#define PYCONC_SHARED_HEAP_LAYOUT_H

#include <sys/types.h>

#include "futex.h"
#include "shared_heap.h"
#include "shared_holds.h"
#include "shm_file.h"

#define MAGIC UINT64_C(0x3530706165686370)  // "pcheap05"
#define NOBODY 0
#define ITEMS 1
#define FIRST_PROCESS 2
#define ROW_WORDS (SHARED_HEAP_CELLS / 64)
#define SWEEP_LEAST 64
#define RESERVATIONS SHARED_HEAP_RESERVATIONS
// Read-only mappings that nobody uses, see shared_heap_unmap(): as many objects as a task is sent, mostly.
#define KEPT_MAPPINGS 4

enum {
    PARTY_FREE,
    PARTY_RESERVED,
    PARTY_USED
};

typedef struct shared_party {
    // Process number << 32 | ticket << 2 | state, in one word: a child that takes what was reserved for it
    // needs no lock.  A ticket is no other party's: a late child never takes what another has by then.
    _Atomic uint64_t who;  // RESERVED for a child until that makes it USED; else under the heap's lock
    uint64_t space;        // of process numbers; 0: not known
} shared_party;

// What a process looks at: only that stores here, and has the line to itself.
typedef struct announcement {
    _Alignas(64) _Atomic uint64_t run;  // its unit, its order, and its cell's place + 1; 0: none
} announcement;

// A party that is reserved for a child.
typedef struct reservation {
    uint32_t party;  // NOBODY: none
    uint64_t who;    // as long as the child has not taken it
} reservation;

typedef struct layout {
    _Alignas(4096) struct {
        uint64_t magic, identity;
        robust_lock lock;
        // Guarded by the lock:
        uint64_t serial;     // of the newest cell
        uint32_t cells;      // that have memory
        uint32_t rows_used;  // no party has a later one
        uint32_t units;      // that the file has room for; constant
        uint32_t tickets;    // that were given
        uint32_t is_untidy;  // a party has lost its bits, and what its containers hold has not been let go
    };
    // Guarded by the lock, like the rows.
    _Alignas(4096) shared_party parties[SHARED_HEAP_PARTIES];
    _Alignas(4096) announcement announcements[SHARED_HEAP_PARTIES];
    _Alignas(4096) uint64_t rows[SHARED_HEAP_PARTIES][ROW_WORDS];
    _Alignas(4096) shared_cell cells_at[SHARED_HEAP_CELLS];
    _Alignas(4096) shared_extents extents;  // guarded by the lock, both
    _Alignas(4096) shared_holds holds;
} layout;

// Where the units begin in the file.
#define UNITS_OFFSET ((sizeof(layout) + SHARED_UNIT_BYTES - 1) / SHARED_UNIT_BYTES * SHARED_UNIT_BYTES)

struct shared_heap {
    layout *at;      // mapped until it is closed
    shm_file file;   // constant
    uint32_t party;  // this process's; guarded by the lock
    // Of the last children, those that have taken theirs included.  Only the thread that forks changes both.
    reservation reserved[RESERVATIONS];
    uint32_t forks;
    // Where it is and which run, see kept_mapping(); 0: none.  Whoever takes it out owns it.
    _Atomic uint64_t kept[KEPT_MAPPINGS];
    _Atomic uint32_t next_kept;  // where the next one goes; a hint, so relaxed everywhere
    // Of each cell, guarded by the heap's lock:
    uint32_t users[SHARED_HEAP_CELLS];
    // Users that have gone while the lock was not free.  Relaxed everywhere: each one counts by itself.
    _Atomic uint32_t late[SHARED_HEAP_CELLS];
    // For shared_heap_forget_found() and shared_heap_collect(), by the heap's lock:
    uint32_t found[SHARED_HEAP_CELLS];
    uint32_t found_count;
    uint64_t reached[ROW_WORDS];
    _Atomic uint32_t is_untidy;  // there are such, or cells that nobody uses but whose lock is held; a hint,
                                 // so relaxed everywhere
};

// Takes the lock, and repairs what the dead left undone.  0, or a status of robust_lock.
int shared_heap_enter_until(shared_heap *heap, int64_t deadline_ns);

static inline int
shared_heap_enter(shared_heap *heap)
{
    return shared_heap_enter_until(heap, FUTEX_NO_DEADLINE);
}

static inline void
shared_heap_leave(shared_heap *heap)
{
    robust_lock_release(&heap->at->lock);
}

// ---- bits; with the lock, as all below ----

static inline bool
shared_heap_has(const shared_heap *heap, uint32_t party, uint32_t index)
{
    return (heap->at->rows[party][index / 64] >> (index % 64) & 1) != 0;
}

static inline void
shared_heap_set(shared_heap *heap, uint32_t party, uint32_t index)
{
    heap->at->rows[party][index / 64] |= UINT64_C(1) << (index % 64);
}

static inline void
shared_heap_clear(shared_heap *heap, uint32_t party, uint32_t index)
{
    heap->at->rows[party][index / 64] &= ~(UINT64_C(1) << (index % 64));
}

static inline shared_party *
shared_heap_party_at(const shared_heap *heap, uint32_t number)
{
    return &heap->at->parties[number];
}

static inline uint32_t
shared_heap_state_of(const shared_heap *heap, uint32_t number)
{
    // Relaxed: the heap's lock orders what matters, except for a child that takes what was reserved for it.
    return (uint32_t)atomic_load_explicit(&shared_heap_party_at(heap, number)->who, memory_order_relaxed) & 3;
}

static inline uint64_t
shared_heap_who_is(uint32_t pid, uint32_t ticket, uint32_t state)
{
    return (uint64_t)pid << 32 | ticket << 2 | state;
}

// How many cells have memory.  A stray write must not lead beyond them.
static inline uint32_t
shared_heap_cell_count(const shared_heap *heap)
{
    uint32_t count = heap->at->cells;
    return count < SHARED_HEAP_CELLS ? count : SHARED_HEAP_CELLS;
}

static inline uint32_t
shared_heap_row_count(const shared_heap *heap)
{
    uint32_t count = heap->at->rows_used;
    return count < SHARED_HEAP_PARTIES ? count : SHARED_HEAP_PARTIES;
}

// Whether any party has the cell.
bool shared_heap_is_used(const shared_heap *heap, uint32_t index);

// Whose bits are in a word of a row: of all parties; of all but one.
uint64_t shared_heap_used_in_word(const shared_heap *heap, uint32_t word);
uint64_t shared_heap_had_but_by(const shared_heap *heap, uint32_t party, uint32_t word);

// ---- memory of the file ----

// Gives memory to what is going to be written, in a file; in the heap's, but not in another that has the
// number by now.  Where the system refuses the call, memory comes with the first write, or does not.
bool shared_heap_allocate_file(int fd, off_t offset, off_t bytes);
bool shared_heap_allocate(const shared_heap *heap, const void *start, size_t bytes);

// Takes the memory of what nobody uses.  Where the system refuses, it stays for the next.
void shared_heap_release_bytes(const shared_heap *heap, uint64_t offset, uint64_t bytes);

#endif
