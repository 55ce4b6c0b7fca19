// Tests of core/shared_queue.
#define _GNU_SOURCE
#include "core/shared_heap_cells.h"
#include "core/shared_heap_open.h"
#include "core/shared_queue.h"

#include "check_run.h"
#include "core/clock.h"

#define LONG_NS INT64_C(600000000000)
#define STRIDE 53  // with 1 it takes minutes

typedef struct scene_queue {
    shared_queue queue;
    uint32_t doors[SHARED_QUEUE_DOORS];
    check_thread waiter;
    bool is_waiting;  // that thread
    _Atomic uint32_t passed;
    // Of a change in which the child dies:
    uint32_t limit, filler;
    uint64_t size;
    void (*change)(struct scene_queue *s);
    uint64_t old_sum, new_sum, memory;
} scene_queue;

static void
queue_view(shared_queue *view, scene_queue *s, shared_heap *heap, uint32_t index)
{
    shared_cell *cells[SHARED_QUEUE_DOORS];
    for (size_t i = 0; i < SHARED_QUEUE_DOORS; i++) {
        cells[i] = shared_heap_cell(heap, s->doors[i]);
    }
    shared_queue_init(view, heap, index, cells);
}

static void
queue_open(scene_queue *s, uint32_t limit)
{
    uint32_t index;
    shared_heap *heap = shared_heap_open(-1);
    CHECK(heap != NULL);
    CHECK_EQ(shared_heap_make(heap, &index), 0);
    for (size_t i = 0; i < SHARED_QUEUE_DOORS; i++) {
        CHECK_EQ(shared_heap_make(heap, &s->doors[i]), 0);
    }
    queue_view(&s->queue, s, heap, index);
    shared_queue_limit(&s->queue, limit);
}

static void
queue_close(scene_queue *s)
{
    shared_heap *heap = s->queue.run.heap;
    shared_queue_fini(&s->queue);
    for (size_t i = 0; i < SHARED_QUEUE_DOORS; i++) {
        shared_heap_drop(heap, s->doors[i]);
    }
    shared_heap_drop(heap, s->queue.run.index);
    CHECK_EQ(shared_heap_used(heap), 0);
    shared_heap_close(heap);
}

static int
put(shared_queue *queue, shared_item item)
{
    return shared_queue_put(queue, &item, FUTEX_NO_DEADLINE);
}

// The last item that was taken.
typedef struct taken {
    bool is_refused;
    shared_item item;
    unsigned char bytes[64];
    uint64_t sum;
} taken;

static bool
keep(void *arg, const shared_item *item)
{
    taken *t = arg;
    if (t->is_refused) {
        return false;
    }
    shared_item start = *item;  // the rest of a large one takes too many steps
    start.size = item->size < sizeof(t->bytes) ? item->size : sizeof(t->bytes);
    t->item = *item;
    t->sum = add_to_sum(item->size, start);
    if (item->bytes != NULL) {
        memcpy(t->bytes, item->bytes, start.size);
        t->item.bytes = t->bytes;
    }
    return true;
}

static int
get(shared_queue *queue, taken *t)
{
    shared_take take = {keep, t};
    *t = (taken){.is_refused = false};
    return shared_queue_get(queue, &take, FUTEX_NO_DEADLINE);
}

static void
check_next_is_number(shared_queue *queue, uint64_t value)
{
    taken t;
    CHECK_EQ(get(queue, &t), 0);
    CHECK(t.item.bytes == NULL);
    CHECK_EQ(t.item.word >> 1, value);
}

static void
check_next_is_text(shared_queue *queue, const char *string)
{
    taken t;
    CHECK_EQ(get(queue, &t), 0);
    CHECK(is_text(t.item, string));
}

static uint32_t
count_of(shared_queue *queue)
{
    enter(&queue->run);
    uint32_t count = shared_queue_count(queue);
    shared_run_leave(&queue->run);
    return count;
}

static uint64_t
bytes_of(shared_queue *queue)
{
    enter(&queue->run);
    uint64_t bytes = shared_run_bytes(&queue->run);
    shared_run_leave(&queue->run);
    return bytes;
}

// ---- as a queue ----

static void
items_come_out_as_they_went_in(void)
{
    scene_queue s;
    taken t;
    queue_open(&s, 0);
    CHECK_EQ(get(&s.queue, &t), SHARED_QUEUE_NOT_NOW);
    CHECK_EQ(put(&s.queue, number(1)), 0);
    CHECK_EQ(put(&s.queue, text("two")), 0);
    CHECK_EQ(put(&s.queue, text("")), 0);
    CHECK_EQ(count_of(&s.queue), 3);
    check_next_is_number(&s.queue, 1);
    check_next_is_text(&s.queue, "two");
    check_next_is_text(&s.queue, "");
    CHECK_EQ(get(&s.queue, &t), SHARED_QUEUE_NOT_NOW);
    queue_close(&s);
}

static void
who_cannot_keep_an_item_leaves_it(void)
{
    scene_queue s;
    taken t = {.is_refused = true};
    shared_take take = {keep, &t};
    queue_open(&s, 0);
    CHECK_EQ(put(&s.queue, number(1)), 0);
    CHECK_EQ(shared_queue_get(&s.queue, &take, FUTEX_NO_DEADLINE), SHARED_HEAP_FULL);
    check_next_is_number(&s.queue, 1);
    queue_close(&s);
}

static void
a_limit_is_kept(void)
{
    scene_queue s;
    queue_open(&s, 2);
    CHECK_EQ(put(&s.queue, number(1)), 0);
    CHECK_EQ(put(&s.queue, number(2)), 0);
    CHECK_EQ(put(&s.queue, number(3)), SHARED_QUEUE_NOT_NOW);
    check_next_is_number(&s.queue, 1);
    CHECK_EQ(put(&s.queue, number(3)), 0);
    CHECK_EQ(shared_queue_get_limit(&s.queue), 2);
    queue_close(&s);
}

static void
all_are_done_when_each_is(void)
{
    scene_queue s;
    queue_open(&s, 0);
    CHECK_EQ(shared_queue_done(&s.queue, NULL, FUTEX_NO_DEADLINE), SHARED_QUEUE_TOO_MANY);
    CHECK_EQ(shared_queue_all_done(&s.queue, NULL, FUTEX_NO_DEADLINE), 0);
    CHECK_EQ(put(&s.queue, number(1)), 0);
    CHECK_EQ(put(&s.queue, number(2)), 0);
    check_next_is_number(&s.queue, 1);
    CHECK_EQ(shared_queue_done(&s.queue, NULL, FUTEX_NO_DEADLINE), 0);
    CHECK_EQ(shared_queue_all_done(&s.queue, NULL, FUTEX_NO_DEADLINE), SHARED_QUEUE_NOT_NOW);
    check_next_is_number(&s.queue, 2);
    CHECK_EQ(shared_queue_done(&s.queue, NULL, FUTEX_NO_DEADLINE), 0);
    CHECK_EQ(shared_queue_all_done(&s.queue, NULL, FUTEX_NO_DEADLINE), 0);
    CHECK_EQ(shared_queue_done(&s.queue, NULL, FUTEX_NO_DEADLINE), SHARED_QUEUE_TOO_MANY);
    queue_close(&s);
}

static void
what_is_closed_is_emptied_and_takes_nothing(void)
{
    scene_queue s;
    taken t;
    queue_open(&s, 0);
    CHECK_EQ(put(&s.queue, number(1)), 0);
    CHECK_EQ(put(&s.queue, number(2)), 0);
    CHECK_EQ(shared_queue_shutdown(&s.queue, NULL, FUTEX_NO_DEADLINE), 0);
    CHECK_EQ(put(&s.queue, number(3)), SHARED_QUEUE_CLOSED);
    check_next_is_number(&s.queue, 1);
    CHECK_EQ(shared_queue_shutdown(&s.queue, &s, FUTEX_NO_DEADLINE), 0);  // at once
    CHECK_EQ(get(&s.queue, &t), SHARED_QUEUE_CLOSED);
    CHECK_EQ(shared_queue_done(&s.queue, NULL, FUTEX_NO_DEADLINE), 0);  // the first; the other has gone
    CHECK_EQ(shared_queue_all_done(&s.queue, NULL, FUTEX_NO_DEADLINE), 0);
    queue_close(&s);
}

// Sizes that fit nowhere twice, in a queue that fills and drains by turns.
static void
the_ring_turns_and_grows(void)
{
    static unsigned char bytes[9000];
    scene_queue s;
    uint64_t in = 0, out = 0;
    taken t;
    queue_open(&s, 0);
    for (uint64_t round = 0; round < 40; round++) {
        for (uint64_t i = 0; i < 30 + round * 7 % 50; i++, in++) {
            bytes[0] = (unsigned char)in;
            shared_item item = {.bytes = bytes, .size = in * 389 % (round % 3 == 0 ? 9000 : 90) + 1};
            CHECK_EQ(put(&s.queue, in % 5 == 0 ? number(in) : item), 0);
        }
        for (uint64_t i = 0; out < in && i < 50 + round; i++, out++) {
            CHECK_EQ(get(&s.queue, &t), 0);
            CHECK_EQ(out % 5 == 0 ? t.item.word >> 1 : t.item.bytes[0], out % 5 == 0 ? out : out % 256);
        }
        CHECK_EQ(count_of(&s.queue), in - out);
    }
    queue_close(&s);
}

static void
a_queue_of_few_takes_little(void)
{
    scene_queue s;
    queue_open(&s, 0);
    for (uint64_t i = 0; i < 100000; i++) {
        CHECK_EQ(put(&s.queue, text("a message")), 0);
        if (i >= 5) {
            check_next_is_text(&s.queue, "a message");
        }
    }
    CHECK(bytes_of(&s.queue) <= sizeof(shared_cell) + 4096);
    queue_close(&s);
}

static void
memory_comes_back(void)
{
    static unsigned char bytes[1 << 20];
    scene_queue s;
    taken t;
    shared_item item = {.bytes = bytes, .size = sizeof(bytes)};
    queue_open(&s, 0);
    uint64_t before = memory_of(&s.queue.run);
    for (int i = 0; i < 40; i++) {
        CHECK_EQ(put(&s.queue, item), 0);
    }
    CHECK(bytes_of(&s.queue) > 40 << 20);
    for (int i = 0; i < 40; i++) {
        CHECK_EQ(get(&s.queue, &t), 0);
        CHECK_EQ(t.item.size, sizeof(bytes));
    }
    CHECK_EQ(bytes_of(&s.queue), sizeof(shared_cell));
    CHECK(memory_of(&s.queue.run) < before + 2 * SHARED_UNIT_BYTES);  // of the table of units
    // What was counted goes on.
    CHECK_EQ(put(&s.queue, number(1)), 0);
    for (int i = 0; i < 41; i++) {
        CHECK_EQ(shared_queue_done(&s.queue, NULL, FUTEX_NO_DEADLINE), 0);
    }
    CHECK_EQ(shared_queue_done(&s.queue, NULL, FUTEX_NO_DEADLINE), SHARED_QUEUE_TOO_MANY);
    // One that is almost empty gives back most of it, when it has gone round.
    for (int i = 0; i < 40; i++) {
        CHECK_EQ(put(&s.queue, item), 0);
    }
    for (int i = 0; i < 40; i++) {
        CHECK_EQ(get(&s.queue, &t), 0);
    }
    for (int i = 0; i < 200; i++) {
        CHECK_EQ(put(&s.queue, item), 0);
        CHECK_EQ(get(&s.queue, &t), 0);
    }
    CHECK(bytes_of(&s.queue) < 10 << 20);
    item.size = UINT64_C(1) << 50;
    CHECK_EQ(put(&s.queue, item), SHARED_HEAP_FULL);
    CHECK_EQ(count_of(&s.queue), 1);
    queue_close(&s);
}

static void
another_mapping_sees_the_same(void)
{
    scene_queue s, other;
    queue_open(&s, 0);
    shared_heap *heap = shared_heap_open(shared_heap_fd(s.queue.run.heap));
    CHECK(heap != NULL);
    CHECK_EQ(shared_heap_attach(heap, s.queue.run.index, s.queue.run.cell->serial), 0);
    queue_view(&other.queue, &s, heap, s.queue.run.index);
    for (uint64_t i = 0; i < 5000; i++) {
        CHECK_EQ(put(i % 3 == 0 ? &s.queue : &other.queue, number(i)), 0);
        CHECK_EQ(put(i % 5 == 0 ? &s.queue : &other.queue, text("something of some length")), 0);
    }
    for (uint64_t i = 0; i < 5000; i++) {
        check_next_is_number(i % 2 == 0 ? &s.queue : &other.queue, i);
        check_next_is_text(i % 7 == 0 ? &s.queue : &other.queue, "something of some length");
    }
    shared_queue_fini(&other.queue);
    shared_heap_drop(heap, s.queue.run.index);
    shared_heap_close(heap);
    queue_close(&s);
}

// ---- waiting ----

static void
take_one(void *arg)
{
    scene_queue *s = arg;
    taken t;
    shared_take take = {keep, &t};
    t.is_refused = false;
    if (shared_queue_wait(&s->queue, SHARED_QUEUE_ITEMS, shared_queue_get, &take, clock_now_ns() + LONG_NS)
        != 0) {
        _exit(1);
    }
    atomic_fetch_add(&s->passed, 1);
}

static void
wait_for_end(void *arg)
{
    scene_queue *s = arg;
    taken t;
    shared_take take = {keep, &t};
    t.is_refused = false;
    CHECK_EQ(shared_queue_wait(&s->queue, SHARED_QUEUE_ITEMS, shared_queue_get, &take, FUTEX_NO_DEADLINE),
             SHARED_QUEUE_CLOSED);
    atomic_fetch_add(&s->passed, 1);
}

static void
each_item_lets_one_pass(void)
{
    scene_queue s = {.passed = 0};
    check_thread threads[4];
    queue_open(&s, 0);
    for (size_t i = 0; i < CHECK_COUNT(threads); i++) {
        check_start(&threads[i], take_one, &s);
    }
    for (uint32_t i = 1; i <= CHECK_COUNT(threads); i++) {
        CHECK_EQ(put(&s.queue, number(i)), 0);
        CHECK_UNTIL(atomic_load(&s.passed) == i);
    }
    for (size_t i = 0; i < CHECK_COUNT(threads); i++) {
        check_join(&threads[i]);
    }
    queue_close(&s);
}

static void
a_wait_ends_in_time(void)
{
    scene_queue s;
    taken t;
    shared_item item = number(2);
    shared_take take = {keep, &t};
    queue_open(&s, 1);
    CHECK_EQ(shared_queue_wait(&s.queue, SHARED_QUEUE_ITEMS, shared_queue_get, &take, clock_now_ns() + 1000),
             FUTEX_TIMED_OUT);
    CHECK_EQ(put(&s.queue, number(1)), 0);
    CHECK_EQ(shared_queue_wait(&s.queue, SHARED_QUEUE_SPACE, shared_queue_put, &item, clock_now_ns() + 1000),
             FUTEX_TIMED_OUT);
    CHECK_EQ(shared_queue_wait(&s.queue, SHARED_QUEUE_DONE, shared_queue_all_done, NULL,
                               clock_now_ns() + 1000),
             FUTEX_TIMED_OUT);
    queue_close(&s);
}

static void
the_end_is_told_to_all(void)
{
    scene_queue s = {.passed = 0};
    check_thread threads[3];
    queue_open(&s, 0);
    for (size_t i = 0; i < CHECK_COUNT(threads); i++) {
        check_start(&threads[i], wait_for_end, &s);
    }
    CHECK_UNTIL(atomic_load(&s.queue.doors[SHARED_QUEUE_ITEMS]->words[1]) != 0);
    CHECK_EQ(shared_queue_shutdown(&s.queue, NULL, FUTEX_NO_DEADLINE), 0);
    for (size_t i = 0; i < CHECK_COUNT(threads); i++) {
        check_join(&threads[i]);
    }
    queue_close(&s);
}

typedef struct worker {
    scene_queue *s;
    shared_queue view;
    uint64_t number, sum;
} worker;

#define WORKERS 2
#define EACH 5000

static void
put_many(void *arg)
{
    worker *w = arg;
    for (uint64_t i = 0; i < EACH; i++) {
        shared_item item = number(w->number * EACH + i);
        CHECK_EQ(shared_queue_wait(&w->view, SHARED_QUEUE_SPACE, shared_queue_put, &item, FUTEX_NO_DEADLINE),
                 0);
    }
}

static void
take_many(void *arg)
{
    worker *w = arg;
    for (uint64_t i = 0; i < EACH; i++) {
        taken t;
        shared_take take = {keep, &t};
        t.is_refused = false;
        CHECK_EQ(shared_queue_wait(&w->view, SHARED_QUEUE_ITEMS, shared_queue_get, &take, FUTEX_NO_DEADLINE),
                 0);
        w->sum += t.item.word >> 1;
        CHECK_EQ(shared_queue_done(&w->view, NULL, FUTEX_NO_DEADLINE), 0);
    }
}

static void
no_item_is_lost_among_threads(void)
{
    scene_queue s;
    worker putters[WORKERS], takers[WORKERS];
    check_thread putting[WORKERS], taking[WORKERS];
    uint64_t sum = 0;
    queue_open(&s, 7);
    for (size_t i = 0; i < WORKERS; i++) {
        putters[i] = takers[i] = (worker){.s = &s, .number = i};
        queue_view(&putters[i].view, &s, s.queue.run.heap, s.queue.run.index);
        queue_view(&takers[i].view, &s, s.queue.run.heap, s.queue.run.index);
        check_start(&putting[i], put_many, &putters[i]);
        check_start(&taking[i], take_many, &takers[i]);
    }
    for (size_t i = 0; i < WORKERS; i++) {
        check_join(&putting[i]);
        check_join(&taking[i]);
        shared_queue_fini(&putters[i].view);
        shared_queue_fini(&takers[i].view);
        sum += takers[i].sum;
    }
    CHECK_EQ(sum, UINT64_C(1) * WORKERS * EACH * (WORKERS * EACH - 1) / 2);
    CHECK_EQ(shared_queue_all_done(&s.queue, NULL, FUTEX_NO_DEADLINE), 0);
    queue_close(&s);
}

#if !defined(__SANITIZE_THREAD__)

// ---- death in a change: the old or the new ----

static void
empty(scene_queue *s)
{
    taken t;
    while (count_of(&s->queue) > 0) {
        CHECK_EQ(get(&s->queue, &t), 0);
    }
}

static const unsigned char filling[70000] = "the first bytes of much that follows";

static void
fill(scene_queue *s)
{
    empty(s);
    for (uint32_t i = 0; i < s->filler; i++) {
        shared_item item = {.bytes = filling, .size = s->size};
        CHECK_EQ(put(&s->queue, i == 1 ? text("one") : item), 0);
    }
}

// Takes all, of which it is the sum.
static uint64_t
take_sum(scene_queue *s)
{
    taken t;
    uint64_t sum = count_of(&s->queue);
    while (count_of(&s->queue) > 0) {
        CHECK_EQ(get(&s->queue, &t), 0);
        sum = sum * 31 + t.sum;
    }
    return sum;
}

static void
note_memory(scene_queue *s)
{
    uint64_t memory = memory_of(&s->queue.run);
    s->memory = memory > s->memory ? memory : s->memory;
}

static void
run_change(void *arg)
{
    scene_queue *s = arg;
    s->change(s);
}

static void
die_in(void (*change)(scene_queue *s), uint32_t limit, uint32_t filler, uint64_t size, uint64_t stride)
{
    scene_queue s = {.change = change, .limit = limit, .filler = filler, .size = size};
    check_child child = {.run = run_change, .arg = &s};
    bool is_dead = CHECK_STEPS_EACH > 0;
    queue_open(&s, limit);
    fill(&s);
    note_memory(&s);
    s.old_sum = take_sum(&s);
    for (int i = 0; i < 3; i++) {
        fill(&s);
        change(&s);
        note_memory(&s);
        s.new_sum = take_sum(&s);
    }
    for (uint64_t steps = 0; is_dead; steps += CHECK_STEPS_EACH * stride) {
        fill(&s);
        is_dead = check_die_after(&child, steps);
        uint64_t sum = take_sum(&s);
        CHECK(sum == s.old_sum || sum == s.new_sum);
        CHECK_EQ(put(&s.queue, text("goes on")), 0);
        check_next_is_text(&s.queue, "goes on");
        CHECK(memory_of(&s.queue.run) <= s.memory + SHARED_UNIT_BYTES);
    }
    queue_close(&s);
}

static void
put_text(scene_queue *s)
{
    CHECK_EQ(put(&s->queue, text("more")), 0);
}

static void
put_much(scene_queue *s)
{
    CHECK_EQ(put(&s->queue, (shared_item){.bytes = filling, .size = 3000}), 0);
}

static void
put_very_much(scene_queue *s)
{
    CHECK_EQ(put(&s->queue, (shared_item){.bytes = filling, .size = 70000}), 0);
}

static void
take_first(scene_queue *s)
{
    taken t;
    CHECK_EQ(get(&s->queue, &t), 0);
}

static void
who_dies_in_a_change_leaves_the_old_or_the_new(void)
{
    die_in(put_text, 0, 0, 10, STRIDE);
    die_in(put_text, 0, 3, 10, STRIDE);
    die_in(take_first, 0, 3, 10, STRIDE);
    die_in(take_first, 0, 1, 10, STRIDE);
    die_in(take_first, 5, 3, 10, STRIDE);
    die_in(put_much, 0, 3, 100, 307);
    die_in(put_very_much, 0, 3, 100, 9973);  // a move
    die_in(take_first, 0, 1, 70000, 307);
}

// ---- death while others sleep: none of them is forgotten ----

static void
start_sleeper(void *arg)
{
    scene_queue *s = arg;
    check_start(&s->waiter, take_one, s);
    CHECK_UNTIL(check_asleep(&s->waiter, &s->queue.doors[SHARED_QUEUE_ITEMS]->words[1]));
}

static void
put_one_and_say_no_more(void *arg)
{
    scene_queue *s = arg;
    if (put(&s->queue, number(1)) != 0) {
        _exit(1);
    }
}

static void
join_sleeper(void *arg)
{
    scene_queue *s = arg;
    // Either the item is there, and then the sleeper has it or will; or it is not.
    if (shared_queue_all_done(&s->queue, NULL, FUTEX_NO_DEADLINE) == 0) {
        CHECK_EQ(put(&s->queue, number(2)), 0);
    }
    check_join(&s->waiter);
    CHECK_EQ(count_of(&s->queue), 0);
    CHECK_EQ(shared_queue_done(&s->queue, NULL, FUTEX_NO_DEADLINE), 0);
}

static void
who_dies_in_putting_is_made_up_for(void)
{
    scene_queue s = {.passed = 0};
    check_child child = {.run = put_one_and_say_no_more, .arg = &s};
    bool is_dead = CHECK_STEPS_EACH > 0;
    queue_open(&s, 0);
    for (uint64_t steps = 0; is_dead; steps += CHECK_STEPS_EACH * 7) {
        start_sleeper(&s);
        is_dead = check_die_after(&child, steps);
        join_sleeper(&s);
    }
    queue_close(&s);
}

// The child waits for an item, and so does a thread after it; one is put, and the child dies.
static void
start_second_and_put(void *arg)
{
    scene_queue *s = arg;
    check_start(&s->waiter, take_one, s);
    s->is_waiting = true;
    CHECK_UNTIL(check_asleep(&s->waiter, &s->queue.doors[SHARED_QUEUE_ITEMS]->lock.word));
    CHECK_EQ(put(&s->queue, number(1)), 0);
}

static void
who_dies_in_waiting_for_an_item_keeps_nobody(void)
{
    scene_queue s = {.passed = 0};
    check_child child = {.run = take_one, .arg = &s, .when_asleep = start_second_and_put};
    bool is_dead = CHECK_STEPS_EACH > 0;
    queue_open(&s, 0);
    for (uint64_t steps = 0; is_dead; steps += CHECK_STEPS_EACH * STRIDE) {
        s.is_waiting = false;
        is_dead = check_die_after(&child, steps);
        if (s.is_waiting) {
            // The dead has taken the item, or the thread does, though nobody puts another.
            CHECK_UNTIL(count_of(&s.queue) == 0);
            CHECK_EQ(put(&s.queue, number(2)), 0);
            check_join(&s.waiter);
        }
        empty(&s);
    }
    queue_close(&s);
}

static void
put_one(void *arg)
{
    scene_queue *s = arg;
    shared_item item = text("an item");
    if (shared_queue_wait(&s->queue, SHARED_QUEUE_SPACE, shared_queue_put, &item, clock_now_ns() + LONG_NS)
        != 0) {
        _exit(1);
    }
    atomic_fetch_add(&s->passed, 1);
}

static void
await_item(scene_queue *s, taken *t)
{
    shared_take take = {keep, t};
    *t = (taken){.is_refused = false};
    CHECK_EQ(shared_queue_wait(&s->queue, SHARED_QUEUE_ITEMS, shared_queue_get, &take, FUTEX_NO_DEADLINE), 0);
}

// A thread sleeps for space; the child makes some, and dies in that.
static void
who_dies_in_taking_is_made_up_for(void)
{
    scene_queue s = {.change = take_first};
    check_child child = {.run = run_change, .arg = &s};
    bool is_dead = CHECK_STEPS_EACH > 0;
    queue_open(&s, 1);
    for (uint64_t steps = 0; is_dead; steps += CHECK_STEPS_EACH * 7) {
        CHECK_EQ(put(&s.queue, text("first")), 0);
        check_start(&s.waiter, put_one, &s);
        CHECK_UNTIL(check_asleep(&s.waiter, &s.queue.doors[SHARED_QUEUE_SPACE]->words[1]));
        is_dead = check_die_after(&child, steps);
        // Whoever took the first, the thread puts its own.
        taken t;
        await_item(&s, &t);
        if (is_text(t.item, "first")) {
            await_item(&s, &t);
        }
        check_join(&s.waiter);
        CHECK(is_text(t.item, "an item"));
    }
    queue_close(&s);
}

#endif

static const check_test tests[] = {
    CHECK_TEST(items_come_out_as_they_went_in),
    CHECK_TEST(who_cannot_keep_an_item_leaves_it),
    CHECK_TEST(a_limit_is_kept),
    CHECK_TEST(all_are_done_when_each_is),
    CHECK_TEST(what_is_closed_is_emptied_and_takes_nothing),
    CHECK_TEST(the_ring_turns_and_grows),
    CHECK_TEST(a_queue_of_few_takes_little),
    CHECK_TEST(memory_comes_back),
    CHECK_TEST(another_mapping_sees_the_same),
    CHECK_TEST(each_item_lets_one_pass),
    CHECK_TEST(a_wait_ends_in_time),
    CHECK_TEST(the_end_is_told_to_all),
    CHECK_TEST(no_item_is_lost_among_threads),
#if !defined(__SANITIZE_THREAD__)
    CHECK_TEST(who_dies_in_a_change_leaves_the_old_or_the_new),
    CHECK_TEST(who_dies_in_putting_is_made_up_for),
    CHECK_TEST(who_dies_in_waiting_for_an_item_keeps_nobody),
    CHECK_TEST(who_dies_in_taking_is_made_up_for),
#endif
};

int
main(int argc, char **argv)
{
    return check_run(tests, CHECK_COUNT(tests), argc, argv);
}
