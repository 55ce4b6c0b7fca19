"""wait and as_completed: of either library, over futures of either library or of both."""

import gc
import itertools
import queue
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION, TimeoutError
from concurrent.futures._base import DoneAndNotDoneFutures
from typing import Any

import pytest
from gates import Gate, block_workers
from libraries import LIBRARIES, PYCONC, STANDARD, Library, outcome

RETURN_WHEN = [FIRST_COMPLETED, FIRST_EXCEPTION, ALL_COMPLETED]

# Where the futures come from, by turns.
SOURCES: dict[str, list[Library]] = {
    "standard futures": [STANDARD],
    "pyconc futures": [PYCONC],
    "mixed futures": [STANDARD, PYCONC],
}


@pytest.fixture(params=SOURCES.values(), ids=SOURCES)
def new(request: pytest.FixtureRequest) -> Callable[[], Any]:
    """Makes a future of the next source."""
    sources = itertools.cycle(request.param)
    return lambda: next(sources).Future()


# --- Every small set of futures ---------------------------------------------------------------------------------------


def prepare(future: Any, state: str) -> Any:
    if state in ("cancelled", "notified"):
        future.cancel()
    if state in ("running", "notified"):
        future.set_running_or_notify_cancel()
    if state == "result":
        future.set_result(1)
    if state == "error":
        future.set_exception(ValueError())
    return future


STATES = ["pending", "running", "cancelled", "notified", "result", "error"]


def look(library: Library, sources: list[Library], states: tuple[str, ...]) -> list[Any]:
    """Everything that both functions say, without waiting, about futures in these states; futures as their index."""
    seen: list[Any] = []
    cycle = itertools.cycle(sources)
    fs = [prepare(next(cycle).Future(), state) for state in states]
    for return_when in RETURN_WHEN:
        for timeout in (0, -1):
            done, not_done = library.wait(fs, timeout, return_when)
            seen.append((sorted(map(fs.index, done)), sorted(map(fs.index, not_done))))
    completed: list[int] = []
    end = outcome(lambda: completed.extend(fs.index(future) for future in library.as_completed(fs, timeout=0)))
    seen.append((sorted(completed), end))
    seen.append([len(future._waiters) for future in fs])
    return seen


@pytest.mark.parametrize("sources", SOURCES.values(), ids=SOURCES)
def test_every_set_of_three_states(library: Library, sources: list[Library]) -> None:
    for number in range(4):
        for states in itertools.product(STATES, repeat=number):
            assert look(library, sources, states) == look(STANDARD, [STANDARD], states), states


def test_larger_sets() -> None:
    hypothesis = pytest.importorskip("hypothesis")
    st = hypothesis.strategies

    @hypothesis.given(
        st.lists(st.sampled_from(STATES), min_size=4, max_size=20).map(tuple), st.sampled_from(list(SOURCES))
    )
    def check_one(states: tuple[str, ...], source: str) -> None:
        expected = look(STANDARD, [STANDARD], states)
        for library in LIBRARIES:
            assert look(library, SOURCES[source], states) == expected

    check_one()


# --- Arguments --------------------------------------------------------------------------------------------------------


def test_wait_returns_the_standard_named_tuple(library: Library, new: Callable[[], Any]) -> None:
    done, pending = prepare(new(), "result"), new()
    result = library.wait([done, pending], return_when=FIRST_COMPLETED)
    assert type(result) is DoneAndNotDoneFutures
    assert (result.done, result.not_done) == ({done}, {pending})
    assert type(result.done) is type(result.not_done) is set


def test_nothing_to_wait_for(library: Library) -> None:
    for return_when in RETURN_WHEN:
        assert library.wait([], return_when=return_when) == (set(), set())
    assert list(library.as_completed([])) == []


def test_duplicates_count_once(library: Library, new: Callable[[], Any]) -> None:
    done, pending = prepare(new(), "result"), new()
    assert library.wait([done, done, pending, pending], timeout=0) == ({done}, {pending})
    assert list(library.as_completed(itertools.repeat(done, 3))) == [done]
    with pytest.raises(TimeoutError, match=r"^1 \(of 2\) futures unfinished$"):
        list(library.as_completed([done, pending, done, pending], timeout=0))


def test_any_iterable_will_do(library: Library, new: Callable[[], Any]) -> None:
    fs = [prepare(new(), "result") for _ in range(3)]
    for iterable in (iter(fs), tuple(fs), set(fs), dict.fromkeys(fs), (future for future in fs)):
        assert library.wait(iterable).done == set(fs)
    assert set(library.as_completed(future for future in fs)) == set(fs)


def test_return_when_is_checked_when_there_is_something_to_wait_for(library: Library, new: Callable[[], Any]) -> None:
    assert library.wait([prepare(new(), "result")], return_when="whenever").not_done == set()
    with pytest.raises(ValueError, match=r"^Invalid return condition: 'whenever'$"):
        library.wait([new()], return_when="whenever")
    with pytest.raises(ValueError, match=r"^Invalid return condition: None$"):
        library.wait([new()], return_when=None)


def test_arguments_go_by_keyword(library: Library, new: Callable[[], Any]) -> None:
    done = prepare(new(), "result")
    assert library.wait(fs=[done], timeout=1, return_when=FIRST_EXCEPTION).done == {done}
    assert list(library.as_completed(fs=[done], timeout=None)) == [done]


@pytest.mark.parametrize("what", [None, 5, [5], ["text"], [[]]], ids=str)
def test_what_is_no_future_is_refused(library: Library, what: Any) -> None:
    with pytest.raises((TypeError, AttributeError)):
        library.wait(what)
    with pytest.raises((TypeError, AttributeError)):
        list(library.as_completed(what))


def test_a_refused_set_leaves_no_waiter_behind(library: Library, new: Callable[[], Any]) -> None:
    pending = new()
    with pytest.raises(AttributeError):
        library.wait([pending, "no future"], timeout=0)
    with pytest.raises(ValueError, match="whenever"):
        library.wait([pending], return_when="whenever")
    assert pending._waiters == []
    pending.set_result(1)
    assert library.wait([pending]).done == {pending}


def test_timeout_must_be_a_number(library: Library, new: Callable[[], Any]) -> None:
    with pytest.raises(TypeError):
        library.wait([new()], timeout="soon")
    with pytest.raises(TypeError):
        list(library.as_completed([new()], timeout="soon"))


def test_finished_futures_come_even_when_late(library: Library, new: Callable[[], Any]) -> None:
    done = prepare(new(), "result")
    assert list(library.as_completed([done], timeout=-1)) == [done]
    assert library.wait([done], timeout=-1).done == {done}


# --- Waiting ----------------------------------------------------------------------------------------------------------


class Background:
    """A call in a thread of its own, whose result is asked for later."""

    def __init__(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._thread = threading.Thread(target=lambda: setattr(self, "_result", call(*args, **kwargs)))
        self._thread.start()

    def result(self) -> Any:
        self._thread.join()
        return self._result


FINISHES = {
    "result": lambda future: future.set_result(1),
    "error": lambda future: future.set_exception(ValueError()),
    "cancelled": lambda future: (future.cancel(), future.set_running_or_notify_cancel()),
}


@pytest.mark.parametrize("finish", FINISHES.values(), ids=FINISHES)
def test_first_completed_returns_with_the_first(library: Library, new: Callable[[], Any], finish: Any) -> None:
    first, other = new(), new()
    waiting = Background(library.wait, [first, other], return_when=FIRST_COMPLETED)
    finish(first)
    assert waiting.result() == ({first}, {other})
    assert first._waiters == other._waiters == []


@pytest.mark.parametrize("finish", FINISHES.values(), ids=FINISHES)
def test_all_completed_returns_with_the_last(library: Library, new: Callable[[], Any], finish: Any) -> None:
    fs = [new() for _ in range(5)]
    waiting = Background(library.wait, fs)
    for future in fs:
        finish(future)
    assert waiting.result() == (set(fs), set())
    assert not any(future._waiters for future in fs)


def test_first_exception_returns_with_the_first_exception(library: Library, new: Callable[[], Any]) -> None:
    good, bad, other = new(), new(), new()
    waiting = Background(library.wait, [good, bad, other], return_when=FIRST_EXCEPTION)
    good.set_result(1)
    bad.set_exception(ValueError())
    assert waiting.result() == ({good, bad}, {other})


def test_first_exception_is_not_impressed_by_cancellation(library: Library, new: Callable[[], Any]) -> None:
    cancelled, good = new(), new()
    waiting = Background(library.wait, [cancelled, good], return_when=FIRST_EXCEPTION)
    FINISHES["cancelled"](cancelled)
    good.set_result(1)
    assert waiting.result() == ({cancelled, good}, set())


def test_cancelled_counts_when_it_is_notified(library: Library, new: Callable[[], Any]) -> None:
    future, other = new(), new()
    future.cancel()
    assert library.wait([future, other], timeout=0, return_when=FIRST_COMPLETED).done == set()
    waiting = Background(library.wait, [future, other], return_when=FIRST_COMPLETED)
    future.set_running_or_notify_cancel()
    assert waiting.result().done == {future}


def test_as_completed_follows_the_order_of_completion(library: Library, new: Callable[[], Any]) -> None:
    fs = [new() for _ in range(6)]
    fs[4].set_result(None)
    iterator = library.as_completed(fs)
    assert next(iterator) is fs[4]  # and from here on it watches
    for index in (2, 5, 0):
        fs[index].set_result(None)
    assert [fs.index(next(iterator)) for _ in range(3)] == [2, 5, 0]
    fs[1].set_exception(ValueError())
    assert next(iterator) is fs[1]
    waiting = Background(next, iterator)
    FINISHES["cancelled"](fs[3])
    assert waiting.result() is fs[3]
    assert not any(future._waiters for future in fs)
    assert next(iterator, "end") == "end"


def test_as_completed_yields_while_others_run(library: Library, new: Callable[[], Any]) -> None:
    fs, yielded = [new() for _ in range(4)], queue.SimpleQueue()

    def iterate() -> None:
        for future in library.as_completed(fs):
            yielded.put(future)

    iterating = Background(iterate)
    for future in reversed(fs):
        future.set_result(1)
        assert yielded.get() is future
    iterating.result()


def test_as_completed_that_is_late_has_yielded_the_others(library: Library, new: Callable[[], Any]) -> None:
    done, pending = prepare(new(), "result"), new()
    iterator = library.as_completed([done, pending], timeout=0)
    assert next(iterator) is done
    with pytest.raises(TimeoutError, match=r"^1 \(of 2\) futures unfinished$") as caught:
        next(iterator)
    assert type(caught.value) is TimeoutError
    assert pending._waiters == []


def test_closing_as_completed_leaves_nothing_on_the_futures(library: Library, new: Callable[[], Any]) -> None:
    fs = [prepare(new(), "result"), new(), new()]
    iterator = library.as_completed(fs)
    next(iterator)
    iterator.close()
    assert [future._waiters for future in fs] == [[], [], []]
    dropped = library.as_completed(fs)
    next(dropped)
    del dropped
    gc.collect()
    assert [future._waiters for future in fs] == [[], [], []]
    fs[1].set_result(1)


def test_as_completed_does_nothing_before_it_is_asked(library: Library, new: Callable[[], Any]) -> None:
    pending = new()
    iterator = library.as_completed([pending])
    assert pending._waiters == []
    pending.set_result(1)
    assert list(iterator) == [pending]
    refused = library.as_completed(5)
    with pytest.raises(TypeError):
        next(refused)


def test_yielded_futures_are_not_kept(library: Library, new: Callable[[], Any]) -> None:
    fs = [prepare(new(), "result") for _ in range(4)]
    pending = [new() for _ in range(4)]
    fs += pending
    with pytest.raises(TimeoutError):
        for future in library.as_completed(fs, timeout=0):
            fs.remove(future)
            reference = weakref.ref(future)
            del future
            assert reference() is None
    del pending
    fs[0].set_result(1)
    for future in library.as_completed(fs):
        fs.remove(future)
        reference = weakref.ref(future)
        del future
        assert reference() is None
        if fs:
            fs[0].set_result(1)


def test_many_waits_on_one_future(library: Library, new: Callable[[], Any]) -> None:
    future, others = new(), [new() for _ in range(8)]
    waiting = [Background(library.wait, [future, other], return_when=FIRST_COMPLETED) for other in others]
    iterating = [Background(lambda other=other: next(library.as_completed([future, other]))) for other in others]
    future.set_result(1)
    assert [wait.result() for wait in waiting] == [({future}, {other}) for other in others]
    assert [iteration.result() for iteration in iterating] == [future] * 8


def test_waiting_for_the_tasks_of_a_pool(library: Library) -> None:
    for source in LIBRARIES:
        with source.ThreadPoolExecutor(2) as pool, Gate() as gate:
            (blocked,) = block_workers(pool, gate)
            fs = [pool.submit(pow, 2, number) for number in range(50)]
            assert library.wait(fs) == (set(fs), set())
            assert set(library.as_completed(fs)) == set(fs)
            failing = pool.submit(divmod, 1, 0)
            done, not_done = library.wait([blocked, failing], return_when=FIRST_EXCEPTION)
            assert (done, not_done) == ({failing}, {blocked})
            gate.open()
            assert library.wait([blocked]).done == {blocked}


def test_waiting_for_tasks_of_both_libraries(library: Library) -> None:
    with STANDARD.ThreadPoolExecutor(2) as one, PYCONC.ThreadPoolExecutor(2) as other:
        for _ in range(20):
            fs = [pool.submit(pow, 2, number) for number in range(20) for pool in (one, other)]
            assert library.wait(fs).done == set(fs)
            fs = [pool.submit(pow, 2, number) for number in range(20) for pool in (one, other)]
            assert sorted(f.result() for f in library.as_completed(fs)) == sorted(2 * [2**n for n in range(20)])


# --- Subclasses and strangers -----------------------------------------------------------------------------------------


def test_subclasses_of_either_future(library: Library) -> None:
    for source in LIBRARIES:

        class Own(source.Future):
            """With state that the base knows nothing of."""

            extra = 1

        pending, done = Own(), prepare(Own(), "result")
        assert library.wait([pending, done], return_when=FIRST_COMPLETED) == ({done}, {pending})
        waiting = Background(library.wait, [pending])
        pending.set_exception(ValueError())
        assert waiting.result().done == {pending}


def test_states_written_from_outside(library: Library, new: Callable[[], Any]) -> None:
    # As CPython's own tests make futures.
    for state, expected in [("FINISHED", 1), ("CANCELLED_AND_NOTIFIED", 1), ("CANCELLED", 0), ("RUNNING", 0)]:
        future = new()
        future._state = state
        assert len(library.wait([future], timeout=0).done) == expected
