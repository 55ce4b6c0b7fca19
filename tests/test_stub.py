"""The stubs describe the package that was built: the same names, the same parameters.

`make stubs` has mypy's stubtest compare the types of defaults and more; this needs no tool, so it runs wherever pyconc
is installed.
"""

import ast
import importlib
import importlib.util
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyconc

# What every class has, or what the machinery of classes adds.
UNREMARKABLE = {"__doc__", "__module__", "__new__", "__init__", "__repr__", "__reduce_ex__", "__dict__", "__weakref__"}
UNREMARKABLE |= {"__setattr__", "__delattr__"}
UNREMARKABLE |= {"__del__"}  # of a type that has a finalizer
UNREMARKABLE |= {"__buffer__"}  # what Python calls the buffer protocol since 3.12


def stub_of(module: str) -> ast.Module:
    return ast.parse(Path(importlib.util.find_spec(module).origin).with_suffix(".pyi").read_text())


def core_stub() -> ast.Module:
    """An extension's stub lies beside it, without the tag in its name."""
    return ast.parse(Path(pyconc.__file__).with_name("_core.pyi").read_text())


def members(body: list[ast.stmt]) -> dict[str, ast.stmt]:
    """The names that a stub's body defines; of overloads, the first."""
    found = {}
    for statement in body:
        if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.setdefault(statement.name, statement)
        elif isinstance(statement, ast.AnnAssign):
            found[statement.target.id] = statement
    return found


def parameters(function: ast.FunctionDef) -> list[tuple[str, str, bool]]:
    """Each parameter's name, kind and whether it has a default, but for the instance."""
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [False] * (len(positional) - len(arguments.defaults)) + [True] * len(arguments.defaults)
    kinds = ["positional-only"] * len(arguments.posonlyargs) + ["positional or keyword"] * len(arguments.args)
    found = list(zip([argument.arg for argument in positional], kinds, defaults, strict=True))
    if arguments.vararg:
        found.append((arguments.vararg.arg, "variadic positional", False))
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        found.append((argument.arg, "keyword-only", default is not None))
    if arguments.kwarg:
        found.append((arguments.kwarg.arg, "variadic keyword", False))
    return [entry for entry in found if entry[0] not in ("self", "cls")]


def runtime_parameters(function: object) -> list[tuple[str, str, bool]] | str:
    found = []
    try:
        signature = inspect.signature(function)
    except ValueError as error:
        return str(error)  # its docstring does not begin as inspect wants it
    for parameter in signature.parameters.values():
        if parameter.name not in ("self", "cls"):
            has_default = parameter.default is not inspect.Parameter.empty
            found.append((parameter.name, parameter.kind.description, has_default))
    return found


def core_members() -> Iterator[tuple[str, ast.stmt, object]]:
    """Every function and method of the extension, as the stub has it and as it was built."""
    for name, statement in members(core_stub().body).items():
        built = getattr(pyconc._core, name)
        if isinstance(statement, ast.ClassDef):
            for attribute, inner in members(statement.body).items():
                yield f"{name}.{attribute}", inner, getattr(built, attribute)
        else:
            yield name, statement, built


CLASSES = sorted(name for name, value in vars(pyconc._core).items() if inspect.isclass(value))


def test_the_extension_has_the_names_of_its_stub():
    stub = {name for name in members(core_stub().body) if not name.startswith("_")}
    assert stub == {name for name in dir(pyconc._core) if not name.startswith("__")}


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_has_the_members_of_its_stub(name):
    stub = members(members(core_stub().body)[name].body)
    built = set(vars(getattr(pyconc._core, name)))
    assert set(stub) - UNREMARKABLE == built - UNREMARKABLE


def test_methods_have_the_parameters_of_their_stubs():
    different = {}
    compared = 0
    for name, statement, built in core_members():
        if isinstance(statement, ast.FunctionDef) and not name.endswith("__new__"):
            if runtime_parameters(built) != parameters(statement):
                different[name] = (parameters(statement), runtime_parameters(built))
            compared += 1
    assert not different
    assert compared > 20


def test_constructors_have_the_parameters_of_their_stubs():
    for name, statement in members(core_stub().body).items():
        if isinstance(statement, ast.ClassDef):
            constructor = members(statement.body).get("__new__")
            expected = parameters(constructor) if constructor else []
            assert runtime_parameters(getattr(pyconc._core, name)) == expected, name


@pytest.mark.parametrize(
    "module", ["pyconc.coroutine_pool", "pyconc.process_pool", "pyconc.thread_pool", "pyconc.waiting"]
)
def test_python_modules_have_the_parameters_of_their_stubs(module):
    for name, statement in members(stub_of(module).body).items():
        built = getattr(importlib.import_module(module), name, None)
        if isinstance(statement, ast.ClassDef):
            for attribute, inner in members(statement.body).items():
                if isinstance(inner, ast.AnnAssign):
                    continue  # an instance has it
                found = getattr(built, attribute)
                function = found.fget if isinstance(found, property) else found
                assert runtime_parameters(function) == parameters(inner), f"{name}.{attribute}"
        elif not name.startswith("_"):
            assert runtime_parameters(built) == parameters(statement), name


def test_the_package_exports_the_names_of_its_stub():
    exported = next(
        ast.literal_eval(statement.value)
        for statement in stub_of("pyconc").body
        if isinstance(statement, ast.Assign) and statement.targets[0].id == "__all__"
    )
    assert exported == pyconc.__all__
    assert all(hasattr(pyconc, name) for name in exported)


def test_everything_public_has_a_docstring():
    for name, _, built in core_members():
        if callable(built) and not name.endswith("__new__"):
            assert inspect.getdoc(built), name
    for name in pyconc.__all__:
        assert inspect.getdoc(getattr(pyconc, name)), name
