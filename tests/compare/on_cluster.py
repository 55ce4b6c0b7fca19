"""Runs the comparison's tests of process executors on a ClusterExecutor: `pytest -p on_cluster tests/compare/...`.

A plugin of pytest: it puts one library in the place of the two.  A process executor of that one has a cluster of one
node if it has one worker, and else two nodes with a worker each.
"""

import contextlib
import dataclasses
import logging
import threading
import types
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

import libraries
import pytest
import support
from distributed import LocalCluster

from pyconc.cluster import ClusterExecutor

# What is not asked here, and why.
DIFFERENT = {
    "*_process.py::test_is_a_standard_executor*": "it is an Executor, and no ProcessPoolExecutor",
    "*_process.py::test_wrong_arguments*": "the number is of each node's workers, and has another name",
    "*::test_max_workers_must_be_a_number*": "the number is of each node's workers, and has another name",
    "*::test_constructor_takes_the_standard_arguments*": "it has other ones",
    "*::test_contexts*": "has no mp_context",
    "*::test_a_warning_of_a_fork_that_is_an_error*": "has no mp_context",
    "*::test_subclass_with_its_own_constructor_and_submit*": "has no mp_context",
    "*max_tasks_per_child*": "has no such argument",
    "*::test_workers_are_replaced_after_so_many_tasks*": "has no max_tasks_per_child",
    "*::test_workers_are_processes_of_multiprocessing*": "its workers are no children of this process",
    "*::test_what_a_worker_knows_of_itself*": "its workers are no children of this process",
    "*::test_fields_that_monitoring_reads*": "its workers are no children of this process",
    "*worker_breaks_the_pool*": "a worker's death costs one call",
    "*::test_ending_workers_by_force*": "has no such methods",
    "*::test_ending_the_workers_of_a_pool_that_has_none*": "has no such methods",
    "*::test_force_knows_two_ways*": "has no such methods",
    "*::test_shutdown_of_a_pool_that_never_worked*": "looks at a private field",
    "*::test_a_pool_that_is_marked_as_shut_down_refuses_tasks*": "sets a private field",
    "*::test_*_may_be_set_until_something_is_submitted*": "sets private fields",
    "*::test_an_executor_that_was_shut_down_keeps_no_file*": "dask opens files when it likes",
    "*::test_waiting_for_one_that_fails_and_one_that_does_not_come*": "the nodes are children of this process",
}


@lru_cache
def cluster_of(nodes: int) -> LocalCluster:
    """A cluster that lasts as long as the tests; two nodes are processes of their own."""
    anywhere = "127.0.0.1:0"
    return LocalCluster(
        n_workers=nodes,
        threads_per_worker=1,
        processes=nodes > 1,
        dashboard_address=anywhere,
        worker_dashboard_address=anywhere,
        memory_limit=0,
    )


class OnNodes(ClusterExecutor):
    """A ClusterExecutor that is made as a ProcessPoolExecutor is, with those of its private fields that tests read."""

    def __init__(self, max_workers: int | None = None, **options: Any) -> None:
        nodes = 1 if max_workers == 1 else 2
        super().__init__(cluster_of(nodes), workers_per_node=1, **options)
        self._executor_manager_thread = self._dispatcher._thread
        # Its workers end as a test expects, as far as this process can tell.
        self._processes = {node: types.SimpleNamespace(exitcode=0, join=lambda: None) for node in range(nodes)}

    @property
    def _broken(self) -> bool:
        return self._dispatcher._failure is not None


@contextlib.contextmanager
def nothing_left() -> Iterator[None]:
    """In place of support.py's: dask keeps threads and files for as long as its process lives."""
    before = threads()
    yield
    support.wait_until(lambda: threads() <= before, "the executors' threads to end")


def threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if "ClusterExecutor" in thread.name}


# Before conftest.py takes them.
libraries.LIBRARIES[:] = [dataclasses.replace(libraries.PYCONC, name="cluster", ProcessPoolExecutor=OnNodes)]
support.nothing_left = nothing_left


def pytest_configure() -> None:
    logging.getLogger("distributed").setLevel(logging.CRITICAL + 1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted, left_out = [], []
    for item in items:
        differs = any(fnmatchcase(item.nodeid, name) for name in DIFFERENT)
        (left_out if differs else wanted).append(item)
    config.hook.pytest_deselected(items=left_out)
    items[:] = wanted


def pytest_unconfigure() -> None:
    for nodes in (1, 2):
        cluster_of(nodes).close()
