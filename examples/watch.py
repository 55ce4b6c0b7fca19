"""A busy program to look at, with three executors and a few kinds of work, for so many seconds as it is told.

    python examples/watch.py 60 &
    python -m pyconc top
    python -m pyconc dump PID --stacks

It says its PID first.  In top, the arrows select a worker, s shows where that one is, t writes a timeline
of five seconds, and q leaves.
"""

import asyncio
import os
import sys
import time
from concurrent.futures import Future
from typing import Any

import pyconc


def resize(pixels: int) -> int:
    """Computes"""
    return sum(i * i % 255 for i in range(pixels))


def check(number: int) -> None:
    """Fails now and then"""
    if number % 3 == 0:
        raise ValueError(f"picture {number} is damaged")


def search() -> None:
    """Would take an hour"""
    time.sleep(3600)


async def fetch(number: int) -> int:
    """Waits, beside others"""
    await asyncio.sleep(0.01 * (number % 10))
    return number


def read(path: str) -> int:
    """Reads, in a thread"""
    with open(path, "rb") as file:
        return len(file.read())


def main(seconds: float) -> None:
    started = time.perf_counter()
    with (
        pyconc.ProcessPoolExecutor(3, name="render") as render,
        pyconc.CoroutinePool(1, name="web") as web,
        pyconc.ThreadPoolExecutor(2, name="disk") as disk,
    ):
        print(f"process {os.getpid()} is busy", flush=True)
        thumbnails = render.options(name="thumbnail")
        impatient = render.options(timeout=0.1, on_cancel="interrupt")
        while True:
            calls: list[Future[Any]] = [render.submit(resize, 30_000 * (n + 1)) for n in range(8)]
            calls += [thumbnails.submit(resize, 200_000) for _ in range(4)]
            calls += [render.submit(check, n) for n in range(6)]
            calls += [impatient.submit(search)]
            calls += [web.submit(fetch, n) for n in range(50)]
            calls += [disk.submit(read, __file__) for _ in range(20)]
            pyconc.wait(calls)
            if time.perf_counter() - started >= seconds:
                break
        for name, stats in pyconc.stats().items():
            told = f"{stats.completed} completed, {stats.failed} failed, {stats.timed_out} timed out"
            print(f"{name}: {stats.submitted} calls, {told}")
    print(f"in {time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 1)
