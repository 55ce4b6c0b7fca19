#define _GNU_SOURCE
#include "robust_lock.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "futex.h"

// The kernel finds the word of a lock at this distance from the link to it, for every entry of a list.
#define WORD_OFFSET ((long)offsetof(robust_lock, word) - (long)offsetof(robust_lock, next))

// What is added when a lock is taken, and musl's mark of a lock that several processes use.
#ifdef __GLIBC__
#define ONE_TURN 1
#define TURNS_MARK 0
#else
#define ONE_TURN 256
#define TURNS_MARK 128
#endif

// No list that is sound is longer: the kernel follows as many.
#define STEPS_MAX 2048

typedef struct held_lock {
    robust_lock *lock;
    uintptr_t next;  // what the lock's link said when this thread last wrote it
    robust_hold hold;
} held_lock;

// Owner thread only.
typedef struct thread_locks {
    struct robust_list_head *head;  // the C library's; NULL: not asked for yet
    uint32_t tid, pid;
    uint32_t count;
    held_lock held[ROBUST_LOCKS_MAX];  // in the order in which they were taken
} thread_locks;

static _Thread_local thread_locks here;
static pthread_once_t at_fork_once = PTHREAD_ONCE_INIT;

// The kernel has forgotten the list, and glibc has emptied it; musl has not.
static void
forget_in_child(void)
{
    if (here.count > 0) {
        here.head->list.next = &here.head->list;
    }
    here.head = NULL;
    here.count = 0;
}

static void
watch_forks(void)
{
    pthread_atfork(NULL, NULL, forget_in_child);
}

// musl tells the kernel of a thread's list when the thread takes its first robust mutex of several processes.
static void
register_list(void)
{
    pthread_mutexattr_t robust;
    pthread_mutex_t mutex;
    if (pthread_mutexattr_init(&robust) != 0) {
        return;
    }
    if (pthread_mutexattr_setrobust(&robust, PTHREAD_MUTEX_ROBUST) == 0
        && pthread_mutexattr_setpshared(&robust, PTHREAD_PROCESS_SHARED) == 0
        && pthread_mutex_init(&mutex, &robust) == 0) {
        if (pthread_mutex_lock(&mutex) == 0) {
            pthread_mutex_unlock(&mutex);
        }
        pthread_mutex_destroy(&mutex);
    }
    pthread_mutexattr_destroy(&robust);
}

// NULL: the system has no list of this thread, or one of another shape.
static struct robust_list_head *
find_list(void)
{
    struct robust_list_head *head = NULL;
    size_t size = 0;
    for (int tries = 0; tries < 2 && head == NULL; tries++) {
        if (tries > 0) {
            register_list();
        }
        if (syscall(SYS_get_robust_list, 0, &head, &size) < 0) {
            return NULL;
        }
    }
    return head != NULL && size == sizeof(*head) && head->futex_offset == WORD_OFFSET ? head : NULL;
}

static bool
begin(thread_locks *self)
{
    pthread_once(&at_fork_once, watch_forks);
    struct robust_list_head *head = find_list();
    if (head == NULL) {
        return false;
    }
    self->tid = (uint32_t)syscall(SYS_gettid);
    self->pid = (uint32_t)getpid();
    self->head = head;
    return true;
}

// Where it is costs a call, which the compiler would make again for each field.
static inline thread_locks *
find_here(void)
{
    thread_locks *self = &here;
    __asm__("" : "+r"(self));
    return self;
}

// NULL: as find_list().
static inline thread_locks *
this_thread(void)
{
    thread_locks *self = find_here();
    return self->head != NULL || begin(self) ? self : NULL;
}

// ---- the list ----

// Of the list only this thread writes, and the kernel reads it once the thread has ended: relaxed, as long as
// the compiler keeps the order.
static void
keep_order(void)
{
    __asm__ __volatile__("" ::: "memory");
}

static _Atomic uintptr_t *
first_of(thread_locks *self)
{
    return (_Atomic uintptr_t *)&self->head->list.next;
}

static void
set_pending(thread_locks *self, uintptr_t entry)
{
    keep_order();
    // Relaxed: see first_of().
    atomic_store_explicit((_Atomic uintptr_t *)&self->head->list_op_pending, entry, memory_order_relaxed);
    keep_order();
}

static uintptr_t
entry_of(const robust_lock *lock)
{
    return (uintptr_t)&lock->next;
}

// Beside each link to the next is one to the link before, except at the head, where musl has something else.
// The lowest bit is the C library's.
static _Atomic uintptr_t *
previous_of(uintptr_t entry)
{
    return (_Atomic uintptr_t *)((entry & ~(uintptr_t)1) - sizeof(uintptr_t));
}

static void
set_previous(thread_locks *self, uintptr_t entry, uintptr_t link)
{
    if (entry != (uintptr_t)first_of(self)) {
        // Relaxed: see first_of().
        atomic_store_explicit(previous_of(entry), link, memory_order_relaxed);
    }
}

static held_lock *
find_entry(thread_locks *self, uintptr_t entry)
{
    for (uint32_t i = self->count; i-- > 0;) {
        if (entry_of(self->held[i].lock) == entry) {
            return &self->held[i];
        }
    }
    return NULL;
}

static held_lock *
find_lock(thread_locks *self, const robust_lock *lock)
{
    return find_entry(self, entry_of(lock));
}

// What follows a lock.  If that was the head or a lock of ours it still is, whatever the memory says by now;
// the C library has written there only if what followed was a mutex of its own.
static uintptr_t
next_of(thread_locks *self, const held_lock *held)
{
    if (held->next == (uintptr_t)first_of(self) || find_entry(self, held->next) != NULL) {
        return held->next;
    }
    // Relaxed: see first_of().
    return atomic_load_explicit(&held->lock->next, memory_order_relaxed);
}

static void
join_list(thread_locks *self, robust_lock *lock)
{
    // All relaxed but the last: see first_of().
    uintptr_t next = atomic_load_explicit(first_of(self), memory_order_relaxed);
    atomic_store_explicit(&lock->next, next, memory_order_relaxed);
    atomic_store_explicit(&lock->previous, (uintptr_t)first_of(self), memory_order_relaxed);
    set_previous(self, next, entry_of(lock));
    keep_order();  // the list is whole whenever the kernel looks
    atomic_store_explicit(first_of(self), entry_of(lock), memory_order_relaxed);
    self->held[self->count++] = (held_lock){.lock = lock, .next = next, .hold = {.depth = 1}};
}

static void
leave_list(thread_locks *self, held_lock *held)
{
    uintptr_t entry = entry_of(held->lock);
    uintptr_t next = next_of(self, held);
    held_lock *before = NULL;
    _Atomic uintptr_t *link = first_of(self);
    for (int steps = 0; steps < STEPS_MAX; steps++) {
        // Relaxed: see first_of().
        uintptr_t at = before != NULL ? next_of(self, before)
                                      : atomic_load_explicit(link, memory_order_relaxed);
        if (at == entry) {
            atomic_store_explicit(link, next, memory_order_relaxed);
            set_previous(self, next, (uintptr_t)link);
            if (before != NULL) {
                before->next = next;
            }
            break;
        }
        link = (_Atomic uintptr_t *)(at & ~(uintptr_t)1);
        if (link == first_of(self)) {
            break;  // it is not there: somebody else has written to this thread's list
        }
        before = find_entry(self, at);
    }
    for (held_lock *end = &self->held[--self->count]; held < end; held++) {
        held[0] = held[1];
    }
}

// ---- the lock ----

// Sleeps once on a word that names a holder; it is read again then.
static int
sleep_on(robust_lock *lock, uint32_t *word, int64_t deadline_ns)
{
    if ((*word & FUTEX_WAITERS) == 0) {
        // Relaxed: the wait compares the word again.
        if (!atomic_compare_exchange_weak_explicit(&lock->word, word, *word | FUTEX_WAITERS,
                                                   memory_order_relaxed, memory_order_relaxed)) {
            return FUTEX_OK;
        }
        *word |= FUTEX_WAITERS;
    }
    int rc = futex_wait_shared(&lock->word, *word, deadline_ns);
    // Relaxed: it is compared again.
    *word = atomic_load_explicit(&lock->word, memory_order_relaxed);
    return rc;
}

int
robust_lock_acquire(robust_lock *lock, int64_t deadline_ns)
{
    thread_locks *self = this_thread();
    if (self == NULL || self->count == ROBUST_LOCKS_MAX) {
        return self == NULL ? ROBUST_LOCK_REFUSED : ROBUST_LOCK_TOO_MANY;
    }
    int rc;
    set_pending(self, entry_of(lock));
    // Relaxed: a compare-and-exchange follows, or a wait that compares.
    uint32_t word = atomic_load_explicit(&lock->word, memory_order_relaxed);
    for (;;) {
        if ((word & FUTEX_TID_MASK) == 0) {
            uint32_t waiters = (word & (FUTEX_WAITERS | FUTEX_OWNER_DIED)) != 0 ? FUTEX_WAITERS : 0;
            // A30: pairs with R30 in release(): the last holder has done what it did.
            if (atomic_compare_exchange_weak_explicit(&lock->word, &word, self->tid | waiters,
                                                      memory_order_acquire, memory_order_relaxed)) {
                break;
            }
            continue;
        }
        if (deadline_ns == ROBUST_LOCK_NO_WAIT) {
            set_pending(self, 0);
            return FUTEX_TIMED_OUT;
        }
        rc = sleep_on(lock, &word, deadline_ns);
        if (rc != FUTEX_OK) {
            set_pending(self, 0);
            return rc;
        }
    }
    join_list(self, lock);
    rc = (word & FUTEX_OWNER_DIED) != 0 ? ROBUST_LOCK_ABANDONED : ROBUST_LOCK_OK;
    uint32_t dead = 0;
    if (rc == ROBUST_LOCK_ABANDONED) {
        dead = atomic_load_explicit(&lock->holder, memory_order_relaxed);
        dead = dead == 0 ? ROBUST_LOCK_UNKNOWN : dead;
    }
    atomic_store_explicit(&lock->abandoned, dead, memory_order_relaxed);
    atomic_store_explicit(&lock->holder, self->pid, memory_order_relaxed);
    // Only the holder writes `turns`: relaxed.
    uint32_t turns = atomic_load_explicit(&lock->turns, memory_order_relaxed);
    atomic_store_explicit(&lock->turns, (turns | TURNS_MARK) + ONE_TURN, memory_order_relaxed);
    set_pending(self, 0);
    return rc;
}

// Nobody sleeps: the next release need not call the kernel, unless somebody has held the lock since.
static void
clear_waiters(robust_lock *lock, uint32_t turns)
{
    enum {
        WORD = offsetof(robust_lock, word) / 4,
        TURNS = offsetof(robust_lock, turns) / 4
    };
    union {
        uint32_t parts[2];
        uint64_t both;
    } now = {.parts = {[WORD] = FUTEX_WAITERS, [TURNS] = turns}};
    union {
        uint32_t parts[2];
        uint64_t both;
    } wanted = {.parts = {[WORD] = 0, [TURNS] = turns}};
    // Relaxed: the word stays free, and R30 has come before.
    atomic_compare_exchange_strong_explicit(&lock->both, &now.both, wanted.both, memory_order_relaxed,
                                            memory_order_relaxed);
}

static void
release(thread_locks *self, held_lock *held)
{
    robust_lock *lock = held->lock;
    set_pending(self, entry_of(lock));
    leave_list(self, held);
    atomic_store_explicit(&lock->holder, 0, memory_order_relaxed);
    // Only the holder writes `turns`: relaxed.
    uint32_t turns = atomic_load_explicit(&lock->turns, memory_order_relaxed);
    // R30: pairs with A30 in robust_lock_acquire() and A50 in robust_lock_is_free().  It acquires too, so
    // that what follows comes after.
    uint32_t word = atomic_fetch_and_explicit(&lock->word, FUTEX_WAITERS, memory_order_acq_rel);
    if ((word & FUTEX_WAITERS) != 0 && futex_wake_shared(&lock->word, 1) == 0) {
        clear_waiters(lock, turns);
    }
    set_pending(self, 0);
}

int
robust_lock_release(robust_lock *lock)
{
    thread_locks *self = find_here();
    held_lock *held = find_lock(self, lock);
    if (held == NULL) {
        return ROBUST_LOCK_NOT_HELD;
    }
    release(self, held);
    return ROBUST_LOCK_OK;
}

void
robust_hold_release(robust_hold *hold)
{
    release(find_here(), (held_lock *)((char *)hold - offsetof(held_lock, hold)));
}

uint32_t
robust_lock_process(void)
{
    thread_locks *self = this_thread();
    return self == NULL ? (uint32_t)getpid() : self->pid;
}

uint32_t
robust_lock_owner(const robust_lock *lock)
{
    // Relaxed: it may change at once.
    uint32_t holder = atomic_load_explicit(&lock->holder, memory_order_relaxed);
    return robust_lock_is_taken(lock) ? holder : 0;
}

bool
robust_lock_is_taken(const robust_lock *lock)
{
    // Relaxed: it may change at once.
    return (atomic_load_explicit(&lock->word, memory_order_relaxed) & FUTEX_TID_MASK) != 0;
}

bool
robust_lock_is_free(const robust_lock *lock)
{
    // A50: pairs with R30 in release(): the last holder has done what it did.
    uint32_t word = atomic_load_explicit(&lock->word, memory_order_acquire);
    return (word & (FUTEX_TID_MASK | FUTEX_OWNER_DIED)) == 0;
}

robust_hold *
robust_lock_hold(const robust_lock *lock)
{
    held_lock *held = find_lock(find_here(), lock);
    return held == NULL ? NULL : &held->hold;
}

int
robust_lock_await(robust_lock *lock)
{
    thread_locks *self = this_thread();
    if (self == NULL) {
        return ROBUST_LOCK_REFUSED;
    }
    set_pending(self, entry_of(lock));
    // Relaxed: nothing is done with what it guards.
    uint32_t word = atomic_load_explicit(&lock->word, memory_order_relaxed);
    while ((word & FUTEX_TID_MASK) != 0) {
        int rc = sleep_on(lock, &word, FUTEX_NO_DEADLINE);
        if (rc != FUTEX_OK) {
            set_pending(self, 0);
            return rc;
        }
    }
    return ROBUST_LOCK_OK;
}

void
robust_lock_pass(robust_lock *lock)
{
    // Relaxed: whoever has taken it since wakes the next in turn, as WAITERS stays set while somebody sleeps.
    uint32_t word = atomic_load_explicit(&lock->word, memory_order_relaxed);
    if ((word & FUTEX_TID_MASK) == 0 && (word & FUTEX_WAITERS) != 0) {
        futex_wake_shared(&lock->word, 1);
    }
    set_pending(&here, 0);
}

bool
robust_bell_ready(_Atomic uint32_t *bell)
{
    thread_locks *self = this_thread();
    if (self == NULL) {
        return false;
    }
    set_pending(self, (uintptr_t)bell - (uintptr_t)WORD_OFFSET);
    return true;
}

void
robust_bell_done(void)
{
    set_pending(&here, 0);
}
