"""What the tests of process executors run in workers, where nothing but this module is imported for it.

It imports next to nothing: workers may be fresh interpreters, which pay for it each time.
"""

import contextlib
import multiprocessing
import os
import select
import tempfile
import threading
import time
from typing import Any

HANG_LIMIT_MS = 120_000
LATECOMERS = 1000  # how many tasks may pass a gate that is open


class Gate:
    """A task that says when it has started and goes on when it is let, in whatever process it runs.

    It returns its arguments, or raises its only argument when that is an exception.  Tasks write into one FIFO of a
    folder when they start, and read from another to go on: its name is all that travels.  Leaving the `with` block
    opens the gate, so that a test that fails does not leave a worker behind; `with pool, Gate() as gate`.
    """

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="pyconc-gate-")
        self._fds = []
        for name in ("started", "opened"):
            path = os.path.join(self.folder, name)
            os.mkfifo(path)
            self._fds.append(os.open(path, os.O_RDWR | os.O_NONBLOCK))

    def __reduce__(self) -> Any:
        return _Visitor, (self.folder,)

    def __call__(self, *args: Any) -> Any:
        return _Visitor(self.folder)(*args)  # in a forked process, which has got this one

    def has_started(self, timeout_ms: int = 0) -> bool:
        """Whether one more task has reached the gate; each is counted once."""
        (started, _) = self._fds
        poll = select.poll()
        poll.register(started, select.POLLIN)
        if poll.poll(timeout_ms):
            with contextlib.suppress(BlockingIOError):
                return os.read(started, 1) != b""
        return False

    def wait_started(self, times: int = 1) -> None:
        """Returns once `times` more tasks have reached the gate."""
        for _ in range(times):
            assert self.has_started(HANG_LIMIT_MS), "the task never started"

    def let(self, tasks: int = 1) -> None:
        """Lets so many tasks go on."""
        os.write(self._fds[1], b"." * tasks)

    def open(self) -> None:
        self.let(LATECOMERS)

    def __enter__(self) -> "Gate":
        return self

    def __exit__(self, *exc: object) -> None:
        self.open()
        for name in ("started", "opened"):
            os.unlink(os.path.join(self.folder, name))
        os.rmdir(self.folder)
        for fd in self._fds:
            os.close(fd)


class _Visitor:
    """A gate as its tasks have it."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __call__(self, *args: Any) -> Any:
        with contextlib.suppress(OSError):  # nobody stands at the gate any more: it is open for good
            self._say_started()
            self._wait_opened()
        if len(args) == 1 and isinstance(args[0], BaseException):
            raise args[0]
        return args

    def _say_started(self) -> None:
        fd = os.open(os.path.join(self.folder, "started"), os.O_WRONLY | os.O_NONBLOCK)
        os.write(fd, b".")
        os.close(fd)

    def _wait_opened(self) -> None:
        # Not blocking, since one that opens the gate and is gone leaves nobody to wait for.
        fd = os.open(os.path.join(self.folder, "opened"), os.O_RDONLY | os.O_NONBLOCK)
        try:
            while True:
                select.select([fd], [], [])
                with contextlib.suppress(BlockingIOError):  # another task was quicker
                    os.read(fd, 1)
                    return
        finally:
            os.close(fd)


class Notes:
    """A list that tasks append to, from whatever process: a file that they add lines to."""

    def __init__(self, path: Any) -> None:
        self.path = os.fspath(path)

    def append(self, value: object) -> None:
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(fd, f"{value}\n".encode())
        os.close(fd)

    def read(self) -> list[int]:
        with contextlib.suppress(FileNotFoundError), open(self.path) as file:
            return [int(line) for line in file]
        return []


def block_workers(pool: Any, gate: Gate, workers: int = 1) -> list[Any]:
    """Occupies `workers` of the pool's processes until the gate opens; returns the futures of these tasks."""
    futures = [pool.submit(gate) for _ in range(workers)]
    gate.wait_started(workers)
    return futures


# --- Tasks ------------------------------------------------------------------------------------------------------------


def capture(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


def identify() -> int:
    return os.getpid()


def parent_and_daemon() -> tuple[int | None, bool]:
    parent = multiprocessing.parent_process()
    return parent and parent.pid, multiprocessing.current_process().daemon


def fail(error: BaseException) -> None:
    _raise(error)


def _raise(error: BaseException) -> None:
    raise error


def fail_because() -> None:
    """Fails with an exception that has another as its cause, and a third as its context."""
    try:
        raise KeyError("the first")
    except KeyError as error:
        raise ValueError("the second") from error


def end_process_after(gate: Any, code: int) -> None:
    gate()
    os._exit(code)


def make_unpicklable() -> Any:
    return threading.Lock()


def make_unpicklable_of(_: object) -> Any:
    return make_unpicklable()


def fail_unpicklable() -> None:
    raise ValueError(threading.Lock())


class Thing:
    """What a test can hold weakly, and what compares by value."""

    def __init__(self, number: int = 0) -> None:
        self.number = number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Thing) and other.number == self.number

    def __hash__(self) -> int:
        return hash(self.number)

    def __call__(self, more: int = 0) -> int:
        return self.number + more

    def method(self) -> int:
        return self.number


def refuse() -> Any:
    raise LookupError("refused")


class Unloadable:
    """Can be pickled, and raises when it is unpickled."""

    def __reduce__(self) -> Any:
        return refuse, ()


class UnloadableError(Exception):
    """Cannot be rebuilt, because it does not take what Exception's pickling passes on."""

    def __init__(self, one: int, other: int) -> None:
        super().__init__(f"{one} and {other}")


def fail_unloadable() -> None:
    raise UnloadableError(1, 2)


def return_unloadable() -> Unloadable:
    return Unloadable()


_initialized: list[Any] = []


def initialize(*args: Any) -> None:
    _initialized.append(args)


def initialized() -> list[Any]:
    return _initialized


def wait_and_tell(gate: Any, value: Any) -> Any:
    """Stops at the gate if there is one; then returns the value, or raises it if it is an exception."""
    if gate is not None:
        gate()
    if isinstance(value, BaseException):
        raise value
    return value


def note_or_wait(notes: Notes, gate: Any, number: int, at: int) -> int:
    """Stops at the gate if it is the number's turn to; else notes the number."""
    if number == at:
        gate()
    else:
        notes.append(number)
    return number


def fail_wait_or_note(notes: Notes, gate: Any, number: int) -> None:
    if number == 0:
        raise LookupError
    if number == 1:
        gate()
    notes.append(number)


def work(milliseconds: int) -> int:
    """Takes some time, as real calls do."""
    end = time.monotonic() + milliseconds / 1000
    while time.monotonic() < end:
        pass
    return milliseconds
