"""asyncio.to_thread: one blocking call in a thread, with the caller's context variables.

A request's id is set once, in the coroutine that serves it, and every thread that works for the request knows it.
"""

import contextvars
import time
import zlib

from pyconc import asyncio

REQUESTS = 300

request_id: contextvars.ContextVar[int] = contextvars.ContextVar("request_id")


def compress(page: bytes) -> tuple[int, bytes]:
    return request_id.get(), zlib.compress(page)


async def serve(number: int) -> bytes:
    request_id.set(number)
    page = f"This is the answer to request {number}. ".encode() * 200
    seen, compressed = await asyncio.to_thread(compress, page)
    assert seen == number
    assert zlib.decompress(compressed) == page
    return compressed


async def main() -> None:
    started = time.perf_counter()
    answers = await asyncio.gather(*[serve(number) for number in range(REQUESTS)])
    elapsed = time.perf_counter() - started
    size = sum(map(len, answers))
    print(f"{len(answers)} requests, {size} bytes of answers compressed in threads, in {elapsed:.2f} s")


if __name__ == "__main__":
    asyncio.run(main())
