// call: the Python type pyconc._core.Call: a call that a worker runs, as the code in it sees it.
//
// A thread that runs calls has a *call_place*.  When the code of a call asks for its Call, the place makes
// one, and ends it when the call is over; so a call that does not ask costs a look at a pointer.  A Call that
// the program keeps says from then on what was true at the end.
//
// Whoever wants a call to end says so where the place's reason() finds it, and has call_interrupt() called in
// the call's thread, which raises TaskCancelled there, once.  Nothing is raised while the call is *shielded*:
// the code that leaves the shield is interrupted then.
//
// The GIL guards all of it.
#ifndef PYCONC_CALL_H
#define PYCONC_CALL_H

#include "call_options.h"
#include "state.h"

#include "core/stop_reason.h"

struct call_place;

typedef struct CallObject {
    PyObject_HEAD
    struct call_place *place;  // that runs it; NULL: it is over
    PyObject *callable;
    PyObject *name;       // str, or NULL
    PyObject *progress;   // what its code has told last, or NULL
    int64_t began_ns;     // by clock_now_ns()
    int64_t timeout_ns;   // as in call_options
    int64_t deadline_ns;  // the same
    unsigned shields;     // entered and not left
    stop_reason reason;   // why it was to end, once it is over
} CallObject;

// The front of what runs calls, one at a time.
typedef struct call_place {
    module_state *module;  // borrowed; set once
    // The Call that runs: call_place_get() with what it is about.  A new reference; NULL without an
    // exception: none runs.
    CallObject *(*get)(struct call_place *place);
    // Why the call that runs is to end.
    stop_reason (*reason)(const struct call_place *place);
    // TaskCancelled that another thread has asked for, and that was not raised yet, is not raised: True if
    // there was one.  NULL: no other thread can ask.
    bool (*take_back)(struct call_place *place);
    // TaskCancelled is about to be raised in the call.  NULL: nobody wants to know.
    void (*note)(struct call_place *place);
    // TaskCancelled that was raised in the call was lost: has it raised again, if the call is to end.  NULL:
    // somebody else sees to that.
    void (*raise_again)(struct call_place *place);
    // Shows others what the call that runs is a call of.  False: none runs.  NULL: nobody is shown that.
    bool (*show)(struct call_place *place, PyObject *callable);
    // The call that runs has told how far it is, or the one is over that had.  NULL: nobody is shown that.
    void (*told)(struct call_place *place);
    CallObject *call;     // that runs, owned; NULL: none runs, or none has asked
    PyObject *inner;      // what its code says that it is a call of, owned, or NULL; show()'s unit drops it
    bool is_interrupted;  // call_interrupt() has raised in the call that runs
    bool is_remote;       // another process wants to know how far its calls are; set once
    bool has_timed_out;   // the time of the call that has just ended was over; its counter clears this
} call_place;

// The place of the thread that looks; NULL: it runs no calls.
extern _Thread_local call_place *call_here;

// For get(): the Call of the place, made if there is none.  A new reference; NULL with an exception.
CallObject *call_place_get(call_place *place, PyObject *callable, const call_options *options,
                           int64_t began_ns);

// Makes sure that TaskCancelled is known.  0, or -1 with an exception.
int call_learn_cancelled(module_state *module);

// In the thread of the call that runs: a stop that was asked for and not raised yet may be asked for again.
static inline void
call_take_back(call_place *place)
{
    if (place->take_back != NULL && place->take_back(place)) {
        place->is_interrupted = false;
    }
}

// Raises TaskCancelled if the call that runs is to end, may be interrupted now, and was not before.  0, or -1
// with that.
int call_interrupt(call_place *place);

// A number of seconds, or None if `ns` is `none`.
PyObject *call_build_seconds(int64_t ns, int64_t none);

// What Call.reason() returns.
PyObject *call_build_reason(stop_reason reason);

#define CALL_NOT_BEGUN INT64_C(-1)

// The exception of a call whose time is over: after it had run for so long, or CALL_NOT_BEGUN; with where it
// was then: a str, what returns one or None, or NULL; and how it ended, as TaskTimeout.stopped has it.  If
// that cannot be made, why.  Never NULL, and none is set.
PyObject *call_timeout_error(PyObject *callable, const call_options *options, int64_t ran_ns, PyObject *stack,
                             const char *stopped);

// The call that ran is over.
static inline void
call_end(call_place *place)
{
    CallObject *call = place->call;
    place->is_interrupted = true;  // nothing is raised any more
    if (call != NULL) {
        call->reason = place->reason(place);
        call->place = NULL;
        place->call = NULL;
        if (call->progress != NULL && place->told != NULL) {
            place->told(place);
        }
        Py_DECREF(call);
    }
}

extern PyType_Spec call_spec;
extern PyMethodDef call_functions[];

#endif
