"""What the kernel does to a worker: it ends one for want of memory, and does not let one end that was killed.

Both take control groups, which these tests make where they may: at the root of the hierarchy, for one worker or one
program each.  The freezer of version 1 keeps a process in the state D, in which SIGKILL waits until it is thawed.
"""

import contextlib
import os
import time
from pathlib import Path

import jobs
import pytest
from stopping import FOREVER
from support import HANG_LIMIT, PROC, SANITIZED, run_script, wait_until

import pyconc
from pyconc._process import call_stopper

ROOT = Path("/sys/fs/cgroup")


@contextlib.contextmanager
def control_group(*ways):
    """Makes a group in the first of (hierarchy, file, text) that can be had, and removes it; skips the test if none."""
    for hierarchy, name, text in ways:
        group = ROOT / hierarchy / f"pyconc-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if (group / name).exists():
                (group / name).write_text(text)
                yield group
                return
        finally:
            wait_until(lambda group=group: is_removed(group), "the group to be empty")
    pytest.skip("no such control group can be made here")


def is_removed(group):
    try:
        group.rmdir()
    except OSError:
        return False
    return True


# --- Out of memory ----------------------------------------------------------------------------------------------------

GROWS = """
    import os, sys
    with open(sys.argv[1] + "/cgroup.procs", "w") as file:
        file.write(str(os.getpid()))
    import pyconc

    def grow():
        held = []
        while True:
            held.append(bytearray(b"x") * (1 << 20))

    if __name__ == "__main__":
        with pyconc.ProcessPoolExecutor(1) as pool:
            for _ in range(2):
                error = pool.options(name="grower").submit(grow).exception()
                assert (type(error), error.signal, error.oom) == (pyconc.WorkerDied, "SIGKILL", True), error
                assert str(error).endswith("while it ran grower; the kernel ended it for want of memory"), error
                assert error.rss > 64 << 20, error.rss
                assert pool.submit(abs, -1).result() == 1
        print("said")
"""


@pytest.mark.skipif(SANITIZED, reason="a sanitizer takes more memory than the group has")
def test_a_worker_that_the_kernel_ends_for_want_of_memory_says_so():
    limit = str(200 << 20)
    with control_group(("memory", "memory.limit_in_bytes", limit), ("", "memory.max", limit)) as group:
        finished = run_script(GROWS, str(group))
    assert (finished.stdout, finished.stderr) == ("said\n", "")


# --- The state D ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def frozen(pid):
    """A process that sleeps in the kernel, whatever it is sent."""
    with control_group(("freezer", "freezer.state", "THAWED")) as group:
        (group / "cgroup.procs").write_text(str(pid))
        state = group / "freezer.state"
        try:
            state.write_text("FROZEN")
            wait_until(lambda: state.read_text() == "FROZEN\n", "the process to be frozen")
            assert state_of(pid) == "D"
            yield
        finally:
            state.write_text("THAWED")


def state_of(pid):
    return Path(f"{PROC}/{pid}/stat").read_text().rpartition(")")[2].split()[0]


# How long a call has, to be tried in turn: on a busy machine its time may be over before it is frozen.
SOON = (0.5, 5.0, 50.0)


def test_a_call_whose_worker_cannot_even_be_killed_is_told_all_the_same(monkeypatch):
    monkeypatch.setattr(call_stopper, "_END_SECONDS", 0.05)
    with pyconc.ProcessPoolExecutor(2) as pool:
        for seconds in SOON:
            pid = pool.submit(os.getpid).result()
            future = pool.options(on_cancel="kill", timeout=seconds).submit(time.sleep, FOREVER)
            wait_until(lambda future=future: future.running() or future.done())
            with contextlib.suppress(OSError), frozen(pid):
                error = future.exception(HANG_LIMIT)
                assert type(error) is pyconc.TaskTimeout
                if error.stopped == "killed":
                    continue
                assert error.stopped is None
                assert error.ran_for > 0
                # The worker keeps its number, and another one is started for the next call.
                assert state_of(pid) == "D"
                assert pool.submit(os.getpid).result(HANG_LIMIT) != pid
                assert pid in pool._processes
                break
        else:
            pytest.fail("the call was always ended before its worker was frozen")
        wait_until(lambda: pid not in pool._processes, "the worker to end")
        assert list(pool.map(jobs.identity, range(20), chunksize=1)) == list(range(20))


def test_so_it_is_with_a_call_that_is_cancelled(monkeypatch):
    monkeypatch.setattr(call_stopper, "_END_SECONDS", 0.05)
    with pyconc.ProcessPoolExecutor(1) as pool:
        pid = pool.submit(os.getpid).result()
        future = pool.options(on_cancel="kill").submit(time.sleep, FOREVER)
        wait_until(future.running)
        with frozen(pid):
            assert future.cancel()
            # wait() returns when the call has ended, or has been given up.
            assert pyconc.wait([future], HANG_LIMIT).done == {future}
            assert state_of(pid) == "D"
            queued = pool.submit(abs, -1)  # there is no other worker
        assert queued.result(HANG_LIMIT) == 1
