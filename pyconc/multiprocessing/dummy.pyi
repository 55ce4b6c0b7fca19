from collections.abc import Callable, Iterable
from multiprocessing.dummy import *  # noqa: F403
from multiprocessing.dummy import JoinableQueue as JoinableQueue
from typing import Any

from pyconc.multiprocessing.pool import ThreadPool

def Pool(  # type: ignore[no-redef]
    processes: int | None = None, initializer: Callable[..., object] | None = None, initargs: Iterable[Any] = ()
) -> ThreadPool: ...
