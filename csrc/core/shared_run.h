// shared_run: the memory of a container in a cell of a shared heap.
//
// All that a container has is in one run of units (see shared_heap.h), that a process which uses it has
// mapped:
//
//     run      header | tables and entries, in the order in which they were made | free, from `top` on
//     slot     an odd word: the item itself; an even one: where its entry is
//     entry    size | bytes
//
// One word of the cell, the root, says which run that is and where the table is in it.  Each kind of
// container has tables of its own: see shared_list.h and its neighbours.  A change writes new entries above
// `top`, where nobody looks, and publishes them with one store: of a word in the table, or of the root, for a
// new table.  So a process that is killed leaves the old or the new.  Entries that it wrote and did not
// publish, and those that no table has any more, are garbage, of which nobody keeps account.  When a run is
// full, the entries in use are copied to another of the right size, and the root names that.  So there is no
// list of free memory, and nothing to repair after a death but this: the process that gets the lock from the
// dead gives back the runs that the root does not name.
//
// Memory comes a little ahead of `top`, when it is used.  The run of an empty container is used from its
// beginning, and given back if it is large.
//
//     a process that dies in          leaves
//     writing beyond `top`            garbage
//     copying to another run          a run too much
//     between root and old run        a run too much
//     holding and publishing          references too many
//     publishing and letting go       references too many
//
// Items may refer to cells, see shared_item.h, which the container holds.  A change holds what its new items
// refer to before it publishes them, and lets go of what is gone after that, see shared_change.h; a process
// that gets the lock from the dead counts again what the items refer to.
//
// The cell's lock guards everything, from shared_run_enter() to shared_run_leave(); in between no Python is
// called.  Others may look meanwhile, see shared_look.h: so all that is written to a run is whole words.  No
// Python.
#ifndef PYCONC_SHARED_RUN_H
#define PYCONC_SHARED_RUN_H

#include "shared_heap.h"
#include "shared_item.h"

typedef struct shared_run shared_run;

// What is in it.  Places are from the run's beginning.
typedef struct shared_run_kind {
    // How much room the table and its entries take, if nothing is garbage.
    uint64_t (*bytes_in_use)(const shared_run *run);
    // Copies them to another run, in which there is that much room, and returns the table's place there.
    uint64_t (*copy)(const shared_run *run, shared_run *to);
    // Adds what all items refer to.  false: there is no memory for that.
    bool (*add_refs)(const shared_run *run, shared_refs *refs);
} shared_run_kind;

// This process's view of it.
struct shared_run {
    shared_heap *heap;
    shared_cell *cell;
    const shared_run_kind *kind;
    uint32_t index;  // these four are constant
    // Guarded by the cell's lock:
    uint32_t unit, order;         // of the run that is mapped
    _Atomic(unsigned char *) at;  // where; NULL: none is.  A child of another thread's fork reads it, too
    // Of looks, see shared_look.h; this process's announcement guards them, except `looks`:
    uint32_t look_unit, look_order;    // of the run that is mapped for them
    _Atomic(unsigned char *) look_at;  // as `at`
    _Atomic uint32_t looks;            // that had no mapping; a hint, so relaxed everywhere
};

// What the word says that is the root.
typedef struct shared_root {
    bool has_run;
    uint32_t unit, order;
    uint64_t table;  // its place; 0: there is none
} shared_root;

// A view of a cell that this process has.
void shared_run_init(shared_run *run, const shared_run_kind *kind, shared_heap *heap, uint32_t index);

// A process that drops the container unmaps it.  Nobody else uses this view.
void shared_run_fini(shared_run *run);

// Takes the lock: 0, or what robust_lock_acquire() says, or SHARED_HEAP_FULL if the run cannot be mapped.
int shared_run_enter(shared_run *run, int64_t deadline_ns);
void shared_run_leave(shared_run *run);

// ---- with the lock ----

// How much memory it has.
uint64_t shared_run_bytes(const shared_run *run);

// Another number after each change.
uint64_t shared_run_version(const shared_run *run);

// Whether items refer to cells, or have once.
bool shared_run_refers(const shared_run *run);

// ---- for shared_look ----

// So many looks at a container fail before its run is mapped for them.
#define SHARED_LOOK_PAYS 64

shared_root shared_root_of(uint64_t word);

// The run that the root names.  NULL: it is not mapped, since that does not pay yet, or is refused.
const unsigned char *shared_run_map_for_looks(shared_run *run, shared_root root);

// ---- with the lock, for the kinds ----

// Where something is in memory, until the run moves.
void *shared_run_place(const shared_run *run, uint64_t place);

// NULL: there is none.
void *shared_run_table(const shared_run *run);

// What an item takes beside its slot, and what many take.
uint64_t shared_item_bytes(const shared_item *item);
uint64_t shared_items_bytes(const shared_item *items, uint32_t count);

// Makes sure that so many bytes, a multiple of 8, can be cut.  Tables and entries may have moved then.  0, or
// SHARED_HEAP_FULL, or a status of robust_lock, with everything as it was.
int shared_run_reserve(shared_run *run, uint64_t bytes);

// The same, and they have moved to another run, one after the other.
int shared_run_move(shared_run *run, uint64_t bytes);

// Takes memory that is known to be there, and returns its place.
uint64_t shared_run_cut(shared_run *run, uint64_t bytes);

// Writes an item, where there is room for it, and returns the slot for it; and reads it.
uint64_t shared_run_write(shared_run *run, const shared_item *item);
shared_item shared_run_read(const shared_run *run, uint64_t slot);

// The container holds these once more: 0, or SHARED_HEAP_FULL, or a status of robust_lock, and it does not.
int shared_run_hold(shared_run *run, const shared_refs *refs);

// It holds these once less.  If that cannot be, or is not known, the next that takes the lock counts
// them again.
void shared_run_let_go(shared_run *run, const shared_refs *refs);
void shared_run_count_later(shared_run *run);

// To be called before what makes a change be seen, so that none goes uncounted.
void shared_run_count_change(shared_run *run);

// Makes it the table at this place, in one step.
void shared_run_publish(shared_run *run, uint64_t table);

// Makes it empty, in one step: its memory can be used again, or is given back.
void shared_run_publish_empty(shared_run *run);

// Moves to a run of the right size, which is a smaller one; if there is no room for that it stays.
void shared_run_shrink(shared_run *run);

#endif
