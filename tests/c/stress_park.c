// Many threads wait for one word that changes again and again, spinning, sleeping, disturbed by
// signals and by deadlines.  Every one of them sees every change, and what was written before it.
//
//     stress_park [rounds [seed]]        or STRESS_PARK_ROUNDS and STRESS_SEED
#define _GNU_SOURCE
#include "check.h"

#include "core/clock.h"
#include "core/park.h"

#define WAITERS 4

static park_spot spot;            // where the waiters wait
static _Atomic uint32_t word;     // the number of the round
static uint64_t message;          // of this round; published by `word`, left alone until all is seen
static park_spot answer_spot;     // where the driver waits
static _Atomic uint32_t answers;  // the waiters that have seen it, over all rounds
static uint32_t rounds;
static _Atomic uint64_t outcomes[3];

typedef struct waiter {
    check_thread thread;
    uint64_t seed;
} waiter;

static uint64_t
message_of(uint32_t round)
{
    uint64_t state = round;
    return check_random(&state);
}

static int64_t
some_deadline(uint64_t *seed)
{
    if (check_chance(seed, 2)) {
        return FUTEX_NO_DEADLINE;
    }
    return clock_now_ns() + (int64_t)(check_random(seed) % 200000) - 50000;
}

static int
wait_here(park_spot *which, _Atomic uint32_t *what, uint32_t expected, int64_t deadline_ns)
{
    if (park_spin(which, what, expected, deadline_ns)) {
        return FUTEX_OK;
    }
    return park_sleep(which, what, expected, deadline_ns);
}

static void
wait_for_all_rounds(void *arg)
{
    waiter *self = arg;
    for (uint32_t round = 1; round <= rounds; round++) {
        for (;;) {
            check_dawdle(&self->seed);
            int rc = wait_here(&spot, &word, round - 1, some_deadline(&self->seed));
            atomic_fetch_add_explicit(&outcomes[-rc], 1, memory_order_relaxed);
            if (rc == FUTEX_OK) {
                break;
            }
        }
        // Nothing but the wait orders these two after the driver's stores.
        CHECK_EQ(atomic_load_explicit(&word, memory_order_relaxed), round);
        CHECK(message == message_of(round));
        check_dawdle(&self->seed);
        atomic_fetch_add_explicit(&answers, 1, memory_order_release);
        futex_wake(&answers, 1);
    }
}

// The spots learn for themselves; now and then they start anew, else they would all end alike.
static void
forget(park_spot *which, uint64_t *seed)
{
    if (check_chance(seed, 8)) {
        atomic_store_explicit(&which->spin_ns,
                              (uint32_t)(check_random(seed) % (PARK_SPIN_MAX_NS + 1)),
                              memory_order_relaxed);
    }
}

static void
wake_waiters(uint64_t *seed)
{
    if (check_chance(seed, 2)) {
        futex_wake_all(&word);
    }
    else {
        for (int i = 0; i < WAITERS; i++) {
            futex_wake(&word, 1);
        }
    }
}

int
main(int argc, char **argv)
{
    waiter waiters[WAITERS];
    rounds = (uint32_t)check_number(argc, argv, 1, "STRESS_PARK_ROUNDS", CHECK_ROUNDS(20000));
    uint64_t seed = check_number(argc, argv, 2, "STRESS_SEED", 1);
    printf("stress_park %u %llu\n", rounds, (unsigned long long)seed);
    fflush(stdout);
    check_guard("stress_park");
    check_handle_sigusr1();
    park_spot_init(&spot, 2);
    park_spot_init(&answer_spot, 1);
    for (int i = 0; i < WAITERS; i++) {
        waiters[i].seed = check_random(&seed);
        check_start(&waiters[i].thread, wait_for_all_rounds, &waiters[i]);
    }
    for (uint32_t round = 1; round <= rounds; round++) {
        uint32_t seen;
        if (round % 1000 == 0) {
            check_guard("stress_park");
        }
        forget(&spot, &seed);
        forget(&answer_spot, &seed);
        check_dawdle(&seed);
        message = message_of(round);
        atomic_store_explicit(&word, round, memory_order_release);
        check_dawdle(&seed);
        wake_waiters(&seed);
        while ((seen = atomic_load_explicit(&answers, memory_order_acquire)) != round * WAITERS) {
            if (check_chance(&seed, 4)) {
                pthread_kill(waiters[check_random(&seed) % WAITERS].thread.thread, SIGUSR1);
            }
            CHECK_EQ(wait_here(&answer_spot, &answers, seen, FUTEX_NO_DEADLINE), FUTEX_OK);
        }
    }
    for (int i = 0; i < WAITERS; i++) {
        check_join(&waiters[i].thread);
    }
    CHECK_EQ(atomic_load(&spot.spinning), 0);
    CHECK_EQ(atomic_load(&answer_spot.spinning), 0);
    CHECK(atomic_load(&spot.spin_ns) <= PARK_SPIN_MAX_NS);
    printf("ok: %llu changes seen, %llu deadlines, %llu interruptions\n",
           (unsigned long long)atomic_load(&outcomes[-FUTEX_OK]),
           (unsigned long long)atomic_load(&outcomes[-FUTEX_TIMED_OUT]),
           (unsigned long long)atomic_load(&outcomes[-FUTEX_INTERRUPTED]));
    return EXIT_SUCCESS;
}
