// shared_change: a change of a container's items, and what they refer to.
//
//     init -> brings, takes -> hold -> [the change is published] -> end
//
// What comes is held before others can see it, and what goes is let go of when nobody can any more.  All of
// it is with the container's lock, so that whoever reads an item has time to become a user of what it
// refers to.  A death in between leaves references too many, see shared_run.h.  Where no item refers to
// anything, as in most containers, nothing here takes the heap's lock or memory.  No Python.
#ifndef PYCONC_SHARED_CHANGE_H
#define PYCONC_SHARED_CHANGE_H

#include "shared_run.h"

// Of the thread that has the lock.
typedef struct shared_change {
    shared_run *run;
    shared_refs come, gone;
    bool is_held;     // what comes
    bool lacks_come;  // there was no memory for all that comes
    bool lacks_gone;  // or goes, which is counted later
} shared_change;

static inline void
shared_change_init(shared_change *change, shared_run *run)
{
    change->run = run;
    change->is_held = false;
    change->lacks_come = false;
    change->lacks_gone = false;
    shared_refs_init(&change->come);
    shared_refs_init(&change->gone);
}

// These come.
static inline void
shared_change_brings(shared_change *change, const shared_item *items, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        change->lacks_come = !shared_refs_add_item(&change->come, &items[i]) || change->lacks_come;
    }
}

// This one goes, or all that are there, in a table that there is.
void shared_change_takes(shared_change *change, const shared_item *item);
void shared_change_takes_all(shared_change *change);

int shared_change_hold_those(shared_change *change);
int shared_change_end_those(shared_change *change, int rc);

// 0, or SHARED_HEAP_FULL, or a status of robust_lock: then nothing may be published.
static inline int
shared_change_hold(shared_change *change)
{
    return change->come.count == 0 && !change->lacks_come ? 0 : shared_change_hold_those(change);
}

// The change has been published, or with a status below 0 it has not.  Returns that.
static inline int
shared_change_end(shared_change *change, int rc)
{
    bool refers = change->come.count > 0 || change->gone.count > 0 || change->lacks_gone;
    return refers ? shared_change_end_those(change, rc) : rc;
}

#endif
