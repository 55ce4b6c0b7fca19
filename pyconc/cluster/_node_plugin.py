"""NodePlugin: pyconc's worker processes for the tasks of those who stay with dask's own client."""

from operator import index

from distributed import WorkerPlugin
from distributed.core import Status

from pyconc.cluster._node import NodePool, census_of

__all__ = ["NodePlugin"]


class NodePlugin(WorkerPlugin):
    """A plugin for workers of dask.distributed: tasks with the annotation executor="pyconc" run in pyconc's processes.

    workers: how many worker processes each node has; default: as many as dask gives it tasks at a time, its threads.
    name: what the annotation says. options: as for pyconc.ProcessPoolExecutor, such as initializer or memory_limit.

    client.register_plugin(NodePlugin()) is enough: nodes that start later have it, too. Tasks that keep the interpreter
    busy do not hold up each other then, nor the node itself, which answers its scheduler in time. If a worker dies, the
    task that it ran raises pyconc.WorkerDied, as if it had raised that itself: dask does not run it again, unless its
    `retries` say so, and the node goes on. Coroutine functions run in the node itself, as ever. A task cannot use what
    dask gives those in its own threads: get_worker(), worker_client(), secede(). Each node must have pyconc.

    A plugin of the same name that is registered later takes the place of the first one, whose tasks end before its
    workers do; so they do after client.unregister_worker_plugin("pyconc"). When a node closes, its workers are killed.

    Raises ValueError if workers is not above 0, and TypeError if it is no integer. client.register_plugin() raises what
    ProcessPoolExecutor says of the options, and ValueError if nodes have another executor of that name.

        >>> import dask
        >>> from distributed import Client
        >>> from pyconc.cluster import NodePlugin
        >>> with Client(processes=False, dashboard_address=None) as client:
        ...     _ = client.register_plugin(NodePlugin(workers=1))
        ...     with dask.annotate(executor="pyconc"):
        ...         future = client.submit(pow, 2, 100)
        ...     print(future.result())
        1267650600228229401496703205376
    """

    __module__ = __package__

    def __init__(self, workers=None, *, name="pyconc", **options):
        if workers is not None:
            workers = index(workers)
            if workers <= 0:
                raise ValueError("workers must be greater than 0")
        self.name = name
        self._workers = workers
        self._options = options

    def setup(self, worker):
        """Dask calls this on each node."""
        if self.name in worker.executors:
            raise ValueError(f"node {worker.address} has another executor of the name {self.name!r}")
        workers = worker.state.nthreads if self._workers is None else self._workers
        pool = worker.executors[self.name] = NodePool(workers, **self._options)
        census_of(worker).pools.add(pool)

    def teardown(self, worker):
        """Dask calls this on each node."""
        pool = worker.executors.get(self.name)
        if not isinstance(pool, NodePool):
            return  # setup() has failed
        del worker.executors[self.name]
        pool.shutdown(wait=False)
        if worker.status not in (Status.running, Status.paused):
            pool.kill_workers()  # dask has given up what they run, and will run it elsewhere
