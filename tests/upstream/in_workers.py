"""Has what the interpreter's own asyncio tests await run in worker processes, so that a cancellation has to stop it.

Those tests await asyncio.sleep() where a program would await some work.  For a test module that is given to
sleep_in_workers(), each sleep that takes any time is a call of time.sleep() in a worker, under on_cancel="interrupt".
Sleeps of 0 give way to what else the loop has to do, and are left alone.  After each test all calls must have ended,
and every worker must be the one that was there before.
"""

import asyncio
import os
import time
import types
import unittest

import pyconc

# As many as most tests have asleep at once; the others do not mind the time.
WORKERS = 8
# No test waits for a sleep of so many seconds: all of them are to be stopped, and would else go on for ever.
LONG = 5
FOREVER = 3600
# Seconds after which a call that goes on was not stopped.
LIMIT = 60

awaited = {"begun": 0, "cancelled": 0}
faults: "set[str]" = set()  # tests after which a call went on, or a worker was gone: no matter of time
_pool = pyconc.ProcessPoolExecutor(WORKERS)
_stoppable = _pool.options(on_cancel="interrupt", grace=FOREVER)


async def _sleep(delay, result=None):
    if delay <= 0:
        return await asyncio.sleep(delay, result)
    seconds = delay if delay < LONG else FOREVER
    awaited["begun"] += 1
    try:
        await asyncio.get_running_loop().run_in_executor(_stoppable, time.sleep, seconds)
    except asyncio.CancelledError:
        awaited["cancelled"] += 1
        raise
    return result


class _Asyncio(types.ModuleType):
    """The module asyncio, but for one of its functions."""

    sleep = staticmethod(_sleep)

    def __getattr__(self, name):
        return getattr(asyncio, name)


def sleep_in_workers(module: types.ModuleType) -> None:
    """Has a test module sleep in workers: it calls asyncio.sleep() by that name."""
    module.asyncio = _Asyncio("asyncio")


def check_afterwards(case: unittest.TestCase) -> None:
    """Has a test that was loaded fail if a call goes on after it, or a worker does not."""
    case.addCleanup(_check_workers, case)


def _check_workers(case: unittest.TestCase) -> None:
    faults.add(case.id())  # until all is well
    deadline = time.monotonic() + LIMIT
    while _pool._tasks.outstanding():
        case.assertLess(time.monotonic(), deadline, "a call goes on")
        time.sleep(0.001)
    case.assertEqual(_pool._processes, _workers)
    case.assertLessEqual({_pool.submit(os.getpid).result() for _ in range(WORKERS)}, _workers.keys())
    faults.discard(case.id())


def _start_workers() -> "dict[int, object]":
    while len(_pool._processes) < WORKERS:  # one that is late is not started: another is free by then
        for future in [_pool.submit(time.sleep, 0.1) for _ in range(WORKERS)]:
            future.result()
    return dict(_pool._processes)


_workers = _start_workers()


class InWorkersTests(unittest.TestCase):
    """Comes last: that the tests before it have had workers do, and stop, what they awaited."""

    def test_calls_were_begun_and_cancelled(self) -> None:
        self.assertGreater(awaited["begun"], awaited["cancelled"])
        self.assertGreater(awaited["cancelled"], 0)


def stop() -> None:
    """End the workers: the program would wait for a call that was not stopped."""
    _pool.kill_workers()
    _pool.shutdown()
