"""What does a call cost on a cluster of two nodes, beside dask's own executor and its Client.map()?

The nodes are processes of this machine, with a worker each. Both ways use the same ones, in turns: what
`Client.get_executor(pure=False)` does, and what ClusterExecutor does with the same calls, which return their argument.
"""

import asyncio
import atexit
import concurrent.futures
import functools
import importlib.util
import logging
from time import perf_counter

from pyconc._bench import harness
from pyconc._bench.harness import Row, at_most, burst, gather, identity, round_trips, times_less

__all__ = ["BASELINE", "ROUNDS", "facts", "make_contests", "make_rows"]

BASELINE = "dask"
ROUNDS = 3
# Calls of dask's, and of ours.
BURST = 500, 20_000
ROUND_TRIPS = 30, 200
CHUNK = 1000


@functools.cache
def cluster():
    """Two nodes, for as long as this process lasts."""
    from distributed import LocalCluster

    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    anywhere = "127.0.0.1:0"
    made = LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        dashboard_address=anywhere,
        worker_dashboard_address=anywhere,
        memory_limit=0,
    )
    atexit.register(made.close)
    return made


@functools.cache
def client():
    from distributed import Client

    made = Client(cluster(), set_as_default=False)
    atexit.register(made.close)
    return made


@functools.cache
def executor(is_ours):
    if not is_ours:
        return client().get_executor(pure=False)
    from pyconc.cluster import ClusterExecutor

    return ClusterExecutor(cluster(), workers_per_node=1)


def on_executor(work, is_ours, size):
    """Microseconds per call of `work(pool, size)`, once a part of it is done."""
    pool = executor(is_ours)
    work(pool, max(1, size // 10))
    return harness.timed(work, pool, size)


def map_all(pool, size):
    for _ in pool.map(identity, range(size), chunksize=CHUNK):
        pass


def gather_all(pool, size):
    async def main():
        await gather(asyncio.get_running_loop(), pool, size)

    asyncio.run(main())


def client_map(size):
    """Microseconds per call of Client.map()."""
    started = perf_counter()
    client().gather(client().map(identity, range(size), pure=False))
    return (perf_counter() - started) / size * 1e6


def make_rows(options):
    if importlib.util.find_spec("distributed") is None:
        harness.SKIPPED.append("a cluster: distributed is not installed")
        return []
    is_ours = options.candidate is not concurrent.futures

    def row(name, work, sizes, goal, baseline=None):
        theirs, ours = (harness.scaled(size, options.quick) for size in (sizes if is_ours else (sizes[0], sizes[0])))
        return Row(
            name,
            "µs/call",
            functools.partial(*((baseline,) if baseline else (on_executor, work, False)), theirs),
            functools.partial(on_executor, work, is_ours, ours),
            goal,
        )

    return [
        row("a burst of submit()", burst, BURST, times_less(450)),
        row("one call at a time", round_trips, ROUND_TRIPS, times_less(13)),
        row("map() in thousands", map_all, BURST, times_less(2400)),
        row("map() in thousands, beside Client.map()", map_all, BURST, times_less(1900), client_map),
        row("gather() of run_in_executor()", gather_all, BURST, at_most(10)),
    ]


def facts():
    if importlib.util.find_spec("distributed") is None:
        return {}
    import distributed

    return {"distributed": distributed.__version__}


def make_contests(_options):
    return []
