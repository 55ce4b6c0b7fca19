"""Pools in daemonic processes, where multiprocessing allows no children, and pools in the workers of pools.

multiprocessing kills its daemonic processes, and so would leave their children behind.  A worker ends with its parent.
"""

import os
import signal

import pytest
from support import await_line, finish, run_script, start_script

METHODS = ["fork", "forkserver", "spawn"]
# From a fork all ways to start workers are tried, from the others the default and their own.
INNER = {"fork": [None, *METHODS], "forkserver": [None, "forkserver"], "spawn": [None, "spawn"]}

USE = """
import multiprocessing, os, signal, sys, threading
import pyconc

def use(method, hangs=False):
    context = method and multiprocessing.get_context(method)
    executor = pyconc.ProcessPoolExecutor(2, mp_context=context)
    assert executor.submit(pow, 2, 5).result() == 32
    assert list(executor.map(abs, [-1, 2])) == [1, 2]
    assert not executor.submit(is_daemonic).result()
    if hangs:
        # Each task holds a worker: the second is taken by the other one.
        executor.submit(hang, "one"), executor.submit(hang, "two").result()
    executor.shutdown()
    return multiprocessing.current_process().daemon

def is_daemonic():
    return multiprocessing.current_process().daemon

def hang(name):
    # In one write: two processes use the pipe.
    os.write(1, f"{name} hangs in a worker of {multiprocessing.parent_process().pid}\\n".encode())
    threading.Event().wait()
"""


@pytest.mark.parametrize("outer", ["fork", "spawn", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_a_daemonic_process_has_pools(outer):
    finished = run_script(
        USE
        + f"""
def main():
    for method in {INNER[outer]}:
        assert use(method), method
    print("used")

if __name__ == "__main__":
    process = multiprocessing.get_context({outer!r}).Process(target=main, daemon=True)
    process.start()
    process.join()
    assert process.exitcode == 0
    assert not multiprocessing.active_children()
""",
    )
    assert (finished.stdout, finished.stderr) == ("used\n", "")


# A worker of a pool differs from any other process in what it does, not in how it is started.
@pytest.mark.parametrize("outer", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_a_worker_of_multiprocessing_pool_has_pools(outer):
    run_script(
        USE
        + f"""
if __name__ == "__main__":
    with multiprocessing.get_context({outer!r}).Pool(2) as pool:
        assert pool.map(use, {INNER[outer]}, chunksize=1) == [True] * {len(INNER[outer])}
""",
    )


@pytest.mark.parametrize("outer", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_a_daemonic_process_that_leaves_a_pool_open_ends(outer):
    run_script(
        USE
        + f"""
def main():
    global executor
    executor = pyconc.ProcessPoolExecutor(2)
    executor.submit(abs, -1).result()

if __name__ == "__main__":
    process = multiprocessing.get_context({outer!r}).Process(target=main, daemon=True)
    process.start()
    process.join()
    assert process.exitcode == 0
""",
    )


def test_a_daemonic_process_has_a_coroutine_pool():
    run_script(
        """
import asyncio, multiprocessing, pyconc

def main():
    with pyconc.CoroutinePool(2) as pool:
        assert pool.submit(asyncio.sleep, 0, 42).result() == 42

if __name__ == "__main__":
    process = multiprocessing.get_context("fork").Process(target=main, daemon=True)
    process.start()
    process.join()
    assert process.exitcode == 0
"""
    )


@pytest.mark.parametrize(
    ("method", "end"),
    [
        (None, signal.SIGKILL),
        (None, signal.SIGTERM),
        ("fork", signal.SIGKILL),
        ("forkserver", signal.SIGKILL),
        ("spawn", signal.SIGTERM),
    ],
)
def test_workers_of_a_daemonic_process_end_with_it(method, end):
    with start_script(
        USE
        + f"""
if __name__ == "__main__":
    process = multiprocessing.get_context("fork").Process(target=use, args=({method!r}, True), daemon=True)
    process.start()
    process.join()
    assert process.exitcode == -{int(end)}
"""
    ) as process:
        daemonic, same = (int(await_line(process, process.stdout, "hangs").split()[-1]) for _ in range(2))
        assert daemonic == same
        os.kill(daemonic, end)
        # Who is left holds the pipes, and this would hang.
        assert finish(process).returncode == 0


DEPTH = """
import multiprocessing, os, pyconc, sys

def own(depth):
    "Uses a pool of its own in each task."
    if depth == 0:
        return [os.getpid()]
    with pyconc.ProcessPoolExecutor(1) as pool:
        return [os.getpid(), *pool.submit(own, depth - 1).result()]

def inherited(depth):
    "Uses the pool that the program has: in a worker, the global is that worker's own executor."
    return [os.getpid()] if depth == 0 else [os.getpid(), *executor.submit(inherited, depth - 1).result()]

def mapped(depth):
    return [os.getpid()] if depth == 0 else [os.getpid(), *list(executor.map(mapped, [depth - 1] * 3))[0]]
"""


@pytest.mark.parametrize(
    ("method", "how"),
    [
        *[(None, how) for how in ("own", "inherited", "mapped")],
        ("fork", "own"),
        ("spawn", "inherited"),
        *[pytest.param(method, "own", marks=pytest.mark.slow) for method in ("forkserver", "spawn")],
    ],
)
def test_tasks_that_wait_for_tasks_of_the_same_executor(method, how):
    """Each process has workers of its own, so a task never waits for the worker that runs it."""
    depth = 3 if method in (None, "fork") else 2  # each is an interpreter that starts
    run_script(
        DEPTH
        + f"""
method = {method!r}
executor = pyconc.ProcessPoolExecutor(1, mp_context=method and multiprocessing.get_context(method))

if __name__ == "__main__":
    pids = executor.submit({how}, {depth}).result()
    assert len(set(pids)) == {depth} + 1 and os.getpid() not in pids, pids
    executor.shutdown()
""",
    )
