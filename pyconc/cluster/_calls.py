"""How a call travels to a worker of a node, and its outcome back: as bytes that only the two ends look into.

A packed value is its pickle; or a pair of the pickle and a list of its buffers, if it was one that only cloudpickle or
a reducer of multiprocessing can pickle. A few numbers and short strings are what scalars.h makes of them, which takes a
tenth of the time and never begins as a pickle does. An exception is packed as one between processes of a machine.

To pickle a function by its name takes several times as long as to pack a number or two, and so does to find it in a
worker. So a call of one that goes by its name is a head, which both ends know again, and its packed arguments: args
alone if the head begins with a zero, (args, kwargs) if it begins with a one, as no packed value does. The head's length
follows, as a byte, and then the function's pickle. A function that has gone by its name goes on to do so, whatever the
program puts in its place: the name is one of the workers' own module.
"""

import pickle
import sys
from asyncio import CancelledError
from contextlib import aclosing
from types import BuiltinFunctionType, FunctionType

from pyconc._core import scalars_dumps, scalars_loads, show_call
from pyconc._current_task import current_task
from pyconc._process import pickling
from pyconc._process.pickling import PROTOCOL

__all__ = [
    "MOST_BYTES",
    "RAISED",
    "STOPPED",
    "TIMED_OUT",
    "WORKER_DIED",
    "check_size",
    "name_of",
    "pack",
    "pack_call",
    "pack_error",
    "run_call",
    "run_chunk",
    "run_coroutine",
    "run_coroutines",
    "run_stream",
    "set_up",
    "size_of",
    "take_ref",
    "unpack",
    "unpack_error",
    "unpack_result",
]

_dumps, _loads = pickle.dumps, pickle.loads
_PICKLE = 0x80  # the first byte of one

# The most that msgpack, in which distributed's messages are written, has room for.
MOST_BYTES = 2**31 - 2**20

# How a call ended that has returned nothing.
RAISED, WORKER_DIED, STOPPED, TIMED_OUT = range(4)

# In a worker, while it unpickles a call: the pyconc.shared.Refs that the call mentions, by number.
_at_hand = None

# In the program: heads by function; in a worker: functions by head. When so many are known, all are forgotten. Any
# thread uses them, and holds the GIL for each step.
_heads, _functions = {}, {}
_MOST_KNOWN = 1024
_HEADS_BEGIN = (0, 1)
_NOTHING = {}
# What may go by its name; no reducer takes the place of a name, and equal ones are the same.
_NAMED = frozenset([FunctionType, BuiltinFunctionType, type])


def pack(value):
    """Return a value as what travels; raises what pickle does, and ValueError if it is too large."""
    packed = scalars_dumps(value)
    if packed is not None:
        return packed
    try:
        packed = _dumps(value, PROTOCOL)
    except Exception as error:
        packed = _with_buffers(*pickling.dumps(value, error))
    else:
        # By name it would be looked for in a worker's __main__, which is another.
        if b"__main__" in packed:
            packed = _with_buffers(*pickling.dumps_by_value(value))
    if len(packed) > MOST_BYTES or type(packed) is not bytes:
        check_size(packed)
    return packed


def pack_call(function, args, kwargs):
    """Return a call as what travels; raises the same."""
    if type(function) not in _NAMED or (head := _heads.get(function) or _make_head(function)) is None:
        return pack((function, args, kwargs))
    arguments = (args, kwargs) if kwargs else args
    scalars = scalars_dumps(arguments)
    if scalars is not None:
        return head + scalars
    try:
        packed = _dumps(arguments, PROTOCOL)
    except Exception as error:
        packed = _with_buffers(*pickling.dumps((function, args, kwargs), error))
    else:
        if b"__main__" in packed:
            return pack((function, args, kwargs))
        packed = (b"\1" + head[1:] if kwargs else head) + packed
    if len(packed) > MOST_BYTES or type(packed) is not bytes:
        check_size(packed)
    return packed


def _make_head(function):
    """Return the head of calls of a function without kwargs; None: it does not go by its name, or that is long."""
    module = sys.modules.get(function.__module__)
    if getattr(module, function.__qualname__, None) is not function:
        return None
    blob = _dumps(function, PROTOCOL)
    length = 2 + len(blob)
    if length > 255 or b"__main__" in blob:
        return None
    if len(_heads) >= _MOST_KNOWN:
        _heads.clear()
    head = _heads[function] = bytes([0, length]) + blob
    return head


def check_size(packed):
    """Raise ValueError if a packed value is too large."""
    if size_of(packed) > MOST_BYTES:
        raise ValueError(
            f"{size_of(packed):,} bytes, so many are the pickle's, are more than the {MOST_BYTES:,} that can be sent"
        )


def _with_buffers(blob, buffers):
    return (blob, [bytearray(buffer.raw()) for buffer in buffers]) if buffers else blob


def unpack(packed):
    """Return the value."""
    if type(packed) is bytes:
        return _loads(packed) if packed[0] == _PICKLE else scalars_loads(packed)
    blob, buffers = packed
    return _loads(blob, buffers=[bytearray(buffer) for buffer in buffers])


def _unpack_call(packed):
    """Return (function, args, kwargs)."""
    if packed[0] not in _HEADS_BEGIN:  # the first byte, or the first of a pair
        return unpack(packed)
    length = packed[1]
    head = packed[:length]
    function = _functions.get(head)
    if function is None:
        if len(_functions) >= _MOST_KNOWN:
            _functions.clear()
        function = _functions[head] = _loads(head[2:])
    if packed[0] == 0:
        return function, unpack(packed[length:]), _NOTHING
    args, kwargs = unpack(packed[length:])
    return function, args, kwargs


def size_of(packed):
    """Return how many bytes a packed value has."""
    if isinstance(packed, bytes):
        return len(packed)
    blob, buffers = packed
    return len(blob) + sum(map(len, buffers))


# --- In a worker ------------------------------------------------------------------------------------------------------


def set_up(packed):
    """Be a worker's initializer: call the program's, which came packed with its arguments."""
    initializer, initargs = unpack(packed)
    initializer(*initargs)


def run_call(packed, refs=None):
    """Run a packed (function, args, kwargs); return its packed result, or how it ended and the packed exception.

    A result that is no bytes comes as (None, packed result). refs: those that the call mentions, see _refs.py; None:
    it mentions none.
    """
    try:
        function, args, kwargs = _unpack_call(packed) if refs is None else _unpack_with(packed, refs)
    except BaseException as error:
        return _not_unpacked(error)
    show_call(function)
    try:
        result = function(*args, **kwargs)
    except BaseException as error:
        task = current_task()  # None in a process that the call has forked
        if task is not None and task.cancelled():
            raise  # the pool drops it, and says that the call was stopped
        return RAISED, pack_error(error)
    return _returned(result)


def run_coroutine(packed, refs=None):
    """Do the same with a coroutine function, in the event loop of a CoroutinePool's worker: return a coroutine.

    It has the function's name, which the worker's tasks have from it.
    """
    try:
        function, args, kwargs = _unpack_call(packed) if refs is None else _unpack_with(packed, refs)
    except BaseException as error:
        return _tell(_not_unpacked(error))
    coroutine = _run(function, args, kwargs)
    coroutine.__qualname__ = name_of(function)
    return coroutine


async def _tell(outcome):
    return outcome


async def _run(function, args, kwargs):
    try:
        result = await function(*args, **kwargs)
    except CancelledError:
        raise  # the pool says so
    except BaseException as error:
        return RAISED, pack_error(error)
    return _returned(result)


async def run_stream(packed, refs=None):
    """Iterate over an async generator there: yield (packed item,); (how it ended, packed exception) if it raises."""
    try:
        function, args, kwargs = _unpack_call(packed) if refs is None else _unpack_with(packed, refs)
    except BaseException as error:
        yield _not_unpacked(error)
        return
    try:
        async with aclosing(function(*args, **kwargs)) as generator:
            async for item in generator:
                yield (pack(item),)
    except (CancelledError, GeneratorExit):
        raise  # the pool has closed the stream
    except BaseException as error:
        yield RAISED, pack_error(error)


def _unpack_with(packed, refs):
    global _at_hand
    _at_hand = refs
    try:
        return _unpack_call(packed)
    finally:
        _at_hand = None


def take_ref(number):
    """Return what stands in the place of a Ref in a call that is being unpickled."""
    return _at_hand[number]


def _not_unpacked(error):
    return RAISED, pickle.dumps(pickling.pack_unpickling_error(error))


def _returned(result):
    try:
        packed = pack(result)
    except BaseException as error:
        return RAISED, pickle.dumps(pickling.pack_refusal(error, result))
    return packed if type(packed) is bytes else (None, packed)


def run_chunk(function, chunk):
    """Run a call of map() that stands for several."""
    return [function(*args) for args in chunk]


async def run_coroutines(function, chunk):
    """Do the same with a coroutine function: one after the other."""
    return [await function(*args) for args in chunk]


def pack_error(error):
    """Return an exception as what travels."""
    return pickle.dumps(pickling.pack_exception(error))


# --- In the program ---------------------------------------------------------------------------------------------------


def name_of(task):
    """Return what a callable is called."""
    return getattr(task, "__qualname__", None) or type(task).__name__


def unpack_result(packed):
    """Return (result, None), or (None, exception) if that cannot be unpickled."""
    try:
        return unpack(packed), None
    except BaseException as error:
        return None, pickling.outcome_error(error)


def unpack_error(how, packed, address, task):
    """Return the exception of a call of task that has ended so on the node with this address."""
    error = pickling.rebuild_exception(pickle.loads(packed))
    if how == WORKER_DIED:
        error.task, error.task_name = task, name_of(task)
        message = error.args[0]
        for function in (run_stream, run_coroutine, run_call):
            message = message.replace(f"{function.__module__}.{function.__qualname__}", error.task_name)
        error.args = (f"{message} (on node {address})",)
    elif type(error) is pickling.TaskUnpicklable:
        hint = ""
        if isinstance(error.__cause__, ModuleNotFoundError):
            hint = "; a Client's upload_file() brings nodes a module, and dask's PipInstall plugin a package"
        error.args = (f"{error.args[0]} (on node {address}){hint}",)
    return error
