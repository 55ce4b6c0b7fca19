"""The guards guard: each fails a test that deserves it, and only such a test."""

import contextlib
import gc
import multiprocessing
import os
import subprocess
import sys
import threading
from multiprocessing.shared_memory import SharedMemory

import pytest
import support

import pyconc
from pyconc._process import nursery


@pytest.fixture
def fails():
    return lambda text: pytest.raises(pytest.fail.Exception, match=text)


def test_nothing_left_names_a_thread_left_behind(fails):
    go = threading.Event()
    thread = threading.Thread(target=go.wait)
    with fails("left behind: thread"), support.nothing_left(limit=0.1):
        thread.start()
    go.set()
    thread.join()


def test_nothing_left_names_a_process_left_behind(fails):
    with fails(r"left behind: process \d+ \(.*python"), support.nothing_left(limit=0.1):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    child.communicate(b"\n")


def test_nothing_left_names_a_zombie(fails):
    with fails(r"left behind: process \d+"), support.nothing_left(limit=0.1):
        pid = os.posix_spawn(sys.executable, [sys.executable, "-S", "-c", ""], os.environ)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    os.waitpid(pid, 0)


def test_nothing_left_names_an_open_file(fails):
    with fails("left behind: file .*null"), support.nothing_left(limit=0.1):
        number = os.open(os.devnull, os.O_RDONLY)
    os.close(number)


def use_processes():
    with pyconc.ProcessPoolExecutor(1) as pool:
        assert pool.submit(abs, -1).result() == 1


def test_nothing_left_keeps_the_nursery():
    pids = set()
    with support.another_thread():
        for _ in range(2):
            with support.nothing_left():
                use_processes()
            pids.add(nursery.the_nursery.pid)
    assert len(pids - {None}) == 1, pids
    with support.nothing_left():
        support.stop_nursery()
    assert nursery.the_nursery.pid is None


def test_nothing_left_waits_for_a_thread_that_ends():
    go = threading.Event()
    ended = threading.Thread(target=go.wait)
    with support.nothing_left():
        ended.start()
        go.set()


def test_nothing_left_collects_cycles():
    class Knot:
        def __init__(self):
            self.self = self
            self.number = os.open(os.devnull, os.O_RDONLY)

        def __del__(self):
            os.close(self.number)

    gc.disable()
    try:
        with support.nothing_left():
            Knot()
    finally:
        gc.enable()


def test_wait_until_names_what_it_waited_for(fails):
    with fails("in vain for the impossible"):
        support.wait_until(lambda: False, "the impossible", limit=0.01)


def test_run_script_returns_what_a_program_said():
    finished = support.run_script(
        """
        import os, sys
        print(sys.argv[1:], os.environ["COLOUR"], os.listdir())
        print("aside", file=sys.stderr)
        """,
        1,
        "two",
        env={"COLOUR": "red"},
    )
    assert finished.stdout == "['1', 'two'] red ['script.py']\n"
    assert finished.stderr == "aside\n"
    assert finished.returncode == 0


def test_run_script_fails_with_the_program(fails):
    with fails("(?s)exit code 3.*a last word"):
        support.run_script("import sys; sys.stderr.write('a last word'); sys.exit(3)")
    assert support.run_script("raise SystemExit(3)", check=False).returncode == 3


def test_finish_shows_where_a_program_hangs(fails):
    script = """
        import subprocess, sys, threading
        def stuck():
            subprocess.Popen([sys.executable, "-c", "import threading; threading.Event().wait()"])
            print("stuck", flush=True)
            threading.Event().wait()
        stuck()
    """
    with support.start_script(script) as process:
        support.await_line(process, process.stdout, "stuck")
        with fails("(?s)hung.*SIGABRT.*in stuck"):
            support.finish(process, limit=0.01)


def test_start_script_talks_to_a_running_program():
    with support.start_script("print(input()[::-1], flush=True); input()", stdin=subprocess.PIPE) as process:
        process.stdin.write("stressed\n")
        process.stdin.flush()
        assert support.await_line(process, process.stdout, "\n") == "desserts\n"


def test_await_line_returns_the_line():
    with support.start_script("print('one'); print('two and three'); print('four')") as process:
        assert support.await_line(process, process.stdout, "two") == "two and three\n"
        assert support.await_line(process, process.stdout, "") == "four\n"


def test_await_line_fails_when_the_program_ends(fails):
    script = "import sys; print('one'); sys.exit('no more')"
    with fails(r"(?s)no line with 'two' after \['one\\n'\].*exit code 1.*no more"):
        with support.start_script(script) as process:
            support.await_line(process, process.stdout, "two")


def test_await_line_shows_where_a_program_hangs(fails):
    script = """
        import threading
        def stuck():
            print("one", flush=True)
            threading.Event().wait()
        stuck()
    """
    with support.start_script(script) as process:
        support.await_line(process, process.stdout, "one")
        with fails("(?s)no line with 'two'.*SIGABRT.*in stuck"):
            support.await_line(process, process.stdout, "two", limit=0.01)


@pytest.mark.parametrize("busy", [0, 1])
def test_wait_until_asleep_looks_at_every_thread(fails, busy):
    script = """
        import sys, threading
        gates = [threading.Event() for _ in range(3)]
        def work(gate):
            while not gate.is_set():
                if int(sys.argv[1]):
                    continue
                gate.wait()
        for gate in gates:
            threading.Thread(target=work, args=(gate,)).start()
        print("ready", flush=True)
        sys.stdin.readline()
        for gate in gates:
            gate.set()
    """
    with support.start_script(script, busy, stdin=subprocess.PIPE) as process:
        support.await_line(process, process.stdout, "ready")
        with fails("to sleep") if busy else contextlib.nullcontext():
            support.wait_until_asleep(process, *[0.5] * busy)


def test_check_no_leak_sees_one_object_per_call(fails):
    if support.SANITIZED:
        pytest.skip("blocks are counted by Python's own allocator only")
    kept = []
    with fails("200 calls leave"):
        support.check_no_leak(lambda: kept.append(object()))


def test_check_no_leak_sees_one_reference_per_call(fails):
    if not support.DEBUG_BUILD:
        pytest.skip("references are counted by debug builds only")
    shared, kept = object(), [None] * 10_000
    slots = iter(range(len(kept)))
    with fails("references"):
        support.check_no_leak(lambda: kept.__setitem__(next(slots), shared))


def test_check_no_leak_accepts_what_is_given_back():
    def give_and_take():
        thread = threading.Thread(target=int)
        thread.start()
        thread.join()

    support.check_no_leak(give_and_take, repeat=20)


def test_check_flat_memory_sees_growth(fails):
    kept = []
    with fails("memory grew"):
        support.check_flat_memory(lambda: kept.append(b"x" * (16 << 20)))
    kept.clear()
    support.check_flat_memory(lambda: b"x" * (16 << 20))


def test_nothing_left_names_shared_memory(fails):
    """Also when it is closed, and nobody has it mapped."""
    try:
        with fails("left behind: /dev/shm/psm_"), support.nothing_left(limit=0.1):
            block = SharedMemory(create=True, size=8)
            block.close()
    finally:
        block.unlink()


def test_nothing_left_names_a_semaphore(fails):
    context = multiprocessing.get_context("spawn")  # under fork a semaphore loses its name at once
    with fails(r"left behind: /dev/shm/sem\.mp-"), support.nothing_left(limit=0.1):
        lock = context.Lock()
    del lock
    gc.collect()


def test_nothing_left_names_the_shared_memory_of_a_child(fails):
    with support.start_script(HOLDS_SHARED_MEMORY, stdin=subprocess.PIPE) as child:
        with fails("left behind: /dev/shm/psm_"), support.nothing_left(limit=0.1):
            child.stdin.write("\n")
            child.stdin.flush()
            support.await_line(child, child.stdout, "\n")
        child.stdin.write("\n")
        assert support.finish(child).returncode == 0


HOLDS_SHARED_MEMORY = """
    from multiprocessing.shared_memory import SharedMemory
    input()
    block = SharedMemory(create=True, size=8)
    print(block.name, flush=True)
    input()
    block.close()
    block.unlink()
"""


@pytest.mark.parametrize("mapped", [True, False])
def test_nothing_left_ignores_the_shared_memory_of_others(mapped):
    """Whether the other program has it mapped, or has made it for one that is to start."""
    # Its parent ends, so that it is no descendant of this process.
    script = """
        import os
        import sys
        from multiprocessing.shared_memory import SharedMemory
        if os.fork():
            os._exit(0)
        input()
        block = SharedMemory(create=True, size=8)
        if not int(sys.argv[1]):
            block.close()
        print(block.name, flush=True)
        input()
        block.close()
        block.unlink()
        print("gone", flush=True)
    """
    with support.start_script(script, int(mapped), stdin=subprocess.PIPE) as other:
        other.wait(support.HANG_LIMIT)
        with support.nothing_left():
            other.stdin.write("\n")
            other.stdin.flush()
            name = support.await_line(other, other.stdout, "\n").strip()
            assert os.path.exists(f"/dev/shm/{name}")
        other.stdin.write("\n")
        other.stdin.flush()
        support.await_line(other, other.stdout, "gone")
