import concurrent.futures
import pickle
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool as BrokenProcessPool
from contextvars import ContextVar
from multiprocessing.context import BaseContext
from typing import Any, Literal, TypeVar, overload

from typing_extensions import Self, TypeVarTuple, Unpack

from pyconc import _core
from pyconc._stats import PoolStats, WorkerStats
from pyconc.patching import ExecutorType

__all__ = ["ProcessPoolExecutor", "TaskUnpicklable", "WorkerDied"]

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

class WorkerDied(BrokenProcessPool):
    pid: int | None
    exitcode: int | None
    signal: str | None
    task: Any
    task_name: str | None
    stack: str | None
    ran_for: float | None
    rss: int | None
    oom: bool
    @property
    def last_log(self) -> str | None: ...
    def __init__(
        self,
        message: str,
        pid: int | None = None,
        exitcode: int | None = None,
        signal: str | None = None,
        task: Any = None,
        *,
        task_name: str | None = None,
        stack: str | None = None,
        ran_for: float | None = None,
        rss: int | None = None,
        oom: bool = False,
        last_log: str | None = None,
    ) -> None: ...

class TaskUnpicklable(BrokenProcessPool, pickle.PicklingError, pickle.UnpicklingError): ...

class ProcessPoolExecutor(_core.Executor, concurrent.futures.ProcessPoolExecutor, metaclass=ExecutorType):
    @overload
    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: BaseContext | None = None,
        initializer: Callable[[], object] | None = None,
        initargs: tuple[()] = (),
        *,
        max_tasks_per_child: int | None = None,
        max_rss_per_child: int | str | None = None,
        memory_limit: int | str | None = None,
        idle_timeout: float | None = None,
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
    @overload
    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: BaseContext | None = None,
        *,
        initializer: Callable[[Unpack[_Ts]], object],
        initargs: tuple[Unpack[_Ts]],
        max_tasks_per_child: int | None = None,
        max_rss_per_child: int | str | None = None,
        memory_limit: int | str | None = None,
        idle_timeout: float | None = None,
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
    @overload
    def __init__(
        self,
        max_workers: int | None,
        mp_context: BaseContext | None,
        initializer: Callable[[Unpack[_Ts]], object],
        initargs: tuple[Unpack[_Ts]],
        *,
        max_tasks_per_child: int | None = None,
        max_rss_per_child: int | str | None = None,
        memory_limit: int | str | None = None,
        idle_timeout: float | None = None,
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
    def map(
        self,
        fn: Callable[..., _T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
        progress: bool | Callable[[int, int | None], object] | None = False,
    ) -> Iterator[_T]: ...
    def options(
        self,
        *,
        timeout: float | None = None,
        deadline: float | None = None,
        on_cancel: Literal["abandon", "interrupt", "kill"] | None = None,
        grace: float | None = None,
        name: str | None = None,
    ) -> Self: ...
    def stats(self) -> PoolStats: ...
    def workers(self) -> list[WorkerStats]: ...
    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False, timeout: float | None = None) -> None: ...
    def terminate_workers(self) -> None: ...
    def kill_workers(self) -> None: ...
    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, *exc_info: object) -> None: ...
