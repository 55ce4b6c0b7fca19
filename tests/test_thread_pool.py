"""pyconc.ThreadPoolExecutor where it differs from the standard class, and where it must hold under stress.

What both have in common is in compare/; ends of all kinds are in test_shutdown.py.
"""

import _thread
import asyncio
import gc
import sys
import threading
import weakref
from concurrent.futures.thread import BrokenThreadPool
from pathlib import Path

import pytest
from gates import Gate, block_workers
from support import more_rounds, run_script, wait_until

import pyconc

SCRIPTS = Path(__file__).parent / "scripts"

# --- Announced differences --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_a_worker_survives_what_escapes_from_a_callback(error, caplog):
    def escape(future):
        raise error

    with pyconc.ThreadPoolExecutor(1) as pool, Gate() as gate:
        (future,) = block_workers(pool, gate)
        future.add_done_callback(escape)
        (worker,) = pool._threads
        gate.open()
        assert pool.submit(threading.current_thread).result() is worker
    (record,) = caplog.records
    assert (record.name, record.levelname, record.message) == ("concurrent.futures", "CRITICAL", "Exception in worker")
    assert record.exc_info[0] is error


def test_a_worker_survives_a_task_whose_future_somebody_else_finished(caplog):
    with pyconc.ThreadPoolExecutor(1) as pool, Gate() as gate:
        (running,) = block_workers(pool, gate)
        queued = pool.submit(int)
        running.set_result("from outside")
        queued.set_result("from outside")
        (worker,) = pool._threads
        gate.open()
        assert pool.submit(threading.current_thread).result() is worker
        assert running.result() == queued.result() == "from outside"
    assert [record.message for record in caplog.records if "unexpected state" not in record.message] == [
        "Exception in worker"
    ] * 2


class Threads:
    """Lets a number of threads start, and refuses the others as an operating system does that is short of them."""

    def __init__(self, monkeypatch):
        self.left = 0
        self.error = RuntimeError("can't start new thread")
        for name in ("_start_new_thread", "_start_joinable_thread"):  # from Python 3.13 on it is the second
            if hasattr(threading, name):
                monkeypatch.setattr(threading, name, self.wrap(getattr(threading, name)))

    def wrap(self, start):
        def start_thread(*args, **kwargs):
            if self.left == 0:
                raise self.error
            self.left -= 1
            return start(*args, **kwargs)

        return start_thread


def test_without_any_thread_submit_raises_and_later_ones_try_again(monkeypatch):
    threads, ran = Threads(monkeypatch), []
    with pyconc.ThreadPoolExecutor(2) as pool:
        for _ in range(3):
            with pytest.raises(RuntimeError, match="can't start new thread"):
                pool.submit(ran.append, "refused")
        assert pool._work_queue.qsize() == 0
        assert not pool._threads
        threads.left = 1
        assert pool.submit(int).result() == 0
    assert ran == []


def test_with_fewer_threads_than_wanted_the_pool_goes_on(monkeypatch):
    threads = Threads(monkeypatch)
    threads.left = 1
    with pyconc.ThreadPoolExecutor(3) as pool, Gate() as gate:
        block_workers(pool, gate)
        queued = [pool.submit(gate) for _ in range(2)]
        assert len(pool._threads) == 1
        threads.left = 2
        queued.append(pool.submit(int))
        gate.wait_started(2)
        assert len(pool._threads) == 3
        gate.open()
        assert queued[-1].result() == 0


def test_a_program_that_gets_no_thread_says_so_goes_on_and_ends():
    finished = run_script(
        """
        import asyncio, threading, pyconc

        def refuse(*args, **kwargs):
            raise RuntimeError("can't start new thread")

        name = "_start_joinable_thread" if hasattr(threading, "_start_joinable_thread") else "_start_new_thread"
        start = getattr(threading, name)
        setattr(threading, name, refuse)
        kept = pyconc.ThreadPoolExecutor(2)

        def attempt(what, call):
            try:
                call()
            except RuntimeError as error:
                print(what, error)

        async def submit():
            with pyconc.ThreadPoolExecutor(1) as pool:
                pool.submit(int)

        async def run_in_executor():
            await asyncio.get_running_loop().run_in_executor(kept, int)

        async def leave():
            async with pyconc.ThreadPoolExecutor(1):
                print("entered")

        attempt("submit", lambda: asyncio.run(submit()))
        attempt("map", lambda: kept.map(int, "12"))
        attempt("run_in_executor", lambda: asyncio.run(run_in_executor()))
        attempt("leave", lambda: asyncio.run(leave()))
        setattr(threading, name, start)
        print(kept.submit(pow, 2, 3).result(), asyncio.run(asyncio.to_thread(pow, 2, 4)))
        setattr(threading, name, refuse)
        never = pyconc.ThreadPoolExecutor(1)
        attempt("at the end", lambda: never.submit(int))
        """
    )
    refused = "can't start new thread"
    assert finished.stdout.splitlines() == [
        f"submit {refused}",
        f"map {refused}",
        f"run_in_executor {refused}",
        "entered",
        "8 16",
        f"at the end {refused}",
    ]


def test_an_error_that_is_not_about_threads_comes_out_of_submit(monkeypatch):
    threads = Threads(monkeypatch)
    threads.left = 1
    threads.error = OSError("something else")
    with pyconc.ThreadPoolExecutor(2) as pool, Gate() as gate:
        block_workers(pool, gate)
        with pytest.raises(OSError, match="something else"):
            pool.submit(int)
        threads.left = 1
        assert pool.submit(pow, 2, 5).result() == 32


def test_async_with_shuts_down():
    async def main():
        async with pyconc.ThreadPoolExecutor(2) as pool:
            assert isinstance(pool, pyconc.ThreadPoolExecutor)
            futures = [pool.submit(pow, 2, n) for n in range(10)]
        assert all(future.done() for future in futures)
        assert not any(thread.is_alive() for thread in pool._threads)
        with pytest.raises(RuntimeError, match="after shutdown"):
            pool.submit(int)
        with pytest.raises(LookupError):
            async with pyconc.ThreadPoolExecutor() as pool:
                raise LookupError

    asyncio.run(main())


def test_cancelled_futures_of_a_broken_pool_stay_cancelled(caplog):
    gate = Gate()
    with pyconc.ThreadPoolExecutor(1, initializer=lambda: gate(ValueError())) as pool, gate:
        futures = [pool.submit(int) for _ in range(4)]
        futures[1].cancel()
        gate.open()
        for future in (futures[0], futures[2], futures[3]):
            assert isinstance(future.exception(), BrokenThreadPool)
        assert futures[1].cancelled()
    assert [record.message for record in caplog.records] == ["Exception in initializer:"]


def test_importing_does_not_import_asyncio():
    run_script("import sys, pyconc; assert 'asyncio' not in sys.modules, sorted(sys.modules)")


def test_an_executor_that_was_not_made_says_so():
    pool = pyconc.ThreadPoolExecutor.__new__(pyconc.ThreadPoolExecutor)
    for call in (lambda: pool.submit(int), pool.shutdown, lambda: pool.map(int, "12")):
        with pytest.raises((RuntimeError, AttributeError)):
            call()


# --- Threads ----------------------------------------------------------------------------------------------------------


def test_an_idle_worker_is_reused():
    # At once: whoever has a result finds the worker idle.
    with pyconc.ThreadPoolExecutor() as pool:
        for _ in range(1000):
            pool.submit(int).result()
        assert len(pool._threads) == 1


def test_an_idle_worker_is_reused_while_others_want_the_interpreter():
    # After tasks as long as these a worker lets others run: not before it is idle, or the next task starts another.
    stop = threading.Event()

    def want():
        while not stop.is_set():
            pass

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    others = threading.Thread(target=want)
    others.start()
    try:
        for _ in range(5):
            with pyconc.ThreadPoolExecutor() as pool:
                for _ in range(50):
                    pool.submit(sum, range(10_000)).result()
                assert len(pool._threads) == 1
    finally:
        stop.set()
        others.join()
        sys.setswitchinterval(interval)


def test_hundreds_of_workers():
    with pyconc.ThreadPoolExecutor(300) as pool, Gate() as gate:
        block_workers(pool, gate, 300)
        assert len(pool._threads) == 300
        assert {thread.name.rpartition("_")[2] for thread in pool._threads} == {str(n) for n in range(300)}
        gate.open()
        assert list(pool.map(abs, range(-1000, 0))) == list(range(1000, 0, -1))


def test_every_worker_gets_work_while_there_is_any():
    # With one task fewer at the barrier than it needs, all would stand there for ever.
    for workers in (2, 3, 8):
        with pyconc.ThreadPoolExecutor(workers) as pool:
            for _ in range(100):
                barrier = threading.Barrier(workers)
                for future in [pool.submit(barrier.wait) for _ in range(workers)]:
                    future.result()


def test_a_blocked_task_holds_up_no_other():
    with pyconc.ThreadPoolExecutor(2) as pool:
        for _ in range(300):
            with Gate() as gate:
                blocked = pool.submit(gate)
                futures = [pool.submit(int) for _ in range(5)]
                for future in futures:
                    future.result()
                gate.open()
                blocked.result()


def test_asynchronous_exceptions_reach_a_worker_that_only_runs_c():
    run_script(
        """
        import ctypes, logging, threading, pyconc
        records = []
        handler = logging.Handler()
        handler.emit = records.append
        logging.getLogger("concurrent.futures").addHandler(handler)
        with pyconc.ThreadPoolExecutor(1) as pool:
            ident = pool.submit(threading.get_ident).result()
            send = ctypes.pythonapi.PyThreadState_SetAsyncExc
            assert send(ctypes.c_ulong(ident), ctypes.py_object(LookupError)) == 1
            arrived = False
            while not arrived:
                errors = [future.exception() for future in [pool.submit(abs, 1) for _ in range(1000)]]
                arrived = records or any(isinstance(error, LookupError) for error in errors)
            assert pool.submit(threading.get_ident).result() == ident
        """
    )


def test_an_asynchronous_exception_in_an_idle_worker_costs_no_task():
    run_script(
        """
        import ctypes, logging, threading, pyconc
        logging.getLogger("concurrent.futures").setLevel(logging.CRITICAL + 1)
        send = ctypes.pythonapi.PyThreadState_SetAsyncExc
        with pyconc.ThreadPoolExecutor(1) as pool:
            for _ in range(100):
                ident = pool.submit(threading.get_ident).result()
                send(ctypes.c_ulong(ident), ctypes.py_object(LookupError))
                for future in [pool.submit(abs, -1) for _ in range(3)]:
                    assert future.exception(30) is None or isinstance(future.exception(), LookupError)
        """
    )


def test_callbacks_of_the_garbage_collector_submit():
    run_script(
        """
        import gc, pyconc
        futures = []
        def collect(phase, info):
            if len(futures) < 1000:
                futures.append(pool.submit(abs, -1))
        with pyconc.ThreadPoolExecutor(2) as pool:
            gc.callbacks.append(collect)
            gc.set_threshold(1)
            assert list(pool.map(lambda n: [n], range(500))) == [[n] for n in range(500)]
            gc.callbacks.remove(collect)
        assert futures and all(future.result() == 1 for future in futures)
        """
    )


def test_low_level_exit_ends_only_the_task():
    with pyconc.ThreadPoolExecutor(1) as pool:
        assert isinstance(pool.submit(_thread.exit).exception(), SystemExit)
        assert pool.submit(int).result() == 0


def test_deep_recursion_is_the_tasks_own_failure():
    def recurse():
        return recurse()

    with pyconc.ThreadPoolExecutor(1) as pool:
        assert isinstance(pool.submit(recurse).exception(), RecursionError)
        assert pool.submit(int).result() == 0


# --- References -------------------------------------------------------------------------------------------------------


class Thing:
    """Something that can be watched as it dies."""

    def __init__(self, died=None):
        if died is not None:
            weakref.finalize(self, died).atexit = False


def test_arguments_are_gone_when_the_result_is_there():
    with pyconc.ThreadPoolExecutor(1) as pool:
        for _ in range(100):
            things = [Thing() for _ in range(3)]
            references = [weakref.ref(thing) for thing in things]
            future = pool.submit(lambda *args, **kwargs: None, things[0], things[1], key=things[2])
            del things
            future.result()
            assert not any(reference() for reference in references)


def test_the_callable_is_gone_when_the_result_is_there():
    with pyconc.ThreadPoolExecutor(1) as pool:
        function = lambda: None  # noqa: E731
        reference = weakref.ref(function)
        future = pool.submit(function)
        del function
        future.result()
        assert reference() is None


def test_an_idle_worker_keeps_no_result():
    gc.disable()
    try:
        with pyconc.ThreadPoolExecutor(1) as pool:
            for _ in range(100):
                died = threading.Event()
                pool.submit(Thing, died.set)  # nobody holds the future
                wait_until(died.is_set)
                future = pool.submit(Thing)
                reference = weakref.ref(future.result())
                del future
                wait_until(lambda reference=reference: reference() is None)
    finally:
        gc.enable()


def test_an_idle_worker_keeps_no_exception():
    gc.disable()
    try:
        with pyconc.ThreadPoolExecutor(1) as pool:

            def fail(thing):
                raise LookupError

            thing = Thing()
            reference = weakref.ref(thing)
            future = pool.submit(fail, thing)
            del thing
            assert isinstance(future.exception(), LookupError)
            assert reference() is not None  # the traceback has it
            del future
            wait_until(lambda: reference() is None)
    finally:
        gc.enable()


def test_what_a_cancelled_task_holds_is_dropped_at_its_turn():
    with pyconc.ThreadPoolExecutor(1) as pool, Gate() as gate:
        block_workers(pool, gate)
        thing = Thing()
        reference = weakref.ref(thing)
        future = pool.submit(id, thing)
        del thing
        future.cancel()
        gate.open()
        pool.submit(int).result()
        assert reference() is None


def test_what_is_refused_is_dropped():
    pool = pyconc.ThreadPoolExecutor(1)
    pool.shutdown()
    thing = Thing()
    reference = weakref.ref(thing)
    with pytest.raises(RuntimeError):
        pool.submit(id, thing)
    del thing
    assert reference() is None


def test_initializer_and_its_arguments_go_with_the_executor():
    thing = Thing()
    reference = weakref.ref(thing)
    with pyconc.ThreadPoolExecutor(2, initializer=id, initargs=(thing,)) as pool:
        del thing
        pool.submit(int).result()
    del pool
    wait_until(lambda: gc.collect() >= 0 and reference() is None)


# --- Stress -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_many_submitters_and_every_result_right(workers):
    def submit_many(pool, number, wrong):
        for round in range(20):
            futures = [pool.submit(divmod, 100 * number + n, 1 + n % 3) for n in range(50)]
            for n, future in enumerate(futures):
                if future.result() != divmod(100 * number + n, 1 + n % 3):
                    wrong.append((number, round, n))

    wrong = []
    with pyconc.ThreadPoolExecutor(workers) as pool:
        threads = [threading.Thread(target=submit_many, args=(pool, number, wrong)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_cancelling_races_with_starting():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with pyconc.ThreadPoolExecutor(2) as pool:
            for _ in range(500):
                ran = []
                futures = [pool.submit(ran.append, number) for number in range(5)]
                cancelled = {number for number, future in enumerate(futures) if future.cancel()}
                pyconc.wait(futures)
                assert set(ran) == set(range(5)) - cancelled
                assert all(futures[number].cancelled() for number in cancelled)
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.parametrize("rounds", [200, pytest.param(1000, marks=more_rounds)])
@pytest.mark.parametrize("where", ["submits", "submits_bursts", "makes_pools", "waits"])
def test_a_signal_handler_submits_again_and_again(where, rounds):
    assert run_script(SCRIPTS / "submit_from_signal_handler.py", where, rounds).stdout == f"{rounds}\n"


def test_a_thousand_submits_from_del():
    assert run_script(SCRIPTS / "submit_from_del.py", 1000).stdout == "3000\n"


@pytest.mark.parametrize(
    "operation", ["finish", "fail", "cancel", "private", "wait", "as_completed", "submit", "submit_and_cancel"]
)
def test_any_allocation_may_fail(operation):
    pytest.importorskip("_testcapi")
    assert int(run_script(SCRIPTS / "no_memory.py", operation).stdout) > 0


# ---- attributes ----


def test_an_executor_needs_no_dictionary():
    with pyconc.ThreadPoolExecutor(2, "prefix", list, context=True, timed=True) as pool:
        pool.submit(int).result()
        pool._max_workers = 3
        list(pool.map(abs, [1, 2]))
    assert vars(pool) == {}
    pool.note = 1
    assert vars(pool) == {"note": 1}


def test_threads_that_calls_of_options_start_are_as_the_others():
    began = []
    with pyconc.ThreadPoolExecutor(1, "prefix", began.append, (7,)) as pool:
        view = pool.options(name="task")
        name = view.submit(lambda: threading.current_thread().name).result()
    assert (began, name, view.stats().name, view._initargs) == ([7], "prefix_0", "prefix", (7,))


def test_options_see_what_becomes_of_their_executor():
    with pyconc.ThreadPoolExecutor(1) as pool:
        view = pool.options(name="task")
        view._max_workers = 2
        assert pool._max_workers == pool.stats().max_workers == 2
        pool._broken = "by the program"
        assert view._broken == "by the program"
        with pytest.raises(BrokenThreadPool, match="by the program"):
            view.submit(int)
    assert view._shutdown
