"""How late is work stopped that has used up its time, and what do deadlines cost?

The contests do the same with each pool that can stop work that runs: a time-out of 0.3 s around a call that would sleep
for an hour, and then the next call; and 1,000 time-outs of 50 ms, eight at a time, while a busy program has each CPU.
pyconc's are asyncio.wait_for() around run_in_executor() on options(on_cancel="interrupt"), which interrupts the call.
pebble's are timeout=, and anyio's are move_on_after() around to_process.run_sync(cancellable=True): both kill the
worker.  The clock runs until the caller has been told, which with all three is when the call has ended.

In the rows the column "pyconc" is pyconc with options, and "without" is pyconc without any, where there is something
to compare; the standard library cannot stop what runs.  There the time-outs are options(timeout=), too, which also asks
the worker for its stack.  Under load "without" is asyncio.sleep(), with no pool: a time-out waits for the CPU as that
does, and again for each thread and process on its way.  --control means no options on both sides.
"""

import asyncio
import contextlib
import functools
import importlib.metadata
import itertools
import time
from time import perf_counter

import pyconc
from pyconc._bench import harness
from pyconc._bench.harness import US, WORKERS, Contest, Goal, Row, at_most
from pyconc._bench.neighbours import neighbours
from pyconc._bench.programs.meter import percentile

__all__ = ["BASELINE", "ROUNDS", "facts", "make_contests", "make_rows"]

try:
    import pebble
except ImportError as error:
    pebble = None
    harness.SKIPPED.append(f"the rival pebble: {error}")
try:
    import anyio
    from anyio import to_process
except ImportError as error:
    anyio = None
    harness.SKIPPED.append(f"the rival anyio: {error}")

ROUNDS = 5
BASELINE = "without"
MS = "ms"
HOUR = 3600
SECONDS = 0.3
# Of the many time-outs, how many there are, and how many at a time.
SHORT_SECONDS = 0.05
TIME_OUTS = 1_000
AT_ONCE = 8
# What a busy machine's CPUs have beside the pool: one program each, at the same nice value.
LOAD = 1, 0, False


# --- Pools ------------------------------------------------------------------------------------------------------------
# Each gives two coroutine functions: time_out(seconds) returns when a call that sleeps for an hour has been stopped;
# call(function, argument) returns what the function does.


@contextlib.asynccontextmanager
async def pyconc_pool(workers, on_cancel="interrupt"):
    async with pyconc.ProcessPoolExecutor(workers) as pool:
        run = asyncio.get_running_loop().run_in_executor
        stoppable = pool.options(on_cancel=on_cancel)

        async def time_out(seconds):
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(run(stoppable, time.sleep, HOUR), seconds)

        yield time_out, functools.partial(run, pool)


@contextlib.asynccontextmanager
async def pool_with_timeout(workers, on_cancel="interrupt"):
    """The same by options(timeout=), which asks the worker for its stack before the call is stopped."""
    async with pyconc.ProcessPoolExecutor(workers) as pool:
        run = asyncio.get_running_loop().run_in_executor

        async def time_out(seconds):
            with contextlib.suppress(pyconc.TaskTimeout):
                await run(pool.options(timeout=seconds, on_cancel=on_cancel), time.sleep, HOUR)

        yield time_out, functools.partial(run, pool)


@contextlib.asynccontextmanager
async def no_pool(_workers):
    """Nothing is stopped: so late are the loop's own timers."""
    yield asyncio.sleep, asyncio.to_thread


@contextlib.asynccontextmanager
async def pebble_pool(workers):
    with pebble.ProcessPool(workers) as pool:

        async def time_out(seconds):
            # On Python 3.10 asyncio.TimeoutError is another class.
            with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
                await asyncio.wrap_future(pool.schedule(time.sleep, (HOUR,), timeout=seconds))

        async def call(function, argument):
            return await asyncio.wrap_future(pool.schedule(function, (argument,)))

        yield time_out, call


@contextlib.asynccontextmanager
async def anyio_pool(workers):
    limiter = anyio.CapacityLimiter(workers)

    async def time_out(seconds):
        with anyio.move_on_after(seconds):
            await to_process.run_sync(time.sleep, HOUR, cancellable=True, limiter=limiter)

    async def call(function, argument):
        return await to_process.run_sync(function, argument, limiter=limiter)

    yield time_out, call


POOLS = {"pebble": pebble and pebble_pool, "anyio": anyio and anyio_pool, "pyconc": pyconc_pool}
POOLS = {name: pool for name, pool in POOLS.items() if pool is not None}


def on_pool(work, pool, workers, size):
    """The figure of `await work(time_out, call, size)`, once all workers have started."""

    async def main():
        async with pool(workers) as (time_out, call):
            await asyncio.gather(*[call(time.sleep, 0.1) for _ in range(workers)])
            return await work(time_out, call, size)

    return asyncio.run(main())


# --- Work: milliseconds -----------------------------------------------------------------------------------------------


async def late(time_out, seconds):
    started = perf_counter()
    await time_out(seconds)
    return (perf_counter() - started - seconds) * 1000


async def stop(time_out, _call, _size):
    return await late(time_out, SECONDS)


async def call_after(time_out, call, _size):
    await time_out(SECONDS)
    started = perf_counter()
    await call(abs, 1)  # a worker that is new has no module to import for it
    return (perf_counter() - started) * 1000


async def many_late(time_out, _call, size):
    """How late each of so many time-outs was."""

    async def some():
        return [await late(time_out, SHORT_SECONDS) for _ in range(max(1, size // AT_ONCE))]

    return [*itertools.chain(*await asyncio.gather(*[some() for _ in range(AT_ONCE)]))]


def alone(work, pool):
    """With one worker: what comes next needs the one that was stopped, or another in its place."""
    return functools.partial(on_pool, work, pool, 1, 1)


def under_load(pool, size):
    """The median and the 99th percentile of how late many time-outs were, a way for each."""

    def measure():
        with neighbours(*LOAD):
            times = on_pool(many_late, pool, AT_ONCE, size)
        return {"p50": percentile(times, 50), "p99": percentile(times, 99)}

    return harness.together(measure, ("p50", "p99"))


# --- Work: what an option costs ---------------------------------------------------------------------------------------


def burst_with(options, size):
    with pyconc.ProcessPoolExecutor(WORKERS) as pool:
        executor = pool.options(**options) if options else pool
        harness.burst(executor, max(1, size // 10))
        return harness.timed(harness.burst, executor, size)


def gather_with(new_loop, options, size):
    async def main():
        async with pyconc.ProcessPoolExecutor(WORKERS) as pool:
            executor = pool.options(**options) if options else pool
            await harness.gather(loop, executor, max(1, size // 10))
            started = perf_counter()
            await harness.gather(loop, executor, size)
            return (perf_counter() - started) / size * 1e6

    loop = new_loop()
    try:
        return loop.run_until_complete(main())
    finally:
        loop.close()


def more_by(limit):
    """The candidate's figure is at most `limit` above the baseline's."""
    return Goal(
        f"{limit:g} more",
        lambda baseline, candidate: candidate / baseline,
        lambda baseline, candidate: candidate <= baseline + limit,
    )


# --- The tables -------------------------------------------------------------------------------------------------------


def make_rows(options):
    works = {"a burst": (20_000, burst_with)}
    for name, new_loop in harness.LOOPS.items():
        works[f"{name}: gather"] = 4_000, functools.partial(gather_with, new_loop)
    rows = []
    for option, value in ("on_cancel", "interrupt"), ("timeout", HOUR):
        for name, (size, work) in works.items():
            size = harness.scaled(size, options.quick)
            given = {} if options.control else {option: value}
            ways = functools.partial(work, {}, size), functools.partial(work, given, size)
            rows.append(Row(f"{name}, with {option}=", US, *ways, more_by(0.3)))
    if options.control:
        return rows
    by_kill = functools.partial(pyconc_pool, on_cancel="kill")
    with_kill = functools.partial(pool_with_timeout, on_cancel="kill")
    rows += [
        Row("stopped so late, after 0.3 s", MS, None, alone(stop, pyconc_pool), at_most(2)),
        Row("the same by timeout=, with the stack", MS, None, alone(stop, pool_with_timeout), at_most(10)),
        Row("the same by a kill, with the stack", MS, None, alone(stop, with_kill), at_most(10)),
        Row("the next call then, by the same worker", MS, None, alone(call_after, pyconc_pool), at_most(0.2)),
        Row("the next call then, if the worker was killed", MS, None, alone(call_after, by_kill), at_most(5)),
    ]
    for name, pool in ("under load, late", pyconc_pool), ("under load, late by timeout=", pool_with_timeout):
        size = harness.scaled(TIME_OUTS, options.quick)
        baseline, candidate = under_load(no_pool, size), under_load(pool, size)
        for figure, limit in ("p50", 2), ("p99", 5):
            ways = baseline[figure], candidate[figure]
            rows.append(Row(f"1,000 time-outs {name}: {figure}", MS, *ways, at_most(limit), warm_up=0, most_rounds=1))
    return rows


def make_contests(options):
    if options.control or len(POOLS) == 1:  # with nobody to be ahead of
        return []
    size = harness.scaled(TIME_OUTS, options.quick)
    loaded = {name: under_load(pool, size) for name, pool in POOLS.items()}
    return [
        Contest("stopped so late", MS, {name: alone(stop, pool) for name, pool in POOLS.items()}),
        Contest("the next call then", MS, {name: alone(call_after, pool) for name, pool in POOLS.items()}),
        *(
            Contest(f"under load, late: {figure}", MS, {name: ways[figure] for name, ways in loaded.items()}, 1)
            for figure in ("p50", "p99")
        ),
    ]


def facts():
    return {name: importlib.metadata.version(name) for name in POOLS if name != "pyconc"}
