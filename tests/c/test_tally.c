// Tests of core/tally.
#define _GNU_SOURCE
#include "core/tally.h"

#include "check.h"

static double
quantile(const tally *t, double share)
{
    double found;
    tally_quantiles(t, 1, &share, &found);
    return found;
}

static void
a_quantile_is_right_to_within_a_factor_of_two(void)
{
    tally t = {0};
    CHECK(quantile(&t, 0.5) == 0);
    for (uint64_t ns = 1; ns <= 1000; ns++) {
        tally_add_runs(&t, 1, ns);
    }
    CHECK_EQ(tally_runs(&t), 1000);
    CHECK_EQ(t.total_ns, 500500);
    CHECK_EQ(t.max_ns, 1000);
    for (int percent = 1; percent <= 100; percent++) {
        double found = quantile(&t, percent / 100.0);
        CHECK(found >= percent * 5 && found <= percent * 20 && found <= 1000);
    }
    CHECK(quantile(&t, 1) == 1000);
    tally_add_runs(&t, 1000, 4096);
    CHECK_EQ(tally_runs(&t), 2000);
    CHECK_EQ(t.total_ns, 500500 + 4096000);
    CHECK(quantile(&t, 1) == 4096);
}

static void
any_number_has_a_bucket(void)
{
    tally t = {0};
    tally_add_runs(&t, 1, 0);
    tally_add_runs(&t, 1, UINT64_MAX);
    CHECK_EQ(t.buckets[0], 1);
    CHECK_EQ(t.buckets[63], 1);
    CHECK(quantile(&t, 1) > 0);
}

static void
tallies_add_up(void)
{
    tally sum = {0};
    tally part = {.completed = 1, .failed = 2, .cancelled = 3, .timed_out = 4, .died = 5};
    tally_add_runs(&part, 1, 7);
    CHECK_EQ(tally_ended(&part), 15);
    tally_add(&sum, &part);
    tally_add(&sum, &part);
    CHECK_EQ(tally_ended(&sum), 30);
    CHECK_EQ(sum.completed, 2);
    CHECK_EQ(sum.died, 10);
    CHECK_EQ(tally_runs(&sum), 2);
    CHECK_EQ(sum.total_ns, 14);
    CHECK_EQ(sum.max_ns, 7);
}

int
main(int argc, char **argv)
{
    static const check_test tests[] = {
        CHECK_TEST(a_quantile_is_right_to_within_a_factor_of_two),
        CHECK_TEST(any_number_has_a_bucket),
        CHECK_TEST(tallies_add_up),
    };
    return check_run(tests, CHECK_COUNT(tests), argc, argv);
}
