"""A task closes all files, as code that makes daemons does, or opens another in their place: no call is lost."""

import os

import pytest
from gates import ProcessGate, block_workers
from support import HANG_LIMIT

from pyconc import CoroutinePool, ProcessPoolExecutor, WorkerDied


def close_all(value):
    os.closerange(3, 200)
    return value


def open_in_their_place(path):
    """Return how many files there are now that have the numbers of those that the worker had."""
    os.closerange(3, 200)
    return len([os.open(path, os.O_RDWR) for _ in range(40)])


async def close_all_in_a_loop(value):
    return close_all(value)


async def negative(number):
    return -number


def open_events_in_their_place(value):
    os.closerange(3, 200)
    for _ in range(40):
        os.eventfd(0)
    return value


def outcome_of(future, died):
    try:
        return future.result(HANG_LIMIT)
    except WorkerDied:
        return died


@pytest.mark.parametrize("workers", [1, 2])
def test_a_result_arrives_from_a_worker_that_has_closed_its_files(workers):
    with ProcessPoolExecutor(workers) as pool:
        for number in range(5):
            assert pool.submit(close_all, number).result(HANG_LIMIT) == number
        assert list(pool.map(abs, range(-50, 0))) == list(range(50, 0, -1))


@pytest.mark.skipif(not hasattr(os, "eventfd"), reason="this build of Python has no os.eventfd()")
def test_a_result_arrives_from_a_worker_that_has_opened_event_files_in_place_of_its_own():
    with ProcessPoolExecutor(1) as pool:
        for number in range(5):
            assert pool.submit(open_events_in_their_place, number).result(HANG_LIMIT) == number


def test_a_file_in_the_place_of_the_workers_is_left_alone(tmp_path):
    path = tmp_path / "mine"
    path.write_bytes(b"sixteen bytes...")
    with ProcessPoolExecutor(1) as pool:
        for _ in range(5):
            assert pool.submit(open_in_their_place, str(path)).result(HANG_LIMIT) == 40
        assert pool.submit(abs, -1).result(HANG_LIMIT) == 1
    assert path.read_bytes() == b"sixteen bytes..."


def test_coroutines_go_on_after_one_has_closed_all_files():
    with CoroutinePool(2) as pool:
        for number in range(4):
            assert outcome_of(pool.submit(close_all_in_a_loop, number), number) == number
            outcomes = [outcome_of(pool.submit(negative, n), -n) for n in range(10)]
            assert outcomes == [-n for n in range(10)]


def test_a_worker_that_has_closed_its_files_ends_alone():
    with ProcessPoolExecutor(2) as pool, ProcessGate() as gate:
        (other,) = block_workers(pool, gate, 1)
        for number in range(3):
            assert pool.submit(close_all, number).result(HANG_LIMIT) == number
        assert pool.submit(abs, -1).result(HANG_LIMIT) == 1
        gate.open()
        other.result(HANG_LIMIT)
