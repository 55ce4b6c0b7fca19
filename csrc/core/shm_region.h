// shm_region: one anonymous memory file that several processes have mapped, and its growth.
//
// The file is a sealed memfd: it has no name that could outlive its owners, needs no /dev/shm, and
// can never shrink under a reader.  Every process maps the same large stretch of address space over
// it once, wherever it likes, so memory that any of them adds later is there for all of them without
// a word; what is shared is addressed by offset.  Memory is allocated from the system before it is
// touched, so a shortage is SHM_NO_MEMORY here and never a SIGBUS there.
//
//     0             4096                       used                             reserved
//     | header      | allocated, page by page  | address space only ...        |
//
// Any thread of any process may call everything but open and close.  If a process dies while it adds
// memory, a stretch of address space is lost and nothing else.  No Python.
#ifndef PYCONC_SHM_REGION_H
#define PYCONC_SHM_REGION_H

#include <stdatomic.h>
#include <stdint.h>

enum {
    SHM_OK = 0,
    SHM_NO_MEMORY = -1,  // The system, or a limit, refuses more memory.
    SHM_OS_ERROR = -2,   // Anything else that the system refused; errno says what.
    SHM_NOT_OURS = -3,   // The file is not a region of this version.
};

#define SHM_PAGE 4096

typedef struct shm_region {
    unsigned char *base;      // where this process has mapped it; NULL when closed
    uint64_t reserved_bytes;  // of address space
    int fd;                   // owned
} shm_region;

#define SHM_REGION_CLOSED {.base = NULL, .reserved_bytes = 0, .fd = -1}

// Makes a region of a header and no more.
int shm_region_create(shm_region *region);

// Maps what another process made; on SHM_OK the region owns fd.
int shm_region_attach(shm_region *region, int fd);

// Unmaps.  The memory is freed when the last process has.  Accepts what is closed.
void shm_region_close(shm_region *region);

// Adds `bytes`, rounded up to pages; the new memory at *offset reads as zeros.
int shm_region_extend(shm_region *region, uint64_t bytes, uint64_t *offset);

// Gives the memory behind a stretch of pages back; the stretch stays reserved.  It must not be touched
// until it is committed again, and then reads as zeros.  A commit that is refused leaves it discarded.
void shm_region_discard(shm_region *region, uint64_t offset, uint64_t bytes);
int shm_region_commit(shm_region *region, uint64_t offset, uint64_t bytes);

// Whether a stretch that another process names lies within what is allocated.
int shm_region_contains(shm_region *region, uint64_t offset, uint64_t bytes);

static inline uint64_t
shm_round_up(uint64_t bytes)
{
    return (bytes + SHM_PAGE - 1) & ~(uint64_t)(SHM_PAGE - 1);
}

#endif
