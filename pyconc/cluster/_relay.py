"""A comm to a node that the program cannot connect to: each message goes by way of the scheduler, which both can reach.

Such a node is behind a gateway, say. Dask's scheduler passes on a question to a worker, and its answer back, which is
how client.run() does it; that takes none of the node's threads, as a task would. So there are two ends with the methods
of one of distributed's comms that a session needs, and _dispatcher.py and _node.py use them as they use others:

    Relay       the program's end. A message to the node is a question, which is answered as soon as it is there.
                Whoever reads asks for what there is, and the node answers when there is something.
    Mailbox     the node's end. A message from the node waits here until it is asked for, and whoever writes it waits
                as long: what ends meanwhile goes with the next message.

The node cannot see that a program has gone. It answers each question for messages after a while, with none if there are
none, and when no question has come for a longer while, the mailbox ends, and the session with it.
"""

import asyncio
import contextlib
import uuid
from collections import deque

from distributed.comm import CommClosedError

__all__ = ["RELAY", "Mailboxes", "Relay", "Relays"]

RELAY = "pyconc-relay"

# After so many seconds the node answers that there is nothing.
_LONGEST_READ = 10.0
# When nobody has asked for so many seconds, nobody will.
_LEASE = 30.0
# How long the program waits at its end, in seconds, until nodes know that it gives up their sessions.
_PATIENCE = 2.0


# --- The program's end ------------------------------------------------------------------------------------------------


class Relays:
    """The relays of a client of dask's. All of it is used by the thread of its event loop only."""

    def __init__(self, client):
        self._client = client
        self._farewells = set()  # tasks

    def open(self, address):
        """Return a Relay to the node with this address, which learns of it by the first message."""
        return Relay(self._client, address, self._farewells)

    async def wait_closed(self):
        """Wait until the nodes know which relays were aborted, if that does not take long."""
        if self._farewells:
            await asyncio.wait(self._farewells, timeout=_PATIENCE)


class Relay:
    """One task writes and one reads; whatever fails ends it, and both get CommClosedError."""

    def __init__(self, client, address, farewells):
        self._client = client
        self._address = address
        self._farewells = farewells
        self._name = uuid.uuid4().hex
        self._is_open = False  # the node may know of it
        self._received = deque()
        self._ended = asyncio.get_running_loop().create_future()

    async def write(self, message):
        what, self._is_open = "write" if self._is_open else "open", True
        await self._ask(what, message)

    async def read(self):
        while not self._received:
            self._received.extend(await self._ask("read"))
        return self._received.popleft()

    def abort(self):
        if not self._ended.done():
            self._ended.set_result(None)
            if self._is_open:
                farewell = asyncio.ensure_future(self._say_farewell())
                self._farewells.add(farewell)
                farewell.add_done_callback(self._farewells.discard)

    async def _ask(self, what, message=None):
        answer, failure = None, None
        if not self._ended.done():
            asking = asyncio.ensure_future(self._send(what, message))
            try:
                await asyncio.wait([asking, self._ended], return_when=asyncio.FIRST_COMPLETED)
            finally:
                asking.cancel()  # if it is not done
            if asking.done():
                try:
                    answer = asking.result()
                except (Exception, asyncio.CancelledError) as error:  # of any class: it was the scheduler's
                    failure = error
        if answer is None:
            if failure is None:
                self._is_open = False  # the node has ended it
            self.abort()
            raise CommClosedError(f"the way to node {self._address} through the scheduler has ended") from failure
        return answer

    async def _say_farewell(self):
        with contextlib.suppress(Exception):  # the node or the scheduler has gone
            await self._send("abort", None)

    async def _send(self, what, message):
        question = {"op": RELAY, "relay": self._name, "what": what, "message": message}
        # Not proxy(): if the node is gone, that is an error of the scheduler's, and one that nobody retrieves if the
        # program has gone on meanwhile.
        answers = await self._client.scheduler.broadcast(msg=question, workers=[self._address], on_error="ignore")
        if self._address not in answers:
            raise CommClosedError("the scheduler cannot reach it")
        return answers[self._address]


# --- The node's end ---------------------------------------------------------------------------------------------------


class Mailboxes:
    """A node's mailboxes by the name of their relay. All runs in the event loop of the node.

    serve: a coroutine function that serves a comm, and has the first message as its other arguments.
    """

    def __init__(self, worker, serve):
        self._worker = worker
        self._serve_comm = serve
        self._boxes = {}
        self._tasks = set()  # that serve them

    async def answer(self, relay, what, message=None):
        """Answer a question of a Relay's. None: there is no such mailbox, or no more."""
        if what == "open":
            self._boxes[relay] = Mailbox(self._worker.address)
            task = asyncio.ensure_future(self._serve(relay, message))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return True
        box = self._boxes.get(relay)
        if box is None:
            return None
        if what == "read":
            return await box.take()
        if what == "write":
            box.put(message)
        else:
            box.end()
        return True

    async def _serve(self, relay, message):
        box = self._boxes[relay]
        try:
            del message["op"], message["reply"]
            await self._serve_comm(box, **message)
        finally:
            box.end()
            del self._boxes[relay]

    def end(self):
        """End all sessions, as the node closes."""
        for box in self._boxes.values():
            box.end()


class Mailbox:
    """One task reads, one writes, and one takes what was written."""

    def __init__(self, address):
        self.local_address = address
        self._inbox = deque()
        self._outbox = []
        self._is_over = False
        self._has_come = asyncio.Event()  # something is in the inbox, or it is over
        self._is_written = asyncio.Event()  # something is in the outbox, or it is over
        self._is_taken = asyncio.Event()  # nothing is in the outbox, or it is over
        self._lease = asyncio.get_running_loop().call_later(_LEASE, self.end)

    # As a comm's:

    async def read(self):
        await self._has_come.wait()
        if self._is_over:
            raise CommClosedError("the program has ended, or does not ask any more")
        message = self._inbox.popleft()
        if not self._inbox:
            self._has_come.clear()
        return message

    async def write(self, message):
        self._outbox.append(message)
        self._is_written.set()
        self._is_taken.clear()
        if not self._is_over:
            await self._is_taken.wait()
        if self._is_over:
            raise CommClosedError("the program has ended, or does not ask any more")

    async def close(self):
        self.end()

    def abort(self):
        self.end()

    # For the program:

    def put(self, message):
        self._inbox.append(message)
        self._has_come.set()

    async def take(self):
        """Return the messages that were written, once there are any or it takes long; None: it is over."""
        self._lease.cancel()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._is_written.wait(), _LONGEST_READ)
        if self._is_over:
            return None
        self._lease = asyncio.get_running_loop().call_later(_LEASE, self.end)
        messages, self._outbox = self._outbox, []
        self._is_written.clear()
        self._is_taken.set()
        return messages

    def end(self):
        self._lease.cancel()
        self._is_over = True
        for event in (self._has_come, self._is_written, self._is_taken):
            event.set()
