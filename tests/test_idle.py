"""An idle pool costs nothing: neither its threads nor its processes wake up or use the CPU.

Each program looks for some seconds whether anything happens; all of them do so at the same time.
"""

import contextlib
from pathlib import Path

import pytest
from support import finish, start_script

# Reads, for each thread of some processes, how often it has slept and for how many ticks it has run; None if one runs.
FIGURES = """
import os, time, pyconc

def figures(pids):
    found = {}
    for pid in pids:
        for tid in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{tid}/status") as status:
                fields = dict(line.split(":", 1) for line in status)
            with open(f"/proc/{pid}/task/{tid}/stat") as stat:
                ticks = stat.read().rpartition(")")[2].split()[11:13]
            if int(tid) == os.getpid():
                continue  # the thread that looks
            if fields["State"].split()[0] != "S":
                return None
            found[tid] = (int(fields["voluntary_ctxt_switches"]), *map(int, ticks))
    return found

def a_timer_runs():
    # The one that watches over tasks that are ready; it ends by itself when none is.
    for fd in os.listdir("/proc/self/fdinfo"):
        try:
            with open(f"/proc/self/fdinfo/{fd}") as info:
                text = info.read()
        except FileNotFoundError:
            continue  # that of the list
        if "it_value:" in text and not ("it_value: (0, 0)" in text and "ticks: 0" in text):
            return True
    return False

def is_at_rest(pids):
    # Who has not run between two looks has slept from the first to the second, and so have all at the same time.
    try:
        before = figures(pids)
        return before is not None and figures(pids) == before and not a_timer_runs()
    except FileNotFoundError:
        return False  # a thread has ended

def check_idle(*pids):
    # The program is the measurement: three seconds in which nothing may happen.  Before that, its own threads may still
    # have something to tell the processes.
    before = None  # as long as somebody has woken after all had been at rest
    while before is None:
        while not is_at_rest({os.getpid(), *pids}):
            pass
        before = figures(pids)
    time.sleep(3)
    after = figures(pids)
    assert after == before, (before, after)
    return len(before)
"""


THREADS = """
pool = pyconc.ThreadPoolExecutor(4)
barrier = __import__("threading").Barrier(4)
for future in [pool.submit(barrier.wait) for _ in range(4)]:
    future.result()
print(check_idle(os.getpid()), "sleep")
"""

PROCESSES = """
import pathlib, sys, threading
if sys.argv[1] == "threads":
    threading.Thread(target=threading.Event().wait, daemon=True).start()
pool = pyconc.ProcessPoolExecutor(4)
for path in [pathlib.Path(f"gate{number}") for number in range(4)]:
    os.mkfifo(path)
futures = [pool.submit(path.read_bytes) for path in pathlib.Path().glob("gate*")]  # each keeps a worker busy
for path in pathlib.Path().glob("gate*"):
    path.write_bytes(b"")
assert [future.result() for future in futures] == [b""] * 4
assert list(pool.map(abs, range(100))) == list(range(100))
# The supervisor and the result handler are this process's; then there are the zygote and the workers.
zygote = pool._supervisor.launcher.zygote
print(check_idle(os.getpid(), zygote.pid, *pool._processes) - (sys.argv[1] == "threads"), "sleep")
"""

# Whose workers have left, as they had nothing to do.
LEFT = """
pool = pyconc.ProcessPoolExecutor(2, idle_timeout=0.05)
assert list(pool.map(abs, range(100))) == list(range(100))
while pool._processes:
    pass
print(check_idle(os.getpid(), pool._supervisor.launcher.zygote.pid), "sleep")
"""

LOOPS = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
import coroutines
state = sys.argv[2]

async def main():
    if state == "full":
        pool = pyconc.CoroutinePool(1, concurrency=1)
        refusing = pool.submit(coroutines.refuse_for_ever)
        while not refusing.running():
            pass
        assert refusing.cancel()  # its worker is rung, and has no room for anything that it could look for
    else:
        pool = pyconc.CoroutinePool(2)
        if state == "waiting":
            running = [pool.run(coroutines.never_ends) for _ in range(2)]
        await asyncio.gather(*[pool.run(coroutines.after_a_turn, number) for number in range(100)])
    try:
        count = check_idle(pool._supervisor.launcher.zygote.pid, *pool._processes) - len(pool._processes)
        print(count, "sleep", flush=True)  # the zygote
    finally:
        pool.kill_workers()
        if state == "waiting":
            await asyncio.gather(*running, return_exceptions=True)

asyncio.run(main())
"""

PROGRAMS = {
    "threads": (THREADS, [], 4),
    "processes beside a thread": (PROCESSES, ["threads"], 7),
    "processes": (PROCESSES, ["no threads"], 7),
    "no processes": (LEFT, [], 3),
    **{f"loops that are {state}": (LOOPS, [Path(__file__).parent, state], 1) for state in ("idle", "full", "waiting")},
}


@pytest.fixture(scope="module")
def started():
    with contextlib.ExitStack() as stack:
        yield {
            name: stack.enter_context(start_script(FIGURES + program, *args))
            for name, (program, args, _) in PROGRAMS.items()
        }


@pytest.mark.parametrize("name", PROGRAMS)
def test_who_is_idle_sleeps(started, name):
    finished = finish(started[name])
    assert (finished.stdout, finished.stderr) == (f"{PROGRAMS[name][2]} sleep\n", ""), finished
