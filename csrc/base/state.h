// state: what one import of pyconc._core owns, and the few services that every unit shares.
//
// One folder per layer; an arrow points down only:
//
//     module.c  executor.c     types are made, names are looked up;  submit(): a call becomes a task
//     threads/  processes/     queues of tasks, and the workers that run them
//     futures/  loops/         the two kinds of destination
//     base/                    this state, and the task: a call, its arguments and its destination
//     core/                    queues, parking and shared memory, without Python
//
// The GIL guards all mutable state here, except for the park_spots and the gil_hint, which are atomic.  The
// state lives as long as the module, which every type keeps alive.
#ifndef PYCONC_STATE_H
#define PYCONC_STATE_H

#include "compat.h"
#include "core/node_list.h"
#include "core/park.h"
#include "core/timer_heap.h"
#include "gil.h"
#include "standard.h"

// clang-format off: lists, laid out by hand.

// The module's own types.
#define MODULE_TYPES(X)                                                                         \
    X(block) X(call) X(chain) X(executor) X(future) X(keeper) X(loop_bridge) X(map_feed) X(map_results) \
    X(method) X(outbox) X(process_queue) X(region) X(shared_array) X(shared_cell) X(shared_condition) \
    X(shared_dict) X(shared_event) X(shared_heap) X(shared_list) X(shared_lock) X(shared_number) \
    X(shared_outcome) X(shared_queue) X(shared_semaphore) X(shared_watch) X(thread_queue) X(ticket) \
    X(waiter) X(worker)

// The objects of other modules that it uses.
#define MODULE_OBJECTS(X)                                                                        \
    X(cancelled_error)     /* concurrent.futures.CancelledError */                               \
    X(timeout_error)       /* concurrent.futures.TimeoutError */                                 \
    X(invalid_state_error) /* concurrent.futures.InvalidStateError */                            \
    X(logger)              /* the logger "concurrent.futures" */                                 \
    X(condition_type)      /* threading.Condition */                                             \
    X(threading_names)     /* threading.__dict__ */                                              \
    X(get_ident_name)      /* "get_ident" */                                                     \
    X(checkpoint)          /* a function of one bytecode: serves the eval breaker */             \
    X(task_cancelled)      /* pyconc.TaskCancelled; NULL until it is first raised */             \
    X(unraisable_hook)     /* see lost_exception.h; NULL while it is the program's */            \
    X(pickle_dumps)                                                                              \
    X(pickle_loads)                                                                              \
    X(registered_reducers)   /* a dict of multiprocessing's, NULL until something is pickled */  \
    X(shared_types)          /* a set of pyconc._process.pickling, NULL until then */            \
    X(pickle_protocol)       /* the int 5 */                                                     \
    X(buffer_callback_names) /* ("buffer_callback",) */                                          \
    X(buffers_names)         /* ("buffers",) */                                                  \
    X(loop_names)            /* ("loop",) */                                                     \
    /* Of asyncio, NULL until it is first seen; what pyconc._asyncio_glue.describe() returns. */ \
    X(run_in_executor_code)     /* of BaseEventLoop.run_in_executor */                           \
    X(our_run_in_executor_code) /* of the one that adopt_loop() gives to loops like uvloop's */  \
    X(call_set_state_code)      /* of the closure that wrap_future() hangs on a future */        \
    X(convert_exception)        /* concurrent.futures' exceptions to asyncio's */                \
    X(get_running_loop)                                                                          \
    X(loop_future_type)         /* see loop_future.c */                                          \
    X(running_task)          /* of pyconc._asyncio_glue */                                       \
    X(adopt_loop) /* called with each loop that gets a bridge */

// The classes of the standard library that a program may patch.
#define MODULE_STANDARD_CLASSES(X)                                                                \
    X(future)    /* concurrent.futures.Future */                                                  \
    X(threads)   /* concurrent.futures.ThreadPoolExecutor */                                      \
    X(processes) /* concurrent.futures.ProcessPoolExecutor; not watched until that is imported */ \
    X(lock)      /* the type of threading.Lock(): detectors of blocking calls patch its acquire() */

// Names of attributes, interned.
#define MODULE_STRINGS(X)                                                                \
    X(_call_set_state)                                                                   \
    X(_cancel_message)                                                                   \
    X(_function)                                                                         \
    X(_get_snapshot)                                                                     \
    X(_pyconc_bridge)                                                                    \
    X(_renew)                                                                            \
    X(_start_workers)                                                                    \
    X(args)                                                                              \
    X(call_soon)                                                                         \
        X(call_soon_threadsafe) X(cancel) X(cancelled) X(create_future) X(done) X(drain) \
            X(exception) X(func) X(is_closed) X(result) X(run_in_executor) X(self)       \
            X(set_exception) X(set_result) X(submit)

// Names of future_state's values, interned and in its order.
#define MODULE_STATE_NAMES(X) \
    X(PENDING)                \
    X(RUNNING)                \
    X(CANCELLED)              \
    X(CANCELLED_AND_NOTIFIED) X(FINISHED)

// clang-format on

struct module_state;

// What loops know of callbacks on a pyconc.Future; for futures, which know no loops.
typedef struct callback_hooks {
    // The program added it to a pending future.  0, or -1 with an exception.
    int (*added)(struct module_state *state, PyObject *future, PyObject *callback);
    // Its future is done.  1: the outcome (borrowed; neither: cancelled) is on its way to what the callback
    // would complete.  0: the caller calls the callback.  -1: as 1, with an exception that was raised
    // meanwhile.
    int (*forward)(struct module_state *state, PyObject *future, PyObject *callback, bool was_added,
                   PyObject *result, PyObject *exception);
    // See loop_bridge_look().
    int (*look)(struct module_state *state, int64_t now_ns);
} callback_hooks;

// See threads/limit_watch.h.  Guarded by the GIL, except that the two words are also slept on without it.
typedef struct limit_watcher {
    timer_heap heap;  // of limits
    int64_t sleeps_until_ns;
    _Atomic uint32_t changes;         // changes whenever it has to look before that
    _Atomic uint32_t is_running;      // 1: the thread is there, or about to be
    PyInterpreterState *interpreter;  // whose the thread is
    bool may_rest;                    // it is to end if there are no limits
    bool is_acting;                   // it may run code of the program
    bool is_over;                     // the interpreter exits
    uint32_t forks;                   // that this process and those before it have come from
} limit_watcher;

typedef struct module_state {
#define DECLARE(name) PyTypeObject *name##_type;
    MODULE_TYPES(DECLARE)
#undef DECLARE
#define DECLARE(name) PyObject *name;
    MODULE_OBJECTS(DECLARE)
#undef DECLARE
#define DECLARE(name) PyObject *str_##name;
    MODULE_STRINGS(DECLARE)
#undef DECLARE
    PyObject *state_names[5];
#define DECLARE(name) standard_class standard_##name;
    MODULE_STANDARD_CLASSES(DECLARE)
#undef DECLARE

    const callback_hooks *callbacks;  // set once

    Py_ssize_t dest_loop_cell;    // where the closure of wrap_future() keeps the loop,
    Py_ssize_t destination_cell;  //   and the asyncio future
    Py_ssize_t loop_future_task;  // offset in a loop_future_type of its task

    Py_ssize_t reducers_seen;  // how many of registered_reducers were looked at,
    bool uses_reducers;        //   and whether pickling is to honour them

    uint32_t thread_queues;   // how many were made
    uint32_t calls_to_end;    // in threads, see lost_exception.h
    uint32_t shared_watches;  // how many are open

    list_link *untracked;  // futures that the garbage collector does not track, see future.h; borrowed
    list_link *riding;     // bridges with deliveries that ride along, see loop_bridge.h; borrowed

    park_spot result_spot;     // where threads wait for one future or a set of them
    park_spot busy_wait_spot;  // where a loop's thread gives a short task the time to end
    park_spot end_spot;        // where a thread waits for the threads of a pool that end
    limit_watcher limits;      // of calls in threads
    gil_hint gil;
} module_state;

extern struct PyModuleDef core_module;  // in module.c, which stands on top and makes the types

// The state of the module that defined the type or its base.  Never fails for our types.
module_state *module_state_of(PyTypeObject *type);

// Logs a message about an exception that no caller can be told of, as concurrent.futures does: at the given
// level's method, with traceback.  Takes the exception from the caller.
void module_log(module_state *state, const char *method, const char *message, PyObject *about,
                PyObject *exception);

// Logs the exception that is set, which escaped from a task's delivery and which no caller can raise.
void module_log_escaped(module_state *state);

// Calls a function of one bytecode, so that the interpreter does what it does between bytecodes: passes the
// GIL to a thread that has waited for a switch interval, delivers asynchronous exceptions.
void module_checkpoint(module_state *state);

// A worker that runs only C functions never looks whether another thread wants the GIL or a signal waits, so
// it calls module_checkpoint() this often at least: fifty times in a switch interval.
#define MODULE_CHECKPOINT_NS 100000
// Since 3.11 every call of a Python function looks; reading the clock would cost more than the rest of a
// checkpoint.
#define MODULE_CALLS_CHECK (PY_VERSION_HEX >= 0x030B0000)

// Waits, without the GIL, until *word is not 0: FUTEX_OK, FUTEX_TIMED_OUT, or FUTEX_INTERRUPTED with the
// exception that a signal handler raised.
int module_wait(module_state *state, _Atomic uint32_t *word, int64_t deadline_ns);

// Turns a timeout in seconds, or None, into a deadline for futex_wait().  0, or -1 with an exception.
int module_deadline(PyObject *timeout, int64_t *deadline_ns);

#endif
