#include "state.h"

#include <math.h>

#include "core/clock.h"

module_state *
module_state_of(PyTypeObject *type)
{
    return (module_state *)PyModule_GetState(PyType_GetModuleByDef(type, &core_module));
}

void
module_log(module_state *state, const char *method, const char *message, PyObject *about,
           PyObject *exception)
{
    PyObject *logged = NULL;
    PyObject *log = PyObject_GetAttrString(state->logger, method);
    PyObject *args = about == NULL ? Py_BuildValue("(s)", message) : Py_BuildValue("(sO)", message, about);
    PyObject *kwargs = Py_BuildValue("{sO}", "exc_info", exception);
    if (log != NULL && args != NULL && kwargs != NULL) {
        logged = PyObject_Call(log, args, kwargs);
    }
    if (logged == NULL) {
        PyErr_WriteUnraisable(about);
    }
    Py_XDECREF(logged);
    Py_XDECREF(kwargs);
    Py_XDECREF(args);
    Py_XDECREF(log);
    Py_DECREF(exception);
}

void
module_log_escaped(module_state *state)
{
    module_log(state, "critical", "Exception in worker", NULL, PyErr_GetRaisedException());
}

void
module_checkpoint(module_state *state)
{
    PyObject *result = PyObject_CallNoArgs(state->checkpoint);
    if (result == NULL) {
        module_log_escaped(state);
    }
    Py_XDECREF(result);
}

int
module_deadline(PyObject *timeout, int64_t *deadline_ns)
{
    // The longest time-out that a lock of the threading module accepts.
    static const double most_seconds = (double)(INT64_MAX / 1000000000);
    if (timeout == Py_None) {
        *deadline_ns = FUTEX_NO_DEADLINE;
        return 0;
    }
    double seconds = PyFloat_AsDouble(timeout);
    if (seconds == -1.0 && PyErr_Occurred()) {
        return -1;
    }
    if (isnan(seconds)) {
        PyErr_SetString(PyExc_ValueError, "Invalid value NaN (not a number)");
        return -1;
    }
    if (!(seconds > 0)) {
        *deadline_ns = clock_now_ns();
        return 0;
    }
    if (isinf(seconds) || seconds > most_seconds) {
        PyErr_SetString(PyExc_OverflowError, isinf(seconds) ? "cannot convert float infinity to integer"
                                                            : "timeout value is too large");
        return -1;
    }
    int64_t now = clock_now_ns();
    int64_t wait_ns = (int64_t)(seconds * 1e9);
    *deadline_ns = wait_ns > FUTEX_NO_DEADLINE - now ? FUTEX_NO_DEADLINE : now + wait_ns;
    return 0;
}

int
module_wait(module_state *state, _Atomic uint32_t *word, int64_t deadline_ns)
{
    int rc;
    if (deadline_ns <= clock_now_ns()) {
        return FUTEX_TIMED_OUT;
    }
    do {
        bool spins = park_may_spin(&state->result_spot);
        bool changed = false;
        PyThreadState *thread = gil_release(&state->gil);
        if (spins) {
            changed = park_spin(&state->result_spot, word, 0, deadline_ns);
            if (!changed) {
                // The program must not wait for a signal that came during the spin until the sleep ends.
                gil_acquire(&state->gil, thread, 0);
                if (PyErr_CheckSignals() < 0) {
                    return FUTEX_INTERRUPTED;
                }
                thread = gil_release(&state->gil);
            }
        }
        rc = changed ? FUTEX_OK : park_sleep(&state->result_spot, word, 0, deadline_ns);
        gil_acquire(&state->gil, thread, changed ? GIL_PATIENCE_NS : 0);
        if (rc == FUTEX_INTERRUPTED && PyErr_CheckSignals() < 0) {
            return FUTEX_INTERRUPTED;
        }
    } while (rc == FUTEX_INTERRUPTED);
    return rc;
}
