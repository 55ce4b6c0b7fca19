"""The records of a trace as a timeline for Perfetto: Chrome's trace events, in JSON.

A lane is what that format calls a thread.  The program's threads have one each.  A worker process is a process of its
own, and what it runs is on the first lane that is free then: a CoroutinePool's workers have several.  A call is a slice
on the lane where it ran, with an arrow from another one where it was submitted.  What never began, the beginning and
the end of a worker, and that a map() takes calls from a worker for an idle one, are instants.  Each pool has a counter
of its calls that wait.

Nothing is kept of what has been written but the calls that have not ended yet.
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
_RECORD = struct.Struct("qqIIIBBBx")
_WORKER_BEGIN, _SUBMIT, _BEGIN, _STEAL, _END, _DELIVERY, _WORKER_END = range(7)
_ENDINGS = ["returned", "failed", "cancelled", "timed out", "died", "abandoned"]
_DIED = _ENDINGS.index("died")

# So many records become text before that is written.
_BATCH = 2000


class _Call(NamedTuple):
    name: str  # in JSON
    pool: int
    submitted: int


class _Run(NamedTuple):
    began: int
    process: int
    lane: int
    calls: int


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
        self._calls: dict[int, _Call] = {}  # that have not ended
        self._runs: dict[int, _Run] = {}  # of these, where they run
        self._queued: dict[int, int] = {}  # by pool
        self._workers: dict[int, _Lanes] = {}  # by process
        self._pool_of: dict[int, int] = {}  # the same

    def events(self) -> Iterator[list[str]]:
        """Return all of them, in lists of some."""
        while records := _core.trace_read(self._trace, _BATCH):
            events: list[str] = []
            for time, call, thread, number, pool, kind, ending, is_worker in _RECORD.iter_unpack(records):
                if kind == _SUBMIT:
                    self._submit(events, time, call, thread, number, pool)
                elif kind == _BEGIN:
                    self._begin(events, time, call, thread, number, is_worker)
                elif kind == _END:
                    self._end(events, time, call, thread, _ENDINGS[ending])
                elif kind == _STEAL:
                    args = f'{{"call":{call},"calls":{number}}}'
                    events.append(self._instant(time, self._pid, thread, f'"steal {number} calls"', "steal", args))
                elif kind == _DELIVERY:
                    events.append(
                        f'{{"ph":"X","name":"deliver","cat":"loop",{self._span(call, time, self._pid, thread)},'
                        f'"args":{{"results":{number}}}}}'
                    )
                else:
                    what = "begins" if kind == _WORKER_BEGIN else "dies" if ending == _DIED else "ends"
                    self._worker(thread, number)
                    events.append(self._instant(time, thread, 1, f'"worker {what}"', "worker", "{}"))
            yield events
        yield [*self._left(), *self._missing(), *self._lane_names()]

    # ---- records ----

    def _submit(self, events: list[str], time: int, call: int, thread: int, number: int, pool: int) -> None:
        name = self._name(number, '"call"')
        self._calls[call] = _Call(name, pool, time)
        self._queued[pool] = self._queued.get(pool, 0) + 1
        where = self._at(time, self._pid, thread)
        # The arrow begins in a slice. The next event of this thread comes later than that one ends.
        events.append(
            f'{{"ph":"X","name":"submit {name[1:]},"cat":"submit",{where},"dur":0.001,"args":{{"call":{call}}}}}'
        )
        events.append(f'{{"ph":"s","name":"run","cat":"run","id":{call},{where}}}')
        events.append(self._counter(time, pool))

    def _begin(self, events: list[str], time: int, call: int, thread: int, calls: int, is_worker: int) -> None:
        known = self._calls[call]
        self._queued[known.pool] -= 1
        events.append(self._counter(time, known.pool))
        if is_worker:
            self._runs[call] = _Run(time, thread, self._worker(thread, known.pool).take(), calls)
        else:
            self._runs[call] = _Run(time, self._pid, thread, calls)

    def _end(self, events: list[str], time: int, call: int, thread: int, outcome: str) -> None:
        known = self._calls.pop(call)
        run = self._runs.pop(call, None)
        if run is not None:
            events.extend(self._run(time, call, known, run, outcome))
            return
        self._queued[known.pool] -= 1
        events.append(self._counter(time, known.pool))
        name = f'{known.name[:-1]} {outcome}"'
        events.append(self._instant(time, self._pid, thread, name, "unbegun", self._args(call, known, outcome)))

    def _run(self, time: int, call: int, known: _Call, run: _Run, outcome: str) -> Iterator[str]:
        if run.process != self._pid:
            self._workers[run.process].give_back(run.lane)
        more = f',"waited_us":{(run.began - known.submitted) / 1000:.3f},"calls":{run.calls}'
        span = self._span(run.began, time, run.process, run.lane)
        args = self._args(call, known, outcome, more)
        yield f'{{"ph":"X","name":{known.name},"cat":"call",{span},"args":{args}}}'
        where = self._at(run.began, run.process, run.lane)
        yield f'{{"ph":"f","bp":"e","name":"run","cat":"run","id":{call},{where}}}'

    # ---- the end ----

    def _left(self) -> Iterator[str]:
        """Yield the calls that had not ended with the trace."""
        for call, known in list(self._calls.items()):
            run = self._runs.get(call)
            if run is not None:
                yield from self._run(self._ended, call, known, run, "not ended")
            else:  # of a worker process nobody hears that a call has begun before it ends
                name = f'{known.name[:-1]} not ended"'
                yield self._instant(self._ended, self._pid, 0, name, "unbegun", self._args(call, known, "not ended"))

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

    def _at(self, time: int, process: int, lane: int) -> str:
        return f'"pid":{process},"tid":{lane},"ts":{(time - self._began) / 1000:.3f}'

    def _span(self, began: int, ended: int, process: int, lane: int) -> str:
        return f'{self._at(began, process, lane)},"dur":{(ended - began) / 1000:.3f}'

    def _args(self, call: int, known: _Call, outcome: str, more: str = "") -> str:
        return f'{{"call":{call},"pool":{self._name(known.pool, "null")},"outcome":"{outcome}"{more}}}'

    def _counter(self, time: int, pool: int) -> str:
        name = self._name(pool, '"pool"')
        where = self._at(time, self._pid, 0)
        return f'{{"ph":"C","name":{name[:-1]}: queued","cat":"queue",{where},"args":{{"calls":{self._queued[pool]}}}}}'

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
