"""run() of the executors: loop.run_in_executor() with keyword arguments."""

import asyncio
import operator
import os
import threading
from concurrent import futures

import pytest
from gates import Gate, ProcessGate, block_workers
from loops import on_every_loop, on_loop

import pyconc

pytestmark = on_every_loop
both = pytest.mark.parametrize("Executor", [pyconc.ThreadPoolExecutor, pyconc.ProcessPoolExecutor])


def name_of_the_task():
    return pyconc.current_task().name


@both
@on_loop
async def test_it_calls_with_keywords_and_gives_back_what_comes(new_loop, Executor):
    with Executor(1) as pool:
        assert await pool.run(int, "ff", base=16) == 255
        assert await asyncio.gather(*[pool.run(abs, -number) for number in range(500)]) == [*range(500)]
        with pytest.raises(ZeroDivisionError):
            await pool.run(operator.truediv, 1, 0)
        assert await pool.options(name="a name").run(name_of_the_task) == "a name"


@on_loop
async def test_it_runs_in_the_workers(new_loop):
    with pyconc.ThreadPoolExecutor(1) as threads, pyconc.ProcessPoolExecutor(1) as processes:
        assert await threads.run(threading.get_ident) != threading.get_ident()
        assert await processes.run(os.getpid) != os.getpid()


@both
@on_loop
async def test_to_cancel_its_future_cancels_the_call(new_loop, Executor):
    with Executor(1) as pool, Gate() if Executor is pyconc.ThreadPoolExecutor else ProcessGate() as gate:
        block_workers(pool, gate)
        future = pool.run(abs, -1)
        assert isinstance(future, asyncio.Future)
        assert future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future
        gate.open()


@both
def test_without_a_running_loop_nothing_is_submitted(new_loop, Executor):
    with Executor(1) as pool:
        with pytest.raises(RuntimeError, match="no running event loop"):
            pool.run(abs, -1)
        pool.submit = submitted = []  # nor is what stands in its place called
        with pytest.raises(RuntimeError, match="no running event loop"):
            pool.run(abs, -1)
        assert submitted == []


@both
@on_loop
async def test_what_cannot_be_is_refused(new_loop, Executor):
    with Executor(1) as pool:
        with pytest.raises(TypeError):
            pool.run()
    with pytest.raises(RuntimeError, match="shutdown"):
        pool.run(abs, -1)


@both
@pytest.mark.parametrize("where", ["the executor", "a subclass", "the standard class"])
@on_loop
async def test_a_submit_that_was_replaced_is_called(new_loop, Executor, where, monkeypatch):
    seen = []

    class Pool(Executor):
        pass

    def watch(submit):
        def watched(*args, **kwargs):
            seen.append(kwargs)
            return submit(*args, **kwargs)

        return watched

    if where == "a subclass":
        monkeypatch.setattr(Pool, "submit", watch(Executor.submit))
    elif where == "the standard class":
        standard = getattr(futures, Executor.__name__)
        monkeypatch.setattr(standard, "submit", watch(standard.submit))
    with Pool(1) as pool:
        if where == "the executor":
            pool.submit = watch(pool.submit)
        assert await pool.run(int, "ff", base=16) == 255
    assert seen == [{"base": 16}]
