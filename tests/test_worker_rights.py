"""Workers have what the program has when they start: its rights, never more, and limits, umask and the like."""

import os

import pytest
from support import PROC, chessboard, run_script

from pyconc._process import process_state
from pyconc._process.process_state import may_become

PROGRAM = """
import _locale, contextlib, os, resource, signal, sys, threading, time
import pyconc
THREADS = "threads" in sys.argv
def start_thread():
    if THREADS:
        threading.Thread(target=threading.Event().wait, daemon=True).start()
"""

worlds = pytest.mark.parametrize("world", ["one thread", "threads"])


@worlds
@pytest.mark.parametrize("when", ["before the first", "before the second"])
def test_a_new_worker_takes_over_what_the_program_has_changed(world, when):
    finished = run_script(
        PROGRAM
        + """
def look(*_):
    with open("/proc/self/oom_score_adj") as file:
        score = int(file.read())
    umask = os.umask(0)
    os.umask(umask)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    blocked = signal.SIGUSR2 in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    has = limit, len(os.sched_getaffinity(0)), nice, _locale.setlocale(_locale.LC_NUMERIC), os.getcwd(), time.tzname
    return score, umask, blocked, *has, os.sched_getscheduler(0)
def change():
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("700")  # which only a privileged program may do if it has more
    os.umask(0o77)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with contextlib.suppress(PermissionError):  # in the sandbox of the tests
        os.setpriority(os.PRIO_PROCESS, 0, 5)
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    _locale.setlocale(_locale.LC_NUMERIC, "C.UTF-8")
    os.chdir("/")
    os.environ["TZ"] = "XYZ-3"
    time.tzset()
if __name__ == "__main__":
    pool = pyconc.ProcessPoolExecutor(2)
    start_thread()
    if sys.argv[2] == "before the second":
        busy = pool.submit(signal.pause)
        while not busy.running():
            pass
    change()
    told = slice(0 if os.listdir("/proc") else 3, None)  # the first three can be learnt nowhere else
    found = pool.submit(look).result()
    print(found[told] == look()[told], look()[1:], found)
    pool.kill_workers()
""",
        world,
        when,
    )
    assert finished.stdout.startswith("True (63, True, (200, "), finished


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to give up")
@pytest.mark.parametrize(
    ("world", "when"),
    [("one thread", "before the first"), ("threads", "before the first"), ("one thread", "while one runs")],
)
def test_a_worker_has_no_rights_that_the_program_has_given_up(world, when):
    finished = run_script(
        PROGRAM
        + """
def who():
    with open("/proc/self/status") as file:
        caps = [line for line in file if line[:6] in ("CapPrm", "CapEff")]
    return os.getresuid(), os.getresgid(), os.getgroups(), caps
def read(path):
    with open(path) as file:
        return file.read()
if __name__ == "__main__":
    os.chmod(".", 0o777)
    os.mkfifo("gate")
    os.chmod("gate", 0o666)
    pool = pyconc.ProcessPoolExecutor(2)
    start_thread()
    if sys.argv[2] == "while one runs":
        running = pool.submit(read, "gate")
        while not running.running():
            pass
    os.setgroups([7])
    os.setresgid(12345, 12345, 12345)
    os.setresuid(12345, 12345, 12345)
    print([pool.submit(who).result() == who() for _ in range(3)])
    if sys.argv[2] == "while one runs":
        with open("gate", "w") as gate:
            gate.write("done")
        print(running.result())
    zygote = pool._supervisor.launcher.zygote.pid
    pool.shutdown()
    while os.path.exists(f"/proc/{zygote}"):
        pass  # the nursery has yet to wait for it
""",
        world,
        when,
    )
    done = "done\n" if when == "while one runs" else ""
    assert finished.stdout == f"[True, True, True]\n{done}"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to give up")
def test_a_worker_gives_up_rights_where_there_is_no_proc():
    finished = run_script(
        PROGRAM
        + """
from pyconc._process import process_state
process_state._read_status = process_state._ask_kernel
def who(*_):
    return os.getresuid(), os.getresgid(), os.getgroups()
if __name__ == "__main__":
    pool = pyconc.ProcessPoolExecutor(2)
    start_thread()
    os.setgroups([7, 9])
    os.setresgid(12345, 12345, 12345)
    os.setresuid(12345, 12345, 12345)
    print([pool.submit(who).result() == who() for _ in range(3)])
    pool.shutdown()
""",
        "threads",
    )
    assert finished.stdout == "[True, True, True]\n"


def test_what_another_process_may_become():
    root = {"Uid": "0\t0\t0\t0", "Groups": "", "CapEff": "1ff", "NoNewPrivs": "0", "user": "user:[1]"}
    user = {**root, "Uid": "5\t5\t5\t5", "Groups": "7", "CapEff": "0"}
    assert may_become(root, user)
    assert not may_become(root, {**user, "NoNewPrivs": "1"})
    assert not may_become(root, {**user, "user": "user:[2]"})


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to give up")
def test_workers_that_have_more_rights_take_nothing_that_is_submitted_afterwards():
    finished = run_script(
        PROGRAM
        + """
def read(path):
    with open(path) as file:
        return file.readline(), os.getuid()  # no end: new workers have the other end open, too
if __name__ == "__main__":
    os.chmod(".", 0o777)
    os.mkfifo("gate")
    pool = pyconc.ProcessPoolExecutor(2)
    idle = pyconc.ProcessPoolExecutor(1)
    assert idle.submit(os.getuid).result() == 0
    pids = {pool.submit(os.getpid).result(), idle.submit(os.getpid).result()}
    running = pool.submit(read, "gate")
    while not running.running():
        pass
    gate = open("gate", "w")
    os.setgroups([])
    os.setgid(12345)
    os.setuid(12345)
    uids = {pool.submit(os.getuid).result() for _ in range(20)}
    print(uids, set(pool.map(abs, [-1])), idle.submit(os.getuid).result())
    assert pool.submit(os.getpid).result() not in pids
    gate.write("done\\n")
    gate.close()
    print(running.result())
    pool.shutdown()
    idle.shutdown()
    while any(os.path.exists(f"/proc/{pid}") for pid in pids):
        pass  # whose child it is has yet to wait for it
"""
    )
    assert finished.stdout == "{12345} {1} 12345\n('done\\n', 0)\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may change its root")
@worlds
@pytest.mark.parametrize("when", ["before the first", "before the second"])
def test_a_program_whose_root_has_no_interpreter_has_workers(world, when):
    # It is forked then, threads or not, with the warning of the standard library's executor that forks.
    run_script(
        PROGRAM
        + """
if __name__ == "__main__":
    start_thread()
    pool = pyconc.ProcessPoolExecutor(1)
    if sys.argv[2] == "before the second":
        assert "jail" not in pool.submit(os.listdir).result()
    os.mkdir("jail")
    os.chroot("jail")
    os.chdir("/")
    os.mkdir("inside")
    assert pool.submit(os.listdir, "/").result() == ["inside"]
    os.rmdir("inside")
    pool.shutdown()
""",
        world,
        when,
        flags=("-W", "ignore:This process:DeprecationWarning"),
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to give up")
def test_a_program_that_gives_up_rights_needs_no_new_interpreter():
    # It might not be allowed to read that.
    run_script(
        PROGRAM
        + """
import multiprocessing.spawn
if __name__ == "__main__":
    start_thread()
    with pyconc.ProcessPoolExecutor(1) as pool:
        assert pool.submit(os.getuid).result() == 0
        multiprocessing.set_executable("/nowhere/python")
        os.setgroups([])
        os.setgid(12345)
        os.setuid(12345)
        assert pool.submit(os.getuid).result() == 12345
""",
        "threads",
        flags=("-W", "error"),
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has capabilities to drop")
@pytest.mark.parametrize("when", ["before the first", "before the second"])
@chessboard("world, proc, what", ["one thread", "threads"], ["/proc", "no /proc"], ["NoNewPrivs", "CapBnd"])
def test_a_new_worker_is_as_confined_as_the_program(world, proc, what, when):
    if when == "before the second" and (proc != "/proc" or PROC != "/proc"):
        pytest.skip("that thread starts which was there before, and nobody else tells it what the main thread has")
    finished = run_script(
        PROGRAM
        + """
import ctypes
from pyconc import _core
from pyconc._process import process_state
if "no /proc" in sys.argv:
    process_state._read_status = process_state._ask_kernel
PR_CAPBSET_DROP, CAP_SYS_TIME, PR_SET_NO_NEW_PRIVS = 24, 25, 38
def read(*_):
    return _core.read_capabilities()
if __name__ == "__main__":
    pool = pyconc.ProcessPoolExecutor(2)
    start_thread()
    if sys.argv[4] == "before the second":
        busy = pool.submit(signal.pause)
        while not busy.running():
            pass
    confine = [PR_CAPBSET_DROP, CAP_SYS_TIME] if "CapBnd" in sys.argv else [PR_SET_NO_NEW_PRIVS, 1]
    assert ctypes.CDLL(None).prctl(*confine, 0, 0, 0) == 0
    *own, is_confined, _ = read()
    *capabilities, is_worker_confined, _ = pool.submit(read).result()
    print(is_worker_confined == is_confined, [theirs & ~ours for theirs, ours in zip(capabilities, own)])
    pool.kill_workers()
""",
        world,
        proc,
        what,
        when,
    )
    assert finished.stdout == "True [0, 0, 0, 0, 0]\n"


@pytest.mark.skipif(not os.access("/proc/self/status", os.R_OK), reason="there is no /proc")
def test_the_kernel_says_of_rights_what_proc_says():
    told, read = process_state._ask_kernel(), process_state._read_status()
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"):
        assert int(told[name], 16) == int(read[name], 16), name
    for name in ("Uid", "Gid", "Groups"):
        assert [*map(int, told[name].split())] == [*map(int, read[name].split())][: len(told[name].split())], name


@pytest.mark.skipif(os.geteuid() != 0, reason="root can be a user who has no other process, and is not counted itself")
def test_with_few_processes_allowed_submit_says_so_or_works():
    finished = run_script(
        PROGRAM
        + """
def run():
    with pyconc.ProcessPoolExecutor(2) as pool:
        return pool.submit(abs, -1).result() + pool.submit(abs, -1).result()
def attempt(limit):
    resource.setrlimit(resource.RLIMIT_NPROC, (limit, limit))
    os.setuid(100000 + os.getppid())
    for _ in range(3):  # what is refused leaves nothing behind
        try:
            print("works" if run() == 2 else "wrong", flush=True)
        except BlockingIOError:
            print("no process", flush=True)
        except RuntimeError as error:
            print({"can't start new thread": "no thread"}.get(str(error), error), flush=True)
if __name__ == "__main__":
    run()  # imports all that is needed, which that user may not be allowed to
    for limit in (*range(1, 9), 20):
        pid = os.fork()
        if pid == 0:
            attempt(limit)
            os._exit(0)
        assert os.waitpid(pid, 0) == (pid, 0)
""",
        flags=("-W", "ignore:This process:DeprecationWarning"),  # the system still ends one
    )
    told = finished.stdout.splitlines()
    # In between, a thread or a process that has ended may count a moment longer.
    assert len(told) == 27
    assert set(told) <= {"works", "no thread", "no process"}
    assert "works" not in told[:3]
    assert told[-3:] == ["works"] * 3
    assert finished.stderr == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to give up")
@pytest.mark.parametrize(
    ("world", "end"),
    [
        ("one thread", "cancel"),
        ("one thread", "timeout"),
        ("one thread", "terminate_workers"),
        ("one thread", "exception"),
        ("threads", "cancel"),
        ("threads", "cancel_futures"),
        ("threads", "timeout"),
        ("threads", "kill_workers"),
    ],
)
def test_workers_that_have_more_rights_are_stopped_and_killed_all_the_same(world, end):
    finished = run_script(
        PROGRAM
        + """
import time
def run(path):
    with open(path) as file:
        while True:
            try:
                file.readline()
                time.sleep(1000)
            except pyconc.TaskCancelled:
                if "timeout" in sys.argv:
                    continue
                raise
if __name__ == "__main__":
    os.chmod(".", 0o777)
    os.mkfifo("gate")
    pool = pyconc.ProcessPoolExecutor(2)
    start_thread()
    assert pool.submit(abs, -1).result() == 1
    view = pool.options(on_cancel="interrupt", grace=0.01 if "timeout" in sys.argv else 1000)
    running = [view.submit(run, "gate") for _ in range(2)]
    while not all(future.running() for future in running):
        pass
    gate = open("gate", "w")
    pids = set(pool._processes)
    os.setgroups([])
    os.setgid(12345)
    os.setuid(12345)
    end = sys.argv[2]
    if end == "cancel":
        print([future.cancel() for future in running])
        pyconc.wait(running)
        pool.shutdown()
    elif end in ("kill_workers", "terminate_workers"):
        getattr(pool, end)()
    elif end == "exception":
        with contextlib.suppress(KeyError), pool:
            raise KeyError
    else:
        pool.shutdown(**{end: 0 if end == "timeout" else True})
    pyconc.wait(running)
    pool.shutdown()
    while any(os.path.exists(f"/proc/{pid}") for pid in pids):
        pass  # where there are no pidfds, killed workers may have yet to be buried
    print(len(pids))
""",
        world,
        end,
    )
    assert finished.stdout == ("[True, True]\n" if end == "cancel" else "") + "2\n"
