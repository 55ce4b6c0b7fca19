// shared_watch: a thread that sleeps on a shared object in the place of an event loop.
//
// The loop's thread takes locks and permits itself, as a lock belongs to the thread that took it; the watch
// only tells it when to try, by a file descriptor.  They work by turns:
//
//     the watch's turn      it sleeps until there may be something to take
//     it rings              the descriptor becomes readable, and it is the owner's turn
//     the owner's turn      the owner tries, and says shared_watch_look()
//
// To a lock or a semaphore the watch is one waiter among others, which are woken one by one: so what woke
// it waits for the owner.  But not for long: an owner that is not here within SHARED_WATCH_GRACE_NS loses its
// turn to the next that waits, in whatever process, and tries all the same when it comes.  If the process
// dies meanwhile, the kernel wakes the next.
//
// shared_watch_close() never sleeps.  The thread is woken, passes on what it had, and ends by itself; until
// then it has the cell and the descriptor.  It runs no Python, takes no signals, and keeps no process from
// its exit.  After a fork the child has no such thread: it can only close.
//
// Owner: one thread at a time; the thread of the watch calls no function here.  No Python.
#ifndef PYCONC_SHARED_WATCH_H
#define PYCONC_SHARED_WATCH_H

#include "shared_sync.h"

#define SHARED_WATCH_GRACE_NS 5000000

typedef enum shared_watched {
    SHARED_WATCH_LOCK,       // until nobody holds the cell's lock
    SHARED_WATCH_SEMAPHORE,  // until there is a permit, or the door is open
    SHARED_WATCH_EVENT,      // until it is set, or was set after `seen` times
    SHARED_WATCH_CONDITION,  // until there is another turn than `seen`
} shared_watched;

typedef struct shared_watch shared_watch;

// Starts a thread that watches a cell that this process has, in a heap that is never closed.  NULL, with
// errno.
shared_watch *shared_watch_open(shared_heap *heap, uint32_t index, shared_watched what, uint32_t seen);

// Readable since the watch rang, until shared_watch_clear().
int shared_watch_fd(const shared_watch *watch);
void shared_watch_clear(shared_watch *watch);

// Ends the owner's turn.  Nothing, if it is the watch's.
void shared_watch_look(shared_watch *watch, uint32_t seen);

void shared_watch_close(shared_watch *watch);

#endif
