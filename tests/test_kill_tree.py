"""kill_tree: the processes that a worker's tasks have started are killed with it, and no others."""

import asyncio
import errno
import multiprocessing
import os
import socket
import subprocess

import jobs
import pytest
from gates import ProcessGate
from pools import pool_of
from stopping import FOREVER
from support import HANG_LIMIT, run_script, wait_until

import pyconc
from pyconc._process import kernel, process_tree


def _is_supported():
    try:
        process_tree.require()
    except OSError:
        return False
    return True


pytestmark = pytest.mark.skipif(not _is_supported(), reason="this system does not show a process's children")


def hold_in_tree(gate):
    """Waits at the gate, and so do a child in a session of its own, and that one's child."""
    if os.fork() == 0:
        os.setsid()
        os.fork()
        _wait_and_exit(gate)
    while True:
        try:
            return gate()
        except BaseException:
            pass


def hold_one_child(gate):
    if os.fork() == 0:
        _wait_and_exit(gate)
    return os.getpid()


def hold_one_child_and_die(gate):
    hold_one_child(gate)
    jobs.die("exit")


async def hold_in_tree_as_coroutine(gate):
    return hold_in_tree(gate)


def spread(gate):
    """Starts processes, which start some, as fast as it can; they all have the connection that is held at the gate."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(gate.address)
        connection.sendall(b"%d\n" % os.getpid())
        for _ in range(300):
            if os.fork() == 0:
                os.fork()
                connection.recv(1)
                os._exit(0)
        connection.recv(1)


def _wait_and_exit(gate):
    try:
        gate()
    finally:
        os._exit(0)


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


KILLS = {
    "cancel": lambda pool, future: future.cancel(),
    "shutdown": lambda pool, future: pool.options(grace=0.01).shutdown(timeout=0),
    "kill_workers": lambda pool, future: pool.kill_workers(),
    "terminate_workers": lambda pool, future: pool.terminate_workers(),
}


@pytest.mark.parametrize("how", KILLS)
def test_what_a_task_has_started_goes_with_its_worker(how):
    with pool_of(1, kill_tree=True) as pool, ProcessGate() as gate:
        future = pool.options(on_cancel="kill", grace=FOREVER).submit(hold_in_tree, gate)
        gate.wait_started(3)
        KILLS[how](pool, future)
        wait_until(gate.is_left, "all to be killed")
        assert pyconc.wait([future]).done


def test_a_look_that_takes_long_leaves_out_nobody(monkeypatch):
    """As on a busy machine, where the time for all to stand still may be over with the first look."""
    monkeypatch.setattr(process_tree, "_STOP_SECONDS", 0)
    with pool_of(1, kill_tree=True) as pool, ProcessGate() as gate:
        pool.submit(hold_in_tree, gate)
        gate.wait_started(3)
        pool.kill_workers()
        wait_until(gate.is_left, "all to be killed", HANG_LIMIT / 2)  # they would leave by themselves in twice that


def test_a_tree_that_grows_all_the_time_is_not_looked_at_for_ever(monkeypatch):
    monkeypatch.setattr(process_tree, "_STOP_SECONDS", 0)
    monkeypatch.setattr(process_tree, "_MOST_SECONDS", 0)
    monkeypatch.setattr(process_tree.StoppedTree, "_look", lambda tree: (True, False))
    with pool_of(1, kill_tree=True) as pool, ProcessGate() as gate:
        future = pool.submit(gate)
        gate.wait_started()
        pool.kill_workers()
        assert future.exception() is not None


def test_so_it_is_after_a_grace_in_vain():
    with pool_of(1, kill_tree=True) as pool, ProcessGate() as gate:
        future = pool.options(on_cancel="interrupt", grace=0.01).submit(hold_in_tree, gate)
        gate.wait_started(3)
        future.cancel()
        wait_until(gate.is_left, "all to be killed")
        assert pool.submit(abs, -1).result() == 1


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_so_it_is_with_every_start_method(method):
    context = multiprocessing.get_context(method)
    with pool_of(1, kill_tree=True, mp_context=context) as pool, ProcessGate() as gate:
        future = pool.options(on_cancel="kill").submit(hold_in_tree, gate)
        gate.wait_started(3)
        future.cancel()
        wait_until(gate.is_left, "all to be killed")


def test_so_it_is_when_the_executor_breaks():
    with pool_of(2, kill_tree=True, on_worker_death="break") as pool, ProcessGate() as gate:
        future = pool.submit(hold_in_tree, gate)
        gate.wait_started(3)
        pool.submit(jobs.die, "exit")
        wait_until(gate.is_left, "all to be terminated")
        assert isinstance(future.exception(), pyconc.WorkerDied.__base__)


def test_so_it_is_with_coroutines():
    async def main():
        pool = pyconc.CoroutinePool(1, kill_tree=True, on_cancel="kill", grace=0.01)
        with ProcessGate() as gate:
            async with pool:
                future = pool.submit(hold_in_tree_as_coroutine, gate)
                await asyncio.to_thread(gate.wait_started, 3)
                future.cancel()
                await asyncio.to_thread(wait_until, gate.is_left, "all to be killed")

    asyncio.run(main())


def test_processes_that_start_others_meanwhile_go_too():
    with pool_of(1, kill_tree=True) as pool, ProcessGate() as gate:
        future = pool.options(on_cancel="kill").submit(spread, gate)
        gate.wait_started()
        future.cancel()
        wait_until(gate.is_left, "the last one that has the connection to be killed")


def test_those_of_another_worker_are_left():
    with pool_of(2, kill_tree=True) as pool, ProcessGate() as gate, ProcessGate() as other_gate:
        other = pool.submit(hold_in_tree, other_gate)
        others = other_gate.wait_started(3)
        future = pool.options(on_cancel="kill").submit(hold_in_tree, gate)
        gate.wait_started(3)
        future.cancel()
        wait_until(gate.is_left, "all to be killed")
        assert all(map(is_alive, others))
        other_gate.open()
        assert other.result() == ()


def test_without_kill_tree_they_are_left():
    with pool_of(1) as pool, ProcessGate() as gate, ProcessGate() as of_child:
        assert pool.submit(hold_one_child, of_child).result()
        [child] = of_child.wait_started()
        future = pool.options(on_cancel="kill").submit(jobs.hold, gate)
        gate.wait_started()
        future.cancel()
        wait_until(gate.is_left, "the worker to be killed")
        assert is_alive(child)


def test_a_worker_that_dies_by_itself_leaves_them():
    with pool_of(1, kill_tree=True) as pool, ProcessGate() as gate:
        assert isinstance(pool.submit(hold_one_child_and_die, gate).exception(), pyconc.WorkerDied)
        [child] = gate.wait_started()
        assert is_alive(child)


def test_what_is_terminated_may_tidy_up():
    finished = run_script(
        """
        import os, signal, sys, time
        import pyconc

        def leave(number, frame):
            os.write(1, f"{name} tidied up\\n".encode())
            os._exit(0)

        def task(ready):
            global name
            name = "task"
            signal.signal(signal.SIGTERM, leave)
            name = "task" if os.fork() else "child"
            if name == "child":
                os.write(ready, b"!")
            while True:
                time.sleep(0.1)  # a signal that comes just before a pause for ever would come to nothing

        reader, writer = os.pipe()
        with pyconc.ProcessPoolExecutor(1, kill_tree=True) as pool:
            future = pool.submit(task, writer)
            os.read(reader, 1)
            pool.terminate_workers()
        """
    )
    assert sorted(finished.stdout.splitlines()) == ["child tidied up", "task tidied up"]


def test_a_number_that_another_process_has_by_now_counts_for_nothing():
    pidfd = kernel.open_pidfd(os.getpid())
    try:
        for pid in (1, os.getppid(), os.getpid()):
            assert process_tree._hold(pid, os.getpid(), pidfd) is None
    finally:
        os.close(pidfd)


def test_a_parent_that_has_ended_has_no_children():
    reader, writer = os.pipe()
    os.close(writer)  # readable, as the pidfd of a process is that has ended
    own = kernel.open_pidfd(os.getpid())
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    try:
        held = process_tree._hold(child.pid, os.getpid(), own)
        assert held is not None
        os.close(held)
        assert process_tree._hold(child.pid, os.getpid(), reader) is None
    finally:
        child.communicate()
        os.close(reader)
        os.close(own)


def test_where_it_cannot_be_the_error_says_so(monkeypatch):
    monkeypatch.setattr(kernel, "has_pidfds", lambda: False)
    with pytest.raises(OSError, match=r"kill_tree needs pidfd_open\(\), which the system does not have") as caught:
        pyconc.ProcessPoolExecutor(1, kill_tree=True)
    assert caught.value.errno == errno.ENOSYS
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(OSError, match=r"kill_tree needs the /proc/\*/task/\*/children of its own processes"):
        pyconc.CoroutinePool(1, kill_tree=True)
