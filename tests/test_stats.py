"""stats(), workers() and repr(): what an executor says of itself is what became of its futures."""

import gc
import json
import os
import pickle
import random
import threading
import time
from concurrent import futures
from concurrent.futures.thread import BrokenThreadPool

import pytest
from gates import Gate, block_workers
from support import wait_until

import pyconc

ENDS = ["completed", "failed", "cancelled", "timed_out", "died"]


def fail():
    raise LookupError("as it should")


def outcome_of(future):
    """How a future ended, as PoolStats calls it."""
    if future.cancelled():
        return "cancelled"
    error = future.exception()
    if isinstance(error, pyconc.TaskTimeout):
        return "timed_out"
    if isinstance(error, futures.BrokenExecutor) and not isinstance(error, pyconc.TaskUnpicklable):
        return "died"
    return "completed" if error is None else "failed"


def check(pool, ended, **others):
    """The counts of a pool that has nothing to do are those of the futures, and of what else there was."""
    ended = list(ended)
    assert all(future.done() for future in ended)
    expected = {end: sum(outcome_of(future) == end for future in ended) for end in ENDS}
    expected = {end: expected[end] + others.get(end, 0) for end in ENDS}
    # The thread that has told a future may count a moment later that nobody wants another.
    wait_until(lambda: pool.stats().running == pool.stats().queued == 0, "the pool to have nothing to do")
    counts = pool.stats()
    assert {end: getattr(counts, end) for end in ENDS} == expected
    assert counts.submitted == sum(expected.values())
    return counts


# --- What there is ----------------------------------------------------------------------------------------------------


def test_a_busy_executor_says_so():
    with pyconc.ThreadPoolExecutor(2, name="loader") as pool, Gate() as gate:
        assert repr(pool) == "<ThreadPoolExecutor 'loader': 0 running, 0 queued, 0 of 2 workers>"
        block_workers(pool, gate, 2)
        pool.submit(abs, 1)
        counts = pool.stats()
        assert (counts.name, counts.max_workers, counts.workers, counts.idle) == ("loader", 2, 2, 0)
        assert (counts.running, counts.queued, counts.submitted) == (2, 1, 3)
        assert repr(pool) == "<ThreadPoolExecutor 'loader': 2 running, 1 queued, 2 of 2 workers>"
        assert repr(pool.options(name="view")) == repr(pool)
    assert repr(pool) == "<ThreadPoolExecutor 'loader': 0 running, 0 queued, 0 of 2 workers, shut down>"


def test_without_a_name_there_is_the_prefix():
    with pyconc.ThreadPoolExecutor(1, "prefix") as pool:
        assert pool.stats().name == "prefix"
    with pyconc.ThreadPoolExecutor(1) as pool:
        assert pool.stats().name.startswith("ThreadPoolExecutor-")


def test_an_executor_that_was_not_made_has_a_repr():
    class Own(pyconc.ThreadPoolExecutor):
        def __init__(self):
            pass

    assert "Own object at" in repr(Own())


def test_threads_say_what_they_run():
    with pyconc.ThreadPoolExecutor(3, name="loader") as pool, Gate() as gate:
        assert pool.workers() == []
        block_workers(pool, gate)
        block_workers(pool.options(name="big file", timeout=3600), gate)
        pool.submit(abs, 1).result()
        workers = {worker.task: worker for worker in pool.workers()}
        assert {worker.name for worker in workers.values()} == {"loader_0", "loader_1", "loader_2"}
        assert {worker.id for worker in workers.values()} == {thread.native_id for thread in pool._threads}
        plain, named, idle = workers[repr(gate)], workers["big file"], workers[None]
        assert (plain.running, plain.running_for, plain.calls) == (1, None, 0)
        assert (named.running, named.running_for >= 0, named.is_abandoned) == (1, True, False)
        assert (idle.running, idle.running_for, idle.calls, idle.rss) == (0, None, 1, None)


def test_all_executors_of_the_program_are_there_by_name():
    with pyconc.ThreadPoolExecutor(1, name="same") as one, pyconc.ThreadPoolExecutor(1, name="same") as two:
        one.submit(abs, 1).result()
        assert pyconc.stats()["same"] == one.stats()
        assert pyconc.stats()["same (2)"] == two.stats()
        assert len([name for name in pyconc.stats() if name.startswith("same")]) == 2  # views are no others
        assert pyconc.stats()["same"].completed == 1
    del one, two
    gc.collect()
    assert not [name for name in pyconc.stats() if name.startswith("same")]


def test_they_are_plain_numbers():
    with pyconc.ThreadPoolExecutor(1, name="plain") as pool:
        pool.submit(abs, 1).result()
        counts, worker = pool.stats(), pool.workers()[0]
        assert pickle.loads(pickle.dumps((counts, worker))) == (counts, worker)
        assert json.loads(json.dumps(counts._asdict()))["completed"] == 1
        assert json.loads(json.dumps(worker._asdict()))["name"] == "plain_0"


# --- Counts against the truth -----------------------------------------------------------------------------------------


def test_what_is_counted_for_a_future_is_counted_before_it_is_told():
    seen = []
    with pyconc.ThreadPoolExecutor(1) as pool:
        for _ in range(100):
            future = pool.submit(abs, 1)
            future.add_done_callback(lambda _: seen.append(pool.stats().completed))
    assert seen == list(range(1, 101))


def test_threads_count_what_became_of_their_calls():
    with pyconc.ThreadPoolExecutor(2) as pool, Gate() as gate:
        held = block_workers(pool, gate, 2)
        waiting = [pool.submit(abs, 1) for _ in range(10)]
        cancelled = [pool.submit(abs, 1) for _ in range(10)]
        late = [pool.options(deadline=time.monotonic()).submit(abs, 1) for _ in range(3)]
        assert all(future.cancel() for future in cancelled)
        gate.open()
        failed = [pool.submit(fail) for _ in range(5)]
        futures.wait(every := [*held, *waiting, *cancelled, *late, *failed])
        check(pool, every)


def test_calls_above_a_waiting_one_count():
    with pyconc.ThreadPoolExecutor(1) as pool:
        inner = []

        def outer():
            inner.append(pool.submit(fail))
            inner.append(pool.submit(lambda: pool.stats().running))
            return inner[1].result()

        future = pool.submit(outer)
        assert future.result() == 2
        futures.wait(inner)
        check(pool, [future, *inner])


def test_an_abandoned_call_counts_when_its_future_is_told():
    with pyconc.ThreadPoolExecutor(2) as pool, Gate() as gate:
        late = pool.options(timeout=0, grace=0).submit(gate)
        cancelled = pool.options(on_cancel="interrupt", grace=0).submit(gate)
        gate.wait_started(2)
        assert cancelled.cancel()
        wait_until(lambda: pool.stats().abandoned == 2, "both to be abandoned")
        counts = check(pool, [late, cancelled])
        assert (counts.cancelled, counts.timed_out, counts.workers, counts.idle) == (1, 1, 2, 0)
        assert [worker.is_abandoned for worker in pool.workers()] == [True, True]
        gate.open()
        wait_until(lambda: pool.stats().abandoned == 0, "both to end")
        assert check(pool, [late, cancelled]).idle == 2


def test_what_a_failed_initializer_costs_is_lost():
    with Gate() as gate:

        def begin():
            gate()
            raise LookupError("as it should")

        with pyconc.ThreadPoolExecutor(1, initializer=begin) as pool:
            lost = [pool.submit(abs, 1) for _ in range(5)]
            gate.open()
            futures.wait(lost)
            with pytest.raises(BrokenThreadPool):
                pool.submit(abs, 1)
            assert check(pool, lost).died == 5
            assert repr(pool).endswith("broken>")


@pytest.mark.parametrize("cancels", [True, False])
def test_after_shutdown_the_counts_stay(cancels):
    pool, gate = pyconc.ThreadPoolExecutor(1), Gate()
    with gate:
        every = [*block_workers(pool, gate), *(pool.submit(abs, 1) for _ in range(5))]
        pool.shutdown(wait=False, cancel_futures=cancels)
    pool.shutdown()
    counts = check(pool, every)
    assert counts.cancelled == (5 if cancels else 0)
    assert counts.workers == 0


def test_what_a_program_takes_out_of_the_queue_does_not_count():
    with pyconc.ThreadPoolExecutor(1) as pool, Gate() as gate:
        held = block_workers(pool, gate)
        pool.submit(abs, 1)
        pool._work_queue.get_nowait()
        gate.open()
        futures.wait(held)
        check(pool, held)


def in_child_of_fork(function):
    """What a function returns in the child of a fork."""
    read, write = os.pipe()
    with open(read) as pipe:
        pid = os.fork()
        if pid == 0:
            try:
                os.write(write, json.dumps(function()).encode())
            finally:
                os._exit(0)
        os.close(write)
        said = pipe.read()
        os.waitpid(pid, 0)
    return json.loads(said)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_in_the_child_of_a_fork_everything_begins_at_0():
    def look():
        before = pool.stats()
        pool.submit(abs, 1).result()
        return before[2:], pool.stats().completed, pyconc.stats()["forked"].completed

    with pyconc.ThreadPoolExecutor(2, name="forked") as pool, Gate() as gate:
        pool.submit(abs, 1).result()
        held = block_workers(pool, gate, 2)
        held.append(pool.submit(abs, 1))
        before, *completed = in_child_of_fork(look)
        assert completed == [1, 1]
        assert [number for number in before if number] == []
        gate.open()
        futures.wait(held)
        assert check(pool, held, completed=1).submitted == 4


def test_threads_count_the_truth_in_a_mess():
    chance = random.Random(1)
    with pyconc.ThreadPoolExecutor(4) as pool:
        views = [
            pool,
            pool.options(name="view"),
            pool.options(on_cancel="interrupt", grace=0),
            pool.options(timeout=0.001, grace=0),
            pool.options(deadline=time.monotonic()),
        ]
        every, lock = [], threading.Lock()

        def submit_and_cancel():
            mine = []
            for _ in range(300):
                view = chance.choice(views)
                mine.append(view.submit(chance.choice([abs, fail, time.sleep]), *chance.choice([(), (0,), (0.0005,)])))
                if chance.random() < 0.3:
                    chance.choice(mine).cancel()
                counts = pool.stats()
                assert counts.running <= 4 + counts.submitted  # and so no unsigned number below 0
                assert counts.submitted == sum(getattr(counts, end) for end in ENDS) + counts.running + counts.queued
            with lock:
                every.extend(mine)

        threads = [threading.Thread(target=submit_and_cancel) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        futures.wait(every)
        assert len(every) == 900
        counts = check(pool, every)
        assert min(counts.completed, counts.failed, counts.cancelled, counts.timed_out) > 0
