"""What a type checker must make of pyconc in a program.  `make stubs` checks it; nobody runs it."""

from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future as StandardFuture
from concurrent.futures import ProcessPoolExecutor as StandardProcesses
from concurrent.futures import ThreadPoolExecutor as StandardExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

from typing_extensions import assert_type

import pyconc
from pyconc import (
    CoroutinePool,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    WorkerDied,
    as_completed,
    asyncio,
    concurrent,
    wait,
)


def power(base: int, exponent: float = 2.0) -> float:
    return float(base**exponent)


def takes_the_standard_ones(executor: StandardExecutor, future: StandardFuture[float]) -> None: ...


def threads() -> None:
    with ThreadPoolExecutor(4, thread_name_prefix="power", initializer=print, initargs=("a", 1)) as pool:
        future = pool.submit(power, 3, exponent=0.5)
        assert_type(future, Future[float])
        assert_type(future.result(timeout=1), float)
        assert_type(pool.map(power, range(3), timeout=5, chunksize=2, buffersize=8), Iterator[float])
        takes_the_standard_ones(pool, future)

        done, _ = wait([future], return_when=pyconc.FIRST_COMPLETED)
        assert_type(done, set[StandardFuture[float]])
        for finished in as_completed([future]):
            assert_type(finished.result(), float)

        pool.submit(power)  # type: ignore[call-arg]
        pool.submit(power, "three")  # type: ignore[arg-type]


def takes_standard_processes(executor: StandardProcesses, error: BrokenProcessPool) -> None: ...


def processes() -> None:
    with ProcessPoolExecutor(
        4, get_context("spawn"), print, ("a", 1), max_tasks_per_child=9, on_worker_death="break"
    ) as pool:
        future = pool.submit(power, 3, exponent=0.5)
        assert_type(future, Future[float])
        assert_type(pool.map(power, range(3), timeout=5, chunksize=2, buffersize=8), Iterator[float])
        try:
            future.result()
        except WorkerDied as error:
            assert_type(error.pid, int | None)
            takes_standard_processes(pool, error)
        pool.kill_workers()

        pool.submit(power)  # type: ignore[call-arg]
    ProcessPoolExecutor(on_worker_death="ignore")  # type: ignore[call-overload]


async def count(stop: int) -> AsyncIterator[int]:
    for number in range(stop):
        yield number


async def coroutine(base: float) -> float:
    return base


async def coroutines() -> None:
    async with CoroutinePool(2, concurrency=8, loop_factory=asyncio.new_event_loop) as pool:
        assert_type(await pool.run(coroutine, 3), float)
        assert_type(pool.submit(coroutine, 3), Future[float])
        assert_type([number async for number in pool.map(coroutine, count(3), buffersize=8)], list[float])
        assert_type([number async for number in pool.stream(count, 3)], list[int])
        pool.cancel_all()

        pool.run(coroutine)  # type: ignore[call-arg]
        pool.run(power, 3)  # type: ignore[arg-type]


async def loop() -> None:
    async with concurrent.futures.ThreadPoolExecutor() as pool:
        assert_type(await asyncio.get_running_loop().run_in_executor(pool, power, 3), float)
    async with concurrent.futures.ProcessPoolExecutor() as processes:
        assert_type(await asyncio.get_running_loop().run_in_executor(processes, power, 3), float)
    async with ThreadPoolExecutor() as threads:
        assert_type(await threads.options(timeout=1).run(power, 3, exponent=0.5), float)
    assert_type(await asyncio.to_thread(power, 3), float)


class Traced(ThreadPoolExecutor):
    """A subclass of a user's that adds something to a method."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False, timeout: float | None = None) -> None:
        super().shutdown(wait, cancel_futures=cancel_futures, timeout=timeout)


pyconc.install()
pyconc.uninstall()
pyconc.instrument("prometheus")
pyconc.uninstrument("prometheus")


def knows_its_task() -> None:
    task = pyconc.current_task()
    if task is not None:
        assert_type(task.name, str)
        assert_type(task.remaining(), float | None)
        with task.shield():
            task.check()
