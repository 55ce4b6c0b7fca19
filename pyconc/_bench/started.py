"""Pools of processes all of whose workers have started, so that a start is not part of what is measured."""

import concurrent.futures
import contextlib
import multiprocessing

from pyconc._bench.arrays import worker_with_array
from pyconc._bench.harness import WORKERS

__all__ = ["start", "start_pool", "wait_for_workers"]


def wait_for_workers(submit, result="result", array=(0,)):
    """Returns when all workers of a pool have started; `submit` gives what has a method `result`."""
    seen = set()
    for _ in range(1000):
        pending = [submit(worker_with_array, *array) for _ in range(WORKERS)]
        seen.update(getattr(each, result)() for each in pending)
        if len(seen) >= WORKERS:
            return
    raise RuntimeError(f"the pool has {len(seen)} of {WORKERS} workers")


@contextlib.contextmanager
def start(futures, array=(0,)):
    with futures.ProcessPoolExecutor(WORKERS) as pool:
        wait_for_workers(pool.submit, array=array)
        yield pool


@contextlib.contextmanager
def start_pool(futures, array=(0,)):
    """The standard library's pool, where `futures` is its executors, or pyconc's."""
    library = multiprocessing if futures is concurrent.futures else futures.multiprocessing
    with library.Pool(WORKERS) as pool:
        wait_for_workers(lambda function, *args: pool.apply_async(function, args), "get", array)
        yield pool
