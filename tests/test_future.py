"""pyconc.Future by itself: threads that race for it, interrupted waits, cycles, and code that runs at awkward moments.

What it has in common with the standard class is in compare/.
"""

import gc
import itertools
import signal
import sys
import threading
import weakref
from concurrent.futures import CancelledError, InvalidStateError
from pathlib import Path

import pytest
from support import THOUSAND, more_rounds, run_script, wait_until

import pyconc

SCRIPTS = Path(__file__).parent / "scripts"


@pytest.fixture
def frequent_switches():
    """Makes the interpreter change threads as often as it can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def run_together(*functions):
    """Calls functions in threads that start at the same moment; raises what one of them raised."""
    barrier, errors = threading.Barrier(len(functions)), []

    def run(function):
        barrier.wait()
        try:
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


# --- Races ------------------------------------------------------------------------------------------------------------


def test_one_of_many_wins(frequent_switches):
    for _ in range(THOUSAND // 5):
        future, won, called = pyconc.Future(), [], []

        def finish(number, future=future, won=won):
            try:
                future.set_result(number)
            except InvalidStateError:
                return
            won.append(number)

        def cancel(future=future, won=won):
            if future.cancel():
                won.append("cancelled")

        future.add_done_callback(called.append)
        run_together(cancel, *(lambda number=number: finish(number) for number in range(3)))
        assert len(won) == 1
        assert called == [future]
        assert future.cancelled() if won == ["cancelled"] else future.result() == won[0]


def test_callbacks_added_while_it_finishes_are_called_once(frequent_switches):
    for _ in range(THOUSAND // 5):
        future, called = pyconc.Future(), []

        def add(future=future, called=called):
            for number in range(20):
                future.add_done_callback(lambda future, number=number: called.append(number))

        run_together(add, add, lambda future=future: future.set_result(1))
        assert sorted(called) == sorted([*range(20)] * 2)


def test_threads_that_wait_while_it_finishes_all_wake(frequent_switches):
    for round in range(THOUSAND // 5):
        future, seen = pyconc.Future(), []

        def wait(future=future, seen=seen):
            seen.append(future.result())

        if round % 2:
            assert future._condition  # with the lock made, and without
        run_together(wait, wait, wait, lambda future=future: future.set_result(5))
        assert seen == [5, 5, 5]


def test_the_condition_is_made_once(frequent_switches):
    for _ in range(THOUSAND // 5):
        future, conditions = pyconc.Future(), []
        look = lambda future=future, conditions=conditions: conditions.append(future._condition)  # noqa: E731
        run_together(look, look, look, look)
        assert len(set(map(id, conditions))) == 1


def test_who_holds_the_condition_decides(frequent_switches):
    # Under the condition nobody else changes the state, however long one looks.
    for _ in range(200):
        future = pyconc.Future()

        def look(future=future):
            with future._condition:
                first = future._state
                assert {future._state for _ in range(100)} == {first}
                if first == "PENDING":
                    assert future.set_running_or_notify_cancel()
                    assert future._state == "RUNNING"

        def cancel(future=future):
            future.cancel()

        assert future._condition
        run_together(look, look, cancel)


def test_timeouts_race_with_results(frequent_switches):
    for number in range(200):
        future, seen = pyconc.Future(), []

        def wait(future=future, seen=seen, timeout=number * 1e-6):
            try:
                seen.append(future.result(timeout))
            except pyconc.TimeoutError:
                seen.append(future.result())

        run_together(wait, lambda future=future: future.set_result(5))
        assert seen == [5]


# --- Interruption -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rounds", [200, pytest.param(1000, marks=more_rounds)])
@pytest.mark.parametrize("what", ["result", "result with timeout", "exception"])
def test_a_wait_is_interrupted_again_and_again(what, rounds):
    ended, again = map(int, run_script(SCRIPTS / "interrupt_waits.py", what, rounds).stdout.split())
    assert ended == rounds
    assert again < 50  # see the script


def signal_main_thread_until(condition):
    # More than one signal, because one that comes just before the thread sleeps is noticed with the next.
    main = threading.main_thread().ident
    wait_until(lambda: condition() or signal.pthread_kill(main, signal.SIGUSR1))


def test_a_wait_goes_on_after_a_handler_that_returns():
    future, handled = pyconc.Future(), []

    def interrupt():
        try:
            for _ in range(100):
                count = len(handled)
                signal_main_thread_until(lambda count=count: len(handled) > count)
        finally:
            future.set_result("result")

    before = signal.signal(signal.SIGUSR1, lambda *_: handled.append(None))
    thread = threading.Thread(target=interrupt)
    try:
        thread.start()
        assert future.result() == "result"
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, before)


def test_a_handler_may_finish_what_is_waited_for():
    future = pyconc.Future()
    thread = threading.Thread(target=signal_main_thread_until, args=(future.done,))
    before = signal.signal(signal.SIGUSR1, lambda *_: future.done() or future.set_result("from the handler"))
    try:
        thread.start()
        assert future.result() == "from the handler"
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, before)


# --- Awkward moments --------------------------------------------------------------------------------------------------


class AtDeath:
    """Calls something when it dies."""

    def __init__(self, call):
        self.call = call

    def __del__(self):
        self.call()


def test_an_old_result_that_dies_meets_a_consistent_future():
    future, seen = pyconc.Future(), []
    for name in ("_result", "_exception"):
        setattr(future, name, AtDeath(lambda: seen.append((repr(future), future.cancel()))))
        setattr(future, name, None)
    future.cancel()
    future._result = AtDeath(lambda: seen.append(future._state))
    future.__init__()
    assert len(seen) == 3
    assert seen[2] in ("CANCELLED", "PENDING")
    assert future._state == "PENDING"


def test_callbacks_that_die_while_they_are_called():
    future, died = pyconc.Future(), []

    class Callback(AtDeath):
        def __call__(self, future):
            future._done_callbacks.clear()
            future.add_done_callback(lambda future: died.append("added late"))

    for number in range(3):
        future.add_done_callback(Callback(lambda number=number: died.append((number, future.done()))))
    future.set_result(1)
    assert {entry for entry in died if entry != "added late"} == {(0, True), (1, True), (2, True)}
    assert "added late" in died


def test_fields_replaced_while_they_are_used():
    future = pyconc.Future()

    def replace(future):
        future._done_callbacks = []
        future._waiters = []
        future._condition = threading.Condition()

    future.add_done_callback(replace)
    future.add_done_callback(replace)
    with future._condition:
        pass
    future.set_result(1)
    assert future.result() == 1
    with pytest.raises(TypeError):
        future._waiters = None
    for name in ("_state", "_result", "_waiters", "_condition"):
        with pytest.raises((AttributeError, TypeError)):
            delattr(future, name)
    with pytest.raises(ValueError):
        future._state = "HALF WAY"


def test_a_condition_that_fails_is_an_exception_and_not_a_crash():
    class Broken:
        def acquire(self):
            raise OSError("no lock")

    future = pyconc.Future()
    future._condition = Broken()
    for call in (lambda: future.set_result(1), future.cancel, future.set_running_or_notify_cancel):
        with pytest.raises(OSError, match="no lock"):
            call()
    assert future._state == "PENDING"


def test_a_waiter_that_fails_does_not_keep_the_result_back():
    class Failing:
        def add_result(self, future):
            raise OSError("from the waiter")

    future = pyconc.Future()
    with future._condition:
        future._waiters.append(Failing())
    with pytest.raises(OSError, match="from the waiter"):
        future.set_result(1)
    assert future.result() == 1


def test_a_chain_of_results_dies_without_deep_recursion():
    future = pyconc.Future()
    for _ in range(200_000):
        outer = pyconc.Future()
        outer.set_result(future)
        future = outer
    del future, outer


def test_a_chain_of_callbacks_runs():
    futures = [pyconc.Future() for _ in range(50)]
    for one, following in itertools.pairwise(futures):
        one.add_done_callback(lambda one, following=following: following.set_result(one.result() + 1))
    futures[0].set_result(0)
    assert futures[-1].result() == 49


DEEP_CHAIN = """
    import sys, threading
    import pyconc
    def run(length):
        futures, order, escaped = [pyconc.Future() for _ in range(length)], [], []
        for n, (one, following) in enumerate(zip(futures, futures[1:])):
            one.add_done_callback(lambda one, following=following: following.set_result(one.result() + 1))
            one.add_done_callback(lambda one, n=n: order.append(n))
        def strike(_):
            raise KeyboardInterrupt
        futures[-1].add_done_callback(strike)
        try:
            futures[0].set_result(0)
        except KeyboardInterrupt:
            escaped.append(1)
        print(all(future.done() for future in futures), futures[-1].result() == length - 1, len(order), escaped)
    run(300)
    run(20000)  # with the default recursion limit the standard library gets 332 deep
    sys.setrecursionlimit(10**6)
    threading.stack_size(512 << 20)
    thread = threading.Thread(target=run, args=(20000,))
    thread.start()
    thread.join()
"""


def test_a_chain_of_callbacks_of_any_depth_runs():
    """What a BaseException escapes from is left, and what waited further down runs all the same."""
    finished = run_script(DEEP_CHAIN)
    assert finished.stderr == ""
    short, *deep = finished.stdout.splitlines()
    assert short == "True True 0 [1]"  # it comes out at every level before the second callback
    assert deep == ["True True 19600 [1]"] * 2  # but for the first 399 levels


@pytest.mark.parametrize(
    "tie",
    [
        lambda future: setattr(future, "itself", future),
        lambda future: future.__dict__.update(itself=future),
        lambda future: future.add_done_callback(lambda _, future=future: future),
        lambda future: future.set_result([future]),
        lambda future: future.set_exception(type("Error", (Exception,), {"future": future})()),
        lambda future: future._waiters.append(future),
        lambda future: setattr(future, "_condition", type("Own", (), {"future": future})()),
    ],
    ids=["attribute", "dict", "callback", "result", "exception", "waiter", "condition"],
)
@pytest.mark.parametrize("make", ["Future()", "submit()"])
def test_cycles_are_collected(tie, make):
    if make == "Future()":
        future = pyconc.Future()
    else:
        with pyconc.ThreadPoolExecutor(1) as pool:
            future = pool.submit(int)
        future.__init__()  # pending again, but made as the executor makes them
    tie(future)
    reference = weakref.ref(future)
    del future
    gc.collect()
    assert reference() is None


def test_an_exception_raised_again_is_in_no_cycle_with_its_future():
    gc.disable()
    try:
        future = pyconc.Future()
        future.set_exception(ValueError())
        reference = weakref.ref(future)
        for _ in range(2):
            try:
                future.result()
            except ValueError:
                pass
        del future
        assert reference() is None
    finally:
        gc.enable()


def test_a_failed_wait_keeps_nothing():
    future = pyconc.Future()
    cancelled = pyconc.Future()
    cancelled.cancel()
    references = sys.getrefcount(future), sys.getrefcount(cancelled)
    for _ in range(10):
        with pytest.raises(pyconc.TimeoutError):
            future.result(0)
        with pytest.raises(CancelledError):
            cancelled.result()
    gc.collect()
    assert (sys.getrefcount(future), sys.getrefcount(cancelled)) == references


def test_a_future_nobody_waits_for_has_no_lock():
    future = pyconc.Future()
    future.add_done_callback(lambda future: None)
    future.set_running_or_notify_cancel()
    future.set_result(1)
    future.result()
    assert not any(isinstance(referent, threading.Condition) for referent in gc.get_referents(future))
    assert isinstance(future._condition, threading.Condition)
    assert any(isinstance(referent, threading.Condition) for referent in gc.get_referents(future))
