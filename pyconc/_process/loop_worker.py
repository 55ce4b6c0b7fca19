"""The work of a CoroutinePool's worker: it runs an event loop, and each call that it takes as a task of that loop.

    doorbell --> take: calls --------> tasks --------> finish
                  |'-> to cancel ---> task.cancel()
                  '--> listen: the doorbell will ring again

A coroutine asks about its call by pyconc.current_task(); what stands for the call then, a _Call, is made when it asks,
or when somebody wants the call to end.

The loop watches the worker's doorbell, and sleeps like any other loop: nothing polls.  A worker takes its share of the
calls that are ready, no more than it has room for.  Until it knows how long their first steps keep its loop busy, it
takes few at a time, so that a coroutine that computes for long holds up no call that an idle worker could run.
"""

import asyncio
import inspect
import itertools
import sys
import time
from functools import partial
from types import AsyncGeneratorType, CoroutineType, GeneratorType

from pyconc import _core, _current_task
from pyconc._process import black_box

__all__ = ["LoopWorker", "close_loop", "close_stream", "next_items", "open_stream"]

# The most calls to take at once, and the time that their first steps may keep the loop busy.
_BATCH_MAX = 256
_BATCH_NS = 1_000_000

# The attributes of what may be awaited that say where it is and what it awaits.
_AWAITS = {
    CoroutineType: ("cr_frame", "cr_await"),
    GeneratorType: ("gi_frame", "gi_yieldfrom"),
    AsyncGeneratorType: ("ag_frame", "ag_await"),
}

# An eager task that never waits is done when it has been made.  Python has them since 3.12.
_IS_EAGER = sys.version_info >= (3, 12)
_Task = partial(asyncio.Task, eager_start=True) if _IS_EAGER else asyncio.Task


class LoopWorker:
    """A worker and its event loop, whose thread alone uses this."""

    def __init__(self, worker, doorbell, loop_factory, concurrency, max_tasks):
        self._worker = worker
        self._doorbell = doorbell
        self._concurrency = concurrency
        self._left = max_tasks  # how many calls may still be taken, or None
        self._running = {}  # handle: task
        self._calls = {}  # handle or task: _Call
        self._starting = self._starting_handle = None  # the coroutine whose task was made last, and its handle
        self._begun = []  # (handle, task) pairs to look at after the tasks' first step
        self._batch = 1
        self.streams = {}  # number: Stream
        self._loop = (loop_factory or asyncio.new_event_loop)()
        asyncio.set_event_loop(self._loop)

    def serve(self):
        """Run calls until none are left, or until this worker has run as many as it may."""
        global _current
        _current = self
        _current_task.finders.append(_find_call)
        loop = self._loop
        loop.add_reader(self._doorbell, self._pump)
        loop.call_soon(self._pump)
        self._ends = False
        while not self._ends:
            try:
                loop.run_forever()
            except (SystemExit, KeyboardInterrupt):
                pass  # A task has raised it, and has it as its outcome.
        _current = None
        loop.remove_reader(self._doorbell)
        self._worker.leave()
        close_loop(loop)

    def identify(self):
        return self._worker.identify()

    def leave_if_done(self):
        """See whether this worker is to leave, now that a stream has ended."""
        self._loop.call_soon(self._pump)

    def _room(self):
        room = min(self._concurrency - len(self._running), self._batch)
        return room if self._left is None else min(room, self._left)

    def _pump(self):
        """Take as many calls as there is room for, and listen for more."""
        start = time.monotonic_ns()
        self._has_factory = self._loop.get_task_factory() is not None
        wanted, calls = self._worker.take(max(self._room(), 0))
        for item in wanted:
            if isinstance(item, tuple):
                self._start(*item)
            elif item in self._running:
                self._cancel(item)
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
            # The streams of a closed pool have no consumers.
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

    def _start(self, handle, function, args, kwargs, options=None):
        if options is not None and not self._begin(handle, function, *options):
            return
        try:
            awaitable = function(*args, **kwargs) if kwargs else function(*args)
            self._starting, self._starting_handle = awaitable, handle
            if type(awaitable) is not CoroutineType:
                if options is None:
                    self._calls[handle] = _Call(self._worker, handle, _core.name_of(function))
                task = self._make_future(awaitable, function)
            elif self._has_factory:
                task = self._loop.create_task(awaitable)
            else:
                task = _Task(awaitable, loop=self._loop)
        except BaseException as error:
            (self._finish if self._calls else self._worker.finish)(handle, error)
            return
        if task.done():
            (self._finish if self._calls else self._worker.finish)(handle, task)
        else:
            self._running[handle] = task
            if _IS_EAGER:
                task.add_done_callback(partial(self._task_done, handle))
            else:
                self._begun.append((handle, task))

    def _begin(self, handle, function, name, timeout, deadline):
        """Begin with a call that has options; return False if it is over already."""
        call = _Call(self._worker, handle, _core.name_of(function) if name is None else name)
        if not (timeout is deadline is None):
            call.timeout, call.deadline, call.began = timeout, deadline, self._worker.begin(handle)
            if call.began is None:
                return False
        self._calls[handle] = call
        return True

    def _make_future(self, awaitable, function):
        if not inspect.isawaitable(awaitable):
            raise TypeError(f"{function!r} returned {type(awaitable).__name__}, which cannot be awaited")
        return asyncio.ensure_future(awaitable, loop=self._loop)

    def _look_at_begun(self):
        """Finish tasks that are done after their first step, as most are; add a callback to the others."""
        was_full = self._room() <= 0
        begun, self._begun = self._begun, []
        for handle, task in begun:
            if task.done():
                del self._running[handle]
                (self._finish if self._calls else self._worker.finish)(handle, task)
            else:
                task.add_done_callback(partial(self._task_done, handle))
        if was_full or not self._running:
            self._pump()

    def _task_done(self, handle, task):
        was_full = self._room() <= 0
        del self._running[handle]
        (self._finish if self._calls else self._worker.finish)(handle, task)
        if was_full or not self._running:
            self._pump()

    # ---- what coroutines know of their calls ----

    def call_of(self, task):
        """Return the _Call whose coroutine is a task of this loop, or None if it is none's."""
        call = self._calls.get(task)
        if call is None:
            if task.get_coro() is self._starting:  # an eager task, whose first step this is
                handle = self._starting_handle
            else:
                handle = next((handle for handle, running in self._running.items() if running is task), None)
            if handle is not None:
                call = self._call_at(handle, task)
        return call

    def _call_at(self, handle, task):
        call = self._calls.get(handle)
        if call is None:
            call = self._calls[handle] = _Call(self._worker, handle, _core.name_of(task.get_coro()))
        if call.task is None:
            call.task = task
            self._calls[task] = call
        return call

    def _cancel(self, handle):
        """The parent has asked for the end of a call that runs."""
        task = self._running[handle]
        call = self._call_at(handle, task)
        if call.reason() == "timeout" and hasattr(task, "get_coro"):
            call.where = _describe(task.get_coro())
        if call.may_interrupt():
            task.cancel(*_message(call.reason()))

    def _finish(self, handle, outcome):
        """Finish a call of which there may be a _Call."""
        call = self._calls.pop(handle, None)
        where = None
        if call is not None:
            self._calls.pop(call.task, None)
            call.end()
            where = call.where
        self._worker.finish(handle, outcome, *(() if where is None else (where,)))


class _Call:
    """A call that this worker runs as a coroutine: what pyconc.Task needs of a _core.Call.

    Only the thread of the loop enters and leaves shields, and asks whether the call may be interrupted.
    """

    __slots__ = (
        "_handle",
        "_has_told",
        "_is_interrupted",
        "_reason",
        "_shields",
        "_worker",
        "began",
        "deadline",
        "name",
        "task",
        "timeout",
        "where",
    )

    def __init__(self, worker, handle, name):
        self._worker = worker
        self._handle = handle  # None: it is over, and _reason says why it was to end
        self._reason = None
        self._shields = 0
        self._has_told = False  # how far it is
        self._is_interrupted = False  # CancelledError was raised in it, or will be when it goes on
        self.name = name
        self.began = self.timeout = self.deadline = None
        self.task = None  # once somebody has asked for it
        self.where = None  # it was, as text, when its time was over

    def reason(self):
        handle = self._handle
        return self._reason if handle is None else self._worker.asked(handle)

    def end(self):
        self._reason = self.reason()
        self._handle = self.task = None
        if self._has_told:
            black_box.forget_progress()

    def tell(self, progress):
        if self._handle is not None:
            self._has_told = True
            black_box.note_progress(None, progress)
        return False  # it is told

    def may_interrupt(self):
        """Return whether the call is to be interrupted now that it is to end: once, and not within a shield."""
        if self._is_interrupted or self._shields or self._handle is None or self.reason() is None:
            return False
        self._is_interrupted = True
        return True

    def check(self):
        if self._handle is not None and not self._shields and self.reason() is not None:
            self._is_interrupted = True
            raise asyncio.CancelledError(*_message(self.reason()))

    def enter_shield(self):
        self._shields += 1

    def leave_shield(self):
        if self._shields > 0:
            self._shields -= 1
        if self.may_interrupt():
            raise asyncio.CancelledError(*_message(self.reason()))


def _describe(awaited):
    """Return where a coroutine waits, as faulthandler would write it."""
    lines = ["Coroutine (most recent await first):"]
    while (names := _AWAITS.get(type(awaited))) is not None and (frame := getattr(awaited, names[0])) is not None:
        lines.append(f'  File "{frame.f_code.co_filename}", line {frame.f_lineno} in {frame.f_code.co_name}')
        awaited = getattr(awaited, names[1])
    lines[1:] = lines[:0:-1]
    return "\n".join(lines)


def _message(reason):
    """Return the arguments of a CancelledError: none if that is what it says."""
    return ("the task has reached its time limit",) if reason == "timeout" else ()


def _find_call():
    """Return the _Call of the coroutine that asks; None: it is a task of its own, or none is running here."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return None  # no loop runs in this thread
    return None if task is None or _current is None else _current.call_of(task)


def close_loop(loop):
    """Close an event loop, after ending the tasks, generators and threads left in it, as asyncio.run() does."""
    try:
        rest = asyncio.all_tasks(loop)
        for task in rest:
            task.cancel()
        if rest:
            loop.run_until_complete(asyncio.gather(*rest, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        asyncio.set_event_loop(None)
        loop.close()


# ---- streams ----
#
# An async generator runs in a worker, ahead of its consumer by as many items as its buffer holds.  The consumer opens
# it by a call that any worker may take, and makes its other calls to that worker only: next_items() takes all items in
# the buffer, close_stream() ends the stream.

_current = None  # the LoopWorker of this process
_numbers = itertools.count(1)


class _Stream:
    def __init__(self, generator, buffersize):
        self.generator = generator
        self.buffersize = buffersize
        self.items = []
        self.error = None  # the exception that ended it
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
        """Return (items, whether there may be more), or raise the generator's exception after its last items."""
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
    """Start an async generator; return the worker's number and generation, and the stream's number."""
    generator = function(*args, **kwargs)
    if not hasattr(generator, "__anext__"):
        if inspect.iscoroutine(generator):
            generator.close()
        raise TypeError(f"{function!r} returned {type(generator).__name__}, which is no async iterator")
    number = next(_numbers)
    _current.streams[number] = _Stream(generator, buffersize)
    return (*_current.identify(), number)


async def next_items(number):
    """Return (items, whether there may be more) of a stream; close it at its end."""
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
    """End a stream; return when its generator is closed and has cleaned up."""
    stream = _current.streams.get(number)
    if stream is None:
        return
    try:
        await stream.close()
    finally:
        _current.streams.pop(number, None)
        _current.leave_if_done()
