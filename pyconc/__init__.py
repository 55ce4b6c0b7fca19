"""Native executors for asyncio and concurrent.futures: change an import line, keep the program."""

import sys as _sys
from concurrent.futures import (
    ALL_COMPLETED,
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    BrokenExecutor,
    CancelledError,
    Executor,
    InvalidStateError,
    TimeoutError,
)
from concurrent.futures.thread import BrokenThreadPool
from importlib import import_module as _import_module

from pyconc._core import Future
from pyconc._current_task import Task, TaskProgress, current_task
from pyconc._stats import Histogram, PoolStats, WorkerStats, stats
from pyconc._task_cancelled import TaskCancelled
from pyconc.patching import install, uninstall
from pyconc.thread_pool import ThreadPoolExecutor
from pyconc.waiting import as_completed, wait

__version__ = "0.1.0"

__all__ = [
    "ALL_COMPLETED",
    "FIRST_COMPLETED",
    "FIRST_EXCEPTION",
    "BrokenExecutor",
    "BrokenProcessPool",
    "BrokenThreadPool",
    "CancelledError",
    "CoroutinePool",
    "Executor",
    "Future",
    "Histogram",
    "InvalidStateError",
    "LockAbandoned",
    "Manager",
    "PoolStats",
    "ProcessPoolExecutor",
    "Task",
    "TaskCancelled",
    "TaskProgress",
    "TaskTimeout",
    "TaskUnpicklable",
    "ThreadPoolExecutor",
    "TimeoutError",
    "WorkerDied",
    "WorkerStats",
    "as_completed",
    "current_task",
    "install",
    "instrument",
    "stats",
    "trace",
    "uninstall",
    "uninstrument",
    "wait",
]

# Imported when first asked for: a program without asyncio or processes does not pay for them.
_LAZY = {
    "BrokenProcessPool": ("pyconc.process_pool", "BrokenProcessPool"),
    "CoroutinePool": ("pyconc.coroutine_pool", "CoroutinePool"),
    "LockAbandoned": ("pyconc._lock_abandoned", "LockAbandoned"),
    "Manager": ("pyconc.multiprocessing", "Manager"),
    "ProcessPoolExecutor": ("pyconc.process_pool", "ProcessPoolExecutor"),
    "TaskTimeout": ("pyconc._task_timeout", "TaskTimeout"),
    "TaskUnpicklable": ("pyconc.process_pool", "TaskUnpicklable"),
    "WorkerDied": ("pyconc.process_pool", "WorkerDied"),
    "aiomultiprocess": ("pyconc.aiomultiprocess", None),
    "asyncio": ("pyconc.asyncio", None),
    "concurrent": ("pyconc.concurrent", None),
    "instrument": ("pyconc._instrument", "instrument"),
    "multiprocessing": ("pyconc.multiprocessing", None),
    "shared": ("pyconc.shared", None),
    "trace": ("pyconc._trace", "trace"),
    "uninstrument": ("pyconc._instrument", "uninstrument"),
}


def __getattr__(name):
    if name not in _LAZY:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message, name=name, obj=_sys.modules[__name__])  # Python suggests what was meant
    module, attribute = _LAZY[name]
    value = _import_module(module)
    return value if attribute is None else getattr(value, attribute)


def __dir__():
    return sorted([*globals(), *_LAZY])


def _name_imports():
    """Name the modules that the extension or __getattr__() imports, for tools such as PyInstaller."""
    from pyconc import (  # noqa: F401
        _asyncio_glue,
        _checkpoint,
        _instrument,
        _lock_abandoned,
        _task_timeout,
        _trace,
        aiomultiprocess,
        asyncio,
        concurrent,
        coroutine_pool,
        multiprocessing,
        process_pool,
        shared,
    )
    from pyconc._process import nursery, pickling  # noqa: F401
    from pyconc.multiprocessing import dummy, managers  # noqa: F401
