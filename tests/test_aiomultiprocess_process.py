"""pyconc.aiomultiprocess: Process, Worker, their start methods, and the default scheduler."""

import asyncio
import functools
import inspect
import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import types

import pytest
from jobs import FrozenError
from loops import on_every_loop, watched
from support import HANG_LIMIT, run_script, wait_until

from pyconc import TaskUnpicklable, WorkerDied
from pyconc.aiomultiprocess import Process, RoundRobin, Scheduler, Worker, core, set_context, set_start_method
from pyconc.aiomultiprocess.types import ProxyException, QueueID, TaskID, Unit

# What other tests have imported may keep threads of its own, such as numpy's, and a context that forks warns of them.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

on_every_method = pytest.mark.parametrize(
    "method", ["spawn", "fork", pytest.param("forkserver", marks=pytest.mark.slow)]
)

LARGE = 10_000_000

AT_FIRST = core.context


@pytest.fixture(autouse=True)
def _start_method(monkeypatch):
    """Children of tests that name no start method are forked: one that imports pytest is ten times as slow."""
    monkeypatch.setattr(core, "context", multiprocessing.get_context("fork"))
    monkeypatch.setattr(core, "_is_context_set", False)


def on_loop(main, new_loop=asyncio.new_event_loop):
    loop = new_loop()
    with watched(loop):
        return loop.run_until_complete(asyncio.wait_for(main, HANG_LIMIT))


async def finish(process):
    return await process


# ---- what children run ----


class CustomError(Exception):
    def __init__(self, code, reason):
        super().__init__(code, reason)
        self.code = code


class Stubborn:
    def __reduce__(self):
        raise ValueError("this stays here")


def refuse():
    raise LookupError("this is not for you")


class Explosive:
    def __reduce__(self):
        return refuse, ()


class LastWords:
    def __reduce__(self):
        kill_oneself()


class SimilarLoop(asyncio.SelectorEventLoop):
    pass


async def pid():
    return os.getpid()


async def identity(*args, **kwargs):
    return args, kwargs


async def reads(fd):
    os.read(fd, 1)


async def never_ends():
    await asyncio.get_running_loop().create_future()


async def ends_at_once(how):
    how()


async def fail(error):
    raise error


async def large():
    return b"x" * LARGE


async def make(what):
    return what()


async def current_loop():
    loop = asyncio.get_running_loop()
    return f"{type(loop).__module__}.{type(loop).__name__}"


async def initialized():
    return _initialized


async def leaves_a_task(path):
    asyncio.get_running_loop().call_soon(_tasks.append, asyncio.ensure_future(_note_end(path)))
    await asyncio.sleep(0)


async def closes_its_files(reader, writer):
    """Nobody can tell by its files any more that the process runs."""
    os.dup2(reader, 0)
    os.dup2(writer, 1)
    os.closerange(3, 1000)
    os.write(1, b"!")
    os.read(0, 1)
    os._exit(3)


_initialized = None
_tasks = []


async def _note_end(path):
    try:
        await never_ends()
    finally:
        with open(path, "w") as file:
            file.write("ended")


def initialize(value):
    global _initialized
    _initialized = value, type(asyncio.get_event_loop()).__name__


def make_lambda():
    return lambda value: value + 1


def kill_oneself():
    os.kill(os.getpid(), signal.SIGKILL)


def leave():
    os._exit(7)


def run_other(unit):
    sys.exit(len(unit.args))


# ---- making one ----


def test_arguments_are_checked():
    for kind in (Process, Worker):
        with pytest.raises(ValueError, match="target must be coroutine function"):
            kind(target=initialize)
        with pytest.raises(ValueError, match="initializer must be synchronous function"):
            kind(target=pid, initializer=pid)
        with pytest.raises(ValueError, match="loop_initializer must be synchronous function"):
            kind(target=pid, loop_initializer=pid)


def test_partials_and_marked_functions_are_coroutine_functions():
    def returns_coroutine():
        return pid()

    assert core.is_coroutine_function(functools.partial(identity, 1))
    assert not core.is_coroutine_function(returns_coroutine)
    if sys.version_info >= (3, 12):
        inspect.markcoroutinefunction(returns_coroutine)
    else:
        returns_coroutine._is_coroutine = asyncio.coroutines._is_coroutine
    assert core.is_coroutine_function(returns_coroutine)


@pytest.mark.skipif(sys.version_info >= (3, 11), reason="asyncio.coroutine() was removed in Python 3.11")
def test_what_asyncio_coroutine_has_decorated_is_a_coroutine_function():
    with pytest.warns(DeprecationWarning, match="@coroutine"):
        decorated = asyncio.coroutine(lambda: (yield))
    assert core.is_coroutine_function(decorated)


def test_the_unit_says_what_the_child_does():
    process = Process(target=identity, args=(1,), kwargs={"a": 2}, initializer=initialize, initargs=(3,))
    assert isinstance(process.unit, Unit)
    assert process.unit[:3] == (identity, (1,), {"a": 2})
    assert process.unit.initializer is initialize
    assert process.unit.initargs == (3,)
    assert Process().unit.target is core.not_implemented
    with pytest.raises(NotImplementedError):
        asyncio.run(core.not_implemented(1, a=2))


def test_name_and_daemon_are_multiprocessings():
    process = Process(target=pid, name="a name", daemon=True)
    assert process.name == process.aio_process.name == "a name"
    assert process.daemon is True
    process.daemon = False
    assert process.aio_process.daemon is False
    assert process.pid is process.exitcode is None
    assert not process.is_alive()


# ---- start methods ----


def test_start_methods(monkeypatch):
    monkeypatch.setattr(core, "context", AT_FIRST)
    assert core.get_context().get_start_method() == "spawn"
    assert not core.is_context_set()
    with pytest.raises(ValueError):
        set_start_method("foo")
    assert not core.is_context_set()
    for method in ("fork", "forkserver", "spawn"):
        set_start_method(method)
        assert core.get_context().get_start_method() == method
        assert core.is_context_set()
        assert type(Process(target=pid).aio_process) is core.get_context().Process
    set_start_method("fork")
    set_start_method()
    assert core.get_context().get_start_method() == "spawn"
    calls = []
    monkeypatch.setattr(core, "set_start_method", calls.append)
    set_context()
    set_context("fork")
    assert calls == [None, "fork"]


@on_every_method
def test_a_worker_of_every_start_method(method):
    set_start_method(method)

    async def main():
        worker = Worker(target=identity, args=(1, 2), kwargs={"a": 3})
        assert await worker == ((1, 2), {"a": 3})
        assert worker.exitcode == 0
        # At the same time, and with more than a pipe takes.
        workers = [Worker(target=large) for _ in range(2)]
        for result in await asyncio.gather(*workers):
            assert len(result) == LARGE
        died = await Worker(target=ends_at_once, args=(leave,))
        assert (type(died), died.exitcode) == (WorkerDied, 7)
        assert type(await Worker(target=fail, args=(CustomError(1, "b"),))) is CustomError

    on_loop(main())


def test_local_functions_need_a_fork():
    async def local(value):
        return value

    async def main():
        set_start_method("spawn")
        worker = Worker(target=local, args=(1,))
        with pytest.raises((AttributeError, pickle.PicklingError), match="local"):
            await worker
        set_start_method("fork")
        assert await Worker(target=local, args=(17,)) == 17

    on_loop(main())


# ---- Process ----


@on_every_loop
def test_a_process_from_start_to_close(new_loop):
    reader, writer = os.pipe()

    async def main():
        process = Process(target=reads, args=(reader,))
        with pytest.raises(ValueError, match="must start process"):
            await process.join()
        process.start()
        assert process.pid
        assert process.is_alive()
        os.write(writer, b"!")
        assert await process.join() is None
        assert not process.is_alive()
        assert process.exitcode == 0
        assert await process.join() is None
        assert await process is None
        assert await process.join(0) is None
        process.close()
        with pytest.raises(ValueError):
            process.exitcode  # noqa: B018

    on_loop(main(), new_loop)
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("kind", [Process, Worker])
def test_await_starts_what_is_not_started(kind):
    async def main():
        process = kind(target=pid)
        await process
        assert process.exitcode == 0
        started = kind(target=pid)
        started.start()
        number = started.pid
        await started
        assert started.pid == number
        with pytest.raises(AssertionError):
            started.start()

    on_loop(main())


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("kind", [Process, Worker])
def test_terminate_and_kill(kind, end):
    async def main():
        process = kind(target=never_ends, daemon=True)
        process.start()
        with pytest.raises(ValueError):
            process.close()
        process.terminate() if end is signal.SIGTERM else process.kill()
        await process
        assert process.exitcode == -end

    on_loop(main())


def test_multiprocessing_forgets_a_process_that_ends_just_before_join():
    class LooksAlive(Process):
        def is_alive(self):
            return True  # It was a moment ago.

    async def main():
        process = LooksAlive(target=pid)
        process.start()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        await process
        assert process.aio_process not in multiprocessing.process._children

    on_loop(main())


@on_every_loop
@pytest.mark.parametrize("kind", [Process, Worker])
def test_join_with_a_timeout(new_loop, kind):
    async def main():
        process = kind(target=never_ends, daemon=True)
        process.start()
        with pytest.raises(asyncio.TimeoutError):
            await process.join(timeout=0.01)
        with pytest.raises(asyncio.TimeoutError):
            await process.join(0)
        assert process.is_alive()
        process.kill()
        await process.join(HANG_LIMIT)
        assert process.exitcode == -signal.SIGKILL

    on_loop(main(), new_loop)


@on_every_loop
def test_cancelled_joins_leave_the_process_and_other_joins_alone(new_loop):
    async def main():
        worker = Worker(target=never_ends, daemon=True)
        worker.start()
        joins = [asyncio.ensure_future(worker.join()) for _ in range(4)]
        await asyncio.sleep(0)  # They begin.
        for join in joins[:2]:
            join.cancel()
        await asyncio.wait(joins[:2])
        assert all(join.cancelled() for join in joins[:2])
        assert worker.is_alive()
        worker.kill()
        first, second = await asyncio.gather(*joins[2:])
        assert first is second is worker.result
        assert type(first) is WorkerDied

    on_loop(main(), new_loop)


@on_every_method
def test_joins_of_two_loops_at_a_time(method):
    set_start_method(method)
    worker = Worker(target=never_ends, daemon=True)
    worker.start()
    results = []
    threads = [threading.Thread(target=lambda: results.append(on_loop(worker.join()))) for _ in range(3)]
    before = len(os.listdir("/proc/self/fd"))
    for thread in threads:
        thread.start()
    # A loop has three files, and one for the join.
    wait_until(lambda: len(os.listdir("/proc/self/fd")) >= before + 12, "the joins")
    worker.kill()
    for thread in threads:
        thread.join(HANG_LIMIT)
    assert len(results) == 3
    assert {type(result) for result in results} == {WorkerDied}
    assert len({id(result) for result in results}) == 1


@on_every_loop
def test_a_loop_that_is_closed_during_a_join(new_loop):
    worker = Worker(target=never_ends, daemon=True)
    worker.start()
    before = len(os.listdir("/proc/self/fd"))
    loop = new_loop()
    join = worker.join()

    async def begin():
        join.send(None)

    loop.run_until_complete(begin())
    loop.close()
    join.close()
    assert len(os.listdir("/proc/self/fd")) == before
    worker.kill()
    assert type(on_loop(worker.join())) is WorkerDied


def test_a_process_that_closes_its_files_is_waited_for():
    set_start_method("fork")
    reader, their_writer = os.pipe()
    their_reader, writer = os.pipe()

    async def main():
        process = Process(target=closes_its_files, args=(their_reader, their_writer))
        process.start()
        assert os.read(reader, 1) == b"!"  # from here on its sentinel says that it has ended
        with pytest.raises(asyncio.TimeoutError):
            await process.join(0.01)
        os.write(writer, b"!")
        await process
        assert process.exitcode == 3

    on_loop(main())
    for fd in (reader, their_writer, their_reader, writer):
        os.close(fd)


def test_process_target_is_called_instead():
    async def main():
        process = Process(target=pid, args=(1, 2, 3), process_target=run_other)
        await process
        assert process.exitcode == 3

    on_loop(main())


def test_an_exception_ends_a_process_with_its_traceback(capfd):
    async def main():
        for kind in (Process, Worker):
            process = kind(target=fail, args=(CustomError(3, "a reason"),))
            await process
            assert process.exitcode == 1
            assert "raise error" in capfd.readouterr().err

    on_loop(main())


def test_failures_are_logged(caplog):
    unit = Process(target=fail, args=(CustomError(3, "a reason"),)).unit
    with caplog.at_level(logging.ERROR), pytest.raises(CustomError):
        Process.run_async(unit)
    assert f"aio process {os.getpid()} failed" in caplog.text


# ---- Worker ----


@on_every_loop
def test_the_result_of_a_worker(new_loop):
    async def main():
        worker = Worker(target=never_ends, daemon=True)
        for _ in range(2):
            with pytest.raises(ValueError, match="coroutine not completed"):
                worker.result  # noqa: B018
            if worker.pid is None:
                worker.start()
        worker.kill()
        await worker.join()

        worker = Worker(target=pid)
        assert await worker == worker.pid == worker.result
        assert await worker.join() == worker.pid
        worker.close()
        assert Worker(target=pid).unit.target is pid

    on_loop(main(), new_loop)


def test_the_result_without_a_join():
    worker = Worker(target=large)
    worker.start()
    worker.aio_process.join(HANG_LIMIT)
    assert worker.exitcode == 0
    assert len(worker.result) == LARGE
    assert worker.result is worker.result


def test_nobody_asks_for_the_result():
    """Neither the child nor the program waits for somebody to."""
    finished = run_script(
        """
        from pyconc.aiomultiprocess import Worker

        async def large():
            return b"x" * 10_000_000

        if __name__ == "__main__":
            Worker(target=large).start()
        """,
        flags=("-W", "error"),
    )
    assert finished.stderr == ""


def test_a_worker_that_is_never_started_or_dropped_leaves_nothing():
    Worker(target=pid)
    worker = Worker(target=pid)
    worker.start()
    worker.aio_process.join(HANG_LIMIT)


def test_an_exception_is_the_result():
    async def main():
        error = await Worker(target=fail, args=(CustomError(3, "a reason"),))
        assert type(error) is CustomError
        assert error.code == 3
        assert error.args == (3, "a reason")
        assert "raise error" in str(error.__cause__)
        assert type(await Worker(target=fail, args=(FrozenError(),))) is FrozenError
        assert type(await Worker(target=fail, args=(SystemExit(5),))) is SystemExit
        assert type(await Worker(target=fail, args=(KeyboardInterrupt(),))) is KeyboardInterrupt
        assert type(await Worker(target=pid, initializer=refuse)) is LookupError
        assert type(await Worker(target=pid, loop_initializer=refuse)) is LookupError
        assert type(await Worker()) is NotImplementedError

    on_loop(main())


def test_exit_codes_of_exceptions():
    async def main():
        worker = Worker(target=fail, args=(SystemExit(5),))
        await worker
        assert worker.exitcode == 5

    on_loop(main())


def test_what_cannot_be_pickled():
    async def main():
        worker = Worker(target=make, args=(Stubborn,))
        error = await worker
        assert type(error) is TaskUnpicklable
        assert "this stays here" in str(error)
        assert "this stays here" in str(error.__cause__)
        assert worker.exitcode == 1
        error = await Worker(target=make, args=(Explosive,))
        assert type(error) is TaskUnpicklable
        assert "this is not for you" in str(error)

    on_loop(main())


def test_functions_by_value():
    pytest.importorskip("cloudpickle")

    async def main():
        assert (await Worker(target=make, args=(make_lambda,)))(1) == 2

    on_loop(main())


@on_every_loop
def test_death(new_loop):
    async def main():
        worker = Worker(target=ends_at_once, args=(kill_oneself,))
        error = await worker
        assert type(error) is WorkerDied
        assert (error.pid, error.exitcode, error.signal) == (worker.pid, -signal.SIGKILL, "SIGKILL")
        assert error.task is ends_at_once
        assert "SIGKILL" in str(error)
        error = await Worker(target=ends_at_once, args=(leave,))
        assert (error.exitcode, error.signal) == (7, None)
        assert "exit code 7" in str(error)

    on_loop(main(), new_loop)


def test_a_result_that_the_child_was_killed_over():
    """What a child wrote before it was killed is no result."""

    async def main():
        worker = Worker(target=make, args=(LastWords,))
        error = await worker
        assert type(error) is WorkerDied
        assert error.exitcode == -signal.SIGKILL

    on_loop(main())


@on_every_method
def test_initializer_and_loop_initializer(method):
    set_start_method(method)

    async def main():
        options = {"initializer": initialize, "initargs": (10,), "loop_initializer": SimilarLoop}
        assert await Worker(target=initialized, **options) == (10, "SimilarLoop")
        assert await Worker(target=current_loop, loop_initializer=SimilarLoop) == f"{__name__}.SimilarLoop"

    on_loop(main())


def test_uvloop_in_the_child():
    uvloop = pytest.importorskip("uvloop")
    result = on_loop(finish(Worker(target=current_loop, loop_initializer=uvloop.new_event_loop)))
    assert result == "uvloop.Loop"


def test_tasks_that_are_left_are_cancelled(tmp_path):
    async def main():
        await Worker(target=leaves_a_task, args=(tmp_path / "end",))
        assert (tmp_path / "end").read_text() == "ended"

    on_loop(main())


def test_nothing_warns():
    finished = run_script(
        """
        import asyncio
        from pyconc.aiomultiprocess import Process, Worker, set_start_method

        async def answer():
            asyncio.get_running_loop().run_in_executor(None, int)
            return 42

        async def main():
            for method in ("spawn", "fork", "forkserver"):
                set_start_method(method)
                await Process(target=answer)
                assert await Worker(target=answer) == 42

        if __name__ == "__main__":
            asyncio.run(main())
        """,
        flags=("-W", "error"),
    )
    assert (finished.stdout, finished.stderr) == ("", "")


# ---- schedulers ----


def test_round_robin():
    scheduler = RoundRobin()
    assert isinstance(scheduler, Scheduler)
    first, second = scheduler.register_queue(object()), scheduler.register_queue(object())
    assert first != second
    for qid in (first, second, first):
        scheduler.register_process(qid)
    scheduled = [scheduler.schedule_task(TaskID(number), pid, (), {}) for number in range(6)]
    assert scheduled == [first, second, first] * 2
    assert scheduler.complete_task(TaskID(0)) is None


def test_a_scheduler_has_to_say_it_all():
    with pytest.raises(TypeError):
        Scheduler()
    assert (TaskID(1), QueueID(2)) == (1, 2)
    assert issubclass(ProxyException, Exception)
    assert isinstance(core, types.ModuleType)
