"""Executors to which nothing was submitted: they cost next to nothing, and are as good as new ones later."""

import pytest
from support import more_rounds, run_script

PROGRAM = """
import os, resource, sys, threading, weakref
import pyconc

def children():
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return file.read().split()

def descriptors():
    return len(os.listdir("/proc/self/fd"))

def begin(lock, number):
    global mine
    mine = number

def look():
    return mine, world

def start_thread():
    threading.Thread(target=threading.Event().wait, daemon=True).start()

world = "old"
"""


@pytest.mark.parametrize("count", [40, pytest.param(200, marks=more_rounds)])
@pytest.mark.parametrize("threads", ["threads", "no threads"])
def test_many_cost_one_process_and_no_descriptor_each_and_all_of_them_work(threads, count):
    finished = run_script(
        PROGRAM
        + """
COUNT = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, (2 * COUNT, 2 * COUNT))
before = descriptors()
pools = [pyconc.ProcessPoolExecutor(2, initializer=begin, initargs=(threading.Lock(), n)) for n in range(COUNT)]
print(len(children()), descriptors() - before < 5)
world = "after the last one was made"
if sys.argv[1] == "threads":
    start_thread()
told = set()
for number in reversed(range(COUNT)):
    with pools.pop() as pool:
        mine, world_there = pool.submit(look).result()
        assert mine == number, (mine, number)
        told.add(world_there)
del pool
print(told)
print(len(children()), descriptors() - before < 5)
""",
        threads,
        count,
    )
    world = "old" if threads == "threads" else "after the last one was made"
    assert finished.stdout == f"1 True\n{ {world} }\n0 True\n"
    assert finished.stderr == ""


def test_a_supervisor_that_came_second_takes_nothing_from_the_first():
    """Of several threads that submit first, all but one drop the supervisor that they have made."""
    finished = run_script(
        PROGRAM
        + """
from pyconc._process.supervisor import Supervisor
with pyconc.ProcessPoolExecutor(1, initializer=begin, initargs=(threading.Lock(), 5)) as pool:
    start_thread()
    world = "new"
    Supervisor(*pool._plan)
    print(pool.submit(look).result())
"""
    )
    assert finished.stdout == "(5, 'old')\n", finished
    assert finished.stderr == ""


def test_one_that_is_made_later_has_what_the_program_has_then():
    finished = run_script(
        PROGRAM
        + """
first = pyconc.ProcessPoolExecutor(1, initializer=begin, initargs=(threading.Lock(), "first"))
world = "new"
second = pyconc.ProcessPoolExecutor(1, initializer=begin, initargs=(threading.Lock(), "second"))
start_thread()
with second, first:
    print(first.submit(look).result(), second.submit(look).result())
"""
    )
    assert finished.stdout == "('first', 'new') ('second', 'new')\n"
    assert finished.stderr == ""


@pytest.mark.parametrize("end", ["shutdown", "kill_workers", "dropped", "in a cycle"])
def test_one_that_is_never_used_leaves_nothing(end):
    finished = run_script(
        PROGRAM
        + """
import gc
pool = pyconc.ProcessPoolExecutor(1)
before = len(children())
if sys.argv[1] == "dropped":
    del pool
elif sys.argv[1] == "in a cycle":
    pool.itself = pool
    del pool
    gc.collect()
else:
    getattr(pool, sys.argv[1])()
    try:
        pool.submit(int)
    except RuntimeError as error:
        print(error)
print(before, len(children()))
""",
        end,
    )
    refusal = "cannot schedule new futures after shutdown\n" if end in ("shutdown", "kill_workers") else ""
    assert (finished.stdout, finished.stderr) == (f"{refusal}1 0\n", "")


def test_one_that_is_made_while_another_has_threads_to_blame_is_served_as_well():
    finished = run_script(
        PROGRAM
        + """
first, second = (pyconc.ProcessPoolExecutor(1, initializer=begin, initargs=(threading.Lock(), n)) for n in range(2))
def use_beside_a_thread(pool):
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    print(pool.submit(look).result())
    end.set()
    thread.join()
use_beside_a_thread(first)
world = "new"
third = pyconc.ProcessPoolExecutor(1, initializer=begin, initargs=(threading.Lock(), 2))
for pool in third, second:
    use_beside_a_thread(pool)
for pool in first, second, third:
    pool.shutdown()
while children():  # a fork of the program ends after its zygotes; whoever makes an executor then reaps it
    pyconc.ProcessPoolExecutor(1).shutdown()
print(len(children()))
"""
    )
    assert finished.stdout == "(0, 'old')\n(2, 'new')\n(1, 'new')\n0\n"
    assert finished.stderr == ""


def test_one_that_is_changed_by_private_names_is_served_as_it_is_by_then():
    finished = run_script(
        PROGRAM
        + """
pool = pyconc.ProcessPoolExecutor(1, initializer=begin, initargs=(threading.Lock(), 0))
pool._initargs = (threading.Lock(), 1)
pool._max_tasks_per_child = 1
start_thread()
print(pool.submit(look).result())
print(pool.submit(os.getpid).result() != pool.submit(os.getpid).result())
for name, value in ("_max_workers", 2), ("_initargs", ()), ("_mp_context", None):
    try:
        setattr(pool, name, value)
    except AttributeError as error:
        print(error)
pool.shutdown()
"""
    )
    late = " of pyconc's executor cannot be changed once a task was submitted\n"
    never = "_mp_context of pyconc's executor cannot be changed\n"
    assert (finished.stdout, finished.stderr) == (f"(1, 'old')\nTrue\n_max_workers{late}_initargs{late}{never}", "")


def test_where_what_was_forked_for_them_was_killed_they_work_all_the_same():
    finished = run_script(
        """
import os, signal, threading
import pyconc
if __name__ == "__main__":
    pools = [pyconc.ProcessPoolExecutor(1) for _ in range(3)]
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    print(pools[0].submit(abs, -1).result())
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        for pid in file.read().split():
            if int(pid) not in pools[0]._processes:
                os.kill(int(pid), signal.SIGKILL)
    print(*(pool.submit(abs, -2).result() for pool in pools))
    for pool in pools:
        pool.shutdown()
"""
    )
    assert (finished.stdout, finished.stderr) == ("1\n2 2 2\n", "")


def test_the_child_of_a_fork_uses_an_idle_one():
    finished = run_script(
        """
import os, pyconc
pools = [pyconc.ProcessPoolExecutor(1) for _ in range(2)]
pid = os.fork()
if pid == 0:
    with pools[0] as pool:
        print(pool.submit(abs, -1).result(), flush=True)
    os._exit(0)
os.waitpid(pid, 0)
for pool in pools:
    with pool:
        print(pool.submit(abs, -2).result())
"""
    )
    assert (finished.stdout, finished.stderr) == ("1\n2\n2\n", "")


def test_several_threads_submit_first_at_once():
    finished = run_script(
        """
import threading, pyconc
with pyconc.ThreadPoolExecutor(8) as threads:
    for _ in range(20):
        with pyconc.ProcessPoolExecutor(2) as pool:
            barrier = threading.Barrier(8)
            def call(number):
                barrier.wait()
                return pool.submit(abs, number).result()
            assert list(threads.map(call, range(8))) == list(range(8))
"""
    )
    assert finished.stderr == ""


@pytest.mark.parametrize("step", ["fork", "open_pidfd"])
def test_what_the_reserve_is_refused_once_is_said_and_no_worker_comes_from_elsewhere(step):
    finished = run_script(
        PROGRAM
        + """
import decimal, errno
from pyconc import _core
def precision():
    return decimal.getcontext().prec
program, real, has_refused = os.getpid(), getattr(_core, sys.argv[1]), False
def refuses_once(*args):
    global has_refused
    is_child = args not in [(program,), (os.getpid(),)]
    if os.getppid() == program and is_child and not has_refused:  # in the reserve
        has_refused = True
        raise OSError(errno.EAGAIN, "injected")
    return real(*args)
if __name__ == "__main__":
    setattr(_core, sys.argv[1], refuses_once)
    decimal.getcontext().prec = 5
    pools = [pyconc.ProcessPoolExecutor(1) for _ in range(2)]
    reserve = children()
    start_thread()
    try:
        print(pools[0].submit(precision).result())
    except OSError as error:
        print(error)
    print([pool.submit(precision).result() for pool in pools], set(reserve) <= set(children()))
    for pool in pools:
        pool.shutdown()
""",
        step,
    )
    assert finished.stdout == "[Errno 11] injected\n[5, 5] True\n"
