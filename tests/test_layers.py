"""Arrows point down: each #include and each import agrees with the table in csrc/LAYERS.

A header and its source file are one unit, since whoever includes the one links with the other.  An import inside a
function is an arrow like any other, and so is a module's name in a string, by which it is imported later.
"""

import ast
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TABLE = ROOT / "csrc/LAYERS"

pytestmark = pytest.mark.skipif(not TABLE.exists(), reason="the tests were taken away from the sources")

Arrow = tuple[str, str]


@dataclass
class Table:
    """What csrc/LAYERS says."""

    layers: list[list[str]] = field(default_factory=list)
    lazy: set[Arrow] = field(default_factory=set)

    def place(self, unit: str) -> tuple[int, str]:
        """The layer of a unit, counted from below, and the name there that it falls under."""
        found = [
            (len(name), number, name)
            for number, layer in enumerate(self.layers)
            for name in layer
            if covers(name, unit)
        ]
        assert found, f"csrc/LAYERS has no place for {unit}"
        _, number, name = max(found)
        return number, name

    def allows(self, arrow: Arrow) -> bool:
        (above, upper), (below, lower) = map(self.place, arrow)
        return above > below or upper == lower

    def lower_names(self, name: str) -> list[str]:
        """What the files under a name may use, beside each other."""
        number = next(number for number, layer in enumerate(self.layers) if name in layer)
        return [lower for layer in self.layers[:number] for lower in layer]


def covers(name: str, unit: str) -> bool:
    return unit.startswith(name) if name.endswith("/") else unit == name.removesuffix(".py")


def read_table(text: str) -> Table:
    table = Table()
    for line in text.splitlines():
        line = line.partition("#")[0].strip()
        if match := re.fullmatch(r"lazy (\S+) (\S+): (.+)", line):
            table.lazy.add((match[1].removesuffix(".py"), match[2].removesuffix(".py")))
        elif line:
            table.layers.append(line.split())
    return table


# --- The arrows -------------------------------------------------------------------------------------------------------


def unit_of(path: Path) -> str:
    return str(path.relative_to(ROOT).with_suffix(""))


def c_files() -> list[Path]:
    return sorted(path for path in (ROOT / "csrc").rglob("*") if path.suffix in (".c", ".h"))


def python_files() -> list[Path]:
    return sorted((ROOT / "pyconc").rglob("*.py"))


def includes(path: Path) -> Iterator[str]:
    """The units of ours that a C file includes, found as the compiler finds them: beside it, then from csrc."""
    for name in re.findall(r'^[ \t]*#[ \t]*include[ \t]+"([^"]+)"', path.read_text(), re.MULTILINE):
        found = [place for folder in (path.parent, ROOT / "csrc") if (place := (folder / name).resolve()).is_file()]
        assert found, f"{path} includes {name}, which is not there"
        yield unit_of(found[0])


def unit_of_module(name: str) -> str | None:
    """The file, without its suffix, of a module of ours; None if there is no such module."""
    place = name.replace(".", "/")
    if place == "pyconc/_core":
        return place
    for candidate in (f"{place}/__init__", place):
        if (ROOT / f"{candidate}.py").is_file():
            return candidate
    return None


def named_modules(tree: ast.AST) -> Iterator[str]:
    """The modules of ours that a Python file imports or names in a string; not what type checkers alone see."""
    if isinstance(tree, ast.If) and isinstance(tree.test, ast.Name) and tree.test.id == "TYPE_CHECKING":
        for statement in tree.orelse:
            yield from named_modules(statement)
        return
    if isinstance(tree, ast.Import):
        yield from (alias.name for alias in tree.names)
    elif isinstance(tree, ast.ImportFrom):
        assert tree.level == 0, "imports of ours are absolute"
        for alias in tree.names:
            name = f"{tree.module}.{alias.name}"
            yield name if unit_of_module(name) else str(tree.module)
    elif isinstance(tree, ast.Constant) and re.fullmatch(r"pyconc(\.\w+)+", str(tree.value)):
        yield str(tree.value)
    for child in ast.iter_child_nodes(tree):
        yield from named_modules(child)


@functools.cache
def arrows() -> set[Arrow]:
    found = set()
    for path in c_files():
        found |= {(unit_of(path), unit) for unit in includes(path)}
        # What the extension imports.  Names of its own types and classes look the same, and are no modules.
        for name in re.findall(r'"(pyconc(?:\.\w+)+)"', path.read_text()):
            unit = unit_of_module(name)
            if unit not in (None, "pyconc/_core"):
                found.add(("pyconc/_core", unit))
    for path in python_files():
        for name in named_modules(ast.parse(path.read_text())):
            unit = unit_of_module(name) if name.partition(".")[0] == "pyconc" else None
            if unit is not None:
                found.add((unit_of(path), unit))
    return {(user, used) for user, used in found if user != used}


def circles(graph: set[Arrow]) -> set[Arrow]:
    """The arrows that lie on a circle."""
    targets: dict[str, set[str]] = {}
    for user, used in graph:
        targets.setdefault(user, set()).add(used)

    def reachable(start: str) -> set[str]:
        seen: set[str] = set()
        ahead = [start]
        while ahead:
            for used in targets.get(ahead.pop(), ()):
                if used not in seen:
                    seen.add(used)
                    ahead.append(used)
        return seen

    reach = {unit: reachable(unit) for unit in targets}
    return {(user, used) for user, used in graph if user in reach.get(used, ())}


# --- The tests --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table() -> Table:
    return read_table(TABLE.read_text())


def test_no_arrow_points_up_and_none_closes_a_circle(table: Table) -> None:
    graph = arrows() - table.lazy
    # A circle through several folders has an arrow up; without those, only circles inside a folder are left.
    up = {arrow for arrow in graph if not table.allows(arrow)}
    wrong = up | circles(graph - up)
    assert sorted(wrong) == [], "arrows up, or in a circle"


def test_the_graph_is_there_to_be_looked_at() -> None:
    graph = arrows()
    assert ("csrc/module", "csrc/base/state") in graph
    assert ("pyconc/_core", "pyconc/_checkpoint") in graph
    assert ("pyconc/__init__", "pyconc/waiting") in graph  # imported at the top
    assert ("pyconc/__init__", "pyconc/coroutine_pool") in graph  # named in a string


def test_the_table_names_what_there_is(table: Table) -> None:
    units = {unit_of(path) for path in [*c_files(), *python_files()]} | {"pyconc/_core"}
    for layer in table.layers:
        for name in layer:
            assert any(covers(name, unit) for unit in units), f"csrc/LAYERS names {name}, which is not there"
    for unit in units:
        table.place(unit)


def test_every_excuse_is_needed(table: Table) -> None:
    assert table.lazy <= arrows()
    assert not {arrow for arrow in table.lazy if table.allows(arrow)}


@pytest.mark.parametrize("folder", sorted({f"{path.parent.relative_to(ROOT)}/" for path in c_files()} - {"csrc/"}))
def test_a_folder_says_what_it_may_include(table: Table, folder: str) -> None:
    """In the second line of its README, as the table has it."""
    lines = (ROOT / folder / "README").read_text().splitlines()
    lower = [name.rstrip("/") for name in table.lower_names(folder)]
    assert len(lines) == 2
    assert lines[1] == "Includes " + (
        f"its own files, and from {', '.join(lower)}." if lower else "its own files only."
    )


def test_arrows_up_and_circles_are_noticed() -> None:
    table = read_table("a/\nb/  c/\nlazy a/x b/y: a reason\n")
    assert table.allows(("b/y", "a/x"))
    assert table.allows(("b/y", "b/z"))
    assert not table.allows(("a/x", "b/y"))
    assert not table.allows(("b/y", "c/z"))
    assert table.lazy == {("a/x", "b/y")}
    with pytest.raises(AssertionError, match="no place for d/w"):
        table.place("d/w")
    ring = {("a", "b"), ("b", "c"), ("c", "a")}
    assert circles(ring | {("c", "d"), ("e", "a")}) == ring


def test_imports_are_found_wherever_they_stand() -> None:
    tree = ast.parse("if TYPE_CHECKING:\n    import pyconc.a\ndef f():\n    import pyconc.b\nx = 'pyconc.c'\n")
    assert sorted(named_modules(tree)) == ["pyconc.b", "pyconc.c"]
