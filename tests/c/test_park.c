// Tests of core/park: which threads spin and for how long, and waits that end in every way.
//
// Whether a spin looked at all is told apart without a clock: on a word that has changed already,
// a spin that is allowed returns true, and one that is not returns false.
#define _GNU_SOURCE
#include "check.h"

#include "core/clock.h"
#include "core/park.h"

#define SPINS_FOR_EVER UINT32_MAX  // 4 seconds, which no test lets it finish

static uint32_t
spin_ns(park_spot *spot)
{
    return atomic_load(&spot->spin_ns);
}

// A spot that spins for so long; on one CPU none does, and the tests that need one do not run.
static void
init_spot(park_spot *spot, uint32_t spin)
{
    park_spot_init(spot, 1);
    atomic_store(&spot->spin_ns, spin);
}

static bool
may_spin(park_spot *spot)
{
    _Atomic uint32_t changed = 1;
    return park_spin(spot, &changed, 0, FUTEX_NO_DEADLINE);
}

// As callers do it.
static int
wait_here(park_spot *spot, _Atomic uint32_t *word)
{
    if (park_spin(spot, word, 0, FUTEX_NO_DEADLINE)) {
        return FUTEX_OK;
    }
    return park_sleep(spot, word, 0, FUTEX_NO_DEADLINE);
}

typedef struct waiter {
    check_thread thread;
    park_spot *spot;
    _Atomic uint32_t *word;
    int rc;
    uint32_t seen;
} waiter;

static void
wait_once(void *arg)
{
    waiter *self = arg;
    self->rc = wait_here(self->spot, self->word);
    self->seen = atomic_load(self->word);
}

static void
start_waiter(waiter *self, park_spot *spot, _Atomic uint32_t *word)
{
    self->spot = spot;
    self->word = word;
    check_start(&self->thread, wait_once, self);
}

// Whether spins make sense on this machine.
static bool
has_cpus(void)
{
    cpu_set_t cpus;
    CHECK(sched_getaffinity(0, sizeof(cpus), &cpus) == 0);
    return CPU_COUNT(&cpus) > 1;
}

static void
a_fresh_spot_spins_fully(void)
{
    park_spot spot;
    park_spot_init(&spot, 1);
    CHECK_EQ(spin_ns(&spot), PARK_SPIN_MAX_NS);
    CHECK_EQ(park_may_spin(&spot), has_cpus());
    CHECK_EQ(may_spin(&spot), has_cpus());
    CHECK_EQ(atomic_load(&spot.spinning), 0);
}

static void
fewer_spin_than_there_are_cpus(void)
{
    cpu_set_t cpus;
    park_spot spot;
    CHECK(sched_getaffinity(0, sizeof(cpus), &cpus) == 0);
    uint32_t spare = (uint32_t)CPU_COUNT(&cpus) - 1;
    park_spot_init(&spot, 1000000);
    atomic_store(&spot.spinning, spare);
    CHECK(!may_spin(&spot));
    if (spare > 0) {
        atomic_store(&spot.spinning, spare - 1);
        CHECK(may_spin(&spot));
    }
    park_spot_init(&spot, 0);
    CHECK(!may_spin(&spot));
}

static cpu_set_t
confine_to_one_cpu(void)
{
    cpu_set_t all;
    cpu_set_t one;
    CHECK(sched_getaffinity(0, sizeof(all), &all) == 0);
    CPU_ZERO(&one);
    for (size_t cpu = 0; CPU_COUNT(&one) == 0; cpu++) {
        if (CPU_ISSET(cpu, &all)) {
            CPU_SET(cpu, &one);
        }
    }
    CHECK(sched_setaffinity(0, sizeof(one), &one) == 0);
    return all;
}

static void
on_one_cpu_no_thread_spins(void)
{
    park_spot spot;
    cpu_set_t all = confine_to_one_cpu();
    park_spot_init(&spot, 1);
    CHECK(!park_may_spin(&spot));
    CHECK(!may_spin(&spot));
    CHECK_EQ(atomic_load(&spot.spinning), 0);
    // Only a look, however long it might take: this one would take until the guard aborts.
    _Atomic uint32_t word = 7;
    CHECK(!park_spin_for(&word, 7, INT64_MAX / 2));
    CHECK(park_spin_for(&word, 8, INT64_MAX / 2));
    CHECK(sched_setaffinity(0, sizeof(all), &all) == 0);
    park_spot_init(&spot, 1);
    CHECK_EQ(may_spin(&spot), has_cpus());
}

static void
a_vain_spin_notices_that_one_cpu_is_left(void)
{
    park_spot spot;
    _Atomic uint32_t word = 7;
    park_spot_init(&spot, 1);
    bool many = has_cpus();
    cpu_set_t all = confine_to_one_cpu();
    CHECK_EQ(park_may_spin(&spot), many);
    CHECK(!park_spin(&spot, &word, 7, FUTEX_NO_DEADLINE));
    CHECK(!park_may_spin(&spot));
    CHECK_EQ(spin_ns(&spot), PARK_SPIN_MAX_NS);
    CHECK(sched_setaffinity(0, sizeof(all), &all) == 0);
    park_learn(&spot, INT64_MAX);  // a long wait
    CHECK_EQ(park_may_spin(&spot), many);
}

static void
after_a_fork_a_spot_is_as_at_first(void)
{
    park_spot spot;
    park_spot_init(&spot, 1);
    atomic_store(&spot.spinning, 1);  // by a thread that is not there any more
    atomic_store(&spot.skip, 7);
    park_learn(&spot, INT64_MAX);
    park_spot_after_fork(&spot);
    CHECK_EQ(spin_ns(&spot), PARK_SPIN_MAX_NS);
    CHECK_EQ(may_spin(&spot), has_cpus());
    CHECK_EQ(atomic_load(&spot.spinning), 0);
    CHECK_EQ(atomic_load(&spot.skip), 0);
}

static void
no_more_spin_than_the_spot_allows(void)
{
    park_spot spot;
    init_spot(&spot, PARK_SPIN_MAX_NS);
    CHECK_EQ(may_spin(&spot), has_cpus());
    CHECK_EQ(atomic_load(&spot.spinning), 0);
    atomic_store(&spot.spinning, 1);
    CHECK(!may_spin(&spot));
    CHECK_EQ(atomic_load(&spot.spinning), 1);
}

static void
a_spot_that_learned_not_to_does_not_spin(void)
{
    park_spot spot;
    init_spot(&spot, 0);
    CHECK(!park_may_spin(&spot));
    CHECK(!may_spin(&spot));
    CHECK_EQ(atomic_load(&spot.spinning), 0);
}

static void
a_spin_ends_with_its_time(void)
{
    if (!has_cpus()) {
        return;
    }
    _Atomic uint32_t word = 7;
    int64_t start = clock_now_ns();
    CHECK(!park_spin_for(&word, 7, 100000));
    CHECK(clock_now_ns() >= start + 100000);

    park_spot spot;
    init_spot(&spot, 100000);
    start = clock_now_ns();
    CHECK(!park_spin(&spot, &word, 7, FUTEX_NO_DEADLINE));
    CHECK(clock_now_ns() >= start + 100000);
    CHECK_EQ(atomic_load(&spot.spinning), 0);
}

static void
a_spin_ends_with_the_deadline(void)
{
    if (!has_cpus()) {
        return;
    }
    park_spot spot;
    _Atomic uint32_t word = 7;
    init_spot(&spot, SPINS_FOR_EVER);
    // Full spins would take until the guard aborts.
    for (int i = 0; i < 100; i++) {
        int64_t deadline = clock_now_ns() + 100000;
        CHECK(!park_spin(&spot, &word, 7, deadline));
        CHECK(clock_now_ns() >= deadline);
    }
    CHECK_EQ(atomic_load(&spot.spinning), 0);
}

static void
there_is_no_spin_after_the_deadline(void)
{
    park_spot spot;
    _Atomic uint32_t changed = 1;
    init_spot(&spot, PARK_SPIN_MAX_NS);
    CHECK(!park_spin(&spot, &changed, 0, clock_now_ns()));
    CHECK(!park_spin(&spot, &changed, 0, -1));
    CHECK_EQ(atomic_load(&spot.spinning), 0);
}

static void
a_spin_looks_even_without_time(void)
{
    _Atomic uint32_t word = 7;
    CHECK(park_spin_for(&word, 8, 0));
    CHECK(park_spin_for(&word, 8, -1));
    CHECK(!park_spin_for(&word, 7, 0));
}

static int published;

static void
publish(void *arg)
{
    _Atomic uint32_t *word = arg;
    published = 42;
    atomic_store_explicit(word, 1, memory_order_release);
}

static void
a_spin_sees_the_change_and_what_came_before_it(void)
{
    _Atomic uint32_t word = 0;
    check_thread thread;
    published = 0;
    check_start(&thread, publish, &word);
    while (!park_spin_for(&word, 0, PARK_SPIN_MAX_NS)) {
    }
    CHECK_EQ(published, 42);
    check_join(&thread);
}

static void
short_waits_teach_a_full_spin(void)
{
    park_spot spot;
    init_spot(&spot, 0);
    park_learn(&spot, 0);
    CHECK_EQ(spin_ns(&spot), PARK_SPIN_MAX_NS);
    init_spot(&spot, 3000);
    park_learn(&spot, PARK_SPIN_MAX_NS);
    CHECK_EQ(spin_ns(&spot), PARK_SPIN_MAX_NS);
}

static void
long_waits_halve_the_spin_until_there_is_none(void)
{
    park_spot spot;
    uint32_t before = PARK_SPIN_MAX_NS;
    init_spot(&spot, before);
    while (before > 0) {
        park_learn(&spot, 1000000);
        CHECK(spin_ns(&spot) == before / 2 || spin_ns(&spot) == 0);
        before = spin_ns(&spot);
    }
    park_learn(&spot, INT64_MAX);
    CHECK_EQ(spin_ns(&spot), 0);
}

static void
spins_in_vain_before_short_waits_become_rare(void)
{
    park_spot spot;
    _Atomic uint32_t word = 7;
    if (!has_cpus()) {
        return;
    }
    init_spot(&spot, PARK_SPIN_MAX_NS);
    for (int skipped = 1; skipped <= 8; skipped *= 2) {
        CHECK(!park_spin(&spot, &word, 7, FUTEX_NO_DEADLINE));
        for (int i = 0; i < skipped; i++) {
            park_learn(&spot, 1000);
            CHECK(!park_may_spin(&spot));
        }
        park_learn(&spot, 1000);
        CHECK_EQ(spin_ns(&spot), PARK_SPIN_MAX_NS);
    }
    // One that catches a change makes up for all of them.
    CHECK(park_spin(&spot, &word, 8, FUTEX_NO_DEADLINE));
    CHECK(!park_spin(&spot, &word, 7, FUTEX_NO_DEADLINE));
    park_learn(&spot, 1000);
    CHECK(!park_may_spin(&spot));
    park_learn(&spot, 1000);
    CHECK(park_may_spin(&spot));
}

static void
a_spin_in_vain_before_a_long_wait_raises_no_doubt(void)
{
    park_spot spot;
    _Atomic uint32_t word = 7;
    init_spot(&spot, PARK_SPIN_MAX_NS);
    CHECK(!park_spin(&spot, &word, 7, FUTEX_NO_DEADLINE));
    park_learn(&spot, INT64_MAX);
    park_learn(&spot, 1000);
    CHECK_EQ(spin_ns(&spot), PARK_SPIN_MAX_NS);
}

static void
a_spin_in_vain_is_made_up_for_by_the_next_that_catches(void)
{
    park_spot spot;
    _Atomic uint32_t word = 7;
    if (!has_cpus()) {
        return;
    }
    init_spot(&spot, PARK_SPIN_MAX_NS);
    CHECK(!park_spin(&spot, &word, 7, FUTEX_NO_DEADLINE));
    CHECK(park_spin(&spot, &word, 8, FUTEX_NO_DEADLINE));
    park_learn(&spot, 1000);
    CHECK(park_may_spin(&spot));
}

static void
no_thread_sleeps_on_a_word_that_has_changed(void)
{
    park_spot spot;
    _Atomic uint32_t word = 1;
    init_spot(&spot, 0);
    CHECK_EQ(park_sleep(&spot, &word, 0, FUTEX_NO_DEADLINE), FUTEX_OK);
    // The change counts more than the time.
    CHECK_EQ(park_sleep(&spot, &word, 0, 0), FUTEX_OK);
}

static void
a_spinning_waiter_needs_no_wake(void)
{
    if (!has_cpus()) {
        return;
    }
    park_spot spot;
    _Atomic uint32_t word = 0;
    waiter one;
    init_spot(&spot, SPINS_FOR_EVER);
    start_waiter(&one, &spot, &word);
    CHECK_UNTIL(atomic_load(&spot.spinning) == 1);
    atomic_store(&word, 1);
    check_join(&one.thread);
    CHECK_EQ(one.rc, FUTEX_OK);
    CHECK_EQ(atomic_load(&spot.spinning), 0);
}

static void
a_sleeping_waiter_wakes_when_told_of_a_change(void)
{
    park_spot spot;
    _Atomic uint32_t word = 0;
    waiter one;
    init_spot(&spot, 1);  // it spins first, and in vain
    start_waiter(&one, &spot, &word);
    CHECK_UNTIL(check_asleep(&one.thread, &word));
    atomic_store(&word, 1);
    futex_wake(&word, 1);
    check_join(&one.thread);
    CHECK_EQ(one.rc, FUTEX_OK);
    CHECK_EQ(one.seen, 1);
}

static void
a_wake_without_a_change_goes_unnoticed(void)
{
    park_spot spot;
    _Atomic uint32_t word = 0;
    waiter one;
    init_spot(&spot, 0);
    start_waiter(&one, &spot, &word);
    CHECK_UNTIL(check_asleep(&one.thread, &word));
    for (int i = 0; i < 3; i++) {
        long naps = check_naps(&one.thread);
        futex_wake(&word, 1);
        check_asleep_again(&one.thread, &word, naps);
    }
    atomic_store(&word, 1);
    futex_wake(&word, 1);
    check_join(&one.thread);
    CHECK_EQ(one.rc, FUTEX_OK);
    CHECK_EQ(one.seen, 1);
}

static void
a_sleep_ends_with_its_deadline(void)
{
    park_spot spot;
    _Atomic uint32_t word = 0;
    int64_t deadline = clock_now_ns() + 1000000;
    init_spot(&spot, 0);
    CHECK_EQ(park_sleep(&spot, &word, 0, deadline), FUTEX_TIMED_OUT);
    CHECK(clock_now_ns() >= deadline);
    CHECK_EQ(park_sleep(&spot, &word, 0, 0), FUTEX_TIMED_OUT);
}

static void
a_sleep_is_interrupted_by_a_signal_handler(void)
{
    park_spot spot;
    _Atomic uint32_t word = 0;
    waiter one;
    check_handle_sigusr1();
    init_spot(&spot, 0);
    start_waiter(&one, &spot, &word);
    CHECK_UNTIL(check_asleep(&one.thread, &word));
    pthread_kill(one.thread.thread, SIGUSR1);
    check_join(&one.thread);
    CHECK_EQ(one.rc, FUTEX_INTERRUPTED);
    CHECK_EQ(one.seen, 0);
}

static void
a_long_sleep_is_learned(void)
{
    park_spot spot;
    _Atomic uint32_t word = 0;
    init_spot(&spot, PARK_SPIN_MAX_NS);
    // A thread that loses its CPU between the two calls may still have a short sleep.
    while (spin_ns(&spot) == PARK_SPIN_MAX_NS) {
        CHECK_EQ(park_sleep(&spot, &word, 0, clock_now_ns() + 1000000), FUTEX_TIMED_OUT);
    }
    CHECK_EQ(spin_ns(&spot), PARK_SPIN_MAX_NS / 2);
}

static void
a_sleep_that_timed_out_early_teaches_no_spin(void)
{
    park_spot spot;
    _Atomic uint32_t word = 0;
    init_spot(&spot, 0);
    // Another thread polls: every wait is short, and a spin would have served none.
    for (int i = 0; i < 100; i++) {
        CHECK_EQ(park_sleep(&spot, &word, 0, 0), FUTEX_TIMED_OUT);
        CHECK_EQ(spin_ns(&spot), 0);
    }
}

static void
all_waiters_of_a_word_see_one_change(void)
{
    if (!has_cpus()) {
        return;
    }
    park_spot spot;
    _Atomic uint32_t word = 0;
    waiter waiters[3];
    // One spins, as many as the spot allows, and two sleep.
    init_spot(&spot, SPINS_FOR_EVER);
    start_waiter(&waiters[0], &spot, &word);
    CHECK_UNTIL(atomic_load(&spot.spinning) == 1);
    for (int i = 1; i < 3; i++) {
        start_waiter(&waiters[i], &spot, &word);
        CHECK_UNTIL(check_asleep(&waiters[i].thread, &word));
    }
    CHECK_EQ(atomic_load(&spot.spinning), 1);
    atomic_store(&word, 1);
    futex_wake_all(&word);
    for (int i = 0; i < 3; i++) {
        check_join(&waiters[i].thread);
        CHECK_EQ(waiters[i].rc, FUTEX_OK);
        CHECK_EQ(waiters[i].seen, 1);
    }
    CHECK_EQ(atomic_load(&spot.spinning), 0);
}

int
main(int argc, char **argv)
{
    static const check_test tests[] = {
        CHECK_TEST(a_fresh_spot_spins_fully),
        CHECK_TEST(fewer_spin_than_there_are_cpus),
        CHECK_TEST(on_one_cpu_no_thread_spins),
        CHECK_TEST(a_vain_spin_notices_that_one_cpu_is_left),
        CHECK_TEST(after_a_fork_a_spot_is_as_at_first),
        CHECK_TEST(no_more_spin_than_the_spot_allows),
        CHECK_TEST(a_spot_that_learned_not_to_does_not_spin),
        CHECK_TEST(a_spin_ends_with_its_time),
        CHECK_TEST(a_spin_ends_with_the_deadline),
        CHECK_TEST(there_is_no_spin_after_the_deadline),
        CHECK_TEST(a_spin_looks_even_without_time),
        CHECK_TEST(a_spin_sees_the_change_and_what_came_before_it),
        CHECK_TEST(short_waits_teach_a_full_spin),
        CHECK_TEST(long_waits_halve_the_spin_until_there_is_none),
        CHECK_TEST(spins_in_vain_before_short_waits_become_rare),
        CHECK_TEST(a_spin_in_vain_before_a_long_wait_raises_no_doubt),
        CHECK_TEST(a_spin_in_vain_is_made_up_for_by_the_next_that_catches),
        CHECK_TEST(no_thread_sleeps_on_a_word_that_has_changed),
        CHECK_TEST(a_spinning_waiter_needs_no_wake),
        CHECK_TEST(a_sleeping_waiter_wakes_when_told_of_a_change),
        CHECK_TEST(a_wake_without_a_change_goes_unnoticed),
        CHECK_TEST(a_sleep_ends_with_its_deadline),
        CHECK_TEST(a_sleep_is_interrupted_by_a_signal_handler),
        CHECK_TEST(a_long_sleep_is_learned),
        CHECK_TEST(a_sleep_that_timed_out_early_teaches_no_spin),
        CHECK_TEST(all_waiters_of_a_word_see_one_change),
    };
    return check_run(tests, CHECK_COUNT(tests), argc, argv);
}
