"""What a worker of a CoroutinePool does: it runs an event loop, and each call that it takes as a task of that loop.

    doorbell --> take: calls --------> tasks --------> finish
                  |'-> to cancel ---> task.cancel()
                  '--> listen: the doorbell will ring again

The loop watches the worker's doorbell and sleeps like any other loop: nothing polls.  A worker takes its share of what
is ready, no more than it has room for.  As long as it does not know how long it is kept from its loop by that, it takes
few at a time, so that a coroutine which computes for long holds up no others that an idle worker could run.
"""

import asyncio
import inspect
import itertools
import sys
import time
from functools import partial
from types import CoroutineType

# How many calls to take at once, at most; and how long the loop may be kept busy by their first steps.
_BATCH_MAX = 256
_BATCH_NS = 1_000_000

# A task that never waits is done when it has been made; before Python 3.12 it has not even begun.
_IS_EAGER = sys.version_info >= (3, 12)
_Task = partial(asyncio.Task, eager_start=True) if _IS_EAGER else asyncio.Task


class LoopWorker:
    """All is done by the thread of the loop."""

    def __init__(self, worker, doorbell, loop_factory, concurrency, max_tasks):
        self._worker = worker
        self._doorbell = doorbell
        self._concurrency = concurrency
        self._left = max_tasks  # how many calls may still be taken, or None
        self._running = {}  # handle: task
        self._begun = []  # (handle, task) of those that are to be looked at after their first step
        self._batch = 1
        self.streams = {}  # number: Stream
        self._loop = (loop_factory or asyncio.new_event_loop)()
        asyncio.set_event_loop(self._loop)

    def serve(self):
        """Run calls until there are none left, or as many as this worker may."""
        global _current
        _current = self
        loop = self._loop
        loop.add_reader(self._doorbell, self._pump)
        loop.call_soon(self._pump)
        self._ends = False
        while not self._ends:
            try:
                loop.run_forever()
            except (SystemExit, KeyboardInterrupt):
                pass  # A task has raised it; it is that task's outcome.
        _current = None
        loop.remove_reader(self._doorbell)
        self._worker.leave()
        self._close()

    def _close(self):
        """End what the calls have left behind, as asyncio.run() does."""
        loop = self._loop
        rest = asyncio.all_tasks(loop)
        for task in rest:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*rest, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        asyncio.set_event_loop(None)
        loop.close()

    def identify(self):
        return self._worker.identify()

    def leave_if_done(self):
        """Look whether to leave, now that a stream has ended."""
        self._loop.call_soon(self._pump)

    def _room(self):
        room = min(self._concurrency - len(self._running), self._batch)
        return room if self._left is None else min(room, self._left)

    def _pump(self):
        """Take what there is room for, and listen for more."""
        start = time.monotonic_ns()
        self._has_factory = self._loop.get_task_factory() is not None
        wanted, calls = self._worker.take(max(self._room(), 0))
        for item in wanted:
            if isinstance(item, tuple):
                self._start(*item)
            elif item in self._running:
                self._running[item].cancel()
        if self._left is not None:
            self._left -= len(calls)
        for call in calls:
            self._start(*call)
        del wanted, calls
        if self._begun:
            self._loop.call_soon(self._look_at_begun)
        if time.monotonic_ns() - start > _BATCH_NS:
            self._batch = 1
        else:
            self._batch = min(2 * self._batch, _BATCH_MAX)
        if self._left == 0:
            # Of a pool that is closed, streams have no consumers any more.
            if not self._running and (not self.streams or self._worker.is_closed()):
                self._end()
        elif self._room() > 0:
            listens = self._worker.listen(not self._running)
            if listens is False:
                self._loop.call_soon(self._pump)
            elif listens is None and not self._running:
                self._end()

    def _end(self):
        self._ends = True
        self._loop.stop()

    def _start(self, handle, function, args, kwargs):
        try:
            awaitable = function(*args, **kwargs) if kwargs else function(*args)
            if type(awaitable) is not CoroutineType:
                task = self._make_future(awaitable, function)
            elif self._has_factory:
                task = self._loop.create_task(awaitable)
            else:
                task = _Task(awaitable, loop=self._loop)
        except BaseException as error:
            self._worker.finish(handle, error)
            return
        if task.done():
            self._worker.finish(handle, task)
        else:
            self._running[handle] = task
            if _IS_EAGER:
                task.add_done_callback(partial(self._task_done, handle))
            else:
                self._begun.append((handle, task))

    def _make_future(self, awaitable, function):
        if not inspect.isawaitable(awaitable):
            raise TypeError(f"{function!r} returned {type(awaitable).__name__}, which cannot be awaited")
        return asyncio.ensure_future(awaitable, loop=self._loop)

    def _look_at_begun(self):
        """After the first step of tasks that were not eager: most never wait, and have no need of a callback."""
        was_full = self._room() <= 0
        begun, self._begun = self._begun, []
        for handle, task in begun:
            if task.done():
                del self._running[handle]
                self._worker.finish(handle, task)
            else:
                task.add_done_callback(partial(self._task_done, handle))
        if was_full or not self._running:
            self._pump()

    def _task_done(self, handle, task):
        was_full = self._room() <= 0
        del self._running[handle]
        self._worker.finish(handle, task)
        if was_full or not self._running:
            self._pump()


# ---- streams ----
#
# An async generator runs here, ahead of its consumer by as many items as its buffer holds.  The consumer opens it like
# any call, in whatever worker takes that; its other calls are for this worker only: next_items() takes all that is in
# the buffer, close() ends it.

_current = None  # the LoopWorker of this process
_numbers = itertools.count(1)


class _Stream:
    def __init__(self, generator, buffersize):
        self.generator = generator
        self.buffersize = buffersize
        self.items = []
        self.error = None  # what ended it
        self.is_closed = False
        self.changed = asyncio.Event()
        self.task = asyncio.ensure_future(self.run())

    async def run(self):
        try:
            async for item in self.generator:
                self.items.append(item)
                del item
                self.changed.set()
                while len(self.items) >= self.buffersize:
                    self.changed.clear()
                    await self.changed.wait()
            self.error = StopAsyncIteration()
        except BaseException as error:
            self.error = error
            if isinstance(error, (SystemExit, KeyboardInterrupt)):
                raise
        finally:
            self.changed.set()

    async def take(self):
        """Return (items, whether there may be more), or raise what the generator raised after the last of them."""
        while not self.items and self.error is None:
            self.changed.clear()
            await self.changed.wait()
        if self.items:
            items, self.items = self.items, []
            self.changed.set()
            return items, True
        if self.is_closed or isinstance(self.error, StopAsyncIteration):
            return [], False
        raise self.error

    async def close(self):
        self.is_closed = True
        self.task.cancel()
        await asyncio.wait([self.task])
        close = getattr(self.generator, "aclose", None)
        if close is not None:
            await close()


async def open_stream(function, args, kwargs, buffersize):
    """Begin with an async generator; return the worker's number and generation, and the stream's number."""
    generator = function(*args, **kwargs)
    if not hasattr(generator, "__anext__"):
        if inspect.iscoroutine(generator):
            generator.close()
        raise TypeError(f"{function!r} returned {type(generator).__name__}, which is no async iterator")
    number = next(_numbers)
    _current.streams[number] = _Stream(generator, buffersize)
    return (*_current.identify(), number)


async def next_items(number):
    """Return (items, whether there may be more) of a stream; when there is no more, it is closed."""
    stream = _current.streams.get(number)
    if stream is None:
        return [], False
    try:
        items, is_open = await stream.take()
    except BaseException:
        await close_stream(number)
        raise
    if not is_open:
        await close_stream(number)
    return items, is_open


async def close_stream(number):
    """End a stream: its generator is closed, and has cleaned up when this returns."""
    stream = _current.streams.get(number)
    if stream is None:
        return
    try:
        await stream.close()
    finally:
        _current.streams.pop(number, None)
        _current.leave_if_done()
