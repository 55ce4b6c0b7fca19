#include "workq.h"

#include <stddef.h>

#include "clock.h"

static void
forget_workers(workq *q)
{
    pthread_mutex_init(&q->lock, NULL);
    // Relaxed: no other thread has the queue yet, or the threads that had it did not survive the fork.
    atomic_store_explicit(&q->workers, 0, memory_order_relaxed);
    q->idle = q->spinning = q->searching = q->sleeping = q->chosen = 0;
    park_spot_init(&q->spot, 1);
}

void
workq_init(workq *q, uint32_t max_workers)
{
    node_list_init(&q->nodes);
    q->max_workers = max_workers;
    q->closed = false;
    atomic_init(&q->length, 0);
    atomic_init(&q->signal, 0);
    forget_workers(q);
}

void
workq_fini(workq *q)
{
    pthread_mutex_destroy(&q->lock);
}

void
workq_after_fork(workq *q)
{
    forget_workers(q);
}

// Relaxed: only a thread that holds the lock changes a count, and those that read it without the lock take it
// for a hint.
static void
add(_Atomic uint32_t *count, int change)
{
    uint32_t value = atomic_load_explicit(count, memory_order_relaxed);
    atomic_store_explicit(count, value + (uint32_t)change, memory_order_relaxed);
}

static void
change_signal(workq *q)
{
    // R1: pairs with A1 in look() and in park_sleep().  The load is relaxed because the lock orders the
    // writers.
    uint32_t signal = atomic_load_explicit(&q->signal, memory_order_relaxed);
    atomic_store_explicit(&q->signal, signal + 1, memory_order_release);
}

// With the lock held and work in the queue: true if the caller must wake a sleeper with futex_wake() once it
// has released the lock.
static bool
choose_sleeper(workq *q)
{
    if (q->spinning > 0) {
        change_signal(q);
        return false;
    }
    if (q->searching > 0 || q->sleeping == 0) {
        return false;
    }
    q->sleeping--;
    q->chosen++;
    q->searching++;
    change_signal(q);
    return true;
}

int
workq_push(workq *q, list_node *node)
{
    bool wake;
    int rc = WORKQ_OK;

    pthread_mutex_lock(&q->lock);
    if (q->closed) {
        pthread_mutex_unlock(&q->lock);
        return WORKQ_CLOSED;
    }
    node_list_append(&q->nodes, node);
    add(&q->length, 1);
    wake = choose_sleeper(q);
    if (workq_length(q) > q->idle && workq_workers(q) < q->max_workers) {
        rc = WORKQ_SHORT;
    }
    pthread_mutex_unlock(&q->lock);
    if (wake) {
        futex_wake(&q->signal, 1);
    }
    return rc;
}

bool
workq_reserve_worker(workq *q)
{
    pthread_mutex_lock(&q->lock);
    bool wanted = workq_length(q) > q->idle && workq_workers(q) < q->max_workers
                  && (!q->closed || workq_workers(q) == 0);
    if (wanted) {
        add(&q->workers, 1);
        q->idle++;
    }
    pthread_mutex_unlock(&q->lock);
    return wanted;
}

void
workq_join(workq *q)
{
    pthread_mutex_lock(&q->lock);
    add(&q->workers, 1);
    q->idle++;
    pthread_mutex_unlock(&q->lock);
}

void
workq_set_max_workers(workq *q, uint32_t max_workers)
{
    pthread_mutex_lock(&q->lock);
    q->max_workers = max_workers;
    pthread_mutex_unlock(&q->lock);
}

uint32_t
workq_idle(workq *q)
{
    pthread_mutex_lock(&q->lock);
    uint32_t idle = q->idle;
    pthread_mutex_unlock(&q->lock);
    return idle;
}

list_node *
workq_pop(workq *q, workq_worker *worker)
{
    bool wake = false;
    pthread_mutex_lock(&q->lock);
    if (worker->searching) {
        worker->searching = false;
        q->searching--;
    }
    list_node *node = node_list_pop(&q->nodes);
    if (node != NULL) {
        add(&q->length, -1);
        if (worker->idle) {
            worker->idle = false;
            q->idle--;
        }
        if (!node_list_is_empty(&q->nodes)) {
            wake = choose_sleeper(q);
        }
    }
    else if (!worker->idle) {
        worker->idle = true;
        q->idle++;
    }
    pthread_mutex_unlock(&q->lock);
    if (wake) {
        futex_wake(&q->signal, 1);
    }
    return node;
}

// Takes a node out, unless idle workers are there for it.
static bool
take_out(workq *q, list_node **place, bool in_any_case)
{
    pthread_mutex_lock(&q->lock);
    bool taken = in_any_case || workq_length(q) > q->idle;
    if (taken) {
        node_list_remove(&q->nodes, place);
        add(&q->length, -1);
    }
    pthread_mutex_unlock(&q->lock);
    return taken;
}

bool
workq_take_out(workq *q, list_node **place)
{
    return take_out(q, place, false);
}

void
workq_withdraw(workq *q, list_node **place)
{
    take_out(q, place, true);
}

// Sleeps until chosen, or until the deadline: false.  Called and left with the lock held.
static bool
sleep_until_chosen(workq *q, workq_worker *worker, int64_t deadline_ns)
{
    int64_t start = clock_now_ns();
    worker->slept = true;
    q->sleeping++;
    for (;;) {
        // Relaxed: the word is written under the lock, which this thread holds.
        uint32_t signal = atomic_load_explicit(&q->signal, memory_order_relaxed);
        pthread_mutex_unlock(&q->lock);
        int rc = futex_wait(&q->signal, signal, deadline_ns);
        pthread_mutex_lock(&q->lock);
        // Wakeups are tokens, addressed to no one: the first thread that comes back takes one, whatever woke
        // it.
        if (q->chosen > 0) {
            q->chosen--;
            worker->searching = true;
            break;
        }
        if (rc == FUTEX_TIMED_OUT) {
            q->sleeping--;
            break;
        }
    }
    park_learn(&q->spot, clock_now_ns() - start);
    return worker->searching;
}

int
workq_wait(workq *q, workq_worker *worker, int64_t deadline_ns)
{
    bool in_time = true;
    worker->slept = false;
    pthread_mutex_lock(&q->lock);
    while (in_time && node_list_is_empty(&q->nodes) && !q->closed) {
        if (worker->searching) {
            worker->searching = false;
            q->searching--;
        }
        if (q->spinning == 0) {
            // Relaxed: the word is written under the lock, which this thread holds.
            uint32_t signal = atomic_load_explicit(&q->signal, memory_order_relaxed);
            q->spinning++;
            pthread_mutex_unlock(&q->lock);
            park_spin(&q->spot, &q->signal, signal, deadline_ns);
            pthread_mutex_lock(&q->lock);
            q->spinning--;
            if (!node_list_is_empty(&q->nodes) || q->closed) {
                break;
            }
        }
        in_time = sleep_until_chosen(q, worker, deadline_ns);
    }
    if (!worker->searching) {
        worker->searching = true;
        q->searching++;
    }
    int rc = !node_list_is_empty(&q->nodes) ? WORKQ_OK : q->closed ? WORKQ_CLOSED
                                                                   : WORKQ_TIMED_OUT;
    pthread_mutex_unlock(&q->lock);
    return rc;
}

// With the lock held.
static void
forget_worker(workq *q, const workq_worker *worker)
{
    if (worker->searching) {
        q->searching--;
    }
    if (worker->idle) {
        q->idle--;
    }
    add(&q->workers, -1);
}

void
workq_leave(workq *q, workq_worker *worker)
{
    pthread_mutex_lock(&q->lock);
    forget_worker(q, worker);
    // A searcher that leaves may have been the only one on its way to what is queued.
    bool wake = !node_list_is_empty(&q->nodes) && choose_sleeper(q);
    pthread_mutex_unlock(&q->lock);
    if (wake) {
        futex_wake(&q->signal, 1);
    }
}

bool
workq_retire(workq *q, workq_worker *worker)
{
    pthread_mutex_lock(&q->lock);
    bool leaves = node_list_is_empty(&q->nodes);
    if (leaves) {
        forget_worker(q, worker);
    }
    pthread_mutex_unlock(&q->lock);
    return leaves;
}

void
workq_close(workq *q)
{
    pthread_mutex_lock(&q->lock);
    q->closed = true;
    q->chosen += q->sleeping;
    q->searching += q->sleeping;
    q->sleeping = 0;
    change_signal(q);
    pthread_mutex_unlock(&q->lock);
    futex_wake_all(&q->signal);
}

list_node *
workq_take_all(workq *q)
{
    pthread_mutex_lock(&q->lock);
    list_node *all = node_list_take(&q->nodes);
    atomic_store_explicit(&q->length, 0, memory_order_relaxed);  // as in add(), under the lock
    pthread_mutex_unlock(&q->lock);
    return all;
}
