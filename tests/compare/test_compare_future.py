"""Future: states, results, callbacks, and the private surface that other libraries rely on."""

import copy
import inspect
import itertools
import pickle
import threading
import traceback
import types
import weakref
from concurrent.futures import CancelledError, InvalidStateError, TimeoutError
from typing import Any

import pytest
from libraries import PYCONC, STANDARD, Library, Log, blank, outcome

ERROR = ValueError("the error")


class Escape(BaseException):
    """What no `except Exception` stops."""


# --- Every short program over one future ------------------------------------------------------------------------------
#
# A program is a sequence of the operations below.  It runs on a future of each library, and what each step returned,
# raised, called back and logged, and how the future looks after it, must be the same.


class Subject:
    """A future under test, with a diary of what it called back."""

    def __init__(self, library: Library) -> None:
        self.future = library.Future()
        self.diary: list[Any] = []

    def callback(self, name: str, error: BaseException | None = None) -> None:
        def call(future: Any) -> None:
            self.diary.append((name, future is self.future, future._state))
            if error is not None:
                raise error

        self.future.add_done_callback(call)

    def nested_callback(self) -> None:
        self.future.add_done_callback(lambda future: self.callback("inner"))

    def meddling_callback(self) -> None:
        def meddle(future: Any) -> None:
            for call in (future.cancel, lambda: future.set_result(3), lambda: future.result(0)):
                self.diary.append(outcome(call))

        self.future.add_done_callback(meddle)

    def waiter(self) -> None:
        # What `concurrent.futures.wait` leaves on a future.
        class Waiter:
            def __getattr__(_, name: str) -> Any:
                return lambda future: self.diary.append((name, future is self.future, future._state))

        with self.future._condition:
            self.future._waiters.append(Waiter())

    def write(self, **fields: Any) -> None:
        # As CPython's own tests and executors outside the standard library do.
        if self.future._state in ("PENDING", "RUNNING"):
            with self.future._condition:
                for name, value in fields.items():
                    setattr(self.future, name, value)
                self.future._condition.notify_all()

    def look(self) -> tuple[Any, ...]:
        future = self.future
        predicates = (future.cancelled(), future.running(), future.done())
        fields = (future._state, future._result, future._exception)
        return (*predicates, *fields, len(future._waiters), blank(repr(future)))


OPERATIONS = {
    "cancel": lambda s: s.future.cancel(),
    "run": lambda s: s.future.set_running_or_notify_cancel(),
    "result 1": lambda s: s.future.set_result(1),
    "result None": lambda s: s.future.set_result(None),
    "error": lambda s: s.future.set_exception(ERROR),
    "error class": lambda s: s.future.set_exception(ValueError),
    "error text": lambda s: s.future.set_exception("not an exception"),
    "get result": lambda s: s.future.result(0),
    "get result late": lambda s: s.future.result(timeout=-1.5),
    "get error": lambda s: s.future.exception(0),
    "callback": lambda s: s.callback("plain"),
    "failing callback": lambda s: s.callback("failing", ERROR),
    "escaping callback": lambda s: s.callback("escaping", Escape()),
    "nested callback": lambda s: s.nested_callback(),
    "meddling callback": lambda s: s.meddling_callback(),
    "no callable": lambda s: s.future.add_done_callback("not callable"),
    "forget callbacks": lambda s: s.future._done_callbacks.clear(),
    "waiter": lambda s: s.waiter(),
    "init": lambda s: s.future.__init__(),
    "write running": lambda s: s.write(_state="RUNNING"),
    "write cancelled": lambda s: s.write(_state="CANCELLED"),
    "write notified": lambda s: s.write(_state="CANCELLED_AND_NOTIFIED"),
    "write result": lambda s: s.write(_result=2, _exception=None, _state="FINISHED"),
    "write error": lambda s: s.write(_result=None, _exception=ERROR, _state="FINISHED"),
}


def run(library: Library, program: tuple[str, ...], log: Log) -> list[Any]:
    subject = Subject(library)
    ERROR.__traceback__ = ERROR.__context__ = None  # or they would grow with every program
    seen = []
    for operation in program:
        log.records.clear()
        did = outcome(OPERATIONS[operation], subject)
        seen.append((operation, did, subject.look(), list(subject.diary), list(log.records)))
    return seen


def check(program: tuple[str, ...], log: Log) -> None:
    expected = run(STANDARD, program, log)
    assert run(PYCONC, program, log) == expected


@pytest.mark.parametrize("of_how_many", [4, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("first", OPERATIONS)
def test_programs_of_three_operations(first: str, of_how_many: int, log: Log) -> None:
    """All of them, or one in four: so that each two operations follow each other all the same."""
    place = list(OPERATIONS).index(first)
    for number, others in enumerate(itertools.product(OPERATIONS, repeat=2)):
        if (number + place) % of_how_many == 0:
            check((first, *others), log)


def test_longer_programs() -> None:
    hypothesis = pytest.importorskip("hypothesis")
    st = hypothesis.strategies

    @hypothesis.given(st.lists(st.sampled_from(list(OPERATIONS)), min_size=4, max_size=12).map(tuple))
    def check_one(program: tuple[str, ...]) -> None:
        with Log() as log:
            check(program, log)

    check_one()


# --- Construction and class -------------------------------------------------------------------------------------------


def test_new_future_is_empty(library: Library) -> None:
    future = library.Future()
    assert (future._state, future._result, future._exception) == ("PENDING", None, None)
    assert (future._waiters, future._done_callbacks) == ([], [])
    assert not future.cancelled()
    assert not future.running()
    assert not future.done()


def test_constructor_takes_no_arguments(library: Library) -> None:
    for args, kwargs in [((1,), {}), ((), {"loop": None})]:
        with pytest.raises(TypeError):
            library.Future(*args, **kwargs)


def test_is_a_standard_future(library: Library) -> None:
    assert issubclass(library.Future, STANDARD.Future)
    assert isinstance(library.Future(), STANDARD.Future)
    assert library.Future.__name__ == library.Future.__qualname__ == "Future"


def test_has_every_public_name(library: Library) -> None:
    assert {name for name in dir(STANDARD.Future) if not name.startswith("_")} <= set(dir(library.Future))


def test_parameters_have_the_standard_names(library: Library) -> None:
    for name in ("add_done_callback", "cancel", "cancelled", "done", "exception", "result", "running", "set_exception"):
        standard = inspect.signature(getattr(STANDARD.Future, name)).parameters.values()
        ours = inspect.signature(getattr(library.Future, name)).parameters.values()
        assert [(p.name, p.default) for p in ours] == [(p.name, p.default) for p in standard], name


def test_arguments_go_by_keyword_too(library: Library) -> None:
    future, called = library.Future(), []
    future.add_done_callback(fn=called.append)
    future.set_result(result=5)
    assert future.result(timeout=None) == 5
    assert future.exception(timeout=1) is None
    assert called == [future]
    failed = library.Future()
    failed.set_exception(exception=ERROR)
    assert failed.exception() is ERROR


def test_wrong_arguments_are_refused(library: Library) -> None:
    future = library.Future()
    calls = [
        (future.result, (1, 2)),
        (future.exception, (1, 2)),
        (future.set_result, ()),
        (future.set_exception, ()),
        (future.add_done_callback, ()),
        (future.cancel, (1,)),
        (future.done, (1,)),
        (future.set_running_or_notify_cancel, (1,)),
    ]
    for method, args in calls:
        with pytest.raises(TypeError):
            method(*args)
    with pytest.raises(TypeError):
        future.result(patience=1)
    assert future._state == "PENDING"


def test_subscript_makes_a_generic_alias(library: Library) -> None:
    alias = library.Future[int]
    assert isinstance(alias, types.GenericAlias)
    assert alias.__origin__ is library.Future
    assert alias.__args__ == (int,)


def test_takes_any_attribute(library: Library) -> None:
    future = library.Future()
    future.key = "value"  # dask, distributed and others label futures
    assert future.key == "value"
    del future.key
    assert not hasattr(future, "key")
    with pytest.raises(AttributeError):
        _ = future.missing


def test_identity_is_equality(library: Library) -> None:
    one, other = library.Future(), library.Future()
    for future in (one, other):
        future.set_result(1)
    assert one != other
    assert len({one, other, one}) == 2
    assert bool(library.Future())


def test_cannot_be_pickled_or_deeply_copied(library: Library) -> None:
    future = library.Future()
    future.set_result(1)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="cannot pickle"):
            pickle.dumps(future, protocol)
    with pytest.raises(TypeError, match="cannot pickle"):
        copy.deepcopy(future)


def test_weak_reference_dies_with_the_last_reference(library: Library) -> None:
    died: list[Any] = []
    future = library.Future()
    reference = weakref.ref(future, died.append)
    future.add_done_callback(died.append)
    with future._condition:
        assert reference() is future
    del future
    assert died == [reference]


def test_subclass(library: Library) -> None:
    class Named(library.Future):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def cancel(self) -> bool:
            self.name += " cancelled"
            return super().cancel()

    future = Named("one")
    assert blank(repr(future)) == "<Named at <address> state=pending>"
    assert future.cancel()
    assert (future.name, future.cancelled()) == ("one cancelled", True)
    assert isinstance(future, library.Future)


# --- Messages ---------------------------------------------------------------------------------------------------------


def test_setting_twice_names_the_state(library: Library) -> None:
    future = library.Future()
    future.set_result(1)
    message = r"^FINISHED: <Future at 0x[0-9a-f]+ state=finished returned int>$"
    with pytest.raises(InvalidStateError, match=message) as caught:
        future.set_result(2)
    assert type(caught.value) is InvalidStateError
    failed = library.Future()
    failed.set_exception(ERROR)
    with pytest.raises(InvalidStateError, match=r"^FINISHED: <Future at .* state=finished raised ValueError>$"):
        failed.set_exception(OSError())
    assert failed.exception() is ERROR


def test_cancelled_and_late_raise_the_standard_classes(library: Library) -> None:
    cancelled = library.Future()
    cancelled.cancel()
    for method in (cancelled.result, cancelled.exception):
        with pytest.raises(CancelledError) as caught:
            method()
        assert type(caught.value) is CancelledError
        assert caught.value.args == ()
    pending = library.Future()
    for method in (pending.result, pending.exception):
        with pytest.raises(TimeoutError) as late:
            method(timeout=0)
        assert type(late.value) is TimeoutError
        assert late.value.args == ()


def test_exception_none_is_the_result_none(library: Library) -> None:
    future = library.Future()
    future.set_exception(None)
    assert (future._state, future.result(), future.exception()) == ("FINISHED", None, None)


def test_executors_elsewhere_finish_futures_by_hand(library: Library) -> None:
    # As pebble and loky do.
    future, called = library.Future(), []
    future.add_done_callback(called.append)
    with future._condition:
        future._state, future._result = "FINISHED", 5
        future._condition.notify_all()
    future._invoke_callbacks()
    assert (future.result(), called) == (5, [future])


def test_running_twice_is_critical(library: Library, log: Log) -> None:
    future = library.Future()
    assert future.set_running_or_notify_cancel()
    with pytest.raises(RuntimeError, match=r"^Future in unexpected state$"):
        future.set_running_or_notify_cancel()
    assert log.records == [("CRITICAL", "Future <address> in unexpected state: RUNNING", None)]


def test_failing_callback_is_logged_with_its_future(library: Library, log: Log) -> None:
    future = library.Future()
    future.add_done_callback(lambda future: 1 / 0)
    future.set_result("x")
    message = "exception calling callback for <Future at <address> state=finished returned str>"
    assert log.records == [("ERROR", message, ZeroDivisionError)]


# --- Results ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", ["soon", [1], object()], ids=lambda value: type(value).__name__)
def test_a_timeout_must_be_a_number(library: Library, timeout: Any) -> None:
    for method in (library.Future().result, library.Future().exception):
        with pytest.raises(TypeError):
            method(timeout)


@pytest.mark.parametrize("timeout", [float("inf"), 1e300, 10**30])
def test_a_timeout_beyond_the_clock_overflows(library: Library, timeout: Any) -> None:
    for method in (library.Future().result, library.Future().exception):
        with pytest.raises(OverflowError):
            method(timeout)


@pytest.mark.parametrize("timeout", [0, -1, -1e300, 0.0, False, float("-inf"), 1e-9])
def test_a_timeout_in_the_past_is_late_at_once(library: Library, timeout: Any) -> None:
    for method in (library.Future().result, library.Future().exception):
        with pytest.raises(TimeoutError):
            method(timeout)


def test_timeout_of_a_finished_future_is_not_looked_at(library: Library) -> None:
    future = library.Future()
    future.set_result(1)
    assert future.result("never read") == 1
    assert future.exception(-1) is None


def test_same_exception_object_every_time(library: Library) -> None:
    future = library.Future()
    future.set_exception(error := KeyError("key"))
    for _ in range(3):
        with pytest.raises(KeyError) as caught:
            future.result()
        assert caught.value is error


def test_falsy_exception_is_an_exception(library: Library) -> None:
    library.requires((3, 14), "exceptions that are false raised")

    class Falsy(Exception):
        def __bool__(self) -> bool:
            return False

    future = library.Future()
    future.set_exception(Falsy())
    with pytest.raises(Falsy):
        future.result()


def test_exception_keeps_cause_and_gets_context(library: Library) -> None:
    future = library.Future()
    error = ValueError()
    error.__cause__ = cause = KeyError()
    future.set_exception(error)
    handled = OSError()
    with pytest.raises(ValueError) as caught:
        try:
            raise handled
        except OSError:
            future.result()
    assert caught.value.__cause__ is cause
    assert caught.value.__context__ is handled


def test_late_result_in_a_handler_has_context(library: Library) -> None:
    handled = OSError()
    for future, error in [(library.Future(), TimeoutError), (library.Future(), CancelledError)]:
        if error is CancelledError:
            future.cancel()
        with pytest.raises(error) as caught:
            try:
                raise handled
            except OSError:
                future.result(0)
        assert caught.value.__context__ is handled


def test_traceback_grows_by_the_caller(library: Library) -> None:
    def fail() -> None:
        raise LookupError

    future = library.Future()
    try:
        fail()
    except LookupError as error:
        future.set_exception(error)
    with pytest.raises(LookupError) as caught:
        future.result()
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert names[0] == names[-2] == "test_traceback_grows_by_the_caller"
    assert names[-1] == "fail"


# --- Waiting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["result", "exception"])
def test_every_waiting_thread_wakes(library: Library, method: str) -> None:
    future, got = library.Future(), []
    threads = [threading.Thread(target=lambda: got.append(getattr(future, method)())) for _ in range(8)]
    for thread in threads:
        thread.start()
    future.set_result(5)
    for thread in threads:
        thread.join()
    assert got == [5 if method == "result" else None] * 8


def test_cancel_wakes_a_waiting_thread(library: Library) -> None:
    future, got = library.Future(), []
    thread = threading.Thread(target=lambda: got.append(outcome(future.result)))
    thread.start()
    assert future.cancel()
    thread.join()
    assert got == [("raised", CancelledError, "")]


def test_condition_is_reentrant_and_kept(library: Library) -> None:
    future = library.Future()
    condition = future._condition
    with condition, future._condition:
        assert future._condition is condition
        assert not future.done()
        assert future.set_running_or_notify_cancel()
        future.set_result(1)
        assert future.result() == 1


def test_writer_behind_the_condition_wakes_a_waiter(library: Library) -> None:
    future, got = library.Future(), []
    thread = threading.Thread(target=lambda: got.append(future.result()))
    thread.start()
    with future._condition:
        future._result = "written"
        future._state = "FINISHED"
        future._condition.notify_all()
    thread.join()
    assert got == ["written"]


def test_waiter_on_the_condition_is_notified(library: Library) -> None:
    # Some libraries wait on a future's condition themselves.
    for finish in (lambda f: f.set_result(1), lambda f: f.set_exception(ERROR), lambda f: f.cancel()):
        future = library.Future()
        waiting = threading.Event()

        def wait(future: Any = future, waiting: threading.Event = waiting) -> None:
            with future._condition:
                waiting.set()
                while not future.done():
                    future._condition.wait()

        thread = threading.Thread(target=wait)
        thread.start()
        waiting.wait()
        finish(future)
        thread.join()


def test_check_and_append_under_the_condition_misses_nothing(library: Library) -> None:
    # The protocol of `concurrent.futures.wait`: look at the state and leave a waiter, both under the condition.
    for _ in range(300):
        future, told = library.Future(), threading.Event()
        waiter = types.SimpleNamespace(add_result=lambda future, told=told: told.set())
        thread = threading.Thread(target=future.set_result, args=(1,))
        thread.start()
        with future._condition:
            if future._state == "FINISHED":
                told.set()
            else:
                future._waiters.append(waiter)
        thread.join()
        assert told.is_set()


# --- Callbacks --------------------------------------------------------------------------------------------------------


def test_callbacks_run_in_the_order_they_were_added(library: Library) -> None:
    future, order = library.Future(), []
    for number in range(100):
        future.add_done_callback(lambda future, number=number: order.append(number))
    future.set_result(None)
    assert order == list(range(100))


def test_same_callback_twice_is_called_twice(library: Library) -> None:
    future, called = library.Future(), []
    future.add_done_callback(called.append)
    future.add_done_callback(called.append)
    future.cancel()
    assert called == [future, future]


def test_callback_runs_in_the_thread_that_finishes(library: Library) -> None:
    future, where = library.Future(), []
    future.add_done_callback(lambda future: where.append(threading.current_thread()))
    thread = threading.Thread(target=future.set_result, args=(1,))
    thread.start()
    thread.join()
    future.add_done_callback(lambda future: where.append(threading.current_thread()))
    assert where == [thread, threading.current_thread()]


def test_callback_sees_a_finished_future_and_holds_no_lock(library: Library) -> None:
    future, seen = library.Future(), []

    def ask_another_thread(future: Any) -> None:
        thread = threading.Thread(target=lambda: seen.append((future.done(), future.result())))
        thread.start()
        thread.join()

    future.add_done_callback(ask_another_thread)
    future.set_result(1)
    assert seen == [(True, 1)]


def test_waiters_are_told_under_the_condition_before_callbacks(library: Library) -> None:
    future, order = library.Future(), []

    class Waiter:
        def add_result(self, future: Any) -> None:
            order.append(("waiter", future._condition._is_owned()))

    with future._condition:
        future._waiters.append(Waiter())
    future.add_done_callback(lambda future: order.append(("callback", future._condition._is_owned())))
    future.set_result(1)
    assert order == [("waiter", True), ("callback", False)]


def test_snapshot(library: Library) -> None:
    if not hasattr(library.Future, "_get_snapshot"):
        library.requires((3, 15), "Future._get_snapshot")
    future = library.Future()
    assert future._get_snapshot() == (False, False, None, None)
    future.set_running_or_notify_cancel()
    assert future._get_snapshot() == (False, False, None, None)
    future.set_result(42)
    assert future._get_snapshot() == (True, False, 42, None)
    failed = library.Future()
    failed.set_exception(ERROR)
    assert failed._get_snapshot() == (True, False, None, ERROR)
    cancelled = library.Future()
    cancelled.cancel()
    assert cancelled._get_snapshot() == (True, True, None, None)
    cancelled.set_running_or_notify_cancel()
    assert cancelled._get_snapshot() == (True, True, None, None)


WRONG_ARGUMENTS: dict[str, Any] = {
    "none": ((), {}),
    "too many": ((1, 2), {}),
    "far too many": ((1, 2, 3), {}),
    "another name": ((), {"patience": 1}),
    "one too many by name": ((1,), {"patience": 1}),
}


@pytest.mark.parametrize("what", WRONG_ARGUMENTS)
@pytest.mark.parametrize("method", ["result", "exception", "set_result", "set_exception", "add_done_callback"])
def test_wrong_arguments_are_refused_in_the_same_words(method: str, what: str) -> None:
    args, kwargs = WRONG_ARGUMENTS[what]
    outcomes = []
    for library in (STANDARD, PYCONC):
        future = library.Future()
        if "result" in method or what == "none":
            future.cancel()  # so that nothing is waited for
        outcomes.append(outcome(lambda future=future: getattr(future, method)(*args, **kwargs)))
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("method", [("result", "timeout"), ("set_result", "result"), ("add_done_callback", "fn")])
def test_an_argument_that_is_given_twice_is_refused_in_the_same_words(method: tuple[str, str]) -> None:
    name, argument = method
    standard, ours = (
        outcome(lambda library=library: getattr(library.Future(), name)(1, **{argument: 1}))
        for library in (STANDARD, PYCONC)
    )
    assert standard == ours
