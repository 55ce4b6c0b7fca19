// Tests of core/tally.
#define _GNU_SOURCE
#include "core/tally.h"

#include "check.h"

static void
tallies_add_up(void)
{
    tally sum = {0};
    tally part = {.completed = 1, .failed = 2, .cancelled = 3, .timed_out = 4, .died = 5};
    histogram_add(&part.runs, 1, 7);
    CHECK_EQ(tally_ended(&part), 15);
    tally_add(&sum, &part);
    tally_add(&sum, &part);
    CHECK_EQ(tally_ended(&sum), 30);
    CHECK_EQ(sum.completed, 2);
    CHECK_EQ(sum.died, 10);
    CHECK_EQ(histogram_count(&sum.runs), 2);
    CHECK_EQ(sum.runs.total_ns, 14);
    CHECK_EQ(sum.runs.max_ns, 7);
}

int
main(int argc, char **argv)
{
    static const check_test tests[] = {
        CHECK_TEST(tallies_add_up),
    };
    return check_run(tests, CHECK_COUNT(tests), argc, argv);
}
