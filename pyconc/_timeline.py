"""The records of a trace as a timeline for Perfetto: Chrome's trace events, in JSON.

A lane is what that format calls a thread.  The program's threads have one each.  A worker process is a process of its
own, and what it runs is on the first lane that is free then: a CoroutinePool's workers have several.  A call is a slice
on the lane where it ran, with an arrow from another one where it was submitted.  What never began, the beginning and
the end of a worker, and that a map() takes calls from a worker for an idle one, are instants.  Each pool has a counter
of its calls that wait.

The records come in the order in which calls were submitted, and each says when its call began and ended.  So these
moments wait in a heap until the records have come as far.  Nothing is kept of what has been written but the calls that
have not ended yet.
"""

import heapq
import json
import os
import struct
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from pyconc import _core

if TYPE_CHECKING:
    from typing_extensions import CapsuleType

__all__ = ["describe"]

# trace_record of csrc/core/trace_log.h, and its enumerations.
_RECORD = struct.Struct("qqqIIIIIBBBx")
_CALL, _STEAL, _DELIVERY, _WORKER_BEGIN, _WORKER_END = range(5)
_ENDINGS = ["returned", "failed", "cancelled", "timed out", "died", "abandoned"]
_DIED = _ENDINGS.index("died")

# So many records become text before that is written.
_BATCH = 1000


class _Call(NamedTuple):
    name: str  # in JSON
    pool: int
    submitted: int  # which also says which call it is
    began: int  # 0: it has not
    ended: int  # 0: it has not
    process: int
    thread: int  # of the program, where it ran, or where it was decided that it never would; of a worker: 0
    calls: int
    outcome: str


class _Lanes:
    """The lanes of a worker process; the lowest that is free comes next."""

    def __init__(self) -> None:
        self.count = 0
        self._free: list[int] = []

    def take(self) -> int:
        if self._free:
            return heapq.heappop(self._free)
        self.count += 1
        return self.count

    def give_back(self, lane: int) -> None:
        heapq.heappush(self._free, lane)


class _Timeline:
    def __init__(self, trace: "CapsuleType") -> None:
        self._trace = trace
        self._began, self._ended, self.missing, self._full_since, names, self._threads = _core.trace_describe(trace)
        self._names = [json.dumps(name) for name in names]
        self._pid = os.getpid()
        self._to_come: list[tuple[int, int, bool, _Call]] = []  # a heap: when, which call, whether it ends then
        self._left: list[_Call] = []  # that had not ended with the trace
        self._queued: dict[int, int] = {}  # by pool
        self._workers: dict[int, _Lanes] = {}  # by process
        self._pool_of: dict[int, int] = {}  # the same
        self._lane_of: dict[int, int] = {}  # by call, while it runs in a worker

    def events(self) -> Iterator[list[str]]:
        """Return all of them, in lists of some."""
        while records := _core.trace_read(self._trace, _BATCH):
            events: list[str] = []
            for time, began, ended, thread, runner, name, pool, count, kind, end, is_process in _RECORD.iter_unpack(
                records
            ):
                self._come_to(time, events)
                if kind == _CALL:
                    process = runner if is_process else self._pid
                    where = 0 if is_process else runner
                    outcome = _ENDINGS[end] if ended else "not ended"
                    call = _Call(self._name(name, '"call"'), pool, time, began, ended, process, where, count, outcome)
                    self._submit(events, call, thread)
                elif kind == _STEAL:
                    args = f'{{"call":{self._number(began)},"calls":{count}}}'
                    events.append(self._instant(time, self._pid, thread, f'"steal {count} calls"', "steal", args))
                elif kind == _DELIVERY:
                    events.append(
                        f'{{"ph":"X","name":"deliver","cat":"loop",{self._span(began, time, self._pid, thread)},'
                        f'"args":{{"results":{count}}}}}'
                    )
                else:
                    what = "begins" if kind == _WORKER_BEGIN else "dies" if end == _DIED else "ends"
                    self._worker(thread, pool)
                    events.append(self._instant(time, thread, 1, f'"worker {what}"', "worker", "{}"))
            yield events
        events = []
        self._come_to(sys.maxsize, events)
        yield [*events, *self._not_ended(), *self._missing(), *self._lane_names()]

    # ---- calls ----

    def _submit(self, events: list[str], call: _Call, thread: int) -> None:
        where = self._at(call.submitted, self._pid, thread)
        id = self._number(call.submitted)
        # The arrow begins in a slice. The next event of this thread comes later than that one ends.
        events.append(
            f'{{"ph":"X","name":"submit {call.name[1:]},"cat":"submit",{where},"dur":0.001,"args":{{"call":{id}}}}}'
        )
        events.append(f'{{"ph":"s","name":"run","cat":"run","id":{id},{where}}}')
        events.append(self._counter(call.submitted, call.pool, 1))
        if call.began or call.ended:
            heapq.heappush(self._to_come, (call.began or call.ended, call.submitted, not call.began, call))
        else:
            self._left.append(call)

    def _come_to(self, time: int, events: list[str]) -> None:
        """Tell of the beginnings and ends up to then."""
        while self._to_come and self._to_come[0][0] <= time:
            now, id, ends, call = heapq.heappop(self._to_come)
            if not call.began or not ends:
                events.append(self._counter(now, call.pool, -1))
            if not ends:
                if not call.thread:
                    self._lane_of[id] = self._worker(call.process, call.pool).take()
                if call.ended:
                    heapq.heappush(self._to_come, (call.ended, id, True, call))
                else:
                    self._left.append(call)
            elif call.began:
                events.extend(self._run(call))
            else:
                events.append(self._unbegun(call, now, call.thread))

    def _run(self, call: _Call) -> Iterator[str]:
        lane = call.thread
        if not lane:
            lane = self._lane_of.pop(call.submitted)
            self._workers[call.process].give_back(lane)
        args = self._args(call, f',"waited_us":{(call.began - call.submitted) / 1000:.3f},"calls":{call.calls}')
        span = self._span(call.began, call.ended or self._ended, call.process, lane)
        yield f'{{"ph":"X","name":{call.name},"cat":"call",{span},"args":{args}}}'
        where = self._at(call.began, call.process, lane)
        yield f'{{"ph":"f","bp":"e","name":"run","cat":"run","id":{self._number(call.submitted)},{where}}}'

    def _unbegun(self, call: _Call, time: int, thread: int) -> str:
        name = f'{call.name[:-1]} {call.outcome}"'
        return self._instant(time, self._pid, thread, name, "unbegun", self._args(call))

    # ---- the end ----

    def _not_ended(self) -> Iterator[str]:
        for call in self._left:
            if call.began:
                yield from self._run(call)
            else:  # of a worker process nobody hears that a call has begun before it ends
                yield self._unbegun(call, self._ended, 0)

    def _missing(self) -> Iterator[str]:
        if self.missing:
            name = f'"full: {self.missing} calls from here on are missing"'
            where = self._at(self._full_since, self._pid, 0)
            yield f'{{"ph":"i","s":"g","name":{name},"cat":"trace",{where},"args":{{"missing":{self.missing}}}}}'

    def _lane_names(self) -> Iterator[str]:
        program = os.path.basename(sys.argv[0]) if getattr(sys, "argv", None) else ""
        yield self._metadata("process_name", self._pid, 0, json.dumps(program or "python"))
        yield self._metadata("thread_name", self._pid, 0, '"trace"')
        for thread, number in self._threads:
            yield self._metadata("thread_name", self._pid, thread, self._name(number, f'"thread {thread}"'))
        for process, lanes in self._workers.items():
            pool = self._name(self._pool_of[process], '"pool"')
            yield self._metadata("process_name", process, 0, f'{pool[:-1]} worker {process}"')
            for lane in range(1, max(lanes.count, 1) + 1):
                yield self._metadata("thread_name", process, lane, '"calls"' if lane == 1 else f'"calls {lane}"')

    # ---- text ----

    def _name(self, number: int, default: str) -> str:
        return self._names[number] if number < len(self._names) else default

    def _worker(self, process: int, pool: int) -> _Lanes:
        self._pool_of[process] = pool
        return self._workers.setdefault(process, _Lanes())

    def _number(self, submitted: int) -> int:
        """Return what a call is known by: a number that a float can be, which it must be for some who read JSON."""
        return submitted - self._began

    def _at(self, time: int, process: int, lane: int) -> str:
        return f'"pid":{process},"tid":{lane},"ts":{(time - self._began) / 1000:.3f}'

    def _span(self, began: int, ended: int, process: int, lane: int) -> str:
        return f'{self._at(began, process, lane)},"dur":{(ended - began) / 1000:.3f}'

    def _args(self, call: _Call, more: str = "") -> str:
        pool = self._name(call.pool, "null")
        return f'{{"call":{self._number(call.submitted)},"pool":{pool},"outcome":"{call.outcome}"{more}}}'

    def _counter(self, time: int, pool: int, change: int) -> str:
        calls = self._queued[pool] = self._queued.get(pool, 0) + change
        name = self._name(pool, '"pool"')
        where = self._at(time, self._pid, 0)
        return f'{{"ph":"C","name":{name[:-1]}: queued","cat":"queue",{where},"args":{{"calls":{calls}}}}}'

    def _instant(self, time: int, process: int, lane: int, name: str, category: str, args: str) -> str:
        return f'{{"ph":"i","s":"t","name":{name},"cat":"{category}",{self._at(time, process, lane)},"args":{args}}}'

    def _metadata(self, what: str, process: int, lane: int, name: str) -> str:
        return f'{{"ph":"M","name":"{what}","pid":{process},"tid":{lane},"ts":0,"args":{{"name":{name}}}}}'


def describe(trace: "CapsuleType", **facts: Any) -> Iterator[bytes]:
    """Return what _core.trace_stop() has returned as a JSON document, piece by piece; facts: what else it is to say."""
    timeline = _Timeline(trace)
    facts["missing_calls"] = timeline.missing
    yield f'{{"displayTimeUnit":"ms","otherData":{json.dumps(facts)},"traceEvents":[\n'.encode()
    separator = ""
    for events in timeline.events():
        if events:
            yield (separator + ",\n".join(events)).encode()
            separator = ",\n"
    yield b"\n]}\n"
