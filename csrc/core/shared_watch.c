#define _GNU_SOURCE
#include "shared_watch.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "clock.h"
#include "futex.h"
#include "shared_heap_cells.h"

// Small, but with room for what libraries have in every thread's stack.
#define STACK_BYTES (256 << 10)

enum {
    WATCHING = 0,  // as a stop word wants it
    RUNG,
    CLOSED,
};

struct shared_watch {
    shared_heap *heap;  // these are constant
    shared_cell *cell;
    uint32_t index;  // of the cell, of which it counts as a user
    shared_watched what;
    int fd;
    pid_t pid;
    _Atomic uint32_t turn;   // WATCHING -> RUNG by the thread, RUNG -> WATCHING and -> CLOSED by the owner
    uint32_t seen;           // of whose turn it is
    _Atomic uint32_t users;  // the owner and the thread
};

static void
leave(shared_watch *watch, uint32_t users)
{
    // It releases what this side did, and acquires what the other did before the last one frees.
    if (atomic_fetch_sub_explicit(&watch->users, users, memory_order_acq_rel) == users) {
        close(watch->fd);
        shared_heap_drop(watch->heap, watch->index);
        free(watch);
    }
}

static int
sleep_for(shared_watch *watch)
{
    switch (watch->what) {
    case SHARED_WATCH_LOCK:
        return robust_lock_await(&watch->cell->lock);
    case SHARED_WATCH_SEMAPHORE:
        return shared_semaphore_await(watch->cell, FUTEX_NO_DEADLINE);
    case SHARED_WATCH_EVENT:
        return shared_event_wait(watch->cell, watch->seen, FUTEX_NO_DEADLINE);
    default:
        return shared_condition_await(watch->cell, watch->seen);
    }
}

// The next that waits has its turn.
static void
pass(shared_watch *watch)
{
    if (watch->what == SHARED_WATCH_LOCK) {
        robust_lock_pass(&watch->cell->lock);
    }
    else if (watch->what == SHARED_WATCH_SEMAPHORE) {
        shared_semaphore_pass(watch->cell);
    }
}

static void
ring(shared_watch *watch)
{
    uint32_t expected = WATCHING;
    // R35: pairs with A35 in shared_watch_look(): `seen` is the owner's from here on.  It fails if closed.
    if (atomic_compare_exchange_strong_explicit(&watch->turn, &expected, RUNG, memory_order_release,
                                                memory_order_relaxed)) {
        eventfd_write(watch->fd, 1);
    }
}

static void
await_owner(shared_watch *watch, int64_t deadline_ns)
{
    // A36: pairs with R36 in shared_watch_look(): `seen` is the thread's again.
    while (atomic_load_explicit(&watch->turn, memory_order_acquire) == RUNG) {
        if (futex_wait(&watch->turn, RUNG, deadline_ns) == FUTEX_TIMED_OUT) {
            break;
        }
    }
}

static void *
run(void *arg)
{
    shared_watch *watch = arg;
    pthread_setname_np(pthread_self(), "pyconc-watch");
    futex_stop_by(&watch->turn);
    // Relaxed: nothing is read that the owner wrote before it closed.
    while (atomic_load_explicit(&watch->turn, memory_order_relaxed) != CLOSED) {
        int rc = sleep_for(watch);
        if (rc == FUTEX_INTERRUPTED) {
            continue;
        }
        ring(watch);
        if (rc == FUTEX_OK) {
            await_owner(watch, clock_now_ns() + SHARED_WATCH_GRACE_NS);
            pass(watch);
        }
        await_owner(watch, FUTEX_NO_DEADLINE);
    }
    futex_stop_by(NULL);
    leave(watch, 1);
    return NULL;
}

static int
start(shared_watch *watch)
{
    pthread_attr_t attributes;
    pthread_t thread;
    sigset_t all, before;
    int error = pthread_attr_init(&attributes);
    if (error != 0) {
        return error;
    }
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    error = pthread_create(&thread, &attributes, run, watch);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return error;
}

shared_watch *
shared_watch_open(shared_heap *heap, uint32_t index, shared_watched what, uint32_t seen)
{
    shared_watch *watch = malloc(sizeof(*watch));
    if (watch == NULL) {
        return NULL;
    }
    *watch = (shared_watch){
        .heap = heap,
        .cell = shared_heap_cell(heap, index),
        .index = index,
        .what = what,
        .fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
        .pid = getpid(),
        .turn = WATCHING,
        .seen = seen,
        .users = 2,
    };
    int error = errno;
    if (watch->fd >= 0) {
        if (shared_heap_share(heap, index) < 0) {
            error = ENOMEM;
        }
        else {
            error = start(watch);
            if (error == 0) {
                return watch;
            }
            shared_heap_drop(heap, index);
        }
        close(watch->fd);
    }
    free(watch);
    errno = error;
    return NULL;
}

int
shared_watch_fd(const shared_watch *watch)
{
    return watch->fd;
}

void
shared_watch_clear(shared_watch *watch)
{
    eventfd_t rings;
    eventfd_read(watch->fd, &rings);
}

void
shared_watch_look(shared_watch *watch, uint32_t seen)
{
    // A35: pairs with R35 in ring(), before `seen` is written.
    if (atomic_load_explicit(&watch->turn, memory_order_acquire) == RUNG) {
        watch->seen = seen;
        // R36: pairs with A36 in await_owner().  Only the owner changes it from RUNG.
        atomic_store_explicit(&watch->turn, WATCHING, memory_order_release);
        futex_wake(&watch->turn, 1);
    }
}

void
shared_watch_close(shared_watch *watch)
{
    // Relaxed: the thread reads nothing else for it; leave() orders the rest.
    atomic_store_explicit(&watch->turn, CLOSED, memory_order_relaxed);
    futex_wake(&watch->turn, 1);
    leave(watch, watch->pid == getpid() ? 1 : 2);
}
