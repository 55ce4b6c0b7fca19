# To a type checker this module is asyncio, but that wait() accepts coroutines on every version.

import asyncio
import sys
from collections.abc import Awaitable, Iterable
from typing import Any, TypeVar, overload

_T = TypeVar("_T")
_FutureT = TypeVar("_FutureT", bound=asyncio.Future[Any])

@overload
async def wait(  # type: ignore[overload-overlap]
    fs: Iterable[_FutureT], *, timeout: float | None = None, return_when: str = "ALL_COMPLETED"
) -> tuple[set[_FutureT], set[_FutureT]]: ...
@overload
async def wait(
    fs: Iterable[Awaitable[_T]], *, timeout: float | None = None, return_when: str = "ALL_COMPLETED"
) -> tuple[set[asyncio.Task[_T]], set[asyncio.Task[_T]]]: ...

# Below wait(), because mypy keeps the first definition of a name.
# ruff: noqa: E402, F403
from asyncio import *  # type: ignore[no-redef]  # pyright: ignore[reportAssignmentType]
from asyncio import base_events as base_events
from asyncio import coroutines as coroutines
from asyncio import events as events
from asyncio import exceptions as exceptions
from asyncio import futures as futures
from asyncio import locks as locks
from asyncio import protocols as protocols
from asyncio import queues as queues
from asyncio import runners as runners
from asyncio import streams as streams
from asyncio import subprocess as subprocess
from asyncio import tasks as tasks
from asyncio import threads as threads
from asyncio import transports as transports

if sys.version_info >= (3, 11):
    from asyncio import taskgroups as taskgroups
    from asyncio import timeouts as timeouts
