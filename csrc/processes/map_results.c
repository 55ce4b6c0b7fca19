#include "map_results.h"

#include "core/clock.h"
#include "futures/future.h"
#include "futures/future_wait.h"
#include "map_feed.h"

// How long the consumer waits for a chunk before it looks for idle workers, which could make the calls behind
// the one that takes so long; then twice as long each time.  Chunks of short calls have come back by then, as
// the worker bounds them.
// Measured with benchmarks/constants.py: where the last call takes long, a map takes 103 ms, with a tenth of
// this 107 and with ten times as much 106.
#define PATIENCE_NS 40000000

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

enum {
    SOURCE_FAILED = 1
};  // with the exception

// Whether an exception is set that comes out before any result: a signal handler has raised it, or it is no
// Exception.
static bool
is_urgent(void)
{
    return PyErr_Occurred() && (!PyErr_ExceptionMatches(PyExc_Exception) || pickling_was_interrupted());
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
    uint32_t limit_under_way = MAP_CHUNKS_AHEAD * feed->queue->max_workers;
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
        rc = rc < 0 ? rc : map_feed_update_keep_open(feed);
        // The source may take its time, or wait for what the calls do: so the items that it gave are sent
        // first.
        if (rc == 0 && self->is_lazy && feed->under_way < limit_under_way) {
            rc = map_feed_send_unsent(feed, true);
        }
    }
    return rc != 0 ? rc : map_feed_send_unsent(feed, true);
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
        if (may_divide(feed) && map_feed_share(feed, true) < 0) {
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
            PyObject *error = pickling_call("rebuild_exception", failure, NULL, NULL, NULL);
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
        if (c == NULL && map_feed_count_unsent(feed) > 0) {
            // The thread that should have sent them was not able to.
            if (map_feed_send_unsent(feed, true) < 0) {
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
        map_feed_close(self->feed);
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
        map_feed_close(self->feed);
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
                               "chunksize", "ahead", "call_ns", "timeout", NULL};
    module_state *module = module_state_of(type);
    PyObject *queue, *start, *times, *callable, *source, *timeout;
    int star, lazy;
    Py_ssize_t chunk_size;
    long long ahead;
    double call_ns, timeout_s = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!OOOOppnLdO:MapResults", keywords,
                                     module->process_queue_type, &queue, &start, &times, &callable, &source,
                                     &lazy, &star, &chunk_size, &ahead, &call_ns, &timeout)) {
        return NULL;
    }
    if (timeout != Py_None && (timeout_s = PyFloat_AsDouble(timeout)) == -1 && PyErr_Occurred()) {
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
    self->has_deadline = timeout != Py_None;
    // By the clock that it is compared with: tests put another one into Python's time module.
    self->deadline = timeout_s + (double)clock_now_ns() / 1e9;
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
    if (rc != SOURCE_FAILED || map_feed_send_unsent(feed, true) < 0) {
        // If only the source has failed, the calls for the items that it gave are made.
        if (is_urgent()) {
            Py_SETREF(error, PyErr_GetRaisedException());
        }
        PyErr_Clear();
        map_feed_close(feed);
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
"MapResults(queue, start_workers, times, fn, source, lazy, star, chunksize, ahead, call_ns, timeout)\n--\n\n"
"The results of calls of fn with the items of an iterator, in their order.\n\n"
"start_workers() is called when there may be too few. lazy: to read the source may run code. star: items\n"
"are tuples of arguments. chunksize: so many calls at a time; 0: as many as call_ns, what a call takes,\n"
"warrants, which is negative if nobody knows; times.learn(fn, call_ns) is told. ahead: so many items may be\n"
"read ahead of the results taken. timeout: the most seconds until the last result, or None.");

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
