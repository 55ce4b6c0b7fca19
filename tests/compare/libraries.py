"""The two libraries that are compared.  The standard one is the oracle: every test here must pass on it too.

Where the interpreter's own version is older than a rule that pyconc follows everywhere, a test says since when the
oracle has it: `library.requires((3, 14), "map(buffersize=)")`.
"""

import concurrent.futures
import concurrent.futures.process
import concurrent.futures.thread
import logging
import multiprocessing
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

import pyconc


@dataclass(frozen=True)
class Library:
    name: str
    ThreadPoolExecutor: Any
    ProcessPoolExecutor: Any
    Future: Any
    wait: Callable[..., Any]
    as_completed: Callable[..., Iterator[Any]]
    multiprocessing: Any
    newest: bool  # follows the newest Python's rules on every Python

    def requires(self, since: tuple[int, int], what: str) -> None:
        if not self.newest and sys.version_info < since:
            pytest.skip(f"the standard library has {what} since Python {since[0]}.{since[1]}")

    def process_pool(self, max_workers: int | None = None, **kwargs: Any) -> Any:
        """Makes a process executor whose workers start as quickly as they can.

        Those of the standard library are forked.  pyconc's are cloned from a fresh interpreter, because pytest's hang
        guard is a thread; so what tests submit must be importable there.
        """
        if not self.newest and "mp_context" not in kwargs:
            kwargs["mp_context"] = multiprocessing.get_context("fork")
        return self.ProcessPoolExecutor(max_workers, **kwargs)

    def breakable_pool(self, max_workers: int | None = None, **kwargs: Any) -> Any:
        """Makes one that breaks when a worker dies; pyconc's only does when it is asked to."""
        if self.newest:
            kwargs["on_worker_death"] = "break"
        return self.process_pool(max_workers, **kwargs)

    def __str__(self) -> str:
        return self.name


STANDARD = Library(
    name="standard",
    ThreadPoolExecutor=concurrent.futures.thread.ThreadPoolExecutor,
    ProcessPoolExecutor=concurrent.futures.process.ProcessPoolExecutor,
    Future=concurrent.futures.Future,
    wait=concurrent.futures.wait,
    as_completed=concurrent.futures.as_completed,
    multiprocessing=multiprocessing,
    newest=False,
)

PYCONC = Library(
    name="pyconc",
    ThreadPoolExecutor=pyconc.ThreadPoolExecutor,
    ProcessPoolExecutor=pyconc.ProcessPoolExecutor,
    Future=pyconc.Future,
    wait=pyconc.wait,
    as_completed=pyconc.as_completed,
    multiprocessing=pyconc.multiprocessing,
    newest=True,
)

LIBRARIES = [STANDARD, PYCONC]

# Processes that have threads, such as pytest's hang guard, are warned when they fork, as the oracle must.
FORKS = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")


class Log(logging.Handler):
    """Collects what the library logs, as (level, message, type of the exception), addresses blanked."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[tuple[str, str, type[BaseException] | None]] = []

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[0] if record.exc_info else None
        self.records.append((record.levelname, blank(record.getMessage()), error))

    def __enter__(self) -> "Log":
        logger = logging.getLogger("concurrent.futures")
        self._propagate, logger.propagate = logger.propagate, False
        logger.addHandler(self)
        return self

    def __exit__(self, *exc: object) -> None:
        logger = logging.getLogger("concurrent.futures")
        logger.removeHandler(self)
        logger.propagate = self._propagate


def blank(text: str) -> str:
    """Replaces what differs between two runs: addresses, in hexadecimal and as `id()` prints them."""
    return re.sub(r"0x[0-9a-f]+|\b\d{9,}\b", "<address>", text)


def outcome(call: Callable[..., Any], *args: Any) -> tuple[Any, ...]:
    """What a call does, in a form that can be compared across the libraries."""
    try:
        value = call(*args)
    except BaseException as error:
        return ("raised", type(error), blank(str(error)))
    return ("returned", value)
