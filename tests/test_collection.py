"""The garbage collector sees what executors hold, and their ends run nobody's code where objects are freed."""

import asyncio
import gc
import threading
import weakref

import pytest
import support
from gates import Gate, block_workers

import pyconc
from pyconc import _core

KINDS = ["ThreadPoolExecutor", "ProcessPoolExecutor"]


def gone(*probes):
    support.wait_until(lambda: gc.collect() + 1 and not any(probe() for probe in probes), "all of it to be collected")


class Knot:
    """Something that leads back to an executor."""

    def __call__(self, *args):
        return None


def through_a_future(pool):
    future = pool.submit(int)
    future.result()
    future.pool = pool
    pool.future = future


def through_a_callback(pool):
    future = pool.submit(int)
    future.add_done_callback(lambda future, pool=pool: None)
    future.result()
    pool.future = future


def through_a_function_that_it_ran(pool):
    def function():
        return pool

    pool.function = function
    assert pool.submit(len, "abc").result() == 3
    if isinstance(pool, pyconc.ThreadPoolExecutor):
        assert pool.submit(function).result() is pool


def through_a_map(pool):
    pool.results = pool.map(abs, range(3))
    assert next(pool.results) == 0


def through_an_exception(pool):
    try:
        pool.submit(divmod, 1, 0).result()
    except ZeroDivisionError as error:
        error.pool = pool
        pool.error = error


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "tie",
    [through_a_future, through_a_callback, through_a_function_that_it_ran, through_a_map, through_an_exception],
)
def test_an_executor_in_a_cycle_is_collected_and_its_workers_end(kind, tie):
    with support.nothing_left():
        pool = getattr(pyconc, kind)(1)
        tie(pool)
        probe = weakref.ref(pool)
        del pool
        gone(probe)


def test_an_executor_among_the_globals_of_the_functions_that_it_ran_is_collected():
    support.run_script(
        """
        import gc, os, time, weakref
        import pyconc

        def main():
            namespace = {"__name__": "cell"}
            exec("def f(x):\\n    return x\\n\\ndef g(x, f=f):\\n    return f(x)\\n", namespace)
            for name in ("f", "g"):
                function = globals()[name] = namespace[name]
                function.__module__ = "__main__"  # so that it can be pickled by its name
            pool = namespace["pool"] = pyconc.ProcessPoolExecutor(1)
            assert pool.submit(namespace["f"], 2).result() == 2
            assert list(pool.map(namespace["g"], [3])) == [3]
            pid = next(iter(pool._processes))
            del globals()["f"], globals()["g"]
            return weakref.ref(pool), pid

        if __name__ == "__main__":
            probe, pid = main()
            while (gc.collect() or True) and (probe() or os.path.exists(f"/proc/{pid}")):
                time.sleep(0.01)  # a hang fails the test
        """
    )


def make_thread_queue():
    return _core.ThreadQueue(1)


def make_process_queue():
    return _core.ProcessQueue(1)


class OwnExecutor(_core.Executor):
    """The C part with a queue whose tasks nobody takes."""

    def __init__(self, queue):
        self._tasks = queue

    def _start_workers(self):
        pass


@pytest.mark.parametrize("make_queue", [make_thread_queue, make_process_queue])
def test_what_a_queue_holds_is_seen(make_queue):
    """A cycle through a task that waits: the queue ends it, and all is gone."""
    knot = Knot() if make_queue is make_thread_queue else abs
    queue = make_queue()
    executor = OwnExecutor(queue)
    future = executor.submit(knot, 1)
    ended = []
    future.add_done_callback(lambda future: ended.append(future.cancelled()))
    future.queue = queue  # a queue, its task, the task's future
    if isinstance(knot, Knot):
        knot.executor = executor
    probes = [weakref.ref(future), weakref.ref(queue)]
    del future, queue, executor, knot
    gone(*probes)
    assert ended == [True]


@pytest.mark.parametrize("make_queue", [make_thread_queue, make_process_queue])
def test_a_queue_that_dies_with_tasks_cancels_them_while_it_is_whole(make_queue):
    """Callbacks run in its finalizer, where they may use it, and even keep it."""
    queue = make_queue()
    executor = OwnExecutor(queue)
    futures = [executor.submit(abs, -number) for number in range(3)]
    probe = weakref.ref(queue)
    kept = []

    def look(future):
        assert future.cancelled()
        assert probe().empty()
        with pytest.raises(RuntimeError):
            OwnExecutor(probe()).submit(abs, 1)
        kept.append(probe())

    for future in futures:
        future.add_done_callback(look)
    del queue, executor
    assert len(kept) == 3
    assert len(set(map(id, kept))) == 1
    assert all(future.cancelled() for future in futures)
    kept.clear()
    gone(probe)


def test_a_queue_that_outlives_its_executor_says_why_it_refuses():
    pool = pyconc.ThreadPoolExecutor(1)
    queue = pool._work_queue
    probe = weakref.ref(pool)
    del pool
    gone(probe)
    with pytest.raises(RuntimeError, match=r"^cannot schedule new futures after shutdown$"):
        queue.put(print)


def test_an_executor_whose_class_has_a_finalizer_of_its_own_closes_all_the_same():
    class Own(pyconc.ThreadPoolExecutor):
        def __del__(self):
            seen.append(type(self).__name__)

    seen = []
    with support.nothing_left():
        pool = Own(1)
        pool.submit(int).result()
        del pool
        gc.collect()
        assert seen == ["Own"]


def test_a_callback_of_a_call_that_nobody_will_run_may_use_the_pool():
    """No thread can be started, and the executor is dropped with calls in it."""
    support.run_script(
        """
        import gc, threading
        import pyconc

        if __name__ == "__main__":
            pool = pyconc.ProcessPoolExecutor(1)
            start = threading.Thread.start

            def fail(self):
                raise RuntimeError("can't start new thread")

            threading.Thread.start = fail
            futures = []
            for number in range(3):
                try:
                    futures.append(pool.submit(abs, number))
                except RuntimeError:
                    pass
            threading.Thread.start = start

            def ask(_):
                for future in futures:
                    try:
                        future.result(timeout=0.01)
                    except BaseException:
                        pass

            for future in futures:
                future.add_done_callback(ask)
            del pool
            gc.collect()
        """
    )


def test_a_queue_is_traversed_while_its_tasks_come_and_go():
    """The collector runs in one thread while others push, take and run."""
    stop = threading.Event()

    def collect():
        while not stop.is_set():
            gc.collect()

    collector = threading.Thread(target=collect)
    collector.start()
    try:
        with pyconc.ThreadPoolExecutor(2) as pool:
            for _ in range(support.THOUSAND // 20):
                futures = [pool.submit(lambda value: [value], {number: pool}) for number in range(50)]
                futures[7].cancel()
                assert pyconc.wait(futures).not_done == set()
    finally:
        stop.set()
        collector.join()


def test_a_loop_in_a_cycle_through_what_is_on_its_way_is_collected():
    gate = Gate()
    with pyconc.ThreadPoolExecutor(1) as pool:
        loop = asyncio.new_event_loop()

        async def leave(loop):
            with gate:
                block_workers(pool, gate)
                loop.run_in_executor(pool, weakref.ref(loop))  # its result is the loop

        loop.run_until_complete(leave(loop))
        pool.submit(int).result()
        loop.close()
        probe = weakref.ref(loop)
        del loop
        gone(probe)


@pytest.mark.parametrize(
    "tie",
    [
        lambda future: object.__setattr__(future, "me", future),
        lambda future: super(pyconc.Future, future).__setattr__("me", future),
        lambda future: vars(future).update(me=future),
        lambda future: setattr(future, "me", future),
    ],
    ids=["object.__setattr__", "super", "vars", "setattr"],
)
@pytest.mark.parametrize("when", ["pending", "done"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_future_that_refers_to_itself_is_collected(kind, when, tie):
    """Futures of plain results are not the collector's business, until they refer to something."""
    with getattr(pyconc, kind)(1) as pool:
        others = [pool.submit(abs, -number) for number in range(3)]
        future = pool.submit(abs, -1)
        if when == "done":
            assert future.result() == 1
        tie(future)
        others += [pool.submit(abs, -number) for number in range(3)]
        assert future.result() == 1
        probe = weakref.ref(future)
        del future
        gone(probe)
        assert [other.result() for other in others] == [0, 1, 2] * 2


def test_the_list_of_untracked_futures_survives_any_order_of_deaths():
    with pyconc.ThreadPoolExecutor(1) as pool:
        futures = [pool.submit(abs, number) for number in range(100)]
        for step in (7, 3, 2, 1):
            for future in futures[::step]:
                object.__setattr__(future, "mark", step)
            gc.collect()
            assert all(gc.is_tracked(future) for future in futures[::step])
            del futures[::step]
        assert futures == []
        gc.collect()
        assert pool.submit(abs, -1).result() == 1
