"""asyncio, with pyconc's threads: change ``import asyncio`` to ``from pyconc import asyncio``.

Everything here is the standard module's, but for this:

- Loops made by `new_event_loop`, `get_event_loop`, `run` and `Runner` have pyconc's ThreadPoolExecutor as their default
  executor, which `to_thread` and ``run_in_executor(None, ...)`` use.  `get_event_loop` and `to_thread` see to that for
  asyncio's loops that came from elsewhere, too, if they have no default executor yet.
- `get_event_loop` makes a loop in the main thread when there is none, as it did until Python 3.13, and never warns.
- `wait` accepts coroutines, as it did until Python 3.10, and never warns.

Submodules (`asyncio.subprocess`, `asyncio.events`, ...) are reached as attributes and are the standard ones.
"""

# Type checkers read asyncio.pyi instead.

import asyncio
import gc
import sys
import threading
import weakref
from asyncio import *  # noqa: F403
from concurrent.futures import Executor

from pyconc.thread_pool import ThreadPoolExecutor

__all__ = asyncio.__all__

_HIDDEN = object()


def __getattr__(name):
    try:
        return getattr(asyncio, name)
    except AttributeError:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message, name=name, obj=sys.modules[__name__]) from None


def __dir__():
    return dir(asyncio)


def _equip(loop, *, new=False):
    """Sees to it that a loop without a default executor makes one of pyconc's when it first runs anything in threads.

    Not before: shutting a default executor down takes a thread, also if nobody has used it, and where asyncio.run() is
    called at exit there may be none to be had.

    Loops other than asyncio's hide whether they have one; those are taken to have none only while they are `new`, and
    refer to none that whoever made them may have set.
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
                pass  # a loop without a default executor is a loop all the same
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
    """Whether a loop holds an executor in a field, which may be one of C, or in its dictionary."""
    referents = gc.get_referents(loop)
    held = [value for referent in referents if type(referent) is dict for value in referent.values()]
    return any(isinstance(referent, Executor) for referent in (*referents, *held))


def new_event_loop():
    """Create and return a new event loop, whose default executor is pyconc's."""
    return _equip(asyncio.new_event_loop(), new=True)


def get_event_loop():
    """Return the running event loop, or else the current one of this thread.

    The main thread is given one when it has none; other threads get a RuntimeError.
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
        __doc__ = asyncio.Runner.__doc__

        def __init__(self, *, debug=None, loop_factory=None):
            super().__init__(debug=debug, loop_factory=loop_factory)
            self._equipped = False

        def __enter__(self):
            super().__enter__()
            self.get_loop()
            return self

        def get_loop(self):
            """Return embedded event loop."""
            loop = super().get_loop()
            if not self._equipped:
                self._equipped = True
                _equip(loop, new=True)
            return loop

        def run(self, coro, *, context=None):
            """Run code in the embedded event loop."""
            if asyncio._get_running_loop() is None:  # else the standard method says what is wrong
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


run.__doc__ = asyncio.run.__doc__


async def to_thread(func, /, *args, **kwargs):
    _equip(asyncio.get_running_loop())
    return await asyncio.to_thread(func, *args, **kwargs)


to_thread.__doc__ = asyncio.to_thread.__doc__


async def wait(fs, *, timeout=None, return_when=asyncio.ALL_COMPLETED):
    """Wait for the futures, tasks and coroutines given by fs to complete.

    Returns two sets of futures: (done, pending).  Coroutines are wrapped in tasks, which start in the order given.
    """
    # What is wrong with the arguments is for the standard function to say, before any task is made.
    single = asyncio.isfuture(fs) or asyncio.iscoroutine(fs)
    if not single and return_when in (asyncio.FIRST_COMPLETED, asyncio.FIRST_EXCEPTION, asyncio.ALL_COMPLETED):
        loop = asyncio.get_running_loop()
        fs = [asyncio.ensure_future(f, loop=loop) for f in dict.fromkeys(fs)]
    return await asyncio.wait(fs, timeout=timeout, return_when=return_when)
