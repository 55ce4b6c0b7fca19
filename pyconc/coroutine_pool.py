"""CoroutinePool: coroutines in many processes, many at a time in each."""

import asyncio
import collections
import inspect
from concurrent import futures
from functools import partial

from pyconc import _context, _core, _options, _progress
from pyconc._process import loop_worker
from pyconc._process.interruption import is_from_handler
from pyconc._process.pickling import TaskUnpicklable, WorkerDied
from pyconc._process.worker_main import Limits
from pyconc._shutdown import deadline_after
from pyconc.process_pool import ProcessExecutor, check_logs, default_workers

__all__ = ["CoroutinePool", "TaskUnpicklable", "WorkerDied"]

# How many coroutines a worker runs at a time by default.
CONCURRENCY = 256

# How many items a stream's generator may be ahead of its consumer by default.
STREAM_BUFFER = 64

_END = object()


class CoroutinePool(_core.Executor, ProcessExecutor, futures.Executor):
    """An executor whose worker processes run an event loop each, and many coroutines at once on it.

    max_workers: the most processes to run at once; default: the CPUs this process may use (affinity, cgroup quota).
    concurrency: the most coroutines that one worker runs at a time; further ones wait.
    mp_context, initializer, initargs, on_worker_death, kill_tree: as for ProcessPoolExecutor. A dead worker fails the
    coroutines that it ran, with WorkerDied. The initializer is no coroutine function; it finds the loop set as the
    current one.
    max_tasks_per_child: the number of calls after which a worker is replaced.
    loop_factory: makes a worker's event loop; default: asyncio.new_event_loop.
    task_timeout, on_cancel, grace: for how many seconds a coroutine may run, and how it is stopped; see options(), of
    which timeout, on_cancel and grace have these as their defaults.
    name, forward_logs, context, timed: as for ProcessPoolExecutor.

    Cancelling the future of run() or submit(), also by asyncio.timeout(), cancels the coroutine: in the worker it sees
    CancelledError, and may clean up; the caller does not wait for that, but shutdown() does. `async with` waits for the
    coroutines that run; if an exception leaves the block, they are cancelled first. Streams end with the block. run(),
    map() and stream() are called where an event loop runs, the other methods from any thread.

    Workers ignore Ctrl-C, and end when this process ends in any way. At interpreter exit, calls that were submitted are
    finished first, unless a KeyboardInterrupt ends the program. After os.fork() the child finds the pool empty and
    usable; there, futures that were pending are finished with BrokenProcessPool.

    Raises TypeError or ValueError for a number that is no int above 0, ValueError for another on_worker_death and for
    what options() refuses, TypeError if initializer or loop_factory cannot be called or is a coroutine function, the
    name is no str, forward_logs or timed no bool, or context has what is no ContextVar, ValueError for a ContextVar
    that is no global of a module, and OSError if the system refuses what the pool needs (memfd_create, eventfd, epoll;
    for kill_tree /proc, pidfd_open).

        >>> import asyncio
        >>> async def double(number):
        ...     await asyncio.sleep(0)
        ...     return 2 * number
        >>> async def main():
        ...     async with pyconc.CoroutinePool(max_workers=2) as pool:
        ...         return await asyncio.gather(*[pool.run(double, number) for number in range(5)])
        >>> asyncio.run(main())
        [0, 2, 4, 6, 8]
    """

    def __init__(
        self,
        max_workers=None,
        *,
        concurrency=CONCURRENCY,
        mp_context=None,
        initializer=None,
        initargs=(),
        max_tasks_per_child=None,
        loop_factory=None,
        on_worker_death="replace",
        kill_tree=False,
        task_timeout=None,
        on_cancel=None,
        grace=None,
        name=None,
        forward_logs=False,
        context=(),
        timed=False,
    ):
        if max_workers is None:
            max_workers = default_workers()
        for what, count in (("max_workers", max_workers), ("concurrency", concurrency)):
            _check_count(what, count)
        if max_tasks_per_child is not None:
            _check_count("max_tasks_per_child", max_tasks_per_child)
        for what, function in (("initializer", initializer), ("loop_factory", loop_factory)):
            if function is not None and not callable(function):
                raise TypeError(f"{what} must be a callable")
            if inspect.iscoroutinefunction(function):
                raise TypeError(f"{what} must not be a coroutine function")
        self._max_workers = max_workers
        self._concurrency = concurrency
        setup = (initializer, initargs, loop_factory)
        self._carry, carried = _context.carrier_to_coroutines(context)
        limits = Limits(
            tasks=max_tasks_per_child,
            concurrency=concurrency,
            name=name,
            logs=check_logs(forward_logs),
            context=carried,
        )
        on_cancel = "interrupt" if on_cancel is None else on_cancel
        self._options = _options.change(self._options, timeout=task_timeout, on_cancel=on_cancel, grace=grace)
        self._begin("CoroutinePool", max_workers, mp_context, setup, limits, on_worker_death, kill_tree, timed)

    def options(self, *, timeout=None, deadline=None, on_cancel=None, grace=None, name=None):
        """Return this pool with other options: a pool of the same class, on the same workers.

        What is submitted there, by run(), submit(), map() or stream(), has these options; None: as here. It is no
        second pool: to shut it down, or to leave it by `with`, shuts down this one.

        timeout: for how many seconds a coroutine may run, from when a worker begins it; math.inf: for ever. A call of
        map() has it for itself; stream() refuses it.
        deadline: when a coroutine must have ended, by time.monotonic(); one that waits for a worker until then never
        begins. When its time is over, the coroutine sees CancelledError, as when it is cancelled, whatever on_cancel
        says. Its future gets TaskTimeout when it has ended, whatever it has returned or raised.

        on_cancel: what becomes of a coroutine that runs when its future is cancelled. cancel() does not wait for it.

        "interrupt": it sees CancelledError, and may clean up. The default.
        "kill": the same; but if it has not ended after `grace` seconds (1 by default), because it keeps its loop busy
        or goes on all the same, its worker is killed and another one started. The other coroutines of that worker are
        lost: their futures get a WorkerDied that says so, with the worker's stack. A coroutine whose time is over is
        ended in the same way.
        "abandon": it goes on to its end. The future of submit() is not cancelled then: cancel() returns False.

        name: what its tasks are called, by pyconc.current_task() in the worker, by WorkerDied and by TaskTimeout;
        default: as the function.

        Any thread may call this. Raises ValueError for another on_cancel, for a timeout or a grace that is nan or below
        0, and for a deadline that is nan or -inf; TypeError for any of these that is no number, and for a name that is
        no str.

            >>> import asyncio
            >>> async def fetch(number):
            ...     return f"{pyconc.current_task().name} {number}"
            >>> async def main():
            ...     async with pyconc.CoroutinePool(max_workers=1) as pool:
            ...         return await pool.options(name="page").run(fetch, 1), await pool.run(fetch, 2)
            >>> asyncio.run(main())
            ('page 1', 'fetch 2')
        """
        changed = {"timeout": timeout, "deadline": deadline, "on_cancel": on_cancel, "grace": grace, "name": name}
        return _options.make_view(self, _options.change(self._options, **changed))

    def map(self, async_fn, *iterables, ordered=True, buffersize=None, progress=False):
        """Return an async iterator over async_fn's results for the items of iterables, which may be async ones.

        ordered: yield results in the order of the items; otherwise as they are completed. buffersize: how many calls
        may be ahead of the results taken; default: enough for all workers. The iterables are read no further than that,
        in the thread of this iterator; what they raise comes after the results of the items before it. Closing the
        iterator, or an exception from it, cancels the calls that still run: `async for` alone does not close what it
        leaves, contextlib.aclosing() does.

        progress: True shows on a terminal how many calls have ended; a function is called with (done, total) for that,
        in a thread of its own; as for ProcessPoolExecutor.map().

        Raises TypeError without an iterable, TypeError or ValueError for another buffersize or progress, and, from the
        iterator, what a call raises.

            >>> import asyncio
            >>> async def main():
            ...     async with pyconc.CoroutinePool(max_workers=2) as pool:
            ...         results = pool.map(asyncio.sleep, [0.02, 0.01, 0], ["a", "b", "c"])
            ...         return [result async for result in results]
            >>> asyncio.run(main())
            ['a', 'b', 'c']
        """
        if not iterables:
            raise TypeError("map() takes at least one iterable")
        if buffersize is None:
            buffersize = 2 * self._max_workers * self._concurrency
        else:
            _check_count("buffersize", buffersize)
        show = _progress.choose(progress)
        is_async = any(hasattr(iterable, "__aiter__") for iterable in iterables)
        source = _zip_async(iterables) if is_async else zip(*iterables)
        if is_async:
            submit = partial(self._map_of_async, ordered=ordered, buffersize=buffersize)
        else:
            submit = partial(self._map_in_order if ordered else self._map_as_completed, buffersize=buffersize)
        if show is not None:
            return _progress.follow_async(self, async_fn, iterables, source, show, submit)
        return submit(self, async_fn, source)

    @staticmethod
    async def _map_in_order(pool, async_fn, source, buffersize):
        errors, window = [], collections.deque()
        source = _read(source, errors)
        try:
            while True:
                while len(window) < buffersize and (args := next(source, None)) is not None:
                    window.append(pool.run(async_fn, *args))
                if not window:
                    _raise(errors)
                    return
                yield await window.popleft()
        finally:
            _cancel_all(window)

    @staticmethod
    async def _map_as_completed(pool, async_fn, source, buffersize):
        errors, running, done = [], set(), asyncio.Queue()
        source = _read(source, errors)
        try:
            while True:
                while len(running) < buffersize and (args := next(source, None)) is not None:
                    future = pool.run(async_fn, *args)
                    running.add(future)
                    future.add_done_callback(done.put_nowait)
                if not running:
                    _raise(errors)
                    return
                future = await done.get()
                running.discard(future)
                yield future.result()
        finally:
            _cancel_all(running)

    @staticmethod
    async def _map_of_async(pool, async_fn, source, ordered, buffersize):
        """Do the same for a source that must be awaited: a task of its own reads it."""
        room = asyncio.Semaphore(buffersize)
        running, arrived = set(), asyncio.Queue()

        async def feed():
            try:
                async for args in source:
                    await room.acquire()
                    future = pool.run(async_fn, *args)
                    running.add(future)
                    if ordered:
                        arrived.put_nowait(future)
                    else:
                        future.add_done_callback(arrived.put_nowait)
                    del future
                    await room.acquire()  # before the source is asked for more
                    room.release()
            finally:
                await source.aclose()

        feeder = asyncio.ensure_future(feed())
        feeder.add_done_callback(lambda _: arrived.put_nowait(_END))
        try:
            has_ended = False
            while running or not has_ended:
                future = await arrived.get()
                if future is _END:
                    has_ended = True
                    continue
                result = await future
                running.discard(future)
                room.release()
                yield result
            feeder.result()  # raises the source's exception
        finally:
            feeder.cancel()
            _cancel_all(running)
            await asyncio.wait([feeder])

    def stream(self, async_fn, /, *args, buffersize=STREAM_BUFFER, **kwargs):
        """Have a worker iterate over the async generator async_fn(*args, **kwargs); return an async iterator of items.

        buffersize: how many items the generator may be ahead of this iterator. Leaving the `async for` loop, or
        aclose(), stops the generator and closes it in its worker. Raises TypeError or ValueError for another
        buffersize, and ValueError where options() give a timeout or a deadline: a generator waits for its consumer, and
        the consumer has asyncio.timeout(). The iterator raises what the generator raises, after the items before that;
        the pickling error, and ends, if an item cannot be pickled; and RuntimeError once the pool is shut down.

            >>> import asyncio
            >>> async def count_down(start):
            ...     for number in range(start, 0, -1):
            ...         yield number
            >>> async def main():
            ...     async with pyconc.CoroutinePool(max_workers=1) as pool:
            ...         return [number async for number in pool.stream(count_down, 3)]
            >>> asyncio.run(main())
            [3, 2, 1]
        """
        _check_count("buffersize", buffersize)
        _, _, timeout, deadline, _ = self._options
        if not (timeout is deadline is None):
            raise ValueError("a stream has no time limit: take options(timeout=math.inf, deadline=math.inf) for it")
        return _Stream(self, async_fn, args, kwargs, buffersize)

    def shutdown(self, wait=True, *, cancel_futures=False, timeout=None):
        """Refuse calls from now on, and let the workers end when the submitted calls are done.

        wait: return only when all workers have ended; that ends streams, whose consumers get RuntimeError.
        cancel_futures: cancel the calls that no worker has begun.

        timeout: for how many seconds calls may go on; default: as long as they take. Then all are cancelled, and
        streams end; workers that have not ended a second later are killed. With wait, shutdown() returns a tenth of a
        second after that at the latest; without, the same happens later. The shortest timeout of several calls counts.

        May be called several times, from any thread, and from a signal handler. Raises ValueError or TypeError for a
        timeout that is nan or no number, and nothing else; run() and submit() raise RuntimeError from now on.

            >>> import asyncio
            >>> pool = pyconc.CoroutinePool(max_workers=1)
            >>> future = pool.submit(asyncio.sleep, 0, "slept")
            >>> pool.shutdown()
            >>> future.result()
            'slept'
        """
        deadline_after(timeout)  # or it raises, before anything has happened
        if wait:
            self._end_streams("the pool was shut down")
        super().shutdown(wait, cancel_futures=cancel_futures, timeout=timeout)

    def cancel_all(self):
        """Cancel every call, and end every stream; the pool stays open.

        Calls that no worker has begun never run; in those that run, the coroutine sees CancelledError, and may clean
        up, or what options(on_cancel=) says becomes of it. Consumers of streams get RuntimeError. May be called from
        any thread. Raises nothing, and waits for nothing.

            >>> import asyncio
            >>> with pyconc.CoroutinePool(max_workers=1) as pool:
            ...     future = pool.submit(asyncio.sleep, 3600)
            ...     pool.cancel_all()
            ...     print(future in pyconc.wait([future]).done, future.cancelled())
            ...     pool.submit(asyncio.sleep, 0, "slept").result()
            True True
            'slept'
        """
        if self._opened is not None:
            self._tasks.cancel_queued()
            self._tasks.cancel_taken()
        self._end_streams("the pool's calls were cancelled")

    def _end_streams(self, why):
        for stream in list(self._opened.streams) if self._opened is not None else ():
            stream.end(why)

    def __exit__(self, exc_type, exc_val, exc_tb):
        if exc_val is not None:
            self.cancel_all()
        return super().__exit__(exc_type, exc_val, exc_tb)

    async def __aexit__(self, *exc_info):
        """Shut down, and wait for running calls while the event loop goes on; after an exception, cancel them first."""
        if exc_info[1] is not None:
            self.cancel_all()
        self._end_streams("the pool was shut down")  # in the loop's thread, not in the one that waits
        await super().__aexit__(*exc_info)


class _Stream:
    """The consumer's end of an async generator in a worker.  While it is open, a closed pool's workers stay.

    Only the thread of its loop uses it, except end(), which any thread may call.
    """

    _keepers = ()  # until __init__ has ended

    def __init__(self, pool, async_fn, args, kwargs, buffersize):
        self._opening = pool.run(loop_worker.open_stream, async_fn, args, kwargs, buffersize)
        self._address = None  # the worker's number and generation, and the stream's number, once they are known
        self._fetching = None  # the call that brings the next items; its consumer may be cancelled and come back
        self._items = collections.deque()
        self._why_ended = None  # the message of the consumer's RuntimeError, if the pool has ended the stream
        self._queue = pool._supervisor.queue
        self._keepers = [_core.Keeper(self._queue)]  # while the stream is open; the thread that ends it pops the keeper
        pool._supervisor.streams.add(self)

    def __aiter__(self):
        return self

    async def __anext__(self):
        while not self._items:
            if self._why_ended is not None:
                raise RuntimeError(self._why_ended)
            if not self._keepers:
                raise StopAsyncIteration
            await self._fetch()
        return self._items.popleft()

    async def _fetch(self):
        await self._open()
        if not self._keepers:
            return  # Another thread or task has ended it.
        if self._fetching is None:
            self._fetching = self._call(asyncio.get_running_loop(), loop_worker.next_items)
            self._fetching.add_done_callback(retrieve)
        fetching = self._fetching
        items, is_open = await self._outcome(fetching)
        if self._fetching is fetching:
            self._fetching = None
            self._items.extend(items)
        if not is_open:
            self._release()

    async def _open(self):
        if self._address is None:
            self._address = await self._outcome(self._opening)

    async def _outcome(self, call):
        """Wait for a call; the stream ends if the call fails, but not if only the consumer is cancelled."""
        try:
            return await asyncio.shield(call)
        except BaseException:
            if call.done() and (call.cancelled() or call.exception() is not None):
                self._release()
                if call.cancelled() and self._why_ended is not None:
                    raise RuntimeError(self._why_ended) from None
            raise

    async def aclose(self):
        """Stop the generator; return when it has cleaned up, or raise its exception."""
        self._items.clear()
        if not self._keepers:
            return
        try:
            await self._open()
            if self._keepers:
                await self._call(asyncio.get_running_loop(), loop_worker.close_stream)
        finally:
            self._release()

    def end(self, why):
        """Stop the generator without waiting; a consumer gets a RuntimeError that says why."""
        if self._keepers:
            self._why_ended = why
            self._stop()

    def __del__(self):
        if self._keepers:
            self._stop()

    def _stop(self):
        try:
            if self._address is not None:
                self._call(None, loop_worker.close_stream)
            else:
                # No worker has told its address yet.
                close = partial(_close_late, self._queue)
                self._opening.get_loop().call_soon_threadsafe(self._opening.add_done_callback, close)
        except RuntimeError:
            pass  # The pool has been killed, or the loop is closed; workers close their streams when they leave.
        finally:
            self._release()

    def _call(self, loop, function):
        *worker, number = self._address
        return self._queue.submit_to_worker(*worker, loop, function, number)

    def _release(self):
        try:
            self._keepers.pop().release()
        except IndexError:
            pass


def _close_late(queue, opening):
    if not opening.cancelled() and opening.exception() is None:
        *worker, number = opening.result()
        try:
            queue.submit_to_worker(*worker, None, loop_worker.close_stream, number)
        except RuntimeError:
            pass  # as above


def retrieve(future):
    """Keep a future from logging an exception that nobody has asked for."""
    if not future.cancelled():
        future.exception()


def _check_count(name, count):
    if not isinstance(count, int):
        raise TypeError(f"{name} must be an integer, not {type(count).__name__}")
    if count < 1:
        raise ValueError(f"{name} must be greater than 0")


def _cancel_all(pending):
    for future in pending:
        future.cancel()


def _read(tuples, errors):
    """Yield tuples of arguments. What reading them raises is left for _raise(): it comes after the calls before it."""
    try:
        yield from tuples
    except Exception as error:
        if is_from_handler(error):
            raise
        errors.append(error)


def _raise(errors):
    """Raise the exception from reading, if there is one."""
    if errors:
        raise errors.pop()


async def _zip_async(iterables):
    """Yield tuples as zip() does, from sync and async iterables."""
    iterators = [iterable.__aiter__() if hasattr(iterable, "__aiter__") else iter(iterable) for iterable in iterables]
    while True:
        items = []
        for iterator in iterators:
            try:
                items.append(await iterator.__anext__() if hasattr(iterator, "__anext__") else next(iterator))
            except (StopIteration, StopAsyncIteration):
                return
        yield tuple(items)
