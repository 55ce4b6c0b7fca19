// shm_file: the memory file of a region, as this process has it, and its pages mapped.
//
// A program may close descriptors that are not its own, and open files that then get their numbers.  So a
// file is also known by its device and inode, and nothing is done to another file that has its number by
// now.  No Python.
#ifndef PYCONC_SHM_FILE_H
#define PYCONC_SHM_FILE_H

#include <stdbool.h>
#include <stdint.h>

typedef struct shm_file {
    int fd;  // owned by the region; -1: none
    uint64_t device, inode;
} shm_file;

// False: the system does not know the descriptor.
bool shm_file_identify(shm_file *file, int fd);

// Whether the descriptor still names that file.
bool shm_file_is_there(const shm_file *file);

// Maps pages at `at`, in place of the mapping there; if that is NULL, anywhere.  A shared mapping is not
// there in the child of a fork, a private one is.  NULL: the system refuses, and errno says why.
void *shm_file_map(const shm_file *file, void *at, uint64_t offset, uint64_t bytes, bool is_private);

#endif
