"""_core.Outbox and _submit_each(): many calls whose outcomes somebody takes together, as a node of a cluster does."""

import gc
import threading
import weakref

import jobs
import pytest
from gates import ProcessGate
from support import wait_until

import pyconc
from pyconc._core import Outbox

ALL = 1 << 30


def take(outbox, count):
    """Returns what take() does, once there is so much."""
    wait_until(lambda: len(outbox) == count, f"{count} outcomes")
    return outbox.take(ALL)


def test_outcomes_lie_with_the_numbers_of_their_calls():
    with pyconc.ProcessPoolExecutor(1) as pool:
        outbox = Outbox(lambda: None)
        pool._submit_each(outbox, [3, 1 << 40, 5], bytes, (b"a", b"b", [99]))
        numbers, results, others = take(outbox, 3)
        assert ({*zip(numbers, results)}, others) == ({(3, b"a"), (1 << 40, b"b"), (5, b"c")}, [])
        assert outbox.take(ALL) == ([], [], [])
        pool._submit_each(outbox, [3], divmod, [7], [2])
        pool._submit_each(outbox, [4], list)
        assert sorted(take(outbox, 2)[2]) == [(3, (3, 1), None), (4, [], None)]
        pool._submit_each(outbox, [3, 4], jobs.fail, [KeyError("k"), threading.Lock()])
        errors = {number: type(error) for number, result, error in take(outbox, 2)[2]}
        assert errors == {3: KeyError, 4: TypeError}
        pool._submit_each(outbox, [3], jobs.die, ["exit"])
        ((_, _, error),) = take(outbox, 1)[2]
        assert (type(error), error.task) == (pyconc.WorkerDied, jobs.die)


def test_its_reader_is_woken_once_for_as_many_as_it_wants():
    with pyconc.ProcessPoolExecutor(1) as pool:
        woken = []
        outbox = Outbox(lambda: woken.append(len(outbox)))
        outbox.wake_at = 3
        pool._submit_each(outbox, [*range(5)], bytes, [b""] * 5)
        take(outbox, 5)
        assert woken == [3]
        outbox.wake_at = 1
        outbox.end(1, b"mine", None)
        outbox.end(2, None, None)
        assert woken == [3, 1]
        assert outbox.take(ALL) == ([1], [b"mine"], [(2, None, None)])


def test_as_much_is_taken_as_is_asked_for():
    outbox = Outbox(lambda: None)
    for number in range(4):
        outbox.end(number, bytes(10), None)
    assert outbox.take(0) == ([], [], [])
    assert outbox.take(11)[0] == [0, 1]
    outbox.end(4, (None, (b"12345", [bytearray(5)])), None)
    outbox.end(5, b"", None)
    assert [len(some) for some in outbox.take(30)] == [2, 2, 1]
    assert len(outbox) == 1


def test_none_is_lost_where_memory_is_short():
    fail = pytest.importorskip("_testcapi")
    outbox = Outbox(lambda: None)
    for number in range(1000, 1200):
        outbox.end(number, b"%d" % number if number % 2 else (None, [number]), None)
    allocation, taken = 0, None
    while taken is None:
        fail.set_nomemory(allocation, allocation + 1)
        try:
            taken = outbox.take(ALL)
        except MemoryError:
            pass
        finally:
            fail.remove_mem_hooks()
        if taken is None:
            assert len(outbox) == 200
            allocation += 1
    assert allocation > 8  # those of the lists alone, where the interpreter keeps freed numbers and tuples
    odd, even = range(1001, 1200, 2), range(1000, 1200, 2)
    assert taken == ([*odd], [b"%d" % number for number in odd], [(number, (None, [number]), None) for number in even])
    assert len(outbox) == 0


def test_a_reader_that_could_not_be_woken_hears_of_the_next_one():
    woken = []

    def wake():
        woken.append(len(outbox))
        if len(woken) == 1:
            raise MemoryError

    outbox = Outbox(wake)
    with pytest.raises(MemoryError):
        outbox.end(1, b"one", None)
    outbox.end(2, b"two", None)
    assert woken == [1, 2]
    assert outbox.take(ALL)[0] == [1, 2]


def test_calls_are_cancelled_by_their_numbers():
    with pyconc.ProcessPoolExecutor(1) as pool:
        outbox = Outbox(lambda: None)
        with ProcessGate() as gate:
            pool._submit_each(outbox, [0], gate)
            gate.wait_started()
            pool._submit_each(outbox, [1, 2, 3], bytes, [b""] * 3)
            assert [outbox.cancel(number) for number in (0, 1, 2, 9)] == [False, True, True, False]
            assert take(outbox, 2)[2] == [(1, None, None), (2, None, None)]
            gate.open()
            numbers, _, others = take(outbox, 2)
            assert (numbers, others) == ([3], [(0, (), None)])
            pool.options(on_cancel="interrupt")._submit_each(outbox, [4], gate)
            gate.wait_started()
            assert outbox.cancel(4)
            assert take(outbox, 1)[2] == [(4, None, None)]
        assert pool.stats().cancelled == 3


def test_a_call_that_cannot_be_submitted_ends_with_the_reason(monkeypatch):
    with pyconc.ProcessPoolExecutor(1) as pool:

        def start_none():
            raise OSError("no processes")

        outbox = Outbox(lambda: None)
        with pyconc.ProcessPoolExecutor(1) as poor:
            monkeypatch.setattr(poor, "_start_workers", start_none, raising=False)
            poor._submit_each(outbox, [1, 2], bytes, [b""] * 2)
            assert [(number, type(error)) for number, _, error in take(outbox, 2)[2]] == [(1, OSError), (2, OSError)]
        pool.shutdown()
        pool._submit_each(outbox, [1, 2], bytes, [b""] * 2)
        assert [(number, type(error)) for number, _, error in take(outbox, 2)[2]] == [
            (1, RuntimeError),
            (2, RuntimeError),
        ]


def test_what_cannot_be_is_refused():
    with pyconc.ProcessPoolExecutor(1) as pool:
        outbox = Outbox(lambda: None)
        for wrong in ((), (outbox, [1]), (outbox, 1, bytes), (None, [1], bytes), (outbox, [1], bytes, [1, 2])):
            with pytest.raises(TypeError):
                pool._submit_each(*wrong)
        with pytest.raises(TypeError):
            pool._submit_each(outbox, [1], max, *[[1]] * 4)
        with ProcessGate() as gate:
            pool._submit_each(outbox, [1], gate)
            gate.wait_started()
            with pytest.raises(ValueError, match="call 1 has not ended"):
                outbox.end(1, None, None)
            gate.open()
            take(outbox, 1)
        with pytest.raises(TypeError):
            outbox.end("one", None, None)
        with pytest.raises(TypeError):
            outbox.take("all")


def test_one_that_leads_to_itself_is_collected():
    class Reader:
        def __init__(self):
            self.outbox = Outbox(self.wake)

        def wake(self):
            pass

    reader = Reader()
    reader.outbox.end(1, reader, None)
    gone = weakref.ref(reader)
    del reader
    gc.collect()
    assert gone() is None


def test_calls_in_threads_end_there_too():
    outbox = Outbox(lambda: None)
    with pyconc.ThreadPoolExecutor(2) as threads:
        threads._submit_each(outbox, [1, 2], abs, [-1, "x"])
        (one, two) = sorted(take(outbox, 2)[2], key=lambda other: other[0])
    assert one == (1, 1, None)
    assert (two[0], type(two[2])) == (2, TypeError)
