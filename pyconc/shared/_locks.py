"""Locks and semaphores that processes share."""

from pyconc import _core
from pyconc.shared import _memory
from pyconc.shared._sent import Sent

__all__ = ["AnyLock", "BoundedSemaphore", "Lock", "RLock", "Semaphore"]


class Taken:
    """The methods of locks and semaphores for tasks."""

    __slots__ = ()

    async def async_acquire(self, timeout=None):
        """Take it, while the event loop goes on, and return True; False if that was not possible for `timeout` seconds.

        The tasks of a loop get it in the order in which they asked. Raises ValueError if the timeout is negative,
        RuntimeError if no loop runs or no thread can be started, and what acquire() raises.

        A Lock is held by the thread, and no other task gets it until it is released, by any code of that thread. An
        RLock is held by the task, which may take it again and has to release it; what the thread has taken by acquire()
        is no task's. (Before Python 3.12 asyncio.wait_for() runs what it awaits in a task of its own: use `timeout`.)

            >>> import asyncio
            >>> async def main(lock):
            ...     async with lock:
            ...         return await lock.async_acquire(timeout=0.001)
            >>> asyncio.run(main(pyconc.shared.Lock())), asyncio.run(main(pyconc.shared.Semaphore(2)))
            (False, True)
        """
        from pyconc.shared import _async

        return await _async.take(self, timeout)

    def _tell_tasks(self):
        from pyconc.shared import _async

        _async.released(self)


_RAISES = {"tell": "", "raise": "!"}


class AnyLock(Sent, Taken, _core.SharedLock):
    __slots__ = ("_how",)
    _kind = ""

    def __new__(cls, *, on_abandoned="tell"):
        if on_abandoned not in _RAISES:
            raise ValueError("on_abandoned is 'tell' or 'raise'")
        return cls._at(_memory.heap(), -1, 0, cls._kind + _RAISES[on_abandoned])

    @classmethod
    def _at(cls, heap, index, serial, how=""):
        self = super()._at(heap, index, serial, how)
        self._how = how
        return self

    def _own_state(self):
        return (self._how,)

    def __repr__(self):
        return f"<pyconc.shared.{type(self).__name__} {'locked' if self.locked() else 'unlocked'}>"


class Lock(AnyLock):
    """A threading.Lock for processes, that the death of its holder releases.

    on_abandoned: what a thread is told that gets the lock because its holder ended: "tell" sets `abandoned` to that
    one's process for as long as the lock is held, "raise" has acquire() raise LockAbandoned, without the lock. Raises
    ValueError if it is neither, MemoryError if there is no room, OSError where the kernel has no robust locks.

    The thread that took the lock has to release it. In the child of a fork nobody holds it: a `with` around a fork
    raises RuntimeError at its end in the child. `owner` is the process that holds it at the moment, or None.

        >>> import signal
        >>> def die(lock):
        ...     lock.acquire()
        ...     signal.raise_signal(signal.SIGKILL)
        >>> lock = pyconc.shared.Lock()
        >>> with pyconc.ProcessPoolExecutor(max_workers=1) as pool:
        ...     died = pool.submit(die, lock).exception()
        ...     with lock:
        ...         print(lock.abandoned == died.pid)
        True
    """

    __module__ = __package__
    __slots__ = ("__weakref__",)


class RLock(AnyLock):
    """A threading.RLock for processes, that the death of its holder releases.

    on_abandoned: as for Lock. Raises what Lock does. The thread that holds it may take it again, and releases it as
    often.

        >>> lock = pyconc.shared.RLock()
        >>> with lock, lock:
        ...     lock.locked()
        True
        >>> lock.locked()
        False
    """

    __module__ = __package__
    __slots__ = ("__weakref__",)
    _kind = "r"


class Semaphore(Sent, Taken, _core.SharedSemaphore):
    """A threading.Semaphore for processes.

    value: how many permits it begins with. Raises ValueError if that is negative or more than 2147483647, MemoryError
    if there is no room. Any thread of any process may release. A process that dies takes its permits along.

        >>> semaphore = pyconc.shared.Semaphore(2)
        >>> with semaphore:
        ...     semaphore.get_value()
        1
    """

    __module__ = __package__
    __slots__ = ("__weakref__",)

    def __new__(cls, value=1):
        return cls._make(value, 0)

    @classmethod
    def _make(cls, value, most):
        if not 0 <= value < 2**31:
            raise ValueError("semaphore initial value must be >= 0" if value < 0 else "semaphore value is too large")
        self = cls._at(_memory.heap(), -1, 0)
        self._init(value, most)
        return self

    def __repr__(self):
        return f"<pyconc.shared.{type(self).__name__} value={self.get_value()}>"


class BoundedSemaphore(Semaphore):
    """A threading.BoundedSemaphore for processes: one that never has more permits than it began with.

    value: as for Semaphore. Raises what Semaphore does; release() raises ValueError if there would be too many.

        >>> semaphore = pyconc.shared.BoundedSemaphore(1)
        >>> semaphore.release()
        Traceback (most recent call last):
            ...
        ValueError: Semaphore released too many times
    """

    __module__ = __package__
    __slots__ = ()

    def __new__(cls, value=1):
        return cls._make(value, value + 1)
