"""Every test runs under a hang guard (pytest's, see pyproject.toml) and must leave nothing behind."""

import contextlib
import gc
import os
import signal
import sys
import traceback
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
import support

try:
    import pyconc._core
except ImportError as error:
    pytest.exit(f"pyconc is not installed for this interpreter ({error}): run `make test`", returncode=3)

from pyconc import shared

try:
    from hypothesis import given, settings, strategies
except ImportError:
    given = None  # the tests that need it skip themselves
else:
    # No deadline: a busy machine is not a bug.  In CI a run can be repeated as it was.
    settings.register_profile("pyconc", deadline=None, database=None, print_blob=True, derandomize="CI" in os.environ)
    settings.load_profile("pyconc")


# Shells let programs in the background ignore Ctrl-C, and what they start inherits that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Under xdist the program is a command, which the interpreter that workers are cloned from cannot run up to its guard:
# each worker would import pytest for itself, with its first call.  So that it finds it imported, as without xdist:
if "PYTEST_XDIST_WORKER" in os.environ:
    sys.modules["__main__"].__file__ = str(Path(__file__).with_name("__main__.py"))


support.note_names()


def pytest_collection_finish() -> None:
    """Makes what Hypothesis and shared objects make once per process."""
    if given is not None:
        # With its first test Hypothesis looks for what refers to its random numbers, and would not find what is frozen.
        given(strategies.none())(lambda _: None)()
    # Else each worker makes them, too, in memory of its own, which comes here with the first object that it returns.
    assert not shared._memory._heaps, "a module of tests makes shared objects when it is imported"


@pytest.fixture(scope="module", autouse=True)
def _little_to_collect() -> None:
    """Spares collections what is there when a file's tests begin: tests and reports by the thousand."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _kept_for_life() -> None:
    """Makes what a library opens once per process, so that no test is blamed for it."""
    shared._memory.heap()
    with pyconc.ThreadPoolExecutor(1) as pool:  # the table in which others see pools of threads
        pool.submit(int).result()
    with contextlib.suppress(ImportError):
        import ctypes  # noqa: F401  # a Python 3.15 keeps libffi's file open
    try:
        import uvloop
    except ImportError:
        return
    uvloop.new_event_loop().close()  # libuv's signal pipe


@pytest.fixture(autouse=True)
def _nothing_left(_kept_for_life: None) -> Iterator[None]:
    with support.nothing_left():
        yield


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(call: "pytest.CallInfo[None]") -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Empties the frames of a test that failed, once they are shown: pytest keeps them, and they keep its pools."""
    report = yield
    error = call.excinfo and call.excinfo.value
    while error is not None:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            with contextlib.suppress(RuntimeError):  # it runs
                frame.clear()
            _ = frame.f_locals  # before Python 3.13 a dictionary that is brought up to date when it is looked at
        error = error.__cause__ or error.__context__
    return report
