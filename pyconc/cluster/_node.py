"""A node: the worker of dask that keeps a pool of pyconc's worker processes for each executor that has asked for one.

A plugin gives each worker of dask one more operation, "pyconc-open". Whoever opens a comm and asks for it has a
session: a pool of its own, which lasts as long as the comm, or as a mailbox of _relay.py where that takes the comm's
place. Messages to the node:

    calls: numbers, calls, options
                            run these packed calls; nothing else is promised of their order. options: of those that
                            have others than the pool, a list of number, on_cancel (its index), grace, timeout, name,
                            and for how many seconds from now until the deadline. refs, if there are any: a list of
                            number and numbers of objects that the call mentions. streams, if there are any: a list
                            of number and size of buffer of the calls that are async generators
    more: asked             (number, for how many items) of streams: send so many more
    share: number, packed   lay this object into memory, see _refs.py
    forget: numbers         no call will mention these objects any more
    stop: numbers           do with these calls what their on_cancel says
    recall: numbers         give back those of these calls that have not begun; none of them may be stopped
    look                    tell what the workers do
    close                   let the workers end, then close the comm

and from it:

    hello: workers, slots   the answer to pyconc-open, slots: how many calls they run at a time; or an error, as a
                            sentence
    ended: numbers, results, failures, unbegun, seconds
                            these calls have returned these results; failures: (number, how, error) of the others;
                            unbegun: numbers of calls that were recalled in time; seconds: how long each of the recent
                            calls has kept a worker, on average, or None. items, if there are any: a list of number
                            and packed items of streams; an end comes after all items. recycled, unless it is 0:
                            how many workers had more memory than they may have, since the last message
    workers: packed         the answer to look, a list of pyconc.WorkerStats; answers have the order of the questions
    broken: error           the pool is broken, as its initializer has failed; what has not ended never does

When the comm ends in another way, the program has ended or nobody can reach it: its workers are killed. Results are
never unpickled here, nor are arguments; a node's event loop is dask's, which must not wait for a program's code.
"""

import asyncio
import contextlib
import platform
import sys
import time
import weakref
from collections import deque
from functools import partial

from distributed import WorkerPlugin
from distributed.core import Status

import pyconc
from pyconc import _dump
from pyconc._core import Outbox
from pyconc._options import ON_CANCEL
from pyconc._process import kernel
from pyconc._process.pickling import WorkerDied
from pyconc._task_timeout import TaskTimeout
from pyconc.cluster import _calls as calls
from pyconc.cluster import _refs
from pyconc.cluster._relay import RELAY, Mailboxes
from pyconc.coroutine_pool import CoroutinePool
from pyconc.process_pool import ProcessPoolExecutor, default_workers

__all__ = ["OPEN", "PLUGIN", "NodePool", "SessionPlugin", "census_of", "identify"]

OPEN = "pyconc-open"
PLUGIN = "pyconc-nodes"

# The most bytes of a message, if it has more than one outcome.
_MESSAGE_BYTES = 16 << 20
# After a message of so many outcomes, the next one waits for so many seconds, unless all have ended.
_MANY = 32
_LINGER = 0.002


def identify():
    """Return what must be the same at both ends."""
    python = ".".join(platform.python_version_tuple()[:2])
    return {"pyconc": pyconc.__version__, "Python": python, "byte order": sys.byteorder}


class NodePool(ProcessPoolExecutor):
    """As dask's workers may be multiprocessing's spawned processes, they have spawn set; nobody has asked for that."""

    _follows_start_method = False


class _LoopPool(CoroutinePool):
    """The same with coroutines."""

    _follows_start_method = False


class SessionPlugin(WorkerPlugin):
    """Lets a worker of dask open sessions."""

    name = PLUGIN
    idempotent = True

    def setup(self, worker):
        self._census = census_of(worker)
        self._mailboxes = Mailboxes(worker, self._open)
        worker.handlers[OPEN] = self._open
        worker.handlers[RELAY] = self._mailboxes.answer

    def teardown(self, worker):
        worker.handlers.pop(OPEN, None)
        worker.handlers.pop(RELAY, None)
        self._mailboxes.end()

    async def _open(self, comm, **wanted):
        return await _open(comm, self._census, **wanted)


class _Census:
    """What dask's worker tells its scheduler of the processes of its pools; that sees the worker's own alone."""

    def __init__(self):
        self.pools = weakref.WeakSet()

    def count_workers(self, worker):
        return len(self._list())

    def add_rss(self, worker):
        return sum(filter(None, map(kernel.read_rss, self._list())))

    def _list(self):
        return [number for pool in self.pools for number in list(pool._processes or ())]


def census_of(worker):
    """Return the _Census of a worker of dask's, which has one from the first time on."""
    if "pyconc_rss" not in worker.metrics:
        census = _Census()
        worker.metrics.update(pyconc_workers=census.count_workers, pyconc_rss=census.add_rss)
    return worker.metrics["pyconc_rss"].__self__


async def _open(comm, census, versions, workers, initializer, concurrency, limits):
    """Serve an executor for as long as the comm lasts.

    census: learns of its pool. concurrency: how many coroutines a worker runs at a time; None: calls are of functions.
    limits: more arguments of the pool's.
    """
    mine = identify()
    if versions != mine:
        theirs, ours = (", ".join(f"{name} {version}" for name, version in each.items()) for each in (versions, mine))
        await comm.write(
            {"op": "hello", "error": f"the program has {theirs}, and node {comm.local_address} has {ours}"}
        )
    else:
        try:
            workers = default_workers() if workers is None else workers
            setup = {} if initializer is None else {"initializer": calls.set_up, "initargs": (initializer,)}
            if concurrency is None:
                pool, slots = NodePool(workers, **setup, **limits), workers
            else:
                pool = _LoopPool(workers, concurrency=concurrency, **setup, **limits)
                slots = workers * concurrency
        except OSError as error:
            await comm.write({"op": "hello", "error": f"node {comm.local_address} cannot have a pool: {error}"})
        else:
            census.pools.add(pool)
            await _Session(comm, pool).serve({"op": "hello", "workers": workers, "slots": slots})
    await comm.close()
    return Status.dont_reply


class _Session:
    """A pool and the comm to its program. All runs in dask's event loop, except _begin() and _tell()."""

    def __init__(self, comm, pool):
        self._comm = comm
        self._pool = pool
        self._runs_coroutines = isinstance(pool, CoroutinePool)
        self._run = calls.run_coroutine if self._runs_coroutines else calls.run_call
        self._loop = asyncio.get_running_loop()
        self._outbox = Outbox(self._tell)  # what has ended; any thread
        self._pending = 0  # how many calls the program waits for; the loop's thread
        # How many calls the pool had run at the last message, for how long, and how many workers had left; as above.
        self._has_run = (0, 0.0, 0)
        self._sights = deque()  # what workers() of the pool has returned, and the program was not told yet; as above
        self._something = asyncio.Event()
        self._opening = []  # what _open_stream() is to get; _begin() adds
        self._streams = {}  # by number: _Stream, of those that have not ended; the loop's thread
        self._items = deque()  # (number, packed item) of streams; the loop's thread
        self._shared = {}  # by number: pyconc.shared.Refs, or the exceptions that are in their places
        self._recalled = set()  # numbers of calls that never begin, until the program is told

    async def serve(self, hello):
        sender = None
        try:
            await self._comm.write(hello)
            sender = asyncio.ensure_future(self._send())
            begin = partial(asyncio.to_thread, self._begin)  # the first worker takes a while to start
            while (message := await self._comm.read())["op"] != "close":
                if message["op"] in ("stop", "recall"):
                    self._cancel(message["numbers"], message["op"] == "recall")
                    continue
                if message["op"] == "look":
                    self._sights.append(calls.pack(self._look()))
                    self._something.set()
                    continue
                if message["op"] == "share":
                    await asyncio.to_thread(self._share, message["number"], message["packed"])
                    continue
                if message["op"] == "forget":
                    for number in message["numbers"]:
                        self._shared.pop(number, None)
                    continue
                if message["op"] == "more":
                    for number, count in message["asked"]:
                        if number in self._streams:
                            self._streams[number].ask(count)
                    continue
                self._pending += len(message["numbers"])
                streams = dict(message.get("streams", ()))
                await begin(
                    message["numbers"], message["calls"], message.get("options", ()), message.get("refs", ()), streams
                )
                begin = self._begin_now
                while self._opening:
                    self._open_stream(*self._opening.pop())
        except BaseException as error:
            self._pool.kill_workers()
            if not isinstance(error, OSError):
                raise
        else:
            await asyncio.to_thread(self._pool.shutdown)
        finally:
            if sender is not None:
                sender.cancel()
            for stream in self._streams.values():
                stream.task.cancel()

    def _open_stream(self, number, pool, arguments, buffersize):
        stream = self._streams[number] = _Stream(pool, arguments, buffersize, partial(self._add_item, number))
        stream.task.add_done_callback(partial(self._note_stream, number))

    def _add_item(self, number, packed):
        self._items.append((number, packed))
        self._something.set()

    def _note_stream(self, number, task):
        del self._streams[number]
        if task.cancelled():
            self._outbox.end(number, None, None)
        elif task.exception() is not None:
            self._outbox.end(number, None, task.exception())
        else:
            self._outbox.end(number, task.result(), None)

    def _share(self, number, packed):
        """Lay an object into memory, while the loop waits in this message's place."""
        try:
            self._shared[number] = _refs.lay(packed)
        except Exception as error:  # memory is short; calls that mention it raise that
            self._shared[number] = error

    def _take_shared(self, numbers):
        """Return a dict of these objects; raise what is in the place of one."""
        found = {number: self._shared[number] for number in numbers}
        for ref in found.values():
            if isinstance(ref, Exception):
                raise ref
        return found

    async def _begin_now(self, *message):
        self._begin(*message)

    def _begin(self, numbers, packed, options, refs, streams):
        """Give the pool calls. In the loop's thread, or while that waits in another one."""
        if not (options or refs or streams):
            self._pool._submit_each(self._outbox, numbers, self._run, packed)
            return
        options = {number: chosen for number, *chosen in options}
        refs = dict(refs)
        for number, call in zip(numbers, packed):
            try:
                pool = self._view(*options[number]) if number in options else self._pool
                mentioned = (self._take_shared(refs[number]),) if number in refs else ()
                if number in streams:
                    pool.submit(asyncio.sleep, 0)  # here, where the first worker may take a while to start
                    self._opening.append((number, pool, (call, *mentioned), streams[number]))
                else:
                    pool._submit_each(self._outbox, [number], self._run, [call], *([refs] for refs in mentioned))
            except Exception as error:  # memory, descriptors or threads are short, or the pool is broken
                self._outbox.end(number, None, error)

    def _view(self, how, grace, timeout, name, remaining):
        deadline = None if remaining is None else time.monotonic() + remaining
        return self._pool.options(on_cancel=ON_CANCEL[how], grace=grace, timeout=timeout, deadline=deadline, name=name)

    def _cancel(self, numbers, is_recall):
        for number in numbers:
            stream = self._streams.get(number)
            if stream is not None:
                stream.task.cancel()
            elif self._outbox.cancel(number) and is_recall:
                self._recalled.add(number)

    def _look(self):
        """Return the workers() of the pool, with the names of the calls themselves and this node's address."""
        workers = self._pool.workers()
        if any(worker.task is not None for worker in workers):
            region = f"/proc/self/fd/{self._pool._opened.queue.region.fileno()}"
            numbers = {worker.process.pid: worker.number for worker in self._pool._opened.list_workers()}
            tasks = {member["number"]: member["task"] for member in _dump.read_pool(region)["members"]}
            workers = [
                worker if worker.task is None else worker._replace(task=tasks.get(numbers.get(worker.id)))
                for worker in workers
            ]
        return [worker._replace(node=self._comm.local_address) for worker in workers]

    def _tell(self):
        """Have the loop send what has ended. The pool's thread, or _begin()'s."""
        with contextlib.suppress(RuntimeError):  # dask's loop is closed, and so is the comm
            self._loop.call_soon_threadsafe(self._something.set)

    def _listen(self, rest):
        """Send what there is, or learn of what ends next: all that is pending if that is within so many seconds."""
        if len(self._outbox) >= (max(1, self._pending) if rest > 0 else 1):
            self._something.set()
        elif rest > 0:
            # After a message of many there will be many again.
            self._outbox.wake_at = max(1, self._pending)
            self._loop.call_later(rest, self._listen, 0)
        else:
            self._outbox.wake_at = 1

    async def _send(self):
        """Send what has ended, as much as there is at a time."""
        try:
            while True:
                await self._something.wait()
                self._something.clear()
                while self._sights:
                    await self._comm.write({"op": "workers", "workers": self._sights.popleft()})
                if len(self._outbox) or self._items:
                    message, rest = self._next_message()
                    await self._comm.write(message)
                    self._listen(rest)
        except OSError:
            pass  # serve() sees it, too
        except MemoryError:
            self._comm.abort()  # serve() sees it, and the program: nobody waits for what cannot be sent

    def _next_message(self):
        """Return a message of what there is, and for how many seconds what ends next may wait for more."""
        failures, unbegun, items, size = [], [], [], 0
        while self._items and size < _MESSAGE_BYTES:
            items.append(self._items.popleft())
            size += calls.size_of(items[-1][1])
        numbers, results, others = self._outbox.take(0 if self._items else _MESSAGE_BYTES - size)
        for number, outcome, error in others:
            if error is not None:
                if self._pool._broken:
                    return {"op": "broken", "error": calls.pack_error(error)}, 0
                failures.append((number, _how(error), calls.pack_error(error)))
            elif outcome is not None:
                how, packed = outcome
                if how is None:
                    numbers.append(number)
                    results.append(packed)
                else:
                    failures.append((number, how, packed))
            elif number in self._recalled:
                self._recalled.remove(number)
                unbegun.append(number)
            else:
                failures.append((number, calls.STOPPED, b""))
        count = len(numbers) + len(failures) + len(unbegun)
        self._pending -= count
        seconds, recycled = self._learn()
        answer = {"op": "ended", "numbers": numbers, "results": results, "seconds": seconds}
        if failures:
            answer["failures"] = failures
        if unbegun:
            answer["unbegun"] = unbegun
        if items:
            answer["items"] = items
        if recycled:
            answer["recycled"] = recycled
        return answer, _LINGER if count >= _MANY else 0

    def _learn(self):
        """Return how long each call has kept a worker since the last message, None: none has; how many have left."""
        stats = self._pool.stats()
        ran, recycled = stats.run, stats.recycled
        calls_before, seconds_before, recycled_before = self._has_run
        self._has_run = ran.calls, ran.total, recycled
        seconds = (ran.total - seconds_before) / (ran.calls - calls_before) if ran.calls > calls_before else None
        return seconds, recycled - recycled_before


def _how(error):
    """Return how a call has ended of which the pool says this."""
    if isinstance(error, WorkerDied):
        return calls.WORKER_DIED
    return calls.TIMED_OUT if isinstance(error, TaskTimeout) else calls.RAISED


class _Stream:
    """An async generator that a worker runs. The task takes as many items from it as the program has asked for."""

    def __init__(self, pool, arguments, asked, send):
        self._send = send
        self._asked = asked
        self._is_asked = asyncio.Event()  # for one at least
        self.task = asyncio.ensure_future(self._run(pool.stream(calls.run_stream, *arguments, buffersize=asked)))

    def ask(self, count):
        self._asked += count
        self._is_asked.set()

    async def _run(self, generator):
        """Return what run_call() does."""
        try:
            async for *how, packed in generator:
                if how:
                    return *how, packed
                self._send(packed)
                self._asked -= 1
                if self._asked == 0:
                    self._is_asked.clear()
                    await self._is_asked.wait()
        finally:
            await generator.aclose()
        return calls.pack(None)
