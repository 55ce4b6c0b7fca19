"""How much cheaper are calls in processes with pyconc than with the standard library, and with others?

Every row does the same work with both executors in one run, two workers each, all of them started before the clock
is; the function returns its argument unless the row says otherwise.  Each row states what pyconc must reach.  For
map, pyconc is given no chunk size; the standard library is given 100, or whichever it is fastest with in that round:
then a call costs little more than itself, and the most that can be asked is not to be slower.

The contests do a few of these things with every other pool of processes that can be imported here, see rivals.py.

Waking a process costs what waking a thread does, see threads.py, and just as much depends on what else the machine
does: look at the number of disturbed rounds.
"""

import concurrent.futures
import contextlib
import functools
import gc
import glob
import importlib
import multiprocessing
import os
import statistics
import sys
import time

from pyconc._bench import harness, rivals
from pyconc._bench.arrays import MB, array_of
from pyconc._bench.harness import US, WORKERS, at_most, identity, times_less, under
from pyconc._bench.programs import meter
from pyconc._bench.started import start, start_pool

__all__ = ["ROUNDS", "facts", "make_contests", "make_rows"]

ROUNDS = 5
# What a program might choose for its calls if it knew what they cost.
CHUNK_SIZES = [10, 100, 1_000, 10_000]
# multiprocessing lists the default first.
START_METHOD = multiprocessing.get_all_start_methods()[0]


on_pool = functools.partial(harness.on_pool, start)
on_loop = functools.partial(harness.on_loop, start)


# --- Small tasks ------------------------------------------------------------------------------------------------------

burst = on_pool(harness.burst)
round_trips = on_pool(harness.round_trips)
gather = on_loop(harness.gather)
await_one_at_a_time = on_loop(harness.await_one_at_a_time)


@on_pool
def map_automatic(pool, size):
    return list(pool.map(identity, range(size)))


@on_pool
def map_in_hundreds(pool, size):
    return list(pool.map(identity, range(size), chunksize=100))


def map_with_best_chunks(futures, size):
    def in_chunks(chunk_size, pool, size):
        return list(pool.map(identity, range(size), chunksize=chunk_size))

    with start(futures) as pool:
        in_chunks(CHUNK_SIZES[-1], pool, size)
        return min(harness.timed(functools.partial(in_chunks, chunk_size), pool, size) for chunk_size in CHUNK_SIZES)


# --- multiprocessing.Pool ---------------------------------------------------------------------------------------------


on_standard_pool = functools.partial(harness.on_pool, start_pool)


@on_standard_pool
def pool_apply(pool, size):
    for number in range(size):
        pool.apply(identity, (number,))


@on_standard_pool
def pool_apply_async(pool, size):
    return [result.get() for result in [pool.apply_async(identity, (number,)) for number in range(size)]]


@on_standard_pool
def pool_map(pool, size):
    return pool.map(identity, range(size), chunksize=1)


@on_standard_pool
def pool_imap(pool, size):
    return list(pool.imap(identity, range(size)))


# --- Programs of their own: each prints one figure --------------------------------------------------------------------

# A program of the smallest kind, so that the pools are what it measures, and not what a worker has to import again.
POOLS = f"""
import importlib, statistics, sys
from time import perf_counter

futures, count = importlib.import_module(sys.argv[1]), int(sys.argv[2])

def milliseconds():
    started = perf_counter()
    with futures.ProcessPoolExecutor({WORKERS}) as pool:
        pool.submit(abs, -1).result()
    return (perf_counter() - started) * 1000

first, *later = [milliseconds() for _ in range(1 + count)]
print(statistics.median(later) if later else first)
"""


def first_pool(futures, size):
    """Milliseconds to make a program's first pool, take its first result, and shut it down."""
    figures = [harness.in_a_fresh_process("-c", POOLS, futures.__name__, 0) for _ in range(size)]
    return statistics.median(figures)


def later_pools(futures, size):
    return harness.in_a_fresh_process("-c", POOLS, futures.__name__, size)


def alone(figure):
    """Makes a row of a figure that needs a process of its own; see the end of this file."""

    def measure(futures, size):
        return harness.in_a_fresh_process("-m", "pyconc._bench.processes", figure.__name__, futures.__name__, size)

    return measure


def held_bytes():
    """The memory of this process and all that it has started: their own pages, and those of any memfd, each once."""
    own = 0
    mapped = []
    files = {}
    for pid in (os.getpid(), *meter.descendants()):
        fields = harness.status_fields(f"/proc/{pid}/status")
        anonymous, shared = (1024 * int(fields.get(name, "0 kB").split()[0]) for name in ("RssAnon", "RssShmem"))
        own += anonymous
        mapped.append(shared)
        for path in glob.glob(f"/proc/{pid}/fd/*"):
            with contextlib.suppress(OSError):
                if os.readlink(path).startswith("/memfd:"):
                    found = os.stat(path)
                    files[found.st_dev, found.st_ino] = 512 * found.st_blocks
    # A memfd that is mapped may have been closed; then all that can be seen of it is what somebody has touched.
    return own + max(sum(files.values()), *mapped)


IN_FLIGHT = 20


def held_after_transfers(futures, size):
    """Megabytes held after so many arrays of 1 MB have gone to a worker and back, above what was held before."""
    array = array_of(MB, "array")
    with start(futures) as pool:
        before = held_bytes()
        for _ in range(max(1, size // IN_FLIGHT)):
            for future in [pool.submit(identity, array) for _ in range(IN_FLIGHT)]:
                future.result()
        del future
        gc.collect()
        time.sleep(0.5)  # What the last tasks left behind is freed in the other processes.
        return (held_bytes() - before) / MB


def idle_figures():
    """For each thread of a pool's processes, this one's main thread excepted: its voluntary switches and its ticks."""
    figures = {}
    for pid in (os.getpid(), *meter.descendants()):
        for path in glob.glob(f"/proc/{pid}/task/*"):
            if path != f"/proc/{pid}/task/{os.getpid()}":
                switches = harness.status_fields(f"{path}/status").get("voluntary_ctxt_switches", "0")
                figures[path] = int(switches), sum(harness.stat_fields(f"{path}/stat")[11:13])
    return figures


def while_idle(futures, size):
    """The sums of what `idle_figures` counts, in so many seconds in which nobody asks anything of the pool."""
    with start(futures):
        time.sleep(1)  # What the last task set in motion comes to rest.
        before = idle_figures()
        time.sleep(size)
        after = idle_figures()
    grown = [[now - then for now, then in zip(after[path], before.get(path, (0, 0)), strict=True)] for path in after]
    return [sum(column) for column in zip(*grown, strict=True)]


def idle_wakeups(futures, size):
    return while_idle(futures, size)[0]


def idle_milliseconds(futures, size):
    return while_idle(futures, size)[1] * 1000 / os.sysconf("SC_CLK_TCK")


# --- The tables -------------------------------------------------------------------------------------------------------


def make_rows(options):
    candidate = options.candidate
    row = harness.row_maker(candidate, options.quick)
    # With the standard library on both sides both must do the same.
    is_standard = candidate is concurrent.futures
    automatic = map_in_hundreds if is_standard else map_automatic
    best = map_with_best_chunks if is_standard else map_automatic
    rows = [
        row("submit a burst, take all results", US, 5_000, burst, times_less(30)),
        row("submit().result() one at a time", US, 1_000, round_trips, times_less(20)),
        row("map of small calls, in chunks of 100", US, 50_000, automatic, times_less(5), baseline=map_in_hundreds),
        row("map of small calls, in the best chunks", US, 50_000, best, times_less(1), baseline=map_with_best_chunks),
    ]
    for name, new_loop in harness.LOOPS.items():
        at_once, one_at_a_time = (functools.partial(work, new_loop) for work in (gather, await_one_at_a_time))
        rows += [
            row(f"{name}: gather of run_in_executor", US, 4_000, at_once, times_less(12)),
            row(f"{name}: await run_in_executor one at a time", US, 1_000, one_at_a_time, times_less(8)),
        ]
    rows += [
        row(f"multiprocessing.Pool: {name}", US, size, work, times_less(5))
        for name, size, work in [
            ("apply one at a time", 1_000, pool_apply),
            ("apply_async, take all results", 5_000, pool_apply_async),
            ("map in chunks of 1", 5_000, pool_map),
            ("imap", 5_000, pool_imap),
        ]
    ]
    # Where the standard library forks the program itself, nothing can start in less.
    start_goal = times_less(1 if START_METHOD == "fork" else 3)
    return [
        *rows,
        row("a program's first pool, one result, shut down", "ms/pool", 3, first_pool, start_goal),
        row("a program's next pool, one result, shut down", "ms/pool", 20, later_pools, start_goal),
        *(
            row(name, unit, size, alone(figure), goal, alone=True, warm_up=0, most_rounds=1)
            for name, unit, size, figure, goal in [
                # Less than what is in flight at once: what was held for that has to go back.
                ("held after arrays of 1 MB, 10,000 there and back", "MB", 10_000, held_after_transfers, under(32)),
                ("idle for 5 s: wakeups in all processes", "times", 5, idle_wakeups, at_most(0)),
                ("idle for 5 s: CPU used by all processes", "ms", 5, idle_milliseconds, at_most(0)),
            ]
        ),
    ]


def make_contests(options):
    return rivals.make_contests("processes", options)


def facts():
    return {"start": START_METHOD} | rivals.versions("processes")


if __name__ == "__main__":
    figure_name, futures_name, alone_size = sys.argv[1:]
    print(globals()[figure_name](importlib.import_module(futures_name), int(alone_size)))
