// Tests of core/workq: the queue, the counts of its workers, and which is woken when.
//
// Counts are forged by hand where a rule has to be seen alone: a sleeper that is only a number shows
// whether a push would choose one.  Where threads are needed, each blocks in one workq_wait(); the test plays
// the rest of the worker's part itself, so nothing happens but what it does.
#define _GNU_SOURCE
#include "check.h"

#include <sys/wait.h>

#include "core/clock.h"
#include "core/workq.h"

#define NODES 5

typedef struct worker_counts {
    uint32_t length, workers, idle, spinning, searching, sleeping, chosen, signal;
    bool closed;
} worker_counts;

static worker_counts
look(workq *q)
{
    pthread_mutex_lock(&q->lock);
    worker_counts all = {
        .length = workq_length(q),
        .workers = q->workers,
        .idle = q->idle,
        .spinning = q->spinning,
        .searching = q->searching,
        .sleeping = q->sleeping,
        .chosen = q->chosen,
        .signal = atomic_load(&q->signal),
        .closed = q->closed,
    };
    pthread_mutex_unlock(&q->lock);
    return all;
}

static void
check_idle_counts(workq *q, uint32_t spinning, uint32_t searching, uint32_t sleeping,
                  uint32_t chosen, const char *text)
{
    worker_counts now = look(q);
    check_equal(now.spinning, spinning, text);
    check_equal(now.searching, searching, text);
    check_equal(now.sleeping, sleeping, text);
    check_equal(now.chosen, chosen, text);
}

#define CHECK_IDLE(q, spinning, searching, sleeping, chosen)                                 \
    check_idle_counts(q, spinning, searching, sleeping, chosen,                              \
                      CHECK_HERE #spinning " spinning, " #searching " searching, " #sleeping \
                                           " sleeping, " #chosen " chosen")

// A queue whose idle workers sleep without spinning.
static void
init_queue(workq *q, uint32_t max_workers)
{
    workq_init(q, max_workers);
    q->spot.most_spinning = 0;
}

// The next to spin there does so until it is told.
static void
spin_for_ever(workq *q)
{
    q->spot.most_spinning = 1;
    atomic_store(&q->spot.spin_ns, UINT32_MAX);
}

static void
push_all(workq *q, list_node *nodes, int count)
{
    for (int i = 0; i < count; i++) {
        CHECK(workq_push(q, &nodes[i]) >= 0);
    }
}

// Counts one more worker: one that is starting.
static workq_worker
hire(workq *q)
{
    workq_worker worker = WORKQ_WORKER_INIT;
    pthread_mutex_lock(&q->lock);
    q->workers++;
    q->idle++;
    pthread_mutex_unlock(&q->lock);
    return worker;
}

// While there is one, no push wakes a sleeper.
static void
add_searchers(workq *q, int change)
{
    pthread_mutex_lock(&q->lock);
    q->searching += (uint32_t)change;
    pthread_mutex_unlock(&q->lock);
}

// ---- workers that wait ----

typedef struct waiter {
    check_thread thread;
    workq *q;
    workq_worker worker;
    int rc;
} waiter;

static void
wait_once(void *arg)
{
    waiter *self = arg;
    self->rc = workq_wait(self->q, &self->worker, FUTEX_NO_DEADLINE);
}

static void
start_worker(waiter *self, workq *q)
{
    self->q = q;
    self->worker = hire(q);
    check_start(&self->thread, wait_once, self);
}

static bool
is_asleep(waiter *self)
{
    return check_asleep(&self->thread, &self->q->signal);
}

static void
start_sleeper(waiter *self, workq *q)
{
    start_worker(self, q);
    CHECK_UNTIL(is_asleep(self));
}

// The worker's wait is over, with rc.
static void
check_waited(waiter *self, int rc)
{
    check_join(&self->thread);
    CHECK_EQ(self->rc, rc);
    CHECK(self->worker.searching);
    CHECK(self->worker.idle);
}

// Closes the queue under a worker that waits.
static void
close_and_leave(workq *q, waiter *self)
{
    workq_close(q);
    check_waited(self, WORKQ_CLOSED);
    workq_leave(q, &self->worker);
}

// ---- the queue ----

static void
nodes_come_out_in_the_order_they_went_in(void)
{
    workq q;
    list_node nodes[NODES];
    init_queue(&q, 1);
    workq_worker worker = hire(&q);
    CHECK_EQ(workq_length(&q), 0);
    push_all(&q, nodes, NODES);
    for (int i = 0; i < NODES; i++) {
        CHECK_EQ(workq_length(&q), NODES - i);
        CHECK(workq_pop(&q, &worker) == &nodes[i]);
    }
    CHECK_EQ(workq_length(&q), 0);
    CHECK(workq_pop(&q, &worker) == NULL);
    // The tail is right again after the queue ran empty.
    push_all(&q, nodes, 2);
    CHECK(workq_pop(&q, &worker) == &nodes[0]);
    CHECK(workq_pop(&q, &worker) == &nodes[1]);
    CHECK(workq_pop(&q, &worker) == NULL);
    workq_fini(&q);
}

static void
a_node_may_be_taken_out_from_anywhere(void)
{
    for (int out = 0; out < 3; out++) {
        workq q;
        list_node nodes[4];
        init_queue(&q, 1);
        workq_worker worker = hire(&q);
        push_all(&q, nodes, 3);
        CHECK(workq_take_out(&q, out == 0 ? &q.nodes.first : &nodes[out - 1].next));
        CHECK_EQ(workq_length(&q), 2);
        // The tail is right, also when the last one was taken.
        CHECK_EQ(workq_push(&q, &nodes[3]), WORKQ_OK);
        for (int i = 0; i < 4; i++) {
            if (i != out) {
                CHECK(workq_pop(&q, &worker) == &nodes[i]);
            }
        }
        CHECK(workq_pop(&q, &worker) == NULL);
        workq_fini(&q);
    }
}

static void
a_node_for_which_a_worker_is_idle_is_left_to_it(void)
{
    workq q;
    list_node nodes[2];
    init_queue(&q, 1);
    workq_worker worker = hire(&q);
    push_all(&q, nodes, 1);
    CHECK(!workq_take_out(&q, &q.nodes.first));
    CHECK(workq_pop(&q, &worker) == &nodes[0]);
    push_all(&q, nodes + 1, 1);
    CHECK(workq_take_out(&q, &q.nodes.first));
    CHECK_EQ(workq_length(&q), 0);
    CHECK(workq_pop(&q, &worker) == NULL);
    workq_fini(&q);
}

static void
a_node_that_nobody_is_to_pop_is_withdrawn_from_an_idle_worker_too(void)
{
    workq q;
    list_node nodes[2];
    init_queue(&q, 1);
    workq_worker worker = hire(&q);
    push_all(&q, nodes, 2);
    workq_withdraw(&q, &q.nodes.first);
    CHECK_EQ(workq_length(&q), 1);
    workq_withdraw(&q, &q.nodes.first);
    CHECK_EQ(workq_length(&q), 0);
    CHECK(workq_pop(&q, &worker) == NULL);
    push_all(&q, nodes, 1);
    CHECK(workq_pop(&q, &worker) == &nodes[0]);
    workq_fini(&q);
}

static void
a_closed_queue_refuses_but_drains(void)
{
    workq q;
    list_node nodes[3];
    init_queue(&q, 1);
    workq_worker worker = hire(&q);
    push_all(&q, nodes, 2);
    workq_close(&q);
    CHECK_EQ(workq_push(&q, &nodes[2]), WORKQ_CLOSED);
    CHECK_EQ(workq_length(&q), 2);
    CHECK_EQ(workq_wait(&q, &worker, FUTEX_NO_DEADLINE), WORKQ_OK);
    CHECK(workq_pop(&q, &worker) == &nodes[0]);
    CHECK(workq_pop(&q, &worker) == &nodes[1]);
    CHECK(workq_pop(&q, &worker) == NULL);
    CHECK_EQ(workq_wait(&q, &worker, FUTEX_NO_DEADLINE), WORKQ_CLOSED);
    workq_leave(&q, &worker);
    CHECK_EQ(workq_workers(&q), 0);
    workq_close(&q);
    CHECK_EQ(workq_push(&q, &nodes[2]), WORKQ_CLOSED);
    workq_fini(&q);
}

static void
a_closed_queue_still_gives_nodes_back(void)
{
    workq q;
    list_node nodes[2];
    init_queue(&q, 1);
    push_all(&q, nodes, 2);
    workq_close(&q);
    CHECK(workq_take_all(&q) == &nodes[0]);
    CHECK(nodes[0].next == &nodes[1]);
    CHECK_EQ(workq_length(&q), 0);
    workq_fini(&q);
}

static void
take_all_takes_everything_in_order(void)
{
    workq q;
    list_node nodes[NODES];
    init_queue(&q, 1);
    workq_worker worker = hire(&q);
    CHECK(workq_take_all(&q) == NULL);
    push_all(&q, nodes, NODES);
    list_node *node = workq_take_all(&q);
    for (int i = 0; i < NODES; i++) {
        CHECK(node == &nodes[i]);
        node = node->next;
    }
    CHECK(node == NULL);
    CHECK_EQ(workq_length(&q), 0);
    CHECK(workq_take_all(&q) == NULL);
    push_all(&q, nodes, 1);
    CHECK(workq_pop(&q, &worker) == &nodes[0]);
    workq_fini(&q);
}

// ---- the counts ----

static void
a_new_queue_counts_nothing(void)
{
    workq q;
    workq_init(&q, 3);
    CHECK_EQ(workq_length(&q), 0);
    CHECK_EQ(workq_workers(&q), 0);
    CHECK_EQ(look(&q).idle, 0);
    CHECK(!look(&q).closed);
    CHECK_IDLE(&q, 0, 0, 0, 0);
    CHECK(q.spot.most_spinning <= 1);
    workq_fini(&q);
}

static void
a_worker_is_wanted_while_work_outnumbers_the_idle(void)
{
    workq q;
    list_node nodes[4];
    init_queue(&q, 2);
    CHECK(!workq_reserve_worker(&q));  // no work
    CHECK_EQ(workq_push(&q, &nodes[0]), WORKQ_SHORT);
    CHECK(workq_reserve_worker(&q));
    CHECK_EQ(workq_workers(&q), 1);
    CHECK_EQ(look(&q).idle, 1);
    CHECK(!workq_reserve_worker(&q));  // one node, and one worker on its way
    CHECK_EQ(workq_push(&q, &nodes[1]), WORKQ_SHORT);
    CHECK_EQ(workq_push(&q, &nodes[2]), WORKQ_SHORT);
    CHECK(workq_reserve_worker(&q));
    CHECK_EQ(workq_workers(&q), 2);
    CHECK_EQ(look(&q).idle, 2);
    CHECK(!workq_reserve_worker(&q));  // three nodes, but no more are allowed
    CHECK_EQ(workq_push(&q, &nodes[3]), WORKQ_OK);
    workq_fini(&q);
}

static void
a_closed_queue_wants_one_worker_for_what_it_holds(void)
{
    workq q;
    list_node nodes[2];
    init_queue(&q, 2);
    push_all(&q, nodes, 2);
    workq_close(&q);
    CHECK(workq_reserve_worker(&q));
    CHECK(!workq_reserve_worker(&q));  // one is enough to drain it
    workq_worker worker = WORKQ_WORKER_INIT;
    workq_leave(&q, &worker);
    CHECK(workq_reserve_worker(&q));
    CHECK(workq_pop(&q, &worker) == &nodes[0]);
    CHECK(workq_pop(&q, &worker) == &nodes[1]);
    CHECK(workq_pop(&q, &worker) == NULL);
    workq_leave(&q, &worker);
    CHECK(!workq_reserve_worker(&q));
    workq_fini(&q);
}

static void
an_idle_worker_is_used_before_another_starts(void)
{
    workq q;
    list_node nodes[2];
    init_queue(&q, 2);
    hire(&q);
    CHECK_EQ(workq_push(&q, &nodes[0]), WORKQ_OK);
    CHECK(!workq_reserve_worker(&q));
    CHECK_EQ(workq_push(&q, &nodes[1]), WORKQ_SHORT);
    CHECK(workq_reserve_worker(&q));
    workq_fini(&q);
}

static void
a_worker_is_busy_from_one_pop_to_the_next_empty_one(void)
{
    workq q;
    list_node nodes[3];
    init_queue(&q, 2);
    workq_worker worker = hire(&q);
    CHECK(workq_pop(&q, &worker) == NULL);
    CHECK(worker.idle);
    CHECK_EQ(look(&q).idle, 1);
    push_all(&q, nodes, 2);
    CHECK(workq_pop(&q, &worker) == &nodes[0]);
    CHECK(!worker.idle);
    CHECK_EQ(look(&q).idle, 0);
    // It is busy: what is queued is one too many.
    CHECK(workq_pop(&q, &worker) == &nodes[1]);
    CHECK(!worker.idle);
    CHECK_EQ(look(&q).idle, 0);
    CHECK_EQ(workq_push(&q, &nodes[2]), WORKQ_SHORT);
    CHECK(workq_pop(&q, &worker) == &nodes[2]);
    CHECK(workq_pop(&q, &worker) == NULL);
    CHECK(worker.idle);
    CHECK_EQ(look(&q).idle, 1);
    CHECK(workq_pop(&q, &worker) == NULL);
    CHECK_EQ(look(&q).idle, 1);
    CHECK_EQ(workq_workers(&q), 1);
    workq_fini(&q);
}

static void
a_reserved_worker_that_never_began_leaves(void)
{
    workq q;
    list_node node;
    init_queue(&q, 1);
    CHECK_EQ(workq_push(&q, &node), WORKQ_SHORT);
    CHECK(workq_reserve_worker(&q));
    CHECK(!workq_reserve_worker(&q));
    workq_worker worker = WORKQ_WORKER_INIT;
    workq_leave(&q, &worker);
    CHECK_EQ(workq_workers(&q), 0);
    CHECK_EQ(look(&q).idle, 0);
    CHECK_IDLE(&q, 0, 0, 0, 0);
    // The work is still there, and so is the wish for a worker.
    CHECK(workq_reserve_worker(&q));
    workq_fini(&q);
}

static void
a_worker_retires_unless_there_is_work(void)
{
    workq q;
    list_node nodes[2];
    init_queue(&q, 2);
    workq_worker idle = hire(&q);
    CHECK_EQ(workq_wait(&q, &idle, clock_now_ns()), WORKQ_TIMED_OUT);
    // It was counted on for this one.
    CHECK_EQ(workq_push(&q, &nodes[0]), WORKQ_OK);
    CHECK(!workq_retire(&q, &idle));
    CHECK(workq_pop(&q, &idle) == &nodes[0]);
    CHECK(workq_pop(&q, &idle) == NULL);
    CHECK_EQ(workq_wait(&q, &idle, clock_now_ns()), WORKQ_TIMED_OUT);
    CHECK(workq_retire(&q, &idle));
    CHECK_EQ(workq_workers(&q), 0);
    CHECK_EQ(look(&q).idle, 0);
    CHECK_IDLE(&q, 0, 0, 0, 0);
    CHECK_EQ(workq_push(&q, &nodes[1]), WORKQ_SHORT);
    CHECK(workq_reserve_worker(&q));
    workq_fini(&q);
}

static void
a_worker_may_leave_in_every_state(void)
{
    workq q;
    list_node nodes[2];
    init_queue(&q, 3);
    workq_worker starting = hire(&q);
    workq_worker searching = hire(&q);
    workq_worker busy = hire(&q);
    push_all(&q, nodes, 2);
    CHECK_EQ(workq_wait(&q, &searching, FUTEX_NO_DEADLINE), WORKQ_OK);
    CHECK(workq_pop(&q, &busy) == &nodes[0]);
    CHECK_EQ(look(&q).idle, 2);
    CHECK_EQ(look(&q).searching, 1);

    workq_leave(&q, &busy);
    CHECK_EQ(workq_workers(&q), 2);
    CHECK_EQ(look(&q).idle, 2);
    workq_leave(&q, &searching);
    CHECK_EQ(workq_workers(&q), 1);
    CHECK_EQ(look(&q).idle, 1);
    CHECK_EQ(look(&q).searching, 0);
    workq_leave(&q, &starting);
    CHECK_EQ(workq_workers(&q), 0);
    CHECK_EQ(look(&q).idle, 0);
    CHECK_EQ(workq_length(&q), 1);
    workq_fini(&q);
}

static void
a_wait_with_work_queued_searches_until_it_pops(void)
{
    workq q;
    list_node nodes[2];
    init_queue(&q, 1);
    workq_worker worker = hire(&q);
    push_all(&q, nodes, 2);
    // Twice: it may come back without having popped.
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(workq_wait(&q, &worker, FUTEX_NO_DEADLINE), WORKQ_OK);
        CHECK(worker.searching);
        CHECK_IDLE(&q, 0, 1, 0, 0);
    }
    CHECK(workq_pop(&q, &worker) == &nodes[0]);
    CHECK(!worker.searching);
    CHECK_IDLE(&q, 0, 0, 0, 0);
    CHECK(workq_pop(&q, &worker) == &nodes[1]);
    CHECK(workq_pop(&q, &worker) == NULL);
    // What it saw may be gone.
    push_all(&q, nodes, 1);
    CHECK_EQ(workq_wait(&q, &worker, FUTEX_NO_DEADLINE), WORKQ_OK);
    CHECK(workq_take_all(&q) == &nodes[0]);
    CHECK(workq_pop(&q, &worker) == NULL);
    CHECK(!worker.searching);
    CHECK(worker.idle);
    CHECK_EQ(look(&q).idle, 1);
    CHECK_IDLE(&q, 0, 0, 0, 0);
    workq_fini(&q);
}

// ---- which worker is woken; the sleepers are numbers ----

static void
a_push_chooses_one_sleeper(void)
{
    workq q;
    list_node nodes[2];
    init_queue(&q, 3);
    q.sleeping = 3;
    uint32_t before = look(&q).signal;
    push_all(&q, &nodes[0], 1);
    CHECK_IDLE(&q, 0, 1, 2, 1);
    CHECK_EQ(look(&q).signal, before + 1);
    // The chosen one is on its way: it will see this one too.
    push_all(&q, &nodes[1], 1);
    CHECK_IDLE(&q, 0, 1, 2, 1);
    CHECK_EQ(look(&q).signal, before + 1);
    workq_fini(&q);
}

static void
a_push_chooses_no_sleeper_while_a_worker_searches(void)
{
    workq q;
    list_node node;
    init_queue(&q, 3);
    q.searching = 1;
    q.sleeping = 2;
    uint32_t before = look(&q).signal;
    push_all(&q, &node, 1);
    CHECK_IDLE(&q, 0, 1, 2, 0);
    CHECK_EQ(look(&q).signal, before);
    workq_fini(&q);
}

static void
a_push_tells_the_spinner_only(void)
{
    workq q;
    list_node nodes[2];
    init_queue(&q, 3);
    q.spinning = 1;
    q.sleeping = 2;
    uint32_t before = look(&q).signal;
    push_all(&q, &nodes[0], 1);
    CHECK_IDLE(&q, 1, 0, 2, 0);
    CHECK(look(&q).signal != before);
    // Also when others search: they may be slower.
    q.searching = 1;
    before = look(&q).signal;
    push_all(&q, &nodes[1], 1);
    CHECK_IDLE(&q, 1, 1, 2, 0);
    CHECK(look(&q).signal != before);
    workq_fini(&q);
}

static void
a_push_without_sleepers_changes_nothing(void)
{
    workq q;
    list_node node;
    init_queue(&q, 3);
    uint32_t before = look(&q).signal;
    push_all(&q, &node, 1);
    CHECK_IDLE(&q, 0, 0, 0, 0);
    CHECK_EQ(look(&q).signal, before);
    workq_fini(&q);
}

static void
a_refused_push_chooses_no_sleeper(void)
{
    workq q;
    list_node node;
    init_queue(&q, 3);
    workq_close(&q);
    q.sleeping = 1;  // which no queue can come to
    uint32_t before = look(&q).signal;
    CHECK_EQ(workq_push(&q, &node), WORKQ_CLOSED);
    CHECK_IDLE(&q, 0, 0, 1, 0);
    CHECK_EQ(look(&q).signal, before);
    workq_fini(&q);
}

static void
a_pop_that_leaves_work_chooses_the_next_sleeper(void)
{
    workq q;
    list_node nodes[3];
    init_queue(&q, 4);
    workq_worker worker = hire(&q);
    push_all(&q, nodes, 3);
    CHECK_EQ(workq_wait(&q, &worker, FUTEX_NO_DEADLINE), WORKQ_OK);
    q.sleeping = 3;
    CHECK(workq_pop(&q, &worker) == &nodes[0]);
    CHECK_IDLE(&q, 0, 1, 2, 1);
    // That one has not popped yet: no second one.
    CHECK(workq_pop(&q, &worker) == &nodes[1]);
    CHECK_IDLE(&q, 0, 1, 2, 1);
    q.searching = q.chosen = 0;  // now it has
    CHECK(workq_pop(&q, &worker) == &nodes[2]);
    CHECK_IDLE(&q, 0, 0, 2, 0);  // the last node: nothing is left behind
    CHECK(workq_pop(&q, &worker) == NULL);
    CHECK_IDLE(&q, 0, 0, 2, 0);
    workq_fini(&q);
}

static void
a_pop_that_leaves_work_tells_the_spinner(void)
{
    workq q;
    list_node nodes[2];
    init_queue(&q, 3);
    workq_worker worker = hire(&q);
    push_all(&q, nodes, 2);
    q.spinning = 1;
    q.sleeping = 1;
    uint32_t before = look(&q).signal;
    CHECK(workq_pop(&q, &worker) == &nodes[0]);
    CHECK_IDLE(&q, 1, 0, 1, 0);
    CHECK(look(&q).signal != before);
    workq_fini(&q);
}

static void
a_worker_that_leaves_work_chooses_a_sleeper(void)
{
    workq q;
    list_node node;
    init_queue(&q, 3);
    workq_worker worker = hire(&q);
    push_all(&q, &node, 1);
    CHECK_EQ(workq_wait(&q, &worker, FUTEX_NO_DEADLINE), WORKQ_OK);
    q.sleeping = 2;
    workq_leave(&q, &worker);
    CHECK_IDLE(&q, 0, 1, 1, 1);
    workq_fini(&q);
}

static void
a_worker_that_leaves_no_work_chooses_no_sleeper(void)
{
    workq q;
    list_node node;
    init_queue(&q, 3);
    workq_worker worker = hire(&q);
    push_all(&q, &node, 1);
    CHECK_EQ(workq_wait(&q, &worker, FUTEX_NO_DEADLINE), WORKQ_OK);
    q.sleeping = 2;
    CHECK(workq_take_all(&q) == &node);
    workq_leave(&q, &worker);
    CHECK_IDLE(&q, 0, 0, 2, 0);
    workq_fini(&q);
}

static void
close_chooses_every_sleeper(void)
{
    workq q;
    init_queue(&q, 6);
    q.spinning = 1;
    q.searching = 2;  // one of them chosen
    q.chosen = 1;
    q.sleeping = 3;
    uint32_t before = look(&q).signal;
    workq_close(&q);
    CHECK(look(&q).closed);
    CHECK_IDLE(&q, 1, 5, 0, 4);
    CHECK(look(&q).signal != before);
    workq_fini(&q);
}

// ---- which worker is woken; the sleepers are threads ----

static waiter *
find_done(waiter *workers, int count)
{
    for (int i = 0; i < count; i++) {
        if (atomic_load(&workers[i].thread.done)) {
            return &workers[i];
        }
    }
    return NULL;
}

static void
a_push_wakes_one_sleeper(void)
{
    workq q;
    list_node node;
    waiter workers[3];
    init_queue(&q, 3);
    for (int i = 0; i < 3; i++) {
        start_sleeper(&workers[i], &q);
    }
    CHECK_EQ(workq_workers(&q), 3);
    CHECK_EQ(look(&q).idle, 3);
    CHECK_IDLE(&q, 0, 0, 3, 0);
    CHECK_EQ(workq_push(&q, &node), WORKQ_OK);
    waiter *woken;
    CHECK_UNTIL(look(&q).chosen == 0);
    CHECK_IDLE(&q, 0, 1, 2, 0);
    CHECK_UNTIL((woken = find_done(workers, 3)) != NULL);
    for (int i = 0; i < 3; i++) {
        CHECK(&workers[i] == woken || is_asleep(&workers[i]));
    }
    check_waited(woken, WORKQ_OK);
    CHECK(workq_pop(&q, &woken->worker) == &node);
    CHECK_IDLE(&q, 0, 0, 2, 0);
    CHECK_EQ(look(&q).idle, 2);
    CHECK(workq_pop(&q, &woken->worker) == NULL);
    CHECK_EQ(look(&q).idle, 3);
    workq_leave(&q, &woken->worker);
    workq_close(&q);
    for (int i = 0; i < 3; i++) {
        if (&workers[i] != woken) {
            check_waited(&workers[i], WORKQ_CLOSED);
            workq_leave(&q, &workers[i].worker);
        }
    }
    CHECK_EQ(workq_workers(&q), 0);
    CHECK_EQ(look(&q).idle, 0);
    CHECK_IDLE(&q, 0, 0, 0, 0);
    workq_fini(&q);
}

static void
a_burst_wakes_sleepers_one_after_the_other(void)
{
    workq q;
    list_node nodes[3];
    waiter workers[2];
    init_queue(&q, 3);
    start_sleeper(&workers[0], &q);
    push_all(&q, nodes, 3);
    check_waited(&workers[0], WORKQ_OK);
    // The second one comes to sleep while the first is searching.
    CHECK(workq_take_all(&q) == &nodes[0]);
    start_sleeper(&workers[1], &q);
    push_all(&q, nodes, 3);
    CHECK(is_asleep(&workers[1]));
    CHECK_IDLE(&q, 0, 1, 1, 0);
    // Only when the first one leaves work behind does the second one wake.
    CHECK(workq_pop(&q, &workers[0].worker) == &nodes[0]);
    check_waited(&workers[1], WORKQ_OK);
    CHECK_IDLE(&q, 0, 1, 0, 0);
    CHECK(workq_pop(&q, &workers[1].worker) == &nodes[1]);
    CHECK(workq_pop(&q, &workers[0].worker) == &nodes[2]);
    workq_fini(&q);
}

static void
a_worker_that_leaves_wakes_another_for_its_work(void)
{
    workq q;
    list_node node;
    waiter worker;
    init_queue(&q, 2);
    workq_worker leaver = hire(&q);
    push_all(&q, &node, 1);
    CHECK_EQ(workq_wait(&q, &leaver, FUTEX_NO_DEADLINE), WORKQ_OK);
    CHECK(workq_take_all(&q) == &node);
    start_sleeper(&worker, &q);
    push_all(&q, &node, 1);
    CHECK(is_asleep(&worker));
    workq_leave(&q, &leaver);
    check_waited(&worker, WORKQ_OK);
    CHECK(workq_pop(&q, &worker.worker) == &node);
    workq_fini(&q);
}

static void
a_spinner_sees_a_push_and_no_sleeper_wakes(void)
{
    workq q;
    list_node node;
    waiter spinner;
    waiter sleeper;
    init_queue(&q, 2);
    spin_for_ever(&q);
    start_worker(&spinner, &q);
    CHECK_UNTIL(look(&q).spinning == 1);
    // One spins at most: the second sleeps at once.
    start_sleeper(&sleeper, &q);
    CHECK_IDLE(&q, 1, 0, 1, 0);
    CHECK_EQ(workq_push(&q, &node), WORKQ_OK);
    check_waited(&spinner, WORKQ_OK);
    CHECK_IDLE(&q, 0, 1, 1, 0);
    CHECK(is_asleep(&sleeper));
    CHECK(workq_pop(&q, &spinner.worker) == &node);
    CHECK_EQ(look(&q).spinning, 0);
    close_and_leave(&q, &sleeper);
    workq_fini(&q);
}

static void
a_spinner_that_finds_nothing_sleeps(void)
{
    workq q;
    list_node node;
    waiter worker;
    init_queue(&q, 1);
    spin_for_ever(&q);
    start_worker(&worker, &q);
    CHECK_UNTIL(look(&q).spinning == 1);
    // As if a busy worker had been faster.
    pthread_mutex_lock(&q.lock);
    atomic_fetch_add(&q.signal, 1);
    pthread_mutex_unlock(&q.lock);
    CHECK_UNTIL(is_asleep(&worker));
    CHECK_IDLE(&q, 0, 0, 1, 0);
    push_all(&q, &node, 1);
    check_waited(&worker, WORKQ_OK);
    CHECK(workq_pop(&q, &worker.worker) == &node);
    workq_fini(&q);
}

static void
close_wakes_the_spinner_and_every_sleeper(void)
{
    workq q;
    waiter workers[4];
    init_queue(&q, 4);
    spin_for_ever(&q);
    start_worker(&workers[0], &q);
    CHECK_UNTIL(look(&q).spinning == 1);
    for (int i = 1; i < 4; i++) {
        start_sleeper(&workers[i], &q);
    }
    CHECK_IDLE(&q, 1, 0, 3, 0);
    workq_close(&q);
    for (int i = 0; i < 4; i++) {
        check_waited(&workers[i], WORKQ_CLOSED);
    }
    CHECK_IDLE(&q, 0, 4, 0, 0);
    for (int i = 0; i < 4; i++) {
        CHECK(workq_pop(&q, &workers[i].worker) == NULL);
        workq_leave(&q, &workers[i].worker);
    }
    CHECK_EQ(workq_workers(&q), 0);
    CHECK_EQ(look(&q).idle, 0);
    CHECK_IDLE(&q, 0, 0, 0, 0);
    workq_fini(&q);
}

static void
close_with_work_left_wakes_every_worker_for_it(void)
{
    workq q;
    list_node node;
    waiter workers[2];
    init_queue(&q, 2);
    start_sleeper(&workers[0], &q);
    start_sleeper(&workers[1], &q);
    push_all(&q, &node, 1);
    workq_close(&q);
    check_waited(&workers[0], WORKQ_OK);
    check_waited(&workers[1], WORKQ_OK);
    CHECK_IDLE(&q, 0, 2, 0, 0);
    CHECK(workq_pop(&q, &workers[1].worker) == &node);
    CHECK(workq_pop(&q, &workers[0].worker) == NULL);
    CHECK_EQ(workq_wait(&q, &workers[0].worker, FUTEX_NO_DEADLINE), WORKQ_CLOSED);
    workq_fini(&q);
}

static void
a_long_sleep_teaches_the_next_one_to_spin_less(void)
{
    workq q;
    list_node node;
    waiter worker;
    init_queue(&q, 1);
    start_sleeper(&worker, &q);
    int64_t asleep_ns = clock_now_ns();
    CHECK_UNTIL(clock_now_ns() > asleep_ns + 10 * PARK_SPIN_MAX_NS);
    push_all(&q, &node, 1);
    check_waited(&worker, WORKQ_OK);
    CHECK_EQ(atomic_load(&q.spot.spin_ns), PARK_SPIN_MAX_NS / 2);
    workq_fini(&q);
}

// ---- sleepers that are disturbed ----

// Chooses a sleeper as a push would, but without the wake, which is still to come.
static void
choose_without_wake(workq *q)
{
    pthread_mutex_lock(&q->lock);
    q->sleeping--;
    q->chosen++;
    q->searching++;
    atomic_fetch_add(&q->signal, 1);
    pthread_mutex_unlock(&q->lock);
}

static void
a_sleeper_that_was_not_chosen_goes_back_to_sleep(void)
{
    workq q;
    waiter worker;
    check_handle_sigusr1();
    init_queue(&q, 1);
    start_sleeper(&worker, &q);
    long naps = check_naps(&worker.thread);
    pthread_kill(worker.thread.thread, SIGUSR1);
    check_asleep_again(&worker.thread, &q.signal, naps);
    CHECK_IDLE(&q, 0, 0, 1, 0);
    // A wake meant for a word that was at this address before.
    naps = check_naps(&worker.thread);
    futex_wake(&q.signal, 1);
    check_asleep_again(&worker.thread, &q.signal, naps);
    CHECK_IDLE(&q, 0, 0, 1, 0);
    close_and_leave(&q, &worker);
    workq_fini(&q);
}

static void
a_chosen_sleeper_that_finds_nothing_goes_back_to_sleep(void)
{
    workq q;
    list_node node;
    waiter worker;
    init_queue(&q, 1);
    start_sleeper(&worker, &q);
    long naps = check_naps(&worker.thread);
    choose_without_wake(&q);
    futex_wake(&q.signal, 1);
    check_asleep_again(&worker.thread, &q.signal, naps);
    CHECK_IDLE(&q, 0, 0, 1, 0);
    CHECK_EQ(workq_push(&q, &node), WORKQ_OK);
    check_waited(&worker, WORKQ_OK);
    workq_fini(&q);
}

static void
the_first_worker_back_takes_the_token(void)
{
    workq q;
    list_node nodes[2];
    waiter first;
    waiter second;
    check_handle_sigusr1();
    init_queue(&q, 2);
    start_sleeper(&first, &q);
    start_sleeper(&second, &q);
    // A push that has chosen but not woken yet.
    add_searchers(&q, 1);
    push_all(&q, &nodes[0], 1);
    add_searchers(&q, -1);
    choose_without_wake(&q);
    CHECK_IDLE(&q, 0, 1, 1, 1);

    pthread_kill(second.thread.thread, SIGUSR1);
    check_waited(&second, WORKQ_OK);
    CHECK(is_asleep(&first));
    CHECK_IDLE(&q, 0, 1, 1, 0);
    // Now the wake comes, and the other one finds no token.
    long naps = check_naps(&first.thread);
    futex_wake(&q.signal, 1);
    check_asleep_again(&first.thread, &q.signal, naps);
    CHECK_IDLE(&q, 0, 1, 1, 0);
    CHECK(workq_pop(&q, &second.worker) == &nodes[0]);
    CHECK_IDLE(&q, 0, 0, 1, 0);
    // It counts as a sleeper like any other.
    push_all(&q, &nodes[1], 1);
    check_waited(&first, WORKQ_OK);
    CHECK(workq_pop(&q, &first.worker) == &nodes[1]);
    workq_fini(&q);
}

static void
a_deadline_ends_the_wait(void)
{
    workq q;
    list_node nodes[1];
    init_queue(&q, 1);
    workq_worker worker = hire(&q);
    for (int64_t wait_ns = 0; wait_ns <= 1000000; wait_ns += 1000000) {
        CHECK_EQ(workq_wait(&q, &worker, clock_now_ns() + wait_ns), WORKQ_TIMED_OUT);
        CHECK(worker.searching);
        CHECK(worker.idle);
        CHECK_IDLE(&q, 0, 1, 0, 0);
    }
    CHECK(workq_pop(&q, &worker) == NULL);
    CHECK_EQ(look(&q).idle, 1);
    CHECK_IDLE(&q, 0, 0, 0, 0);
    // What counts is what is there, not whether the deadline has passed.
    push_all(&q, nodes, 1);
    CHECK_EQ(workq_wait(&q, &worker, 0), WORKQ_OK);
    CHECK(workq_pop(&q, &worker) == &nodes[0]);
    workq_close(&q);
    CHECK(workq_pop(&q, &worker) == NULL);
    CHECK_EQ(workq_wait(&q, &worker, 0), WORKQ_CLOSED);
    workq_fini(&q);
}

static void
a_deadline_leaves_the_token_of_another(void)
{
    workq q;
    list_node nodes[1];
    waiter first;
    init_queue(&q, 2);
    start_sleeper(&first, &q);
    workq_worker second = hire(&q);
    add_searchers(&q, 1);
    push_all(&q, nodes, 1);
    add_searchers(&q, -1);
    choose_without_wake(&q);
    CHECK(workq_pop(&q, &second) == &nodes[0]);
    CHECK(workq_pop(&q, &second) == NULL);
    // It takes the token, finds nothing, and then its time is over; the other one sleeps on, and is
    // counted.
    CHECK_EQ(workq_wait(&q, &second, 0), WORKQ_TIMED_OUT);
    CHECK(is_asleep(&first));
    CHECK_IDLE(&q, 0, 1, 1, 0);
    CHECK(workq_pop(&q, &second) == NULL);
    push_all(&q, nodes, 1);
    check_waited(&first, WORKQ_OK);
    CHECK(workq_pop(&q, &first.worker) == &nodes[0]);
    workq_fini(&q);
}

static void
a_close_between_choice_and_wake_wakes_every_worker(void)
{
    workq q;
    waiter workers[2];
    init_queue(&q, 2);
    start_sleeper(&workers[0], &q);
    start_sleeper(&workers[1], &q);
    choose_without_wake(&q);
    workq_close(&q);
    futex_wake(&q.signal, 1);
    for (int i = 0; i < 2; i++) {
        check_waited(&workers[i], WORKQ_CLOSED);
        workq_leave(&q, &workers[i].worker);
    }
    CHECK_EQ(look(&q).idle, 0);
    CHECK_IDLE(&q, 0, 0, 0, 0);
    workq_fini(&q);
}

static void
the_signal_may_wrap_around(void)
{
    workq q;
    list_node node;
    waiter worker;
    init_queue(&q, 1);
    atomic_store(&q.signal, UINT32_MAX);
    start_sleeper(&worker, &q);
    push_all(&q, &node, 1);
    CHECK_EQ(look(&q).signal, 0);
    check_waited(&worker, WORKQ_OK);
    workq_fini(&q);
}

static void
idle_workers_are_left_alone(void)
{
    workq q;
    list_node node;
    waiter workers[3];
    long naps[3];
    int64_t cpu_ns[3];
    init_queue(&q, 4);
    for (int i = 0; i < 3; i++) {
        start_sleeper(&workers[i], &q);
        naps[i] = check_naps(&workers[i].thread);
        cpu_ns[i] = check_cpu_ns(&workers[i].thread);
    }
    add_searchers(&q, 1);  // another worker is on its way to all that follows
    for (int i = 0; i < 10000; i++) {
        CHECK(workq_push(&q, &node) >= 0);
        CHECK(workq_take_all(&q) == &node);
    }
    add_searchers(&q, -1);
    // Asleep before and after, and never on a CPU in between.
    for (int i = 0; i < 3; i++) {
        CHECK(is_asleep(&workers[i]));
        CHECK_EQ(check_naps(&workers[i].thread), naps[i]);
        CHECK_EQ(check_cpu_ns(&workers[i].thread), cpu_ns[i]);
    }
    workq_close(&q);
    for (int i = 0; i < 3; i++) {
        check_waited(&workers[i], WORKQ_CLOSED);
    }
    workq_fini(&q);
}

// ---- fork ----

static void
after_a_fork_the_queue_is_kept_and_the_counts_are_new(void)
{
    workq q;
    list_node nodes[NODES];
    waiter workers[2];
    init_queue(&q, 2);
    start_sleeper(&workers[0], &q);
    start_sleeper(&workers[1], &q);
    add_searchers(&q, 1);
    push_all(&q, nodes, 2);
    // Some thread is inside the queue when another one forks.
    pthread_mutex_lock(&q.lock);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        check_guard_child();
        workq_after_fork(&q);
        CHECK_EQ(workq_length(&q), 2);
        CHECK_EQ(workq_workers(&q), 0);
        CHECK_EQ(look(&q).idle, 0);
        CHECK_IDLE(&q, 0, 0, 0, 0);
        CHECK_EQ(workq_push(&q, &nodes[2]), WORKQ_SHORT);
        CHECK_IDLE(&q, 0, 0, 0, 0);
        CHECK(workq_reserve_worker(&q));
        workq_worker worker = WORKQ_WORKER_INIT;
        CHECK_EQ(workq_wait(&q, &worker, FUTEX_NO_DEADLINE), WORKQ_OK);
        for (int i = 0; i < 3; i++) {
            CHECK(workq_pop(&q, &worker) == &nodes[i]);
        }
        CHECK(workq_pop(&q, &worker) == NULL);
        workq_close(&q);
        CHECK_EQ(workq_wait(&q, &worker, FUTEX_NO_DEADLINE), WORKQ_CLOSED);
        workq_leave(&q, &worker);
        CHECK_EQ(workq_workers(&q), 0);
        CHECK_IDLE(&q, 0, 0, 0, 0);
        workq_after_fork(&q);
        CHECK_EQ(workq_push(&q, &nodes[0]), WORKQ_CLOSED);
        _exit(EXIT_SUCCESS);
    }
    pthread_mutex_unlock(&q.lock);
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == EXIT_SUCCESS);
    // The parent has noticed nothing.
    CHECK_IDLE(&q, 0, 1, 2, 0);
    workq_take_all(&q);
    workq_close(&q);
    for (int i = 0; i < 2; i++) {
        check_waited(&workers[i], WORKQ_CLOSED);
    }
    workq_fini(&q);
}

int
main(int argc, char **argv)
{
    static const check_test tests[] = {
        CHECK_TEST(nodes_come_out_in_the_order_they_went_in),
        CHECK_TEST(a_node_may_be_taken_out_from_anywhere),
        CHECK_TEST(a_node_for_which_a_worker_is_idle_is_left_to_it),
        CHECK_TEST(a_node_that_nobody_is_to_pop_is_withdrawn_from_an_idle_worker_too),
        CHECK_TEST(a_closed_queue_refuses_but_drains),
        CHECK_TEST(a_closed_queue_still_gives_nodes_back),
        CHECK_TEST(take_all_takes_everything_in_order),
        CHECK_TEST(a_new_queue_counts_nothing),
        CHECK_TEST(a_worker_is_wanted_while_work_outnumbers_the_idle),
        CHECK_TEST(a_closed_queue_wants_one_worker_for_what_it_holds),
        CHECK_TEST(an_idle_worker_is_used_before_another_starts),
        CHECK_TEST(a_worker_is_busy_from_one_pop_to_the_next_empty_one),
        CHECK_TEST(a_reserved_worker_that_never_began_leaves),
        CHECK_TEST(a_worker_retires_unless_there_is_work),
        CHECK_TEST(a_worker_may_leave_in_every_state),
        CHECK_TEST(a_wait_with_work_queued_searches_until_it_pops),
        CHECK_TEST(a_push_chooses_one_sleeper),
        CHECK_TEST(a_push_chooses_no_sleeper_while_a_worker_searches),
        CHECK_TEST(a_push_tells_the_spinner_only),
        CHECK_TEST(a_push_without_sleepers_changes_nothing),
        CHECK_TEST(a_refused_push_chooses_no_sleeper),
        CHECK_TEST(a_pop_that_leaves_work_chooses_the_next_sleeper),
        CHECK_TEST(a_pop_that_leaves_work_tells_the_spinner),
        CHECK_TEST(a_worker_that_leaves_work_chooses_a_sleeper),
        CHECK_TEST(a_worker_that_leaves_no_work_chooses_no_sleeper),
        CHECK_TEST(close_chooses_every_sleeper),
        CHECK_TEST(a_push_wakes_one_sleeper),
        CHECK_TEST(a_burst_wakes_sleepers_one_after_the_other),
        CHECK_TEST(a_worker_that_leaves_wakes_another_for_its_work),
        CHECK_TEST(a_spinner_sees_a_push_and_no_sleeper_wakes),
        CHECK_TEST(a_spinner_that_finds_nothing_sleeps),
        CHECK_TEST(close_wakes_the_spinner_and_every_sleeper),
        CHECK_TEST(close_with_work_left_wakes_every_worker_for_it),
        CHECK_TEST(a_long_sleep_teaches_the_next_one_to_spin_less),
        CHECK_TEST(a_sleeper_that_was_not_chosen_goes_back_to_sleep),
        CHECK_TEST(a_chosen_sleeper_that_finds_nothing_goes_back_to_sleep),
        CHECK_TEST(the_first_worker_back_takes_the_token),
        CHECK_TEST(a_deadline_ends_the_wait),
        CHECK_TEST(a_deadline_leaves_the_token_of_another),
        CHECK_TEST(a_close_between_choice_and_wake_wakes_every_worker),
        CHECK_TEST(the_signal_may_wrap_around),
        CHECK_TEST(idle_workers_are_left_alone),
        CHECK_TEST(after_a_fork_the_queue_is_kept_and_the_counts_are_new),
    };
    return check_run(tests, CHECK_COUNT(tests), argc, argv);
}
