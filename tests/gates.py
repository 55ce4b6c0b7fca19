"""Tasks that tests can hold: the building blocks of tests that wait for conditions instead of time."""

import contextlib
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
