"""stats(), workers() and repr(): what an executor says of itself is what became of its futures."""

import asyncio
import functools
import gc
import json
import os
import pickle
import random
import signal
import threading
import time
from concurrent import futures
from concurrent.futures.thread import BrokenThreadPool

import coroutines
import jobs
import pools
import pytest
from gates import AsyncGate, Gate, ProcessGate, block_workers
from loops import on_every_loop, on_loop
from support import SANITIZED, wait_until

import pyconc
from pyconc import _stats

MESS = [30, 10, 20, 1]  # how often which call
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


def wait_until_at_rest(pool):
    """Return what a pool says when it has nothing to do: what its program has cancelled it may count a moment later."""
    found = []

    def is_at_rest():
        found[:] = [pool.stats()]
        ended = sum(getattr(found[0], end) for end in ENDS)
        return found[0].running == found[0].queued == 0 and ended == found[0].submitted

    wait_until(is_at_rest, "the pool to have nothing to do")
    return found[0]


def check(pool, ended, **others):
    """The counts of a pool that has nothing to do are those of the futures, and of what else there was."""
    ended = list(ended)
    assert all(future.done() for future in ended)
    expected = {end: sum(outcome_of(future) == end for future in ended) for end in ENDS}
    expected = {end: expected[end] + others.get(end, 0) for end in ENDS}
    counts = wait_until_at_rest(pool)
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
        plain, named, idle = workers["Gate"], workers["big file"], workers[None]
        assert (plain.running, plain.running_for >= 0, plain.calls) == (1, True, 0)
        assert (named.running, named.running_for >= 0, named.is_abandoned) == (1, True, False)
        assert (idle.running, idle.running_for, idle.calls, idle.rss) == (0, None, 1, None)


def use_cpu(seconds):
    """Returns for how long the thread that runs it has computed by then."""
    while time.thread_time() < seconds:
        pass
    return time.thread_time()


def test_workers_say_for_how_long_they_have_computed():
    with pyconc.ThreadPoolExecutor(1) as threads, pyconc.ProcessPoolExecutor(1) as processes:
        for pool in (threads, processes):
            least = pool.submit(use_cpu, 0.05).result()
            (worker,) = pool.workers()
            assert 0.05 <= least <= worker.cpu < 60
            assert pool.submit(use_cpu, worker.cpu + 0.05).result() <= pool.workers()[0].cpu


def test_of_a_worker_that_has_ended_nothing_is_known():
    with pyconc.ProcessPoolExecutor(1) as pool:
        process = pool.submit(os.getpid).result()
    wait_until(lambda: _stats.cpu_of_process(process) is None, "the worker to end")
    with pyconc.ThreadPoolExecutor(1) as pool:
        thread = pool.submit(threading.get_native_id).result()
    wait_until(lambda: _stats.cpu_of_thread(thread) is None, "the thread to end")


class Secretive:
    """Names no function, and would tell what it has."""

    def __call__(self, *args):
        return self.args_and(*args)

    def args_and(self, gate):
        gate()
        return pyconc.current_task().name

    def __repr__(self):
        return "a secret"


def call(function, *args, **kwargs):
    return function(*args, **kwargs)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (Secretive(), "Secretive"),
        (Secretive().args_and, "Secretive.args_and"),
        (functools.partial(call, Secretive()), "call"),
        (functools.partial(Secretive()), "Secretive"),
    ],
    ids=["object", "method", "partial", "partial of an object"],
)
def test_a_call_is_named_as_its_function_and_tells_no_argument(function, name):
    for Executor, make_gate in ((pyconc.ThreadPoolExecutor, Gate), (pyconc.ProcessPoolExecutor, ProcessGate)):
        with Executor(1) as pool, make_gate() as gate:
            held = pool.submit(function, gate)
            gate.wait_started()
            assert pool.workers()[0].task == name
            gate.open()
            assert held.result() == name


def test_what_ends_a_call_names_it_so():
    with pyconc.ProcessPoolExecutor(1) as pool:
        with pytest.raises(pyconc.WorkerDied, match=r"while it ran call") as died:
            pool.submit(functools.partial(call, jobs.die), "exit").result()
        assert died.value.task_name == "call"
        with pytest.raises(pyconc.TaskTimeout, match=r"^call has reached") as late:
            pool.options(timeout=0.01).submit(functools.partial(call, time.sleep), 3600).result()
        assert late.value.task_name == "call"


def test_a_thread_that_runs_a_call_on_top_of_another_tells_of_the_upper_one():
    with pyconc.ThreadPoolExecutor(1) as pool, Gate() as gate:
        outer = pool.submit(lambda: pool.submit(gate).result())
        gate.wait_started()
        below = pool.workers()[0]
        assert (below.task, below.running_for >= 0) == ("Gate", True)
        gate.open()
        outer.result()
        assert pool.workers()[0].running_for is None


def test_a_call_that_a_thread_has_not_begun_has_not_run_for_as_long_as_the_one_before():
    with pyconc.ThreadPoolExecutor(1) as pool:
        seen = set()
        while not seen:
            # They keep the GIL, so this thread sees the worker only between two of them.
            held = [pool.submit(sum, range(500_000)) for _ in range(10)]
            while not all(future.done() for future in held):
                seen |= {worker.running_for for worker in pool.workers() if worker.task == "sum"}
    assert seen == {None}


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
    lock = threading.Lock()
    with pyconc.ThreadPoolExecutor(2) as pool, Gate() as gate:
        with lock:
            late = pool.options(timeout=0, grace=0).submit(lock.acquire)  # has no line that could be interrupted
            cancelled = pool.options(on_cancel="interrupt", grace=0).submit(gate)
            gate.wait_started()
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


def test_threads_say_for_how_long_calls_waited_and_ran_if_they_are_to():
    with pyconc.ThreadPoolExecutor(1) as pool:
        assert pool.stats()[-2:] == (None, None)
    with pyconc.ThreadPoolExecutor(1, timed=True) as pool, Gate() as gate:
        assert pool.stats()[-2:] == ((0,) * 6, (0,) * 6)
        ended = [*block_workers(pool, gate), pool.submit(time.sleep, 0.01), pool.submit(fail), pool.submit(abs, 1)]
        assert ended[-1].cancel()
        since = time.monotonic()
        wait_until(lambda: time.monotonic() - since > 0.01, "some time to pass")
        gate.open()
        ended.append(pool.submit(lambda: pool.submit(abs, 1).result()))  # the inner one in the same thread
        futures.wait(ended)
        counts = check(pool, ended, completed=1)
        assert counts.run.calls == counts.wait.calls == counts.completed + counts.failed == 5
        assert counts.run.total >= counts.run.max >= 0.01
        # Of five, the sleep and the failure waited for the gate.
        assert counts.wait.total >= 0.02
        assert counts.wait.p50 <= counts.wait.p90 <= counts.wait.p99 <= counts.wait.max


def test_timed_is_true_or_false():
    with pytest.raises(TypeError, match="timed must be True or False, not 1"):
        pyconc.ThreadPoolExecutor(timed=1)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_in_the_child_of_a_fork_everything_begins_at_0():
    def look():
        before = pool.stats()
        pool.submit(abs, 1).result()
        return [*before[2:-2], *before.run, *before.wait], pool.stats().completed, pyconc.stats()["forked"].completed

    with pyconc.ThreadPoolExecutor(2, name="forked", timed=True) as pool, Gate() as gate:
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
    with pyconc.ThreadPoolExecutor(4, timed=True) as pool:
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
        assert counts.run.calls == counts.completed + counts.failed <= counts.wait.calls <= counts.submitted


# --- Processes --------------------------------------------------------------------------------------------------------


def check_processes(pool, ended, **others):
    counts = check(pool, ended, **others)
    # Every call that was made in a worker, and whose end is not somebody else's wish, ran for some time.
    assert counts.run.calls == counts.completed + counts.failed
    assert counts.wait is None or counts.wait.calls == counts.run.calls
    return counts


def test_a_busy_process_pool_says_so():
    with pools.pool_of(2, name="resize") as pool, ProcessGate() as gate:
        assert pool.stats()[2:-2] == (0,) * 13
        assert pool.stats().wait is None
        assert pool.workers() == []
        assert repr(pool) == "<ProcessPoolExecutor 'resize': 0 running, 0 queued, 0 of 2 workers>"
        held = [*block_workers(pool, gate), *block_workers(pool.options(name="big"), gate)]
        held += [pool.submit(jobs.identity, 1) for _ in range(3)]
        counts = pool.stats()
        assert (counts.workers, counts.idle, counts.running, counts.queued, counts.submitted) == (2, 0, 2, 3, 5)
        assert repr(pool) == "<ProcessPoolExecutor 'resize': 2 running, 3 queued, 2 of 2 workers>"
        workers = pool.workers()
        assert {worker.task for worker in workers} == {"ProcessGate", "big"}
        assert {worker.id for worker in workers} == set(pool._processes)
        assert {worker.name for worker in workers} == {"resize_0", "resize_1"}
        assert all(worker.running == 1 and worker.running_for >= 0 for worker in workers)
        assert all(worker.rss is None or worker.rss > 1 << 20 for worker in workers)
        assert all(0 < worker.cpu < 3600 for worker in workers)
        gate.open()
        futures.wait(held)
        check_processes(pool, held)
        assert sum(worker.calls for worker in pool.workers()) == 5
    assert repr(pool) == "<ProcessPoolExecutor 'resize': 0 running, 0 queued, 0 of 2 workers, shut down>"


def test_processes_count_what_became_of_their_calls():
    with pools.pool_of(1) as pool, ProcessGate() as gate:
        every = block_workers(pool, gate)
        every += [pool.submit(jobs.identity, 1) for _ in range(5)]
        every += [pool.submit(jobs.fail, LookupError()) for _ in range(4)]
        every += [pool.options(deadline=time.monotonic()).submit(jobs.identity) for _ in range(3)]
        cancelled = [pool.submit(jobs.identity) for _ in range(2)]
        assert all(future.cancel() for future in cancelled)
        gate.open()
        futures.wait(every)
        check_processes(pool, [*every, *cancelled])
        unsent = [pool.submit(jobs.identity, jobs.Unpicklable()), pool.submit(jobs.Unpicklable)]
        futures.wait(unsent)
        counts = check(pool, [*every, *cancelled, *unsent])
        assert counts.run.calls == counts.completed + counts.failed - 1  # one never left this process


def test_calls_that_are_stopped_count_as_their_futures_say():
    with pools.pool_of(2, on_cancel="interrupt", grace=30) as pool, ProcessGate() as gate:
        cancelled = block_workers(pool, gate)
        assert cancelled[0].cancel()
        late = pool.options(timeout=0.01).submit(gate)
        futures.wait([*cancelled, late])
        check_processes(pool, [*cancelled, late])
        killed = pool.options(timeout=0.01, on_cancel="kill").submit(gate)
        futures.wait([killed])
        check_processes(pool, [*cancelled, late, killed])


def test_what_a_death_costs_is_lost():
    with pools.pool_of(1) as pool:
        every = [pool.submit(jobs.identity, 1), pool.submit(jobs.die, signal.SIGKILL), pool.submit(jobs.identity, 1)]
        futures.wait(every)
        assert check_processes(pool, every).died == 1
        assert [worker.calls for worker in pool.workers()] == [1]  # the worker that is there now


def begin_badly():
    raise LookupError("as it should")


def test_what_a_failed_initializer_of_processes_costs_is_lost():
    with pools.pool_of(1, initializer=begin_badly) as pool:
        every = [pool.submit(jobs.identity, 1)]
        futures.wait(every)
        assert check_processes(pool, every).died == 1
        assert repr(pool).endswith("broken>")


@pytest.mark.parametrize("cancels", [True, False])
def test_after_the_shutdown_of_processes_the_counts_stay(cancels):
    with pools.pool_of(1) as pool, ProcessGate() as gate:
        every = [*block_workers(pool, gate), *(pool.submit(jobs.identity, 1) for _ in range(5))]
        pool.shutdown(wait=False, cancel_futures=cancels)
        gate.open()
        pool.shutdown()
        assert check_processes(pool, every).cancelled == (5 if cancels else 0)
        assert pool.stats().workers == 0
        assert pool.workers() == []


@pytest.mark.parametrize("chunksize", [None, 1, 7])
def test_the_calls_of_a_map_count_one_by_one(chunksize):
    with pools.pool_of(2, timed=True) as pool:
        assert list(pool.map(jobs.identity, range(1000), chunksize=chunksize)) == [*range(1000)]
        counts = check_processes(pool, [], completed=1000)
        assert counts.run.total > 0
        with pytest.raises(LookupError):
            list(pool.map(jobs.fail, [LookupError()] * 100, chunksize=chunksize))
        counts = wait_until_at_rest(pool)
        assert counts.failed > 0
        assert counts.run.calls == counts.wait.calls == counts.completed + counts.failed


def test_a_run_is_as_long_as_the_call():
    with pools.pool_of(1) as pool:
        for seconds in [0, 0.05]:
            pool.submit(time.sleep, seconds).result()
        run = pool.stats().run
        assert run.calls == 2
        assert run.total >= run.max >= 0.05
        assert run.p50 <= run.p90 <= run.p99 <= run.max


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_in_the_child_of_a_fork_the_counts_of_processes_begin_at_0():
    def look():
        before, workers = pool.stats(), pool.workers()
        pool.submit(jobs.identity, 1).result()
        after = pool.stats()
        pool.shutdown()
        return before[2:-2], before.wait, len(workers), after.completed

    with pools.pool_of(1, timed=True) as pool, ProcessGate() as gate:
        pool.submit(jobs.identity, 1).result()
        held = block_workers(pool, gate)
        held.append(pool.submit(jobs.identity, 1))
        assert in_child_of_fork(look) == [[0] * 13, [0] * 6, 0, 1]
        gate.open()
        futures.wait(held)
        check_processes(pool, held, completed=1)


def test_processes_say_for_how_long_calls_waited_if_they_are_to():
    with pools.pool_of(1, timed=True) as pool, ProcessGate() as gate:
        assert pool.stats().wait == (0,) * 6
        ended = [*block_workers(pool, gate), pool.submit(jobs.identity, 1), pool.submit(jobs.fail, LookupError())]
        ended.append(pool.submit(jobs.identity, 1))
        assert ended[-1].cancel()
        since = time.monotonic()
        wait_until(lambda: time.monotonic() - since > 0.01, "some time to pass")
        gate.open()
        futures.wait(ended)
        counts = check_processes(pool, ended)
        assert counts.wait.total >= 0.02  # two have waited for the gate
        assert counts.wait.p50 <= counts.wait.p90 <= counts.wait.p99 <= counts.wait.max


def test_workers_that_others_take_the_place_of_are_counted():
    with pools.pool_of(1, max_tasks_per_child=1) as pool:
        futures.wait([pool.submit(jobs.identity, 1) for _ in range(2)])
        wait_until(lambda: pool.stats().recycled == 2)
        futures.wait([pool.submit(jobs.die, signal.SIGKILL)])
        assert wait_until_at_rest(pool).recycled == 2


def test_processes_count_the_truth_in_a_mess():
    chance = random.Random(2)
    with pools.pool_of(3, timed=True) as pool:
        views = [pool, pool.options(on_cancel="interrupt"), pool.options(timeout=0.002), pool.options(on_cancel="kill")]
        every = []
        for _ in range(150 if SANITIZED else 400):
            what = chance.choices([(abs, 1), (jobs.fail, KeyError()), (time.sleep, 0.003), (jobs.die, "exit")], MESS)[0]
            every.append(chance.choice(views).submit(*what))
            if chance.random() < 0.2:
                chance.choice(every).cancel()
            counts = pool.stats()
            ended = sum(getattr(counts, end) for end in ENDS)
            assert ended + counts.running + counts.queued <= counts.submitted == len(every)
            assert counts.idle <= counts.workers <= 3
        # On a busy machine a short call ends before it can be stopped: of each way to end, one that is certain.
        every += [view.submit(time.sleep, 3600) for view in views[1:]]
        every += [pool.submit(jobs.die, "exit"), pool.submit(jobs.fail, KeyError()), pool.submit(abs, 1)]
        assert all(stopped.cancel() for stopped in (every[-6], every[-4]))
        futures.wait(every)
        counts = check(pool, every)
        assert min(counts.completed, counts.failed, counts.cancelled, counts.timed_out, counts.died) > 0
        assert counts.run.calls == counts.wait.calls == counts.completed + counts.failed


# --- Coroutines -------------------------------------------------------------------------------------------------------


@on_every_loop
@on_loop
async def test_a_pool_of_coroutines_counts_many_at_a_time(new_loop):
    async with AsyncGate() as gate, pyconc.CoroutinePool(1, name="crawl", timed=True) as pool:
        held = [pool.submit(coroutines.wait_at, gate.address) for _ in range(3)]
        for _ in held:
            await gate.hear("started")
        assert repr(pool) == "<CoroutinePool 'crawl': 3 running, 0 queued, 1 of 1 workers>"
        (worker,) = pool.workers()
        assert (worker.task, worker.running, worker.calls, worker.name) == ("wait_at", 3, 0, "crawl_0")
        assert held[0].cancel()
        await gate.hear("cancelled")
        gate.open()
        failed = pool.submit(coroutines.fail, LookupError())
        await asyncio.to_thread(futures.wait, [*held, failed])
        check_processes(pool, [*held, failed])
        late = pool.options(timeout=0.01).submit(asyncio.sleep, 3600)
        lost = pool.submit(coroutines.die, "exit")
        await asyncio.to_thread(futures.wait, [late, lost])
        check_processes(pool, [*held, failed, late, lost])
