"""Schedulers, which choose a pool's queue for each task."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from typing import Any

from pyconc.aiomultiprocess.types import Queue, QueueID, TaskID

__all__ = ["RoundRobin", "Scheduler"]


class Scheduler(ABC):
    """The base class of schedulers: a Pool asks an instance for the queue of each task.

    Raises TypeError if a method of these four is missing.

        >>> class Fullest(pyconc.aiomultiprocess.Scheduler):
        ...     pass
        >>> Fullest()
        Traceback (most recent call last):
        TypeError: Can't instantiate abstract class Fullest ...
    """

    @abstractmethod
    def register_queue(self, tx: Queue) -> QueueID:
        """Return a number for tx, a queue that the pool has made."""

    @abstractmethod
    def register_process(self, qid: QueueID) -> None:
        """Learn that one more process serves the queue qid; called when the pool is made, not for replacements."""

    @abstractmethod
    def schedule_task(
        self, task_id: TaskID, func: Callable[..., Awaitable[Any]], args: Sequence[Any], kwargs: dict[str, Any]
    ) -> QueueID:
        """Return the queue for the task task_id, which is to run func(*args, **kwargs)."""

    @abstractmethod
    def complete_task(self, task_id: TaskID) -> None:
        """Learn that the task task_id is done."""


class RoundRobin(Scheduler):
    """The default scheduler: it gives tasks to the queues in turn, with one turn for each process of a queue.

    Raises nothing.

        >>> scheduler = pyconc.aiomultiprocess.RoundRobin()
        >>> queues = [scheduler.register_queue(None) for _ in range(2)]
        >>> for queue in queues:
        ...     scheduler.register_process(queue)
        >>> [scheduler.schedule_task(number, abs, (), {}) for number in range(4)]
        [0, 1, 0, 1]
    """

    def __init__(self) -> None:
        super().__init__()
        self.qids: deque[QueueID] = deque()  # one entry for each process; the next queue comes first
        self.next_id = count()

    def register_queue(self, tx: Queue) -> QueueID:
        return QueueID(next(self.next_id))

    def register_process(self, qid: QueueID) -> None:
        self.qids.append(qid)

    def schedule_task(
        self, task_id: TaskID, func: Callable[..., Awaitable[Any]], args: Sequence[Any], kwargs: dict[str, Any]
    ) -> QueueID:
        qid = self.qids[0]
        self.qids.rotate(-1)
        return qid

    def complete_task(self, task_id: TaskID) -> None:
        pass
