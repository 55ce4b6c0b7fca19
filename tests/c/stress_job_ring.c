// One parent pushes and several workers take, in rounds with a fresh ring each, all of them losing
// random bits of time.  In every round
//
// - each slot that is not withdrawn is run, and collected, with what was written into it;
// - none is run twice, except for those that a killed worker may have begun;
// - no wakeup is lost, of workers or of the parent: all sleep for lack of work again and again;
// - calls that are taken from a slot while it runs are run once all the same.
//
// First the workers are processes, and some are killed wherever they happen to be; the slots that they had
// taken are pushed again, and others take their place.  Then they are threads.
//
//     stress_job_ring [rounds [seed]]        or STRESS_JOB_RING_ROUNDS and STRESS_SEED
#define _GNU_SOURCE
#include "check_shm.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include "core/job_ring_parent.h"
#include "core/job_ring_worker.h"

#define MOST_SLOTS 16
#define MOST_WORKERS 4
#define TASKS 1000  // in each round
#define MOST_CALLS 6
#define WORDS 8

// What a slot says; the answer is in the same place.
typedef struct message {
    uint32_t task;
    uint32_t calls;
    uint64_t words[WORDS];
} message;

// What parent and workers note about a task, for the parent to check at the end of the round.
typedef struct task {
    _Atomic uint32_t begun;            // times
    _Atomic uint32_t ran[MOST_CALLS];  // times, by the worker that had the slot
    uint32_t lost;                     // times it was left by a dead worker; the parent
    bool withdrawn, collected;
    uint32_t kept, calls;
    job_slot *slot;  // while it is pushed
} task;

typedef struct memory {
    task tasks[TASKS];
    _Alignas(64) unsigned char ring[1 << 16];
} memory;

typedef struct worker {
    check_thread thread;
    check_child child;
    uint32_t number;
    uint64_t seed;
    park_spot spot;
    bool dying;
} worker;

static memory *shared;
// As the unit has it.
#define ASLEEP 0x57a70444u

static job_ring parent;
static worker workers[MOST_WORKERS];
static uint32_t worker_count;
static bool processes;
static int wakeup_fd;

// The round's tasks: pushed and neither collected nor withdrawn, in any order.
static uint32_t out[MOST_SLOTS];
static uint32_t out_count;
static uint32_t next_task;

// Over all rounds.
static uint64_t collected, withdrawn, sleeps, kills, lost, splits;

// ---- workers ----

// In place and word by word: gcc copies such a message without telling TSan.
static message *
message_of(job_slot *slot)
{
    return (message *)slot->message;
}

static uint64_t
word_of(uint32_t number, uint32_t index)
{
    uint64_t state = number;
    for (uint32_t i = 0; i < index; i++) {
        check_random(&state);
    }
    return check_random(&state);
}

// Relaxed: it must not put in order what the ring leaves in disorder.
static void
count(_Atomic uint32_t *times)
{
    atomic_fetch_add_explicit(times, 1, memory_order_relaxed);
}

static void
run(job_slot *slot, uint64_t *seed)
{
    message *text = message_of(slot);
    CHECK(text->task < TASKS);
    task *mine = &shared->tasks[text->task];
    count(&mine->begun);
    for (uint32_t i = 0; i < WORDS; i++) {
        CHECK(text->words[i] == word_of(text->task, i));
        text->words[i] = ~text->words[i];
    }
    if (!check_chance(seed, 3)) {
        check_dawdle(seed);
    }
    uint32_t call;
    while ((call = job_slot_next(slot)) != UINT32_MAX) {
        CHECK(call < text->calls);
        count(&mine->ran[call]);
        if (check_chance(seed, 4)) {
            check_dawdle(seed);
        }
    }
}

static void
work(void *arg)
{
    worker *self = arg;
    uint64_t seed = self->seed;
    job_ring view;
    CHECK_EQ(job_ring_attach(&view, shared->ring, sizeof(shared->ring), wakeup_fd), SHM_OK);
    job_ring_enter(&view, self->number);
    for (;;) {
        job_slot *slot = job_ring_claim(&view, self->number);
        if (slot != NULL) {
            run(slot, &seed);
            job_ring_complete(&view, self->number, slot);
        }
        else if (job_ring_wait(&view, self->number, &self->spot, FUTEX_NO_DEADLINE) == JOB_RING_CLOSED) {
            break;
        }
        // Here it may be the worker on which others rely.
        if (check_chance(&seed, 32)) {
            job_ring_exit(&view, self->number);
            check_dawdle(&seed);
            job_ring_enter(&view, self->number);
        }
        if (check_chance(&seed, 8)) {
            check_dawdle(&seed);
        }
    }
    job_ring_exit(&view, self->number);
}

static void
start_worker(worker *self, uint64_t *seed)
{
    self->seed = check_random(seed);
    self->dying = false;
    park_spot_init(&self->spot, 1);
    // Every worker learns, but starts with other habits.
    self->spot.most_spinning = (uint32_t)check_random(seed) % 2;
    atomic_store(&self->spot.spin_ns, (uint32_t)(check_random(seed) % PARK_SPIN_MAX_NS));
    if (processes) {
        check_fork(&self->child, work, self);
    }
    else {
        check_start(&self->thread, work, self);
    }
}

// ---- the parent ----

static void
fill_and_push(uint32_t number, job_slot *slot, uint64_t *seed)
{
    task *one = &shared->tasks[number];
    message *text = message_of(slot);
    text->task = number;
    text->calls = one->calls;
    for (uint32_t i = 0; i < WORDS; i++) {
        text->words[i] = word_of(number, i);
    }
    job_slot_set_range(slot, one->calls);
    one->kept = one->calls;
    one->slot = slot;
    job_ring_push(&parent, slot);
    if (check_chance(seed, 8)) {
        check_dawdle(seed);
    }
}

static void
forget(uint32_t number)
{
    for (uint32_t i = 0; i < out_count; i++) {
        if (out[i] == number) {
            out[i] = out[--out_count];
            shared->tasks[number].slot = NULL;
            return;
        }
    }
    CHECK(!"it was pushed");
}

// Several are allocated before the first is pushed.
static void
push_some(uint64_t *seed)
{
    job_slot *drawn[MOST_SLOTS];
    uint32_t count = 0;
    uint32_t most = 1 + (uint32_t)(check_random(seed) % MOST_SLOTS);
    while (count < most && next_task + count < TASKS && (drawn[count] = job_ring_alloc(&parent)) != NULL) {
        count++;
    }
    for (uint32_t i = 0; i < count; i++) {
        shared->tasks[next_task].calls = (uint32_t)(check_random(seed) % (MOST_CALLS + 1));
        out[out_count++] = next_task;
        fill_and_push(next_task++, drawn[i], seed);
    }
}

static void
withdraw_one(uint64_t *seed)
{
    if (out_count == 0) {
        return;
    }
    uint32_t number = out[check_random(seed) % out_count];
    task *one = &shared->tasks[number];
    job_slot *slot = one->slot;
    if (!job_ring_withdraw(&parent, slot)) {
        return;
    }
    if (check_chance(seed, 2)) {
        fill_and_push(number, slot, seed);
        return;
    }
    one->withdrawn = true;
    withdrawn++;
    forget(number);
    job_ring_free(&parent, slot);
}

static void
split_one(uint64_t *seed)
{
    if (out_count == 0) {
        return;
    }
    task *one = &shared->tasks[out[check_random(seed) % out_count]];
    if (job_ring_is_taken(one->slot)) {
        uint32_t kept = job_slot_split(one->slot, one->calls);
        splits += kept < one->calls;
        one->kept = kept < one->calls ? kept : one->kept;
    }
}

static void
collect_from(uint32_t worker_number)
{
    job_slot *slot;
    bool corrupt = false;
    while ((slot = job_ring_pop_completion(&parent, worker_number, &corrupt)) != NULL) {
        message *text = message_of(slot);
        uint32_t number = text->task;
        CHECK(number < TASKS);
        task *one = &shared->tasks[number];
        CHECK(one->slot == slot);
        CHECK(!one->collected && !one->withdrawn);
        for (uint32_t i = 0; i < WORDS; i++) {
            CHECK(text->words[i] == ~word_of(number, i));
        }
        one->collected = true;
        collected++;
        forget(number);
        job_ring_free(&parent, slot);
    }
    CHECK(!corrupt);
}

// The kill was some time ago, and has reached it.
static void
reap(worker *self, uint64_t *seed)
{
    CHECK(self->dying);
    check_reap(&self->child);
    collect_from(self->number);
    job_slot *slot = job_ring_reap(&parent, self->number);
    if (slot != NULL) {
        // What it wrote last may be half an answer: which task it was is known from the slot.
        uint32_t number = UINT32_MAX;
        for (uint32_t i = 0; i < out_count; i++) {
            number = shared->tasks[out[i]].slot == slot ? out[i] : number;
        }
        CHECK(number != UINT32_MAX);
        shared->tasks[number].lost++;
        lost++;
        job_ring_free(&parent, slot);
        CHECK(job_ring_reap(&parent, self->number) == NULL);
        slot = job_ring_alloc(&parent);
        CHECK(slot != NULL);
        fill_and_push(number, slot, seed);
    }
    job_ring_notify(&parent);
    start_worker(self, seed);
}

static void
kill_one(uint64_t *seed)
{
    worker *one = &workers[check_random(seed) % worker_count];
    if (!one->dying) {
        one->dying = true;
        kills++;
        CHECK(kill(one->child.pid, SIGKILL) == 0);
    }
}

// Until a worker has completed a slot, or has died.
static void
sleep_until_told(uint64_t *seed)
{
    struct pollfd ends[MOST_WORKERS + 1];
    nfds_t count = 0;
    ends[count++] = (struct pollfd){.fd = wakeup_fd, .events = POLLIN};
    for (uint32_t i = 0; processes && i < worker_count; i++) {
        ends[count++] = (struct pollfd){.fd = workers[i].child.said, .events = POLLIN};
    }
    while (poll(ends, count, -1) < 0) {
        CHECK_EQ(errno, EINTR);
    }
    sleeps++;
    if (ends[0].revents != 0) {
        uint64_t times;
        CHECK(read(wakeup_fd, &times, sizeof(times)) == sizeof(times));
    }
    for (nfds_t i = 1; i < count; i++) {
        if (ends[i].revents != 0) {
            reap(&workers[i - 1], seed);
        }
    }
}

static void
collect_from_all(void)
{
    for (uint32_t i = 0; i < worker_count; i++) {
        collect_from(i);
    }
}

static void
collect_and_sleep(uint64_t *seed)
{
    // Before the look: what is counted later ends the sleep.
    uint32_t seen = atomic_load_explicit(job_ring_finished(&parent), memory_order_acquire);
    collect_from_all();
    if (out_count > 0) {
        if (job_ring_arm_wakeup(&parent, seen)) {
            sleep_until_told(seed);
        }
        if (check_chance(seed, 2)) {
            job_ring_disarm_wakeup(&parent);
        }
    }
}

static void
reap_all_that_are_dying(uint64_t *seed)
{
    for (uint32_t i = 0; i < worker_count; i++) {
        if (workers[i].dying) {
            reap(&workers[i], seed);
        }
    }
}

static void
begin_round(uint64_t *seed)
{
    uint32_t slots = UINT32_C(1) << check_random(seed) % 5;
    worker_count = 1 + (uint32_t)(check_random(seed) % MOST_WORKERS);
    memset(shared, 0, sizeof(*shared));
    CHECK(job_ring_size(slots, worker_count) <= sizeof(shared->ring));
    CHECK_EQ(job_ring_init(&parent, shared->ring, slots, worker_count, wakeup_fd), SHM_OK);
    out_count = 0;
    next_task = 0;
    for (uint32_t i = 0; i < worker_count; i++) {
        workers[i].number = i;
        start_worker(&workers[i], seed);
    }
}

static void
push_and_collect(uint64_t *seed)
{
    // Short bursts leave the workers time to fall asleep.
    uint64_t habit = 2 + check_random(seed) % 16;
    while (next_task < TASKS || out_count > 0) {
        push_some(seed);
        if (check_chance(seed, 2)) {
            withdraw_one(seed);
        }
        if (check_chance(seed, 2)) {
            split_one(seed);
        }
        if (processes && check_chance(seed, 64)) {
            kill_one(seed);
        }
        if (!processes && check_chance(seed, 16)) {
            pthread_kill(workers[check_random(seed) % worker_count].thread.thread, SIGUSR1);
        }
        // Mostly without a look at the count, which would order what completions must order by themselves.
        collect_from_all();
        while (out_count > 0 && (next_task == TASKS || check_chance(seed, habit))) {
            collect_and_sleep(seed);
        }
    }
}

static void
end_round(uint64_t *seed)
{
    // Nothing is to be done: every worker falls asleep, unless it was killed.
    reap_all_that_are_dying(seed);
    for (uint32_t i = 0; i < worker_count; i++) {
        // Asleep on the state word itself is the last state that a worker without work can be in.
        CHECK_UNTIL(atomic_load(&parent.states[i]) == ASLEEP);
    }
    CHECK(!job_ring_has_ready(&parent));
    job_ring_close(&parent);
    for (uint32_t i = 0; i < worker_count; i++) {
        if (processes) {
            check_finish(&workers[i].child);
        }
        else {
            check_join(&workers[i].thread);
        }
        CHECK(atomic_load(&parent.states[i]) != ASLEEP);
    }
    CHECK_EQ(parent.free_count, parent.slot_count);
    for (uint32_t i = 0; i < TASKS; i++) {
        task *one = &shared->tasks[i];
        CHECK(one->collected != one->withdrawn);
        uint32_t begun = atomic_load(&one->begun);
        CHECK(begun >= one->collected && begun <= one->collected + one->lost);
        for (uint32_t j = 0; j < one->calls; j++) {
            uint32_t ran = atomic_load(&one->ran[j]);
            CHECK(ran >= (one->collected && j < one->kept));
            CHECK(ran <= (one->collected && j < one->kept) + one->lost);
        }
    }
    job_ring_fini(&parent);
}

int
main(int argc, char **argv)
{
    uint64_t rounds = check_number(argc, argv, 1, "STRESS_JOB_RING_ROUNDS", CHECK_ROUNDS(500));
    uint64_t seed = check_number(argc, argv, 2, "STRESS_SEED", 1);
    printf("stress_job_ring %llu %llu\n", (unsigned long long)rounds, (unsigned long long)seed);
    fflush(stdout);
    check_guard("stress_job_ring");
    check_handle_sigusr1();
    wakeup_fd = eventfd(0, EFD_CLOEXEC);
    CHECK(wakeup_fd >= 0);
    shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED);
    processes = true;
#if defined(__SANITIZE_THREAD__)
    // TSan sees one process: with every worker in its own there would be nothing for it to judge.
    printf("without the processes: TSan cannot see what another process does\n");
    processes = false;
#endif
    for (uint64_t round = 0; round < rounds; round++) {
        processes = processes && round < rounds / 2;
        check_guard(processes ? "stress_job_ring, processes" : "stress_job_ring, threads");
        begin_round(&seed);
        push_and_collect(&seed);
        end_round(&seed);
    }
    CHECK(munmap(shared, sizeof(*shared)) == 0);
    close(wakeup_fd);
    printf("ok: %llu collected, %llu withdrawn, %llu split, %llu sleeps, %llu kills, %llu pushed again\n",
           (unsigned long long)collected, (unsigned long long)withdrawn, (unsigned long long)splits,
           (unsigned long long)sleeps, (unsigned long long)kills, (unsigned long long)lost);
    return EXIT_SUCCESS;
}
