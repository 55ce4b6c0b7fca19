"""Events, conditions and barriers that processes share."""

import threading
import time

from pyconc import _core
from pyconc._process import pickling
from pyconc.shared import _memory
from pyconc.shared._locks import AnyLock, Lock, RLock
from pyconc.shared._sent import Sent, register

__all__ = ["Barrier", "Condition", "Event"]

pickling.modules_of_known_reducers.add(__name__)


class Event(Sent, _core.SharedEvent):
    """A threading.Event for processes.

    Raises MemoryError if there is no room.

        >>> event = pyconc.shared.Event()
        >>> with pyconc.ProcessPoolExecutor(max_workers=1) as pool:
        ...     waiting = pool.submit(event.wait)
        ...     event.set()
        ...     waiting.result()
        True
    """

    __module__ = __package__
    __slots__ = ("__weakref__",)

    def __new__(cls):
        return cls._at(_memory.heap(), -1, 0)

    async def async_wait(self, timeout=None):
        """Wait until the event is set, while the event loop goes on, and return True; False after `timeout` seconds.

        Raises RuntimeError if no loop runs or no thread can be started.

            >>> import asyncio
            >>> asyncio.run(pyconc.shared.Event().async_wait(timeout=0.001))
            False
        """
        from pyconc.shared import _async

        return await _async.until_set(self, timeout)

    def __repr__(self):
        return f"<pyconc.shared.{type(self).__name__} {'set' if self.is_set() else 'unset'}>"


class Condition(Sent, _core.SharedCondition):
    """A threading.Condition for processes.

    lock: a Lock or RLock of this module; None makes an RLock. Raises TypeError if it is another, MemoryError if there
    is no room.

    A notification that was meant for a process that has died goes to another one that waits, so wait() may return once
    more than it was notified. One whose sender is killed in the middle of it may be lost; the next to hold the lock is
    told that it was abandoned.

        >>> condition = pyconc.shared.Condition()
        >>> with condition:
        ...     condition.wait(timeout=0.001)
        False
    """

    __module__ = __package__
    __slots__ = ("__weakref__", "_lock")

    def __new__(cls, lock=None):
        if lock is not None and not isinstance(lock, AnyLock):
            raise TypeError("lock must be a Lock or RLock of pyconc.shared")
        return cls._at(_memory.heap(), -1, 0, lock)

    @classmethod
    def _at(cls, heap, index, serial, lock=None):
        self = super()._at(heap, index, serial)
        # Without another, the lock of its own cell.
        self._lock = RLock._at(heap, self._index, 0, RLock._kind) if lock is None else lock
        return self

    def _own_state(self):
        is_own = (self._lock._identity, self._lock._index) == (self._identity, self._index)
        return () if is_own else (self._lock,)

    def __repr__(self):
        return f"<pyconc.shared.{type(self).__name__} {self._lock!r}>"

    def __enter__(self):
        return self._lock.__enter__()

    def __exit__(self, *error):
        return self._lock.__exit__(*error)

    def __aenter__(self):
        return self._lock.__aenter__()

    def __aexit__(self, *error):
        return self._lock.__aexit__(*error)

    @property
    def abandoned(self):
        """That of its lock."""
        return self._lock.abandoned

    def acquire(self, blocking=True, timeout=-1):
        """Take the lock: with `blocking` and `timeout` as for its acquire(), which may raise ValueError.

        >>> condition = pyconc.shared.Condition()
        >>> condition.acquire()
        True
        """
        return self._lock.acquire(blocking, timeout)

    async def async_acquire(self, timeout=None):
        """Take the lock, while the event loop goes on: with `timeout` as for its async_acquire(), which may raise.

        >>> import asyncio
        >>> asyncio.run(pyconc.shared.Condition().async_acquire())
        True
        """
        return await self._lock.async_acquire(timeout)

    def release(self):
        """Release the lock. Raises RuntimeError if this thread does not hold it.

        >>> condition = pyconc.shared.Condition()
        >>> condition.acquire()
        True
        >>> condition.release()
        """
        self._lock.release()

    def locked(self):
        """Return whether the lock is held. Raises nothing.

        >>> pyconc.shared.Condition().locked()
        False
        """
        return self._lock.locked()

    def wait(self, timeout=None):
        """Release the lock until notified, and return True with the lock; False after `timeout` seconds.

        Raises RuntimeError if this thread does not hold the lock, and what the handler of a signal raises meanwhile,
        with the lock.

            >>> condition = pyconc.shared.Condition()
            >>> with condition:
            ...     condition.wait(0.001)
            False
        """
        lock = self._lock
        if not lock._is_owned():
            raise RuntimeError("cannot wait on un-acquired lock")
        deadline = None if timeout is None else time.monotonic() + timeout
        ticket, turn = self._enter()
        granted = False
        try:
            while not granted and turn is not None:
                saved = lock._release_save()
                try:
                    turn = self._sleep(ticket, turn, None if deadline is None else deadline - time.monotonic())
                finally:
                    lock._acquire_restore(saved)
                granted = self._take(ticket)
        finally:
            if not granted:
                self._leave()
        return granted

    def wait_for(self, predicate, timeout=None):
        """Wait until predicate() is true and return that; or what it returned last, after `timeout` seconds.

        Raises what wait() and the predicate raise.

            >>> condition = pyconc.shared.Condition()
            >>> with condition:
            ...     condition.wait_for(lambda: 0, timeout=0.001)
            0
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not (result := predicate()):
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                break
            self.wait(left)
        return result

    async def async_wait(self, timeout=None):
        """Release the lock until notified, while the event loop goes on, and return True with the lock.

        Returns False after `timeout` seconds, with the lock. Raises RuntimeError if this task does not hold the lock,
        or no thread can be started. A task that is cancelled has the lock again before it sees CancelledError, as
        with asyncio's conditions.

            >>> import asyncio
            >>> async def main(condition):
            ...     async with condition:
            ...         return await condition.async_wait(timeout=0.001)
            >>> asyncio.run(main(pyconc.shared.Condition()))
            False
        """
        from pyconc.shared import _async

        return await _async.until_notified(self, timeout)

    async def async_wait_for(self, predicate, timeout=None):
        """Wait until predicate() is true and return that; or what it returned last, after `timeout` seconds.

        The predicate is a plain function, called with the lock. Raises what async_wait() and the predicate raise.

            >>> import asyncio
            >>> async def main(condition):
            ...     async with condition:
            ...         return await condition.async_wait_for(lambda: 0, timeout=0.001)
            >>> asyncio.run(main(pyconc.shared.Condition()))
            0
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not (result := predicate()):
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                break
            await self.async_wait(left)
        return result

    def notify(self, n=1):
        """Let n of those that wait go on, once the lock is released. RuntimeError if this thread does not hold it.

        >>> condition = pyconc.shared.Condition()
        >>> with condition:
        ...     condition.notify(2)
        """
        if not self._lock._is_owned():
            raise RuntimeError("cannot notify on un-acquired lock")
        self._notify(max(n, 0))

    def notify_all(self):
        """Let all that wait go on. Raises RuntimeError if this thread does not hold the lock.

        >>> condition = pyconc.shared.Condition()
        >>> with condition:
        ...     condition.notify_all()
        """
        self.notify(2**32 - 1)


class Barrier(threading.Barrier):
    """A threading.Barrier for processes.

    parties: how many wait for each other. action: called by one of them, before any goes on. timeout: of wait(), in
    seconds. Raises ValueError if parties < 1, MemoryError if there is no room. Whoever dies while it waits has been
    counted; whoever dies before does not come, so that the others need a timeout, or abort().

        >>> barrier = pyconc.shared.Barrier(2)
        >>> with pyconc.ProcessPoolExecutor(max_workers=1) as pool:
        ...     other = pool.submit(barrier.wait)
        ...     sorted([barrier.wait(), other.result()])
        [0, 1]
    """

    __module__ = __package__

    def __init__(self, parties, action=None, timeout=None):
        if parties < 1:
            raise ValueError("parties must be >= 1")
        self._cond = Condition(Lock())
        self._parties = parties
        self._action = action
        self._timeout = timeout

    async def async_wait(self, timeout=None):
        """Wait for the others, while the event loop goes on, and return a number that none of them gets.

        timeout: in seconds, after which the barrier breaks for all; None: the barrier's. The last to come calls the
        action, and does not await it. Raises threading.BrokenBarrierError, what the action raises, and RuntimeError if
        no loop runs or no thread can be started. A task that is cancelled was never there.

            >>> import asyncio
            >>> async def main(barrier):
            ...     return sorted(await asyncio.gather(barrier.async_wait(), barrier.async_wait()))
            >>> asyncio.run(main(pyconc.shared.Barrier(2)))
            [0, 1]
        """
        # As threading's wait(): filling is 0, draining 1, being reset -1, broken -2.
        timeout = self._timeout if timeout is None else timeout
        async with self._cond:
            await self._cond.async_wait_for(lambda: self._state not in (-1, 1))
            if self._state < 0:
                raise threading.BrokenBarrierError
            index = self._count
            self._count += 1
            try:
                if index + 1 == self._parties:
                    self._release()
                else:
                    if not await self._cond.async_wait_for(lambda: self._state != 0, timeout):
                        self._break()
                    if self._state < 0:
                        raise threading.BrokenBarrierError
                return index
            finally:
                self._count -= 1
                self._exit()

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        register(cls, cls._pack)

    def _pack(self):
        return _barrier, (type(self), self._cond, self._parties, self._action, self._timeout)

    # Where threading keeps them; guarded by the condition's lock.
    _state = property(lambda self: self._cond._first, lambda self, value: setattr(self._cond, "_first", value))
    _count = property(lambda self: self._cond._second, lambda self, value: setattr(self._cond, "_second", value))


def _barrier(cls, cond, *state):
    barrier = cls.__new__(cls)
    barrier._cond = cond
    barrier._parties, barrier._action, barrier._timeout = state
    return barrier


register(Barrier, Barrier._pack)
