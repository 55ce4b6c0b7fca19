#include "chunk_map.h"

#include "core/clock.h"
#include "futures/future.h"
#include "futures/future_destination.h"
#include "futures/future_wait.h"
#include "job_table_look.h"

// What a chunk should take: the cost of sending it, some 20 us, is then a small part.
#define TARGET_NS 1e6
// What it should take at least, so that little is lost on the way, however few calls are left.
#define LEAST_NS 1e5
// How many chunks for each worker what is left makes at least: sending, running and receiving overlap.
#define SHARES 4
// How many chunks are under way for each worker, so that none waits for the next.
#define AHEAD 3
// How many calls are too few to outweigh what is known.
#define FEW_CALLS 4
// How much larger than the largest so far the next chunk may be: one quick call does not mean that all are.
#define GROWTH 256
// How long the consumer waits for a chunk before it looks for idle workers, which could make the calls behind
// the one that takes so long; then twice as long each time.  Chunks of short calls have come back by then, as
// the worker bounds them.
#define PATIENCE_NS 40000000
// How many sent items the list of the unsent ones may begin with before it is cut.
#define CUT_AT 1024

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

// All fields: GIL.
typedef struct MapResultsObject {
    PyObject_HEAD
    PyObject *weakrefs;
    MapFeedObject *feed;
    PyObject *source;     // iterator; NULL once it is exhausted
    bool is_lazy;         // to read the source may run anybody's code
    int64_t ahead;        // so many items may be read ahead of the results taken
    int64_t read, taken;  // items, results
    bool has_deadline;
    double deadline;    // seconds of the monotonic clock
    PyObject *values;   // list, of the chunk that was taken last; or NULL
    Py_ssize_t next;    // of them
    PyObject *failure;  // packed exception that ended that chunk; or NULL
    bool has_begun;     // a result was asked for
    bool is_running;    // a thread is in here
} MapResultsObject;

// ---- chunks ----

static void
chunk_release(chunk *c)
{
    if (--c->references == 0) {
        Py_XDECREF((PyObject *)c->feed);
        Py_XDECREF(c->items);
        destination_clear(&c->to);
        PyMem_Free(c);
    }
}

static void chunk_run_followup(job_followup *followup);

// A chunk with room for so many items, listed nowhere; the caller owns the only reference.
static chunk *
chunk_new(MapFeedObject *feed, Py_ssize_t room)
{
    chunk *c = PyMem_Calloc(1, sizeof(chunk));
    if (c == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    c->followup.run = chunk_run_followup;
    c->references = 1;
    c->items = PyList_New(room);
    if (c->items == NULL || future_destination(feed->module, &c->to) < 0) {
        chunk_release(c);
        return NULL;
    }
    Py_SET_SIZE(c->items, 0);
    return c;
}

// Fills a new chunk with items of a list, from `start` to `end`.  Runs nobody's code.
static void
chunk_fill(chunk *c, PyObject *items, Py_ssize_t start, Py_ssize_t end)
{
    c->count = end - start;
    Py_SET_SIZE(c->items, c->count);
    for (Py_ssize_t i = start; i < end; i++) {
        PyList_SET_ITEM(c->items, i - start, Py_NewRef(PyList_GET_ITEM(items, i)));
    }
}

// Lists a chunk behind another, or as the last if that is NULL.  The list takes the caller's reference.
static void
chunk_list(MapFeedObject *feed, chunk *c, chunk *before)
{
    before = before == NULL ? feed->last : before;
    c->previous = before;
    c->next = before == NULL ? NULL : before->next;
    *(c->previous == NULL ? &feed->first : &c->previous->next) = c;
    *(c->next == NULL ? &feed->last : &c->next->previous) = c;
    c->is_listed = true;
    c->feed = (MapFeedObject *)Py_NewRef((PyObject *)feed);
    feed->under_way++;
}

static void
chunk_unlist(MapFeedObject *feed, chunk *c)
{
    *(c->previous == NULL ? &feed->first : &c->previous->next) = c->next;
    *(c->next == NULL ? &feed->last : &c->next->previous) = c->previous;
    c->is_listed = false;
    chunk_release(c);
}

// The chunk counts as settled; gives the caller its reference to the feed, or NULL if it was settled.
static MapFeedObject *
chunk_take_feed(chunk *c)
{
    MapFeedObject *feed = c->feed;
    if (feed != NULL) {
        c->feed = NULL;
        feed->under_way--;
    }
    return feed;
}

// Ends a chunk that will have no outcome: with an exception, which this takes, or as cancelled.
static void
chunk_end(chunk *c, PyObject *error)
{
    FutureObject *future = (FutureObject *)c->to.future;
    MapFeedObject *feed = chunk_take_feed(c);
    // If it was cancelled already, that stays; to be refused by the future would call signal handlers.
    if (feed != NULL && !future_is_done(future)) {
        int rc = error == NULL ? future_cancel(future) : future_finish(future, NULL, Py_NewRef(error));
        if (rc < 0) {
            PyErr_Clear();  // No memory; it has no callbacks that could fail.
        }
    }
    Py_XDECREF(error);
    Py_CLEAR(c->items);
    Py_XDECREF((PyObject *)feed);
}

// ---- the feed ----

static Py_ssize_t
count_unsent(const MapFeedObject *feed)
{
    return PyList_GET_SIZE(feed->unsent) - feed->front;
}

static void
drop_unsent(MapFeedObject *feed)
{
    PyObject *empty = PyList_New(0);
    if (empty == NULL) {
        PyErr_Clear();
        feed->front = PyList_GET_SIZE(feed->unsent);
        return;
    }
    PyObject *unsent = feed->unsent;
    feed->unsent = empty;
    feed->front = 0;
    Py_DECREF(unsent);
}

// Keeps the queue open while the feed needs it, and no longer.  0, or -1 with what submit() would raise.
static int
update_keep_open(MapFeedObject *feed)
{
    bool is_needed = !feed->is_closed && (count_unsent(feed) > 0 || feed->under_way > 0);
    if (is_needed) {
        return keeper_keep(&feed->keeps, feed->queue);
    }
    keeper_release(&feed->keeps);
    return 0;
}

// Ends the feed: nothing more is sent, and what no worker has taken is cancelled.  Keeps the exception that
// is set.
static void
feed_close(MapFeedObject *feed)
{
    PyObject *error = PyErr_GetRaisedException();
    feed->is_closed = feed->is_complete = true;
    Py_INCREF(feed);
    while (feed->first != NULL) {
        chunk *c = feed->first;
        c->references++;
        chunk_unlist(feed, c);
        chunk_end(c, NULL);
        chunk_release(c);
    }
    drop_unsent(feed);
    (void)update_keep_open(feed);
    Py_DECREF(feed);
    if (error != NULL) {
        PyErr_SetRaisedException(error);
    }
}

static Py_ssize_t
next_size(const MapFeedObject *feed)
{
    if (feed->chunk_size > 0) {
        return feed->chunk_size;
    }
    if (feed->call_ns < 0) {
        return 1;
    }
    double call_ns = feed->call_ns < 1 ? 1 : feed->call_ns;
    double size = TARGET_NS / call_ns;
    if (feed->largest > 0 && size > (double)GROWTH * (double)feed->largest) {
        size = (double)GROWTH * (double)feed->largest;
    }
    if (feed->is_complete) {
        double shares = SHARES * (double)feed->queue->max_workers;
        double share = ((double)count_unsent(feed) + shares - 1) / shares;
        double least = LEAST_NS / call_ns;
        double bound = least > share ? least : share;
        size = size > bound ? bound : size;
    }
    size = size > (double)feed->most ? (double)feed->most : size;
    return size < 1 ? 1 : (Py_ssize_t)size;
}

// Moves the next unsent items to a new chunk, which is listed as the last.  NULL with an exception.
static chunk *
take_unsent(MapFeedObject *feed, Py_ssize_t size)
{
    chunk *c = chunk_new(feed, size);
    if (c == NULL) {
        return NULL;
    }
    if (feed->is_closed || count_unsent(feed) < size) {
        // The code that ran while chunk_new() found memory has taken them.
        chunk_release(c);
        return NULL;
    }
    chunk_fill(c, feed->unsent, feed->front, feed->front + size);
    for (Py_ssize_t i = 0; i < size; i++, feed->front++) {
        PyList_SetItem(feed->unsent, feed->front, Py_NewRef(Py_None));  // the chunk alone has it now
    }
    chunk_list(feed, c, NULL);
    if (feed->front >= CUT_AT && 2 * feed->front >= PyList_GET_SIZE(feed->unsent)) {
        Py_ssize_t front = feed->front;
        feed->front = 0;
        if (PyList_SetSlice(feed->unsent, 0, front, NULL) < 0) {
            PyErr_Clear();
            feed->front = front;
        }
    }
    return c;
}

// Makes the second half of a chunk a chunk of its own, so that an item which cannot be packed fails alone in
// the end; returns a new reference.  NULL with an exception.
static chunk *
halve(MapFeedObject *feed, chunk *c)
{
    Py_ssize_t half = c->count / 2;
    chunk *second = chunk_new(feed, c->count - half);
    if (second == NULL) {
        return NULL;
    }
    if (!c->is_listed) {
        chunk_release(second);
        return NULL;
    }
    chunk_fill(second, c->items, half, c->count);
    c->count = half;
    second->references++;
    chunk_list(feed, second, c);
    if (PyList_SetSlice(c->items, half, PyList_GET_SIZE(c->items), NULL) < 0) {
        chunk_release(second);  // the list keeps it, and the first half fails
        return NULL;
    }
    return second;
}

// Sends a listed chunk.  0; or, in the consumer, which `is_interruptible`, PACKING_INTERRUPTED with what a
// signal handler raised: the consumer closes the feed.  Whatever else goes wrong is what the chunk ends with.
// *is_short: a worker is to be started.
static int
send_chunk(MapFeedObject *feed, chunk *c, bool is_interruptible, bool *is_short)
{
    int rc = 0;
    task *job = NULL;
    PyObject *items = Py_NewRef(c->items);
    c->references++;
    unsigned flags = (feed->star ? WIRE_STAR : 0u) | (feed->chunk_size == 0 ? WIRE_BOUNDED : 0u);
    if (feed->queue->state == QUEUE_CANCELLING) {
        chunk_end(c, NULL);
    }
    else {
        rc = process_submit_pack_chunk(feed->queue, &c->to, feed->callable, items, flags, &job);
    }
    if (c->feed == NULL) {
        task_free(job);  // the feed was closed meanwhile
    }
    else if (rc == 0 && job == NULL) {
        chunk *second = halve(feed, c);
        rc = second == NULL && PyErr_Occurred() ? -1 : 0;
        if (second != NULL) {
            rc = send_chunk(feed, c, is_interruptible, is_short);
            rc = rc < 0 ? rc : send_chunk(feed, second, is_interruptible, is_short);
            chunk_release(second);
        }
    }
    else if (rc == 0) {
        if (feed->largest > 0 || feed->call_ns < 0) {
            feed->largest = c->count > feed->largest ? c->count : feed->largest;
        }
        c->is_pushed = true;
        c->references++;  // the job's
        *is_short |= process_submit_push_chunk(feed->queue, job, &c->followup);
    }
    if (rc < 0 && !(is_interruptible && rc == PACKING_INTERRUPTED)) {
        if (c->feed != NULL) {
            chunk_end(c, PyErr_GetRaisedException());
            feed->is_complete = true;  // the consumer will get no further
            drop_unsent(feed);
        }
        PyErr_Clear();
        rc = 0;
    }
    Py_DECREF(items);
    chunk_release(c);
    return rc;
}

static int
start_workers(MapFeedObject *feed, bool is_short)
{
    PyObject *result = is_short ? PyObject_CallNoArgs(feed->start_workers) : Py_NewRef(Py_None);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

// Sends unsent items until as many chunks are under way as may be.  0, or < 0 with an exception, as
// send_chunk() and `start_workers`.
static int
send_unsent(MapFeedObject *feed, bool is_interruptible)
{
    uint32_t limit = AHEAD * feed->queue->max_workers;
    bool is_short = false;
    int rc = 0;
    while (rc == 0 && !feed->is_closed && (feed->under_way < limit || feed->chunk_size > 0)) {
        Py_ssize_t unsent = count_unsent(feed);
        Py_ssize_t size = next_size(feed);
        if (unsent == 0 || (unsent < size && feed->chunk_size > 0 && !feed->is_complete)) {
            break;
        }
        chunk *c = take_unsent(feed, size < unsent ? size : unsent);
        if (c == NULL) {
            rc = PyErr_Occurred() ? -1 : 0;
            continue;
        }
        c->references++;
        rc = send_chunk(feed, c, is_interruptible, &is_short);
        chunk_release(c);
    }
    if (rc == 0) {
        rc = start_workers(feed, is_short);
    }
    return rc;
}

// Drops the unsent items: the consumer gets the exception, which this takes, in their place.
static void
give_up_unsent(MapFeedObject *feed, PyObject *error)
{
    if (count_unsent(feed) > 0 || !feed->is_complete) {
        feed->is_complete = true;
        Py_XSETREF(feed->error, Py_XNewRef(error));
        drop_unsent(feed);
    }
    Py_XDECREF(error);
}

static void
cancel_unsent(MapFeedObject *feed)
{
    PyObject *error = PyObject_CallNoArgs(feed->module->cancelled_error);
    give_up_unsent(feed, error != NULL ? error : PyErr_GetRaisedException());
}

// ---- when a chunk has ended ----

static void
learn(MapFeedObject *feed, Py_ssize_t count, double elapsed_ns)
{
    if (count == 0) {
        return;
    }
    // What a call takes changes: the latest chunk counts as much as all before it, or more if it has more
    // calls, but not one or two calls alone.
    double calls = (double)count;
    double least = calls > FEW_CALLS ? calls : FEW_CALLS;
    double before = feed->calls < least ? feed->calls : least;
    feed->call_ns = (before * (feed->call_ns < 0 ? 0 : feed->call_ns) + elapsed_ns) / (before + calls);
    feed->calls += calls;
}

// Tells later maps how long a call takes.  0, or -1 with an exception.
static int
tell(MapFeedObject *feed)
{
    if (feed->calls < 2 * feed->told || feed->call_ns < 0) {
        return 0;
    }
    feed->told = feed->calls;
    PyObject *told = PyObject_CallMethod(feed->times, "learn", "Od", feed->callable, feed->call_ns);
    Py_XDECREF(told);
    return told == NULL ? -1 : 0;
}

// Sends a listed chunk, and has workers started if they are wanted.  0, or < 0 with an exception.
static int
send_one(MapFeedObject *feed, chunk *c, bool is_interruptible)
{
    bool is_short = false;
    int rc = send_chunk(feed, c, is_interruptible, &is_short);
    return rc < 0 ? rc : start_workers(feed, is_short);
}

// Takes the second half of the calls that are left from a chunk's worker, and sends it anew.  1; 0 if there
// was nothing to take; -1 with an exception.
static int
divide(MapFeedObject *feed, chunk *c, bool is_interruptible)
{
    chunk *rest = chunk_new(feed, c->count);
    if (rest == NULL) {
        return -1;
    }
    int rc = 0;
    // The chunk may have ended while memory was found; then its future knows no job.
    task *job = c->feed == NULL ? NULL : ((FutureObject *)c->to.future)->task;
    Py_ssize_t kept = job == NULL ? c->count : (Py_ssize_t)job_table_split(&feed->queue->table, job);
    if (kept < c->count) {
        process_queue_count_submitted(feed->queue, kept - c->count);  // they are sent anew
        process_queue_count_stolen(feed->queue, (uint64_t)(c->count - kept));
        if (trace_on != NULL) {
            trace_stolen(job->traced, (uint32_t)(c->count - kept));
        }
        chunk_fill(rest, c->items, kept, c->count);
        c->count = kept;
        rest->references++;
        chunk_list(feed, rest, c);
        rc = send_one(feed, rest, is_interruptible) < 0 ? -1 : 1;
    }
    chunk_release(rest);
    return rc;
}

// Gives idle workers the second halves of what other workers have yet to do.
static int
share(MapFeedObject *feed, bool is_interruptible)
{
    uint32_t idle = feed->chunk_size > 0 ? 0 : job_table_idle_workers(&feed->queue->table);
    chunk *c = idle == 0 ? NULL : feed->last;
    // The chunks under way are mostly the last ones: a late consumer has many before them.
    for (uint32_t seen = 0; c != NULL && c->previous != NULL; c = c->previous) {
        seen += c->feed != NULL;
        if (seen >= feed->under_way) {
            break;
        }
    }
    int rc = 0;
    while (rc == 0 && c != NULL && idle > 0) {
        c->references++;
        if (c->feed != NULL && c->is_pushed && c->count >= 2) {
            rc = divide(feed, c, is_interruptible);
            idle -= rc == 1;
            rc = rc < 0 ? -1 : 0;
        }
        chunk *next = c->is_listed ? c->next : NULL;
        chunk_release(c);
        c = next;
    }
    return rc;
}

// Reads what became of a chunk.  *rest: a chunk, which is not listed, with the calls that it left undone, or
// NULL; *done, *elapsed_ns: how many calls were made, and how long they took.  0, or -1 with an exception.
static int
read_outcome(MapFeedObject *feed, chunk *c, Py_ssize_t *done, unsigned long long *elapsed_ns, chunk **rest)
{
    FutureObject *future = (FutureObject *)c->to.future;
    PyObject *values, *failure;
    *done = 0;
    *rest = NULL;
    if (future->state != FUTURE_FINISHED || future->exception != NULL || future->result == NULL) {
        return 0;
    }
    if (!PyArg_ParseTuple(future->result, "(O!O)K", &PyList_Type, &values, &failure, elapsed_ns)) {
        return -1;
    }
    *done = PyList_GET_SIZE(values);
    if (failure != Py_None || *done >= c->count) {
        return 0;
    }
    Py_ssize_t start = *done, end = c->count;
    *rest = chunk_new(feed, end - start);
    if (*rest == NULL) {
        return -1;
    }
    if (c->items != NULL) {  // else another thread has settled it while chunk_new() found memory
        chunk_fill(*rest, c->items, start, end);
    }
    return 0;
}

// Draws the consequences of a chunk's end, once: if another thread has begun with that, it has listed the
// rest of the chunk before it let this thread run.  0, or -1 with an exception.
static int
chunk_settle(chunk *c, bool is_interruptible)
{
    chunk *rest;
    Py_ssize_t done;
    unsigned long long elapsed_ns = 0;
    if (c->feed == NULL) {
        return 0;
    }
    MapFeedObject *feed = (MapFeedObject *)Py_NewRef((PyObject *)c->feed);
    int rc = read_outcome(feed, c, &done, &elapsed_ns, &rest);
    if (rc < 0 || c->feed == NULL) {
        if (rest != NULL) {
            chunk_release(rest);
        }
        Py_DECREF(feed);
        return rc;
    }
    bool was_cancelled = ((FutureObject *)c->to.future)->state != FUTURE_FINISHED;
    if (rest != NULL) {
        rest->references++;
        chunk_list(feed, rest, c);
    }
    PyObject *items = c->items;
    c->items = NULL;
    Py_DECREF(chunk_take_feed(c));
    if (feed->is_detached && c->is_listed) {
        chunk_unlist(feed, c);
    }
    Py_DECREF(items);

    learn(feed, done, (double)elapsed_ns);
    if (feed->queue->head.inherited) {
        feed->is_complete = true;  // the consumer meets a chunk that has failed, and gets no further
        drop_unsent(feed);
    }
    else if (was_cancelled || feed->queue->state == QUEUE_CANCELLING) {
        cancel_unsent(feed);
    }
    rc = rest == NULL || feed->is_closed ? 0 : send_one(feed, rest, is_interruptible);
    if (rc == 0) {
        rc = send_unsent(feed, is_interruptible);
    }
    if (rc == 0 && count_unsent(feed) == 0 && !feed->is_closed && !feed->queue->head.inherited) {
        rc = share(feed, is_interruptible);
    }
    if (rc == 0) {
        rc = tell(feed);
    }
    if (rest != NULL) {
        chunk_release(rest);
    }
    PyObject *error = rc < 0 ? PyErr_GetRaisedException() : NULL;
    if (update_keep_open(feed) < 0) {
        PyErr_Clear();  // The feed keeps the queue open already, or does not need it any longer.
    }
    Py_DECREF(feed);
    if (error != NULL) {
        PyErr_SetRaisedException(error);
    }
    return rc;
}

// In the result handler, or in another thread that has ended jobs: settles the chunk; takes the job's
// reference.
static void
chunk_run_followup(job_followup *followup)
{
    chunk *c = (chunk *)followup;
    MapFeedObject *feed = (MapFeedObject *)Py_XNewRef((PyObject *)c->feed);
    if (feed != NULL && chunk_settle(c, false) < 0) {
        // Memory is short, or no worker can be started: the consumer is to learn that results are missing.
        PyObject *error = PyErr_GetRaisedException();
        if (feed->is_detached) {
            module_log(feed->module, "exception", "Exception while map() sent calls", NULL, Py_NewRef(error));
        }
        if (c->feed != NULL) {
            Py_CLEAR(c->items);
            Py_DECREF(chunk_take_feed(c));
        }
        feed->is_complete = true;
        Py_XSETREF(feed->error, error);
        drop_unsent(feed);
        if (update_keep_open(feed) < 0) {
            PyErr_Clear();
        }
    }
    chunk_release(c);
    Py_XDECREF((PyObject *)feed);
}

static PyObject *
map_feed_new(module_state *module)
{
    PyTypeObject *type = module->map_feed_type;
    MapFeedObject *self = (MapFeedObject *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->module = module;
        self->unsent = PyList_New(0);
        if (self->unsent == NULL) {
            Py_CLEAR(self);
        }
    }
    return (PyObject *)self;
}

static int
map_feed_traverse(PyObject *op, visitproc visit, void *arg)
{
    MapFeedObject *self = (MapFeedObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->queue);
    Py_VISIT(self->keeps.queue);
    Py_VISIT(self->callable);
    Py_VISIT(self->start_workers);
    Py_VISIT(self->times);
    Py_VISIT(self->unsent);
    Py_VISIT(self->error);
    // A chunk to which others refer as well refers to the feed, or has none of these objects any longer.
    for (chunk *c = self->first; c != NULL; c = c->next) {
        Py_VISIT(c->items);
        Py_VISIT(c->to.future);
    }
    return 0;
}

static int
map_feed_clear(PyObject *op)
{
    MapFeedObject *self = (MapFeedObject *)op;
    if (self->queue != NULL) {
        feed_close(self);
    }
    Py_CLEAR(self->callable);
    Py_CLEAR(self->start_workers);
    Py_CLEAR(self->times);
    Py_CLEAR(self->error);
    return 0;
}

static void
map_feed_dealloc(PyObject *op)
{
    MapFeedObject *self = (MapFeedObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    keeper_release(&self->keeps);
    while (self->first != NULL) {
        chunk_unlist(self, self->first);
    }
    Py_XDECREF((PyObject *)self->queue);
    Py_XDECREF(self->callable);
    Py_XDECREF(self->start_workers);
    Py_XDECREF(self->times);
    Py_XDECREF(self->unsent);
    Py_XDECREF(self->error);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyType_Slot map_feed_slots[] = {
    {Py_tp_dealloc, map_feed_dealloc},
    {Py_tp_traverse, map_feed_traverse},
    {Py_tp_clear, map_feed_clear},
    {0, NULL},
};

// Only this unit makes feeds, and Python code never sees one.
PyType_Spec map_feed_spec = {
    .name = "pyconc._core._MapFeed",
    .basicsize = sizeof(MapFeedObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = map_feed_slots,
};

// ---- the results ----

enum {
    SOURCE_FAILED = 1
};  // with the exception

// Whether an exception is set that comes out before any result: a signal handler has raised it, or it is no
// Exception.
static bool
is_urgent(void)
{
    return PyErr_Occurred() && (!PyErr_ExceptionMatches(PyExc_Exception) || codec_was_interrupted());
}

// Drops the source, which is exhausted, or has raised, or whose queue is closed: the consumer hears of that
// after the results of what was read.  0; -1 with an exception that must not wait, or SOURCE_FAILED with one
// that may, but nobody waits.
static int
end_source(MapResultsObject *self, bool may_wait)
{
    bool comes_first = is_urgent();
    PyObject *error = PyErr_GetRaisedException();
    Py_CLEAR(self->source);
    self->feed->is_complete = true;
    if (error == NULL || (may_wait && !comes_first)) {
        Py_XSETREF(self->feed->error, error);
        return 0;
    }
    PyErr_SetRaisedException(error);
    return comes_first ? -1 : SOURCE_FAILED;
}

// Reads the source until so many items have been read, and sends them.  As end_source().
static int
read_source(MapResultsObject *self, int64_t limit, bool may_wait)
{
    MapFeedObject *feed = self->feed;
    int rc = 0;
    uint32_t limit_under_way = AHEAD * feed->queue->max_workers;
    while (rc == 0 && !feed->is_complete && self->read < limit) {
        PyObject *item = PyIter_Next(self->source);
        if (item == NULL || process_queue_check_open(feed->queue) < 0) {
            Py_XDECREF(item);
            rc = end_source(self, may_wait);
            break;
        }
        rc = PyList_Append(feed->unsent, item);
        Py_DECREF(item);
        self->read++;
        rc = rc < 0 ? rc : update_keep_open(feed);
        // The source may take its time, or wait for what the calls do: so the items that it gave are sent
        // first.
        if (rc == 0 && self->is_lazy && feed->under_way < limit_under_way) {
            rc = send_unsent(feed, true);
        }
    }
    return rc != 0 ? rc : send_unsent(feed, true);
}

// How many items may have been read when the consumer begins to wait for the next result.
static int64_t
read_limit(const MapResultsObject *self)
{
    int64_t step = self->feed->chunk_size > 0 ? (int64_t)self->feed->chunk_size : 1;
    return self->ahead + (self->taken / step + 1) * step;
}

// Whether a worker has calls of a map that others could make, if they have nothing to do.
static bool
may_divide(const MapFeedObject *feed)
{
    if (feed->chunk_size > 0 || feed->is_closed || feed->queue->head.inherited) {
        return false;
    }
    uint32_t seen = 0;
    for (const chunk *c = feed->last; c != NULL && seen < feed->under_way; c = c->previous) {
        if (c->feed != NULL) {
            seen++;
            if (c->is_pushed && c->count >= 2) {
                return true;
            }
        }
    }
    return false;
}

// Waits for a chunk as long as the calls behind the one that its worker makes could be made elsewhere, and
// has them made there: workers that begin to idle while no chunk ends are seen by nobody else.  0, or -1 with
// an exception.
static int
wait_and_share(MapResultsObject *self, chunk *c)
{
    MapFeedObject *feed = self->feed;
    int64_t patience_ns = PATIENCE_NS;
    while (c->feed != NULL && may_divide(feed)) {
        int64_t now_ns = clock_now_ns();
        // Also if it is no number, which result() refuses.
        if (self->has_deadline && !(self->deadline * 1e9 >= (double)(now_ns + patience_ns))) {
            return 0;
        }
        int rc = future_wait_briefly((FutureObject *)c->to.future, now_ns + patience_ns);
        if (rc != 0) {
            return rc < 0 ? -1 : 0;
        }
        if (may_divide(feed) && share(feed, true) < 0) {
            return -1;
        }
        patience_ns *= 2;
    }
    return 0;
}

// Waits for a chunk and takes what it has.  0, or -1 with an exception.
static int
take_chunk(MapResultsObject *self, chunk *c)
{
    MapFeedObject *feed = self->feed;
    PyObject *outcome, *values, *failure;
    unsigned long long elapsed_ns;
    if (feed->queue->head.inherited && !future_is_done((FutureObject *)c->to.future)) {
        process_queue_refuse(feed->queue);
        return -1;
    }
    if (wait_and_share(self, c) < 0) {
        return -1;
    }
    if (!self->has_deadline) {
        outcome = PyObject_CallMethodNoArgs(c->to.future, feed->module->str_result);
    }
    else {
        double left = self->deadline - (double)clock_now_ns() / 1e9;
        outcome = PyObject_CallMethod(c->to.future, "result", "d", left);
    }
    if (outcome == NULL) {
        return -1;
    }
    int rc = PyArg_ParseTuple(outcome, "(O!O)K", &PyList_Type, &values, &failure, &elapsed_ns) ? 0 : -1;
    if (rc == 0) {
        self->values = Py_NewRef(values);
        self->next = 0;
        self->failure = failure == Py_None ? NULL : Py_NewRef(failure);
        if (process_queue_take_followup(feed->queue, &c->followup)) {
            chunk_release(c);  // as the job's
        }
        rc = chunk_settle(c, true);
    }
    if (c->is_listed) {
        chunk_unlist(feed, c);
    }
    Py_DECREF(outcome);
    return rc;
}

static PyObject *
next_value(MapResultsObject *self)
{
    MapFeedObject *feed = self->feed;
    for (;;) {
        if (self->values != NULL && self->next < PyList_GET_SIZE(self->values)) {
            PyObject *value = PyList_GET_ITEM(self->values, self->next);
            PyList_SET_ITEM(self->values, self->next, Py_NewRef(Py_None));
            self->next++;
            self->taken++;
            return value;
        }
        Py_CLEAR(self->values);
        if (self->failure != NULL) {
            PyObject *failure = self->failure;
            self->failure = NULL;
            PyObject *error = codec_call("rebuild_exception", failure, NULL, NULL, NULL);
            Py_DECREF(failure);
            if (error != NULL) {
                PyErr_SetRaisedException(error);
            }
            return NULL;
        }
        if (feed->is_closed || feed->is_detached) {
            return NULL;
        }
        if (self->source != NULL && read_source(self, read_limit(self), true) < 0) {
            return NULL;
        }
        chunk *c = feed->first;
        if (c == NULL && count_unsent(feed) > 0) {
            // The thread that should have sent them was not able to.
            if (send_unsent(feed, true) < 0) {
                return NULL;
            }
            continue;
        }
        if (c == NULL) {
            if (feed->error != NULL) {
                PyErr_SetRaisedException(Py_NewRef(feed->error));
            }
            return NULL;
        }
        c->references++;
        int rc = take_chunk(self, c);
        chunk_release(c);
        if (rc < 0) {
            return NULL;
        }
    }
}

// Raises what a generator raises that is running: the iterator looks like one.
static void
convert_stop_iteration(void)
{
    if (!PyErr_ExceptionMatches(PyExc_StopIteration)) {
        return;
    }
    PyObject *cause = PyErr_GetRaisedException();
    PyErr_SetString(PyExc_RuntimeError, "generator raised StopIteration");
    PyObject *error = PyErr_GetRaisedException();
    PyException_SetContext(error, Py_NewRef(cause));
    PyException_SetCause(error, cause);
    PyErr_SetRaisedException(error);
}

static int
enter(MapResultsObject *self)
{
    if (self->is_running) {
        PyErr_SetString(PyExc_ValueError, "generator already executing");
        return -1;
    }
    self->is_running = true;
    return 0;
}

static PyObject *
map_results_iternext(PyObject *op)
{
    MapResultsObject *self = (MapResultsObject *)op;
    if (enter(self) < 0) {
        return NULL;
    }
    self->has_begun = true;
    PyObject *value = next_value(self);
    if (value == NULL) {
        if (PyErr_Occurred()) {
            convert_stop_iteration();
        }
        Py_CLEAR(self->source);
        feed_close(self->feed);
    }
    self->is_running = false;
    return value;
}

// `feed` stays: code that still refers to the iterator finds it ended.
static int
map_results_clear(PyObject *op)
{
    MapResultsObject *self = (MapResultsObject *)op;
    Py_CLEAR(self->source);
    Py_CLEAR(self->values);
    Py_CLEAR(self->failure);
    return 0;
}

// Ends the iterator.  A program that has asked for no result wants all calls to be made.
static void
end_results(MapResultsObject *self)
{
    PyObject *error = PyErr_GetRaisedException();
    self->feed->is_complete = true;  // nobody reads the source
    if (self->has_begun) {
        feed_close(self->feed);
    }
    else {
        self->feed->is_detached = true;
    }
    (void)map_results_clear((PyObject *)self);
    if (error != NULL) {
        PyErr_SetRaisedException(error);
    }
}

PyDoc_STRVAR(close_doc,
"close($self, /)\n--\n\n"
"Cancel what has not started, if a result was asked for, and let go of what was not taken.");

static PyObject *
map_results_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    MapResultsObject *self = (MapResultsObject *)op;
    if (enter(self) < 0) {
        return NULL;
    }
    end_results(self);
    self->is_running = false;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(send_doc,
"send($self, value, /)\n--\n\n"
"Return the next result; the value is for nobody. The standard library's results are a generator too.");

static PyObject *
map_results_send(PyObject *op, PyObject *value)
{
    if (!((MapResultsObject *)op)->has_begun && value != Py_None) {
        PyErr_SetString(PyExc_TypeError, "can't send non-None value to a just-started generator");
        return NULL;
    }
    PyObject *result = map_results_iternext(op);
    if (result == NULL && !PyErr_Occurred()) {
        PyErr_SetNone(PyExc_StopIteration);
    }
    return result;
}

PyDoc_STRVAR(throw_doc,
"throw($self, type, value=None, traceback=None, /)\n--\n\n"
"End as close() does, and raise the exception.");

static PyObject *
map_results_throw(PyObject *op, PyObject *args)
{
    PyObject *type, *value = NULL, *traceback = NULL;
    if (!PyArg_ParseTuple(args, "O|OO:throw", &type, &value, &traceback)) {
        return NULL;
    }
    bool is_instance = PyExceptionInstance_Check(type);
    if (!is_instance && !PyExceptionClass_Check(type)) {
        PyErr_SetString(PyExc_TypeError, "an exception is thrown, as a class or an instance");
        return NULL;
    }
    PyObject *closed = map_results_close(op, NULL);
    if (closed == NULL) {
        return NULL;
    }
    Py_DECREF(closed);
    if (is_instance) {
        PyErr_SetObject((PyObject *)Py_TYPE(type), type);
    }
    else {
        PyErr_SetObject(type, value);
    }
    if (traceback != NULL && traceback != Py_None) {
        PyObject *error = PyErr_GetRaisedException();
        (void)PyException_SetTraceback(error, traceback);
        PyErr_SetRaisedException(error);
    }
    return NULL;
}

static PyObject *
map_results_tp_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"queue", "start_workers", "times", "fn", "source", "lazy", "star",
                               "chunksize", "ahead", "call_ns", "deadline", NULL};
    module_state *module = module_state_of(type);
    PyObject *queue, *start, *times, *callable, *source, *deadline;
    int star, lazy;
    Py_ssize_t chunk_size;
    long long ahead;
    double call_ns, deadline_s = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!OOOOppnLdO:MapResults", keywords,
                                     module->process_queue_type, &queue, &start, &times, &callable, &source,
                                     &lazy, &star, &chunk_size, &ahead, &call_ns, &deadline)) {
        return NULL;
    }
    if (deadline != Py_None && (deadline_s = PyFloat_AsDouble(deadline)) == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (!PyIter_Check(source)) {
        PyErr_SetString(PyExc_TypeError, "the source must be an iterator");
        return NULL;
    }
    MapResultsObject *self = (MapResultsObject *)type->tp_alloc(type, 0);
    MapFeedObject *feed = self == NULL ? NULL : (MapFeedObject *)map_feed_new(module);
    if (feed == NULL) {
        Py_XDECREF((PyObject *)self);
        return NULL;
    }
    Py_ssize_t workers = (Py_ssize_t)((ProcessQueueObject *)queue)->max_workers;
    self->feed = feed;
    self->source = Py_NewRef(source);
    self->is_lazy = lazy;
    self->ahead = ahead;
    self->has_deadline = deadline != Py_None;
    self->deadline = deadline_s;
    feed->queue = (ProcessQueueObject *)Py_NewRef(queue);
    feed->start_workers = Py_NewRef(start);
    feed->times = Py_NewRef(times);
    feed->callable = Py_NewRef(callable);
    feed->star = star;
    feed->chunk_size = chunk_size;
    feed->most = ahead == INT64_MAX ? PY_SSIZE_T_MAX : (Py_ssize_t)(ahead / 2 / workers);
    feed->call_ns = call_ns;
    feed->calls = call_ns < 0 ? 0 : 1;
    self->is_running = true;
    int rc = read_source(self, ahead, false);
    self->is_running = false;
    if (rc == 0) {
        return (PyObject *)self;
    }
    PyObject *error = PyErr_GetRaisedException();
    if (rc != SOURCE_FAILED || send_unsent(feed, true) < 0) {
        // If only the source has failed, the calls for the items that it gave are made.
        if (is_urgent()) {
            Py_SETREF(error, PyErr_GetRaisedException());
        }
        PyErr_Clear();
        feed_close(feed);
    }
    Py_DECREF(self);
    PyErr_SetRaisedException(error);
    return NULL;
}

static int
map_results_traverse(PyObject *op, visitproc visit, void *arg)
{
    MapResultsObject *self = (MapResultsObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT((PyObject *)self->feed);
    Py_VISIT(self->source);
    Py_VISIT(self->values);
    Py_VISIT(self->failure);
    return 0;
}

static void
map_results_finalize(PyObject *op)
{
    MapResultsObject *self = (MapResultsObject *)op;
    if (self->feed != NULL) {
        end_results(self);
    }
}

static void
map_results_dealloc(PyObject *op)
{
    MapResultsObject *self = (MapResultsObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    if (PyObject_CallFinalizerFromDealloc(op) < 0) {
        return;
    }
    PyObject_GC_UnTrack(op);
    PyObject_ClearWeakRefs(op);
    (void)map_results_clear(op);
    Py_XDECREF((PyObject *)self->feed);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef map_results_methods[] = {
    {"close", map_results_close, METH_NOARGS, close_doc},
    {"send", map_results_send, METH_O, send_doc},
    {"throw", map_results_throw, METH_VARARGS, throw_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef map_results_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(MapResultsObject, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(map_results_doc,
"MapResults(queue, start_workers, times, fn, source, lazy, star, chunksize, ahead, call_ns, deadline)\n--\n\n"
"The results of calls of fn with the items of an iterator, in their order.\n\n"
"start_workers() is called when there may be too few. lazy: to read the source may run code. star: items\n"
"are tuples of arguments. chunksize: so many calls at a time; 0: as many as call_ns, what a call takes,\n"
"warrants, which is negative if nobody knows; times.learn(fn, call_ns) is told. ahead: so many items may be\n"
"read ahead of the results taken. deadline: of the last result, in seconds of the monotonic clock.");

static PyType_Slot map_results_slots[] = {
    {Py_tp_doc, (void *)map_results_doc},
    {Py_tp_new, map_results_tp_new},
    {Py_tp_dealloc, map_results_dealloc},
    {Py_tp_finalize, map_results_finalize},
    {Py_tp_traverse, map_results_traverse},
    {Py_tp_clear, map_results_clear},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, map_results_iternext},
    {Py_tp_methods, map_results_methods},
    {Py_tp_members, map_results_members},
    {0, NULL},
};

PyType_Spec map_results_spec = {
    .name = "pyconc._core.MapResults",
    .basicsize = sizeof(MapResultsObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = map_results_slots,
};
