"""aiomultiprocess' Process and Worker: one coroutine in a process of its own."""

import asyncio
import inspect
import logging
import multiprocessing
import os
import pickle
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from types import SimpleNamespace
from typing import Any

from pyconc import _core
from pyconc._process import loop_worker, pickling
from pyconc._process.pickling import TaskUnpicklable, WorkerDied
from pyconc.aiomultiprocess.types import Unit

__all__ = ["Process", "Worker", "get_context", "not_implemented", "set_context", "set_start_method"]

log = logging.getLogger(__name__)


def is_coroutine_function(function: Any) -> bool:
    """Tell whether a call gives a coroutine, also through functools.partial or a function that is marked so."""
    if sys.version_info >= (3, 14):
        return inspect.iscoroutinefunction(function)
    return asyncio.iscoroutinefunction(function)  # which also knows the marks from before inspect had its own


# ---- start methods ----

DEFAULT_START_METHOD = "spawn"

context: BaseContext = multiprocessing.get_context(DEFAULT_START_METHOD)
_is_context_set = False


def set_start_method(method: str | None = DEFAULT_START_METHOD) -> None:
    """Choose how processes and pools that are made from now on start their children.

    method: "spawn", "fork" or "forkserver"; None: the platform's default. Raises ValueError for another.

        >>> pyconc.aiomultiprocess.set_start_method("forkserver")
    """
    global context, _is_context_set
    context = multiprocessing.get_context(method)
    _is_context_set = True


def set_context(method: str | None = None) -> None:
    """Do as set_start_method() does, by its old name and with another default.

    method: "spawn", "fork" or "forkserver"; None: the platform's default. Raises ValueError for another.

        >>> pyconc.aiomultiprocess.set_context("spawn")
    """
    set_start_method(method)


def get_context() -> BaseContext:
    """Return multiprocessing's context for the processes that are made now."""
    return context


def is_context_set() -> bool:
    """Tell whether the program has chosen the start method itself."""
    return _is_context_set


# ---- processes ----


async def not_implemented(*args: Any, **kwargs: Any) -> None:
    """Stand for the target of a process that was given none."""
    raise NotImplementedError()


class Process:
    """A coroutine in a process of its own: start() and `await join()`, or just `await` it.

    target, args, kwargs: the child runs the coroutine target(*args, **kwargs). group, name, daemon: as for
    multiprocessing.Process. initializer, initargs: before that, the child calls initializer(*initargs), with the loop
    set as the current one. loop_initializer: makes the loop; default: asyncio.new_event_loop. process_target: the child
    calls this, with the unit, instead of all that.

    Several tasks may await join(), on several loops. An exception ends the child with exit code 1, its traceback on
    stderr. Raises ValueError if target is no coroutine function, or an initializer is one.

        >>> import asyncio
        >>> async def main():
        ...     process = pyconc.aiomultiprocess.Process(target=asyncio.sleep, args=(0,))
        ...     await process
        ...     return process.exitcode
        >>> asyncio.run(main())
        0
    """

    def __init__(
        self,
        group: None = None,
        target: Callable[..., Any] | None = None,
        name: str | None = None,
        args: Sequence[Any] | None = None,
        kwargs: dict[str, Any] | None = None,
        *,
        daemon: bool | None = None,
        initializer: Callable[..., Any] | None = None,
        initargs: Sequence[Any] = (),
        loop_initializer: Callable[..., Any] | None = None,
        process_target: Callable[[Unit], Any] | None = None,
    ) -> None:
        if target is not None and not is_coroutine_function(target):
            raise ValueError("target must be coroutine function")
        for role, function in (("initializer", initializer), ("loop_initializer", loop_initializer)):
            if function is not None and is_coroutine_function(function):
                raise ValueError(f"{role} must be synchronous function")
        self.unit = Unit(
            target=target or not_implemented,
            args=args or (),
            kwargs=kwargs or {},
            namespace=SimpleNamespace(),
            initializer=initializer,
            initargs=initargs,
            loop_initializer=loop_initializer,
        )
        self.aio_process: Any = context.Process(  # type: ignore[attr-defined]
            group=group,
            target=process_target or Process.run_async,
            name=name,
            args=(self.unit,),
            daemon=daemon,
        )

    def __await__(self) -> Generator[Any, None, Any]:
        """Start the process unless it was started, and wait for its end."""
        if not self._is_started():
            self.start()
        return self.join().__await__()

    @staticmethod
    def run_async(unit: Unit) -> Any:
        """Run the coroutine; in the child process."""
        try:
            loop = (unit.loop_initializer or asyncio.new_event_loop)()
            try:
                asyncio.set_event_loop(loop)
                if unit.initializer is not None:
                    unit.initializer(*unit.initargs)
                return loop.run_until_complete(unit.target(*unit.args, **unit.kwargs))
            finally:
                loop_worker.close_loop(loop)  # type: ignore[no-untyped-call]
        except BaseException:
            log.exception("aio process %d failed", os.getpid())
            raise

    def start(self) -> None:
        """Start the child process."""
        self.aio_process.start()

    async def join(self, timeout: float | None = None) -> Any:
        """Wait for the end of the process, as any number of tasks may; raise TimeoutError after `timeout` seconds."""
        if not self._is_started():
            raise ValueError("must start process before joining it")
        if self.exitcode is None:
            await asyncio.wait_for(self._wait_ended(), timeout)
        self.aio_process.join()  # It has ended: multiprocessing forgets it.

    def _is_started(self) -> bool:
        return self.is_alive() or self.exitcode is not None

    async def _wait_ended(self) -> None:
        # Each waiter watches a descriptor of its own, so that it can stop watching alone, on any loop.
        await _wait_readable(os.dup(self.aio_process.sentinel))
        if self.exitcode is None:
            # The child's files are closed. Mostly it ends now, but it may have closed them itself.
            try:
                pidfd = _core.open_pidfd(self.aio_process.pid)
            except ProcessLookupError:
                pass  # It is gone.
            except OSError:  # a sandbox refuses it
                await asyncio.to_thread(self.aio_process.join)
            else:
                await _wait_readable(pidfd)

    @property
    def name(self) -> str:
        """The process's name, for people to read."""
        return self.aio_process.name  # type: ignore[no-any-return]

    def is_alive(self) -> bool:
        """Tell whether the process has been started and has not ended."""
        return self.aio_process.is_alive()  # type: ignore[no-any-return]

    @property
    def daemon(self) -> bool:
        """Whether this program's exit terminates the process instead of waiting for it; set it before start()."""
        return self.aio_process.daemon  # type: ignore[no-any-return]

    @daemon.setter
    def daemon(self, value: bool) -> None:
        self.aio_process.daemon = value

    @property
    def pid(self) -> int | None:
        """The process's number; None before start()."""
        return self.aio_process.pid  # type: ignore[no-any-return]

    @property
    def exitcode(self) -> int | None:
        """As multiprocessing's: None while it runs, negative is the number of the signal that ended it."""
        return self.aio_process.exitcode  # type: ignore[no-any-return]

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.aio_process.terminate()

    def kill(self) -> None:
        """Send SIGKILL."""
        self.aio_process.kill()

    def close(self) -> None:
        """Release the resources of a process that has ended; raise ValueError while it runs."""
        self.aio_process.close()


class Worker(Process):
    """A Process whose coroutine's result `await` and join() return, and `result` holds from then on.

    args, kwargs: as for Process, except process_target. If the coroutine or an initializer raises an exception, that is
    the result, with its traceback in the child as the cause. The result is a pyconc.TaskUnpicklable if it cannot be
    pickled, and a pyconc.WorkerDied if the child ends without one. Raises ValueError as Process does.

        >>> import asyncio
        >>> async def main():
        ...     return await pyconc.aiomultiprocess.Worker(target=asyncio.sleep, args=(0, "slept"))
        >>> asyncio.run(main())
        'slept'
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, process_target=Worker.run_async, **kwargs)
        self._lock = threading.Lock()
        self._is_read = False
        self._result: Any = None

    @staticmethod
    def run_async(unit: Unit) -> Any:
        """Run the coroutine and send its result; in the child process."""
        connection = unit.namespace.connection
        try:
            result = Process.run_async(unit)
            kind, blob = _pack(result)
        except BaseException as error:
            trace = error.__traceback__
            packed = pickling.pack_exception(error)  # type: ignore[no-untyped-call]
            connection.send_bytes(_ERROR)
            connection.send_bytes(pickle.dumps(packed, pickling.PROTOCOL))
            pickling.set_traceback(error, trace)  # pack_exception() has removed it.
            raise
        connection.send_bytes(kind)
        connection.send_bytes(blob)
        return result

    def start(self) -> None:
        """Start the child process."""
        if self._is_started():
            return super().start()  # raises
        # A file, not a pipe: with a large result, too, the child ends without waiting for a reader.
        self.unit.namespace.connection = Connection(_open_file())
        try:
            super().start()
        except BaseException:
            self._close_connection()
            raise

    async def join(self, timeout: float | None = None) -> Any:
        """Wait for the end of the process, and return the result; raise TimeoutError after `timeout` seconds."""
        await super().join(timeout)
        return self._read()

    @property
    def result(self) -> Any:
        """The result of a process that has ended; before its end, ValueError."""
        if self.exitcode is None and not self._is_read:
            raise ValueError("coroutine not completed")
        return self._read()

    def close(self) -> None:
        """Release the resources of a process that has ended; raise ValueError while it runs."""
        super().close()
        self._close_connection()

    def _read(self) -> Any:
        with self._lock:
            if not self._is_read:
                self._result = self._receive()
                self._is_read = True
                self._close_connection()
            return self._result

    def _receive(self) -> Any:
        connection = self.unit.namespace.connection
        os.lseek(connection.fileno(), 0, os.SEEK_SET)
        try:
            kind, blob = connection.recv_bytes(), connection.recv_bytes()
        except (EOFError, OSError):  # The child has sent nothing, or a part of a message.
            return self._death()
        try:
            value = pickle.loads(blob)
            if kind == _ERROR:
                return pickling.rebuild_exception(value)  # type: ignore[no-untyped-call]
            return pickle.loads(value[0], buffers=value[1]) if kind == _WITH_BUFFERS else value
        except Exception as error:
            return pickling.outcome_error(error)  # type: ignore[no-untyped-call]

    def _death(self) -> WorkerDied:
        how, name = pickling.describe_end(self.exitcode)  # type: ignore[no-untyped-call]
        task = self.unit.target
        message = f"worker process {self.pid} {how} before {getattr(task, '__qualname__', task)} had a result"
        return WorkerDied(message, self.pid, self.exitcode, name, task)  # type: ignore[no-untyped-call]

    def _close_connection(self) -> None:
        connection = getattr(self.unit.namespace, "connection", None)
        if connection is not None:
            connection.close()


async def _wait_readable(fd: int) -> None:
    """Wait until a file can be read, and close it in any case."""
    try:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        loop.add_reader(fd, _wake, future)
        try:
            await future
        finally:
            if not loop.is_closed():
                loop.remove_reader(fd)
    finally:
        os.close(fd)


def _open_file() -> int:
    """Open a file without a name; in memory, if the system and this build of Python offer that."""
    try:
        return os.memfd_create("pyconc-result")
    except (AttributeError, OSError):
        with tempfile.TemporaryFile(buffering=0) as file:
            return os.dup(file.fileno())


def _wake(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


# ---- in the child ----

# The kinds of blobs.
_RESULT = b"result"
_WITH_BUFFERS = b"pickle and buffers of a result"
_ERROR = b"packed exception"


def _pack(result: Any) -> tuple[bytes, bytes]:
    """Return (kind, blob) for _receive()."""
    try:
        return _RESULT, pickle.dumps(result, pickling.PROTOCOL)
    except BaseException as first:
        try:
            packed = pickling.dumps(result, first)  # type: ignore[no-untyped-call]
            return _WITH_BUFFERS, pickle.dumps(packed, pickling.PROTOCOL)
        except BaseException as error:
            raise TaskUnpicklable(f"the result could not be pickled: {type(error).__name__}: {error}") from error
