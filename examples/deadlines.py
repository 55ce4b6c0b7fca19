"""Work that would never end, beside each other in processes: each call has 0.3 s, and the program goes on in time.

An executor's timeouts mostly tell the caller and leave the work alone.  With on_cancel="interrupt" the work is stopped,
too: an exception is raised in it, and its worker goes on.  What does not end by that has its worker killed after a
grace; another one is started.
"""

import contextlib
import os
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pyconc import asyncio
from pyconc.concurrent.futures import ProcessPoolExecutor

SECONDS = 0.3
GRACE = 0.3


def search() -> None:
    """Matches a pattern in exponential time."""
    re.match("(a+)+b", 100 * "a")


def loop() -> None:
    """Loops without end."""
    while True:
        pass


def sleep() -> None:
    """Sleeps for an hour."""
    time.sleep(3600)


def add_up() -> None:
    """Computes in C, where no exception can be raised, and keeps the GIL."""
    sum(range(10**15))


def cling() -> None:
    """Catches whatever is raised in it, and goes on."""
    while True:
        with contextlib.suppress(BaseException):
            time.sleep(3600)


def answer() -> int:
    """Answers in time."""
    return sum(range(1000))


WORK = [search, loop, sleep, add_up, cling, answer]


def call(work: Callable[[], object], path: Path) -> object:
    path.write_text(str(os.getpid()))
    return work()


def fate(path: Path) -> str:
    """What became of the worker that has written its number there."""
    if not path.exists():
        return "it never began"
    try:
        os.kill(int(path.read_text()), 0)
    except ProcessLookupError:
        return "its worker was killed"
    return "its worker goes on"


async def main() -> None:
    run = asyncio.get_running_loop().run_in_executor
    with tempfile.TemporaryDirectory() as folder:
        async with ProcessPoolExecutor(len(WORK)) as pool:
            stoppable = pool.options(on_cancel="interrupt", grace=GRACE)
            # So that no time of theirs is spent on starting.
            await asyncio.gather(*[run(pool, time.sleep, 0.05) for _ in WORK])

            async def watch(work: Callable[[], object]) -> None:
                path = Path(folder, work.__name__)
                started = time.perf_counter()
                try:
                    result = await asyncio.wait_for(run(stoppable, call, work, path), SECONDS)
                    told = f"{result}"
                except asyncio.TimeoutError:
                    told = "TimeoutError"
                elapsed = time.perf_counter() - started
                print(f"{work.__doc__:72} {told:>12} after {elapsed:.2f} s; {fate(path)}")

            await asyncio.gather(*map(watch, WORK))
            started = time.perf_counter()
            assert await asyncio.gather(*[run(pool, abs, -i) for i in range(100)]) == list(range(100))
            print(f"100 more calls in {(time.perf_counter() - started) * 1000:.1f} ms")


if __name__ == "__main__":
    asyncio.run(main())
