"""ThreadPoolExecutor: construction, submit, what a task may do, threads, initializers, subclasses."""

import contextvars
import inspect
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, wait
from concurrent.futures.thread import BrokenThreadPool
from typing import Any

import pytest
from gates import Gate, block_workers
from libraries import STANDARD, Library, Log, outcome
from support import wait_until

# --- Construction -----------------------------------------------------------------------------------------------------


def test_is_a_standard_executor(library: Library) -> None:
    assert issubclass(library.ThreadPoolExecutor, STANDARD.ThreadPoolExecutor)
    assert library.ThreadPoolExecutor.__name__ == library.ThreadPoolExecutor.__qualname__ == "ThreadPoolExecutor"
    with library.ThreadPoolExecutor() as pool:
        assert isinstance(pool, STANDARD.ThreadPoolExecutor)
        assert isinstance(pool, Executor)
        assert isinstance(pool.submit(int), library.Future)


def test_the_two_libraries_are_two(library: Library) -> None:
    # The comparison would be worth nothing if one stood in for the other.
    with library.ThreadPoolExecutor() as pool:
        future = pool.submit(int)
    assert type(pool) is library.ThreadPoolExecutor
    assert type(future) is library.Future
    assert (library.Future is STANDARD.Future) == (library is STANDARD)


def test_default_number_of_workers(library: Library) -> None:
    cpus = getattr(os, "process_cpu_count", os.cpu_count)() or 1
    assert library.ThreadPoolExecutor()._max_workers == min(32, cpus + 4)
    assert library.ThreadPoolExecutor(None)._max_workers == min(32, cpus + 4)
    assert library.ThreadPoolExecutor(max_workers=7)._max_workers == 7


@pytest.mark.parametrize("number", [0, -1, -(10**6)])
def test_max_workers_must_be_positive(library: Library, number: int) -> None:
    with pytest.raises(ValueError, match=r"^max_workers must be greater than 0$"):
        library.ThreadPoolExecutor(max_workers=number)


@pytest.mark.parametrize("number", ["4", [], object()], ids=lambda value: type(value).__name__)
def test_max_workers_must_be_a_number(library: Library, number: Any) -> None:
    with pytest.raises(TypeError):
        library.ThreadPoolExecutor(number)


def test_many_more_workers_than_anybody_needs(library: Library) -> None:
    with library.ThreadPoolExecutor(10**6) as pool:
        assert pool.submit(pow, 2, 5).result() == 32
        assert len(pool._threads) == 1


@pytest.mark.parametrize("initializer", [42, "name", ()], ids=str)
def test_initializer_must_be_callable(library: Library, initializer: Any) -> None:
    with pytest.raises(TypeError, match=r"^initializer must be a callable$"):
        library.ThreadPoolExecutor(initializer=initializer)


def test_constructor_takes_the_standard_arguments(library: Library) -> None:
    seen: list[Any] = []
    with library.ThreadPoolExecutor(2, "name", seen.append, ("started",)) as pool:
        assert pool.submit(lambda: threading.current_thread().name).result() == "name_0"
    assert seen == ["started"]
    with pytest.raises(TypeError):
        library.ThreadPoolExecutor(workers=1)
    names = list(inspect.signature(library.ThreadPoolExecutor).parameters)[:4]
    assert names == ["max_workers", "thread_name_prefix", "initializer", "initargs"]


def test_fields_that_monitoring_reads(library: Library) -> None:
    with library.ThreadPoolExecutor(1) as pool, Gate() as gate:
        assert (pool._max_workers, pool._shutdown, pool._broken) == (1, False, False)
        assert set(pool._threads) == set()
        assert pool._work_queue.qsize() == 0
        block_workers(pool, gate)
        for queued in range(5):
            assert pool._work_queue.qsize() == queued
            pool.submit(int)
        assert len(pool._threads) == 1
        assert all(type(thread) is threading.Thread and thread.is_alive() for thread in pool._threads)
    assert pool._shutdown is True
    assert pool._work_queue.qsize() <= 1  # the standard one leaves a None for its threads


# --- Submit -----------------------------------------------------------------------------------------------------------


def capture(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


def test_submit_passes_arguments(library: Library) -> None:
    with library.ThreadPoolExecutor(2) as pool:
        assert pool.submit(capture).result() == ((), {})
        assert pool.submit(capture, 1, 2, x=3).result() == ((1, 2), {"x": 3})
        names = {"self": 1, "fn": 2, "args": 3, "kwargs": 4, "executor": 5, "task": 6}
        assert pool.submit(capture, 1, **names).result() == ((1,), names)
        assert pool.submit(capture, *range(1000)).result() == (tuple(range(1000)), {})
        many = {f"name{i}": i for i in range(300)}
        assert pool.submit(capture, **many).result() == ((), many)


def test_submit_keeps_its_own_copy_of_the_keywords(library: Library) -> None:
    with library.ThreadPoolExecutor(1) as pool, Gate() as gate:
        block_workers(pool, gate)
        keywords = {"x": 1}
        future = pool.submit(capture, **keywords)
        keywords["x"] = 2
        gate.open()
        assert future.result() == ((), {"x": 1})


def test_submit_needs_a_positional_function(library: Library) -> None:
    with library.ThreadPoolExecutor() as pool:
        for kwargs in [{}, {"fn": capture}, {"arg": 1}]:
            with pytest.raises(TypeError, match=r"^ThreadPoolExecutor\.submit\(\) missing 1 required .*: 'fn'$"):
                pool.submit(**kwargs)
    parameters = inspect.signature(library.ThreadPoolExecutor.submit).parameters
    kinds = [parameter.kind for parameter in parameters.values()]
    assert kinds[-3:] == [
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.VAR_POSITIONAL,
        inspect.Parameter.VAR_KEYWORD,
    ]


def test_what_is_not_callable_fails_in_the_task(library: Library) -> None:
    with library.ThreadPoolExecutor() as pool:
        future = pool.submit(42)
        assert str(future.exception()) == "'int' object is not callable"
        assert type(future.exception()) is TypeError


@pytest.mark.parametrize(
    "function",
    [
        lambda: 1,
        int,
        object().__repr__,
        "text".upper,
        type("Callable", (), {"__call__": lambda self: 1})(),
        type("Static", (), {"method": staticmethod(lambda: 1)}).method,
    ],
    ids=["lambda", "type", "slot wrapper", "builtin method", "instance", "static method"],
)
def test_every_kind_of_callable(library: Library, function: Callable[[], Any]) -> None:
    with library.ThreadPoolExecutor() as pool:
        assert pool.submit(function).result() == function()


@pytest.mark.parametrize(
    "error",
    [ValueError("text"), StopIteration(5), KeyboardInterrupt(), SystemExit(3), GeneratorExit(), BaseException(1)],
)
def test_any_exception_of_a_task_is_its_result(library: Library, error: BaseException) -> None:
    def fail() -> None:
        raise error

    with library.ThreadPoolExecutor(1) as pool:
        future = pool.submit(fail)
        assert future.exception() is error
        with pytest.raises(type(error)) as caught:
            future.result()
        assert caught.value is error
        # The worker goes on.
        thread = pool.submit(threading.current_thread).result()
        assert [thread] == list(pool._threads)


def test_exception_shows_where_the_task_raised(library: Library) -> None:
    def outer() -> None:
        inner()

    def inner() -> None:
        raise LookupError("deep")

    with library.ThreadPoolExecutor() as pool:
        error = pool.submit(outer).exception()
    frames = traceback.extract_tb(error.__traceback__)
    assert [frame.name for frame in frames[-2:]] == ["outer", "inner"]


def test_tasks_start_in_the_order_of_submission(library: Library) -> None:
    order: list[int] = []
    with library.ThreadPoolExecutor(1) as pool:
        for number in range(1000):
            pool.submit(order.append, number)
    assert order == list(range(1000))


def test_future_is_running_while_its_task_runs(library: Library) -> None:
    with library.ThreadPoolExecutor(1) as pool, Gate() as gate:
        (running,) = block_workers(pool, gate)
        waiting = pool.submit(int)
        assert (running._state, waiting._state) == ("RUNNING", "PENDING")
        assert running.running()
        assert not running.cancel()


def test_a_task_may_submit(library: Library) -> None:
    with library.ThreadPoolExecutor(1) as pool:
        inner = pool.submit(lambda: pool.submit(pow, 2, 3)).result()
        assert inner.result() == 8


def test_tasks_may_wait_for_each_other_when_workers_suffice(library: Library) -> None:
    with library.ThreadPoolExecutor(2) as pool:
        assert pool.submit(lambda: pool.submit(pow, 2, 3).result()).result() == 8


def test_a_task_may_submit_to_another_pool(library: Library) -> None:
    with library.ThreadPoolExecutor(1) as one, library.ThreadPoolExecutor(1) as other:
        assert one.submit(lambda: other.submit(lambda: 5).result()).result() == 5


def test_a_chain_of_tasks_each_submitting_the_next(library: Library) -> None:
    done = threading.Event()

    def step(left: int) -> None:
        if left:
            pool.submit(step, left - 1)
        else:
            done.set()

    with library.ThreadPoolExecutor(1) as pool:
        pool.submit(step, 2000)
        done.wait()


def test_many_threads_submit_at_once(library: Library) -> None:
    results: list[int] = []

    def submit_many(pool: Any, start: int) -> None:
        futures = [pool.submit(int, number) for number in range(start, start + 500)]
        results.extend(future.result() for future in futures)

    with library.ThreadPoolExecutor(3) as pool:
        threads = [threading.Thread(target=submit_many, args=(pool, 500 * i)) for i in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(results) == list(range(3000))


# --- Cancel -----------------------------------------------------------------------------------------------------------


def test_a_queued_task_can_be_cancelled(library: Library) -> None:
    ran: list[int] = []
    with library.ThreadPoolExecutor(1) as pool, Gate() as gate:
        block_workers(pool, gate)
        futures = [pool.submit(ran.append, number) for number in range(10)]
        for number in (0, 3, 9):
            assert futures[number].cancel()
            assert futures[number].cancelled()
            assert futures[number].cancel()
        gate.open()
    assert ran == [1, 2, 4, 5, 6, 7, 8]


def test_cancelled_becomes_notified_when_its_turn_comes(library: Library) -> None:
    with library.ThreadPoolExecutor(1) as pool, Gate() as gate:
        block_workers(pool, gate)
        future = pool.submit(int)
        future.cancel()
        gate.open()
        pool.submit(int).result()
        assert future._state == "CANCELLED_AND_NOTIFIED"
        assert library.wait([future]).done == {future}


def test_cancel_calls_back_in_the_calling_thread(library: Library) -> None:
    with library.ThreadPoolExecutor(1) as pool, Gate() as gate:
        block_workers(pool, gate)
        future, where = pool.submit(int), []
        future.add_done_callback(lambda future: where.append(threading.current_thread()))
        future.cancel()
        assert where == [threading.current_thread()]


# --- Callbacks in workers ---------------------------------------------------------------------------------------------


def test_callbacks_of_a_task_run_in_its_worker_in_order(library: Library) -> None:
    calls: list[Any] = []
    with library.ThreadPoolExecutor(1) as pool, Gate() as gate:
        (future,) = block_workers(pool, gate)
        for number in range(5):
            future.add_done_callback(lambda f, number=number: calls.append((number, threading.current_thread())))
        (worker,) = pool._threads
        gate.open()
    assert calls == [(number, worker) for number in range(5)]


def test_failing_callback_is_logged_and_the_worker_goes_on(library: Library, log: Log) -> None:
    called: list[Any] = []
    with library.ThreadPoolExecutor(1) as pool, Gate() as gate:
        (future,) = block_workers(pool, gate)
        future.add_done_callback(lambda future: 1 / 0)
        future.add_done_callback(called.append)
        gate.open()
        assert pool.submit(pow, 2, 3).result() == 8
    assert called == [future]
    message = "exception calling callback for <Future at <address> state=finished returned tuple>"
    assert log.records == [("ERROR", message, ZeroDivisionError)]


def test_a_callback_may_submit_and_cancel(library: Library) -> None:
    made: list[Any] = []
    with library.ThreadPoolExecutor(1) as pool, Gate() as gate:
        (future,) = block_workers(pool, gate)
        victim = pool.submit(int)
        future.add_done_callback(lambda future: made.append(pool.submit(pow, 2, 3)))
        future.add_done_callback(lambda future: made.append(victim.cancel()))
        gate.open()
        wait_until(lambda: len(made) == 2)
        assert made[0].result() == 8
        assert made[1] is True


# --- Threads ----------------------------------------------------------------------------------------------------------


def test_saturation(library: Library) -> None:
    semaphore = threading.Semaphore(0)
    with library.ThreadPoolExecutor(4) as pool:
        for _ in range(60):
            pool.submit(semaphore.acquire)
        assert len(pool._threads) == 4
        for _ in range(60):
            semaphore.release()


def test_no_more_threads_than_tasks(library: Library) -> None:
    with library.ThreadPoolExecutor(10) as pool, Gate() as gate:
        for count in range(1, 6):
            pool.submit(gate)
            gate.wait_started()
            assert len(pool._threads) == count


def test_idle_thread_is_reused(library: Library) -> None:
    with library.ThreadPoolExecutor() as pool:
        for _ in range(20):
            pool.submit(int).result()
            if library is STANDARD:  # whose worker says a little later that it is idle
                wait_until(lambda: pool._idle_semaphore._value)
        assert len(pool._threads) == 1


def test_workers_are_real_threads(library: Library) -> None:
    with library.ThreadPoolExecutor(2, "Special") as pool, Gate() as gate:
        block_workers(pool, gate, 2)
        workers = set(pool._threads)
        assert {thread.name for thread in workers} == {"Special_0", "Special_1"}
        assert workers <= set(threading.enumerate())
        assert not any(thread.daemon for thread in workers)
        gate.open()
        assert pool.submit(threading.current_thread).result() in workers
    assert not any(thread.is_alive() for thread in workers)
    assert not workers & set(threading.enumerate())


def test_default_names_are_unique(library: Library) -> None:
    names = []
    for _ in range(2):
        with library.ThreadPoolExecutor(1) as pool:
            names.append(pool.submit(lambda: threading.current_thread().name).result())
    prefix, number = names[0].rsplit("-", 1)
    assert prefix == "ThreadPoolExecutor"
    assert number.endswith("_0")
    assert number[:-2].isdigit()
    assert names[0] != names[1]


def test_thread_local_data_lives_as_long_as_the_worker(library: Library) -> None:
    local, ended = threading.local(), threading.Event()

    class Value:
        def __del__(self) -> None:
            ended.set()

    with library.ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: setattr(local, "value", Value())).result()
        assert pool.submit(lambda: hasattr(local, "value")).result()
        assert not ended.is_set()
    wait_until(ended.is_set)


def test_context_variables_stay_with_the_worker(library: Library) -> None:
    variable = contextvars.ContextVar("variable", default="default")
    with library.ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()  # the thread starts before the variable is set
        variable.set("submitter")
        assert pool.submit(variable.get).result() == "default"
        pool.submit(variable.set, "worker").result()
        assert pool.submit(variable.get).result() == "worker"
    assert variable.get() == "submitter"


@pytest.mark.parametrize("install", [threading.settrace, threading.setprofile])
def test_trace_and_profile_functions_see_tasks(library: Library, install: Callable[[Any], None]) -> None:
    seen: set[str] = set()

    def watched() -> None:
        pass

    def hook(frame: Any, event: str, arg: Any) -> None:
        seen.add(frame.f_code.co_name)

    install(hook)
    try:
        with library.ThreadPoolExecutor(1) as pool:
            pool.submit(watched).result()
    finally:
        install(None)
    assert "watched" in seen


def test_excepthooks_are_not_called(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", called.append)
    monkeypatch.setattr(sys, "excepthook", lambda *args: called.append(args))
    with library.ThreadPoolExecutor(1) as pool:
        for error in (ValueError, SystemExit, KeyboardInterrupt):
            pool.submit(lambda error=error: exec("raise error", {"error": error}))
    assert called == []


# --- Initializers -----------------------------------------------------------------------------------------------------


def test_initializer_runs_once_in_each_thread_before_its_tasks(library: Library) -> None:
    local, started = threading.local(), []

    def initialize(*args: Any) -> None:
        local.args = args
        started.append(threading.current_thread())

    with library.ThreadPoolExecutor(3, initializer=initialize, initargs=("a", "b")) as pool, Gate() as gate:
        block_workers(pool, gate, 3)
        assert set(started) == set(pool._threads)
        gate.open()
        futures = [pool.submit(lambda: local.args) for _ in range(20)]
        assert {future.result() for future in futures} == {("a", "b")}
    assert len(started) == 3


BROKEN = "A thread initializer failed, the thread pool is not usable anymore"


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit, KeyboardInterrupt])
def test_failing_initializer_breaks_the_pool(library: Library, log: Log, error: type[BaseException]) -> None:
    gate = Gate()
    pool = library.ThreadPoolExecutor(1, initializer=lambda: gate(error()))
    with pool, gate:
        futures = [pool.submit(int) for _ in range(4)]
        called: list[Any] = []
        futures[0].add_done_callback(called.append)
        gate.wait_started()
        gate.open()
        errors = [future.exception() for future in futures]
        assert [(type(e), str(e)) for e in errors] == [(BrokenThreadPool, BROKEN)] * 4
        assert len({id(e) for e in errors}) == 4
        wait_until(lambda: called)
        assert called == [futures[0]]
        with pytest.raises(BrokenThreadPool, match=f"^{BROKEN}$"):
            pool.submit(int)
        with pytest.raises(BrokenExecutor):
            pool.map(int, [1])
        assert pool._broken
        pool.shutdown()
        with pytest.raises(BrokenThreadPool):  # broken comes before shut down
            pool.submit(int)
    assert log.records[0] == ("CRITICAL", "Exception in initializer:", error)


def test_initializer_may_log(library: Library) -> None:
    with library.ThreadPoolExecutor(1, initializer=logging.getLogger("test").debug, initargs=("text",)) as pool:
        assert pool.submit(int).result() == 0


# --- Subclasses -------------------------------------------------------------------------------------------------------


def test_subclass_with_its_own_constructor_and_state(library: Library) -> None:
    class Named(library.ThreadPoolExecutor):
        def __init__(self, name: str, **kwargs: Any) -> None:
            super().__init__(thread_name_prefix=name, **kwargs)
            self.submitted = 0

        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            self.submitted += 1
            return super().submit(fn, *args, **kwargs)

    with Named("named", max_workers=1) as pool:
        assert pool.submit(pow, 2, 3).result() == 8
        assert list(pool.map(str, range(3))) == ["0", "1", "2"]
        assert pool.submitted == 4
        assert next(iter(pool._threads)).name == "named_0"


def test_subclass_that_wraps_what_it_submits(library: Library) -> None:
    # As sentry's and opentelemetry's instrumentations do.
    class Wrapping(library.ThreadPoolExecutor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            return super().submit(lambda: ("wrapped", fn(*args, **kwargs)))

    with Wrapping(2) as pool:
        assert pool.submit(int).result() == ("wrapped", 0)
        assert list(pool.map(int, "12")) == [("wrapped", 1), ("wrapped", 2)]


def test_submit_patched_on_an_instance_or_the_class(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    with library.ThreadPoolExecutor(1) as pool:
        original = pool.submit
        pool.submit = lambda fn, *args: original(lambda: -fn(*args))
        assert list(pool.map(int, "12")) == [-1, -2]

    class Pool(library.ThreadPoolExecutor):
        pass

    submit = Pool.submit
    monkeypatch.setattr(Pool, "submit", lambda self, fn, *args: submit(self, lambda: str(fn(*args))))
    with Pool(1) as pool:
        assert list(pool.map(int, "12")) == ["1", "2"]


def test_subclass_that_overrides_shutdown(library: Library) -> None:
    calls: list[Any] = []

    class Pool(library.ThreadPoolExecutor):
        def shutdown(self, *args: Any, **kwargs: Any) -> None:
            calls.append((args, kwargs))
            super().shutdown(*args, **kwargs)

    with Pool(1) as pool:
        pool.submit(int)
    assert calls == [((), {"wait": True})]


def test_subclass_with_more_bases(library: Library) -> None:
    class Mixin:
        def hello(self) -> str:
            return "hello"

    class Pool(Mixin, library.ThreadPoolExecutor):
        __slots__ = ("extra",)

    with Pool(1) as pool:
        pool.extra = 1
        pool.anything = 2
        assert pool.submit(pool.hello).result() == "hello"


def test_subclass_that_grows_threads_itself(library: Library) -> None:
    # Public code overrides _adjust_thread_count to start its threads early or otherwise.
    grown: list[int] = []

    class Pool(library.ThreadPoolExecutor):
        def _adjust_thread_count(self) -> None:
            grown.append(len(self._threads))
            super()._adjust_thread_count()

    with Pool(2) as pool, Gate() as gate:
        block_workers(pool, gate, 2)
    assert grown[:2] == [0, 1]


def test_wait_for_futures_of_a_subclassed_pool(library: Library) -> None:
    class Pool(library.ThreadPoolExecutor):
        pass

    with Pool(2) as pool:
        futures = {pool.submit(pow, 2, number) for number in range(10)}
        assert wait(futures).done == library.wait(futures).done == futures


def test_outcomes_of_odd_uses_are_the_same(library: Library) -> None:
    with library.ThreadPoolExecutor(1) as pool:
        with pytest.raises(RuntimeError):
            pool.submit(pool.shutdown).result()  # a worker cannot join itself
    assert outcome(pool.submit, int) == ("raised", RuntimeError, "cannot schedule new futures after shutdown")
