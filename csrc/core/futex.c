#define _GNU_SOURCE
#include "futex.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"

// Linux 5.16 has it, by this number on every machine; headers are often older.
#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449
#endif

// The kernel's struct futex_waitv.
typedef struct wait_for_one {
    uint64_t expected, word;
    uint32_t flags, unused;
} wait_for_one;

#define WORD_OF_32_BITS 2

static _Thread_local _Atomic uint32_t *stop_word;

static struct timespec
time_of(int64_t deadline_ns)
{
    deadline_ns = deadline_ns < 0 ? 0 : deadline_ns;
    return (struct timespec){
        .tv_sec = (time_t)(deadline_ns / 1000000000),
        .tv_nsec = (long)(deadline_ns % 1000000000),
    };
}

static int
wait_on(_Atomic uint32_t *word, uint32_t expected, int64_t deadline_ns, int flag)
{
    struct timespec deadline = time_of(deadline_ns);
    long rc = syscall(SYS_futex, word, FUTEX_WAIT_BITSET | flag, expected,
                      deadline_ns == FUTEX_NO_DEADLINE ? NULL : &deadline, NULL,
                      FUTEX_BITSET_MATCH_ANY);
    if (rc == 0 || errno == EAGAIN) {
        return FUTEX_OK;
    }
    return errno == ETIMEDOUT ? FUTEX_TIMED_OUT : FUTEX_INTERRUPTED;
}

int
futex_wait(_Atomic uint32_t *word, uint32_t expected, int64_t deadline_ns)
{
    return wait_on(word, expected, deadline_ns, FUTEX_PRIVATE_FLAG);
}

void
futex_wake(_Atomic uint32_t *word, int count)
{
    syscall(SYS_futex, word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, count, NULL, NULL, 0);
}

void
futex_wake_all(_Atomic uint32_t *word)
{
    futex_wake(word, INT_MAX);
}

// Sleeps on both words.
static int
wait_or_stop(_Atomic uint32_t *word, uint32_t expected, int64_t deadline_ns)
{
    // Relaxed: the kernel compares it again, and it orders nothing.
    if (atomic_load_explicit(stop_word, memory_order_relaxed) != 0) {
        return FUTEX_INTERRUPTED;
    }
    // A thread that both wake is told of the last, so that no wake is lost.
    wait_for_one both[] = {
        {.word = (uintptr_t)stop_word, .flags = WORD_OF_32_BITS | FUTEX_PRIVATE_FLAG},
        {.word = (uintptr_t)word, .expected = expected, .flags = WORD_OF_32_BITS},
    };
    struct timespec deadline = time_of(deadline_ns);
    long rc = syscall(SYS_futex_waitv, both, 2, 0, deadline_ns == FUTEX_NO_DEADLINE ? NULL : &deadline,
                      CLOCK_MONOTONIC);
    if (rc >= 0 || errno == EAGAIN || errno == EINTR) {
        return FUTEX_OK;  // the next look sees which one it was
    }
    if (errno == ETIMEDOUT) {
        return FUTEX_TIMED_OUT;
    }
    // ENOSYS, or what a sandbox says instead.
    int64_t look_ns = clock_now_ns() + FUTEX_STOP_NS;
    int one = wait_on(word, expected, look_ns < deadline_ns ? look_ns : deadline_ns, 0);
    return one == FUTEX_TIMED_OUT && look_ns < deadline_ns ? FUTEX_OK : one;
}

int
futex_wait_shared(_Atomic uint32_t *word, uint32_t expected, int64_t deadline_ns)
{
    return stop_word != NULL ? wait_or_stop(word, expected, deadline_ns)
                             : wait_on(word, expected, deadline_ns, 0);
}

void
futex_stop_by(_Atomic uint32_t *stop)
{
    stop_word = stop;
}

int
futex_wake_shared(_Atomic uint32_t *word, int count)
{
    return (int)syscall(SYS_futex, word, FUTEX_WAKE, count, NULL, NULL, 0);
}
