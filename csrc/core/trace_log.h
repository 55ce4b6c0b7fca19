// trace_log: what became of calls, and when, as records of 48 bytes in the order in which they were begun.
//
// A call is one record, which is written as it goes: where and when it was submitted, where and when it
// began, how and when it ended.
//
//     trace_log_submit() -----> began_ns -----> ended_ns     a call that ran
//             '-------------------------------> ended_ns     one that never did
//
// So a call is in the log whole or not at all, and one that has not ended shows how far it got.  What else
// happened has a record of its own.  The log has room for so many, and takes the memory that it has written
// to, in huge pages where there are any.  When it is *full* it goes on with the calls that it has, and counts
// the others.  So a log is what happened up to some moment, and says so.
//
// Reading gives the memory back as it goes.  The child of a fork does not have the records.  The caller
// guards the log.  No Python.
#ifndef PYCONC_TRACE_LOG_H
#define PYCONC_TRACE_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "quick_clock.h"

typedef enum trace_kind {
    TRACE_CALL,
    TRACE_STEAL,         // calls were taken from another one, for whoever was idle
    TRACE_DELIVERY,      // of results to a loop
    TRACE_WORKER_BEGIN,  // a worker process is there
    TRACE_WORKER_END,
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

// Times are as clock_now_ns().
typedef struct trace_record {
    int64_t time_ns;  // when it was begun, which is after the one that stands before it; of a call that is
                      // when it was submitted, and which one it is
    union {
        int64_t began_ns;  // of a call, 0: it has not begun; of a delivery, which was over at `time_ns`
        int64_t call;      // of a STEAL: from which one
    };
    int64_t ended_ns;    // of a call; 0: it has not ended
    uint32_t thread;     // in which it happened, as the kernel numbers it; of a worker its process
    uint32_t runner;     // of a call that has begun: the same, where it ran; of another: which ended it
    uint32_t name;       // of a call: the number of its name
    uint32_t pool;       // of a call and a worker: the number of its pool's name
    uint32_t count;      // of calls of the program: for which it stands, that were taken; or of results
    uint8_t kind;        // trace_kind
    uint8_t end;         // of a call that has ended, and of a worker: trace_ending
    uint8_t is_process;  // 1: `runner` is a worker's process
    uint8_t unused;
} trace_record;

_Static_assert(sizeof(trace_record) == 48, "the layout is known to pyconc/_timeline.py");

typedef struct trace_log {
    trace_record *records;  // NULL: closed
    uint64_t room, count;
    uint64_t found;     // where the call is that was looked for last
    uint64_t read;      // how many have been read
    uint64_t released;  // bytes of them that the system has back
    quick_clock clock;  // that records have their times by
    int64_t began_ns;
    uint64_t missing;       // calls that were not, as the log was full
    int64_t full_since_ns;  // when the first of them came; 0: there was none
} trace_log;

// For so many records.  0; -1: there is no memory.
int trace_log_open(trace_log *log, uint64_t room);

// Accepts a closed log, and the child of a fork.
void trace_log_close(trace_log *log);

// The time, for records.
static inline int64_t
trace_log_now_ns(trace_log *log)
{
    return quick_clock_now_ns(&log->clock);
}

// A call is submitted: its record, in which the caller fills in who submits what; NULL: the log is full.
static inline trace_record *
trace_log_submit(trace_log *log)
{
    int64_t call = quick_clock_later_ns(&log->clock);
    if (__builtin_expect(log->count == log->room, 0)) {
        log->full_since_ns = log->missing++ == 0 ? call : log->full_since_ns;
        return NULL;
    }
    trace_record *record = &log->records[log->count++];
    record->time_ns = call;
    return record;
}

// Adds a record of something else that happens now, for the caller to fill in; NULL: the log is full.
trace_record *trace_log_add(trace_log *log, trace_kind kind);

// What trace_log_find() does when it does not know at once.
trace_record *trace_log_search(trace_log *log, int64_t call);

// The record of a call; NULL: it is not in this log.
static inline trace_record *
trace_log_find(trace_log *log, int64_t call)
{
    // Mostly it is the one that was found last, or the one behind it.
    trace_record *record = &log->records[log->found];
    if (record->time_ns != call) {
        bool is_next = log->found + 1 < log->count && record[1].time_ns == call;
        log->found += is_next;
        return is_next ? record + 1 : trace_log_search(log, call);
    }
    return record;
}

// The next record, until the one after the next is read; NULL: that was all.
const trace_record *trace_log_next(trace_log *log);

#endif
