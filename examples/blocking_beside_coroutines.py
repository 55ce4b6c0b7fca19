"""Blocking calls beside coroutines: a heartbeat goes on while passwords are hashed.

A blocking call stops the event loop, and every coroutine with it.  In an executor's threads it stops nobody: hashlib
gives up the GIL while it works.
"""

import hashlib
import time

from pyconc import asyncio
from pyconc.concurrent.futures import ThreadPoolExecutor


def hash_password(password: str) -> str:
    return hashlib.pbkdf2_hmac("sha256", password.encode(), b"salt", 200_000).hex()


async def heartbeat(gaps: list[float]) -> None:
    """Notes how long it really takes to sleep for 5 ms."""
    while True:
        started = time.perf_counter()
        await asyncio.sleep(0.005)
        gaps.append(time.perf_counter() - started)


async def main() -> None:
    passwords = [f"password {i}" for i in range(6)]
    loop = asyncio.get_running_loop()

    async def on_the_loop() -> list[str]:
        hashes = []
        for password in passwords:
            hashes.append(hash_password(password))
            await asyncio.sleep(0)  # as friendly as a blocking call can be
        return hashes

    async def in_threads() -> list[str]:
        with ThreadPoolExecutor(2) as executor:
            return await asyncio.gather(*[loop.run_in_executor(executor, hash_password, p) for p in passwords])

    results = []
    for way in (on_the_loop, in_threads):
        gaps: list[float] = []
        beating = asyncio.create_task(heartbeat(gaps))
        await asyncio.sleep(0)
        started = time.perf_counter()
        results.append(await way())
        elapsed = time.perf_counter() - started
        beating.cancel()
        await asyncio.wait([beating])
        longest = max(gaps, default=elapsed) * 1000
        print(f"{way.__name__:12}: {len(passwords)} passwords in {elapsed:.2f} s, longest heartbeat {longest:.0f} ms")
    assert results[0] == results[1]


if __name__ == "__main__":
    asyncio.run(main())
