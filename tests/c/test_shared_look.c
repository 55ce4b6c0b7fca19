// Tests of core/shared_look, by lists and dicts.
#define _GNU_SOURCE
#include "core/shared_heap_cells.h"
#include "core/shared_heap_memory.h"
#include "core/shared_heap_open.h"
#include "core/shared_look.h"

#include <sys/resource.h>

#include "check_run.h"
#include "core/shared_dict.h"
#include "core/shared_list.h"

static void
push(shared_run *list, shared_item item)
{
    uint32_t count = shared_list_count(list);
    CHECK_EQ(shared_list_splice(list, count, count, &item, 1), 0);
}

static void
clear(shared_run *list)
{
    CHECK_EQ(shared_list_splice(list, 0, shared_list_count(list), NULL, 0), 0);
}

static void
set(shared_run *dict, shared_item key, shared_item value)
{
    shared_item parts[SHARED_DICT_PARTS] = {key, {0}, value};
    CHECK_EQ(shared_dict_set(dict, parts), 0);
}

static void
drop(shared_run *dict, shared_item key)
{
    uint32_t place = shared_dict_find(dict, &key);
    CHECK(place != SHARED_DICT_NOWHERE);
    CHECK_EQ(shared_dict_remove(dict, place), 0);
}

static int
look(shared_run *dict, shared_item key, shared_seen *seen)
{
    return shared_dict_look(dict, &key, seen);
}

// Looks until it pays.
static void
look_often(shared_run *run)
{
    shared_look look;
    for (int i = 0; i < SHARED_LOOK_PAYS; i++) {
        if (shared_look_begin(&look, run)) {
            CHECK(shared_look_end(&look));
        }
    }
    CHECK(shared_look_begin(&look, run) && shared_look_end(&look));
}

// ---- what is seen ----

static void
a_list_is_seen_as_it_is(void)
{
    shared_run list = run_new(&shared_list_kind);
    shared_run other = run_again(&list);
    shared_seen seen;
    unsigned char large[SHARED_LOOK_BYTES + 1] = "large";
    CHECK_EQ(shared_list_look_count(&other), 0);
    CHECK_EQ(shared_list_look(&other, 0, &seen), 0);
    enter(&list);
    CHECK_EQ(shared_list_look_count(&other), -1);
    push(&list, number(7));
    push(&list, text("eight bytes, and more"));
    push(&list, (shared_item){.bytes = large, .size = SHARED_LOOK_BYTES});
    push(&list, (shared_item){.bytes = large, .size = SHARED_LOOK_BYTES + 1});
    shared_run_leave(&list);
    CHECK_EQ(shared_list_look(&other, 0, &seen), -1);  // it does not pay yet
    look_often(&other);
    CHECK_EQ(shared_list_look_count(&other), 4);
    CHECK_EQ(shared_list_look(&other, 0, &seen), 1);
    CHECK(seen.item.bytes == NULL && seen.item.word >> 1 == 7);
    CHECK_EQ(shared_list_look(&other, -3, &seen), 1);
    CHECK(is_text(seen.item, "eight bytes, and more"));
    CHECK_EQ(shared_list_look(&other, 2, &seen), 1);
    CHECK(seen.item.size == SHARED_LOOK_BYTES && memcmp(seen.bytes, large, SHARED_LOOK_BYTES) == 0);
    CHECK_EQ(shared_list_look(&other, 3, &seen), -1);
    CHECK_EQ(shared_list_look(&other, 4, &seen), 0);
    CHECK_EQ(shared_list_look(&other, -5, &seen), 0);
    enter(&list);
    CHECK_EQ(shared_list_splice(&list, 0, 1, NULL, 0), 0);
    shared_run_leave(&list);
    CHECK_EQ(shared_list_look_count(&other), 3);
    CHECK_EQ(shared_list_look(&other, 0, &seen), 1);
    CHECK(is_text(seen.item, "eight bytes, and more"));
    run_again_free(&other);
    run_free(&list);
}

static void
a_dict_is_seen_as_it_is(void)
{
    shared_run dict = run_new(&shared_dict_kind);
    shared_run other = run_again(&dict);
    shared_seen seen;
    CHECK_EQ(look(&other, number(1), &seen), 0);
    CHECK_EQ(shared_dict_look_count(&other), 0);
    enter(&dict);
    for (uint64_t i = 0; i < 1000; i++) {
        set(&dict, number(i), number(i * i));
    }
    set(&dict, text("a key of more than a word"), text("its value"));
    drop(&dict, number(500));
    shared_run_leave(&dict);
    look_often(&other);
    CHECK_EQ(shared_dict_look_count(&other), 1000);
    for (uint64_t i = 0; i < 1000; i++) {
        CHECK_EQ(look(&other, number(i), &seen), i != 500);
        CHECK(i == 500 || (seen.item.bytes == NULL && seen.item.word == number(i * i).word));
    }
    CHECK_EQ(look(&other, text("a key of more than a word"), &seen), 1);
    CHECK(is_text(seen.item, "its value"));
    CHECK_EQ(look(&other, text("a key of more than a wort"), NULL), 0);
    CHECK_EQ(look(&other, text("a key of more than a w"), NULL), 0);
    run_again_free(&other);
    run_free(&dict);
}

// ---- who takes the lock ----

static void
one_thread_of_a_process_looks_at_a_time(void)
{
    shared_run list = run_new(&shared_list_kind);
    shared_run second;
    shared_look look;
    shared_run_init(&second, &shared_list_kind, list.heap, list.index);
    CHECK(shared_look_begin(&look, &list));
    CHECK_EQ(shared_list_look_count(&second), -1);
    CHECK(shared_look_end(&look));
    CHECK_EQ(shared_list_look_count(&second), 0);
    shared_run_fini(&second);
    run_free(&list);
}

static void
replace(shared_run *list)
{
    shared_item item = text("another");
    CHECK_EQ(shared_list_set(list, 0, &item), 0);
}

// The new one is where the old one was.
static void
begin_anew(shared_run *list)
{
    clear(list);
    push(list, number(1));
}

static void
a_look_that_a_change_has_met_shows_nothing(void)
{
    void (*changes[])(shared_run *list) = {replace, begin_anew, clear};
    shared_run list = run_new(&shared_list_kind);
    shared_run other = run_again(&list);
    shared_look look;
    enter(&list);
    push(&list, number(1));
    shared_run_leave(&list);
    look_often(&other);
    for (size_t i = 0; i < CHECK_COUNT(changes); i++) {
        CHECK(shared_look_begin(&look, &other));
        enter(&list);
        changes[i](&list);
        shared_run_leave(&list);
        CHECK(!shared_look_end(&look));
        CHECK(shared_look_begin(&look, &other) && shared_look_end(&look));
    }
    run_again_free(&other);
    run_free(&list);
}

// ---- memory ----

static void
fill(shared_run *list)
{
    static const unsigned char much[3 * SHARED_UNIT_BYTES];
    push(list, (shared_item){.bytes = much, .size = sizeof(much)});
}

// As a process that is stopped in a look.
static bool
announce(shared_run *run)
{
    shared_root root = shared_root_of(atomic_load(&run->cell->value));
    return shared_heap_announce(run->heap, run->index, root.unit, root.order);
}

// Takes the lock so often that who looks is asked again.
static void
take_lock_often(shared_run *run)
{
    for (int i = 0; i < 100; i++) {
        enter(run);
        shared_run_leave(run);
    }
}

static void
memory_that_is_looked_at_stays_until_it_is_not(void)
{
    shared_run list = run_new(&shared_list_kind);
    shared_run other = run_again(&list);
    enter(&list);
    fill(&list);
    shared_run_leave(&list);
    look_often(&other);
    uint64_t before = memory_of(&list);
    CHECK(announce(&other));
    enter(&list);
    clear(&list);
    shared_run_leave(&list);
    take_lock_often(&list);
    CHECK(memory_of(&list) >= before);
    CHECK_EQ(shared_list_look_count(&list), 0);  // others look meanwhile
    shared_heap_announce_none(other.heap);
    take_lock_often(&list);
    CHECK(memory_of(&list) <= before - 3 * SHARED_UNIT_BYTES);
    CHECK_EQ(shared_list_look_count(&list), 0);
    run_again_free(&other);
    run_free(&list);
}

static void
who_is_stopped_in_a_look_keeps_one_run(void)
{
    shared_run list = run_new(&shared_list_kind);
    shared_run other = run_again(&list);
    enter(&list);
    fill(&list);
    shared_run_leave(&list);
    CHECK(announce(&other));
    uint64_t most = 0;
    for (int i = 0; i < 200; i++) {
        enter(&list);
        fill(&list);
        clear(&list);
        push(&list, number(1));
        shared_run_leave(&list);
        most = memory_of(&list) > most ? memory_of(&list) : most;
    }
    CHECK(most < 50 * SHARED_UNIT_BYTES);  // each of these changes would keep four
    CHECK(list.cell->has_spare != 0);
    shared_heap_announce_none(other.heap);
    take_lock_often(&list);
    CHECK_EQ(list.cell->has_spare, 0);
    run_again_free(&other);
    run_free(&list);
}

static void
a_look_maps_another_run_when_that_pays_again(void)
{
    shared_run list = run_new(&shared_list_kind);
    shared_run other = run_again(&list);
    for (int i = 1; i < 5; i++) {
        enter(&list);
        fill(&list);
        shared_run_leave(&list);
        if (i % 2 == 1) {
            look_often(&other);
            CHECK_EQ(shared_list_look_count(&other), i);
        }
    }
    run_again_free(&other);
    run_free(&list);
}

// ---- beside writers ----

// All bytes of a text are one letter, and it is as long as that says: so a torn one is known.
static shared_item
letters(uint64_t number)
{
    static const char all[] = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
                              "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
    uint64_t size = 1 + number % 40;
    return (shared_item){.bytes = (const unsigned char *)all + (number / 40 % 2) * 40, .size = size};
}

static bool
is_whole(shared_item item)
{
    for (uint64_t i = 1; i < item.size; i++) {
        if (item.bytes[i] != item.bytes[0]) {
            return false;
        }
    }
    return item.bytes != NULL && item.size > 0 && (item.bytes[0] == 'a' || item.bytes[0] == 'b');
}

typedef struct watcher {
    shared_run run;
    _Atomic uint64_t *seen;
    _Atomic bool *is_over;
} watcher;

// The value of key i is i letters.
static void
watch(void *arg)
{
    watcher *w = arg;
    shared_seen seen;
    uint64_t whole = 0;
    for (uint64_t i = 0; whole == 0 || !atomic_load(w->is_over); i = (i + 1) % 80) {
        int is_there = look(&w->run, number(i), &seen);
        CHECK(is_there <= 0 || (is_whole(seen.item) && seen.item.size == 1 + i % 40));
        CHECK(shared_dict_look_count(&w->run) <= 80);
        whole += is_there > 0;
        if (is_there < 0) {
            enter(&w->run);  // as everybody does; so it makes anew what the dead have left, and maps
            shared_run_leave(&w->run);
        }
    }
    atomic_fetch_add(w->seen, whole);
}

static void
change_much(shared_run *dict, uint64_t rounds)
{
    for (uint64_t i = 0; i < rounds; i++) {
        enter(dict);
        if (i % 191 == 190) {
            CHECK_EQ(shared_dict_clear(dict), 0);
        }
        set(dict, number(i % 80), letters(i % 80));
        if (i % 3 == 2) {
            drop(dict, number(i % 80));
        }
        shared_run_leave(dict);
    }
    enter(dict);
    set(dict, number(5), letters(5));
    shared_run_leave(dict);
}

// TSan knows memory by its address: so looks use the mapping that the writer has, which does not move, as
// the dict is cleared before its run is full.
static void
threads_that_look_see_no_half_of_a_change(void)
{
    shared_run dict = run_new(&shared_dict_kind);
    _Atomic uint64_t seen = 0;
    _Atomic bool is_over = false;
    watcher watchers[2];
    check_thread threads[CHECK_COUNT(watchers)];
    change_much(&dict, 80);
    unsigned char *at = atomic_load(&dict.at);
    for (size_t i = 0; i < CHECK_COUNT(watchers); i++) {
        watchers[i] = (watcher){.seen = &seen, .is_over = &is_over};
        shared_run_init(&watchers[i].run, &shared_dict_kind, dict.heap, dict.index);
        watchers[i].run.look_unit = dict.unit;
        watchers[i].run.look_order = dict.order;
        atomic_store(&watchers[i].run.look_at, at);
        check_start(&threads[i], watch, &watchers[i]);
    }
    change_much(&dict, CHECK_ROUNDS(40000));
    CHECK(atomic_load(&dict.at) == at);
    atomic_store(&is_over, true);
    for (size_t i = 0; i < CHECK_COUNT(watchers); i++) {
        check_join(&threads[i]);
        atomic_store(&watchers[i].run.look_at, NULL);
        shared_run_fini(&watchers[i].run);
    }
    CHECK(seen >= CHECK_COUNT(watchers));
    run_free(&dict);
}

// Each in a heap of its own, as processes have it, of runs that come and go.
static void
looks_outlive_the_runs(void)
{
    shared_run dict = run_new(&shared_dict_kind);
    _Atomic uint64_t seen = 0;
    _Atomic bool is_over = false;
    watcher watchers[2];
    check_thread threads[CHECK_COUNT(watchers)];
    static const unsigned char much[SHARED_UNIT_BYTES];
    for (size_t i = 0; i < CHECK_COUNT(watchers); i++) {
        watchers[i] = (watcher){.run = run_again(&dict), .seen = &seen, .is_over = &is_over};
        check_start(&threads[i], watch, &watchers[i]);
    }
    for (int i = 0; i < CHECK_ROUNDS(400); i++) {
        change_much(&dict, 50);
        enter(&dict);
        set(&dict, number(100 + (uint64_t)i % 3), (shared_item){.bytes = much, .size = sizeof(much)});
        drop(&dict, number(100 + (uint64_t)i % 3));
        shared_run_leave(&dict);
    }
    atomic_store(&is_over, true);
    for (size_t i = 0; i < CHECK_COUNT(watchers); i++) {
        check_join(&threads[i]);
        run_again_free(&watchers[i].run);
    }
    CHECK(seen >= CHECK_COUNT(watchers));
    take_lock_often(&dict);
    CHECK_EQ(dict.cell->has_spare, 0);
    run_free(&dict);
}

// ---- stray writes ----

// Whatever stands in a run, and in the root and the version: a look comes to its end, and nothing crashes.
static void
stray_writes_lead_nowhere(void)
{
    uint64_t seed = 1;
    for (int round = 0; round < 100; round++) {
        bool is_dict = round % 2 == 0;
        shared_run run = run_new(is_dict ? &shared_dict_kind : &shared_list_kind);
        shared_seen seen;
        enter(&run);
        for (uint64_t i = 0; i < 30; i++) {
            if (is_dict) {
                set(&run, letters(i), letters(i));
            }
            else {
                push(&run, letters(i));
            }
        }
        uint64_t used = shared_run_bytes(&run) - sizeof(shared_cell);
        shared_run_leave(&run);
        look_often(&run);
        for (int hit = 0; hit < 100; hit++) {
            _Atomic uint64_t *word = shared_run_place(&run, check_random(&seed) % 256 * 8);
            uint64_t what = check_random(&seed);
            uint64_t value = what % 3 == 0 ? check_random(&seed) : what % 3 == 1 ? check_random(&seed) % used
                                                                                 : ~UINT64_C(0);
            atomic_store(hit % 50 == 49 ? &run.cell->value : word, value);
            for (int i = 0; i < 3; i++) {
                (void)shared_list_look(&run, i, &seen);
                (void)shared_list_look_count(&run);
                (void)look(&run, letters((uint64_t)i), &seen);
                (void)shared_dict_look_count(&run);
            }
        }
        shared_run_fini(&run);
        shared_heap_drop(run.heap, run.index);
        shared_heap_close(run.heap);
    }
}

#if !defined(__SANITIZE_THREAD__)

// ---- death ----

static void
announce_and_die(void *arg)
{
    shared_run *list = arg;
    shared_run own = run_again(list);
    CHECK(announce(&own));
    _exit(0);
}

static void
who_died_while_it_looked_is_not_waited_for(void)
{
    shared_run list = run_new(&shared_list_kind);
    enter(&list);
    fill(&list);
    shared_run_leave(&list);
    uint64_t before = memory_of(&list);
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        announce_and_die(&list);
    }
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    enter(&list);
    clear(&list);
    shared_run_leave(&list);
    CHECK_EQ(list.cell->has_spare, 0);
    CHECK(memory_of(&list) < before);
    run_free(&list);
}

typedef struct dying {
    shared_run dict, other;
    uint64_t failed, stale;
} dying;

static void
fill_dict(void *arg)
{
    dying *d = arg;
    enter(&d->dict);
    CHECK_EQ(shared_dict_clear(&d->dict), 0);
    for (uint64_t i = 0; i < 4; i++) {
        set(&d->dict, number(i), text("old"));
    }
    shared_run_leave(&d->dict);
}

static void
change_dict(void *arg)
{
    dying *d = arg;
    enter(&d->dict);
    set(&d->dict, number(1), text("another"));
    set(&d->dict, number(9), text("new"));
    drop(&d->dict, number(2));
    shared_run_leave(&d->dict);
}

// Whatever is seen is the old or the new, and all that is seen is of one time, as nobody changes it.
static int
check_what_is_seen(dying *d)
{
    shared_seen seen;
    int is_one = look(&d->other, number(1), &seen);
    CHECK(is_one < 0 || (is_one == 1 && (is_text(seen.item, "old") || is_text(seen.item, "another"))));
    int is_two = look(&d->other, number(2), &seen);
    CHECK(is_two <= 0 || is_text(seen.item, "old"));
    int is_new = look(&d->other, number(9), &seen);
    CHECK(is_new <= 0 || is_text(seen.item, "new"));
    int is_three = look(&d->other, number(3), NULL);
    CHECK(is_three != 0);
    int64_t count = shared_dict_look_count(&d->other);
    bool is_seen = is_one > 0 && is_two >= 0 && is_new >= 0 && is_three > 0 && count >= 0;
    CHECK(!is_seen || count == 3 + is_two + is_new);
    return is_seen;
}

static void
look_at_dict(dying *d)
{
    d->failed += !check_what_is_seen(d);
    enter(&d->other);
    shared_run_leave(&d->other);
    d->stale += !check_what_is_seen(d);  // the lock is free again, and the index may not be what it should
    enter(&d->other);
    shared_item key = number(1);
    CHECK(shared_dict_find(&d->other, &key) != SHARED_DICT_NOWHERE);
    key = number(9);
    bool is_new = shared_dict_find(&d->other, &key) != SHARED_DICT_NOWHERE;
    shared_run_leave(&d->other);
    CHECK(check_what_is_seen(d));  // and then it is
    CHECK_EQ(look(&d->other, number(9), NULL), is_new);
}

static void
who_dies_in_a_change_is_not_looked_through(void)
{
    dying d = {.dict = run_new(&shared_dict_kind)};
    d.other = run_again(&d.dict);
    fill_dict(&d);
    look_often(&d.other);
    check_child child = {.run = change_dict, .arg = &d};
    bool is_dead = CHECK_STEPS_EACH > 0;
    for (uint64_t steps = 0; is_dead; steps += CHECK_STEPS_EACH * 9) {
        fill_dict(&d);
        is_dead = check_die_after(&child, steps);
        look_at_dict(&d);
    }
    CHECK(CHECK_STEPS_EACH != 1 || (d.failed > 0 && d.stale > 0));
    run_again_free(&d.other);
    run_free(&d.dict);
}

static void
look_with_few_addresses(void *arg)
{
    shared_run *list = arg;
    shared_seen seen;
    struct rlimit few = {.rlim_cur = RLIM_INFINITY - 1, .rlim_max = RLIM_INFINITY};
    CHECK(setrlimit(RLIMIT_AS, &few) == 0);
    for (int i = 0; i < 3 * SHARED_LOOK_PAYS; i++) {
        CHECK_EQ(shared_list_look(list, 0, &seen), -1);
    }
    _exit(0);
}

static void
where_addresses_are_limited_nothing_is_mapped_twice(void)
{
    shared_run list = run_new(&shared_list_kind);
    enter(&list);
    push(&list, number(1));
    shared_run_leave(&list);
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        look_with_few_addresses(&list);
    }
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    run_free(&list);
}

#endif

int
main(int argc, char **argv)
{
    static const check_test tests[] = {
        CHECK_TEST(a_list_is_seen_as_it_is),
        CHECK_TEST(a_dict_is_seen_as_it_is),
        CHECK_TEST(one_thread_of_a_process_looks_at_a_time),
        CHECK_TEST(a_look_that_a_change_has_met_shows_nothing),
        CHECK_TEST(memory_that_is_looked_at_stays_until_it_is_not),
        CHECK_TEST(who_is_stopped_in_a_look_keeps_one_run),
        CHECK_TEST(a_look_maps_another_run_when_that_pays_again),
        CHECK_TEST(threads_that_look_see_no_half_of_a_change),
        CHECK_TEST(looks_outlive_the_runs),
        CHECK_TEST(stray_writes_lead_nowhere),
#if !defined(__SANITIZE_THREAD__)
        CHECK_TEST(who_died_while_it_looked_is_not_waited_for),
        CHECK_TEST(who_dies_in_a_change_is_not_looked_through),
        CHECK_TEST(where_addresses_are_limited_nothing_is_mapped_twice),
#endif
    };
    return check_run(tests, CHECK_COUNT(tests), argc, argv);
}
