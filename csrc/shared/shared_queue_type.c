#include "shared_queue_type.h"

#include "shared_arguments.h"
#include "shared_cell.h"
#include "shared_value.h"

#include "core/futex.h"
#include "core/shared_queue.h"

// Nothing in it changes but the view.
typedef struct SharedQueueObject {
    SharedCellObject base;
    PyObject *doors;     // a tuple of SharedCells; NULL while it is made
    shared_queue queue;  // see there
} SharedQueueObject;

static SharedQueueObject *
as_sharedqueue(PyObject *op)
{
    return (SharedQueueObject *)op;
}

static shared_queue *
queue_of(PyObject *op)
{
    return &as_sharedqueue(op)->queue;
}

// Raises an exception of pyconc._queue_errors.
static PyObject *
raise_by_name(const char *name)
{
    PyObject *module = PyImport_ImportModule("pyconc._queue_errors");
    PyObject *type = module == NULL ? NULL : PyObject_GetAttrString(module, name);
    if (type != NULL) {
        PyErr_SetNone(type);
        Py_DECREF(type);
    }
    Py_XDECREF(module);
    return NULL;
}

// For a status; not_now: what SHARED_QUEUE_NOT_NOW and a timeout are.
static PyObject *
raise_status(int rc, const char *not_now)
{
    switch (rc) {
    case SHARED_QUEUE_NOT_NOW:
    case FUTEX_TIMED_OUT:
        return raise_by_name(not_now);
    case SHARED_QUEUE_CLOSED:
        return raise_by_name("ShutDown");
    case SHARED_QUEUE_TOO_MANY:
        PyErr_SetString(PyExc_ValueError, "task_done() called too many times");
        return NULL;
    default:
        return shared_raise(rc);
    }
}

// ---- waiting ----

typedef struct queue_call {
    shared_queue *queue;
    shared_queue_attempt *attempt;
    void *arg;
    shared_queue_door door;
} queue_call;

static int
try_now(shared_cell *Py_UNUSED(cell), int64_t deadline_ns, void *arg)
{
    queue_call *call = arg;
    return call->attempt(call->queue, call->arg, deadline_ns);
}

static int
wait_at_door(shared_cell *Py_UNUSED(cell), int64_t deadline_ns, void *arg)
{
    queue_call *call = arg;
    if (deadline_ns == ROBUST_LOCK_NO_WAIT) {
        return FUTEX_TIMED_OUT;  // it has been tried, and is not worth the GIL again
    }
    return shared_queue_wait(call->queue, call->door, call->attempt, call->arg, deadline_ns);
}

// Tries at once, and then waits until the deadline.
static int
do_until(PyObject *op, shared_queue_attempt *attempt, shared_queue_door door, void *arg, int64_t deadline_ns)
{
    queue_call call = {.queue = queue_of(op), .attempt = attempt, .arg = arg, .door = door};
    int rc = shared_wait(op, try_now, &call, FUTEX_NO_DEADLINE, true);
    if (rc == SHARED_QUEUE_NOT_NOW && deadline_ns != ROBUST_LOCK_NO_WAIT) {
        rc = shared_wait(op, wait_at_door, &call, deadline_ns, true);
    }
    return rc;
}

// ---- arguments ----

static int
require_item(const char *name, PyObject *item)
{
    if (item == NULL) {
        PyErr_Format(PyExc_TypeError, "%s() missing required argument 'item'", name);
        return -1;
    }
    return 0;
}

// Reads (item, block, timeout), as queue.Queue has them; get() has no item.
static int
read_call(const char *name, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, bool has_item,
          PyObject **item, int64_t *deadline_ns)
{
    static const char *const names[] = {"item", "block", "timeout"};
    PyObject *values[3] = {NULL, NULL, NULL};
    int first = has_item ? 0 : 1;
    if (shared_read_arguments(name, names + first, 3 - first, args, nargs, kwnames, values + first) < 0) {
        return -1;
    }
    if (has_item && require_item(name, values[0]) < 0) {
        return -1;
    }
    *item = values[0];
    *deadline_ns = FUTEX_NO_DEADLINE;
    int block = values[1] == NULL ? 1 : PyObject_IsTrue(values[1]);
    if (block < 0) {
        return -1;
    }
    if (block == 0) {
        *deadline_ns = ROBUST_LOCK_NO_WAIT;
        return 0;
    }
    if (values[2] == NULL || values[2] == Py_None) {
        return 0;
    }
    double seconds = PyFloat_AsDouble(values[2]);
    if (seconds == -1.0 && PyErr_Occurred()) {
        return -1;
    }
    if (seconds < 0) {
        PyErr_SetString(PyExc_ValueError, "'timeout' must be a non-negative number");
        return -1;
    }
    return module_deadline(values[2], deadline_ns);
}

// ---- as an object ----

static PyObject *
make_doors(PyTypeObject *type, PyObject *heap)
{
    PyObject *cell = (PyObject *)module_state_of(type)->shared_cell_type;
    PyObject *doors = PyTuple_New(SHARED_QUEUE_DOORS);
    for (Py_ssize_t i = 0; doors != NULL && i < SHARED_QUEUE_DOORS; i++) {
        PyObject *door = PyObject_CallOneArg(cell, heap);
        if (door == NULL) {
            Py_CLEAR(doors);
            break;
        }
        PyTuple_SET_ITEM(doors, i, door);
    }
    return doors;
}

static bool
are_doors(PyTypeObject *type, PyObject *doors)
{
    PyTypeObject *cell = module_state_of(type)->shared_cell_type;
    bool are = PyTuple_GET_SIZE(doors) == SHARED_QUEUE_DOORS;
    for (Py_ssize_t i = 0; are && i < SHARED_QUEUE_DOORS; i++) {
        are = PyObject_TypeCheck(PyTuple_GET_ITEM(doors, i), cell);
    }
    if (!are) {
        PyErr_Format(PyExc_TypeError, "a queue has %d doors", SHARED_QUEUE_DOORS);
    }
    return are;
}

static PyObject *
queue_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *cell_args = PyTuple_GetSlice(args, 0, 3);
    PyObject *doors = PyTuple_GetSlice(args, 3, PyTuple_GET_SIZE(args));
    PyObject *op = NULL;
    if (cell_args != NULL && doors != NULL) {
        op = shared_cell_new(type, cell_args, kwargs);
    }
    if (op != NULL && PyTuple_GET_SIZE(doors) == 0) {
        Py_SETREF(doors, make_doors(type, PyTuple_GET_ITEM(args, 0)));
    }
    if (op != NULL && (doors == NULL || !are_doors(type, doors))) {
        Py_CLEAR(op);
    }
    if (op != NULL) {
        SharedCellObject *base = shared_cell_of(op);
        shared_cell *cells[SHARED_QUEUE_DOORS];
        for (Py_ssize_t i = 0; i < SHARED_QUEUE_DOORS; i++) {
            cells[i] = shared_cell_of(PyTuple_GET_ITEM(doors, i))->cell;
        }
        shared_queue_init(queue_of(op), base->heap, base->index, cells);
        as_sharedqueue(op)->doors = Py_NewRef(doors);
    }
    Py_XDECREF(cell_args);
    Py_XDECREF(doors);
    return op;
}

static int
queue_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(as_sharedqueue(op)->doors);
    return 0;
}

static void
queue_dealloc(PyObject *op)
{
    PyObject_GC_UnTrack(op);
    if (as_sharedqueue(op)->doors != NULL) {
        shared_queue_fini(queue_of(op));
        Py_DECREF(as_sharedqueue(op)->doors);
    }
    shared_cell_dealloc(op);
}

// ---- putting ----

static int
put_value(PyObject *op, PyObject *value, int64_t deadline_ns)
{
    shared_encoding e;
    if (shared_encode_one(shared_state_of(op), &e, shared_cell_of(op)->heap, value) < 0) {
        return FUTEX_INTERRUPTED;  // with the exception
    }
    int rc = do_until(op, shared_queue_put, SHARED_QUEUE_SPACE, e.items, deadline_ns);
    shared_encoding_fini(&e);
    return rc;
}

static PyObject *
put_or_raise(PyObject *op, PyObject *value, int64_t deadline_ns)
{
    int rc = put_value(op, value, deadline_ns);
    return rc < 0 ? raise_status(rc, "Full") : Py_NewRef(Py_None);
}

PyDoc_STRVAR(queue_put_doc,
"put($self, /, item, block=True, timeout=None)\n--\n\n"
"Put an item at the end, once there is space; with a timeout, within so many seconds.\n\n"
"Raises queue.Full if there is no space in time, or at once with block=False, ShutDown if the queue is shut\n"
"down, ValueError for a negative timeout, MemoryError, what pickle does for an item that cannot be\n"
"pickled, and what the handler of a signal raises meanwhile; then the item is not there.\n\n"
"    >>> q = pyconc.shared.Queue(maxsize=1)\n"
"    >>> q.put(\"job\")\n"
"    >>> q.full()\n"
"    True\n");

static PyObject *
queue_put(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *value;
    int64_t deadline_ns;
    return read_call("put", args, nargs, kwnames, true, &value, &deadline_ns) < 0
               ? NULL
               : put_or_raise(op, value, deadline_ns);
}

PyDoc_STRVAR(queue_put_nowait_doc,
"put_nowait($self, /, item)\n--\n\n"
"Put item in as put(item, block=False) does: queue.Full is raised if there is no room.\n\n"
"    >>> q = pyconc.shared.Queue()\n"
"    >>> q.put_nowait(1)\n"
"    >>> q.qsize()\n"
"    1\n");

static PyObject *
queue_put_nowait(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = {"item"};
    PyObject *value = NULL;
    if (shared_read_arguments("put_nowait", names, 1, args, nargs, kwnames, &value) < 0
        || require_item("put_nowait", value) < 0) {
        return NULL;
    }
    return put_or_raise(op, value, ROBUST_LOCK_NO_WAIT);
}

PyDoc_STRVAR(queue_try_put_doc,
"_try_put($self, item, /)\n--\n\n"
"For tasks: whether there was space, and the item is put.");

static PyObject *
queue_try_put(PyObject *op, PyObject *value)
{
    int rc = put_value(op, value, ROBUST_LOCK_NO_WAIT);
    return rc == SHARED_QUEUE_NOT_NOW ? Py_NewRef(Py_False) : rc < 0 ? raise_status(rc, "Full")
                                                                     : Py_NewRef(Py_True);
}

// ---- getting ----

static const shared_origin from_queue = {.what = "an item of a shared Queue"};

typedef struct taking {
    const shared_run *run;
    shared_copies copied;
} taking;

static bool
keep_copy(void *arg, const shared_item *item)
{
    taking *t = arg;
    if (!shared_copies_init(&t->copied, t->run, 1)) {
        return false;
    }
    t->copied.items[0] = *item;
    return shared_copies_take(&t->copied);
}

// A status, and the value if that is 0; NULL then, too, if it cannot be unpickled.
static int
get_value(PyObject *op, int64_t deadline_ns, PyObject **value)
{
    taking t;
    t.run = &queue_of(op)->run;
    shared_take take = {.keep = keep_copy, .arg = &t};
    int rc = do_until(op, shared_queue_get, SHARED_QUEUE_ITEMS, &take, deadline_ns);
    if (rc == 0) {
        *value = shared_decode_one(shared_state_of(op), &t.copied, from_queue);
    }
    return rc;
}

static PyObject *
get_or_raise(PyObject *op, int64_t deadline_ns)
{
    PyObject *value;
    int rc = get_value(op, deadline_ns, &value);
    return rc < 0 ? raise_status(rc, "Empty") : value;
}

PyDoc_STRVAR(queue_get_doc,
"get($self, /, block=True, timeout=None)\n--\n\n"
"Take the first item and return it, once there is one; with a timeout, within so many seconds.\n\n"
"Raises queue.Empty if there is none in time, or at once with block=False, ShutDown if there is none and\n"
"the queue is shut down, ValueError for a negative timeout, MemoryError, and what the handler of a signal\n"
"raises meanwhile; then no item is lost. An item that cannot be unpickled, an UnpicklingError that says who\n"
"has put it, is taken all the same.\n\n"
"    >>> q = pyconc.shared.Queue()\n"
"    >>> q.put([1, 2])\n"
"    >>> q.get(timeout=5)\n"
"    [1, 2]\n");

static PyObject *
queue_get(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *none;
    int64_t deadline_ns;
    return read_call("get", args, nargs, kwnames, false, &none, &deadline_ns) < 0
               ? NULL
               : get_or_raise(op, deadline_ns);
}

PyDoc_STRVAR(queue_get_nowait_doc,
"get_nowait($self, /)\n--\n\n"
"Take an item as get(block=False) does: queue.Empty is raised if there is none.\n\n"
"    >>> q = pyconc.shared.Queue()\n"
"    >>> q.put(1)\n"
"    >>> q.get_nowait()\n"
"    1\n");

static PyObject *
queue_get_nowait(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return get_or_raise(op, ROBUST_LOCK_NO_WAIT);
}

PyDoc_STRVAR(queue_try_get_doc,
"_try_get($self, /)\n--\n\n"
"For tasks: (the first item,), which is taken; () if there is none.");

static PyObject *
queue_try_get(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    PyObject *value;
    int rc = get_value(op, ROBUST_LOCK_NO_WAIT, &value);
    if (rc == SHARED_QUEUE_NOT_NOW) {
        return PyTuple_New(0);
    }
    return rc < 0 ? raise_status(rc, "Empty") : value == NULL ? NULL
                                                              : Py_BuildValue("(N)", value);
}

// ---- state ----

// How many items there are; -1 with an exception.
static Py_ssize_t
count_items(PyObject *op)
{
    shared_queue *queue = queue_of(op);
    if (shared_enter(op, &queue->run) < 0) {
        return -1;
    }
    Py_ssize_t count = shared_queue_count(queue);
    shared_run_leave(&queue->run);
    return count;
}

PyDoc_STRVAR(queue_qsize_doc,
"qsize($self, /)\n--\n\n"
"Return how many items there are now. Raises nothing.\n\n"
"    >>> pyconc.shared.Queue().qsize()\n"
"    0\n");

static PyObject *
queue_qsize(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    Py_ssize_t count = count_items(op);
    return count < 0 ? NULL : PyLong_FromSsize_t(count);
}

PyDoc_STRVAR(queue_empty_doc,
"empty($self, /)\n--\n\n"
"Return whether there is no item now. Raises nothing.\n\n"
"    >>> pyconc.shared.Queue().empty()\n"
"    True\n");

static PyObject *
queue_empty(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    Py_ssize_t count = count_items(op);
    return count < 0 ? NULL : PyBool_FromLong(count == 0);
}

PyDoc_STRVAR(queue_full_doc,
"full($self, /)\n--\n\n"
"Return whether there is no space now. Raises nothing.\n\n"
"    >>> pyconc.shared.Queue().full()\n"
"    False\n");

static PyObject *
queue_full(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    Py_ssize_t count = count_items(op);
    uint32_t limit = shared_queue_get_limit(queue_of(op));
    return count < 0 ? NULL : PyBool_FromLong(limit != 0 && (size_t)count >= limit);
}

PyDoc_STRVAR(queue_task_done_doc,
"task_done($self, /)\n--\n\n"
"Say that what was asked for by one item is done, for join(). ValueError if all are done already.\n\n"
"An item whose taker is killed is never done, unless somebody else says so.\n\n"
"    >>> q = pyconc.shared.Queue()\n"
"    >>> q.put(1)\n"
"    >>> q.get()\n"
"    1\n"
"    >>> q.task_done()\n");

static PyObject *
queue_task_done(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    int rc = do_until(op, shared_queue_done, SHARED_QUEUE_DONE, NULL, ROBUST_LOCK_NO_WAIT);
    return rc < 0 ? raise_status(rc, "Full") : Py_NewRef(Py_None);
}

PyDoc_STRVAR(queue_join_doc,
"join($self, /)\n--\n\n"
"Wait until all items that were put are done, see task_done().\n\n"
"Raises what the handler of a signal raises meanwhile.\n\n"
"    >>> pyconc.shared.Queue().join()\n");

static PyObject *
queue_join(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    int rc = do_until(op, shared_queue_all_done, SHARED_QUEUE_DONE, NULL, FUTEX_NO_DEADLINE);
    return rc < 0 ? raise_status(rc, "Full") : Py_NewRef(Py_None);
}

PyDoc_STRVAR(queue_shutdown_doc,
"shutdown($self, /, immediate=False)\n--\n\n"
"Refuse further items, for all processes: put() raises ShutDown, and get() does when the queue is empty.\n\n"
"immediate: drop what is there, so that get() raises at once. Whoever waits is told. Raises nothing.\n\n"
"    >>> q = pyconc.shared.Queue()\n"
"    >>> q.put(1)\n"
"    >>> q.shutdown()\n"
"    >>> q.get()\n"
"    1\n"
"    >>> try:\n"
"    ...     q.get()\n"
"    ... except pyconc.shared.ShutDown:\n"
"    ...     print(\"the end\")\n"
"    the end\n");

static PyObject *
queue_shutdown(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"immediate", NULL};
    int immediate = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|p:shutdown", keywords, &immediate)) {
        return NULL;
    }
    int rc = do_until(op, shared_queue_shutdown, SHARED_QUEUE_DONE, immediate ? &immediate : NULL,
                      ROBUST_LOCK_NO_WAIT);
    return rc < 0 ? raise_status(rc, "Full") : Py_NewRef(Py_None);
}

PyDoc_STRVAR(queue_limit_doc,
"_limit($self, maxsize, /)\n--\n\n"
"Set the most items that it may have, 0: any number. Before anybody else has it.");

static PyObject *
queue_limit(PyObject *op, PyObject *arg)
{
    unsigned long limit = PyLong_AsUnsignedLong(arg);
    if (limit == (unsigned long)-1 && PyErr_Occurred()) {
        return NULL;
    }
    shared_queue_limit(queue_of(op), limit > SHARED_QUEUE_MAX ? SHARED_QUEUE_MAX : (uint32_t)limit);
    Py_RETURN_NONE;
}

static PyObject *
queue_maxsize(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLong(shared_queue_get_limit(queue_of(op)));
}

static PyObject *
queue_nbytes(PyObject *op, void *Py_UNUSED(closure))
{
    shared_queue *queue = queue_of(op);
    if (shared_enter(op, &queue->run) < 0) {
        return NULL;
    }
    unsigned long long bytes = shared_run_bytes(&queue->run) + SHARED_QUEUE_DOORS * sizeof(shared_cell);
    shared_run_leave(&queue->run);
    return PyLong_FromUnsignedLongLong(bytes);
}

static PyObject *
queue_get_doors(PyObject *op, void *Py_UNUSED(closure))
{
    return Py_NewRef(as_sharedqueue(op)->doors);
}

static PyMethodDef queue_methods[] = {
    {"put", FASTCALL(queue_put), METH_FASTCALL | METH_KEYWORDS, queue_put_doc},
    {"get", FASTCALL(queue_get), METH_FASTCALL | METH_KEYWORDS, queue_get_doc},
    {"put_nowait", FASTCALL(queue_put_nowait), METH_FASTCALL | METH_KEYWORDS, queue_put_nowait_doc},
    {"get_nowait", queue_get_nowait, METH_NOARGS, queue_get_nowait_doc},
    {"qsize", queue_qsize, METH_NOARGS, queue_qsize_doc},
    {"empty", queue_empty, METH_NOARGS, queue_empty_doc},
    {"full", queue_full, METH_NOARGS, queue_full_doc},
    {"task_done", queue_task_done, METH_NOARGS, queue_task_done_doc},
    {"join", queue_join, METH_NOARGS, queue_join_doc},
    {"shutdown", (PyCFunction)(void (*)(void))queue_shutdown, METH_VARARGS | METH_KEYWORDS,
     queue_shutdown_doc},
    {"_try_put", queue_try_put, METH_O, queue_try_put_doc},
    {"_try_get", queue_try_get, METH_NOARGS, queue_try_get_doc},
    {"_limit", queue_limit, METH_O, queue_limit_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef queue_getset[] = {
    {"maxsize", queue_maxsize, NULL, "The most items that it may have; 0: any number.", NULL},
    {"nbytes", queue_nbytes, NULL, "How many bytes of shared memory it has.", NULL},
    {"_doors", queue_get_doors, NULL, "Cells at which is waited: for items, for space, for all to be done.",
     NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(queue_doc,
"SharedQueue(heap, index=-1, serial=0, /, *doors)\n--\n\n"
"A queue in a cell, in memory that the cell owns, with doors that are cells: none makes them.");

static PyType_Slot queue_slots[] = {
    {Py_tp_new, queue_new},
    {Py_tp_dealloc, queue_dealloc},
    {Py_tp_traverse, queue_traverse},
    {Py_tp_methods, queue_methods},
    {Py_tp_getset, queue_getset},
    {Py_tp_doc, (void *)queue_doc},
    {0, NULL},
};

PyType_Spec shared_queue_spec = {
    .name = "pyconc._core.SharedQueue",
    .basicsize = sizeof(SharedQueueObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = queue_slots,
};
