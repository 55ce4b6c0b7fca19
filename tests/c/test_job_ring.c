// Tests of core/job_ring: which worker gets which slot, which is called when, and what a death leaves behind.
//
// Most of it needs one thread, which plays the parent and the workers in turn, each with a view of its
// own.  What the other side would have written at some step is forged by hand: states, submissions, claim
// words, completions.  Where a worker has to sleep or to die, a thread or a process does only that.
#define _GNU_SOURCE
#include "check_shm.h"

#include <sys/eventfd.h>
#include <sys/mman.h>

#include "core/clock.h"
#include "core/job_ring_check.h"
#include "core/job_ring_look.h"
#include "core/job_ring_parent.h"
#include "core/job_ring_worker.h"

#define SLOTS 8
#define POSITIONS (2 * SLOTS)
#define WORKERS 3

// The shared part, as the unit lays it out.
typedef struct layout {
    uint64_t size_bytes;
    uint32_t slot_count, worker_count;
    _Alignas(64) _Atomic uint32_t tail;
    _Atomic uint32_t closed;
    _Alignas(64) _Atomic uint32_t head;
    _Alignas(64) _Atomic uint32_t finished;
    _Atomic uint32_t need_wakeup;
} layout;

typedef struct completion_layout {
    _Alignas(64) _Atomic uint32_t tail;
    _Atomic uint32_t taken;
    _Atomic uint32_t generation;
    _Atomic uint32_t numbers[SLOTS];
    _Alignas(64) unsigned char unused[64];
} completion_layout;

enum {
    NONE = 0x57a70111,
    BUSY = 0x57a70222,
    SPINNING = 0x57a70333,
    ASLEEP = 0x57a70444,
    CALLED = 0x57a70555,
};

#define CLOSED 0x57a72aaau
#define GRANTED 0x57a73333u

#define READY_AT(position) ((uint32_t)(position) << 2 | 1u)
#define TAKEN_BY(worker) ((uint32_t)(worker) << 2 | 2u)

// One ring, and the views of its parent and of its workers.
typedef struct scene {
    unsigned char *memory;
    uint64_t bytes;
    int wakeup_fd;
    job_ring parent;
    job_ring workers[WORKERS];
    layout *shared;
} scene;

// A worker begins to look at the ring.
static void
attach(scene *all, uint32_t worker)
{
    CHECK_EQ(job_ring_attach(&all->workers[worker], all->memory, all->bytes, all->wakeup_fd), SHM_OK);
}

static void
begin_with(scene *all, uint32_t workers)
{
    all->bytes = job_ring_size(SLOTS, workers);
    all->memory = mmap(NULL, all->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(all->memory != MAP_FAILED);
    all->wakeup_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    CHECK(all->wakeup_fd >= 0);
    CHECK_EQ(job_ring_init(&all->parent, all->memory, SLOTS, workers, all->wakeup_fd), SHM_OK);
    for (uint32_t i = 0; i < WORKERS; i++) {
        attach(all, i);
    }
    all->shared = (layout *)all->memory;
}

static void
begin(scene *all)
{
    begin_with(all, WORKERS);
}

static void
end(scene *all)
{
    job_ring_fini(&all->parent);
    CHECK(munmap(all->memory, all->bytes) == 0);
    close(all->wakeup_fd);
}

static completion_layout *
completions_of(scene *all, uint32_t worker)
{
    return (completion_layout *)(all->parent.completions + worker * sizeof(completion_layout));
}

// ---- the parent's part ----

static void
write_number(job_slot *slot, uint32_t number)
{
    memcpy(slot->message, &number, sizeof(number));
}

static uint32_t
read_number(job_slot *slot)
{
    uint32_t number;
    memcpy(&number, slot->message, sizeof(number));
    return number;
}

static job_slot *
push(scene *all, uint32_t number)
{
    job_slot *slot = job_ring_alloc(&all->parent);
    CHECK(slot != NULL);
    write_number(slot, number);
    job_ring_push(&all->parent, slot);
    return slot;
}

static void
withdraw(scene *all, job_slot *slot)
{
    CHECK(job_ring_withdraw(&all->parent, slot));
    job_ring_free(&all->parent, slot);
}

// Reads and frees the slot that the worker has completed next; -1 if that is nothing.
static int64_t
collect(scene *all, uint32_t worker)
{
    bool corrupt = false;
    job_slot *slot = job_ring_pop_completion(&all->parent, worker, &corrupt);
    CHECK(!corrupt);
    if (slot == NULL) {
        return -1;
    }
    uint32_t number = read_number(slot);
    job_ring_free(&all->parent, slot);
    return number;
}

static void
check_corrupt(scene *all, uint32_t worker)
{
    bool corrupt = false;
    CHECK(job_ring_pop_completion(&all->parent, worker, &corrupt) == NULL);
    CHECK(corrupt);
}

// Reaps the worker and frees the slot that it had; -1 if that is nothing.
static int64_t
reap(scene *all, uint32_t worker)
{
    job_slot *slot = job_ring_reap(&all->parent, worker);
    int64_t number = -1;
    if (slot != NULL) {
        number = read_number(slot);
        job_ring_free(&all->parent, slot);
        CHECK(job_ring_reap(&all->parent, worker) == NULL);
    }
    attach(all, worker);  // the next worker of this number
    return number;
}

static void
check_all_slots_are_free(scene *all)
{
    CHECK_EQ(all->parent.free_count, SLOTS);
    for (int i = 0; i < SLOTS; i++) {
        CHECK(!all->parent.is_allocated[i]);
        CHECK_EQ(atomic_load(&all->parent.slots[i].claim), 0);
    }
}

// ---- a worker's part ----

static job_slot *
take(scene *all, uint32_t worker, uint32_t number)
{
    job_slot *slot = job_ring_claim(&all->workers[worker], worker);
    CHECK(slot != NULL);
    CHECK_EQ(read_number(slot), number);
    return slot;
}

static void
finish(scene *all, uint32_t worker, job_slot *slot)
{
    job_ring_complete(&all->workers[worker], worker, slot);
}

static void
take_and_finish(scene *all, uint32_t worker, uint32_t number)
{
    finish(all, worker, take(all, worker, number));
}

// Everything that is ready is this, in this order; it is run and collected.
static void
check_ready(scene *all, const uint32_t *numbers, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        CHECK(job_ring_has_ready(&all->parent));
        take_and_finish(all, 0, numbers[i]);
        CHECK_EQ(collect(all, 0), numbers[i]);
    }
    CHECK(!job_ring_has_ready(&all->parent));
    CHECK(job_ring_claim(&all->workers[0], 0) == NULL);
}

#define CHECK_READY(all, ...)                              \
    do {                                                   \
        const uint32_t numbers_[] = {__VA_ARGS__};         \
        check_ready(all, numbers_, CHECK_COUNT(numbers_)); \
    } while (0)

// ---- slots ----

static void
slots_are_taken_in_the_order_in_which_they_were_pushed(void)
{
    scene all;
    begin(&all);
    CHECK(job_ring_claim(&all.workers[0], 0) == NULL);
    // Several times around the submission ring.
    for (uint32_t i = 0; i < 10 * POSITIONS; i += 3) {
        push(&all, i);
        push(&all, i + 1);
        push(&all, i + 2);
        CHECK_READY(&all, i, i + 1, i + 2);
    }
    check_all_slots_are_free(&all);
    end(&all);
}

static void
a_slot_that_is_pushed_again_has_not_begun(void)
{
    scene all;
    begin(&all);
    push(&all, 0);
    job_slot *slot = take(&all, 0, 0);
    CHECK_EQ(job_slot_began(slot), JOB_SLOT_NOT_BEGUN);
    job_slot_begin(slot, 123);
    CHECK_EQ(job_slot_began(slot), 123);
    finish(&all, 0, slot);
    collect(&all, 0);
    for (uint32_t i = 1; i <= SLOTS; i++) {
        push(&all, i);
        slot = take(&all, 0, i);
        CHECK_EQ(job_slot_began(slot), JOB_SLOT_NOT_BEGUN);
        job_slot_begin(slot, i);
        finish(&all, 0, slot);
        collect(&all, 0);
    }
    end(&all);
}

static void
every_slot_is_taken_once(void)
{
    scene all;
    begin(&all);
    for (uint32_t i = 0; i < SLOTS; i++) {
        push(&all, i);
    }
    for (uint32_t i = 0; i < SLOTS; i++) {
        job_slot *slot = take(&all, i % WORKERS, i);
        CHECK(job_ring_is_taken(slot));
        CHECK_EQ(atomic_load(&slot->claim), TAKEN_BY(i % WORKERS));
    }
    for (uint32_t i = 0; i < WORKERS; i++) {
        CHECK(job_ring_claim(&all.workers[i], i) == NULL);
    }
    end(&all);
}

static void
slots_run_out_and_come_back(void)
{
    scene all;
    job_slot *slots[SLOTS];
    begin(&all);
    for (int i = 0; i < SLOTS; i++) {
        slots[i] = job_ring_alloc(&all.parent);
        for (int j = 0; j < i; j++) {
            CHECK(slots[i] != slots[j]);
        }
    }
    CHECK(job_ring_alloc(&all.parent) == NULL);
    job_ring_free(&all.parent, slots[3]);
    CHECK(job_ring_alloc(&all.parent) == slots[3]);
    CHECK(job_ring_alloc(&all.parent) == NULL);
    for (int i = 0; i < SLOTS; i++) {
        job_ring_free(&all.parent, slots[i]);
    }
    check_all_slots_are_free(&all);
    end(&all);
}

static void
a_withdrawn_slot_is_never_taken(void)
{
    scene all;
    begin(&all);
    push(&all, 1);
    job_slot *two = push(&all, 2);
    push(&all, 3);
    withdraw(&all, two);
    CHECK_READY(&all, 1, 3);
    withdraw(&all, push(&all, 4));
    CHECK(!job_ring_has_ready(&all.parent));
    CHECK(job_ring_claim(&all.workers[0], 0) == NULL);
    check_all_slots_are_free(&all);
    end(&all);
}

static void
only_a_ready_slot_can_be_withdrawn(void)
{
    scene all;
    begin(&all);
    job_slot *slot = job_ring_alloc(&all.parent);
    CHECK(!job_ring_withdraw(&all.parent, slot));
    job_ring_free(&all.parent, slot);
    slot = push(&all, 1);
    CHECK(!job_ring_is_taken(slot));
    take(&all, 0, 1);
    CHECK(!job_ring_withdraw(&all.parent, slot));
    CHECK(job_ring_is_taken(slot));
    finish(&all, 0, slot);
    CHECK(!job_ring_withdraw(&all.parent, slot));
    CHECK_EQ(collect(&all, 0), 1);
    CHECK(!job_ring_is_taken(slot));
    slot = push(&all, 2);
    CHECK(job_ring_withdraw(&all.parent, slot));
    CHECK(!job_ring_withdraw(&all.parent, slot));
    end(&all);
}

static void
a_slot_that_is_pushed_again_comes_last(void)
{
    scene all;
    begin(&all);
    job_slot *slot = push(&all, 1);
    push(&all, 2);
    CHECK(job_ring_withdraw(&all.parent, slot));
    write_number(slot, 3);
    job_ring_push(&all.parent, slot);
    CHECK_READY(&all, 2, 3);
    end(&all);
}

static void
two_mappings_are_one_ring(void)
{
    scene all;
    uint64_t bytes = job_ring_size(SLOTS, WORKERS);
    job_ring parent, worker;
    begin(&all);
    int fd = memfd_create("ring", MFD_CLOEXEC);
    CHECK(fd >= 0 && ftruncate(fd, (off_t)bytes) == 0);
    void *here = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    void *there = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(here != MAP_FAILED && there != MAP_FAILED);
    CHECK_EQ(job_ring_init(&parent, here, SLOTS, WORKERS, all.wakeup_fd), SHM_OK);
    CHECK_EQ(job_ring_attach(&worker, there, bytes, all.wakeup_fd), SHM_OK);
    for (uint32_t i = 0; i < 3 * POSITIONS; i++) {
        bool corrupt = false;
        job_slot *slot = job_ring_alloc(&parent);
        write_number(slot, i);
        job_ring_push(&parent, slot);
        job_slot *taken = job_ring_claim(&worker, i % WORKERS);
        CHECK(taken != NULL && taken != slot);
        CHECK_EQ(read_number(taken), i);
        write_number(taken, i + 1);
        job_ring_complete(&worker, i % WORKERS, taken);
        CHECK(job_ring_pop_completion(&parent, i % WORKERS, &corrupt) == slot);
        CHECK_EQ(read_number(slot), i + 1);
        job_ring_free(&parent, slot);
    }
    job_ring_fini(&parent);
    job_ring_fini(&worker);
    CHECK(munmap(here, bytes) == 0 && munmap(there, bytes) == 0);
    close(fd);
    end(&all);
}

// ---- positions ----

static void
a_stale_position_takes_nothing(void)
{
    scene all;
    begin(&all);
    job_slot *slot = push(&all, 1);
    CHECK(job_ring_withdraw(&all.parent, slot));
    write_number(slot, 2);
    job_ring_push(&all.parent, slot);
    CHECK_EQ(atomic_load(&slot->claim), READY_AT(1));
    // Both places name the slot; to a worker that begins at the first it is ready at the second.
    atomic_store(&all.shared->head, 0);
    CHECK_EQ(atomic_load(&all.parent.submissions[0]), atomic_load(&all.parent.submissions[1]));
    take(&all, 0, 2);
    CHECK_EQ(atomic_load(&all.shared->head), 2);
    atomic_store(&all.shared->head, 0);
    CHECK(job_ring_claim(&all.workers[1], 1) == NULL);
    end(&all);
}

static void
a_submission_that_was_written_over_takes_nothing(void)
{
    scene all;
    begin(&all);
    push(&all, 1);
    job_slot *two = push(&all, 2);
    atomic_store(&all.parent.submissions[0], UINT32_MAX);
    take(&all, 0, 2);
    atomic_store(&all.shared->head, 0);
    atomic_store(&all.parent.submissions[0], SLOTS);
    CHECK(job_ring_claim(&all.workers[0], 0) == NULL);
    // The number of a slot that is ready elsewhere, or taken.
    push(&all, 3);
    atomic_store(&all.shared->head, 0);
    atomic_store(&all.parent.submissions[0], atomic_load(&all.parent.submissions[2]));
    atomic_store(&all.parent.submissions[1], (uint32_t)(two - all.parent.slots));
    take(&all, 1, 3);
    CHECK(job_ring_claim(&all.workers[1], 1) == NULL);
    end(&all);
}

static void
a_wrong_head_hides_nothing(void)
{
    scene all;
    uint32_t wrong[] = {UINT32_C(1) << 31, UINT32_C(3) << 30, UINT32_C(1) << 30, 1, 7, POSITIONS, 1000};
    begin(&all);
    for (uint32_t i = 0; i < CHECK_COUNT(wrong); i++) {
        for (uint32_t j = 0; j < SLOTS; j++) {
            push(&all, j);
        }
        // Beyond the tail, by little or by half the numbers there are, or further back than the ring goes.
        uint32_t tail = atomic_load(&all.shared->tail);
        atomic_store(&all.shared->head, tail + wrong[i]);
        CHECK_READY(&all, 0, 1, 2, 3, 4, 5, 6, 7);
        atomic_store(&all.shared->head, tail);
    }
    end(&all);
}

static void
move_positions_to(scene *all, uint32_t position)
{
    all->parent.tail = position;
    atomic_store(&all->shared->tail, position);
    atomic_store(&all->shared->head, position);
}

static void
positions_wrap_around(void)
{
    // Where the signed difference, what a claim word has room for, and the numbers themselves end.
    uint32_t ends[] = {UINT32_C(1) << 31, UINT32_C(1) << 30, UINT32_C(3) << 30, 0};
    for (size_t i = 0; i < CHECK_COUNT(ends); i++) {
        scene all;
        begin(&all);
        move_positions_to(&all, ends[i] - 3);
        for (uint32_t j = 0; j < SLOTS; j++) {
            push(&all, j);
        }
        CHECK_EQ(atomic_load(&all.shared->tail), ends[i] - 3 + SLOTS);
        CHECK_READY(&all, 0, 1, 2, 3, 4, 5, 6, 7);
        // With room to be made across the end.
        move_positions_to(&all, ends[i] - POSITIONS + 1);
        push(&all, 1);
        for (uint32_t j = 0; j < 2 * POSITIONS; j++) {
            withdraw(&all, push(&all, 100));
        }
        push(&all, 2);
        CHECK_READY(&all, 1, 2);
        end(&all);
    }
}

static void
a_slot_that_stays_ready_is_found_after_any_number_of_withdrawals(void)
{
    for (uint32_t stay = 1; stay < SLOTS; stay++) {
        scene all;
        begin(&all);
        for (uint32_t i = 0; i < stay; i++) {
            push(&all, i);
            withdraw(&all, push(&all, 100));
        }
        for (uint32_t i = 0; i < 5 * POSITIONS; i++) {
            withdraw(&all, push(&all, 100));
            CHECK(atomic_load(&all.shared->tail) - atomic_load(&all.shared->head) <= POSITIONS);
        }
        for (uint32_t i = 0; i < stay; i++) {
            take_and_finish(&all, 0, i);
            CHECK_EQ(collect(&all, 0), i);
        }
        CHECK(job_ring_claim(&all.workers[0], 0) == NULL);
        check_all_slots_are_free(&all);
        end(&all);
    }
}

static void
one_slot_may_be_withdrawn_and_pushed_for_ever(void)
{
    scene all;
    begin(&all);
    push(&all, 1);
    job_slot *slot = push(&all, 100);
    for (uint32_t i = 0; i < 5 * POSITIONS; i++) {
        CHECK(job_ring_withdraw(&all.parent, slot));
        job_ring_push(&all.parent, slot);
    }
    CHECK_READY(&all, 1, 100);
    end(&all);
}

static void
all_slots_may_be_allocated_before_the_first_is_pushed(void)
{
    scene all;
    job_slot *slots[SLOTS];
    begin(&all);
    job_slot *first = push(&all, 1);
    for (uint32_t i = 0; i < POSITIONS - 2; i++) {
        withdraw(&all, push(&all, 100));
    }
    for (uint32_t i = 0; i < SLOTS - 1; i++) {
        slots[i] = job_ring_alloc(&all.parent);
        CHECK(slots[i] != NULL);
    }
    for (uint32_t i = 0; i < SLOTS - 1; i++) {
        write_number(slots[i], i + 2);
        job_ring_push(&all.parent, slots[i]);
    }
    CHECK(!job_ring_is_taken(first));
    CHECK_READY(&all, 1, 2, 3, 4, 5, 6, 7, 8);
    end(&all);
}

static void
a_ring_full_of_dead_positions_is_no_obstacle(void)
{
    scene all;
    begin(&all);
    for (uint32_t i = 0; i < 5 * POSITIONS; i++) {
        withdraw(&all, push(&all, 100));
    }
    atomic_store(&all.shared->head, atomic_load(&all.shared->tail) - POSITIONS);
    push(&all, 1);
    CHECK_READY(&all, 1);
    end(&all);
}

// ---- collecting ----

static void
completions_are_popped_in_order(void)
{
    scene all;
    bool corrupt = true;
    begin(&all);
    CHECK(job_ring_pop_completion(&all.parent, 0, &corrupt) == NULL);
    CHECK(corrupt);  // left alone
    for (uint32_t i = 0; i < SLOTS; i++) {
        push(&all, i);
    }
    // Many times as many as its completion ring is long.
    for (uint32_t i = 0; i < 10 * SLOTS; i++) {
        job_slot *slot = take(&all, i % 2, i);
        CHECK_EQ(collect(&all, i % 2), -1);
        finish(&all, i % 2, slot);
        CHECK_EQ(collect(&all, 2), -1);
        CHECK_EQ(collect(&all, i % 2), i);
        push(&all, SLOTS + i);
    }
    CHECK_EQ(atomic_load(&all.shared->finished), 10 * SLOTS);
    end(&all);
}

static void
all_slots_may_be_completed_before_one_is_popped(void)
{
    scene all;
    begin(&all);
    // Where the count of announcements wraps around.
    atomic_store(&completions_of(&all, 1)->tail, UINT32_MAX - 3);
    all.parent.collected[1] = all.workers[1].completed = UINT32_MAX - 3;
    for (uint32_t i = 0; i < SLOTS; i++) {
        push(&all, i);
    }
    for (uint32_t i = 0; i < SLOTS; i++) {
        take_and_finish(&all, 1, i);
    }
    for (uint32_t i = 0; i < SLOTS; i++) {
        CHECK_EQ(collect(&all, 1), i);
    }
    CHECK_EQ(collect(&all, 1), -1);
    check_all_slots_are_free(&all);
    end(&all);
}

// As finish() does, whatever the number.
static void
announce(scene *all, uint32_t worker, uint32_t number)
{
    completion_layout *done = completions_of(all, worker);
    uint32_t tail = atomic_load(&done->tail);
    atomic_store(&done->numbers[tail % SLOTS], number);
    atomic_store(&done->tail, tail + 1);
}

static void
completions_that_cannot_be_are_corrupt(void)
{
    uint32_t too_large[] = {SLOTS, SLOTS + 1, UINT32_C(1) << 31, UINT32_MAX};
    for (size_t i = 0; i < CHECK_COUNT(too_large); i++) {
        scene all;
        begin(&all);
        announce(&all, 1, too_large[i]);
        CHECK_EQ(collect(&all, 0), -1);
        check_corrupt(&all, 1);
        // A second look does not make it sound; reaping the worker does.
        check_corrupt(&all, 1);
        CHECK_EQ(reap(&all, 1), -1);
        CHECK_EQ(collect(&all, 1), -1);
        end(&all);
    }
}

static void
a_worker_can_only_complete_a_slot_that_it_has_taken(void)
{
    scene all;
    begin(&all);
    job_slot *slot = job_ring_alloc(&all.parent);
    uint32_t number = (uint32_t)(slot - all.parent.slots);
    announce(&all, 1, number);
    check_corrupt(&all, 1);  // drawn
    job_ring_push(&all.parent, slot);
    check_corrupt(&all, 1);  // ready
    CHECK(job_ring_claim(&all.workers[0], 0) == slot);
    check_corrupt(&all, 1);  // another's
    finish(&all, 0, slot);
    check_corrupt(&all, 1);
    bool corrupt = false;
    CHECK(job_ring_pop_completion(&all.parent, 0, &corrupt) == slot);
    CHECK(!corrupt);
    job_ring_free(&all.parent, slot);
    check_corrupt(&all, 1);  // free
    end(&all);
}

static void
a_slot_that_is_completed_twice_is_corrupt(void)
{
    scene all;
    begin(&all);
    job_slot *slot = push(&all, 1);
    take_and_finish(&all, 0, 1);
    announce(&all, 0, (uint32_t)(slot - all.parent.slots));
    CHECK_EQ(collect(&all, 0), 1);
    check_corrupt(&all, 0);
    end(&all);
}

static void
a_claim_word_that_was_written_over_frees_nothing_twice(void)
{
    scene all;
    begin(&all);
    for (uint32_t i = 0; i < SLOTS; i++) {
        atomic_store(&all.parent.slots[i].claim, TAKEN_BY(1));
    }
    announce(&all, 1, 3);
    check_corrupt(&all, 1);
    CHECK(job_ring_reap(&all.parent, 1) == NULL);
    CHECK_EQ(all.parent.free_count, SLOTS);
    // Such a slot is used like any other.
    for (uint32_t i = 0; i < SLOTS; i++) {
        push(&all, i);
    }
    CHECK_READY(&all, 0, 1, 2, 3, 4, 5, 6, 7);
    end(&all);
}

// ---- which worker is called; the states are forged ----

static void
set_states(scene *all, uint32_t first, uint32_t second, uint32_t third)
{
    atomic_store(&all->parent.states[0], first);
    atomic_store(&all->parent.states[1], second);
    atomic_store(&all->parent.states[2], third);
}

static void
check_states(scene *all, uint32_t first, uint32_t second, uint32_t third, const char *text)
{
    check_equal(atomic_load(&all->parent.states[0]), first, text);
    check_equal(atomic_load(&all->parent.states[1]), second, text);
    check_equal(atomic_load(&all->parent.states[2]), third, text);
}

#define CHECK_STATES(all, first, second, third) \
    check_states(all, first, second, third, CHECK_HERE "states " #first ", " #second ", " #third)

static void
states_are_what_these_tests_take_them_for(void)
{
    scene all;
    begin(&all);
    CHECK_STATES(&all, NONE, NONE, NONE);
    job_ring_enter(&all.workers[1], 1);
    CHECK_STATES(&all, NONE, BUSY, NONE);
    job_ring_exit(&all.workers[1], 1);
    CHECK_STATES(&all, NONE, NONE, NONE);
    CHECK_EQ(sizeof(layout), 256);
    CHECK_EQ(all.shared->size_bytes, all.bytes);
    CHECK_EQ(all.shared->slot_count, SLOTS);
    CHECK_EQ(all.shared->worker_count, WORKERS);
    push(&all, 1);
    CHECK_EQ(atomic_load(&all.shared->tail), 1);
    take_and_finish(&all, 2, 1);
    CHECK_EQ(atomic_load(&all.shared->head), 1);
    CHECK_EQ(atomic_load(&all.shared->finished), 1);
    CHECK_EQ(atomic_load(&completions_of(&all, 2)->tail), 1);
    job_ring_close(&all.parent);
    CHECK_EQ(atomic_load(&all.shared->closed), CLOSED);
    end(&all);
}

static void
a_push_calls_one_sleeper(void)
{
    scene all;
    begin(&all);
    set_states(&all, BUSY, ASLEEP, ASLEEP);
    push(&all, 1);
    CHECK_STATES(&all, BUSY, CALLED, ASLEEP);
    end(&all);
}

static void
while_one_worker_is_on_its_way_no_other_is_called(void)
{
    scene all;
    begin(&all);
    set_states(&all, ASLEEP, BUSY, SPINNING);
    push(&all, 1);
    CHECK_STATES(&all, ASLEEP, BUSY, SPINNING);
    set_states(&all, ASLEEP, ASLEEP, CALLED);
    push(&all, 2);
    CHECK_STATES(&all, ASLEEP, ASLEEP, CALLED);
    end(&all);
}

static void
a_worker_that_is_busy_or_not_there_is_not_called(void)
{
    scene all;
    begin(&all);
    set_states(&all, BUSY, NONE, BUSY);
    push(&all, 1);
    CHECK_STATES(&all, BUSY, NONE, BUSY);
    end(&all);
}

static void
a_worker_that_leaves_work_behind_calls_a_sleeper(void)
{
    scene all;
    begin(&all);
    set_states(&all, BUSY, BUSY, BUSY);
    for (uint32_t i = 0; i < 3; i++) {
        push(&all, i);
    }
    set_states(&all, BUSY, ASLEEP, ASLEEP);
    take(&all, 0, 0);
    CHECK_STATES(&all, BUSY, CALLED, ASLEEP);
    // The called one comes, and does the same.
    set_states(&all, BUSY, BUSY, ASLEEP);
    take(&all, 1, 1);
    CHECK_STATES(&all, BUSY, BUSY, CALLED);
    end(&all);
}

static void
a_worker_that_leaves_work_behind_relies_on_the_one_on_its_way(void)
{
    scene all;
    begin(&all);
    set_states(&all, BUSY, SPINNING, ASLEEP);
    push(&all, 0);
    push(&all, 1);
    take(&all, 0, 0);
    CHECK_STATES(&all, BUSY, SPINNING, ASLEEP);
    end(&all);
}

static void
a_worker_that_takes_the_last_slot_calls_no_other(void)
{
    scene all;
    begin(&all);
    set_states(&all, BUSY, BUSY, BUSY);
    push(&all, 1);
    withdraw(&all, push(&all, 2));
    set_states(&all, BUSY, ASLEEP, ASLEEP);
    take(&all, 0, 1);
    CHECK_STATES(&all, BUSY, ASLEEP, ASLEEP);
    CHECK(job_ring_claim(&all.workers[0], 0) == NULL);
    CHECK_STATES(&all, BUSY, ASLEEP, ASLEEP);
    end(&all);
}

static void
a_worker_that_exits_passes_its_call_on(void)
{
    uint32_t relied_on[] = {CALLED, SPINNING, BUSY};
    for (size_t i = 0; i < CHECK_COUNT(relied_on); i++) {
        scene all;
        begin(&all);
        set_states(&all, SPINNING, ASLEEP, ASLEEP);
        push(&all, 1);
        set_states(&all, relied_on[i], ASLEEP, ASLEEP);
        job_ring_exit(&all.workers[0], 0);
        CHECK_STATES(&all, NONE, CALLED, ASLEEP);
        end(&all);
    }
}

static void
a_worker_that_exits_and_leaves_no_work_calls_no_other(void)
{
    scene all;
    begin(&all);
    set_states(&all, CALLED, ASLEEP, ASLEEP);
    job_ring_exit(&all.workers[0], 0);
    CHECK_STATES(&all, NONE, ASLEEP, ASLEEP);
    end(&all);
}

static void
a_call_is_for_work(void)
{
    scene all;
    begin(&all);
    set_states(&all, ASLEEP, ASLEEP, ASLEEP);
    job_ring_notify(&all.parent);
    CHECK_STATES(&all, ASLEEP, ASLEEP, ASLEEP);
    set_states(&all, BUSY, BUSY, BUSY);
    push(&all, 1);
    set_states(&all, ASLEEP, ASLEEP, ASLEEP);
    job_ring_notify(&all.parent);
    CHECK_STATES(&all, CALLED, ASLEEP, ASLEEP);
    job_ring_notify(&all.parent);
    CHECK_STATES(&all, CALLED, ASLEEP, ASLEEP);
    end(&all);
}

static void
close_calls_all_sleepers(void)
{
    scene all;
    begin(&all);
    set_states(&all, ASLEEP, BUSY, ASLEEP);
    job_ring_close(&all.parent);
    CHECK_STATES(&all, CALLED, BUSY, CALLED);
    set_states(&all, SPINNING, NONE, CALLED);
    job_ring_close(&all.parent);
    CHECK_STATES(&all, SPINNING, NONE, CALLED);
    end(&all);
}

// ---- waiting; the worker that waits is a thread ----

typedef struct waiter {
    check_thread thread;
    scene *all;
    uint32_t number;
    park_spot spot;
    int rc;
} waiter;

static void
wait_once(void *arg)
{
    waiter *self = arg;
    self->rc = job_ring_wait(&self->all->workers[self->number], self->number, &self->spot, FUTEX_NO_DEADLINE);
}

static _Atomic uint32_t *
state_of(waiter *self)
{
    return &self->all->workers[0].states[self->number];
}

static void
start_waiter(waiter *self, scene *all, uint32_t number, uint32_t spin_ns)
{
    self->all = all;
    self->number = number;
    park_spot_init(&self->spot, 1);
    self->spot.most_spinning = 1;
    atomic_store(&self->spot.spin_ns, spin_ns);
    job_ring_enter(&all->workers[number], number);
    check_start(&self->thread, wait_once, self);
}

// Asleep in the kernel, and its worker_state says so.
static void
start_sleeper(waiter *self, scene *all, uint32_t number)
{
    start_waiter(self, all, number, 0);
    CHECK_UNTIL(check_asleep(&self->thread, state_of(self)));
    CHECK_EQ(atomic_load(state_of(self)), ASLEEP);
}

// The worker's wait is over, and no other relies on it.
static void
check_waited(waiter *self, int rc)
{
    check_join(&self->thread);
    CHECK_EQ(self->rc, rc);
    CHECK_EQ(atomic_load(state_of(self)), BUSY);
}

static int
wait_here(scene *all, uint32_t worker)
{
    waiter self = {.all = all, .number = worker};
    park_spot_init(&self.spot, 0);
    wait_once(&self);
    CHECK_EQ(atomic_load(state_of(&self)), BUSY);
    return self.rc;
}

static void
a_worker_that_finds_work_does_not_wait(void)
{
    scene all;
    begin(&all);
    push(&all, 1);
    CHECK_EQ(wait_here(&all, 0), JOB_RING_WORK);
    take(&all, 0, 1);
    end(&all);
}

static void
a_worker_waits_until_its_deadline(void)
{
    scene all;
    begin(&all);
    waiter self = {.all = &all};
    park_spot_init(&self.spot, 0);
    int64_t deadline_ns = clock_now_ns() + 1000000;
    CHECK_EQ(job_ring_wait(&all.workers[0], 0, &self.spot, deadline_ns), JOB_RING_WORK);
    CHECK(clock_now_ns() >= deadline_ns);
    CHECK_EQ(atomic_load(state_of(&self)), BUSY);
    CHECK(job_ring_claim(&all.workers[0], 0) == NULL);
    end(&all);
}

static void
a_closed_ring_is_worked_off(void)
{
    scene all;
    begin(&all);
    push(&all, 1);
    push(&all, 2);
    job_ring_close(&all.parent);
    CHECK_EQ(wait_here(&all, 0), JOB_RING_WORK);
    take_and_finish(&all, 0, 1);
    CHECK_EQ(wait_here(&all, 0), JOB_RING_WORK);
    take_and_finish(&all, 0, 2);
    CHECK_EQ(wait_here(&all, 0), JOB_RING_CLOSED);
    CHECK_EQ(collect(&all, 0), 1);
    CHECK_EQ(collect(&all, 0), 2);
    end(&all);
}

static void
a_push_wakes_one_of_several_sleepers(void)
{
    scene all;
    waiter workers[WORKERS];
    begin(&all);
    for (uint32_t i = 0; i < WORKERS; i++) {
        start_sleeper(&workers[i], &all, i);
    }
    for (uint32_t i = 0; i < WORKERS; i++) {
        push(&all, i);
        // It is called in the order of the states, and is on its way until it says that it is busy.
        CHECK_UNTIL(atomic_load(state_of(&workers[i])) == BUSY);
        check_waited(&workers[i], JOB_RING_WORK);
        for (uint32_t j = i + 1; j < WORKERS; j++) {
            CHECK(check_asleep(&workers[j].thread, state_of(&workers[j])));
        }
        take(&all, i, i);
    }
    end(&all);
}

static void
a_worker_wakes_the_next_for_what_it_leaves(void)
{
    scene all;
    waiter workers[2];
    begin(&all);
    start_sleeper(&workers[0], &all, 0);
    start_sleeper(&workers[1], &all, 1);
    push(&all, 1);
    check_waited(&workers[0], JOB_RING_WORK);
    // A worker seems to be on its way, so this push calls none.
    atomic_store(&all.parent.states[0], CALLED);
    push(&all, 2);
    CHECK_EQ(atomic_load(state_of(&workers[1])), ASLEEP);
    atomic_store(&all.parent.states[0], BUSY);
    take(&all, 0, 1);
    check_waited(&workers[1], JOB_RING_WORK);
    take(&all, 1, 2);
    end(&all);
}

static void
a_spinning_worker_sees_a_push_without_a_call(void)
{
    scene all;
    waiter worker;
    begin(&all);
    start_waiter(&worker, &all, 0, UINT32_MAX);
    CHECK_UNTIL(atomic_load(state_of(&worker)) == SPINNING);
    push(&all, 1);
    check_waited(&worker, JOB_RING_WORK);
    take(&all, 0, 1);
    end(&all);
}

static void
while_one_spins_another_sleeps_at_once(void)
{
    scene all;
    waiter worker;
    begin(&all);
    atomic_store(&all.parent.states[2], SPINNING);
    start_waiter(&worker, &all, 0, UINT32_MAX);
    CHECK_UNTIL(check_asleep(&worker.thread, state_of(&worker)));
    // The spinner will come for this, and gives up.
    push(&all, 1);
    CHECK(check_asleep(&worker.thread, state_of(&worker)));
    job_ring_exit(&all.workers[2], 2);
    check_waited(&worker, JOB_RING_WORK);
    end(&all);
}

static void
close_wakes_every_worker(void)
{
    scene all;
    waiter workers[WORKERS];
    begin(&all);
    for (uint32_t i = 0; i < WORKERS; i++) {
        start_sleeper(&workers[i], &all, i);
    }
    job_ring_close(&all.parent);
    for (uint32_t i = 0; i < WORKERS; i++) {
        check_waited(&workers[i], JOB_RING_CLOSED);
    }
    end(&all);
}

static void
a_signal_handler_ends_a_wait(void)
{
    scene all;
    waiter worker;
    begin(&all);
    check_handle_sigusr1();
    start_sleeper(&worker, &all, 0);
    pthread_kill(worker.thread.thread, SIGUSR1);
    check_waited(&worker, JOB_RING_WORK);
    end(&all);
}

static void
a_worker_called_by_a_dead_one_is_woken_by_reap(void)
{
    scene all;
    waiter worker;
    begin(&all);
    start_sleeper(&worker, &all, 0);
    job_ring_enter(&all.workers[1], 1);
    // The other worker rang the state word, and died before it woke the sleeper: now no other is called.
    atomic_store(state_of(&worker), CALLED);
    push(&all, 1);
    CHECK(check_asleep(&worker.thread, state_of(&worker)));
    CHECK_EQ(reap(&all, 1), -1);
    check_waited(&worker, JOB_RING_WORK);
    take(&all, 0, 1);
    end(&all);
}

// ---- the parent that sleeps ----

// How often the eventfd was raised since the last look.
static uint64_t
raised(scene *all)
{
    uint64_t count = 0;
    if (read(all->wakeup_fd, &count, sizeof(count)) < 0) {
        CHECK_EQ(errno, EAGAIN);
    }
    return count;
}

static void
finish_one(scene *all, uint32_t worker)
{
    push(all, 1);
    take_and_finish(all, worker, 1);
    CHECK_EQ(collect(all, worker), 1);
}

static uint32_t
finished(scene *all)
{
    return atomic_load(job_ring_finished(&all->parent));
}

static void
a_disarmed_wakeup_raises_no_eventfd(void)
{
    scene all;
    begin(&all);
    finish_one(&all, 0);
    job_ring_disarm_wakeup(&all.parent);
    finish_one(&all, 1);
    CHECK_EQ(raised(&all), 0);
    CHECK_EQ(finished(&all), 2);
    // Nor after a sleep that is over.
    CHECK(job_ring_arm_wakeup(&all.parent, finished(&all)));
    job_ring_disarm_wakeup(&all.parent);
    finish_one(&all, 0);
    CHECK_EQ(raised(&all), 0);
    end(&all);
}

static void
the_first_completion_wakes_the_parent(void)
{
    scene all;
    begin(&all);
    for (int i = 0; i < 3; i++) {
        CHECK(job_ring_arm_wakeup(&all.parent, finished(&all)));
        CHECK_EQ(raised(&all), 0);
        finish_one(&all, 0);
        CHECK_EQ(raised(&all), 1);
        finish_one(&all, 0);
        finish_one(&all, 1);
        CHECK_EQ(raised(&all), 0);
        if (i == 1) {
            job_ring_disarm_wakeup(&all.parent);
        }
    }
    end(&all);
}

static void
a_parent_that_missed_a_completion_does_not_sleep(void)
{
    scene all;
    begin(&all);
    uint32_t seen = finished(&all);
    finish_one(&all, 0);
    CHECK(!job_ring_arm_wakeup(&all.parent, seen));
    CHECK(job_ring_arm_wakeup(&all.parent, finished(&all)));
    finish_one(&all, 0);
    CHECK_EQ(raised(&all), 1);
    // Where the count wraps around.
    atomic_store(&all.shared->finished, UINT32_MAX);
    seen = finished(&all);
    finish_one(&all, 0);
    CHECK_EQ(finished(&all), 0);
    CHECK(!job_ring_arm_wakeup(&all.parent, seen));
    end(&all);
}

static void
a_wakeup_that_a_dead_worker_disarmed_is_armed_again(void)
{
    scene all;
    begin(&all);
    push(&all, 1);
    CHECK(job_ring_arm_wakeup(&all.parent, finished(&all)));
    // A worker finished, took it upon itself to raise the eventfd, and died.
    take(&all, 0, 1);
    announce(&all, 0, (uint32_t)(&all.parent.slots[0] - all.parent.slots));
    atomic_fetch_add(&all.shared->finished, 1);
    atomic_store(&all.shared->need_wakeup, 0);
    // The parent learns of the death: it collects from all, and sleeps anew.
    CHECK_EQ(collect(&all, 0), 1);
    CHECK_EQ(reap(&all, 0), -1);
    CHECK(job_ring_arm_wakeup(&all.parent, finished(&all)));
    finish_one(&all, 1);
    CHECK_EQ(raised(&all), 1);
    end(&all);
}

// ---- reaping ----

static void
a_worker_that_never_came_leaves_nothing(void)
{
    scene all;
    begin(&all);
    CHECK_EQ(reap(&all, 0), -1);
    CHECK_STATES(&all, NONE, NONE, NONE);
    end(&all);
}

static void
a_worker_that_dies_before_its_claim_leaves_the_slot_ready(void)
{
    scene all;
    begin(&all);
    set_states(&all, ASLEEP, ASLEEP, BUSY);
    push(&all, 1);
    CHECK_STATES(&all, CALLED, ASLEEP, BUSY);
    CHECK_EQ(reap(&all, 0), -1);
    job_ring_notify(&all.parent);
    CHECK_STATES(&all, NONE, CALLED, BUSY);
    take(&all, 1, 1);
    end(&all);
}

static void
a_worker_that_dies_after_its_claim_leaves_one_slot(void)
{
    scene all;
    begin(&all);
    set_states(&all, BUSY, BUSY, ASLEEP);
    push(&all, 1);
    push(&all, 2);
    take(&all, 0, 1);
    take(&all, 1, 2);
    push(&all, 3);
    CHECK_EQ(reap(&all, 0), 1);
    CHECK_STATES(&all, NONE, BUSY, CALLED);
    // The others' slots are theirs.
    CHECK(job_ring_is_taken(&all.parent.slots[1]));
    CHECK_READY(&all, 3);
    CHECK_EQ(reap(&all, 1), 2);
    end(&all);
}

static void
a_worker_that_dies_before_it_calls_another_is_made_up_for(void)
{
    scene all;
    begin(&all);
    set_states(&all, BUSY, BUSY, BUSY);
    push(&all, 1);
    job_slot *left = push(&all, 2);
    // It had changed only the claim word.
    uint32_t claim = READY_AT(0);
    CHECK(atomic_compare_exchange_strong(&all.parent.slots[0].claim, &claim, TAKEN_BY(0)));
    set_states(&all, BUSY, ASLEEP, BUSY);
    CHECK_EQ(reap(&all, 0), 1);
    job_ring_notify(&all.parent);
    CHECK_STATES(&all, NONE, CALLED, BUSY);
    CHECK(take(&all, 1, 2) == left);
    end(&all);
}

static void
a_worker_that_dies_while_it_answers_has_not_answered(void)
{
    scene all;
    begin(&all);
    push(&all, 1);
    job_slot *slot = take(&all, 0, 1);
    write_number(slot, 2);
    // Its entry in the completion ring is written, too, but not yet counted.
    completion_layout *done = completions_of(&all, 0);
    atomic_store(&done->numbers[0], (uint32_t)(slot - all.parent.slots));
    CHECK_EQ(collect(&all, 0), -1);
    CHECK_EQ(reap(&all, 0), 2);
    check_all_slots_are_free(&all);
    end(&all);
}

static void
what_workers_run_is_counted_and_a_stray_write_is_only_a_wrong_number(void)
{
    scene all;
    begin(&all);
    push(&all, 1);
    push(&all, 2);
    CHECK_EQ(job_ring_look(&all.parent).running, 0);
    take(&all, 0, 1);
    CHECK_EQ(job_ring_look(&all.parent).running, 1);
    CHECK_EQ(job_ring_look(&all.parent).busy, 1);
    take_and_finish(&all, 1, 2);
    CHECK_EQ(job_ring_look(&all.parent).busy, 2);
    CHECK_EQ(collect(&all, 1), 2);
    CHECK_EQ(job_ring_collected(&all.parent, 1), 1);
    CHECK_EQ(job_ring_look(&all.parent).busy, 1);
    static const uint32_t strays[] = {0, 1, SLOTS, SLOTS + 1, 0x80000000u, UINT32_MAX};
    for (uint32_t i = 0; i < CHECK_COUNT(strays); i++) {
        atomic_store(&completions_of(&all, 1)->taken, strays[i]);
        CHECK(job_ring_look(&all.parent).running <= 1 + SLOTS);
        CHECK(job_ring_is_intact(&all.parent));
    }
    CHECK_EQ(reap(&all, 1), -1);
    CHECK_EQ(reap(&all, 0), 1);
    CHECK_EQ(job_ring_look(&all.parent).running, 0);
    check_all_slots_are_free(&all);
    end(&all);
}

static void
a_worker_that_dies_after_its_completion_has_answered(void)
{
    scene all;
    begin(&all);
    push(&all, 1);
    push(&all, 2);
    take_and_finish(&all, 0, 1);
    // Or before it told the parent: the count of completions lacks this one.
    take(&all, 0, 2);
    announce(&all, 0, 1);
    CHECK_EQ(finished(&all), 1);
    CHECK_EQ(collect(&all, 0), 1);
    CHECK_EQ(collect(&all, 0), 2);
    CHECK_EQ(reap(&all, 0), -1);
    check_all_slots_are_free(&all);
    end(&all);
}

static void
the_number_of_a_dead_worker_begins_anew(void)
{
    scene all;
    begin(&all);
    for (uint32_t i = 0; i < 3 * SLOTS; i++) {
        finish_one(&all, 0);
        push(&all, 2);
        take(&all, 0, 2);
        CHECK_EQ(reap(&all, 0), 2);
        job_ring_enter(&all.workers[0], 0);
    }
    check_all_slots_are_free(&all);
    end(&all);
}

// ---- real deaths ----

typedef struct dying_worker {
    scene *all;
    int step;
} dying_worker;

enum {
    DIES_AFTER_ENTERING,
    DIES_ASLEEP,
    DIES_CALLED,
    DIES_AFTER_CLAIM,
    DIES_WHILE_WRITING,
    DIES_AFTER_ANNOUNCEMENT,
    DIES_AFTER_EXIT,
    DEATHS
};

// Worker 0, in a child.
static void
live_until(void *arg)
{
    dying_worker *self = arg;
    job_ring ring;
    CHECK_EQ(job_ring_attach(&ring, self->all->memory, self->all->bytes, self->all->wakeup_fd), SHM_OK);
    job_ring_enter(&ring, 0);
    if (self->step == DIES_ASLEEP || self->step == DIES_CALLED) {
        park_spot spot;
        park_spot_init(&spot, 0);
        job_ring_wait(&ring, 0, &spot, FUTEX_NO_DEADLINE);
    }
    if (self->step >= DIES_AFTER_CLAIM) {
        job_slot *slot = job_ring_claim(&ring, 0);
        CHECK(slot != NULL);
        if (self->step == DIES_WHILE_WRITING) {
            write_number(slot, 4711);
        }
        if (self->step >= DIES_AFTER_ANNOUNCEMENT) {
            job_ring_complete(&ring, 0, slot);
        }
        if (self->step == DIES_AFTER_EXIT) {
            job_ring_exit(&ring, 0);
        }
    }
}

static void
only_the_slots_of_killed_workers_are_lost(void)
{
    for (int step = 0; step < DEATHS; step++) {
        scene all;
        check_child child;
        waiter other;
        dying_worker dead = {.all = &all, .step = step};
        bool claims = step >= DIES_AFTER_CLAIM;
        bool answers = step >= DIES_AFTER_ANNOUNCEMENT;
        begin(&all);
        if (claims) {
            push(&all, 1);
            push(&all, 2);
        }
        if (step == DIES_ASLEEP || step == DIES_CALLED) {
            check_fork(&child, live_until, &dead);
            CHECK_UNTIL(atomic_load(&all.parent.states[0]) == ASLEEP && check_child_asleep(&child));
        }
        else {
            check_fork_until_done(&child, live_until, &dead);
        }
        if (step == DIES_CALLED) {
            // Killed on its way: what it was called for stays.
            CHECK(kill(child.pid, SIGSTOP) == 0);
            push(&all, 2);
            CHECK_EQ(atomic_load(&all.parent.states[0]), CALLED);
        }
        check_kill(&child);
        CHECK_EQ(collect(&all, 0), answers ? 1 : -1);
        int64_t left = reap(&all, 0);
        CHECK_EQ(left, step == DIES_AFTER_CLAIM ? 1 : step == DIES_WHILE_WRITING ? 4711
                                                                                 : -1);
        // Another worker comes for the rest, also when it sleeps already.
        if (claims || step == DIES_CALLED) {
            job_ring_enter(&all.workers[1], 1);
            atomic_store(&all.parent.states[1], ASLEEP);
            job_ring_notify(&all.parent);
            CHECK_STATES(&all, NONE, CALLED, NONE);
        }
        else {
            start_sleeper(&other, &all, 1);
            push(&all, 2);
            check_waited(&other, JOB_RING_WORK);
        }
        take_and_finish(&all, 1, 2);
        CHECK_EQ(collect(&all, 1), 2);
        CHECK(!job_ring_has_ready(&all.parent));
        check_all_slots_are_free(&all);
        end(&all);
    }
}

static void
work_until_closed(void *arg)
{
    scene *all = arg;
    park_spot spot;
    park_spot_init(&spot, 1);
    job_ring_enter(&all->workers[0], 0);
    do {
        job_slot *slot;
        while ((slot = job_ring_claim(&all->workers[0], 0)) != NULL) {
            write_number(slot, read_number(slot) + 1);
            job_ring_complete(&all->workers[0], 0, slot);
        }
    } while (job_ring_wait(&all->workers[0], 0, &spot, FUTEX_NO_DEADLINE) != JOB_RING_CLOSED);
    job_ring_exit(&all->workers[0], 0);
}

static void
another_process_is_woken_works_and_leaves(void)
{
    scene all;
    check_child child;
    begin(&all);
    check_fork(&child, work_until_closed, &all);
    for (uint32_t i = 0; i < 10; i++) {
        CHECK_UNTIL(atomic_load(&all.parent.states[0]) == ASLEEP && check_child_asleep(&child));
        uint32_t seen = finished(&all);
        push(&all, i);
        CHECK_UNTIL(finished(&all) != seen);
        CHECK_EQ(collect(&all, 0), i + 1);
    }
    CHECK_UNTIL(atomic_load(&all.parent.states[0]) == ASLEEP && check_child_asleep(&child));
    job_ring_close(&all.parent);
    check_finish(&child);
    CHECK_STATES(&all, NONE, NONE, NONE);
    end(&all);
}

// ---- joining ----

static void
the_workers_view_is_the_parents(void)
{
    scene all;
    begin(&all);
    CHECK(all.workers[0].states == all.parent.states);
    CHECK(all.workers[0].submissions == all.parent.submissions);
    CHECK(all.workers[0].completions == all.parent.completions);
    CHECK(all.workers[0].slots == all.parent.slots);
    CHECK_EQ((uintptr_t)all.workers[0].slots % 64, 0);
    CHECK((unsigned char *)(all.workers[0].slots + SLOTS) == all.memory + all.bytes);
    // The ring may be the first part of something larger.
    job_ring another;
    CHECK_EQ(job_ring_attach(&another, all.memory, all.bytes + 1, all.wakeup_fd), SHM_OK);
    job_ring_fini(&another);
    end(&all);
}

static void
check_not_ours(scene *all, uint64_t bytes, const char *text)
{
    job_ring ring;
    check_equal(job_ring_attach(&ring, all->memory, bytes, all->wakeup_fd), SHM_NOT_OURS, text);
    // Whatever was forged is whole again.
    all->shared->size_bytes = all->bytes;
    all->shared->slot_count = SLOTS;
    all->shared->worker_count = WORKERS;
    CHECK_EQ(job_ring_attach(&ring, all->memory, all->bytes, all->wakeup_fd), SHM_OK);
}

#define CHECK_NOT_OURS(all, bytes) check_not_ours(all, bytes, CHECK_HERE "not ours")

static void
memory_that_is_no_ring_is_refused(void)
{
    scene all;
    begin(&all);
    CHECK_NOT_OURS(&all, 0);
    CHECK_NOT_OURS(&all, sizeof(layout) - 1);
    CHECK_NOT_OURS(&all, sizeof(layout));
    CHECK_NOT_OURS(&all, all.bytes - 1);
    all.shared->size_bytes++;
    CHECK_NOT_OURS(&all, all.bytes + 1);
    all.shared->size_bytes--;
    CHECK_NOT_OURS(&all, all.bytes);
    uint32_t counts[] = {0, 1, 3, SLOTS - 1, SLOTS / 2, 2 * SLOTS, UINT32_C(1) << 31, UINT32_MAX};
    for (size_t i = 0; i < CHECK_COUNT(counts); i++) {
        all.shared->slot_count = counts[i];
        CHECK_NOT_OURS(&all, all.bytes);
    }
    for (size_t i = 0; i < CHECK_COUNT(counts); i++) {
        // Three workers are right, and so few states have one line of memory.
        all.shared->worker_count = counts[i] == WORKERS ? WORKERS + 1 : counts[i];
        CHECK_NOT_OURS(&all, all.bytes);
    }
    end(&all);
}

static void
a_size_that_wraps_around_is_refused(void)
{
    // With so many slots, each worker's completion ring is so long that some number of them asks
    // for less memory than the header has.
    scene all;
    begin(&all);
    uint64_t slots = UINT64_C(1) << 31;
    uint64_t each = 4 * slots + 64;
    for (uint64_t turns = 1; turns <= 2; turns++) {
        uint64_t workers = (UINT64_MAX / each) * turns;
        CHECK(workers <= UINT32_MAX);
        all.shared->slot_count = (uint32_t)slots;
        all.shared->worker_count = (uint32_t)workers;
        all.shared->size_bytes = 256 + (4 * workers + 63) / 64 * 64 + 8 * slots + workers * each
                                 + slots * JOB_SLOT_BYTES;
        CHECK(all.shared->size_bytes / each < workers);
        CHECK_NOT_OURS(&all, all.shared->size_bytes);
    }
    end(&all);
}

static void
fini_accepts_null_fields(void)
{
    scene all;
    job_ring ring;
    memset(&ring, 0, sizeof(ring));
    job_ring_fini(&ring);
    begin(&all);
    job_ring_fini(&all.parent);
    CHECK(all.parent.free_slots == NULL);
    job_ring_fini(&all.parent);
    end(&all);
}

static void
a_ring_may_be_as_small_as_one_slot_and_one_worker(void)
{
    _Alignas(64) unsigned char memory[4096];
    job_ring ring;
    bool corrupt = false;
    memset(memory, 0, sizeof(memory));
    CHECK(job_ring_size(1, 1) <= sizeof(memory));
    CHECK_EQ(job_ring_init(&ring, memory, 1, 1, -1), SHM_OK);
    for (int i = 0; i < 10; i++) {
        job_slot *slot = job_ring_alloc(&ring);
        CHECK(slot != NULL);
        CHECK(job_ring_alloc(&ring) == NULL);
        job_ring_push(&ring, slot);
        CHECK(job_ring_withdraw(&ring, slot));
        job_ring_push(&ring, slot);
        CHECK(job_ring_claim(&ring, 0) == slot);
        job_ring_complete(&ring, 0, slot);
        CHECK(job_ring_pop_completion(&ring, 0, &corrupt) == slot);
        job_ring_free(&ring, slot);
    }
    job_ring_fini(&ring);
}

// ---- ranges ----

#define RANGE 7

typedef struct model {
    job_slot slot;
    bool ran[RANGE];
    uint32_t kept;  // RANGE until it is split
    uint32_t splits;
    bool over;  // the taker has been told that the rest is not its own
    uint64_t orders;
} model;

// All orders in which one takes calls and another splits, from here on.
static void
run_in_every_order(model *now)
{
    if (now->over) {
        // Whatever the order, every call is either run or split off.
        for (uint32_t i = 0; i < RANGE; i++) {
            CHECK_EQ(now->ran[i], i < now->kept);
        }
        now->orders++;
        return;
    }
    model after_take = *now;
    uint32_t call = job_slot_next(&after_take.slot);
    if (call == UINT32_MAX) {
        after_take.over = true;
    }
    else {
        CHECK(call < RANGE && !after_take.ran[call]);
        after_take.ran[call] = true;
    }
    run_in_every_order(&after_take);
    now->orders = after_take.orders;
    if (now->splits < 2) {
        model after_split = *now;
        uint32_t kept = job_slot_split(&after_split.slot, RANGE);
        CHECK(kept <= RANGE);
        if (kept < RANGE) {
            CHECK_EQ(after_split.kept, RANGE);
            after_split.kept = kept;
        }
        after_split.splits++;
        run_in_every_order(&after_split);
        now->orders = after_split.orders;
    }
}

static void
every_call_is_run_once_or_split_off_in_every_order(void)
{
    model start;
    memset(&start, 0, sizeof(start));
    start.kept = RANGE;
    job_slot_set_range(&start.slot, RANGE);
    run_in_every_order(&start);
    // So many ways there are to put none, one or two splits between the calls.
    CHECK(start.orders > RANGE * RANGE / 2);
}

static void
a_split_leaves_the_first_half_of_what_is_left(void)
{
    job_slot slot;
    for (uint32_t count = 0; count < 20; count++) {
        for (uint32_t next = 0; next <= count; next++) {
            job_slot_set_range(&slot, count);
            for (uint32_t i = 0; i < next; i++) {
                CHECK_EQ(job_slot_next(&slot), i);
            }
            uint32_t kept = job_slot_split(&slot, count);
            CHECK_EQ(kept, next == count ? count : next + (count - next) / 2);
            // Only once.
            CHECK_EQ(job_slot_split(&slot, count), count);
            for (uint32_t i = next; i < kept; i++) {
                CHECK_EQ(job_slot_next(&slot), i);
            }
            CHECK_EQ(job_slot_next(&slot), UINT32_MAX);
            CHECK_EQ(job_slot_next(&slot), UINT32_MAX);
        }
    }
}

static void
a_forged_range_splits_off_nothing(void)
{
    job_slot slot;
    uint64_t forged[] = {UINT64_MAX, 6, 4, UINT64_C(5) << 32 | 5, UINT64_C(6) << 32 | 5, UINT64_C(5) << 32};
    for (size_t i = 0; i < CHECK_COUNT(forged); i++) {
        atomic_store(&slot.range, forged[i]);
        CHECK_EQ(job_slot_split(&slot, 5), 5);
    }
    atomic_store(&slot.range, UINT64_C(3) << 32 | 5);
    CHECK_EQ(job_slot_split(&slot, 5), 4);
}

static void
large_ranges_split_too(void)
{
    job_slot slot;
    job_slot_set_range(&slot, UINT32_MAX - 1);
    CHECK_EQ(job_slot_split(&slot, UINT32_MAX - 1), (UINT32_MAX - 1) / 2);
    CHECK_EQ(job_slot_next(&slot), 0);
}

// ---- stopping ----

// Pushes a slot whose call may be stopped, and has worker 0 take it.
static job_slot *
take_stoppable(scene *all)
{
    job_slot *slot = job_ring_alloc(&all->parent);
    job_slot_set_stoppable(slot, 5, 7);
    CHECK(slot->timeout_ns == 5 && slot->deadline_ns == 7);
    job_ring_push(&all->parent, slot);
    CHECK_EQ(job_ring_taker(&all->parent, slot), UINT32_MAX);
    job_slot *taken = job_ring_claim(&all->workers[0], 0);
    CHECK_EQ(job_ring_taker(&all->parent, slot), 0);
    return taken;
}

static void
a_call_that_has_ended_condemns_no_worker(void)
{
    scene all;
    begin(&all);
    job_slot *slot = take_stoppable(&all);
    CHECK_EQ(job_slot_asked(slot), STOP_NOT);
    CHECK(job_slot_ask(slot, STOP_BY_TIMEOUT));
    CHECK(!job_slot_ask(slot, STOP_BY_CANCEL));  // the first reason stays
    CHECK_EQ(job_slot_asked(slot), STOP_BY_TIMEOUT);
    CHECK(!job_slot_has_ended(slot));
    CHECK(job_slot_finish(slot));
    CHECK(job_slot_has_ended(slot));
    CHECK(!job_slot_condemn(slot));
    CHECK(!job_slot_ask(slot, STOP_BY_CANCEL));
    end(&all);
}

static void
a_condemned_worker_does_not_finish(void)
{
    scene all;
    begin(&all);
    job_slot *slot = take_stoppable(&all);
    CHECK(job_slot_condemn(slot));
    CHECK(!job_slot_finish(slot));
    CHECK(!job_slot_ask(slot, STOP_BY_CANCEL));
    CHECK(job_ring_is_intact(&all.parent));
    end(&all);
}

static void
an_unstoppable_call_is_left_alone(void)
{
    scene all;
    begin(&all);
    job_slot *slot = take_stoppable(&all);
    job_slot_set_range(slot, 1);
    CHECK(!job_slot_is_stoppable(slot));
    CHECK(!job_slot_ask(slot, STOP_BY_CANCEL));
    CHECK(!job_slot_condemn(slot));
    CHECK_EQ(job_slot_asked(slot), STOP_NOT);
    end(&all);
}

static void
an_end_that_was_written_over_is_noticed(void)
{
    scene all;
    begin(&all);
    job_slot *slot = take_stoppable(&all);
    atomic_store(&slot->range, JOB_SLOT_ASKED(STOP_BY_CANCEL) ^ 2);
    CHECK(!job_slot_ask(slot, STOP_BY_CANCEL));
    CHECK(!job_slot_condemn(slot));
    CHECK(!job_slot_has_ended(slot));
    atomic_store(&slot->range, 1);  // a range, which is_intact() takes for sound
    CHECK(!job_slot_has_ended(slot));
    atomic_store(&slot->range, JOB_SLOT_ASKED(STOP_BY_CANCEL) ^ 2);
    CHECK(job_slot_finish(slot));
    CHECK(!job_ring_is_intact(&all.parent));
    end(&all);
}

// ---- relief: worker 0 and worker 1 of two ----

static void
succeed(void *arg)
{
    scene *all = arg;
    while (!job_ring_succeed(&all->workers[1], 1)) {
    }
}

static void
check_reliefs(scene *all, bool is_wanted, bool is_granted)
{
    CHECK_EQ(job_ring_wants_relief(&all->parent, 0), is_wanted);
    CHECK_EQ(job_ring_is_relieved(&all->workers[0], 0), is_granted);
    CHECK(job_ring_is_intact(&all->parent));
}

static void
a_sleeping_worker_leaves_when_its_successor_has_begun(void)
{
    scene all;
    waiter former;
    check_thread successor;
    begin_with(&all, 2);
    check_reliefs(&all, false, false);
    job_ring_ask_relief(&all.workers[0], 0);
    check_reliefs(&all, true, false);
    start_sleeper(&former, &all, 0);
    check_start(&successor, succeed, &all);
    check_waited(&former, JOB_RING_WORK);
    CHECK_UNTIL(check_asleep(&successor, &all.workers[0].reliefs[0]));
    check_reliefs(&all, false, true);
    job_ring_exit(&all.workers[0], 0);
    check_join(&successor);
    check_reliefs(&all, false, false);
    end(&all);
}

static void
a_relieved_worker_does_not_sleep(void)
{
    scene all;
    check_thread successor;
    begin_with(&all, 2);
    job_ring_ask_relief(&all.workers[0], 0);
    check_start(&successor, succeed, &all);
    CHECK_UNTIL(job_ring_is_relieved(&all.workers[0], 0));
    CHECK_EQ(wait_here(&all, 0), JOB_RING_WORK);
    job_ring_exit(&all.workers[0], 0);
    check_join(&successor);
    end(&all);
}

static void
a_successor_takes_over_from_a_dead_worker(void)
{
    scene all;
    check_thread successor;
    begin_with(&all, 2);
    job_ring_ask_relief(&all.workers[0], 0);
    check_start(&successor, succeed, &all);
    CHECK_UNTIL(check_asleep(&successor, &all.workers[0].reliefs[0]));
    CHECK_EQ(reap(&all, 0), -1);
    check_join(&successor);
    end(&all);
}

static void
a_dead_successor_has_relieved_nobody(void)
{
    scene all;
    begin_with(&all, 2);
    job_ring_ask_relief(&all.workers[0], 0);
    atomic_store(&all.workers[0].reliefs[0], GRANTED);
    check_reliefs(&all, false, true);
    CHECK_EQ(reap(&all, 1), -1);
    check_reliefs(&all, true, false);
    end(&all);
}

static void
a_worker_that_replaces_nobody_begins_at_once(void)
{
    scene all;
    begin_with(&all, 2);
    CHECK(job_ring_succeed(&all.workers[0], 0));
    CHECK(job_ring_succeed(&all.workers[1], 1));
    atomic_store(&all.workers[0].reliefs[0], GRANTED ^ 1);
    CHECK(!job_ring_is_intact(&all.parent));
    end(&all);
}

int
main(int argc, char **argv)
{
    static const check_test tests[] = {
        CHECK_TEST(slots_are_taken_in_the_order_in_which_they_were_pushed),
        CHECK_TEST(every_slot_is_taken_once),
        CHECK_TEST(a_slot_that_is_pushed_again_has_not_begun),
        CHECK_TEST(slots_run_out_and_come_back),
        CHECK_TEST(a_withdrawn_slot_is_never_taken),
        CHECK_TEST(only_a_ready_slot_can_be_withdrawn),
        CHECK_TEST(a_slot_that_is_pushed_again_comes_last),
        CHECK_TEST(two_mappings_are_one_ring),
        CHECK_TEST(a_stale_position_takes_nothing),
        CHECK_TEST(a_submission_that_was_written_over_takes_nothing),
        CHECK_TEST(a_wrong_head_hides_nothing),
        CHECK_TEST(positions_wrap_around),
        CHECK_TEST(a_slot_that_stays_ready_is_found_after_any_number_of_withdrawals),
        CHECK_TEST(one_slot_may_be_withdrawn_and_pushed_for_ever),
        CHECK_TEST(all_slots_may_be_allocated_before_the_first_is_pushed),
        CHECK_TEST(a_ring_full_of_dead_positions_is_no_obstacle),
        CHECK_TEST(completions_are_popped_in_order),
        CHECK_TEST(all_slots_may_be_completed_before_one_is_popped),
        CHECK_TEST(completions_that_cannot_be_are_corrupt),
        CHECK_TEST(a_worker_can_only_complete_a_slot_that_it_has_taken),
        CHECK_TEST(a_slot_that_is_completed_twice_is_corrupt),
        CHECK_TEST(a_claim_word_that_was_written_over_frees_nothing_twice),
        CHECK_TEST(states_are_what_these_tests_take_them_for),
        CHECK_TEST(a_push_calls_one_sleeper),
        CHECK_TEST(while_one_worker_is_on_its_way_no_other_is_called),
        CHECK_TEST(a_worker_that_is_busy_or_not_there_is_not_called),
        CHECK_TEST(a_worker_that_leaves_work_behind_calls_a_sleeper),
        CHECK_TEST(a_worker_that_leaves_work_behind_relies_on_the_one_on_its_way),
        CHECK_TEST(a_worker_that_takes_the_last_slot_calls_no_other),
        CHECK_TEST(a_worker_that_exits_passes_its_call_on),
        CHECK_TEST(a_worker_that_exits_and_leaves_no_work_calls_no_other),
        CHECK_TEST(a_call_is_for_work),
        CHECK_TEST(close_calls_all_sleepers),
        CHECK_TEST(a_worker_that_finds_work_does_not_wait),
        CHECK_TEST(a_worker_waits_until_its_deadline),
        CHECK_TEST(a_closed_ring_is_worked_off),
        CHECK_TEST(a_push_wakes_one_of_several_sleepers),
        CHECK_TEST(a_worker_wakes_the_next_for_what_it_leaves),
        CHECK_TEST(a_spinning_worker_sees_a_push_without_a_call),
        CHECK_TEST(while_one_spins_another_sleeps_at_once),
        CHECK_TEST(close_wakes_every_worker),
        CHECK_TEST(a_signal_handler_ends_a_wait),
        CHECK_TEST(a_worker_called_by_a_dead_one_is_woken_by_reap),
        CHECK_TEST(a_disarmed_wakeup_raises_no_eventfd),
        CHECK_TEST(the_first_completion_wakes_the_parent),
        CHECK_TEST(a_parent_that_missed_a_completion_does_not_sleep),
        CHECK_TEST(a_wakeup_that_a_dead_worker_disarmed_is_armed_again),
        CHECK_TEST(a_worker_that_never_came_leaves_nothing),
        CHECK_TEST(a_worker_that_dies_before_its_claim_leaves_the_slot_ready),
        CHECK_TEST(a_worker_that_dies_after_its_claim_leaves_one_slot),
        CHECK_TEST(a_worker_that_dies_before_it_calls_another_is_made_up_for),
        CHECK_TEST(a_worker_that_dies_while_it_answers_has_not_answered),
        CHECK_TEST(what_workers_run_is_counted_and_a_stray_write_is_only_a_wrong_number),
        CHECK_TEST(a_worker_that_dies_after_its_completion_has_answered),
        CHECK_TEST(the_number_of_a_dead_worker_begins_anew),
        CHECK_TEST(only_the_slots_of_killed_workers_are_lost),
        CHECK_TEST(another_process_is_woken_works_and_leaves),
        CHECK_TEST(the_workers_view_is_the_parents),
        CHECK_TEST(memory_that_is_no_ring_is_refused),
        CHECK_TEST(a_size_that_wraps_around_is_refused),
        CHECK_TEST(fini_accepts_null_fields),
        CHECK_TEST(a_ring_may_be_as_small_as_one_slot_and_one_worker),
        CHECK_TEST(every_call_is_run_once_or_split_off_in_every_order),
        CHECK_TEST(a_split_leaves_the_first_half_of_what_is_left),
        CHECK_TEST(a_forged_range_splits_off_nothing),
        CHECK_TEST(large_ranges_split_too),
        CHECK_TEST(a_call_that_has_ended_condemns_no_worker),
        CHECK_TEST(a_condemned_worker_does_not_finish),
        CHECK_TEST(an_unstoppable_call_is_left_alone),
        CHECK_TEST(an_end_that_was_written_over_is_noticed),
        CHECK_TEST(a_sleeping_worker_leaves_when_its_successor_has_begun),
        CHECK_TEST(a_relieved_worker_does_not_sleep),
        CHECK_TEST(a_successor_takes_over_from_a_dead_worker),
        CHECK_TEST(a_dead_successor_has_relieved_nobody),
        CHECK_TEST(a_worker_that_replaces_nobody_begins_at_once),
    };
    return check_run(tests, CHECK_COUNT(tests), argc, argv);
}
