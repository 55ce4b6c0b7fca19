#define _GNU_SOURCE
#include "shared_heap_open.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shared_heap_cells.h"
#include "shared_heap_map.h"
#include "shared_heap_parties.h"

static bool
prepare(layout *at, int fd)
{
    if (!shared_heap_allocate_file(fd, 0, (off_t)offsetof(layout, rows[FIRST_PROCESS]))
        || !shared_heap_allocate_file(fd, (off_t)offsetof(layout, extents), 4096)
        || !shared_heap_allocate_file(fd, (off_t)offsetof(layout, holds), 4096)
        || getrandom(&at->identity, sizeof(at->identity), 0) != (ssize_t)sizeof(at->identity)) {
        return false;
    }
    at->magic = MAGIC;
    at->rows_used = FIRST_PROCESS;
    at->units = shared_heap_units_of(fd);
    at->extents.sweep_at = SWEEP_LEAST;
    // Relaxed: nobody else has the file yet.
    atomic_store_explicit(&at->parties[NOBODY].who, PARTY_USED, memory_order_relaxed);
    atomic_store_explicit(&at->parties[ITEMS].who, PARTY_USED, memory_order_relaxed);
    return true;
}

// Holes cost nothing, but a limit on the size of files counts them.
static off_t
file_bytes(void)
{
    struct rlimit limit;
    uint64_t bytes = UNITS_OFFSET + SHARED_UNITS * SHARED_UNIT_BYTES;
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur < bytes) {
        bytes = limit.rlim_cur < sizeof(layout) ? sizeof(layout) : limit.rlim_cur / 4096 * 4096;
    }
    return (off_t)bytes;
}

static int
make_file(void)
{
    int fd = memfd_create("pyconc-shared", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd >= 0
        && (ftruncate(fd, file_bytes()) < 0
            || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)) {
        int error = errno;
        close(fd);
        errno = error;
        return -1;
    }
    return fd;
}

// A file that may be given any size could be cut under us.
static bool
is_heap_file(int fd)
{
    struct stat info;
    int seals = fcntl(fd, F_GET_SEALS);
    return fstat(fd, &info) == 0 && info.st_size >= (off_t)sizeof(layout) && seals >= 0
           && (seals & F_SEAL_SHRINK) != 0;
}

shared_heap *
shared_heap_open(int fd)
{
    bool is_new = fd < 0;
    int rc, own;
    layout *at = MAP_FAILED;
    shared_heap *heap = calloc(1, sizeof(*heap));
    int error = ENOMEM;
    if (heap == NULL) {
        errno = error;
        return NULL;
    }
    own = is_new ? make_file() : fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (own < 0 || !shm_file_identify(&heap->file, own)) {
        error = errno;
        goto fail;
    }
    error = EINVAL;
    if (!is_heap_file(own)) {
        goto fail;
    }
    at = mmap(NULL, sizeof(layout), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, own, 0);
    if (at == MAP_FAILED || (is_new && !prepare(at, own))) {
        error = errno;
        goto fail;
    }
    if (at->magic != MAGIC) {
        goto fail;
    }
    heap->at = at;
    rc = shared_heap_enter(heap);
    if (rc < 0) {
        error = rc == ROBUST_LOCK_REFUSED ? ENOTSUP : EAGAIN;
        goto fail;
    }
    heap->party = shared_heap_add_party(heap, PARTY_USED);
    shared_heap_leave(heap);
    if (heap->party == NOBODY) {
        error = ENOMEM;
        goto fail;
    }
    return heap;

fail:
    if (at != MAP_FAILED) {
        munmap(at, sizeof(layout));
    }
    if (own >= 0) {
        close(own);
    }
    free(heap);
    errno = error;
    return NULL;
}

void
shared_heap_close(shared_heap *heap)
{
    if (shared_heap_enter(heap) < 0) {
        return;
    }
    shared_heap_tidy(heap);
    bool has_cells = false;
    for (uint32_t word = 0; word < ROW_WORDS; word++) {
        has_cells = has_cells || heap->at->rows[heap->party][word] != 0;
    }
    if (!has_cells) {
        // Relaxed: ordered by the lock.
        atomic_store_explicit(&shared_heap_party_at(heap, heap->party)->who, PARTY_FREE,
                              memory_order_relaxed);
    }
    shared_heap_leave(heap);
    if (!has_cells) {
        shared_heap_unmap_all_kept(heap);
        munmap(heap->at, sizeof(layout));
        if (shm_file_is_there(&heap->file)) {
            close(heap->file.fd);
        }
        free(heap);
    }
}

uint64_t
shared_heap_identity(const shared_heap *heap)
{
    return heap->at->identity;
}

int
shared_heap_fd(const shared_heap *heap)
{
    return heap->file.fd;
}
