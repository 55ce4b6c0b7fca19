"""Private names of a ThreadPoolExecutor and of a Future that programs in the wild read, write and call."""

import copy
import gc
import pickle
import queue
import sys
import threading
import weakref
from concurrent.futures import thread
from concurrent.futures.thread import BrokenThreadPool
from typing import Any

import pytest
from gates import Gate, block_workers
from libraries import STANDARD, Library, outcome
from support import wait_until

# --- Threads ----------------------------------------------------------------------------------------------------------


def test_threads_have_idents_when_submit_returns(library: Library) -> None:
    for _ in range(20):
        with library.ThreadPoolExecutor(3) as pool, Gate() as gate:
            for _ in range(3):
                pool.submit(gate)
            assert len(pool._threads) == 3
            assert all(worker.ident is not None and worker.native_id is not None for worker in pool._threads)
            assert {worker.ident for worker in pool._threads} == {
                worker.ident for worker in threading.enumerate() if worker in pool._threads
            }
            gate.open()


def test_threads_are_recognised_by_their_target(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    class Recorded(threading.Thread):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append((kwargs.get("target"), kwargs.get("args")))

    monkeypatch.setattr(threading, "Thread", Recorded)
    with library.ThreadPoolExecutor(1) as pool:
        worker = pool.submit(threading.current_thread).result()
    ((target, args),) = made
    assert target is thread._worker
    assert args[0]() in (pool, None)
    assert isinstance(worker, Recorded)


def test_a_worker_function_that_somebody_wrapped_is_called(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    worker = thread._worker

    def wrapped(*args: Any) -> None:
        calls.append("begin")
        worker(*args)
        calls.append("end")

    monkeypatch.setattr(thread, "_worker", wrapped)
    with library.ThreadPoolExecutor(1) as pool:
        assert pool.submit(pow, 2, 3).result() == 8
    assert calls == ["begin", "end"]


def test_the_gauge_of_idle_threads(library: Library) -> None:
    with library.ThreadPoolExecutor(3) as pool, Gate() as gate:
        assert pool._idle_semaphore._value == 0
        block_workers(pool, gate, 3)
        assert pool._idle_semaphore._value == 0
        gate.open()
        wait_until(lambda: pool._idle_semaphore._value == 3)


def test_a_pool_is_made_larger_by_its_private_limit(library: Library) -> None:
    with library.ThreadPoolExecutor(1) as pool, Gate() as gate:
        block_workers(pool, gate)
        pool._max_workers = 3
        assert pool._max_workers == 3
        block_workers(pool, gate, 2)
        assert len(pool._threads) == 3
        pool.submit(gate)
        assert len(pool._threads) == 3
        gate.open()


def test_a_limit_that_is_lowered_ends_no_thread(library: Library) -> None:
    with library.ThreadPoolExecutor(3) as pool, Gate() as gate:
        block_workers(pool, gate, 2)
        pool._max_workers = 1
        pool.submit(int)
        assert len(pool._threads) == 2
        gate.open()


# --- The queue --------------------------------------------------------------------------------------------------------


def call_of(item: Any) -> tuple[Any, ...]:
    """What a work item is to call, on every version."""
    fn, args, kwargs = item.task if sys.version_info >= (3, 14) else (item.fn, item.args, item.kwargs)
    return fn, tuple(args), kwargs


def test_draining_takes_what_is_queued_in_order(library: Library) -> None:
    with library.ThreadPoolExecutor(1) as pool, Gate() as gate:
        (running,) = block_workers(pool, gate)
        futures = [pool.submit(pow, 2, number, mod=100) for number in range(3)]
        assert pool._work_queue.qsize() == 3
        items = [pool._work_queue.get_nowait(), pool._work_queue.get(block=False), pool._work_queue.get(False)]
        with pytest.raises(queue.Empty):
            pool._work_queue.get_nowait()
        with pytest.raises(queue.Empty):
            pool._work_queue.get(block=False)
        with pytest.raises(queue.Empty):
            pool._work_queue.get(timeout=0.01)
        assert pool._work_queue.empty()
        assert [call_of(item) for item in items] == [(pow, (2, number), {"mod": 100}) for number in range(3)]
        assert [item.future for item in items] == futures
        assert not any(future.done() for future in futures)
        assert items[0].future.cancel()
        items[1].future.set_result("mine")
        gate.open()
        assert running.result() == ()
    assert futures[0].cancelled()
    assert futures[1].result() == "mine"
    assert futures[2]._state == "PENDING"


def test_what_was_drained_can_be_put_back(library: Library) -> None:
    with library.ThreadPoolExecutor(1) as pool, Gate() as gate:
        block_workers(pool, gate)
        futures = [pool.submit(pow, 2, number) for number in range(3)]
        items = [pool._work_queue.get_nowait() for _ in range(3)]
        for item in reversed(items):
            pool._work_queue.put(item)
        assert pool._work_queue.qsize() == 3
        gate.open()
        assert [future.result() for future in futures] == [1, 2, 4]


def test_a_drain_that_ends_with_shutdown_as_a_message_scheduler_does(library: Library) -> None:
    pool = library.ThreadPoolExecutor(2)
    with Gate() as gate:
        running = block_workers(pool, gate, 2)
        dropped = [pool.submit(gate, f"message {number}") for number in range(5)]
        messages = []
        while True:
            try:
                item = pool._work_queue.get(block=False)
            except queue.Empty:
                break
            if item is not None:
                messages.append(call_of(item)[1][0])
        pool.shutdown(wait=False)
        gate.open()
        for future in running:
            assert future.result() == ()
    pool.shutdown()
    assert messages == [f"message {number}" for number in range(5)]
    assert not any(future.done() for future in dropped)


def test_a_work_item_that_is_put_is_run(library: Library) -> None:
    with library.ThreadPoolExecutor(1) as pool:
        standard_submit = STANDARD.ThreadPoolExecutor.submit
        assert standard_submit(pool, pow, 2, 3).result() == 8
        assert standard_submit(pool, pow, 2, exp=4).result() == 16
        future = standard_submit(pool, int, "no number")
        assert isinstance(future.exception(), ValueError)


def test_a_work_item_that_is_cancelled_is_not_run(library: Library) -> None:
    ran: list[int] = []
    with library.ThreadPoolExecutor(1) as pool, Gate() as gate:
        block_workers(pool, gate)
        future = STANDARD.ThreadPoolExecutor.submit(pool, ran.append, 1)
        assert future.cancel()
        gate.open()
        pool.submit(int).result()
    assert not ran


def test_whatever_has_a_run_method_may_be_put(library: Library) -> None:
    done = threading.Event()

    class Item:
        def run(self, *context: Any) -> None:
            done.set()

    with library.ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()
        pool._work_queue.put(Item())
        wait_until(done.is_set)


def test_an_item_put_by_a_subclass_that_refuses_threads_waits_for_them(library: Library) -> None:
    class Late(library.ThreadPoolExecutor):  # type: ignore[misc, name-defined]
        ready = False

        def _adjust_thread_count(self) -> None:
            if self.ready:
                super()._adjust_thread_count()

    with Late(1) as pool:
        future = pool.submit(int)
        assert not pool._threads
        pool.ready = True
        pool.submit(int).result()
        assert future.result() == 0


def test_ending_by_hand(library: Library) -> None:
    pool = library.ThreadPoolExecutor(2)
    with Gate() as gate:
        block_workers(pool, gate, 2)
        workers = list(pool._threads)
        pool._shutdown = True
        pool._work_queue.put(None)
        gate.open()
    for worker in workers:
        worker.join()
    assert outcome(pool.submit, int) == ("raised", RuntimeError, "cannot schedule new futures after shutdown")


def test_a_pool_that_is_declared_broken_by_hand_does_what_was_queued_and_refuses_the_rest(library: Library) -> None:
    with library.ThreadPoolExecutor(1) as pool:
        with Gate() as gate:
            block_workers(pool, gate)
            queued = pool.submit(int)
            pool._broken = "as a test of a circuit breaker does"
            refused = ("raised", BrokenThreadPool, "as a test of a circuit breaker does")
            assert outcome(pool.submit, int) == refused
            gate.open()
        assert queued.result() == 0
        assert outcome(pool.submit, int) == refused


def test_a_token_for_nobody_ends_nothing(library: Library) -> None:
    with library.ThreadPoolExecutor(1) as pool:
        worker = pool.submit(threading.current_thread).result()
        pool._work_queue.put(None)
        assert pool.submit(threading.current_thread).result() is worker


def test_threads_of_a_subclass_that_read_the_queue(library: Library) -> None:
    def serve(work_queue: Any) -> None:
        while (item := work_queue.get(block=True)) is not None:
            item.run(context) if sys.version_info >= (3, 14) else item.run()
            del item
        work_queue.put(None)

    class OwnThreads(library.ThreadPoolExecutor):  # type: ignore[misc, name-defined]
        def _adjust_thread_count(self) -> None:
            if len(self._threads) < self._max_workers:
                worker = threading.Thread(target=serve, args=(self._work_queue,), name="mine")
                worker.start()
                self._threads.add(worker)

    context = thread.WorkerContext(None, ()) if sys.version_info >= (3, 14) else None
    with OwnThreads(2) as pool:
        assert pool.submit(lambda: threading.current_thread().name).result() == "mine"
        assert [future.result() for future in [pool.submit(pow, 2, n) for n in range(50)]] == [2**n for n in range(50)]
        assert len(pool._threads) == 2
    assert not any(worker.is_alive() for worker in pool._threads)


# --- A second __init__ ------------------------------------------------------------------------------------------------


def test_a_singleton_whose_constructor_runs_again(library: Library) -> None:
    class Shared(library.ThreadPoolExecutor):  # type: ignore[misc, name-defined]
        one: Any = None

        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            cls.one = cls.one or super().__new__(cls)
            return cls.one

    first = Shared(2)
    assert first.submit(pow, 2, 3).result() == 8
    second = Shared(1, thread_name_prefix="again")
    assert second is first
    assert second._max_workers == 1
    assert second.submit(lambda: threading.current_thread().name).result() == "again_0"
    second.shutdown()
    assert Shared(2).submit(pow, 2, 4).result() == 16  # shut down is over as well
    second.shutdown()
    Shared.one = None
    del first, second
    gc.collect()


def test_what_was_queued_before_a_second_init_is_done(library: Library) -> None:
    pool = library.ThreadPoolExecutor(1)
    with Gate() as gate:
        (running,) = block_workers(pool, gate)
        queued = pool.submit(pow, 2, 5)
        (old,) = pool._threads
        pool.__init__(1)  # type: ignore[misc]
        assert pool.submit(pow, 2, 6).result() == 64
        assert not queued.done()
        gate.open()
        assert running.result() == ()
        assert queued.result() == 32
    pool.shutdown()
    reference = weakref.ref(pool)
    del pool
    wait_until(lambda: gc.collect() >= 0 and reference() is None)
    old.join()


def test_a_second_init_that_fails_changes_nothing(library: Library) -> None:
    with library.ThreadPoolExecutor(1) as pool:
        worker = pool.submit(threading.current_thread).result()
        with pytest.raises(ValueError, match="max_workers"):
            pool.__init__(0)  # type: ignore[misc]
        assert pool.submit(threading.current_thread).result() is worker


def test_an_executor_cannot_be_pickled_nor_copied_deeply(library: Library) -> None:
    with library.ThreadPoolExecutor(1) as pool:
        with pytest.raises(TypeError, match="cannot pickle"):
            copy.deepcopy(pool)
        with pytest.raises((TypeError, pickle.PicklingError, AttributeError)):
            pickle.dumps(pool)
        if library is not STANDARD:  # whose copy shares a queue, and waits for ever after a shutdown of either
            with pytest.raises(TypeError, match="cannot pickle 'ThreadPoolExecutor' object"):
                copy.copy(pool)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_an_executor_that_says_how_it_is_pickled(library: Library, protocol: int) -> None:
    class Sized(library.ThreadPoolExecutor):  # type: ignore[name-defined, misc]
        def __getstate__(self) -> int:
            return self._max_workers  # type: ignore[no-any-return]

        def __setstate__(self, size: int) -> None:
            self.__init__(size)  # type: ignore[misc]

    Sized.__qualname__ = "Sized"
    with pytest.MonkeyPatch.context() as patch, Sized(3) as pool:
        patch.setattr(sys.modules[__name__], "Sized", Sized, raising=False)
        for made in (copy.copy(pool), copy.deepcopy(pool), pickle.loads(pickle.dumps(pool, protocol))):
            with made:
                assert type(made) is Sized
                assert made._max_workers == 3
                assert made.submit(threading.current_thread).result() not in pool._threads


# --- Futures ----------------------------------------------------------------------------------------------------------


def test_a_copy_of_a_finished_future(library: Library) -> None:
    with library.ThreadPoolExecutor(1) as pool:
        done, failed, cancelled = pool.submit(pow, 2, 3), pool.submit(int, "x"), library.Future()
        done.mark = "mine"
        cancelled.cancel()
        assert isinstance(failed.exception(), ValueError)
        assert done.result() == 8
    copied = copy.copy(done)
    assert copied is not done
    assert type(copied) is type(done)
    assert copied.result() == 8
    assert copied.mark == "mine"
    assert copy.copy(failed).exception() is failed.exception()
    assert copy.copy(cancelled).cancelled()


def test_a_copy_of_a_pending_future_is_one_of_its_own(library: Library) -> None:
    future = library.Future()
    copied = copy.copy(future)
    assert copied._condition is future._condition
    future.set_result(1)
    assert not copied.done()
    copied.set_result(2)
    assert (future.result(), copied.result()) == (1, 2)


def test_a_future_cannot_be_copied_deeply(library: Library) -> None:
    with pytest.raises(TypeError, match="cannot pickle"):
        copy.deepcopy(library.Future())
