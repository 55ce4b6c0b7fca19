#include "shared_semaphore_type.h"

#include "shared_acquire.h"
#include "shared_arguments.h"

#include "core/shared_sync.h"

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
semaphore_acquire(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    int64_t deadline_ns;
    int rc = shared_read_acquire(args, nargs, kwnames, false, &deadline_ns);
    return rc < 0 ? NULL : semaphore_take(op, deadline_ns);
}

static PyObject *
semaphore_give(PyObject *op, uint32_t permits)
{
    int rc = shared_semaphore_release(shared_cell_of(op)->cell, permits);
    if (rc < 0) {
        return shared_raise(rc);
    }
    return shared_tell_tasks(op) < 0 ? NULL : Py_NewRef(Py_None);
}

PyDoc_STRVAR(semaphore_release_doc,
"release($self, /, n=1)\n--\n\n"
"Add n permits, from any thread of any process. ValueError if n < 1, or there would be too many.\n\n"
"    >>> semaphore = pyconc.shared.Semaphore(0)\n"
"    >>> semaphore.release(2)\n"
"    >>> semaphore.get_value()\n"
"    2\n");

static PyObject *
semaphore_release(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = {"n"};
    PyObject *value;
    if (shared_read_arguments("release", names, 1, args, nargs, kwnames, &value) < 0) {
        return NULL;
    }
    long long count = value == NULL ? 1 : PyLong_AsLongLong(value);
    if (count == -1 && PyErr_Occurred()) {
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
    return shared_enter_soon(op, take_now);
}

static PyObject *
semaphore_aexit(PyObject *op, PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(nargs))
{
    return shared_at_once(op, give_one);
}

static PyMethodDef semaphore_methods[] = {
    {"_init", semaphore_init, METH_VARARGS, semaphore_init_doc},
    {"acquire", FASTCALL(semaphore_acquire), METH_FASTCALL | METH_KEYWORDS,
     semaphore_acquire_doc},
    {"release", FASTCALL(semaphore_release), METH_FASTCALL | METH_KEYWORDS,
     semaphore_release_doc},
    {"get_value", semaphore_get_value, METH_NOARGS, semaphore_get_value_doc},
    {"__enter__", semaphore_enter, METH_NOARGS, SHARED_ENTER_DOC},
    {"__exit__", FASTCALL(semaphore_exit), METH_FASTCALL, SHARED_EXIT_DOC},
    {"__aenter__", semaphore_aenter, METH_NOARGS, SHARED_AENTER_DOC},
    {"__aexit__", FASTCALL(semaphore_aexit), METH_FASTCALL, SHARED_AEXIT_DOC},
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
