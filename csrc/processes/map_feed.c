#include "map_feed.h"

#include "futures/future.h"
#include "futures/future_destination.h"
#include "job_table_look.h"

// What a chunk should take: the cost of sending it, some 20 us, is then a small part.  4,000 calls of 17 us
// take 68 ms of CPU in all processes; with a tenth of this 81 ms, with ten times as much 68 (on 3.11).
#define TARGET_NS 1e6
// What it should take at least, so that little is lost on the way, however few calls are left.  50 maps of 80
// such calls take 74 ms; with a tenth of this 83 ms.
#define LEAST_NS 1e5
// How many chunks for each worker what is left makes at least: sending, running and receiving overlap.  With
// four times as many, the 4,000 calls take 3 % more.
#define SHARES 4
// How many calls are too few to outweigh what is known.
#define FEW_CALLS 4
// How much larger than the largest so far the next chunk may be: one quick call does not mean that all are.
// Measured with benchmarks/constants.py: with 8 maps of uneven calls take 1 to 3 % longer; with 65536 they
// differ by no more than their spread.
#define GROWTH 256
// How many sent items the list of the unsent ones may begin with before it is cut.
#define CUT_AT 1024

// ---- chunks ----

void
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

void
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

Py_ssize_t
map_feed_count_unsent(const MapFeedObject *feed)
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

int
map_feed_update_keep_open(MapFeedObject *feed)
{
    bool is_needed = !feed->is_closed && (map_feed_count_unsent(feed) > 0 || feed->under_way > 0);
    if (is_needed) {
        return keeper_keep(&feed->keeps, feed->queue);
    }
    keeper_release(&feed->keeps);
    return 0;
}

void
map_feed_close(MapFeedObject *feed)
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
    (void)map_feed_update_keep_open(feed);
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
        double share = ((double)map_feed_count_unsent(feed) + shares - 1) / shares;
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
    if (feed->is_closed || map_feed_count_unsent(feed) < size) {
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

int
map_feed_send_unsent(MapFeedObject *feed, bool is_interruptible)
{
    uint32_t limit = MAP_CHUNKS_AHEAD * feed->queue->max_workers;
    bool is_short = false;
    int rc = 0;
    while (rc == 0 && !feed->is_closed && (feed->under_way < limit || feed->chunk_size > 0)) {
        Py_ssize_t unsent = map_feed_count_unsent(feed);
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
    if (map_feed_count_unsent(feed) > 0 || !feed->is_complete) {
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

int
map_feed_share(MapFeedObject *feed, bool is_interruptible)
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

int
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
        rc = map_feed_send_unsent(feed, is_interruptible);
    }
    if (rc == 0 && map_feed_count_unsent(feed) == 0 && !feed->is_closed && !feed->queue->head.inherited) {
        rc = map_feed_share(feed, is_interruptible);
    }
    if (rc == 0) {
        rc = tell(feed);
    }
    if (rest != NULL) {
        chunk_release(rest);
    }
    PyObject *error = rc < 0 ? PyErr_GetRaisedException() : NULL;
    if (map_feed_update_keep_open(feed) < 0) {
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
        if (map_feed_update_keep_open(feed) < 0) {
            PyErr_Clear();
        }
    }
    chunk_release(c);
    Py_XDECREF((PyObject *)feed);
}

// ---- the type ----

PyObject *
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
        map_feed_close(self);
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
