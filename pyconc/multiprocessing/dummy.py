"""multiprocessing.dummy, with pyconc's threads: Pool is a ThreadPool; all else is the standard module's."""

from multiprocessing import dummy as _standard

from pyconc._standard_names import names_of
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


__getattr__ = names_of(_standard, __name__)


def __dir__():
    return dir(_standard)
