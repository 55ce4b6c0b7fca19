"""multiprocessing, with pyconc's pools and managers, for programs that import it ``from pyconc``.

Everything here is the standard module's, with these exceptions:

- `Pool`, `pool.Pool`, `pool.ThreadPool` and `dummy.Pool` are pyconc's.
- So are `Manager` and `managers.SyncManager`, which keep what processes share in memory, without a server.
- So are `Pool` and `Manager` of the contexts that `get_context` returns, which else are the standard ones.

Other submodules (`multiprocessing.queues`, ...) are reached as attributes and are the standard ones.
"""

# Type checkers read __init__.pyi instead.

import functools
import importlib
import multiprocessing as _standard
import sys

__all__ = _standard.__all__


class _Ours:
    """A context of multiprocessing whose Pool and Manager are pyconc's; a mixin."""

    def Pool(self, processes=None, initializer=None, initargs=(), maxtasksperchild=None):
        """Return a pool whose workers this context starts; see pyconc.multiprocessing.pool.Pool."""
        return _load_pool().Pool(processes, initializer, initargs, maxtasksperchild, context=self)

    def Manager(self):
        """Return a manager whose server, if it needs one, this context starts; see pyconc.Manager."""
        return _start_manager(self)

    def get_context(self, method=None):
        return self if method is None else get_context(method)


def _load_pool():
    return importlib.import_module("pyconc.multiprocessing.pool")


def _start_manager(context=None):
    manager = importlib.import_module("pyconc.multiprocessing.managers").SyncManager(ctx=context)
    manager.start()
    return manager


@functools.cache
def _ours_of(standard):
    kind = type(standard)
    return type(kind.__name__, (_Ours, kind), {"__module__": __name__})()


def get_context(method=None):
    """Return the context of a start method, whose Pool and Manager are pyconc's; default: the one that is set.

    Raises ValueError for a method that there is not.

        >>> from pyconc import multiprocessing
        >>> with multiprocessing.get_context("spawn").Pool(1) as pool:
        ...     pool.apply(abs, (-1,))
        1
    """
    return _ours_of(_standard.get_context(method))


def Pool(processes=None, initializer=None, initargs=(), maxtasksperchild=None):
    """Return a pool of worker processes; see pyconc.multiprocessing.pool.Pool.

    >>> from pyconc import multiprocessing
    >>> with multiprocessing.Pool(2) as pool:
    ...     pool.map(abs, [-1, -2])
    [1, 2]
    """
    return _load_pool().Pool(processes, initializer, initargs, maxtasksperchild)


def Manager():
    """Return a manager that has started, without a server process: pyconc.multiprocessing.managers.SyncManager.

    Its list(), dict(), Queue(), Lock() and so on are in memory that processes share, as pyconc.shared's. They raise
    MemoryError if there is no room for them; Manager() raises nothing.

        >>> with pyconc.Manager() as manager:
        ...     squares = manager.list()
        ...     with pyconc.ProcessPoolExecutor(max_workers=1) as pool:
        ...         pool.submit(squares.extend, [0, 1, 4]).result()
        ...     print(squares)
        [0, 1, 4]
    """
    return _start_manager()


def __getattr__(name):
    if name in ("pool", "dummy", "managers"):  # loaded when asked for, as in the standard package
        return importlib.import_module(f"pyconc.multiprocessing.{name}")
    try:
        return getattr(_standard, name)
    except AttributeError:
        pass
    try:
        return importlib.import_module(f"multiprocessing.{name}")
    except ImportError:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message, name=name, obj=sys.modules[__name__]) from None


def __dir__():
    return sorted({*dir(_standard), "dummy", "managers", "pool"})
