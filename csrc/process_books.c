#include "process_books.h"

#include <stdlib.h>

uint64_t
process_books_size(uint32_t max_workers, uint32_t records)
{
    return shm_board_size(records, max_workers);
}

int
process_books_open(process_books *books, RegionObject *region, uint32_t max_workers, uint32_t records,
                   int wakeup_fd, const int *doorbells)
{
    books->region = region;
    books->max_workers = max_workers;
    pthread_mutex_init(&books->lock, NULL);
    node_list_init(&books->waiting);
    node_list_init(&books->collected);
    node_list_init(&books->withdrawn);
    books->posted = calloc(records, sizeof(task *));
    books->found = calloc(records, sizeof(task *));
    if (books->posted == NULL || books->found == NULL) {
        return SHM_NO_MEMORY;
    }
    int rc = shm_board_make(&books->board, region->head, records, max_workers, wakeup_fd);
    shm_board_use_doorbells(&books->board, doorbells);
    return rc;
}

void
process_books_close(process_books *books)
{
    shm_board_leave(&books->board);
    free(books->posted);
    free(books->found);
    pthread_mutex_destroy(&books->lock);
}

// ---- the board; with the lock ----

static void
put_on_board(process_books *books, task *t, shm_record *record)
{
    errand *e = errand_of(t);
    parcel_write(&e->call, record->message);
    shm_record_set_range(record, e->calls);
    e->record = record;
    books->posted[record - books->board.records] = t;
    if (e->is_bound) {
        shm_board_hand(&books->board, record, e->worker);
    }
    else {
        shm_board_post(&books->board, record);
    }
}

static void
take_off_board(process_books *books, task *t)
{
    errand *e = errand_of(t);
    books->posted[e->record - books->board.records] = NULL;
    shm_board_put_back(&books->board, e->record);
    e->record = NULL;
    books->outstanding--;
}

static void
wait_in_line(process_books *books, task *t)
{
    errand_of(t)->is_waiting = true;
    books->waiting_count++;
    node_list_append(&books->waiting, &t->node);
}

static task *
leave_line(process_books *books)
{
    task *t = (task *)node_list_pop(&books->waiting);
    if (t != NULL) {
        errand_of(t)->is_waiting = false;
        books->waiting_count--;
    }
    return t;
}

// Fills the board with what waits.
static void
feed(process_books *books)
{
    while (!node_list_is_empty(&books->waiting)) {
        bool is_withdrawn = errand_of((task *)books->waiting.first)->is_withdrawn;
        shm_record *record = is_withdrawn ? NULL : shm_board_draw(&books->board);
        if (is_withdrawn) {
            node_list_append(&books->withdrawn, &leave_line(books)->node);
        }
        else if (record != NULL) {
            put_on_board(books, leave_line(books), record);
        }
        else {
            break;
        }
    }
}

// Copies an outcome out of its record.
static void
copy_outcome(process_books *books, errand *e)
{
    size_t length = wire_length(e->record->message);
    if (length == 0) {
        return;  // it cannot be: as if there had been no memory for it
    }
    e->outcome = malloc(length);
    if (e->outcome == NULL) {
        return;  // what is not there, is taken for WIRE_NO_MEMORY
    }
    memcpy(e->outcome, e->record->message, length);
    e->block = wire_block(books->region, e->outcome);
    if (e->block != NULL) {
        shm_block_take_over(e->block, region_me(books->region));
    }
}

// A worker that announced what cannot be is left alone: what it has taken fails when it ends.
static void
collect_from(process_books *books, uint32_t worker)
{
    shm_record *record;
    bool corrupt = false;
    while ((record = shm_board_collect(&books->board, worker, &corrupt)) != NULL) {
        task *t = books->posted[record - books->board.records];
        if (t == NULL) {
            shm_board_put_back(&books->board, record);  // its task was failed long ago
            continue;
        }
        copy_outcome(books, errand_of(t));
        errand_of(t)->is_sent = true;
        errand_of(t)->is_collected = true;
        take_off_board(books, t);
        node_list_append(&books->collected, &t->node);
        books->progress = true;
    }
}

static void
collect_all(process_books *books)
{
    for (uint32_t i = 0; i < books->max_workers; i++) {
        collect_from(books, i);
    }
    feed(books);
}

// ---- tasks ----

static bool
is_short(const process_books *books)
{
    return books->outstanding > books->workers && books->workers < books->max_workers;
}

acceptance
process_books_accept(process_books *books, task *t)
{
    pthread_mutex_lock(&books->lock);
    errand *e = errand_of(t);
    if (e->is_bound && shm_board_generation(&books->board, e->worker) != e->generation) {
        pthread_mutex_unlock(&books->lock);
        return (acceptance){.is_lost = true};
    }
    books->outstanding++;
    e->number = books->accepted++;
    shm_record *record = node_list_is_empty(&books->waiting) ? shm_board_draw(&books->board) : NULL;
    if (record != NULL) {
        put_on_board(books, t, record);
    }
    else {
        wait_in_line(books, t);
    }
    acceptance how = {.is_short = is_short(books), .is_alone = books->outstanding == 1};
    pthread_mutex_unlock(&books->lock);
    return how;
}

bool
process_books_withdraw(process_books *books, task *t)
{
    errand *e = errand_of(t);
    bool withdrawn = false;
    pthread_mutex_lock(&books->lock);
    if (e->record != NULL && shm_board_withdraw(&books->board, e->record)) {
        take_off_board(books, t);
        node_list_append(&books->withdrawn, &t->node);
        withdrawn = true;
        feed(books);
    }
    else if (e->is_waiting && !e->is_withdrawn) {
        e->is_withdrawn = true;  // feed() will come upon it
        books->outstanding--;
        withdrawn = true;
    }
    pthread_mutex_unlock(&books->lock);
    return withdrawn;
}

// With the lock.
static bool
ask_to_cancel(process_books *books, task *t)
{
    errand *e = errand_of(t);
    if (books->board.doorbells == NULL || e->record == NULL || !shm_board_is_taken(e->record)) {
        return false;
    }
    if (!e->is_cancelled) {
        e->is_cancelled = true;
        shm_board_ask_to_cancel(&books->board, e->record);
    }
    return true;
}

bool
process_books_ask_to_cancel(process_books *books, task *t)
{
    pthread_mutex_lock(&books->lock);
    bool asked = ask_to_cancel(books, t);
    pthread_mutex_unlock(&books->lock);
    return asked;
}

void
process_books_ask_to_cancel_all(process_books *books)
{
    pthread_mutex_lock(&books->lock);
    for (uint32_t i = 0; i < books->board.record_count; i++) {
        if (books->posted[i] != NULL) {
            ask_to_cancel(books, books->posted[i]);
        }
    }
    pthread_mutex_unlock(&books->lock);
}

bool
process_books_is_taken(process_books *books, task *t)
{
    errand *e = errand_of(t);
    pthread_mutex_lock(&books->lock);
    bool taken = e->record != NULL ? shm_board_is_taken(e->record) : e->is_sent;
    pthread_mutex_unlock(&books->lock);
    return taken;
}

uint32_t
process_books_split(process_books *books, task *t)
{
    errand *e = errand_of(t);
    pthread_mutex_lock(&books->lock);
    // Also if no worker has taken it yet: its first call may be a long one.
    if (e->record != NULL) {
        e->calls = shm_record_split(e->record, e->calls);
    }
    uint32_t calls = e->calls;
    pthread_mutex_unlock(&books->lock);
    return calls;
}

void
process_books_collect(process_books *books)
{
    pthread_mutex_lock(&books->lock);
    collect_all(books);
    pthread_mutex_unlock(&books->lock);
}

void
process_books_hand_out(process_books *books, node_list *collected, node_list *withdrawn)
{
    pthread_mutex_lock(&books->lock);
    collect_all(books);
    node_list_move(&books->collected, collected);
    node_list_move(&books->withdrawn, withdrawn);
    books->is_announced = false;
    pthread_mutex_unlock(&books->lock);
}

// Moves `wanted`, or if it is NULL all that is for a loop, from the collected ones to a list.
static void
sort_out(process_books *books, const task *wanted, PyObject *bridge, node_list *own)
{
    node_list rest;
    list_node *node;
    node_list_init(&rest);
    while ((node = node_list_pop(&books->collected)) != NULL) {
        bool is_own = wanted != NULL ? node == &wanted->node : task_is_for((task *)node, bridge);
        node_list_append(is_own ? own : &rest, node);
        if (is_own && wanted != NULL) {
            break;
        }
    }
    node_list_move(&books->collected, &rest);
    node_list_move(&rest, &books->collected);
}

static bool
must_announce(process_books *books)
{
    bool new = !books->is_announced && !node_list_is_empty(&books->collected);
    books->is_announced = books->is_announced || new;
    return new;
}

bool
process_books_hand_out_task(process_books *books, task *wanted, node_list *own)
{
    pthread_mutex_lock(&books->lock);
    collect_all(books);
    if (wanted != NULL && errand_of(wanted)->is_collected) {
        errand_of(wanted)->is_collected = false;
        sort_out(books, wanted, NULL, own);
    }
    bool new = must_announce(books);
    pthread_mutex_unlock(&books->lock);
    return new;
}

bool
process_books_hand_out_loops(process_books *books, PyObject *bridge, node_list *own)
{
    pthread_mutex_lock(&books->lock);
    collect_all(books);
    sort_out(books, NULL, bridge, own);
    bool new = must_announce(books);
    pthread_mutex_unlock(&books->lock);
    return new;
}

void
process_books_put_back(process_books *books, task *t)
{
    pthread_mutex_lock(&books->lock);
    errand_of(t)->is_collected = true;
    node_list_append(&books->collected, &t->node);
    books->is_announced = true;
    pthread_mutex_unlock(&books->lock);
}

static int
compare_numbers(const void *one, const void *other)
{
    uint64_t a = errand_of(*(task *const *)one)->number;
    uint64_t b = errand_of(*(task *const *)other)->number;
    return (a > b) - (a < b);
}

list_node *
process_books_take(process_books *books, bool taken)
{
    task *t, **found = books->found;
    uint32_t count = 0;
    node_list all;
    node_list_init(&all);
    pthread_mutex_lock(&books->lock);
    for (uint32_t i = 0; i < books->board.record_count; i++) {
        t = books->posted[i];
        if (t == NULL) {
            continue;
        }
        if (shm_board_withdraw(&books->board, errand_of(t)->record)) {
            take_off_board(books, t);
            found[count++] = t;
        }
        else if (taken) {
            // Its record stays out of use: whoever has taken it may still write there.
            errand_of(t)->record = NULL;
            errand_of(t)->is_sent = true;
            books->posted[i] = NULL;
            books->outstanding--;
            found[count++] = t;
        }
    }
    qsort(found, count, sizeof(task *), compare_numbers);
    for (uint32_t i = 0; i < count; i++) {
        node_list_append(&all, &found[i]->node);
    }
    while ((t = leave_line(books)) != NULL) {
        if (errand_of(t)->is_withdrawn) {
            node_list_append(&books->withdrawn, &t->node);
        }
        else {
            books->outstanding--;
            node_list_append(&all, &t->node);
        }
    }
    pthread_mutex_unlock(&books->lock);
    return all.first;
}

// ---- workers ----

bool
process_books_reserve_worker(process_books *books)
{
    pthread_mutex_lock(&books->lock);
    bool wanted = is_short(books);
    books->workers += wanted;
    pthread_mutex_unlock(&books->lock);
    return wanted;
}

void
process_books_add_workers(process_books *books, long change)
{
    pthread_mutex_lock(&books->lock);
    books->workers = (uint32_t)((long)books->workers + change);
    pthread_mutex_unlock(&books->lock);
}

// A worker has died with this on it; with the lock.
static void
bury_task(process_books *books, uint32_t worker, shm_record *record, node_list *victims)
{
    task *victim = books->posted[record - books->board.records];
    if (victim == NULL) {
        shm_board_put_back(&books->board, record);
        return;
    }
    // It may have died between taking the block over and saying so.
    shm_block *block = errand_of(victim)->call.block;
    errand_of(victim)->is_sent =
        atomic_load_explicit(&record->accepted, memory_order_relaxed) != 0
        || (block != NULL
            && atomic_load_explicit(&block->holder, memory_order_relaxed) == SHM_WORKER(worker));
    take_off_board(books, victim);
    node_list_append(victims, &victim->node);
}

// What waits for room on the board, and was for that worker only; with the lock.
static void
bury_waiting(process_books *books, uint32_t worker, node_list *victims)
{
    node_list rest;
    task *t;
    node_list_init(&rest);
    while ((t = (task *)node_list_pop(&books->waiting)) != NULL) {
        errand *e = errand_of(t);
        bool is_victim = e->is_bound && e->worker == worker && !e->is_withdrawn;
        node_list_append(is_victim ? victims : &rest, &t->node);
        if (is_victim) {
            e->is_waiting = false;
            books->waiting_count--;
            books->outstanding--;
        }
    }
    node_list_move(&rest, &books->waiting);
}

list_node *
process_books_bury(process_books *books, uint32_t worker, bool *progress)
{
    shm_record *record;
    node_list victims;
    node_list_init(&victims);
    pthread_mutex_lock(&books->lock);
    collect_from(books, worker);
    *progress = books->progress;
    books->progress = false;
    while ((record = shm_board_bury(&books->board, worker)) != NULL) {
        bury_task(books, worker, record, &victims);
    }
    bury_waiting(books, worker, &victims);
    books->workers--;
    feed(books);
    // It may have been called, or was on its way to what is ready.
    shm_board_call(&books->board);
    pthread_mutex_unlock(&books->lock);
    // What it owned waits for its successor.
    shm_arena_free_held(&books->region->arena, SHM_WORKER(worker));
    return victims.first;
}

void
process_books_dismiss(process_books *books)
{
    pthread_mutex_lock(&books->lock);
    shm_board_close(&books->board);
    pthread_mutex_unlock(&books->lock);
}

// ---- counts ----

static uint32_t
read_count(process_books *books, const uint32_t *count)
{
    pthread_mutex_lock(&books->lock);
    uint32_t value = *count;
    pthread_mutex_unlock(&books->lock);
    return value;
}

uint32_t
process_books_workers(process_books *books)
{
    return read_count(books, &books->workers);
}

uint32_t
process_books_outstanding(process_books *books)
{
    return read_count(books, &books->outstanding);
}

uint32_t
process_books_queued(process_books *books)
{
    pthread_mutex_lock(&books->lock);
    uint32_t queued = books->waiting_count;
    for (uint32_t i = 0; i < books->board.record_count; i++) {
        queued += books->posted[i] != NULL && !shm_board_is_taken(errand_of(books->posted[i])->record);
    }
    pthread_mutex_unlock(&books->lock);
    return queued;
}

uint32_t
process_books_idle_workers(process_books *books)
{
    pthread_mutex_lock(&books->lock);
    // Each outstanding task has a worker of its own, or will have.  The bells would not do: who has just
    // finished something may not have come to look for more.
    uint32_t idle = books->max_workers > books->outstanding ? books->max_workers - books->outstanding : 0;
    pthread_mutex_unlock(&books->lock);
    return idle;
}

// ---- fork ----

void
process_books_after_fork(process_books *books)
{
    pthread_mutex_init(&books->lock, NULL);
    memset(books->posted, 0, books->board.record_count * sizeof(task *));
    node_list_init(&books->waiting);
    node_list_init(&books->collected);
    node_list_init(&books->withdrawn);
    books->waiting_count = books->outstanding = books->workers = 0;
}
