// Tests of core/shared_extents.
#define _GNU_SOURCE
#include "core/shared_extents.h"

#include "check.h"

static shared_extents *
extents_new(void)
{
    shared_extents *extents = calloc(1, sizeof(*extents));
    CHECK(extents != NULL);
    return extents;
}

static uint32_t
take(shared_extents *extents, uint32_t order, uint64_t owner)
{
    uint32_t unit = shared_extents_find(extents, order, SHARED_UNITS);
    CHECK(unit != SHARED_NO_UNIT);
    shared_extents_take(extents, unit, order, owner);
    return unit;
}

static void
runs_are_aligned_and_come_back(void)
{
    shared_extents *extents = extents_new();
    CHECK_EQ(take(extents, 0, 1), 0);
    CHECK_EQ(take(extents, 2, 2), 4);
    CHECK_EQ(extents->end, 8);
    CHECK_EQ(take(extents, 1, 3), 2);  // in the gap
    CHECK_EQ(take(extents, 0, 4), 1);
    shared_extents_release(extents, 4, 4);
    CHECK_EQ(extents->end, 4);
    CHECK_EQ(take(extents, 1, 5), 4);
    shared_extents_release(extents, 0, 6);
    CHECK_EQ(extents->end, 0);
    free(extents);
}

static void
there_is_no_room_beyond_the_limit(void)
{
    shared_extents *extents = extents_new();
    CHECK_EQ(shared_extents_find(extents, 3, 7), SHARED_NO_UNIT);
    CHECK_EQ(shared_extents_find(extents, 3, 8), 0);
    shared_extents_take(extents, 0, 3, 1);
    CHECK_EQ(shared_extents_find(extents, 0, 8), SHARED_NO_UNIT);
    CHECK_EQ(shared_extents_find(extents, SHARED_ORDER_MAX, SHARED_UNITS), SHARED_UNITS / 2);
    shared_extents_take(extents, SHARED_UNITS / 2, SHARED_ORDER_MAX, 2);
    CHECK_EQ(shared_extents_find(extents, SHARED_ORDER_MAX, SHARED_UNITS), SHARED_NO_UNIT);
    CHECK_EQ(shared_extents_find(extents, SHARED_ORDER_MAX - 1, SHARED_UNITS), SHARED_UNITS / 4);
    free(extents);
}

static void
owners_are_found_in_order(void)
{
    shared_extents *extents = extents_new();
    uint32_t unit;
    uint64_t owner;
    CHECK_EQ(shared_extents_next(extents, 0, &unit, &owner), 0);
    take(extents, 1, 7);
    take(extents, 1, 7);
    take(extents, 0, 8);
    take(extents, 2, 9);
    CHECK_EQ(shared_extents_next(extents, 0, &unit, &owner), 4);
    CHECK(unit == 0 && owner == 7);
    CHECK_EQ(shared_extents_next(extents, 4, &unit, &owner), 1);
    CHECK(unit == 4 && owner == 8);
    CHECK_EQ(shared_extents_next(extents, 5, &unit, &owner), 4);
    CHECK(unit == 8 && owner == 9);
    CHECK_EQ(shared_extents_next(extents, 12, &unit, &owner), 0);
    free(extents);
}

// What a death in the middle of shared_extents_take() leaves beyond the end is nobody's.
static void
what_is_beyond_the_end_is_free(void)
{
    shared_extents *extents = extents_new();
    uint32_t unit;
    uint64_t owner;
    for (uint32_t i = 0; i < 16; i++) {
        extents->owners[i] = 5;
    }
    CHECK_EQ(shared_extents_next(extents, 0, &unit, &owner), 0);
    CHECK_EQ(take(extents, 0, 6), 0);
    CHECK_EQ(take(extents, 2, 6), 4);
    CHECK_EQ(take(extents, 1, 6), 2);  // the gap was cleared
    free(extents);
}

static const check_test tests[] = {
    CHECK_TEST(runs_are_aligned_and_come_back),
    CHECK_TEST(there_is_no_room_beyond_the_limit),
    CHECK_TEST(owners_are_found_in_order),
    CHECK_TEST(what_is_beyond_the_end_is_free),
};

int
main(int argc, char **argv)
{
    return check_run(tests, CHECK_COUNT(tests), argc, argv);
}
