"""Situations in which other executors' calls are cancelled, such as pebble's and Ray's, and what becomes of pyconc's.

After each, no call goes on, and the next one is answered; by the same worker, unless workers are to be killed:
stoppable() looks.
"""

import asyncio
import concurrent.futures
import contextlib
import os
import random
import signal
import threading
import time

import pytest
from gates import ProcessGate
from jobs import hold, identity
from loops import on_every_loop, on_loop
from stopping import FOREVER, stoppable
from support import THOUSAND, wait_until

import pyconc

either_way = pytest.mark.parametrize("on_cancel", ["interrupt", "kill"])


def begin(work, fn=hold):
    """Starts a call that waits at the gate, and returns its future when it does."""
    future = work.view.submit(fn, work.gate)
    work.gate.wait_started()
    return future


def is_cancelled(future):
    """Whether who asks for the result is told that the call was cancelled."""
    try:
        future.result()
    except concurrent.futures.CancelledError:
        return future.cancelled()
    return False


# --- When it is cancelled ---------------------------------------------------------------------------------------------


@either_way
def test_before_it_begins(on_cancel):
    with stoppable(on_cancel=on_cancel) as work:
        running = begin(work)
        waiting = [work.view.submit(die) for _ in range(5)]
        assert all(future.cancel() for future in waiting)
        assert all(map(is_cancelled, waiting))
        assert running.running()
        work.gate.open()
        assert running.result() == ()


def die():
    os._exit(1)


@either_way
def test_after_it_has_ended(on_cancel):
    with stoppable(on_cancel=on_cancel) as work:
        future = work.view.submit(abs, -1)
        assert future.result() == 1
        assert not future.cancel()
        assert future.result() == 1
        failed = work.view.submit(divide_by_zero)
        assert failed.exception() is not None
        assert not failed.cancel()
        assert isinstance(failed.exception(), ZeroDivisionError)


def divide_by_zero():
    return 1 / 0


@either_way
def test_many_times(on_cancel):
    with stoppable(on_cancel=on_cancel) as work:
        called = []
        future = begin(work)
        future.add_done_callback(called.append)
        assert all(future.cancel() for _ in range(100))
        assert is_cancelled(future)
        assert called == [future]
        wait_until(work.gate.is_left)


@either_way
def test_many_at_once(on_cancel):
    with stoppable(4, on_cancel=on_cancel) as work:
        futures = [work.view.submit(hold, work.gate) for _ in range(100)]
        work.gate.wait_started(4)
        assert all(future.cancel() for future in futures)
        assert all(map(is_cancelled, futures))
        assert pyconc.wait(futures).not_done == set()
        assert work.gate.is_left()


@either_way
def test_while_the_pool_shuts_down(on_cancel):
    pool = pyconc.ProcessPoolExecutor(2)
    ended = threading.Event()
    futures = [pool.options(on_cancel=on_cancel, grace=FOREVER).submit(time.sleep, FOREVER) for _ in range(5)]
    wait_until(lambda: sum(future.running() for future in futures) >= 2)
    pool.shutdown(wait=False)
    ending = threading.Thread(target=lambda: (pool.shutdown(), ended.set()))
    ending.start()
    assert not ended.is_set()
    for future in futures:
        assert future.cancel()
    ending.join()
    assert all(map(is_cancelled, futures))


@either_way
def test_at_the_end_of_a_block_that_is_left_by_an_exception(on_cancel):
    with pytest.raises(ZeroDivisionError), pyconc.ProcessPoolExecutor(1) as pool:
        future = pool.options(on_cancel=on_cancel, grace=FOREVER).submit(time.sleep, FOREVER)
        try:
            wait_until(future.running)
            _ = 1 / 0
        finally:
            future.cancel()


def test_while_its_worker_starts(tmp_path):
    # The initializer is no call: it goes on.
    with pyconc.ProcessPoolExecutor(1, initializer=wait_for, initargs=(tmp_path / "go",)) as pool:
        futures = [pool.options(on_cancel="interrupt", grace=FOREVER).submit(die) for _ in range(3)]
        assert all(future.cancel() for future in futures)
        (tmp_path / "go").touch()
        assert pool.submit(abs, -1).result() == 1


def wait_for(path):
    while not path.exists():
        time.sleep(0.001)


# --- Who cancels it ---------------------------------------------------------------------------------------------------


@either_way
def test_by_several_threads(on_cancel):
    with stoppable(on_cancel=on_cancel) as work:
        future = begin(work)
        together = threading.Barrier(4)
        answers = []

        def cancel():
            together.wait()
            answers.append(future.cancel())

        threads = [threading.Thread(target=cancel) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == [True] * 4
        assert is_cancelled(future)


@either_way
def test_by_the_callback_of_another_call(on_cancel):
    with stoppable(2, on_cancel=on_cancel) as work:
        future = begin(work)
        work.view.submit(abs, -1).add_done_callback(lambda done: future.cancel())
        assert is_cancelled(future)
        pyconc.wait([future])
        assert work.gate.is_left()


@either_way
def test_by_its_own_callback(on_cancel):
    with stoppable(on_cancel=on_cancel) as work:
        answers = []
        cancelled = begin(work)
        cancelled.add_done_callback(lambda future: answers.append(future.cancel()))
        cancelled.cancel()
        pyconc.wait([cancelled])
        finished = work.view.submit(abs, -1)
        finished.add_done_callback(lambda future: answers.append(future.cancel()))
        assert finished.result() == 1
        wait_until(lambda: len(answers) == 2)
        assert answers == [True, False]


def test_by_a_signal_handler():
    with stoppable() as work:
        future = begin(work)
        before = signal.signal(signal.SIGUSR1, lambda *_: future.cancel())
        try:
            os.kill(os.getpid(), signal.SIGUSR1)
            assert is_cancelled(future)
        finally:
            signal.signal(signal.SIGUSR1, before)
        wait_until(work.gate.is_left)


@either_way
def test_by_a_call_that_has_a_pool_of_its_own(on_cancel):
    with stoppable() as work:
        assert work.view.submit(cancel_a_call_of_its_own, on_cancel).result() == (True, 1)


def cancel_a_call_of_its_own(on_cancel):
    with pyconc.ProcessPoolExecutor(1) as pool:
        future = pool.options(on_cancel=on_cancel, grace=FOREVER).submit(time.sleep, FOREVER)
        while not future.running():
            time.sleep(0.001)
        future.cancel()
        return future.cancelled(), pool.submit(abs, -1).result()


def test_with_a_pool_of_its_own():
    # What it waits for there it can cancel when it is cancelled itself.
    with stoppable() as work:
        future = begin(work, wait_for_a_call_of_its_own)
        assert future.cancel()
        pyconc.wait([future])
        assert work.gate.is_left()


def wait_for_a_call_of_its_own(gate):
    with pyconc.ProcessPoolExecutor(1) as pool:
        inner = pool.options(on_cancel="interrupt", grace=FOREVER).submit(hold, gate)
        try:
            inner.result()
        finally:
            inner.cancel()


# --- Who is told ------------------------------------------------------------------------------------------------------


@either_way
def test_callbacks_get_the_end_of_its_time_once(on_cancel):
    with stoppable(on_cancel="kill" if on_cancel == "kill" else "interrupt") as work:
        told = []
        future = work.view.options(timeout=0.05).submit(time.sleep, FOREVER)
        future.add_done_callback(lambda done: told.append(type(done.exception())))
        assert isinstance(future.exception(), pyconc.TaskTimeout)
        assert not future.cancel()
        wait_until(lambda: told)
        assert told == [pyconc.TaskTimeout]


@either_way
@on_every_loop
def test_the_loop_is_closed_before_it_has_ended(new_loop, on_cancel, caplog):
    with stoppable(on_cancel=on_cancel) as work:

        async def begin_and_cancel():
            future = asyncio.get_running_loop().run_in_executor(work.view, hold, work.gate)
            work.gate.wait_started()
            future.cancel()

        loop = new_loop()
        loop.run_until_complete(begin_and_cancel())
        loop.close()
        wait_until(work.gate.is_left)
        assert work.pool.submit(abs, -1).result() == 1
    assert not caplog.records


# --- Calls that wait for others ---------------------------------------------------------------------------------------


async def link(work, before, name):
    """A call that is made when another one has ended, which whoever waits for this one must not cancel."""
    if before is None:
        return await asyncio.get_running_loop().run_in_executor(work.view, hold, work.gate, name)
    return await asyncio.get_running_loop().run_in_executor(work.view, identity, await asyncio.shield(before) + name)


@either_way
@pytest.mark.parametrize("cancelled", range(4))
@on_every_loop
@on_loop
async def test_in_a_chain_those_after_it_are_cancelled_and_those_before_it_go_on(new_loop, on_cancel, cancelled):
    loop = asyncio.get_running_loop()
    with stoppable(on_cancel=on_cancel) as work:
        chain = [None]
        for name in "abcd":
            chain.append(loop.create_task(link(work, chain[-1], name)))
        _, *chain = chain
        await asyncio.sleep(0)
        work.gate.wait_started()
        chain[cancelled].cancel()
        await asyncio.wait(chain[cancelled:])
        assert all(task.cancelled() for task in chain[cancelled:])
        assert not any(task.done() for task in chain[:cancelled])
        assert work.gate.is_left() == (cancelled == 0)
        work.gate.open()
        assert await asyncio.gather(*chain[:cancelled]) == ["a", "ab", "abc"][:cancelled]


@either_way
@on_every_loop
@on_loop
async def test_all_that_wait_for_it_are_cancelled_with_it(new_loop, on_cancel):
    loop = asyncio.get_running_loop()
    with stoppable(2, on_cancel=on_cancel) as work:
        head = loop.create_task(link(work, None, "a"))
        await asyncio.sleep(0)
        work.gate.wait_started()
        others = [loop.create_task(link(work, head, name)) for name in "bcd"]
        await asyncio.sleep(0)
        others.pop().cancel()
        assert not head.done()
        head.cancel()
        await asyncio.wait([head, *others])
        assert all(task.cancelled() for task in (head, *others))
        assert work.gate.is_left()


@either_way
@on_every_loop
@on_loop
async def test_a_call_that_needs_two_others_is_cancelled_with_one_of_them(new_loop, on_cancel):
    loop = asyncio.get_running_loop()
    with stoppable(2, on_cancel=on_cancel) as work, ProcessGate() as gate:

        async def both(one, other):
            return await asyncio.gather(asyncio.shield(one), asyncio.shield(other))

        one = loop.create_task(link(work, None, "a"))
        await asyncio.sleep(0)
        work.gate.wait_started()
        other = loop.run_in_executor(work.view, hold, gate, "b")
        gate.wait_started()
        combined = loop.create_task(both(one, other))
        await asyncio.sleep(0)
        one.cancel()
        await asyncio.wait([one, combined])
        assert one.cancelled()
        assert combined.cancelled()
        assert work.gate.is_left()
        assert not other.done()
        assert not gate.is_left()
        gate.open()
        assert await other == "b"


# --- Many calls -------------------------------------------------------------------------------------------------------


@either_way
def test_calls_that_are_cancelled_as_soon_as_they_are_submitted(on_cancel):
    with stoppable(2, on_cancel=on_cancel) as work:
        futures = [work.view.submit(identity, number) for number in range(100)]
        for number, future in enumerate(futures):
            if future.cancel():
                assert is_cancelled(future)
            else:
                assert future.result() == number
        for number in range(100):
            future = work.view.submit(identity, number)
            if future.cancel():
                assert is_cancelled(future)
            else:
                assert future.result() == number


@either_way
@pytest.mark.parametrize("held", [True, False], ids=["queued", "running"])
def test_of_thousands_of_calls_one_in_twenty(on_cancel, held):
    seed = random.randrange(10**6)
    chance = random.Random(seed)
    with stoppable(2, on_cancel=on_cancel) as work:
        first = [work.pool.submit(hold, work.gate) for _ in range(2 if held else 0)]
        work.gate.wait_started(len(first))
        futures = [work.view.submit(identity, number) for number in range(2 * THOUSAND)]
        victims = chance.sample(range(len(futures)), len(futures) // 20)
        cancelled = {number for number in victims if futures[number].cancel()}
        assert len(cancelled) == len(victims) or not held, seed
        work.gate.open()
        for number, future in enumerate(futures):
            if number in cancelled:
                assert is_cancelled(future), seed
            else:
                assert future.result() == number, seed


@either_way
def test_calls_of_which_some_would_never_end(on_cancel):
    seed = random.randrange(10**6)
    chance = random.Random(seed)
    with stoppable(on_cancel=on_cancel) as work:
        seconds = [chance.choice([0, FOREVER]) for _ in range(30)]
        futures = [work.view.submit(time.sleep, seconds_each) for seconds_each in seconds]
        cancelled = {future for future in futures if chance.random() < 0.5 and future.cancel()}
        # Each of the others that does not end is cancelled when its turn has come.
        for future, seconds_each in zip(futures, seconds, strict=True):
            if seconds_each and future not in cancelled:
                wait_until(future.running)
                assert future.cancel(), seed
                cancelled.add(future)
        for future in futures:
            assert is_cancelled(future) if future in cancelled else future.result() is None, seed


# --- What it does meanwhile -------------------------------------------------------------------------------------------


@either_way
@pytest.mark.parametrize("what", ["argument", "result"])
def test_while_much_data_is_on_its_way(on_cancel, what):
    seed = random.randrange(10**6)
    chance = random.Random(seed)
    data = bytes(8 << 20)
    with stoppable(on_cancel=on_cancel) as work:
        for _ in range(8):
            call = (len, data) if what == "argument" else (bytes, len(data))
            future = work.view.submit(*call)
            end = time.monotonic() + chance.random() * 0.01
            while time.monotonic() < end:
                pass
            if future.cancel():
                assert is_cancelled(future), seed
            else:
                assert future.result() in (len(data), data), seed
            assert work.pool.submit(abs, -1).result() == 1, seed


@pytest.mark.parametrize("grace", [0, 0.05])
def test_a_call_that_ignores_sigterm_and_every_exception_is_killed(tmp_path, grace):
    with stoppable(on_cancel="kill") as work:
        future = work.pool.options(on_cancel="interrupt", grace=grace).submit(ignore_all, tmp_path / "begun")
        wait_for(tmp_path / "begun")
        pid = int((tmp_path / "begun").read_text())
        assert future.cancel()
        wait_until(lambda: pid not in work.pool._processes)
        assert is_cancelled(future)


def ignore_all(path):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with contextlib.suppress(BaseException):  # it is told once, perhaps as soon as it has said that it has begun
        temporary = path.with_suffix(".part")
        temporary.write_text(str(os.getpid()))
        temporary.rename(path)
        time.sleep(FOREVER)
    time.sleep(FOREVER)


_initialized = None


def initialize(value):
    global _initialized
    _initialized = value


def initialized():
    return _initialized


def test_the_worker_that_comes_after_a_killed_one_is_initialized():
    with stoppable(on_cancel="kill", initializer=initialize, initargs=("ready",)) as work:
        future = begin(work)
        assert future.cancel()
        assert work.pool.submit(initialized).result() == "ready"


def test_a_call_that_was_stopped_counts_as_one_of_a_workers_calls():
    with pyconc.ProcessPoolExecutor(1, max_tasks_per_child=2) as pool:
        future = pool.options(on_cancel="interrupt", grace=FOREVER).submit(time.sleep, FOREVER)
        wait_until(future.running)
        future.cancel()
        one, two = (pool.submit(os.getpid).result() for _ in range(2))
        assert one != two
