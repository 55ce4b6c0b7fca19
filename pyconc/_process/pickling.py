"""Other ways to pickle, which the C codec tries when pickle fails; and exceptions that travel between processes."""

import contextvars
import copyreg
import functools
import io
import pickle
import signal
import sys
from collections import ChainMap
from concurrent.futures.process import BrokenProcessPool, _RemoteTraceback
from importlib.machinery import ModuleSpec
from multiprocessing.reduction import ForkingPickler
from traceback import format_exception, walk_tb
from types import FunctionType, MemberDescriptorType

from pyconc._process.interruption import is_from_handler

__all__ = [
    "PROTOCOL",
    "TaskUnpicklable",
    "WorkerDied",
    "are_own",
    "call_error",
    "describe_end",
    "dumps",
    "dumps_by_value",
    "dumps_plainly",
    "dumps_registered",
    "find_prefix",
    "format_error",
    "lost_worker_error",
    "main_of_worker",
    "modules_of_known_reducers",
    "name_memory_limit",
    "on_failure",
    "on_refusal",
    "outcome_error",
    "pack_exception",
    "pack_refusal",
    "pack_unpickling_error",
    "quote",
    "rebuild_exception",
    "registered_reducers",
    "set_traceback",
    "shared_types",
    "worker_globals",
]

PROTOCOL = 5


class WorkerDied(BrokenProcessPool):
    """The worker process that ran a task died: that task is lost, and no other.

    Raised by the task's future. `pid` is the worker's; `exitcode` is as multiprocessing.Process has it: a signal's
    number is negative, None is unknown; `signal` is the signal's name, or None; `task` is the callable, `task_name` its
    name.

    `stack` is text: the Python stack of each thread of the worker when SIGSEGV, SIGBUS, SIGFPE, SIGILL or SIGABRT ended
    it, and from Python 3.14 on the C stack too; None if it left none, or the program has enabled faulthandler itself.
    `ran_for` is for how many seconds the task had run, to some milliseconds, and `rss` how many bytes the worker had in
    memory at most; None is unknown, as `rss` is with an mp_context. `oom`: the kernel ended it for want of memory.
    `last_log`: the record that it has logged last, in an executor with forward_logs=True, as text: "INFO:name:message",
    with a traceback if it has one; None: it has logged nothing.

    It can be pickled with all of that if `task` can.

        >>> import os
        >>> with pyconc.ProcessPoolExecutor(max_workers=1) as pool:
        ...     error = pool.submit(os._exit, 3).exception()
        ...     print(type(error).__name__, error.exitcode, error.signal, error.task)
        ...     pool.submit(abs, -1).result()
        WorkerDied 3 None <built-in function _exit>
        1
    """

    __module__ = "pyconc"

    def __init__(
        self,
        message,
        pid=None,
        exitcode=None,
        signal=None,
        task=None,
        *,
        task_name=None,
        stack=None,
        ran_for=None,
        rss=None,
        oom=False,
        last_log=None,
    ):
        super().__init__(message)
        self.pid = pid
        self.exitcode = exitcode
        self.signal = signal
        self.task = task
        self.task_name = task_name
        self.stack = stack
        self.ran_for = ran_for
        self.rss = rss
        self.oom = oom
        self._last_log = last_log

    @property
    def last_log(self):
        # What the worker has sent is handled before the future tells of its death, and after this was made.
        last = self._last_log
        return last if last is None or isinstance(last, str) else last.text()


def describe_end(code):
    """Return how a process with this exit code ended, in words, and the name of the signal if one ended it."""
    if code is None:
        return "ended in an unknown way", None
    if code >= 0:
        return f"ended with exit code {code}", None
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was ended by {name}", name


class TaskUnpicklable(BrokenProcessPool, pickle.PicklingError, pickle.UnpicklingError):
    """A task's function, arguments or result could not be rebuilt, or what it raised could not travel.

    Raised by the task's future; an error in pickling arguments or a result is raised there as it is. It says what was
    lost, and where, and `__cause__` is the reason, or the exception in the worker. This is a
    BrokenProcessPool because the standard library raises that then, but the executor goes on.

        >>> class Refused(Exception):
        ...     def __init__(self, code, reason):
        ...         super().__init__(f"{code} ({reason})")
        >>> def fail():
        ...     raise Refused(403, "no key")
        >>> with pyconc.ProcessPoolExecutor(max_workers=1) as pool:
        ...     error = pool.submit(fail).exception()
        ...     print(type(error).__name__, "-", error)
        ...     pool.submit(abs, -1).result()
        TaskUnpicklable - the task raised Refused: 403 (no key), which could not be unpickled here (TypeError: ...)
        1
    """

    __module__ = "pyconc"


# ---- other ways to pickle ----


def _multiprocessing_reducers():
    """Return the reducers of multiprocessing: for connections, sockets, and types that were registered with it."""
    reducers = dict(ForkingPickler._extra_reducers)
    synchronize = sys.modules.get("multiprocessing.synchronize")
    if synchronize is not None and sys.version_info < (3, 11):
        for name in ("Lock", "RLock", "Semaphore", "BoundedSemaphore"):
            reducers[getattr(synchronize, name)] = _reduce_lock
    return reducers


def _reduce_lock(lock):
    # From Python 3.11 on the lock itself raises this; before, the process that unpickles it crashes in using it.
    if lock._semlock.name is None:
        raise RuntimeError("a lock of the fork context cannot be shared with a process that was not forked")
    return lock.__reduce_ex__(PROTOCOL)


# The reducers of multiprocessing's own types, and those that programs register.
registered_reducers = ForkingPickler._extra_reducers  # type: ignore[attr-defined]


def are_own(reducers):
    """Tell whether some of these reducers are not multiprocessing's, nor ours: then all is pickled with them."""
    return any(getattr(reduce, "__module__", None) not in modules_of_known_reducers for reduce in reducers.values())


# The types of pyconc.shared, which adds them: what has one of them in it is pickled with these reducers.
shared_types: set[type] = set()


# Their reducers are for what pickle refuses, and then they are tried.  pyconc.shared adds itself.
modules_of_known_reducers = {
    f"multiprocessing.{name}"
    for name in ("connection", "heap", "managers", "reduction", "resource_sharer", "sharedctypes", "synchronize")
}


# These return (pickle, buffers) of a value.  beside: None, or the large strings that go beside the pickle, as the memo
# that the pickler begins with, see codec.h.


_steps_back = contextvars.ContextVar("pyconc_pickle", default=None)  # of the pickle that is under way, or None


def on_failure(step_back):
    """Have the pickle that is under way call this if it fails: a reducer has counted on it."""
    steps = _steps_back.get()
    if steps is not None:
        steps.append(step_back)


def _dump(make_pickler, value, beside):
    file, buffers, steps = io.BytesIO(), [], []
    pickler = make_pickler(file, protocol=PROTOCOL, buffer_callback=buffers.append)
    if beside is not None:
        pickler.memo = beside
    outer = _steps_back.set(steps)
    try:
        pickler.dump(value)
    except BaseException:
        for step_back in steps:
            step_back()
        raise
    finally:
        _steps_back.reset(outer)
    return file.getvalue(), buffers


def dumps_plainly(value, error=None, by_value=None, beside=None):
    """Pickle as pickle.dumps() does."""
    return _dump(pickle.Pickler, value, beside)


def _registered_pickler(file, **options):
    pickler = pickle.Pickler(file, **options)
    pickler.dispatch_table = copyreg.dispatch_table | _multiprocessing_reducers()
    return pickler


def dumps_registered(value, error=None, by_value=None, beside=None):
    """Pickle with the reducers that were registered with multiprocessing."""
    return _dump(_registered_pickler, value, beside)


def _dumps_with_cloudpickle(value, by_value, beside):
    return _dump(functools.partial(_make_pickler_by_value(), by_value=by_value), value, beside)


def dumps(value, error, by_value=None, beside=None):
    """Pickle a value that pickle.dumps() has refused with an error, or raise that error."""
    if error is not None and is_from_handler(error):
        raise error
    try:
        return dumps_registered(value, beside=beside)
    except Exception as reason:
        if is_from_handler(reason):
            raise
        # What the reducers leave over is what is wrong: the first error may be of what they can do.
        if error is None or _describe(reason) != _describe(error):
            error = reason
    try:
        return _dumps_with_cloudpickle(value, by_value, beside)
    except Exception as reason:
        if is_from_handler(reason):
            raise
    raise error


def dumps_by_value(value, error=None, by_value=None, beside=None):
    """Pickle a value that mentions `__main__`, for a process that has another `__main__`."""
    try:
        return _dumps_with_cloudpickle(value, by_value, beside)
    except ImportError as missing:
        raise pickle.PicklingError(
            f"{value!r} is defined in __main__, which the workers of this executor do not have, and pyconc lacks a "
            f"package that it requires: {missing}"
        ) from None


# ---- functions of `__main__`, by value ----
#
# cloudpickle gives the functions of each pickle globals of their own.  In a worker, functions of `__main__` get the
# globals of its `__main__` instead, so that tasks find the values that the initializer and other tasks have set there.
#
# A definition that both processes have travels by name, so that it stays one object: a task that compares a value with
# a member of an enumeration, or calls isinstance(), finds the class that it knows.

worker_globals = None  # in a process that runs tasks for another: those that functions of its `__main__` have
main_of_worker = None  # in a worker: whether a definition in `__main__` is none that it began with


def _is_found_in_main(definition):
    if getattr(definition, "__module__", None) != "__main__":
        return False
    found = sys.modules.get("__main__")
    for name in definition.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is definition


def _with_slots(definition, reduced):
    """Return what cloudpickle makes of a class, which leaves out the slots, with these."""
    made_by, (kind, name, bases, namespace, *identity), (attributes, slots), *rest = reduced
    attributes = {
        name: value
        for name, value in attributes.items()
        if not (type(value) is MemberDescriptorType and value.__objclass__ is definition)
    }
    namespace = {**namespace, "__slots__": vars(definition)["__slots__"]}
    return (made_by, (kind, name, bases, namespace, *identity), (attributes, slots), *rest)


@functools.cache
def _make_pickler_by_value():
    import cloudpickle  # type: ignore[import-untyped]

    class PicklerByValue(cloudpickle.Pickler):
        def __init__(self, file, by_value, **options):
            super().__init__(file, **options)
            self.by_value = by_value or main_of_worker or (lambda definition: True)
            self.main = vars(sys.modules["__main__"])
            self.globals_ref[id(self.main)] = _MainGlobals(self.main)

        def reducer_override(self, value):
            is_function, is_class = type(value) is FunctionType, issubclass(type(value), type)
            if (is_function or is_class) and _is_found_in_main(value) and not self.by_value(value):
                return NotImplemented
            reduced = super().reducer_override(value)
            if reduced is NotImplemented:
                return reduced
            if is_function and value.__globals__ is self.main and len(reduced) == 6:
                made_by, args, state, *nothing, setter = reduced
                return (made_by, args, (setter, state), *nothing, set_state_in_main)
            if is_class and "__slots__" in vars(value) and reduced[0] is cloudpickle.cloudpickle._make_skeleton_class:
                return _with_slots(value, reduced)
            return reduced

    PicklerByValue.dispatch_table = ChainMap(
        {io.TextIOWrapper: _reduce_text_file},
        PicklerByValue.dispatch_table,
        _multiprocessing_reducers(),
    )
    return PicklerByValue


def _reduce_text_file(file):
    """Have the program's streams be the worker's, and refuse other text files, as pickle does.

    cloudpickle would make a StringIO of them, and what a task writes to that would be lost.
    """
    for name in ("stdout", "stderr"):
        if file is getattr(sys, name):
            return getattr, (sys, name)
    return file.__reduce_ex__(PROTOCOL)


class _MainGlobals:
    """In a pickle, the globals of `__main__`."""

    def __init__(self, main):
        self.about = {name: main[name] for name in ("__package__", "__name__", "__file__") if name in main}
        spec = main.get("__spec__")
        if spec is not None:
            # For relative imports.
            self.about["__spec__"] = ModuleSpec(spec.name, None, is_package=spec.submodule_search_locations is not None)

    def __reduce__(self):
        return main_globals, (self.about,)


def main_globals(about):
    """Return the globals for a function that is unpickled here."""
    if worker_globals is None:
        return about
    for name, value in about.items():
        if worker_globals.get(name) is None:
            worker_globals[name] = value
    return worker_globals


def set_state_in_main(function, state):
    """Set such a function's state; of its globals, set only missing ones, and newer definitions."""
    setter, (attributes, slots) = state
    if worker_globals is not None:
        main, given = function.__globals__, slots["__globals__"]
        kinds = (type, FunctionType)
        slots["__globals__"] = {
            name: value
            for name, value in given.items()
            if name not in main or (isinstance(value, kinds) and isinstance(main[name], kinds))
        }
    setter(function, (attributes, slots))


# ---- exceptions, at the worker's end ----


def format_error(error):
    """Return what the interpreter would print of an exception, or as much of it as can be had."""
    try:
        return "".join(format_exception(type(error), error, error.__traceback__))
    except BaseException:  # of code of the error's own, or a warning that is an error: without source lines and causes
        places = [
            f'  File "{frame.f_code.co_filename}", line {line}, in {frame.f_code.co_name}\n'
            for frame, line in walk_tb(error.__traceback__)
        ]
        return "".join(["Traceback (most recent call last):\n", *places, _describe(error), "\n"])


def quote(error):
    return f'\n"""\n{format_error(error)}"""'


# An exception of the program may refuse to have attributes set, as one does that is a frozen dataclass.
set_traceback = vars(BaseException)["__traceback__"].__set__
_set_cause = vars(BaseException)["__cause__"].__set__


def pack_exception(error, what="task"):
    """Return a value that can be pickled, from which rebuild_exception() makes an exception like this one."""
    text = quote(error)
    set_traceback(error, None)  # Its frames refer to everything in their scope.
    try:
        blob = pickle.dumps(error, PROTOCOL)
    except BaseException as first:
        try:
            blob, buffers = dumps(error, first)
            blob = None if buffers else blob
        except BaseException as reason:
            if on_refusal is None or what != "task":
                return what, _describe(error), text, None, _describe(reason)
            blob = pickle.dumps(on_refusal(reason, error), PROTOCOL)
    return what, _describe(error), text, blob, None


# In a worker: called with the error and the result or exception that could not be pickled, it returns what the call is
# to raise, which can be.
on_refusal = None


def pack_refusal(error, result):
    """Pack the exception of a call whose result cannot be pickled."""
    return pack_exception(error if on_refusal is None else on_refusal(error, result))


def name_memory_limit(error, limit):
    """Return what a call raises in place of a MemoryError, because it was not to have more than so many bytes."""
    what = f"{error}: " if str(error) else ""
    named = MemoryError(f"{what}a call may have {limit} bytes more than its worker has as it begins (memory_limit)")
    named.__cause__ = error
    return named


def find_prefix(results):
    """Return (results that can be pickled, packed exception of the first that cannot) of a list that cannot."""
    for count, result in enumerate(results):
        try:
            pickle.dumps(result, PROTOCOL)
        except BaseException as first:
            try:
                dumps(result, first)
            except BaseException as error:
                return results[:count], pack_exception(error)
    raise pickle.PicklingError("the results can only be pickled one by one")


def pack_unpickling_error(error):
    """Pack an exception that was raised while the arguments of a call were unpickled."""
    return pack_exception(error, "task" if isinstance(error, MemoryError) else "arguments")


def _describe(error):
    kind = type(error)
    name = (
        kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    )
    try:
        return f"{name}: {error}"
    except BaseException:
        return name


# ---- exceptions, at the executor's end ----


def rebuild_exception(packed):
    """Return the exception that a task's future gets."""
    what, description, text, blob, reason = packed
    error, lost = None, "pickled in the worker"
    if blob is not None:
        try:
            error = pickle.loads(blob)
            if not isinstance(error, BaseException):
                raise TypeError(f"its pickle gives a {type(error).__name__}")
            _set_cause(error, _RemoteTraceback(text))
        except BaseException as failure:
            if is_from_handler(failure):
                raise
            error, reason, lost = None, _describe(failure), "unpickled here"
    if what == "task":
        if error is not None:
            return error
        error = TaskUnpicklable(f"the task raised {description}, which could not be {lost} ({reason})")
        error.__cause__ = _RemoteTraceback(text)
        return error
    cause = error if error is not None else _RemoteTraceback(text)
    error = TaskUnpicklable(f"the task's function or arguments could not be unpickled in the worker: {description}")
    error.__cause__ = cause
    return error


def call_error(error):
    """Return the exception for a call that could not be pickled: the pickling error, as in the standard library."""
    cause = _RemoteTraceback(quote(error))
    set_traceback(error, None)
    _set_cause(error, cause)
    return error


def lost_worker_error(task):
    """Return the exception for a call that only one worker could run, which has died."""
    return WorkerDied("the worker process that this call was for has ended", task=task)


def outcome_error(error):
    """Return the exception for an outcome that could not be unpickled."""
    if isinstance(error, MemoryError):
        return error
    failure = TaskUnpicklable(f"the task's result could not be unpickled here: {_describe(error)}")
    # As text: before Python 3.11 its frames lead to the result handler's, and that would live as long as the error.
    failure.__cause__ = call_error(error)
    return failure
