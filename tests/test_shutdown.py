"""Ends of all kinds: shutdown against submit and signals, interpreter exit, executors nobody holds.

The ordinary ones are in compare/.
"""

import gc
import os
import signal
import subprocess
import threading
import weakref
from pathlib import Path

import pytest
from gates import Gate, block_workers
from support import (
    HANG_LIMIT,
    THOUSAND,
    await_line,
    finish,
    more_rounds,
    run_script,
    start_script,
    wait_until,
    wait_until_asleep,
)

import pyconc

SCRIPTS = Path(__file__).parent / "scripts"

ROUNDS = [100, pytest.param(1000, marks=more_rounds)]

# --- Shutdown against everything --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rounds", [50, pytest.param(1000, marks=more_rounds)])
@pytest.mark.parametrize("how", ["wait", "no wait", "cancel", "twice"])
def test_submit_races_with_shutdown(how, rounds):
    assert run_script(SCRIPTS / "submit_races_shutdown.py", rounds, how).stdout == f"{rounds}\n"


@pytest.mark.parametrize("rounds", ROUNDS)
@pytest.mark.parametrize("wait", ["wait", "no wait"])
@pytest.mark.parametrize("cancel", ["cancel", "finish"])
def test_a_signal_handler_shuts_down_one_pool_after_another(wait, cancel, rounds):
    finished = run_script(SCRIPTS / "shutdown_from_signal_handler.py", rounds, wait, cancel)
    assert finished.stdout == f"{rounds}\n"


@pytest.mark.parametrize("rounds", ROUNDS)
def test_shutdown_is_interrupted_again_and_again(rounds):
    ended, again = map(int, run_script(SCRIPTS / "interrupt_waits.py", "shutdown", rounds).stdout.split())
    assert ended == rounds
    assert again < 50  # see the script


def test_an_interrupted_shutdown_can_be_repeated():
    run_script(
        """
        import signal, threading, pyconc
        release = threading.Event()
        pool = pyconc.ThreadPoolExecutor(1)
        future = pool.submit(release.wait)
        def handle(*_):
            if not release.is_set():
                release.set()
                raise KeyboardInterrupt
        signal.signal(signal.SIGALRM, handle)
        # Again and again, because one that comes just before the thread sleeps is noticed with the next.
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
        try:
            while True:
                pool.shutdown()
        except KeyboardInterrupt:
            pass
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert future.result()
        pool.shutdown()
        """
    )


def test_a_thousand_pools_one_after_the_other():
    for number in range(1000):
        pool = pyconc.ThreadPoolExecutor(1 + number % 3)
        futures = [pool.submit(int) for _ in range(number % 4)]
        pool.shutdown(wait=number % 2 == 0)
        for future in futures:
            assert future.result() == 0
    # The fixture of every test sees to it that no thread and no file is left.


def test_a_thousand_pools_at_once():
    pools = [pyconc.ThreadPoolExecutor(1) for _ in range(1000)]
    futures = [pool.submit(int) for pool in pools[::10]]
    assert all(future.result() == 0 for future in futures)
    for pool in pools:
        pool.shutdown(wait=False)


def test_callbacks_of_cancelled_futures_may_use_the_executor():
    # The standard library holds a lock here, and would never return.
    seen = []

    def callback(future):
        with pytest.raises(RuntimeError, match="after shutdown"):
            pool.submit(int)
        pool.shutdown(wait=False, cancel_futures=True)
        seen.append(future.cancelled())

    pool = pyconc.ThreadPoolExecutor(1)
    with Gate() as gate:
        block_workers(pool, gate)
        for _ in range(3):
            pool.submit(int).add_done_callback(callback)
        pool.shutdown(wait=False, cancel_futures=True)
    pool.shutdown()
    assert seen == [True] * 3


@pytest.mark.parametrize("rounds", [50, pytest.param(200, marks=more_rounds)])
def test_shutdown_waits_for_threads_that_other_submits_start(rounds):
    for _ in range(rounds):
        pool = pyconc.ThreadPoolExecutor(4)
        futures = []

        def submit(pool=pool, futures=futures):
            try:
                while True:
                    futures.append(pool.submit(int))
            except RuntimeError:
                pass

        thread = threading.Thread(target=submit)
        thread.start()
        wait_until(lambda futures=futures: futures)
        pool.shutdown()
        threads = set(pool._threads)
        thread.join()
        assert set(pool._threads) == threads
        assert not any(thread.is_alive() for thread in threads)
        assert all(future.done() for future in futures)


# --- Executors nobody holds any more ----------------------------------------------------------------------------------


def test_the_last_reference_goes_in_a_task():
    pool = pyconc.ThreadPoolExecutor(1)
    box, gate = [pool], Gate()
    with gate:
        future = pool.submit(lambda: (gate(), box.clear()))
        queued = pool.submit(int)
        reference, threads = weakref.ref(pool), set(pool._threads)
        del pool
        assert reference() is not None
    future.result()
    assert queued.result() == 0
    wait_until(lambda: reference() is None)
    for thread in threads:
        thread.join()


def test_the_last_reference_goes_in_a_callback():
    pool = pyconc.ThreadPoolExecutor(1)
    box = [pool]
    with Gate() as gate:
        (future,) = block_workers(pool, gate)
        future.add_done_callback(lambda future: box.clear())
        reference, threads = weakref.ref(pool), set(pool._threads)
        del pool
    wait_until(lambda: reference() is None)
    for thread in threads:
        thread.join()


def test_dropped_while_a_thousand_tasks_are_queued():
    done = []
    for _ in range(10):
        pool = pyconc.ThreadPoolExecutor(2)
        for number in range(1000):
            pool.submit(done.append, number)
        threads = set(pool._threads)
        del pool
        for thread in threads:
            thread.join()
    assert len(done) == 10_000


def test_dropped_while_its_initializer_runs():
    started, release = threading.Event(), threading.Event()
    pool = pyconc.ThreadPoolExecutor(1, initializer=lambda: started.set() or release.wait())
    future, threads = pool.submit(pow, 2, 5), set(pool._threads)
    started.wait()
    del pool
    gc.collect()
    release.set()
    assert future.result() == 32
    for thread in threads:
        thread.join()


def test_dropped_while_its_initializer_fails(caplog):
    started, release = threading.Event(), threading.Event()

    def fail():
        started.set()
        release.wait()
        raise LookupError

    pool = pyconc.ThreadPoolExecutor(1, initializer=fail)
    future, threads = pool.submit(int), set(pool._threads)
    started.wait()
    del pool
    gc.collect()
    release.set()
    # The standard library leaves it pending for ever.
    assert isinstance(future.exception(), pyconc.BrokenThreadPool)
    for thread in threads:
        thread.join()


def test_collected_by_a_worker_of_its_own():
    for _ in range(20):
        pool = pyconc.ThreadPoolExecutor(1)
        pool.submit(int).result()
        pool.itself = pool
        future, threads = pool.submit(gc.collect), set(pool._threads)
        del pool
        future.result()
        # Once is not enough: it does nothing while that worker is collecting.
        wait_until(lambda threads=threads: gc.collect() + 1 and not any(map(threading.Thread.is_alive, threads)))


# --- The interpreter's exit -------------------------------------------------------------------------------------------

REFUSED = "cannot schedule new futures after interpreter shutdown"
TASKS = ["task 0", "task 1", "task 2", "task 3"]


@pytest.mark.parametrize("way", ["end", "dropped", "shutdown", "cycle", "waiting"])
def test_queued_work_is_finished_at_exit(way):
    finished = run_script(SCRIPTS / "exit_with_work.py", way)
    assert finished.stdout.splitlines() == TASKS
    assert finished.stderr == ""


def test_queued_work_is_finished_at_any_kind_of_exit():
    finished = run_script(SCRIPTS / "exit_with_work.py", "exit", check=False)
    assert (finished.returncode, finished.stdout.splitlines(), finished.stderr) == (3, TASKS, "")
    finished = run_script(SCRIPTS / "exit_with_work.py", "exception", check=False)
    assert (finished.returncode, finished.stdout.splitlines()) == (1, TASKS)
    assert finished.stderr.splitlines()[-1] == "LookupError: at the end"


def test_cancelled_work_is_not_run_at_exit():
    finished = run_script(SCRIPTS / "exit_with_work.py", "cancelled")
    assert (finished.stdout.splitlines(), finished.stderr) == (TASKS[:1], "")


def test_a_thread_that_has_only_just_started_finishes_its_work_at_exit():
    finished = run_script(SCRIPTS / "exit_with_work.py", "initializer")
    assert sorted(finished.stdout.splitlines()) == sorted([*TASKS, "task 0", "after the initializer"])
    assert finished.stderr == ""


def test_submit_at_exit_is_refused():
    finished = run_script(SCRIPTS / "exit_with_work.py", "atexit")
    assert finished.stdout.splitlines() == [*TASKS, f"atexit: {REFUSED}"]
    assert finished.stderr == ""


@pytest.mark.parametrize(("way", "who"), [("submitting", "task"), ("callbacks", "callback")])
def test_submit_inside_a_worker_at_exit_is_refused_or_done(way, who):
    finished = run_script(SCRIPTS / "exit_with_work.py", way)
    assert finished.stdout.splitlines()[:-1] == TASKS
    assert finished.stdout.splitlines()[-1] in (f"{who}: {REFUSED}", f"{who}: accepted")
    assert finished.stderr == ""


def test_a_pool_made_at_exit_refuses():
    finished = run_script(
        """
        import atexit, pyconc
        @atexit.register
        def late():
            pool = pyconc.ThreadPoolExecutor()
            try:
                pool.submit(int)
            except RuntimeError as error:
                print(error)
            pool.shutdown()
        """
    )
    assert finished.stdout == f"{REFUSED}\n"
    assert finished.stderr == ""


def test_exit_while_a_daemon_thread_submits():
    # It ends with the interpreter, wherever it is; what was accepted before is done.  In children of one process, as
    # twenty interpreters take longer to start.
    finished = run_script(
        """
        import os, sys, threading, pyconc
        for _ in range(20):
            pid = os.fork()
            if pid == 0:
                break
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        else:
            sys.exit()
        pool = pyconc.ThreadPoolExecutor(2)
        accepted, done = [], []
        def submit():
            while True:
                pool.submit(done.append, 1)
                accepted.append(1)
        def try_submit():
            try:
                submit()
            except RuntimeError:
                pass
        threading.Thread(target=try_submit, daemon=True).start()
        while len(done) < 100:
            pass
        """
    )
    assert finished.stderr == ""


@pytest.mark.parametrize("task", ["blocked", "busy"])
def test_one_interrupt_is_enough_at_exit(task):
    finished = run_script(SCRIPTS / "interrupt_exit.py", task)
    assert finished.stdout == "interrupt\n"
    assert "KeyboardInterrupt" in finished.stderr
    assert "Fatal" not in finished.stderr


def test_an_interrupted_program_finishes_what_is_queued():
    with start_script(
        """
        import os, sys, threading, pyconc
        pool = pyconc.ThreadPoolExecutor(1)
        first = pool.submit(sys.stdin.readline)
        pool.submit(os.write, 1, b"queued\\n")
        print("ready", flush=True)
        first.result()
        """,
        stdin=subprocess.PIPE,
    ) as process:
        await_line(process, process.stdout, "ready")
        wait_until_asleep(process)
        process.send_signal(signal.SIGINT)
        # Only when the traceback has been printed has the main thread left result().
        await_line(process, process.stderr, "KeyboardInterrupt")
        process.stdin.write("go on\n")
        process.stdin.flush()
        finished = finish(process)
    assert finished.returncode == -signal.SIGINT
    assert finished.stdout == "queued\n"


def test_exit_in_development_mode_is_quiet():
    finished = run_script(
        """
        import pyconc
        pool = pyconc.ThreadPoolExecutor(2)
        futures = [pool.submit(pow, 2, n) for n in range(100)]
        pyconc.wait(futures[:50])
        kept = next(pyconc.as_completed(futures)), pool.map(int, "123"), pyconc.Future()
        """,
        flags=("-X", "dev", "-W", "error"),
    )
    assert finished.stderr == ""


def test_objects_that_outlive_the_modules():
    finished = run_script(
        """
        import builtins, sys, pyconc
        pool = pyconc.ThreadPoolExecutor(2)
        class Late:
            def __init__(self, thing):
                self.thing = thing
                self.itself = self
            def __del__(self):
                for name in ("result", "cancel", "shutdown", "submit"):
                    try:
                        getattr(self.thing, name)(0)
                    except Exception:
                        pass
        future = pool.submit(int)
        future.result()
        builtins.kept = [Late(pool), Late(future), Late(pyconc.Future()), Late(pyconc.as_completed([future]))]
        sys.modules["kept"] = builtins.kept
        """
    )
    assert finished.stderr == ""


def test_os_exit_waits_for_nobody():
    finished = run_script(
        """
        import os, threading, pyconc
        pool = pyconc.ThreadPoolExecutor(1)
        pool.submit(threading.Event().wait)
        os._exit(7)
        """,
        check=False,
    )
    assert finished.returncode == 7


@pytest.mark.slow
def test_a_thousand_exits():
    # In children of one process, because a thousand interpreters take minutes to start.
    run_script(
        """
        import os, sys, warnings, pyconc
        warnings.simplefilter("ignore", DeprecationWarning)
        for number in range(int(sys.argv[1])):
            read, write = os.pipe()
            pid = os.fork()
            if pid == 0:
                pool = pyconc.ThreadPoolExecutor(1 + number % 3)
                for task in range(10):
                    pool.submit(os.write, write, b"x")
                if number % 5 == 0:
                    del pool
                sys.exit(number % 2)
            os.close(write)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == number % 2
            assert os.read(read, 100) == b"x" * 10
            os.close(read)
        """,
        THOUSAND,
        limit=4 * HANG_LIMIT,  # a hundredth of a second each, where nothing else runs
    )


def test_killed_by_a_signal_leaves_no_process_behind():
    with start_script(
        """
        import threading, pyconc
        pool = pyconc.ThreadPoolExecutor(1)
        pool.submit(threading.Event().wait)
        print("ready", flush=True)
        threading.Event().wait()
        """
    ) as process:
        await_line(process, process.stdout, "ready")
        os.kill(process.pid, signal.SIGTERM)
        assert finish(process).returncode == -signal.SIGTERM


def test_a_shutdown_in_the_midst_of_a_threads_start_is_waited_for_by_the_submit():
    # What a signal handler does that strikes while Thread.start() holds a lock of threads that end.
    result = run_script(
        """
        import threading

        import pyconc

        class Limbo(dict):
            def __setitem__(self, thread, value):
                super().__setitem__(thread, value)
                if striking:
                    striking.clear()
                    gate.set()
                    pool.shutdown(wait=True)

        striking = []
        gate = threading.Event()
        threading._limbo = Limbo()
        pool = pyconc.ThreadPoolExecutor(2)
        first = pool.submit(gate.wait)
        striking.append(True)
        second = pool.submit(int)
        assert not any(worker.is_alive() for worker in pool._threads)
        print(first.result(), second.result())
        """
    )
    assert result.stdout.strip() == "True 0"
