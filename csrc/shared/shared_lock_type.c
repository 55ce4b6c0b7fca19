#include "shared_lock_type.h"

#include "shared_acquire.h"

#include "core/robust_lock.h"

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
    module_state *state = shared_state_of(op);
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

// This thread's hold, if the task that runs in it is the one that entered the lock; anything is if no task
// has.  NULL: it is not.  0, or -1 with an exception.
static int
find_hold(PyObject *op, robust_hold **found)
{
    robust_hold *hold = hold_of(op);
    *found = hold;
    if (hold == NULL || hold->owner == NULL) {
        return 0;
    }
    PyObject *task = running_task(op);
    if (task == NULL && PyErr_Occurred()) {
        return -1;
    }
    hold = hold_of(op);  // Python has run: the thread's holds may have moved
    *found = hold != NULL && task != NULL && hold->owner == task ? hold : NULL;
    Py_XDECREF(task);
    return 0;
}

// True or False, as acquire() returns it.
static PyObject *
lock_take(PyObject *op, int64_t deadline_ns)
{
    SharedCellObject *self = shared_cell_of(op);
    robust_hold *hold = NULL;
    if (self->is_reentrant && find_hold(op, &hold) < 0) {
        return NULL;
    }
    if (hold != NULL) {
        hold->depth += 1;
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

// Releases the lock that this thread holds so, however often it was entered.
static int
release_all(PyObject *op, robust_hold *hold)
{
    PyObject *owner = hold->owner;
    robust_hold_release(hold);
    Py_XDECREF(owner);
    return shared_tell_tasks(op);
}

static PyObject *
lock_let_go(PyObject *op)
{
    SharedCellObject *self = shared_cell_of(op);
    robust_hold *hold;
    if (find_hold(op, &hold) < 0) {
        return NULL;
    }
    if (hold == NULL) {
        bool is_taken = robust_lock_is_taken(&self->cell->lock);
        PyErr_SetString(PyExc_RuntimeError,
                        self->is_reentrant ? "cannot release un-acquired lock"
                        : is_taken         ? "only the thread that took a shared lock can release it"
                                           : "release unlocked lock");
        return NULL;
    }
    if (--hold->depth == 0 && release_all(op, hold) < 0) {
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
lock_acquire(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    int64_t deadline_ns;
    int rc = shared_read_acquire(args, nargs, kwnames, true, &deadline_ns);
    return rc < 0 ? NULL : lock_take(op, deadline_ns);
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
    robust_hold *hold;
    return find_hold(op, &hold) < 0 ? NULL : PyBool_FromLong(hold != NULL);
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
    if (saved != NULL && release_all(op, hold) < 0) {
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
        return release_all(op, hold) < 0 ? NULL : raise_abandoned(by);
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
    return shared_enter_soon(op, task_take_anew);
}

static PyObject *
lock_aexit(PyObject *op, PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(nargs))
{
    return shared_at_once(op, lock_let_go);
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

static PyObject *
lock_owner(PyObject *op, void *Py_UNUSED(closure))
{
    uint32_t owner = robust_lock_owner(&shared_cell_of(op)->cell->lock);
    return owner == 0 ? Py_NewRef(Py_None) : pid_object(owner);
}

static PyMethodDef lock_methods[] = {
    {"acquire", FASTCALL(lock_acquire), METH_FASTCALL | METH_KEYWORDS, lock_acquire_doc},
    {"release", lock_release, METH_NOARGS, lock_release_doc},
    {"locked", lock_locked, METH_NOARGS, lock_locked_doc},
    {"__enter__", lock_enter, METH_NOARGS, SHARED_ENTER_DOC},
    {"__exit__", FASTCALL(lock_exit), METH_FASTCALL, SHARED_EXIT_DOC},
    {"__aenter__", lock_aenter, METH_NOARGS, SHARED_AENTER_DOC},
    {"__aexit__", FASTCALL(lock_aexit), METH_FASTCALL, SHARED_AEXIT_DOC},
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
    {"owner", lock_owner, NULL,
     "The process of the thread that holds the lock; None if none does, or has only just taken it.", NULL},
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
