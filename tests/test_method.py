"""submit() is a method in C, and says nevertheless where it is from, as one in Python does."""

import copy
import inspect
import pickle
import pydoc
import re
from concurrent.futures import Executor
from unittest import mock

import pytest

import pyconc

submit = pyconc.ThreadPoolExecutor.submit


def test_it_tells_its_module_bound_and_unbound():
    with pyconc.ThreadPoolExecutor(1) as pool:
        assert (submit.__module__, pool.submit.__module__) == ("pyconc", "pyconc")
    assert (submit.__name__, submit.__qualname__) == ("submit", "Executor.submit")
    assert pyconc.CoroutinePool.run.__module__ == "pyconc"


def test_it_is_documented_as_the_standard_one():
    assert inspect.isroutine(submit)
    assert inspect.signature(submit) == inspect.signature(Executor.submit)
    text = pydoc.render_doc(submit, renderer=pydoc.plaintext)
    assert re.search(r"method (descriptor )?(submit )?in module pyconc\b", text)
    assert re.search(r"submit\(self, fn, /, \*args, \*\*kwargs\).*\n    Have a worker call", text)


def test_it_is_called_through_the_class_and_super():
    class Doubling(pyconc.ThreadPoolExecutor):
        def submit(self, fn, /, *args, **kwargs):
            return super().submit(lambda: 2 * fn(*args, **kwargs))

    with Doubling(1) as pool:
        assert pool.submit(int, "f", base=16).result() == 30
        assert submit(pool, int, "f", base=16).result() == 15


@pytest.mark.parametrize("arguments", [(), (1, len), (object(), len)])
def test_it_refuses_what_is_no_executor(arguments):
    with pytest.raises(TypeError):
        submit(*arguments)


def test_it_is_copied_and_pickled_by_name():
    assert copy.deepcopy(submit) is submit
    assert pickle.loads(pickle.dumps(submit)) is submit


def test_it_can_be_patched():
    with pyconc.ThreadPoolExecutor(1) as pool:
        with mock.patch.object(pyconc.ThreadPoolExecutor, "submit") as patched:
            pool.submit(len)
        patched.assert_called_once_with(len)
        assert pool.submit(len, "abc").result() == 3
    assert pyconc.ThreadPoolExecutor.submit is submit
