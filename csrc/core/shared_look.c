#include "shared_look.h"

#include <string.h>

#include "park.h"
#include "shared_heap_memory.h"
#include "shared_words.h"

// How often a look asks whether the lock is free.  Its holder is about to release it, or does not run.
#define SPINS 32

// ---- looks ----

static bool
is_free(const shared_run *run)
{
    for (int i = 0; i < SPINS; i++) {
        if (robust_lock_is_free(&run->cell->lock)) {
            return true;
        }
        park_relax();
    }
    return false;
}

// What it has announced is the run of the root.
static bool
begin(shared_look *look, shared_run *run, shared_root announced)
{
    const shared_cell *cell = run->cell;
    // A49: pairs with R49 in shared_run_count_change(): who counted it has the lock, or has released it.
    uint64_t version = atomic_load_explicit(&cell->more, memory_order_acquire);
    if (!is_free(run)) {
        return false;
    }
    // seq_cst: whoever makes another the root asks after that who looks, and this look was announced before.
    uint64_t word = atomic_load_explicit(&cell->value, memory_order_seq_cst);
    shared_root root = shared_root_of(word);
    bool is_announced = announced.has_run && root.unit == announced.unit && root.order == announced.order;
    if (root.has_run && !is_announced) {
        return false;
    }
    *look = (shared_look){.run = run, .version = version, .root = word};
    if (root.has_run && root.table != 0) {
        look->at = shared_run_map_for_looks(run, root);
        look->bytes = SHARED_UNIT_BYTES << root.order;
        look->table = root.table;
        return look->at != NULL;
    }
    return true;
}

bool
shared_look_begin(shared_look *look, shared_run *run)
{
    // Relaxed: it is read again.
    shared_root root = shared_root_of(atomic_load_explicit(&run->cell->value, memory_order_relaxed));
    if (!shared_heap_announce(run->heap, run->index, root.has_run ? root.unit : SHARED_NO_UNIT, root.order)) {
        return false;
    }
    bool has_begun = begin(look, run, root);
    if (!has_begun) {
        shared_heap_announce_none(run->heap);
    }
    return has_begun;
}

bool
shared_look_end(shared_look *look)
{
    const shared_cell *cell = look->run->cell;
    // Both relaxed: all that was read before was acquired, with the version that was counted before it.
    uint64_t version = atomic_load_explicit(&cell->more, memory_order_relaxed);
    uint64_t root = atomic_load_explicit(&cell->value, memory_order_relaxed);
    shared_heap_announce_none(look->run->heap);
    return version == look->version && root == look->root;
}

// ---- items ----

// The bytes of an entry, and how many; NULL: there is none.
static const unsigned char *
entry_at(const shared_look *look, uint64_t slot, uint64_t *size)
{
    const unsigned char *entry = shared_look_at(look, slot, 8);
    if (entry == NULL) {
        return NULL;
    }
    *size = shared_word_read(entry);
    return *size <= look->bytes - slot - 8 ? entry + 8 : NULL;
}

bool
shared_look_read(const shared_look *look, uint64_t slot, shared_seen *seen)
{
    uint64_t size;
    if ((slot & 1) != 0) {
        seen->item = (shared_item){.word = slot};
        return true;
    }
    const unsigned char *bytes = entry_at(look, slot, &size);
    if (bytes == NULL || size > SHARED_LOOK_BYTES) {
        return false;
    }
    shared_words_read(seen->bytes, bytes, size);
    seen->item = (shared_item){.bytes = seen->bytes, .size = size};
    return !shared_item_refers(&seen->item);
}

int
shared_look_compare(const shared_look *look, uint64_t slot, const shared_item *item)
{
    uint64_t size, word, other, done = 0;
    if ((slot & 1) != 0) {
        return item->bytes == NULL && item->word == slot;
    }
    const unsigned char *bytes = entry_at(look, slot, &size);
    if (bytes == NULL) {
        return -1;
    }
    if (item->bytes == NULL || item->size != size) {
        return 0;
    }
    for (; done < size; done += 8) {
        uint64_t count = size - done < 8 ? size - done : 8;
        word = other = 0;
        memcpy(&word, item->bytes + done, count);
        shared_words_read(&other, bytes + done, count);
        if (word != other) {
            return 0;
        }
    }
    return 1;
}
