"""A list shared between threads: threads see the program's own objects, so nothing has to be sent or copied.

Coroutines hand work to threads; the threads append to one list, and the main thread finds everything in it.
list.append() is atomic; a change that takes more than one step needs a threading.Lock.
"""

import threading
import time

from pyconc import asyncio
from pyconc.concurrent.futures import ThreadPoolExecutor

ITEMS = 10_000


def append_some(shared: list[tuple[str, int]], items: range) -> None:
    for item in items:
        shared.append((threading.current_thread().name, item))


async def main() -> None:
    started = time.perf_counter()
    shared: list[tuple[str, int]] = []
    parts = [range(first, first + 10) for first in range(0, ITEMS, 10)]
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(2, thread_name_prefix="worker") as executor:
        await asyncio.gather(*[loop.run_in_executor(executor, append_some, shared, part) for part in parts])
    elapsed = time.perf_counter() - started

    names = sorted({name for name, _ in shared})
    assert sorted(item for _, item in shared) == list(range(ITEMS))
    print(f"{len(parts)} tasks in {elapsed * 1000:.0f} ms: {len(shared)} items in one list, from {', '.join(names)}")


if __name__ == "__main__":
    asyncio.run(main())
