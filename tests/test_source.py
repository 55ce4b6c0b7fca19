"""The project's own rules, as far as they can be seen in the text of its files."""

import ast
import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import DEBUG_BUILD

from pyconc import _core

ROOT = Path(__file__).parent.parent
C_FILES = sorted((ROOT / "csrc").rglob("*.[ch]"))
CORE_FILES = [path for path in C_FILES if path.parent.name == "core"]
C_TEST_FILES = sorted((ROOT / "tests/c").glob("*.[ch]"))
PYTHON_FILES = sorted(
    path for folder in ("pyconc", "tests", "benchmarks", "examples", "docs") for path in (ROOT / folder).rglob("*.py")
)
OTHER_FILES = [ROOT / name for name in ("setup.py", "pyproject.toml", "Makefile", ".ci/run", "README.md", "CHANGES.md")]
ALL_FILES = [*C_FILES, *C_TEST_FILES, *PYTHON_FILES, *OTHER_FILES, ROOT / "CONTRIBUTING.md", ROOT / ".clang-format"]

pytestmark = pytest.mark.skipif(not C_FILES, reason="the tests were taken away from the sources")


def without_comments(text: str) -> str:
    """C with its comments and string literals blanked, its lines kept."""
    pattern = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', re.DOTALL)
    return pattern.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)


@functools.cache
def lines_of(path: Path, code: Callable[[str], str]) -> list[str]:
    return code(path.read_text()).splitlines()


def lines_with(pattern: str, files: list[Path], *, code: Callable[[str], str] = without_comments) -> list[str]:
    """The lines of these files in which the pattern occurs, each with its place."""
    found = []
    search = re.compile(pattern).search
    for path in files:
        for number, line in enumerate(lines_of(path, code), 1):
            if search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    return found


def included(path: Path) -> Iterator[str]:
    for match in re.finditer(r'^#\s*include\s+([<"][^>"]+[>"])', path.read_text(), re.MULTILINE):
        yield match[1]


def test_the_rules_have_something_to_look_at():
    assert C_FILES
    assert CORE_FILES
    assert PYTHON_FILES


def test_core_knows_nothing_of_python():
    assert not lines_with(r"\b_?Py[A-Z_]\w*|PyObject|Python\.h", CORE_FILES)


def test_arrows_point_down():
    """core includes core, by name; what is above includes anything of ours."""
    for path in CORE_FILES:
        for name in included(path):
            if name.startswith('"'):
                assert (path.parent / name.strip('"')).is_file(), f"{path.name} includes {name}"
    for path in C_FILES:
        for name in included(path):
            if name.startswith('"'):
                header = name.strip('"')
                assert (ROOT / "csrc" / header).is_file() or (path.parent / header).is_file(), f"{path.name}: {name}"


def test_a_source_file_includes_its_header_first():
    for path in C_FILES:
        if path.suffix == ".c" and path.with_suffix(".h").exists():
            first = next(name for name in included(path))
            assert first.strip('"').rpartition("/")[2] == path.with_suffix(".h").name, path.name


def test_headers_are_guarded_by_their_name():
    for path in C_FILES:
        if path.suffix == ".h":
            guard = f"PYCONC_{path.stem.upper()}_H"
            text = path.read_text()
            assert re.search(rf"^#ifndef {guard}\n#define {guard}\n", text, re.MULTILINE), path.name
            assert re.search(r"^#endif[^\n]*\n\Z", text, re.MULTILINE), path.name


def test_no_volatile():
    assert not lines_with(r"\bvolatile\b", C_FILES)


def test_atomics_name_their_order():
    """TSan cannot follow a bare fence, and a reader cannot see what an implicit order was meant to do."""
    operations = r"\batomic_(?:load|store|exchange|compare_exchange_(?:weak|strong)|fetch_\w+|flag_\w+|thread_fence)\b"
    assert not lines_with(rf"{operations}(?<!_explicit)\s*\(", C_FILES)
    assert not lines_with(r"\batomic_(?:thread|signal)_fence\b|\b__(?:sync|atomic)_\w+", C_FILES)


def test_sequential_consistency_says_why():
    """Each use stands beside a comment: on its line, or just above the statement."""
    for path in C_FILES:
        lines = path.read_text().splitlines()
        for number, line in enumerate(lines):
            if "memory_order_seq_cst" in line:
                assert any("//" in near for near in lines[max(0, number - 4) : number + 1]), f"{path.name}:{number + 1}"


# Objects that refer to nothing but each other, and so are in no cycle.
LEAVES = {"BlockObject", "RegionObject"}


def object_fields() -> Iterator[tuple[Path, str, list[str]]]:
    """Each struct of a Python object: its file, its name, and its references to objects, borrowed ones left out."""
    for path in C_FILES:
        pattern = r"typedef struct (\w+Object) \{\n(.*?)^\} \1;"
        for struct in re.finditer(pattern, path.read_text(), re.DOTALL | re.MULTILINE):
            fields = []
            for line in struct[2].splitlines():
                field = re.match(r"    (?:struct )?(PyObject|\w+Object|queue_head|carrier) \*(\w+)", line)
                if field and field[1] not in LEAVES and field[2] != "weakrefs" and "borrowed" not in line:
                    fields.append(field[2])
            yield path, struct[1], fields


def test_the_garbage_collector_sees_every_object():
    """A type whose instances refer to objects has a tp_traverse that visits each of them."""
    structs = list(object_fields())
    assert len(structs) > 9
    for path, name, fields in structs:
        text = "".join(file.read_text() for file in sorted(path.parent.glob("*.c")))
        cast = rf"\({name} \*\)|\bas_{name.removesuffix('Object').lower()}\("
        found = re.finditer(r"^(\w+_traverse)\(PyObject \*op.*?^\}", text, re.DOTALL | re.MULTILINE)
        traverses = {match[1]: match[0] for match in found if re.search(cast, match[0])}
        visited = {field for body in traverses.values() for field in re.findall(r"Py_VISIT\([^;]*->(\w+)\);", body)}
        assert not set(fields) - visited, f"{name} does not visit {set(fields) - visited}"
        assert all(f"{{Py_tp_traverse, {function}}}" in text for function in traverses), f"{name} has no tp_traverse"


def test_only_the_module_init_is_visible():
    assert not lines_with(r"__attribute__\s*\(\(\s*visibility", C_FILES)
    assert len(lines_with(r"^PyMODINIT_FUNC\s*$|^PyMODINIT_FUNC\s+\w+", C_FILES)) in (1, 2)  # prototype, definition


def test_lines_fit_the_page():
    for files, width in [([*C_FILES, *C_TEST_FILES], 110), (PYTHON_FILES, 120)]:
        assert not lines_with(rf"^.{{{width + 1},}}$", files, code=str)


def test_no_spaces_at_the_end_and_no_tabs():
    assert not lines_with(r"[ \t]+$|^ *\t", [*C_FILES, *C_TEST_FILES, *PYTHON_FILES], code=str)


def test_no_path_of_a_machine():
    """Folders of whoever wrote it, and where their tools and packages came from."""
    pattern = r"/(?:root|home/\w+|work|farm|opt)/|\.pyenv/versions/\d|\.cache/extra|https?://(?:localhost|127\.)"
    files = [path for path in ALL_FILES if path.exists() and path != Path(__file__)]
    assert not lines_with(pattern, files, code=str)


@pytest.mark.skipif(not DEBUG_BUILD, reason="only debug builds of Python compile extensions with their assertions")
def test_a_debug_build_has_the_assertions():
    assert b"__assert_fail" in Path(_core.__file__).read_bytes()


def test_nothing_sleeps_in_order_to_wait():
    """Product code has no timer to look for work; tests wait on conditions (support.wait_until)."""
    benchmarks = ROOT / "pyconc/_bench"  # whose work it may be to sleep
    package = [path for path in PYTHON_FILES if path.is_relative_to(ROOT / "pyconc")]
    package = [path for path in package if not path.is_relative_to(benchmarks)]
    assert not lines_with(r"\btime\.sleep\(|\basyncio\.sleep\((?!0\))", package, code=str)
    assert not lines_with(r"\b(?:usleep|nanosleep|clock_nanosleep|sleep)\s*\(", C_FILES)


def test_nothing_is_made_in_dev_shm():
    """Shared memory is anonymous; nothing_left() relies on it, and looks for the names of the standard library only."""
    assert not lines_with(r"\b(?:shm_open|sem_open)\b|/dev/shm", C_FILES)
    package = [path for path in PYTHON_FILES if path.is_relative_to(ROOT / "pyconc")]
    assert not lines_with(r"\bshared_memory\b|\bSharedMemory\b|_posixshmem|/dev/shm", package, code=str)


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def names_taken(path: Path, modules: set[str]) -> Iterator[tuple[str, str]]:
    """The names that a file takes from other modules of the package, each with its module."""
    tree = ast.parse(path.read_text())
    aliases = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            for name in node.names:
                if f"{node.module}.{name.name}" in modules:
                    aliases[name.asname or name.name] = f"{node.module}.{name.name}"
                elif node.module in modules:
                    yield node.module, name.name
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in aliases:
            yield aliases[node.value.id], node.attr


def names_offered(path: Path) -> set[str]:
    """What a module's __all__ says; of one without, as programs are that run as files, nothing."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]:
            return {*ast.literal_eval(node.value)}
    return set()


def test_each_module_says_what_others_take_from_it():
    """Those of public modules name what is public, and a few names more are taken from them."""
    package = {module_name(path): path for path in PYTHON_FILES if path.is_relative_to(ROOT / "pyconc")}
    offered = {module: names_offered(path) for module, path in package.items() if "._" in module}
    submodules = {module.rpartition(".")[::2] for module in [*package, "pyconc._core"]}
    unsaid = {
        f"{module} takes {name} from {source}, whose __all__ does not have it"
        for module, path in package.items()
        for source, name in names_taken(path, {*package})
        if source in offered
        and name not in offered[source]
        and (source, name) not in submodules
        and not name.startswith("__")
    }
    assert not unsaid


def test_names_of_tests_are_the_same_in_every_process(request):
    """pytest-xdist refuses others, such as names with an address."""
    assert [item.nodeid for item in request.session.items if " at 0x" in item.nodeid] == []
