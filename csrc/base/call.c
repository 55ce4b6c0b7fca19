#include "call.h"

#include <structmember.h>

_Thread_local call_place *call_here;

CallObject *
call_place_get(call_place *place, PyObject *callable, const call_options *options, int64_t began_ns)
{
    if (place->call == NULL) {
        CallObject *made = PyObject_GC_New(CallObject, place->module->call_type);
        if (made == NULL) {
            return NULL;
        }
        made->place = place;
        made->callable = Py_NewRef(place->inner == NULL ? callable : place->inner);
        made->name = Py_XNewRef(options->name);
        made->progress = NULL;
        made->began_ns = began_ns;
        made->timeout_ns = options->timeout_ns;
        made->deadline_ns = options->deadline_ns;
        made->shields = 0;
        made->reason = STOP_NOT;
        PyObject_GC_Track(made);
        place->call = made;
    }
    return (CallObject *)Py_NewRef((PyObject *)place->call);
}

// ---- interrupting ----

static stop_reason
reason_of(const CallObject *self)
{
    return self->place == NULL ? self->reason : self->place->reason(self->place);
}

int
call_learn_cancelled(module_state *module)
{
    if (module->task_cancelled == NULL) {
        PyObject *names = PyImport_ImportModule("pyconc._task_cancelled");
        PyObject *found = names == NULL ? NULL : PyObject_GetAttrString(names, "TaskCancelled");
        Py_XDECREF(names);
        if (found != NULL) {
            Py_XSETREF(module->task_cancelled, found);
        }
    }
    return module->task_cancelled == NULL ? -1 : 0;
}

// Always -1.
static int
raise_cancelled(call_place *place)
{
    place->is_interrupted = true;
    if (place->note != NULL) {
        place->note(place);
    }
    if (place->take_back != NULL) {
        place->take_back(place);
    }
    if (call_learn_cancelled(place->module) == 0) {
        PyErr_SetNone(place->module->task_cancelled);
    }
    return -1;
}

int
call_interrupt(call_place *place)
{
    if (place->is_interrupted || (place->call != NULL && place->call->shields > 0)
        || place->reason(place) == STOP_NOT) {
        return 0;
    }
    return raise_cancelled(place);
}

PyObject *
call_build_reason(stop_reason reason)
{
    static const char *const names[] = {
        [STOP_BY_CANCEL] = "cancel", [STOP_BY_TIMEOUT] = "timeout", [STOP_BY_SHUTDOWN] = "shutdown"};
    if (reason == STOP_NOT) {
        Py_RETURN_NONE;
    }
    return PyUnicode_FromString(names[reason]);
}

PyDoc_STRVAR(reason_doc,
"reason($self, /)\n--\n\n"
"Return why this call is to end: cancel, timeout, shutdown; None: it is not.");

static PyObject *
call_reason(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return call_build_reason(reason_of((CallObject *)op));
}

PyDoc_STRVAR(check_doc,
"check($self, /)\n--\n\n"
"Raise TaskCancelled if this call is to end, unless it is over or shielded.");

static PyObject *
call_check(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    CallObject *self = (CallObject *)op;
    if (self->place != NULL && self->shields == 0 && self->place->reason(self->place) != STOP_NOT) {
        (void)raise_cancelled(self->place);
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(enter_shield_doc,
"enter_shield($self, /)\n--\n\n"
"Have nothing raised in this call until as many shields are left as were entered.");

static PyObject *
call_enter_shield(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    CallObject *self = (CallObject *)op;
    self->shields++;
    if (self->place != NULL) {
        call_take_back(self->place);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(leave_shield_doc,
"leave_shield($self, /)\n--\n\n"
"Leave a shield; if it was the last one, raise TaskCancelled if it has kept that off.");

static PyObject *
call_leave_shield(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    CallObject *self = (CallObject *)op;
    if (self->shields > 0 && --self->shields == 0 && self->place != NULL && call_interrupt(self->place) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(tell_doc,
"tell($self, progress, /)\n--\n\n"
"Have whoever looks at the worker see how far this call is, until it is over.\n\n"
"Return True if it is the caller who must tell that, as another process wants to know.");

static PyObject *
call_tell(PyObject *op, PyObject *progress)
{
    CallObject *self = (CallObject *)op;
    bool is_remote = self->place != NULL && self->place->is_remote;
    if (self->place != NULL) {
        Py_XSETREF(self->progress, Py_NewRef(progress));
        if (self->place->told != NULL) {
            self->place->told(self->place);
        }
    }
    return PyBool_FromLong(is_remote);
}

// ---- time ----

PyObject *
call_build_seconds(int64_t ns, int64_t none)
{
    return ns == none ? Py_NewRef(Py_None) : PyFloat_FromDouble((double)ns / 1e9);
}

PyObject *
call_timeout_error(PyObject *callable, const call_options *options, int64_t ran_ns, PyObject *stack,
                   const char *stopped)
{
    PyObject *module = PyImport_ImportModule("pyconc._task_timeout");
    PyObject *make = module == NULL ? NULL : PyObject_GetAttrString(module, "make");
    PyObject *timeout = call_build_seconds(options->timeout_ns, CALL_NO_LIMIT);
    PyObject *deadline = call_build_seconds(options->deadline_ns, CALL_NO_LIMIT);
    PyObject *ran_for = call_build_seconds(ran_ns, CALL_NOT_BEGUN);
    PyObject *error = NULL;
    if (make != NULL && timeout != NULL && deadline != NULL && ran_for != NULL) {
        error = PyObject_CallFunction(make, "OOOOOOz", callable,
                                      options->name == NULL ? Py_None : options->name, timeout, deadline,
                                      ran_for, stack == NULL ? Py_None : stack, stopped);
    }
    Py_XDECREF(ran_for);
    Py_XDECREF(deadline);
    Py_XDECREF(timeout);
    Py_XDECREF(make);
    Py_XDECREF(module);
    return error != NULL ? error : PyErr_GetRaisedException();
}

// ---- the type ----

static PyObject *
call_get_seconds(PyObject *op, void *offset)
{
    return call_build_seconds(*(int64_t *)(void *)((char *)op + (Py_ssize_t)offset), CALL_NO_LIMIT);
}

static int
call_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((CallObject *)op)->callable);
    Py_VISIT(((CallObject *)op)->name);
    Py_VISIT(((CallObject *)op)->progress);
    return 0;
}

static int
call_clear(PyObject *op)
{
    Py_CLEAR(((CallObject *)op)->callable);
    Py_CLEAR(((CallObject *)op)->name);
    Py_CLEAR(((CallObject *)op)->progress);
    return 0;
}

static void
call_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    call_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef call_methods[] = {
    {"reason", call_reason, METH_NOARGS, reason_doc},
    {"check", call_check, METH_NOARGS, check_doc},
    {"enter_shield", call_enter_shield, METH_NOARGS, enter_shield_doc},
    {"tell", call_tell, METH_O, tell_doc},
    {"leave_shield", call_leave_shield, METH_NOARGS, leave_shield_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef call_members[] = {
    {"callable", T_OBJECT, offsetof(CallObject, callable), READONLY, PyDoc_STR("What is called.")},
    {"name", T_OBJECT, offsetof(CallObject, name), READONLY, PyDoc_STR("The task's name, or None.")},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef call_getset[] = {
    {"began", call_get_seconds, NULL, PyDoc_STR("When the call began, by time.monotonic()."),
     (void *)offsetof(CallObject, began_ns)},
    {"timeout", call_get_seconds, NULL, PyDoc_STR("For how many seconds it may run, or None."),
     (void *)offsetof(CallObject, timeout_ns)},
    {"deadline", call_get_seconds, NULL, PyDoc_STR("Until when it may run, by time.monotonic(), or None."),
     (void *)offsetof(CallObject, deadline_ns)},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(call_doc,
"A call that a worker runs; what current_call() returns.");

static PyType_Slot call_slots[] = {
    {Py_tp_doc, (void *)call_doc},
    {Py_tp_dealloc, call_dealloc},
    {Py_tp_traverse, call_traverse},
    {Py_tp_clear, call_clear},
    {Py_tp_methods, call_methods},
    {Py_tp_members, call_members},
    {Py_tp_getset, call_getset},
    {0, NULL},
};

PyType_Spec call_spec = {
    .name = "pyconc._core.Call",
    .basicsize = sizeof(CallObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION
             | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = call_slots,
};

PyDoc_STRVAR(current_call_doc,
"current_call()\n--\n\n"
"Return the Call that this thread runs for an executor, or None.");

static PyObject *
current_call(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    CallObject *call = call_here == NULL ? NULL : call_here->get(call_here);
    if (call == NULL && !PyErr_Occurred()) {
        Py_RETURN_NONE;
    }
    return (PyObject *)call;
}

PyDoc_STRVAR(show_call_doc,
"show_call($module, callable, /)\n--\n\n"
"Have the call that this thread runs, in a worker process, be seen and named as one of another callable: of\n"
"one that came packed in its arguments.");

static PyObject *
show_call(PyObject *Py_UNUSED(module), PyObject *callable)
{
    call_place *place = call_here;
    if (place != NULL && place->show != NULL && place->show(place, callable)) {
        Py_XSETREF(place->inner, Py_NewRef(callable));
        if (place->call != NULL) {
            Py_SETREF(place->call->callable, Py_NewRef(callable));
        }
    }
    Py_RETURN_NONE;
}

PyMethodDef call_functions[] = {
    {"current_call", current_call, METH_NOARGS, current_call_doc},
    {"show_call", show_call, METH_O, show_call_doc},
    {NULL, NULL, 0, NULL},
};
