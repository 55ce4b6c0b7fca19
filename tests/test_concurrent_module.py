"""pyconc.concurrent.futures is the standard package, with pyconc's executors."""

import concurrent.futures
import concurrent.futures.process
import concurrent.futures.thread
import sys

import pytest
from support import run_script

import pyconc
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
