"""Where threads of another program are: by a tool that reads its memory, if there is one; for top and dump --stacks.

It is py-spy, if that is installed, or else the profiler of Python 3.15, which needs the same Python in the program.
Neither stops the program, nor sends it anything, and both need the right to trace it, as a debugger does.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

TYPE_CHECKING = False  # typing takes longer to import than this package
if TYPE_CHECKING:
    from typing import Any

__all__ = ["HOW", "read"]

HOW = (
    "The stacks of threads are read by py-spy, or by Python 3.15 of a program on the same, with the right to trace it."
)

_SECONDS = 10.0  # for the tool


def read(pid: int) -> dict[int, str]:
    """Return the stacks of a program's threads by their numbers; none if there is no tool, or it cannot read them."""
    beside = os.path.dirname(sys.executable)
    tool = shutil.which("py-spy") or shutil.which("py-spy", path=beside)
    if tool is not None:
        return _parse_json(_run(tool, "dump", "--nonblocking", "--json", "--pid", str(pid)))
    if sys.version_info >= (3, 15):
        return _parse_text(_run(sys.executable, "-m", "profiling.sampling", "dump", "--all-threads", str(pid)))
    return {}


def _run(*command: str) -> str:
    try:
        ended = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "" if ended.returncode else ended.stdout.decode(errors="replace")


def _parse_json(text: str) -> dict[int, str]:
    import json

    found = {}
    threads: list[dict[str, Any]] = json.loads(text) if text else []
    for thread in threads:
        lines = [f"Thread {thread['os_thread_id']} (most recent call first):"]
        lines += [
            f'  File "{frame["filename"]}", line {frame["line"]} in {frame["name"]}' for frame in thread["frames"]
        ]
        found[thread["os_thread_id"]] = "\n".join([*lines, ""])
    return found


def _parse_text(text: str) -> dict[int, str]:
    # Stack dump for PID 7, thread 9 (idle; most recent call last):
    parts = re.split(r"(?m)^Stack dump.*?, thread (\d+) \((.*)\):\n", text)[1:]
    rows = zip(parts[::3], parts[1::3], parts[2::3])
    return {int(thread): f"Thread {thread} ({state}):\n{frames.rstrip()}\n" for thread, state, frames in rows}
