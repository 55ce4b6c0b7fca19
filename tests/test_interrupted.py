"""Exceptions that strike where nobody expects them: in the loop's code, in a condition, in a wait."""

import asyncio
import concurrent.futures
import contextlib
import itertools
import os
import signal
import threading
from types import SimpleNamespace

import pytest
import strikes
import support
from gates import Gate, ProcessGate, block_workers
from loops import on_every_loop, watched

import pyconc
from pyconc._process import kernel, launcher, signals, supervisor
from pyconc._started import Started

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")


class Strike(BaseException):
    """As KeyboardInterrupt, which pytest would take for its own."""


class InterruptedLoop(asyncio.SelectorEventLoop):
    """Its method `strikes` is struck by an exception, once, when it has done its work, or before."""

    strikes = None
    done_before = False

    def _call(self, name, *args, **kwargs):
        if self.strikes == name:
            self.strikes = None
            if self.done_before:
                getattr(super(), name)(*args, **kwargs)
            raise Strike
        return getattr(super(), name)(*args, **kwargs)

    def call_soon(self, *args, **kwargs):
        return self._call("call_soon", *args, **kwargs)

    def call_soon_threadsafe(self, *args, **kwargs):
        return self._call("call_soon_threadsafe", *args, **kwargs)


@pytest.mark.parametrize("done_before", [False, True])
@pytest.mark.parametrize("complete", ["set_result", "set_exception", "cancel"])
def test_what_strikes_while_the_loop_is_told_comes_out_and_the_awaiter_hears(complete, done_before):
    loop = InterruptedLoop()
    future = pyconc.Future()

    async def wait():
        return await asyncio.wait([wrapped], timeout=support.HANG_LIMIT)

    with watched(loop):
        wrapped = asyncio.wrap_future(future, loop=loop)
        loop.strikes, loop.done_before = "call_soon_threadsafe", done_before
        with pytest.raises(Strike):
            {
                "set_result": lambda: future.set_result(1),
                "set_exception": lambda: future.set_exception(ValueError()),
                "cancel": future.cancel,
            }[complete]()
        assert future.done()
        done, _ = loop.run_until_complete(wait())
        assert done == {wrapped}
        assert wrapped.cancelled() or wrapped.exception() or wrapped.result() == 1


class EvilCondition:
    """Does something to its future, or raises, in one of its methods."""

    def __init__(self, future, method, act):
        self.future, self.method, self.act = future, method, act

    def _do(self, method):
        if method == self.method:
            self.method = None  # once
            self.act(self.future)

    def acquire(self):
        self._do("acquire")
        return True

    def release(self):
        self._do("release")

    def notify_all(self):
        self._do("notify_all")

    def __enter__(self):
        return self.acquire()

    def __exit__(self, *exc):
        self.release()


def strike(future):
    raise Strike


ACTS = {
    "renews it": lambda future: future.__init__(),
    "completes it": lambda future: future.done() or future.set_result(2),
    "cancels it": lambda future: future.cancel(),
    "empties its lists": lambda future: (setattr(future, "_waiters", []), setattr(future, "_done_callbacks", [])),
    "takes its condition": lambda future: setattr(future, "_condition", threading.Condition()),
    "adds a callback": lambda future: future.add_done_callback(len),
    "raises": strike,
}
USES = {
    "add_done_callback": lambda future: future.add_done_callback(str),
    "set_result": lambda future: future.set_result(1),
    "set_exception": lambda future: future.set_exception(OSError()),
    "cancel": lambda future: future.cancel(),
    "set_running_or_notify_cancel": lambda future: future.set_running_or_notify_cancel(),
    "result": lambda future: future.result(0.001),
    "wait": lambda future: pyconc.wait([future], 0.001),
    "as_completed": lambda future: list(pyconc.as_completed([future], 0.001)),
}


@pytest.mark.parametrize("method", ["acquire", "release", "notify_all"])
@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("use", USES)
def test_a_condition_may_do_anything(use, act, method, caplog):
    future = pyconc.Future()
    future.add_done_callback(repr)
    condition = future._condition = EvilCondition(future, method, ACTS[act])
    struck = False
    try:
        USES[use](future)
    except Strike:
        struck = True
    except Exception:
        pass
    # What it raises comes out, whatever was done by then.
    assert struck == (act == "raises" and condition.method is None)
    condition.method = None
    future.done() or future.set_result(3)
    assert future.done()


ODD_TIMEOUTS = {
    "nan": (float("nan"), ValueError),
    "inf": (float("inf"), OverflowError),
    "huge": (1e300, OverflowError),
    "huge int": (2**70, OverflowError),
    "-inf": (float("-inf"), TimeoutError),
    "-huge": (-1e300, TimeoutError),
    "-1": (-1, TimeoutError),
    "-0.0": (-0.0, TimeoutError),
    "a string": ("1", TypeError),
}
WAITS = {
    "result": lambda future, timeout: future.result(timeout),
    "exception": lambda future, timeout: future.exception(timeout),
    "wait": lambda future, timeout: [1 / 1 for _ in pyconc.wait([future], timeout).done] or expire(),
    "as_completed": lambda future, timeout: list(pyconc.as_completed([future], timeout)),
}


def expire():
    raise TimeoutError


@pytest.mark.parametrize("name", ODD_TIMEOUTS)
@pytest.mark.parametrize("use", WAITS)
def test_odd_time_outs(use, name):
    """As with the newest standard library; on every version."""
    timeout, error = ODD_TIMEOUTS[name]
    with pytest.raises((error, concurrent.futures.TimeoutError) if error is TimeoutError else error):
        WAITS[use](pyconc.Future(), timeout)
    if error is not TypeError:
        done = pyconc.Future()
        done.set_result(None)
        WAITS[use](done, timeout)  # nothing to wait for, and nothing to complain of


@pytest.fixture(scope="module")
def busy_pools():
    """Executors of each kind, by name, with their only worker at a gate."""
    thread_gate, process_gate = Gate(), ProcessGate()
    with pyconc.ThreadPoolExecutor(1) as threads, thread_gate:
        with pyconc.ProcessPoolExecutor(1) as processes, process_gate:
            block_workers(threads, thread_gate)
            block_workers(processes, process_gate)
            yield {"threads": threads, "processes": processes}


@pytest.mark.parametrize("name", ODD_TIMEOUTS)
@pytest.mark.parametrize("use", [*WAITS, "map", "map in chunks"])
@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_odd_time_outs_of_executors(kind, use, name, busy_pools):
    timeout, error = ODD_TIMEOUTS[name]
    pool = busy_pools[kind]
    with pytest.raises((error, concurrent.futures.TimeoutError) if error is TimeoutError else error):
        if use in WAITS:
            WAITS[use](pool.submit(abs, -1), timeout)
        else:
            list(pool.map(abs, [1, 2], timeout=timeout, chunksize=2 if use == "map in chunks" else 1))


@support.chessboard(
    "use, kind",
    ["result", "shutdown", "wait", "with", "as_completed", "map in chunks", "map"],
    ["ThreadPoolExecutor", "ProcessPoolExecutor"],
)
def test_what_a_signal_handler_raises_comes_out_of_a_wait(use, kind):
    """SIGALRM's handler is the usual way to bound a call."""
    script = """
        import os, signal, sys
        import pyconc

        def alarm(signum, frame):
            raise InterruptedError("alarm")

        def enter():
            with pool:
                pass

        signal.signal(signal.SIGALRM, alarm)
        pool, (end, let) = getattr(pyconc, sys.argv[2])(1), os.pipe()
        future = pool.submit(os.read, end, 1)
        use = {
            "result": future.result,
            "wait": lambda: pyconc.wait([future]),
            "as_completed": lambda: list(pyconc.as_completed([future])),
            "shutdown": pool.shutdown,
            "with": enter,
            "map": lambda: list(pool.map(abs, [1])),
            "map in chunks": lambda: list(pool.map(abs, range(9), chunksize=4)),
        }[sys.argv[1]]
        print("begins", flush=True)
        try:
            use()
        except InterruptedError:
            print("interrupted", flush=True)
        os.write(let, b"1")
        pool.shutdown()
        print(future.result(), flush=True)
    """
    with support.start_script(script, use, kind) as process:
        support.await_line(process, process.stdout, "begins")
        support.wait_until_asleep(process)
        os.kill(process.pid, signal.SIGALRM)
        finished = support.finish(process)
    assert finished.stdout == "interrupted\nb'1'\n"
    assert finished.stderr == ""
    assert finished.returncode == 0


def test_no_step_of_signalling_a_worker_loses_what_a_signal_handler_raises():
    own = os.pidfd_open(os.getpid())
    try:
        for line in itertools.count():
            try:
                was_called = strikes.strike(
                    kernel.send_signal.__code__, line, lambda: kernel.send_signal(own, os.getpid(), 0)
                )
            except strikes.Alarm:
                continue
            assert not was_called, f"lost at line {line} of those that run"
            break
    finally:
        os.close(own)
    assert line > 0


def test_who_asks_whether_a_thread_has_started_takes_no_lock_when_it_has():
    event = Started()
    event.wait()
    event.set()
    with event._cond:
        assert event.is_set()


@pytest.mark.parametrize("road", ["a reserve", "a prediction", "a clone of the reserve", "the second worker"])
def test_an_os_error_of_a_handler_that_had_to_wait_is_no_failure_to_start(road, monkeypatch):
    def handle(*about):
        raise strikes.Alarm

    def interrupted(*args):
        with signals.DeferSignals():
            signal.raise_signal(signal.SIGUSR1)

    monkeypatch.setattr(launcher, "is_single_threaded", lambda: road == "a reserve")
    monkeypatch.setattr(launcher.the_reserve, "serves", lambda key: road == "a clone of the reserve")
    monkeypatch.setattr(launcher.the_reserve, "renew", interrupted)
    monkeypatch.setattr(launcher.the_reserve, "clone", interrupted)
    monkeypatch.setattr(launcher.the_nursery, "must_go_by_value", interrupted)
    monkeypatch.setattr(launcher, "has_interpreter", lambda: True)
    one = SimpleNamespace(_key="key", _forks=False, _use=None, job=lambda: contextlib.nullcontext(()))
    pool = SimpleNamespace(forks=True, max_workers=2, _workers={0: None}, _start_worker=interrupted)
    pool.queue = SimpleNamespace(add_worker=lambda count: None)
    start = {
        "a reserve": lambda: launcher.prepare("key", None),
        "a prediction": lambda: launcher.Launcher.predict(one, len),
        "a clone of the reserve": lambda: launcher.Launcher._make_zygote(one),
        "the second worker": lambda: supervisor.Supervisor._start_here(pool),
    }[road]
    previous = signal.signal(signal.SIGUSR1, handle)
    try:
        with pytest.raises(strikes.Alarm):
            start()
    finally:
        signal.signal(signal.SIGUSR1, previous)


@on_every_loop
def test_async_with_that_is_cancelled_on_a_loop_that_closes_says_nothing(new_loop):
    """The thread that waits for the workers finds the loop closed: nobody waits any more."""
    gate = Gate()
    loop = new_loop()
    complaints = []
    hook, threading.excepthook = threading.excepthook, complaints.append
    try:

        async def main():
            async with pyconc.ThreadPoolExecutor(1) as pool:
                loop.run_in_executor(pool, gate)
                gate.wait_started()

        with gate:
            with pytest.raises(asyncio.TimeoutError):
                loop.run_until_complete(asyncio.wait_for(main(), 0.01))
            loop.close()
        support.wait_until(
            lambda: not any("_shutdown" in thread.name for thread in threading.enumerate()), "the waiting thread to end"
        )
    finally:
        threading.excepthook = hook
    assert complaints == []


@on_every_loop
@pytest.mark.parametrize("kind", ["ThreadPoolExecutor", "ProcessPoolExecutor"])
def test_a_task_that_raises_stop_iteration(new_loop, kind):
    loop = new_loop()
    with watched(loop), getattr(pyconc, kind)(1) as pool:
        assert isinstance(pool.submit(next, iter(())).exception(), StopIteration)

        async def main():
            for way in (loop.run_in_executor(pool, next, iter(())), asyncio.wrap_future(pool.submit(next, iter(())))):
                with pytest.raises(RuntimeError, match="StopIteration"):
                    await asyncio.wait_for(way, support.HANG_LIMIT)

        loop.run_until_complete(main())
