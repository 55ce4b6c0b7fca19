#include "shared_holds.h"

#include <string.h>

static uint32_t
cell_of_owner(uint64_t owner)
{
    return (uint32_t)(owner & 0xffff);
}

_Static_assert(SHARED_HOLDS_CELLS <= 1 << 16, "a cell's place is the low half of an owner");

// ---- records: each store leaves what is true ----

static uint64_t
owner_of(const shared_hold *hold)
{
    // A47: pairs with R47 in set_owner().  The lock has ordered it, if its last holder lived.
    return atomic_load_explicit(&hold->owner, memory_order_acquire);
}

static void
set_owner(shared_hold *hold, uint64_t owner)
{
    // R47: pairs with A47 in owner_of(): a record is whole before it has an owner, whenever this process
    // dies.
    atomic_store_explicit(&hold->owner, owner, memory_order_release);
}

static uint32_t
count_of(const shared_hold *hold)
{
    // Relaxed: ordered by the lock, or by the owner.
    return atomic_load_explicit(&hold->count, memory_order_relaxed);
}

static void
set_count(shared_hold *hold, uint32_t count)
{
    // Relaxed: see count_of().
    atomic_store_explicit(&hold->count, count, memory_order_relaxed);
}

// ---- chains ----

// NULL: the chain ends, also where a stray write has led it elsewhere.
static shared_hold *
at_link(shared_holds *holds, uint32_t link)
{
    return link == 0 || link > SHARED_HOLDS_MAX ? NULL : &holds->records[link - 1];
}

static uint32_t
link_of(const shared_holds *holds, const shared_hold *hold)
{
    return (uint32_t)(hold - holds->records) + 1;
}

static uint32_t *
first_of(shared_holds *holds, const shared_hold *hold, int chain)
{
    uint32_t cell = chain == SHARED_HOLD_OWNED ? cell_of_owner(owner_of(hold)) : hold->cell;
    return &holds->first[cell % SHARED_HOLDS_CELLS][chain];
}

static void
join(shared_holds *holds, shared_hold *hold)
{
    for (int chain = 0; chain < SHARED_HOLD_CHAINS; chain++) {
        uint32_t *first = first_of(holds, hold, chain);
        shared_hold *next = at_link(holds, *first);
        hold->next[chain] = *first;
        hold->previous[chain] = 0;
        *first = link_of(holds, hold);
        if (next != NULL) {
            next->previous[chain] = *first;
        }
    }
}

static void
set_free(shared_holds *holds, shared_hold *hold)
{
    hold->next[0] = holds->free;
    holds->free = link_of(holds, hold);
}

// The pair has no reference any more.
static void
drop(shared_holds *holds, shared_hold *hold)
{
    uint32_t *firsts[] = {first_of(holds, hold, 0), first_of(holds, hold, 1)};
    set_owner(hold, 0);
    for (int chain = 0; chain < SHARED_HOLD_CHAINS; chain++) {
        shared_hold *next = at_link(holds, hold->next[chain]);
        shared_hold *previous = at_link(holds, hold->previous[chain]);
        if (next != NULL) {
            next->previous[chain] = hold->previous[chain];
        }
        *(previous != NULL ? &previous->next[chain] : firsts[chain]) = hold->next[chain];
    }
    set_free(holds, hold);
}

void
shared_holds_repair(shared_holds *holds, uint32_t cells)
{
    uint32_t used = holds->used < SHARED_HOLDS_MAX ? holds->used : SHARED_HOLDS_MAX;
    memset(holds->first, 0, cells * sizeof(holds->first[0]));
    holds->free = 0;
    for (uint32_t i = 0; i < used; i++) {
        shared_hold *hold = &holds->records[i];
        uint64_t owner = owner_of(hold);
        if (owner != 0 && count_of(hold) != 0 && hold->cell < cells && cell_of_owner(owner) < cells) {
            join(holds, hold);
        }
        else {
            set_owner(hold, 0);
            set_free(holds, hold);
        }
    }
}

// ---- references ----

static shared_hold *
find(shared_holds *holds, uint64_t owner, uint32_t cell)
{
    shared_hold *hold = at_link(holds, holds->first[cell][SHARED_HOLD_OF]);
    while (hold != NULL && owner_of(hold) != owner) {
        hold = at_link(holds, hold->next[SHARED_HOLD_OF]);
    }
    return hold;
}

bool
shared_holds_has(shared_holds *holds, uint64_t owner, uint32_t cell)
{
    return find(holds, owner, cell) != NULL;
}

bool
shared_holds_any(const shared_holds *holds, uint32_t cell)
{
    return holds->first[cell][SHARED_HOLD_OF] != 0;
}

bool
shared_holds_owns(const shared_holds *holds, uint32_t owner_cell)
{
    return holds->first[owner_cell][SHARED_HOLD_OWNED] != 0;
}

uint32_t
shared_holds_next_free(const shared_holds *holds)
{
    bool has_free = holds->free != 0 && holds->free <= SHARED_HOLDS_MAX;
    return has_free                         ? holds->free - 1
           : holds->used < SHARED_HOLDS_MAX ? holds->used
                                            : SHARED_HOLDS_MAX;
}

void
shared_holds_add(shared_holds *holds, uint64_t owner, uint32_t cell)
{
    shared_hold *hold = find(holds, owner, cell);
    if (hold != NULL) {
        set_count(hold, count_of(hold) + 1);
        return;
    }
    uint32_t number = shared_holds_next_free(holds);
    hold = &holds->records[number];
    if (number == holds->used) {
        // Before it has an owner, or a repair would not see it.  It was never anybody's.
        holds->used = number + 1;
    }
    else {
        holds->free = hold->next[0];
    }
    hold->cell = cell;
    set_count(hold, 1);
    set_owner(hold, owner);
    join(holds, hold);
}

static void
remove_one(shared_holds *holds, shared_hold *hold)
{
    if (count_of(hold) > 1) {
        set_count(hold, count_of(hold) - 1);
    }
    else {
        drop(holds, hold);
    }
}

void
shared_holds_remove(shared_holds *holds, uint64_t owner, uint32_t cell)
{
    shared_hold *hold = find(holds, owner, cell);
    if (hold != NULL) {
        remove_one(holds, hold);
    }
}

uint32_t
shared_holds_take(shared_holds *holds, uint32_t owner_cell)
{
    shared_hold *hold = at_link(holds, holds->first[owner_cell][SHARED_HOLD_OWNED]);
    if (hold == NULL) {
        return SHARED_NO_CELL;
    }
    uint32_t cell = hold->cell;
    drop(holds, hold);
    return cell;
}

void
shared_holds_each(const shared_holds *holds, uint32_t owner_cell, void (*see)(void *arg, uint32_t cell),
                  void *arg)
{
    uint32_t link = holds->first[owner_cell][SHARED_HOLD_OWNED];
    // No chain is longer: a stray write must not make it endless.
    for (uint32_t i = 0; i < SHARED_HOLDS_MAX && link != 0 && link <= SHARED_HOLDS_MAX; i++) {
        see(arg, holds->records[link - 1].cell);
        link = holds->records[link - 1].next[SHARED_HOLD_OWNED];
    }
}

void
shared_holds_settle(shared_holds *holds, uint32_t owner_cell, const uint32_t *counts,
                    void (*gone)(void *arg, uint32_t cell), void *arg)
{
    shared_hold *hold = at_link(holds, holds->first[owner_cell][SHARED_HOLD_OWNED]);
    for (uint32_t i = 0; i < SHARED_HOLDS_MAX && hold != NULL; i++) {
        shared_hold *next = at_link(holds, hold->next[SHARED_HOLD_OWNED]);
        uint32_t cell = hold->cell;
        if (counts[cell % SHARED_HOLDS_CELLS] != 0) {
            set_count(hold, counts[cell]);
        }
        else {
            drop(holds, hold);
            gone(arg, cell);
        }
        hold = next;
    }
}
