"""pyconc.trace: the timeline has each call once, where it ran, and obeys the rules of Chrome's trace events."""

import asyncio
import collections
import contextlib
import contextvars
import copy
import functools
import gc
import os
import signal
import sys
import threading
import weakref
from concurrent import futures

import coroutines
import jobs
import pools
import pytest
import timelines
from gates import AsyncGate, Gate, ProcessGate, block_workers
from support import HANG_LIMIT, SANITIZED, await_line, check_no_leak, run_script, start_script, wait_until

import pyconc
from pyconc import _core
from pyconc._process.chunks import CallTimes

ENDINGS = {"returned", "failed", "cancelled", "timed out", "died", "abandoned", "not ended"}


class Timeline:
    """A trace's file, which obeys the rules: the calls in it, and what else tests ask for."""

    def __init__(self, path):
        document = timelines.read(path)
        timelines.check(document)
        assert set(document) == {"displayTimeUnit", "otherData", "traceEvents"}
        self.missing = document["otherData"]["missing_calls"]
        self.events = document["traceEvents"]
        self.slices = [event for event in self.events if event["ph"] == "X"]
        self.instants = [event for event in self.events if event["ph"] == "i"]
        self.lanes = {
            (event["pid"], event["tid"]): event["args"]["name"]
            for event in self.events
            if event["name"] == "thread_name"
        }
        self.processes = {e["pid"]: e["args"]["name"] for e in self.events if e["name"] == "process_name"}
        self._find_calls()

    def _find_calls(self):
        submitted = [event for event in self.slices if event["cat"] == "submit"]
        self.ran = [event for event in self.slices if event["cat"] == "call"]
        self.unbegun = [event for event in self.instants if event["cat"] == "unbegun"]
        self.calls = self.ran + self.unbegun
        assert all(event["args"]["call"] == timelines.ns(event["ts"]) for event in submitted)
        # Each call is submitted once and ends once.
        assert {event["args"]["outcome"] for event in self.calls} <= ENDINGS
        submits = {event["args"]["call"]: event for event in submitted}
        assert len(submits) == len(submitted) == len(self.calls)
        assert set(submits) == {event["args"]["call"] for event in self.calls}
        # Arrows lead from there to where it ran.
        starts = {event["id"]: event for event in self.events if event["ph"] == "s"}
        ends = {event["id"]: event for event in self.events if event["ph"] == "f"}
        assert set(starts) == set(submits)
        assert set(ends) == {event["args"]["call"] for event in self.ran}
        for event in self.ran:
            call = event["args"]["call"]
            begin, end = starts[call], ends[call]
            place = place_of(submits[call])
            assert place_of(begin) == place
            assert place_of(end) == place_of(event)
            assert begin["ts"] <= end["ts"]
        # At the end of all calls none waits.
        queued = {event["name"]: event["args"]["calls"] for event in self.events if event["ph"] == "C"}
        assert sum(queued.values()) == sum(event["args"]["outcome"] == "not ended" for event in self.unbegun)

    def outcomes(self):
        return collections.Counter(event["args"]["outcome"] for event in self.calls)

    def only(self):
        (call,) = self.calls
        return call


def place_of(event):
    return event["pid"], event["tid"], event["ts"]


@contextlib.contextmanager
def tracing(tmp_path, name="trace.json", **options):
    """Yields a list that has the Timeline afterwards."""
    found = []
    with pyconc.trace(tmp_path / name, **options):
        yield found
    found.append(Timeline(tmp_path / name))


def outcome_of(future):
    """How a future ended, as traces call it."""
    if future.cancelled():
        return "cancelled"
    error = future.exception()
    if isinstance(error, pyconc.TaskTimeout):
        return "timed out"
    if isinstance(error, pyconc.WorkerDied):
        return "died"
    return "returned" if error is None else "failed"


def wait_until_at_rest(pool):
    """What a program has cancelled may end a moment after its future."""

    def is_at_rest():
        now = pool.stats()
        return now.submitted == now.completed + now.failed + now.cancelled + now.timed_out + now.died

    wait_until(is_at_rest, "the pool to have nothing to do")


# --- What it shows ----------------------------------------------------------------------------------------------------


def test_calls_in_threads_are_on_the_lanes_of_their_threads(tmp_path):
    with tracing(tmp_path, "trace.json.gz") as found:
        with pyconc.ThreadPoolExecutor(2, name="loader") as pool, Gate() as gate:
            held = block_workers(pool, gate, 2)
            waits = pool.submit(jobs.identity, 1)
            gate.open()
            futures.wait([*held, waits])
    (timeline,) = found
    assert timeline.outcomes() == {"returned": 3}
    assert {timeline.lanes[event["pid"], event["tid"]] for event in timeline.ran} <= {"loader_0", "loader_1"}
    assert {event["args"]["pool"] for event in timeline.calls} == {"loader"}
    assert sorted(event["name"] for event in timeline.calls) == ["Gate", "Gate", "identity"]
    submits = [event for event in timeline.slices if event["cat"] == "submit"]
    assert {(event["pid"], event["tid"]) for event in submits} == {(os.getpid(), threading.get_native_id())}
    depths = [event["args"]["calls"] for event in timeline.events if event["ph"] == "C"]
    assert depths[-1] == 0
    assert max(depths) >= 1
    assert timeline.missing == 0


@pytest.mark.parametrize("kind", [pyconc.ProcessPoolExecutor, pyconc.CoroutinePool])
def test_calls_in_processes_are_on_the_lanes_of_their_workers(tmp_path, kind):
    asks = coroutines.pid if kind is pyconc.CoroutinePool else os.getpid
    with tracing(tmp_path) as found, kind(2, name="resize") as pool:
        pids = [future.result() for future in [pool.submit(asks) for _ in range(20)]]
    (timeline,) = found
    assert timeline.outcomes() == {"returned": 20}
    assert collections.Counter(event["pid"] for event in timeline.ran) == collections.Counter(pids)
    assert all(timeline.processes[pid] == f"resize worker {pid}" for pid in pids)
    marks = collections.Counter((event["name"], event["pid"]) for event in timeline.instants)
    assert all(marks[f"worker {what}", pid] == 1 for pid in pids for what in ("begins", "ends"))


def test_coroutines_that_run_at_once_have_lanes_of_their_own(tmp_path):
    async def main():
        async with pyconc.CoroutinePool(1) as pool, AsyncGate() as gate:
            held = [pool.submit(coroutines.wait_at, gate.address) for _ in range(3)]
            for _ in held:
                await gate.hear("started")
            gate.open()
            await asyncio.gather(*map(asyncio.wrap_future, held))

    with tracing(tmp_path) as found:
        asyncio.run(main())
    assert {event["tid"] for event in found[0].ran} == {1, 2, 3}


def test_a_chunk_of_map_is_one_call_of_several(tmp_path):
    with tracing(tmp_path) as found, pyconc.ProcessPoolExecutor(1) as pool:
        assert list(pool.map(jobs.identity, range(10), chunksize=5))
    assert [event["args"]["calls"] for event in found[0].ran] == [5, 5]


def test_calls_that_a_map_takes_from_a_worker_for_another_are_marked_and_counted(tmp_path):
    queue = _core.ProcessQueue(3)  # nobody takes anything
    items = iter([threading.Lock(), 1, 2, 3])  # a chunk, but a lock cannot be pickled: [lock], [1], [2, 3]
    with tracing(tmp_path) as found:
        results = _core.MapResults(queue, int, CallTimes(), abs, items, False, False, 0, sys.maxsize, 1000.0, None)
        queue.wake()  # so that it returns
        queue.collect()
        stolen = queue.stats()[-3]
        with pytest.raises(TypeError, match="pickle"):
            next(results)
    (steal,) = [event["args"] for event in found[0].instants if event["cat"] == "steal"]
    assert steal["calls"] == stolen == 1
    assert steal["call"] in {event["args"]["call"] for event in found[0].calls}


def test_a_loop_has_a_lane_with_what_was_delivered_to_it(tmp_path):
    async def main():
        with pyconc.ThreadPoolExecutor(2) as pool:
            loop = asyncio.get_running_loop()
            await asyncio.gather(*[loop.run_in_executor(pool, jobs.identity, number) for number in range(20)])

    with tracing(tmp_path) as found:
        asyncio.run(main())
    (timeline,) = found
    assert timeline.outcomes() == {"returned": 20}
    delivered = [event for event in timeline.slices if event["cat"] == "loop"]
    assert {event["tid"] for event in delivered} == {threading.get_native_id()}
    assert (
        sum(event["args"]["results"] for event in delivered) <= 20
    )  # some may have come while run_in_executor() waited


def test_a_call_that_its_thread_waits_for_lies_in_the_one_that_waits(tmp_path):
    with tracing(tmp_path) as found, pyconc.ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: pool.submit(jobs.identity, 1).result()).result() == 1
    outer, inner = sorted(found[0].ran, key=lambda event: event["ts"])
    assert inner["ts"] + inner["dur"] <= outer["ts"] + outer["dur"]
    assert inner["tid"] == outer["tid"]


class Callable:
    def __call__(self):
        pass

    def method(self):
        pass


def test_calls_are_named_by_their_options_or_their_functions(tmp_path):
    with tracing(tmp_path) as found, pyconc.ThreadPoolExecutor(1) as pool:
        pool.options(name='"a\\b" ä').submit(jobs.identity)
        pool.options(name="\udc80").submit(jobs.identity)
        pool.submit(functools.partial(functools.partial(jobs.identity, 1), 2))
        pool.submit(contextvars.copy_context().run, jobs.identity, 1)
        pool.submit(functools.partial(contextvars.copy_context().run, jobs.identity, 1))
        pool.submit(contextvars.copy_context().items)
        pool.submit(Callable())
        pool.submit(Callable().method)
        pool.submit(Callable)
        pool.submit(len, ())
        with pyconc.ThreadPoolExecutor(1, context=True) as carrying:
            carrying.submit(jobs.identity)
    names = [event["name"] for event in found[0].ran]
    expected = ['"a\\b" ä', "Callable", "Callable", "Callable.method", *["identity"] * 5, "items", "len"]
    assert sorted(names) == sorted(expected)


# --- How calls end ----------------------------------------------------------------------------------------------------


def test_ends_in_threads(tmp_path):
    with tracing(tmp_path) as found, pyconc.ThreadPoolExecutor(1) as pool:
        with Gate() as gate:
            (runs,) = block_workers(pool, gate)
            cancelled = pool.submit(jobs.identity)
            late = pool.options(timeout=30, deadline=0).submit(jobs.identity)
            assert cancelled.cancel()
            assert isinstance(late.exception(), pyconc.TaskTimeout)
        runs.result()
        assert isinstance(pool.submit(jobs.fail, KeyError()).exception(), KeyError)
        with Gate() as gate:
            stopped = pool.options(on_cancel="interrupt", grace=0, timeout=0.01).submit(gate)
            assert isinstance(stopped.exception(), pyconc.TaskTimeout)
    outcomes = found[0].outcomes()
    # What is to stop may never begin, be stopped, or be abandoned, as the machine's time goes.
    last = next(outcome for outcome in ("timed out", "abandoned") if outcomes[outcome])
    outcomes["timed out"] += outcomes.pop("abandoned", 0)
    assert last
    assert outcomes == {"returned": 1, "cancelled": 1, "timed out": 2, "failed": 1}
    assert {event["args"]["outcome"] for event in found[0].unbegun} >= {"cancelled", "timed out"}


def test_calls_that_end_in_another_order_than_they_were_submitted_end_as_they_did(tmp_path):
    kinds = [(jobs.identity, 1), (jobs.fail, LookupError())]
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(pyconc.ThreadPoolExecutor(2)) for _ in range(3)]
        gate = stack.enter_context(Gate())
        (found,) = [stack.enter_context(tracing(tmp_path))]
        held = [call for pool in opened for call in block_workers(pool, gate, 2)]
        named = {
            str(number): opened[number % 3].options(name=str(number)).submit(*kinds[number % 2]) for number in range(60)
        }
        for number in [*range(59, 0, -5), *range(4, 60, 7)]:
            named[str(number)].cancel()
        gate.open()
        futures.wait([*held, *named.values()])
        for pool in opened:
            wait_until_at_rest(pool)
        # The trace is left before the pools are.
        stack.pop_all().__exit__(None, None, None)
    told = {event["name"].split()[0]: event["args"]["outcome"] for event in found[0].calls}
    assert told == {name: outcome_of(future) for name, future in named.items()} | {"Gate": "returned"}


def test_a_worker_that_is_killed_ends_its_call_with_a_death(tmp_path):
    with tracing(tmp_path) as found, pyconc.ProcessPoolExecutor(1) as pool, ProcessGate() as gate:
        future = pool.submit(gate)
        (pid,) = gate.wait_started()
        os.kill(pid, signal.SIGKILL)
        assert isinstance(future.exception(), pyconc.WorkerDied)
    (timeline,) = found
    assert timeline.only()["args"]["outcome"] == "died"
    assert timeline.only()["pid"] == pid
    deaths = [event for event in timeline.instants if event["name"] == "worker dies"]
    assert [event["pid"] for event in deaths] == [pid]


def test_ends_in_processes_under_chaos(tmp_path):
    kinds = [
        (jobs.identity, 1),
        (jobs.fail, LookupError()),
        (jobs.identity, threading.Lock()),  # cannot be pickled
        (os.kill, 0, 0),  # of the process group: nothing
    ]
    with tracing(tmp_path) as found, pyconc.ProcessPoolExecutor(2) as pool:
        submitted = [pool.submit(*kind) for kind in kinds * 20]
        dying = [pool.submit(jobs.die, signal.SIGKILL) for _ in range(2)]
        limited = [pool.options(deadline=0).submit(jobs.identity) for _ in range(3)]
        cancelled = [pool.submit(jobs.identity) for _ in range(20)]
        for future in cancelled:
            future.cancel()
        every = [*submitted, *dying, *limited, *cancelled]
        futures.wait(every)
        wait_until_at_rest(pool)
    assert found[0].outcomes() == collections.Counter(outcome_of(future) for future in every)


@pytest.mark.parametrize("kind", [pyconc.ThreadPoolExecutor, pyconc.ProcessPoolExecutor])
def test_calls_that_go_on_when_a_trace_stops_have_not_ended(tmp_path, kind):
    with kind(1) as pool, Gate() if kind is pyconc.ThreadPoolExecutor else ProcessGate() as gate:
        with tracing(tmp_path) as found:
            held = pool.submit(gate)
            gate.wait_started()
            waits = pool.submit(jobs.identity)
        assert found[0].outcomes() == {"not ended": 2}
        # They do not get into the next one.
        with tracing(tmp_path) as found:
            gate.open()
            futures.wait([held, waits])
            pool.submit(jobs.identity).result()
        assert found[0].outcomes() == {"returned": 1}


# --- What is broken is noticed ----------------------------------------------------------------------------------------


def first(document, kind, **what):
    return next(e for e in document["traceEvents"] if e["ph"] == kind and what.items() <= e.items())


def lie_across(document):
    event = first(document, "X", cat="call")
    document["traceEvents"].append({**event, "ts": event["ts"] + event["dur"] / 2})


def drop(kind, **what):
    return lambda document: document["traceEvents"].remove(first(document, kind, **what))


def double(kind, **what):
    return lambda document: document["traceEvents"].append(first(document, kind, **what))


def change(kind, field, value, **what):
    return lambda document: first(document, kind, **what).update({field: value})


BROKEN = {
    "a process without a name": drop("M", name="process_name"),
    "a lane without a name": drop("M", name="thread_name", tid=threading.get_native_id()),
    "two names of a lane": double("M", name="thread_name"),
    "an arrow from nowhere": drop("s"),
    "an arrow twice": double("s"),
    "two arrows to one place": double("f"),
    "an arrow from another place": change("s", "tid", 1),
    "an arrow to no slice": change("f", "ts", 0.0),
    "an arrow to what comes next": change("f", "bp", "x"),
    "another arrow": change("s", "id", 3),
    "an arrow by a number that no float is": change("s", "id", 2**53 + 1),
    "a slice across the end of another": lie_across,
    "a slice that ends before it begins": change("X", "dur", -1.0, cat="call"),
    "a time before the beginning": change("X", "ts", -0.001),
    "a time that is a text": change("X", "ts", "1"),
    "a lane that is no number": change("X", "tid", None),
    "no name": change("X", "name", ""),
    "fewer than no calls that wait": change("C", "args", {"calls": -1}),
    "a counter of nothing": change("C", "args", {}),
    "a counter that goes back in time": change("C", "ts", 1e9),
    "a kind that there is not": change("X", "ph", "Z"),
    "a field that there is not": change("X", "more", 1),
    "a field that is missing": lambda document: first(document, "X").pop("cat"),
    "a unit that there is not": lambda document: document.update(displayTimeUnit="s"),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    path = tmp_path_factory.mktemp("traces") / "trace.json"
    with pyconc.trace(path), pyconc.ThreadPoolExecutor(1, name="loader") as pool:
        pool.submit(pool.submit, len, "abc").result()
        pool.submit(len, "abc").result()
    return timelines.read(path)


@pytest.mark.parametrize("break_it", BROKEN.values(), ids=BROKEN)
def test_a_timeline_that_is_broken_is_noticed(sound, break_it):
    timelines.check(sound)
    document = copy.deepcopy(sound)
    break_it(document)
    with pytest.raises((AssertionError, KeyError, TypeError)):
        timelines.check(document)


@pytest.mark.parametrize("text", ['{"a": NaN}', '{"a": -Infinity}', '{"a": 1, "a": 2}'])
def test_a_file_that_is_no_json_is_noticed(tmp_path, text):
    (tmp_path / "trace.json").write_text(text)
    with pytest.raises(AssertionError):
        timelines.read(tmp_path / "trace.json")


# --- One trace, and its file ------------------------------------------------------------------------------------------


def test_a_trace_that_is_full_says_how_many_calls_are_missing(tmp_path):
    with tracing(tmp_path, max_events=30) as found, pyconc.ThreadPoolExecutor(2) as pool:
        assert len(list(pool.map(jobs.identity, range(100)))) == 100
    (timeline,) = found
    assert timeline.outcomes() == {"returned": 100 - timeline.missing}
    assert 1 <= len(timeline.calls) <= 10
    (mark,) = [event for event in timeline.instants if event["cat"] == "trace"]
    assert mark["args"] == {"missing": timeline.missing}


def test_a_timed_executor_times_calls_with_a_trace_and_without(tmp_path):
    with pyconc.ThreadPoolExecutor(1, timed=True) as pool, Gate() as gate:
        held = [*block_workers(pool, gate), pool.submit(abs, 1)]
        with pyconc.trace(tmp_path / "trace.json", max_events=3):
            held += [pool.submit(len, "a"), pool.submit(abs, 1)]  # the second one is missing
            gate.open()
            futures.wait(held)
        counts = pool.stats()
        assert counts.wait.calls == counts.run.calls == 4
    trace = Timeline(tmp_path / "trace.json")
    assert (trace.only()["name"], trace.missing) == ("len", 1)


def test_there_is_one_trace_at_a_time(tmp_path):
    with tracing(tmp_path) as found:
        second = pyconc.trace(tmp_path / "second.json")
        with pytest.raises(RuntimeError, match="one at a time"):
            second.start()
        second.stop()  # it does nothing
        with pyconc.ThreadPoolExecutor(1) as pool:
            pool.submit(jobs.identity)
    assert found[0].outcomes() == {"returned": 1}
    assert not (tmp_path / "second.json").exists()


def test_a_file_that_cannot_be_written_is_an_error_at_the_start(tmp_path):
    with pytest.raises(FileNotFoundError):
        pyconc.trace(tmp_path / "missing" / "trace.json").start()
    with tracing(tmp_path) as found:
        pass
    assert found[0].calls == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_disk_that_is_full_is_an_error_at_the_stop(tmp_path):
    with pytest.raises(OSError, match="No space"), pyconc.trace("/dev/full"):
        pass
    with tracing(tmp_path) as found:
        pass
    assert found[0].calls == []


def test_an_exception_within_leaves_the_file(tmp_path):
    with pytest.raises(KeyError), pyconc.trace(tmp_path / "trace.json"):
        with pyconc.ThreadPoolExecutor(1) as pool:
            pool.submit(jobs.identity)
        raise KeyError
    assert Timeline(tmp_path / "trace.json").outcomes() == {"returned": 1}


def test_arguments_that_make_no_sense():
    with pytest.raises(TypeError):
        pyconc.trace(1)
    with pytest.raises(ValueError, match="max_events"):
        pyconc.trace(max_events=0)
    with pytest.raises(TypeError):
        pyconc.trace(max_events="many")
    with pytest.raises(MemoryError):
        _core.trace_start(2**62)
    assert _core.trace_stop() is None


def test_a_trace_may_be_started_again_and_stopped_twice(tmp_path):
    trace = pyconc.trace(tmp_path / "trace.json")
    for _ in range(2):
        trace.start()
        assert "running" in repr(trace)
        with pyconc.ThreadPoolExecutor(1) as pool:
            pool.submit(jobs.identity)
        trace.stop()
        trace.stop()
        assert Timeline(tmp_path / "trace.json").outcomes() == {"returned": 1}
    assert "running" not in repr(trace)


def test_a_trace_keeps_no_function_alive(tmp_path):
    with tracing(tmp_path), pyconc.ThreadPoolExecutor(1) as pool:
        function = Callable()
        seen = weakref.ref(function)
        pool.submit(function).result()
        del function
        gc.collect()
        wait_until(lambda: seen() is None, "the function to be gone")


def test_threads_submit_while_traces_come_and_go(tmp_path):
    over = threading.Event()
    made = [0, 0]  # by each thread

    def submit(pool, number):
        while not over.is_set():
            pool.submit(jobs.identity).result()
            made[number] += 1

    with pyconc.ThreadPoolExecutor(2) as pool:
        users = [threading.Thread(target=submit, args=[pool, number]) for number in range(2)]
        for user in users:
            user.start()
        try:
            for _ in range(10):
                with tracing(tmp_path) as found:
                    seen = sum(made)
                    wait_until(lambda seen=seen: sum(made) > seen + 50, "some calls")
                assert found[0].outcomes()["returned"] > 0
        finally:
            over.set()
            for user in users:
                user.join()


def test_traces_leave_nothing_behind(tmp_path):
    with pools.pool_of(1) as pool:

        def make_one():
            with pyconc.trace(tmp_path / "trace.json", max_events=100):
                pool.submit(jobs.identity).result()

        check_no_leak(make_one, repeat=10)


# --- Other processes, and the end of the program ----------------------------------------------------------------------

SUBMITS = """
    import os, sys
    import pyconc

    pool = pyconc.ThreadPoolExecutor(1)
    trace = pyconc.trace("trace.json")
    trace.start()
    pool.submit(len, "abc").result()
"""


def test_a_trace_that_runs_is_written_at_exit(tmp_path):
    script = SUBMITS.replace('"trace.json"', "sys.argv[1]") + "    sys.exit(3)\n"
    path = tmp_path / "trace.json"
    assert run_script(script, path, check=False).returncode == 3
    assert Timeline(path).outcomes() == {"returned": 1}


def test_the_child_of_a_fork_does_not_trace(tmp_path):
    script = (
        SUBMITS.replace('"trace.json"', "sys.argv[1]")
        + """
    child = os.fork()
    if child == 0:
        pool.submit(len, "abc").result()  # in a pool of its own
        trace.stop()
        with pyconc.trace(sys.argv[2]):
            pool.submit(len, "abc").result()
            pool.submit(len, "abc").result()
        sys.exit()
    assert os.waitpid(child, 0)[1] == 0
    pool.submit(str).result()
    """
    )
    path, other = tmp_path / "trace.json", tmp_path / "other.json"
    run_script(script, path, other, flags=("-W", "ignore"))
    assert sorted(event["name"] for event in Timeline(path).calls) == ["len", "str"]
    assert Timeline(other).outcomes() == {"returned": 2}


def test_a_task_that_forks_ends_once(tmp_path):
    script = """
        import os, sys
        import pyconc

        def fork():
            if os.fork() == 0:
                return "child"
            os.wait()

        if __name__ == "__main__":
            pool = pyconc.ThreadPoolExecutor(1)
            with pyconc.trace(sys.argv[1]):
                pool.submit(fork).result()
        """
    run_script(script, tmp_path / "trace.json", flags=("-W", "ignore"))
    assert Timeline(tmp_path / "trace.json").outcomes() == {"returned": 1}


@pytest.mark.skipif(SANITIZED, reason="how the command starts a program is Python's part alone")
def test_the_run_command_traces_a_program(tmp_path):
    path = tmp_path / "trace.json.gz"
    script = """
        from concurrent.futures import ThreadPoolExecutor
        import sys

        with ThreadPoolExecutor(1) as pool:
            print(pool.submit(len, sys.argv[1:]).result())
        """
    command = ("-m", "pyconc", "run", "--trace", str(path))
    assert run_script(script, "one", flags=command).stdout == "1\n"
    assert Timeline(path).outcomes() == {"returned": 1}
    path.unlink()
    again = (*command[:-2], f"--trace={path}", "-O")  # which starts the interpreter once more
    assert run_script(script, "one", flags=again).stdout == "1\n"
    assert Timeline(path).outcomes() == {"returned": 1}
    refused = run_script(script, flags=(*command[:-1], str(tmp_path / "missing" / "x")), check=False)
    assert refused.returncode == 2
    assert "can't write" in refused.stderr
    assert "Traceback" not in refused.stderr


ENDED_BY_A_SIGNAL = """
    import os
    import signal
    import sys
    import threading

    import pyconc

    def wait(pipe):
        return os.read(pipe, 1)

    if __name__ == "__main__":
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        pipe, _ = os.pipe()
        child = os.fork()
        if child == 0:
            signal.pause()
        with pyconc.ThreadPoolExecutor(1) as threads, pyconc.ProcessPoolExecutor(1) as processes:
            threads.submit(abs, 1).result(), processes.submit(abs, 1).result()
            future = threads.submit(wait, pipe)
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(child, signal.SIGTERM)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
            future.result()
"""


def test_the_run_command_writes_the_trace_of_a_program_that_is_told_to_end(tmp_path):
    path = tmp_path / "trace.json.gz"
    with start_script(ENDED_BY_A_SIGNAL, flags=("-m", "pyconc", "run", "--trace", str(path))) as program:
        await_line(program, program.stdout, str(-signal.SIGTERM))  # the child of a fork has no trace
        assert path.read_bytes() == b""
        program.send_signal(signal.SIGTERM)
        assert program.wait(HANG_LIMIT) == -signal.SIGTERM
    assert Timeline(path).outcomes() == {"returned": 2, "not ended": 1}


def test_without_a_trace_nothing_of_it_is_imported():
    run_script("import pyconc, sys; assert not {'pyconc._trace', 'pyconc._timeline'} & set(sys.modules)")
