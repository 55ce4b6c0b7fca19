// Tests of core/shared_sync.
#define _GNU_SOURCE
#include "core/shared_sync.h"

#include "check_steps.h"
#include "core/clock.h"
#include "core/futex.h"

#define LONG_NS INT64_C(600000000000)

typedef struct scene {
    shared_cell *cell;
    check_thread waiter;
    _Atomic uint32_t passed;
    bool is_waiting;  // that thread
} scene;

static shared_cell *
cell_new(void)
{
    return check_shared_memory(sizeof(shared_cell));
}

static void
cell_free(shared_cell *cell)
{
    munmap(cell, sizeof(*cell));
}

static int64_t
later(void)
{
    return clock_now_ns() + LONG_NS;
}

// ---- semaphore ----

static void
a_semaphore_counts(void)
{
    shared_cell *cell = cell_new();
    shared_semaphore_init(cell, 2, 0);
    CHECK_EQ(shared_semaphore_acquire(cell, later()), FUTEX_OK);
    CHECK_EQ(shared_semaphore_acquire(cell, later()), FUTEX_OK);
    CHECK_EQ(shared_semaphore_acquire(cell, ROBUST_LOCK_NO_WAIT), FUTEX_TIMED_OUT);
    CHECK_EQ(shared_semaphore_acquire(cell, clock_now_ns() + 1000), FUTEX_TIMED_OUT);
    CHECK_EQ(shared_semaphore_release(cell, 3), FUTEX_OK);
    CHECK_EQ(shared_semaphore_permits(cell), 3);
    CHECK_EQ(shared_semaphore_release(cell, SHARED_PERMITS_MAX), SHARED_SYNC_TOO_MANY);
    shared_semaphore_init(cell, 1, 2);
    CHECK_EQ(shared_semaphore_release(cell, 1), SHARED_SYNC_TOO_MANY);
    CHECK_EQ(shared_semaphore_permits(cell), 1);
    cell_free(cell);
}

static void
take_permit(void *arg)
{
    scene *s = arg;
    if (shared_semaphore_acquire(s->cell, later()) != FUTEX_OK) {
        _exit(1);
    }
    atomic_fetch_add(&s->passed, 1);
}

static void
each_permit_lets_one_pass(void)
{
    scene s = {.cell = cell_new()};
    check_thread threads[4];
    for (size_t i = 0; i < CHECK_COUNT(threads); i++) {
        check_start(&threads[i], take_permit, &s);
    }
    for (uint32_t i = 1; i <= CHECK_COUNT(threads); i++) {
        CHECK_EQ(shared_semaphore_release(s.cell, 1), FUTEX_OK);
        CHECK_UNTIL(atomic_load(&s.passed) == i);
    }
    for (size_t i = 0; i < CHECK_COUNT(threads); i++) {
        check_join(&threads[i]);
    }
    CHECK_EQ(shared_semaphore_permits(s.cell), 0);
    cell_free(s.cell);
}

static void
pass_permits_on(void *arg)
{
    scene *s = arg;
    for (int i = 0; i < 5000; i++) {
        take_permit(s);
        CHECK_EQ(shared_semaphore_release(s->cell, 1), FUTEX_OK);
    }
}

static void
no_permit_is_lost(void)
{
    scene s = {.cell = cell_new()};
    check_thread threads[4];
    shared_semaphore_init(s.cell, 2, 3);
    for (size_t i = 0; i < CHECK_COUNT(threads); i++) {
        check_start(&threads[i], pass_permits_on, &s);
    }
    for (size_t i = 0; i < CHECK_COUNT(threads); i++) {
        check_join(&threads[i]);
    }
    CHECK_EQ(shared_semaphore_permits(s.cell), 2);
    cell_free(s.cell);
}

// A thread sleeps for a permit; the child gives one, or dies in that.
static void
start_sleeper(void *arg)
{
    scene *s = arg;
    shared_semaphore_init(s->cell, 0, 0);
    check_start(&s->waiter, take_permit, s);
    CHECK_UNTIL(check_asleep(&s->waiter, &s->cell->words[1]));
}

static void
give_permit(void *arg)
{
    if (shared_semaphore_release(((scene *)arg)->cell, 1) != FUTEX_OK) {
        _exit(1);
    }
}

static void
join_sleeper(void *arg)
{
    scene *s = arg;
    _Atomic uint32_t *bell = &s->cell->words[1];
    // Either it gave one, and then the sleeper has it or will; or it did not.
    CHECK_UNTIL(atomic_load(&s->waiter.done)
                || (check_asleep(&s->waiter, bell) && shared_semaphore_permits(s->cell) == 0));
    if (!atomic_load(&s->waiter.done)) {
        CHECK_EQ(shared_semaphore_release(s->cell, 1), FUTEX_OK);
    }
    check_join(&s->waiter);
    CHECK(!robust_lock_is_taken(&s->cell->lock));
}

static void
who_dies_in_giving_a_permit_is_made_up_for(void)
{
    scene s = {.cell = cell_new()};
    check_child child = {.run = give_permit, .arg = &s};
    check_die_everywhere(&child, start_sleeper, join_sleeper);
    cell_free(s.cell);
}

// The child waits for a permit, and so does a thread after it; two are given, and the child dies.
static void
no_permits(void *arg)
{
    scene *s = arg;
    s->is_waiting = false;
    shared_semaphore_init(s->cell, 0, 0);
}

static void
start_second_and_give(void *arg)
{
    scene *s = arg;
    check_start(&s->waiter, take_permit, s);
    s->is_waiting = true;
    CHECK_UNTIL(check_asleep(&s->waiter, &s->cell->lock.word));
    CHECK_EQ(shared_semaphore_release(s->cell, 2), FUTEX_OK);
}

static void
join_second(void *arg)
{
    scene *s = arg;
    if (s->is_waiting) {
        check_join(&s->waiter);
        CHECK(shared_semaphore_permits(s->cell) <= 1);  // the child may have died with one
    }
    CHECK(!robust_lock_is_taken(&s->cell->lock));
    CHECK_EQ(shared_semaphore_release(s->cell, 1), FUTEX_OK);
    CHECK_EQ(shared_semaphore_acquire(s->cell, later()), FUTEX_OK);
}

static void
who_dies_in_waiting_for_a_permit_keeps_nobody(void)
{
    scene s = {.cell = cell_new()};
    check_child child = {.run = take_permit, .arg = &s, .when_asleep = start_second_and_give};
    check_die_everywhere(&child, no_permits, join_second);
    cell_free(s.cell);
}

// ---- event ----

static void
wait_for_event(void *arg)
{
    scene *s = arg;
    if (shared_event_wait(s->cell, shared_event_times(s->cell), later()) != FUTEX_OK) {
        _exit(1);
    }
    atomic_fetch_add(&s->passed, 1);
}

static void
an_event_lets_all_pass(void)
{
    scene s = {.cell = cell_new()};
    check_thread threads[3];
    CHECK(!shared_event_is_set(s.cell));
    CHECK_EQ(shared_event_wait(s.cell, shared_event_times(s.cell), ROBUST_LOCK_NO_WAIT), FUTEX_TIMED_OUT);
    CHECK_EQ(shared_event_wait(s.cell, shared_event_times(s.cell), clock_now_ns() + 1000), FUTEX_TIMED_OUT);
    for (size_t i = 0; i < CHECK_COUNT(threads); i++) {
        check_start(&threads[i], wait_for_event, &s);
        CHECK_UNTIL(check_asleep(&threads[i], &s.cell->words[0]));
    }
    CHECK_EQ(shared_event_set(s.cell), FUTEX_OK);
    shared_event_clear(s.cell);  // who slept while it was set has seen it
    for (size_t i = 0; i < CHECK_COUNT(threads); i++) {
        check_join(&threads[i]);
    }
    CHECK(!shared_event_is_set(s.cell));
    cell_free(s.cell);
}

static void
start_two(void *arg)
{
    scene *s = arg;
    shared_event_clear(s->cell);
    check_start(&s->waiter, wait_for_event, s);
    CHECK_UNTIL(check_asleep(&s->waiter, &s->cell->words[0]));
}

static void
set_event(void *arg)
{
    if (shared_event_set(((scene *)arg)->cell) != FUTEX_OK) {
        _exit(1);
    }
}

static void
join_two(void *arg)
{
    scene *s = arg;
    if (!shared_event_is_set(s->cell)) {
        CHECK_EQ(shared_event_set(s->cell), FUTEX_OK);  // it died before
    }
    check_join(&s->waiter);
}

static void
who_dies_in_setting_an_event_is_made_up_for(void)
{
    scene s = {.cell = cell_new()};
    check_child child = {.run = set_event, .arg = &s};
    check_die_everywhere(&child, start_two, join_two);
    cell_free(s.cell);
}

static void
clear_event(void *arg)
{
    scene *s = arg;
    s->is_waiting = false;
    shared_event_clear(s->cell);
}

// Whoever sets it wakes one, the child, and dies: which is what the kernel does then.
static void
start_second_and_set(void *arg)
{
    scene *s = arg;
    check_start(&s->waiter, wait_for_event, s);
    s->is_waiting = true;
    CHECK_UNTIL(check_asleep(&s->waiter, &s->cell->words[0]));
    atomic_store(&s->cell->words[0], 0x40000000u);
    futex_wake_shared(&s->cell->words[0], 1);
}

static void
join_if_waiting(void *arg)
{
    scene *s = arg;
    if (s->is_waiting) {
        check_join(&s->waiter);
    }
}

static void
who_is_woken_by_an_event_and_dies_wakes_the_next(void)
{
    scene s = {.cell = cell_new()};
    check_child child = {.run = wait_for_event, .arg = &s, .when_asleep = start_second_and_set};
    check_die_everywhere(&child, clear_event, join_if_waiting);
    cell_free(s.cell);
}

// ---- condition ----

static void
a_grant_is_for_who_waited_before(void)
{
    shared_cell *cell = cell_new();
    shared_condition_notify(cell, 5);  // nobody waits
    shared_ticket first = shared_condition_enter(cell);
    shared_ticket second = shared_condition_enter(cell);
    CHECK(!shared_condition_take(cell, first));
    CHECK_EQ(shared_condition_sleep(cell, &first, clock_now_ns() + 1000), FUTEX_TIMED_OUT);
    shared_condition_notify(cell, 1);
    shared_ticket third = shared_condition_enter(cell);
    CHECK(!shared_condition_take(cell, third));
    CHECK_EQ(shared_condition_sleep(cell, &second, later()), FUTEX_OK);
    CHECK(shared_condition_take(cell, second));
    CHECK(!shared_condition_take(cell, first));
    shared_condition_notify(cell, 5);
    CHECK(shared_condition_take(cell, third));
    CHECK(shared_condition_take(cell, first));
    CHECK(!shared_condition_take(cell, shared_condition_enter(cell)));
    cell_free(cell);
}

static void
who_leaves_takes_no_grant_along(void)
{
    shared_cell *cell = cell_new();
    (void)shared_condition_enter(cell);
    shared_ticket second = shared_condition_enter(cell);
    shared_condition_notify(cell, 1);
    shared_condition_leave(cell);  // the first
    CHECK(shared_condition_take(cell, second));
    (void)shared_condition_enter(cell);
    shared_condition_notify(cell, 1);
    shared_condition_leave(cell);
    CHECK(!shared_condition_take(cell, shared_condition_enter(cell)));
    cell_free(cell);
}

static void
wait_for_turn(void *arg)
{
    scene *s = arg;
    CHECK(robust_lock_acquire(&s->cell->lock, later()) >= 0);
    shared_ticket ticket = shared_condition_enter(s->cell);
    do {
        CHECK_EQ(robust_lock_release(&s->cell->lock), ROBUST_LOCK_OK);
        CHECK_EQ(shared_condition_sleep(s->cell, &ticket, later()), FUTEX_OK);
        CHECK(robust_lock_acquire(&s->cell->lock, later()) >= 0);
    } while (!shared_condition_take(s->cell, ticket));
    atomic_fetch_add(&s->passed, 1);
    CHECK_EQ(robust_lock_release(&s->cell->lock), ROBUST_LOCK_OK);
}

static void
notifications_let_as_many_pass(void)
{
    scene s = {.cell = cell_new()};
    check_thread threads[4];
    for (uint32_t i = 0; i < CHECK_COUNT(threads); i++) {
        check_start(&threads[i], wait_for_turn, &s);
        CHECK_UNTIL(check_asleep(&threads[i], &s.cell->words[0]));
    }
    for (uint32_t passed = 1; passed < 5; passed += passed == 1 ? 2 : 1) {
        CHECK(robust_lock_acquire(&s.cell->lock, later()) >= 0);
        shared_condition_notify(s.cell, passed == 1 ? 1 : passed == 3 ? 2
                                                                      : 100);
        CHECK_EQ(robust_lock_release(&s.cell->lock), ROBUST_LOCK_OK);
        CHECK_UNTIL(atomic_load(&s.passed) == passed);
    }
    for (size_t i = 0; i < CHECK_COUNT(threads); i++) {
        check_join(&threads[i]);
    }
    cell_free(s.cell);
}

static const check_test tests[] = {
    CHECK_TEST(a_semaphore_counts),
    CHECK_TEST(each_permit_lets_one_pass),
    CHECK_TEST(no_permit_is_lost),
    CHECK_TEST(who_dies_in_giving_a_permit_is_made_up_for),
    CHECK_TEST(who_dies_in_waiting_for_a_permit_keeps_nobody),
    CHECK_TEST(an_event_lets_all_pass),
    CHECK_TEST(who_dies_in_setting_an_event_is_made_up_for),
    CHECK_TEST(who_is_woken_by_an_event_and_dies_wakes_the_next),
    CHECK_TEST(a_grant_is_for_who_waited_before),
    CHECK_TEST(who_leaves_takes_no_grant_along),
    CHECK_TEST(notifications_let_as_many_pass),
};

int
main(int argc, char **argv)
{
    return check_run(tests, CHECK_COUNT(tests), argc, argv);
}
