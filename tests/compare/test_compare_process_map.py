"""ProcessPoolExecutor.map: order, chunks, laziness, timeouts, buffersize, and what happens to the rest."""

import collections.abc
import contextlib
import gc
import itertools
from collections.abc import Iterator
from concurrent.futures import TimeoutError
from typing import Any

import pytest
import tasks
from libraries import FORKS, LIBRARIES, Library, Log, outcome
from tasks import Gate, Notes, block_workers

pytestmark = FORKS

BUFFERSIZE = ((3, 15), "map(buffersize=) of processes")

CHUNKSIZES: list[dict[str, Any]] = [{}, {"chunksize": 1}, {"chunksize": 3}, {"chunksize": 100}]


@pytest.fixture(scope="module", params=LIBRARIES, ids=str)
def pool(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A pool of two workers for tests that leave it as it was."""
    with request.param.process_pool(2) as pool:
        with Gate() as gate:
            block_workers(pool, gate, 2)
        pool.library = request.param
        yield pool


@pytest.fixture
def notes(tmp_path: Any) -> Notes:
    return Notes(tmp_path / "notes")


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


@pytest.mark.parametrize("kwargs", CHUNKSIZES, ids=str)
def test_results_come_in_order(pool: Any, kwargs: dict[str, Any]) -> None:
    assert list(pool.map(pow, range(50), range(50), **kwargs)) == list(map(pow, range(50), range(50)))
    assert list(pool.map(str, range(50), **kwargs)) == list(map(str, range(50)))


@pytest.mark.parametrize("kwargs", CHUNKSIZES, ids=str)
def test_stops_with_the_shortest_iterable(pool: Any, kwargs: dict[str, Any]) -> None:
    expected = [((0, "a", 0), {}), ((1, "b", 1), {})]
    assert list(pool.map(tasks.capture, range(3), "ab", itertools.count(), **kwargs)) == expected
    assert list(pool.map(str, [], **kwargs)) == []
    assert list(pool.map(str, **kwargs)) == []


def test_results_come_in_order_whatever_finishes_first(pool: Any) -> None:
    with Gate() as gate:
        results = pool.map(tasks.wait_and_tell, [gate, None, None], [1, 2, 3], chunksize=1)
        gate.wait_started()
        assert pool.submit(int).result() == 0
        gate.open()
        assert list(results) == [1, 2, 3]


def test_tuples_are_items_like_others(pool: Any) -> None:
    items = [(), (1, 2), ((),), [3], None]
    assert list(pool.map(tasks.capture, items)) == [((item,), {}) for item in items]
    assert list(pool.map(tasks.capture, items, items)) == [((item, item), {}) for item in items]


@pytest.mark.parametrize("chunksize", [0, -1])
def test_chunksize_must_be_positive(pool: Any, chunksize: int) -> None:
    with pytest.raises(ValueError, match=r"^chunksize must be >= 1\.$"):
        pool.map(str, range(4), chunksize=chunksize)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {}),
        ((str, 5), {}),
        ((str, []), {"timeout": "soon"}),
        ((str, []), {"patience": 1}),
        ((str, []), {"chunksize": "3"}),
    ],
    ids=str,
)
def test_wrong_arguments(pool: Any, args: Any, kwargs: Any) -> None:
    with pytest.raises(TypeError):
        pool.map(*args, **kwargs)


@pytest.mark.parametrize("kwargs", CHUNKSIZES[:2], ids=str)
def test_exception_of_a_call_comes_in_its_place(pool: Any, kwargs: dict[str, Any]) -> None:
    results = pool.map(divmod, [1, 1, 1, 1], [2, 3, 0, 5], **kwargs)
    assert next(results) == (0, 1)
    assert next(results) == (0, 1)
    with pytest.raises(ZeroDivisionError) as caught:
        next(results)
    assert type(caught.value.__cause__).__name__ == "_RemoteTraceback"
    assert next(results, "end") == "end"


@pytest.mark.parametrize("kwargs", CHUNKSIZES, ids=str)
@pytest.mark.parametrize("error", [ValueError(1), StopIteration(2), KeyboardInterrupt(), SystemExit(3)], ids=type)
def test_any_exception_of_a_call(pool: Any, kwargs: dict[str, Any], error: BaseException) -> None:
    expected = RuntimeError if isinstance(error, StopIteration) else type(error)
    with pytest.raises(expected):
        list(pool.map(tasks.fail, [error], **kwargs))
    assert list(pool.map(str, [1])) == ["1"]


@pytest.mark.parametrize("kwargs", CHUNKSIZES, ids=str)
def test_what_cannot_be_pickled_fails_the_map_only(pool: Any, kwargs: dict[str, Any]) -> None:
    for fn, items in [(tasks.capture, [1, tasks.make_unpicklable(), 2]), (tasks.make_unpicklable_of, [1, 2])]:
        with pytest.raises(TypeError, match="cannot pickle '_thread\\.lock' object"):
            list(pool.map(fn, items, **kwargs))
    assert list(pool.map(str, [1, 2])) == ["1", "2"]


def test_the_result_is_its_own_iterator_and_can_be_closed(pool: Any) -> None:
    results = pool.map(str, range(3))
    assert iter(results) is results
    results.close()
    assert list(results) == []


def test_the_result_is_a_generator(pool: Any) -> None:
    results = pool.map(abs, [-1, -2, -3])
    assert isinstance(results, collections.abc.Generator)
    assert outcome(results.send, 5)[:2] == ("raised", TypeError)
    assert results.send(None) == 1
    assert results.send(5) == 2
    assert outcome(results.throw, KeyError("thrown")) == ("raised", KeyError, "'thrown'")
    assert list(results) == []
    assert outcome(results.send, None)[:2] == ("raised", StopIteration)
    assert outcome(pool.map(abs, [-1]).throw, ValueError) == ("raised", ValueError, "")
    assert outcome(pool.map(abs, [-1]).throw, 5)[:2] == ("raised", TypeError)


def test_a_long_timeout_does_not_matter(pool: Any) -> None:
    assert list(pool.map(str, range(4), timeout=10**6)) == ["0", "1", "2", "3"]


def test_two_maps_at_once(pool: Any) -> None:
    one, other = pool.map(str, range(200)), pool.map(str, range(200, 400))
    assert list(zip(one, other)) == [(str(n), str(n + 200)) for n in range(200)]


# --- Submission -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kwargs", CHUNKSIZES, ids=str)
def test_every_call_is_made_even_when_nobody_looks(library: Library, notes: Notes, kwargs: dict[str, Any]) -> None:
    with library.process_pool(2) as pool:
        pool.map(notes.append, range(100), **kwargs)
    assert sorted(notes.read()) == list(range(100))


def test_takes_everything_at_once_without_buffersize(pool: Any) -> None:
    source = Source(range(100))
    pool.map(str, source)
    assert source.taken == 100


def test_exception_of_the_iterable_comes_at_once(pool: Any) -> None:
    def values() -> Iterator[int]:
        yield 1
        raise LookupError

    with pytest.raises(LookupError):
        pool.map(str, values())


def test_after_shutdown(library: Library) -> None:
    pool = library.process_pool(1)
    pool.shutdown()
    with pytest.raises(RuntimeError, match=r"^cannot schedule new futures after shutdown$"):
        pool.map(str, range(3))
    assert list(pool.map(str, [])) == []  # nothing to schedule


def test_results_can_be_taken_after_shutdown(library: Library) -> None:
    with library.process_pool(1) as pool:
        results = pool.map(str, range(5))
    assert list(results) == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("kwargs", CHUNKSIZES, ids=str)
def test_shutdown_loses_no_call_even_of_a_map_that_turns_out_long(library: Library, kwargs: dict[str, Any]) -> None:
    with library.process_pool(2) as pool:
        assert list(pool.map(tasks.work, [0] * 500, **kwargs)) == [0] * 500
        results = pool.map(tasks.work, [12] * 16, **kwargs)
    assert list(results) == [12] * 16


# --- Ending early -----------------------------------------------------------------------------------------------------

# Of so many calls with one worker, the last are on their way to nobody yet; see test_compare_process.py.
MANY = 12


def end_by_closing(results: Any) -> None:
    results.close()


def end_by_dropping(results: Any) -> None:
    del results
    gc.collect()


@pytest.mark.parametrize("end", [end_by_closing, end_by_dropping])
def test_ending_cancels_what_has_not_started(library: Library, notes: Notes, end: Any) -> None:
    with library.process_pool(1) as pool, Gate() as gate:
        results = [pool.map(tasks.note_or_wait, *zip(*[(notes, gate, n, 1) for n in range(MANY)]), chunksize=1)]
        assert next(results[0]) == 0
        gate.wait_started()
        end(results.pop())
        gate.open()
    ran = notes.read()
    assert ran == list(range(len(ran) + 1))[:1] + list(range(2, len(ran) + 1))
    assert MANY - 1 not in ran


def test_closing_a_map_that_turns_out_long_is_quiet(library: Library, log: Log) -> None:
    with library.process_pool(2) as pool:
        assert list(pool.map(tasks.work, [0] * 500)) == [0] * 500
        results = pool.map(tasks.work, [12] * 16)
        assert next(results) == 12
        results.close()
    assert log.records == []


def test_an_exception_cancels_what_has_not_started(library: Library, notes: Notes) -> None:
    with library.process_pool(1) as pool, Gate() as gate:
        results = pool.map(
            tasks.fail_wait_or_note, *zip(*[(notes, gate, number) for number in range(MANY)]), chunksize=1
        )
        gate.wait_started()
        with pytest.raises(LookupError):
            next(results)
        gate.open()
    assert MANY - 1 not in notes.read()


@pytest.mark.parametrize("kwargs", CHUNKSIZES, ids=str)
def test_dropping_results_nobody_looked_at_cancels_nothing(
    library: Library, notes: Notes, kwargs: dict[str, Any]
) -> None:
    with library.process_pool(1) as pool, Gate() as gate:
        block_workers(pool, gate)
        pool.map(notes.append, range(MANY), **kwargs)
        gc.collect()
        gate.open()
    assert notes.read() == list(range(MANY))


def test_timeout_cancels_what_has_not_started(library: Library, notes: Notes) -> None:
    with library.process_pool(1) as pool, Gate() as gate:
        block_workers(pool, gate)
        with contextlib.closing(pool.map(notes.append, range(MANY), timeout=0)) as results:
            with pytest.raises(TimeoutError) as caught:
                next(results)
            assert type(caught.value) is TimeoutError
        gate.open()
    assert MANY - 1 not in notes.read()


def test_timeout_counts_from_the_call(library: Library) -> None:
    with library.process_pool(1) as pool, Gate() as gate:
        results = pool.map(tasks.wait_and_tell, [gate], [1], timeout=-1)
        gate.wait_started()
        with pytest.raises(TimeoutError):
            next(results)


# --- buffersize -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("buffersize", ["2", 2.0, [1]], ids=str)
def test_buffersize_must_be_an_integer(pool: Any, buffersize: Any) -> None:
    pool.library.requires(*BUFFERSIZE)
    with pytest.raises(TypeError, match=r"^buffersize must be an integer or None$"):
        pool.map(str, range(4), buffersize=buffersize)


@pytest.mark.parametrize("buffersize", [0, -1, False])
def test_buffersize_must_be_positive(pool: Any, buffersize: int) -> None:
    pool.library.requires(*BUFFERSIZE)
    with pytest.raises(ValueError, match=r"^buffersize must be None or > 0$"):
        pool.map(str, range(4), buffersize=buffersize)


@pytest.mark.parametrize("kwargs", CHUNKSIZES, ids=str)
@pytest.mark.parametrize("buffersize", [1, 2, 4, 100, 2**40, True, None])
def test_buffersize_does_not_change_the_results(pool: Any, kwargs: dict[str, Any], buffersize: int | None) -> None:
    pool.library.requires(*BUFFERSIZE)
    kwargs = {**kwargs, "buffersize": buffersize}
    assert list(pool.map(str, range(11), **kwargs)) == list(map(str, range(11)))
    assert list(pool.map(pow, range(4), range(4), **kwargs)) == [1, 1, 4, 27]
    assert list(pool.map(str, [], **kwargs)) == []
    assert list(pool.map(str, **kwargs)) == []


@pytest.mark.parametrize("chunksize", [1, 4])
def test_buffersize_bounds_what_is_taken(pool: Any, chunksize: int) -> None:
    pool.library.requires(*BUFFERSIZE)
    source = Source(itertools.count())
    with contextlib.closing(pool.map(str, source, buffersize=3, chunksize=chunksize)) as results:
        assert source.taken == 3 * chunksize
        for number in range(20):
            assert next(results) == str(number)
            # As one chunk is begun, the next is sent.
            assert source.taken <= (3 + number // chunksize + 1) * chunksize


def test_buffersize_with_an_iterable_that_fails_later(pool: Any) -> None:
    pool.library.requires(*BUFFERSIZE)

    def values() -> Iterator[int]:
        yield from range(3)
        raise LookupError

    results = pool.map(str, values(), buffersize=2, chunksize=1)
    assert next(results) == "0"
    with pytest.raises(LookupError):
        for _ in results:
            pass
    assert next(results, "end") == "end"


def test_buffersize_after_shutdown_fails_when_there_is_more(library: Library) -> None:
    library.requires(*BUFFERSIZE)
    with library.process_pool(1) as pool:
        results = pool.map(str, range(5), buffersize=2, chunksize=1)
    with pytest.raises(RuntimeError, match=r"^cannot schedule new futures after shutdown$"):
        list(results)
