"""pyconc.current_task(): what the code of a task knows of itself, and what it can keep off."""

import asyncio
import contextlib
import contextvars
import gc
import os
import pickle
import signal
import threading

import pytest
from pools import with_pool
from support import THOUSAND, wait_until

import pyconc


def describe():
    task = pyconc.current_task()
    return task.name, task.deadline, task.remaining(), task.cancelled(), repr(task)


@with_pool
def test_a_task_has_its_functions_name(pool):
    assert pool.submit(describe).result() == ("describe", None, None, False, "<pyconc.Task 'describe'>")


@with_pool
def test_a_task_has_the_name_of_its_options(pool):
    view = pool.options(name="nightly").options(on_cancel="interrupt")
    assert view.submit(describe).result()[0] == "nightly"
    assert view.options(name="other").submit(describe).result()[0] == "other"
    assert list(view.map(name_of_task, range(3))) == ["nightly"] * 3
    assert pool.submit(describe).result()[0] == "describe"


def add(*args, **kwargs):
    return pyconc.current_task().name, args, kwargs


@pytest.mark.parametrize("fn", [add, lambda *args, **kwargs: add(*args, **kwargs), Ellipsis])
@with_pool
def test_a_named_call_has_its_arguments(pool, fn):
    named = pool.options(name="x" * 10_000)
    if fn is Ellipsis:  # what is pickled with each call
        assert named.submit("{}{}".format, 1, 2).result() == "12"
        return
    assert named.submit(fn).result() == ("x" * 10_000, (), {})
    assert named.submit(fn, 1, "two", three=[3]).result() == ("x" * 10_000, (1, "two"), {"three": [3]})
    assert named.submit(fn, bytes(THOUSAND)).result()[1] == (bytes(THOUSAND),)


def name_of_task(_):
    return pyconc.current_task().name


@pytest.mark.parametrize("options", [{}, {"timeout": 3600}])
def test_a_task_that_runs_in_a_context_has_its_functions_name(options):
    """As asyncio.to_thread() makes them."""

    async def in_threads(loop):
        loop.set_default_executor(view)
        return [
            await asyncio.to_thread(name_of_task, 1),
            await loop.run_in_executor(None, contextvars.copy_context().run, name_of_task, 1),
            await loop.run_in_executor(None, contextvars.copy_context().run, name_of_task, 1),
        ]

    with pyconc.ThreadPoolExecutor(1) as pool:
        with pytest.raises(TypeError):  # for want of what it is to run
            pool.submit(contextvars.copy_context().run).result()
        view = pool.options(**options) if options else pool
        loop = asyncio.new_event_loop()
        assert loop.run_until_complete(in_threads(loop)) == ["name_of_task"] * 3
        loop.close()


@with_pool
def test_the_calls_of_a_chunk_are_tasks(pool):
    assert list(pool.map(name_of_task, range(100), chunksize=50)) == ["name_of_task"] * 100


@with_pool
def test_a_name_is_a_str(pool):
    with pytest.raises(TypeError, match="name must be a str, not int"):
        pool.options(name=1)


@with_pool
def test_nobody_else_has_a_task(pool):
    def look():
        found = [pyconc.current_task()]
        thread = threading.Thread(target=lambda: found.append(pyconc.current_task()))
        thread.start()
        thread.join()
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.write(writer, repr(pyconc.current_task()).encode())
            os._exit(0)
        os.wait()
        return found[0] is not None, found[1], os.read(reader, 100)

    assert pyconc.current_task() is None
    assert pool.submit(look).result() == (True, None, b"None")


class Kept:
    """What outlives the task that made it."""


def keep_task():
    Kept.task = pyconc.current_task()
    assert Kept.task.name == pyconc.current_task().name


def look_at_kept_task():
    Kept.task.check()
    with Kept.task.shield():
        pass
    return Kept.task.name, Kept.task.cancelled(), pyconc.current_task().name


@with_pool
def test_a_task_that_is_over_says_what_was(pool):
    pool.submit(keep_task).result()
    for _ in range(3):
        assert pool.submit(look_at_kept_task).result() == ("keep_task", False, "look_at_kept_task")


def wait_for_end(path, keeps):
    task = pyconc.current_task()
    Kept.task = task
    assert not task.cancelled()
    try:
        path.write_text("began")
        if keeps == "nothing":
            signal.pause()
        with task.shield():
            while not task.cancelled():
                pass
        signal.pause()
    except pyconc.TaskCancelled as error:
        path.with_suffix(".reason").write_text(f"{error.reason} {error}")
        raise


def cancel_when_begun(call, path):
    wait_until(path.exists)
    assert call.cancel()
    with contextlib.suppress(pyconc.CancelledError):
        call.result()


@pytest.mark.parametrize("keeps", ["nothing", "asking"])
@with_pool
def test_a_cancelled_task_knows_why(pool, tmp_path, keeps):
    path = tmp_path / "task"
    call = pool.options(on_cancel="interrupt", grace=3600).submit(wait_for_end, path, keeps)
    cancel_when_begun(call, path)
    assert pool.submit(lambda: (Kept.task.cancelled(), Kept.task.name)).result() == (True, "wait_for_end")
    assert path.with_suffix(".reason").read_text() == "cancel the task was cancelled"


@with_pool
def test_a_shutdown_is_a_reason(pool, tmp_path):
    path = tmp_path / "task"
    pool.options(on_cancel="interrupt", grace=3600).submit(wait_for_end, path, "nothing")
    wait_until(path.exists)
    pool.shutdown(cancel_futures=True)
    assert path.with_suffix(".reason").read_text().startswith("shutdown the executor")


def shielded(path, depth):
    task, log = pyconc.current_task(), []
    try:
        with contextlib.ExitStack() as stack:
            for _ in range(depth):
                stack.enter_context(task.shield())
            path.write_text("began")
            while not task.cancelled():
                pass
            task.check()
            log.append("kept off")
        log.append("never")
    except pyconc.TaskCancelled:
        log.append("raised at the end")
        with task.shield():  # it was raised: once
            log.append("cleans up")
        log.append("cleaned up")
        with pytest.raises(pyconc.TaskCancelled):
            task.check()
    path.with_suffix(".log").write_text(", ".join(log))


@pytest.mark.parametrize("depth", [1, 3])
@with_pool
def test_a_shield_keeps_it_off_until_its_end(pool, tmp_path, depth):
    path = tmp_path / "task"
    worker = pool.submit(os.getpid).result()
    call = pool.options(on_cancel="interrupt", grace=3600).submit(shielded, path, depth)
    cancel_when_begun(call, path)
    assert pool.submit(os.getpid).result() == worker
    log = path.with_suffix(".log").read_text()
    assert log == "kept off, raised at the end, cleans up, cleaned up"


def shield_for_ever(path):
    with pyconc.current_task().shield():
        path.write_text("began")
        while True:
            signal.pause()


@with_pool
def test_a_shield_does_not_outlast_the_grace(pool, tmp_path):
    path = tmp_path / "task"
    worker = pool.submit(os.getpid).result()
    call = pool.options(on_cancel="interrupt", grace=0.05).submit(shield_for_ever, path)
    cancel_when_begun(call, path)
    assert pool.submit(os.getpid).result() != worker


def leave_shield_open():
    pyconc.current_task().shield().__enter__()


@with_pool
def test_a_shield_that_is_never_left_is_that_tasks(pool, tmp_path):
    path = tmp_path / "task"
    stoppable = pool.options(on_cancel="interrupt", grace=3600)
    stoppable.submit(leave_shield_open).result()
    call = stoppable.submit(wait_for_end, path, "nothing")
    cancel_when_begun(call, path)
    pool.submit(int).result()
    assert path.with_suffix(".reason").exists()


@with_pool
def test_the_name_is_in_a_workers_death(pool):
    with pytest.raises(pyconc.WorkerDied, match="while it ran the nightly report") as caught:
        pool.options(name="the nightly report").submit(signal.raise_signal, signal.SIGKILL).result()
    assert caught.value.task_name == "the nightly report"


@with_pool
def test_tasks_are_collected(pool):
    def count():
        gc.collect()
        return sum(isinstance(thing, pyconc.Task) for thing in gc.get_objects()), len(gc.get_objects())

    def ask():
        for _ in range(THOUSAND):
            pyconc.current_task().name  # noqa: B018

    pool.submit(ask).result()
    before = pool.submit(count).result()
    for _ in range(20):
        pool.submit(ask).result()
    after = pool.submit(count).result()
    assert after[1] - before[1] < THOUSAND


def test_task_cancelled_goes_through_pickle():
    for reason in "cancel", "timeout", "shutdown":
        error = pyconc.TaskCancelled(reason=reason)
        copied = pickle.loads(pickle.dumps(error))
        assert (str(copied), copied.reason) == (str(error), reason)
    assert pyconc.TaskCancelled().reason == "cancel"
    assert str(pyconc.TaskCancelled("because")) == "because"


@with_pool
def test_asyncio_reaches_a_task_that_asks(pool, tmp_path):
    path = tmp_path / "task"

    async def main():
        call = asyncio.get_running_loop().run_in_executor(
            pool.options(on_cancel="interrupt", grace=3600), wait_for_end, path, "asking"
        )
        while not path.exists():
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait([call])
        assert call.cancelled()

    asyncio.run(main())
    assert path.with_suffix(".reason").exists()
