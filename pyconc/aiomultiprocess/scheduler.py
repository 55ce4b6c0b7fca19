"""Which of a pool's queues gets a task."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from typing import Any

from pyconc.aiomultiprocess.types import Queue, QueueID, TaskID


class Scheduler(ABC):
    """Derive from this, and give a Pool an instance, to choose the queue of each task yourself."""

    @abstractmethod
    def register_queue(self, tx: Queue) -> QueueID:
        """Return the number for a queue that the pool has made."""

    @abstractmethod
    def register_process(self, qid: QueueID) -> None:
        """Learn that one more process serves a queue; as the pool begins, not when a process is replaced."""

    @abstractmethod
    def schedule_task(
        self, task_id: TaskID, func: Callable[..., Awaitable[Any]], args: Sequence[Any], kwargs: dict[str, Any]
    ) -> QueueID:
        """Return the queue for a task, which will be func(*args, **kwargs)."""

    @abstractmethod
    def complete_task(self, task_id: TaskID) -> None:
        """Learn that a task is done."""


class RoundRobin(Scheduler):
    """Gives tasks to one queue after the other, and to a queue that several processes serve as often as that."""

    def __init__(self) -> None:
        super().__init__()
        self.qids: deque[QueueID] = deque()  # one for each process; who is next comes first
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
