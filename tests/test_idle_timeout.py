"""idle_timeout: a worker, process or thread, with nothing to do for so long ends; the next task has one started."""

import asyncio
import contextlib
import math
import multiprocessing
import os
import random
import threading
import time

import jobs
import pytest
from gates import Gate, ProcessGate, block_workers
from support import HANG_LIMIT, more_rounds, wait_until

import pyconc


@contextlib.contextmanager
def pool_of(workers=1, idle_timeout=0.01, **more):
    with pyconc.ProcessPoolExecutor(workers, idle_timeout=idle_timeout, **more) as pool:
        yield pool


def wait_until_empty(pool):
    wait_until(lambda: pool.stats().workers == 0 and not pool._processes, "the workers to end")


def begin_by(path):
    with open(path, "a") as file:
        file.write("x")


def test_idle_workers_end_and_the_next_tasks_have_others_started():
    with pool_of(2) as pool:
        pids = []
        for _ in range(3):
            with ProcessGate() as gate:
                futures = [pool.submit(gate) for _ in range(2)]
                pids += gate.wait_started(2)
                gate.open()
                pyconc.wait(futures)
            wait_until_empty(pool)
        assert len(set(pids)) == 6
        counts = pool.stats()
        assert (counts.completed, counts.died, counts.recycled, counts.idle) == (6, 0, 0, 0)
        assert pool.workers() == []


def test_one_that_works_for_longer_stays():
    with pool_of(2) as pool, ProcessGate() as gate:
        (held,) = block_workers(pool, gate)
        (busy,) = pool._processes
        with ProcessGate() as other:
            ended = block_workers(pool, other)
            assert len(pool._processes) == 2
        ended[0].result()
        wait_until(lambda: set(pool._processes) == {busy}, "the idle one to end")
        assert not held.done()


@pytest.mark.parametrize("method", ["fork", "spawn", pytest.param("forkserver", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_workers_of_any_context_end(method):
    with pool_of(mp_context=multiprocessing.get_context(method)) as pool:
        first = pool.submit(os.getpid).result()
        wait_until_empty(pool)
        assert pool.submit(os.getpid).result() != first
        assert pool.stats().died == 0


def test_the_initializer_runs_again_and_the_executor_is_not_broken(tmp_path):
    path = tmp_path / "begun"
    with pool_of(initializer=begin_by, initargs=(path,), on_worker_death="break") as pool:
        for round in range(1, 4):
            assert list(pool.map(abs, [-1, -2])) == [1, 2]
            wait_until_empty(pool)
            assert path.read_text() == "x" * round


def test_a_worker_that_dies_is_replaced_all_the_same():
    with pool_of() as pool:
        assert isinstance(pool.submit(os._exit, 95).exception(), pyconc.WorkerDied)
        assert pool.submit(jobs.identity, 1).result() == 1
        wait_until_empty(pool)
        assert pool.stats().died == 1


def test_in_a_loop():
    async def main():
        with pool_of() as pool:
            for number in range(3):
                assert await pool.run(jobs.identity, number) == number
                while pool.stats().workers:
                    await asyncio.sleep(0)

    asyncio.run(main())


@pytest.mark.parametrize("limit", [{}, {"max_tasks_per_child": 3}, {"max_rss_per_child": 1}], ids=["", "tasks", "rss"])
@pytest.mark.parametrize("rounds", [60, pytest.param(1500, marks=more_rounds)])
def test_tasks_that_come_as_a_worker_leaves_are_run(limit, rounds):
    with pool_of(2, 0.002, **limit) as pool:
        for number in range(rounds):
            futures = [pool.submit(jobs.identity, number) for _ in range(random.randrange(1, 4))]
            assert {future.result() for future in futures} == {number}
            time.sleep(random.uniform(0, 0.004))  # it leaves in this time, or as the next task comes
        assert pool.stats().died == 0


def test_for_ever_is_no_limit():
    for seconds in (None, math.inf, 1e300, 10**400):
        with pool_of(idle_timeout=seconds) as pool:
            first = pool.submit(os.getpid).result()
            assert pool.submit(os.getpid).result() == first


# --- In threads -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def threads_of(workers=1, idle_timeout=0.01, **more):
    with pyconc.ThreadPoolExecutor(workers, "loader", idle_timeout=idle_timeout, **more) as pool:
        yield pool


def wait_until_no_thread(pool):
    wait_until(lambda: pool.stats().workers == 0 and not pool._threads, "the threads to end")


def test_idle_threads_end_and_the_next_tasks_have_others_started():
    begun = []
    with threads_of(2, initializer=begun.append, initargs=(1,)) as pool:
        names = []
        for _ in range(3):
            with Gate() as gate:
                futures = block_workers(pool, gate, 2)
                names += [thread.name for thread in pool._threads]
                gate.open()
                pyconc.wait(futures)
            wait_until_no_thread(pool)
        assert sorted(names) == [f"loader_{number}" for number in range(6)]
        assert len(begun) == 6
        counts = pool.stats()
        assert (counts.completed, counts.submitted, counts.idle, counts.recycled) == (6, 6, 0, 0)
        assert pool.workers() == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("loader")]


def test_a_thread_that_works_for_longer_stays():
    with threads_of(2) as pool, Gate() as gate:
        (held,) = block_workers(pool, gate)
        (busy,) = pool._threads
        with Gate() as other:
            block_workers(pool, other)
        wait_until(lambda: pool._threads == {busy}, "the idle one to end")
        assert not held.done()


def test_threads_of_a_loop_end():
    async def main():
        with threads_of() as pool:
            for number in range(3):
                assert await pool.run(jobs.identity, number) == number
                while pool.stats().workers:
                    await asyncio.sleep(0)

    asyncio.run(main())


@pytest.mark.parametrize("rounds", [60, pytest.param(3000, marks=more_rounds)])
def test_tasks_that_come_as_a_thread_leaves_are_run(rounds):
    with threads_of(2, 0.001) as pool:
        for number in range(rounds):
            futures = [pool.submit(jobs.identity, number) for _ in range(random.randrange(1, 4))]
            assert {future.result() for future in futures} == {number}
            time.sleep(random.uniform(0, 0.002))  # it leaves in this time, or as the next task comes


def test_shutdown_waits_for_threads_that_leave():
    for _ in range(20):
        with threads_of(4, 1e-9) as pool:
            threads = [pool.submit(threading.current_thread).result() for _ in range(4)]
        assert not any(thread.is_alive() for thread in threads)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_the_child_of_a_fork_has_threads_that_end():
    with threads_of() as pool:
        pool.submit(abs, -1).result()
        wait_until_no_thread(pool)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                pool.submit(abs, -1).result(HANG_LIMIT)
                wait_until_no_thread(pool)
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0


def test_threads_wait_for_ever():
    for seconds in (None, math.inf, 1e300, 10**400):
        with threads_of(idle_timeout=seconds) as pool:
            first = pool.submit(threading.get_ident).result()
            assert pool.submit(threading.get_ident).result() == first


# --- What is refused --------------------------------------------------------------------------------------------------

KINDS = [pyconc.ProcessPoolExecutor, pyconc.ThreadPoolExecutor]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seconds", [0, -1, math.nan])
def test_what_is_no_time_is_refused(kind, seconds):
    with pytest.raises(ValueError, match="idle_timeout must be greater than 0"):
        kind(idle_timeout=seconds)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seconds", ["1", True, 1j])
def test_what_is_no_number_is_refused(kind, seconds):
    with pytest.raises(TypeError, match="idle_timeout must be a number, not"):
        kind(idle_timeout=seconds)
