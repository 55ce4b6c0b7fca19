#include "asyncio_names.h"

#include "loop_future.h"

int
asyncio_names_learn(module_state *state)
{
    PyObject *glue = PyImport_ImportModule("pyconc._asyncio_glue");
    if (glue == NULL) {
        return -1;
    }
    PyObject *known = PyObject_CallMethod(glue, "describe", NULL);
    Py_DECREF(glue);
    if (known == NULL) {
        return -1;
    }
    PyObject *run_in_executor_code, *our_run_in_executor_code, *call_set_state_code;
    PyObject *convert_exception, *get_running_loop, *adopt_loop;
    Py_ssize_t dest_loop_cell, destination_cell;
    int ok = PyArg_ParseTuple(known, "OOOnnOOO", &run_in_executor_code, &our_run_in_executor_code,
                              &call_set_state_code, &dest_loop_cell, &destination_cell,
                              &convert_exception, &get_running_loop, &adopt_loop);
    if (ok) {
        Py_XSETREF(state->run_in_executor_code, Py_NewRef(run_in_executor_code));
        Py_XSETREF(state->our_run_in_executor_code, Py_NewRef(our_run_in_executor_code));
        Py_XSETREF(state->adopt_loop, Py_NewRef(adopt_loop));
        Py_XSETREF(state->call_set_state_code, Py_NewRef(call_set_state_code));
        Py_XSETREF(state->convert_exception, Py_NewRef(convert_exception));
        Py_XSETREF(state->get_running_loop, Py_NewRef(get_running_loop));
        state->dest_loop_cell = dest_loop_cell;
        state->destination_cell = destination_cell;
        ok = state->loop_future_type != NULL || loop_future_make_type(state) == 0;
    }
    Py_DECREF(known);
    return ok ? 0 : -1;
}
