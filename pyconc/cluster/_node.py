"""A node: the worker of dask that keeps a pool of pyconc's worker processes for each executor that has asked for one.

A plugin gives each worker of dask one more operation, "pyconc-open". Whoever opens a comm and asks for it has a
session: a pool of its own, which lasts as long as the comm. Messages to the node:

    calls: numbers, calls   run these packed calls; nothing else is promised of their order
    close                   let the workers end, then close the comm

and from it:

    hello: workers          the answer to pyconc-open; or an error, as a sentence
    ended: numbers, hows, outcomes, seconds
                            these calls have ended so, and all of them have run for so many seconds together
    broken: error           the pool is broken, as its initializer has failed; what has not ended never does

When the comm ends in another way, the program has ended or nobody can reach it: its workers are killed. Results are
never unpickled here, nor are arguments; a node's event loop is dask's, which must not wait for a program's code.
"""

import asyncio
import platform
from collections import deque
from functools import partial

from distributed import WorkerPlugin
from distributed.core import Status

import pyconc
from pyconc._process.pickling import WorkerDied
from pyconc.cluster import _calls as calls
from pyconc.process_pool import ProcessPoolExecutor, default_workers

__all__ = ["OPEN", "PLUGIN", "NodePlugin", "identify"]

OPEN = "pyconc-open"
PLUGIN = "pyconc-nodes"

# What a message has at most, if it has more than one outcome.
_MESSAGE_BYTES = 16 << 20


def identify():
    """Return what must be the same at both ends."""
    return {"pyconc": pyconc.__version__, "Python": ".".join(platform.python_version_tuple()[:2])}


class _Pool(ProcessPoolExecutor):
    """As dask's workers may be multiprocessing's spawned processes, they have spawn set; nobody has asked for that."""

    _follows_start_method = False


class NodePlugin(WorkerPlugin):
    """Lets a worker of dask open sessions."""

    name = PLUGIN
    idempotent = True

    def setup(self, worker):
        worker.handlers[OPEN] = _open

    def teardown(self, worker):
        worker.handlers.pop(OPEN, None)


async def _open(comm, versions, workers, initializer):
    """Serve an executor for as long as the comm lasts."""
    mine = identify()
    if versions != mine:
        theirs, ours = (
            " and ".join(f"{name} {version}" for name, version in each.items()) for each in (versions, mine)
        )
        await comm.write(
            {"op": "hello", "error": f"the program has {theirs}, and node {comm.local_address} has {ours}"}
        )
    else:
        try:
            workers = default_workers() if workers is None else workers
            setup = {} if initializer is None else {"initializer": calls.set_up, "initargs": (initializer,)}
            pool = _Pool(workers, **setup)
        except OSError as error:
            await comm.write({"op": "hello", "error": f"node {comm.local_address} cannot have a pool: {error}"})
        else:
            await _Session(comm, pool).serve(workers)
    await comm.close()
    return Status.dont_reply


class _Session:
    """A pool and the comm to its program. All runs in dask's event loop, but for _begin() and _note()."""

    def __init__(self, comm, pool):
        self._comm = comm
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self._ended = deque()  # (number, future or exception); any thread appends
        self._is_told = False  # whether the loop will look at them; who sets it tells the loop
        self._something = asyncio.Event()

    async def serve(self, workers):
        sender = None
        try:
            await self._comm.write({"op": "hello", "workers": workers})
            sender = asyncio.ensure_future(self._send())
            begin = partial(asyncio.to_thread, self._begin)  # the first worker takes a while to start
            while (message := await self._comm.read())["op"] != "close":
                await begin(message["numbers"], message["calls"])
                begin = self._begin_now
        except BaseException as error:
            self._pool.kill_workers()
            if not isinstance(error, OSError):
                raise
        else:
            await asyncio.to_thread(self._pool.shutdown)
        finally:
            if sender is not None:
                sender.cancel()

    async def _begin_now(self, numbers, packed):
        self._begin(numbers, packed)

    def _begin(self, numbers, packed):
        """Give the pool calls. In the loop's thread, or while that waits in another one."""
        for number, call in zip(numbers, packed):
            try:
                future = self._pool.submit(calls.run_call, call)
            except Exception as error:  # descriptors or threads are short, or the pool is broken
                self._note(number, error)
            else:
                future.add_done_callback(partial(self._note, number))

    def _note(self, number, ended):
        """Have the loop send how a call has ended: its future, or an exception. The pool's thread, or _begin()'s."""
        self._ended.append((number, ended))
        if not self._is_told:
            self._is_told = True
            try:
                self._loop.call_soon_threadsafe(self._look)
            except RuntimeError:  # dask's loop is closed, and so is the comm
                pass

    def _look(self):
        self._is_told = False
        self._something.set()

    async def _send(self):
        """Send what has ended, as much as there is at a time."""
        try:
            while True:
                await self._something.wait()
                self._something.clear()
                while self._ended:
                    await self._comm.write(self._next_message())
        except OSError:
            pass  # serve() sees it, too

    def _next_message(self):
        numbers, hows, outcomes, total, size = [], [], [], 0.0, 0
        while self._ended and size < _MESSAGE_BYTES:
            number, ended = self._ended.popleft()
            error = ended if isinstance(ended, Exception) else ended.exception()
            if error is None:
                how, outcome, seconds = ended.result()
            elif self._pool._broken:
                return {"op": "broken", "error": calls.pack_error(error)}
            else:
                how = calls.WORKER_DIED if isinstance(error, WorkerDied) else calls.RAISED
                outcome, seconds = calls.pack_error(error), 0.0
            numbers.append(number)
            hows.append(how)
            outcomes.append(outcome)
            total += seconds
            size += calls.size_of(outcome)
        return {"op": "ended", "numbers": numbers, "hows": hows, "outcomes": outcomes, "seconds": total}
