"""Executor.map over lazy sources: what they raise, that they may wait, and which thread reads them."""

import itertools
import sqlite3
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import tasks
from libraries import FORKS, LIBRARIES, Library
from tasks import Gate, block_workers

pytestmark = FORKS

# chunksize counts for processes only.
KWARGS: list[dict[str, Any]] = [
    {},
    {"chunksize": 1},
    {"chunksize": 7},
    {"buffersize": 1},
    {"buffersize": 20},
    {"buffersize": 1000},
    {"buffersize": 3, "chunksize": 7},
]

ITEMS = 200


@pytest.fixture(scope="module", params=[(library, kind) for library in LIBRARIES for kind in ("threads", "processes")])
def pool(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A pool of two workers, which have begun, for tests that leave it as it was."""
    library, kind = request.param
    with library.ThreadPoolExecutor(2) if kind == "threads" else library.process_pool(2) as pool:
        with Gate() as gate:
            block_workers(pool, gate, 2)
        pool.library, pool.kind = library, kind
        yield pool


@pytest.fixture(params=KWARGS, ids=str)
def kwargs(request: pytest.FixtureRequest, pool: Any) -> dict[str, Any]:
    if "buffersize" in request.param:
        since = (3, 14) if pool.kind == "threads" else (3, 15)
        pool.library.requires(since, "map(buffersize=)")
    return request.param


class LateError(Exception):
    pass


def take(call: Callable[[], Iterator[Any]]) -> tuple[list[Any], BaseException | None]:
    """The results that came, and what ended them."""
    values: list[Any] = []
    try:
        for value in call():
            values.append(value)
    except LateError as error:
        return values, error
    return values, None


def raising(after: int) -> Iterator[int]:
    yield from range(after)
    raise LateError


@pytest.mark.parametrize("after", [0, 1, 7, ITEMS])
def test_what_the_source_raises_comes_out(pool: Any, kwargs: dict[str, Any], after: int) -> None:
    """Never less than all without an exception; the results before it are right, as far as they come."""
    values, error = take(lambda: pool.map(str, raising(after), **kwargs))
    assert isinstance(error, LateError)
    assert values == list(map(str, range(after)))[: len(values)]
    if "buffersize" not in kwargs:
        assert values == []  # it came out of map() itself
    assert pool.submit(str, 1).result() == "1"


def test_one_of_several_sources_raises(pool: Any, kwargs: dict[str, Any]) -> None:
    values, error = take(lambda: pool.map(pow, itertools.repeat(1), raising(50), **kwargs))
    assert isinstance(error, LateError)
    assert set(values) <= {1}


def test_the_results_end_with_the_exception(pool: Any) -> None:
    pool.library.requires((3, 14) if pool.kind == "threads" else (3, 15), "map(buffersize=)")
    results = pool.map(str, raising(10), buffersize=2)
    with pytest.raises(LateError):
        for _ in results:
            pass
    assert list(results) == []


def test_a_source_that_has_raised_is_let_go_with_its_pool(pool: Any, kwargs: dict[str, Any]) -> None:
    """What it gave before is run all the same, or cancelled; either way the pool goes on and ends."""
    for _ in range(5):
        take(lambda: pool.map(str, raising(20), **kwargs))
    assert list(pool.map(str, range(20), **kwargs)) == list(map(str, range(20)))


def test_the_consumers_thread_alone_reads_the_source(pool: Any, kwargs: dict[str, Any]) -> None:
    readers = set()

    def source() -> Iterator[int]:
        for number in range(ITEMS):
            readers.add(threading.get_ident())
            yield number

    assert list(pool.map(str, source(), **kwargs)) == list(map(str, range(ITEMS)))
    assert readers == {threading.get_ident()}


def test_a_source_that_belongs_to_its_thread(pool: Any, kwargs: dict[str, Any]) -> None:
    connection = sqlite3.connect(":memory:")  # refuses to be used in another thread
    try:
        connection.execute("create table numbers (number integer)")
        connection.executemany("insert into numbers values (?)", [(number,) for number in range(ITEMS)])
        rows = connection.execute("select number from numbers order by number")
        assert list(pool.map(str, rows, **kwargs)) == [f"({number},)" for number in range(ITEMS)]
    finally:
        connection.close()


class WaitingSource:
    """Gives some items, and then waits until it is told to go on; says when it does."""

    def __init__(self, before: int, after: int) -> None:
        self.before, self.after = before, after
        self.waits, self.goes_on = threading.Event(), threading.Event()

    def __iter__(self) -> Iterator[int]:
        yield from range(self.before)
        self.waits.set()
        self.goes_on.wait()
        yield from range(self.before, self.before + self.after)


@pytest.mark.parametrize("before", [0, 10, 110])
def test_a_source_that_waits_holds_up_nobody_else(pool: Any, kwargs: dict[str, Any], before: int) -> None:
    source = WaitingSource(before, 30)
    results: list[str] = []

    def consume() -> None:
        results.extend(pool.map(str, source, **kwargs))

    consumer = threading.Thread(target=consume)
    consumer.start()
    try:
        source.waits.wait()
        assert pool.submit(str, -1).result() == "-1"
        assert list(pool.map(str, range(30), **kwargs)) == list(map(str, range(30)))
    finally:
        source.goes_on.set()
        consumer.join()
    assert results == list(map(str, range(before + 30)))


@pytest.mark.parametrize("kwargs", [{}, {"chunksize": 1}], ids=str)
def test_calls_are_made_while_the_source_waits(pool: Any, kwargs: dict[str, Any]) -> None:
    """Here the source goes on when the call for its first item has begun."""
    with Gate() as gate:

        def source() -> Iterator[Any]:
            yield gate
            gate.wait_started()
            gate.open()
            yield from itertools.repeat(None, 3)

        assert list(pool.map(tasks.wait_and_tell, source(), range(4), **kwargs)) == [0, 1, 2, 3]


def test_calls_for_a_source_that_has_raised_are_made(library: Library, tmp_path: Any) -> None:
    notes = tasks.Notes(tmp_path / "notes")
    with library.process_pool(1) as pool:
        with pytest.raises(LateError):
            pool.map(notes.append, raising(5), chunksize=1)
    assert sorted(notes.read()) == list(range(5))
