"""The program's end of async generators that run on nodes: stream() of a ClusterExecutor.

A stream is a call like others, and what its generator yields comes before its end. The node sends no more items than it
was asked for: as many as the buffer holds at first, and so many again each time that the consumer has taken half of
them. The dispatcher's thread brings items and the end; the thread of the consumer's event loop takes them.
"""

import contextlib
from collections import deque
from concurrent.futures import CancelledError

from pyconc.cluster import _calls as calls
from pyconc.cluster._pending import Call

__all__ = ["Stream", "StreamCall"]


class StreamCall(Call):
    """The call, in place of one with a future. It holds no consumer: one that is dropped cancels it."""

    __slots__ = ("_ask", "_is_cancelled", "_loop", "_stop", "buffersize", "error", "is_over", "items", "waiters", "why")

    def __init__(self, loop, buffersize, ask, function, packed, size, options, stop):
        """ask: a function that asks for so many more items of this call; any thread may call it."""
        self._loop = loop
        self.buffersize = buffersize
        self._ask = ask
        self._is_cancelled = False  # set once, by any thread
        self.items = deque()  # packed; the dispatcher's thread appends, the loop's takes
        self.is_over = False  # set once, after the last item
        self.error = None  # how it has ended, if not by itself; set before is_over
        self.waiters = []  # futures; the loop's thread
        self.why = None  # what consumers are told if somebody else has ended it; set once, by any thread
        super().__init__(None, function, packed, size, 1, options, stop)  # once: some of its items may have been taken
        self.may_be_stopped = True
        self._heed(stop)

    def _heed(self, stop):
        self._stop = stop

    def begin(self):
        self.has_begun = not self._is_cancelled
        if not self.has_begun:
            self.finish(None, CancelledError())
        return self.has_begun

    def cancel(self):
        if not (self.is_over or self._is_cancelled):
            self._is_cancelled = True
            self._stop(self)

    def end(self, why):
        """Have it end, and the consumer know why. Any thread."""
        self.why = why
        self.cancel()

    def is_cancelled(self):
        return self._is_cancelled

    def receive(self, packed):
        self.items.append(packed)
        if len(self.items) == 1:
            self._wake()

    def finish(self, result, error):
        if not self.is_over:
            self.error = error
            self.is_over = True
            self._wake()

    def ask(self, count):
        if not self.is_over:
            self._ask(self, count)

    def _wake(self):
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._wake_waiters)

    def _wake_waiters(self):
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def changed(self):
        """Wait until something may have come; in the loop's thread, which has found nothing."""
        waiter = self._loop.create_future()
        self.waiters.append(waiter)
        await waiter


class Stream:
    """The consumer's async iterator. Only the thread of its loop uses it."""

    def __init__(self, call):
        self._call = call
        self._taken = 0  # since it has asked for more
        self._has_ended = False

    def __aiter__(self):
        return self

    async def __anext__(self):
        call = self._call
        while not call.items and not self._has_ended:
            if call.why is not None:
                self._end()
                raise RuntimeError(call.why)
            if not call.is_over:
                await call.changed()
            elif not call.items:  # none has come just before its end
                self._end()
                if call.error is not None and not isinstance(call.error, CancelledError):
                    raise call.error
        if self._has_ended:
            raise StopAsyncIteration
        item, error = calls.unpack_result(call.items.popleft())
        self._taken += 1
        if 2 * self._taken >= call.buffersize:
            call.ask(self._taken)
            self._taken = 0
        if error is not None:
            raise error
        return item

    def _end(self):
        self._has_ended = True
        self._call.items.clear()

    async def aclose(self):
        """Stop the generator; return when it has cleaned up."""
        self._end()
        self._call.cancel()
        while self._call.has_begun and not self._call.is_over:
            await self._call.changed()

    def __del__(self):
        self._call.cancel()
