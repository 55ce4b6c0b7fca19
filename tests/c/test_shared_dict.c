// Tests of core/shared_dict.
#define _GNU_SOURCE
#include "core/shared_dict.h"

#include "check_run.h"

#define VALUE_BYTES 5000
#define STRIDE 43  // with 1 it takes minutes

static int
set(shared_run *dict, shared_item key, shared_item value)
{
    const shared_item parts[SHARED_DICT_PARTS] = {key, {0}, value};
    return shared_dict_set(dict, parts);
}

static bool
drop(shared_run *dict, shared_item key)
{
    uint32_t place = shared_dict_find(dict, &key);
    if (place != SHARED_DICT_NOWHERE) {
        CHECK_EQ(shared_dict_remove(dict, place), 0);
    }
    return place != SHARED_DICT_NOWHERE;
}

static shared_item
value_of(shared_run *dict, shared_item key)
{
    uint32_t place = shared_dict_find(dict, &key);
    CHECK(place != SHARED_DICT_NOWHERE);
    return shared_dict_get(dict, place, SHARED_DICT_VALUE);
}

static bool
has(shared_run *dict, shared_item key)
{
    return shared_dict_find(dict, &key) != SHARED_DICT_NOWHERE;
}

// The keys are these numbers, in this order.
static void
check_keys(shared_run *dict, const uint64_t *keys, uint32_t count)
{
    uint32_t place = 0;
    CHECK_EQ(shared_dict_count(dict), count);
    for (uint32_t i = 0; i < count; i++, place++) {
        place = shared_dict_next(dict, place);
        CHECK(place != SHARED_DICT_NOWHERE);
        CHECK_EQ(shared_dict_get(dict, place, SHARED_DICT_SHOWN).word >> 1, keys[i]);
        CHECK(has(dict, number(keys[i])));
    }
    CHECK_EQ(shared_dict_last(dict), count == 0 ? SHARED_DICT_NOWHERE : place - 1);
    CHECK_EQ(shared_dict_next(dict, place), SHARED_DICT_NOWHERE);
}

// ---- as a dict ----

static void
keys_come_and_go(void)
{
    shared_run dict = run_new(&shared_dict_kind);
    enter(&dict);
    check_keys(&dict, NULL, 0);
    CHECK(!drop(&dict, number(1)));
    CHECK_EQ(set(&dict, text("one"), number(1)), 0);
    CHECK_EQ(set(&dict, text(""), text("two")), 0);
    CHECK_EQ(set(&dict, text("longer than a word"), text("")), 0);
    CHECK_EQ(set(&dict, number(1), number(4)), 0);
    CHECK_EQ(set(&dict, text("one"), text("eleven")), 0);
    CHECK_EQ(shared_dict_count(&dict), 4);
    CHECK(is_text(value_of(&dict, text("one")), "eleven"));
    CHECK(is_text(value_of(&dict, text("")), "two"));
    CHECK(is_text(value_of(&dict, text("longer than a word")), ""));
    CHECK_EQ(value_of(&dict, number(1)).word >> 1, 4);
    CHECK(!has(&dict, text("on")));
    CHECK(!has(&dict, text("longer than a wort")));
    CHECK(drop(&dict, text("one")));
    CHECK(!drop(&dict, text("one")));
    CHECK_EQ(shared_dict_clear(&dict), 0);
    CHECK_EQ(shared_dict_clear(&dict), 0);
    check_keys(&dict, NULL, 0);
    CHECK_EQ(set(&dict, number(3), number(3)), 0);
    check_keys(&dict, (const uint64_t[]){3}, 1);
    shared_run_leave(&dict);
    run_free(&dict);
}

static void
keys_keep_their_order(void)
{
    shared_run dict = run_new(&shared_dict_kind);
    enter(&dict);
    for (uint64_t i = 0; i < 6; i++) {
        CHECK_EQ(set(&dict, number(i), number(i)), 0);
    }
    CHECK_EQ(set(&dict, number(2), text("two")), 0);
    CHECK(drop(&dict, number(1)));  // in the middle
    check_keys(&dict, (const uint64_t[]){0, 2, 3, 4, 5}, 5);
    CHECK(drop(&dict, number(0)));  // and what is gone after it
    CHECK(drop(&dict, number(4)));
    CHECK(drop(&dict, number(5)));
    check_keys(&dict, (const uint64_t[]){2, 3}, 2);
    CHECK_EQ(set(&dict, number(0), number(0)), 0);
    CHECK(drop(&dict, number(3)));
    check_keys(&dict, (const uint64_t[]){2, 0}, 2);
    const shared_item many[] = {
        number(7),
        {0},
        number(1),
        number(0),
        {0},
        number(2),
        number(7),
        {0},
        number(3),
    };
    CHECK_EQ(shared_dict_update(&dict, many, 3), 0);
    check_keys(&dict, (const uint64_t[]){2, 0, 7}, 3);
    CHECK_EQ(value_of(&dict, number(7)).word >> 1, 3);
    CHECK_EQ(value_of(&dict, number(0)).word >> 1, 2);
    CHECK_EQ(shared_dict_update(&dict, NULL, 0), 0);
    shared_run_leave(&dict);
    run_free(&dict);
}

static void
a_key_is_shown_as_it_first_came(void)
{
    shared_run dict = run_new(&shared_dict_kind);
    enter(&dict);
    const shared_item first[] = {number(1), text("1.0"), number(1)};
    const shared_item second[] = {number(1), text("True"), number(2)};
    CHECK_EQ(shared_dict_set(&dict, first), 0);
    CHECK_EQ(shared_dict_set(&dict, second), 0);
    for (uint64_t i = 2; i < 1000; i++) {
        CHECK_EQ(set(&dict, number(i), text("so that it moves, and is written again")), 0);
    }
    CHECK(is_text(shared_dict_get(&dict, shared_dict_next(&dict, 0), SHARED_DICT_SHOWN), "1.0"));
    CHECK_EQ(value_of(&dict, number(1)).word >> 1, 2);
    shared_run_leave(&dict);
    run_free(&dict);
}

static void
many_keys_take_memory_and_give_it_back(void)
{
    shared_run dict = run_new(&shared_dict_kind);
    char string[32];
    uint64_t before = memory_of(&dict);
    enter(&dict);
    for (uint64_t i = 0; i < 50000; i++) {
        snprintf(string, sizeof(string), "key %d", (int)i);
        CHECK_EQ(set(&dict, text(string), number(i)), 0);
    }
    uint64_t version = shared_run_version(&dict);
    uint64_t full = shared_run_bytes(&dict);
    for (uint64_t i = 0; i < 100000; i++) {
        snprintf(string, sizeof(string), "key %d", (int)(i % 50000));
        CHECK_EQ(set(&dict, text(string), text("some")), 0);
    }
    CHECK_EQ(shared_run_version(&dict) - version, 100000);
    CHECK(shared_run_bytes(&dict) < 4 * full);
    // From both ends and the middle, down to one.
    for (uint32_t i = 0; i < 25000; i++) {
        const uint32_t keys[] = {i, 49999 - i};
        for (size_t side = i % 3 == 0 ? 1 : 0; side < 2 && shared_dict_count(&dict) > 1; side++) {
            snprintf(string, sizeof(string), "key %d", (int)keys[side]);
            CHECK(drop(&dict, text(string)));
        }
    }
    while (shared_dict_count(&dict) > 1) {
        CHECK_EQ(shared_dict_remove(&dict, shared_dict_next(&dict, 0)), 0);
    }
    CHECK(shared_run_bytes(&dict) <= SHARED_UNIT_BYTES * 2);
    CHECK_EQ(shared_dict_remove(&dict, shared_dict_last(&dict)), 0);
    shared_run_leave(&dict);
    CHECK(memory_of(&dict) < before + SHARED_UNIT_BYTES + 8192);  // and of the table of units
    run_free(&dict);
}

static void
few_keys_that_change_take_little(void)
{
    shared_run dict = run_new(&shared_dict_kind);
    enter(&dict);
    for (uint64_t i = 0; i < 100000; i++) {
        CHECK_EQ(set(&dict, number(i), text("a value")), 0);
        if (i >= 5) {
            uint32_t place = i % 3 == 0 ? shared_dict_next(&dict, 0) : shared_dict_last(&dict);
            CHECK_EQ(shared_dict_remove(&dict, place), 0);
        }
    }
    CHECK_EQ(shared_dict_count(&dict), 5);
    CHECK(shared_run_bytes(&dict) <= sizeof(shared_cell) + SHARED_UNIT_BYTES);
    shared_run_leave(&dict);
    run_free(&dict);
}

static void
what_finds_no_room_changes_nothing(void)
{
    shared_run dict = run_new(&shared_dict_kind);
    enter(&dict);
    CHECK_EQ(set(&dict, number(1), text("one")), 0);
    shared_item huge = {.bytes = (const unsigned char *)"", .size = UINT64_C(1) << 50};
    CHECK_EQ(set(&dict, number(1), huge), SHARED_HEAP_FULL);
    CHECK_EQ(set(&dict, number(2), huge), SHARED_HEAP_FULL);
    const shared_item many[] = {number(2), {0}, number(1), number(3), {0}, huge};
    CHECK_EQ(shared_dict_update(&dict, many, 2), SHARED_HEAP_FULL);
    check_keys(&dict, (const uint64_t[]){1}, 1);
    CHECK(is_text(value_of(&dict, number(1)), "one"));
    shared_run_leave(&dict);
    run_free(&dict);
}

// ---- beside others ----

static void
another_mapping_sees_the_same(void)
{
    shared_run dict = run_new(&shared_dict_kind);
    shared_run other = run_again(&dict);
    for (uint32_t i = 0; i < 20000; i++) {
        shared_run *one = i % 3 == 0 ? &dict : &other;
        enter(one);
        CHECK_EQ(shared_dict_count(one), i);
        CHECK(i == 0 || has(one, number(i - 1)));
        CHECK_EQ(set(one, number(i), text("something of some length")), 0);
        shared_run_leave(one);
    }
    run_again_free(&other);
    run_free(&dict);
}

typedef struct setter {
    shared_run dict;
    uint64_t number;
} setter;

static void
set_many(void *arg)
{
    setter *s = arg;
    for (uint64_t i = 0; i < 4000; i++) {
        enter(&s->dict);
        CHECK_EQ(set(&s->dict, number(s->number * 4000 + i), number(i)), 0);
        if (i % 4 == 3) {
            CHECK(drop(&s->dict, number(s->number * 4000 + i - 1)));
        }
        shared_run_leave(&s->dict);
    }
}

static void
no_key_is_lost_among_threads(void)
{
    shared_run dict = run_new(&shared_dict_kind);
    setter setters[4];
    check_thread threads[4];
    for (size_t i = 0; i < CHECK_COUNT(threads); i++) {
        // Each with a view of its own.
        shared_run_init(&setters[i].dict, &shared_dict_kind, dict.heap, dict.index);
        setters[i].number = i;
        check_start(&threads[i], set_many, &setters[i]);
    }
    for (size_t i = 0; i < CHECK_COUNT(threads); i++) {
        check_join(&threads[i]);
        shared_run_fini(&setters[i].dict);
    }
    enter(&dict);
    CHECK_EQ(shared_dict_count(&dict), 12000);
    for (uint64_t i = 0; i < 16000; i++) {
        CHECK(has(&dict, number(i)) == (i % 4 != 2));
    }
    shared_run_leave(&dict);
    run_free(&dict);
}

#if !defined(__SANITIZE_THREAD__)

// ---- death ----

// Of all that is there; and what is there is found, and counted.
static uint64_t
sum_of(shared_run *dict)
{
    uint64_t sum = 0;
    uint32_t count = 0;
    for (uint32_t place = shared_dict_next(dict, 0); place != SHARED_DICT_NOWHERE; count++) {
        shared_item key = shared_dict_get(dict, place, SHARED_DICT_KEY);
        CHECK_EQ(shared_dict_find(dict, &key), place);
        for (int part = 0; part < SHARED_DICT_PARTS; part++) {
            sum = add_to_sum(sum, shared_dict_get(dict, place, part));
        }
        place = shared_dict_next(dict, place + 1);
    }
    CHECK_EQ(shared_dict_count(dict), count);
    CHECK(!has(dict, text("missing")));
    return sum + count;
}

static const unsigned char filling[VALUE_BYTES] = "the first bytes of much that follows";

static void
fill(scene *s)
{
    CHECK_EQ(shared_dict_clear(&s->run), 0);
    for (uint32_t i = 0; i < s->filler; i++) {
        CHECK_EQ(set(&s->run, number(i), (shared_item){.bytes = filling, .size = s->size}), 0);
    }
}

static void
set_first_of(shared_run *dict)
{
    CHECK_EQ(set(dict, number(0), text("other")), 0);
}

static void
go_on(shared_run *dict)
{
    CHECK_EQ(set(dict, text("goes"), text("on")), 0);
    CHECK(drop(dict, text("goes")));
}

static void
die_in(void (*change)(scene *s), uint32_t filler, uint64_t size, bool is_full, uint64_t stride)
{
    scene s = {
        .run = run_new(&shared_dict_kind),
        .fill = fill,
        .change = change,
        .sum = sum_of,
        .go_on = go_on,
        .replace = set_first_of,
        .filler = filler,
        .size = size,
    };
    scene_die(&s, is_full, stride);
    run_free(&s.run);
}

static void
set_first(scene *s)
{
    set_first_of(&s->run);
}

static void
add_one(scene *s)
{
    const shared_item parts[] = {text("more"), text("MORE"), text("value")};
    CHECK_EQ(shared_dict_set(&s->run, parts), 0);
}

static void
update(scene *s)
{
    const shared_item parts[] = {
        text("a"),
        {0},
        text("new"),
        number(1),
        {0},
        number(5),
        number(9),
        {0},
        text(""),
    };
    CHECK_EQ(shared_dict_update(&s->run, parts, 3), 0);
}

static void
drop_first(scene *s)
{
    CHECK(drop(&s->run, number(0)));
}

static void
drop_second(scene *s)
{
    CHECK(drop(&s->run, number(1)));
}

static void
drop_last(scene *s)
{
    CHECK(drop(&s->run, number(s->filler - 1)));
}

static void
drop_all(scene *s)
{
    CHECK_EQ(shared_dict_clear(&s->run), 0);
}

// Dies with the index made anew half way, after somebody who died in a change.
static void
look_after_death(scene *s)
{
    shared_run_count_change(&s->run);
    CHECK_EQ(shared_dict_count(&s->run), s->filler);
    drop_second(s);
}

static void
who_dies_in_a_change_leaves_the_old_or_the_new(void)
{
    die_in(add_one, 0, 10, false, STRIDE);
    die_in(add_one, 3, 10, false, 17);
    die_in(add_one, 8, 10, false, STRIDE);  // a new table
    die_in(set_first, 3, 10, false, 17);
    die_in(update, 3, 10, false, STRIDE);
    die_in(drop_first, 3, 10, false, 17);
    die_in(drop_second, 3, 10, false, 17);
    die_in(drop_last, 3, 10, false, 17);
    die_in(drop_first, 1, 10, false, STRIDE);
    die_in(drop_all, 3, 10, false, STRIDE);
    die_in(look_after_death, 5, 10, false, 17);
}

static void
who_dies_in_a_move_leaves_the_old_or_the_new(void)
{
    die_in(set_first, 3, 10, true, 3 * STRIDE);
    die_in(update, 3, 10, true, 3 * STRIDE);
    die_in(drop_all, 30, VALUE_BYTES, false, STRIDE);  // gives its run back
}

#endif

static const check_test tests[] = {
    CHECK_TEST(keys_come_and_go),
    CHECK_TEST(keys_keep_their_order),
    CHECK_TEST(a_key_is_shown_as_it_first_came),
    CHECK_TEST(many_keys_take_memory_and_give_it_back),
    CHECK_TEST(few_keys_that_change_take_little),
    CHECK_TEST(what_finds_no_room_changes_nothing),
    CHECK_TEST(another_mapping_sees_the_same),
    CHECK_TEST(no_key_is_lost_among_threads),
#if !defined(__SANITIZE_THREAD__)
    CHECK_TEST(who_dies_in_a_change_leaves_the_old_or_the_new),
    CHECK_TEST(who_dies_in_a_move_leaves_the_old_or_the_new),
#endif
};

int
main(int argc, char **argv)
{
    return check_run(tests, CHECK_COUNT(tests), argc, argv);
}
