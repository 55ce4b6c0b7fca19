import asyncio
import concurrent.futures
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from contextvars import ContextVar
from multiprocessing.context import BaseContext
from typing import Any, Generic, Literal, ParamSpec, TypeVar

from typing_extensions import Self

from pyconc import _core
from pyconc._stats import PoolStats, WorkerStats
from pyconc.process_pool import TaskUnpicklable as TaskUnpicklable
from pyconc.process_pool import WorkerDied as WorkerDied

__all__ = ["CoroutinePool", "TaskUnpicklable", "WorkerDied"]

_P = ParamSpec("_P")
_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)

class _Stream(AsyncIterator[_T_co], Generic[_T_co]):
    def __init__(
        self,
        pool: CoroutinePool,
        async_fn: Callable[..., AsyncIterator[_T_co]],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        buffersize: int,
    ) -> None: ...
    def end(self, why: str) -> None: ...
    def __del__(self) -> None: ...
    def __aiter__(self) -> Self: ...
    async def __anext__(self) -> _T_co: ...
    async def aclose(self) -> None: ...

class CoroutinePool(_core.Executor, concurrent.futures.Executor):
    def __init__(
        self,
        max_workers: int | None = None,
        *,
        concurrency: int = 256,
        mp_context: BaseContext | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        max_tasks_per_child: int | None = None,
        loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
        on_worker_death: Literal["replace", "break"] = "replace",
        kill_tree: bool = False,
        task_timeout: float | None = None,
        on_cancel: Literal["abandon", "interrupt", "kill"] | None = None,
        grace: float | None = None,
        name: str | None = None,
        forward_logs: bool = False,
        context: Iterable[ContextVar[Any] | Literal["opentelemetry"]] = (),
        timed: bool = False,
    ) -> None: ...
    def options(
        self,
        *,
        timeout: float | None = None,
        deadline: float | None = None,
        on_cancel: Literal["abandon", "interrupt", "kill"] | None = None,
        grace: float | None = None,
        name: str | None = None,
    ) -> Self: ...
    def submit(  # type: ignore[override]
        self, fn: Callable[_P, Awaitable[_T]], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> _core.Future[_T]: ...
    def run(  # type: ignore[override]
        self, fn: Callable[_P, Awaitable[_T]], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> asyncio.Future[_T]: ...
    def map(  # type: ignore[override]
        self,
        async_fn: Callable[..., Awaitable[_T]],
        *iterables: Iterable[Any] | AsyncIterable[Any],
        ordered: bool = True,
        buffersize: int | None = None,
        progress: bool | Callable[[int, int | None], object] | None = False,
    ) -> AsyncIterator[_T]: ...
    def stream(
        self, async_fn: Callable[..., AsyncIterator[_T]], /, *args: Any, buffersize: int = 64, **kwargs: Any
    ) -> _Stream[_T]: ...
    def stats(self) -> PoolStats: ...
    def workers(self) -> list[WorkerStats]: ...
    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False, timeout: float | None = None) -> None: ...
    def cancel_all(self) -> None: ...
    def terminate_workers(self) -> None: ...
    def kill_workers(self) -> None: ...
    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, *exc_info: object) -> None: ...
