#include "shared_queue.h"

#include <string.h>

#include "clock.h"
#include "shared_change.h"
#include "shared_sync.h"

// Guarded by the cell's lock.
typedef struct ring_table {
    _Atomic uint64_t head, tail;
    _Atomic uint64_t end;  // of the ring: it goes on to there
    unsigned char records[];
} ring_table;

// What head and tail are, in one word.
typedef struct ring_place {
    uint32_t number;  // of the item: how many came before it
    uint64_t at;      // its place among the records, a multiple of 8
} ring_place;

enum {
    LIMIT,
    CLOSED,
    DONE,
    FIRST
};

#define WORD_BYTES sizeof(uint64_t)
#define RING_LEAST 512

// In place of a record: the next is at the start.
#define GO_ON_AT_START (UINT64_MAX - 1)

// The order of a run that does not stay with what is empty is larger.  With 4 MB, items of some 100 KB that
// come and go one by one are written where others have been.
#define KEPT_ORDER 6

// ---- words: all are guarded by the lock ----

static uint32_t
load(const shared_queue *queue, int word)
{
    // Relaxed: ordered by the lock.
    return atomic_load_explicit(&queue->run.cell->words[word], memory_order_relaxed);
}

static void
store(shared_queue *queue, int word, uint32_t value)
{
    // Relaxed: ordered by the lock.
    atomic_store_explicit(&queue->run.cell->words[word], value, memory_order_relaxed);
}

static ring_place
read_place(const _Atomic uint64_t *word)
{
    // A45: pairs with R45 in publish().  The lock has ordered it, if its last holder lived.
    uint64_t both = atomic_load_explicit(word, memory_order_acquire);
    return (ring_place){.number = (uint32_t)(both >> 32), .at = (both & UINT32_MAX) * 8};
}

static void
publish(_Atomic uint64_t *word, ring_place place)
{
    // R45: pairs with A45 in read_place(): a record is there before the tail says so.
    atomic_store_explicit(word, (uint64_t)place.number << 32 | place.at / 8, memory_order_release);
}

static uint64_t
end_of(const ring_table *ring)
{
    // Relaxed: ordered by the lock; what it leads to is there before the tail.
    return atomic_load_explicit(&ring->end, memory_order_relaxed);
}

static void
set_end(ring_table *ring, uint64_t end)
{
    // Relaxed: see end_of().
    atomic_store_explicit(&ring->end, end, memory_order_relaxed);
}

static uint32_t
count_of(const ring_table *ring)
{
    return ring == NULL ? 0 : read_place(&ring->tail).number - read_place(&ring->head).number;
}

// ---- records ----

static uint64_t
round_up(uint64_t bytes)
{
    return (bytes + WORD_BYTES - 1) / WORD_BYTES * WORD_BYTES;
}

static uint64_t
record_bytes(const shared_item *item)
{
    return WORD_BYTES + (item->bytes == NULL ? 0 : round_up(item->size));
}

static uint64_t
word_at(const ring_table *ring, uint64_t at)
{
    uint64_t word;
    memcpy(&word, ring->records + at, sizeof(word));
    return word;
}

static void
set_word(ring_table *ring, uint64_t at, uint64_t word)
{
    memcpy(ring->records + at, &word, sizeof(word));
}

static void
write_record(ring_table *ring, uint64_t at, const shared_item *item)
{
    if (item->bytes == NULL) {
        set_word(ring, at, item->word);
        return;
    }
    set_word(ring, at, item->size * 2);
    memcpy(ring->records + at + WORD_BYTES, item->bytes, item->size);
}

// The record at or after a place, which is set to where it is.
static shared_item
read_record(const ring_table *ring, uint64_t *at)
{
    if (*at == end_of(ring) || word_at(ring, *at) == GO_ON_AT_START) {
        *at = 0;
    }
    uint64_t word = word_at(ring, *at);
    if ((word & 1) != 0) {
        return (shared_item){.word = word};
    }
    return (shared_item){.bytes = ring->records + *at + WORD_BYTES, .size = word / 2};
}

static bool
is_wrapped(const ring_table *ring)
{
    return count_of(ring) > 0 && read_place(&ring->tail).at <= read_place(&ring->head).at;
}

// ---- moving ----

static uint64_t
records_in_use(const ring_table *ring)
{
    uint64_t at = read_place(&ring->head).at;
    uint64_t bytes = 0;
    for (uint32_t i = count_of(ring); i > 0; i--) {
        shared_item item = read_record(ring, &at);
        bytes += record_bytes(&item);
        at += record_bytes(&item);
    }
    return bytes;
}

static uint64_t
bytes_in_use(const shared_run *run)
{
    return sizeof(ring_table) + records_in_use(shared_run_table(run));
}

static uint64_t
make_ring(shared_run *run, uint64_t bytes, uint32_t number)
{
    uint64_t place = shared_run_cut(run, sizeof(ring_table) + bytes);
    ring_table *ring = shared_run_place(run, place);
    set_end(ring, bytes);
    publish(&ring->head, (ring_place){.number = number});
    publish(&ring->tail, (ring_place){.number = number});
    return place;
}

static uint64_t
copy(const shared_run *run, shared_run *to)
{
    const ring_table *old = shared_run_table(run);
    ring_place head = read_place(&old->head);
    uint64_t place = make_ring(to, records_in_use(old), head.number);
    ring_table *ring = shared_run_place(to, place);
    ring_place tail = {.number = head.number};
    for (uint32_t i = count_of(old); i > 0; i--) {
        shared_item item = read_record(old, &head.at);
        write_record(ring, tail.at, &item);
        head.at += record_bytes(&item);
        tail.at += record_bytes(&item);
        tail.number += 1;
    }
    publish(&ring->tail, tail);
    return place;
}

static bool
add_refs(const shared_run *run, shared_refs *refs)
{
    const ring_table *ring = shared_run_table(run);
    uint64_t at = read_place(&ring->head).at;
    bool is_added = true;
    for (uint32_t i = count_of(ring); is_added && i > 0; i--) {
        shared_item item = read_record(ring, &at);
        at += record_bytes(&item);
        is_added = shared_refs_add_item(refs, &item);
    }
    return is_added;
}

static const shared_run_kind queue_kind = {bytes_in_use, copy, add_refs};

static int
begin_ring(shared_queue *queue, uint64_t bytes)
{
    bytes = bytes > RING_LEAST ? bytes : RING_LEAST;
    int rc = shared_run_reserve(&queue->run, sizeof(ring_table) + bytes);
    if (rc == 0) {
        shared_run_publish(&queue->run, make_ring(&queue->run, bytes, load(queue, FIRST)));
    }
    return rc;
}

// Makes the ring longer, by as much as it is if possible.  Its items are then in one piece.
static int
grow_ring(shared_queue *queue, uint64_t bytes)
{
    shared_run *run = &queue->run;
    ring_table *ring = shared_run_table(run);
    int rc = SHARED_HEAP_FULL;
    if (is_wrapped(ring)) {
        rc = shared_run_move(run, bytes);
    }
    else {
        uint64_t more = end_of(ring) > bytes ? end_of(ring) : bytes;
        rc = shared_run_reserve(run, more);
        if (rc == SHARED_HEAP_FULL && more > bytes) {
            rc = shared_run_reserve(run, bytes);
        }
        else {
            bytes = more;
        }
    }
    if (rc == 0) {
        ring = shared_run_table(run);
        // All up to there is the ring's: also what a process cut that died then.
        uint64_t end = shared_run_cut(run, bytes) + bytes;
        set_end(ring, end - (uint64_t)(ring->records - (unsigned char *)shared_run_place(run, 0)));
    }
    return rc;
}

// Finds where so many bytes are free, in a ring that there is.
static bool
find_space(ring_table *ring, uint64_t bytes, uint64_t *at)
{
    ring_place head = read_place(&ring->head);
    ring_place tail = read_place(&ring->tail);
    *at = tail.number == head.number ? head.at : tail.at;
    if (is_wrapped(ring)) {
        return bytes <= head.at - *at;
    }
    if (bytes <= end_of(ring) - *at) {
        return true;
    }
    if (tail.number == head.number || bytes > head.at) {
        return false;
    }
    if (*at < end_of(ring)) {
        set_word(ring, *at, GO_ON_AT_START);
    }
    *at = 0;
    return true;
}

static int
make_space(shared_queue *queue, uint64_t bytes, ring_table **ring, uint64_t *at)
{
    int rc = 0;
    if (bytes > SHARED_UNIT_BYTES << SHARED_ORDER_MAX) {
        return SHARED_HEAP_FULL;
    }
    *ring = shared_run_table(&queue->run);
    if (*ring == NULL) {
        rc = begin_ring(queue, bytes);
    }
    else if (!find_space(*ring, bytes, at)) {
        rc = grow_ring(queue, bytes);
    }
    else {
        return 0;
    }
    *ring = shared_run_table(&queue->run);
    return rc < 0 ? rc : find_space(*ring, bytes, at) ? 0
                                                      : SHARED_HEAP_FULL;
}

// ---- attempts ----

void
shared_queue_init(shared_queue *queue, shared_heap *heap, uint32_t index, shared_cell *const *doors)
{
    shared_run_init(&queue->run, &queue_kind, heap, index);
    for (int i = 0; i < SHARED_QUEUE_DOORS; i++) {
        queue->doors[i] = doors[i];
        park_spot_init(&queue->spots[i], 1);
    }
}

void
shared_queue_fini(shared_queue *queue)
{
    shared_run_fini(&queue->run);
}

void
shared_queue_limit(shared_queue *queue, uint32_t limit)
{
    store(queue, LIMIT, limit);
}

uint32_t
shared_queue_get_limit(const shared_queue *queue)
{
    return load(queue, LIMIT);
}

uint32_t
shared_queue_count(const shared_queue *queue)
{
    return count_of(shared_run_table(&queue->run));
}

static uint32_t
number_put(const shared_queue *queue)
{
    const ring_table *ring = shared_run_table(&queue->run);
    return ring == NULL ? load(queue, FIRST) : read_place(&ring->tail).number;
}

// Whoever finds nothing: the doors are shut, or open for good.
static int
find_nothing(shared_queue *queue, shared_queue_door door, bool is_over)
{
    if (!is_over) {
        shared_door_shut(queue->doors[door]);
        return SHARED_QUEUE_NOT_NOW;
    }
    for (int i = SHARED_QUEUE_ITEMS; i <= SHARED_QUEUE_SPACE; i++) {
        if (shared_door_ready(queue->doors[i])) {
            shared_door_open(queue->doors[i]);
            shared_door_ring(queue->doors[i]);
        }
    }
    return SHARED_QUEUE_CLOSED;
}

// There may be one more, if there is memory.
static int
put_at_end(shared_queue *queue, const shared_item *item)
{
    ring_table *ring;
    uint64_t at;
    int rc = make_space(queue, record_bytes(item), &ring, &at);
    if (rc < 0) {
        return rc;
    }
    shared_cell *door = queue->doors[SHARED_QUEUE_ITEMS];
    write_record(ring, at, item);
    if (!shared_door_ready(door)) {
        return ROBUST_LOCK_REFUSED;
    }
    shared_door_open(door);
    ring_place next = {.number = read_place(&ring->tail).number + 1, .at = at + record_bytes(item)};
    publish(&ring->tail, next);
    shared_door_ring(door);
    return 0;
}

static int
put(shared_queue *queue, const shared_item *item)
{
    uint32_t count = shared_queue_count(queue);
    uint32_t limit = shared_queue_get_limit(queue);
    if (load(queue, CLOSED) != 0 || (limit != 0 && count >= limit)) {
        return find_nothing(queue, SHARED_QUEUE_SPACE, load(queue, CLOSED) != 0);
    }
    if (count >= SHARED_QUEUE_MAX) {
        return SHARED_HEAP_FULL;
    }
    shared_change change;
    shared_change_init(&change, &queue->run);
    shared_change_brings(&change, item, 1);
    int rc = shared_change_hold(&change);
    return shared_change_end(&change, rc < 0 ? rc : put_at_end(queue, item));
}

// Memory of what there was once.
static void
give_back(shared_queue *queue, ring_table *ring, bool has_wrapped)
{
    uint32_t count = count_of(ring);
    if (count == 0 && queue->run.order > KEPT_ORDER) {
        store(queue, FIRST, read_place(&ring->tail).number);
        shared_run_publish_empty(&queue->run);
    }
    else if (count > 0 && has_wrapped && queue->run.order > 0) {
        uint64_t used = read_place(&ring->tail).at - read_place(&ring->head).at;
        if (!is_wrapped(ring) && used < end_of(ring) / 8) {
            shared_run_shrink(&queue->run);
        }
    }
}

static int
get(shared_queue *queue, const shared_take *take)
{
    ring_table *ring = shared_run_table(&queue->run);
    uint32_t count = count_of(ring);
    if (count == 0) {
        return find_nothing(queue, SHARED_QUEUE_ITEMS, load(queue, CLOSED) != 0);
    }
    ring_place head = read_place(&ring->head);
    ring_place next = head;
    shared_item item = read_record(ring, &next.at);
    bool has_wrapped = next.at < head.at;
    shared_change change;
    shared_change_init(&change, &queue->run);
    shared_change_takes(&change, &item);
    if (!take->keep(take->arg, &item)) {
        return shared_change_end(&change, SHARED_HEAP_FULL);
    }
    next.number += 1;
    next.at = count == 1 ? 0 : next.at + record_bytes(&item);
    bool has_limit = shared_queue_get_limit(queue) != 0;
    shared_cell *door = queue->doors[SHARED_QUEUE_SPACE];
    if (has_limit && shared_door_ready(door)) {
        shared_door_open(door);
        publish(&ring->head, next);
        shared_door_ring(door);
    }
    else {
        publish(&ring->head, next);
    }
    give_back(queue, ring, has_wrapped);
    return shared_change_end(&change, 0);
}

// Counts items as done.
static int
finish(shared_queue *queue, uint32_t count)
{
    uint32_t left = number_put(queue) - load(queue, DONE);
    shared_cell *door = queue->doors[SHARED_QUEUE_DONE];
    if (left < count) {
        return SHARED_QUEUE_TOO_MANY;
    }
    if (left > count) {
        store(queue, DONE, load(queue, DONE) + count);
        return 0;
    }
    if (!shared_door_ready(door)) {
        return ROBUST_LOCK_REFUSED;
    }
    shared_door_open(door);
    store(queue, DONE, load(queue, DONE) + count);
    shared_door_ring(door);
    return 0;
}

int
shared_queue_put(shared_queue *queue, void *arg, int64_t deadline_ns)
{
    int rc = shared_run_enter(&queue->run, deadline_ns);
    if (rc == 0) {
        rc = put(queue, (const shared_item *)arg);
        shared_run_leave(&queue->run);
    }
    return rc;
}

int
shared_queue_get(shared_queue *queue, void *arg, int64_t deadline_ns)
{
    int rc = shared_run_enter(&queue->run, deadline_ns);
    if (rc == 0) {
        rc = get(queue, (const shared_take *)arg);
        shared_run_leave(&queue->run);
    }
    return rc;
}

int
shared_queue_done(shared_queue *queue, void *arg, int64_t deadline_ns)
{
    (void)arg;
    int rc = shared_run_enter(&queue->run, deadline_ns);
    if (rc == 0) {
        rc = finish(queue, 1);
        shared_run_leave(&queue->run);
    }
    return rc;
}

int
shared_queue_all_done(shared_queue *queue, void *arg, int64_t deadline_ns)
{
    (void)arg;
    int rc = shared_run_enter(&queue->run, deadline_ns);
    if (rc == 0) {
        if (number_put(queue) != load(queue, DONE)) {
            shared_door_shut(queue->doors[SHARED_QUEUE_DONE]);
            rc = SHARED_QUEUE_NOT_NOW;
        }
        shared_run_leave(&queue->run);
    }
    return rc;
}

// Takes all items, which are done then, as far as they were not.
static void
drop_all(shared_queue *queue)
{
    ring_table *ring = shared_run_table(&queue->run);
    uint32_t count = count_of(ring);
    if (count == 0) {
        return;
    }
    shared_change change;
    shared_change_init(&change, &queue->run);
    shared_change_takes_all(&change);
    uint32_t left = number_put(queue) - load(queue, DONE);
    publish(&ring->head, (ring_place){.number = read_place(&ring->tail).number});
    give_back(queue, ring, false);
    (void)finish(queue, count < left ? count : left);
    (void)shared_change_end(&change, 0);
}

int
shared_queue_shutdown(shared_queue *queue, void *arg, int64_t deadline_ns)
{
    int rc = shared_run_enter(&queue->run, deadline_ns);
    if (rc == 0) {
        store(queue, CLOSED, 1);
        if (arg != NULL) {
            drop_all(queue);
        }
        (void)find_nothing(queue, SHARED_QUEUE_ITEMS, true);
        shared_run_leave(&queue->run);
    }
    return rc;
}

// ---- waiting ----

int
shared_queue_wait(shared_queue *queue, shared_queue_door door, shared_queue_attempt *attempt, void *arg,
                  int64_t deadline_ns)
{
    shared_cell *at = queue->doors[door];
    park_spot *spot = &queue->spots[door];
    int64_t began_ns = clock_now_ns();
    int rc = attempt(queue, arg, deadline_ns);
    while (rc == SHARED_QUEUE_NOT_NOW) {
        if (park_spin(spot, shared_door_word(at), 0, deadline_ns)) {
            rc = attempt(queue, arg, deadline_ns);
            continue;
        }
        rc = shared_semaphore_await(at, deadline_ns);
        if (rc == FUTEX_OK) {
            rc = attempt(queue, arg, FUTEX_NO_DEADLINE);
            shared_semaphore_pass(at);
        }
        else if (rc == FUTEX_TIMED_OUT) {
            rc = attempt(queue, arg, FUTEX_NO_DEADLINE);
            rc = rc == SHARED_QUEUE_NOT_NOW ? FUTEX_TIMED_OUT : rc;
        }
    }
    park_learn(spot, clock_now_ns() - began_ns);
    return rc;
}
