// shm_fork: what becomes of shared memory when this process forks.
//
// A process that has received a block looks at it through a *view*, and what it sees is its own: also after a
// fork, when parent and child each go on with what there was, as with any other memory.
//
//     before a fork    every view that is open becomes a private mapping of the same pages, in place: what
//                      either process writes from then on is copied first, and nothing is copied now
//     after it         the pages stay as they are until the view is closed, and until no child that was
//                      forked meanwhile can look at them: only then are they given back
//
// How a process knows when its children cannot look any more: around a fork it has a *witness* mapped, a page
// of a file of its own, which the child inherits.  The kernel refuses to seal a file against writing as long
// as somebody has it mapped so; so the seal tells when the child, and each child of its own, has ended or
// has become another program.  No descriptor of the child's matters, and nothing has to be said.
//
// The rest of a region is not in the child at all, but for its *head*: there the child finds zeros that
// are its own, so that what it still does to inherited objects harms nobody.
//
// All that is done by handlers of pthread_atfork(): they see forks that Python does not.  vfork() and
// posix_spawn() need nothing.  If the system refuses to map a view privately, it is missing in the child,
// which a signal ends when it looks: better than wrong data.
//
// Any thread may call these.  One mutex of the process guards the lists; it is a leaf.  No Python.
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

// Has the child of a fork find zeros there.  SHM_OK is 0; else the handlers could not be set up.
int shm_head_watch(shm_head *head, void *start, uint64_t bytes);
void shm_head_forget(shm_head *head);

static inline bool
shm_head_is_inherited(const shm_head *head)
{
    // Relaxed: it changes in the child of a fork only, while that has one thread.
    return atomic_load_explicit(&head->is_inherited, memory_order_relaxed);
}

// The mutex guards all fields.
typedef struct shm_view {
    list_link link;        // first: a link is its view; on a list while it is open
    const shm_file *file;  // borrowed
    unsigned char *start;
    uint64_t bytes, offset;
    _Atomic uint32_t *is_forked;  // in the mapping: made 1, for other processes, when it becomes private
    uint64_t opened, closed;      // how many forks there had been
    bool is_private;
    bool is_counted;  // it needs the witnesses
} shm_view;

// A shared mapping of whole pages is a view from here on.
void shm_view_open(shm_view *view, const shm_file *file, unsigned char *start, uint64_t bytes,
                   uint64_t offset, _Atomic uint32_t *is_forked);

// Nobody in this process looks at it any more.  True: no child of it does, the mapping is shared again,
// and the memory may be given back; false: call it again later.
bool shm_view_close(shm_view *view);

// Whether no fork has happened since it was opened.
bool shm_view_is_unseen(shm_view *view);

// The view stays, and the file goes: from here on it is an ordinary mapping of this process.  If the system
// refuses, children of this process will not have it.
void shm_view_detach(shm_view *view);

// The memory of a view that could not be closed is not to be given back.
void shm_view_forget(shm_view *view);

#endif
