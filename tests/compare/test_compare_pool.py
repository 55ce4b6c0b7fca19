"""multiprocessing's Pool and ThreadPool: order, exceptions, callbacks, iterables, states, and what is refused."""

import contextlib
import gc
import itertools
import multiprocessing
import operator
import os
import pickle
import queue
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from multiprocessing import pool as standard
from multiprocessing.pool import MaybeEncodingError, RemoteTraceback
from typing import Any

import pytest
from libraries import FORKS, Library, outcome
from support import wait_until

pytestmark = FORKS

MakePool = Callable[..., Any]


@pytest.fixture(params=["processes", "threads"])
def make_pool(request: pytest.FixtureRequest, library: Library) -> MakePool:
    return make_processes(library) if request.param == "processes" else library.multiprocessing.pool.ThreadPool


def make_processes(library: Library) -> MakePool:
    return library.multiprocessing.get_context("fork").Pool


@contextlib.contextmanager
def closing(pool: Any) -> Iterator[Any]:
    """Terminates and joins a pool at the end: leaving `with` alone leaves threads of the standard one behind."""
    try:
        yield pool
    finally:
        pool.terminate()
        pool.join()


def raise_if(limit: int, number: int) -> int:
    if number >= limit:
        raise KeyError(number)
    return number


def raise_from_third(number: int) -> int:
    return raise_if(2, number)


class Note:
    """Writes down in a folder what was called."""

    def __init__(self, folder: Any) -> None:
        self.folder = str(folder)

    def __call__(self, number: int) -> int:
        open(os.path.join(self.folder, str(number)), "w").close()
        return raise_if(100, number)

    def seen(self) -> set[int]:
        return set(map(int, os.listdir(self.folder)))


def wait_for(path: str) -> str:
    """Waits for a file that is written to a pipe, so that nobody has to look again and again."""
    with open(path) as pipe:
        return pipe.read()


# --- Results ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunksize", [None, 1, 3, 1000])
def test_results_are_in_the_order_of_the_items(make_pool: MakePool, chunksize: int | None) -> None:
    with closing(make_pool(2)) as pool:
        for length in (0, 1, 10, 200):
            items, expected = range(-length, 0), [abs(number) for number in range(-length, 0)]
            pairs = [(number, 2) for number in items]
            assert pool.map(abs, items, chunksize) == expected
            assert pool.map(abs, iter(items), chunksize) == expected
            assert pool.map_async(abs, items, chunksize).get() == expected
            assert pool.starmap(pow, pairs, chunksize) == [number**2 for number in items]
            assert pool.starmap_async(operator.mul, iter(pairs), chunksize).get() == [2 * number for number in items]
            for iterable in (list(items), iter(items)):
                assert list(pool.imap(abs, iterable, chunksize or 1)) == expected
            for iterable in (list(items), iter(items)):
                assert sorted(pool.imap_unordered(abs, iterable, chunksize or 1)) == sorted(expected)


def test_apply(make_pool: MakePool) -> None:
    with closing(make_pool(1)) as pool:
        assert pool.apply(int, ("ff",), {"base": 16}) == 255
        assert pool.apply(dict, kwds={"func": 1, "args": 2}) == {"func": 1, "args": 2}
        result = pool.apply_async(int, ("ff", 16))
        result.wait()
        assert (result.get(), result.get(1), result.ready(), result.successful()) == (255, 255, True, True)


@pytest.mark.parametrize(("args", "kwds"), [(5, {}), ((), None), ((), [("a", 1)]), ((), {1: 2})])
def test_what_are_no_arguments_is_the_calls_error(make_pool: MakePool, args: Any, kwds: Any) -> None:
    with closing(make_pool(1)) as pool:
        errors: queue.SimpleQueue[BaseException] = queue.SimpleQueue()
        result = pool.apply_async(int, args, kwds, error_callback=errors.put)
        with pytest.raises(TypeError) as caught:
            result.get()
        assert errors.get() is caught.value


def test_what_a_call_raises(make_pool: MakePool) -> None:
    with closing(make_pool(1)) as pool:
        for call in (
            lambda: pool.apply(raise_if, (1, 5)),
            lambda: pool.map(raise_from_third, [0, 1, 2]),
            lambda: pool.map(raise_from_third, [0, 1, 2], 2),
            lambda: pool.starmap(raise_if, [(2, 0), (2, 2)]),
            lambda: list(pool.imap(raise_from_third, [0, 1, 2])),
            lambda: list(pool.imap_unordered(raise_from_third, [0, 1, 2], 2)),
        ):
            with pytest.raises(KeyError) as error:
                call()
            cause = error.value.__cause__
            if "ThreadPool" in repr(pool):
                assert cause is None
            else:
                assert type(cause) is RemoteTraceback
                assert "raise KeyError(number)" in cause.tb
                assert str(cause) == cause.tb


class Stuck(Exception):
    def __reduce__(self) -> Any:
        raise RuntimeError("no pickle")


def raise_stuck(number: int) -> None:
    raise Stuck(number)


def return_stuck(number: int) -> Exception:
    return Stuck(number)


@pytest.mark.parametrize("call", [raise_stuck, return_stuck])
def test_what_cannot_be_sent_back(library: Library, call: Callable[[int], Any]) -> None:
    with closing(make_processes(library)(1)) as pool:
        for make in (pool.map, lambda *args: next(pool.imap(*args)), lambda fn, args: pool.apply(fn, args)):
            with pytest.raises(MaybeEncodingError, match="Error sending result") as caught:
                make(call, [1])
            assert caught.value.exc == repr(RuntimeError("no pickle"))


def test_map_makes_all_calls_though_one_has_raised(make_pool: MakePool, tmp_path: Any) -> None:
    note = Note(tmp_path)
    with closing(make_pool(2)) as pool:
        with pytest.raises(KeyError, match="200"):
            pool.map(note, [0, 200, 1, 2, 3], chunksize=1)
        assert note.seen() == {0, 1, 2, 3, 200}


@pytest.mark.parametrize("chunksize", [1, 2])
def test_starmap_makes_the_other_calls_though_one_has_no_arguments(
    make_pool: MakePool, tmp_path: Any, chunksize: int
) -> None:
    note = Note(tmp_path)
    with closing(make_pool(1)) as pool:
        with pytest.raises(TypeError, match="not iterable"):
            pool.starmap(note, [(0,), (1,), 5, (2,), (3,), (4,)], chunksize)
        assert note.seen() >= {0, 1, 3, 4}


def test_imap_goes_on_after_what_a_call_has_raised(make_pool: MakePool) -> None:
    with closing(make_pool(1)) as pool:
        results = pool.imap(raise_from_third, [0, 5, 1])
        assert [outcome(next, results)[0] for _ in range(4)] == ["returned", "raised", "returned", "raised"]
        assert outcome(next, results) == outcome(next, iter([]))


def test_imap_in_chunks_ends_with_what_a_call_has_raised(make_pool: MakePool) -> None:
    with closing(make_pool(1)) as pool:
        results = pool.imap(raise_from_third, [0, 1, 5, 0, 1, 1], chunksize=2)
        assert [outcome(next, results)[0] for _ in range(3)] == ["returned", "returned", "raised"]
        assert outcome(next, results) == outcome(next, iter([]))


def test_time_outs(make_pool: MakePool, tmp_path: Any) -> None:
    pipe = str(tmp_path / "pipe")
    os.mkfifo(pipe)
    with closing(make_pool(1)) as pool:
        result, results = pool.apply_async(wait_for, (pipe,)), pool.imap(abs, [-1])
        for timeout in (0, 0.001, -1):
            with pytest.raises(multiprocessing.TimeoutError):
                result.get(timeout)
            with pytest.raises(multiprocessing.TimeoutError):
                results.next(timeout)
        result.wait(0.001)
        assert not result.ready()
        with pytest.raises(ValueError, match=r"^<.*(Apply|Async)Result object at .*> not ready$"):
            result.successful()
        with open(pipe, "w") as file:
            file.write("opened")
        assert result.get(60) == "opened"
        assert results.next(timeout=60) == 1


def test_how_far_it_has_come(make_pool: MakePool, tmp_path: Any) -> None:
    pipe = str(tmp_path / "pipe")
    os.mkfifo(pipe)
    with closing(make_pool(1)) as pool:
        result = pool.map_async(wait_for, [pipe], chunksize=1)
        others, disordered = pool.imap(abs, range(5)), pool.imap_unordered(abs, range(5))
        assert (result._chunksize, result._number_left, others._index, disordered._index) == (1, 1, 0, 0)
        with open(pipe, "w") as file:
            file.write("opened")
        assert (result.get(), result._number_left) == (["opened"], 0)
        for results in (others, disordered):
            assert sorted(results) == list(range(5))
            assert (results._index, results._length) == (5, 5)
        assert pool.map_async(abs, range(100))._chunksize == 25


def test_fields_that_programs_read(library: Library, make_pool: MakePool, tmp_path: Any) -> None:
    with closing(make_pool(1, pow, (2, 5))) as pool:
        assert (pool._processes, pool._initializer, pool._initargs) == (1, pow, (2, 5))
        assert pool._maxtasksperchild is None
        assert pool._ctx.Lock().acquire()
        results = [pool.apply_async(abs, (-1,)), pool.map_async(abs, [-1, -2]), pool.map_async(raise_if, [0, (1, 2)])]
        for result in results:
            result.wait()
        assert [(result._success, result._value) for result in results[:2]] == [(True, 1), (True, [1, 2])]
        assert (results[2]._success, type(results[2]._value)) == (False, TypeError)
        # A manager asks for all that there is, also while the call runs.
        gate = tmp_path / "gate"
        os.mkfifo(gate)
        waiting = pool.apply_async(wait_for, (str(gate),))
        assert [name for name in dir(waiting) if not hasattr(waiting, name)] == []
        assert not hasattr(waiting, "_value")
        gate.write_text("open")
        assert (waiting.get(), waiting._value) == ("open", "open")
    with closing(library.multiprocessing.get_context("fork").Pool(1, maxtasksperchild=7)) as pool:
        assert (pool._maxtasksperchild, pool._ctx.get_start_method()) == (7, "fork")


# --- Methods of the program's own -------------------------------------------------------------------------------------


def istarmap(pool: Any, function: Any, items: Any, chunksize: int = 1) -> Any:
    """What programs add to the class: an imap() with more arguments than one, made of the standard class's parts."""
    results: Any = standard.IMapIterator(pool)
    chunks = standard.Pool._get_tasks(function, items, chunksize)
    tasks = pool._guarded_task_generation(results._job, standard.starmapstar, chunks)
    pool._taskqueue.put((tasks, results._set_length))
    return (result for chunk in results for result in chunk)


def test_an_iterator_that_the_program_has_made(make_pool: MakePool) -> None:
    def three_and_an_error() -> Iterator[tuple[int, int]]:
        yield from [(1, 0), (1, 1), (1, 2)]
        raise KeyError("source")

    with closing(make_pool(2)) as pool:
        assert list(istarmap(pool, pow, [(2, 5), (3, 2)])) == [32, 9]
        assert list(istarmap(pool, pow, [])) == []
        assert list(istarmap(pool, operator.add, ((n, 1) for n in range(500)), 3)) == list(range(1, 501))
        for items, error in ([(5, 0), (5, 5), (5, 1)], KeyError(5)), (three_and_an_error(), KeyError("source")):
            results, seen = istarmap(pool, raise_if if error.args == (5,) else pow, items), []
            with pytest.raises(KeyError) as caught:
                for result in results:
                    seen.append(result)
            assert (seen, caught.value.args) == ([0] if error.args == (5,) else [1, 1, 1], error.args)


def test_a_result_that_the_program_has_made(make_pool: MakePool) -> None:
    seen: list[int] = []
    with closing(make_pool(1)) as pool:
        result: Any = standard.ApplyResult(pool, seen.append, None)
        failure: Any = standard.ApplyResult(pool, None, None)
        assert pool._cache[result._job] is result
        for made, call in (result, (pow, (2,), {"exp": 5})), (failure, (raise_if, (0, 0), {})):
            pool._taskqueue.put(([(made._job, 0, *call)], None))
        assert (result.get(), seen) == (32, [32])
        with pytest.raises(KeyError):
            failure.get()
        assert len(pool._cache) == 0


def test_how_many_results_there_are_to_come(make_pool: MakePool, tmp_path: Any) -> None:
    pipe = str(tmp_path / "pipe")
    os.mkfifo(pipe)
    with closing(make_pool(1)) as pool:
        wait_until(lambda: (len(pool._cache), bool(pool._cache)) == (0, False))  # threads are there, and free
        result = pool.apply_async(wait_for, (pipe,))
        others = [pool.apply_async(abs, (-1,)), pool.map_async(abs, range(9)), standard.ApplyResult(pool, None, None)]
        results = [pool.imap(abs, range(9)), pool.imap(abs, iter(range(500)))]
        assert (len(pool._cache), bool(pool._cache)) == (6, True)
        with open(pipe, "w") as file:
            file.write("opened")
        assert (result.get(), [len(list(iterator)) for iterator in results]) == ("opened", [9, 500])
        wait_until(lambda: len(pool._cache) == 1)
        pool._taskqueue.put(([(others[2]._job, 0, abs, (-2,), {})], None))
        assert [other.get() for other in others] == [1, list(range(9)), 2]
        wait_until(lambda: not pool._cache)
        wait_until(pool._taskqueue.empty)


# --- Callbacks --------------------------------------------------------------------------------------------------------


def test_callbacks_are_called_in_one_thread_and_before_the_result_is_ready(make_pool: MakePool) -> None:
    seen = []

    def note(value: Any) -> None:
        seen.append((value, threading.current_thread(), [result.ready() for result in results]))

    with closing(make_pool(1)) as pool:
        results = []
        results.append(pool.apply_async(abs, (-1,), callback=note, error_callback=note))
        results[0].wait()
        results.append(pool.apply_async(raise_if, (0, 0), callback=note, error_callback=note))
        results[1].wait()
        results.append(pool.map_async(abs, [-2, -3], callback=note, error_callback=note))
        results[2].wait()
        results.append(pool.starmap_async(raise_if, [(0, 0)], callback=note, error_callback=note))
        results[3].wait()
    values, threads, ready = zip(*seen)
    assert [str(value) for value in values] == ["1", "0", "[2, 3]", "0"]
    assert len(set(threads)) == 1
    assert threads[0] is not threading.current_thread()
    assert [states[-1] for states in ready] == [False] * 4


def test_callbacks_are_called_in_the_order_of_the_ends(make_pool: MakePool) -> None:
    seen: list[int] = []
    pool = make_pool(1)
    for number in range(500):
        pool.apply_async(abs, (number,), callback=seen.append)
    pool.close()
    pool.join()
    assert seen == list(range(500))


def test_nothing_is_called_back_for_an_empty_list(make_pool: MakePool) -> None:
    seen: list[Any] = []
    with closing(make_pool(1)) as pool:
        result = pool.map_async(abs, [], callback=seen.append)
        assert (result.ready(), result.successful(), result.get()) == (True, True, [])
    assert seen == []


def test_a_callback_may_use_the_pool_and_end_it(make_pool: MakePool) -> None:
    ended = threading.Event()

    def go_on(value: int) -> None:
        if value < 3:
            pool.apply_async(operator.add, (value, 1), callback=go_on)
        else:
            pool.terminate()
            ended.set()

    pool = make_pool(1)
    pool.apply_async(abs, (0,), callback=go_on)
    assert ended.wait(60)
    pool.join()


# --- Iterables --------------------------------------------------------------------------------------------------------


def raising_after(count: int, error: BaseException) -> Iterator[int]:
    yield from range(count)
    raise error


@pytest.mark.parametrize("chunksize", [1, 2])
def test_what_an_iterable_raises_comes_after_the_results_before_it(make_pool: MakePool, chunksize: int) -> None:
    with closing(make_pool(2)) as pool:
        results = pool.imap(abs, raising_after(200, LookupError("source")), chunksize)
        assert list(itertools.islice(results, 200)) == list(range(200))
        with pytest.raises(LookupError, match="source") as error:
            next(results)
        assert error.value.__cause__ is None
        with pytest.raises(StopIteration):
            next(results)
        with pytest.raises(LookupError):
            list(pool.imap_unordered(abs, raising_after(3, LookupError("source")), chunksize))
        with pytest.raises(LookupError):
            pool.map(abs, raising_after(3, LookupError("source")), chunksize)


class Sized:
    """Has a length, and may raise."""

    def __init__(self, iterable: Callable[[], Iterator[int]]) -> None:
        self._iterable = iterable

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[int]:
        return self._iterable()


def test_iterables_with_a_length(make_pool: MakePool) -> None:
    errors: list[Any] = []
    with closing(make_pool(2)) as pool:
        assert pool.map(abs, Sized(lambda: iter(range(3)))) == [0, 1, 2]
        result = pool.map_async(abs, Sized(lambda: raising_after(2, LookupError())), 1, error_callback=errors.append)
        with pytest.raises(LookupError):
            result.get()
        assert [type(error) for error in errors] == [LookupError]


def test_an_iterable_may_wait_for_what_is_done_with_the_results(make_pool: MakePool) -> None:
    found: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    found.put(0)
    seen = []
    with closing(make_pool(2)) as pool:
        for number in pool.imap_unordered(abs, iter(found.get, None)):
            seen.append(number)
            found.put(number + 1 if number < 20 else None)
    assert seen == list(range(21))


def test_an_iterable_may_have_no_end(make_pool: MakePool) -> None:
    with closing(make_pool(2)) as pool:
        results = pool.imap(abs, itertools.count())
        assert list(itertools.islice(results, 500)) == list(range(500))


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("method", ["imap", "imap_unordered", "map_async"])
def test_calls_are_made_though_nobody_takes_the_results(
    make_pool: MakePool, tmp_path: Any, method: str, lazy: bool
) -> None:
    note, items = Note(tmp_path), range(90)
    pool = make_pool(2)
    results = getattr(pool, method)(note, iter(items) if lazy else items)
    pool.close()
    pool.join()
    assert note.seen() == set(items)
    assert sorted(results.get() if method == "map_async" else results) == list(items)


# --- States -----------------------------------------------------------------------------------------------------------


def test_states(make_pool: MakePool) -> None:
    pool = make_pool(2)
    said = [repr(pool), outcome(pool.join)]
    pool.close()
    pool.close()
    said += [re.sub(r" pool_size=\d>", " pool_size=2>", repr(pool))]  # pyconc's workers leave, one after the other
    said += [outcome(call) for call in (pool.__enter__, *uses(pool))]
    pool.join()
    pool.join()
    pool.terminate()
    pool.terminate()
    pool.join()
    said += [outcome(call) for call in (pool.__enter__, *uses(pool))]
    not_running = ("raised", ValueError, "Pool not running")
    name = type(pool).__name__
    assert [text.replace("pyconc.", "") for text in said if isinstance(text, str)] == [
        f"<multiprocessing.pool.{name} state=RUN pool_size=2>",
        f"<multiprocessing.pool.{name} state=CLOSE pool_size=2>",
    ]
    others = [text for text in said if not isinstance(text, str)]
    assert others == [("raised", ValueError, "Pool is still running"), *[not_running] * 18]


def uses(pool: Any) -> list[Callable[[], Any]]:
    names = ["map", "map_async", "starmap", "starmap_async", "imap", "imap_unordered"]
    calls: list[Callable[[], Any]] = [lambda name=name: getattr(pool, name)(abs, [1]) for name in names]
    return [*calls, lambda: pool.apply(abs, (1,)), lambda: pool.apply_async(abs, (1,))]


def test_leaving_with_terminates(make_pool: MakePool) -> None:
    with make_pool(1) as pool:
        assert pool.apply(abs, (-1,)) == 1
    assert outcome(pool.apply, abs, (1,)) == ("raised", ValueError, "Pool not running")
    pool.join()


def test_a_pool_cannot_be_pickled(make_pool: MakePool) -> None:
    with closing(make_pool(1)) as pool:
        message = "pool objects cannot be passed between processes or pickled"
        assert outcome(pickle.dumps, pool) == ("raised", NotImplementedError, message)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"processes": 0}, ValueError, "Number of processes must be at least 1"),
        ({"processes": -1}, ValueError, "Number of processes must be at least 1"),
        ({"initializer": 1}, TypeError, "initializer must be a callable"),
        ({"processes": 1.5}, TypeError, "'float' object cannot be interpreted as an integer"),
    ],
)
def test_what_is_refused(make_pool: MakePool, arguments: Any, error: type[Exception], message: str) -> None:
    assert outcome(lambda: make_pool(**arguments)) == ("raised", error, message)


@pytest.mark.parametrize("count", [0, -1, 0.5, "12"])
def test_what_is_refused_as_maxtasksperchild(library: Library, count: Any) -> None:
    message = "maxtasksperchild must be a positive int or None"
    make = make_processes(library)
    assert outcome(lambda: make(1, maxtasksperchild=count)) == ("raised", ValueError, message)


def test_chunksizes_that_are_refused(make_pool: MakePool) -> None:
    with closing(make_pool(1)) as pool:
        for method in (pool.imap, pool.imap_unordered):
            assert outcome(method, abs, [1], 0) == ("raised", ValueError, "Chunksize must be 1+, not 0")
        for chunksize in (0, -1):
            assert pool.map(abs, [], chunksize) == []
        result = pool.map_async(abs, [1, 2], 0, callback=print)
        assert (result.get(), result.ready()) == ([None, None], True)
        assert outcome(pool.map, abs, 5)[:2] == ("raised", TypeError)
        assert outcome(pool.apply, abs, 5)[:2] == ("raised", TypeError)


def test_a_pool_that_is_not_closed_says_so(make_pool: MakePool) -> None:
    pool = make_pool(1)
    name = type(pool).__name__
    pool.terminate()
    pool.join()
    pool._state = "RUN"  # the standard pool leaves its threads behind if this is true
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        del pool
        gc.collect()
    text = rf"unclosed running multiprocessing pool <multiprocessing.pool.{name} state=RUN pool_size=\d>"
    assert re.fullmatch(text, str(said[0].message).replace("pyconc.", ""))


def test_workers_are_all_there_at_once_and_each_has_begun(make_pool: MakePool) -> None:
    with closing(make_pool(3)) as pool:
        assert len(pool._pool) == 3
        assert all(worker.is_alive() for worker in pool._pool)


def touch(folder: str) -> None:
    open(os.path.join(folder, f"{os.getpid()}-{threading.get_ident()}"), "w").close()


def test_each_worker_begins_by_the_initializer(make_pool: MakePool, tmp_path: Any) -> None:
    pool = make_pool(2, touch, (str(tmp_path),))
    pool.close()
    pool.join()
    assert len(os.listdir(tmp_path)) == 2


def test_maxtasksperchild(library: Library) -> None:
    pool = make_processes(library)(1, maxtasksperchild=2)
    pids = [pool.apply(os.getpid) for _ in range(6)]
    assert [len(list(same)) for _, same in itertools.groupby(pids)] == [2, 2, 2]
    pids = pool.map(pid_for, range(6), chunksize=3)
    assert [len(list(same)) for _, same in itertools.groupby(pids)] == [6]
    pool.close()
    pool.join()


def pid_for(number: int) -> int:
    return os.getpid()
