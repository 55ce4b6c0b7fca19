// call_options: what the program wants of a call besides its outcome.
#ifndef PYCONC_CALL_OPTIONS_H
#define PYCONC_CALL_OPTIONS_H

#include "compat.h"

// What becomes of a task that is cancelled while it runs.
typedef enum stop_how {
    STOP_ABANDON,    // nothing: it goes on
    STOP_INTERRUPT,  // an exception is raised in it, and its worker is killed if it has not ended in time
    STOP_KILL,       // its worker is killed
} stop_how;

typedef struct call_options {
    bool is_special;  // something below is not the default
    stop_how how;
    int64_t grace_ns;     // of STOP_INTERRUPT: how long it may take to end
    int64_t timeout_ns;   // how long it may run; CALL_NO_LIMIT: for ever
    int64_t deadline_ns;  // when it must have ended, by clock_now_ns(); CALL_NO_LIMIT: never
    PyObject *name;       // what its task is called, a str; NULL: as its function
} call_options;

#define CALL_NO_LIMIT INT64_MAX

// Whether a call has an end that somebody must watch over.
static inline bool
call_is_limited(const call_options *options)
{
    return options->timeout_ns != CALL_NO_LIMIT || options->deadline_ns != CALL_NO_LIMIT;
}

#endif
