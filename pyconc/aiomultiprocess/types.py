"""The types that aiomultiprocess' other modules and the schedulers of programs share."""

import asyncio
import multiprocessing.context
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NewType, TypeVar

T = TypeVar("T")
R = TypeVar("R")

Context = multiprocessing.context.BaseContext
Queue = Any  # what a pool shows its scheduler is the pool's own affair

TaskID = NewType("TaskID", int)
QueueID = NewType("QueueID", int)

TracebackStr = str
LoopInitializer = Callable[..., asyncio.AbstractEventLoop]
PoolTask = tuple[TaskID, Callable[..., R], Sequence[T], dict[str, T]] | None
PoolResult = tuple[TaskID, R | None, TracebackStr | None]


class Unit(NamedTuple):
    """What a child process is to do. namespace: what it needs besides for telling the outcome."""

    target: Callable[..., Any]
    args: Sequence[Any]
    kwargs: dict[str, Any]
    namespace: Any
    initializer: Callable[..., Any] | None = None
    initargs: Sequence[Any] = ()
    loop_initializer: LoopInitializer | None = None
    runner: Callable[..., Any] | None = None


class ProxyException(Exception):
    """Stands for an exception of a child process, whose traceback is its text."""
