"""The program's end: a queue of calls, and a thread that sends them to nodes and delivers what comes back.

The thread has an event loop, in which a client of dask's lives, a comm to each node (see _node.py), and one to the
scheduler, whose end tells that the scheduler is gone. It is nobody else's: a program may close its own client, or the
cluster, whenever it likes. Where the program cannot connect to a node, a Relay takes the comm's place: see _relay.py.

A call counts as begun once it is sent to a node, for nobody could say afterwards whether a node that is gone had begun
it. So a node has no more of them than it needs to have something to do until the next come: as many as its workers run
at a time, and beyond these what they do in 20 ms, by the time that recent calls took. The queue goes to whichever node
has room: a slow one takes less of it. When a node dies, others get the calls that were not sent.

Calls sent in advance may wait on a node for one that takes long after all. When the queue is empty, and another node
has had nothing to do for 40 ms, the dispatcher recalls them. The node withdraws those from its pool that have not
begun, and names them; only then does the dispatcher queue them again.

When a call that may be stopped is cancelled, its node is told, and the call has ended when the node says so. A node
watches over the time of what it has; a call that is queued until its deadline is ended here.

Who ends when: shutdown() closes the queue. When nothing is queued and nothing is running, each node is asked to close
its session; when all comms have ended, so do the loop and the thread. When the scheduler and all nodes are gone, when
nodes and program do not fit each other, or when an initializer fails, the dispatcher is broken: all calls fail.
"""

import asyncio
import itertools
import logging
import os
import sys
import threading
import weakref
from collections import deque
from concurrent.futures import BrokenExecutor, CancelledError
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import islice
from math import ceil

from distributed import Client, LocalCluster
from distributed.comm import connect

from pyconc._core import Future
from pyconc._process import pickling
from pyconc._task_timeout import TaskTimeout
from pyconc._task_timeout import make as make_timeout
from pyconc.cluster import _calls as calls
from pyconc.cluster._errors import NodeDied
from pyconc.cluster._node import OPEN, PLUGIN, SessionPlugin, identify
from pyconc.cluster._pending import Call, LoopCall, LoopOutcomes
from pyconc.cluster._refs import make as make_ref
from pyconc.cluster._refs import pack_call
from pyconc.cluster._relay import Relay, Relays
from pyconc.cluster._sight import Sight
from pyconc.cluster._stats import ClusterStats, NodeStats
from pyconc.cluster._streams import StreamCall

__all__ = ["TRANSPORTS", "Dispatcher"]

log = logging.getLogger(__package__)

TRANSPORTS = ("auto", "direct", "scheduler")

# For so many seconds a node is given work in advance, and so many calls at most.
_AHEAD_SECONDS = 0.02
_MOST_AHEAD = 8192
# When the queue is empty, a node that idles for so many seconds gets the calls that wait on others.
_RECALL_SECONDS = 2 * _AHEAD_SECONDS
# The time that even a call of nothing costs a worker, in seconds.
_LEAST_SECONDS = 5e-6
# A message has so many bytes at most, if it has more than one call, and nodes that have this get no work in advance.
_MESSAGE_BYTES = 16 << 20
# How long a node has to answer, in seconds, when the program connects, and at the end when it asks the node to close.
_PATIENCE = 10.0

_dispatchers: "weakref.WeakSet[Dispatcher]" = weakref.WeakSet()
_names = itertools.count()


class _Node:
    """A node that takes calls; the loop's thread only, but stats() reads numbers."""

    def __init__(self, address, comm, workers, slots):
        self.address = address
        self.comm = comm
        self.transport = "scheduler" if isinstance(comm, Relay) else "direct"
        self.workers = workers
        self.slots = slots  # how many calls these run at a time
        self.limit = slots  # how many it may have
        self.seconds = None  # a call's, of late
        self.running = {}  # its calls by number
        self.bytes = 0  # of these
        self.ended = 0
        self.outbox = deque()  # numbers of those that were not written to the comm yet
        self.to_stop = []  # numbers of calls
        self.to_recall = []  # the same
        self.shared = set()  # numbers of the Refs whose objects it has
        self.to_forget = []  # of those that are gone
        self.to_ask = []  # (number of a stream, for how many items)
        self.to_look = 0  # how often
        self.looking = deque()  # of each such question that was not answered: a Sight
        self.something = asyncio.Event()  # in the outbox, one of the fields above, or to be closed
        self.is_closing = False

    def room(self):
        limit = self.limit if self.bytes < _MESSAGE_BYTES else self.slots
        return limit - len(self.running)

    def spare(self):
        """Return how many workers, or places for coroutines, have nothing to do; below 0: so many calls wait."""
        return self.slots - len(self.running)

    def recall(self):
        """Ask for those calls that wait for another one to end: it takes longer than the recent ones did."""
        last = islice(reversed(self.running.items()), -self.spare())
        self.to_recall = [number for number, call in last if not call.may_be_stopped]
        self.limit = self.slots
        self.something.set()

    def give(self, number, call):
        self.running[number] = call
        self.bytes += call.size
        self.outbox.append(number)
        if call.options is not None:
            call.place = self, number

    def take(self, number):
        call = self.running.pop(number)
        self.bytes -= call.size
        if call.options is not None:
            call.place = None
        return call

    def take_all(self, numbers):
        taken = [*map(self.running.pop, numbers)]
        for call in taken:
            self.bytes -= call.size
            if call.options is not None:
                call.place = None
        return taken

    def learn(self, mean):
        """Choose the limit anew, as recent calls have run for so many seconds each."""
        self.seconds = mean if self.seconds is None else 0.7 * self.seconds + 0.3 * mean
        ahead = int(self.slots * _AHEAD_SECONDS / max(self.seconds, _LEAST_SECONDS))
        # It grows step by step: the first calls may be the shortest.
        self.limit = min(self.slots + min(ahead, _MOST_AHEAD), 2 * self.limit)


class Dispatcher:
    """See above. Any thread calls the methods without an underscore; all others run in the loop's thread.

    target: (address, security) of a scheduler; None: a cluster of one node in this process is made. transport: one of
    TRANSPORTS. initializer: packed with its arguments, or None. begins: how often a call may begin. concurrency: how
    many coroutines a worker runs at a time; None: calls are of functions. limits: what else a node's pool is made with.
    default_options: what options calls have that nobody has chosen any for. name: the executor's; None: it has none.
    """

    def __init__(
        self, target, transport, workers, initializer, begins, concurrency, limits, default_options, name=None
    ):
        self._target = target
        self._transport = transport
        self._workers = workers
        self._initializer = initializer
        self._begins = begins
        self._concurrency = concurrency
        self._limits = {**limits, "name": name}
        self._default_options = default_options
        # A signal handler may submit, too.
        self._lock = threading.RLock()
        # With the lock: what submit() raises, as a function that makes it; None: it accepts.
        self._refusal = None
        # Appended to with the lock; taken from by the loop's thread, which needs no lock for that.
        self._queue = deque()
        self._has_shared = False  # whether there has been a Ref; set by any thread, and never cleared
        self._is_woken = False  # whether _feed() will run; set with the lock, and cleared by it before it looks
        # The loop's thread alone uses the following fields.
        self._nodes = {}
        self._joining = {}  # tasks by address
        self._relays = None  # a Relays, once there is a client
        self._numbers = itertools.count()
        self._outcomes = LoopOutcomes()
        self._recaller = None  # the timer of _recall()
        self._is_closing = False
        self._is_lost = False  # whether the scheduler is gone
        self._failure = None  # as a function that makes it, once it is broken
        self._clear_counts()
        self._main_task = self._over = None  # the latter is an asyncio.Event: the loop may end
        self._ready = Future()  # when it is connected, or cannot be
        self._loop = asyncio.SelectorEventLoop()  # dask's comms are made for this one
        self._pid = os.getpid()
        key = f"ClusterExecutor-{next(_names)}"
        self._name = name or key
        self._thread = threading.Thread(target=self._run, name=key, daemon=True)
        _dispatchers.add(self)
        self._thread.start()

    # --- Any thread ---------------------------------------------------------------------------------------------------

    def submit(self, loop, options, function, args, kwargs, buffersize=None):
        """Queue a call, and return it; what cannot be pickled has failed.

        loop: a running event loop whose future the call is to have; None: a pyconc.Future. options: as those of an
        executor, None for the default ones. buffersize: of a stream, whose call is a StreamCall.
        """
        error = None
        try:
            if self._has_shared:
                packed, refs = pack_call(self, function, args, kwargs)
            else:
                packed, refs = calls.pack_call(function, args, kwargs), None
            size = len(packed) if type(packed) is bytes else calls.size_of(packed)
        except Exception as raised:
            error, packed, size, refs = pickling.call_error(raised), None, 0, None
        if loop is None:
            call = Call(Future(), function, packed, size, self._begins, options, self._stop_call)
        elif buffersize is None:
            call = LoopCall(loop.create_future(), function, packed, size, self._begins, options, self._stop_call)
            call.outcomes, call.is_withdrawn = self._outcomes, False
        else:
            call = StreamCall(loop, buffersize, self._ask, function, packed, size, options, self._stop_call)
        if refs:
            call.refs = refs
        with self._lock:
            if self._refusal is not None:
                raise self._refusal()
            self._submitted += 1
            if error is None:
                if options is not None and options[3] is not None:
                    self._loop.call_soon_threadsafe(self._set_timer, call)
                self._queue.append(call)
                if not self._is_woken:
                    self._is_woken = True
                    self._loop.call_soon_threadsafe(self._feed)
                return call
            self._failed += 1
        call.begin()
        call.abandon(error)
        return call

    def end_streams(self):
        """End all streams, whose consumers get a RuntimeError. Any thread."""
        for found in (self._queue, *[node.running.values() for node in list(self._nodes.values())]):
            for call in list(found):
                if isinstance(call, StreamCall):
                    call.end("the executor was shut down")

    def _ask(self, call, count):
        with self._lock:
            self._tell(partial(self._ask_node, call, count))

    def share(self, obj):
        """Return a Ref to an object; raises what pickling it does, and ValueError if it is too large."""
        self._has_shared = True
        return make_ref(self, next(self._numbers), obj)

    def forget(self, number):
        """Have nodes give back the object of a Ref that is gone."""
        with self._lock:
            self._tell(partial(self._forget, number))

    def _stop_call(self, call):
        """Have a call stopped that may be, and that was cancelled. Any thread calls this."""
        with self._lock:
            self._tell(partial(self._stop, call))

    def close(self, cancel):
        """Refuse new calls, and end when those there are have ended; cancel those that were not sent, if asked."""
        with self._lock:
            if self._refusal is None:
                self._refusal = _after_shutdown
        if cancel:
            self._cancel_all()
        with self._lock:
            self._tell(self._close)

    def _cancel_all(self):
        """Cancel the calls that were not sent, and those that may be stopped; any thread."""
        doomed = [call for call in list(self._queue) if not call.has_begun]
        for node in list(self._nodes.values()):
            doomed += [call for call in list(node.running.values()) if call.may_be_stopped]
        for call in doomed:
            call.cancel()

    def abort(self):
        """End now: cancel the calls that were not sent, and kill the others."""
        self.close(True)
        with self._lock:
            self._tell(self._abort)

    def wait_ready(self):
        """Wait until the scheduler has answered; raise what the connection has failed with."""
        self._ready.result()

    @property
    def ready(self):
        """A future that ends when wait_ready() returns."""
        return self._ready

    def join(self):
        """Wait until the thread has ended; raises RuntimeError in that thread itself."""
        if self._pid == os.getpid():
            self._thread.join()

    def stats(self):
        """Return a ClusterStats."""
        nodes = tuple(
            NodeStats(node.address, node.workers, len(node.running), node.ended, node.seconds, node.transport)
            for node in list(self._nodes.values())
        )
        workers = sum(node.workers for node in nodes)
        return ClusterStats(
            name=self._name,
            max_workers=workers,
            workers=workers,
            idle=sum(max(0, node.workers - node.running) for node in nodes),
            running=sum(node.running for node in nodes),
            queued=len(self._queue),
            submitted=self._submitted,
            completed=self._completed,
            failed=self._failed,
            cancelled=self._cancelled,
            timed_out=self._timed_out,
            died=self._died,
            abandoned=0,
            recycled=self._recycled,
            stolen=self._stolen,
            run=None,
            wait=None,
            nodes=nodes,
            again=self._again,
        )

    def workers(self, timeout):
        """Return a list of WorkerStats of the workers of all nodes that answer within so many seconds."""
        if threading.current_thread() is self._thread:
            raise RuntimeError("workers() waits for the thread that calls futures' callbacks, which this one is")
        sight = Sight()
        with self._lock:
            is_told = self._tell(partial(self._look, sight))
        return sight.wait(timeout) if is_told else []

    def after_fork(self):
        """In the child of a fork, which has neither the thread nor the nodes: fail what is pending."""
        self._lock = threading.RLock()
        self._refusal = _in_child
        self._clear_counts()
        nodes, self._nodes = list(self._nodes.values()), {}
        queued, self._queue = list(self._queue), deque()
        for node in nodes:
            # Or the node would take the child for the program.
            stream = getattr(node.comm, "stream", None)
            if getattr(stream, "socket", None) is not None:
                stream.socket.close()
            queued += node.running.values()
        lost = "the process was forked while the call was pending; only the parent runs it"
        for call in queued:
            call.abandon(BrokenExecutor(lost))
        if not self._ready.done():
            self._ready.set_exception(_in_child())

    def _tell(self, function):
        """With the lock, under which the loop is closed: have its thread call a function; False: it has ended."""
        if self._loop.is_closed() or self._pid != os.getpid():
            return False
        self._loop.call_soon_threadsafe(function)
        return True

    def _clear_counts(self):
        self._submitted = 0  # with the lock
        self._completed = self._failed = self._cancelled = self._timed_out = self._died = self._again = 0
        self._recycled = self._stolen = 0

    # --- The loop's thread: its life ----------------------------------------------------------------------------------

    def _run(self):
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._main())
        except BaseException as error:
            self._break(_maker(error))
        finally:
            with self._lock:
                if self._refusal is None:
                    self._refusal = self._failure or _after_shutdown
            self._fail_queued()
            self._end_loop()

    def _end_loop(self):
        loop = self._loop
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        asyncio.set_event_loop(None)
        with self._lock:
            loop.close()

    async def _main(self):
        self._over = asyncio.Event()
        self._main_task = asyncio.current_task()
        cluster = client = None
        try:
            address, security = self._target or (None, None)
            if address is None:
                cluster = await LocalCluster(
                    n_workers=1,
                    threads_per_worker=1,
                    processes=False,
                    dashboard_address="127.0.0.1:0",
                    worker_dashboard_address="127.0.0.1:0",
                    memory_limit=0,
                    asynchronous=True,
                )
                address, security = cluster.scheduler_address, cluster.security
            client = Client(
                address,
                security=security,
                asynchronous=True,
                set_as_default=False,
                name="pyconc",
                heartbeat_interval="5s",
            )
            await client
            self._relays = Relays(client)
            watch = asyncio.ensure_future(self._watch(client))
            try:
                await self._find_nodes(client)
                self._ready.set_result(None)
                self._end_if_done()
                await self._over.wait()
            finally:
                watch.cancel()
                for task in list(self._joining.values()):
                    task.cancel()
                if not self._is_lost:
                    client.unsubscribe_topic("all")  # or the scheduler tells the client of its own end
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self._break(_maker(error))
        finally:
            if not self._ready.done():
                self._ready.set_exception((self._failure or _after_shutdown)())
            for node in self._nodes.values():
                node.comm.abort()
            if self._relays is not None and not self._is_lost:
                await self._relays.wait_closed()
            for closable in (client, cluster):
                if closable is not None:
                    await closable.close(**({"timeout": 2} if self._is_lost else {}))

    async def _find_nodes(self, client):
        """Have the plugin on each node, and connect to them; from now on, to each new one as well."""
        heard = asyncio.Event()
        topic = f"{PLUGIN}-{client.id}"
        client.subscribe_topic("all", lambda event: self._on_event(client, event))
        client.subscribe_topic(topic, lambda event: heard.set())
        # Subscriptions and questions go different ways: ask who is there when the subscriptions are known to be made.
        while not heard.is_set():
            await client.log_event(topic, "pyconc")
            try:
                await asyncio.wait_for(heard.wait(), 0.02)
            except asyncio.TimeoutError:
                pass
        try:
            await client.register_plugin(SessionPlugin(), name=PLUGIN)
        except ModuleNotFoundError as error:
            # Dask's workers do not start with a plugin that they cannot import.
            await client.unregister_worker_plugin(PLUGIN)
            raise BrokenExecutor(f"a node cannot import what it needs ({error}): install pyconc on all nodes") from None
        scheduler = await client.scheduler.identity(n_workers=-1)
        for address in scheduler["workers"]:
            self._join(client, address)

    def _on_event(self, client, event):
        _, about = event
        if isinstance(about, dict) and about.get("action") == "add-worker":
            self._join(client, about["worker"])
        elif isinstance(about, dict) and about.get("action") == "remove-worker":
            # Its comm has ended already, unless the node hangs.
            node, joining = (found.get(about.get("worker")) for found in (self._nodes, self._joining))
            if node is not None:
                node.comm.abort()
            if joining is not None:
                joining.cancel()

    async def _watch(self, client):
        """Wait for the scheduler's end."""
        try:
            comm = await connect(client.scheduler.address, timeout=_PATIENCE, **client.connection_args)
            try:
                await comm.read()
            finally:
                comm.abort()
        except OSError as error:
            self._is_lost = True
            if not self._is_closing:
                log.warning("the scheduler of %s is gone, so that no new nodes can be found: %s", client.id, error)
            self._end_if_done()

    def _close(self):
        self._is_closing = True
        self._feed()
        if self._target is not None and not self._ready.done() and not self._queue:
            self._main_task.cancel()  # nobody needs a connection any more

    def _abort(self):
        if not self._ready.done():
            self._main_task.cancel()
        for task in list(self._joining.values()):
            task.cancel()
        for node in list(self._nodes.values()):
            node.comm.abort()
        if self._over is not None and not self._nodes:
            self._over.set()

    def _end_if_done(self):
        """Go on with the end, if one has come; whatever an end may wait for calls this."""
        if self._is_lost and not self._nodes and not self._joining:
            self._break(lambda: BrokenExecutor("the cluster is gone: its scheduler and all of its nodes"))
        if not (self._is_closing or self._failure) or self._queue:
            return
        if any(node.running for node in self._nodes.values()):
            return  # what begins again needs a node
        for node in self._nodes.values():
            if not node.is_closing:
                node.is_closing = True
                node.something.set()
                self._loop.call_later(_PATIENCE, node.comm.abort)
        if not self._nodes and self._ready.done():
            self._over.set()

    def _break(self, make_error):
        """Fail all calls, and refuse new ones for good."""
        if self._failure is not None:
            return
        with self._lock:
            self._failure = make_error
            if self._refusal is None:
                self._refusal = make_error
        self._fail_queued()
        for node in list(self._nodes.values()):
            node.outbox.clear()
            for number in list(node.running):
                self._fail(node.take(number), make_error())
            node.comm.abort()
        self._outcomes.send()

    def _fail_queued(self):
        while self._queue:
            call = self._queue.popleft()
            if self._may_run(call):
                self._fail(call, (self._failure or _after_shutdown)())
        self._outcomes.send()

    # --- The loop's thread: nodes -------------------------------------------------------------------------------------

    def _join(self, client, address):
        if address not in self._nodes and address not in self._joining and not self._failure:
            self._joining[address] = asyncio.ensure_future(self._serve(client, address))

    async def _serve(self, client, address):
        """Be connected to a node, from the beginning to the end."""
        comm = node = None
        is_short = False  # whether there was no memory for a message
        try:
            comm, failure = await self._connect(client, address)
            await comm.write(
                {
                    "op": OPEN,
                    "reply": False,
                    "versions": identify(),
                    "workers": self._workers,
                    "initializer": self._initializer,
                    "concurrency": self._concurrency,
                    "limits": self._limits,
                }
            )
            hello = await comm.read()
            refusal = hello.get("error") if isinstance(hello, dict) else f"node {address} does not know pyconc"
            if refusal is not None:
                self._break(lambda: BrokenExecutor(refusal))
                return
            if failure is not None:
                log.warning("node %s cannot be reached (%s); its calls go through the scheduler", address, failure)
            node = self._nodes[address] = _Node(address, comm, hello["workers"], hello["slots"])
            del self._joining[address]
            self._feed()
            writer = asyncio.ensure_future(self._write(node))
            try:
                while True:
                    self._receive(node, await comm.read())
            finally:
                writer.cancel()
        except OSError as error:
            if node is None:
                log.warning("node %s cannot be reached: %s", address, error)
        except MemoryError:
            is_short = True
        finally:
            if self._joining.get(address) is asyncio.current_task():
                del self._joining[address]
            if comm is not None:
                comm.abort()
            if node is not None:
                self._bury(node, is_short)
                if node.ended and not self._is_lost and not self._failure and not node.is_closing:
                    self._joining[address] = asyncio.ensure_future(self._rejoin(client, address))
            if self._over is not None and not self._over.is_set():
                self._end_if_done()

    async def _connect(self, client, address):
        """Return a comm to a node, and why it is none of the kind that was tried first, or None."""
        ways = {node.transport for node in self._nodes.values()}
        if self._transport == "scheduler" or (self._transport == "auto" and ways == {"scheduler"}):
            return self._relays.open(address), None
        try:
            return await connect(address, timeout=_PATIENCE, **client.connection_args), None
        except OSError as error:
            if self._transport == "direct" or self._is_lost:
                raise
            return self._relays.open(address), error

    async def _rejoin(self, client, address):
        """Connect again to a node whose comm has ended, if the scheduler says that the node is there all the same."""
        try:
            scheduler = await client.scheduler.identity(n_workers=-1)
            if address in scheduler["workers"]:
                await self._serve(client, address)
        except OSError:
            pass  # the scheduler is gone, too
        finally:
            if self._joining.get(address) is asyncio.current_task():
                del self._joining[address]
            self._end_if_done()

    async def _write(self, node):
        """Write to the node what it is to get; serve() sees when the comm ends."""
        try:
            while True:
                await node.something.wait()
                node.something.clear()
                while node.outbox:
                    await self._write_calls(node)
                if node.to_stop:
                    numbers, node.to_stop = node.to_stop, []
                    await node.comm.write({"op": "stop", "numbers": numbers})
                if node.to_recall:
                    numbers, node.to_recall = node.to_recall, []
                    await node.comm.write({"op": "recall", "numbers": numbers})
                if node.to_forget:
                    numbers, node.to_forget = node.to_forget, []
                    await node.comm.write({"op": "forget", "numbers": numbers})
                if node.to_ask:
                    asked, node.to_ask = node.to_ask, []
                    await node.comm.write({"op": "more", "asked": asked})
                while node.to_look:
                    node.to_look -= 1
                    await node.comm.write({"op": "look"})
                if node.is_closing:
                    await node.comm.write({"op": "close"})
        except OSError:
            pass

    async def _write_calls(self, node):
        message, unknown = self._next_message(node)
        for ref in unknown:
            await node.comm.write({"op": "share", "number": ref._number, "packed": ref._packed})
        await node.comm.write(message)

    def _next_message(self, node):
        """Return a message with calls of the outbox, and a list of the Refs in it that are new to the node."""
        numbers, packed, options, refs, unknown, streams, size = [], [], [], [], [], [], 0
        while node.outbox and size < _MESSAGE_BYTES:
            number = node.outbox.popleft()
            call = node.running[number]
            numbers.append(number)
            packed.append(call.packed)
            size += call.size
            if type(call) is StreamCall:
                streams.append((number, call.buffersize))
            if call.options is not None and call.options is not self._default_options:
                how, grace, timeout, deadline, name = call.options
                remaining = None if deadline is None else deadline - self._loop.time()
                options.append((number, how, grace, timeout, name or calls.name_of(call.task), remaining))
            if call.refs is not None:
                refs.append((number, [*call.refs]))
                unknown += [ref for ref in call.refs.values() if ref._number not in node.shared]
                node.shared.update(call.refs)
        message = {"op": "calls", "numbers": numbers, "calls": packed}
        if options:
            message["options"] = options
        if refs:
            message["refs"] = refs
        if streams:
            message["streams"] = streams
        return message, unknown

    def _ask_node(self, call, count):
        if call.place is not None:
            node, number = call.place
            node.to_ask.append((number, count))
            node.something.set()

    def _look(self, sight):
        """Ask all nodes what their workers do."""
        for node in self._nodes.values():
            if not node.is_closing:
                sight.expect(node)
                node.looking.append(sight)
                node.to_look += 1
                node.something.set()
        sight.end_if_complete()

    def _forget(self, number):
        for node in self._nodes.values():
            if number in node.shared:
                node.shared.remove(number)
                node.to_forget.append(number)
                node.something.set()

    def _receive(self, node, message):
        if message["op"] == "broken":
            self._break(_maker(calls.unpack_error(calls.RAISED, message["error"], node.address, None)))
            return
        if message["op"] == "workers":
            node.looking.popleft().receive(node, message["workers"])
            return
        for number, packed in message.get("items", ()):
            node.running[number].receive(packed)
        returned = node.take_all(message["numbers"])
        failed = [(node.take(number), how, error) for number, how, error in message.get("failures", ())]
        unbegun = sorted(message.get("unbegun", ()))
        self._stolen += len(unbegun)
        self._recycled += message.get("recycled", 0)
        self._queue_again([node.take(number) for number in unbegun])
        node.ended += len(returned) + len(failed)
        if message["seconds"] is not None:
            node.learn(message["seconds"])
        self._feed()
        unpack = calls.unpack
        for call, packed in zip(returned, message["results"]):
            try:
                result = unpack(packed)
            except BaseException as error:
                self._failed += 1
                call.finish(None, pickling.outcome_error(error))
            else:
                self._completed += 1
                call.finish(result, None)
        for call, how, packed in failed:
            self._fail_on(node, call, how, packed)
        self._outcomes.send()
        self._end_if_done()

    def _fail_on(self, node, call, how, packed):
        if how == calls.STOPPED:
            self._cancelled += 1
            call.finish(None, CancelledError())
            return
        if how == calls.WORKER_DIED:
            if self._begin_again(call):
                return
            self._died += 1
        elif how == calls.TIMED_OUT:
            self._timed_out += 1
        else:
            self._failed += 1
        error = calls.unpack_error(how, packed, node.address, call.task)
        if isinstance(error, TaskTimeout) and error.deadline is not None:
            error.deadline = call.options[3]  # by our clock
        call.finish(None, error)

    def _bury(self, node, is_short):
        """Forget a node whose comm has ended: its calls have begun, as far as anybody knows.

        is_short: there was no memory here for a message from it, and nobody can tell whose outcome that had.
        """
        del self._nodes[node.address]
        for sight in node.looking:
            sight.receive(node, None)
        for number in list(node.running):
            call = node.take(number)
            if is_short:
                self._failed += 1
                call.finish(None, MemoryError(f"no room for a message from node {node.address}, which had the call"))
            elif not self._begin_again(call):
                self._died += 1
                message = f"node {node.address} is gone, to which the call was sent"
                error = NodeDied(message, node.address, call.task, task_name=calls.name_of(call.task))
                call.finish(None, error)
        self._outcomes.send()
        self._feed()

    def _begin_again(self, call):
        call.begins -= 1
        if call.begins <= 0 or self._failure is not None or call.is_cancelled():
            return False
        self._again += 1
        self._queue_again([call])
        self._wake()
        return True

    def _queue_again(self, calls):
        with self._lock:
            self._queue.extendleft(reversed(calls))
        for call in calls:
            if call.options is not None and call.options[3] is not None:
                self._set_timer(call)

    # --- The loop's thread: the queue ---------------------------------------------------------------------------------

    def _wake(self):
        with self._lock:
            if not self._is_woken:
                self._is_woken = True
                self._loop.call_soon(self._feed)

    def _feed(self):
        """Give nodes what they have room for: the emptiest first, and each its part if there is not enough for all."""
        self._is_woken = False  # before the queue is looked at
        if self._queue and self._failure is None:
            nodes = [node for node in self._nodes.values() if node.room() > 0 and not node.is_closing]
            nodes.sort(key=lambda node: len(node.running) / node.slots)
            slots = sum(node.slots for node in nodes)
            for node in nodes:
                self._give(node, ceil(len(self._queue) * node.slots / slots))
                slots -= node.slots
        elif self._queue:
            self._fail_queued()
        if self._queue and self._is_closing and not self._nodes:
            self._drop_cancelled()
        if not self._queue:
            if self._recaller is None and self._is_uneven():
                self._recaller = self._loop.call_later(_RECALL_SECONDS, self._recall)
            self._end_if_done()

    def _is_uneven(self):
        """Whether calls wait on a node while another has nothing to do."""
        spare = [node.spare() for node in self._nodes.values() if not node.is_closing]
        return bool(spare) and min(spare) < 0 < max(spare)

    def _recall(self):
        self._recaller = None
        if not self._queue and self._is_uneven():
            for node in self._nodes.values():
                if node.spare() < 0:
                    node.recall()

    def _drop_cancelled(self):
        """Forget what was cancelled, as no node comes for it: nobody submits any more, but other calls may wait."""
        for _ in range(len(self._queue)):
            call = self._queue.popleft()
            if not call.is_cancelled() or self._may_run(call):
                self._queue.append(call)

    def _give(self, node, count):
        queue, may_run, give, numbers = self._queue, self._may_run, node.give, self._numbers
        while queue and (room := min(count, node.room())) > 0:
            while queue and room > 0:
                call = queue.popleft()
                if may_run(call):
                    give(next(numbers), call)
                    count -= 1
                    room = room - 1 if node.bytes < _MESSAGE_BYTES else 0
        node.something.set()

    def _may_run(self, call):
        """Have a call of the queue begin, unless it was cancelled."""
        if call.timer is not None:
            call.timer.cancel()
        if call.begin():
            return True
        self._cancelled += 1
        return False

    def _fail(self, call, error):
        self._died += 1
        call.finish(None, error)

    # --- The loop's thread: what ends calls early ---------------------------------------------------------------------

    def _set_timer(self, call):
        if call.place is None:
            call.timer = self._loop.call_at(call.options[3], self._expire, call)

    def _expire(self, call):
        """End a call that was not sent before its deadline; if it was, its node does."""
        with self._lock:  # others append
            if call not in self._queue:
                return
            self._queue.remove(call)
        if call.begin():
            self._timed_out += 1
            _, _, _, deadline, name = call.options
            call.finish(None, make_timeout(call.task, name, None, deadline, None, None, None))
            self._outcomes.send()
        else:
            self._cancelled += 1
        self._end_if_done()

    def _stop(self, call):
        """Have a node stop a call that was cancelled; a queued one is left out when its turn comes."""
        if call.place is not None:
            node, number = call.place
            node.to_stop.append(number)
            node.something.set()
        elif self._is_closing:
            self._feed()


def _maker(error):
    """Return a function that makes exceptions like this one: each future gets its own."""
    kind = BrokenProcessPool if isinstance(error, BrokenProcessPool) else BrokenExecutor
    message = str(error) if isinstance(error, BrokenExecutor) else f"{type(error).__name__}: {error}"

    def make():
        made = kind(message)
        made.__cause__ = error.__cause__ if isinstance(error, BrokenExecutor) else error
        return made

    return make


def _after_shutdown():
    return RuntimeError("cannot schedule new futures after shutdown")


def _in_child():
    return RuntimeError("this executor is the parent's, of which this process was forked: make another one")


def _after_fork_in_child():
    for dispatcher in list(_dispatchers):
        dispatcher.after_fork()


def _at_exit():
    """End all dispatchers, before the interpreter does; finish all calls first, unless after Ctrl-C."""
    interrupted = isinstance(getattr(sys, "last_value", None), KeyboardInterrupt)
    for dispatcher in list(_dispatchers):
        dispatcher.end_streams()
        dispatcher.abort() if interrupted else dispatcher.close(False)
    for dispatcher in list(_dispatchers):
        dispatcher.join()


os.register_at_fork(after_in_child=_after_fork_in_child)
threading._register_atexit(_at_exit)
