"""context=: a call has the context variables of the code that submits it.

An executor with a context puts something that carries it in the place of each call's function.  Threads get a copy of
the whole context.  What goes to processes are the values of some variables, which a worker finds by the names that they
have as globals of their modules.  A worker that was forked has values of its own for them; it forgets these, so that a
variable that has none where the call comes from has none in the call.
"""

import contextvars
import importlib
import sys
from functools import partial

from pyconc import _core

__all__ = ["carrier_to_coroutines", "carrier_to_processes", "carrier_to_threads", "run_without"]

_UNSET = object()


def carrier_to_threads(context):
    """Return the function that makes of a call's function what carries the context; None: nothing is carried."""
    if not isinstance(context, bool):
        raise TypeError(f"context must be a bool, not {type(context).__name__}")
    return _in_copy if context else None


def carrier_to_processes(context):
    """Return the same for ContextVars, and the names of these for run_without()."""
    return _carrier(_WithValues, context)


def carrier_to_coroutines(context):
    return _carrier(_CoroutineWithValues, context)


def _carrier(kind, context):
    if isinstance(context, (str, bool)) or not hasattr(context, "__iter__"):
        raise TypeError(f"context must be an iterable of ContextVars, not {type(context).__name__}")
    variables = [_find(variable) for variable in context]
    names = [name for _, *name in variables]
    return (partial(_with_values, kind, variables), names) if variables else (None, None)


def run_without(names, function):
    """Call function() in a copy of the context in which these variables have no values."""
    unset = {variable for module, name in names if (variable := _look_up(module, name)) is not None}
    context = contextvars.Context()
    for variable, value in contextvars.copy_context().items():
        if variable not in unset:
            context.run(variable.set, value)
    return context.run(function)


def _look_up(module, name):
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        return None  # calls that need it say so


def _find(variable):
    """Return (variable, module, name) of a ContextVar, or of what has its methods in the place of "opentelemetry"."""
    if isinstance(variable, str) and variable == "opentelemetry":
        return _find_propagated()
    if not isinstance(variable, contextvars.ContextVar):
        raise TypeError(f"context must be an iterable of ContextVars, in which {variable!r} is none")
    for module_name, module in list(sys.modules.items()):
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if value is variable:
                return variable, module_name, name
    raise ValueError(f"workers cannot find {variable!r}: it is no global of a module")


def _find_propagated():
    module = "pyconc._trace_context"
    try:
        return importlib.import_module(module).propagated, module, "propagated"
    except ImportError as error:
        message = f"context=['opentelemetry'] needs opentelemetry-api: pip install 'pyconc[opentelemetry]' ({error})"
        raise ImportError(message, name=error.name) from error


def _in_copy(function):
    return _InContext(function, contextvars.copy_context())


def _with_values(kind, variables, function):
    values = []
    for variable, module, name in variables:
        value = variable.get(_UNSET)
        if value is not _UNSET:
            values.append((module, name, value))
    return kind(function, values)


class _Carrier:
    """A call's function and what goes with it; to whoever asks for attributes, such as names, it is the function."""

    __slots__ = ("_function", "_goes_along")

    def __init__(self, function, goes_along):
        self._function = function
        self._goes_along = goes_along

    def __getattr__(self, name):
        if name.startswith("__") and name not in ("__name__", "__qualname__", "__module__"):
            raise AttributeError(name)  # such as what pickle looks for
        return getattr(self._function, name)

    def __repr__(self):
        return repr(self._function)


class _InContext(_Carrier):
    __slots__ = ()

    def __call__(self, /, *args, **kwargs):
        return self._goes_along.run(self._function, *args, **kwargs)


class _WithValues(_Carrier):
    __slots__ = ()

    def __reduce__(self):
        return type(self), (self._function, self._goes_along)

    def __call__(self, /, *args, **kwargs):
        return contextvars.copy_context().run(self._call, args, kwargs)

    def _call(self, args, kwargs):
        self._set()
        return self._function(*args, **kwargs)

    def _set(self):
        for module, name, value in self._goes_along:
            getattr(importlib.import_module(module), name).set(value)


class _CoroutineWithValues(_WithValues):
    __slots__ = ()

    def __call__(self, /, *args, **kwargs):
        coroutine = self._await(args, kwargs)
        coroutine.__qualname__ = _core.name_of(self._function)
        return coroutine

    async def _await(self, args, kwargs):
        self._set()  # in the context of the coroutine's own task
        return await self._function(*args, **kwargs)
