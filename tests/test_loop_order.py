"""What a thread hands to the loop before it returns comes before its result, however many results come at once."""

import asyncio
import threading

import pytest
from gates import Gate, block_workers
from loops import on_every_loop, on_loop
from support import HANG_LIMIT

import pyconc

pytestmark = on_every_loop


def by_run_in_executor(loop, pool, function, *args):
    return loop.run_in_executor(pool, function, *args)


def by_wrap_future(loop, pool, function, *args):
    return asyncio.wrap_future(pool.submit(function, *args), loop=loop)


every_way = pytest.mark.parametrize("call", [by_run_in_executor, by_wrap_future])


def let_all_end(pool, gate):
    """Keeps the loop's thread until all that was submitted has ended: then the loop has everything to do at once."""
    ended = threading.Event()
    pool.submit(ended.set)
    gate.open()
    assert ended.wait(HANG_LIMIT)


@every_way
@on_loop
async def test_a_callback_that_a_thread_schedules_runs_before_its_awaiter_goes_on(new_loop, call):
    loop = asyncio.get_running_loop()
    started = []

    async def ask(number):
        # The callback starts something in its turn, as one that makes a task or feeds a queue does.
        await call(loop, pool, loop.call_soon_threadsafe, loop.call_soon, started.append, number)
        return number in started

    gate = Gate()
    with pyconc.ThreadPoolExecutor(1) as pool, gate:
        await call(loop, pool, int)  # whatever a loop learns when it first meets an executor, it knows
        block_workers(pool, gate)
        asked = [asyncio.ensure_future(ask(number)) for number in range(20)]
        await asyncio.sleep(0)  # they submit
        let_all_end(pool, gate)
        assert await asyncio.gather(*asked) == [True] * 20


@every_way
@on_loop
async def test_a_future_is_not_done_before_the_last_thing_that_its_thread_has_put(new_loop, call):
    loop = asyncio.get_running_loop()
    queue = asyncio.Queue()
    looks = []

    def look():
        looks.append((future.done(), queue.qsize()))

    def put():
        loop.call_soon_threadsafe(look)
        loop.call_soon_threadsafe(queue.put_nowait, "last")

    gate = Gate()
    with pyconc.ThreadPoolExecutor(1) as pool, gate:
        await call(loop, pool, int)
        block_workers(pool, gate)
        before = call(loop, pool, int)  # its completion is scheduled before anything that put() schedules
        future = call(loop, pool, put)
        let_all_end(pool, gate)
        await asyncio.gather(before, future)
    assert looks == [(False, 0)]
    assert queue.qsize() == 1


@every_way
@on_loop
async def test_the_order_holds_for_calls_one_after_the_other(new_loop, call):
    loop = asyncio.get_running_loop()
    started = []
    with pyconc.ThreadPoolExecutor(1) as pool:
        for number in range(500):
            await call(loop, pool, loop.call_soon_threadsafe, loop.call_soon, started.append, number)
            assert number in started


@on_loop
async def test_the_order_holds_between_threads_that_end_at_once(new_loop):
    loop = asyncio.get_running_loop()
    started = set()

    async def ask(number):
        await loop.run_in_executor(pool, loop.call_soon_threadsafe, loop.call_soon, started.add, number)
        return number in started

    with pyconc.ThreadPoolExecutor(4) as pool:
        for first in range(0, 1000, 20):
            asked = [ask(number) for number in range(first, first + 20)]
            assert await asyncio.gather(*asked) == [True] * 20
