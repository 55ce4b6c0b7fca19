"""CoroutinePool.options() and what coroutines know of their calls."""

import asyncio
import contextlib
import functools
import inspect
import math
import os
import pickle
import signal
import time

import coroutines
import pytest
from gates import AsyncGate, ProcessGate
from support import HANG_LIMIT, THOUSAND, run_script, wait_until

import pyconc
from pyconc import CoroutinePool, TaskTimeout, WorkerDied
from pyconc._process.supervisor import Supervisor

# Longer than any test takes.
FOREVER = 3600


@pytest.fixture
def patient(monkeypatch):
    """Workers have as long as they need to say where they are before they are killed: a busy machine takes longer."""
    monkeypatch.setattr(Supervisor._stacks_of, "__defaults__", (HANG_LIMIT,))


def with_pool(test=None, *, gated=False, **arguments):
    """Makes an async test an ordinary one, with a pool of one worker and, on demand, a gate."""
    if test is None:
        return functools.partial(with_pool, gated=gated, **arguments)

    async def main(fixtures):
        async with CoroutinePool(1, **arguments) as pool, contextlib.AsyncExitStack() as stack:
            gates = (await stack.enter_async_context(AsyncGate()),) if gated else ()
            try:
                await test(pool, *gates, **fixtures)
            except BaseException:
                pool.kill_workers()
                raise

    _, *others = inspect.signature(test).parameters.values()
    run = lambda **fixtures: asyncio.run(main(fixtures))  # noqa: E731
    run.__name__, run.__signature__ = test.__name__, inspect.Signature(others[gated:])
    return run


# ---- views ----


class OwnPool(CoroutinePool):
    def __init__(self, *args):
        super().__init__(*args)
        self.own = []


def test_a_view_is_a_pool_of_the_same_class_on_the_same_workers():
    async def main():
        async with OwnPool(1) as pool:
            view = pool.options(name="one")
            nested = view.options(on_cancel="abandon", grace=5).options(name="two")
            assert type(nested) is OwnPool
            assert nested.own is pool.own
            worker = await pool.run(coroutines.pid)
            assert await view.run(coroutines.pid) == worker == await asyncio.wrap_future(nested.submit(coroutines.pid))
            assert (await nested.run(coroutines.describe_task))[0] == "two"
            assert (await view.run(coroutines.describe_task))[0] == "one"
            assert (await pool.run(coroutines.describe_task))[0] == "describe_task"
            assert [pid async for pid in view.map(lambda _: coroutines.pid(), range(3))] == [worker] * 3
            assert [number async for number in view.stream(coroutines.count_to, 3)] == [0, 1, 2]
            del pool
            assert await nested.run(coroutines.double, 1) == 2

    asyncio.run(main())


def test_to_leave_a_view_shuts_the_pool_down():
    async def main():
        pool = CoroutinePool(1)
        async with pool.options(name="view") as view:
            assert await view.run(coroutines.double, 1) == 2
        with pytest.raises(RuntimeError, match="after shutdown"):
            await pool.run(coroutines.double, 1)
        with pytest.raises(RuntimeError, match="after shutdown"):
            await pool.options().run(coroutines.double, 1)

    asyncio.run(main())


@with_pool
async def test_a_view_made_first_is_as_good(pool):
    assert await pool.options(name="early").run(coroutines.double, 1) == 2
    assert await pool.run(coroutines.double, 2) == 4


@with_pool
async def test_options_are_checked(pool):
    with pytest.raises(ValueError, match="on_cancel must be 'abandon', 'interrupt' or 'kill', not 'wait'"):
        pool.options(on_cancel="wait")
    with pytest.raises(ValueError, match="grace must be a number of seconds, 0 or more"):
        pool.options(grace=-1)
    with pytest.raises(TypeError, match="name must be a str, not int"):
        pool.options(name=1)
    with pytest.raises(ValueError, match="timeout must be a number of seconds, 0 or more"):
        CoroutinePool(1, task_timeout=-1)
    with pytest.raises(ValueError, match="deadline must be a time"):
        pool.options(deadline=math.nan)


def test_the_child_of_a_fork_has_views_too():
    finished = run_script(
        """
        import os, pyconc

        async def name():
            return pyconc.current_task().name

        if __name__ == "__main__":
            pool = pyconc.CoroutinePool(1)
            view = pool.options(name="view")
            assert view.submit(name).result() == "view"
            child = os.fork()
            assert view.submit(name).result() == "view"
            assert pool.submit(name).result() == "name"
            pool.shutdown()
            if child == 0:
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        """
    )
    assert finished.returncode == 0, finished


# ---- names ----


@with_pool
async def test_a_coroutine_has_its_functions_name(pool):
    for function in coroutines.describe_task, coroutines.Awaitable:
        assert await pool.run(function) == (function.__qualname__, None, None, False)
        assert await pool.options(name="n" * 9999).run(function) == ("n" * 9999, None, None, False)
    assert (await pool.run(coroutines.describe_task_later))[0] == "describe_task_later"
    assert (await pool.run(functools.partial(coroutines.describe_task)))[0] == "describe_task"
    described = await asyncio.gather(
        *[pool.options(name=str(n)).run(coroutines.describe_task_later) for n in range(99)]
    )
    assert [name for name, *_ in described] == [str(n) for n in range(99)]


@with_pool
async def test_a_named_call_has_its_arguments(pool):
    named = pool.options(name="named")
    assert await named.run(coroutines.identity, 1, bytes(THOUSAND)) == (1, bytes(THOUSAND))
    assert [result async for result in named.map(coroutines.identity, [1, 2], [3, 4])] == [(1, 3), (2, 4)]


@with_pool
async def test_nobody_else_has_the_task(pool):
    assert pyconc.current_task() is None
    for view in pool, pool.options(name="find_other_tasks"):
        assert await view.run(coroutines.find_other_tasks) == ([None, None], b"None", "find_other_tasks")
        assert [task async for task in view.stream(coroutines.yield_task)] == [None]


@with_pool
async def test_the_name_is_in_a_workers_death(pool):
    with pytest.raises(WorkerDied, match="while it ran the report") as caught:
        await pool.options(name="the report").run(coroutines.die, signal.SIGKILL)
    assert caught.value.task_name == "the report"


@with_pool
async def test_a_task_that_is_over_says_what_was(pool):
    for name in "keep_task", "named":
        await (pool if name == "keep_task" else pool.options(name=name)).run(coroutines.keep_task)
        for _ in range(3):
            assert await pool.run(coroutines.ask_kept_task) == (name, False, "ask_kept_task")


@with_pool(gated=True)
async def test_a_task_that_was_cancelled_says_so_when_it_is_over(pool, gate):
    running = pool.run(coroutines.wait_and_keep_task, gate.address)
    await gate.hear("started")
    running.cancel()
    await gate.hear("cancelled")
    assert await pool.run(coroutines.ask_kept_task) == ("wait_and_keep_task", True, "ask_kept_task")


# ---- cancellation as the coroutine sees it ----


@pytest.mark.parametrize("name", [None, "named"])
@with_pool(gated=True)
async def test_a_coroutine_sees_its_cancellation_once(pool, gate, tmp_path, name):
    path = tmp_path / "log"
    running = pool.options(name=name).run(coroutines.see_cancellation, gate.address, path)
    await gate.hear("started")
    running.cancel()
    await gate.hear("cancelled")
    await asyncio.to_thread(pool.shutdown)
    assert path.read_text() == repr(([True, "raised again"], name or "see_cancellation"))


@pytest.mark.parametrize("how", ["raises", "returns"])
@with_pool
async def test_a_coroutine_that_computes_sees_it_when_it_asks(pool, tmp_path, how):
    path = tmp_path / "log"
    with ProcessGate() as gate:
        running = pool.run(coroutines.compute_until_cancelled, gate.__reduce__()[1][0], path, how)
        await asyncio.to_thread(gate.wait_started)
        running.cancel()
        gate.open()
        assert await pool.run(coroutines.double, 2) == 4
    await asyncio.to_thread(pool.shutdown)
    assert path.read_text() == "cleaned up"


@pytest.mark.parametrize("depth", [1, 3])
@with_pool(gated=True)
async def test_a_shield_keeps_it_off_until_its_end(pool, gate, tmp_path, depth):
    path = tmp_path / "log"
    running = pool.run(coroutines.wait_in_shields, gate.address, path, depth)
    await gate.hear("started")
    running.cancel()
    assert await pool.run(coroutines.double, 2) == 4
    gate.open()
    await asyncio.to_thread(pool.shutdown)
    assert path.read_text() == "kept off, raised at the end, cleaned up"


@with_pool(gated=True)
async def test_a_shield_that_is_never_left_is_that_tasks(pool, gate):
    await pool.run(coroutines.leave_shield_open, None)
    running = pool.run(coroutines.wait_at, gate.address)
    await gate.hear("started")
    running.cancel()
    await gate.hear("cancelled")


# ---- what becomes of a coroutine that is cancelled ----


@with_pool(gated=True)
async def test_an_abandoned_coroutine_goes_on(pool, gate, tmp_path):
    abandoning = pool.options(on_cancel="abandon")
    paths = [tmp_path / "run", tmp_path / "submitted"]
    running = abandoning.run(coroutines.end_late, gate.address, paths[0])
    submitted = abandoning.submit(coroutines.end_late, gate.address, paths[1])
    for _ in paths:
        await gate.hear("started")
    assert running.cancel()
    assert not submitted.cancel()
    pool.cancel_all()
    gate.open()
    await asyncio.wrap_future(submitted)
    await asyncio.to_thread(pool.shutdown)
    assert running.cancelled()
    assert [path.read_text() for path in paths] == ["ended", "ended"]
    assert gate.said.empty()


@with_pool(gated=True, concurrency=1)
async def test_what_waits_is_withdrawn_whatever_its_options(pool, gate):
    first = pool.run(coroutines.wait_at, gate.address)
    await gate.hear("started")
    waiting = [pool.options(on_cancel=how).submit(coroutines.wait_at, gate.address) for how in ("abandon", "kill")]
    for future in waiting:
        assert future.cancel()
    gate.open()
    await first
    assert gate.said.empty()


@with_pool(gated=True)
async def test_kill_ends_a_coroutine_that_refuses_to_end(pool, gate):
    worker = await pool.run(coroutines.pid)
    neighbour = pool.run(coroutines.wait_at, gate.address)
    named = pool.options(name="the neighbour").submit(coroutines.never_ends)
    await gate.hear("started")
    running = pool.options(on_cancel="kill", grace=0).submit(coroutines.refuse_for_ever)
    while not running.running():
        await asyncio.sleep(0)
    assert running.cancel()
    with pytest.raises(WorkerDied, match=r"SIGKILL while it ran .*wait_at; it was killed because another call"):
        await neighbour
    error = await asyncio.to_thread(named.exception)
    assert (error.task_name, error.pid) == ("the neighbour", worker)
    assert await pool.run(coroutines.pid) != worker


@pytest.mark.parametrize("shuts_down", [False, True])
@with_pool
async def test_kill_ends_a_coroutine_that_blocks_its_loop(pool, shuts_down):
    worker = await pool.run(coroutines.pid)
    with ProcessGate() as gate:
        running = pool.options(on_cancel="kill", grace=0).submit(coroutines.compute_at, gate.__reduce__()[1][0])
        await asyncio.to_thread(gate.wait_started)
        neighbour = pool.submit(coroutines.never_ends)
        if shuts_down:
            neighbour.cancel()
            pool.cancel_all()
            await asyncio.to_thread(pool.shutdown)
        else:
            running.cancel()
            assert await pool.run(coroutines.pid) != worker
            neighbour.cancel()
        assert running.cancelled()


@with_pool(gated=True)
async def test_the_neighbours_error_shows_what_blocked_the_loop(pool, gate, patient):
    neighbour = pool.run(coroutines.wait_at, gate.address)
    await gate.hear("started")
    with ProcessGate() as blocked:
        running = pool.options(on_cancel="kill", grace=0).submit(coroutines.compute_at, blocked.__reduce__()[1][0])
        await asyncio.to_thread(blocked.wait_started)
        running.cancel()
        with pytest.raises(WorkerDied) as caught:
            await neighbour
    assert "in busy_at" in caught.value.stack
    assert "in compute_at" in str(caught.value.__cause__)


@with_pool(gated=True)
async def test_a_coroutine_that_ends_within_its_grace_costs_no_worker(pool, gate, tmp_path):
    path = tmp_path / "log"
    worker = await pool.run(coroutines.pid)
    running = pool.options(on_cancel="kill", grace=FOREVER).run(coroutines.end_late, gate.address, path)
    await gate.hear("started")
    running.cancel()
    await gate.hear("cancelled")
    assert await pool.run(coroutines.pid) == worker
    await asyncio.to_thread(pool.shutdown)
    assert path.read_text() == "ended"


@with_pool(on_worker_death="break")
async def test_a_kill_does_not_break_the_pool(pool):
    worker = await pool.run(coroutines.pid)
    running = pool.options(on_cancel="kill", grace=0).submit(coroutines.refuse_for_ever)
    while not running.running():
        await asyncio.sleep(0)
    running.cancel()
    other = worker
    while other == worker:
        with contextlib.suppress(WorkerDied):  # the worker that is to be killed may have taken it
            other = await pool.run(coroutines.pid)


@pytest.mark.parametrize("on_cancel", ["interrupt", "kill"])
@with_pool(gated=True)
async def test_a_worker_may_die_while_it_is_told(pool, gate, on_cancel):
    running = pool.options(on_cancel=on_cancel, grace=FOREVER).submit(coroutines.refuse_for_ever)
    neighbour = pool.run(coroutines.wait_at, gate.address)
    worker = await gate.hear("started")
    while not running.running():
        await asyncio.sleep(0)
    running.cancel()
    os.kill(worker, signal.SIGKILL)
    with pytest.raises(WorkerDied, match=r"wait_at$"):
        await neighbour
    assert running.cancelled()
    assert await pool.run(coroutines.pid) != worker


@with_pool(concurrency=64)
async def test_cancellations_reach_nobody_else(pool):
    """Each coroutine that is not cancelled ends as if no other were, however slots are used again."""
    for turn in range(9):
        running = [pool.run(coroutines.storm, n) for n in range(100)]
        if turn % 2:
            await running[0]
        for future in running[turn % 3 :: 3]:
            future.cancel()
        for n, future in enumerate(running):
            if not future.cancelled():
                assert await future == n


# ---- time limits ----


async def timeout_of(call):
    with pytest.raises(TaskTimeout) as caught:
        await call
    return caught.value


@pytest.mark.parametrize("on_cancel", ["interrupt", "abandon", "kill"])
@with_pool
async def test_a_coroutine_is_interrupted_when_its_time_is_over(pool, on_cancel):
    view = pool.options(timeout=0.01, on_cancel=on_cancel, grace=FOREVER)
    for call in view.run(coroutines.never_ends), asyncio.wrap_future(view.submit(coroutines.never_ends)):
        error = await timeout_of(call)
        assert (error.timeout, error.deadline, error.stopped) == (0.01, None, "raised")
        assert error.ran_for >= 0.01
        assert str(error).startswith("never_ends has reached its timeout of 0.01 s: it ran for ")
        assert str(pickle.loads(pickle.dumps(error))) == str(error)
        assert "in never_ends" in error.stack
    assert await pool.run(coroutines.double, 2) == 4


@with_pool
async def test_a_coroutine_sees_why_it_is_interrupted(pool, tmp_path):
    for number in range(3):
        path = tmp_path / f"log{number}"
        error = None
        while error is None or error.ran_for is None:  # on a busy machine it may not have begun before its deadline
            limit = {"deadline": time.monotonic() + 0.3} if number else {"timeout": 0.3}
            view = pool.options(name=f"number {number}", **limit)
            error = await timeout_of(view.run(coroutines.see_time_limit, path, number == 2))
        assert (error.task_name, error.stopped) == (f"number {number}", "returned")
        assert path.read_text() == "within, the task has reached its time limit, 0.0"


@with_pool
async def test_a_coroutine_that_ends_in_time_has_its_result(pool):
    for view in pool.options(timeout=FOREVER), pool.options(deadline=time.monotonic() + FOREVER):
        assert await view.run(coroutines.after_a_turn, 1) == 1
        with pytest.raises(KeyError):
            await view.run(coroutines.fail, KeyError())
        name, deadline, remaining, is_cancelled = await view.run(coroutines.describe_task_later)
        assert name == "describe_task_later"
        assert time.monotonic() < deadline < time.monotonic() + FOREVER
        assert 0 < remaining <= FOREVER
        assert not is_cancelled
        assert (await view.options(timeout=math.inf, deadline=math.inf).run(coroutines.describe_task))[1] is None


def test_a_pool_may_limit_all_its_calls():
    async def main():
        async with CoroutinePool(1, task_timeout=0.01, grace=FOREVER) as pool:
            await timeout_of(pool.run(coroutines.never_ends))
            with pytest.raises(TaskTimeout):
                async for _ in pool.map(coroutines.wait_or_return, ["wait"]):
                    pass
            free = pool.options(timeout=math.inf)
            assert (await free.run(coroutines.describe_task))[1] is None
            assert [item async for item in free.stream(coroutines.count_to, 2)] == [0, 1]

    asyncio.run(main())


@with_pool
async def test_each_call_of_map_has_its_time(pool):
    results = pool.options(timeout=0.5, grace=FOREVER).map(
        coroutines.wait_or_return, ["result", "wait", "result"], ordered=False
    )
    seen = []
    with pytest.raises(TaskTimeout):
        async for result in results:
            seen.append(result)
    assert seen == ["result", "result"]


@with_pool
async def test_streams_have_no_time_limit(pool):
    for view in pool.options(timeout=1), pool.options(deadline=time.monotonic() + 1):
        with pytest.raises(ValueError, match="a stream has no time limit"):
            view.stream(coroutines.count_to, 1)


@with_pool(gated=True, concurrency=1)
async def test_the_queue_counts_for_a_deadline_only(pool, gate):
    blocking = pool.run(coroutines.wait_at, gate.address)
    await gate.hear("started")
    begin = time.monotonic()
    patient = pool.options(timeout=0.5).run(coroutines.double, 2)
    late = [pool.options(deadline=time.monotonic() + 0.01).run(coroutines.wait_at, gate.address) for _ in range(1000)]
    late.append(pool.options(deadline=time.monotonic() - 1).run(coroutines.wait_at, gate.address))
    for call in late:
        error = await timeout_of(call)
        assert (error.ran_for, error.stopped) == (None, None)
        assert str(error) == "wait_at has not begun before its deadline"
    await asyncio.to_thread(wait_until, lambda: time.monotonic() > begin + 0.5)
    gate.open()
    await blocking
    assert await patient == 4
    assert gate.said.empty()


@with_pool
async def test_a_deadline_passes_while_a_neighbour_keeps_the_loop_busy(pool):
    worker = await pool.run(coroutines.pid)
    for _ in range(20):  # it learns to take several at a time
        await pool.run(coroutines.double, 1)
    with ProcessGate() as gate:
        os.kill(worker, signal.SIGSTOP)
        blocking = pool.run(coroutines.compute_until_others_are_to_end, gate.__reduce__()[1][0])
        deadline = time.monotonic() + 0.1
        late = pool.options(deadline=deadline).run(coroutines.fail, KeyError())
        os.kill(worker, signal.SIGCONT)
        await asyncio.to_thread(gate.wait_started)
        await asyncio.to_thread(wait_until, lambda: time.monotonic() > deadline)
        gate.open()
        await blocking
        assert (await timeout_of(late)).stopped in (None, "raised")


@with_pool(gated=True)
async def test_a_shield_keeps_a_time_out_off(pool, gate, tmp_path):
    path, seconds = tmp_path / "log", 0.01
    started = asyncio.create_task(gate.hear("started"))
    while True:
        view = pool.options(timeout=seconds, grace=FOREVER)
        running = asyncio.ensure_future(view.run(coroutines.wait_in_shields, gate.address, path, 2))
        await asyncio.wait([started, running], return_when=asyncio.FIRST_COMPLETED)
        if started.done():
            break
        await timeout_of(running)  # on a busy machine, before it came to the shields: the next one has more
        seconds *= 4
    await started
    gate.open()
    assert (await timeout_of(running)).stopped == "returned"
    assert path.read_text() == "kept off, raised at the end, cleaned up"


@with_pool
async def test_a_coroutine_that_computes_sees_its_time_out_when_it_asks(pool):
    error = await timeout_of(pool.options(timeout=0.01, grace=FOREVER).run(coroutines.compute_while_in_time))
    assert error.stopped == "raised"


@pytest.mark.parametrize("function", [coroutines.refuse_for_ever, coroutines.block_for_ever])
@with_pool(gated=True)
async def test_kill_ends_a_coroutine_whose_time_is_over(pool, gate, function, patient):
    neighbour = pool.run(coroutines.wait_at, gate.address)
    worker = await gate.hear("started")
    error = await timeout_of(pool.options(timeout=0.1, on_cancel="kill", grace=0.01).run(function))
    assert error.stopped == "killed"
    assert str(error).endswith("its worker process was killed")
    with pytest.raises(WorkerDied, match="it was killed because another call that it ran was to end") as caught:
        await neighbour
    if function is coroutines.block_for_ever:
        assert "in block_for_ever" in error.stack
        assert "in block_for_ever" in caught.value.stack
    assert await pool.run(coroutines.pid) != worker


@with_pool(gated=True)
async def test_a_time_out_may_be_cancelled_while_it_ends(pool, gate):
    running = pool.options(timeout=0.01, grace=FOREVER).submit(coroutines.say_and_refuse, gate.address)
    await gate.hear("started")
    await gate.hear("cancelled")
    assert running.cancel()
    pool.kill_workers()
    await asyncio.to_thread(pool.shutdown)
    assert running.cancelled()


@with_pool(gated=True)
async def test_a_worker_may_die_while_a_time_out_ends(pool, gate):
    running = pool.options(timeout=0.01, grace=FOREVER).run(coroutines.say_and_refuse, gate.address)
    worker = await gate.hear("started")
    await gate.hear("cancelled")
    os.kill(worker, signal.SIGKILL)
    assert (await timeout_of(running)).stopped == "killed"
    assert await pool.run(coroutines.pid) != worker


@with_pool(concurrency=64)
async def test_time_outs_reach_nobody_else(pool):
    limited = pool.options(timeout=0.005, grace=FOREVER)
    for _ in range(4):
        others = [pool.run(coroutines.storm, n) for n in range(100)]
        late = [limited.run(coroutines.never_ends) for _ in range(20)]
        assert await asyncio.gather(*others) == [*range(100)]
        assert {type(error) for error in await asyncio.gather(*late, return_exceptions=True)} == {TaskTimeout}


@with_pool
async def test_the_error_of_a_time_out_shows_what_the_coroutine_awaited(pool):
    error = await timeout_of(pool.options(timeout=0.01, grace=FOREVER).run(coroutines.wait_or_return, "wait"))
    assert [line.split()[-1] for line in error.stack.splitlines()[1:3]] == ["never_ends", "wait_or_return"]
    assert "in wait_or_return" in str(error.__cause__)


@with_pool
async def test_a_result_that_comes_with_the_time_out_is_not_taken_for_a_stack(pool):
    for turn in range(80):
        view = pool.options(timeout=0.0005 * (turn % 4), grace=FOREVER)
        (outcome,) = await asyncio.gather(view.run(coroutines.say_after, turn), return_exceptions=True)
        if outcome != "a text":
            assert type(outcome) is TaskTimeout
            assert outcome.stack is None or outcome.stack.startswith("Coroutine (most recent await first):")
