"""Many files through aiofiles: a library that takes an executor= takes one of pyconc's.

Every read and write of aiofiles is a call in a thread, so small files cost mostly what the executor costs.
"""

import tempfile
import time
from pathlib import Path

from pyconc import asyncio
from pyconc.concurrent.futures import ThreadPoolExecutor

try:
    import aiofiles  # type: ignore[import-untyped,import-not-found,unused-ignore]
except ImportError:
    aiofiles = None  # type: ignore[assignment,unused-ignore]

FILES = 500


async def write(path: Path, text: str, executor: ThreadPoolExecutor) -> None:
    async with aiofiles.open(path, "w", executor=executor) as file:
        await file.write(text)


async def read(path: Path, executor: ThreadPoolExecutor) -> str:
    async with aiofiles.open(path, executor=executor) as file:
        text: str = await file.read()
        return text


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(4) as executor:
        texts = {Path(folder, f"{i}.txt"): f"This is file {i}.\n" for i in range(FILES)}
        started = time.perf_counter()
        await asyncio.gather(*[write(path, text, executor) for path, text in texts.items()])
        written = time.perf_counter()
        found = await asyncio.gather(*[read(path, executor) for path in texts])
        done = time.perf_counter()
    assert found == list(texts.values())
    size = sum(map(len, found))
    print(f"wrote {FILES} files in {written - started:.2f} s, read them in {done - written:.2f} s: {size} characters")


if __name__ == "__main__":
    if aiofiles is None:
        print("This example needs aiofiles: pip install aiofiles")
    else:
        asyncio.run(main())
