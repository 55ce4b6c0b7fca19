"""Tasks that wait for what processes share; imported when the first of them does.

The tasks of a loop that wait for the same object are a *line*. It has a _core.SharedWatch, a thread in C that sleeps
for them and rings through a file descriptor. What is there to be taken is taken by a task, when it runs: nothing is on
its way to a task, to be lost when that is cancelled. Whoever leaves while it is its turn passes that on.

A line ends when nobody is in it. It belongs to its loop, by way of the reader that hears the bell: when the loop is
closed or goes away so does that, and the line with it. Only the loop's thread changes a line, except in close().
"""

import asyncio
import functools
import os
import time
import weakref

from pyconc import _core

__all__ = ["released", "take", "through", "until_notified", "until_set"]

_LOCK, _SEMAPHORE, _EVENT, _CONDITION = range(4)  # as SharedWatch has it

_lines = weakref.WeakKeyDictionary()  # a dictionary for each loop, of weak references
os.register_at_fork(after_in_child=_lines.clear)


def _key(cell, what):
    return cell._identity, cell._index, what


def _find(loop, cell, what):
    lines = _lines.get(loop)
    return None if lines is None else lines.get(_key(cell, what))


class _Waiter:
    __slots__ = ("future", "is_late", "look", "seen", "timer")

    def __init__(self, loop, look=None, seen=0):
        self.future = loop.create_future()
        self.timer = None
        self.is_late = False
        self.look, self.seen = look, seen

    def wake(self):
        if not self.future.done():
            self.future.set_result(None)

    def give_up(self):
        self.is_late = True
        self.wake()


class _Line:
    def __init__(self, loop, cell, what, seen=0):
        self._loop, self._key, self._pid = loop, _key(cell, what), os.getpid()
        self._waiters = []
        self._is_open = True
        self._watch = _core.SharedWatch(cell, what, seen)
        loop.add_reader(self._watch.fileno(), _Bell(self))
        _lines.setdefault(loop, weakref.WeakValueDictionary())[self._key] = self

    def _enter(self, *state):
        waiter = _Waiter(self._loop, *state)
        self._waiters.append(waiter)
        return waiter

    def _limit(self, waiter, timeout):
        if timeout is not None:
            waiter.timer = self._loop.call_later(timeout, waiter.give_up)

    def _leave(self, waiter):
        """Return whether there is anybody left, and a bell to be heard."""
        if waiter.timer is not None:
            waiter.timer.cancel()
        self._waiters.remove(waiter)
        if self._is_open and not self._waiters:
            _lines.get(self._loop, {}).pop(self._key, None)
            if self._pid == os.getpid():  # in the child of a fork, it would be the parent's reader
                self._loop.remove_reader(self._watch.fileno())
            self.close()
        return self._is_open

    def close(self):
        self._is_open = False
        self._watch.close()

    def hear(self):
        self._watch.clear()
        self.ring()


class _Bell:
    """The callback of the loop's reader. It goes with that, though tasks have the line."""

    __slots__ = ("_line",)

    def __init__(self, line):
        self._line = line

    def __call__(self):
        self._line.hear()

    def __del__(self):
        self._line.close()


class _Queue(_Line):
    """One after the other: for locks and permits, and at doors."""

    _turn = None  # whose it is to try

    def ring(self):
        if self._turn is None:
            self._turn = self._waiters[0]
            self._turn.wake()

    async def wait(self, attempt, timeout):
        waiter = self._enter()
        taken = False
        try:
            self._limit(waiter, timeout)
            while True:
                await waiter.future
                if self._turn is waiter:
                    taken = attempt()
                    if taken:
                        return taken
                    self._turn = None  # somebody was faster
                    self._watch.look()
                if waiter.is_late:
                    return False
                waiter.future = self._loop.create_future()
        finally:
            had_turn = self._turn is waiter
            self._turn = None if had_turn else self._turn
            if self._leave(waiter) and had_turn:
                # There may be more permits. A lock that was taken has to be released first.
                if taken and self._key[2] == _LOCK:
                    self._watch.look()
                else:
                    self.ring()


class _Crowd(_Line):
    """All at once: for events and conditions. Each knows what it has seen, and looks for itself."""

    def ring(self):
        waiting = []
        for waiter in self._waiters:
            if not waiter.future.done():
                waiter.seen, is_over = waiter.look(waiter.seen)
                waiter.wake() if is_over else waiting.append(waiter)
        if waiting:
            self._watch.look(waiting[0].seen)

    async def wait(self, look, seen, timeout):
        waiter = self._enter(look, seen)
        self._watch.look(seen)  # it may have rung for others only
        try:
            self._limit(waiter, timeout)
            await waiter.future
            return None if waiter.is_late else waiter.seen
        finally:
            self._leave(waiter)


async def take(cell, timeout=None, saved=0):
    """Take a lock or a permit, and return whether that was in time. saved: of a lock, as for its _try()."""
    if timeout is not None and timeout < 0:
        raise ValueError("timeout value must be a non-negative number")
    what = _LOCK if isinstance(cell, _core.SharedLock) else _SEMAPHORE
    # Those that wait come first; not before a task that has the lock already.
    comes_first = what == _LOCK and cell._is_owned()
    return await _in_turn(cell, what, functools.partial(cell._try, saved), timeout, comes_first)


async def through(door, attempt, timeout=None):
    """Try until that is true, whenever it is worth it, and return what it is then; or what is false, in time."""
    if timeout is not None and timeout < 0:
        raise ValueError("'timeout' must be a non-negative number")
    return await _in_turn(door, _SEMAPHORE, attempt, timeout)


async def _in_turn(cell, what, attempt, timeout, comes_first=False):
    loop = asyncio.get_running_loop()
    line = _find(loop, cell, what)
    if (line is None or timeout == 0 or comes_first) and (taken := attempt()):
        return taken
    if timeout == 0:
        return False
    if line is None:
        line = _Queue(loop, cell, what)
    return await line.wait(attempt, timeout)


def released(cell):
    """Let the first task of this loop try that waits for the lock or the permit."""
    loop = asyncio._get_running_loop()
    if loop is not None:
        line = _find(loop, cell, _LOCK if isinstance(cell, _core.SharedLock) else _SEMAPHORE)
        if line is not None:
            line.ring()


async def _until(cell, what, look, seen, timeout):
    """Wait until look() finds that it is over, and return what it has seen; None after so many seconds."""
    loop = asyncio.get_running_loop()
    seen, is_over = look(seen)
    if is_over:
        return seen
    if timeout is not None and timeout <= 0:
        return None
    line = _find(loop, cell, what) or _Crowd(loop, cell, what, seen)
    return await line.wait(look, seen, timeout)


async def until_set(event, timeout):
    """Wait until an event is set, and return whether that was in time."""
    return (
        await _until(event, _EVENT, lambda times: (times, event._was_set(times)), event._times(), timeout) is not None
    )


async def until_notified(condition, timeout):
    """Do as a condition's wait()."""
    asyncio.get_running_loop()  # raises what has to be raised before the lock is released
    lock = condition._lock
    if not lock._is_owned():
        raise RuntimeError("cannot wait on un-acquired lock")
    deadline = None if timeout is None else time.monotonic() + timeout
    ticket, turn = condition._enter()
    look = functools.partial(condition._look, ticket)
    granted = False
    try:
        while not granted and turn is not None:
            saved = lock._release_save()
            try:
                left = None if deadline is None else deadline - time.monotonic()
                turn = await _until(condition, _CONDITION, look, turn, left)
            except GeneratorExit:  # the loop is closed: nothing can be awaited any more
                raise
            except BaseException:
                await _take_again(lock, saved)
                raise
            await _take_again(lock, saved)
            granted = condition._take(ticket)
    finally:
        if not granted and lock._is_owned():
            condition._leave()
    return granted


async def _take_again(lock, saved):
    """Take a condition's lock again, and only then be cancelled, as asyncio's conditions do."""
    cancelled = None
    while True:
        try:
            await take(lock, None, saved)
            break
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        try:
            raise cancelled
        finally:
            cancelled = None  # or the traceback refers to itself
