"""The black box: what a worker leaves behind for its parent, so that its death explains itself.

An executor has one file in memory, in which each worker has a part of its own.  There faulthandler writes the worker's
Python stack, from 3.14 on also its C stack, when a fault ends it; and when the parent asks for it by a signal, which
works too while C code holds the GIL.  All of that happens in a signal handler that runs no Python.  A call that ends
soon after it was interrupted is not asked: its worker has sent where it was, see csrc/processes/worker_interrupt.h.

    parent                              worker
      |--- file -------------------------->| install(): opens it anew, so that its part is where it writes
      |                                    |
      |--- request(): DUMP_SIGNAL -------->| writes the stack of every thread
      |--- STOP, again ------------------->| raises in the call, and announces its outcome
      |<-- Answer(): reads ----------------|
      |                                    |
      |--- request(): DUMP_SIGNAL -------->| writes the stack of every thread
      |<-- ask(): reads when that is done -|
      |                                    | SIGSEGV: writes the stack, and dies
      |<-- take(): reads, and clears ------'

At the end of its part a worker leaves, too, what its task tells of its progress, for whoever looks at workers().

What is in the file is what any worker may have damaged.  The parts lie far apart; the file takes as much memory as
was written.  If anything is missing, such as a free file descriptor, or /proc, there is no black box, and nothing else
is different.
"""

import _signal
import contextlib
import faulthandler
import fcntl
import functools
import os
import re
import signal
import time
import weakref

from pyconc import _core
from pyconc._current_task import TaskProgress
from pyconc._process import kernel

__all__ = [
    "ANSWER_SECONDS",
    "BlackBox",
    "OomKills",
    "ask_from_outside",
    "forget_progress",
    "install",
    "leave",
    "note_progress",
    "read_progress",
    "trim",
]

# Those that faulthandler or the kernel has for itself.
_TAKEN = {"SIGKILL", "SIGSTOP", "SIGSEGV", "SIGFPE", "SIGABRT", "SIGBUS", "SIGILL"}


def _choose_signal(wanted):
    """Return the number of the signal that PYCONC_DUMP_SIGNAL says, or None: "off"; by default SIGRTMIN+5."""
    if wanted in ("", "off"):
        return None if wanted else signal.SIGRTMIN + 5
    is_number = wanted.isascii() and wanted.isdigit()
    found = int(wanted) if is_number else getattr(signal, wanted, None) if wanted.startswith("SIG") else None
    if found not in signal.valid_signals() - {getattr(signal, name) for name in _TAKEN}:
        raise ValueError(f"PYCONC_DUMP_SIGNAL must be a signal's name or number, or off, not {wanted!r}")
    return int(found)


# By which the parent asks a worker for its stack; None: not at all.
DUMP_SIGNAL = _choose_signal(os.environ.get("PYCONC_DUMP_SIGNAL", ""))

# How far the parts are apart: faulthandler stops after 100 threads of 100 frames.
_PART_BYTES = 1 << 24

# What is at the end of a part: a checksum, as the parent may read while the worker writes, and the size of the rest;
# the size of the scalars (began or None, done, total), and these; ":" and the note, if there is one.
_NOTE_BYTES = 1024
_NOTE_START = _PART_BYTES - _NOTE_BYTES

# The most that the parent reads at a time.
_TEXT_BYTES = 1 << 16

# How long, in seconds, to wait for a worker's stack.
ANSWER_SECONDS = 0.05

# How often, in seconds, to look whether a worker has written its stack: mostly that takes it less than a millisecond.
_LOOK_SECONDS = 0.0002

# Code that closes all files and opens others gets low numbers: faulthandler would write there.
_LOWEST_FD = 200

# In a stack, a worker's main(), and what has called that: how it was started, and in one that was forked what the
# program did then, which reads as if the task did it.
_BASE = r'(/pyconc/_process/worker_main\.py", line \d+ in main\n)(?:  .*\n)+'


# ---- the parent ----


class BlackBox:
    """The file of one executor, made when it is first needed.  One thread at a time uses it, see launcher.py."""

    def __init__(self, dump_signal=DUMP_SIGNAL):
        self._signal = dump_signal
        self._fd = None
        self._asked = {}  # worker: how many bytes of its part are older than its next answer
        self._answers = weakref.WeakSet()

    def fileno(self):
        """Return the file for install(), or None."""
        if self._fd is None:
            with contextlib.suppress(OSError, AttributeError):  # builds of Python for old systems lack the name
                self._fd = os.memfd_create("pyconc-black-box", os.MFD_CLOEXEC)
        return self._fd

    def close(self):
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def take(self, number):
        """Return what a worker that is dead has written and nobody has read, or None; clear its part for another."""
        data = self._read(number, self._asked.get(number, 0))
        for answer in list(self._answers):
            if answer.number == number:
                answer.keep()
        self._asked.pop(number, None)
        if self._fd is not None:
            with contextlib.suppress(OSError):
                self._clear(number * _PART_BYTES)
                os.pwrite(self._fd, bytes(4), number * _PART_BYTES + _NOTE_START)
        return _decode(data)

    def read_progress(self, number, began):
        """Return the TaskProgress that a worker's call has told, if the call began then; else None.  Any thread."""
        return None if self._fd is None else read_progress(self._fd, number, began)

    def request(self, number, pid, pidfd, note=None):
        """Ask a worker that lives for its stack, and return an Answer; None if it cannot give one.

        note: a function that is called with the Answer before the worker is asked: the signal may end a system call,
        and so the worker's.
        """
        start = self._asked.get(number, 0)
        start += len(self._read(number, start))  # such as an answer that came late
        if self._fd is None or start + _TEXT_BYTES > _NOTE_START or not _can_answer(pid, self._signal):
            return None
        self._asked[number] = start
        answer = Answer(self, number, start)
        self._answers.add(answer)
        if note is not None:
            note(answer)
        kernel.send_signal(pidfd, pid, self._signal)
        return answer

    def ask(self, workers, seconds=ANSWER_SECONDS):
        """Ask workers that live for their stacks, all at once; yield (number, stack) of each, as they answer.

        The stack is that of each thread, as text; None if the worker does not write it in time.  The workers go on.
        workers: (number, pid, pidfd) of each.
        """
        return self.wait([(*worker, self.request(*worker)) for worker in workers], seconds)

    def wait(self, asked, seconds=ANSWER_SECONDS):
        """Do the same with workers that request() has asked: (number, pid, pidfd, what it has returned) of each."""
        waiting = {number: (answer, pid, pidfd) for number, pid, pidfd, answer in asked if answer is not None}
        deadline = time.monotonic() + seconds
        yield from ((number, None) for number, _, _, answer in asked if answer is None)
        while waiting:
            is_over = time.monotonic() >= deadline
            for number, (answer, pid, pidfd) in list(waiting.items()):
                has_ended = _core.wait_readable(pidfd, 0)
                if is_over or has_ended or (answer.read() and not _is_answering(pid, self._signal)):
                    del waiting[number]
                    data = answer.read()
                    self._asked[number] += len(data)
                    yield number, _decode(data)
            if waiting:
                _core.wait_readable(next(iter(waiting.values()))[2], _LOOK_SECONDS)

    def _read(self, number, start):
        """Return what a worker has written from there on, as far as it is no later answer."""
        asked = self._asked.get(number, 0)
        size = asked - start if start < asked else _TEXT_BYTES
        if self._fd is None or start + _TEXT_BYTES > _NOTE_START:
            return b""
        try:
            return os.pread(self._fd, size, number * _PART_BYTES + start).partition(b"\0")[0]
        except OSError:
            return b""

    def _clear(self, start):
        while (data := os.pread(self._fd, _TEXT_BYTES, start)).strip(b"\0"):
            start += os.pwrite(self._fd, bytes(len(data)), start)


class Answer:
    """The stack that a worker was asked for; when an outcome that it has announced since is here, so is the stack.

    Call it for that, as text, or None.  Any thread.
    """

    def __init__(self, box, number, start):
        self.number = number
        self._start = start
        self._box = box  # None: it is kept here
        self._kept = b""

    def __call__(self):
        return trim(_decode(self.read()))

    def read(self):
        box = self._box
        data = b"" if box is None else box._read(self.number, self._start)
        return self._kept if self._box is None else data

    def keep(self):
        """The worker's part is about to be cleared."""
        self._kept = self.read()
        self._box = None


def read_progress(fd, number, began):
    """Do as BlackBox.read_progress() for whoever has the file, also of another program."""
    try:
        data = os.pread(fd, _NOTE_BYTES, number * _PART_BYTES + _NOTE_START)
        checksum, size = int.from_bytes(data[:4], "little"), int.from_bytes(data[4:8], "little")
        data = data[8 : 8 + size]
        if not size or _checksum(data) != checksum:
            return None
        numbers, note = data[1 : 1 + data[0]], data[1 + data[0] :].decode("utf-8", "replace")
        since, done, total = _core.scalars_loads(numbers)
    except (OSError, ValueError, TypeError):  # closed meanwhile, or damaged
        return None
    if since is not None and since != began:
        return None
    return TaskProgress(done, total, note[1:] if note else None)


def ask_from_outside(fd, number, pid, pidfd, seconds):
    """Ask a worker of another program for its stack, and return it, or None; takes fd, of that program's file.

    Its parent knows nothing of that, and must not take the answer for the worker's last words: they are blanked.
    """
    box = BlackBox(_signal_of(pid))
    box._fd = fd
    with contextlib.closing(box):
        start = 0
        while written := len(box._read(number, start)):
            start += written
        box._asked[number] = start
        stack = next(box.ask([(number, pid, pidfd)], seconds))[1]
        os.pwrite(fd, b"\n" * (box._asked[number] - start), number * _PART_BYTES + start)
    return trim(stack)


def _signal_of(pid):
    """Return the DUMP_SIGNAL of another program, by the environment that it was started with."""
    try:
        with open(f"/proc/{pid}/environ", errors="replace") as file:
            settings = file.read().split("\0")
        return _choose_signal(next((s.partition("=")[2] for s in settings if s.startswith("PYCONC_DUMP_SIGNAL=")), ""))
    except (OSError, ValueError):
        return None


def _decode(data):
    return data.decode("utf-8", "replace").lstrip("\n") or None


def trim(stack):
    """Return a stack, or None, that ends with the worker's own code; it is whole, as of a piece nobody can tell."""
    return stack and re.sub(_BASE, r"\1", stack)


def _can_answer(pid, number):
    """Whether a process handles the signal, which would else end it, and the program has no use of its own for that."""
    is_free = number is not None and signal.getsignal(number) is signal.SIG_DFL
    return is_free and _has_signal_in(pid, number, b"SigCgt:")


def _is_answering(pid, number):
    """Whether a process that has begun to answer has not ended that.

    The kernel blocks a signal while its handler runs, in the thread that it interrupts: the main thread, unless that
    has blocked it itself or has another signal to handle.  Which thread else answers nobody can tell.
    """
    return _has_signal_in(pid, number, b"SigPnd:", b"ShdPnd:", b"SigBlk:")


def _has_signal_in(pid, number, *sets):
    """Whether one of these sets of signals of a process's main thread has that one; as /proc names them."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return False
    return any(int(line.split()[1], 16) >> number - 1 & 1 for line in lines if line.startswith(sets))


# ---- a worker ----

_number = 0  # this worker's
_own = None  # (file descriptor, (device, inode)) of the file for which this process has enabled faulthandler


def install(fd, number):
    """Have this process's faults, and its answers to DUMP_SIGNAL, written to the executor's file; takes fd."""
    global _number
    _number = number
    try:
        # Opened anew, the file has a position of its own.
        opened = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.lseek(opened, number * _PART_BYTES, os.SEEK_SET)
            _use(opened)
        finally:
            os.close(opened)
    except OSError:
        pass
    finally:
        os.close(fd)


def _use(opened):
    global _own
    if _own is None:
        own = fcntl.fcntl(opened, fcntl.F_DUPFD_CLOEXEC, _LOWEST_FD)
        if not faulthandler.is_enabled():
            faulthandler.enable(own)
        if DUMP_SIGNAL is not None and _signal.getsignal(DUMP_SIGNAL) == _signal.SIG_DFL:
            faulthandler.register(DUMP_SIGNAL, own, all_threads=True, chain=False)
            _signal.pthread_sigmask(_signal.SIG_UNBLOCK, [DUMP_SIGNAL])  # whatever the program blocks
    elif _identify(_own[0]) is None:
        # The worker of a pool within a task has inherited handlers that write to this number.
        own = _own[0]
        os.dup2(opened, own, inheritable=False)
    else:
        return
    _own = own, _identify(own)


def note_progress(began, told):
    """Leave what a call tells, which began then; None: whichever this worker runs."""
    numbers = _core.scalars_dumps((began, told.done, told.total))
    if numbers is not None:
        note = b"" if told.note is None else b":" + told.note.encode("utf-8", "replace")
        data = bytes([len(numbers)]) + numbers + note
        _write_note(_checksum(data).to_bytes(4, "little") + len(data).to_bytes(4, "little") + data)


def _checksum(data):
    import binascii  # not for the many who tell of no progress, whose forks it would make longer

    return binascii.crc32(data)


def forget_progress():
    """The call that has told something has ended."""
    _write_note(bytes(8))


def _write_note(data):
    if _own is not None and _identify(_own[0]) == _own[1]:
        with contextlib.suppress(OSError):
            os.pwrite(_own[0], data, _number * _PART_BYTES + _NOTE_START)


def leave():
    """In the child of a fork: what it writes is not the worker's."""
    if _own is not None:
        fd, identity = _own
        if _identify(fd) == identity:
            os.close(fd)


def _identify(fd):
    """Return (device, inode) of an open file; None if there is none."""
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino


# ---- out of memory ----


class OomKills:
    """How often the kernel has ended a process of this one's cgroup for want of memory."""

    def __init__(self, root="/sys/fs/cgroup", own="/proc/self/cgroup", vmstat="/proc/vmstat"):
        self._path = _find_events(root, own) or vmstat
        self._seen = self._count()
        self._unexplained = 0  # kills that no death has been put down to
        self._looked = time.monotonic()

    def explain(self, code):
        """Whether a process that has ended with an exit code, just now, was one of them; each explains one death."""
        if code != -signal.SIGKILL:
            return False
        count, now = self._count(), time.monotonic()
        if now - self._looked > 1:
            self._unexplained = 0  # they were no workers
        self._unexplained += max(0, count - self._seen)
        self._seen, self._looked = count, now
        if not self._unexplained:
            return False
        self._unexplained -= 1
        return True

    def _count(self):
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                text = b"\n" + os.read(fd, _TEXT_BYTES)
            finally:
                os.close(fd)
            return int(text.partition(b"\noom_kill ")[2].split(None, 1)[0])
        except (OSError, ValueError, IndexError):
            return 0


@functools.cache
def _find_events(root, own):
    """Return the file in which the kernel counts for the nearest cgroup, or None."""
    try:
        with open(own) as file:
            groups = [line.rstrip("\n").split(":", 2) for line in file]
    except (OSError, ValueError):
        return None
    for _, controllers, path in groups:
        if controllers and "memory" not in controllers.split(","):
            continue
        folder, name = ("memory", "memory.oom_control") if controllers else ("", "memory.events")
        # In a container the path may be the host's, of which only the end is mounted here: then the root counts.
        parts = [part for part in path.split("/") if part and part != ".."]
        for depth in range(len(parts), -1, -1):
            events = os.path.join(root, folder, *parts[:depth], name)
            if os.path.exists(events):
                return events
    return None
