"""Sources to sdist to wheel to an empty environment, as a stranger's pip would go."""

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import support

import pyconc

ROOT = Path(__file__).parent.parent

pytestmark = [
    pytest.mark.slow,
    pytest.mark.network,
    pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="the tests were taken away from the sources"),
    pytest.mark.skipif(support.SANITIZED, reason="the compiler is not under test"),
]

LIMIT = 300


def run(*command: object, cwd: Path, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
    finished = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    if check and finished.returncode != 0:
        pytest.fail(f"{command}\n{finished.stdout}\n{finished.stderr}", pytrace=False)
    return finished


def listing(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources without what make, pip and git keep beside them."""
    tree = tmp_path_factory.mktemp("sources") / "pyconc"
    made = [".git", ".venv*", ".build", "build", "dist", "*.egg-info", "*.so", "__pycache__", ".*_cache", ".hypothesis"]
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(*made))
    return tree


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with pip and the build requirements."""
    folder = tmp_path_factory.mktemp("builder")
    venv.create(folder, with_pip=True, symlinks=True)
    python = folder / "bin/python"
    run(python, "-m", "pip", "install", "--quiet", "setuptools>=77", "wheel", cwd=folder)
    return python


@pytest.fixture(scope="module")
def sdist(tree: Path, builder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    script = f"import setuptools.build_meta; setuptools.build_meta.build_sdist({str(folder)!r})"
    before = listing(tree)
    run(builder, "-c", script, cwd=tree)
    left = {name for name in listing(tree) - before if not name.startswith("pyconc.egg-info")}
    assert not left
    (made,) = folder.iterdir()
    return made


@pytest.fixture(scope="module")
def wheel(sdist: Path, builder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(builder, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "-w", folder, sdist, cwd=folder)
    (made,) = folder.iterdir()
    return made


def test_the_sdist_is_named_after_its_version(sdist: Path):
    assert sdist.name == f"pyconc-{pyconc.__version__}.tar.gz"


def test_the_sdist_has_every_file_of_the_project(tree: Path, sdist: Path):
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {name for name in listing(tree) if (tree / name).is_file() and not name.startswith("pyconc.egg-info")}
    for_developers = {name for name in wanted if re.match(r"\.ci/|\.github/|\.gitignore", name)}
    assert wanted - for_developers <= packed


def test_the_wheel_has_the_package_and_nothing_else(tree: Path, wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    (extension,) = {name for name in packed if name.endswith(".so")}
    assert re.fullmatch(r"pyconc/_core\.cpython-\d+\w*-[\w-]+\.so", extension)
    package = {f"pyconc/{name}" for name in listing(tree / "pyconc") if Path(name).suffix in {".py", ".pyi", ".typed"}}
    assert packed - {extension} == package
    assert {"pyconc/py.typed", "pyconc/_core.pyi"} <= package


def test_the_wheel_tells_who_may_install_it(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = {name for name in archive.namelist() if name.endswith(".dist-info/METADATA")}
        metadata = email.message_from_bytes(archive.read(name))
        assert any(name.endswith("/LICENSE") for name in archive.namelist())
    assert metadata["Name"] == "pyconc"
    assert metadata["Version"] == pyconc.__version__
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert {"test", "bench"} <= set(metadata.get_all("Provides-Extra"))
    required = [name for name in metadata.get_all("Requires-Dist") if "extra ==" not in name]
    assert [re.match(r"\w+", name).group() for name in required] == ["cloudpickle"]


def test_the_wheel_works_in_an_empty_environment(wheel: Path, tmp_path: Path):
    venv.create(tmp_path / "empty", with_pip=True, symlinks=True)
    python = tmp_path / "empty/bin/python"
    run(python, "-m", "pip", "install", "--quiet", wheel, cwd=tmp_path)
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from pyconc import ProcessPoolExecutor, ThreadPoolExecutor, asyncio\n"
        "async def main():\n"
        "    async with ThreadPoolExecutor() as pool, ProcessPoolExecutor(1) as processes:\n"
        "        await asyncio.get_running_loop().run_in_executor(processes, lambda: 2)\n"
        "        return await asyncio.get_running_loop().run_in_executor(pool, pow, 2, 10)\n"
        "print(asyncio.run(main()), pyconc.__version__ if (pyconc := sys.modules['pyconc']) else '')\n"
    )
    assert run(python, "-W", "error", script, cwd=tmp_path).stdout == f"1024 {pyconc.__version__}\n"
    assert run(python, "-m", "pyconc", "run", script, cwd=tmp_path).stdout.startswith("1024 ")


def test_builds_side_by_side_leave_nothing_in_the_tree(tree: Path, builder: Path, tmp_path: Path):
    before = listing(tree)
    command = [builder, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", tree, "-w"]
    builds = [subprocess.Popen([*command, tmp_path / name], cwd=tmp_path) for name in ("one", "two")]
    assert [build.wait(LIMIT) for build in builds] == [0, 0]
    assert listing(tree) == before
    one, two = ((tmp_path / name).iterdir() for name in ("one", "two"))
    assert [wheel.name for wheel in one] == [wheel.name for wheel in two]


@pytest.fixture
def build_fails(tree: Path, builder: Path) -> Callable[..., str]:
    def build(prelude: str = "", **env: str) -> str:
        script = f"import sys\n{prelude}\nsys.argv[1:] = ['build_ext']\nexec(open('setup.py').read())"
        finished = run(builder, "-c", script, cwd=tree, check=False, **env)
        assert finished.returncode == 1, finished
        return finished.stderr.strip().splitlines()[-1]

    return build


def test_a_build_without_a_compiler_says_so(build_fails: Callable[..., str]):
    assert build_fails(CC="no-such-compiler") == (
        "pyconc needs the C compiler 'no-such-compiler': install it (Debian: apt install gcc libc6-dev)."
    )


def with_build_ext(change: str) -> str:
    """Python that makes a change once the build has found out where it is."""
    return (
        "from setuptools.command.build_ext import build_ext\n"
        "original = build_ext.finalize_options\n"
        f"def finalize_options(self): original(self); {change}\n"
        "build_ext.finalize_options = finalize_options"
    )


def test_a_build_on_another_system_says_so(build_fails: Callable[..., str]):
    assert build_fails(with_build_ext("sys.platform = 'plan9'")) == "pyconc runs on Linux with CPython only."


def test_a_build_without_headers_says_so(build_fails: Callable[..., str]):
    sentence = build_fails(with_build_ext("self.include_dirs = []"))
    assert sentence.startswith(f"pyconc needs Python.h of python{sys.version_info[0]}.{sys.version_info[1]}:")


def test_a_compiler_that_does_not_work_is_quoted(build_fails: Callable[..., str], tmp_path: Path):
    compiler = tmp_path / "compiler"
    compiler.write_text("#!/bin/sh\necho 'fatal error: the moon is in the wrong quarter' >&2; exit 1\n")
    compiler.chmod(0o755)
    sentence = build_fails(CC=str(compiler))
    assert sentence.startswith("pyconc cannot be compiled here")
    assert "wrong quarter" in sentence
