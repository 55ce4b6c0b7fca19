"""Work for many machines, handed out by a coroutine: the nodes are dask.distributed's, the executor is an ordinary one.

Here the cluster is two nodes on this machine. Elsewhere it is what dask starts by SSH, Slurm or Kubernetes, and nothing
else changes. A call that takes too long is stopped on the node where it runs.
"""

import time

from pyconc import TaskTimeout, asyncio

try:
    from distributed import LocalCluster  # type: ignore[import-not-found,unused-ignore]

    from pyconc.cluster import ClusterExecutor
except ImportError:
    LocalCluster = None  # type: ignore[assignment,unused-ignore]

LIMIT = 20_000


def is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


def count_primes(numbers: range) -> int:
    return sum(map(is_prime, numbers))


async def main() -> None:
    if LocalCluster is None:
        print("This example needs dask.distributed: pip install distributed")
        return
    # The node's page in a browser finds a port for itself; a node has no limit of memory.
    options = {"dashboard_address": "127.0.0.1:0", "worker_dashboard_address": "127.0.0.1:0", "memory_limit": 0}
    async with LocalCluster(n_workers=2, threads_per_worker=1, asynchronous=True, **options) as cluster:
        async with ClusterExecutor(cluster, workers_per_node=1) as executor:
            await executor.run(int)  # the first worker has started then
            started = time.perf_counter()
            parts = [range(first, first + 1000) for first in range(0, LIMIT, 1000)]
            counts = await asyncio.gather(*[executor.run(count_primes, part) for part in parts])
            elapsed = time.perf_counter() - started
            try:
                await executor.options(timeout=0.2).run(time.sleep, 3600)
            except TaskTimeout as error:
                late = error

    assert sum(counts) == 2262
    print(f"{len(parts)} calls on the nodes in {elapsed * 1000:.0f} ms: {sum(counts):,} primes")
    print(late)


if __name__ == "__main__":
    asyncio.run(main())
