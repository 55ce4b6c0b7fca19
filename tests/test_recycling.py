"""max_rss_per_child: a worker that has become too large is replaced between two tasks, by one that is there before."""

import multiprocessing
import os
import signal
import time

import jobs
import pytest
from gates import ProcessGate
from support import SANITIZED, another_thread, rss_bytes, wait_until

import pyconc

MIB = 1 << 20
# A forked worker has what this process has, and the rest of this file's tests does not grow it by so much.
ROOM = 64 * MIB
_kept = []


def grow_to(rss):
    """To more, if the worker has more already."""
    _kept.append(b"x" * max(rss - rss_bytes(), 0))
    return os.getpid()


def pid():
    return os.getpid()


def is_small():
    return not _kept


def begin_at(gate, path):
    """An initializer: the first worker begins at once, later ones when the gate opens."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        gate()


def die_second(path):
    """An initializer: the second worker dies, and no other."""
    with open(path, "a+") as file:
        file.write("x")
        file.flush()
        if file.tell() == 2:
            os.kill(os.getpid(), signal.SIGKILL)


def instant(gate=None):
    """When it began, when it ended, and where."""
    begun = time.monotonic()
    if gate is not None:
        gate()
    return begun, time.monotonic(), os.getpid()


def pool_of(workers=1, context=None, **more):
    limit = rss_bytes() + ROOM
    pool = pyconc.ProcessPoolExecutor(workers, context, max_rss_per_child=limit, **more)
    pool.too_much = limit + ROOM
    return pool


def wait_until_replaced(pool, former):
    wait_until(lambda: pool.submit(pid).result() != former, "another worker")
    wait_until(lambda: former not in pool._processes, "the former one's end")


def at(gate):
    """What a worker that is forked calls to wait there."""
    kind, args = gate.__reduce__()
    return kind(*args)


def successor_is_ready(pool):
    """Whether a worker waits for the first one to leave."""
    return len(pool._processes) == 2 and not pool._tasks.wants_relief(0)


fresh = pytest.mark.skipif(SANITIZED, reason="the sanitizer's memory here says nothing of a fresh interpreter's")


@pytest.mark.parametrize(
    "method",
    # Both of the last start fresh interpreters, which take their time.
    [None, "fork", *(pytest.param(method, marks=[fresh, pytest.mark.slow]) for method in ("spawn", "forkserver"))],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # a process with threads is forked
def test_a_worker_that_has_grown_is_replaced(method):
    context = method and multiprocessing.get_context(method)
    with pool_of(1, context) as pool:
        for _ in range(2):
            former = pool.submit(grow_to, pool.too_much).result()
            wait_until_replaced(pool, former)
            assert pool.submit(is_small).result()
            assert len(pool._processes) == 1


@fresh
def test_it_is_also_from_a_program_with_threads():
    with another_thread(), pool_of() as pool:
        wait_until_replaced(pool, pool.submit(grow_to, pool.too_much).result())


def test_one_that_has_not_grown_stays():
    with pool_of() as pool:
        former = pool.submit(grow_to, pool.too_much - 3 * ROOM // 2).result()
        # What counts is what it has as the task ends.
        pool.submit(len, bytes(MIB)).result()
        assert {pool.submit(pid).result() for _ in range(200)} == {former}
        assert set(pool._processes) == {former}


def test_it_goes_on_until_the_other_one_has_begun(tmp_path):
    with ProcessGate() as gate, pool_of(initializer=begin_at, initargs=(at(gate), tmp_path / "begun")) as pool:
        former = pool.submit(grow_to, pool.too_much).result()
        (successor,) = gate.wait_started()
        assert {pool.submit(pid).result() for _ in range(50)} == {former}
        # Its initializer may run before the supervisor has heard that it was started.
        wait_until(lambda: set(pool._processes) == {former, successor}, "the successor to be known")
        gate.open()
        wait_until(lambda: pool.submit(pid).result() == successor, "the successor's turn")


def test_no_more_tasks_run_at_a_time_than_there_may_be_workers(tmp_path):
    with ProcessGate() as start, ProcessGate() as gate:
        with pool_of(initializer=begin_at, initargs=(at(start), tmp_path / "begun")) as pool:
            former = pool.submit(grow_to, pool.too_much).result()
            start.wait_started()
            first = pool.submit(instant, gate)
            gate.wait_started()
            start.open()
            wait_until(lambda: successor_is_ready(pool), "the successor to wait for its turn")
            second = pool.submit(instant)
            gate.open()
            _, ended, where = first.result()
            assert where == former
            assert second.result()[0] >= ended
            assert second.result()[2] != former


def test_a_successor_that_dies_is_succeeded(tmp_path):
    with pool_of(initializer=die_second, initargs=(tmp_path / "begun",)) as pool:
        wait_until_replaced(pool, pool.submit(grow_to, pool.too_much).result())
        assert (tmp_path / "begun").read_text() == "xxx"


def test_the_successor_takes_over_from_one_that_is_killed(tmp_path):
    with ProcessGate() as start, ProcessGate() as gate:
        with pool_of(initializer=begin_at, initargs=(at(start), tmp_path / "begun")) as pool:
            former = pool.submit(grow_to, pool.too_much).result()
            (successor,) = start.wait_started()
            lost = pool.submit(gate)
            gate.wait_started()
            start.open()
            wait_until(lambda: successor_is_ready(pool), "the successor to wait for its turn")
            os.kill(former, signal.SIGKILL)
            assert isinstance(lost.exception(), pyconc.WorkerDied)
            assert pool.submit(pid).result() == successor
            wait_until(lambda: set(pool._processes) == {successor}, "the former one to be forgotten")


def test_where_none_can_be_started_it_goes_on_until_one_can(monkeypatch):
    with pool_of() as pool:
        former = pool.submit(pid).result()
        launcher, start = pool._supervisor.launcher, pool._supervisor.launcher.start
        refused = []

        def refuse(*args):
            refused.append(args)
            raise OSError("no more processes")

        monkeypatch.setattr(launcher, "start", refuse)
        assert pool.submit(grow_to, pool.too_much).result() == former
        wait_until(lambda: refused, "a start to be refused")
        assert pool.submit(pid).result() == former
        monkeypatch.setattr(launcher, "start", start)
        wait_until_replaced(pool, former)


def test_with_a_limit_that_none_can_keep_each_is_replaced_all_the_time():
    with pyconc.ProcessPoolExecutor(2, max_rss_per_child=1) as pool:
        seen = set()
        wait_until(
            lambda: seen.update(pool.map(jobs.identify, range(20), chunksize=1)) or len(seen) > 10, "many workers"
        )
        assert [future.result() for future in [pool.submit(abs, -n) for n in range(200)]] == list(range(200))


def test_it_goes_with_max_tasks_per_child_and_with_workers_whose_death_counts():
    with pool_of(2, max_tasks_per_child=3, on_worker_death="break") as pool:
        futures = [pool.submit(grow_to, 0 if n % 4 else pool.too_much) for n in range(12)]
        assert len({future.result() for future in futures}) >= 4
        assert pool.submit(abs, -1).result() == 1


@pytest.mark.parametrize("end", ["shutdown", "kill_workers"])
def test_a_pool_ends_while_a_successor_waits(end, tmp_path):
    with ProcessGate() as start, ProcessGate() as gate:
        pool = pool_of(initializer=begin_at, initargs=(at(start), tmp_path / "begun"))
        pool.submit(grow_to, pool.too_much).result()
        start.wait_started()
        running = pool.submit(gate)
        gate.wait_started()
        start.open()
        wait_until(lambda: successor_is_ready(pool), "the successor to wait for its turn")
        if end == "kill_workers":
            pool.kill_workers()
            assert running.exception() is not None
        else:
            pool.shutdown(wait=False)
        gate.open()
        pool.shutdown()
        assert running.done()


@pytest.mark.parametrize(
    ("size", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), ([], TypeError), ("0.5 B", ValueError)]
)
def test_a_limit_that_cannot_be_is_refused(size, error):
    with pytest.raises(error, match="max_rss_per_child must be "):
        pyconc.ProcessPoolExecutor(1, max_rss_per_child=size)


def test_a_limit_may_have_any_size():
    with pyconc.ProcessPoolExecutor(1, max_rss_per_child=1 << 100) as pool:
        assert pool.submit(abs, -1).result() == 1
