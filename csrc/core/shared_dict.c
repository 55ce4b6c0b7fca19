#include "shared_dict.h"

#include "shared_change.h"
#include "shared_heap_open.h"
#include "shared_words.h"

#include <string.h>

typedef struct dict_slot {
    _Atomic uint64_t hash;   // constant, like `shown`, once the slot is within the bounds
    _Atomic uint64_t key;    // 0: it is gone
    _Atomic uint64_t shown;  // 0: the key
    _Atomic uint64_t value;
} dict_slot;

// Guarded by the cell's lock, except for looks.
typedef struct dict_table {
    _Atomic uint64_t bounds;  // first, and end in the upper half
    _Atomic uint64_t size;    // constant: capacity, and in the upper half the cells, a power of two
    _Atomic uint64_t mark;    // count, and in the upper half the version of which it and the index are
    dict_slot slots[];        // after them the index
} dict_table;

typedef struct bounds {
    uint32_t first, end;
} bounds;

#define TABLE_LEAST 5

// ---- the table ----

static bounds
bounds_of(const dict_table *table)
{
    // A44: pairs with R44 in set_bounds().
    uint64_t word = atomic_load_explicit(&table->bounds, memory_order_acquire);
    return (bounds){(uint32_t)word, (uint32_t)(word >> 32)};
}

static void
set_bounds(dict_table *table, uint32_t first, uint32_t end)
{
    // R44: pairs with A44 in bounds_of(): the slots that have come are there first.
    atomic_store_explicit(&table->bounds, (uint64_t)end << 32 | first, memory_order_release);
}

static uint64_t
word_of(const _Atomic uint64_t *word)
{
    // A45: pairs with R45 in set_word().
    return atomic_load_explicit(word, memory_order_acquire);
}

static void
set_word(_Atomic uint64_t *word, uint64_t value)
{
    // R45: pairs with A45 in word_of(): the entry is there first.
    atomic_store_explicit(word, value, memory_order_release);
}

static uint32_t
capacity_of(const dict_table *table)
{
    return (uint32_t)word_of(&table->size);
}

static uint32_t
cells_of(const dict_table *table)
{
    return (uint32_t)(word_of(&table->size) >> 32);
}

static bool
is_gone(const dict_slot *slot)
{
    return word_of(&slot->key) == 0;
}

static _Atomic uint32_t *
index_of(const dict_table *table)
{
    return (_Atomic uint32_t *)(table->slots + capacity_of(table));
}

// How many slots there are for so many items, and some more; and how many cells for them, of which a third is
// never used.
static uint32_t
capacity_for(uint64_t count)
{
    return (uint32_t)(count + count / 2 + TABLE_LEAST);
}

static uint32_t
cells_for(uint32_t capacity)
{
    uint32_t cells = 8;
    while (cells < capacity + capacity / 2) {
        cells *= 2;
    }
    return cells;
}

static uint64_t
table_bytes(uint32_t capacity)
{
    return sizeof(dict_table) + capacity * sizeof(dict_slot) + (uint64_t)cells_for(capacity) * 4;
}

static uint64_t
write_table(shared_run *dict, uint32_t capacity)
{
    uint64_t place = shared_run_cut(dict, table_bytes(capacity));
    dict_table *table = shared_run_place(dict, place);
    set_word(&table->size, (uint64_t)cells_for(capacity) << 32 | capacity);
    set_bounds(table, 0, 0);
    shared_words_clear(index_of(table), (uint64_t)cells_of(table) * 4);
    return place;
}

// ---- hashes: SipHash with one round a word and three at the end, by a secret of the heap ----

static uint64_t
turn(uint64_t word, int by)
{
    return word << by | word >> (64 - by);
}

static void
mix(uint64_t v[4])
{
    v[0] += v[1];
    v[2] += v[3];
    v[1] = turn(v[1], 13) ^ v[0];
    v[3] = turn(v[3], 16) ^ v[2];
    v[0] = turn(v[0], 32);
    v[2] += v[1];
    v[0] += v[3];
    v[1] = turn(v[1], 17) ^ v[2];
    v[3] = turn(v[3], 21) ^ v[0];
    v[2] = turn(v[2], 32);
}

static void
mix_in(uint64_t v[4], uint64_t word)
{
    v[3] ^= word;
    mix(v);
    v[0] ^= word;
}

static uint64_t
hash_of(const shared_run *dict, const shared_item *key)
{
    uint64_t secret = shared_heap_identity(dict->heap);
    uint64_t v[4] = {
        secret ^ UINT64_C(0x736f6d6570736575),
        ~secret ^ UINT64_C(0x646f72616e646f6d),
        secret ^ UINT64_C(0x6c7967656e657261),
        ~secret ^ UINT64_C(0x7465646279746573),
    };
    if (key->bytes == NULL) {
        mix_in(v, key->word);
    }
    else {
        uint64_t word, done = 0;
        for (; done + 8 <= key->size; done += 8) {
            memcpy(&word, key->bytes + done, 8);
            mix_in(v, word);
        }
        word = key->size << 56;
        for (int i = 0; done < key->size; done++, i++) {
            word |= (uint64_t)key->bytes[done] << 8 * i;
        }
        mix_in(v, word);
    }
    v[2] ^= 0xff;
    mix(v);
    mix(v);
    mix(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

// ---- count and index ----

static uint32_t
cell_at(const _Atomic uint32_t *index, uint32_t cell)
{
    // A52: pairs with R52 in set_cell().
    return atomic_load_explicit(&index[cell], memory_order_acquire);
}

static uint32_t
cell_of(const dict_table *table, uint32_t cell)
{
    return cell_at(index_of(table), cell);
}

static void
set_cell(dict_table *table, uint32_t cell, uint32_t word)
{
    // R52: pairs with A52 in cell_at(): no look, and no death, has it without the version that was counted
    // before.
    atomic_store_explicit(&index_of(table)[cell], word, memory_order_release);
}

static uint32_t
home_of(const dict_table *table, const dict_slot *slot)
{
    return (uint32_t)word_of(&slot->hash) & (cells_of(table) - 1);
}

static void
add_to_index(dict_table *table, uint32_t place)
{
    uint32_t mask = cells_of(table) - 1;
    uint32_t cell = home_of(table, &table->slots[place]);
    while (cell_of(table, cell) != 0) {
        cell = (cell + 1) & mask;
    }
    set_cell(table, cell, place + 1);
}

// What comes after it, and could not be where it is, moves up.
static void
take_from_index(dict_table *table, uint32_t place)
{
    uint32_t mask = cells_of(table) - 1;
    uint32_t hole = home_of(table, &table->slots[place]);
    while (cell_of(table, hole) != place + 1) {
        hole = (hole + 1) & mask;
    }
    for (uint32_t cell = (hole + 1) & mask; cell_of(table, cell) != 0; cell = (cell + 1) & mask) {
        uint32_t home = home_of(table, &table->slots[cell_of(table, cell) - 1]);
        if (((cell - home) & mask) >= ((cell - hole) & mask)) {
            set_cell(table, hole, cell_of(table, cell));
            hole = cell;
        }
    }
    set_cell(table, hole, 0);
}

// Says of which version count and index are.
static void
set_mark(dict_table *table, uint32_t count, uint64_t version)
{
    // R46: pairs with A46 in find_mark(): the index is there first.
    atomic_store_explicit(&table->mark, version << 32 | count, memory_order_release);
}

static uint64_t
find_mark(const dict_table *table)
{
    // A46: pairs with R46 in set_mark().
    return atomic_load_explicit(&table->mark, memory_order_acquire);
}

static void
make_anew(const shared_run *dict, dict_table *table)
{
    bounds now = bounds_of(table);
    uint32_t count = 0;
    shared_words_clear(index_of(table), (uint64_t)cells_of(table) * 4);
    for (uint32_t i = now.first; i < now.end; i++) {
        if (!is_gone(&table->slots[i])) {
            add_to_index(table, i);
            count++;
        }
    }
    set_mark(table, count, shared_run_version(dict));
}

// The table, with the index that it should have.  NULL: there is none, and nothing in it.
static dict_table *
table_of(const shared_run *dict)
{
    dict_table *table = shared_run_table(dict);
    if (table != NULL && (uint32_t)(find_mark(table) >> 32) != (uint32_t)shared_run_version(dict)) {
        make_anew(dict, table);
    }
    return table;
}

static uint32_t
count_of(const dict_table *table)
{
    return table == NULL ? 0 : (uint32_t)find_mark(table);
}

// ---- as a run ----

static void
write_slot(dict_table *table, uint32_t place, uint64_t hash, uint64_t key, uint64_t shown, uint64_t value)
{
    dict_slot *slot = &table->slots[place];
    set_word(&slot->hash, hash);
    set_word(&slot->shown, shown);
    set_word(&slot->key, key);
    set_word(&slot->value, value);
}

static uint64_t
bytes_in_use(const shared_run *dict)
{
    const dict_table *table = table_of(dict);
    bounds now = bounds_of(table);
    uint64_t bytes = table_bytes(capacity_for(count_of(table)));
    for (uint32_t i = now.first; i < now.end; i++) {
        const dict_slot *slot = &table->slots[i];
        if (!is_gone(slot)) {
            const uint64_t words[] = {word_of(&slot->key), word_of(&slot->shown), word_of(&slot->value)};
            for (int part = 0; part < SHARED_DICT_PARTS; part++) {
                shared_item item = words[part] == 0 ? (shared_item){0} : shared_run_read(dict, words[part]);
                bytes += shared_item_bytes(&item);
            }
        }
    }
    return bytes;
}

static uint64_t
copy_word(const shared_run *dict, shared_run *to, uint64_t word)
{
    if (word == 0) {
        return 0;
    }
    shared_item item = shared_run_read(dict, word);
    return shared_run_write(to, &item);
}

static uint64_t
copy(const shared_run *dict, shared_run *to)
{
    const dict_table *old = table_of(dict);
    bounds now = bounds_of(old);
    uint64_t place = write_table(to, capacity_for(count_of(old)));
    dict_table *table = shared_run_place(to, place);
    uint32_t count = 0;
    for (uint32_t i = now.first; i < now.end; i++) {
        const dict_slot *slot = &old->slots[i];
        if (!is_gone(slot)) {
            uint64_t key = copy_word(dict, to, word_of(&slot->key));
            uint64_t shown = copy_word(dict, to, word_of(&slot->shown));
            uint64_t value = copy_word(dict, to, word_of(&slot->value));
            write_slot(table, count, word_of(&slot->hash), key, shown, value);
            add_to_index(table, count++);
        }
    }
    set_bounds(table, 0, count);
    set_mark(table, count, shared_run_version(dict));
    return place;
}

// Only values refer to cells.
static bool
add_refs(const shared_run *dict, shared_refs *refs)
{
    const dict_table *table = shared_run_table(dict);
    bounds now = bounds_of(table);
    bool is_added = true;
    for (uint32_t i = now.first; is_added && i < now.end; i++) {
        if (!is_gone(&table->slots[i])) {
            shared_item item = shared_run_read(dict, word_of(&table->slots[i].value));
            is_added = shared_refs_add_item(refs, &item);
        }
    }
    return is_added;
}

const shared_run_kind shared_dict_kind = {bytes_in_use, copy, add_refs};

// ---- looking ----

uint32_t
shared_dict_count(const shared_run *dict)
{
    return count_of(table_of(dict));
}

static bool
is_key(const shared_run *dict, uint64_t word, const shared_item *key)
{
    shared_item other = shared_run_read(dict, word);
    if (other.bytes == NULL || key->bytes == NULL) {
        return other.bytes == NULL && key->bytes == NULL && other.word == key->word;
    }
    return other.size == key->size && memcmp(other.bytes, key->bytes, key->size) == 0;
}

static uint32_t
find_in(const shared_run *dict, const dict_table *table, uint64_t hash, const shared_item *key)
{
    if (table == NULL) {
        return SHARED_DICT_NOWHERE;
    }
    uint32_t mask = cells_of(table) - 1;
    uint32_t place;
    uint32_t cell = (uint32_t)hash & mask;
    for (; (place = cell_of(table, cell)) != 0; cell = (cell + 1) & mask) {
        const dict_slot *slot = &table->slots[place - 1];
        if (word_of(&slot->hash) == hash && is_key(dict, word_of(&slot->key), key)) {
            return place - 1;
        }
    }
    return SHARED_DICT_NOWHERE;
}

uint32_t
shared_dict_find(const shared_run *dict, const shared_item *key)
{
    return find_in(dict, table_of(dict), hash_of(dict, key), key);
}

uint32_t
shared_dict_next(const shared_run *dict, uint32_t place)
{
    const dict_table *table = table_of(dict);
    if (table == NULL) {
        return SHARED_DICT_NOWHERE;
    }
    bounds now = bounds_of(table);
    for (place = place < now.first ? now.first : place; place < now.end; place++) {
        if (!is_gone(&table->slots[place])) {
            return place;
        }
    }
    return SHARED_DICT_NOWHERE;
}

// The last place before `end` where there is something.  There is one.
static uint32_t
last_before(const dict_table *table, uint32_t end)
{
    do {
        end--;
    } while (is_gone(&table->slots[end]));
    return end;
}

uint32_t
shared_dict_last(const shared_run *dict)
{
    const dict_table *table = table_of(dict);
    return count_of(table) == 0 ? SHARED_DICT_NOWHERE : last_before(table, bounds_of(table).end);
}

shared_item
shared_dict_get(const shared_run *dict, uint32_t place, int part)
{
    const dict_table *table = shared_run_table(dict);
    const dict_slot *slot = &table->slots[place];
    uint64_t word = part == SHARED_DICT_VALUE   ? word_of(&slot->value)
                    : part == SHARED_DICT_SHOWN ? word_of(&slot->shown)
                                                : 0;
    return shared_run_read(dict, word != 0 ? word : word_of(&slot->key));
}

// ---- looks: nothing is believed that could lead out of the run, or take long ----

// How many cells of the index a look goes through.  Few keys need as many.
#define PROBES 64

// A table of which all is in the run.
typedef struct table_seen {
    uint32_t count, capacity, cells;
    const dict_slot *slots;
    const _Atomic uint32_t *index;
} table_seen;

// false: there is none such, or its index is not the one that it should have.
static bool
look_at_table(const shared_look *look, table_seen *seen)
{
    *seen = (table_seen){.count = 0};
    if (look->table == 0) {
        return true;
    }
    const dict_table *table = shared_look_at(look, look->table, sizeof(dict_table));
    if (table == NULL) {
        return false;
    }
    // Each word is read once: it may be another the next time.
    uint64_t mark = find_mark(table), size = word_of(&table->size);
    seen->count = (uint32_t)mark;
    seen->capacity = (uint32_t)size;
    seen->cells = (uint32_t)(size >> 32);
    seen->slots = table->slots;
    seen->index = (const _Atomic uint32_t *)(table->slots + seen->capacity);
    bool is_power = seen->cells != 0 && (seen->cells & (seen->cells - 1)) == 0;
    uint64_t bytes = sizeof(dict_table) + seen->capacity * sizeof(dict_slot) + (uint64_t)seen->cells * 4;
    bool is_now = (uint32_t)(mark >> 32) == (uint32_t)look->version;
    return is_now && is_power && bytes <= look->bytes - look->table;
}

static int
look_for(const shared_look *look, const shared_item *key, shared_seen *value)
{
    table_seen table;
    if (!look_at_table(look, &table)) {
        return -1;
    }
    uint32_t place = 0;
    uint64_t hash = hash_of(look->run, key);
    for (uint32_t i = 0; table.cells != 0 && i < PROBES; i++) {
        place = cell_at(table.index, ((uint32_t)hash + i) & (table.cells - 1));
        if (place == 0 || place > table.capacity) {
            break;
        }
        const dict_slot *slot = &table.slots[place - 1];
        int is_key = word_of(&slot->hash) == hash ? shared_look_compare(look, word_of(&slot->key), key) : 0;
        if (is_key != 0) {
            bool is_seen = value == NULL || shared_look_read(look, word_of(&slot->value), value);
            return is_key > 0 && is_seen ? 1 : -1;
        }
    }
    return place == 0 ? 0 : -1;
}

int
shared_dict_look(shared_run *dict, const shared_item *key, shared_seen *value)
{
    shared_look look;
    for (int i = 0; i < SHARED_LOOK_TRIES && shared_look_begin(&look, dict); i++) {
        int is_there = look_for(&look, key, value);
        if (shared_look_end(&look)) {
            return is_there;
        }
    }
    return -1;
}

int64_t
shared_dict_look_count(shared_run *dict)
{
    shared_look look;
    table_seen table;
    for (int i = 0; i < SHARED_LOOK_TRIES && shared_look_begin(&look, dict); i++) {
        bool is_sound = look_at_table(&look, &table);
        if (shared_look_end(&look)) {
            return is_sound ? (int64_t)table.count : -1;
        }
    }
    return -1;
}

// ---- changing ----

static bool
has_room(const dict_table *table)
{
    return table != NULL && bounds_of(table).end < capacity_of(table);
}

// Writes all parts beyond the end.
static void
write_parts(shared_run *dict, dict_table *table, uint64_t hash, const shared_item *parts)
{
    uint64_t key = shared_run_write(dict, &parts[SHARED_DICT_KEY]);
    uint64_t shown = shared_run_write(dict, &parts[SHARED_DICT_SHOWN]);
    uint64_t value = shared_run_write(dict, &parts[SHARED_DICT_VALUE]);
    write_slot(table, bounds_of(table).end, hash, key, shown, value);
}

// A table of its own in the same run, for which there is room, with what the old one has.
static uint64_t
write_again(shared_run *dict, const dict_table *old, uint32_t capacity)
{
    uint64_t place = write_table(dict, capacity);
    dict_table *table = shared_run_place(dict, place);
    bounds now = old == NULL ? (bounds){0} : bounds_of(old);
    uint32_t count = 0;
    for (uint32_t i = now.first; i < now.end; i++) {
        const dict_slot *slot = &old->slots[i];
        if (!is_gone(slot)) {
            write_slot(table, count, word_of(&slot->hash), word_of(&slot->key), word_of(&slot->shown),
                       word_of(&slot->value));
            add_to_index(table, count++);
        }
    }
    set_bounds(table, 0, count);
    return place;
}

// A change takes the value that is in a slot.
static void
take_value(shared_change *change, const shared_run *dict, const dict_slot *slot)
{
    if (shared_run_refers(dict)) {
        shared_item item = shared_run_read(dict, word_of(&slot->value));
        shared_change_takes(change, &item);
    }
}

static int
update(shared_run *dict, const shared_item *parts, uint32_t count, shared_change *change)
{
    uint64_t most = (uint64_t)shared_dict_count(dict) + count;
    if (count == 0) {
        return 0;
    }
    if (most > SHARED_DICT_MAX) {
        return SHARED_HEAP_FULL;
    }
    uint32_t capacity = capacity_for(most);
    uint64_t bytes = shared_items_bytes(parts, count * SHARED_DICT_PARTS);
    int rc = shared_run_reserve(dict, bytes + table_bytes(capacity));
    if (rc < 0) {
        return rc;
    }
    uint64_t place = write_again(dict, table_of(dict), capacity);
    dict_table *table = shared_run_place(dict, place);
    for (uint32_t i = 0; i < count; i++, parts += SHARED_DICT_PARTS) {
        uint64_t hash = hash_of(dict, &parts[SHARED_DICT_KEY]);
        uint32_t there = find_in(dict, table, hash, &parts[SHARED_DICT_KEY]);
        if (there != SHARED_DICT_NOWHERE) {
            take_value(change, dict, &table->slots[there]);
            set_word(&table->slots[there].value, shared_run_write(dict, &parts[SHARED_DICT_VALUE]));
            continue;
        }
        uint32_t end = bounds_of(table).end;
        write_parts(dict, table, hash, parts);
        set_bounds(table, 0, end + 1);
        add_to_index(table, end);
    }
    set_mark(table, bounds_of(table).end, shared_run_version(dict) + 1);
    shared_run_publish(dict, place);
    return 0;
}

int
shared_dict_update(shared_run *dict, const shared_item *parts, uint32_t count)
{
    shared_change change;
    shared_change_init(&change, dict);
    for (uint32_t i = 0; i < count; i++) {
        shared_change_brings(&change, &parts[i * SHARED_DICT_PARTS + SHARED_DICT_VALUE], 1);
    }
    int rc = shared_change_hold(&change);
    return shared_change_end(&change, rc < 0 ? rc : update(dict, parts, count, &change));
}

static int
set_value(shared_run *dict, dict_table *table, uint32_t place, uint64_t hash, const shared_item *parts,
          shared_change *change)
{
    const shared_item *value = &parts[SHARED_DICT_VALUE];
    take_value(change, dict, &table->slots[place]);
    if (value->bytes != NULL) {
        int rc = shared_run_reserve(dict, shared_item_bytes(value));
        if (rc < 0) {
            return rc;
        }
        if (shared_run_table(dict) != table) {  // it has moved, while the old one was still there
            table = table_of(dict);
            place = find_in(dict, table, hash, &parts[SHARED_DICT_KEY]);
        }
    }
    uint64_t word = shared_run_write(dict, value);
    shared_run_count_change(dict);
    set_word(&table->slots[place].value, word);
    set_mark(table, count_of(table), shared_run_version(dict));
    return 0;
}

static int
append(shared_run *dict, dict_table *table, uint64_t hash, const shared_item *parts)
{
    bounds now = bounds_of(table);
    write_parts(dict, table, hash, parts);
    shared_run_count_change(dict);
    set_bounds(table, now.first, now.end + 1);
    add_to_index(table, now.end);
    set_mark(table, count_of(table) + 1, shared_run_version(dict));
    return 0;
}

static int
set(shared_run *dict, const shared_item parts[SHARED_DICT_PARTS], shared_change *change)
{
    uint64_t hash = hash_of(dict, &parts[SHARED_DICT_KEY]);
    dict_table *table = table_of(dict);
    uint32_t place = find_in(dict, table, hash, &parts[SHARED_DICT_KEY]);
    if (place != SHARED_DICT_NOWHERE) {
        return set_value(dict, table, place, hash, parts, change);
    }
    if (has_room(table)) {
        int rc = shared_run_reserve(dict, shared_items_bytes(parts, SHARED_DICT_PARTS));
        // A table that has moved has room.
        return rc < 0 ? rc : append(dict, table_of(dict), hash, parts);
    }
    return update(dict, parts, 1, change);
}

int
shared_dict_set(shared_run *dict, const shared_item parts[SHARED_DICT_PARTS])
{
    shared_change change;
    shared_change_init(&change, dict);
    shared_change_brings(&change, &parts[SHARED_DICT_VALUE], 1);
    int rc = shared_change_hold(&change);
    return shared_change_end(&change, rc < 0 ? rc : set(dict, parts, &change));
}

static int
remove_at(shared_run *dict, uint32_t place)
{
    dict_table *table = table_of(dict);
    bounds now = bounds_of(table);
    uint32_t left = count_of(table) - 1;
    if (left == 0) {
        shared_run_publish_empty(dict);
        return 0;
    }
    if (place == now.first) {
        uint32_t first = shared_dict_next(dict, place + 1);
        shared_run_count_change(dict);
        set_bounds(table, first, now.end);
    }
    else if (place == now.end - 1) {
        uint32_t end = last_before(table, place) + 1;
        shared_run_count_change(dict);
        set_bounds(table, now.first, end);
    }
    else {
        shared_run_count_change(dict);
        set_word(&table->slots[place].key, 0);
    }
    take_from_index(table, place);
    set_mark(table, left, shared_run_version(dict));
    if (left < capacity_of(table) / 8) {
        shared_run_shrink(dict);
    }
    return 0;
}

int
shared_dict_remove(shared_run *dict, uint32_t place)
{
    const dict_table *table = table_of(dict);
    shared_change change;
    shared_change_init(&change, dict);
    take_value(&change, dict, &table->slots[place]);
    return shared_change_end(&change, remove_at(dict, place));
}

int
shared_dict_clear(shared_run *dict)
{
    shared_change change;
    if (shared_run_table(dict) == NULL) {
        return 0;
    }
    shared_change_init(&change, dict);
    shared_change_takes_all(&change);
    shared_run_publish_empty(dict);
    return shared_change_end(&change, 0);
}
