"""pyconc.aiomultiprocess: what programs written for aiomultiprocess find."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import coroutines
import pytest
from loops import on_every_loop
from support import HANG_LIMIT, run_script
from test_coroutine_pool import AsyncGate, collect, run_on

from pyconc import WorkerDied
from pyconc.aiomultiprocess import Pool, ProxyException, RoundRobin, Scheduler, core

HERE = os.path.dirname(__file__)


# ---- as its README has it ----


def test_the_three_ways_to_run_a_coroutine_in_a_process():
    finished = run_script(
        f"""
import sys
sys.path.insert(0, {HERE!r})
import asyncio
import coroutines
from pyconc.aiomultiprocess import Pool, Process, Worker

async def main():
    process = Process(target=coroutines.double, args=(1,))
    print(await process, process.exitcode)

    worker = Worker(target=coroutines.double, kwargs={{"value": 2}})
    print(await worker, worker.result)

    async with Pool(2) as pool:
        async for result in pool.map(coroutines.double, range(3)):
            print(result)
        print(await pool.map(coroutines.double, [4, 5]), await pool.starmap(coroutines.identity, [(1, 2), (3, 4)]))
        print(await pool.apply(coroutines.double, args=(6,)), await pool.apply(coroutines.double, kwds={{"value": 7}}))

if __name__ == "__main__":
    asyncio.run(main())
"""
    )
    assert finished.stdout.splitlines() == [
        "None 0",
        "4 4",
        "0",
        "2",
        "4",
        "[8, 10] [(1, 2), (3, 4)]",
        "12 14",
    ]


def test_the_items_of_a_map_may_use_the_pool_themselves():
    async def main():
        async with Pool(2) as pool:
            inner = []

            def items(count):
                for i in range(count):
                    inner.append(pool.map(coroutines.double, [i]))
                    yield i
                if count == 3:
                    raise LookupError

            assert await pool.map(coroutines.double, items(2)) == [0, 2]
            with pytest.raises(LookupError):
                pool.map(coroutines.double, items(3))
            assert [await results for results in inner] == [[0], [2], [0], [2], [4]]

    asyncio.run(main())


def test_a_pool_needs_no_main_guard():
    finished = run_script(
        """
import asyncio
from pyconc.aiomultiprocess import Pool
async def double(value):
    return 2 * value
async def main():
    async with Pool(2) as pool:
        print(await pool.map(double, range(4)))
print("once")
asyncio.run(main())
"""
    )
    assert finished.stdout == "once\n[0, 2, 4, 6]\n"


@pytest.mark.parametrize(
    ("modules", "count"), [("pool,scheduler", 11), pytest.param("core", 18, marks=pytest.mark.slow)]
)
def test_its_own_tests_pass(modules, count):
    """But for three that are about the original's queues, and two more.

    One knows what older Pythons say; one counts on a result's taking longer than what the child sends through a queue.
    """
    pytest.importorskip("aiomultiprocess")
    known = {"pool,scheduler": ["test_pool_exception_handler"], "core": []}[modules]
    if modules == "core" and sys.version_info >= (3, 13):
        known.append("test_spawn_method")
    script = Path(__file__).parent / "upstream" / "run_aiomultiprocess.py"
    flags = ("-W", "ignore::DeprecationWarning")  # event-loop policies, which they use
    finished = run_script(script, modules, ",".join(known), flags=flags, limit=4 * HANG_LIMIT)
    assert f"{count - len(known)} tests" in finished.stdout


# ---- Pool ----


@on_every_loop
def test_a_pool_on_every_loop(new_loop):
    async def main():
        async with Pool(2) as pool:
            assert len(pool.processes) == pool.process_count == 2
            assert await pool.map(coroutines.double, range(100)) == [*range(0, 200, 2)]
            assert await collect(pool.starmap(coroutines.identity, [(1, 2)] * 3)) == [(1, 2)] * 3

    run_on(new_loop, main())


def test_an_exception_comes_as_its_text_with_itself_as_the_cause():
    async def main():
        async with Pool(1) as pool:
            with pytest.raises(ProxyException, match=r"(?s)^Traceback.*in fail.*ZeroDivisionError: why") as caught:
                await pool.apply(coroutines.fail, (ZeroDivisionError("why"),))
            assert isinstance(caught.value.__cause__, ZeroDivisionError)
            assert caught.value.__cause__.args == ("why",)
            assert "in fail" in str(caught.value.__cause__.__cause__)
            with pytest.raises(ProxyException, match="pickle"):
                await pool.apply(coroutines.lock)
            with pytest.raises(ProxyException, match="division"):
                await pool.map(coroutines.divide_by, [1, 0, 2, 0])
            assert await pool.apply(coroutines.double, (2,)) == 4

    asyncio.run(main())


def test_an_exception_handler_is_called_in_the_child():
    async def main():
        heard = core.get_context().Queue()
        async with Pool(1, exception_handler=heard.put) as pool:
            with pytest.raises(ProxyException, match="why"):
                await pool.apply(coroutines.fail, (KeyError("why"),))
            error = await asyncio.to_thread(heard.get, True, HANG_LIMIT)
            assert isinstance(error, KeyError)
        heard.close()
        heard.join_thread()

    asyncio.run(main())


def test_a_dead_child_costs_what_it_ran():
    async def main():
        async with Pool(2) as pool:
            with pytest.raises(WorkerDied, match="SIGKILL"):
                await asyncio.wait_for(pool.apply(coroutines.die, (signal.SIGKILL,)), HANG_LIMIT)
            assert await pool.map(coroutines.double, range(20)) == [*range(0, 40, 2)]

    asyncio.run(main())


def test_cancelling_reaches_the_child():
    async def main():
        async with Pool(1) as pool, AsyncGate() as gate:
            one = asyncio.ensure_future(pool.apply(coroutines.wait_at, (gate.address,)))
            many = asyncio.ensure_future(pool.map(coroutines.wait_at, [gate.address] * 3).results())
            for _ in range(4):
                await gate.hear("started")
            one.cancel()
            await gate.hear("cancelled")
            many.cancel()
            for _ in range(3):
                await gate.hear("cancelled")
            await asyncio.wait([one, many])
            assert one.cancelled()
            assert many.cancelled()

    asyncio.run(main())


def test_a_closed_pool_finishes_its_work():
    async def main():
        pool = Pool(2)
        results = pool.map(coroutines.after_a_turn, range(50))
        with pytest.raises(RuntimeError, match="pool is still open"):
            await pool.join()
        pool.close()
        for refused in (pool.map, pool.starmap):
            with pytest.raises(RuntimeError, match="pool is closed"):
                refused(coroutines.pid, [])
        assert await results == [*range(50)]
        await pool.join()
        assert pool.processes == {}

    asyncio.run(main())


def test_leaving_the_block_ends_what_runs():
    async def main():
        async with AsyncGate() as gate:
            async with Pool(1) as pool:
                waiting = asyncio.ensure_future(pool.apply(coroutines.wait_at, (gate.address,)))
                await gate.hear("started")
            with pytest.raises(WorkerDied, match="SIGTERM"):
                await asyncio.wait_for(waiting, HANG_LIMIT)

    asyncio.run(main())


def test_childconcurrency_and_maxtasksperchild():
    async def main():
        async with Pool(1, childconcurrency=2, maxtasksperchild=4) as pool, AsyncGate() as gate:
            results = pool.map(coroutines.wait_at, [gate.address] * 3)
            for _ in range(2):
                await gate.hear("started")
            assert gate.said.empty()
            gate.open()
            await gate.hear("started")
            gate.open()
            await results
            pids = await pool.map(coroutines.pid, [()] * 0) + [await pool.apply(coroutines.pid) for _ in range(5)]
            assert len(set(pids)) == 2

    asyncio.run(main())


class Recorder(Scheduler):
    """Sends all to one queue, and writes down what it hears."""

    def __init__(self):
        self.heard = []

    def register_queue(self, tx):
        self.heard.append("queue")
        return self.heard.count("queue")

    def register_process(self, qid):
        self.heard.append(f"process of {qid}")

    def schedule_task(self, task_id, func, args, kwargs):
        self.heard.append(f"task {task_id}: {func.__name__}{args}")
        return 2

    def complete_task(self, task_id):
        self.heard.append(f"task {task_id} ended")


def test_a_scheduler_chooses_the_queue():
    async def main():
        scheduler = Recorder()
        async with Pool(3, queuecount=2, scheduler=scheduler) as pool:
            assert sorted(pool.processes.values()) == [1, 1, 2]
            (only,) = (process.pid for process, queue in pool.processes.items() if queue == 2)
            assert await pool.apply(coroutines.double, (1,)) == 2
            assert {await pool.apply(coroutines.pid) for _ in range(5)} == {only}
        assert scheduler.heard[:7] == [
            "queue",
            "queue",
            "process of 1",
            "process of 2",
            "process of 1",
            "task 1: double(1,)",
            "task 1 ended",
        ]
        with pytest.raises(ValueError, match="queue count must be <= process count"):
            Pool(1, queuecount=2)

    asyncio.run(main())


def test_round_robin_gives_each_process_a_turn():
    scheduler = RoundRobin()
    one, two = scheduler.register_queue(None), scheduler.register_queue(None)
    for queue in (one, two, one):
        scheduler.register_process(queue)
    assert [scheduler.schedule_task(n, None, (), {}) for n in range(6)] == [one, two, one, one, two, one]


def test_initializers_of_pools():
    async def main():
        async with Pool(1, initializer=coroutines.remember_loop) as pool:
            assert await pool.apply(coroutines.is_remembered_loop)
        with pytest.raises(ValueError, match="initializer must be synchronous"):
            Pool(1, initializer=coroutines.pid)

    asyncio.run(main())


@pytest.mark.parametrize("method", ["fork", pytest.param("forkserver", marks=pytest.mark.slow), "spawn"])
def test_start_methods_of_pools(method):
    run_script(
        f"""
import sys
sys.path.insert(0, {HERE!r})
import asyncio
import coroutines
from pyconc.aiomultiprocess import Pool, set_start_method
async def main():
    async with Pool(2) as pool:
        assert await pool.map(coroutines.double, range(10)) == [*range(0, 20, 2)]
if __name__ == "__main__":
    set_start_method({method!r})
    asyncio.run(main())
"""
    )
