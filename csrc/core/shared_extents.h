// shared_extents: which owner has which stretch of the shared memory.
//
// A table with a word for each unit of memory: the owner's number, 0: nobody's.  An owner is given runs of a
// power of two units, at a multiple of their size.  That the owner uses a run is not said here, and need not
// be: an owner that lives finds again a run that it took and does not use, and a process that looks for room
// finds the runs of owners that are gone.  So there is no list of free runs, and nothing to repair after a
// death.
//
// Numbers only: whose memory it is, and what the owners are, their users know.  The caller has a lock for all
// of it; death between any two stores leaves a table that is sound.  No Python.
#ifndef PYCONC_SHARED_EXTENTS_H
#define PYCONC_SHARED_EXTENTS_H

#include <stdbool.h>
#include <stdint.h>

#define SHARED_UNIT_BYTES (UINT64_C(1) << 16)  // no system has larger pages
#define SHARED_UNITS (UINT32_C(1) << 20)
#define SHARED_ORDER_MAX 19  // a run is at most half of them
#define SHARED_NO_UNIT UINT32_MAX

// Guarded by the caller's lock, all of it.
typedef struct shared_extents {
    uint32_t end;       // no unit from here on has an owner
    uint32_t search;    // where to begin to look
    uint32_t sweep_at;  // with so many units it is time to look for owners that are gone
    uint32_t unused;
    uint64_t owners[SHARED_UNITS];
} shared_extents;

// Finds a free run of 1 << order units, the first of which is returned; SHARED_NO_UNIT: there is none below
// `limit`.  Only entries below `end` are read.
uint32_t shared_extents_find(const shared_extents *extents, uint32_t order, uint32_t limit);

// Makes it the owner's.
void shared_extents_take(shared_extents *extents, uint32_t unit, uint32_t order, uint64_t owner);

// The next run of units at or after `from` that have one owner, which is not 0, up to `end`.  Returns their
// number, 0: there is none.
uint32_t shared_extents_next(const shared_extents *extents, uint32_t from, uint32_t *unit, uint64_t *owner);

// Gives units back.
void shared_extents_release(shared_extents *extents, uint32_t unit, uint32_t count);

#endif
