"""Runs aiomultiprocess's own tests, out of its wheel, against pyconc.aiomultiprocess.

run_aiomultiprocess.py MODULES SKIPPED: those of some modules, but for some tests; several names are joined by commas.
"""

import asyncio
import importlib.util
import sys
import types
import unittest
from pathlib import Path

import pyconc.aiomultiprocess
from pyconc.aiomultiprocess import core, pool, scheduler  # noqa: F401 - names that the tests reach for

# These are about the original's private queues.
PRIVATE = {"test_pool_worker_max_tasks", "test_pool_worker_stop", "test_pool_worker_exceptions"}


def load_tests(modules):
    """Import its tests as they are, with pyconc's package in the original's place."""
    folder = Path(importlib.util.find_spec("aiomultiprocess").origin).parent / "tests"
    sys.modules["aiomultiprocess"] = pyconc.aiomultiprocess
    for name in ("core", "pool", "scheduler"):
        sys.modules[f"aiomultiprocess.{name}"] = sys.modules[f"pyconc.aiomultiprocess.{name}"]
    pool.PoolWorker = None  # imported for the private ones
    package = types.ModuleType("aiomultiprocess.tests")
    package.__path__ = [str(folder)]
    sys.modules["aiomultiprocess.tests"] = package
    suite = unittest.TestSuite()
    for name in modules:
        module = importlib.import_module(f"aiomultiprocess.tests.{name}")
        suite.addTests(unittest.defaultTestLoader.loadTestsFromModule(module))
    return suite


def tests_of(suite):
    for test in suite:
        yield from tests_of(test) if isinstance(test, unittest.TestSuite) else [test]


def is_wanted(test, skipped):
    return test.id().rpartition(".")[2] not in skipped


def main(modules, skipped):
    """Run all but the private ones and those named; say how many that were, and fail if one does."""
    skipped = PRIVATE | set(skipped.split(","))
    asyncio.set_event_loop(asyncio.new_event_loop())  # which the tests expect to be there
    tests = [test for test in tests_of(load_tests(modules.split(","))) if is_wanted(test, skipped)]
    result = unittest.TextTestRunner(verbosity=2).run(unittest.TestSuite(tests))
    asyncio.get_event_loop().close()
    print(f"{result.testsRun} tests")
    sys.exit(not result.wasSuccessful())


if __name__ == "__main__":
    main(*sys.argv[1:])
