// trace_log: what became of calls, and when, as records of 32 bytes in the order in which they were written.
//
// The log has room for so many records, and takes the memory that it has written to.  A call is in it whole
// or not at all: to *admit* one keeps room for all of its records, and when that is not to be had, the log is
// *full* for calls.  It goes on with those that it has, and counts the others.  So a log is what happened up
// to some moment, and says so.
//
//     SUBMIT --------------> BEGIN --------------> END     a call that ran
//        '----------------------------------------> END     one that never did
//
// A record may be written long after what it tells of, so the log is sorted before it is read.  Reading gives
// the memory back as it goes.
//
// The child of a fork does not have the records.  The caller guards the log.  No Python.
#ifndef PYCONC_TRACE_LOG_H
#define PYCONC_TRACE_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "quick_clock.h"

// At the same time, they happened in this order.
typedef enum trace_kind {
    TRACE_WORKER_BEGIN,  // a worker process is there; number: of its pool's name
    TRACE_SUBMIT,        // number: of the call's name
    TRACE_BEGIN,         // number: for how many calls of the program this one stands
    TRACE_STEAL,         // number: of calls that were taken from it, for another one
    TRACE_END,
    TRACE_DELIVERY,    // to a loop, which ends now; `call` is when it began; number: of results
    TRACE_WORKER_END,  // number: of its pool's name
} trace_kind;

// How a call ended.
typedef enum trace_ending {
    TRACE_RETURNED,
    TRACE_FAILED,  // it raised something, or could not be sent or brought back
    TRACE_CANCELLED,
    TRACE_TIMED_OUT,
    TRACE_DIED,       // with its worker, or with its executor
    TRACE_ABANDONED,  // it ended after its future was told that it would not
} trace_ending;

typedef struct trace_record {
    int64_t time_ns;    // as clock_now_ns()
    int64_t call;       // of a call: which, as trace_log_admit() has said
    uint32_t thread;    // as the kernel numbers it; of a worker process: its process
    uint32_t number;    // see trace_kind
    uint32_t pool;      // of a SUBMIT: the number of its pool's name
    uint8_t kind;       // trace_kind
    uint8_t end;        // of an END: trace_ending
    uint8_t is_worker;  // 1: it was in a worker process
    uint8_t unused;
} trace_record;

_Static_assert(sizeof(trace_record) == 32, "a record is half a cache line");

typedef struct trace_log {
    trace_record *records;  // NULL: closed
    uint64_t room, count;
    uint64_t kept;      // room that calls will need which were admitted
    uint64_t read;      // how many have been read
    uint64_t released;  // bytes of them that the system has back
    quick_clock clock;  // that records have their times by
    int64_t began_ns;
    uint64_t missing;       // calls that were not, as the log was full
    int64_t full_since_ns;  // when the first of them came; 0: there was none
} trace_log;

// 0; -1: there is no memory.
int trace_log_open(trace_log *log, uint64_t room);

// Accepts a closed log, and the child of a fork.
void trace_log_close(trace_log *log);

// A call is submitted: returns which one it is, or 0: the log is full.  It is the time, and unlike any
// other's.
int64_t trace_log_admit(trace_log *log);

// The time, for records.
static inline int64_t
trace_log_now_ns(trace_log *log)
{
    return quick_clock_now_ns(&log->clock);
}

// Adds a record, of a call that was admitted since the log was opened, for the caller to fill in: other
// fields are 0.  Or one of no call; that is NULL when the log is full.
static inline trace_record *
trace_log_add(trace_log *log, trace_kind kind, int64_t time_ns)
{
    if (kind == TRACE_SUBMIT || kind == TRACE_BEGIN || kind == TRACE_END) {
        log->kept--;
    }
    else if (log->room - log->count <= log->kept) {
        return NULL;
    }
    trace_record *record = &log->records[log->count++];
    record->time_ns = time_ns;
    record->kind = (uint8_t)kind;
    return record;
}

// Whether the log has admitted that call.
static inline bool
trace_log_has(const trace_log *log, int64_t call)
{
    return call >= log->began_ns;
}

// Puts the records in the order of their times.  Takes no memory.
void trace_log_sort(trace_log *log);

// The next record, until the one after the next is read; NULL: that was all.
const trace_record *trace_log_next(trace_log *log);

#endif
