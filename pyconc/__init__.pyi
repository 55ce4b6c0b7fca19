from concurrent.futures import ALL_COMPLETED as ALL_COMPLETED
from concurrent.futures import FIRST_COMPLETED as FIRST_COMPLETED
from concurrent.futures import FIRST_EXCEPTION as FIRST_EXCEPTION
from concurrent.futures import BrokenExecutor as BrokenExecutor
from concurrent.futures import CancelledError as CancelledError
from concurrent.futures import Executor as Executor
from concurrent.futures import InvalidStateError as InvalidStateError
from concurrent.futures import TimeoutError as TimeoutError
from concurrent.futures.process import BrokenProcessPool as BrokenProcessPool
from concurrent.futures.thread import BrokenThreadPool as BrokenThreadPool

from pyconc import aiomultiprocess as aiomultiprocess
from pyconc import asyncio as asyncio
from pyconc import concurrent as concurrent
from pyconc import multiprocessing as multiprocessing
from pyconc import shared as shared
from pyconc._core import Future as Future
from pyconc._current_task import Task as Task
from pyconc._current_task import TaskProgress as TaskProgress
from pyconc._current_task import current_task as current_task
from pyconc._instrument import instrument as instrument
from pyconc._instrument import uninstrument as uninstrument
from pyconc._lock_abandoned import LockAbandoned as LockAbandoned
from pyconc._stats import Histogram as Histogram
from pyconc._stats import PoolStats as PoolStats
from pyconc._stats import WorkerStats as WorkerStats
from pyconc._stats import stats as stats
from pyconc._task_cancelled import TaskCancelled as TaskCancelled
from pyconc._task_timeout import TaskTimeout as TaskTimeout
from pyconc._trace import trace as trace
from pyconc.coroutine_pool import CoroutinePool as CoroutinePool
from pyconc.multiprocessing import Manager as Manager
from pyconc.patching import install as install
from pyconc.patching import uninstall as uninstall
from pyconc.process_pool import ProcessPoolExecutor as ProcessPoolExecutor
from pyconc.process_pool import TaskUnpicklable as TaskUnpicklable
from pyconc.process_pool import WorkerDied as WorkerDied
from pyconc.thread_pool import ThreadPoolExecutor as ThreadPoolExecutor
from pyconc.waiting import as_completed as as_completed
from pyconc.waiting import wait as wait

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

__version__: str
