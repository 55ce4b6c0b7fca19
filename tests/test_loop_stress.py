"""Loops that close while their work is under way, and cancellations that come from everywhere at once."""

import asyncio
import concurrent.futures
import random
import sys
import threading

import pytest
from gates import Gate, block_workers
from loops import on_every_loop, on_loop
from support import THOUSAND, more_rounds, run_script, wait_until

import pyconc

pytestmark = on_every_loop

CLOSING = """
    import asyncio, concurrent.futures, functools, gc, os, sys, threading, weakref

    import pyconc

    loop_kind, rounds, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    if loop_kind == "uvloop":
        import uvloop
        new_loop, run = uvloop.new_event_loop, uvloop.run
    else:
        new_loop, run = asyncio.new_event_loop, asyncio.run

    TASKS = 8
    loops = []

    def in_flight(go, go_when, i):
        go.wait()
        # What the loop gets to see must not be reported as an exception that nobody asked for.
        if i % 3 == 0 and go_when != "loop":
            raise ValueError(i)
        return i

    async def start(go, go_when):
        # Some tasks run and the others are queued when the loop closes; one of them has been cancelled.
        loop = asyncio.get_running_loop()
        loops.append(weakref.ref(loop))
        futures = [loop.run_in_executor(pool, in_flight, go, go_when, i) for i in range(TASKS)]
        futures += [asyncio.wrap_future(pool.submit(in_flight, go, go_when, i)) for i in range(TASKS)]
        futures[-1].cancel()
        if go_when == "loop":
            go.set()
            await asyncio.sleep(0)
        elif go_when == "task":
            # asyncio.run() cancels a task that awaits when main() returns.
            leftover = asyncio.ensure_future(await_all(futures))
            await asyncio.sleep(0)
            return leftover

    async def await_all(futures):
        await asyncio.gather(*futures, return_exceptions=True)

    def one_round(number):
        go = threading.Event()
        go_when = ["loop", "before", "after", "meanwhile", "task"][number % 5]
        if go_when == "task":
            run(start(go, go_when))
            go.set()
            return
        loop = new_loop()
        loop.run_until_complete(start(go, go_when))
        if go_when == "before":
            go.set()
        if go_when == "meanwhile":
            opener = threading.Thread(target=go.set)
            opener.start()
            loop.close()
            opener.join()
        else:
            loop.close()
            go.set()

    def some_rounds(numbers):
        for number in numbers:
            one_round(number)

    async def use():
        loop = asyncio.get_running_loop()
        assert await asyncio.gather(*[loop.run_in_executor(pool, abs, -i) for i in range(100)]) == list(range(100))

    def open_files():
        return len(os.listdir("/proc/self/fd"))

    def left():
        gc.collect()
        kinds = (asyncio.Future, concurrent.futures.Future)
        return [x for x in gc.get_objects() if isinstance(x, kinds) or type(x).__name__ == "LoopBridge"]

    # What a library opens once, and pyconc for all pools of threads.
    new_loop().close()
    with pyconc.ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()
    files = open_files()
    with pyconc.ThreadPoolExecutor(3) as pool:
        shares = [range(i, rounds, threads) for i in range(threads)]
        runners = [threading.Thread(target=some_rounds, args=(share,)) for share in shares]
        for runner in runners:
            runner.start()
        for runner in runners:
            runner.join()
        assert len(loops) == rounds
        assert len(pool._threads) <= 3
        assert pool.submit(abs, -1).result() == 1
        loop = new_loop()
        loop.run_until_complete(use())
        loop.close()
    del loop, runners
    assert left() == [], left()[:5]
    assert not any(loop() for loop in loops)
    assert threading.active_count() == 1, threading.enumerate()
    assert open_files() == files
"""


@pytest.mark.parametrize("loops", [300, pytest.param(1000, marks=more_rounds)])
@pytest.mark.parametrize("threads", [1, 4])
def test_loops_closed_with_work_in_flight(new_loop, threads, loops):
    kind = new_loop.__module__.split(".")[0]
    finished = run_script(CLOSING, kind, loops, threads, flags=("-W", "error"))
    assert finished.stdout == ""
    assert finished.stderr == ""


# --- Cancellation storms ----------------------------------------------------------------------------------------------


def identity(x):
    return x


def outcome(future):
    return "cancelled" if future.cancelled() else future.result()


@on_loop
async def test_a_storm_of_cancelled_futures(new_loop):
    dice = random.Random(1)
    loop = asyncio.get_running_loop()
    tasks = 200
    with pyconc.ThreadPoolExecutor(2) as pool:
        for _ in range(THOUSAND // 20):
            futures = [loop.run_in_executor(pool, identity, i) for i in range(tasks)]
            expected = list(range(tasks))
            victims = dice.sample(range(tasks), dice.randrange(tasks))
            for i in victims:
                if dice.random() < 0.1:
                    await asyncio.sleep(0)
                if futures[i].cancel():
                    expected[i] = "cancelled"
            await asyncio.wait(futures)
            assert [outcome(future) for future in futures] == expected
        wait_until(lambda: pool._work_queue.qsize() == 0, "the queue to be empty")


@on_loop
async def test_a_storm_from_other_threads(new_loop):
    loop = asyncio.get_running_loop()
    tasks = 200
    with pyconc.ThreadPoolExecutor(2) as pool, concurrent.futures.ThreadPoolExecutor(2) as others:
        for _ in range(THOUSAND // 40):
            futures = [loop.run_in_executor(pool, identity, i) for i in range(tasks)]
            storm = [others.submit(loop.call_soon_threadsafe, future.cancel) for future in futures[::2]]
            await asyncio.wait(futures)
            concurrent.futures.wait(storm)
            for i, future in enumerate(futures):
                assert outcome(future) in (["cancelled", i] if i % 2 == 0 else [i])
        assert await loop.run_in_executor(pool, identity, 1) == 1


@on_loop
async def test_a_storm_of_cancelled_awaiters(new_loop):
    loop = asyncio.get_running_loop()
    ran = []
    with pyconc.ThreadPoolExecutor(2) as pool:
        loop.set_default_executor(pool)
        for _ in range(50):
            gate = Gate()
            with gate:
                block_workers(pool, gate, workers=2)
                tasks = [asyncio.ensure_future(asyncio.to_thread(ran.append, i)) for i in range(100)]
                hasty = [asyncio.wait_for(asyncio.to_thread(ran.append, i), 0) for i in range(100)]
                late = [asyncio.ensure_future(coroutine) for coroutine in hasty]
                await asyncio.sleep(0)
                everything = asyncio.gather(*tasks)
                everything.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await everything
                await asyncio.wait(late)
                assert all(task.cancelled() for task in tasks)
                assert all(isinstance(task.exception(), asyncio.TimeoutError) for task in late)
                await asyncio.sleep(0)  # on uvloop, the executor hears of it by way of the loop
                gate.open()
                assert await asyncio.to_thread(identity, 1) == 1
            assert ran == []


@on_loop
async def test_shutdown_meets_cancellation(new_loop):
    loop = asyncio.get_running_loop()
    for round_ in range(100):
        pool = pyconc.ThreadPoolExecutor(2)
        futures = [loop.run_in_executor(pool, identity, i) for i in range(50)]
        ending = threading.Thread(target=pool.shutdown, kwargs={"cancel_futures": round_ % 2 == 0})
        ending.start()
        for future in futures[::3]:
            future.cancel()
        await asyncio.wait(futures)
        ending.join()
        for i, future in enumerate(futures):
            assert outcome(future) in ("cancelled", i)
            if round_ % 2 == 1 and i % 3 != 0:
                assert not future.cancelled()


@on_loop
async def test_submitters_in_threads_deliver_to_one_loop(new_loop):
    # Workers themselves call run_in_executor of a loop that they do not run on.
    loop = asyncio.get_running_loop()
    results = []
    done = loop.create_future()
    total = 2000

    def collect(future):
        results.append(future.result())
        if len(results) == total:
            done.set_result(None)

    def start(i):
        future = loop.run_in_executor(pool, identity, i)
        loop.call_soon_threadsafe(future.add_done_callback, collect)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with pyconc.ThreadPoolExecutor(4) as pool:
            await asyncio.gather(*[loop.run_in_executor(pool, start, i) for i in range(total)])
            await done
    finally:
        sys.setswitchinterval(interval)
    assert sorted(results) == list(range(total))
