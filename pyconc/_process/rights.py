"""Tells executors when the program gives up rights, since their workers have them still.

To ask the kernel at each submit would cost a tenth of it.  So the functions of `os` that change rights tell, once an
executor has been made in a program that has any to give up.  What a library changes without them is seen when the next
worker starts.
"""

import functools
import os

from pyconc._process import process_state

__all__ = ["watch"]

_NAMES = (
    "chroot",
    "initgroups",
    "setegid",
    "seteuid",
    "setgid",
    "setgroups",
    "setns",
    "setregid",
    "setresgid",
    "setresuid",
    "setreuid",
    "setuid",
    "unshare",
)

_listeners = []


def watch(listener):
    """Have listener() called, from now on and once, after each change that a function of `os` has made."""
    if listener in _listeners or not process_state.is_privileged():
        return
    if not _listeners:
        for name in _NAMES:
            function = getattr(os, name, None)
            if function is not None:
                setattr(os, name, _telling(function))
    _listeners.append(listener)


def _telling(function):
    @functools.wraps(function)
    def change(*args, **kwargs):
        result = function(*args, **kwargs)
        for listener in list(_listeners):
            listener()
        return result

    return change
