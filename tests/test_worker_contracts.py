"""What libraries rely on in workers: numbers, a parent to watch, registered reducers, counts."""

import multiprocessing
import sys

import pytest
from support import HANG_LIMIT, another_thread, run_script

import pyconc

PROGRAM = """
import multiprocessing, os, sys, threading, warnings
from multiprocessing.reduction import ForkingPickler
import pyconc
warnings.simplefilter("ignore")
class Handle:
    def __init__(self, how):
        self.how = how
def rebuild():
    return Handle("by the registered reducer")
ForkingPickler.register(Handle, lambda handle: (rebuild, ()))
def ask(handle):
    return handle.how
"""

WORLDS = pytest.mark.parametrize("world", ["one thread", "threads", "fork", "spawn"])

BEGIN = """
if __name__ == "__main__":
    if sys.argv[1] == "threads":
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    context = multiprocessing.get_context(sys.argv[1]) if sys.argv[1] in ("fork", "spawn") else None
"""


@WORLDS
def test_types_registered_with_multiprocessing_travel_their_way(world):
    finished = run_script(
        PROGRAM
        + BEGIN
        + """
    with pyconc.ProcessPoolExecutor(1, context) as pool:
        print(pool.submit(ask, Handle("plainly")).result(), list(pool.map(ask, [Handle("plainly")])))
        print(pool.submit(Handle, "plainly").result().how)
""",
        world,
    )
    reduced = "by the registered reducer"
    assert finished.stdout == f"{reduced} {[reduced]}\n{reduced}\n"


@WORLDS
def test_connections_can_be_sent(world):
    # Plain pickle would take the number of the descriptor, which is another one elsewhere.
    finished = run_script(
        """
import multiprocessing, sys, threading
import pyconc
def send(connection, what):
    connection.send(what)
def connect():
    ours, theirs = multiprocessing.Pipe()
    ours.send("from a worker")
    return theirs
"""
        + BEGIN
        + """
    with pyconc.ProcessPoolExecutor(1, context) as pool:
        ours, theirs = multiprocessing.Pipe()
        pool.submit(send, theirs, "to an argument").result()
        assert list(pool.map(send, [theirs], ["to an item"])) == [None]
        print(ours.recv(), ours.recv(), pool.submit(connect).result().recv())
""",
        world,
    )
    assert finished.stdout == "to an argument to an item from a worker\n"


@pytest.mark.skipif(sys.version_info < (3, 13), reason="Python counts so since 3.13")
def test_python_cpu_count_is_what_a_program_may_count_on():
    script = "import pyconc; print(pyconc.ProcessPoolExecutor()._max_workers, pyconc.CoroutinePool()._max_workers)"
    assert run_script(script, env={"PYTHON_CPU_COUNT": "37"}).stdout == "37 37\n"
    assert run_script(script, flags=("-X", "cpu_count=31")).stdout == "31 31\n"


@pytest.mark.parametrize("size", [2**31, 2**63, 10**40])
def test_max_tasks_per_child_of_any_size(size):
    with another_thread(), pyconc.ProcessPoolExecutor(1, max_tasks_per_child=size) as pool:
        assert pool.submit(abs, -1).result(HANG_LIMIT) == 1
        assert multiprocessing.active_children()


@pytest.mark.parametrize("world", ["one thread", "threads"])
def test_workers_are_numbered_and_have_a_parent_to_watch(world):
    finished = run_script(
        PROGRAM
        + """
def who(_):
    barrier.wait(60)
    parent = multiprocessing.parent_process()
    parent.join(0)  # it returns, as the parent lives
    return multiprocessing.current_process()._identity, parent.is_alive(), parent.pid, parent.sentinel is not None
def begin(given):
    global barrier
    barrier = given
"""
        + BEGIN
        + """
    barrier = multiprocessing.get_context("spawn").Barrier(3)
    with pyconc.ProcessPoolExecutor(3, initializer=begin, initargs=(barrier,)) as pool:
        seen = sorted(pool.map(who, range(3), chunksize=1))
    print(seen == [((number,), True, os.getpid(), True) for number in (1, 2, 3)], seen)
""",
        world,
    )
    assert finished.stdout.startswith("True "), finished


def test_a_worker_that_watches_its_parent_by_getppid_lives_with_a_context_that_forks():
    finished = run_script(
        PROGRAM
        + BEGIN
        + """
    with pyconc.ProcessPoolExecutor(3, multiprocessing.get_context("fork")) as pool:
        print({future.result() for future in [pool.submit(os.getppid) for _ in range(30)]} == {os.getpid()})
""",
        "one thread",
    )
    assert finished.stdout == "True\n"


def test_a_context_with_processes_of_its_own_starts_the_workers():
    finished = run_script(
        """
        import multiprocessing, os
        from multiprocessing import context
        import pyconc

        class Process(context.ForkProcess):
            def run(self):
                os.environ["RUN_BY"] = "the program's class"
                super().run()

        class Context(context.ForkContext):
            Process = Process

        def look():
            return os.environ["RUN_BY"], multiprocessing.get_start_method(), os.getppid() == program

        program = os.getpid()
        if __name__ == "__main__":
            pool = pyconc.ProcessPoolExecutor(2, Context())
            print(*pool.submit(look).result())
            print([type(process) is Process for process in pool._processes.values()])
            print(type(pool.submit(os._exit, 3).exception()).__name__, *pool.submit(look).result())
            pool.shutdown()
            print(multiprocessing.active_children())
        """
    )
    seen = "the program's class fork True"
    assert finished.stdout == f"{seen}\n[True, True]\nWorkerDied {seen}\n[]\n"


def test_a_frozen_program_is_not_run_again(tmp_path):
    executable = tmp_path / "application"
    executable.write_text(f"#!/bin/sh\necho run >> {tmp_path / 'runs'}\n")
    executable.chmod(0o755)
    finished = run_script(
        PROGRAM
        + """
import multiprocessing.spawn
sys.frozen = True
sys.executable = sys.argv[2]
multiprocessing.spawn.set_executable(sys.executable)
"""
        + BEGIN
        + """
    multiprocessing.freeze_support()
    for _ in range(2):
        with pyconc.ProcessPoolExecutor(2) as pool:
            print(pool.submit(ask, Handle("plainly")).result(), list(pool.map(lambda x: x + 1, range(2))))
""",
        "threads",
        executable,
    )
    assert finished.stdout == "by the registered reducer [1, 2]\n" * 2
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("world", ["one thread", pytest.param("threads", marks=pytest.mark.slow)])
def test_a_task_may_use_a_fork_server_though_the_program_has_one(world):
    finished = run_script(
        PROGRAM
        + """
def start():
    process = multiprocessing.get_context("forkserver").Process(target=print, args=("from a child",))
    process.start()
    process.join()
    return process.exitcode
"""
        + BEGIN
        + """
    multiprocessing.set_forkserver_preload(["json"])
    pool = pyconc.ProcessPoolExecutor(1)
    print(start(), flush=True)
    with pool, pyconc.ProcessPoolExecutor(1) as later:
        print(pool.submit(start).result(), later.submit(start).result(), later.submit(start).result(), flush=True)
    print(start())
""",
        world,
    )
    assert finished.stdout.split("\n") == [
        *["from a child", "0"],
        *["from a child"] * 3,
        "0 0 0",
        *["from a child", "0", ""],
    ]
    assert finished.stderr == ""
