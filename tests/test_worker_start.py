"""The start of a worker fails at every step: the pool goes on or says so, and no process is left that nobody knows."""

import pytest
from support import PROC, chessboard, run_script

from pyconc._process import kernel

WAYS = ["threads", "no threads"]

PROGRAM = """
import errno, os, select, signal, sys, threading, types
import pyconc
from concurrent.futures import BrokenExecutor
from pyconc import _core
from pyconc._process import kernel
from pyconc._process.nursery import the_nursery

step, threads = sys.argv[1], sys.argv[2] == "threads"
NOT_REACHED = 3
for when in range(1, int(sys.argv[3]) + 1):
    pid = os.fork()
    if pid == 0:
        break  # each is a program of its own from here on
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code == NOT_REACHED:
        print(when - 1)
        sys.exit()
    assert code == 0, when
else:
    print(when)
    sys.exit()

error = RuntimeError("injected") if step in ("thread", "audit") else OSError(errno.EMFILE, "injected")

def failing(function, calls=None):
    calls = [] if calls is None else calls
    def fails_once(*args, **kwargs):
        calls.append(None)
        if armed and len(calls) == when:
            failed.append(step)
            raise error
        return function(*args, **kwargs)
    return fails_once

class Epoll:
    def __init__(self):
        real = select.epoll()
        self.unregister, self.poll, self.close, self.fileno = real.unregister, real.poll, real.close, real.fileno
        self.register = failing(real.register)

def who(number):
    return os.getpid()

armed, failed = False, []
if threads:
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    with pyconc.ProcessPoolExecutor(1) as pool:  # what the program has but once is there
        pool.submit(who, 0).result()
if step in ("fork", "audit"):  # an audit hook may refuse it
    forks = []
    _core.fork, _core.fork_pair = failing(_core.fork, forks), failing(_core.fork_pair, forks)
elif step == "open_pidfd":
    _core.open_pidfd = failing(_core.open_pidfd)
elif step == "register":
    kernel.select = types.SimpleNamespace(**{**vars(select), "epoll": Epoll})
elif step == "thread":
    threading.Thread.start = failing(threading.Thread.start)
elif step == "supervise":
    _core.ProcessQueue.supervise = failing(_core.ProcessQueue.supervise)
else:
    setattr(os, step, failing(getattr(os, step)))
armed = True
pool, said = None, []
while pool is None:
    try:
        pool = pyconc.ProcessPoolExecutor(3)
    except (OSError, RuntimeError) as caught:
        said.append(caught)
calls = []
for number in range(30):
    try:
        calls.append(pool.submit(who, number))
    except (OSError, RuntimeError) as caught:
        said.append(caught)
ran = set()
for call in calls:
    try:
        ran.add(call.result())
    except BrokenExecutor as caught:
        said.append(caught)
ran.add(pool.submit(who, 0).result())
assert all("injected" in str(each) for each in said), said
assert len(said) <= 30
assert ran <= set(pool._processes), (ran, pool._processes)
pool.shutdown()
if not threads:
    the_nursery.stop()  # the program's, if a zygote could not be forked
    try:
        left = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        left = None
    assert left is None, left
sys.exit(0 if failed else NOT_REACHED)
"""


def fail(step, threads):
    """The step's first call, then the second, until a program makes no further one."""
    # The fourth and later ones of a program with threads, each in a fresh interpreter, are those of one without.
    finished = run_script(PROGRAM, step, threads, 3 if threads == "threads" else 6)
    assert finished.stderr == ""
    # Where /proc is empty, nobody can tell that a program has no threads.
    assert int(finished.stdout) > 0 or PROC != "/proc"


@chessboard("step, threads", ["open_pidfd", "pipe", "dup", "register", "supervise", "thread"], WAYS)
def test_a_step_of_a_start_fails(step, threads):
    if step == "open_pidfd" and not kernel.has_pidfds():
        pytest.skip("a call that is refused says nothing else once")
    if step == "pipe" and kernel.has_pidfds():
        pytest.skip("pipes are for where pidfds are refused")
    fail(step, threads)


@pytest.mark.parametrize("step", ["fork", "audit"])
def test_a_step_fails_that_the_nursery_takes_for_programs_with_threads(step):
    fail(step, "no threads")


def test_a_program_without_threads_says_so_and_ends():
    finished = run_script(
        """
        import sys, threading, pyconc
        def refuses(*args, **kwargs):
            raise RuntimeError("can't start new thread")
        name = "_start_joinable_thread" if hasattr(threading, "_start_joinable_thread") else "_start_new_thread"
        start = getattr(threading, name)
        setattr(threading, name, refuses)
        pool = pyconc.ProcessPoolExecutor(2)
        for _ in range(2):
            try:
                pool.submit(len, "abc")
            except RuntimeError as error:
                print(error)
        setattr(threading, name, start)
        print(pool.submit(len, "abc").result())
        setattr(threading, name, refuses)
        try:
            pyconc.ProcessPoolExecutor(2).submit(len, "abc")
        except RuntimeError as error:
            print(error)
        """
    )
    assert finished.stdout == "can't start new thread\n" * 2 + "3\n" + "can't start new thread\n"
    assert finished.stderr == ""


def test_a_program_without_descriptors_goes_on_when_it_has_some():
    run_script(
        """
        import os, resource, pyconc
        from concurrent.futures import BrokenExecutor, wait
        def who(number):
            return os.getpid()
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
        with pyconc.ProcessPoolExecutor(4) as pool:
            pool.submit(who, 0).result()
            full = []
            try:
                while True:
                    full.append(os.dup(0))
            except OSError:
                pass
            calls = []
            for number in range(20):
                try:
                    calls.append(pool.submit(who, number))
                except OSError:
                    pass
            for fd in full:
                os.close(fd)
            calls += [pool.submit(who, number) for number in range(100)]
            ran = {call.result() for call in calls if not isinstance(call.exception(), BrokenExecutor)}
            assert ran <= set(pool._processes) and len(pool._processes) <= 4
        """
    )


def test_a_zygote_without_descriptors_leaves_no_process_that_nobody_knows():
    # It inherits many files, of which the program then closes its own.
    run_script(
        """
        import os, resource, pyconc
        def family(pid):
            try:
                with open(f"/proc/{pid}/task/{pid}/children") as children:
                    found = [int(child) for child in children.read().split()]
            except OSError:
                return []  # it ended meanwhile
            return found + [each for child in found for each in family(child)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (96, 96))
        opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(70)]
        with pyconc.ProcessPoolExecutor(12) as pool:
            assert pool.submit(abs, -1).result() == 1
            for fd in opened:
                os.close(fd)
            for _ in range(4):
                for call in [pool.submit(abs, -number) for number in range(60)]:
                    call.result()
                assert len(pool._processes) <= 12
                while len(set(family(os.getpid())) - set(pool._processes)) > 1:
                    pass  # the zygote is one; others are being made known, or killed
        """
    )


@pytest.mark.skipif(not kernel.has_pidfds(), reason="the zygote is the first process, and submit() says what is wrong")
def test_a_zygote_that_cannot_be_described_is_ended_and_the_worker_goes_on():
    # It is forked right after the program's first worker, before it is known what it has.
    finished = run_script(
        """
        import os, pyconc
        from pyconc._process import zygote
        def refuse():
            raise OSError("refused")
        if __name__ == "__main__":
            with pyconc.ProcessPoolExecutor(1) as pool:
                zygote.ProcessState = refuse
                print(pool.submit(abs, -1).result(), pool._supervisor.launcher.zygote)
            try:
                os.wait()
            except ChildProcessError:
                print("no child is left")
        """
    )
    assert finished.stdout == "1 None\nno child is left\n"


@pytest.mark.skipif(not kernel.has_pidfds(), reason="the zygote is the first process, and submit() says what is wrong")
@pytest.mark.parametrize("has_pidfd", [True, False])
def test_where_there_is_no_room_for_a_zygote_beside_the_first_worker_another_is_made(has_pidfd):
    finished = run_script(
        """
        import os, sys, pyconc
        from pyconc import _core
        from pyconc._process.nursery import the_nursery
        def fork_one(*args):  # what fork_pair() returns where pidfd_open(), or the second fork, fails
            pid = _core.fork(False, -1)
            return pid, _core.open_pidfd(pid) if pid and sys.argv[1] == "True" else -1, -1
        if __name__ == "__main__":
            _core.fork_pair = fork_one
            with pyconc.ProcessPoolExecutor(2) as pool:
                first = pool.submit(os.getpid).result()
                print(pool._supervisor.launcher.zygote)
                others = set()
                while not others - {first}:
                    others = {call.result() for call in [pool.submit(os.getpid) for _ in range(2)]}
                print(len(pool._processes), first in pool._processes)
            the_nursery.stop()
            try:
                os.wait()
            except ChildProcessError:
                print("no child is left")
        """,
        has_pidfd,
    )
    assert finished.stdout == "None\n2 True\nno child is left\n"
    assert finished.stderr == ""


SLEEPER = """
import os, signal, pyconc
heard, says = os.pipe()
os.set_blocking(heard, False)
def tell(*_):
    os.write(says, b"%d " % os.getpid())
def told():
    try:
        return [int(pid) for pid in os.read(heard, 4096).split()]
    except BlockingIOError:
        return []
"""


@pytest.mark.skipif(not kernel.has_pidfds(), reason="the zygote is the first process, and is asked at once")
def test_nothing_of_the_program_runs_in_a_zygote_before_it_is_asked_for_a_worker():
    finished = run_script(
        SLEEPER
        + """
os.register_at_fork(after_in_child=tell)
signal.signal(signal.SIGUSR1, tell)
gate, opens = os.pipe()
with pyconc.ProcessPoolExecutor(2) as pool:
    worker = pool.submit(os.getpid).result()
    zygote = pool._supervisor.launcher.zygote
    print(told() == [worker])
    os.kill(zygote.pid, signal.SIGUSR1)
    running = [pool.submit(os.read, gate, 1) for _ in range(2)]
    while not all(call.running() for call in running):
        pass
    [second] = set(pool._processes) - {worker}
    print(told() == [zygote.pid, second])
    os.write(opens, b"ab")
"""
    )
    assert finished.stdout == "True\nTrue\n"


@pytest.mark.skipif(not kernel.has_pidfds(), reason="the zygote is the first process, and is asked at once")
def test_a_zygote_is_woken_as_a_kill_is_ordered_and_begins_while_the_worker_ends():
    finished = run_script(
        SLEEPER
        + """
from pyconc._process.zygote import Zygote
def send(self, message, real=Zygote._send):
    sent.append(message[0])
    real(self, message)
Zygote._send, sent = send, []
gate, opens = os.pipe()
begun, begins = os.pipe()
def stay():
    os.write(begins, b"!")
    os.read(gate, 1)
with pyconc.ProcessPoolExecutor(1) as pool:
    for _ in range(2):
        pool.submit(os.getpid).result()
        running = pool.options(on_cancel="kill").submit(stay)
        os.read(begun, 1)
        running.cancel()
        pool.submit(os.getpid).result()
print(sent)
"""
    )
    assert finished.stdout == "['wake', 'start', 'start']\n"


@pytest.mark.skipif(not kernel.has_pidfds(), reason="the zygote is the first process, and is asked at once")
def test_a_zygote_that_is_woken_begins_and_starts_nothing():
    finished = run_script(
        SLEEPER
        + """
os.register_at_fork(after_in_child=tell)
with pyconc.ProcessPoolExecutor(1) as pool:
    worker = pool.submit(os.getpid).result()
    zygote = pool._supervisor.launcher.zygote
    zygote.wake()
    began = told()
    while zygote.pid not in began:
        began += told()
    os.kill(worker, signal.SIGKILL)
    while worker in pool._processes:
        pass
    second = pool.submit(os.getpid).result()
    print(began + told() == [worker, zygote.pid, second])
"""
    )
    assert finished.stdout == "True\n"


@pytest.mark.skipif(not kernel.has_pidfds(), reason="the zygote is the first process, and is asked at once")
def test_sigterm_ends_a_zygote_that_sleeps_though_the_program_handles_it():
    finished = run_script(
        SLEEPER
        + """
signal.signal(signal.SIGTERM, tell)
os.set_blocking(says, False)
signal.set_wakeup_fd(says)
with pyconc.ProcessPoolExecutor(2) as pool:
    worker = pool.submit(os.getpid).result()
    zygote = pool._supervisor.launcher.zygote
    os.kill(zygote.pid, signal.SIGTERM)
    while pool._supervisor.launcher.zygote is zygote:
        pass
    print(pool.submit(os.getpid).result() == worker, told())
"""
    )
    assert finished.stdout == "True []\n"


def test_the_programs_wait_for_any_child_finds_its_own():
    """And not the process that was kept in case that the program got threads before it submits."""
    finished = run_script(
        """
import os
import pyconc
with pyconc.ProcessPoolExecutor(2) as pool:
    pool.submit(abs, -1)
    child = os.fork()
    if child == 0:
        os._exit(0)
    print(os.wait()[0] == child)
"""
    )
    assert finished.stdout == "True\n"
