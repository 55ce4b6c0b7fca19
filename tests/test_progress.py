"""Progress: what map() shows of its calls, and what a task tells of itself."""

import asyncio
import contextlib
import fcntl
import functools
import gc
import itertools
import os
import struct
import subprocess
import sys
import termios
import threading

import coroutines
import jobs
import pytest
from gates import AsyncGate, Gate, ProcessGate
from support import ELSEWHERE, run_script, start_script, wait_until

import pyconc
from pyconc._process import black_box

EXECUTORS = [pyconc.ThreadPoolExecutor, pyconc.ProcessPoolExecutor]
WITH_GATES = [(pyconc.ThreadPoolExecutor, Gate), (pyconc.ProcessPoolExecutor, ProcessGate)]


@pytest.fixture
def said():
    """What was told, as a list of (done, total)."""
    return []


def telling(said):
    return lambda done, total: said.append((done, total))


def no_thread_is_left():
    return not any(thread.name == "pyconc-progress" for thread in threading.enumerate())


async def collect(pool, *args, **options):
    return [result async for result in pool.map(*args, **options)]


# --- map() ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("Executor", EXECUTORS)
@pytest.mark.parametrize("options", [{}, {"buffersize": 3}, {"chunksize": 7}], ids=str)
def test_all_calls_are_counted_when_the_iterator_ends(Executor, options, said):
    with Executor(2) as pool:
        assert list(pool.map(abs, range(100), progress=telling(said), **options)) == list(range(100))
        assert said[0] == (0, 100)
        assert said[-1] == (100, 100)
        assert said == sorted(set(said))
        assert no_thread_is_left()


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("is_async", [True, False])
def test_coroutines_are_counted(ordered, is_async, said):
    async def source():
        for number in range(100):
            yield number

    async def main():
        async with pyconc.CoroutinePool(1) as pool:
            items = source() if is_async else range(100)
            results = await collect(pool, coroutines.double, items, ordered=ordered, progress=telling(said))
            assert sorted(results) == list(range(0, 200, 2))
            assert said[0] == (0, None if is_async else 100)
            assert said[-1] == (100, 100)

    asyncio.run(main())
    wait_until(no_thread_is_left)


@pytest.mark.parametrize(("Executor", "make_gate"), WITH_GATES)
def test_a_call_counts_when_it_ends_and_not_with_those_sent_or_waited_for_before_it(Executor, make_gate, said):
    with Executor(2) as pool, make_gate() as gate:
        hold = functools.partial(jobs.hold, gate) if make_gate is ProcessGate else gate
        results = pool.map(call_if, [hold, None, None, None], chunksize=4, progress=telling(said))
        gate.wait_started()
        wait_until(lambda: (3, 4) in said, "three calls to be counted while the first one runs")
        gate.open()
        assert len(list(results)) == 4
        assert said[-1] == (4, 4)


def call_if(function):
    return None if function is None else function()


@pytest.mark.parametrize(
    ("iterables", "totals"),
    [
        ([[1, 2, 3]], (3, 3)),
        ([range(5), range(3)], (3, 3)),
        ([[1, 2, 3], itertools.repeat(1)], (3, 3)),
        ([iter([1, 2, 3])], (None, 3)),
        ([range(5), iter([1, 2, 3])], (5, 3)),
        ([[]], None),
    ],
)
def test_the_total_is_the_shortest_length_and_in_the_end_what_there_was(iterables, totals, said):
    with pyconc.ThreadPoolExecutor(1) as pool:
        list(pool.map(jobs.identity, *iterables, buffersize=1, progress=telling(said)))
    assert ((said[0][1], said[-1][1]) if said else None) == totals


@pytest.mark.parametrize("Executor", [*EXECUTORS, pyconc.CoroutinePool])
@pytest.mark.parametrize("progress", [1, "yes", [], object()], ids=lambda value: type(value).__name__)
def test_what_is_no_function_is_refused(Executor, progress):
    with Executor(1) as pool, pytest.raises(TypeError, match="progress must be a bool, or a function"):
        pool.map(abs, [1], progress=progress)


@pytest.mark.parametrize("Executor", EXECUTORS)
def test_a_function_that_raises_is_logged_once_and_told_no_more(Executor, caplog):
    calls = []

    def refuse(done, total):
        calls.append(done)
        raise LookupError("no bar here")

    with Executor(1) as pool:
        assert list(pool.map(abs, range(10), progress=refuse)) == list(range(10))
    assert calls == [0]
    (record,) = caplog.records
    assert "no bar here" in record.exc_text


def test_a_function_that_waits_holds_up_no_result():
    may_go, told = threading.Event(), []

    def wait(done, total):
        told.append(done)
        assert may_go.wait(60)

    with pyconc.ProcessPoolExecutor(1) as pool:
        results = pool.map(abs, range(10), progress=wait)
        assert [next(results) for _ in range(10)] == list(range(10))
        may_go.set()
        assert list(results) == []
    assert told == [0, 10]


@pytest.mark.parametrize("Executor", EXECUTORS)
def test_a_function_may_use_the_pool(Executor):
    found = []
    with Executor(1) as pool:
        results = pool.map(abs, range(10), progress=lambda done, total: found.append(pool.submit(abs, -done).result()))
        assert list(results) == list(range(10))
    assert found[-1] == 10


@pytest.mark.parametrize("Executor", EXECUTORS)
def test_a_call_that_raises_ends_the_progress(Executor, said):
    with Executor(1) as pool:
        results = pool.map(jobs.fail, [LookupError()] + [ValueError()] * 3, progress=telling(said))
        with pytest.raises(LookupError):
            next(results)
        assert no_thread_is_left()
    assert 1 <= said[-1][0] <= 4


@pytest.mark.parametrize("buffersize", [None, 1])
def test_an_iterator_that_is_closed_or_dropped_leaves_no_thread(buffersize, said):
    with pyconc.ThreadPoolExecutor(1) as pool:
        results = pool.map(abs, range(100), buffersize=buffersize, progress=telling(said))
        next(results)
        results.close()
        wait_until(no_thread_is_left)
        pool.map(abs, range(5), buffersize=buffersize, progress=telling(said))
        gc.collect()
        wait_until(no_thread_is_left)
    if buffersize is None:
        assert said[-1] == (5, 5)  # who asks for no result wants all calls made


def test_cancelled_calls_do_not_count(said):
    with pyconc.ThreadPoolExecutor(1) as pool, Gate() as gate:
        results = pool.map(call_if, [gate, None, None], progress=telling(said))
        gate.wait_started()
        pool.shutdown(wait=False, cancel_futures=True)
        gate.open()
        with pytest.raises(pyconc.CancelledError):
            list(results)
    assert said[-1] == (1, 3)


def test_a_submit_of_the_programs_own_is_called(said):
    class Executor(pyconc.ThreadPoolExecutor):
        def submit(self, fn, /, *args):
            return super().submit(lambda: 1 + fn(*args))

    with Executor(1) as pool:
        assert list(pool.map(abs, [1, 2], progress=telling(said))) == [2, 3]
    assert said[-1] == (2, 2)


def test_options_hold_for_calls_that_are_counted(said):
    with pyconc.ProcessPoolExecutor(1) as pool:
        named = pool.options(name="nightly")
        assert list(named.map(name_of_task, range(3), progress=telling(said))) == ["nightly"] * 3
    assert said[-1] == (3, 3)


def name_of_task(_):
    return pyconc.current_task().name


def test_a_child_of_a_fork_leaves_the_progress_alone():
    program = """
    import os, threading, pyconc
    go = threading.Event()
    with pyconc.ThreadPoolExecutor(1) as pool:
        results = pool.map(lambda _: go.wait(), range(2), progress=lambda done, total: None)
        child = os.fork()
        if not child:
            try:
                list(results)
            except pyconc.BrokenExecutor:
                print("refused", flush=True)
            raise SystemExit
        assert os.waitpid(child, 0)[1] == 0
        go.set()
        print(list(results))
    """
    assert run_script(program, flags=("-W", "ignore")).stdout == "refused\n[True, True]\n"


def test_an_iterator_that_is_kept_to_the_end_does_not_keep_the_program():
    program = """
    import pyconc
    pool = pyconc.ThreadPoolExecutor(1)
    results = pool.map(abs, range(100), buffersize=1, progress=lambda done, total: print(done, total))
    next(results)
    """
    assert "0 100" in run_script(program).stdout


# --- Bars -------------------------------------------------------------------------------------------------------------

SHOW = """
import sys
for name in sys.argv[2:]:
    sys.modules[name] = None
import pyconc
if __name__ == "__main__":
    with getattr(pyconc, sys.argv[1])(2) as pool:
        print(len(list(pool.map(abs, range(250), progress=True))))
"""


def on_terminal(program, *args):
    """What a program writes to stderr when that is a terminal."""
    terminal, stderr = os.openpty()
    # So wide that no line is broken.
    fcntl.ioctl(stderr, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 200, 0, 0))
    try:
        child = subprocess.Popen([sys.executable, "-c", program, *args], stderr=stderr, cwd=ELSEWHERE)
    finally:
        os.close(stderr)
    data = b""
    with contextlib.suppress(OSError):  # EIO: nobody has it open any more
        while chunk := os.read(terminal, 4096):
            data += chunk
    os.close(terminal)
    assert child.wait() == 0, data
    return data.decode()


@pytest.mark.parametrize("kind", ["ThreadPoolExecutor", "ProcessPoolExecutor"])
def test_a_plain_line_is_rewritten_where_there_is_no_library(kind):
    text = on_terminal(SHOW, kind, "tqdm", "rich")
    assert text.startswith("\r0/250 (0 %), 0 s")
    assert "\r250/250 (100 %), " in text
    assert text.count("\n") == 1
    assert text.endswith("\n")


@pytest.mark.parametrize(("library", "without"), [("tqdm", []), ("rich", ["tqdm"])])
def test_a_librarys_bar_is_shown(library, without):
    pytest.importorskip(library, reason=f"{library} is not installed")
    text = on_terminal(SHOW, "ThreadPoolExecutor", *without)
    assert "100%" in text
    assert "Traceback" not in text


def test_nothing_is_shown_where_stderr_is_no_terminal():
    with start_script(SHOW, "ProcessPoolExecutor") as process:
        assert process.communicate() == ("250\n", "")


# --- Tasks ------------------------------------------------------------------------------------------------------------


def tell_and_hold(gate, *told):
    pyconc.current_task().progress(*told)
    return jobs.hold(gate)


@pytest.mark.parametrize(
    "told", [(3,), (3, 10), (0.5, 1.0, "half"), (2**80, None, "ü" * 60), (-1, None, ""), (True, 2, None)], ids=str
)
@pytest.mark.parametrize(("Executor", "make_gate"), WITH_GATES)
def test_workers_show_what_a_task_has_told(Executor, make_gate, told):
    with Executor(1) as pool, make_gate() as gate:
        future = pool.submit(tell_and_hold, gate, *told)
        gate.wait_started()
        (worker,) = pool.workers()
        assert worker.progress == pyconc.TaskProgress(*told)
        gate.open()
        future.result()
        assert pool.workers()[0].progress is None
        with make_gate() as other:
            held = pool.submit(jobs.hold, other)
            other.wait_started()
            assert pool.workers()[0].progress is None  # that was another task's
            other.open()
            held.result()


def test_of_coroutines_the_last_word_counts():
    async def main():
        async with AsyncGate() as gate, pyconc.CoroutinePool(1) as pool:
            future = pool.submit(coroutines.tell_and_wait, gate.address, 3, 10, "half")
            await gate.hear("told")
            assert pool.workers()[0].progress == (3, 10, "half")
            assert await pool.run(coroutines.tell, 4) is None
            assert pool.workers()[0].progress is None
            gate.open()
            await asyncio.wrap_future(future)

    asyncio.run(main())


@pytest.mark.parametrize("Executor", EXECUTORS)
@pytest.mark.parametrize(
    ("told", "error"),
    [
        (("3",), "done must be a number, not str"),
        ((3, [4]), "total must be a number, not list"),
        ((3, 4, b"note"), "note must be a str, not bytes"),
        ((10**400,), "done must be a number that a float can be"),
    ],
    ids=str,
)
def test_what_is_no_progress_is_refused(Executor, told, error):
    with Executor(1) as pool:
        future = pool.submit(tell, *told)
        with pytest.raises((TypeError, ValueError), match=error):
            future.result()
        assert pool.submit(tell, 1, note="x" * 1000).result() is None


def tell(*told, **more):
    pyconc.current_task().progress(*told, **more)


def keep_task():
    global kept
    kept = pyconc.current_task()
    kept.progress(1)


def tell_as_kept(gate):
    pyconc.current_task().progress(2)
    kept.progress(3)
    jobs.hold(gate)


@pytest.mark.parametrize(("Executor", "make_gate"), WITH_GATES)
def test_a_task_that_is_over_tells_nothing(Executor, make_gate):
    with Executor(1) as pool, make_gate() as gate:
        pool.submit(keep_task).result()
        future = pool.submit(tell_as_kept, gate)
        gate.wait_started()
        assert pool.workers()[0].progress == (2, None, None)
        gate.open()
        future.result()


def tell_and_tell_in_thread(gate):
    pyconc.current_task().progress(1, note="process")
    with pyconc.ThreadPoolExecutor(1) as threads:
        threads.submit(tell, 2, note="thread").result()
    jobs.hold(gate)


def test_a_task_in_a_thread_of_a_worker_is_another_task():
    with pyconc.ProcessPoolExecutor(1) as pool, ProcessGate() as gate:
        future = pool.submit(tell_and_tell_in_thread, gate)
        gate.wait_started()
        assert pool.workers()[0].progress == (1, None, "process")
        gate.open()
        future.result()


@pytest.mark.parametrize(
    "damage",
    [bytes(8), bytes(range(256)), b"\0\0\0\0\xff\xff\xff\xff", bytes.fromhex("8def02d2 01000000") + b"\0"],
    ids=["nothing", "rubbish", "long", "right checksum"],
)
def test_a_record_that_a_worker_has_damaged_is_none(damage):
    with pyconc.ProcessPoolExecutor(1) as pool, ProcessGate() as gate:
        future = pool.submit(tell_and_hold, gate, 3)
        gate.wait_started()
        assert pool.workers()[0].progress == (3, None, None)
        number = pool._opened.list_workers()[0].number
        os.pwrite(pool._opened._box.fileno(), damage, number * black_box._PART_BYTES + black_box._NOTE_START)
        assert pool.workers()[0].progress is None
        gate.open()
        future.result()


def tell_often(count):
    task = pyconc.current_task()
    for done in range(count):
        task.progress(done, count, "x" * (done % 60))


def test_what_is_read_while_the_worker_writes_is_whole():
    with pyconc.ProcessPoolExecutor(1) as pool:
        future = pool.submit(tell_often, 10_000)
        seen = []
        while not future.done():
            seen += [worker.progress for worker in pool.workers() if worker.progress is not None]
        assert all(progress.note == "x" * (progress.done % 60) for progress in seen)
        assert seen == sorted(seen, key=lambda progress: progress.done)
        future.result()
