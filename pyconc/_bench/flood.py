"""How long can a flood of tiny C-only tasks keep an event loop waiting?

`math.sqrt` never runs the interpreter, so a worker that takes one such task after another never offers the GIL to
anybody.  The loop sleeps for a millisecond at a time beside 400,000 of them, and each row shows the longest that any
such sleep has taken in any round: with pyconc it must stay below 50 ms.

Where the tasks come from an event loop, asyncio makes several objects for each, on uvloop a dozen, and a full garbage
collection of millions of them takes longer than that whoever runs the tasks.  There pyconc must do no worse than the
standard library.
"""

import asyncio
import concurrent.futures
import functools
import math
import threading
from collections import deque
from time import perf_counter

from pyconc._bench import harness
from pyconc._bench.harness import WORKERS, Row, times_less, under

__all__ = ["ROUNDS", "facts", "make_contests", "make_rows"]

TASKS = 400_000
TICK_SECONDS = 0.001
ROUNDS = 3


# Floods, each a function of the module that holds the executor, and of how many tasks to run.


def submitted(futures, size):
    with futures.ThreadPoolExecutor(WORKERS) as pool:
        pending = deque(pool.submit(math.sqrt, i) for i in range(size))
        # One after the other: freeing a list of so many objects, whatever they are, is one long step by itself.
        while pending:
            pending.popleft().result()


def mapped(futures, size):
    with futures.ThreadPoolExecutor(WORKERS) as pool:
        for _ in pool.map(math.sqrt, range(size)):
            pass


def released_at_once(futures, size):
    gate = threading.Event()
    with futures.ThreadPoolExecutor(1) as pool:
        pool.submit(gate.wait)
        for i in range(size):
            pool.submit(math.sqrt, i)
        gate.set()


def gathered_by_another_loop(futures, size):
    async def main():
        loop = asyncio.get_running_loop()
        with futures.ThreadPoolExecutor(WORKERS) as pool:
            await asyncio.gather(*[loop.run_in_executor(pool, math.sqrt, i) for i in range(size)])

    asyncio.run(main())


async def tick_until(finished):
    """The longest time between two ticks, in milliseconds."""
    longest = 0.0
    ticked = perf_counter()
    while longest == 0.0 or not finished():
        await asyncio.sleep(TICK_SECONDS)
        before, ticked = ticked, perf_counter()
        longest = max(longest, ticked - before)
    return longest * 1000


def beside(flood):
    """Makes a row of a flood that runs in a thread of its own, beside the ticker's loop."""

    def measure(new_loop, futures, size):
        thread = threading.Thread(target=flood, args=(futures, size))
        loop = new_loop()
        try:
            thread.start()
            return loop.run_until_complete(tick_until(lambda: not thread.is_alive()))
        finally:
            thread.join()
            loop.close()

    return measure


def through_the_loop(new_loop, futures, size):
    """The tasks come from the ticker's own loop, in slices, and all complete on it at once."""

    async def main():
        gate = threading.Event()
        pending = []
        with futures.ThreadPoolExecutor(1) as pool:
            pool.submit(gate.wait)
            ticker = asyncio.create_task(tick_until(lambda: len(pending) == size and all(map(done, pending[::1000]))))
            for i in range(size):
                pending.append(loop.run_in_executor(pool, math.sqrt, i))
                if i % 1000 == 0:
                    await asyncio.sleep(0)
            gate.set()
            return await ticker

    done = asyncio.Future.done
    loop = new_loop()
    try:
        return loop.run_until_complete(main())
    finally:
        loop.close()


def make_rows(options):
    size = harness.scaled(TASKS, options.quick)
    floods = [
        ("submitted by another thread", beside(submitted), under(50)),
        ("mapped by another thread", beside(mapped), under(50)),
        ("queued, then released at once", beside(released_at_once), under(50)),
        ("gathered by another loop", beside(gathered_by_another_loop), times_less(1)),
        ("completing on this loop at once", through_the_loop, times_less(1)),
    ]
    return [
        Row(
            f"{loop_name}: {name}",
            "ms",
            functools.partial(flood, new_loop, concurrent.futures, size),
            functools.partial(flood, new_loop, options.candidate, size),
            goal,
            summary=max,
            warm_up=0,
        )
        for loop_name, new_loop in harness.LOOPS.items()
        for name, flood, goal in floods
    ]


def facts():
    return {}


def make_contests(_options):
    return []
