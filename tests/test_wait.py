"""pyconc.wait and pyconc.as_completed under races, interruption and re-entrance; their semantics are in compare/."""

import concurrent.futures
import sys
import threading
from pathlib import Path

import pytest
from gates import Gate, block_workers
from support import more_rounds, run_script, wait_until

import pyconc

SCRIPTS = Path(__file__).parent / "scripts"


@pytest.mark.parametrize("rounds", [200, pytest.param(1000, marks=more_rounds)])
@pytest.mark.parametrize("what", ["wait", "as_completed", "map"])
def test_a_wait_is_interrupted_again_and_again(what, rounds):
    ended, again = map(int, run_script(SCRIPTS / "interrupt_waits.py", what, rounds).stdout.split())
    assert ended == rounds
    assert again < 50  # see the script


def test_an_interrupted_wait_leaves_nothing_on_the_futures():
    run_script(
        """
        import signal, threading, pyconc
        futures = [pyconc.Future() for _ in range(10)]
        def handle(*_):
            global waiting
            if waiting:
                waiting = False
                raise KeyboardInterrupt
        signal.signal(signal.SIGINT, handle)
        def interrupt():
            while not all(future._waiters for future in futures):
                pass
            while waiting:  # a signal that comes just before the thread sleeps is noticed with the next
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        for call in (lambda: pyconc.wait(futures), lambda: next(pyconc.as_completed(futures))):
            thread = threading.Thread(target=interrupt)
            waiting = True
            try:
                thread.start()
                call()
            except KeyboardInterrupt:
                pass
            thread.join()
            assert not any(future._waiters for future in futures)
        """
    )


@pytest.mark.parametrize("wait", [pyconc.wait, concurrent.futures.wait], ids=["pyconc", "standard"])
def test_no_completion_is_missed(wait):
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with pyconc.ThreadPoolExecutor(4) as pool, concurrent.futures.ThreadPoolExecutor(2) as standard:
            for _ in range(300):
                futures = {pool.submit(int) for _ in range(10)} | {standard.submit(int) for _ in range(2)}
                assert wait(futures).done == futures
                futures = {pool.submit(int) for _ in range(10)} | {standard.submit(int) for _ in range(2)}
                done, not_done = wait(futures, return_when="FIRST_COMPLETED")
                assert done
                assert done | not_done == futures
    finally:
        sys.setswitchinterval(interval)


def test_many_threads_wait_for_the_same_futures():
    seen = []
    with pyconc.ThreadPoolExecutor(2) as pool, Gate() as gate:
        block_workers(pool, gate, 2)
        futures = [pool.submit(int) for _ in range(100)]
        waits = [lambda: seen.append(len(pyconc.wait(futures).done))] * 4
        waits += [lambda: seen.append(len(list(pyconc.as_completed(futures))))] * 4
        waits += [lambda: seen.append(len(concurrent.futures.wait(futures).done))] * 2
        threads = [threading.Thread(target=wait) for wait in waits]
        for thread in threads:
            thread.start()
        gate.open()
        for thread in threads:
            thread.join()
    assert seen == [100] * 10
    assert not any(future._waiters for future in futures)


def test_a_waiter_that_leaves_hides_no_other():
    # The first waiter leaves the list while the second is being told; the third must hear of it all the same.
    future, told = pyconc.Future(), threading.Event()
    first = threading.Thread(target=pyconc.wait, args=([future],))
    first.start()
    wait_until(lambda: len(future._waiters) == 1)

    class Second:
        def add_result(self, future):
            first.join()

    class Third:
        def add_result(self, future):
            told.set()

    future._waiters.extend([Second(), Third()])
    future.set_result(1)
    assert told.is_set()


def test_a_hundred_thousand_futures():
    with pyconc.ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(int) for _ in range(100_000)]
        assert len(pyconc.wait(futures).done) == 100_000
        assert sum(1 for _ in pyconc.as_completed(futures)) == 100_000


def test_iterators_nobody_finishes():
    with pyconc.ThreadPoolExecutor(1) as pool, Gate() as gate:
        block_workers(pool, gate)
        futures = [pool.submit(int) for _ in range(10)]
        iterators = [pyconc.as_completed([*futures, done]) for done in [finished()] * 10]
        for iterator in iterators:
            next(iterator)
        del iterator, iterators
        assert not any(future._waiters for future in futures)
        gate.open()


def finished():
    future = pyconc.Future()
    future.set_result(1)
    return future


def test_waiting_inside_a_callback_and_a_task():
    seen = []
    with pyconc.ThreadPoolExecutor(2) as pool:
        future = pyconc.Future()
        future.add_done_callback(lambda future: seen.append(pyconc.wait([future, pool.submit(int)]).not_done))
        future.set_result(1)
        assert pool.submit(lambda: len(pyconc.wait([pool.submit(int)]).done)).result() == 1
    assert seen == [set()]


def test_wait_returns_for_what_a_shutdown_cancelled():
    # In the standard library such a wait lasts for ever: an announced difference.
    pool = pyconc.ThreadPoolExecutor(1)
    with Gate() as gate:
        block_workers(pool, gate)
        futures = [pool.submit(int) for _ in range(3)]
        futures[1].cancel()
        waiting = threading.Thread(target=lambda: (pyconc.wait(futures), concurrent.futures.wait(futures)))
        waiting.start()
        pool.shutdown(wait=False, cancel_futures=True)
        waiting.join()
    assert [future._state for future in futures] == ["CANCELLED_AND_NOTIFIED"] * 3
    assert set(pyconc.as_completed(futures)) == set(futures)
    pool.shutdown()


def test_a_condition_that_is_held_elsewhere_holds_nobody_up():
    # A native wait looks without it; only a standard one needs it.
    future = pyconc.Future()
    with future._condition:
        thread = threading.Thread(target=lambda: (pyconc.wait([future], timeout=0), future.done(), repr(future)))
        thread.start()
        thread.join()
