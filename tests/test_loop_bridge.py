"""Executors under event loops: what asyncio promises of `run_in_executor` and `to_thread`, and what the bridge adds.

Tests that take an `Executor` describe asyncio, and the standard library's executor is their oracle; the others are
about pyconc only.
"""

import asyncio
import concurrent.futures
import contextlib
import contextvars
import functools
import gc
import io
import logging
import sys
import threading
import time
import weakref

import pytest
from gates import Gate, block_workers
from loops import on_every_loop, on_loop, watched
from support import HANG_LIMIT, run_script, wait_until

import pyconc

pytestmark = on_every_loop

against_the_standard = pytest.mark.parametrize(
    "Executor", [concurrent.futures.ThreadPoolExecutor, pyconc.ThreadPoolExecutor], ids=["standard", "pyconc"]
)
needs_3_11 = pytest.mark.skipif(sys.version_info < (3, 11), reason="new in Python 3.11")
needs_3_12 = pytest.mark.skipif(sys.version_info < (3, 12), reason="new in Python 3.12")
needs_3_14 = pytest.mark.skipif(sys.version_info < (3, 14), reason="new in Python 3.14")


def identity(x):
    return x


def fail(exception):
    raise exception


# --- Results and exceptions -------------------------------------------------------------------------------------------


@against_the_standard
@on_loop
async def test_results_come_back(new_loop, Executor):
    loop = asyncio.get_running_loop()
    with Executor(2) as pool:
        assert await loop.run_in_executor(pool, identity, 1) == 1
        assert await loop.run_in_executor(pool, functools.partial(int, "z", base=36)) == 35
        assert await loop.run_in_executor(pool, threading.get_ident) != threading.get_ident()
        pending = [loop.run_in_executor(pool, identity, i) for i in range(1000)]
        assert await asyncio.gather(*pending) == list(range(1000))


@against_the_standard
@on_loop
async def test_exceptions_come_back_as_they_are(new_loop, Executor):
    loop = asyncio.get_running_loop()
    error = ValueError("no")
    with Executor(1) as pool:
        with pytest.raises(ValueError, match="no") as caught:
            await loop.run_in_executor(pool, fail, error)
    assert caught.value is error
    assert "fail" in [entry.name for entry in caught.traceback]


class OwnBaseException(BaseException):
    pass


class OwnTimeoutError(TimeoutError):
    pass


@against_the_standard
@pytest.mark.parametrize(
    ("raised", "awaited"),
    [
        (concurrent.futures.CancelledError, asyncio.CancelledError),
        (concurrent.futures.TimeoutError, asyncio.TimeoutError),
        (concurrent.futures.InvalidStateError, asyncio.InvalidStateError),
        (OwnTimeoutError, OwnTimeoutError),
        (OwnBaseException, OwnBaseException),
        (asyncio.CancelledError, asyncio.CancelledError),
    ],
)
@on_loop
async def test_exceptions_of_futures_become_those_of_asyncio(new_loop, Executor, raised, awaited):
    loop = asyncio.get_running_loop()
    with Executor(1) as pool:
        future = loop.run_in_executor(pool, fail, raised("why", 42))
        with pytest.raises(awaited) as caught:
            await future
    assert type(caught.value) is awaited
    assert caught.value.args == ("why", 42)
    assert not future.cancelled()


class OwnStopIteration(StopIteration):
    pass


@pytest.mark.parametrize("kind", [StopIteration, OwnStopIteration])
@on_loop
async def test_stop_iteration_arrives_as_runtime_error(new_loop, kind):
    # Older versions of asyncio cannot deliver it at all, and leave the awaiter waiting.
    error = kind("value")
    loop = asyncio.get_running_loop()
    with pyconc.ThreadPoolExecutor(1) as pool:
        with pytest.raises(RuntimeError, match="StopIteration") as caught:
            await loop.run_in_executor(pool, fail, error)
        assert caught.value.__cause__ is error
        with pytest.raises(RuntimeError, match="StopIteration"):
            await asyncio.wrap_future(pool.submit(next, iter(())))
        assert await loop.run_in_executor(pool, identity, 1) == 1


@against_the_standard
@on_loop
async def test_errors_of_the_executor_come_back(new_loop, Executor):
    loop = asyncio.get_running_loop()
    pool = Executor(1)
    gate = Gate()
    with gate:
        block_workers(pool, gate)
        queued = loop.run_in_executor(pool, identity, 1)
        pool.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(asyncio.CancelledError):
        await queued
    assert queued.cancelled()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        await loop.run_in_executor(pool, identity, 1)
    pool.shutdown()


@against_the_standard
@on_loop
async def test_a_broken_pool_fails_what_is_awaited(new_loop, Executor, caplog):
    loop = asyncio.get_running_loop()
    with Executor(1, initializer=fail, initargs=(ValueError("init"),)) as pool:
        with pytest.raises(concurrent.futures.BrokenExecutor):
            await loop.run_in_executor(pool, identity, 1)
        with pytest.raises(concurrent.futures.BrokenExecutor):
            await loop.run_in_executor(pool, identity, 1)
    assert [record.getMessage() for record in caplog.records] == ["Exception in initializer:"]


@against_the_standard
@on_loop
async def test_a_task_may_submit_tasks(new_loop, Executor):
    loop = asyncio.get_running_loop()
    with Executor(1) as pool:
        inner = await loop.run_in_executor(pool, pool.submit, identity, 1)
        assert isinstance(inner, concurrent.futures.Future)
        assert not asyncio.isfuture(inner)
        assert await asyncio.wrap_future(inner) == 1
        inner = await asyncio.to_thread(pool.submit, identity, 2)
        assert await asyncio.wrap_future(inner) == 2


@against_the_standard
@on_loop
async def test_submit_in_a_coroutine_returns_no_awaitable(new_loop, Executor):
    with Executor(1) as pool:
        future = pool.submit(identity, 1)
        assert isinstance(future, concurrent.futures.Future)
        assert not asyncio.isfuture(future)
        assert future.result() == 1


def doubling(standard):
    """Returns a method by which asyncio asks a future, and one to take its place, which doubles results."""
    if hasattr(concurrent.futures.Future, "_get_snapshot"):
        snapshot = standard._get_snapshot

        def double_snapshot(self):
            is_done, cancelled, result, exception = snapshot(self)
            return is_done, cancelled, result and result * 2, exception

        return "_get_snapshot", double_snapshot
    original = standard.result
    return "result", lambda self, timeout=None: original(self, timeout) * 2


@pytest.mark.parametrize("base", [concurrent.futures.Future, pyconc.Future])
@on_loop
async def test_wrap_future_asks_a_subclass_that_answers_otherwise(new_loop, base):
    future = type("Doubling", (base,), dict([doubling(base)]))()
    pending = asyncio.wrap_future(future)
    await asyncio.to_thread(future.set_result, 4)
    assert (await pending, await asyncio.wrap_future(future)) == (8, 8)


@against_the_standard
@on_loop
async def test_a_replaced_method_of_the_standard_future_is_asked(new_loop, Executor, monkeypatch):
    loop = asyncio.get_running_loop()
    with Executor(1) as pool:
        future = pool.submit(identity, 4)
        name, double = doubling(concurrent.futures.Future)
        original = getattr(concurrent.futures.Future, name)
        monkeypatch.setattr(concurrent.futures.Future, name, double)
        assert (await loop.run_in_executor(pool, identity, 4), await asyncio.wrap_future(future)) == (8, 8)
        monkeypatch.setattr(concurrent.futures.Future, name, original)
        assert await loop.run_in_executor(pool, identity, 4) == 4


@against_the_standard
@on_loop
async def test_wrap_future(new_loop, Executor):
    error = ValueError("no")
    gate = Gate()
    with Executor(1) as pool, gate:
        done = pool.submit(identity, 1)
        done.result()
        assert await asyncio.wrap_future(done) == 1
        block_workers(pool, gate)
        source = pool.submit(identity, 2)
        pending = [asyncio.wrap_future(source) for _ in range(3)]
        failed = asyncio.wrap_future(pool.submit(fail, error))
        cancelled = pool.submit(identity, 3)
        wrapped = asyncio.wrap_future(cancelled)
        cancelled.cancel()
        gate.open()
        assert await asyncio.gather(*pending) == [2, 2, 2]
        assert source.result() == 2
        with pytest.raises(ValueError, match="no") as caught:
            await failed
        assert caught.value is error
        with pytest.raises(asyncio.CancelledError):
            await wrapped


# --- Cancellation -----------------------------------------------------------------------------------------------------


@against_the_standard
@on_loop
async def test_cancelling_a_queued_task_keeps_it_from_running(new_loop, Executor):
    loop = asyncio.get_running_loop()
    ran = []
    gate = Gate()
    with Executor(1) as pool, gate:
        block_workers(pool, gate)
        direct = loop.run_in_executor(pool, ran.append, "direct")
        wrapped = asyncio.wrap_future(pool.submit(ran.append, "wrapped"))
        for future in direct, wrapped:
            assert future.cancel()
            assert future.cancelled()
            assert not future.cancel()
            with pytest.raises(asyncio.CancelledError):
                await future
        await asyncio.sleep(0)  # the standard library tells its own future by way of the loop
        gate.open()
        await loop.run_in_executor(pool, identity, None)
    assert ran == []


@on_loop
async def test_cancelling_reaches_a_queued_task_at_once(new_loop):
    # With the standard library, leaving `with` keeps the loop from telling the executor, and the tasks run.
    loop = asyncio.get_running_loop()
    ran = []
    gate = Gate()
    with pyconc.ThreadPoolExecutor(1) as pool, gate:
        await loop.run_in_executor(pool, identity, None)  # uvloop's loops get to know executors by their first task
        block_workers(pool, gate)
        pending = [loop.run_in_executor(pool, ran.append, i) for i in range(3)]
        for future in pending:
            assert future.cancel()
        gate.open()
    assert ran == []
    assert all(future.cancelled() for future in pending)


@on_loop
async def test_async_with_lets_the_loop_cancel(new_loop):
    loop = asyncio.get_running_loop()
    ran = []
    gate = Gate()
    with gate:
        async with pyconc.ThreadPoolExecutor(1) as pool:
            block_workers(pool, gate)
            for i in range(3):
                loop.run_in_executor(pool, ran.append, i).cancel()
            loop.call_soon(gate.open)
    assert ran == []
    with pytest.raises(RuntimeError, match="shutdown"):
        pool.submit(identity, 1)


@on_loop
async def test_async_with_does_not_stop_the_loop(new_loop):
    loop = asyncio.get_running_loop()
    gate = Gate()
    with gate:
        async with pyconc.ThreadPoolExecutor(2) as pool:
            block_workers(pool, gate, workers=2)
            queued = loop.run_in_executor(pool, identity, 1)
            loop.call_soon(loop.call_soon, gate.open)  # without a running loop nobody opens the gate
        assert await queued == 1
        assert not any(thread.is_alive() for thread in pool._threads)


@on_loop
async def test_async_with_passes_an_exception_on(new_loop):
    with pytest.raises(ValueError, match="body"):
        async with pyconc.ThreadPoolExecutor(1) as pool:
            raise ValueError("body")
    with pytest.raises(RuntimeError, match="shutdown"):
        pool.submit(identity, 1)


@against_the_standard
@on_loop
async def test_cancelling_a_running_task_drops_its_outcome(new_loop, Executor):
    loop = asyncio.get_running_loop()
    for argument in "result", ValueError("nobody asks"):
        gate = Gate()
        with Executor(1) as pool, gate:
            future = loop.run_in_executor(pool, gate, argument)
            gate.wait_started()
            assert future.cancel()
            with pytest.raises(asyncio.CancelledError):
                await future
            gate.open()
            assert await loop.run_in_executor(pool, identity, 1) == 1
        assert future.cancelled()


@against_the_standard
@on_loop
async def test_cancelling_comes_too_late_for_a_finished_task(new_loop, Executor):
    loop = asyncio.get_running_loop()
    with Executor(1) as pool:
        future = loop.run_in_executor(pool, identity, 1)
        assert await future == 1
        assert not future.cancel()
        assert future.result() == 1


@against_the_standard
@on_loop
async def test_cancelling_between_the_end_of_a_task_and_its_delivery(new_loop, Executor):
    # The worker is done, the loop has not seen it: the loop's word is what counts.
    loop = asyncio.get_running_loop()
    with Executor(1) as pool:
        pending = [loop.run_in_executor(pool, identity, i) for i in range(10)]
        pool.submit(identity, None).result()
        assert all(future.cancel() for future in pending[::2] if not future.done())
        results = await asyncio.gather(*pending, return_exceptions=True)
    assert results[1::2] == [1, 3, 5, 7, 9]
    for future, result in zip(pending, results, strict=True):
        assert isinstance(result, asyncio.CancelledError) == future.cancelled()


@against_the_standard
@on_loop
async def test_the_message_of_a_cancellation(new_loop, Executor):
    loop = asyncio.get_running_loop()
    gate = Gate()
    with Executor(1) as pool, gate:
        future = loop.run_in_executor(pool, gate)
        future.cancel(msg="why")
        with pytest.raises(asyncio.CancelledError) as caught:
            await future
        gate.open()
    assert caught.value.args == ("why",)


@against_the_standard
@on_loop
async def test_cancelling_the_awaiting_task(new_loop, Executor):
    loop = asyncio.get_running_loop()
    ran = []
    gate = Gate()

    async def wait_for_executor():
        await loop.run_in_executor(pool, ran.append, 1)

    with Executor(1) as pool, gate:
        block_workers(pool, gate)
        task = loop.create_task(wait_for_executor())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.open()
        await loop.run_in_executor(pool, identity, None)
    assert ran == []


# --- What asyncio builds on futures -----------------------------------------------------------------------------------


@against_the_standard
@on_loop
async def test_wait_for(new_loop, Executor):
    loop = asyncio.get_running_loop()
    ran = []
    gate = Gate()
    with Executor(1) as pool, gate:
        assert await asyncio.wait_for(loop.run_in_executor(pool, identity, 1), HANG_LIMIT) == 1
        running = loop.run_in_executor(pool, gate)
        gate.wait_started()
        for timeout in 0, 0.001:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(loop.run_in_executor(pool, ran.append, timeout), timeout)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(running, 0.001)
        await asyncio.sleep(0)
        gate.open()
        await loop.run_in_executor(pool, identity, None)
    assert ran == []


@needs_3_11
@against_the_standard
@on_loop
async def test_timeout(new_loop, Executor):
    loop = asyncio.get_running_loop()
    ran = []
    gate = Gate()
    with Executor(1) as pool, gate:
        async with asyncio.timeout(HANG_LIMIT):
            assert await loop.run_in_executor(pool, identity, 1) == 1
        block_workers(pool, gate)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await loop.run_in_executor(pool, ran.append, 1)
        gate.open()
        await loop.run_in_executor(pool, identity, None)
    assert ran == []


@needs_3_11
@against_the_standard
@on_loop
async def test_task_group(new_loop, Executor):
    loop = asyncio.get_running_loop()
    ran = []
    gate = Gate()
    with Executor(2) as pool, gate:
        loop.set_default_executor(pool)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(asyncio.to_thread(identity, i)) for i in range(100)]
        assert [task.result() for task in tasks] == list(range(100))

        block_workers(pool, gate)  # one of two: the queue moves on
        with pytest.RaisesGroup(pytest.RaisesExc(ValueError, match="body")):
            async with asyncio.TaskGroup() as group:
                hangs = group.create_task(asyncio.to_thread(gate))
                await asyncio.sleep(0)
                gate.wait_started()  # now both are busy
                late = group.create_task(asyncio.to_thread(ran.append, "late"))
                await asyncio.sleep(0)
                raise ValueError("body")
        assert hangs.cancelled()
        assert late.cancelled()
        gate.open()
        await asyncio.gather(*[loop.run_in_executor(pool, identity, None) for _ in range(10)])
    assert ran == []


@against_the_standard
@on_loop
async def test_wait_as_completed_and_shield(new_loop, Executor):
    loop = asyncio.get_running_loop()
    gate = Gate()
    with Executor(2) as pool, gate:
        held = loop.run_in_executor(pool, gate, "held")
        gate.wait_started()
        quick = {loop.run_in_executor(pool, identity, i) for i in range(3)}
        done, pending = await asyncio.wait(quick | {held}, return_when=asyncio.FIRST_COMPLETED)
        assert held in pending
        assert done <= quick
        assert {await future for future in asyncio.as_completed(quick)} == {0, 1, 2}
        shielded = asyncio.shield(held)
        shielded.cancel()
        with pytest.raises(asyncio.CancelledError):
            await shielded
        gate.open()
        assert await held == ("held",)


@against_the_standard
@on_loop
async def test_to_thread_carries_context(new_loop, Executor):
    variable = contextvars.ContextVar("variable", default="unset")
    loop = asyncio.get_running_loop()

    def read_and_write():
        before = variable.get()
        variable.set("written in the thread")
        return before

    with Executor(1) as pool:
        loop.set_default_executor(pool)
        variable.set("of the caller")
        assert await asyncio.to_thread(read_and_write) == "of the caller"
        assert variable.get() == "of the caller"
        assert await asyncio.to_thread(dict, x=1, fn=2) == {"x": 1, "fn": 2}
        with pytest.raises(KeyError):
            await asyncio.to_thread({}.__getitem__, "missing")


@against_the_standard
@on_loop
async def test_callbacks_run_on_the_loop_in_the_context_of_their_registration(new_loop, Executor):
    variable = contextvars.ContextVar("variable", default="unset")
    loop = asyncio.get_running_loop()
    seen = []

    def callback(future):
        seen.append((future, threading.get_ident(), variable.get()))

    def removed(future):
        seen.append("removed")

    gate = Gate()
    with Executor(1) as pool, gate:
        block_workers(pool, gate)  # the future is not done before its callbacks are there
        variable.set("first")
        future = loop.run_in_executor(pool, identity, 1)
        future.add_done_callback(callback)
        future.add_done_callback(callback, context=contextvars.Context())
        future.add_done_callback(removed)
        assert future.remove_done_callback(removed) == 1
        variable.set("second")
        gate.open()
        assert await future == 1
        await asyncio.sleep(0)
    me = threading.get_ident()
    assert seen == [(future, me, "first"), (future, me, "unset")]


@against_the_standard
@on_loop
async def test_run_coroutine_threadsafe_from_inside_a_task(new_loop, Executor):
    loop = asyncio.get_running_loop()

    async def back_on_the_loop(x):
        assert asyncio.get_running_loop() is loop
        return await loop.run_in_executor(pool, identity, x)

    def ask_the_loop(x):
        return asyncio.run_coroutine_threadsafe(back_on_the_loop(x), loop).result(HANG_LIMIT)

    with Executor(8) as pool:
        pending = [loop.run_in_executor(pool, ask_the_loop, i) for i in range(4)]
        assert await asyncio.gather(*pending) == [0, 1, 2, 3]


@needs_3_12
@against_the_standard
@on_loop
async def test_eager_tasks(new_loop, Executor):
    loop = asyncio.get_running_loop()
    with Executor(2) as pool:
        loop.set_default_executor(pool)
        # Not by eager_task_factory, whose signature uvloop and some versions of asyncio do not agree on.
        tasks = [asyncio.Task(asyncio.to_thread(identity, i), loop=loop, eager_start=True) for i in range(100)]
        assert await asyncio.gather(*tasks) == list(range(100))


@against_the_standard
@on_loop
async def test_the_future_is_one_of_the_loop(new_loop, Executor):
    loop = asyncio.get_running_loop()
    tasks_before = asyncio.all_tasks()
    gate = Gate()
    with Executor(1) as pool, gate:
        future = loop.run_in_executor(pool, gate, "done")
        assert isinstance(future, asyncio.Future)
        assert asyncio.isfuture(future)
        assert asyncio.wrap_future(future) is future
        assert asyncio.ensure_future(future) is future
        assert future.get_loop() is loop
        assert not future.done()
        assert "pending" in repr(future)
        with pytest.raises(asyncio.InvalidStateError):
            future.result()
        assert asyncio.all_tasks() == tasks_before
        assert weakref.ref(future)() is future
        gate.open()
        assert await future == ("done",)
        assert "finished result=('done',)" in repr(future)


@needs_3_14
@against_the_standard
@on_loop
async def test_call_graph_shows_who_awaits_the_future(new_loop, Executor):
    loop = asyncio.get_running_loop()
    gate = Gate()

    async def awaiter():
        await future

    with Executor(1) as pool, gate:
        future = loop.run_in_executor(pool, gate)
        tasks = {asyncio.create_task(awaiter(), name=f"awaiter {i}") for i in range(2)}
        await asyncio.sleep(0)
        graph = asyncio.capture_call_graph(future)
        assert {call.future for call in graph.awaited_by} == tasks
        assert future._asyncio_awaited_by == tasks
        text = io.StringIO()
        asyncio.print_call_graph(future, file=text)
        assert "awaiter 0" in text.getvalue()
        assert "awaiter 1" in text.getvalue()
        gate.open()
        await asyncio.wait(tasks)
        assert not future._asyncio_awaited_by


# --- Loops that differ ------------------------------------------------------------------------------------------------


def new_closed_loop(new_loop):
    loop = new_loop()
    loop.close()
    return loop


@against_the_standard
def test_futures_and_executors_of_a_loops_own_making(new_loop, Executor):
    Loop = type(new_closed_loop(new_loop))

    class OwnFuture(asyncio.Future):
        pass

    class OwnLoop(Loop):
        def create_future(self):
            return OwnFuture(loop=self)

    async def main():
        with Executor(1) as pool:
            future = loop.run_in_executor(pool, identity, 1)
            assert isinstance(future, OwnFuture)
            assert await future == 1
            pending = [loop.run_in_executor(pool, identity, i) for i in range(100)]
            assert await asyncio.gather(*pending) == list(range(100))

    loop = OwnLoop()
    with watched(loop):
        loop.run_until_complete(main())


@against_the_standard
def test_a_loop_that_overrides_run_in_executor(new_loop, Executor):
    Loop = type(new_closed_loop(new_loop))
    calls = []

    class Delegating(Loop):
        def run_in_executor(self, executor, func, *args):
            calls.append(args)
            return super().run_in_executor(executor, func, *args)

    class ByItself(Loop):
        def run_in_executor(self, executor, func, *args):
            calls.append(args)
            return asyncio.wrap_future(executor.submit(func, *args), loop=self)

    async def main():
        loop = asyncio.get_running_loop()
        gate = Gate()
        ran = []
        with Executor(1) as pool, gate:
            pending = [loop.run_in_executor(pool, identity, i) for i in range(100)]
            assert await asyncio.gather(*pending) == list(range(100))
            block_workers(pool, gate)
            loop.run_in_executor(pool, ran.append, "cancelled").cancel()
            await asyncio.sleep(0)
            gate.open()
            assert await loop.run_in_executor(pool, identity, 1) == 1
        assert ran == []

    for kind in Delegating, ByItself:
        calls.clear()
        loop = kind()
        with watched(loop):
            loop.run_until_complete(main())
        assert len(calls) == 102


@against_the_standard
def test_a_loop_that_is_not_running_yet(new_loop, Executor):
    loop = new_loop()
    with watched(loop), Executor(1) as pool:
        pending = [loop.run_in_executor(pool, identity, i) for i in range(10)]
        pool.submit(identity, None).result()  # all have run, and nobody could be told
        assert not any(future.done() for future in pending)
        assert [loop.run_until_complete(future) for future in pending] == list(range(10))
        assert loop.run_until_complete(loop.run_in_executor(pool, identity, 1)) == 1


@against_the_standard
def test_a_loop_that_stops_and_goes_on(new_loop, Executor):
    loop = new_loop()
    gate = Gate()
    with watched(loop), Executor(1) as pool, gate:
        held = loop.run_in_executor(pool, gate, "held")
        loop.call_soon(loop.stop)
        loop.run_forever()
        gate.open()
        pool.submit(identity, None).result()
        assert loop.run_until_complete(held) == ("held",)


@against_the_standard
def test_a_closed_loop_refuses(new_loop, Executor):
    loop = new_closed_loop(new_loop)
    with Executor(1) as pool:
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            loop.run_in_executor(pool, identity, 1)
        assert pool.submit(identity, 1).result() == 1


@against_the_standard
def test_loop_and_executor_that_have_met_keep_to_the_rules(new_loop, Executor):
    # On uvloop the first task makes a difference to the later ones.
    async def main():
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(pool, identity, 1) == 1
        assert await loop.run_in_executor(executor=pool, func=threading.get_ident) != threading.get_ident()
        with pytest.raises(TypeError):
            loop.run_in_executor(pool)
        with pytest.raises(TypeError):
            await loop.run_in_executor(pool, None)
        with pytest.raises(TypeError):
            await loop.run_in_executor(pool, identity)
        with pytest.raises(AttributeError):
            loop.run_in_executor(object(), identity, 1)
        assert await loop.run_in_executor(None, identity, 2) == 2
        return loop.run_in_executor

    loop = new_loop()
    with Executor(1) as pool:
        with watched(loop):
            method = loop.run_until_complete(main())
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            loop.run_in_executor(pool, identity, 1)
        del loop
        gc.collect()
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            method(pool, identity, 1)


@contextlib.contextmanager
def running_in_a_thread(new_loop):
    loop = new_loop()

    def run():
        with watched(loop):
            loop.run_forever()

    with concurrent.futures.ThreadPoolExecutor(1) as runner:
        done = runner.submit(run)
        try:
            yield loop
        finally:
            loop.call_soon_threadsafe(loop.stop)
            done.result()


@against_the_standard
@on_loop
async def test_run_in_executor_of_another_threads_loop(new_loop, Executor):
    here = asyncio.get_running_loop()

    async def result_of(future):
        assert asyncio.get_running_loop() is there
        return await future

    with running_in_a_thread(new_loop) as there, Executor(2) as pool:
        for _ in range(100):
            # Called from this loop's thread, the future is the other loop's and completes there.
            future = there.run_in_executor(pool, identity, 1)
            assert future.get_loop() is there
            assert await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(result_of(future), there)) == 1
            # The same from a thread that has no loop: a worker.
            future = await here.run_in_executor(pool, there.run_in_executor, pool, identity, 2)
            assert await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(result_of(future), there)) == 2


@against_the_standard
def test_several_loops_share_one_executor(new_loop, Executor):
    loops, tasks = 4, 500

    async def main(number):
        loop = asyncio.get_running_loop()
        threads = set()
        pending = []
        for i in range(tasks):
            future = loop.run_in_executor(pool, identity, (number, i))
            future.add_done_callback(lambda future: threads.add(threading.get_ident()))
            pending.append(future)
            if i % 100 == 0:
                await future
        assert await asyncio.gather(*pending) == [(number, i) for i in range(tasks)]
        assert threads == {threading.get_ident()}

    def run(number):
        loop = new_loop()
        with watched(loop):
            loop.run_until_complete(main(number))

    with Executor(3) as pool, concurrent.futures.ThreadPoolExecutor(loops) as runners:
        assert list(runners.map(run, range(loops))) == [None] * loops


@against_the_standard
def test_a_task_may_run_a_loop_of_its_own(new_loop, Executor):
    async def inner(x):
        return await asyncio.get_running_loop().run_in_executor(pool, identity, x)

    def run_a_loop(x):
        loop = new_loop()
        with watched(loop):
            return loop.run_until_complete(inner(x))

    async def main():
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*[loop.run_in_executor(pool, run_a_loop, i) for i in range(3)])

    loop = new_loop()
    with watched(loop), Executor(6) as pool:
        assert loop.run_until_complete(main()) == [0, 1, 2]


# --- Executors that differ --------------------------------------------------------------------------------------------


@against_the_standard
@on_loop
async def test_a_subclass_that_overrides_submit_is_honoured(new_loop, Executor):
    seen = []
    finished = []

    class Tracing(Executor):
        def submit(self, fn, /, *args, **kwargs):
            future = super().submit(self.run, fn, *args, **kwargs)
            assert isinstance(future, concurrent.futures.Future)
            assert not asyncio.isfuture(future)
            future.add_done_callback(lambda future: finished.append(future.result()))
            return future

        def run(self, fn, *args, **kwargs):
            seen.append(args)
            return fn(*args, **kwargs)

    class Unchanged(Executor):
        pass

    loop = asyncio.get_running_loop()
    with Tracing(1) as pool:
        loop.set_default_executor(pool)
        assert await loop.run_in_executor(pool, identity, 1) == 1
        assert await asyncio.gather(*[loop.run_in_executor(None, identity, i) for i in (2, 3)]) == [2, 3]
        assert await asyncio.to_thread(identity, 4) == 4
    assert [args[-1] for args in seen[:3]] == [1, 2, 3]
    assert finished == [1, 2, 3, 4]
    with Unchanged(1) as pool:
        assert await loop.run_in_executor(pool, identity, 1) == 1


@against_the_standard
@on_loop
async def test_an_executor_that_hands_on_to_another(new_loop, Executor):
    class HandsOn(concurrent.futures.Executor):
        def submit(self, fn, /, *args, **kwargs):
            return pool.submit(fn, *args, **kwargs)

    ran = []
    gate = Gate()
    loop = asyncio.get_running_loop()
    with Executor(1) as pool, gate:
        pending = [loop.run_in_executor(HandsOn(), identity, i) for i in range(100)]
        assert await asyncio.gather(*pending) == list(range(100))
        block_workers(pool, gate)
        loop.run_in_executor(HandsOn(), ran.append, 1).cancel()
        await asyncio.sleep(0)
        gate.open()
        await loop.run_in_executor(HandsOn(), identity, None)
    assert ran == []


@against_the_standard
@on_loop
async def test_an_executor_whose_submit_was_replaced_is_honoured(new_loop, Executor):
    calls = []
    loop = asyncio.get_running_loop()
    with Executor(1) as pool:
        submit = pool.submit

        def replaced(fn, /, *args, **kwargs):
            calls.append(args)
            return submit(fn, *args, **kwargs)

        pool.submit = replaced
        assert await loop.run_in_executor(pool, identity, 1) == 1
    assert calls == [(1,)]


# --- The default executor ---------------------------------------------------------------------------------------------


@against_the_standard
@on_loop
async def test_default_executor(new_loop, Executor):
    loop = asyncio.get_running_loop()
    pool = Executor(2, thread_name_prefix="ours")
    loop.set_default_executor(pool)
    name = await loop.run_in_executor(None, lambda: threading.current_thread().name)
    assert name.startswith("ours_")
    assert (await asyncio.to_thread(threading.current_thread)).name.startswith("ours_")
    await loop.shutdown_default_executor()
    assert not any(thread.is_alive() for thread in pool._threads)
    with pytest.raises(RuntimeError):
        await loop.run_in_executor(None, identity, 1)


def start_of_name(**_):
    return threading.current_thread().name.partition("_")[0]


@against_the_standard
@on_loop
async def test_another_default_executor_is_used_from_then_on(new_loop, Executor):
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as pools:
        for name in ("first", "second", "third"):
            loop.set_default_executor(pools.enter_context(Executor(1, thread_name_prefix=name)))
            for _ in range(3):
                assert await loop.run_in_executor(None, start_of_name) == name
                assert await asyncio.to_thread(start_of_name) == name
                assert await asyncio.to_thread(start_of_name, keyword=1) == name


@against_the_standard
@on_loop
async def test_shutdown_of_the_default_executor_waits_for_tasks(new_loop, Executor):
    loop = asyncio.get_running_loop()
    loop.set_default_executor(Executor(1))
    gate = Gate()
    with gate:
        pending = [loop.run_in_executor(None, gate, i) for i in range(3)]
        loop.call_soon(gate.open)
        await loop.shutdown_default_executor()
        assert await asyncio.gather(*pending) == [(0,), (1,), (2,)]


@against_the_standard
def test_closing_a_loop_shuts_its_default_executor_down(new_loop, Executor):
    loop = new_loop()
    pool = Executor(1)
    loop.set_default_executor(pool)
    assert loop.run_until_complete(loop.run_in_executor(None, identity, 1)) == 1
    threads = list(pool._threads)
    loop.close()
    with pytest.raises(RuntimeError):
        pool.submit(identity, 1)
    wait_until(lambda: not any(thread.is_alive() for thread in threads), "the threads to end")


RUN = """
    import asyncio, sys, threading

    import concurrent.futures, pyconc

    kind, loop_kind = sys.argv[1:]
    Executor = (pyconc if kind == "pyconc" else concurrent.futures).ThreadPoolExecutor
    ran = []

    async def main():
        loop = asyncio.get_running_loop()
        loop.slow_callback_duration = 60  # whatever a busy machine does
        loop.set_default_executor(Executor(2))
        started = threading.Event()
        go = threading.Event()

        def slow():
            started.set()
            go.wait()
            ran.append("slow")

        abandoned = asyncio.create_task(asyncio.to_thread(slow))
        await asyncio.to_thread(started.wait)
        # Nobody awaits these two: a task and a future that are under way when main() returns.
        loop.run_in_executor(None, ran.append, "future")
        loop.call_soon(go.set)
        return "result"

    if loop_kind == "uvloop":
        import uvloop
        print(uvloop.run(main()))
    else:
        print(asyncio.run(main()))
    assert sorted(ran) == ["future", "slow"], ran
    assert threading.active_count() == 1, threading.enumerate()
"""


@pytest.mark.parametrize("kind", ["standard", "pyconc"])
def test_asyncio_run_waits_for_the_threads_and_is_quiet(new_loop, kind):
    loop_kind = new_loop.__module__.split(".")[0]
    finished = run_script(RUN, kind, loop_kind, flags=("-X", "dev", "-W", "error"))
    assert finished.stdout == "result\n"
    assert finished.stderr == ""


# --- Debug mode and complaints ----------------------------------------------------------------------------------------


async def coroutine_function():
    pass


class HasCoroutineMethod:
    async def method(self):
        pass


@against_the_standard
@on_loop
async def test_debug_mode_rejects_coroutine_functions(new_loop, Executor):
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    coroutine = coroutine_function()
    with Executor(1) as pool:
        for _ in range(2):
            for wrong in (
                coroutine_function,
                HasCoroutineMethod().method,
                functools.partial(coroutine_function),
                coroutine,
            ):
                with pytest.raises(TypeError, match="coroutines cannot be used with run_in_executor"):
                    loop.run_in_executor(pool, wrong)
            assert await loop.run_in_executor(pool, identity, 1) == 1  # and once more when loop and pool have met
    coroutine.close()


@against_the_standard
@on_loop
async def test_debug_mode_finds_nothing_wrong(new_loop, Executor, caplog):
    # In debug mode the loop refuses calls from other threads unless they are declared thread-safe.
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = HANG_LIMIT
    gate = Gate()
    with caplog.at_level(logging.WARNING), Executor(2) as pool, gate:
        loop.set_default_executor(pool)
        assert await asyncio.gather(*[asyncio.to_thread(identity, i) for i in range(100)]) == list(range(100))
        for i in range(10):
            assert await loop.run_in_executor(pool, identity, i) == i
        with pytest.raises(ValueError, match="no"):
            await loop.run_in_executor(pool, fail, ValueError("no"))
        block_workers(pool, gate, workers=2)
        cancelled = loop.run_in_executor(pool, identity, 1)
        cancelled.cancel()
        gate.open()
        await asyncio.wait([cancelled])
    assert caplog.records == []


@against_the_standard
def test_an_exception_that_nobody_retrieves_is_reported_once(new_loop, Executor):
    error = ValueError("nobody asks")

    async def main():
        future = asyncio.get_running_loop().run_in_executor(pool, fail, error)
        await asyncio.wait([future])

    loop = new_loop()
    with watched(loop) as complaints, Executor(1) as pool:
        loop.run_until_complete(main())
        # The worker may hold the future for a moment after it has told the loop.
        wait_until(lambda: gc.collect() + 1 and complaints, "the complaint")
        (complaint,) = complaints
        assert complaint["message"] == "Future exception was never retrieved"
        assert complaint["exception"] is error
        complaints.clear()


@against_the_standard
def test_a_callback_that_raises_harms_nobody_else(new_loop, Executor):
    error = ValueError("in a callback")

    async def main():
        loop = asyncio.get_running_loop()
        gate = Gate()
        with gate:
            block_workers(pool, gate)
            pending = [loop.run_in_executor(pool, identity, i) for i in range(10)]
            pending[3].add_done_callback(lambda future: fail(error))
            gate.open()
            assert await asyncio.gather(*pending) == list(range(10))

    loop = new_loop()
    with watched(loop) as complaints, Executor(1) as pool:
        loop.run_until_complete(main())
        (complaint,) = complaints
        assert complaint["exception"] is error
        complaints.clear()


# --- References -------------------------------------------------------------------------------------------------------


class Referenced:
    pass


@against_the_standard
@on_loop
async def test_arguments_and_results_are_let_go(new_loop, Executor):
    loop = asyncio.get_running_loop()
    with Executor(1) as pool:
        argument = Referenced()
        argument_gone, result_gone = threading.Event(), threading.Event()
        weakref.finalize(argument, argument_gone.set)
        pending = loop.run_in_executor(pool, lambda x: Referenced(), argument)
        del argument
        result = await pending
        del pending
        weakref.finalize(result, result_gone.set)
        del result
        # No collection: the last reference goes as the thread, or the loop's turn, ends.
        await loop.run_in_executor(pool, identity, None)
        await asyncio.sleep(0)
        assert argument_gone.wait(HANG_LIMIT)
        assert result_gone.wait(HANG_LIMIT)


@against_the_standard
def test_an_executor_does_not_keep_loops_alive(new_loop, Executor):
    async def main():
        loop = asyncio.get_running_loop()
        assert await asyncio.gather(*[loop.run_in_executor(pool, identity, i) for i in range(10)]) == list(range(10))

    with Executor(2) as pool:
        loops = []
        for _ in range(20):
            loop = new_loop()
            with watched(loop):
                loop.run_until_complete(main())
            loops.append(weakref.ref(loop))
            del loop
        # A worker may hold a loop for a moment after it has told it.
        wait_until(lambda: gc.collect() + 1 and not any(loop() for loop in loops), "all loops to be freed")


# --- One wakeup per burst ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def counted_wakeups(loop):
    """Yields a list that grows with every call_soon_threadsafe() of the loop."""
    calls = []
    call_soon_threadsafe = loop.call_soon_threadsafe

    def counting(callback, *args, **kwargs):
        calls.append(callback)
        return call_soon_threadsafe(callback, *args, **kwargs)

    loop.call_soon_threadsafe = counting
    try:
        yield calls
    finally:
        del loop.call_soon_threadsafe


@pytest.mark.parametrize("way", ["run_in_executor", "wrap_future"])
@on_loop
async def test_a_burst_wakes_the_loop_once(new_loop, way):
    loop = asyncio.get_running_loop()
    gate = Gate()
    with counted_wakeups(loop) as calls, pyconc.ThreadPoolExecutor(1) as pool, gate:
        block_workers(pool, gate)
        if way == "run_in_executor":
            pending = [loop.run_in_executor(pool, identity, i) for i in range(1000)]
        else:
            pending = [asyncio.wrap_future(pool.submit(identity, i)) for i in range(1000)]
        last = pool.submit(identity, None)
        assert calls == []
        began = time.monotonic()
        gate.open()
        last.result()  # all tasks have ended before the loop gets a chance to turn
        # Deliveries ride along with a drain for 50 ms; then the loop is told again.
        assert 1 <= len(calls) <= 1 + (time.monotonic() - began) / 0.05
        assert await asyncio.gather(*pending) == list(range(1000))
        assert len(calls) < 100  # a drain that takes long, as on a busy machine, lets the loop turn


@on_loop
async def test_a_burst_beside_a_running_loop_wakes_it_a_few_times(new_loop):
    tasks = 5000
    loop = asyncio.get_running_loop()
    with counted_wakeups(loop) as calls, pyconc.ThreadPoolExecutor(2) as pool:
        for _ in range(3):
            gate = Gate()
            with gate:
                block_workers(pool, gate, workers=2)
                pending = [loop.run_in_executor(pool, identity, i) for i in range(tasks)]
                gate.open()
                assert await asyncio.gather(*pending) == list(range(tasks))
        assert len(calls) < 3 * tasks / 10


@on_loop
async def test_a_cancelled_burst_does_not_wake_the_loop_per_task(new_loop):
    loop = asyncio.get_running_loop()
    gate = Gate()
    with counted_wakeups(loop) as calls, pyconc.ThreadPoolExecutor(1) as pool, gate:
        block_workers(pool, gate)
        pending = [loop.run_in_executor(pool, identity, i) for i in range(1000)]
        for future in pending:
            future.cancel()
        await asyncio.sleep(0)
        began = time.monotonic()
        gate.open()
        assert await loop.run_in_executor(pool, identity, 1) == 1
        assert len(calls) <= 2 + (time.monotonic() - began) / 0.05


@on_loop
async def test_a_lone_task_wakes_the_loop_at_most_once(new_loop):
    loop = asyncio.get_running_loop()
    with counted_wakeups(loop) as calls, pyconc.ThreadPoolExecutor(1) as pool:
        for i in range(100):
            assert await loop.run_in_executor(pool, identity, i) == i
        assert len(calls) <= 100
