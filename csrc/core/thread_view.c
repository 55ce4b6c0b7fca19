#define _GNU_SOURCE
#include "thread_view.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "shm_file.h"
#include "shm_fork.h"

// "pyconct", and the version of everything that is laid out here.
#define MAGIC UINT64_C(0x0274636e6f637970)
#define CELLS_MAX 5461
#define FILE_BYTES (UINT64_C(1) << 22)
// The system is asked for so much at a time: some forty cells.
#define STEP_BYTES (UINT64_C(1) << 15)

_Static_assert(FILE_BYTES >= (uint64_t)CELLS_MAX * THREAD_VIEW_CELL, "every cell is in the file");

// This process's; the caller's lock guards it.
static struct {
    unsigned char *cells;  // NULL: there is none
    shm_file file;
    shm_head mapping;
    uint64_t committed;  // bytes that the system has allocated
    uint32_t free_count;
    uint16_t free_cells[CELLS_MAX];  // those below `top` that nobody has, the next one last
} own;
// The system will not have it: it is not asked again.
static bool is_refused;

static thread_view_head *
head(void)
{
    return (thread_view_head *)(void *)own.cells;
}

// Has memory allocated for the cells up to one; false: there is none for it.
static bool
commit(uint32_t place)
{
    uint64_t end = ((uint64_t)place + 1) * THREAD_VIEW_CELL;
    while (own.committed < end) {
        // The program may have closed the file, and opened another one under its number.
        if (!shm_file_is_there(&own.file)) {
            return false;
        }
        if (fallocate(own.file.fd, 0, (off_t)own.committed, (off_t)STEP_BYTES) < 0) {
            if (errno == EINTR) {
                continue;
            }
            // Where the call is not allowed, the system allocates memory when it is touched.
            if (errno != ENOSYS && errno != EPERM && errno != EOPNOTSUPP) {
                return false;
            }
        }
        own.committed += STEP_BYTES;
    }
    return true;
}

static bool
open_table(void)
{
    // Memory files are subject to it, and a process that asks for more may get a signal that ends it.
    struct rlimit limit;
    if (getrlimit(RLIMIT_FSIZE, &limit) < 0 || limit.rlim_cur < FILE_BYTES) {
        return false;
    }
    int fd = memfd_create("pyconc-threads", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) {
        is_refused = errno == ENOSYS || errno == EPERM || errno == EACCES;
        return false;
    }
    own.committed = 0;
    own.free_count = 0;
    if (ftruncate(fd, (off_t)FILE_BYTES) == 0
        && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0
        && shm_file_identify(&own.file, fd) && commit(0)) {
        own.cells = shm_file_map(&own.file, NULL, 0, FILE_BYTES, false);
        if (own.cells != NULL && shm_head_watch(&own.mapping, own.cells, FILE_BYTES) == 0) {
            *head() = (thread_view_head){.magic = MAGIC, .process = (uint32_t)getpid()};
            atomic_init(&head()->top, 1);
            return true;
        }
    }
    if (own.cells != NULL) {
        munmap(own.cells, FILE_BYTES);
        own.cells = NULL;
    }
    close(fd);
    return false;
}

// Leaves the table that this process has from before a fork: there are zeros now, in memory of its own, in
// which those that were there go on.
static void
leave_inherited(void)
{
    if (own.cells != NULL && shm_head_is_inherited(&own.mapping)) {
        shm_head_forget(&own.mapping);
        own.cells = NULL;
    }
}

void *
thread_view_take(void)
{
    leave_inherited();
    if (own.cells == NULL && (is_refused || !open_table())) {
        return NULL;
    }
    uint32_t place;
    if (own.free_count > 0) {
        place = own.free_cells[--own.free_count];
    }
    else {
        // Relaxed, as all that others read: they cannot tell which of several numbers came first anyway.
        place = atomic_load_explicit(&head()->top, memory_order_relaxed);
        if (place >= CELLS_MAX || !commit(place)) {
            return NULL;
        }
        atomic_store_explicit(&head()->top, place + 1, memory_order_relaxed);
    }
    return memset(own.cells + (size_t)place * THREAD_VIEW_CELL, 0, THREAD_VIEW_CELL);
}

void
thread_view_show(void *cell, thread_view_kind kind)
{
    // Every cell begins with its kind.  Release: a viewer that sees it sees what the cell was filled with.
    atomic_store_explicit((_Atomic uint32_t *)cell, kind, memory_order_release);
}

uint32_t
thread_view_place(const void *cell)
{
    return (uint32_t)((size_t)((const unsigned char *)cell - own.cells) / THREAD_VIEW_CELL);
}

void
thread_view_tell(thread_view_progress *cell, const thread_view_told *told)
{
    uint64_t words[THREAD_VIEW_TOLD_WORDS];
    memcpy(words, told, sizeof(words));
    versioned_words_write(&cell->version, cell->words, words, THREAD_VIEW_TOLD_WORDS);
}

void
thread_view_give_back(void *cell)
{
    leave_inherited();
    size_t offset = (size_t)((uintptr_t)cell - (uintptr_t)own.cells);
    if (own.cells == NULL || offset >= FILE_BYTES) {
        return;
    }
    thread_view_show(cell, THREAD_VIEW_FREE);
    own.free_cells[own.free_count++] = (uint16_t)(offset / THREAD_VIEW_CELL);
}

bool
thread_view_hide(void)
{
    if (own.cells == NULL) {
        return false;
    }
    // Relaxed, also below: a number by itself, which the caller's lock guards.
    atomic_fetch_add_explicit(&head()->hidden, 1, memory_order_relaxed);
    return true;
}

void
thread_view_unhide(void)
{
    leave_inherited();
    // Relaxed: see thread_view_hide().
    if (own.cells != NULL && atomic_load_explicit(&head()->hidden, memory_order_relaxed) > 0) {
        atomic_fetch_sub_explicit(&head()->hidden, 1, memory_order_relaxed);
    }
}

void
thread_view_after_fork(void)
{
    if (own.cells != NULL && shm_file_is_there(&own.file)) {
        close(own.file.fd);
    }
    leave_inherited();
    is_refused = false;
}

// ---- what others see ----

static bool
read_all(int fd, unsigned char *to, size_t bytes)
{
    for (size_t at = 0; at < bytes;) {
        ssize_t got = pread(fd, to + at, bytes - at, (off_t)at);
        if (got == 0 || (got < 0 && errno != EINTR)) {
            return false;
        }
        at += got < 0 ? 0 : (size_t)got;
    }
    return true;
}

bool
thread_view_copy(int fd, thread_view_table *table)
{
    *table = (thread_view_table){0};
    thread_view_head head;
    if (!read_all(fd, (unsigned char *)&head, sizeof(head)) || head.magic != MAGIC) {
        return false;
    }
    // Relaxed: it is a copy.
    uint32_t top = atomic_load_explicit(&head.top, memory_order_relaxed);
    if (top == 0 || top > CELLS_MAX) {
        return false;
    }
    size_t bytes = (size_t)top * THREAD_VIEW_CELL;
    unsigned char *cells = aligned_alloc(64, 2 * bytes);
    if (cells == NULL || !read_all(fd, cells, bytes) || !read_all(fd, cells + bytes, bytes)) {
        free(cells);
        return false;
    }
    *table = (thread_view_table){.cells = cells, .again = cells + bytes, .top = top};
    return true;
}

void
thread_view_free(thread_view_table *table)
{
    free(table->cells);
    *table = (thread_view_table){0};
}

const void *
thread_view_cell(const thread_view_table *table, uint32_t place, thread_view_kind kind)
{
    unsigned char *cell = table->cells + (size_t)place * THREAD_VIEW_CELL;
    // Relaxed: it is a copy.
    uint32_t found = atomic_load_explicit((_Atomic uint32_t *)(void *)cell, memory_order_relaxed);
    return found == kind ? cell : NULL;
}

bool
thread_view_read_call(const thread_view_table *table, uint32_t place, char name[CALL_NAME_BYTES + 1])
{
    size_t offset = (size_t)place * THREAD_VIEW_CELL;
    const thread_view_worker *worker = (const void *)(table->cells + offset);
    const thread_view_worker *later = (const void *)(table->again + offset);
    return call_name_read(&worker->name, &later->name, name);
}

bool
thread_view_read_told(const thread_view_table *table, uint32_t place, thread_view_told *told)
{
    const thread_view_worker *worker = thread_view_cell(table, place, THREAD_VIEW_WORKER);
    uint32_t at = worker == NULL ? 0 : worker->progress;
    if (at == 0 || at >= table->top || thread_view_cell(table, at, THREAD_VIEW_PROGRESS) == NULL) {
        return false;
    }
    size_t offset = (size_t)at * THREAD_VIEW_CELL;
    const thread_view_progress *cell = (const void *)(table->cells + offset);
    const thread_view_progress *later = (const void *)(table->again + offset);
    memcpy(told, cell->words, sizeof(*told));
    return versioned_words_are_whole(&cell->version, &later->version) && told->running != 0
           && told->running == worker->running
           && (told->note_bytes <= THREAD_VIEW_NOTE_BYTES || told->note_bytes == THREAD_VIEW_NO_NOTE);
}
