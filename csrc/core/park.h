// park: wait until a word changes, spinning a little before sleeping.
//
// A sleeping thread takes about 20 microseconds to wake, a spinning one none, so a short spin turns a round
// trip between two threads from tens of microseconds into one.  A spin that ends without the change wastes
// CPU time.  Each place that waits therefore has a park_spot, which remembers how long its waits lasted:
// after short waits it spins for up to PARK_SPIN_MAX_NS, after long ones it halves the spin until there is
// none.  On one CPU no thread spins.
//
// Where all CPUs are busy, the kernel may have put the thread that is to change the word on the CPU of the
// thread that spins, where it runs as soon as the spinning one sleeps.  A full spin in vain, with a short
// wait after it, shows this: the spot then does not spin for the next short waits, for twice as many of them
// each time, until a spin catches a change.
//
// A spin keeps its CPU: it never calls sched_yield().  That call gives away the rest of the time slice, and
// where other programs want the CPU it returns milliseconds later (benchmarks/neighbours.py: a call every 2
// ms took 1 to 3 ms instead of 60 microseconds, beside one busy program for each CPU).
//
// A signal handler that runs while its thread spins does not end the spin; a caller that must notice signals
// looks for them between the spin and the sleep.
//
// Any thread may call everything here at any time.  No Python.
#ifndef PYCONC_PARK_H
#define PYCONC_PARK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "futex.h"

// Measured on a virtual machine of 2 CPUs, where a wake takes 18 microseconds: spins of 20 to 50 turned round
// trips between two threads from 36 microseconds into 1.
#define PARK_SPIN_MAX_NS 50000

typedef struct park_spot {
    _Atomic uint32_t spin_ns;   // how long the next wait may spin; a hint, so relaxed everywhere
    _Atomic uint32_t spinning;  // threads that spin here now; relaxed: only a limit
    // Hints, which a lost update does not harm:
    _Atomic uint32_t was_vain;  // the last spin was a full one and caught nothing; relaxed everywhere
    _Atomic uint32_t doubt;     // short waits without a spin after the next such one; relaxed everywhere
    _Atomic uint32_t skip;      // how many of those are left; relaxed everywhere
    uint32_t most_spinning;     // constant
} park_spot;

// At most `most_spinning` threads spin here at once, and never as many as there are CPUs.
void park_spot_init(park_spot *spot, uint32_t most_spinning);

// In the child of a fork, which has one thread and its parent's CPUs: nobody spins here, nothing was learned.
void park_spot_after_fork(park_spot *spot);

// Whether a wait here would spin now.
bool park_may_spin(park_spot *spot);

// Spins until *word != expected, as long as the spot allows but not past the deadline.  True if the
// word changed.
bool park_spin(park_spot *spot, const _Atomic uint32_t *word, uint32_t expected, int64_t deadline_ns);

// Sleeps until *word != expected or the deadline, and learns from it; returns as futex_wait().
int park_sleep(park_spot *spot, _Atomic uint32_t *word, uint32_t expected, int64_t deadline_ns);

// Tells the spot how long a wait lasted in all, for a caller that sleeps in another way.
void park_learn(park_spot *spot, int64_t waited_ns);

// Tells the CPU that this is a spin.
static inline void
park_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

// Spins until *word != expected, for at most limit_ns; on one CPU it only looks.  True if the word changed.
bool park_spin_for(const _Atomic uint32_t *word, uint32_t expected, int64_t limit_ns);

#endif
