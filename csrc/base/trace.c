#include "trace.h"

#include <pthread.h>

#include "callable_name.h"

#include "core/clock.h"
#include "core/name_table.h"

#define CAPSULE "pyconc._core.trace"
#define RECENT_NAMES 64
// A record, which is a call when it was submitted, begins and ends, counts as so many events.
#define RECORD_EVENTS 3
// By so much the coarse clock is late at most: more than a tick.
#define COARSE_NS 20000000

typedef struct known_thread {
    uint32_t thread, name;
} known_thread;

typedef struct recent_name {
    PyObject *name;  // a str itself, owned: to drop it runs no code; NULL: none
    uint32_t number;
} recent_name;

struct trace {
    module_state *module;  // borrowed: it is there as long as the process
    trace_log log;
    name_table names;
    recent_name recent[RECENT_NAMES];  // by where they are
    known_thread *threads;             // that have written something
    size_t thread_count, thread_room;
    int64_t ended_ns;
    uint32_t forks;  // how many there had been when it began
};

trace *trace_on;
uint32_t trace_count;
static trace *inherited;  // that was on in the process which this one is a fork of; while none is on here
static uint32_t forks;    // that this process and those before it have come from
static bool watches_forks;

// What this thread is called in the trace that is on.
static _Thread_local struct {
    uint32_t trace;  // the trace_count then
    uint32_t thread;
} here;

// ---- names ----

// Of anything but a str, that of no name.
static uint32_t
number_of_str(trace *self, PyObject *name)
{
    recent_name *recent = &self->recent[((uintptr_t)name >> 4) % RECENT_NAMES];
    if (name != NULL && recent->name == name) {
        return recent->number;
    }
    size_t bytes;
    const char *text = callable_name_of_str(name, &bytes);
    if (text == NULL) {
        return NAME_TABLE_NONE;
    }
    uint32_t number = name_table_number(&self->names, text, bytes);
    if (PyUnicode_CheckExact(name)) {
        Py_XSETREF(recent->name, Py_NewRef(name));
        recent->number = number;
    }
    return number;
}

static uint32_t
number_of_callable(trace *self, PyObject *callable)
{
    uint32_t number = number_of_str(self, callable_qualname(callable));
    if (number == NAME_TABLE_NONE) {
        size_t bytes;
        const char *text = callable_name(self->module, callable, &bytes);
        number = text == NULL ? NAME_TABLE_NONE : name_table_number(&self->names, text, bytes);
    }
    return number;
}

void
trace_name(trace_label *label, PyObject *name)
{
    *label = (trace_label){.trace = trace_count, .number = number_of_str(trace_on, name)};
}

// ---- threads ----

// What the threading module calls this thread, borrowed; NULL: nothing.
static PyObject *
name_of_thread(module_state *module, PyObject **thread)
{
    PyObject *active = PyDict_GetItemString(module->threading_names, "_active");  // borrowed
    PyObject *ident = PyLong_FromUnsignedLong(PyThread_get_thread_ident());
    *thread = active == NULL || ident == NULL || !PyDict_Check(active) ? NULL : PyDict_GetItem(active, ident);
    Py_XDECREF(ident);
    Py_XINCREF(*thread);
    return *thread == NULL ? NULL : PyObject_GetAttrString(*thread, "_name");
}

static void
note_thread(trace *self, uint32_t thread)
{
    if (self->thread_count == self->thread_room) {
        size_t room = self->thread_room == 0 ? 16 : 2 * self->thread_room;
        known_thread *threads = PyMem_RawRealloc(self->threads, room * sizeof(*threads));
        if (threads == NULL) {
            return;  // it has no name
        }
        self->threads = threads;
        self->thread_room = room;
    }
    PyObject *found;
    PyObject *name = name_of_thread(self->module, &found);
    PyErr_Clear();
    self->threads[self->thread_count++] =
        (known_thread){.thread = thread, .name = number_of_str(self, name)};
    Py_XDECREF(name);
    Py_XDECREF(found);
}

static __attribute__((noinline)) uint32_t
introduce_thread(trace *self)
{
    here.trace = trace_count;
    here.thread = (uint32_t)PyThread_get_thread_native_id();
    note_thread(self, here.thread);
    return here.thread;
}

static inline uint32_t
this_thread(trace *self)
{
    return here.trace == trace_count ? here.thread : introduce_thread(self);
}

// ---- what happens ----

int64_t
trace_now_ns(void)
{
    return trace_log_now_ns(&trace_on->log);
}

// The record of a call in the trace that is on; NULL: it is not there.
static inline trace_record *
find_call(int64_t call)
{
    return trace_on == NULL || call <= 0 ? NULL : trace_log_find(&trace_on->log, call);
}

int64_t
trace_submit(const trace_label *queue, PyObject *callable, PyObject *name)
{
    trace *self = trace_on;
    trace_record *record = trace_log_submit(&self->log);
    if (record == NULL) {
        return 0;
    }
    uint32_t number = name == NULL ? NAME_TABLE_NONE : number_of_str(self, name);
    record->name = number == NAME_TABLE_NONE ? number_of_callable(self, callable) : number;
    record->thread = this_thread(self);
    record->pool = queue->number;
    return record->time_ns;
}

void
trace_begin(int64_t call, int64_t now_ns)
{
    trace_record *record = find_call(call);
    if (record != NULL) {
        record->began_ns = now_ns;
        record->runner = this_thread(trace_on);
        record->count = 1;
    }
}

int64_t
trace_end_traced(int64_t *call, trace_ending how)
{
    trace_record *record = find_call(*call);
    *call = 0;
    if (record == NULL) {
        return 0;
    }
    if (record->began_ns == 0) {
        record->runner = this_thread(trace_on);
    }
    record->end = (uint8_t)how;
    record->ended_ns = trace_now_ns();
    return record->ended_ns;
}

static int64_t
clamp(int64_t time_ns, int64_t least_ns, int64_t most_ns)
{
    return time_ns < least_ns ? least_ns : time_ns > most_ns ? most_ns
                                                             : time_ns;
}

void
trace_ran(int64_t *call, uint32_t process, int64_t began_ns, int64_t ended_ns, uint32_t calls,
          trace_ending how)
{
    trace_record *record = find_call(*call);
    if (record != NULL) {
        int64_t now_ns = ended_ns == TRACE_ENDS_NOW ? trace_now_ns() : clock_coarse_ns() + COARSE_NS;
        now_ns = now_ns > *call ? now_ns : *call;
        record->began_ns = clamp(began_ns, *call, now_ns);
        record->ended_ns = clamp(ended_ns, record->began_ns, now_ns);
        record->runner = process;
        record->is_process = 1;
        record->count = calls;
        record->end = (uint8_t)how;
    }
    *call = 0;
}

void
trace_stolen(int64_t call, uint32_t calls)
{
    trace_record *record = find_call(call) == NULL ? NULL : trace_log_add(&trace_on->log, TRACE_STEAL);
    if (record != NULL) {
        record->call = call;
        record->thread = this_thread(trace_on);
        record->count = calls;
    }
}

void
trace_delivered(int64_t began_ns, uint32_t results)
{
    trace *self = trace_on;
    trace_record *record =
        began_ns < self->log.began_ns ? NULL : trace_log_add(&self->log, TRACE_DELIVERY);
    if (record != NULL) {
        record->began_ns = began_ns < record->time_ns ? began_ns : record->time_ns;
        record->thread = this_thread(self);
        record->count = results;
    }
}

void
trace_worker(const trace_label *queue, trace_kind what, uint32_t process, bool lost_calls)
{
    trace_record *record = trace_log_add(&trace_on->log, what);
    if (record != NULL) {
        record->thread = process;
        record->pool = queue->number;
        record->end = lost_calls ? TRACE_DIED : TRACE_RETURNED;
    }
}

// ---- one trace after the other ----

static void
trace_free(trace *self)
{
    if (self->forks == forks) {
        trace_log_close(&self->log);
    }
    name_table_fini(&self->names);
    for (size_t i = 0; i < RECENT_NAMES; i++) {
        Py_XDECREF(self->recent[i].name);
    }
    PyMem_RawFree(self->threads);
    PyMem_RawFree(self);
}

static void
capsule_ends(PyObject *capsule)
{
    trace_free(PyCapsule_GetPointer(capsule, CAPSULE));
}

// In the child, where the records are not.  It has one thread, and that has the GIL, if Python forks.
static void
after_fork(void)
{
    forks++;
    inherited = trace_on != NULL ? trace_on : inherited;
    trace_on = NULL;
}

static void
free_inherited(void)
{
    if (inherited != NULL) {
        trace_free(inherited);
        inherited = NULL;
    }
}

PyDoc_STRVAR(start_doc,
"trace_start($module, max_events, /)\n--\n\n"
"Begin to write down what becomes of calls. Raise RuntimeError if that is done already.");

static PyObject *
trace_start(PyObject *module, PyObject *arg)
{
    unsigned long long events = PyLong_AsUnsignedLongLong(arg);
    if (PyErr_Occurred()) {
        return NULL;
    }
    uint64_t records = events / RECORD_EVENTS + (events % RECORD_EVENTS != 0);
    free_inherited();
    if (trace_on != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "a trace is being made already, and there can be one at a time");
        return NULL;
    }
    if (!watches_forks && pthread_atfork(NULL, NULL, after_fork) != 0) {
        return PyErr_NoMemory();
    }
    watches_forks = true;
    trace *self = PyMem_RawCalloc(1, sizeof(*self));
    if (self == NULL || trace_log_open(&self->log, records) < 0) {
        PyMem_RawFree(self);
        return PyErr_NoMemory();
    }
    self->module = PyModule_GetState(module);
    self->forks = forks;
    trace_on = self;
    trace_count++;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(stop_doc,
"trace_stop($module, /)\n--\n\n"
"End what trace_start() has begun; return it for the other functions. None: that was nothing.");

static PyObject *
trace_stop(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    trace *self = trace_on;
    free_inherited();
    if (self == NULL) {
        Py_RETURN_NONE;
    }
    PyObject *capsule = PyCapsule_New(self, CAPSULE, capsule_ends);
    if (capsule == NULL) {
        return NULL;
    }
    trace_on = NULL;
    self->ended_ns = trace_log_now_ns(&self->log);
    return capsule;
}

static PyObject *
build_names(const trace *self)
{
    PyObject *names = PyList_New((Py_ssize_t)self->names.count);
    for (uint32_t i = 0; names != NULL && i < self->names.count; i++) {
        const name_table_entry *entry = &self->names.entries[i];
        PyObject *name = PyUnicode_DecodeUTF8(entry->text, (Py_ssize_t)entry->bytes, "replace");
        if (name == NULL) {
            Py_CLEAR(names);
            break;
        }
        PyList_SET_ITEM(names, (Py_ssize_t)i, name);
    }
    return names;
}

static PyObject *
build_threads(const trace *self)
{
    PyObject *threads = PyList_New(0);
    for (size_t i = 0; threads != NULL && i < self->thread_count; i++) {
        PyObject *thread = Py_BuildValue("II", self->threads[i].thread, self->threads[i].name);
        if (thread == NULL || PyList_Append(threads, thread) < 0) {
            Py_CLEAR(threads);
        }
        Py_XDECREF(thread);
    }
    return threads;
}

PyDoc_STRVAR(describe_doc,
"trace_describe($module, trace, /)\n--\n\n"
"Return (began, ended, calls that are missing, since when, names, [(thread, number of its name)]), with\n"
"times as time.monotonic_ns() has them.");

static PyObject *
trace_describe(PyObject *Py_UNUSED(module), PyObject *arg)
{
    trace *self = PyCapsule_GetPointer(arg, CAPSULE);
    PyObject *names = self == NULL ? NULL : build_names(self);
    PyObject *threads = names == NULL ? NULL : build_threads(self);
    if (threads == NULL) {
        Py_XDECREF(names);
        return NULL;
    }
    return Py_BuildValue("LLKLNN", (long long)self->log.began_ns, (long long)self->ended_ns,
                         (unsigned long long)self->log.missing, (long long)self->log.full_since_ns, names,
                         threads);
}

PyDoc_STRVAR(read_doc,
"trace_read($module, trace, most, /)\n--\n\n"
"Return as bytes the next records, so many at most, in the order in which they were begun: trace_record\n"
"in trace_log.h says what they are. Of what is returned nothing is kept.");

static PyObject *
trace_read(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *capsule;
    Py_ssize_t most;
    if (!PyArg_ParseTuple(args, "On:trace_read", &capsule, &most)) {
        return NULL;
    }
    trace *self = PyCapsule_GetPointer(capsule, CAPSULE);
    if (self == NULL) {
        return NULL;
    }
    uint64_t left = self->forks == forks ? self->log.count - self->log.read : 0;  // else the parent's
    uint64_t count = most <= 0 ? 0 : left < (uint64_t)most ? left
                                                           : (uint64_t)most;
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(count * sizeof(trace_record)));
    for (uint64_t i = 0; bytes != NULL && i < count; i++) {
        memcpy(PyBytes_AS_STRING(bytes) + i * sizeof(trace_record), trace_log_next(&self->log),
               sizeof(trace_record));
    }
    return bytes;
}

PyMethodDef trace_functions[] = {
    {"trace_start", trace_start, METH_O, start_doc},
    {"trace_stop", trace_stop, METH_NOARGS, stop_doc},
    {"trace_describe", trace_describe, METH_O, describe_doc},
    {"trace_read", trace_read, METH_VARARGS, read_doc},
    {NULL, NULL, 0, NULL},
};
