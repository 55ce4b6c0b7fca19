import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Executor
from typing import Any, Generic, Literal, NamedTuple, ParamSpec, TypeVar, overload

from typing_extensions import Self

from pyconc import Future, Histogram, WorkerDied, WorkerStats

__all__ = ["ClusterExecutor", "ClusterStats", "NodeDied", "NodePlugin", "NodeStats", "Ref"]

_P = ParamSpec("_P")
_T = TypeVar("_T")

class ClusterExecutor(Executor):
    def __init__(
        self,
        cluster: Any = None,
        *,
        workers_per_node: int | None = None,
        kind: Literal["process", "coroutine"] = "process",
        concurrency: int | None = None,
        transport: Literal["auto", "direct", "scheduler"] = "auto",
        retries: int = 0,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        max_rss_per_child: int | str | None = None,
        name: str | None = None,
    ) -> None: ...
    @overload
    def submit(
        self, fn: Callable[_P, Coroutine[Any, Any, _T]], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> Future[_T]: ...
    @overload
    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]: ...
    @overload
    def map(
        self,
        fn: Callable[..., Coroutine[Any, Any, _T]],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[_T]: ...
    @overload
    def map(
        self,
        fn: Callable[..., _T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[_T]: ...
    @overload
    def run(
        self, fn: Callable[_P, Coroutine[Any, Any, _T]], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> asyncio.Future[_T]: ...
    @overload
    def run(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> asyncio.Future[_T]: ...
    def options(
        self,
        *,
        timeout: float | None = None,
        deadline: float | None = None,
        on_cancel: Literal["abandon", "interrupt", "kill"] | None = None,
        grace: float | None = None,
        name: str | None = None,
    ) -> Self: ...
    def stream(
        self, fn: Callable[..., AsyncIterator[_T]], /, *args: Any, buffersize: int = 64, **kwargs: Any
    ) -> _Stream[_T]: ...
    def share(self, obj: _T) -> Ref[_T]: ...
    def stats(self) -> ClusterStats: ...
    def workers(self, timeout: float = 1.0) -> list[WorkerStats]: ...
    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None: ...
    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, *exc_info: object) -> None: ...

class _Stream(AsyncIterator[_T]):
    async def __anext__(self) -> _T: ...
    async def aclose(self) -> None: ...

class ClusterStats(NamedTuple):
    name: str
    max_workers: int
    workers: int
    idle: int
    running: int
    queued: int
    submitted: int
    completed: int
    failed: int
    cancelled: int
    timed_out: int
    died: int
    abandoned: int
    recycled: int
    stolen: int
    run: Histogram | None
    wait: Histogram | None
    nodes: tuple[NodeStats, ...]
    again: int

class NodeStats(NamedTuple):
    address: str
    workers: int
    running: int
    ended: int
    call_seconds: float | None
    transport: str

class Ref(Generic[_T]):
    @property
    def nbytes(self) -> int: ...
    def get(self) -> _T: ...

class NodeDied(WorkerDied):
    node: str | None
    def __init__(
        self,
        message: str,
        node: str | None = None,
        task: Callable[..., Any] | None = None,
        *,
        task_name: str | None = None,
    ) -> None: ...

class NodePlugin:
    name: str
    def __init__(self, workers: int | None = None, *, name: str = "pyconc", **options: Any) -> None: ...
    def setup(self, worker: Any) -> None: ...
    def teardown(self, worker: Any) -> None: ...
