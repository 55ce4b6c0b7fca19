"""wait() and as_completed() over futures of pyconc and of the standard library, in any mix."""

import time
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION, TimeoutError, _base

from pyconc import _core
from pyconc.patching import threads_are_greenlets

_REPORTABLE = (_base.CANCELLED_AND_NOTIFIED, _base.FINISHED)


def _watch(waiter, futures):
    for future in waiter.watch(futures):
        with future._condition:
            if future._state not in _REPORTABLE:
                future._waiters.append(waiter)
            elif future._exception is not None:
                waiter.add_exception(future)
            else:
                waiter.add_result(future)


def _unwatch(waiter, futures):
    for future in waiter.unwatch(futures):
        with future._condition:
            if waiter in future._waiters:
                future._waiters.remove(waiter)


def wait(fs, timeout=None, return_when=ALL_COMPLETED):
    """Wait for futures; return the named tuple (done, not_done) of two sets.

    fs: futures of any executors; duplicates count once. timeout: seconds, or None for no limit. return_when:
    FIRST_COMPLETED, FIRST_EXCEPTION (else all), or ALL_COMPLETED. Any thread may call it. Raises ValueError for another
    return_when; that time is over raises nothing.

        >>> with pyconc.ThreadPoolExecutor() as pool:
        ...     done, not_done = pyconc.wait([pool.submit(abs, -1), pool.submit(abs, -2)], timeout=10)
        >>> sorted(future.result() for future in done), not_done
        ([1, 2], set())
    """
    if threads_are_greenlets():
        return _base.wait(fs, timeout, return_when)
    futures = set(fs)
    waiter = _core.Waiter()
    try:
        _watch(waiter, futures)
        count = min(1, len(futures)) if return_when == FIRST_COMPLETED else len(futures)
        known = return_when in (FIRST_COMPLETED, FIRST_EXCEPTION, ALL_COMPLETED)
        if not waiter.wait(count, timeout if known else 0, return_when == FIRST_EXCEPTION) and not known:
            raise ValueError(f"Invalid return condition: {return_when!r}")
    finally:
        _unwatch(waiter, futures)
    done = set(waiter.take())
    return _base.DoneAndNotDoneFutures(done, futures - done)


def as_completed(fs, timeout=None):
    """Return an iterator over futures as they complete, those that are done already first.

    fs: futures of any executors; duplicates count once. timeout: seconds from the first next() until the last future;
    TimeoutError after that. The iterator keeps no reference to a future that it has yielded.

        >>> with pyconc.ThreadPoolExecutor() as pool:
        ...     futures = [pool.submit(abs, number) for number in (-1, -2, -3)]
        ...     sorted(future.result() for future in pyconc.as_completed(futures))
        [1, 2, 3]
    """
    if threads_are_greenlets():
        yield from _base.as_completed(fs, timeout)
        return
    deadline = None if timeout is None else time.monotonic() + timeout
    pending = set(fs)
    total = len(pending)
    waiter = _core.Waiter()
    try:
        _watch(waiter, pending)
        while pending:
            left = None if deadline is None else deadline - time.monotonic()
            if not waiter.wait(1, left):
                raise TimeoutError(f"{len(pending)} (of {total}) futures unfinished")
            finished = waiter.take()
            _unwatch(waiter, finished)
            finished.reverse()
            pending.difference_update(finished)
            while finished:
                yield finished.pop()
    finally:
        _unwatch(waiter, pending)
