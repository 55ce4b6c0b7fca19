"""Work that would never end, beside each other in processes: each call has 0.3 s, and the program goes on in time.

An executor's timeouts mostly tell the caller and leave the work alone.  Here the work is stopped, too: an exception is
raised in it, and its worker goes on.  What does not end by that has its worker killed after a grace, and another one is
started.  The error says which it was, and where the work stood.  asyncio.timeout() and wait_for() stop such calls as
well, without the stack.
"""

import contextlib
import re
import time
from collections.abc import Callable

from pyconc import TaskTimeout, asyncio
from pyconc.concurrent.futures import ProcessPoolExecutor

SECONDS = 0.3
GRACE = 0.5


def search() -> None:
    """Matches a pattern in exponential time"""
    re.match("(a+)+b", 100 * "a")


def spin() -> None:
    """Loops without end"""
    while True:
        pass


def sleep() -> None:
    """Sleeps for an hour"""
    time.sleep(3600)


def add_up() -> None:
    """Computes in C, where no exception can be raised, and keeps the GIL"""
    sum(range(10**15))


def cling() -> None:
    """Catches whatever is raised in it, and goes on"""
    while True:
        with contextlib.suppress(BaseException):
            time.sleep(3600)


def answer() -> int:
    """Answers in time"""
    return sum(range(1000))


WORK = [search, spin, sleep, add_up, cling, answer]


def where(error: TaskTimeout) -> str:
    """The call's part of its worker's stack, which begins with the innermost frame and goes on to pyconc's."""
    found, own = "", ""
    for frame in re.findall(r"File .*", error.stack or ""):
        found += f"\n    {frame}"
        if frame.endswith(f" in {error.task_name}"):
            own = found
    return own


async def main() -> None:
    run = asyncio.get_running_loop().run_in_executor
    async with ProcessPoolExecutor(len(WORK)) as pool:
        limited = pool.options(timeout=SECONDS, on_cancel="interrupt", grace=GRACE)

        async def watch(work: Callable[[], object]) -> None:
            started = time.perf_counter()
            try:
                told = f"answer {await run(limited, work)}"
            except TaskTimeout as error:
                fate = "its worker was killed" if error.stopped == "killed" else "it was interrupted"
                told = f"TaskTimeout, {fate}{where(error)}"
            print(f"{work.__doc__}: after {time.perf_counter() - started:.2f} s, {told}")

        await asyncio.gather(*map(watch, WORK))
        started = time.perf_counter()
        assert await asyncio.gather(*[run(pool, abs, -i) for i in range(100)]) == list(range(100))
        print(f"100 more calls in {(time.perf_counter() - started) * 1000:.1f} ms")


if __name__ == "__main__":
    asyncio.run(main())
