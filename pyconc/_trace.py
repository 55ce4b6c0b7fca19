"""pyconc.trace: a timeline of what executors do, in a file."""

import atexit
import gzip
import os
import signal
from types import TracebackType
from typing import BinaryIO

from pyconc import _core, _timeline

__all__ = ["end_by_signals", "trace"]

# Compressed so, a trace is a fifteenth of its size; the best compression takes six times as long for an eighth less.
_COMPRESSION = 4

# Of the trace that is being made; for the child of a fork.
_running: "list[trace]" = []


class trace:
    """Write down what all executors of this process do, from start() to stop(): a timeline to look at in Perfetto.

    path: the file, which is written by stop(): Chrome's trace events in JSON, for https://ui.perfetto.dev or
    chrome://tracing; compressed if its name ends with ".gz". max_events: how many it keeps at most. A call is three of
    them, and takes 48 bytes of memory until it is written; so is, and does, whatever else is shown. Once they are used
    up the file says how many calls are missing from then on; of those that are there nothing is.

    There is a lane for each thread that has submitted, run or received something, loops' threads among them, and one or
    more for each worker process. A call is named as options(name=) says, or as its function, and tells its pool, how
    long it waited, and how it ended: returned, failed, cancelled, timed out, died with its worker, abandoned in its
    thread, or not ended. An arrow leads to it from where it was submitted. What never ran is a mark where that was
    decided, and so are the beginning and the end of a worker process, and the moment when map() takes calls from one
    that is busy for one that is not. Each pool has a counter of its calls that wait. Calls that were submitted before
    start() are not shown.

    A trace can be left to the end of the program, which writes it. One that a signal ends, or that leaves by
    os._exit(), leaves an empty file, but `python -m pyconc run --trace` writes it on SIGTERM and SIGHUP, too, unless
    the program handles them. The child of a fork goes on without. Any thread may call start() and stop(). While it
    runs, a call takes some 30 nanoseconds longer, which is a fifth of what an empty one takes in a thread (on x86-64;
    where the kernel does not trust the processor's counter, three times that); otherwise it costs nothing.

    Raises TypeError for what is no path, ValueError for max_events below 1.

        >>> with pyconc.trace("trace.json.gz"), pyconc.ThreadPoolExecutor() as pool:
        ...     pool.submit(int, "ff", base=16).result()
        255
    """

    __module__ = __package__

    def __init__(self, path: "str | os.PathLike[str]" = "trace.json.gz", *, max_events: int = 1_000_000) -> None:
        # Where it is now, whatever becomes of the current folder.
        self._path = os.path.abspath(os.fspath(path))
        if max_events < 1:
            raise ValueError(f"max_events must be 1 or more, not {max_events}")
        self._max_events = max_events
        self._files: list[BinaryIO] = []  # of one that runs: its file

    def start(self) -> None:
        """Begin to write down what executors do; the file is empty until stop().

        Raises RuntimeError while any trace is being made, OSError if the file cannot be written, MemoryError.

            >>> trace = pyconc.trace("trace.json")
            >>> trace.start()
            >>> trace.stop()
        """
        _core.trace_start(self._max_events)
        try:
            file = open(self._path, "wb")  # noqa: SIM115 - stop() closes it
        except BaseException:
            _core.trace_stop()
            raise
        self._files.append(file)
        _running.append(self)
        atexit.register(self.stop)

    def stop(self) -> None:
        """End, and write the file, while other threads go on; nothing happens if that is done.

        It takes some seconds for a million events. Raises OSError if the file cannot be written.

            >>> trace = pyconc.trace("trace.json")
            >>> trace.start()
            >>> trace.stop()
        """
        try:
            file = self._files.pop()
        except IndexError:
            return  # another thread has, or the child of a fork
        _running.remove(self)
        atexit.unregister(self.stop)
        with file:
            taken = _core.trace_stop()
            if taken is None:
                return  # the child of a fork that Python does not know of
            is_compressed = self._path.endswith(".gz")
            with gzip.GzipFile("", "wb", _COMPRESSION, file) if is_compressed else file as out:
                for piece in _timeline.describe(taken, producer="pyconc"):
                    out.write(piece)

    def __enter__(self) -> "trace":
        self.start()
        return self

    def __exit__(
        self, kind: "type[BaseException] | None", error: "BaseException | None", traceback: "TracebackType | None"
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<pyconc.trace {self._path!r}{' running' if self._files else ''}>"

    def _forget(self) -> None:
        """In the child of a fork: the file is the parent's."""
        atexit.unregister(self.stop)
        while self._files:
            self._files.pop().close()


def end_by_signals(trace: trace) -> None:
    """Have the signals that end a program stop a trace first, where the program leaves them as they are."""

    def end(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        try:
            trace.stop()
        finally:
            os.kill(os.getpid(), number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, end)


def _after_fork_in_child() -> None:
    while _running:
        _running.pop()._forget()


os.register_at_fork(after_in_child=_after_fork_in_child)
