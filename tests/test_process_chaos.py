"""Workers die at random instants under load: nobody else's task is lost.  And long tasks hold up no short ones.

PYCONC_CHAOS_ROUNDS is how many workers are killed where many are, a few hundred unless it says more.
"""

import itertools
import os
import random
import signal
import threading

import jobs
import pytest
from gates import ProcessGate, block_workers
from support import HANG_LIMIT, more_rounds, wait_until, wait_until_clones_are_gone

import pyconc
from pyconc import WorkerDied

KILLS = int(os.environ.get("PYCONC_CHAOS_ROUNDS", "200"))

how_many = pytest.mark.parametrize("kills", [KILLS // 8, pytest.param(KILLS, marks=more_rounds)])


def split_outcomes(futures, expected):
    """Waits for all; returns how many were lost, when all the others are right."""
    lost = 0
    for future, result in zip(futures, expected):
        error = future.exception(HANG_LIMIT)
        if error is None:
            assert future.result() == result
        else:
            assert isinstance(error, WorkerDied), error
            assert error.signal == "SIGKILL"
            lost += 1
    return lost


class Killer(threading.Thread):
    """Kills a random worker again and again, at random instants.

    In between it has a task of its own run, because an executor whose workers die one after the other and get nothing
    done gives up; `lost` counts how many of these tasks were killed.
    """

    def __init__(self, pool, kills, rng):
        super().__init__()
        self.pool = pool
        self.kills = kills
        self.rng = rng
        self.killed = []
        self.lost = 0
        self.start()

    def run(self):
        while len(self.killed) < self.kills:
            alive = [pid for pid in list(self.pool._processes) if pid not in self.killed[-20:]]
            if not alive:
                continue
            victim = self.rng.choice(alive)
            for _ in range(self.rng.randrange(2000)):
                pass  # at some other instant of the worker's life
            try:
                os.kill(victim, signal.SIGKILL)
            except ProcessLookupError:
                continue  # it was dead, and is being buried
            self.killed.append(victim)
            self.lost += split_outcomes([self.pool.submit(jobs.identity, victim)], [victim])


@how_many
@pytest.mark.parametrize("load", ["small", "blocks"])
def test_random_deaths_lose_no_more_tasks_than_there_are_deaths(load, kills):
    # What a task carries: a message in a record, or blocks of shared memory there and back.
    make = (lambda number: number) if load == "small" else (lambda number: bytes([number % 256]) * 10_000)
    rng = random.Random(KILLS)
    lost = submitted = 0
    with pyconc.ProcessPoolExecutor(3) as pool:
        pool.submit(jobs.identity, 0).result()
        killer = Killer(pool, kills, rng)
        numbers = itertools.count()
        while killer.is_alive():
            batch = [make(next(numbers)) for _ in range(rng.randrange(1, 60))]
            lost += split_outcomes([pool.submit(jobs.identity, value) for value in batch], batch)
            submitted += len(batch)
        killer.join()
        assert len(killer.killed) == kills
        assert lost + killer.lost <= len(killer.killed)
        assert [pool.submit(jobs.identity, number).result(HANG_LIMIT) for number in range(20)] == list(range(20))
        region = pool._tasks.region
        wait_until(lambda: region.count()[1] == 0, "the blocks of the dead to come back")
    assert submitted > kills


def test_random_deaths_under_a_map_end_it_or_leave_it_whole():
    rng = random.Random(KILLS)
    outcomes = {"whole": 0, "died": 0}
    with pyconc.ProcessPoolExecutor(3) as pool:
        pool.submit(jobs.identity, 0).result()
        killer = Killer(pool, KILLS // 10, rng)
        while killer.is_alive():
            results = []
            try:
                for result in pool.map(jobs.identity, range(500)):
                    results.append(result)
                outcomes["whole"] += 1
            except WorkerDied:
                outcomes["died"] += 1
            assert results == list(range(len(results)))
        assert list(pool.map(jobs.identity, range(500))) == list(range(500))
    assert outcomes["died"] <= KILLS // 10


def test_random_cancellations_and_deaths_leave_nothing_pending():
    rng = random.Random(KILLS)
    with pyconc.ProcessPoolExecutor(2) as pool:
        pool.submit(jobs.identity, 0).result()
        killer = Killer(pool, KILLS // 10, rng)
        while killer.is_alive():
            futures = [pool.submit(jobs.identity, number) for number in range(200)]
            cancelled = [future for future in rng.sample(futures, 50) if future.cancel()]
            assert all(future.cancelled() for future in cancelled)
            kept = [(future, number) for number, future in enumerate(futures) if future not in cancelled]
            split_outcomes(*zip(*kept))
        assert pool._tasks.outstanding() == 0


def test_random_deaths_of_the_template_too():
    with pyconc.ProcessPoolExecutor(2) as pool:
        for _ in range(max(3, KILLS // 80)):
            with ProcessGate() as gate:
                block_workers(pool, gate, 2)  # and so there is a zygote
            futures = [pool.submit(jobs.identity, number) for number in range(100)]
            zygote = pool._supervisor.launcher.zygote
            os.kill(zygote.pid, signal.SIGKILL)
            lost = split_outcomes(futures, range(100))
            # It may still be dying: two workers of it can take something with them, and no more.
            lost += split_outcomes([pool.submit(jobs.identity, number) for number in range(100)], range(100))
            assert lost <= 2
            wait_until_clones_are_gone(pool, zygote)  # they would take some of the next round's


# --- Fairness ---------------------------------------------------------------------------------------------------------


class Reports(jobs.Reporter):
    """Where tasks say that they have run."""

    def wait_for(self, numbers):
        """Returns when tasks with all of these arguments have run, each of them once."""
        expected = sorted(numbers)
        wait_until(lambda: len(self.lines()) >= len(expected), "the short calls to be made")
        assert sorted(map(int, self.lines())) == expected

    def lines(self):
        with open(self.path) as file:
            return file.read().split()


@pytest.fixture
def reports(tmp_path):
    path = tmp_path / "reports"
    path.touch()
    return Reports(str(path))


def test_a_long_task_holds_up_no_short_one():
    with pyconc.ProcessPoolExecutor(2) as pool, ProcessGate() as gate:
        pool.submit(jobs.identity, 0).result()
        for _ in range(4):
            (long,) = block_workers(pool, gate)
            futures = [pool.submit(jobs.identity, number) for number in range(2000)]
            assert [future.result(HANG_LIMIT) for future in futures] == list(range(2000))
            assert not long.done()
            gate.open()
            long.result(HANG_LIMIT)


def test_all_but_one_worker_may_be_held():
    with pyconc.ProcessPoolExecutor(4) as pool, ProcessGate() as gate:
        held, free = [], []
        for _ in range(3):
            free += [pool.submit(jobs.identity, number) for number in range(50)]
            held += block_workers(pool, gate)
            free += [pool.submit(jobs.identity, number) for number in range(50)]
        assert [future.result(HANG_LIMIT) for future in free] == list(range(50)) * 6
        assert not any(future.done() for future in held)
        gate.open()


@pytest.mark.parametrize(("workers", "position"), [(2, 0), (2, 1), (2, 1999), (4, 700)])
def test_a_long_call_holds_up_no_short_one_in_a_map(workers, position, reports):
    # The executor has learned that calls are short and sends hundreds at a time, the long one in their midst.
    with pyconc.ProcessPoolExecutor(workers) as pool, ProcessGate() as gate:
        run = jobs.ReportOrWait(reports, gate, position)
        results = pool.map(run, range(2000))
        gate.wait_started()
        reports.wait_for(set(range(2000)) - {position})
        gate.open()
        assert list(results) == list(range(2000))


def test_several_long_calls_hold_up_no_short_one_in_a_map(reports):
    with pyconc.ProcessPoolExecutor(4) as pool, ProcessGate() as gate:
        long = {100, 101, 1500}
        results = pool.map(jobs.ReportOrWait(reports, gate, *long), range(2000))
        gate.wait_started(3)
        reports.wait_for(set(range(2000)) - long)
        gate.open()
        assert list(results) == list(range(2000))


def test_a_long_call_holds_up_no_other_map(reports):
    with pyconc.ProcessPoolExecutor(2) as pool, ProcessGate() as gate:
        first = pool.map(jobs.ReportOrWait(reports, gate, 300), range(1000))
        gate.wait_started()
        assert list(pool.map(jobs.identity, range(1000))) == list(range(1000))
        assert pool.submit(jobs.identity, 1).result(HANG_LIMIT) == 1
        gate.open()
        assert list(first) == list(range(1000))


def test_a_long_call_holds_up_no_short_one_in_a_map_with_a_buffer(reports):
    # Nobody takes results, so that as many calls are made as fit into the buffer, and all of those.
    with pyconc.ProcessPoolExecutor(2) as pool, ProcessGate() as gate:
        results = pool.map(jobs.ReportOrWait(reports, gate, 7), itertools.count(), buffersize=100)
        gate.wait_started()
        reports.wait_for(set(range(100)) - {7})
        gate.open()
        assert list(itertools.islice(results, 300)) == list(range(300))
