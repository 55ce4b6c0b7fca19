// Producers push and workers pop, in rounds with a fresh queue each, all of them losing random bits
// of time.  In every round
//
// - each node that a push accepted comes out exactly once, and no other does;
// - no wakeup is lost: producers stop again and again until all of theirs is done;
// - at any time, queued work has a spinner, a searcher, or every worker awake;
// - the counts are right when every worker is idle, and when every worker has left.
//
// In some rounds one of them closes the queue or takes all that is queued, while others push.  In *restless*
// rounds workers leave whenever they like and reserved ones never begin; a worker that leaves, or a producer
// that is told that workers are short, reserves another, also when the queue is closed.
//
//     stress_workq [rounds [seed]]        or STRESS_WORKQ_ROUNDS and STRESS_SEED
#define _GNU_SOURCE
#include "check.h"

#include <semaphore.h>

#include "core/clock.h"
#include "core/workq.h"

#define PRODUCERS 3
#define WORKERS 4
#define ITEMS 60

typedef struct item {
    list_node node;          // first: a node is its item
    _Atomic uint32_t taken;  // how often it came out
    struct producer *producer;
    uint32_t number;
    bool accepted;  // producer only
} item;

typedef struct producer {
    check_thread thread;
    uint64_t seed;
    item items[ITEMS];
    uint32_t count;  // of items in this round
    uint32_t accepted;
    _Atomic uint32_t done;  // of the accepted
    uint32_t expected;      // the number that a single worker must get next
} producer;

typedef struct hired_worker {
    check_thread thread;
    uint64_t seed;
} hired_worker;

static producer producers[PRODUCERS];
static hired_worker workers[WORKERS];
static pthread_barrier_t barrier;  // a round begins; a round has ended
static sem_t hired;                // one for each worker to begin
static _Atomic bool over;

// The round.  Constant while it lasts, except for the queue and the atomics.
static workq queue;
static uint32_t max_workers;
static bool restless;
static bool in_order;  // one worker, which gets everything
static int closer;     // the producer that closes or takes all, or none
static bool takes_all;
static _Atomic bool closed;
static _Atomic uint32_t hires;
static _Atomic uint32_t stints;  // that have ended

// Over all rounds.
static _Atomic uint64_t pushed;
static _Atomic uint64_t refused;
static _Atomic uint64_t left;
static _Atomic uint64_t waits;

static void
count(_Atomic uint64_t *counter)
{
    atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

// The rule that loses no wakeup, and what the counts always obey.
static void
check_counts(void)
{
    pthread_mutex_lock(&queue.lock);
    bool empty = node_list_is_empty(&queue.nodes);
    CHECK(empty || queue.spinning > 0 || queue.searching > 0 || queue.sleeping == 0);
    CHECK(empty == (workq_length(&queue) == 0));
    CHECK(empty == (queue.nodes.end == &queue.nodes.first));
    CHECK(queue.workers <= queue.max_workers);
    CHECK(queue.idle <= queue.workers);
    CHECK(queue.spinning <= 1);
    CHECK(queue.chosen <= queue.searching);
    CHECK(queue.spinning + queue.searching + queue.sleeping <= queue.idle);
    CHECK(!queue.closed || queue.sleeping == 0);
    pthread_mutex_unlock(&queue.lock);
}

static bool
all_are_idle(void)
{
    pthread_mutex_lock(&queue.lock);
    bool idle = queue.idle == queue.workers && queue.searching == 0 && queue.chosen == 0
                && queue.spinning + queue.sleeping == queue.workers;
    pthread_mutex_unlock(&queue.lock);
    return idle;
}

static void
take(list_node *node)
{
    item *it = (item *)node;
    producer *owner = it->producer;
    CHECK_EQ(atomic_fetch_add(&it->taken, 1), 0);
    if (in_order) {
        CHECK_EQ(it->number, owner->expected);
        owner->expected++;
    }
    // From here on the producer may begin another round.
    atomic_fetch_add(&owner->done, 1);
}

static void
take_everything(void)
{
    list_node *node = workq_take_all(&queue);
    while (node != NULL) {
        list_node *next = node->next;
        take(node);
        node = next;
    }
}

// ---- workers ----

static void
hire(uint64_t *seed)
{
    while (workq_reserve_worker(&queue)) {
        if (restless && check_chance(seed, 4)) {
            workq_worker never_began = WORKQ_WORKER_INIT;
            workq_leave(&queue, &never_began);
            count(&left);
            continue;
        }
        atomic_fetch_add(&hires, 1);
        sem_post(&hired);
    }
}

// Now and then, in a restless round: true if the worker has left for good, else it may have left
// and come back.
static bool
leave(workq_worker *worker, uint64_t *seed)
{
    if (!restless || !check_chance(seed, 8)) {
        return false;
    }
    workq_leave(&queue, worker);
    count(&left);
    check_dawdle(seed);
    // Whatever was counted on this worker needs another.
    if (!workq_reserve_worker(&queue)) {
        return true;
    }
    *worker = (workq_worker)WORKQ_WORKER_INIT;
    return false;
}

static void
work(uint64_t *seed)
{
    workq_worker worker = WORKQ_WORKER_INIT;
    for (;;) {
        check_dawdle(seed);
        list_node *node = workq_pop(&queue, &worker);
        CHECK_EQ(worker.idle, node == NULL);
        CHECK(!worker.searching);
        if (node != NULL) {
            check_dawdle(seed);
            take(node);
        }
        if (leave(&worker, seed)) {
            return;
        }
        if (!worker.idle) {
            continue;
        }
        check_dawdle(seed);
        // Some look again after a while, as the workers do that have something to look after.
        bool looks_again = check_random(seed) % 4 == 0;
        int64_t look_ns = clock_now_ns() + (int64_t)(check_random(seed) % 100000);
        int rc = workq_wait(&queue, &worker, looks_again ? look_ns : FUTEX_NO_DEADLINE);
        count(&waits);
        CHECK(worker.searching);
        if (rc == WORKQ_CLOSED) {
            CHECK(atomic_load(&closed));
            workq_leave(&queue, &worker);
            return;
        }
        CHECK(rc == WORKQ_OK || (looks_again && rc == WORKQ_TIMED_OUT));
        // Here it is the searcher on which others rely.
        if (leave(&worker, seed)) {
            return;
        }
    }
}

static void
work_when_hired(void *arg)
{
    hired_worker *self = arg;
    for (;;) {
        while (sem_wait(&hired) != 0) {
        }
        if (atomic_load(&over)) {
            return;
        }
        work(&self->seed);
        atomic_fetch_add(&stints, 1);
    }
}

// ---- producers ----

static void
close_queue(void)
{
    atomic_store(&closed, true);
    workq_close(&queue);
}

static void
push_items(producer *self, bool closes)
{
    uint32_t close_at = closes ? (uint32_t)(check_random(&self->seed) % self->count) : ITEMS;
    for (uint32_t i = 0; i < self->count; i++) {
        item *it = &self->items[i];
        it->producer = self;
        it->number = i;
        atomic_store_explicit(&it->taken, 0, memory_order_relaxed);
        check_dawdle(&self->seed);
        if (i == close_at) {
            if (takes_all) {
                take_everything();
            }
            else {
                close_queue();
            }
        }
        int rc = workq_push(&queue, &it->node);
        it->accepted = rc != WORKQ_CLOSED;
        if (rc == WORKQ_CLOSED) {
            CHECK(atomic_load(&closed));
            count(&refused);
            continue;
        }
        self->accepted++;
        count(&pushed);
        if (rc == WORKQ_SHORT) {
            hire(&self->seed);
        }
        if (check_chance(&self->seed, 4)) {
            check_counts();
        }
        if (check_chance(&self->seed, 16)) {
            pthread_kill(workers[check_random(&self->seed) % WORKERS].thread.thread, SIGUSR1);
        }
        // A lost wakeup ends here.
        if (check_chance(&self->seed, 2)) {
            CHECK_UNTIL(atomic_load(&self->done) == self->accepted);
        }
    }
    CHECK_UNTIL(atomic_load(&self->done) == self->accepted);
}

static void
produce(void *arg)
{
    producer *self = arg;
    for (;;) {
        pthread_barrier_wait(&barrier);
        if (atomic_load(&over)) {
            return;
        }
        push_items(self, closer == (int)(self - producers));
        pthread_barrier_wait(&barrier);
    }
}

// ---- rounds ----

static void
begin_round(uint64_t *seed)
{
    max_workers = 1 + (uint32_t)(check_random(seed) % WORKERS);
    restless = check_chance(seed, 3);
    closer = check_chance(seed, 3) ? (int)(check_random(seed) % PRODUCERS) : -1;
    takes_all = check_chance(seed, 2);
    in_order = max_workers == 1 && (closer < 0 || !takes_all);
    atomic_store(&closed, false);
    atomic_store(&hires, 0);
    atomic_store(&stints, 0);
    workq_init(&queue, max_workers);
    // What the last round learned is lost with its queue; every round starts with other habits.
    if (check_chance(seed, 2)) {
        atomic_store(&queue.spot.spin_ns, (uint32_t)(check_random(seed) % PARK_SPIN_MAX_NS));
    }
    if (check_chance(seed, 2)) {
        queue.spot.most_spinning = (uint32_t)(check_random(seed) % 2);
    }
    // Few producers and short bursts leave the workers time to fall asleep.
    uint64_t most = check_chance(seed, 2) ? 4 : ITEMS;
    for (int i = 0; i < PRODUCERS; i++) {
        producers[i].count = 1 + (uint32_t)(check_random(seed) % most);
        producers[i].accepted = 0;
        producers[i].expected = 0;
        atomic_store(&producers[i].done, 0);
    }
}

static void
end_round(void)
{
    if (!atomic_load(&closed)) {
        CHECK_UNTIL(all_are_idle());
        CHECK_EQ(workq_length(&queue), 0);
        check_counts();
        close_queue();
    }
    CHECK_UNTIL(atomic_load(&stints) == atomic_load(&hires));
    CHECK_EQ(workq_workers(&queue), 0);
    CHECK_EQ(queue.idle, 0);
    CHECK_EQ(queue.searching, 0);
    CHECK_EQ(queue.sleeping, 0);
    CHECK_EQ(queue.chosen, 0);
    CHECK_EQ(queue.spinning, 0);
    CHECK_EQ(workq_length(&queue), 0);
    for (int i = 0; i < PRODUCERS; i++) {
        CHECK_EQ(atomic_load(&producers[i].done), producers[i].accepted);
        for (uint32_t j = 0; j < producers[i].count; j++) {
            item *it = &producers[i].items[j];
            CHECK_EQ(atomic_load(&it->taken), it->accepted);
        }
    }
    workq_fini(&queue);
}

int
main(int argc, char **argv)
{
    uint64_t rounds = check_number(argc, argv, 1, "STRESS_WORKQ_ROUNDS", CHECK_ROUNDS(20000));
    uint64_t seed = check_number(argc, argv, 2, "STRESS_SEED", 1);
    printf("stress_workq %llu %llu\n", (unsigned long long)rounds, (unsigned long long)seed);
    fflush(stdout);
    check_guard("stress_workq");
    check_handle_sigusr1();
    CHECK(pthread_barrier_init(&barrier, NULL, PRODUCERS + 1) == 0);
    CHECK(sem_init(&hired, 0, 0) == 0);
    for (int i = 0; i < WORKERS; i++) {
        workers[i].seed = check_random(&seed);
        check_start(&workers[i].thread, work_when_hired, &workers[i]);
    }
    for (int i = 0; i < PRODUCERS; i++) {
        producers[i].seed = check_random(&seed);
        check_start(&producers[i].thread, produce, &producers[i]);
    }
    for (uint64_t round = 0; round < rounds; round++) {
        if (round % 1000 == 0) {
            check_guard("stress_workq");
        }
        begin_round(&seed);
        pthread_barrier_wait(&barrier);
        pthread_barrier_wait(&barrier);
        end_round();
    }
    atomic_store(&over, true);
    pthread_barrier_wait(&barrier);
    for (int i = 0; i < PRODUCERS; i++) {
        check_join(&producers[i].thread);
    }
    for (int i = 0; i < WORKERS; i++) {
        sem_post(&hired);
    }
    for (int i = 0; i < WORKERS; i++) {
        check_join(&workers[i].thread);
    }
    CHECK(sem_destroy(&hired) == 0);
    CHECK(pthread_barrier_destroy(&barrier) == 0);
    printf("ok: %llu pushed, %llu refused, %llu waits, %llu left\n",
           (unsigned long long)atomic_load(&pushed), (unsigned long long)atomic_load(&refused),
           (unsigned long long)atomic_load(&waits), (unsigned long long)atomic_load(&left));
    return EXIT_SUCCESS;
}
