"""multiprocessing, with pyconc's pools and managers, for programs that import it ``from pyconc``.

Everything here is the standard module's, with these exceptions:

- `Pool`, `pool.Pool`, `pool.ThreadPool` and `dummy.Pool` are pyconc's.
- So are `Manager` and `managers.SyncManager`, which keep what processes share in memory, without a server.
- So are `Value` and `Array` that have a lock, which goes to the next when its holder dies: pyconc.shared's.
- So are these four of the contexts that `get_context` returns, which else are the standard ones.

Other submodules (`multiprocessing.queues`, ...) are reached as attributes and are the standard ones.
"""

# Type checkers read __init__.pyi instead.

import functools
import importlib
import multiprocessing as _standard
import sys

__all__ = _standard.__all__


class _Ours:
    """A context of multiprocessing whose Pool, Manager, Value and Array are pyconc's; a mixin."""

    def Pool(self, processes=None, initializer=None, initargs=(), maxtasksperchild=None):
        """Return a pool whose workers this context starts; see pyconc.multiprocessing.pool.Pool."""
        return _load_pool().Pool(processes, initializer, initargs, maxtasksperchild, context=self)

    def Manager(self):
        """Return a manager whose server, if it needs one, this context starts; see pyconc.Manager."""
        return _start_manager(self)

    def Value(self, typecode_or_type, *args, lock=True):
        """Return a number, or another object of ctypes, that processes share; see pyconc.multiprocessing.Value."""
        return _share("Value", super(), typecode_or_type, *args, lock=lock)

    def Array(self, typecode_or_type, size_or_initializer, *, lock=True):
        """Return an array that processes share; see pyconc.multiprocessing.Array."""
        return _share("Array", super(), typecode_or_type, size_or_initializer, lock=lock)

    def get_context(self, method=None):
        return self if method is None else get_context(method)


def _load_pool():
    return importlib.import_module("pyconc.multiprocessing.pool")


def _start_manager(context=None):
    manager = importlib.import_module("pyconc.multiprocessing.managers").SyncManager(ctx=context)
    manager.start()
    return manager


def _share(name, standard, *args, lock):
    if lock is not False:
        try:
            return getattr(importlib.import_module("pyconc.shared"), name)(*args, lock=lock)
        except TypeError:
            pass  # a pointer, which the standard one takes; of all else that says what is wrong
    return getattr(standard, name)(*args, lock=lock)


@functools.cache
def _ours_of(standard):
    kind = type(standard)
    return type(kind.__name__, (_Ours, kind), {"__module__": __name__})()


def get_context(method=None):
    """Return the context of a start method, with pyconc's Pool, Manager, Value and Array; default: the one that is set.

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


def Value(typecode_or_type, *args, lock=True):
    """Return a number, or another object of ctypes, that processes share: a pyconc.shared.Value.

    typecode_or_type: as for the standard one. args: what it begins with. lock: what its get_lock() returns; True makes
    an RLock. With lock=False, and of pointers, it is the standard one. Raises what that does, and MemoryError if there
    is no room. Any thread may use it; a fork's child has the same; whoever dies with the lock holds nobody up.

        >>> from pyconc import multiprocessing
        >>> total = multiprocessing.Value("i", 5)
        >>> with total.get_lock():
        ...     total.value += 1
        >>> total.value
        6
    """
    return _share("Value", _standard, typecode_or_type, *args, lock=lock)


def Array(typecode_or_type, size_or_initializer, *, lock=True):
    """Return an array of numbers, or of other objects of ctypes, that processes share: a pyconc.shared.Array.

    typecode_or_type: as for the standard one. size_or_initializer: how many items, which are zero, or what it begins
    with. lock, errors, threads and forks: as for Value().

        >>> from pyconc import multiprocessing
        >>> squares = multiprocessing.Array("d", [0, 1, 4])
        >>> squares[1:]
        [1.0, 4.0]
    """
    return _share("Array", _standard, typecode_or_type, size_or_initializer, lock=lock)


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
