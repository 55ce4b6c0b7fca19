"""How much cheaper are threads with pyconc than with the standard library?

Every row does the same work, a function that returns its argument, with both executors in one run, and states what
pyconc must reach.  "gather, beside plain coroutines" has no standard executor in it: its first column gathers
coroutines that return their argument, which is the least that asyncio can do.

Waking a thread on another CPU costs 20 to 50 microseconds, on the same CPU a few: on a machine that is busy with other
programs the scheduler keeps two threads that talk to each other on one CPU, and the rows "one at a time" measure that
instead: look at the number of disturbed rounds.  As root, `chrt -f 10 python -m pyconc bench threads` keeps others
away.
"""

import asyncio
import functools
import importlib
import os
import sqlite3
import sys
import threading
from time import perf_counter

import pyconc.asyncio
from pyconc._bench import harness, rivals
from pyconc._bench.harness import US, WORKERS, identity, times_less, under, within

__all__ = ["ROUNDS", "facts", "make_contests", "make_rows"]

try:
    import aiofiles
except ImportError as error:
    aiofiles = None
    harness.SKIPPED.append(f"files read through aiofiles: {error}")

ROUNDS = 7
# Python 3.15 has faster locks and a faster loop, so there is less to save there.
ON_3_15 = sys.version_info >= (3, 15)


def start(futures):
    return futures.ThreadPoolExecutor(WORKERS)


on_pool = functools.partial(harness.on_pool, start)
on_loop = functools.partial(harness.on_loop, start)


# --- Without a loop ---------------------------------------------------------------------------------------------------

burst = on_pool(harness.burst)
round_trips = on_pool(harness.round_trips)


@on_pool
def map_all(pool, size):
    return list(pool.map(identity, range(size)))


def behind_a_gate(work):
    """Makes a row of `work(futures, pending)`, timed from the moment when the first of the queued tasks may run."""

    def measure(futures, size):
        gate = threading.Event()
        with futures.ThreadPoolExecutor(1) as pool:
            pool.submit(gate.wait)
            pending = [pool.submit(identity, i) for i in range(size)]
            started = perf_counter()
            gate.set()
            work(futures, pending)
            return (perf_counter() - started) / size * 1e6

    return measure


@behind_a_gate
def wait_for_all(futures, pending):
    futures.wait(pending)


@behind_a_gate
def as_completed(futures, pending):
    for future in futures.as_completed(pending):
        future.result()


def start_and_shut_down(threads, futures, size):
    """Microseconds per pool whose threads have all been started, and had work at the same time."""
    started = perf_counter()
    for _ in range(size):
        meeting = threading.Barrier(threads)
        with futures.ThreadPoolExecutor(threads) as pool:
            for _ in range(threads):
                pool.submit(meeting.wait)
    return (perf_counter() - started) / size * 1e6


# --- On a loop --------------------------------------------------------------------------------------------------------

gather = on_loop(harness.gather)
await_one_at_a_time = on_loop(harness.await_one_at_a_time)


async def identity_coroutine(x):
    return x


@on_loop
async def gather_coroutines(loop, pool, size):
    await asyncio.gather(*[identity_coroutine(i) for i in range(size)])


@on_loop
async def to_thread_one_at_a_time(loop, pool, size):
    loop.set_default_executor(pool)
    for i in range(size):
        await asyncio.to_thread(identity, i)


# --- What people have threads for -------------------------------------------------------------------------------------


@on_loop
async def gather_to_thread(loop, pool, size):
    loop.set_default_executor(pool)
    await asyncio.gather(*[asyncio.to_thread(identity, i) for i in range(size)])


@on_loop
async def gather_to_thread_of_our_module(loop, pool, size):
    """As gather_to_thread(); pyconc's pool under a program that has changed its import of asyncio, too."""
    module = pyconc.asyncio if isinstance(pool, pyconc.ThreadPoolExecutor) else asyncio
    loop.set_default_executor(pool)
    await module.gather(*[module.to_thread(identity, i) for i in range(size)])


@on_loop
async def gather_queries(loop, pool, size):
    """Look-ups in sqlite, through one connection for each thread."""
    connections = {}

    def look_up(i):
        thread = threading.get_ident()
        if thread not in connections:
            connections[thread] = sqlite3.connect(":memory:", check_same_thread=False)
        connections[thread].execute("SELECT ?", (i,)).fetchall()

    await asyncio.gather(*[loop.run_in_executor(pool, look_up, i) for i in range(size)])
    for connection in connections.values():
        connection.close()


@on_loop
async def gather_files(_loop, pool, size):
    """This file, read through aiofiles."""

    async def read():
        async with aiofiles.open(__file__, executor=pool) as file:
            await file.read()

    await asyncio.gather(*[read() for _ in range(size)])


# --- Memory -----------------------------------------------------------------------------------------------------------


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def growth_per_pending_future(futures, size):
    """Resident bytes per task that waits in the queue: future, task, place in the queue, and what malloc adds."""
    gate = threading.Event()
    argument = object()
    pending = [None] * size
    first = size // 100
    with futures.ThreadPoolExecutor(1) as pool:
        pool.submit(gate.wait)
        # What is made once, for the first tasks that have to wait, is not part of the price of one.
        for i in range(first):
            pending[i] = pool.submit(identity, argument)
        before = resident_bytes()
        for i in range(first, size):
            pending[i] = pool.submit(identity, argument)
        growth = resident_bytes() - before
        gate.set()
    return growth / (size - first)


def growth_in_a_fresh_process(futures, size):
    return harness.in_a_fresh_process("-m", "pyconc._bench.threads", futures.__name__, size)


# --- The table --------------------------------------------------------------------------------------------------------


def make_rows(options):
    row = harness.row_maker(options.candidate, options.quick)
    rows = [
        row("submit a burst, take all results", US, 20_000, burst, times_less(25)),
        row("submit().result() one at a time", US, 5_000, round_trips, times_less(15 if ON_3_15 else 25)),
        row("map", US, 20_000, map_all, times_less(20)),
        row("wait for many", US, 20_000, wait_for_all, times_less(8)),
        row("as_completed over many", US, 20_000, as_completed, times_less(8)),
    ]
    for threads in (1, 4):
        work = functools.partial(start_and_shut_down, threads)
        rows.append(row(f"start and shut down a pool with {threads} busy", "µs/pool", 200, work, times_less(1.5)))
    for name, new_loop in harness.LOOPS.items():
        at_once, coroutines, one_at_a_time, to_thread = (
            functools.partial(work, new_loop)
            for work in (gather, gather_coroutines, await_one_at_a_time, to_thread_one_at_a_time)
        )
        least = times_less(4 if ON_3_15 else 5)
        rows += [
            row(f"{name}: gather of run_in_executor", US, 10_000, at_once, times_less(8)),
            row(f"{name}: gather, beside plain coroutines", US, 10_000, at_once, within(1.3), baseline=coroutines),
            row(f"{name}: await run_in_executor one at a time", US, 2_000, one_at_a_time, least),
            row(f"{name}: await to_thread one at a time", US, 2_000, to_thread, least),
        ]
        works = [
            ("to_thread", 3_000, gather_to_thread, 4),
            ("to_thread, pyconc.asyncio", 3_000, gather_to_thread_of_our_module, 8),
            ("sqlite look-ups", 2_000, gather_queries, 2),
        ]
        if aiofiles is not None:
            works.append(("files read through aiofiles", 300, gather_files, 1.5))
        for what, size, work, factor in works:
            rows.append(
                row(f"{name}: gather of {what}", US, size, functools.partial(work, new_loop), times_less(factor))
            )
    rows.append(row("held by a pending future", "bytes", 50_000, growth_in_a_fresh_process, under(350), warm_up=0))
    return rows


def make_contests(options):
    return rivals.make_contests("threads", options)


def facts():
    return {}


if __name__ == "__main__":
    futures_name, growth_size = sys.argv[1:]
    print(growth_per_pending_future(importlib.import_module(futures_name), int(growth_size)))
