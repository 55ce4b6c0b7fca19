"""ProcessPoolExecutor.options(on_cancel=): a call that runs is stopped, and nothing else is."""

import asyncio
import concurrent.futures
import contextlib
import functools
import importlib
import os
import random
import signal
import sys
import threading
import time
import weakref

import pytest
from jobs import hold
from loops import on_every_loop, on_loop
from pools import pool_of, with_pool
from stopping import FOREVER, stoppable, timer_is_off
from support import HANG_LIMIT, THOUSAND, another_thread, more_rounds, wait_until

import pyconc
from pyconc._process import kernel, signals

needs_3_11 = pytest.mark.skipif(sys.version_info < (3, 11), reason="new in Python 3.11")


def note(path, text):
    with open(path, "a") as file:
        file.write(f"{text}\n")


def notes(path):
    return path.read_text().split() if path.exists() else []


def loop_in_python(path):
    note(path, os.getpid())
    while True:
        pass


def sleep_in_c(path):
    note(path, os.getpid())
    time.sleep(FOREVER)


def wait_for_a_lock(path):
    lock = threading.Lock()
    lock.acquire()
    note(path, os.getpid())
    lock.acquire()


def wait_for_a_thread(path):
    thread = threading.Thread(target=threading.Event().wait, daemon=True)
    thread.start()
    note(path, os.getpid())
    thread.join()


def catch_exceptions(path):
    while True:
        with contextlib.suppress(Exception):
            sleep_in_c(path)


def compute_in_c(path):
    with pyconc.current_task().shield():  # until it computes
        note(path, os.getpid())
        sum(range(10**15))


def swallow_all(path):
    with contextlib.suppress(BaseException):  # it is told once, from when it has begun
        note(path, os.getpid())
        time.sleep(FOREVER)
    time.sleep(FOREVER)


def clean_up(path, end):
    try:
        sleep_in_c(path)
    finally:
        note(path, type(sys.exc_info()[1]).__name__)
        end()


def pass_gate(gate):
    """Waits until the test opens the other end of a named pipe."""
    gate.open().close()


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def nothing():
    pass


INTERRUPTIBLE = [loop_in_python, sleep_in_c, wait_for_a_lock, wait_for_a_thread, catch_exceptions]


async def begin(loop, executor, path, fn, *args):
    """Starts a call on the loop, and returns its future when it runs."""
    future = loop.run_in_executor(executor, fn, path, *args)
    while not notes(path):
        await asyncio.sleep(0.001)
    return future


def begin_here(executor, path, fn, *args):
    future = executor.submit(fn, path, *args)
    wait_until(lambda: notes(path) and future.running(), "the call to run")
    return future


# --- On a loop --------------------------------------------------------------------------------------------------------


@on_every_loop
@pytest.mark.parametrize("fn", INTERRUPTIBLE)
@on_loop
async def test_a_cancelled_call_ends_and_its_worker_goes_on(new_loop, tmp_path, fn):
    loop, path = asyncio.get_running_loop(), tmp_path / "notes"
    with pool_of(max_workers=1) as pool:
        future = await begin(loop, pool.options(on_cancel="interrupt", grace=FOREVER), path, fn)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(future, 0.01)
        assert future.cancelled()
        assert await loop.run_in_executor(pool, os.getpid) == int(notes(path)[0])


@on_every_loop
@on_loop
async def test_who_cancels_waits_until_the_call_has_cleaned_up(new_loop, tmp_path):
    loop, path = asyncio.get_running_loop(), tmp_path / "notes"
    with pool_of(max_workers=1) as pool:
        view = pool.options(on_cancel="interrupt", grace=FOREVER)
        gate = tmp_path / "gate"
        os.mkfifo(gate)
        future = await begin(loop, view, path, clean_up, functools.partial(pass_gate, gate))
        assert future.cancel(msg="first")
        assert future.cancel(msg="enough")
        assert not future.done()
        gate.open("w").close()
        with pytest.raises(asyncio.CancelledError) as caught:
            await future
        assert notes(path)[1:] == ["TaskCancelled"]
        assert caught.value.args == ("enough",)
        assert not future.cancel()


@on_every_loop
@on_loop
async def test_a_task_that_awaits_a_call_is_cancelled_when_that_has_ended(new_loop, tmp_path):
    loop, path = asyncio.get_running_loop(), tmp_path / "notes"
    with pool_of(max_workers=1) as pool:
        view = pool.options(on_cancel="interrupt", grace=FOREVER)

        future = await begin(loop, view, path, clean_up, nothing)

        async def wait():
            await future

        task = loop.create_task(wait())
        await asyncio.sleep(0)  # until it awaits the call
        task.cancel("enough")
        with pytest.raises(asyncio.CancelledError):
            await task
        assert notes(path)[1:] == ["TaskCancelled"]


@needs_3_11
@on_every_loop
@on_loop
async def test_a_failing_task_group_stops_its_calls(new_loop, tmp_path):
    loop, path = asyncio.get_running_loop(), tmp_path / "notes"
    with pool_of(max_workers=1) as pool:
        view = pool.options(on_cancel="interrupt", grace=FOREVER)

        async def run():
            await loop.run_in_executor(view, clean_up, path, nothing)

        async def fail():
            while not notes(path):
                await asyncio.sleep(0.001)
            raise ZeroDivisionError

        with pytest.raises(BaseExceptionGroup):  # noqa: F821  # new in Python 3.11
            async with asyncio.TaskGroup() as group:
                group.create_task(run())
                group.create_task(fail())
        assert notes(path)[1:] == ["TaskCancelled"]


@on_every_loop
@pytest.mark.parametrize("end", [die, nothing])
@on_loop
async def test_however_a_cancelled_call_ends_its_future_is_cancelled(new_loop, tmp_path, end):
    loop, path = asyncio.get_running_loop(), tmp_path / "notes"
    with pool_of(max_workers=1) as pool:
        future = await begin(loop, pool.options(on_cancel="interrupt", grace=FOREVER), path, clean_up, end)
        future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future
        assert await loop.run_in_executor(pool, abs, -1) == 1


@on_every_loop
@on_loop
async def test_by_default_a_call_goes_on(new_loop, tmp_path):
    loop, path = asyncio.get_running_loop(), tmp_path / "notes"
    with pool_of(max_workers=1) as pool:
        for executor in (pool, pool.options(), pool.options(on_cancel="kill").options(on_cancel="abandon")):
            future = await begin(loop, executor, path, wait_for_line, 2)
            assert future.cancel()
            assert future.cancelled()
            note(path, "go")
            assert len(await loop.run_in_executor(pool, notes, path)) == 2
            path.unlink()


def wait_for_line(path, count):
    note(path, os.getpid())
    while len(notes(path)) < count:
        time.sleep(0.001)


# --- The ladder -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fn", [swallow_all, compute_in_c])
@pytest.mark.parametrize("on_worker_death", ["replace", "break"])
def test_a_call_that_does_not_end_costs_its_worker_and_nothing_else(tmp_path, fn, on_worker_death):
    one, other = tmp_path / "one", tmp_path / "other"
    with pool_of(max_workers=2, on_worker_death=on_worker_death) as pool:
        neighbour = begin_here(pool, other, wait_for_line, 2)
        future = begin_here(pool.options(on_cancel="interrupt", grace=0.05), one, fn)
        assert future.cancel()
        wait_until(lambda: int(notes(one)[0]) not in pool._processes, "the worker's end")
        note(other, "go")
        assert neighbour.result() is None
        assert pool.submit(abs, -1).result() == 1


@on_every_loop
@on_loop
async def test_kill_ends_the_worker_at_once(new_loop, tmp_path):
    loop, path = asyncio.get_running_loop(), tmp_path / "notes"
    with pool_of(max_workers=1) as pool:
        future = await begin(loop, pool.options(on_cancel="kill", grace=FOREVER), path, clean_up, nothing)
        future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future
        assert len(notes(path)) == 1
        assert await loop.run_in_executor(pool, os.getpid) != int(notes(path)[0])


def block_stops(path):
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    sleep_in_c(path)


def ignore_stops(path):
    signal.signal(signals.STOP, signal.SIG_IGN)
    sleep_in_c(path)


@pytest.mark.parametrize("fn", [ignore_stops, block_stops])
@with_pool
def test_a_call_that_the_signal_does_not_reach_is_killed(pool, tmp_path, fn):
    path = tmp_path / "notes"
    future = begin_here(pool.options(on_cancel="interrupt", grace=0.05), path, fn)
    assert future.cancel()
    assert pool.submit(os.getpid).result() != int(notes(path)[0])


def spin():
    while True:
        pass


@pytest.mark.parametrize("grace", [1e7, float("inf")])
def test_a_grace_may_be_longer_than_the_system_can_wait(grace):
    with pool_of(1) as pool:
        future = pool.options(on_cancel="interrupt", grace=grace).submit(spin)
        wait_until(future.running)
        assert future.cancel()
        assert pool.submit(abs, -1).result(HANG_LIMIT) == 1


@with_pool
def test_no_worker_is_killed_for_a_call_that_has_ended(pool):
    pid = pool.submit(os.getpid).result()
    view = pool.options(on_cancel="interrupt", grace=0)
    for _ in range(20):
        future = view.submit(time.sleep, 0.001)
        wait_until(lambda future=future: future.running() or future.done())
        future.cancel()
        # With no grace it is killed if it has not ended; then, too, what comes next is run.
        assert pool.submit(abs, -1).result() == 1
    view = pool.options(on_cancel="interrupt", grace=FOREVER)
    pid = pool.submit(os.getpid).result()
    for _ in range(20):
        future = view.submit(time.sleep, 0.001)
        wait_until(lambda future=future: future.running() or future.done())
        future.cancel()
    assert pool.submit(os.getpid).result() == pid


def test_the_supervisor_sleeps_on_if_an_interrupted_call_ends_soon():
    """The timer that would wake it is set for each call that is cancelled, and is not set when that has ended."""
    with stoppable() as work:
        timer = work.pool._opened.queue.supervise(signals.STOP)[1]
        for _ in range(50):
            future = work.view.submit(hold, work.gate)
            work.gate.wait_started()
            wait_until(lambda: timer_is_off(timer), "it to fire for what was submitted")
            assert future.cancel()
            pyconc.wait([future])
            if timer_is_off(timer):  # unless the call took long to end
                break
        else:
            pytest.fail("it is woken for every call")


@with_pool
def test_a_signal_that_comes_to_nothing_is_sent_again(pool, tmp_path, monkeypatch):
    """As one does whose worker was about to enter a system call; where the supervisor alone sends them."""
    sent = []
    send_signal = kernel.send_signal
    pid = pool.submit(os.getpid).result()
    pool._supervisor.queue.forget_pidfd(0)

    def lose_the_first(pidfd, pid, number):
        if number != signals.STOP:
            return send_signal(pidfd, pid, number)
        sent.append(pid)
        return len(sent) < 3 or send_signal(pidfd, pid, number)

    monkeypatch.setattr(kernel, "send_signal", lose_the_first)
    future = begin_here(pool.options(on_cancel="interrupt", grace=FOREVER), tmp_path / "notes", clean_up, nothing)
    assert future.cancel()
    assert pyconc.wait([future], HANG_LIMIT).done == {future}
    assert notes(tmp_path / "notes")[1:] == ["TaskCancelled"]
    # It is sent no more.
    wait_until(lambda: not pool._supervisor._call_stopper._repeats, "the supervisor to see that the call has ended")
    assert set(sent) == {pid}


def ignore_signals_until(opened, path):
    handler = signal.signal(signals.STOP, signal.SIG_IGN)
    note(path, os.getpid())
    while not opened.exists():
        time.sleep(0.001)
    signal.signal(signals.STOP, handler)
    sleep_in_c(path)


@with_pool
def test_a_call_that_missed_its_canceller_s_signal_hears_the_supervisor_s(pool, tmp_path):
    path, opened = tmp_path / "notes", tmp_path / "opened"
    call = functools.partial(ignore_signals_until, opened)
    future = begin_here(pool.options(on_cancel="interrupt", grace=FOREVER), path, call)
    assert future.cancel()
    opened.touch()
    assert pool.submit(os.getpid).result() == int(notes(path)[0])
    assert future.cancelled()


class Noted:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        note(self.path, "pickled")
        return str, ()


def return_noted(path):
    with contextlib.suppress(pyconc.TaskCancelled):
        sleep_in_c(path)
    return Noted(path)


def raise_noted(path):
    try:
        sleep_in_c(path)
    finally:
        raise ValueError(Noted(path))


@pytest.mark.parametrize("call", [return_noted, raise_noted])
@with_pool
def test_what_a_call_leaves_that_was_to_end_is_not_pickled(pool, tmp_path, call):
    path = tmp_path / "notes"
    begin_here(pool.options(on_cancel="interrupt", grace=FOREVER), path, call).cancel()
    pid = pool.submit(os.getpid).result()
    assert notes(path) == [str(pid)]


def go_on_through_signals(path):
    interrupted = []
    previous = signal.getsignal(signals.STOP)

    def count(number, frame):
        interrupted.append(number)
        previous(number, frame)

    signal.signal(signals.STOP, count)
    try:
        try:
            sleep_in_c(path)
        except pyconc.TaskCancelled:
            while len(interrupted) < 3:
                time.sleep(0.001)
            note(path, "goes-on")
    finally:
        signal.signal(signals.STOP, previous)


@with_pool
def test_a_call_that_goes_on_is_told_once(pool, tmp_path):
    path = tmp_path / "notes"
    future = begin_here(pool.options(on_cancel="interrupt", grace=FOREVER), path, go_on_through_signals)
    assert future.cancel()
    assert pyconc.wait([future], HANG_LIMIT).done == {future}
    assert notes(path)[1:] == ["goes-on"]


class SleepsAtItsEnd:
    def __init__(self, path):
        self.path = path

    def __del__(self):
        sleep_in_c(self.path)


class Held:
    pass


def lose_in_del(path):
    SleepsAtItsEnd(path)


def lose_in_nested_dels(path):
    outer = SleepsAtItsEnd(path)
    outer.__dict__["inner"] = SleepsAtItsEnd(path)
    del outer


def lose_in_a_callback(path):
    held = Held()
    reference = weakref.ref(held, lambda _: sleep_in_c(path))
    del held
    return reference


def lose_in_a_generator(path):
    def generate():
        try:
            yield
        finally:
            sleep_in_c(path)

    next(generate())


def note_whether_told(path, lose):
    try:
        lose(path)
        time.sleep(FOREVER)
    except pyconc.TaskCancelled:
        note(path, "told")


@pytest.mark.parametrize("lose", [lose_in_del, lose_in_nested_dels, lose_in_a_callback, lose_in_a_generator])
@with_pool
def test_what_is_lost_where_nothing_can_be_raised_is_raised_again(pool, tmp_path, lose):
    path = tmp_path / "notes"
    future = begin_here(pool.options(on_cancel="interrupt", grace=FOREVER), path, note_whether_told, lose)
    [worker] = notes(path)
    assert future.cancel()
    assert pyconc.wait([future], HANG_LIMIT).done == {future}
    assert notes(path)[-1] == "told"
    assert str(pool.submit(os.getpid).result()) == worker


# --- Futures of concurrent.futures ------------------------------------------------------------------------------------


@with_pool
def test_cancel_of_a_running_future_calls_back_at_once_and_wait_returns_at_the_end(pool, tmp_path):
    path = tmp_path / "notes"
    view = pool.options(on_cancel="interrupt", grace=FOREVER)
    future = begin_here(view, path, clean_up, functools.partial(wait_for_line, path, 4))
    called = []
    future.add_done_callback(called.append)
    assert future.cancel()
    assert future.cancelled()
    assert called == [future]
    with pytest.raises(concurrent.futures.CancelledError):
        future.result()
    wait_until(lambda: len(notes(path)) == 3, "the call to clean up")
    assert pyconc.wait([future], timeout=0).not_done == {future}
    note(path, "go")
    assert pyconc.wait([future]).done == {future}
    assert future.cancel()


def test_shutdown_that_cancels_stops_what_runs(tmp_path):
    path = tmp_path / "notes"
    pool = pyconc.ProcessPoolExecutor(max_workers=1)
    future = begin_here(pool.options(on_cancel="interrupt", grace=FOREVER), path, clean_up, nothing)
    pool.shutdown(cancel_futures=True)
    assert future.cancelled()
    assert notes(path)[1:] == ["TaskCancelled"]


@with_pool
def test_closing_a_map_stops_what_runs(pool, tmp_path):
    path = tmp_path / "notes"
    results = pool.options(on_cancel="interrupt", grace=FOREVER).map(
        note_or_sleep, [path, path, path], [False, True, True]
    )
    next(results)
    wait_until(lambda: len(notes(path)) == 2, "the second call to run")
    results.close()
    assert pool.submit(os.getpid).result() == int(notes(path)[1])
    assert len(notes(path)) == 2


def note_or_sleep(path, sleeps):
    (sleep_in_c if sleeps else functools.partial(note, text="first"))(path)


@with_pool
def test_a_map_goes_on_without_the_view(pool):
    assert list(pool.options(on_cancel="interrupt").map(abs, range(-9, 0), buffersize=2)) == list(range(9, 0, -1))


# --- No other call ----------------------------------------------------------------------------------------------------


@with_pool
def test_signals_that_nobody_asked_for_raise_nothing(pool):
    view = pool.options(on_cancel="interrupt")
    assert view.submit(signal_oneself, 3).result() == 3
    assert pool.submit(signal_oneself, 3).result() == 3
    os.kill(next(iter(pool._processes)), signals.STOP)
    assert pool.submit(abs, -1).result() == 1


def signal_oneself(times):
    for _ in range(times):
        os.kill(os.getpid(), signals.STOP)
    return times


class UnpickledSlowly:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return unpickle_slowly, (self.path,)


def unpickle_slowly(path):
    wait_for_line(path, 2)
    note(path, "unpickled")


@with_pool
def test_what_is_cancelled_while_its_arguments_are_unpickled_is_not_called(pool, tmp_path):
    path = tmp_path / "notes"
    future = pool.options(on_cancel="interrupt", grace=FOREVER).submit(
        note_argument, UnpickledSlowly(path), tmp_path / "called"
    )
    wait_until(lambda: notes(path), "the worker to unpickle")
    assert future.cancel()
    note(path, "go")
    assert pool.submit(notes, tmp_path / "called").result() == []
    assert notes(path)[2:] == ["unpickled"]
    assert len(pool._processes) == 1


def note_argument(argument, path):
    note(path, argument)


class PickledSlowly:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        wait_for_line(self.path, 2)
        note(self.path, "pickled")
        return int, ()


@with_pool
def test_nothing_is_raised_while_a_result_is_pickled(pool, tmp_path):
    path = tmp_path / "notes"
    future = pool.options(on_cancel="interrupt", grace=FOREVER).submit(PickledSlowly, path)
    wait_until(lambda: notes(path), "the worker to pickle")
    pid = int(notes(path)[0])
    future.cancel()
    note(path, "go")
    assert pool.submit(os.getpid).result() == pid
    assert notes(path)[2:] == ["pickled"]


@with_pool
def test_a_process_that_a_call_forks_is_not_stopped_with_it(pool, tmp_path):
    path = tmp_path / "notes"
    assert pool.options(on_cancel="interrupt").submit(fork_and_look).result() == "default"
    future = begin_here(pool.options(on_cancel="interrupt", grace=FOREVER), path, clean_up, nothing)
    assert future.cancel()
    assert pool.submit(abs, -1).result() == 1


def fork_and_look():
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write, b"default" if signal.getsignal(signals.STOP) == signal.SIG_DFL else b"handled")
        os._exit(0)
    os.waitpid(pid, 0)
    return os.read(read, 100).decode()


def count_or_end(number, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return number


storms = pytest.mark.parametrize("calls_made", [THOUSAND // 5, pytest.param(THOUSAND, marks=more_rounds)])


@storms
@pytest.mark.parametrize("threads", [False, True], ids=["alone", "beside threads"])
def test_in_a_storm_of_cancels_each_call_ends_once_and_no_other_is_hit(threads, calls_made):
    seed = random.randrange(10**6)
    chance = random.Random(seed)
    with another_thread() if threads else contextlib.nullcontext():
        with stoppable(2) as work:
            cancelled, ended = set(), []
            futures = {}
            for number in range(calls_made):
                future = work.view.submit(count_or_end, number, chance.random() * 0.002)
                future.add_done_callback(ended.append)
                futures[future] = number
                for victim in chance.sample(list(futures)[-6:], min(3, len(futures))):
                    if chance.random() < 0.5 and victim.cancel():
                        cancelled.add(victim)
                while len(futures) - len(ended) > 8:
                    time.sleep(0)
            for future, number in futures.items():
                if future in cancelled:
                    assert future.cancelled(), seed
                else:
                    assert future.result() == number, seed
            pyconc.wait(futures)
            wait_until(lambda: len(ended) >= len(futures), "the last callback, which comes after the result")
            assert len(ended) == len(set(ended)) == len(futures), seed
            assert cancelled, seed


@storms
@on_every_loop
@on_loop
async def test_in_a_storm_of_timeouts_each_call_ends_once_and_no_other_is_hit(new_loop, calls_made):
    seed = random.randrange(10**6)
    chance = random.Random(seed)
    loop = asyncio.get_running_loop()
    with stoppable(2) as work:

        async def one(number):
            try:
                seconds = chance.random() * 0.002
                return await asyncio.wait_for(
                    loop.run_in_executor(work.view, count_or_end, number, seconds), chance.random() * 0.004
                )
            except asyncio.TimeoutError:
                return None

        for begin_at in range(0, calls_made // 2, 4):
            numbers = range(begin_at, begin_at + 4)
            for number, result in zip(numbers, await asyncio.gather(*map(one, numbers))):
                assert result in (number, None), seed


# --- Views ------------------------------------------------------------------------------------------------------------


@with_pool
def test_a_view_is_an_executor_of_the_same_class_on_the_same_workers(pool):
    view = pool.options(on_cancel="interrupt")  # before the pool has workers
    assert type(view) is type(pool)
    assert view.submit(os.getpid).result() == pool.submit(os.getpid).result()
    assert list(view.map(abs, [-1, -2, -3])) == [1, 2, 3]
    assert list(view.map(pow, [2, 3], [5, 5], chunksize=2)) == [32, 243]
    assert view._processes == pool._processes
    nested = view.options(grace=5)
    assert nested._options[:2] == (1, 5.0)
    assert view._options[:2] == (1, 1.0)
    assert pool._options[:2] == (0, 1.0)


@pytest.mark.parametrize("end", ["shutdown", "with"])
def test_the_end_of_a_view_is_the_pools(end):
    pool = pyconc.ProcessPoolExecutor(max_workers=1)
    view = pool.options(on_cancel="kill")
    future = view.submit(abs, -1)
    if end == "with":
        with view:
            pass
    else:
        view.shutdown()
    assert future.result() == 1
    for executor in (pool, view):
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            executor.submit(abs, -1)


def test_a_view_keeps_its_pool_alive():
    view = pyconc.ProcessPoolExecutor(max_workers=1).options(on_cancel="kill")
    assert view.submit(abs, -1).result() == 1
    view.shutdown()


class Doubling(pyconc.ProcessPoolExecutor):
    def submit(self, fn, /, *args):
        return super().submit(fn, *(2 * arg for arg in args))


def test_a_subclass_submit_is_honoured_in_a_view(tmp_path):
    with Doubling(max_workers=1) as pool:
        view = pool.options(on_cancel="interrupt")
        assert isinstance(view, Doubling)
        assert view.submit(abs, -1).result() == 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the process has threads
@with_pool
def test_a_view_works_in_the_child_of_a_fork(pool):
    view = pool.options(on_cancel="interrupt")
    assert view.submit(abs, -1).result() == 1
    pid = os.fork()
    if pid == 0:
        try:
            ok = view.submit(abs, -2).result() == 2 and view._processes == pool._processes
            view.shutdown()
        finally:
            os._exit(0 if ok else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert view.submit(abs, -1).result() == 1


@pytest.mark.parametrize("options", [{"on_cancel": "stop"}, {"on_cancel": 1}, {"grace": -1}, {"grace": float("nan")}])
@with_pool
def test_options_that_cannot_be_are_refused(pool, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        pool.options(**options)


def import_module(folder, name):
    sys.path.insert(0, str(folder))
    try:
        importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))


@pytest.mark.parametrize("on_worker_death", ["replace", "break"])
def test_a_worker_that_was_interrupted_during_an_import_is_replaced(tmp_path, on_worker_death):
    """It may have half a module; one that is interrupted in a function of a module has not."""
    for name in "slow", "quick":
        code = "import pathlib, signal\ndef wait():\n    pathlib.Path(__file__).with_suffix('.began').touch()\n"
        code += "    while True: signal.pause()\n"
        (tmp_path / f"{name}.py").write_text(code + ("wait()" if name == "slow" else ""))
    with pool_of(1, on_worker_death=on_worker_death) as pool:
        stoppable = pool.options(on_cancel="interrupt", grace=FOREVER)
        worker = pool.submit(os.getpid).result()

        def stop(call, name):
            wait_until((tmp_path / f"{name}.began").exists)
            assert call.cancel()
            return pool.submit(os.getpid).result()

        pool.submit(import_module, tmp_path, "quick").result()
        assert stop(stoppable.submit(call_in_module, "quick"), "quick") == worker
        assert stop(stoppable.submit(import_module, tmp_path, "slow"), "slow") != worker
        # Not because of how it was started.
        assert pool.submit(os.getpid).result() == pool.submit(os.getpid).result()


def call_in_module(name):
    sys.modules[name].wait()
