"""Checks the arguments of executors and of their options(), and makes the view."""

import math
import sys

__all__ = ["ON_CANCEL", "are_default", "as_bytes", "change", "check_idle_timeout", "make_view"]

# As _core.Executor's _options count them.
ON_CANCEL = ("abandon", "interrupt", "kill")


def change(options, *, timeout=None, deadline=None, on_cancel=None, grace=None, name=None, ways=ON_CANCEL):
    """Return an executor's _options with others in place of those that are not None; ways: which on_cancel it knows."""
    how, seconds, old_timeout, old_deadline, old_name = options
    if on_cancel is not None:
        if on_cancel not in ways:
            raise ValueError(f"on_cancel must be {_list(ways)}, not {on_cancel!r}")
        how = ON_CANCEL.index(on_cancel)
    if grace is not None:
        seconds = _check_seconds("grace", grace)
    if timeout is not None:
        old_timeout = _unlimited(_check_seconds("timeout", timeout))
    if deadline is not None:
        instant = _as_float("deadline", deadline, "a time by time.monotonic()")
        if not instant > -math.inf:
            raise ValueError(f"deadline must be a time by time.monotonic(), not {deadline!r}")
        old_deadline = _unlimited(instant)
    if name is not None and not isinstance(name, str):
        raise TypeError(f"name must be a str, not {type(name).__name__}")
    return how, seconds, old_timeout, old_deadline, old_name if name is None else name


def _list(words):
    *others, last = map(repr, words)
    return f"{', '.join(others)} or {last}"


def _check_seconds(name, value):
    seconds = _as_float(name, value, "a number of seconds")
    if not seconds >= 0:
        raise ValueError(f"{name} must be a number of seconds, 0 or more, not {value!r}")
    return seconds


def _as_float(name, value, what):
    if not hasattr(value, "__float__") and not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be {what}, not {type(value).__name__}")
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _unlimited(value):
    return None if value == math.inf else value


def are_default(executor):
    """Whether the calls of an executor are as those of the standard library's: what stops them is their own end."""
    how, _, timeout, deadline, name = executor._options
    return how == 0 and timeout is deadline is name is None


def check_idle_timeout(seconds):
    """Raise TypeError or ValueError for an `idle_timeout` that is neither None nor a number above 0."""
    if seconds is None:
        return
    if not isinstance(seconds, (int, float)) or isinstance(seconds, bool):
        raise TypeError(f"idle_timeout must be a number, not {type(seconds).__name__}")
    if not seconds > 0:
        raise ValueError(f"idle_timeout must be greater than 0, not {seconds!r}")


def as_bytes(name, size):
    """Return a number of bytes above 0 that may be given as a string, such as "2GiB" or "500 MB"; None as it is."""
    if size is None:
        return None
    if isinstance(size, str):
        size = _parse_bytes(name, size)
    if not isinstance(size, int) or isinstance(size, bool):
        raise TypeError(f"{name} must be an integer or a string, not {type(size).__name__}")
    if size <= 0:
        raise ValueError(f"{name} must be greater than 0")
    return size


def _parse_bytes(name, text):
    number = text.rstrip(" bikmgtBIKMGT")
    unit = text[len(number) :].strip().lower()
    sizes = {"": 1, "b": 1}
    for power, letter in enumerate("kmgt", 1):
        sizes |= {f"{letter}b": 1000**power, f"{letter}ib": 1024**power}
    try:
        return int(float(number) * sizes[unit])
    except (KeyError, ValueError, OverflowError):
        raise ValueError(f"{name} must be a number of bytes, such as '2GiB' or '2GB', not {text!r}") from None


def make_view(executor, options):
    """Return an executor of the same class, on the same workers, with other _options."""
    if "asyncio" in sys.modules:  # the first call on a loop like uvloop's, too, is to be known as one
        from pyconc import _asyncio_glue

        _asyncio_glue.adopt_running_loop()
    return executor._view(*options)
