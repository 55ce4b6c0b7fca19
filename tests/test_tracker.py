"""Workers use the program's resource tracker, and nobody who has no need of it keeps it."""

import pytest
from support import chessboard, run_script

# A program whose workers are forks of it, clones of its zygote, of its reserve, or of a fresh interpreter.
PROGRAM = """
import os, signal, sys, threading
import pyconc
def start_thread():
    threading.Thread(target=threading.Event().wait, daemon=True).start()
def make_pool(origin):
    if origin == "nursery":
        start_thread()
    pool = pyconc.ProcessPoolExecutor(1)
    if origin == "reserve":
        start_thread()
    if origin == "zygote":
        pool = pyconc.ProcessPoolExecutor(2)
        pool.submit(signal.pause)
    return pool
def end(pool):
    pool.kill_workers()
    pool.shutdown()
"""

ORIGINS = ["program", "zygote", "reserve", "nursery"]


@chessboard("origin, use, importer", ORIGINS, ["made", "opened"], ["program", "worker"])
def test_shared_memory_that_a_worker_has_used_outlives_it(origin, use, importer):
    finished = run_script(
        f"""{PROGRAM}
origin, use, importer = sys.argv[1:]
def begin(use):
    from multiprocessing import shared_memory
    block = shared_memory.SharedMemory(create=True, size=100)
    block.buf[:4] = b"made"
    block.close()
    return block.name
def write(name):
    from multiprocessing import shared_memory
    block = shared_memory.SharedMemory(name)
    block.buf[:4] = b"used"
    block.close()
    return name
if importer == "program":
    from multiprocessing import shared_memory
if __name__ == "__main__":
    pool = make_pool(origin)
    name = pool.submit(begin, use).result() if use == "made" else pool.submit(write, begin(use)).result()
    end(pool)
    from multiprocessing import resource_tracker, shared_memory
    block = shared_memory.SharedMemory(name)
    print(bytes(block.buf[:4]).decode())
    block.close()
    block.unlink()
    resource_tracker._resource_tracker._stop()  # which says what has been left
""",
        origin,
        use,
        importer,
    )
    assert (finished.stdout, finished.stderr) == ("made\n" if use == "made" else "used\n", "")


@pytest.mark.parametrize("origin", ORIGINS)
def test_who_stops_the_tracker_waits_for_no_worker_that_has_no_need_of_it(origin):
    """As multiprocessing's own clean-up for tests does, and its interpreter's exit."""
    finished = run_script(
        f"""{PROGRAM}
from multiprocessing import resource_tracker
def pipe():
    return os.fstat(resource_tracker.getfd()).st_ino
if __name__ == "__main__":
    resource_tracker.ensure_running()
    idle = pyconc.ProcessPoolExecutor(1)
    pool = make_pool(sys.argv[1])
    print(pool.submit(abs, -1).result())
    resource_tracker._resource_tracker._stop()
    print(pool.submit(pipe).result() == pipe())
    end(pool)
    resource_tracker._resource_tracker._stop()
    print("stopped")
""",
        origin,
    )
    assert (finished.stdout, finished.stderr) == ("1\nTrue\nstopped\n", "")


def test_a_worker_that_asks_after_the_tracker_was_killed_gets_the_next_one():
    finished = run_script(
        f"""{PROGRAM}
from multiprocessing import resource_tracker
def pipe():
    return os.fstat(resource_tracker.getfd()).st_ino
if __name__ == "__main__":
    resource_tracker.ensure_running()
    pid = resource_tracker._resource_tracker._pid
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    with pyconc.ProcessPoolExecutor(1) as pool:
        print(pool.submit(pipe).result() == pipe(), resource_tracker._resource_tracker._pid != pid)
""",
        flags=("-W", "ignore"),  # Python says that it has relaunched it
    )
    assert (finished.stdout, finished.stderr) == ("True True\n", "")


def test_a_worker_of_a_program_that_can_start_no_tracker_starts_its_own():
    # Such as a frozen one, whose executable is no interpreter.
    finished = run_script(
        f"""{PROGRAM}
from multiprocessing import resource_tracker
def has_its_own():
    resource_tracker.ensure_running()
    return resource_tracker._resource_tracker._pid is not None
if __name__ == "__main__":
    sys.frozen = True
    with pyconc.ProcessPoolExecutor(1) as pool:
        print(pool.submit(has_its_own).result(), resource_tracker._resource_tracker._pid)
"""
    )
    assert (finished.stdout, finished.stderr) == ("True None\n", "")


def test_a_worker_whose_files_a_task_has_closed_writes_to_no_other():
    finished = run_script(
        f"""{PROGRAM}
import socket, stat
from multiprocessing import resource_tracker
def look():
    # The line is the one socket of the worker; what takes its number is another's.
    sockets = [fd for fd in map(int, os.listdir("/proc/self/fd")) if is_socket(fd)]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for fd in sockets:
            os.dup2(theirs.fileno(), fd)
        resource_tracker.ensure_running()
        ours.setblocking(False)
        try:
            return len(sockets), ours.recv(1)
        except BlockingIOError:
            return len(sockets), None
def is_socket(fd):
    try:
        return stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError:
        return False
if __name__ == "__main__":
    with pyconc.ProcessPoolExecutor(1) as pool:
        print(pool.submit(look).result())
"""
    )
    assert (finished.stdout, finished.stderr) == ("(1, None)\n", "")


def test_a_worker_that_ends_the_line_has_all_have_their_own():
    finished = run_script(
        f"""{PROGRAM}
import socket, stat
from multiprocessing import resource_tracker
def end_line():
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                with socket.socket(fileno=os.dup(fd)) as line:
                    line.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it was the folder's
def has_its_own():
    resource_tracker.ensure_running()
    return resource_tracker._resource_tracker._pid is not None
if __name__ == "__main__":
    with pyconc.ProcessPoolExecutor(1) as pool:
        pool.submit(end_line).result()
        while pool._supervisor._lender.fileno() != -1:  # the supervisor has seen it
            os.sched_yield()
        print(pool.submit(has_its_own).result())
        pool.submit(os._exit, 1).exception()
        print(pool.submit(has_its_own).result())
"""
    )
    assert (finished.stdout, finished.stderr) == ("True\nTrue\n", "")
