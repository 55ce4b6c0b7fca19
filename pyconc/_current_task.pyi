from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, SupportsFloat, SupportsIndex

finders: list[Callable[[], Any]]

note_progress: Callable[[float | None, TaskProgress], None] | None

class TaskProgress(NamedTuple):
    done: float
    total: float | None = None
    note: str | None = None

class Task:
    def __init__(self, call: Any) -> None: ...
    @property
    def name(self) -> str: ...
    @property
    def deadline(self) -> float | None: ...
    def remaining(self) -> float | None: ...
    def cancelled(self) -> bool: ...
    def check(self) -> None: ...
    def progress(
        self,
        done: SupportsIndex | SupportsFloat,
        total: SupportsIndex | SupportsFloat | None = None,
        note: str | None = None,
    ) -> None: ...
    def shield(self) -> AbstractContextManager[None]: ...

def current_task() -> Task | None: ...
