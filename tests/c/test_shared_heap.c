// Tests of core/shared_heap.
#define _GNU_SOURCE
#include "core/shared_heap.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "check.h"
#include "core/clock.h"
#include "core/shared_heap_cells.h"
#include "core/shared_heap_map.h"
#include "core/shared_heap_memory.h"
#include "core/shared_heap_open.h"
#include "core/shared_heap_parties.h"

static void
a_cell_lives_as_long_as_somebody_has_it(void)
{
    shared_heap *heap = shared_heap_open(-1);
    uint32_t first, second, third;
    CHECK(heap != NULL);
    CHECK_EQ(shared_heap_make(heap, &first), 0);
    CHECK_EQ(shared_heap_make(heap, &second), 0);
    CHECK(first != second);
    CHECK_EQ(shared_heap_share(heap, first), 0);
    CHECK_EQ(shared_heap_used(heap), 2);
    shared_heap_drop(heap, first);
    CHECK_EQ(shared_heap_used(heap), 2);
    uint64_t serial = shared_heap_cell(heap, first)->serial;
    shared_heap_drop(heap, first);
    CHECK_EQ(shared_heap_used(heap), 1);
    CHECK_EQ(shared_heap_attach(heap, first, serial), SHARED_HEAP_GONE);
    CHECK_EQ(shared_heap_make(heap, &third), 0);
    CHECK_EQ(third, first);
    CHECK(shared_heap_cell(heap, third)->serial != serial);
    CHECK_EQ(shared_heap_attach(heap, third, serial), SHARED_HEAP_GONE);
    CHECK_EQ(shared_heap_attach(heap, SHARED_HEAP_CELLS - 1, 0), SHARED_HEAP_GONE);
    shared_heap_drop(heap, second);
    shared_heap_drop(heap, third);
    shared_heap_close(heap);
}

static void
two_mappings_are_two_parties(void)
{
    shared_heap *heap = shared_heap_open(-1);
    shared_heap *other = shared_heap_open(shared_heap_fd(heap));
    uint32_t index;
    CHECK(heap != NULL && other != NULL);
    CHECK(shared_heap_identity(heap) == shared_heap_identity(other));
    CHECK_EQ(shared_heap_make(heap, &index), 0);
    atomic_store(&shared_heap_cell(heap, index)->value, 7);
    uint64_t serial = shared_heap_cell(heap, index)->serial;
    // Nobody has it while the pickle is on its way.
    CHECK_EQ(shared_heap_send(heap, index), 0);
    shared_heap_drop(heap, index);
    CHECK_EQ(shared_heap_used(heap), 1);
    CHECK_EQ(shared_heap_attach(other, index, serial), 0);
    CHECK_EQ(atomic_load(&shared_heap_cell(other, index)->value), 7);
    CHECK_EQ(shared_heap_received(other, index), 0);
    shared_heap_drop(other, index);
    CHECK_EQ(shared_heap_used(heap), 0);
    shared_heap_close(heap);
    CHECK_EQ(shared_heap_used(other), 0);
    shared_heap_close(other);
}

static void
a_pinned_cell_is_there_for_all_who_come(void)
{
    shared_heap *heap = shared_heap_open(-1);
    uint32_t index;
    CHECK_EQ(shared_heap_make(heap, &index), 0);
    uint64_t serial = shared_heap_cell(heap, index)->serial;
    CHECK_EQ(shared_heap_send(heap, index), 0);
    CHECK_EQ(shared_heap_pin(heap, index), 0);
    CHECK_EQ(shared_heap_send(heap, index), 0);
    shared_heap_drop(heap, index);
    for (int i = 0; i < 4; i++) {
        CHECK_EQ(shared_heap_used(heap), 1);
        CHECK_EQ(shared_heap_attach(heap, index, serial), 0);
        CHECK_EQ(shared_heap_received(heap, index), 0);
        shared_heap_drop(heap, index);
    }
    shared_heap_close(heap);
}

static void
a_cell_whose_lock_is_held_is_not_used_again(void)
{
    shared_heap *heap = shared_heap_open(-1);
    uint32_t first, second;
    CHECK_EQ(shared_heap_make(heap, &first), 0);
    robust_lock *lock = &shared_heap_cell(heap, first)->lock;
    CHECK_EQ(robust_lock_acquire(lock, ROBUST_LOCK_NO_WAIT), ROBUST_LOCK_OK);
    shared_heap_drop(heap, first);
    CHECK_EQ(shared_heap_make(heap, &second), 0);
    CHECK(second != first);
    shared_heap_drop(heap, second);
    shared_heap_close(heap);  // not while the lock is held
    CHECK_EQ(shared_heap_used(heap), 1);
    CHECK_EQ(robust_lock_release(lock), ROBUST_LOCK_OK);
    CHECK_EQ(shared_heap_used(heap), 0);
    shared_heap_close(heap);
}

static void
many_cells_come_and_go(void)
{
    shared_heap *heap = shared_heap_open(-1);
    uint32_t index;
    for (uint32_t i = 0; i < 3000; i++) {
        CHECK_EQ(shared_heap_make(heap, &index), 0);
        CHECK_EQ(index, i);
    }
    for (uint32_t i = 0; i < 3000; i++) {
        shared_heap_drop(heap, i * 7 % 3000);
    }
    CHECK_EQ(shared_heap_used(heap), 0);
    shared_heap_close(heap);
}

static uint64_t
memory_of(shared_heap *heap)
{
    struct stat info;
    CHECK(fstat(shared_heap_fd(heap), &info) == 0);
    return (uint64_t)info.st_blocks * 512;
}

static unsigned char *
take_memory(shared_heap *heap, uint32_t index, uint32_t order, uint32_t *unit)
{
    uint64_t bytes = SHARED_UNIT_BYTES << order;
    CHECK_EQ(shared_heap_take(heap, index, order, unit), 0);
    CHECK(shared_heap_commit(heap, *unit, 0, bytes));
    unsigned char *at = shared_heap_map(heap, *unit, order, false);
    CHECK(at != NULL);
    CHECK(at[0] == 0 && at[bytes - 1] == 0);
    memset(at, 7, bytes);
    return at;
}

static void
memory_of_a_cell_is_all_s_who_map_it_and_goes_with_it(void)
{
    shared_heap *heap = shared_heap_open(-1);
    shared_heap *other = shared_heap_open(shared_heap_fd(heap));
    uint32_t index, unit, second;
    CHECK_EQ(shared_heap_make(heap, &index), 0);
    uint64_t before = memory_of(heap);
    unsigned char *at = take_memory(heap, index, 1, &unit);
    CHECK(memory_of(heap) >= before + 2 * SHARED_UNIT_BYTES);
    unsigned char *same = shared_heap_map(other, unit, 1, false);
    CHECK(same != NULL && same[2 * SHARED_UNIT_BYTES - 1] == 7);
    munmap(same, 2 * SHARED_UNIT_BYTES);
    munmap(at, 2 * SHARED_UNIT_BYTES);
    munmap(take_memory(heap, index, 0, &second), SHARED_UNIT_BYTES);
    CHECK_EQ(shared_heap_keep(heap, index, second, 0), 0);
    CHECK(memory_of(heap) == before + SHARED_UNIT_BYTES);
    shared_heap_drop(heap, index);
    CHECK(memory_of(heap) == before);
    CHECK_EQ(shared_heap_make(heap, &index), 0);
    CHECK_EQ(shared_heap_take(heap, index, SHARED_ORDER_MAX + 1, &unit), SHARED_HEAP_FULL);
    shared_heap_drop(heap, index);
    shared_heap_close(other);
    shared_heap_close(heap);
}

static uint32_t
make(shared_heap *heap)
{
    uint32_t index;
    CHECK_EQ(shared_heap_make(heap, &index), 0);
    return index;
}

static void
hold(shared_heap *heap, uint32_t container, uint32_t index)
{
    CHECK_EQ(shared_heap_hold(heap, container, &index, 1), 0);
}

static void
let_go(shared_heap *heap, uint32_t container, uint32_t index)
{
    CHECK_EQ(shared_heap_let_go(heap, container, &index, 1), 0);
}

static void
a_cell_lives_as_long_as_a_container_holds_it(void)
{
    shared_heap *heap = shared_heap_open(-1);
    uint32_t first = make(heap), second = make(heap), held = make(heap);
    uint64_t serial = shared_heap_cell(heap, held)->serial;
    hold(heap, first, held);
    hold(heap, first, held);
    hold(heap, second, held);
    shared_heap_drop(heap, held);
    let_go(heap, first, held);
    let_go(heap, second, held);
    let_go(heap, second, held);  // which it does not hold any more
    CHECK_EQ(shared_heap_used(heap), 3);
    CHECK_EQ(shared_heap_attach(heap, held, serial), 0);
    let_go(heap, first, held);
    CHECK_EQ(shared_heap_used(heap), 3);
    shared_heap_drop(heap, held);
    CHECK_EQ(shared_heap_used(heap), 2);
    CHECK_EQ(shared_heap_attach(heap, held, serial), SHARED_HEAP_GONE);
    uint32_t nowhere[] = {first, SHARED_HEAP_CELLS - 1};
    CHECK_EQ(shared_heap_hold(heap, second, nowhere, 2), SHARED_HEAP_FULL);
    shared_heap_drop(heap, first);
    CHECK_EQ(shared_heap_used(heap), 1);
    shared_heap_drop(heap, second);
    shared_heap_close(heap);
}

static void
what_a_container_holds_goes_with_it_and_so_on(void)
{
    shared_heap *heap = shared_heap_open(-1);
    uint32_t unit, outer = make(heap), inner = make(heap), innermost = make(heap), kept = make(heap);
    // The table of units has memory, and then there is the same again.
    munmap(take_memory(heap, innermost, 0, &unit), SHARED_UNIT_BYTES);
    CHECK_EQ(shared_heap_keep(heap, innermost, SHARED_NO_UNIT, 0), 0);
    hold(heap, outer, inner);
    uint64_t before = memory_of(heap);
    munmap(take_memory(heap, innermost, 0, &unit), SHARED_UNIT_BYTES);
    hold(heap, inner, innermost);
    hold(heap, inner, kept);
    shared_heap_drop(heap, innermost);
    shared_heap_drop(heap, inner);
    CHECK(memory_of(heap) == before + SHARED_UNIT_BYTES);
    shared_heap_drop(heap, outer);
    CHECK(memory_of(heap) == before);  // at once
    CHECK_EQ(shared_heap_used(heap), 1);
    shared_heap_drop(heap, kept);
    shared_heap_close(heap);
}

static void
another_file_is_no_heap(void)
{
    int fd = memfd_create("other", MFD_CLOEXEC);
    CHECK(shared_heap_open(fd) == NULL);
    CHECK_EQ(errno, EINVAL);
    close(fd);
    CHECK(shared_heap_open(1000000) == NULL);
}

#if !defined(__SANITIZE_THREAD__)

// One thread fills all cells: the thread sanitizer would take 90 s to find nothing.
static void
containers_that_hold_each_other_go_when_there_is_no_room(void)
{
    shared_heap *heap = shared_heap_open(-1);
    uint32_t index, kept = make(heap), in_cycle = 0;
    hold(heap, kept, kept);
    while (shared_heap_make(heap, &index) == 0) {
        uint32_t other;
        if (shared_heap_make(heap, &other) == 0) {
            hold(heap, index, other);
            hold(heap, other, index);
            hold(heap, other, kept);
            shared_heap_drop(heap, other);
            in_cycle += 2;
        }
        shared_heap_drop(heap, index);
        if (in_cycle > SHARED_HEAP_CELLS) {
            break;
        }
    }
    CHECK(in_cycle > SHARED_HEAP_CELLS);
    CHECK_EQ(shared_heap_used(heap), 1);
    shared_heap_drop(heap, kept);
    CHECK_EQ(shared_heap_used(heap), 0);
    shared_heap_close(heap);
}

static void
await_end(pid_t pid, int expected)
{
    int status;
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
    CHECK_EQ(WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status), expected);
}

static void
a_child_keeps_what_its_parent_drops(void)
{
    shared_heap *heap = shared_heap_open(-1);
    uint32_t index, newer;
    int go[2];
    CHECK(pipe(go) == 0);
    CHECK_EQ(shared_heap_make(heap, &index), 0);
    shared_heap_before_fork(heap);
    pid_t pid = fork();
    if (pid == 0) {
        char byte;
        shared_heap_after_fork(heap);
        CHECK(read(go[0], &byte, 1) == 1);
        atomic_store(&shared_heap_cell(heap, index)->value, 7);
        _exit(0);
    }
    // At once, when the child may not have run yet.
    shared_heap_drop(heap, index);
    CHECK_EQ(shared_heap_make(heap, &newer), 0);
    CHECK(newer != index);
    CHECK(write(go[1], "x", 1) == 1);
    await_end(pid, 0);
    CHECK_EQ(atomic_load(&shared_heap_cell(heap, newer)->value), 0);
    CHECK_EQ(shared_heap_used(heap), 1);  // the child's is gone with it
    shared_heap_drop(heap, newer);
    shared_heap_close(heap);
    close(go[0]);
    close(go[1]);
}

// Forks a child that becomes a party when it is told to, and then ends by itself.
static pid_t
fork_late_child(shared_heap *heap, const int go[2])
{
    shared_heap_before_fork(heap);
    pid_t pid = fork();
    if (pid == 0) {
        char byte;
        CHECK(read(go[0], &byte, 1) == 1);
        shared_heap_after_fork(heap);
        _exit(0);
    }
    return pid;
}

static void
a_late_child_keeps_what_its_parent_drops_after_more_forks(void)
{
    shared_heap *heap = shared_heap_open(-1);
    uint32_t index, newer;
    int go[2];
    CHECK(pipe(go) == 0);
    CHECK_EQ(shared_heap_make(heap, &index), 0);
    pid_t pid = fork_late_child(heap, go);
    for (int i = 1; i < SHARED_HEAP_RESERVATIONS; i++) {
        shared_heap_before_fork(heap);  // and no fork
    }
    shared_heap_drop(heap, index);
    CHECK_EQ(shared_heap_make(heap, &newer), 0);
    CHECK(newer != index);
    CHECK(write(go[1], "x", 1) == 1);
    await_end(pid, 0);
    shared_heap_drop(heap, newer);
    for (int i = 0; i < SHARED_HEAP_RESERVATIONS; i++) {
        shared_heap_before_fork(heap);
    }
    CHECK_EQ(shared_heap_used(heap), 0);
    shared_heap_close(heap);
    close(go[0]);
    close(go[1]);
}

static void
a_late_child_does_not_take_what_another_has_by_then(void)
{
    shared_heap *heap = shared_heap_open(-1);
    uint32_t index;
    int go[2];
    CHECK(pipe(go) == 0);
    CHECK_EQ(shared_heap_make(heap, &index), 0);
    pid_t late = fork_late_child(heap, go);
    for (int i = 0; i < SHARED_HEAP_RESERVATIONS; i++) {
        shared_heap_before_fork(heap);  // with the last, the late child's is another's
    }
    CHECK(write(go[1], "x", 1) == 1);
    await_end(late, 0);
    shared_heap_drop(heap, index);
    for (int i = 0; i < SHARED_HEAP_RESERVATIONS; i++) {
        shared_heap_before_fork(heap);
    }
    CHECK_EQ(shared_heap_used(heap), 0);
    shared_heap_close(heap);
    close(go[0]);
    close(go[1]);
}

static void
forks_that_fail_and_parties_that_die_leave_room(void)
{
    shared_heap *heap = shared_heap_open(-1);
    uint32_t index;
    CHECK_EQ(shared_heap_make(heap, &index), 0);
    for (int i = 0; i < 2 * SHARED_HEAP_PARTIES; i++) {
        shared_heap_before_fork(heap);  // and no fork
    }
    for (int i = 0; i < 20; i++) {
        shared_heap_before_fork(heap);
        pid_t pid = fork();
        if (pid == 0) {
            shared_heap_after_fork(heap);
            CHECK_EQ(shared_heap_make(heap, &index), 0);
            kill(getpid(), SIGKILL);
        }
        await_end(pid, -SIGKILL);
    }
    CHECK_EQ(shared_heap_used(heap), 1);
    shared_heap_drop(heap, index);
    shared_heap_close(heap);
}

static void
memory_of_the_dead_is_found_when_it_would_grow(void)
{
    shared_heap *heap = shared_heap_open(-1);
    uint32_t index, unit;
    uint64_t before = memory_of(heap);
    CHECK_EQ(shared_heap_make(heap, &index), 0);
    for (int i = 0; i < 20; i++) {
        shared_heap_before_fork(heap);
        pid_t pid = fork();
        if (pid == 0) {
            shared_heap_after_fork(heap);
            CHECK_EQ(shared_heap_make(heap, &index), 0);
            munmap(take_memory(heap, index, 4, &unit), SHARED_UNIT_BYTES << 4);
            kill(getpid(), SIGKILL);
        }
        await_end(pid, -SIGKILL);
    }
    CHECK(memory_of(heap) < before + (SHARED_UNIT_BYTES << 4) * 10);
    CHECK_EQ(shared_heap_used(heap), 1);
    CHECK(memory_of(heap) <= before + SHARED_UNIT_BYTES);  // a page of cells stays, and no row of a party
    shared_heap_drop(heap, index);
    shared_heap_close(heap);
}

static void
death_with_the_heap_s_lock_stops_nobody(void)
{
    shared_heap *heap = shared_heap_open(-1);
    uint64_t seed = 1;
    uint32_t index;
    for (int i = 0; i < 100; i++) {
        shared_heap_before_fork(heap);
        pid_t pid = fork();
        if (pid == 0) {
            shared_heap_after_fork(heap);
            for (;;) {
                CHECK_EQ(shared_heap_make(heap, &index), 0);
                shared_heap_drop(heap, index);
            }
        }
        // At no instant in particular.
        check_dawdle(&seed);
        CHECK_EQ(shared_heap_make(heap, &index), 0);
        kill(pid, SIGKILL);
        await_end(pid, -SIGKILL);
        shared_heap_drop(heap, index);
    }
    CHECK_EQ(shared_heap_used(heap), 0);
    shared_heap_close(heap);
}

#endif

static const check_test tests[] = {
    CHECK_TEST(a_cell_lives_as_long_as_somebody_has_it),
    CHECK_TEST(two_mappings_are_two_parties),
    CHECK_TEST(a_pinned_cell_is_there_for_all_who_come),
    CHECK_TEST(a_cell_whose_lock_is_held_is_not_used_again),
    CHECK_TEST(many_cells_come_and_go),
    CHECK_TEST(memory_of_a_cell_is_all_s_who_map_it_and_goes_with_it),
    CHECK_TEST(a_cell_lives_as_long_as_a_container_holds_it),
    CHECK_TEST(what_a_container_holds_goes_with_it_and_so_on),
    CHECK_TEST(another_file_is_no_heap),
#if !defined(__SANITIZE_THREAD__)
    CHECK_TEST(containers_that_hold_each_other_go_when_there_is_no_room),
    CHECK_TEST(a_child_keeps_what_its_parent_drops),
    CHECK_TEST(a_late_child_keeps_what_its_parent_drops_after_more_forks),
    CHECK_TEST(a_late_child_does_not_take_what_another_has_by_then),
    CHECK_TEST(forks_that_fail_and_parties_that_die_leave_room),
    CHECK_TEST(memory_of_the_dead_is_found_when_it_would_grow),
    CHECK_TEST(death_with_the_heap_s_lock_stops_nobody),
#endif
};

int
main(int argc, char **argv)
{
    return check_run(tests, CHECK_COUNT(tests), argc, argv);
}
