"""What a worker's death says: the stack that it leaves, its task, its time, its memory."""

import contextlib
import fcntl
import os
import pickle
import re
import signal

import jobs
import pytest
from support import HANG_LIMIT, SANITIZED, run_script, wait_until

import pyconc
from pyconc import WorkerDied
from pyconc._process import black_box, pickling

# ---- the matrix: each way to die, in programs whose own faulthandler is off ----

MATRIX = """
    import ctypes, faulthandler, multiprocessing, os, resource, signal, sys, threading, warnings
    import pyconc

    def die(how):
        if how == "exit":
            os._exit(7)
        if how == "SIGKILL":
            signal.pause()
        if how == "RLIMIT_CPU":
            resource.setrlimit(resource.RLIMIT_CPU, (1, resource.RLIM_INFINITY))
            while True:
                pass
        if how == "MemoryError":
            resource.setrlimit(resource.RLIMIT_AS, (1 << 29, 1 << 29))
            bytearray(1 << 30)
        if how == "null pointer":
            ctypes.string_at(0)
        signal.raise_signal(signal.Signals[how])

    async def die_in_a_loop(how):
        die(how)

    def kill(pool):
        for pid in list(pool._processes):
            os.kill(pid, signal.SIGKILL)

    # Debug builds show it: multiprocessing's `__mp_main__` has no __spec__, and linecache expects only `__main__` to.
    warnings.filterwarnings("ignore", "Module globals is missing", DeprecationWarning)

    def main(kind, context, threads):
        faulthandler.disable()
        del sys._xoptions["faulthandler"]  # or interpreters that are started have it
        wakes = threading.Event()
        if threads == "threads":
            threading.Thread(target=wakes.wait).start()
        if kind == "coroutines":
            pool, task = pyconc.CoroutinePool(1), die_in_a_loop
        else:
            context = None if context == "default" else multiprocessing.get_context(context)
            pool, task = pyconc.ProcessPoolExecutor(1, mp_context=context), die
        try:
            with pool:
                for how in sys.argv[4:]:
                    future = pool.submit(task, how)
                    if how == "SIGKILL":
                        while not future.running():
                            pass
                        kill(pool)
                    error = future.exception()
                    if how == "MemoryError":
                        assert type(error) is MemoryError, error
                        kill(pool)  # its limit stays
                        continue
                    assert type(error) is pyconc.WorkerDied, error
                    name = {"null pointer": "SIGSEGV", "RLIMIT_CPU": "SIGXCPU"}.get(how, how)
                    task_name = task.__qualname__
                    if how == "exit":
                        assert (error.exitcode, error.signal) == (7, None)
                    else:
                        assert (error.exitcode, error.signal) == (-signal.Signals[name], name)
                    assert error.task_name == task_name and f"while it ran {task_name}" in str(error), error
                    assert 0 < error.ran_for < 600, error.ran_for
                    if context in (None, "default"):
                        assert 1 << 20 < error.rss < 1 << 33, error.rss
                        assert "MiB in memory at most" in str(error.__cause__)
                    else:
                        assert error.rss is None
                    assert error.oom is False
                    assert name != "SIGXCPU" or str(error).endswith("may use (RLIMIT_CPU)"), error
                    if name in ("exit", "SIGKILL", "SIGXCPU"):
                        assert error.stack is None, error.stack
                    else:
                        assert "(most recent call first)" in error.stack, error.stack
                        assert " in die\\n" in error.stack, error.stack
                        assert " in _bootstrap\\n" not in error.stack, error.stack  # nor else how it was started
                        assert ("string_at" in error.stack) == (how == "null pointer"), error.stack
                        assert (sys.version_info < (3, 14)) or "C stack" in error.stack, error.stack
                        assert error.stack.rstrip() in str(error.__cause__)
        finally:
            wakes.set()

    if __name__ == "__main__":
        main(*sys.argv[1:4])
        print("said")
"""

# In turn, so that a worker follows one that has left a longer text, and one that has left none.
WAYS = ["null pointer", "exit", "SIGABRT", "SIGKILL", "SIGBUS", "SIGFPE", "MemoryError", "SIGILL", "SIGSEGV", "SIGXCPU"]


@pytest.mark.skipif(SANITIZED, reason="a sanitizer has handlers of its own for these signals")
@pytest.mark.parametrize(
    ("kind", "context", "threads"),
    [
        # A worker that is no clone is a fresh interpreter, or the child of one, after each death.
        ("calls", "default", "none"),
        pytest.param("calls", "default", "threads", marks=pytest.mark.slow),
        ("calls", "spawn", "threads"),
        pytest.param("calls", "forkserver", "none", marks=pytest.mark.slow),
        pytest.param("coroutines", "default", "none", marks=pytest.mark.slow),
        ("coroutines", "default", "threads"),
    ],
)
def test_a_death_explains_itself(kind, context, threads):
    ways = WAYS if context == "default" else WAYS[:4]
    finished = run_script(MATRIX, kind, context, threads, *ways)
    assert (finished.stdout, finished.stderr) == ("said\n", "")


def test_a_death_by_the_limit_of_cpu_seconds_explains_itself():
    """It takes the whole second that is the least of such limits; what is said, is said of the signal."""
    finished = run_script(MATRIX, "calls", "default", "none", "RLIMIT_CPU", "exit")
    assert (finished.stdout, finished.stderr) == ("said\n", "")


def test_the_stack_of_every_thread():
    finished = run_script("""
        import faulthandler, os, signal, threading
        import pyconc

        def wait_in_a_thread(event):
            event.set()
            threading.Event().wait()

        def die():
            event = threading.Event()
            threading.Thread(target=wait_in_a_thread, args=(event,), daemon=True).start()
            event.wait()
            os.abort()

        if __name__ == "__main__":
            faulthandler.disable()
            with pyconc.ProcessPoolExecutor(1) as pool:
                stack = pool.submit(die).exception().stack
            print(*(stack.count(f" in {name}\\n") for name in ("wait_in_a_thread", "die", "main", "_bootstrap")))
    """)
    assert finished.stdout == "1 1 1 1\n"  # a thread's stack is whole


def test_the_programs_own_faulthandler_is_left_alone():
    finished = run_script("""
        import faulthandler, os, sys
        import pyconc

        def enable_in_worker():
            faulthandler.enable(sys.stderr)

        if __name__ == "__main__":
            faulthandler.enable(sys.stderr)
            with pyconc.ProcessPoolExecutor(1) as pool:
                print(pool.submit(os.abort).exception().stack)
            faulthandler.disable()
            with pyconc.ProcessPoolExecutor(1, initializer=enable_in_worker) as pool:
                print(pool.submit(os.abort).exception().stack)
            print(faulthandler.is_enabled())
    """)
    assert finished.stdout == "None\nNone\nFalse\n"
    assert finished.stderr.count("Fatal Python error: Aborted") == 2


def test_a_process_that_a_task_forks_writes_nothing_into_the_black_box():
    finished = run_script("""
        import faulthandler, os, signal
        import pyconc

        def fork():
            pid = os.fork()
            if pid == 0:
                os.abort()
            os.waitpid(pid, 0)
            os.kill(os.getpid(), signal.SIGKILL)

        if __name__ == "__main__":
            faulthandler.disable()
            with pyconc.ProcessPoolExecutor(1) as pool:
                print(pool.submit(fork).exception().stack)
    """)
    assert finished.stdout == "None\n"


def test_a_pool_within_a_task_has_a_black_box_of_its_own():
    finished = run_script("""
        import faulthandler, os
        import pyconc

        def use_pool():
            with pyconc.ProcessPoolExecutor(1) as pool:
                stack = pool.submit(os.abort).exception().stack
            os.close(os.open("/dev/null", os.O_RDONLY))
            return stack

        def die_after():
            use_pool()
            os.abort()

        if __name__ == "__main__":
            faulthandler.disable()
            with pyconc.ProcessPoolExecutor(1) as pool:
                print(pool.submit(use_pool).result().count("Fatal Python error"))
                print(pool.submit(die_after).exception().stack.count("Fatal Python error"))
    """)
    assert finished.stdout == "1\n1\n"


def test_files_that_a_task_closes_and_opens_get_no_stack():
    finished = run_script("""
        import faulthandler, os, sys
        import pyconc

        def take_all_files(path):
            os.closerange(3, 4096)
            for _ in range(20):
                os.open(path, os.O_WRONLY | os.O_CREAT)
            os.abort()

        if __name__ == "__main__":
            faulthandler.disable()
            with pyconc.ProcessPoolExecutor(1) as pool:
                print(pool.submit(take_all_files, "file").exception().stack)
            print(os.path.getsize("file"))
    """)
    assert finished.stdout == "None\n0\n"


@pytest.mark.parametrize("refused", ["os.memfd_create", "fcntl.fcntl", "os.lseek"])
def test_what_the_system_refuses_costs_the_black_box_and_no_more(refused):
    finished = run_script(f"""
        import faulthandler, fcntl, os
        import pyconc

        def refuse(*args, **kwargs):
            raise OSError(24, "Too many open files")

        if __name__ == "__main__":
            faulthandler.disable()
            pool = pyconc.ProcessPoolExecutor(1)
            {refused} = refuse
            with pool:
                error = pool.submit(os.abort).exception()
                print(error.signal, error.stack, pool.submit(abs, -1).result())
    """)
    assert finished.stdout == "SIGABRT None 1\n"


# ---- asking a worker that lives ----


def stuck_in_c(path):
    """Holds the GIL, and looks at no signal."""
    open(path, "w").close()
    re.match(r"(a+)+$", "a" * 60 + "b")


def the_worker(pool):
    return next(iter(pool._opened._workers.values()))


def supervise_by_hand(pool, function):
    """Calls a function in the supervisor's thread, which alone may use the black box."""
    answers = []
    go_on = pool._opened._go_on

    def ask():
        if not answers:
            answers.append(function())
        go_on()

    pool._opened._go_on = ask
    pool._opened.queue.poke()
    wait_until(lambda: answers)
    return answers[0]


def test_a_worker_is_asked_for_its_stack_while_it_holds_the_gil(tmp_path):
    path = tmp_path / "begun"
    with pyconc.ProcessPoolExecutor(1) as pool:
        future = pool.submit(stuck_in_c, str(path))
        wait_until(path.exists)
        stacks = []
        for _ in range(3):
            [(_, stack)] = supervise_by_hand(pool, lambda: list(pool._opened._box.ask([identity(pool)], HANG_LIMIT)))
            stacks.append(stack)
        assert all(" in stuck_in_c\n" in stack and stack.count(" in stuck_in_c\n") == 1 for stack in stacks), stacks
        os.kill(the_worker(pool).process.pid, signal.SIGKILL)
        error = future.exception(HANG_LIMIT)
        assert error.stack is None  # what was asked for was said then
        assert pool.submit(abs, -1).result(HANG_LIMIT) == 1


def identity(pool):
    return identity_of(the_worker(pool))


def identity_of(worker):
    return worker.number, worker.process.pid, worker.end


def stuck_and_answers_by_a_pipe(pipe, path):
    os.dup2(os.open(pipe, os.O_WRONLY), black_box._own[0])
    stuck_deep_in_c(path, 90)


def stuck_deep_in_c(path, depth):
    return stuck_deep_in_c(path, depth - 1) if depth else stuck_in_c(path)


def test_an_answer_that_is_held_up_in_the_middle_is_whole(tmp_path, monkeypatch):
    """The worker waits in the middle of its answer, as the pipe is full, with whole lines in the black box."""
    path, pipe = tmp_path / "begun", tmp_path / "pipe"
    os.mkfifo(pipe)
    read, looks, text = black_box.Answer.read, [], b""
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)

    def copy(answer):
        nonlocal text
        with contextlib.suppress(BlockingIOError):
            if len(text) < 500:
                text += os.read(reader, 500 - len(text))
                os.pwrite(pool._opened._box.fileno(), text[: text.rfind(b"\n") + 1], 0)
            elif len(looks) > 50:
                while more := os.read(reader, 4096):
                    text += more
                    os.pwrite(pool._opened._box.fileno(), text, 0)
        looks.extend([None] * bool(text))
        return read(answer)

    def ask():
        [(_, stack)] = pool._opened._box.ask([identity(pool)], HANG_LIMIT)
        return stack

    with pyconc.ProcessPoolExecutor(1) as pool:
        future = pool.submit(stuck_and_answers_by_a_pipe, str(pipe), str(path))
        wait_until(path.exists)
        with monkeypatch.context() as patch:
            patch.setattr(black_box.Answer, "read", copy)
            stack = supervise_by_hand(pool, ask)
        pool.kill_workers()
        assert isinstance(future.exception(HANG_LIMIT), WorkerDied)
    os.close(reader)
    assert stack.count(" in stuck_deep_in_c\n") == 91


def test_of_workers_that_are_asked_together_none_waits_for_another(tmp_path):
    paths = [tmp_path / name for name in "abc"]
    with pyconc.ProcessPoolExecutor(3) as pool:
        futures = [pool.submit(stuck_in_c, str(path)) for path in paths]
        wait_until(lambda: all(path.exists() for path in paths))
        stopped, *others = workers = list(pool._opened._workers.values())
        os.kill(stopped.process.pid, signal.SIGSTOP)

        def ask():
            answers = pool._opened._box.ask([identity_of(worker) for worker in workers], HANG_LIMIT)
            told = [next(answers) for _ in others]
            os.kill(stopped.process.pid, signal.SIGCONT)
            return [*told, *answers]

        told = supervise_by_hand(pool, ask)
        assert {number for number, _ in told[:2]} == {worker.number for worker in others}
        assert told[2][0] == stopped.number
        assert all(stack.count(" in stuck_in_c\n") == 1 for _, stack in told), told
        pool.kill_workers()
        pyconc.wait(futures)


def test_an_answer_leaves_the_worker_at_its_work():
    with pyconc.ProcessPoolExecutor(1) as pool:
        pid = pool.submit(os.getpid).result(HANG_LIMIT)
        supervise_by_hand(pool, lambda: pool._opened.stack_of(the_worker(pool)))
        assert pool.submit(os.getpid).result(HANG_LIMIT) == pid


def ignore_dumps():
    signal.signal(black_box.DUMP_SIGNAL, signal.SIG_DFL)


def test_a_worker_that_would_not_survive_the_question_is_not_asked():
    with pyconc.ProcessPoolExecutor(1, initializer=ignore_dumps) as pool:
        pid = pool.submit(os.getpid).result(HANG_LIMIT)
        assert supervise_by_hand(pool, lambda: pool._opened.stack_of(the_worker(pool))) is None
        assert pool.submit(os.getpid).result(HANG_LIMIT) == pid


OTHER_SIGNAL = """
    import os, signal, sys, time
    import pyconc
    from pyconc import _dump
    from pyconc._process import black_box

    def wait():
        signal.pause()

    with pyconc.ProcessPoolExecutor(1) as pool:
        future = pool.submit(wait)
        while pool.workers()[0].state != "running":
            pass
        pid = pool.workers()[0].id
        with open(f"/proc/{pid}/status") as file:
            caught = next(int(line.split()[1], 16) for line in file if line.startswith("SigCgt"))
        print([int(number) for number in (signal.SIGRTMIN + 5, signal.SIGUSR2) if caught >> number - 1 & 1])
        member = _dump.look(os.getpid())["pools"][0]["members"][0]
        stack = _dump.ask_for_stack(member)
        print(stack is not None and " in wait\\n" in stack)
        pool.kill_workers()
"""


@pytest.mark.parametrize(
    ("setting", "caught", "answers"),
    [("", [signal.SIGRTMIN + 5], True), ("SIGUSR2", [signal.SIGUSR2], True), ("12", [12], True), ("off", [], False)],
)
def test_workers_are_asked_by_the_signal_that_the_environment_says(setting, caught, answers):
    told = run_script(OTHER_SIGNAL, env={"PYCONC_DUMP_SIGNAL": setting}).stdout.splitlines()
    assert told == [str([int(number) for number in caught]), str(answers)]


@pytest.mark.parametrize("setting", ["SIGKILL", "9", "0", "65", "SIGSEGV", "SIG_DFL", "x", "-1", "\u0663"])
def test_what_is_no_signal_for_that_is_refused(setting):
    with pytest.raises(ValueError, match="PYCONC_DUMP_SIGNAL must be a signal's name or number, or off, not "):
        black_box._choose_signal(setting)


# ---- what is in the file is no trusted text ----


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (b"", None),
        (b"\0\0text", None),
        (b"caf\xc3\xa9 \xff\0rest", "café �"),
        (b"x" * (1 << 18), "x" * (1 << 16)),
    ],
    ids=["nothing", "zeros first", "no UTF-8", "too much"],
)
def test_a_part_is_read_to_its_end_and_cleared(written, read):
    box = black_box.BlackBox()
    os.pwrite(box.fileno(), written, 3 * black_box._PART_BYTES)
    os.pwrite(box.fileno(), b"another", 4 * black_box._PART_BYTES)
    assert box.take(3) == read
    assert box.take(3) is None
    assert box.take(4) == "another"
    assert box.take(5) is None
    box.close()
    assert box.take(4) is None


# ---- out of memory ----

V1 = "9:name=systemd:/\n4:memory,hugetlb:/docker/abc\n0::/\n"
GROUPS = {
    "version 2": ("0::/a/b\n", "a/b/memory.events", "low 0\nhigh 1\nmax 2\noom 9\noom_kill {}\noom_group_kill 5\n"),
    "the parent's": ("0::/a/b\n", "a/memory.events", "oom_kill {}\n"),
    "in a container": ("0::/../../host/path\n", "memory.events", "oom_kill {}\n"),
    "version 1": (V1, "memory/docker/abc/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"),
    "version 1, container": (V1, "memory/memory.oom_control", "oom_kill {}\n"),
    "no control group": ("0::/\n", "../vmstat", "nr_free_pages 12\noom_kill {}\n"),
}


@pytest.mark.parametrize("case", GROUPS)
def test_the_kernels_kills_are_counted(tmp_path, case):
    own, name, text = GROUPS[case]
    (tmp_path / "own").write_text(own)
    path = tmp_path / "root" / name
    (tmp_path / "root").mkdir()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.format(3))
    kills = black_box.OomKills(str(tmp_path / "root"), str(tmp_path / "own"), str(tmp_path / "vmstat"))
    assert not kills.explain(-signal.SIGKILL)
    path.write_text(text.format(5))
    assert not kills.explain(-signal.SIGSEGV)
    assert not kills.explain(None)
    assert [kills.explain(-signal.SIGKILL) for _ in range(3)] == [True, True, False]
    path.write_text(text.format("many"))
    assert not kills.explain(-signal.SIGKILL)


def test_what_cannot_be_counted_explains_nothing(tmp_path):
    missing = str(tmp_path / "missing")
    kills = black_box.OomKills(missing, missing, missing)
    assert not kills.explain(-signal.SIGKILL)


def test_an_old_kill_explains_no_later_death(tmp_path, monkeypatch):
    (tmp_path / "vmstat").write_text("oom_kill 1\n")
    now = 100.0
    monkeypatch.setattr(black_box.time, "monotonic", lambda: now)
    kills = black_box.OomKills(str(tmp_path), str(tmp_path / "none"), str(tmp_path / "vmstat"))
    (tmp_path / "vmstat").write_text("oom_kill 3\n")
    assert kills.explain(-signal.SIGKILL)
    now += 2
    assert not kills.explain(-signal.SIGKILL)


def test_a_worker_that_the_kernel_ended_says_so(tmp_path, monkeypatch):
    counter = tmp_path / "vmstat"
    counter.write_text("oom_kill 0\n")
    none = str(tmp_path / "none")
    kills = black_box.OomKills(none, none, str(counter))
    monkeypatch.setattr(black_box, "OomKills", lambda: kills)
    with pyconc.ProcessPoolExecutor(1) as pool:
        pool.submit(abs, 1).result(HANG_LIMIT)
        counter.write_text("oom_kill 1\n")
        error = pool.submit(jobs.die, signal.SIGKILL).exception(HANG_LIMIT)
        assert error.oom is True
        assert str(error).endswith("was ended by SIGKILL while it ran jobs.die; the kernel ended it for want of memory")
        again = pool.submit(jobs.die, signal.SIGKILL).exception(HANG_LIMIT)
        assert (again.oom, str(again)[-8:]) == (False, "jobs.die")


# ---- the rest ----


def grow_and_die(size):
    data = b"x" * size
    os.kill(os.getpid(), signal.SIGKILL)
    return data


def test_the_most_memory_that_the_worker_had():
    with pyconc.ProcessPoolExecutor(1) as pool:
        small = pool.submit(grow_and_die, 1).exception(HANG_LIMIT)
        large = pool.submit(grow_and_die, 100 << 20).exception(HANG_LIMIT)
    assert large.rss - small.rss > 90 << 20


def test_a_call_that_no_worker_began_has_run_for_no_time():
    with pyconc.CoroutinePool(1) as pool:
        error = pool.submit(jobs.identity)  # no coroutine: TypeError in the worker
        assert isinstance(error.exception(HANG_LIMIT), TypeError)
    lost = pickling.lost_worker_error(abs)
    assert (lost.ran_for, lost.rss, lost.stack, lost.oom, lost.task) == (None, None, None, False, abs)


def test_a_pickle_keeps_what_the_death_says():
    with pyconc.ProcessPoolExecutor(1) as pool:
        error = pool.submit(jobs.die, signal.SIGABRT).exception(HANG_LIMIT)
        error.stack = "a stack"
        again = pool.submit(jobs.identity, error).result(HANG_LIMIT)
    assert type(again) is WorkerDied
    assert vars(again) == vars(error)
    assert vars(pickle.loads(pickle.dumps(error))) == vars(error)
    assert again.task_name == "jobs.die"
    assert again.ran_for > 0
    assert again.rss > 0
