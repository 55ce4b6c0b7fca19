"""Runs the interpreter's own tests of executors and pools; the other half of run.py, which gives it an interpreter.

python suite.py [--stock] [--without PATTERN] [PATTERN ...]     only tests whose names contain one of the patterns
python suite.py --in-workers [NAME ...]                         those that sleep, with workers that do: in_workers.py
python suite.py --pools                                         those of multiprocessing's pools
"""

import argparse
import concurrent.futures
import faulthandler
import importlib
import importlib.util
import subprocess
import sys
import unittest
from collections.abc import Iterator

import test.support
from skips import reason_to_skip
from test.support.script_helper import assert_python_ok

EXECUTOR_TESTS = ["test_thread_pool", "test_process_pool", "test_future", "test_wait", "test_as_completed", "test_init"]
EXECUTOR_TESTS += ["test_shutdown", "test_deadlock"]
EXECUTOR_TESTS += ["test_interpreter_pool"]  # 3.14: must not mind that the class it derives from has been replaced
ASYNCIO_TESTS = ["test_threads", "test_base_events", "test_events", "test_futures", "test_tasks", "test_runners"]
SLEEPING_TESTS = ["test_timeouts", "test_waitfor", "test_taskgroups"]  # where the interpreter has them
ASYNCIO_TESTS += SLEEPING_TESTS

# Modules of multiprocessing's tests by start method.  Those of threads, and of managers, are the same for each.
POOL_TESTS = {
    "fork": ["test_processes", "test_misc", "test_threads", "test_manager"],
    "forkserver": ["test_processes", "test_misc"],
    "spawn": ["test_processes", "test_misc"],
}
POOL_PATTERNS = ["TestPool", "test_pool_initializer", "test_large_pool", "test_pool_in_process"]

HANG_LIMIT = 900


# Every executor and way to start it that the tests use in children.
CALLS = [("ThreadPoolExecutor", "1"), ("ProcessPoolExecutor", "1")]
CALLS += [("ProcessPoolExecutor", f"1, get_context({method!r})") for method in ("fork", "forkserver", "spawn")]

CHILD = """
from concurrent.futures import {name}
from multiprocessing import get_context

if __name__ == "__main__":
    with {name}({start}) as pool:
        future = pool.submit(int)
        result = future.result()
    print(type(pool).__module__.split(".")[0], type(future).__module__.split(".")[0], type(pool).__name__, result)
"""

# Every way to make a pool.
POOLS = [("Process", "multiprocessing.Pool(1)"), ("Process", "multiprocessing.pool.Pool(1)")]
POOLS += [("Process", f"multiprocessing.get_context({method!r}).Pool(1)") for method in POOL_TESTS]
POOLS += [("Thread", "multiprocessing.pool.ThreadPool(1)"), ("Thread", "multiprocessing.dummy.Pool(1)")]

POOL_CHILD = """
import multiprocessing.dummy, multiprocessing.pool

if __name__ == "__main__":
    with {make} as pool:
        print(type(pool).__module__, type(pool).__name__, pool.apply(int))
"""

BREAKING = """
import os
from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor

if __name__ == "__main__":
    with ProcessPoolExecutor(1) as pool:
        pool.submit(os._exit, 1).exception()
        try:
            pool.submit(int)
        except BrokenProcessPool:
            print("broken")
"""


class InjectionTests(unittest.TestCase):
    """That everything after this really runs pyconc: here, and in the interpreters that the tests start."""

    def test_this_process(self) -> None:
        import pyconc

        self.assertIs(concurrent.futures.ThreadPoolExecutor, pyconc.ThreadPoolExecutor)
        self.assertIs(concurrent.futures.ProcessPoolExecutor, pyconc.ProcessPoolExecutor)
        self.assertIs(concurrent.futures.Future, pyconc.Future)
        self.assertIs(concurrent.futures._base.Future, pyconc.Future)
        for module in test_modules("test.test_concurrent_futures", [*EXECUTOR_TESTS, "util"]):
            for name, value in vars(module).items():
                if name == "Future":
                    self.assertIs(value, pyconc.Future)
                elif name.startswith("ThreadPool") and hasattr(value, "executor_type"):
                    self.assertIs(value.executor_type, pyconc.ThreadPoolExecutor)
                elif name.startswith("ProcessPool") and hasattr(value, "executor_type"):
                    self.assertIs(value.executor_type, pyconc.ProcessPoolExecutor)
                elif name.endswith("_FUTURE"):
                    self.assertIsInstance(value, pyconc.Future)

    def test_isolated_children(self) -> None:
        # The same helper, and so the same `python -I`, that the interpreter's tests start their children with.
        for name, start in CALLS:
            _, out, _ = assert_python_ok("-c", CHILD.format(name=name, start=start))
            self.assertEqual(out.split(), [b"pyconc", b"pyconc", name.encode(), b"0"])

    def test_pools(self) -> None:
        for kind, make in POOLS:
            _, out, _ = assert_python_ok("-c", POOL_CHILD.format(make=make))
            name = "Pool" if kind == "Process" else "ThreadPool"
            self.assertEqual(out.split(), [b"pyconc.multiprocessing.pool", name.encode(), b"0"])

    def test_a_dead_worker_breaks_the_executor(self) -> None:
        # Here and in the children: pyconc does that only when asked to.
        with concurrent.futures.ProcessPoolExecutor(1) as executor:
            self.assertEqual(executor._on_worker_death, "break")
        _, out, _ = assert_python_ok("-c", BREAKING)
        self.assertEqual(out.split(), [b"broken"])


def test_modules(package: str, names: list[str]) -> Iterator[object]:
    """The test modules of that package that this interpreter has; before 3.12 the executors' were one file."""
    if importlib.util.find_spec(package) is None:
        print(f"this interpreter came without {package}")
    elif importlib.util.find_spec(package).submodule_search_locations is None:
        yield importlib.import_module(package)
    else:
        for name in names:
            if importlib.util.find_spec(f"{package}.{name}") is not None:
                yield importlib.import_module(f"{package}.{name}")


def tests_of(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from tests_of(item)
        else:
            yield item


def load(patterns: list[str], without: list[str], stock: bool) -> unittest.TestSuite:
    loaded = unittest.TestSuite()
    packages = [("test.test_concurrent_futures", EXECUTOR_TESTS), ("test.test_asyncio", ASYNCIO_TESTS)]
    if not stock:
        packages += [("instead", []), ("shared_objects", [])]
    for package, names in packages:
        for module in test_modules(package, names):
            for case in tests_of(unittest.defaultTestLoader.loadTestsFromModule(module)):
                name = case.id()
                if patterns and not any(pattern in name for pattern in patterns):
                    continue
                if any(pattern in name for pattern in without):
                    continue
                if reason := reason_to_skip(name):
                    setattr(case, name.rpartition(".")[2], unittest.skip(reason)(lambda: None))
                loaded.addTest(case)
    return loaded


def load_in_workers(names: list[str]) -> unittest.TestSuite:
    import in_workers

    loaded = unittest.TestSuite()
    for module in test_modules("test.test_asyncio", SLEEPING_TESTS):
        in_workers.sleep_in_workers(module)
        for case in tests_of(unittest.defaultTestLoader.loadTestsFromModule(module)):
            if names and case.id() not in names:
                continue
            in_workers.check_afterwards(case)
            loaded.addTest(case)
    if loaded.countTestCases() and not names:
        loaded.addTests(unittest.defaultTestLoader.loadTestsFromModule(in_workers))
    return loaded


def load_pools(stock: bool) -> unittest.TestSuite:
    loaded = unittest.TestSuite()
    packages = [(f"test.test_multiprocessing_{method}", names) for method, names in POOL_TESTS.items()]
    for package, names in packages if stock else [*packages, ("instead_pools", [])]:
        for module in test_modules(package, names):
            for case in tests_of(unittest.defaultTestLoader.loadTestsFromModule(module)):
                name = case.id()
                is_of_pools = any(pattern in name for pattern in POOL_PATTERNS) or package == "instead_pools"
                is_repeated = len(names) == 2 and ("WithThreads" in name or "WithManager" in name)
                if not is_of_pools or is_repeated:  # before 3.12 a start method's tests are one file
                    continue
                if reason := not stock and reason_to_skip(name):
                    setattr(case, name.rpartition(".")[2], unittest.skip(reason)(lambda: None))
                loaded.addTest(case)
    return loaded


def failed_again(names: list[str]) -> list[str]:
    """Which of those fail once more, alone, as regrtest --rerun has it.

    In these tests one sleep ends 0.2 s before another, and both are calls in workers, of which each waits for a CPU by
    itself: on a busy machine their order may change once.
    """
    print("ONCE MORE:", *names, flush=True)
    command = [sys.executable, __file__, "--in-workers"]
    return [name for name in names if subprocess.run([*command, name], check=False).returncode != 0]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--stock", action="store_true", help="the standard library, for comparison")
    parser.add_argument("--without", metavar="PATTERN", action="append", default=[], help="leave those out")
    parser.add_argument("--in-workers", action="store_true", help="what is awaited runs in worker processes")
    parser.add_argument("--pools", action="store_true", help="the tests of multiprocessing's pools")
    parser.add_argument("--failed", metavar="FILE", help="add the names of tests that failed to this file")
    parser.add_argument("patterns", nargs="*")
    options = parser.parse_args()

    faulthandler.dump_traceback_later(HANG_LIMIT, exit=True)
    suite = unittest.TestSuite()
    if not options.stock and not (options.in_workers and options.patterns):
        suite.addTests(unittest.defaultTestLoader.loadTestsFromTestCase(InjectionTests))
    if options.in_workers:
        suite.addTests(load_in_workers(options.patterns))
    elif options.pools:
        suite.addTests(load_pools(options.stock))
    else:
        suite.addTests(load(options.patterns, options.without, options.stock))
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(suite)
    failed = [case.id() for case, _ in [*result.failures, *result.errors]]
    failed += [case.id() for case in result.unexpectedSuccesses]
    if options.in_workers:
        in_workers = sys.modules["in_workers"]
        in_workers.stop()
        late = [name for name in failed if name not in in_workers.faults]
        if late and not options.patterns:
            failed = [name for name in failed if name in in_workers.faults] + failed_again(late)
    if test.support.environment_altered:
        failed.append("a test that left threads or processes behind; its name is above, beside the warning")
    if result.testsRun == 0:
        failed.append("no test was found")
    if options.failed:
        with open(options.failed, "a") as file:
            file.writelines(f"{name}\n" for name in failed)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
