// check: what the C tests of csrc/core share: CHECK, a list of tests, a guard against hangs, and
// ways to wait for another thread.
//
// A test is deterministic: it waits until something is so (CHECK_UNTIL), never for a while.  If it
// never becomes so, the guard aborts the program and says what was waited for.  Define _GNU_SOURCE
// before the first include.
#ifndef PYCONC_CHECK_H
#define PYCONC_CHECK_H

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

// Far more than any test takes under any sanitizer on a busy machine.
#define CHECK_HANG_SECONDS 120

#define CHECK_STRING_(x) #x
#define CHECK_STRING(x) CHECK_STRING_(x)
#define CHECK_HERE __FILE__ ":" CHECK_STRING(__LINE__) ": "

#define CHECK(condition)                                      \
    do {                                                      \
        if (!(condition)) {                                   \
            check_fail(CHECK_HERE "false: " #condition "\n"); \
        }                                                     \
    } while (0)

#define CHECK_EQ(actual, expected) \
    check_equal((int64_t)(actual), (int64_t)(expected), CHECK_HERE #actual " == " #expected)

// Waits for another thread to make the condition true.
#define CHECK_UNTIL(condition)                                                        \
    do {                                                                              \
        while (!(condition)) {                                                        \
            atomic_store(&check_awaited, CHECK_HERE "still false: " #condition "\n"); \
            sched_yield();                                                            \
        }                                                                             \
        atomic_store(&check_awaited, "");                                             \
    } while (0)

typedef struct check_test {
    const char *name;
    void (*run)(void);
} check_test;

#define CHECK_TEST(function) {#function, function}
#define CHECK_COUNT(array) (sizeof(array) / sizeof((array)[0]))

// For the guard.
static _Atomic(const char *) check_running = "";
static _Atomic(const char *) check_awaited = "";

static inline void
check_say(const char *text)
{
    // Nothing can be done about a standard error that is gone.
    if (write(STDERR_FILENO, text, strlen(text)) < 0) {
        return;
    }
}

static inline _Noreturn void
check_fail(const char *text)
{
    check_say(text);
    check_say("in ");
    check_say(atomic_load(&check_running));
    check_say("\n");
    abort();
}

static inline void
check_equal(int64_t actual, int64_t expected, const char *text)
{
    if (actual != expected) {
        fprintf(stderr, "%s: %lld, not %lld\n", text, (long long)actual, (long long)expected);
        check_fail("");
    }
}

static inline void *
check_guard_main(void *arg)
{
    int number;
    sigwait((sigset_t *)arg, &number);
    check_say("hung; ");
    check_fail(atomic_load(&check_awaited));
}

// From here on the program may take CHECK_HANG_SECONDS until the next call.  Called before threads
// are started.
static inline void
check_guard(const char *name)
{
    // A thread of its own takes the signal: a sanitizer may keep it from threads that are stuck.
    static sigset_t alarms;
    if (sigismember(&alarms, SIGALRM) != 1) {
        pthread_t guard;
        sigemptyset(&alarms);
        sigaddset(&alarms, SIGALRM);
        CHECK(pthread_sigmask(SIG_BLOCK, &alarms, NULL) == 0);
        CHECK(pthread_create(&guard, NULL, check_guard_main, &alarms) == 0);
        CHECK(pthread_detach(guard) == 0);
    }
    atomic_store(&check_running, name);
    alarm(CHECK_HANG_SECONDS);
}

// In the child of a fork, where the guard's thread is not: the alarm itself ends it.
static inline void
check_guard_child(void)
{
    sigset_t alarms;
    sigemptyset(&alarms);
    sigaddset(&alarms, SIGALRM);
    CHECK(pthread_sigmask(SIG_UNBLOCK, &alarms, NULL) == 0);
    alarm(CHECK_HANG_SECONDS);
}

// Runs all tests, or those that the command line names.
static inline int
check_run(const check_test *tests, size_t count, int argc, char **argv)
{
    int ran = 0;
    for (size_t i = 0; i < count; i++) {
        bool wanted = argc == 1;
        for (int j = 1; j < argc; j++) {
            wanted = wanted || strcmp(argv[j], tests[i].name) == 0;
        }
        if (wanted) {
            check_guard(tests[i].name);
            tests[i].run();
            printf("ok %s\n", tests[i].name);
            fflush(stdout);
            ran++;
        }
    }
    return ran > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

// The rounds of a stress program: a sanitizer sees in a quarter of them what it can see.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define CHECK_ROUNDS(rounds) ((rounds) / 4)
#else
#define CHECK_ROUNDS(rounds) (rounds)
#endif

// A stress program's number: from the command line, else the environment, else the default.
static inline uint64_t
check_number(int argc, char **argv, int index, const char *variable, uint64_t otherwise)
{
    const char *text = argc > index ? argv[index] : getenv(variable);
    return text != NULL ? strtoull(text, NULL, 10) : otherwise;
}

// SplitMix64: small, and every seed is a good one.
static inline uint64_t
check_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

// True once in `times`.
static inline bool
check_chance(uint64_t *state, uint64_t times)
{
    return check_random(state) % times == 0;
}

// Loses a little time, or none, or the CPU, so that threads meet in ever different places.
static inline void
check_dawdle(uint64_t *state)
{
    uint64_t what = check_random(state) % 8;
    if (what == 0) {
        sched_yield();
    }
    else if (what < 5) {
        // Atomic, or the compiler would drop the loop.
        _Atomic uint64_t turns = 1 + check_random(state) % (UINT64_C(1) << (2 * what));
        while (atomic_fetch_sub(&turns, 1) > 1) {
        }
    }
}

// A thread that runs one function.
typedef struct check_thread {
    void (*run)(void *arg);
    void *arg;
    pthread_t thread;
    _Atomic pid_t tid;
    _Atomic bool done;  // `run` has returned
} check_thread;

static inline void *
check_thread_main(void *arg)
{
    check_thread *self = (check_thread *)arg;
    atomic_store(&self->tid, (pid_t)syscall(SYS_gettid));
    self->run(self->arg);
    atomic_store(&self->done, true);
    return NULL;
}

static inline void
check_start(check_thread *self, void (*run)(void *arg), void *arg)
{
    self->run = run;
    self->arg = arg;
    atomic_init(&self->tid, 0);
    atomic_init(&self->done, false);
    CHECK(pthread_create(&self->thread, NULL, check_thread_main, self) == 0);
    CHECK_UNTIL(atomic_load(&self->tid) != 0);
}

static inline void
check_join(check_thread *self)
{
    CHECK(pthread_join(self->thread, NULL) == 0);
}

// What the kernel calls futex(): under an emulator it is not what the program calls it.
#ifndef CHECK_SYS_FUTEX
#define CHECK_SYS_FUTEX SYS_futex
#endif

// True if the kernel has the thread asleep on the futex `word`: it tells which system call a thread
// is blocked in.  A thread that has just been woken may look asleep until it has a CPU.
static inline bool
check_asleep(check_thread *thread, const void *word)
{
    char path[64];
    long number = -1;
    unsigned long address = 0;
    snprintf(path, sizeof(path), "/proc/self/task/%d/syscall", (int)atomic_load(&thread->tid));
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        CHECK(atomic_load(&thread->done));  // else this kernel does not tell
        return false;
    }
    int fields = fscanf(file, "%ld %lx", &number, &address);
    fclose(file);
    return fields == 2 && number == CHECK_SYS_FUTEX && address == (unsigned long)word;
}

// How often the thread has gone to sleep.  -1 if it has ended.
static inline long
check_naps(check_thread *thread)
{
    char path[64];
    char line[128];
    long naps = -1;
    snprintf(path, sizeof(path), "/proc/self/task/%d/status", (int)atomic_load(&thread->tid));
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        CHECK(atomic_load(&thread->done));
        return -1;
    }
    while (fgets(line, sizeof(line), file) != NULL) {
        if (sscanf(line, "voluntary_ctxt_switches: %ld", &naps) == 1) {
            break;
        }
    }
    fclose(file);
    return naps;
}

// The thread slept, with so many naps, and has been woken: waits until it sleeps on the word again.
static inline void
check_asleep_again(check_thread *thread, const void *word, long naps)
{
    CHECK_UNTIL(atomic_load(&thread->done)
                || (check_naps(thread) > naps && check_asleep(thread, word)));
    CHECK(!atomic_load(&thread->done));
}

// The CPU time that the thread has used.
static inline int64_t
check_cpu_ns(check_thread *thread)
{
    clockid_t clock;
    struct timespec used;
    CHECK(pthread_getcpuclockid(thread->thread, &clock) == 0);
    CHECK(clock_gettime(clock, &used) == 0);
    return (int64_t)used.tv_sec * 1000000000 + used.tv_nsec;
}

// A handler that does nothing and restarts nothing, so that SIGUSR1 interrupts system calls.
static inline void
check_interrupted(int number)
{
    (void)number;
}

static inline void
check_handle_sigusr1(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof(action));
    action.sa_handler = check_interrupted;
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
}

#endif
