"""Mixed load for a while, after which nothing may have grown: soak.py [SECONDS]

Threads, processes and coroutines run together: calls, maps, arrays, calls that fail, that are cancelled and whose
worker is killed, and executors that live for a moment.  After each round, when all is idle, the program counts its
memory, its files, threads, children and the pages of the region.  The first quarter warms up; after that the largest
figure of the first half bounds the second.
"""

import asyncio
import functools
import gc
import os
import signal
import statistics
import sys
import threading
import time

import pyconc

# Far more than a round takes on a busy machine; a hang is a fault.
LIMIT = 120

SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 600.0


def fail():
    raise ValueError("a call that fails")


async def double(number):
    await asyncio.sleep(0)
    return 2 * number


def kill_a_worker():
    os.kill(os.getpid(), signal.SIGKILL)


def use(pool):
    """One round on an executor of threads or processes."""
    futures = [pool.submit(abs, -number) for number in range(500)]
    assert [future.result(LIMIT) for future in futures] == list(range(500))
    assert sum(pool.map(abs, range(-2000, 0))) == 2001000
    arrays = [pool.submit(bytearray, size) for size in (10, 5_000, 300_000, 20_000_000)]
    assert [len(future.result(LIMIT)) for future in arrays] == [10, 5_000, 300_000, 20_000_000]
    assert isinstance(pool.submit(fail).exception(LIMIT), ValueError)
    queued = [pool.submit(time.sleep, 0) for _ in range(200)]
    for future in queued[::2]:
        future.cancel()
    assert not pyconc.wait(queued, LIMIT).not_done
    results = pool.map(abs, range(1000))
    assert next(results) == 0  # the rest is dropped


async def use_loop(pools, coroutines):
    loop = asyncio.get_running_loop()
    for pool in pools:
        calls = [loop.run_in_executor(pool, abs, -number) for number in range(300)]
        assert await asyncio.gather(*calls) == list(range(300))
        call = loop.run_in_executor(pool, functools.partial(time.sleep, 0.01))
        call.cancel()
    assert [result async for result in coroutines.map(double, range(300))] == list(range(0, 600, 2))


def count():
    gc.collect()
    with open("/proc/self/status") as file:
        status = dict(line.split(":", 1) for line in file)
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        children = len(file.read().split())
    files = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    regions = {os.stat(path).st_ino: os.stat(path) for path in files if "memfd:pyconc " in _target(path)}
    return {
        "MB": int(status["RssAnon"].split()[0]) / 1024,
        "files": len(files),
        "threads": threading.active_count(),
        "children": children,
        "region MB": sum(region.st_blocks for region in regions.values()) / 2048,
    }


def _target(path):
    try:
        return os.readlink(path)
    except FileNotFoundError:
        return ""


# What may come and go between two rounds: memory that an allocator keeps, workers that are being replaced.
SLACK = {"MB": 8, "files": 12, "threads": 2, "children": 4, "region MB": 32}


async def main():
    end = time.monotonic() + SECONDS
    rows = []
    with pyconc.ThreadPoolExecutor(4) as threads, pyconc.ProcessPoolExecutor(2) as processes:
        async with pyconc.CoroutinePool(2) as coroutines:
            while time.monotonic() < end or len(rows) < 8:
                await asyncio.gather(*[asyncio.to_thread(use, pool) for pool in (threads, processes)])
                await use_loop((threads, processes), coroutines)
                error = processes.submit(kill_a_worker).exception(LIMIT)
                assert isinstance(error, pyconc.WorkerDied), error
                for kind in (pyconc.ThreadPoolExecutor, pyconc.ProcessPoolExecutor):
                    with kind(1) as pool:
                        assert pool.submit(abs, -1).result(LIMIT) == 1
                rows.append(count())
    print(f"{len(rows)} rounds in {SECONDS:g} s")
    rows = rows[len(rows) // 4 :]
    half = len(rows) // 2
    grown = []
    for name, slack in SLACK.items():
        before, after = (sorted(row[name] for row in part) for part in (rows[:half], rows[half:]))
        print(
            f"{name:>10}: {statistics.median(before):8.1f} -> {statistics.median(after):8.1f}, at most {after[-1]:.1f}"
        )
        if statistics.median(after) > statistics.median(before) + slack / 4 or after[-1] > before[-1] + slack:
            grown.append(name)
    if grown:
        sys.exit(f"grown: {', '.join(grown)}")


if __name__ == "__main__":
    asyncio.run(main())
