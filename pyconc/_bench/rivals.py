"""The pools of other libraries, and the work that a contest has all of them do, with what they choose by themselves.

A rival that cannot do a piece of work as it is meant (joblib has no call of its own, anyio no map) is not in that
contest.  One that cannot be imported is left out, aloud.
"""

import functools
import importlib
import importlib.metadata
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

from pyconc._bench import harness
from pyconc._bench.harness import US, WORKERS, Contest, identity
from pyconc._bench.started import wait_for_workers

__all__ = ["Kind", "kinds", "make_contests", "versions"]

# Contests: how many calls of threads, and of processes.
SIZES = {
    "burst": (5_000, 2_000),
    "round trip": (1_000, 500),
    "map in chunks of 100": (None, 20_000),
    "map, automatic": (5_000, 5_000),
}


# --- Pools with calls and a map ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """How one kind of pool says what all of them can do."""

    # The module to import, and then how to make a pool of it.
    module: str
    make: Callable
    # submit(pool, function, argument) gives what has a method `result`.
    submit: Callable = lambda pool, function, argument: pool.submit(function, argument)
    result: str = "result"
    # map(pool, function, items, **chunks) returns when all results are there; `chunks` is what it calls their size.
    map: Callable = lambda pool, *args, **chunks: list(pool.map(*args, **chunks))
    chunks: str = "chunksize"
    has_processes: bool = True

    can = frozenset(SIZES)

    @contextmanager
    def started(self):
        """A pool all of whose workers have started."""
        with self.make(importlib.import_module(self.module)) as pool:
            if self.has_processes:
                wait_for_workers(functools.partial(self.submit, pool), self.result)
            yield pool

    def measure(self, work, size):
        """Microseconds per task of this work, once the pool has done some of it."""
        with self.started() as pool:
            do = functools.partial(WORKS[work], self)
            do(pool, max(1, size // 10))
            return harness.timed(do, pool, size)


def burst(kind, pool, size):
    pending = [kind.submit(pool, identity, i) for i in range(size)]
    return [getattr(each, kind.result)() for each in pending]


def round_trips(kind, pool, size):
    return [getattr(kind.submit(pool, identity, i), kind.result)() for i in range(size)]


def map_in_hundreds(kind, pool, size):
    return kind.map(pool, identity, range(size), **{kind.chunks: 100})


def map_automatic(kind, pool, size):
    return kind.map(pool, identity, range(size))


WORKS = dict(zip(SIZES, (burst, round_trips, map_in_hundreds, map_automatic), strict=True))


# --- Others -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Joblib:
    """Parallel, whose workers stay for the next call inside `with`."""

    backend: str
    module: str = "joblib"

    can = frozenset({"map in chunks of 100", "map, automatic"})

    def measure(self, work, size):
        joblib = importlib.import_module(self.module)
        chunks = {"batch_size": 100} if "100" in work else {}
        with joblib.Parallel(WORKERS, backend=self.backend, **chunks) as parallel:

            def do(_pool, size):
                parallel(joblib.delayed(identity)(i) for i in range(size))

            do(None, max(1, size // 10))
            figure = harness.timed(do, None, size)
        if self.backend == "loky":  # its workers would go on waiting beside the next one's
            joblib.externals.loky.get_reusable_executor().shutdown()
        return figure


@dataclass(frozen=True)
class Anyio:
    """run_sync of to_thread or to_process, with so many workers at most."""

    module: str

    can = frozenset({"burst", "round trip"})

    def measure(self, work, size):
        anyio, run = importlib.import_module("anyio"), importlib.import_module(self.module).run_sync

        async def do(limiter, size):
            if work == "round trip":
                for i in range(size):
                    await run(identity, i, limiter=limiter)
                return
            async with anyio.create_task_group() as group:
                for i in range(size):
                    group.start_soon(functools.partial(run, identity, i, limiter=limiter))

        async def main():
            limiter = anyio.CapacityLimiter(WORKERS)
            await do(limiter, max(1, size // 10))
            started = perf_counter()
            await do(limiter, size)
            return (perf_counter() - started) / size * 1e6

        return anyio.run(main)


# --- All of them ------------------------------------------------------------------------------------------------------


def apply_async(pool, function, argument):
    return pool.apply_async(function, (argument,))


def schedule(pool, function, argument):
    return pool.schedule(function, (argument,))


@contextmanager
def pebble_threads(module):
    with module.ThreadPool(WORKERS) as pool:
        yield pool


whole_map = {"map": lambda pool, *args, **chunks: pool.map(*args, **chunks)}
pebble_map = {"map": lambda pool, *args, **chunks: list(pool.map(*args, **chunks).result())}
processes = functools.partial(Kind, make=lambda module: module.ProcessPoolExecutor(WORKERS))
threads = functools.partial(Kind, make=lambda module: module.ThreadPoolExecutor(WORKERS), has_processes=False)
mpire = functools.partial(Kind, "mpire", submit=apply_async, result="get", chunks="chunk_size", **whole_map)
pool = functools.partial(Kind, submit=apply_async, result="get", **whole_map)

RIVALS = {
    "processes": {
        "multiprocessing": pool("multiprocessing", lambda module: module.Pool(WORKERS)),
        "pebble": Kind("pebble", lambda module: module.ProcessPool(WORKERS), schedule, **pebble_map),
        "loky": processes("loky"),
        "mpire": mpire(make=lambda module: module.WorkerPool(WORKERS, keep_alive=True)),
        "joblib": Joblib("loky"),
        "anyio": Anyio("anyio.to_process"),
    },
    "threads": {
        "multiprocessing": pool("multiprocessing.pool", lambda module: module.ThreadPool(WORKERS), has_processes=False),
        "pebble": Kind("pebble", pebble_threads, schedule, **pebble_map, has_processes=False),
        "joblib": Joblib("threading"),
        "anyio": Anyio("anyio.to_thread"),
    },
}


@functools.cache
def is_importable(library):
    try:
        importlib.import_module(library)
    except ImportError as error:
        harness.SKIPPED.append(f"the rival {library}: {error}")
        return False
    return True


def importable(group):
    return {name: kind for name, kind in RIVALS[group].items() if is_importable(kind.module.partition(".")[0])}


def versions(group):
    return {name: importlib.metadata.version(name) for name in importable(group) if name != "multiprocessing"}


def kinds(group):
    """Return the rivals that take part, pyconc's pool last."""
    executor = threads if group == "threads" else processes
    return {"concurrent.futures": executor("concurrent.futures"), **importable(group), "pyconc": executor("pyconc")}


def make_contests(group, options):
    """The contests of this group."""
    if options.control:
        return []
    number = 0 if group == "threads" else 1
    contests = []
    for work, sizes in SIZES.items():
        if sizes[number] is not None:
            size = harness.scaled(sizes[number], options.quick)
            able = {
                name: functools.partial(kind.measure, work, size)
                for name, kind in kinds(group).items()
                if work in kind.can
            }
            contests.append(Contest(f"rivals: {work}", US, able))
    return contests
