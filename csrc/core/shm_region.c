#define _GNU_SOURCE
#include "shm_region.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

// "pyconc", and the version of everything that is laid out in a region.
#define MAGIC UINT64_C(0x0001636e6f637970)
// Address space costs nothing; a process that is short of it gets less.
#define RESERVE_MOST (UINT64_C(1) << 40)
#define RESERVE_LEAST (UINT64_C(1) << 28)
// Memory is asked for in steps this large.
#define STEP_BYTES (UINT64_C(1) << 21)

typedef struct region_header {
    uint64_t magic;
    uint64_t reserved_bytes;
    _Atomic uint64_t used_bytes;  // only grows, but for a failed extension taking itself back
} region_header;

_Static_assert(offsetof(region_header, used_bytes) == 16, "the layout is shared");
_Static_assert(sizeof(region_header) <= SHM_PAGE, "the header has a page");
_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "a lock in shared memory would die with its holder");

static region_header *
header_of(shm_region *region)
{
    return (region_header *)region->base;
}

static int
refusal(void)
{
    // EFBIG: over RLIMIT_FSIZE, to which memory files are subject.
    return errno == ENOMEM || errno == ENOSPC || errno == EFBIG || errno == EDQUOT ? SHM_NO_MEMORY
                                                                                   : SHM_OS_ERROR;
}

// On a refusal some of it may have been allocated.
static int
allocate(int fd, uint64_t offset, uint64_t bytes)
{
    while (bytes > 0) {
        // Many kernels give up and take back what they have when a signal comes: all at once would never
        // be done in a process whose timer is faster than that.
        uint64_t step = bytes < STEP_BYTES ? bytes : STEP_BYTES;
        if (fallocate(fd, 0, (off_t)offset, (off_t)step) == 0) {
            offset += step;
            bytes -= step;
        }
        else if (errno != EINTR) {
            return refusal();
        }
    }
    return SHM_OK;
}

static int
map(shm_region *region, int fd, uint64_t bytes)
{
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (base == MAP_FAILED) {
        return refusal();
    }
    // A core dump has no use for what may be a terabyte of somebody else's data.
    madvise(base, bytes, MADV_DONTDUMP);
    region->base = base;
    region->reserved_bytes = bytes;
    region->fd = fd;
    return SHM_OK;
}

int
shm_region_create(shm_region *region)
{
    *region = (shm_region)SHM_REGION_CLOSED;
    int fd = memfd_create("pyconc", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) {
        return refusal();
    }
    int rc = allocate(fd, 0, SHM_PAGE);
    if (rc == SHM_OK && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_SEAL) < 0) {
        rc = SHM_OS_ERROR;
    }
    for (uint64_t bytes = RESERVE_MOST; rc == SHM_OK && region->base == NULL; bytes /= 2) {
        rc = map(region, fd, bytes);
        if (rc == SHM_NO_MEMORY && bytes > RESERVE_LEAST) {
            rc = SHM_OK;  // try less
        }
    }
    if (rc != SHM_OK) {
        int error = errno;
        close(fd);
        errno = error;
        return rc;
    }
    region_header *header = header_of(region);
    header->magic = MAGIC;
    header->reserved_bytes = region->reserved_bytes;
    atomic_init(&header->used_bytes, SHM_PAGE);
    return SHM_OK;
}

int
shm_region_attach(shm_region *region, int fd)
{
    *region = (shm_region)SHM_REGION_CLOSED;
    struct stat info;
    if (fstat(fd, &info) < 0) {
        return SHM_OS_ERROR;
    }
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || !(seals & F_SEAL_SHRINK) || info.st_size < SHM_PAGE) {
        return SHM_NOT_OURS;
    }
    region_header header;
    if (pread(fd, &header, sizeof(header), 0) != (ssize_t)sizeof(header) || header.magic != MAGIC
        || header.reserved_bytes < RESERVE_LEAST || header.reserved_bytes > RESERVE_MOST) {
        return SHM_NOT_OURS;
    }
    return map(region, fd, header.reserved_bytes);
}

void
shm_region_close(shm_region *region)
{
    if (region->base != NULL) {
        munmap(region->base, region->reserved_bytes);
        close(region->fd);
    }
    *region = (shm_region)SHM_REGION_CLOSED;
}

int
shm_region_extend(shm_region *region, uint64_t bytes, uint64_t *offset)
{
    _Atomic uint64_t *used = &header_of(region)->used_bytes;
    if (bytes > region->reserved_bytes) {
        return SHM_NO_MEMORY;
    }
    bytes = shm_round_up(bytes);
    // Relaxed: the number is all that is shared here; what is written to the memory is published by
    // whoever hands the offset on.
    uint64_t start = atomic_load_explicit(used, memory_order_relaxed);
    do {
        if (start > region->reserved_bytes || bytes > region->reserved_bytes - start) {
            return SHM_NO_MEMORY;
        }
    } while (!atomic_compare_exchange_weak_explicit(used, &start, start + bytes,
                                                    memory_order_relaxed, memory_order_relaxed));
    int rc = allocate(region->fd, start, bytes);
    if (rc != SHM_OK) {
        // What was allocated of it before the refusal goes back, and so does the stretch, unless
        // somebody has added another behind it.
        int error = errno;
        shm_region_discard(region, start, bytes);
        uint64_t end = start + bytes;
        // Relaxed, as above.
        atomic_compare_exchange_strong_explicit(used, &end, start, memory_order_relaxed,
                                                memory_order_relaxed);
        errno = error;
        return rc;
    }
    *offset = start;
    return SHM_OK;
}

void
shm_region_discard(shm_region *region, uint64_t offset, uint64_t bytes)
{
    // If the system refuses, the memory is kept a while longer.
    (void)!fallocate(region->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
                     (off_t)bytes);
}

int
shm_region_commit(shm_region *region, uint64_t offset, uint64_t bytes)
{
    int rc = allocate(region->fd, offset, bytes);
    if (rc != SHM_OK) {
        int error = errno;
        shm_region_discard(region, offset, bytes);
        errno = error;
    }
    return rc;
}

int
shm_region_contains(shm_region *region, uint64_t offset, uint64_t bytes)
{
    // Relaxed: the word only grows, and whoever named the offset has published a value that covers it.
    uint64_t used = atomic_load_explicit(&header_of(region)->used_bytes, memory_order_relaxed);
    used = used < region->reserved_bytes ? used : region->reserved_bytes;
    return offset >= SHM_PAGE && offset <= used && bytes <= used - offset;
}
