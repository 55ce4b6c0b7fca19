"""ProcessPoolExecutor where the standard library has no counterpart: what is the same on both is in compare/."""

import asyncio
import concurrent.futures
import contextlib
import ctypes
import importlib.util
import multiprocessing
import os
import signal
import sys
import threading

import jobs
import pytest
from gates import ProcessGate, block_workers
from loops import on_every_loop, on_loop
from support import HANG_LIMIT, SANITIZED, THOUSAND, chessboard, run_script, wait_until

import pyconc
from pyconc import WorkerDied, process_pool

# --- How many workers -------------------------------------------------------------------------------------------------


def forge(tmp_path, own, files):
    """Writes control group files below tmp_path; returns what _cgroup_cpus() reads there."""
    (tmp_path / "own").write_text(own)
    for name, text in files.items():
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return process_pool._cgroup_cpus(str(tmp_path / "root"), str(tmp_path / "own"))


V1 = "12:cpuset:/\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/init.scope\n0::/\n"

QUOTAS = {
    "none": ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n"}, None),
    "one and a half": ("0::/a/b\n", {"a/b/cpu.max": "150000 100000\n"}, 1.5),
    "the parent's": ("0::/a/b\n", {"a/cpu.max": "50000 100000\n", "a/b/cpu.max": "max 100000\n"}, 0.5),
    "the smallest": ("0::/a/b\n", {"a/cpu.max": "300000 100000\n", "a/b/cpu.max": "200000 100000\n"}, 2),
    "in a container": ("0::/../../host/path\n", {"cpu.max": "400000 100000\n"}, 4),
    "version 1": (V1, {"cpu/docker/abc/cpu.cfs_quota_us": "250000", "cpu/docker/abc/cpu.cfs_period_us": "100000"}, 2.5),
    "version 1, none": (V1, {"cpu/docker/abc/cpu.cfs_quota_us": "-1", "cpu/docker/abc/cpu.cfs_period_us": "1"}, None),
    "version 1, container": (V1, {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),
    "nonsense": ("0::/\n", {"cpu.max": "lots and lots\n"}, None),
    "no files": ("0::/a/b\n", {}, None),
}


@pytest.mark.parametrize("case", QUOTAS)
def test_quota_of_the_control_group(tmp_path, case):
    own, files, cpus = QUOTAS[case]
    assert forge(tmp_path, own, files) == cpus


def test_no_control_groups(tmp_path):
    assert process_pool._cgroup_cpus(str(tmp_path), str(tmp_path / "missing")) is None


@pytest.mark.parametrize(("quota", "workers"), [(None, 3), (0.3, 1), (1.5, 2), (2, 2), (64, 3)])
def test_workers_are_as_many_as_cpus_and_quota_allow(monkeypatch, quota, workers):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 5})
    monkeypatch.setattr(process_pool, "_cgroup_cpus", lambda: quota)
    with pyconc.ProcessPoolExecutor() as pool:
        assert pool._max_workers == workers


@pytest.mark.parametrize("value", ["", "Replace", None, True])
def test_on_worker_death_is_replace_or_break(value):
    with pytest.raises(ValueError, match="must be 'replace' or 'break'"):
        pyconc.ProcessPoolExecutor(1, on_worker_death=value)


# --- Deaths -----------------------------------------------------------------------------------------------------------


def test_worker_died_says_who_and_how():
    with pyconc.ProcessPoolExecutor(1) as pool:
        pid = pool.submit(os.getpid).result()
        error = pool.submit(jobs.die, signal.SIGTERM).exception(HANG_LIMIT)
        assert isinstance(error, WorkerDied)
        assert isinstance(error, concurrent.futures.process.BrokenProcessPool)
        assert (error.pid, error.exitcode, error.signal, error.task) == (pid, -signal.SIGTERM, "SIGTERM", jobs.die)
        assert str(error) == f"worker process {pid} was ended by SIGTERM while it ran jobs.die"
        pid = pool.submit(os.getpid).result(HANG_LIMIT)
        error = pool.submit(jobs.die, "exit").exception(HANG_LIMIT)
        assert (error.pid, error.exitcode, error.signal) == (pid, 7, None)
        assert str(error) == f"worker process {pid} ended with exit code 7 while it ran jobs.die"


def test_worker_died_survives_a_pickle():
    with pyconc.ProcessPoolExecutor(1) as pool:
        error = pool.submit(jobs.die, "exit").exception(HANG_LIMIT)
        again = pool.submit(jobs.identity, error).result(HANG_LIMIT)
    assert type(again) is WorkerDied
    assert (str(again), again.pid, again.exitcode) == (str(error), error.pid, error.exitcode)


def test_a_death_may_break_the_executor():
    with pyconc.ProcessPoolExecutor(2, on_worker_death="break") as pool, ProcessGate() as gate:
        futures = block_workers(pool, gate, 2) + [pool.submit(jobs.identity, 1) for _ in range(5)]
        killed = next(iter(pool._processes))
        os.kill(killed, signal.SIGKILL)
        errors = [future.exception(HANG_LIMIT) for future in futures]
        assert all(isinstance(error, concurrent.futures.process.BrokenProcessPool) for error in errors)
        assert [error.pid for error in errors if isinstance(error, WorkerDied)] == [killed]
        with pytest.raises(concurrent.futures.process.BrokenProcessPool, match="not usable anymore"):
            pool.submit(int)


def test_who_is_told_of_the_death_that_breaks_an_executor_can_submit_nothing(monkeypatch):
    with pyconc.ProcessPoolExecutor(1, on_worker_death="break") as pool, ProcessGate() as gate:
        (future,) = block_workers(pool, gate)
        supervisor, accepted, broken = pool._opened, [], threading.Event()
        break_down = supervisor._break_down

        def told_first(*reasons):
            future.exception(HANG_LIMIT)
            with contextlib.suppress(concurrent.futures.process.BrokenProcessPool):
                accepted.append(pool.submit(int))
            break_down(*reasons)
            broken.set()

        monkeypatch.setattr(supervisor, "_break_down", told_first)
        os.kill(next(iter(pool._processes)), signal.SIGKILL)
        assert broken.wait(HANG_LIMIT)
        assert accepted == []


def test_workers_are_replaced_after_so_many_tasks():
    with pyconc.ProcessPoolExecutor(2, max_tasks_per_child=3) as pool:
        pids = [future.result(HANG_LIMIT) for future in [pool.submit(os.getpid) for _ in range(24)]]
    assert all(pids.count(pid) <= 3 for pid in pids)
    assert len(set(pids)) >= 8


def test_workers_are_replaced_after_so_many_calls_of_a_map():
    with pyconc.ProcessPoolExecutor(2, max_tasks_per_child=3) as pool:
        pids = list(pool.map(jobs.identify, range(24)))
    assert all(pids.count(pid) <= 3 for pid in pids)


def test_a_worker_for_every_task():
    with pyconc.ProcessPoolExecutor(1, max_tasks_per_child=1) as pool:
        pids = [pool.submit(os.getpid).result(HANG_LIMIT) for _ in range(8)]
    assert len(set(pids)) == 8


# --- Event loops ------------------------------------------------------------------------------------------------------


@on_every_loop
@on_loop
async def test_async_with(new_loop):
    loop = asyncio.get_running_loop()
    turns = []
    with ProcessGate() as gate:
        async with pyconc.ProcessPoolExecutor(1) as pool:
            block_workers(pool, gate)
            queued = loop.run_in_executor(pool, jobs.identity, 1)
            loop.call_soon(lambda: (turns.append(None), gate.open()))
    # The loop turned while it was left, or the gate would be closed still.
    assert turns
    assert await queued == 1
    with pytest.raises(RuntimeError, match="shutdown"):
        pool.submit(int)


@on_every_loop
@on_loop
async def test_results_and_exceptions_reach_the_loop(new_loop):
    loop = asyncio.get_running_loop()
    with pyconc.ProcessPoolExecutor(2) as pool:
        calls = [loop.run_in_executor(pool, jobs.identity, number) for number in range(200)]
        assert await asyncio.gather(*calls) == list(range(200))
        for kind, awaited in [(ValueError, ValueError), (StopIteration, RuntimeError)]:
            with pytest.raises(awaited):
                await loop.run_in_executor(pool, jobs.raise_new, kind, "no")
        for kind, awaited in [
            (concurrent.futures.CancelledError, asyncio.CancelledError),
            (concurrent.futures.InvalidStateError, asyncio.InvalidStateError),
        ]:
            with pytest.raises(awaited):
                await loop.run_in_executor(pool, jobs.raise_new, kind, "no")
        with pytest.raises(LookupError, match="refuses"):
            await loop.run_in_executor(pool, jobs.identity, jobs.Unpicklable())
        with pytest.raises(WorkerDied):
            await loop.run_in_executor(pool, jobs.die, "exit")
        assert await loop.run_in_executor(pool, jobs.identity, 1) == 1


@on_every_loop
@on_loop
async def test_a_burst_wakes_the_loop_once(new_loop, monkeypatch):
    loop = asyncio.get_running_loop()
    calls = []
    call_soon_threadsafe = loop.call_soon_threadsafe

    def counting(callback, *args, **kwargs):
        calls.append(callback)
        return call_soon_threadsafe(callback, *args, **kwargs)

    with pyconc.ProcessPoolExecutor(1) as pool, ProcessGate() as gate:
        await loop.run_in_executor(pool, jobs.identity, 0)
        block_workers(pool, gate)
        loop.call_soon_threadsafe = counting
        pending = [loop.run_in_executor(pool, jobs.identity, number) for number in range(1000)]
        assert calls == []
        last = pool.submit(jobs.identity, None)
        gate.open()
        last.result(HANG_LIMIT)
        # Now all have been run; the collecting thread delivers them while this thread stands still.
        wait_until(lambda: not pool._tasks.outstanding())
        assert await asyncio.gather(*pending) == list(range(1000))
        del loop.call_soon_threadsafe
        assert len(calls) <= 100


@on_every_loop
@on_loop
async def test_cancelling_withdraws_what_no_worker_has_taken(new_loop, tmp_path):
    loop = asyncio.get_running_loop()
    path = tmp_path / "reports"
    path.touch()
    with pyconc.ProcessPoolExecutor(1) as pool, ProcessGate() as gate:
        await loop.run_in_executor(pool, jobs.identity, None)
        block_workers(pool, gate)
        pending = [loop.run_in_executor(pool, jobs.Reporter(str(path)), number) for number in range(10)]
        for call in pending[::2]:
            assert call.cancel()
        gate.open()
        assert await asyncio.gather(*pending[1::2]) == [1, 3, 5, 7, 9]
        assert all(call.cancelled() for call in pending[::2])
    assert path.read_text().split() == ["1", "3", "5", "7", "9"]


def flags_of(number):
    """The flags that the kernel has of a signal's handler."""
    action = (ctypes.c_ubyte * 256)()
    assert ctypes.CDLL(None).sigaction(number, None, action) == 0
    return int.from_bytes(bytes(action[136:140]), sys.byteorder)  # behind the handler, and a mask of 1024 bits


@on_every_loop
@on_loop
async def test_signal_handlers_of_the_loop_stay_as_they_are(new_loop):
    loop = asyncio.get_running_loop()
    seen = asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, seen.set)
    try:
        before = flags_of(signal.SIGUSR1)
        with pyconc.ProcessPoolExecutor(1) as pool:
            assert await loop.run_in_executor(pool, jobs.identity, 1) == 1
        assert flags_of(signal.SIGUSR1) == before
        os.kill(os.getpid(), signal.SIGUSR1)
        await seen.wait()
    finally:
        loop.remove_signal_handler(signal.SIGUSR1)


# --- Programs ---------------------------------------------------------------------------------------------------------

# Starts a thread if the test says so: then the zygote is a fresh interpreter, and otherwise it is forked.
THREADS = """
import os, sys, threading
if sys.argv[1] == "threads":
    threading.Thread(target=threading.Event().wait, daemon=True).start()
import pyconc
"""

either_template = pytest.mark.parametrize("threads", ["threads", "no threads"])
# For what a fork has anyway, whatever it is.
fresh_template = pytest.mark.parametrize("threads", ["threads", pytest.param("no threads", marks=pytest.mark.slow)])


@either_template
def test_a_program_without_a_guard_runs_once(threads):
    finished = run_script(
        THREADS
        + """
print("the program")
def square(x):
    return x * x
with pyconc.ProcessPoolExecutor(2) as pool:
    print([future.result() for future in [pool.submit(square, x) for x in range(5)]], list(pool.map(square, range(5))))
""",
        threads,
    )
    assert finished.stdout == "the program\n[0, 1, 4, 9, 16] [0, 1, 4, 9, 16]\n"


def test_spawn_still_wants_its_guard():
    finished = run_script(
        """
        import multiprocessing, pyconc
        with pyconc.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            pool.submit(abs, -1).result()
        """,
        check=False,
    )
    assert finished.returncode != 0
    assert "bootstrapping phase" in finished.stderr


@either_template
def test_what_is_defined_after_the_executor_was_made(threads):
    run_script(
        THREADS
        + """
pool = pyconc.ProcessPoolExecutor(2)
def double(x):
    return factor * x
class Point:
    def __init__(self, x):
        self.x = x
    def moved(self):
        return Point(self.x + 1)
factor = 2
assert pool.submit(double, 3).result() == 6
def triple(x):
    return 3 * x
assert pool.submit(triple, 3).result() == 9
assert pool.submit(Point(1).moved).result().x == 2
class Later(Point):
    pass
assert type(pool.submit(Later, 7).result()) is Later
assert [point.x for point in pool.map(Later, range(3))] == [0, 1, 2]
pool.shutdown()
""",
        threads,
    )


@fresh_template
def test_a_function_that_is_redefined(threads):
    run_script(
        THREADS
        + """
pool = pyconc.ProcessPoolExecutor(1)
def answer():
    return "old"
old = answer
assert pool.submit(answer).result() == "old"
def answer():
    return "new"
assert pool.submit(answer).result() == "new"
assert pool.submit(old).result() == "old"
assert pool.submit(answer).result() == "new"
assert [pool.submit(function).result() for function in (old, answer) * 3] == ["old", "new"] * 3
pool.shutdown()
""",
        threads,
    )


@either_template
def test_tasks_share_the_globals_of_the_program(threads):
    run_script(
        THREADS
        + """
calls = []
limit = None
def initialize(number):
    global limit
    limit = number
def count():
    calls.append(1)
    return len(calls), limit
def helper():
    return "old"
def ask():
    return helper()
pool = pyconc.ProcessPoolExecutor(1, initializer=initialize, initargs=(5,))
assert [pool.submit(count).result() for _ in range(3)] == [(1, 5), (2, 5), (3, 5)]
assert pool.submit(lambda: (calls.append(1), len(calls), limit)).result() == (None, 4, 5)
assert pool.submit(ask).result() == "old"
assert (calls, limit) == ([], None)
factor = 7
def multiply(x):
    return x * factor
assert list(pool.map(multiply, range(3))) == [0, 7, 14]
def later():
    return helper()
def helper():
    return "new"
assert pool.submit(later).result() == "new"
returned = pool.submit(lambda: multiply).result()  # a function that comes home changes nothing here
assert returned(2) == 14 and (calls, limit) == ([], None)
pool.shutdown()
""",
        threads,
    )


@fresh_template
def test_a_callable_is_pickled_once_while_it_stays_the_same(threads):
    finished = run_script(
        THREADS
        + """
from pyconc._process import pickling
pickled = []
plain = pickling._dumps_with_cloudpickle
pickling._dumps_with_cloudpickle = lambda value, *how: pickled.append(value) or plain(value, *how)
def adder(n, kept=''):
    def add(x):
        return x + n + len(kept)
    def change(to):
        nonlocal n
        n = to
    return add, change
pool = pyconc.ProcessPoolExecutor(1)
pool.submit(int).result()  # until there are workers, it is not known what they have
double = lambda x: 2 * x
add, change = adder(1)
for function, results in (double, [0, 2, 4]), (add, [1, 2, 3]):
    pickled.clear()
    assert [pool.submit(function, x).result() for x in range(3)] == results
    assert pickled == [function]
change(10)
pickled.clear()
assert [pool.submit(add, x).result() for x in range(3)] == [10, 11, 12]
assert pickled == [add]
kept = [1]
add, _ = adder(0, kept)  # what is in a list may change
assert pool.submit(add, 0).result() == 1
kept.append(2)
assert pool.submit(add, 0).result() == 2
def count(seen=[]):
    seen.append(1)
    return len(seen)
assert [pool.submit(count).result() for _ in range(3)] == [1, 2, 3]
def counted(function, calls=[]):
    def count(x):
        calls.append(x)
        return function(x)
    count.__qualname__ = function.__qualname__
    return count
@counted
def negate(x):
    return -x
for _ in range(2):  # by name, or by value with what may change
    assert pool.submit(negate, 1).result() == -1
# More functions than are remembered at a time, on either side.
functions = [lambda n=n: n for n in range(4200)]
assert [future.result() for future in [pool.submit(function) for function in functions]] == list(range(4200))
assert [pool.submit(function).result() for function in functions[:10]] == list(range(10))
pool.shutdown()
""",
        threads,
    )
    assert finished.stderr == ""


@fresh_template
def test_lambdas_and_closures(threads):
    run_script(
        THREADS
        + """
pool = pyconc.ProcessPoolExecutor(2)
def adder(n):
    def add(x):
        return x + n
    return add
assert pool.submit(lambda x: x + 1, 1).result() == 2
assert pool.submit(adder(5), 1).result() == 6
assert list(pool.map(lambda x: -x, range(3))) == [0, -1, -2]
assert [pool.submit(adder(n), 0).result() for n in range(5)] == list(range(5))
assert pool.submit(lambda: adder(3)).result()(4) == 7
pool.shutdown()
""",
        threads,
    )


def test_functions_of_a_program_survive_a_template_that_is_not_forked():
    # The first zygote has the program's functions, and the second, started beside a thread, has not.
    run_script(
        """
        import os, signal, threading, pyconc
        def double(x):
            return 2 * x
        pool = pyconc.ProcessPoolExecutor(1)
        assert pool.submit(double, 1).result() == 2
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        (first,) = pool._processes
        for pid in first, pool._supervisor.launcher.zygote.pid:
            os.kill(pid, signal.SIGKILL)
        while first in pool._processes:
            pass
        assert pool.submit(abs, -1).result() == 1
        assert pool.submit(double, 2).result() == 4
        pool.shutdown()
        """
    )


@fresh_template
def test_initializers_get_what_multiprocessing_shares(threads):
    run_script(
        THREADS
        + """
import multiprocessing
def initialize(*shared):
    global lock, queue, event, value, listed
    lock, queue, event, value, listed = shared
def work(x):
    with lock:
        value.value += x
    queue.put(x)
    listed.append(x)
    return event.wait(60)
if __name__ == "__main__":
    manager = multiprocessing.Manager()
    shared = [multiprocessing.Lock(), multiprocessing.SimpleQueue(), multiprocessing.Event(),
              multiprocessing.Value("i", 0), manager.list()]
    with pyconc.ProcessPoolExecutor(2, initializer=initialize, initargs=shared) as pool:
        futures = [pool.submit(work, x) for x in range(5)]
        shared[2].set()
        assert all(future.result() for future in futures)
        assert sorted(shared[1].get() for _ in range(5)) == list(range(5)) == sorted(shared[4])
        assert shared[3].value == 10
        assert list(pool.map(manager.dict().get, "abc")) == [None] * 3
    manager.shutdown()
""",
        threads,
    )


@chessboard("when, threads", ["before", "between"], ["threads", "no threads"])
def test_surroundings_of_the_program_are_those_of_its_workers(threads, when, tmp_path):
    (tmp_path / "found_by_path.py").write_text("def answer():\n    return 42\n")
    finished = run_script(
        THREADS
        + f"""
import warnings
def change():
    sys.path.insert(0, {str(tmp_path)!r})
    os.mkdir("elsewhere")
    os.chdir("elsewhere")
    os.environ["ADDED"] = "yes"
    os.environ.pop("REMOVED")
    warnings.simplefilter("error", FutureWarning)
def look():
    try:
        warnings.warn("x", FutureWarning)
        warned = "shown"
    except FutureWarning:
        warned = "raised"
    import found_by_path
    return os.getcwd(), os.environ.get("ADDED"), os.environ.get("REMOVED"), found_by_path.answer(), warned
if {when!r} == "before":
    change()
pool = pyconc.ProcessPoolExecutor(1)
if {when!r} == "between":
    change()
assert pool.submit(look).result() == (os.getcwd(), "yes", None, 42, "raised"), pool.submit(look).result()
import found_by_path
assert pool.submit(found_by_path.answer).result() == 42
pool.shutdown()
""",
        threads,
        env={"REMOVED": "still there"},
    )
    assert finished.stderr == ""


@pytest.mark.parametrize(
    ("threads", "end", "unbuffered"),
    [
        ("threads", "shutdown", "1"),
        ("threads", "exit", ""),
        ("no threads", "shutdown", ""),
        ("no threads", "exit", "1"),
    ],
)
def test_prints_are_whole_and_none_is_lost(threads, end, unbuffered):
    finished = run_script(
        THREADS
        + """
def speak(number):
    print("line", number, "x" * 50, "end")
    print("more", number, file=sys.stderr)
pool = pyconc.ProcessPoolExecutor(4)
futures = [pool.submit(speak, number) for number in range(300)]
if sys.argv[2] == "shutdown":
    pool.shutdown()
""",
        threads,
        end,
        env={"PYTHONUNBUFFERED": unbuffered},
    )
    expected = [f"line {number} {'x' * 50} end" for number in range(300)]
    assert sorted(finished.stdout.splitlines()) == sorted(expected)
    assert sorted(finished.stderr.splitlines()) == sorted(f"more {number}" for number in range(300))


@either_template
def test_what_the_program_has_printed_is_not_printed_again(threads):
    finished = run_script(
        THREADS
        + """
sys.stdout.write("once\\n")  # stays in the buffer of a pipe
with pyconc.ProcessPoolExecutor(2) as pool:
    pool.submit(print, "by a worker").result()
    sys.stdout.write("twice\\n")
    pool.submit(os.kill, os.getpid(), 0).result()
""",
        threads,
    )
    assert sorted(finished.stdout.splitlines()) == ["by a worker", "once", "twice"]


def test_a_program_with_threads_is_not_warned_of_forks():
    finished = run_script(
        """
        import threading, pyconc
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        with pyconc.ThreadPoolExecutor(2) as threads, pyconc.ProcessPoolExecutor(2) as pool:
            threads.submit(int).result()
            assert pool.submit(lambda: 1).result() == 1
            assert list(pool.map(abs, range(-3, 0))) == [3, 2, 1]
        """,
        flags=("-X", "dev", "-W", "error"),
    )
    assert finished.stderr == ""


def test_executors_one_after_the_other_are_not_warned_of_forks():
    # The threads that collect for the others are there when the second one forks its zygote.
    finished = run_script(
        """
        import pyconc
        pools = [pyconc.ProcessPoolExecutor(1) for _ in range(3)]
        for pool in pools * 2:
            assert pool.submit(lambda: 1).result() == 1
        """,
        flags=("-X", "dev", "-W", "error"),
    )
    assert finished.stderr == ""


@fresh_template
def test_executors_inside_workers(threads):
    run_script(
        THREADS
        + """
def inside(depth):
    if depth == 0:
        return 1
    with pyconc.ProcessPoolExecutor(2) as pool:
        return sum(pool.map(inside, [depth - 1] * 2))
with pyconc.ProcessPoolExecutor(1) as pool:
    assert pool.submit(inside, 2).result() == 4
""",
        threads,
    )


@either_template
def test_an_executor_that_a_worker_leaves_open_ends_with_it(threads):
    run_script(
        THREADS
        + """
def leave_open():
    global inner
    inner = pyconc.ProcessPoolExecutor(1)
    return inner.submit(os.getpid).result()
with pyconc.ProcessPoolExecutor(1) as pool:
    pid = pool.submit(leave_open).result()
try:
    while True:
        os.kill(pid, 0)  # or the program hangs
        with open(f"/proc/{pid}/stat") as stat:
            if stat.read().rpartition(")")[2].split()[0] == "Z":
                break
except (ProcessLookupError, FileNotFoundError):
    pass
""",
        threads,
    )


@either_template
def test_a_task_may_fork(threads):
    run_script(
        THREADS
        + """
def fork():
    pid = os.fork()
    if pid == 0:
        os._exit(3)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
def fork_and_return():
    return os.fork()
with pyconc.ProcessPoolExecutor(1) as pool:
    assert [pool.submit(fork).result() for _ in range(3)] == [3] * 3
    pid = pool.submit(fork_and_return).result()
    assert pid > 0  # the worker's answer; the child is none, and ends
    assert [pool.submit(abs, -x).result() for x in range(100)] == list(range(100))
""",
        threads,
    )


@either_template
def test_the_child_of_a_fork_finds_the_executor_empty_and_usable(threads):
    run_script(
        THREADS
        + """
import warnings
from concurrent.futures.process import BrokenProcessPool
warnings.simplefilter("ignore", DeprecationWarning)
pool = pyconc.ProcessPoolExecutor(2)
read, write = os.pipe()
futures = [pool.submit(os.read, read, 1) for _ in range(5)] if sys.argv[1] != "threads" else []
done = pool.submit(abs, -5) if not futures else None
pending = pool.map(abs, range(100)) if not futures else None
called = []
for future in futures:
    future.add_done_callback(called.append)
if done:
    assert done.result() == 5
pid = os.fork()
if pid == 0:
    code = 1
    try:
        for future in futures:
            assert isinstance(future.exception(timeout=0), BrokenProcessPool), future
        assert not called
        assert pool._work_queue.qsize() == 0 and not pool._processes
        assert pool.submit(abs, -1).result() == 1
        assert list(pool.map(abs, range(-9, 0))) == list(range(9, 0, -1))
        pool.shutdown()
        code = 0
    finally:
        os._exit(code)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
os.write(write, b"12345")
assert sorted(future.result() for future in futures) == [b"1", b"2", b"3", b"4", b"5"][:len(futures)]
assert pool.submit(abs, -2).result() == 2
pool.shutdown()
""",
        threads,
    )


@pytest.mark.slow
@pytest.mark.skipif(
    SANITIZED, reason="the collecting thread allocates without the GIL: a child may find a sanitizer locked"
)
def test_the_child_of_a_fork_loses_no_task_wherever_it_was():
    """The collecting thread moves tasks about without the GIL, so that a fork may come in the middle of that."""
    run_script(
        """
import os, sys, warnings, pyconc
warnings.simplefilter("ignore", DeprecationWarning)
pool = pyconc.ProcessPoolExecutor(2)
for _ in range(int(sys.argv[1])):
    futures = [pool.submit(abs, -x) for x in range(1500)]
    pid = os.fork()
    if pid == 0:
        os._exit(not all(future.done() for future in futures))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert [future.result() for future in futures] == list(range(1500))
pool.shutdown()
""",
        THOUSAND,
    )


FORK_AND_GO_ON = """
import os, sys, threading, warnings, pyconc
from concurrent.futures.process import BrokenProcessPool
warnings.simplefilter("ignore", DeprecationWarning)
parent, told = os.getpid(), os.pipe()
def fork(*_):
    if os.getpid() == parent:
        pid = os.fork()
        if pid == 0:
            # This thread goes on with what it was at, and ends as the child's only one.
            ends = [future.exception(timeout=0) for future in waiting]
            os.write(told[1], b"." if all(isinstance(end, BrokenProcessPool) for end in ends) else b"!")
        else:
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return 5
class Forks:
    def __reduce__(self):
        return fork, ()
pool = pyconc.ProcessPoolExecutor(1)
block = os.pipe()
"""


def test_what_unpacks_a_result_may_fork():
    run_script(
        FORK_AND_GO_ON
        + """
waiting = []
future = pool.submit(Forks)
waiting += [future, *[pool.submit(os.read, block[0], 1) for _ in range(5)]]
event = threading.Event()
future.add_done_callback(lambda future: event.set())  # so that the collecting thread delivers it
event.wait()
assert future.result() == 5
assert os.read(told[0], 9) == b"."
os.write(block[1], b"12345")
assert [future.result() for future in waiting] == [5, b"1", b"2", b"3", b"4", b"5"]
pool.shutdown()
"""
    )


def test_a_callback_of_a_task_that_is_cancelled_with_others_may_fork():
    run_script(
        FORK_AND_GO_ON
        + """
first = pool.submit(os.read, block[0], 1)
while not first.running():
    pass
futures = [pool.submit(abs, -1) for _ in range(5)]
waiting = futures[1:]
futures[0].add_done_callback(fork)
pool.shutdown(wait=False, cancel_futures=True)
os.write(block[1], b"1")
assert first.result() == b"1"
assert all(future.cancelled() for future in futures)
assert os.read(told[0], 9) == b"."
"""
    )


def test_workers_leave_whoever_takes_the_last_result():
    run_script(
        """
import os, pyconc
gate = os.pipe()
def is_asleep(thread):
    if thread.native_id is None:  # It has not run yet: this thread has taken the result.
        return False
    with open(f"/proc/self/task/{thread.native_id}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] == "S"
for _ in range(8):
    pool = pyconc.ProcessPoolExecutor(1)
    assert pool.submit(abs, -1).result() == 1
    (worker,) = pool._processes.values()
    thread = pool._executor_manager_thread
    future = pool.submit(os.read, gate[0], 1)
    pool.shutdown(wait=False)
    while not is_asleep(thread):
        pass
    os.write(gate[1], b"5")
    assert future.result() == b"5"  # while this thread looks for it, nobody wakes the other
    thread.join()
    assert not worker.is_alive()
"""
    )


def test_tasks_may_use_multiprocessing_themselves():
    with pyconc.ProcessPoolExecutor(1) as pool:
        assert pool.submit(jobs.run_process).result(HANG_LIMIT) == 5


def test_workers_are_processes_of_multiprocessing():
    with pyconc.ProcessPoolExecutor(1) as pool:
        assert pool.submit(jobs.process_name).result(HANG_LIMIT).startswith("ProcessPoolExecutor-")
        (worker,) = pool._processes.values()
        assert worker in multiprocessing.active_children()
        assert worker.is_alive()
        assert worker.exitcode is None
        assert pool.submit(jobs.parent_pid).result() == os.getpid()
    assert worker.exitcode == 0


def test_submit_from_many_threads():
    results = []

    def submit(number):
        results.append([pool.submit(jobs.identity, (number, i)).result(HANG_LIMIT) for i in range(100)])

    with pyconc.ProcessPoolExecutor(2) as pool:
        threads = [threading.Thread(target=submit, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(results) == [[(number, i) for i in range(100)] for number in range(8)]


def test_a_closed_map_lets_its_calls_go(tmp_path):
    path = tmp_path / "reports"
    path.touch()
    with pyconc.ProcessPoolExecutor(1) as pool, ProcessGate() as gate:
        results = pool.map(jobs.ReportOrWait(jobs.Reporter(str(path)), gate, 50), range(1000))
        assert next(results) == 0
        gate.wait_started()
        results.close()
        gate.open()
        assert pool.submit(jobs.identity, 1).result(HANG_LIMIT) == 1
    assert len(path.read_text().split()) < 999


WARNING = "DeprecationWarning: This process" if sys.version_info >= (3, 12) else ""


def test_a_context_that_forks_warns_of_threads_as_it_does_elsewhere():
    finished = run_script(
        """
        import multiprocessing, threading, pyconc
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        with pyconc.ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
            assert pool.submit(abs, -1).result() == 1
        """,
        flags=("-W", "always"),
    )
    assert WARNING in finished.stderr


def test_a_context_that_forks_does_so_before_a_socket_is_pickled():
    # Which starts a thread of multiprocessing's.
    finished = run_script(
        """
        import multiprocessing, socket, pyconc
        ours, theirs = socket.socketpair()
        with pyconc.ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
            pool.submit(socket.socket.sendall, theirs, b"text").result()
        assert ours.recv(9) == b"text"
        """,
        flags=("-W", "always"),
    )
    assert "DeprecationWarning" not in finished.stderr


def test_what_only_a_fork_can_hand_on_is_handed_on():
    # With threads, too, where that is what the standard library's executor does.
    finished = run_script(
        """
        import multiprocessing, threading, pyconc
        multiprocessing.set_start_method("fork")
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        def initialize(*given):
            global lock, event
            lock, event = given
        def work():
            with lock:
                return event.is_set()
        given = threading.Lock(), threading.Event()
        with pyconc.ProcessPoolExecutor(1, initializer=initialize, initargs=given) as pool:
            assert pool.submit(work).result() is False
        """,
        flags=("-W", "always"),
    )
    assert WARNING in finished.stderr


def test_what_cannot_be_handed_on_is_refused_where_nothing_forks():
    run_script(
        """
        import multiprocessing, threading, pyconc
        if __name__ == "__main__":
            multiprocessing.set_start_method("spawn")
            threading.Thread(target=threading.Event().wait, daemon=True).start()
            with pyconc.ProcessPoolExecutor(1, initializer=print, initargs=(threading.Lock(),)) as pool:
                for _ in range(2):
                    try:
                        pool.submit(int)
                    except TypeError as error:
                        assert "pickle" in str(error)
                    else:
                        raise AssertionError("it was accepted")
        """
    )


@pytest.mark.skipif(importlib.util.find_spec("numpy") is None, reason="numpy is not installed")
@fresh_template
def test_initializers_get_arrays(threads):
    run_script(
        THREADS
        + """
import numpy
def initialize(given):
    global array
    array = given
def total():
    array[0] += 1
    return array.sum()
with pyconc.ProcessPoolExecutor(1, initializer=initialize, initargs=(numpy.ones(100_000),)) as pool:
    assert [pool.submit(total).result() for _ in range(2)] == [100_001, 100_002]
""",
        threads,
    )


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("context", [None, "fork", "spawn"])
def test_workers_outlive_the_thread_that_had_them_started(context):
    context = context and multiprocessing.get_context(context)
    with pyconc.ProcessPoolExecutor(2, context) as pool, ProcessGate() as gate:
        thread = threading.Thread(target=block_workers, args=(pool, gate, 2))
        thread.start()
        thread.join()
        workers = set(pool._processes)
        gate.open()
        assert {pool.submit(os.getpid).result(HANG_LIMIT) for _ in range(100)} <= workers
        assert set(pool._processes) == workers
