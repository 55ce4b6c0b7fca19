"""What tests share: waiting for a condition, running whole programs, and seeing what is left behind.

Nothing here sleeps in order to let something happen.  A test waits for a condition; the limits below only turn a
hang into a failure that shows where every thread stood, and are far above what the slowest machine needs.
"""

import contextlib
import gc
import itertools
import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest

# Where programs that import pyconc are started: beside the sources they would import those, without the extension.
ELSEWHERE = "/"

HANG_LIMIT = 60.0  # Seconds after which a wait, or a program started by a test, is taken to hang.

# Under `make test-sandbox`, /proc is empty; what the kernel says of processes is elsewhere, for tests only.
PROC = os.environ.get("PYCONC_TEST_PROC", "/proc")

# Under `make test-asan` every allocation is the sanitizer's: slow, padded, and kept for a while when it is freed.
SANITIZED = os.environ.get("PYTHONMALLOC") == "malloc"

# Interpreters that check themselves are several times as slow, and several times more so at their exit.
DEBUG_BUILD = hasattr(sys, "gettotalrefcount")

# How often a test does what it does a thousand times elsewhere.
THOUSAND = 250 if DEBUG_BUILD or SANITIZED else 1000

# Characters of each width that a string may have in memory.  Hypothesis takes all of Unicode unless it is told which,
# and makes a table of it first: eight seconds, for each process of tests.
CHARACTERS = "a\0\x7f\xe9\u20ac\U0001f600"

# For a parameter that asks for many rounds of what the test does in a few as well.
more_rounds = [pytest.mark.slow, pytest.mark.skipif(SANITIZED, reason="a sanitizer sees in few rounds what it can see")]


def chessboard(names: str, *axes: Collection[object]) -> pytest.MarkDecorator:
    """Parametrises a test over all combinations of what the axes have: half of them quick, the others slow.

    The quick ones are a chessboard's white fields: every value is among them, and of three axes every pair of values.
    For tests whose axes are roads of their own, and where no combination is one that nothing else takes.
    """
    cases = []
    for case in itertools.product(*map(enumerate, axes)):
        places, values = zip(*case)
        cases.append(pytest.param(*values, marks=[pytest.mark.slow] if sum(places) % 2 else []))
    return pytest.mark.parametrize(names, cases)


# --- Waiting ----------------------------------------------------------------------------------------------------------


def wait_until(condition: Callable[[], object], what: str = "the condition", limit: float = HANG_LIMIT) -> None:
    """Returns once `condition()` is true; fails the test, naming `what`, when that takes longer than a hang would.

    For what has no event to wait on, such as a thread that the kernel has yet to bury.
    """
    deadline = time.monotonic() + limit
    pause = 0.0
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {limit:g} s in vain for {what}")
        time.sleep(pause)
        pause = min(pause + 0.0005, 0.02)


def wait_until_clones_are_gone(pool: Any, zygote: Any) -> None:
    """Returns once no worker is left that ends with this zygote, which was killed: none of them takes a task."""
    launcher = pool._supervisor.launcher
    # Of a zygote that the launcher knows to be gone, no further worker comes.
    wait_until(lambda: launcher.zygote is not zygote, "the zygote's end to be seen")
    wait_until(
        lambda: not any(worker.is_cloned_from(zygote) for worker in list(pool._processes.values())),
        "its workers to be reaped",
    )


@contextlib.contextmanager
def another_thread() -> Iterator[None]:
    """Keeps a second Python thread, without which the workers of an executor would be forked from this process."""
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


# --- Programs ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finished:
    """A program that ended."""

    command: list[str]
    returncode: int
    stdout: str
    stderr: str

    def __str__(self) -> str:
        code = self.returncode
        end = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        stdout, stderr = (textwrap.indent(text.rstrip() or "(nothing)", "  ") for text in (self.stdout, self.stderr))
        return f"{' '.join(self.command)}\nended with {end}\nstdout:\n{stdout}\nstderr:\n{stderr}"


def _kill_session(process: "subprocess.Popen[str]") -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def start_script(
    script: str | Path,
    *args: object,
    python: str = sys.executable,
    env: dict[str, str] | None = None,
    flags: tuple[str, ...] = (),
    stdin: int | None = subprocess.DEVNULL,
) -> Iterator[subprocess.Popen[str]]:
    """Starts a program, given as source text or as a path, in an empty folder and a session of its own.

    Yields its `Popen`, with text pipes for stdout and stderr; what is left of its session afterwards is killed.
    """
    with tempfile.TemporaryDirectory(prefix="pyconc-test-") as folder:
        if isinstance(script, str):
            path = Path(folder, "script.py")
            path.write_text(textwrap.dedent(script).replace("/proc/", f"{PROC}/"))
        else:
            path = script.resolve()
        process = subprocess.Popen(
            [python, "-X", "faulthandler", *flags, str(path), *map(str, args)],
            cwd=folder,
            env={**os.environ, **(env or {})},
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        with process:
            try:
                yield process
            finally:
                _kill_session(process)


def finish(process: "subprocess.Popen[str]", limit: float = HANG_LIMIT) -> Finished:
    """Waits for a program to end.  One that hangs is made to show the stacks of its threads, and fails the test."""
    try:
        stdout, stderr = process.communicate(timeout=limit)
        hung = False
    except subprocess.TimeoutExpired:
        hung = True
        process.send_signal(signal.SIGABRT)  # faulthandler answers with all stacks
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            pass
        _kill_session(process)
        try:
            stdout, stderr = process.communicate(timeout=10)
        except subprocess.TimeoutExpired as error:  # somebody outside of its session holds its pipes
            stdout, stderr = (str(output or b"", errors="replace") for output in (error.stdout, error.stderr))
    finished = Finished([str(word) for word in process.args], process.returncode, stdout, stderr)
    if hung:
        pytest.fail(f"hung for {limit:g} s: {finished}", pytrace=False)
    return finished


def await_line(process: "subprocess.Popen[str]", stream: IO[str] | None, text: str, limit: float = HANG_LIMIT) -> str:
    """Reads what a program writes to a pipe up to the line with `text`, and returns that line.

    Fails the test when the program ends without it.  One that hangs is made to show its stacks, and ends by that.
    What the program has written behind the line already is here for the next call, but not for finish().
    """
    assert stream is not None
    hangs = threading.Timer(limit, process.send_signal, [signal.SIGABRT])
    hangs.start()
    seen = []
    try:
        for line in iter(stream.readline, ""):
            if text in line:
                return line
            seen.append(line)
    finally:
        hangs.cancel()
        hangs.join()
    pytest.fail(f"no line with {text!r} after {seen}: {finish(process)}", pytrace=False)


def times_asleep(pid: int) -> dict[str, str] | None:
    """How often each thread of a process has gone to sleep so far; None if one of them does not sleep.

    Who is about to run, and waits for a CPU, does not sleep, although its count stays the same meanwhile.
    """
    counts = {}
    for tid in os.listdir(f"{PROC}/{pid}/task"):
        lines = _read(f"{PROC}/{pid}/task/{tid}/status").splitlines()
        status = dict(line.split(":", 1) for line in lines)
        if "S" not in status.get("State", "?").split()[:1]:
            return None
        counts[tid] = status["voluntary_ctxt_switches"]
    return counts


def wait_until_asleep(process: "subprocess.Popen[str]", limit: float = HANG_LIMIT) -> None:
    """Returns once all threads of a program sleep at the same time, so that none of them is about to wake another.

    Who sends a signal has to wait for that: one that arrives between a thread's last look at the interpreter's flags
    and the system call that it sleeps in is noticed only when the next one comes, and no wait in Python can help it.
    """

    def asleep() -> bool:
        # Threads are looked at one by one.  Who has not run between two looks has slept from the first to the second.
        before = times_asleep(process.pid)
        return before is not None and times_asleep(process.pid) == before

    wait_until(asleep, "all threads of the program to sleep", limit)


def run_script(
    script: str | Path,
    *args: object,
    python: str = sys.executable,
    env: dict[str, str] | None = None,
    flags: tuple[str, ...] = (),
    limit: float = HANG_LIMIT,
    check: bool = True,
) -> Finished:
    """Runs a program to its end and returns what it said.  With `check`, a program that fails fails the test."""
    with start_script(script, *args, python=python, env=env, flags=flags) as process:
        finished = finish(process, limit)
    if check and finished.returncode != 0:
        pytest.fail(str(finished), pytrace=False)
    return finished


# --- What is left behind ----------------------------------------------------------------------------------------------


def _read(path: str) -> str:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read().decode(errors="replace").replace("\0", " ").strip()
    except OSError:
        return ""  # it ended meanwhile


def threads() -> dict[str, str]:
    """The process's threads as the kernel sees them, Python's or not: what each is, by its number."""
    names = {tid: _read(f"{PROC}/self/task/{tid}/comm") for tid in os.listdir(f"{PROC}/self/task")}
    # libuv keeps its own for the life of the process.
    return {f"thread {tid}": name for tid, name in names.items() if name != "libuv-worker"}


def children() -> dict[str, str]:
    """Child processes, zombies included: the command of each."""
    tasks = os.listdir(f"{PROC}/self/task")
    pids = {pid for task in tasks for pid in _read(f"{PROC}/self/task/{task}/children").split()}
    return {f"process {pid}": _read(f"{PROC}/{pid}/cmdline") or "a zombie" for pid in pids}


def files() -> dict[str, str]:
    """Open file descriptors: what each refers to.  One that was closed and opened anew for something else is new."""
    with os.scandir(f"{PROC}/self/fd") as entries:
        names = [entry.name for entry in entries]
    found = {}
    for name in names:
        try:
            target = os.readlink(f"{PROC}/self/fd/{name}")
        except OSError:
            continue  # the descriptor of the listing itself
        found[f"file {name} -> {target}"] = target
    return found


_named: set[str] = set()  # what this process has made in /dev/shm, whether anybody has it mapped or not


def note_names() -> None:
    """Remembers from now on what this process makes in /dev/shm: the folder is the whole machine's.

    The standard library's named objects, semaphores and blocks of memory, are registered with its resource tracker.
    pyconc makes none itself; test_source.py sees to that.
    """
    from multiprocessing import resource_tracker

    register = resource_tracker.register

    def noting_register(name: str, rtype: str) -> None:
        if rtype in ("shared_memory", "semaphore"):
            _named.add(f"/dev/shm/{'sem.' if rtype == 'semaphore' else ''}{name.lstrip('/')}")
        register(name, rtype)

    resource_tracker.register = noting_register  # type: ignore[assignment]


def descendants() -> set[str]:
    """This process and those that it has started, directly or not, by their numbers."""
    found: set[str] = set()
    ahead = [str(os.getpid())]
    while ahead:
        pid = ahead.pop()
        found.add(pid)
        with contextlib.suppress(OSError):  # it ended meanwhile
            for task in os.listdir(f"{PROC}/{pid}/task"):
                ahead += _read(f"{PROC}/{pid}/task/{task}/children").split()
    return found


def names_of_shared_memory() -> set[str]:
    """What is in /dev/shm, whosever it is."""
    return {f"/dev/shm/{name}" for name in os.listdir("/dev/shm")}


def shared_memory(known: Collection[str] = ()) -> dict[str, str]:
    """Named objects in /dev/shm that this process has made, or that it or what it has started has mapped.

    Others are another program's.  What is known is left out: to see whose the rest is takes longer than most tests.
    """
    present = names_of_shared_memory().difference(known)
    ours = _named & present
    for pid in descendants() if present - ours else ():
        ours |= present & set(re.findall(r"/dev/shm/\S+", _read(f"{PROC}/{pid}/maps")))
    return dict.fromkeys(ours, "shared memory")


def stop_nursery() -> None:
    """Ends the interpreter that pyconc clones workers from: the next ones come from another, as the program is then.

    It is kept from test to test, as a start takes longer than most tests.
    """
    nursery = sys.modules.get("pyconc._process.nursery")
    if nursery is not None:
        nursery.the_nursery.stop()


def _without_nursery(found: dict[str, str]) -> dict[str, str]:
    module = sys.modules.get("pyconc._process.nursery")
    if module is None or module.the_nursery.pid is None:
        return found
    process = f"process {module.the_nursery.pid}"
    connection = f"file {module.the_nursery._connection.fileno()} "
    return {name: what for name, what in found.items() if name != process and not name.startswith(connection)}


def _stop_helpers() -> None:
    # multiprocessing and pyconc keep these processes for later; they are not what a test left behind.  The nursery
    # has a file of the resource tracker's, which waits for it.
    stop_nursery()
    for module, name in [("resource_tracker", "_resource_tracker"), ("forkserver", "_forkserver")]:
        loaded = sys.modules.get(f"multiprocessing.{module}")
        if loaded is not None:
            getattr(loaded, name)._stop()


def _resources(known: Collection[str]) -> dict[str, str]:
    """Everything that a test must give back."""
    return _without_nursery(threads() | children() | files() | shared_memory(known))


@contextlib.contextmanager
def nothing_left(limit: float = HANG_LIMIT) -> Iterator[None]:
    """Fails the test when the body leaves a thread, a process, a file or a shared object behind.

    What goes with its last reference is given the collector's help, and what is ending is given time to end.
    """
    names = names_of_shared_memory()
    before = names | _resources(names).keys()
    yield
    if _resources(before).keys() <= before:
        return
    deadline = time.monotonic() + limit
    # Named objects come first: the resource tracker, when it is stopped, removes those that were forgotten.
    _wait_until_gone(lambda: shared_memory(before), before, deadline)
    _wait_until_gone(threads, before, deadline)  # most often it was one that the kernel had yet to bury
    if _go_soon(before):
        return
    _stop_helpers()
    _wait_until_gone(lambda: _resources(before), before, deadline)


def _go_soon(before: set[str]) -> bool:
    """Whether it takes but a moment or the collector: to start the helpers again would take longer than this does."""
    for pause in (0.001, 0.003, 0, 0.003, 0.01, 0.03):
        if pause == 0:
            gc.collect()  # which takes longer than most need that end by themselves
        time.sleep(pause)
        if _resources(before).keys() <= before:
            return True
    return False


def _wait_until_gone(look: Callable[[], dict[str, str]], before: Collection[str], deadline: float) -> None:
    pause = 0.001
    while left := {name: what for name, what in look().items() if name not in before}:
        if time.monotonic() > deadline:
            pytest.fail("left behind: " + ", ".join(f"{name} ({what})" for name, what in left.items()), pytrace=False)
        if pause > 0.002:  # the collector takes longer than most need that end by themselves
            gc.collect()
        time.sleep(pause)
        pause = min(2 * pause, 0.1)


# --- Leaks ------------------------------------------------------------------------------------------------------------


def _resident_pages() -> tuple[int, int]:
    """All of them, and those among them that others may have as well: of files, and of shared memory."""
    with open(f"{PROC}/self/statm") as file:
        _, resident, shared, *_ = map(int, file.read().split())
    return resident, shared


def rss_bytes() -> int:
    """The memory that the process has resident now."""
    return _resident_pages()[0] * os.sysconf("SC_PAGE_SIZE")


def own_bytes() -> int:
    """What of it nobody else can have: a pool's region is mapped whole, and touched where there is room just then."""
    resident, shared = _resident_pages()
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")


# The interpreter's cache of attributes keeps the names that pickle looks up, up to 4096 of them.
_clear_caches = getattr(sys, "_clear_internal_caches", None) or sys._clear_type_cache


def _counts() -> dict[str, int]:
    _clear_caches()
    gc.collect()
    counts = {"blocks": sys.getallocatedblocks(), "tracked objects": len(gc.get_objects())}
    if DEBUG_BUILD:
        counts["references"] = sys.gettotalrefcount()
    return counts


def check_no_leak(action: Callable[[], object], *, repeat: int = 200, rounds: int = 5) -> None:
    """Fails the test when every round of `repeat` calls leaves at least one block, object or reference per call.

    Caches fill in the first rounds, and another thread may hold something as one round ends; a leak shows in all.
    `action` must wait for its own consequences: what its threads still hold when it returns counts as left.
    """
    for _ in range(repeat):
        action()
    growths: dict[str, list[int]] = {}
    before = _counts()
    for _ in range(rounds):
        for _ in range(repeat):
            action()
        after = _counts()
        for name, count in after.items():
            growths.setdefault(name, []).append(count - before[name])
        before = after
    for name, growth in growths.items():
        if min(growth) >= repeat:
            pytest.fail(f"{repeat} calls leave {growth} {name}, round by round")


def check_flat_memory(action: Callable[[], object], *, rounds: int = 10, limit_bytes: int = 4 << 20) -> None:
    """Fails the test when its own memory, settled after half of the rounds, grows by `limit_bytes` in the others."""
    if SANITIZED:
        pytest.skip("a sanitizer keeps what is freed")
    for _ in range(rounds // 2):
        action()
    gc.collect()
    settled = own_bytes()
    for _ in range(rounds - rounds // 2):
        action()
    gc.collect()
    growth = own_bytes() - settled
    if growth >= limit_bytes:
        pytest.fail(f"memory grew by {growth:,} bytes in {rounds - rounds // 2} rounds")
