"""Executor.map: order, laziness, timeouts, buffersize, and what happens to the rest."""

import contextlib
import gc
import itertools
import weakref
from collections.abc import Iterator
from concurrent.futures import TimeoutError
from typing import Any

import pytest
from gates import Gate, block_workers
from libraries import Library
from support import wait_until

BUFFERSIZE = ((3, 14), "map(buffersize=)")


class Source:
    """An iterable that counts what has been taken from it."""

    def __init__(self, values: Any) -> None:
        self.values = iter(values)
        self.taken = 0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        value = next(self.values)
        self.taken += 1
        return value


# --- Results ----------------------------------------------------------------------------------------------------------


def test_results_come_in_order(library: Library) -> None:
    with library.ThreadPoolExecutor(3) as pool:
        assert list(pool.map(pow, range(100), range(100))) == list(map(pow, range(100), range(100)))


def test_results_come_in_order_whatever_finishes_first(library: Library) -> None:
    with library.ThreadPoolExecutor(2) as pool, Gate() as gate:
        results = pool.map(lambda call: call(), [lambda: gate("slow"), lambda: "fast"])
        gate.wait_started()
        gate.open()
        assert list(results) == [("slow",), "fast"]


def test_stops_with_the_shortest_iterable(library: Library) -> None:
    with library.ThreadPoolExecutor() as pool:
        assert list(pool.map(lambda *args: args, range(3), "ab", itertools.count())) == [(0, "a", 0), (1, "b", 1)]
        assert list(pool.map(str, [])) == []
        assert list(pool.map(str)) == []


def test_chunksize_is_ignored(library: Library) -> None:
    with library.ThreadPoolExecutor() as pool:
        for chunksize in (1, 3, 0, -5, "ignored"):
            assert list(pool.map(str, range(4), chunksize=chunksize)) == ["0", "1", "2", "3"]


def test_wrong_arguments(library: Library) -> None:
    with library.ThreadPoolExecutor() as pool:
        for args, kwargs in [((), {}), ((str, 5), {}), ((str, []), {"timeout": "soon"}), ((str, []), {"patience": 1})]:
            with pytest.raises(TypeError):
                pool.map(*args, **kwargs)


def test_exception_of_a_call_comes_in_its_place(library: Library) -> None:
    with library.ThreadPoolExecutor() as pool:
        results = pool.map(divmod, [1, 1, 1, 1], [2, 3, 0, 5])
        assert next(results) == (0, 1)
        assert next(results) == (0, 1)
        with pytest.raises(ZeroDivisionError):
            next(results)
        assert next(results, "end") == "end"


def test_stop_iteration_of_a_call_does_not_end_the_results_silently(library: Library) -> None:
    with library.ThreadPoolExecutor() as pool:
        with pytest.raises(RuntimeError, match="StopIteration"):
            list(pool.map(next, [iter("a"), iter("")]))


def test_the_result_is_its_own_iterator_and_can_be_closed(library: Library) -> None:
    with library.ThreadPoolExecutor() as pool:
        results = pool.map(str, range(3))
        assert iter(results) is results
        results.close()
        assert list(results) == []


# --- Submission -------------------------------------------------------------------------------------------------------


def test_submits_before_the_first_result_is_asked_for(library: Library) -> None:
    done: list[int] = []
    with library.ThreadPoolExecutor() as pool:
        pool.map(done.append, range(10))
    assert sorted(done) == list(range(10))


def test_takes_everything_at_once_without_buffersize(library: Library) -> None:
    source = Source(range(100))
    with library.ThreadPoolExecutor() as pool:
        pool.map(str, source)
        assert source.taken == 100


def test_an_iterator_that_has_ended_is_not_asked_again(library: Library) -> None:
    source = iter([1, None, 2, None, 3].pop, None)
    with library.ThreadPoolExecutor() as pool:
        assert list(pool.map(str, source)) == ["3"]


def test_exception_of_the_iterable_comes_at_once(library: Library) -> None:
    def values() -> Iterator[int]:
        yield 1
        raise LookupError

    with library.ThreadPoolExecutor() as pool:
        with pytest.raises(LookupError):
            pool.map(str, values())


def test_after_shutdown(library: Library) -> None:
    pool = library.ThreadPoolExecutor()
    pool.shutdown()
    with pytest.raises(RuntimeError, match=r"^cannot schedule new futures after shutdown$"):
        pool.map(str, range(3))
    assert list(pool.map(str, [])) == []  # nothing to schedule


def test_results_can_be_taken_after_shutdown(library: Library) -> None:
    with library.ThreadPoolExecutor() as pool:
        results = pool.map(str, range(5))
    assert list(results) == ["0", "1", "2", "3", "4"]


# --- Ending early -----------------------------------------------------------------------------------------------------


def test_closing_cancels_what_has_not_started(library: Library) -> None:
    ran: list[int] = []
    with library.ThreadPoolExecutor(1) as pool, Gate() as gate:
        results = pool.map(lambda number: ran.append(number) if number < 2 else gate(), range(9))
        next(results)
        gate.wait_started()
        results.close()
        gate.open()
    assert ran == [0, 1]


def test_an_exception_cancels_what_has_not_started(library: Library) -> None:
    ran: list[int] = []

    def call(number: int) -> Any:
        if number == 0:
            raise LookupError
        if number == 1:
            return gate()
        return ran.append(number)

    with library.ThreadPoolExecutor(1) as pool, Gate() as gate:
        results = pool.map(call, range(9))
        gate.wait_started()
        with pytest.raises(LookupError):
            next(results)
        gate.open()
    assert ran == []


def test_dropping_started_results_cancels_the_rest(library: Library) -> None:
    ran: list[int] = []
    with library.ThreadPoolExecutor(1) as pool, Gate() as gate:
        results = pool.map(lambda number: gate() if number == 1 else ran.append(number), range(9))
        next(results)
        gate.wait_started()
        del results
        gc.collect()
        gate.open()
    assert ran == [0]


def test_dropping_results_nobody_looked_at_cancels_nothing(library: Library) -> None:
    ran: list[int] = []
    with library.ThreadPoolExecutor(1) as pool, Gate() as gate:
        block_workers(pool, gate)
        pool.map(ran.append, range(9))
        gc.collect()
        gate.open()
    assert ran == list(range(9))


def test_timeout_cancels_everything_that_has_not_started(library: Library) -> None:
    # Also the call that was waited for.
    ran: list[int] = []
    with library.ThreadPoolExecutor(1) as pool, Gate() as gate:
        block_workers(pool, gate)
        with contextlib.closing(pool.map(ran.append, range(5), timeout=0)) as results:
            with pytest.raises(TimeoutError) as caught:
                next(results)
            assert type(caught.value) is TimeoutError
        gate.open()
    assert ran == []


def test_timeout_counts_from_the_call(library: Library) -> None:
    with library.ThreadPoolExecutor(1) as pool, Gate() as gate:
        results = pool.map(lambda number: number or gate(), [1, 2, 0], timeout=-1)
        gate.wait_started()  # so the first two are done, and being late does not matter to them
        assert next(results) == 1
        assert next(results) == 2
        with pytest.raises(TimeoutError):
            next(results)


def test_a_long_timeout_does_not_matter(library: Library) -> None:
    with library.ThreadPoolExecutor() as pool:
        assert list(pool.map(str, range(4), timeout=10**6)) == ["0", "1", "2", "3"]


def test_yielded_results_are_not_kept(library: Library) -> None:
    class Thing:
        pass

    with library.ThreadPoolExecutor(1) as pool:
        for result in pool.map(lambda _: Thing(), range(5)):
            reference = weakref.ref(result)
            del result
            wait_until(lambda reference=reference: reference() is None)


# --- buffersize -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("buffersize", ["2", 2.0, [1]], ids=str)
def test_buffersize_must_be_an_integer(library: Library, buffersize: Any) -> None:
    library.requires(*BUFFERSIZE)
    with library.ThreadPoolExecutor() as pool:
        with pytest.raises(TypeError, match=r"^buffersize must be an integer or None$"):
            pool.map(str, range(4), buffersize=buffersize)


@pytest.mark.parametrize("buffersize", [0, -1, False])
def test_buffersize_must_be_positive(library: Library, buffersize: int) -> None:
    library.requires(*BUFFERSIZE)
    with library.ThreadPoolExecutor() as pool:
        with pytest.raises(ValueError, match=r"^buffersize must be None or > 0$"):
            pool.map(str, range(4), buffersize=buffersize)


@pytest.mark.parametrize("buffersize", [1, 2, 4, 100, 2**40, True, None])
def test_buffersize_does_not_change_the_results(library: Library, buffersize: int | None) -> None:
    library.requires(*BUFFERSIZE)
    with library.ThreadPoolExecutor() as pool:
        assert list(pool.map(str, range(4), buffersize=buffersize)) == ["0", "1", "2", "3"]
        assert list(pool.map(pow, range(4), range(4), buffersize=buffersize)) == [1, 1, 4, 27]
        assert list(pool.map(str, [], buffersize=buffersize)) == []
        assert list(pool.map(str, buffersize=buffersize)) == []


def test_buffersize_bounds_what_is_taken(library: Library) -> None:
    library.requires(*BUFFERSIZE)
    source = Source(itertools.count())
    with library.ThreadPoolExecutor() as pool:
        results = pool.map(str, source, buffersize=3)
        assert source.taken == 3
        for number in range(10):
            assert next(results) == str(number)
            assert source.taken == 3 + number + 1
        results.close()


def test_buffersize_takes_the_next_before_it_waits(library: Library) -> None:
    library.requires(*BUFFERSIZE)
    source = Source(itertools.count())
    with library.ThreadPoolExecutor(1) as pool, Gate() as gate:
        block_workers(pool, gate)
        results = pool.map(str, source, buffersize=2, timeout=0)
        with pytest.raises(TimeoutError):
            next(results)
        assert source.taken == 3
        gate.open()


def test_buffersize_with_an_iterable_that_fails_later(library: Library) -> None:
    library.requires(*BUFFERSIZE)

    def values() -> Iterator[int]:
        yield from range(3)
        raise LookupError

    with library.ThreadPoolExecutor() as pool:
        results = pool.map(str, values(), buffersize=2)
        assert next(results) == "0"
        with pytest.raises(LookupError):
            next(results)
        assert next(results, "end") == "end"


def test_buffersize_after_shutdown_fails_when_there_is_more(library: Library) -> None:
    library.requires(*BUFFERSIZE)
    with library.ThreadPoolExecutor() as pool:
        results = pool.map(str, range(5), buffersize=2)
    with pytest.raises(RuntimeError, match=r"^cannot schedule new futures after shutdown$"):
        next(results)


def test_buffersize_holds_the_executor_weakly(library: Library) -> None:
    library.requires(*BUFFERSIZE)
    pool = library.ThreadPoolExecutor()
    results = pool.map(str, range(5), buffersize=2)
    reference = weakref.ref(pool)
    threads = list(pool._threads)
    del pool
    gc.collect()
    wait_until(lambda: reference() is None)
    assert list(results) == ["0", "1"]  # what was submitted before
    for thread in threads:
        thread.join()


def test_buffersize_uses_an_overridden_submit(library: Library) -> None:
    library.requires(*BUFFERSIZE)

    class Pool(library.ThreadPoolExecutor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            return super().submit(lambda: (fn(*args),))

    with Pool(1) as pool:
        assert list(pool.map(str, range(3), buffersize=1)) == [("0",), ("1",), ("2",)]
