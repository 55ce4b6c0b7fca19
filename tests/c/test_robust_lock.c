// Tests of core/robust_lock.
#define _GNU_SOURCE
#include "core/robust_lock.h"

#include "check_steps.h"
#include "core/clock.h"
#include "core/futex.h"

#define LOCKS 6

// Far later than any test runs.
#define LONG_NS INT64_C(600000000000)

// In memory that children share.
typedef struct scene {
    robust_lock locks[LOCKS];
    pthread_mutex_t mutexes[2];
    _Atomic uint32_t number;
} scene;

static scene *
scene_new(void)
{
    scene *s = check_shared_memory(sizeof(*s));
    pthread_mutexattr_t kind;
    CHECK(pthread_mutexattr_init(&kind) == 0);
    CHECK(pthread_mutexattr_setpshared(&kind, PTHREAD_PROCESS_SHARED) == 0);
    CHECK(pthread_mutexattr_setrobust(&kind, PTHREAD_MUTEX_ROBUST) == 0);
    for (size_t i = 0; i < CHECK_COUNT(s->mutexes); i++) {
        CHECK(pthread_mutex_init(&s->mutexes[i], &kind) == 0);
    }
    return s;
}

static void
scene_free(scene *s)
{
    munmap(s, sizeof(*s));
}

static int
acquire(robust_lock *lock)
{
    return robust_lock_acquire(lock, clock_now_ns() + LONG_NS);
}

// It is free, whether somebody died with it or not, and can be used.
static void
check_usable(robust_lock *lock)
{
    CHECK(acquire(lock) >= 0);
    CHECK_EQ(robust_lock_release(lock), ROBUST_LOCK_OK);
    CHECK(!robust_lock_is_taken(lock));
    CHECK_EQ(acquire(lock), ROBUST_LOCK_OK);
    CHECK_EQ(robust_lock_release(lock), ROBUST_LOCK_OK);
}

// ---- one thread, and another ----

static void
a_lock_is_taken_and_released(void)
{
    scene *s = scene_new();
    robust_lock *lock = &s->locks[0];
    CHECK(robust_lock_hold(lock) == NULL);
    CHECK_EQ(robust_lock_release(lock), ROBUST_LOCK_NOT_HELD);
    CHECK_EQ(acquire(lock), ROBUST_LOCK_OK);
    CHECK(robust_lock_is_taken(lock));
    CHECK_EQ(robust_lock_owner(lock), (uint32_t)getpid());
    CHECK_EQ(robust_lock_hold(lock)->depth, 1);
    CHECK_EQ(robust_lock_acquire(lock, ROBUST_LOCK_NO_WAIT), FUTEX_TIMED_OUT);
    CHECK_EQ(robust_lock_acquire(lock, clock_now_ns() + 1000), FUTEX_TIMED_OUT);
    CHECK_EQ(robust_lock_release(lock), ROBUST_LOCK_OK);
    CHECK_EQ(robust_lock_owner(lock), 0);
    check_usable(lock);
    scene_free(s);
}

static void
a_hold_is_released_however_deep(void)
{
    scene *s = scene_new();
    for (size_t i = 0; i < 3; i++) {
        CHECK_EQ(acquire(&s->locks[i]), ROBUST_LOCK_OK);
    }
    robust_hold *hold = robust_lock_hold(&s->locks[1]);
    hold->depth = 5;
    robust_hold_release(hold);
    CHECK(robust_lock_hold(&s->locks[1]) == NULL);
    check_usable(&s->locks[1]);
    for (size_t i = 0; i < 3; i += 2) {
        CHECK_EQ(robust_lock_hold(&s->locks[i])->depth, 1);
        robust_hold_release(robust_lock_hold(&s->locks[i]));
        check_usable(&s->locks[i]);
    }
    scene_free(s);
}

static void
release_from_elsewhere(void *arg)
{
    scene *s = arg;
    CHECK(robust_lock_hold(&s->locks[0]) == NULL);
    CHECK_EQ(robust_lock_release(&s->locks[0]), ROBUST_LOCK_NOT_HELD);
}

static void
only_its_thread_releases_a_lock(void)
{
    scene *s = scene_new();
    check_thread other;
    CHECK_EQ(acquire(&s->locks[0]), ROBUST_LOCK_OK);
    check_start(&other, release_from_elsewhere, s);
    check_join(&other);
    CHECK_EQ(robust_lock_release(&s->locks[0]), ROBUST_LOCK_OK);
    scene_free(s);
}

static void
take_and_release(void *arg)
{
    check_usable(arg);
}

static void
a_release_wakes_all_that_wait_in_turn(void)
{
    scene *s = scene_new();
    check_thread waiters[3];
    CHECK_EQ(acquire(&s->locks[0]), ROBUST_LOCK_OK);
    for (size_t i = 0; i < CHECK_COUNT(waiters); i++) {
        check_start(&waiters[i], take_and_release, &s->locks[0]);
        CHECK_UNTIL(check_asleep(&waiters[i], &s->locks[0].word));
    }
    CHECK_EQ(robust_lock_release(&s->locks[0]), ROBUST_LOCK_OK);
    for (size_t i = 0; i < CHECK_COUNT(waiters); i++) {
        check_join(&waiters[i]);
    }
    CHECK_EQ(atomic_load(&s->locks[0].word), 0);
    scene_free(s);
}

static void
count_under_lock(void *arg)
{
    scene *s = arg;
    uint64_t seed = (uint64_t)syscall(SYS_gettid);
    for (int i = 0; i < 20000; i++) {
        if (acquire(&s->locks[0]) < 0) {
            check_fail("not acquired\n");
        }
        // Two steps, which the lock makes one.
        uint32_t number = atomic_load_explicit(&s->number, memory_order_relaxed);
        if (check_chance(&seed, 100)) {
            sched_yield();
        }
        atomic_store_explicit(&s->number, number + 1, memory_order_relaxed);
        CHECK_EQ(robust_lock_release(&s->locks[0]), ROBUST_LOCK_OK);
    }
}

static void
threads_hold_it_one_at_a_time(void)
{
    scene *s = scene_new();
    check_thread threads[3];
    for (size_t i = 0; i < CHECK_COUNT(threads); i++) {
        check_start(&threads[i], count_under_lock, s);
    }
    for (size_t i = 0; i < CHECK_COUNT(threads); i++) {
        check_join(&threads[i]);
    }
    CHECK_EQ(atomic_load(&s->number), 3 * 20000);
    scene_free(s);
}

static void
wait_until_interrupted(void *arg)
{
    CHECK_EQ(acquire(arg), FUTEX_INTERRUPTED);
}

static void
a_signal_interrupts_the_wait(void)
{
    scene *s = scene_new();
    check_thread waiter;
    check_handle_sigusr1();
    CHECK_EQ(acquire(&s->locks[0]), ROBUST_LOCK_OK);
    check_start(&waiter, wait_until_interrupted, &s->locks[0]);
    CHECK_UNTIL(check_asleep(&waiter, &s->locks[0].word));
    CHECK(pthread_kill(waiter.thread, SIGUSR1) == 0);
    check_join(&waiter);
    CHECK_EQ(robust_lock_release(&s->locks[0]), ROBUST_LOCK_OK);
    check_usable(&s->locks[0]);
    scene_free(s);
}

static void
a_thread_holds_so_many(void)
{
    robust_lock *locks = check_shared_memory((ROBUST_LOCKS_MAX + 1) * sizeof(robust_lock));
    for (int i = 0; i < ROBUST_LOCKS_MAX; i++) {
        CHECK_EQ(acquire(&locks[i]), ROBUST_LOCK_OK);
    }
    CHECK_EQ(acquire(&locks[ROBUST_LOCKS_MAX]), ROBUST_LOCK_TOO_MANY);
    for (int i = 0; i < ROBUST_LOCKS_MAX; i++) {
        CHECK_EQ(robust_lock_release(&locks[i * 37 % ROBUST_LOCKS_MAX]), ROBUST_LOCK_OK);
    }
    check_usable(&locks[ROBUST_LOCKS_MAX]);
    munmap(locks, (ROBUST_LOCKS_MAX + 1) * sizeof(robust_lock));
}

// ---- ends ----

static void
take_all(void *arg)
{
    scene *s = arg;
    for (int i = 0; i < LOCKS; i++) {
        CHECK_EQ(acquire(&s->locks[i]), ROBUST_LOCK_OK);
    }
}

static void
the_end_of_a_thread_releases_its_locks(void)
{
    scene *s = scene_new();
    check_thread thread;
    check_start(&thread, take_all, s);
    check_join(&thread);
    for (int i = 0; i < LOCKS; i++) {
        CHECK_EQ(acquire(&s->locks[i]), ROBUST_LOCK_ABANDONED);
        CHECK_EQ(atomic_load(&s->locks[i].abandoned), getpid());
        CHECK_EQ(robust_lock_release(&s->locks[i]), ROBUST_LOCK_OK);
        check_usable(&s->locks[i]);
    }
    scene_free(s);
}

static void
hold_until_told(void *arg)
{
    scene *s = arg;
    CHECK_EQ(acquire(&s->locks[0]), ROBUST_LOCK_OK);
    CHECK_UNTIL(atomic_load(&s->number) == 1);
}

static void
the_end_of_a_thread_wakes_all_that_wait_in_turn(void)
{
    scene *s = scene_new();
    check_thread holder, waiters[3];
    check_start(&holder, hold_until_told, s);
    CHECK_UNTIL(robust_lock_is_taken(&s->locks[0]));
    for (size_t i = 0; i < CHECK_COUNT(waiters); i++) {
        check_start(&waiters[i], take_and_release, &s->locks[0]);
        CHECK_UNTIL(check_asleep(&waiters[i], &s->locks[0].word));
    }
    atomic_store(&s->number, 1);
    for (size_t i = 0; i < CHECK_COUNT(waiters); i++) {
        check_join(&waiters[i]);
    }
    check_join(&holder);
    CHECK_EQ(atomic_load(&s->locks[0].word), 0);
    scene_free(s);
}

#if !defined(__SANITIZE_THREAD__)

// Runs a function in a child that then dies by SIGKILL.
static void
die_after(void (*run)(scene *s, uint64_t seed), scene *s, uint64_t seed)
{
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        run(s, seed);
        kill(getpid(), SIGKILL);
    }
    CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

// Takes and releases locks, and mutexes of the C library, in an order that the seed chooses.
static void
hold_some(scene *s, uint64_t seed)
{
    bool is_held[LOCKS + 2] = {false};
    for (int i = 0; i < 40; i++) {
        size_t which = check_random(&seed) % CHECK_COUNT(is_held);
        if (which < LOCKS && !is_held[which]) {
            CHECK(acquire(&s->locks[which]) >= 0);
        }
        else if (which < LOCKS) {
            CHECK_EQ(robust_lock_release(&s->locks[which]), ROBUST_LOCK_OK);
        }
        else if (!is_held[which]) {
            int rc = pthread_mutex_lock(&s->mutexes[which - LOCKS]);
            CHECK(rc == 0 || (rc == EOWNERDEAD && pthread_mutex_consistent(&s->mutexes[which - LOCKS]) == 0));
        }
        else {
            CHECK(pthread_mutex_unlock(&s->mutexes[which - LOCKS]) == 0);
        }
        is_held[which] = !is_held[which];
    }
    for (int i = 0; i < LOCKS; i++) {
        CHECK_EQ(robust_lock_hold(&s->locks[i]) != NULL, is_held[i]);
    }
}

static void
the_c_library_s_mutexes_are_in_the_list_too(void)
{
    scene *s = scene_new();
    for (uint64_t seed = 0; seed < 300; seed++) {
        die_after(hold_some, s, seed);
        for (int i = 0; i < LOCKS; i++) {
            check_usable(&s->locks[i]);
        }
        for (size_t i = 0; i < CHECK_COUNT(s->mutexes); i++) {
            int rc = pthread_mutex_trylock(&s->mutexes[i]);
            CHECK(rc == 0 || (rc == EOWNERDEAD && pthread_mutex_consistent(&s->mutexes[i]) == 0));
            CHECK(pthread_mutex_unlock(&s->mutexes[i]) == 0);
        }
    }
    scene_free(s);
}

// A stray write hits the links of the locks that it holds; then it releases some of them, and dies.
static void
be_scribbled_on(scene *s, uint64_t seed)
{
    take_all(s);
    for (int i = 0; i < 5; i++) {
        robust_lock *lock = &s->locks[check_random(&seed) % LOCKS];
        atomic_store(check_chance(&seed, 2) ? &lock->next : &lock->previous, check_random(&seed));
    }
    for (int i = LOCKS; i-- > 0;) {
        if (check_chance(&seed, 2)) {
            CHECK_EQ(robust_lock_release(&s->locks[i]), ROBUST_LOCK_OK);
            CHECK_EQ(acquire(&s->locks[i]), ROBUST_LOCK_OK);
        }
    }
    for (int i = 0; i < LOCKS; i++) {
        CHECK_EQ(robust_lock_release(&s->locks[i]), ROBUST_LOCK_OK);
    }
    CHECK_EQ(acquire(&s->locks[0]), ROBUST_LOCK_OK);
}

static void
stray_links_are_not_followed(void)
{
    scene *s = scene_new();
    for (uint64_t seed = 0; seed < 300; seed++) {
        die_after(be_scribbled_on, s, seed);
        for (int i = 0; i < LOCKS; i++) {
            check_usable(&s->locks[i]);
        }
    }
    scene_free(s);
}

static void
release_what_the_parent_holds(void *arg)
{
    scene *s = arg;
    CHECK(robust_lock_hold(&s->locks[0]) == NULL);
    CHECK_EQ(robust_lock_release(&s->locks[0]), ROBUST_LOCK_NOT_HELD);
    CHECK_EQ(robust_lock_acquire(&s->locks[0], ROBUST_LOCK_NO_WAIT), FUTEX_TIMED_OUT);
    check_usable(&s->locks[1]);
}

static void
the_child_of_a_fork_holds_nothing(void)
{
    scene *s = scene_new();
    int status;
    CHECK_EQ(acquire(&s->locks[0]), ROBUST_LOCK_OK);
    pid_t pid = fork();
    if (pid == 0) {
        release_what_the_parent_holds(s);
        _exit(0);
    }
    CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(robust_lock_is_taken(&s->locks[0]));
    CHECK_EQ(robust_lock_release(&s->locks[0]), ROBUST_LOCK_OK);
    scene_free(s);
}

// ---- death at every instruction ----

typedef struct drama {
    robust_lock *lock;
    check_thread waiter;
    bool is_held;  // by this thread
} drama;

static void
pass_through(void *arg)
{
    drama *d = arg;
    if (acquire(d->lock) < 0 || robust_lock_release(d->lock) != ROBUST_LOCK_OK) {
        _exit(1);
    }
}

static void
do_nothing(void *arg)
{
    (void)arg;
}

static void
check_lock_usable(void *arg)
{
    check_usable(((drama *)arg)->lock);
}

static void
who_dies_anywhere_leaves_the_lock(void)
{
    drama d = {.lock = check_shared_memory(sizeof(robust_lock))};
    check_child child = {.run = pass_through, .arg = &d};
    check_die_everywhere(&child, do_nothing, check_lock_usable);
}

// Another thread waits while the child releases the lock, or dies in that.
static void
start_waiter(void *arg)
{
    drama *d = arg;
    check_start(&d->waiter, take_and_release, d->lock);
}

static void
join_waiter(void *arg)
{
    drama *d = arg;
    check_join(&d->waiter);
    check_usable(d->lock);
}

static void
hold_until_somebody_waits(void *arg)
{
    drama *d = arg;
    if (acquire(d->lock) < 0) {
        _exit(1);
    }
    // Somebody may sleep on the lock, as far as the word tells.
    atomic_fetch_or(&d->lock->word, 0x80000000u);
    if (robust_lock_release(d->lock) != ROBUST_LOCK_OK) {
        _exit(1);
    }
}

static void
who_dies_in_waking_is_made_up_for(void)
{
    drama d = {.lock = check_shared_memory(sizeof(robust_lock))};
    check_child child = {.run = hold_until_somebody_waits, .arg = &d};
    check_die_everywhere(&child, start_waiter, join_waiter);
}

// The child waits, and so does another thread; this one releases the lock, which wakes one of them.
static void
take_and_start_waiter(void *arg)
{
    drama *d = arg;
    CHECK_EQ(acquire(d->lock), ROBUST_LOCK_OK);
    d->is_held = true;
}

static void
start_second_and_release(void *arg)
{
    drama *d = arg;
    // The child sleeps first, so it is woken first.
    check_start(&d->waiter, take_and_release, d->lock);
    CHECK_UNTIL(check_asleep(&d->waiter, &d->lock->word));
    CHECK_EQ(robust_lock_release(d->lock), ROBUST_LOCK_OK);
    d->is_held = false;
}

static void
release_and_join(void *arg)
{
    drama *d = arg;
    if (d->is_held) {
        CHECK_EQ(robust_lock_release(d->lock), ROBUST_LOCK_OK);  // it died before it slept
    }
    else {
        check_join(&d->waiter);
    }
    check_usable(d->lock);
}

static void
who_dies_in_waiting_keeps_nobody(void)
{
    drama d = {.lock = check_shared_memory(sizeof(robust_lock))};
    check_child child = {.run = pass_through, .arg = &d, .when_asleep = start_second_and_release};
    check_die_everywhere(&child, take_and_start_waiter, release_and_join);
}

#endif

static const check_test tests[] = {
    CHECK_TEST(a_lock_is_taken_and_released),
    CHECK_TEST(a_hold_is_released_however_deep),
    CHECK_TEST(only_its_thread_releases_a_lock),
    CHECK_TEST(a_release_wakes_all_that_wait_in_turn),
    CHECK_TEST(threads_hold_it_one_at_a_time),
    CHECK_TEST(a_signal_interrupts_the_wait),
    CHECK_TEST(a_thread_holds_so_many),
    CHECK_TEST(the_end_of_a_thread_releases_its_locks),
    CHECK_TEST(the_end_of_a_thread_wakes_all_that_wait_in_turn),
#if !defined(__SANITIZE_THREAD__)
    CHECK_TEST(the_c_library_s_mutexes_are_in_the_list_too),
    CHECK_TEST(stray_links_are_not_followed),
    CHECK_TEST(the_child_of_a_fork_holds_nothing),
    CHECK_TEST(who_dies_anywhere_leaves_the_lock),
    CHECK_TEST(who_dies_in_waking_is_made_up_for),
    CHECK_TEST(who_dies_in_waiting_keeps_nobody),
#endif
};

int
main(int argc, char **argv)
{
    return check_run(tests, CHECK_COUNT(tests), argc, argv);
}
