"""Signal handlers that wait: what must not be left half done, such as the start of a process, is not interrupted.

The supervisor starts nearly all processes, in a thread where no handler runs; what defers them are the forks that only
the program's one thread can make, and the start of the supervisor, in a constructor and in a first submit.
"""

import _signal
import os
import threading
from itertools import compress

from pyconc._process.interruption import call_late

__all__ = [
    "STOP",
    "BlockInterrupts",
    "DeferSignals",
    "adopt_interrupts",
    "call_interruptibly",
    "end_in_child",
    "handle_stops",
    "ignores_interrupts",
    "program_ignores_interrupts",
    "reset_in_child",
]

# Interrupts the call that a worker runs, see csrc/processes/worker_interrupt.h.
STOP = _signal.SIGRTMIN + 3

# Where handlers come from that only wake a loop.  They stay: to set a handler undoes signal.siginterrupt().
_HARMLESS = ("asyncio.unix_events", "uvloop.loop")

_current = None  # the DeferSignals of the main thread's `with` block, if it is in one

# In a process that is no part of the program, until it is a worker: whether the program ignores Ctrl-C.  None: unknown.
_program_ignores_interrupts = None


class DeferSignals:
    """Within `with DeferSignals():` the program's signal handlers are called at the end of the block.

    Handlers are Python code that runs between any two steps of the main thread, and one that raises, as Ctrl-C's does,
    ends whatever that thread was at.  In other threads, and within another such block, this does nothing.
    """

    def __init__(self):
        self._lets_through = False  # handlers are called at once
        self._handlers = {}  # signal: the program's handler
        self._installed = []  # signals whose handler is ours
        self._noted = []  # (signal, frame) that came meanwhile

    def __enter__(self):
        global _current
        if _current is None and threading.current_thread() is threading.main_thread():
            try:
                self._install()
                # Not before: until all is installed, the program's handlers run here, and blocks in those defer.
                _current = self
            except BaseException:
                self._end()
                raise
        return self

    def __exit__(self, *exc):
        if _current is self:
            self._end()

    # Loops are in functions of their own: an exception from a signal handler that is called where a loop jumps back
    # passes by the `except` and the `finally` around that loop.

    def _install(self):
        for number in list(_handled()):
            handler = _signal.getsignal(number)
            if callable(handler) and number not in self._handlers and not _is_harmless(handler):
                self._handlers[number] = handler
                self._installed.append(number)
                _signal.signal(number, self._note)

    def _note(self, number, frame):
        if self._lets_through or _current is not self:
            self._handlers[number](number, frame)
        else:
            self._noted.append((number, frame))

    def _end(self):
        """Give the program its handlers back, and call those whose signals have come."""
        try:
            self._restore()
        finally:
            self._call_noted()

    def _restore(self):
        global _current
        _current = None
        try:
            self._restore_handlers()
        finally:
            if self._installed:  # A handler has raised.
                self._restore()

    def _restore_handlers(self):
        while self._installed:
            number = self._installed[-1]
            _signal.signal(number, self._handlers[number])
            self._installed.pop()

    def _call_noted(self):
        try:
            self._call_noted_once()
        finally:
            if self._noted:  # One of them has raised.
                self._call_noted()

    def _call_noted_once(self):
        while self._noted:
            number, frame = self._noted.pop(0)
            call_late(self._handlers[number], number, frame)


# Ctrl-C first, so that it is the last one to be restored.
_NUMBERS = (_signal.SIGINT, *range(1, _signal.NSIG))


def _handled():
    """Return the signals that Python has a handler for; in C, as each executor asks thrice."""
    return compress(_NUMBERS, map(callable, map(_signal.getsignal, _NUMBERS)))


def _is_harmless(handler):
    return getattr(handler, "__module__", None) in _HARMLESS


def end_in_child():
    """In the child of a fork: give the program its handlers back, leave what has come to the parent, and ignore Ctrl-C.

    It is called with SIGINT blocked, as the program's handler would end the child with a traceback.
    """
    if _current is not None:
        _current._noted.clear()
        _current._restore()
    if _program_ignores_interrupts is None:
        adopt_interrupts(ignores_interrupts())
    _signal.signal(_signal.SIGINT, _signal.SIG_IGN)


def ignores_interrupts():
    """Whether this process ignores Ctrl-C, as one does that a script has started with `&`."""
    return _signal.getsignal(_signal.SIGINT) == _signal.SIG_IGN


def adopt_interrupts(ignored):
    """In a process that will be a worker, or fork some: note whether the program ignores Ctrl-C."""
    global _program_ignores_interrupts
    _program_ignores_interrupts = ignored


def program_ignores_interrupts():
    """In a worker that begins: whether its program ignores Ctrl-C.  What it forks itself has it for its program."""
    known = _program_ignores_interrupts
    adopt_interrupts(None)
    return ignores_interrupts() if known is None else known


def reset_in_child():
    """In a process that is no part of the program: what the program would handle is not for it to handle.

    A signal must not reach the program through the file descriptor that wakes its loop, and SIGTERM ends the process.
    """
    _signal.set_wakeup_fd(-1)
    _signal.signal(_signal.SIGTERM, _signal.SIG_DFL)


def handle_stops(handler):
    """In a worker: have a handler called when its parent wants a call to end; a process that a task forks has none."""

    def reset():
        if _signal.getsignal(STOP) is handler:
            _signal.signal(STOP, _signal.SIG_DFL)

    _signal.signal(STOP, handler)
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, [STOP])  # whatever the program blocks
    os.register_at_fork(after_in_child=reset)


class BlockInterrupts:
    """Within `with BlockInterrupts() as mask:` this thread blocks SIGINT, as what it starts meanwhile will find it.

    mask: the signals that the thread had blocked.
    """

    def __enter__(self):
        self._mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, [_signal.SIGINT])
        return self._mask

    def __exit__(self, *exc):
        _signal.pthread_sigmask(_signal.SIG_SETMASK, self._mask)


def call_interruptibly(function, *args):
    """Within such a block: call a function that may be interrupted, and handlers at once meanwhile."""
    deferred = _current if threading.current_thread() is threading.main_thread() else None
    if deferred is None:
        return function(*args)
    deferred._lets_through = True
    try:
        deferred._call_noted()
        return function(*args)
    finally:
        deferred._lets_through = False
