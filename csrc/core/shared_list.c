#include "shared_list.h"

#include "shared_change.h"
#include "shared_words.h"

// Guarded by the cell's lock, except for looks.
typedef struct list_table {
    _Atomic uint64_t bounds;  // first, and end in the upper half
    uint64_t capacity;        // constant; no look reads it
    _Atomic uint64_t slots[];
} list_table;

typedef struct bounds {
    uint32_t first, end;
} bounds;

#define TABLE_LEAST 6

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
table_bytes(uint64_t capacity)
{
    return sizeof(list_table) + capacity * 8;
}

static uint64_t
write_table(shared_run *list, uint64_t capacity)
{
    uint64_t place = shared_run_cut(list, table_bytes(capacity));
    list_table *table = shared_run_place(list, place);
    shared_word_write(&table->capacity, capacity);
    set_bounds(table, 0, 0);
    return place;
}

static uint64_t
bytes_in_use(const shared_run *list)
{
    const list_table *table = shared_run_table(list);
    bounds now = bounds_of(table);
    uint64_t bytes = table_bytes(now.end - now.first);
    for (uint32_t i = now.first; i < now.end; i++) {
        shared_item item = shared_run_read(list, slot_of(table, i));
        bytes += shared_item_bytes(&item);
    }
    return bytes;
}

static uint64_t
copy(const shared_run *list, shared_run *to)
{
    const list_table *old = shared_run_table(list);
    bounds now = bounds_of(old);
    uint64_t place = write_table(to, now.end - now.first);
    list_table *table = shared_run_place(to, place);
    for (uint32_t i = now.first; i < now.end; i++) {
        shared_item item = shared_run_read(list, slot_of(old, i));
        set_slot(table, i - now.first, shared_run_write(to, &item));
    }
    set_bounds(table, 0, now.end - now.first);
    return place;
}

static bool
add_refs(const shared_run *list, shared_refs *refs)
{
    const list_table *table = shared_run_table(list);
    bounds now = bounds_of(table);
    bool is_added = true;
    for (uint32_t i = now.first; is_added && i < now.end; i++) {
        shared_item item = shared_run_read(list, slot_of(table, i));
        is_added = shared_refs_add_item(refs, &item);
    }
    return is_added;
}

const shared_run_kind shared_list_kind = {bytes_in_use, copy, add_refs};

// ---- items ----

uint32_t
shared_list_count(const shared_run *list)
{
    bounds now = bounds_of(shared_run_table(list));
    return now.end - now.first;
}

shared_item
shared_list_get(const shared_run *list, uint32_t place)
{
    const list_table *table = shared_run_table(list);
    return shared_run_read(list, slot_of(table, bounds_of(table).first + place));
}

// ---- looks: nothing is believed that could lead out of the run ----

// How many items there are, in a table that is in the run at least so far; -1: it is not.
static int64_t
look_at_table(const shared_look *look, const list_table **table)
{
    *table = NULL;
    if (look->table == 0) {
        return 0;
    }
    *table = shared_look_at(look, look->table, sizeof(list_table));
    if (*table == NULL) {
        return -1;
    }
    bounds now = bounds_of(*table);
    bool is_sound = now.first <= now.end && now.end - now.first <= SHARED_LIST_MAX
                    && sizeof(list_table) + (uint64_t)now.end * 8 <= look->bytes - look->table;
    return is_sound ? (int64_t)(now.end - now.first) : -1;
}

static int
look_for(const shared_look *look, int64_t index, shared_seen *item)
{
    const list_table *table;
    int64_t count = look_at_table(look, &table);
    index += index < 0 ? count : 0;
    if (count < 0 || index < 0 || index >= count) {
        return count < 0 ? -1 : 0;
    }
    // The bounds may be others by now, and still this slot is in the run, or none can be.
    uint64_t place = look->table + sizeof(list_table) + (bounds_of(table).first + (uint64_t)index) * 8;
    const _Atomic uint64_t *slot = shared_look_at(look, place, 8);
    return slot != NULL && shared_look_read(look, shared_word_read(slot), item) ? 1 : -1;
}

int
shared_list_look(shared_run *list, int64_t index, shared_seen *item)
{
    shared_look look;
    for (int i = 0; i < SHARED_LOOK_TRIES && shared_look_begin(&look, list); i++) {
        int is_there = look_for(&look, index, item);
        if (shared_look_end(&look)) {
            return is_there;
        }
    }
    return -1;
}

int64_t
shared_list_look_count(shared_run *list)
{
    shared_look look;
    const list_table *table;
    for (int i = 0; i < SHARED_LOOK_TRIES && shared_look_begin(&look, list); i++) {
        int64_t count = look_at_table(&look, &table);
        if (shared_look_end(&look)) {
            return count;
        }
    }
    return -1;
}

// ---- changing ----

static int
set(shared_run *list, uint32_t place, const shared_item *item)
{
    if (item->bytes != NULL) {
        int rc = shared_run_reserve(list, shared_item_bytes(item));
        if (rc < 0) {
            return rc;
        }
    }
    list_table *table = shared_run_table(list);
    uint64_t word = shared_run_write(list, item);
    shared_run_count_change(list);
    set_slot(table, bounds_of(table).first + place, word);
    return 0;
}

// A change takes those from `start` to `stop`.
static void
take_items(shared_change *change, const shared_run *list, uint32_t start, uint32_t stop)
{
    for (uint32_t i = start; shared_run_refers(list) && i < stop; i++) {
        shared_item item = shared_list_get(list, i);
        shared_change_takes(change, &item);
    }
}

int
shared_list_set(shared_run *list, uint32_t place, const shared_item *item)
{
    shared_change change;
    shared_change_init(&change, list);
    shared_change_brings(&change, item, 1);
    take_items(&change, list, place, place + 1);
    int rc = shared_change_hold(&change);
    return shared_change_end(&change, rc < 0 ? rc : set(list, place, item));
}

static bool
has_room(const shared_run *list, uint32_t count)
{
    const list_table *table = shared_run_table(list);
    return table != NULL && table->capacity - bounds_of(table).end >= count;
}

static int
append(shared_run *list, const shared_item *items, uint32_t count)
{
    list_table *table = shared_run_table(list);
    bounds now = bounds_of(table);
    for (uint32_t i = 0; i < count; i++) {
        set_slot(table, now.end + i, shared_run_write(list, &items[i]));
    }
    shared_run_count_change(list);
    set_bounds(table, now.first, now.end + count);
    return 0;
}

// Takes items from an end, or from both.
static int
cut_off(shared_run *list, uint32_t from_first, uint32_t from_end)
{
    list_table *table = shared_run_table(list);
    if (table == NULL) {
        return 0;  // it was empty
    }
    bounds now = bounds_of(table);
    uint32_t left = now.end - now.first - from_first - from_end;
    if (left == 0) {
        shared_run_publish_empty(list);
        return 0;
    }
    shared_run_count_change(list);
    set_bounds(table, now.first + from_first, now.end - from_end);
    if (left < table->capacity / 8) {
        shared_run_shrink(list);
    }
    return 0;
}

// Makes room for a table of so many items, with some more slots, and for new items.
static int
reserve_table(shared_run *list, uint64_t count, uint64_t bytes, uint64_t *capacity)
{
    *capacity = count + count / 4 + TABLE_LEAST;
    if (count > SHARED_LIST_MAX) {
        return SHARED_HEAP_FULL;
    }
    return shared_run_reserve(list, bytes + table_bytes(*capacity));
}

static int
splice(shared_run *list, uint32_t start, uint32_t stop, const shared_item *items, uint32_t count)
{
    uint32_t there = shared_list_count(list);
    uint64_t bytes = shared_items_bytes(items, count);
    uint64_t capacity;
    int rc;
    if (count == 0 && start == stop) {
        return 0;
    }
    if (count == 0 && (start == 0 || stop == there)) {
        return cut_off(list, start == 0 ? stop : 0, start == 0 ? 0 : stop - start);
    }
    if (start == there && has_room(list, count)) {
        rc = shared_run_reserve(list, bytes);
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
    const list_table *old = shared_run_table(list);
    bounds now = bounds_of(old);
    uint64_t place = write_table(list, capacity);
    list_table *table = shared_run_place(list, place);
    uint32_t end = 0;
    for (uint32_t i = 0; i < start; i++) {
        set_slot(table, end++, slot_of(old, now.first + i));
    }
    for (uint32_t i = 0; i < count; i++) {
        set_slot(table, end++, shared_run_write(list, &items[i]));
    }
    for (uint32_t i = stop; i < there; i++) {
        set_slot(table, end++, slot_of(old, now.first + i));
    }
    set_bounds(table, 0, end);
    shared_run_publish(list, place);
    return 0;
}

int
shared_list_splice(shared_run *list, uint32_t start, uint32_t stop, const shared_item *items, uint32_t count)
{
    shared_change change;
    shared_change_init(&change, list);
    shared_change_brings(&change, items, count);
    take_items(&change, list, start, stop);
    int rc = shared_change_hold(&change);
    return shared_change_end(&change, rc < 0 ? rc : splice(list, start, stop, items, count));
}

static int
rebuild(shared_run *list, const uint32_t *order, uint32_t count, const shared_item *items,
        uint32_t item_count)
{
    uint64_t capacity;
    if (count == 0) {
        return splice(list, 0, shared_list_count(list), NULL, 0);
    }
    int rc = reserve_table(list, count, shared_items_bytes(items, item_count), &capacity);
    if (rc < 0) {
        return rc;
    }
    const list_table *old = shared_run_table(list);
    uint32_t first = bounds_of(old).first;
    uint64_t place = write_table(list, capacity);
    list_table *table = shared_run_place(list, place);
    for (uint32_t i = 0; i < count; i++) {
        bool is_new = order[i] >= SHARED_LIST_NEW;
        uint64_t word = is_new ? shared_run_write(list, &items[order[i] - SHARED_LIST_NEW])
                               : slot_of(old, first + order[i]);
        set_slot(table, i, word);
    }
    set_bounds(table, 0, count);
    shared_run_publish(list, place);
    return 0;
}

int
shared_list_rebuild(shared_run *list, const uint32_t *order, uint32_t count, const shared_item *items,
                    uint32_t item_count)
{
    shared_change change;
    shared_change_init(&change, list);
    // What stays, as often as it does, comes again, and all that there was goes.
    for (uint32_t i = 0; i < count; i++) {
        bool is_new = order[i] >= SHARED_LIST_NEW;
        if (is_new || shared_run_refers(list)) {
            shared_item item =
                is_new ? items[order[i] - SHARED_LIST_NEW] : shared_list_get(list, order[i]);
            shared_change_brings(&change, &item, 1);
        }
    }
    take_items(&change, list, 0, shared_list_count(list));
    int rc = shared_change_hold(&change);
    return shared_change_end(&change, rc < 0 ? rc : rebuild(list, order, count, items, item_count));
}
