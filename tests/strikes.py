"""A signal that comes between two steps of the main thread: strike() chooses the step, where a timer only meets it."""

import ctypes
import signal
import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any


class Alarm(TimeoutError):
    """What the signal's handler raises, as those do that bound a call's time: an OSError, even."""


class _Signal:
    """To read `comes` has the signal come, and runs no handler yet: bytecode that calls something does that."""

    _as_parameter_ = int(signal.SIGUSR1)
    comes = property(ctypes.PYFUNCTYPE(None, ctypes.c_int)(("PyErr_SetInterruptEx", ctypes.pythonapi)))


def strike(code: CodeType, line: int, run: Callable[[], Any]) -> bool:
    """Call run(); the signal comes when so many lines of a function are done, counted as they run, and the next begins.

    Raises Alarm, unless that is lost: then it returns whether the handler was called.
    """
    a_signal = _Signal()
    was_called = False

    def handle(signum: int, frame: FrameType | None) -> None:
        nonlocal was_called
        was_called = True
        raise Alarm

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal line
        if frame.f_code is not code:
            return None
        if event == "line":
            line -= 1
            if line == -1:
                return a_signal.comes  # None; the function goes on, and nothing was called since
        return trace

    handler, tracer = signal.signal(signal.SIGUSR1, handle), sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(tracer)
        signal.signal(signal.SIGUSR1, handler)
    return was_called
