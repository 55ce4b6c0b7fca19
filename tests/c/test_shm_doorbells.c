// Workers that run event loops: who is rung when, and what comes by the inbox.
#define _GNU_SOURCE
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "core/shm_board.h"

enum {
    RECORDS = 4,
    WORKERS = 3
};

// One board, the parent's view, and each worker's.
typedef struct scene {
    void *memory;
    uint64_t bytes;
    int wakeup_fd;
    int doorbells[WORKERS];
    shm_board parent;
    shm_board workers[WORKERS];
} scene;

static void
join(scene *all, uint32_t worker)
{
    shm_board *board = &all->workers[worker];
    CHECK_EQ(shm_board_join(board, all->memory, all->bytes, all->wakeup_fd), SHM_OK);
    shm_board_use_doorbells(board, all->doorbells);
    shm_board_enter(board, worker);
}

static void
begin(scene *all)
{
    all->bytes = shm_board_size(RECORDS, WORKERS);
    all->memory = mmap(NULL, all->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(all->memory != MAP_FAILED);
    all->wakeup_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    CHECK(all->wakeup_fd >= 0);
    for (int i = 0; i < WORKERS; i++) {
        all->doorbells[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        CHECK(all->doorbells[i] >= 0);
    }
    CHECK_EQ(shm_board_make(&all->parent, all->memory, RECORDS, WORKERS, all->wakeup_fd), SHM_OK);
    shm_board_use_doorbells(&all->parent, all->doorbells);
    for (uint32_t i = 0; i < WORKERS; i++) {
        join(all, i);
    }
}

static void
end(scene *all)
{
    for (int i = 0; i < WORKERS; i++) {
        shm_board_leave(&all->workers[i]);
        close(all->doorbells[i]);
    }
    shm_board_leave(&all->parent);
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

static shm_record *
post(scene *all)
{
    shm_record *record = shm_board_draw(&all->parent);
    CHECK(record != NULL);
    shm_board_post(&all->parent, record);
    return record;
}

static shm_record *
claim(scene *all, uint32_t worker)
{
    return shm_board_claim(&all->workers[worker], worker);
}

static int
listen_as(scene *all, uint32_t worker, bool is_idle)
{
    return shm_board_listen(&all->workers[worker], worker, is_idle);
}

static void
collect(scene *all, uint32_t worker, shm_record *expected)
{
    bool corrupt = false;
    CHECK(shm_board_collect(&all->parent, worker, &corrupt) == expected);
    CHECK(!corrupt);
    shm_board_put_back(&all->parent, expected);
}

static shm_record *
read_inbox(scene *all, uint32_t worker, bool handed)
{
    bool is_handed = !handed;
    shm_record *record = shm_board_read_inbox(&all->workers[worker], worker, &is_handed);
    if (record != NULL) {
        CHECK_EQ(is_handed, handed);
    }
    return record;
}

static void
one_that_is_idle_is_rung_and_no_other(void)
{
    scene all;
    begin(&all);
    CHECK_EQ(listen_as(&all, 0, false), SHM_BOARD_LISTENS);
    CHECK_EQ(listen_as(&all, 1, true), SHM_BOARD_LISTENS);
    CHECK_EQ(listen_as(&all, 2, true), SHM_BOARD_LISTENS);
    post(&all);
    CHECK(!has_rung(&all, 0) && has_rung(&all, 1) && !has_rung(&all, 2));
    post(&all);  // who has been called will see to the others
    CHECK(!has_rung(&all, 0) && !has_rung(&all, 1) && !has_rung(&all, 2));
    CHECK(claim(&all, 1) != NULL);
    CHECK(!has_rung(&all, 0) && !has_rung(&all, 1));
    end(&all);
}

static void
if_none_is_idle_all_that_have_room_are_rung(void)
{
    scene all;
    begin(&all);
    CHECK_EQ(listen_as(&all, 0, false), SHM_BOARD_LISTENS);
    CHECK_EQ(listen_as(&all, 1, false), SHM_BOARD_LISTENS);
    post(&all);
    CHECK(has_rung(&all, 0) && has_rung(&all, 1) && !has_rung(&all, 2));
    post(&all);  // neither has looked yet
    CHECK(!has_rung(&all, 0) && !has_rung(&all, 1) && !has_rung(&all, 2));
    CHECK_EQ(listen_as(&all, 0, false), SHM_BOARD_WORK);
    end(&all);
}

static void
who_takes_and_leaves_others_behind_calls_another(void)
{
    scene all;
    begin(&all);
    CHECK_EQ(listen_as(&all, 0, true), SHM_BOARD_LISTENS);
    CHECK_EQ(listen_as(&all, 1, true), SHM_BOARD_LISTENS);
    post(&all);
    post(&all);
    CHECK_EQ(shm_board_ready_count(&all.workers[0]), 2);
    shm_board_enter(&all.workers[0], 0);
    CHECK(claim(&all, 0) != NULL);
    CHECK(has_rung(&all, 1));
    CHECK(claim(&all, 1) != NULL);
    CHECK_EQ(shm_board_ready_count(&all.workers[0]), 0);
    end(&all);
}

static void
all_are_rung_at_the_end(void)
{
    scene all;
    begin(&all);
    CHECK_EQ(listen_as(&all, 0, true), SHM_BOARD_LISTENS);
    CHECK_EQ(listen_as(&all, 1, false), SHM_BOARD_LISTENS);
    shm_record *record = post(&all);
    has_rung(&all, 0);
    shm_board_close(&all.parent);
    CHECK(has_rung(&all, 0) && has_rung(&all, 1) && has_rung(&all, 2));
    CHECK_EQ(listen_as(&all, 1, true), SHM_BOARD_WORK);
    CHECK(claim(&all, 1) == record);
    CHECK_EQ(listen_as(&all, 1, true), SHM_BOARD_CLOSED);
    end(&all);
}

static void
a_request_to_cancel_reaches_who_has_the_record(void)
{
    scene all;
    begin(&all);
    shm_record *record = post(&all);
    CHECK(claim(&all, 2) == record);
    has_rung(&all, 2);
    shm_board_ask_to_cancel(&all.parent, record);
    CHECK(!has_rung(&all, 0) && !has_rung(&all, 1) && has_rung(&all, 2));
    CHECK_EQ(listen_as(&all, 2, false), SHM_BOARD_WORK);
    CHECK(read_inbox(&all, 2, false) == record);
    CHECK(read_inbox(&all, 2, false) == NULL);
    CHECK_EQ(listen_as(&all, 2, false), SHM_BOARD_LISTENS);
    shm_board_finish(&all.workers[2], 2, record);
    collect(&all, 2, record);
    // What is free, or was never taken, is nobody's to cancel.
    shm_board_ask_to_cancel(&all.parent, record);
    shm_board_ask_to_cancel(&all.parent, post(&all));
    for (uint32_t i = 0; i < WORKERS; i++) {
        CHECK(read_inbox(&all, i, false) == NULL);
    }
    end(&all);
}

static void
a_record_may_be_handed_to_a_worker(void)
{
    scene all;
    begin(&all);
    CHECK_EQ(listen_as(&all, 0, true), SHM_BOARD_LISTENS);
    shm_record *record = shm_board_draw(&all.parent);
    shm_board_hand(&all.parent, record, 1);
    CHECK(!has_rung(&all, 0) && has_rung(&all, 1));
    CHECK(shm_board_is_taken(record));
    CHECK(!shm_board_withdraw(&all.parent, record));
    CHECK(claim(&all, 0) == NULL);
    shm_board_ask_to_cancel(&all.parent, record);
    CHECK(read_inbox(&all, 1, true) == record);
    CHECK(read_inbox(&all, 1, false) == record);
    shm_board_finish(&all.workers[1], 1, record);
    collect(&all, 1, record);
    end(&all);
}

static void
an_inbox_has_room_for_all_there_can_be(void)
{
    scene all;
    begin(&all);
    shm_record *records[RECORDS];
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < RECORDS; i++) {
            records[i] = shm_board_draw(&all.parent);
            shm_board_hand(&all.parent, records[i], 0);
        }
        for (int i = 0; i < RECORDS; i++) {
            shm_board_ask_to_cancel(&all.parent, records[i]);
        }
        for (int i = 0; i < RECORDS; i++) {
            CHECK(read_inbox(&all, 0, true) == records[i]);
        }
        for (int i = 0; i < RECORDS; i++) {
            CHECK(read_inbox(&all, 0, false) == records[i]);
            shm_board_finish(&all.workers[0], 0, records[i]);
            collect(&all, 0, records[i]);
        }
    }
    end(&all);
}

static void
the_dead_leave_all_that_they_had(void)
{
    scene all;
    begin(&all);
    shm_record *taken = post(&all);
    CHECK(claim(&all, 1) == taken);
    shm_record *handed = shm_board_draw(&all.parent);
    shm_board_hand(&all.parent, handed, 1);
    shm_board_ask_to_cancel(&all.parent, taken);
    CHECK_EQ(shm_board_generation(&all.parent, 1), 0);
    shm_record *first = shm_board_bury(&all.parent, 1);
    shm_board_put_back(&all.parent, first);
    shm_record *second = shm_board_bury(&all.parent, 1);
    shm_board_put_back(&all.parent, second);
    CHECK((first == taken && second == handed) || (first == handed && second == taken));
    CHECK_EQ(shm_board_generation(&all.parent, 1), 0);
    CHECK(shm_board_bury(&all.parent, 1) == NULL);
    CHECK_EQ(shm_board_generation(&all.parent, 1), 1);
    // Its successor finds an empty inbox.
    join(&all, 1);
    CHECK_EQ(shm_board_generation(&all.workers[1], 1), 1);
    CHECK(read_inbox(&all, 1, true) == NULL);
    CHECK_EQ(listen_as(&all, 1, true), SHM_BOARD_LISTENS);
    post(&all);
    CHECK(has_rung(&all, 1));
    end(&all);
}

static void
who_was_called_and_died_is_replaced_by_another(void)
{
    scene all;
    begin(&all);
    CHECK_EQ(listen_as(&all, 0, true), SHM_BOARD_LISTENS);
    CHECK_EQ(listen_as(&all, 1, false), SHM_BOARD_LISTENS);
    post(&all);
    CHECK(has_rung(&all, 0) && !has_rung(&all, 1));
    CHECK(shm_board_bury(&all.parent, 0) == NULL);
    shm_board_call(&all.parent);
    CHECK(has_rung(&all, 1));
    end(&all);
}

int
main(int argc, char **argv)
{
    static const check_test tests[] = {
        CHECK_TEST(one_that_is_idle_is_rung_and_no_other),
        CHECK_TEST(if_none_is_idle_all_that_have_room_are_rung),
        CHECK_TEST(who_takes_and_leaves_others_behind_calls_another),
        CHECK_TEST(all_are_rung_at_the_end),
        CHECK_TEST(a_request_to_cancel_reaches_who_has_the_record),
        CHECK_TEST(a_record_may_be_handed_to_a_worker),
        CHECK_TEST(an_inbox_has_room_for_all_there_can_be),
        CHECK_TEST(the_dead_leave_all_that_they_had),
        CHECK_TEST(who_was_called_and_died_is_replaced_by_another),
    };
    return check_run(tests, CHECK_COUNT(tests), argc, argv);
}
