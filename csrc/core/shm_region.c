#define _GNU_SOURCE
#include "shm_region.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

// "pyconc", and the version of everything that is laid out in a region.
#define MAGIC UINT64_C(0x0004636e6f637970)
// A share's most bytes: holes cost nothing.  And its least, for a process that may not have large files.
#define SHARE_MOST (UINT64_C(1) << 40)
#define SHARE_LEAST (UINT64_C(1) << 20)
// The largest head that is copied: many times that of an executor with a thousand workers.
#define HEAD_COPY_MOST (UINT64_C(1) << 28)
// fallocate() is called for so many bytes at a time; see shm_region_commit().
#define STEP_BYTES (UINT64_C(1) << 21)

// The file's first page.
typedef struct region_header {
    uint64_t magic;
    uint64_t head_bytes;
    uint64_t share_bytes;
} region_header;

_Static_assert(sizeof(region_header) <= SHM_PAGE, "the header has a page");

static int
refusal(void)
{
    // EFBIG: over RLIMIT_FSIZE, to which memory files are subject.
    return errno == ENOMEM || errno == ENOSPC || errno == EFBIG || errno == EDQUOT ? SHM_NO_MEMORY
                                                                                   : SHM_OS_ERROR;
}

static uint64_t
floor_of_two(uint64_t number)
{
    return number == 0 ? 0 : UINT64_C(1) << (63 - __builtin_clzll(number));
}

// Gives the file its final size.
static int
set_size(int fd, uint64_t shares, uint64_t *share_bytes)
{
    struct rlimit limit;
    uint64_t most = SHARE_MOST;
    while (shares > (uint64_t)INT64_MAX / most) {
        most /= 2;
    }
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY
        && limit.rlim_cur / shares < most) {
        most = floor_of_two(limit.rlim_cur / shares);
    }
    if (most < SHARE_LEAST) {
        errno = EFBIG;
        return SHM_NO_MEMORY;
    }
    *share_bytes = most;
    return ftruncate(fd, (off_t)(shares * most)) < 0 ? refusal() : SHM_OK;
}

static int
map_head(shm_region *region)
{
    uint64_t bytes = shm_round_up(SHM_PAGE + region->head_bytes, SHM_PAGE);
    unsigned char *start = shm_file_map(&region->file, NULL, 0, bytes, false);
    if (start == NULL) {
        return refusal();
    }
    if (shm_head_watch(&region->mapped_head, start, bytes) != 0) {
        munmap(start, bytes);
        return SHM_NO_MEMORY;
    }
    region->head = start + SHM_PAGE;
    return SHM_OK;
}

int
shm_region_create(shm_region *region, uint64_t head_bytes, uint32_t parties)
{
    *region = (shm_region)SHM_REGION_CLOSED;
    int fd = memfd_create("pyconc", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) {
        return refusal();
    }
    shm_region made = {.head_bytes = head_bytes, .share_count = parties + 1};
    int rc = set_size(fd, made.share_count, &made.share_bytes);
    if (rc == SHM_OK && head_bytes > made.share_bytes - SHM_PAGE) {
        errno = EFBIG;
        rc = SHM_NO_MEMORY;
    }
    if (rc == SHM_OK
        && (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0
            || !shm_file_identify(&made.file, fd))) {
        rc = SHM_OS_ERROR;
    }
    if (rc == SHM_OK) {
        rc = shm_region_commit(&made, 0, shm_round_up(SHM_PAGE + head_bytes, SHM_PAGE));
    }
    if (rc == SHM_OK) {
        *region = made;
        rc = map_head(region);
    }
    if (rc != SHM_OK) {
        int error = errno;
        close(fd);
        *region = (shm_region)SHM_REGION_CLOSED;
        errno = error;
        return rc;
    }
    shm_region_write_header(region);
    return SHM_OK;
}

void
shm_region_write_header(shm_region *region)
{
    *(region_header *)(region->head - SHM_PAGE) =
        (region_header){.magic = MAGIC, .head_bytes = region->head_bytes, .share_bytes = region->share_bytes};
}

// Reads the header of a region of this version.
static bool
read_header(int fd, region_header *header)
{
    return pread(fd, header, sizeof(*header), 0) == (ssize_t)sizeof(*header) && header->magic == MAGIC
           && header->share_bytes >= SHARE_LEAST && header->share_bytes <= SHARE_MOST
           && floor_of_two(header->share_bytes) == header->share_bytes
           && header->head_bytes <= header->share_bytes - SHM_PAGE;
}

int
shm_region_attach(shm_region *region, int fd)
{
    *region = (shm_region)SHM_REGION_CLOSED;
    struct stat info;
    shm_region found = {0};
    if (fstat(fd, &info) < 0 || !shm_file_identify(&found.file, fd)) {
        return SHM_OS_ERROR;
    }
    region_header header;
    int wanted = F_SEAL_SHRINK | F_SEAL_GROW;
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || (seals & wanted) != wanted || !read_header(fd, &header)) {
        return SHM_NOT_OURS;
    }
    uint64_t shares = (uint64_t)info.st_size / header.share_bytes;
    if (shares < 1 || shares > UINT32_MAX) {
        return SHM_NOT_OURS;
    }
    found.head_bytes = header.head_bytes;
    found.share_bytes = header.share_bytes;
    found.share_count = (uint32_t)shares;
    *region = found;
    int rc = map_head(region);
    if (rc != SHM_OK) {
        *region = (shm_region)SHM_REGION_CLOSED;
    }
    return rc;
}

int
shm_region_copy_head(int fd, void **head, uint64_t *bytes)
{
    region_header header;
    if (!read_header(fd, &header) || header.head_bytes > HEAD_COPY_MOST) {
        return SHM_NOT_OURS;
    }
    unsigned char *copy = aligned_alloc(64, shm_round_up(header.head_bytes + 1, 64));
    if (copy == NULL) {
        return SHM_NO_MEMORY;
    }
    for (uint64_t at = 0; at < header.head_bytes;) {
        ssize_t got = pread(fd, copy + at, header.head_bytes - at, (off_t)(SHM_PAGE + at));
        if (got == 0 || (got < 0 && errno != EINTR)) {
            int rc = got == 0 ? SHM_NOT_OURS : SHM_OS_ERROR;
            free(copy);
            return rc;
        }
        at += got < 0 ? 0 : (uint64_t)got;
    }
    *head = copy;
    *bytes = header.head_bytes;
    return SHM_OK;
}

void
shm_region_close(shm_region *region)
{
    if (region->head != NULL) {
        shm_head_forget(&region->mapped_head);
        munmap(region->mapped_head.start, region->mapped_head.bytes);
        if (shm_file_is_there(&region->file)) {
            close(region->file.fd);
        }
    }
    *region = (shm_region)SHM_REGION_CLOSED;
}

int
shm_region_map(const shm_region *region, uint64_t offset, uint64_t bytes, unsigned char **start)
{
    if (!shm_file_is_there(&region->file)) {
        return SHM_NOT_OURS;
    }
    *start = shm_file_map(&region->file, NULL, offset, bytes, false);
    return *start == NULL ? refusal() : SHM_OK;
}

// Whether errno says that a call is not there, or not allowed.
static bool
is_call_refused(void)
{
    return errno == ENOSYS || errno == EPERM || errno == EOPNOTSUPP;
}

int
shm_region_commit(const shm_region *region, uint64_t offset, uint64_t bytes)
{
    if (!shm_file_is_there(&region->file)) {
        return SHM_NOT_OURS;
    }
    uint64_t at = offset, left = bytes;
    while (left > 0) {
        // Many kernels give up, and take back what they have, when a signal comes: one call for all would
        // never end in a process whose timer is faster than the call.
        uint64_t step = left < STEP_BYTES ? left : STEP_BYTES;
        if (fallocate(region->file.fd, 0, (off_t)at, (off_t)step) == 0) {
            at += step;
            left -= step;
        }
        else if (is_call_refused()) {
            // Where the call is not allowed, the system allocates memory when it is touched.
            return SHM_OK;
        }
        else if (errno != EINTR) {
            int error = errno;
            shm_region_discard(region, offset, bytes);
            errno = error;
            return refusal();
        }
    }
    return SHM_OK;
}

void
shm_region_discard(const shm_region *region, uint64_t offset, uint64_t bytes)
{
    if (bytes == 0 || !shm_file_is_there(&region->file)
        || fallocate(region->file.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)bytes)
               == 0
        || !is_call_refused()) {
        return;
    }
    // Another call does the same by way of a mapping.  If it is refused too, the memory stays a while longer.
    bytes -= bytes % (uint64_t)sysconf(_SC_PAGESIZE);  // which would be rounded up
    void *start = bytes == 0 ? NULL : shm_file_map(&region->file, NULL, offset, bytes, false);
    if (start != NULL) {
        madvise(start, bytes, MADV_REMOVE);
        munmap(start, bytes);
    }
}

void
shm_region_write(const shm_region *region, uint64_t offset, const void *bytes, uint64_t count)
{
    if (shm_file_is_there(&region->file)) {
        (void)!pwrite(region->file.fd, bytes, count, (off_t)offset);
    }
}

uint64_t
shm_region_end_of_data(const shm_region *region, uint64_t offset, uint64_t end)
{
    uint64_t last = offset;
    while (last < end) {
        // No caller relies on the file's position.
        off_t data = lseek(region->file.fd, (off_t)last, SEEK_DATA);
        if (data < 0 && errno != ENXIO) {
            return UINT64_MAX;
        }
        off_t hole = data < 0 || (uint64_t)data >= end ? -1 : lseek(region->file.fd, data, SEEK_HOLE);
        if (hole < 0 || (uint64_t)hole <= last) {
            break;
        }
        last = (uint64_t)hole;
    }
    return last < end ? last : end;
}
