// Tests of core/quick_clock.
#define _GNU_SOURCE
#include "core/quick_clock.h"

#include "check.h"
#include "core/clock.h"

// What it may be off by, and much more: a wrong tick makes a difference of half a millisecond.
#define OFF_NS 20000

static bool
is_trusted(const quick_clock *clock)
{
    return quick_clock_ticks() - clock->compared < clock->trusted;
}

// Reads the clock until the counter is trusted, if there is one.
static void
await_trust(quick_clock *clock)
{
    CHECK_UNTIL(quick_clock_now_ns(clock) != 0 && (is_trusted(clock) || !clock->has_counter));
}

static void
it_has_the_time_and_never_goes_back(void)
{
    quick_clock clock;
    quick_clock_init(&clock);
    int64_t last_ns = 0;
    for (int i = 0; i < 300000; i++) {
        int64_t least_ns = clock_now_ns();
        int64_t now_ns = quick_clock_now_ns(&clock);
        int64_t most_ns = clock_now_ns();
        CHECK(now_ns >= least_ns - OFF_NS && now_ns <= most_ns + OFF_NS);
        CHECK(now_ns >= last_ns);
        last_ns = now_ns;
    }
}

static void
a_later_time_is_unlike_any_before(void)
{
    quick_clock clock;
    quick_clock_init(&clock);
    int64_t last_ns = 0;
    for (int i = 0; i < 10000; i++) {
        int64_t now_ns = quick_clock_later_ns(&clock);
        CHECK(now_ns > last_ns);
        last_ns = now_ns;
    }
    CHECK(quick_clock_now_ns(&clock) >= last_ns);
}

// As when the machine has slept, or the counter has changed its pace.
static void
a_counter_that_disagrees_is_not_trusted(void)
{
    quick_clock clock;
    quick_clock_init(&clock);
    await_trust(&clock);
    clock.tick += clock.tick / 100;
    clock.trusted = 0;
    uint64_t compared = clock.compared;
    CHECK_UNTIL(quick_clock_compare(&clock) != 0 && (clock.compared != compared || !clock.has_counter));
    CHECK_EQ(clock.trusted, 0);
    int64_t least_ns = clock_now_ns();
    CHECK(quick_clock_now_ns(&clock) >= least_ns);
    await_trust(&clock);
}

static void
a_processor_whose_counter_is_behind_is_not_trusted(void)
{
    quick_clock clock;
    quick_clock_init(&clock);
    await_trust(&clock);
    clock.compared += UINT64_C(1) << 40;
    CHECK(!is_trusted(&clock));
    int64_t least_ns = clock_now_ns();
    int64_t now_ns = quick_clock_now_ns(&clock);
    CHECK(now_ns >= least_ns && now_ns <= clock_now_ns() + OFF_NS);
}

static void
without_a_counter_it_is_the_kernels_clock(void)
{
    quick_clock clock = {0};
    for (int i = 0; i < 100; i++) {
        int64_t least_ns = clock_now_ns();
        int64_t now_ns = quick_clock_now_ns(&clock);
        CHECK(now_ns >= least_ns && now_ns <= clock_now_ns());
    }
    CHECK_EQ(clock.trusted, 0);
}

int
main(int argc, char **argv)
{
    static const check_test tests[] = {
        CHECK_TEST(it_has_the_time_and_never_goes_back),
        CHECK_TEST(a_later_time_is_unlike_any_before),
        CHECK_TEST(a_counter_that_disagrees_is_not_trusted),
        CHECK_TEST(a_processor_whose_counter_is_behind_is_not_trusted),
        CHECK_TEST(without_a_counter_it_is_the_kernels_clock),
    };
    return check_run(tests, CHECK_COUNT(tests), argc, argv);
}
