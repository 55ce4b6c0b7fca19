"""asyncio, with pyconc's threads: change ``import asyncio`` to ``from pyconc import asyncio``.

Everything here is the standard module's, with these exceptions:

- Loops made by `new_event_loop`, `get_event_loop`, `run` and `Runner` have pyconc's ThreadPoolExecutor as their default
  executor, which `to_thread` and ``run_in_executor(None, ...)`` use.  `get_event_loop` and `to_thread` also give it to
  asyncio's loops that other code has made, if they have no default executor yet.
- `get_event_loop` makes a loop in the main thread when there is none, as it did until Python 3.13, and never warns.
- `wait` accepts coroutines, as it did until Python 3.10, and never warns.
- `gather` hands calls of this module's `to_thread` to their threads at once, without a task for each.

Submodules (`asyncio.subprocess`, `asyncio.events`, ...) are reached as attributes and are the standard ones.
"""

# Type checkers read asyncio.pyi instead.

import asyncio
import gc
import inspect
import sys
import threading
import types
import weakref
from asyncio import *  # noqa: F403
from concurrent.futures import Executor
from contextvars import copy_context
from functools import partial

from pyconc._standard_names import names_of
from pyconc.thread_pool import ThreadPoolExecutor

__all__ = asyncio.__all__

_HIDDEN = object()


__getattr__ = names_of(asyncio, __name__)


def __dir__():
    return dir(asyncio)


def _equip(loop, *, new=False):
    """Have a loop without a default executor make one of pyconc's when it first runs something in threads.

    The loop does not make it earlier, because shutting down even an unused default executor takes a thread, and there
    may be none when asyncio.run() is called at exit.

    Loops that are not asyncio's do not show whether they have a default executor; such a loop counts as having none
    only if it is `new`, and refers to no executor that its maker may have set.
    """
    if "run_in_executor" in getattr(loop, "__dict__", ("run_in_executor",)):
        return loop
    executor = getattr(loop, "_default_executor", _HIDDEN)
    if executor is _HIDDEN and (not new or _refers_to_an_executor(loop)):
        return loop
    if executor is not _HIDDEN and executor is not None:
        return loop
    reference = weakref.ref(loop)

    def run_in_executor(executor, func, *args):
        loop = reference()
        if vars(loop).get("set_default_executor") is set_default_executor:
            try:
                loop.set_default_executor(ThreadPoolExecutor(thread_name_prefix="asyncio"))
            except NotImplementedError:
                pass  # This loop cannot have a default executor.
        return type(loop).run_in_executor(loop, executor, func, *args)

    def set_default_executor(executor):
        loop = reference()
        for name in ("run_in_executor", "set_default_executor"):
            vars(loop).pop(name, None)
        loop.set_default_executor(executor)

    # These hide the methods of the same names until one of them is called.
    loop.run_in_executor = run_in_executor
    loop.set_default_executor = set_default_executor
    return loop


def _refers_to_an_executor(loop):
    """Tell whether a loop holds an executor, in a field of C or in its dictionary."""
    referents = gc.get_referents(loop)
    held = [value for referent in referents if type(referent) is dict for value in referent.values()]
    return any(isinstance(referent, Executor) for referent in (*referents, *held))


def new_event_loop():
    """Create and return a new event loop, whose default executor is pyconc's.

    Raises what the policy's own new_event_loop() raises.

        >>> from pyconc import asyncio
        >>> loop = asyncio.new_event_loop()
        >>> loop.run_until_complete(loop.run_in_executor(None, abs, -1))
        1
        >>> loop.close()
    """
    return _equip(asyncio.new_event_loop(), new=True)


def get_event_loop():
    """Return the running event loop, or else the current one of this thread.

    If the main thread has none, make one, and set it; in other threads, raise RuntimeError.

        >>> from pyconc import asyncio
        >>> loop = asyncio.get_event_loop()
        >>> loop.run_until_complete(asyncio.to_thread(abs, -1))
        1
        >>> loop.close()
    """
    loop = asyncio._get_running_loop() or _current_loop()
    if loop is not None:
        return _equip(loop)
    loop = new_event_loop()
    asyncio.set_event_loop(loop)
    return loop


def _current_loop():
    in_main_thread = threading.current_thread() is threading.main_thread()
    try:
        if sys.version_info >= (3, 14):
            return asyncio.get_event_loop()
        policy = asyncio.get_event_loop_policy()
        if in_main_thread and type(policy).get_event_loop is asyncio.events.BaseDefaultEventLoopPolicy.get_event_loop:
            # This method makes a loop of its own when there is none, and warns of it on some versions.
            return policy._local._loop
        return policy.get_event_loop()
    except RuntimeError:
        if in_main_thread:
            return None
        raise


if sys.version_info >= (3, 11):

    class Runner(asyncio.Runner):
        """A context manager that runs coroutines on one event loop, whose default executor is pyconc's.

        debug: whether the loop is in debug mode; None: as asyncio's settings say. loop_factory: makes the loop;
        default: asyncio.new_event_loop. As asyncio.Runner, for the thread that makes it. Leaving the context cancels
        the tasks that are left, and closes the loop. Raises RuntimeError if another loop runs in this thread, or if it
        is used again after its end.

            >>> from pyconc import asyncio
            >>> with asyncio.Runner() as runner:
            ...     runner.run(asyncio.to_thread(abs, -1))
            1
        """

        def __init__(self, *, debug=None, loop_factory=None):
            super().__init__(debug=debug, loop_factory=loop_factory)
            self._equipped = False

        def __enter__(self):
            super().__enter__()
            self.get_loop()
            return self

        def get_loop(self):
            """Return the event loop; raise RuntimeError after the Runner's end.

            >>> from pyconc import asyncio
            >>> with asyncio.Runner() as runner:
            ...     runner.get_loop().is_running()
            False
            """
            loop = super().get_loop()
            if not self._equipped:
                self._equipped = True
                _equip(loop, new=True)
            return loop

        def run(self, coro, *, context=None):
            """Run the coroutine coro on the event loop; return its result, or raise its exception.

            context: the contextvars.Context to run it in; default: the Runner's own.

            >>> from pyconc import asyncio
            >>> with asyncio.Runner() as runner:
            ...     runner.run(asyncio.to_thread(abs, -1))
            1
            """
            if asyncio._get_running_loop() is None:  # otherwise the standard method raises
                self.get_loop()
            return super().run(coro, context=context)

    def run(main, *, debug=None, loop_factory=None):
        if asyncio._get_running_loop() is not None:
            raise RuntimeError("asyncio.run() cannot be called from a running event loop")
        with Runner(debug=debug, loop_factory=loop_factory) as runner:
            return runner.run(main)

else:

    async def _on_equipped_loop(main):
        _equip(asyncio.get_running_loop(), new=True)
        return await main

    def run(main, *, debug=None):
        if asyncio._get_running_loop() is None and asyncio.iscoroutine(main):
            wrapper = _on_equipped_loop(main)
            wrapper.__name__, wrapper.__qualname__ = main.__name__, main.__qualname__
            main = wrapper
        return asyncio.run(main, debug=debug)


run.__doc__ = """Run the coroutine main on a new event loop, whose default executor is pyconc's; return its result.

debug: whether the loop is in debug mode; None: as asyncio's settings say. loop_factory (from Python 3.11 on): makes the
loop; default: asyncio.new_event_loop. At the end, tasks that are left are cancelled, and the loop is closed. Raises the
coroutine's exception, and RuntimeError if a loop runs in this thread already.

    >>> from pyconc import asyncio
    >>> asyncio.run(asyncio.to_thread(abs, -1))
    1
"""


async def to_thread(func, /, *args, **kwargs):
    """Run func(*args, **kwargs) in a thread of the loop's default executor; return its result.

    The function sees the context variables of the caller. Raises the function's exception.

        >>> from pyconc import asyncio
        >>> asyncio.run(asyncio.to_thread(int, "ff", base=16))
        255
    """
    loop = _equip(asyncio.get_running_loop())
    if asyncio.to_thread is not asyncio.threads.to_thread:  # which other libraries replace, to see what runs
        return await asyncio.to_thread(func, *args, **kwargs)
    # What that does, without a coroutine of its own.
    return await loop.run_in_executor(None, copy_context().run, partial(func, **kwargs) if kwargs else func, *args)


def gather(*coros_or_futures, return_exceptions=False):
    """Return a future of the list of the results of coros_or_futures, in their order.

    return_exceptions: whether exceptions stand in that list; otherwise awaiting the future raises the first one, and
    the others run on. Cancelling the future cancels what has not ended. Raises TypeError for what cannot be awaited.

    Of calls of this module's to_thread() no task is made: they go to their threads as gather() is called, and not when
    the loop next runs, and asyncio.all_tasks() does not name them. On a loop whose tasks the program makes itself (a
    task factory, a create_task() of its own) or that is in debug mode, everything is the standard function's.

        >>> from pyconc import asyncio
        >>> async def main():
        ...     return await asyncio.gather(asyncio.to_thread(abs, -1), asyncio.to_thread(abs, -2))
        >>> asyncio.run(main())
        [1, 2]
    """
    loop = asyncio._get_running_loop()
    if loop is None or not _makes_plain_tasks(loop) or len(set(coros_or_futures)) != len(coros_or_futures):
        return asyncio.gather(*coros_or_futures, return_exceptions=return_exceptions)
    _equip(loop)
    calls = [_call_in_thread(loop, awaitable) for awaitable in coros_or_futures]
    gathered = asyncio.gather(*calls, return_exceptions=return_exceptions)
    gathered.add_done_callback(_end_the_program)
    return gathered


def _makes_plain_tasks(loop):
    """Tell whether nobody would miss a task that is not made: neither the program nor a library that looks on."""
    if asyncio.to_thread is not asyncio.threads.to_thread or asyncio.gather is not asyncio.tasks.gather:
        return False
    if loop.get_debug() or loop.get_task_factory() is not None:
        return False
    method = loop.create_task
    if type(method) is not types.MethodType:
        return False
    return method.__func__ is _CREATE_TASK or type(method.__func__).__name__ == "cython_function_or_method"  # uvloop's


_CREATE_TASK = asyncio.BaseEventLoop.create_task
_CODE_OF_TO_THREAD = to_thread.__code__  # a program's tests may put something else in its place


def _call_in_thread(loop, awaitable):
    """Return the loop's future of a call of to_thread() that has not begun; return anything else as it is."""
    if (
        type(awaitable) is not types.CoroutineType
        or awaitable.cr_code is not _CODE_OF_TO_THREAD
        or inspect.getcoroutinestate(awaitable) != inspect.CORO_CREATED
    ):
        return awaitable
    arguments = awaitable.cr_frame.f_locals
    func, args, kwargs = arguments["func"], arguments["args"], arguments["kwargs"]
    awaitable.close()
    try:
        return loop.run_in_executor(None, copy_context().run, partial(func, **kwargs) if kwargs else func, *args)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        future = loop.create_future()
        future.set_exception(error)
        return future


def _end_the_program(gathered):
    """Raise out of the loop what ends the program, as the task does that it comes out of."""
    if gathered.cancelled():
        return
    # exception() would count as a look at it, and an exception that nobody looks at is to be reported.
    error = gathered._exception
    for outcome in gathered.result() if error is None else [error]:
        if isinstance(outcome, (KeyboardInterrupt, SystemExit)):
            raise outcome


async def wait(fs, *, timeout=None, return_when=asyncio.ALL_COMPLETED):
    """Wait for the futures, tasks and coroutines in fs; return two sets of futures: (done, pending).

    Coroutines are wrapped in tasks, which start in the order given. timeout: the most seconds to wait; None: without
    limit. return_when: FIRST_COMPLETED, FIRST_EXCEPTION or ALL_COMPLETED. Raises TypeError or ValueError for other
    arguments; when the time is over, it returns, too.

        >>> from pyconc import asyncio
        >>> async def main():
        ...     done, pending = await asyncio.wait([asyncio.to_thread(abs, number) for number in (-1, -2)])
        ...     return sorted(task.result() for task in done), pending
        >>> asyncio.run(main())
        ([1, 2], set())
    """
    # With wrong arguments the standard function raises, before any task is made.
    single = asyncio.isfuture(fs) or asyncio.iscoroutine(fs)
    if not single and return_when in (asyncio.FIRST_COMPLETED, asyncio.FIRST_EXCEPTION, asyncio.ALL_COMPLETED):
        loop = asyncio.get_running_loop()
        fs = [asyncio.ensure_future(f, loop=loop) for f in dict.fromkeys(fs)]
    return await asyncio.wait(fs, timeout=timeout, return_when=return_when)
