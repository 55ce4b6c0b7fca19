// check_run: a container in a heap of its own, and what is left of it by a process that dies in a change.
//
// Define _GNU_SOURCE before the first include.
#ifndef PYCONC_CHECK_RUN_H
#define PYCONC_CHECK_RUN_H

#include "core/shared_heap_cells.h"
#include "core/shared_heap_open.h"
#include "core/shared_run.h"

#include <sys/stat.h>

#include "check_steps.h"
#include "core/futex.h"

static inline shared_run
run_new(const shared_run_kind *kind)
{
    shared_run run;
    uint32_t index;
    shared_heap *heap = shared_heap_open(-1);
    CHECK(heap != NULL);
    CHECK_EQ(shared_heap_make(heap, &index), 0);
    shared_run_init(&run, kind, heap, index);
    return run;
}

static inline void
run_free(shared_run *run)
{
    shared_run_fini(run);
    shared_heap_drop(run->heap, run->index);
    CHECK_EQ(shared_heap_used(run->heap), 0);
    shared_heap_close(run->heap);
}

static inline void
enter(shared_run *run)
{
    CHECK_EQ(shared_run_enter(run, FUTEX_NO_DEADLINE), 0);
}

static inline uint64_t
memory_of(const shared_run *run)
{
    struct stat info;
    CHECK(fstat(shared_heap_fd(run->heap), &info) == 0);
    return (uint64_t)info.st_blocks * 512;
}

// The same in another mapping of the heap.
static inline shared_run
run_again(const shared_run *run)
{
    shared_run again;
    shared_heap *heap = shared_heap_open(shared_heap_fd(run->heap));
    CHECK(heap != NULL);
    CHECK_EQ(shared_heap_attach(heap, run->index, run->cell->serial), 0);
    shared_run_init(&again, run->kind, heap, run->index);
    return again;
}

static inline void
run_again_free(shared_run *again)
{
    shared_run_fini(again);
    shared_heap_drop(again->heap, again->index);
    shared_heap_close(again->heap);
}

// ---- items: numbers are in the slot, texts beside it ----

static inline shared_item
number(uint64_t value)
{
    return (shared_item){.word = value << 1 | 1};
}

static inline shared_item
text(const char *string)
{
    return (shared_item){.bytes = (const unsigned char *)string, .size = strlen(string)};
}

static inline bool
is_text(shared_item item, const char *string)
{
    return item.bytes != NULL && item.size == strlen(string) && memcmp(item.bytes, string, item.size) == 0;
}

static inline uint64_t
add_to_sum(uint64_t sum, shared_item item)
{
    sum = sum * 31 + item.word;
    for (uint64_t i = 0; i < item.size; i++) {
        sum = sum * 31 + item.bytes[i];
    }
    return sum;
}

#if !defined(__SANITIZE_THREAD__)

// ---- death: after every step there is the old or the new, and no memory that nothing names ----

typedef struct scene {
    shared_run run;
    // With the lock: makes it what it is before, and changes it; what is in it; goes on with it.
    void (*fill)(struct scene *s);
    void (*change)(struct scene *s);
    uint64_t (*sum)(shared_run *run);
    void (*go_on)(shared_run *run);
    // Replaces an item, in place; done so often before that the run is full.
    void (*replace)(shared_run *run);
    uint32_t waste;
    uint32_t filler;            // how many items there are before
    uint64_t size;              // of an item
    uint64_t old_sum, new_sum;  // of what is in it before and after
    uint64_t memory;            // of the heap, the most that it has with nobody dying
} scene;

static inline void
scene_fill(scene *s)
{
    enter(&s->run);
    s->fill(s);
    for (uint32_t i = 0; i < s->waste; i++) {
        s->replace(&s->run);
    }
    s->old_sum = s->sum(&s->run);
    shared_run_leave(&s->run);
}

static inline void
scene_change(void *arg)
{
    scene *s = arg;
    if (shared_run_enter(&s->run, FUTEX_NO_DEADLINE) != 0) {
        _exit(1);
    }
    s->change(s);
    shared_run_leave(&s->run);
}

static inline void
scene_look(scene *s)
{
    enter(&s->run);
    uint64_t sum = s->sum(&s->run);
    CHECK(sum == s->old_sum || sum == s->new_sum);
    s->go_on(&s->run);
    CHECK(memory_of(&s->run) <= s->memory);
    shared_run_leave(&s->run);
}

static inline void
scene_learn(scene *s)
{
    for (int i = 0; i < 2; i++) {
        scene_fill(s);
        s->memory = memory_of(&s->run) > s->memory ? memory_of(&s->run) : s->memory;
        scene_change(s);
        enter(&s->run);
        s->new_sum = s->sum(&s->run);
        s->go_on(&s->run);
        s->memory = memory_of(&s->run) > s->memory ? memory_of(&s->run) : s->memory;
        shared_run_leave(&s->run);
    }
}

// How often an item can be replaced until the run is full.
static inline uint32_t
scene_find_waste(scene *s)
{
    uint32_t count = 0;
    scene_fill(s);
    enter(&s->run);
    for (uint32_t unit = s->run.unit; unit == s->run.unit; count++) {
        s->replace(&s->run);
    }
    shared_run_leave(&s->run);
    return count - 1;
}

// Dies after every `stride` steps of the change, in what is full or has room.
static inline void
scene_die(scene *s, bool is_full, uint64_t stride)
{
    check_child child = {.run = scene_change, .arg = s};
    s->waste = is_full ? scene_find_waste(s) : 0;
    scene_learn(s);
    bool is_dead = CHECK_STEPS_EACH > 0;
    for (uint64_t steps = 0; is_dead; steps += CHECK_STEPS_EACH * stride) {
        scene_fill(s);
        is_dead = check_die_after(&child, steps);
        scene_look(s);
    }
}

#endif

#endif
