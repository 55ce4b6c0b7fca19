"""install() and uninstall(): who gets pyconc's executors for the standard ones, and who goes on as before."""

import abc
import asyncio
import builtins
import concurrent.futures
import copy
import inspect
import multiprocessing.pool
import pickle
import queue
import sys
import threading
import warnings
from concurrent.futures.process import ProcessPoolExecutor as StandardProcesses
from concurrent.futures.thread import ThreadPoolExecutor as Standard
from typing import Generic, TypeVar

import pytest
from support import run_script

import pyconc

try:
    import uvloop
except ImportError:
    uvloop = None

T = TypeVar("T")


class Earlier(Standard):
    """A subclass of the standard class that existed before install()."""


class EarlierProcesses(StandardProcesses):
    """The same of the other class."""


class EarlierWithNew(Standard):
    def __new__(cls, *args, **kwargs):
        self = super().__new__(cls)
        self.made_with = args
        return self


class EarlierAndList(Standard, list):
    """A subclass whose instances object.__new__ must not make."""


@pytest.fixture
def installed():
    pyconc.install()
    yield
    pyconc.uninstall()


both = pytest.mark.parametrize("standard", [Standard, StandardProcesses], ids=["threads", "processes"])


def named(standard):
    """What concurrent.futures has under the name of a standard class."""
    return getattr(concurrent.futures, standard.__name__)


def ours(standard):
    return getattr(pyconc, standard.__name__)


def thread_name():
    return threading.current_thread().name


def works(executor):
    with executor:
        return executor.submit(pow, 2, 3).result() == 8


# --- wait() and as_completed() ----------------------------------------------------------------------------------------


def test_the_standard_names_of_what_waits_give_pyconcs_functions():
    standard = concurrent.futures.wait, concurrent.futures.as_completed
    for _ in range(2):
        pyconc.install()
        assert (concurrent.futures.wait, concurrent.futures.as_completed) == (pyconc.wait, pyconc.as_completed)
        pyconc.uninstall()
        assert (concurrent.futures.wait, concurrent.futures.as_completed) == standard


def test_they_take_futures_of_executors_that_existed_before_and_of_new_ones():
    with Standard(1) as earlier:
        pyconc.install()
        try:
            with concurrent.futures.ThreadPoolExecutor(1) as new:
                futures = {earlier.submit(pow, 2, 3), new.submit(pow, 2, 4), *map(new.submit, [int, int])}
                assert concurrent.futures.wait(futures) == (futures, set())
                assert sorted(future.result() for future in concurrent.futures.as_completed(futures)) == [0, 0, 8, 16]
        finally:
            pyconc.uninstall()


def test_a_name_stays_that_another_library_has_replaced(monkeypatch):
    monkeypatch.setattr(concurrent.futures, "as_completed", concurrent.futures.as_completed)  # for the undoing
    monkeypatch.setattr(concurrent.futures, "wait", len)
    pyconc.install()
    assert concurrent.futures.wait is len
    monkeypatch.setattr(concurrent.futures, "as_completed", iter)
    pyconc.uninstall()
    assert (concurrent.futures.wait, concurrent.futures.as_completed) == (len, iter)


# --- multiprocessing's pools ------------------------------------------------------------------------------------------

POOLS = [
    "multiprocessing.Pool(1)",
    "multiprocessing.pool.Pool(1)",
    "multiprocessing.get_context('spawn').Pool(1)",
    "Pool(1)",
    "multiprocessing.pool.ThreadPool(1)",
    "multiprocessing.dummy.Pool(1)",
]


@pytest.mark.parametrize(
    ("install", "first"),
    [
        ("install()", "import multiprocessing.pool"),
        ("install()", ""),
        pytest.param("install(multiprocessing=False)", "import multiprocessing.pool", marks=pytest.mark.slow),
        ("install(multiprocessing=False)", ""),
    ],
)
def test_calls_of_multiprocessings_pools_make_pyconcs(install, first):
    finished = run_script(
        f"""
        import sys
        {first or "pass"}
        import pyconc

        if __name__ == "__main__":
            before = list(sys.meta_path)
            pyconc.{install}
            import multiprocessing.dummy
            from multiprocessing.pool import Pool
            import concurrent.futures.process, concurrent.futures.thread
            assert sys.meta_path == before
            for what in range(2):
                for make in {POOLS}:
                    with eval(make) as pool:
                        assert pool.map(abs, [-1]) == [1] and isinstance(pool, Pool)
                    pool.join()
                    print(type(pool).__module__.partition(".")[0], end=" ")
                pyconc.uninstall()
        """
    )
    theirs, ours = ["multiprocessing"] * len(POOLS), ["pyconc"] * len(POOLS)
    assert finished.stdout.split() == [*(ours if install == "install()" else theirs), *theirs]


def test_subclasses_of_multiprocessings_pools_are_left_alone(installed):
    class Named(multiprocessing.pool.ThreadPool):
        pass

    pool = Named(1)
    assert not isinstance(pool, pyconc.multiprocessing.pool.ThreadPool)
    assert pool.map(abs, [-1]) == [1]
    pool.terminate()
    pool.join()


def test_signatures_of_multiprocessings_pools_are_what_they_were(installed):
    for cls in (multiprocessing.pool.Pool, multiprocessing.pool.ThreadPool):
        ours = getattr(pyconc.multiprocessing.pool, cls.__name__)
        assert inspect.signature(cls) == inspect.signature(ours)
        assert pickle.loads(pickle.dumps(cls)) is cls


def test_what_install_has_made_of_multiprocessing_goes_on(installed):
    pool = multiprocessing.pool.ThreadPool(1)
    pyconc.uninstall()
    assert pool.map(abs, [-1]) == [1]
    assert type(pool) is pyconc.multiprocessing.pool.ThreadPool
    pool.close()
    pool.join()


# --- Names and calls ------------------------------------------------------------------------------------------------


@both
def test_the_name_is_pyconcs_while_installed(standard):
    assert named(standard) is standard
    pyconc.install()
    try:
        assert named(standard) is ours(standard)
    finally:
        pyconc.uninstall()
    assert named(standard) is standard


def test_calling_the_standard_class_makes_pyconcs_executor(installed):
    for make in (Standard, concurrent.futures.thread.ThreadPoolExecutor):
        executor = make(2, thread_name_prefix="pool")
        assert type(executor) is pyconc.ThreadPoolExecutor
        assert executor._max_workers == 2
        assert executor.submit(thread_name).result() == "pool_0"
        executor.shutdown()


def test_calling_the_standard_class_makes_pyconcs_processes(installed):
    for make in (StandardProcesses, concurrent.futures.process.ProcessPoolExecutor):
        with make(2, initializer=int) as executor:
            assert type(executor) is pyconc.ProcessPoolExecutor
            assert executor._max_workers == 2
            assert executor.submit(pow, 2, 3).result() == 8


def test_what_it_makes_is_initialised_once(installed):
    # Every __init__ takes the next number for the names of threads.
    names = [Standard()._thread_name_prefix for _ in range(3)]
    numbers = [int(name.removeprefix("ThreadPoolExecutor-")) for name in names]
    assert numbers == list(range(numbers[0], numbers[0] + 3))


@both
def test_wrong_arguments_raise_what_they_raised(installed, standard):
    for arguments in [(0,), (-1,), (1, None, 42)]:
        with pytest.raises((ValueError, TypeError)) as error:
            standard(*arguments)
        pyconc.uninstall()
        with pytest.raises(error.type) as expected:
            standard(*arguments)
        pyconc.install()
        assert str(error.value) == str(expected.value)
    with pytest.raises(TypeError):
        standard(1, nonsense=2)


@both
def test_uninstall_gives_the_standard_class_back(installed, standard):
    meanwhile = standard(1)
    pyconc.uninstall()
    for arguments in [(), (1,), (1, None, None, ())]:
        executor = standard(*arguments)
        assert type(executor) is standard
        executor.shutdown()
    assert type(standard(max_workers=1)) is standard
    assert works(meanwhile)


def test_the_standard_class_that_is_given_back_works(installed):
    pyconc.uninstall()
    assert works(Standard(1))
    assert works(Standard(max_workers=1))


def test_calls_that_the_interpreter_has_specialised_are_redirected_too():
    def make():
        return type(Standard(1))

    for _ in range(3):
        assert {make() for _ in range(200)} == {Standard}
        pyconc.install()
        assert {make() for _ in range(200)} == {pyconc.ThreadPoolExecutor}
        pyconc.uninstall()


@both
def test_installing_twice_is_installing_once(standard):
    before = dict(vars(concurrent.futures))
    pyconc.install()
    pyconc.install()
    pyconc.uninstall()
    assert named(standard) is standard
    assert type(standard(1)) is standard
    pyconc.uninstall()
    assert vars(concurrent.futures) == before


@both
def test_a_name_that_somebody_else_replaced_is_left_alone(standard, monkeypatch):
    class Theirs(standard):
        pass

    monkeypatch.setattr(concurrent.futures, standard.__name__, Theirs)
    pyconc.install()
    assert named(standard) is Theirs
    pyconc.uninstall()
    assert named(standard) is Theirs

    monkeypatch.undo()
    pyconc.install()
    setattr(concurrent.futures, standard.__name__, Theirs)
    pyconc.uninstall()
    assert named(standard) is Theirs
    setattr(concurrent.futures, standard.__name__, standard)


def test_an_unknown_name_is_still_an_error(installed):
    with pytest.raises(AttributeError, match=r"module '?concurrent\.futures'? has no attribute '?nonsense"):
        concurrent.futures.nonsense  # noqa: B018


def test_signatures_are_what_they_were():
    class Sized(Standard):
        def __init__(self, size):
            super().__init__(size)

    classes = [Standard, Earlier, Sized, StandardProcesses, EarlierProcesses]
    pyconc.install()
    signatures = [inspect.signature(cls) for cls in classes]
    pyconc.uninstall()
    assert [inspect.signature(cls) for cls in classes] == signatures
    program = "import inspect; from concurrent.futures import ThreadPoolExecutor, ProcessPoolExecutor\n"
    program += "print(inspect.signature(ThreadPoolExecutor), inspect.signature(ProcessPoolExecutor), sep='\\n')"
    threads, processes = run_script(program).stdout.splitlines()
    assert [str(signature) for signature in signatures] == [threads, threads, "(size)", processes, processes]


def test_classes_can_be_pickled_and_copied(installed):
    for cls in (Standard, Earlier, StandardProcesses, pyconc.ThreadPoolExecutor, pyconc.ProcessPoolExecutor):
        assert pickle.loads(pickle.dumps(cls)) is cls
        assert copy.copy(cls) is copy.deepcopy(cls) is cls


@pytest.mark.parametrize(
    "first", ["", "concurrent.futures.ThreadPoolExecutor", "concurrent.futures.ProcessPoolExecutor"]
)
def test_names_that_are_loaded_when_asked_for(first):
    run_script(
        f"""
        import concurrent.futures
        {first}
        import pyconc
        pyconc.install()
        from concurrent.futures import *
        assert ThreadPoolExecutor is concurrent.futures.ThreadPoolExecutor is pyconc.ThreadPoolExecutor
        assert ProcessPoolExecutor is concurrent.futures.ProcessPoolExecutor is pyconc.ProcessPoolExecutor
        pyconc.uninstall()
        from concurrent.futures import *
        assert ThreadPoolExecutor.__module__ == "concurrent.futures.thread"
        assert ProcessPoolExecutor.__module__ == "concurrent.futures.process"
        """
    )


def test_a_process_pool_imports_nothing_that_only_others_need():
    run_script(
        """
        import concurrent.futures.process, sys
        loaded = set(sys.modules)
        import pyconc
        with pyconc.ProcessPoolExecutor(1) as pool:
            pool.submit(abs, -1).result()
        others = {"typing", "binascii", "resource", "termios", "pyconc._logs", "pyconc._process.process_tree"}
        assert not others & (sys.modules.keys() - loaded)
        """
    )


def test_import_and_install_load_neither_asyncio_nor_processes_nor_typing():
    run_script(
        """
        import concurrent.futures, sys
        loaded = set(sys.modules)
        import pyconc
        assert "typing" not in sys.modules.keys() - loaded
        before = list(sys.meta_path)
        pyconc.install()
        concurrent.futures.ThreadPoolExecutor(1).submit(int).result()
        pyconc.uninstall()
        assert not {"asyncio", "multiprocessing", "concurrent.interpreters"} & sys.modules.keys()
        assert sys.meta_path == before
        """
    )


@pytest.mark.parametrize(
    "ask",
    [
        "from concurrent.futures import ProcessPoolExecutor",
        "from concurrent.futures import *",
        "import concurrent.futures; ProcessPoolExecutor = concurrent.futures.ProcessPoolExecutor",
        "from concurrent.futures.process import ProcessPoolExecutor",
        "import concurrent.futures.process as process; ProcessPoolExecutor = process.ProcessPoolExecutor",
        "import pyconc.process_pool; from concurrent.futures import ProcessPoolExecutor",
    ],
)
def test_processes_that_are_loaded_later(ask):
    run_script(
        f"""
        import concurrent.futures, pyconc, sys
        before = list(sys.meta_path)
        pyconc.install(multiprocessing=False)
        {ask}
        assert sys.meta_path == before
        with ProcessPoolExecutor(1) as executor:
            assert type(executor) is pyconc.ProcessPoolExecutor is concurrent.futures.ProcessPoolExecutor
            assert executor.submit(pow, 2, 3).result() == 8
        pyconc.uninstall()
        standard = concurrent.futures.process.ProcessPoolExecutor
        assert concurrent.futures.ProcessPoolExecutor is standard
        with standard(1) as executor:
            assert type(executor) is standard
        """
    )


def test_uninstall_before_processes_are_loaded():
    run_script(
        """
        import sys, pyconc
        pyconc.install()
        pyconc.uninstall()
        from concurrent.futures import ProcessPoolExecutor
        with ProcessPoolExecutor(1) as executor:
            assert type(executor).__module__ == "concurrent.futures.process"
        assert "__new__" not in vars(ProcessPoolExecutor)
        """
    )


def test_the_module_of_processes_is_loaded_as_it_would_have_been():
    run_script(
        """
        import inspect, pyconc
        pyconc.install()
        import concurrent.futures.process as process
        assert process.__loader__ is process.__spec__.loader
        assert type(process.__loader__) is type(inspect.__loader__)
        assert "class ProcessPoolExecutor" in inspect.getsource(process)
        """
    )


def test_looking_for_the_module_of_processes_loads_nothing():
    run_script(
        """
        import importlib.util, sys, pyconc
        pyconc.install()
        spec = importlib.util.find_spec("concurrent.futures.process")
        assert spec.loader.get_source(spec.name).count("class ProcessPoolExecutor") == 1
        assert spec.name not in sys.modules
        """
    )


# --- isinstance -----------------------------------------------------------------------------------------------------


def test_isinstance_and_issubclass_stay_true_while_installed():
    standard = Standard(1)
    pyconc.install()
    name = concurrent.futures.ThreadPoolExecutor
    assert isinstance(standard, name)
    assert isinstance(Earlier(1), name)
    assert isinstance(Standard(1), name)
    assert issubclass(Standard, name)
    assert issubclass(Earlier, name)
    assert not isinstance(object(), name)
    assert not issubclass(concurrent.futures.ProcessPoolExecutor, name)
    assert not issubclass(name, concurrent.futures.ProcessPoolExecutor)
    pyconc.uninstall()
    assert not isinstance(standard, name)
    assert not issubclass(Earlier, name)
    assert issubclass(name, Standard)


def test_isinstance_and_issubclass_of_processes_stay_true_while_installed():
    standard, earlier = StandardProcesses(1), EarlierProcesses(1)
    pyconc.install()
    name = concurrent.futures.ProcessPoolExecutor
    for executor in (standard, earlier, StandardProcesses(1)):
        assert isinstance(executor, name)
        assert isinstance(executor, StandardProcesses)
    assert issubclass(StandardProcesses, name)
    assert issubclass(EarlierProcesses, name)
    pyconc.uninstall()
    assert not isinstance(standard, name)
    assert not issubclass(EarlierProcesses, name)
    assert issubclass(name, StandardProcesses)


def test_a_standard_executor_may_become_a_loops_default_executor(installed):
    async def main():
        loop = asyncio.get_running_loop()
        with Earlier(1, "earlier") as executor:
            loop.set_default_executor(executor)
            return await asyncio.to_thread(thread_name)

    assert asyncio.run(main()) == "earlier_0"


# --- Subclasses -----------------------------------------------------------------------------------------------------


def test_subclasses_made_earlier_are_untouched(installed):
    assert type(Earlier(1)) is Earlier
    assert isinstance(Earlier(1)._work_queue, queue.SimpleQueue)
    assert works(Earlier(max_workers=1))
    assert EarlierWithNew(1).made_with == (1,)
    assert works(EarlierWithNew(1))
    assert works(EarlierAndList(1))
    pyconc.uninstall()
    assert EarlierWithNew(1).made_with == (1,)
    assert works(EarlierAndList(1))


def test_subclasses_made_while_installed_are_pyconcs(installed):
    class Counting(concurrent.futures.ThreadPoolExecutor):
        submitted = 0

        def submit(self, fn, /, *args, **kwargs):
            self.submitted += 1
            return super().submit(fn, *args, **kwargs)

    executor = Counting(1)
    assert isinstance(executor, pyconc._core.Executor)
    assert list(executor.map(abs, [-1, -2])) == [1, 2]
    assert executor.submitted == 2
    pyconc.uninstall()
    assert works(executor)


def test_subclasses_of_processes(installed):
    assert type(EarlierProcesses(1)) is EarlierProcesses

    class Counting(concurrent.futures.ProcessPoolExecutor, Generic[T]):
        submitted = 0

        def submit(self, fn, /, *args, **kwargs):
            self.submitted += 1
            return super().submit(fn, *args, **kwargs)

    with Counting[int](1) as executor:
        assert isinstance(executor, pyconc.ProcessPoolExecutor)
        assert list(executor.map(abs, [-1, -2])) == [1, 2]
        assert executor.submitted == 2

    class Watching(concurrent.futures.ProcessPoolExecutor):
        def pids(self):
            return list(self._processes)  # pyconc's has this too

    class Prioritised(concurrent.futures.ProcessPoolExecutor):
        def waiting(self):
            return len(self._pending_work_items)

    assert issubclass(Watching, pyconc._core.Executor)
    assert Prioritised.__bases__ == (StandardProcesses,)
    assert issubclass(Prioritised, concurrent.futures.ProcessPoolExecutor)


class Bounded:
    def __init__(self, size):
        super().__init__(1)
        self._work_queue = queue.Queue(size)


class OwnThreads:
    def _adjust_thread_count(self):
        super()._adjust_thread_count()


class InAProperty:
    @property
    def waiting(self):
        return self._work_queue.qsize()


class InANestedFunction:
    @classmethod
    def make(cls):
        def fill(executor):
            executor._idle_semaphore.release()

        return fill


@pytest.mark.parametrize("body", [Bounded, OwnThreads, InAProperty, InANestedFunction])
def test_subclasses_that_build_upon_private_parts_get_the_standard_class(installed, body):
    cls = type(concurrent.futures.ThreadPoolExecutor)(
        body.__name__, (concurrent.futures.ThreadPoolExecutor,), {**vars(body), "__doc__": "Mine."}
    )
    assert cls.__bases__ == (Standard,)
    assert type(cls) is type
    assert issubclass(cls, concurrent.futures.ThreadPoolExecutor)
    assert cls.__doc__ == "Mine."


def test_a_bounded_queue_stays_bounded(installed):
    class Bounded(concurrent.futures.ThreadPoolExecutor):
        """The commonest way to build upon private parts: submit() waits while so many tasks are queued."""

        def __init__(self, size):
            super().__init__(1)
            self._work_queue = queue.Queue(size)

    gate = threading.Event()
    with Bounded(2) as executor:
        started = threading.Event()
        executor.submit(lambda: started.set() or gate.wait())
        started.wait()
        for _ in range(2):
            executor.submit(int)
        assert executor._work_queue.full()
        gate.set()


def test_subclasses_may_have_other_bases(installed):
    class WithABC(concurrent.futures.ThreadPoolExecutor, abc.ABC):
        @abc.abstractmethod
        def method(self): ...

    class Concrete(WithABC):
        def method(self):
            return self._max_workers

    class WithGeneric(concurrent.futures.ThreadPoolExecutor, Generic[T]):
        pass

    class WithKeyword(concurrent.futures.ThreadPoolExecutor):
        def __init_subclass__(cls, /, size, **kwargs):
            super().__init_subclass__(**kwargs)
            cls.size = size

        def own(self):
            return self._work_queue

    class Sized(WithKeyword, size=3):
        pass

    with pytest.raises(TypeError, match="abstract"):
        WithABC()
    assert works(Concrete(1))
    assert Concrete(3).method() == 3
    assert works(WithGeneric[int](1))
    assert Sized.size == 3
    assert works(Sized(1))


class Singleton(type):
    one = None

    def __call__(cls, *args, **kwargs):
        cls.one = cls.one or super().__call__(*args, **kwargs)
        return cls.one


class SingletonABC(abc.ABCMeta):
    pass


class Mixin(metaclass=Singleton):
    pass


@both
def test_subclasses_whose_metaclass_forbids_pyconcs_get_the_standard_class(installed, standard):
    class Named(named(standard), metaclass=Singleton):
        pass

    class NamedABC(named(standard), abc.ABC, metaclass=SingletonABC):
        pass

    class Inherited(Mixin, named(standard)):
        pass

    for cls in Named, Inherited:
        assert type(cls) is Singleton
        assert standard in cls.__bases__
        assert cls(1) is cls(1)
        cls(1).shutdown()
    assert type(NamedABC) is SingletonABC
    assert NamedABC.__bases__[0] is standard
    assert Named.__module__ == Inherited.__module__ == __name__


@both
def test_subclasses_whose_layout_forbids_pyconcs_get_the_standard_class(installed, standard):
    """Pyconc's has a layout in C, as dict has, and an object can have one of them."""

    class Registry(named(standard), dict):
        pass

    assert Registry.__bases__ == (standard, dict)
    executor = Registry(1)
    executor["key"] = "value"
    assert works(executor)
    with pytest.raises(TypeError, match="lay-out conflict"):

        class Both(named(standard), dict, list):
            pass


def test_subclasses_whose_metaclass_agrees_are_pyconcs(installed):
    class Derived(type(pyconc.ThreadPoolExecutor)):
        pass

    class Mine(concurrent.futures.ThreadPoolExecutor, metaclass=Derived):
        pass

    class Abstract(concurrent.futures.ThreadPoolExecutor, metaclass=abc.ABCMeta):
        pass

    assert Mine.__bases__ == Abstract.__bases__ == (pyconc.ThreadPoolExecutor,)
    assert works(Mine(1))
    assert works(Abstract(1))


def test_class_statements_are_what_they_were(installed):
    seen = []

    class Meta(type):
        def __new__(mcls, name, bases, namespace, **kwargs):
            frame = sys._getframe(1)
            seen.append((frame.f_code.co_name, kwargs))
            return super().__new__(mcls, name, bases, namespace)

    class Plain(metaclass=Meta, option=1):
        def method(self):
            return __class__

    def function(name, bases, namespace, **kwargs):
        return (name, bases)

    class NoClass(concurrent.futures.ThreadPoolExecutor, metaclass=function):
        pass

    assert seen == [("test_class_statements_are_what_they_were", {"option": 1})]
    assert Plain().method() is Plain
    assert NoClass == ("NoClass", (pyconc.ThreadPoolExecutor,))
    with pytest.raises(TypeError, match="metaclass conflict"):

        class Conflict(Plain, metaclass=abc.ABCMeta):
            pass


def test_uninstall_gives_the_class_statement_back():
    before = builtins.__build_class__
    pyconc.install()
    assert builtins.__build_class__ is not before
    pyconc.uninstall()
    assert builtins.__build_class__ is before


def test_the_interpreters_own_subclasses_work_while_installed():
    if sys.version_info < (3, 14):
        pytest.skip("InterpreterPoolExecutor came with Python 3.14")
    program = """
        import concurrent.futures, pyconc
        {before}
        pyconc.install()
        with concurrent.futures.InterpreterPoolExecutor(1) as executor:
            assert isinstance(executor, concurrent.futures.ThreadPoolExecutor)
            assert type(executor).__bases__[0].__module__ == "concurrent.futures.thread"
            assert executor.submit(pow, 2, 3).result() == 8
        pyconc.uninstall()
        with concurrent.futures.InterpreterPoolExecutor(1) as executor:
            assert executor.submit(pow, 2, 3).result() == 8
    """
    run_script(program.format(before=""))
    run_script(program.format(before="concurrent.futures.InterpreterPoolExecutor"))


# --- Event loops ----------------------------------------------------------------------------------------------------


def test_asyncios_default_executor(installed):
    async def main():
        name = await asyncio.to_thread(thread_name)
        return name, asyncio.get_running_loop()._default_executor

    name, executor = asyncio.run(main())
    assert name == "asyncio_0"
    assert type(executor) is pyconc.ThreadPoolExecutor


def test_a_loop_that_has_its_default_executor_keeps_it():
    async def main():
        await asyncio.to_thread(int)
        pyconc.install()
        await asyncio.to_thread(int)
        return asyncio.get_running_loop()._default_executor

    try:
        assert type(asyncio.run(main())) is Standard
    finally:
        pyconc.uninstall()


@pytest.mark.skipif(uvloop is None, reason="uvloop is not installed")
@pytest.mark.parametrize("first", ["uvloop", "pyconc"])
def test_uvloops_default_executor(first):
    """uvloop keeps the standard class in a C variable."""
    modules = ["pyconc; pyconc.install()", "uvloop"]
    if first == "uvloop":
        modules.reverse()
    finished = run_script(
        f"""
        import gc
        import {modules[0]}
        import {modules[1]}
        loop = uvloop.new_event_loop()
        loop.run_until_complete(loop.run_in_executor(None, int))
        print([type(x).__module__ for x in gc.get_objects() if isinstance(x, pyconc.ThreadPoolExecutor)])
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        """
    )
    assert finished.stdout == f"['{pyconc.ThreadPoolExecutor.__module__}']\n"


# --- Threads and processes ------------------------------------------------------------------------------------------


@pytest.fixture
def often_switched():
    """Threads that take turns at every step meet in fewer rounds."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


def test_install_and_uninstall_while_others_make_executors(often_switched):
    stop = threading.Event()
    errors = []

    def switch(function):
        while not stop.is_set():
            function()

    def make():
        try:
            for _ in range(50):
                assert type(Standard(1)) in (Standard, pyconc.ThreadPoolExecutor)
                assert works(concurrent.futures.ThreadPoolExecutor(1))
                assert type(Earlier(1)) is Earlier
        except BaseException as error:
            errors.append(error)

    switches = [threading.Thread(target=switch, args=(f,)) for f in (pyconc.install, pyconc.uninstall)]
    makers = [threading.Thread(target=make) for _ in range(2)]
    for thread in switches + makers:
        thread.start()
    for thread in makers:
        thread.join()
    stop.set()
    for thread in switches:
        thread.join()
    pyconc.uninstall()
    assert not errors
    assert concurrent.futures.ThreadPoolExecutor is Standard
    assert type(Standard(1)) is Standard


def test_a_forked_child_has_it_too(installed):
    import multiprocessing

    def report(pipe):
        pipe.send(type(Standard(1)) is pyconc.ThreadPoolExecutor)

    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=report, args=(sender,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    assert receiver.recv() is True
    process.join()
    process.close()
    receiver.close()
    sender.close()
