"""Old kernels and sandboxes that refuse a system call: process executors do without, or say which it is."""

from pathlib import Path

import pytest
from support import run_script

SCRIPT = Path(__file__).parent / "scripts/refused_calls.py"

ERRORS = ["EPERM", "ENOSYS"]

FALLBACKS = ["pidfd_send_signal", "fallocate", "lseek"]
NEEDED = {
    "pidfd_open": "worker processes are watched by pidfd_open()",
    "memfd_create": "processes share memory by memfd_create()",
    "eventfd2": "worker processes are woken by eventfd()",
    "epoll_create1": "worker processes are waited for by epoll_create1()",
}
REFUSED = "which the system does not have or this sandbox does not allow"

# What the script prints when the calls are made.
CALLED = "3 2 1 WorkerDied 4 WorkerDied"


@pytest.fixture(scope="module", autouse=True)
def _filters():
    finished = run_script(
        f"""
        import errno, os, sys
        sys.path.insert(0, {str(SCRIPT.parent)!r})
        import refused_calls
        try:
            refused_calls.refuse(refused_calls.CALLS["eventfd2"], errno.EPERM)
        except (KeyError, SystemExit) as reason:
            print("not here:", reason)
        """
    )
    if finished.stdout:
        pytest.skip(f"system calls cannot be refused {finished.stdout}")


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("call", FALLBACKS)
def test_executors_do_without(call, error):
    assert run_script(SCRIPT, error, call).stdout.splitlines() == [CALLED, "nothing left"]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("call", NEEDED)
def test_or_the_error_names_the_call_and_nothing_is_left(call, error):
    told = f"{error}: {NEEDED[call]}, {REFUSED}"
    assert run_script(SCRIPT, error, call).stdout.splitlines() == [told, "nothing left"]


@pytest.mark.parametrize("when", ["made", "threads", "worked"])
@pytest.mark.parametrize("call", [*NEEDED, *FALLBACKS])
def test_what_is_refused_later_is_named_where_it_is_needed_still(call, when):
    told = CALLED
    if call in NEEDED and when != "worked":  # the workers there are will do
        told = f"EPERM: {NEEDED[call]}, {REFUSED}"
    assert run_script(SCRIPT, "EPERM", call, when).stdout.splitlines() == [told, "nothing left"]


@pytest.mark.parametrize("error", ERRORS)
def test_threads_need_none_of_them(error):
    finished = run_script(
        f"""
        import errno, sys
        sys.path.insert(0, {str(SCRIPT.parent)!r})
        import refused_calls
        for call in {[*NEEDED, *FALLBACKS]}:
            refused_calls.refuse(refused_calls.CALLS[call], errno.{error})
        import pyconc
        with pyconc.ThreadPoolExecutor(2) as pool:
            print(*pool.map(abs, range(-3, 0)))
        """
    )
    assert finished.stdout == "3 2 1\n"


def test_without_proc():
    """Where nothing that looks for a file in /proc finds one."""
    finished = run_script(
        """
import builtins, os, pyconc
def without_proc(function):
    def call(path, *args, **kwargs):
        if str(path).startswith("/proc"):
            raise FileNotFoundError(2, "No such file or directory", path)
        return function(path, *args, **kwargs)
    return call
for module, names in ((os, ("stat", "listdir", "open", "readlink", "scandir")), (builtins, ("open",))):
    for name in names:
        setattr(module, name, without_proc(getattr(module, name)))
with pyconc.ProcessPoolExecutor(2) as pool:
    print(*pool.map(abs, range(-3, 0)), type(pool.submit(os._exit, 3).exception()).__name__)
    print(pool.submit(abs, -4).result())
"""
    )
    assert finished.stdout == "3 2 1 WorkerDied\n4\n"


# As in builds of Python for old systems, whatever the kernel has.
LACKING = """
import os, signal
for module, name in ((os, "memfd_create"), (os, "pidfd_open"), (signal, "pidfd_send_signal")):
    if hasattr(module, name):
        delattr(module, name)
"""

AIOMULTIPROCESS = """
import asyncio, os, select, signal
from pyconc.aiomultiprocess import Process, Worker
async def squared(number):
    return number ** 2
async def closes_its_files():
    os.closerange(3, 1000)
    signal.pause()
async def main():
    print(await Worker(target=squared, args=(7,)))
    process = Process(target=closes_its_files)
    process.start()
    join = asyncio.ensure_future(process.join())
    await asyncio.to_thread(select.select, [process.aio_process.sentinel], [], [])
    for _ in range(10):
        await asyncio.sleep(0)
    process.terminate()
    await join
    print(process.exitcode)
if __name__ == "__main__":
    asyncio.run(main())
"""


def test_a_python_that_lacks_names_of_calls():
    finished = run_script(
        LACKING
        + """
import pyconc
with pyconc.ProcessPoolExecutor(2) as pool:
    print(*pool.map(abs, range(-3, 0)), type(pool.submit(os._exit, 3).exception()).__name__)
    future = pool.submit(signal.pause)
    while not future.running():
        pass
    pool.kill_workers()
    print(type(future.exception()).__name__)
"""
    )
    assert finished.stdout == "3 2 1 WorkerDied\nWorkerDied\n"


@pytest.mark.parametrize("lacking", [True, False])
def test_a_worker_of_aiomultiprocess_does_without(lacking):
    program = LACKING + AIOMULTIPROCESS
    if not lacking:
        refusals = f"""
import sys
sys.path.insert(0, {str(SCRIPT.parent)!r})
import refused_calls
for call in ("memfd_create", "pidfd_open", "pidfd_send_signal"):
    refused_calls.refuse(refused_calls.CALLS[call], 1)
"""
        program = AIOMULTIPROCESS.replace("    asyncio.run", refusals.replace("\n", "\n    ") + "\n    asyncio.run")
    assert run_script(program).stdout == "49\n-15\n"
