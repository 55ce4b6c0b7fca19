// robust_lock: a lock in shared memory that the kernel takes from a thread that ends.
//
// Each thread has told the kernel of a list of the locks that it holds: the C library has, for its robust
// mutexes, and these locks join that list.  When a thread ends, however it ends, the kernel walks the list,
// marks each lock whose word names the thread as left by its dead owner, and wakes one of its waiters.
// So no process watches another, nothing polls, and a number that is given to a new thread is not mistaken
// for the old one.
//
//     word         low 30 bits: the thread that holds it, 0: nobody
//                  WAITERS:     some thread may sleep on the word
//                  OWNER_DIED:  set by the kernel alone; the next to take the lock is told
//
//     taking       pending = lock; word 0 -> own number; the lock joins the list; pending = none
//     releasing    pending = lock; the lock leaves the list; word -> 0; a sleeper is woken; pending = none
//     waiting      pending = lock; sleep on the word
//
// `pending` is a field that the kernel reads as well: it treats a thread that dies in the middle of a step as
// a holder if the word names it, and if the word names nobody it wakes one sleeper, in place of the one that
// was woken and died, or of the wake that was not sent.  (Of a word with WAITERS the kernel does so since
// Linux 6.2, and those before to which that was carried back.)
//
// WAITERS stays set when a lock is released, so that whoever comes in between the woken and the lock wakes
// the others in turn.  The releaser clears it when nobody slept and nobody has held the lock since:
// `turns` counts that.
//
// Who may write: `word` as above; the rest of the lock its holder only.  The links are written by its holder,
// and by the C library in that thread when a mutex of its own joins or leaves beside.  A holder believes no
// link that it can know: a stray write must not make it write anywhere.  So a lock belongs to the thread that
// took it, and no other can release it.
//
// fork(): the child's thread holds nothing.  Locks must stay mapped as long as a thread holds them.  A lock
// of zeros is free.  All functions may be called from any thread.  No Python.
#ifndef PYCONC_ROBUST_LOCK_H
#define PYCONC_ROBUST_LOCK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// How many a thread can hold at once.
#define ROBUST_LOCKS_MAX 64

// As a deadline: do not sleep.
#define ROBUST_LOCK_NO_WAIT INT64_MIN

// As `abandoned`: the holder died before it could say who it was.
#define ROBUST_LOCK_UNKNOWN UINT32_MAX

enum {
    ROBUST_LOCK_OK = 0,          // or FUTEX_TIMED_OUT, FUTEX_INTERRUPTED
    ROBUST_LOCK_ABANDONED = 1,   // taken, from a thread that ended while it held the lock
    ROBUST_LOCK_NOT_HELD = -10,  // by this thread
    ROBUST_LOCK_TOO_MANY = -11,  // the thread holds ROBUST_LOCKS_MAX
    ROBUST_LOCK_REFUSED = -12,   // the system, or the C library, has no such list
};

typedef struct robust_lock {
    union {
        struct {
#ifndef __GLIBC__
            _Atomic uint32_t turns;
#endif
            _Atomic uint32_t word;  // see above
#ifdef __GLIBC__
            _Atomic uint32_t turns;  // how often it was taken; written by its holder
#endif
        };
        _Atomic uint64_t both;
    };
    _Atomic uint32_t holder;     // the holder's process, for its successor after its death; in order with the
                                 // word, so relaxed everywhere
    _Atomic uint32_t abandoned;  // 0, or the process from which the holder got it by death; the holder reads
                                 // what it wrote, so relaxed everywhere
    uint64_t unused;
    _Atomic uintptr_t previous;  // the links, as the C library has them in its mutexes
    _Atomic uintptr_t next;
} robust_lock;

_Static_assert(offsetof(robust_lock, previous) == 24 && offsetof(robust_lock, next) == 32, "as mutexes");
_Static_assert(sizeof(_Atomic uint64_t) == 8 && sizeof(robust_lock) == 40, "shared between processes");

// Takes the lock, and sleeps for it until the deadline on the clock of clock_now_ns().
int robust_lock_acquire(robust_lock *lock, int64_t deadline_ns);

// ROBUST_LOCK_OK, or ROBUST_LOCK_NOT_HELD.
int robust_lock_release(robust_lock *lock);

// This process's number.
uint32_t robust_lock_process(void);

// The process that holds it now; 0: nobody does, or it has not said so yet.
uint32_t robust_lock_owner(const robust_lock *lock);

// Whether some thread holds it now.
bool robust_lock_is_taken(const robust_lock *lock);

// Whether nobody holds it, or has died with it, and all that its holders did can be seen.
bool robust_lock_is_free(const robust_lock *lock);

// How this thread holds the lock, for its user to keep.
typedef struct robust_hold {
    uint32_t depth;  // how often it has entered it: 1 after robust_lock_acquire()
    void *owner;     // which of its tasks has: NULL after that
} robust_hold;

// NULL: this thread does not hold it.  It moves when the thread releases another.
robust_hold *robust_lock_hold(const robust_lock *lock);

// Releases the lock of which this thread has this hold, however deep that is.
void robust_hold_release(robust_hold *hold);

// Sleeps until nobody holds the lock, and does not take it: ROBUST_LOCK_OK, or as robust_lock_acquire().
// After ROBUST_LOCK_OK this thread is the one that was woken.  Nobody else is, unless somebody takes the lock
// and releases it, until it calls robust_lock_pass(), or ends.  It takes and releases no lock in between.
int robust_lock_await(robust_lock *lock);

// Wakes the next that waits, if the lock is still free.
void robust_lock_pass(robust_lock *lock);

// From here to robust_bell_done(): if this thread ends, the kernel wakes one thread that sleeps on the word.
// The low 30 bits of the word are always 0.  No lock is taken or released in between.
bool robust_bell_ready(_Atomic uint32_t *bell);
void robust_bell_done(void);

#endif
