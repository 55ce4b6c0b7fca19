// Workers that run event loops: which is rung when, and what the inbox brings.
#define _GNU_SOURCE
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "core/job_ring_parent.h"
#include "core/job_ring_worker.h"

enum {
    SLOTS = 4,
    WORKERS = 3
};

// One ring, the parent's view, and each worker's.
typedef struct scene {
    void *memory;
    uint64_t bytes;
    int wakeup_fd;
    int doorbells[WORKERS];
    job_ring parent;
    job_ring workers[WORKERS];
} scene;

static void
join(scene *all, uint32_t worker)
{
    job_ring *ring = &all->workers[worker];
    CHECK_EQ(job_ring_attach(ring, all->memory, all->bytes, all->wakeup_fd), SHM_OK);
    job_ring_use_doorbells(ring, all->doorbells);
    job_ring_enter(ring, worker);
}

static void
begin(scene *all)
{
    all->bytes = job_ring_size(SLOTS, WORKERS);
    all->memory = mmap(NULL, all->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(all->memory != MAP_FAILED);
    all->wakeup_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    CHECK(all->wakeup_fd >= 0);
    for (int i = 0; i < WORKERS; i++) {
        all->doorbells[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        CHECK(all->doorbells[i] >= 0);
    }
    CHECK_EQ(job_ring_init(&all->parent, all->memory, SLOTS, WORKERS, all->wakeup_fd), SHM_OK);
    job_ring_use_doorbells(&all->parent, all->doorbells);
    for (uint32_t i = 0; i < WORKERS; i++) {
        join(all, i);
    }
}

static void
end(scene *all)
{
    for (int i = 0; i < WORKERS; i++) {
        job_ring_fini(&all->workers[i]);
        close(all->doorbells[i]);
    }
    job_ring_fini(&all->parent);
    CHECK(munmap(all->memory, all->bytes) == 0);
    close(all->wakeup_fd);
}

// Whether the doorbell has rung since this was last asked.
static bool
has_rung(scene *all, uint32_t worker)
{
    uint64_t count;
    return read(all->doorbells[worker], &count, sizeof(count)) == sizeof(count);
}

static job_slot *
push(scene *all)
{
    job_slot *slot = job_ring_alloc(&all->parent);
    CHECK(slot != NULL);
    job_ring_push(&all->parent, slot);
    return slot;
}

static job_slot *
claim(scene *all, uint32_t worker)
{
    return job_ring_claim(&all->workers[worker], worker);
}

static int
listen_as(scene *all, uint32_t worker, bool is_idle)
{
    return job_ring_listen(&all->workers[worker], worker, is_idle);
}

static void
collect(scene *all, uint32_t worker, job_slot *expected)
{
    bool corrupt = false;
    CHECK(job_ring_pop_completion(&all->parent, worker, &corrupt) == expected);
    CHECK(!corrupt);
    job_ring_free(&all->parent, expected);
}

static job_slot *
read_inbox(scene *all, uint32_t worker, bool handed)
{
    bool is_handed = !handed;
    job_slot *slot = job_ring_read_inbox(&all->workers[worker], worker, &is_handed);
    if (slot != NULL) {
        CHECK_EQ(is_handed, handed);
    }
    return slot;
}

static void
one_idle_worker_is_rung_and_no_other(void)
{
    scene all;
    begin(&all);
    CHECK_EQ(listen_as(&all, 0, false), JOB_RING_LISTENS);
    CHECK_EQ(listen_as(&all, 1, true), JOB_RING_LISTENS);
    CHECK_EQ(listen_as(&all, 2, true), JOB_RING_LISTENS);
    push(&all);
    CHECK(!has_rung(&all, 0) && has_rung(&all, 1) && !has_rung(&all, 2));
    push(&all);  // the worker that has been called will see to the others
    CHECK(!has_rung(&all, 0) && !has_rung(&all, 1) && !has_rung(&all, 2));
    CHECK(claim(&all, 1) != NULL);
    CHECK(!has_rung(&all, 0) && !has_rung(&all, 1));
    end(&all);
}

static void
if_no_worker_is_idle_all_that_have_room_are_rung(void)
{
    scene all;
    begin(&all);
    CHECK_EQ(listen_as(&all, 0, false), JOB_RING_LISTENS);
    CHECK_EQ(listen_as(&all, 1, false), JOB_RING_LISTENS);
    push(&all);
    CHECK(has_rung(&all, 0) && has_rung(&all, 1) && !has_rung(&all, 2));
    push(&all);  // neither has looked yet
    CHECK(!has_rung(&all, 0) && !has_rung(&all, 1) && !has_rung(&all, 2));
    CHECK_EQ(listen_as(&all, 0, false), JOB_RING_WORK);
    end(&all);
}

static void
a_worker_that_takes_a_slot_and_leaves_others_calls_another(void)
{
    scene all;
    begin(&all);
    CHECK_EQ(listen_as(&all, 0, true), JOB_RING_LISTENS);
    CHECK_EQ(listen_as(&all, 1, true), JOB_RING_LISTENS);
    push(&all);
    push(&all);
    CHECK_EQ(job_ring_ready_count(&all.workers[0]), 2);
    job_ring_enter(&all.workers[0], 0);
    CHECK(claim(&all, 0) != NULL);
    CHECK(has_rung(&all, 1));
    CHECK(claim(&all, 1) != NULL);
    CHECK_EQ(job_ring_ready_count(&all.workers[0]), 0);
    end(&all);
}

static void
close_rings_every_doorbell(void)
{
    scene all;
    begin(&all);
    CHECK_EQ(listen_as(&all, 0, true), JOB_RING_LISTENS);
    CHECK_EQ(listen_as(&all, 1, false), JOB_RING_LISTENS);
    job_slot *slot = push(&all);
    has_rung(&all, 0);
    job_ring_close(&all.parent);
    CHECK(has_rung(&all, 0) && has_rung(&all, 1) && has_rung(&all, 2));
    CHECK_EQ(listen_as(&all, 1, true), JOB_RING_WORK);
    CHECK(claim(&all, 1) == slot);
    CHECK_EQ(listen_as(&all, 1, true), JOB_RING_CLOSED);
    end(&all);
}

static void
a_request_to_cancel_reaches_the_worker_that_has_the_slot(void)
{
    scene all;
    begin(&all);
    job_slot *slot = push(&all);
    CHECK(claim(&all, 2) == slot);
    has_rung(&all, 2);
    job_ring_request_cancel(&all.parent, slot);
    CHECK(!has_rung(&all, 0) && !has_rung(&all, 1) && has_rung(&all, 2));
    CHECK_EQ(listen_as(&all, 2, false), JOB_RING_WORK);
    CHECK(read_inbox(&all, 2, false) == slot);
    CHECK(read_inbox(&all, 2, false) == NULL);
    CHECK_EQ(listen_as(&all, 2, false), JOB_RING_LISTENS);
    job_ring_complete(&all.workers[2], 2, slot);
    collect(&all, 2, slot);
    // A slot that is free, or was never taken, has no worker to cancel it.
    job_ring_request_cancel(&all.parent, slot);
    job_ring_request_cancel(&all.parent, push(&all));
    for (uint32_t i = 0; i < WORKERS; i++) {
        CHECK(read_inbox(&all, i, false) == NULL);
    }
    end(&all);
}

static void
a_slot_may_be_pushed_to_one_worker(void)
{
    scene all;
    begin(&all);
    CHECK_EQ(listen_as(&all, 0, true), JOB_RING_LISTENS);
    job_slot *slot = job_ring_alloc(&all.parent);
    job_ring_push_to(&all.parent, slot, 1);
    CHECK(!has_rung(&all, 0) && has_rung(&all, 1));
    CHECK(job_ring_is_taken(slot));
    CHECK(!job_ring_withdraw(&all.parent, slot));
    CHECK(claim(&all, 0) == NULL);
    job_ring_request_cancel(&all.parent, slot);
    CHECK(read_inbox(&all, 1, true) == slot);
    CHECK(read_inbox(&all, 1, false) == slot);
    job_ring_complete(&all.workers[1], 1, slot);
    collect(&all, 1, slot);
    end(&all);
}

static void
an_inbox_has_room_for_all_there_can_be(void)
{
    scene all;
    begin(&all);
    job_slot *slots[SLOTS];
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < SLOTS; i++) {
            slots[i] = job_ring_alloc(&all.parent);
            job_ring_push_to(&all.parent, slots[i], 0);
        }
        for (int i = 0; i < SLOTS; i++) {
            job_ring_request_cancel(&all.parent, slots[i]);
        }
        for (int i = 0; i < SLOTS; i++) {
            CHECK(read_inbox(&all, 0, true) == slots[i]);
        }
        for (int i = 0; i < SLOTS; i++) {
            CHECK(read_inbox(&all, 0, false) == slots[i]);
            job_ring_complete(&all.workers[0], 0, slots[i]);
            collect(&all, 0, slots[i]);
        }
    }
    end(&all);
}

static void
a_dead_worker_leaves_all_its_slots(void)
{
    scene all;
    begin(&all);
    job_slot *taken = push(&all);
    CHECK(claim(&all, 1) == taken);
    job_slot *handed = job_ring_alloc(&all.parent);
    job_ring_push_to(&all.parent, handed, 1);
    job_ring_request_cancel(&all.parent, taken);
    CHECK_EQ(job_ring_generation(&all.parent, 1), 0);
    job_slot *first = job_ring_reap(&all.parent, 1);
    job_ring_free(&all.parent, first);
    job_slot *second = job_ring_reap(&all.parent, 1);
    job_ring_free(&all.parent, second);
    CHECK((first == taken && second == handed) || (first == handed && second == taken));
    CHECK_EQ(job_ring_generation(&all.parent, 1), 0);
    CHECK(job_ring_reap(&all.parent, 1) == NULL);
    CHECK_EQ(job_ring_generation(&all.parent, 1), 1);
    // Its successor finds an empty inbox.
    join(&all, 1);
    CHECK_EQ(job_ring_generation(&all.workers[1], 1), 1);
    CHECK(read_inbox(&all, 1, true) == NULL);
    CHECK_EQ(listen_as(&all, 1, true), JOB_RING_LISTENS);
    push(&all);
    CHECK(has_rung(&all, 1));
    end(&all);
}

static void
a_called_worker_that_died_is_replaced_by_another(void)
{
    scene all;
    begin(&all);
    CHECK_EQ(listen_as(&all, 0, true), JOB_RING_LISTENS);
    CHECK_EQ(listen_as(&all, 1, false), JOB_RING_LISTENS);
    push(&all);
    CHECK(has_rung(&all, 0) && !has_rung(&all, 1));
    CHECK(job_ring_reap(&all.parent, 0) == NULL);
    job_ring_notify(&all.parent);
    CHECK(has_rung(&all, 1));
    end(&all);
}

int
main(int argc, char **argv)
{
    static const check_test tests[] = {
        CHECK_TEST(one_idle_worker_is_rung_and_no_other),
        CHECK_TEST(if_no_worker_is_idle_all_that_have_room_are_rung),
        CHECK_TEST(a_worker_that_takes_a_slot_and_leaves_others_calls_another),
        CHECK_TEST(close_rings_every_doorbell),
        CHECK_TEST(a_request_to_cancel_reaches_the_worker_that_has_the_slot),
        CHECK_TEST(a_slot_may_be_pushed_to_one_worker),
        CHECK_TEST(an_inbox_has_room_for_all_there_can_be),
        CHECK_TEST(a_dead_worker_leaves_all_its_slots),
        CHECK_TEST(a_called_worker_that_died_is_replaced_by_another),
    };
    return check_run(tests, CHECK_COUNT(tests), argc, argv);
}
