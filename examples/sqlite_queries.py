"""sqlite3 from asyncio: every thread of a pool has a connection of its own.

sqlite3 wants a connection to be used by the thread that made it, so the pool's initializer makes one per thread.
"""

import random
import sqlite3
import tempfile
import threading
import time
from pathlib import Path

from pyconc import asyncio
from pyconc.concurrent.futures import ThreadPoolExecutor

CITIES = ["Bergen", "Kyoto", "Lima", "Nairobi", "Oslo", "Porto", "Quito", "Riga"]
QUERIES = 2000

local = threading.local()
connections: list[sqlite3.Connection] = []


def connect(path: Path) -> None:
    # What another thread does with it is only to close it.
    local.connection = sqlite3.connect(path, check_same_thread=False)
    connections.append(local.connection)


def query(sql: str, *parameters: object) -> list[tuple[str, float]]:
    return list(local.connection.execute(sql, parameters))


def create(path: Path) -> None:
    dice = random.Random(1)
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("CREATE TABLE weather (city TEXT, day INTEGER, celsius REAL, PRIMARY KEY (city, day))")
        days = ((city, day, dice.gauss(15, 8)) for city in CITIES for day in range(365))
        connection.executemany("INSERT INTO weather VALUES (?, ?, ?)", days)
    connection.close()


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "weather.sqlite")
        create(path)
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(2, initializer=connect, initargs=(path,)) as executor:
            started = time.perf_counter()
            sql = "SELECT city, celsius FROM weather WHERE city = ? AND day = ?"
            wanted = [(CITIES[i % len(CITIES)], i % 365) for i in range(QUERIES)]
            rows = await asyncio.gather(*[loop.run_in_executor(executor, query, sql, *key) for key in wanted])
            looked_up = time.perf_counter()
            sql = "SELECT city, avg(celsius) AS average FROM weather GROUP BY city ORDER BY average DESC LIMIT 1"
            [(city, average)] = await loop.run_in_executor(executor, query, sql)
        for connection in connections:
            connection.close()
    assert [row[0] for [row] in rows] == [city for city, _ in wanted]
    print(f"{QUERIES} look-ups in {looked_up - started:.2f} s; the warmest city is {city}, {average:.1f} degrees")


if __name__ == "__main__":
    asyncio.run(main())
