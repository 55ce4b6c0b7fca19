#define _GNU_SOURCE
#include "shm_board.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"

// ---- layout ----

// Claim words: the state in the two lowest bits; above them a position for READY, a worker for TAKEN.
enum {
    CLAIM_FREE,
    CLAIM_READY,
    CLAIM_TAKEN
};
#define CLAIM_BITS 2
#define CLAIM_STATE(claim) ((claim) & 3u)

enum bell {
    BELL_NOBODY,    // no worker has this number
    BELL_BUSY,      // it runs something, or looks for it
    BELL_SPINNING,  // it will see what is posted
    BELL_ASLEEP,    // on this word
    BELL_CALLED,    // it was asleep, and will look for work
    BELL_OPEN,      // it runs something, has room for more, and watches its doorbell
};

enum {
    COLLECTOR_WATCHES,
    COLLECTOR_DOZES
};

// The line has room for as many positions that are dead as for live ones; see make_room().
#define LINE_SLACK 2

struct shm_board_shared {
    uint64_t size_bytes;
    uint32_t record_count, worker_count;
    _Alignas(64) _Atomic uint32_t tail;      // positions written; the parent
    _Atomic uint32_t closed;                 // the parent
    _Alignas(64) _Atomic uint32_t head;      // no position before it is ready; everybody, only forward
    _Alignas(64) _Atomic uint32_t finished;  // workers count what they finish
    _Atomic uint32_t collector;              // set by both sides, see doze()
};

typedef struct done_line {
    _Alignas(64) _Atomic uint32_t tail;  // records finished; the worker
    _Atomic uint32_t generation;         // workers buried; the parent
    _Atomic uint32_t numbers[];          // of records, record_count of them: it can never be full
} done_line;

typedef struct inbox {
    _Alignas(64) _Atomic uint32_t tail;  // entries written; the parent
    _Atomic uint32_t entries[];          // a record's number, and 1 bit: it is handed.  It can never be full
} inbox;

// A record may be handed over and cancelled before the worker has looked.
#define INBOX_SLACK 2

_Static_assert(sizeof(shm_board_shared) == 256, "the layout is shared");
_Static_assert(ATOMIC_INT_LOCK_FREE == 2 && ATOMIC_LLONG_LOCK_FREE == 2,
               "a lock in shared memory would die with its holder");

static uint64_t
align(uint64_t bytes)
{
    return (bytes + 63) & ~(uint64_t)63;
}

static uint64_t
done_bytes(uint32_t records)
{
    return align(sizeof(done_line) + (uint64_t)records * sizeof(uint32_t));
}

static uint64_t
inbox_bytes(uint32_t records)
{
    return align(sizeof(inbox) + (uint64_t)INBOX_SLACK * records * sizeof(uint32_t));
}

static inbox *
inbox_of(shm_board *board, uint32_t worker)
{
    return (inbox *)(board->inboxes + worker * inbox_bytes(board->record_count));
}

static done_line *
done_of(shm_board *board, uint32_t worker)
{
    return (done_line *)(board->done + worker * done_bytes(board->record_count));
}

// Where each part is, and how large it all is.
static uint64_t
lay_out(shm_board *board, unsigned char *memory, uint32_t records, uint32_t workers)
{
    uint64_t at = sizeof(shm_board_shared);
    board->shared = (shm_board_shared *)memory;
    board->record_count = records;
    board->worker_count = workers;
    board->bells = (_Atomic uint32_t *)(memory + at);
    at += align((uint64_t)workers * sizeof(uint32_t));
    board->line = (_Atomic uint32_t *)(memory + at);
    at += align((uint64_t)LINE_SLACK * records * sizeof(uint32_t));
    board->done = memory + at;
    at += workers * done_bytes(records);
    board->inboxes = memory + at;
    at += workers * inbox_bytes(records);
    board->records = (shm_record *)(memory + at);
    return at + (uint64_t)records * sizeof(shm_record);
}

uint64_t
shm_board_size(uint32_t records, uint32_t workers)
{
    shm_board board;
    return lay_out(&board, NULL, records, workers);
}

int
shm_board_make(shm_board *board, void *memory, uint32_t records, uint32_t workers, int wakeup_fd)
{
    memset(board, 0, sizeof(*board));
    uint64_t size = lay_out(board, memory, records, workers);
    board->wakeup_fd = wakeup_fd;
    board->shared->size_bytes = size;
    board->shared->record_count = records;
    board->shared->worker_count = workers;
    board->free_records = malloc(records * sizeof(uint32_t));
    board->is_drawn = calloc(records, sizeof(bool));
    board->collected = calloc(workers, sizeof(uint32_t));
    if (board->free_records == NULL || board->is_drawn == NULL || board->collected == NULL) {
        shm_board_leave(board);
        return SHM_NO_MEMORY;
    }
    for (uint32_t i = 0; i < records; i++) {
        board->free_records[i] = records - 1 - i;  // the first first: memory is touched as it is needed
    }
    board->free_count = records;
    return SHM_OK;
}

int
shm_board_join(shm_board *board, void *memory, uint64_t bytes, int wakeup_fd)
{
    shm_board_shared *shared = memory;
    memset(board, 0, sizeof(*board));
    if (bytes < sizeof(*shared)) {
        return SHM_NOT_OURS;
    }
    uint64_t size = shared->size_bytes;
    uint32_t records = shared->record_count;
    uint32_t workers = shared->worker_count;
    // Each count by itself first: the sum of what they ask for might wrap around.
    if (size > bytes || records == 0 || (records & (records - 1)) != 0 || records > size / sizeof(shm_record)
        || workers > size / done_bytes(records) || lay_out(board, memory, records, workers) != size) {
        memset(board, 0, sizeof(*board));
        return SHM_NOT_OURS;
    }
    board->wakeup_fd = wakeup_fd;
    return SHM_OK;
}

void
shm_board_use_doorbells(shm_board *board, const int *doorbells)
{
    board->doorbells = doorbells;
}

void
shm_board_leave(shm_board *board)
{
    free(board->free_records);
    free(board->is_drawn);
    free(board->collected);
    memset(board, 0, sizeof(*board));
}

// ---- what both sides do ----

static _Atomic uint32_t *
line_at(shm_board *board, uint32_t position)
{
    return &board->line[position & (LINE_SLACK * board->record_count - 1)];
}

static uint32_t
ready_at(uint32_t position)
{
    return position << CLAIM_BITS | CLAIM_READY;
}

// The record that was posted at a position, if it is still ready there.
static shm_record *
ready_record(shm_board *board, uint32_t position)
{
    // Relaxed: the tail that we have seen published it; if it is being written anew, the position
    // will not match.
    uint32_t number = atomic_load_explicit(line_at(board, position), memory_order_relaxed);
    if (number >= board->record_count) {
        return NULL;
    }
    shm_record *record = &board->records[number];
    uint32_t claim = atomic_load_explicit(&record->claim, memory_order_relaxed);
    return claim == ready_at(position) ? record : NULL;
}

// Moves head to `position`, before which nothing is ready.
static void
settle(shm_board *board, uint32_t position)
{
    _Atomic uint32_t *head = &board->shared->head;
    _Atomic uint32_t *tail = &board->shared->tail;
    uint32_t seen = atomic_load_explicit(head, memory_order_relaxed);
    // Relaxed: a hint where to begin.  Positions wrap around, hence the signed differences, and a
    // position of somebody who was stopped half a turn ago seems to lie ahead: even of the tail.
    while ((int32_t)(position - seen) > 0
           && (int32_t)(atomic_load_explicit(tail, memory_order_relaxed) - position) >= 0
           && !atomic_compare_exchange_weak_explicit(head, &seen, position, memory_order_relaxed,
                                                     memory_order_relaxed)) {
    }
}

// The first position that is ready, or the tail.
static uint32_t
first_ready(shm_board *board)
{
    uint32_t position = atomic_load_explicit(&board->shared->head, memory_order_relaxed);
    // Sequentially consistent, as the store in post() and the bells are: a worker that has said that it
    // sleeps and sees the old tail is seen asleep by who posts.
    uint32_t tail = atomic_load_explicit(&board->shared->tail, memory_order_seq_cst);
    uint32_t length = LINE_SLACK * board->record_count;
    if (tail - position > length) {
        // Not what anybody writes on purpose, or a tail that is older than head; what came before has
        // been written over.
        position = tail - length;
    }
    while (position != tail && ready_record(board, position) == NULL) {
        position++;
    }
    settle(board, position);
    return position;
}

bool
shm_board_has_ready(shm_board *board)
{
    uint32_t position = first_ready(board);
    return (int32_t)(atomic_load_explicit(&board->shared->tail, memory_order_relaxed) - position) > 0;
}

static void
ring(shm_board *board, uint32_t worker)
{
    if (board->doorbells != NULL) {
        uint64_t one = 1;
        (void)!write(board->doorbells[worker], &one, sizeof(one));
    }
    else {
        futex_wake_shared(&board->bells[worker], 1);
    }
}

// If a worker's bell is `from`, makes it `to` and rings.
static bool
call_if(shm_board *board, uint32_t worker, uint32_t from, uint32_t to)
{
    // Relaxed to look, because who was busy a moment ago looks for itself before it sleeps.  Sequentially
    // consistent to ring, as all that is done to a bell.
    if (atomic_load_explicit(&board->bells[worker], memory_order_relaxed) != from
        || !atomic_compare_exchange_strong_explicit(&board->bells[worker], &from, to, memory_order_seq_cst,
                                                    memory_order_relaxed)) {
        return false;
    }
    ring(board, worker);
    return true;
}

// Something is ready: sees to it that some worker comes for it.
static void
call_worker(shm_board *board)
{
    for (uint32_t i = 0; i < board->worker_count; i++) {
        // Sequentially consistent: see first_ready().
        uint32_t bell = atomic_load_explicit(&board->bells[i], memory_order_seq_cst);
        if (bell == BELL_SPINNING || bell == BELL_CALLED) {
            return;
        }
    }
    for (uint32_t i = 0; i < board->worker_count; i++) {
        if (call_if(board, i, BELL_ASLEEP, BELL_CALLED)) {
            return;
        }
    }
    for (uint32_t i = 0; board->doorbells != NULL && i < board->worker_count; i++) {
        // Not CALLED: nobody counts on it, for it may be long at something else.
        call_if(board, i, BELL_OPEN, BELL_BUSY);
    }
}

// ---- the parent ----

shm_record *
shm_board_draw(shm_board *board)
{
    if (board->free_count == 0) {
        return NULL;
    }
    uint32_t number = board->free_records[--board->free_count];
    board->is_drawn[number] = true;
    return &board->records[number];
}

void
shm_board_put_back(shm_board *board, shm_record *record)
{
    atomic_store_explicit(&record->claim, CLAIM_FREE, memory_order_relaxed);
    uint32_t number = (uint32_t)(record - board->records);
    board->is_drawn[number] = false;
    board->free_records[board->free_count++] = number;
}

static void
advance(shm_board *board, uint32_t tail)
{
    // Sequentially consistent: see first_ready().
    atomic_store_explicit(&board->shared->tail, tail, memory_order_seq_cst);
}

// A record that stays ready at the front, while those behind it are withdrawn and others posted, would
// in the end have its position written over, and nobody would find it.  So when the line is full, all
// that is ready goes to the end of it, in order: records are fewer than positions, so afterwards at
// least half of the line is free, and as many posts go by until the next time.  A worker that comes
// along meanwhile finds each record ready in its old place or in its new one; one that is past the old
// place and has not seen the new one calls nobody, but the post that made room does.
static void
make_room(shm_board *board)
{
    uint32_t end = atomic_load_explicit(&board->shared->tail, memory_order_relaxed);
    uint32_t tail = end;
    uint32_t length = LINE_SLACK * board->record_count;
    if (end - atomic_load_explicit(&board->shared->head, memory_order_relaxed) < length) {
        return;
    }
    uint32_t position = first_ready(board);
    if (end - position < length) {
        return;
    }
    for (; (int32_t)(end - position) > 0; position = first_ready(board)) {
        shm_record *record = ready_record(board, position);
        uint32_t claim = ready_at(position);
        if (record == NULL) {
            continue;  // somebody has just taken it
        }
        // Whose place this was is moved already, or is this very record.
        atomic_store_explicit(line_at(board, tail), (uint32_t)(record - board->records),
                              memory_order_relaxed);
        // Relaxed: what R8 in post() has published stays published.
        if (atomic_compare_exchange_strong_explicit(&record->claim, &claim, ready_at(tail),
                                                    memory_order_relaxed, memory_order_relaxed)) {
            advance(board, ++tail);
        }
    }
}

void
shm_board_post(shm_board *board, shm_record *record)
{
    make_room(board);
    uint32_t tail = atomic_load_explicit(&board->shared->tail, memory_order_relaxed);
    atomic_store_explicit(line_at(board, tail), (uint32_t)(record - board->records),
                          memory_order_relaxed);
    atomic_store_explicit(&record->accepted, 0, memory_order_relaxed);
    // R8: pairs with A8 in claim(): who takes the record sees its message.
    atomic_store_explicit(&record->claim, ready_at(tail), memory_order_release);
    advance(board, tail + 1);
    call_worker(board);
}

bool
shm_board_withdraw(shm_board *board, shm_record *record)
{
    (void)board;
    uint32_t claim = atomic_load_explicit(&record->claim, memory_order_relaxed);
    // Relaxed: nobody else has written to the record if this succeeds, and nothing is read if not.
    return CLAIM_STATE(claim) == CLAIM_READY
           && atomic_compare_exchange_strong_explicit(&record->claim, &claim, CLAIM_FREE,
                                                      memory_order_relaxed, memory_order_relaxed);
}

bool
shm_board_is_taken(const shm_record *record)
{
    return CLAIM_STATE(atomic_load_explicit(&record->claim, memory_order_relaxed)) == CLAIM_TAKEN;
}

static uint32_t
taken_by(uint32_t worker)
{
    return worker << CLAIM_BITS | CLAIM_TAKEN;
}

// Whether the worker has the record.  Claim words alone cannot be trusted: one that was written over
// would put a record on the free list twice.
static bool
has_taken(shm_board *board, uint32_t worker, uint32_t number)
{
    return board->is_drawn[number]
           && atomic_load_explicit(&board->records[number].claim, memory_order_relaxed) == taken_by(worker);
}

shm_record *
shm_board_collect(shm_board *board, uint32_t worker, bool *corrupt)
{
    done_line *done = done_of(board, worker);
    uint32_t position = board->collected[worker];
    // A9: pairs with R9 in finish(): the record's message is there.
    if (atomic_load_explicit(&done->tail, memory_order_acquire) == position) {
        return NULL;
    }
    uint32_t number = atomic_load_explicit(&done->numbers[position & (board->record_count - 1)],
                                           memory_order_relaxed);
    if (number >= board->record_count || !has_taken(board, worker, number)) {
        *corrupt = true;
        return NULL;
    }
    board->collected[worker] = position + 1;
    return &board->records[number];
}

shm_record *
shm_board_bury(shm_board *board, uint32_t worker)
{
    shm_record *left = NULL;
    for (uint32_t i = 0; i < board->record_count && left == NULL; i++) {
        if (has_taken(board, worker, i)) {
            left = &board->records[i];
        }
    }
    atomic_store_explicit(&done_of(board, worker)->tail, 0, memory_order_relaxed);
    atomic_store_explicit(&inbox_of(board, worker)->tail, 0, memory_order_relaxed);
    board->collected[worker] = 0;
    // Sequentially consistent, as all that is done to a bell: see first_ready().
    atomic_store_explicit(&board->bells[worker], BELL_NOBODY, memory_order_seq_cst);
    // It may have died between ringing a bell and waking its sleeper, on whom everybody counts now.
    for (uint32_t i = 0; i < board->worker_count; i++) {
        if (atomic_load_explicit(&board->bells[i], memory_order_relaxed) == BELL_CALLED) {
            ring(board, i);
        }
    }
    if (left == NULL) {
        _Atomic uint32_t *generation = &done_of(board, worker)->generation;
        uint32_t buried = atomic_load_explicit(generation, memory_order_relaxed);
        atomic_store_explicit(generation, buried + 1, memory_order_relaxed);
    }
    return left;
}

void
shm_board_call(shm_board *board)
{
    if (shm_board_has_ready(board)) {
        call_worker(board);
    }
}

uint32_t
shm_board_idle_workers(shm_board *board)
{
    uint32_t idle = 0;
    for (uint32_t i = 0; i < board->worker_count; i++) {
        uint32_t bell = atomic_load_explicit(&board->bells[i], memory_order_relaxed);
        idle += bell == BELL_SPINNING || bell == BELL_ASLEEP || bell == BELL_CALLED;
    }
    return idle;
}

void
shm_board_close(shm_board *board)
{
    // Sequentially consistent, and so is its partner in is_closed(): a worker that has said that it sleeps
    // and sees an open board is seen asleep here.
    atomic_store_explicit(&board->shared->closed, 1, memory_order_seq_cst);
    for (uint32_t i = 0; i < board->worker_count; i++) {
        uint32_t bell = BELL_ASLEEP;
        // Sequentially consistent: see above.
        if (atomic_compare_exchange_strong_explicit(&board->bells[i], &bell, BELL_CALLED,
                                                    memory_order_seq_cst, memory_order_relaxed)) {
            ring(board, i);
        }
        else if (board->doorbells != NULL) {
            ring(board, i);
        }
    }
}

static void
write_to_inbox(shm_board *board, uint32_t worker, shm_record *record, bool is_handed)
{
    inbox *box = inbox_of(board, worker);
    uint32_t length = INBOX_SLACK * board->record_count;
    // Only the parent writes the tail.
    uint32_t tail = atomic_load_explicit(&box->tail, memory_order_relaxed);
    atomic_store_explicit(&box->entries[tail & (length - 1)],
                          (uint32_t)(record - board->records) << 1 | is_handed, memory_order_relaxed);
    // R11: pairs with A11 in read_inbox().
    atomic_store_explicit(&box->tail, tail + 1, memory_order_release);
    ring(board, worker);  // in any case: its bell is for what is ready
}

void
shm_board_hand(shm_board *board, shm_record *record, uint32_t worker)
{
    atomic_store_explicit(&record->accepted, 0, memory_order_relaxed);
    // Relaxed: R11 publishes it, and the message.
    atomic_store_explicit(&record->claim, taken_by(worker), memory_order_relaxed);
    write_to_inbox(board, worker, record, true);
}

uint32_t
shm_board_generation(shm_board *board, uint32_t worker)
{
    // Relaxed: the parent alone writes it, and before it starts the worker.
    return atomic_load_explicit(&done_of(board, worker)->generation, memory_order_relaxed);
}

void
shm_board_ask_to_cancel(shm_board *board, shm_record *record)
{
    uint32_t claim = atomic_load_explicit(&record->claim, memory_order_relaxed);
    uint32_t worker = claim >> CLAIM_BITS;
    if (CLAIM_STATE(claim) != CLAIM_TAKEN || worker >= board->worker_count) {
        return;
    }
    write_to_inbox(board, worker, record, false);
}

_Atomic uint32_t *
shm_board_finished(shm_board *board)
{
    return &board->shared->finished;
}

void
shm_board_watch(shm_board *board)
{
    // Relaxed: if a worker does not see it yet, it raises the eventfd once more.
    atomic_store_explicit(&board->shared->collector, COLLECTOR_WATCHES, memory_order_relaxed);
}

bool
shm_board_doze(shm_board *board, uint32_t seen)
{
    // Sequentially consistent, and so are their partners in finish(): the parent that misses a count
    // has been seen to doze by who counted.
    atomic_store_explicit(&board->shared->collector, COLLECTOR_DOZES, memory_order_seq_cst);
    return atomic_load_explicit(&board->shared->finished, memory_order_seq_cst) == seen;
}

// ---- a worker ----

static void
set_bell(shm_board *board, uint32_t worker, enum bell bell)
{
    // Sequentially consistent: see first_ready().
    atomic_store_explicit(&board->bells[worker], bell, memory_order_seq_cst);
}

void
shm_board_enter(shm_board *board, uint32_t worker)
{
    set_bell(board, worker, BELL_BUSY);
}

void
shm_board_exit(shm_board *board, uint32_t worker)
{
    set_bell(board, worker, BELL_NOBODY);
    // Whoever saw us spin or called us counted on us.
    shm_board_call(board);
}

shm_record *
shm_board_claim(shm_board *board, uint32_t worker)
{
    for (;;) {
        uint32_t position = first_ready(board);
        uint32_t tail = atomic_load_explicit(&board->shared->tail, memory_order_relaxed);
        if ((int32_t)(tail - position) <= 0) {
            return NULL;
        }
        shm_record *record = ready_record(board, position);
        uint32_t claim = ready_at(position);
        // A8: pairs with R8 in post().
        if (record == NULL
            || !atomic_compare_exchange_strong_explicit(&record->claim, &claim, taken_by(worker),
                                                        memory_order_acquire, memory_order_relaxed)) {
            continue;  // somebody else was quicker
        }
        settle(board, position + 1);
        if (board->worker_count > 1 && shm_board_has_ready(board)) {
            call_worker(board);
        }
        return record;
    }
}

bool
shm_board_is_closed(shm_board *board)
{
    // Sequentially consistent: see shm_board_close().
    return atomic_load_explicit(&board->shared->closed, memory_order_seq_cst) != 0;
}

// Whether another worker spins: one that does is enough.
static bool
another_spins(shm_board *board, uint32_t worker)
{
    for (uint32_t i = 0; i < board->worker_count; i++) {
        // Relaxed: only a hint.
        if (i != worker && atomic_load_explicit(&board->bells[i], memory_order_relaxed) == BELL_SPINNING) {
            return true;
        }
    }
    return false;
}

int
shm_board_wait(shm_board *board, uint32_t worker, park_spot *spot)
{
    int64_t start = clock_now_ns();
    bool spins = !another_spins(board, worker);
    // From here on, who posts counts on us.
    set_bell(board, worker, BELL_SPINNING);
    uint32_t tail = atomic_load_explicit(&board->shared->tail, memory_order_seq_cst);
    if (!shm_board_has_ready(board) && !shm_board_is_closed(board)
        && !(spins && park_spin(spot, &board->shared->tail, tail, FUTEX_NO_DEADLINE))) {
        set_bell(board, worker, BELL_ASLEEP);
        if (!shm_board_has_ready(board) && !shm_board_is_closed(board)) {
            // A bell that was rung while we were on our way is not ASLEEP any more.
            int rc = futex_wait_shared(&board->bells[worker], BELL_ASLEEP, FUTEX_NO_DEADLINE);
            if (rc == FUTEX_OK) {
                park_learn(spot, clock_now_ns() - start);
            }
        }
    }
    set_bell(board, worker, BELL_BUSY);
    return shm_board_is_closed(board) && !shm_board_has_ready(board) ? SHM_BOARD_CLOSED : SHM_BOARD_WORK;
}

int
shm_board_listen(shm_board *board, uint32_t worker, bool is_idle)
{
    set_bell(board, worker, is_idle ? BELL_ASLEEP : BELL_OPEN);
    bool ready = shm_board_has_ready(board);
    // Relaxed: who wrote there rings, whatever the bell says.
    uint32_t written = atomic_load_explicit(&inbox_of(board, worker)->tail, memory_order_relaxed);
    bool asked = written != board->inbox_read;
    bool closed = shm_board_is_closed(board);
    if (!ready && !asked && !closed) {
        return SHM_BOARD_LISTENS;
    }
    set_bell(board, worker, BELL_BUSY);
    return ready || asked ? SHM_BOARD_WORK : SHM_BOARD_CLOSED;
}

shm_record *
shm_board_read_inbox(shm_board *board, uint32_t worker, bool *is_handed)
{
    inbox *box = inbox_of(board, worker);
    uint32_t length = INBOX_SLACK * board->record_count;
    // A11: pairs with R11 in write_to_inbox().
    if (atomic_load_explicit(&box->tail, memory_order_acquire) == board->inbox_read) {
        return NULL;
    }
    uint32_t position = board->inbox_read++;
    uint32_t entry = atomic_load_explicit(&box->entries[position & (length - 1)], memory_order_relaxed);
    *is_handed = entry & 1;
    return entry >> 1 < board->record_count ? &board->records[entry >> 1] : NULL;
}

uint32_t
shm_board_ready_count(shm_board *board)
{
    uint32_t position = first_ready(board);
    int32_t count = (int32_t)(atomic_load_explicit(&board->shared->tail, memory_order_relaxed) - position);
    return count < 0 ? 0 : (uint32_t)count;
}

void
shm_board_finish(shm_board *board, uint32_t worker, shm_record *record)
{
    done_line *done = done_of(board, worker);
    uint32_t position = atomic_load_explicit(&done->tail, memory_order_relaxed);
    atomic_store_explicit(&done->numbers[position & (board->record_count - 1)],
                          (uint32_t)(record - board->records), memory_order_relaxed);
    // R9: pairs with A9 in collect().
    atomic_store_explicit(&done->tail, position + 1, memory_order_release);
    atomic_fetch_add_explicit(&board->shared->finished, 1, memory_order_seq_cst);
    uint32_t dozes = COLLECTOR_DOZES;
    // Sequentially consistent: see doze().
    if (atomic_load_explicit(&board->shared->collector, memory_order_seq_cst) == COLLECTOR_DOZES
        && atomic_compare_exchange_strong_explicit(&board->shared->collector, &dozes, COLLECTOR_WATCHES,
                                                   memory_order_seq_cst, memory_order_relaxed)) {
        uint64_t one = 1;
        (void)!write(board->wakeup_fd, &one, sizeof(one));
    }
}

// ---- ranges ----

void
shm_record_set_range(shm_record *record, uint32_t count)
{
    atomic_store_explicit(&record->range, count, memory_order_relaxed);
}

uint32_t
shm_record_next(shm_record *record)
{
    // Relaxed: only numbers are agreed upon here; the calls are each side's own copy.
    uint64_t range = atomic_load_explicit(&record->range, memory_order_relaxed);
    do {
        if ((uint32_t)(range >> 32) >= (uint32_t)range) {
            return UINT32_MAX;
        }
    } while (!atomic_compare_exchange_weak_explicit(&record->range, &range, range + (UINT64_C(1) << 32),
                                                    memory_order_relaxed, memory_order_relaxed));
    return (uint32_t)(range >> 32);
}

uint32_t
shm_record_split(shm_record *record, uint32_t count)
{
    uint64_t range = atomic_load_explicit(&record->range, memory_order_relaxed);
    uint64_t kept;
    do {
        uint64_t next = range >> 32;
        uint64_t limit = (uint32_t)range;
        if (limit != count || next >= limit) {
            return count;  // somebody has split it already, or nothing is left
        }
        kept = next + (limit - next) / 2;
    } while (!atomic_compare_exchange_weak_explicit(&record->range, &range,
                                                    (range & ~(uint64_t)UINT32_MAX) | kept,
                                                    memory_order_relaxed, memory_order_relaxed));
    return (uint32_t)kept;
}
