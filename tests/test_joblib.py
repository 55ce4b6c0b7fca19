"""pyconc.loky and pyconc.joblib: the executor that a program shares, and joblib's backend on it."""

import asyncio
import multiprocessing
import os
import signal
import threading

import pytest
from gates import ProcessGate
from support import run_script

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
    assert finished.stderr.endswith("ModuleNotFoundError: pyconc.joblib needs joblib: pip install pyconc[joblib]\n")


# --- joblib's backend -------------------------------------------------------------------------------------------------

joblib = pytest.importorskip("joblib", reason="joblib is not installed")
import pyconc.joblib  # noqa: E402 - there must be a joblib

Parallel, delayed = joblib.Parallel, joblib.delayed


@pytest.fixture
def with_joblib():
    """pyconc as joblib's backend, whose workers do not outlive the test."""
    with joblib.parallel_config(backend="pyconc", n_jobs=2):
        yield
    pyconc.joblib._shared.close()


def square(number):
    return number * number


def own_pid():
    return os.getpid()


def fail(error):
    raise error


def wait_at(gate):
    gate()


def end_the_worker():
    os.kill(os.getpid(), signal.SIGKILL)


def test_calls_run_in_worker_processes_and_come_in_order(with_joblib):
    assert Parallel()(delayed(square)(number) for number in range(1000)) == [number**2 for number in range(1000)]
    assert os.getpid() not in Parallel()(delayed(own_pid)() for _ in range(10))
    assert Parallel()(delayed(lambda number: number + 1)(number) for number in range(3)) == [1, 2, 3]


def test_the_workers_stay(with_joblib):
    first = {*Parallel(batch_size=1)(delayed(own_pid)() for _ in range(20))}
    assert first & {*Parallel(batch_size=1)(delayed(own_pid)() for _ in range(20))}


def test_an_exception_stops_what_runs_and_the_workers_go_on(with_joblib):
    with ProcessGate() as gate:
        calls = [delayed(wait_at)(gate), delayed(fail)(ZeroDivisionError("by hand"))]
        with pytest.raises(ZeroDivisionError, match="by hand"):
            Parallel(batch_size=1)(calls)
    assert Parallel()(delayed(square)(number) for number in range(4)) == [0, 1, 4, 9]


def test_a_timeout_stops_what_runs(with_joblib):
    with ProcessGate() as gate:
        with pytest.raises(multiprocessing.TimeoutError):
            Parallel(timeout=0.01)(delayed(wait_at)(gate) for _ in range(2))
    assert Parallel()(delayed(square)(number) for number in range(4)) == [0, 1, 4, 9]


def test_a_generator_that_is_closed_stops_what_runs(with_joblib):
    with ProcessGate() as gate:
        calls = [delayed(square)(2), delayed(wait_at)(gate)]
        results = Parallel(return_as="generator", batch_size=1, pre_dispatch="all")(calls)
        assert next(results) == 4
        gate.wait_started()
        with pytest.warns(UserWarning, match="have been cancelled"):
            results.close()
    assert Parallel()(delayed(square)(number) for number in range(4)) == [0, 1, 4, 9]


def test_a_worker_that_dies_costs_its_call_of_parallel(with_joblib):
    with pytest.raises(pyconc.WorkerDied):
        Parallel()([delayed(end_the_worker)(), delayed(square)(1)])
    assert Parallel()(delayed(square)(number) for number in range(4)) == [0, 1, 4, 9]


def nested():
    backend, _ = joblib.parallel.get_active_backend()
    return type(backend).__name__, Parallel(n_jobs=2)(delayed(square)(number) for number in range(3))


def test_what_is_nested_runs_in_threads(with_joblib):
    assert Parallel()(delayed(nested)() for _ in range(2)) == [("ThreadingBackend", [0, 1, 4])] * 2


def test_it_works_below_a_thread(with_joblib):
    async def main():
        with joblib.parallel_config(backend="pyconc", n_jobs=2):
            return await asyncio.to_thread(lambda: Parallel(backend="pyconc", n_jobs=2)([delayed(own_pid)()] * 2))

    assert os.getpid() not in asyncio.run(main())


def test_native_threads_are_limited_in_the_workers():
    try:
        with joblib.parallel_config(backend="pyconc", n_jobs=2, inner_max_num_threads=3):
            assert Parallel()(delayed(variable)("OMP_NUM_THREADS") for _ in range(4)) == ["3"] * 4
    finally:
        pyconc.joblib._shared.close()


def test_an_initializer_is_called():
    try:
        with joblib.parallel_config(
            backend="pyconc", n_jobs=2, initializer=SetVariable("x"), initargs=("PYCONC_TEST",)
        ):
            assert Parallel()(delayed(variable)("PYCONC_TEST") for _ in range(4)) == ["x"] * 4
    finally:
        pyconc.joblib._shared.close()


def test_numbers_of_jobs(with_joblib):
    backend = pyconc.joblib.PyconcBackend()
    count = backend.effective_n_jobs(-1)
    assert count >= 1
    assert [backend.effective_n_jobs(n) for n in (None, 1, 3, -1000)] == [1, 1, 3, 1]
    with pytest.raises(ValueError, match="n_jobs == 0"):
        backend.effective_n_jobs(0)
    assert Parallel(n_jobs=1)([delayed(own_pid)()]) == [os.getpid()]


def test_it_becomes_the_default(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import joblib, pyconc.joblib\n"
        "pyconc.joblib.install()\n"
        "if __name__ == '__main__':\n"
        "    backend, _ = joblib.parallel.get_active_backend()\n"
        "    print(type(backend).__name__, joblib.Parallel(2)(joblib.delayed(abs)(-n) for n in range(3)))\n"
    )
    assert run_script(script).stdout == "PyconcBackend [0, 1, 2]\n"
