"""`python -m pyconc enable`: PYCONC=1 in the environment is pyconc in whatever an interpreter starts."""

import concurrent.futures
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from support import SANITIZED

import pyconc

pytestmark = pytest.mark.skipif(SANITIZED, reason="how a program is started is Python's part alone")

LIMIT = 120  # seconds; only a hang takes so long
SHOW = """
import sys
import concurrent.futures, multiprocessing.pool
print("pyconc" in sys.modules, concurrent.futures.ThreadPoolExecutor.__module__, end=" ")
with multiprocessing.pool.ThreadPool(1) as pool:
    print(type(pool).__module__)
"""
STANDARD = "False concurrent.futures.thread multiprocessing.pool\n"
OURS = "True pyconc.thread_pool pyconc.multiprocessing.pool\n"


class Environment:
    """A virtual environment with pyconc, without anything else."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, symlinks=True)
        (self.packages,) = folder.glob("lib/python*/site-packages")
        self.python = folder / "bin" / "python"
        self.file = self.packages / "pyconc.pth"
        self.link = self.packages / "pyconc"
        self.link.symlink_to(Path(pyconc.__file__).parent)

    def run(self, *arguments, **env):
        plain = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYCONC")}
        command = [str(self.python), *arguments]
        options = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "timeout": LIMIT}
        return subprocess.run(command, env=plain | env, cwd=self.packages, **options)

    def pyconc(self, *arguments, **env):
        return self.run("-m", "pyconc", *arguments, **env)


@pytest.fixture
def environment(tmp_path):
    return Environment(tmp_path / "env")


def assert_says(finished, *words):
    """A command that has gone well says so in a line."""
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""
    assert finished.stdout.count("\n") == 1
    assert all(str(word) in finished.stdout for word in words)


def test_the_variable_takes_effect_while_enabled(environment):
    assert environment.run("-c", SHOW, PYCONC="1").stdout == STANDARD
    for _ in range(2):
        assert_says(environment.pyconc("enable"), environment.file, "PYCONC=1")
        assert sorted(path.name for path in environment.packages.iterdir()) == ["pyconc", "pyconc.pth"]
    for value, shown in [
        ("1", OURS),
        ("no-multiprocessing", "True pyconc.thread_pool multiprocessing.pool\n"),
        ("0", STANDARD),
        ("", STANDARD),
    ]:
        finished = environment.run("-X", "dev", "-W", "error", "-c", SHOW, PYCONC=value)
        assert (finished.stdout, finished.stderr) == (shown, "")
    assert environment.run("-c", SHOW).stdout == STANDARD
    assert_says(environment.pyconc("disable"), environment.file, "removed")
    assert environment.run("-c", SHOW, PYCONC="1").stdout == STANDARD
    assert_says(environment.pyconc("disable"), "nothing to remove")


def test_without_the_variable_nothing_is_imported_for_it(environment):
    modules = "import sys; print(sorted(sys.modules))"
    (environment.packages / "another.pth").write_text("# To read any file loads a codec.\n")
    before = environment.run("-c", modules).stdout
    assert_says(environment.pyconc("enable"))
    assert environment.run("-c", modules).stdout == before


def test_with_the_variable_nothing_is_imported_before_it_is_needed(environment):
    """Each child that multiprocessing starts begins as an interpreter does."""
    modules = "import multiprocessing.spawn, sys; print(sorted(sys.modules))"
    environment.pyconc("enable")
    assert environment.run("-c", modules, PYCONC="1").stdout == environment.run("-c", modules).stdout


FIRST_IMPORTS = [
    "from concurrent.futures.thread import ThreadPoolExecutor",
    "import multiprocessing.pool",
    "import pyconc",
    "import os; os.environ.clear(); import concurrent.futures",
    "import importlib.util; importlib.util.find_spec('concurrent.futures'); import concurrent.futures",
]


def test_it_has_taken_effect_after_whatever_import(environment):
    environment.pyconc("enable")
    for first in FIRST_IMPORTS:
        program = (
            f"{first}\n"
            "import concurrent.futures as futures, concurrent.futures.thread as thread, multiprocessing.pool, sys\n"
            "with thread.ThreadPoolExecutor(1) as executor, multiprocessing.pool.ThreadPool(1) as pool:\n"
            "    print(type(executor).__module__, type(pool).__module__)\n"
            "print(futures.ThreadPoolExecutor.__module__, futures.ProcessPoolExecutor.__module__)\n"
            "print(futures.wait.__module__, futures.as_completed.__module__)\n"
            "print(futures.__loader__ is futures.__spec__.loader, type(futures.__loader__).__module__)\n"
            "print([finder for finder in sys.meta_path if 'pyconc' in type(finder).__module__])\n"
        )
        finished = environment.run("-X", "dev", "-W", "error", "-c", program, PYCONC="1")
        assert finished.stderr == "", first
        assert finished.stdout == (
            "pyconc.thread_pool pyconc.multiprocessing.pool\n"
            "pyconc.thread_pool pyconc.process_pool\n"
            "pyconc.waiting pyconc.waiting\n"
            f"True {type(concurrent.futures.__loader__).__module__}\n"
            "[]\n"
        ), first


@pytest.mark.parametrize("other", ["concurrent.futures", "pyconc"])
def test_threads_that_import_it_at_once_do_not_wait_for_each_other(environment, other):
    environment.pyconc("enable")
    program = (
        "import threading\n"
        "barrier = threading.Barrier(2)\n"
        "def find(module):\n"
        "    barrier.wait()\n"
        "    exec(f'import {module} as it', names := {})\n"
        "    cls = names['it'].ThreadPool if module.endswith('pool') else names['it'].ThreadPoolExecutor\n"
        "    pool = cls(1)\n"
        "    pool.terminate() if module.endswith('pool') else pool.shutdown()\n"
        f"modules = ({other!r}, 'multiprocessing.pool')\n"
        "threads = [threading.Thread(target=find, args=(module,)) for module in modules]\n"
        "for thread in threads: thread.start()\n"
        "for thread in threads: thread.join()\n"
        "import concurrent.futures, multiprocessing.pool, time\n"
        # One of the threads may have left it to a third one.
        "while concurrent.futures.ThreadPoolExecutor.__module__ != 'pyconc.thread_pool': time.sleep(0.001)\n"
        "pool = multiprocessing.pool.ThreadPool(1)\n"
        "print(type(pool).__module__)\n"
        "pool.terminate()\n"
    )
    finished = environment.run("-c", program, PYCONC="1")
    assert (finished.stderr, finished.stdout) == ("", "pyconc.multiprocessing.pool\n")


def test_an_earlier_pth_file_may_import_it(environment):
    (environment.packages / "another.pth").write_text("import concurrent.futures\n")
    environment.pyconc("enable")
    assert environment.run("-c", SHOW, PYCONC="1").stdout == OURS


@pytest.mark.skipif(sys.version_info < (3, 14), reason="no executor of interpreters")
def test_sub_interpreters_have_the_standard_library_without_a_word(environment):
    environment.pyconc("enable")
    program = environment.packages / "program.py"
    program.write_text(
        "from concurrent.futures import InterpreterPoolExecutor, ThreadPoolExecutor\n"
        "def kind():\n    return ThreadPoolExecutor.__module__\n"
        "if __name__ == '__main__':\n"
        "    with InterpreterPoolExecutor(1) as pool:\n"
        "        print(kind(), pool.submit(kind).result())\n"
    )
    finished = environment.run("program.py", PYCONC="1")
    assert (finished.stdout, finished.stderr) == ("pyconc.thread_pool concurrent.futures.thread\n", "")


def test_a_value_that_means_nothing_is_told_and_ignored(environment):
    environment.pyconc("enable")
    finished = environment.run(
        "-c", "import concurrent.futures as f; print(f.ThreadPoolExecutor.__module__)", PYCONC="yes"
    )
    assert finished.stdout == "concurrent.futures.thread\n"
    assert finished.stderr == "PYCONC can be 1, 0 or no-multiprocessing, and not 'yes': ignored\n"


def test_what_it_starts_by_itself_has_it_too(environment):
    """A program with threads, whose workers come from an interpreter of their own."""
    environment.pyconc("enable")
    program = environment.packages / "program.py"
    program.write_text(
        "import concurrent.futures, threading\n"
        "def kind():\n    return concurrent.futures.ThreadPoolExecutor.__module__\n"
        "if __name__ == '__main__':\n"
        "    gate = threading.Event()\n"
        "    threading.Thread(target=gate.wait).start()\n"
        "    with concurrent.futures.ProcessPoolExecutor(1) as pool:\n"
        "        print(type(pool).__module__, pool.submit(kind).result())\n"
        "    gate.set()\n"
    )
    finished = environment.run("program.py", PYCONC="1")
    assert (finished.stdout, finished.stderr) == ("pyconc.process_pool pyconc.thread_pool\n", "")


def test_run_has_the_last_word(environment):
    environment.pyconc("enable")
    finished = environment.pyconc("run", "--no-multiprocessing", "-c", SHOW, PYCONC="1")
    assert finished.stdout == "True pyconc.thread_pool multiprocessing.pool\n"


def test_an_interpreter_whose_pyconc_has_gone_starts(environment):
    environment.pyconc("enable")
    environment.link.unlink()
    finished = environment.run("-c", "import multiprocessing.pool, asyncio; print('alone')", PYCONC="1")
    assert finished.returncode == 0
    assert finished.stdout == "alone\n"
    reason = "No module named 'pyconc'"
    assert finished.stderr == f"PYCONC is set, but this interpreter has no pyconc that it can load: {reason}\n"
    assert environment.run("-c", "print('alone')").stderr == ""


def test_it_writes_nothing_where_stderr_is_closed(environment):
    environment.pyconc("enable")
    environment.link.unlink()
    command = (
        "import os, sys; os.close(2); program = 'import concurrent.futures; print(6 * 7)'; "
        "os.execv(sys.executable, [sys.executable, '-c', program])"
    )
    assert environment.run("-c", command, PYCONC="1").stdout == "42\n"


@pytest.mark.parametrize("command", ["enable", "disable"])
def test_no_right_to_write_is_a_sentence(environment, command):
    """A folder in the file's place is in the way for root, too."""
    environment.file.mkdir()
    finished = environment.pyconc(command)
    assert finished.returncode == 1
    assert finished.stdout == ""
    assert finished.stderr.startswith(f"python -m pyconc {command}: {environment.file} cannot be ")
    assert finished.stderr.count("\n") == 1
    assert sorted(path.name for path in environment.packages.iterdir()) == ["pyconc", "pyconc.pth"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_to(environment):
    environment.packages.chmod(0o555)
    finished = environment.pyconc("enable")
    environment.packages.chmod(0o755)
    assert finished.returncode == 1
    assert finished.stderr.endswith("Permission denied\n")


def test_an_installation_for_the_user_alone(environment, tmp_path):
    """There the file stands beside pyconc, whatever the environment is."""
    home = tmp_path / "home"
    program = "import site; print(site.getusersitepackages())"
    base = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}{sys.abiflags}"
    if not base.exists():
        pytest.skip("the interpreter that made this environment cannot be found")
    environment.python = base
    env = {"PYTHONUSERBASE": str(home)}
    packages = Path(environment.run("-c", program, **env).stdout.strip())
    packages.mkdir(parents=True)
    (packages / "pyconc").symlink_to(Path(pyconc.__file__).parent)
    environment.link.unlink()  # beside which the programs run
    assert_says(environment.pyconc("enable", **env), packages / "pyconc.pth")
    assert environment.run("-c", SHOW, PYCONC="1", **env).stdout == OURS
    assert_says(environment.pyconc("disable", **env), packages / "pyconc.pth")
