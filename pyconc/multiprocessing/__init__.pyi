# To a type checker this module is multiprocessing, except for its pools and managers.

from collections.abc import Callable, Iterable
from multiprocessing import *  # noqa: F403
from multiprocessing import connection as connection
from multiprocessing import context as context
from multiprocessing import process as process
from multiprocessing import queues as queues
from multiprocessing import shared_memory as shared_memory
from multiprocessing import synchronize as synchronize
from typing import Any

from pyconc.multiprocessing import dummy as dummy
from pyconc.multiprocessing import managers as managers
from pyconc.multiprocessing import pool as pool

def Pool(  # type: ignore[no-redef]
    processes: int | None = None,
    initializer: Callable[..., object] | None = None,
    initargs: Iterable[Any] = (),
    maxtasksperchild: int | None = None,
) -> pool.Pool: ...
def Manager() -> managers.SyncManager: ...  # type: ignore[no-redef]
