#include "shared_types.h"

#include "shared_cell.h"
#include "typecodes.h"

#include "core/clock.h"
#include "core/shared_sync.h"
#include "core/shared_watch.h"

// Nothing in it changes.
typedef struct SharedOutcomeObject {
    PyObject_HEAD
    bool is_true;  // or None
} SharedOutcomeObject;

// Guarded by the GIL.
typedef struct SharedWatchObject {
    PyObject_HEAD
    shared_watch *watch;  // NULL: closed
} SharedWatchObject;

// ---- waiting ----

// acquire(blocking, timeout), with what threading says of their combinations.  None and -1 are for ever.
// multiprocessing's locks have `block` for `blocking`.
static int
read_acquire(PyObject *args, PyObject *kwargs, int64_t *deadline_ns)
{
    static char *keywords[] = {"blocking", "timeout", NULL};
    static char *other_keywords[] = {"block", "timeout", NULL};
    bool is_other = kwargs != NULL && PyDict_GetItemString(kwargs, "block") != NULL;
    int blocking = 1;
    PyObject *timeout = NULL;
    *deadline_ns = FUTEX_NO_DEADLINE;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|pO:acquire", is_other ? other_keywords : keywords,
                                     &blocking, &timeout)) {
        return -1;
    }
    bool has_timeout = false;
    if (timeout != NULL && timeout != Py_None) {
        double seconds = PyFloat_AsDouble(timeout);
        if (seconds == -1.0 && PyErr_Occurred()) {
            return -1;
        }
        has_timeout = seconds != -1.0;
        if (has_timeout && !blocking) {
            PyErr_SetString(PyExc_ValueError, "can't specify a timeout for a non-blocking call");
            return -1;
        }
        if (has_timeout && seconds < 0) {
            PyErr_SetString(PyExc_ValueError, "timeout value must be a non-negative number");
            return -1;
        }
    }
    if (!blocking) {
        *deadline_ns = ROBUST_LOCK_NO_WAIT;
    }
    return has_timeout ? module_deadline(timeout, deadline_ns) : 0;
}

PyDoc_STRVAR(enter_doc,
"__enter__($self, /)\n--\n\n"
"acquire().");

PyDoc_STRVAR(exit_doc,
"__exit__($self, /, *error)\n--\n\n"
"release().");

// ---- tasks ----
//
// What is free is taken at once, without a coroutine.  As soon as any task of the interpreter waits for any
// object, pyconc/shared/_async.py sees to the order of those that wait.

// An awaitable that has its value already: True if the function returns that, else None.
static PyObject *
at_once(PyObject *op, PyObject *(*function)(PyObject *op))
{
    PyTypeObject *type = module_state_of(Py_TYPE(op))->shared_outcome_type;
    SharedOutcomeObject *self = (SharedOutcomeObject *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    PyObject *value = function(op);
    if (value == NULL) {
        Py_CLEAR(self);
    }
    else {
        self->is_true = value == Py_True;
        Py_DECREF(value);
    }
    return (PyObject *)self;
}

// What __aenter__() returns.  try: takes the object if it can be had, and says whether.
static PyObject *
enter_soon(PyObject *op, PyObject *(*try)(PyObject *op))
{
    if (module_state_of(Py_TYPE(op))->shared_watches == 0) {
        PyObject *outcome = at_once(op, try);
        if (outcome == NULL || ((SharedOutcomeObject *)outcome)->is_true) {
            return outcome;
        }
        Py_DECREF(outcome);
    }
    return PyObject_CallMethod(op, "async_acquire", NULL);
}

// After a release: the first of this loop's tasks that wait for it has its turn.  0, or -1 with an exception.
static int
tell_tasks(PyObject *op)
{
    if (module_state_of(Py_TYPE(op))->shared_watches == 0) {
        return 0;
    }
    PyObject *told = PyObject_CallMethod(op, "_tell_tasks", NULL);
    Py_XDECREF(told);
    return told == NULL ? -1 : 0;
}

PyDoc_STRVAR(aenter_doc,
"__aenter__($self, /)\n--\n\n"
"async_acquire().");

PyDoc_STRVAR(aexit_doc,
"__aexit__($self, /, *error)\n--\n\n"
"release().");

static void
outcome_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyObject *
outcome_value(PyObject *op)
{
    return ((SharedOutcomeObject *)op)->is_true ? Py_True : Py_None;
}

static PyObject *
outcome_next(PyObject *op)
{
    PyErr_SetObject(PyExc_StopIteration, outcome_value(op));
    return NULL;
}

static PySendResult
outcome_send(PyObject *op, PyObject *Py_UNUSED(sent), PyObject **result)
{
    *result = Py_NewRef(outcome_value(op));
    return PYGEN_RETURN;
}

PyDoc_STRVAR(outcome_doc,
"The awaitable that a call returns when it need not wait.");

static PyType_Slot outcome_slots[] = {
    {Py_tp_dealloc, outcome_dealloc},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, outcome_next},
    {Py_am_await, PyObject_SelfIter},
    {Py_am_send, outcome_send},
    {Py_tp_doc, (void *)outcome_doc},
    {0, NULL},
};

PyType_Spec shared_outcome_spec = {
    .name = "pyconc._core.SharedOutcome",
    .basicsize = sizeof(SharedOutcomeObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = outcome_slots,
};

// ---- watch ----

static SharedWatchObject *
as_watch(PyObject *op)
{
    return (SharedWatchObject *)op;
}

static PyObject *
watch_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"", "", "", NULL};
    module_state *state = module_state_of(type);
    PyObject *cell;
    int what;
    unsigned int seen = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!i|I:SharedWatch", keywords, state->shared_cell_type,
                                     &cell, &what, &seen)) {
        return NULL;
    }
    SharedWatchObject *self = (SharedWatchObject *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    SharedCellObject *watched = shared_cell_of(cell);
    int error;
    Py_BEGIN_ALLOW_THREADS
    self->watch = shared_watch_open(watched->heap, watched->index, (shared_watched)what, seen);
    error = errno;
    Py_END_ALLOW_THREADS
    if (self->watch == NULL) {
        Py_DECREF(self);
        if (error == EAGAIN) {
            PyErr_SetString(PyExc_RuntimeError, "can't start new thread");
            return NULL;
        }
        errno = error;
        return error == ENOMEM ? PyErr_NoMemory() : PyErr_SetFromErrno(PyExc_OSError);
    }
    state->shared_watches++;
    return (PyObject *)self;
}

static void
close_watch(PyObject *op)
{
    shared_watch *watch = as_watch(op)->watch;
    if (watch != NULL) {
        as_watch(op)->watch = NULL;
        module_state_of(Py_TYPE(op))->shared_watches--;
        shared_watch_close(watch);
    }
}

static void
watch_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    close_watch(op);
    type->tp_free(op);
    Py_DECREF(type);
}

PyDoc_STRVAR(watch_fileno_doc,
"fileno($self, /)\n--\n\n"
"Return the file descriptor that becomes readable when it rings; -1 if it is closed.");

static PyObject *
watch_fileno(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromLong(as_watch(op)->watch == NULL ? -1 : shared_watch_fd(as_watch(op)->watch));
}

PyDoc_STRVAR(watch_clear_doc,
"clear($self, /)\n--\n\n"
"Hear it: it is not readable any more.");

static PyObject *
watch_clear(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    if (as_watch(op)->watch != NULL) {
        shared_watch_clear(as_watch(op)->watch);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(watch_look_doc,
"look($self, seen=0, /)\n--\n\n"
"Have it look again, if it rang.");

static PyObject *
watch_look(PyObject *op, PyObject *args)
{
    unsigned int seen = 0;
    if (!PyArg_ParseTuple(args, "|I:look", &seen)) {
        return NULL;
    }
    if (as_watch(op)->watch != NULL) {
        shared_watch_look(as_watch(op)->watch, seen);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(watch_close_doc,
"close($self, /)\n--\n\n"
"End its thread, without waiting for that.");

static PyObject *
watch_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    close_watch(op);
    Py_RETURN_NONE;
}

static PyMethodDef watch_methods[] = {
    {"fileno", watch_fileno, METH_NOARGS, watch_fileno_doc},
    {"clear", watch_clear, METH_NOARGS, watch_clear_doc},
    {"look", watch_look, METH_VARARGS, watch_look_doc},
    {"close", watch_close, METH_NOARGS, watch_close_doc},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(watch_doc,
"SharedWatch(cell, what, seen=0, /)\n--\n\n"
"A thread that sleeps for a loop until a cell's lock (what: 0) is free, there is a permit (1), an event was\n"
"set after `seen` times (2), or a condition has another turn than `seen` (3).");

static PyType_Slot watch_slots[] = {
    {Py_tp_new, watch_new},
    {Py_tp_dealloc, watch_dealloc},
    {Py_tp_methods, watch_methods},
    {Py_tp_doc, (void *)watch_doc},
    {0, NULL},
};

PyType_Spec shared_watch_spec = {
    .name = "pyconc._core.SharedWatch",
    .basicsize = sizeof(SharedWatchObject),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = watch_slots,
};

// ---- lock ----

static int
wait_for_lock(shared_cell *cell, int64_t deadline_ns, void *Py_UNUSED(arg))
{
    return robust_lock_acquire(&cell->lock, deadline_ns);
}

// The process from which this thread got the lock by its death; 0: from none.
static uint32_t
abandoned_by(const shared_cell *cell)
{
    // Relaxed: the holder reads what it has written.
    return atomic_load_explicit(&cell->lock.abandoned, memory_order_relaxed);
}

static PyObject *
pid_object(uint32_t pid)
{
    return PyLong_FromUnsignedLong(pid == ROBUST_LOCK_UNKNOWN ? 0 : pid);
}

static PyObject *
raise_abandoned(uint32_t by)
{
    PyObject *module = PyImport_ImportModule("pyconc._lock_abandoned");
    PyObject *error = NULL;
    if (module != NULL) {
        PyObject *pid = pid_object(by);
        PyObject *type = PyObject_GetAttrString(module, "LockAbandoned");
        error = pid == NULL || type == NULL ? NULL : PyObject_CallOneArg(type, pid);
        Py_XDECREF(type);
        Py_XDECREF(pid);
        Py_DECREF(module);
    }
    if (error != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
        Py_DECREF(error);
    }
    return NULL;
}

// The asyncio task that runs in this thread, a new reference: NULL without an exception if there is none.
static PyObject *
running_task(PyObject *op)
{
    module_state *state = module_state_of(Py_TYPE(op));
    if (state->running_task == NULL) {
        PyObject *module = PyImport_ImportModule("pyconc._asyncio_glue");
        PyObject *found = module == NULL ? NULL : PyObject_GetAttrString(module, "running_task");
        Py_XDECREF(module);
        if (found == NULL) {
            return NULL;
        }
        Py_XSETREF(state->running_task, found);
    }
    PyObject *task = PyObject_CallNoArgs(state->running_task);
    if (task == Py_None) {
        Py_CLEAR(task);
    }
    return task;
}

static robust_hold *
hold_of(PyObject *op)
{
    return robust_lock_hold(&shared_cell_of(op)->cell->lock);
}

// Whether the task that runs in this thread is the one that entered the lock; anything is if no task has.
// -1 with an exception.
static int
is_entered_here(PyObject *op)
{
    robust_hold *hold = hold_of(op);
    if (hold == NULL || hold->owner == NULL) {
        return hold != NULL;
    }
    PyObject *task = running_task(op);
    if (task == NULL && PyErr_Occurred()) {
        return -1;
    }
    hold = hold_of(op);  // Python has run: the thread's holds may have moved
    int is_owner = hold != NULL && task != NULL && hold->owner == task;
    Py_XDECREF(task);
    return is_owner;
}

// True or False, as acquire() returns it.
static PyObject *
lock_take(PyObject *op, int64_t deadline_ns)
{
    SharedCellObject *self = shared_cell_of(op);
    int is_here = self->is_reentrant ? is_entered_here(op) : 0;
    if (is_here != 0) {
        if (is_here < 0) {
            return NULL;
        }
        hold_of(op)->depth += 1;
        Py_RETURN_TRUE;
    }
    int rc = shared_wait(op, wait_for_lock, NULL, deadline_ns, true);
    if (rc == FUTEX_TIMED_OUT) {
        Py_RETURN_FALSE;
    }
    if (rc == ROBUST_LOCK_ABANDONED && self->raises) {
        uint32_t by = abandoned_by(self->cell);
        robust_lock_release(&self->cell->lock);
        return raise_abandoned(by);
    }
    return rc < 0 ? shared_raise(rc) : Py_NewRef(Py_True);
}

// Releases the lock that this thread holds, however often it was entered.
static int
release_all(PyObject *op)
{
    PyObject *owner = hold_of(op)->owner;
    robust_lock_release(&shared_cell_of(op)->cell->lock);
    Py_XDECREF(owner);
    return tell_tasks(op);
}

static PyObject *
lock_let_go(PyObject *op)
{
    SharedCellObject *self = shared_cell_of(op);
    int is_here = is_entered_here(op);
    if (is_here < 0) {
        return NULL;
    }
    if (is_here == 0) {
        bool is_taken = robust_lock_is_taken(&self->cell->lock);
        PyErr_SetString(PyExc_RuntimeError,
                        self->is_reentrant ? "cannot release un-acquired lock"
                        : is_taken         ? "only the thread that took a shared lock can release it"
                                           : "release unlocked lock");
        return NULL;
    }
    if (--hold_of(op)->depth == 0 && release_all(op) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(lock_acquire_doc,
"acquire($self, /, blocking=True, timeout=-1)\n--\n\n"
"Take the lock and return True; False if it is taken after `timeout` seconds, or if not `blocking`.\n\n"
"`blocking` may be called `block`, as in multiprocessing. The thread that took it has to release it. If\n"
"that ends before, by SIGKILL for instance, the next one has the lock at once, and `abandoned` is the\n"
"process; with on_abandoned=\"raise\" the next call raises LockAbandoned instead, and does not have the\n"
"lock. ValueError and OverflowError are raised as threading's locks do, RuntimeError if the thread holds\n"
"64 such locks, and what a signal's handler raises meanwhile.\n\n"
"    >>> lock = pyconc.shared.Lock()\n"
"    >>> lock.acquire(), lock.acquire(blocking=False), lock.acquire(timeout=0.001)\n"
"    (True, False, False)\n");

static PyObject *
lock_acquire(PyObject *op, PyObject *args, PyObject *kwargs)
{
    int64_t deadline_ns;
    return read_acquire(args, kwargs, &deadline_ns) < 0 ? NULL : lock_take(op, deadline_ns);
}

PyDoc_STRVAR(lock_release_doc,
"release($self, /)\n--\n\n"
"Release the lock, and let the next one have it. RuntimeError if this thread does not hold it.\n\n"
"    >>> lock = pyconc.shared.Lock()\n"
"    >>> lock.acquire()\n"
"    True\n"
"    >>> lock.release()\n");

static PyObject *
lock_release(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return lock_let_go(op);
}

PyDoc_STRVAR(lock_locked_doc,
"locked($self, /)\n--\n\n"
"Return whether some thread of some process holds the lock. Raises nothing.\n\n"
"    >>> with pyconc.shared.Lock() as locked:\n"
"    ...     locked\n"
"    True\n");

static PyObject *
lock_locked(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(robust_lock_is_taken(&shared_cell_of(op)->cell->lock));
}

static PyObject *
lock_enter(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return lock_take(op, FUTEX_NO_DEADLINE);
}

static PyObject *
lock_exit(PyObject *op, PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(nargs))
{
    return lock_let_go(op);
}

PyDoc_STRVAR(lock_is_owned_doc,
"_is_owned($self, /)\n--\n\n"
"For conditions.");

static PyObject *
lock_is_owned(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    int is_here = is_entered_here(op);
    return is_here < 0 ? NULL : PyBool_FromLong(is_here);
}

PyDoc_STRVAR(lock_release_save_doc,
"_release_save($self, /)\n--\n\n"
"For conditions: release it, however often it was entered.");

static PyObject *
lock_release_save(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    robust_hold *hold = hold_of(op);
    if (hold == NULL) {
        return lock_let_go(op);  // which says why that cannot be
    }
    PyObject *saved = PyLong_FromUnsignedLong(hold->depth);
    if (saved != NULL && release_all(op) < 0) {
        Py_CLEAR(saved);
    }
    return saved;
}

PyDoc_STRVAR(lock_acquire_restore_doc,
"_acquire_restore($self, saved, /)\n--\n\n"
"For conditions: enter it as often again, whatever signals come.");

static PyObject *
lock_acquire_restore(PyObject *op, PyObject *arg)
{
    unsigned long saved = PyLong_AsUnsignedLong(arg);
    if (saved == (unsigned long)-1 && PyErr_Occurred()) {
        return NULL;
    }
    int rc = shared_wait(op, wait_for_lock, NULL, FUTEX_NO_DEADLINE, false);
    if (rc < 0) {
        return shared_raise(rc);
    }
    hold_of(op)->depth = (uint32_t)saved;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(lock_try_doc,
"_try($self, saved, /)\n--\n\n"
"For tasks: take it if it is free, or, a reentrant one, if the running task has it, and return whether it\n"
"is that task's now.  With saved > 0, as _acquire_restore().");

static PyObject *
task_take(PyObject *op, uint32_t saved)
{
    SharedCellObject *self = shared_cell_of(op);
    PyObject *task = NULL;
    if (self->is_reentrant) {
        task = running_task(op);
        if (task == NULL && PyErr_Occurred()) {
            return NULL;
        }
        robust_hold *hold = hold_of(op);
        if (hold != NULL && task != NULL && hold->owner == task) {
            hold->depth += 1;
            Py_DECREF(task);
            Py_RETURN_TRUE;
        }
    }
    int rc = robust_lock_acquire(&self->cell->lock, ROBUST_LOCK_NO_WAIT);
    if (rc < 0) {
        Py_XDECREF(task);
        return rc == FUTEX_TIMED_OUT ? Py_NewRef(Py_False) : shared_raise(rc);
    }
    robust_hold *hold = hold_of(op);
    hold->owner = task;  // the hold owns it now
    if (saved > 0) {
        hold->depth = saved;
    }
    else if (rc == ROBUST_LOCK_ABANDONED && self->raises) {
        uint32_t by = abandoned_by(self->cell);
        return release_all(op) < 0 ? NULL : raise_abandoned(by);
    }
    Py_RETURN_TRUE;
}

static PyObject *
lock_try(PyObject *op, PyObject *arg)
{
    unsigned long saved = PyLong_AsUnsignedLong(arg);
    return saved == (unsigned long)-1 && PyErr_Occurred() ? NULL : task_take(op, (uint32_t)saved);
}

static PyObject *
task_take_anew(PyObject *op)
{
    return task_take(op, 0);
}

static PyObject *
lock_aenter(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return enter_soon(op, task_take_anew);
}

static PyObject *
lock_aexit(PyObject *op, PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(nargs))
{
    return at_once(op, lock_let_go);
}

static PyObject *
lock_abandoned(PyObject *op, void *Py_UNUSED(closure))
{
    SharedCellObject *self = shared_cell_of(op);
    uint32_t by = robust_lock_hold(&self->cell->lock) == NULL ? 0 : abandoned_by(self->cell);
    if (by == 0) {
        Py_RETURN_NONE;
    }
    return pid_object(by);
}

static PyMethodDef lock_methods[] = {
    {"acquire", (PyCFunction)(void (*)(void))lock_acquire, METH_VARARGS | METH_KEYWORDS, lock_acquire_doc},
    {"release", lock_release, METH_NOARGS, lock_release_doc},
    {"locked", lock_locked, METH_NOARGS, lock_locked_doc},
    {"__enter__", lock_enter, METH_NOARGS, enter_doc},
    {"__exit__", FASTCALL(lock_exit), METH_FASTCALL, exit_doc},
    {"__aenter__", lock_aenter, METH_NOARGS, aenter_doc},
    {"__aexit__", FASTCALL(lock_aexit), METH_FASTCALL, aexit_doc},
    {"_try", lock_try, METH_O, lock_try_doc},
    {"_is_owned", lock_is_owned, METH_NOARGS, lock_is_owned_doc},
    {"_release_save", lock_release_save, METH_NOARGS, lock_release_save_doc},
    {"_acquire_restore", lock_acquire_restore, METH_O, lock_acquire_restore_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef lock_getset[] = {
    {"abandoned", lock_abandoned, NULL,
     "For the thread that holds the lock: the process whose death released it, 0 if not known; else None.",
     NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(lock_doc,
"SharedLock(heap, index=-1, serial=0, how='', /)\n--\n\n"
"A lock in a cell. how: 'r' if reentrant, '!' if acquire() raises LockAbandoned.");

static PyType_Slot lock_slots[] = {
    {Py_tp_methods, lock_methods},
    {Py_tp_getset, lock_getset},
    {Py_tp_doc, (void *)lock_doc},
    {0, NULL},
};

PyType_Spec shared_lock_spec = {
    .name = "pyconc._core.SharedLock",
    .basicsize = sizeof(SharedCellObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = lock_slots,
};

// ---- semaphore ----

static int
wait_for_permit(shared_cell *cell, int64_t deadline_ns, void *Py_UNUSED(arg))
{
    return shared_semaphore_acquire(cell, deadline_ns);
}

static PyObject *
semaphore_take(PyObject *op, int64_t deadline_ns)
{
    int rc = shared_wait(op, wait_for_permit, NULL, deadline_ns, true);
    return rc == FUTEX_TIMED_OUT ? Py_NewRef(Py_False) : rc < 0 ? shared_raise(rc)
                                                                : Py_NewRef(Py_True);
}

PyDoc_STRVAR(semaphore_init_doc,
"_init($self, permits, limit, /)\n--\n\n"
"Give a new one its permits, which stay below the limit; 0 is none.");

static PyObject *
semaphore_init(PyObject *op, PyObject *args)
{
    unsigned int permits, limit;
    if (!PyArg_ParseTuple(args, "II:_init", &permits, &limit)) {
        return NULL;
    }
    shared_semaphore_init(shared_cell_of(op)->cell, permits, limit);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(semaphore_acquire_doc,
"acquire($self, /, blocking=True, timeout=None)\n--\n\n"
"Take a permit and return True; False if there is none after `timeout` seconds, or if not `blocking`.\n\n"
"ValueError and OverflowError are raised as threading's semaphores do, and what a signal's handler raises\n"
"meanwhile. A process that dies takes its permits along.\n\n"
"    >>> semaphore = pyconc.shared.Semaphore(1)\n"
"    >>> semaphore.acquire(), semaphore.acquire(blocking=False), semaphore.acquire(timeout=0.001)\n"
"    (True, False, False)\n");

static PyObject *
semaphore_acquire(PyObject *op, PyObject *args, PyObject *kwargs)
{
    int64_t deadline_ns;
    return read_acquire(args, kwargs, &deadline_ns) < 0 ? NULL : semaphore_take(op, deadline_ns);
}

static PyObject *
semaphore_give(PyObject *op, uint32_t permits)
{
    int rc = shared_semaphore_release(shared_cell_of(op)->cell, permits);
    if (rc < 0) {
        return shared_raise(rc);
    }
    return tell_tasks(op) < 0 ? NULL : Py_NewRef(Py_None);
}

PyDoc_STRVAR(semaphore_release_doc,
"release($self, /, n=1)\n--\n\n"
"Add n permits, from any thread of any process. ValueError if n < 1, or there would be too many.\n\n"
"    >>> semaphore = pyconc.shared.Semaphore(0)\n"
"    >>> semaphore.release(2)\n"
"    >>> semaphore.get_value()\n"
"    2\n");

static PyObject *
semaphore_release(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"n", NULL};
    long long count = 1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|L:release", keywords, &count)) {
        return NULL;
    }
    if (count < 1) {
        PyErr_SetString(PyExc_ValueError, "n must be one or more");
        return NULL;
    }
    return count > SHARED_PERMITS_MAX ? shared_raise(SHARED_SYNC_TOO_MANY)
                                      : semaphore_give(op, (uint32_t)count);
}

PyDoc_STRVAR(semaphore_get_value_doc,
"get_value($self, /)\n--\n\n"
"Return how many permits there are now. Raises nothing.\n\n"
"    >>> pyconc.shared.Semaphore(3).get_value()\n"
"    3\n");

static PyObject *
semaphore_get_value(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromUnsignedLong(shared_semaphore_permits(shared_cell_of(op)->cell));
}

static PyObject *
semaphore_enter(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return semaphore_take(op, FUTEX_NO_DEADLINE);
}

static PyObject *
semaphore_exit(PyObject *op, PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(nargs))
{
    return semaphore_give(op, 1);
}

PyDoc_STRVAR(semaphore_try_doc,
"_try($self, saved, /)\n--\n\n"
"For tasks: take a permit if there is one, and return whether there was.");

static PyObject *
take_now(PyObject *op)
{
    return semaphore_take(op, ROBUST_LOCK_NO_WAIT);
}

static PyObject *
give_one(PyObject *op)
{
    return semaphore_give(op, 1);
}

static PyObject *
semaphore_try(PyObject *op, PyObject *Py_UNUSED(saved))
{
    return take_now(op);
}

static PyObject *
semaphore_aenter(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return enter_soon(op, take_now);
}

static PyObject *
semaphore_aexit(PyObject *op, PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(nargs))
{
    return at_once(op, give_one);
}

static PyMethodDef semaphore_methods[] = {
    {"_init", semaphore_init, METH_VARARGS, semaphore_init_doc},
    {"acquire", (PyCFunction)(void (*)(void))semaphore_acquire, METH_VARARGS | METH_KEYWORDS,
     semaphore_acquire_doc},
    {"release", (PyCFunction)(void (*)(void))semaphore_release, METH_VARARGS | METH_KEYWORDS,
     semaphore_release_doc},
    {"get_value", semaphore_get_value, METH_NOARGS, semaphore_get_value_doc},
    {"__enter__", semaphore_enter, METH_NOARGS, enter_doc},
    {"__exit__", FASTCALL(semaphore_exit), METH_FASTCALL, exit_doc},
    {"__aenter__", semaphore_aenter, METH_NOARGS, aenter_doc},
    {"__aexit__", FASTCALL(semaphore_aexit), METH_FASTCALL, aexit_doc},
    {"_try", semaphore_try, METH_O, semaphore_try_doc},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(semaphore_doc,
"SharedSemaphore(heap, index=-1, serial=0, how='', /)\n--\n\n"
"A semaphore in a cell.");

static PyType_Slot semaphore_slots[] = {
    {Py_tp_methods, semaphore_methods},
    {Py_tp_doc, (void *)semaphore_doc},
    {0, NULL},
};

PyType_Spec shared_semaphore_spec = {
    .name = "pyconc._core.SharedSemaphore",
    .basicsize = sizeof(SharedCellObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = semaphore_slots,
};

// ---- event ----

static int
wait_for_event(shared_cell *cell, int64_t deadline_ns, void *Py_UNUSED(arg))
{
    return shared_event_wait(cell, shared_event_times(cell), deadline_ns);
}

PyDoc_STRVAR(event_is_set_doc,
"is_set($self, /)\n--\n\n"
"Return whether the event is set. Raises nothing.\n\n"
"    >>> pyconc.shared.Event().is_set()\n"
"    False\n");

static PyObject *
event_is_set(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(shared_event_is_set(shared_cell_of(op)->cell));
}

PyDoc_STRVAR(event_set_doc,
"set($self, /)\n--\n\n"
"Set the event: all waiters go on, in every process. Raises nothing.\n\n"
"    >>> event = pyconc.shared.Event()\n"
"    >>> event.set()\n"
"    >>> event.is_set()\n"
"    True\n");

static PyObject *
event_set(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    int rc = shared_event_set(shared_cell_of(op)->cell);
    return shared_none_or_raise(rc);
}

PyDoc_STRVAR(event_clear_doc,
"clear($self, /)\n--\n\n"
"Clear the event: whoever waits from now on waits until it is set again. Raises nothing.\n\n"
"    >>> event = pyconc.shared.Event()\n"
"    >>> event.set()\n"
"    >>> event.clear()\n"
"    >>> event.is_set()\n"
"    False\n");

static PyObject *
event_clear(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    shared_event_clear(shared_cell_of(op)->cell);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(event_wait_doc,
"wait($self, /, timeout=None)\n--\n\n"
"Wait until the event is set and return True, or return False after `timeout` seconds.\n\n"
"Raises what the handler of a signal raises meanwhile.\n\n"
"    >>> pyconc.shared.Event().wait(timeout=0.001)\n"
"    False\n");

static PyObject *
event_wait(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"timeout", NULL};
    PyObject *timeout = Py_None;
    int64_t deadline_ns;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O:wait", keywords, &timeout)
        || module_deadline(timeout, &deadline_ns) < 0) {
        return NULL;
    }
    int rc = shared_wait(op, wait_for_event, NULL, deadline_ns, true);
    return rc == FUTEX_TIMED_OUT ? Py_NewRef(Py_False) : rc < 0 ? shared_raise(rc)
                                                                : Py_NewRef(Py_True);
}

PyDoc_STRVAR(event_times_doc,
"_times($self, /)\n--\n\n"
"For tasks: return how often it was set.");

static PyObject *
event_times(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromUnsignedLong(shared_event_times(shared_cell_of(op)->cell));
}

PyDoc_STRVAR(event_was_set_doc,
"_was_set($self, times, /)\n--\n\n"
"For tasks: return whether it is set, or was set since _times().");

static PyObject *
event_was_set(PyObject *op, PyObject *arg)
{
    unsigned long times = PyLong_AsUnsignedLong(arg);
    if (times == (unsigned long)-1 && PyErr_Occurred()) {
        return NULL;
    }
    int rc = shared_event_wait(shared_cell_of(op)->cell, (uint32_t)times, ROBUST_LOCK_NO_WAIT);
    return PyBool_FromLong(rc == FUTEX_OK);
}

static PyMethodDef event_methods[] = {
    {"is_set", event_is_set, METH_NOARGS, event_is_set_doc},
    {"set", event_set, METH_NOARGS, event_set_doc},
    {"clear", event_clear, METH_NOARGS, event_clear_doc},
    {"wait", (PyCFunction)(void (*)(void))event_wait, METH_VARARGS | METH_KEYWORDS, event_wait_doc},
    {"_times", event_times, METH_NOARGS, event_times_doc},
    {"_was_set", event_was_set, METH_O, event_was_set_doc},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(event_doc,
"SharedEvent(heap, index=-1, serial=0, how='', /)\n--\n\n"
"An event in a cell.");

static PyType_Slot event_slots[] = {
    {Py_tp_methods, event_methods},
    {Py_tp_doc, (void *)event_doc},
    {0, NULL},
};

PyType_Spec shared_event_spec = {
    .name = "pyconc._core.SharedEvent",
    .basicsize = sizeof(SharedCellObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = event_slots,
};

// ---- condition ----

static int
wait_for_grant(shared_cell *cell, int64_t deadline_ns, void *ticket)
{
    // The condition's lock has been released: there is nothing to try before the GIL is.
    if (deadline_ns == ROBUST_LOCK_NO_WAIT) {
        return FUTEX_TIMED_OUT;
    }
    return shared_condition_sleep(cell, (shared_ticket *)ticket, deadline_ns);
}

PyDoc_STRVAR(condition_enter_doc,
"_enter($self, /)\n--\n\n"
"With the lock: return (ticket, turn) for a caller that is going to wait.");

static PyObject *
condition_enter(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    shared_ticket ticket = shared_condition_enter(shared_cell_of(op)->cell);
    return Py_BuildValue("II", (unsigned int)ticket.number, (unsigned int)ticket.turn);
}

PyDoc_STRVAR(condition_sleep_doc,
"_sleep($self, ticket, turn, timeout, /)\n--\n\n"
"Without the lock: wait until there may be a grant, and return the turn then; None after so many seconds.");

static PyObject *
condition_sleep(PyObject *op, PyObject *args)
{
    unsigned int number, turn;
    PyObject *timeout;
    int64_t deadline_ns;
    if (!PyArg_ParseTuple(args, "IIO:_sleep", &number, &turn, &timeout)
        || module_deadline(timeout, &deadline_ns) < 0) {
        return NULL;
    }
    shared_ticket ticket = {.number = number, .turn = turn};
    int rc = shared_wait(op, wait_for_grant, &ticket, deadline_ns, true);
    return rc == FUTEX_TIMED_OUT ? Py_NewRef(Py_None) : rc < 0 ? shared_raise(rc)
                                                               : PyLong_FromUnsignedLong(ticket.turn);
}

PyDoc_STRVAR(condition_look_doc,
"_look($self, ticket, turn, /)\n--\n\n"
"For tasks, without the lock: return (the turn now, whether there may be a grant).");

static PyObject *
condition_look(PyObject *op, PyObject *args)
{
    unsigned int number, turn;
    if (!PyArg_ParseTuple(args, "II:_look", &number, &turn)) {
        return NULL;
    }
    shared_ticket ticket = {.number = number, .turn = turn};
    bool may_take = shared_condition_look(shared_cell_of(op)->cell, &ticket);
    return Py_BuildValue("IN", (unsigned int)ticket.turn, PyBool_FromLong(may_take));
}

PyDoc_STRVAR(condition_take_doc,
"_take($self, ticket, /)\n--\n\n"
"With the lock: whether there is a grant for the ticket, which is now taken.");

static PyObject *
condition_take(PyObject *op, PyObject *arg)
{
    unsigned long number = PyLong_AsUnsignedLong(arg);
    if (number == (unsigned long)-1 && PyErr_Occurred()) {
        return NULL;
    }
    shared_ticket ticket = {.number = (uint32_t)number};
    return PyBool_FromLong(shared_condition_take(shared_cell_of(op)->cell, ticket));
}

PyDoc_STRVAR(condition_leave_doc,
"_leave($self, /)\n--\n\n"
"With the lock: stop waiting.");

static PyObject *
condition_leave(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    shared_condition_leave(shared_cell_of(op)->cell);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(condition_notify_doc,
"_notify($self, count, /)\n--\n\n"
"With the lock: let so many go on.");

static PyObject *
condition_notify(PyObject *op, PyObject *arg)
{
    unsigned long count = PyLong_AsUnsignedLong(arg);
    if (count == (unsigned long)-1 && PyErr_Occurred()) {
        return NULL;
    }
    shared_condition_notify(shared_cell_of(op)->cell, count > UINT32_MAX ? UINT32_MAX : (uint32_t)count);
    Py_RETURN_NONE;
}

// Numbers for what is made of a condition: the closure is a word's place.
static PyObject *
condition_get_word(PyObject *op, void *place)
{
    _Atomic uint32_t *word = &shared_cell_of(op)->cell->words[(uintptr_t)place];
    // Relaxed: ordered by the condition's lock.
    return PyLong_FromLong((int32_t)atomic_load_explicit(word, memory_order_relaxed));
}

static int
condition_set_word(PyObject *op, PyObject *value, void *place)
{
    long number = value == NULL ? -1 : PyLong_AsLong(value);
    if (number == -1 && PyErr_Occurred()) {
        return -1;
    }
    _Atomic uint32_t *word = &shared_cell_of(op)->cell->words[(uintptr_t)place];
    // Relaxed: ordered by the condition's lock.
    atomic_store_explicit(word, (uint32_t)number, memory_order_relaxed);
    return 0;
}

static PyMethodDef condition_methods[] = {
    {"_enter", condition_enter, METH_NOARGS, condition_enter_doc},
    {"_sleep", condition_sleep, METH_VARARGS, condition_sleep_doc},
    {"_look", condition_look, METH_VARARGS, condition_look_doc},
    {"_take", condition_take, METH_O, condition_take_doc},
    {"_leave", condition_leave, METH_NOARGS, condition_leave_doc},
    {"_notify", condition_notify, METH_O, condition_notify_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef condition_getset[] = {
    {"_first", condition_get_word, condition_set_word, "A number, with the lock.", (void *)5},
    {"_second", condition_get_word, condition_set_word, "A number, with the lock.", (void *)6},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(condition_doc,
"SharedCondition(heap, index=-1, serial=0, how='', /)\n--\n\n"
"A condition in a cell, with that lock or another.");

static PyType_Slot condition_slots[] = {
    {Py_tp_methods, condition_methods},
    {Py_tp_getset, condition_getset},
    {Py_tp_doc, (void *)condition_doc},
    {0, NULL},
};

PyType_Spec shared_condition_spec = {
    .name = "pyconc._core.SharedCondition",
    .basicsize = sizeof(SharedCellObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = condition_slots,
};

// ---- number ----
//
// One 64-bit word, of which the typecode says how much counts and as what.  Each change is one atomic step,
// so there is nothing to repair.

static _Atomic uint64_t *
word_of(PyObject *op)
{
    return &shared_cell_of(op)->cell->value;
}

static PyObject *
number_get(PyObject *op, void *Py_UNUSED(closure))
{
    // A32: acquires: a thread that sees a value sees what was done before it was set: R32 in number_set(),
    // add(), exchange() and compare_exchange().
    return typecode_value(shared_cell_of(op)->kind, atomic_load_explicit(word_of(op), memory_order_acquire));
}

static int
number_set(PyObject *op, PyObject *value, void *Py_UNUSED(closure))
{
    uint64_t bits;
    if (value == NULL) {
        PyErr_SetString(PyExc_AttributeError, "value cannot be deleted");
        return -1;
    }
    if (!typecode_bits(shared_cell_of(op)->kind, value, &bits)) {
        return -1;
    }
    // R32: pairs with A32 in number_get().
    atomic_store_explicit(word_of(op), bits, memory_order_release);
    return 0;
}

// Adds, and returns what was there before.
static uint64_t
add_bits(PyObject *op, uint64_t bits)
{
    char kind = shared_cell_of(op)->kind;
    if (!typecode_is_float(kind)) {
        // It releases and acquires, as the others.
        return atomic_fetch_add_explicit(word_of(op), bits, memory_order_acq_rel);
    }
    double sum, more = typecode_double(kind, bits);
    uint64_t next;
    // Relaxed: the exchange compares.
    uint64_t now = atomic_load_explicit(word_of(op), memory_order_relaxed);
    do {
        sum = typecode_double(kind, now) + more;
        memcpy(&next, &sum, sizeof(next));
        // It releases and acquires, as the others.
    } while (!atomic_compare_exchange_weak_explicit(word_of(op), &now, next, memory_order_acq_rel,
                                                    memory_order_relaxed));
    return now;
}

static bool
has_count(const char *name, Py_ssize_t nargs, Py_ssize_t least, Py_ssize_t most)
{
    if (nargs < least || nargs > most) {
        PyErr_Format(PyExc_TypeError, "%s() takes %zd to %zd arguments (%zd given)", name, least, most,
                     nargs);
        return false;
    }
    return true;
}

static bool
can_add(PyObject *op)
{
    char kind = shared_cell_of(op)->kind;
    if (kind == 'c' || kind == '?') {
        PyErr_SetString(PyExc_TypeError, "there is no sum of such values");
        return false;
    }
    return true;
}

PyDoc_STRVAR(number_add_doc,
"add($self, n=1, /)\n--\n\n"
"Add n, as one step that no other process comes between, and return the value before.\n\n"
"Integers go round at their size. TypeError if the value is no number.\n\n"
"    >>> counter = pyconc.shared.Counter(5)\n"
"    >>> counter.add(2), counter.add(), counter.value\n"
"    (5, 7, 8)\n");

static PyObject *
number_add(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    uint64_t bits = 1;
    double one = 1;
    if (!has_count("add", nargs, 0, 1) || !can_add(op)) {
        return NULL;
    }
    if (typecode_is_float(shared_cell_of(op)->kind)) {
        memcpy(&bits, &one, sizeof(bits));
    }
    if (nargs == 1 && !typecode_bits(shared_cell_of(op)->kind, args[0], &bits)) {
        return NULL;
    }
    return typecode_value(shared_cell_of(op)->kind, add_bits(op, bits));
}

PyDoc_STRVAR(number_exchange_doc,
"exchange($self, value, /)\n--\n\n"
"Set the value and return the one before, as one step. TypeError if it is of another type.\n\n"
"    >>> value = pyconc.shared.Value(\"d\", 1.5)\n"
"    >>> value.exchange(2.5), value.value\n"
"    (1.5, 2.5)\n");

static PyObject *
number_exchange(PyObject *op, PyObject *value)
{
    uint64_t bits;
    if (!typecode_bits(shared_cell_of(op)->kind, value, &bits)) {
        return NULL;
    }
    // It releases and acquires, as the others.
    uint64_t before = atomic_exchange_explicit(word_of(op), bits, memory_order_acq_rel);
    return typecode_value(shared_cell_of(op)->kind, before);
}

PyDoc_STRVAR(number_compare_exchange_doc,
"compare_exchange($self, expected, value, /)\n--\n\n"
"Set the value if it is the one that is expected, as one step, and return whether it was.\n\n"
"TypeError if either is of another type.\n\n"
"    >>> value = pyconc.shared.Value(\"i\", 1)\n"
"    >>> value.compare_exchange(1, 2), value.compare_exchange(1, 3), value.value\n"
"    (True, False, 2)\n");

static PyObject *
number_compare_exchange(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    char kind = shared_cell_of(op)->kind;
    uint64_t bits, ignored;
    if (!has_count("compare_exchange", nargs, 2, 2) || !typecode_bits(kind, args[0], &ignored)
        || !typecode_bits(kind, args[1], &bits)) {
        return NULL;
    }
    for (;;) {
        // Relaxed: the exchange compares.
        uint64_t now = atomic_load_explicit(word_of(op), memory_order_relaxed);
        PyObject *there = typecode_value(kind, now);  // the word may have more bits than the value
        int is_equal = there == NULL ? -1 : PyObject_RichCompareBool(there, args[0], Py_EQ);
        Py_XDECREF(there);
        if (is_equal <= 0) {
            return is_equal < 0 ? NULL : Py_NewRef(Py_False);
        }
        // It releases and acquires, as the others.
        if (atomic_compare_exchange_strong_explicit(word_of(op), &now, bits, memory_order_acq_rel,
                                                    memory_order_relaxed)) {
            Py_RETURN_TRUE;
        }
    }
}

static PyMethodDef number_methods[] = {
    {"add", FASTCALL(number_add), METH_FASTCALL, number_add_doc},
    {"exchange", number_exchange, METH_O, number_exchange_doc},
    {"compare_exchange", FASTCALL(number_compare_exchange), METH_FASTCALL, number_compare_exchange_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef number_getset[] = {
    {"value", number_get, number_set, "The value: read or written as one step.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(number_doc,
"SharedNumber(heap, index=-1, serial=0, how='', /)\n--\n\n"
"A number in a cell. how: its typecode.");

static PyType_Slot number_slots[] = {
    {Py_tp_methods, number_methods},
    {Py_tp_getset, number_getset},
    {Py_tp_doc, (void *)number_doc},
    {0, NULL},
};

PyType_Spec shared_number_spec = {
    .name = "pyconc._core.SharedNumber",
    .basicsize = sizeof(SharedCellObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = number_slots,
};
