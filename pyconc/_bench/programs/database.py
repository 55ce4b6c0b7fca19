"""Look-ups in sqlite through asyncio.to_thread(): twenty tasks at once, each with one look-up after the other.

    database.py QUERIES

web_server.py answers from the same database.
"""

import asyncio
import contextlib
import sqlite3
import sys
import tempfile
import threading
import time
from pathlib import Path

import meter

TASKS = 20
ROWS = 10_000


class Database:
    """A table of numbered texts; each thread has a connection of its own, as sqlite3 wants."""

    def __init__(self, path):
        self._path = path
        self._local = threading.local()
        self._connections = []
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("CREATE TABLE texts (number INTEGER PRIMARY KEY, text TEXT)")
            connection.executemany(
                "INSERT INTO texts VALUES (?, ?)", ((number, f"text {number}") for number in range(ROWS))
            )

    def look_up(self, number):
        if not hasattr(self._local, "connection"):
            self._local.connection = sqlite3.connect(self._path, check_same_thread=False)
            self._connections.append(self._local.connection)
        [(text,)] = self._local.connection.execute("SELECT text FROM texts WHERE number = ?", (number % ROWS,))
        return text

    def close(self):
        """Once no thread looks anything up any more."""
        for connection in self._connections:
            connection.close()


@contextlib.contextmanager
def open_database():
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(Database(Path(folder, "texts"))) as database:
        yield database


async def look_up_all(database, numbers):
    async def some(numbers):
        return [await asyncio.to_thread(database.look_up, number) for number in numbers]

    await asyncio.gather(*[some(numbers[first::TASKS]) for first in range(TASKS)])


async def main(database, queries):
    await look_up_all(database, range(max(TASKS, queries // 10)))
    started, before = time.perf_counter(), time.process_time()
    await look_up_all(database, range(queries))
    seconds, cpu = time.perf_counter() - started, time.process_time() - before
    meter.say(time=seconds / queries * 1e6, cpu=cpu / queries * 1e6)


if __name__ == "__main__":
    with open_database() as database:
        asyncio.run(main(database, int(sys.argv[1])))
