// trace: writes down what becomes of calls, while the program wants to know.
//
//     submit            trace_submit()    in the thread that submits
//     a thread runs it  trace_begin(), trace_end()    in that thread
//     a process ran it  trace_ran()       in the thread that delivers the outcome, which says when it ran
//     it never runs     trace_end()       in the thread that ends it
//
// Each finds the one record that a call has, see trace_log.h, and writes its part of it.
//
// While no trace is on, all that this costs is a look at `trace_on` when a call is submitted, and at the
// task's own word `traced` when it begins and ends: 0 or below, it was not submitted while a trace was on.
// Otherwise that is which call it is, and when it was submitted.  It may be of a trace that is over, and then
// nothing is written.  Whoever ends a call sets it to 0, so a call that was submitted ends once, whichever
// way it goes.
//
// What a trace keeps of the program is names, so it keeps no function alive, and it runs no code of the
// program.  One trace is on at a time, in this process alone: in the child of a fork none is.
//
// Every function here is called with the GIL, which guards everything.
#ifndef PYCONC_TRACE_H
#define PYCONC_TRACE_H

#include "state.h"

#include "core/trace_log.h"

typedef struct trace trace;

// The one that is on, or NULL.
extern trace *trace_on;

// How many there have been in this process, up to the one that is on.
extern uint32_t trace_count;

// What a queue keeps to be known by in a trace; zeros: it is not known yet.
typedef struct trace_label {
    uint32_t trace;  // the trace_count then
    uint32_t number;
} trace_label;

// Whether the trace that is on knows a queue.
static inline bool
trace_knows(const trace_label *label)
{
    return label->trace == trace_count;
}

// From here on it does; `name`: a str, or anything else for none.
void trace_name(trace_label *label, PyObject *name);

// A call is submitted to a queue that is known: which one it is, or 0 if the trace is full.  name: by its
// options, or NULL: as its function.
int64_t trace_submit(const trace_label *queue, PyObject *callable, PyObject *name);

// The time, as the trace that is on reads it.
int64_t trace_now_ns(void);

// It begins in this thread, now.
void trace_begin(int64_t call, int64_t now_ns);

// It ends in this thread.  When that is; 0: the trace is over.
int64_t trace_end_traced(int64_t *call, trace_ending how);

static inline void
trace_end(int64_t *call, trace_ending how)
{
    if (__builtin_expect(*call > 0, 0)) {
        (void)trace_end_traced(call, how);
    }
}

// It has run in a worker process, as so many of the program's.  Times that cannot be are put right, though
// not to the millisecond: the worker may have written nonsense.
#define TRACE_ENDS_NOW INT64_MAX
void trace_ran(int64_t *call, uint32_t process, int64_t began_ns, int64_t ended_ns, uint32_t calls,
               trace_ending how);

// This thread has taken so many calls of the program away from one that stands for several.
void trace_stolen(int64_t call, uint32_t calls);

// This thread has delivered so many results to its loop since then.  While a trace is on.
void trace_delivered(int64_t began_ns, uint32_t results);

// A worker process of a known queue has begun, or ended: TRACE_WORKER_BEGIN, TRACE_WORKER_END.
void trace_worker(const trace_label *queue, trace_kind what, uint32_t process, bool lost_calls);

// trace_start(), trace_stop() and what reads the trace then.
extern PyMethodDef trace_functions[];

#endif
