"""Whatever is made and dropped is gone: types, references, memory, threads, files."""

import asyncio
import gc
import logging
import os
import sys
import threading
import weakref

import pytest
import support

import pyconc
from pyconc import _core, shared


def make_loop_bridge():
    loop = asyncio.new_event_loop()
    with pyconc.ThreadPoolExecutor(1) as pool:
        loop.run_until_complete(loop.run_in_executor(pool, int))
    bridge = loop._pyconc_bridge
    loop.close()
    return bridge


def use_future():
    future = pyconc.Future()
    future.extra = future  # a cycle
    future.add_done_callback(lambda f: f)
    assert future._condition
    assert future._waiters == []
    future.set_result(future)
    return future


def make_worker():
    """What a worker process makes of the file descriptors that it gets; here it finds no task."""
    queue = _core.ProcessQueue(1)
    return _core.Worker(os.dup(queue.region.fileno()), os.dup(queue.wakeup_fd), 0)


def make_block():
    with pyconc.ProcessPoolExecutor(1) as pool:
        return pool.submit(bytearray, 100_000).result()


def use_chain():
    def lists():
        yield [object(), chain]  # a cycle

    chain = _core.Chain(lists())
    next(chain)
    return chain


def maker_of_shared(name):
    return lambda: getattr(_core, name)(shared._memory.heap())


class Cycle:
    def __init__(self, number):
        self.number = number


def use_map_results():
    with pyconc.ProcessPoolExecutor(1) as pool:
        results = pool.map(Cycle, [1, 2, 3])
        next(results).results = results  # a cycle
    return results


def make_outbox():
    told = []
    outbox = _core.Outbox(lambda: told.append(outbox))  # a cycle
    outbox.end(1, None, outbox)
    with pyconc.ProcessPoolExecutor(1) as pool:
        pool._submit_each(outbox, [2], abs, [-2])
    return outbox


def make_call():
    with pyconc.ThreadPoolExecutor(1) as pool:
        return pool.submit(_core.current_call).result()


MAKERS = {
    "Block": make_block,
    "Call": make_call,
    "Chain": use_chain,
    "Future": use_future,
    "Keeper": lambda: _core.Keeper(_core.ProcessQueue(1)),
    "MapResults": use_map_results,
    "Outbox": make_outbox,
    "LoopBridge": make_loop_bridge,
    "ThreadQueue": lambda: _core.ThreadQueue(1),
    "Executor": lambda: _core.Executor(),
    "ProcessQueue": lambda: _core.ProcessQueue(1),
    "Region": lambda: _core.ProcessQueue(1).region,
    "Worker": make_worker,
    "Waiter": lambda: _core.Waiter(),
    "SharedHeap": lambda: _core.SharedHeap(),
    "SharedWatch": lambda: _core.SharedWatch(shared.Event(), 2),
    **{
        name: maker_of_shared(name)
        for name in (
            "SharedArray",
            "SharedCell",
            "SharedCondition",
            "SharedDict",
            "SharedEvent",
            "SharedList",
            "SharedLock",
            "SharedNumber",
            "SharedQueue",
            "SharedSemaphore",
        )
    },
}


def test_no_type_is_missing_here():
    assert set(MAKERS) == {name for name, value in vars(_core).items() if isinstance(value, type)}


@pytest.mark.parametrize("name", MAKERS)
def test_objects_give_their_type_back(name):
    kind = getattr(_core, name)
    MAKERS[name]()
    gc.collect()
    before = sys.getrefcount(kind)
    for _ in range(5):
        MAKERS[name]()
    gc.collect()
    assert sys.getrefcount(kind) <= before + 1


def burst():
    with pyconc.ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(divmod, i, i % 3) for i in range(30)]
        pyconc.wait(futures)
        for future in pyconc.as_completed(futures):
            future.exception()
        list(pool.map(abs, range(5), buffersize=2))


def loop_burst():
    async def main():
        loop = asyncio.get_running_loop()
        async with pyconc.ThreadPoolExecutor(2) as pool:
            calls = [loop.run_in_executor(pool, divmod, i, i % 3) for i in range(30)]
            calls[-1].cancel()
            await asyncio.gather(*calls, return_exceptions=True)

    asyncio.run(main())


def failing_initializer():
    def fail():
        raise OSError

    with pyconc.ThreadPoolExecutor(2, initializer=fail) as pool:
        assert isinstance(pool.submit(int).exception(), pyconc.BrokenThreadPool)


def process_burst():
    with pyconc.ProcessPoolExecutor(2) as pool:
        futures = [pool.submit(divmod, i, i % 3) for i in range(30)]
        pyconc.wait(futures)
        for future in pyconc.as_completed(futures):
            future.exception()
        assert len(pool.submit(bytearray, 100_000).result()) == 100_000
        list(pool.map(abs, range(5), buffersize=2))
        list(pool.map(abs, range(500)))


@pytest.mark.parametrize("action", [use_future, burst, loop_burst, make_loop_bridge], ids=lambda f: f.__name__)
def test_nothing_leaks(action):
    support.check_no_leak(action, repeat=30)


@pytest.mark.parametrize("repeat", [3, pytest.param(20, marks=support.more_rounds)])
def test_a_process_executor_does_not_leak(repeat):
    support.check_no_leak(process_burst, repeat=repeat)


def test_calls_of_a_process_executor_do_not_leak():
    with pyconc.ProcessPoolExecutor(1) as pool:

        def action():
            assert pool.submit(abs, -5).result() == 5
            assert pool.submit(bytes, 10_000).result() == bytes(10_000)
            assert isinstance(pool.submit(divmod, 1, 0).exception(), ZeroDivisionError)
            assert list(pool.map(abs, range(3))) == [0, 1, 2]
            pool.submit(int).cancel()
            pool.submit(int).result()

        support.check_no_leak(action, repeat=30)


@pytest.mark.parametrize("executors", [4, pytest.param(50, marks=support.more_rounds)])
def test_process_executors_leave_nothing(executors):
    def mappings():
        with open("/proc/self/maps") as file:
            return sum("memfd:pyconc " in line for line in file)

    process_burst()
    with support.nothing_left():
        for _ in range(executors):
            process_burst()
    support.wait_until(lambda: gc.collect() + 1 and mappings() == 0, "the shared memory to be unmapped")
    support.check_flat_memory(process_burst, rounds=executors)


def test_a_broken_pool_does_not_leak(monkeypatch):
    monkeypatch.setattr(logging.getLogger("concurrent.futures"), "disabled", True)  # it would keep the tracebacks
    support.check_no_leak(failing_initializer, repeat=20)


def test_cancelled_and_refused_tasks_do_not_leak():
    def action():
        gate = threading.Event()
        pool = pyconc.ThreadPoolExecutor(1)
        pool.submit(gate.wait)
        futures = [pool.submit(int, object()) for _ in range(10)]
        futures[3].cancel()
        pool.shutdown(wait=False, cancel_futures=True)
        gate.set()
        pool.shutdown()
        with pytest.raises(RuntimeError):
            pool.submit(int)

    support.check_no_leak(action, repeat=20)


def test_a_dropped_pool_is_freed_with_its_threads():
    pool = pyconc.ThreadPoolExecutor(2)
    pool.submit(int).result()
    parts = [weakref.ref(pool), weakref.ref(pool._work_queue), *map(weakref.ref, pool._threads)]
    pool.shutdown()
    del pool
    support.wait_until(lambda: gc.collect() + 1 and not any(part() for part in parts), "all of it to be freed")


def test_untracked_futures_are_tracked_once_they_refer_to_something():
    with pyconc.ThreadPoolExecutor(1) as pool:
        plain = pool.submit(abs, -1)
        assert plain.result() == 1
        assert not gc.is_tracked(plain)
        for change in (
            lambda f: setattr(f, "attribute", f),
            lambda f: f._waiters.append(f),
            lambda f: f._done_callbacks.append(f),
            lambda f: setattr(f, "_result", f),
            lambda f: setattr(f, "_exception", f),
        ):
            future = pool.submit(abs, -1)
            future.result()
            change(future)
            if sys.version_info < (3, 13):
                gc.collect()  # it sees then what setattr() has done
            assert gc.is_tracked(future)
            probe = weakref.ref(future)
            del future
            support.wait_until(lambda probe=probe: gc.collect() + 1 and probe() is None, "the cycle to be freed")
        future = pool.submit(lambda: [None])
        future.result()[0] = future  # a cycle through the result
        probe = weakref.ref(future)
        del future
        support.wait_until(lambda: gc.collect() + 1 and probe() is None, "the cycle through a result to be freed")


@pytest.mark.slow
def test_a_million_tasks_leave_memory_flat():
    with pyconc.ThreadPoolExecutor(2) as pool:

        def action():
            for future in [pool.submit(int) for _ in range(100_000)]:
                future.result()

        support.check_flat_memory(action, rounds=10)


@pytest.mark.parametrize(
    "use", ["pool.submit(int).result()", "sum(pool.map(abs, range(10)))", "pool.map(abs, range(10), buffersize=2)"]
)
def test_a_process_executor_is_gone_when_its_name_is(use):
    """Without the garbage collector, which a program may switch off: with it goes the memory that it shares."""
    support.run_script(
        f"""
        import gc, weakref, pyconc

        if __name__ == "__main__":
            gc.disable()
            with pyconc.ProcessPoolExecutor(1) as pool:
                {use}
            supervisor = weakref.ref(pool._supervisor)
            del pool
            assert supervisor() is None, gc.get_referrers(supervisor())
        """
    )


def test_a_process_executor_keeps_no_data_of_the_program():
    support.run_script(
        """
        import weakref, pyconc

        class Data:
            pass

        if __name__ == "__main__":
            data = Data()
            probe = weakref.ref(data)
            with pyconc.ProcessPoolExecutor(1) as pool:
                pool.submit(int).result()
                del data
                assert probe() is None
        """
    )
