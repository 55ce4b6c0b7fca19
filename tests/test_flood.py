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

TASKS = 100_000
# Turns that a loop must get.  On a busy machine a flood may be over before the kernel lets the loop run at all, so one
# flood follows another until there were enough of them.  One that keeps its lock shows none, however many follow.
TURNS = 4
FLOODS = 160


@pytest.fixture(autouse=True)
def _short_switch_interval():
    """Makes turns so short that the quickest machine's flood lasts for many.

    Still they are longer than a worker may take to notice that its turn is over.  Were they shorter, two workers could
    hand the lock to each other for long: each would wait anew just before the other lets go.
    """
    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.parametrize("workers", [1, 3])
@on_loop
async def test_the_loop_turns_while_a_flood_runs(new_loop, workers):
    turns = floods = 0
    while turns < TURNS:
        assert floods < FLOODS, f"{turns} turns in {floods} floods"
        floods += 1
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


@pytest.mark.parametrize("how", ["submit", "map"])
@on_loop
async def test_the_loop_turns_while_another_thread_submits_a_flood(new_loop, how):
    sums = []

    def flood():
        with pyconc.ThreadPoolExecutor(2) as pool:
            if how == "submit":
                sums.append(sum(future.result() for future in [pool.submit(math.sqrt, i) for i in range(TASKS)]))
            else:
                sums.append(sum(pool.map(math.sqrt, range(TASKS))))

    turns = floods = 0
    while turns < TURNS:
        assert floods < FLOODS, f"{turns} turns in {floods} floods"
        floods += 1
        thread = threading.Thread(target=flood)
        thread.start()
        while thread.is_alive():
            turns += 1
            await asyncio.sleep(0.001)
        turns -= 1  # its last sleep may have ended when all was over
        thread.join()
    assert sums == [sum(map(math.sqrt, range(TASKS)))] * floods


@on_loop
async def test_a_flood_that_completes_on_the_loop_leaves_it_its_turns(new_loop):
    loop = asyncio.get_running_loop()
    completed = 0
    stages = set()

    def count(future):
        nonlocal completed
        completed += 1

    gate = Gate()
    with pyconc.ThreadPoolExecutor(1) as pool, gate:
        block_workers(pool, gate)
        futures = [loop.run_in_executor(pool, math.sqrt, i) for i in range(TASKS)]
        for future in futures:
            future.add_done_callback(count)
        last = pool.submit(math.sqrt, 1)
        gate.open()
        last.result()  # now all of them wait to be delivered
        while completed < TASKS:
            stages.add(completed)
            await asyncio.sleep(0)
        assert sum(future.result() for future in futures) == sum(map(math.sqrt, range(TASKS)))
    assert len(stages) > 3
