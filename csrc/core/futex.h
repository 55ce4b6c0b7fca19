// futex: sleep on a 32-bit word until another thread changes it.
//
// The only unit that calls futex().  No function touches Python; a caller that holds the GIL releases it
// before it sleeps. The plain functions are for words of this process, the shared ones for words in memory
// that several processes have mapped; a word is used with one kind only.  No Python.
#ifndef PYCONC_FUTEX_H
#define PYCONC_FUTEX_H

#include <stdatomic.h>
#include <stdint.h>

enum {
    FUTEX_OK = 0,            // Woken, or *word had changed, or a spurious wakeup: look again.
    FUTEX_TIMED_OUT = -1,    // The deadline has passed.
    FUTEX_INTERRUPTED = -2,  // A signal handler ran in this thread.
};

#define FUTEX_NO_DEADLINE INT64_MAX

// Sleeps while *word == expected, at most until deadline_ns on the clock of clock_now_ns().
int futex_wait(_Atomic uint32_t *word, uint32_t expected, int64_t deadline_ns);

// Wakes up to `count` threads that sleep on the word.  The word may be freed memory by now, because its owner
// may have seen the change without sleeping: the kernel only compares addresses.
void futex_wake(_Atomic uint32_t *word, int count);

void futex_wake_all(_Atomic uint32_t *word);

// The same between processes.  futex_wake_shared() returns how many slept.
int futex_wait_shared(_Atomic uint32_t *word, uint32_t expected, int64_t deadline_ns);
int futex_wake_shared(_Atomic uint32_t *word, int count);

// From now on this thread sleeps on shared words only while the word `stop`, of this process, is 0: set it,
// futex_wake() it, and futex_wait_shared() returns FUTEX_INTERRUPTED.  Where the kernel cannot wait for two
// words, it is seen within FUTEX_STOP_NS.
#define FUTEX_STOP_NS 50000000
void futex_stop_by(_Atomic uint32_t *stop);

#endif
