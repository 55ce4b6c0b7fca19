"""The types that aiomultiprocess' other modules and the schedulers of programs share."""

import asyncio
import multiprocessing.context
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NewType, TypeVar

__all__ = [
    "Context",
    "LoopInitializer",
    "PoolResult",
    "PoolTask",
    "ProxyException",
    "Queue",
    "QueueID",
    "R",
    "T",
    "TaskID",
    "TracebackStr",
    "Unit",
]

T = TypeVar("T")
R = TypeVar("R")

Context = multiprocessing.context.BaseContext
Queue = Any  # private to the pool, which shows it to its scheduler

TaskID = NewType("TaskID", int)
QueueID = NewType("QueueID", int)

TracebackStr = str
LoopInitializer = Callable[..., asyncio.AbstractEventLoop]
PoolTask = tuple[TaskID, Callable[..., R], Sequence[T], dict[str, T]] | None
PoolResult = tuple[TaskID, R | None, TracebackStr | None]


class Unit(NamedTuple):
    """The work of a child process. namespace: the means to tell its outcome."""

    target: Callable[..., Any]
    args: Sequence[Any]
    kwargs: dict[str, Any]
    namespace: Any
    initializer: Callable[..., Any] | None = None
    initargs: Sequence[Any] = ()
    loop_initializer: LoopInitializer | None = None
    runner: Callable[..., Any] | None = None


class ProxyException(Exception):
    """An exception that a child process has raised: its traceback is this one's text, and it is the `__cause__`.

    Raised where a result of a Pool is awaited.

        >>> import asyncio
        >>> async def main():
        ...     async with pyconc.aiomultiprocess.Pool(processes=1) as pool:
        ...         await pool.apply(asyncio.sleep, ("soon",))
        >>> try:
        ...     asyncio.run(main())
        ... except pyconc.aiomultiprocess.ProxyException as error:
        ...     print(type(error.__cause__))
        <class 'TypeError'>
    """
