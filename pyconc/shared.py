"""Locks, events, numbers, lists, dicts, arrays and queues that processes share, in memory and without a server.

    lock = pyconc.shared.Lock()
    total = pyconc.shared.Counter()

They have the signatures of threading's, of multiprocessing's Value and Array, of list, dict and queue.Queue. They can
be arguments and results of pyconc's executors, arguments of an initializer and of multiprocessing.Process, and are
inherited by a fork; a worker that was started before them can have them, too. Nothing has a name in the file system,
and nothing is left when the last process has ended, however it ended. Other pickles of them are refused: there is
nothing by which a stranger could find them. They can be in items of each other: after `table["rows"] = shared.List()`
every reader of the item gets the same list.

A process that dies holds nobody up. A lock that it held goes to the next waiter, which is told; if it was waiting
itself, or was just woken, it is passed over. What a lock guards may be half changed then: only the program can judge.

In an asyncio program, on any loop, `async with` takes locks, conditions and semaphores, and what waits has a twin that
is awaited: async_acquire, async_wait, async_wait_for. (The whole word, as aiologic has it: the `a` of aiter would make
`await` of wait.) The loop goes on meanwhile. Each object that tasks of a loop wait for costs a thread that sleeps; what
can be had at once costs none. A wait that is cancelled takes nothing along: what had just become free goes to the next.
A task that waits on a loop that is closed is dropped, and nobody waits in the child of a fork.

All may be used by any thread. A lock belongs to the thread that took it: no other can release it, unlike threading's;
for that there are semaphores. When that thread ends, the lock is free. After a fork, the child's thread holds none of
its parent's locks. An interpreter that exits need not release anything.

Memory is allocated with the object, and that of a list, a dict or a queue with what is in it: MemoryError if there is
none, or if there are 65536 objects (a queue counts as four), 262144 pairs of one object in another, or 64 GB. An object
lives as long as any process has it, or an item of another that lives, and while a pickle of it is on its way; one that
nobody takes keeps its memory, 128 bytes and what is in it, until the program ends. Objects that only have each other,
and what a process had that was killed, go when there is no room for more. (Processes that made objects before they got
any of each other have memory each, and what is in an item of the other's stays until the program ends.)
"""

import copyreg
import enum
import functools
import importlib
import marshal
import math
import operator
import os
import pickle
import sys
import threading
import time
import types
import weakref
from collections.abc import ItemsView, KeysView, MutableMapping, MutableSequence, ValuesView
from multiprocessing import context, reduction

from pyconc import _core
from pyconc._lock_abandoned import LockAbandoned
from pyconc._process import pickling
from pyconc._queue_errors import Empty, Full, ShutDown

__all__ = [
    "Array",
    "Barrier",
    "BoundedSemaphore",
    "Condition",
    "Counter",
    "Dict",
    "Event",
    "List",
    "Lock",
    "LockAbandoned",
    "Queue",
    "RLock",
    "Ref",
    "Semaphore",
    "ShutDown",
    "Value",
    "share",
]


# ---- the memory ----
#
# A process makes a heap with its first object, unless objects of another process have brought theirs: so the processes
# of a program have one, as a rule, and a few work as well.

_heaps = {}  # by identity, for good: the kernel may know of locks in it


def _heap():
    """Return the heap for new objects."""
    # Two threads may both make one: either is good.
    return next(iter(_heaps.values()), None) or _keep(_core.SharedHeap())


def _keep(heap):
    return _heaps.setdefault(heap.identity, heap)


def _before_fork():
    for heap in list(_heaps.values()):
        heap.before_fork()


def _after_fork():
    for heap in list(_heaps.values()):
        heap.after_fork()


os.register_at_fork(before=_before_fork, after_in_child=_after_fork)


def _reduce_heap(heap):
    if context.get_spawning_popen() is not None:
        return _heap_of_fd, (heap.identity, reduction.DupFd(heap.fileno()))
    return _heap_of_process, (heap.identity, os.getpid(), heap.fileno())


def _heap_of_fd(identity, passed):
    fd = passed.detach()
    try:
        return _heaps.get(identity) or _keep(_core.SharedHeap(fd))
    finally:
        os.close(fd)


def _heap_of_process(identity, pid, fd):
    heap = _heaps.get(identity)
    if heap is None:
        try:
            copy = os.open(f"/proc/{pid}/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)
            try:
                heap = _keep(_core.SharedHeap(copy))
            finally:
                os.close(copy)
        except OSError as error:
            raise RuntimeError(f"the memory of a shared object cannot be had of process {pid}: {error}") from error
        if heap.identity != identity:
            raise RuntimeError(f"the memory of a shared object is gone with process {pid}")
    return heap


pickling.modules_of_known_reducers.add(__name__)
reduction.register(_core.SharedHeap, _reduce_heap)


class _Sent:
    """The base of all: how they travel."""

    __slots__ = ()

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        reduction.register(cls, cls._pack)

    def __reduce_ex__(self, protocol):
        return _pack_in_item(self, *self._own_state())

    def _pack(self):
        return _unpack, (type(self), *_send(self), *self._own_state())

    def _own_state(self):
        return ()

    @classmethod
    def _at(cls, heap, index, serial, how="", *state):
        return super().__new__(cls, heap, index, serial, how)


class _Taken:
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
        from pyconc import _shared_async

        return await _shared_async.take(self, timeout)

    def _tell_tasks(self):
        from pyconc import _shared_async

        _shared_async.released(self)


def _send(cell):
    """Return (heap, index, serial), for a pickle that is going to another process, unless it fails."""
    place = cell._send()
    pickling.on_failure(cell._received)
    return (_heaps[cell._identity], *place)


def _unpack(cls, heap, index, serial, *state):
    self = getattr(cls, "_at", cls)(heap, index, serial, *state)
    self._received()
    return self


# An object in an item of a container: whoever reads that has their memory, mostly, which is the same. The container
# holds it, and in between the process that pickles or unpickles the item.


def _pack_in_item(cell, *state):
    sent = cell._send_in_item()
    if sent is None:
        kind = type(cell).__name__.lstrip("_")
        raise TypeError(
            f"a shared {kind} travels as an argument or result of an executor of pyconc, or of a "
            "multiprocessing.Process, or in an item of another shared object, and in no other pickle"
        )
    return _unpack_from_item, (type(cell), cell._identity, *sent, *state)


def _unpack_from_item(cls, identity, index, serial, *state):
    heap = _heaps.get(identity)
    if heap is None:
        raise RuntimeError(f"the memory of a shared {cls.__name__} that is in an item is another program's")
    return getattr(cls, "_at", cls)(heap, index, serial, *state)


# ---- locks ----

_RAISES = {"tell": "", "raise": "!"}


class _Lock(_Sent, _Taken, _core.SharedLock):
    __slots__ = ("_how",)
    _kind = ""

    def __new__(cls, *, on_abandoned="tell"):
        if on_abandoned not in _RAISES:
            raise ValueError("on_abandoned is 'tell' or 'raise'")
        return cls._at(_heap(), -1, 0, cls._kind + _RAISES[on_abandoned])

    @classmethod
    def _at(cls, heap, index, serial, how=""):
        self = super()._at(heap, index, serial, how)
        self._how = how
        return self

    def _own_state(self):
        return (self._how,)

    def __repr__(self):
        return f"<pyconc.shared.{type(self).__name__} {'locked' if self.locked() else 'unlocked'}>"


class Lock(_Lock):
    """A threading.Lock for processes, that the death of its holder releases.

    on_abandoned: what a thread is told that gets the lock because its holder ended: "tell" sets `abandoned` to that
    one's process for as long as the lock is held, "raise" has acquire() raise LockAbandoned, without the lock. Raises
    ValueError if it is neither, MemoryError if there is no room, OSError where the kernel has no robust locks.

    The thread that took the lock has to release it. In the child of a fork nobody holds it: a `with` around a fork
    raises RuntimeError at its end in the child.

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

    __slots__ = ("__weakref__",)


class RLock(_Lock):
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

    __slots__ = ("__weakref__",)
    _kind = "r"


class Semaphore(_Sent, _Taken, _core.SharedSemaphore):
    """A threading.Semaphore for processes.

    value: how many permits it begins with. Raises ValueError if that is negative or more than 2147483647, MemoryError
    if there is no room. Any thread of any process may release. A process that dies takes its permits along.

        >>> semaphore = pyconc.shared.Semaphore(2)
        >>> with semaphore:
        ...     semaphore.get_value()
        1
    """

    __slots__ = ("__weakref__",)

    def __new__(cls, value=1):
        return cls._make(value, 0)

    @classmethod
    def _make(cls, value, most):
        if not 0 <= value < 2**31:
            raise ValueError("semaphore initial value must be >= 0" if value < 0 else "semaphore value is too large")
        self = cls._at(_heap(), -1, 0)
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

    __slots__ = ()

    def __new__(cls, value=1):
        return cls._make(value, value + 1)


class Event(_Sent, _core.SharedEvent):
    """A threading.Event for processes.

    Raises MemoryError if there is no room.

        >>> event = pyconc.shared.Event()
        >>> with pyconc.ProcessPoolExecutor(max_workers=1) as pool:
        ...     waiting = pool.submit(event.wait)
        ...     event.set()
        ...     waiting.result()
        True
    """

    __slots__ = ("__weakref__",)

    def __new__(cls):
        return cls._at(_heap(), -1, 0)

    async def async_wait(self, timeout=None):
        """Wait until the event is set, while the event loop goes on, and return True; False after `timeout` seconds.

        Raises RuntimeError if no loop runs or no thread can be started.

            >>> import asyncio
            >>> asyncio.run(pyconc.shared.Event().async_wait(timeout=0.001))
            False
        """
        from pyconc import _shared_async

        return await _shared_async.until_set(self, timeout)

    def __repr__(self):
        return f"<pyconc.shared.{type(self).__name__} {'set' if self.is_set() else 'unset'}>"


class Condition(_Sent, _core.SharedCondition):
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

    __slots__ = ("__weakref__", "_lock")

    def __new__(cls, lock=None):
        if lock is not None and not isinstance(lock, _Lock):
            raise TypeError("lock must be a Lock or RLock of pyconc.shared")
        return cls._at(_heap(), -1, 0, lock)

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
        from pyconc import _shared_async

        return await _shared_async.until_notified(self, timeout)

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
        self._notify(n)

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
        reduction.register(cls, cls._pack)

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


reduction.register(Barrier, Barrier._pack)


# ---- numbers ----


_TYPECODES = "cbBhHiIlLqQfd?"


def _typecode(code):
    if not isinstance(code, str) or len(code) != 1 or code not in _TYPECODES:
        raise TypeError(f"bad typecode {code!r}: it must be one of {', '.join(_TYPECODES)}, u")
    return code


def _typecode_or_type(given):
    """Return the typecode of a number or byte, or else the type of ctypes, which has none."""
    if isinstance(given, str):
        return _typecode(given) if given != "u" else importlib.import_module("ctypes").c_wchar
    code = getattr(given, "_type_", None)
    return code if isinstance(code, str) and code in _TYPECODES else given


class _OnlyWithLock:
    """A method that an object which was made without a lock does not have, as hasattr() is to tell."""

    def __init__(self, method):
        functools.update_wrapper(self, method)

    def __get__(self, owner, cls=None):
        if owner is None:
            return self.__wrapped__
        if owner._lock is False:
            raise AttributeError(f"the {type(owner).__name__} was made without a lock")
        return types.MethodType(self.__wrapped__, owner)


class _WithLock:
    """The methods of values and arrays for changes in several steps.

    `_lock` is the lock, True for that of its own cell that nobody has asked for yet, or False.
    """

    __slots__ = ()

    @staticmethod
    def _check_lock(lock):
        if not isinstance(lock, bool) and lock is not None and not hasattr(lock, "acquire"):
            raise AttributeError(f"{lock!r} has no method 'acquire'")
        return lock is None or lock

    def _lock_state(self):
        lock = self._lock
        is_own = isinstance(lock, _Lock) and (lock._identity, lock._index) == (self._identity, self._index)
        return is_own or lock

    @_OnlyWithLock
    def get_lock(self):
        """Return the lock that goes with it, for changes in several steps. AttributeError if it was made without.

        >>> value = pyconc.shared.Value("i", 1)
        >>> with value.get_lock():
        ...     value.value *= 2
        >>> value.value
        2
        """
        if self._lock is True:
            self._lock = RLock._at(_heaps[self._identity], self._index, 0, RLock._kind)
        return self._lock

    @_OnlyWithLock
    def acquire(self, *args, **kwargs):
        """Take its lock: get_lock().acquire(). AttributeError if it was made without.

        args, kwargs: what acquire() of that lock takes. Raises what that does.

            >>> value = pyconc.shared.Value("i")
            >>> value.acquire(timeout=1)
            True
            >>> value.release()
        """
        return self.get_lock().acquire(*args, **kwargs)

    @_OnlyWithLock
    def release(self):
        """Release its lock: get_lock().release(). Raises what that does, AttributeError if it was made without.

        >>> value = pyconc.shared.Value("i")
        >>> value.acquire()
        True
        >>> value.release()
        """
        self.get_lock().release()

    def __enter__(self):
        return self.get_lock().__enter__()

    def __exit__(self, *error):
        return self.get_lock().__exit__(*error)


class _Number(_Sent, _core.SharedNumber):
    __slots__ = ()

    def __repr__(self):
        return f"<pyconc.shared.{type(self).__name__} {self.value!r}>"


class Value(_WithLock, _Number):
    """A multiprocessing.Value of one number: read, written and changed in single steps, so that it needs no lock.

    typecode_or_type: one of "bBhHiIlLqQ" (integers, which go round at their size), "fd" (floats), "?" (bool) and "c" (a
    byte, as bytes), or ctypes' name of it, as c_double. args: the value that it begins with. lock: what get_lock()
    returns: True makes an RLock; with False there is no get_lock(). Raises TypeError if there is no such type, or the
    value is of another, AttributeError if the lock is none, and MemoryError if there is no room.

    `value` is the value; `value.value += 1` is two steps, for which there are add(), or get_lock(), which `with value:`
    takes, too.

        >>> best = pyconc.shared.Value("d", 1.5)
        >>> with best.get_lock():
        ...     best.value = max(best.value, 2.5)
        >>> best.value
        2.5

    Of another type of ctypes, or "u", a wide character, it is an object with that one's fields as attributes, made of
    the args and fields that the type takes; a pointer is a TypeError. Each access takes the lock, if there is one;
    get_obj() is the object of ctypes, without it. Nothing of that is one step: a process that is killed may leave half.

        >>> import ctypes
        >>> class Point(ctypes.Structure):
        ...     _fields_ = [("x", ctypes.c_double), ("y", ctypes.c_double)]
        >>> point = pyconc.shared.Value(Point, 1, y=2)
        >>> with point.get_lock():
        ...     point.x += 1
        >>> point.x, point.y
        (2.0, 2.0)
    """

    __slots__ = ("__weakref__", "_lock", "_typecode")

    def __new__(cls, typecode_or_type, *args, lock=True, **fields):
        code = _typecode_or_type(typecode_or_type)
        lock = cls._check_lock(lock)
        if not isinstance(code, str):
            return _make_object(code, args, fields, lock)
        self = cls._at(_heap(), -1, 0, code, lock)
        self._begin(*args, **fields)
        return self

    def _begin(self, value=0):
        if not (type(value) is int and value == 0):
            self.value = value

    @classmethod
    def _at(cls, heap, index, serial, typecode, lock):
        self = super()._at(heap, index, serial, typecode)
        self._typecode, self._lock = typecode, lock
        return self

    def _own_state(self):
        return self._typecode, self._lock_state()

    def get_obj(self):
        """Return what has the `value` that the lock is for: itself, which needs none. Raises nothing.

        >>> pyconc.shared.Value("i", 5).get_obj().value
        5
        """
        return self


def _make_object(kind, args, fields, lock):
    from pyconc import _shared_ctypes

    made = _shared_ctypes.SharedObject(kind, Array("B", _shared_ctypes.bytes_of(kind), lock=lock))
    made.get_obj().__init__(*args, **fields)
    return made


class Counter(_Number):
    """An integer of 64 bits that processes count with: `counter += 1` is one step that no other comes between.

    value: what it begins with. Raises TypeError if that is no integer, MemoryError if there is no room.

        >>> counter = pyconc.shared.Counter()
        >>> with pyconc.ProcessPoolExecutor(max_workers=2) as pool:
        ...     _ = list(pool.map(counter.add, [1, 2, 3, 4]))
        >>> counter -= 3
        >>> int(counter)
        7
    """

    __slots__ = ("__weakref__",)

    def __new__(cls, value=0):
        self = cls._at(_heap(), -1, 0, "q")
        self.value = value
        return self

    def _own_state(self):
        return ("q",)

    def __int__(self):
        return self.value

    def __iadd__(self, n):
        self.add(n)
        return self

    def __isub__(self, n):
        self.add(-n)
        return self


# ---- arrays ----


class Array(_WithLock, _Sent, _core.SharedArray):
    """A multiprocessing.Array: numbers of one type, as many as it is made with, in memory that processes share.

    typecode_or_type: one of "bBhHiIlLqQ" (integers, which go round at their size), "fd" (floats), "?" (bool) and "c"
    (bytes), or ctypes' name of it, as c_double. size_or_initializer: how many items, which are zero, or what it begins
    with, in one dimension. lock: what get_lock() returns: True makes an RLock; with False there is no get_lock().
    Raises TypeError if there is no such type or an item is of another, AttributeError if the lock is none, ValueError
    if the size is negative, and MemoryError if there is no room for it, or it is larger than 32 GB.

    An item is read and written in one step; a slice, which gives a list, or bytes of "c", is not, nor is `+=`: for that
    there is get_lock(). A slice that is set keeps its size; it is copied at memory speed from arrays of the same type,
    numpy's and others. With typecode "c", `raw` is all of it as bytes, `value` those before the first zero.

    It is a buffer, which memoryview() and numpy() show without a copy, and anybody may write to: each process sees what
    the others do. The memory stays as long as any process has the array or something that shows it, and is given back
    then, also when that process is killed.

        >>> squares = pyconc.shared.Array("d", 4)
        >>> def compute(array, i):
        ...     array[i] = i * i
        >>> with pyconc.ProcessPoolExecutor(max_workers=2) as pool:
        ...     _ = list(pool.map(compute, [squares] * 4, range(4)))
        >>> squares[:], sum(memoryview(squares))
        ([0.0, 1.0, 4.0, 9.0], 14.0)

    Of another type of ctypes, as a structure, or "u", wide characters, it is an array of such objects, which has
    `len()`, items and slices, numpy(), get_lock() and get_obj(), as Value() has for one.
    """

    __slots__ = ("__weakref__", "_lock")

    def __new__(cls, typecode_or_type, size_or_initializer, *, lock=True):
        typecode = _typecode_or_type(typecode_or_type)
        lock = cls._check_lock(lock)
        size = items = size_or_initializer
        if hasattr(items, "__len__"):
            size = len(items)
        elif hasattr(items, "__index__"):
            items = None
        else:
            items = list(items)
            size = len(items)
        if not isinstance(typecode, str):
            return _make_objects(typecode, size, items, lock)
        self = cls._at(_heap(), -1, 0, typecode, lock)
        self._allocate(size)
        if items is not None:
            self[:] = items
        return self

    @classmethod
    def _at(cls, heap, index, serial, typecode, lock):
        self = super()._at(heap, index, serial, typecode)
        self._lock = lock
        return self

    def _own_state(self):
        return self.typecode, self._lock_state()

    def __repr__(self):
        return f"<pyconc.shared.{type(self).__name__} {self.typecode!r} of {len(self)}>"

    def get_obj(self):
        """Return it as an array of ctypes, without a copy. Raises ImportError if there is no ctypes.

        >>> array = pyconc.shared.Array("i", 3)
        >>> array.get_obj()[1] = 5
        >>> array[:]
        [0, 5, 0]
        """
        import ctypes

        names = dict(zip(_TYPECODES, _NAMES_OF_CTYPES.split(), strict=True))
        return (getattr(ctypes, f"c_{names[self.typecode]}") * len(self)).from_buffer(self)

    def numpy(self):
        """Return it as an array of numpy, without a copy. Raises ImportError if there is no numpy.

        >>> def double(array):
        ...     array.numpy()[:] *= 2
        """
        import numpy

        return numpy.asarray(self)

    @property
    def raw(self):
        """All bytes of an array of "c", which can be set, to no more than there is room for."""
        self._check_characters("raw")
        return bytes(self)

    @raw.setter
    def raw(self, value):
        self._check_characters("raw")
        if len(value) > len(self):
            raise ValueError("byte string too long")
        self[: len(value)] = value

    @property
    def value(self):
        """The bytes of an array of "c" up to the first that is zero, which can be set, as those of ctypes."""
        return self.raw.partition(b"\0")[0]

    @value.setter
    def value(self, value):
        self._check_characters("value")
        self.raw = value + b"\0" if len(value) < len(self) else value

    def _check_characters(self, name):
        if self.typecode != "c":
            raise AttributeError(f"an array of {self.typecode!r} has no {name}")


def _make_objects(kind, size, items, lock):
    from pyconc import _shared_ctypes

    size = operator.index(size)
    if size < 0:
        raise ValueError("Array length must be >= 0")
    made = _shared_ctypes.SharedObjects(kind, Array("B", _shared_ctypes.bytes_of(kind, size), lock=lock))
    if items is not None:
        made.get_obj().__init__(*items)
    return made


# In the order of the typecodes.
_NAMES_OF_CTYPES = "char byte ubyte short ushort int uint long ulong longlong ulonglong float double bool"


# ---- objects that do not change ----
#
# A Ref's memory, which is sealed:
#
#     how many parts there are | the size of each, all in 8 bytes | the pickle | the buffers beside it, in their order
#
# Each part begins at a multiple of _ALIGNED, which suits every type and every instruction.

_ALIGNED = 64

_refs = weakref.WeakValueDictionary()  # by heap and cell: one Ref of each in a process; guarded by the GIL


def _places(sizes):
    """Return where parts of these sizes begin and end."""
    places, end = [], 8 * (1 + len(sizes))
    for size in sizes:
        start = -(-end // _ALIGNED) * _ALIGNED
        end = start + size
        places.append((start, end))
    return places


class _Ref(_Sent, _core.SharedArray):
    """The memory that a Ref and all that it has given look at."""

    __slots__ = ()


class Ref:
    """An object that does not change, once in memory for all processes; share() returns it.

    It travels as the other shared objects do, at the same small cost whatever it is of, and raises TypeError for other
    pickles. `nbytes` is how much memory it has. The memory is given back when no process has the Ref or something that
    get() has returned there, also when that process is killed.

        >>> ref = pyconc.shared.share({"weights": [0.5, 1.5]})
        >>> ref.get()
        {'weights': [0.5, 1.5]}
    """

    __slots__ = ("__weakref__", "_memory", "_object")

    def __new__(cls):
        raise TypeError("a Ref is made by pyconc.shared.share()")

    __class_getitem__ = classmethod(types.GenericAlias)

    def __reduce_ex__(self, protocol):
        return _ref_of, (self._memory,)  # which refuses, or not

    def _pack(self):
        return _ref_at, _send(self._memory)

    def __repr__(self):
        return f"<pyconc.shared.Ref of {self.nbytes} bytes>"

    @property
    def nbytes(self):
        """How many bytes of shared memory it has."""
        return self._memory.nbytes

    def get(self):
        """Return the object, the same in each call by this process. Raises what unpickling it does.

        What is large in it is not copied: arrays of numpy, and what was bytes, look at the memory and cannot be
        written, by anybody. The rest, as dicts and lists, is this process's own, and not to be changed: others that
        call get() here would see it.

            >>> ref = pyconc.shared.share(b"some bytes")
            >>> bytes(ref.get()[:4])
            b'some'
        """
        if not hasattr(self, "_object"):
            view = memoryview(self._memory)
            count = int.from_bytes(view[:8], sys.byteorder)
            data, *buffers = (view[start:end] for start, end in _places(view[8 : 8 + 8 * count].cast("Q").tolist()))
            self._object = pickle.loads(data, buffers=buffers)
        return self._object


def _ref_of(memory):
    key = memory._identity, memory._index
    ref = _refs.get(key)
    if ref is None:
        ref = object.__new__(Ref)
        ref._memory = memory
        ref = _refs.setdefault(key, ref)
    return ref


def _ref_at(heap, index, serial):
    # One that is here has the cell: no other can have come to its place.
    ref = _refs.get((heap.identity, index)) or _ref_of(_Ref._at(heap, index, serial))
    ref._memory._received()
    return ref


reduction.register(Ref, Ref._pack)


def share(obj):
    """Lay an object that does not change into memory, once for all processes, and return a Ref to it.

    obj: what pickle takes. Of bytes, a bytearray or a memoryview get() returns a memoryview of bytes that cannot be
    written, of anything else an equal object, in which arrays of numpy, and all that pickle's protocol 5 puts beside a
    pickle, look at the memory: bytes in it do that if they are wrapped in a pickle.PickleBuffer. Raises what pickle
    does, and MemoryError if there is no room or it is larger than 32 GB.

        >>> ref = pyconc.shared.share(bytes(1_000_000))
        >>> def count(ref):
        ...     return len(ref.get())
        >>> with pyconc.ProcessPoolExecutor(max_workers=2) as pool:
        ...     list(pool.map(count, [ref] * 3))
        [1000000, 1000000, 1000000]
    """
    if type(obj) in (bytes, bytearray, memoryview):
        obj = pickle.PickleBuffer(obj)
    buffers = []
    data = pickle.dumps(obj, 5, buffer_callback=buffers.append)
    return lay([memoryview(data), *(buffer.raw() for buffer in buffers)])


def lay(parts):
    """Lay a pickle and the buffers beside it, as memoryviews of bytes, into memory; return a Ref to the object."""
    sizes = [part.nbytes for part in parts]
    places = _places(sizes)
    memory = _Ref._at(_heap(), -1, 0)
    memory._allocate(places[-1][1])
    head = b"".join(number.to_bytes(8, sys.byteorder) for number in (len(sizes), *sizes))
    memory[: len(head)] = head
    for (start, end), part in zip(places, parts, strict=True):
        memory[start:end] = part
    memory._seal()
    return _ref_of(memory)


# ---- containers ----


def _plain(value):
    """Return what a list is to be compared or joined with, as a list; None if it is neither."""
    return value[:] if isinstance(value, (list, List)) else None


class List(_Sent, _core.SharedList, MutableSequence):
    """A list that processes share.

    iterable: what it begins with. Raises TypeError if that is none, MemoryError if there is no room, and what pickle
    does for a value that cannot be pickled.

    It has what list has, and gives values: a slice, copy(), `+` and `*` make plain lists, and an item is a copy, so
    that `items[0].append(1)` changes nothing here: assign it anew. None, bool, int, float, str, bytes and tuples of
    them are quick, as long as they are small. Anything else is a pickle of its own, in which a shared object is a
    TypeError: a list cannot be in a list.

    Each change is one step: append(), extend(), pop(), `+=`, an item or a slice that is set or deleted. A process that
    is killed in the middle leaves the list as it was before or after. remove(), sort() and `*=` work on a copy, and
    begin anew if the list has changed meanwhile; `items[0] += 1` is two steps. An iterator goes on by index, as list's
    does, and is never an error: where others insert or remove meanwhile it may see an item twice, or miss one.

    A change in the middle copies 8 bytes an item, one at either end none. What was replaced or removed keeps its memory
    until the list has grown by as much, or is short or empty; `nbytes` says how much that is in all.

        >>> items = pyconc.shared.List(["a", 2])
        >>> with pyconc.ProcessPoolExecutor(max_workers=1) as pool:
        ...     pool.submit(items.append, [3.5]).result()
        >>> items[-1], len(items)
        ([3.5], 3)
        >>> print(items)
        ['a', 2, [3.5]]
    """

    __slots__ = ("__weakref__",)

    def __new__(cls, iterable=()):
        self = cls._at(_heap(), -1, 0)
        self.extend(iterable)
        return self

    def __str__(self):
        return str(self[:])

    def __repr__(self):
        return f"<pyconc.shared.{type(self).__name__} {self[:]!r}>"

    def __contains__(self, value):
        return value in self[:]

    def __reversed__(self):
        return reversed(self[:])

    def __eq__(self, other):
        other = _plain(other)
        return NotImplemented if other is None else self[:] == other

    __hash__ = None

    def __lt__(self, other):
        other = _plain(other)
        return NotImplemented if other is None else self[:] < other

    def __le__(self, other):
        other = _plain(other)
        return NotImplemented if other is None else self[:] <= other

    def __gt__(self, other):
        other = _plain(other)
        return NotImplemented if other is None else self[:] > other

    def __ge__(self, other):
        other = _plain(other)
        return NotImplemented if other is None else self[:] >= other

    def __add__(self, other):
        other = _plain(other)
        return NotImplemented if other is None else self[:] + other

    def __radd__(self, other):
        other = _plain(other)
        return NotImplemented if other is None else other + self[:]

    def __mul__(self, times):
        return self[:] * times

    __rmul__ = __mul__

    def __iadd__(self, iterable):
        self.extend(iterable)
        return self

    def __imul__(self, times):
        while True:
            version, items = self._items()
            if self._reorder(version, list(range(len(items))) * times):
                return self

    def copy(self):
        """Return its items as a plain list, as they are at one moment. Raises what unpickling them does.

        >>> pyconc.shared.List("ab").copy()
        ['a', 'b']
        """
        return self[:]

    def index(self, value, start=0, stop=sys.maxsize, /):
        """Return the first index of a value, between `start` and `stop`. Raises ValueError if there is none.

        >>> pyconc.shared.List("abc").index("b")
        1
        """
        return self[:].index(value, start, stop)

    def count(self, value, /):
        """Return how often a value is there. Raises what comparing does.

        >>> pyconc.shared.List("abcb").count("b")
        2
        """
        return self[:].count(value)

    def remove(self, value, /):
        """Remove the first item that equals a value. Raises ValueError if there is none.

        >>> letters = pyconc.shared.List("abcb")
        >>> letters.remove("b")
        >>> letters[:]
        ['a', 'c', 'b']
        """
        while True:
            version, items = self._items()
            try:
                place = items.index(value)
            except ValueError:
                raise ValueError("list.remove(x): x not in list") from None
            if self._delete(version, place):
                return

    def sort(self, *, key=None, reverse=False):
        """Sort the items by key(item), or by themselves, as list.sort() does, and all in one step.

        Raises what comparing and `key` do; then nothing has changed. If others change the list meanwhile it is sorted
        anew, so that may not end as long as they do all the time.

            >>> numbers = pyconc.shared.List([3, 1, 2])
            >>> numbers.sort(reverse=True)
            >>> numbers[:]
            [3, 2, 1]
        """
        while True:
            version, items = self._items()
            keys = items if key is None else list(map(key, items))
            if self._reorder(version, sorted(range(len(items)), key=keys.__getitem__, reverse=reverse)):
                return


# The classes of which a key is taken for what it is, also in a class of its own that leaves hash and == alone.
_KEY_CLASSES = (str, bytes, int, float, complex, tuple, frozenset)


def _plain_key(key):
    """Return what is the same for all keys that equal this one, and what marshal writes the same in all processes.

    That is an int for each number that is one, and for another its only form; a tuple of the plain forms in a tuple;
    and for what marshal does not write, or not in one way, a list, which no key has otherwise.

    Of plain scalars, and of a tuple of them, shared_dict_type.c makes the same by itself.
    """
    kind = type(key)
    for base in _KEY_CLASSES:
        if kind is base or (isinstance(key, base) and kind.__hash__ is base.__hash__ and kind.__eq__ is base.__eq__):
            return _PLAIN_FORMS[base](key)
    if key is None or key is ...:
        return key
    if isinstance(key, enum.Enum) and kind.__hash__ is enum.Enum.__hash__ and kind.__eq__ is object.__eq__:
        return ["enum", kind.__module__, kind.__qualname__, key.name]
    hash(key)  # which may be the error that a dict raises
    raise TypeError(
        "a key of a shared Dict is a str, bytes, number, None or member of an Enum, or a tuple or frozenset of them, "
        f"and no {kind.__name__}, which has no form that is the same in all processes"
    )


def _plain_float(key):
    if key != key:
        return math.nan
    return int(key) if key.is_integer() else float.__float__(key)


def _plain_complex(key):
    # Adding 0.0 makes -0.0 that, which it equals.
    return complex(key.real + 0.0, key.imag + 0.0) if key.imag else _plain_float(key.real)


def _plain_tuple(key):
    plain = tuple(map(_plain_key, tuple.__iter__(key)))
    return key if type(key) is tuple and all(map(operator.is_, plain, key)) else plain


_PLAIN_FORMS = {
    str: str.__str__,
    bytes: lambda key: bytes.__getitem__(key, slice(None)),
    int: int.__int__,
    float: _plain_float,
    complex: _plain_complex,
    tuple: _plain_tuple,
    frozenset: lambda key: sorted(marshal.dumps(_plain_key(item), 2) for item in frozenset.__iter__(key)),
}


class _DictKeys(KeysView):
    __slots__ = ()

    def __iter__(self):
        return iter(self._mapping)

    def __reversed__(self):
        return reversed(self._mapping)

    def __repr__(self):
        return f"dict_keys({self._mapping._list_keys()!r})"

    mapping = property(lambda self: types.MappingProxyType(self._mapping))


class _DictValues(ValuesView):
    __slots__ = ()

    def __iter__(self):
        return iter(self._mapping._list_values())

    def __contains__(self, value):
        return value in self._mapping._list_values()

    def __reversed__(self):
        return reversed(self._mapping._list_values())

    def __repr__(self):
        return f"dict_values({self._mapping._list_values()!r})"

    mapping = property(lambda self: types.MappingProxyType(self._mapping))


class _DictItems(ItemsView):
    __slots__ = ()

    def __iter__(self):
        return iter(self._mapping._list_pairs())

    def __reversed__(self):
        return reversed(self._mapping._list_pairs())

    def __repr__(self):
        return f"dict_items({self._mapping._list_pairs()!r})"

    mapping = property(lambda self: types.MappingProxyType(self._mapping))


def _plain_dict(value):
    """Return what a dict is to be compared or joined with, as a dict; None if it is neither."""
    return value.copy() if isinstance(value, Dict) else value if isinstance(value, dict) else None


class Dict(_Sent, _core.SharedDict, MutableMapping):
    """A dict that processes share.

    mapping, others: what it begins with, as for dict. Raises TypeError if that is no mapping and no iterable of pairs,
    or if a key can be none, MemoryError if there is no room, and what pickle does for a value that cannot be pickled.

    It has what dict has, in the same order, and gives values: copy() and `|` make plain dicts, and a value is a copy,
    so that `ages["ann"].append(1)` changes nothing here: assign it anew. None, bool, int, float, str, bytes and tuples
    of them are quick, as long as they are small. Any other value is a pickle of its own, in which a shared object is a
    TypeError: a dict cannot be in a dict.

    A key is None, a str, bytes, number (bool, int, float, complex) or member of an Enum, or a tuple or frozenset of
    them, also of a class of its own that leaves hash and == alone. Keys that are equal are one key, as in a dict: 1,
    1.0 and True. So are all nan. Of anything else no process can tell what it is to another: a TypeError.

    Each change is one step: setting and deleting, pop(), popitem(), setdefault(), update(), `|=`, clear(). A process
    that is killed in the middle leaves the dict as it was before or after. `ages["ann"] += 1` is two steps, for which
    there is add(). An iterator goes over what was there when it began, and is never an error, whatever others do; so do
    those of keys(), values() and items(), which are live otherwise.

    update() copies 36 bytes or so for each key that is there, all others none. What was replaced or removed keeps its
    memory until the dict has grown by as much, or is short or empty; `nbytes` says how much that is in all.

        >>> ages = pyconc.shared.Dict({"ann": 30}, bob=40)
        >>> with pyconc.ProcessPoolExecutor(max_workers=1) as pool:
        ...     pool.submit(ages.update, {"ann": 31, "eve": [5]}).result()
        >>> ages["ann"], "eve" in ages, len(ages)
        (31, True, 3)
        >>> print(ages)
        {'ann': 31, 'bob': 40, 'eve': [5]}
    """

    __slots__ = ("__weakref__",)

    def __new__(cls, mapping=(), /, **others):
        self = cls._at(_heap(), -1, 0)
        self.update(mapping, **others)
        return self

    _plain_key = staticmethod(_plain_key)  # for the type below

    def __str__(self):
        return str(self.copy())

    def __repr__(self):
        return f"<pyconc.shared.{type(self).__name__} {self.copy()!r}>"

    def __reversed__(self):
        return reversed(self._list_keys())

    def __eq__(self, other):
        other = _plain_dict(other)
        return NotImplemented if other is None else self.copy() == other

    __hash__ = None

    def __or__(self, other):
        other = _plain_dict(other)
        return NotImplemented if other is None else self.copy() | other

    def __ror__(self, other):
        other = _plain_dict(other)
        return NotImplemented if other is None else other | self.copy()

    def __ior__(self, other):
        self.update(other)
        return self

    def keys(self):
        """Return a view of the keys, as dict.keys() does. Raises nothing.

        >>> list(pyconc.shared.Dict(ann=30).keys())
        ['ann']
        """
        return _DictKeys(self)

    def values(self):
        """Return a view of the values, as dict.values() does. Raises nothing.

        >>> list(pyconc.shared.Dict(ann=30).values())
        [30]
        """
        return _DictValues(self)

    def items(self):
        """Return a view of the pairs of key and value, as dict.items() does. Raises nothing.

        >>> list(pyconc.shared.Dict(ann=30).items())
        [('ann', 30)]
        """
        return _DictItems(self)

    def copy(self):
        """Return it as a plain dict, as it is at one moment. Raises what unpickling does.

        >>> pyconc.shared.Dict(ann=30).copy()
        {'ann': 30}
        """
        return dict(self._list_pairs())

    def update(self, mapping=(), /, **others):
        """Set the values of keys, as dict.update() does, and all of it as one step, once the iterable has ended.

        mapping, others: a mapping or an iterable of pairs, and keys that are names. Raises what these and setting a
        value do; then nothing has changed.

            >>> ages = pyconc.shared.Dict(ann=30)
            >>> ages.update([("bob", 40)], ann=31)
            >>> ages.copy()
            {'ann': 31, 'bob': 40}
        """
        changes = mapping.copy() if isinstance(mapping, Dict) else dict(mapping)
        changes.update(others)
        self._set_many(list(changes.items()))

    @classmethod
    def fromkeys(cls, iterable, value=None, /):
        """Return a new one with the keys that an iterable has, and one value. Raises what update() does.

        >>> pyconc.shared.Dict.fromkeys("ab", 0).copy()
        {'a': 0, 'b': 0}
        """
        self = cls()
        self.update(dict.fromkeys(iterable, value))
        return self


class Queue(_Sent, _core.SharedQueue):
    """A queue.Queue for processes: any number put, any number get, and whoever dies meanwhile holds nobody up.

    maxsize: the most items that it may have; 0 or less: any number. Raises TypeError if it is no integer, MemoryError
    if there is no room. Items are values as in a List: None, bool, int, float, str, bytes and tuples of them are quick,
    as long as they are small, and anything else is a pickle of its own, of any size, in which a shared object is a
    TypeError.

    It has what queue.Queue and multiprocessing.Queue have, and aget() and aput() for tasks of any loop. There is no
    thread that feeds it: what put() has returned from is there, for all, in the order of the puts, and stays when the
    process ends. qsize(), empty() and full() are exact at one moment.

    Of a process that is killed, an item is in the queue, or not, and never half. One that it had taken is lost with it:
    there is no redelivery, and task_done() is not called for it. An item whose get() was interrupted by a signal's
    handler that raises, timed out, or was cancelled, is not taken.

    An empty queue keeps up to 4 MB of what it needed; `nbytes` says how much it has.

        >>> def work(jobs, results):
        ...     while (job := jobs.get()) is not None:
        ...         results.put(job * 2)
        >>> jobs, results = pyconc.shared.Queue(), pyconc.shared.Queue()
        >>> with pyconc.ProcessPoolExecutor(max_workers=1) as pool:
        ...     worker = pool.submit(work, jobs, results)
        ...     for job in (1, 2, None):
        ...         jobs.put(job)
        ...     print(results.get(), results.get())
        2 4
    """

    __slots__ = ("__weakref__",)

    def __new__(cls, maxsize=0):
        limit = max(0, operator.index(maxsize))
        self = cls._at(_heap(), -1, 0)
        if limit:
            self._limit(min(limit, 2**31 - 1))
        return self

    @classmethod
    def _at(cls, heap, index, serial, *doors):
        return _core.SharedQueue.__new__(cls, heap, index, serial, *doors)

    def _own_state(self):
        return self._doors

    async def aget(self, timeout=None):
        """Take the first item and return it, once there is one, while the event loop goes on.

        Raises queue.Empty if there is none within `timeout` seconds, ShutDown if there is none and the queue is shut
        down, ValueError if the timeout is negative, RuntimeError if no loop runs or no thread can be started. The tasks
        of a loop get items in the order in which they asked. One that is cancelled has taken none.

            >>> import asyncio
            >>> q = pyconc.shared.Queue()
            >>> q.put("item")
            >>> asyncio.run(q.aget())
            'item'
        """
        from pyconc import _shared_async

        taken = await _shared_async.through(self._doors[0], self._try_get, timeout)
        if not taken:
            raise Empty
        return taken[0]

    async def aput(self, item, timeout=None):
        """Put an item at the end, once there is space, while the event loop goes on.

        Raises queue.Full if there is none within `timeout` seconds, ShutDown if the queue is shut down, what put() does
        for the item, ValueError if the timeout is negative, RuntimeError if no loop runs or no thread can be started.
        The item of a task that is cancelled is not there.

            >>> import asyncio
            >>> q = pyconc.shared.Queue()
            >>> asyncio.run(q.aput("item"))
            >>> q.get()
            'item'
        """
        from pyconc import _shared_async

        if not await _shared_async.through(self._doors[1], functools.partial(self._try_put, item), timeout):
            raise Full

    def __repr__(self):
        return f"<pyconc.shared.{type(self).__name__} of {self.qsize()} items>"


def _pack_door(door):
    return _unpack, (_core.SharedCell, *_send(door))


reduction.register(_core.SharedCell, _pack_door)
copyreg.pickle(_core.SharedCell, _pack_in_item)
