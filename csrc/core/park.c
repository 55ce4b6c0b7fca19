#define _GNU_SOURCE
#include "park.h"

#include <sched.h>

#include "clock.h"

// A full spin would have caught the change that ended a wait this short.
#define SPIN_PAYS_NS (2 * (int64_t)PARK_SPIN_MAX_NS)
// A spin shorter than this catches nothing, because a change takes about as long to arrive: better none.
#define SPIN_MIN_NS 2000
// The most short waits in a row that pass without a spin, because the spins before them were in vain.
#define MOST_DOUBT 256
// How many looks at the word between two looks at the clock: measured, they take 3 microseconds, and a look
// at the clock 22 nanoseconds.
#define LOOKS 32

// How many threads may spin at once: one fewer than the CPUs of the thread that looked last.  The one static
// variable of this unit, for a fact about the process that every spin needs.
static _Atomic uint32_t spare_cpus;

static uint32_t
load_spare_cpus(void)
{
    return atomic_load_explicit(&spare_cpus, memory_order_relaxed);  // a hint, out of date at any time
}

// A program may be confined to one CPU, or released, at any time.  A thread looks after a spin that was in
// vain and after a long wait, next to which the system call costs nothing.
static void
look_at_cpus(void)
{
    cpu_set_t cpus;
    uint32_t spare = 1;  // More CPUs than the set can name, or a system that does not tell.
    if (sched_getaffinity(0, sizeof(cpus), &cpus) == 0) {
        spare = (uint32_t)CPU_COUNT(&cpus) - 1;
    }
    if (spare != load_spare_cpus()) {
        atomic_store_explicit(&spare_cpus, spare, memory_order_relaxed);  // relaxed, as above
    }
}

void
park_spot_init(park_spot *spot, uint32_t most_spinning)
{
    look_at_cpus();
    spot->most_spinning = most_spinning;
    park_spot_after_fork(spot);
}

void
park_spot_after_fork(park_spot *spot)
{
    atomic_init(&spot->spin_ns, PARK_SPIN_MAX_NS);
    atomic_init(&spot->spinning, 0);
    atomic_init(&spot->was_vain, 0);
    atomic_init(&spot->doubt, 1);
    atomic_init(&spot->skip, 0);
}

bool
park_may_spin(park_spot *spot)
{
    // Relaxed: a hint.
    return atomic_load_explicit(&spot->spin_ns, memory_order_relaxed) != 0 && load_spare_cpus() > 0;
}

static bool
look(const _Atomic uint32_t *word, uint32_t expected)
{
    for (int i = 0; i < LOOKS; i++) {
        // A1: pairs with R1 in change_signal(), R2 in future_set_state(), R3 in waiter_add(), R4 in post()
        // and R5 in add_threads(), the stores that change the words on which threads wait: a thread that sees
        // the word changed sees what was written before it.
        if (atomic_load_explicit(word, memory_order_acquire) != expected) {
            return true;
        }
        park_relax();
    }
    return false;
}

bool
park_spin_for(const _Atomic uint32_t *word, uint32_t expected, int64_t limit_ns)
{
    // The shortest waits do not even read the clock.
    if (look(word, expected)) {
        return true;
    }
    // On one CPU no other thread changes the word before this one sleeps.
    if (limit_ns > 0 && load_spare_cpus() > 0) {
        int64_t end = clock_now_ns() + limit_ns;
        do {
            if (look(word, expected)) {
                return true;
            }
        } while (clock_now_ns() < end);
        look_at_cpus();
    }
    return false;
}

bool
park_spin(park_spot *spot, const _Atomic uint32_t *word, uint32_t expected, int64_t deadline_ns)
{
    int64_t limit_ns = atomic_load_explicit(&spot->spin_ns, memory_order_relaxed);  // a hint
    bool changed = false;
    if (deadline_ns != FUTEX_NO_DEADLINE) {
        int64_t left_ns = deadline_ns - clock_now_ns();
        limit_ns = left_ns < limit_ns ? left_ns : limit_ns;
    }
    if (limit_ns <= 0) {
        return false;
    }
    // Relaxed: a limit on how many spin, which orders nothing.
    uint32_t others = atomic_fetch_add_explicit(&spot->spinning, 1, memory_order_relaxed);
    if (others < spot->most_spinning && others < load_spare_cpus()) {
        changed = park_spin_for(word, expected, limit_ns);
        // All relaxed: hints.
        if (changed && atomic_load_explicit(&spot->doubt, memory_order_relaxed) != 1) {
            atomic_store_explicit(&spot->doubt, 1, memory_order_relaxed);
        }
        bool was_vain = !changed && limit_ns >= PARK_SPIN_MAX_NS;
        if (was_vain != atomic_load_explicit(&spot->was_vain, memory_order_relaxed)) {
            atomic_store_explicit(&spot->was_vain, was_vain, memory_order_relaxed);
        }
    }
    // Relaxed: only a limit, as above.
    atomic_fetch_sub_explicit(&spot->spinning, 1, memory_order_relaxed);
    return changed;
}

// How long to spin after a short wait: not at all while spins that should have caught the change were in
// vain.
static uint32_t
spin_after_short_wait(park_spot *spot, bool was_vain)
{
    // All relaxed: hints.
    uint32_t skip = atomic_load_explicit(&spot->skip, memory_order_relaxed);
    if (was_vain) {
        skip = atomic_load_explicit(&spot->doubt, memory_order_relaxed);
        atomic_store_explicit(&spot->doubt, skip < MOST_DOUBT ? 2 * skip : skip, memory_order_relaxed);
    }
    else if (skip > 0) {
        skip--;
    }
    atomic_store_explicit(&spot->skip, skip, memory_order_relaxed);
    return skip > 0 ? 0 : PARK_SPIN_MAX_NS;
}

void
park_learn(park_spot *spot, int64_t waited_ns)
{
    // Relaxed: hints.  Two threads may learn at once and one lesson may be lost; the next wait teaches it
    // again.
    uint32_t spin_ns = atomic_load_explicit(&spot->spin_ns, memory_order_relaxed);
    bool was_vain = atomic_load_explicit(&spot->was_vain, memory_order_relaxed) != 0;
    if (was_vain) {
        atomic_store_explicit(&spot->was_vain, 0, memory_order_relaxed);  // relaxed, as above
    }
    if (waited_ns <= SPIN_PAYS_NS) {
        spin_ns = spin_after_short_wait(spot, was_vain);
    }
    else {
        spin_ns = spin_ns / 2 < SPIN_MIN_NS ? 0 : spin_ns / 2;
        look_at_cpus();
    }
    atomic_store_explicit(&spot->spin_ns, spin_ns, memory_order_relaxed);
}

int
park_sleep(park_spot *spot, _Atomic uint32_t *word, uint32_t expected, int64_t deadline_ns)
{
    int rc = FUTEX_OK;
    int64_t start = clock_now_ns();
    // A1: pairs with R1, R2, R3, R4 and R5, as in look().
    while (rc == FUTEX_OK && atomic_load_explicit(word, memory_order_acquire) == expected) {
        rc = futex_wait(word, expected, deadline_ns);
    }
    int64_t waited_ns = clock_now_ns() - start;
    // A wait that was cut short does not tell how long it would have been.
    if (rc == FUTEX_OK || waited_ns > SPIN_PAYS_NS) {
        park_learn(spot, waited_ns);
    }
    return rc;
}
