// shared_look: a look at a container of a shared heap, without its lock.
//
// A lock that is taken is a store into memory that all who read the container share, so that two processes
// which do nothing else read no more together than one alone.  A look stores nothing there:
//
//     root -> announce in this process's own line that it looks at that run of this cell
//     version of the cell -> the lock is free -> root -> what it leads to, by copies
//     is the version still the same, and the root?     then all of it was there at one time
//     take the announcement back
//
// Each change counts the version before it stores anything that can be seen, with the lock; see
// shared_run_count_change().  So whoever sees a store of a change sees the version of that change, or a later
// one, or that somebody has the lock.  A lock whose holder died is not free: the look fails, and whoever
// takes the lock repairs what it guards.  Nothing that a look reads is believed until it has ended well, and
// it reads nowhere but in the run that is mapped: what a writer makes at the same time, or a stray write,
// leads to no other place.  It takes a bounded number of steps.  A look that fails has shown nothing: its
// caller tries again a few times, and then takes the lock.
//
// The announcement keeps the run in memory, as a read of memory that was given back would ask for it again,
// and end the process where there is none.  A process that has made another the root gives back all runs but
// those that are announced; if there are some the cell says so, and one of the next that take the lock asks
// again.
//
//     root -> new run; then: who looks at the old one?     writer, both with seq_cst
//     I look at the old one; then: is that the root?       reader, the same
//
// Either the writer sees the reader, or the reader sees the new root.  One that died while it looked counts
// until its party is found dead.  One that is stopped in a look keeps one run for as long, and no other,
// however much changes.
//
// A run is mapped a second time for looks, as a thread that has the lock may unmap the first at any time.
// That pays after some reads only, and until then, as for a handle that is soon dropped, looks fail.  One
// thread of a process looks at a time: another takes the lock.
//
// Only items that refer to no cell are read so, since whoever reads one that does must become a user of those
// cells before it can go.  No Python; the GIL may be held.
#ifndef PYCONC_SHARED_LOOK_H
#define PYCONC_SHARED_LOOK_H

#include "shared_run.h"

// Larger items are read with the lock.
#define SHARED_LOOK_BYTES 256

// How often a look is tried.
#define SHARED_LOOK_TRIES 3

// Of one thread, from shared_look_begin() to shared_look_end().
typedef struct shared_look {
    shared_run *run;
    const unsigned char *at;  // the run
    uint64_t bytes;           // of it
    uint64_t table;           // its place; 0: there is none, and nothing in the container
    uint64_t version, root;   // of the cell when the look began
} shared_look;

// An item that was copied.
typedef struct shared_seen {
    shared_item item;  // its bytes are those here
    unsigned char bytes[SHARED_LOOK_BYTES];
} shared_seen;

// false: the lock is to be taken, and there is nothing to end.
bool shared_look_begin(shared_look *look, shared_run *run);

// false: nothing that it saw means anything.
bool shared_look_end(shared_look *look);

// ---- in between ----

// Where something of so many bytes is; NULL: there cannot be such.
static inline const void *
shared_look_at(const shared_look *look, uint64_t place, uint64_t bytes)
{
    bool is_inside = place % 8 == 0 && place <= look->bytes && bytes <= look->bytes - place;
    return is_inside ? look->at + place : NULL;
}

// Copies the item of a slot.  false: it is none that a look can have.
bool shared_look_read(const shared_look *look, uint64_t slot, shared_seen *seen);

// 1 or 0: whether the item of a slot is this one.  -1: it is none that a look can have.
int shared_look_compare(const shared_look *look, uint64_t slot, const shared_item *item);

#endif
