"""pyconc.concurrent.futures is the standard package, with pyconc's executors."""

import abc
import asyncio
import concurrent.futures
import concurrent.futures.process
import concurrent.futures.thread
import importlib
import sys

import pytest
from support import run_script

import pyconc
from pyconc import _core
from pyconc import concurrent as pyconc_concurrent
from pyconc.concurrent import futures

OWN = {"Future", "ProcessPoolExecutor", "ThreadPoolExecutor", "as_completed", "wait"}


def test_every_name_is_the_standard_one_but_for_five():
    names = set(concurrent.futures.__all__) | {"_base", "process", "thread"}
    changed = {name for name in names if getattr(futures, name) is not getattr(concurrent.futures, name)}
    assert changed == OWN


@pytest.mark.parametrize("name", sorted(OWN))
def test_what_differs_is_pyconcs(name):
    assert getattr(futures, name) is getattr(pyconc, name)


def test_it_lists_what_the_standard_package_lists():
    assert sorted(futures.__all__) == sorted(concurrent.futures.__all__)
    assert dir(futures) == dir(concurrent.futures)


def test_star_import():
    namespace = {}
    exec("from pyconc.concurrent.futures import *", namespace)
    del namespace["__builtins__"]
    assert namespace.keys() == set(concurrent.futures.__all__)
    assert namespace["ThreadPoolExecutor"] is pyconc.ThreadPoolExecutor
    assert namespace["ProcessPoolExecutor"] is pyconc.ProcessPoolExecutor


def test_an_unknown_name_is_an_error_of_this_module():
    with pytest.raises(AttributeError, match=r"module 'pyconc\.concurrent\.futures' has no attribute 'nonsense'"):
        futures.nonsense  # noqa: B018
    with pytest.raises(AttributeError, match=r"module 'pyconc\.concurrent' has no attribute 'nonsense'"):
        pyconc_concurrent.nonsense  # noqa: B018


@pytest.mark.parametrize(
    "module",
    ["", ".asyncio", ".cluster", ".concurrent", ".concurrent.futures", ".multiprocessing", ".multiprocessing.pool"],
)
def test_an_unknown_name_says_where_it_was_looked_for(module):
    """So Python suggests the name that was meant."""
    module = importlib.import_module("pyconc" + module)
    with pytest.raises(AttributeError) as caught:
        module.nonsense  # noqa: B018
    assert (caught.value.name, caught.value.obj) == ("nonsense", module)


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="this version has it")
def test_a_submodule_that_this_version_lacks_is_an_unknown_name():
    assert not hasattr(futures, "interpreter")


@pytest.mark.parametrize(
    "program",
    [
        "from pyconc import concurrent",
        "import pyconc; concurrent = pyconc.concurrent",
        "import pyconc.concurrent.futures; concurrent = pyconc.concurrent",
        "from pyconc.concurrent import futures; import types; concurrent = types.SimpleNamespace(futures=futures)",
    ],
)
def test_ways_to_import_it(program):
    finished = run_script(
        f"{program}\n"
        "with concurrent.futures.ThreadPoolExecutor(1) as executor:\n"
        "    future = executor.submit(pow, 2, 3)\n"
        "    assert list(concurrent.futures.as_completed([future])) == [future]\n"
        "print(type(executor).__module__, type(future).__module__, future.result())\n",
        flags=("-W", "error"),
    )
    executor, future, result = finished.stdout.split()
    assert executor.startswith("pyconc")
    assert future.startswith("pyconc")
    assert result == "8"


def test_what_is_not_used_is_not_loaded():
    run_script(
        """
        import sys
        from pyconc.concurrent import futures
        assert not {"multiprocessing", "asyncio", "concurrent.interpreters"} & sys.modules.keys()
        futures.ThreadPoolExecutor
        assert not {"multiprocessing", "asyncio", "concurrent.interpreters"} & sys.modules.keys()
        assert futures.process.__name__ == "concurrent.futures.process"
        """
    )


def test_other_parts_of_the_standard_package_are_reached_through_ours():
    if sys.version_info < (3, 14):
        pytest.skip("concurrent.futures is all there is before Python 3.14")
    from concurrent import interpreters

    assert pyconc_concurrent.interpreters is interpreters


def test_processes_run_tasks():
    with futures.ProcessPoolExecutor(1) as executor:
        assert isinstance(executor, concurrent.futures.ProcessPoolExecutor)
        assert list(executor.map(abs, [-1, -2])) == [1, 2]
        future = executor.submit(pow, 2, 3)
        assert type(future) is futures.Future
        assert futures.wait([future]) == ({future}, set())
        assert future.result() == 8


def test_futures_of_both_kinds_wait_together():
    with futures.ThreadPoolExecutor(1) as ours, concurrent.futures.ThreadPoolExecutor(1) as standard:
        pending = {executor.submit(pow, 2, i) for executor in (ours, standard) for i in range(5)}
        assert futures.wait(pending) == (pending, set())
        assert concurrent.futures.wait(pending) == (pending, set())
        assert set(futures.as_completed(pending)) == pending


def test_a_standard_future_is_one_of_ours():
    class Derived(futures.Future):
        pass

    class Other(concurrent.futures.Future):
        pass

    async def answer():
        return 42

    async def main():
        return asyncio.run_coroutine_threadsafe(answer(), asyncio.get_running_loop())

    with concurrent.futures.ThreadPoolExecutor(1) as standard, futures.ThreadPoolExecutor(1) as ours:
        submitted = standard.submit(int), ours.submit(int)
        for future in (asyncio.run(main()), *submitted, futures.Future(), Other(), Derived()):
            assert isinstance(future, futures.Future)
            assert isinstance(future, concurrent.futures.Future)
            assert issubclass(type(future), futures.Future)
            assert isinstance(future, Derived) is (type(future) is Derived) is issubclass(type(future), Derived)
    for no_future in (None, asyncio.Future, futures.Future):
        assert not isinstance(no_future, futures.Future)
    assert not issubclass(int, futures.Future)
    assert not issubclass(asyncio.Future, futures.Future)
    with pytest.raises(TypeError, match="must be a class"):
        issubclass(1, futures.Future)


def test_a_kind_of_future_may_be_generic_and_abstract():
    class Abstract(futures.Future[int], abc.ABC):
        @abc.abstractmethod
        def name(self): ...

    class Concrete(Abstract):
        def name(self): ...

    with pytest.raises(TypeError, match="abstract"):
        Abstract()
    assert isinstance(Concrete(), Abstract)
    assert not isinstance(futures.Future(), Abstract)
    assert Abstract not in type(futures.Future()).__mro__


@pytest.mark.parametrize("wrong", [1, int, object(), type("Slotted", (int,), {})])
def test_the_type_of_a_class_is_a_metaclass(wrong):
    with pytest.raises(TypeError):
        _core.set_future_type(wrong)
    assert type(pyconc.Future).__name__ == "FutureType"
