// check_steps: a process that is killed after so many instructions.
//
// Death at every step of a protocol, without a hook in the protocol: the child is traced, and each of its
// instructions is one step.  Define _GNU_SOURCE before the first include.
#ifndef PYCONC_CHECK_STEPS_H
#define PYCONC_CHECK_STEPS_H

#include <errno.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

#include "check.h"

// A sanitizer's instructions are many, and most are its own: what death at each of them leaves is seen
// without it, and it looks at a part of that.  An emulator has no ptrace, and TSan no forks.
#if defined(__SANITIZE_THREAD__) || !defined(__x86_64__)
#define CHECK_STEPS_EACH 0
#elif defined(__SANITIZE_ADDRESS__)
#define CHECK_STEPS_EACH 41
#else
#define CHECK_STEPS_EACH 1
#endif

typedef struct check_child {
    void (*run)(void *arg);
    void *arg;
    // Called once, when the child has gone to sleep in futex(); NULL: it is not to sleep.
    void (*when_asleep)(void *arg);
} check_child;

static inline void *
check_shared_memory(size_t bytes)
{
    void *start = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(start != MAP_FAILED);
    return start;
}

static inline bool
check_process_asleep(pid_t pid)
{
    char path[64];
    long number = -1;
    snprintf(path, sizeof(path), "/proc/%d/syscall", (int)pid);
    FILE *file = fopen(path, "r");
    int fields = file == NULL ? 0 : fscanf(file, "%ld", &number);
    if (file != NULL) {
        fclose(file);
    }
    return fields == 1 && number == CHECK_SYS_FUTEX;
}

// Lets a child run for so many instructions, and kills it.  False: it came to its end before.
static inline bool
check_die_after(check_child *child, uint64_t steps)
{
#if CHECK_STEPS_EACH > 0
    int status;
    bool was_asleep = false;
    pid_t pid = fork();
    if (pid == 0) {
        CHECK(ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0);
        __asm__ __volatile__("int3");
        child->run(child->arg);
        syscall(SYS_exit_group, 0);
    }
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && WIFSTOPPED(status));
    for (uint64_t i = 0; i < steps; i++) {
        CHECK(ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL) == 0);
        pid_t ended = 0;
        uint64_t looks = 0;
        while (child->when_asleep != NULL && !was_asleep && (ended = waitpid(pid, &status, WNOHANG)) == 0) {
            // A step takes less than this, unless it is one into the kernel.
            if (++looks % 64 == 0 && check_process_asleep(pid)) {
                was_asleep = true;
                child->when_asleep(child->arg);
            }
            sched_yield();
        }
        CHECK(ended == pid || waitpid(pid, &status, 0) == pid);
        if (!WIFSTOPPED(status)) {
            CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
            return false;
        }
    }
    CHECK(kill(pid, SIGKILL) == 0);
    CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status));
    return true;
#else
    (void)child;
    return steps == 0;
#endif
}

// Has children die after ever more instructions, `before` and `after` each, until one comes to its end.
static inline void
check_die_everywhere(check_child *child, void (*before)(void *arg), void (*after)(void *arg))
{
    bool is_dead = CHECK_STEPS_EACH > 0;
    for (uint64_t steps = 0; is_dead; steps += CHECK_STEPS_EACH) {
        before(child->arg);
        is_dead = check_die_after(child, steps);
        after(child->arg);
    }
}

#endif
