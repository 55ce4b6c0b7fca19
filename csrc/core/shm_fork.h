// shm_fork: what becomes of shared memory when this process forks.
//
// A process that has received a block looks at it through a *view*, and what it sees is its own.  After a
// fork, parent and child each go on with what there was, as with any other memory.
//
//     before a fork    every open view becomes a private mapping of the same pages, in place: the system
//                      copies a page when either process first writes to it, and copies nothing now
//     after it         the pages stay as they are until the view is closed, and until no child that was
//                      forked meanwhile can look at them: only then are they given back
//
// A process knows by a *witness* when its children cannot look any longer: a page of a file of its own, which
// it has mapped around a fork, so that the child inherits the mapping.  The kernel refuses to seal a file
// against writing while any process has it mapped so; the seal succeeds when the child, and each child of the
// child, has ended or has become another program. The descriptors of the child do not matter, and no process
// has to send a message.
//
// Of the rest of a region the child has only the *head*, and there it finds zeros that are its own, so what
// it still does to inherited objects harms no other process.
//
// Handlers of pthread_atfork() do all this: they see forks that Python does not.  vfork() and posix_spawn()
// need nothing.  If the system refuses to map a view privately, the child has no mapping there, and a signal
// ends it when it looks: better than wrong data.
//
// Any thread may call these.  One mutex of the process guards the lists; no other lock is taken while it is
// held.  No Python.
#ifndef PYCONC_SHM_FORK_H
#define PYCONC_SHM_FORK_H

#include <stdatomic.h>

#include "node_list.h"
#include "shm_file.h"

// The head of a region.  The mutex guards the list.
typedef struct shm_head {
    list_link link;  // first: a link is its head; on a list while it is watched
    void *start;
    uint64_t bytes;
    _Atomic bool is_inherited;  // this process is a child of the one that had opened the region
} shm_head;

// The child of a fork will find zeros there.  0, or the error with which the handlers could not be installed.
int shm_head_watch(shm_head *head, void *start, uint64_t bytes);
void shm_head_forget(shm_head *head);

static inline bool
shm_head_is_inherited(const shm_head *head)
{
    // Relaxed: it changes only in the child of a fork, while that has one thread.
    return atomic_load_explicit(&head->is_inherited, memory_order_relaxed);
}

// The mutex guards all fields.
typedef struct shm_view {
    list_link link;        // first: a link is its view; on a list while it is open
    const shm_file *file;  // borrowed
    unsigned char *start;
    uint64_t bytes, offset;
    _Atomic uint32_t *is_forked;  // in the mapping: 1 once it has become private, for other processes
    uint64_t opened, closed;      // how many forks there had been by then
    bool is_private;
    bool is_counted;  // it is among those that need the witnesses
} shm_view;

// From here on a shared mapping of whole pages is a view.
void shm_view_open(shm_view *view, const shm_file *file, unsigned char *start, uint64_t bytes,
                   uint64_t offset, _Atomic uint32_t *is_forked);

// This process looks at the view no longer.  True: no child of it looks, the mapping is shared again, and the
// memory may be given back; false: call it again later.
bool shm_view_close(shm_view *view);

// Whether the process has not forked since the view was opened.
bool shm_view_is_unseen(shm_view *view);

// The view stays when the file goes: from here on it is an ordinary mapping of this process.  If the system
// refuses, children of this process will not have it.
void shm_view_detach(shm_view *view);

// Forgets a view that could not be closed; its memory must not be given back.
void shm_view_forget(shm_view *view);

#endif
