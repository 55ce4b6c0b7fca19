"""pyconc.loky and pyconc.joblib: the executor that a program shares, and joblib's backend on it."""

import asyncio
import importlib.util
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from gates import ProcessGate
from support import HANG_LIMIT, run_script

import pyconc
from pyconc import loky


@pytest.fixture
def get():
    """get_reusable_executor(), whose executor does not outlive the test."""
    yield loky.get_reusable_executor
    loky._shared.close()


def variable(name):
    return os.environ.get(name)


class SetVariable:
    def __init__(self, value):
        self._value = value

    def __eq__(self, other):
        return isinstance(other, SetVariable) and self._value == other._value

    __hash__ = None

    def __call__(self, name):
        os.environ[name] = self._value


# --- The executor that a program shares -------------------------------------------------------------------------------


def test_it_is_the_same_until_it_is_shut_down(get):
    executor = get(2)
    assert get(2) is executor
    with executor, executor:  # leaving it ends nothing
        pass
    assert executor.submit(abs, -1).result() == 1
    executor.shutdown()
    assert get(2) is not executor
    assert get(2).submit(abs, -2).result() == 2


def test_leaving_an_async_block_ends_nothing(get):
    async def main():
        async with get(1) as executor:
            assert await executor.run(abs, -1) == 1
        assert await executor.run(abs, -2) == 2

    asyncio.run(main())


def test_another_kind_makes_another_one_and_the_former_ends_what_it_has(get):
    with ProcessGate() as gate:
        former = get(1)
        pending = [former.submit(gate), former.submit(abs, -1)]
        gate.wait_started()
        assert get(2) is not former
        with pytest.raises(RuntimeError):
            former.submit(abs, -1)
        gate.open()
        assert pending[1].result() == 1
        former.shutdown()


def test_what_the_former_has_is_killed_if_so_asked(get):
    with ProcessGate() as gate:
        running = get(1).submit(gate)
        gate.wait_started()
        get(2, kill_workers=True)
        with pytest.raises(pyconc.WorkerDied):
            running.result()


def test_reuse_says_what_counts(get):
    executor = get(1, env={"PYCONC_TEST": "one"})
    assert executor.submit(variable, "PYCONC_TEST").result() == "one"
    assert get(1, reuse=True) is executor
    assert get(reuse=True) is executor
    other = get(1)
    assert other is not executor
    assert other.submit(variable, "PYCONC_TEST").result() is None
    assert get(1, reuse=False) is not other


def test_initializers_are_called_and_count(get):
    executor = get(1, initializer=SetVariable("a"), initargs=("PYCONC_TEST",), env={"PYCONC_TEST": "b"})
    assert executor.submit(variable, "PYCONC_TEST").result() == "a"
    assert get(1, initializer=SetVariable("a"), initargs=("PYCONC_TEST",), env={"PYCONC_TEST": "b"}) is executor
    assert get(1, initializer=SetVariable("c"), initargs=("PYCONC_TEST",)) is not executor


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("context", ["fork", "spawn", "loky"])
def test_a_context_may_be_named(get, context):
    assert get(1, context=context).submit(abs, -1).result() == 1


def test_what_cannot_be_is_refused_and_the_executor_stays(get):
    executor = get(1)
    with pytest.raises(ValueError, match="ForkingPickler"):
        get(1, job_reducers={int: int})
    with pytest.raises(ValueError, match="greater than 0"):
        get(0)
    assert get(1) is executor


def test_threads_may_ask_at_once(get):
    found = []
    threads = [threading.Thread(target=lambda: found.append(get(2))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({*map(id, found)}) == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the process has threads
def test_the_child_of_a_fork_has_its_own(get):
    executor = get(1)
    executor.submit(abs, -1).result()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            other = get(1)
            if other is not executor and other.submit(abs, -1).result() == 1:
                code = 0
            other.shutdown()
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    assert get(1) is executor


def test_without_joblib_one_sentence_says_so(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import sys\nsys.modules['joblib'] = None\nimport pyconc.joblib\n")
    finished = run_script(script, check=False)
    assert finished.returncode == 1
    assert "\nModuleNotFoundError: pyconc.joblib needs joblib: pip install pyconc[joblib]\n" in finished.stderr


def test_joblib_has_a_backend_of_pyconc(tmp_path):
    """The tests of that run in an interpreter of their own."""
    if importlib.util.find_spec("joblib") is None:
        pytest.skip("joblib is not installed")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", Path(__file__).parent / "alone"]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=10 * HANG_LIMIT)
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_a_batch_of_which_two_pieces_fail_at_once_has_ended_once():
    finished = run_script(
        """
import concurrent.futures
from pyconc.joblib import _Batch
class Failing(concurrent.futures.Future):
    # While it is asked in one thread how it ended, the other one ends in another.
    def exception(self, timeout=None):
        if not other.done():
            other.set_exception(KeyError("the other"))
        return super().exception(timeout)
other, failing, told = concurrent.futures.Future(), Failing(), []
batch = _Batch([failing, other], told.append)
failing.set_exception(ValueError("the one"))
print(told == [batch])
"""
    )
    assert finished.stdout == "True\n"
