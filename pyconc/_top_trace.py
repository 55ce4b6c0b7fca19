"""Makes the timeline of top's key `t`: the calls that workers of another program run, seen from outside.

The program is not asked, see _dump.py: its executors' memory is looked at many times a second.  A worker says there
when the call that it runs has begun, so a call that is seen begins in the timeline when it did.  It ends with the first
look that does not find it any more, or with the beginning of the worker's next call.  Calls that come and go between
two looks are not drawn, but the executor has counted them: there are counters of how many calls have ended, and of how
many run and wait.  Of the coroutines of a worker the one that began first is drawn, from when it is that.

A look takes a while, and the memory tells for how long the call runs, so when it began is known to lie between two
times.  Two looks have seen one call if it may have begun at the same time in both.

The file is for https://ui.perfetto.dev, as pyconc.trace's: there each executor is a process, and a worker a thread.
"""

from __future__ import annotations

import contextlib
import os
import time

from pyconc import _dump

TYPE_CHECKING = False  # typing takes longer to import than this package
if TYPE_CHECKING:
    from typing import Any

__all__ = ["SECONDS", "STEP", "Watch"]

SECONDS = 5.0  # for how long
STEP = 0.002  # between two looks

_ROUNDING = 1e-6
_ENDED = ("completed", "failed", "cancelled", "timed_out", "died")


class _Call:
    """One that a worker runs; it began between two times."""

    def __init__(self, name: str, earliest: float, latest: float, ended_before: int) -> None:
        self.name = name
        self.earliest = earliest
        self.latest = latest
        self.ended_before = ended_before  # how many the worker had ended

    def is_same_as(self, other: _Call, one_at_a_time: bool) -> bool:
        if one_at_a_time and self.ended_before != other.ended_before:
            return False
        return self.earliest <= other.latest + _ROUNDING and other.earliest <= self.latest + _ROUNDING


class Watch:
    """A timeline that is being made of a program.  One thread.

    Raises NotSeen if there are no executors with worker processes to watch.
    """

    def __init__(self, pid: int) -> None:
        self._events: list[dict[str, Any]] = []
        self._counters: dict[tuple[int, str], int] = {}  # what they were drawn at last
        self._running: dict[tuple[int, int], _Call] = {}  # by executor and worker
        self._drawn: dict[tuple[int, int], float] = {}  # the same, until when; they have names
        self._pids: dict[tuple[int, int], int] = {}  # the same
        self._began = time.monotonic()
        try:
            processes = _dump.Processes()
            self._files = _dump.find_pools(pid, processes)
            pools = {}
            for inode, path in self._files.items():
                with contextlib.suppress(OSError, ValueError):
                    pools[inode] = _dump.read_pool(path)
        except OSError:
            pools = {}
        if not pools:
            raise _dump.NotSeen("there is no executor with worker processes to trace")
        _dump.add_processes(pid, pools, processes)
        self._places = {inode: place for place, inode in enumerate(pools, 1)}
        for inode, pool in pools.items():
            name = f"{_dump.clean(pool['name'])} ({pool['kind']}) of {pid}"
            self._name("process_name", self._places[inode], 0, name)
            for member in pool["members"]:
                self._pids[self._places[inode], member["number"]] = member["pid"]

    def look(self) -> bool:
        """See what the executors do now; return whether there is one left."""
        for inode, place in list(self._places.items()):
            path = self._files[inode]
            before = time.monotonic()
            try:
                # Another file may have its number by now.
                pool = _dump.read_pool(path) if os.stat(path).st_ino == inode else None
            except (OSError, ValueError):
                pool = None
            if pool is None:
                del self._places[inode]  # it was shut down, or the program has ended
                self._see(place, {"kind": "", "members": []}, before, before)
            else:
                self._see(place, pool, before, time.monotonic())
        return bool(self._places)

    def write(self, path: str) -> None:
        """End, and write a file that must not be there yet; raises OSError."""
        import gzip
        import json

        now = time.monotonic()
        left = [self._slice(key, call, now, "not ended") for key, call in self._running.items()]
        timeline = {"displayTimeUnit": "ms", "traceEvents": self._events + left}
        written = gzip.compress(json.dumps(timeline).encode(), compresslevel=4)
        with open(path, "xb") as file:
            try:
                file.write(written)
                file.flush()
            except OSError:
                os.unlink(path)
                raise

    def _see(self, place: int, pool: dict[str, Any], before: float, after: float) -> None:
        """Take over what a look between two times has found in an executor."""
        one_at_a_time = pool["kind"] == "processes"
        found = {}
        for member in pool["members"]:
            key = place, member["number"]
            if key not in self._drawn:
                self._drawn[key] = self._began
                process = "" if self._pids.get(key) is None else f", process {self._pids[key]}"
                self._name("thread_name", *self._lane(key), f"worker {member['number']}{process}")
            if (seconds := member["running_for"]) is not None:
                name = _dump.clean(member["task"] or "call")
                found[key] = _Call(name, before - seconds, after - seconds, member["calls"])
        for key, call in [(key, call) for key, call in self._running.items() if key[0] == place]:
            new = found.get(key)
            if new is not None and new.is_same_as(call, one_at_a_time):
                new.earliest = max(new.earliest, call.earliest)
                new.latest = min(new.latest, call.latest)
            else:
                del self._running[key]
                ended = min(before, new.earliest) if new is not None and one_at_a_time else before
                self._events.append(self._slice(key, call, ended, "ended"))
        self._running.update(found)
        if pool["kind"]:
            self._count(place, "queued", pool["queued"], before)
            self._count(place, "running", pool["running"], before)
            self._count(place, "ended", sum(pool[how] for how in _ENDED), before)

    # ---- events ----

    def _lane(self, key: tuple[int, int]) -> tuple[int, int]:
        place, number = key
        return place, number + 1  # 0 is the executor's own

    def _slice(self, key: tuple[int, int], call: _Call, ended: float, outcome: str) -> dict[str, Any]:
        place, lane = self._lane(key)
        began = max(call.earliest, self._drawn[key])
        ended = self._drawn[key] = max(ended, began)
        args = {"seconds": round(ended - call.earliest, 6), "outcome": outcome}
        times = {"ts": self._time(began), "dur": round((ended - began) * 1e6, 3)}
        return {"ph": "X", "name": call.name, "cat": "call", "pid": place, "tid": lane, **times, "args": args}

    def _count(self, place: int, what: str, number: int, now: float) -> None:
        if self._counters.get((place, what)) != number:
            self._counters[place, what] = number
            where = {"pid": place, "tid": 0, "ts": self._time(now)}
            self._events.append({"ph": "C", "name": what, "cat": "queue", **where, "args": {"calls": number}})

    def _name(self, what: str, place: int, lane: int, name: str) -> None:
        self._events.append({"ph": "M", "name": what, "pid": place, "tid": lane, "ts": 0, "args": {"name": name}})

    def _time(self, seconds: float) -> float:
        """In microseconds, since the beginning."""
        return round((seconds - self._began) * 1e6, 3)
