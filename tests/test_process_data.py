"""Large data between processes: copied once, private to its receiver, and given back with its last reference."""

import functools
import gc
import os
import pickle
import signal
import sys

import jobs
import pytest
from gates import ProcessGate, block_workers
from support import HANG_LIMIT, check_flat_memory, run_script, wait_until

import pyconc
from pyconc import WorkerDied, _core

numpy = pytest.importorskip("numpy")


@pytest.fixture(scope="module")
def pool():
    """Whoever uses it leaves its two workers as they are."""
    with pyconc.ProcessPoolExecutor(2) as pool, ProcessGate() as gate:
        futures = block_workers(pool, gate, 2)
        gate.open()
        pyconc.wait(futures)
        yield pool


def memory_behind(value):
    """What an array looks at in the end."""
    while (base := value.obj if isinstance(value, memoryview) else getattr(value, "base", None)) is not None:
        value = base
    return value


def held_bytes(pool):
    return pool._tasks.region.count()[1]


def make_array(size_bytes=1 << 20):
    return numpy.arange(size_bytes // 8, dtype=numpy.int64)


# --- One copy, and whose it is ----------------------------------------------------------------------------------------


def test_a_result_looks_at_shared_memory(pool):
    array = pool.submit(jobs.make_array, 1 << 20).result(HANG_LIMIT)
    assert isinstance(memory_behind(array), _core.Block)
    assert array.flags.writeable
    assert (array == make_array()).all()


def test_an_argument_looks_at_shared_memory(pool):
    kind, writable, total = pool.submit(jobs.describe_array, make_array()).result(HANG_LIMIT)
    assert kind == "pyconc._core.Block"
    assert writable
    assert total == make_array().sum()


def test_what_arrives_is_private(pool):
    ours = make_array()
    assert pool.submit(jobs.fill_array, ours, 7).result(HANG_LIMIT) == 7 * ours.size
    assert (ours == make_array()).all()
    with pyconc.ProcessPoolExecutor(1) as other:
        result = other.submit(jobs.keep_array, 1 << 20).result(HANG_LIMIT)
        result.fill(-1)
        assert other.submit(jobs.sum_of_kept).result(HANG_LIMIT) == make_array().sum()


def test_the_caller_may_change_an_array_once_it_is_submitted(pool):
    with ProcessGate() as gate:
        block_workers(pool, gate, 2)
        array = make_array()
        future = pool.submit(jobs.describe_array, array)
        array.fill(0)
        gate.open()
        assert future.result(HANG_LIMIT)[2] == make_array().sum()


def test_what_one_receives_can_be_sent_on(pool):
    array = make_array()
    for _ in range(5):
        array = pool.submit(jobs.identity, array).result(HANG_LIMIT)
    assert (array == make_array()).all()
    with pyconc.ProcessPoolExecutor(1) as other:
        assert other.submit(jobs.describe_array, array).result(HANG_LIMIT)[2] == make_array().sum()


def test_plain_buffers_arrive(pool):
    data = os.urandom(1 << 20)
    assert pool.submit(jobs.identity, data).result(HANG_LIMIT) == data
    assert pool.submit(jobs.identity, bytearray(data)).result(HANG_LIMIT) == bytearray(data)
    assert pool.submit(bytes, pickle.PickleBuffer(bytearray(data))).result(HANG_LIMIT) == data


# --- Shapes -----------------------------------------------------------------------------------------------------------

SQUARE = numpy.arange(90_000.0).reshape(300, 300) if numpy else None

ARRAYS = {
    "contiguous": lambda: SQUARE.copy(),
    "fortran": lambda: numpy.asfortranarray(SQUARE),
    "transposed": lambda: SQUARE.T,
    "every second": lambda: SQUARE[::2, ::3],
    "backwards": lambda: SQUARE[::-1],
    "broadcast": lambda: numpy.broadcast_to(SQUARE[0], (300, 300)),
    "empty": lambda: numpy.empty((0, 5)),
    "no dimension": lambda: numpy.array(3.5),
    "read-only": lambda: numpy.frombuffer(SQUARE.tobytes()),
    "structured": lambda: numpy.zeros(5000, dtype=[("a", "i4"), ("b", "f8", (3,))]),
    "strings": lambda: numpy.array(["one", "two"] * 5000),
    "dates": lambda: numpy.arange("2020-01", "2025-01", dtype="datetime64[D]"),
    "objects": lambda: numpy.array([None, {}, "x"] * 100, dtype=object),
    "small": lambda: numpy.arange(5),
    "big-endian": lambda: numpy.arange(100_000, dtype=">i8"),
}


@pytest.mark.parametrize("what", ARRAYS)
def test_arrays_of_every_kind_arrive_as_pickle_has_them(pool, what):
    array = ARRAYS[what]()
    result = pool.submit(jobs.identity, array).result(HANG_LIMIT)
    expected = pickle.loads(pickle.dumps(array, 5))
    assert result.dtype == array.dtype
    assert result.shape == array.shape
    assert (result == array).all()
    for order in ("C_CONTIGUOUS", "F_CONTIGUOUS"):
        assert result.flags[order] == expected.flags[order]


def test_an_open_file_is_refused_as_by_pickle(pool, tmp_path):
    """cloudpickle makes a copy of what is in a text file: what a task writes to that would be lost."""
    refused = functools.partial(pytest.raises, TypeError, match=r"^cannot pickle '(_io\.)?TextIOWrapper'")
    with open(tmp_path / "text", "w+") as file:
        with refused():
            pool.submit(abs, file).result()
        with pytest.raises((AttributeError, pickle.PicklingError), match="local object"):
            pool.submit(lambda: file.write("lost")).result()
    with refused():
        pool.submit(open, os.devnull).result()


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_standard_stream_is_the_workers_own(pool, name, monkeypatch, tmp_path):
    """As with cloudpickle: functions that travel by value have it among their globals."""
    with open(tmp_path / name, "w+") as stream:  # pytest's own is a stream of another kind
        monkeypatch.setattr(sys, name, stream)
        assert pool.submit(lambda: stream is getattr(sys, name)).result()


def test_several_buffers_of_one_call(pool):
    arrays = [numpy.full(size, size) for size in (0, 1, 1000, 0, 70_000, 3)]
    arrays.append(arrays[4])  # the same one twice
    results = pool.submit(jobs.identity, arrays).result(HANG_LIMIT)
    assert all((result == array).all() for result, array in zip(results, arrays))
    assert results[4] is results[6]
    results[4][0] = -1
    assert (results[2] == arrays[2]).all()
    keyed = pool.submit(jobs.keywords, one=arrays[2], two=SQUARE).result(HANG_LIMIT)
    assert (keyed["two"] == SQUARE).all()


def test_arrays_through_a_map(pool):
    arrays = [numpy.full(size, size) for size in range(0, 30_000, 1000)]
    for result, array in zip(pool.map(jobs.identity, arrays), arrays):
        assert (result == array).all()
    sums = list(pool.map(jobs.add_arrays, arrays, arrays))
    assert all((total == 2 * array).all() for total, array in zip(sums, arrays))


def test_what_was_received_is_aligned_for_vectors(pool):
    for size in (10_000, 70_000, 300_001):
        array = pool.submit(jobs.identity, numpy.ones(size)).result(HANG_LIMIT)
        assert array.ctypes.data % 64 == 0


# --- Blocks come back -------------------------------------------------------------------------------------------------


def test_a_block_comes_back_with_its_last_view(pool):
    array = pool.submit(jobs.identity, make_array()).result(HANG_LIMIT)
    view = array[10:20]
    del array
    gc.collect()
    pool.submit(jobs.identity, 1).result(HANG_LIMIT)
    assert view.tolist() == list(range(10, 20))
    del view
    # The argument's block is ours, and the worker's to give back.
    wait_until(lambda: held_bytes(pool) == 0, "the blocks to come back")


def test_arrays_outlive_their_executor():
    with pyconc.ProcessPoolExecutor(2) as pool:
        arrays = [future.result(HANG_LIMIT) for future in [pool.submit(jobs.make_array, 1 << 20) for _ in range(5)]]
    del pool
    gc.collect()
    for array in arrays:
        assert (array == make_array()).all()
        array += 1


def test_arrays_outlive_a_killed_worker():
    with pyconc.ProcessPoolExecutor(2) as pool:
        array = pool.submit(jobs.make_array, 1 << 20).result(HANG_LIMIT)
        killed = set(pool._processes)
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not killed & set(pool._processes), "the dead to be buried")
        # What the next worker has is other memory.
        others = [pool.submit(jobs.make_array, 1 << 20).result(HANG_LIMIT) for _ in range(10)]
        for other in others:
            other.fill(-1)
        assert (array == make_array()).all()


def test_blocks_of_a_killed_worker_come_back():
    with pyconc.ProcessPoolExecutor(2) as pool:
        with ProcessGate() as gate:
            for _ in range(3):
                before = set(pool._processes)
                futures = [pool.submit(gate, make_array()) for _ in range(2)]
                for pid in gate.wait_started(2):
                    os.kill(pid, signal.SIGKILL)
                assert all(isinstance(future.exception(HANG_LIMIT), WorkerDied) for future in futures)
                wait_until(lambda before=before: not before & set(pool._processes), "the dead to be buried")
        pool.submit(jobs.identity, 1).result(HANG_LIMIT)
        wait_until(lambda: held_bytes(pool) == 0, "the blocks to come back")


def test_blocks_of_tasks_that_never_run_come_back():
    pool = pyconc.ProcessPoolExecutor(1)
    with ProcessGate() as gate:
        block_workers(pool, gate)
        futures = [pool.submit(jobs.identity, make_array()) for _ in range(10)]
        assert held_bytes(pool) >= 10 << 20
        for future in futures[:5]:
            assert future.cancel()
        wait_until(lambda: held_bytes(pool) < 7 << 20, "the blocks of cancelled tasks to come back")
        pool.shutdown(wait=False, cancel_futures=True)
        wait_until(lambda: held_bytes(pool) == 0, "the blocks of the others to come back")
    pool.shutdown()


def test_blocks_of_results_that_nobody_takes_come_back(pool):
    futures = [pool.submit(jobs.identity, make_array()) for _ in range(10)]
    pyconc.wait(futures)
    del futures
    gc.collect()
    wait_until(lambda: held_bytes(pool) == 0, "the blocks to come back")


def test_an_array_that_a_task_keeps_stays_as_it_is():
    with pyconc.ProcessPoolExecutor(2) as pool:
        # The worker holds the block of an argument for as long as it likes, whatever is sent meanwhile.
        assert pool.submit(jobs.keep, make_array()).result(HANG_LIMIT) is None
        for _ in range(50):
            pool.submit(jobs.fill_array, make_array(), 0).result(HANG_LIMIT)
        sums = {pool.submit(jobs.sum_of_kept).result(HANG_LIMIT) for _ in range(20)}
        assert sums <= {None, make_array().sum()}
        assert held_bytes(pool) >= 1 << 20


def test_memory_is_flat_over_thousands_of_transfers(pool):
    array = make_array(256 << 10)

    def action():
        for _ in range(200):
            pool.submit(jobs.identity, array).result(HANG_LIMIT)

    check_flat_memory(action, rounds=10)
    committed, _ = pool._tasks.region.count()
    assert committed < 16 << 20


def test_transfers_of_all_sizes_settle():
    with pyconc.ProcessPoolExecutor(1) as pool:

        def action():
            for kilobytes in range(1, 2000, 73):
                result = pool.submit(jobs.identity, bytearray(kilobytes << 10)).result(HANG_LIMIT)
                assert len(result) == kilobytes << 10

        action()
        action()
        settled, _ = pool._tasks.region.count()
        for _ in range(3):
            action()
        assert pool._tasks.region.count()[0] <= settled


@pytest.mark.slow
def test_a_payload_of_300_megabytes(pool):
    array = make_array(300 << 20)
    result = pool.submit(jobs.identity, array).result(HANG_LIMIT)
    assert (result == array).all()
    del result
    wait_until(lambda: held_bytes(pool) == 0, "the blocks to come back")
    assert len(pool.submit(bytes, 300 << 20).result(HANG_LIMIT)) == 300 << 20


# --- At exit ----------------------------------------------------------------------------------------------------------


def test_arrays_at_exit_cause_no_complaint():
    finished = run_script(
        """
        import sys, numpy, pyconc
        pool = pyconc.ProcessPoolExecutor(2)
        sys.kept = pool.submit(numpy.arange, 1_000_000).result()
        array = pool.submit(numpy.arange, 1_000_000).result()
        pending = pool.submit(numpy.arange, 1_000_000)
        """,
        flags=("-X", "dev"),
    )
    assert finished.stderr == ""
