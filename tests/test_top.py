"""python -m pyconc top, driven in a terminal."""

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time

import pytest
import timelines
from gates import ProcessGate
from jobs import hold, identity
from support import ELSEWHERE, HANG_LIMIT, await_line, start_script, wait_until
from test_dump import IDLE, count_wakeups, wait_until_at_rest

import pyconc
from pyconc import _dump, _thread_stacks, _top, _top_trace

curses = pytest.importorskip("curses")


def terminal_is_known():
    try:
        curses.setupterm("xterm", 1)
    except curses.error:
        return False
    return True


pytestmark = [
    pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="programs are seen in /proc"),
    pytest.mark.skipif(not terminal_is_known(), reason="there is no description of terminals"),
]

QUICKLY = "import sys; from pyconc import _top; sys.exit(_top.main(int(sys.argv[1]), 0.01))"


class Terminal:
    """A program in a terminal: what it has written since the last key, and keys for it."""

    def __init__(self, *command, rows=40, columns=120, folder=ELSEWHERE):
        self.outside, self.inside = pty.openpty()
        fcntl.ioctl(self.inside, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))
        self.before = termios.tcgetattr(self.inside)
        self.seen = b""
        self.process = subprocess.Popen(
            [sys.executable, *map(str, command)],
            cwd=folder,
            env={**os.environ, "TERM": "xterm"},
            stdin=self.inside,
            stdout=self.inside,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stderr.close()
        os.close(self.outside)
        os.close(self.inside)

    def read(self):
        while select.select([self.outside], [], [], 0)[0]:
            self.seen += os.read(self.outside, 65536)
        return self.seen

    def wait_for(self, *words):
        """A terminal skips blanks, so a word at a time."""
        wait_until(lambda: all(word.encode() in self.read() for word in words), f"{words} in {self.seen}")

    def press(self, keys):
        self.read()
        self.seen = b""
        os.write(self.outside, keys)

    def wait(self):
        """Return the exit status, when the terminal is as it was."""

        def has_ended():
            self.read()
            return self.process.poll() is not None

        wait_until(has_ended)
        self.read()  # what it wrote between the last look and its end
        assert termios.tcgetattr(self.inside) == self.before
        return self.process.returncode


def top(*arguments, **options):
    return Terminal("-m", "pyconc", "top", *arguments, **options)


@contextlib.contextmanager
def busy(workers=2):
    with ProcessGate() as gate, pyconc.ProcessPoolExecutor(workers, name="watched") as pool:
        futures = [pool.submit(hold, gate) for _ in range(workers)]
        gate.wait_started(workers)
        yield pool
        gate.open()
        pyconc.wait(futures)


THREADS = """
    import sys
    import pyconc

    with pyconc.ThreadPoolExecutor(1, name="loader") as pool:
        future = pool.submit(sys.stdin.read)
        pool.submit(abs, 1)
        print("ready", flush=True)
        future.result()
"""


PY_SPY = f"""#!{sys.executable}
import json, os, sys
assert sys.argv[1:-1] == ["dump", "--nonblocking", "--json", "--pid"]
frames = [{{"filename": "a.py", "line": 7, "name": "waits"}}]
print(json.dumps([{{"os_thread_id": int(id), "frames": frames}} for id in os.listdir(f"/proc/{{sys.argv[-1]}}/task")]))
"""


@pytest.fixture
def py_spy(tmp_path, monkeypatch):
    """What tells of every thread that it waits in line 7."""
    tool = tmp_path / "py-spy"
    tool.write_text(PY_SPY)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    return tool


@pytest.mark.usefixtures("py_spy")
def test_where_a_thread_is_a_tool_reads():
    with start_script(THREADS, stdin=subprocess.PIPE) as program:
        await_line(program, program.stdout, "ready")
        stacks = _thread_stacks.read(program.pid)
        assert (
            stacks[program.pid] == f'Thread {program.pid} (most recent call first):\n  File "a.py", line 7 in waits\n'
        )
        with top(program.pid) as terminal:
            terminal.wait_for("loader", "quit")
            terminal.press(b"s")
            terminal.wait_for("thread", "a.py", "waits", "back")
            terminal.press(b"xq")
            assert terminal.wait() == 0
        program.stdin.close()


def test_a_tool_that_may_not_read_it_or_that_is_none_tells_nothing(py_spy, monkeypatch):
    py_spy.write_text("#!/bin/sh\nexit 1\n")
    assert _thread_stacks.read(os.getpid()) == {}
    py_spy.write_text("no program")
    assert _thread_stacks.read(os.getpid()) == {}
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(_thread_stacks.sys, "executable", "/nowhere/python")
    assert _thread_stacks.read(os.getpid()) == {}


def test_text_of_the_interpreters_profiler_is_split_by_threads():
    text = "Stack dump for PID 7, thread 9 (idle; most recent call last):\n  File a\n    x()\n\n"
    text += "Stack dump, thread 7 (main thread, idle; most recent call last):\n  File b\n"
    assert _thread_stacks._parse_text(text) == {
        9: "Thread 9 (idle; most recent call last):\n  File a\n    x()\n",
        7: "Thread 7 (main thread, idle; most recent call last):\n  File b\n",
    }


def test_it_finds_and_shows_pools_of_threads():
    with start_script(THREADS, stdin=subprocess.PIPE) as program:
        await_line(program, program.stdout, "ready")
        assert program.pid in _top.find_programs()
        with top(program.pid) as terminal:
            terminal.wait_for("loader", "(threads):", "1", "queued,", "running", "read")
            terminal.press(b"s")
            terminal.wait_for("thread", "back")
            terminal.press(b"x")
            terminal.wait_for("loader")
            terminal.press(b"q")
            assert terminal.wait() == 0
        program.stdin.close()


def test_it_shows_a_table_and_keys_move_through_it():
    with busy() as pool, top(os.getpid()) as terminal:
        pids = [str(worker.id) for worker in pool.workers()]
        terminal.wait_for("watched", "running", "hold", "quit", *pids)
        terminal.press(b"\x1bOB")  # arrow down: the other worker
        terminal.press(b"s")
        terminal.wait_for("worker", "1,", "most", "hold", "back")
        terminal.press(b"x")
        terminal.wait_for("watched", "quit")
        terminal.press(b"q")
        assert terminal.wait() == 0
        assert terminal.process.stderr.read() == b""


# ---- a timeline ----


def slices_of(path):
    events = timelines.read(path)["traceEvents"]
    for event in events:
        timelines.check_event(event)
    return [event for event in events if event["ph"] == "X"], events


def test_the_key_t_writes_a_timeline(tmp_path):
    with busy() as pool, top(os.getpid(), folder=tmp_path) as terminal:
        terminal.wait_for("watched", "quit")
        terminal.press(b"t")
        terminal.wait_for("enough")
        terminal.press(b"x")
        terminal.wait_for("perfetto")
        terminal.press(b"q")
        assert terminal.wait() == 0
        (path,) = tmp_path.iterdir()
        assert f"{path.name} is a timeline".encode() in terminal.seen  # once more, in the terminal that it leaves
        timelines.check(timelines.read(path))
        slices, events = slices_of(path)
        assert [event["name"] for event in slices] == ["hold", "hold"]
        names = {event["args"]["name"] for event in events if event["ph"] == "M"}
        assert {f"worker {n}, process {worker.id}" for n, worker in enumerate(pool.workers())} <= names
        assert f"watched (processes) of {os.getpid()}" in names


def test_a_timeline_of_an_executor_that_ends_or_that_cannot_be_written(tmp_path, monkeypatch):
    with pyconc.ProcessPoolExecutor(1, name="watched") as pool:
        pool.submit(identity).result()
        fd = pool._opened.queue.region.fileno()
        regions = {os.fstat(fd).st_ino: f"/proc/self/fd/{fd}"}
        monkeypatch.setattr(_dump, "find_pools", lambda *_: regions)
        monkeypatch.setattr(_dump, "find_tables", lambda _: {})
        watch = _top_trace.Watch(os.getpid())
        assert watch.look()
        (tmp_path / "there").touch()
        with pytest.raises(FileExistsError):
            watch.write(str(tmp_path / "there"))
        regions.update(dict.fromkeys(regions, str(tmp_path / "closed")))
        assert not watch.look()
    watch.write(str(tmp_path / "trace.gz"))
    assert slices_of(tmp_path / "trace.gz")[0] == []
    regions.clear()
    with pytest.raises(_dump.NotSeen, match="no executor to trace"):
        _top_trace.Watch(os.getpid())


def seen(*members, kind="processes"):
    """An executor as a look shows it; members: (number, calls ended, seconds, task[, how many run])."""
    keys = ("number", "calls", "running_for", "task", "running")
    numbers = dict.fromkeys(("queued", "running", "completed", "failed", "cancelled", "timed_out", "died"), 0)
    members = [{"pid": 9, "running": 1} | dict(zip(keys, member)) for member in members]
    return {"kind": kind, "members": members, **numbers}


@pytest.fixture
def watch():
    watch = _top_trace.Watch.__new__(_top_trace.Watch)
    watch._events, watch._counters, watch._running, watch._drawn, watch._pids = [], {}, {}, {}, {}
    watch._began = 100.0
    return watch


def drawn(watch, path):
    watch.write(str(path))
    return [
        (event["name"], event["tid"], event["ts"] / 1e6, event["dur"] / 1e6, event["args"]["outcome"])
        for event in slices_of(path)[0]
    ]


def test_a_call_is_drawn_from_its_beginning_to_the_first_look_without_it(watch, tmp_path):
    watch._see(1, seen((0, 7, 5.0, "old"), (1, 3, 0.5, "first")), 101.0, 101.25)
    watch._see(1, seen((0, 7, 6.0, "old"), (1, 3, 1.625, "first")), 102.0, 102.25)
    watch._see(1, seen((1, 5, 0.25, None)), 103.0, 103.25)  # calls have come and gone
    watch._see(1, seen((1, 5, None, None)), 104.0, 104.25)
    assert drawn(watch, tmp_path / "trace.gz") == [
        ("old", 1, 0.0, 3.0, "ended"),
        ("first", 2, 0.5, 2.25, "ended"),
        ("call", 2, 2.75, 1.25, "ended"),
    ]


def test_of_coroutines_the_one_that_began_first_is_drawn_while_others_end(watch, tmp_path):
    watch._see(1, seen((0, 7, 0.5, "a"), kind="coroutines"), 101.0, 101.0)
    watch._see(1, seen((0, 9, 1.5, "a"), kind="coroutines"), 102.0, 102.0)
    watch._see(1, seen((0, 9, 2.0, "b"), kind="coroutines"), 103.0, 103.0)
    watch._see(1, seen(), 104.0, 104.0)
    assert drawn(watch, tmp_path / "trace.gz") == [("a", 1, 0.5, 2.5, "ended"), ("b", 1, 3.0, 1.0, "ended")]


def test_of_calls_of_a_thread_that_wait_for_each_other_the_last_is_drawn(watch, tmp_path):
    for now, member in enumerate(
        [(0, 7, 0.5, "outer"), (0, 7, 0.5, "inner", 2), (0, 8, 2.5, "outer"), (0, 8, 3.5, "outer"), (0, 9, None, None)],
        101,
    ):
        watch._see(1, seen(member, kind="threads"), now, now)
    assert drawn(watch, tmp_path / "trace.gz") == [
        ("outer", 9, 0.5, 1.0, "waits"),
        ("inner", 9, 1.5, 1.5, "ended"),
        ("outer", 9, 3.0, 2.0, "ended"),
    ]


def test_calls_that_a_thread_begins_within_a_tick_of_the_clock_are_not_one(watch, tmp_path):
    tick = 1 / 256
    watch._see(1, seen((0, 7, tick, "a"), kind="threads"), 101.0, 101.0)
    watch._see(1, seen((0, 9, 2 * tick, "a"), kind="threads"), 101.0 + tick, 101.0 + tick)
    watch._see(1, seen(kind="threads"), 101.0 + 2 * tick, 101.0 + 2 * tick)
    assert drawn(watch, tmp_path / "trace.gz") == [
        ("a", 9, 1.0 - tick, 0.0, "ended"),
        ("a", 9, 1.0 - tick, 3 * tick, "ended"),
    ]


def tasks_of(pid):
    return [member["task"] for pool in _dump.look(pid)["pools"] for member in pool["members"]]


def test_a_timeline_of_threads_until_the_program_ends(tmp_path):
    with start_script(THREADS, stdin=subprocess.PIPE) as program:
        await_line(program, program.stdout, "ready")
        wait_until(lambda: tasks_of(program.pid) == ["read"], "the call to run")
        watch = _top_trace.Watch(program.pid)
        assert watch.look()
        program.stdin.close()
        wait_until(lambda: not watch.look(), "the program to be gone")
    watch.write(str(tmp_path / "trace.gz"))
    timelines.check(timelines.read(tmp_path / "trace.gz"))
    slices, events = slices_of(tmp_path / "trace.gz")
    call = next(event for event in slices if event["name"] == "read")
    assert call["args"]["outcome"] == "ended"
    names = {(event["pid"], event["tid"]): event["args"]["name"] for event in events if event["ph"] == "M"}
    assert names[call["pid"], call["tid"]] == f"thread {call['tid']}"
    assert names[call["pid"], 0] == f"loader (threads) of {program.pid}"
    waited = [event["args"]["calls"] for event in events if event["ph"] == "C" and event["name"] == "queued"]
    assert waited[0] == 1


# ---- the terminal, and signals ----


@pytest.mark.parametrize("size", [(1, 1), (5, 20)])
def test_a_small_terminal_shows_what_fits(size):
    rows, columns = size
    with busy(), top(os.getpid(), rows=rows, columns=columns) as terminal:
        terminal.wait_for("\x1b[?1049h")  # it has begun
        terminal.press(b"\x1bOB\x1bOB\x1bOAsxq")
        assert terminal.wait() == 0


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_and_the_terminal_is_as_it_was(number, status):
    with busy(), top(os.getpid()) as terminal:
        terminal.wait_for("watched", "quit")
        terminal.process.send_signal(number)
        assert terminal.wait() == status


def test_it_leaves_when_the_program_ends():
    with start_script(IDLE) as program:
        await_line(program, program.stdout, "ready")
        with Terminal("-c", QUICKLY, program.pid) as terminal:
            terminal.wait_for("idle", "quit")
            program.send_signal(signal.SIGTERM)
            program.wait(HANG_LIMIT)
            assert terminal.wait() == 0
            assert f"process {program.pid}".encode() in terminal.seen


@pytest.mark.parametrize("times", [3, pytest.param(40, marks=pytest.mark.slow)])
def test_it_comes_and_goes_and_the_program_does_not_wake_up(times):
    with start_script(IDLE) as program:
        await_line(program, program.stdout, "ready")
        wait_until_at_rest(program.pid)
        before = count_wakeups(program.pid)
        files = os.listdir(f"/proc/{program.pid}/fd")
        for _ in range(times):
            with Terminal("-c", QUICKLY, program.pid) as terminal:
                terminal.wait_for("idle", "quit")
                terminal.press(b"q")
                assert terminal.wait() == 0
        assert count_wakeups(program.pid) == before
        assert os.listdir(f"/proc/{program.pid}/fd") == files
        program.send_signal(signal.SIGTERM)


# Runs top a thousand times; it must have as many files, and after a while as much memory, as in the beginning.
THOUSANDFOLD = """
import gc, os, resource, sys
from pyconc import _top

def attach(times):
    for _ in range(times):
        assert _top.main(int(sys.argv[1]), 0.01) == 0
    gc.collect()
    return len(os.listdir("/proc/self/fd")), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

files, memory = attach(200)
files_later, memory_later = attach(800)
assert files_later == files, (files, files_later)
assert memory_later - memory < 4096, (memory, memory_later)
"""

BUSY = """
    import os, signal
    import pyconc

    threads, processes = pyconc.ThreadPoolExecutor(2), pyconc.ProcessPoolExecutor(2)
    ended = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))

    def run(rounds):
        for _ in range(rounds):
            for pool in (threads, processes):
                assert list(pool.map(abs, range(-20, 0))) == list(range(20, 0, -1))

    run(200)
    print("ready", flush=True)
    while not ended:
        run(1)
    print("right to the end", flush=True)
"""


def memory_of(pid):
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.parametrize("script", [IDLE, BUSY], ids=["idle", "busy"])
def test_it_comes_and_goes_a_thousand_times_and_leaves_nothing(script):
    with start_script(script) as program:
        await_line(program, program.stdout, "ready")
        if script is IDLE:
            wait_until_at_rest(program.pid)
        wakeups = count_wakeups(program.pid)
        files, memory = os.listdir(f"/proc/{program.pid}/fd"), memory_of(program.pid)
        with Terminal("-c", THOUSANDFOLD, program.pid) as terminal:
            terminal.press(b"q" * 1000)
            assert terminal.wait() == 0, terminal.process.stderr.read()
        assert os.listdir(f"/proc/{program.pid}/fd") == files
        assert memory_of(program.pid) - memory < 4 << 20
        if script is IDLE:
            assert count_wakeups(program.pid) == wakeups
        program.send_signal(signal.SIGTERM)
        if script is BUSY:
            await_line(program, program.stdout, "right to the end")
            assert program.wait(HANG_LIMIT) == 0


def test_the_programs_that_may_be_watched_are_found_and_no_workers():
    with pyconc.ProcessPoolExecutor(1) as pool, pyconc.CoroutinePool(1) as loops:
        worker = pool.submit(os.getpid).result()
        loops.submit(identity).exception()
        found = _top.find_programs()
        assert os.getpid() in found
        assert worker not in found
        assert not set(found).intersection(process.id for process in loops.workers())


@pytest.mark.parametrize(
    ("programs", "sentence"),
    [
        ({}, "there is no program with executors of pyconc that this user may look into"),
        ({7: "a", 8: "b\x1b"}, "there are several programs, name one of them: 7 (a), 8 (b?)"),
    ],
)
def test_without_a_pid_there_must_be_one_program(programs, sentence, monkeypatch, capsys):
    monkeypatch.setattr(_top, "find_programs", lambda: programs)
    assert _top.main(None) == 1
    assert capsys.readouterr().err == f"python -m pyconc top: {sentence}\n"


@pytest.mark.parametrize(("pid", "status"), [("0", 2), ("x", 2), (str(os.getpid()), 1)], ids=["zero", "x", "own"])
def test_it_needs_a_program_and_a_terminal(pid, status):
    command = [sys.executable, "-m", "pyconc", "top", pid]
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=HANG_LIMIT, stdin=subprocess.DEVNULL, cwd=ELSEWHERE
    )
    assert ended.returncode == status
    assert ("usage:" if status == 2 else "it needs a terminal") in ended.stderr


def test_shares_of_a_cpu_and_rates_are_those_since_the_last_look():
    def seen(cpu, completed):
        member = {"pid": 7, "cpu": cpu}
        ended = dict.fromkeys(("completed", "failed", "cancelled", "timed_out", "died"), 0) | {"completed": completed}
        return {"pools": [{"name": "a", "members": [member], **ended}], "threads": [{"id": 8, "cpu": cpu / 2}]}

    watched = _top._Top.__new__(_top._Top)
    watched._selected = 3
    watched._look(seen(1.0, 10))
    assert (watched._cpu, watched._rates, watched._selected) == ({}, {}, 0)
    watched._looked = time.monotonic() - 10
    watched._look(seen(6.0, 110), seen(1.0, 10))
    assert 0 < watched._cpu[7] <= 0.5
    assert watched._cpu[8] == pytest.approx(watched._cpu[7] / 2)
    assert 0 < watched._rates[0] <= 10
