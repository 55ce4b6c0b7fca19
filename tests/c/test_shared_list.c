// Tests of core/shared_list.
#define _GNU_SOURCE
#include "core/shared_list.h"

#include "check_run.h"

#define ITEM_BYTES 5000
#define STRIDE 23  // with 1 it takes minutes

static void
push(shared_run *list, shared_item item)
{
    uint32_t count = shared_list_count(list);
    CHECK_EQ(shared_list_splice(list, count, count, &item, 1), 0);
}

static void
check_is_number(shared_run *list, uint32_t place, uint64_t value)
{
    shared_item item = shared_list_get(list, place);
    CHECK(item.bytes == NULL);
    CHECK_EQ(item.word >> 1, value);
}

static void
check_is_text(shared_run *list, uint32_t place, const char *string)
{
    CHECK(is_text(shared_list_get(list, place), string));
}

// ---- as a list ----

static void
items_come_and_go(void)
{
    shared_run list = run_new(&shared_list_kind);
    enter(&list);
    CHECK_EQ(shared_list_count(&list), 0);
    push(&list, number(1));
    push(&list, text("two"));
    push(&list, text(""));
    CHECK_EQ(shared_list_count(&list), 3);
    check_is_number(&list, 0, 1);
    check_is_text(&list, 1, "two");
    check_is_text(&list, 2, "");
    shared_item items[] = {number(7), text("eight")};
    CHECK_EQ(shared_list_set(&list, 0, &items[1]), 0);
    CHECK_EQ(shared_list_set(&list, 1, &items[0]), 0);
    check_is_text(&list, 0, "eight");
    check_is_number(&list, 1, 7);
    CHECK_EQ(shared_list_splice(&list, 1, 2, items, 2), 0);  // in the middle
    CHECK_EQ(shared_list_count(&list), 4);
    check_is_number(&list, 1, 7);
    check_is_text(&list, 2, "eight");
    check_is_text(&list, 3, "");
    CHECK_EQ(shared_list_splice(&list, 3, 4, NULL, 0), 0);
    CHECK_EQ(shared_list_splice(&list, 0, 1, NULL, 0), 0);
    CHECK_EQ(shared_list_count(&list), 2);
    const uint32_t order[] = {1, 0, SHARED_LIST_NEW, 1};
    shared_item more = text("new");
    CHECK_EQ(shared_list_rebuild(&list, order, 4, &more, 1), 0);
    check_is_text(&list, 0, "eight");
    check_is_number(&list, 1, 7);
    check_is_text(&list, 2, "new");
    check_is_text(&list, 3, "eight");
    CHECK_EQ(shared_list_splice(&list, 0, 4, NULL, 0), 0);
    CHECK_EQ(shared_list_count(&list), 0);
    push(&list, number(3));
    check_is_number(&list, 0, 3);
    shared_run_leave(&list);
    run_free(&list);
}

static void
many_items_take_memory_and_give_it_back(void)
{
    shared_run list = run_new(&shared_list_kind);
    char string[32];
    uint64_t before = memory_of(&list);
    enter(&list);
    for (uint64_t i = 0; i < 50000; i++) {
        snprintf(string, sizeof(string), "number %d", (int)i);
        push(&list, i % 2 == 0 ? number(i) : text(string));
    }
    uint64_t version = shared_run_version(&list);
    uint64_t full = shared_run_bytes(&list);
    // Three times over, each item anew.
    for (uint64_t i = 0; i < 150000; i++) {
        shared_item item = text(i % 3 == 0 ? "some" : "thing");
        CHECK_EQ(shared_list_set(&list, (uint32_t)(i % 50000), &item), 0);
    }
    CHECK_EQ(shared_run_version(&list) - version, 150000);
    CHECK(shared_run_bytes(&list) < 4 * full);
    for (uint32_t i = 0; i < 50000; i++) {
        check_is_text(&list, i, (i + 100000) % 3 == 0 ? "some" : "thing");
    }
    // From both ends, down to one.
    for (uint32_t count = 50000; count > 1; count--) {
        uint32_t place = count % 2 == 0 ? 0 : count - 1;
        CHECK_EQ(shared_list_splice(&list, place, place + 1, NULL, 0), 0);
    }
    CHECK(shared_run_bytes(&list) <= SHARED_UNIT_BYTES * 2);
    CHECK_EQ(shared_list_splice(&list, 0, 1, NULL, 0), 0);
    shared_run_leave(&list);
    CHECK(memory_of(&list) < before + SHARED_UNIT_BYTES + 8192);  // and of the table of units
    run_free(&list);
}

static void
a_queue_of_few_takes_little(void)
{
    shared_run list = run_new(&shared_list_kind);
    enter(&list);
    for (uint64_t i = 0; i < 100000; i++) {
        push(&list, text("a message"));
        if (i >= 5) {
            CHECK_EQ(shared_list_splice(&list, 0, 1, NULL, 0), 0);
        }
    }
    CHECK_EQ(shared_list_count(&list), 5);
    CHECK(shared_run_bytes(&list) <= sizeof(shared_cell) + SHARED_UNIT_BYTES);
    shared_run_leave(&list);
    run_free(&list);
}

static void
large_items_fit(void)
{
    shared_run list = run_new(&shared_list_kind);
    static unsigned char bytes[5 << 20];
    shared_item item = {.bytes = bytes, .size = sizeof(bytes)};
    bytes[sizeof(bytes) - 1] = 9;
    enter(&list);
    push(&list, number(1));
    push(&list, item);
    push(&list, item);
    CHECK_EQ(shared_list_set(&list, 1, &item), 0);
    CHECK_EQ(shared_list_get(&list, 2).bytes[sizeof(bytes) - 1], 9);
    check_is_number(&list, 0, 1);
    item.size = UINT64_C(1) << 50;
    CHECK_EQ(shared_list_set(&list, 1, &item), SHARED_HEAP_FULL);
    CHECK_EQ(shared_list_splice(&list, 3, 3, &item, 1), SHARED_HEAP_FULL);
    CHECK_EQ(shared_list_count(&list), 3);
    shared_run_leave(&list);
    run_free(&list);
}

// ---- beside others ----

static void
another_mapping_sees_the_same(void)
{
    shared_run list = run_new(&shared_list_kind);
    shared_run other = run_again(&list);
    for (uint32_t i = 0; i < 20000; i++) {
        shared_run *one = i % 3 == 0 ? &list : &other;
        enter(one);
        CHECK_EQ(shared_list_count(one), i);
        push(one, text("something of some length"));
        shared_run_leave(one);
    }
    run_again_free(&other);
    run_free(&list);
}

typedef struct pusher {
    shared_run list;
    uint64_t number;
} pusher;

static void
push_many(void *arg)
{
    pusher *p = arg;
    for (uint64_t i = 0; i < 5000; i++) {
        enter(&p->list);
        push(&p->list, number(p->number * 5000 + i));
        shared_run_leave(&p->list);
    }
}

static void
no_item_is_lost_among_threads(void)
{
    shared_run list = run_new(&shared_list_kind);
    pusher pushers[4];
    check_thread threads[4];
    for (size_t i = 0; i < CHECK_COUNT(threads); i++) {
        // Each with a view of its own.
        shared_run_init(&pushers[i].list, &shared_list_kind, list.heap, list.index);
        pushers[i].number = i;
        check_start(&threads[i], push_many, &pushers[i]);
    }
    for (size_t i = 0; i < CHECK_COUNT(threads); i++) {
        check_join(&threads[i]);
        shared_run_fini(&pushers[i].list);
    }
    uint64_t sum = 0;
    enter(&list);
    CHECK_EQ(shared_list_count(&list), 20000);
    for (uint32_t i = 0; i < 20000; i++) {
        sum += shared_list_get(&list, i).word >> 1;
    }
    shared_run_leave(&list);
    CHECK_EQ(sum, UINT64_C(20000) * 19999 / 2);
    run_free(&list);
}

#if !defined(__SANITIZE_THREAD__)

// ---- death ----

static uint64_t
sum_of(shared_run *list)
{
    uint64_t sum = shared_list_count(list);
    for (uint32_t i = 0; i < shared_list_count(list); i++) {
        sum = add_to_sum(sum, shared_list_get(list, i));
    }
    return sum;
}

static const unsigned char filling[ITEM_BYTES] = "the first bytes of much that follows";

static void
set_first_of(shared_run *list)
{
    shared_item item = text("other");
    CHECK_EQ(shared_list_set(list, 0, &item), 0);
}

static void
fill(scene *s)
{
    CHECK_EQ(shared_list_splice(&s->run, 0, shared_list_count(&s->run), NULL, 0), 0);
    for (uint32_t i = 0; i < s->filler; i++) {
        push(&s->run, i == 1 ? text("one") : (shared_item){.bytes = filling, .size = s->size});
    }
}

static void
go_on(shared_run *list)
{
    push(list, text("goes on"));
}

static void
die_in(void (*change)(scene *s), uint32_t filler, uint64_t size, bool is_full, uint64_t stride)
{
    scene s = {
        .run = run_new(&shared_list_kind),
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
append_one(scene *s)
{
    push(&s->run, text("more"));
}

static void
append_two(scene *s)
{
    shared_item items[] = {text("more"), number(5)};
    uint32_t count = shared_list_count(&s->run);
    CHECK_EQ(shared_list_splice(&s->run, count, count, items, 2), 0);
}

static void
insert(scene *s)
{
    shared_item items[] = {text("between"), number(5)};
    CHECK_EQ(shared_list_splice(&s->run, 1, 2, items, 2), 0);
}

static void
take_first(scene *s)
{
    CHECK_EQ(shared_list_splice(&s->run, 0, 1, NULL, 0), 0);
}

static void
take_last(scene *s)
{
    uint32_t count = shared_list_count(&s->run);
    CHECK_EQ(shared_list_splice(&s->run, count - 1, count, NULL, 0), 0);
}

static void
take_all(scene *s)
{
    CHECK_EQ(shared_list_splice(&s->run, 0, shared_list_count(&s->run), NULL, 0), 0);
}

static void
turn(scene *s)
{
    const uint32_t order[] = {2, SHARED_LIST_NEW, 0};
    shared_item item = text("in the middle");
    CHECK_EQ(shared_list_rebuild(&s->run, order, 3, &item, 1), 0);
}

static void
who_dies_in_a_change_leaves_the_old_or_the_new(void)
{
    die_in(append_one, 0, 10, false, STRIDE);
    die_in(append_one, 3, 10, false, 7);
    die_in(append_two, 3, 10, false, STRIDE);
    die_in(append_two, 6, 10, false, STRIDE);  // a new table
    die_in(set_first, 3, 10, false, 7);
    die_in(insert, 4, 10, false, STRIDE);
    die_in(take_first, 3, 10, false, STRIDE);
    die_in(take_last, 3, 10, false, STRIDE);
    die_in(take_all, 3, 10, false, STRIDE);
    die_in(turn, 3, 10, false, STRIDE);
}

static void
who_dies_in_a_move_leaves_the_old_or_the_new(void)
{
    die_in(set_first, 3, 10, true, 3 * STRIDE);
    die_in(insert, 3, 10, true, 3 * STRIDE);
    die_in(take_all, 30, ITEM_BYTES, false, STRIDE);  // gives its run back
}

#endif

static const check_test tests[] = {
    CHECK_TEST(items_come_and_go),
    CHECK_TEST(many_items_take_memory_and_give_it_back),
    CHECK_TEST(a_queue_of_few_takes_little),
    CHECK_TEST(large_items_fit),
    CHECK_TEST(another_mapping_sees_the_same),
    CHECK_TEST(no_item_is_lost_among_threads),
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
