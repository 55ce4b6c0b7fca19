#include "loop_future.h"

#include "base/task.h"

static struct task **
slot_of(module_state *state, PyObject *future)
{
    return (struct task **)((char *)future + state->loop_future_task);
}

struct task **
loop_future_slot(module_state *state, PyObject *future)
{
    return Py_TYPE(future) == (PyTypeObject *)state->loop_future_type ? slot_of(state, future) : NULL;
}

PyObject *
loop_future_new(module_state *state, PyObject *loop)
{
    PyObject *args[] = {NULL, loop};
    return PyObject_Vectorcall(state->loop_future_type, args + 1, PY_VECTORCALL_ARGUMENTS_OFFSET,
                               state->loop_names);
}

PyDoc_STRVAR(cancel_doc,
"cancel($self, /, msg=None)\n--\n\n"
"Cancel the future, and keep its call from running if it has not started.\n\n"
"If the call runs and is being stopped, the future is cancelled when it has ended. To cancel it again while\n"
"a KeyboardInterrupt is handled ends the time that it has for that.");

// Whether the user does not want to wait: at a second Ctrl-C, asyncio.run() cancels what is left of its tasks
// while it handles the exception; at the first one it only cancels.
static bool
is_interrupted(void)
{
    PyObject *handled = PyErr_GetHandledException();
    bool found = handled != NULL && PyErr_GivenExceptionMatches(handled, PyExc_KeyboardInterrupt);
    Py_XDECREF(handled);
    return found;
}

// Calls the base's cancel(message).
static PyObject *
cancel_now(module_state *state, PyObject *op, PyObject *message)
{
    PyObject *base = (PyObject *)((PyTypeObject *)state->loop_future_type)->tp_base;
    PyObject *method = PyObject_GetAttr(base, state->str_cancel);
    PyObject *result = method == NULL ? NULL : PyObject_CallFunctionObjArgs(method, op, message, NULL);
    Py_XDECREF(method);
    return result;
}

static PyObject *
loop_future_cancel(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"msg", NULL};
    module_state *state = module_state_of(Py_TYPE(op));
    struct task **slot = slot_of(state, op);
    PyObject *message = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O:cancel", keywords, &message)) {
        return NULL;
    }
    if (*slot != NULL) {
        struct task *t = *slot;
        *slot = NULL;
        // If it is too late, the call goes on, and its outcome is dropped.
        if (t->route->withdraw(t, is_interrupted()) == WITHDRAW_STOPPING) {
            *slot = t;
            // Where the base keeps it; the bridge cancels the future later, with no message of its own.
            if (PyObject_SetAttr(op, state->str__cancel_message, message == NULL ? Py_None : message) < 0) {
                return NULL;
            }
            Py_RETURN_TRUE;
        }
    }
    if (message != NULL) {
        return cancel_now(state, op, message);
    }
    message = PyObject_GetAttr(op, state->str__cancel_message);
    PyObject *result = message == NULL ? NULL : cancel_now(state, op, message);
    Py_XDECREF(message);
    return result;
}

static PyMethodDef loop_future_methods[] = {
    {"cancel", (PyCFunction)(void (*)(void))loop_future_cancel, METH_VARARGS | METH_KEYWORDS, cancel_doc},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(loop_future_doc,
"What an event loop's run_in_executor returns for a call in another process.");

int
loop_future_make_type(module_state *state)
{
    PyObject *asyncio = PyImport_ImportModule("asyncio");
    PyObject *base = asyncio == NULL ? NULL : PyObject_GetAttrString(asyncio, "Future");
    Py_XDECREF(asyncio);
    if (base == NULL) {
        return -1;
    }
    // The base's size is known only now, and is not the same on every version.
    Py_ssize_t offset = ((PyTypeObject *)base)->tp_basicsize;
    PyType_Slot slots[] = {
        {Py_tp_doc, (void *)loop_future_doc},
        {Py_tp_methods, loop_future_methods},
        {0, NULL},
    };
    PyType_Spec spec = {
        .name = "pyconc._core.LoopFuture",
        .basicsize = (int)(offset + (Py_ssize_t)sizeof(struct task *)),
        .flags = Py_TPFLAGS_DEFAULT,
        .slots = slots,
    };
    PyObject *module = PyType_GetModule(state->future_type);  // borrowed
    PyObject *bases = PyTuple_Pack(1, base);
    PyObject *type = bases == NULL ? NULL : PyType_FromModuleAndSpec(module, &spec, bases);
    Py_XDECREF(bases);
    Py_DECREF(base);
    if (type == NULL) {
        return -1;
    }
    state->loop_future_task = offset;
    state->loop_future_type = type;
    return 0;
}
