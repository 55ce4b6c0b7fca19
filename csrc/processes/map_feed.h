// map_feed: ProcessPoolExecutor.map(): many calls in a message, as many as their time warrants.
//
//     iterables --> unsent --> chunks ==> the queue, a worker ==> settled --> results
//      consumer        consumer or                  consumer or               consumer
//                      result handler               result handler
//
// Calls go out in *chunks*.  The size of a chunk follows the time that calls have taken so far, so that it
// keeps a worker busy for about TARGET_NS: hundreds of short calls, or one long call.  A few chunks are under
// way for each worker; when one has ended, the next is sent.  Towards the end chunks shrink, so that all
// workers end together.  Calls may turn out longer than those before: a worker returns a chunk that has
// taken long with what it has done, and the rest is sent anew.  When nothing is left to send and a worker is
// idle, the second half of what another has yet to do is taken from it.
//
// Two objects share the work.  A *map feed* owns what is read and not sent, and the chunks in the order of
// their items.  *Map results*, see map_results.h, are the iterator that map() returns.  The feed outlives the
// iterator while chunks are under way: their jobs keep it.
//
// The queue tells of the end of each chunk's job by its followup, which runs after the delivery and outside
// of it, in the result handler's thread or in the consumer's, whoever is first; it settles the chunk: learns
// from its time, sends its rest, and sends more.  So workers are fed while the consumer is elsewhere, and no
// Python code that a signal handler could interrupt counts the chunks.
//
// The feed's keeper keeps the queue open while calls are unsent or under way.
//
// Everything is guarded by the GIL.  To pack items, to read them and to free them may run any code and let
// other threads run; every function here leaves its structures in order before it does any of that.
#ifndef PYCONC_MAP_FEED_H
#define PYCONC_MAP_FEED_H

#include "keeper.h"
#include "process_submit.h"

// How many chunks are under way for each worker, so that none waits for the next.
#define MAP_CHUNKS_AHEAD 3

struct MapFeedObject;

// Some calls that travel together.
typedef struct chunk {
    job_followup followup;          // first: a followup is its chunk
    struct chunk *previous, *next;  // while it is listed
    struct MapFeedObject *feed;     // a reference, until the chunk is settled; then NULL
    PyObject *items;                // list; NULL once it is settled
    Py_ssize_t count;               // of items that it stands for: fewer once a second half was taken away
    destination to;                 // a Future
    uint32_t references;            // of the feed's list, of its job, and of functions at work
    bool is_listed;
    bool is_pushed;  // its followup will run, or has run
} chunk;

typedef struct MapFeedObject {
    PyObject_HEAD
    module_state *module;  // borrowed from the type
    ProcessQueueObject *queue;
    PyObject *callable;
    PyObject *start_workers;  // is called when tasks outnumber workers
    PyObject *times;          // what earlier maps know of the callable: times.learn(callable, call_ns)
    PyObject *unsent;         // list
    Py_ssize_t front;         // where in it the unsent items begin; before that is None
    chunk *first, *last;      // in the order of items: those that the consumer has not taken
    uint32_t under_way;       // chunks that are not settled
    Py_ssize_t chunk_size;    // 0: by time
    Py_ssize_t most;          // largest chunk by time
    Py_ssize_t largest;       // chunk by time so far; 0 if there is no reason to be careful
    double call_ns;           // what a call takes; negative: unknown
    double calls;             // that it is known from; the knowledge of earlier maps counts as one at most
    double told;              // so many of them when `times` was told last
    PyObject *error;          // what the consumer gets after the last result; or NULL
    keeper keeps;             // the queue open, while calls are unsent or under way
    bool star;                // items are tuples of arguments
    bool is_complete;         // nothing will be added to the unsent items
    bool is_closed;           // nobody wants results, and what is not under way is not run
    bool is_detached;         // nobody wants results, but all is run
} MapFeedObject;

extern PyType_Spec map_feed_spec;

// ---- for map_results ----

// An empty feed, of which the caller sets the fields.  NULL with an exception.
PyObject *map_feed_new(module_state *module);

Py_ssize_t map_feed_count_unsent(const MapFeedObject *feed);

// Sends unsent items until as many chunks are under way as may be.  `is_interruptible`: the caller is the
// consumer, which closes the feed if a signal handler raises.  0; -1 with an exception; PACKING_INTERRUPTED
// with one of a signal handler.
int map_feed_send_unsent(MapFeedObject *feed, bool is_interruptible);

// Gives idle workers the second halves of what other workers have yet to do.  0, or < 0 as above.
int map_feed_share(MapFeedObject *feed, bool is_interruptible);

// Keeps the queue open while the feed needs it, and no longer.  0, or -1 with what submit() would raise.
int map_feed_update_keep_open(MapFeedObject *feed);

// Ends the feed: nothing more is sent, and what no worker has taken is cancelled.  Keeps the exception that
// is set.
void map_feed_close(MapFeedObject *feed);

// Draws the consequences of a chunk's end, once: if another thread has begun with that, it has listed the
// rest of the chunk before it let this thread run.  0, or -1 with an exception.
int chunk_settle(chunk *c, bool is_interruptible);

// The consumer has taken what the chunk has; and lets go of its reference.
void chunk_unlist(MapFeedObject *feed, chunk *c);
void chunk_release(chunk *c);

#endif
