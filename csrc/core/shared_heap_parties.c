#define _GNU_SOURCE
#include "shared_heap_parties.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// Numbers of processes in another space mean others.
static uint64_t
own_space(void)
{
    struct stat info;
    return stat("/proc/self/ns/pid", &info) == 0 ? (uint64_t)info.st_ino : 0;
}

// Frees a party, unless a child was quicker to take it.
static void
give_up(shared_heap *heap, uint32_t party, uint64_t who)
{
    heap->at->is_untidy = 1;
    // Relaxed: the lock orders it, except for that child.
    atomic_compare_exchange_strong_explicit(&shared_heap_party_at(heap, party)->who, &who, PARTY_FREE,
                                            memory_order_relaxed, memory_order_relaxed);
}

// Gives back the memory of the rows behind the last party.  Each new party allocates its own.
static void
trim_rows(shared_heap *heap)
{
    uint32_t before = shared_heap_row_count(heap), rows = before;
    while (rows > FIRST_PROCESS && shared_heap_state_of(heap, rows - 1) == PARTY_FREE) {
        rows--;
    }
    if (rows < before) {
        heap->at->rows_used = rows;
        shared_heap_release_bytes(heap, offsetof(layout, rows) + rows * sizeof(heap->at->rows[0]),
                                  (before - rows) * sizeof(heap->at->rows[0]));
    }
}

void
shared_heap_reap_parties(shared_heap *heap)
{
    uint64_t space = own_space();
    for (uint32_t i = FIRST_PROCESS; i < shared_heap_row_count(heap); i++) {
        shared_party *each = shared_heap_party_at(heap, i);
        // Relaxed: see shared_heap_state_of().
        uint64_t who = atomic_load_explicit(&each->who, memory_order_relaxed);
        if (shared_heap_state_of(heap, i) != PARTY_FREE && i != heap->party && each->space == space
            && kill((pid_t)(who >> 32), 0) < 0 && errno == ESRCH) {
            give_up(heap, i, who);
        }
    }
    trim_rows(heap);
}

uint32_t
shared_heap_add_party(shared_heap *heap, uint32_t state)
{
    for (int attempt = 0; attempt < 2; attempt++) {
        for (uint32_t i = FIRST_PROCESS; i < SHARED_HEAP_PARTIES; i++) {
            if (shared_heap_state_of(heap, i) == PARTY_FREE) {
                if (!shared_heap_allocate(heap, heap->at->rows[i], sizeof(heap->at->rows[i]))
                    || !shared_heap_allocate(heap, &heap->at->announcements[i],
                                             sizeof(heap->at->announcements[i]))) {
                    return NOBODY;
                }
                memset(heap->at->rows[i], 0, sizeof(heap->at->rows[i]));
                shared_heap_party_at(heap, i)->space = own_space();
                // Relaxed: as below.
                atomic_store_explicit(&heap->at->announcements[i].run, 0, memory_order_relaxed);
                heap->at->rows_used = i < shared_heap_row_count(heap) ? shared_heap_row_count(heap) : i + 1;
                // Relaxed: ordered by the lock, or by the fork.
                uint64_t who = shared_heap_who_is((uint32_t)getpid(), ++heap->at->tickets, state);
                atomic_store_explicit(&shared_heap_party_at(heap, i)->who, who, memory_order_relaxed);
                return i;
            }
        }
        shared_heap_reap_parties(heap);
    }
    return NOBODY;
}

// ---- forks ----

void
shared_heap_before_fork(shared_heap *heap)
{
    reservation *slot = &heap->reserved[heap->forks++ % RESERVATIONS];
    reservation oldest = *slot;
    slot->party = NOBODY;
    if (shared_heap_enter(heap) < 0) {
        return;
    }
    if (oldest.party != NOBODY) {
        // Nothing happens if that child has taken it.  Otherwise it died before, or the fork failed; a child
        // that is as late as that makes a row of its own.
        give_up(heap, oldest.party, oldest.who);
    }
    slot->party = shared_heap_add_party(heap, PARTY_RESERVED);
    if (slot->party != NOBODY) {
        memcpy(heap->at->rows[slot->party], heap->at->rows[heap->party], sizeof(heap->at->rows[0]));
        // Relaxed: as shared_heap_add_party() has just left it.
        slot->who = atomic_load_explicit(&shared_heap_party_at(heap, slot->party)->who, memory_order_relaxed);
    }
    shared_heap_leave(heap);
}

void
shared_heap_after_fork(shared_heap *heap)
{
    reservation own_one = heap->reserved[(heap->forks - 1) % RESERVATIONS];
    memset(heap->reserved, 0, sizeof(heap->reserved));
    if (own_one.party != NOBODY) {
        uint64_t mine = shared_heap_who_is((uint32_t)getpid(), (uint32_t)own_one.who >> 2, PARTY_USED);
        // Relaxed: the thread that forked made its row, and shared_heap_reap_parties() asks about either
        // process.
        _Atomic uint64_t *who = &shared_heap_party_at(heap, own_one.party)->who;
        if (atomic_compare_exchange_strong_explicit(who, &own_one.who, mine, memory_order_relaxed,
                                                    memory_order_relaxed)) {
            heap->party = own_one.party;
            return;
        }
    }
    uint32_t own = NOBODY;
    if (shared_heap_enter(heap) == 0) {
        own = shared_heap_add_party(heap, PARTY_USED);
        for (uint32_t i = 0; own != NOBODY && i < shared_heap_cell_count(heap); i++) {
            if (heap->users[i] != 0) {
                shared_heap_set(heap, own, i);
            }
        }
        shared_heap_leave(heap);
    }
    // Without a row the parent's must do.
    heap->party = own != NOBODY ? own : heap->party;
}
