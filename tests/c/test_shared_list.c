// Tests of core/shared_list.
#define _GNU_SOURCE
#include "core/shared_list.h"

#include <sys/stat.h>

#include "check_steps.h"
#include "core/futex.h"

#define ITEM_BYTES 5000
#define STRIDE 23  // with 1 it takes minutes

typedef struct scene {
    shared_list list;
    void (*change)(struct scene *s);
    uint32_t filler;            // how many items there are before
    uint64_t size;              // of an item
    uint32_t waste;             // how often the first is replaced before: so often that the run is full
    uint64_t old_sum, new_sum;  // of the list before and after
    uint64_t memory;            // of the heap, with the list before
} scene;

static shared_list
list_new(void)
{
    shared_list list = {.heap = shared_heap_open(-1)};
    CHECK(list.heap != NULL);
    CHECK_EQ(shared_heap_make(list.heap, &list.index), 0);
    list.cell = shared_heap_cell(list.heap, list.index);
    return list;
}

static void
list_free(shared_list *list)
{
    shared_list_fini(list);
    shared_heap_drop(list->heap, list->index);
    CHECK_EQ(shared_heap_used(list->heap), 0);
    shared_heap_close(list->heap);
}

static void
enter(shared_list *list)
{
    CHECK_EQ(shared_list_enter(list, FUTEX_NO_DEADLINE), 0);
}

static uint64_t
memory_of(const shared_list *list)
{
    struct stat info;
    CHECK(fstat(shared_heap_fd(list->heap), &info) == 0);
    return (uint64_t)info.st_blocks * 512;
}

// ---- items: numbers are in the slot, texts beside it ----

static shared_item
number(uint64_t value)
{
    return (shared_item){.word = value << 1 | 1};
}

static shared_item
text(const char *string)
{
    return (shared_item){.bytes = (const unsigned char *)string, .size = strlen(string)};
}

static void
push(shared_list *list, shared_item item)
{
    uint32_t count = shared_list_count(list);
    CHECK_EQ(shared_list_splice(list, count, count, &item, 1), 0);
}

static void
check_is_number(shared_list *list, uint32_t place, uint64_t value)
{
    shared_item item = shared_list_get(list, place);
    CHECK(item.bytes == NULL);
    CHECK_EQ(item.word >> 1, value);
}

static void
check_is_text(shared_list *list, uint32_t place, const char *string)
{
    shared_item item = shared_list_get(list, place);
    CHECK(item.bytes != NULL && item.size == strlen(string) && memcmp(item.bytes, string, item.size) == 0);
}

// ---- as a list ----

static void
items_come_and_go(void)
{
    shared_list list = list_new();
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
    shared_list_leave(&list);
    list_free(&list);
}

static void
many_items_take_memory_and_give_it_back(void)
{
    shared_list list = list_new();
    char string[32];
    uint64_t before = memory_of(&list);
    enter(&list);
    for (uint64_t i = 0; i < 50000; i++) {
        snprintf(string, sizeof(string), "number %d", (int)i);
        push(&list, i % 2 == 0 ? number(i) : text(string));
    }
    uint64_t version = shared_list_version(&list);
    uint64_t full = shared_list_bytes(&list);
    // Three times over, each item anew.
    for (uint64_t i = 0; i < 150000; i++) {
        shared_item item = text(i % 3 == 0 ? "some" : "thing");
        CHECK_EQ(shared_list_set(&list, (uint32_t)(i % 50000), &item), 0);
    }
    CHECK_EQ(shared_list_version(&list) - version, 150000);
    CHECK(shared_list_bytes(&list) < 4 * full);
    for (uint32_t i = 0; i < 50000; i++) {
        check_is_text(&list, i, (i + 100000) % 3 == 0 ? "some" : "thing");
    }
    // From both ends, down to one.
    for (uint32_t count = 50000; count > 1; count--) {
        uint32_t place = count % 2 == 0 ? 0 : count - 1;
        CHECK_EQ(shared_list_splice(&list, place, place + 1, NULL, 0), 0);
    }
    CHECK(shared_list_bytes(&list) <= SHARED_UNIT_BYTES * 2);
    CHECK_EQ(shared_list_splice(&list, 0, 1, NULL, 0), 0);
    shared_list_leave(&list);
    CHECK(memory_of(&list) < before + SHARED_UNIT_BYTES + 8192);  // and of the table of units
    list_free(&list);
}

static void
a_queue_of_few_takes_little(void)
{
    shared_list list = list_new();
    enter(&list);
    for (uint64_t i = 0; i < 100000; i++) {
        push(&list, text("a message"));
        if (i >= 5) {
            CHECK_EQ(shared_list_splice(&list, 0, 1, NULL, 0), 0);
        }
    }
    CHECK_EQ(shared_list_count(&list), 5);
    CHECK(shared_list_bytes(&list) <= sizeof(shared_cell) + SHARED_UNIT_BYTES);
    shared_list_leave(&list);
    list_free(&list);
}

static void
large_items_fit(void)
{
    shared_list list = list_new();
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
    shared_list_leave(&list);
    list_free(&list);
}

// ---- beside others ----

static void
another_mapping_sees_the_same(void)
{
    shared_list list = list_new();
    shared_list other = {.heap = shared_heap_open(shared_heap_fd(list.heap)), .index = list.index};
    CHECK(other.heap != NULL);
    CHECK_EQ(shared_heap_attach(other.heap, list.index, list.cell->serial), 0);
    other.cell = shared_heap_cell(other.heap, other.index);
    for (uint32_t i = 0; i < 20000; i++) {
        shared_list *one = i % 3 == 0 ? &list : &other;
        enter(one);
        CHECK_EQ(shared_list_count(one), i);
        push(one, text("something of some length"));
        shared_list_leave(one);
    }
    shared_list_fini(&other);
    shared_heap_drop(other.heap, other.index);
    shared_heap_close(other.heap);
    list_free(&list);
}

typedef struct pusher {
    shared_list list;
    uint64_t number;
} pusher;

static void
push_many(void *arg)
{
    pusher *p = arg;
    for (uint64_t i = 0; i < 5000; i++) {
        enter(&p->list);
        push(&p->list, number(p->number * 5000 + i));
        shared_list_leave(&p->list);
    }
}

static void
no_item_is_lost_among_threads(void)
{
    shared_list list = list_new();
    pusher pushers[4];
    check_thread threads[4];
    for (size_t i = 0; i < CHECK_COUNT(threads); i++) {
        // Each with a view of its own.
        pushers[i].list = (shared_list){.heap = list.heap, .cell = list.cell, .index = list.index};
        pushers[i].number = i;
        check_start(&threads[i], push_many, &pushers[i]);
    }
    for (size_t i = 0; i < CHECK_COUNT(threads); i++) {
        check_join(&threads[i]);
        shared_list_fini(&pushers[i].list);
    }
    uint64_t sum = 0;
    enter(&list);
    CHECK_EQ(shared_list_count(&list), 20000);
    for (uint32_t i = 0; i < 20000; i++) {
        sum += shared_list_get(&list, i).word >> 1;
    }
    shared_list_leave(&list);
    CHECK_EQ(sum, UINT64_C(20000) * 19999 / 2);
    list_free(&list);
}

#if !defined(__SANITIZE_THREAD__)

// ---- death: after every step the list is the old or the new, and has no memory that it does not name ----

static uint64_t
sum_of(shared_list *list)
{
    uint64_t sum = shared_list_count(list);
    for (uint32_t i = 0; i < shared_list_count(list); i++) {
        shared_item item = shared_list_get(list, i);
        sum = sum * 31 + item.word;
        for (uint64_t j = 0; j < item.size; j++) {
            sum = sum * 31 + item.bytes[j];
        }
    }
    return sum;
}

static const unsigned char filling[ITEM_BYTES] = "the first bytes of much that follows";

static void
set_first(scene *s)
{
    shared_item item = text("other");
    CHECK_EQ(shared_list_set(&s->list, 0, &item), 0);
}

static void
fill(scene *s)
{
    enter(&s->list);
    CHECK_EQ(shared_list_splice(&s->list, 0, shared_list_count(&s->list), NULL, 0), 0);
    for (uint32_t i = 0; i < s->filler; i++) {
        push(&s->list, i == 1 ? text("one") : (shared_item){.bytes = filling, .size = s->size});
    }
    for (uint32_t i = 0; i < s->waste; i++) {
        set_first(s);
    }
    s->old_sum = sum_of(&s->list);
    shared_list_leave(&s->list);
}

static void
run_change(void *arg)
{
    scene *s = arg;
    if (shared_list_enter(&s->list, FUTEX_NO_DEADLINE) != 0) {
        _exit(1);
    }
    s->change(s);
    shared_list_leave(&s->list);
}

static void
look(scene *s)
{
    enter(&s->list);
    uint64_t sum = sum_of(&s->list);
    CHECK(sum == s->old_sum || sum == s->new_sum);
    push(&s->list, text("goes on"));
    CHECK(memory_of(&s->list) <= s->memory);
    shared_list_leave(&s->list);
}

// The most memory that a list has on this way, with nobody dying; and what it is then.
static void
learn(scene *s)
{
    shared_list *list = &s->list;
    for (int i = 0; i < 2; i++) {
        fill(s);
        s->memory = memory_of(list) > s->memory ? memory_of(list) : s->memory;
        run_change(s);
        enter(list);
        s->new_sum = sum_of(list);
        push(list, text("goes on"));
        s->memory = memory_of(list) > s->memory ? memory_of(list) : s->memory;
        shared_list_leave(list);
    }
}

// How often the first item can be replaced until the run is full.
static uint32_t
find_waste(scene *s)
{
    uint32_t count = 0;
    fill(s);
    enter(&s->list);
    for (uint32_t unit = s->list.unit; unit == s->list.unit; count++) {
        set_first(s);
    }
    shared_list_leave(&s->list);
    return count - 1;
}

// Dies after every `stride` steps, of a list that is full or has room.
static void
die_in(void (*change)(scene *s), uint32_t filler, uint64_t size, bool is_full, uint64_t stride)
{
    scene s = {.list = list_new(), .change = change, .filler = filler, .size = size};
    check_child child = {.run = run_change, .arg = &s};
    s.waste = is_full ? find_waste(&s) : 0;
    learn(&s);
    bool is_dead = CHECK_STEPS_EACH > 0;
    for (uint64_t steps = 0; is_dead; steps += CHECK_STEPS_EACH * stride) {
        fill(&s);
        is_dead = check_die_after(&child, steps);
        look(&s);
    }
    list_free(&s.list);
}

static void
append_one(scene *s)
{
    push(&s->list, text("more"));
}

static void
append_two(scene *s)
{
    shared_item items[] = {text("more"), number(5)};
    uint32_t count = shared_list_count(&s->list);
    CHECK_EQ(shared_list_splice(&s->list, count, count, items, 2), 0);
}

static void
insert(scene *s)
{
    shared_item items[] = {text("between"), number(5)};
    CHECK_EQ(shared_list_splice(&s->list, 1, 2, items, 2), 0);
}

static void
take_first(scene *s)
{
    CHECK_EQ(shared_list_splice(&s->list, 0, 1, NULL, 0), 0);
}

static void
take_last(scene *s)
{
    uint32_t count = shared_list_count(&s->list);
    CHECK_EQ(shared_list_splice(&s->list, count - 1, count, NULL, 0), 0);
}

static void
take_all(scene *s)
{
    CHECK_EQ(shared_list_splice(&s->list, 0, shared_list_count(&s->list), NULL, 0), 0);
}

static void
turn(scene *s)
{
    const uint32_t order[] = {2, SHARED_LIST_NEW, 0};
    shared_item item = text("in the middle");
    CHECK_EQ(shared_list_rebuild(&s->list, order, 3, &item, 1), 0);
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
