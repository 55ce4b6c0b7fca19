"""Work for all CPUs, handed out by a coroutine: processes compute, the event loop stays free.

Threads take turns with the interpreter; processes do not. The executor sends many short calls in one message and finds
out by itself how many that should be.
"""

import time

from pyconc import asyncio
from pyconc.concurrent.futures import ProcessPoolExecutor

LIMIT = 20_000


def is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


def count_primes(numbers: range) -> int:
    return sum(map(is_prime, numbers))


async def main() -> None:
    started = time.perf_counter()
    loop = asyncio.get_running_loop()
    with ProcessPoolExecutor(2) as executor:
        # A call for each part of the range, as run_in_executor makes it,
        parts = [range(first, first + 1000) for first in range(0, LIMIT, 1000)]
        counts = await asyncio.gather(*[loop.run_in_executor(executor, count_primes, part) for part in parts])
        # and a call for each number.
        primes = sum(executor.map(is_prime, range(LIMIT)))
    elapsed = time.perf_counter() - started

    assert sum(counts) == primes == 2262
    calls = f"{len(parts)} long calls and {LIMIT:,} short ones"
    print(f"{calls} in {elapsed * 1000:.0f} ms: {primes:,} primes")


if __name__ == "__main__":
    asyncio.run(main())
