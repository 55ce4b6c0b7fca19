// shm_board: one process posts records, many take them, and each is taken by exactly one.
//
// It lies in memory that all of them have mapped:
//
//     line      positions 0, 1, 2, ...: which record was posted there      the parent writes
//     records   each with a claim word and room for a message              whoever has the record
//     bells     per worker: whether it sleeps, on this very word           worker, and who calls it
//     done      per worker: the records it has finished, in order          that worker
//     inboxes   per worker: records that it should cancel, or run          the parent
//
// A record's life is its claim word's:
//
//                 post                     claim                    finish, collect
//     FREE -----------------> READY at p ---------> TAKEN by w ------------------------> FREE
//                                |                      |
//                                | withdraw             | the worker died: bury
//                                '----> FREE            '----> FREE
//
// READY carries the record's position in the line.  A worker goes along the line from `head` and tries
// to change "ready at p" into "taken by me" with one compare-and-swap; the parent changes it back to
// free in the same way to withdraw it.  One of them wins, so a record can be taken back until the very
// moment it is taken, and a free worker never waits behind a busy one.  A worker that was long away may
// look at a position whose record has been posted anew elsewhere; the position does not match, and it
// goes on.  `head` only says that nothing before it is ready; anyone moves it forward.  Records are taken
// in the order in which they were posted, but for one that is overtaken while the parent makes room in a
// line full of positions whose records were withdrawn.
//
// No lock is shared, so no death can orphan one.  Where a worker may die:
//     before its claim          nothing has happened; if it had been called, the parent calls another
//     while it calls another    bury() wakes again whoever has been called and may still sleep
//     after it                  the record says so: it is the one that bury() returns
//     while it writes           the same: nothing was announced
//     after it has announced    the record is collected before the dead is buried
// If the parent dies, everybody does, and the memory with them.
//
// *Calling.*  A worker without work spins for a while and then sleeps on its bell.  Who posts calls one
// sleeper, unless one worker spins or is on its way already; a worker that takes a record and leaves
// others behind does the same.  So nobody wakes without need, and work never waits while everybody
// sleeps.  The parent in its turn watches `finished`; when it means to sleep it says so in `collector`,
// and the first worker that finishes something then raises the eventfd, once.
//
// *Doorbells.*  A worker that runs an event loop cannot sleep on a word, and has many records taken at a
// time.  Such a board has an eventfd per worker, which the loop watches.  A worker says by its bell
// whether it is asleep, with nothing to do, or open: at work, with room for more.  Who posts calls one
// that sleeps; if none does, all that are open, because nobody can tell which of them has time.
//
// *Inboxes* are for one worker: to ask it to cancel what it has taken, or to hand it a record that nobody
// else may take, which is TAKEN from the start.  A worker reads its inbox, in order, before it takes a
// record, so an entry never means a later task in the same record; and each is there twice at most.
//
// The parent's functions are called with one lock of the parent's held, but for watch and doze.  Each
// worker's are called by one thread.  What the other side wrote is checked.  No Python.
#ifndef PYCONC_SHM_BOARD_H
#define PYCONC_SHM_BOARD_H

#include <stdbool.h>
#include <stddef.h>

#include "park.h"
#include "shm_region.h"

enum {
    SHM_BOARD_WORK = 0,      // There may be work.
    SHM_BOARD_LISTENS = 1,   // The doorbell will ring.
    SHM_BOARD_CLOSED = -10,  // There never will be.
};

#define SHM_RECORD_BYTES 512

typedef struct shm_record {
    _Alignas(64) _Atomic uint32_t claim;
    // 1 once the worker has taken the block over that the message names; post() makes it 0.
    _Atomic uint32_t accepted;
    // Of a record that stands for many calls: which is next, and which is the first that is somebody
    // else's by now.  See shm_record_next().
    _Atomic uint64_t range;
    unsigned char message[SHM_RECORD_BYTES - 16];
} shm_record;

_Static_assert(sizeof(shm_record) == SHM_RECORD_BYTES, "the layout is shared");

typedef struct shm_board_shared shm_board_shared;

// A process's view of the board.  The fields of the lower half are the parent's, under its lock.
typedef struct shm_board {
    shm_board_shared *shared;
    _Atomic uint32_t *line;
    _Atomic uint32_t *bells;
    unsigned char *done;     // see done_of()
    unsigned char *inboxes;  // see inbox_of()
    shm_record *records;
    uint32_t record_count, worker_count;
    int wakeup_fd;         // eventfd; borrowed
    const int *doorbells;  // eventfds, one per worker; borrowed.  NULL: workers sleep on their bells
    uint32_t inbox_read;   // of a worker's view: how far it has read its inbox

    uint32_t *free_records;
    uint32_t free_count;
    bool *is_drawn;       // per record: not among the free ones
    uint32_t *collected;  // per worker: how far its done line has been read
} shm_board;

// Bytes for so many records (a power of two) and workers.
uint64_t shm_board_size(uint32_t records, uint32_t workers);

// The parent lays the board out in zeroed memory, aligned to 64.  SHM_OK or SHM_NO_MEMORY.
int shm_board_make(shm_board *board, void *memory, uint32_t records, uint32_t workers, int wakeup_fd);

// A worker looks at what its parent laid out in `bytes` of memory.  SHM_OK or SHM_NOT_OURS.
int shm_board_join(shm_board *board, void *memory, uint64_t bytes, int wakeup_fd);

// Workers have these doorbells, as many as there are workers; borrowed.  Before anything else, on both sides.
void shm_board_use_doorbells(shm_board *board, const int *doorbells);

// Frees what the parent's view needed; accepts NULL fields.
void shm_board_leave(shm_board *board);

// ---- the parent ----

// A free record, to be filled and posted or put back; NULL if there is none.
shm_record *shm_board_draw(shm_board *board);
void shm_board_put_back(shm_board *board, shm_record *record);

// From here on a worker may take it.
void shm_board_post(shm_board *board, shm_record *record);

// True: nobody had taken it, and nobody will; the record is drawn again.
bool shm_board_withdraw(shm_board *board, shm_record *record);

// Asks the worker that has taken the record to cancel it, once.  Only with doorbells.
void shm_board_ask_to_cancel(shm_board *board, shm_record *record);

// Gives a drawn record to a worker, as if it had taken it.  Only with doorbells, and if nobody has buried
// the worker.
void shm_board_hand(shm_board *board, shm_record *record, uint32_t worker);

// How many have been buried under a worker's number, as the worker itself knows it.
uint32_t shm_board_generation(shm_board *board, uint32_t worker);

// True once a worker has taken it.
bool shm_board_is_taken(const shm_record *record);

// The next record that this worker has finished; the caller reads it and puts it back.  NULL if there
// is none.  *corrupt is set, and left alone otherwise, if what the worker announced cannot be.
shm_record *shm_board_collect(shm_board *board, uint32_t worker, bool *corrupt);

// The worker is dead, and all that it had finished is collected and put back.  Returns what it had taken
// and not finished, to be put back before the next call; or NULL when there is nothing more, and its
// number may be given to another.
shm_record *shm_board_bury(shm_board *board, uint32_t worker);

// Calls a worker if something is ready and none is on its way; for after a death.
void shm_board_call(shm_board *board);

// Whether something is ready that nobody has taken.
bool shm_board_has_ready(shm_board *board);

// How many workers spin, sleep, or were called and have not come yet.
uint32_t shm_board_idle_workers(shm_board *board);

// Workers finish what is ready and leave.
void shm_board_close(shm_board *board);

// Changes whenever a worker finishes something.  To be read with acquire before collecting: then nothing
// that it counts is missed.
_Atomic uint32_t *shm_board_finished(shm_board *board);

// A thread of the parent means to look at `finished` from now on: workers need not raise the eventfd.
void shm_board_watch(shm_board *board);

// It will look no more.  False if `finished` is not `seen`: then it must collect, and doze again.  The
// worker whose turn it is to raise the eventfd may die instead: a death ends the doze as well.
bool shm_board_doze(shm_board *board, uint32_t seen);

// ---- a worker ----

// It is there, and counts as busy.
void shm_board_enter(shm_board *board, uint32_t worker);

// The next record that is ready, now taken by this worker; or NULL.
shm_record *shm_board_claim(shm_board *board, uint32_t worker);

// Blocks until there may be work, or never will be.  Returns early, with work or not, when a signal
// handler has run.
int shm_board_wait(shm_board *board, uint32_t worker, park_spot *spot);

// Instead of waiting, for a worker with a doorbell: it is to be rung when there is work, or never will be.
// SHM_BOARD_WORK: there is some already, or something in the inbox; SHM_BOARD_LISTENS; SHM_BOARD_CLOSED.
int shm_board_listen(shm_board *board, uint32_t worker, bool is_idle);

// Whether the parent has closed the board.
bool shm_board_is_closed(shm_board *board);

// The next record in this worker's inbox; NULL if there is none.  *is_handed: it is to be run, else it is to
// be cancelled, if it still runs.
shm_record *shm_board_read_inbox(shm_board *board, uint32_t worker, bool *is_handed);

// At most how many records are ready.
uint32_t shm_board_ready_count(shm_board *board);

// The message is in the record; the parent is told.
void shm_board_finish(shm_board *board, uint32_t worker, shm_record *record);

// It takes nothing any more.
void shm_board_exit(shm_board *board, uint32_t worker);

// ---- ranges ----

// Sets the calls that a drawn record stands for: 0 to count - 1.
void shm_record_set_range(shm_record *record, uint32_t count);

// The worker's next call, or UINT32_MAX when the rest is somebody else's.
uint32_t shm_record_next(shm_record *record);

// Takes the calls from the middle of what is left to the end away from whoever runs the record: returns
// how many are left to it in all, out of `count`; `count` if there was nothing to take.
uint32_t shm_record_split(shm_record *record, uint32_t count);

#endif
