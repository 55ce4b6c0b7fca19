from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures._base import DoneAndNotDoneFutures
from typing import TypeVar

__all__ = ["as_completed", "wait"]

_T = TypeVar("_T")

def wait(
    fs: Iterable[Future[_T]], timeout: float | None = None, return_when: str = "ALL_COMPLETED"
) -> DoneAndNotDoneFutures[_T]: ...
def as_completed(fs: Iterable[Future[_T]], timeout: float | None = None) -> Iterator[Future[_T]]: ...
