"""ThreadPoolExecutor.options(): a call that runs in a thread is stopped, and nothing else is; current_task() there."""

import asyncio
import contextlib
import fractions
import functools
import gc
import math
import os
import random
import re
import signal
import socket
import sys
import threading
import time
import weakref
from concurrent.futures import thread
from concurrent.futures.thread import BrokenThreadPool

import pytest
from gates import Gate, block_workers
from loops import on_every_loop, on_loop
from support import HANG_LIMIT, PROC, THOUSAND, check_no_leak, more_rounds, run_script, wait_until

import pyconc

# Longer than any test takes.
FOREVER = 3600

needs_3_15 = pytest.mark.skipif(
    sys.version_info < (3, 15), reason="system calls end for an exception since Python 3.15"
)


def stoppable(pool, grace=FOREVER, **options):
    """A busy machine may not come to a call for seconds: what does not say so is not abandoned."""
    return pool.options(on_cancel="interrupt", grace=grace, **options)


class Loop:
    """A task that runs Python code until it is interrupted, and says so."""

    def __init__(self, end=lambda: None):
        self.began = threading.Event()
        self.ended = threading.Event()
        self.end = end
        self.caught = None

    def __call__(self):
        try:
            self.began.set()  # in here: it may be interrupted before set() returns
            while True:
                pass
        except BaseException as error:
            self.caught = error
            self.end()
            raise
        finally:
            self.ended.set()


async def until(event):
    while not event.is_set():
        await asyncio.sleep(0.001)


# --- Stopping ---------------------------------------------------------------------------------------------------------


def test_a_cancelled_call_is_interrupted_and_its_thread_goes_on():
    with pyconc.ThreadPoolExecutor(1) as pool:
        ident = pool.submit(threading.get_ident).result()
        task, seen = Loop(), []
        future = stoppable(pool).submit(task)
        future.add_done_callback(seen.append)
        task.began.wait()
        assert future.cancel()
        assert future.cancelled()
        assert seen == [future]
        assert pyconc.wait([future]).done == {future}
        assert task.ended.is_set()
        assert type(task.caught) is pyconc.TaskCancelled
        assert task.caught.reason == "cancel"
        assert pool.submit(threading.get_ident).result() == ident


def test_a_call_that_catches_exceptions_is_interrupted():
    began = threading.Event()

    def catch_exceptions():
        while True:
            with contextlib.suppress(Exception):
                began.set()
                while True:
                    pass

    with pyconc.ThreadPoolExecutor(1) as pool:
        future = stoppable(pool).submit(catch_exceptions)
        began.wait()
        assert future.cancel()
        assert pool.submit(abs, -1).result() == 1


@on_every_loop
@on_loop
async def test_who_cancels_on_a_loop_waits_until_the_call_has_ended(new_loop):
    loop = asyncio.get_running_loop()
    with pyconc.ThreadPoolExecutor(1) as pool:
        gate = Gate()
        task, view = Loop(end=gate), stoppable(pool)
        future = loop.run_in_executor(view, lambda: task())
        await until(task.began)
        assert future.cancel(msg="enough")
        await loop.run_in_executor(None, gate.wait_started)
        assert not future.done()
        gate.open()
        with pytest.raises(asyncio.CancelledError) as caught:
            await future
        assert caught.value.args == ("enough",)
        assert task.ended.is_set()


@on_every_loop
@on_loop
async def test_a_timeout_of_asyncio_reaches_the_call(new_loop):
    loop = asyncio.get_running_loop()
    with pyconc.ThreadPoolExecutor(1) as pool:
        task, view = Loop(), stoppable(pool)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(loop.run_in_executor(view, lambda: task()), 0.01)
        assert task.ended.is_set() or not task.began.is_set()
        assert await loop.run_in_executor(pool, abs, -1) == 1


@on_every_loop
@on_loop
async def test_by_default_a_call_goes_on(new_loop):
    loop = asyncio.get_running_loop()
    with pyconc.ThreadPoolExecutor(1) as pool:
        views = [pool, pool.options(), pool.options(name="some"), stoppable(pool).options(on_cancel="abandon")]
        for executor in views:
            with Gate() as gate:
                here = executor.submit(gate, 1)
                gate.wait_started()
                assert not here.cancel()
                assert here.running()
                gate.open()
                assert here.result() == (1,)
            with Gate() as gate:
                there = loop.run_in_executor(executor, gate)
                gate.wait_started()
                assert there.cancel()
                assert there.cancelled()


def test_a_queued_call_that_is_cancelled_never_runs():
    with pyconc.ThreadPoolExecutor(1) as pool, Gate() as gate:
        held, called = pool.submit(gate), []
        gate.wait_started()
        future = stoppable(pool).submit(called.append, 1)
        assert future.cancel()
        assert future.cancelled()
        gate.open()
        held.result()
        pool.submit(abs, 1).result()
        assert not called
        assert pyconc.wait([future]).done


def test_what_comes_too_late_is_raised_nowhere():
    with pyconc.ThreadPoolExecutor(1) as pool:
        for _ in range(100):
            lock, running, seen = threading.Lock(), threading.Lock(), []

            def look_around(future, seen=seen):
                for number in range(1000):
                    seen.append(number)

            lock.acquire()
            running.acquire()
            # No Python code in it: the exception would strike in whatever runs next.
            future = stoppable(pool).submit(lock.acquire)
            other = pool.submit(lambda: [-number for number in range(1000)])
            wait_until(future.running, "the call to run")
            assert future.cancel()
            future.add_done_callback(look_around)
            lock.release()
            assert len(other.result()) == 1000
            assert len(seen) == 1000


def test_a_call_that_catches_everything_ends_when_it_wants():
    with pyconc.ThreadPoolExecutor(1) as pool, Gate() as gate:
        began = threading.Event()

        def swallow():
            with contextlib.suppress(BaseException):
                began.set()
                while True:
                    pass
            gate()
            return pyconc.current_task().cancelled()

        future = stoppable(pool).submit(swallow)
        began.wait()
        assert future.cancel()
        gate.wait_started()
        assert not pool.submit(abs, 1).done()
        gate.open()
        assert pyconc.wait([future]).done
        assert future.cancelled()  # what the call returned is dropped


def test_to_close_a_map_stops_its_calls():
    with pyconc.ThreadPoolExecutor(2) as pool:
        tasks = [lambda: 1, Loop(), Loop()]
        results = stoppable(pool).map(lambda task: task(), tasks)
        assert next(results) == 1
        for task in tasks[1:]:
            task.began.wait()
        results.close()
        for task in tasks[1:]:
            task.ended.wait()


def test_a_map_of_a_view_that_nobody_keeps_goes_on():
    with pyconc.ThreadPoolExecutor(2) as pool:
        results = pool.options(name="some").map(lambda _: pyconc.current_task().name, range(10), buffersize=2)
        gc.collect()
        assert list(results) == ["some"] * 10


def test_shutdown_with_cancel_futures_stops_what_runs():
    pool = pyconc.ThreadPoolExecutor(2)
    task = Loop()
    with Gate() as gate:
        future, kept = stoppable(pool).submit(task), pool.submit(gate)
        gate.wait_started()
        task.began.wait()
        pool.shutdown(wait=False, cancel_futures=True)
        assert pyconc.wait([future]).done
        assert future.cancelled()
        assert task.caught.reason == "shutdown"
        assert kept.running()
    pool.shutdown()


def test_a_dropped_executors_call_can_be_stopped():
    pool = pyconc.ThreadPoolExecutor(1)
    task = Loop()
    future = stoppable(pool).submit(task)
    task.began.wait()
    gone = weakref.ref(pool)
    del pool
    gc.collect()
    assert gone() is None
    assert future.cancel()
    assert pyconc.wait([future]).done
    assert task.ended.is_set()


def run_item(item):
    item.run(*([thread.WorkerContext(None, ())] if sys.version_info >= (3, 14) else []))


def test_who_takes_a_task_out_of_the_queue_completes_it():
    with pyconc.ThreadPoolExecutor(1) as pool, Gate() as gate:
        pool.submit(gate)
        gate.wait_started()
        future = stoppable(pool).submit(pow, 2, exp=5)
        run_item(pool._work_queue.get())
        assert future.result() == 32
        other = stoppable(pool).submit(abs, -1)
        item = pool._work_queue.get()
        assert other.cancel()
        run_item(item)
        assert other.cancelled()


@pytest.mark.parametrize("options", [{"on_cancel": "kill"}, {"on_cancel": "never"}])
def test_threads_are_never_killed(options):
    with pyconc.ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="'abandon' or 'interrupt', not"):
        pool.options(**options)


def test_a_call_may_cancel_itself():
    with pyconc.ThreadPoolExecutor(1) as pool, Gate() as gate:
        futures = []

        def work():
            gate()
            assert futures[0].cancel()
            while True:
                pass

        futures.append(stoppable(pool).submit(work))
        gate.open()
        assert pyconc.wait(futures).done
        assert futures[0].cancelled()


# --- Where nothing can be raised --------------------------------------------------------------------------------------


def loop(began):
    began.set()
    while True:
        pass


class CallsAtItsEnd:
    def __init__(self, function):
        self.function = function

    def __del__(self):
        self.function()


def lose_in_del(function):
    CallsAtItsEnd(function)


def lose_in_nested_dels(function):
    outer = CallsAtItsEnd(function)
    outer.__dict__["inner"] = CallsAtItsEnd(function)
    del outer


def lose_in_a_callback(function):
    held = Gate()
    reference = weakref.ref(held, lambda _: function())
    del held
    return reference


def lose_in_a_generator(function):
    def generate():
        try:
            yield
        finally:
            function()

    next(generate())


def losing(lose, function, caught):
    def work():
        try:
            lose(function)
            while True:
                pass
        except BaseException as error:
            caught.append(type(error))
            raise

    return work


@pytest.mark.parametrize("lose", [lose_in_del, lose_in_nested_dels, lose_in_a_callback, lose_in_a_generator])
def test_what_is_lost_where_nothing_can_be_raised_is_raised_again(monkeypatch, lose):
    told, caught, began = [], [], threading.Event()

    def hook(unraisable):
        told.append(unraisable.exc_type)

    monkeypatch.setattr(sys, "unraisablehook", hook)
    with pyconc.ThreadPoolExecutor(1) as pool:
        future = stoppable(pool).submit(losing(lose, lambda: loop(began), caught))
        began.wait()
        assert future.cancel()
        assert pyconc.wait([future], HANG_LIMIT).done == {future}
        assert caught == [pyconc.TaskCancelled]
        # The program's own hook hears of each, and is the only one again.
        assert set(told) == {pyconc.TaskCancelled}
        assert sys.unraisablehook is hook
        assert pool.submit(abs, -1).result() == 1


def test_a_hook_that_replaces_ours_stays_and_may_call_it(monkeypatch):
    told, caught, began = [], [], threading.Event()
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: told.append("first"))
    with pyconc.ThreadPoolExecutor(1) as pool, Gate() as gate:
        stuck = Loop(end=gate)  # while it is about to end, ours is there
        holding = stoppable(pool).submit(stuck)
        stuck.began.wait()
        assert holding.cancel()
        gate.wait_started()
        ours = sys.unraisablehook
        assert ours.__self__ is not None

        def hook(unraisable):
            told.append("second")
            ours(unraisable)

        sys.unraisablehook = hook
        gate.open()
        pyconc.wait([holding])
        assert sys.unraisablehook is hook
        future = stoppable(pool).submit(losing(lose_in_del, lambda: loop(began), caught))
        began.wait()
        assert future.cancel()
        assert pyconc.wait([future], HANG_LIMIT).done == {future}
        assert caught == [pyconc.TaskCancelled]
        assert told == ["second", "first"]
        assert sys.unraisablehook is hook


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_the_child_of_a_fork_has_the_programs_hook(monkeypatch):
    def hook(unraisable):
        pass

    monkeypatch.setattr(sys, "unraisablehook", hook)
    with pyconc.ThreadPoolExecutor(1) as pool, Gate() as gate:
        task = Loop(end=gate)
        future = stoppable(pool).submit(task)
        task.began.wait()
        assert future.cancel()
        gate.wait_started()
        assert sys.unraisablehook is not hook
        pid = os.fork()
        if pid == 0:
            os._exit(0 if sys.unraisablehook is hook else 1)
        assert os.waitpid(pid, 0)[1] == 0
        gate.open()


# --- Grace and limits -------------------------------------------------------------------------------------------------

# Timeouts to be tried in turn: on a busy machine a call may be interrupted before its first line.
SOON = (0.02, 0.2, 2.0)


class Stuck:
    """A task that nothing interrupts, until it is let go."""

    def __init__(self):
        self.began = threading.Event()
        self.let_go = threading.Event()

    def __call__(self):
        while not self.let_go.is_set():
            with contextlib.suppress(BaseException):
                self.began.set()
                while not self.let_go.is_set():
                    self.let_go.wait(0.001)
        return "dropped"

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.let_go.set()


@on_every_loop
@on_loop
async def test_after_its_grace_a_call_is_abandoned(new_loop, caplog):
    loop = asyncio.get_running_loop()
    with pyconc.ThreadPoolExecutor(2) as pool, Stuck() as one, Stuck() as other:
        view = stoppable(pool, grace=0.01)
        for task in (one, other):
            future = loop.run_in_executor(view, lambda task=task: task())
            await until(task.began)
            assert future.cancel()
            with pytest.raises(asyncio.CancelledError):
                await future
        assert pool._tasks.abandoned() == 2
        assert [record.name for record in caplog.records] == ["concurrent.futures"]  # once for an executor
        assert "goes on in thread" in caplog.records[0].getMessage()
        one.let_go.set()
        assert pool.submit(abs, -1).result() == 1
        assert pool._tasks.abandoned() == 1


def test_wait_returns_when_a_cancelled_call_is_abandoned(caplog):
    with pyconc.ThreadPoolExecutor(1) as pool, Stuck() as task:
        future = stoppable(pool, grace=0.01).submit(task)
        task.began.wait()
        assert future.cancel()
        assert pyconc.wait([future]).done
        assert pool._tasks.abandoned() == 1
    assert future.cancelled()


@pytest.mark.parametrize("grace", [FOREVER, 1e300, math.inf])
def test_a_grace_may_be_as_long_as_one_likes(grace):
    with pyconc.ThreadPoolExecutor(1) as pool, Stuck() as task:
        future = stoppable(pool, grace=grace).submit(task)
        task.began.wait()
        assert future.cancel()
        task.let_go.set()
        assert pyconc.wait([future]).done


@pytest.mark.parametrize("on_cancel", ["abandon", "interrupt"])
def test_a_call_that_has_reached_its_timeout_is_interrupted(on_cancel):
    with pyconc.ThreadPoolExecutor(1) as pool:
        for timeout in SOON:
            task, threads = Loop(), []
            with Gate() as gate:
                block_workers(pool, gate)
                view = pool.options(timeout=timeout, on_cancel=on_cancel, grace=FOREVER, name="some")
                future = view.submit(task)
                future.add_done_callback(lambda _, threads=threads: threads.append(threading.get_ident()))
            error = future.exception()
            if task.began.is_set():
                break
        assert type(error) is pyconc.TaskTimeout
        assert (error.task_name, error.timeout, error.deadline, error.stopped) == ("some", timeout, None, "raised")
        assert error.ran_for >= timeout
        assert task.caught.reason == "timeout"
        assert pool.submit(abs, -1).result() == 1
        assert threads == [thread.ident for thread in pool._threads]


def loop_in_function():
    while True:
        pass


def test_the_error_shows_where_the_call_was():
    with pyconc.ThreadPoolExecutor(1) as pool:
        for timeout in SOON:
            error = pool.options(timeout=timeout).submit(loop_in_function).exception()
            if " in loop_in_function\n" in error.stack:
                break
        assert error.stack.startswith("Thread 0x")
        assert " in loop_in_function\n" in error.stack.splitlines(keepends=True)[1]
        assert error.stack.count("\n") == 3
        assert 'pyconc/thread_pool.py", line ' in error.stack.splitlines()[2]
        assert error.stack.rstrip() in str(error.__cause__)


def test_also_that_of_a_call_that_is_abandoned():
    with pyconc.ThreadPoolExecutor(1) as pool, Stuck() as task:
        for timeout in SOON:
            error = pool.options(timeout=timeout, grace=0.01).submit(task).exception()
            if task.began.is_set():
                break
        assert error.stopped is None
        assert " in __call__\n" in error.stack


def test_a_deep_stack_is_cut():
    def dive(depth):
        if depth == 0:
            loop_in_function()
        dive(depth - 1)

    with pyconc.ThreadPoolExecutor(1) as pool:
        for timeout in SOON:
            error = pool.options(timeout=timeout).submit(dive, 200).exception()
            if " in loop_in_function\n" in error.stack:
                break
        assert error.stack.count("\n") == 1 + 100


@on_every_loop
@on_loop
async def test_a_timeout_on_a_loop(new_loop):
    loop = asyncio.get_running_loop()
    with pyconc.ThreadPoolExecutor(1) as pool:
        task, view = Loop(), pool.options(timeout=0.02, grace=FOREVER)
        with pytest.raises(pyconc.TaskTimeout):
            await loop.run_in_executor(view, lambda: task())
        assert task.ended.is_set() or not task.began.is_set()


def test_what_a_call_returns_after_its_timeout_is_dropped():
    with pyconc.ThreadPoolExecutor(1) as pool, Stuck() as task:

        def work():
            current = pyconc.current_task()
            assert current.remaining() <= 0.02
            with current.shield():
                while not current.cancelled():
                    task.let_go.wait(0.001)
                assert current.remaining() == 0
            return 1

        future = pool.options(timeout=0.02, grace=FOREVER).submit(work)
        assert future.exception().stopped == "raised"
        for timeout in SOON:
            began = threading.Event()
            future = pool.options(timeout=timeout, grace=FOREVER).submit(ignore_the_end, began)
            future.exception()
            if began.is_set():
                break
        assert future.exception().stopped == "returned"


def ignore_the_end(began):
    try:
        began.set()
        while True:
            pass
    except pyconc.TaskCancelled:
        return 1


def test_a_call_that_nothing_stops_times_out_all_the_same(caplog):
    with pyconc.ThreadPoolExecutor(1) as pool, Stuck() as task:
        for timeout in SOON:
            seen = []
            future = pool.options(timeout=timeout, grace=0.01).submit(task)
            future.add_done_callback(lambda _, seen=seen: seen.append(threading.enumerate()))
            error = future.exception()
            if task.began.is_set():
                break
        assert error.stopped is None
        assert error.ran_for >= timeout + 0.01
        assert pool._tasks.abandoned() == 1
        assert not future.cancel()
        wait_until(lambda: seen, "the callback")
        assert not any("Dummy" in thread.name for thread in threading.enumerate())


def test_a_call_in_time_has_no_limit_any_more():
    with pyconc.ThreadPoolExecutor(2) as pool:
        view = pool.options(timeout=FOREVER, deadline=time.monotonic() + FOREVER, grace=0)
        assert list(view.map(abs, range(-THOUSAND, 0))) == list(range(THOUSAND, 0, -1))
        short = pool.options(timeout=0.02)
        for _ in range(20):
            assert short.submit(abs, -1).result() == 1
        assert pool.submit(Loop.__name__.lower).result() == "loop"


def test_a_queued_call_past_its_deadline_never_begins():
    with pyconc.ThreadPoolExecutor(1) as pool, Gate() as gate:
        pool.submit(gate)
        gate.wait_started()
        called = []
        deadline = time.monotonic() + 0.02
        late = [pool.options(deadline=deadline).submit(called.append, number) for number in range(3)]
        behind = pool.submit(abs, -1)
        for future in late:
            error = future.exception()
            assert type(error) is pyconc.TaskTimeout
            assert (error.deadline, error.ran_for, error.stopped) == (pytest.approx(deadline), None, None)
        assert pool._work_queue.qsize() == 1
        past = pool.options(deadline=time.monotonic() - 1).submit(called.append, 4)
        gate.open()
        assert type(past.exception()) is pyconc.TaskTimeout
        assert behind.result() == 1
        assert not called


def test_a_deadline_passes_while_the_thread_that_is_to_take_the_call_calls_its_initializer():
    gate, called = Gate(), []
    with pyconc.ThreadPoolExecutor(1, initializer=gate) as pool, gate:
        late = pool.options(deadline=time.monotonic() + 0.02).submit(called.append, 1)
        gate.wait_started()
        assert type(late.exception(timeout=HANG_LIMIT / 2)) is pyconc.TaskTimeout
        assert pool._work_queue.qsize() == 0
        behind = pool.submit(abs, -1)
        gate.open()
        assert behind.result() == 1
        assert not called


def test_a_deadline_ends_what_runs():
    with pyconc.ThreadPoolExecutor(1) as pool:
        deadline = time.monotonic() + 0.05
        seen = []

        def work():
            seen.append(pyconc.current_task().deadline)
            while True:
                pass

        error = pool.options(deadline=deadline, timeout=FOREVER).submit(work).exception()
        assert type(error) is pyconc.TaskTimeout
        assert seen in ([], [pytest.approx(deadline)])


class StartsLate(pyconc.ThreadPoolExecutor):
    """It has its first worker started only when the call that needed one is gone, if that can be seen."""

    deadline = 0.0

    def _start_workers(self):
        # On a busy machine the deadline may pass before the call is queued; then a worker has to drop it.
        wait_until(lambda: not self._work_queue.qsize() or time.monotonic() > self.deadline + 1, "the call to be gone")
        super()._start_workers()


def test_a_deadline_may_pass_before_there_is_a_worker():
    """And the thread that saw it ends all the same."""
    with StartsLate(1) as pool:
        pool.deadline = time.monotonic() + 0.1
        future = pool.options(deadline=pool.deadline).submit(abs, -1)
        assert type(future.exception()) is pyconc.TaskTimeout


def test_a_future_that_is_cancelled_after_a_timeout_is_cancelled():
    with pyconc.ThreadPoolExecutor(1) as pool, Gate() as gate:
        for timeout in SOON:
            task = Loop(end=gate)
            future = stoppable(pool, timeout=timeout).submit(task)
            wait_until(lambda task=task, future=future: task.caught or future.done(), "it to be interrupted")
            if task.caught:
                break
        gate.wait_started()
        assert future.cancel()
        gate.open()
        assert pyconc.wait([future]).done
        assert future.cancelled()


def test_many_limits_are_reached_each_in_its_time():
    with pyconc.ThreadPoolExecutor(4) as pool:
        source = random.Random(1)
        futures = [pool.options(timeout=source.uniform(0.001, 0.02)).submit(Loop()) for _ in range(40)]
        for future in futures:
            assert type(future.exception()) is pyconc.TaskTimeout


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_in_the_child_of_a_fork_limits_are_watched_anew():
    with pyconc.ThreadPoolExecutor(1) as pool, Gate() as gate:
        view = pool.options(timeout=0.01)
        assert view.submit(Loop()).exception()
        pool.submit(gate)
        gate.wait_started()
        queued = pool.options(deadline=time.monotonic() + FOREVER).submit(abs, -1)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                seen = [queued.exception(), view.submit(Loop()).exception(HANG_LIMIT)]
                status = 0 if [*map(type, seen)] == [BrokenThreadPool, pyconc.TaskTimeout] else 2
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
        late = pool.options(deadline=time.monotonic() + 0.02).submit(abs, -1)
        assert type(late.exception()) is pyconc.TaskTimeout
        gate.open()
        assert queued.result() == 1


def test_shutdown_ends_the_thread_that_watches_and_an_idle_pool_does_not_wake():
    with pyconc.ThreadPoolExecutor(1) as pool:
        assert pool.options(timeout=FOREVER).submit(abs, -1).result() == 1
        assert len(os.listdir("/proc/self/task")) > len(pool._threads)
    # The fixture sees that no thread is left.


@pytest.mark.parametrize("end", ["", "sys.exit(3)", "raise SystemExit(3)"])
def test_a_program_ends_with_limits_that_are_set(end):
    run_script(
        f"""
        import sys, threading, time, pyconc
        pool = pyconc.ThreadPoolExecutor(2)
        def spin():
            while True:
                pass
        pool.options(timeout=0.05).submit(spin)
        pool.options(timeout=3600, deadline=time.monotonic() + 3600).submit(abs, -1)
        future = pool.options(deadline=time.monotonic() + 0.1).submit(spin)
        def say():
            print(type(future.exception()).__name__)
        threading.Thread(target=say).start()
        {end}
    """,
        check=not end,
    )


def test_a_program_waits_for_a_call_that_is_abandoned():
    finished = run_script("""
        import contextlib, pyconc, time
        pool, began = pyconc.ThreadPoolExecutor(1), []
        def stuck():
            for _ in range(20):
                with contextlib.suppress(BaseException):
                    began.append(True)
                    time.sleep(0.01)
            print("done")
        for timeout in (0.01, 0.1):  # on a busy machine it may be interrupted before its first line
            error = pool.options(timeout=timeout, grace=0.01).submit(stuck).exception()
            if began:
                break
        print(type(error).__name__)
    """)
    assert finished.stdout.split() == ["TaskTimeout", "done"]


async def is_awaited(view, kind):
    """Whether who cancels such a call waits until it has ended."""
    with Gate() as gate:
        task = Loop(end=gate)
        future = asyncio.get_running_loop().run_in_executor(view, KINDS[kind](task))
        await until(task.began)
        future.cancel()
        awaited = not future.done()
        gate.open()
        await asyncio.wait([future])
        return awaited


KINDS = {
    "function": lambda task: lambda: task(),
    "method": lambda task: task.__call__,
    "partial": functools.partial,
    "object": lambda task: task,
}


@pytest.mark.parametrize("kind", KINDS)
@on_every_loop
@on_loop
async def test_who_cancels_waits_whatever_is_called(new_loop, kind):
    with pyconc.ThreadPoolExecutor(1) as pool:
        assert await is_awaited(stoppable(pool), kind)


@on_every_loop
def test_on_uvloop_the_first_call_is_not_waited_for_if_the_view_was_made_before(new_loop):
    with pyconc.ThreadPoolExecutor(1) as pool:
        view, loop = stoppable(pool), new_loop()
        awaited = [loop.run_until_complete(is_awaited(view, "function")) for _ in range(2)]
        assert awaited == [isinstance(loop, asyncio.BaseEventLoop), True]
        loop.close()


@pytest.mark.parametrize("pool_type", [pyconc.ThreadPoolExecutor, pyconc.ProcessPoolExecutor, pyconc.CoroutinePool])
def test_what_options_refuse(pool_type):
    with pool_type(1) as pool:
        for name in "timeout", "grace":
            for value in -1, -math.inf, math.nan, -(10**400):
                with pytest.raises(ValueError, match=f"{name} must be a number of seconds, 0 or more, not "):
                    pool.options(**{name: value})
            for value in "1", b"1", 1j, []:
                with pytest.raises(TypeError, match=f"{name} must be a number of seconds, not {type(value).__name__}"):
                    pool.options(**{name: value})
            pool.options(**{name: 10**400})
            pool.options(**{name: fractions.Fraction(1, 2)})
        for value in math.nan, -math.inf, -(10**400):
            with pytest.raises(ValueError, match="deadline must be a time by "):
                pool.options(deadline=value)
        with pytest.raises(TypeError, match=r"deadline must be a time by time.monotonic\(\), not str"):
            pool.options(deadline="now")
        for value in "never", "", 1, []:
            with pytest.raises(ValueError, match="on_cancel must be 'abandon'"):
                pool.options(on_cancel=value)
        with pytest.raises(TypeError, match="name must be a str, not bytes"):
            pool.options(name=b"name")


@pytest.mark.parametrize("options", [{"grace": -1}, {"timeout": -1}, {"timeout": math.nan}, {"deadline": math.nan}])
def test_limits_are_numbers(options):
    with pyconc.ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="must be"):
        pool.options(**options)


# --- System calls -----------------------------------------------------------------------------------------------------


def wait_in(call):
    """Runs a call that waits in the system, cancels it, and returns when it has ended."""
    with pyconc.ThreadPoolExecutor(1) as pool:
        began = threading.Event()

        def work():
            began.set()
            call()

        future = stoppable(pool).submit(work)
        began.wait()
        time.sleep(0.05)  # most likely it waits in the system by now; the test holds if it does not
        assert future.cancel()
        assert pyconc.wait([future]).done


def test_the_pool_has_defaults():
    with pyconc.ThreadPoolExecutor(1, task_timeout=0.05, grace=FOREVER) as pool:
        for view in pool, pool.options(name="other"):
            error = view.submit(Loop()).exception(HANG_LIMIT)
            assert (type(error), error.timeout, error.stopped) == (pyconc.TaskTimeout, 0.05, "raised")
        assert pool.options(timeout=math.inf).submit(lambda: pyconc.current_task().deadline).result() is None
    with pyconc.ThreadPoolExecutor(1, on_cancel="interrupt", grace=FOREVER) as pool:
        loop = Loop()
        future = pool.submit(loop)
        assert loop.began.wait(HANG_LIMIT)
        assert future.cancel()
    for refused in {"task_timeout": -1}, {"on_cancel": "kill"}, {"grace": math.nan}:
        with pytest.raises(ValueError):
            pyconc.ThreadPoolExecutor(1, **refused)


@needs_3_15
def test_a_system_call_ends_for_the_exception():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        wait_in(lambda: time.sleep(HANG_LIMIT * 10))
        wait_in(lambda: ours.recv(1))


@needs_3_15
def test_a_system_call_ends_that_was_about_to_begin():
    """A signal that comes just before it ends nothing, so another one has to come."""
    with pyconc.ThreadPoolExecutor(1) as pool:
        for _ in range(200):
            began = threading.Event()

            def work(began=began):
                began.set()
                time.sleep(HANG_LIMIT * 10)

            future = stoppable(pool, grace=FOREVER).submit(work)
            began.wait()
            future.cancel()
            assert pyconc.wait([future], HANG_LIMIT).done


@needs_3_15
def test_signals_are_repeated_until_the_call_has_ended():
    with pyconc.ThreadPoolExecutor(1) as pool:
        threads, lock = [], threading.Lock()

        def work():
            with contextlib.suppress(pyconc.TaskCancelled):
                threads.append(threading.get_native_id())
            lock.acquire()  # which no exception ends

        with lock:
            future = stoppable(pool, grace=FOREVER).submit(work)
            wait_until(lambda: threads, "the call to begin")
            future.cancel()
            before = switches_of(threads[0])
            wait_until(lambda: switches_of(threads[0]) >= before + 8, "signals that wake the thread")
        assert pyconc.wait([future]).done


def switches_of(thread):
    with open(f"{PROC}/self/task/{thread}/status") as file:
        return int(re.search(r"^voluntary_ctxt_switches:\s*(\d+)", file.read(), re.MULTILINE).group(1))


def test_the_programs_own_handler_is_left_alone():
    number = signal.SIGRTMIN + 4
    seen = []
    old = signal.signal(number, lambda *args: seen.append(args))
    try:
        with pyconc.ThreadPoolExecutor(1) as pool:
            task = Loop()
            future = stoppable(pool).submit(task)
            task.began.wait()
            future.cancel()
            pyconc.wait([future])
        assert callable(signal.getsignal(number))
        assert not seen
    finally:
        signal.signal(number, old)


# --- The task itself --------------------------------------------------------------------------------------------------


def describe():
    task = pyconc.current_task()
    return task.name, task.deadline, task.remaining(), task.cancelled(), repr(task)


def test_a_task_in_a_thread_has_a_name():
    with pyconc.ThreadPoolExecutor(1) as pool:
        assert pool.submit(describe).result() == ("describe", None, None, False, "<pyconc.Task 'describe'>")
        assert pool.options(name="nightly").submit(describe).result()[0] == "nightly"
        assert stoppable(pool, name="nightly").options(name="other").submit(describe).result()[0] == "other"
        assert pool.options(name="nightly").submit("{}{a}".format, 1, a=2).result() == "12"
        with pytest.raises(TypeError, match="name must be a str, not int"):
            pool.options(name=1)


def test_a_task_that_is_kept_says_what_was_true_at_its_end():
    with pyconc.ThreadPoolExecutor(1) as pool:
        kept = pool.submit(pyconc.current_task).result()
        assert kept.name == "current_task"
        assert not kept.cancelled()
        kept.check()
        tasks, began = [], threading.Event()

        def work():
            tasks.append(pyconc.current_task())
            began.set()
            while True:
                pass

        future = stoppable(pool, name="some").submit(work)
        began.wait()
        future.cancel()
        pyconc.wait([future])
        assert tasks[0].cancelled()
        assert tasks[0].name == "some"
        tasks[0].check()  # the task is over
        with tasks[0].shield():
            pass


def test_callbacks_and_other_threads_run_no_task():
    with pyconc.ThreadPoolExecutor(1) as pool, Gate() as gate:
        seen = []
        future = pool.submit(gate)
        gate.wait_started()
        future.add_done_callback(lambda _: seen.append(pyconc.current_task()))
        gate.open()
        future.result()
        pool.submit(abs, 1).result()
        assert seen == [None]
        assert pyconc.current_task() is None


def test_check_raises_and_shield_keeps_off():
    with pyconc.ThreadPoolExecutor(1) as pool:
        began, steps = threading.Event(), []

        def work():
            task = pyconc.current_task()
            with task.shield(), task.shield():
                began.set()
                while not task.cancelled():
                    task.check()
                for _ in range(10_000):
                    pass
                task.check()
                steps.append("shielded")
            steps.append("not reached")

        future = stoppable(pool).submit(work)
        began.wait()
        assert future.cancel()
        assert pyconc.wait([future]).done
        assert steps == ["shielded"]


def test_a_call_that_is_asked_at_the_entry_of_a_shield_is_not_interrupted_within():
    with pyconc.ThreadPoolExecutor(1) as pool, switching_often():
        torn, caught = [], 0
        for _ in range(THOUSAND // 5):
            began = threading.Event()

            def work(began=began):
                task = pyconc.current_task()
                began.set()
                while True:
                    with task.shield():
                        torn.append(1)
                        for _ in range(random.randrange(50)):
                            pass
                        torn.pop()

            future = stoppable(pool).submit(work)
            began.wait()
            assert future.cancel()
            pyconc.wait([future])
            assert not torn
            caught += future.cancelled()
        assert caught == THOUSAND // 5


# --- Tasks above others -----------------------------------------------------------------------------------------------


def test_the_call_that_waits_is_interrupted_when_the_one_above_has_ended():
    with pyconc.ThreadPoolExecutor(1) as pool, Gate() as gate:
        inner_seen, caught = [], []

        def inner():
            gate()
            for number in range(10_000):
                inner_seen.append(number)
            return pyconc.current_task().name

        def outer():
            try:
                pool.options(name="inner").submit(inner).result()
            except BaseException as error:
                caught.append(error)
                raise

        future = stoppable(pool).submit(outer)
        gate.wait_started()
        assert future.cancel()
        gate.open()
        assert pyconc.wait([future]).done
        assert len(inner_seen) == 10_000
        assert [type(error) for error in caught] == [pyconc.TaskCancelled]


def test_the_call_above_is_interrupted_and_the_one_that_waits_goes_on():
    with pyconc.ThreadPoolExecutor(1) as pool:
        task, futures = Loop(), []

        def outer():
            futures.append(stoppable(pool, name="inner").submit(task))
            with pytest.raises(pyconc.CancelledError):
                futures[0].result()
            return pyconc.current_task().name

        future = stoppable(pool, name="outer").submit(outer)
        task.began.wait()
        assert futures[0].cancel()
        assert future.result() == "outer"
        assert task.ended.is_set()


# --- Storms -----------------------------------------------------------------------------------------------------------


class Checked:
    """Tasks that note each exception that is none of their own."""

    def __init__(self):
        self.wrong = []
        self.interrupted = 0
        self.futures = {}

    def run(self, number, calls):
        try:
            for _ in range(calls):
                sum(range(50))
        except pyconc.TaskCancelled:
            self.interrupted += 1
            if not self.asked(number):
                self.wrong.append(number)
            raise
        return number

    def asked(self, number):
        return number % 2 == 1


@contextlib.contextmanager
def switching_often():
    old = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        yield
    finally:
        sys.setswitchinterval(old)


def cancel_at_random(pool, checked, rounds):
    """Runs six calls at a time on three threads, and cancels every second one at a random instant."""
    view = stoppable(pool)
    source = random.Random(1)
    for first in range(0, rounds, 6):
        numbers = range(first, first + 6)
        futures = {number: view.submit(checked.run, number, source.randrange(3000)) for number in numbers}
        for number in numbers[1::2]:
            future = futures[number]
            while not future.running() and not future.done():
                time.sleep(0)
            for _ in range(source.randrange(3)):
                time.sleep(0)
            future.cancel()
        assert not pyconc.wait(futures.values(), timeout=HANG_LIMIT).not_done
        for number, future in futures.items():
            assert (checked.asked(number) and future.cancelled()) or future.result() == number
    assert not checked.wrong


@pytest.mark.parametrize("rounds", [THOUSAND // 2, pytest.param(20 * THOUSAND, marks=more_rounds)])
def test_no_exception_lands_in_another_task(rounds):
    checked = Checked()
    with pyconc.ThreadPoolExecutor(3) as pool, switching_often():
        cancel_at_random(pool, checked, rounds)
        assert len(pool._threads) == 3
    assert checked.interrupted > rounds / 100


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_no_exception_lands_in_another_task_while_the_program_forks():
    checked, end = Checked(), threading.Event()
    statuses = []

    def fork():
        while not end.is_set():
            pid = os.fork()
            if pid == 0:
                os._exit(0 if pyconc.current_task() is None else 1)
            statuses.append(os.waitpid(pid, 0)[1])

    forks = threading.Thread(target=fork)
    forks.start()
    try:
        with pyconc.ThreadPoolExecutor(3) as pool, switching_often():
            cancel_at_random(pool, checked, THOUSAND // 4)
    finally:
        end.set()
        forks.join()
    assert statuses
    assert set(statuses) == {0}


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_task_that_forks_is_no_task_in_the_child():
    with pyconc.ThreadPoolExecutor(1) as pool:
        reader, writer = os.pipe()
        began = threading.Event()

        def work():
            task = pyconc.current_task()
            if os.fork() == 0:
                with contextlib.suppress(BaseException):
                    task.check()
                    with task.shield():
                        found = repr((pyconc.current_task(), task.cancelled()))
                    os.write(writer, found.encode())
                os._exit(0)
            began.set()
            while True:
                pass

        future = stoppable(pool).submit(work)
        began.wait()
        assert os.read(reader, 100) == b"(None, False)"
        assert future.cancel()
        pyconc.wait([future])
        os.wait()
        os.close(reader)
        os.close(writer)


def test_nothing_leaks():
    with pyconc.ThreadPoolExecutor(1) as pool:
        view = stoppable(pool, name="some")

        def stop_one():
            task = Loop()
            future = view.submit(task)
            task.began.wait()
            future.cancel()
            pyconc.wait([future])
            pool.submit(pyconc.current_task).result()

        check_no_leak(stop_one, repeat=10)


def test_a_program_ends_with_a_call_that_was_cancelled():
    run_script("""
        import threading, pyconc
        pool = pyconc.ThreadPoolExecutor(1)
        began = threading.Event()
        def work():
            began.set()
            while True:
                pass
        future = pool.options(on_cancel="interrupt").submit(work)
        began.wait()
        assert future.cancel()
    """)
