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
from gates import ProcessGate
from jobs import hold, identity
from support import ELSEWHERE, HANG_LIMIT, await_line, start_script, wait_until
from test_dump import IDLE, count_wakeups, wait_until_at_rest

import pyconc
from pyconc import _top

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

    def __init__(self, *command, rows=40, columns=120):
        self.outside, self.inside = pty.openpty()
        fcntl.ioctl(self.inside, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))
        self.before = termios.tcgetattr(self.inside)
        self.seen = b""
        self.process = subprocess.Popen(
            [sys.executable, *map(str, command)],
            cwd=ELSEWHERE,
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
        ({}, "there is no program with worker processes of pyconc that this user may look into"),
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
