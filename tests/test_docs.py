"""Docstrings of the public names: their form, and that their examples run.

Each says in one sentence what the name is or does, names every parameter, says what is raised, and shows an example as
an interpreter session.
"""

import importlib
import inspect
import json
import pickle
import pkgutil
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support import HANG_LIMIT, run_script

import pyconc
import pyconc.loky

REFERENCE = Path(__file__).resolve().parents[1] / "docs" / "reference"


def is_ours(thing: object) -> bool:
    return (getattr(thing, "__module__", None) or "").partition(".")[0] == "pyconc"


def public(module: ModuleType, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The classes and functions of ours in a module's __all__, and the public methods of the classes."""
    for name in module.__all__:
        thing = getattr(module, name)
        if not is_ours(thing) or not (isinstance(thing, type) or inspect.isroutine(thing)):
            continue  # the standard library's, under the name that it has there
        yield prefix + name, thing
        if isinstance(thing, type):
            own = {attribute for base in thing.__mro__ if is_ours(base) for attribute in vars(base)}
            for attribute in sorted(own):
                if not attribute.startswith("_") and callable(getattr(thing, attribute)):
                    yield f"{prefix}{name}.{attribute}", getattr(thing, attribute)


COMPATIBLE = dict(public(pyconc.aiomultiprocess, "aiomultiprocess."))
COMPATIBLE |= public(pyconc.multiprocessing.pool, "multiprocessing.pool.")
PUBLIC = dict(public(pyconc)) | dict(public(pyconc.asyncio, "asyncio."))
# What several classes have from one is looked at once.
PUBLIC |= {thing.__doc__: (name, thing) for name, thing in public(pyconc.shared, "shared.")}.values()
PUBLIC |= {name: thing for name, thing in COMPATIBLE.items() if isinstance(thing, type) or name.count(".") == 1}
PUBLIC["loky.get_reusable_executor"] = pyconc.loky.get_reusable_executor
METHODS = sorted(COMPATIBLE.keys() - PUBLIC.keys())  # the documentation of the originals has the rest


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


@pytest.mark.parametrize("name", METHODS)
def test_a_compatible_method_has_a_sentence(name: str) -> None:
    assert "sentence" not in lacks(COMPATIBLE[name])


def test_every_kind_of_public_name_is_looked_at() -> None:
    assert {"ProcessPoolExecutor", "Future.result", "wait", "asyncio.run", "aiomultiprocess.Pool"} <= PUBLIC.keys()
    assert "aiomultiprocess.Pool.map" in METHODS


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="the tests were taken away from the sources")
def test_a_public_name_is_in_the_reference() -> None:
    """Its methods come with a class."""
    text = "".join(page.read_text() for page in REFERENCE.glob("*.md"))
    shown = set(re.findall(r"^\.\. auto(?:class|exception|function):: pyconc\.(\S+)$", text, re.MULTILINE))
    names = {name for name in PUBLIC if name.rpartition(".")[0] not in PUBLIC}
    assert names - shown == set()


def public_modules(package: ModuleType = pyconc) -> Iterator[str]:
    yield package.__name__
    for _, name, is_package in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        if name.rpartition(".")[2].startswith("_"):
            continue
        if is_package:
            yield from public_modules(importlib.import_module(name))
        else:
            yield name


# joblib's backend is imported by tests/alone only, as joblib changes the process; test_cluster.py needs distributed.
MODULES = [name for name in public_modules() if name not in ("pyconc.joblib", "pyconc.cluster")]


@pytest.mark.parametrize("name", MODULES)
def test_a_public_module_lists_its_names(name: str) -> None:
    """A module that is not public begins with an underscore."""
    module = importlib.import_module(name)
    assert module.__doc__
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


@pytest.mark.parametrize("name", MODULES)
def test_what_is_public_says_so(name: str) -> None:
    """In its __module__, which help() and pickles show: private modules may go."""
    module = importlib.import_module(name)
    for thing in (getattr(module, name) for name in module.__all__):
        if is_ours(thing) and (isinstance(thing, type) or inspect.isfunction(thing)):
            assert thing.__module__ in MODULES, thing
            assert pickle.loads(pickle.dumps(thing)) is thing


def test_public_modules_are_found() -> None:
    assert {"pyconc", "pyconc.thread_pool", "pyconc.concurrent.futures", "pyconc.aiomultiprocess.pool"} <= {*MODULES}
    assert not {"pyconc._core", "pyconc._process", "pyconc.__main__"} & {*MODULES}


RUN = """
    import asyncio
    import doctest
    import gc
    import json
    import os
    import sys
    from pkgutil import resolve_name

    import pyconc
    # What most examples use is imported once, and not in each process.
    from pyconc import aiomultiprocess, coroutine_pool, multiprocessing, process_pool, shared, thread_pool

    def run(name):
        thing = resolve_name("pyconc." + name)
        # doctest finds neither the module nor the line of a thing that is defined in C.
        names = {"pyconc": pyconc, "__name__": "__main__"}
        tests = doctest.DocTestParser().get_doctest(thing.__doc__, names, name, None, None)
        said = []
        results = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(tests, out=said.append)
        assert results.attempted, "there is no example"
        return "".join(said)

    if __name__ == "__main__":
        ends = []
        gc.freeze()
        for names in json.loads(sys.argv[1]):
            with open("stderr", "w+") as stderr, open("said", "w+") as said:
                pid = os.fork()
                if pid == 0:
                    os.dup2(stderr.fileno(), 2)
                    json.dump({name: run(name) for name in names}, said)
                    said.flush()
                    sys.exit()
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                ends.append((status, *[(file.seek(0), file.read())[1] for file in (stderr, said)]))
        print(json.dumps(ends))
"""


@pytest.fixture(scope="module")
def ends(request: pytest.FixtureRequest) -> dict[str, tuple[int, str, str]]:
    """How the processes of the examples that were asked for end, by name, and what each says of its own.

    A class and its methods have one process, and so has each function; all of them find pyconc imported.
    """
    names = [item.callspec.params["name"] for item in request.session.items if "ends" in item.fixturenames]
    groups: dict[str, list[str]] = {}
    for name in names:
        owner = name.rpartition(".")[0]
        groups.setdefault(owner if isinstance(PUBLIC.get(owner), type) else name, []).append(name)
    finished = run_script(RUN, json.dumps([*groups.values()]), flags=("-W", "error"), limit=8 * HANG_LIMIT)
    found = {}
    for group, (status, stderr, said) in zip(groups.values(), json.loads(finished.stdout), strict=True):
        each = json.loads(said) if said else dict.fromkeys(group, "")
        found.update({name: (status, stderr, each[name]) for name in group})
    return found


@pytest.mark.parametrize("name", PUBLIC)
def test_an_example_runs_as_it_is_shown(name: str, ends: dict[str, tuple[int, str, str]]) -> None:
    assert ends[name] == (0, "", "")


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
