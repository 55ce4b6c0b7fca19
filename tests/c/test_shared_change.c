// Tests of core/shared_change: containers whose items refer to cells.
#define _GNU_SOURCE
#include "core/shared_change.h"

#include "check_run.h"
#include "core/shared_dict.h"
#include "core/shared_heap_cells.h"
#include "core/shared_heap_memory.h"
#include "core/shared_heap_open.h"
#include "core/shared_heap_parties.h"
#include "core/shared_list.h"

#define STRIDE 173  // with 1 it takes minutes
#define HEAD_BYTES (SHARED_ITEM_HEAD_BYTES + sizeof(uint32_t))

// An item that refers to a cell, and tells its serial.
typedef struct reference {
    unsigned char bytes[HEAD_BYTES + sizeof(uint64_t)];
    uint32_t cell;
} reference;

static reference
refer(shared_heap *heap, uint32_t cell)
{
    reference r = {.cell = cell};
    uint64_t serial = shared_heap_cell(heap, cell)->serial;
    shared_item_write_head(r.bytes, &cell, 1);
    memcpy(r.bytes + HEAD_BYTES, &serial, sizeof(serial));
    return r;
}

static shared_item
item_of(const reference *r)
{
    return (shared_item){.bytes = r->bytes, .size = sizeof(r->bytes)};
}

static uint32_t
make(shared_heap *heap)
{
    uint32_t cell;
    if (shared_heap_make(heap, &cell) != 0) {
        _exit(1);
    }
    return cell;
}

static void
push(shared_run *list, shared_item item)
{
    uint32_t count = shared_list_count(list);
    CHECK_EQ(shared_list_splice(list, count, count, &item, 1), 0);
}

// Adds an item that refers to a cell that nobody else has.
static void
push_new(shared_run *list)
{
    reference r = refer(list->heap, make(list->heap));
    push(list, item_of(&r));
    shared_heap_drop(list->heap, r.cell);
}

static void
a_list_holds_what_its_items_refer_to(void)
{
    shared_run list = run_new(&shared_list_kind);
    enter(&list);
    for (int i = 0; i < 4; i++) {
        push_new(&list);
    }
    push(&list, number(1));
    CHECK_EQ(shared_heap_used(list.heap), 5);
    shared_item other = text("other");
    CHECK_EQ(shared_list_set(&list, 3, &other), 0);
    CHECK_EQ(shared_heap_used(list.heap), 4);
    const uint32_t order[] = {2, 2, 1, SHARED_LIST_NEW};
    CHECK_EQ(shared_list_rebuild(&list, order, 4, &other, 1), 0);
    CHECK_EQ(shared_heap_used(list.heap), 3);
    CHECK_EQ(shared_list_splice(&list, 0, 1, NULL, 0), 0);
    CHECK_EQ(shared_heap_used(list.heap), 3);
    CHECK_EQ(shared_list_splice(&list, 0, 1, NULL, 0), 0);
    CHECK_EQ(shared_heap_used(list.heap), 2);
    CHECK_EQ(shared_list_splice(&list, 0, 2, NULL, 0), 0);
    CHECK_EQ(shared_heap_used(list.heap), 1);
    push_new(&list);
    shared_run_leave(&list);
    run_free(&list);  // and what it holds
}

static void
a_dict_holds_what_its_values_refer_to(void)
{
    shared_run dict = run_new(&shared_dict_kind);
    shared_heap *heap = dict.heap;
    reference r[4];
    shared_item parts[4 * SHARED_DICT_PARTS];
    enter(&dict);
    for (int i = 0; i < 4; i++) {
        r[i] = refer(heap, make(heap));
        // The last two have one key.
        shared_item pair[] = {number(i == 3 ? 2 : (uint64_t)i), {0}, item_of(&r[i])};
        memcpy(&parts[i * SHARED_DICT_PARTS], pair, sizeof(pair));
    }
    CHECK_EQ(shared_dict_update(&dict, parts, 4), 0);
    for (int i = 0; i < 4; i++) {
        shared_heap_drop(heap, r[i].cell);
    }
    CHECK_EQ(shared_heap_used(heap), 4);
    parts[SHARED_DICT_VALUE] = number(7);
    CHECK_EQ(shared_dict_set(&dict, parts), 0);
    CHECK_EQ(shared_heap_used(heap), 3);
    CHECK_EQ(shared_dict_remove(&dict, shared_dict_find(&dict, &parts[SHARED_DICT_PARTS])), 0);
    CHECK_EQ(shared_heap_used(heap), 2);
    CHECK_EQ(shared_dict_clear(&dict), 0);
    CHECK_EQ(shared_heap_used(heap), 1);
    shared_run_leave(&dict);
    run_free(&dict);
}

static void
a_change_that_fails_holds_nothing(void)
{
    shared_run list = run_new(&shared_list_kind);
    uint32_t cell = make(list.heap);
    reference r = refer(list.heap, cell);
    shared_item items[] = {item_of(&r), {.bytes = r.bytes, .size = UINT64_C(1) << 50}};
    enter(&list);
    CHECK_EQ(shared_list_splice(&list, 0, 0, items, 2), SHARED_HEAP_FULL);
    shared_heap_drop(list.heap, cell);
    CHECK_EQ(shared_heap_used(list.heap), 1);
    shared_run_leave(&list);
    run_free(&list);
}

#if !defined(__SANITIZE_THREAD__)

// ---- death ----
//
// The list has an item that refers to a container, which holds another cell, and two like a_list's.  A child
// that is a party of its own changes it and dies.

// What an item refers to is there.
static void
check_is_there(shared_heap *heap, shared_item item)
{
    if (shared_item_refs(&item) != 0) {
        uint32_t cell;
        uint64_t serial;
        CHECK_EQ(shared_item_refs(&item), 1);
        memcpy(&cell, item.bytes + SHARED_ITEM_HEAD_BYTES, sizeof(cell));
        memcpy(&serial, item.bytes + HEAD_BYTES, sizeof(serial));
        CHECK_EQ(shared_heap_attach(heap, cell, serial), 0);
        shared_heap_drop(heap, cell);
    }
}

typedef struct death {
    shared_run list;
    void (*change)(shared_run *list);
} death;

static void
fill(void *arg)
{
    shared_run *list = &((death *)arg)->list;
    shared_heap *heap = list->heap;
    uint32_t unit, inner = make(heap), innermost = make(heap);
    reference r = refer(heap, inner);
    CHECK_EQ(shared_heap_take(heap, innermost, 0, &unit), 0);
    CHECK_EQ(shared_heap_hold(heap, inner, &innermost, 1), 0);
    enter(list);
    push(list, item_of(&r));
    push_new(list);
    push_new(list);
    shared_run_leave(list);
    shared_heap_drop(heap, inner);
    shared_heap_drop(heap, innermost);
    shared_heap_before_fork(heap);
}

static void
look(void *arg)
{
    shared_run *list = &((death *)arg)->list;
    enter(list);
    uint32_t count = shared_list_count(list);
    CHECK(count >= 2 && count <= 4);
    for (uint32_t i = 0; i < count; i++) {
        check_is_there(list->heap, shared_list_get(list, i));
    }
    CHECK_EQ(shared_list_splice(list, 0, count, NULL, 0), 0);
    shared_run_leave(list);
    // Nothing has been lost, and the heap and the list are as good as new.
    CHECK_EQ(shared_heap_used(list->heap), 1);
}

static void
run_change(void *arg)
{
    death *d = arg;
    shared_heap_after_fork(d->list.heap);
    d->change(&d->list);
}

// A row whose child was killed before it took it is free after some more forks.
static void
end(death *d)
{
    shared_heap *heap = d->list.heap;
    shared_run_fini(&d->list);
    shared_heap_drop(heap, d->list.index);
    for (int i = 0; i < SHARED_HEAP_RESERVATIONS; i++) {
        shared_heap_before_fork(heap);
    }
    CHECK_EQ(shared_heap_used(heap), 0);
    shared_heap_close(heap);
}

static void
enter_or_end(shared_run *list)
{
    if (shared_run_enter(list, FUTEX_NO_DEADLINE) != 0) {
        _exit(1);
    }
}

static void
replace(shared_run *list)
{
    reference r = refer(list->heap, make(list->heap));
    shared_item item = item_of(&r);
    enter_or_end(list);
    int rc = shared_list_set(list, 0, &item);
    shared_run_leave(list);
    shared_heap_drop(list->heap, r.cell);
    if (rc != 0) {
        _exit(1);
    }
}

// One step for a list, and several for what it holds.
static void
append(shared_run *list)
{
    enter_or_end(list);
    push_new(list);
    shared_run_leave(list);
}

// As who pops an item: it is a user of the cell before the item is gone.
static void
take(shared_run *list)
{
    uint32_t cell;
    enter_or_end(list);
    shared_item item = shared_list_get(list, 0);
    memcpy(&cell, item.bytes + SHARED_ITEM_HEAD_BYTES, sizeof(cell));
    int rc = shared_heap_share_each(list->heap, &cell, 1);
    rc = rc == 0 ? shared_list_splice(list, 0, 1, NULL, 0) : rc;
    shared_run_leave(list);
    shared_heap_drop(list->heap, cell);
    if (rc != 0) {
        _exit(1);
    }
}

static void
reorder(shared_run *list)
{
    const uint32_t order[] = {2, 1, 1};
    enter_or_end(list);
    int rc = shared_list_rebuild(list, order, 3, NULL, 0);
    shared_run_leave(list);
    if (rc != 0) {
        _exit(1);
    }
}

static void
die_in(void (*change)(shared_run *list))
{
    death d = {.list = run_new(&shared_list_kind), .change = change};
    check_child child = {.run = run_change, .arg = &d};
    bool is_dead = CHECK_STEPS_EACH > 0;
    // Not always in the same steps of what is done again and again.
    for (uint64_t i = 0; is_dead; i++) {
        fill(&d);
        is_dead = check_die_after(&child, i * STRIDE * CHECK_STEPS_EACH + i % STRIDE);
        look(&d);
    }
    end(&d);
}

static void
who_dies_in_a_change_leaves_no_cell_that_is_referred_to_gone_and_no_other(void)
{
    die_in(replace);
    die_in(take);
    die_in(reorder);
}

static void
who_dies_in_counting_again_leaves_it_to_the_next(void)
{
    death d = {.list = run_new(&shared_list_kind), .change = append};
    check_child child = {.run = run_change, .arg = &d};
    shared_heap *heap = d.list.heap;
    for (uint64_t steps = 0; CHECK_STEPS_EACH > 0 && steps < 2000; steps += STRIDE) {
        fill(&d);
        // As if who was killed had held a cell, and published nothing.
        uint32_t extra = make(heap);
        enter(&d.list);
        CHECK_EQ(shared_heap_hold(heap, d.list.index, &extra, 1), 0);
        shared_run_count_later(&d.list);
        shared_run_leave(&d.list);
        shared_heap_drop(heap, extra);
        check_die_after(&child, steps * CHECK_STEPS_EACH);
        look(&d);
    }
    end(&d);
}

#endif

static const check_test tests[] = {
    CHECK_TEST(a_list_holds_what_its_items_refer_to),
    CHECK_TEST(a_dict_holds_what_its_values_refer_to),
    CHECK_TEST(a_change_that_fails_holds_nothing),
#if !defined(__SANITIZE_THREAD__)
    CHECK_TEST(who_dies_in_a_change_leaves_no_cell_that_is_referred_to_gone_and_no_other),
    CHECK_TEST(who_dies_in_counting_again_leaves_it_to_the_next),
#endif
};

int
main(int argc, char **argv)
{
    return check_run(tests, CHECK_COUNT(tests), argc, argv);
}
