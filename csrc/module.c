// module: makes pyconc._core: its types, and the names that it looks up.  No file includes it.
#include "base/call.h"
#include "base/callable_name.h"
#include "base/lost_exception.h"
#include "base/scalars.h"
#include "base/state.h"
#include "base/trace.h"
#include "core/thread_view.h"

#include "class_builder.h"
#include "executor.h"
#include "futures/chain.h"
#include "futures/future.h"
#include "futures/future_type.h"
#include "futures/outbox.h"
#include "futures/waiting.h"
#include "loops/loop_bridge.h"
#include "method.h"
#include "processes/keeper.h"
#include "processes/map_feed.h"
#include "processes/map_results.h"
#include "processes/pool_look.h"
#include "processes/process_control.h"
#include "processes/process_state.h"
#include "processes/process_queue_type.h"
#include "processes/region.h"
#include "processes/worker_type.h"
#include "shared/shared_acquire.h"
#include "shared/shared_array_type.h"
#include "shared/shared_cell.h"
#include "shared/shared_condition_type.h"
#include "shared/shared_dict_type.h"
#include "shared/shared_event_type.h"
#include "shared/shared_list_type.h"
#include "shared/shared_lock_type.h"
#include "shared/shared_number_type.h"
#include "shared/shared_queue_type.h"
#include "shared/shared_semaphore_type.h"
#include "shared/shared_watch_type.h"
#include "threads/limit_watch.h"
#include "threads/thread_look.h"
#include "threads/thread_queue_type.h"

static module_state *
state_of(PyObject *module)
{
    return (module_state *)PyModule_GetState(module);
}

PyDoc_STRVAR(before_collection_doc,
"before_collection(phase, info, /)\n--\n\n"
"One of gc.callbacks: has the collector track the futures that got attributes by object.__setattr__().");

static PyObject *
core_before_collection(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    PyObject *generation = NULL;  // borrowed
    if (nargs == 2 && PyDict_Check(args[1])) {
        generation = PyDict_GetItemString(args[1], "generation");
    }
    // Collections of younger generations are too frequent to look at each future.
    bool is_full = generation != NULL && PyLong_Check(generation) && PyLong_AsLong(generation) == 2;
    if (is_full && PyUnicode_Check(args[0]) && PyUnicode_CompareWithASCIIString(args[0], "start") == 0) {
        future_track_attributes(state_of(module));
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(after_fork_doc,
"after_fork()\n--\n\n"
"In the child of a fork: forget the threads that waited, and the table of those that others see.");

static PyObject *
core_after_fork(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    module_state *state = state_of(module);
    park_spot_after_fork(&state->result_spot);
    park_spot_after_fork(&state->busy_wait_spot);
    park_spot_after_fork(&state->end_spot);
    limit_watch_after_fork(state);
    lost_exception_after_fork(state);
    thread_view_after_fork();
    Py_RETURN_NONE;
}

PyDoc_STRVAR(scalars_dumps_doc,
"scalars_dumps(value, /)\n--\n\n"
"Return the bytes in which a scalar travels between processes, or None if the value is pickled.");

static PyObject *
core_scalars_dumps(PyObject *Py_UNUSED(module), PyObject *value)
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
core_scalars_loads(PyObject *Py_UNUSED(module), PyObject *bytes)
{
    if (!PyBytes_Check(bytes)) {
        PyErr_SetString(PyExc_TypeError, "scalars_loads() takes bytes");
        return NULL;
    }
    return scalars_read((unsigned char *)PyBytes_AS_STRING(bytes), (size_t)PyBytes_GET_SIZE(bytes));
}

PyDoc_STRVAR(watch_standard_doc,
"watch_standard(which, cls, originals, /)\n--\n\n"
"Call what a standard class has for a method, where that is not the original one, instead of ours.\n\n"
"which: future, threads, processes or lock. originals: a dict of the methods, by name.");

static PyObject *
core_watch_standard(PyObject *module, PyObject *args)
{
    module_state *state = state_of(module);
    const char *which;
    PyObject *type, *originals;
    if (!PyArg_ParseTuple(args, "sO!O!:watch_standard", &which, &PyType_Type, &type, &PyDict_Type,
                          &originals)) {
        return NULL;
    }
#define WATCH(name)                                                                     \
    if (strcmp(which, #name) == 0) {                                                    \
        standard_class_watch(&state->standard_##name, (PyTypeObject *)type, originals); \
        Py_RETURN_NONE;                                                                 \
    }
    MODULE_STANDARD_CLASSES(WATCH)
#undef WATCH
    PyErr_Format(PyExc_ValueError, "there is no standard class %s", which);
    return NULL;
}

PyDoc_STRVAR(make_class_builder_doc,
"make_class_builder(original, metaclass, choose_bases, /)\n--\n\n"
"Return a function that does what `original`, a builtins.__build_class__, does; where the type of a base is\n"
"`metaclass`, with the tuple that choose_bases(bases, the metaclass that is named, or None) returns.");

static PyObject *
core_make_class_builder(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *original, *metaclass, *choose_bases;
    if (!PyArg_ParseTuple(args, "OOO:make_class_builder", &original, &metaclass, &choose_bases)) {
        return NULL;
    }
    return class_builder_new(original, metaclass, choose_bases);
}

PyDoc_STRVAR(set_future_type_doc,
"set_future_type(metaclass, /)\n--\n\n"
"Make `metaclass` the type of the class Future. A type's spec names none before Python 3.12.");

static PyObject *
core_set_future_type(PyObject *module, PyObject *metaclass)
{
    PyTypeObject *future = state_of(module)->future_type;
    PyTypeObject *old = Py_TYPE(future);
    if (!PyType_Check(metaclass) || !PyType_IsSubtype((PyTypeObject *)metaclass, old)
        || ((PyTypeObject *)metaclass)->tp_basicsize != old->tp_basicsize) {
        PyErr_SetString(PyExc_TypeError, "the type of a class derives from `type`, and adds no fields");
        return NULL;
    }
    Py_SET_TYPE(future, (PyTypeObject *)Py_NewRef(metaclass));
    PyType_Modified(future);
    Py_DECREF(old);
    Py_RETURN_NONE;
}

static PyMethodDef core_methods[] = {
    {"after_fork", core_after_fork, METH_NOARGS, after_fork_doc},
    {"before_collection", FASTCALL(core_before_collection), METH_FASTCALL, before_collection_doc},
    {"make_class_builder", core_make_class_builder, METH_VARARGS, make_class_builder_doc},
    {"set_future_type", core_set_future_type, METH_O, set_future_type_doc},
    {"watch_standard", core_watch_standard, METH_VARARGS, watch_standard_doc},
    {"scalars_dumps", core_scalars_dumps, METH_O, scalars_dumps_doc},
    {"scalars_loads", core_scalars_loads, METH_O, scalars_loads_doc},
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
        || import_name("threading", "__dict__", &state->threading_names) < 0
        || import_name("pyconc._checkpoint", "checkpoint", &state->checkpoint) < 0
        || import_name("pickle", "dumps", &state->pickle_dumps) < 0
        || import_name("pickle", "loads", &state->pickle_loads) < 0) {
        return -1;
    }
    state->pickle_protocol = PyLong_FromLong(5);
    state->buffer_callback_names = Py_BuildValue("(s)", "buffer_callback");
    state->buffers_names = Py_BuildValue("(s)", "buffers");
    state->loop_names = Py_BuildValue("(s)", "loop");
    state->get_ident_name = PyUnicode_InternFromString("get_ident");
    return state->get_ident_name == NULL || state->pickle_protocol == NULL
                   || state->buffer_callback_names == NULL
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

static int
make_type(PyObject *module, PyType_Spec *spec, PyObject *base, PyTypeObject **where)
{
    PyObject *bases = base == NULL ? NULL : PyTuple_Pack(1, base);
    if (base != NULL && bases == NULL) {
        return -1;
    }
    *where = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, bases);
    Py_XDECREF(bases);
    return *where == NULL ? -1 : 0;
}

// Makes a type and adds it to the module under the last part of its name.
static int
add_type(PyObject *module, PyType_Spec *spec, PyObject *base, PyTypeObject **where)
{
    return make_type(module, spec, base, where) < 0 ? -1 : PyModule_AddType(module, *where);
}

static int
add_shared_types(PyObject *module, module_state *state)
{
    if (add_type(module, &shared_heap_spec, NULL, &state->shared_heap_type) < 0
        || make_type(module, &shared_outcome_spec, NULL, &state->shared_outcome_type) < 0
        || add_type(module, &shared_watch_spec, NULL, &state->shared_watch_type) < 0
        || add_type(module, &shared_cell_spec, NULL, &state->shared_cell_type) < 0) {
        return -1;
    }
    PyObject *base = (PyObject *)state->shared_cell_type;
    return add_type(module, &shared_lock_spec, base, &state->shared_lock_type) < 0
                   || add_type(module, &shared_semaphore_spec, base, &state->shared_semaphore_type) < 0
                   || add_type(module, &shared_event_spec, base, &state->shared_event_type) < 0
                   || add_type(module, &shared_condition_spec, base, &state->shared_condition_type) < 0
                   || add_type(module, &shared_number_spec, base, &state->shared_number_type) < 0
                   || add_type(module, &shared_dict_spec, base, &state->shared_dict_type) < 0
                   || add_type(module, &shared_list_spec, base, &state->shared_list_type) < 0
                   || add_type(module, &shared_array_spec, base, &state->shared_array_type) < 0
                   || add_type(module, &shared_queue_spec, base, &state->shared_queue_type) < 0
               ? -1
               : 0;
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
        || make_type(module, &method_spec, NULL, &state->method_type) < 0
        || add_type(module, &executor_spec, NULL, &state->executor_type) < 0
        || method_replace(state, state->executor_type, "submit") < 0
        || method_replace(state, state->executor_type, "run") < 0
        || add_type(module, &region_spec, NULL, &state->region_type) < 0
        || add_type(module, &block_spec, NULL, &state->block_type) < 0
        || make_type(module, &map_feed_spec, NULL, &state->map_feed_type) < 0
        || add_type(module, &map_results_spec, NULL, &state->map_results_type) < 0
        || add_type(module, &keeper_spec, NULL, &state->keeper_type) < 0
        || add_type(module, &worker_spec, NULL, &state->worker_type) < 0
        || add_type(module, &call_spec, NULL, &state->call_type) < 0
        || add_type(module, &chain_spec, NULL, &state->chain_type) < 0
        || add_type(module, &outbox_spec, NULL, &state->outbox_type) < 0
        || make_type(module, &ticket_spec, NULL, &state->ticket_type) < 0) {
        return -1;
    }
    return add_shared_types(module, state);
}

// Has the garbage collector call before_collection().  0, or -1 with an exception.
static int
watch_collector(PyObject *module)
{
    PyObject *callbacks;
    if (import_name("gc", "callbacks", &callbacks) < 0) {
        return -1;
    }
    PyObject *callback = PyObject_GetAttrString(module, "before_collection");
    int rc = callback == NULL || !PyList_Check(callbacks) ? -1 : PyList_Append(callbacks, callback);
    Py_XDECREF(callback);
    Py_DECREF(callbacks);
    return rc;
}

static int
core_exec(PyObject *module)
{
    module_state *state = state_of(module);
    if (intern_strings(state) < 0 || import_names(state) < 0 || add_types(module, state) < 0
        || PyModule_AddFunctions(module, process_control_methods) < 0
        || PyModule_AddFunctions(module, process_state_methods) < 0
        || PyModule_AddFunctions(module, pool_look_methods) < 0
        || PyModule_AddFunctions(module, thread_look_methods) < 0
        || PyModule_AddFunctions(module, call_functions) < 0
        || PyModule_AddFunctions(module, callable_name_functions) < 0
        || PyModule_AddFunctions(module, limit_watch_functions) < 0
        || PyModule_AddFunctions(module, trace_functions) < 0) {
        return -1;
    }
    state->callbacks = &loop_bridge_callbacks;
    park_spot_init(&state->result_spot, UINT32_MAX);
    park_spot_init(&state->busy_wait_spot, UINT32_MAX);
    park_spot_init(&state->end_spot, UINT32_MAX);
    atomic_init(&state->gil.held, 0);
    return watch_collector(module);
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
#define VISIT(name)                        \
    Py_VISIT(state->standard_##name.type); \
    Py_VISIT(state->standard_##name.originals);
    MODULE_STANDARD_CLASSES(VISIT)
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
#define CLEAR(name)                        \
    Py_CLEAR(state->standard_##name.type); \
    Py_CLEAR(state->standard_##name.originals);
    MODULE_STANDARD_CLASSES(CLEAR)
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
