"""CoroutinePool.map over sources that fail, or that belong to a thread."""

import asyncio
import sqlite3
import threading

import coroutines
import pytest

from pyconc import CoroutinePool


class LateError(Exception):
    pass


def raising(after):
    yield from range(after)
    raise LateError


async def raising_async(after):
    for number in range(after):
        yield number
        await asyncio.sleep(0)
    raise LateError


async def collect(results, values):
    async for value in results:
        values.append(value)


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("source", [raising, raising_async])
@pytest.mark.parametrize("buffersize", [1, 10, None])
def test_what_the_source_raises_comes_after_the_results_of_what_it_gave(source, ordered, buffersize):
    async def main():
        async with CoroutinePool(1) as pool:
            for after in (0, 1, 40):
                values = []
                results = pool.map(coroutines.double, source(after), ordered=ordered, buffersize=buffersize)
                with pytest.raises(LateError):
                    await collect(results, values)
                assert sorted(values) == [2 * number for number in range(after)]
            assert await pool.run(coroutines.double, 2) == 4

    asyncio.run(main())


@pytest.mark.parametrize("ordered", [True, False])
def test_what_is_no_exception_does_not_wait(ordered):
    class Interrupt(BaseException):
        pass

    def interrupted():
        yield from range(3)
        raise Interrupt

    async def main():
        async with CoroutinePool(1) as pool:
            values = []
            with pytest.raises(Interrupt):
                await collect(pool.map(coroutines.double, interrupted(), ordered=ordered), values)
            assert values == []

    asyncio.run(main())


@pytest.mark.parametrize("ordered", [True, False])
def test_a_source_that_belongs_to_its_thread(ordered):
    async def main():
        connection = sqlite3.connect(":memory:")  # refuses to be used in another thread
        readers = set()

        def source():
            for (number,) in connection.execute("values (1), (2), (3)"):
                readers.add(threading.get_ident())
                yield number

        async with CoroutinePool(1) as pool:
            values = []
            await collect(pool.map(coroutines.double, source(), ordered=ordered, buffersize=1), values)
        connection.close()
        assert sorted(values) == [2, 4, 6]
        assert readers == {threading.get_ident()}

    asyncio.run(main())
