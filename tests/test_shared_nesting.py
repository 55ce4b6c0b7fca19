"""Shared objects in items of others: they live as long as a process has them, or an item that can be read."""

import multiprocessing
import os
import time

import pytest
from support import THOUSAND, run_script

import pyconc
from pyconc import shared

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")


def run_with_heap(body):
    """Run a program that has a heap of its own, and `used()` for how many objects there are in it."""
    finished = run_script("import os\nfrom pyconc import shared\nused = shared._memory.heap().used\n" + body)
    assert finished.stdout == "done\n", finished


@pytest.mark.slow
def test_more_objects_than_there_can_be_are_nested_one_after_the_other():
    run_with_heap(
        """
table, inner = shared.Dict(), shared.List()
table["a"] = table["b"] = shared.List([0])
before = used(), os.fstat(shared._memory.heap().fileno()).st_blocks
for i in range(70_000):
    table["a"] = inner = shared.Event()
for i in range(200):
    table["a"] = inner = shared.List([b"x" * 10_000])
    assert len(inner[0]) == 10_000
table["a"] = inner = None
assert used() == before[0] - 1, (used(), before)
assert os.fstat(shared._memory.heap().fileno()).st_blocks <= before[1] + 10_000 // 512 * 10
print("done")
"""
    )


def test_an_object_goes_with_the_last_item_that_it_is_in_and_its_last_user():
    run_with_heap(
        """
before = used()
table, items, queue = shared.Dict(), shared.List(), shared.Queue()
own = used()
event = shared.Event()
items.extend([event, [event, event], 1])
items.append(event)
table.update(a=event, b=event)
queue.put(event)
del event
assert used() == own + 1
for change in (
    items.pop, lambda: items.reverse(), lambda: items.insert(0, 0), lambda: items.sort(key=str), lambda: items.pop(2),
    lambda: items.__imul__(2), lambda: items.__setitem__(slice(None, None, 2), [1, 2, 3]), lambda: items.clear(),
    lambda: table.update(a=1), lambda: table.popitem(), lambda: table.clear(),
):
    change()
    assert used() == own + 1, change
event = queue.get()
assert used() == own + 1 and not event.is_set()
del event
assert used() == own
queue.put([shared.Event(), shared.Queue()])
table["a"] = shared.Dict(b=shared.List([shared.Lock()]))
assert used() == own + 8 and not table["a"]["b"][0].locked()
queue.shutdown(immediate=True)
assert used() == own + 3
items.append(shared.Event())
del items, table, queue
assert used() == before
first, second = shared.List(), shared.List()
first.append(second)
second.append(first)
first.append(first)
del first, second
assert used() == before
print("done")
"""
    )


def test_what_was_read_stays_when_its_item_goes_and_a_child_of_a_fork_has_it_too():
    table = shared.Dict(a=shared.List([1]))
    go, gone = multiprocessing.Pipe()
    inner = table["a"]
    pid = os.fork()
    if pid == 0:
        try:
            gone.recv()
            os._exit(0 if inner[:] == [1] else 2)
        finally:
            os._exit(1)
    table["a"] = None
    inner.append(2)
    assert inner.pop() == 2
    del inner
    # What has the place of what nobody has is another object.
    others = [shared.List([0]) for _ in range(40)]
    go.send(None)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert [other[:] for other in others] == [[0]] * 40


def read_all(table, looks):
    for _ in range(looks):
        number, inner = table["a"]
        assert inner[:] == [number]
    return looks


def test_an_item_that_is_replaced_while_others_read_it_is_whole():
    table = shared.Dict(a=[0, shared.List([0])])
    with pyconc.ProcessPoolExecutor(1) as pool:
        reading = pool.submit(read_all, table, 1000)
        number = 0
        while not reading.done():
            number += 1
            table["a"] = [number, shared.List([number])]
        assert reading.result() == 1000


def test_an_object_that_cannot_be_put_in_is_nobody_s():
    run_with_heap(
        """
items = shared.List([0])
before = used()
for fails in (lambda: items.append([shared.Event(), lambda: 0]), lambda: items.__setitem__(5, shared.Event())):
    try:
        fails()
    except Exception:
        pass
    else:
        raise AssertionError
assert used() == before
print("done")
"""
    )


STORM = """
    import os
    import random
    import signal
    import sys

    from pyconc import shared

    table, queue = shared.Dict(), shared.Queue()
    rounds, looks = shared.Counter(), shared.Counter()

    def nested(number):
        return number, shared.List([number, shared.List([number])])

    def check(number, outer):
        found, inner = outer[:]
        assert found == number and inner[:] == [number], (number, found, inner[:])

    def write(seed):
        rng = random.Random(seed)
        while True:
            rounds.add(1)
            key = rng.randrange(4)
            table[key] = nested(rng.randrange(10**9))
            queue.put(nested(rng.randrange(10**9)))
            check(*queue.get())
            taken = table.pop(rng.randrange(4), None)
            if taken:
                check(*taken)

    def read():
        while True:
            for value in table.values():
                check(*value)
            looks.add(1)

    def start(work, *args):
        pid = os.fork()
        if pid == 0:
            try:
                work(*args)
            except BaseException as error:
                print(repr(error)[:500], flush=True)
            finally:
                os._exit(1)
        return pid

    def kill(pid):
        os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, status

    seed = int(sys.argv[2])
    random.seed(seed)
    processes = [start(write, seed), start(read)]
    for i in range(int(sys.argv[1])):
        seen, looked = rounds.value, looks.value
        while rounds.value < seen + 5 or looks.value == looked:
            len(table), queue.qsize()  # those that live go on
        for _ in range(random.randrange(3000)):
            pass
        victim = random.randrange(2)
        kill(processes[victim])
        processes[victim] = start(read) if victim else start(write, seed + 2 + i)
    for pid in processes:
        kill(pid)
    for number, outer in table.values():
        check(number, outer)
    del number, outer
    table.clear()
    while not queue.empty():
        check(*queue.get())
    # That of a process which was killed before it ran is found after 16 forks.
    for _ in range(16):
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
    print("used", shared._memory.heap().used())
"""


@pytest.mark.parametrize("rounds", [10, pytest.param(THOUSAND // 20, marks=pytest.mark.slow)])
def test_a_storm_of_deaths_leaves_what_is_nested_whole_and_no_more(rounds):
    finished = run_script(STORM, rounds, int(time.time()) % 1000, limit=240)
    assert finished.stdout == "used 7\n", finished  # the dict, the queue and its doors, the counters
