"""What could wait for itself: executors used inside their own callbacks, initializers, destructors, log handlers."""

import gc
import logging
import threading

import pytest
from gates import Gate, block_workers
from support import run_script, wait_until

import pyconc

# The hang guard of every test is what these tests are about: each of them ends, or shows where it stands.


class Dies:
    """Calls something when it dies."""

    def __init__(self, call):
        self.call = call

    def __del__(self):
        self.call()


def test_a_callback_waits_for_a_task_of_another_worker():
    with pyconc.ThreadPoolExecutor(2) as pool, Gate() as gate:
        results = []
        (future,) = block_workers(pool, gate)
        future.add_done_callback(lambda future: results.append(pool.submit(pow, 2, 5).result()))
        gate.open()
        wait_until(lambda: results == [32])


def test_a_callback_asks_its_own_future_everything():
    with pyconc.ThreadPoolExecutor(1) as pool, Gate() as gate:
        seen = []

        def ask(future):
            with future._condition:
                seen.append((future.result(), future.exception(), future.cancel(), future.done(), repr(future)[:7]))
            pyconc.wait([future])
            list(pyconc.as_completed([future]))

        (future,) = block_workers(pool, gate)
        future.add_done_callback(ask)
        gate.open()
        pool.submit(int).result()
    assert seen == [((), None, False, True, "<Future")]


def test_shutdown_in_a_callback():
    pool = pyconc.ThreadPoolExecutor(1)
    with Gate() as gate:
        (future,) = block_workers(pool, gate)
        queued = pool.submit(int)
        future.add_done_callback(lambda future: pool.shutdown(wait=False))
        gate.open()
        assert queued.result() == 0
    pool.shutdown()


def test_shutdown_and_wait_in_a_callback_is_refused(caplog):
    # A worker cannot wait for its own end.
    pool = pyconc.ThreadPoolExecutor(1)
    with Gate() as gate:
        (future,) = block_workers(pool, gate)
        future.add_done_callback(lambda future: pool.shutdown())
    pool.shutdown()
    (record,) = caplog.records
    assert "exception calling callback" in record.message
    assert str(record.exc_info[1]) == "cannot join current thread"


def test_two_pools_wait_for_each_others_tasks():
    with pyconc.ThreadPoolExecutor(2) as one, pyconc.ThreadPoolExecutor(2) as other:
        first = one.submit(
            lambda: other.submit(lambda: one.submit(lambda: other.submit(pow, 2, 5).result()).result()).result()
        )
        assert first.result() == 32


def test_two_tasks_shut_down_each_others_pools():
    for _ in range(50):
        one, other = pyconc.ThreadPoolExecutor(1), pyconc.ThreadPoolExecutor(1)
        barrier = threading.Barrier(2)
        futures = [
            one.submit(lambda other=other, barrier=barrier: (barrier.wait(), other.shutdown(wait=False))),
            other.submit(lambda one=one, barrier=barrier: (barrier.wait(), one.shutdown(wait=False))),
        ]
        pyconc.wait(futures)
        one.shutdown()
        other.shutdown()


def test_an_initializer_uses_its_own_pool():
    futures = []

    def initialize():
        if not futures:
            futures.append(None)
            futures.append(pool.submit(pow, 2, 5))

    pool = pyconc.ThreadPoolExecutor(1, initializer=initialize)
    with pool:
        assert pool.submit(int).result() == 0
        assert futures[1].result() == 32


def test_an_initializer_shuts_its_own_pool_down():
    pool = pyconc.ThreadPoolExecutor(1, initializer=lambda: pool.shutdown(wait=False))
    assert pool.submit(int).result() == 0
    pool.shutdown()


def test_shutdown_while_an_initializer_runs():
    gate = Gate()
    pool = pyconc.ThreadPoolExecutor(2, initializer=gate)
    with gate:
        futures = [pool.submit(pow, 2, number) for number in range(5)]
        gate.wait_started()
        pool.shutdown(wait=False)
    assert [future.result() for future in futures] == [1, 2, 4, 8, 16]
    pool.shutdown()


def test_destructors_of_arguments_and_results_use_the_pool():
    seen = []
    with pyconc.ThreadPoolExecutor(2) as pool:

        def use():
            seen.append(pool.submit(pow, 2, 5))

        for _ in range(50):
            pool.submit(id, Dies(use)).result()  # in the worker, before the result is there
            pool.submit(lambda: Dies(use)).result()  # here, or with the future
        wait_until(lambda: len(seen) == 100)
        assert [future.result() for future in seen] == [32] * 100


def test_a_destructor_waits_in_a_worker_for_another():
    results = []
    with pyconc.ThreadPoolExecutor(2) as pool:
        argument = Dies(lambda: results.append(pool.submit(pow, 2, 5).result()))
        future = pool.submit(id, argument)
        del argument
        future.result()
        wait_until(lambda: results == [32])


def test_a_destructor_shuts_the_pool_down():
    pool = pyconc.ThreadPoolExecutor(1)
    argument = Dies(lambda: pool.shutdown(wait=False))
    future = pool.submit(id, argument)
    queued = None
    try:
        queued = pool.submit(int)
    except RuntimeError:
        pass
    del argument
    future.result()
    wait_until(lambda: pool._shutdown)
    assert queued is None or queued.result() == 0
    pool.shutdown()


def test_a_destructor_runs_inside_submit_and_shuts_down():
    # What is refused is dropped inside submit().
    pool = pyconc.ThreadPoolExecutor(1)
    pool.shutdown()
    seen = []
    for _ in range(10):
        with pytest.raises(RuntimeError, match="after shutdown"):
            pool.submit(id, Dies(lambda: seen.append(pool.shutdown())))
    wait_until(lambda: len(seen) == 10)


def test_destructors_of_cancelled_tasks_use_the_pool():
    pool = pyconc.ThreadPoolExecutor(1)
    seen = []

    def use():
        with pytest.raises(RuntimeError):
            pool.submit(int)
        pool.shutdown(wait=False, cancel_futures=True)
        seen.append(pool._work_queue.qsize())

    with Gate() as gate:
        block_workers(pool, gate)
        for _ in range(10):
            pool.submit(id, Dies(use))
        pool.shutdown(wait=False, cancel_futures=True)
        assert seen == [0] * 10
    pool.shutdown()


def test_a_dying_executor_drops_what_uses_it():
    seen = []

    class Pool(pyconc.ThreadPoolExecutor):
        def __del__(self):
            seen.append(self.submit(pow, 2, 5))

    Pool(1)
    gc.collect()
    (future,) = seen
    assert future.result() == 32


def test_a_log_handler_uses_the_pool(monkeypatch):
    logger = logging.getLogger("concurrent.futures")
    results = []

    class Handler(logging.Handler):
        def emit(self, record):
            results.append(pool.submit(pow, 2, 5))

    handler = Handler()
    monkeypatch.setattr(logger, "propagate", False)
    logger.addHandler(handler)
    try:
        with pyconc.ThreadPoolExecutor(1) as pool, Gate() as gate:
            (future,) = block_workers(pool, gate)
            future.add_done_callback(lambda future: 1 / 0)
            gate.open()
            wait_until(lambda: results)
            assert results[0].result() == 32
    finally:
        logger.removeHandler(handler)


def test_a_log_handler_that_fails_ends_no_worker(monkeypatch):
    logger = logging.getLogger("concurrent.futures")

    class Handler(logging.Handler):
        def emit(self, record):
            raise LookupError

    handler = Handler()
    unraisable = []
    monkeypatch.setattr("sys.unraisablehook", lambda args: unraisable.append(args.exc_type))
    monkeypatch.setattr(logger, "propagate", False)
    logger.addHandler(handler)
    try:
        with pyconc.ThreadPoolExecutor(1) as pool, Gate() as gate:
            (future,) = block_workers(pool, gate)
            (worker,) = pool._threads
            future.add_done_callback(lambda future: 1 / 0)
            gate.open()
            assert pool.submit(threading.current_thread).result() is worker
    finally:
        logger.removeHandler(handler)
    assert unraisable == [LookupError]


def test_a_name_prefix_that_calls_back():
    # The name of a thread is made while a lock of the pool is held.
    class Prefix:
        def __str__(self):
            pool.shutdown(wait=False)
            return "prefix"

    pool = pyconc.ThreadPoolExecutor(1, thread_name_prefix=Prefix())
    try:
        future = pool.submit(int)
    except RuntimeError:
        pass  # it was shut down before the task was accepted
    else:
        assert future.result() == 0
    pool.shutdown()


def test_waiting_while_a_module_is_imported():
    # The task imports another module; only its own would wait for itself, as anywhere in Python.
    run_script(
        """
        import pathlib, sys
        pathlib.Path("at_import.py").write_text('''
        import importlib, pyconc
        with pyconc.ThreadPoolExecutor(1) as pool:
            name = pool.submit(importlib.import_module, "colorsys").result().__name__
        '''.replace("        ", ""))
        sys.path.insert(0, ".")
        import at_import
        assert at_import.name == "colorsys"
        """
    )


def test_a_fork_while_everything_is_locked():
    run_script(
        """
        import os, threading, warnings, pyconc
        warnings.simplefilter("ignore", DeprecationWarning)
        pool = pyconc.ThreadPoolExecutor(1)
        future = pyconc.Future()
        locked, release = threading.Event(), threading.Event()
        def hold():
            with pool._tasks.lock, future._condition:
                locked.set()
                release.wait()
        thread = threading.Thread(target=hold)
        thread.start()
        locked.wait()
        pid = os.fork()
        if pid == 0:
            assert pool.submit(pow, 2, 5).result() == 32
            pool.shutdown()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        release.set()
        thread.join()
        """
    )
