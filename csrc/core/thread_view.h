// thread_view: what the pools of threads of a process let other programs see, without being asked.
//
// A process has one *table*, a file in memory called "pyconc-threads" that only it has mapped.  It is a row
// of cells.  The first is the head; a pool takes one with its first worker, for its name and for what it
// counts, another one if it is timed, and each worker one, for what that counts and for the call that it
// runs, and a second one once a call of it tells how far it is:
//
//     0      1           2         3         4           ...  top
//     | head | pool 1 .. | worker  | worker  | pool 2 .. |    | never used
//                ^ of pool 1 ..... '  of pool 2 '
//
// They count there and nowhere else, so that it costs nothing to be seen, and a cell that is given back is
// the next one to be taken, so that pools that come and go cost no system call.  Where the system refuses the
// table, or it is full, they count in memory of their own; the head tells how many pools are *hidden* so.
//
// The system allocates a stretch of the table before its cells are taken, so a shortage is no signal.  The
// child of a fork has memory of its own in the place of the mapping, which nobody sees, and makes another
// table when it needs one.  The head tells whose the table is.
//
// A viewer reads a copy of the file, and must expect anything in it.  The caller guards all calls and all
// fields, with one lock for the process, except thread_view_copy(), which any thread may call.  No Python.
#ifndef PYCONC_THREAD_VIEW_H
#define PYCONC_THREAD_VIEW_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "call_name.h"
#include "call_times.h"
#include "tally.h"

#define THREAD_VIEW_CELL 768
#define THREAD_VIEW_POOL_NAME 176

typedef enum thread_view_kind {
    THREAD_VIEW_FREE,
    THREAD_VIEW_POOL,
    THREAD_VIEW_WORKER,
    THREAD_VIEW_TIMES,
    THREAD_VIEW_PROGRESS,
} thread_view_kind;

typedef struct thread_view_head {
    uint64_t magic;
    uint32_t process;  // as that knows itself
    _Atomic uint32_t top;
    _Atomic uint32_t hidden;  // pools
} thread_view_head;

typedef struct thread_view_pool {
    _Atomic uint32_t kind;  // thread_view_kind
    uint32_t pool;          // its number in this process, of which no two are the same; 0: none
    _Atomic uint32_t max_workers;
    uint32_t is_timed;                 // 1 or 0
    char name[THREAD_VIEW_POOL_NAME];  // UTF-8, as much of it as fits; behind it zeros
    uint64_t submitted;                // tasks that were pushed, and not taken out by the program
    tally counts;                      // of those that no worker has ended, or that one has which is gone
} thread_view_pool;

typedef struct thread_view_worker {
    _Atomic uint32_t kind;  // thread_view_kind
    uint32_t pool;          // as there
    uint32_t thread;        // as the kernel numbers it
    uint32_t running;       // calls, those included that wait for the one above them
    uint32_t is_abandoned;  // 1: the future of the one that runs was told that it ended
    uint32_t progress;      // the cell with what a call of it has told of how far it is; 0: none has
    int64_t began_ns;       // of the call that runs, or the last tick before
    call_name name;         // its own
    tally counts;           // of the calls that it has run
} thread_view_worker;

// Of a pool that wants to know for how long calls wait.
typedef struct thread_view_times {
    _Atomic uint32_t kind;  // thread_view_kind
    uint32_t pool;          // as there
    call_times times;
} thread_view_times;

typedef enum thread_view_number_kind {
    THREAD_VIEW_NO_NUMBER,
    THREAD_VIEW_INTEGER,  // an int64_t
    THREAD_VIEW_FLOAT,    // a double
} thread_view_number_kind;

typedef struct thread_view_number {
    uint64_t kind;  // thread_view_number_kind
    uint64_t bits;
} thread_view_number;

#define THREAD_VIEW_NOTE_BYTES 240
#define THREAD_VIEW_NO_NOTE UINT64_MAX

// What a call has told of how far it is.
typedef struct thread_view_told {
    uint64_t running;  // as of its worker then: another call has told nothing; 0: nothing was told
    thread_view_number done, total;
    uint64_t note_bytes;                // of UTF-8; or THREAD_VIEW_NO_NOTE
    char note[THREAD_VIEW_NOTE_BYTES];  // as much of it as fits
} thread_view_told;

#define THREAD_VIEW_TOLD_WORDS (sizeof(thread_view_told) / sizeof(uint64_t))

typedef struct thread_view_progress {
    _Atomic uint32_t kind;  // thread_view_kind
    _Atomic uint32_t version;
    _Atomic uint64_t words[THREAD_VIEW_TOLD_WORDS];  // a thread_view_told
} thread_view_progress;

_Static_assert(sizeof(thread_view_told) % sizeof(uint64_t) == 0, "it is made of words");
_Static_assert(sizeof(thread_view_head) <= THREAD_VIEW_CELL, "the head is a cell");
_Static_assert(sizeof(thread_view_pool) == THREAD_VIEW_CELL, "the layout is shared");
_Static_assert(sizeof(thread_view_worker) == THREAD_VIEW_CELL, "the layout is shared");
_Static_assert(sizeof(thread_view_times) <= THREAD_VIEW_CELL, "the layout is shared");
_Static_assert(sizeof(thread_view_progress) <= THREAD_VIEW_CELL, "the layout is shared");

// A cell of zeros, for the taker to fill in; NULL: there is none.
void *thread_view_take(void);

// Others see it from now on.
void thread_view_show(void *cell, thread_view_kind kind);

// Which one it is of those in the table: what other cells may have of it.
uint32_t thread_view_place(const void *cell);

// Has a cell say that from now on.
void thread_view_tell(thread_view_progress *cell, const thread_view_told *told);

// Does nothing with what is no cell, or one that this process has from before a fork.
void thread_view_give_back(void *cell);

// A pool cannot be seen.  False: there is no table that could tell so; else thread_view_unhide() when it
// ends.
bool thread_view_hide(void);
void thread_view_unhide(void);

// In the child of a fork: closes the file, which is the parent's.
void thread_view_after_fork(void);

// The table of whatever process, copied twice.
typedef struct thread_view_table {
    unsigned char *cells, *again;  // what stood there, and a moment later
    uint32_t top;                  // the number of cells
} thread_view_table;

// False: the file is no table of this version, or cannot be read.  On success the caller frees it.
bool thread_view_copy(int fd, thread_view_table *table);
void thread_view_free(thread_view_table *table);

static inline const thread_view_head *
thread_view_head_of(const thread_view_table *table)
{
    return (const thread_view_head *)(const void *)table->cells;
}

// A cell of a copy, 1 or above, which is of that kind; NULL: it is not.
const void *thread_view_cell(const thread_view_table *table, uint32_t place, thread_view_kind kind);

// What the call of a worker in a cell is named, as call_name_read().
bool thread_view_read_call(const thread_view_table *table, uint32_t place, char name[CALL_NAME_BYTES + 1]);

// What the call that it runs has told; false: nothing, or that is just changing.  The note has its length.
bool thread_view_read_told(const thread_view_table *table, uint32_t place, thread_view_told *told);

#endif
