"""What the child of a fork finds: executors empty and usable, pending futures failed, callbacks not called."""

import pytest
from support import HANG_LIMIT, SANITIZED, THOUSAND, run_script

# CPython says from 3.12 on that a process with threads should not fork, which is what these programs are about.
PROLOGUE = """
import asyncio, os, sys, threading, warnings
from concurrent.futures.thread import BrokenThreadPool
import pyconc
warnings.simplefilter("ignore", DeprecationWarning)

def in_child(check):
    pid = os.fork()
    if pid == 0:
        try:
            check()
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

called = []
"""


def test_child_finds_executor_usable_and_futures_failed():
    run_script(
        PROLOGUE
        + """
pool = pyconc.ThreadPoolExecutor(2)
gate, started = threading.Event(), threading.Semaphore(0)
def hold():
    started.release()
    gate.wait()
    return "held"
running = [pool.submit(hold) for _ in range(2)]
for _ in running:
    started.acquire()
queued = [pool.submit(int) for _ in range(5)]
for future in running + queued:
    future.add_done_callback(called.append)
condition = queued[0]._condition  # one of them has a lock that a thread of the parent may hold

def check():
    for future in running + queued:
        assert isinstance(future.exception(timeout=0), BrokenThreadPool), future
    assert not called
    assert pool._work_queue.qsize() == 0 and not pool._threads
    assert list(pool.map(abs, range(-9, 0))) == list(range(9, 0, -1))
    assert len(pool._threads) in (1, 2)
    pool.shutdown()

with condition:
    in_child(check)
gate.set()
assert [f.result() for f in running] == ["held"] * 2 and [f.result() for f in queued] == [0] * 5
assert len(called) == 7
in_child(check=lambda: pool.submit(int).result())
pool.shutdown()
"""
    )


def test_a_task_may_fork():
    run_script(
        PROLOGUE
        + """
pool = pyconc.ThreadPoolExecutor(1)
def fork():
    def check():
        assert isinstance(mine.exception(timeout=0), BrokenThreadPool)
        assert pool.submit(abs, -1).result() == 1  # with a worker of the child's own
        pool.shutdown()
    in_child(check)
    return "parent"
ready = threading.Event()
mine = pool.submit(lambda: ready.wait() and fork())
ready.set()
assert mine.result() == "parent"
pool.shutdown()
"""
    )


def test_a_child_that_returns_from_its_task_is_no_worker_any_more():
    run_script(
        PROLOGUE
        + """
pool = pyconc.ThreadPoolExecutor(1)
pid = pool.submit(os.fork).result()  # the child comes out of the worker's loop, and ends with its thread
assert pid > 0
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
assert pool.submit(abs, -1).result() == 1
pool.shutdown()
"""
    )


def test_a_worker_may_fork_between_two_tasks():
    # There it runs a function that does nothing, so that others have their turn; a profiler sees that, and may do much.
    run_script(
        PROLOGUE
        + """
pids = []
def profile(frame, event, arg):
    if "_checkpoint" in frame.f_code.co_filename and not pids:
        pids.append(os.fork())
threading.setprofile(profile)
pool = pyconc.ThreadPoolExecutor(1)
while not pids:
    futures = [pool.submit(sum, range(10_000)) for _ in range(100)]
    assert {future.result() for future in futures} == {sum(range(10_000))}
assert os.waitstatus_to_exitcode(os.waitpid(pids[0], 0)[1]) == 0
pool.shutdown()
"""
    )


def test_pending_futures_of_a_loop_fail_in_the_child():
    run_script(
        PROLOGUE
        + """
pool = pyconc.ThreadPoolExecutor(1)
gate, started = threading.Event(), threading.Event()
loop = asyncio.new_event_loop()
running = loop.run_in_executor(pool, lambda: started.set() or gate.wait())
queued = loop.run_in_executor(pool, int)
started.wait()

def check():
    for future in (running, queued):
        assert future.done() and isinstance(future.exception(), BrokenThreadPool)
in_child(check)
gate.set()
assert loop.run_until_complete(asyncio.gather(running, queued)) == [True, 0]
loop.close()
pool.shutdown()
"""
    )


@pytest.mark.parametrize("state", ["shut down", "broken"])
def test_a_closed_executor_stays_closed_in_the_child(state):
    run_script(
        PROLOGUE
        + f"""
import logging
logging.disable()
def fail(): raise OSError
state = {state!r}
pool = pyconc.ThreadPoolExecutor(1, initializer=fail if state == "broken" else None)
pool.submit(int).exception()
if state != "broken":
    pool.shutdown()
def check():
    try:
        pool.submit(int)
    except RuntimeError as error:
        assert isinstance(error, BrokenThreadPool) == (state == "broken")
    else:
        raise AssertionError
in_child(check)
"""
    )


@pytest.mark.skipif(SANITIZED, reason="a child may find the sanitizer's own locks taken, and its threads cannot start")
@pytest.mark.slow
def test_a_thousand_forks_beside_busy_threads():
    run_script(
        PROLOGUE
        + """
pool = pyconc.ThreadPoolExecutor(3)
stop = threading.Event()
def submit():
    while not stop.is_set():
        pool.submit(abs, -1).result()
threads = [threading.Thread(target=submit) for _ in range(2)]
for thread in threads:
    thread.start()
def check():
    assert pool.submit(abs, -2).result() == 2
    pool.shutdown()
for _ in range(int(sys.argv[1])):
    in_child(check)
stop.set()
for thread in threads:
    thread.join()
pool.shutdown()
""",
        THOUSAND,
        limit=4 * HANG_LIMIT,
    )
