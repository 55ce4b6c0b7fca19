"""What the interpreter's exit does with the executors that are left: it waits for their tasks, or kills them."""

import sys
import weakref
from concurrent.futures import process
from multiprocessing import util

from pyconc._process.result_handler import ResultHandler

__all__ = ["end_at_exit"]

# The result handlers of all executors.
_handlers: "weakref.WeakSet[ResultHandler]" = weakref.WeakSet()


def end_at_exit(handler, supervisor, waits):
    """Have the exit kill what is left of an executor; with `waits` it waits first until all tasks are done."""
    _handlers.add(handler)
    if waits:
        # At exit the standard library wakes and joins whatever stands here.
        process._threads_wakeups[handler] = _ExitWakeup(supervisor)


class _ExitWakeup:
    """What the standard exit handler calls: for it, this is an executor."""

    def __init__(self, supervisor):
        self._supervisor = weakref.ref(supervisor)

    def wakeup(self):
        supervisor = self._supervisor()
        if supervisor is not None:
            supervisor.queue.close(RuntimeError, "cannot schedule new futures after interpreter shutdown")
            for stream in list(supervisor.streams):
                stream.end("the interpreter is shutting down")  # its consumer may never come back
            if isinstance(getattr(sys, "last_value", None), KeyboardInterrupt):
                supervisor.kill()  # one Ctrl-C is enough


def _kill_the_rest():
    """At exit, after the standard exit handler: if Ctrl-C has kept that from waiting, nobody is to wait now."""
    for handler in list(_handlers):
        if handler.is_alive():
            handler.kill_workers()


# Before multiprocessing waits for the processes that are left.
util.Finalize(None, _kill_the_rest, exitpriority=100)
