"""Signals and workers: Ctrl-C is the program's, but for what tasks run or send themselves; SIGTERM ends a worker."""

import os
import signal

import pytest
from support import HANG_LIMIT, await_line, finish, run_script, start_script, wait_until, wait_until_asleep

import pyconc
from pyconc import _core

METHODS = ["zygote", "fork", "spawn"]

POOL = """
import _thread, asyncio, multiprocessing, os, signal, subprocess, sys, threading, warnings
import pyconc
from pyconc import _core
warnings.simplefilter("ignore")
def make_pool(method, *args, **options):
    context = None if method == "zygote" else multiprocessing.get_context(method)
    return pyconc.ProcessPoolExecutor(*args, mp_context=context, **options)
"""


@pytest.mark.parametrize("method", METHODS)
def test_commands_that_tasks_run_end_with_ctrl_c(method):
    with start_script(
        POOL
        + """
def run():
    # It says that it is there, and waits for ever: its stdin has no end.
    reader, writer = os.pipe()
    return subprocess.run(["sh", "-c", "echo running; read line"], stdin=reader).returncode
if __name__ == "__main__":
    with make_pool(sys.argv[1], 1) as pool:
        pool.submit(run).result()
""",
        method,
    ) as process:
        await_line(process, process.stdout, "running")
        wait_until_asleep(process)
        os.killpg(process.pid, signal.SIGINT)  # as the terminal does it
        # The command holds the program's stdout, so this waits for its end too.
        assert "KeyboardInterrupt" in finish(process).stderr


@pytest.mark.parametrize("threads", ["", "threads"])
def test_commands_that_tasks_run_ignore_ctrl_c_while_the_program_does(threads):
    finished = run_script(
        POOL
        + """
def run():
    return subprocess.run(["sh", "-c", "kill -INT $$"]).returncode
if __name__ == "__main__":
    if sys.argv[1]:
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    for handler in signal.SIG_IGN, signal.default_int_handler:
        signal.signal(signal.SIGINT, handler)
        with make_pool("zygote", 1) as pool:
            print(pool.submit(run).result())
""",
        threads,
    )
    assert (finished.stdout, finished.stderr) == (f"0\n{-signal.SIGINT}\n", "")


@pytest.mark.parametrize(
    ("strike", "says"),
    [("kill -INT $$", "1\n"), ("kill -KILL $PPID", "")],
    ids=["the program goes on after Ctrl-C", "the program is killed"],
)
def test_a_fresh_interpreter_that_is_struck_as_it_begins_says_nothing(strike, says, tmp_path):
    """The program, with a thread, takes its workers from a fresh interpreter; a shell stands at its very beginning."""
    shell = tmp_path / "python"
    shell.write_text(f'#!/bin/sh\n{strike}\nexec "$PYTHON" "$@"\n')
    shell.chmod(0o755)
    finished = run_script(
        POOL
        + """
os.environ["PYTHON"] = sys.executable
multiprocessing.set_executable(sys.argv[1])
threading.Thread(target=threading.Event().wait, daemon=True).start()
with pyconc.ProcessPoolExecutor(1) as pool:
    print(pool.submit(abs, -1).result())
""",
        shell,
        check=False,
    )
    # The interpreter holds the program's stderr, so all that it says is there.
    assert (finished.stdout, finished.stderr) == (says, ""), finished


@pytest.mark.parametrize("step", ["multiprocessing.util._close_stdin", "_core.ignore_outer_interrupts"])
def test_ctrl_c_does_nothing_to_a_worker_that_begins(step):
    finished = run_script(
        POOL
        + """
import multiprocessing.util
owner, _, name = sys.argv[1].rpartition(".")
function = getattr(eval(owner), name)
def struck():
    subprocess.run(["kill", "-INT", str(os.getpid())])  # not by itself: that would be its own affair
    function()
setattr(eval(owner), name, struck)
with pyconc.ProcessPoolExecutor(2) as pool:
    print(list(pool.map(abs, [-1, 2], chunksize=1)))
""",
        step,
    )
    assert (finished.stdout, finished.stderr) == ("[1, 2]\n", ""), finished


@pytest.mark.parametrize("method", METHODS)
def test_a_task_may_interrupt_itself_and_nobody_else_may(method):
    finished = run_script(
        POOL
        + """
def interrupt_main():
    try:
        thread = threading.Thread(target=_thread.interrupt_main)
        thread.start()
        thread.join()  # it would not end a wait that has begun
        threading.Event().wait(60)
    except KeyboardInterrupt:
        return "interrupted"
def raise_signal():
    try:
        signal.raise_signal(signal.SIGINT)
        threading.Event().wait(60)
    except KeyboardInterrupt:
        return "raised"
def from_outside():
    # The signal is there before kill() returns, and its handler runs before this is over.
    subprocess.run(["sh", "-c", f"kill -INT {os.getpid()}"], check=True)
    return "went on"
def with_a_loop():
    asyncio.run(asyncio.sleep(0))
    return from_outside()
if __name__ == "__main__":
    with make_pool(sys.argv[1], 1) as pool:
        for task in interrupt_main, raise_signal, from_outside, with_a_loop, raise_signal:
            print(pool.submit(task).result())
""",
        method,
    )
    assert finished.stdout == "interrupted\nraised\nwent on\nwent on\nraised\n"
    assert finished.stderr == ""


def test_a_handler_that_runs_while_signals_begin_to_be_deferred_defers_them_itself():
    finished = run_script(
        """
        import signal
        from pyconc._process import signals
        def first(*_):
            with signals.DeferSignals():
                signal.raise_signal(signal.SIGUSR2)
                print("deferred")
        def second(*_):
            print("second")
        def is_harmless(handler):
            if handler is first:  # none is installed for it yet
                signals._is_harmless = lambda handler: False
                signal.raise_signal(signal.SIGUSR1)
            return False
        signal.signal(signal.SIGUSR1, first)
        signal.signal(signal.SIGUSR2, second)
        signals._is_harmless = is_harmless
        with signals.DeferSignals():
            signal.raise_signal(signal.SIGUSR2)
            print("deferred")
        print([signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGUSR2)] == [first, second])
        """
    )
    assert finished.stdout == "deferred\nsecond\ndeferred\nsecond\nTrue\n"


@pytest.mark.parametrize("handler", ["loop", "function", "ignore"])
@pytest.mark.parametrize("operation", ["terminate_workers", "kill_workers"])
def test_workers_end_whatever_the_program_does_with_sigterm(operation, handler):
    finished = run_script(
        POOL
        + """
async def main(operation, handler):
    calls = []
    loop = asyncio.get_running_loop()
    if handler == "loop":
        loop.add_signal_handler(signal.SIGTERM, calls.append, "called")
    elif handler == "function":
        signal.signal(signal.SIGTERM, lambda *_: calls.append("called"))
    else:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pool = pyconc.ProcessPoolExecutor(2)
    started = [os.pipe() for _ in range(2)]
    futures = [pool.submit(wait, writer) for _, writer in started]
    for reader, _ in started:
        os.read(reader, 1)
    getattr(pool, operation)()
    print([type(future.exception(60)).__name__ for future in futures])
    pool.shutdown()
    await asyncio.sleep(0)
    print(calls)
def wait(writer):
    os.write(writer, b"x")
    threading.Event().wait()
if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
""",
        operation,
        handler,
    )
    assert finished.stdout == "['WorkerDied', 'WorkerDied']\n[]\n"


def test_a_worker_is_killed_where_a_pidfd_may_send_no_signal(monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(_core, "signal_pidfd", refuse)
    with pyconc.ProcessPoolExecutor(1) as pool:
        future = pool.submit(signal.pause)
        wait_until(future.running, "the task to run")
        pool.kill_workers()
        assert isinstance(future.exception(HANG_LIMIT), pyconc.WorkerDied)
