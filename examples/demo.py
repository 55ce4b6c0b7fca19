"""Runs the examples beside this file, then compares pyconc with the standard library on this machine."""

import argparse
import asyncio
import concurrent.futures
import functools
import importlib.util
import os
import platform
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pyconc
import pyconc.concurrent.futures

try:
    import aiofiles  # type: ignore[import-untyped]
except ImportError:
    aiofiles = None

try:
    import uvloop
except ImportError:
    uvloop = None  # type: ignore[assignment]

HERE = Path(__file__).resolve().parent
WORKERS = 2
NEEDS = {"crawl.py": "aiohttp", "many_files.py": "aiofiles"}


# --- Work: what is given to an executor, and how.  The executor is all that differs between the columns -------------


def identity(x: object) -> object:
    return x


def burst(pool: Any, tasks: int) -> None:
    for future in [pool.submit(identity, i) for i in range(tasks)]:
        future.result()


def one_at_a_time(pool: Any, tasks: int) -> None:
    for i in range(tasks):
        pool.submit(identity, i).result()


def map_all(pool: Any, tasks: int) -> None:
    for _ in pool.map(identity, range(tasks)):
        pass


async def gather(pool: Any, tasks: int) -> None:
    loop = asyncio.get_running_loop()
    await asyncio.gather(*[loop.run_in_executor(pool, identity, i) for i in range(tasks)])


async def await_one_at_a_time(pool: Any, tasks: int) -> None:
    loop = asyncio.get_running_loop()
    for i in range(tasks):
        await loop.run_in_executor(pool, identity, i)


async def to_thread(pool: Any, tasks: int) -> None:
    asyncio.get_running_loop().set_default_executor(pool)
    await asyncio.gather(*[asyncio.to_thread(identity, i) for i in range(tasks)])


async def read_files(pool: Any, tasks: int) -> None:
    async def read() -> None:
        async with aiofiles.open(__file__, executor=pool) as file:
            await file.read()

    await asyncio.gather(*[read() for _ in range(tasks)])


async def query(pool: Any, tasks: int) -> None:
    connections: dict[int, sqlite3.Connection] = {}  # one per thread

    def look_up(i: int) -> None:
        thread = threading.get_ident()
        if thread not in connections:
            connections[thread] = sqlite3.connect(":memory:", check_same_thread=False)
        connections[thread].execute("SELECT ?", (i,)).fetchall()

    loop = asyncio.get_running_loop()
    await asyncio.gather(*[loop.run_in_executor(pool, look_up, i) for i in range(tasks)])
    for connection in connections.values():
        connection.close()


# --- Measuring ------------------------------------------------------------------------------------------------------


def measure_calls(work: Callable[[Any, int], None], kind: str, futures: Any, tasks: int) -> float:
    """Microseconds per task, once the workers have started."""
    with getattr(futures, kind)(WORKERS) as pool:
        work(pool, tasks // 10 + 1)
        started = time.perf_counter()
        work(pool, tasks)
        return (time.perf_counter() - started) / tasks * 1e6


def measure_on_loop(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
    work: Callable[[Any, int], Awaitable[None]],
    kind: str,
    futures: Any,
    tasks: int,
) -> float:
    loop = new_loop()
    try:
        return measure_calls(lambda pool, tasks: loop.run_until_complete(work(pool, tasks)), kind, futures, tasks)
    finally:
        loop.close()


def compare(name: str, tasks: int, rounds: int, measure: Callable[[Any, int], float]) -> None:
    """Measures the two in turn, so that whatever else the machine does meanwhile falls on both."""
    figures: dict[Any, list[float]] = {concurrent.futures: [], pyconc.concurrent.futures: []}
    for number in range(rounds + 1):
        for futures, measured in figures.items():
            figure = measure(futures, tasks)
            if number > 0:  # the first round fills caches
                measured.append(figure)
    standard, ours = map(statistics.median, figures.values())
    print(f"{name:<52} {standard:>10.2f} µs {ours:>8.2f} µs {standard / ours:>7.1f}x", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="hardly any work: the figures mean nothing then")
    quick = parser.parse_args().quick

    for path in sorted(HERE.glob("*.py")):
        if path.name == Path(__file__).name:
            continue
        needed = NEEDS.get(path.name)
        if needed is not None and importlib.util.find_spec(needed) is None:
            print(f"{path.name} is left out: it needs {needed} (pip install {needed})\n")
            continue
        print(path.name, flush=True)
        subprocess.run([sys.executable, str(path)], check=True)
        print()

    rounds = 1 if quick else 7
    print(f"Time per task, two workers, median of {rounds} rounds, Python {platform.python_version()},", end=" ")
    print(f"{len(os.sched_getaffinity(0))} CPUs")
    print(f"{'work':<52} {'standard':>13} {'pyconc':>11} {'ratio':>8}")

    def row(name: str, tasks: int, measure: Callable[[Any, int], float]) -> None:
        compare(name, 10 if quick else tasks, rounds, measure)

    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if uvloop is not None:
        loops["uvloop"] = uvloop.new_event_loop

    # A process costs more, so there are fewer tasks for them.
    for kind, workers, share in [("ThreadPoolExecutor", "threads", 1), ("ProcessPoolExecutor", "processes", 5)]:
        call = functools.partial(functools.partial, measure_calls)
        row(f"{workers}: submit many, then take the results", 10_000 // share, call(burst, kind))
        row(f"{workers}: submit().result(), one at a time", 2_000 // share, call(one_at_a_time, kind))
        row(f"{workers}: map", 10_000 // share, call(map_all, kind))
        for name, new_loop in loops.items():
            on_loop = functools.partial(functools.partial, measure_on_loop, new_loop)
            row(f"{workers}, {name}: gather of run_in_executor", 5_000 // share, on_loop(gather, kind))
            row(f"{workers}, {name}: await, one at a time", 1_000 // share, on_loop(await_one_at_a_time, kind))
            if kind == "ThreadPoolExecutor":
                row(f"{workers}, {name}: gather of to_thread", 3_000, on_loop(to_thread, kind))
                row(f"{workers}, {name}: gather of sqlite look-ups", 2_000, on_loop(query, kind))
                if aiofiles is not None:
                    row(f"{workers}, {name}: gather of files read through aiofiles", 300, on_loop(read_files, kind))


if __name__ == "__main__":
    main()
