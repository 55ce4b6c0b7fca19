"""What asyncio promises of timeouts, wait_for() and task groups holds when what they cancel runs in worker processes.

`make upstream` has CPython's own tests of these do so; here the same is asked on every kind of loop.  A block is left
when the calls in it have ended, and their workers are the same afterwards: stoppable() looks.
"""

import asyncio
import os
import sys
import time

import pytest
from jobs import hold
from loops import on_every_loop, on_loop
from stopping import stoppable
from support import wait_until

needs_3_11 = pytest.mark.skipif(sys.version_info < (3, 11), reason="new in Python 3.11")

# Seconds: which time-out it is that expires is the test's to say, so the others are far away.
SOON, NEVER = 0.01, 3600


def begin(work):
    """Starts a call that waits at the gate, and returns its future when it does."""
    future = asyncio.get_running_loop().run_in_executor(work.view, hold, work.gate)
    work.gate.wait_started()
    return future


async def begun(coroutine):
    """Returns its task, which has begun: on a busy machine a time-out that is soon may come before."""
    task = asyncio.ensure_future(coroutine)
    await asyncio.sleep(0)
    return task


async def call(work, fn, *args):
    return await asyncio.get_running_loop().run_in_executor(work.view, fn, *args)


def errors_of(group):
    return sorted(type(error).__name__ for error in group.exceptions)


# --- timeout() --------------------------------------------------------------------------------------------------------


@needs_3_11
@on_every_loop
@on_loop
async def test_a_timeout_is_raised_when_the_call_has_ended(new_loop):
    with stoppable() as work:
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(SOON) as limit:
                await begin(work)
        assert work.gate.is_left()
        assert limit.expired()
        assert type(caught.value.__cause__) is asyncio.CancelledError
        assert await call(work, abs, -1) == 1


@needs_3_11
@on_every_loop
@on_loop
async def test_of_timeouts_that_expire_together_only_the_outermost_raises(new_loop):
    with stoppable() as work:
        at = asyncio.get_running_loop().time() + SOON
        with pytest.raises(TimeoutError):
            async with asyncio.timeout_at(at) as outer:
                with pytest.raises(asyncio.CancelledError):
                    async with asyncio.timeout_at(at) as inner:
                        future = begin(work)
                        # uvloop counts in milliseconds, from when it is asked: the loop is to find both over at once.
                        wait_until(lambda: time.monotonic() > at + 0.005, "both to be over")
                        await future
                assert work.gate.is_left()
                raise asyncio.CancelledError
        assert outer.expired()
        assert inner.expired()


@needs_3_11
@on_every_loop
@on_loop
async def test_after_an_inner_timeout_the_outer_block_goes_on(new_loop):
    with stoppable() as work:
        async with asyncio.timeout(NEVER) as outer:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(SOON):
                    await begin(work)
            assert await call(work, abs, -1) == 1
        assert not outer.expired()


@needs_3_11
@on_every_loop
@on_loop
async def test_an_outer_timeout_stops_what_an_inner_block_awaits(new_loop):
    with stoppable() as work:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SOON) as outer:
                async with asyncio.timeout(NEVER) as inner:
                    await begin(work)
        assert work.gate.is_left()
        assert outer.expired()
        assert not inner.expired()


@needs_3_11
@pytest.mark.parametrize("seconds", [0, -1])
@on_every_loop
@on_loop
async def test_a_timeout_that_has_expired_before_stops_the_first_call(new_loop, seconds):
    with stoppable() as work:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(seconds):
                await begin(work)
        assert work.gate.is_left()


@needs_3_11
@on_every_loop
@on_loop
async def test_a_cancellation_from_outside_is_no_timeout(new_loop):
    with stoppable() as work:
        with pytest.raises(asyncio.CancelledError):
            async with asyncio.timeout(NEVER) as limit:
                asyncio.current_task().cancel()
                await begin(work)
        assert work.gate.is_left()
        assert not limit.expired()


@needs_3_11
@on_every_loop
@on_loop
async def test_a_timeout_may_be_moved_while_the_call_runs(new_loop):
    loop = asyncio.get_running_loop()
    with stoppable() as work:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(NEVER) as limit:
                future = begin(work)
                limit.reschedule(loop.time() + SOON)
                await future
        assert work.gate.is_left()

        async def wait(limit):
            async with limit:
                await begin(work)

        limit = asyncio.timeout(NEVER)
        task = loop.create_task(wait(limit))
        await asyncio.sleep(0)
        limit.reschedule(None)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert work.gate.is_left()
        assert not limit.expired()


@needs_3_11
@on_every_loop
@on_loop
async def test_what_a_block_raises_while_it_is_left_is_raised(new_loop):
    with stoppable() as work:
        with pytest.raises(ZeroDivisionError) as caught:
            async with asyncio.timeout(SOON):
                try:
                    await begin(work)
                finally:
                    assert work.gate.is_left()
                    _ = 1 / 0
        assert isinstance(caught.value.__context__, (TimeoutError, asyncio.CancelledError))


@needs_3_11
@on_every_loop
@on_loop
async def test_a_block_may_make_calls_while_it_is_left(new_loop):
    with stoppable() as work:
        answers = []
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SOON):
                try:
                    await begin(work)
                finally:
                    answers.append(await call(work, abs, -1))
                    with pytest.raises(TimeoutError):
                        async with asyncio.timeout(SOON):
                            await begin(work)
        assert work.gate.is_left()
        assert answers == [1]


@needs_3_11
@on_every_loop
@on_loop
async def test_a_timeout_works_after_a_cancellation_that_was_swallowed(new_loop):
    with stoppable() as work:
        asyncio.current_task().cancel()
        with pytest.raises(asyncio.CancelledError):
            await begin(work)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await begin(work)
        asyncio.current_task().uncancel()
        assert work.gate.is_left()


# --- wait_for() -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [SOON, 0, -1])
@on_every_loop
@on_loop
async def test_wait_for_raises_when_the_call_has_ended(new_loop, seconds):
    with stoppable() as work:
        future = begin(work)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(future, seconds)
        assert work.gate.is_left()
        assert future.cancelled()
        assert await call(work, abs, -1) == 1


@on_every_loop
@on_loop
async def test_wait_for_no_time_returns_a_result_that_is_there(new_loop):
    with stoppable() as work:
        future = asyncio.get_running_loop().run_in_executor(work.view, abs, -1)
        await asyncio.wait([future])
        assert await asyncio.wait_for(future, 0) == 1


@on_every_loop
@on_loop
async def test_wait_for_no_time_begins_no_coroutine(new_loop):
    with stoppable() as work:
        begun = []

        async def run():
            begun.append(work)
            await begin(work)

        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(run(), 0)
        assert not begun


@pytest.mark.parametrize("seconds", [None, NEVER])
@on_every_loop
@on_loop
async def test_wait_for_is_cancelled_while_its_timeout_is_ahead(new_loop, seconds):
    loop = asyncio.get_running_loop()
    with stoppable() as work:
        future = begin(work)
        task = loop.create_task(asyncio.wait_for(future, seconds))
        loop.call_soon(task.cancel)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert work.gate.is_left()
        assert future.cancelled()


@on_every_loop
@on_loop
async def test_a_result_that_arrives_together_with_the_cancellation(new_loop):
    loop = asyncio.get_running_loop()
    with stoppable() as work:
        future = begin(work)
        task = loop.create_task(asyncio.wait_for(future, NEVER))
        await asyncio.sleep(0)
        work.gate.open()
        # The call has ended, and the loop has yet to be told.
        wait_until(lambda: not work.pool._tasks.outstanding(), "the call to end")
        assert not future.done()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() or task.result() == ()
        assert future.done()


@on_every_loop
@on_loop
async def test_a_coroutine_that_swallows_the_cancellation_has_its_result_returned(new_loop):
    with stoppable() as work:

        async def run():
            try:
                await begin(work)
            except asyncio.CancelledError:
                return await call(work, abs, -42)

        assert await asyncio.wait_for(await begun(run()), SOON) == 42
        assert work.gate.is_left()


@on_every_loop
@on_loop
async def test_what_a_coroutine_raises_while_it_is_cancelled_is_raised(new_loop):
    with stoppable() as work:

        async def run():
            try:
                await begin(work)
            finally:
                _ = 1 / 0

        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(await begun(run()), SOON)
        assert work.gate.is_left()


@pytest.mark.parametrize("seconds", [SOON, 0])
@on_every_loop
@on_loop
async def test_a_shielded_call_goes_on(new_loop, seconds):
    with stoppable() as work:
        future = begin(work)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(future), seconds)
        assert not future.done()
        assert not work.gate.is_left()
        work.gate.open()
        assert await future == ()


# --- Groups of tasks --------------------------------------------------------------------------------------------------


async def run_at_gate(work, ended):
    try:
        await call(work, hold, work.gate)
    except asyncio.CancelledError:
        ended.append("cancelled")
        raise


async def fail(work, count):
    """Fails when so many calls wait at the gate."""
    work.gate.wait_started(count)
    await asyncio.sleep(0)
    raise ZeroDivisionError


@needs_3_11
@on_every_loop
@on_loop
async def test_a_failing_task_stops_what_the_others_of_its_group_run(new_loop):
    with stoppable(3) as work:
        ended = []
        with pytest.raises(ExceptionGroup) as caught:  # noqa: F821  # new in Python 3.11
            async with asyncio.TaskGroup() as group:
                for _ in range(2):
                    group.create_task(run_at_gate(work, ended))
                group.create_task(fail(work, 3))
                await run_at_gate(work, ended)
        assert work.gate.is_left()
        assert errors_of(caught.value) == ["ZeroDivisionError"]
        assert ended == ["cancelled"] * 3


@needs_3_11
@pytest.mark.parametrize("body", ["waits", "has ended"])
@on_every_loop
@on_loop
async def test_cancelling_the_parent_stops_all_of_a_group(new_loop, body):
    loop = asyncio.get_running_loop()
    with stoppable(3) as work:
        ended = []

        async def parent():
            async with asyncio.TaskGroup() as group:
                for _ in range(2):
                    group.create_task(run_at_gate(work, ended))
                if body == "waits":
                    await run_at_gate(work, ended)

        task = loop.create_task(parent())
        calls = 3 if body == "waits" else 2
        await asyncio.sleep(0)  # the tasks are made
        await asyncio.sleep(0)  # and have begun
        work.gate.wait_started(calls)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert work.gate.is_left()
        assert ended == ["cancelled"] * calls


@needs_3_11
@on_every_loop
@on_loop
async def test_a_failing_outer_group_stops_an_inner_one(new_loop):
    with stoppable(3) as work:
        ended = []

        async def inner():
            async with asyncio.TaskGroup() as group:
                for _ in range(2):
                    group.create_task(run_at_gate(work, ended))

        with pytest.raises(ExceptionGroup) as caught:  # noqa: F821  # new in Python 3.11
            async with asyncio.TaskGroup() as outer:
                outer.create_task(inner())
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                outer.create_task(fail(work, 2))
        assert work.gate.is_left()
        assert errors_of(caught.value) == ["ZeroDivisionError"]
        assert ended == ["cancelled"] * 2


@needs_3_11
@on_every_loop
@on_loop
async def test_after_a_failing_inner_group_the_outer_one_goes_on(new_loop):
    with stoppable(2) as work:
        ended = []
        async with asyncio.TaskGroup() as outer:
            task = outer.create_task(call(work, hold, work.gate, "answer"))
            await asyncio.sleep(0)
            work.gate.wait_started()
            held, work.gate._held = work.gate._held, []
            with pytest.raises(ExceptionGroup):  # noqa: F821  # new in Python 3.11
                async with asyncio.TaskGroup() as inner:
                    inner.create_task(run_at_gate(work, ended))
                    inner.create_task(fail(work, 1))
            assert work.gate.is_left()
            assert ended == ["cancelled"]
            assert not task.done()
            work.gate._held += held
            work.gate.open()
        assert task.result() == "answer"


@needs_3_11
@on_every_loop
@on_loop
async def test_what_tasks_raise_while_they_are_cancelled_is_in_the_group(new_loop):
    with stoppable() as work:

        async def clean_up_badly():
            try:
                await run_at_gate(work, [])
            finally:
                raise LookupError

        with pytest.raises(ExceptionGroup) as caught:  # noqa: F821  # new in Python 3.11
            async with asyncio.TaskGroup() as group:
                group.create_task(clean_up_badly())
                group.create_task(fail(work, 1))
        assert work.gate.is_left()
        assert errors_of(caught.value) == ["LookupError", "ZeroDivisionError"]


@needs_3_11
@on_every_loop
@on_loop
async def test_a_timeout_around_a_group_stops_all_of_it(new_loop):
    with stoppable(3) as work:
        ended = []
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(NEVER) as limit:
                async with asyncio.TaskGroup() as group:
                    for _ in range(3):
                        group.create_task(run_at_gate(work, ended))
                    await asyncio.sleep(0)
                    work.gate.wait_started(3)
                    limit.reschedule(asyncio.get_running_loop().time())
        assert work.gate.is_left()
        assert ended == ["cancelled"] * 3


@on_every_loop
@on_loop
async def test_a_gather_that_is_cancelled_stops_all_of_it(new_loop):
    loop = asyncio.get_running_loop()
    with stoppable(3) as work:
        gathered = asyncio.gather(*[loop.run_in_executor(work.view, hold, work.gate) for _ in range(3)])
        work.gate.wait_started(3)
        gathered.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gathered
        # gather() is done with the first of them.
        wait_until(work.gate.is_left, "all calls to end")


@on_every_loop
@on_loop
async def test_of_calls_that_race_the_others_are_stopped(new_loop):
    loop = asyncio.get_running_loop()
    with stoppable(3) as work:
        slow = [loop.run_in_executor(work.view, hold, work.gate) for _ in range(2)]
        work.gate.wait_started(2)
        fast = loop.run_in_executor(work.view, os.getpid)
        done, pending = await asyncio.wait([fast, *slow], return_when=asyncio.FIRST_COMPLETED)
        assert done == {fast}
        for future in pending:
            future.cancel()
        await asyncio.wait(pending)
        assert work.gate.is_left()


@on_every_loop
def test_the_end_of_the_loops_main_task_stops_the_others(new_loop):
    loop = new_loop()
    with stoppable(2) as work:

        async def main():
            tasks = [loop.create_task(call(work, hold, work.gate)) for _ in range(2)]
            await asyncio.sleep(0)
            work.gate.wait_started(2)
            return tasks

        # A loop like uvloop's is known from its first call on.
        assert loop.run_until_complete(call(work, abs, -1)) == 1
        # As asyncio.run() ends.
        tasks = loop.run_until_complete(main())
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        assert work.gate.is_left()
        assert all(task.cancelled() for task in tasks)
        loop.close()
