"""Queues that processes share."""

import functools
import operator

from pyconc import _core
from pyconc._queue_errors import Empty, Full
from pyconc.shared import _memory
from pyconc.shared._sent import Sent

__all__ = ["Queue"]


class Queue(Sent, _core.SharedQueue):
    """A queue.Queue for processes: any number put, any number get, and whoever dies meanwhile holds nobody up.

    maxsize: the most items that it may have; 0 or less: any number. Raises TypeError if it is no integer, MemoryError
    if there is no room. Items are values as in a List: None, bool, int, float, str, bytes and tuples of them are quick,
    as long as they are small, and anything else is a pickle of its own, of any size. A shared object, alone or within
    an item, is the same object for whoever gets it.

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

    __module__ = __package__
    __slots__ = ("__weakref__",)

    def __new__(cls, maxsize=0):
        limit = max(0, operator.index(maxsize))
        self = cls._at(_memory.heap(), -1, 0)
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
        from pyconc.shared import _async

        taken = await _async.through(self._doors[0], self._try_get, timeout)
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
        from pyconc.shared import _async

        if not await _async.through(self._doors[1], functools.partial(self._try_put, item), timeout):
            raise Full

    def __repr__(self):
        return f"<pyconc.shared.{type(self).__name__} of {self.qsize()} items>"
