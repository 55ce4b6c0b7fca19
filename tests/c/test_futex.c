// Tests of core/futex and of core/clock, whose time its deadlines are.
#define _GNU_SOURCE
#include "check.h"

#include <sys/mman.h>
#include <time.h>

#include "core/clock.h"
#include "core/futex.h"

#define SLEEPERS 3

typedef struct sleeper {
    check_thread thread;
    _Atomic uint32_t *word;
    int64_t deadline_ns;
    int rc;
} sleeper;

static void
sleep_once(void *arg)
{
    sleeper *self = arg;
    self->rc = futex_wait(self->word, 0, self->deadline_ns);
}

// Starts a thread that sleeps while *word == 0; returns once it does.
static void
start_sleeper(sleeper *self, _Atomic uint32_t *word, int64_t deadline_ns)
{
    self->word = word;
    self->deadline_ns = deadline_ns;
    check_start(&self->thread, sleep_once, self);
    CHECK_UNTIL(check_asleep(&self->thread, word));
}

static int
count_done(sleeper *sleepers, int count)
{
    int done = 0;
    for (int i = 0; i < count; i++) {
        done += atomic_load(&sleepers[i].thread.done);
    }
    return done;
}

static int
count_asleep(sleeper *sleepers, int count)
{
    int asleep = 0;
    for (int i = 0; i < count; i++) {
        asleep += check_asleep(&sleepers[i].thread, sleepers[i].word);
    }
    return asleep;
}

static void
a_word_that_has_changed_is_not_slept_on(void)
{
    _Atomic uint32_t word = 1;
    CHECK_EQ(futex_wait(&word, 0, FUTEX_NO_DEADLINE), FUTEX_OK);
    // The change counts more than the time.
    CHECK_EQ(futex_wait(&word, 0, 0), FUTEX_OK);
}

static void
all_32_bits_of_the_word_are_compared(void)
{
    for (int bit = 0; bit < 32; bit++) {
        _Atomic uint32_t word = UINT32_MAX ^ (UINT32_C(1) << bit);
        CHECK_EQ(futex_wait(&word, UINT32_MAX, FUTEX_NO_DEADLINE), FUTEX_OK);
    }
    _Atomic uint32_t word = UINT32_MAX;
    CHECK_EQ(futex_wait(&word, UINT32_MAX, clock_now_ns()), FUTEX_TIMED_OUT);
}

static void
a_sleeper_wakes_when_told_of_a_change(void)
{
    _Atomic uint32_t word = 0;
    sleeper one;
    start_sleeper(&one, &word, FUTEX_NO_DEADLINE);
    atomic_store(&word, 1);
    futex_wake(&word, 1);
    check_join(&one.thread);
    CHECK_EQ(one.rc, FUTEX_OK);
}

static void
a_wake_needs_no_change(void)
{
    _Atomic uint32_t word = 0;
    sleeper one;
    start_sleeper(&one, &word, FUTEX_NO_DEADLINE);
    futex_wake(&word, 1);
    check_join(&one.thread);
    CHECK_EQ(one.rc, FUTEX_OK);
}

static void
a_wake_wakes_as_many_as_asked(void)
{
    _Atomic uint32_t word = 0;
    sleeper sleepers[SLEEPERS];
    for (int i = 0; i < SLEEPERS; i++) {
        start_sleeper(&sleepers[i], &word, FUTEX_NO_DEADLINE);
    }
    CHECK_EQ(count_asleep(sleepers, SLEEPERS), SLEEPERS);
    futex_wake(&word, 2);
    CHECK_UNTIL(count_done(sleepers, SLEEPERS) == 2);
    CHECK_EQ(count_asleep(sleepers, SLEEPERS), SLEEPERS - 2);
    futex_wake(&word, SLEEPERS);
    for (int i = 0; i < SLEEPERS; i++) {
        check_join(&sleepers[i].thread);
        CHECK_EQ(sleepers[i].rc, FUTEX_OK);
    }
}

static void
wake_all_wakes_all(void)
{
    _Atomic uint32_t word = 0;
    sleeper sleepers[SLEEPERS];
    for (int i = 0; i < SLEEPERS; i++) {
        start_sleeper(&sleepers[i], &word, FUTEX_NO_DEADLINE);
    }
    futex_wake_all(&word);
    for (int i = 0; i < SLEEPERS; i++) {
        check_join(&sleepers[i].thread);
        CHECK_EQ(sleepers[i].rc, FUTEX_OK);
    }
}

static void
a_wake_is_for_one_word(void)
{
    _Atomic uint32_t words[2] = {0, 0};
    sleeper one;
    start_sleeper(&one, &words[1], FUTEX_NO_DEADLINE);
    futex_wake_all(&words[0]);
    CHECK(check_asleep(&one.thread, &words[1]));
    futex_wake_all(&words[1]);
    check_join(&one.thread);
}

static void
a_wake_is_not_remembered(void)
{
    _Atomic uint32_t word = 0;
    sleeper one;
    futex_wake_all(&word);
    start_sleeper(&one, &word, FUTEX_NO_DEADLINE);
    futex_wake_all(&word);
    check_join(&one.thread);
}

static void
the_word_of_a_wake_may_be_gone(void)
{
    size_t size = (size_t)sysconf(_SC_PAGESIZE);
    void *page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(page != MAP_FAILED);
    CHECK(munmap(page, size) == 0);
    futex_wake((_Atomic uint32_t *)page, 1);
    futex_wake_all((_Atomic uint32_t *)page);
}

static void
a_deadline_that_has_passed_does_not_sleep(void)
{
    _Atomic uint32_t word = 0;
    CHECK_EQ(futex_wait(&word, 0, clock_now_ns() - 1), FUTEX_TIMED_OUT);
    CHECK_EQ(futex_wait(&word, 0, 0), FUTEX_TIMED_OUT);
    // What now plus a negative time-out may come to.
    CHECK_EQ(futex_wait(&word, 0, -1), FUTEX_TIMED_OUT);
    CHECK_EQ(futex_wait(&word, 0, INT64_MIN), FUTEX_TIMED_OUT);
}

static void
a_deadline_is_slept_out(void)
{
    _Atomic uint32_t word = 0;
    int64_t deadline = clock_now_ns() + 1000000;
    CHECK_EQ(futex_wait(&word, 0, deadline), FUTEX_TIMED_OUT);
    CHECK(clock_now_ns() >= deadline);
}

static void
a_far_deadline_is_like_none(void)
{
    _Atomic uint32_t word = 0;
    sleeper one;
    start_sleeper(&one, &word, INT64_MAX - 1);
    futex_wake(&word, 1);
    check_join(&one.thread);
    CHECK_EQ(one.rc, FUTEX_OK);
}

static void
a_signal_handler_interrupts_a_sleep(void)
{
    _Atomic uint32_t word = 0;
    sleeper one;
    check_handle_sigusr1();
    start_sleeper(&one, &word, FUTEX_NO_DEADLINE);
    pthread_kill(one.thread.thread, SIGUSR1);
    check_join(&one.thread);
    CHECK_EQ(one.rc, FUTEX_INTERRUPTED);
}

static void
the_clock_is_the_monotonic_one(void)
{
    struct timespec then;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &then) == 0);
    int64_t first = clock_now_ns();
    int64_t second = clock_now_ns();
    CHECK(first >= (int64_t)then.tv_sec * 1000000000 + then.tv_nsec);
    CHECK(second >= first);
    CHECK(clock_gettime(CLOCK_MONOTONIC, &then) == 0);
    CHECK(second <= (int64_t)then.tv_sec * 1000000000 + then.tv_nsec);
}

int
main(int argc, char **argv)
{
    static const check_test tests[] = {
        CHECK_TEST(a_word_that_has_changed_is_not_slept_on),
        CHECK_TEST(all_32_bits_of_the_word_are_compared),
        CHECK_TEST(a_sleeper_wakes_when_told_of_a_change),
        CHECK_TEST(a_wake_needs_no_change),
        CHECK_TEST(a_wake_wakes_as_many_as_asked),
        CHECK_TEST(wake_all_wakes_all),
        CHECK_TEST(a_wake_is_for_one_word),
        CHECK_TEST(a_wake_is_not_remembered),
        CHECK_TEST(the_word_of_a_wake_may_be_gone),
        CHECK_TEST(a_deadline_that_has_passed_does_not_sleep),
        CHECK_TEST(a_deadline_is_slept_out),
        CHECK_TEST(a_far_deadline_is_like_none),
        CHECK_TEST(a_signal_handler_interrupts_a_sleep),
        CHECK_TEST(the_clock_is_the_monotonic_one),
    };
    return check_run(tests, CHECK_COUNT(tests), argc, argv);
}
