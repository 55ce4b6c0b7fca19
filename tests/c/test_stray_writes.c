// Stray writes into a job ring: a worker that writes where it should not loses no job in silence.
//
// Whatever is written wherever: when the workers have done what they can, each job is completed, or the
// parent sees that the ring is damaged.  Nothing crashes, and nothing loops for ever.  Laid out anew, the
// ring works.
#define _GNU_SOURCE
#include "check.h"

#include <sys/eventfd.h>
#include <sys/mman.h>

#include "core/job_ring_check.h"
#include "core/job_ring_parent.h"
#include "core/job_ring_worker.h"

#define SLOTS 16
#define WORKERS 3
#define JOBS 12
// Of the word that says before which position no slot is ready.
#define HEAD_OFFSET 128

typedef struct scene {
    unsigned char *memory;
    uint64_t bytes;
    int wakeup_fd;
    job_ring parent;
    job_ring workers[WORKERS];
    bool is_done[SLOTS];
} scene;

static void
attach_workers(scene *all)
{
    for (uint32_t i = 0; i < WORKERS; i++) {
        CHECK_EQ(job_ring_attach(&all->workers[i], all->memory, all->bytes, all->wakeup_fd), SHM_OK);
        job_ring_enter(&all->workers[i], i);
    }
}

static void
begin(scene *all)
{
    memset(all, 0, sizeof(*all));
    all->bytes = job_ring_size(SLOTS, WORKERS);
    all->memory = mmap(NULL, all->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(all->memory != MAP_FAILED);
    all->wakeup_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    CHECK(all->wakeup_fd >= 0);
    CHECK_EQ(job_ring_init(&all->parent, all->memory, SLOTS, WORKERS, all->wakeup_fd), SHM_OK);
    attach_workers(all);
}

static void
end(scene *all)
{
    job_ring_fini(&all->parent);
    CHECK(munmap(all->memory, all->bytes) == 0);
    close(all->wakeup_fd);
}

static uint32_t
number_of(scene *all, job_slot *slot)
{
    return (uint32_t)(slot - all->parent.slots);
}

static void
push_jobs(scene *all, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        job_slot *slot = job_ring_alloc(&all->parent);
        CHECK(slot != NULL);
        job_slot_set_range(slot, 1);
        job_ring_push(&all->parent, slot);
    }
}

// The parent pops what there is; false if a worker announces what cannot be.
static bool
pop_completions(scene *all)
{
    for (uint32_t i = 0; i < WORKERS; i++) {
        bool corrupt = false;
        job_slot *slot;
        while ((slot = job_ring_pop_completion(&all->parent, i, &corrupt)) != NULL) {
            CHECK(!all->is_done[number_of(all, slot)]);
            all->is_done[number_of(all, slot)] = true;
            job_ring_free(&all->parent, slot);
        }
        if (corrupt) {
            return false;
        }
    }
    return true;
}

// Each worker takes and completes jobs until it finds none.
static void
work(scene *all)
{
    for (uint32_t i = 0; i < WORKERS; i++) {
        for (uint32_t n = 0; n < 2 * SLOTS; n++) {
            job_slot *slot = job_ring_claim(&all->workers[i], i);
            if (slot == NULL) {
                break;
            }
            job_ring_complete(&all->workers[i], i, slot);
        }
    }
}

static uint32_t
count_done(scene *all)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < SLOTS; i++) {
        count += all->is_done[i];
    }
    return count;
}

static bool
is_wakeup_raised(scene *all)
{
    uint64_t count;
    return read(all->wakeup_fd, &count, sizeof(count)) == sizeof(count);
}

// What a stray write is made of: patterns that programs write, or anything.
static void
scribble(unsigned char *at, uint64_t bytes, uint64_t *seed)
{
    uint64_t pattern = check_random(seed) % 4;
    for (uint64_t i = 0; i < bytes; i++) {
        at[i] = pattern == 0   ? 0
                : pattern == 1 ? 0xff
                : pattern == 2 ? (unsigned char)check_random(seed)
                               : (unsigned char)"stray write"[i % 11];
    }
}

static uint64_t damaged_ones;

static void
check_one_stray_write(uint64_t *seed, uint64_t bytes, uint64_t at)
{
    scene all;
    begin(&all);
    push_jobs(&all, JOBS);
    // Some are completed, and some of these popped, before it happens.
    job_slot *slot = job_ring_claim(&all.workers[0], 0);
    job_ring_complete(&all.workers[0], 0, slot);
    CHECK(pop_completions(&all));
    job_slot *held = job_ring_claim(&all.workers[1], 1);
    CHECK(held != NULL && job_ring_is_intact(&all.parent));
    CHECK(job_ring_arm_wakeup(&all.parent, atomic_load(job_ring_finished(&all.parent))));
    // Worker 1 writes where it should not, and then completes its job.
    scribble(all.memory + at, bytes, seed);
    job_ring_complete(&all.workers[1], 1, held);
    CHECK(is_wakeup_raised(&all));
    work(&all);
    bool sound = pop_completions(&all) && job_ring_is_intact(&all.parent);
    CHECK(!sound || count_done(&all) == JOBS);
    damaged_ones += !sound;
    if (!sound) {
        for (uint32_t i = 0; i < WORKERS; i++) {
            while ((slot = job_ring_reap(&all.parent, i)) != NULL) {
                job_ring_free(&all.parent, slot);
            }
        }
        job_ring_reset(&all.parent);
        CHECK(job_ring_is_intact(&all.parent));
        attach_workers(&all);
        memset(all.is_done, 0, sizeof(all.is_done));
        push_jobs(&all, JOBS);
        work(&all);
        CHECK(pop_completions(&all) && job_ring_is_intact(&all.parent));
        CHECK_EQ(count_done(&all), JOBS);
    }
    end(&all);
}

// Words of the messages are left out: they are the codec's to check.
static uint64_t
bytes_before_the_slots(void)
{
    return job_ring_size(SLOTS, WORKERS) - SLOTS * sizeof(job_slot);
}

static void
each_word_of_the_ring_may_be_hit(void)
{
    uint64_t seed = 1;
    for (uint64_t at = 0; at < bytes_before_the_slots(); at += 4) {
        for (int round = 0; round < 4; round++) {
            check_one_stray_write(&seed, 4, at);
        }
    }
    CHECK(damaged_ones > 0);
}

static void
each_claim_word_may_be_hit(void)
{
    uint64_t seed = 2;
    for (uint64_t i = 0; i < SLOTS; i++) {
        for (int round = 0; round < 8; round++) {
            check_one_stray_write(&seed, 4, bytes_before_the_slots() + i * sizeof(job_slot));
        }
    }
}

static void
a_stretch_of_any_length_may_be_hit(void)
{
    uint64_t seed = 3, size = job_ring_size(SLOTS, WORKERS);
    for (int round = 0; round < 5000; round++) {
        uint64_t at = check_random(&seed) % (size - 1);
        uint64_t bytes = 1 + check_random(&seed) % (size - at);
        check_one_stray_write(&seed, bytes, at);
    }
}

static void
a_worker_does_not_sleep_on_words_that_make_no_sense(void)
{
    scene all;
    park_spot spot;
    begin(&all);
    park_spot_init(&spot, 0);
    memset(all.memory, 0xff, 256);  // the words that all processes share
    CHECK_EQ(job_ring_wait(&all.workers[0], 0, &spot, FUTEX_NO_DEADLINE), JOB_RING_DAMAGED);
    CHECK_EQ(job_ring_listen(&all.workers[1], 1, true), JOB_RING_DAMAGED);
    end(&all);
}

typedef struct sleeper {
    job_ring *ring;
    park_spot spot;
    int rc;
} sleeper;

static void
sleep_once(void *arg)
{
    sleeper *self = arg;
    self->rc = job_ring_wait(self->ring, 0, &self->spot, FUTEX_NO_DEADLINE);
}

// Another worker copies a state word over that of one that sleeps.
static void
a_sleeper_whose_state_was_hit_is_reached(void)
{
    static const uint32_t strangers[] = {0x57a70111, 0x57a70222, 0x57a70333, 0x57a70666, 0x57a70446, 0};
    for (size_t i = 0; i < CHECK_COUNT(strangers); i++) {
        for (int closes = 0; closes < 2; closes++) {
            scene all;
            check_thread thread;
            begin(&all);
            sleeper self = {.ring = &all.workers[0]};
            park_spot_init(&self.spot, 0);
            check_start(&thread, sleep_once, &self);
            CHECK_UNTIL(check_asleep(&thread, (const void *)&all.parent.states[0]));
            atomic_store(&all.parent.states[0], strangers[i]);
            if (closes) {
                job_ring_close(&all.parent);
            }
            else {
                push_jobs(&all, 1);
                job_ring_notify_others(&all.parent);
            }
            check_join(&thread);
            CHECK_EQ(self.rc, closes ? JOB_RING_CLOSED : JOB_RING_WORK);
            end(&all);
        }
    }
}

static void
a_head_beyond_what_is_ready_is_moved_back(void)
{
    for (int looks = 0; looks < 2; looks++) {
        for (uint32_t by = 1; by <= JOBS; by++) {
            scene all;
            begin(&all);
            push_jobs(&all, JOBS);
            _Atomic uint32_t *head = (_Atomic uint32_t *)(void *)(all.memory + HEAD_OFFSET);
            CHECK_EQ(atomic_load(head), 0);
            atomic_store(head, by);
            if (looks) {
                job_ring_notify_others(&all.parent);
            }
            else {
                CHECK(job_ring_is_intact(&all.parent));
            }
            work(&all);
            CHECK(pop_completions(&all));
            CHECK_EQ(count_done(&all), JOBS);
            end(&all);
        }
    }
}

static void
a_bit_of_a_state_makes_no_other(void)
{
    scene all;
    begin(&all);
    for (uint32_t i = 0; i < WORKERS; i++) {
        for (int bit = 0; bit < 32; bit++) {
            atomic_fetch_xor(&all.parent.states[i], UINT32_C(1) << bit);
            CHECK(!job_ring_is_intact(&all.parent));
            atomic_fetch_xor(&all.parent.states[i], UINT32_C(1) << bit);
        }
    }
    CHECK(job_ring_is_intact(&all.parent));
    end(&all);
}

static void
what_is_ready_is_known_after_a_stray_write(void)
{
    scene all;
    begin(&all);
    push_jobs(&all, 2);
    job_slot *taken = job_ring_claim(&all.workers[0], 0);
    job_slot *ready = &all.parent.slots[taken == all.parent.slots];
    CHECK(!job_ring_is_ready(&all.parent, taken));
    CHECK(job_ring_is_ready(&all.parent, ready));
    atomic_store(&ready->claim, 0);
    CHECK(!job_ring_is_ready(&all.parent, ready));
    CHECK(!job_ring_is_intact(&all.parent));
    end(&all);
}

int
main(int argc, char **argv)
{
    static const check_test tests[] = {
        CHECK_TEST(each_word_of_the_ring_may_be_hit),
        CHECK_TEST(each_claim_word_may_be_hit),
        CHECK_TEST(a_stretch_of_any_length_may_be_hit),
        CHECK_TEST(a_worker_does_not_sleep_on_words_that_make_no_sense),
        CHECK_TEST(a_sleeper_whose_state_was_hit_is_reached),
        CHECK_TEST(a_head_beyond_what_is_ready_is_moved_back),
        CHECK_TEST(a_bit_of_a_state_makes_no_other),
        CHECK_TEST(what_is_ready_is_known_after_a_stray_write),
    };
    return check_run(tests, CHECK_COUNT(tests), argc, argv);
}
