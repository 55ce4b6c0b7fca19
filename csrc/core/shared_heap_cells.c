#include "shared_heap_cells.h"

#include <string.h>

#include "shared_heap_collect.h"
#include "shared_heap_parties.h"

#define CELLS_PER_PAGE (4096 / sizeof(shared_cell))

static void
forget_if_unused(shared_heap *heap, uint32_t index)
{
    if (heap->users[index] != 0) {
        return;
    }
    // As long as a thread holds the lock, the kernel knows of it.
    if (robust_lock_is_taken(&heap->at->cells_at[index].lock)) {
        atomic_store_explicit(&heap->is_untidy, 1, memory_order_relaxed);
    }
    else {
        shared_heap_clear(heap, heap->party, index);
        if ((heap->at->cells_at[index].has_memory != 0 || shared_holds_owns(&heap->at->holds, index))
            && !shared_heap_is_used(heap, index)) {
            heap->found[heap->found_count++] = index;
            shared_heap_forget_found(heap);
        }
    }
}

void
shared_heap_tidy(shared_heap *heap)
{
    if (atomic_exchange_explicit(&heap->is_untidy, 0, memory_order_relaxed) == 0) {
        return;
    }
    for (uint32_t i = 0; i < shared_heap_cell_count(heap); i++) {
        // Relaxed: see there.
        uint32_t late = atomic_exchange_explicit(&heap->late[i], 0, memory_order_relaxed);
        heap->users[i] -= late < heap->users[i] ? late : heap->users[i];
        if (shared_heap_has(heap, heap->party, i)) {
            forget_if_unused(heap, i);
        }
    }
}

// A cell that nobody uses, below those that have no memory yet; SHARED_HEAP_CELLS: there is none.
static uint32_t
find_free(shared_heap *heap)
{
    for (uint32_t word = 0; word * 64 < shared_heap_cell_count(heap); word++) {
        uint64_t is_free = ~shared_heap_used_in_word(heap, word);
        for (uint32_t i = 0; is_free != 0 && i < 64; i++) {
            if ((is_free >> i & 1) != 0 && word * 64 + i < shared_heap_cell_count(heap)) {
                return word * 64 + i;
            }
        }
    }
    return SHARED_HEAP_CELLS;
}

static bool
grow(shared_heap *heap)
{
    uint32_t count = shared_heap_cell_count(heap);
    if (count == SHARED_HEAP_CELLS || !shared_heap_allocate(heap, &heap->at->cells_at[count], 4096)
        || !shared_heap_allocate(heap, heap->at->holds.first[count],
                                 CELLS_PER_PAGE * sizeof(heap->at->holds.first[0]))) {
        return false;
    }
    heap->at->cells = count + (uint32_t)CELLS_PER_PAGE;
    return true;
}

int
shared_heap_make(shared_heap *heap, uint32_t *index)
{
    int rc = shared_heap_enter(heap);
    if (rc < 0) {
        return rc;
    }
    shared_heap_tidy(heap);
    shared_heap_let_go_of_the_dead_s(heap);
    uint32_t found = find_free(heap);
    if (found == SHARED_HEAP_CELLS) {
        shared_heap_reap_parties(heap);
        shared_heap_let_go_of_the_dead_s(heap);
        found = find_free(heap);
    }
    if (found == SHARED_HEAP_CELLS && grow(heap)) {
        found = find_free(heap);
    }
    if (found == SHARED_HEAP_CELLS) {
        shared_heap_collect(heap);
        shared_heap_sweep(heap);
        found = find_free(heap);
    }
    rc = SHARED_HEAP_FULL;
    if (found != SHARED_HEAP_CELLS) {
        shared_cell *cell = &heap->at->cells_at[found];
        memset(cell, 0, sizeof(*cell));
        cell->serial = ++heap->at->serial;
        heap->users[found] = 1;
        shared_heap_set(heap, heap->party, found);
        *index = found;
        rc = 0;
    }
    shared_heap_leave(heap);
    return rc;
}

int
shared_heap_attach(shared_heap *heap, uint32_t index, uint64_t serial)
{
    int rc = shared_heap_enter(heap);
    if (rc < 0) {
        return rc;
    }
    rc = SHARED_HEAP_GONE;
    if (index < shared_heap_cell_count(heap) && heap->at->cells_at[index].serial == serial
        && shared_heap_is_used(heap, index)) {
        shared_heap_set(heap, heap->party, index);
        heap->users[index]++;
        rc = 0;
    }
    shared_heap_leave(heap);
    return rc;
}

int
shared_heap_share_each(shared_heap *heap, const uint32_t *cells, uint32_t count)
{
    int rc = shared_heap_enter(heap);
    if (rc < 0) {
        return rc;
    }
    for (uint32_t i = 0; i < count; i++) {
        // A stray write must not lead elsewhere.
        if (cells[i] < shared_heap_cell_count(heap)) {
            shared_heap_set(heap, heap->party, cells[i]);
            heap->users[cells[i]]++;
        }
    }
    shared_heap_leave(heap);
    return 0;
}

int
shared_heap_share(shared_heap *heap, uint32_t index)
{
    return shared_heap_share_each(heap, &index, 1);
}

int
shared_heap_send(shared_heap *heap, uint32_t index)
{
    int rc = shared_heap_enter(heap);
    if (rc == 0) {
        shared_cell *cell = &heap->at->cells_at[index];
        uint32_t sent = atomic_load_explicit(&cell->sent, memory_order_relaxed);
        // A party that has sent so many has pinned it.
        sent += sent != SHARED_HEAP_PINNED ? 1 : 0;
        atomic_store_explicit(&cell->sent, sent, memory_order_relaxed);
        shared_heap_set(heap, NOBODY, index);
        shared_heap_leave(heap);
    }
    return rc;
}

int
shared_heap_received(shared_heap *heap, uint32_t index)
{
    int rc = shared_heap_enter(heap);
    if (rc == 0) {
        shared_cell *cell = &heap->at->cells_at[index];
        uint32_t sent = atomic_load_explicit(&cell->sent, memory_order_relaxed);
        sent -= sent > 0 && sent != SHARED_HEAP_PINNED ? 1 : 0;
        atomic_store_explicit(&cell->sent, sent, memory_order_relaxed);
        if (sent == 0) {
            shared_heap_clear(heap, NOBODY, index);
        }
        shared_heap_leave(heap);
    }
    return rc;
}

int
shared_heap_pin(shared_heap *heap, uint32_t index)
{
    int rc = shared_heap_enter(heap);
    if (rc == 0) {
        atomic_store_explicit(&heap->at->cells_at[index].sent, SHARED_HEAP_PINNED, memory_order_relaxed);
        shared_heap_set(heap, NOBODY, index);
        shared_heap_leave(heap);
    }
    return rc;
}

static void
drop_one(shared_heap *heap, uint32_t index)
{
    heap->users[index] -= heap->users[index] > 0 ? 1 : 0;
    forget_if_unused(heap, index);
}

void
shared_heap_drop(shared_heap *heap, uint32_t index)
{
    if (index >= SHARED_HEAP_CELLS) {
        return;
    }
    if (shared_heap_enter_until(heap, ROBUST_LOCK_NO_WAIT) < 0) {
        // Relaxed: see there.
        atomic_fetch_add_explicit(&heap->late[index], 1, memory_order_relaxed);
        atomic_store_explicit(&heap->is_untidy, 1, memory_order_relaxed);
        return;
    }
    drop_one(heap, index);
    shared_heap_leave(heap);
}

void
shared_heap_drop_each(shared_heap *heap, const uint32_t *cells, uint32_t count)
{
    bool is_in = shared_heap_enter(heap) == 0;
    for (uint32_t i = 0; i < count; i++) {
        if (!is_in) {
            shared_heap_drop(heap, cells[i]);
        }
        else if (cells[i] < shared_heap_cell_count(heap)) {
            drop_one(heap, cells[i]);
        }
    }
    if (is_in) {
        shared_heap_leave(heap);
    }
}

uint32_t
shared_heap_used(shared_heap *heap)
{
    uint32_t used = 0;
    if (shared_heap_enter(heap) == 0) {
        shared_heap_tidy(heap);
        shared_heap_reap_parties(heap);
        shared_heap_collect(heap);
        shared_heap_sweep(heap);
        for (uint32_t word = 0; word * 64 < shared_heap_cell_count(heap); word++) {
            used += (uint32_t)__builtin_popcountll(shared_heap_used_in_word(heap, word));
        }
        shared_heap_leave(heap);
    }
    return used;
}

shared_cell *
shared_heap_cell(const shared_heap *heap, uint32_t index)
{
    return &heap->at->cells_at[index];
}

// ---- cells that a container holds ----

// A record has memory before it comes.
static bool
has_record(shared_heap *heap, uint64_t owner, uint32_t index)
{
    shared_holds *holds = &heap->at->holds;
    if (shared_holds_has(holds, owner, index)) {
        return true;
    }
    uint32_t number = shared_holds_next_free(holds);
    bool begins_page = number == holds->used && number % (4096 / sizeof(shared_hold)) == 0;
    return number < SHARED_HOLDS_MAX
           && (!begins_page || shared_heap_allocate(heap, &holds->records[number], 4096));
}

// Under the heap's lock.
static void
let_go_of_each(shared_heap *heap, uint64_t owner, const uint32_t *cells, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (cells[i] < shared_heap_cell_count(heap)) {
            shared_holds_remove(&heap->at->holds, owner, cells[i]);
            shared_heap_let_go_of(heap, cells[i]);
        }
    }
    shared_heap_forget_found(heap);
}

int
shared_heap_hold(shared_heap *heap, uint32_t container, const uint32_t *cells, uint32_t count)
{
    int rc = shared_heap_enter(heap);
    if (rc < 0) {
        return rc;
    }
    uint64_t owner = shared_heap_owner_of(heap, container);
    for (uint32_t i = 0; rc == 0 && i < count; i++) {
        if (cells[i] < shared_heap_cell_count(heap) && has_record(heap, owner, cells[i])) {
            shared_holds_add(&heap->at->holds, owner, cells[i]);
            shared_heap_set(heap, ITEMS, cells[i]);
        }
        else {
            let_go_of_each(heap, owner, cells, i);
            rc = SHARED_HEAP_FULL;
        }
    }
    shared_heap_leave(heap);
    return rc;
}

int
shared_heap_let_go(shared_heap *heap, uint32_t container, const uint32_t *cells, uint32_t count)
{
    int rc = shared_heap_enter(heap);
    if (rc == 0) {
        let_go_of_each(heap, shared_heap_owner_of(heap, container), cells, count);
        shared_heap_leave(heap);
    }
    return rc;
}

int
shared_heap_settle(shared_heap *heap, uint32_t container, const uint32_t *counts)
{
    int rc = shared_heap_enter(heap);
    if (rc == 0) {
        shared_holds_settle(&heap->at->holds, container, counts, shared_heap_let_go_of_found, heap);
        shared_heap_forget_found(heap);
        shared_heap_leave(heap);
    }
    return rc;
}
