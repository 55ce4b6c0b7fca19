"""What tracers and tests patch on the standard classes is called, and whatever they call in turn does its work."""

import asyncio
import concurrent.futures
import contextlib
import ctypes
import functools
import gc
import threading
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
from gates import Gate, block_workers
from libraries import FORKS, STANDARD, Library
from support import wait_until

Threads = STANDARD.ThreadPoolExecutor
Future = STANDARD.Future


class Traced:
    """Replaces a method as tracers do, by a function that counts and calls the original one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cls: Any, name: str) -> None:
        self.calls: list[tuple[Any, ...]] = []
        original = getattr(cls, name)

        @functools.wraps(original)
        def traced(self_: Any, *args: Any, **kwargs: Any) -> Any:
            self.calls.append(args)
            return original(self_, *args, **kwargs)

        monkeypatch.setattr(cls, name, traced)


class Wrapper:
    """Replaces a method as wrapt does, by a descriptor of its own."""

    def __init__(self, original: Any) -> None:
        self.original = original
        self.calls = 0

    def __get__(self, instance: Any, owner: Any) -> Any:
        if instance is None:
            return self

        def bound(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            return self.original.__get__(instance, owner)(*args, **kwargs)

        return bound


# --- Executors --------------------------------------------------------------------------------------------------------


def test_a_traced_submit(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    with library.ThreadPoolExecutor(2) as pool:
        assert pool.submit(pow, 2, 3).result() == 8
        with monkeypatch.context() as patch:
            traced = Traced(patch, Threads, "submit")
            assert pool.submit(pow, 2, 4).result() == 16
            assert isinstance(pool.submit(int, "x").exception(), ValueError)
            assert pool.submit(pow, 2, exp=5).result() == 32
            assert list(pool.map(pow, [2, 2], [6, 7])) == [64, 128]
        assert pool.submit(pow, 2, 8).result() == 256
    assert traced.calls == [(pow, 2, 4), (int, "x"), (pow, 2), (pow, 2, 6), (pow, 2, 7)]


def test_a_traced_submit_by_run_in_executor(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(pool, pow, 2, 3) == 8
        with pytest.raises(ValueError, match="invalid literal"):
            await loop.run_in_executor(pool, int, "x")

    with library.ThreadPoolExecutor(1) as pool:
        asyncio.run(main())
        traced = Traced(monkeypatch, Threads, "submit")
        asyncio.run(main())
    assert traced.calls == [(pow, 2, 3), (int, "x")]


def test_a_submit_wrapped_by_a_descriptor(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    wrapper = Wrapper(Threads.submit)
    with library.ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(Threads, "submit", wrapper)
        assert pool.submit(pow, 2, 3).result() == 8
    assert wrapper.calls == 1


def test_a_submit_that_is_a_mock(library: Library) -> None:
    with library.ThreadPoolExecutor(1) as pool:
        with mock.patch("concurrent.futures.thread.ThreadPoolExecutor.submit") as submit:
            assert pool.submit(pow, 2, 3) is submit.return_value
            assert pool.submit(pow, 2, exp=3) is submit.return_value
        submit.assert_called_with(pow, 2, exp=3)
        with mock.patch.object(Threads, "submit", autospec=True) as submit:
            assert pool.submit(pow, 2, 3) is submit.return_value
        submit.assert_called_once_with(pool, pow, 2, 3)
        assert pool.submit(pow, 2, 3).result() == 8


def test_a_patched_submit_refuses_what_the_original_refuses(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    Traced(monkeypatch, Threads, "submit")
    pool = library.ThreadPoolExecutor(1)
    with pool:
        pass
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(int)


def test_a_subclass_that_calls_super(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine(library.ThreadPoolExecutor):  # type: ignore[misc, name-defined]
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            seen.append(args)
            return super().submit(fn, *args, **kwargs)

    seen: list[Any] = []
    traced = Traced(monkeypatch, Threads, "submit")
    with Mine(1) as pool:
        assert pool.submit(pow, 2, 3).result() == 8
    assert seen == [(2, 3)]
    assert traced.calls == [(pow, 2, 3)]


@pytest.mark.parametrize("name", ["map", "shutdown"])
def test_other_traced_methods_of_threads(library: Library, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    traced = Traced(monkeypatch, Threads, name)
    with Gate() as gate:
        pool = library.ThreadPoolExecutor(1)
        (running,) = block_workers(pool, gate)
        queued = pool.submit(int)
        results = pool.map(abs, [-1, -2])
        assert queued.cancel()
        pool.shutdown(wait=False)
        gate.open()
        assert list(results) == [1, 2]
        pool.shutdown(wait=True)
        assert running.done()
        assert not any(worker.is_alive() for worker in pool._threads)
    assert len(traced.calls) == (1 if name == "map" else 2)


def test_a_traced_shutdown_cancels(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    traced = Traced(monkeypatch, Threads, "shutdown")
    pool = library.ThreadPoolExecutor(1)
    with Gate() as gate:
        (running,) = block_workers(pool, gate)
        queued = [pool.submit(int) for _ in range(3)]
        pool.shutdown(wait=False, cancel_futures=True)
        assert all(future.cancelled() for future in queued)
        gate.open()
        assert running.result() == ()
    pool.shutdown()
    assert len(traced.calls) == 2
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(int)


def test_a_traced_init(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    traced = Traced(monkeypatch, Threads, "__init__")
    with library.ThreadPoolExecutor(3) as pool:
        assert pool.submit(int).result() == 0
    assert len(traced.calls) == 1


@FORKS
def test_a_traced_submit_of_processes(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    traced = Traced(monkeypatch, STANDARD.ProcessPoolExecutor, "submit")
    with library.process_pool(1) as pool:
        assert pool.submit(pow, 2, 3).result() == 8
        assert isinstance(pool.submit(int, "x").exception(), ValueError)
    assert traced.calls == [(pow, 2, 3), (int, "x")]


@FORKS
def test_a_submit_of_processes_that_is_a_mock(library: Library) -> None:
    with library.process_pool(1) as pool:
        with mock.patch("concurrent.futures.process.ProcessPoolExecutor.submit") as submit:
            assert pool.submit(pow, 2, 3) is submit.return_value
        submit.assert_called_once_with(pow, 2, 3)
        assert pool.submit(pow, 2, 3).result() == 8


# --- Futures ----------------------------------------------------------------------------------------------------------


def test_a_result_that_is_a_mock(library: Library) -> None:
    with library.ThreadPoolExecutor(1) as pool:
        future = pool.submit(pow, 2, 3)
        with mock.patch("concurrent.futures.Future.result", side_effect=concurrent.futures.TimeoutError):
            with pytest.raises(concurrent.futures.TimeoutError):
                future.result(timeout=5)
        assert future.result() == 8
        with mock.patch.object(Future, "result", autospec=True, return_value=42) as result:
            assert future.result(timeout=5) == 42
        result.assert_called_once_with(future, timeout=5)
        assert future.result() == 8


METHODS = {
    "result": lambda future: future.result(5),
    "exception": lambda future: future.exception(timeout=5),
    "cancel": lambda future: future.cancel(),
    "cancelled": lambda future: future.cancelled(),
    "running": lambda future: future.running(),
    "done": lambda future: future.done(),
    "add_done_callback": lambda future: future.add_done_callback(bool),
}


@pytest.mark.parametrize("name", METHODS)
def test_traced_methods_of_futures(library: Library, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with library.ThreadPoolExecutor(1) as pool:
        future = pool.submit(pow, 2, 3)
        future.result()
        expected = METHODS[name](future)
        traced = Traced(monkeypatch, Future, name)
        assert METHODS[name](future) == expected
    assert len(traced.calls) == 1


@pytest.mark.parametrize("name", ["result", "exception"])
def test_a_traced_method_waits(library: Library, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    traced = Traced(monkeypatch, Future, name)
    with library.ThreadPoolExecutor(2) as pool, Gate() as gate:
        future = pool.submit(gate, "passed")
        with pytest.raises(concurrent.futures.TimeoutError):
            getattr(future, name)(timeout=0.01)
        waiting = threading.Thread(target=getattr(future, name))
        waiting.start()
        wait_until(lambda: len(traced.calls) == 2)
        gate.open()
        waiting.join()
        assert future.result() == ("passed",)


def test_a_traced_callback_is_called(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    traced = Traced(monkeypatch, Future, "add_done_callback")
    called: list[Any] = []
    with library.ThreadPoolExecutor(1) as pool, Gate() as gate:
        future = pool.submit(gate)
        future.add_done_callback(called.append)
        gate.open()
        future.result()
        future.add_done_callback(called.append)
    assert called == [future, future]
    assert len(traced.calls) == 2


def test_a_traced_cancel_cancels(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []
    traced = Traced(monkeypatch, Future, "cancel")
    with library.ThreadPoolExecutor(1) as pool, Gate() as gate:
        block_workers(pool, gate)
        future = pool.submit(ran.append, 1)
        assert future.cancel()
        gate.open()
    assert not ran
    assert len(traced.calls) == 1


@pytest.mark.parametrize("name", ["set_result", "set_exception", "set_running_or_notify_cancel"])
def test_what_the_program_itself_calls_to_complete_a_future(
    library: Library, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    traced = Traced(monkeypatch, Future, name)
    future = library.Future()
    getattr(future, name)(*([] if name.startswith("set_running") else [ValueError()]))
    assert len(traced.calls) == 1
    assert future.running() if name.startswith("set_running") else future.done()


# --- Locks ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def method_replaced(builtin: type, name: str, function: Any) -> Iterator[None]:
    """Replaces a method of a type that takes no attributes, as detectors of blocking calls do it."""
    (namespace,) = gc.get_referents(builtin.__dict__)
    original = namespace[name]

    def put(value: Any) -> None:
        namespace[name] = value
        ctypes.pythonapi.PyType_Modified(ctypes.py_object(builtin))

    put(function)
    try:
        yield
    finally:
        put(original)


@pytest.mark.parametrize("method", ["result", "exception"])
def test_who_watches_locks_sees_that_a_future_blocks(library: Library, method: str) -> None:
    lock_type = type(threading.Lock())
    acquire = lock_type.acquire
    blocked: list[bool] = []
    waiters: list[int] = []

    def watched(lock: Any, *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() in waiters and lock.locked():
            blocked.append(True)
        return acquire(lock, *args, **kwargs)

    def wait() -> None:
        waiters.append(threading.get_ident())
        getattr(future, method)()

    with library.ThreadPoolExecutor(1) as pool, Gate() as gate:
        future = pool.submit(gate)
        gate.wait_started()
        waiting = threading.Thread(target=wait)
        with method_replaced(lock_type, "acquire", watched):
            waiting.start()
            wait_until(lambda: blocked)
        gate.open()
        waiting.join()
        assert future.result() == ()
