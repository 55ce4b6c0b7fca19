"""Old kernels and sandboxes that refuse a system call: process executors do without, or say which it is."""

import sys
from pathlib import Path

import pytest
from support import HANG_LIMIT, PROC, SANITIZED, run_script

SCRIPT = Path(__file__).parent / "scripts/refused_calls.py"

ERRORS = ["EPERM", "ENOSYS"]

FALLBACKS = ["pidfd_open", "pidfd_send_signal", "fallocate", "lseek", "prlimit64", "getppid"]
NEEDED = {
    "memfd_create": "processes share memory by memfd_create()",
    "eventfd2": "worker processes are woken by eventfd()",
    "epoll_create1": "worker processes are waited for by epoll_create1()",
    "epoll_ctl": "worker processes are waited for by epoll_ctl()",
    "epoll_wait": "worker processes are waited for by epoll_wait()",
    "poll": "outcomes are waited for by poll()",
    "prctl": "worker processes end with the program by prctl(PR_SET_PDEATHSIG)",
}
ALIKE = ["epoll_ctl", "poll", "getppid"]  # like epoll_wait, and like pidfd_open
PASSING = "workers of a program with threads get its open files by sendmsg(), recvmsg() and dup2()"
NEEDED_WITH_THREADS = {
    "sendmsg": PASSING,
    "recvmsg": PASSING,
    "dup2": PASSING,
    "pipe2": "the interpreter that makes the workers is started by pipe2() and vfork()",
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


@pytest.mark.parametrize(
    "call", [pytest.param(call, marks=pytest.mark.slow) if call in ALIKE else call for call in (*NEEDED, *FALLBACKS)]
)
def test_executors_do_without_or_the_error_names_the_call_and_nothing_is_left(call):
    """From the first, with either error, or later; then a call that is needed is named where it is needed still."""
    if SANITIZED and call == "prlimit64":
        pytest.skip("a sanitizer asks for a limit as a process begins, and ends it where it is refused")
    cases = [*[(error, "first") for error in ERRORS], *[("EPERM", when) for when in ("made", "threads", "worked")]]
    awaited = []
    for error, when in cases:
        # The workers there are will do.
        names_it = call in NEEDED and when != "worked"
        told = f"{error}: {NEEDED[call]}, {REFUSED}" if names_it else CALLED
        awaited += [f"{error} {when}: {told}", "nothing left"]
    assert run_script(SCRIPT, call, *[word for case in cases for word in case]).stdout.splitlines() == awaited


@pytest.mark.skipif(PROC != "/proc", reason="where pidfds are refused, all programs have workers another way")
@pytest.mark.parametrize("call", NEEDED_WITH_THREADS)
def test_what_a_program_with_threads_needs_besides(call):
    """Some of it in another process, which could not tell."""
    awaited = [
        f"EPERM first: {CALLED}",
        "nothing left",
        f"EPERM threads: EPERM: {NEEDED_WITH_THREADS[call]}, {REFUSED}",
        "nothing left",
    ]
    assert run_script(SCRIPT, call, "EPERM", "first", "EPERM", "threads").stdout.splitlines() == awaited


@pytest.mark.skipif(sys.version_info < (3, 15), reason="Python's poll() is the system's")
def test_ppoll_refused():
    need = "worker processes are waited for by poll(), or ppoll() from Python 3.15 on"
    awaited = [f"EPERM first: EPERM: {need}, {REFUSED}", "nothing left"]
    assert run_script(SCRIPT, "ppoll", "EPERM", "first").stdout.splitlines() == awaited


def test_without_pidfds_no_pipe_is_needed_either():
    finished = run_script(
        f"""
        import errno, sys
        sys.path.insert(0, {str(SCRIPT.parent)!r})
        import refused_calls
        from pyconc import ProcessPoolExecutor
        for call in "pidfd_open", "pipe2":
            refused_calls.refuse(refused_calls.CALLS[call], errno.EPERM)
        with ProcessPoolExecutor(2) as pool:
            refused_calls.run(pool)
        """
    )
    assert finished.stdout == f"{CALLED}\n"


def test_wait4_refused():
    """At the first call it is named; a pool that has worked goes on, though nobody can tell how its workers end."""
    finished = run_script(
        f"""
        import errno, signal, sys
        sys.path.insert(0, {str(SCRIPT.parent)!r})
        import refused_calls
        from pyconc import ProcessPoolExecutor
        pool = ProcessPoolExecutor(1)
        pool.submit(abs, -1).result()
        refused_calls.refuse(refused_calls.CALLS["wait4"], errno.EPERM)
        try:
            ProcessPoolExecutor(1).submit(abs, -1)
        except OSError as error:
            print(error.strerror)
        future = pool.submit(signal.pause)
        while not future.running():
            pass
        pool.kill_workers()
        print(type(future.exception()).__name__)
        """
    )
    assert finished.stdout.splitlines() == [f"worker processes are waited for by wait4(), {REFUSED}", "WorkerDied"]
    assert finished.stderr == ""


@pytest.mark.parametrize("error", ERRORS)
def test_threads_need_none_of_them(error):
    finished = run_script(
        f"""
        import errno, sys
        sys.path.insert(0, {str(SCRIPT.parent)!r})
        import refused_calls
        for call in {sorted([*NEEDED, *FALLBACKS], key="prctl".__eq__)}:  # prctl() itself takes the filters
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


# ---- Without pidfds ----

WITHOUT_PIDFDS = f"""
import asyncio, errno, multiprocessing, os, signal, sys, threading, time
sys.path[:0] = {[str(SCRIPT.parent), str(SCRIPT.parent.parent)]!r}
import refused_calls
from pyconc import CoroutinePool, ProcessPoolExecutor, WorkerDied
HANG_LIMIT = {HANG_LIMIT}
def wait_until(condition):
    while not condition():
        time.sleep(0.001)
def keep_another_thread():
    threading.Thread(target=threading.Event().wait, daemon=True).start()
for call in ("pidfd_open", "pidfd_send_signal"):
    refused_calls.refuse(refused_calls.CALLS[call], errno.ENOSYS)
def fork_and_die():
    child = os.fork()
    if child == 0:
        signal.pause()  # it has whatever files the worker has
    os.write(left[1], b"%d\\n" % child)
    os.kill(os.getpid(), signal.SIGKILL)
def close_all():
    os.closerange(3, 1000)
    signal.pause()
def death_of(future):
    error = future.exception(HANG_LIMIT)
    return error.signal or error.exitcode
left = os.pipe()
if __name__ == "__main__":
"""


def without_pidfds(body):
    return run_script(WITHOUT_PIDFDS + "\n".join("    " + line for line in body.splitlines())).stdout


def test_without_pidfds_each_death_is_seen():
    body = """
with ProcessPoolExecutor(2) as pool:
    print(death_of(pool.submit(os._exit, 3)), death_of(pool.submit(fork_and_die)), pool.submit(abs, -1).result())
    os.kill(int(os.read(left[0], 10)), signal.SIGKILL)
    future = pool.submit(close_all)
    pids = {pool.submit(os.getpid).result() for _ in range(10)}  # of the other worker
    assert not future.done()
    wait_until(future.running)
    (victim,) = set(pool._processes) - pids
    os.kill(victim, signal.SIGTERM)
    print(death_of(future))
    zygote = pool._supervisor.launcher.zygote
    futures = [pool.submit(signal.pause) for _ in range(2)]
    wait_until(lambda: all(future.running() for future in futures))
    os.kill(zygote.pid, signal.SIGKILL)
    print(*map(death_of, futures), pool.submit(abs, -2).result(HANG_LIMIT))
"""
    assert without_pidfds(body) == "3 SIGKILL 1\nSIGTERM\nSIGKILL SIGKILL 2\n"


def test_without_pidfds_workers_are_replaced_and_killed():
    body = """
with ProcessPoolExecutor(2, max_tasks_per_child=1) as pool:
    print(len({pool.submit(os.getpid).result(HANG_LIMIT) for _ in range(6)}))
for stopped in (False, True):
    pool = ProcessPoolExecutor(2)
    future = pool.submit(signal.pause)
    wait_until(future.running)
    if stopped:
        zygote = pool._supervisor.launcher.zygote.pid
        os.kill(zygote, signal.SIGSTOP)
        os.waitpid(zygote, os.WUNTRACED)
    pool.kill_workers()
    pool.shutdown()
    print(type(future.exception(HANG_LIMIT)).__name__)
keep_another_thread()
with ProcessPoolExecutor(2) as pool:
    print(death_of(pool.submit(os._exit, 4)), pool.submit(abs, -3).result(HANG_LIMIT))
"""
    assert without_pidfds(body) == "6\nWorkerDied\nWorkerDied\n4 3\n"


# multiprocessing waits for what it has spawned as for what it has forked, and asks the fork server for its children.
@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_without_pidfds_a_context_is_used(method):
    body = f"""
with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context({method!r})) as pool:
    print(pool.submit(abs, -1).result(HANG_LIMIT), death_of(pool.submit(os._exit, 5)))
    future = pool.submit(signal.pause)
    wait_until(future.running)
    pool.kill_workers()
    print(type(future.exception(HANG_LIMIT)).__name__)
"""
    assert without_pidfds(body) == "1 5\nWorkerDied\n"


def test_without_pidfds_coroutines_run():
    body = """
import coroutines
async def main():
    async with CoroutinePool(2) as pool:
        print(await asyncio.gather(*[pool.run(asyncio.sleep, 0, n) for n in range(3)]))
        try:
            await pool.run(coroutines.die, signal.SIGKILL)
        except WorkerDied as error:
            print(error.signal)
        print(await pool.run(asyncio.sleep, 0, 7))
asyncio.run(main())
"""
    assert without_pidfds(body) == "[0, 1, 2]\nSIGKILL\n7\n"


@pytest.mark.parametrize("threads", [False, True])
def test_without_pidfds_workers_end_with_their_parent(threads):
    body = f"""
child = os.fork()
if child == 0:
    if {threads}:
        keep_another_thread()
    pool = ProcessPoolExecutor(2)
    pool.submit(abs, -1).result()
    os.close(left[0])
    busy = [pool.submit(signal.pause), pool.submit(signal.pause)]
    wait_until(lambda: all(future.running() for future in busy))
    os.kill(os.getpid(), signal.SIGKILL)
os.close(left[1])
print(os.read(left[0], 1))  # nobody is left who could write
"""
    assert without_pidfds(body) == "b''\n"


@pytest.mark.parametrize(
    "error", ["EPERM", *(pytest.param(error, marks=pytest.mark.slow) for error in ("ENOSYS", "EOPNOTSUPP"))]
)
def test_without_fallocate_memory_goes_back_to_the_system(error):
    finished = run_script(
        f"""
        import errno, operator, os, sys
        sys.path.insert(0, {str(SCRIPT.parent)!r})
        import refused_calls
        from pyconc import ProcessPoolExecutor
        SIZE = 160 << 20  # more than is kept for what comes next
        refused_calls.refuse(refused_calls.CALLS["fallocate"], errno.{error})
        def region():
            files = [f"/proc/self/fd/{{name}}" for name in os.listdir("/proc/self/fd")]
            files = [file for file in files if os.path.lexists(file) and "memfd:pyconc " in os.readlink(file)]
            return sum(os.stat(file).st_blocks * 512 for file in files)
        with ProcessPoolExecutor(1) as pool:
            received = pool.submit(operator.mul, b"x", SIZE).result()
            print(len(received) == SIZE)
            del received
            while region() >= SIZE:
                pool.submit(abs, -1).result()
        """
    )
    assert finished.stdout == "True\n"


def test_a_second_worker_starts_where_getppid_is_refused():
    """The process of which it is a clone, which sleeps until then, cannot ask whose child it is."""
    finished = run_script(
        f"""
        import errno, signal, sys
        sys.path.insert(0, {str(SCRIPT.parent)!r})
        import refused_calls
        from pyconc import ProcessPoolExecutor
        refused_calls.refuse(refused_calls.CALLS["getppid"], errno.EPERM)
        pool = ProcessPoolExecutor(2)
        pool.submit(signal.pause)
        print(pool.submit(abs, -1).result())
        pool.kill_workers()
        """
    )
    assert finished.stdout == "1\n"
