"""How long does a call take every two milliseconds, while other programs use the CPUs?

A server calls a function in a thread or a process now and then, and other programs run beside it.  Each row starts busy
programs, so many for each CPU, at a nice value, and awaits the result of a function that returns its argument every two
milliseconds; or it keeps this program on one CPU, alone or with a busy program on the same one.  The figure is the time
from the call to the result: the median, and the 99th percentile of the same calls.  Both executors take turns, and
pyconc must never be slower than the standard library.

The scheduler's time slices are milliseconds, so a program that gives its CPU away at the wrong moment shows here and
nowhere else.  The machine must have nothing else to do.
"""

import asyncio
import concurrent.futures
import contextlib
import functools
import os
import subprocess
from time import perf_counter

from pyconc._bench import harness
from pyconc._bench.harness import WORKERS, Row, identity, within
from pyconc._bench.programs.meter import percentile

__all__ = ["ROUNDS", "facts", "make_contests", "make_rows", "neighbours"]

ROUNDS = 5
CALLS = 300
PAUSE_SECONDS = 0.002
# Ends with the program that has started it, however that ends.
BUSY = "while kill -0 $PPID 2>/dev/null; do :; done"

# Name, busy programs for each CPU, their nice value, whether all of it shares one CPU.
CASES = [
    ("alone", 0, 0, False),
    ("1 busy a CPU", 1, 0, False),
    ("1 busy a CPU, nice 19", 1, 19, False),
    ("2 busy a CPU", 2, 0, False),
    ("2 busy a CPU, nice 19", 2, 19, False),
    ("on one CPU, alone", 0, 0, True),
    ("on one CPU, 1 busy", 1, 0, True),
    ("on one CPU, 1 busy, nice 19", 1, 19, True),
]


@contextlib.contextmanager
def neighbours(a_cpu, nice, on_one_cpu):
    """Keeps the CPUs busy, and this program on one of them if it is to be there."""
    cpus = os.sched_getaffinity(0)
    if on_one_cpu:
        os.sched_setaffinity(0, {min(cpus)})
    try:
        with contextlib.ExitStack() as busy:
            for _ in range(a_cpu * len(os.sched_getaffinity(0))):
                program = busy.enter_context(subprocess.Popen(["nice", "-n", str(nice), "sh", "-c", BUSY]))
                busy.callback(program.kill)
            yield
    finally:
        os.sched_setaffinity(0, cpus)


async def call_now_and_then(pool, size):
    """Seconds that each of these calls took."""
    loop = asyncio.get_running_loop()
    times = []
    for i in range(size):
        await asyncio.sleep(PAUSE_SECONDS)
        started = perf_counter()
        await loop.run_in_executor(pool, identity, i)
        times.append(perf_counter() - started)
    return times


def measure(kind, case, futures, size):
    """Microseconds from call to result."""
    with neighbours(*case), getattr(futures, kind)(WORKERS) as pool:
        asyncio.run(call_now_and_then(pool, max(1, size // 10)))
        times = [seconds * 1e6 for seconds in asyncio.run(call_now_and_then(pool, size))]
    return {"p50": percentile(times, 50), "p99": percentile(times, 99)}


def make_pair(title, kind, case, candidate, size):
    """The two rows of a case."""
    baseline, candidate = (
        harness.together(functools.partial(measure, kind, case, futures, size), ("p50", "p99"))
        for futures in (concurrent.futures, candidate)
    )
    return [
        Row(f"{title}, {figure}", "µs/call", baseline[figure], candidate[figure], within(1), warm_up=0)
        for figure in baseline
    ]


def make_rows(options):
    size = harness.scaled(CALLS, options.quick)
    rows = []
    for label, kind in ("threads", "ThreadPoolExecutor"), ("processes", "ProcessPoolExecutor"):
        for name, *case in CASES:
            rows += make_pair(f"{label}, {name}", kind, case, options.candidate, size)
    return rows


def facts():
    return {}


def make_contests(_options):
    return []
