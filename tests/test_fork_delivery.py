"""A fork while an outcome is on its way: no thread of the parent leaves the child a pointer to what is gone."""

import pytest
from support import run_script

PROLOGUE = """
import asyncio, os, pathlib, threading, warnings
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
"""

# A worker stands between the end of a task and its return to the queue.
TELLING = """
class Loop(asyncio.SelectorEventLoop):
    "A loop whose worker is still telling it when the outcome is here already."
    held = None

    def call_soon_threadsafe(self, *args, **kwargs):
        handle = super().call_soon_threadsafe(*args, **kwargs)
        held = self.held  # another one by the time that this thread goes on
        if held is not None and threading.get_ident() != self.owner:
            self.telling.release()
            held.wait()
        return handle

async def main(rounds):
    loop = asyncio.get_running_loop()
    loop.owner, loop.telling = threading.get_ident(), threading.Semaphore(0)
    with pyconc.ThreadPoolExecutor(1) as pool:
        for _ in range(rounds):
            loop.held, gate = threading.Event(), threading.Event()
            call = loop.run_in_executor(pool, OUTCOME, gate)
            loop.call_soon(gate.set)
            while not call.done():
                await asyncio.sleep(0)
            await asyncio.wait([call])
            while not loop.telling.acquire(blocking=False):
                await asyncio.sleep(0)
            try:
                in_child(lambda: pool.submit(abs, -1).result() == 1 or os._exit(2))
            finally:
                loop.held.set()
                loop.held = None

loop = Loop()
loop.run_until_complete(main(10))
loop.close()
"""


@pytest.mark.parametrize("outcome", ["lambda gate: gate.wait()", "lambda gate: gate.wait() and 1 / 0"])
def test_the_child_knows_no_task_that_has_been_handed_to_the_loop(outcome):
    # Freed memory is filled by this allocator: who follows a stale pointer crashes each time.
    run_script(PROLOGUE + TELLING.replace("OUTCOME", outcome), env={"PYTHONMALLOC": "debug"})


def test_what_a_worker_is_about_to_finish_fails_in_the_child():
    run_script(
        PROLOGUE
        + """
class Argument:
    def __del__(self):
        going.release()
        held.wait()

going, held = threading.Semaphore(0), threading.Event()
with pyconc.ThreadPoolExecutor(1) as pool:
    future = pool.submit(lambda argument: "done", Argument())
    going.acquire()
    def check():
        assert isinstance(future.exception(timeout=0), BrokenThreadPool)
        assert pool.submit(abs, -1).result() == 1
    in_child(check)
    held.set()
    assert future.result() == "done"
""",
        env={"PYTHONMALLOC": "debug"},
    )


@pytest.mark.parametrize("pool", ["pyconc.ThreadPoolExecutor(1)", "pyconc.ProcessPoolExecutor(1)"])
def test_what_waits_for_a_lock_of_its_future_fails_in_the_child(pool):
    """Code that holds a future's condition keeps the thread that completes it waiting."""
    run_script(
        PROLOGUE
        + f"""
class Condition(threading.Condition):
    def __init__(self):
        super().__init__()
        self.enter, self.acquire = self.acquire, self.announce

    def announce(self, *args):
        if threading.get_ident() != main:
            entering.set()
        return self.enter(*args)

main, entering = threading.get_ident(), threading.Event()
if __name__ == "__main__":
    os.mkfifo("gate")
    with {pool} as pool:
        future = pool.submit(pathlib.Path.read_text, pathlib.Path("gate"))
        future._condition = Condition()
        gate = open("gate", "w")  # somebody reads: the call runs
        with future._condition:
            gate.close()
            entering.wait()
            def check():
                assert type(future.exception(timeout=0)).__name__.startswith("Broken"), future
            in_child(check)
        assert future.result() == ""
"""
    )
