"""wait() and as_completed(), over futures of pyconc and of the standard library; and results in the order of calls."""

import time
import weakref
from collections import deque
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION, TimeoutError, _base
from functools import partial
from itertools import islice

from pyconc import _core
from pyconc.patching import substitute_functions, threads_are_greenlets

__all__ = ["as_completed", "wait"]

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

    fs: futures of any executors; duplicates count once. timeout: the most seconds to wait; None: without limit.
    return_when: FIRST_COMPLETED, FIRST_EXCEPTION (or all, if none raises), or ALL_COMPLETED. Any thread may call it.
    Raises ValueError for another return_when; when the time is over, it returns, too. Called by a task of a
    ThreadPoolExecutor, for calls of that executor, it runs those that are queued while no thread is free, and raises
    RuntimeError where nothing could end the wait.

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
    """Return an iterator over futures as they complete; futures that are done already come first.

    fs: futures of any executors; duplicates count once. timeout: seconds from the first next() until the last future;
    raises TimeoutError after that. Any thread may use it; tasks run what they wait for, as in wait(). The iterator
    keeps no reference to a future that it has yielded.

        >>> with pyconc.ThreadPoolExecutor() as pool:
        ...     futures = [pool.submit(abs, number) for number in (-1, -2, -3)]
        ...     sorted(future.result() for future in pyconc.as_completed(futures))
        [1, 2, 3]
    """
    if threads_are_greenlets():
        yield from _base.as_completed(fs, timeout)
        return
    deadline = None if timeout is None else timeout + time.monotonic()
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


substitute_functions({_base.wait: wait, _base.as_completed: as_completed})


def submit_in_order(executor, fn, arguments, deadline, buffersize, keep=False):
    """Submit fn(*args) for each tuple of arguments; return an iterator over the results in their order.

    deadline: by time.monotonic(), or None. buffersize: how many tasks may be ahead of the results taken, or None. keep:
    whether the iterator keeps the executor, or stops submitting when that is gone, as the standard library does.
    """
    # Not by starmap(), in which the interpreter would handle no signal and give no worker the GIL.
    submit = partial(executor.submit, fn)
    pending = deque([submit(*args) for args in islice(arguments, buffersize)])
    if buffersize is None:
        # An iterator that has ended may go on when it is asked again, and zip() keeps what it gave last.
        arguments = None
    return _results((lambda: executor) if keep else weakref.ref(executor), fn, arguments, pending, deadline)


def _results(executor_reference, fn, arguments, pending, deadline):
    try:
        while pending:
            if arguments is not None:
                executor = executor_reference()
                if executor is not None:
                    pending.extend(executor.submit(fn, *args) for args in islice(arguments, 1))
                del executor
            timeout = None if deadline is None else deadline - time.monotonic()
            # A future that raises stays pending; no variable keeps a result while its reader has it.
            yield (pending[0].result(timeout), pending.popleft())[0]
    finally:
        # The last one first: where a call that runs is stopped, its worker would take one that is yet to be cancelled.
        while pending:
            pending.pop().cancel()
