"""One task's misfortune is one future's exception: what cannot travel, who dies, signals, shortage, and their mixtures.

Under the test runner an executor's zygote is a fresh interpreter, because the runner has a thread; programs run with
support.run_script get one that was forked.
"""

import gc
import os
import pickle
import re
import shlex
import signal
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import BrokenExecutor
from concurrent.futures.process import BrokenProcessPool

import jobs
import pytest
from gates import ProcessGate, block_workers
from loops import on_every_loop
from support import (
    HANG_LIMIT,
    PROC,
    SANITIZED,
    THOUSAND,
    another_thread,
    finish,
    more_rounds,
    run_script,
    shared_memory,
    start_script,
    wait_until,
    wait_until_asleep,
)

import pyconc
from pyconc import TaskUnpicklable, WorkerDied

# --- What cannot travel -----------------------------------------------------------------------------------------------

REFUSES = "refuses to be pickled"
REFUSED = LookupError("refuses to be rebuilt")

ARGUMENTS = {
    "cannot be pickled": (jobs.Unpicklable(), LookupError, REFUSES, None),
    "cannot be unpickled": (jobs.Rebuilt(jobs.fail, REFUSED), TaskUnpicklable, "refuses to be rebuilt", LookupError),
    "has an __init__ that refuses": (jobs.FussyError(1, 2), TaskUnpicklable, "'two'", TypeError),
    "calls sys.exit()": (jobs.Rebuilt(sys.exit, 7), TaskUnpicklable, "SystemExit: 7", SystemExit),
    "interrupts": (jobs.Rebuilt(jobs.raise_new, KeyboardInterrupt), TaskUnpicklable, "Interrupt", KeyboardInterrupt),
    "ends the worker": (jobs.Rebuilt(jobs.die, "exit"), WorkerDied, "exit code 7", None),
    "crashes the worker": (jobs.Rebuilt(jobs.die, signal.SIGSEGV), WorkerDied, "SIGSEGV", None),
}

RESULTS = {
    "cannot be pickled": ((jobs.Unpicklable,), LookupError, REFUSES, None),
    "cannot be unpickled": ((jobs.Rebuilt, jobs.fail, REFUSED), TaskUnpicklable, "refuses to be rebuilt", LookupError),
    "has an __init__ that refuses": ((jobs.FussyError, 1, 2), TaskUnpicklable, "'two'", TypeError),
    "calls sys.exit()": ((jobs.Rebuilt, sys.exit, 7), TaskUnpicklable, "SystemExit: 7", SystemExit),
    "ends the worker as it is pickled": ((jobs.DiesWhenPickled, "exit"), WorkerDied, "exit code 7", None),
    "crashes the worker as it is pickled": ((jobs.DiesWhenPickled, signal.SIGSEGV), WorkerDied, "SIGSEGV", None),
}

EXCEPTIONS = {
    "cannot be pickled": (
        (jobs.UnpicklableError,),
        TaskUnpicklable,
        rf"raised jobs.UnpicklableError.*which could not be pickled in the worker \(.*{REFUSES}",
    ),
    "cannot be unpickled": (
        (jobs.RebuiltError, jobs.fail, REFUSED),
        TaskUnpicklable,
        r"jobs.RebuiltError: calls fail\(\).*which could not be unpickled here \(.*refuses to be rebuilt",
    ),
    "has an __init__ that refuses": ((jobs.FussyError, 1, 2), TaskUnpicklable, "jobs.FussyError: 1 and 2.*'two'"),
    "calls sys.exit()": ((jobs.RebuiltError, sys.exit, 7), TaskUnpicklable, r"calls exit\(\).*SystemExit: 7"),
    "becomes something else": ((jobs.RebuiltError, int), TaskUnpicklable, r"calls int\(\).*gives a int"),
    "ends the worker as it is pickled": ((jobs.DyingError, "exit"), WorkerDied, "exit code 7"),
    "crashes the worker as it is pickled": ((jobs.DyingError, signal.SIGSEGV), WorkerDied, "SIGSEGV"),
}


def failure_beside_others(pool, fn, *args):
    """Submits a call among healthy ones, before and behind it; returns its exception when they have all succeeded."""
    before = [pool.submit(jobs.identity, number) for number in range(20)]
    future = pool.submit(fn, *args)
    behind = [pool.submit(jobs.identity, number) for number in range(20)]
    error = future.exception(HANG_LIMIT)
    assert [future.result(HANG_LIMIT) for future in before + behind] == list(range(20)) * 2
    assert pool.submit(jobs.identity, "alive").result(HANG_LIMIT) == "alive"
    return error


@pytest.mark.parametrize("what", ARGUMENTS)
def test_an_argument_harms_only_its_own_call(what):
    argument, kind, text, cause = ARGUMENTS[what]
    with pyconc.ProcessPoolExecutor(2) as pool:
        error = failure_beside_others(pool, jobs.identity, argument)
        again = failure_beside_others(pool, jobs.identity, [argument])
    for one in (error, again):
        assert type(one) is kind
        assert text in str(one)
        assert cause is None or type(one.__cause__) is cause
        if kind is TaskUnpicklable:
            assert str(one).startswith("the task's function or arguments could not be unpickled in the worker: ")


def test_a_function_that_the_worker_does_not_find_is_named():
    with pyconc.ProcessPoolExecutor(2) as pool:
        assert pool.submit(jobs.identity, 1).result(HANG_LIMIT) == 1
        exec("def defined_later(): pass", vars(jobs))
        try:
            error = failure_beside_others(pool, jobs.defined_later)
        finally:
            del jobs.defined_later
    assert type(error) is TaskUnpicklable
    assert re.search("function or arguments could not be unpickled in the worker: .*'defined_later'", str(error))


@pytest.mark.parametrize("what", RESULTS)
def test_a_result_harms_only_its_own_call(what):
    args, kind, text, cause = RESULTS[what]
    with pyconc.ProcessPoolExecutor(2) as pool:
        error = failure_beside_others(pool, jobs.make, *args)
    assert type(error) is kind
    assert text in str(error)
    assert cause is None or type(error.__cause__) is cause
    if kind is TaskUnpicklable:
        assert str(error).startswith("the task's result could not be unpickled here: ")


@pytest.mark.parametrize("what", EXCEPTIONS)
def test_an_exception_harms_only_its_own_call(what):
    args, kind, pattern = EXCEPTIONS[what]
    with pyconc.ProcessPoolExecutor(2) as pool:
        error = failure_beside_others(pool, jobs.raise_new, *args)
    with pytest.raises(kind, match=pattern):
        raise error
    if kind is TaskUnpicklable:
        # Where the worker raised it can still be read.
        assert "in raise_new" in str(error.__cause__)
        assert isinstance(error, BrokenProcessPool)


@pytest.mark.parametrize("call", [(jobs.raise_new, jobs.FrozenError), (jobs.identity, jobs.FrozenWhenPickled())])
def test_an_exception_whose_attributes_cannot_be_set_is_raised_as_it_is(call):
    with pyconc.ProcessPoolExecutor(1) as pool:
        error = failure_beside_others(pool, *call)
    assert type(error) is jobs.FrozenError
    assert "jobs.FrozenError" in str(error.__cause__)


def test_such_an_exception_comes_out_of_map():
    with pyconc.ProcessPoolExecutor(1) as pool:
        results = pool.map(jobs.raise_new, [jobs.FrozenError] * 2, chunksize=2)
        with pytest.raises(jobs.FrozenError):
            next(results)


def test_such_an_exception_while_a_result_is_unpickled_is_the_reason():
    with pyconc.ProcessPoolExecutor(1) as pool:
        error = failure_beside_others(pool, jobs.make, jobs.FrozenWhenUnpickled)
    assert type(error) is TaskUnpicklable
    assert type(error.__cause__) is jobs.FrozenError


def test_a_traceback_that_cannot_be_formatted_is_told_without_its_source_lines():
    with pyconc.ProcessPoolExecutor(2) as pool:
        error = failure_beside_others(pool, jobs.raise_where_source_cannot_be_read, ValueError("the error"))
        results = pool.map(jobs.raise_where_source_cannot_be_read, [ValueError("in map")], chunksize=1)
        with pytest.raises(ValueError, match="in map"):
            next(results)
    assert type(error) is ValueError
    assert error.args == ("the error",)
    assert 'File "nowhere.py", line 2, in far_away\nValueError: the error\n' in str(error.__cause__)


def test_what_cannot_be_pickled_never_leaves_the_caller():
    with pyconc.ProcessPoolExecutor(1) as pool:
        future = pool.submit(jobs.identity, jobs.Unpicklable())
        assert future.done()
        assert not pool._processes


@pytest.mark.parametrize("where", ["argument", "result"])
def test_map_gives_what_comes_before_a_call_that_fails(where):
    if where == "argument":
        fn, good, bad = jobs.identity, 3, jobs.Unpicklable()
    else:
        fn, good, bad = jobs.evaluate, "3", "__import__('jobs').Unpicklable()"
    results = []
    with pyconc.ProcessPoolExecutor(2) as pool:
        with pytest.raises(LookupError, match=REFUSES):
            for result in pool.map(fn, [good] * 300 + [bad] + [good] * 50):
                results.append(result)
        assert list(pool.map(fn, [good] * 50)) == [3] * 50
    assert results == [3] * 300


def test_exceptions_that_end_programs_end_no_worker():
    with pyconc.ProcessPoolExecutor(1) as pool:
        pid = pool.submit(os.getpid).result()
        for kind in (SystemExit, KeyboardInterrupt, GeneratorExit, BaseException):
            assert type(pool.submit(jobs.raise_new, kind, 3).exception()) is kind
        assert pool.submit(os.getpid).result() == pid


# --- Who dies ---------------------------------------------------------------------------------------------------------


def state_of(pid):
    """A process's state, as one letter of the kernel's."""
    with open(f"{PROC}/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0]


def test_one_of_four_busy_workers_is_killed():
    with pyconc.ProcessPoolExecutor(4) as pool, ProcessGate() as gate:
        futures = block_workers(pool, gate, 4)
        queued = [pool.submit(jobs.identity, number) for number in range(100)]
        victim = sorted(pool._processes)[1]
        os.kill(victim, signal.SIGKILL)
        (lost,) = pyconc.wait(futures, return_when="FIRST_COMPLETED").done
        with pytest.raises(WorkerDied, match=f"worker process {victim} was ended by SIGKILL"):
            lost.result()
        # The others still stand at the gate, and the new worker has what is queued to itself.
        assert [future.result(HANG_LIMIT) for future in queued] == list(range(100))
        assert [future.done() for future in futures].count(False) == 3
        gate.open()
        assert [future.exception(HANG_LIMIT) for future in futures if future is not lost] == [None] * 3


def test_a_callback_of_a_lost_task_may_submit_it_again():
    with pyconc.ProcessPoolExecutor(1) as pool, ProcessGate() as gate:
        again = []
        (future,) = block_workers(pool, gate)
        future.add_done_callback(lambda future: again.append(pool.submit(jobs.identity, "again")))
        os.kill(*pool._processes, signal.SIGKILL)
        assert isinstance(future.exception(HANG_LIMIT), WorkerDied)
        wait_until(lambda: again)
        assert again[0].result(HANG_LIMIT) == "again"


def test_a_worker_that_was_stopped_is_killed():
    with pyconc.ProcessPoolExecutor(2) as pool, ProcessGate() as gate:
        stopped, free = block_workers(pool, gate, 2)
        victim, _ = pool._processes
        os.kill(victim, signal.SIGSTOP)
        wait_until(lambda: state_of(victim) == "T", "it to stop")
        gate.open()
        (done,) = pyconc.wait([stopped, free], return_when="FIRST_COMPLETED").done
        assert [pool.submit(jobs.identity, number).result(HANG_LIMIT) for number in range(50)] == list(range(50))
        os.kill(victim, signal.SIGKILL)
        (lost,) = {stopped, free} - {done}
        assert lost.exception(HANG_LIMIT).pid == victim
        assert done.exception() is None


def test_a_worker_that_is_killed_while_idle_is_missed_by_nobody():
    with pyconc.ProcessPoolExecutor(1) as pool:
        for number in range(5):
            assert pool.submit(jobs.identity, number).result(HANG_LIMIT) == number
            (victim,) = pool._processes
            wait_until(lambda victim=victim: state_of(victim) == "S", "the worker to sleep")  # or it may take one more
            os.kill(victim, signal.SIGKILL)
            # The task is submitted before, while or after the death is noticed.
            assert pool.submit(jobs.identity, number).result(HANG_LIMIT) == number
            wait_until(lambda victim=victim: victim not in pool._processes, "the dead worker to be buried")


def test_the_death_of_the_template_costs_only_what_was_running():
    with pyconc.ProcessPoolExecutor(2) as pool, ProcessGate() as gate:
        running = block_workers(pool, gate, 2)
        queued = [pool.submit(jobs.identity, number) for number in range(20)]
        zygote = pool._supervisor.launcher.zygote
        clones = {pid for pid, worker in pool._processes.items() if worker.is_cloned_from(zygote)}
        assert clones  # the program itself may have forked the first worker
        os.kill(zygote.pid, signal.SIGKILL)
        deaths = pyconc.as_completed(running, HANG_LIMIT)
        for _ in clones:
            error = next(deaths).exception()
            assert isinstance(error, WorkerDied)
            assert (error.signal, error.pid in clones) == ("SIGKILL", True)
        gate.open()
        assert [future.result(HANG_LIMIT) for future in queued] == list(range(20))
        assert pool.submit(jobs.identity, 1).result(HANG_LIMIT) == 1


def test_a_template_that_dies_while_nothing_runs_is_started_anew():
    with pyconc.ProcessPoolExecutor(2) as pool:
        for number in range(3):
            with ProcessGate() as gate:
                block_workers(pool, gate, 2)  # a zygote started at least one of them
            zygote = pool._supervisor.launcher.zygote
            clones = {pid for pid, worker in pool._processes.items() if worker.is_cloned_from(zygote)}
            os.kill(zygote.pid, signal.SIGKILL)
            wait_until(lambda zygote=zygote: pool._supervisor.launcher.zygote is not zygote)
            wait_until(lambda clones=clones: not clones & set(pool._processes))  # the kernel ends them a moment later
            assert pool.submit(jobs.identity, number).result(HANG_LIMIT) == number


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "forkserver", pytest.param("spawn", marks=pytest.mark.slow)])
def test_a_context_of_multiprocessing_survives_deaths_too(method):
    script = """
    import multiprocessing, os, signal, sys, pyconc
    if __name__ == "__main__":
        with pyconc.ProcessPoolExecutor(2, multiprocessing.get_context(sys.argv[1])) as pool:
            for _ in range(2):
                kill = pool.submit(os.kill, pool.submit(os.getpid).result(), signal.SIGKILL)
                futures = [pool.submit(abs, -number) for number in range(20)]
                # One worker may kill the other, which may be idle or run one of these.
                died = [future for future in [kill, *futures] if future.exception() is not None]
                assert len(died) <= 1
                for future in died:
                    assert future.exception().signal == "SIGKILL", future.exception()
                assert all(future.result() == n for n, future in enumerate(futures) if future not in died)
        print("went on")
    """
    assert run_script(script, method).stdout == "went on\n"


def test_an_initializer_that_raises_breaks_the_executor():
    with ProcessGate() as gate:
        at_gate = pickle.loads(pickle.dumps(gate))  # workers that are forked get it as it is
        pool = pyconc.ProcessPoolExecutor(2, initializer=jobs.fail_at, initargs=(at_gate, LookupError("no")))
        with pool:
            futures = [pool.submit(jobs.identity, number) for number in range(3)]
            gate.wait_started(2)
            gate.open()
            for future in futures:
                assert isinstance(future.exception(HANG_LIMIT), BrokenProcessPool)
            with pytest.raises(BrokenExecutor, match="initializer failed"):
                pool.submit(int)


def test_an_initializer_that_dies_again_and_again_breaks_the_executor():
    with pyconc.ProcessPoolExecutor(2, initializer=jobs.die, initargs=("exit",)) as pool:
        error = pool.submit(int).exception(HANG_LIMIT)
        assert isinstance(error, BrokenProcessPool)
        assert "exit code 7" in str(error.__cause__)
        with pytest.raises(BrokenProcessPool):
            wait_until(lambda: pool.submit(int).exception(HANG_LIMIT) is None)


def test_an_initializer_that_cannot_be_unpickled_breaks_the_executor():
    argument = jobs.Rebuilt(jobs.fail, LookupError("in the initializer's argument"))
    with another_thread(), pyconc.ProcessPoolExecutor(1, initializer=jobs.identity, initargs=(argument,)) as pool:
        assert isinstance(pool.submit(int).exception(HANG_LIMIT), BrokenProcessPool)


def test_an_initializer_that_dies_once_costs_nothing(tmp_path):
    with pyconc.ProcessPoolExecutor(1, initializer=jobs.die_once, initargs=(str(tmp_path / "died"),)) as pool:
        assert pool.submit(jobs.identity, 1).result(HANG_LIMIT) == 1


# --- Who is killed with everything ------------------------------------------------------------------------------------

BUSY = """
import asyncio, multiprocessing, os, sys, threading
import pyconc

def spin():
    os.write(1, b"started\\n")
    while True:
        pass

def start(method="default"):
    context = None if method == "default" else multiprocessing.get_context(method)
    pool = pyconc.ProcessPoolExecutor(2, context)
    return pool, [pool.submit(spin) for _ in range(3)]

async def spin_in_executor(pool):
    loop = asyncio.get_running_loop()
    futures = [loop.run_in_executor(pool, spin) for _ in range(3)]
    loop.call_soon(os.write, 1, b"waiting\\n")
    await asyncio.gather(*futures)
"""


def wait_busy(process):
    """Returns when both workers of a program spin."""
    assert [process.stdout.readline() for _ in range(2)] == ["started\n"] * 2


def session_of(process):
    """The processes that a program has started and that still run, itself among them."""
    found = []
    for name in filter(str.isdecimal, os.listdir(PROC)):
        try:
            with open(f"{PROC}/{name}/stat") as stat:
                state, _, _, session = stat.read().rpartition(")")[2].split()[:4]
        except OSError:
            continue  # it has ended meanwhile
        if int(session) == process.pid and state != "Z":
            found.append(int(name))
    return found


@pytest.mark.parametrize(
    "method", ["default", "threaded", "fork", pytest.param("forkserver", marks=pytest.mark.slow), "spawn"]
)
def test_workers_end_with_a_program_that_is_killed(method):
    before = shared_memory().keys()
    script = """
    if __name__ == "__main__":
        if sys.argv[1] == "threaded":
            threading.Thread(target=threading.Event().wait, daemon=True).start()
        pool, futures = start("default" if sys.argv[1] == "threaded" else sys.argv[1])
        futures[0].result()
    """
    with start_script(BUSY + textwrap.dedent(script), method) as process:
        wait_busy(process)
        assert len(session_of(process)) >= 3
        process.kill()
        wait_until(lambda: not session_of(process), "the workers to end with their parent")
        if method not in ("forkserver", "spawn"):
            # The resource tracker of multiprocessing looks after its own names, and needs a moment more.
            wait_until(lambda: shared_memory().keys() <= before, "all names to be gone")


INTERRUPTED = {
    "result": """
        pool, futures = start()
        futures[0].result()
    """,
    "wait": """
        pool, futures = start()
        pyconc.wait(futures)
    """,
    "map": """
        pool = pyconc.ProcessPoolExecutor(2)
        list(pool.map(lambda _: spin(), range(100)))
    """,
    "with": """
        pool, futures = start()
        with pool:
            futures[0].result()
    """,
    "leaving with": """
        with start()[0]:
            pass
    """,
    "shutdown": """
        pool, futures = start()
        pool.shutdown()
    """,
    "threads": """
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        pool, futures = start()
        futures[0].result()
    """,
    "asyncio": """
        asyncio.run(spin_in_executor(pyconc.ProcessPoolExecutor(2)))
    """,
    "with in asyncio": """
        async def main():
            with pyconc.ProcessPoolExecutor(2) as pool:
                await spin_in_executor(pool)
        asyncio.run(main())
    """,
    "async with": """
        async def main():
            async with pyconc.ProcessPoolExecutor(2) as pool:
                await spin_in_executor(pool)
        asyncio.run(main())
    """,
    "with in a task of asyncio": """
        async def other():
            with pyconc.ProcessPoolExecutor(2) as pool:
                await spin_in_executor(pool)
        async def main():
            task = asyncio.create_task(other())
            await asyncio.Event().wait()
        asyncio.run(main())
    """,
    "exit": """
        class LastBell:
            def wakeup(self):
                os.write(1, b"exit\\n")
            def join(self):
                pass
        from concurrent.futures import process
        pool, futures = start()
        bell = LastBell()
        process._threads_wakeups[bell] = bell  # behind the pool's: next the exit handler waits for the pool
    """,
    "exit handlers": """
        def wait_for_ever():
            os.write(1, b"exit\\n")
            threading.Event().wait()
        pool, futures = start()
        threading._register_atexit(wait_for_ever)  # first of all: the pool's has no chance
    """,
}


@pytest.mark.parametrize("where", INTERRUPTED)
def test_one_ctrl_c_ends_a_busy_program(where):
    with start_script(BUSY + textwrap.dedent(INTERRUPTED[where])) as process:
        expected = {"started\n"}
        if where.startswith("exit"):
            expected.add("exit\n")  # before that the program may end, and then wait for ever
        elif "spin_in_executor" in INTERRUPTED[where]:
            expected.add("waiting\n")  # before that the program would leave futures behind that nobody awaits
        assert {process.stdout.readline() for _ in range(len(expected) + 1)} == expected
        wait_until_asleep(process)
        os.killpg(process.pid, signal.SIGINT)
        finished = finish(process)
        wait_until(lambda: not session_of(process), "the workers to end")
    # One traceback: of the exception, or of what it came from and then of the exception.
    assert finished.stderr.count("Traceback") == (2 if "CancelledError" in finished.stderr else 1), finished
    assert len(re.findall("^KeyboardInterrupt", finished.stderr, re.MULTILINE)) == 1, finished
    assert finished.stdout == ""


INTERRUPTS_ITS_SHUTDOWN = """
import itertools, signal, sys, threading, pyconc
enough = int(sys.argv[1])
signal.signal(signal.SIGALRM, signal.default_int_handler)
pool = pyconc.ProcessPoolExecutor(1)
assert pool.submit(abs, -1).result() == 1
last = None  # a traceback keeps what it went through from being closed
interrupted = 0
for tries, microseconds in enumerate(itertools.cycle(range(1, 80))):
    try:
        signal.setitimer(signal.ITIMER_REAL, microseconds / 1e6)
        pool.shutdown(wait=False)
        while True:
            pass
    except KeyboardInterrupt as error:
        last = error
        interrupted += error.__traceback__.tb_next is not None
    other = threading.Thread(target=pool.shutdown)
    other.start()
    other.join()
    if interrupted == enough or (interrupted and tries > 10 * enough):  # it takes microseconds: most come late
        break
"""


@pytest.mark.parametrize("enough", [THOUSAND // 10, pytest.param(THOUSAND, marks=more_rounds)])
def test_ctrl_c_in_shutdown_leaves_no_lock_taken(enough):
    finished = run_script(INTERRUPTS_ITS_SHUTDOWN, enough)
    assert finished.returncode == 0, finished
    assert finished.stderr == "", finished


INTERRUPTS_ITS_UNPICKLING = """
import asyncio, os, signal, sys, threading, pyconc
signal.signal(signal.SIGINT, signal.default_int_handler)
parent = os.getpid()
interrupted = []
def rebuild(data):
    if os.getpid() == parent and threading.current_thread() is threading.main_thread() and not interrupted:
        interrupted.append(data)
        signal.raise_signal(signal.SIGINT)
    return len(data)
class Result:
    def __init__(self, size):
        self.size = size
    def __reduce__(self):
        return rebuild, (bytes(self.size),)
class Argument:
    def __init__(self, value):
        self.value = value
    def __reduce__(self):
        rebuild(b"")
        return int, (self.value,)
def until_interrupted(call):
    # The thread that waits mostly does what is to be interrupted itself, unless it has found that not to pay.
    interrupted.clear()
    while not interrupted:
        with pyconc.ProcessPoolExecutor(1) as pool:
            for _ in range(20):
                call(pool)
                if interrupted:
                    break
            assert pool.submit(abs, -1).result() == 1
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) == 1, reason="on one CPU the result handler is quicker than who waits")
@pytest.mark.parametrize("size", [10, 100_000 if SANITIZED else 1_000_000])
def test_ctrl_c_while_a_result_is_unpickled_loses_neither(size):
    finished = run_script(
        INTERRUPTS_ITS_UNPICKLING
        + """
size = int(sys.argv[1])
def wait(pool):
    future = pool.submit(Result, size)
    try:
        assert future.result() == size
    except KeyboardInterrupt:
        assert interrupted and future.result() == size
    else:
        assert not interrupted
async def wait_in_loop(pool):
    try:
        assert await asyncio.get_running_loop().run_in_executor(pool, Result, size) == size
    except KeyboardInterrupt:
        assert interrupted
    else:
        assert not interrupted
def wait_for_last(pool):
    with pyconc.ProcessPoolExecutor(1) as closed:
        assert closed.submit(abs, -1).result() == 1
        future = closed.submit(Result, size)
        closed.shutdown(wait=False)
        try:
            assert future.result() == size
        except KeyboardInterrupt:
            assert interrupted and future.result() == size
until_interrupted(wait)
until_interrupted(wait_for_last)
loop = asyncio.new_event_loop()
until_interrupted(lambda pool: loop.run_until_complete(wait_in_loop(pool)))
loop.close()
""",
        size,
    )
    assert finished.stderr == ""


def test_ctrl_c_while_map_sends_more_is_not_lost():
    finished = run_script(
        INTERRUPTS_ITS_UNPICKLING
        + """
def take(pool):
    interrupted.append("not yet")
    results = pool.map(abs, [Argument(value) for value in range(2_000)])
    interrupted.clear()
    try:
        assert list(results) == list(range(2_000))
    except KeyboardInterrupt:
        assert interrupted
    else:
        assert not interrupted
until_interrupted(take)
"""
    )
    assert finished.stderr == ""


@pytest.mark.parametrize("step", [12, pytest.param(1, marks=more_rounds)])
@pytest.mark.parametrize("threads", ["threads", "no threads"])
def test_a_start_of_workers_that_is_interrupted_leaves_no_half_of_one(threads, step):
    finished = run_script(
        """
        import os, signal, sys, threading, pyconc
        from pyconc._process.nursery import the_nursery

        class Interrupted(Exception):
            pass

        def interrupt(*_):
            if interrupts:  # another thread may have received the signal, and Python hears of it later
                raise Interrupted

        signal.signal(signal.SIGALRM, interrupt)
        if sys.argv[1] == "threads":
            threading.Thread(target=threading.Event().wait, daemon=True).start()
        interrupted = 0
        rounds = range(0, 100, int(sys.argv[2]))
        for number in rounds:
            pool = pyconc.ProcessPoolExecutor(3)
            try:
                interrupts = True
                signal.setitimer(signal.ITIMER_REAL, 50e-6 * (number + 1))
                try:
                    for _ in range(3):
                        pool.submit(abs, -1)
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
                    interrupts = False
            except Interrupted:
                interrupted += 1
            assert list(pool.map(abs, range(100))) == list(range(100))
            assert pool.submit(abs, -1).result() == 1
            pool.shutdown()
            if number % 16 == 0:
                the_nursery.stop()  # its start is interrupted too
            with open("/proc/thread-self/children") as children:
                for pid in {*children.read().split()} - {str(the_nursery.pid)}:
                    with open(f"/proc/{pid}/cmdline") as command, open(f"/proc/{pid}/status") as status:
                        raise AssertionError(("a process is left", number, command.read(), status.read()))
        print(interrupted > len(rounds) / 10)
        """,
        threads,
        step,
    )
    assert finished.stdout == "True\n"


def test_what_a_send_to_the_dead_has_raised_can_be_collected():
    """A buffer that the frames of an error kept open was an "Exception ignored" on stderr later."""
    finished = run_script(
        """
        import gc
        from multiprocessing import connection
        from pyconc._process import nursery, zygote

        def send(end):
            try:
                end._send(("signal", 1, 9))
            except (EOFError, zygote.ZygoteDied) as error:
                return type(error).__name__, [error, locals()]

        ours, theirs = connection.Pipe()
        theirs.close()
        end = nursery.Nursery()
        end._connection = ours
        for each in (end, zygote.Zygote(None, ours, None, None)):
            print(send(each)[0])
            gc.collect()
        ours.close()
        """,
        flags=("-X", "dev"),  # or only Python 3.13 and newer say so
    )
    assert finished.stdout == "EOFError\nZygoteDied\n"
    assert finished.stderr == ""


def test_a_pool_whose_creation_is_interrupted_leaves_nothing():
    finished = run_script(
        """
        import gc, os, signal, pyconc
        from pyconc import _core

        def interrupted_fork(*args, fork=_core.fork):
            pid = fork(*args)
            if pid:
                signal.raise_signal(signal.SIGINT)
            return pid

        signal.signal(signal.SIGINT, signal.default_int_handler)
        fds = os.listdir("/proc/self/fd")
        _core.fork = interrupted_fork
        try:
            pyconc.ProcessPoolExecutor(2)
        except KeyboardInterrupt:
            print("interrupted")
        gc.collect()
        assert os.listdir("/proc/self/fd") == fds
        with open("/proc/thread-self/children") as children:
            print("children:", children.read())
        """
    )
    assert finished.stdout == "interrupted\nchildren: \n"
    assert finished.stderr == ""


def test_a_program_that_handles_ctrl_c_goes_on_with_its_workers():
    script = """
    def add(one, other):
        return one + other
    pool = pyconc.ProcessPoolExecutor(2)
    assert pool.submit(add, 1, 2).result() == 3
    try:
        print("started\\nstarted", flush=True)
        threading.Event().wait()
    except KeyboardInterrupt:
        print(pool.submit(add, 3, 4).result(), flush=True)
    """
    with start_script(BUSY + textwrap.dedent(script)) as process:
        wait_busy(process)
        wait_until_asleep(process)
        os.killpg(process.pid, signal.SIGINT)
        assert finish(process).stdout == "7\n"


# --- Ends that are not faults -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "threads"),
    [
        *[(way, False) for way in ("end", "exit", "exception")],
        ("shutdown", True),
        *[
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("dropped", False), ("shutdown", False), ("end", True))
        ],
    ],
)
def test_queued_work_is_finished_at_exit(way, threads):
    script = """
    import os, sys, threading, pyconc
    way, threads = sys.argv[1], sys.argv[2] == "True"
    if threads:
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    pool = pyconc.ProcessPoolExecutor(2)
    for number in range(200):
        pool.submit(os.write, 1, b"done\\n")
    if way == "dropped":
        del pool
    elif way == "shutdown":
        pool.shutdown(wait=False)
    elif way == "exit":
        sys.exit(3)
    elif way == "exception":
        raise LookupError("at the end")
    """
    finished = run_script(script, way, threads, check=False)
    assert finished.returncode == {"exit": 3, "exception": 1}.get(way, 0)
    assert finished.stdout == "done\n" * 200
    assert finished.stderr.count("\n") == (4 if way == "exception" else 0), finished


def test_an_executor_that_is_dropped_finishes_what_is_queued():
    pool = pyconc.ProcessPoolExecutor(2)
    with ProcessGate() as gate:
        futures = block_workers(pool, gate, 2) + [pool.submit(jobs.identity, number) for number in range(2000)]
        thread = pool._supervisor.thread
        del pool
        gc.collect()
        assert not futures[-1].done()
    assert [future.result(HANG_LIMIT) for future in futures[2:]] == list(range(2000))
    thread.join()


def test_workers_leave_when_their_executor_is_dropped():
    pool = pyconc.ProcessPoolExecutor(2)
    assert pool.submit(jobs.identity, 1).result() == 1
    thread = pool._supervisor.thread
    del pool
    gc.collect()
    thread.join(HANG_LIMIT)
    assert not thread.is_alive()


# --- Shortage ---------------------------------------------------------------------------------------------------------


def test_a_call_that_does_not_fit_into_memory_fails_alone():
    # A memory file obeys the limit of a file's size; without the signal, growth beyond it is an error.
    run_script(
        """
        import resource, signal, pyconc
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8 << 20, 8 << 20))
        with pyconc.ProcessPoolExecutor(2) as pool:
            for _ in range(3):
                others = [pool.submit(abs, -number) for number in range(20)]
                too_large = pool.submit(len, bytes(64 << 20))
                result = pool.submit(bytes, 64 << 20)
                assert isinstance(too_large.exception(), MemoryError), too_large.exception()
                assert isinstance(result.exception(), MemoryError), result.exception()
                assert pool.submit(len, bytes(1 << 20)).result() == 1 << 20
                assert len(pool.submit(bytes, 1 << 20).result()) == 1 << 20
                assert [future.result() for future in others] == list(range(20))
            for kind in (bytes, bytearray):
                try:
                    list(pool.map(kind, [10, 64 << 20, 10]))
                except MemoryError:
                    pass
                else:
                    raise AssertionError("it cannot fit")
            assert pool.submit(int).result() == 0
        """
    )


def test_a_program_that_may_write_no_files_of_a_useful_size_is_told_why_it_gets_no_workers():
    finished = run_script(
        """
        import resource, pyconc
        pool, later = pyconc.ProcessPoolExecutor(2), pyconc.ProcessPoolExecutor(1)
        later.submit(int).result()
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        try:
            pool.submit(int)
        except MemoryError as error:
            print(error)
        print(len(later.submit(bytes, 8 << 20).result()) >> 20)
        pool.shutdown()
        later.shutdown()
        """
    )
    said, larger = finished.stdout.splitlines()
    assert "RLIMIT_FSIZE" in said
    assert larger == "8"


DEV_SHM = {
    "tiny": "mount -t tmpfs -o size=1m tmpfs /dev/shm",
    "forbidden": "mount -t tmpfs -o size=4k,mode=000 tmpfs /dev/shm",
    "missing": """
        mkdir old && mount --rbind /dev old && mount -t tmpfs tmpfs /dev
        for name in null zero random urandom; do touch /dev/$name; mount --bind old/$name /dev/$name; done
        test ! -e /dev/shm""",
}


@pytest.mark.parametrize("mount", DEV_SHM.values(), ids=DEV_SHM)
def test_dev_shm_is_not_needed(mount, tmp_path):
    unshare = ["unshare", "--mount", "--map-root-user", "--propagation", "private"]
    tried = tmp_path / "tried"
    tried.mkdir()
    check = subprocess.run([*unshare, "sh", "-ec", mount], cwd=tried, capture_output=True)
    if check.returncode != 0:
        pytest.skip(f"no mount namespaces here: {check.stderr.decode().strip()}")
    script = """
    import pyconc
    from pyconc import multiprocessing, shared
    with pyconc.ProcessPoolExecutor(2) as pool:
        assert len(pool.submit(bytes, 8 << 20).result()) == 8 << 20
        assert pool.submit(len, bytearray(8 << 20)).result() == 8 << 20
        assert list(pool.map(abs, range(-3, 0))) == [3, 2, 1]
        items, numbers, ref = shared.List([bytes(8 << 20)]), shared.Array("d", 1 << 20), shared.share(bytes(8 << 20))
        pool.submit(items.append, ref).result()
        pool.submit(numbers.__setitem__, -1, 5).result()
        assert (len(items[0]), len(items[1].get()), numbers[-1]) == (8 << 20, 8 << 20, 5)
    with pyconc.Manager() as manager, multiprocessing.Pool(2) as pool:
        table = manager.dict()
        with manager.Lock():
            pool.starmap(table.__setitem__, [(n, n * n) for n in range(3)])
        assert table.copy() == {0: 0, 1: 1, 2: 4}
    print("works")
    """
    command = f'{mount}\nexec {shlex.quote(sys.executable)} -c "$0"'
    finished = subprocess.run(
        [*unshare, "sh", "-ec", command, textwrap.dedent(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=HANG_LIMIT,
    )
    assert (finished.stdout, finished.stderr) == ("works\n", "")


def test_more_tasks_than_the_board_has_records():
    with pyconc.ProcessPoolExecutor(2) as pool, ProcessGate() as gate:
        block_workers(pool, gate, 2)
        futures = [pool.submit(jobs.identity, number) for number in range(5000)]
        for future in futures[::3]:
            assert future.cancel()
        gate.open()
        kept = [(number, future) for number, future in enumerate(futures) if number % 3]
        assert all(future.result(HANG_LIMIT) == number for number, future in kept)
        assert all(future.cancelled() for future in futures[::3])


# --- Loops, callbacks, handlers, destructors --------------------------------------------------------------------------


@on_every_loop
def test_a_loop_is_closed_a_hundred_times_with_tasks_under_way(new_loop):
    with pyconc.ProcessPoolExecutor(2) as pool:
        for number in range(THOUSAND // 10):
            loop = new_loop()
            calls = [loop.run_in_executor(pool, jobs.identity, number) for number in range(20)]
            if number % 2:
                loop.run_until_complete(calls[3])
            loop.close()
            del calls
        assert pool.submit(jobs.identity, 1).result(HANG_LIMIT) == 1


def test_a_callback_that_raises_harms_nobody_else(caplog):
    with pyconc.ProcessPoolExecutor(1) as pool, ProcessGate() as gate:
        block_workers(pool, gate)
        futures = [pool.submit(jobs.identity, number) for number in range(5)]
        futures[1].add_done_callback(lambda future: 1 / 0)
        futures[2].add_done_callback(lambda future: sys.exit("in a callback"))
        gate.open()
        assert [future.result(HANG_LIMIT) for future in futures] == list(range(5))
        assert pool.submit(jobs.identity, 1).result(HANG_LIMIT) == 1
    assert len(caplog.records) == 2
    caplog.clear()  # the tracebacks hold the executor


def test_shutdown_in_a_callback():
    pool = pyconc.ProcessPoolExecutor(1)
    with ProcessGate() as gate:
        (future,) = block_workers(pool, gate)
        queued = [pool.submit(jobs.identity, number) for number in range(5)]
        called = threading.Event()
        future.add_done_callback(lambda future: (pool.shutdown(wait=False), called.set()))
        gate.open()
        assert called.wait(HANG_LIMIT)
        assert [future.result(HANG_LIMIT) for future in queued] == list(range(5))
        with pytest.raises(RuntimeError, match="after shutdown"):
            pool.submit(int)
    pool.shutdown()


def test_shutdown_in_a_callback_of_a_task_whose_worker_died():
    pool = pyconc.ProcessPoolExecutor(1)
    with ProcessGate() as gate, ProcessGate() as other:
        (future,) = block_workers(pool, gate)
        pool.submit(other)  # the next worker, which may be quicker than the callback, gets no further
        queued = pool.submit(jobs.identity, 1)
        future.add_done_callback(lambda future: pool.shutdown(wait=False, cancel_futures=True))
        os.kill(*pool._processes, signal.SIGKILL)
        assert isinstance(future.exception(HANG_LIMIT), WorkerDied)
        wait_until(queued.done)
        assert queued.cancelled()
    pool.shutdown()


@pytest.mark.parametrize("threads", [False, True])
def test_a_signal_handler_submits_while_the_program_does(threads):
    # The executors are new, so that signals also strike while workers are being started.
    finished = run_script(
        """
        import signal, sys, threading, pyconc
        if sys.argv[1] == "True":
            threading.Thread(target=threading.Event().wait, daemon=True).start()
        inside = []
        def handle(*_):
            if submits:
                inside.append(pool.submit(abs, -1))
                # Not before: where this takes longer than the interval, handlers would interrupt one another for ever.
                signal.setitimer(signal.ITIMER_REAL, 0.0003)
        signal.signal(signal.SIGALRM, handle)
        for number in range(int(sys.argv[2])):
            with pyconc.ProcessPoolExecutor(4) as pool:
                submits = True
                signal.setitimer(signal.ITIMER_REAL, 0.0001 + number % 7 / 1000)
                try:
                    futures = [pool.submit(abs, -number) for number in range(50)]
                    assert [future.result() for future in futures] == list(range(50))
                finally:
                    submits = False
                assert {future.result() for future in inside} <= {1}
        assert inside
        print("went on")
        """,
        threads,
        5 if threads else 12,
        limit=60,
    )
    assert finished.stdout == "went on\n"


def test_destructors_submit():
    seen = []

    class Dies:
        def __del__(self):
            seen.append(pool.submit(jobs.identity, "from a destructor"))

    with pyconc.ProcessPoolExecutor(2) as pool:
        for _ in range(200):
            cycle = [Dies()]
            cycle.append(cycle)
            del cycle
            pool.submit(jobs.identity, [[]]).add_done_callback(lambda future: gc.collect(0))
        gc.collect()
        wait_until(lambda: len(seen) == 200)
        assert {future.result(HANG_LIMIT) for future in seen} == {"from a destructor"}


def test_a_worker_whose_parent_was_quicker_to_end_ends_too():
    """The parent may be killed before its child has asked to be told of that."""
    run_script(
        """
import os
from pyconc import _core
read, write = os.pipe()
if os.fork() == 0:
    parent = os.getpid()
    if os.fork() == 0:
        while os.getppid() == parent:
            os.sched_yield()
        _core.die_with_parent(parent)
        os.write(write, b"alive")
    os._exit(0)
os.close(write)
assert os.read(read, 5) == b""
"""
    )
