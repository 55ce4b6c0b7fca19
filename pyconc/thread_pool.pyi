import concurrent.futures
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, TypeVar, overload

from typing_extensions import Self, TypeVarTuple, Unpack

from pyconc import _core
from pyconc._stats import PoolStats, WorkerStats
from pyconc.patching import ExecutorType

__all__ = ["ThreadPoolExecutor"]

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

class ThreadPoolExecutor(_core.Executor, concurrent.futures.ThreadPoolExecutor, metaclass=ExecutorType):
    @overload
    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[[], object] | None = None,
        initargs: tuple[()] = (),
        *,
        task_timeout: float | None = None,
        on_cancel: Literal["abandon", "interrupt"] | None = None,
        grace: float | None = None,
        name: str | None = None,
        context: bool = False,
        timed: bool = False,
        idle_timeout: float | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        *,
        initializer: Callable[[Unpack[_Ts]], object],
        initargs: tuple[Unpack[_Ts]],
        task_timeout: float | None = None,
        on_cancel: Literal["abandon", "interrupt"] | None = None,
        grace: float | None = None,
        name: str | None = None,
        context: bool = False,
        timed: bool = False,
        idle_timeout: float | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        max_workers: int | None,
        thread_name_prefix: str,
        initializer: Callable[[Unpack[_Ts]], object],
        initargs: tuple[Unpack[_Ts]],
        *,
        task_timeout: float | None = None,
        on_cancel: Literal["abandon", "interrupt"] | None = None,
        grace: float | None = None,
        name: str | None = None,
        context: bool = False,
        timed: bool = False,
        idle_timeout: float | None = None,
    ) -> None: ...
    def options(
        self,
        *,
        timeout: float | None = None,
        deadline: float | None = None,
        on_cancel: Literal["abandon", "interrupt"] | None = None,
        grace: float | None = None,
        name: str | None = None,
    ) -> Self: ...
    def stats(self) -> PoolStats: ...
    def workers(self) -> list[WorkerStats]: ...
    def map(
        self,
        fn: Callable[..., _T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
        progress: bool | Callable[[int, int | None], object] | None = False,
    ) -> Iterator[_T]: ...
    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False, timeout: float | None = None) -> None: ...
    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, *exc_info: object) -> None: ...
