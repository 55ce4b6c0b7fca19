#include "lost_exception.h"

#include "call.h"

// Calls the hook that was there before.
static PyObject *
hear(PyObject *former, PyObject *unraisable)
{
    PyObject *type = PyObject_GetAttrString(unraisable, "exc_type");
    PyObject *result = type == NULL ? NULL : PyObject_CallOneArg(former, unraisable);
    call_place *place = call_here;
    bool is_ours =
        place != NULL && place->raise_again != NULL && type != NULL && type == place->module->task_cancelled;
    // Not when another hook has called this one: it would be raised there.
    if (is_ours && place->module->unraisable_hook != NULL
        && PyCFunction_GET_SELF(place->module->unraisable_hook) == former) {
        place->raise_again(place);
    }
    Py_XDECREF(type);
    return result;
}

static PyMethodDef hear_method = {
    "unraisablehook", hear, METH_O,
    PyDoc_STR("unraisablehook(unraisable, /)\n--\n\n"
              "Call the former sys.unraisablehook; then have a TaskCancelled that was lost raised again.")};

void
lost_exception_watch(module_state *state)
{
    state->calls_to_end++;
    PyObject *now = PySys_GetObject("unraisablehook");  // borrowed
    if (now == state->unraisable_hook && now != NULL) {
        return;
    }
    if (now == NULL || now == Py_None) {
        now = PySys_GetObject("__unraisablehook__");
    }
    PyObject *ours = now == NULL ? NULL : PyCFunction_New(&hear_method, now);
    if (ours != NULL && PySys_SetObject("unraisablehook", ours) == 0) {
        Py_XSETREF(state->unraisable_hook, Py_NewRef(ours));
    }
    Py_XDECREF(ours);
    PyErr_Clear();
}

void
lost_exception_unwatch(module_state *state)
{
    if (--state->calls_to_end > 0 || state->unraisable_hook == NULL) {
        return;
    }
    if (PySys_GetObject("unraisablehook") == state->unraisable_hook) {
        (void)PySys_SetObject("unraisablehook", PyCFunction_GET_SELF(state->unraisable_hook));
        PyErr_Clear();
    }
    Py_CLEAR(state->unraisable_hook);
}

void
lost_exception_after_fork(module_state *state)
{
    if (state->calls_to_end > 0) {
        state->calls_to_end = 1;
        lost_exception_unwatch(state);
    }
}
