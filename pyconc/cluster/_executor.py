"""ClusterExecutor: what programs use; _dispatcher.py does the work."""

import asyncio
import concurrent.futures
import sys
from functools import partial
from itertools import islice
from operator import index
from time import monotonic

from pyconc import _names, _options, _stats
from pyconc._async_with import AsyncWith
from pyconc._core import Chain
from pyconc.cluster import _calls as calls
from pyconc.cluster._dispatcher import TRANSPORTS, Dispatcher
from pyconc.cluster._pending import RUN_IN_EXECUTOR
from pyconc.cluster._streams import Stream
from pyconc.coroutine_pool import CONCURRENCY, STREAM_BUFFER
from pyconc.waiting import submit_in_order

__all__ = ["ClusterExecutor"]

# By kind, as those of the other executors: on_cancel's index, grace, timeout, deadline, name.
_DEFAULT_OPTIONS = {"process": (0, 1.0, None, None, None), "coroutine": (1, 1.0, None, None, None)}


class ClusterExecutor(_stats.Observed, AsyncWith, concurrent.futures.Executor):
    """A concurrent.futures.Executor on the nodes of a dask.distributed cluster: each runs calls in pyconc's processes.

    cluster: a dask.distributed Client, a cluster object such as SSHCluster's, or a scheduler's address; only address
    and security are taken of it, and it may be closed in any order. Default: a cluster of one node in this process.
    workers_per_node: how many worker processes each node has for this executor; default: the CPUs it may use. They are
    beside dask's own threads, and beside those of other executors.
    kind: "process": a worker runs one call at a time. "coroutine": what is submitted are coroutine functions, and each
    worker runs many at once in an event loop, as those of CoroutinePool do.
    concurrency: how many coroutines one worker runs at a time; default: 256. For that kind only.
    transport: how calls travel. "direct": the program connects to each node. "scheduler": by way of the scheduler, for
    nodes that cannot be reached, as behind some gateways. "auto": so to nodes that cannot be reached; stats() says
    which these are.
    retries: how often a call begins again when its worker or its node has died; default: never, so that no call runs
    twice.
    initializer, initargs: each worker calls initializer(*initargs) before its first call. If it raises, the executor is
    broken.
    max_rss_per_child: how much memory a worker may have before another one takes its place, as for ProcessPoolExecutor,
    and for kind="process" only. What dask's memory limits count is the node's own process, not these.
    name: what stats() and the workers' names in `ps` and `top` say, on the nodes, too; default: one like
    "ClusterExecutor-0".

    Calls go to the nodes directly, many in one message when there are many; nodes that dask starts later take part.
    Each node must have pyconc in the same version, on the same Python x.y. Functions and classes of `__main__` travel
    with the call.

    A call counts as begun when it is sent to a node; until then cancel() withdraws it, and later only if options() say
    that it may be stopped, as coroutines may unless they say otherwise. A node has as many calls as its workers run at
    a time, and more only if they are short: 20 ms of work. If a worker dies, what it ran gets WorkerDied. If a node
    does, or is not to be reached any more, the calls it had get NodeDied, and all others go to other nodes. Calls
    that wait on a node, behind one that takes longer than those before it, go to a node that has had nothing to do for
    40 ms; those that may be stopped stay. When the program has no memory for a node's message, the calls that the node
    had get MemoryError. While there is no node, calls wait. When the scheduler is gone as well, the executor is broken:
    BrokenExecutor.

    The constructor does not wait for the cluster: what is submitted does, and gets BrokenExecutor if there is no way
    to it. Entering `with` or `async with` waits, and raises that. Use `async with` where dask runs in the event loop.

    All methods may be called from any thread. At interpreter exit, calls are finished first, unless a KeyboardInterrupt
    ends the program. When the program ends in any other way, nodes kill its workers: at once, or within a minute if its
    calls came by way of the scheduler. In the child of a fork the
    executor is closed: submit() raises RuntimeError, and futures that were pending get BrokenExecutor.

    Raises ValueError if workers_per_node or concurrency is not above 0, if retries is below 0, for another kind or
    transport, for a concurrency with processes, and if the client is not connected; TypeError for another cluster, if a
    number is no integer, or initializer cannot be called; and what pickling the initializer raises.

        >>> from pyconc.cluster import ClusterExecutor
        >>> with ClusterExecutor(workers_per_node=2) as executor:
        ...     future = executor.submit(pow, 2, 100)
        ...     print(future.result(), list(executor.map(abs, [-1, 2, -3])))
        1267650600228229401496703205376 [1, 2, 3]
    """

    __module__ = __package__

    _dispatcher = None
    _pool = None  # of a view: the executor

    def __init__(
        self,
        cluster=None,
        *,
        workers_per_node=None,
        kind="process",
        concurrency=None,
        transport="auto",
        retries=0,
        initializer=None,
        initargs=(),
        max_rss_per_child=None,
        name=None,
    ):
        if kind not in _DEFAULT_OPTIONS:
            raise ValueError(f"kind must be 'process' or 'coroutine', not {kind!r}")
        if kind == "coroutine":
            concurrency = CONCURRENCY if concurrency is None else _count("concurrency", concurrency)
        elif concurrency is not None:
            raise ValueError("concurrency is for kind='coroutine'")
        if transport not in TRANSPORTS:
            raise ValueError(f"transport must be 'auto', 'direct' or 'scheduler', not {transport!r}")
        if workers_per_node is not None:
            workers_per_node = _count("workers_per_node", workers_per_node)
        retries = index(retries)
        if retries < 0:
            raise ValueError("retries must be 0 or more")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        _names.check_name(name)
        limits = {}
        if max_rss_per_child is not None:
            if kind != "process":
                raise ValueError("max_rss_per_child is for kind='process'")
            limits["max_rss_per_child"] = _options.as_bytes("max_rss_per_child", max_rss_per_child)
        setup = None if initializer is None else calls.pack((initializer, tuple(initargs)))
        self._options = _DEFAULT_OPTIONS[kind]
        self._call_options = None if kind == "process" else self._options  # None: as those of the node's pool
        self._run_chunk = calls.run_chunk if kind == "process" else calls.run_coroutines
        self._dispatcher = Dispatcher(
            *(_target_of(cluster), transport, workers_per_node, setup, 1 + retries, concurrency, limits),
            self._options,
            name,
        )
        self._observe()

    def submit(self, fn, /, *args, **kwargs):
        """Have a worker of some node call fn(*args, **kwargs), or await that; return a pyconc.Future.

        All are pickled now; what cannot be gives the error to the future. What the call raises comes with the traceback
        of its worker, as __cause__. Raises RuntimeError after shutdown(), BrokenExecutor once the executor is broken.

            >>> with ClusterExecutor(workers_per_node=1) as executor:
            ...     executor.submit(divmod, 7, 2).result()
            (3, 1)
        """
        loop = asyncio.get_running_loop() if sys._getframe(1).f_code is RUN_IN_EXECUTOR else None
        return self._dispatcher.submit(loop, self._call_options, fn, args, kwargs).future

    def options(self, *, timeout=None, deadline=None, on_cancel=None, grace=None, name=None):
        """Return this executor with other options: an executor of the same class, on the same workers.

        What is submitted there has these options; None: as here. It is no second executor: to shut it down, or to leave
        it by `with`, shuts down this one.

        timeout, deadline, name: as with ProcessPoolExecutor; deadline is by this machine's time.monotonic(), and a call
        that waits for a node until then never begins. When the time is over, the call's node interrupts it, and kills
        its worker if that does not help within `grace` seconds (1 by default); its future gets pyconc.TaskTimeout.

        on_cancel: what becomes of a call that was sent to a node when its future is cancelled. "abandon": it goes on,
        and future.cancel() returns False; the default, except for coroutines. "interrupt": it gets
        pyconc.TaskCancelled, and its worker is killed if it has not ended after `grace` seconds. "kill": its worker is
        killed at once.
        With the latter two future.cancel() returns True, and what the call returns or raises is dropped. A coroutine
        sees CancelledError with both, and "interrupt" is its default; its worker, which may run others, is killed by
        "kill" alone, if the coroutine has not ended after `grace` seconds. What a node has not begun never runs. The
        future is told at once, before the call has ended; shutdown() waits for the call. shutdown(cancel_futures=True)
        stops such calls, too. A call that was cancelled does not begin again.

        With map(), what a chunk has is one call. Any thread may call this. Raises ValueError and TypeError as
        ProcessPoolExecutor.options() does.

            >>> import time
            >>> with ClusterExecutor(workers_per_node=1) as executor:
            ...     future = executor.options(timeout=0.1).submit(time.sleep, 3600)
            ...     print(type(future.exception()).__name__)
            TaskTimeout
        """
        view = object.__new__(type(self))
        view._options = _options.change(
            self._options, timeout=timeout, deadline=deadline, on_cancel=on_cancel, grace=grace, name=name
        )
        view._call_options = view._options
        view._pool, view._dispatcher, view._run_chunk = self, self._dispatcher, self._run_chunk
        return view

    def map(self, fn, *iterables, timeout=None, chunksize=1, buffersize=None):
        """Return an iterator over fn's results, in the order of the iterables' items.

        chunksize: how many calls make one, in which a worker runs them one after the other: with calls of microseconds,
        some hundreds take a tenth of the time. buffersize: how many of these may be ahead of the results taken; by
        default, all items are read at once. timeout: seconds from this call until the last result; TimeoutError after
        that. Closing the iterator, or an exception from it, cancels what was not sent.

        Raises TypeError or ValueError for another chunksize or buffersize, RuntimeError after shutdown(). What a call
        or an iterable raises comes out of the iterator.

            >>> with ClusterExecutor(workers_per_node=1) as executor:
            ...     list(executor.map(pow, [2, 3, 4], [5, 5, 5], chunksize=2))
            [32, 243, 1024]
        """
        size = index(chunksize)
        if size < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None and not isinstance(buffersize, int):
            raise TypeError("buffersize must be an integer or None")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        deadline = None if timeout is None else timeout + monotonic()
        items = zip(*iterables)
        if size == 1:
            return submit_in_order(self, fn, items, deadline, buffersize)
        chunks = submit_in_order(self, partial(self._run_chunk, fn), _chunks(items, size), deadline, buffersize)
        return Chain(chunks)

    def run(self, fn, /, *args, **kwargs):
        """Do what submit() does; return an asyncio.Future of the running event loop.

        >>> import asyncio
        >>> async def main():
        ...     async with ClusterExecutor(workers_per_node=1) as executor:
        ...         return await executor.run(int, "ff", base=16)
        >>> asyncio.run(main())
        255
        """
        return self._dispatcher.submit(asyncio.get_running_loop(), self._call_options, fn, args, kwargs).future

    def stream(self, fn, /, *args, buffersize=STREAM_BUFFER, **kwargs):
        """Have a worker of some node iterate over the async generator fn(*args, **kwargs); return an async iterator.

        For kind="coroutine", where an event loop runs. buffersize: how many items may be on their way to this iterator,
        and how many the generator may be ahead of these. Leaving the `async for` loop, or aclose(), stops the generator
        and closes it in its worker. A stream begins once, whatever `retries` says. Raises TypeError or ValueError for
        another buffersize, ValueError for another kind, and where options() give a timeout or a deadline; RuntimeError
        after shutdown(). The iterator raises what the generator raises, after the items before that; the error of an
        item that cannot be pickled or unpickled; WorkerDied and NodeDied; and RuntimeError when shutdown() waits.

            >>> import asyncio
            >>> async def count_down(start):
            ...     for number in range(start, 0, -1):
            ...         yield number
            >>> async def main():
            ...     async with ClusterExecutor(workers_per_node=1, kind="coroutine") as executor:
            ...         return [number async for number in executor.stream(count_down, 3)]
            >>> asyncio.run(main())
            [3, 2, 1]
        """
        if self._run_chunk is not calls.run_coroutines:
            raise ValueError("stream() is for kind='coroutine'")
        if not isinstance(buffersize, int):
            raise TypeError(f"buffersize must be an integer, not {type(buffersize).__name__}")
        _, _, timeout, deadline, _ = self._options
        if not (timeout is deadline is None):
            raise ValueError("a stream has no time limit: take options(timeout=math.inf, deadline=math.inf) for it")
        return Stream(
            self._dispatcher.submit(
                asyncio.get_running_loop(), self._options, fn, args, kwargs, _count("buffersize", buffersize)
            )
        )

    def share(self, obj):
        """Return a pyconc.cluster.Ref to an object that does not change, and that many calls have as an argument.

        A node gets it once, before the first call there that has the Ref, and lays it into memory that its workers
        share: arrays of numpy, and all that pickle's protocol 5 puts beside a pickle, look at that memory there.
        obj: what can be pickled; of bytes, a bytearray or a memoryview get() returns a memoryview in calls. Any thread
        may call this. Raises what pickling it does, and ValueError if it is larger than 2 GB. A call gets MemoryError
        if its node has no room for the object.

            >>> with ClusterExecutor(workers_per_node=1) as executor:
            ...     table = executor.share({"a": 1, "b": 2})
            ...     list(executor.map(lambda ref, key: ref.get()[key], [table] * 2, "ab"))
            [1, 2]
        """
        return self._dispatcher.share(obj)

    def stats(self):
        """Return a pyconc.cluster.ClusterStats: which nodes there are, and what became of the calls.

        Its numbers are those of other executors' stats(), and pyconc.stats() has them among those. Nodes are not asked.
        In the child of a fork everything begins at 0. Any thread may call this, a signal handler too. Raises nothing.

            >>> with ClusterExecutor(workers_per_node=1) as executor:
            ...     executor.submit(abs, -1).result()
            ...     executor.stats().submitted
            1
            1
        """
        return self._dispatcher.stats()

    def workers(self, timeout=1.0):
        """Ask the nodes; return a list with a pyconc.WorkerStats for each worker there is: what it runs, and has done.

        timeout: for how many seconds to wait for answers, of which each takes a node a millisecond; a node that has not
        answered by then is left out. Where dask runs in the event loop, call this in another thread, or no node can
        answer. Empty after the shutdown, and in the child of a fork. Raises RuntimeError in a future's callback, for
        that runs in the thread that gets the answers.

            >>> with ClusterExecutor(workers_per_node=1, name="far") as executor:
            ...     future = executor.submit(abs, -1)
            ...     print(future.result(), [(worker.name, worker.calls) for worker in executor.workers()])
            1 [('far_0', 1)]
        """
        return self._dispatcher.workers(timeout)

    def shutdown(self, wait=True, *, cancel_futures=False):
        """Refuse calls from now on, and let the workers end when all calls have.

        wait: return only then, and end streams, whose consumers get RuntimeError. cancel_futures: cancel the calls that
        were not sent to a node. The cluster goes on, unless it is this executor's own. May be called several times,
        from any thread. Raises RuntimeError if a future's callback waits, for that runs in the thread that is waited
        for.

            >>> executor = ClusterExecutor(workers_per_node=1)
            >>> future = executor.submit(len, "abc")
            >>> executor.shutdown()
            >>> future.result()
            3
        """
        self._dispatcher.close(cancel_futures)
        if wait:
            self._dispatcher.end_streams()
            self._dispatcher.join()

    def __enter__(self):
        self._dispatcher.wait_ready()
        return self

    def __exit__(self, exc_type, exc_val, exc_tb):
        """Shut down, and wait for the workers. Ctrl-C before or meanwhile kills them."""
        if isinstance(exc_val, KeyboardInterrupt):
            self._dispatcher.abort()
        try:
            self.shutdown(wait=True)
        except KeyboardInterrupt:
            self._dispatcher.abort()
            raise
        return False

    async def __aenter__(self):
        await asyncio.wrap_future(self._dispatcher.ready)
        return self

    def __reduce__(self):
        raise TypeError(f"a {type(self).__name__} belongs to its process, and cannot be pickled")

    def __del__(self):
        if self._dispatcher is not None and self._pool is None:
            self._dispatcher.close(False)

    def _describe(self):
        now = self.stats()
        busy = f"{now.running} running, {now.queued} queued, {now.workers} workers"
        return f"{now.name!r}: {busy} on {len(now.nodes)} nodes"


def _count(name, value):
    count = index(value)
    if count <= 0:
        raise ValueError(f"{name} must be greater than 0")
    return count


def _target_of(cluster):
    """Return (address, security) of what a program has of its cluster; None: it has none."""
    if cluster is None:
        return None
    if isinstance(cluster, str):
        return cluster, None
    if hasattr(cluster, "scheduler_address"):  # a cluster object
        return cluster.scheduler_address, getattr(cluster, "security", None)
    if hasattr(cluster, "scheduler"):  # a client
        if cluster.scheduler is None:
            raise ValueError("the client is not connected")
        return cluster.scheduler.address, cluster.security
    raise TypeError(f"cluster must be a Client, a cluster object or an address, not {type(cluster).__name__}")


def _chunks(items, size):
    while chunk := tuple(islice(items, size)):
        yield (chunk,)
