"""ProcessPoolExecutor: construction, submit, outcomes, cancelling, callbacks, initializers, deaths."""

import functools
import inspect
import multiprocessing
import operator
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, Executor
from concurrent.futures.process import BrokenProcessPool, _RemoteTraceback
from typing import Any

import pytest
import tasks
from libraries import FORKS, LIBRARIES, STANDARD, Library, Log, outcome
from support import wait_until
from tasks import Gate, Notes, block_workers

pytestmark = FORKS

MAX_TASKS = ((3, 11), "max_tasks_per_child")

# Behind so many tasks the oracle has handed a task to no worker, when it has one: one runs, two are on their way.
# pyconc hands a task over when a worker takes it.
ON_THEIR_WAY = 3


@pytest.fixture(scope="module", params=LIBRARIES, ids=str)
def pool(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A pool of two workers for tests that leave it as it was."""
    with request.param.process_pool(2) as pool:
        with Gate() as gate:
            block_workers(pool, gate, 2)
        pool.library = request.param
        yield pool


# --- Construction -----------------------------------------------------------------------------------------------------


def test_is_a_standard_executor(library: Library) -> None:
    assert issubclass(library.ProcessPoolExecutor, STANDARD.ProcessPoolExecutor)
    assert library.ProcessPoolExecutor.__name__ == library.ProcessPoolExecutor.__qualname__ == "ProcessPoolExecutor"
    with library.process_pool(1) as pool:
        assert isinstance(pool, STANDARD.ProcessPoolExecutor)
        assert isinstance(pool, Executor)


def test_the_two_libraries_are_two(pool: Any) -> None:
    library = pool.library
    assert type(pool) is library.ProcessPoolExecutor
    assert type(pool.submit(int)) is library.Future
    assert (library.ProcessPoolExecutor is STANDARD.ProcessPoolExecutor) == (library is STANDARD)


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"max_workers": 0}, ValueError, "max_workers must be greater than 0"),
        ({"max_workers": -5}, ValueError, "max_workers must be greater than 0"),
        ({"initializer": 42}, TypeError, "initializer must be a callable"),
        ({"initializer": "name"}, TypeError, "initializer must be a callable"),
        ({"max_workers": 0, "initializer": 42}, ValueError, "max_workers must be greater than 0"),
    ],
    ids=str,
)
def test_wrong_arguments(library: Library, kwargs: dict[str, Any], error: type[Exception], message: str) -> None:
    assert outcome(lambda: library.ProcessPoolExecutor(**kwargs)) == ("raised", error, message)


@pytest.mark.parametrize("number", ["4", [], object(), 1.5], ids=type)
def test_max_workers_must_be_a_number(library: Library, number: Any) -> None:
    with pytest.raises(TypeError):
        library.ProcessPoolExecutor(number)


@pytest.mark.parametrize(
    ("number", "error", "message"),
    [
        ("3", TypeError, "max_tasks_per_child must be an integer"),
        (1.0, TypeError, "max_tasks_per_child must be an integer"),
        (0, ValueError, "max_tasks_per_child must be >= 1"),
        (-1, ValueError, "max_tasks_per_child must be >= 1"),
        (False, ValueError, "max_tasks_per_child must be >= 1"),
    ],
)
def test_wrong_max_tasks_per_child(library: Library, number: Any, error: type[Exception], message: str) -> None:
    library.requires(*MAX_TASKS)
    call = functools.partial(library.ProcessPoolExecutor, 1, max_tasks_per_child=number)
    assert outcome(call) == ("raised", error, message)
    assert outcome(functools.partial(call, mp_context=multiprocessing.get_context("fork"))) == outcome(call)


def test_max_tasks_per_child_does_not_go_with_fork(library: Library) -> None:
    library.requires(*MAX_TASKS)
    with pytest.raises(ValueError, match=r"^max_tasks_per_child is incompatible with the 'fork' multiprocessing start"):
        library.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork"), max_tasks_per_child=1)


def test_constructor_takes_the_standard_arguments(library: Library) -> None:
    names = list(inspect.signature(library.ProcessPoolExecutor).parameters)
    expected = ["max_workers", "mp_context", "initializer", "initargs"]
    assert names[:4] == expected
    if library.newest or "max_tasks_per_child" in names:
        assert names[4] == "max_tasks_per_child"
    context = multiprocessing.get_context("fork")
    with library.ProcessPoolExecutor(1, context, tasks.initialize, ("started",)) as pool:
        assert pool.submit(tasks.initialized).result() == [("started",)]
    with pytest.raises(TypeError):
        library.ProcessPoolExecutor(workers=1)


@pytest.mark.parametrize("method", ["fork", "forkserver", pytest.param("spawn", marks=pytest.mark.slow)])
def test_contexts(library: Library, method: str) -> None:
    context = multiprocessing.get_context(method)
    with library.ProcessPoolExecutor(1, context, tasks.initialize, ("a", "b")) as pool:
        assert pool._mp_context is context
        assert pool.submit(tasks.initialized).result() == [("a", "b")]
        assert pool.submit(tasks.identify).result() in pool._processes
        (worker,) = pool._processes.values()
        assert worker.is_alive()
    assert not worker.is_alive()
    assert worker.exitcode == 0


@pytest.mark.skipif(sys.version_info >= (3, 15), reason="from Python 3.15 on it is an error, and nothing is forked")
def test_a_warning_of_a_fork_that_is_an_error(library: Library) -> None:
    leave = threading.Event()
    other = threading.Thread(target=leave.wait)
    other.start()
    try:
        with library.ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool, warnings.catch_warnings():
            warnings.filterwarnings("error", "This process .* is multi-threaded", DeprecationWarning)
            assert pool.submit(abs, -1).result() == 1
    finally:
        leave.set()
        other.join()


def test_workers_are_processes_of_multiprocessing(pool: Any) -> None:
    pids = {pool.submit(tasks.identify).result() for _ in range(20)}
    assert pids <= set(pool._processes)
    assert len(pool._processes) == 2
    for pid, process in pool._processes.items():
        assert isinstance(process, multiprocessing.process.BaseProcess)
        assert (process.pid, process.is_alive(), process.exitcode, process.daemon) == (pid, True, None, False)


def test_what_a_worker_knows_of_itself(pool: Any) -> None:
    assert pool.submit(os.getpid).result() != os.getpid()
    assert pool.submit(tasks.parent_and_daemon).result() == (os.getpid(), False)
    assert pool.submit(os.getcwd).result() == os.getcwd()


def test_fields_that_monitoring_reads(library: Library) -> None:
    with library.process_pool(1) as pool:
        assert (pool._max_workers, pool._shutdown_thread, pool._broken) == (1, False, False)
        assert pool._processes == {}
        assert pool._executor_manager_thread is None
        pool.submit(int).result()
        assert len(pool._processes) == 1
        assert pool._executor_manager_thread.is_alive()
        thread = pool._executor_manager_thread
        pool.submit(int).result()
        assert pool._queue_count == 2
    assert (pool._shutdown_thread, pool._processes, pool._executor_manager_thread) == (True, None, None)
    assert not thread.is_alive()


def test_what_workers_are_made_by_may_be_set_until_something_is_submitted(library: Library, tmp_path: Any) -> None:
    notes = Notes(tmp_path / "notes")
    with library.process_pool(1, initializer=operator.truth, initargs=(1,)) as pool:
        pool._max_workers, pool._initializer, pool._initargs = 2, notes.append, (7,)
        with Gate() as gate:
            block_workers(pool, gate, 2)
    assert notes.read() == [7, 7]


def test_a_pool_that_is_marked_as_shut_down_refuses_tasks(library: Library) -> None:
    with library.process_pool(1) as pool:
        pool.submit(int).result()
        pool._shutdown_thread = True
        assert outcome(pool.submit, int) == ("raised", RuntimeError, "cannot schedule new futures after shutdown")


# --- Submit -----------------------------------------------------------------------------------------------------------


def test_submit_passes_arguments(pool: Any) -> None:
    assert pool.submit(tasks.capture).result() == ((), {})
    assert pool.submit(tasks.capture, 1, 2, x=3).result() == ((1, 2), {"x": 3})
    names = {"self": 1, "fn": 2, "args": 3, "kwargs": 4, "executor": 5, "task": 6}
    assert pool.submit(tasks.capture, 1, **names).result() == ((1,), names)
    assert pool.submit(tasks.capture, *range(1000)).result() == (tuple(range(1000)), {})
    many = {f"name{i}": i for i in range(300)}
    assert pool.submit(tasks.capture, **many).result() == ((), many)


@pytest.mark.parametrize(
    "value", [None, 0, "", b"x" * 5_000_000, [[]], {"a": (1,)}, tasks.Thing(3), ValueError], ids=type
)
def test_values_cross_and_come_back(pool: Any, value: Any) -> None:
    assert pool.submit(tasks.capture, value, x=value).result() == ((value,), {"x": value})


def test_a_returned_exception_is_a_result(pool: Any) -> None:
    future = pool.submit(ValueError, 1)
    assert future.exception() is None
    assert (type(future.result()), future.result().args) == (ValueError, (1,))


def test_submit_needs_a_positional_function(pool: Any) -> None:
    for kwargs in [{}, {"fn": tasks.capture}, {"arg": 1}]:
        with pytest.raises(TypeError):
            pool.submit(**kwargs)


def test_what_is_not_callable_fails_in_the_task(pool: Any) -> None:
    future = pool.submit(42)
    assert str(future.exception()) == "'int' object is not callable"
    assert type(future.exception()) is TypeError


@pytest.mark.parametrize(
    "function",
    [
        int,
        "text".upper,
        tasks.Thing(5),
        tasks.Thing(5).method,
        functools.partial(pow, 2, 3),
        operator.attrgetter("__name__"),
    ],
    ids=type,
)
def test_every_kind_of_callable(pool: Any, function: Any) -> None:
    args = (tasks.Thing,) if isinstance(function, operator.attrgetter) else ()
    for _ in range(2):  # what is sent once may be remembered
        assert pool.submit(function, *args).result() == function(*args)


def test_a_callable_with_state_is_sent_as_it_is_now(pool: Any) -> None:
    thing = tasks.Thing(1)
    assert pool.submit(thing, 1).result() == 2
    thing.number = 5
    assert pool.submit(thing, 1).result() == 6


def test_tasks_start_in_the_order_of_submission(library: Library, tmp_path: Any) -> None:
    notes = Notes(tmp_path / "notes")
    with library.process_pool(1) as pool:
        for number in range(300):
            pool.submit(notes.append, number)
    assert notes.read() == list(range(300))


def test_future_is_running_while_its_task_runs(pool: Any) -> None:
    with Gate() as gate:
        for future in block_workers(pool, gate, 2):
            # The oracle says so before, pyconc as soon as somebody asks.
            assert future._state == "RUNNING"
            assert future.running()
            assert not future.cancel()
            assert not future.done()


def test_workers_run_at_the_same_time(pool: Any) -> None:
    with Gate() as gate:
        futures = block_workers(pool, gate, 2)
        third = pool.submit(int)
        gate.let(1)
        assert pool.library.wait(futures, return_when="FIRST_COMPLETED").not_done
        assert third.result() == 0


def test_many_threads_submit_at_once(pool: Any) -> None:
    results: list[int] = []

    def submit_many(start: int) -> None:
        futures = [pool.submit(int, number) for number in range(start, start + 100)]
        results.extend(future.result() for future in futures)

    threads = [threading.Thread(target=submit_many, args=(100 * i,)) for i in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == list(range(500))


# --- Exceptions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        ValueError("text"),
        OSError(2, "No such thing", "name"),
        StopIteration(5),
        KeyboardInterrupt(),
        SystemExit(3),
        GeneratorExit(),
        BaseException(1),
        UnicodeDecodeError("ascii", b"\xff", 0, 1, "reason"),
    ],
    ids=type,
)
def test_any_exception_of_a_task_is_its_result(pool: Any, error: BaseException) -> None:
    future = pool.submit(tasks.fail, error)
    raised = future.exception()
    assert (type(raised), raised.args, str(raised)) == (type(error), error.args, str(error))
    with pytest.raises(type(error)) as caught:
        future.result()
    assert caught.value is raised
    # The worker goes on.
    assert pool.submit(pow, 2, 3).result() == 8


def test_the_cause_of_an_exception_shows_where_it_was_raised(pool: Any) -> None:
    error = pool.submit(tasks.fail, LookupError("deep")).exception()
    assert type(error.__cause__) is _RemoteTraceback
    assert error.__cause__.tb == str(error.__cause__)
    text = str(error.__cause__)
    assert text.startswith('\n"""\nTraceback (most recent call last):\n')
    assert text.endswith('LookupError: deep\n"""')
    places = [line.rpartition(", in ")[2] for line in text.splitlines() if line.startswith("  File ")]
    assert places[-2:] == ["fail", "_raise"]


def test_the_remote_traceback_shows_what_led_to_the_exception(pool: Any) -> None:
    error = pool.submit(tasks.fail_because).exception()
    text = str(error.__cause__)
    assert "KeyError: 'the first'\n\nThe above exception was the direct cause of the following exception:" in text
    assert text.endswith('ValueError: the second\n"""')
    assert error.__context__ is None
    assert error.__suppress_context__


def test_notes_on_an_exception_cross(pool: Any) -> None:
    error = ValueError("text")
    error.__dict__.update(__notes__=["a note"], extra=5)
    raised = pool.submit(tasks.fail, error).exception()
    assert (raised.__notes__, raised.extra) == (["a note"], 5)


# --- What cannot be pickled -------------------------------------------------------------------------------------------


def test_what_cannot_be_pickled_fails_its_task_only(pool: Any) -> None:
    for future in [
        pool.submit(tasks.capture, threading.Lock()),
        pool.submit(tasks.capture, x=threading.Lock()),
        pool.submit(threading.Lock().acquire),
        pool.submit(tasks.make_unpicklable),
    ]:
        error = future.exception()
        assert (type(error), str(error)) == (TypeError, "cannot pickle '_thread.lock' object")
        assert type(error.__cause__) is _RemoteTraceback
        assert "cannot pickle '_thread.lock' object" in str(error.__cause__)
    assert pool.submit(pow, 2, 3).result() == 8


def test_an_exception_that_cannot_be_pickled_is_told_of(pool: Any) -> None:
    # The oracle tells why it cannot be pickled, pyconc also what it was.
    error = pool.submit(tasks.fail_unpicklable).exception()
    assert isinstance(error, (TypeError, BrokenProcessPool))
    assert "cannot pickle '_thread.lock' object" in str(error)
    assert type(error.__cause__) is _RemoteTraceback
    assert pool.submit(pow, 2, 3).result() == 8


@pytest.mark.parametrize(
    "call",
    [(tasks.capture, tasks.Unloadable()), (tasks.return_unloadable,), (tasks.fail_unloadable,)],
    ids=["arguments", "result", "exception"],
)
def test_what_cannot_be_rebuilt_is_a_broken_process_pool(library: Library, call: tuple[Any, ...], capfd: Any) -> None:
    # The oracle's pool is broken by it; pyconc's goes on.
    with library.process_pool(1) as pool:
        assert isinstance(pool.submit(*call).exception(), BrokenProcessPool)


# --- Cancel -----------------------------------------------------------------------------------------------------------


def test_a_queued_task_can_be_cancelled(library: Library, tmp_path: Any) -> None:
    notes = Notes(tmp_path / "notes")
    with library.process_pool(1) as pool, Gate() as gate:
        block_workers(pool, gate)
        futures = [pool.submit(notes.append, number) for number in range(ON_THEIR_WAY + 10)]
        cancelled = [ON_THEIR_WAY, ON_THEIR_WAY + 3, ON_THEIR_WAY + 9]
        for number in cancelled:
            assert futures[number].cancel()
            assert futures[number].cancelled()
            assert futures[number].cancel()
            assert not futures[number].running()
        gate.open()
    assert notes.read() == [number for number in range(ON_THEIR_WAY + 10) if number not in cancelled]
    assert all(futures[number]._state == "CANCELLED_AND_NOTIFIED" for number in cancelled)


def test_a_cancelled_task_is_waited_for_in_vain_no_longer_than_its_turn(library: Library) -> None:
    with library.process_pool(1) as pool, Gate() as gate:
        block_workers(pool, gate)
        futures = [pool.submit(int) for _ in range(ON_THEIR_WAY + 1)]
        futures[-1].cancel()
        gate.open()
        assert library.wait(futures).done == set(futures)
        assert set(library.as_completed(futures)) == set(futures)


def test_cancel_calls_back_in_the_calling_thread(library: Library) -> None:
    with library.process_pool(1) as pool, Gate() as gate:
        block_workers(pool, gate)
        futures, where = [pool.submit(int) for _ in range(ON_THEIR_WAY + 1)], []
        futures[-1].add_done_callback(lambda future: where.append((future, threading.current_thread())))
        futures[-1].cancel()
        assert where == [(futures[-1], threading.current_thread())]


# --- Callbacks --------------------------------------------------------------------------------------------------------


def test_callbacks_run_in_order_in_one_thread_of_this_process(pool: Any) -> None:
    calls: list[Any] = []
    with Gate() as gate:
        (future,) = block_workers(pool, gate)
        for number in range(5):
            future.add_done_callback(lambda f, number=number: calls.append((number, f, threading.current_thread())))
    wait_until(lambda: len(calls) == 5)
    assert calls == [(number, future, pool._executor_manager_thread) for number in range(5)]
    future.add_done_callback(lambda future: calls.append(threading.current_thread()))
    assert calls[-1] is threading.current_thread()


def test_failing_callback_is_logged_and_the_others_are_called(pool: Any, log: Log) -> None:
    called: list[Any] = []
    with Gate() as gate:
        (future,) = block_workers(pool, gate)
        future.add_done_callback(lambda future: 1 / 0)
        future.add_done_callback(called.append)
    wait_until(lambda: called)
    assert called == [future]
    message = "exception calling callback for <Future at <address> state=finished returned tuple>"
    assert log.records == [("ERROR", message, ZeroDivisionError)]
    assert pool.submit(pow, 2, 3).result() == 8


def test_a_chain_of_callbacks_each_submitting_the_next(pool: Any) -> None:
    done = threading.Event()

    def step(left: int) -> None:
        pool.submit(int, left).add_done_callback(lambda future: step(left - 1) if left else done.set())

    step(200)
    done.wait()


def test_a_callback_may_cancel_and_shut_down(library: Library) -> None:
    made: list[Any] = []
    pool = library.process_pool(1)
    with Gate() as gate, Gate() as other:
        (future,) = block_workers(pool, gate)
        queued = [pool.submit(other) for _ in range(ON_THEIR_WAY + 2)]
        future.add_done_callback(lambda future: made.append(queued[-1].cancel()))
        future.add_done_callback(lambda future: made.append(pool.shutdown(wait=False)))
        future.add_done_callback(lambda future: made.append(outcome(pool.submit, int)))
        gate.open()
        wait_until(lambda: len(made) == 3)
    assert made == [True, None, ("raised", RuntimeError, "cannot schedule new futures after shutdown")]
    assert [future.result() for future in queued[:-1]] == [()] * (ON_THEIR_WAY + 1)


# --- Initializers -----------------------------------------------------------------------------------------------------


def test_initializer_runs_once_in_each_worker_before_its_tasks(library: Library) -> None:
    with library.process_pool(2, initializer=tasks.initialize, initargs=("a", "b")) as pool, Gate() as gate:
        block_workers(pool, gate, 2)
        gate.open()
        assert [pool.submit(tasks.initialized).result() for _ in range(10)] == [[("a", "b")]] * 10


ABRUPTLY = "A process in the process pool was terminated abruptly while the future was running or pending."
UNUSABLE = "A child process terminated abruptly, the process pool is not usable anymore"


@pytest.mark.parametrize("error", [ZeroDivisionError("text"), SystemExit(), KeyboardInterrupt()], ids=type)
def test_failing_initializer_breaks_the_pool(library: Library, error: BaseException) -> None:
    gate = Gate()
    with library.process_pool(1, initializer=tasks.wait_and_tell, initargs=(gate, error)) as pool, gate:
        futures = [pool.submit(int) for _ in range(5)]
        gate.wait_started()
        gate.open()
        errors = [future.exception() for future in futures]
        assert {(type(error), str(error)) for error in errors} == {(BrokenProcessPool, ABRUPTLY)}
        assert pool._broken
        with pytest.raises(BrokenProcessPool):
            pool.submit(int)
        with pytest.raises(BrokenExecutor):
            pool.map(int, [1])
        pool.shutdown()
        with pytest.raises(BrokenProcessPool):  # broken comes before shut down
            pool.submit(int)


# --- Workers that die -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [1, 0])
def test_a_dying_worker_breaks_the_pool(library: Library, code: int) -> None:
    with library.breakable_pool(2) as pool, Gate() as gate, Gate() as end:
        others = block_workers(pool, gate)
        futures = [pool.submit(tasks.end_process_after, end, code), *(pool.submit(gate) for _ in range(5))]
        end.wait_started()
        end.open()
        assert isinstance(futures[0].exception(), BrokenProcessPool)  # pyconc's says more
        errors = [future.exception() for future in others + futures[1:]]
        assert {(type(error), str(error)) for error in errors} == {(BrokenProcessPool, ABRUPTLY)}
        wait_until(lambda: pool._broken)
        assert outcome(pool.submit, int) == ("raised", BrokenProcessPool, UNUSABLE)
        assert outcome(pool.map, int, [1]) == ("raised", BrokenProcessPool, UNUSABLE)
        assert pool._broken == UNUSABLE


def test_a_killed_worker_breaks_the_pool(library: Library) -> None:
    with library.breakable_pool(1) as pool, Gate() as gate:
        (future,) = block_workers(pool, gate)
        (worker,) = pool._processes.values()
        worker.kill()
        assert isinstance(future.exception(), BrokenProcessPool)
        wait_until(lambda: pool._broken)
        assert outcome(pool.submit, int) == ("raised", BrokenProcessPool, UNUSABLE)


def test_workers_are_replaced_after_so_many_tasks(library: Library) -> None:
    library.requires(*MAX_TASKS)
    context = multiprocessing.get_context("forkserver")
    with library.process_pool(1, mp_context=context, max_tasks_per_child=3) as pool:
        pids = [pool.submit(tasks.identify).result() for _ in range(7)]
    assert pids[0:3] == [pids[0]] * 3
    assert pids[3:6] == [pids[3]] * 3
    assert len(set(pids)) == 3


# --- Subclasses -------------------------------------------------------------------------------------------------------


def test_subclass_with_its_own_constructor_and_submit(library: Library) -> None:
    class Negating(library.ProcessPoolExecutor):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(1, **kwargs)
            self.submitted = 0

        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            self.submitted += 1
            return super().submit(fn, *args, **kwargs)

    with Negating(mp_context=multiprocessing.get_context("fork")) as pool:
        assert pool.submit(pow, 2, 3).result() == 8
        assert list(pool.map(str, range(3))) == ["0", "1", "2"]
        assert pool.submitted == 4
