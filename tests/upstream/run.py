"""Runs the interpreter's own executor, pool and asyncio tests against the pyconc that is installed for it.

    python run.py [PATTERN ...]               with the interpreter of an environment that pyconc is installed in
    python run.py --without=PATTERN ...       all of them but some of the first part

They run in a scratch environment in which every interpreter that starts, the tests' children included, begins by
importing inject.py.  The functions that wait for futures are tested twice: the standard library's on pyconc's
futures, and pyconc's own.  So are asyncio's timeouts and task groups: the second time, what they cancel are calls that
run in workers.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import IO

import pyconc

# Tests of the functions that wait.  Futures of processes are the same however the processes are started.
WAITING = [
    pool + test for pool in ("ThreadPool", "InterpreterPool", "ProcessPoolFork") for test in ("Wait", "AsCompleted")
]

PROCESSES = ["ProcessPool", "FailingInitializerResources"]

SHARED = ["shared_objects."]

HERE = Path(__file__).parent.resolve()


def make_environment(folder: Path) -> Path:
    """An environment with pyconc, and nothing else, injected into its interpreters; returns the interpreter."""
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    show = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(subprocess.check_output([python, "-c", show], text=True).strip())
    (packages / "pyconc").symlink_to(Path(pyconc.__file__).parent, target_is_directory=True)
    shutil.copy(HERE / "inject.py", packages / "pyconc_inject.py")
    (packages / "pyconc.pth").write_text("import pyconc_inject\n")
    return python


def main() -> int:
    without = [argument for argument in sys.argv[1:] if argument.startswith("--without=")]
    patterns = [argument for argument in sys.argv[1:] if argument not in without]
    with tempfile.TemporaryDirectory(prefix="pyconc-upstream-") as scratch:
        python = make_environment(Path(scratch, "environment"))
        failures = Path(scratch, "failures")
        failures.touch()
        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

        def start(output: IO[str], title: str, *arguments: str, **more: str) -> "subprocess.Popen[bytes]":
            print(f"== {title}, Python {sys.version.split()[0]}", file=output, flush=True)
            command = [python, HERE / "suite.py", f"--failed={failures}", *arguments]
            return subprocess.Popen(command, cwd=scratch, env={**env, **more}, stdout=output, stderr=subprocess.STDOUT)

        if patterns:
            return start(sys.stdout, "the interpreter's own tests", *patterns).wait()

        # At the same time, because they mostly sleep.
        with (
            open(Path(scratch, "processes"), "w+") as processes,
            open(Path(scratch, "waiting"), "w+") as waiting,
            open(Path(scratch, "shared"), "w+") as shared,
            open(Path(scratch, "stopping"), "w+") as stopping,
            open(Path(scratch, "pools"), "w+") as pools,
        ):
            parts = {
                sys.stdout: start(
                    sys.stdout,
                    "the interpreter's own tests",
                    *[f"--without={name}" for name in PROCESSES + SHARED],
                    *without,
                ),
                processes: start(processes, "those of processes", *PROCESSES),
                waiting: start(waiting, "with pyconc.wait and as_completed", *WAITING, PYCONC_NATIVE_WAIT="1"),
                pools: start(pools, "those of multiprocessing's pools", "--pools"),
                shared: start(shared, "those of locks and the like, with pyconc.shared", *SHARED),
                stopping: start(stopping, "with calls in workers that are cancelled", "--in-workers"),
            }
            failed = 0
            for output, part in parts.items():
                failed |= part.wait()
                if output is not sys.stdout:
                    output.seek(0)
                    shutil.copyfileobj(output, sys.stdout)
            # Last, where it is seen first: a part that failed need not be the last one.
            for name in failures.read_text().splitlines():
                print("FAILED:", name)
            return failed


if __name__ == "__main__":
    sys.exit(main())
