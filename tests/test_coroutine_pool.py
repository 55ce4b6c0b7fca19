"""CoroutinePool: coroutines in worker processes, many at a time in each."""

import asyncio
import os
import random
import signal
import threading
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool

import coroutines
import jobs
import pytest
from gates import AsyncGate, ProcessGate
from loops import on_every_loop, watched
from support import HANG_LIMIT, another_thread, chessboard, more_rounds, run_script, wait_until

from pyconc import CoroutinePool, TaskUnpicklable, WorkerDied


def run_on(new_loop, coroutine):
    loop = new_loop()
    with watched(loop):
        loop.run_until_complete(coroutine)


def test_it_is_an_executor():
    with CoroutinePool(1) as pool:
        assert isinstance(pool, futures.Executor)
        future = pool.submit(coroutines.double, 21)
        assert isinstance(future, futures.Future)
        assert future.result(HANG_LIMIT) == 42


@on_every_loop
def test_run_returns_what_the_coroutine_does(new_loop):
    async def main():
        async with CoroutinePool(2) as pool:
            assert await pool.run(coroutines.double, 4) == 8
            assert await pool.run(coroutines.identity, 1, 2) == (1, 2)
            assert await asyncio.gather(*[pool.run(coroutines.after_a_turn, n) for n in range(500)]) == [*range(500)]

    run_on(new_loop, main())


def test_run_works_on_a_loop_that_takes_no_attributes():
    class SealedLoop(asyncio.SelectorEventLoop):
        def __setattr__(self, name, value):
            if "pyconc" in name:
                raise AttributeError(name)
            super().__setattr__(name, value)

    async def main():
        async with CoroutinePool(1) as pool:
            assert await pool.run(coroutines.identity, 1) == 1
            with pytest.raises(ValueError, match="told to"):
                await pool.run(coroutines.fail, ValueError("told to"))

    run_on(SealedLoop, main())


@on_every_loop
def test_workers_run_the_loop_that_the_factory_makes(new_loop):
    uvloop = pytest.importorskip("uvloop")

    async def main():
        async with CoroutinePool(1, loop_factory=uvloop.new_event_loop) as pool:
            assert (await pool.run(coroutines.loop_module)).startswith("uvloop")
            assert await asyncio.gather(*[pool.run(coroutines.after_a_turn, n) for n in range(50)]) == [*range(50)]

    run_on(new_loop, main())


def test_many_coroutines_wait_in_one_worker_at_a_time():
    async def main():
        async with CoroutinePool(1, concurrency=50) as pool, AsyncGate() as gate:
            waiting = [pool.run(coroutines.wait_at, gate.address, n) for n in range(50)]
            assert len({await gate.hear("started") for _ in range(50)}) == 1
            gate.open()
            assert await asyncio.gather(*waiting) == [*range(50)]

    asyncio.run(main())


def test_concurrency_is_a_limit():
    async def main():
        async with CoroutinePool(1, concurrency=2) as pool, AsyncGate() as gate:
            waiting = [pool.run(coroutines.wait_at, gate.address, n) for n in range(3)]
            for _ in range(2):
                await gate.hear("started")
            # Whatever came now would come after the third, which must not have come.
            assert gate.said.empty()
            assert pool._work_queue.qsize() == 1
            gate.open()
            await gate.hear("started")
            gate.open()
            assert await asyncio.gather(*waiting) == [0, 1, 2]

    asyncio.run(main())


def test_a_coroutine_that_computes_holds_up_no_other():
    async def main():
        async with CoroutinePool(2) as pool:
            with ProcessGate() as gate:
                address = gate.__reduce__()[1][0]
                busy = pool.run(coroutines.compute_at, address)
                (busy_pid,) = await asyncio.to_thread(gate.wait_started)
                for _ in range(50):
                    assert await pool.run(coroutines.pid) != busy_pid
                gate.open()
                await busy

    asyncio.run(main())


def test_exceptions_keep_their_type_and_their_traceback():
    async def main():
        async with CoroutinePool(1) as pool:
            with pytest.raises(ZeroDivisionError, match="twice") as caught:
                await pool.run(coroutines.fail, ZeroDivisionError("twice"))
            assert "in fail" in str(caught.value.__cause__)
            with pytest.raises(TypeError, match=r"no_coroutine.* returned int, which cannot be awaited"):
                await pool.run(coroutines.no_coroutine)
            # It ends neither the worker nor the program.
            future = pool.submit(coroutines.leave, 3)
            assert isinstance(await asyncio.to_thread(future.exception, HANG_LIMIT), SystemExit)
            assert await pool.run(coroutines.double, 1) == 2

    asyncio.run(main())


def test_what_cannot_be_pickled_fails_alone():
    async def main():
        async with CoroutinePool(1) as pool, AsyncGate() as gate:
            other = pool.run(coroutines.wait_at, gate.address, "fine")
            await gate.hear("started")
            with pytest.raises(TypeError, match="pickle"):
                await pool.run(coroutines.identity, threading.Lock())
            with pytest.raises(TypeError, match="pickle"):
                await pool.run(coroutines.lock)
            with pytest.raises(TaskUnpicklable):
                await pool.run(coroutines.identity, jobs.Rebuilt(jobs.raise_new, OSError))
            gate.open()
            assert await other == "fine"

    asyncio.run(main())


# ---- cancelling ----


@on_every_loop
def test_cancelling_the_awaiter_cancels_the_coroutine(new_loop):
    async def main():
        async with CoroutinePool(1) as pool, AsyncGate() as gate:
            waiter = asyncio.ensure_future(_await(pool.run(coroutines.wait_at, gate.address)))
            await asyncio.sleep(0)  # it waits: from Python 3.14 on, a thread that is quick is awaited without a turn
            await gate.hear("started")
            waiter.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiter
            await gate.hear("cancelled")
            assert await pool.run(coroutines.double, 2) == 4

    run_on(new_loop, main())


async def _await(future):
    return await future


def test_timeouts_reach_the_worker():
    async def main():
        async with CoroutinePool(1) as pool, AsyncGate() as gate:
            future = pool.run(coroutines.wait_at, gate.address)
            await gate.hear("started")
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(future, 0.01)
            await gate.hear("cancelled")

    asyncio.run(main())


def test_cancelling_a_future_cancels_the_coroutine():
    async def main():
        async with CoroutinePool(1) as pool, AsyncGate() as gate:
            future = pool.submit(coroutines.wait_at, gate.address)
            await gate.hear("started")
            called = []
            future.add_done_callback(called.append)
            assert future.running()
            assert future.cancel()
            assert future.cancelled()
            assert called == [future]
            await gate.hear("cancelled")
            done = await asyncio.to_thread(futures.wait, [future], HANG_LIMIT)
            assert done.done == {future}
            with pytest.raises(futures.CancelledError):
                future.result()

    asyncio.run(main())


def test_a_coroutine_that_refuses_to_be_cancelled_is_waited_for_at_the_end_only():
    async def main():
        async with CoroutinePool(1) as pool, AsyncGate() as gate:
            future = pool.submit(coroutines.wait_at_whatever_comes, gate.address)
            await gate.hear("started")
            assert future.cancel()
            await gate.hear("cancelled")
            assert await pool.run(coroutines.double, 2) == 4
        assert future.cancelled()

    asyncio.run(main())


def test_what_waits_is_cancelled_without_a_worker():
    async def main():
        async with CoroutinePool(1, concurrency=1) as pool, AsyncGate() as gate:
            first = pool.run(coroutines.wait_at, gate.address)
            await gate.hear("started")
            second = pool.submit(coroutines.wait_at, gate.address)
            assert second.cancel()
            gate.open()
            await first
        assert gate.said.empty()

    asyncio.run(main())


def test_leaving_the_block_by_an_exception_cancels_what_runs():
    async def main():
        async with AsyncGate() as gate:
            with pytest.raises(KeyError):
                async with CoroutinePool(1) as pool:
                    running = [pool.run(coroutines.wait_at, gate.address) for _ in range(3)]
                    for _ in running:
                        await gate.hear("started")
                    raise KeyError
            for _ in running:
                await gate.hear("cancelled")
            assert all(future.cancelled() or future.exception() is not None for future in running) or await _ended(
                running
            )

    asyncio.run(main())


async def _ended(running):
    results = await asyncio.wait_for(asyncio.gather(*running, return_exceptions=True), HANG_LIMIT)
    return all(isinstance(result, asyncio.CancelledError) for result in results)


def test_closing_waits_for_what_runs():
    async def main():
        async with AsyncGate() as gate:
            pool = CoroutinePool(2)
            running = [pool.submit(coroutines.wait_at, gate.address, n) for n in range(10)]
            for _ in running:
                await gate.hear("started")
            pool.shutdown(wait=False)
            with pytest.raises(RuntimeError, match="after shutdown"):
                pool.run(coroutines.pid)
            gate.open()
            await asyncio.to_thread(pool.shutdown)
            assert [future.result(0) for future in running] == [*range(10)]

    asyncio.run(main())


@pytest.mark.parametrize("cancels", [1000, pytest.param(10_000, marks=more_rounds)])
def test_a_storm_of_cancellations(cancels):
    """Cancelled at any moment, every coroutine ends, and nothing hangs; what was not cancelled has its result."""
    choose = random.Random(cancels)

    async def main():
        async with CoroutinePool(2, concurrency=20) as pool:
            for start in range(0, cancels, 500):
                numbers = range(start, start + 500)
                running = [pool.run(coroutines.storm, number) for number in numbers]
                for position, index in enumerate(choose.sample(range(500), 500)):
                    running[index].cancel()
                    if position % 10 == 0:
                        await pool.run(coroutines.double, 1)  # so that time goes by in the workers, too
                results = await asyncio.wait_for(asyncio.gather(*running, return_exceptions=True), HANG_LIMIT)
                for number, result in zip(numbers, results, strict=True):
                    assert result == number or isinstance(result, asyncio.CancelledError)
            wait_until(lambda: pool._tasks.outstanding() == 0)
            # Each that has begun has seen its cancellation, or ended before.
            tallies = {}
            while len(tallies) < 2:
                for pid, begun, ended in await asyncio.gather(*[pool.run(coroutines.tally) for _ in range(40)]):
                    tallies[pid] = begun, ended
            assert all(begun == ended for begun, ended in tallies.values()), tallies
            assert sum(begun for begun, _ in tallies.values()) > cancels / 10, tallies

    asyncio.run(main())


# ---- death ----


def test_a_dead_worker_fails_only_what_it_ran():
    async def main():
        async with CoroutinePool(2) as pool, AsyncGate() as gate:
            running = {}
            while len({pid for pid, _ in running.values()}) < 2 or len(running) < 6:
                number = len(running)
                future = pool.run(coroutines.wait_at, gate.address, number)
                running[number] = (await gate.hear("started"), future)
            victim = running[0][0]
            os.kill(victim, signal.SIGKILL)
            lost = [future for pid, future in running.values() if pid == victim]
            for future in lost:
                with pytest.raises(
                    WorkerDied, match=rf"{victim} was ended by SIGKILL while it ran coroutines\.wait_at"
                ):
                    await asyncio.wait_for(future, HANG_LIMIT)
            gate.open()
            for number, (pid, future) in running.items():
                if pid != victim:
                    assert await future == number
            assert await pool.run(coroutines.pid) != victim

    asyncio.run(main())


@pytest.mark.parametrize("how", ["exit", signal.SIGSEGV, signal.SIGTERM], ids=str)
def test_a_worker_that_ends_itself_costs_one_call(how):
    async def main():
        async with CoroutinePool(1) as pool:
            with pytest.raises(WorkerDied):
                await asyncio.wait_for(pool.run(coroutines.die, how), HANG_LIMIT)
            assert await pool.run(coroutines.double, 2) == 4

    asyncio.run(main())


def test_a_worker_that_dies_while_it_is_asked_to_cancel():
    async def main():
        async with CoroutinePool(1) as pool:
            with ProcessGate() as gate:
                future = pool.submit(coroutines.compute_at, gate.__reduce__()[1][0])
                (pid,) = await asyncio.to_thread(gate.wait_started)
                assert future.cancel()
                os.kill(pid, signal.SIGKILL)
                done = await asyncio.to_thread(futures.wait, [future], HANG_LIMIT)
                assert done.done == {future}
                assert future.cancelled()
                gate.open()
            assert await pool.run(coroutines.double, 2) == 4

    asyncio.run(main())


def test_workers_end_with_a_parent_that_is_killed():
    run_script(
        """
import asyncio, os, signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", '''
import asyncio, os, signal
from pyconc import CoroutinePool
import coroutines
async def main():
    pool = CoroutinePool(2)
    pool.run(coroutines.never_ends)
    pool.run(coroutines.never_ends)
    print(*{await pool.run(coroutines.pid) for _ in range(50)} | set(pool._processes), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
'''], stdout=subprocess.PIPE, text=True, cwd=sys.argv[1],
    env={**os.environ, "PYTHONPATH": os.pathsep.join([sys.argv[1], os.environ.get("PYTHONPATH", "")])})
pids = [int(word) for word in child.stdout.readline().split()]
assert child.wait() == -signal.SIGKILL and pids
def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
for pid in pids:
    while is_running(pid):
        os.sched_yield()
""",
        os.path.dirname(__file__),
    )


def test_one_ctrl_c_ends_a_program():
    finished = run_script(
        """
import asyncio, os, signal, sys
sys.path.insert(0, sys.argv[1])
import coroutines
from pyconc import CoroutinePool
async def main():
    async with CoroutinePool(2) as pool:
        asyncio.get_running_loop().call_later(0.1, os.kill, os.getpid(), signal.SIGINT)
        await asyncio.gather(*[pool.run(coroutines.never_ends) for _ in range(100)])
try:
    asyncio.run(main())
except KeyboardInterrupt:
    print("interrupted")
""",
        os.path.dirname(__file__),
    )
    assert finished.stdout == "interrupted\n"
    assert finished.stderr == ""


def test_the_loop_may_be_closed_while_coroutines_run():
    with CoroutinePool(2) as pool:

        async def main():
            for _ in range(100):
                pool.run(coroutines.after_a_turn, 1)

        for _ in range(20):
            loop = asyncio.new_event_loop()
            loop.run_until_complete(main())
            loop.close()
        assert pool.submit(coroutines.double, 2).result(HANG_LIMIT) == 4


def test_the_child_of_a_fork_has_a_pool_of_its_own():
    run_script(
        """
import os, sys, warnings
sys.path.insert(0, sys.argv[1])
import coroutines
from pyconc import CoroutinePool
from concurrent.futures.process import BrokenProcessPool
warnings.simplefilter("ignore", DeprecationWarning)
pool = CoroutinePool(1)
pending = pool.submit(coroutines.never_ends)
assert pool.submit(coroutines.double, 1).result() == 2
pid = os.fork()
if pid == 0:
    try:
        assert isinstance(pending.exception(0), BrokenProcessPool)
        assert pool.submit(coroutines.double, 4).result(60) == 8
        pool.shutdown()
        os._exit(0)
    finally:
        os._exit(1)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
pending.cancel()
pool.shutdown()
""",
        os.path.dirname(__file__),
    )


# ---- options ----


def test_workers_are_replaced_after_so_many_calls():
    async def main():
        async with CoroutinePool(1, max_tasks_per_child=5) as pool:
            pids = await asyncio.gather(*[pool.run(coroutines.pid) for _ in range(20)])
            assert sorted(pids.count(pid) for pid in set(pids)) == [5] * 4

    asyncio.run(main())


@pytest.mark.parametrize("method", ["fork", pytest.param("forkserver", marks=pytest.mark.slow), "spawn"])
def test_start_methods_are_honoured(method):
    run_script(
        """
import asyncio, multiprocessing, sys
sys.path.insert(0, sys.argv[1])
import coroutines
from pyconc import CoroutinePool
async def main():
    async with CoroutinePool(2, mp_context=multiprocessing.get_context(sys.argv[2])) as pool:
        print(await asyncio.gather(*[pool.run(coroutines.after_a_turn, n) for n in range(10)]))
if __name__ == "__main__":
    asyncio.run(main())
""",
        os.path.dirname(__file__),
        method,
    )


def test_the_initializer_finds_the_loop(recwarn):
    async def main():
        async with CoroutinePool(1, initializer=coroutines.remember_loop) as pool:
            assert await pool.run(coroutines.is_remembered_loop)

    asyncio.run(main())


@pytest.mark.parametrize(
    "option", [{"initializer": coroutines.fail_to_begin}, {"loop_factory": coroutines.no_loop}], ids=",".join
)
def test_a_worker_that_cannot_begin_breaks_the_pool(option, capfd):
    with another_thread(), CoroutinePool(1, **option) as pool:  # a forked worker has the log handlers of pytest
        with pytest.raises(BrokenProcessPool):
            pool.submit(coroutines.pid).result(HANG_LIMIT)
    assert "OSError: no" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_workers": 0}, ValueError),
        ({"max_workers": 1.5}, TypeError),
        ({"concurrency": 0}, ValueError),
        ({"max_tasks_per_child": -1}, ValueError),
        ({"initializer": 3}, TypeError),
        ({"initializer": coroutines.pid}, TypeError),
        ({"loop_factory": coroutines.pid}, TypeError),
        ({"on_worker_death": "ignore"}, ValueError),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else ",".join(value),
)
def test_bad_arguments_are_refused(options, error):
    with pytest.raises(error):
        CoroutinePool(**options)


def test_run_needs_a_loop():
    with CoroutinePool(1) as pool, pytest.raises(RuntimeError, match="no running event loop"):
        pool.run(coroutines.pid)


# ---- map ----


async def collect(iterator):
    return [item async for item in iterator]


async def numbers(stop):
    for number in range(stop):
        yield number
        await asyncio.sleep(0)


@pytest.mark.parametrize("kind", [range, numbers])
@on_every_loop
def test_map(new_loop, kind):
    async def main():
        async with CoroutinePool(2) as pool:
            expected = [2 * number for number in range(200)]
            assert await collect(pool.map(coroutines.double, kind(200))) == expected
            assert await collect(pool.map(coroutines.double, kind(200), buffersize=3)) == expected
            unordered = await collect(pool.map(coroutines.double, kind(200), ordered=False, buffersize=7))
            assert sorted(unordered) == expected
            assert await collect(pool.map(coroutines.identity, kind(3), "abcd")) == [(0, "a"), (1, "b"), (2, "c")]
            assert await collect(pool.map(coroutines.double, kind(0))) == []

    run_on(new_loop, main())


@chessboard("is_async, ordered", [True, False], [True, False])
def test_map_reads_no_further_than_its_buffer(is_async, ordered):
    read = []

    def source():
        for number in range(100):
            read.append(number)
            yield number

    async def async_source():
        for number in source():
            yield number

    async def main():
        async with CoroutinePool(2) as pool:
            results = pool.map(
                coroutines.double, async_source() if is_async else source(), ordered=ordered, buffersize=4
            )
            taken = 0
            async for _ in results:
                taken += 1
                assert len(read) <= taken + 4
            assert taken == 100

    asyncio.run(main())


@pytest.mark.parametrize("is_async", [True, False])
def test_map_hands_out_results_as_they_are_completed(is_async):
    async def main():
        async with CoroutinePool(1) as pool, AsyncGate() as gate:
            items = ["wait", "go"]

            async def source():
                for item in items:
                    yield item

            results = pool.map(coroutines.wait_if, source() if is_async else items, [gate.address] * 2, ordered=False)
            assert await results.__anext__() == "go"
            await gate.hear("started")
            gate.open()
            assert await results.__anext__() == "wait"
            with pytest.raises(StopAsyncIteration):
                await results.__anext__()

    asyncio.run(main())


@chessboard("is_async, ordered", [True, False], [True, False])
def test_leaving_a_map_cancels_what_it_has_running(is_async, ordered):
    async def main():
        async with CoroutinePool(1) as pool, AsyncGate() as gate:

            async def source():
                for _ in range(5):
                    yield gate.address

            results = pool.map(coroutines.wait_at, source() if is_async else [gate.address] * 5, ordered=ordered)
            first = asyncio.ensure_future(results.__anext__())
            for _ in range(5):
                await gate.hear("started")
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            for _ in range(5):
                await gate.hear("cancelled")

    asyncio.run(main())


@chessboard("is_async, ordered", [True, False], [True, False])
def test_an_exception_ends_a_map(is_async, ordered):
    async def source():
        for number in range(3):
            yield number
        raise KeyError("source")

    async def main():
        async with CoroutinePool(1) as pool:
            calls = numbers(5) if is_async else range(5)
            with pytest.raises(ZeroDivisionError):
                await collect(pool.map(coroutines.divide_by, calls, ordered=ordered))
            with pytest.raises(KeyError, match="source"):
                await collect(pool.map(coroutines.double, source(), ordered=ordered))
            with pytest.raises(TypeError, match="at least one iterable"):
                pool.map(coroutines.double)
            with pytest.raises(ValueError, match="buffersize"):
                pool.map(coroutines.double, [], buffersize=0)

    asyncio.run(main())


# ---- streams ----


@on_every_loop
def test_a_stream_has_the_items_of_the_generator(new_loop):
    async def main():
        async with CoroutinePool(2) as pool:
            assert await collect(pool.stream(coroutines.count_to, 1000)) == [*range(1000)]
            assert await collect(pool.stream(coroutines.count_to, 10, buffersize=1)) == [*range(10)]
            assert await collect(pool.stream(coroutines.count_to, 0)) == []
            both = await asyncio.gather(*[collect(pool.stream(coroutines.count_to, 100)) for _ in range(20)])
            assert both == [[*range(100)]] * 20

    run_on(new_loop, main())


def test_a_generator_is_no_further_ahead_than_its_buffer():
    async def main():
        async with CoroutinePool(1) as pool:
            stream = pool.stream(coroutines.count_items, 1000, buffersize=5)
            for number in range(20):
                assert await stream.__anext__() == number
                # What was yielded: at most what was taken, a batch on its way, and a buffer.
                assert await pool.run(coroutines.how_many_items) <= number + 1 + 2 * 5
            await stream.aclose()

    asyncio.run(main())


def test_breaking_out_of_a_stream_closes_the_generator():
    async def main():
        async with CoroutinePool(1) as pool, AsyncGate() as gate:
            async for number in pool.stream(coroutines.count_to, 10**9, gate.address):
                if number == 100:
                    break
            await gate.hear("closed")
            stream = pool.stream(coroutines.count_to, 10**9, gate.address)
            assert await stream.__anext__() == 0
            await stream.aclose()
            await gate.hear("closed")
            with pytest.raises(StopAsyncIteration):
                await stream.__anext__()
            stream = pool.stream(coroutines.count_to, 10**9, gate.address)
            await stream.aclose()  # it may be that the generator never began, and then there is nothing to clean up

    asyncio.run(main())


def test_what_a_generator_raises_comes_after_its_items():
    async def main():
        async with CoroutinePool(1) as pool:
            got = []
            with pytest.raises(KeyError, match="enough"):
                async for number in pool.stream(coroutines.count_and_fail, 5, KeyError("enough")):
                    got.append(number)
            assert got == [0, 1, 2, 3, 4]
            with pytest.raises(TypeError, match="returned coroutine, which is no async iterator"):
                await collect(pool.stream(coroutines.pid))
            with pytest.raises(TypeError, match="pickle"):
                await collect(pool.stream(coroutines.yield_locks))
            with pytest.raises(ValueError, match="buffersize"):
                pool.stream(coroutines.count_to, 3, buffersize=0)
            assert await pool.run(coroutines.double, 2) == 4

    asyncio.run(main())


def test_a_stream_ends_with_its_worker():
    async def main():
        async with CoroutinePool(1) as pool:
            stream = pool.stream(coroutines.count_to, 10**9)
            assert await stream.__anext__() == 0
            os.kill(await pool.run(coroutines.pid), signal.SIGKILL)
            with pytest.raises(WorkerDied):
                async for _ in stream:
                    pass
            assert await collect(pool.stream(coroutines.count_to, 3)) == [0, 1, 2]

    asyncio.run(main())


def test_a_closed_pool_finishes_its_streams():
    async def main():
        pool = CoroutinePool(1)
        stream = pool.stream(coroutines.count_to, 1000)
        assert await stream.__anext__() == 0
        pool.shutdown(wait=False)
        assert len(await collect(stream)) == 999
        await asyncio.to_thread(pool.shutdown)

    asyncio.run(main())


@pytest.mark.parametrize("state", ["unopened", "open", "dropped"])
def test_a_stream_that_nobody_finishes_does_not_keep_the_program(state):
    run_script(
        """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
import coroutines
from pyconc import CoroutinePool
pool = CoroutinePool(1)
async def main():
    global stream
    stream = pool.stream(coroutines.count_to, 10**9)
    if sys.argv[2] == "open":
        await stream.__anext__()
    elif sys.argv[2] == "dropped":
        del stream
asyncio.run(main())
""",
        os.path.dirname(__file__),
        state,
    )


def test_cancelling_who_waits_for_an_item_leaves_the_stream():
    async def main():
        async with CoroutinePool(1) as pool, AsyncGate() as gate:
            stream = pool.stream(coroutines.wait_then_count, gate.address)
            waiter = asyncio.ensure_future(stream.__anext__())
            await gate.hear("started")
            waiter.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiter
            gate.open()
            assert await collect(stream) == [0, 1, 2]

    asyncio.run(main())


def test_a_timeout_loses_no_item():
    async def main():
        async with CoroutinePool(1) as pool:
            stream = pool.stream(coroutines.count_slowly, 100)
            got, timeouts = [], 0
            while True:
                try:
                    got.append(await asyncio.wait_for(stream.__anext__(), 0.003))
                except asyncio.TimeoutError:
                    timeouts += 1
                except StopAsyncIteration:
                    break
            assert got == [*range(100)]
            assert timeouts > 0

    asyncio.run(main())


@pytest.mark.parametrize("state", ["unopened", "open"])
@on_every_loop
def test_a_stream_that_is_not_finished_ends_with_the_pool(new_loop, state):
    async def main():
        async with AsyncGate() as gate:
            async with CoroutinePool(1) as pool:
                stream = pool.stream(coroutines.count_to, 10**9, gate.address)
                if state == "open":
                    assert await stream.__anext__() == 0
            if state == "open":
                await gate.hear("closed")
            with pytest.raises(RuntimeError, match="the pool was shut down"):
                await collect(stream)

    run_on(new_loop, main())


def test_who_waits_for_an_item_hears_of_the_end():
    async def main():
        async with AsyncGate() as gate:
            async with CoroutinePool(1) as pool:
                stream = pool.stream(coroutines.wait_then_count, gate.address)
                waiter = asyncio.ensure_future(stream.__anext__())
                await gate.hear("started")
            with pytest.raises(RuntimeError, match="the pool was shut down"):
                await waiter
            with pytest.raises(RuntimeError, match="the pool's calls were cancelled"):
                async with CoroutinePool(1) as pool:
                    stream = pool.stream(coroutines.count_to, 10**9)
                    await stream.__anext__()
                    pool.cancel_all()
                    await collect(stream)

    asyncio.run(main())


def test_a_worker_that_has_run_enough_does_not_wait_for_a_stream_without_a_consumer():
    async def main():
        async with CoroutinePool(1, max_tasks_per_child=1) as pool:
            stream = pool.stream(coroutines.count_to, 10**9)
            assert await stream.__anext__() == 0

    asyncio.run(main())


def test_a_stream_is_the_parents_when_a_child_of_a_fork_drops_it():
    run_script(
        """
import asyncio, os, sys, warnings
sys.path.insert(0, sys.argv[1])
import coroutines
from pyconc import CoroutinePool
warnings.simplefilter("ignore", DeprecationWarning)
async def main():
    async with CoroutinePool(1) as pool:
        stream = pool.stream(coroutines.count_to, 1000)
        assert await stream.__anext__() == 0
        pid = os.fork()
        if pid == 0:
            try:
                del stream
            finally:
                os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert [number async for number in stream] == [*range(1, 1000)]
asyncio.run(main())
""",
        os.path.dirname(__file__),
    )


@pytest.mark.parametrize("what", ["closes", "forks"])
def test_what_is_for_one_worker_is_refused_if_pickling_it_ends_the_queue(what):
    finished = run_script(
        """
import asyncio, os, sys
sys.path.insert(0, sys.argv[1])
import coroutines, pyconc
child = None
class Ends:
    def __reduce__(self):
        global child
        if sys.argv[2] == "closes":
            queue.close(RuntimeError, "closed meanwhile")
        else:
            child = os.fork()
        return int, ()
async def main():
    global queue
    pool = pyconc.CoroutinePool(1)
    await pool.run(coroutines.pid)
    queue = pool._supervisor.queue
    said = "accepted"
    try:
        queue.submit_to_worker(0, 12345, None, print, Ends())
    except RuntimeError as error:
        said = str(error)
    if child:
        os.waitpid(child, 0)
    print(said, flush=True)
    if child == 0:
        os._exit(0)
    pool.shutdown()
asyncio.run(main())
""",
        os.path.dirname(__file__),
        what,
    )
    told = {"closes": ["closed meanwhile"], "forks": ["in the child of a fork, the worker is the parent's", "accepted"]}
    assert finished.stdout.splitlines() == told[what]
