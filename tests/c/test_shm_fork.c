// Tests of core/shm_fork: what parent and child see of shared memory after a fork, and when it is given back.
#define _GNU_SOURCE
#include "check_shm.h"

#include <sys/mman.h>

#include "core/shm_region.h"

#define MIB (UINT64_C(1) << 20)

typedef struct received {
    shm_region region;
    uint64_t offset;
    unsigned char *start;  // the receiver's mapping
    unsigned char *owner;  // the owner's
    _Atomic uint32_t is_forked;
    shm_view view;
} received;

static void
begin(received *self)
{
    memset(self, 0, sizeof(*self));
    check_create(&self->region);
    self->offset = self->region.share_bytes;
    CHECK_EQ(shm_region_commit(&self->region, self->offset, MIB), SHM_OK);
    CHECK_EQ(shm_region_map(&self->region, self->offset, MIB, &self->start), SHM_OK);
    CHECK_EQ(shm_region_map(&self->region, self->offset, MIB, &self->owner), SHM_OK);
    memset(self->owner, 1, MIB);
}

static void
open_view(received *self)
{
    shm_view_open(&self->view, &self->region.file, self->start, MIB, self->offset, &self->is_forked);
}

static void
end(received *self)
{
    munmap(self->start, MIB);
    munmap(self->owner, MIB);
    shm_region_close(&self->region);
}

// What a child does is told step by step.
typedef struct told {
    received *data;
    int to_child[2];
    int to_parent[2];
} told;

static void
say(const int *ends)
{
    CHECK(write(ends[1], "", 1) == 1);
}

static void
wait_for(const int *ends)
{
    char byte;
    CHECK(read(ends[0], &byte, 1) == 1);
}

static void
begin_told(told *self, received *data)
{
    self->data = data;
    CHECK(pipe2(self->to_child, O_CLOEXEC) == 0);
    CHECK(pipe2(self->to_parent, O_CLOEXEC) == 0);
}

static void
end_told(told *self)
{
    for (int i = 0; i < 2; i++) {
        close(self->to_child[i]);
        close(self->to_parent[i]);
    }
}

static void
write_in_child(void *arg)
{
    told *self = arg;
    CHECK(check_all(self->data->start, MIB, 1));
    memset(self->data->start, 2, MIB / 2);
    say(self->to_parent);
    wait_for(self->to_child);
    CHECK(check_all(self->data->start, MIB / 2, 2));
    CHECK(check_all(self->data->start + MIB / 2, MIB / 2, 1));
}

static void
neither_sees_what_the_other_writes(void)
{
    received data;
    told both;
    check_child child;
    begin(&data);
    begin_told(&both, &data);
    open_view(&data);
    check_fork(&child, write_in_child, &both);
    wait_for(both.to_parent);
    CHECK(check_all(data.start, MIB, 1));
    memset(data.start, 3, MIB);
    say(both.to_child);
    check_finish(&child);
    CHECK(check_all(data.start, MIB, 3));
    CHECK_EQ(atomic_load(&data.is_forked), 1);
    // What was written here was never the owner's.
    CHECK(check_all(data.owner, MIB, 1));
    CHECK(shm_view_close(&data.view));
    end_told(&both);
    end(&data);
}

static void
look_until_told(void *arg)
{
    told *self = arg;
    say(self->to_parent);
    wait_for(self->to_child);
    CHECK(check_all(self->data->start, MIB, 1));
}

static void
memory_goes_back_only_when_no_child_can_look(void)
{
    received data;
    told both;
    check_child child;
    begin(&data);
    begin_told(&both, &data);
    open_view(&data);
    check_fork(&child, look_until_told, &both);
    wait_for(both.to_parent);
    CHECK(!shm_view_close(&data.view));
    CHECK(!shm_view_close(&data.view));
    // Nor does a later fork matter.
    check_child later;
    check_fork_until_done(&later, (void (*)(void *))say, both.to_parent);
    wait_for(both.to_parent);
    say(both.to_child);
    check_finish(&child);
    CHECK(shm_view_close(&data.view));
    check_kill(&later);
    // It is shared again.
    memset(data.owner, 5, MIB);
    CHECK(check_all(data.start, MIB, 5));
    CHECK_EQ(atomic_load(&data.is_forked), 0);
    end_told(&both);
    end(&data);
}

static void
look_as_a_grandchild(void *arg)
{
    told *self = arg;
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        // It closes everything, as code that makes daemons does.
        for (int fd = 3; fd < 100; fd++) {
            if (fd != self->to_child[0] && fd != self->to_parent[1]) {
                close(fd);
            }
        }
        look_until_told(arg);
        say(self->to_parent);
        _exit(0);
    }
}

static void
a_grandchild_counts_and_descriptors_do_not(void)
{
    received data;
    told both;
    check_child child;
    begin(&data);
    begin_told(&both, &data);
    open_view(&data);
    check_fork_until_done(&child, look_as_a_grandchild, &both);
    wait_for(both.to_parent);
    check_kill(&child);
    CHECK(!shm_view_close(&data.view));
    say(both.to_child);
    wait_for(both.to_parent);
    CHECK_UNTIL(shm_view_close(&data.view));
    end_told(&both);
    end(&data);
}

static void
run_another_program(void *arg)
{
    told *self = arg;
    CHECK(fcntl(self->to_child[0], F_SETFD, 0) == 0);
    char command[64];
    snprintf(command, sizeof(command), "read line <&%d", self->to_child[0]);
    execl("/bin/sh", "sh", "-c", command, (char *)NULL);
    CHECK(!"it runs");
}

static void
a_child_that_becomes_another_program_does_not_count(void)
{
    received data;
    told both;
    check_child child;
    begin(&data);
    begin_told(&both, &data);
    open_view(&data);
    check_fork(&child, run_another_program, &both);
    CHECK_UNTIL(shm_view_close(&data.view));
    check_kill(&child);
    end_told(&both);
    end(&data);
}

static void
do_nothing(void *arg)
{
    (void)arg;
}

static void
a_view_that_saw_no_fork_goes_back_at_once(void)
{
    received data;
    check_child before, after;
    begin(&data);
    check_fork_until_done(&before, do_nothing, NULL);
    open_view(&data);
    CHECK(shm_view_close(&data.view));
    check_fork_until_done(&after, do_nothing, NULL);
    CHECK(shm_view_close(&data.view));
    check_kill(&before);
    check_kill(&after);
    end(&data);
}

static void
many_forks_do_not_pile_up(void)
{
    received data;
    check_child children[20];
    begin(&data);
    int fds = check_count_fds();
    open_view(&data);
    for (int i = 0; i < 20; i++) {
        check_fork_until_done(&children[i], do_nothing, NULL);
    }
    CHECK(!shm_view_close(&data.view));
    CHECK(check_count_fds() <= fds + 20 + 8);
    for (int i = 0; i < 20; i++) {
        CHECK(i == 0 || !shm_view_close(&data.view));
        check_kill(&children[i]);
    }
    CHECK(shm_view_close(&data.view));
    CHECK_EQ(check_count_fds(), fds);
    end(&data);
}

static void
nothing_is_left_when_no_view_is(void)
{
    received data;
    check_child child;
    begin(&data);
    int fds = check_count_fds();
    open_view(&data);
    check_fork_until_done(&child, do_nothing, NULL);
    CHECK(!shm_view_close(&data.view));
    shm_view_forget(&data.view);
    open_view(&data);
    check_child later;
    check_fork_until_done(&later, do_nothing, NULL);
    shm_view_detach(&data.view);
    // Except for the pipes to the children.
    CHECK_EQ(check_count_fds(), fds + 2);
    check_kill(&child);
    check_kill(&later);
    end(&data);
}

static void
look_at_a_head(void *arg)
{
    received *self = arg;
    CHECK(shm_head_is_inherited(&self->region.mapped_head));
    CHECK(check_all(self->region.head, SHM_PAGE, 0));
    memset(self->region.head, 9, SHM_PAGE);
    // It may make a region of its own, and close what it has inherited.
    shm_region own;
    check_create(&own);
    CHECK(!shm_head_is_inherited(&own.mapped_head));
    shm_region_close(&own);
    shm_region_close(&self->region);
}

static void
the_child_finds_a_head_of_its_own(void)
{
    received data;
    check_child child;
    begin(&data);
    memset(data.region.head, 7, SHM_PAGE);
    check_fork_until_done(&child, look_at_a_head, &data);
    CHECK(check_all(data.region.head, SHM_PAGE, 7));
    CHECK(!shm_head_is_inherited(&data.region.mapped_head));
    check_kill(&child);
    end(&data);
}

static void
fork_again(void *arg)
{
    received *self = arg;
    check_child child;
    memset(self->start, 2, MIB);
    told both;
    begin_told(&both, self);
    check_fork_until_done(&child, do_nothing, NULL);
    memset(self->start, 4, MIB);
    check_kill(&child);
    CHECK(check_all(self->start, MIB, 4));
    end_told(&both);
}

static void
a_child_may_fork_again(void)
{
    received data;
    check_child child;
    begin(&data);
    open_view(&data);
    check_fork_until_done(&child, fork_again, &data);
    CHECK(check_all(data.start, MIB, 1));
    check_kill(&child);
    CHECK(shm_view_close(&data.view));
    end(&data);
}

static void
a_detached_view_outlives_the_file(void)
{
    received data;
    told both;
    check_child child;
    begin(&data);
    begin_told(&both, &data);
    open_view(&data);
    shm_view_detach(&data.view);
    CHECK(data.view.is_private);
    // What the owner is writes now would show; it is gone.
    munmap(data.owner, MIB);
    shm_region_close(&data.region);
    CHECK(check_all(data.start, MIB, 1));
    check_fork(&child, write_in_child, &both);
    wait_for(both.to_parent);
    CHECK(check_all(data.start, MIB, 1));
    memset(data.start, 3, MIB);
    say(both.to_child);
    check_finish(&child);
    munmap(data.start, MIB);
    end_told(&both);
}

int
main(int argc, char **argv)
{
    static const check_test tests[] = {
        CHECK_TEST(neither_sees_what_the_other_writes),
        CHECK_TEST(memory_goes_back_only_when_no_child_can_look),
        CHECK_TEST(a_grandchild_counts_and_descriptors_do_not),
        CHECK_TEST(a_child_that_becomes_another_program_does_not_count),
        CHECK_TEST(a_view_that_saw_no_fork_goes_back_at_once),
        CHECK_TEST(many_forks_do_not_pile_up),
        CHECK_TEST(nothing_is_left_when_no_view_is),
        CHECK_TEST(the_child_finds_a_head_of_its_own),
        CHECK_TEST(a_child_may_fork_again),
        CHECK_TEST(a_detached_view_outlives_the_file),
    };
    return check_run(tests, CHECK_COUNT(tests), argc, argv);
}
