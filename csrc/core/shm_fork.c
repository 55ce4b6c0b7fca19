#define _GNU_SOURCE
#include "shm_fork.h"

#include <fcntl.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/mman.h>
#include <unistd.h>

#define WITNESS_BYTES 4096
// At most so many groups of forks are told apart; the forks after that share the last witness.
#define WITNESSES_MAX 8

// For the children of the forks with these numbers, the first to the last.
typedef struct witness {
    int fd;  // -1: it could not be made, and these children count as alive for ever
    uint64_t first, last;
} witness;

// This process's; the mutex guards all of them.  prepare() takes it before a fork, and the handlers after the
// fork release it.
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static list_link *heads;
static list_link *views;
static uint64_t forks;  // those that happened while a view was open
static uint64_t counted_views;
static witness witnesses[WITNESSES_MAX];
static uint32_t witness_count;
static void *mapped_witness;  // between prepare() and the handlers after the fork

static pthread_once_t once = PTHREAD_ONCE_INIT;
static int once_status;

// ---- the handlers ----

static void
make_private(shm_view *view)
{
    // The descriptor may be another file's by now.  Threads that write meanwhile find the old mapping or the
    // new one.
    if (!view->is_private && shm_file_is_there(view->file)) {
        // Relaxed: the process that reads it has waited for the end of this one.
        atomic_store_explicit(view->is_forked, 1, memory_order_relaxed);
        view->is_private =
            shm_file_map(view->file, view->start, view->offset, view->bytes, true) != NULL;
    }
}

static int
make_witness(void)
{
    int fd = memfd_create("pyconc-fork", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd >= 0 && ftruncate(fd, WITNESS_BYTES) < 0) {
        close(fd);
        fd = -1;
    }
    return fd;
}

// Whether the children of a witness are gone; if so, closes it.
static bool
is_gone(witness *one)
{
    if (one->fd < 0 || fcntl(one->fd, F_ADD_SEALS, F_SEAL_WRITE) < 0) {
        return false;
    }
    close(one->fd);
    *one = witnesses[--witness_count];
    return true;
}

// Maps the witness of the next child.
static void
map_witness(void)
{
    for (uint32_t i = 0; i < witness_count;) {
        i += !is_gone(&witnesses[i]);
    }
    if (witness_count < WITNESSES_MAX) {
        witnesses[witness_count++] = (witness){.fd = make_witness(), .first = forks};
    }
    witness *last = &witnesses[witness_count - 1];
    last->last = forks;
    if (last->fd >= 0) {
        void *start = mmap(NULL, WITNESS_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, last->fd, 0);
        if (start != MAP_FAILED) {
            mapped_witness = start;
            return;
        }
        close(last->fd);
        last->fd = -1;
    }
}

static void
close_witnesses(void)
{
    for (uint32_t i = 0; i < witness_count; i++) {
        if (witnesses[i].fd >= 0) {
            close(witnesses[i].fd);
        }
    }
    witness_count = 0;
}

static void
prepare(void)
{
    pthread_mutex_lock(&lock);
    if (views != NULL) {
        forks++;
        map_witness();
        for (list_link *link = views; link != NULL; link = link->next) {
            make_private((shm_view *)link);
        }
    }
}

static void
after_in_parent(void)
{
    if (mapped_witness != NULL) {
        munmap(mapped_witness, WITNESS_BYTES);
        mapped_witness = NULL;
    }
    pthread_mutex_unlock(&lock);
}

static void
after_in_child(void)
{
    // The child keeps the witness mapped for as long as it lives, and does nothing else with it.
    mapped_witness = NULL;
    close_witnesses();
    counted_views = 0;
    for (list_link *link = heads; link != NULL; link = link->next) {
        shm_head *head = (shm_head *)link;
        if (!shm_head_is_inherited(head)) {
            mmap(head->start, head->bytes, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
            // Relaxed: the child has one thread.
            atomic_store_explicit(&head->is_inherited, true, memory_order_relaxed);
        }
    }
    // Views are ordinary memory in the child, which gives nothing back.
    while (views != NULL) {
        ((shm_view *)views)->is_counted = false;
        list_link_remove(views);
    }
    pthread_mutex_unlock(&lock);
}

static void
set_up(void)
{
    once_status = pthread_atfork(prepare, after_in_parent, after_in_child);
}

// ---- heads ----

int
shm_head_watch(shm_head *head, void *start, uint64_t bytes)
{
    pthread_once(&once, set_up);
    if (once_status != 0) {
        return once_status;
    }
    pthread_mutex_lock(&lock);
    head->start = start;
    head->bytes = bytes;
    atomic_init(&head->is_inherited, false);
    list_link_push(&heads, &head->link);
    pthread_mutex_unlock(&lock);
    return 0;
}

void
shm_head_forget(shm_head *head)
{
    pthread_mutex_lock(&lock);
    list_link_remove(&head->link);
    pthread_mutex_unlock(&lock);
}

// ---- views; with the mutex ----

// The view needs the witnesses no longer; without any view that does, they are closed.
static void
discount(shm_view *view)
{
    counted_views -= view->is_counted;
    view->is_counted = false;
    if (counted_views == 0) {
        close_witnesses();
    }
}

// Whether a child lives that was forked while the view was open.
static bool
has_watchers(const shm_view *view)
{
    bool any = false;
    for (uint32_t i = 0; i < witness_count;) {
        if (!is_gone(&witnesses[i])) {
            any = any || (witnesses[i].last > view->opened && witnesses[i].first <= view->closed);
            i++;
        }
    }
    return any;
}

// ---- views ----

void
shm_view_open(shm_view *view, const shm_file *file, unsigned char *start, uint64_t bytes,
              uint64_t offset, _Atomic uint32_t *is_forked)
{
    pthread_mutex_lock(&lock);
    *view = (shm_view){
        .file = file,
        .start = start,
        .bytes = bytes,
        .offset = offset,
        .is_forked = is_forked,
        .opened = forks,
        .is_counted = true,
    };
    counted_views++;
    list_link_push(&views, &view->link);
    pthread_mutex_unlock(&lock);
}

bool
shm_view_close(shm_view *view)
{
    pthread_mutex_lock(&lock);
    if (view->link.place != NULL) {
        list_link_remove(&view->link);
        view->closed = forks;
    }
    bool may_return = witness_count == 0 || !has_watchers(view);
    if (may_return && view->is_private) {
        // The new mapping drops what this process has written, and shows what the file has.
        may_return = shm_file_is_there(view->file)
                     && shm_file_map(view->file, view->start, view->offset, view->bytes, false) != NULL;
        if (may_return) {
            view->is_private = false;
            // Relaxed: the process that reads it has waited for the end of this one.
            atomic_store_explicit(view->is_forked, 0, memory_order_relaxed);
        }
    }
    if (may_return) {
        discount(view);
    }
    pthread_mutex_unlock(&lock);
    return may_return;
}

bool
shm_view_is_unseen(shm_view *view)
{
    pthread_mutex_lock(&lock);
    bool unseen = !view->is_private && view->opened == forks;
    pthread_mutex_unlock(&lock);
    return unseen;
}

void
shm_view_detach(shm_view *view)
{
    pthread_mutex_lock(&lock);
    make_private(view);
    list_link_remove(&view->link);
    discount(view);
    pthread_mutex_unlock(&lock);
}

void
shm_view_forget(shm_view *view)
{
    pthread_mutex_lock(&lock);
    list_link_remove(&view->link);
    discount(view);
    pthread_mutex_unlock(&lock);
}
