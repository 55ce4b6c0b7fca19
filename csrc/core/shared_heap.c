#define _GNU_SOURCE
#include "shared_heap.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "futex.h"
#include "shared_holds.h"
#include "shm_file.h"

#define MAGIC UINT64_C(0x3530706165686370)  // "pcheap05"
#define NOBODY 0
#define ITEMS 1
#define FIRST_PROCESS 2
#define ROW_WORDS (SHARED_HEAP_CELLS / 64)
#define CELLS_PER_PAGE (4096 / sizeof(shared_cell))
#define SWEEP_LEAST 64
#define RESERVATIONS SHARED_HEAP_RESERVATIONS
// Many kernels give up, and take back what they have, when a signal comes: so no call takes long.
#define STEP_BYTES (UINT64_C(1) << 22)
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
    _Alignas(64) _Atomic uint32_t cell;  // its place + 1; 0: none
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
    // For forget() and collect(), by the heap's lock:
    uint32_t found[SHARED_HEAP_CELLS];
    uint32_t found_count;
    uint64_t reached[ROW_WORDS];
    _Atomic uint32_t is_untidy;  // there are such, or cells that nobody uses but whose lock is held; a hint,
                                 // so relaxed everywhere
};

// ---- the lock ----

static void repair(shared_heap *heap);

static int
enter_until(shared_heap *heap, int64_t deadline_ns)
{
    int rc;
    do {
        rc = robust_lock_acquire(&heap->at->lock, deadline_ns);
    } while (rc == FUTEX_INTERRUPTED);
    if (rc == ROBUST_LOCK_ABANDONED) {
        repair(heap);
    }
    return rc < 0 ? rc : 0;
}

static int
enter(shared_heap *heap)
{
    return enter_until(heap, FUTEX_NO_DEADLINE);
}

static void
leave(shared_heap *heap)
{
    robust_lock_release(&heap->at->lock);
}

// ---- bits.  All below is called under the heap's lock ----

static bool
has(const shared_heap *heap, uint32_t party, uint32_t index)
{
    return (heap->at->rows[party][index / 64] >> (index % 64) & 1) != 0;
}

static void
set(shared_heap *heap, uint32_t party, uint32_t index)
{
    heap->at->rows[party][index / 64] |= UINT64_C(1) << (index % 64);
}

static void
clear(shared_heap *heap, uint32_t party, uint32_t index)
{
    heap->at->rows[party][index / 64] &= ~(UINT64_C(1) << (index % 64));
}

static shared_party *
party_at(const shared_heap *heap, uint32_t number)
{
    return &heap->at->parties[number];
}

static uint32_t
state_of(const shared_heap *heap, uint32_t number)
{
    // Relaxed: the heap's lock orders what matters, except for a child that takes what was reserved for it.
    return (uint32_t)atomic_load_explicit(&party_at(heap, number)->who, memory_order_relaxed) & 3;
}

static uint64_t
who_is(uint32_t pid, uint32_t ticket, uint32_t state)
{
    return (uint64_t)pid << 32 | ticket << 2 | state;
}

// How many cells have memory.  A stray write must not lead beyond them.
static uint32_t
cell_count(const shared_heap *heap)
{
    uint32_t count = heap->at->cells;
    return count < SHARED_HEAP_CELLS ? count : SHARED_HEAP_CELLS;
}

static uint32_t
row_count(const shared_heap *heap)
{
    uint32_t count = heap->at->rows_used;
    return count < SHARED_HEAP_PARTIES ? count : SHARED_HEAP_PARTIES;
}

static bool
is_used(const shared_heap *heap, uint32_t index)
{
    for (uint32_t i = 0; i < row_count(heap); i++) {
        if (state_of(heap, i) != PARTY_FREE && has(heap, i, index)) {
            return true;
        }
    }
    return false;
}

// Whose bits are in a word of a row: of all parties but one, if there is such.
static uint64_t
had_but_by(const shared_heap *heap, uint32_t party, uint32_t word)
{
    uint64_t used = 0;
    for (uint32_t i = 0; i < row_count(heap); i++) {
        if (state_of(heap, i) != PARTY_FREE && i != party) {
            used |= heap->at->rows[i][word];
        }
    }
    return used;
}

static uint64_t
used_in_word(const shared_heap *heap, uint32_t word)
{
    return had_but_by(heap, SHARED_HEAP_PARTIES, word);
}

// Where the system refuses the call, memory comes with the first write, or does not.
static bool
allocate_file(int fd, off_t offset, off_t bytes)
{
    int rc;
    do {
        rc = fallocate(fd, 0, offset, bytes);
    } while (rc < 0 && errno == EINTR);
    return rc == 0 || errno == ENOSYS || errno == EPERM || errno == EOPNOTSUPP;
}

// Gives memory to what is going to be written.  Not to another file that has the number by now.
static bool
allocate(const shared_heap *heap, const void *start, size_t bytes)
{
    off_t offset = (off_t)((const char *)start - (const char *)heap->at);
    return shm_file_is_there(&heap->file) && allocate_file(heap->file.fd, offset, (off_t)bytes);
}

// Takes the memory of what nobody uses.  Where the system refuses, it stays for the next.
static void
release_bytes(const shared_heap *heap, uint64_t offset, uint64_t bytes)
{
    if (shm_file_is_there(&heap->file)) {
        fallocate(heap->file.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)bytes);
    }
}

// ---- parties ----

// Numbers of processes in another space mean others.
static uint64_t
own_space(void)
{
    struct stat info;
    return stat("/proc/self/ns/pid", &info) == 0 ? (uint64_t)info.st_ino : 0;
}

// Frees a party, unless a child was quicker to take it.
static void
give_up(shared_heap *heap, uint32_t party, uint64_t who)
{
    heap->at->is_untidy = 1;
    // Relaxed: the lock orders it, except for that child.
    atomic_compare_exchange_strong_explicit(&party_at(heap, party)->who, &who, PARTY_FREE,
                                            memory_order_relaxed, memory_order_relaxed);
}

// Gives back the memory of the rows behind the last party.  Each new party allocates its own.
static void
trim_rows(shared_heap *heap)
{
    uint32_t before = row_count(heap), rows = before;
    while (rows > FIRST_PROCESS && state_of(heap, rows - 1) == PARTY_FREE) {
        rows--;
    }
    if (rows < before) {
        heap->at->rows_used = rows;
        release_bytes(heap, offsetof(layout, rows) + rows * sizeof(heap->at->rows[0]),
                      (before - rows) * sizeof(heap->at->rows[0]));
    }
}

static void
reap_dead_parties(shared_heap *heap)
{
    uint64_t space = own_space();
    for (uint32_t i = FIRST_PROCESS; i < row_count(heap); i++) {
        shared_party *each = party_at(heap, i);
        // Relaxed: see state_of().
        uint64_t who = atomic_load_explicit(&each->who, memory_order_relaxed);
        if (state_of(heap, i) != PARTY_FREE && i != heap->party && each->space == space
            && kill((pid_t)(who >> 32), 0) < 0 && errno == ESRCH) {
            give_up(heap, i, who);
        }
    }
    trim_rows(heap);
}

// Makes an empty row, in a state that keeps others off.  NOBODY: there is no room.
static uint32_t
add_party(shared_heap *heap, uint32_t state)
{
    for (int attempt = 0; attempt < 2; attempt++) {
        for (uint32_t i = FIRST_PROCESS; i < SHARED_HEAP_PARTIES; i++) {
            if (state_of(heap, i) == PARTY_FREE) {
                if (!allocate(heap, heap->at->rows[i], sizeof(heap->at->rows[i]))
                    || !allocate(heap, &heap->at->announcements[i], sizeof(heap->at->announcements[i]))) {
                    return NOBODY;
                }
                memset(heap->at->rows[i], 0, sizeof(heap->at->rows[i]));
                party_at(heap, i)->space = own_space();
                // Relaxed: as below.
                atomic_store_explicit(&heap->at->announcements[i].cell, 0, memory_order_relaxed);
                heap->at->rows_used = i < row_count(heap) ? row_count(heap) : i + 1;
                // Relaxed: ordered by the lock, or by the fork.
                uint64_t who = who_is((uint32_t)getpid(), ++heap->at->tickets, state);
                atomic_store_explicit(&party_at(heap, i)->who, who, memory_order_relaxed);
                return i;
            }
        }
        reap_dead_parties(heap);
    }
    return NOBODY;
}

// ---- units ----

static uint64_t
owner_of(const shared_heap *heap, uint32_t index)
{
    return shared_holds_owner(index, heap->at->cells_at[index].serial);
}

_Static_assert(SHARED_HEAP_CELLS == SHARED_HOLDS_CELLS, "a cell's place is the low half of an owner");

static bool
is_owner_there(const shared_heap *heap, uint64_t owner)
{
    uint32_t index = (uint32_t)(owner & 0xffff);
    return index < cell_count(heap) && owner_of(heap, index) == owner && is_used(heap, index);
}

static void
release_units(shared_heap *heap, uint32_t unit, uint32_t count)
{
    // The memory first: nobody else may have the units yet.
    release_bytes(heap, UNITS_OFFSET + unit * SHARED_UNIT_BYTES, count * SHARED_UNIT_BYTES);
    shared_extents_release(&heap->at->extents, unit, count);
}

// Releases the owner's units, except those of a run that is kept.
static void
release_all_but(shared_heap *heap, uint64_t owner, uint32_t kept, uint32_t kept_count)
{
    uint32_t count, unit;
    uint64_t whose;
    for (uint32_t from = 0; (count = shared_extents_next(&heap->at->extents, from, &unit, &whose)) > 0;
         from = unit + count) {
        if (whose != owner) {
            continue;
        }
        if (kept < unit || kept >= unit + count) {
            release_units(heap, unit, count);
            continue;
        }
        if (kept > unit) {
            release_units(heap, unit, kept - unit);
        }
        if (unit + count > kept + kept_count) {
            release_units(heap, kept + kept_count, unit + count - kept - kept_count);
        }
    }
}

// Releases what belongs to cells that nobody has.  Returns how many units do not.
static uint32_t
sweep(shared_heap *heap)
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

// The container that held it does not any more.
static void
let_go(shared_heap *heap, uint32_t index)
{
    if (index < cell_count(heap) && !shared_holds_any(&heap->at->holds, index)
        && has(heap, ITEMS, index)) {
        clear(heap, ITEMS, index);
        // Found once: nothing holds it any more.
        if (!is_used(heap, index)) {
            heap->found[heap->found_count++] = index;
        }
    }
}

// Gives back the memory of what was found to be used by nobody, and lets go of what that holds.
static void
forget_found(shared_heap *heap)
{
    while (heap->found_count > 0) {
        uint32_t held, index = heap->found[--heap->found_count];
        if (heap->at->cells_at[index].has_memory != 0) {
            heap->at->cells_at[index].has_memory = 0;
            release_all_but(heap, owner_of(heap, index), SHARED_NO_UNIT, 0);
        }
        while ((held = shared_holds_take(&heap->at->holds, index)) != SHARED_NO_CELL) {
            let_go(heap, held);
        }
    }
}

static void
let_go_of_found(void *arg, uint32_t index)
{
    let_go((shared_heap *)arg, index);
}

static void
reach(void *arg, uint32_t index)
{
    shared_heap *heap = arg;
    uint64_t bit = UINT64_C(1) << index % 64;
    if (index < cell_count(heap) && (heap->reached[index / 64] & bit) == 0) {
        heap->reached[index / 64] |= bit;
        heap->found[heap->found_count++] = index;
    }
}

// Lets go of all that no party leads to.  Its memory is found by sweep().
static void
collect(shared_heap *heap)
{
    shared_holds *holds = &heap->at->holds;
    memset(heap->reached, 0, sizeof(heap->reached));
    heap->found_count = 0;
    for (uint32_t word = 0; word * 64 < cell_count(heap); word++) {
        uint64_t had = had_but_by(heap, ITEMS, word);
        for (; had != 0; had &= had - 1) {
            reach(heap, word * 64 + (uint32_t)__builtin_ctzll(had));
        }
    }
    while (heap->found_count > 0) {
        shared_holds_each(holds, heap->found[--heap->found_count], reach, heap);
    }
    for (uint32_t i = 0; i < cell_count(heap); i++) {
        uint32_t held;
        while ((heap->reached[i / 64] >> i % 64 & 1) == 0
               && (held = shared_holds_take(holds, i)) != SHARED_NO_CELL) {
            if (!shared_holds_any(holds, held)) {
                clear(heap, ITEMS, held);
            }
        }
    }
    heap->at->is_untidy = 0;
}

// Before a cell that it had is another's.
static void
let_go_of_the_dead_s(shared_heap *heap)
{
    if (heap->at->is_untidy != 0) {
        collect(heap);
        sweep(heap);
    }
}

// What has died with the lock may have left anything undone.
static void
repair(shared_heap *heap)
{
    shared_holds *holds = &heap->at->holds;
    heap->at->is_untidy = 1;
    heap->found_count = 0;
    shared_holds_repair(holds, cell_count(heap));
    for (uint32_t i = 0; i < cell_count(heap); i++) {
        if (shared_holds_any(holds, i)) {
            set(heap, ITEMS, i);
        }
        else {
            clear(heap, ITEMS, i);
        }
    }
}

static uint32_t
find_units(shared_heap *heap, uint32_t order)
{
    shared_extents *extents = &heap->at->extents;
    uint32_t limit = heap->at->units < SHARED_UNITS ? heap->at->units : SHARED_UNITS;
    uint32_t found = shared_extents_find(extents, order, limit);
    bool is_time = found != SHARED_NO_UNIT && found >= extents->end && found >= extents->sweep_at;
    if (found == SHARED_NO_UNIT || is_time) {
        reap_dead_parties(heap);
        collect(heap);
        uint32_t used = sweep(heap);
        extents->sweep_at = used < SWEEP_LEAST ? 2 * SWEEP_LEAST : 2 * used;
        found = shared_extents_find(extents, order, limit);
    }
    return found;
}

// ---- cells ----

static void
forget_if_unused(shared_heap *heap, uint32_t index)
{
    if (heap->users[index] != 0) {
        return;
    }
    // As long as a thread holds the lock, the kernel knows of it.
    if (robust_lock_is_taken(&heap->at->cells_at[index].lock)) {
        atomic_store_explicit(&heap->is_untidy, 1, memory_order_relaxed);
    }
    else {
        clear(heap, heap->party, index);
        if ((heap->at->cells_at[index].has_memory != 0 || shared_holds_owns(&heap->at->holds, index))
            && !is_used(heap, index)) {
            heap->found[heap->found_count++] = index;
            forget_found(heap);
        }
    }
}

static void
tidy(shared_heap *heap)
{
    if (atomic_exchange_explicit(&heap->is_untidy, 0, memory_order_relaxed) == 0) {
        return;
    }
    for (uint32_t i = 0; i < cell_count(heap); i++) {
        // Relaxed: see there.
        uint32_t late = atomic_exchange_explicit(&heap->late[i], 0, memory_order_relaxed);
        heap->users[i] -= late < heap->users[i] ? late : heap->users[i];
        if (has(heap, heap->party, i)) {
            forget_if_unused(heap, i);
        }
    }
}

// A cell that nobody uses, below those that have no memory yet; SHARED_HEAP_CELLS: there is none.
static uint32_t
find_free(shared_heap *heap)
{
    for (uint32_t word = 0; word * 64 < cell_count(heap); word++) {
        uint64_t is_free = ~used_in_word(heap, word);
        for (uint32_t i = 0; is_free != 0 && i < 64; i++) {
            if ((is_free >> i & 1) != 0 && word * 64 + i < cell_count(heap)) {
                return word * 64 + i;
            }
        }
    }
    return SHARED_HEAP_CELLS;
}

static bool
grow(shared_heap *heap)
{
    uint32_t count = cell_count(heap);
    if (count == SHARED_HEAP_CELLS || !allocate(heap, &heap->at->cells_at[count], 4096)
        || !allocate(heap, heap->at->holds.first[count], CELLS_PER_PAGE * sizeof(heap->at->holds.first[0]))) {
        return false;
    }
    heap->at->cells = count + (uint32_t)CELLS_PER_PAGE;
    return true;
}

int
shared_heap_make(shared_heap *heap, uint32_t *index)
{
    int rc = enter(heap);
    if (rc < 0) {
        return rc;
    }
    tidy(heap);
    let_go_of_the_dead_s(heap);
    uint32_t found = find_free(heap);
    if (found == SHARED_HEAP_CELLS) {
        reap_dead_parties(heap);
        let_go_of_the_dead_s(heap);
        found = find_free(heap);
    }
    if (found == SHARED_HEAP_CELLS && grow(heap)) {
        found = find_free(heap);
    }
    if (found == SHARED_HEAP_CELLS) {
        collect(heap);
        sweep(heap);
        found = find_free(heap);
    }
    rc = SHARED_HEAP_FULL;
    if (found != SHARED_HEAP_CELLS) {
        shared_cell *cell = &heap->at->cells_at[found];
        memset(cell, 0, sizeof(*cell));
        cell->serial = ++heap->at->serial;
        heap->users[found] = 1;
        set(heap, heap->party, found);
        *index = found;
        rc = 0;
    }
    leave(heap);
    return rc;
}

int
shared_heap_attach(shared_heap *heap, uint32_t index, uint64_t serial)
{
    int rc = enter(heap);
    if (rc < 0) {
        return rc;
    }
    rc = SHARED_HEAP_GONE;
    if (index < cell_count(heap) && heap->at->cells_at[index].serial == serial && is_used(heap, index)) {
        set(heap, heap->party, index);
        heap->users[index]++;
        rc = 0;
    }
    leave(heap);
    return rc;
}

int
shared_heap_share_each(shared_heap *heap, const uint32_t *cells, uint32_t count)
{
    int rc = enter(heap);
    if (rc < 0) {
        return rc;
    }
    for (uint32_t i = 0; i < count; i++) {
        // A stray write must not lead elsewhere.
        if (cells[i] < cell_count(heap)) {
            set(heap, heap->party, cells[i]);
            heap->users[cells[i]]++;
        }
    }
    leave(heap);
    return 0;
}

int
shared_heap_share(shared_heap *heap, uint32_t index)
{
    return shared_heap_share_each(heap, &index, 1);
}

int
shared_heap_send(shared_heap *heap, uint32_t index)
{
    int rc = enter(heap);
    if (rc == 0) {
        shared_cell *cell = &heap->at->cells_at[index];
        uint32_t sent = atomic_load_explicit(&cell->sent, memory_order_relaxed);
        // A party that has sent so many has pinned it.
        sent += sent != SHARED_HEAP_PINNED ? 1 : 0;
        atomic_store_explicit(&cell->sent, sent, memory_order_relaxed);
        set(heap, NOBODY, index);
        leave(heap);
    }
    return rc;
}

int
shared_heap_received(shared_heap *heap, uint32_t index)
{
    int rc = enter(heap);
    if (rc == 0) {
        shared_cell *cell = &heap->at->cells_at[index];
        uint32_t sent = atomic_load_explicit(&cell->sent, memory_order_relaxed);
        sent -= sent > 0 && sent != SHARED_HEAP_PINNED ? 1 : 0;
        atomic_store_explicit(&cell->sent, sent, memory_order_relaxed);
        if (sent == 0) {
            clear(heap, NOBODY, index);
        }
        leave(heap);
    }
    return rc;
}

int
shared_heap_pin(shared_heap *heap, uint32_t index)
{
    int rc = enter(heap);
    if (rc == 0) {
        atomic_store_explicit(&heap->at->cells_at[index].sent, SHARED_HEAP_PINNED, memory_order_relaxed);
        set(heap, NOBODY, index);
        leave(heap);
    }
    return rc;
}

static void
drop_one(shared_heap *heap, uint32_t index)
{
    heap->users[index] -= heap->users[index] > 0 ? 1 : 0;
    forget_if_unused(heap, index);
}

void
shared_heap_drop(shared_heap *heap, uint32_t index)
{
    if (index >= SHARED_HEAP_CELLS) {
        return;
    }
    if (enter_until(heap, ROBUST_LOCK_NO_WAIT) < 0) {
        // Relaxed: see there.
        atomic_fetch_add_explicit(&heap->late[index], 1, memory_order_relaxed);
        atomic_store_explicit(&heap->is_untidy, 1, memory_order_relaxed);
        return;
    }
    drop_one(heap, index);
    leave(heap);
}

void
shared_heap_drop_each(shared_heap *heap, const uint32_t *cells, uint32_t count)
{
    bool is_in = enter(heap) == 0;
    for (uint32_t i = 0; i < count; i++) {
        if (!is_in) {
            shared_heap_drop(heap, cells[i]);
        }
        else if (cells[i] < cell_count(heap)) {
            drop_one(heap, cells[i]);
        }
    }
    if (is_in) {
        leave(heap);
    }
}

uint32_t
shared_heap_used(shared_heap *heap)
{
    uint32_t used = 0;
    if (enter(heap) == 0) {
        tidy(heap);
        reap_dead_parties(heap);
        collect(heap);
        sweep(heap);
        for (uint32_t word = 0; word * 64 < cell_count(heap); word++) {
            used += (uint32_t)__builtin_popcountll(used_in_word(heap, word));
        }
        leave(heap);
    }
    return used;
}

// ---- cells that a container holds ----

// A record has memory before it comes.
static bool
has_record(shared_heap *heap, uint64_t owner, uint32_t index)
{
    shared_holds *holds = &heap->at->holds;
    if (shared_holds_has(holds, owner, index)) {
        return true;
    }
    uint32_t number = shared_holds_next_free(holds);
    bool begins_page = number == holds->used && number % (4096 / sizeof(shared_hold)) == 0;
    return number < SHARED_HOLDS_MAX && (!begins_page || allocate(heap, &holds->records[number], 4096));
}

// Under the heap's lock.
static void
let_go_of_each(shared_heap *heap, uint64_t owner, const uint32_t *cells, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (cells[i] < cell_count(heap)) {
            shared_holds_remove(&heap->at->holds, owner, cells[i]);
            let_go(heap, cells[i]);
        }
    }
    forget_found(heap);
}

int
shared_heap_hold(shared_heap *heap, uint32_t container, const uint32_t *cells, uint32_t count)
{
    int rc = enter(heap);
    if (rc < 0) {
        return rc;
    }
    uint64_t owner = owner_of(heap, container);
    for (uint32_t i = 0; rc == 0 && i < count; i++) {
        if (cells[i] < cell_count(heap) && has_record(heap, owner, cells[i])) {
            shared_holds_add(&heap->at->holds, owner, cells[i]);
            set(heap, ITEMS, cells[i]);
        }
        else {
            let_go_of_each(heap, owner, cells, i);
            rc = SHARED_HEAP_FULL;
        }
    }
    leave(heap);
    return rc;
}

int
shared_heap_let_go(shared_heap *heap, uint32_t container, const uint32_t *cells, uint32_t count)
{
    int rc = enter(heap);
    if (rc == 0) {
        let_go_of_each(heap, owner_of(heap, container), cells, count);
        leave(heap);
    }
    return rc;
}

int
shared_heap_settle(shared_heap *heap, uint32_t container, const uint32_t *counts)
{
    int rc = enter(heap);
    if (rc == 0) {
        shared_holds_settle(&heap->at->holds, container, counts, let_go_of_found, heap);
        forget_found(heap);
        leave(heap);
    }
    return rc;
}

// ---- memory of cells ----

int
shared_heap_take(shared_heap *heap, uint32_t index, uint32_t order, uint32_t *unit)
{
    if (order > SHARED_ORDER_MAX) {
        return SHARED_HEAP_FULL;
    }
    int rc = enter(heap);
    if (rc < 0) {
        return rc;
    }
    shared_extents *extents = &heap->at->extents;
    uint32_t found = find_units(heap, order);
    rc = SHARED_HEAP_FULL;
    if (found != SHARED_NO_UNIT) {
        uint32_t end = found + (UINT32_C(1) << order);
        uint32_t known = extents->end < end ? extents->end : end;
        if (allocate(heap, &extents->owners[known], (end - known + 1) * sizeof(extents->owners[0]))) {
            heap->at->cells_at[index].has_memory = 1;
            shared_extents_take(extents, found, order, owner_of(heap, index));
            *unit = found;
            rc = 0;
        }
    }
    leave(heap);
    return rc;
}

static bool
is_looked_at(const shared_heap *heap, uint32_t index)
{
    bool is = false;
    for (uint32_t i = FIRST_PROCESS; i < row_count(heap); i++) {
        if (state_of(heap, i) != PARTY_FREE) {
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
    int rc = enter(heap);
    if (rc < 0) {
        return rc;
    }
    if (is_looked_at(heap, index)) {
        reap_dead_parties(heap);  // one of them may have looked until its end
        rc = is_looked_at(heap, index) ? SHARED_HEAP_LOOKED_AT : 0;
    }
    if (rc == 0) {
        release_all_but(heap, owner_of(heap, index), kept, UINT32_C(1) << order);
    }
    leave(heap);
    return rc;
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

bool
shared_heap_commit(const shared_heap *heap, uint32_t unit, uint64_t from, uint64_t to)
{
    uint64_t start = UNITS_OFFSET + unit * SHARED_UNIT_BYTES;
    if (!shm_file_is_there(&heap->file)) {
        return false;
    }
    while (from < to) {
        uint64_t step = to - from < STEP_BYTES ? to - from : STEP_BYTES;
        if (!allocate_file(heap->file.fd, (off_t)(start + from), (off_t)step)) {
            return false;
        }
        from += step;
    }
    return true;
}

// ---- mappings ----
//
// To map 100 MB, find the first page and unmap it again costs more than the task that is sent it.  So a
// process keeps the last read-only mappings that it had: each in one word, the address beside the run, which
// somebody takes whole or not at all, in a signal's handler or the child of a fork, too.  A run is a place in
// the file, so a mapping never shows anything but what is there now.

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

static void
unmap_all_kept(shared_heap *heap)
{
    for (uint32_t i = 0; i < KEPT_MAPPINGS; i++) {
        // Relaxed: as in take_kept().
        unmap_kept(atomic_exchange_explicit(&heap->kept[i], 0, memory_order_relaxed));
    }
}

// As many as the file can have.
static uint32_t
units_of(int fd)
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
        || unit + (UINT64_C(1) << order) > units_of(heap->file.fd)) {  // a stray write may have led there
        return NULL;
    }
    int allowed = is_read_only ? PROT_READ : PROT_READ | PROT_WRITE;
    off_t place = (off_t)(UNITS_OFFSET + unit * SHARED_UNIT_BYTES);
    start = mmap(NULL, bytes, allowed, MAP_SHARED | MAP_NORESERVE, heap->file.fd, place);
    if (start == MAP_FAILED) {
        unmap_all_kept(heap);  // there may be room then, or one mapping less than there may be
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

// ---- forks ----

void
shared_heap_before_fork(shared_heap *heap)
{
    reservation *slot = &heap->reserved[heap->forks++ % RESERVATIONS];
    reservation oldest = *slot;
    slot->party = NOBODY;
    if (enter(heap) < 0) {
        return;
    }
    if (oldest.party != NOBODY) {
        // Nothing happens if that child has taken it.  Otherwise it died before, or the fork failed; a child
        // that is as late as that makes a row of its own.
        give_up(heap, oldest.party, oldest.who);
    }
    slot->party = add_party(heap, PARTY_RESERVED);
    if (slot->party != NOBODY) {
        memcpy(heap->at->rows[slot->party], heap->at->rows[heap->party], sizeof(heap->at->rows[0]));
        // Relaxed: as add_party() has just left it.
        slot->who = atomic_load_explicit(&party_at(heap, slot->party)->who, memory_order_relaxed);
    }
    leave(heap);
}

void
shared_heap_after_fork(shared_heap *heap)
{
    reservation own_one = heap->reserved[(heap->forks - 1) % RESERVATIONS];
    memset(heap->reserved, 0, sizeof(heap->reserved));
    if (own_one.party != NOBODY) {
        uint64_t mine = who_is((uint32_t)getpid(), (uint32_t)own_one.who >> 2, PARTY_USED);
        // Relaxed: the thread that forked made its row, and reap_dead_parties() asks about either process.
        if (atomic_compare_exchange_strong_explicit(&party_at(heap, own_one.party)->who, &own_one.who, mine,
                                                    memory_order_relaxed, memory_order_relaxed)) {
            heap->party = own_one.party;
            return;
        }
    }
    uint32_t own = NOBODY;
    if (enter(heap) == 0) {
        own = add_party(heap, PARTY_USED);
        for (uint32_t i = 0; own != NOBODY && i < cell_count(heap); i++) {
            if (heap->users[i] != 0) {
                set(heap, own, i);
            }
        }
        leave(heap);
    }
    // Without a row the parent's must do.
    heap->party = own != NOBODY ? own : heap->party;
}

// ---- opening ----

static bool
prepare(layout *at, int fd)
{
    if (!allocate_file(fd, 0, (off_t)offsetof(layout, rows[FIRST_PROCESS]))
        || !allocate_file(fd, (off_t)offsetof(layout, extents), 4096)
        || !allocate_file(fd, (off_t)offsetof(layout, holds), 4096)
        || getrandom(&at->identity, sizeof(at->identity), 0) != (ssize_t)sizeof(at->identity)) {
        return false;
    }
    at->magic = MAGIC;
    at->rows_used = FIRST_PROCESS;
    at->units = units_of(fd);
    at->extents.sweep_at = SWEEP_LEAST;
    // Relaxed: nobody else has the file yet.
    atomic_store_explicit(&at->parties[NOBODY].who, PARTY_USED, memory_order_relaxed);
    atomic_store_explicit(&at->parties[ITEMS].who, PARTY_USED, memory_order_relaxed);
    return true;
}

// Holes cost nothing, but a limit on the size of files counts them.
static off_t
file_bytes(void)
{
    struct rlimit limit;
    uint64_t bytes = UNITS_OFFSET + SHARED_UNITS * SHARED_UNIT_BYTES;
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur < bytes) {
        bytes = limit.rlim_cur < sizeof(layout) ? sizeof(layout) : limit.rlim_cur / 4096 * 4096;
    }
    return (off_t)bytes;
}

static int
make_file(void)
{
    int fd = memfd_create("pyconc-shared", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd >= 0
        && (ftruncate(fd, file_bytes()) < 0
            || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)) {
        int error = errno;
        close(fd);
        errno = error;
        return -1;
    }
    return fd;
}

// A file that may be given any size could be cut under us.
static bool
is_heap_file(int fd)
{
    struct stat info;
    int seals = fcntl(fd, F_GET_SEALS);
    return fstat(fd, &info) == 0 && info.st_size >= (off_t)sizeof(layout) && seals >= 0
           && (seals & F_SEAL_SHRINK) != 0;
}

shared_heap *
shared_heap_open(int fd)
{
    bool is_new = fd < 0;
    int rc, own;
    layout *at = MAP_FAILED;
    shared_heap *heap = calloc(1, sizeof(*heap));
    int error = ENOMEM;
    if (heap == NULL) {
        errno = error;
        return NULL;
    }
    own = is_new ? make_file() : fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (own < 0 || !shm_file_identify(&heap->file, own)) {
        error = errno;
        goto fail;
    }
    error = EINVAL;
    if (!is_heap_file(own)) {
        goto fail;
    }
    at = mmap(NULL, sizeof(layout), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, own, 0);
    if (at == MAP_FAILED || (is_new && !prepare(at, own))) {
        error = errno;
        goto fail;
    }
    if (at->magic != MAGIC) {
        goto fail;
    }
    heap->at = at;
    rc = enter(heap);
    if (rc < 0) {
        error = rc == ROBUST_LOCK_REFUSED ? ENOTSUP : EAGAIN;
        goto fail;
    }
    heap->party = add_party(heap, PARTY_USED);
    leave(heap);
    if (heap->party == NOBODY) {
        error = ENOMEM;
        goto fail;
    }
    return heap;

fail:
    if (at != MAP_FAILED) {
        munmap(at, sizeof(layout));
    }
    if (own >= 0) {
        close(own);
    }
    free(heap);
    errno = error;
    return NULL;
}

void
shared_heap_close(shared_heap *heap)
{
    if (enter(heap) < 0) {
        return;
    }
    tidy(heap);
    bool has_cells = false;
    for (uint32_t word = 0; word < ROW_WORDS; word++) {
        has_cells = has_cells || heap->at->rows[heap->party][word] != 0;
    }
    if (!has_cells) {
        // Relaxed: ordered by the lock.
        atomic_store_explicit(&party_at(heap, heap->party)->who, PARTY_FREE, memory_order_relaxed);
    }
    leave(heap);
    if (!has_cells) {
        unmap_all_kept(heap);
        munmap(heap->at, sizeof(layout));
        if (shm_file_is_there(&heap->file)) {
            close(heap->file.fd);
        }
        free(heap);
    }
}

uint64_t
shared_heap_identity(const shared_heap *heap)
{
    return heap->at->identity;
}

int
shared_heap_fd(const shared_heap *heap)
{
    return heap->file.fd;
}

shared_cell *
shared_heap_cell(const shared_heap *heap, uint32_t index)
{
    return &heap->at->cells_at[index];
}
