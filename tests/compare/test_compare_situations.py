"""Situations that people reported, each a small program that both libraries run.

A program asserts what it expects.  Where a report is about a large package (a debugger, a profiler, a web framework),
the program uses what that package uses: trace functions, subclasses of Thread, nested turns of a loop, patched methods.
"""

import subprocess
import sys
import textwrap
from typing import Any

import pytest
from libraries import PYCONC, STANDARD, Library
from support import run_script

# The oracle's workers are forked, so that a program needs no guard there either.
BEGINNINGS = {
    "standard": """
import concurrent.futures as futures, functools, multiprocessing
from concurrent.futures import ThreadPoolExecutor
fork = multiprocessing.get_context("fork")
ProcessPoolExecutor = functools.partial(futures.ProcessPoolExecutor, mp_context=fork)
""",
    "pyconc": """
import multiprocessing
import pyconc as futures
from pyconc import ProcessPoolExecutor, ThreadPoolExecutor
fork = multiprocessing.get_context("fork")
""",
}

WITHOUT_WARNINGS = """
import warnings
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
"""


def run(library: Library, program: str, *args: Any, flags: tuple[str, ...] = ()) -> str:
    finished = run_script(WITHOUT_WARNINGS + BEGINNINGS[library.name] + textwrap.dedent(program), *args, flags=flags)
    assert finished.stderr == ""
    return finished.stdout


# The oracle says what it said before, unless a program or the interpreter is another.
@pytest.fixture(params=[pytest.param(STANDARD, marks=pytest.mark.slow), PYCONC], ids=str)
def library(request: pytest.FixtureRequest) -> Library:
    return request.param


# --- Tracers, profilers, monitors -------------------------------------------------------------------------------------

TRACED = """
import sys, threading
seen = []
def watched():
    pass
def hook(frame, event, arg):
    if frame.f_code is watched.__code__:
        seen.append(event)
    return hook
with ThreadPoolExecutor(1) as pool:
    pool.submit(watched).result()  # by a thread that is there before the hook
"""


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python can do so since 3.12")
@pytest.mark.parametrize("kind", ["settrace", "setprofile"])
def test_debuggers_and_profilers_that_come_later_see_tasks(library: Library, kind: str) -> None:
    run(
        library,
        TRACED
        + f"""
    threading.{kind}_all_threads(hook)
    pool.submit(watched).result()
    threading.{kind}_all_threads(None)
    assert seen[0] == "call" and seen[-1] == "return", seen
    count = len(seen)
    pool.submit(watched).result()
    assert len(seen) == count
""",
    )


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python has sys.monitoring since 3.12")
def test_coverage_by_monitoring_sees_tasks(library: Library) -> None:
    run(
        library,
        TRACED
        + """
    monitoring = sys.monitoring
    monitoring.use_tool_id(monitoring.COVERAGE_ID, "test")
    monitoring.register_callback(
        monitoring.COVERAGE_ID, monitoring.events.PY_START, lambda code, offset: seen.append(code)
    )
    monitoring.set_events(monitoring.COVERAGE_ID, monitoring.events.PY_START)
    pool.submit(watched).result()
    monitoring.set_events(monitoring.COVERAGE_ID, 0)
    assert watched.__code__ in seen
""",
    )


def test_a_profile_of_the_thread_that_submits(library: Library) -> None:
    run(
        library,
        """
        import cProfile
        profile = cProfile.Profile()
        with ThreadPoolExecutor(2) as pool:
            assert profile.runcall(lambda: [pool.submit(pow, 2, n).result() for n in range(3)]) == [1, 2, 4]
            assert profile.runcall(lambda: list(pool.map(abs, range(9)))) == list(range(9))
        assert any("submit" in str(entry.code) for entry in profile.getstats())
        """,
    )


def test_coverage_of_workers_wraps_how_a_process_begins(library: Library) -> None:
    run(
        library,
        """
        from multiprocessing import process, util
        seen = []
        begin = process.BaseProcess._bootstrap
        def bootstrap(self, *args, **kwargs):
            seen.append("begun")
            return begin(self, *args, **kwargs)
        process.BaseProcess._bootstrap = bootstrap
        def look():
            return seen
        with ProcessPoolExecutor(1) as pool:
            assert pool.submit(look).result() == ["begun"]
        """,
    )


def test_a_subclass_replaces_thread_and_its_attributes_stay(library: Library) -> None:
    run(
        library,
        """
        import threading
        class Marked(threading.Thread):
            def run(self):
                self.mark = "from run"
                super().run()
        threading.Thread = Marked
        with ThreadPoolExecutor(1) as pool:
            worker = pool.submit(threading.current_thread).result()
            assert type(worker) is Marked and worker.mark == "from run"
            worker.session = 5  # as streamlit's script context is kept
            assert pool.submit(lambda: threading.current_thread().session).result() == 5
        """,
    )


@pytest.mark.skipif(sys.version_info < (3, 14), reason="Python has the option since 3.14")
@pytest.mark.parametrize("inherit", ["0", "1"])
def test_context_variables_in_reused_threads(library: Library, inherit: str) -> None:
    run(
        library,
        """
        import contextvars, sys
        variable = contextvars.ContextVar("variable", default="none")
        variable.set("at the start")
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(variable.get).result()
            assert first == ("at the start" if sys.flags.thread_inherit_context else "none")
            variable.set("later")
            assert pool.submit(variable.get).result() == first
        """,
        flags=("-X", f"thread_inherit_context={inherit}"),
    )


# --- Interpreters -----------------------------------------------------------------------------------------------------

EVERYTHING = """
import asyncio
async def main(pool):
    loop = asyncio.get_running_loop()
    loop.slow_callback_duration = 3600  # or it complains of a busy machine in development mode
    return await asyncio.gather(*(loop.run_in_executor(pool, pow, 2, n) for n in range(5)), asyncio.to_thread(abs, -9))
for kind in (ThreadPoolExecutor, ProcessPoolExecutor):
    with kind(2) as pool:
        assert list(pool.map(abs, range(-9, 0))) == list(range(9, 0, -1))
        assert asyncio.run(main(pool)) == [1, 2, 4, 8, 16, 9]
        assert isinstance(pool.submit(int, "x").exception(), ValueError)
"""


@pytest.mark.parametrize(
    "flags",
    [
        ("-X", "dev", "-bb"),
        ("-X", "tracemalloc", "-W", "error", "-u", "-B"),
        ("-OO",),
        *(pytest.param(flags, marks=pytest.mark.slow) for flags in (("-X", "dev"), ("-O",), ("-W", "error", "-b"))),
    ],
    ids=" ".join,
)
def test_options_of_the_interpreter(library: Library, flags: tuple[str, ...]) -> None:
    ignored = ("-W", "ignore:This process:DeprecationWarning") if "error" in flags else ()
    run(library, EVERYTHING, flags=(*flags, *ignored))


def test_a_recursion_limit_that_submit_meets(library: Library) -> None:
    run(
        library,
        """
        import sys
        sys.setrecursionlimit(150)
        def submit_at(depth):
            if depth == 0:
                return pool.submit(abs, -7).result()
            return submit_at(depth - 1)
        with ThreadPoolExecutor(1) as pool:
            outcomes = set()
            for depth in range(100, 160):
                try:
                    outcomes.add(submit_at(depth))
                except RecursionError:
                    outcomes.add("too deep")
            assert outcomes == {7, "too deep"}
            assert list(pool.map(abs, [-1, -2])) == [1, 2]
        """,
    )


@pytest.mark.parametrize("kind", ["ThreadPoolExecutor", "ProcessPoolExecutor"])
def test_a_doctest_and_isolated_tests_of_asyncio(library: Library, kind: str) -> None:
    run(
        library,
        f"""
        import asyncio, doctest, io, unittest
        def double(number):
            '''
            >>> with ThreadPoolExecutor(1) as pool:
            ...     pool.submit(double, 2).result()
            4
            '''
            return 2 * number
        assert doctest.testmod() == (0, 1) or doctest.testmod().failed == 0
        class Case(unittest.IsolatedAsyncioTestCase):
            async def asyncSetUp(self):
                asyncio.get_running_loop().slow_callback_duration = 3600  # in debug mode, too
                self.pool = {kind}(1)
                self.addCleanup(self.pool.shutdown)
            async def test(self):
                loop = asyncio.get_running_loop()
                self.assertEqual(await loop.run_in_executor(self.pool, abs, -3), 3)
            test_again = test
        result = unittest.TextTestRunner(io.StringIO()).run(unittest.defaultTestLoader.loadTestsFromTestCase(Case))
        assert result.wasSuccessful() and result.testsRun == 2, result.failures + result.errors
        """,
    )


# --- Event loops ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ThreadPoolExecutor", "ProcessPoolExecutor"])
def test_a_nested_turn_of_the_loop(library: Library, kind: str) -> None:
    """As notebooks, and debuggers of coroutines, let a callback wait for a coroutine."""
    run(
        library,
        f"""
        import asyncio
        from asyncio import events
        async def main():
            loop = asyncio.get_running_loop()
            nested = []
            def nest():
                # A task cannot run inside another one, but callbacks can.
                future = loop.run_in_executor(pool, pow, 2, 3)
                while not future.done():
                    loop._run_once()
                nested.append(future.result())
            outer = loop.run_in_executor(pool, pow, 3, 2)
            loop.call_soon(nest)
            assert await outer == 9
            while not nested:
                await asyncio.sleep(0)
            assert nested == [8]
        with {kind}(1) as pool:
            asyncio.run(main())
        """,
    )


@pytest.mark.skipif(
    sys.version_info < (3, 13), reason="shutdown_default_executor() has no time-out before, or one that hangs"
)
def test_a_shutdown_of_the_default_executor_that_takes_too_long_warns(library: Library) -> None:
    run(
        library,
        """
        import asyncio, threading, warnings
        end = threading.Event()
        async def main():
            loop = asyncio.get_running_loop()
            loop.set_default_executor(ThreadPoolExecutor(1))
            waits = loop.run_in_executor(None, end.wait)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                await loop.shutdown_default_executor(0.1)
            assert "joining its threads within" in str(caught[0].message), caught
            end.set()
            assert await waits is True
        asyncio.run(main())
        """,
    )


# --- Ends -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "hack",
    [
        "pool._threads.clear()",
        "atexit.unregister(thread._python_exit)",
        "pool.shutdown(wait=False)",
    ],
)
def test_exits_that_people_have_found(library: Library, hack: str) -> None:
    run(
        library,
        f"""
        import atexit
        from concurrent.futures import thread
        pool = ThreadPoolExecutor(1)
        assert pool.submit(abs, -1).result() == 1
        done = pool.submit(print, "done")
        done.result()
        {hack}
        """,
    )


def test_an_executor_that_atexit_weakrefs_and_finalizers_use(library: Library) -> None:
    output = run(
        library,
        """
        import atexit, weakref
        pool = ThreadPoolExecutor(1)
        class Thing:
            def __del__(self):
                print("finalizer", pool.submit(abs, -1).result())
        def refuse(when):
            try:
                pool.submit(abs, -1)
            except RuntimeError as error:
                print(when, str(error)[:31])
        thing = Thing()
        watched = weakref.ref(thing, lambda _: print("weak reference", pool.submit(abs, -2).result()))
        del thing
        atexit.register(refuse, "atexit")
        """,
    )
    refused = "cannot schedule new futures aft"
    assert output == f"finalizer 1\nweak reference 2\natexit {refused}\n"


# --- Processes --------------------------------------------------------------------------------------------------------


def test_random_numbers_of_workers(library: Library) -> None:
    run(
        library,
        """
        import random
        own = random.Random(5)
        def draw():
            return own.random(), random.random()
        with ProcessPoolExecutor(1) as one, ProcessPoolExecutor(1) as other:
            (first, reseeded), (second, different) = one.submit(draw).result(), other.submit(draw).result()
        assert first == second == own.random()  # a copy of the program's state
        assert len({reseeded, different, random.random()}) == 3  # random reseeds itself after a fork
        """,
    )


def test_locks_and_values_that_are_globals(library: Library) -> None:
    run(
        library,
        """
        lock, value, event, queue = fork.Lock(), fork.Value("i", 0), fork.Event(), fork.Queue()
        def count(number):
            with lock:
                value.value += 1
            event.set()
            queue.put(number)
        with ProcessPoolExecutor(2) as pool:
            list(pool.map(count, range(20)))
        assert value.value == 20 and event.is_set()
        assert sorted(queue.get() for _ in range(20)) == list(range(20))
        """,
    )


def test_logs_of_workers_come_by_a_queue(library: Library) -> None:
    run(
        library,
        """
        import logging, logging.handlers
        def begin(queue):
            logging.getLogger().handlers[:] = [logging.handlers.QueueHandler(queue)]
            logging.getLogger().setLevel(logging.INFO)
        def work(number):
            logging.info("task %d", number)
        records = []
        handler = logging.Handler()
        handler.emit = lambda record: records.append(record.getMessage())
        queue = fork.Queue()
        pool = ProcessPoolExecutor(2, initializer=begin, initargs=(queue,))
        listener = logging.handlers.QueueListener(queue, handler)
        with pool:
            pool.submit(abs, 1).result()
            listener.start()
            list(pool.map(work, range(10)))
        listener.stop()
        assert sorted(records) == [f"task {number}" for number in range(10)]
        """,
    )


def test_a_manager(library: Library) -> None:
    run(
        library,
        """
        def write(shared, number):
            shared[number] = number * number
        with fork.Manager() as manager, ProcessPoolExecutor(2, mp_context=fork) as pool:
            shared = manager.dict()
            for future in [pool.submit(write, shared, number) for number in range(5)]:
                future.result()
            assert dict(shared) == {0: 0, 1: 1, 2: 4, 3: 9, 4: 16}
            queue = manager.Queue()
            pool.submit(queue.put, "through the manager").result()
            assert queue.get() == "through the manager"
        """,
    )


def test_a_connection_of_the_script_is_used_in_its_tasks(library: Library) -> None:
    run(
        library,
        """
        import sqlite3
        connection = sqlite3.connect("numbers.db", check_same_thread=False)
        connection.execute("create table numbers (n)")
        connection.executemany("insert into numbers values (?)", [(n,) for n in range(10)])
        connection.commit()
        def ask(least):
            return connection.execute("select count(*) from numbers where n >= ?", (least,)).fetchone()[0]
        with ProcessPoolExecutor(1) as pool:
            assert pool.submit(ask, 4).result() == 6
        connection.close()
        """,
    )


def test_an_object_that_holds_its_executor_is_refused(library: Library) -> None:
    run(
        library,
        """
        class Service:
            def __init__(self):
                self.pool = ProcessPoolExecutor(1)
            def work(self):
                return 1
        service = Service()
        try:
            service.pool.submit(service.work).result()
        except TypeError as error:
            assert "pickle" in str(error), error
        else:
            raise AssertionError("it was pickled")
        service.pool.shutdown()
        """,
    )


@pytest.mark.parametrize("kind", ["as an argument", "as a result"])
def test_what_is_nested_too_deep_fails_alone(library: Library, kind: str) -> None:
    run(
        library,
        """
        import sys
        def nest(depth):
            nested = []
            for _ in range(depth):
                nested = [nested]
            return nested
        def drop(nested):
            return None
        with ProcessPoolExecutor(1) as pool:
            if sys.argv[1] == "as an argument":
                error = pool.submit(drop, nest(200_000)).exception()
            else:
                error = pool.submit(nest, 200_000).exception()
            assert isinstance(error, RecursionError), error
            assert pool.submit(abs, -1).result() == 1
        """,
        kind,
    )


@pytest.mark.parametrize("odd", ["no home", "a folder that is gone", "no executable", "no standard files"])
def test_odd_surroundings(library: Library, odd: str) -> None:
    if library is not PYCONC and odd == "no standard files":
        pytest.skip("the oracle hangs then")
    run(
        library,
        """
        import os, sys
        if sys.argv[1] == "no home":
            os.environ.pop("HOME", None)
        elif sys.argv[1] == "a folder that is gone":
            os.mkdir("gone")
            os.chdir("gone")
            os.rmdir("../gone")
        elif sys.argv[1] == "no executable":
            sys.executable = None
        else:
            os.closerange(0, 3)
        def work(number):
            return number * number
        with ProcessPoolExecutor(2) as processes, ThreadPoolExecutor(2) as threads:
            assert processes.submit(work, 3).result() == threads.submit(work, 3).result() == 9
        """,
        odd,
    )


def test_the_first_process_of_a_namespace(library: Library) -> None:
    unshare = ["unshare", "--map-root-user", "--pid", "--fork"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this system lets nobody make namespaces")
    program = """
        import os
        assert os.getpid() == 1
        with ProcessPoolExecutor(2) as processes, ThreadPoolExecutor(2) as threads:
            assert processes.submit(abs, -3).result() == threads.submit(abs, -3).result() == 3
        """
    source = WITHOUT_WARNINGS + BEGINNINGS[library.name] + textwrap.dedent(program)
    # From elsewhere: of two packages of this name, Python takes the one in the current folder.
    subprocess.run([*unshare, sys.executable, "-c", source], check=True, timeout=60, cwd="/")


# --- What travels -----------------------------------------------------------------------------------------------------

VALUES = """
import array, collections, copyreg, dataclasses, datetime, decimal, enum, fractions, pathlib, typing, zoneinfo
class Reduced:
    def __init__(self, value):
        self.value = value
    def __eq__(self, other):
        return isinstance(other, Reduced) and self.value == other.value
copyreg.pickle(Reduced, lambda reduced: (Reduced, (reduced.value,)))
class NewArgs:
    def __new__(cls, *, keyword):
        new = super().__new__(cls)
        new.keyword = keyword
        return new
    def __getnewargs_ex__(self):
        return (), {"keyword": self.keyword}
    def __eq__(self, other):
        return self.keyword == other.keyword
@dataclasses.dataclass(frozen=True)
class Data:
    number: int
    items: list = dataclasses.field(default_factory=list)
class Slots:
    __slots__ = ("number", "__dict__")
    def __eq__(self, other):
        return self.number == other.number and vars(self) == vars(other)
class Missing(enum.Enum):
    ONE = 1
    OTHER = 2
    @classmethod
    def _missing_(cls, value):
        return cls.OTHER
class Flags(enum.Flag):
    X = 1
    Y = 2
class Tuple(typing.NamedTuple):
    x: int
    y: str = "y"
class Text(str):
    tag = None
class Defaults(dict):
    def __missing__(self, key):
        return key
slots = Slots()
slots.number, slots.more = 1, 2
text = Text("text")
text.tag = 5
VALUES = [
    Reduced(1), NewArgs(keyword=2), Data(1, [2]), slots, Missing.ONE, Missing(99), Flags.X | Flags.Y, Tuple(1), text,
    Defaults(a=1), list[int], array.array("d", [1.5]), array.array("q"), decimal.Decimal("1.10"), 1 << 70, -(1 << 63),
    fractions.Fraction(1, 3), datetime.datetime(2020, 1, 1, fold=1, tzinfo=zoneinfo.ZoneInfo("UTC")), range(1, 9, 2),
    pathlib.PurePosixPath("/a"), collections.Counter("aab"), collections.deque([1, 2], maxlen=2), "\\ud800", ...,
    NotImplemented, None, True, float("inf"), 3 + 4j, frozenset([1]), b"", "", (), {}, slice(1, 2, 3), int, len,
    bytearray(b"x"), collections.OrderedDict(a=1), collections.ChainMap({"a": 1}), memoryview,
]
def echo(value):
    return value, type(value).__name__
"""


def test_values_of_many_kinds(library: Library) -> None:
    run(
        library,
        VALUES
        + """
with ProcessPoolExecutor(1) as pool:
    for value in VALUES:
        back, name = pool.submit(echo, value).result()
        assert type(back) is type(value) and name == type(value).__name__, (value, back)
        assert back == value and getattr(back, "tag", None) == getattr(value, "tag", None), (value, back)
    assert [back for back, name in pool.map(echo, VALUES)] == VALUES
    nested = [1]
    nested.append(nested)
    back, _ = pool.submit(echo, nested).result()
    assert back[1] is back
""",
    )


def test_exceptions_of_many_kinds(library: Library) -> None:
    run(
        library,
        """
        import asyncio, json, subprocess
        class Two(Exception):
            def __init__(self, first, second):
                super().__init__(first)
                self.second = second
            def __reduce__(self):
                return Two, (self.args[0], self.second)
        def fail(kind):
            if kind == "two arguments":
                raise Two(1, 2)
            if kind == "attributes":
                error = KeyError("text")
                error.extra = [1]
                raise error
            if kind == "json":
                json.loads("{")
            if kind == "file":
                open("/nowhere/at/all")
            if kind == "text":
                b"\\xff".decode()
            if kind == "chain":
                try:
                    raise KeyError("inner")
                except KeyError as error:
                    raise ValueError("outer") from error
            raise {"called": subprocess.CalledProcessError(1, "command", b"out"),
                   "import": ImportError("text", name="name"), "cancelled": asyncio.CancelledError("text"),
                   "syntax": SyntaxError("text", ("file", 1, 2, "line"))}[kind]
        def tell(error):
            names = ("second", "extra", "name", "filename", "errno", "lineno", "pos", "stdout", "object")
            return type(error), error.args, {name: getattr(error, name) for name in names if hasattr(error, name)}
        kinds = ["two arguments", "attributes", "json", "file", "text", "chain", "called", "import",
                 "cancelled", "syntax"]
        with ThreadPoolExecutor(1) as threads, ProcessPoolExecutor(1) as processes:
            for kind in kinds:
                one, other = threads.submit(fail, kind).exception(), processes.submit(fail, kind).exception()
                assert tell(one) == tell(other), (kind, tell(one), tell(other))
        """,
    )


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python has groups of exceptions since 3.11")
def test_groups_of_exceptions(library: Library) -> None:
    run(
        library,
        """
        class Group(ExceptionGroup):
            def derive(self, errors):
                return Group(self.message, errors)
        def fail():
            raise Group("outer", [ValueError(1), ExceptionGroup("inner", [KeyError(2)])])
        for kind in (ThreadPoolExecutor, ProcessPoolExecutor):
            with kind(1) as pool:
                error = pool.submit(fail).exception()
                assert type(error) is Group and error.message == "outer"
                assert type(error.exceptions[0]) is ValueError
                assert error.exceptions[1].exceptions[0].args == (2,)
        """,
    )
