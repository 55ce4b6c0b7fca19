"""Shutdown in all its variants, and executors that are dropped."""

import gc
import threading
import weakref
from typing import Any

import pytest
from gates import Gate, block_workers
from libraries import Library
from support import wait_until

AFTER = r"^cannot schedule new futures after shutdown$"


def test_submit_after_shutdown_is_refused(library: Library) -> None:
    for kwargs in [{}, {"wait": False}, {"wait": True, "cancel_futures": True}]:
        pool = library.ThreadPoolExecutor()
        pool.submit(int).result()
        pool.shutdown(**kwargs)
        with pytest.raises(RuntimeError, match=AFTER) as caught:
            pool.submit(int)
        assert type(caught.value) is RuntimeError
        pool.shutdown()


def test_shutdown_of_a_pool_that_never_worked(library: Library) -> None:
    pool = library.ThreadPoolExecutor()
    assert pool.shutdown() is None
    assert pool._shutdown is True
    pool.shutdown(wait=False)
    pool.shutdown(cancel_futures=True)


def test_arguments(library: Library) -> None:
    pool = library.ThreadPoolExecutor()
    with pytest.raises(TypeError):
        pool.shutdown(True, True)  # cancel_futures goes by keyword
    with pytest.raises(TypeError):
        pool.shutdown(patience=1)
    pool.submit(int).result()  # nothing happened
    pool.shutdown(False)


def test_context_manager_waits_for_everything(library: Library) -> None:
    done: list[int] = []
    with library.ThreadPoolExecutor(2) as pool:
        assert isinstance(pool, library.ThreadPoolExecutor)
        for number in range(200):
            pool.submit(done.append, number)
    assert len(done) == 200
    assert not any(thread.is_alive() for thread in pool._threads)


def test_context_manager_lets_exceptions_through(library: Library) -> None:
    with pytest.raises(LookupError):
        with library.ThreadPoolExecutor() as pool:
            future = pool.submit(pow, 2, 3)
            raise LookupError
    assert future.result() == 8
    with pytest.raises(RuntimeError, match=AFTER):
        pool.submit(int)


def test_shutdown_without_wait_lets_everything_finish(library: Library) -> None:
    pool = library.ThreadPoolExecutor(1)
    with Gate() as gate:
        (running,) = block_workers(pool, gate)
        queued = [pool.submit(pow, 2, number) for number in range(5)]
        pool.shutdown(wait=False)
        assert not running.done()
        assert not any(future.done() for future in queued)
        with pytest.raises(RuntimeError, match=AFTER):
            pool.submit(int)
    assert [future.result() for future in queued] == [1, 2, 4, 8, 16]
    for thread in pool._threads:
        thread.join()


def test_cancel_futures_cancels_what_is_queued(library: Library) -> None:
    called: list[Any] = []
    pool = library.ThreadPoolExecutor(1)
    with Gate() as gate:
        (running,) = block_workers(pool, gate)
        queued = [pool.submit(pow, 2, number) for number in range(5)]
        queued[1].cancel()
        for future in queued:
            future.add_done_callback(lambda future: called.append((future, threading.current_thread())))
        pool.shutdown(wait=False, cancel_futures=True)
        assert all(future.cancelled() for future in queued)
        assert sorted(called, key=lambda call: queued.index(call[0])) == [
            (future, threading.current_thread()) for future in queued
        ]
        assert running.running()
        assert pool._work_queue.qsize() <= 1
    assert running.result() == ()
    pool.shutdown()


def test_cancel_futures_after_a_first_shutdown(library: Library) -> None:
    pool = library.ThreadPoolExecutor(1)
    with Gate() as gate:
        block_workers(pool, gate)
        future = pool.submit(int)
        pool.shutdown(wait=False)
        assert not future.done()
        pool.shutdown(wait=False, cancel_futures=True)
        assert future.cancelled()
    pool.shutdown()


def test_shutdown_in_several_threads_at_once(library: Library) -> None:
    pool = library.ThreadPoolExecutor(2)
    with Gate() as gate:
        block_workers(pool, gate, 2)
        threads = [threading.Thread(target=pool.shutdown) for _ in range(4)]
        for thread in threads:
            thread.start()
        gate.open()
        for thread in threads:
            thread.join()
    assert not any(thread.is_alive() for thread in pool._threads)


def test_shutdown_inside_a_task(library: Library) -> None:
    pool = library.ThreadPoolExecutor(1)
    future = pool.submit(pool.shutdown, wait=False)
    assert future.result() is None
    with pytest.raises(RuntimeError, match=AFTER):
        pool.submit(int)
    # A worker cannot wait for itself.
    other = library.ThreadPoolExecutor(1)
    error = other.submit(other.shutdown).exception()
    assert (type(error), str(error)) == (RuntimeError, "cannot join current thread")
    for ended in (pool, other):
        ended.shutdown()


def test_idle_workers_end_with_the_executor(library: Library) -> None:
    with library.ThreadPoolExecutor(5) as pool, Gate() as gate:
        block_workers(pool, gate, 5)
        threads = list(pool._threads)
        gate.open()
    assert len(threads) == 5
    assert not any(thread.is_alive() for thread in threads)


# --- Executors nobody holds any more ----------------------------------------------------------------------------------


def test_dropped_executor_ends_its_threads(library: Library) -> None:
    pool = library.ThreadPoolExecutor(3)
    with Gate() as gate:
        block_workers(pool, gate, 3)
        threads = list(pool._threads)
        gate.open()
        del pool
    gc.collect()
    for thread in threads:
        thread.join()


def test_dropped_executor_finishes_what_is_queued(library: Library) -> None:
    pool = library.ThreadPoolExecutor(1)
    with Gate() as gate:
        block_workers(pool, gate)
        futures = [pool.submit(pow, 2, number) for number in range(5)]
        reference, threads = weakref.ref(pool), list(pool._threads)
        del pool
        gc.collect()
        wait_until(lambda: reference() is None)
        assert not any(future.done() for future in futures)
    assert [future.result() for future in futures] == [1, 2, 4, 8, 16]
    for thread in threads:
        thread.join()


def test_an_executor_with_nothing_else_dies_at_once(library: Library) -> None:
    pool = library.ThreadPoolExecutor()
    died: list[Any] = []
    reference = weakref.ref(pool, died.append)
    del pool
    assert died == [reference]


def test_executor_in_a_cycle_is_collected(library: Library) -> None:
    pool = library.ThreadPoolExecutor(1)
    pool.submit(int).result()
    pool.itself = pool
    reference, threads = weakref.ref(pool), list(pool._threads)
    del pool
    wait_until(lambda: gc.collect() >= 0 and reference() is None)
    for thread in threads:
        thread.join()


def test_executor_kept_only_by_its_own_queue(library: Library) -> None:
    pool = library.ThreadPoolExecutor(1)
    with Gate() as gate:
        block_workers(pool, gate)
        future = pool.submit(lambda pool: pool.submit(pow, 2, 3), pool)
        reference, threads = weakref.ref(pool), list(pool._threads)
        del pool
        gc.collect()
        assert reference() is not None
    assert future.result().result() == 8
    wait_until(lambda: gc.collect() >= 0 and reference() is None)
    for thread in threads:
        thread.join()


def test_dropped_after_shutdown_without_wait(library: Library) -> None:
    pool = library.ThreadPoolExecutor(1)
    with Gate() as gate:
        block_workers(pool, gate)
        future, threads = pool.submit(pow, 2, 3), list(pool._threads)
        pool.shutdown(wait=False)
        del pool
        gc.collect()
    assert future.result() == 8
    for thread in threads:
        thread.join()


def test_futures_outlive_their_executor(library: Library) -> None:
    with library.ThreadPoolExecutor(1) as pool:
        futures = [pool.submit(pow, 2, number) for number in range(5)]
        failed = pool.submit(divmod, 1, 0)
    del pool
    gc.collect()
    assert [future.result() for future in futures] == [1, 2, 4, 8, 16]
    with pytest.raises(ZeroDivisionError):
        failed.result()
