from collections.abc import Callable
from multiprocessing.context import BaseContext
from typing import Any

from pyconc.process_pool import ProcessPoolExecutor as ProcessPoolExecutor
from pyconc.process_pool import TaskUnpicklable as TaskUnpicklable
from pyconc.process_pool import WorkerDied as WorkerDied

__all__ = ["ProcessPoolExecutor", "ReusableExecutor", "TaskUnpicklable", "WorkerDied", "get_reusable_executor"]

class ReusableExecutor(ProcessPoolExecutor):
    def shutdown(
        self,
        wait: bool = True,
        *,
        cancel_futures: bool = False,
        timeout: float | None = None,
        kill_workers: bool = False,
    ) -> None: ...
    def terminate(self, kill_workers: bool = True) -> None: ...

def get_reusable_executor(
    max_workers: int | None = None,
    context: BaseContext | str | None = None,
    timeout: float = 10,
    kill_workers: bool = False,
    reuse: bool | str = "auto",
    job_reducers: dict[type, Any] | None = None,
    result_reducers: dict[type, Any] | None = None,
    initializer: Callable[..., object] | None = None,
    initargs: tuple[Any, ...] = (),
    env: dict[str, str] | None = None,
) -> ReusableExecutor: ...
