"""Runs the tests of opentelemetry-instrumentation-threading, out of its sdist, after pyconc.install().

None of them is left out.  The sdist is that of the version that is installed; it is fetched once, to .build.
"""

import os
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

import pytest

import pyconc

PACKAGE = "opentelemetry-instrumentation-threading"
FOLDER = Path(__file__).resolve().parents[2] / ".build" / "opentelemetry"


def fetch() -> Path:
    """Return where the tests are."""
    release = version(PACKAGE)
    unpacked = FOLDER / f"{PACKAGE.replace('-', '_')}-{release}"
    if not unpacked.exists():
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", PACKAGE]
        subprocess.run([*pip, "--dest", FOLDER, f"{PACKAGE}=={release}"], check=True)
        with tarfile.open(f"{unpacked}.tar.gz") as sdist:
            sdist.extractall(FOLDER, filter="data")
    return unpacked / "tests"


class OnPyconc:
    @staticmethod
    def pytest_collection_modifyitems(items):
        """Make sure that what they test is pyconc."""
        assert {item.module.ThreadPoolExecutor for item in items} == {pyconc.ThreadPoolExecutor}


if __name__ == "__main__":
    tests = fetch()
    pyconc.install()
    options = ["-q", "-c", os.devnull, "-p", "no:cacheprovider"]
    sys.exit(pytest.main([*options, str(tests), *sys.argv[1:]], plugins=[OnPyconc()]))
