"""A call that has not ended, in the program: what is to be sent of it, and the future that gets its outcome.

Whoever has taken a call from the queue or from a node ends it, or puts it back. A call that may be stopped, see
options(), can be cancelled until it has ended. So its future stays pending while it runs, and tells the dispatcher when
the program cancels it; what the call returns or raises after that is dropped.

The future is a pyconc.Future, or one of an event loop. Outcomes for a loop are collected, and its thread is told once
for all that a message has brought.
"""

import contextlib
from asyncio import base_events
from collections import deque
from concurrent.futures import InvalidStateError

from pyconc._asyncio_glue import convert_exception
from pyconc._core import Future

__all__ = ["RUN_IN_EXECUTOR", "Call", "LoopCall", "LoopOutcomes"]

# So many outcomes for a loop come in one turn of it. What a turn makes, callbacks and their arguments, is gone then: of
# thousands the garbage collector would look at each, several times.
_AT_A_TIME = 256

# The code of who takes a future of the event loop's.
RUN_IN_EXECUTOR = base_events.BaseEventLoop.run_in_executor.__code__


class _StoppableFuture(Future):
    """The future of a call that may be stopped while it runs."""

    __slots__ = ("call", "stop")

    def cancel(self):
        was_cancelled = self.cancelled()
        is_cancelled = super().cancel()
        if is_cancelled and not was_cancelled:
            self.stop(self.call)
        return is_cancelled

    def running(self):
        return self.call.has_begun and not self.done()


class Call:
    """A call with a pyconc.Future."""

    __slots__ = (
        "begins",
        "future",
        "has_begun",
        "may_be_stopped",
        "options",
        "packed",
        "place",
        "refs",
        "size",
        "task",
        "timer",
    )

    def __init__(self, future, task, packed, size, begins, options, stop):
        """stop: a function that stops this call, which any thread may call; options: as those of an executor."""
        self.future = future  # a new one
        self.task = task  # the callable
        self.packed = packed
        self.size = size
        self.begins = begins  # how often it may begin
        self.options = options  # None: the default ones
        self.refs = None  # the Refs that it mentions by number, if there are any
        self.has_begun = False
        self.place = None  # of one with options: the node it was sent to, and its number there; the dispatcher's thread
        self.timer = None  # of one with a deadline: until it begins; the dispatcher's thread
        self.may_be_stopped = False
        if options is not None and options[0] != 0:  # on_cancel is not "abandon"
            self.may_be_stopped = True
            self._heed(stop)

    def _heed(self, stop):
        """Have it stopped when its future is cancelled."""
        self.future = _StoppableFuture()
        self.future.call, self.future.stop = self, stop

    def begin(self):
        """Return whether it is to be sent, as nobody has cancelled it."""
        if self.may_be_stopped:
            self.has_begun = not self.future.done()
            if not self.has_begun:
                self._tell_waiters()
        elif not self.has_begun:
            try:
                self.has_begun = self.future.set_running_or_notify_cancel()
            except InvalidStateError:  # the program has given it an outcome
                pass
        return self.has_begun

    def cancel(self):
        """Cancel it, if it has not begun or may be stopped. Any thread."""
        self.future.cancel()

    def is_cancelled(self):
        return self.future.cancelled()

    def finish(self, result, error):
        """Give it its outcome, unless the program has cancelled it, or given it one."""
        try:
            if error is None:
                self.future.set_result(result)
            else:
                self.future.set_exception(error)
        except InvalidStateError:
            self._tell_waiters()

    def _tell_waiters(self):
        """Have wait() know that it was cancelled: it has ended now."""
        if self.future.cancelled():
            with contextlib.suppress(InvalidStateError):
                self.future.set_running_or_notify_cancel()

    def abandon(self, error):
        """Fail it in the child of a fork."""
        self.finish(None, error)


class LoopCall(Call):
    """A call with a future of an event loop, whose thread makes both."""

    # Whoever makes it sets both. outcomes: a LoopOutcomes. is_withdrawn: whether another thread than the loop's has
    # cancelled it; set once, by that thread, and read by the dispatcher's.
    __slots__ = ("is_withdrawn", "outcomes")

    def _heed(self, stop):
        self.future.add_done_callback(lambda future: stop(self) if future.cancelled() else None)

    def begin(self):
        # One that has begun before begins again, unless it may be stopped: nobody else could tell that it ran.
        if self.may_be_stopped or not self.has_begun:
            self.has_begun = not (self.is_withdrawn or self.future.done())
        return self.has_begun

    def cancel(self):
        self.is_withdrawn = True
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self.future.get_loop().call_soon_threadsafe(self.future.cancel)

    def is_cancelled(self):
        return self.is_withdrawn or self.future.cancelled()

    def finish(self, result, error):
        self.outcomes.add(self.future, result, error)

    def abandon(self, error):
        _finish(self.future, None, error)


class LoopOutcomes:
    """Outcomes that futures of event loops are to get; the dispatcher's thread."""

    def __init__(self):
        self._by_loop = {}  # of each: futures, results, exceptions
        self._loop = self._last = None  # of those, the last one

    def add(self, future, result, error):
        loop = future.get_loop()
        if loop is not self._loop:
            self._loop, self._last = loop, self._by_loop.setdefault(loop, (deque(), deque(), deque()))
        futures, results, errors = self._last
        futures.append(future)
        results.append(result)
        errors.append(error)

    def send(self):
        """Tell each loop of what there is for it."""
        if self._by_loop:
            by_loop, self._by_loop = self._by_loop, {}
            self._loop = self._last = None
            for loop, outcomes in by_loop.items():
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    loop.call_soon_threadsafe(_finish_all, loop, *outcomes)


def _finish_all(loop, futures, results, errors):
    """Give futures their outcomes, the first ones in this turn of the loop; its thread."""
    for _ in range(min(len(futures), _AT_A_TIME)):
        _finish(futures.popleft(), results.popleft(), errors.popleft())
    if futures:
        loop.call_soon(_finish_all, loop, futures, results, errors)


def _finish(future, result, error):
    if future.done():
        pass
    elif error is None:
        future.set_result(result)
    else:
        future.set_exception(convert_exception(error))
