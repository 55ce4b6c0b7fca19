"""Runs the interpreter's own tests of executors on a ClusterExecutor, on two nodes that are processes of this machine.

    python run_cluster.py [PATTERN ...]     only tests whose names contain one of the patterns

Where a test has one call end before another that sleeps a second or two, the latter waits until the test is over.
"""

import faulthandler
import importlib
import importlib.util
import logging
import os
import sys
import tempfile
import time
import types
import unittest
from functools import partial
from math import ceil
from typing import Any

from distributed import LocalCluster

from pyconc.cluster import ClusterExecutor

PACKAGE = "test.test_concurrent_futures"

# By module: what is tested.
TESTS = {
    "executor": ["ExecutorTest"],
    "test_wait": ["WaitTests"],
    "test_as_completed": ["AsCompletedTests"],
    "test_shutdown": ["ExecutorShutdownTest"],
    "test_init": ["InitializerMixin"],
}

# What is not asked here, and why.
DIFFERENT = {
    "test_max_workers_negative": "the number is of each node's workers, and has another name",
    "test_free_reference": "looks at once; the thread that delivers may hold the last result for a moment",
    "test_map_timeout": "takes as long as its timeout; test_cluster.py has a shorter one",
    "test_interpreter_shutdown": "makes its executor in a program of its own, as test_cluster.py does",
    "test_submit_after_interpreter_shutdown": "makes its executor in a program of its own",
    "test_hang_gh83386": "makes its executor in a program of its own, as test_cluster.py does",
    "test_cancel_futures": "demands that some call counts as begun; test_cluster.py waits until one does",
    "test_hang_gh94440": "allows five seconds, which is little for three processes on a busy machine",
}

# These wait for their sleeping call.
AWAITED = ["test_20369", "test_duplicate_futures"]

HANG_LIMIT = 900


def sleep(path: str, seconds: float) -> None:
    """A call that ends when there is no such file."""
    while os.path.exists(path):
        time.sleep(0.01)


class UntilTheEnd(types.ModuleType):
    """The module time for a test module whose calls sleep until a file is gone, instead of so many seconds."""

    def __init__(self, path: str) -> None:
        super().__init__("time")
        self.sleep = partial(sleep, path)

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


class OnNodes(ClusterExecutor):
    """A ClusterExecutor that is made as the interpreter's executors are, once both nodes have joined."""

    cluster: LocalCluster

    def __init__(self, max_workers: int, **options: Any) -> None:
        super().__init__(self.cluster, workers_per_node=ceil(max_workers / 2), **options)
        while len(self.stats().nodes) < 2:
            time.sleep(0.01)


class OnNodesMixin:
    """Instead of what makes a test's executor a pool of threads, or of processes."""

    executor_type = OnNodes
    worker_count = 4

    def setUp(self) -> None:
        module = sys.modules[type(self).__mro__[1].__module__]
        with tempfile.NamedTemporaryFile(delete=False) as file:
            self._path = file.name
        if module.__name__.endswith(("wait", "as_completed")) and self._testMethodName not in AWAITED:
            module.time = UntilTheEnd(self._path)
        super().setUp()

    def tearDown(self) -> None:
        os.remove(self._path)
        for name in TESTS:
            sys.modules[f"{PACKAGE}.{name}"].time = time
        super().tearDown()


def load(patterns: list[str]) -> unittest.TestSuite:
    suite = unittest.TestSuite()
    mixin = importlib.import_module(f"{PACKAGE}.util").ExecutorMixin
    for name, parts in TESTS.items():
        module = importlib.import_module(f"{PACKAGE}.{name}")
        for part in parts:
            tests = getattr(module, part)
            bases = (tests, OnNodesMixin, *(() if issubclass(tests, mixin) else (mixin,)), unittest.TestCase)
            for test in unittest.defaultTestLoader.loadTestsFromTestCase(type(part, bases, {"__module__": __name__})):
                is_wanted = not patterns or any(pattern in test.id() for pattern in patterns)
                if is_wanted and test.id().rpartition(".")[2] not in DIFFERENT:
                    suite.addTest(test)
    return suite


def main() -> int:
    if importlib.util.find_spec(PACKAGE) is None:
        print(f"this interpreter came without {PACKAGE}")
        return 0
    faulthandler.dump_traceback_later(HANG_LIMIT, exit=True)
    logging.getLogger("distributed").setLevel(logging.CRITICAL + 1)
    anywhere = "127.0.0.1:0"
    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        dashboard_address=anywhere,
        worker_dashboard_address=anywhere,
        memory_limit=0,
    ) as cluster:
        OnNodes.cluster = cluster
        result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(load(sys.argv[1:]))
    return 0 if result.wasSuccessful() and result.testsRun else 1


if __name__ == "__main__":
    sys.exit(main())
