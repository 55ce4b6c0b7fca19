"""A Keeper: while it lives, a closed queue takes chunks; whatever happens to its owner, it lets go in the end."""

import gc

import pytest

import pyconc
from pyconc import _core


def close(queue: _core.ProcessQueue) -> None:
    queue.close(RuntimeError, "closed")


def test_a_queue_that_is_kept_open_is_not_done():
    queue = _core.ProcessQueue(1)
    first, second = _core.Keeper(queue), _core.Keeper(queue)
    close(queue)
    assert not queue.is_done()
    first.release()
    assert not queue.is_done()
    second.release()
    assert queue.is_done()


def test_releasing_again_changes_nothing():
    queue = _core.ProcessQueue(1)
    first, second = _core.Keeper(queue), _core.Keeper(queue)
    close(queue)
    first.release()
    first.release()
    assert not queue.is_done()
    second.release()


def test_its_death_releases():
    queue = _core.ProcessQueue(1)
    keeper = _core.Keeper(queue)
    close(queue)
    del keeper
    assert queue.is_done()


def test_its_death_in_a_cycle_releases():
    queue = _core.ProcessQueue(1)
    cycle = [_core.Keeper(queue)]
    cycle.append(cycle)
    close(queue)
    del cycle
    gc.collect()
    assert queue.is_done()


def test_an_exception_that_passes_by_releases():
    queue = _core.ProcessQueue(1)

    def interrupted():
        keeper = _core.Keeper(queue)
        raise KeyboardInterrupt(str(keeper))

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    close(queue)
    assert queue.is_done()


def test_a_closed_queue_refuses_the_first_keeper_only():
    queue = _core.ProcessQueue(1)
    keeper = _core.Keeper(queue)
    close(queue)
    _core.Keeper(queue).release()
    assert not queue.is_done()
    keeper.release()
    with pytest.raises(RuntimeError, match="closed"):
        _core.Keeper(queue)
    assert queue.is_done()


def test_a_pool_that_is_kept_open_runs_chunks_after_shutdown():
    pool = pyconc.ProcessPoolExecutor(1)
    assert pool.submit(abs, -1).result() == 1
    keeper = _core.Keeper(pool._tasks)
    pool.shutdown(wait=False)
    chunk = pool._tasks.submit_chunk(abs, [-1, -2], False, True)
    assert chunk.result()[0] == ([1, 2], None)
    del keeper
    pool.shutdown()
