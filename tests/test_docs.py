"""Docstrings of the public names: their form, and that their examples run.

Each says in one sentence what the name is or does, names every parameter, says what is raised, and shows an example as
an interpreter session.
"""

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import HANG_LIMIT, run_script

import pyconc


def is_ours(thing: object) -> bool:
    return (getattr(thing, "__module__", None) or "").partition(".")[0] == "pyconc"


def public() -> Iterator[tuple[str, Any]]:
    """The classes and functions of ours in pyconc.__all__, and the public methods of the classes."""
    for name in pyconc.__all__:
        thing = getattr(pyconc, name)
        if not is_ours(thing):
            continue  # the standard library's, under the name that it has there
        yield name, thing
        if isinstance(thing, type):
            own = {attribute for base in thing.__mro__ if is_ours(base) for attribute in vars(base)}
            for attribute in sorted(own):
                if not attribute.startswith("_") and callable(getattr(thing, attribute)):
                    yield f"{name}.{attribute}", getattr(thing, attribute)


PUBLIC = dict(public())


def parameters(thing: Any) -> list[str]:
    if isinstance(thing, type) and issubclass(thing, BaseException):
        return []  # nobody but pyconc makes them
    names = list(inspect.signature(thing).parameters)
    return [name for name in names if name != "self"]


def lacks(thing: Any) -> set[str]:
    """What a docstring lacks, by name."""
    text = inspect.getdoc(thing) or ""
    found = set()
    if not re.match(r"[A-Z][^\n]*[.:](\n\n|\Z)", text):
        found.add("sentence")
    found |= {name for name in parameters(thing) if not re.search(rf"\b{re.escape(name)}\b", text)}
    if callable(thing) and not re.search(r"\b[Rr]ais(?:e[sd]?|ing)\b|\b\w+Error (?:if|when|after|once)\b", text):
        found.add("raises")
    if not re.search(r"^\s*>>> ", text, re.MULTILINE):
        found.add("example")
    return found


@pytest.mark.parametrize("name", PUBLIC)
def test_a_docstring_has_its_parts(name: str) -> None:
    assert lacks(PUBLIC[name]) == set()


def test_every_kind_of_public_name_is_looked_at() -> None:
    assert {"ProcessPoolExecutor", "Future.result", "wait", "CoroutinePool.run"} <= PUBLIC.keys()


RUN = """
    import doctest
    import sys
    from functools import reduce

    import pyconc

    thing = reduce(getattr, sys.argv[1].split("."), pyconc)
    # Some are defined in C: of those, doctest finds neither the module nor the line.
    names = {"pyconc": pyconc, "__name__": "__main__"}
    tests = doctest.DocTestParser().get_doctest(thing.__doc__, names, sys.argv[1], None, None)
    results = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(tests)
    assert results.attempted, "there is no example"
    sys.exit(results.failed > 0)
"""


@pytest.mark.parametrize("name", PUBLIC)
def test_an_example_runs_as_it_is_shown(name: str) -> None:
    """As a program of its own, that finds pyconc imported."""
    finished = run_script(RUN, name, flags=("-W", "error"), limit=4 * HANG_LIMIT)
    assert finished.stderr == ""


def document(text: str) -> Callable[..., None]:
    def function(seconds: float) -> None: ...

    function.__doc__ = text
    return function


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("Wait.\n\nseconds: how long.  Raises ValueError.\n\n>>> 1\n1\n", set()),
        ("Wait for seconds; ValueError if negative.\n\n>>> 1\n1\n", set()),
        ("wait.\n\nseconds: how long.  Raises ValueError.\n\n>>> 1\n1\n", {"sentence"}),
        ("Wait.\n\nRaises ValueError.\n\n>>> 1\n1\n", {"seconds"}),
        ("Wait.\n\nseconds: how long.\n\n>>> 1\n1\n", {"raises"}),
        ("Wait.\n\nseconds: how long.  Raises ValueError.\n", {"example"}),
        ("", {"sentence", "seconds", "raises", "example"}),
    ],
)
def test_what_a_docstring_lacks_is_noticed(text: str, missing: set[str]) -> None:
    assert lacks(document(text)) == missing
