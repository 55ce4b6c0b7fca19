"""Tasks that tests can hold: the building blocks of tests that wait for conditions instead of time."""

import asyncio
import contextlib
import queue
import selectors
import socket
import threading
from typing import Any

import jobs
from support import HANG_LIMIT


class Gate:
    """A task that says when it has started and goes on when it is let: `pool.submit(gate)`.

    It returns its arguments, or raises its only argument when that is an exception.  Leaving the `with` block opens it,
    so that a test that fails does not leave a worker behind; name the gate after the pool: `with pool, Gate() as gate`.
    """

    def __init__(self) -> None:
        self.started = threading.Semaphore(0)  # once for each task that has reached the gate
        self._opened = threading.Event()

    def __call__(self, *args: Any) -> Any:
        self.started.release()
        if not self._opened.wait(HANG_LIMIT):
            raise TimeoutError("nobody opened the gate")
        if len(args) == 1 and isinstance(args[0], BaseException):
            raise args[0]
        return args

    def wait_started(self, times: int = 1) -> None:
        """Returns once `times` more tasks have reached the gate."""
        for _ in range(times):
            assert self.started.acquire(timeout=HANG_LIMIT), "the task never started"

    def open(self) -> None:
        self._opened.set()

    def __enter__(self) -> "Gate":
        return self

    def __exit__(self, *exc: object) -> None:
        self.open()


def block_workers(pool: Any, gate: Gate, workers: int = 1) -> list[Any]:
    """Occupies `workers` of the pool's threads or processes until the gate opens; returns these tasks' futures."""
    futures = [pool.submit(gate) for _ in range(workers)]
    gate.wait_started(workers)
    return futures


class ProcessGate:
    """The same for worker processes: `pool.submit(gate)`, with a pickle that any worker can read.

    It stands in the abstract namespace of Unix sockets, so nothing of it is ever left.  A task connects, says which
    process it runs in, and waits for a byte.
    """

    def __init__(self) -> None:
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind("")  # the kernel finds a name; process ids are not unique where there are namespaces
        self._server.listen(1024)
        self._server.settimeout(HANG_LIMIT)
        self._held: list[tuple[int, socket.socket]] = []

    def __reduce__(self) -> Any:
        return jobs.AtGate, (self._server.getsockname(), HANG_LIMIT)

    def wait_started(self, times: int = 1) -> list[int]:
        """Returns once `times` more tasks have reached the gate: the process of each."""
        pids = []
        for _ in range(times):
            connection, _ = self._server.accept()
            with connection.makefile("rb") as file:
                pids.append(int(file.readline()))
            self._held.append((pids[-1], connection))
        return pids

    def open(self) -> None:
        """Lets all tasks go on that wait_started() has counted; other ones have to be waited for, and let go, anew."""
        held, self._held = self._held, []
        for _, connection in held:
            with connection, contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(b"!")

    def is_left(self) -> bool:
        """Whether all tasks that wait_started() has counted have ended at the gate, in whatever way."""
        return all(_is_closed(connection) for _, connection in self._held)

    def __enter__(self) -> "ProcessGate":
        return self

    def __exit__(self, *exc: object) -> None:
        self.open()
        self._server.close()


def _is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


class AsyncGate:
    """Where coroutines of coroutines.py wait: the test learns what they say, and lets them go.

    A thread serves it, so that it is the same on every loop.
    """

    def __init__(self) -> None:
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind("")  # a name in the abstract namespace, which the kernel chooses
        self.server.listen(1024)
        self.address = self.server.getsockname()
        self.said = queue.SimpleQueue()
        self.connections = set()
        self.lock = threading.Lock()
        self.bell, self.rope = socket.socketpair()
        self.thread = threading.Thread(target=self._serve)

    async def __aenter__(self):
        self.thread.start()
        return self

    async def __aexit__(self, *exc_info):
        self.open()
        self.rope.close()
        await asyncio.to_thread(self.thread.join)

    def _serve(self):
        with selectors.DefaultSelector() as selector, self.server, self.bell:
            selector.register(self.server, selectors.EVENT_READ)
            selector.register(self.bell, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self.server:
                        connection, _ = self.server.accept()
                        selector.register(connection, selectors.EVENT_READ)
                        with self.lock:
                            self.connections.add(connection)
                    elif key.fileobj is self.bell:
                        for connection in self.connections:
                            connection.close()
                        return
                    else:
                        self._read(selector, key.fileobj)

    def _read(self, selector, connection):
        try:
            data = connection.recv(4096)
        except ConnectionError:
            data = b""
        for line in data.splitlines():
            word, pid = line.split()
            self.said.put((word.decode(), int(pid)))
        if not data:
            selector.unregister(connection)
            with self.lock:
                self.connections.discard(connection)
            connection.close()

    async def hear(self, word):
        """Return the process that says a word next; it must be this one."""
        said, pid = await asyncio.to_thread(self.said.get, True, HANG_LIMIT)
        assert said == word
        return pid

    def open(self):
        with self.lock:
            for connection in self.connections:
                with contextlib.suppress(OSError):
                    connection.sendall(b"!")
