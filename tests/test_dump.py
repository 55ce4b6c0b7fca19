"""What the executors of a program do, as another program sees it: python -m pyconc dump."""

import asyncio
import contextvars
import functools
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from gates import Gate, ProcessGate
from jobs import fail, hold, identity
from support import ELSEWHERE, HANG_LIMIT, await_line, run_script, start_script, times_asleep, wait_until

import pyconc
from pyconc import _core, _dump

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="programs are seen in /proc")

COUNTS = ("submitted", "completed", "failed", "cancelled", "timed_out", "died", "abandoned", "recycled")


def dump(pid, *flags, status=0, **options):
    """Return what the command prints, or the sentence that it says when there is nothing to show."""
    command = [sys.executable, "-m", "pyconc", "dump", str(pid), *flags]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=HANG_LIMIT, **{"cwd": ELSEWHERE, **options})
    assert ended.returncode == status, ended
    return ended.stdout if status == 0 else ended.stderr


def look(name):
    """What is seen of one of this program's own executors."""
    return next(pool for pool in _dump.look(os.getpid())["pools"] if pool["name"] == name)


def assert_same(pool, name):
    """What is seen of an executor with nothing to do is what it says itself."""
    seen = stats = None
    while pool.stats() != stats:  # a worker that takes the place of a dead one may come while we look
        wait_until(lambda: pool.stats().idle == pool.stats().workers, "the workers to be idle")
        stats = pool.stats()
        seen = look(name)
    expected = stats._asdict()
    expected["run"] = stats.run._asdict()
    expected["wait"] = stats.wait and stats.wait._asdict()
    assert {key: seen[key] for key in expected} == expected


async def wait_for_ever():
    await asyncio.Event().wait()


async def getpid():
    return os.getpid()


async def echo(number):
    return number


# ---- it is the truth ----


def test_the_numbers_are_those_of_stats():
    with pyconc.ProcessPoolExecutor(2, name="count", timed=True) as pool:
        calls = [pool.submit(identity, n) for n in range(20)] + [pool.submit(fail, ValueError()) for _ in range(3)]
        pyconc.wait(calls)
        assert_same(pool, "count")
        assert list(pool.map(abs, range(1000))) == list(range(1000))
        assert_same(pool, "count")
        died = pool.submit(os._exit, 1)
        late = pool.options(timeout=0.01, on_cancel="interrupt", grace=HANG_LIMIT).submit(time.sleep, HANG_LIMIT)
        pyconc.wait([died, late])
        assert_same(pool, "count")
        seen = look("count")
        assert [seen[key] for key in COUNTS] == [1025, 1020, 3, 0, 1, 1, 0, 0]
        assert seen["run"]["calls"] == seen["wait"]["calls"] == 1023
        table = [line for line, _ in _dump.lines(_dump.look(os.getpid()))]
        (at,) = (place for place, line in enumerate(table) if line.startswith("count "))
        assert "1025 submitted, 1020 completed, 3 failed, 1 timed out, 1 died" in table[at + 1]
        assert [line[:18] for line in table[at + 2 : at + 4]] == ["  they waited for ", "  they ran for p50"]


@pytest.mark.parametrize(
    ("width", "columns"),
    [
        (None, "worker pid state calls rss cpu for task"),
        (90, "worker pid state calls rss cpu for task"),
        (80, "worker pid state rss cpu for task"),
        (60, "worker pid state for task"),
        (40, "worker state for task"),
        (1, "worker state for task"),
    ],
)
def test_in_a_narrow_table_columns_give_way_to_the_tasks_names(width, columns):
    with pyconc.ProcessPoolExecutor(1, name=f"narrow-{width}") as pool, ProcessGate() as gate:
        pool.submit(hold, gate)
        gate.wait_started()
        program = _dump.look(os.getpid())
        table = [line for line, _ in _dump.lines(program, width=width)]
        (at,) = (place for place, line in enumerate(table) if line.startswith(f"narrow-{width} "))
        title, row = table[at + 2 : at + 4]
        assert title.split() == columns.split()
        assert row.index("hold") == title.index("task")
        assert row.split()[-1] == "hold"


def test_output_that_nobody_takes_is_no_traceback():
    with pyconc.ProcessPoolExecutor(1, name="full") as pool, open("/dev/full", "w") as full:
        pool.submit(identity, 1).result()
        command = [sys.executable, "-m", "pyconc", "dump", str(os.getpid())]
        done = subprocess.run(command, cwd=ELSEWHERE, stdout=full, stderr=subprocess.PIPE, text=True)
        assert (done.returncode, done.stderr) == (1, "python -m pyconc dump: No space left on device\n")


def test_a_question_mark_stands_for_what_the_output_has_no_sign_for():
    with pyconc.ThreadPoolExecutor(1, name="\u20ac\U0001f600", timed=True) as pool:
        pool.submit(identity).result()
        environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
        lines = dump(os.getpid(), env=environment).splitlines()
        assert "?? (threads): 0 running, 0 queued, 1 of 1 workers" in lines
        seen = json.loads(dump(os.getpid(), "--json", env=environment))
        assert "\u20ac\U0001f600" in [pool["name"] for pool in seen["pools"]]


def test_what_waits_and_what_runs_is_seen_and_what_is_cancelled():
    with ProcessGate() as gate, pyconc.ProcessPoolExecutor(2, name="busy") as pool:
        running = [pool.submit(hold, gate) for _ in range(2)]
        gate.wait_started(2)
        waiting = [pool.submit(identity, n) for n in range(5000)]  # more than there are slots
        seen = look("busy")
        assert (seen["running"], seen["queued"], seen["idle"], seen["workers"]) == (2, 5000, 0, 2)
        assert [member["state"] for member in seen["members"]] == ["running"] * 2
        assert [member["task"] for member in seen["members"]] == ["hold"] * 2
        assert all(member["running_for"] > 0 for member in seen["members"])
        for future in waiting:
            future.cancel()
        gate.open()
        pyconc.wait(running)
        assert_same(pool, "busy")
        assert look("busy")["cancelled"] == 5000


def test_a_coroutine_worker_is_seen_with_all_that_it_runs():
    with pyconc.CoroutinePool(1, name="loops") as pool:
        assert [future.result() for future in [pool.submit(echo, n) for n in range(5)]] == list(range(5))
        running = [pool.submit(wait_for_ever) for _ in range(3)]
        wait_until(lambda: look("loops")["running"] == 3)
        seen = look("loops")
        assert seen["kind"] == "coroutines"
        (member,) = seen["members"]
        assert (member["calls"], member["running"], member["task"]) == (5, 3, "wait_for_ever")
        for future in running:
            future.cancel()
        wait_until(lambda: look("loops")["running"] == 0)


class Local:
    def method(self, gate):
        hold(gate)


CALLS = [
    (lambda pool, gate: pool.submit(hold, gate), "hold"),
    (lambda pool, gate: pool.submit(Local.method, None, gate), "Local.method"),
    (lambda pool, gate: pool.options(name="a name").submit(hold, gate), "a name"),
    (lambda pool, gate: pool.submit(hold, gate, bytes(1000)), "hold"),  # its message is elsewhere
    (lambda pool, gate: pool.submit(lambda: hold(gate)), "<lambda>.<locals>.<lambda>"),  # travels by value
    (lambda pool, gate: pool.submit(Local().method, gate), "Local.method"),
    (lambda pool, gate: pool.submit(functools.partial(hold, gate)), "hold"),
]


def test_a_call_is_seen_by_its_name():
    with pyconc.ProcessPoolExecutor(1, name="names") as pool:
        for submit, name in CALLS:
            with ProcessGate() as gate:
                future = submit(pool, gate)
                gate.wait_started()
                assert [member["task"] for member in look("names")["members"]] == [name]
                gate.open()
                future.result()
            wait_until(lambda: [member["task"] for member in look("names")["members"]] == [None], "the call's end")


class Slow:
    """Waits at a gate while it is unpickled, or while it is pickled by then."""

    def __init__(self, gate, comes_back=False):
        self._gate = gate
        self._comes_back = comes_back

    def __reduce__(self):
        if self._comes_back:
            self._gate()
        return open_slowly, (self._gate,)


def open_slowly(gate):
    gate()


def come_back(gate):
    return Slow(gate, comes_back=True)


@pytest.mark.parametrize(
    ("function", "make_argument", "state"),
    [(hold, lambda gate: gate, "running"), (abs, Slow, "unpickling"), (come_back, lambda gate: gate, "pickling")],
    ids=["running", "unpickling", "pickling"],
)
def test_what_a_worker_does_with_a_call_is_seen(function, make_argument, state):
    with pyconc.ProcessPoolExecutor(1, name="phases") as pool, ProcessGate() as gate:
        pool.submit(abs, 1).result()
        future = pool.submit(function, make_argument(gate))
        gate.wait_started()
        (member,), (worker,) = look("phases")["members"], pool.workers()
        assert (member["state"], member["task"]) == (worker.state, worker.task) == (state, function.__name__)
        gate.open()
        pyconc.wait([future])
        wait_until(lambda: look("phases")["members"][0]["state"] == pool.workers()[0].state == "idle", "its end")


def tell_and_hold(gate, *told):
    pyconc.current_task().progress(*told)
    gate()


KINDS = [(pyconc.ProcessPoolExecutor, ProcessGate), (pyconc.ThreadPoolExecutor, Gate)]


@pytest.mark.parametrize(("kind", "make_gate"), KINDS, ids=["processes", "threads"])
@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ((3,), "3"),
        ((-3, 10), "-3 of 10"),
        ((2**63 - 1, 0.0), "9.22337e+18 of 0"),
        ((0.5, 1, "half\x1b"), "0.5 of 1 half?"),
        ((1, None, ""), "1 "),
        ((1, 2, "ä" * 60), "1 of 2 " + "ä" * 60),
        ((1, 2, "\U0001f600" * 60), "1 of 2 " + "\U0001f600" * 60),
        ((1, 2, "\udc80"), "1 of 2 ?"),
    ],
    ids=lambda told: None if isinstance(told, str) else str(told)[:20].encode("ascii", "replace").decode(),
)
def test_how_far_a_call_is_is_seen(kind, make_gate, told, shown):
    with kind(1, name="far") as pool, make_gate() as gate, make_gate() as another:
        future = pool.submit(tell_and_hold, gate, *told)
        gate.wait_started()
        program = _dump.look(os.getpid())
        (member,) = next(pool for pool in program["pools"] if pool["name"] == "far")["members"]
        expected = dict(pool.workers()[0].progress._asdict())
        if expected["note"] is not None:  # what is no text elsewhere
            expected["note"] = expected["note"].encode("utf-8", "replace").decode()
        assert member["progress"] == expected
        assert any(line.endswith(f"tell_and_hold: {shown}") for line, _ in _dump.lines(program))
        gate.open()
        future.result()
        wait_until(lambda: look("far")["members"][0]["progress"] is None)
        # Nor is it the next one's, which tells nothing.
        pool.submit(another)
        another.wait_started()
        (member,) = look("far")["members"]
        assert (member["running"], member["progress"]) == (1, None)


@pytest.mark.parametrize(("kind", "make_gate"), KINDS, ids=["processes", "threads"])
@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_progress_that_is_no_number_of_json_is_null(kind, make_gate, number):
    with kind(1, name="far") as pool, make_gate() as gate:
        pool.submit(tell_and_hold, gate, number, number, "note")
        gate.wait_started()
        (member,) = look("far")["members"]
        assert member["progress"] == {"done": None, "total": None, "note": "note"}
        assert any(line.endswith("tell_and_hold: ? note") for line, _ in _dump.lines(_dump.look(os.getpid())))
        gate.open()


def test_of_calls_that_wait_for_each_other_in_a_thread_the_innermost_tells():
    told = []

    def tell(*progress):
        if progress:
            pyconc.current_task().progress(*progress)
        (member,) = look("nested")["members"]
        told.append((member["running"], member["progress"] and member["progress"]["done"]))

    def outer(submit):
        tell(1)
        for progress in ((), (2,)):
            assert submit(tell, *progress).result() is None  # runs above this one
            told.append(look("nested")["members"][0]["progress"]["done"])
        tell(3)

    with pyconc.ThreadPoolExecutor(1, name="nested") as pool:
        pool.submit(outer, pool.submit).result()
        wait_until(lambda: look("nested")["members"][0]["progress"] is None)
    assert told == [(1, 1), (2, None), 1, (2, 2), 1, (1, 3)]


def test_a_thread_that_has_told_something_leaves_room_for_others_when_it_ends():
    def tell():
        pyconc.current_task().progress(1)

    path = next(path for path in _dump.find_tables(os.getpid()).values())

    def count_cells():
        with open(path, "rb") as file:
            return int.from_bytes(file.read(16)[12:], "little")

    with pyconc.ThreadPoolExecutor(1) as pool:
        pool.submit(tell).result()
    before = count_cells()
    for _ in range(5):
        with pyconc.ThreadPoolExecutor(1) as pool:
            pool.submit(tell).result()
    assert count_cells() == before


TELLS_AND_FORKS = """
    import os

    import pyconc
    from pyconc import _dump

    def fork():
        task = pyconc.current_task()
        task.progress(1)
        child = os.fork()
        if child == 0:
            task.progress(2)
            with pyconc.ThreadPoolExecutor(1, name="child") as pool:
                pool.submit(show, "child").result()
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), *see("parent"), flush=True)

    def show(name):
        pyconc.current_task().progress(3)
        print(*see(name), flush=True)

    def see(name):
        pools = _dump.look(os.getpid())["pools"]
        return [member["progress"]["done"] for pool in pools if pool["name"] == name for member in pool["members"]]

    with pyconc.ThreadPoolExecutor(1, name="parent") as pool:
        pool.submit(fork).result()
"""


def test_the_child_of_a_fork_tells_nothing_of_its_parents_calls():
    assert run_script(TELLS_AND_FORKS, flags=("-W", "ignore")).stdout == "3\n0 1\n"


@pytest.mark.parametrize("kind", [pyconc.ProcessPoolExecutor, pyconc.CoroutinePool])
def test_a_worker_that_is_not_ready_for_calls_yet_starts(kind):
    with ProcessGate() as gate, kind(1, name="starts", initializer=pickle.loads(pickle.dumps(gate))) as pool:
        call = getpid if kind is pyconc.CoroutinePool else os.getpid
        for _ in range(2):  # the second one takes the number of the first one
            future = pool.submit(call)
            (pid,) = gate.wait_started()
            wait_until(lambda: pool.workers() != [])
            for _ in range(2):
                (member,), (worker,) = look("starts")["members"], pool.workers()
                assert (member["state"], worker.state) == ("starting", "starting")
                assert pool.stats().workers == 1
            gate.open()
            assert future.result() == pid
            wait_until(lambda: look("starts")["members"][0]["state"] == pool.workers()[0].state == "idle")
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda pid=pid: pid not in [worker.id for worker in pool.workers()])


def test_a_name_in_a_call_of_small_values_is_seen():
    with pyconc.ProcessPoolExecutor(1, name="small") as pool:
        future = pool.options(name="naps", on_cancel="interrupt", grace=HANG_LIMIT).submit(time.sleep, HANG_LIMIT)
        wait_until(lambda: [member["task"] for member in look("small")["members"]] == ["naps"])
        future.cancel()


def test_each_worker_is_seen_as_its_process_whichever_of_several_executors_it_has():
    with (
        pyconc.ProcessPoolExecutor(2, name="one") as one,
        pyconc.CoroutinePool(1, name="two") as two,
        pyconc.ProcessPoolExecutor(3, name="three") as three,
        ProcessGate() as gate,
    ):
        futures = [pool.submit(hold, gate) for pool, count in ((one, 2), (three, 3)) for _ in range(count)]
        gate.wait_started(5)
        two.submit(echo, 1).result()
        for pool, name in ((one, "one"), (two, "two"), (three, "three")):
            members = look(name)["members"]
            assert sorted(member["pid"] for member in members) == sorted(worker.id for worker in pool.workers())
            assert all(member["rss"] > 0 and member["cpu"] >= 0 for member in members)
        gate.open()
        pyconc.wait(futures)


# ---- pools of threads ----


def wait_until_same(pool, name):
    """Wait until what is seen of an executor is what it says itself."""

    def is_same():
        expected = pool.stats()._asdict()
        for times in ("run", "wait"):
            expected[times] = expected[times] and expected[times]._asdict()
        seen = look(name)
        return {key: seen[key] for key in expected} == expected

    wait_until(is_same, "the numbers to be those of stats()")


def test_pools_of_threads_are_seen_with_what_they_run():
    open_gate = threading.Event()
    with pyconc.ThreadPoolExecutor(2, name="readers") as pool:
        running = [pool.submit(open_gate.wait) for _ in range(2)]
        waiting = [pool.submit(identity, n) for n in range(50)]
        wait_until(lambda: look("readers")["running"] == 2)
        seen = look("readers")
        assert (seen["kind"], seen["max_workers"]) == ("threads", 2)
        assert [seen[key] for key in ("workers", "idle", "queued", "submitted", "completed")] == [2, 0, 50, 52, 0]
        assert [member["number"] for member in seen["members"]] == [0, 1]
        assert {member["pid"] for member in seen["members"]} == {worker.id for worker in pool.workers()}
        assert [member["task"] for member in seen["members"]] == ["Event.wait"] * 2
        assert all(member["running_for"] >= 0 and member["cpu"] >= 0 for member in seen["members"])
        assert not {member["pid"] for member in seen["members"]}.intersection(
            thread["id"] for thread in _dump.look(os.getpid())["threads"]
        )
        for future in waiting[:20]:
            future.cancel()
        open_gate.set()
        pyconc.wait(running + waiting)
        pyconc.wait([pool.submit(fail, ValueError()) for _ in range(3)])
        wait_until_same(pool, "readers")
        assert [look("readers")[key] for key in COUNTS] == [55, 32, 3, 20, 0, 0, 0, 0]
    wait_until_same(pool, "readers")
    assert look("readers")["members"] == []


def test_a_pool_of_threads_is_seen_as_long_as_the_program_keeps_it():
    with pyconc.ThreadPoolExecutor(2, name="kept") as pool:
        pool.submit(identity).result()
    assert "kept" in [pool["name"] for pool in _dump.look(os.getpid())["pools"]]
    del pool
    wait_until(lambda: "kept" not in [pool["name"] for pool in _dump.look(os.getpid())["pools"]])


def test_timed_threads_are_seen_with_their_times():
    with pyconc.ThreadPoolExecutor(2, name="clocks", timed=True) as pool, pyconc.ThreadPoolExecutor(1, name="x") as x:
        pyconc.wait([*[pool.submit(identity, n) for n in range(100)], x.submit(identity)])
        wait_until_same(pool, "clocks")
        assert look("clocks")["run"]["calls"] == look("clocks")["wait"]["calls"] == 100
        assert (look("x")["run"], look("x")["wait"]) == (None, None)


class Nap:
    def __init__(self, event):
        self.event = event

    def nap(self):
        self.event.wait()

    def __call__(self):
        self.nap()


THREAD_CALLS = [
    (lambda pool, event: pool.submit(event.wait), "Event.wait"),
    (lambda pool, event: pool.submit(Nap(event).nap), "Nap.nap"),
    (lambda pool, event: pool.submit(Nap(event)), "Nap"),
    (lambda pool, event: pool.submit(functools.partial(Nap.nap, Nap(event))), "Nap.nap"),
    (lambda pool, event: pool.submit(contextvars.copy_context().run, Nap(event).nap), "Nap.nap"),
    (lambda pool, event: pool.submit(functools.partial(contextvars.copy_context().run, Nap(event).nap)), "Nap.nap"),
    (lambda pool, event: pool.options(name="ä" * 200).submit(event.wait), "ä" * 80),
    (lambda pool, event: pool.options(name="12345678").submit(event.wait), "12345678"),
    (lambda pool, event: pool.submit(event.wait), "Event.wait"),
]


def test_what_a_thread_runs_is_seen_by_its_name():
    with pyconc.ThreadPoolExecutor(1, name="names") as pool:
        for submit, name in THREAD_CALLS:
            event = threading.Event()
            future = submit(pool, event)
            wait_until(lambda name=name: [member["task"] for member in look("names")["members"]] == [name], name)
            event.set()
            future.result()
        wait_until(lambda: [member["task"] for member in look("names")["members"]] == [None])


def test_a_call_in_a_thread_is_seen_again_when_the_one_above_it_has_ended():
    above, below = threading.Event(), threading.Event()

    def outer(pool):
        pool.submit(above.wait).result()
        below.wait()

    with pyconc.ThreadPoolExecutor(1, name="nested") as pool:
        future = pool.submit(outer, pool)
        wait_until(lambda: [member["task"] for member in look("nested")["members"]] == ["Event.wait"])
        assert [member["running"] for member in look("nested")["members"]] == [2]
        assert (look("nested")["running"], look("nested")["queued"]) == (2, 0)
        above.set()
        wait_until(lambda: [member["running"] for member in look("nested")["members"]] == [1])
        wait_until(lambda: look("nested")["members"][0]["task"].endswith("outer"))
        below.set()
        future.result()
        wait_until_same(pool, "nested")


def test_calls_that_time_out_and_that_are_abandoned_are_seen():
    lock = threading.Lock()
    with pyconc.ThreadPoolExecutor(1, name="late") as pool:
        lock.acquire()
        # In C all the time, so that it cannot be interrupted.
        late = pool.options(timeout=0.01, on_cancel="interrupt", grace=0).submit(lock.acquire)
        with pytest.raises(pyconc.TaskTimeout):
            late.result()
        wait_until_same(pool, "late")
        assert [look("late")[key] for key in ("timed_out", "abandoned")] == [1, 1]
        lock.release()
        pool.submit(identity).result()
        wait_until_same(pool, "late")
        assert look("late")["abandoned"] == 0


FORKS = """
    import os
    import pyconc
    from pyconc import _dump

    def names():
        return [(pool["name"], pool["completed"]) for pool in _dump.look(os.getpid())["pools"]]

    def fork_and_tell(pool):
        child = os.fork()
        if child == 0:
            print(names(), flush=True)
            pool.submit(int).result()
            print(names(), flush=True)
            os._exit(0)
        os.waitpid(child, 0)

    parent = pyconc.ThreadPoolExecutor(1, name="parent")
    parent.submit(int).result()
    fork_and_tell(parent)
    print(names(), flush=True)
    parent.submit(fork_and_tell, parent).result()
    print(names())
"""


def test_the_child_of_a_fork_shows_its_own_pools_and_counts_nothing_in_its_parents():
    shown = run_script(FORKS, flags=("-W", "ignore")).stdout.splitlines()
    anew = ["[]", "[('parent', 1)]"]
    assert shown == [*anew, "[('parent', 1)]", *anew, "[('parent', 2)]"]


WITHOUT_DESCRIPTORS = """
    import os
    import resource
    import pyconc
    from pyconc import _dump

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    spare = os.open(os.devnull, os.O_RDONLY)
    os.close(spare)
    with pyconc.ThreadPoolExecutor(2, name="unseen") as pool:
        resource.setrlimit(resource.RLIMIT_NOFILE, (spare, limits[1]))
        print(list(pool.map(abs, range(3))), pool.stats().completed)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        print(len(_dump.look(os.getpid())["pools"]), len(_dump.look(os.getpid())["threads"]) > 0)
        with pyconc.ThreadPoolExecutor(1, name="seen") as another:
            another.submit(abs, 1).result()
            print([pool["name"] for pool in _dump.look(os.getpid())["pools"]])
"""


def test_a_pool_for_which_there_is_no_descriptor_works_unseen():
    assert run_script(WITHOUT_DESCRIPTORS).stdout.splitlines() == ["[0, 1, 2] 3", "0 True", "['seen']"]


# ---- nobody notices ----

IDLE = f"""
    import signal
    import sys

    sys.path.insert(0, {str(Path(__file__).parent)!r})
    import pyconc
    from gates import ProcessGate, block_workers

    if __name__ == "__main__":
        with (
            pyconc.ProcessPoolExecutor(2, name="idle") as pool,
            pyconc.CoroutinePool(1) as loops,
            pyconc.ThreadPoolExecutor(1) as threads,
        ):
            with ProcessGate() as gate:
                held = block_workers(pool, gate, 2)
            pyconc.wait([*held, threads.submit(abs, 1)])
            loops.submit(abs, 1).exception()
            print("ready", flush=True)
            signal.sigwait([signal.SIGTERM])
"""


def a_timer_runs(pid):
    """Whether the process has a timer that will wake somebody: an executor's, which ends once no task is ready."""
    for number in os.listdir(f"/proc/{pid}/fdinfo"):
        with open(f"/proc/{pid}/fdinfo/{number}") as file:
            timer = dict(line.split(":", 1) for line in file if ":" in line)
        if "it_value" in timer and (timer["it_value"].strip(), timer["ticks"].strip()) != ("(0, 0)", "0"):
            return True
    return False


def count_wakeups(pid):
    """How often each thread of a program and of what it has started has gone to sleep; None if somebody is awake."""
    processes = _dump.Processes()
    counts = {}
    for process in processes.parents:
        if process == pid or pid in processes.ancestors(process):
            try:
                counts[process] = None if a_timer_runs(process) else times_asleep(process)
            except OSError:  # it ends
                return None
            if counts[process] is None:
                return None
    return counts


def wait_until_at_rest(pid):
    """Return once all sleep, from the last of one look to the first of the next, and no timer is to wake them."""
    wait_until(lambda: (before := count_wakeups(pid)) is not None and count_wakeups(pid) == before, "the rest")


def test_an_idle_program_does_not_wake_up_for_it():
    with start_script(IDLE) as program:
        await_line(program, program.stdout, "ready")
        wait_until_at_rest(program.pid)
        before = count_wakeups(program.pid)
        for _ in range(5):
            assert _dump.look(program.pid)["pools"][0]["name"] == "idle"
        assert "idle (processes): 0 running, 0 queued, 2 of 2 workers" in dump(program.pid)
        assert count_wakeups(program.pid) == before
        program.send_signal(signal.SIGTERM)


def test_it_leaves_no_descriptor_open():
    with pyconc.ProcessPoolExecutor(1) as pool:
        pool.submit(identity).result()
        before = os.listdir("/proc/self/fd")
        for _ in range(5):
            _dump.look(os.getpid())
        assert os.listdir("/proc/self/fd") == before


# ---- the command ----


def test_the_command_prints_a_table_or_json():
    with ProcessGate() as gate, pyconc.ProcessPoolExecutor(1, name="t\x1b[2Jable") as pool:
        future = pool.options(name="\x1b]0;title\x07").submit(hold, gate)
        gate.wait_started()
        text = dump(os.getpid())
        assert "t?[2Jable (processes): 1 running, 0 queued, 1 of 1 workers\n" in text
        assert "running" in text
        assert "?]0;title?" in text
        assert "\x1b" not in text
        program = json.loads(dump(os.getpid(), "--json"))
        assert (program["schema"], program["pid"]) == (1, os.getpid())
        assert [pool["name"] for pool in program["pools"] if pool["kind"] != "threads"] == ["t\x1b[2Jable"]
        assert "stack" not in program["pools"][0]["members"][0]
        gate.open()
        future.result()


def test_the_description_of_the_json_names_every_key():
    with pyconc.ProcessPoolExecutor(1, name="keys") as pool, pyconc.ThreadPoolExecutor(1) as threads:
        pyconc.wait([pool.submit(identity), threads.submit(identity)])
        program = _dump.look(os.getpid())
        seen = look("keys")
        (thread,) = _dump._list_threads(os.getpid()).values()
        for keys in (program, seen, seen["run"], seen["members"][0], thread):
            for key in keys:
                assert key in _dump.__doc__


def spin(gate):
    hold(gate)


def test_stacks_are_asked_for_and_leave_no_trace_in_what_a_death_tells():
    with ProcessGate() as gate, pyconc.ProcessPoolExecutor(1, name="stacks") as pool:
        future = pool.submit(spin, gate)
        gate.wait_started()
        for _ in range(2):
            program = json.loads(dump(os.getpid(), "--json", "--stacks"))
            (member,) = next(pool for pool in program["pools"] if pool["name"] == "stacks")["members"]
            assert member["stack"].count(" in spin\n") == 1
        os.kill(member["pid"], signal.SIGKILL)
        with pytest.raises(pyconc.WorkerDied) as died:
            future.result()
        assert died.value.stack is None


def test_stacks_are_asked_for_beside_the_programs_own_request():
    with ProcessGate() as gate, pyconc.ProcessPoolExecutor(1, name="both") as pool:
        future = pool.options(timeout=0.3, on_cancel="kill").submit(spin, gate)
        gate.wait_started()
        _dump.ask_for_stack(look("both")["members"][0])
        with pytest.raises(pyconc.TaskTimeout) as late:
            future.result()
        assert (late.value.stack or " in spin\n").count(" in spin\n") == 1


# ---- there is nothing to see ----


def test_what_is_no_process_is_a_sentence():
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert dump(child.pid, status=1) == f"python -m pyconc dump: process {child.pid} has ended\n"
    child.wait()
    assert dump(child.pid, status=1) == f"python -m pyconc dump: there is no process {child.pid}\n"
    assert dump(10**30, status=1) == f"python -m pyconc dump: there is no process {10**30}\n"


@pytest.mark.parametrize("pid", ["0", "x"])
def test_bad_usage_is_told_with_status_2(pid):
    assert "usage: python -m pyconc dump" in dump(pid, status=2)


def test_a_program_without_pyconc_is_a_sentence():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with child:
        assert dump(child.pid, status=1) == f"python -m pyconc dump: process {child.pid} does not use pyconc\n"
        child.communicate()


WITHOUT_CALLS = """
    import sys
    import pyconc

    pool = pyconc.ThreadPoolExecutor()
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_a_program_without_executors_is_told():
    with start_script(WITHOUT_CALLS, stdin=subprocess.PIPE) as program:
        await_line(program, program.stdout, "ready")
        assert dump(program.pid).endswith("\nno executor has had a call yet\n")
        program.stdin.close()


def test_a_worker_says_whose_it_is():
    with pyconc.ProcessPoolExecutor(1) as pool:
        worker = pool.submit(os.getpid).result()
        said = dump(worker, status=1)
        assert said.endswith(f"process {worker} is no program with executors, but belongs to process {os.getpid()}\n")


LOOK_AS_NOBODY = """
    import os, sys
    from pyconc import _dump

    os.setuid(65534)
    try:
        _dump.look(int(sys.argv[1]))
    except _dump.NotSeen as error:
        print(error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_another_users_program_is_a_sentence():
    with pyconc.ProcessPoolExecutor(1) as pool:
        pool.submit(identity).result()
        said = run_script(LOOK_AS_NOBODY, os.getpid()).stdout
        assert said.startswith(f"process {os.getpid()} is another user's, or has other rights")


OTHER_VERSIONS = r"""
    import os
    from pyconc import _dump

    for magic in (b"pyconc\x02\x00", b"pyconc\xff\x7f", b"nonsense", b""):
        fd = os.memfd_create("pyconc")
        os.write(fd, magic + bytes(100) if magic else b"")
        try:
            print(_dump.look(os.getpid()))
        except _dump.NotSeen as error:
            print(error)
        os.close(fd)
"""


def test_another_version_is_a_sentence():
    # In a program that has nothing else to be seen.
    told = run_script(OTHER_VERSIONS).stdout.splitlines()
    assert len(told) == 4
    for line in told:
        assert line.endswith("uses another version of pyconc than this one, or its memory is damaged")


# ---- anything may stand there ----


def copy_of_memory(pool):
    """What stands at the beginning of an executor's shared memory, the job ring and all."""
    fd = pool._opened.queue.region.fileno()
    data = bytearray(os.pread(fd, 1 << 20, 0))
    return data[: 4096 + int.from_bytes(data[8:16], "little")]


def look_at(data):
    fd = os.memfd_create("damaged")
    try:
        os.write(fd, data)
        return _core.look_at_pool(fd)
    except ValueError:
        return None
    finally:
        os.close(fd)


def scribble(data, dice):
    """Write over a few stretches, as a worker with a wild pointer may."""
    for _ in range(dice.randrange(1, 4)):
        length = dice.randrange(1, 1 << dice.randrange(1, 14))
        at = dice.choice([0, 4096, len(data) - 1024, dice.randrange(len(data))])
        at += dice.randrange(1024) & ~3
        pattern = dice.choice([bytes(length), b"\xff" * length, dice.randbytes(length), (b"text" * length)[:length]])
        data[at : at + length] = pattern[: max(0, len(data) - at)]


def test_damaged_memory_shows_nonsense_at_worst(monkeypatch):
    with ProcessGate() as gate, pyconc.ProcessPoolExecutor(2) as pool:
        futures = [pool.submit(hold, gate) for _ in range(2)] + [pool.submit(identity, n) for n in range(100)]
        gate.wait_started(2)
        sound = copy_of_memory(pool)
        assert look_at(sound)[4] != []
        gate.open()
        pyconc.wait(futures)
    dice = random.Random(7)
    seen = 0
    for _ in range(200):
        data = sound[:]
        scribble(data, dice)
        found = look_at(data)
        if found is not None:
            seen += 1
            monkeypatch.setattr(_core, "look_at_pool", lambda fd, found=found: found)
            described = _dump.read_pool("/dev/null")
            monkeypatch.undo()
            assert "\x1b" not in "\n".join(
                _dump._format(
                    {"pid": 1, "command": "", "pools": [described], "threads": [], "unreadable": 0, "hidden": 0}
                )
            )
            json.dumps(described)
    assert seen > 0


def read_table(data):
    fd = os.memfd_create("damaged")
    try:
        os.write(fd, data)
        return _dump.read_table(f"/proc/self/fd/{fd}", os.getpid())
    except ValueError:
        return None
    finally:
        os.close(fd)


def test_a_damaged_table_of_threads_shows_nonsense_at_worst():
    event = threading.Event()
    with pyconc.ThreadPoolExecutor(2, name="sound", timed=True) as pool:
        futures = [pool.submit(tell_and_hold, event.wait, 1, 2, "note") for _ in range(4)]
        wait_until(lambda: look("sound")["running"] == 2)
        path = next(path for _, path in _dump._files(os.getpid(), _dump._THREADS))
        with open(path, "rb") as file:
            cells = int.from_bytes(file.read(16)[12:], "little")
            file.seek(0)
            sound = bytearray(file.read(768 * cells))
        event.set()
        pyconc.wait(futures)
    assert "sound" in [pool["name"] for _, pool in read_table(sound)[0]]
    dice = random.Random(7)
    for _ in range(200):
        data = sound[:]
        for _ in range(dice.randrange(1, 4)):
            at, length = dice.randrange(len(data)), dice.randrange(1, 1 << dice.randrange(1, 12))
            pattern = dice.choice([bytes(length), b"\xff" * length, dice.randbytes(length), (b"\x01\0\0\0" * length)])
            data[at : at + length] = pattern[: min(length, len(data) - at)]
        pools, hidden = read_table(data) or ([], 0)
        program = {"pid": 1, "command": "", "threads": [], "unreadable": 0, "hidden": hidden}
        shown = "\n".join(_dump._format(program | {"pools": [pool for _, pool in pools]}))
        assert "\x1b" not in shown
    for length in (0, 7, 8, 24, 767, 768, 1000):
        assert read_table(sound[:length]) is None


def test_the_table_of_another_process_shows_nothing():
    with pyconc.ThreadPoolExecutor(1) as pool:
        pool.submit(identity).result()
        path = next(path for _, path in _dump._files(os.getpid(), _dump._THREADS))
        assert _dump.read_table(path, os.getpid())[0] != []
        assert _dump.read_table(path, os.getppid()) == ([], 0)


def test_memory_that_ends_too_early_is_not_read():
    with pyconc.ProcessPoolExecutor(1) as pool:
        pool.submit(identity).result()
        sound = copy_of_memory(pool)
    assert look_at(sound) is not None
    for length in (0, 7, 8, 24, 4096, 4097, 8192, len(sound) - 896, len(sound) - 1):
        assert look_at(sound[:length]) is None


CUT_OFF = [
    *[b"", b"\x80", b"\x80\x05\x95", b"\x80\x05\x8c", b"\x80\x05\x8c\xffabc", b"\x80\x05X\xff\xff\xff\xffabc"],
    b"(\x02s",
]


def test_a_call_that_is_cut_off_has_no_name():
    for stream in CUT_OFF:
        for flags in (0, 8, 16, 24, 0xFFFFFFFF):
            for callable_bytes in {0, 1, len(stream)}:
                assert _dump._name_of_call(flags, callable_bytes, stream) is None


def test_a_file_that_is_a_pipe_is_not_waited_for(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises((ValueError, OSError)):
        _dump.read_pool(str(path))
