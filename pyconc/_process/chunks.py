"""ProcessPoolExecutor.map: its arguments and its rules; chunks are the extension's, see csrc/processes/map_feed.h."""

import operator
import time
import weakref
from concurrent.futures import process
from functools import partial
from itertools import islice

from pyconc import _core, _options, _progress
from pyconc.waiting import submit_in_order

__all__ = ["CallTimes", "map_chunks"]

# Sizes that no program reaches; larger ones would not fit into the extension's integers.
_MOST_CHUNK = 2**31 - 1
_MOST_AHEAD = 2**62
_EVERYTHING = 2**63 - 1

# Iterables that are read without running code of the program.
_AT_HAND = frozenset([list, tuple, range, str, bytes, bytearray, dict, set, frozenset])


def map_chunks(executor, fn, iterables, timeout, chunksize, buffersize, show):
    """See ProcessPoolExecutor.map(); show: as for _progress.follow(), or None."""
    if chunksize is not None and chunksize < 1:
        raise ValueError("chunksize must be >= 1.")
    if buffersize is not None and not isinstance(buffersize, int):
        raise TypeError("buffersize must be an integer or None")
    if buffersize is not None and buffersize < 1:
        raise ValueError("buffersize must be None or > 0")
    deadline = None if timeout is None else timeout + time.monotonic()
    if show is not None:
        ahead = None if buffersize is None else buffersize * (chunksize or 1)
        submit = partial(submit_in_order, deadline=deadline, buffersize=ahead, keep=True)
        return _progress.follow(executor, fn, iterables, show, submit)
    is_over = executor._shutdown_thread and executor._opened is None  # the first submit, if there is one, says so
    if is_over or is_submit_replaced(executor):
        return _map_by_submit(executor, fn, iterables, deadline, chunksize or 1, buffersize)
    if not _options.are_default(executor):  # they are each call's, so each is a task
        ahead = None if buffersize is None else buffersize * (chunksize or 1)
        # An executor with options is often made for one call, and its pool lives on.
        return submit_in_order(executor, fn, zip(*iterables), deadline, ahead, keep=True)
    supervisor = executor._supervisor
    is_star = len(iterables) != 1
    source = zip(*iterables) if is_star else iter(iterables[0])
    if chunksize is None and executor._max_tasks_per_child is not None:
        chunksize = 1  # a message is a task
    size = 0 if chunksize is None else min(operator.index(chunksize), _MOST_CHUNK)
    ahead = _EVERYTHING if buffersize is None else min(buffersize * max(size, 1), _MOST_AHEAD)
    return _core.MapResults(
        supervisor.queue,
        supervisor.start_workers,
        supervisor.call_ns,
        fn if executor._carry is None else executor._carry(fn),
        source,
        not all(type(iterable) in _AT_HAND for iterable in iterables),
        is_star,
        size,
        ahead,
        supervisor.call_ns.get(fn),
        timeout,
    )


def is_submit_replaced(executor):
    """Tell whether calls must go through another submit(): a subclass's, or one that the program has set."""
    return type(executor).submit is not _core.Executor.submit or "submit" in vars(executor)


class CallTimes:
    """The time that recent calls of a function took, in nanoseconds; for functions that can be keys."""

    def __init__(self):
        self._known = weakref.WeakKeyDictionary()

    def get(self, fn):
        """Return that time, or -1.0 if nothing is known."""
        try:
            return self._known.get(fn, -1.0)
        except TypeError:
            return -1.0

    def learn(self, fn, call_ns):
        try:
            self._known[fn] = call_ns
        except TypeError:
            pass


def _map_by_submit(executor, fn, iterables, deadline, chunksize, buffersize):
    """Send every chunk through the executor's submit(), as the standard library does."""
    run = partial(process._process_chunk, fn)
    calls = _chunks(zip(*iterables), chunksize)
    keep = not _options.are_default(executor)
    return _core.Chain(submit_in_order(executor, run, calls, deadline, buffersize, keep))


def _chunks(items, size):
    """Yield tuples of arguments for _process_chunk(): its chunk."""
    while chunk := tuple(islice(items, size)):
        yield (chunk,)
