"""ProcessPoolExecutor.map: its arguments and its rules; chunks are the extension's, see csrc/processes/chunk_map.h."""

import operator
import time
import weakref
from collections import deque
from concurrent.futures import _base, process
from functools import partial
from itertools import islice

from pyconc import _core

# What nobody will ever reach: more would not fit into the extension's integers.
_MOST_CHUNK = 2**31 - 1
_MOST_AHEAD = 2**62
_EVERYTHING = 2**63 - 1

# Iterables that are read without anybody's code.
_AT_HAND = frozenset([list, tuple, range, str, bytes, bytearray, dict, set, frozenset])


def map_chunks(executor, fn, iterables, timeout, chunksize, buffersize):
    """See ProcessPoolExecutor.map()."""
    if chunksize is not None and chunksize < 1:
        raise ValueError("chunksize must be >= 1.")
    if buffersize is not None and not isinstance(buffersize, int):
        raise TypeError("buffersize must be an integer or None")
    if buffersize is not None and buffersize < 1:
        raise ValueError("buffersize must be None or > 0")
    deadline = None if timeout is None else time.monotonic() + timeout
    if is_submit_replaced(executor):
        return _map_by_submit(executor, fn, iterables, deadline, chunksize or 1, buffersize)
    supervisor = executor._supervisor
    is_star = len(iterables) != 1
    source = zip(*iterables) if is_star else iter(iterables[0])
    size = 0 if chunksize is None else min(operator.index(chunksize), _MOST_CHUNK)
    ahead = _EVERYTHING if buffersize is None else min(buffersize * max(size, 1), _MOST_AHEAD)
    return _core.MapResults(
        supervisor.queue,
        supervisor.start_workers,
        supervisor.call_ns,
        fn,
        source,
        not all(type(iterable) in _AT_HAND for iterable in iterables),
        is_star,
        size,
        ahead,
        supervisor.call_ns.get(fn),
        deadline,
    )


def is_submit_replaced(executor):
    """Whether calls are to go through a submit() that is not ours: of a subclass, or one that was put there later."""
    return type(executor).submit is not _core.Executor.submit or "submit" in vars(executor)


class CallTimes:
    """What calls of a function have taken lately, in nanoseconds; of functions that can be looked up."""

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
    """For executors whose submit() is not ours: every chunk goes through it, as in the standard library."""
    chunks = _batches(zip(*iterables), chunksize)
    run = partial(process._process_chunk, fn)
    pending = deque(executor.submit(run, chunk) for chunk in islice(chunks, buffersize))
    return _core.Chain(_results_by_submit(weakref.ref(executor), run, chunks, pending, deadline))


def _results_by_submit(executor_reference, run, chunks, pending, deadline):
    try:
        while pending:
            executor = executor_reference()
            if executor is not None:
                pending.extend(executor.submit(run, chunk) for chunk in islice(chunks, 1))
            del executor
            values = _base._result_or_cancel(
                pending.popleft(), *(() if deadline is None else (deadline - time.monotonic(),))
            )
            yield values
            del values
    finally:
        for future in pending:
            future.cancel()


def _batches(iterable, size):
    iterator = iter(iterable)
    while batch := tuple(islice(iterator, size)):
        yield batch
