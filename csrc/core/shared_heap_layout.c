#define _GNU_SOURCE
#include "shared_heap_layout.h"

#include <errno.h>
#include <fcntl.h>

// ---- the lock ----

// What has died with the lock may have left anything undone.
static void
repair(shared_heap *heap)
{
    shared_holds *holds = &heap->at->holds;
    heap->at->is_untidy = 1;
    heap->found_count = 0;
    shared_holds_repair(holds, shared_heap_cell_count(heap));
    for (uint32_t i = 0; i < shared_heap_cell_count(heap); i++) {
        if (shared_holds_any(holds, i)) {
            shared_heap_set(heap, ITEMS, i);
        }
        else {
            shared_heap_clear(heap, ITEMS, i);
        }
    }
}

int
shared_heap_enter_until(shared_heap *heap, int64_t deadline_ns)
{
    int rc;
    do {
        rc = robust_lock_acquire(&heap->at->lock, deadline_ns);
    } while (rc == FUTEX_INTERRUPTED);
    if (rc == ROBUST_LOCK_ABANDONED) {
        repair(heap);
    }
    return rc < 0 ? rc : 0;
}

// ---- bits ----

bool
shared_heap_is_used(const shared_heap *heap, uint32_t index)
{
    for (uint32_t i = 0; i < shared_heap_row_count(heap); i++) {
        if (shared_heap_state_of(heap, i) != PARTY_FREE && shared_heap_has(heap, i, index)) {
            return true;
        }
    }
    return false;
}

uint64_t
shared_heap_had_but_by(const shared_heap *heap, uint32_t party, uint32_t word)
{
    uint64_t used = 0;
    for (uint32_t i = 0; i < shared_heap_row_count(heap); i++) {
        if (shared_heap_state_of(heap, i) != PARTY_FREE && i != party) {
            used |= heap->at->rows[i][word];
        }
    }
    return used;
}

uint64_t
shared_heap_used_in_word(const shared_heap *heap, uint32_t word)
{
    return shared_heap_had_but_by(heap, SHARED_HEAP_PARTIES, word);
}

// ---- memory of the file ----

bool
shared_heap_allocate_file(int fd, off_t offset, off_t bytes)
{
    int rc;
    do {
        rc = fallocate(fd, 0, offset, bytes);
    } while (rc < 0 && errno == EINTR);
    return rc == 0 || errno == ENOSYS || errno == EPERM || errno == EOPNOTSUPP;
}

bool
shared_heap_allocate(const shared_heap *heap, const void *start, size_t bytes)
{
    off_t offset = (off_t)((const char *)start - (const char *)heap->at);
    return shm_file_is_there(&heap->file) && shared_heap_allocate_file(heap->file.fd, offset, (off_t)bytes);
}

void
shared_heap_release_bytes(const shared_heap *heap, uint64_t offset, uint64_t bytes)
{
    if (shm_file_is_there(&heap->file)) {
        fallocate(heap->file.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)bytes);
    }
}
