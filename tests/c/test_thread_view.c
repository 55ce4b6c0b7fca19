// Tests of core/thread_view.
#define _GNU_SOURCE
#include "core/thread_view.h"

#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

// The descriptor of this process's table; -1: it has none.
static int
find_table(void)
{
    DIR *folder = opendir("/proc/self/fd");
    CHECK(folder != NULL);
    int found = -1;
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        char path[300], target[100] = "";
        snprintf(path, sizeof(path), "/proc/self/fd/%s", entry->d_name);
        if (readlink(path, target, sizeof(target) - 1) > 0
            && strcmp(target, "/memfd:pyconc-threads (deleted)") == 0) {
            found = atoi(entry->d_name);
        }
    }
    closedir(folder);
    return found;
}

static thread_view_table
copy(void)
{
    thread_view_table table;
    CHECK(thread_view_copy(find_table(), &table));
    return table;
}

static uint32_t
count(thread_view_kind kind)
{
    thread_view_table table = copy();
    uint32_t found = 0;
    for (uint32_t place = 1; place < table.top; place++) {
        found += thread_view_cell(&table, place, kind) != NULL;
    }
    thread_view_free(&table);
    return found;
}

static void
a_cell_is_seen_while_it_is_shown_and_is_the_next_one_to_be_taken(void)
{
    thread_view_pool *pool = thread_view_take();
    CHECK(pool != NULL);
    CHECK_EQ(count(THREAD_VIEW_POOL), 0);
    pool->pool = 7;
    pool->submitted = 3;
    thread_view_show(pool, THREAD_VIEW_POOL);
    thread_view_table table = copy();
    const thread_view_pool *seen = thread_view_cell(&table, 1, THREAD_VIEW_POOL);
    CHECK(seen != NULL && seen->pool == 7 && seen->submitted == 3);
    CHECK(thread_view_cell(&table, 1, THREAD_VIEW_WORKER) == NULL);
    CHECK_EQ(thread_view_head_of(&table)->process, (uint32_t)getpid());
    thread_view_free(&table);
    thread_view_give_back(pool);
    CHECK_EQ(count(THREAD_VIEW_POOL), 0);
    thread_view_worker *worker = thread_view_take();
    CHECK((void *)worker == (void *)pool);
    CHECK_EQ(worker->pool, 0);
    thread_view_give_back(worker);
    thread_view_pool elsewhere;
    thread_view_give_back(&elsewhere);
    thread_view_give_back(NULL);
}

static void
a_name_is_seen_unless_it_changes_just_then(void)
{
    char text[CALL_NAME_BYTES + 50], seen[CALL_NAME_BYTES + 1];
    memset(text, 'x', sizeof(text));
    thread_view_worker *worker = thread_view_take();
    thread_view_show(worker, THREAD_VIEW_WORKER);
    thread_view_table table = copy();
    CHECK(!thread_view_read_call(&table, 1, seen));  // it has none yet
    thread_view_free(&table);
    const size_t lengths[] = {sizeof(text), CALL_NAME_BYTES, CALL_NAME_BYTES - 1, 9, 8, 7, 1, 0};
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        size_t fits = lengths[i] < CALL_NAME_BYTES ? lengths[i] : CALL_NAME_BYTES;
        call_name_write(&worker->name, text, lengths[i]);
        table = copy();
        CHECK(thread_view_read_call(&table, 1, seen));
        CHECK_EQ(strlen(seen), fits);
        thread_view_free(&table);
    }
    // Another copy was taken while the name changed, or before.
    for (uint32_t version = 1; version <= 2; version++) {
        table = copy();
        thread_view_worker *later = (thread_view_worker *)(void *)(table.again + THREAD_VIEW_CELL);
        atomic_fetch_add(&later->name.version, version);
        CHECK(!thread_view_read_call(&table, 1, seen));
        thread_view_free(&table);
    }
    thread_view_give_back(worker);
}

static void
what_a_call_has_told_is_seen_while_it_runs_unless_it_changes_just_then(void)
{
    thread_view_worker *worker = thread_view_take();
    thread_view_progress *cell = thread_view_take();
    thread_view_show(worker, THREAD_VIEW_WORKER);
    worker->running = 2;
    worker->progress = thread_view_place(cell);
    thread_view_told told = {.running = 2, .done = {THREAD_VIEW_INTEGER, 7}, .note_bytes = 3, .note = "abc"};
    thread_view_told seen;
    thread_view_table table = copy();
    CHECK(!thread_view_read_told(&table, 1, &seen));  // the cell is not shown
    thread_view_free(&table);
    thread_view_show(cell, THREAD_VIEW_PROGRESS);
    table = copy();
    CHECK(!thread_view_read_told(&table, 1, &seen));  // nothing was told
    thread_view_free(&table);
    thread_view_tell(cell, &told);
    table = copy();
    CHECK(thread_view_read_told(&table, 1, &seen));
    CHECK(memcmp(&seen, &told, sizeof(told)) == 0);
    CHECK(!thread_view_read_told(&table, 2, &seen));  // that is no worker
    thread_view_free(&table);
    for (uint32_t version = 1; version <= 2; version++) {
        table = copy();
        thread_view_progress *later = (void *)(table.again + (size_t)worker->progress * THREAD_VIEW_CELL);
        atomic_fetch_add(&later->version, version);
        CHECK(!thread_view_read_told(&table, 1, &seen));
        thread_view_free(&table);
    }
    // It is another call's, there is none, its note is too long, or the cell is elsewhere.
    for (int i = 0; i < 4; i++) {
        worker->running = i == 0 ? 1 : 2;
        told.running = i == 1 ? 0 : 2;
        told.note_bytes = i == 2 ? THREAD_VIEW_NOTE_BYTES + 1 : 0;
        worker->progress = i == 3 ? UINT32_MAX : thread_view_place(cell);
        thread_view_tell(cell, &told);
        table = copy();
        CHECK(!thread_view_read_told(&table, 1, &seen));
        thread_view_free(&table);
    }
    thread_view_give_back(cell);
    thread_view_give_back(worker);
}

static void
a_full_table_refuses_and_counts_what_is_hidden(void)
{
    static void *cells[6000];
    uint32_t taken = 0;
    while ((cells[taken] = thread_view_take()) != NULL) {
        thread_view_show(cells[taken], THREAD_VIEW_WORKER);
        taken++;
        CHECK(taken < 6000);
    }
    CHECK(taken > 5000);
    CHECK_EQ(count(THREAD_VIEW_WORKER), taken);
    CHECK(thread_view_hide());
    CHECK(thread_view_hide());
    thread_view_unhide();
    thread_view_table table = copy();
    CHECK_EQ(atomic_load(&thread_view_head_of(&table)->hidden), 1);
    thread_view_free(&table);
    thread_view_unhide();
    thread_view_unhide();
    while (taken > 0) {
        thread_view_give_back(cells[--taken]);
    }
    CHECK_EQ(count(THREAD_VIEW_WORKER), 0);
}

// What the child of a fork does; its exit status.
static int
be_child(thread_view_pool *pool, bool knows)
{
    if (knows) {
        thread_view_after_fork();
        CHECK_EQ(find_table(), -1);
    }
    CHECK_EQ(pool->submitted, 0);
    pool->submitted = 99;
    thread_view_give_back(pool);
    thread_view_pool *own = thread_view_take();
    CHECK(own != NULL && own != pool);
    thread_view_show(own, THREAD_VIEW_POOL);
    pool->submitted = 100;
    CHECK(thread_view_hide());
    return own->submitted == 0 ? 0 : 1;
}

static void
the_child_of_a_fork_writes_elsewhere(void)
{
    thread_view_pool *pool = thread_view_take();
    pool->submitted = 5;
    thread_view_show(pool, THREAD_VIEW_POOL);
    for (int knows = 0; knows < 2; knows++) {
        pid_t child = fork();
        if (child == 0) {
            _exit(be_child(pool, knows));
        }
        int status;
        CHECK_EQ(waitpid(child, &status, 0), child);
        CHECK_EQ(status, 0);
    }
    thread_view_table table = copy();
    const thread_view_pool *seen = thread_view_cell(&table, 1, THREAD_VIEW_POOL);
    CHECK(seen != NULL && seen->submitted == 5);
    CHECK_EQ(atomic_load(&thread_view_head_of(&table)->hidden), 0);
    thread_view_free(&table);
    thread_view_give_back(pool);
}

// In a child: after it this process has no table.
static int
be_without_descriptors(void)
{
    thread_view_after_fork();
    struct rlimit none = {0}, before;
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
    none.rlim_max = before.rlim_max;
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
    CHECK(thread_view_take() == NULL);
    CHECK(!thread_view_hide());
    thread_view_unhide();
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
    // A file that is too large would be a signal.
    struct rlimit size;
    CHECK_EQ(getrlimit(RLIMIT_FSIZE, &size), 0);
    rlim_t usual = size.rlim_cur;
    size.rlim_cur = 4096;
    signal(SIGXFSZ, SIG_DFL);
    CHECK_EQ(setrlimit(RLIMIT_FSIZE, &size), 0);
    CHECK(thread_view_take() == NULL);
    size.rlim_cur = usual;
    CHECK_EQ(setrlimit(RLIMIT_FSIZE, &size), 0);
    void *cell = thread_view_take();
    CHECK(cell != NULL);
    // The program closes what it does not know: the cells that the system has allocated are still there.
    close(find_table());
    uint32_t taken = 1;
    while (thread_view_take() != NULL) {
        taken++;
    }
    return taken < 5000 ? 0 : 1;
}

static void
a_system_that_refuses_is_asked_again(void)
{
    pid_t child = fork();
    if (child == 0) {
        _exit(be_without_descriptors());
    }
    int status;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
}

static void
what_is_no_table_is_not_read(void)
{
    thread_view_table table;
    FILE *file = tmpfile();
    CHECK(file != NULL);
    CHECK(!thread_view_copy(fileno(file), &table));
    CHECK(!thread_view_copy(-1, &table));
    thread_view_head head = {.magic = 1};
    CHECK_EQ(pwrite(fileno(file), &head, sizeof(head), 0), (ssize_t)sizeof(head));
    CHECK(!thread_view_copy(fileno(file), &table));
    thread_view_give_back(thread_view_take());
    thread_view_table sound = copy();
    head = *thread_view_head_of(&sound);
    thread_view_free(&sound);
    const uint32_t tops[] = {0, 2, 5462, UINT32_MAX};  // none, more than the file has, more than there can be
    for (size_t i = 0; i < sizeof(tops) / sizeof(tops[0]); i++) {
        atomic_store(&head.top, tops[i]);
        CHECK_EQ(pwrite(fileno(file), &head, sizeof(head), 0), (ssize_t)sizeof(head));
        CHECK(!thread_view_copy(fileno(file), &table));
    }
    fclose(file);
}

int
main(int argc, char **argv)
{
    static const check_test tests[] = {
        CHECK_TEST(a_cell_is_seen_while_it_is_shown_and_is_the_next_one_to_be_taken),
        CHECK_TEST(a_name_is_seen_unless_it_changes_just_then),
        CHECK_TEST(what_a_call_has_told_is_seen_while_it_runs_unless_it_changes_just_then),
        CHECK_TEST(a_full_table_refuses_and_counts_what_is_hidden),
        CHECK_TEST(the_child_of_a_fork_writes_elsewhere),
        CHECK_TEST(a_system_that_refuses_is_asked_again),
        CHECK_TEST(what_is_no_table_is_not_read),
    };
    return check_run(tests, CHECK_COUNT(tests), argc, argv);
}
