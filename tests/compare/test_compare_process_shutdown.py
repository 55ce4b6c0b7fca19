"""Process executors: shutdown in all its variants, executors that are dropped, and waiting for their futures."""

import gc
import multiprocessing
import weakref
from concurrent.futures import FIRST_EXCEPTION, TimeoutError
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import pytest
import tasks
from libraries import FORKS, LIBRARIES, Library, outcome
from support import files, wait_until
from tasks import Gate, block_workers

pytestmark = FORKS

AFTER = r"^cannot schedule new futures after shutdown$"

# See test_compare_process.py.
ON_THEIR_WAY = 3

FORCE = ((3, 14), "terminate_workers() and kill_workers()")


def workers_of(pool: Any) -> list[Any]:
    return list(pool._processes.values())


def test_submit_after_shutdown_is_refused(library: Library) -> None:
    for kwargs in [{}, {"wait": False}, {"wait": True, "cancel_futures": True}]:
        pool = library.process_pool(1)
        pool.submit(int).result()
        workers = workers_of(pool)
        pool.shutdown(**kwargs)
        with pytest.raises(RuntimeError, match=AFTER) as caught:
            pool.submit(int)
        assert type(caught.value) is RuntimeError
        pool.shutdown()
        for worker in workers:
            worker.join()


def test_shutdown_of_a_pool_that_never_worked(library: Library) -> None:
    pool = library.process_pool(1)
    assert pool.shutdown() is None
    assert pool._shutdown_thread is True
    pool.shutdown(wait=False)
    pool.shutdown(cancel_futures=True)


def test_arguments(library: Library) -> None:
    pool = library.process_pool(1)
    with pytest.raises(TypeError):
        pool.shutdown(True, True)  # cancel_futures goes by keyword
    with pytest.raises(TypeError):
        pool.shutdown(patience=1)
    pool.submit(int).result()  # nothing happened
    pool.shutdown(True)


def test_context_manager_waits_for_everything(library: Library) -> None:
    with library.process_pool(2) as pool:
        assert isinstance(pool, library.ProcessPoolExecutor)
        futures = [pool.submit(pow, 2, number) for number in range(100)]
        workers, thread = workers_of(pool), pool._executor_manager_thread
    assert [future.result(0) for future in futures] == [2**number for number in range(100)]
    assert [worker.exitcode for worker in workers] == [0] * len(workers)
    assert not thread.is_alive()


def test_context_manager_lets_exceptions_through(library: Library) -> None:
    with pytest.raises(LookupError):
        with library.process_pool(1) as pool:
            future = pool.submit(pow, 2, 3)
            raise LookupError
    assert future.result(0) == 8
    with pytest.raises(RuntimeError, match=AFTER):
        pool.submit(int)


def test_an_executor_that_was_shut_down_keeps_no_file_of_its_workers(library: Library) -> None:
    with library.process_pool(1) as pool:
        pool.submit(int).result()  # what all executors of a program share is there
    before = files()
    with library.process_pool(2) as pool:
        with Gate() as gate:
            block_workers(pool, gate, 2)
    kept = {what for name, what in files().items() if name not in before}
    # pyconc's memory goes with the executor.
    assert kept <= ({"/memfd:pyconc (deleted)", "anon_inode:[eventfd]"} if library.newest else set())


def test_shutdown_without_wait_lets_everything_finish(library: Library) -> None:
    pool = library.process_pool(1)
    with Gate() as gate:
        (running,) = block_workers(pool, gate)
        queued = [pool.submit(pow, 2, number) for number in range(8)]
        workers, thread = workers_of(pool), pool._executor_manager_thread
        pool.shutdown(wait=False)
        assert not running.done()
        assert not any(future.done() for future in queued)
        with pytest.raises(RuntimeError, match=AFTER):
            pool.submit(int)
    assert [future.result() for future in queued] == [2**number for number in range(8)]
    thread.join()
    assert [worker.exitcode for worker in workers] == [0]


def test_cancel_futures_cancels_what_is_queued(library: Library) -> None:
    called: list[Any] = []
    pool = library.process_pool(1)
    with Gate() as gate:
        (running,) = block_workers(pool, gate)
        queued = [pool.submit(pow, 2, number) for number in range(ON_THEIR_WAY + 5)]
        far = queued[ON_THEIR_WAY:]
        far[1].cancel()
        for future in far:
            future.add_done_callback(called.append)
        workers, thread = workers_of(pool), pool._executor_manager_thread
        pool.shutdown(wait=False, cancel_futures=True)
        wait_until(lambda: all(future.cancelled() for future in far))
        wait_until(lambda: len(called) == 5)
        assert set(called) == set(far)
        assert running.running()
    assert running.result() == ()
    thread.join()
    assert [worker.exitcode for worker in workers] == [0]
    assert all(future.done() for future in queued)


def test_shutdown_in_a_callback(library: Library) -> None:
    pool = library.process_pool(1)
    did: list[Any] = []
    with Gate() as gate:
        (future,) = block_workers(pool, gate)
        workers, thread = workers_of(pool), pool._executor_manager_thread
        # The thread that calls back cannot wait for itself.
        future.add_done_callback(lambda future: did.append(outcome(pool.shutdown)))
        future.add_done_callback(lambda future: did.append(outcome(pool.submit, int)))
        gate.open()
        wait_until(lambda: len(did) == 2)
    assert did[0] == ("raised", RuntimeError, "cannot join current thread")
    assert did[1] == ("raised", RuntimeError, "cannot schedule new futures after shutdown")
    thread.join()
    assert [worker.exitcode for worker in workers] == [0]


# --- Executors nobody holds any more ----------------------------------------------------------------------------------


def test_dropped_executor_ends_its_workers(library: Library) -> None:
    pool = library.process_pool(2)
    with Gate() as gate:
        block_workers(pool, gate, 2)
        workers, thread = workers_of(pool), pool._executor_manager_thread
        gate.open()
        del pool
    gc.collect()
    for ending in (*workers, thread):
        ending.join()
    assert [worker.exitcode for worker in workers] == [0, 0]


def test_dropped_executor_finishes_what_is_queued(library: Library) -> None:
    pool = library.process_pool(1)
    with Gate() as gate:
        block_workers(pool, gate)
        futures = [pool.submit(pow, 2, number) for number in range(8)]
        reference, thread = weakref.ref(pool), pool._executor_manager_thread
        del pool
        gc.collect()
        wait_until(lambda: reference() is None)
        assert not any(future.done() for future in futures)
    assert [future.result() for future in futures] == [2**number for number in range(8)]
    thread.join()


def test_an_executor_with_nothing_else_dies_at_once(library: Library) -> None:
    pool = library.process_pool(1)
    died: list[Any] = []
    reference = weakref.ref(pool, died.append)
    del pool
    assert died == [reference]


def test_executor_in_a_cycle_is_collected(library: Library) -> None:
    pool = library.process_pool(1)
    pool.submit(int).result()
    pool.itself = pool
    reference, thread = weakref.ref(pool), pool._executor_manager_thread
    del pool
    wait_until(lambda: gc.collect() >= 0 and reference() is None)
    thread.join()


def test_dropped_after_shutdown_without_wait(library: Library) -> None:
    pool = library.process_pool(1)
    with Gate() as gate:
        block_workers(pool, gate)
        future, thread = pool.submit(pow, 2, 3), pool._executor_manager_thread
        pool.shutdown(wait=False)
        del pool
        gc.collect()
    assert future.result() == 8
    thread.join()


def test_futures_outlive_their_executor(library: Library) -> None:
    with library.process_pool(1) as pool:
        futures = [pool.submit(pow, 2, number) for number in range(5)]
        failed = pool.submit(divmod, 1, 0)
    del pool
    gc.collect()
    assert [future.result() for future in futures] == [1, 2, 4, 8, 16]
    with pytest.raises(ZeroDivisionError):
        failed.result()


def test_results_and_arguments_are_not_kept(library: Library) -> None:
    thing = tasks.Thing(1)
    with library.process_pool(1) as pool:
        future = pool.submit(tasks.capture, thing)
        assert future.result() == ((thing,), {})
        references = [weakref.ref(thing), weakref.ref(future.result()[0][0])]
        del thing, future
        wait_until(lambda: [reference() for reference in references] == [None, None])


# --- By force ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["terminate_workers", "kill_workers"])
def test_ending_workers_by_force(library: Library, method: str) -> None:
    library.requires(*FORCE)
    with library.process_pool(1) as pool, Gate() as gate:
        (running,) = block_workers(pool, gate)
        queued = [pool.submit(int) for _ in range(ON_THEIR_WAY + 2)]
        (worker,), thread = workers_of(pool), pool._executor_manager_thread
        assert getattr(pool, method)() is None
        assert isinstance(running.exception(), BrokenProcessPool)
        with pytest.raises(RuntimeError):  # shut down, or sooner or later broken
            pool.submit(int)
        worker.join()
        thread.join()
        assert worker.exitcode == {"terminate_workers": -15, "kill_workers": -9}[method]
        assert all(future.done() for future in queued)
        assert queued[-1].cancelled()
        assert pool._processes is None
        getattr(pool, method)()  # nothing is left to end


@pytest.mark.parametrize("method", ["terminate_workers", "kill_workers"])
def test_ending_the_workers_of_a_pool_that_has_none(library: Library, method: str) -> None:
    library.requires(*FORCE)
    pool = library.process_pool(1)
    getattr(pool, method)()
    with pytest.raises(RuntimeError, match=AFTER):
        pool.submit(int)


def test_force_knows_two_ways(library: Library) -> None:
    library.requires(*FORCE)
    with library.process_pool(1) as pool:
        expected = ("raised", ValueError, "Unsupported operation: 'ask'")
        assert outcome(lambda: pool._force_shutdown(operation="ask")) == expected
        assert pool.submit(int).result() == 0


# --- Waiting ----------------------------------------------------------------------------------------------------------


def test_waiting_for_the_tasks_of_both_libraries_in_threads_and_processes(library: Library) -> None:
    pools = [make(2) for source in LIBRARIES for make in (source.process_pool, source.ThreadPoolExecutor)]
    for _ in range(5):
        fs = [pool.submit(pow, 2, number) for number in range(20) for pool in pools]
        assert library.wait(fs) == (set(fs), set())
        fs = [pool.submit(pow, 2, number) for number in range(20) for pool in pools]
        assert sorted(f.result() for f in library.as_completed(fs)) == sorted(len(pools) * [2**n for n in range(20)])
    for pool in pools:
        pool.shutdown()


def test_waiting_for_one_that_fails_and_one_that_does_not_come(library: Library) -> None:
    for source in LIBRARIES:
        with source.process_pool(2) as pool, Gate() as gate:
            (blocked,) = block_workers(pool, gate)
            failing = pool.submit(divmod, 1, 0)
            done, not_done = library.wait([blocked, failing], return_when=FIRST_EXCEPTION)
            assert (done, not_done) == ({failing}, {blocked})
            iterator = library.as_completed([blocked, failing], timeout=0)
            assert next(iterator) is failing
            with pytest.raises(TimeoutError, match=r"^1 \(of 2\) futures unfinished$"):
                next(iterator)
            with pytest.raises(TimeoutError):
                blocked.result(timeout=0)
            gate.open()
            assert library.wait([blocked]).done == {blocked}
        assert multiprocessing.active_children() == []
