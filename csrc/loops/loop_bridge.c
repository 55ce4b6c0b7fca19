#include "loop_bridge.h"

#include "asyncio_names.h"
#include "base/task.h"
#include "base/trace.h"
#include "core/clock.h"
#include "loop_future.h"

// How long the drains of one turn may keep the loop from its other work, and after how many outcomes a drain
// looks at the clock, which takes 22 nanoseconds: next to nothing for each.  When 100,000 calls end at once,
// the longest turn, with the callbacks of what was drained, takes 23 milliseconds, and 39 without a limit;
// with a tenth of it 5, and no call takes longer (on 3.13).
#define DRAIN_MAX_NS 2000000
#define DRAIN_LOOK 64
// How long deliveries may ride along with a drain.  A drain that waits longer stands behind a burst of tens
// of thousands, or in a loop that is kept busy, where another drain costs next to nothing; and a person does
// not notice so short a delay.  Without riding, a call of a gather takes 5 times as long; with a millisecond
// or a second, as long.
#define RIDE_NS 50000000
// In place of the time when a drain was scheduled: no delivery rides along with it.
#define LONG_AGO 1

// ---- a loop and its bridge ----

static LoopBridgeObject *
bridge_new(module_state *state, PyObject *loop)
{
    LoopBridgeObject *self =
        (LoopBridgeObject *)state->loop_bridge_type->tp_alloc(state->loop_bridge_type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->module = state;
    node_list_init(&self->finished);
    self->loop = PyWeakref_NewRef(loop, NULL);
    if (self->loop == NULL) {
        Py_CLEAR(self);
    }
    return self;
}

// 1 found or made, 0 this loop cannot have one, -1 exception.
static int
bridge_of(module_state *state, PyObject *loop, LoopBridgeObject **bridge)
{
    PyObject *found;
    int rc = PyObject_GetOptionalAttr(loop, state->str__pyconc_bridge, &found);
    if (rc != 0) {
        *bridge = (LoopBridgeObject *)found;
        if (rc > 0 && !Py_IS_TYPE(found, state->loop_bridge_type)) {
            Py_DECREF(found);
            rc = 0;
        }
        return rc;
    }
    *bridge = bridge_new(state, loop);
    if (*bridge != NULL
        && PyObject_SetAttr(loop, state->str__pyconc_bridge, (PyObject *)*bridge) == 0) {
        PyObject *adopted = PyObject_CallOneArg(state->adopt_loop, loop);
        if (adopted != NULL) {
            Py_DECREF(adopted);
            return 1;
        }
    }
    Py_CLEAR(*bridge);
    if (PyErr_ExceptionMatches(PyExc_AttributeError) || PyErr_ExceptionMatches(PyExc_TypeError)) {
        PyErr_Clear();  // the loop has no room for attributes, or for weak references
        return 0;
    }
    return -1;
}

// True if the code object is the known one.  Asyncio's are looked up when one with the right name first turns
// up, so that a program without asyncio never imports it.
static int
is_code(module_state *state, PyCodeObject *code, PyObject **known, PyObject *name)
{
    if ((PyObject *)code == *known) {
        return 1;
    }
    // Names of code objects are interned.
    if (*known != NULL || code->co_name != name) {
        return 0;
    }
    if (asyncio_names_learn(state) < 0) {
        return -1;
    }
    return (PyObject *)code == *known;
}

// The loop that the calling thread runs, or None; NULL with an exception.
static PyObject *
running_loop(module_state *state)
{
    if (state->get_running_loop == NULL && asyncio_names_learn(state) < 0) {
        return NULL;
    }
    return PyObject_CallNoArgs(state->get_running_loop);
}

// What a destination on this loop can do; below.
static const destination_kind loop_destination;

static void
set_destination(destination *to, PyObject *future, LoopBridgeObject *bridge)
{
    *to = (destination){.kind = &loop_destination, .future = future, .carrier = &bridge->head};
}

int
loop_bridge_for_loop(module_state *state, PyObject *loop, bool routed, destination *to)
{
    LoopBridgeObject *bridge;
    if (state->adopt_loop == NULL && asyncio_names_learn(state) < 0) {
        return -1;
    }
    int rc = bridge_of(state, loop, &bridge);
    if (rc > 0) {
        PyObject *future = routed ? loop_future_new(state, loop)
                                  : PyObject_CallMethodNoArgs(loop, state->str_create_future);
        if (future == NULL) {
            Py_DECREF(bridge);
            return -1;
        }
        set_destination(to, future, bridge);
    }
    return rc;
}

int
loop_bridge_for_running_loop(module_state *state, bool routed, destination *to)
{
    PyObject *loop = running_loop(state);
    if (loop == Py_None) {
        PyErr_SetString(PyExc_RuntimeError, "no running event loop");
    }
    int rc = loop == NULL || loop == Py_None ? -1 : loop_bridge_for_loop(state, loop, routed, to);
    Py_XDECREF(loop);
    return rc;
}

int
loop_bridge_for_caller(module_state *state, bool routed, destination *to)
{
    PyFrameObject *frame = PyEval_GetFrame();  // borrowed
    if (frame == NULL || standard_is_replaced(&state->standard_future)) {
        return 0;
    }
    PyCodeObject *code = PyFrame_GetCode(frame);
    int rc = is_code(state, code, &state->run_in_executor_code, state->str_run_in_executor);
    if (rc == 0 && (PyObject *)code == state->our_run_in_executor_code) {
        rc = 1;
    }
    Py_DECREF(code);
    if (rc <= 0) {
        return rc;
    }
    PyObject *loop = frame_get_local(frame, state->str_self);
    if (loop == NULL) {
        return -1;
    }
    rc = loop_bridge_for_loop(state, loop, routed, to);
    Py_DECREF(loop);
    return rc;
}

// Whether asyncio, which asks a future by these methods how the call ended, would get what is in it: a
// subclass may have its own, and the program may have replaced the standard class's.
static bool
tells_what_it_has(module_state *state, PyObject *future)
{
    if (standard_is_replaced(&state->standard_future)) {
        return false;
    }
    if (Py_TYPE(future) == state->future_type) {
        return true;
    }
    PyObject *names[] = {state->str_cancelled, state->str_exception, state->str_result,
                         state->str__get_snapshot};
    bool tells = true;
    for (size_t i = 0; i < Py_ARRAY_LENGTH(names) && tells; i++) {
        PyObject *own = PyObject_GetAttr((PyObject *)Py_TYPE(future), names[i]);
        PyObject *original = PyObject_GetAttr((PyObject *)state->future_type, names[i]);
        tells = own != NULL && own == original;
        Py_XDECREF(own);
        Py_XDECREF(original);
    }
    PyErr_Clear();
    return tells;
}

// If the callback is the closure of asyncio's wrap_future(): the asyncio future that the closure will
// complete, and the bridge of its loop, both new references.  1 found, 0 not, or asyncio is to ask the future
// itself, -1 exception.
static int
recognise_callback(module_state *state, PyObject *future, PyObject *callback, destination *to)
{
    LoopBridgeObject *bridge;
    if (!PyFunction_Check(callback)) {
        return 0;
    }
    PyCodeObject *code = (PyCodeObject *)PyFunction_GET_CODE(callback);
    int rc = is_code(state, code, &state->call_set_state_code, state->str__call_set_state);
    if (rc <= 0) {
        return rc;
    }
    if (!tells_what_it_has(state, future)) {
        return 0;
    }
    PyObject *cells = PyFunction_GET_CLOSURE(callback);
    PyObject *loop = PyCell_GET(PyTuple_GET_ITEM(cells, state->dest_loop_cell));
    PyObject *wrapped = PyCell_GET(PyTuple_GET_ITEM(cells, state->destination_cell));
    if (loop == NULL || loop == Py_None || wrapped == NULL) {
        return 0;  // from asyncio to concurrent.futures, or half torn down
    }
    Py_INCREF(wrapped);
    rc = bridge_of(state, loop, &bridge);
    if (rc > 0) {
        set_destination(to, wrapped, bridge);
    }
    else {
        Py_DECREF(wrapped);
    }
    return rc;
}

// ---- worker's side: posting ----

static void
drop_finished(LoopBridgeObject *self)
{
    list_node *node = node_list_take(&self->finished);
    while (node != NULL) {
        delivery *d = (delivery *)node;
        node = node->next;
        self->drained++;
        delivery_free(d);
    }
}

// 1 if the calling thread runs this loop, 0 if not, -1 exception.
static int
is_running_here(LoopBridgeObject *self, PyObject *loop)
{
    PyObject *running = running_loop(self->module);
    Py_XDECREF(running);  // only its identity matters
    return running == NULL ? -1 : running == loop;
}

// Schedules a drain for all that is posted by now.  0, or -1 with the exception that the loop raised.
static int
schedule_drain(LoopBridgeObject *self, PyObject *loop)
{
    int here = is_running_here(self, loop);
    PyObject *drain = here < 0 ? NULL : PyObject_GetAttr((PyObject *)self, self->module->str_drain);
    if (drain == NULL) {
        return -1;
    }
    // Before the call: the loop may drain, and workers may post, before its method returns.
    self->scheduled_ns = clock_now_ns();
    // Relaxed: writers have the GIL.
    uint32_t posted = atomic_load_explicit(&self->posted, memory_order_relaxed);
    PyObject *number = PyLong_FromUnsignedLong(++self->drains);
    PyObject *limit = PyLong_FromUnsignedLong(posted);
    PyObject *handle = NULL;
    if (number != NULL && limit != NULL) {
        PyObject *how = here ? self->module->str_call_soon : self->module->str_call_soon_threadsafe;
        handle = PyObject_CallMethodObjArgs(loop, how, drain, number, limit, NULL);
    }
    Py_XDECREF(limit);
    Py_XDECREF(number);
    Py_DECREF(drain);
    Py_XDECREF(handle);
    if (handle == NULL) {
        self->scheduled_ns = 0;
        return -1;
    }
    return 0;
}

// The loop could not be told, and its exception is set.  If it is closed, no code can await the outcomes
// here.  0, or -1 with an exception that is not the loop's own, such as Ctrl-C's.
static int
give_up(LoopBridgeObject *self, PyObject *loop)
{
    PyObject *exception = PyErr_GetRaisedException();
    PyObject *closed = PyObject_CallMethodNoArgs(loop, self->module->str_is_closed);
    bool is_closed = closed != NULL && PyObject_IsTrue(closed) == 1;
    Py_XDECREF(closed);
    PyErr_Clear();
    if (is_closed) {
        drop_finished(self);
    }
    if (!PyErr_GivenExceptionMatches(exception, PyExc_Exception)) {
        PyErr_SetRaisedException(exception);
        return -1;
    }
    if (is_closed) {
        Py_DECREF(exception);
    }
    else {
        // Out of memory, say.  The outcomes stay; the next post tries again.
        PyErr_SetRaisedException(exception);
        PyErr_WriteUnraisable(loop);
    }
    return 0;
}

// Has the loop complete what is posted.  Drops it if the loop is gone or closed.  0, or -1 with an exception
// that was raised in the loop's code and is not the loop's own; the loop has been told all the same, if that
// was possible.
static int
tell_loop(LoopBridgeObject *self)
{
    PyObject *loop;
    int rc = 0;
    Py_INCREF(self);  // to drop the deliveries may drop the loop, and this bridge with it
    list_link_remove(&self->riding);
    if (PyWeakref_GetRef(self->loop, &loop) <= 0) {
        PyErr_Clear();
        drop_finished(self);
    }
    else {
        if (schedule_drain(self, loop) < 0 && (rc = give_up(self, loop)) < 0) {
            PyObject *exception = PyErr_GetRaisedException();
            if (schedule_drain(self, loop) < 0 && give_up(self, loop) < 0) {
                PyErr_WriteUnraisable(loop);
            }
            PyErr_SetRaisedException(exception);
        }
        Py_DECREF(loop);
    }
    Py_DECREF(self);
    return rc;
}

// Takes an outcome over.  0, or -1 with an exception as from tell_loop(); the outcome is on its way all the
// same.
static int
post(delivery *d)
{
    LoopBridgeObject *self = (LoopBridgeObject *)d->to.carrier;
    node_list_append(&self->finished, &d->node);
    // R4: pairs with A1 in look(): the loop's thread sees the delivery, once it has the GIL.  The load is
    // relaxed because writers have the GIL.
    uint32_t posted = atomic_load_explicit(&self->posted, memory_order_relaxed);
    atomic_store_explicit(&self->posted, posted + 1, memory_order_release);
    if (self->handed_over_ns != 0) {
        park_learn(&self->module->busy_wait_spot, clock_now_ns() - self->handed_over_ns);
        self->handed_over_ns = 0;
    }
    if (self->busy_waiting) {
        return 0;
    }
    if (self->scheduled_ns != 0 && clock_now_ns() - self->scheduled_ns < RIDE_NS) {
        if (self->riding.place == NULL) {
            list_link_push(&self->module->riding, &self->riding);
        }
        return 0;
    }
    return tell_loop(self);
}

static LoopBridgeObject *
first_riding(module_state *state)
{
    return THING_OF(state->riding, LoopBridgeObject, riding);
}

int64_t
loop_bridge_next_look(module_state *state)
{
    return state->riding == NULL ? FUTEX_NO_DEADLINE : first_riding(state)->scheduled_ns + RIDE_NS;
}

int
loop_bridge_look(module_state *state, int64_t now_ns)
{
    while (state->riding != NULL && loop_bridge_next_look(state) <= now_ns) {
        if (tell_loop(first_riding(state)) < 0) {
            return -1;
        }
    }
    return 0;
}

// ---- loop's side: a busy wait ----

int
loop_bridge_busy_wait(const destination *to)
{
    if (to->kind != &loop_destination) {
        return 0;
    }
    LoopBridgeObject *self = (LoopBridgeObject *)to->carrier;
    module_state *module = self->module;
    PyObject *loop;
    int rc = 0;
    if (self->scheduled_ns != 0) {
        self->scheduled_ns = LONG_AGO;
    }
    if (self->head.outstanding != 1 || self->busy_waiting || PyWeakref_GetRef(self->loop, &loop) <= 0) {
        return 0;
    }
    int here = is_running_here(self, loop);
    if (here <= 0) {
        Py_DECREF(loop);
        return here;
    }
    int64_t start = clock_now_ns();
    // Relaxed: its writers have the GIL, as this thread does.
    uint32_t posted = atomic_load_explicit(&self->posted, memory_order_relaxed);
    struct task **slot = loop_future_slot(module, to->future);
    bool is_here = slot == NULL || (*slot != NULL && (*slot)->route->help == NULL);
    if (!is_here && *slot != NULL) {
        self->busy_waiting = true;
        rc = (*slot)->route->help(slot, &self->posted, posted, &self->head, FUTEX_NO_DEADLINE);
        self->busy_waiting = false;
        PyObject *error = rc < 0 ? PyErr_GetRaisedException() : NULL;
        if (!node_list_is_empty(&self->finished)) {
            rc = schedule_drain(self, loop);
        }
        if (error != NULL) {
            if (PyErr_Occurred()) {
                PyErr_WriteUnraisable(loop);
            }
            PyErr_SetRaisedException(error);
            rc = -1;
        }
    }
    else if (is_here && !park_may_spin(&module->busy_wait_spot)) {
        self->handed_over_ns = start;  // the time of its return tells whether to busy-wait again
    }
    else if (is_here) {
        self->busy_waiting = true;
        PyThreadState *thread = gil_release(&module->gil);
        bool arrived = park_spin(&module->busy_wait_spot, &self->posted, posted, FUTEX_NO_DEADLINE);
        gil_acquire(&module->gil, thread, arrived ? GIL_PATIENCE_NS : 0);
        self->busy_waiting = false;
        if (!arrived && node_list_is_empty(&self->finished)) {
            self->handed_over_ns = start;  // its arrival tells how long a spin would have had to be
        }
        else if (!arrived) {
            park_learn(&module->busy_wait_spot, clock_now_ns() - start);
        }
        if (!node_list_is_empty(&self->finished)) {
            rc = schedule_drain(self, loop);
        }
    }
    Py_DECREF(loop);
    return rc;
}

// ---- asyncio's callbacks on pyconc's futures ----

static int
callback_added(module_state *state, PyObject *future, PyObject *callback)
{
    destination to;
    int rc = recognise_callback(state, future, callback, &to);
    if (rc <= 0) {
        return rc;
    }
    carrier_expect(to.carrier);
    rc = loop_bridge_busy_wait(&to);
    destination_clear(&to);
    return rc;
}

static int
forward(module_state *state, PyObject *future, PyObject *callback, bool was_added, PyObject *result,
        PyObject *exception)
{
    destination to;
    delivery *d = NULL;
    int rc = recognise_callback(state, future, callback, &to);
    int posted = 0;
    if (rc > 0) {
        d = delivery_new(&to, result, exception);
        if (was_added) {
            carrier_forget(to.carrier);
        }
        if (d != NULL) {
            posted = post(d);
        }
        PyObject *error = posted < 0 ? PyErr_GetRaisedException() : NULL;
        destination_clear(&to);
        if (error != NULL) {
            PyErr_SetRaisedException(error);
        }
    }
    if (d == NULL) {
        PyErr_Clear();  // the standard way needs nothing of this unit
    }
    return posted < 0 ? -1 : d != NULL;
}

const callback_hooks loop_bridge_callbacks = {
    .added = callback_added,
    .forward = forward,
    .look = loop_bridge_look,
};

// ---- the loop's futures as destinations ----

static int
loop_start(const destination *to)
{
    LoopBridgeObject *bridge = (LoopBridgeObject *)to->carrier;
    PyObject *cancelled = PyObject_CallMethodNoArgs(to->future, bridge->module->str_cancelled);
    int rc = cancelled == NULL ? -1 : PyObject_IsTrue(cancelled);
    Py_XDECREF(cancelled);
    return rc < 0 ? -1 : !rc;
}

static void
loop_abandon(const destination *to, PyObject *exception)
{
    LoopBridgeObject *bridge = (LoopBridgeObject *)to->carrier;
    PyObject *result = PyObject_CallMethodOneArg(to->future, bridge->module->str_set_exception, exception);
    // No code in this process has asked for the future: no complaint if none looks.
    if (result == NULL || PyObject_SetAttrString(to->future, "_log_traceback", Py_False) < 0) {
        PyErr_Clear();
    }
    Py_XDECREF(result);
}

static bool
loop_is_watched(const destination *Py_UNUSED(to))
{
    return false;  // code of the program runs later, after the drain
}

static struct task **
loop_slot(const destination *to)
{
    return loop_future_slot(((LoopBridgeObject *)to->carrier)->module, to->future);
}

static const destination_kind loop_destination = {
    .start = loop_start,
    .finish = post,
    .fail = post,
    .abandon = loop_abandon,
    .is_watched = loop_is_watched,
    .slot = loop_slot,
};

// ---- loop's side: draining ----

// Completes one asyncio future with its outcome.  0, or -1 with an exception.
static int
complete(module_state *module, delivery *d)
{
    PyObject *result = PyObject_CallMethodNoArgs(d->to.future, module->str_done);
    int done = result == NULL ? -1 : PyObject_IsTrue(result);
    Py_XDECREF(result);
    if (done != 0) {
        return done < 0 ? -1 : 0;  // Done: it was cancelled while the task ran.
    }
    if (d->result != NULL) {
        result = PyObject_CallMethodOneArg(d->to.future, module->str_set_result, d->result);
    }
    else if (d->exception != NULL) {
        PyObject *exception = PyObject_CallOneArg(module->convert_exception, d->exception);
        result = exception == NULL ? NULL
                                   : PyObject_CallMethodOneArg(d->to.future,
                                                               module->str_set_exception, exception);
        Py_XDECREF(exception);
    }
    else {
        result = PyObject_CallMethodNoArgs(d->to.future, module->str_cancel);
    }
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

// The future refused the outcome; it must not stay pending for that.  0, or -1 with an exception.
static int
complete_with_error(module_state *module, delivery *d)
{
    PyObject *error = PyErr_GetRaisedException();
    if (!PyErr_GivenExceptionMatches(error, PyExc_Exception)) {
        // An exception such as Ctrl-C's was raised meanwhile.  It is for the loop; the future gets its own
        // outcome.
        if (complete(module, d) < 0) {
            PyErr_WriteUnraisable(d->to.future);
        }
        PyErr_SetRaisedException(error);
        return -1;
    }
    PyObject *result = PyObject_CallMethodOneArg(d->to.future, module->str_set_exception, error);
    if (result == NULL) {
        PyErr_SetRaisedException(error);  // the cause says more than what it led to
        return -1;
    }
    Py_DECREF(result);
    Py_DECREF(error);
    return 0;
}

// Keeps the exception that is set, for the drain to raise at its end, if it is the first or stops the loop;
// reports the other one.
static void
keep_error(PyObject *self, PyObject **kept)
{
    if (*kept != NULL && PyErr_GivenExceptionMatches(*kept, PyExc_Exception)
        && !PyErr_ExceptionMatches(PyExc_Exception)) {
        PyObject *stops = PyErr_GetRaisedException();
        PyErr_SetRaisedException(*kept);
        *kept = stops;
    }
    if (*kept == NULL) {
        *kept = PyErr_GetRaisedException();
    }
    else {
        PyErr_WriteUnraisable(self);
    }
}

PyDoc_STRVAR(drain_doc,
"drain($self, number, limit, /)\n--\n\n"
"Complete the asyncio futures whose outcomes are here; the loop calls it on its own thread.\n\n"
"number: which drain this is. limit: how many outcomes had been posted when it was scheduled.");

static PyObject *
bridge_drain(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    LoopBridgeObject *self = (LoopBridgeObject *)op;
    PyObject *error = NULL;
    delivery *d;
    uint32_t number = nargs != 2 ? 0 : (uint32_t)PyLong_AsUnsignedLong(args[0]);
    uint32_t limit = nargs != 2 ? 0 : (uint32_t)PyLong_AsUnsignedLong(args[1]);
    if (nargs != 2 || PyErr_Occurred()) {
        PyErr_SetString(PyExc_TypeError, "drain() takes two numbers");
        return NULL;
    }
    uint32_t drained = self->drained;
    int64_t now = clock_now_ns(), began_ns = now;
    if ((int32_t)(number - self->turn_drains) > 0) {
        // The drains that are scheduled by now may run in this turn of the loop; one that is scheduled later
        // does not.
        self->turn_drains = self->drains;
        self->turn_end_ns = now + DRAIN_MAX_NS;
    }
    for (unsigned n = 1; (int32_t)(limit - self->drained) > 0 && now <= self->turn_end_ns
                         && (d = (delivery *)node_list_pop(&self->finished)) != NULL;
         n++) {
        self->drained++;
        if (complete(self->module, d) < 0 && complete_with_error(self->module, d) < 0) {
            // One future's failure does not keep the others waiting.
            keep_error(op, &error);
        }
        delivery_free(d);
        if (n % DRAIN_LOOK == 0) {
            now = clock_now_ns();
        }
    }
    if (trace_on != NULL && self->drained != drained) {
        trace_delivered(began_ns, self->drained - drained);
    }
    if (number == self->drains) {
        self->scheduled_ns = 0;
    }
    if (node_list_is_empty(&self->finished)) {
        list_link_remove(&self->riding);
    }
    else if (self->scheduled_ns == 0 && tell_loop(self) < 0) {
        keep_error(op, &error);
    }
    if (error != NULL) {
        PyErr_SetRaisedException(error);
        return NULL;
    }
    Py_RETURN_NONE;
}

// ---- the type ----

static int
bridge_traverse(PyObject *op, visitproc visit, void *arg)
{
    LoopBridgeObject *self = (LoopBridgeObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->loop);
    for (list_node *node = self->finished.first; node != NULL; node = node->next) {
        int rc = delivery_traverse((delivery *)node, visit, arg);
        if (rc != 0) {
            return rc;
        }
    }
    return 0;
}

static int
bridge_clear(PyObject *op)
{
    drop_finished((LoopBridgeObject *)op);
    return 0;
}

static void
bridge_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    // No deliveries are left: each holds a reference to its bridge.
    list_link_remove(&((LoopBridgeObject *)op)->riding);
    Py_XDECREF(((LoopBridgeObject *)op)->loop);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef bridge_methods[] = {
    {"drain", FASTCALL(bridge_drain), METH_FASTCALL, drain_doc},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(bridge_doc,
"Carry outcomes to one event loop. Made when a loop first meets an executor, and kept in\n"
"the loop's attribute _pyconc_bridge.");

static PyType_Slot bridge_slots[] = {
    {Py_tp_doc, (void *)bridge_doc},
    {Py_tp_dealloc, bridge_dealloc},
    {Py_tp_traverse, bridge_traverse},
    {Py_tp_clear, bridge_clear},
    {Py_tp_methods, bridge_methods},
    {0, NULL},
};

PyType_Spec loop_bridge_spec = {
    .name = "pyconc._core.LoopBridge",
    .basicsize = sizeof(LoopBridgeObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = bridge_slots,
};
