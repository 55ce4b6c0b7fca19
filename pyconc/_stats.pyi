from typing import Any, NamedTuple

from pyconc._current_task import TaskProgress

PHASES: tuple[str, ...]

class Histogram(NamedTuple):
    calls: int = 0
    total: float = 0.0
    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0
    max: float = 0.0

class PoolStats(NamedTuple):
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

class WorkerStats(NamedTuple):
    id: int | None
    name: str | None
    state: str
    calls: int
    task: str | None = None
    running_for: float | None = None
    running: int = 0
    is_abandoned: bool = False
    rss: int | None = None
    cpu: float | None = None
    progress: TaskProgress | None = None
    node: str | None = None

def check_timed(timed: bool) -> None: ...
def build(name: str, max_workers: int, numbers: tuple[Any, ...]) -> PoolStats: ...
def name_of(function: Any, name: str | None) -> str | None: ...
def cpu_of_process(pid: int) -> float | None: ...
def cpu_of_thread(number: int) -> float | None: ...

class Observed:
    def stats(self) -> PoolStats: ...
    def _observe(self) -> None: ...
    def _describe(self) -> str: ...

def executors() -> dict[int, Observed]: ...
def stats() -> dict[str, PoolStats]: ...
