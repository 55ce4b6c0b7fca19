"""How much cheaper are coroutines in worker processes with pyconc than with aiomultiprocess?

The first column is aiomultiprocess' Pool; the column "pyconc" is pyconc.aiomultiprocess' Pool, or CoroutinePool
where the row says so.  Every row does the same work with both in one run, two workers each, all of them started before
the clock is; the coroutine returns its argument.  Each row states what pyconc must reach.

aiomultiprocess looks for work and for results every 5 ms, in the parent and in each worker.  That is what a call waits
for there, and what an open pool costs that has nothing to do: the last row is the CPU time that parent and workers
together use in 10 s, or in as many as --idle-seconds says, to the nearest tick of the kernel's clock.

--control means aiomultiprocess on both sides.
"""

import asyncio
import functools
import importlib
import importlib.metadata
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

from pyconc._bench import harness
from pyconc._bench.harness import US, WORKERS, Row, at_most, times_less
from pyconc._bench.programs import meter

__all__ = ["BASELINE", "ROUNDS", "facts", "identity", "make_contests", "make_rows"]

ROUNDS = 5
RIVAL = BASELINE = "aiomultiprocess"
OURS = "pyconc.aiomultiprocess"
COROUTINE_POOL = "pyconc"
# So many tasks at once that no worker gets all of them.
GREETINGS = 32 * WORKERS
# Where a call waits for no clock, more of them are needed for a time that can be measured.
MORE_CALLS = 20


# --- What the workers run ---------------------------------------------------------------------------------------------


async def identity(x):
    return x


async def worker(_):
    await asyncio.sleep(0.005)
    return os.getpid()


# --- Pools ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """How one kind of pool says what all of them can do."""

    # Makes a pool of the module.
    make: Callable
    # call(pool, function, argument) gives what can be awaited.
    call: Callable
    # await map(pool, function, items) is a list.
    map: Callable


async def listed(results):
    return [result async for result in results]


aiomultiprocess = Kind(
    lambda module: module.Pool(WORKERS),
    lambda pool, function, argument: pool.apply(function, (argument,)),
    lambda pool, function, items: pool.map(function, items).results(),
)
KINDS = {
    RIVAL: aiomultiprocess,
    OURS: aiomultiprocess,
    COROUTINE_POOL: Kind(
        lambda module: module.CoroutinePool(WORKERS),
        lambda pool, function, argument: pool.run(function, argument),
        lambda pool, function, items: listed(pool.map(function, items)),
    ),
}


async def wait_for_workers(kind, pool):
    """Returns when all workers of a pool have started."""
    seen = set()
    for _ in range(1000):
        seen.update(await kind.map(pool, worker, range(GREETINGS)))
        if len(seen) >= WORKERS:
            return
    raise RuntimeError(f"the pool has {len(seen)} of {WORKERS} workers")


def on_pool(work):
    """Makes a row of `await work(kind, pool, size)` on a started pool of the kind that is named."""

    async def measure(name, size):
        kind = KINDS[name]
        async with kind.make(importlib.import_module(name)) as pool:
            await wait_for_workers(kind, pool)
            return await work(kind, pool, size)

    return lambda name, size: asyncio.run(measure(name, size))


def timed(work):
    """Makes a row of microseconds per task, once the pool has done some of it."""

    async def measure(kind, pool, size):
        await work(kind, pool, max(1, size // 10))
        started = perf_counter()
        await work(kind, pool, size)
        return (perf_counter() - started) / size * 1e6

    return on_pool(measure)


# --- Work -------------------------------------------------------------------------------------------------------------


@timed
async def one_at_a_time(kind, pool, size):
    for i in range(size):
        await kind.call(pool, identity, i)


@timed
async def map_all(kind, pool, size):
    await kind.map(pool, identity, range(size))


def cpu_seconds():
    """What this process and all that it has started have used so far, as user and as system."""
    fields = [harness.stat_fields(f"/proc/{pid}/stat") for pid in (os.getpid(), *meter.descendants())]
    return sum(sum(each[11:13]) for each in fields) / os.sysconf("SC_CLK_TCK")


@on_pool
async def idle(_kind, _pool, size):
    """CPU seconds used in so many seconds in which nobody asks anything of the pool."""
    await asyncio.sleep(1)  # What the last task set in motion comes to rest.
    before = cpu_seconds()
    await asyncio.sleep(size)
    return cpu_seconds() - before


def idle_alone(name, size):
    """In a process of its own, whose other pools have left nothing that could be counted too."""
    return harness.in_a_fresh_process("-m", "pyconc._bench.coroutines", name, size)


# --- The table --------------------------------------------------------------------------------------------------------


def rival_version():
    try:
        importlib.import_module(RIVAL)
        return importlib.metadata.version(RIVAL)
    except ImportError as error:
        harness.SKIPPED.append(f"coroutines beside {RIVAL}: {error}")
        return None


VERSION = rival_version()


def make_rows(options):
    if VERSION is None:
        return []

    def row(name, unit, size, work, kind, goal, times=1, **more):
        size = harness.scaled(size, options.quick)
        baseline = functools.partial(work, RIVAL, size)
        candidate = baseline if options.control else functools.partial(work, kind, times * size)
        return Row(f"coroutine workers: {name}", unit, baseline, candidate, goal, **more)

    seconds = options.idle_seconds
    return [
        row("one `apply`", US, 200, one_at_a_time, OURS, times_less(100), MORE_CALLS),
        row("`map`, per task", US, 10_000, map_all, OURS, times_less(8)),
        row("one CoroutinePool.run", US, 200, one_at_a_time, COROUTINE_POOL, times_less(100), MORE_CALLS),
        row("CoroutinePool.map, per task", US, 10_000, map_all, COROUTINE_POOL, times_less(8)),
        row(f"idle for {seconds} s, CPU", "s", seconds, idle_alone, OURS, at_most(0), warm_up=0, most_rounds=1),
    ]


def make_contests(_options):
    return []


def facts():
    return {} if VERSION is None else {RIVAL: VERSION}


if __name__ == "__main__":
    module_name, idle_seconds = sys.argv[1:]
    print(idle(module_name, int(idle_seconds)))
