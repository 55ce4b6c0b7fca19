"""concurrent.futures, with pyconc's executors.

Change ``from concurrent.futures import ...`` to ``from pyconc.concurrent.futures import ...``, or ``import
concurrent.futures`` to ``from pyconc import concurrent``.

ThreadPoolExecutor, ProcessPoolExecutor, Future, wait and as_completed are pyconc's; they are subclasses of the standard
ones, or accept the standard ones too.  Everything else is the standard library's own: InterpreterPoolExecutor (from
Python 3.14 on), Executor, the exceptions and constants, and the submodules `thread`, `process` and `interpreter`, which
are reached as attributes.
"""

import importlib
import sys
from concurrent import futures as _standard
from concurrent.futures import (
    ALL_COMPLETED,
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    BrokenExecutor,
    CancelledError,
    Executor,
    TimeoutError,
)
from concurrent.futures import InvalidStateError as InvalidStateError

from pyconc._core import Future
from pyconc._standard_names import names_of
from pyconc.thread_pool import ThreadPoolExecutor
from pyconc.waiting import as_completed, wait

TYPE_CHECKING = False  # typing takes longer to import than this package
if TYPE_CHECKING:
    from concurrent.futures import process as process
    from concurrent.futures import thread as thread

    from pyconc.process_pool import ProcessPoolExecutor as ProcessPoolExecutor

    if sys.version_info >= (3, 14):
        from concurrent.futures import InterpreterPoolExecutor as InterpreterPoolExecutor
        from concurrent.futures import interpreter as interpreter

__all__ = [
    "ALL_COMPLETED",
    "FIRST_COMPLETED",
    "FIRST_EXCEPTION",
    "BrokenExecutor",
    "CancelledError",
    "Executor",
    "Future",
    "ProcessPoolExecutor",
    "ThreadPoolExecutor",
    "TimeoutError",
    "as_completed",
    "wait",
]
# A star-import gives the names that it gives from the standard package of this Python version.
if sys.version_info >= (3, 13):
    __all__ += ["InvalidStateError"]
if "InterpreterPoolExecutor" in _standard.__all__:
    __all__ += ["InterpreterPoolExecutor"]

if not TYPE_CHECKING:
    _standard_name = names_of(_standard, __name__)

    def __getattr__(name: str) -> object:
        # Loaded when asked for, as in the standard package: the process side brings multiprocessing with it.
        if name == "ProcessPoolExecutor":
            return importlib.import_module("pyconc.process_pool").ProcessPoolExecutor
        if name in ("_base", "thread", "process", "interpreter"):
            try:
                return importlib.import_module(f"concurrent.futures.{name}")
            except ImportError:
                pass
        return _standard_name(name)

    def __dir__() -> list[str]:
        return dir(_standard)
