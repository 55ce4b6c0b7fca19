"""A program empties its loop's queue, or sets it aside, with the completion of a result in it: later ones arrive."""

import asyncio
import threading
from collections import deque

import pytest
from gates import Gate, ProcessGate
from loops import watched
from support import HANG_LIMIT, wait_until

import pyconc

# Only asyncio's own loops have a queue that a program can reach.


@pytest.fixture
def loop():
    loop = asyncio.new_event_loop()
    with watched(loop):
        yield loop


def start(loop, pool, function, *args):
    """Submits a call on the loop, and stops the loop before its result arrives."""

    async def submit():
        return [loop.run_in_executor(pool, function, *args)]  # a list, lest it be awaited

    return loop.run_until_complete(submit())[0]


def lose_a_drain(loop, pool, gate):
    """Has a call end, and then its completion taken out of the loop's queue."""
    with gate:
        start(loop, pool, gate)
        gate.wait_started()
    wait_until(lambda: loop._ready, "the completion to be scheduled")
    loop._ready.clear()


def result_of(loop, future):
    async def wait():
        return await asyncio.wait_for(future, HANG_LIMIT)

    return loop.run_until_complete(wait())


kinds = pytest.mark.parametrize(
    ("kind", "gate_kind"), [(pyconc.ThreadPoolExecutor, Gate), (pyconc.ProcessPoolExecutor, ProcessGate)]
)


@kinds
def test_results_of_later_calls_arrive(loop, kind, gate_kind):
    with kind(1) as pool:
        for _ in range(3):
            lose_a_drain(loop, pool, gate_kind())
            assert result_of(loop, start(loop, pool, pow, 2, 3)) == 8
            assert result_of(loop, start(loop, pool, pow, 2, 3)) == 8


@kinds
@pytest.mark.parametrize("then", ["goes on", "ends"])
def test_the_result_of_a_worker_that_was_at_work_meanwhile_arrives(loop, kind, gate_kind, then):
    """It is posted right after the other, if the machine allows it, and its worker posts nothing else."""
    with kind(2) as pool, gate_kind() as gate:
        slow = start(loop, pool, gate)
        gate.wait_started()
        lose_a_drain(loop, pool, gate_kind())
        if then == "ends":
            pool.shutdown(wait=False)
        gate.open()
        result_of(loop, slow)


def test_the_result_that_a_thread_of_the_program_sets_arrives(loop):
    first, second = pyconc.Future(), pyconc.Future()

    async def wrap():
        return [asyncio.wrap_future(future) for future in (first, second)]

    def set_results():
        first.set_result(1)
        posted.set()
        assert emptied.wait(HANG_LIMIT)
        second.set_result(2)

    posted, emptied = threading.Event(), threading.Event()
    wrapped = loop.run_until_complete(wrap())
    thread = threading.Thread(target=set_results)
    thread.start()
    assert posted.wait(HANG_LIMIT)
    loop._ready.clear()
    emptied.set()
    assert result_of(loop, wrapped[1]) == 2
    thread.join()


@kinds
def test_a_cancelled_call_arrives(loop, kind, gate_kind):
    with kind(1) as pool, gate_kind() as gate:
        lose_a_drain(loop, pool, gate_kind())
        start(loop, pool, gate)
        gate.wait_started()
        queued = start(loop, pool, int)
        pool.shutdown(wait=False, cancel_futures=True)
        with pytest.raises(asyncio.CancelledError):
            result_of(loop, queued)


@pytest.mark.parametrize("submits", ["before", "within"])
def test_a_nested_turn_with_the_queue_set_aside_gets_its_result(loop, submits):
    """As libraries do that let a callback wait for a coroutine."""
    gate = Gate()
    results = []

    def nest(future):
        aside, loop._ready = loop._ready, deque()
        assert aside  # with the completion in it
        future = future or loop.run_in_executor(pool, pow, 2, 3)
        gate.open()
        late = []
        timer = loop.call_later(HANG_LIMIT, late.append, True)
        while not future.done() and not late:
            loop._run_once()
        timer.cancel()
        loop._ready.extendleft(reversed(aside))
        results.append(future.done() and future.result())

    async def main():
        slow = loop.run_in_executor(pool, gate, 8) if submits == "before" else None
        if slow:
            gate.wait_started()
        quick = loop.run_in_executor(pool, int)
        wait_until(lambda: len(loop._ready) > 0, "the completion to be scheduled")
        loop._ready.appendleft(asyncio.Handle(nest, (slow,), loop))
        await asyncio.sleep(0)
        assert await asyncio.wait_for(quick, HANG_LIMIT) == 0

    with pyconc.ThreadPoolExecutor(2) as pool, gate:
        loop.run_until_complete(main())
    assert results == [8 if submits == "within" else (8,)]
