#define _GNU_SOURCE
#include "shm_file.h"

#include <stddef.h>
#include <sys/mman.h>
#include <sys/stat.h>

bool
shm_file_identify(shm_file *file, int fd)
{
    struct stat info;
    if (fstat(fd, &info) < 0) {
        return false;
    }
    *file = (shm_file){.fd = fd, .device = (uint64_t)info.st_dev, .inode = (uint64_t)info.st_ino};
    return true;
}

bool
shm_file_is_there(const shm_file *file)
{
    shm_file now;
    return file->fd >= 0 && shm_file_identify(&now, file->fd) && now.device == file->device
           && now.inode == file->inode;
}

void *
shm_file_map(const shm_file *file, void *at, uint64_t offset, uint64_t bytes, bool is_private)
{
    int flags = (is_private ? MAP_PRIVATE : MAP_SHARED) | MAP_NORESERVE | (at == NULL ? 0 : MAP_FIXED);
    void *start = mmap(at, bytes, PROT_READ | PROT_WRITE, flags, file->fd, (off_t)offset);
    if (start == MAP_FAILED) {
        return NULL;
    }
    if (!is_private) {
        madvise(start, bytes, MADV_DONTFORK);
    }
    // A core dump has no use for what may be gigabytes of data of other processes.
    madvise(start, bytes, MADV_DONTDUMP);
    return start;
}
