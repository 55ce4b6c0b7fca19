"""map() of processes: late failures, signals, replaced submits, and what it leaves behind."""

import functools
import gc
import itertools
import signal
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import ClassVar

import jobs
import pytest
from gates import ProcessGate, block_workers
from strikes import Alarm, strike
from support import HANG_LIMIT, THOUSAND, chessboard, more_rounds, run_script, wait_until

import pyconc
from pyconc import _core
from pyconc._process.chunks import CallTimes
from pyconc._process.supervisor import Supervisor

SCRIPTS = Path(__file__).parent / "scripts"

CHUNKS = [{}, {"chunksize": 1}, {"chunksize": 7}]


@pytest.fixture(scope="module")
def pool():
    with pyconc.ProcessPoolExecutor(2) as pool:
        with ProcessGate() as gate:
            block_workers(pool, gate, 2)
        yield pool


class LateError(Exception):
    pass


def raising(after):
    yield from range(after)
    raise LateError


# --- What the source raises -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kwargs", CHUNKS, ids=str)
@pytest.mark.parametrize("buffersize", [1, 5, 100])
def test_what_a_lazy_source_raises_comes_after_the_results_of_what_it_gave(pool, kwargs, buffersize):
    # The standard library drops what it has ahead.
    results = pool.map(jobs.identity, raising(1000), buffersize=buffersize, **kwargs)
    values = []
    with pytest.raises(LateError):
        for value in results:
            values.append(value)
    assert values == list(range(1000))
    assert list(results) == []


def test_an_exception_that_is_none_of_the_sources_does_not_wait(pool):
    def interrupted():
        yield from range(5)
        raise KeyboardInterrupt

    with ProcessGate() as gate:
        results = pool.map(jobs.PassOrWait(gate, 1, 2), interrupted(), buffersize=5, chunksize=1)
        gate.wait_started(2)
        with pytest.raises(KeyboardInterrupt):
            list(results)  # and not when the calls that are at the gate have ended
        gate.open()


def test_a_closed_pool_is_met_at_its_place():
    with pyconc.ProcessPoolExecutor(1) as pool:
        results = pool.map(jobs.identity, range(5), buffersize=2, chunksize=1)
    values = []
    with pytest.raises(RuntimeError, match=r"^cannot schedule new futures after shutdown$"):
        for value in results:
            values.append(value)
    assert values == [0, 1]


@pytest.fixture
def reports(tmp_path):
    path = tmp_path / "reports"
    path.touch()
    return path


def test_the_consumer_alone_reads_ahead(pool, reports):
    """With nobody who takes results, as many items are read as buffersize says, and that many calls are made."""
    numbers = iter(range(1000))
    results = pool.map(jobs.Reporter(str(reports)), numbers, buffersize=30)
    wait_until(lambda: len(reports.read_text().split()) == 30)
    assert next(numbers) == 30
    results.close()


# --- Workers are fed while the consumer is elsewhere ------------------------------------------------------------------


def test_calls_are_made_while_nobody_takes_results(pool, reports):
    results = pool.map(jobs.Reporter(str(reports)), range(500))
    wait_until(lambda: len(reports.read_text().split()) == 500)
    assert list(results) == list(range(500))


def test_results_that_nobody_can_take_any_more_are_not_kept():
    class Counted:
        alive: ClassVar = weakref.WeakSet()

        def __reduce__(self):
            return jobs.identity, ()

    with pyconc.ProcessPoolExecutor(1) as pool:
        with ProcessGate() as gate:
            items = [Counted() for _ in range(50)]
            Counted.alive.update(items)
            block_workers(pool, gate, 1)
            pool.map(jobs.identity, items, chunksize=5)
            del items
            assert len(Counted.alive) == 50  # in case that they are to be sent anew
            gate.open()
        pool.submit(abs, -1).result(HANG_LIMIT)
        wait_until(lambda: not Counted.alive)


# --- Signals ----------------------------------------------------------------------------------------------------------


@chessboard("how, error", ["list", "generator", "chunks", "objects"], ["KeyboardInterrupt", "Exception"])
@pytest.mark.parametrize("rounds", [6, pytest.param(THOUSAND // 50, marks=more_rounds)])
def test_what_a_signal_handler_raises_comes_out_and_the_pool_ends(how, error, rounds):
    finished = run_script(SCRIPTS / "interrupt_map.py", how, error, rounds)
    assert int(finished.stdout) > 0


def test_an_exception_of_a_signal_handler_is_none_of_the_sources(pool):
    """It does not wait for calls that were to be bounded by it."""

    def handle(signum, frame):
        raise Alarm

    def source():
        yield from range(4)
        signal.raise_signal(signal.SIGUSR1)
        yield 4

    previous = signal.signal(signal.SIGUSR1, handle)
    try:
        with ProcessGate() as gate:
            results = pool.map(jobs.PassOrWait(gate, 1, 2), source(), buffersize=3, chunksize=1)
            gate.wait_started(2)
            with pytest.raises(Alarm):
                list(results)
            gate.open()
    finally:
        signal.signal(signal.SIGUSR1, previous)


class PickledByASignal:
    def __reduce__(self):
        signal.raise_signal(signal.SIGUSR1)
        return jobs.identity, ()


@pytest.mark.parametrize("call", ["map", "submit"])
def test_an_exception_of_a_signal_handler_is_no_pickling_error(pool, call):
    def handle(*about):
        raise Alarm

    previous = signal.signal(signal.SIGUSR1, handle)
    try:
        with pytest.raises(Alarm):
            getattr(pool, call)(jobs.identity, [PickledByASignal()])
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert list(pool.map(jobs.identity, [1])) == [1]


def test_an_exception_of_a_signal_handler_comes_before_one_of_the_source(pool):
    def handle(*about):
        raise Alarm

    def source():
        yield from range(6)  # so many are sent as they are read
        yield PickledByASignal()
        raise LateError

    previous = signal.signal(signal.SIGUSR1, handle)
    try:
        with ProcessGate() as gate, pytest.raises(Alarm):
            pool.map(jobs.PassOrWait(gate, 0, 1), source(), chunksize=1)
    finally:
        signal.signal(signal.SIGUSR1, previous)


def test_no_step_of_waiting_for_workers_loses_what_a_signal_handler_raises():
    """Python 3.10 drops it where deque.remove() and the like format an error that is then expected."""
    code = Supervisor.start_workers.__code__
    for line in itertools.count():
        with pyconc.ProcessPoolExecutor(2) as pool:
            pool.submit(abs, -1).result(HANG_LIMIT)  # the first worker; map() wants the second
            try:
                was_called = strike(code, line, lambda: list(pool.map(abs, range(6))))
            except Alarm:
                continue
        assert not was_called, f"lost at line {line} of those that run"
        break
    assert line > 8


# --- submit() that is not ours ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [pyconc.ThreadPoolExecutor, pyconc.ProcessPoolExecutor])
@pytest.mark.parametrize("where", ["the executor", "its class", "a subclass"])
def test_map_goes_through_a_submit_that_was_replaced(kind, where, monkeypatch):
    submitted = []

    class Pool(kind):
        pass

    def submit(fn, /, *args, **kwargs):
        future = original(fn, *args, **kwargs)
        submitted.append(future)
        return future

    with (kind if where == "the executor" else Pool)(1) as pool:
        original = pool.submit
        if where == "the executor":
            pool.submit = submit
        elif where == "its class":
            monkeypatch.setattr(Pool, "submit", lambda self, fn, /, *args: submit(fn, *args))
        else:
            pool.__class__ = type("Sub", (Pool,), {"submit": lambda self, fn, /, *args: submit(fn, *args)})
        assert list(pool.map(abs, range(-5, 0))) == [5, 4, 3, 2, 1]
        assert list(pool.map(pow, range(5), range(5), chunksize=2)) == [1, 1, 4, 27, 256]
        assert list(pool.map(abs, range(-5, 0), buffersize=2)) == [5, 4, 3, 2, 1]
        assert len(submitted) == (15 if kind is pyconc.ThreadPoolExecutor else 5 + 3 + 5)
        assert all(future.done() for future in submitted)


def test_such_a_map_holds_the_executor_weakly():
    pool = pyconc.ProcessPoolExecutor(1)
    pool.submit = functools.partial(pool.submit)
    results = pool.map(abs, range(5), buffersize=2)
    assert next(results) == 0
    thread, reference = pool._executor_manager_thread, weakref.ref(pool)
    del pool
    gc.collect()
    assert reference() is None
    assert list(results) == [1, 2]  # what was submitted before
    thread.join()


# --- What is left behind ----------------------------------------------------------------------------------------------


def feeds():
    gc.collect()
    return [found for found in gc.get_objects() if type(found).__name__ == "_MapFeed"]


@pytest.mark.parametrize("kwargs", [*CHUNKS, {"buffersize": 5}], ids=str)
@pytest.mark.parametrize("taken", [0, 1, 50])
def test_a_map_leaves_nothing_behind_whoever_drops_it_when(pool, kwargs, taken):
    before = len(feeds())
    results = pool.map(jobs.identity, range(50), **kwargs)
    for _ in range(taken):
        next(results)
    del results
    pool.submit(abs, -1).result(HANG_LIMIT)
    wait_until(lambda: len(feeds()) == before)


def test_a_map_that_is_caught_in_a_cycle_is_collected_and_cancels_its_calls():
    class Item:
        def __reduce__(self):
            return jobs.identity, ()

    with pyconc.ProcessPoolExecutor(1) as pool, ProcessGate() as gate:
        block_workers(pool, gate, 1)
        items = [Item() for _ in range(10)]
        reference = weakref.ref(items[0])
        results = pool.map(jobs.identity, items, chunksize=1, timeout=0)
        items[0].results = results
        with pytest.raises(TimeoutError if sys.version_info >= (3, 11) else pyconc.TimeoutError):
            next(results)
        del results, items
        gate.open()
        pool.submit(abs, -1).result(HANG_LIMIT)
        # What was cancelled is the result handler's to let go.
        wait_until(lambda: gc.collect() >= 0 and reference() is None, "the items to be collected")


def test_two_threads_cannot_wait_for_the_next_result_at_once(pool):
    with ProcessGate() as gate:
        results = pool.map(gate, [1])
        gate.wait_started()
        caught = []

        def wait():
            try:
                caught.extend(results)
            except ValueError as error:
                caught.append(str(error))

        threads = [threading.Thread(target=wait) for _ in range(2)]
        for thread in threads:
            thread.start()
        wait_until(lambda: caught == ["generator already executing"])
        with pytest.raises(ValueError, match="already executing"):
            results.close()
        gate.open()
        for thread in threads:
            thread.join()
    assert caught == ["generator already executing", 1]


def test_the_child_of_a_fork_is_told_that_the_calls_are_its_parents():
    finished = run_script(
        """
import os, pyconc
from concurrent.futures.process import BrokenProcessPool
gate = os.pipe()
def wait(number):
    return os.read(gate[0], 1)
pool = pyconc.ProcessPoolExecutor(1)
results = pool.map(wait, range(1000), chunksize=1, buffersize=2)
pid = os.fork()
if pid == 0:
    try:
        next(results)
    except BrokenProcessPool:
        print("broken", list(results), list(pool.map(abs, [-1])), flush=True)
    pool.shutdown()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
os.write(gate[1], b"." * 1000)
assert list(results) == [b"."] * 1000
pool.shutdown()
""",
        flags=("-W", "ignore::DeprecationWarning"),
    )
    assert finished.stdout == "broken [] [1]\n"


def test_shutdown_cancels_what_a_map_has_yet_to_send():
    with pyconc.ProcessPoolExecutor(1) as pool, ProcessGate() as gate:
        results = pool.map(gate, range(100))
        gate.wait_started()
        pool.shutdown(wait=False, cancel_futures=True)
        gate.open()
        values = []
        with pytest.raises(pyconc.CancelledError):
            for value in results:
                values.append(value)
        assert values == list(range(len(values)))


def test_what_cannot_be_pickled_fails_alone_also_far_from_the_consumer(pool, reports):
    results = pool.map(jobs.Reporter(str(reports)), [*range(300), jobs.Unpicklable(), *range(300, 600)])
    wait_until(lambda: len(reports.read_text().split()) == 600)
    values = []
    with pytest.raises(LookupError, match="refuses to be pickled"):
        for value in results:
            values.append(value)
    assert values == list(range(300))


def test_a_source_must_be_an_iterator():
    queue = _core.ProcessQueue(1)
    with pytest.raises(TypeError, match="the source must be an iterator"):
        _core.MapResults(queue, print, None, abs, [1], False, False, 0, 1, -1.0, None)


def test_what_no_worker_has_taken_is_shared_with_workers_that_have_yet_to_be_started():
    """Whoever takes it may be held up by its first call."""
    queue = _core.ProcessQueue(3)  # nobody takes anything
    items = iter([threading.Lock(), 1, 2, 3])  # a chunk, but a lock cannot be pickled: [lock], [1], [2, 3]
    results = _core.MapResults(queue, int, CallTimes(), abs, items, False, False, 0, sys.maxsize, 1000.0, None)
    assert queue.qsize() == 2
    queue.wake()  # so that it returns
    queue.collect()
    assert queue.qsize() == 3
    with pytest.raises(TypeError, match="pickle"):
        next(results)
    assert queue.empty()


def wait_for_the_last(last, number):
    if number == 0:
        assert last.wait(HANG_LIMIT), "the call behind this one was not made"
    elif number == 1000:
        last.set()
    return number


def test_calls_behind_one_that_takes_long_are_made_by_workers_that_idle(pool):
    """Earlier maps have found the function quick, so that both calls travel in one chunk."""
    fn = functools.partial(wait_for_the_last, pyconc.shared.Event())
    assert sum(pool.map(fn, range(1, 1000))) == 499500
    assert list(pool.map(fn, [0, 1000])) == [0, 1000]


def test_a_clock_that_stands_still_does_not_end_a_map(pool, monkeypatch):
    """As tests put one into Python's time module."""
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    assert list(pool.map(jobs.identity, range(3), timeout=HANG_LIMIT)) == [0, 1, 2]


def test_a_timeout_that_is_no_number_is_refused_while_a_chunk_is_under_way():
    last = pyconc.shared.Event()
    fn = functools.partial(wait_for_the_last, last)
    with pyconc.ProcessPoolExecutor(1) as pool:
        assert sum(pool.map(fn, range(1, 1000))) == 499500
        try:
            with pytest.raises(ValueError, match="NaN"):
                next(pool.map(fn, [0, 1], timeout=float("nan")))
        finally:
            last.set()
