"""A flood of tasks that never run the interpreter, and so never offer its lock to anybody, beside an event loop.

How long the loop has to wait is measured by benchmarks/flood.py; here, that it gets its turns at all.
"""

import asyncio
import math
import sys
import threading

import pytest
from gates import Gate, block_workers
from loops import on_every_loop, on_loop

import pyconc

pytestmark = on_every_loop

TASKS = 400_000


@pytest.fixture(autouse=True)
def _short_switch_interval():
    """Makes turns so short that the quickest machine's flood lasts for many."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.00005)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.parametrize("workers", [1, 3])
@on_loop
async def test_the_loop_turns_while_a_flood_runs(new_loop, workers):
    turns = 0
    floods = 3
    for _ in range(floods):
        gate = Gate()
        with pyconc.ThreadPoolExecutor(workers) as pool, gate:
            block_workers(pool, gate, workers)
            futures = [pool.submit(math.sqrt, i) for i in range(TASKS)]
            stages = set()
            gate.open()
            while (queued := pool._work_queue.qsize()) > 0:
                stages.add(queued)
                await asyncio.sleep(0)
            assert sum(future.result() for future in futures) == sum(map(math.sqrt, range(TASKS)))
        # The loop has seen the queue at this many lengths: so often has the lock gone back and forth.
        turns += len(stages - {TASKS})
    # Once in a flood is little, but then on a busy machine the kernel, too, keeps the loop waiting.
    assert turns >= floods


@pytest.mark.parametrize("how", ["submit", "map"])
@on_loop
async def test_the_loop_turns_while_another_thread_submits_a_flood(new_loop, how):
    turns = 0
    sums = []

    def flood():
        with pyconc.ThreadPoolExecutor(2) as pool:
            if how == "submit":
                sums.append(sum(future.result() for future in [pool.submit(math.sqrt, i) for i in range(TASKS)]))
            else:
                sums.append(sum(pool.map(math.sqrt, range(TASKS))))

    thread = threading.Thread(target=flood)
    thread.start()
    while thread.is_alive():
        turns += 1
        await asyncio.sleep(0.001)
    thread.join()
    assert sums == [sum(map(math.sqrt, range(TASKS)))]
    assert turns > 3


@on_loop
async def test_a_flood_that_completes_on_the_loop_leaves_it_its_turns(new_loop):
    loop = asyncio.get_running_loop()
    tasks = TASKS // 4
    completed = 0
    stages = set()

    def count(future):
        nonlocal completed
        completed += 1

    gate = Gate()
    with pyconc.ThreadPoolExecutor(1) as pool, gate:
        block_workers(pool, gate)
        futures = [loop.run_in_executor(pool, math.sqrt, i) for i in range(tasks)]
        for future in futures:
            future.add_done_callback(count)
        last = pool.submit(math.sqrt, 1)
        gate.open()
        last.result()  # now all of them wait to be delivered
        while completed < tasks:
            stages.add(completed)
            await asyncio.sleep(0)
        assert sum(future.result() for future in futures) == sum(map(math.sqrt, range(tasks)))
    assert len(stages) > 3
