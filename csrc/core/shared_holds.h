// shared_holds: which cell of a heap holds which other, because an item of the one refers to the other.
//
// There is a record for each pair, with the number of references.  The records are all that is true, and each
// step of a change leaves them so; two chains follow from them, through the records that a cell owns and
// through those by which it is held, and a chain of the free ones.  A process that gets the lock from the
// dead makes the chains anew, by shared_holds_repair().
//
// A death while a container changes leaves it with a reference too many here, never with one too few: a cell
// is held before an item that refers to it can be seen, and let go after the last can.  The container's next
// user counts them again, see shared_run.h.
//
// Numbers only: the heap knows which processes have a cell.  The caller has a lock for all of it.  No Python.
#ifndef PYCONC_SHARED_HOLDS_H
#define PYCONC_SHARED_HOLDS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define SHARED_HOLDS_CELLS 65536
#define SHARED_HOLDS_MAX (UINT32_C(1) << 18)
#define SHARED_NO_CELL UINT32_MAX

typedef enum shared_hold_chain {
    SHARED_HOLD_OWNED,  // by their owner
    SHARED_HOLD_OF,     // by the cell that is held
    SHARED_HOLD_CHAINS
} shared_hold_chain;

// Guarded by the caller's lock, all of it.  A link is a record's number + 1; 0: none.
typedef struct shared_hold {
    _Atomic uint64_t owner;  // 0: the record is free
    _Atomic uint32_t count;
    uint32_t cell;  // that is held; constant while there is an owner
    uint32_t next[SHARED_HOLD_CHAINS], previous[SHARED_HOLD_CHAINS];
} shared_hold;

_Static_assert(sizeof(shared_hold) == 32, "shared between processes");

typedef struct shared_holds {
    uint32_t used;  // no record from here on was ever
    uint32_t free;  // the first of those that are free again, by next[0]
    _Alignas(4096) uint32_t first[SHARED_HOLDS_CELLS][SHARED_HOLD_CHAINS];
    _Alignas(4096) shared_hold records[SHARED_HOLDS_MAX];
} shared_holds;

// Owners are what shared_holds_owner() makes of a cell's place and serial.
static inline uint64_t
shared_holds_owner(uint32_t cell, uint64_t serial)
{
    return serial << 16 | cell;
}

// The record that the next pair needs, which must have memory before it comes; SHARED_HOLDS_MAX: there is
// none.
uint32_t shared_holds_next_free(const shared_holds *holds);

// One reference more; there is memory for the record.
void shared_holds_add(shared_holds *holds, uint64_t owner, uint32_t cell);

// One less, if there is any.
void shared_holds_remove(shared_holds *holds, uint64_t owner, uint32_t cell);

// Whether the pair has a record, and whether any owner holds the cell.
bool shared_holds_has(shared_holds *holds, uint64_t owner, uint32_t cell);
bool shared_holds_any(const shared_holds *holds, uint32_t cell);

// Whether this one holds any.
bool shared_holds_owns(const shared_holds *holds, uint32_t owner_cell);

// A cell that this one holds, of which it lets go; SHARED_NO_CELL: there is none.
uint32_t shared_holds_take(shared_holds *holds, uint32_t owner_cell);

// Gives each of the cells that this one holds to `see`, which changes nothing here.
void shared_holds_each(const shared_holds *holds, uint32_t owner_cell, void (*see)(void *arg, uint32_t cell),
                       void *arg);

// Makes the numbers those of `counts`, by cell, for each cell that the owner holds; none is there to come.
// What it does not hold any more is given to `gone`.
void shared_holds_settle(shared_holds *holds, uint32_t owner_cell, const uint32_t *counts,
                         void (*gone)(void *arg, uint32_t cell), void *arg);

// After a death: makes the chains anew.  `cells` is how many cells there are.
void shared_holds_repair(shared_holds *holds, uint32_t cells);

#endif
