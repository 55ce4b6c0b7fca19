#include "limit_watch.h"

#include <pthread.h>
#include <sys/prctl.h>

#include "core/clock.h"

// Has the thread look at the limits.
static void
poke(limit_watcher *w)
{
    // Relaxed: the GIL guards what the watch is to see; the load, because writers have the GIL.
    uint32_t changes = atomic_load_explicit(&w->changes, memory_order_relaxed);
    atomic_store_explicit(&w->changes, changes + 1, memory_order_relaxed);
    futex_wake(&w->changes, 1);
}

// Relaxed: written with the GIL, which the caller has.
static bool
is_running(limit_watcher *w)
{
    return atomic_load_explicit(&w->is_running, memory_order_relaxed) != 0;
}

static void
set_running(limit_watcher *w, uint32_t is)
{
    // Relaxed: the thread that sleeps on it looks at nothing else without the GIL.
    atomic_store_explicit(&w->is_running, is, memory_order_relaxed);
}

// Drops what the threading module has made if code asked there for this thread's Thread: it has none.
static void
forget_dummy(module_state *state)
{
    PyObject *active = PyDict_GetItemString(state->threading_names, "_active");  // borrowed
    PyObject *ident = PyLong_FromUnsignedLong(PyThread_get_thread_ident());
    if (active != NULL && ident != NULL) {
        (void)PyObject_DelItem(active, ident);
    }
    PyErr_Clear();
    Py_XDECREF(ident);
}

// Reaches the limits whose time has come.
static void
reach_all(module_state *state)
{
    limit_watcher *w = &state->limits;
    uint32_t forks = w->forks;
    w->is_acting = true;
    while (w->forks == forks && timer_heap_due(&w->heap) <= clock_now_ns()) {
        limit *l = THING_OF(w->heap.first, limit, timer);
        timer_heap_remove(&l->timer);
        l->reach(l);
    }
    // This thread may not look again for long.
    if (state->callbacks->look(state, INT64_MAX) < 0) {
        module_log_escaped(state);
    }
    forget_dummy(state);
    w->is_acting = false;
}

static void
watch(module_state *state)
{
    limit_watcher *w = &state->limits;
    uint32_t forks = w->forks;
    while (!w->is_over && !(w->heap.first == NULL && w->may_rest)) {
        if (timer_heap_due(&w->heap) <= clock_now_ns()) {
            reach_all(state);
            if (w->forks != forks) {
                return;  // a callback has forked, and this is the child
            }
            continue;
        }
        w->may_rest = false;
        w->sleeps_until_ns = timer_heap_due(&w->heap);
        uint32_t changes = atomic_load_explicit(&w->changes, memory_order_relaxed);  // relaxed: as in poke()
        PyThreadState *thread = gil_release(&state->gil);
        futex_wait(&w->changes, changes, w->sleeps_until_ns);
        gil_acquire(&state->gil, thread, 0);
        w->sleeps_until_ns = INT64_MIN;
    }
    set_running(w, 0);
    futex_wake_all(&w->is_running);
}

// To make its thread state, the thread takes a lock of the interpreter's without the GIL.  Before Python 3.12
// the child of a fork waits for that lock for ever if it was taken then: so forks wait for the thread.  No
// thread begins while the one that forks has the GIL.
#if PY_VERSION_HEX < 0x030C0000

static _Atomic uint32_t is_starting;  // 1: the thread has no thread state yet
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void
await_start(void)
{
    // A37: pairs with R37 in set_starting().
    while (atomic_load_explicit(&is_starting, memory_order_acquire) != 0) {
        futex_wait(&is_starting, 1, FUTEX_NO_DEADLINE);
    }
}

static void
set_up(void)
{
    pthread_atfork(await_start, NULL, NULL);
}

static void
set_starting(uint32_t is)
{
    pthread_once(&once, set_up);
    // R37: pairs with A37 in await_start(): the interpreter's lock is free.
    atomic_store_explicit(&is_starting, is, memory_order_release);
    futex_wake_all(&is_starting);
}

#else

static void
set_starting(uint32_t is)
{
    (void)is;
}

#endif

static void
run(void *arg)
{
    module_state *state = arg;
    limit_watcher *w = &state->limits;
    (void)prctl(PR_SET_NAME, "pyconc-limits");  // for ps and top
    PyThreadState *thread = PyThreadState_New(w->interpreter);
    if (thread == NULL) {
        set_running(w, 0);  // without the GIL, as there is none to be had
    }
    set_starting(0);
    if (thread != NULL) {
        PyEval_RestoreThread(thread);
        watch(state);
        PyThreadState_Clear(thread);
        PyThreadState_DeleteCurrent();
    }
}

static void
start(module_state *state)
{
    limit_watcher *w = &state->limits;
    w->interpreter = PyInterpreterState_Get();
    set_running(w, 1);
    set_starting(1);
    if (PyThread_start_new_thread(run, state) == (unsigned long)-1) {
        set_starting(0);
        set_running(w, 0);
    }
}

void
limit_watch_set(module_state *state, limit *l, int64_t due_ns)
{
    limit_watcher *w = &state->limits;
    timer_heap_remove(&l->timer);
    timer_heap_insert(&w->heap, &l->timer, due_ns);
    if (is_running(w)) {
        if (due_ns < w->sleeps_until_ns) {
            w->sleeps_until_ns = due_ns;
            poke(w);
        }
    }
    else if (!w->is_over) {
        w->may_rest = false;
        w->sleeps_until_ns = INT64_MIN;
        start(state);
    }
}

void
limit_watch_rest(module_state *state)
{
    limit_watcher *w = &state->limits;
    if (is_running(w) && w->heap.first == NULL) {
        w->may_rest = true;
        poke(w);
    }
}

void
limit_watch_after_fork(module_state *state)
{
    limit_watcher *w = &state->limits;
    w->forks++;
    w->is_acting = false;
    set_running(w, 0);
    set_starting(0);
}

PyDoc_STRVAR(end_limits_doc,
"end_limits()\n--\n\n"
"At the interpreter's exit: have the thread end that acts when the time of a call is over.");

static PyObject *
end_limits(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    module_state *state = (module_state *)PyModule_GetState(module);
    limit_watcher *w = &state->limits;
    w->is_over = true;
    while (is_running(w) && !w->is_acting) {  // else it may wait for anything
        poke(w);
        PyThreadState *thread = gil_release(&state->gil);
        futex_wait(&w->is_running, 1, FUTEX_NO_DEADLINE);
        gil_acquire(&state->gil, thread, 0);
    }
    Py_RETURN_NONE;
}

PyMethodDef limit_watch_functions[] = {
    {"end_limits", end_limits, METH_NOARGS, end_limits_doc},
    {NULL, NULL, 0, NULL},
};
