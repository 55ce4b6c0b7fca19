"""joblib's backend: in a process of its own, since joblib changes multiprocessing's semaphores for good."""

import asyncio
import multiprocessing
import os
import signal

import joblib
import pytest
from gates import ProcessGate
from support import run_script

import pyconc
import pyconc.joblib
from pyconc.shared import _memory

Parallel, delayed = joblib.Parallel, joblib.delayed


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


def test_the_module_lists_its_names():
    assert pyconc.joblib.__doc__
    assert pyconc.joblib.__all__ == ["PyconcBackend", "install"]
    assert pyconc.joblib.install.__doc__


def test_a_list_of_numbers_of_native_threads_is_understood(with_joblib, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "4,2")
    assert Parallel()(delayed(variable)("OMP_NUM_THREADS") for _ in range(4)) == ["4,2"] * 4


@pytest.mark.usefixtures("with_joblib")
def test_calls_of_a_batch_that_take_long_are_not_all_one_workers():
    with ProcessGate() as gate:
        calls = [delayed(wait_at)(gate) if number in (0, 15) else delayed(square)(number) for number in range(16)]
        results = Parallel(batch_size=16, return_as="generator")(calls)
        assert len({*gate.wait_started(2)}) == 2
        gate.open()
        assert [*results] == [None, *(number * number for number in range(1, 15)), None]


@pytest.mark.usefixtures("with_joblib")
def test_a_batch_raises_what_one_of_its_calls_does_while_others_run():
    with ProcessGate() as gate:
        calls = [delayed(wait_at)(gate), *[delayed(square)(2)] * 14, delayed(fail)(KeyError("mine"))]
        with pytest.raises(KeyError, match="mine"):
            Parallel(batch_size=16)(calls)


# --- Arrays -----------------------------------------------------------------------------------------------------------

numpy = pytest.importorskip("numpy")
LARGE = 1 << 18  # of 8 bytes each


def look(*values, **more):
    """Returns of each array its sum, and whether this process may write to it."""
    found = [*values, *more.values()]
    arrays = [array for value in found for array in (value if type(value) in (list, tuple) else [value])]
    return [(float(array.sum()), array.flags.writeable) for array in arrays]


def write(array, place, number):
    array[place] = number


@pytest.fixture
def shared_arrays(monkeypatch):
    """How often an array was laid into shared memory."""
    laid = []
    share = pyconc.joblib.share
    monkeypatch.setattr(pyconc.joblib, "share", lambda array: laid.append(array.nbytes) or share(array))
    return laid


def test_a_large_array_lies_in_memory_once_for_all_calls(with_joblib, shared_arrays):
    large = numpy.ones(LARGE)
    by_columns = numpy.ones((8, LARGE // 8), order="F")
    calls = [delayed(look)(large, [large], {"in": 1}.get("out", large), of=(by_columns, large)) for _ in range(10)]
    assert Parallel()(calls) == [[(LARGE, False)] * 5] * 10
    assert sorted(shared_arrays) == [8 * LARGE] * 2
    large[0] = 2  # what a call sees that comes later
    assert Parallel()([delayed(lambda array: float(array.sum()))(large) for _ in range(2)]) == [LARGE + 1] * 2
    assert len(shared_arrays) == 3
    with pytest.raises(ValueError, match="read-only"):
        Parallel()([delayed(write)(large, 0, 3) for _ in range(2)])


def test_arrays_are_copies_where_they_are_small_or_the_program_says_so(with_joblib, shared_arrays):
    large, small = numpy.ones(LARGE), numpy.ones(10)
    every_other = numpy.ones(2 * LARGE)[::2]
    objects = numpy.full(LARGE, 1, dtype=object)
    for options, arrays in (
        ({}, (small, every_other, objects)),
        ({"max_nbytes": None}, (large,)),
        ({"max_nbytes": "10M"}, (large,)),
        ({"mmap_mode": "c"}, (large,)),
    ):
        found = Parallel(**options)([delayed(look)(*arrays) for _ in range(2)])
        assert found == [[(array.sum(), True) for array in arrays]] * 2, options
    assert shared_arrays == []
    assert Parallel(max_nbytes=80)([delayed(look)(small) for _ in range(2)]) == [[(10.0, False)]] * 2


def test_an_array_takes_memory_for_as_long_as_it_is_there(with_joblib):
    """Of many that come one after the other, few are there at once."""
    seen = []

    def arrays():
        for number in range(40):
            seen.append(os.fstat(_memory.heap().fileno()).st_blocks * 512)
            yield delayed(look)(numpy.full(LARGE, number))

    assert [found[0] for found in Parallel(batch_size=1)(arrays())] == [(number * LARGE, False) for number in range(40)]
    assert max(seen) - seen[0] < 20 * 8 * LARGE


def test_calls_write_to_a_memmap_of_the_programs(with_joblib, tmp_path, shared_arrays):
    mapped = numpy.memmap(tmp_path / "results", dtype=float, mode="w+", shape=(2, 10))
    Parallel()(delayed(write)(mapped, (0, place), place) for place in range(10))
    Parallel()(delayed(write)(mapped[1], place, -place) for place in range(10))
    assert mapped.tolist() == [[*range(10)], [-place for place in range(10)]]
    assert shared_arrays == []
