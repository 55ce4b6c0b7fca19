from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Generator, Iterable, Sequence
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

from typing_extensions import Self

from pyconc.aiomultiprocess.scheduler import Scheduler
from pyconc.aiomultiprocess.types import ProxyException as ProxyException
from pyconc.aiomultiprocess.types import QueueID, TaskID

__all__ = ["CHILD_CONCURRENCY", "MAX_TASKS_PER_CHILD", "Pool", "PoolResult", "ProxyException"]

_T = TypeVar("_T")

MAX_TASKS_PER_CHILD: int
CHILD_CONCURRENCY: int

class PoolResult(Awaitable[list[_T]], AsyncIterable[_T], Generic[_T]):
    pool: Pool
    task_ids: Sequence[TaskID]
    def __init__(self, pool: Pool, task_ids: Sequence[TaskID]) -> None: ...
    def __await__(self) -> Generator[Any, None, list[_T]]: ...
    async def results(self) -> list[_T]: ...
    def __aiter__(self) -> AsyncIterator[_T]: ...
    def results_generator(self) -> AsyncIterator[_T]: ...

class Pool:
    context: BaseContext
    scheduler: Scheduler
    process_count: int
    queue_count: int
    initializer: Callable[..., object] | None
    initargs: Sequence[Any]
    loop_initializer: Callable[..., Any] | None
    maxtasksperchild: int
    childconcurrency: int
    exception_handler: Callable[[BaseException], object] | None
    running: bool
    last_id: int
    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Sequence[Any] = (),
        maxtasksperchild: int = 0,
        childconcurrency: int = 16,
        queuecount: int | None = None,
        scheduler: Scheduler | None = None,
        loop_initializer: Callable[..., Any] | None = None,
        exception_handler: Callable[[BaseException], object] | None = None,
    ) -> None: ...
    @property
    def processes(self) -> dict[BaseProcess, QueueID]: ...
    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, *exc_info: object) -> None: ...
    def queue_work(
        self, func: Callable[..., Awaitable[Any]], args: Sequence[Any], kwargs: dict[str, Any]
    ) -> TaskID: ...
    async def results(self, tids: Sequence[TaskID]) -> list[Any]: ...
    async def apply(
        self,
        func: Callable[..., Awaitable[_T]],
        args: Sequence[Any] | None = None,
        kwds: dict[str, Any] | None = None,
    ) -> _T: ...
    def map(self, func: Callable[[Any], Awaitable[_T]], iterable: Iterable[Any]) -> PoolResult[_T]: ...
    def starmap(self, func: Callable[..., Awaitable[_T]], iterable: Iterable[Sequence[Any]]) -> PoolResult[_T]: ...
    def close(self) -> None: ...
    def terminate(self) -> None: ...
    async def join(self) -> None: ...
