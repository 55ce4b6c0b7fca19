"""A worker as its supervisor knows it, from its start until it is certain that it has ended.

It takes nothing before it is admitted, and it is admitted when the supervisor watches it, so no failure at any step of
its start leaves a process that runs tasks and that nobody knows; what fails is killed, and its number is free when its
end is certain:

    reserved number --> launched --> WATCHED, admitted --> GONE: its end is seen, not how --> REAPED: number free again
                           | fails        |                                                      ^
                           '--> killed    '------------------------------------------------------'
"""

import contextlib
import enum
import os
import signal

from pyconc._process import kernel
from pyconc._process.zygote import WorkerProcess, open_end, will_tell

__all__ = ["REPORT_SECONDS", "SIGNALS", "WatchedWorker", "WorkerState", "end_process"]

# How long, in seconds, the end of a worker may be seen before somebody tells how it ended.  Then the supervisor looks
# whether the zygote is stopped.
REPORT_SECONDS = 1.0

# The same for multiprocessing's fork server, which writes it down after the end.
_FORKSERVER_SECONDS = 0.2

SIGNALS = {"kill": signal.SIGKILL, "terminate": signal.SIGTERM}


class WorkerState(enum.Enum):
    """Of a worker; see the drawing above."""

    LAUNCHED = enum.auto()
    WATCHED = enum.auto()
    GONE = enum.auto()
    REAPED = enum.auto()


_NEXT = {
    WorkerState.LAUNCHED: {WorkerState.WATCHED, WorkerState.REAPED},
    WorkerState.WATCHED: {WorkerState.GONE},
    WorkerState.GONE: {WorkerState.REAPED},
    WorkerState.REAPED: set(),
}


class WatchedWorker:
    """What a supervisor knows of a worker; its thread alone changes that."""

    def __init__(self, number, launched, generation):
        self.number = number
        self.process = launched  # a multiprocessing.Process
        self.state = WorkerState.LAUNCHED
        self.stack = None  # what it has left in its black box
        self.is_stopped = False  # it is killed because of a call
        self.oom = False  # it was ended for want of memory
        self.last_log = None  # _logs.LastLog
        self.generation = generation
        # A sentinel of multiprocessing a process can close while it lives, and its own children have it too: it is what
        # there is without pidfds.
        end = None if isinstance(launched, WorkerProcess) else open_end(launched.pid)
        self.may_live = end is None and not isinstance(launched, WorkerProcess)  # although `end` is readable
        self.end = os.dup(launched.sentinel) if end is None else end
        self.is_late = False  # it is killed because the time of shutdown(timeout=) is over

    def enter(self, state):
        assert state in _NEXT[self.state], (self.state, state)
        self.state = state

    def force(self, operation):
        """Send the signal of an operation: "kill" or "terminate"."""
        with contextlib.suppress(PermissionError):
            getattr(self.process, operation)()
        self.pass_on(SIGNALS[operation])

    def pass_on(self, number):
        """Have a process signal it that has the right to, if the program has given that up."""
        if isinstance(self.process, WorkerProcess) and not kernel.send_signal(self.end, self.process.pid, 0):
            self.process.maker.signal(self.process.pid, number)

    def identify(self):
        """Return what the black box has to know of it."""
        return self.number, self.process.pid, self.end

    def exit_code(self):
        """Return its exit code, as multiprocessing has it; None if nobody could tell."""
        return None if getattr(self.process, "has_unknown_end", False) else self.process.exitcode

    def learn_end(self, context, gives_up):
        """Find out how it ended, after its end was seen; return False if nobody tells, unless it gives up."""
        if isinstance(self.process, WorkerProcess):
            if self.process.learn_end(0):
                return True
            return gives_up and not self.process.maker.will_tell() and self.process.give_up()
        self.process.join(_FORKSERVER_SECONDS)
        if self.process.exitcode is None and self.may_live:
            self.process.kill()
            self.process.join()
        if self.process.exitcode is not None or context.get_start_method() != "forkserver":
            return True  # without a code if the program has waited for it, or has the kernel do so
        return gives_up and not _forkserver_will_tell()

    def close(self):
        os.close(self.end)


def end_process(launched):
    """Kill a process that was started, and wait until it has ended."""
    launched.kill()
    if isinstance(launched, WorkerProcess):
        launched.await_end()
        if not launched.learn_end(REPORT_SECONDS):
            launched.give_up()
    launched.join()


def _forkserver_will_tell():
    """Whether a worker's exit code is yet to come from multiprocessing's fork server, however late that gets to run."""
    from multiprocessing import forkserver

    return will_tell(forkserver._forkserver._forkserver_pid)
