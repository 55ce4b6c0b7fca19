"""A thousand calls a second, in threads or in processes, from an event loop that has nothing to do between them.

paced_calls.py ThreadPoolExecutor|ProcessPoolExecutor CALLS
"""

import asyncio
import concurrent.futures
import sys
import time

import meter

WORKERS = 2
INTERVAL_SECONDS = 0.001


def answer(number):
    return number


async def call_now_and_then(executor, calls):
    """How many microseconds each of the calls took."""
    loop = asyncio.get_running_loop()
    times = []
    due = loop.time()
    for number in range(calls):
        await asyncio.sleep(due - loop.time())
        started = time.perf_counter()
        await loop.run_in_executor(executor, answer, number)
        times.append((time.perf_counter() - started) * 1e6)
        due = max(due + INTERVAL_SECONDS, loop.time())  # what is late is not made up for
    return times


async def main(kind, calls):
    with getattr(concurrent.futures, kind)(WORKERS) as executor:
        await call_now_and_then(executor, max(10, calls // 10))
        before = meter.cpu_seconds()
        times = await call_now_and_then(executor, calls)
        cpu = meter.cpu_seconds() - before
    meter.say(p50=meter.percentile(times, 50), p99=meter.percentile(times, 99), cpu=cpu / calls * 1e6)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
