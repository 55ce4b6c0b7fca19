"""The public names of aiomultiprocess 0.9, on pyconc's workers: change the import, keep the program."""

from pyconc.aiomultiprocess import core
from pyconc.aiomultiprocess.core import Process, Worker, set_context, set_start_method
from pyconc.aiomultiprocess.pool import Pool, PoolResult
from pyconc.aiomultiprocess.scheduler import RoundRobin, Scheduler
from pyconc.aiomultiprocess.types import ProxyException, QueueID, TaskID

__all__ = [
    "Pool",
    "PoolResult",
    "Process",
    "ProxyException",
    "QueueID",
    "RoundRobin",
    "Scheduler",
    "TaskID",
    "Worker",
    "core",
    "set_context",
    "set_start_method",
]
