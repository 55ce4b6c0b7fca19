"""multiprocessing, with pyconc's pools: change ``import multiprocessing`` to ``from pyconc import multiprocessing``.

Everything here is the standard module's, with these exceptions:

- `Pool`, `pool.Pool`, `pool.ThreadPool` and `dummy.Pool` are pyconc's.
- So is `Pool` of the contexts that `get_context` returns, which else are the standard ones.

Submodules (`multiprocessing.queues`, `multiprocessing.managers`, ...) are reached as attributes and are the
standard ones.
"""

# Type checkers read __init__.pyi instead.

import functools
import importlib
import multiprocessing as _standard
import sys

__all__ = _standard.__all__


class _WithPool:
    """A context of multiprocessing whose Pool is pyconc's; a mixin."""

    def Pool(self, processes=None, initializer=None, initargs=(), maxtasksperchild=None):
        """Return a pool whose workers this context starts; see pyconc.multiprocessing.pool.Pool."""
        return _load_pool().Pool(processes, initializer, initargs, maxtasksperchild, context=self)

    def get_context(self, method=None):
        return self if method is None else get_context(method)


def _load_pool():
    return importlib.import_module("pyconc.multiprocessing.pool")


@functools.cache
def _with_pool(standard):
    kind = type(standard)
    return type(kind.__name__, (_WithPool, kind), {"__module__": __name__})()


def get_context(method=None):
    """Return the context of a start method, whose Pool is pyconc's; default: the one that is set.

    Raises ValueError for a method that there is not.

        >>> from pyconc import multiprocessing
        >>> with multiprocessing.get_context("spawn").Pool(1) as pool:
        ...     pool.apply(abs, (-1,))
        1
    """
    return _with_pool(_standard.get_context(method))


def Pool(processes=None, initializer=None, initargs=(), maxtasksperchild=None):
    """Return a pool of worker processes; see pyconc.multiprocessing.pool.Pool.

    >>> from pyconc import multiprocessing
    >>> with multiprocessing.Pool(2) as pool:
    ...     pool.map(abs, [-1, -2])
    [1, 2]
    """
    return _load_pool().Pool(processes, initializer, initargs, maxtasksperchild)


def __getattr__(name):
    if name in ("pool", "dummy"):  # loaded when asked for, as in the standard package
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
    return sorted({*dir(_standard), "dummy", "pool"})
