#define _GNU_SOURCE
#include "futex.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int
wait_on(_Atomic uint32_t *word, uint32_t expected, int64_t deadline_ns, int flag)
{
    deadline_ns = deadline_ns < 0 ? 0 : deadline_ns;
    struct timespec deadline = {
        .tv_sec = (time_t)(deadline_ns / 1000000000),
        .tv_nsec = (long)(deadline_ns % 1000000000),
    };
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

int
futex_wait_shared(_Atomic uint32_t *word, uint32_t expected, int64_t deadline_ns)
{
    return wait_on(word, expected, deadline_ns, 0);
}

int
futex_wake_shared(_Atomic uint32_t *word, int count)
{
    return (int)syscall(SYS_futex, word, FUTEX_WAKE, count, NULL, NULL, 0);
}
