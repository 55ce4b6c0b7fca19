"""pyconc.shared.Queue: a queue's behaviour, beside others who put and get, and in tasks."""

import asyncio
import gc
import os
import pickle
import queue
import signal
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import pytest
from loops import on_every_loop, on_loop
from support import (
    CHARACTERS,
    HANG_LIMIT,
    await_line,
    finish,
    run_script,
    start_script,
    wait_until,
    wait_until_asleep,
)

import pyconc
from pyconc import shared

try:
    from hypothesis import settings, strategies
    from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
except ImportError:
    settings = None

VALUES = [
    None,
    True,
    False,
    0,
    -1,
    2**61,
    10**40,
    1.5,
    "",
    "\xe9\u20ac",
    "x" * 100_000,
    b"\x80" * 300,
    (1, ("a", None)),
]


# ---- as queue.Queue has it ----


def test_values_come_back_the_same():
    q = shared.Queue()
    values = [*VALUES, [1, [2]], {"a": {1, 2}}, bytearray(b"ab"), int, ...]
    for value in values:
        q.put(value)
    taken = [q.get() for _ in values]
    assert repr(taken) == repr(values)
    assert list(map(type, taken)) == list(map(type, values))


def outcome(function, *args, **kwargs):
    try:
        return function(*args, **kwargs)
    except Exception as error:
        return type(error)


CALLS = [
    lambda q: q.put("a"),
    lambda q: q.put_nowait("b"),
    lambda q: q.put_nowait(item="c"),
    lambda q: q.put_nowait(),
    lambda q: q.put_nowait("c", "d"),
    lambda q: (q.qsize(), q.empty(), q.full(), q.maxsize),
    lambda q: q.put("c", block=False),
    lambda q: q.put("c", True, 0.001),
    lambda q: q.put("c", True, -1),
    lambda q: q.put(item="c", timeout=0),
    lambda q: q.put(),
    lambda q: q.put("c", bloc=False),
    lambda q: q.put("c", True, "soon"),
    lambda q: q.get(),
    lambda q: q.get_nowait(),
    lambda q: (q.qsize(), q.empty(), q.full()),
    lambda q: q.get(False),
    lambda q: q.get(timeout=0.001),
    lambda q: q.get(timeout=-1),
    lambda q: q.get(block=False, timeout=-1),
    lambda q: q.get(1, 2, 3),
    lambda q: [q.task_done(), q.task_done(), q.join()],
    lambda q: q.task_done(),
]


@pytest.mark.parametrize("maxsize", [2, 0, -1])
def test_methods_do_what_those_of_queue_do(maxsize):
    ours, standard = shared.Queue(maxsize), queue.Queue(maxsize)
    for call in CALLS[:3]:
        assert outcome(call, ours) == outcome(call, standard) or maxsize < 0  # of which ours is 0
    for call in CALLS[3:] if maxsize == 2 else ():
        assert outcome(call, ours) == outcome(call, standard)


def test_maxsize_is_a_number():
    for maxsize in (1.5, "1", None):
        with pytest.raises(TypeError):
            shared.Queue(maxsize)
    assert repr(shared.Queue()) == "<pyconc.shared.Queue of 0 items>"


@pytest.mark.parametrize("make", [lambda: lambda: 0, threading.Lock], ids=["lambda", "lock"])
def test_what_cannot_be_pickled_is_not_put(make):
    q = shared.Queue()
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        q.put(make())
    assert q.empty()


def refuse():
    raise ZeroDivisionError


class Bomb:
    def __reduce__(self):
        return refuse, ()


def test_what_cannot_be_unpickled_is_gone_and_harms_nothing_else():
    q = shared.Queue()
    q.put(Bomb())
    q.put("next")
    message = f"^an item of a shared Queue, which process {os.getpid()} wrote, cannot be unpickled: ZeroDivisionError"
    with pytest.raises(pickle.UnpicklingError, match=message):
        q.get()
    assert q.get() == "next"


def test_a_queue_that_is_shut_down_gives_what_it_has():
    q = shared.Queue()
    q.put(1)
    q.shutdown()
    for put in (q.put, q.put_nowait):
        with pytest.raises(shared.ShutDown):
            put(2)
    assert q.get() == 1
    for get in (q.get, q.get_nowait):
        with pytest.raises(shared.ShutDown):
            get()
    if hasattr(queue, "ShutDown"):
        assert shared.ShutDown is queue.ShutDown


def test_at_once_it_gives_nothing_and_all_is_done():
    q = shared.Queue()
    for i in range(5):
        q.put(i)
    q.get()
    q.shutdown(immediate=True)
    with pytest.raises(shared.ShutDown):
        q.get()
    q.task_done()
    q.join()


if settings is not None:

    class Machine(RuleBasedStateMachine):
        def __init__(self):
            super().__init__()
            self.ours, self.standard = shared.Queue(), deque()

        @rule(
            value=strategies.one_of(
                strategies.integers(),
                strategies.text(CHARACTERS, max_size=20),
                strategies.lists(strategies.none(), max_size=3),
                strategies.integers(0, 9000).map(bytes),
            ),
            times=strategies.integers(1, 9),
        )
        def put(self, value, times):
            for _ in range(times):
                self.ours.put(value)
                self.standard.append(value)

        @rule(times=strategies.integers(1, 15))
        def get(self, times):
            for _ in range(min(times, len(self.standard))):
                assert self.ours.get() == self.standard.popleft()

        @rule()
        def drain(self):
            assert [self.ours.get() for _ in range(len(self.standard))] == list(self.standard)
            self.standard.clear()
            assert outcome(self.ours.get_nowait) is queue.Empty

        @invariant()
        def is_as_long(self):
            assert self.ours.qsize() == len(self.standard)

    TestMachine = Machine.TestCase
    TestMachine.settings = settings(max_examples=20, stateful_step_count=30, deadline=None)


# ---- beside others ----


def put_many(q, name, count):
    for i in range(count):
        q.put((name, i))


def take_until_none(q):
    taken = []
    while (item := q.get()) is not None:
        taken.append(item)
        q.task_done()
    return taken


@pytest.mark.parametrize("maxsize", [0, 3])
def test_each_item_is_taken_once_and_in_order(maxsize):
    q = shared.Queue(maxsize)
    with pyconc.ProcessPoolExecutor(2) as pool, ThreadPoolExecutor(2) as threads:
        putting = [pool.submit(put_many, q, name, 1000) for name in "ab"]
        taking = [threads.submit(take_until_none, q) for _ in range(2)]
        for future in putting:
            future.result()
        q.join()
        q.put(None)
        q.put(None)
        taken = [future.result() for future in taking]
    assert sorted(taken[0] + taken[1]) == sorted((name, i) for name in "ab" for i in range(1000))
    for part in taken:
        for name in "ab":
            numbers = [i for of, i in part if of == name]
            assert numbers == sorted(numbers)


def echo(jobs, results):
    results.put(jobs.get())


def initialize(jobs):
    global initial
    initial = jobs


def take_initial():
    return initial.get()


def make_full():
    q = shared.Queue(2)
    q.put("from a worker")
    return q


def test_workers_have_it_from_the_start_and_later_and_give_it():
    jobs = shared.Queue()
    with pyconc.ProcessPoolExecutor(1, initializer=initialize, initargs=(jobs,)) as pool:
        first = pool.submit(take_initial)
        jobs.put("initial")
        assert first.result() == "initial"
        late, results = shared.Queue(), shared.Queue()
        echoed = pool.submit(echo, late, results)
        late.put("late")
        echoed.result()
        assert results.get() == "late"
        made = pool.submit(make_full).result()
        assert (made.get(), made.maxsize) == ("from a worker", 2)
    with pytest.raises(TypeError, match="travels"):
        pickle.dumps(made)


def test_who_sleeps_is_woken_by_items_space_the_end_and_the_last_that_is_done():
    empty, full, undone = shared.Queue(), shared.Queue(1), shared.Queue()
    full.put(0)
    undone.put(0)
    with pyconc.ThreadPoolExecutor(4) as threads:
        getting, putting = threads.submit(empty.get), threads.submit(full.put, 1)
        joining, ended = threads.submit(undone.join), threads.submit(outcome, full.put, 2)
        empty.put("item")
        assert getting.result() == "item"
        assert full.get() == 0
        wait_until(lambda: putting.done() or ended.done(), "one of two to have put")
        undone.get()
        undone.task_done()
        joining.result()
        full.shutdown()
        wait_until(lambda: putting.done() and ended.done(), "both to have come to an end")
    assert full.qsize() == 1


def test_memory_comes_with_items_and_goes_with_them():
    gc.collect()  # what other tests have left
    q = shared.Queue()
    least = q.nbytes
    for _ in range(100):
        q.put(b"x" * 100_000)
    assert q.nbytes > 10_000_000
    for _ in range(100):
        q.get()
    assert q.nbytes == least


# ---- signals and forks ----


def test_ctrl_c_ends_a_wait_and_takes_nothing():
    with start_script("""
        from pyconc import shared

        q, full = shared.Queue(), shared.Queue(1)
        full.put(1)
        for wait in (q.get, lambda: full.put(2)):
            print("waits", flush=True)
            try:
                wait()
            except KeyboardInterrupt:
                pass
        q.put("kept")
        print(q.get(), full.get(), full.qsize())
    """) as program:
        for _ in range(2):
            await_line(program, program.stdout, "waits")
            wait_until_asleep(program)
            program.send_signal(signal.SIGINT)
        await_line(program, program.stdout, "kept 1 0")
        assert finish(program).returncode == 0


def test_a_fork_inherits_it():
    run_script(
        """
        import os, threading
        from pyconc import shared

        q, results = shared.Queue(), shared.Queue()
        waiter = threading.Thread(target=lambda: results.put(q.get()))
        waiter.start()
        pid = os.fork()
        if pid == 0:
            q.put("from the child")
            q.put("for the parent")
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        waiter.join()
        assert [results.get(), q.get()] == ["from the child", "for the parent"]
    """,
        flags=("-W", "ignore::DeprecationWarning"),
    )


# ---- tasks ----


@on_every_loop
@on_loop
async def test_tasks_get_and_put_in_turn(new_loop):
    q, full = shared.Queue(), shared.Queue(1)
    getting = [asyncio.ensure_future(q.aget()) for _ in range(3)]
    await asyncio.sleep(0)
    for i in range(3):
        await q.aput(i)
    assert await asyncio.gather(*getting) == [0, 1, 2]
    await full.aput("a")
    putting = asyncio.ensure_future(full.aput("b"))
    await asyncio.sleep(0)
    assert not putting.done()
    assert await full.aget() == "a"
    await putting
    assert await full.aget() == "b"
    with pytest.raises(queue.Empty):
        await q.aget(timeout=0.001)
    with pytest.raises(queue.Empty):
        await q.aget(timeout=0)
    with pytest.raises(ValueError, match="timeout"):
        await q.aget(timeout=-1)
    await full.aput("c")
    with pytest.raises(queue.Full):
        await full.aput("d", timeout=0.001)


@on_every_loop
@on_loop
async def test_a_task_that_is_cancelled_loses_no_item(new_loop):
    q = shared.Queue()
    for i in range(30):
        first, second = asyncio.ensure_future(q.aget()), asyncio.ensure_future(q.aget())
        await asyncio.sleep(0)
        q.put(i)
        for _ in range(i % 7):
            await asyncio.sleep(0)
        if first.cancel():
            with pytest.raises(asyncio.CancelledError):
                await first
            assert await second == i
        else:
            assert await first == i
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second
    assert q.empty()


@on_every_loop
def test_a_task_that_waits_on_a_loop_that_is_closed_takes_no_item(new_loop):
    q, loop, waiting = shared.Queue(), new_loop(), []

    async def main():
        waiting.append(asyncio.ensure_future(q.aget()))
        await asyncio.sleep(0)
        waiting[0]._log_destroy_pending = False

    loop.run_until_complete(main())
    loop.close()
    q.put("item")
    assert q.get(timeout=HANG_LIMIT) == "item"


@on_every_loop
@on_loop
async def test_tasks_are_told_of_the_end(new_loop):
    q, full = shared.Queue(), shared.Queue(1)
    full.put(1)
    waiting = [asyncio.ensure_future(q.aget()) for _ in range(2)] + [asyncio.ensure_future(full.aput(2))]
    await asyncio.sleep(0)
    q.shutdown()
    full.shutdown()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [shared.ShutDown] * 3


def test_a_loop_and_a_process_share_one():
    async def main(q, pool):
        putting = pool.submit(put_many, q, "a", 200)
        taken = [await q.aget() for _ in range(200)]
        putting.result()
        return taken

    q = shared.Queue(5)
    with pyconc.ProcessPoolExecutor(1) as pool:
        assert asyncio.run(main(q, pool)) == [("a", i) for i in range(200)]
