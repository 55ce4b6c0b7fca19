"""Tasks of a thread pool that wait for tasks of the same pool, with no other thread free."""

import contextvars
import os
import sys
import threading
import time

import pytest
from gates import Gate, block_workers
from support import run_script, wait_until

import pyconc

WAITS = {
    "result": lambda futures: [future.result() for future in futures],
    "result with a time-out": lambda futures: [future.result(timeout=3600) for future in futures],
    "result, the last one first": lambda futures: [future.result() for future in futures[::-1]][::-1],
    "exception": lambda futures: [future.exception() or future.result() for future in futures],
    "wait": lambda futures: sorted(future.result() for future in pyconc.wait(futures).done),
    "wait with a time-out": lambda futures: sorted(f.result() for f in pyconc.wait(futures, timeout=3600).done),
    "as_completed": lambda futures: sorted(future.result() for future in pyconc.as_completed(futures)),
    "wait for one after the other": lambda futures: sorted(
        pyconc.wait([future], return_when=pyconc.FIRST_COMPLETED).done.pop().result() for future in futures
    ),
}


@pytest.fixture(params=[1, 2])
def pool(request):
    with pyconc.ThreadPoolExecutor(request.param) as pool:
        yield pool


@pytest.mark.parametrize("how", WAITS)
def test_a_task_waits_for_tasks_of_its_pool(pool, how):
    def outer():
        return WAITS[how]([pool.submit(abs, -number) for number in range(5)])

    # More tasks that wait than threads.
    assert [future.result() for future in [pool.submit(outer) for _ in range(5)]] == [list(range(5))] * 5


def test_a_task_maps_on_its_pool(pool):
    def outer(level):
        return 1 if level == 0 else sum(pool.map(outer, [level - 1] * 3))

    assert pool.submit(outer, 4).result() == 81


def test_a_done_callback_waits_for_a_task_of_its_pool():
    with pyconc.ThreadPoolExecutor(1) as pool, Gate() as gate:
        results = []
        (future,) = block_workers(pool, gate)
        future.add_done_callback(lambda future: results.append(pool.submit(pow, 2, 5).result()))
        gate.open()
        pool.submit(int).result()
    assert results == [32]


def test_the_exception_of_a_task_is_its_own():
    with pyconc.ThreadPoolExecutor(1) as pool:

        def outer():
            failing = pool.submit(int, "x")
            with pytest.raises(ValueError, match="invalid literal"):
                failing.result()
            assert type(pool.submit(sys.exit, 7).exception()) is SystemExit
            return pool.submit(abs, -1).result()

        assert pool.submit(outer).result() == 1


def test_only_what_is_awaited_runs_meanwhile():
    """Another task, which may wait for what the waiting one does next, would be a deadlock."""
    with pyconc.ThreadPoolExecutor(1) as pool:
        ran = []
        goes_on = threading.Event()

        def outer():
            other = pool.submit(goes_on.wait)
            assert pool.submit(ran.append, "awaited").result() is None
            assert not other.running()
            goes_on.set()
            return other

        assert pool.submit(outer).result().result()
        assert ran == ["awaited"]


def test_a_task_is_left_to_a_thread_that_is_free():
    with pyconc.ThreadPoolExecutor(2) as pool:
        both = threading.Barrier(2)
        pyconc.wait([pool.submit(both.wait) for _ in range(2)])
        wait_until(lambda: pool._idle_semaphore._value == 2)

        def outer():
            return threading.get_ident(), pool.submit(threading.get_ident).result()

        outer_thread, inner_thread = pool.submit(outer).result()
        assert outer_thread != inner_thread


def test_the_pool_grows_first():
    with pyconc.ThreadPoolExecutor(3) as pool:

        def nested(level):
            here = {threading.get_ident()}
            return here | pool.submit(nested, level - 1).result() if level else here

        assert len(pool.submit(nested, 2).result()) == 3


def test_a_task_that_another_thread_runs_is_waited_for():
    with pyconc.ThreadPoolExecutor(2) as pool, pyconc.ThreadPoolExecutor(1) as opens, Gate() as gate:
        (running,) = block_workers(pool, gate)
        waiter = pool.submit(lambda: (opens.submit(gate.open), running.result()))
        assert waiter.result()[1] == ()


def test_another_pool_is_not_concerned():
    with pyconc.ThreadPoolExecutor(1) as one, pyconc.ThreadPoolExecutor(1) as other, Gate() as gate:
        block_workers(other, gate)
        queued = other.submit(threading.get_ident)
        waits = threading.Event()
        waiter = one.submit(lambda: (waits.set(), queued.result(), threading.get_ident()))
        waits.wait()
        gate.open()
        _, there, here = waiter.result()
        assert there != here


@pytest.mark.parametrize("wait", [lambda f: f.result(timeout=0), lambda f: list(pyconc.as_completed([f], 0))])
def test_without_time_nothing_runs_meanwhile(wait):
    with pyconc.ThreadPoolExecutor(1) as pool:

        def outer():
            future = pool.submit(abs, -1)
            with pytest.raises(pyconc.concurrent.futures.TimeoutError):
                wait(future)
            assert not future.done()
            return future

        assert pool.submit(outer).result().result() == 1


def test_a_task_that_takes_longer_than_the_time_out_is_not_interrupted():
    with pyconc.ThreadPoolExecutor(1) as pool:

        def outer():
            end = time.monotonic() + 0.15

            def until_then():
                while time.monotonic() <= end:
                    pass
                return "done"

            return pool.submit(until_then).result(timeout=0.1)

        assert pool.submit(outer).result() == "done"


def test_a_queued_task_that_is_cancelled_wakes_who_waits():
    with pyconc.ThreadPoolExecutor(1) as pool:

        def outer():
            future = pool.submit(abs, -1)
            assert future.cancel()
            with pytest.raises(pyconc.concurrent.futures.CancelledError):
                future.result()
            return pyconc.wait([future, pool.submit(abs, -2)])

        assert len(pool.submit(outer).result().done) == 2


def test_shutdown_lets_waiting_tasks_finish():
    pool = pyconc.ThreadPoolExecutor(1)

    def outer():
        future = pool.submit(abs, -1)
        pool.shutdown(wait=False)
        return future.result()

    assert pool.submit(outer).result() == 1
    pool.shutdown()


variable = contextvars.ContextVar("variable", default="nothing")


def test_contexts_are_not_mixed():
    with pyconc.ThreadPoolExecutor(1, initializer=variable.set, initargs=("the thread's",)) as pool:

        def inner():
            before = variable.get()
            variable.set("the inner task's")
            return before

        def outer():
            variable.set("the outer task's")
            return pool.submit(inner).result(), variable.get()

        assert pool.submit(outer).result() == ("the thread's", "the outer task's")


# --- What no thread could do ------------------------------------------------------------------------------------------

FOR_EVER = {
    "result": lambda futures: futures[0].result(),
    "exception": lambda futures: futures[0].exception(),
    "wait": pyconc.wait,
    "wait for the first": lambda futures: pyconc.wait(futures, return_when=pyconc.FIRST_COMPLETED),
    "wait for an exception": lambda futures: pyconc.wait(futures, return_when=pyconc.FIRST_EXCEPTION),
    "as_completed": lambda futures: list(pyconc.as_completed(futures)),
}


@pytest.mark.parametrize("how", FOR_EVER)
def test_a_task_that_waits_for_itself_is_told(pool, how):
    with Gate() as gate:
        futures = []
        futures.append(pool.submit(lambda: (gate(), FOR_EVER[how](futures))))
        gate.open()
        with pytest.raises(RuntimeError, match="deadlock: this task waits for a future that can be done only when"):
            futures[0].result()
    assert pool.submit(abs, -1).result() == 1


def test_tasks_that_wait_for_each_other_in_one_thread_are_told():
    with pyconc.ThreadPoolExecutor(1) as pool, Gate() as gate:
        futures = []

        def outer():
            gate()
            futures.append(pool.submit(lambda: futures[0].result()))
            return futures[1].result()

        futures.append(pool.submit(outer))
        gate.open()
        with pytest.raises(RuntimeError, match="deadlock"):
            futures[0].result()


def test_tasks_that_wait_for_each_other_in_several_threads_are_told():
    with pyconc.ThreadPoolExecutor(3) as pool:
        barrier = threading.Barrier(4)
        futures = []

        def wait_for_next(number):
            barrier.wait()
            return futures[(number + 1) % 3].result()

        futures += [pool.submit(wait_for_next, number) for number in range(3)]
        barrier.wait()
        # The last one to wait gets it, and through it the others do.
        for future in futures:
            with pytest.raises(RuntimeError, match="deadlock"):
                future.result()


def test_one_of_several_will_do():
    """A task may wait for the first of itself and another."""
    with pyconc.ThreadPoolExecutor(2) as pool, Gate() as gate:
        futures = []

        def outer():
            gate()
            done, not_done = pyconc.wait([*futures, pool.submit(abs, -1)], return_when=pyconc.FIRST_COMPLETED)
            return len(done), len(not_done)

        futures.append(pool.submit(outer))
        gate.open()
        assert futures[0].result() == (1, 1)


def test_a_task_that_waits_for_itself_with_a_time_out_gets_that():
    with pyconc.ThreadPoolExecutor(1) as pool, Gate() as gate:
        futures = []
        futures.append(pool.submit(lambda: (gate(), futures[0].result(timeout=0.001))))
        gate.open()
        assert type(futures[0].exception()) is pyconc.concurrent.futures.TimeoutError


def test_as_many_tasks_wait_in_one_thread_as_is_documented():
    with pyconc.ThreadPoolExecutor(1) as pool:

        def chain(number):
            return number and 1 + pool.submit(chain, number - 1).result()

        assert pool.submit(chain, 64).result() == 64
        with pytest.raises(RuntimeError, match="deadlock: 64 tasks wait for the next one in this thread"):
            pool.submit(chain, 65).result()
        assert pool.submit(chain, 64).result() == 64


def test_at_the_limit_a_task_that_runs_is_waited_for():
    with pyconc.ThreadPoolExecutor(2) as pool, Gate() as gate, pyconc.ThreadPoolExecutor(1) as other:
        (running,) = block_workers(pool, gate)

        def chain(number):
            if number:
                return pool.submit(chain, number - 1).result()
            other.submit(gate.open)
            return running.result()

        assert pool.submit(chain, 64).result() == ()


# --- Forks, memory, many ----------------------------------------------------------------------------------------------


def test_a_fork_in_a_task_that_another_waits_for():
    run_script(
        """
        import os, pyconc, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        pool = pyconc.ThreadPoolExecutor(1)

        def inner():
            return os.fork()

        def outer(wait):
            future = pool.submit(inner)
            try:
                wait(future)
            except RuntimeError as error:
                # The child, in which the task that waits goes on.
                assert os.getpid() != parent
                assert "forked" in str(error), error
                assert pool.submit(pow, 2, 5).result() == 32
                pool.shutdown()
                os._exit(3)
            return future.result()

        parent = os.getpid()
        for wait in (pyconc.Future.result, lambda future: pyconc.wait([future])):
            pid = pool.submit(outer, wait).result()
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
        pool.shutdown()
        """
    )


def test_many_tasks_wait_in_few_threads():
    with pyconc.ThreadPoolExecutor(3) as pool:

        def fibonacci(number):
            if number < 2:
                return number
            futures = [pool.submit(fibonacci, number - 1), pool.submit(fibonacci, number - 2)]
            return sum(future.result() for future in (futures if number % 2 else futures[::-1]))

        assert pool.submit(fibonacci, 16).result() == 987


def test_other_threads_run_while_a_worker_waits_for_many_calls_of_c_functions():
    with pyconc.ThreadPoolExecutor(1) as pool:
        stops = threading.Event()
        turns = []

        def count():
            while not stops.is_set():
                turns.append(None)

        thread = threading.Thread(target=count)

        def outer():
            futures = [pool.submit(sum, range(10_000)) for _ in range(500)]
            before = len(turns)
            pyconc.wait(futures)
            return len(turns) - before

        thread.start()
        try:
            assert pool.submit(outer).result() > 0
        finally:
            stops.set()
            thread.join()


def test_a_loop_in_a_worker_that_awaits_its_own_pool_is_not_helped():
    """What waits there is the loop, which may have other things to do; a second thread is what it needs."""
    import asyncio

    with pyconc.ThreadPoolExecutor(1) as pool:

        async def main():
            call = asyncio.get_running_loop().run_in_executor(pool, abs, -1)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.shield(call), 0.01)
            call.cancel()
            return os.getpid()

        assert pool.submit(lambda: asyncio.run(main())).result() == os.getpid()


@pytest.mark.parametrize("how", ["await pool.run(nested, depth - 1)", "pool.submit(nested, depth - 1).result()"])
def test_a_coroutine_waits_for_one_of_its_own_pool(how):
    """In a worker the pool is that worker's own, with processes of its own."""
    run_script(
        f"""
        import os, pyconc

        async def nested(depth):
            return {{os.getpid()}} | ({how} if depth else set())

        pool = pyconc.CoroutinePool(1)
        if __name__ == "__main__":
            assert len(pool.submit(nested, 3).result()) == 4
            pool.shutdown()
        """
    )
