"""What some tests are after that skips.py skips, asked in a way that suits pyconc's processes."""

import multiprocessing
import os
import tempfile
import time
import unittest
import unittest.mock
import weakref
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool

from test import support

WORKERS = 3


def wait_for(path: str) -> str:
    """A task that runs until there is such a file, or its folder is gone because a test has failed."""
    while not os.path.exists(path) and os.path.exists(os.path.dirname(path)):
        time.sleep(0.01)
    return path


class InsteadMixin:
    """Mixed with the name of a start method below."""

    method: str

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.gate = os.path.join(folder.name, "gate")
        self.context = multiprocessing.get_context(self.method)

    def make(self, workers: int, **options: int) -> futures.ProcessPoolExecutor:
        executor = futures.ProcessPoolExecutor(workers, mp_context=self.context, **options)
        self.addCleanup(executor.shutdown)
        self.addCleanup(self.open_gate)  # goes first
        return executor

    def open_gate(self) -> None:
        open(self.gate, "w").close()

    def wait_until(self, condition) -> None:
        deadline = time.monotonic() + support.SHORT_TIMEOUT
        while not condition():
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.01)

    def submit_waiting(self, executor: futures.ProcessPoolExecutor, count: int) -> list[futures.Future]:
        """Submits tasks that wait for the gate, and returns once the first has been started."""
        pending = [executor.submit(wait_for, self.gate) for _ in range(count)]
        self.wait_until(pending[0].running)
        return pending

    def test_number_of_workers(self) -> None:
        # Instead of test_saturation and test_processes_terminate.
        for count, expected in [(1, WORKERS if self.method == "fork" else 1), (15 * WORKERS, WORKERS)]:
            executor = self.make(WORKERS)
            pending = [executor.submit(wait_for, self.gate) for _ in range(count)]
            workers = executor._processes
            self.assertEqual(len(workers), expected)
            workers = list(workers.values())
            self.open_gate()
            executor.shutdown()
            for worker in workers:
                worker.join()
            self.assertEqual({future.result() for future in pending}, {self.gate})
            os.remove(self.gate)

    def test_shutdown_cancels_what_no_worker_has_taken(self) -> None:
        # Instead of test_cancel_futures.
        executor = self.make(2)
        pending = self.submit_waiting(executor, 50)
        executor.shutdown(wait=False, cancel_futures=True)
        self.open_gate()
        executor.shutdown()
        cancelled = [future for future in pending if future.cancelled()]
        self.assertGreaterEqual(len(cancelled), 48)
        self.assertEqual({future.result() for future in pending if future not in cancelled}, {self.gate})

    def test_tasks_of_a_collected_executor_run(self) -> None:
        # Instead of test_gc_during_max_tasks_worker_exit_gh152967 and half of test_shutdown_no_wait_max_tasks_gh119592.
        if self.method == "fork":
            self.skipTest("max_tasks_per_child is not for the fork start method.")
        for shut_down in (False, True):
            executor = futures.ProcessPoolExecutor(1, mp_context=self.context, max_tasks_per_child=1)
            pending = self.submit_waiting(executor, 3)
            collector = executor._executor_manager_thread
            if shut_down:
                executor.shutdown(wait=False)
            probe = weakref.ref(executor)
            del executor
            self.wait_until(lambda probe=probe: support.gc_collect() or probe() is None)
            self.open_gate()
            self.assertEqual([future.result(support.SHORT_TIMEOUT) for future in pending], [self.gate] * 3)
            collector.join()
            os.remove(self.gate)

    def test_shutdown_without_waiting_replaces_workers(self) -> None:
        # The other half of test_shutdown_no_wait_max_tasks_gh119592.
        if self.method == "fork":
            self.skipTest("max_tasks_per_child is not for the fork start method.")
        executor = self.make(1, max_tasks_per_child=1)
        pending = self.submit_waiting(executor, 3)
        executor.shutdown(wait=False)
        self.open_gate()
        self.assertEqual([future.result(support.SHORT_TIMEOUT) for future in pending], [self.gate] * 3)

    def test_a_worker_that_cannot_be_replaced(self) -> None:
        # Instead of test_failed_worker_replacement_breaks_pool.
        if self.method == "fork":
            self.skipTest("max_tasks_per_child is not for the fork start method.")
        executor = self.make(1, max_tasks_per_child=1)
        pending = self.submit_waiting(executor, 3)
        with unittest.mock.patch.object(type(self.context), "Process", side_effect=OSError("spawn failed")):
            self.open_gate()
            self.assertEqual(pending[0].result(support.SHORT_TIMEOUT), self.gate)
            for future in pending[1:]:
                error = future.exception(support.SHORT_TIMEOUT)
                self.assertIsInstance(error, BrokenProcessPool)
                self.assertIn("could be started: spawn failed", str(error))


class ProcessPoolForkInsteadTest(InsteadMixin, unittest.TestCase):
    method = "fork"


class ProcessPoolForkserverInsteadTest(InsteadMixin, unittest.TestCase):
    method = "forkserver"


class ProcessPoolSpawnInsteadTest(InsteadMixin, unittest.TestCase):
    method = "spawn"
