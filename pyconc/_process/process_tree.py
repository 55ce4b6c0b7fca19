"""The processes that the tasks of workers have started, and what those have: signalled together with the workers.

A process that stands still starts nothing, waits for nobody, and does not end.  So all are stopped first, from the
workers on, until a look at them finds none that is new and none that runs; only then are they signalled, the youngest
first, so that no process which goes on has one below it that was not signalled yet.

    worker ---- child ---- its child      SIGSTOP  ------------------------>  found from here
                  '------- another        signal   <------------------------  sent from here, and the worker last

Sessions and process groups do not matter.  A process whose own parent has ended is nobody's child any more, and is not
found: that is how a program makes itself a daemon, which others may use by now.  Nor is one signalled that this process
has no right to signal.

A number may become another process's as long as nobody holds the process, so each is held by a pidfd, and counts only
if afterwards its parent is the one that was found with it, and that one is there.
"""

import contextlib
import errno
import os
import signal
import time

from pyconc import _core
from pyconc._process import kernel

__all__ = ["StoppedTree", "require"]

# How long, in seconds, to wait for all to stand still: one that waits for a disk, or for a child that it has started by
# vfork(), does so later.
_STOP_SECONDS = 0.1

# The same for all that is found meanwhile: tasks may start processes faster than they are found.
_MOST_SECONDS = 2.0

# How long, in seconds, to wait before another look.
_LOOK_SECONDS = 0.0001


def require():
    """Raise OSError if this system does not show a process's children, or does not let them be held."""
    need = None
    if not (os.access("/proc/thread-self/children", os.R_OK) and os.readlink("/proc/self") == str(os.getpid())):
        need = "the /proc/*/task/*/children of its own processes"
    elif not kernel.has_pidfds():
        need = "pidfd_open()"
    if need is not None:
        raise OSError(errno.ENOSYS, f"kill_tree needs {need}, which the system does not have or this sandbox hides")


class StoppedTree:
    """Within `with StoppedTree(workers) as tree:` these processes and all below them stand still.

    workers: (pid, pidfd) of each.  A process that has a signal pending at the end of the block gets it then.
    """

    def __init__(self, workers):
        self._workers = dict(workers)
        self._below = {}  # pid: pidfd; parents before their children

    def __enter__(self):
        try:
            self._stop_all()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc):
        for pid, pidfd in (*self._below.items(), *self._workers.items()):
            kernel.send_signal(pidfd, pid, signal.SIGCONT)
        while self._below:
            os.close(self._below.popitem()[1])

    def signal_started(self, number):
        """Send a signal to what the workers' tasks have started, and not to the workers."""
        for pid, pidfd in reversed(self._below.items()):
            kernel.send_signal(pidfd, pid, number)

    def _stop_all(self):
        begun = time.monotonic()
        deadline = begun + _STOP_SECONDS
        for pid, pidfd in self._workers.items():
            kernel.send_signal(pidfd, pid, signal.SIGSTOP)
        while True:
            finds, is_still = self._look()
            now = time.monotonic()
            if finds and now < begun + _MOST_SECONDS:
                deadline = now + _STOP_SECONDS  # what is found is looked at, however long it takes to get there
            elif (is_still and not finds) or now >= deadline:
                break
            _core.wait_readable(next(iter(self._workers.values())), _LOOK_SECONDS)

    def _look(self):
        """Stop what is new; return whether anything was, and whether nothing runs."""
        finds, is_still = False, True
        ahead = [*self._workers.items(), *self._below.items()]
        for pid, pidfd in ahead:
            threads = _read_threads(pid)
            is_still = is_still and all(state in "TtZX" for state, _ in threads)
            for child in {child for _, children in threads for child in children}:
                if child not in self._below and (found := _hold(child, pid, pidfd)) is not None:
                    self._below[child] = found
                    kernel.send_signal(found, child, signal.SIGSTOP)
                    finds = True
        return finds, is_still


def _hold(pid, parent, parent_pidfd):
    """Return a pidfd of a process that lives and has this parent, which lives too, or None."""
    try:
        pidfd = _core.open_pidfd(pid)
    except OSError:  # it has ended, or there is no file descriptor left
        return None
    state, its_parent = _read_stat(f"/proc/{pid}/stat")
    if its_parent == parent and state not in "ZX" and not _core.wait_readable(parent_pidfd, 0):
        return pidfd
    os.close(pidfd)
    return None


def _read_threads(pid):
    """Return (state, children's numbers) of each thread of a process; nothing if it has ended."""
    found = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                state, _ = _read_stat(f"/proc/{pid}/task/{thread}/stat")
                with open(f"/proc/{pid}/task/{thread}/children") as file:
                    found.append((state, [int(child) for child in file.read().split()]))
    return found


def _read_stat(path):
    """Return (state, the parent's number) of a thread or a process; ("X", 0) if it has ended."""
    try:
        with open(path) as file:
            state, parent = file.read().rpartition(")")[2].split()[:2]
    except OSError:
        return "X", 0
    return state, int(parent)
