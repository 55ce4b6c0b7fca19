"""Workers and the zygote are killed, stopped, waited for by others: the pool goes on, and its reports are right."""

import contextlib
import os
import signal
import threading

import jobs
import pytest
from gates import ProcessGate, block_workers
from support import HANG_LIMIT, PROC, chessboard, run_script, wait_until, wait_until_clones_are_gone

import pyconc
from pyconc import WorkerDied
from pyconc._process import kernel, watched_worker


def state_of(pid):
    """A process's state, as one letter of the kernel's."""
    with open(f"{PROC}/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0]


def stop(pid):
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: state_of(pid) == "T", "it to stop")


# --- Who else waits for children --------------------------------------------------------------------------------------

SIGCHLD = """
import os, pathlib, signal, sys, threading, pyconc
how, threads = sys.argv[1:]
def reap(*_):
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    except ChildProcessError:
        pass
signal.signal(signal.SIGCHLD, signal.SIG_IGN if how == "ignored" else reap)
if threads == "threads":
    threading.Thread(target=threading.Event().wait, daemon=True).start()
"""

every_way_and_handler = chessboard("how, threads", ["ignored", "reaped"], ["threads", "no threads"])
every_handler = pytest.mark.parametrize("how", ["ignored", "reaped"])


@every_way_and_handler
def test_a_death_costs_its_own_task_only_whoever_waits_for_children(how, threads):
    finished = run_script(
        SIGCHLD
        + """
gates = [pathlib.Path(f"gate{number}") for number in range(2)]
for gate in gates:
    os.mkfifo(gate)
with pyconc.ProcessPoolExecutor(3) as pool:
    running = [pool.submit(gate.read_bytes) for gate in gates]
    for code in (9, 11, 13):
        error = pool.submit(os._exit, code).exception()
        assert isinstance(error, pyconc.WorkerDied), error
        assert error.signal is None and error.exitcode in (code, None), error
        assert pool.submit(abs, -code).result() == code
    for gate in gates:
        gate.write_bytes(b"")
    assert [future.result() for future in running] == [b"", b""]
print("done")
""",
        how,
        threads,
    )
    assert (finished.stdout, finished.stderr) == ("done\n", "")


@every_way_and_handler
def test_workers_that_leave_in_turn_are_replaced_whoever_waits_for_children(how, threads):
    finished = run_script(
        SIGCHLD
        + """
with pyconc.ProcessPoolExecutor(2, max_tasks_per_child=1) as pool:
    assert [future.result() for future in [pool.submit(abs, -n) for n in range(10)]] == list(range(10))
print("done")
""",
        how,
        threads,
    )
    assert (finished.stdout, finished.stderr) == ("done\n", "")


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_no_pool_waits_for_a_report_of_an_end_that_others_have_waited_for(method):
    finished = run_script(
        """
        import multiprocessing, os, signal, sys, pyconc
        from pyconc._process import watched_worker
        if __name__ == "__main__":
            watched_worker.REPORT_SECONDS = 3600.0
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
            with pyconc.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(sys.argv[1])) as pool:
                assert isinstance(pool.submit(os._exit, 9).exception(), pyconc.WorkerDied)
                assert pool.submit(abs, -2).result() == 2
            print("done")
        """,
        method,
    )
    assert (finished.stdout, finished.stderr) == ("done\n", "")


@every_handler
def test_workers_have_the_handler_of_the_program(how):
    finished = run_script(
        SIGCHLD
        + """
with pyconc.ProcessPoolExecutor(2) as pool:
    def handler():
        return repr(signal.getsignal(signal.SIGCHLD)).partition(" at ")[0]
    print({future.result() for future in [pool.submit(handler) for _ in range(20)]} == {handler()})
""",
        how,
        "no threads",
    )
    assert finished.stdout == "True\n"


def test_no_pool_keeps_a_zombie():
    run_script(
        """
        import os, pyconc
        def states():
            with open("/proc/self/task/%d/children" % os.getpid()) as children:
                for pid in children.read().split():
                    try:
                        with open(f"/proc/{pid}/stat") as stat:
                            yield stat.read().rpartition(")")[2].split()[0]
                    except OSError:
                        pass  # it was reaped meanwhile
        for _ in range(3):
            with pyconc.ProcessPoolExecutor(2) as pool:
                assert list(pool.map(abs, range(10))) == list(range(10))
                while "Z" in states():
                    pass
                os.kill(pool._supervisor.launcher.zygote.pid, 9)
                while pool.submit(abs, -1).exception() is not None:
                    pass  # a worker took it that ended with the zygote
                while "Z" in states():
                    pass
        """
    )


# --- Who is stopped ---------------------------------------------------------------------------------------------------


def test_what_a_stopped_worker_was_called_for_goes_to_another():
    with pyconc.ProcessPoolExecutor(3) as pool:
        with ProcessGate() as gate:
            futures = block_workers(pool, gate, 3)
            gate.open()
            pyconc.wait(futures)
        for victim in list(pool._processes):
            wait_until(lambda: all(state_of(pid) == "S" for pid in pool._processes), "the workers to sleep")
            stop(victim)
            try:
                for _ in range(3):
                    calls = [pool.submit(os.getpid) for _ in range(10)]
                    assert victim not in {call.result(HANG_LIMIT) for call in calls}
            finally:
                os.kill(victim, signal.SIGCONT)


def test_all_idle_workers_but_one_are_stopped():
    with pyconc.ProcessPoolExecutor(4) as pool:
        with ProcessGate() as gate:
            futures = block_workers(pool, gate, 4)
            gate.open()
            pyconc.wait(futures)
        wait_until(lambda: all(state_of(pid) == "S" for pid in pool._processes), "the workers to sleep")
        *victims, last = pool._processes
        for victim in victims:
            stop(victim)
        try:
            assert {pool.submit(os.getpid).result(HANG_LIMIT) for _ in range(5)} == {last}
        finally:
            for victim in victims:
                os.kill(victim, signal.SIGCONT)


def test_kill_workers_ends_a_pool_with_a_stopped_worker():
    with ProcessGate() as gate:
        pool = pyconc.ProcessPoolExecutor(2)
        futures = block_workers(pool, gate, 2)
        for victim in list(pool._processes):
            stop(victim)
        pool.kill_workers()
        pool.shutdown()
        assert all(isinstance(future.exception(HANG_LIMIT), pyconc.WorkerDied) for future in futures)


def test_a_stopped_zygote_holds_up_no_worker_that_lives():
    with pyconc.ProcessPoolExecutor(4) as pool:
        with ProcessGate() as gate:
            futures = block_workers(pool, gate, 2)
            zygote = pool._supervisor.launcher.zygote
            stop(zygote.pid)
            calls = [pool.submit(jobs.identity, number) for number in range(20)]
            gate.open()
            pyconc.wait(futures)
            assert [call.result(HANG_LIMIT) for call in calls] == list(range(20))
        os.kill(zygote.pid, signal.SIGCONT)
        assert pool.submit(jobs.identity, 1).result(HANG_LIMIT) == 1


@pytest.mark.skipif(not kernel.has_pidfds(), reason="only its parent hears of the worker's end: the stopped zygote")
def test_a_stopped_zygote_without_workers_is_replaced(monkeypatch):
    monkeypatch.setattr(watched_worker, "REPORT_SECONDS", 0.1)  # a stopped zygote reports nothing at all
    with pyconc.ProcessPoolExecutor(1) as pool:
        for _ in range(2):
            pool.submit(jobs.identity, 1).result(HANG_LIMIT)
            zygote = pool._supervisor.launcher.zygote
            stop(zygote.pid)
            (worker,) = pool._processes
            os.kill(worker, signal.SIGKILL)
            wait_until(lambda worker=worker: worker not in pool._processes, "the worker to be reaped")
            assert pool.submit(jobs.identity, 2).result(HANG_LIMIT) == 2
            assert pool._supervisor.launcher.zygote is not zygote


def test_a_pool_with_a_stopped_zygote_can_be_killed(monkeypatch):
    monkeypatch.setattr(watched_worker, "REPORT_SECONDS", 0.1)
    with ProcessGate() as gate:
        pool = pyconc.ProcessPoolExecutor(2)
        futures = block_workers(pool, gate, 2)
        stop(pool._supervisor.launcher.zygote.pid)
        pool.kill_workers()
        pool.shutdown()
        assert all(isinstance(future.exception(HANG_LIMIT), pyconc.WorkerDied) for future in futures)


def test_idle_workers_that_are_all_killed_at_once_are_replaced():
    with pyconc.ProcessPoolExecutor(8) as pool:
        for _ in range(2):
            with ProcessGate() as gate:
                futures = block_workers(pool, gate, 8)
                gate.open()
                pyconc.wait(futures)
            victims = set(pool._processes)
            for victim in victims:
                os.kill(victim, signal.SIGKILL)
            wait_until(lambda victims=victims: not victims & set(pool._processes), "the dead to be reaped")
            assert pool.submit(jobs.identity, 1).result(HANG_LIMIT) == 1


# --- Who is busy in a callback ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def busy_callback(pool):
    """Keeps the thread that calls the pool's callbacks in one of them."""
    goes_on, is_busy = threading.Event(), threading.Event()
    with ProcessGate() as gate:
        (future,) = block_workers(pool, gate)  # it is not done before it has the callback, or this thread would call it
        future.add_done_callback(lambda _: (is_busy.set(), goes_on.wait(HANG_LIMIT)))
        gate.open()
    try:
        assert is_busy.wait(HANG_LIMIT)
        yield
    finally:
        goes_on.set()


def test_a_busy_callback_does_not_hold_up_replacement():
    with pyconc.ProcessPoolExecutor(2) as pool, ProcessGate() as gate, busy_callback(pool):
        before = set(pool._processes)
        for victim in before:
            os.kill(victim, signal.SIGKILL)
        wait_until(lambda: not before & set(pool._processes), "the dead to be reaped")
        # What it returns is delivered by the thread that is busy.
        future = pool.submit(gate)
        (worker,) = gate.wait_started()
        assert worker not in before
        gate.open()
    assert future.result() == ()


def test_a_worker_and_the_zygote_are_killed_while_a_callback_is_busy():
    with pyconc.ProcessPoolExecutor(3) as pool:
        with ProcessGate() as gate:
            futures = block_workers(pool, gate, 3)
            gate.open()
            pyconc.wait(futures)
        zygote = pool._supervisor.launcher.zygote
        with busy_callback(pool):
            victims = {pid for pid, worker in list(pool._processes.items()) if not worker.is_cloned_from(zygote)}
            for victim in victims:
                os.kill(victim, signal.SIGKILL)
            os.kill(zygote.pid, signal.SIGKILL)
            calls = [pool.submit(jobs.identity, number) for number in range(20)]
        for number, call in enumerate(calls):
            # The death of the zygote's workers may come after one of them has taken a call.
            assert isinstance(call.exception(HANG_LIMIT), WorkerDied) or call.result() == number
        wait_until_clones_are_gone(pool, zygote)
        wait_until(lambda: not victims & set(pool._processes), "the others to be reaped")
        assert pool.submit(jobs.identity, 1).result(HANG_LIMIT) == 1


def test_shutdown_and_wait_in_a_callback_say_that_it_cannot_be():
    with pyconc.ProcessPoolExecutor(1) as pool:
        said = []

        def shut_down(_):
            try:
                pool.shutdown()
            except RuntimeError as error:
                said.append(str(error))

        with ProcessGate() as gate:
            (future,) = block_workers(pool, gate, 1)
            future.add_done_callback(shut_down)
            gate.open()
        wait_until(lambda: said)
        assert said == ["cannot join current thread"]


# --- Forks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["new", "serving", "starting", "closed"])
def test_a_fork_in_any_state_leaves_the_child_usable(when):
    finished = run_script(
        """
        import os, signal, sys, threading, pyconc
        when = sys.argv[1]
        pool = pyconc.ProcessPoolExecutor(2)
        def fork(*_):
            child = os.fork()
            if child == 0:
                other = pyconc.ProcessPoolExecutor(1) if when == "closed" else pool
                assert other.submit(abs, -1).result() == 1
                other.shutdown()
                os._exit(7)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        if when == "serving":
            pool.submit(abs, -1).result()
        elif when == "closed":
            pool.submit(abs, -1).result()
            pool.shutdown()
        if when == "starting":
            threading.Thread(target=threading.Event().wait, daemon=True).start()  # it takes a fresh interpreter
            signal.signal(signal.SIGALRM, fork)
            signal.setitimer(signal.ITIMER_REAL, 0.001)
            assert pool.submit(abs, -2).result() == 2
        else:
            fork()
        if when != "closed":
            assert pool.submit(abs, -2).result() == 2
            pool.shutdown()
        print("done")
        """,
        when,
    )
    assert finished.stdout == "done\n", finished
