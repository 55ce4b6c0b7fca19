// shared_heap_open: makes a heap's file, and maps and unmaps it.  No Python.
#ifndef PYCONC_SHARED_HEAP_OPEN_H
#define PYCONC_SHARED_HEAP_OPEN_H

#include "shared_heap.h"

// Makes a heap, or maps the one that the file is, of which it keeps a duplicate: with fd < 0, a new one.
// NULL, with errno: EINVAL if the file is no heap, ENOTSUP where locks cannot be robust.
shared_heap *shared_heap_open(int fd);

// Unmaps it; but not while this process has cells of it, or holds the lock of one: then it stays for good.
void shared_heap_close(shared_heap *heap);

// What no other heap has.
uint64_t shared_heap_identity(const shared_heap *heap);
int shared_heap_fd(const shared_heap *heap);

#endif
