// shm_region: one anonymous memory file that several processes have mapped in parts.
//
// The file is a sealed memfd: it has no name that could outlive its owners, needs no /dev/shm, and has its
// final size from the start, so no process can make it shorter or longer, and everything in it can be mapped
// and touched.  It is sparse, mostly holes: a *head* that every process has mapped, and a *share* for each
// party, in which only that party allocates.  There is no shared counter; each process keeps its own account
// of its share, and maps what it uses wherever the system puts it, so address space is used as memory is.
// Places in the file are the addresses of what is shared.
//
//     0              share                2 share              3 share
//     | head ...     | the parent's ...   | worker 0's ...     | worker 1's ...
//
// The system allocates memory before a process touches it, so a shortage is SHM_NO_MEMORY here and no SIGBUS
// there.  If a program closes the descriptor, or opens another file under its number, calls return
// SHM_NOT_OURS.
//
// Any thread may call everything except create, attach and close.  No Python.
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
// A block that is mapped by itself begins at a multiple of this: no system has larger pages.
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

// Writes what attaching processes check; again, when a stray write may have hit it.  Only the parent calls
// it.
void shm_region_write_header(shm_region *region);

// Maps what another process made; on SHM_OK the region owns fd.
int shm_region_attach(shm_region *region, int fd);

// Copies the head of a region that some process has, from its file: nothing is mapped, and nobody notices.
// On SHM_OK the caller frees *head, which is aligned to 64; anything may stand in it.
int shm_region_copy_head(int fd, void **head, uint64_t *bytes);

// Unmaps the head.  The memory is freed when the last process has unmapped it.  Accepts a closed region.
void shm_region_close(shm_region *region);

// Maps a stretch, which must lie within the file and begin at a multiple of SHM_MAP_ALIGNMENT.  The child of
// a fork does not have it.
int shm_region_map(const shm_region *region, uint64_t offset, uint64_t bytes, unsigned char **start);

// Allocates memory for a stretch of pages; new pages read as zeros.  If the system refuses, there is none.
int shm_region_commit(const shm_region *region, uint64_t offset, uint64_t bytes);

// Gives the memory of a stretch of pages back; the stretch reads as zeros, and must not be touched until it
// is committed again.
void shm_region_discard(const shm_region *region, uint64_t offset, uint64_t bytes);

// Writes a few bytes that are not mapped, if the system allows it.
void shm_region_write(const shm_region *region, uint64_t offset, const void *bytes, uint64_t count);

// Where the last written memory in a stretch ends; the stretch's beginning if nothing was written.
// UINT64_MAX if the system cannot tell.
uint64_t shm_region_end_of_data(const shm_region *region, uint64_t offset, uint64_t end);

static inline uint64_t
shm_round_up(uint64_t bytes, uint64_t step)
{
    return (bytes + step - 1) & ~(step - 1);
}

#endif
