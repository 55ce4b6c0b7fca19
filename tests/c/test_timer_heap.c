// Tests of core/timer_heap.
#define _GNU_SOURCE
#include "core/timer_heap.h"

#include "check.h"

#define NODES 2000

static timer_node nodes[NODES];

// Whether no node of a tree is due before its parent, and each is where its place says.
static uint32_t
count_sound(timer_node *const *place, int64_t after_ns)
{
    uint32_t count = 0;
    for (timer_node *node = *place; node != NULL; place = &node->sibling, node = *place) {
        CHECK(node->place == place);
        CHECK(node->due_ns >= after_ns);
        count += 1 + count_sound(&node->child, node->due_ns);
    }
    return count;
}

static void
the_earliest_is_first(void)
{
    timer_heap heap = {0};
    CHECK_EQ(timer_heap_due(&heap), INT64_MAX);
    for (uint32_t i = 0; i < NODES; i++) {
        timer_heap_insert(&heap, &nodes[i], (int64_t)((i * 7919u) % NODES));
    }
    CHECK_EQ(count_sound(&heap.first, 0), NODES);
    for (int64_t due = 0; due < NODES; due++) {
        CHECK_EQ(timer_heap_due(&heap), due);
        timer_heap_remove(heap.first);
        CHECK(due % 100 != 0 || count_sound(&heap.first, due) == NODES - 1 - (uint32_t)due);
    }
    CHECK(heap.first == NULL);
}

static void
those_that_are_due_together_are_all_there(void)
{
    timer_heap heap = {0};
    for (uint32_t i = 0; i < NODES; i++) {
        timer_heap_insert(&heap, &nodes[i], 5);
    }
    uint32_t count = 0;
    while (heap.first != NULL) {
        timer_heap_remove(heap.first);
        count++;
    }
    CHECK_EQ(count, NODES);
}

static void
any_node_can_leave(void)
{
    timer_heap heap = {0};
    uint32_t in_heap = 0;
    bool is_in[NODES] = {0};
    for (uint32_t i = 0; i < NODES; i++) {
        nodes[i] = (timer_node){0};
    }
    srand(1);
    for (uint32_t step = 0; step < 20 * NODES; step++) {
        uint32_t i = (uint32_t)rand() % NODES;
        timer_heap_remove(&nodes[i]);  // or does nothing
        in_heap -= is_in[i];
        is_in[i] = rand() % 2 == 0;
        if (is_in[i]) {
            timer_heap_insert(&heap, &nodes[i], rand() % 500);
            in_heap++;
        }
        if (step % 97 == 0) {
            CHECK_EQ(count_sound(&heap.first, 0), in_heap);
        }
    }
    int64_t least = INT64_MAX;
    for (uint32_t i = 0; i < NODES; i++) {
        least = is_in[i] && nodes[i].due_ns < least ? nodes[i].due_ns : least;
    }
    CHECK_EQ(timer_heap_due(&heap), least);
}

static void
timers_in_order_are_cheap(void)
{
    // As calls with one timeout come: each is due after the others, and mostly the first one leaves.
    timer_heap heap = {0};
    for (uint32_t i = 0; i < NODES; i++) {
        timer_heap_insert(&heap, &nodes[i], i);
        CHECK(heap.first == &nodes[0]);
    }
    for (uint32_t i = 0; i < NODES; i++) {
        CHECK(heap.first == &nodes[i]);
        timer_heap_remove(&nodes[i]);
    }
}

int
main(int argc, char **argv)
{
    static const check_test tests[] = {
        CHECK_TEST(the_earliest_is_first),
        CHECK_TEST(those_that_are_due_together_are_all_there),
        CHECK_TEST(any_node_can_leave),
        CHECK_TEST(timers_in_order_are_cheap),
    };
    return check_run(tests, CHECK_COUNT(tests), argc, argv);
}
