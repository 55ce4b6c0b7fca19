// callable_name: what a function is called where no code may run to find out, and to show it to others.
//
// The GIL is held.
#ifndef PYCONC_CALLABLE_NAME_H
#define PYCONC_CALLABLE_NAME_H

#include "state.h"

#include "core/call_name.h"

// The name of a function, of the one in a method or in an object that only makes it a call, or else of a
// type, in UTF-8; NULL: it is in too many others.  It stays there as long as the callable does, and no other
// code runs.  Raises nothing.
const char *callable_name(const module_state *module, PyObject *callable, size_t *bytes);

// Whether a callable is the run() of a contextvars.Context, which calls its first argument.
bool callable_is_context_run(PyObject *callable);

// What a call is one of: its callable, or, as asyncio.to_thread() makes calls, what a context is to run.
// Borrowed.
static inline PyObject *
callable_of_call(PyObject *callable, PyObject *const *args, Py_ssize_t nargs)
{
    bool runs_another = PyCFunction_CheckExact(callable) && nargs > 0 && callable_is_context_run(callable);
    return runs_another ? args[0] : callable;
}

// The qualified name of a function, or of the one in a method, borrowed; NULL: it is neither.
static inline PyObject *
callable_qualname(PyObject *callable)
{
    PyObject *function = PyMethod_Check(callable) ? PyMethod_GET_FUNCTION(callable) : callable;
    return PyFunction_Check(function) ? ((PyFunctionObject *)function)->func_qualname : NULL;
}

// The text of a str in the same way; NULL: it is no str, or has a lone surrogate.
const char *callable_name_of_str(PyObject *name, size_t *bytes);

// For callable_show().
void callable_show_another(const module_state *module, call_name *shown, PyObject **named,
                           PyObject *callable, PyObject *name);

// Shows others what a call is named that is about to run: as its options say, or else, if name is NULL, as
// its callable.  Writes nothing if that stands there already: *named is the str that does, owned, or NULL.
static inline void
callable_show(const module_state *module, call_name *shown, PyObject **named, PyObject *callable,
              PyObject *name)
{
    if (name == NULL) {
        name = callable_qualname(callable);
    }
    if (name == NULL || name != *named) {
        callable_show_another(module, shown, named, callable, name);
    }
}

// name_of().
extern PyMethodDef callable_name_functions[];

#endif
