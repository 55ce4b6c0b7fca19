"""A Keeper: while it lives, a closed queue takes calls; whatever happens to its owner, it lets go in the end."""

import asyncio
import gc

import coroutines
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


def test_a_pool_that_is_kept_open_makes_calls_after_shutdown():
    async def main():
        pool = pyconc.CoroutinePool(1)
        worker = await pool.run(coroutines.identify_worker)
        keeper = _core.Keeper(pool._tasks)
        pool.shutdown(wait=False)
        with pytest.raises(RuntimeError, match="after shutdown"):
            pool.submit(coroutines.identity, 1)
        call = pool._tasks.submit_to_worker(*worker, asyncio.get_running_loop(), coroutines.identity, 1)
        assert await call == 1
        del keeper
        await asyncio.to_thread(pool.shutdown)
        with pytest.raises(RuntimeError, match="after shutdown"):
            pool._tasks.submit_to_worker(*worker, asyncio.get_running_loop(), coroutines.identity, 1)

    asyncio.run(main())
