"""Makes the timeline of top's key `t`: the calls that workers of another program run, seen from outside.

The program is not asked, see _dump.py: its executors' memory is looked at many times a second.  A worker says there
when the call that it runs has begun, so a call that is seen begins in the timeline when it did; in a thread, when the
kernel's clock ticked last before.  It ends with the first look that does not find it any more, or with the beginning of
the worker's next call.  Calls that come and go between two looks are not drawn, but the executor has counted them:
there are counters of how many calls have ended, and of how many run and wait.  Of the coroutines of a worker the one
that began first is drawn, from when it is that; of the calls of a thread of which one waits for the next, the last.

A look takes a while, and the memory tells for how long the call runs, so when it began is known to lie between two
times.  Two looks have seen one call if it may have begun at the same time in both, and either no call has ended in
between, or it had begun well before the first of them: threads begin several calls within a tick of the clock.

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
_TICK = 0.02  # of the kernel's clock, at most
_ENDED = ("completed", "failed", "cancelled", "timed_out", "died")


class _Call:
    """One that a worker runs; it began between two times."""

    def __init__(self, member: dict[str, Any], before: float, after: float) -> None:
        """Take over what a look between two times has seen of a worker."""
        self.name = _dump.clean(member["task"] or "call")
        self.earliest: float = before - member["running_for"]
        self.latest: float = after - member["running_for"]
        self.seen = before  # last
        self.ended_before: int = member["calls"]  # how many the worker had ended
        self.running: int = member["running"]  # how many it ran

    def is_same_as(self, before: _Call, one_at_a_time: bool) -> bool:
        is_new = self.ended_before != before.ended_before and self.latest > before.seen - _TICK
        if one_at_a_time and is_new:
            return False
        return self.earliest <= before.latest + _ROUNDING and before.earliest <= self.latest + _ROUNDING


class Watch:
    """A timeline that is being made of a program.  One thread.

    Raises NotSeen if there are no executors to watch.
    """

    def __init__(self, pid: int) -> None:
        self._pid = self._own_number = pid
        self._events: list[dict[str, Any]] = []
        self._counters: dict[tuple[int, str], int] = {}  # what they were drawn at last
        self._running: dict[tuple[int, int], _Call] = {}  # by the executor's place and the worker's lane
        self._drawn: dict[tuple[int, int], float] = {}  # the same, until when; they have names
        self._pids: dict[tuple[int, int], int] = {}  # the same
        self._places: dict[tuple[int, int], int] = {}  # of executors that are there: by file and number in it
        self._named = 0  # how many executors have been seen
        self._began = time.monotonic()
        self._regions: dict[int, str] = {}  # files of executors with worker processes
        self._tables: dict[int, str] = {}  # and of all that have threads
        with contextlib.suppress(OSError):
            processes = _dump.Processes()
            self._regions = _dump.find_pools(pid, processes)
            self._tables = _dump.find_tables(pid)
            self._own_number = _dump.number_inside(pid)
        self.look()
        if not self._places:
            raise _dump.NotSeen("there is no executor to trace")

    def look(self) -> bool:
        """See what the executors do now; return whether there may be any later."""
        gone = dict(self._places)
        for files in (self._regions, self._tables):
            for inode, path in list(files.items()):
                before = time.monotonic()
                try:
                    # Another file may have its number by now.
                    pools = self._read(inode, path) if os.stat(path).st_ino == inode else None
                except (OSError, ValueError):
                    pools = None
                if pools is None:
                    del files[inode]  # it was shut down, or the program has ended
                    continue
                after = time.monotonic()
                for number, pool in pools:
                    gone.pop((inode, number), None)
                    self._see(self._place(inode, number, pool), pool, before, after)
        now = time.monotonic()
        for key, place in gone.items():
            del self._places[key]
            self._see(place, {"kind": "", "members": []}, now, now)
        return bool(self._regions or self._tables)

    def _read(self, inode: int, path: str) -> list[tuple[int, dict[str, Any]]]:
        """Return the executors in a file, each with its number; raises OSError or ValueError."""
        if inode in self._regions:
            return [(0, _dump.read_pool(path))]
        return _dump.read_table(path, self._own_number)[0]

    def _place(self, inode: int, number: int, pool: dict[str, Any]) -> int:
        """Return an executor's place in the timeline."""
        key = inode, number
        if key not in self._places:
            self._named += 1
            self._places[key] = place = self._named
            self._name("process_name", place, 0, f"{_dump.clean(pool['name'])} ({pool['kind']}) of {self._pid}")
            if pool["kind"] != "threads":
                with contextlib.suppress(OSError):
                    _dump.add_processes(self._pid, {inode: pool}, _dump.Processes())
                self._pids |= {(place, _lane(pool, member)): member["pid"] for member in pool["members"]}
        return self._places[key]

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
        one_at_a_time = pool["kind"] != "coroutines"
        found = {}
        for member in pool["members"]:
            key = place, _lane(pool, member)
            if key not in self._drawn:
                self._drawn[key] = self._began
                process = "" if self._pids.get(key) is None else f", process {self._pids[key]}"
                is_thread = pool["kind"] == "threads"
                name = f"thread {member['pid']}" if is_thread else f"worker {member['number']}{process}"
                self._name("thread_name", *key, name)
            if member["running_for"] is not None:
                found[key] = _Call(member, before, after)
        for key, call in [(key, call) for key, call in self._running.items() if key[0] == place]:
            new = found.get(key)
            if new is not None and new.is_same_as(call, one_at_a_time):
                new.earliest = max(new.earliest, call.earliest)
                new.latest = min(new.latest, call.latest)
                continue
            del self._running[key]
            ended, outcome = before, "ended"
            if new is not None and one_at_a_time and new.earliest >= call.earliest:
                ended = min(before, new.earliest)
                outcome = "waits" if new.running > call.running else "ended"
            self._events.append(self._slice(key, call, ended, outcome))
        self._running.update(found)
        if pool["kind"]:
            self._count(place, "queued", pool["queued"], before)
            self._count(place, "running", pool["running"], before)
            self._count(place, "ended", sum(pool[how] for how in _ENDED), before)

    # ---- events ----

    def _slice(self, key: tuple[int, int], call: _Call, ended: float, outcome: str) -> dict[str, Any]:
        place, lane = key
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


def _lane(pool: dict[str, Any], member: dict[str, Any]) -> int:
    """Return the lane of a worker of an executor; 0 is the executor's own."""
    lane: int = member["pid"] if pool["kind"] == "threads" else member["number"] + 1
    return lane
