"""multiprocessing.dummy, with pyconc's threads: Pool is a ThreadPool; all else is the standard module's."""

import sys
from multiprocessing import dummy as _standard

from pyconc.multiprocessing.pool import ThreadPool

__all__ = _standard.__all__


def Pool(processes=None, initializer=None, initargs=()):
    """Return a ThreadPool; see there.

    >>> from pyconc.multiprocessing.dummy import Pool
    >>> with Pool(4) as pool:
    ...     pool.map(abs, [-1, -2])
    [1, 2]
    """
    return ThreadPool(processes, initializer, initargs)


def __getattr__(name):
    try:
        return getattr(_standard, name)
    except AttributeError:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message, name=name, obj=sys.modules[__name__]) from None


def __dir__():
    return dir(_standard)
