# What is not here is typed as in the standard module.

from collections.abc import Callable, Iterable
from multiprocessing import pool as _standard
from multiprocessing.context import BaseContext
from multiprocessing.pool import CLOSE as CLOSE
from multiprocessing.pool import INIT as INIT
from multiprocessing.pool import RUN as RUN
from multiprocessing.pool import TERMINATE as TERMINATE
from typing import Any, TypeVar

__all__ = ["Pool", "ThreadPool"]

_T = TypeVar("_T")

class RemoteTraceback(Exception):
    tb: str

class MaybeEncodingError(Exception):
    exc: str
    value: str

class ApplyResult(_standard.ApplyResult[_T]): ...

AsyncResult = ApplyResult

class MapResult(_standard.MapResult[_T]): ...
class IMapIterator(_standard.IMapIterator[_T]): ...
class IMapUnorderedIterator(_standard.IMapUnorderedIterator[_T]): ...

class Pool(_standard.Pool):
    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: BaseContext | None = None,
    ) -> None: ...

class ThreadPool(Pool, _standard.ThreadPool):
    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
    ) -> None: ...
