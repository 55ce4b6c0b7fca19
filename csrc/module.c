#include "base/state.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "futures/chain.h"
#include "core/clock.h"
#include "executor.h"
#include "futures/future.h"
#include "loops/loop_bridge.h"
#include "loops/loop_future.h"
#include "processes/keeper.h"
#include "processes/scalars.h"
#include "processes/process_queue.h"
#include "processes/region.h"
#include "threads/thread_queue.h"
#include "futures/waiter.h"
#include "processes/worker.h"

static module_state *
state_of(PyObject *module)
{
    return (module_state *)PyModule_GetState(module);
}

module_state *
module_state_of(PyTypeObject *type)
{
    return state_of(PyType_GetModuleByDef(type, &core_module));
}

void
module_log(module_state *state, const char *method, const char *message, PyObject *about,
           PyObject *exception)
{
    PyObject *logged = NULL;
    PyObject *log = PyObject_GetAttrString(state->logger, method);
    PyObject *args = about == NULL ? Py_BuildValue("(s)", message) : Py_BuildValue("(sO)", message, about);
    PyObject *kwargs = Py_BuildValue("{sO}", "exc_info", exception);
    if (log != NULL && args != NULL && kwargs != NULL) {
        logged = PyObject_Call(log, args, kwargs);
    }
    if (logged == NULL) {
        PyErr_WriteUnraisable(about);
    }
    Py_XDECREF(logged);
    Py_XDECREF(kwargs);
    Py_XDECREF(args);
    Py_XDECREF(log);
    Py_DECREF(exception);
}

void
module_log_escaped(module_state *state)
{
    module_log(state, "critical", "Exception in worker", NULL, PyErr_GetRaisedException());
}

void
module_checkpoint(module_state *state)
{
    PyObject *result = PyObject_CallNoArgs(state->checkpoint);
    if (result == NULL) {
        module_log_escaped(state);
    }
    Py_XDECREF(result);
}

int
module_deadline(PyObject *timeout, int64_t *deadline_ns)
{
    // What a lock of the threading module accepts.
    static const double most_seconds = (double)(INT64_MAX / 1000000000);
    if (timeout == Py_None) {
        *deadline_ns = FUTEX_NO_DEADLINE;
        return 0;
    }
    double seconds = PyFloat_AsDouble(timeout);
    if (seconds == -1.0 && PyErr_Occurred()) {
        return -1;
    }
    if (!(seconds > 0)) {
        *deadline_ns = clock_now_ns();
        return 0;
    }
    if (isinf(seconds) || seconds > most_seconds) {
        PyErr_SetString(PyExc_OverflowError, isinf(seconds) ? "cannot convert float infinity to integer"
                                                            : "timeout value is too large");
        return -1;
    }
    int64_t now = clock_now_ns();
    int64_t wait_ns = (int64_t)(seconds * 1e9);
    *deadline_ns = wait_ns > FUTEX_NO_DEADLINE - now ? FUTEX_NO_DEADLINE : now + wait_ns;
    return 0;
}

int
module_wait(module_state *state, _Atomic uint32_t *word, int64_t deadline_ns)
{
    int rc;
    if (deadline_ns <= clock_now_ns()) {
        return FUTEX_TIMED_OUT;
    }
    do {
        bool spins = park_may_spin(&state->result_spot);
        bool changed = false;
        PyThreadState *thread = gil_release(&state->gil);
        if (spins) {
            changed = park_spin(&state->result_spot, word, 0, deadline_ns);
            if (!changed) {
                // A signal that came during the spin must not wait until somebody ends the sleep.
                gil_acquire(&state->gil, thread, 0);
                if (PyErr_CheckSignals() < 0) {
                    return FUTEX_INTERRUPTED;
                }
                thread = gil_release(&state->gil);
            }
        }
        rc = changed ? FUTEX_OK : park_sleep(&state->result_spot, word, 0, deadline_ns);
        gil_acquire(&state->gil, thread, changed ? GIL_PATIENCE_NS : 0);
        if (rc == FUTEX_INTERRUPTED && PyErr_CheckSignals() < 0) {
            return FUTEX_INTERRUPTED;
        }
    } while (rc == FUTEX_INTERRUPTED);
    return rc;
}

int
module_meet_asyncio(module_state *state)
{
    PyObject *glue = PyImport_ImportModule("pyconc._asyncio_glue");
    if (glue == NULL) {
        return -1;
    }
    PyObject *known = PyObject_CallMethod(glue, "describe", NULL);
    Py_DECREF(glue);
    if (known == NULL) {
        return -1;
    }
    PyObject *run_in_executor_code, *our_run_in_executor_code, *call_set_state_code;
    PyObject *convert_exception, *get_running_loop, *adopt_loop;
    Py_ssize_t dest_loop_cell, destination_cell;
    int ok = PyArg_ParseTuple(known, "OOOnnOOO", &run_in_executor_code, &our_run_in_executor_code,
                              &call_set_state_code, &dest_loop_cell, &destination_cell,
                              &convert_exception, &get_running_loop, &adopt_loop);
    if (ok) {
        Py_XSETREF(state->run_in_executor_code, Py_NewRef(run_in_executor_code));
        Py_XSETREF(state->our_run_in_executor_code, Py_NewRef(our_run_in_executor_code));
        Py_XSETREF(state->adopt_loop, Py_NewRef(adopt_loop));
        Py_XSETREF(state->call_set_state_code, Py_NewRef(call_set_state_code));
        Py_XSETREF(state->convert_exception, Py_NewRef(convert_exception));
        Py_XSETREF(state->get_running_loop, Py_NewRef(get_running_loop));
        state->dest_loop_cell = dest_loop_cell;
        state->destination_cell = destination_cell;
        ok = state->loop_future_type != NULL || loop_future_make_type(state) == 0;
    }
    Py_DECREF(known);
    return ok ? 0 : -1;
}

PyDoc_STRVAR(after_fork_doc,
"after_fork()\n--\n\n"
"In the child of a fork: forget the threads that waited.");

static PyObject *
core_after_fork(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    module_state *state = state_of(module);
    park_spot_init(&state->result_spot, UINT32_MAX);
    park_spot_init(&state->busy_wait_spot, UINT32_MAX);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(fork_doc,
"fork()\n--\n\n"
"Fork as os.fork() does, but without its warning when there are threads: for a caller that knows\n"
"that those hold no lock. Returns 0 in the child.");

static PyObject *
core_fork(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    if (PySys_Audit("os.fork", NULL) < 0) {
        return NULL;
    }
    PyOS_BeforeFork();
    pid_t pid = fork();
    int error = errno;
    if (pid == 0) {
        PyOS_AfterFork_Child();
    }
    else {
        PyOS_AfterFork_Parent();
    }
    if (pid < 0) {
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return PyLong_FromLong(pid);
}

PyDoc_STRVAR(die_with_parent_doc,
"die_with_parent(parent, /)\n--\n\n"
"Have the kernel kill this process when the thread ends that has forked it, of the process `parent`: at\n"
"once if that has ended already.");

static PyObject *
core_die_with_parent(PyObject *Py_UNUSED(module), PyObject *arg)
{
    // Whoever is our parent now may have adopted us.
    long parent = PyLong_AsLong(arg);
    if (parent == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    if (getppid() != parent) {
        raise(SIGKILL);  // it was quicker
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(die_with_pipe_doc,
"die_with_pipe(fd, /)\n--\n\n"
"Have the kernel kill this process when nobody has the other end of a pipe open any more.");

static PyObject *
core_die_with_pipe(PyObject *Py_UNUSED(module), PyObject *arg)
{
    int fd = PyObject_AsFileDescriptor(arg);
    if (fd < 0) {
        return NULL;
    }
    // The signal that the kernel sends when something happens to the file, which is only its end.
    if (fcntl(fd, F_SETOWN, getpid()) < 0 || fcntl(fd, F_SETSIG, SIGKILL) < 0
        || fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_ASYNC) < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    struct pollfd ended = {.fd = fd, .events = POLLIN};
    if (poll(&ended, 1, 0) > 0) {
        raise(SIGKILL);  // it was quicker
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(scalars_dumps_doc,
"scalars_dumps(value, /)\n--\n\n"
"Return the bytes in which a small plain value travels between processes, or None: it is pickled.");

static PyObject *
core_plain_dumps(PyObject *Py_UNUSED(module), PyObject *value)
{
    unsigned char bytes[SCALARS_BYTES_MAX];
    size_t size = scalars_write(value, bytes, sizeof(bytes));
    if (size == 0) {
        Py_RETURN_NONE;
    }
    return PyBytes_FromStringAndSize((char *)bytes, (Py_ssize_t)size);
}

PyDoc_STRVAR(scalars_loads_doc,
"scalars_loads(bytes, /)\n--\n\n"
"Return the value that scalars_dumps() made bytes of. Raises ValueError if that cannot be.");

static PyObject *
core_plain_loads(PyObject *Py_UNUSED(module), PyObject *bytes)
{
    if (!PyBytes_Check(bytes)) {
        PyErr_SetString(PyExc_TypeError, "scalars_loads() takes bytes");
        return NULL;
    }
    return scalars_read((unsigned char *)PyBytes_AS_STRING(bytes), (size_t)PyBytes_GET_SIZE(bytes));
}

static PyMethodDef core_methods[] = {
    {"after_fork", core_after_fork, METH_NOARGS, after_fork_doc},
    {"die_with_parent", core_die_with_parent, METH_O, die_with_parent_doc},
    {"die_with_pipe", core_die_with_pipe, METH_O, die_with_pipe_doc},
    {"fork", core_fork, METH_NOARGS, fork_doc},
    {"scalars_dumps", core_plain_dumps, METH_O, scalars_dumps_doc},
    {"scalars_loads", core_plain_loads, METH_O, scalars_loads_doc},
    {NULL, NULL, 0, NULL},
};

// ---- making the module ----

static int
import_name(const char *module_name, const char *name, PyObject **where)
{
    PyObject *module = PyImport_ImportModule(module_name);
    if (module == NULL) {
        return -1;
    }
    *where = PyObject_GetAttrString(module, name);
    Py_DECREF(module);
    return *where == NULL ? -1 : 0;
}

static int
import_names(module_state *state)
{
    static const char base[] = "concurrent.futures._base";
    if (import_name(base, "CancelledError", &state->cancelled_error) < 0
        || import_name(base, "TimeoutError", &state->timeout_error) < 0
        || import_name(base, "InvalidStateError", &state->invalid_state_error) < 0
        || import_name(base, "LOGGER", &state->logger) < 0
        || import_name("threading", "Condition", &state->condition_type) < 0
        || import_name("pyconc._checkpoint", "checkpoint", &state->checkpoint) < 0
        || import_name("pickle", "dumps", &state->pickle_dumps) < 0
        || import_name("pickle", "loads", &state->pickle_loads) < 0) {
        return -1;
    }
    state->pickle_protocol = PyLong_FromLong(5);
    state->buffer_callback_names = Py_BuildValue("(s)", "buffer_callback");
    state->buffers_names = Py_BuildValue("(s)", "buffers");
    state->loop_names = Py_BuildValue("(s)", "loop");
    return state->pickle_protocol == NULL || state->buffer_callback_names == NULL
                   || state->buffers_names == NULL || state->loop_names == NULL
               ? -1
               : 0;
}

static int
intern_strings(module_state *state)
{
#define INTERN(where, name)                                   \
    if ((where = PyUnicode_InternFromString(name)) == NULL) { \
        return -1;                                            \
    }
#define INTERN_STRING(name) INTERN(state->str_##name, #name)
    MODULE_STRINGS(INTERN_STRING)
#undef INTERN_STRING
#define INTERN_STATE_NAME(name) INTERN(state->state_names[FUTURE_##name], #name)
    MODULE_STATE_NAMES(INTERN_STATE_NAME)
#undef INTERN_STATE_NAME
#undef INTERN
    return 0;
}

// Makes a type and adds it to the module under the last part of its name.
static int
add_type(PyObject *module, PyType_Spec *spec, PyObject *base, PyTypeObject **where)
{
    PyObject *bases = base == NULL ? NULL : PyTuple_Pack(1, base);
    if (base != NULL && bases == NULL) {
        return -1;
    }
    *where = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, bases);
    Py_XDECREF(bases);
    return *where == NULL ? -1 : PyModule_AddType(module, *where);
}

static int
add_types(PyObject *module, module_state *state)
{
    PyObject *base;
    if (import_name("concurrent.futures._base", "Future", &base) < 0) {
        return -1;
    }
    int rc = 0;
    if (((PyTypeObject *)base)->tp_basicsize > (Py_ssize_t)offsetof(FutureObject, module)) {
        PyErr_SetString(PyExc_ImportError, "concurrent.futures.Future is larger than it used to be");
        rc = -1;
    }
    if (rc == 0) {
        rc = add_type(module, &future_spec, base, &state->future_type);
    }
    Py_DECREF(base);
    if (rc < 0 || add_type(module, &waiter_spec, NULL, &state->waiter_type) < 0
        || add_type(module, &loop_bridge_spec, NULL, &state->loop_bridge_type) < 0
        || add_type(module, &thread_queue_spec, NULL, &state->thread_queue_type) < 0
        || add_type(module, &process_queue_spec, NULL, &state->process_queue_type) < 0
        || add_type(module, &executor_spec, NULL, &state->executor_type) < 0
        || add_type(module, &region_spec, NULL, &state->region_type) < 0
        || add_type(module, &block_spec, NULL, &state->block_type) < 0
        || add_type(module, &keeper_spec, NULL, &state->keeper_type) < 0
        || add_type(module, &worker_spec, NULL, &state->worker_type) < 0
        || add_type(module, &chain_spec, NULL, &state->chain_type) < 0) {
        return -1;
    }
    return 0;
}

static int
core_exec(PyObject *module)
{
    module_state *state = state_of(module);
    if (intern_strings(state) < 0 || import_names(state) < 0 || add_types(module, state) < 0) {
        return -1;
    }
    park_spot_init(&state->result_spot, UINT32_MAX);
    park_spot_init(&state->busy_wait_spot, UINT32_MAX);
    atomic_init(&state->gil.held, 0);
    return 0;
}

static int
core_traverse(PyObject *module, visitproc visit, void *arg)
{
    module_state *state = state_of(module);
#define VISIT(name) Py_VISIT(state->name##_type);
    MODULE_TYPES(VISIT)
#undef VISIT
#define VISIT(name) Py_VISIT(state->name);
    MODULE_OBJECTS(VISIT)
#undef VISIT
    return 0;  // strings are in no cycle
}

static int
core_clear(PyObject *module)
{
    module_state *state = state_of(module);
#define CLEAR(name) Py_CLEAR(state->name##_type);
    MODULE_TYPES(CLEAR)
#undef CLEAR
#define CLEAR(name) Py_CLEAR(state->name);
    MODULE_OBJECTS(CLEAR)
#undef CLEAR
#define CLEAR(name) Py_CLEAR(state->str_##name);
    MODULE_STRINGS(CLEAR)
#undef CLEAR
#define CLEAR(name) Py_CLEAR(state->state_names[FUTURE_##name]);
    MODULE_STATE_NAMES(CLEAR)
#undef CLEAR
    return 0;
}

static void
core_free(void *module)
{
    core_clear((PyObject *)module);
}

static PyModuleDef_Slot core_slots[] = {
    {Py_mod_exec, core_exec},
    {0, NULL},
};

PyDoc_STRVAR(core_doc,
"The native part of pyconc: futures, executors, and their way to event loops.");

struct PyModuleDef core_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "pyconc._core",
    .m_doc = core_doc,
    .m_size = sizeof(module_state),
    .m_methods = core_methods,
    .m_slots = core_slots,
    .m_traverse = core_traverse,
    .m_clear = core_clear,
    .m_free = core_free,
};

PyMODINIT_FUNC PyInit__core(void);

PyMODINIT_FUNC
PyInit__core(void)
{
    return PyModuleDef_Init(&core_module);
}
