// Tests of core/histogram.
#define _GNU_SOURCE
#include "core/histogram.h"

#include "check.h"

static double
quantile(const histogram *h, double share)
{
    double found;
    histogram_quantiles(h, 1, &share, &found);
    return found;
}

static void
a_quantile_is_right_to_within_a_factor_of_two(void)
{
    histogram h = {0};
    CHECK(quantile(&h, 0.5) == 0);
    for (uint64_t ns = 1; ns <= 1000; ns++) {
        histogram_add(&h, 1, ns);
    }
    CHECK_EQ(histogram_count(&h), 1000);
    CHECK_EQ(h.total_ns, 500500);
    CHECK_EQ(h.max_ns, 1000);
    for (int percent = 1; percent <= 100; percent++) {
        double found = quantile(&h, percent / 100.0);
        CHECK(found >= percent * 5 && found <= percent * 20 && found <= 1000);
    }
    CHECK(quantile(&h, 1) == 1000);
    histogram_add(&h, 1000, 4096);
    CHECK_EQ(histogram_count(&h), 2000);
    CHECK_EQ(h.total_ns, 500500 + 4096000);
    CHECK(quantile(&h, 1) == 4096);
}

static void
any_number_has_a_bucket(void)
{
    histogram h = {0};
    histogram_add(&h, 1, 0);
    histogram_add(&h, 1, UINT64_MAX);
    CHECK_EQ(h.buckets[0], 1);
    CHECK_EQ(h.buckets[63], 1);
    CHECK(quantile(&h, 1) > 0);
}

int
main(int argc, char **argv)
{
    static const check_test tests[] = {
        CHECK_TEST(a_quantile_is_right_to_within_a_factor_of_two),
        CHECK_TEST(any_number_has_a_bucket),
    };
    return check_run(tests, CHECK_COUNT(tests), argc, argv);
}
