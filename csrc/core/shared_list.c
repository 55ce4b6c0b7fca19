#include "shared_list.h"

#include <stddef.h>
#include <string.h>
#include <sys/mman.h>

// Guarded by the cell's lock.
typedef struct run_header {
    _Atomic uint64_t top;  // from here on the run is free
    uint64_t committed;    // bytes that have memory
} run_header;

// Guarded by the cell's lock.
typedef struct list_table {
    _Atomic uint64_t bounds;  // first, and end in the upper half
    uint64_t capacity;        // constant
    _Atomic uint64_t slots[];
} list_table;

typedef struct list_entry {
    uint64_t size;  // constant, like the bytes
    unsigned char bytes[];
} list_entry;

typedef struct bounds {
    uint32_t first, end;
} bounds;

#define TABLE_LEAST 6
#define NO_TABLE 0
#define HEADER_BYTES sizeof(run_header)

// A run that is larger does not stay with an empty list.
#define KEPT_BYTES SHARED_UNIT_BYTES

// ---- the root ----
//
// 0: there is no run.  Else bit 63, the table's place / 8 in 38 bits, the order in 5, the unit in 20.

typedef struct list_root {
    bool has_run;
    uint32_t unit, order;
    uint64_t table;  // its place, or NO_TABLE
} list_root;

static list_root
read_root(const shared_list *list)
{
    // A40: pairs with R40 in set_root().  The lock has ordered it, if its last holder lived.
    uint64_t word = atomic_load_explicit(&list->cell->value, memory_order_acquire);
    return (list_root){
        .has_run = word >> 63 != 0,
        .table = (word >> 25 & ((UINT64_C(1) << 38) - 1)) * 8,
        .order = word >> 20 & 31,
        .unit = word & 0xfffff,
    };
}

static void
set_root(shared_list *list, list_root root)
{
    uint64_t word = UINT64_C(1) << 63 | root.table / 8 << 25 | (uint64_t)root.order << 20 | root.unit;
    // R40: pairs with A40 in read_root(): what it leads to is there first, whenever this process dies.
    atomic_store_explicit(&list->cell->value, root.has_run ? word : 0, memory_order_release);
}

static void
count_change(shared_list *list)
{
    // Relaxed: ordered by the lock.  It comes before the change, so that none goes uncounted.
    uint64_t version = atomic_load_explicit(&list->cell->more, memory_order_relaxed);
    atomic_store_explicit(&list->cell->more, version + 1, memory_order_relaxed);
}

uint64_t
shared_list_version(const shared_list *list)
{
    // Relaxed: ordered by the lock.
    return atomic_load_explicit(&list->cell->more, memory_order_relaxed);
}

// ---- the run ----

static unsigned char *
start_of(const shared_list *list)
{
    // Relaxed: ordered by the lock.
    return atomic_load_explicit(&list->at, memory_order_relaxed);
}

static run_header *
header(const shared_list *list)
{
    return (run_header *)start_of(list);
}

static uint64_t
top_of(const shared_list *list)
{
    // A43: pairs with R43 in publish_empty().
    return atomic_load_explicit(&header(list)->top, memory_order_acquire);
}

static void
set_top(shared_list *list, uint64_t top)
{
    // Relaxed: before anything that is beyond it is published, which releases.
    atomic_store_explicit(&header(list)->top, top, memory_order_relaxed);
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

void
shared_list_fini(shared_list *list)
{
    unsigned char *at = start_of(list);
    if (at != NULL) {
        // Relaxed: the call comes after it, so the child of a fork does not unmap it again.
        atomic_store_explicit(&list->at, NULL, memory_order_relaxed);
        munmap(at, run_bytes(list->order));
    }
}

static void
use_mapping(shared_list *list, unsigned char *at, uint32_t unit, uint32_t order)
{
    shared_list_fini(list);
    list->unit = unit;
    list->order = order;
    // It releases, so that the child of a fork by another thread does not have it without its size.
    atomic_store_explicit(&list->at, at, memory_order_release);
}

static bool
map_run(shared_list *list, uint32_t unit, uint32_t order)
{
    unsigned char *at = shared_heap_map(list->heap, unit, order);
    if (at != NULL) {
        use_mapping(list, at, unit, order);
    }
    return at != NULL;
}

// Has memory for everything below `top`, and for a quarter more.
static bool
commit(shared_list *list, uint64_t top)
{
    run_header *run = header(list);
    if (top <= run->committed) {
        return true;
    }
    uint64_t wanted = round_up(top + top / 4, 4096);
    uint64_t most = run_bytes(list->order);
    wanted = wanted < most ? wanted : most;
    if (!shared_heap_commit(list->heap, list->unit, run->committed, wanted)) {
        return false;
    }
    run->committed = wanted;
    return true;
}

static list_table *
table_of(const shared_list *list)
{
    list_root root = read_root(list);
    return root.has_run && root.table != NO_TABLE ? (list_table *)(start_of(list) + root.table) : NULL;
}

static bounds
bounds_of(const list_table *table)
{
    if (table == NULL) {
        return (bounds){0};
    }
    // A41: pairs with R41 in set_bounds().
    uint64_t word = atomic_load_explicit(&table->bounds, memory_order_acquire);
    return (bounds){(uint32_t)word, (uint32_t)(word >> 32)};
}

static void
set_bounds(list_table *table, uint32_t first, uint32_t end)
{
    // R41: pairs with A41 in bounds_of(): the items that have come are there first.
    atomic_store_explicit(&table->bounds, (uint64_t)end << 32 | first, memory_order_release);
}

static uint64_t
slot_of(const list_table *table, uint32_t slot)
{
    // A42: pairs with R42 in set_slot().
    return atomic_load_explicit(&table->slots[slot], memory_order_acquire);
}

static void
set_slot(list_table *table, uint32_t slot, uint64_t word)
{
    // R42: pairs with A42 in slot_of(): the entry is there first.
    atomic_store_explicit(&table->slots[slot], word, memory_order_release);
}

static uint64_t
entry_bytes(uint64_t size)
{
    return round_up(sizeof(list_entry) + size, 8);
}

static uint64_t
table_bytes(uint64_t capacity)
{
    return sizeof(list_table) + capacity * 8;
}

static uint64_t
bytes_of_items(const shared_item *items, uint32_t count)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < count; i++) {
        bytes += items[i].bytes == NULL ? 0 : entry_bytes(items[i].size);
    }
    return bytes;
}

// Takes memory that is known to be there.
static uint64_t
cut(shared_list *list, uint64_t bytes)
{
    uint64_t place = top_of(list);
    set_top(list, place + bytes);
    return place;
}

// Returns the slot for it.
static uint64_t
write_item(shared_list *list, const shared_item *item)
{
    if (item->bytes == NULL) {
        return item->word;
    }
    uint64_t place = cut(list, entry_bytes(item->size));
    list_entry *entry = (list_entry *)(start_of(list) + place);
    entry->size = item->size;
    memcpy(entry->bytes, item->bytes, item->size);
    return place;
}

static uint64_t
write_table(shared_list *list, uint64_t capacity)
{
    uint64_t place = cut(list, table_bytes(capacity));
    list_table *table = (list_table *)(start_of(list) + place);
    table->capacity = capacity;
    set_bounds(table, 0, 0);
    return place;
}

static void
publish_table(shared_list *list, uint64_t table)
{
    count_change(list);
    set_root(list, (list_root){.has_run = true, .unit = list->unit, .order = list->order, .table = table});
}

static shared_item
item_at(const shared_list *list, uint64_t slot)
{
    if ((slot & 1) != 0) {
        return (shared_item){.word = slot};
    }
    const list_entry *entry = (const list_entry *)(start_of(list) + slot);
    return (shared_item){.bytes = entry->bytes, .size = entry->size};
}

// What the items take, if nothing is garbage.
static uint64_t
bytes_in_use(const shared_list *list)
{
    const list_table *table = table_of(list);
    bounds now = bounds_of(table);
    uint64_t bytes = table == NULL ? 0 : table_bytes(now.end - now.first);
    for (uint32_t i = now.first; i < now.end; i++) {
        shared_item item = item_at(list, slot_of(table, i));
        bytes += bytes_of_items(&item, 1);
    }
    return bytes;
}

// A run for twice as many bytes, so that as much can come before it is full; else for just as many.
static int
take_run(shared_list *list, uint64_t bytes, uint32_t *unit, uint32_t *order)
{
    int rc = SHARED_HEAP_FULL;
    for (uint64_t wanted = 2 * bytes; rc == SHARED_HEAP_FULL && wanted >= bytes; wanted -= bytes) {
        for (*order = 0; *order <= SHARED_ORDER_MAX && run_bytes(*order) < wanted;) {
            ++*order;
        }
        rc = shared_heap_take(list->heap, list->index, *order, unit);
    }
    return rc;
}

// Gives back the runs that the root does not name.  What cannot be given back now is, another time.
static void
keep_only_root(shared_list *list)
{
    list_root root = read_root(list);
    (void)shared_heap_keep(list->heap, list->index, root.has_run ? root.unit : SHARED_NO_UNIT, root.order);
}

// Copies what is in use to another run, in which `more` bytes are free.
static int
move(shared_list *list, uint64_t more)
{
    shared_list next = {.heap = list->heap, .cell = list->cell, .index = list->index};
    list_root root = read_root(list);
    if (more > run_bytes(SHARED_ORDER_MAX)) {
        return SHARED_HEAP_FULL;
    }
    uint64_t bytes = HEADER_BYTES + (root.has_run ? bytes_in_use(list) : 0) + more;
    uint32_t unit, order;
    int rc = take_run(list, bytes, &unit, &order);
    if (rc < 0) {
        return rc;
    }
    if (!shared_heap_commit(list->heap, unit, 0, round_up(bytes, 4096)) || !map_run(&next, unit, order)) {
        keep_only_root(list);
        return SHARED_HEAP_FULL;
    }
    set_top(&next, HEADER_BYTES);
    header(&next)->committed = round_up(bytes, 4096);
    list_table *old = root.has_run ? table_of(list) : NULL;
    uint64_t table = NO_TABLE;
    if (old != NULL) {
        bounds now = bounds_of(old);
        table = write_table(&next, now.end - now.first);
        list_table *copy = (list_table *)(start_of(&next) + table);
        for (uint32_t i = now.first; i < now.end; i++) {
            shared_item item = item_at(list, slot_of(old, i));
            set_slot(copy, i - now.first, write_item(&next, &item));
        }
        set_bounds(copy, 0, now.end - now.first);
    }
    set_root(list, (list_root){.has_run = true, .unit = unit, .order = order, .table = table});
    use_mapping(list, start_of(&next), unit, order);
    keep_only_root(list);
    return 0;
}

// Makes sure that so many bytes can be cut.  Tables and entries may have moved then.
static int
reserve(shared_list *list, uint64_t bytes)
{
    if (!read_root(list).has_run || bytes > run_bytes(list->order) - top_of(list)) {
        return move(list, bytes);
    }
    return commit(list, top_of(list) + bytes) ? 0 : SHARED_HEAP_FULL;
}

// The list is empty: its memory can be used again, or given back.
static void
publish_empty(shared_list *list)
{
    bool is_large = run_bytes(list->order) > KEPT_BYTES;
    count_change(list);
    set_root(list, (list_root){.has_run = !is_large, .unit = list->unit, .order = list->order});
    if (is_large) {
        shared_list_fini(list);
        keep_only_root(list);
    }
    else {
        // R43: pairs with A43 in top_of(): the root has no table any more when its memory can be cut again.
        atomic_store_explicit(&header(list)->top, HEADER_BYTES, memory_order_release);
    }
}

// ---- the lock ----

int
shared_list_enter(shared_list *list, int64_t deadline_ns)
{
    int rc = robust_lock_acquire(&list->cell->lock, deadline_ns);
    if (rc < 0) {
        return rc;
    }
    if (rc == ROBUST_LOCK_ABANDONED) {
        keep_only_root(list);
    }
    list_root root = read_root(list);
    if (root.has_run && (start_of(list) == NULL || list->unit != root.unit || list->order != root.order)
        && !map_run(list, root.unit, root.order)) {
        robust_lock_release(&list->cell->lock);
        return SHARED_HEAP_FULL;
    }
    return 0;
}

void
shared_list_leave(shared_list *list)
{
    robust_lock_release(&list->cell->lock);
}

// ---- items ----

uint32_t
shared_list_count(const shared_list *list)
{
    bounds now = bounds_of(table_of(list));
    return now.end - now.first;
}

shared_item
shared_list_get(const shared_list *list, uint32_t place)
{
    const list_table *table = table_of(list);
    return item_at(list, slot_of(table, bounds_of(table).first + place));
}

uint64_t
shared_list_bytes(const shared_list *list)
{
    return sizeof(shared_cell) + (read_root(list).has_run ? header(list)->committed : 0);
}

int
shared_list_set(shared_list *list, uint32_t place, const shared_item *item)
{
    if (item->bytes != NULL) {
        int rc = reserve(list, entry_bytes(item->size));
        if (rc < 0) {
            return rc;
        }
    }
    list_table *table = table_of(list);
    uint64_t word = write_item(list, item);
    count_change(list);
    set_slot(table, bounds_of(table).first + place, word);
    return 0;
}

static bool
has_room(const shared_list *list, uint32_t count)
{
    const list_table *table = table_of(list);
    return table != NULL && table->capacity - bounds_of(table).end >= count;
}

static int
append(shared_list *list, const shared_item *items, uint32_t count)
{
    list_table *table = table_of(list);
    bounds now = bounds_of(table);
    for (uint32_t i = 0; i < count; i++) {
        set_slot(table, now.end + i, write_item(list, &items[i]));
    }
    count_change(list);
    set_bounds(table, now.first, now.end + count);
    return 0;
}

// Takes items from an end, or from both.
static int
cut_off(shared_list *list, uint32_t from_first, uint32_t from_end)
{
    list_table *table = table_of(list);
    if (table == NULL) {
        return 0;  // it was empty
    }
    bounds now = bounds_of(table);
    uint32_t left = now.end - now.first - from_first - from_end;
    if (left == 0) {
        publish_empty(list);
        return 0;
    }
    count_change(list);
    set_bounds(table, now.first + from_first, now.end - from_end);
    if (list->order > 0 && left < table->capacity / 8) {
        (void)move(list, 0);  // to a smaller run; where there is no room for that, it stays
    }
    return 0;
}

// Makes room for a table of so many items, with some more slots, and for new items.
static int
reserve_table(shared_list *list, uint64_t count, uint64_t bytes, uint64_t *capacity)
{
    *capacity = count + count / 4 + TABLE_LEAST;
    return count > SHARED_LIST_MAX ? SHARED_HEAP_FULL : reserve(list, bytes + table_bytes(*capacity));
}

int
shared_list_splice(shared_list *list, uint32_t start, uint32_t stop, const shared_item *items, uint32_t count)
{
    uint32_t there = shared_list_count(list);
    uint64_t bytes = bytes_of_items(items, count);
    uint64_t capacity;
    int rc;
    if (count == 0 && start == stop) {
        return 0;
    }
    if (count == 0 && (start == 0 || stop == there)) {
        return cut_off(list, start == 0 ? stop : 0, start == 0 ? 0 : stop - start);
    }
    if (start == there && has_room(list, count)) {
        rc = reserve(list, bytes);
        if (rc < 0) {
            return rc;
        }
        // It may have moved, to a table that has none.
        if (has_room(list, count)) {
            return append(list, items, count);
        }
    }
    rc = reserve_table(list, (uint64_t)there - (stop - start) + count, bytes, &capacity);
    if (rc < 0) {
        return rc;
    }
    const list_table *old = table_of(list);
    bounds now = bounds_of(old);
    uint64_t place = write_table(list, capacity);
    list_table *table = (list_table *)(start_of(list) + place);
    uint32_t end = 0;
    for (uint32_t i = 0; i < start; i++) {
        set_slot(table, end++, slot_of(old, now.first + i));
    }
    for (uint32_t i = 0; i < count; i++) {
        set_slot(table, end++, write_item(list, &items[i]));
    }
    for (uint32_t i = stop; i < there; i++) {
        set_slot(table, end++, slot_of(old, now.first + i));
    }
    set_bounds(table, 0, end);
    publish_table(list, place);
    return 0;
}

int
shared_list_rebuild(shared_list *list, const uint32_t *order, uint32_t count, const shared_item *items,
                    uint32_t item_count)
{
    uint64_t capacity;
    if (count == 0) {
        return shared_list_splice(list, 0, shared_list_count(list), NULL, 0);
    }
    int rc = reserve_table(list, count, bytes_of_items(items, item_count), &capacity);
    if (rc < 0) {
        return rc;
    }
    const list_table *old = table_of(list);
    uint32_t first = bounds_of(old).first;
    uint64_t place = write_table(list, capacity);
    list_table *table = (list_table *)(start_of(list) + place);
    for (uint32_t i = 0; i < count; i++) {
        bool is_new = order[i] >= SHARED_LIST_NEW;
        uint64_t word = is_new ? write_item(list, &items[order[i] - SHARED_LIST_NEW])
                               : slot_of(old, first + order[i]);
        set_slot(table, i, word);
    }
    set_bounds(table, 0, count);
    publish_table(list, place);
    return 0;
}
