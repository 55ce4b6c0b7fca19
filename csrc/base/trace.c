#include "trace.h"

#include <pthread.h>

#include "callable_name.h"

#include "core/clock.h"
#include "core/name_table.h"

#define CAPSULE "pyconc._core.trace"
#define CACHED_NAMES 64
// By so much the coarse clock is late at most: more than a tick.
#define COARSE_NS 20000000

typedef struct known_thread {
    uint32_t thread, name;
} known_thread;

struct trace {
    module_state *module;  // borrowed: it is there as long as the process
    trace_log log;
    name_table names;
    uint32_t recent[CACHED_NAMES];  // numbers of names, by where their text stood, and 1; 0: none
    known_thread *threads;          // that have written something
    size_t thread_count, thread_room;
    int64_t ended_ns;
    uint32_t forks;  // how many there had been when it began
};

trace *trace_on;
static trace *inherited;  // that was on in the process which this one is a fork of; while none is on here
static uint32_t forks;    // that this process and those before it have come from
static bool watches_forks;

// What this thread is called in the trace that is on.
static _Thread_local struct {
    int64_t began_ns;
    uint32_t thread;
} here;

// ---- names ----

static uint32_t
number_of_text(trace *self, const char *text, size_t bytes)
{
    uint32_t *recent = &self->recent[((uintptr_t)text >> 4) % CACHED_NAMES];
    if (*recent != 0) {
        // Another name may stand there now.
        const name_table_entry *entry = &self->names.entries[*recent - 1];
        if (entry->bytes == bytes && memcmp(entry->text, text, bytes) == 0) {
            return *recent - 1;
        }
    }
    uint32_t number = name_table_number(&self->names, text, bytes);
    if (number != NAME_TABLE_NONE) {
        *recent = number + 1;
    }
    return number;
}

// Of anything but a str, that of no name.
static uint32_t
number_of_str(trace *self, PyObject *name)
{
    size_t bytes;
    const char *text = callable_name_of_str(name, &bytes);
    return text == NULL ? NAME_TABLE_NONE : number_of_text(self, text, bytes);
}

static uint32_t
number_of_callable(trace *self, PyObject *callable)
{
    size_t bytes;
    const char *text = callable_name(self->module, callable, &bytes);
    return text == NULL ? NAME_TABLE_NONE : number_of_text(self, text, bytes);
}

bool
trace_knows(const trace_label *label)
{
    return trace_on != NULL && label->began_ns == trace_on->log.began_ns;
}

void
trace_name(trace_label *label, PyObject *name)
{
    *label = (trace_label){.began_ns = trace_on->log.began_ns, .number = number_of_str(trace_on, name)};
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
    here.began_ns = self->log.began_ns;
    here.thread = (uint32_t)PyThread_get_thread_native_id();
    note_thread(self, here.thread);
    return here.thread;
}

static inline uint32_t
this_thread(trace *self)
{
    return here.began_ns == self->log.began_ns ? here.thread : introduce_thread(self);
}

// ---- what happens ----

// Whether a call is of the trace that is on.
static inline bool
is_traced(int64_t call)
{
    return trace_on != NULL && call > 0 && trace_log_has(&trace_on->log, call);
}

static inline trace_record *
add_of_call(trace_log *log, trace_kind kind, int64_t time_ns, int64_t call, uint32_t thread)
{
    trace_record *record = trace_log_add(log, kind, time_ns);
    record->call = call;
    record->thread = thread;
    return record;
}

int64_t
trace_submit(const trace_label *queue, PyObject *callable, PyObject *name)
{
    trace *self = trace_on;
    int64_t call = trace_log_admit(&self->log);
    if (call != 0) {
        uint32_t number = name == NULL ? NAME_TABLE_NONE : number_of_str(self, name);
        number = number == NAME_TABLE_NONE ? number_of_callable(self, callable) : number;
        trace_record *record = add_of_call(&self->log, TRACE_SUBMIT, call, call, this_thread(self));
        record->number = number;
        record->pool = queue->number;
    }
    return call;
}

void
trace_begin(int64_t call)
{
    if (is_traced(call)) {
        trace *self = trace_on;
        int64_t now_ns = trace_log_now_ns(&self->log);
        add_of_call(&self->log, TRACE_BEGIN, now_ns, call, this_thread(self))->number = 1;
    }
}

void
trace_end_traced(int64_t *call, trace_ending how)
{
    if (is_traced(*call)) {
        trace *self = trace_on;
        int64_t now_ns = trace_log_now_ns(&self->log);
        add_of_call(&self->log, TRACE_END, now_ns, *call, this_thread(self))->end = (uint8_t)how;
    }
    *call = 0;
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
    if (is_traced(*call)) {
        trace_log *log = &trace_on->log;
        int64_t now_ns = ended_ns == TRACE_ENDS_NOW ? trace_log_now_ns(log) : clock_coarse_ns() + COARSE_NS;
        now_ns = now_ns > *call ? now_ns : *call;
        began_ns = clamp(began_ns, *call, now_ns);
        ended_ns = clamp(ended_ns, began_ns, now_ns);
        trace_record *begin = add_of_call(log, TRACE_BEGIN, began_ns, *call, process);
        begin->number = calls;
        begin->is_worker = 1;
        trace_record *end = add_of_call(log, TRACE_END, ended_ns, *call, process);
        end->end = (uint8_t)how;
        end->is_worker = 1;
    }
    *call = 0;
}

void
trace_stolen(int64_t call, uint32_t calls)
{
    if (is_traced(call)) {
        trace *self = trace_on;
        uint32_t thread = this_thread(self);
        trace_record *record = trace_log_add(&self->log, TRACE_STEAL, trace_log_now_ns(&self->log));
        if (record != NULL) {
            record->call = call;
            record->thread = thread;
            record->number = calls;
        }
    }
}

void
trace_delivered(int64_t began_ns, uint32_t results)
{
    trace *self = trace_on;
    if (self != NULL && trace_log_has(&self->log, began_ns)) {
        int64_t now_ns = trace_log_now_ns(&self->log);
        uint32_t thread = this_thread(self);
        trace_record *record =
            trace_log_add(&self->log, TRACE_DELIVERY, now_ns > began_ns ? now_ns : began_ns);
        if (record != NULL) {
            record->call = began_ns;
            record->thread = thread;
            record->number = results;
        }
    }
}

void
trace_worker(const trace_label *queue, trace_kind what, uint32_t process, bool lost_calls)
{
    trace_log *log = &trace_on->log;
    trace_record *record = trace_log_add(log, what, trace_log_now_ns(log));
    if (record != NULL) {
        record->thread = process;
        record->number = queue->number;
        record->end = lost_calls ? TRACE_DIED : TRACE_RETURNED;
        record->is_worker = 1;
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
    unsigned long long room = PyLong_AsUnsignedLongLong(arg);
    if (PyErr_Occurred()) {
        return NULL;
    }
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
    if (self == NULL || trace_log_open(&self->log, room) < 0) {
        PyMem_RawFree(self);
        return PyErr_NoMemory();
    }
    self->module = PyModule_GetState(module);
    self->forks = forks;
    trace_on = self;
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
    Py_BEGIN_ALLOW_THREADS
    trace_log_sort(&self->log);
    Py_END_ALLOW_THREADS
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
"Return as bytes the next records, so many at most, in the order of their times: trace_record in\n"
"trace_log.h says what they are. Of what is returned nothing is kept.");

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
