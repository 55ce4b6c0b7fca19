"""Thousands of small files, read through aiofiles, a hundred at once: each is three calls in a thread.

small_files.py FILES
"""

import asyncio
import sys
import tempfile
import time
from pathlib import Path

import aiofiles
import meter

AT_ONCE = 100


async def read(path, turn):
    async with turn, aiofiles.open(path) as file:
        return await file.read()


async def read_all(paths):
    turn = asyncio.Semaphore(AT_ONCE)
    return await asyncio.gather(*[read(path, turn) for path in paths])


async def main(files):
    with tempfile.TemporaryDirectory() as folder:
        texts = {Path(folder, f"{number}.txt"): f"This is file {number}.\n" * 50 for number in range(files)}
        for path, text in texts.items():
            path.write_text(text)
        await read_all(list(texts)[:AT_ONCE])
        started, before = time.perf_counter(), time.process_time()
        found = await read_all(texts)
        seconds, cpu = time.perf_counter() - started, time.process_time() - before
    assert found == list(texts.values())
    meter.say(time=seconds / files * 1e6, cpu=cpu / files * 1e6)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
