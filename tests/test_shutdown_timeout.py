"""shutdown(timeout=): what has not begun is cancelled, what runs is stopped or killed; and how `with` is left."""

import asyncio
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from concurrent.futures import wait

import jobs
import pytest
from gates import Gate, ProcessGate, block_workers
from pools import pool_of
from support import HANG_LIMIT, await_line, finish, run_script, start_script, wait_until, wait_until_asleep

import pyconc
from pyconc import WorkerDied
from pyconc._process import black_box

FOREVER = 1e6


def run_on(gate):
    """A call that ends for nobody."""
    while True:
        try:
            gate()
            time.sleep(FOREVER)
        except BaseException:
            pass


def say_why(gate, path):
    try:
        gate()
    except pyconc.TaskCancelled as error:
        path.write_text(error.reason)
        raise


def say_why_late(gate, end, path):
    try:
        gate()
    except pyconc.TaskCancelled as error:
        end()
        path.write_text(error.reason)
        raise


def touch(path):
    path.touch()


async def sleep_on(gate):
    gate()
    while True:
        try:
            await asyncio.sleep(FOREVER)
        except asyncio.CancelledError:
            pass


async def count():
    number = 0
    while True:
        yield number
        number += 1
        await asyncio.sleep(0)


def check_killed(future):
    error = future.exception()
    assert isinstance(error, WorkerDied)
    assert error.signal == "SIGKILL"
    assert "the timeout of shutdown() and the task's grace were over" in str(error)
    return error


# --- Processes --------------------------------------------------------------------------------------------------------


def test_what_ends_in_time_is_not_touched():
    with pool_of(2) as pool:
        futures = [pool.submit(abs, -number) for number in range(100)]
        pool.shutdown(timeout=HANG_LIMIT)
        assert [future.result() for future in futures] == list(range(100))


def test_what_runs_for_longer_is_killed_and_says_where_it_was():
    with ProcessGate() as gate, pool_of(2) as pool:
        running = pool.submit(run_on, gate)
        gate.wait_started()
        idle = pool.submit(abs, -1)
        pool.options(grace=0.01).shutdown(timeout=0)
        error = check_killed(running)
        if error.stack is not None:  # without /proc there is none
            assert "run_on" in error.stack
        wait([idle], HANG_LIMIT)
        assert idle.done()


def test_a_stack_that_is_written_slowly_is_whole(monkeypatch):
    ask, answers = black_box.BlackBox.ask, []

    def read_a_line_too_few(self, workers, _seconds):
        for number, stack in ask(self, workers, HANG_LIMIT):
            if stack is not None:
                start = stack.rstrip("\n").rindex("\n") + 1
                self._asked[number] -= len(stack[start:].encode())
                answers.append(stack)
                stack = stack[:start]
            yield number, stack

    monkeypatch.setattr(black_box.BlackBox, "ask", read_a_line_too_few)
    with ProcessGate() as gate, pool_of(1) as pool:
        running = pool.submit(run_on, gate)
        gate.wait_started()
        pool.options(grace=0.01).shutdown(timeout=0)
        assert [check_killed(running).stack] == ([*map(black_box.trim, answers)] or [None])


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", pytest.param("forkserver", marks=pytest.mark.slow), "spawn"])
def test_so_it_is_with_every_start_method(method):
    with ProcessGate() as gate, pool_of(1, mp_context=multiprocessing.get_context(method)) as pool:
        running = pool.submit(run_on, gate)
        gate.wait_started()
        pool.options(grace=0.01).shutdown(timeout=0)
        check_killed(running)


def test_what_no_worker_has_taken_is_cancelled(tmp_path):
    with ProcessGate() as gate, pool_of(1) as pool:
        running = pool.submit(gate)
        gate.wait_started()
        queued = [pool.submit(touch, tmp_path / str(number)) for number in range(1000)]
        ended = threading.Thread(target=pool.options(grace=HANG_LIMIT).shutdown, kwargs={"timeout": 0})
        ended.start()
        wait_until(lambda: all(future.cancelled() for future in queued), "what is queued to be cancelled")
        gate.open()  # within its grace
        ended.join()
        assert running.exception() is None
        assert not list(tmp_path.iterdir())


def test_what_may_be_interrupted_is_and_hears_why(tmp_path):
    with ProcessGate() as gate, pool_of(1) as pool:
        running = pool.options(on_cancel="interrupt", grace=FOREVER).submit(say_why, gate, tmp_path / "why")
        gate.wait_started()
        pool.shutdown(timeout=0)
        assert running.cancelled()
        assert (tmp_path / "why").read_text() == "shutdown"


@pytest.mark.parametrize("on_cancel", ["interrupt", "kill"])
def test_what_does_not_end_in_its_grace_is_cancelled_all_the_same(on_cancel):
    with ProcessGate() as gate, pool_of(2) as pool:
        view = pool.options(on_cancel=on_cancel, grace=0.01)
        running = [view.submit(run_on, gate) for _ in range(2)]
        gate.wait_started(2)
        view.shutdown(timeout=0)  # on a busy machine it returns before their end
        wait(running, HANG_LIMIT)
        assert [future.cancelled() for future in running] == [True, True]


def test_the_longest_grace_counts(tmp_path):
    with ProcessGate() as gate, ProcessGate() as end, pool_of(2) as pool:
        view = pool.options(on_cancel="interrupt", grace=HANG_LIMIT)
        patient = view.submit(say_why_late, gate, end, tmp_path / "why")
        gate.wait_started()
        pool.options(grace=0).shutdown(wait=False, timeout=0)
        end.wait_started()  # it cleans up
        end.open()
        pool.shutdown()
        assert patient.cancelled()
        assert (tmp_path / "why").read_text() == "shutdown"


def test_without_wait_the_same_happens_later():
    with ProcessGate() as gate, pool_of(1) as pool:
        running = pool.submit(run_on, gate)
        gate.wait_started()
        queued = pool.submit(abs, -1)
        pool.options(grace=0.01).shutdown(wait=False, timeout=0.01)
        check_killed(running)
        pool.shutdown()
        assert queued.cancelled()


def test_the_executor_may_be_gone_by_then():
    with ProcessGate() as gate:
        pool = pyconc.ProcessPoolExecutor(1)
        running = pool.submit(run_on, gate)
        gate.wait_started()
        pool.options(grace=0.01).shutdown(wait=False, timeout=0.01)
        del pool
        check_killed(running)


@pytest.mark.parametrize("first", [None, FOREVER, float("inf")])
def test_the_shortest_timeout_counts(first):
    with ProcessGate() as gate, pool_of(1) as pool:
        running = pool.submit(run_on, gate)
        gate.wait_started()
        view = pool.options(grace=0.01)
        view.shutdown(wait=False, timeout=first)
        view.shutdown(timeout=-1)
        view.shutdown(timeout=FOREVER)
        pool.shutdown()
        check_killed(running)


def test_several_threads_may_shut_down_at_once():
    with ProcessGate() as gate, pool_of(1) as pool:
        running = pool.submit(run_on, gate)
        gate.wait_started()
        view = pool.options(grace=0.01)
        threads = [threading.Thread(target=view.shutdown, kwargs={"timeout": 0.001 * n}) for n in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        check_killed(running)


def test_a_signal_handler_may_shut_down():
    with ProcessGate() as gate, pool_of(1) as pool:
        running = pool.submit(run_on, gate)
        gate.wait_started()
        view = pool.options(grace=0.01)
        former = signal.signal(signal.SIGUSR1, lambda *_: view.shutdown(timeout=0))
        try:
            signal.raise_signal(signal.SIGUSR1)
        finally:
            signal.signal(signal.SIGUSR1, former)
        check_killed(running)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the process has threads
def test_in_the_child_of_a_fork_there_is_nothing_to_end():
    with ProcessGate() as gate, pool_of(1) as pool:
        running = pool.submit(gate)
        gate.wait_started()
        pid = os.fork()
        if pid == 0:
            try:
                pool.shutdown(timeout=0)
            finally:
                os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        gate.open()
        assert running.exception() is None


def test_it_may_come_after_the_end():
    pool = pyconc.ProcessPoolExecutor(1)
    pool.shutdown(timeout=0)  # unused
    with pool_of(1) as pool, ProcessGate() as gate:
        pool.submit(run_on, gate)
        gate.wait_started()
        pool.kill_workers()
        pool.shutdown(timeout=0)
        pool.shutdown(timeout=FOREVER)


def test_a_map_ends():
    with ProcessGate() as gate, pool_of(1) as pool:
        results = pool.map(jobs.AtGate(*gate.__reduce__()[1]), range(10), chunksize=1)
        gate.wait_started()
        pool.options(grace=0.01).shutdown(timeout=0)
        with pytest.raises(WorkerDied):
            next(results)


def test_workers_whose_death_counts_are_killed_too():
    with ProcessGate() as gate, pool_of(1, on_worker_death="break") as pool:
        running = pool.submit(run_on, gate)
        gate.wait_started()
        pool.options(grace=0.01).shutdown(timeout=0)
        check_killed(running)


def test_a_callback_that_waits_holds_up_no_shutdown(caplog):
    end = threading.Event()
    with ProcessGate() as gate, pool_of(1) as pool:
        running = pool.submit(run_on, gate)
        gate.wait_started()
        running.add_done_callback(lambda _: end.wait(HANG_LIMIT))
        with caplog.at_level(logging.WARNING, "concurrent.futures"):
            pool.options(grace=0.01).shutdown(timeout=0)
        end.set()
    assert "shutdown() returns because its time is over" in caplog.text
    check_killed(running)


@pytest.mark.parametrize("make", [pyconc.ThreadPoolExecutor, pyconc.ProcessPoolExecutor, pyconc.CoroutinePool])
def test_a_timeout_that_cannot_be_is_refused_and_nothing_has_happened(make):
    with make(1) as pool:
        with pytest.raises(ValueError, match="nan"):
            pool.shutdown(timeout=float("nan"))
        with pytest.raises(TypeError):
            pool.shutdown(timeout="1")
        work = asyncio.sleep if make is pyconc.CoroutinePool else abs
        pool.submit(work, 0).result()
        pool.shutdown(timeout=float("inf"))


# --- Coroutines -------------------------------------------------------------------------------------------------------


def test_coroutines_are_cancelled():
    with pyconc.CoroutinePool(1) as pool:
        running = [pool.submit(asyncio.sleep, FOREVER) for _ in range(10)]
        pool.shutdown(timeout=0)
        wait(running, HANG_LIMIT)
        assert all(future.cancelled() for future in running)


@pytest.mark.parametrize("waits", [True, False])
def test_one_that_does_not_end_is_ended_with_its_worker(waits):
    with ProcessGate() as gate, pyconc.CoroutinePool(1, grace=0.01) as pool:
        running = pool.submit(sleep_on, gate)
        gate.wait_started()
        gate.open()
        pool.shutdown(wait=waits, timeout=0.01)
        pool.shutdown()
        assert running.cancelled()


def test_streams_end():
    async def main():
        pool = pyconc.CoroutinePool(1)
        stream = pool.stream(count)
        assert await stream.__anext__() == 0
        pool.shutdown(wait=False, timeout=0.01)
        with pytest.raises(RuntimeError, match="shut down"):
            async for _ in stream:
                pass
        await pool._wait_closed()

    asyncio.run(main())


# --- Threads ----------------------------------------------------------------------------------------------------------


def test_threads_that_run_on_are_left_and_counted(caplog):
    with pyconc.ThreadPoolExecutor(3, "mine") as pool, Gate() as gate:
        running = block_workers(pool, gate, 2)
        pool.submit(abs, -1).result()
        pool.shutdown(wait=False)
        wait_until(lambda: sum(thread.is_alive() for thread in pool._threads) == 2, "the idle thread to end")
        with caplog.at_level(logging.WARNING, "concurrent.futures"):
            pool.shutdown(timeout=0)
        assert [record.getMessage() for record in caplog.records] == [
            "mine: shutdown() returns because its time is over; threads that still run calls: 2"
        ]
        assert not any(future.done() for future in running)


def test_threads_that_end_in_time_are_not_told_of(caplog):
    with caplog.at_level(logging.WARNING, "concurrent.futures"), pyconc.ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(abs, -number) for number in range(100)]
        pool.shutdown(timeout=HANG_LIMIT)
        assert [future.result() for future in futures] == list(range(100))
    assert not caplog.records


def test_what_no_thread_has_begun_is_cancelled_at_once():
    with Gate() as gate, pyconc.ThreadPoolExecutor(1) as pool:
        running = block_workers(pool, gate)
        queued = [pool.submit(abs, -1) for _ in range(100)]
        pool.shutdown(timeout=0)
        assert all(future.cancelled() for future in queued)
        gate.open()
        assert running[0].exception() is None


def test_without_wait_what_no_thread_has_begun_never_begins():
    begun = []
    with Gate() as gate, pyconc.ThreadPoolExecutor(1) as pool:
        block_workers(pool, gate)
        queued = [pool.submit(begun.append, number) for number in range(100)]
        pool.shutdown(wait=False, timeout=0)
        gate.open()
        pool.shutdown()
        assert all(future.cancelled() for future in queued)
    assert not begun


def test_of_threads_too_the_shortest_timeout_counts():
    with Gate() as gate, pyconc.ThreadPoolExecutor(1) as pool:
        block_workers(pool, gate)
        queued = pool.submit(abs, -1)
        for timeout in (FOREVER, -1, FOREVER):
            pool.shutdown(wait=False, timeout=timeout)
        gate.open()
        pool.shutdown()
        assert queued.cancelled()


def test_what_may_be_interrupted_in_a_thread_is(caplog):
    begun = threading.Event()
    with caplog.at_level(logging.WARNING, "concurrent.futures"), pyconc.ThreadPoolExecutor(1) as pool:
        view = pool.options(on_cancel="interrupt", grace=FOREVER)
        running = view.submit(spin, begun)
        begun.wait()
        queued = view.submit(abs, -1)
        view.shutdown(timeout=0)
        assert running.cancelled()
        assert queued.cancelled()
    assert not caplog.records


def test_without_wait_too(caplog):
    begun = threading.Event()
    with pyconc.ThreadPoolExecutor(2) as pool:
        running = pool.options(on_cancel="interrupt", grace=FOREVER).submit(spin, begun)
        begun.wait()
        pool.shutdown(wait=False, timeout=0.01)
        wait_until(running.done, "the call to end")
        assert running.cancelled()


def test_without_wait_what_ends_in_time_is_not_touched():
    with Gate() as gate, pyconc.ThreadPoolExecutor(1) as pool:
        running = pool.options(on_cancel="interrupt").submit(gate)
        gate.wait_started()
        pool.shutdown(wait=False, timeout=FOREVER)
        gate.open()
        assert running.result() == ()


def spin(begun):
    begun.set()
    while True:
        pass


def test_a_callback_that_cancels_may_fork():
    # Also at the instant at which the thread starts that watches over limits, which is hard to hit.
    run_script(
        """
import os, threading, pyconc
def fork(_):
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    pids.append(pid)
if __name__ == "__main__":
    for _ in range(40):
        end, pids = threading.Event(), []
        pool = pyconc.ThreadPoolExecutor(1)
        pool.submit(end.wait)
        for _ in range(3):
            pool.submit(abs, -1).add_done_callback(fork)
        pool.shutdown(wait=False, timeout=0)
        end.set()
        pool.shutdown()
        assert {os.waitpid(pid, 0)[1] for pid in pids} <= {0}
""",
        flags=("-W", "ignore"),
    )


# --- Leaving a block --------------------------------------------------------------------------------------------------


class Left(Exception):
    pass


def test_a_block_that_is_left_by_an_exception_stops_what_may_be_stopped(tmp_path):
    with ProcessGate() as gate, ProcessGate() as end:
        with pytest.raises(Left), pyconc.ProcessPoolExecutor(2) as pool:
            view = pool.options(on_cancel="interrupt", grace=FOREVER)
            stopped = view.submit(say_why, gate, tmp_path / "why")
            abandoned = pool.submit(end)
            gate.wait_started()
            end.wait_started()
            queued, waits = view.submit(touch, tmp_path / "queued"), pool.submit(touch, tmp_path / "waits")
            stopped.add_done_callback(lambda _: end.open())
            raise Left
        assert stopped.cancelled()
        assert (tmp_path / "why").read_text() == "shutdown"
        assert abandoned.exception() is None
        assert queued.cancelled()
        assert waits.exception() is None
        assert not (tmp_path / "queued").exists()


def test_async_with_does_the_same(tmp_path):
    async def main(gate):
        async with pyconc.ProcessPoolExecutor(1) as pool:
            view = pool.options(on_cancel="interrupt", grace=FOREVER)
            call = asyncio.get_running_loop().run_in_executor(view, say_why, gate, tmp_path / "why")
            calls.append(call)
            await asyncio.to_thread(gate.wait_started)
            raise Left

    calls = []
    with ProcessGate() as gate:
        with pytest.raises(Left):
            asyncio.run(main(gate))
        assert calls[0].cancelled()
        assert (tmp_path / "why").read_text() == "shutdown"


@pytest.mark.parametrize("how", ["with", "async with"])
def test_of_threads_too(how):
    begun, futures = threading.Event(), []

    def fill(pool):
        view = pool.options(on_cancel="interrupt", grace=FOREVER)
        futures.append(view.submit(spin, begun))
        begun.wait()
        futures.extend([view.submit(abs, -1), pool.submit(abs, -2)])
        raise Left

    async def main():
        async with pyconc.ThreadPoolExecutor(1) as pool:
            fill(pool)

    with pytest.raises(Left):
        if how == "with":
            with pyconc.ThreadPoolExecutor(1) as pool:
                fill(pool)
        else:
            asyncio.run(main())
    stopped, queued, other = futures
    assert stopped.cancelled()
    assert queued.cancelled()
    assert other.result() == 2


def test_a_block_that_is_left_without_one_waits():
    with ProcessGate() as gate:
        with pyconc.ProcessPoolExecutor(1) as pool:
            running = pool.options(on_cancel="kill").submit(gate)
            gate.wait_started()
            gate.open()
        assert running.exception() is None


WITH = """
import asyncio, os, sys, threading, time, pyconc
def work():
    print("runs", flush=True)
    time.sleep(3600)
def main():
    with pyconc.ProcessPoolExecutor(1) as pool:
        futures.append(pool.submit(work))
async def async_main():
    async with pyconc.ProcessPoolExecutor(1) as pool:
        futures.append(asyncio.get_running_loop().run_in_executor(pool, work))
futures = []
if __name__ == "__main__":
    try:
        main() if sys.argv[1] == "with" else asyncio.run(async_main())
    except KeyboardInterrupt:
        print("caught", futures[0].done(), flush=True)
"""


@pytest.mark.parametrize("how", ["with", "async with"])
def test_ctrl_c_while_a_block_waits_kills_the_workers(how):
    with start_script(WITH, how) as process:
        await_line(process, process.stdout, "runs")
        wait_until_asleep(process)
        process.send_signal(signal.SIGINT)
        finished = finish(process)
    assert finished.returncode == 0, str(finished)
    assert "caught" in finished.stdout


needs_3_11 = pytest.mark.skipif(sys.version_info < (3, 11), reason="new in Python 3.11")

STUBBORN = """
import asyncio, sys, threading, time, pyconc
go_on = True
def work():
    word = "runs"
    while go_on:
        try:
            say(word)
            while go_on:
                time.sleep(0.01)
        except pyconc.TaskCancelled:
            word = "goes on"
def say(word):
    print(word, flush=True)
async def wait_for(view):
    await asyncio.get_running_loop().run_in_executor(view, work)
async def in_block(pool, view):
    async with pool:
        await wait_for(view)
async def in_group(pool, view):
    async with pool, asyncio.TaskGroup() as group:
        group.create_task(wait_for(view))
async def without_block(pool, view):
    await wait_for(view)
if __name__ == "__main__":
    kind, how, ending = sys.argv[1:]
    pool = {"processes": pyconc.ProcessPoolExecutor, "threads": pyconc.ThreadPoolExecutor}[kind](1)
    try:
        asyncio.run(globals()[how](pool, pool.options(on_cancel="interrupt", grace=1e6)))
    except KeyboardInterrupt:
        say("interrupted")
        go_on = False
        if ending == "uncaught":
            raise
"""


@pytest.mark.parametrize(
    ("kind", "how", "ending"),
    [
        ("processes", "in_block", "caught"),
        ("processes", "in_block", "uncaught"),
        pytest.param("processes", "in_group", "uncaught", marks=needs_3_11),
        ("processes", "without_block", "caught"),
        ("threads", "without_block", "caught"),
        ("threads", "without_block", "uncaught"),
    ],
)
def test_a_second_ctrl_c_ends_a_program_whose_call_is_in_its_grace(kind, how, ending):
    # As asyncio.run() says: the first one cancels, the second one ends it.
    if sys.version_info < (3, 11) and kind == "processes" and ending == "caught":
        pytest.skip("before Python 3.11 asyncio.run() cancels nothing again, and the call keeps its grace at exit")
    with start_script(STUBBORN, kind, how, ending) as process:
        await_line(process, process.stdout, "runs")
        wait_until_asleep(process)
        process.send_signal(signal.SIGINT)
        await_line(process, process.stdout, "goes on")
        wait_until_asleep(process)
        process.send_signal(signal.SIGINT)
        finished = finish(process)
    assert "interrupted" in finished.stdout, str(finished)
    assert finished.returncode == (-signal.SIGINT if ending == "uncaught" else 0), str(finished)
