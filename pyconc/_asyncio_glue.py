"""The parts of asyncio that the loop bridge needs; imported when the first event loop meets an executor."""

import contextlib
import gc
import weakref
from asyncio import base_events, current_task, futures
from asyncio.events import _get_running_loop
from concurrent.futures import Executor
from functools import partial
from inspect import CO_COROUTINE, CO_ITERABLE_COROUTINE
from types import BuiltinFunctionType, CodeType, FunctionType

__all__ = ["adopt_loop", "adopt_running_loop", "convert_exception", "describe", "running_task"]

_COROUTINE = CO_COROUTINE | CO_ITERABLE_COROUTINE


def describe():
    """Return what csrc/module.c keeps; code objects it cannot find are None, and then match nothing.

    (code of BaseEventLoop.run_in_executor, code of ours, code of the closure that wrap_future() hangs on a future,
    index of the closure's cells dest_loop and destination, convert_exception, asyncio's _get_running_loop, adopt_loop)
    """
    standard = getattr(base_events.BaseEventLoop.run_in_executor, "__code__", None)
    call_set_state = _nested_code(getattr(futures, "_chain_future", None), "_call_set_state")
    cells = call_set_state.co_freevars if call_set_state else ()
    if "dest_loop" not in cells or "destination" not in cells:
        call_set_state, cells = None, ("dest_loop", "destination")
    return (
        standard,
        _nested_code(_run_in_executor_of, "run_in_executor"),
        call_set_state,
        cells.index("dest_loop"),
        cells.index("destination"),
        convert_exception,
        _get_running_loop,
        adopt_loop,
    )


def _nested_code(function, name):
    code = getattr(function, "__code__", None)
    for constant in code.co_consts if code else ():
        if isinstance(constant, CodeType) and constant.co_name == name:
            return constant
    return None


def adopt_loop(loop):
    """Give a loop whose run_in_executor is compiled, as uvloop's is, one that submit() can recognise as its caller.

    It is an attribute of this loop only, as is a set_default_executor that tells it of another default executor. What a
    loop class written in Python says is left alone.
    """
    compiled = getattr(type(loop), "run_in_executor", None)
    if compiled is not None and not isinstance(compiled, FunctionType) and "run_in_executor" not in vars(loop):
        loop.run_in_executor, set_default_executor = _run_in_executor_of(weakref.ref(loop))
        if "set_default_executor" not in vars(loop):
            loop.set_default_executor = set_default_executor


def adopt_running_loop():
    """Do so for the loop that runs in this thread, if one does and can be."""
    loop = _get_running_loop()
    if loop is not None:
        with contextlib.suppress(AttributeError):
            adopt_loop(loop)


def running_task():
    """Return the task that runs in this thread; None if there is none."""
    loop = _get_running_loop()
    return None if loop is None else current_task(loop)


def _run_in_executor_of(reference):
    default = None  # a reference to the loop's default executor, once one was looked for; it may be dead

    def run_in_executor(executor, func, *args):
        """Do what the loop's own does, for executors and functions that need none of its checks."""
        nonlocal default
        self = reference()
        if self is None:
            raise RuntimeError("Event loop is closed")
        if type(func) is partial and type(func.func) is BuiltinFunctionType and not func.keywords:
            func, args = func.func, (*func.args, *args)  # as asyncio.to_thread() makes them
        is_default = executor is None
        if is_default and default is not None:
            executor = default()
        if executor is None or self.is_closed() or not _is_plain(func):
            future = type(self).run_in_executor(self, None if is_default else executor, func, *args)
            if is_default and default is None and vars(self).get("set_default_executor") is set_default_executor:
                default = _default_executor_of(self)
            return future
        future = executor.submit(func, *args)
        # What submit() made for us is the loop's own already.
        return future if isinstance(future, futures.Future) else futures.wrap_future(future, loop=self)

    def set_default_executor(executor):
        """Set the executor that run_in_executor() uses when it is given None."""
        nonlocal default
        self = reference()
        type(self).set_default_executor(self, executor)
        default = None

    return run_in_executor, set_default_executor


def _default_executor_of(loop):
    """Return a weak reference to the only executor in the fields of a loop that has some in C; or to none."""
    found = [field for field in gc.get_referents(loop) if isinstance(field, Executor)]
    return weakref.ref(found[0]) if len(found) == 1 else _no_executor


def _no_executor():
    return None


def _is_plain(func):
    """Whether a callable is certainly not a coroutine function, without asking inspect, which takes a microsecond."""
    if type(func) is FunctionType:
        return not func.__code__.co_flags & _COROUTINE and not func.__dict__
    return type(func) is BuiltinFunctionType


def convert_exception(exception):
    """Return what an asyncio future is to raise for an exception that a task raised, as asyncio converts it.

    Older asyncios cannot set a StopIteration, and leave its awaiter hanging; newer ones raise RuntimeError.
    """
    if isinstance(exception, StopIteration):
        error = RuntimeError("StopIteration interacts badly with generators and cannot be raised into a Future")
        error.__cause__ = error.__context__ = exception
        return error
    return futures._convert_future_exc(exception)
