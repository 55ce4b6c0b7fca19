"""aiomultiprocess' Pool over CoroutinePools, of which each serves one of its queues."""

import asyncio
import os
from collections.abc import AsyncIterable, Awaitable
from concurrent.futures.process import BrokenProcessPool

from pyconc._process.pickling import TaskUnpicklable, format_error
from pyconc.aiomultiprocess import core
from pyconc.aiomultiprocess.scheduler import RoundRobin
from pyconc.aiomultiprocess.types import ProxyException, TaskID
from pyconc.coroutine_pool import CoroutinePool, retrieve

__all__ = ["CHILD_CONCURRENCY", "MAX_TASKS_PER_CHILD", "Pool", "PoolResult", "ProxyException"]

MAX_TASKS_PER_CHILD = 0  # 0: a process is never replaced
CHILD_CONCURRENCY = 16


class PoolResult(Awaitable, AsyncIterable):
    """The results of a map() or starmap(), in the order of the items.

    Await it for a list, or iterate over it with `async for`. pool, task_ids: the pool, and its numbers of the tasks.
    Raises ProxyException for a task's exception.

        >>> import asyncio
        >>> async def main():
        ...     async with pyconc.aiomultiprocess.Pool(processes=1) as pool:
        ...         return [result async for result in pool.starmap(asyncio.sleep, [(0, "a"), (0, "b")])]
        >>> asyncio.run(main())
        ['a', 'b']
    """

    def __init__(self, pool, task_ids):
        self.pool = pool
        self.task_ids = task_ids

    def __await__(self):
        return self.results().__await__()

    async def results(self):
        """Wait for all results; return them as a list."""
        return await self.pool.results(self.task_ids)

    def __aiter__(self):
        return self.results_generator()

    async def results_generator(self):
        """Yield each result as soon as it and the results before it are there."""
        for task_id in self.task_ids:
            yield (await self.pool.results([task_id]))[0]


class Pool:
    """Run coroutines in child processes, many at once in each.

    processes: how many children to run; default: one for each CPU of the machine. initializer, initargs: each child
    calls initializer(*initargs) before its first task. maxtasksperchild: the number of tasks after which a child is
    replaced; 0: never. childconcurrency: how many coroutines a child runs at a time. queuecount, scheduler: there are
    queuecount queues, of which each child serves one, and the scheduler gives each task to one. loop_initializer: makes
    a child's event loop. exception_handler: the child calls it with each exception that a task raises.

    A task's exception is raised here as a ProxyException, with the exception itself as `__cause__`. Tasks whose child
    dies raise pyconc.WorkerDied. Cancelling the task that awaits a result cancels the coroutine in the child. Leaving
    `async with` terminates the pool. The constructor starts the children. Only the thread of one event loop uses a
    pool. Raises ValueError if there are more queues than children, or if an initializer is a coroutine function.

        >>> import asyncio
        >>> async def main():
        ...     async with pyconc.aiomultiprocess.Pool(processes=2) as pool:
        ...         return await pool.apply(asyncio.sleep, (0, "slept")), await pool.map(asyncio.sleep, [0, 0])
        >>> asyncio.run(main())
        ('slept', [None, None])
    """

    def __init__(
        self,
        processes=None,
        initializer=None,
        initargs=(),
        maxtasksperchild=MAX_TASKS_PER_CHILD,
        childconcurrency=CHILD_CONCURRENCY,
        queuecount=None,
        scheduler=None,
        loop_initializer=None,
        exception_handler=None,
    ):
        self.context = core.get_context()
        self.scheduler = scheduler or RoundRobin()
        self.process_count = max(1, processes or os.cpu_count() or 2)
        self.queue_count = max(1, queuecount or 1)
        if self.queue_count > self.process_count:
            raise ValueError("queue count must be <= process count")
        for name, function in (("initializer", initializer), ("loop_initializer", loop_initializer)):
            if function is not None and core.is_coroutine_function(function):
                raise ValueError(f"{name} must be synchronous function")
        self.initializer = initializer
        self.initargs = initargs
        self.loop_initializer = loop_initializer
        self.maxtasksperchild = max(0, maxtasksperchild)
        self.childconcurrency = max(1, childconcurrency)
        self.exception_handler = exception_handler
        self.running = True
        self.last_id = 0
        self._pools = {}  # queue: CoroutinePool
        self._futures = {}  # task: future
        self._asks_scheduler = type(self.scheduler) is not RoundRobin
        self._start()
        # run() of the only CoroutinePool, if there is neither a scheduler nor a handler to ask; else None.
        chooses = self.queue_count > 1 or self._asks_scheduler or exception_handler is not None
        self._run = None if chooses else next(iter(self._pools.values())).run

    def _start(self):
        if self.exception_handler is None:
            setup = self.initializer, self.initargs
        else:
            setup = _set_up_handler, (self.exception_handler, self.initializer, self.initargs)
        sizes = [len(range(queue, self.process_count, self.queue_count)) for queue in range(self.queue_count)]
        try:
            for size in sizes:
                pool = CoroutinePool(
                    size,
                    concurrency=self.childconcurrency,
                    mp_context=self.context if core.is_context_set() else None,
                    initializer=setup[0],
                    initargs=setup[1],
                    max_tasks_per_child=self.maxtasksperchild or None,
                    loop_factory=self.loop_initializer,
                )
                self._pools[self.scheduler.register_queue(pool)] = pool
            queues = list(self._pools)
            for number in range(self.process_count):
                self.scheduler.register_process(queues[number % self.queue_count])
            for pool in self._pools.values():
                pool._supervisor.start_all()
        except BaseException:
            self.running = False
            self.terminate()
            raise

    @property
    def processes(self):
        """The child processes that run now, and their queues."""
        return {process: queue for queue, pool in self._pools.items() for process in (pool._processes or {}).values()}

    async def __aenter__(self):
        return self

    async def __aexit__(self, *exc_info):
        """Terminate the pool, and wait for its children."""
        self.terminate()
        await self.join()

    def queue_work(self, func, args, kwargs):
        """Have a child run the coroutine func(*args, **kwargs); return its number, for results()."""
        self.last_id += 1
        task_id = TaskID(self.last_id)
        queue = self.scheduler.schedule_task(task_id, func, args, kwargs)
        if self.exception_handler is None:
            future = self._pools[queue].run(func, *args, **kwargs)
        else:
            future = self._pools[queue].run(_run_handled, func, args, kwargs)
        self._futures[task_id] = future
        if self._asks_scheduler:
            future.add_done_callback(lambda _: self.scheduler.complete_task(task_id))
        return task_id

    async def results(self, tids):
        """Wait for the tasks with the numbers tids; return their results in that order, once."""
        futures = [self._futures.pop(tid) for tid in tids]
        futures.reverse()
        results = []
        try:
            while futures:
                results.append(await futures.pop())
        except asyncio.CancelledError:
            for future in futures:
                future.cancel()
            raise
        except BrokenProcessPool as error:
            _forget(futures)
            if isinstance(error, TaskUnpicklable):
                raise _proxy(error) from error
            raise
        except Exception as error:
            _forget(futures)
            raise _proxy(error) from error
        return results

    async def apply(self, func, args=None, kwds=None):
        """Run the coroutine func(*args, **kwds) in a child; return its result."""
        self._check_running()
        return (await self.results([self.queue_work(func, args or (), kwds or {})]))[0]

    def map(self, func, iterable):
        """Run the coroutine func(item) for each item of iterable; return a PoolResult."""
        self._check_running()
        return PoolResult(self, self._queue_all(func, zip(iterable)))

    def starmap(self, func, iterable):
        """Run the coroutine func(*args) for each args of iterable; return a PoolResult."""
        self._check_running()
        return PoolResult(self, self._queue_all(func, iterable))

    def _queue_all(self, func, calls):
        if self._run is None:
            return [self.queue_work(func, args, {}) for args in calls]
        run, futures = self._run, []
        try:
            for args in calls:
                futures.append(run(func, *args))
        finally:
            first = self.last_id + 1
            self.last_id += len(futures)
            task_ids = range(first, first + len(futures))
            self._futures.update(zip(task_ids, futures))
        return task_ids

    def _check_running(self):
        if not self.running:
            raise RuntimeError("pool is closed")

    def close(self):
        """Refuse tasks from now on; the children end when theirs are done."""
        self.running = False
        for pool in self._pools.values():
            pool.shutdown(wait=False)

    def terminate(self):
        """Close the pool, and send SIGTERM to its children."""
        self.close()
        _forget(self._futures.values())  # aiomultiprocess logs nothing here, either
        for pool in self._pools.values():
            pool.terminate_workers()

    async def join(self):
        """Wait until all children of a closed pool have ended."""
        if self.running:
            raise RuntimeError("pool is still open")
        for pool in self._pools.values():
            await pool._wait_closed()


def _proxy(error):
    text = getattr(error.__cause__, "tb", None)
    if text is None:
        text = format_error(error)
    return ProxyException(text.strip().strip('"').lstrip("\n"))


def _forget(futures):
    """Keep tasks whose results nobody will ask for from logging their exceptions."""
    for future in futures:
        future.add_done_callback(retrieve)


# ---- in the children ----

_handler = None


def _set_up_handler(handler, initializer, initargs):
    global _handler
    _handler = handler
    if initializer is not None:
        initializer(*initargs)


async def _run_handled(func, args, kwargs):
    try:
        return await func(*args, **kwargs)
    except BaseException as error:
        _handler(error)
        raise
