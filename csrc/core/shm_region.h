// shm_region: one anonymous memory file that several processes have mapped in parts.
//
// The file is a sealed memfd: it has no name that could outlive its owners, needs no /dev/shm, and has its
// final size from the start, so no process can make it shorter or longer: whatever lies within it can be
// mapped and touched.  It is sparse, and nearly all of it holes: a *head* that everybody has mapped, and a
// *share* for each party, in which that party alone allocates.  No counter is shared; each process keeps its
// own account of its share, and maps what it uses, where the system likes: address space is taken as memory
// is.  What is shared is addressed by its place in the file.
//
//     0              share                2 share              3 share
//     | head ...     | the parent's ...   | worker 0's ...     | worker 1's ...
//
// Memory is allocated from the system before it is touched, so a shortage is SHM_NO_MEMORY here and no SIGBUS
// there.  If a program closes the descriptor, or has another file under its number, that is SHM_NOT_OURS.
//
// Any thread may call everything but create, attach and close.  No Python.
#ifndef PYCONC_SHM_REGION_H
#define PYCONC_SHM_REGION_H

#include "shm_fork.h"

enum {
    SHM_OK = 0,
    SHM_NO_MEMORY = -1,  // The system, or a limit, refuses more memory.
    SHM_OS_ERROR = -2,   // Anything else that the system refused; errno says what.
    SHM_NOT_OURS = -3,   // The file is not a region of this version.
};

#define SHM_PAGE 4096
// What is mapped by itself begins at a multiple of this: no system has larger pages.
#define SHM_MAP_ALIGNMENT (UINT64_C(1) << 16)

typedef struct shm_region {
    unsigned char *head;  // what create() was asked for, mapped; NULL when closed
    uint64_t head_bytes;
    uint64_t share_bytes;  // a power of two
    uint32_t share_count;  // with that of the head
    shm_file file;
    shm_head mapped_head;
} shm_region;

#define SHM_REGION_CLOSED {.head = NULL, .file = {.fd = -1}}

// Makes a region with a head of zeros, and with shares for parties 1 to `parties`.
int shm_region_create(shm_region *region, uint64_t head_bytes, uint32_t parties);

// Writes what those who attach check; again, when a stray write may have hit it.  The parent.
void shm_region_write_header(shm_region *region);

// Maps what another process made; on SHM_OK the region owns fd.
int shm_region_attach(shm_region *region, int fd);

// Unmaps the head.  The memory is freed when the last process has unmapped it.  Accepts what is closed.
void shm_region_close(shm_region *region);

// Maps a stretch, which must lie within the file and begin at a multiple of SHM_MAP_ALIGNMENT.  The child
// of a fork has it not.
int shm_region_map(const shm_region *region, uint64_t offset, uint64_t bytes, unsigned char **start);

// Has memory behind a stretch of pages; what is new reads as zeros.  If that is refused there is none.
int shm_region_commit(const shm_region *region, uint64_t offset, uint64_t bytes);

// Gives the memory behind a stretch of pages back; it reads as zeros, and is not to be touched until it is
// committed again.
void shm_region_discard(const shm_region *region, uint64_t offset, uint64_t bytes);

// Writes a few bytes that are not mapped, if it can.
void shm_region_write(const shm_region *region, uint64_t offset, const void *bytes, uint64_t count);

// Where the last memory in a stretch ends that was written to; its beginning if there is none.
// UINT64_MAX if the system cannot tell.
uint64_t shm_region_end_of_data(const shm_region *region, uint64_t offset, uint64_t end);

static inline uint64_t
shm_round_up(uint64_t bytes, uint64_t step)
{
    return (bytes + step - 1) & ~(step - 1);
}

#endif
