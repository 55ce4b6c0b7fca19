// Tests of core/shared_watch.
#define _GNU_SOURCE
#include "core/shared_heap_cells.h"
#include "core/shared_heap_open.h"
#include "core/shared_watch.h"

#include <poll.h>

#include "check_steps.h"
#include "core/clock.h"
#include "core/futex.h"

#define LONG_NS INT64_C(600000000000)

typedef struct scene {
    shared_heap *heap;
    uint32_t index;
    shared_cell *cell;
    _Atomic uint32_t passed;
} scene;

static void
scene_init(scene *s)
{
    static shared_heap *heap;
    if (heap == NULL) {
        heap = shared_heap_open(-1);
        CHECK(heap != NULL);
    }
    s->heap = heap;
    CHECK_EQ(shared_heap_make(s->heap, &s->index), 0);
    s->cell = shared_heap_cell(s->heap, s->index);
    s->passed = 0;
}

// Once the watches have let go of the cell as well.
static void
scene_fini(scene *s)
{
    shared_heap_drop(s->heap, s->index);
    CHECK_UNTIL(shared_heap_used(s->heap) == 0);
}

static void
hear(shared_watch *watch)
{
    struct pollfd poll_fd = {.fd = shared_watch_fd(watch), .events = POLLIN};
    CHECK_EQ(poll(&poll_fd, 1, -1), 1);
    shared_watch_clear(watch);
}

static void
a_watch_rings_once_in_its_turn(void)
{
    scene s;
    scene_init(&s);
    shared_watch *watch = shared_watch_open(s.heap, s.index, SHARED_WATCH_LOCK, 0);
    CHECK(watch != NULL);
    for (int i = 0; i < 100; i++) {
        hear(watch);
        CHECK_EQ(robust_lock_acquire(&s.cell->lock, ROBUST_LOCK_NO_WAIT), ROBUST_LOCK_OK);
        shared_watch_look(watch, 0);
        struct pollfd poll_fd = {.fd = shared_watch_fd(watch), .events = POLLIN};
        CHECK_EQ(poll(&poll_fd, 1, 0), 0);
        CHECK_EQ(robust_lock_release(&s.cell->lock), ROBUST_LOCK_OK);
    }
    shared_watch_close(watch);
    scene_fini(&s);
}

static void
a_watch_that_sleeps_is_closed(void)
{
    static const shared_watched kinds[] = {SHARED_WATCH_LOCK, SHARED_WATCH_SEMAPHORE, SHARED_WATCH_EVENT,
                                           SHARED_WATCH_CONDITION};
    for (size_t i = 0; i < CHECK_COUNT(kinds); i++) {
        for (int round = 0; round < 50; round++) {
            scene s;
            scene_init(&s);
            CHECK_EQ(robust_lock_acquire(&s.cell->lock, ROBUST_LOCK_NO_WAIT), ROBUST_LOCK_OK);
            shared_watch *watches[3];
            for (size_t j = 0; j < CHECK_COUNT(watches); j++) {
                watches[j] = shared_watch_open(s.heap, s.index, kinds[i], 0);
                CHECK(watches[j] != NULL);
            }
            for (size_t j = 0; j < CHECK_COUNT(watches); j++) {
                shared_watch_close(watches[j]);
            }
            CHECK_EQ(robust_lock_release(&s.cell->lock), ROBUST_LOCK_OK);
            scene_fini(&s);
        }
    }
}

static void
take_lock(void *arg)
{
    scene *s = arg;
    if (robust_lock_acquire(&s->cell->lock, clock_now_ns() + LONG_NS) == ROBUST_LOCK_OK) {
        robust_lock_release(&s->cell->lock);
        atomic_fetch_add(&s->passed, 1);
    }
}

static void
take_permit(void *arg)
{
    scene *s = arg;
    if (shared_semaphore_acquire(s->cell, clock_now_ns() + LONG_NS) == FUTEX_OK) {
        atomic_fetch_add(&s->passed, 1);
    }
}

// The owner never comes, and others wait behind the watch.
static void
an_owner_that_does_not_come_loses_its_turn(void)
{
    for (int is_lock = 0; is_lock < 2; is_lock++) {
        scene s;
        check_thread waiters[2];
        scene_init(&s);
        CHECK(!is_lock || robust_lock_acquire(&s.cell->lock, ROBUST_LOCK_NO_WAIT) == ROBUST_LOCK_OK);
        shared_watch *watch = shared_watch_open(s.heap, s.index,
                                                is_lock ? SHARED_WATCH_LOCK : SHARED_WATCH_SEMAPHORE, 0);
        for (int i = 0; i < 2; i++) {
            check_start(&waiters[i], is_lock ? take_lock : take_permit, &s);
        }
        if (is_lock) {
            CHECK_EQ(robust_lock_release(&s.cell->lock), ROBUST_LOCK_OK);
        }
        else {
            CHECK_EQ(shared_semaphore_release(s.cell, 2), FUTEX_OK);
        }
        CHECK_UNTIL(atomic_load(&s.passed) == 2);
        for (int i = 0; i < 2; i++) {
            check_join(&waiters[i]);
        }
        shared_watch_close(watch);
        scene_fini(&s);
    }
}

// It is closed when it has just been woken: the next one is.
static void
a_watch_that_is_closed_passes_on(void)
{
    for (int round = 0; round < 200; round++) {
        scene s;
        check_thread waiter;
        scene_init(&s);
        CHECK_EQ(robust_lock_acquire(&s.cell->lock, ROBUST_LOCK_NO_WAIT), ROBUST_LOCK_OK);
        shared_watch *watch = shared_watch_open(s.heap, s.index, SHARED_WATCH_LOCK, 0);
        check_start(&waiter, take_lock, &s);
        CHECK_EQ(robust_lock_release(&s.cell->lock), ROBUST_LOCK_OK);
        shared_watch_close(watch);
        check_join(&waiter);
        CHECK_EQ(atomic_load(&s.passed), 1);
        scene_fini(&s);
    }
}

static void
a_watch_sees_what_was_set_and_cleared_since(void)
{
    scene s;
    scene_init(&s);
    uint32_t times = shared_event_times(s.cell);
    CHECK_EQ(shared_event_set(s.cell), FUTEX_OK);
    shared_event_clear(s.cell);
    shared_watch *watch = shared_watch_open(s.heap, s.index, SHARED_WATCH_EVENT, times);
    hear(watch);
    shared_watch_look(watch, shared_event_times(s.cell));
    CHECK_EQ(shared_event_set(s.cell), FUTEX_OK);
    hear(watch);
    shared_watch_close(watch);
    scene_fini(&s);
}

static void
a_watch_sees_another_turn(void)
{
    scene s;
    scene_init(&s);
    shared_ticket ticket = shared_condition_enter(s.cell);
    shared_watch *watch = shared_watch_open(s.heap, s.index, SHARED_WATCH_CONDITION, ticket.turn);
    CHECK(!shared_condition_look(s.cell, &ticket));
    shared_condition_notify(s.cell, 1);
    hear(watch);
    CHECK(shared_condition_look(s.cell, &ticket));
    CHECK(shared_condition_take(s.cell, ticket));
    shared_watch_close(watch);
    scene_fini(&s);
}

static const check_test tests[] = {
    CHECK_TEST(a_watch_rings_once_in_its_turn),
    CHECK_TEST(a_watch_that_sleeps_is_closed),
    CHECK_TEST(an_owner_that_does_not_come_loses_its_turn),
    CHECK_TEST(a_watch_that_is_closed_passes_on),
    CHECK_TEST(a_watch_sees_what_was_set_and_cleared_since),
    CHECK_TEST(a_watch_sees_another_turn),
};

int
main(int argc, char **argv)
{
    return check_run(tests, CHECK_COUNT(tests), argc, argv);
}
