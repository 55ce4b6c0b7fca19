#include "shared_run.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "shared_heap_cells.h"
#include "shared_heap_map.h"
#include "shared_heap_memory.h"
#include "shared_words.h"

// Guarded by the cell's lock; no look reads it.
typedef struct run_header {
    _Atomic uint64_t top;  // from here on the run is free
    uint64_t committed;    // bytes that have memory
} run_header;

typedef struct run_entry {
    uint64_t size;  // constant, like the bytes
    unsigned char bytes[];
} run_entry;

#define NO_TABLE 0
#define HEADER_BYTES sizeof(run_header)

// What `refers` of the cell says.
enum {
    REFERS_NEVER,
    REFERS,
    REFERS_UNCOUNTED  // and holds cells more often than its items refer to them, perhaps
};

// A run that is larger does not stay with what is empty.
#define KEPT_BYTES SHARED_UNIT_BYTES

// ---- the root ----
//
// 0: there is no run.  Else bit 63, the table's place / 8 in 38 bits, the order in 5, the unit in 20.

shared_root
shared_root_of(uint64_t word)
{
    return (shared_root){
        .has_run = word >> 63 != 0,
        .table = (word >> 25 & ((UINT64_C(1) << 38) - 1)) * 8,
        .order = word >> 20 & 31,
        .unit = word & 0xfffff,
    };
}

static shared_root
read_root(const shared_run *run)
{
    // A40: pairs with R40 in set_root().  The lock has ordered it, if its last holder lived.
    return shared_root_of(atomic_load_explicit(&run->cell->value, memory_order_acquire));
}

static void
set_root(shared_run *run, shared_root root)
{
    uint64_t word = UINT64_C(1) << 63 | root.table / 8 << 25 | (uint64_t)root.order << 20 | root.unit;
    // R40: pairs with A40 in read_root(): what it leads to is there first, whenever this process dies.
    atomic_store_explicit(&run->cell->value, root.has_run ? word : 0, memory_order_release);
}

void
shared_run_count_change(shared_run *run)
{
    // Relaxed: ordered by the lock.
    uint64_t version = atomic_load_explicit(&run->cell->more, memory_order_relaxed);
    // R49: pairs with A49 in begin(): the lock was taken first.  It comes before the change, so that none
    // goes uncounted.
    atomic_store_explicit(&run->cell->more, version + 1, memory_order_release);
}

uint64_t
shared_run_version(const shared_run *run)
{
    // Relaxed: ordered by the lock.
    return atomic_load_explicit(&run->cell->more, memory_order_relaxed);
}

// ---- the run ----

static unsigned char *
start_of(const shared_run *run)
{
    // Relaxed: ordered by the lock.
    return atomic_load_explicit(&run->at, memory_order_relaxed);
}

static run_header *
header(const shared_run *run)
{
    return (run_header *)start_of(run);
}

static uint64_t
top_of(const shared_run *run)
{
    // A43: pairs with R43 in shared_run_publish_empty().
    return atomic_load_explicit(&header(run)->top, memory_order_acquire);
}

static void
set_top(shared_run *run, uint64_t top)
{
    // Relaxed: before anything that is beyond it is published, which releases.
    atomic_store_explicit(&header(run)->top, top, memory_order_relaxed);
}

void
shared_run_init(shared_run *run, const shared_run_kind *kind, shared_heap *heap, uint32_t index)
{
    *run = (shared_run){
        .heap = heap,
        .cell = shared_heap_cell(heap, index),
        .kind = kind,
        .index = index,
    };
}

static uint64_t
run_bytes(uint32_t order)
{
    return SHARED_UNIT_BYTES << order;
}

static uint64_t
round_up(uint64_t bytes, uint64_t step)
{
    return (bytes + step - 1) / step * step;
}

static void
unmap(_Atomic(unsigned char *) *where, uint32_t order)
{
    // Relaxed: ordered by who guards it.
    unsigned char *at = atomic_load_explicit(where, memory_order_relaxed);
    if (at != NULL) {
        // Relaxed: the call comes after it, so the child of a fork does not unmap it again.
        atomic_store_explicit(where, NULL, memory_order_relaxed);
        munmap(at, run_bytes(order));
    }
}

void
shared_run_fini(shared_run *run)
{
    unmap(&run->at, run->order);
    unmap(&run->look_at, run->look_order);
}

static void
use_mapping(shared_run *run, unsigned char *at, uint32_t unit, uint32_t order)
{
    unmap(&run->at, run->order);
    run->unit = unit;
    run->order = order;
    // It releases, so that the child of a fork by another thread does not have it without its size.
    atomic_store_explicit(&run->at, at, memory_order_release);
}

static bool
map_run(shared_run *run, uint32_t unit, uint32_t order)
{
    unsigned char *at = shared_heap_map(run->heap, unit, order, false);
    if (at != NULL) {
        use_mapping(run, at, unit, order);
    }
    return at != NULL;
}

const unsigned char *
shared_run_map_for_looks(shared_run *run, shared_root root)
{
    // Relaxed: ordered by the announcement.
    unsigned char *at = atomic_load_explicit(&run->look_at, memory_order_relaxed);
    if (at != NULL && run->look_unit == root.unit && run->look_order == root.order) {
        return at;
    }
    uint32_t looks = atomic_load_explicit(&run->looks, memory_order_relaxed) + 1;
    atomic_store_explicit(&run->looks, looks % SHARED_LOOK_PAYS, memory_order_relaxed);
    if (looks < SHARED_LOOK_PAYS) {
        return NULL;
    }
    unmap(&run->look_at, run->look_order);
    at = shared_heap_map_again(run->heap, root.unit, root.order);
    if (at != NULL) {
        run->look_unit = root.unit;
        run->look_order = root.order;
        // It releases, as in use_mapping().
        atomic_store_explicit(&run->look_at, at, memory_order_release);
    }
    return at;
}

// Has memory for everything below `top`, and for a quarter more.
static bool
commit(shared_run *run, uint64_t top)
{
    run_header *at = header(run);
    if (top <= at->committed) {
        return true;
    }
    uint64_t wanted = round_up(top + top / 4, 4096);
    uint64_t most = run_bytes(run->order);
    wanted = wanted < most ? wanted : most;
    if (!shared_heap_commit(run->heap, run->unit, at->committed, wanted)) {
        return false;
    }
    at->committed = wanted;
    return true;
}

uint64_t
shared_item_bytes(const shared_item *item)
{
    return item->bytes == NULL ? 0 : round_up(sizeof(run_entry) + item->size, 8);
}

uint64_t
shared_items_bytes(const shared_item *items, uint32_t count)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < count; i++) {
        bytes += shared_item_bytes(&items[i]);
    }
    return bytes;
}

void *
shared_run_place(const shared_run *run, uint64_t place)
{
    return start_of(run) + place;
}

void *
shared_run_table(const shared_run *run)
{
    shared_root root = read_root(run);
    return root.has_run && root.table != NO_TABLE ? start_of(run) + root.table : NULL;
}

uint64_t
shared_run_cut(shared_run *run, uint64_t bytes)
{
    uint64_t place = top_of(run);
    set_top(run, place + bytes);
    return place;
}

uint64_t
shared_run_write(shared_run *run, const shared_item *item)
{
    if (item->bytes == NULL) {
        return item->word;
    }
    uint64_t place = shared_run_cut(run, shared_item_bytes(item));
    run_entry *entry = (run_entry *)(start_of(run) + place);
    shared_word_write(&entry->size, item->size);
    shared_words_write(entry->bytes, item->bytes, item->size);
    return place;
}

shared_item
shared_run_read(const shared_run *run, uint64_t slot)
{
    if ((slot & 1) != 0) {
        return (shared_item){.word = slot};
    }
    const run_entry *entry = (const run_entry *)(start_of(run) + slot);
    return (shared_item){.bytes = entry->bytes, .size = entry->size};
}

void
shared_run_publish(shared_run *run, uint64_t table)
{
    shared_run_count_change(run);
    set_root(run, (shared_root){.has_run = true, .unit = run->unit, .order = run->order, .table = table});
}

// A run for twice as many bytes, so that as much can come before it is full; else for just as many.
static int
take_run(shared_run *run, uint64_t bytes, uint32_t *unit, uint32_t *order)
{
    int rc = SHARED_HEAP_FULL;
    for (uint64_t wanted = 2 * bytes; rc == SHARED_HEAP_FULL && wanted >= bytes; wanted -= bytes) {
        for (*order = 0; *order <= SHARED_ORDER_MAX && run_bytes(*order) < wanted;) {
            ++*order;
        }
        rc = shared_heap_take(run->heap, run->index, *order, unit);
    }
    return rc;
}

// How often the lock is taken before it is asked again who looks at a run: to ask costs more than a change
// does, and a process that is stopped in a look may be so for hours.
#define SPARE_PAUSE 64

// Gives back the runs that the root does not name, but for those at which somebody looks: they are, another
// time.
static void
keep_only_root(shared_run *run)
{
    // seq_cst: ordered before we ask who looks.  Whoever looks and does not see this root has announced that
    // before, see shared_look.h.
    uint64_t word = atomic_fetch_or_explicit(&run->cell->value, 0, memory_order_seq_cst);
    shared_root root = shared_root_of(word);
    int rc = shared_heap_keep(run->heap, run->index, root.has_run ? root.unit : SHARED_NO_UNIT, root.order);
    run->cell->has_spare = rc != 0 ? SPARE_PAUSE : 0;
}

int
shared_run_move(shared_run *run, uint64_t more)
{
    shared_run next;
    bool has_table = shared_run_table(run) != NULL;
    if (more > run_bytes(SHARED_ORDER_MAX)) {
        return SHARED_HEAP_FULL;
    }
    uint64_t bytes = HEADER_BYTES + (has_table ? run->kind->bytes_in_use(run) : 0) + more;
    uint32_t unit, order;
    int rc = take_run(run, bytes, &unit, &order);
    if (rc < 0) {
        return rc;
    }
    shared_run_init(&next, run->kind, run->heap, run->index);
    if (!shared_heap_commit(run->heap, unit, 0, round_up(bytes, 4096)) || !map_run(&next, unit, order)) {
        keep_only_root(run);
        return SHARED_HEAP_FULL;
    }
    set_top(&next, HEADER_BYTES);
    header(&next)->committed = round_up(bytes, 4096);
    uint64_t table = has_table ? run->kind->copy(run, &next) : NO_TABLE;
    set_root(run, (shared_root){.has_run = true, .unit = unit, .order = order, .table = table});
    use_mapping(run, start_of(&next), unit, order);
    keep_only_root(run);
    return 0;
}

int
shared_run_reserve(shared_run *run, uint64_t bytes)
{
    if (!read_root(run).has_run || bytes > run_bytes(run->order) - top_of(run)) {
        return shared_run_move(run, bytes);
    }
    return commit(run, top_of(run) + bytes) ? 0 : SHARED_HEAP_FULL;
}

void
shared_run_publish_empty(shared_run *run)
{
    bool is_large = run_bytes(run->order) > KEPT_BYTES;
    shared_run_count_change(run);
    set_root(run, (shared_root){.has_run = !is_large, .unit = run->unit, .order = run->order});
    if (is_large) {
        unmap(&run->at, run->order);
        keep_only_root(run);
    }
    else {
        // R43: pairs with A43 in top_of(): the root has no table any more when its memory can be cut again.
        atomic_store_explicit(&header(run)->top, HEADER_BYTES, memory_order_release);
    }
}

void
shared_run_shrink(shared_run *run)
{
    if (run->order > 0) {
        (void)shared_run_move(run, 0);
    }
}

// ---- references ----

static void
set_refers(shared_run *run, uint32_t state)
{
    // Relaxed: ordered by the lock.  It comes before the cells are held, in one thread.
    atomic_store_explicit(&run->cell->refers, state, memory_order_relaxed);
}

static uint32_t
get_refers(const shared_run *run)
{
    // Relaxed: ordered by the lock.
    return atomic_load_explicit(&run->cell->refers, memory_order_relaxed);
}

bool
shared_run_refers(const shared_run *run)
{
    return get_refers(run) != REFERS_NEVER;
}

int
shared_run_hold(shared_run *run, const shared_refs *refs)
{
    if (refs->count == 0) {
        return 0;
    }
    if (!shared_run_refers(run)) {
        set_refers(run, REFERS);
    }
    return shared_heap_hold(run->heap, run->index, refs->cells, refs->count);
}

void
shared_run_count_later(shared_run *run)
{
    set_refers(run, REFERS_UNCOUNTED);
}

void
shared_run_let_go(shared_run *run, const shared_refs *refs)
{
    if (refs->count > 0 && shared_heap_let_go(run->heap, run->index, refs->cells, refs->count) < 0) {
        shared_run_count_later(run);
    }
}

// Holds exactly what the items refer to.  Without memory for that it leaves the work to the next holder.
static void
count_again(shared_run *run)
{
    shared_refs refs;
    shared_refs_init(&refs);
    uint32_t *counts = calloc(SHARED_HEAP_CELLS, sizeof(*counts));
    bool has_all = shared_run_table(run) == NULL || run->kind->add_refs(run, &refs);
    if (counts != NULL && has_all) {
        for (uint32_t i = 0; i < refs.count; i++) {
            counts[refs.cells[i] % SHARED_HEAP_CELLS]++;
        }
        if (shared_heap_settle(run->heap, run->index, counts) == 0) {
            set_refers(run, REFERS);
        }
    }
    free(counts);
    shared_refs_fini(&refs);
}

// ---- the lock ----

int
shared_run_enter(shared_run *run, int64_t deadline_ns)
{
    int rc = robust_lock_acquire(&run->cell->lock, deadline_ns);
    if (rc < 0) {
        return rc;
    }
    if (rc == ROBUST_LOCK_ABANDONED) {
        keep_only_root(run);
        if (shared_run_refers(run)) {
            shared_run_count_later(run);
        }
    }
    shared_root root = read_root(run);
    if (root.has_run && (start_of(run) == NULL || run->unit != root.unit || run->order != root.order)
        && !map_run(run, root.unit, root.order)) {
        robust_lock_release(&run->cell->lock);
        return SHARED_HEAP_FULL;
    }
    if (get_refers(run) == REFERS_UNCOUNTED) {
        count_again(run);
    }
    if (run->cell->has_spare != 0 && --run->cell->has_spare == 0) {
        keep_only_root(run);
    }
    return 0;
}

void
shared_run_leave(shared_run *run)
{
    robust_lock_release(&run->cell->lock);
}

uint64_t
shared_run_bytes(const shared_run *run)
{
    return sizeof(shared_cell) + (read_root(run).has_run ? header(run)->committed : 0);
}
