"""ProcessPoolExecutor.options(timeout=, deadline=): a call whose time is over ends, and nothing else does."""

import asyncio
import concurrent.futures
import contextlib
import ctypes
import math
import os
import pickle
import random
import re
import signal
import sys
import threading
import time

import pytest
from gates import ProcessGate
from loops import on_every_loop, on_loop
from pools import pool_of, with_pool
from stopping import timer_is_off
from support import HANG_LIMIT, THOUSAND, more_rounds, run_script, wait_until

import pyconc
from pyconc._process import black_box, signals
from pyconc._process.call_stopper import CallStopper

# Longer than any test takes: what would be killed after that was not killed at all.
FOREVER = 3600


def wait_for_ever():
    while True:
        signal.pause()


def loop_for_ever():
    while True:
        pass


def sleep_for_ever():
    time.sleep(FOREVER)


def search_for_ever():
    return re.fullmatch("(a+)+b", "a" * 100)


def hold_the_gil():
    sum(range(10**15))  # C code that never looks


def swallow():
    while True:
        with contextlib.suppress(BaseException):
            signal.pause()


def nothing():
    """Lets a worker import this module, which may take longer than a timeout or until a deadline."""


class SlowToUnpickle:
    def __reduce__(self):
        return time.sleep, (0.2,)


@with_pool
def test_what_it_takes_to_unpickle_a_call_does_not_count(pool):
    """Such as to import its module in a new worker."""
    limited = pool.options(timeout=0.1, grace=FOREVER)
    for _ in range(2):
        assert limited.submit(str, SlowToUnpickle()).result() == "None"
    assert timeout_of(limited.submit(lambda _: wait_for_ever(), SlowToUnpickle())).ran_for < HANG_LIMIT


def timeout_of(future):
    with pytest.raises(pyconc.TaskTimeout) as caught:
        future.result(HANG_LIMIT)
    return caught.value


@pytest.mark.parametrize("fn", [wait_for_ever, loop_for_ever, sleep_for_ever, search_for_ever])
@with_pool
def test_a_call_is_interrupted_when_its_time_is_over(pool, fn):
    worker = pool.submit(os.getpid).result()
    error = timeout_of(pool.options(timeout=0.05, grace=FOREVER).submit(fn))
    assert (error.timeout, error.deadline, error.stopped, error.task_name) == (0.05, None, "raised", fn.__name__)
    assert error.ran_for >= 0.05
    assert str(error).startswith(f"{fn.__name__} has reached its timeout of 0.05 s: it ran for ")
    assert str(error).endswith(" s, and it has ended with an exception")
    assert pool.submit(os.getpid).result() == worker


@pytest.mark.parametrize("fn", [hold_the_gil, swallow])
@with_pool
def test_a_call_that_does_not_end_is_killed_after_the_grace(pool, fn):
    worker = pool.submit(os.getpid).result()
    error = timeout_of(pool.options(timeout=0.05, grace=0.05).submit(fn))
    assert (error.timeout, error.stopped) == (0.05, "killed")
    assert error.ran_for >= 0.1
    assert "its worker process was killed" in str(error)
    assert pool.submit(os.getpid).result() != worker


@pytest.mark.parametrize("fn", [wait_for_ever, hold_the_gil])
@with_pool
def test_a_call_is_killed_at_once(pool, fn):
    error = timeout_of(pool.options(timeout=0.05, on_cancel="kill", grace=FOREVER).submit(fn))
    assert error.stopped == "killed"


@with_pool
def test_another_worker_is_there_before_the_next_call(pool):
    worker = pool.submit(os.getpid).result()
    for _ in range(3):
        assert timeout_of(pool.options(timeout=0.05, on_cancel="kill").submit(wait_for_ever)).stopped == "killed"
        # Nobody submits anything meanwhile.
        wait_until(lambda worker=worker: [*pool._processes] not in ([], [worker]), "another worker to begin")
        [another] = pool._processes
        assert pool.submit(os.getpid).result() == another
        worker = another


def check_for_ever():
    while True:
        pyconc.current_task().check()


@pytest.mark.parametrize("fn", [loop_for_ever, sleep_for_ever, search_for_ever, check_for_ever, hold_the_gil])
@with_pool
def test_the_error_shows_where_the_call_was(pool, fn):
    # Its worker needs a moment of the CPU to say so, before it is killed if it has to be.
    error = timeout_of(pool.options(timeout=0.05, grace=1 if fn is hold_the_gil else FOREVER).submit(fn))
    assert f" in {fn.__name__}" in error.stack
    assert error.stack.rstrip() in str(error.__cause__)


@pytest.mark.parametrize("fn", [loop_for_ever, hold_the_gil])
@with_pool
def test_nothing_of_how_the_worker_was_started_is_shown(pool, fn):
    stack = timeout_of(pool.options(timeout=0.05, grace=1 if fn is hold_the_gil else FOREVER).submit(fn)).stack
    assert re.search(r'pyconc/_process/worker_main\.py", line \d+ in main\n\Z', stack), stack


@with_pool
def test_also_without_any_grace(pool, monkeypatch):
    monkeypatch.setattr(black_box.BlackBox.wait, "__defaults__", (HANG_LIMIT,))  # it may get no CPU for a while
    error = timeout_of(pool.options(timeout=0.05, grace=0).submit(hold_the_gil))
    assert error.stopped == "killed"
    assert " in hold_the_gil\n" in error.stack


def clean_up_at(gate):
    try:
        sleep_for_ever()
    finally:
        gate()


@with_pool
def test_it_shows_where_the_call_was_then_and_not_where_it_cleans_up(pool):
    pool.submit(nothing).result()
    with ProcessGate() as gate:
        future = pool.options(timeout=0.05, grace=FOREVER).submit(clean_up_at, gate)
        gate.wait_started()
        wait_until(lambda: pool._opened._call_stopper._repeats, "the supervisor to be told, and to ask")
        gate.open()
        assert " in sleep_for_ever\n" in timeout_of(future).stack


@with_pool
def test_one_call_s_stack_is_no_other_s(pool):
    limited = pool.options(timeout=0.05, grace=FOREVER)
    assert " in sleep_for_ever\n" in timeout_of(limited.submit(sleep_for_ever)).stack
    stack = timeout_of(limited.submit(loop_for_ever)).stack
    assert " in loop_for_ever\n" in stack
    assert " in sleep_for_ever\n" not in stack


@with_pool
def test_a_call_is_interrupted_before_the_supervisor_gets_to_it(pool, monkeypatch):
    """It would be one more thread to wait for, and the GIL, on a busy machine."""
    ended = threading.Event()

    def hold_up(self, supervisor, stop_calls=CallStopper.stop_calls):
        if any(supervisor.queue.find_stopping(call) is not None for call in range(100)):
            ended.wait(HANG_LIMIT)
        stop_calls(self, supervisor)

    monkeypatch.setattr(CallStopper, "stop_calls", hold_up)
    try:
        future = pool.options(timeout=0.05, grace=FOREVER).submit(loop_for_ever)
        assert " in loop_for_ever\n" in timeout_of(future).stack
    finally:
        ended.set()


def hold_in_shield(gate):
    with pyconc.current_task().shield():  # its time may be over before the test goes on
        gate()


@with_pool
def test_also_when_the_worker_gets_no_cpu_until_long_after(pool):
    pool.submit(nothing).result()
    with ProcessGate() as gate:
        future = pool.options(timeout=0.05, grace=FOREVER).submit(hold_in_shield, gate)
        [worker] = gate.wait_started()
        os.kill(worker, signal.SIGSTOP)
        wait_until(lambda: pool._opened._call_stopper._overdue, "the worker to be asked, and to be told")
        os.kill(worker, signal.SIGCONT)
        gate.open()
        error = timeout_of(future)
    assert " in hold_in_shield\n" in error.stack
    assert " in __exit__\n" not in error.stack  # which is where it was interrupted
    assert error.stopped == "raised"


def sleep_until_a_signal():
    ctypes.PyDLL(None).sleep(FOREVER)


@with_pool
def test_also_when_the_call_ends_as_its_worker_is_asked(pool, monkeypatch):
    monkeypatch.setattr(black_box.BlackBox.wait, "__defaults__", (HANG_LIMIT,))  # it may get no CPU for a while
    for on_cancel in "kill", "interrupt":
        limited = pool.options(timeout=0.05, on_cancel=on_cancel, grace=FOREVER)
        assert " in sleep_until_a_signal\n" in timeout_of(limited.submit(sleep_until_a_signal)).stack


@with_pool
def test_a_worker_that_has_filled_its_part_of_the_black_box_is_asked_no_more(pool):
    pool.submit(abs, -1).result()
    pool._opened._box._asked[0] = black_box._PART_BYTES
    killed = pool.options(timeout=0.05, on_cancel="kill")
    assert timeout_of(killed.submit(sleep_for_ever)).stack is None
    assert " in sleep_for_ever\n" in timeout_of(killed.submit(sleep_for_ever)).stack


@with_pool
def test_the_error_goes_through_pickle(pool):
    error = timeout_of(pool.options(timeout=0.05, name="slow").submit(wait_for_ever))
    copied = pickle.loads(pickle.dumps(error))
    assert type(copied) is pyconc.TaskTimeout
    assert vars(copied) == vars(error)
    assert str(copied) == str(error)
    assert isinstance(error, TimeoutError)
    assert isinstance(error, concurrent.futures.TimeoutError)


@with_pool
def test_a_call_that_ends_in_time_is_as_ever(pool):
    limited = pool.options(timeout=FOREVER, deadline=time.monotonic() + FOREVER)
    assert limited.submit(abs, -1).result() == 1
    with pytest.raises(ZeroDivisionError):
        limited.submit(divmod, 1, 0).result()
    assert list(limited.map(abs, range(-5, 0))) == [5, 4, 3, 2, 1]
    assert limited.submit(lambda: pyconc.current_task().remaining()).result() > FOREVER / 2


def clean_up(path, result):
    try:
        wait_for_ever()
    except pyconc.TaskCancelled as error:
        path.write_text(error.reason)
        if result is not None:
            raise result from None
    return "late"


@pytest.mark.parametrize(("result", "stopped"), [(None, "returned"), (ValueError("other"), "raised")])
@with_pool
def test_what_comes_late_is_dropped(pool, tmp_path, result, stopped):
    path = tmp_path / "reason"
    error = timeout_of(pool.options(timeout=0.05, grace=FOREVER).submit(clean_up, path, result))
    assert error.stopped == stopped
    how = "its result came too late and is dropped" if stopped == "returned" else "it has ended with an exception"
    assert str(error).endswith(f" s, and {how}")
    assert path.read_text() == "timeout"


def say_when_interrupted(path):
    try:
        wait_for_ever()
    except pyconc.TaskCancelled:
        path.touch()
        raise


@with_pool
def test_a_call_is_interrupted_while_a_thread_of_the_program_keeps_the_gil(pool, tmp_path):
    """Who has the GIL keeps it for its switch interval."""
    access = ctypes.PyDLL(None).access  # which does not release it
    interval = sys.getswitchinterval()
    for number in range(20):
        path = tmp_path / str(number)
        future = pool.options(timeout=0.2, grace=FOREVER).submit(say_when_interrupted, path)
        wait_until(future.running)
        end = time.monotonic() + 2
        sys.setswitchinterval(HANG_LIMIT)
        try:
            while (is_missing := access(bytes(path), os.F_OK) != 0) and time.monotonic() < end:
                pass
        finally:
            sys.setswitchinterval(interval)
        timeout_of(future)
        if not is_missing:  # unless the machine is very busy
            break
    else:
        pytest.fail("it is not")


class PickledAtGate:
    def __init__(self, gate):
        self.gate = gate

    def __reduce__(self):
        self.gate()
        return abs, (-1,)


@with_pool
def test_to_pickle_its_result_belongs_to_a_call_but_is_not_interrupted(pool):
    worker = pool.submit(os.getpid).result()
    with ProcessGate() as gate:
        future = pool.options(timeout=0.05, grace=FOREVER).submit(PickledAtGate, gate)
        gate.wait_started()
        wait_until(lambda: pool._opened._call_stopper._repeats, "the supervisor to be told, and to interrupt it")
        gate.open()
        error = timeout_of(future)
        assert error.stopped == "returned"
        assert gate.is_left()
    assert pool.submit(os.getpid).result() == worker


def hold(path):
    path.with_suffix(".held").write_text("")
    wait_until(path.exists)


@contextlib.contextmanager
def busy(pool, path):
    """Every worker is held until the end of the block."""
    holds = [pool.submit(hold, path) for _ in range(pool._max_workers)]
    wait_until(path.with_suffix(".held").exists)
    try:
        yield
    finally:
        path.write_text("")
        concurrent.futures.wait(holds)


@with_pool
def test_a_timeout_does_not_count_while_a_call_waits(pool, tmp_path):
    with busy(pool, tmp_path / "go"):
        calls = [pool.options(timeout=0.02, grace=FOREVER).submit(wait_for_ever) for _ in range(5)]
        # Each looks at the queue about once in its timeout: after ten of them nothing has ended.
        assert concurrent.futures.wait(calls, 0.2).done == set()
    assert [timeout_of(call).stopped for call in calls] == ["raised"] * 5


@pytest.mark.parametrize("ahead", [0, 200])
@with_pool
def test_a_call_that_waits_until_its_deadline_never_begins(pool, tmp_path, ahead):
    began = tmp_path / "began"
    with busy(pool, tmp_path / "go"):
        before = [pool.submit(abs, -1) for _ in range(ahead)]
        late = pool.options(deadline=time.monotonic() + 0.05).submit(began.write_text, "began")
        after = pool.submit(abs, -2)
        error = timeout_of(late)
        assert not after.done()
    assert (error.ran_for, error.stopped, error.stack, error.timeout) == (None, None, None, None)
    assert str(error).endswith("has not begun before its deadline")
    assert [call.result() for call in before] == [1] * ahead
    assert after.result() == 2
    assert not began.exists()


@with_pool
def test_a_deadline_that_has_passed_is_told_at_once(pool, tmp_path):
    began = tmp_path / "began"
    for deadline in 0, -1, time.monotonic() - 0.001:
        call = pool.options(deadline=deadline).submit(began.write_text, "began")
        assert call.done()
        assert timeout_of(call).deadline == pytest.approx(deadline)
    assert not began.exists()


@with_pool
def test_a_deadline_ends_what_runs(pool):
    pool.submit(nothing).result()
    for seconds in (0.1, 1, 10):  # on a busy machine it may not begin so soon
        deadline = time.monotonic() + seconds
        error = timeout_of(pool.options(deadline=deadline, grace=FOREVER).submit(wait_for_ever))
        assert time.monotonic() >= deadline
        if error.ran_for is not None:
            break
    assert error.deadline == pytest.approx(deadline)  # to a nanosecond
    assert (error.timeout, error.stopped) == (None, "raised")
    assert "wait_for_ever has reached its deadline" in str(error)


@with_pool
def test_the_earlier_of_both_counts(pool):
    pool.submit(nothing).result()
    now = time.monotonic()
    soon, late = now + 0.1, now + FOREVER
    # On a busy machine it may not begin so soon.
    assert (timeout_of(pool.options(timeout=FOREVER, deadline=soon).submit(wait_for_ever)).ran_for or 0) < FOREVER
    assert timeout_of(pool.options(timeout=0.05, deadline=late).submit(wait_for_ever)).ran_for < FOREVER


@with_pool
def test_a_task_knows_its_limits(pool):
    def look():
        task = pyconc.current_task()
        return task.deadline, task.remaining()

    before = time.monotonic()
    deadline, remaining = pool.options(timeout=50).submit(look).result()
    assert before + 50 <= deadline <= time.monotonic() + 50
    assert 0 < remaining <= 50
    soon = before + 40
    assert pool.options(timeout=50, deadline=soon).submit(look).result()[0] == pytest.approx(soon)
    assert pool.options(on_cancel="kill").submit(look).result() == (None, None)
    assert pool.submit(look).result() == (None, None)


def check_until_the_end():
    task = pyconc.current_task()
    with task.shield():
        while task.remaining():
            pass
        while not task.cancelled():
            pass


@with_pool
def test_a_task_sees_its_time_run_out(pool):
    assert timeout_of(pool.options(timeout=0.05, grace=FOREVER).submit(check_until_the_end)).stopped == "raised"


@pytest.mark.parametrize("sizes", [{}, {"chunksize": 4}])
def test_each_call_of_a_map_has_the_time(sizes):
    with pool_of(2) as pool:
        ends = {}
        calls = pool.options(timeout=FOREVER).map(begin_and_end, range(12), **sizes)
        for worker, began, ended in sorted(calls, key=lambda call: call[1]):
            assert began >= ends.get(worker, 0) - 1e-6
            ends[worker] = ended
        with pytest.raises(pyconc.TaskTimeout):
            list(pool.options(timeout=0.2, grace=FOREVER).map(time.sleep, [0, FOREVER, 0], **sizes))


def begin_and_end(_):
    """In which worker, since when its time runs, and when it ended."""
    began = pyconc.current_task().deadline - FOREVER
    time.sleep(0.01)
    return os.getpid(), began, time.monotonic()


def test_the_pool_has_defaults():
    with pool_of(1, task_timeout=0.05, grace=FOREVER) as pool:
        assert timeout_of(pool.submit(wait_for_ever)).timeout == 0.05
        assert timeout_of(pool.options(name="slow").submit(wait_for_ever)).timeout == 0.05
        assert pool.options(timeout=math.inf).submit(lambda: pyconc.current_task().remaining()).result() is None
        with pytest.raises(pyconc.TaskTimeout):
            list(pool.map(time.sleep, [0, FOREVER]))
    with pool_of(1, on_cancel="interrupt", grace=FOREVER) as pool:
        call = pool.submit(wait_for_ever)
        wait_until(call.running)
        assert call.cancel()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"timeout": -1}, ValueError),
        ({"timeout": math.nan}, ValueError),
        ({"timeout": "1"}, TypeError),
        ({"deadline": math.nan}, ValueError),
        ({"deadline": -math.inf}, ValueError),
        ({"deadline": "1"}, TypeError),
        ({"grace": -1}, ValueError),
        ({"on_cancel": "stop"}, ValueError),
    ],
)
@with_pool
def test_what_makes_no_sense_is_refused(pool, options, error):
    with pytest.raises(error):
        pool.options(**options)
    if "deadline" not in options:
        options = {"task_timeout" if name == "timeout" else name: value for name, value in options.items()}
        with pytest.raises(error):
            pyconc.ProcessPoolExecutor(**options)


@pytest.mark.parametrize("limit", [1e-9, 0, 1e18, math.inf])
@with_pool
def test_odd_times_work(pool, limit):
    for _ in range(20):
        call = pool.options(timeout=limit, grace=FOREVER).submit(abs, -1)
        assert isinstance(call.exception(HANG_LIMIT), (pyconc.TaskTimeout, type(None)))
    call = pool.options(timeout=limit, grace=FOREVER).submit(wait_for_ever)
    if limit < 1:
        assert timeout_of(call).timeout == limit
    else:
        wait_until(call.running)
        pool.kill_workers()


@with_pool
def test_cancelled_before_its_time_is_over(pool):
    call = pool.options(timeout=FOREVER, on_cancel="interrupt", grace=FOREVER).submit(wait_for_ever)
    wait_until(call.running)
    assert call.cancel()
    assert call.cancelled()
    assert pool.submit(abs, -1).result() == 1


def shielded_for(path, go):
    with pyconc.current_task().shield():
        path.write_text("began")
        wait_until(pyconc.current_task().cancelled)
        path.with_suffix(".asked").write_text("")
        wait_until(go.exists)


@pytest.mark.parametrize("on_cancel", ["abandon", "interrupt"])
@with_pool
def test_cancelled_when_its_time_is_over_already(pool, tmp_path, on_cancel):
    """It is cancelled if that can be; the call itself has been told the first reason."""
    path, go = tmp_path / "began", tmp_path / "go"
    asked = path.with_suffix(".asked")
    while not asked.exists():  # on a busy machine its time may be over before it is shielded
        call = pool.options(timeout=0.05, on_cancel=on_cancel, grace=FOREVER).submit(shielded_for, path, go)
        wait_until(lambda call=call: asked.exists() or call.done())
    assert call.cancel() is (on_cancel == "interrupt")
    go.write_text("")
    if on_cancel == "abandon":
        assert timeout_of(call).stopped == "raised"
    else:
        assert call.cancelled()
    assert pool.submit(abs, -1).result() == 1


@on_every_loop
@on_loop
async def test_a_loops_future_gets_it(new_loop):
    loop = asyncio.get_running_loop()
    with pool_of(1) as pool:
        limited = pool.options(timeout=0.05, grace=FOREVER)
        with pytest.raises(pyconc.TaskTimeout) as caught:
            await loop.run_in_executor(limited, wait_for_ever)
        assert caught.value.stopped == "raised"
        past = pool.options(deadline=0)
        with pytest.raises(pyconc.TaskTimeout):
            await loop.run_in_executor(past, abs, -1)
        assert await loop.run_in_executor(limited, abs, -1) == 1


@on_every_loop
@on_loop
async def test_a_task_that_is_cancelled_meanwhile_is_cancelled(new_loop, tmp_path):
    """asyncio.timeout() and TaskGroup count on CancelledError for each cancel() that was answered with True."""
    path, go = tmp_path / "began", tmp_path / "go"
    loop = asyncio.get_running_loop()
    with pool_of(1) as pool:
        limited = pool.options(timeout=0.05, on_cancel="interrupt", grace=FOREVER)

        async def call():
            await loop.run_in_executor(limited, shielded_for, path, go)

        task = asyncio.ensure_future(call())
        while not path.with_suffix(".asked").exists():
            await asyncio.sleep(0.001)
            if task.done():  # on a busy machine its time may be over before it is shielded
                assert isinstance(task.exception(), pyconc.TaskTimeout)
                task = asyncio.ensure_future(call())
        task.cancel()
        go.write_text("")
        with pytest.raises(asyncio.CancelledError):
            await task


@with_pool
def test_a_worker_that_dies_of_something_else_is_told_as_that(pool):
    error = pool.options(timeout=FOREVER).submit(signal.raise_signal, signal.SIGKILL).exception()
    assert isinstance(error, pyconc.WorkerDied)


def test_a_pool_that_breaks_at_a_death_does_not_break_at_a_timeout():
    with pool_of(1, on_worker_death="break") as pool:
        assert timeout_of(pool.options(timeout=0.05, on_cancel="kill").submit(wait_for_ever)).stopped == "killed"
        assert pool.submit(abs, -1).result() == 1


@with_pool
def test_the_time_goes_on_after_a_shutdown(pool):
    call = pool.options(timeout=0.1, grace=FOREVER).submit(wait_for_ever)
    queued = pool.options(deadline=time.monotonic() + FOREVER).submit(abs, -1)
    pool.shutdown(wait=True)
    assert timeout_of(call).stopped == "raised"
    assert queued.result() == 1


@with_pool
def test_many_at_once_end(pool):
    now = time.monotonic()
    calls = [pool.options(deadline=now + random.uniform(0.01, 0.3)).submit(time.sleep, 0.005) for _ in range(300)]
    ends = [call.exception(HANG_LIMIT) for call in calls]
    assert {type(end) for end in ends} <= {pyconc.TaskTimeout, type(None)}
    assert pyconc.TaskTimeout in {type(end) for end in ends}
    assert pool.submit(abs, -1).result() == 1


def check_number(number, seconds):
    try:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pass
    except pyconc.TaskCancelled:
        return "told", number
    return number


@pytest.mark.parametrize("calls_made", [THOUSAND // 10, pytest.param(2 * THOUSAND, marks=more_rounds)])
@pytest.mark.parametrize("forks", [False, True])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_storm_of_timeouts_has_no_wrong_victim(forks, calls_made):
    """Some calls have hardly any time; those beside and after them have, and must see nothing of it."""
    with pool_of(2) as pool, contextlib.ExitStack() as stack:
        if forks:
            stop = threading.Event()
            thread = threading.Thread(target=fork_until, args=(stop,))
            thread.start()
            stack.callback(thread.join)
            stack.callback(stop.set)
        limited, free = pool.options(timeout=0.001, grace=FOREVER), pool.options(timeout=FOREVER)
        calls = []
        for number in range(calls_made):
            view = limited if number % 2 else free
            calls.append(view.submit(check_number, number, random.uniform(0, 0.002)))
        for number, call in enumerate(calls):
            if number % 2:
                assert isinstance(call.exception(HANG_LIMIT), (pyconc.TaskTimeout, type(None)))
            else:
                assert call.result(HANG_LIMIT) == number
        assert pool.submit(abs, -1).result() == 1


def fork_until(stop):
    while not stop.is_set():
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_limits_in_the_child_of_a_fork():
    with pool_of(1) as pool:
        limited = pool.options(timeout=0.05, deadline=time.monotonic() + FOREVER, grace=FOREVER)
        # Its time must not be over before the fork.
        call = pool.options(timeout=FOREVER, on_cancel="interrupt", grace=FOREVER).submit(wait_for_ever)
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                text = type(call.exception()).__name__ + type(limited.submit(wait_for_ever).exception()).__name__
                os.write(writer, text.encode())
                pool.shutdown()
            os._exit(0)
        os.waitpid(pid, 0)
        assert os.read(reader, 100) == b"BrokenProcessPoolTaskTimeout"
        os.close(reader)
        os.close(writer)
        wait_until(call.running)
        assert call.cancel()
        assert timeout_of(limited.submit(wait_for_ever)).stopped == "raised"


PROGRAM = """
    import signal
    import time

    import pyconc

    if __name__ == "__main__":
        pool = pyconc.ProcessPoolExecutor(1)
        print(repr(pool.options(timeout=0.05).submit(time.sleep, 3600).exception()), flush=True)
        pool.options(timeout=0.1).submit(time.sleep, 3600)
        # The end of the program waits for it.
"""


def test_a_program_ends_when_its_calls_have_reached_their_limits():
    finished = run_script(PROGRAM)
    assert finished.stdout.startswith("TaskTimeout('sleep has reached its timeout of 0.05 s")
    assert finished.stderr == ""


def test_an_idle_pool_that_had_limits_sleeps():
    """The timer fires once more for what is over, and then no more."""
    with pool_of(1) as pool:
        for _ in range(20):
            pool.options(timeout=0.05, deadline=time.monotonic() + 0.05).submit(abs, -1).exception()
        timer = pool._opened.queue.supervise(signals.STOP)[1]
        wait_until(lambda: timer_is_off(timer))
